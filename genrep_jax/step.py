"""The one program: sample, render, augment, encode, loss, update.

One call of the jitted step takes latents to an updated encoder on every device
of the mesh; no image ever touches the host. All code here is global: `b` is
the global batch, and the compiler splits it over the `data` axis.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from genrep_jax import state as state_lib
from genrep_jax.encoders import heads
from genrep_jax.lib import (
  contracts,
  errors,
  frozen as frozen_lib,
  mesh as mesh_lib,
  metrics,
  optim,
  plugins,
  rng,
  schedules,
)
from genrep_jax.views import stages

STAGES = ("sample", "render", "augment", "encode", "loss", "update")
PRECISIONS = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
_PREVIEW_ANCHORS = 12
SOURCES = ("generator", "array", "mix")


@dataclasses.dataclass(frozen=True)
class Parts:
  """What a training run is made of, resolved from its config.

  Attributes:
    generator: the frozen generator, or None (source "array").
    dataset: real images in the program, or None (source "generator").
    latent_view: T_z, or None.
    latent_view_is_identity: T_z leaves z alone, so one rendering serves all
      views.
    pixel_view: T_x.
    encoder, objective, optimizer, schedule: as their contracts say.
    image_shape: (h, w, c) before T_x.
    num_classes: classes of the labels the views carry; 0 without labels.
  """

  generator: contracts.Generator | None
  dataset: contracts.Dataset | None
  latent_view: contracts.LatentView | None
  latent_view_is_identity: bool
  pixel_view: contracts.PixelView
  encoder: contracts.Encoder
  objective: contracts.Objective
  optimizer: optax.GradientTransformation
  schedule: Any
  image_shape: tuple[int, int, int]
  num_classes: int


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


def resolve_total_steps(cfg, dataset=None) -> int:
  """Turns total_steps | total_epochs | total_examples into steps."""
  epoch = cfg.sampler.num_anchors
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
  view = module.make(cfg.views.latent, generator)
  return view, cfg.views.latent.name == "none"


def make_parts(cfg, dataset, generator, total_steps) -> Parts:
  """Resolves every plug-in of a run and checks that they fit together.

  Args:
    cfg: the resolved config.
    dataset: real images for source "array" or "mix", else None.
    generator: the generator for source "generator" or "mix", else None.
    total_steps: length of the run, for the schedule.

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
  pixel_module = plugins.resolve("views/pixel", cfg.views.pixel.name)
  if hasattr(pixel_module, "check"):
    pixel_module.check(cfg.views.pixel, image_shape)
  objective_module = plugins.resolve("objectives", cfg.objective.name)
  objective = objective_module.make(cfg.objective, heads)
  _check_objective(cfg, objective, num_classes)
  epoch = cfg.sampler.num_anchors or (
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
    latent_view_is_identity=identity,
    pixel_view=pixel_module.make(cfg.views.pixel),
    encoder=plugins.resolve("encoders", cfg.encoder.name).make(
      cfg.encoder, dtype=compute_dtype(cfg)
    ),
    objective=objective,
    optimizer=optim.make(cfg.optimizer, schedule),
    schedule=schedule,
    image_shape=image_shape,
    num_classes=num_classes,
  )


def _check_objective(cfg, objective, num_classes):
  name, views = cfg.objective.name, cfg.views.num_views
  if views < objective.min_views:
    raise errors.UsageError(
      f"views.num_views: {views}, but objective {name!r} needs at least "
      f"{objective.min_views}"
    )
  provided = {"local"}
  if cfg.source.name == "generator":
    provided.add("latents")
  if num_classes:
    provided.add("labels")
  missing = sorted(objective.requires - provided)
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


