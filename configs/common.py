"""What every experiment has in common: all top-level keys, with their meaning.

A config names plug-ins (`generator.name`, `encoder.name`, ...) and states only
the options it changes: the rest are the plug-in's own defaults, filled in when
the config is loaded and printed at start.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
  """Returns the defaults: SimCLR on a generator's views, nothing named yet."""
  c = ml_collections.ConfigDict()
  c.job = "train"  # train | evaluate | compile_only | game | steer | study
  c.title = ""  # the run's row in the report; empty: the config's file name
  c.seed = 0
  c.precision = "float32"  # or bfloat16: compute of generator and encoder
  c.global_batch = 256  # b: anchors per step, over all devices
  c.total_steps = 0  # exactly one of the three is positive
  c.total_epochs = 0.0  # of data.train (array, mix) or sampler.num_anchors
  c.total_examples = 0  # anchors
  c.steps_per_call = 1  # steps scanned inside one call of the program
  c.stop_at_step = 0  # save and stop there, as if preempted; 0: never
  c.cpu_devices = 0  # XLA devices a CPU counts as; 0: as XLA_FLAGS say, or 1
  c.compilation_cache = "user"  # user | workdir | off | a folder

  c.generator = ml_collections.ConfigDict({"name": ""})
  c.sampler = ml_collections.ConfigDict(
    {
      "num_anchors": 0,  # 0: endless; N: a virtual data set of N anchors
      "file": "",  # .npz of z and y (tools/render) instead of drawing them
    }
  )
  c.source = ml_collections.ConfigDict(
    {
      "name": "generator",  # generator | array | mix
      "mix_ratio": 0.5,  # mix: probability that an anchor is a real image
    }
  )
  c.views = ml_collections.ConfigDict(
    {
      "num_views": 2,  # v
      "anchor_first": True,  # view 0 is the anchor; False: T_z on all views
      "num_neighbors": 0,  # T_z's pool per anchor; 0: new ones at every visit
      "rendering_of": (),  # rendering that each view shows, e.g. multi-crop's
      # (0, 1, 0, 0, 1, 1); (): each view its own
      "pixel_on": (),  # views that get T_x, e.g. (1,); (): all
      "latent": {"name": "gaussian"},  # T_z
      "pixel": {"name": "genrep"},  # T_x
    }
  )
  c.encoder = ml_collections.ConfigDict({"name": "small"})
  c.objective = ml_collections.ConfigDict({"name": "simclr"})
  c.optimizer = ml_collections.ConfigDict({"name": "sgd"})
  c.schedule = ml_collections.ConfigDict({"name": "cosine"})
  c.ema_decay = 0.0  # of the averaged weights, an objective's target; 0: none
  c.ema_final_decay = -1.0  # reached along half a cosine; negative: constant
  c.evaluate_ema = True  # evaluate the averaged weights, if there are any

  c.data = ml_collections.ConfigDict({"name": "fashion_mnist_mini"})
  c.evaluations = ml_collections.ConfigDict()
  c.evaluate_every_steps = 0  # 0: only at the end
  c.log_every_steps = 50
  c.writers = ml_collections.ConfigDict(
    {"tensorboard": True, "wandb": False, "wandb_project": "genrep_jax"}
  )
  c.checkpoint = ml_collections.ConfigDict({"every_steps": 1000, "keep": 2})
  c.report = ml_collections.ConfigDict(
    {
      "floors": True,  # evaluate raw pixels and the untrained encoder too
      "recorded": "",  # table of recorded rows to print beside this run's
    }
  )
  c.study = ml_collections.ConfigDict(
    {
      "base": "",  # job study: the experiment that every row varies
      "rows": (),  # ((name, ("key=value", ...)), ...)
      "seeds": (0,),
      "parallel": 1,  # runs at a time, each on its share of the cores
      # The plot's lines, ((line, ((x, name of a row), ...)), ...); (): a dot
      # for every row, but for `levels`, rows drawn as lines of reference.
      "curves": (),
      "levels": (),
      "x_label": "",
      "log_x": False,
    }
  )
  c.distributed = ml_collections.ConfigDict(
    {
      "mode": "auto",  # auto | on | off: call jax.distributed.initialize?
      "coordinator": "",  # host:port; empty: found by JAX (TPU, SLURM, GKE)
      "num_processes": 0,
      "process_id": -1,
    }
  )
  return _locked(c)


def _locked(c, *more):
  c.lock()  # a misspelt key in an experiment's file is an error...
  for room in (
    c.generator,
    c.views.latent,
    c.views.pixel,
    c.encoder,
    c.objective,
    c.optimizer,
    c.schedule,
    c.data,
    c.evaluations,
    *more,
  ):
    room.unlock()  # ... and a plug-in's options are checked when it is known
  return c


# The generator of the package.
EMBEDDED = {
  "name": "small",
  "weights": "asset:fashion_mnist_unconditional.safetensors",
  "sha256": "0b8ca9a6662b147ecdf2e5de6d86694173f242a28ba0c2f76e8934d5cc814909",
}


def get_steering(title: str) -> ml_collections.ConfigDict:
  """Returns the base config of job=steer: walks, and no encoder to train."""
  c = get_config()
  c.job = "steer"
  c.title = title
  # Nothing is trained on images here: these rooms stay empty.
  for entry in (c.views.latent, c.views.pixel, c.encoder, c.objective, c.data):
    entry.name = ""
  c.unlock()
  c.steering = ml_collections.ConfigDict({"name": "walks"})
  return _locked(c, c.steering)


# What the rows of a small study share: the quick start's updates cut to a
# third, and one core for a run, so that two cores take two runs at a time.
STUDY_BUDGET = (
  "total_steps=400",
  "evaluate_every_steps=0",
  "cpu_devices=1",
)

# Overrides that several studies need.
NO_PIXEL_VIEW = (
  "views.pixel.name=none",
  "views.pixel.mean=(0.5,)",
  "views.pixel.std=(0.5,)",
)
CONDITIONAL = (
  "generator.num_classes=10",
  "generator.weights=asset:fashion_mnist_conditional.safetensors",
  "generator.sha256="
  "0966e8c24760b23e79a6ba53c93c6c339b16eba2fc9086fc5ff96ba7d2655df5",
)


def get_study(title: str, rows, **options) -> ml_collections.ConfigDict:
  """Returns a study of the quick start within STUDY_BUDGET, three seeds.

  Args:
    title: name of the study.
    rows: ((name, overrides of the quick start), ...).
    **options: of `study`: curves, levels, x_label, log_x.
  """
  c = get_config()
  c.job = "study"
  c.title = title
  c.study.base = "configs/quickstart.py"
  c.study.rows = tuple((name, (*STUDY_BUDGET, *row)) for name, row in rows)
  c.study.seeds = (0, 1, 2)
  c.study.parallel = 2
  c.study.update(options)
  return c
