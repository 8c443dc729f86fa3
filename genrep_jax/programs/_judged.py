"""Images and views of a run's generator, rendered to be judged.

Their anchors are others than those that are trained on.
"""

import functools

import jax
import jax.numpy as jnp

from genrep_jax.lib import contracts, plugins, rng


def offered(run) -> dict:
  """Returns the `generate` and `views` of a Model; {} without a generator.

  Args:
    run: a genrep_jax.run.Run.
  """
  if run.source.generator is None:
    return {}
  return {
    "generate": functools.partial(_generate, run),
    "views": functools.partial(_views, run),
    "sigma_varies": "sigma" in run.config.views.latent,
  }


def variables(state, frozen) -> dict:
  """Returns what they read, beside the encoder's variables."""
  if "generator" not in frozen:
    return {}
  return {"generator": frozen["generator"], "views": state.views}


def _sample(run, weights, stream, index):
  """Returns (latents [n latent_dim], y [n])."""
  generator = run.source.generator
  keys = rng.per_index(rng.stream(run.seed, stream), index)
  z, y = jax.vmap(generator.sample)(keys)
  return generator.latents(weights, z, y), y


def _generate(run, variables, index):
  weights = variables["generator"]
  latents, y = _sample(run, weights, "generate", index)
  images = run.source.generator.apply(weights, latents, y)
  return images.astype(jnp.float32), y


def _views(
  run, variables, index, count, *, latent=True, pixel=True, sigma=None
):
  weights = variables["generator"]
  anchors, y = _sample(run, weights, "judged", index)
  numbers = jnp.arange(count, dtype=jnp.uint32)

  def each(function, stream, index, x):
    """Applies (key, x of one view, index) to [n q ...]."""
    key = rng.stream(run.seed, stream)
    over = jax.vmap(
      lambda i, view, x: function(rng.view_key(key, i, view), x), (None, 0, 0)
    )
    return jax.vmap(over, (0, None, 0))(index, numbers, x)

  latents = jnp.broadcast_to(
    anchors[:, None], (len(anchors), count, anchors.shape[-1])
  )
  if latent:
    move = _latent_view(run, variables, sigma)
    classes = jnp.broadcast_to(y[:, None], latents.shape[:2])
    latents = each(
      lambda key, zy: move(key, *zy), "judged_latent", index, (latents, classes)
    )
    images = _render(run, weights, latents, y)
  else:
    images = _render(run, weights, latents[:, :1], y)
    images = jnp.broadcast_to(images, (len(images), count, *images.shape[2:]))
  if pixel:
    view = run.pixel_views.views[0]
    mean, std = (jnp.asarray(x, jnp.float32) for x in run.normalization)
    shown = each(view, "judged_pixel", index, images)
    images = (shown * std + mean) * 2 - 1
  return contracts.Judged(images, latents, y)


def _render(run, weights, latents, y):
  n, q, _ = latents.shape
  images = run.source.generator.apply(
    weights, latents.reshape(n * q, -1), jnp.repeat(y, q)
  )
  return images.reshape(n, q, *images.shape[1:]).astype(jnp.float32)


def _latent_view(run, variables, sigma):
  """Returns T_z: (key, latent, y) -> latent, perhaps with another sigma."""
  if sigma is None:
    view = run.latent_view
  else:
    entry = run.config.views.latent.copy_and_resolve_references()
    with entry.unlocked():
      entry.sigma = float(sigma)
    view = plugins.make("views/latent", entry, run.source.generator)
  if isinstance(view, contracts.LearnedView):
    params = variables["views"].get("params", {})
    return functools.partial(view.apply, params)
  return view
