"""A minimal GAN: discriminator steps and a generator step, one XLA program.

It trains the small generators this repository embeds. Non-saturating loss
(Goodfellow et al. 2014) with R1 (Mescheder et al. 2018, eq. 9), or hinge loss
(Lim & Ye 2017; Miyato et al. 2018, eq. 16-17) with spectral normalisation, and
a moving average of the generator (Karras et al. 2018). Any generator can play
whose module has a function `module(cfg)` that returns its linen module.
"""

import dataclasses
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax

from genrep_jax.games import _discriminator, _export
from genrep_jax.lib import (
  contracts,
  errors,
  mesh as mesh_lib,
  metrics,
  plugins,
  rng,
  schedules,
)

export = _export.export  # called by the main job after the last step

LOSSES = ("hinge", "non_saturating")
_GRID = 10  # the preview is _GRID x _GRID images


def default_config() -> dict:
  """Lists the options and their defaults."""
  return {
    "name": "gan",
    "loss": "non_saturating",  # hinge | non_saturating
    "d_steps": 1,  # discriminator updates per round
    "d_widths": (48, 96, 192),  # channels after each halving
    "d_extra_convs": (0, 0, 0),  # more 3x3 convolutions after each halving
    "d_learning_rate": 1e-3,
    "g_learning_rate": 1e-3,
    "beta1": 0.0,  # of Adam
    "beta2": 0.99,
    "decay_fraction": 0.4,  # both rates fall linearly to 0 over this last part
    "spectral_norm": False,
    "r1_weight": 0.1,  # gamma; 0: no R1
    "r1_every": 8,  # lazy regularisation (Karras et al. 2020)
    "ema_decay": 0.999,
  }


@flax.struct.dataclass
class State:
  """State of a game; everything random is a function of (seed, step).

  Attributes:
    step: int32 scalar, rounds played.
    params: {"generator": ..., "discriminator": ...}.
    batch_stats: of the generator.
    vectors: spectral normalisation's singular vectors, per kernel.
    opt_state: {"generator": ..., "discriminator": ...}.
    ema: {"params", "batch_stats"} of the averaged generator: the export.
  """

  step: jax.Array
  params: Any
  batch_stats: Any
  vectors: Any
  opt_state: Any
  ema: Any


def d_loss(kind: str, real: jax.Array, fake: jax.Array) -> jax.Array:
  """The discriminator's loss of logits real [n], fake [n]; a scalar."""
  if kind == "hinge":
    return jnp.mean(nn.relu(1 - real)) + jnp.mean(nn.relu(1 + fake))
  return jnp.mean(nn.softplus(-real)) + jnp.mean(nn.softplus(fake))


def g_loss(kind: str, fake: jax.Array) -> jax.Array:
  """The generator's loss of logits fake [n]; a scalar."""
  if kind == "hinge":
    return -jnp.mean(fake)
  return jnp.mean(nn.softplus(-fake))


def optimiser(cfg, learning_rate: float, updates: int):
  """Adam whose rate is flat, then falls linearly to 0.

  Args:
    cfg: the game's entry of the config.
    learning_rate: of the flat part.
    updates: length of the run, in updates of this player.
  """
  decay = round(updates * cfg.decay_fraction)
  schedule = learning_rate
  if decay:
    schedule = optax.linear_schedule(learning_rate, 0.0, decay, updates - decay)
  return optax.adam(schedule, b1=cfg.beta1, b2=cfg.beta2)


def _check(cfg, mesh, dataset, generator) -> None:
  """Raises UsageError for settings that cannot work."""
  game, devices = cfg.game, mesh.devices.size
  if game.loss not in LOSSES:
    raise errors.UsageError(
      f"game.loss: unknown {game.loss!r}; known: {', '.join(LOSSES)}"
    )
  if len(game.d_widths) != len(game.d_extra_convs) or not game.d_widths:
    raise errors.UsageError(
      f"game: d_widths {tuple(game.d_widths)} and d_extra_convs "
      f"{tuple(game.d_extra_convs)} must have the same length, at least 1"
    )
  for name in ("d_steps", "r1_every"):
    if game[name] < 1:
      raise errors.UsageError(f"game.{name}: {game[name]} is not positive")
  for name in ("decay_fraction", "ema_decay"):
    if not 0 <= game[name] <= 1:
      raise errors.UsageError(f"game.{name}: {game[name]} is not in [0, 1]")
  if game.r1_weight < 0:
    raise errors.UsageError(f"game.r1_weight: {game.r1_weight} is negative")
  if cfg.global_batch <= 0 or cfg.global_batch % devices:
    raise errors.UsageError(
      f"global_batch: {cfg.global_batch} is not divisible by {devices} devices"
    )
  shape = (*generator.resolution, generator.channels)
  found = tuple(dataset.train.images.shape[1:])
  if found != shape:
    raise errors.UsageError(
      f"game: the generator makes images {shape}, {dataset.name} has {found}"
    )
  if generator.num_classes not in (0, dataset.num_classes):
    raise errors.UsageError(
      f"generator.num_classes: {generator.num_classes} must be 0 or, as "
      f"{dataset.name} has, {dataset.num_classes}"
    )


