"""A minimal GAN: discriminator steps and a generator step, one XLA program.

It trains the small generators this repository embeds. Non-saturating loss
(Goodfellow et al. 2014) with R1 (Mescheder et al. 2018, eq. 9), or hinge loss
(Lim & Ye 2017; Miyato et al. 2018, eq. 16-17) with spectral normalization, and
a moving average of the generator (Karras et al. 2018). Any generator can play
that has `train_apply` and variables {"params", "batch_stats"}.
"""

import dataclasses
from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from genrep_jax.lib import contracts, optim, options, plugins, rng
from genrep_jax.programs import _discriminator, _games, _players

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


def averaged(state: _players.State):
  """Returns the variables of the averaged generator."""
  return {name: of["generator"] for name, of in state.ema.items()}


@dataclasses.dataclass(frozen=True)
class Game(_games.Game):
  """The two players, their optimizers and the rules.

  Attributes:
    discriminator: a linen module.
    tx: {player: optimizer}; each player is one network of its name.
  """

  discriminator: nn.Module
  tx: Mapping[str, optax.GradientTransformation]

  @property
  def rules(self) -> _players.Rules:
    """A round: `d_steps` updates of the discriminator, one of the other."""
    return _players.Rules(
      players={
        name: _players.Player((name,), tx) for name, tx in self.tx.items()
      },
      phases=(
        _players.Phase(
          "discriminator",
          {"discriminator": self.d_loss},
          self.d_draw,
          times=self.options.d_steps,
          before=self.d_before,
        ),
        _players.Phase(
          "generator",
          {"generator": self.g_loss},
          self.g_draw,
          after=self.g_after,
        ),
      ),
      total=("d_loss", "g_loss"),
    )

  def init(self) -> _players.State:
    """Returns the state of step 0."""
    seed, generator = self.seed, self.generator
    variables = generator.init(rng.stream(seed, "generator_init"))
    image = jnp.zeros((1, *generator.resolution, generator.channels))
    d_params = self.discriminator.init(
      rng.stream(seed, "discriminator_init"), image, jnp.zeros(1, jnp.int32)
    )["params"]
    vectors = _discriminator.init_vectors(
      rng.stream(seed, "spectral_init"), d_params
    )
    own = {name: {"generator": tree} for name, tree in variables.items()}
    return self.rules.init(
      {**own["params"], "discriminator": d_params},
      batch_stats=own["batch_stats"],
      vectors={"discriminator": vectors},
      ema=jax.tree.map(jnp.copy, own),
    )

  def discriminate(self, params, vectors, images, labels):
    """The discriminator's logits [n]."""
    if self.options.spectral_norm:
      params = _discriminator.normalize(params, vectors)
    return self.discriminator.apply({"params": params}, images, labels)

  def r1(self, params, vectors, images, labels):
    """E |grad_x D(x)|^2 over real images (Mescheder et al. 2018, eq. 9)."""
    slope = jax.grad(
      lambda x: jnp.sum(self.discriminate(params, vectors, x, labels))
    )(images)
    return jnp.mean(jnp.sum(slope**2, axis=(1, 2, 3)))

  def d_draw(self, update, frozen):
    """Draws (images, labels, z, y) of one update; says whether R1 counts."""
    counts = update % self.options.r1_every == 0
    z, y = self.latents("d_latents", update)
    real = self.real_batch(frozen, update, self.options.d_steps)
    return *real, z, y, counts

  def d_before(self, state, update):
    """Improves the spectral vectors."""
    del update
    vectors = _discriminator.power_iteration(
      state.params["discriminator"], state.vectors["discriminator"]
    )
    return state.moved(vectors={"discriminator": vectors})

  def d_loss(self, params, state, given):
    """The discriminator's loss; the generator's statistics stay."""
    cfg, b = self.options, self.batch
    images, labels, z, y, counts = given
    fakes, _ = self.generate_train(
      params["generator"], state.batch_stats["generator"], z, y
    )
    own, vectors = params["discriminator"], state.vectors["discriminator"]
    logits = self.discriminate(
      own,
      vectors,
      jnp.concatenate([images, fakes]),
      jnp.concatenate([labels, y]),
    )
    real, fake = logits[:b], logits[b:]
    adversarial, penalty = d_loss(cfg.loss, real, fake), jnp.zeros(())
    if cfg.r1_weight:
      penalty = jax.lax.cond(
        counts,
        lambda: self.r1(own, vectors, images, labels),
        lambda: jnp.zeros(()),
      )
    # Lazy: every r1_every-th update carries the weight of all of them.
    penalty *= cfg.r1_every
    measured = {
      "d_loss": adversarial,
      "r1": penalty,
      "real_logit": jnp.mean(real),
      "fake_logit": jnp.mean(fake),
    }
    return adversarial + 0.5 * cfg.r1_weight * penalty, (measured, {})

  def g_draw(self, update, frozen):
    """Draws (z, y) of one update of the generator."""
    del frozen
    return self.latents("g_latents", update)

  def g_loss(self, params, state, given):
    """The generator's loss; its statistics move."""
    z, y = given
    images, batch_stats = self.generate_train(
      params["generator"], state.batch_stats["generator"], z, y
    )
    logits = self.discriminate(
      params["discriminator"], state.vectors["discriminator"], images, y
    )
    value = g_loss(self.options.loss, logits)
    changes = {"batch_stats": {"generator": batch_stats}}
    return value, ({"g_loss": value}, changes)

  def g_after(self, state, update):
    """Moves the averaged generator."""
    new = {
      "params": {"generator": state.params["generator"]},
      "batch_stats": state.batch_stats,
    }
    # Early averages would remember the random start: warm the decay up.
    ema = optim.ema(state.ema, new, self.options.ema_decay, update, warmup=True)
    return state.replace(ema=ema)


def _check(cfg) -> None:
  widths, convs = tuple(cfg.d_widths), tuple(cfg.d_extra_convs)
  if len(widths) != len(convs):
    options.refuse(
      "program.d_extra_convs", convs, f"as many as d_widths, {len(widths)}"
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
  _check(cfg)
  _games.check(source, generator, run.config)
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
    variables = jax.device_get(game.standing(averaged(state)))
    made = _games.export(run, variables, frozen, state.step)
    return {"generator.safetensors": made}

  return contracts.Program(
    init=game.init,
    step=game.rules.round,
    frozen=source.frozen,
    shardings=run.replicated,
    examples_per_step=run.batch * cfg.d_steps,
    images_per_step=run.batch * (2 * cfg.d_steps + 1),
    total_steps=total,
    preview=lambda state, frozen: {"samples": game.samples(averaged(state))},
    captions={"samples": "samples of the averaged generator, by class"},
    preview_at_end=True,
    facts={
      "game": f"gan, {cfg.loss} loss, {cfg.d_steps} discriminator update(s) a "
      "step",
      **run.source_facts(),
    },
    model=contracts.Model(generate=game.generate, channels=generator.channels),
    variables=lambda state, frozen: game.standing(averaged(state)),
    feed=source.feed,
    feed_batches=cfg.d_steps,
    export=exported,
    stages=("discriminator", "generator"),
  )
