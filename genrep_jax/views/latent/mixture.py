"""A mixture of latent views: every draw takes one of them, by weight.

  c.views.latent = {"name": "mixture", "views": {
    "near": {"name": "gaussian", "sigma": 0.1, "weight": 3.0},
    "far": {"name": "gaussian", "sigma": 0.5},
    "angular": {},
  }}

An entry is called as its view is, or has a `name` of its own; its weight is 1
unless it says otherwise. Mixtures and group-wise views can be entries, too.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

from genrep_jax.lib import contracts, errors
from genrep_jax.views.latent import _options


def default_config() -> dict:
  """Returns the options: no views yet."""
  return {"name": "mixture", "views": {}}


def complete(cfg, path: str = "views.latent") -> None:
  """Fills in every entry's name, weight and defaults, in place.

  Args:
    cfg: an unlocked config of this view.
    path: its key in the config, for messages.

  Raises:
    UsageError: an unknown view, or an option that it does not have.
  """
  for label in cfg.views:
    cfg.views[label] = _completed(cfg.views[label], label, path)


def make(cfg, generator: contracts.Generator) -> contracts.LatentView:
  """Makes z' = view_i(z), where i has the probability weight_i / sum(weights).

  i is drawn from fold_in(key, 0), and its view gets fold_in(key, 1): a mixture
  of one view is that view under fold_in(key, 1), bit for bit. Entries are in
  the order of their labels, whatever the config's. Under `vmap` all views are
  computed and one is kept: they are cheap beside the rendering.

  Args:
    cfg: options as in `default_config`.
    generator: handed to every view.

  Returns:
    (key, z [latent_dim], y) -> z' [latent_dim].

  Raises:
    UsageError: no views, a negative or infinite weight, all weights zero, or
      what a view refuses.
  """
  if not cfg.views:
    raise errors.UsageError("views.latent.views: empty; name a latent view")
  entries = {
    label: _completed(cfg.views[label], label) for label in sorted(cfg.views)
  }
  edges = _edges({label: entry.weight for label, entry in entries.items()})
  views = []
  for entry in entries.values():
    del entry.weight  # the mixture's, not the view's
    views.append(_options.make_inner(entry, generator))

  def view(key, z, y):
    u = jax.random.uniform(jax.random.fold_in(key, 0))
    # `edges` end at 1 and u is below: an entry of weight zero is never drawn.
    choice = jnp.sum(u >= edges[:-1])
    own = jax.random.fold_in(key, 1)
    return jax.lax.switch(choice, views, own, z, y)

  return view


def _completed(entry, label, path="views.latent"):
  path = f"{path}.views.{label}"
  return _options.completed(entry, path, name=label, weight=1.0)


def _edges(weights):
  """Returns the cumulated probabilities, float32 [number of views]."""
  for label, weight in weights.items():
    if not (weight >= 0 and math.isfinite(weight)):
      raise errors.UsageError(
        f"views.latent.views.{label}.weight: {weight} is not >= 0"
      )
  largest = max(weights.values())
  if not largest:
    raise errors.UsageError(
      f"views.latent.views: the weights of {', '.join(weights)} sum to zero"
    )
  total = np.cumsum([weight / largest for weight in weights.values()])
  return np.float32(total / total[-1])