@dataclasses.dataclass(frozen=True)
class _Game:
  """The two players, their optimisers and the rules.

  Attributes:
    cfg: the whole config.
    mesh: the devices.
    generator: its contracts.Generator; `sample` and the shapes.
    net: its linen module, for training mode.
    discriminator: the linen module.
    tx: {player: optimiser}.
    size: number of real images.
    total_steps: length of the run, in rounds.
  """

  cfg: Any
  mesh: Any
  generator: contracts.Generator
  net: nn.Module
  discriminator: nn.Module
  tx: Any
  size: int
  total_steps: int

  def init(self) -> State:
    """Returns the state of step 0."""
    seed, generator = self.cfg.seed, self.generator
    variables = generator.init(rng.stream(seed, "generator_init"))
    image = jnp.zeros((1, *generator.resolution, generator.channels))
    d_params = self.discriminator.init(
      rng.stream(seed, "discriminator_init"), image, jnp.zeros(1, jnp.int32)
    )["params"]
    params = {"generator": variables["params"], "discriminator": d_params}
    return State(
      step=jnp.zeros((), jnp.int32),
      params=params,
      batch_stats=variables["batch_stats"],
      vectors=_discriminator.init_vectors(
        rng.stream(seed, "spectral_init"), d_params
      ),
      opt_state={name: tx.init(params[name]) for name, tx in self.tx.items()},
      ema=jax.tree.map(jnp.copy, variables),
    )

  def indices(self, update):
    """Global sample indices uint32 [b] of one update of one player."""
    b = self.cfg.global_batch
    return jnp.uint32(update) * jnp.uint32(b) + jnp.arange(b, dtype=jnp.uint32)

  def latents(self, name, update):
    """Draws (z [b latent_dim], y [b]) of the stream `name`."""
    key = rng.stream(self.cfg.seed, name)
    keys = rng.per_index(key, self.indices(update))
    return mesh_lib.split_batch(
      jax.vmap(self.generator.sample)(keys), self.mesh
    )

  def real_batch(self, frozen, update):
    """Gathers (images [b h w c] in [-1, 1], labels [b]), epoch by epoch."""
    key = rng.stream(self.cfg.seed, "real")
    rows = jax.vmap(rng.permuted_index, in_axes=(None, 0, None))(
      key, self.indices(update), self.size
    )
    images = frozen["images"][rows].astype(jnp.float32) / 127.5 - 1
    labels = frozen["labels"][rows]
    if not self.generator.num_classes:
      labels = jnp.zeros_like(labels)
    return mesh_lib.split_batch((images, labels), self.mesh)

  def judge(self, params, vectors, images, labels):
    """The discriminator's logits [n]."""
    if self.cfg.game.spectral_norm:
      params = _discriminator.normalise(params, vectors)
    return self.discriminator.apply({"params": params}, images, labels)

  def paint(self, params, batch_stats, z, y):
    """The generator in training mode: (images, new batch statistics)."""
    images, updated = self.net.apply(
      {"params": params, "batch_stats": batch_stats},
      z,
      y,
      train=True,
      mutable=["batch_stats"],
    )
    return images, updated["batch_stats"]

  def r1(self, params, vectors, images, labels):
    """E |grad_x D(x)|^2 over real images (Mescheder et al. 2018, eq. 9)."""
    slope = jax.grad(lambda x: jnp.sum(self.judge(params, vectors, x, labels)))(
      images
    )
    return jnp.mean(jnp.sum(slope**2, axis=(1, 2, 3)))

  def update(self, name, state, grads):
    """Applies one player's gradient."""
    updates, opt_state = self.tx[name].update(grads, state.opt_state[name])
    params = optax.apply_updates(state.params[name], updates)
    return state.replace(
      params=state.params | {name: params},
      opt_state=state.opt_state | {name: opt_state},
    )

  def d_update(self, state, frozen, update):
    """One discriminator update; returns (state, metrics)."""
    game, b = self.cfg.game, self.cfg.global_batch
    images, labels = self.real_batch(frozen, update)
    z, y = self.latents("d_latents", update)
    fakes, _ = self.paint(state.params["generator"], state.batch_stats, z, y)
    vectors = _discriminator.power_iteration(
      state.params["discriminator"], state.vectors
    )

    def loss(params):
      logits = self.judge(
        params,
        vectors,
        jnp.concatenate([images, fakes]),
        jnp.concatenate([labels, y]),
      )
      real, fake = logits[:b], logits[b:]
      adversarial, penalty = d_loss(game.loss, real, fake), jnp.zeros(())
      if game.r1_weight:
        penalty = jax.lax.cond(
          update % game.r1_every == 0,
          lambda: self.r1(params, vectors, images, labels),
          lambda: jnp.zeros(()),
        )
      # Lazy: every r1_every-th update carries the weight of all of them.
      penalty *= game.r1_every
      return adversarial + 0.5 * game.r1_weight * penalty, {
        "d_loss": adversarial,
        "r1": penalty,
        "real_logit": jnp.mean(real),
        "fake_logit": jnp.mean(fake),
      }

    grads, values = jax.grad(loss, has_aux=True)(state.params["discriminator"])
    state = self.update("discriminator", state, grads)
    return state.replace(vectors=vectors), values

  def g_update(self, state):
    """One generator update; returns (state, its loss)."""
    z, y = self.latents("g_latents", state.step)

    def loss(params):
      images, batch_stats = self.paint(params, state.batch_stats, z, y)
      logits = self.judge(
        state.params["discriminator"], state.vectors, images, y
      )
      return g_loss(self.cfg.game.loss, logits), batch_stats

    (value, batch_stats), grads = jax.value_and_grad(loss, has_aux=True)(
      state.params["generator"]
    )
    state = self.update("generator", state, grads)
    # Early averages would remember the random start: warm the decay up.
    t = state.step.astype(jnp.float32)
    decay = jnp.minimum(self.cfg.game.ema_decay, (1 + t) / (10 + t))
    ema = jax.tree.map(
      lambda old, new: decay * old + (1 - decay) * new,
      state.ema,
      {"params": state.params["generator"], "batch_stats": batch_stats},
    )
    return state.replace(batch_stats=batch_stats, ema=ema), value

  def step(self, state, frozen):
    """One round: d_steps discriminator updates, one generator update."""
    d_steps = self.cfg.game.d_steps
    for i in range(d_steps):
      with jax.named_scope("discriminator"):
        state, values = self.d_update(state, frozen, state.step * d_steps + i)
    with jax.named_scope("generator"):
      state, value = self.g_update(state)
    collected = metrics.collection(
      state.step + 1, loss=values["d_loss"] + value, g_loss=value, **values
    )
    return state.replace(step=state.step + 1), collected

  def preview(self, state, frozen):
    """A grid of the averaged generator's images, a column per class."""
    del frozen
    keys = rng.per_index(
      rng.stream(self.cfg.seed, "preview"),
      jnp.arange(_GRID**2, dtype=jnp.uint32),
    )
    z, y = jax.vmap(self.generator.sample)(keys)
    if self.generator.num_classes:
      y = jnp.arange(_GRID**2, dtype=jnp.int32) % self.generator.num_classes
    images = self.generator.apply(state.ema, z, y)
    return {"samples": images.reshape(_GRID, _GRID, *images.shape[1:])}


