"""The one program: sample, render, augment, encode, loss, update.

One call of the jitted step takes latents to an updated encoder on every device
of the mesh; no image ever touches the host. All code here is global: `b` is
the global batch, and the compiler splits it over the `data` axis.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from genrep_jax.lib import (
  contracts,
  export,
  hlo,
  images as images_lib,
  metrics,
  optim,
  plugins,
  rng,
)
from genrep_jax.programs import _checks, _judged, _learned, _online
from genrep_jax.programs._stages import Stages

STAGES = hlo.STAGES
OPTIONS = _online.OPTIONS
_PREVIEW_ANCHORS = 12


@flax.struct.dataclass
class TrainState:
  """Everything a step changes, and nothing else: no keys, no generator.

  Attributes:
    step: int32 scalar, steps done.
    params: {"encoder": ..., "head": ...}, float32.
    batch_stats: the encoder's running statistics, {} without BatchNorm.
    opt_state: optax state of `params`.
    ema: {"params": ..., "batch_stats": ...} averaged, or {} when off.
    objective: the objective's own state, {} when it has none.
    views: {"params": ..., "opt_state": ...} of a trained T_z, else {}.
    online: {"params": ..., "opt_state": ...} of the online probe, else {}.
  """

  step: jax.Array
  params: Any
  batch_stats: Any
  opt_state: Any
  ema: Any
  objective: Any
  views: Any
  online: Any


@dataclasses.dataclass(frozen=True)
class GenRep:
  """The pure step `(state, frozen) -> (state, metrics)`, and its parts.

  The six stages run under `jax.named_scope`s of their names, in the order of
  `STAGES`; gradients flow from `loss` back through `encode` only, unless T_z is
  learned: then through `augment` and `render` as well, to the latents.

  Attributes:
    seed: of the run.
    batch: b.
    stages: sample, render and augment.
    encoder: what is trained.
    objective: the loss.
    optimizer: of encoder and head.
    schedule: step -> learning rate, to be measured.
    ema_decay: step -> decay of the averaged weights; None: there are none.
    evaluate_ema: the averaged weights are the result.
    mean: of T_x's normalization, float32.
    std: likewise.
    probe: the online probe, or None.
  """

  seed: int
  batch: int
  stages: Stages
  encoder: contracts.Encoder
  objective: contracts.Objective
  optimizer: optax.GradientTransformation
  schedule: Callable
  ema_decay: Callable | None
  evaluate_ema: bool
  mean: jax.Array
  std: jax.Array
  probe: _online.Probe | None = None

  def init(self) -> TrainState:
    """Returns the state of step 0, a pure function of the seed."""
    key = rng.stream(self.seed, "init")
    shapes = self.stages.view_shapes
    encoder = self.encoder.init(jax.random.fold_in(key, 0), shapes[0])
    groups = [
      jax.ShapeDtypeStruct(
        (self.batch, shapes.count(shape), *shape), jnp.float32
      )
      for shape in dict.fromkeys(shapes)
    ]
    features = jax.eval_shape(
      lambda *groups: self.encode_views(encoder, contracts.Views(*groups))[0],
      *groups,
    )
    head, objective = self.objective.init(jax.random.fold_in(key, 1), features)
    params = {"encoder": encoder["params"], "head": head}
    batch_stats = encoder.get("batch_stats", {})
    ema = {}
    if self.ema_decay is not None:
      ema = {"params": params, "batch_stats": batch_stats}
    return TrainState(
      step=jnp.zeros((), jnp.int32),
      params=params,
      batch_stats=batch_stats,
      opt_state=self.optimizer.init(params),
      ema=ema,
      objective=objective,
      views=_learned.init(
        self.stages.learned_view, rng.stream(self.seed, "views_init")
      ),
      online={} if self.probe is None else self.probe.init(encoder),
    )

  def step(self, state, frozen):
    """Returns (the next state, the step's metrics)."""
    draws, latents, searched = self._draw(state, frozen)
    out, grads, ascent = self._gradients(state, frozen, draws, latents)
    loss, (extra, batch_stats, objective) = out
    with jax.named_scope("update"):
      updates, opt_state = self.optimizer.update(
        grads, state.opt_state, state.params
      )
      params = optax.apply_updates(state.params, updates)
      ema = state.ema
      if self.ema_decay is not None:
        averaged = {"params": params, "batch_stats": batch_stats}
        decay = self.ema_decay(state.step)
        ema = optim.ema(ema, averaged, decay, state.step)
      views, climbed = _learned.climb(
        self.stages.learned_view, state.views, ascent
      )
    online, probed = state.online, {}
    if self.probe is not None:
      with jax.named_scope("probe"):
        encoder = {
          "params": state.params["encoder"],
          "batch_stats": state.batch_stats,
        }
        online, probed = self.probe.step(online, state.step, encoder, frozen)
    with jax.named_scope("update"):
      measured = metrics.collection(
        state.step + 1,
        loss=loss,
        grad_norm=optax.tree.norm(grads),
        learning_rate=self.schedule(state.step),
        **extra,
        **searched,
        **climbed,
        **probed,
      )
    new_state = state.replace(
      step=state.step + 1,
      params=params,
      batch_stats=batch_stats,
      opt_state=opt_state,
      ema=ema,
      objective=objective,
      views=views,
      online=online,
    )
    return new_state, measured

  def encode_views(self, variables, views: contracts.Views):
    """Encodes all views of one size in one call: BatchNorm sees one batch.

    Returns:
      (Features [b v ...], batch_stats).
    """
    groups, batch_stats = [], variables["batch_stats"]
    for images in (views.images, views.local_crops):
      if images is None:
        continue
      b, v = images.shape[:2]
      features, batch_stats = self.encoder.apply(
        {"params": variables["params"], "batch_stats": batch_stats},
        images.reshape(b * v, *images.shape[2:]),
        train=True,
        local="local" in self.objective.requires,
      )
      groups.append(
        jax.tree.map(
          lambda x, b=b, v=v: x.reshape(b, v, *x.shape[1:]), features
        )
      )
    if len(groups) == 1:
      return groups[0], batch_stats
    pooled = jnp.concatenate([group.pooled for group in groups], axis=1)
    return contracts.Features(pooled), batch_stats

  def loss(self, params, state, views):
    """Returns (loss, (metrics, batch_stats, the objective's new state))."""
    with jax.named_scope("encode"):
      features, batch_stats = self.encode_views(
        {"params": params["encoder"], "batch_stats": state.batch_stats}, views
      )
      target = None
      if "target" in self.objective.requires:
        target = self._target(state.ema, views)
    with jax.named_scope("loss"):
      key = jax.random.fold_in(
        rng.stream(self.seed, "objective"), state.step.astype(jnp.uint32)
      )
      loss, extra, objective = self.objective.apply(
        params["head"], features, views, target, state.objective, key
      )
    return loss, (extra, batch_stats, objective)

  def first_loss(self, state, frozen):
    """`loss` of a step's own views, without a search for them."""
    params = state.views.get("params", {})
    views, _ = self.stages.views(state.step, frozen, params)
    return self.loss(state.params, state, views)

  def encode(self, variables, images):
    """Features of whole images: as T_x hands them on, but nothing is cut."""
    images = images_lib.normalize(images, self.mean, self.std)
    return self.encoder.apply(variables, images, train=False)[0].pooled

  def encoder_variables(self, state):
    """Returns the encoder's variables that are evaluated and exported."""
    params, batch_stats = state.params, state.batch_stats
    if self.ema_decay is not None and self.evaluate_ema:
      params, batch_stats = state.ema["params"], state.ema["batch_stats"]
    return {"params": params["encoder"], "batch_stats": batch_stats}

  def preview(self, state, frozen):
    """A column per anchor, a row per view."""
    draws, latents, _ = self._draw(state, frozen)
    shown, before = self.stages.show(draws, latents, frozen)
    pictures = {"views_before_pixel": before}
    for name, images in (
      ("views", shown.images),
      ("views_local", shown.local_crops),
    ):
      if images is not None:
        pictures[name] = (images * self.std + self.mean) * 2 - 1
    columns = min(_PREVIEW_ANCHORS, self.batch)
    return {k: x[:columns].swapaxes(0, 1) for k, x in pictures.items()}

  def _draw(self, state, frozen):
    """Returns (draws, latents after T_z, metrics of a search for them)."""
    draws = self.stages.sample(state.step, frozen)
    latents = self.stages.move(draws, state.views.get("params", {}))

    def loss(latents):
      views, _ = self.stages.show(draws, latents, frozen)
      return self.loss(state.params, state, views)[0]

    # The first rendering of an anchor is the anchor.
    latents, measured = _learned.search(
      self.stages.learned_view,
      loss,
      latents,
      draws.get("anchors"),
      int(self.stages.anchor_first),
      self.stages.split,
    )
    return draws, latents, measured

  def _gradients(self, state, frozen, draws, latents):
    """Returns ((loss, aux), gradient of params, that of a trained T_z's)."""
    if not state.views:
      views, _ = self.stages.show(draws, latents, frozen)
      out, grads = jax.value_and_grad(self.loss, has_aux=True)(
        state.params, state, views
      )
      return out, grads, None

    def loss(params, view_params):
      latents = self.stages.move(draws, view_params)
      views, _ = self.stages.show(draws, latents, frozen)
      return self.loss(params, state, views)

    out, (grads, ascent) = jax.value_and_grad(
      loss, argnums=(0, 1), has_aux=True
    )(state.params, state.views["params"])
    return out, grads, ascent

  def _target(self, ema, views):
    # Its batch norms see the batch, as those of the trained network do.
    variables = {
      "params": ema["params"]["encoder"],
      "batch_stats": ema["batch_stats"],
    }
    features, _ = self.encode_views(variables, views)
    target = contracts.Target(features, ema["params"]["head"])
    return jax.lax.stop_gradient(target)


def make(cfg, run) -> contracts.Program:
  """Builds the training of an encoder.

  Args:
    cfg: `OPTIONS`.
    run: a genrep_jax.run.Run.

  Returns:
    The Program.

  Raises:
    UsageError: anything that does not fit, before anything is compiled.
  """
  _checks.local_maps(run)
  mean, std = run.normalization
  one = GenRep(
    seed=run.seed,
    batch=run.batch,
    stages=run.stages,
    encoder=run.encoder,
    objective=run.objective,
    optimizer=run.optimizer,
    schedule=run.schedule,
    ema_decay=run.ema_decay,
    evaluate_ema=run.config.evaluate_ema,
    mean=jnp.asarray(mean, jnp.float32),
    std=jnp.asarray(std, jnp.float32),
  )
  probe = _online.make(cfg, run, one.encode)
  frozen, facts = dict(run.source.frozen), run.source_facts()
  feed = run.source.feed
  if probe is not None:
    one = dataclasses.replace(one, probe=probe)
    frozen["online"] = probe.source.frozen
    feed = probe.feed(feed)
  if run.objective.frozen is not None:
    frozen["objective"] = run.objective.frozen
  num_views = len(run.stages.rendering_of)
  label = plugins.label_of("objectives", run.config.objective.name)
  with plugins.guard(label, "what it returns"):
    state = jax.eval_shape(one.init)
    fed = {} if feed is None else {"fed": dict(feed.shapes)}
    _checks.objective(label, one.first_loss, state, frozen | fed)
    chance = run.objective.chance(run.batch, num_views)
    if chance is not None:
      facts["chance level of the loss"] = f"{chance:.4f}"

  def exported(state, frozen):
    del frozen
    files = {
      "encoder.safetensors": (
        one.encoder_variables(state),
        export.encoder_metadata(
          encoder=run.plain("encoder"),
          image=run.image_facts(),
          generator=run.generator_facts(),
          config=run.plain(),
          seed=run.seed,
          steps=int(state.step),
        ),
      )
    }
    if state.views:
      files["latent_view.safetensors"] = (
        state.views["params"],
        {
          "view": run.plain("views.latent"),
          "generator_sha256": run.generator.sha256,
          "steps": int(state.step),
          "seed": run.seed,
        },
      )
    return files

  return contracts.Program(
    init=one.init,
    step=one.step,
    frozen=frozen,
    shardings=run.replicated,
    examples_per_step=run.batch,
    images_per_step=run.batch * num_views,
    total_steps=run.total_steps,
    preview=one.preview,
    captions={
      "views_before_pixel": "each column: an anchor and, below it, its "
      "positives, before T_x",
      "views": "the same after T_x",
      "views_local": "local crops",
    },
    facts=facts,
    model=contracts.Model(
      encode=one.encode,
      channels=run.source.image_shape[-1],
      **_judged.offered(run),
    ),
    variables=lambda state, frozen: (
      one.encoder_variables(state) | _judged.variables(state, frozen)
    ),
    feed=feed,
    export=exported,
    check=lambda state, frozen: _checks.probe(
      run, one.encode, one.encoder_variables(state), frozen
    ),
    chance=chance,
    stages=STAGES,
  )
