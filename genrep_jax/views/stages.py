"""Stages 1 to 3 of the one program: sample, render, augment.

Every random number is a function of (seed, stream, global sample index), so
the views of sample k are the same bits for any batch size, device count and
resume point, and any step's images can be redrawn later.
"""

import functools
import math

import jax
import jax.numpy as jnp

from genrep_jax.lib import contracts, mesh as mesh_lib, rng


def make_views(cfg, parts, mesh):
  """Returns `(step, frozen) -> (Views, images [b v h w c] before T_x)`.

  Args:
    cfg: the resolved config.
    parts: parts.Parts, the resolved plug-ins.
    mesh: devices that share the batch axis.
  """
  b, v = cfg.global_batch, cfg.views.num_views
  use_generator = parts.generator is not None
  use_real = parts.dataset is not None
  split = functools.partial(mesh_lib.split_batch, mesh=mesh)

  def sample(step, frozen):
    index = step.astype(jnp.uint32) * jnp.uint32(b)
    index = split(index + jnp.arange(b, dtype=jnp.uint32))
    draws = {"index": index}
    if use_generator:
      anchor = index
      if parts.num_anchors:
        anchor = index % jnp.uint32(parts.num_anchors)
      if "latents" in frozen:
        z, y = (frozen["latents"][name][anchor] for name in ("z", "y"))
      else:
        keys = rng.per_index(rng.stream(cfg.seed, "sample"), anchor)
        z, y = jax.vmap(parts.generator.sample)(keys)
      draws |= {"anchors": split(z), "labels": split(y)}
      draws["latents"] = split(_latent_views(cfg, parts, index, anchor, z, y))
    if use_real:
      key = rng.stream(cfg.seed, "real_images")
      size = frozen["images"].shape[0]
      row = jax.vmap(lambda i: rng.permuted_index(key, i, size))(index)
      draws["row"] = split(row)
    if use_generator and use_real:
      keys = rng.per_index(rng.stream(cfg.seed, "mix"), index)
      draws["is_real"] = split(
        jax.vmap(lambda k: jax.random.bernoulli(k, cfg.source.mix_ratio))(keys)
      )
    return draws

  def render(draws, frozen):
    """Returns images [b v h w c], float32 in [-1, 1]."""
    images = real = None
    if use_generator:
      z, y = draws["latents"], draws["labels"]
      images = render_latents(
        parts.generator,
        frozen["generator"],
        z,
        y,
        mesh,
        cfg.generator.render_chunk,
      )
    if use_real:
      real = frozen["images"][draws["row"]].astype(jnp.float32)
      real = (real / 127.5 - 1.0)[:, None]
    if images is None:
      images = real
    elif real is not None:
      keep = draws["is_real"][:, None, None, None, None]
      images = jnp.where(keep, real, images)
    return split(jnp.broadcast_to(images, (b, v, *images.shape[2:])))

  def labels_of(draws, frozen):
    if not parts.num_classes:
      return None
    if not use_real:
      return draws["labels"]
    real = frozen["labels"][draws["row"]]
    if not use_generator:
      return real
    return jnp.where(draws["is_real"], real, draws["labels"])

  def augment(index, images):
    key = rng.stream(cfg.seed, "pixel_view")

    def one(pixel_view, i, view, image):
      return pixel_view(_view_key(key, i, view), image)

    first, numbers = parts.pixel_views[0], jnp.arange(v, dtype=jnp.uint32)
    if all(pixel_view is first for pixel_view in parts.pixel_views):
      one = functools.partial(one, first)
      over_views = jax.vmap(one, in_axes=(None, 0, 0))
      over_anchors = jax.vmap(over_views, in_axes=(0, None, 0))
      return split(over_anchors(index, numbers, images))
    over_anchors = jax.vmap(one, in_axes=(None, 0, None, 0))
    views = [
      over_anchors(pixel_view, index, numbers[i], images[:, i])
      for i, pixel_view in enumerate(parts.pixel_views)
    ]
    return split(jnp.stack(views, axis=1))

  def views(step, frozen):
    with jax.named_scope("sample"):
      draws = sample(step, frozen)
    with jax.named_scope("render"):
      # The generator is frozen: nothing is learned through the images.
      images = jax.lax.stop_gradient(render(draws, frozen))
      labels = labels_of(draws, frozen)
    with jax.named_scope("augment"):
      augmented = augment(draws["index"], images)
    latents = anchors = None
    if use_generator and not use_real:
      latents = jnp.broadcast_to(
        draws["latents"], (b, v, draws["latents"].shape[-1])
      )
      anchors = draws["anchors"]
    shown = contracts.Views(augmented, latents, anchors, labels)
    if "generator" in parts.objective.requires:

      def render_again(latents):
        return render_latents(
          parts.generator,
          frozen["generator"],
          latents,
          draws["labels"],
          mesh,
          cfg.generator.render_chunk,
        )

      shown = shown._replace(rendered=images, render=render_again)
    return shown, images

  return views


def _view_key(key, index, view):
  return jax.random.fold_in(jax.random.fold_in(key, index), view)


def _latent_views(cfg, parts, index, anchor, z, y):
  """T_z: latents [b v d], or [b 1 d] where all views share one rendering.

  Args:
    cfg: the resolved config.
    parts: the resolved plug-ins.
    index: uint32 [b], global sample indices: views are always new ones.
    anchor: uint32 [b], indices of the latents: neighbour j of anchor i is a
      function of (seed, i, j), where there is a pool of neighbours.
    z: [b latent_dim].
    y: int [b].
  """
  if parts.latent_view_is_identity:
    return z[:, None]
  key = rng.stream(cfg.seed, "latent_view")
  first = 1 if cfg.views.anchor_first else 0
  count, pool = cfg.views.num_views - first, cfg.views.num_neighbors
  owner = anchor if pool else index
  numbers = jnp.arange(first, cfg.views.num_views, dtype=jnp.uint32)
  numbers = jnp.broadcast_to(numbers, (len(index), count))
  if pool:
    keys = rng.per_index(rng.stream(cfg.seed, "neighbor"), index)
    # Neighbour j has the number 1 + j; a visit draws them without replacement.
    draw = jax.vmap(lambda key: 1 + jax.random.permutation(key, pool)[:count])
    numbers = draw(keys).astype(jnp.uint32)

  def one(i, view, z, y):
    return parts.latent_view(_view_key(key, i, view), z, y)

  over_views = jax.vmap(one, in_axes=(None, 0, None, None))
  moved = jax.vmap(over_views)(owner, numbers, z, y)
  if not cfg.views.anchor_first:
    return moved
  return jnp.concatenate([z[:, None], moved], axis=1)


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
