"""The one program: sample, render, augment, encode, loss, update.

One call of the jitted step takes latents to an updated encoder on every device
of the mesh; no image ever touches the host. All code here is global: `b` is
the global batch, and the compiler splits it over the `data` axis.
"""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax

from genrep_jax import parts as parts_lib, state as state_lib
from genrep_jax.lib import (
  contracts,
  errors,
  mesh as mesh_lib,
  metrics,
  optim,
  plugins,
  rng,
)
from genrep_jax.views import learned, stages

STAGES = ("sample", "render", "augment", "encode", "loss", "update")
_PREVIEW_ANCHORS = 12


def _initial_state(cfg, parts: parts_lib.Parts) -> state_lib.TrainState:
  """State of step 0, a pure function of the seed."""
  key = rng.stream(cfg.seed, "init")
  shapes = parts.view_shapes
  encoder = parts.encoder.init(jax.random.fold_in(key, 0), shapes[0])
  groups = [
    jax.ShapeDtypeStruct(
      (cfg.global_batch, shapes.count(shape), *shape), jnp.float32
    )
    for shape in dict.fromkeys(shapes)
  ]
  features = jax.eval_shape(
    lambda *groups: _encode_views(parts, encoder, contracts.Views(*groups))[0],
    *groups,
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
    views=learned.init(parts.learned_view, rng.stream(cfg.seed, "views_init")),
  )


def _encode_views(parts: parts_lib.Parts, variables, views: contracts.Views):
  """Encodes all views of one size in one call: BatchNorm sees one batch.

  Returns:
    (Features [b v ...], batch_stats).
  """
  groups, batch_stats = [], variables["batch_stats"]
  for images in (views.images, views.local_crops):
    if images is None:
      continue
    b, v = images.shape[:2]
    features, batch_stats = parts.encoder.apply(
      {"params": variables["params"], "batch_stats": batch_stats},
      images.reshape(b * v, *images.shape[2:]),
      train=True,
      local="local" in parts.objective.requires,
    )
    groups.append(
      jax.tree.map(lambda x, b=b, v=v: x.reshape(b, v, *x.shape[1:]), features)
    )
  if len(groups) == 1:
    return groups[0], batch_stats
  pooled = jnp.concatenate([group.pooled for group in groups], axis=1)
  return contracts.Features(pooled), batch_stats


class TrainStep:
  """The pure step `(state, frozen) -> (state, metrics)`, and `show`.

  The six stages run under `jax.named_scope`s of their names, in the order of
  `STAGES`; gradients flow from `loss` back through `encode` only, unless T_z is
  learned: then through `augment` and `render` as well, to the latents.
  """

  def __init__(self, cfg, parts: parts_lib.Parts, mesh, total_steps: int):
    self._cfg, self._parts, self._mesh = cfg, parts, mesh
    self._stages = stages.make_stages(cfg, parts, mesh)
    self._ema_decay = optim.ramp(
      cfg.ema_decay, cfg.ema_final_decay, total_steps
    )

  def __call__(self, state, frozen):
    """Returns (the next state, the step's metrics)."""
    draws, latents, searched = self._draw(state, frozen)
    out, grads, ascent = self._gradients(state, frozen, draws, latents)
    loss, (extra, batch_stats, objective) = out
    with jax.named_scope("update"):
      updates, opt_state = self._parts.optimizer.update(
        grads, state.opt_state, state.params
      )
      params = optax.apply_updates(state.params, updates)
      ema = state.ema
      if self._cfg.ema_decay:
        ema = optim.ema(
          ema,
          {"params": params, "batch_stats": batch_stats},
          self._ema_decay(state.step),
          state.step,
        )
      views, climbed = learned.climb(
        self._parts.learned_view, state.views, ascent
      )
      measured = metrics.collection(
        state.step + 1,
        loss=loss,
        grad_norm=optax.tree.norm(grads),
        learning_rate=self._parts.schedule(state.step),
        **extra,
        **searched,
        **climbed,
      )
    new_state = state.replace(
      step=state.step + 1,
      params=params,
      batch_stats=batch_stats,
      opt_state=opt_state,
      ema=ema,
      objective=objective,
      views=views,
    )
    return new_state, measured

  def show(self, state, frozen):
    """Returns (Views, images [b v h w c] before T_x) that the step encodes."""
    draws, latents, _ = self._draw(state, frozen)
    return self._stages.show(draws, latents, frozen)

  def _draw(self, state, frozen):
    """Returns (draws, latents after T_z, metrics of a search for them)."""
    draws = self._stages.sample(state.step, frozen)
    latents = self._stages.move(draws, state.views.get("params", {}))

    def loss(latents):
      views, _ = self._stages.show(draws, latents, frozen)
      return self._loss(state.params, state, views)[0]

    # The first rendering of an anchor is the anchor.
    start = int(self._cfg.views.anchor_first)
    latents, measured = learned.search(
      self._parts.learned_view,
      loss,
      latents,
      draws.get("anchors"),
      start,
      self._mesh,
    )
    return draws, latents, measured

  def _gradients(self, state, frozen, draws, latents):
    """Returns ((loss, aux), gradient of params, that of a trained T_z's)."""
    if not state.views:
      views, _ = self._stages.show(draws, latents, frozen)
      out, grads = jax.value_and_grad(self._loss, has_aux=True)(
        state.params, state, views
      )
      return out, grads, None

    def loss(params, view_params):
      latents = self._stages.move(draws, view_params)
      views, _ = self._stages.show(draws, latents, frozen)
      return self._loss(params, state, views)

    out, (grads, ascent) = jax.value_and_grad(
      loss, argnums=(0, 1), has_aux=True
    )(state.params, state.views["params"])
    return out, grads, ascent

  def _loss(self, params, state, views):
    """Returns (loss, (metrics, batch_stats, the objective's new state))."""
    with jax.named_scope("encode"):
      features, batch_stats = _encode_views(
        self._parts,
        {"params": params["encoder"], "batch_stats": state.batch_stats},
        views,
      )
      target = None
      if "target" in self._parts.objective.requires:
        target = self._target(state.ema, views)
    with jax.named_scope("loss"):
      key = jax.random.fold_in(
        rng.stream(self._cfg.seed, "objective"), state.step.astype(jnp.uint32)
      )
      loss, extra, objective = self._parts.objective.apply(
        params["head"], features, views, target, state.objective, key
      )
    return loss, (extra, batch_stats, objective)

  def _target(self, ema, views):
    # Its batch norms see the batch, as those of the trained network do.
    variables = {
      "params": ema["params"]["encoder"],
      "batch_stats": ema["batch_stats"],
    }
    features, _ = _encode_views(self._parts, variables, views)
    target = contracts.Target(features, ema["params"]["head"])
    return jax.lax.stop_gradient(target)


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