def _play(cfg, mesh, dataset) -> _Game:
  """Builds the players; raises UsageError for what cannot play."""
  room = plugins.resolve("generators", cfg.generator.name)
  if not hasattr(room, "module"):
    raise errors.UsageError(
      f"generator.name: {cfg.generator.name!r} cannot be trained: its module "
      "has no function module(cfg)"
    )
  generator = room.make(cfg.generator)
  _check(cfg, mesh, dataset, generator)
  game, size = cfg.game, len(dataset.train.images)
  total = schedules.steps_of(
    cfg, "total", examples_per_epoch=size, batch=cfg.global_batch
  )
  return _Game(
    cfg=cfg,
    mesh=mesh,
    generator=generator,
    net=room.module(cfg.generator),
    discriminator=_discriminator.Discriminator(
      tuple(game.d_widths), tuple(game.d_extra_convs), generator.num_classes
    ),
    tx={
      "generator": optimiser(game, game.g_learning_rate, total),
      "discriminator": optimiser(
        game, game.d_learning_rate, total * game.d_steps
      ),
    },
    size=size,
    total_steps=total,
  )


def make(cfg, mesh, dataset) -> contracts.Program:
  """Builds the game.

  Args:
    cfg: the whole config: seed, global_batch, total_*, generator, game.
    mesh: the device mesh.
    dataset: a contracts.Dataset; its train split is kept on the devices.

  Returns:
    The Program; one step is `d_steps` discriminator updates and one of the
    generator.

  Raises:
    UsageError: settings that cannot work together.
  """
  played = _play(cfg, mesh, dataset)
  replicated = mesh_lib.replicated(mesh)
  d_steps = cfg.game.d_steps
  return contracts.Program(
    init=played.init,
    step=played.step,
    frozen={
      "images": np.asarray(dataset.train.images),
      "labels": np.asarray(dataset.train.labels, np.int32),
    },
    frozen_shardings={"images": replicated, "labels": replicated},
    examples_per_step=cfg.global_batch * d_steps,
    images_per_step=cfg.global_batch * (2 * d_steps + 1),
    total_steps=played.total_steps,
    preview=played.preview,
    facts={
      "game": f"gan, {cfg.game.loss} loss, {d_steps} discriminator update(s) "
      "a step",
      "real images": f"{dataset.name}, {played.size} on the devices",
    },
  )
