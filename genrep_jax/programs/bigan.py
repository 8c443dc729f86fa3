"""BiGAN: a generator, its inverse and a discriminator of pairs.

Donahue et al. 2017 (arXiv:1605.09782), eq. 2-4, as the released code plays it:
the discriminator D tells (x, E(x)) from (G(z), z); encoder E and generator G
swap its labels. All three learn from one batch, their gradients taken at the
same parameters. `encoder` and `generator` of the config are E and G, dense
(`mlp`, the permutation-invariant recipe) or convolutional; a linear head takes
E's features to z. D normalizes pairs of either kind among themselves: with both
in one batch D wins within a hundred steps, unlike in the authors' log.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from genrep_jax.lib import contracts, options, rng
from genrep_jax.programs import _inference, _joint, _players

OPTIONS = {
  **_inference.OPTIONS,
  "discriminator": options.choice(
    "dense", ("dense", "convolutional"), "of pairs"
  ),
  "d_widths": options.several(
    (1024, 1024),
    options.integer(low=1, high=65536),
    "its hidden layers: units, or channels after each halving",
    least=2,
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


@dataclasses.dataclass(frozen=True)
class Game(_inference.Game):
  """The three networks and the rules.

  Attributes:
    discriminator: D, a linen module of (images, z).
    optimizer: of each of the two players.
  """

  discriminator: nn.Module
  optimizer: optax.GradientTransformation

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
    images = jnp.zeros((2, *self.generator.resolution, self.generator.channels))
    params, batch_stats, pooled = self.init_networks(images)
    dim = self.generator.latent_dim
    kernel = 0.02 * jax.random.normal(
      rng.stream(self.seed, "head_init"), (pooled.shape[-1], dim)
    )
    discriminator = self.discriminator.init(
      rng.stream(self.seed, "discriminator_init"), images, jnp.zeros((2, dim))
    )
    params |= {
      "head": {"kernel": kernel},
      "discriminator": discriminator["params"],
    }
    return self.rules.init(params, batch_stats=batch_stats)

  def head(self, params, pooled):
    """A linear map."""
    return pooled @ params["kernel"]

  def draw(self, update, frozen):
    """Draws (x, z), the same for all."""
    return self.real_batch(frozen, update)[0], self.latents("latents", update)[
      0
    ]

  def infer(self, params, batch_stats, images):
    """E in training mode: images in [-1, 1] -> (z [n d], statistics)."""
    pooled, batch_stats = self.features(params, batch_stats, images, train=True)
    return self.bounded(self.head(params["head"], pooled)), batch_stats

  def play(self, params, state, given):
    """Returns (L_D, L_EG, metrics, the new statistics)."""
    images, z = given
    inferred, encoder = self.infer(params, state.batch_stats["encoder"], images)
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
    variables = self.variables_of(params, state.batch_stats)
    measured = self.measure(variables, *given)
    return loss, ({"eg_loss": loss, **measured}, moved)


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
  kind = {"dense": _joint.Dense, "convolutional": _joint.Convolutional}
  game = Game(
    **_inference.parts(cfg, run),
    discriminator=kind[cfg.discriminator](tuple(cfg.d_widths)),
    optimizer=optimizer(cfg, run.total_steps),
  )
  return _inference.program(
    game,
    game.rules,
    run,
    told=f"bigan, {cfg.discriminator} discriminator, {cfg.prior} prior",
    examples_per_step=run.batch,
    images_per_step=3 * run.batch,
    chance=2 * float(np.log(2)),
  )
