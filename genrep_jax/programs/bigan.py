"""BiGAN: a generator, its inverse and a discriminator of pairs.

Donahue et al. 2017 (arXiv:1605.09782), eq. 2-4, as the released code plays it:
the discriminator D tells (x, E(x)) from (G(z), z); encoder E and generator G
swap its labels. All three learn from one batch, their gradients taken at the
same parameters. `encoder` and `generator` of the config are E and G, dense
(`mlp`, the permutation-invariant recipe) or convolutional; a linear head takes
E's features to z. D normalizes pairs of either kind among themselves: with both
in one batch D wins within a hundred steps, unlike in the authors' log.

Logged beside the losses, on `alarm_images` of the batch in evaluation mode:
`reconstruction_error`, the mean |x - G(E(x))| over images in [0, 1] (EGr);
`reconstruction_ratio`, that to the error against the next image, 1 where
nothing is inverted; `latent_variance_ratio`, Var(E(G(z))) / Var(z), 0 where the
encoder collapses; `mean_cosine` of the E(x) of different images.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from genrep_jax.lib import (
  contracts,
  export,
  images as images_lib,
  options,
  plugins,
  rng,
)
from genrep_jax.programs import _games, _joint, _players

_PRIOR_DRAWS = 256  # of z, to see whether it is bounded
_PATH = 8  # images of an interpolation
_STANDING_BATCHES = 50  # of real images; running statistics remember ten

OPTIONS = {
  "discriminator": options.choice(
    "dense", ("dense", "convolutional"), "of pairs"
  ),
  "d_widths": options.several(
    (1024, 1024),
    options.integer(low=1, high=65536),
    "its hidden layers: units, or channels after each halving",
    least=2,
  ),
  "prior": options.choice(
    "uniform",
    ("uniform", "gaussian"),
    "the generator's: E ends in 2 sigmoid - 1, or in a linear map",
  ),
  "features": options.choice(
    "hidden", ("hidden", "latent"), "judged: those before the head, or E(x)"
  ),
  "learning_rate": options.number(2e-4, "of all players", low=0),
  "beta1": options.number(0.5, "of Adam", low=0, below=1),
  "beta2": options.number(0.999, "of Adam", low=0, below=1),
  "l2": options.number(2.5e-5, "times each kernel, in its gradient", low=0),
  "decay_fraction": options.number(
    0.5, "the rate falls over this last part", low=0, high=1
  ),
  "final_share": options.number(
    0.01, "to this, exponentially", above=0, high=1
  ),
  "alarm_images": options.integer(
    32, "of each step that say whether the game goes well", low=2, high=65536
  ),
}


def losses(real_logits, fake_logits):
  """Returns (L_D, L_EG) of D's logits.

  Half the binary cross-entropy each, the labels swapped for E and G: it does
  not saturate (games of Donahue et al. 2017, section 3.4).

  Args:
    real_logits: [n], of (x, E(x)).
    fake_logits: [n], of (G(z), z).
  """

  def half(up, down):
    return (jnp.mean(nn.softplus(-up)) + jnp.mean(nn.softplus(down))) / 2

  return half(real_logits, fake_logits), half(fake_logits, real_logits)


def alarms(images, again, z, z_again, inferred):
  """Says whether a joint game inverts its generator.

  Args:
    images: x [n h w c] in [-1, 1].
    again: G(E(x)).
    z: [n d].
    z_again: E(G(z)).
    inferred: E(x) [n d].

  Returns:
    {name: scalar}, see the module.
  """

  def distance(other):
    gap = ((images - other) / 2).reshape(len(images), -1)
    return jnp.mean(jnp.sqrt(jnp.sum(gap**2, axis=1)))

  unit = inferred / (jnp.linalg.norm(inferred, axis=1, keepdims=True) + 1e-12)
  n = len(unit)
  error = distance(again)
  return {
    "reconstruction_error": error,
    "reconstruction_ratio": error / distance(jnp.roll(again, 1, axis=0)),
    "latent_variance_ratio": jnp.mean(
      jnp.var(z_again, axis=0) / jnp.var(z, axis=0)
    ),
    "mean_cosine": (jnp.sum(jnp.sum(unit, axis=0) ** 2) - n) / (n * (n - 1)),
  }


@dataclasses.dataclass(frozen=True)
class Game(_games.Game):
  """The three networks and the rules.

  Attributes:
    encoder: E, but for its head.
    discriminator: D, a linen module of (images, z).
    optimizer: of each of the two players.
    mean: of what E is shown.
    std: likewise.
  """

  encoder: contracts.Encoder
  discriminator: nn.Module
  optimizer: optax.GradientTransformation
  mean: jax.Array
  std: jax.Array

  @property
  def rules(self) -> _players.Rules:
    """Both players learn from one batch."""
    return _players.Rules(
      players={
        "discriminator": _players.Player(("discriminator",), self.optimizer),
        "inference": _players.Player(
          ("encoder", "head", "generator"), self.optimizer
        ),
      },
      phases=(
        _players.Phase(
          "play",
          {"discriminator": self.d_loss, "inference": self.eg_loss},
          self.draw,
        ),
      ),
      total=("d_loss", "eg_loss"),
    )

  def init(self) -> _players.State:
    """Returns the state of step 0."""
    shape = (*self.generator.resolution, self.generator.channels)
    dim = self.generator.latent_dim
    encoder = self.encoder.init(rng.stream(self.seed, "encoder_init"), shape)
    images = jnp.zeros((2, *shape))
    pooled = jax.eval_shape(
      lambda: self.encoder.apply(encoder, images, train=False)[0].pooled
    )
    kernel = 0.02 * jax.random.normal(
      rng.stream(self.seed, "head_init"), (pooled.shape[-1], dim)
    )
    generator = self.generator.init(rng.stream(self.seed, "generator_init"))
    discriminator = self.discriminator.init(
      rng.stream(self.seed, "discriminator_init"), images, jnp.zeros((2, dim))
    )
    return self.rules.init(
      {
        "encoder": encoder["params"],
        "head": {"kernel": kernel},
        "generator": generator["params"],
        "discriminator": discriminator["params"],
      },
      batch_stats={
        "encoder": encoder["batch_stats"],
        "generator": generator["batch_stats"],
      },
    )

  def draw(self, update, frozen):
    """Draws (x, z), the same for all."""
    return self.real_batch(frozen, update)[0], self.latents("latents", update)[
      0
    ]

  def infer(self, params, batch_stats, images, *, train):
    """E: images in [-1, 1] -> (z [n d], features [n f], statistics)."""
    features, batch_stats = self.encoder.apply(
      {"params": params["encoder"], "batch_stats": batch_stats},
      images_lib.normalize(images, self.mean, self.std),
      train=train,
    )
    z = features.pooled @ params["head"]["kernel"]
    if self.options.prior == "uniform":
      z = jnp.tanh(z / 2)  # 2 sigmoid(z) - 1
    return z, features.pooled, batch_stats

  def play(self, params, state, given):
    """Returns (L_D, L_EG, metrics, the new statistics)."""
    images, z = given
    inferred, _, encoder = self.infer(
      params, state.batch_stats["encoder"], images, train=True
    )
    fakes, generator = self.generate_train(
      params["generator"],
      state.batch_stats["generator"],
      z,
      jnp.zeros(len(z), jnp.int32),
    )
    own = {"params": params["discriminator"]}
    real = self.discriminator.apply(own, images, inferred)
    fake = self.discriminator.apply(own, fakes, z)
    measured = {"real_logit": jnp.mean(real), "fake_logit": jnp.mean(fake)}
    moved = {"batch_stats": {"encoder": encoder, "generator": generator}}
    return *losses(real, fake), measured, moved

  def d_loss(self, params, state, given):
    """D's loss; nothing but D moves."""
    loss, _, measured, _ = self.play(params, state, given)
    return loss, ({"d_loss": loss, **measured}, {})

  def eg_loss(self, params, state, given):
    """The loss of E and G, whose statistics move."""
    _, loss, _, moved = self.play(params, state, given)
    some = jax.tree.map(lambda x: x[: self.options.alarm_images], given)
    measured = jax.lax.stop_gradient(self.alarms(params, state, *some))
    return loss, ({"eg_loss": loss, **measured}, moved)

  def alarms(self, params, state, images, z):
    """`alarms` of the networks as they are."""
    variables = self.variables_of(params, state.batch_stats)
    inferred = self.latent(variables, images)
    generated = self.render(variables, z)
    return alarms(
      images,
      self.render(variables, inferred),
      z,
      self.latent(variables, generated),
      inferred,
    )

  def variables_of(self, params, batch_stats):
    """Returns {"params", "batch_stats", "head"} of E and {"generator"}."""
    return {
      "params": params["encoder"],
      "batch_stats": batch_stats["encoder"],
      "head": params["head"],
      "generator": {
        "params": params["generator"],
        "batch_stats": batch_stats["generator"],
      },
    }

  def variables(self, state, frozen):
    """What is judged and exported, its statistics those of its weights.

    Of images that the host feeds, E's statistics stay the running ones.
    """
    made = self.variables_of(state.params, state.batch_stats)
    if frozen and self.source.feed is None:

      def see(batch, batch_stats):
        images = self.real_batch(frozen, batch)[0]
        return self.infer(state.params, batch_stats, images, train=True)[2]

      made["batch_stats"] = jax.jit(
        lambda stats: jax.lax.fori_loop(0, _STANDING_BATCHES, see, stats)
      )(made["batch_stats"])
    return {**made, "generator": self.standing(made["generator"])}

  def render(self, variables, z):
    """G in evaluation mode."""
    y = jnp.zeros(len(z), jnp.int32)
    return self.generator.apply(variables["generator"], z, y)

  def _inferred(self, variables, images):
    params = {"encoder": variables["params"], "head": variables["head"]}
    return self.infer(params, variables["batch_stats"], images, train=False)

  def latent(self, variables, images):
    """E(x) in evaluation mode."""
    return self._inferred(variables, images)[0]

  def encode(self, variables, images):
    """The features that are judged."""
    z, hidden, _ = self._inferred(variables, images)
    return hidden if self.options.features == "hidden" else z

  def reconstruct(self, variables, images):
    """G(E(x))."""
    return self.render(variables, self.latent(variables, images))

  def preview(self, state, frozen):
    """Samples; images above G(E(x)); paths between E(x) of two images."""
    variables = self.variables_of(state.params, state.batch_stats)
    images = self.real_batch(frozen, jnp.int32(0))[0][: _games.GRID]
    z = self.latent(variables, images)
    share = jnp.linspace(0, 1, _PATH)[None, :, None]
    path = z[:, None] * (1 - share) + jnp.roll(z, 1, axis=0)[:, None] * share
    drawn = self.render(variables, path.reshape(-1, z.shape[-1]))
    return {
      "samples": self.samples(variables["generator"]),
      "reconstructions": jnp.stack([images, self.render(variables, z)]),
      "interpolations": drawn.reshape(len(images), _PATH, *images.shape[1:]),
    }