def _initial_state(cfg, parts: Parts) -> state_lib.TrainState:
  """State of step 0, a pure function of the seed."""
  key = rng.stream(cfg.seed, "init")
  shape = jax.eval_shape(
    parts.pixel_view,
    key,
    jax.ShapeDtypeStruct(parts.image_shape, jnp.float32),
  ).shape
  encoder = parts.encoder.init(jax.random.fold_in(key, 0), shape)
  images = jax.ShapeDtypeStruct(
    (cfg.global_batch, cfg.views.num_views, *shape), jnp.float32
  )
  features = jax.eval_shape(
    lambda variables, x: _encode_views(parts, variables, x)[0], encoder, images
  )
  head, objective = parts.objective.init(jax.random.fold_in(key, 1), features)
  params = {"encoder": encoder["params"], "head": head}
  batch_stats = encoder.get("batch_stats", {})
  ema = {}
  if cfg.ema_decay:
    ema = {"params": params, "batch_stats": batch_stats}
  return state_lib.TrainState(
    step=jnp.zeros((), jnp.int32),
    params=params,
    batch_stats=batch_stats,
    opt_state=parts.optimizer.init(params),
    ema=ema,
    objective=objective,
  )


def _encode_views(parts: Parts, variables, images):
  """Encodes [b v h w c] in one call, so that BatchNorm sees one batch.

  Returns:
    (Features [b v ...], batch_stats).
  """
  b, v = images.shape[:2]
  features, batch_stats = parts.encoder.apply(
    variables,
    images.reshape(b * v, *images.shape[2:]),
    train=True,
    local="local" in parts.objective.requires,
  )
  features = jax.tree.map(lambda x: x.reshape(b, v, *x.shape[1:]), features)
  return features, batch_stats


def make_train_step(cfg, parts: Parts, mesh):
  """Returns the pure step `(state, frozen) -> (state, metrics)`.

  The six stages run under `jax.named_scope`s of their names, in the order of
  `STAGES`; gradients flow from `loss` back through `encode` only.
  """
  views_of = stages.make_views(cfg, parts, mesh)

  def loss_of(params, state, views):
    with jax.named_scope("encode"):
      features, batch_stats = _encode_views(
        parts,
        {"params": params["encoder"], "batch_stats": state.batch_stats},
        views.images,
      )
    with jax.named_scope("loss"):
      key = jax.random.fold_in(
        rng.stream(cfg.seed, "objective"), state.step.astype(jnp.uint32)
      )
      loss, extra, objective = parts.objective.apply(
        params["head"], features, views, None, state.objective, key
      )
    return loss, (extra, batch_stats, objective)

  def train_step(state, frozen):
    views, _ = views_of(state.step, frozen)
    (loss, (extra, batch_stats, objective)), grads = jax.value_and_grad(
      loss_of, has_aux=True
    )(state.params, state, views)
    with jax.named_scope("update"):
      updates, opt_state = parts.optimizer.update(
        grads, state.opt_state, state.params
      )
      params = optax.apply_updates(state.params, updates)
      ema = state.ema
      if cfg.ema_decay:
        ema = optim.ema(
          ema,
          {"params": params, "batch_stats": batch_stats},
          cfg.ema_decay,
          state.step,
        )
      grad_norm = optax.tree.norm(grads)
      measured = metrics.collection(
        state.step + 1,
        loss=loss,
        grad_norm=grad_norm,
        learning_rate=parts.schedule(state.step),
        **extra,
      )
    new_state = state.replace(
      step=state.step + 1,
      params=params,
      batch_stats=batch_stats,
      opt_state=opt_state,
      ema=ema,
      objective=objective,
    )
    return new_state, measured

  return train_step


def jit(program: contracts.Program, mesh, steps_per_call: int = 1):
  """Compiles-on-call `(state, frozen) -> (state, metrics)`.

  Args:
    program: from `build`, or of a game.
    mesh: the devices.
    steps_per_call: steps scanned inside one call; the metrics are merged.

  Returns:
    A jitted function that donates the state and keeps `frozen`.
  """
  whole = mesh_lib.replicated(mesh)

  def steps(state, frozen):
    if steps_per_call == 1:
      return program.step(state, frozen)
    state, measured = jax.lax.scan(
      lambda state, _: program.step(state, frozen),
      state,
      length=steps_per_call,
    )
    return state, measured.reduce()

  return jax.jit(
    steps,
    donate_argnums=0,
    in_shardings=(whole, program.frozen_shardings),
    out_shardings=whole,
  )


