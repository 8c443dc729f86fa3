"""GenRep, unconditional: SimCLR on BigBiGAN, Gaussian T_z and T_x.

Command:  python -m genrep_jax.main --config configs/imagenet/bigbigan.py \
            --workdir runs/imagenet_bigbigan --config.data.data_dir=DIR
          DIR holds ImageNet's train/ and val/, a folder for each class.
Weights:  bigbigan.safetensors: docs/generators.md says where from and how to
          convert them. With --config.generator.weights= they are random.
Hardware: a TPU v5e-8 or one large GPU; never run to its end by us.
Time:     about 1 h on a v5e-8, from compile_for's operations at 40 % of
          the peak; not measured.
Expected: the paper's table is not available to us. A user quotes 35.60 % linear
          top-1 for one row of BigBiGAN and could not reproduce it
          (github.com/ali-design/GenRep/issues/10).
"""

from configs import common


def get_config():
  """The settings of GenRep's ImageNet-1k runs."""
  c = common.get_config()
  c.title = "GenRep BigBiGAN, T_z + T_x"
  c.precision = "bfloat16"  # GenRep: float32
  c.global_batch = 256
  c.total_examples = 26_000_000  # 20 epochs of 1.3 M anchors
  c.generator.name = "bigbigan"
  c.generator.weights = "bigbigan.safetensors"
  c.views.latent.name = "gaussian"
  c.views.latent.sigma = 0.2
  c.views.latent.truncation = 2.0
  c.views.pixel.name = "genrep"
  c.views.pixel.crop_px = 112
  c.encoder.name = "resnet"
  c.encoder.depth = 50
  c.objective.name = "simclr"
  c.objective.temperature = 0.1
  c.optimizer.name = "sgd"
  c.optimizer.learning_rate = 0.03
  # GenRep's linear probe: Resize(128), CenterCrop(112).
  c.data.name = "folder"
  c.data.image_px = 112
  c.data.resize_px = 128
  c.evaluations.linear_sgd = {"name": "linear_sgd"}
  c.evaluations.knn = {"name": "knn"}
  c.log_every_steps = 100
  c.checkpoint.every_steps = 5000
  c.evaluate_every_steps = 0
  return c