def optimizer(cfg, updates: int) -> optax.GradientTransformation:
  """Adam; its rate is flat, then falls exponentially.

  Args:
    cfg: options as in `OPTIONS`.
    updates: length of the run.
  """
  decay = round(updates * cfg.decay_fraction)
  schedule = cfg.learning_rate
  if decay and cfg.final_share < 1:
    schedule = optax.exponential_decay(
      cfg.learning_rate,
      transition_steps=decay,
      decay_rate=cfg.final_share,
      transition_begin=updates - decay,
    )
  kernels = lambda params: jax.tree.map(lambda x: x.ndim > 1, params)  # noqa: E731
  return optax.chain(
    optax.add_decayed_weights(cfg.l2, kernels),
    optax.adam(schedule, b1=cfg.beta1, b2=cfg.beta2),
  )


def _check(cfg, run, generator) -> None:
  if generator.num_classes:
    options.refuse(
      "generator.num_classes", generator.num_classes, "0: E infers no class"
    )
  keys = rng.per_index(rng.stream(0, "prior"), np.arange(_PRIOR_DRAWS))
  z, _ = jax.vmap(generator.sample)(keys)
  bounded = float(jnp.max(jnp.abs(z))) <= 1
  if bounded != (cfg.prior == "uniform"):
    options.refuse(
      "program.prior",
      cfg.prior,
      f"the generator's; its z are {'' if bounded else 'not '}within -1..1: "
      "or D tells pairs by z alone",
    )
  if cfg.alarm_images > run.batch:
    options.refuse(
      "program.alarm_images", cfg.alarm_images, f"2..{run.batch}, global_batch"
    )
  if not run.config.encoder.name:
    options.refuse("encoder.name", "", ", ".join(plugins.names("encoders")))


