"""Navigator: a small network says where each anchor's positive lies.

COP-Gen (Li et al., NeurIPS 2022): z' = z + MLP(z), two layers and a ReLU,
trained to MAXIMISE the contrastive loss through the generator and T_x, while an
encoder minimises it. Here both are one step: the encoder that is trained is the
opponent. COP-Gen itself plays against a small encoder, stops by eye, and then
trains another encoder on the navigator as it is; that is two runs:

  1. views.latent.name = "navigator", a small encoder; the run leaves
     latent_view.safetensors in its workdir;
  2. views.latent = {"name": "navigator", "file": that file}, any encoder.

Nothing holds z' near z but the opponent; `sigma` bounds |z' - z|.
"""

import math

import jax
import jax.numpy as jnp
import optax

from genrep_jax.lib import contracts, options, weights
from genrep_jax.views import vectors
from genrep_jax.views.latent import _shared

OPTIONS = {  # width, rate and b1 are COP-Gen's
  "hidden": options.integer(
    0, "width of the hidden layer; 0: latent_dim", low=0, high=65536
  ),
  "sigma": options.number(
    0.0,
    "bound of |z' - z| / sqrt(latent_dim); 0: none, as COP-Gen",
    low=0,
    high=1e3,
  ),
  "learning_rate": options.number(
    3e-5, "of Adam, which climbs", above=0, high=1e3
  ),
  "b1": options.number(0.5, "of Adam", low=0, below=1),
  "b2": options.number(0.999, "of Adam", low=0, below=1),
  "file": options.text("", "a trained navigator, used as it is"),
  "sha256": contracts.ROOMS["encoders"].shared["sha256"],
}


def make(cfg, generator: contracts.Generator):
  """Makes the view.

  Args:
    cfg: the options.
    generator: its latent_dim is the network's width.

  Returns:
    A LearnedView, or, with a file, the LatentView that it is by now. Weights
    start as PyTorch's nn.Linear does.

  Raises:
    UsageError: a file that does not fit, or of another generator.
  """
  dim = generator.latent_dim
  radius = float(cfg.sigma) * math.sqrt(dim)
  widths = (dim, cfg.hidden or dim, dim)

  def init(key):
    params = {}
    for i, (fan_in, fan_out) in enumerate(
      zip(widths[:-1], widths[1:], strict=True)
    ):
      for j, (name, shape) in enumerate(
        (("kernel", (fan_in, fan_out)), ("bias", (fan_out,)))
      ):
        draw = jax.random.uniform(
          jax.random.fold_in(key, 2 * i + j), shape, minval=-1.0, maxval=1.0
        )
        params.setdefault(f"linear{i}", {})[name] = draw / math.sqrt(fan_in)
    return params

  def apply(params, key, z, y):
    del key, y
    x = z.astype(jnp.float32)
    x = jax.nn.relu(_linear(params["linear0"], x))
    w = _linear(params["linear1"], x)
    if radius:
      w = vectors.into_ball(w, radius)
    return z + w.astype(z.dtype)

  if cfg.file:
    made = _shared.read(cfg.file).get("generator_sha256", "unknown")
    _shared.check_generator(cfg.file, made, generator)
    expected = jax.eval_shape(init, jax.random.key(0))
    params = weights.load(cfg.file, cfg.sha256, expected)
    return lambda key, z, y: apply(params, key, z, y)
  return contracts.LearnedView(
    init=init,
    apply=apply,
    optimizer=optax.adam(cfg.learning_rate, b1=cfg.b1, b2=cfg.b2),
  )


def _linear(params, x):
  # Float32 throughout: latents of a view must not depend on the accelerator.
  product = jnp.matmul(x, params["kernel"], precision=jax.lax.Precision.HIGHEST)
  return product + params["bias"]
