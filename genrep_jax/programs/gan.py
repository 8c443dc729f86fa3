"""A minimal GAN: discriminator steps and a generator step, one XLA program.

It trains the small generators this repository embeds. Non-saturating loss
(Goodfellow et al. 2014) with R1 (Mescheder et al. 2018, eq. 9), or hinge loss
(Lim & Ye 2017; Miyato et al. 2018, eq. 16-17) with spectral normalization, and
a moving average of the generator (Karras et al. 2018). Any generator can play
that has `train_apply` and variables {"params", "batch_stats"}.
"""

import dataclasses
import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax

from genrep_jax.lib import contracts, metrics, optim, options, plugins, rng
from genrep_jax.programs import _discriminator

_GRID = 10  # the preview is _GRID x _GRID images
_STANDING_BATCHES = 40  # of _STANDING_SIZE latents each
_STANDING_SIZE = 500

OPTIONS = {
  "loss": options.choice(
    "non_saturating", ("hinge", "non_saturating"), "of both players"
  ),
  "d_steps": options.integer(
    1, "discriminator updates per round", low=1, high=100
  ),
  "d_widths": options.several(
    (48, 96, 192),
    options.integer(low=1, high=4096),
    "channels after each halving",
    least=1,
  ),
  "d_extra_convs": options.several(
    (0, 0, 0),
    options.integer(low=0, high=16),
    "more 3x3 convolutions after each halving",
  ),
  "d_learning_rate": options.number(1e-3, "of the discriminator", low=0),
  "g_learning_rate": options.number(1e-3, "of the generator", low=0),
  "beta1": options.number(0.0, "of Adam", low=0, below=1),
  "beta2": options.number(0.99, "of Adam", low=0, below=1),
  "decay_fraction": options.number(
    0.4, "both rates fall linearly to 0 over this last part", low=0, high=1
  ),
  "spectral_norm": options.flag(False, "of the discriminator's kernels"),
  "r1_weight": options.number(0.1, "gamma; 0: no R1", low=0),
  "r1_every": options.integer(
    8, "lazy regularization (Karras et al. 2020)", low=1, unit="updates"
  ),
  "ema_decay": options.number(0.999, "of the generator", low=0, high=1),
}