def make(cfg, run) -> contracts.Program:
  """Builds the game.

  Args:
    cfg: options as in `OPTIONS`.
    run: a genrep_jax.run.Run; its source gives the real images.

  Returns:
    The Program; one step is one update of all three networks.

  Raises:
    UsageError: settings that cannot work together.
  """
  source = run.source
  generator = plugins.make(
    "generators", run.config.generator, dtype=jnp.float32
  )
  _games.check(source, generator, run.config)
  _check(cfg, run, generator)
  mean, std = run.normalization
  kind = {"dense": _joint.Dense, "convolutional": _joint.Convolutional}
  game = Game(
    seed=run.seed,
    batch=run.batch,
    options=cfg,
    source=source,
    generator=generator,
    split=run.split,
    encoder=run.encoder,
    discriminator=kind[cfg.discriminator](tuple(cfg.d_widths)),
    optimizer=optimizer(cfg, run.total_steps),
    mean=jnp.asarray(mean, jnp.float32),
    std=jnp.asarray(std, jnp.float32),
  )

  def exported(state, frozen):
    variables = jax.device_get(game.variables(state, frozen))
    encoder = {key: variables[key] for key in ("params", "batch_stats")}
    about = export.encoder_metadata(
      encoder=run.plain("encoder"),
      image=run.image_facts(),
      generator={},
      config=run.plain(),
      seed=run.seed,
      steps=int(state.step),
    )
    return {
      "encoder.safetensors": (encoder, about),
      "generator.safetensors": _games.export(
        run, variables["generator"], frozen, state.step
      ),
    }

  return contracts.Program(
    init=game.init,
    step=game.rules.round,
    frozen=source.frozen,
    shardings=run.replicated,
    examples_per_step=run.batch,
    images_per_step=3 * run.batch,
    total_steps=run.total_steps,
    preview=game.preview,
    captions={
      "samples": "samples of the generator",
      "reconstructions": "real images and, below, G(E(x))",
      "interpolations": "from E of one image to E of another",
    },
    preview_at_end=True,
    facts={
      "game": f"bigan, {cfg.discriminator} discriminator, {cfg.prior} prior",
      **run.source_facts(),
    },
    model=contracts.Model(
      encode=game.encode,
      generate=lambda variables, index: game.generate(
        variables["generator"], index
      ),
      reconstruct=game.reconstruct,
      channels=generator.channels,
    ),
    variables=game.variables,
    feed=source.feed,
    export=exported,
    chance=2 * float(np.log(2)),
    stages=("play",),
  )
