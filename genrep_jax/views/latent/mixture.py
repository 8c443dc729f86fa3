"""A mixture of latent views: every draw takes one of them, by weight.

  c.views.latent = {"name": "mixture", "views": {
    "near": {"name": "gaussian", "sigma": 0.1, "weight": 3.0},
    "far": {"name": "gaussian", "sigma": 0.5},
    "angular": {},
  }}

An entry is called as its view is, or has a `name` of its own; its weight is 1
unless it says otherwise. Mixtures and group-wise views can be entries, too.
"""

import jax
import jax.numpy as jnp
import numpy as np

from genrep_jax.lib import contracts, options
from genrep_jax.views.latent import _shared

OPTIONS = {
  "views": options.Entry(
    "views/latent",
    "",
    "the views, each by a label of its own",
    many=True,
    shared={
      "weight": options.number(1.0, "relative to the others'", low=0),
    },
  )
}


def make(cfg, generator: contracts.Generator) -> contracts.LatentView:
  """Makes z' = view_i(z), where i has the probability weight_i / sum(weights).

  i is drawn from fold_in(key, 0), and its view gets fold_in(key, 1): a mixture
  of one view is that view under fold_in(key, 1), bit for bit. Entries are in
  the order of their labels, whatever the config's. Under `vmap` all views are
  computed and one is kept: they are cheap beside the rendering.

  Args:
    cfg: the options.
    generator: handed to every view.

  Returns:
    (key, z [latent_dim], y) -> z' [latent_dim].

  Raises:
    UsageError: no views, all weights zero, or what a view refuses.
  """
  entries = {label: cfg.views[label].to_dict() for label in sorted(cfg.views)}
  weights = {label: entry.pop("weight") for label, entry in entries.items()}
  if not any(weights.values()):
    options.refuse(
      "views.latent.views", weights, "at least one view of a positive weight"
    )
  views = [
    _shared.make_inner({"name": label, **entry}, generator, f"views.{label}")
    for label, entry in entries.items()
  ]
  largest = max(weights.values())
  edges = np.cumsum([weight / largest for weight in weights.values()])
  edges = np.float32(edges / edges[-1])  # cumulated probabilities

  def view(key, z, y):
    u = jax.random.uniform(jax.random.fold_in(key, 0))
    # `edges` end at 1 and u is below: an entry of weight zero is never drawn.
    choice = jnp.sum(u >= edges[:-1])
    own = jax.random.fold_in(key, 1)
    return jax.lax.switch(choice, views, own, z, y)

  return view
