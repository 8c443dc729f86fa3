"""What a training run is made of: every plug-in of a config, checked.

Everything that can be wrong with a config on its own, or with two of its parts
together, is refused here, before anything is compiled.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import optax

from genrep_jax.lib import (
  contracts,
  errors,
  frozen as frozen_lib,
  heads,
  latents,
  optim,
  plugins,
  rng,
  schedules,
)

PRECISIONS = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
SOURCES = ("generator", "array", "mix")


@dataclasses.dataclass(frozen=True)
class Parts:
  """What a training run is made of, resolved from its config.

  Attributes:
    generator: the frozen generator, or None (source "array").
    dataset: real images in the program, or None (source "generator").
    latent_view: T_z, a function or a contracts.LearnedView; None without a
      generator.
    rendering_of: which of an anchor's renderings each view shows.
    pixel_views: T_x of every view.
    view_shapes: (h, w, c) of every view after T_x; those of a smaller size
      come last.
    encoder, objective, optimizer, schedule: as their contracts say.
    image_shape: (h, w, c) before T_x.
    num_anchors: size of a virtual data set of latents; 0: endless.
    num_classes: classes of the labels the views carry; 0 without labels.
  """

  generator: contracts.Generator | None
  dataset: contracts.Dataset | None
  latent_view: contracts.LatentView | contracts.LearnedView | None
  rendering_of: tuple[int, ...]
  pixel_views: tuple[contracts.PixelView, ...]
  view_shapes: tuple[tuple[int, int, int], ...]
  encoder: contracts.Encoder
  objective: contracts.Objective
  optimizer: optax.GradientTransformation
  schedule: Any
  image_shape: tuple[int, int, int]
  num_anchors: int
  num_classes: int

  @property
  def learned_view(self) -> contracts.LearnedView | None:
    """T_z if it learns, else None."""
    view = self.latent_view
    return view if isinstance(view, contracts.LearnedView) else None


def compute_dtype(cfg):
  """Returns the dtype of `config.precision`; UsageError if unknown."""
  if cfg.precision not in PRECISIONS:
    raise errors.UsageError(
      f"precision: unknown {cfg.precision!r}; known: {', '.join(PRECISIONS)}"
    )
  return PRECISIONS[cfg.precision]


def check_batch(global_batch: int, mesh) -> None:
  """Refuses a global batch that the devices cannot share evenly."""
  devices = mesh.devices.size
  if global_batch <= 0 or global_batch % devices:
    raise errors.UsageError(
      f"global_batch: {global_batch} is not divisible by {devices} devices"
    )


def stored_latents(cfg, generator):
  """Reads `sampler.file`, if there is one.

  Returns:
    ({"z": float32 [n latent_dim], "y": int32 [n]} or None, the size of the
    virtual data set: n, or sampler.num_anchors).

  Raises:
    UsageError: a size below zero or other than the file's, or a file that does
      not fit the generator.
  """
  count, file = cfg.sampler.num_anchors, cfg.sampler.file
  if count < 0:
    raise errors.UsageError(f"sampler.num_anchors: {count} is negative")
  if not file:
    return None, count
  if generator is None:
    raise errors.UsageError(
      f"sampler.file: {file!r} holds latents, but source "
      f"{cfg.source.name!r} has no generator"
    )
  z, y = latents.read("sampler.file", file, generator, cfg.generator.name)
  if count not in (0, len(z)):
    raise errors.UsageError(
      f"sampler.num_anchors: {count}, but {file} holds {len(z)}"
    )
  return {"z": z, "y": y}, len(z)


def resolve_total_steps(cfg, dataset=None, num_anchors: int = 0) -> int:
  """Turns total_steps | total_epochs | total_examples into steps."""
  epoch = num_anchors
  if not epoch and dataset is not None:
    epoch = len(dataset.train.images)
  total = schedules.steps_of(
    cfg, "total", examples_per_epoch=epoch, batch=cfg.global_batch
  )
  if total * cfg.global_batch >= rng.MAX_SAMPLES:
    raise errors.UsageError(
      f"total_steps * global_batch: {total * cfg.global_batch} samples exceed "
      f"the sample index's {rng.MAX_SAMPLES - 1}"
    )
  return total


def load_generator(cfg, dtype):
  """Makes `config.generator` and reads its weights.

  Returns:
    (Generator, variables as numpy arrays or random ones, facts for the banner).
  """
  if not cfg.generator.name:
    raise errors.UsageError(
      "generator.name: empty; known: " + ", ".join(plugins.names("generators"))
    )
  made = frozen_lib.from_config(
    cfg.generator, dtype=dtype, key=rng.stream(cfg.seed, "generator")
  )
  generator = made.generator
  kind = (
    f"{generator.num_classes} classes"
    if generator.num_classes
    else ("unconditional")
  )
  height, width = generator.resolution
  facts = {
    "generator": f"{made.name} {height}x{width}x{generator.channels}, "
    f"{kind}, weights {cfg.generator.weights or 'none'}",
    "generator sha256": made.sha256 or "none (random weights)",
  }
  return generator, made.variables, facts


def _make_latent_view(cfg, generator):
  """Resolves T_z; returns (view, whether it is the identity)."""
  room = "views/latent"
  module = plugins.resolve(room, cfg.views.latent.name)
  _check_latent_view(cfg.views.latent, cfg.generator.weights)
  view = module.make(cfg.views.latent, generator)
  return view, cfg.views.latent.name == "none"


def _check_latent_view(entry, generator_weights):
  """Lets T_z, and views within it, refuse the weights of the generator."""
  for inner in entry.values():
    if isinstance(inner, ml_collections.ConfigDict):
      _check_latent_view(inner, generator_weights)
  if entry.get("name"):  # a mixture's dictionary of views has none
    module = plugins.resolve("views/latent", entry.name)
    if hasattr(module, "check_weights"):
      module.check_weights(entry, generator_weights)


def _rendering_of(cfg, only_one) -> tuple[int, ...]:
  """Returns which rendering each view shows; all the one if `only_one`."""
  views, given = cfg.views.num_views, tuple(cfg.views.rendering_of)
  renderings = set(given)
  if given and (len(given) != views or renderings != {*range(len(renderings))}):
    raise errors.UsageError(
      f"views.rendering_of: {given} must be () or {views} numbers, one per "
      "view, that count the anchor's renderings from 0"
    )
  if only_one:
    return (0,) * views
  _check_neighbors(cfg, len(renderings) or views)
  return given or tuple(range(views))


def _check_neighbors(cfg, renderings):
  """Refuses a pool of neighbours that is smaller than what is drawn of it."""
  pool = cfg.views.num_neighbors
  drawn = renderings - bool(cfg.views.anchor_first)
  if pool < 0 or 0 < pool < drawn:
    raise errors.UsageError(
      f"views.num_neighbors: {pool} must be 0 (always new ones) or at least "
      f"{drawn}, the views drawn from the pool"
    )


def _view_shapes(cfg, pixel_views, encoder, objective, image_shape):
  """Returns the shape of every view; refuses what cannot be encoded."""
  image = jax.ShapeDtypeStruct(image_shape, jnp.float32)
  shapes = tuple(
    jax.eval_shape(view, jax.random.key(0), image).shape for view in pixel_views
  )
  local = [shape for shape in shapes if shape != shapes[0]]
  if len(set(local)) > 1 or local != list(shapes[len(shapes) - len(local) :]):
    raise errors.UsageError(
      f"views.pixel {cfg.views.pixel.name!r}: views of {list(shapes)}; allowed "
      "are one size, or a first size and, for the last views, one other"
    )
  if not local:
    return shapes
  if "local" in objective.requires:
    raise errors.UsageError(
      f"objective {cfg.objective.name!r} needs local maps of one size, but "
      f"views.pixel {cfg.views.pixel.name!r} gives views of two"
    )
  _check_encodes(cfg, encoder, shapes[0], local[0])
  return shapes


def _check_encodes(cfg, encoder, shape, local_shape):
  """Refuses local crops that the encoder cannot take as it takes the others."""

  def features(shape):
    variables = encoder.init(jax.random.key(0), shape)
    images = jnp.zeros((1, *local_shape), jnp.float32)
    return encoder.apply(variables, images, train=False)[0].pooled

  try:
    jax.eval_shape(lambda: features(shape))
  except Exception as error:  # whatever the encoder's own code raises
    reason = " ".join(str(error).split())
    height, width, _ = local_shape
    raise errors.UsageError(
      f"encoder {cfg.encoder.name!r} cannot take the local crops of "
      f"{height}x{width} pixels that views.pixel {cfg.views.pixel.name!r} "
      f"cuts: {reason}"
    ) from error


def _pixel_views(cfg, image_shape) -> tuple[contracts.PixelView, ...]:
  """Returns T_x of every view; views outside `views.pixel_on` get none."""
  room, entry, views = "views/pixel", cfg.views.pixel, cfg.views.num_views
  module = plugins.resolve(room, entry.name)
  if hasattr(module, "check"):
    module.check(entry, image_shape)
  wanted = tuple(cfg.views.pixel_on) or tuple(range(views))
  if not set(wanted) <= set(range(views)):
    raise errors.UsageError(
      f"views.pixel_on: {wanted} names views outside 0..{views - 1}"
    )
  same = module.make(entry)
  of_view = getattr(module, "make_for_view", lambda entry, number: same)
  bare = None
  if len(set(wanted)) < views:
    none = plugins.resolve(room, "none")
    options = none.default_config()
    options = {key: entry.get(key, options[key]) for key in options}
    options = ml_collections.ConfigDict(options | {"name": "none"})
    none.check(options, image_shape)
    bare = none.make(options)
  return tuple(
    of_view(entry, number) if number in wanted else bare
    for number in range(views)
  )


def make_parts(cfg, dataset, generator, total_steps, num_anchors=0) -> Parts:
  """Resolves every plug-in of a run and checks that they fit together.

  Args:
    cfg: the resolved config.
    dataset: real images for source "array" or "mix", else None.
    generator: the generator for source "generator" or "mix", else None.
    total_steps: length of the run, for the schedule.
    num_anchors: size of the virtual data set of latents; 0: endless.

  Raises:
    UsageError: they do not fit; says which and why.
  """
  num_classes = 0
  if generator is not None:
    image_shape = (*generator.resolution, generator.channels)
    num_classes = generator.num_classes
  if dataset is not None:
    real_shape = tuple(dataset.train.images.shape[1:])
    if generator is not None and real_shape != image_shape:
      raise errors.UsageError(
        f"source mix: real images are {real_shape}, the generator's "
        f"{image_shape}"
      )
    image_shape = real_shape
    if generator is None or num_classes == dataset.num_classes:
      num_classes = dataset.num_classes
    else:
      num_classes = 0
  if generator is not None:
    latent_view, identity = _make_latent_view(cfg, generator)
  else:
    latent_view, identity = None, True
  encoder = plugins.resolve("encoders", cfg.encoder.name).make(
    cfg.encoder, dtype=compute_dtype(cfg)
  )
  objective_module = plugins.resolve("objectives", cfg.objective.name)
  sizes = {"num_classes": num_classes}
  if generator is not None:
    sizes["latent_dim"] = generator.latent_dim
  objective = objective_module.make(_filled(cfg.objective, sizes), heads)
  _check_objective(cfg, objective, num_classes, image_shape)
  rendering_of = _rendering_of(cfg, identity)
  pixel_views = _pixel_views(cfg, image_shape)
  epoch = num_anchors or (
    len(dataset.train.images) if dataset is not None else 0
  )
  schedule = schedules.make(
    cfg.schedule,
    base=cfg.optimizer.learning_rate,
    total_steps=total_steps,
    steps_per_epoch=epoch / cfg.global_batch,
  )
  return Parts(
    generator=generator,
    dataset=dataset,
    latent_view=latent_view,
    rendering_of=rendering_of,
    pixel_views=pixel_views,
    view_shapes=_view_shapes(cfg, pixel_views, encoder, objective, image_shape),
    encoder=encoder,
    objective=objective,
    optimizer=optim.make(cfg.optimizer, schedule),
    schedule=schedule,
    image_shape=image_shape,
    num_anchors=num_anchors,
    num_classes=num_classes,
  )


def _filled(entry, sizes):
  """Returns an objective's config, its zeros among `sizes` filled in.

  An objective that needs to know how many classes or latents there are has an
  option of that name; 0 means what the generator or the real images have.
  """
  entry = entry.copy_and_resolve_references()
  with entry.unlocked():
    for key, value in entry.items():
      if isinstance(value, ml_collections.ConfigDict):
        entry[key] = _filled(value, sizes)
      elif key in sizes and not value:
        entry[key] = sizes[key]
  return entry


def _check_objective(cfg, objective, num_classes, image_shape):
  name, views = cfg.objective.name, cfg.views.num_views
  if views < objective.min_views:
    raise errors.UsageError(
      f"views.num_views: {views}, but objective {name!r} needs at least "
      f"{objective.min_views}"
    )
  least = objective.min_px
  if min(image_shape[:2]) < least:
    height, width, _ = image_shape
    raise errors.UsageError(
      f"objective {name!r}: images of {height}x{width} pixels, but it needs at "
      f"least {least}x{least}"
    )
  provided = {"local"}
  if cfg.source.name == "generator":
    provided |= {"latents", "generator"}
  if num_classes:
    provided.add("labels")
  if cfg.ema_decay:
    provided.add("target")
  missing = sorted(objective.requires - provided)
  if missing == ["target"]:
    raise errors.UsageError(
      f"objective {name!r} needs a target network, the moving average that "
      f"ema_decay={cfg.ema_decay} switches off; 0.99 is usual"
    )
  if missing:
    why = ""
    if "labels" in missing:
      why = "; the generator is unconditional (num_classes=0)"
      if cfg.source.name == "mix":
        why = "; generator and real images do not share their classes"
    raise errors.UsageError(
      f"objective {name!r} needs {', '.join(missing)}, which source "
      f"{cfg.source.name!r} does not provide{why}"
    )
