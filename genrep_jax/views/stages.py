"""Stages 1 to 3 of the one program: sample, render, augment.

Every random number is a function of (seed, stream, global sample index), so
the views of sample k are the same bits for any batch size, device count and
resume point, and any step's images can be redrawn later.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from genrep_jax.lib import contracts, mesh as mesh_lib, rng

Draws = Mapping[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class Stages:
  """The first stages as functions of what was drawn and of the latents.

  They are apart so that a learned T_z can differentiate through `show`.

  Attributes:
    sample: (step, frozen) -> draws: the anchors, labels and real rows of a
      step, and everything else that is random and not T_z or T_x.
    move: (draws, params) -> latents [b r latent_dim] after T_z, for the r
      renderings of each anchor; `params` are a LearnedView's, else {}. None
      without a generator.
    show: (draws, latents, frozen) -> (Views, images [b v h w c] before T_x).
  """

  sample: Callable[..., Draws]
  move: Callable[..., jax.Array | None]
  show: Callable[..., tuple[contracts.Views, jax.Array]]

  def views(self, step, frozen, params=None):
    """Returns (Views, images before T_x) of a step, without a search."""
    draws = self.sample(step, frozen)
    return self.show(draws, self.move(draws, params or {}), frozen)


def make_stages(cfg, parts, mesh) -> Stages:
  """Returns the stages of a run.

  Args:
    cfg: the resolved config.
    parts: parts.Parts, the resolved plug-ins.
    mesh: devices that share the batch axis.
  """
  split = functools.partial(mesh_lib.split_batch, mesh=mesh)
  spread = functools.partial(_spread, rendering_of=parts.rendering_of)

  def sample(step, frozen):
    with jax.named_scope("sample"):
      return _sample(cfg, parts, mesh, step, frozen)

  def move(draws, params):
    if parts.generator is None:
      return None
    with jax.named_scope("sample"):
      return split(_latent_views(cfg, parts, draws, params))

  def show(draws, latents, frozen):
    with jax.named_scope("render"):
      images = split(spread(_render(cfg, parts, mesh, draws, latents, frozen)))
      labels = _labels(parts, draws, frozen)
    with jax.named_scope("augment"):
      augmented, local_crops = _augment(cfg, parts, draws["index"], images)
    views = contracts.Views(split(augmented), labels=labels)
    if local_crops is not None:
      views = views._replace(local_crops=split(local_crops))
    if parts.generator is not None and parts.dataset is None:
      views = views._replace(latents=spread(latents), anchors=draws["anchors"])
    if "generator" in parts.objective.requires:

      def render(latents):
        return _render(cfg, parts, mesh, draws, latents, frozen)

      views = views._replace(rendered=images, render=render)
    if parts.objective.frozen is not None:
      views = views._replace(frozen=frozen["objective"])
    return views, images

  return Stages(sample, move, show)


def _spread(x, rendering_of):
  """Gives every view its rendering: [b r ...] -> [b v ...]."""
  views, renderings = len(rendering_of), x.shape[1]
  if renderings == 1:
    return jnp.broadcast_to(x, (len(x), views, *x.shape[2:]))
  if rendering_of == tuple(range(views)):
    return x
  return x[:, np.array(rendering_of)]


def _sample(cfg, parts, mesh, step, frozen) -> Draws:
  b = cfg.global_batch
  split = functools.partial(mesh_lib.split_batch, mesh=mesh)
  index = step.astype(jnp.uint32) * jnp.uint32(b)
  index = split(index + jnp.arange(b, dtype=jnp.uint32))
  draws = {"index": index}
  if parts.generator is not None:
    # Which latent; the index of a virtual data set that goes round.
    anchor = index
    if parts.num_anchors:
      anchor = index % jnp.uint32(parts.num_anchors)
    if "latents" in frozen:
      z, y = (frozen["latents"][name][anchor] for name in ("z", "y"))
    else:
      keys = rng.per_index(rng.stream(cfg.seed, "sample"), anchor)
      z, y = jax.vmap(parts.generator.sample)(keys)
    z, y = split((z, y))
    z = split(parts.generator.latents(frozen["generator"], z, y))
    draws |= {"anchor": anchor, "anchors": z, "labels": y}
  if parts.dataset is not None:
    key = rng.stream(cfg.seed, "real_images")
    size = frozen["images"].shape[0]
    row = jax.vmap(lambda i: rng.permuted_index(key, i, size))(index)
    draws["row"] = split(row)
  if parts.generator is not None and parts.dataset is not None:
    keys = rng.per_index(rng.stream(cfg.seed, "mix"), index)
    draws["is_real"] = split(
      jax.vmap(lambda k: jax.random.bernoulli(k, cfg.source.mix_ratio))(keys)
    )
  return draws


def _latent_views(cfg, parts, draws, params):
  """T_z: latents [b r latent_dim] of the r renderings of each anchor.

  With a pool of neighbours, neighbour j of anchor i is a function of
  (seed, i, j); without one, views are always new ones: of the global sample
  index, not of the anchor's.
  """
  z, y = draws["anchors"], draws["labels"]
  renderings = 1 + max(parts.rendering_of)
  transform = parts.latent_view
  if parts.learned_view is not None:
    transform = functools.partial(parts.learned_view.apply, params)
  key = rng.stream(cfg.seed, "latent_view")
  first = 1 if cfg.views.anchor_first else 0
  count, pool = renderings - first, cfg.views.num_neighbors
  if not count:
    return z[:, None]
  owner = draws["anchor"] if pool else draws["index"]
  numbers = jnp.arange(first, renderings, dtype=jnp.uint32)
  numbers = jnp.broadcast_to(numbers, (len(owner), count))
  if pool:
    keys = rng.per_index(rng.stream(cfg.seed, "neighbor"), draws["index"])
    # Neighbour j has the number 1 + j; a visit draws them without replacement.
    draw = jax.vmap(lambda key: 1 + jax.random.permutation(key, pool)[:count])
    numbers = draw(keys).astype(jnp.uint32)

  def one(i, view, z, y):
    return transform(_view_key(key, i, view), z, y)

  over_views = jax.vmap(one, in_axes=(None, 0, None, None))
  moved = jax.vmap(over_views)(owner, numbers, z, y)
  if not cfg.views.anchor_first:
    return moved
  return jnp.concatenate([z[:, None], moved], axis=1)


def _render(cfg, parts, mesh, draws, latents, frozen):
  """Returns images [b r h w c], float32 in [-1, 1]; r = 1 of real ones."""
  images = real = None
  if parts.generator is not None:
    images = render_latents(
      parts.generator,
      frozen["generator"],
      latents,
      draws["labels"],
      mesh,
      cfg.generator.render_chunk,
    )
  if parts.dataset is not None:
    real = frozen["images"][draws["row"]].astype(jnp.float32)
    real = (real / 127.5 - 1.0)[:, None]
  if images is None:
    return real
  if real is None:
    return images
  return jnp.where(draws["is_real"][:, None, None, None, None], real, images)


def _labels(parts, draws, frozen):
  if not parts.num_classes:
    return None
  if parts.dataset is None:
    return draws["labels"]
  real = frozen["labels"][draws["row"]]
  if parts.generator is None:
    return real
  return jnp.where(draws["is_real"], real, draws["labels"])


def _augment(cfg, parts, index, images):
  """T_x: [b v h w c] -> (views [b g h' w' c], local crops [b l h" w" c])."""
  key = rng.stream(cfg.seed, "pixel_view")

  def one(pixel_view, i, view, image):
    return pixel_view(_view_key(key, i, view), image)

  def some(start, stop):
    numbers = jnp.arange(start, stop, dtype=jnp.uint32)
    transforms = parts.pixel_views[start:stop]
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

  count = parts.view_shapes.count(parts.view_shapes[0])
  views = some(0, count)
  if count == len(parts.view_shapes):
    return views, None
  return views, some(count, len(parts.view_shapes))


def _view_key(key, index, view):
  return jax.random.fold_in(jax.random.fold_in(key, index), view)


def render_latents(generator, variables, z, y, mesh, chunk: int = 0):
  """Renders latents, whole or in chunks that bound memory.

  Args:
    generator: the frozen generator.
    variables: its weights.
    z: [b v latent_dim].
    y: int32 [b], one class per anchor.
    mesh: devices that share the batch axis.
    chunk: images rendered at once, over all devices; 0 renders all at once.

  Returns:
    images [b v h w c], float32.
  """
  b, v, latent_dim = z.shape
  rows = z.reshape(b * v, latent_dim)
  classes = jnp.broadcast_to(y[:, None], (b, v)).reshape(b * v)
  devices = mesh.devices.size
  if not chunk or chunk >= b * v:
    images = generator.apply(variables, rows, classes)
  else:
    # Each device's rows are cut into the same number of chunks, so that no row
    # changes its device: [devices * chunks * per] -> chunks of [devices * per].
    chunks = math.ceil(b * v / chunk)
    while (b * v // devices) % chunks:
      chunks += 1

    def cut(x):
      x = x.reshape(devices, chunks, -1, *x.shape[1:])
      x = jnp.moveaxis(x, 1, 0)
      return x.reshape(chunks, -1, *x.shape[3:])

    def paste(x):
      x = x.reshape(chunks, devices, -1, *x.shape[2:])
      x = jnp.moveaxis(x, 0, 1)
      return x.reshape(b * v, *x.shape[3:])

    images = paste(
      jax.lax.map(
        lambda row: generator.apply(variables, *row), (cut(rows), cut(classes))
      )
    )
  return images.reshape(b, v, *images.shape[1:]).astype(jnp.float32)
