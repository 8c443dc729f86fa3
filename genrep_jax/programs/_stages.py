"""Stages 1 to 3 of the one program: sample, render, augment.

Every random number is a function of (seed, stream, global sample index), so
the views of sample k are the same bits for any batch size, device count and
resume point, and any step's images can be redrawn later.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from genrep_jax.lib import contracts, rng


@dataclasses.dataclass(frozen=True)
class Stages:
  """The first stages, as functions of what was drawn and of the latents.

  They are apart so that a learned T_z can differentiate through `show`.

  Attributes:
    seed: of the run.
    source: where the images come from.
    latent_view: T_z; None without latents.
    rendering_of: which of an anchor's renderings each view shows.
    anchor_first: rendering 0 is the anchor itself.
    num_neighbors: T_z's pool per anchor; 0: new ones at every visit.
    pixel_views: T_x of every view.
    view_shapes: (h, w, c) of every view after T_x; those of a smaller size
      come last.
    gives_render: the objective gets the images before T_x and may render.
    split: shards arrays over the devices by their first axis.
  """

  seed: int
  source: contracts.Source
  latent_view: contracts.LatentView | contracts.LearnedView | None
  rendering_of: tuple[int, ...]
  anchor_first: bool
  num_neighbors: int
  pixel_views: tuple[contracts.PixelView, ...]
  view_shapes: tuple[tuple[int, int, int], ...]
  gives_render: bool
  split: Callable

  @property
  def learned_view(self) -> contracts.LearnedView | None:
    """T_z if it learns, else None."""
    view = self.latent_view
    return view if isinstance(view, contracts.LearnedView) else None

  def sample(self, step, frozen) -> contracts.Draws:
    """Draws all of a step that is random and neither T_z nor T_x."""
    with jax.named_scope("sample"):
      return self.source.draw(step, frozen)

  def move(self, draws, params):
    """T_z: latents [b r latent_dim] of the r renderings of each anchor.

    Args:
      draws: from `sample`.
      params: a LearnedView's, else {}.

    Returns:
      The latents; None without any.
    """
    if self.latent_view is None:
      return None
    with jax.named_scope("sample"):
      return self.split(self._moved(draws, params))

  def show(self, draws, latents, frozen):
    """Renders and augments; returns (Views, images [b v h w c] before T_x)."""
    with jax.named_scope("render"):
      shown = self.source.show(draws, latents, frozen)
      images = self.split(self._spread(shown))
    with jax.named_scope("augment"):
      augmented, local_crops = self._augment(draws["index"], images)
    views = contracts.Views(self.split(augmented))
    if self.source.num_classes:
      views = views._replace(labels=draws["labels"])
    if local_crops is not None:
      views = views._replace(local_crops=self.split(local_crops))
    if self.source.differentiable:
      views = views._replace(
        latents=self._spread(latents), anchors=draws["anchors"]
      )
    if self.gives_render:

      def render(latents):
        return self.source.show(draws, latents, frozen)

      views = views._replace(rendered=images, render=render)
    if "objective" in frozen:
      views = views._replace(frozen=frozen["objective"])
    return views, images

  def views(self, step, frozen, params=None):
    """Returns (Views, images before T_x) of a step, without a search."""
    draws = self.sample(step, frozen)
    return self.show(draws, self.move(draws, params or {}), frozen)

  def _spread(self, x):
    """Gives every view its rendering: [b r ...] -> [b v ...]."""
    views, renderings = len(self.rendering_of), x.shape[1]
    if renderings == 1:
      return jnp.broadcast_to(x, (len(x), views, *x.shape[2:]))
    if self.rendering_of == tuple(range(views)):
      return x
    return x[:, np.array(self.rendering_of)]

  def _moved(self, draws, params):
    """With a pool, neighbor j of anchor i is a function of (seed, i, j).

    Without one, views are always new ones: of the global sample index, not of
    the anchor's.
    """
    z, y = draws["anchors"], draws["y"]
    renderings = 1 + max(self.rendering_of)
    transform = self.latent_view
    if self.learned_view is not None:
      transform = functools.partial(self.learned_view.apply, params)
    key = rng.stream(self.seed, "latent_view")
    first = int(self.anchor_first)
    count, pool = renderings - first, self.num_neighbors
    if not count:
      return z[:, None]
    owner = draws["anchor"] if pool else draws["index"]
    numbers = jnp.arange(first, renderings, dtype=jnp.uint32)
    numbers = jnp.broadcast_to(numbers, (len(owner), count))
    if pool:
      keys = rng.per_index(rng.stream(self.seed, "neighbor"), draws["index"])
      numbers = jax.vmap(lambda key: rng.neighbors(key, pool, count))(keys)

    def one(i, view, z, y):
      return transform(rng.view_key(key, i, view), z, y)

    over_views = jax.vmap(one, in_axes=(None, 0, None, None))
    moved = jax.vmap(over_views)(owner, numbers, z, y)
    if not self.anchor_first:
      return moved
    return jnp.concatenate([z[:, None], moved], axis=1)

  def _augment(self, index, images):
    """T_x: [b v h w c] -> (views [b g h' w' c], local crops [b l h" w" c])."""
    key = rng.stream(self.seed, "pixel_view")

    def one(pixel_view, i, view, image):
      return pixel_view(rng.view_key(key, i, view), image)

    def some(start, stop):
      numbers = jnp.arange(start, stop, dtype=jnp.uint32)
      transforms = self.pixel_views[start:stop]
      shown = images[:, start:stop]
      if all(transform is transforms[0] for transform in transforms):
        same = functools.partial(one, transforms[0])
        over_views = jax.vmap(same, in_axes=(None, 0, 0))
        return jax.vmap(over_views, in_axes=(0, None, 0))(index, numbers, shown)
      over_anchors = jax.vmap(one, in_axes=(None, 0, None, 0))
      views = [
        over_anchors(transform, index, numbers[i], shown[:, i])
        for i, transform in enumerate(transforms)
      ]
      return jnp.stack(views, axis=1)

    count = self.view_shapes.count(self.view_shapes[0])
    views = some(0, count)
    if count == len(self.view_shapes):
      return views, None
    return views, some(count, len(self.view_shapes))
