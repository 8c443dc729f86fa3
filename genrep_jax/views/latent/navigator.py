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

from genrep_jax.lib import contracts, weights
from genrep_jax.views.latent import _options, _vectors

_VIEW = "navigator"


def default_config() -> dict:
  """Returns the options; width, rate and b1 are COP-Gen's."""
  return {
    "name": _VIEW,
    "hidden": 0,  # width of the hidden layer; 0: latent_dim
    "sigma": 0.0,  # bound of |z' - z| / sqrt(latent_dim); 0: none, as COP-Gen
    "learning_rate": 3e-5,  # of Adam, which climbs
    "b1": 0.5,
    "b2": 0.999,
    "file": "",  # a trained navigator, used as it is
    "sha256": "",  # that the file must have; "" pins nothing
  }


def check_weights(cfg, generator_weights: str) -> None:
  """Refuses a navigator of another generator.

  Args:
    cfg: options as in `default_config`.
    generator_weights: the run's `generator.weights`.

  Raises:
    UsageError: the sha256 of that file is not the navigator's generator's.
  """
  if cfg.file:
    made = weights.read_metadata(cfg.file)
    _options.check_generator(
      "views.latent.file",
      cfg.file,
      made.get("generator_sha256", "unknown"),
      generator_weights,
    )


def make(cfg, generator: contracts.Generator):
  """Makes the view.

  Args:
    cfg: options as in `default_config`.
    generator: its latent_dim is the network's width.

  Returns:
    A LearnedView, or, with a file, the LatentView that it is by now. Weights
    start as PyTorch's nn.Linear does.

  Raises:
    UsageError: an option out of range, or a file that does not fit.
  """
  dim = generator.latent_dim
  radius = _options.non_negative(_VIEW, cfg, "sigma") * math.sqrt(dim)
  if not (cfg.learning_rate > 0 and math.isfinite(cfg.learning_rate)):
    _options.refuse(_VIEW, "learning_rate", cfg.learning_rate, "above 0")
  for key in ("b1", "b2"):
    if not 0 <= cfg[key] < 1:
      _options.refuse(_VIEW, key, cfg[key], f"0 <= {key} < 1")
  if int(cfg.hidden) != cfg.hidden or cfg.hidden < 0:
    _options.refuse(_VIEW, "hidden", cfg.hidden, "0 (latent_dim), 1, 2, ...")
  widths = (dim, int(cfg.hidden) or dim, dim)

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
      w = _vectors.into_ball(w, radius)
    return z + w.astype(z.dtype)

  if cfg.file:
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