@flax.struct.dataclass
class State:
  """State of a game; everything random is a function of (seed, step).

  Attributes:
    step: int32 scalar, rounds played.
    params: {"generator": ..., "discriminator": ...}.
    batch_stats: of the generator.
    vectors: spectral normalization's singular vectors, per kernel.
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


def optimizer(cfg, learning_rate: float, updates: int):
  """Adam whose rate is flat, then falls linearly to 0.

  Args:
    cfg: options as in `OPTIONS`.
    learning_rate: of the flat part.
    updates: length of the run, in updates of this player.
  """
  decay = round(updates * cfg.decay_fraction)
  schedule = learning_rate
  if decay:
    schedule = optax.linear_schedule(learning_rate, 0.0, decay, updates - decay)
  return optax.adam(schedule, b1=cfg.beta1, b2=cfg.beta2)


@dataclasses.dataclass(frozen=True)
class Game:
  """The two players, their optimizers and the rules.

  Attributes:
    seed: of the run.
    batch: b, images of each kind in an update.
    options: as in `OPTIONS`.
    source: of the real images.
    generator: the player that is exported.
    discriminator: the other's linen module.
    tx: {player: optimizer}.
    split: shards arrays over the devices by their first axis.
  """

  seed: int
  batch: int
  options: Any
  source: contracts.Source
  generator: contracts.Generator
  discriminator: nn.Module
  tx: Mapping[str, optax.GradientTransformation]
  split: Callable

  def init(self) -> State:
    """Returns the state of step 0."""
    seed, generator = self.seed, self.generator
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
      ema=jax.tree.map(jnp.copy, dict(variables)),
    )

  def sample(self, name, indices):
    """Draws (z [n sample_dim], y [n]) of the stream `name`."""
    keys = rng.per_index(rng.stream(self.seed, name), indices)
    return jax.vmap(self.generator.sample)(keys)

  def latents(self, name, update):
    """Draws (z [b sample_dim], y [b]) of one update of one player."""
    return self.split(self.sample(name, rng.indices(update, self.batch)))

  def real_batch(self, frozen, update):
    """Gathers (images [b h w c] in [-1, 1], labels [b]), epoch by epoch."""
    if "fed" in frozen and self.options.d_steps > 1:
      turn = update % self.options.d_steps
      fed = jax.tree.map(lambda x: x[turn], frozen["fed"])
      frozen = {**frozen, "fed": fed}
    draws = self.source.draw(update, frozen)
    images, labels = (
      self.source.show(draws, None, frozen)[:, 0],
      draws["labels"],
    )
    if not self.generator.num_classes:
      labels = jnp.zeros_like(labels)
    return self.split((images, labels))

  def discriminate(self, params, vectors, images, labels):
    """The discriminator's logits [n]."""
    if self.options.spectral_norm:
      params = _discriminator.normalize(params, vectors)
    return self.discriminator.apply({"params": params}, images, labels)

  def generate_train(self, params, batch_stats, z, y):
    """The generator in training mode: (images, new batch statistics)."""
    variables = {"params": params, "batch_stats": batch_stats}
    images, updated = self.generator.train_apply(variables, z, y)
    return images, updated["batch_stats"]

  def r1(self, params, vectors, images, labels):
    """E |grad_x D(x)|^2 over real images (Mescheder et al. 2018, eq. 9)."""
    slope = jax.grad(
      lambda x: jnp.sum(self.discriminate(params, vectors, x, labels))
    )(images)
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
    cfg, b = self.options, self.batch
    images, labels = self.real_batch(frozen, update)
    z, y = self.latents("d_latents", update)
    fakes, _ = self.generate_train(
      state.params["generator"], state.batch_stats, z, y
    )
    vectors = _discriminator.power_iteration(
      state.params["discriminator"], state.vectors
    )

    def loss(params):
      logits = self.discriminate(
        params,
        vectors,
        jnp.concatenate([images, fakes]),
        jnp.concatenate([labels, y]),
      )
      real, fake = logits[:b], logits[b:]
      adversarial, penalty = d_loss(cfg.loss, real, fake), jnp.zeros(())
      if cfg.r1_weight:
        penalty = jax.lax.cond(
          update % cfg.r1_every == 0,
          lambda: self.r1(params, vectors, images, labels),
          lambda: jnp.zeros(()),
        )
      # Lazy: every r1_every-th update carries the weight of all of them.
      penalty *= cfg.r1_every
      return adversarial + 0.5 * cfg.r1_weight * penalty, {
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
      images, batch_stats = self.generate_train(params, state.batch_stats, z, y)
      logits = self.discriminate(
        state.params["discriminator"], state.vectors, images, y
      )
      return g_loss(self.options.loss, logits), batch_stats

    (value, batch_stats), grads = jax.value_and_grad(loss, has_aux=True)(
      state.params["generator"]
    )
    state = self.update("generator", state, grads)
    # Early averages would remember the random start: warm the decay up.
    ema = optim.ema(
      state.ema,
      {"params": state.params["generator"], "batch_stats": batch_stats},
      self.options.ema_decay,
      state.step,
      warmup=True,
    )
    return state.replace(batch_stats=batch_stats, ema=ema), value

  def step(self, state, frozen):
    """One round: d_steps discriminator updates, one generator update."""
    d_steps = self.options.d_steps
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
    z, y = self.sample("preview", rng.indices(0, _GRID**2))
    if self.generator.num_classes:
      y = jnp.arange(_GRID**2, dtype=jnp.int32) % self.generator.num_classes
    images = self.generator.apply(state.ema, z, y)
    return {"samples": images.reshape(_GRID, _GRID, *images.shape[1:])}

  def generate(self, variables, index):
    """Draws (images [n h w c], classes [n]) of the numbers uint32 [n]."""
    z, y = self.sample("generate", index)
    return self.generator.apply(variables, z, y), y

  def variables(self, state, frozen=None):
    """The averaged generator, its batch-norm statistics measured anew.

    The moving average of the statistics lags behind the averaged weights: they
    belong to other weights. Means over 40 batches of 500 latents fit (Brock et
    al. 2019, section 2: "standing statistics").
    """
    del frozen

    @jax.jit
    def measure(variables, batch):
      indices = rng.indices(batch, _STANDING_SIZE)
      z, y = self.sample("standing_statistics", indices)
      _, new = self.generator.train_apply(variables, z, y, momentum=0.0)
      return new["batch_stats"]

    measured = [
      jax.device_get(measure(state.ema, np.uint32(batch)))
      for batch in range(_STANDING_BATCHES)
    ]
    statistics = jax.tree.map(lambda *x: np.mean(x, axis=0), *measured)
    return {"params": state.ema["params"], "batch_stats": statistics}


def _check(cfg, source, generator, config) -> None:
  """Raises UsageError for settings that cannot work together."""
  widths, convs = tuple(cfg.d_widths), tuple(cfg.d_extra_convs)
  if len(widths) != len(convs):
    options.refuse(
      "program.d_extra_convs", convs, f"as many as d_widths, {len(widths)}"
    )
  if generator.train_apply is None:
    options.refuse(
      "generator.name",
      config.generator.name,
      "a generator that has train_apply",
    )
  if source.generator is not None:
    options.refuse(
      "source.name", config.source.name, "real images alone: array"
    )
  shape = (*generator.resolution, generator.channels)
  if source.image_shape != shape:
    options.refuse(
      "data.name",
      f"images {source.image_shape}",
      f"the generator's {shape}",
    )
  if generator.num_classes not in (0, source.num_classes):
    options.refuse(
      "generator.num_classes",
      generator.num_classes,
      f"0 or, as the real images have, {source.num_classes}",
    )


def make(cfg, run) -> contracts.Program:
  """Builds the game.

  Args:
    cfg: options as in `OPTIONS`.
    run: a genrep_jax.run.Run; its source gives the real images.

  Returns:
    The Program; one step is `d_steps` discriminator updates and one of the
    generator.

  Raises:
    UsageError: settings that cannot work together.
  """
  source = run.source
  generator = plugins.make(
    "generators", run.config.generator, dtype=jnp.float32
  )
  _check(cfg, source, generator, run.config)
  total = run.total_steps
  game = Game(
    seed=run.seed,
    batch=run.batch,
    options=cfg,
    source=source,
    generator=generator,
    discriminator=_discriminator.Discriminator(
      tuple(cfg.d_widths), tuple(cfg.d_extra_convs), generator.num_classes
    ),
    tx={
      "generator": optimizer(cfg, cfg.g_learning_rate, total),
      "discriminator": optimizer(cfg, cfg.d_learning_rate, total * cfg.d_steps),
    },
    split=run.split,
  )

  def exported(state, frozen):
    variables = jax.device_get(game.variables(state))
    half = jax.tree.map(lambda x: x.astype(np.float16), variables["params"])
    digest = hashlib.sha256()
    train = run.dataset.train
    for array in (np.asarray(train.images), frozen["labels"]):
      digest.update(np.ascontiguousarray(array).tobytes())
    entry = run.plain("generator")
    for key in ("weights", "sha256"):  # of what was loaded, not of this file
      entry.pop(key, None)
    metadata = {
      "generator": entry,
      "program": run.plain("program"),
      "data": run.config.data.name,
      "data_sha256": digest.hexdigest(),
      "seed": run.seed,
      "global_batch": run.batch,
      "steps": int(state.step),
    }
    return {"generator.safetensors": (variables | {"params": half}, metadata)}

  return contracts.Program(
    init=game.init,
    step=game.step,
    frozen=source.frozen,
    shardings=run.replicated,
    examples_per_step=run.batch * cfg.d_steps,
    images_per_step=run.batch * (2 * cfg.d_steps + 1),
    total_steps=total,
    preview=game.preview,
    captions={"samples": "samples of the averaged generator, by class"},
    preview_at_end=True,
    facts={
      "game": f"gan, {cfg.loss} loss, {cfg.d_steps} discriminator update(s) a "
      "step",
      **run.source_facts(),
    },
    model=contracts.Model(generate=game.generate, channels=generator.channels),
    variables=game.variables,
    feed=source.feed,
    feed_batches=cfg.d_steps,
    export=exported,
    stages=("discriminator", "generator"),
  )