def _normalisation(cfg):
  """Mean and std that T_x normalises with; a foreign T_x may have neither."""
  pixel = cfg.views.pixel
  return pixel.get("mean", (0.5,)), pixel.get("std", (0.5,))


def build(cfg, mesh) -> contracts.Program:
  """Builds the training program of a config.

  Args:
    cfg: the resolved config (lib.configs.load).
    mesh: from lib.mesh.make_mesh; its devices need not be present.

  Returns:
    The Program: pure functions and their frozen arguments.

  Raises:
    UsageError: anything that does not fit, before anything is compiled.
  """
  check_batch(cfg.global_batch, mesh)
  if cfg.source.name not in SOURCES:
    raise errors.UsageError(
      f"source.name: unknown {cfg.source.name!r}; known: {', '.join(SOURCES)}"
    )
  if not 0.0 <= cfg.source.mix_ratio <= 1.0:
    raise errors.UsageError(
      f"source.mix_ratio: {cfg.source.mix_ratio} is not in [0, 1]"
    )
  if cfg.sampler.num_anchors < 0:
    raise errors.UsageError(
      f"sampler.num_anchors: {cfg.sampler.num_anchors} is negative"
    )
  dtype = compute_dtype(cfg)
  frozen, facts = {}, {}
  dataset = generator = None
  if cfg.source.name != "generator":
    dataset = plugins.resolve("data", cfg.data.name).make(cfg.data)
    frozen["images"] = np.asarray(dataset.train.images)
    frozen["labels"] = np.asarray(dataset.train.labels, np.int32)
    facts["real images"] = f"{dataset.name}, {len(frozen['images'])} in train"
  if cfg.source.name != "array":
    generator, frozen["generator"], generator_facts = load_generator(cfg, dtype)
    facts |= generator_facts
  total_steps = resolve_total_steps(cfg, dataset)
  parts = make_parts(cfg, dataset, generator, total_steps)
  chance = parts.objective.chance(cfg.global_batch, cfg.views.num_views)
  if chance is not None:
    facts["chance level of the loss"] = f"{chance:.4f}"
  train_step = make_train_step(cfg, parts, mesh)
  views = stages.make_views(cfg, parts, mesh)

  mean, std = (jnp.asarray(x, jnp.float32) for x in _normalisation(cfg))

  def preview(state, frozen):
    """A column per anchor, a row per view."""
    shown, before = views(state.step, frozen)
    columns = min(_PREVIEW_ANCHORS, cfg.global_batch)
    after = (shown.images * std + mean) * 2 - 1
    return {
      "views_before_pixel": before[:columns].swapaxes(0, 1),
      "views": after[:columns].swapaxes(0, 1),
    }

  def encode(variables, images):
    # As T_x hands them on, but whole: normalised, nothing cut or jittered.
    images = ((images + 1) / 2 - mean) / std
    return parts.encoder.apply(variables, images, train=False)[0].pooled

  def encoder_variables(state):
    params, batch_stats = state.params, state.batch_stats
    if cfg.ema_decay:
      params, batch_stats = state.ema["params"], state.ema["batch_stats"]
    return {"params": params["encoder"], "batch_stats": batch_stats}

  return contracts.Program(
    init=functools.partial(_initial_state, cfg, parts),
    step=train_step,
    frozen=frozen,
    frozen_shardings=mesh_lib.replicated(mesh),
    examples_per_step=cfg.global_batch,
    images_per_step=cfg.global_batch * cfg.views.num_views,
    total_steps=total_steps,
    preview=preview,
    facts=facts,
    encode=encode,
    encoder_variables=encoder_variables,
    image_shape=parts.image_shape,
  )