def _exports(cfg, generator_sha256, state):
  """What a run leaves behind: a trained T_z, for other runs to use."""
  if not state.views:
    return {}
  metadata = {
    "view": json.loads(cfg.views.latent.to_json_best_effort()),
    "generator_sha256": generator_sha256,
    "steps": int(state.step),
    "seed": cfg.seed,
  }
  return {"latent_view.safetensors": (state.views["params"], metadata)}


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
  parts_lib.check_batch(cfg.global_batch, mesh)
  if cfg.source.name not in parts_lib.SOURCES:
    raise errors.UsageError(
      f"source.name: unknown {cfg.source.name!r}; known: "
      + ", ".join(parts_lib.SOURCES)
    )
  if not 0.0 <= cfg.source.mix_ratio <= 1.0:
    raise errors.UsageError(
      f"source.mix_ratio: {cfg.source.mix_ratio} is not in [0, 1]"
    )
  dtype = parts_lib.compute_dtype(cfg)
  frozen, facts = {}, {}
  dataset = generator = None
  if cfg.source.name != "generator":
    dataset = plugins.resolve("data", cfg.data.name).make(cfg.data)
    frozen["images"] = np.asarray(dataset.train.images)
    frozen["labels"] = np.asarray(dataset.train.labels, np.int32)
    facts["real images"] = f"{dataset.name}, {len(frozen['images'])} in train"
  if cfg.source.name != "array":
    generator, frozen["generator"], generator_facts = parts_lib.load_generator(
      cfg, dtype
    )
    facts |= generator_facts
  stored, num_anchors = parts_lib.stored_latents(cfg, generator)
  if stored is not None:
    frozen["latents"] = stored
    facts["latents"] = f"{num_anchors} of {cfg.sampler.file}"
  total_steps = parts_lib.resolve_total_steps(cfg, dataset, num_anchors)
  parts = parts_lib.make_parts(
    cfg, dataset, generator, total_steps, num_anchors
  )
  if parts.objective.frozen is not None:
    frozen["objective"] = parts.objective.frozen
  chance = parts.objective.chance(cfg.global_batch, cfg.views.num_views)
  if chance is not None:
    facts["chance level of the loss"] = f"{chance:.4f}"
  train_step = TrainStep(cfg, parts, mesh, total_steps)

  mean, std = (jnp.asarray(x, jnp.float32) for x in _normalisation(cfg))

  def preview(state, frozen):
    """A column per anchor, a row per view."""
    shown, before = train_step.show(state, frozen)
    pictures = {"views_before_pixel": before}
    for name, images in (
      ("views", shown.images),
      ("views_local", shown.local_crops),
    ):
      if images is not None:
        pictures[name] = (images * std + mean) * 2 - 1
    columns = min(_PREVIEW_ANCHORS, cfg.global_batch)
    return {k: x[:columns].swapaxes(0, 1) for k, x in pictures.items()}

  def encode(variables, images):
    # As T_x hands them on, but whole: normalised, nothing cut or jittered.
    images = ((images + 1) / 2 - mean) / std
    return parts.encoder.apply(variables, images, train=False)[0].pooled

  def encoder_variables(state):
    params, batch_stats = state.params, state.batch_stats
    if cfg.ema_decay and cfg.evaluate_ema:
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
    exports=functools.partial(_exports, cfg, facts.get("generator sha256")),
  )
