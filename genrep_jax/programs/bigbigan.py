"""BigBiGAN: a generator, its stochastic inverse, a discriminator with unaries.

Donahue & Simonyan 2019 (arXiv:1907.02544), section 2. The discriminator scores
the pairs (x, E(x)) and (G(z), z), and their images and latents alone; each of
its scores is clamped on its own (hinge). `d_steps` updates of it, then one of
encoder E and generator G together, real images and latents drawn anew for each.
E and G are averaged, and judged so.

E is the config's encoder with a head to (mean, stdev) of z, of which z is
drawn; judged and reconstructed from is the mean. Real images may be k times as
wide as the generator's: E is then shown them whole, the discriminator their
k x k means. In the discriminator's phase the statistics of E and G stay as they
are (in the code of BigGAN the generator's move there, too).

`scores`, `stochastic`, `prior`, learning rates and the sizes of the images are
the switches of the paper's ablation (its Table 1).
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from genrep_jax.lib import contracts, optim, options, rng
from genrep_jax.programs import _inference, _players, _scores

_NETWORKS = ("encoder", "head", "generator")
_TERMS = ("x", "z", "xz")

OPTIONS = {
  **_inference.OPTIONS,
  "prior": options.choice(
    "gaussian",
    ("gaussian", "uniform"),
    "the generator's: E ends in a linear map, or in 2 sigmoid - 1 (ours)",
  ),
  "scores": options.several(
    _TERMS,
    options.choice("xz", _TERMS),
    "of the discriminator: of images, latents, pairs",
    least=1,
  ),
  "stochastic": options.flag(True, "z is drawn of what E says; else its mean"),
  "d_steps": options.integer(
    1, "discriminator updates per round", low=1, high=100
  ),
  "d_widths": options.several(
    (64, 128, 128, 128),
    options.integer(low=1, high=16384),
    "channels of F's blocks",
    least=1,
  ),
  "d_halvings": options.integer(
    2, "the first so many of them halve the side", low=0, high=16
  ),
  "joint_width": options.integer(
    128, "of the residual blocks of H and J", low=1, high=65536, unit="units"
  ),
  "joint_blocks": options.integer(3, "of each", low=1, high=64),
  "head_width": options.integer(
    512, "of E's head", low=1, high=65536, unit="units"
  ),
  "d_learning_rate": options.number(2e-4, "of the discriminator", low=0),
  "g_learning_rate": options.number(2e-4, "of the generator", low=0),
  "e_learning_rate": options.number(2e-4, "of encoder and head", low=0),
  "beta1": options.number(0.0, "of Adam", low=0, below=1),
  "beta2": options.number(0.999, "of Adam", low=0, below=1),
  "ema_decay": options.number(
    0.999, "of encoder, head and generator", low=0, high=1
  ),
}


def d_loss(real_scores, fake_scores):
  """The discriminator's loss, a scalar; h(t) = max(0, 1 - t).

  The sum over the scores of the mean of h(s) over real and h(-s) over fake
  pairs (section 2, with y = 1 for real ones).

  Args:
    real_scores: {"x", "z", "xz": [n]} of (x, E(x)); a missing one is off.
    fake_scores: likewise of (G(z), z).
  """
  real = sum(jnp.mean(nn.relu(1 - s)) for s in real_scores.values())
  fake = sum(jnp.mean(nn.relu(1 + s)) for s in fake_scores.values())
  return real + fake


def eg_loss(real_scores, fake_scores):
  """The loss of E, which lowers real scores, and G, which raises fake ones.

  Args:
    real_scores: see `d_loss`.
    fake_scores: likewise.
  """
  real = sum(jnp.mean(s) for s in real_scores.values())
  return real - sum(jnp.mean(s) for s in fake_scores.values())


@dataclasses.dataclass(frozen=True)
class Game(_inference.Game):
  """The networks and the rules.

  Attributes:
    discriminator: a `_scores.Discriminator`.
    latent_head: a `_scores.LatentHead`.
    d_optimizer: of the discriminator.
    eg_optimizer: of {"encoder", "head", "generator"}.
    shrink: k, the side of real images over that of generated ones.
  """

  discriminator: nn.Module
  latent_head: nn.Module
  d_optimizer: optax.GradientTransformation
  eg_optimizer: optax.GradientTransformation
  shrink: int

  @property
  def batches(self) -> int:
    """Real batches that a round takes: one for each update."""
    return self.options.d_steps + 1

  @property
  def rules(self) -> _players.Rules:
    """D `d_steps` times, then E and G."""
    return _players.Rules(
      players={
        "discriminator": _players.Player(("discriminator",), self.d_optimizer),
        "inference": _players.Player(_NETWORKS, self.eg_optimizer),
      },
      phases=(
        _players.Phase(
          "discriminator",
          {"discriminator": self.d_loss},
          self.d_draw,
          times=self.options.d_steps,
        ),
        _players.Phase(
          "inference",
          {"inference": self.eg_loss},
          self.eg_draw,
          after=self.average,
        ),
      ),
      total=("d_loss", "eg_loss"),
    )

  def init(self) -> _players.State:
    """Returns the state of step 0."""
    shape = (*self.generator.resolution, self.generator.channels)
    params, stats, pooled = self.init_networks(
      jnp.zeros((2, *self.source.image_shape))
    )
    head = self.latent_head.init(
      rng.stream(self.seed, "head_init"), jnp.zeros(pooled.shape)
    )
    discriminator = self.discriminator.init(
      rng.stream(self.seed, "discriminator_init"),
      jnp.zeros((2, *shape)),
      jnp.zeros((2, self.generator.latent_dim)),
      train=False,
    )
    params["head"] = head["params"]
    averaged = {"params": params, "batch_stats": stats}
    return self.rules.init(
      params | {"discriminator": discriminator["params"]},
      batch_stats=stats | {"discriminator": discriminator["batch_stats"]},
      ema=jax.tree.map(jnp.copy, averaged),
    )

  def draw(self, name, update, number, frozen):
    """Draws (x, z, noise of E), anew for each update.

    Args:
      name: of the streams.
      update: of this player.
      number: of the real batch.
      frozen: the source's.
    """
    images, _ = self.real_batch(frozen, number, self.batches)
    z, _ = self.latents(f"{name}_latents", update)
    keys = rng.per_index(
      rng.stream(self.seed, f"{name}_noise"), rng.indices(update, self.batch)
    )
    noise = jax.vmap(lambda key: jax.random.normal(key, z.shape[1:]))(keys)
    return images, z, self.split(noise)

  def d_draw(self, update, frozen):
    """Draws for an update of the discriminator."""
    times = self.options.d_steps
    number = update // times * (times + 1) + update % times
    return self.draw("d", update, number, frozen)

  def eg_draw(self, update, frozen):
    """Draws for an update of E and G."""
    number = (update + 1) * (self.options.d_steps + 1) - 1
    return self.draw("eg", update, number, frozen)

  def head(self, params, pooled):
    """The mean of z: what is judged and reconstructed from."""
    return self.latent_head.apply({"params": params}, pooled)[0]

  def infer(self, params, batch_stats, images, noise):
    """E in training mode: images in [-1, 1] -> (z [n d], statistics)."""
    pooled, batch_stats = self.features(params, batch_stats, images, train=True)
    mean, stdev = self.latent_head.apply({"params": params["head"]}, pooled)
    if self.options.stochastic:
      mean += stdev * noise
    return self.bounded(mean), batch_stats

  def small(self, images):
    """Real images as the discriminator sees them."""
    if self.shrink == 1:
      return images
    n, h, w, c = images.shape
    k = self.shrink
    return images.reshape(n, h // k, k, w // k, k, c).mean(axis=(2, 4))

  def features(self, params, batch_stats, images, *, train):
    """As of the base; generated images are enlarged to real ones."""
    k = self.source.image_shape[0] // images.shape[1]
    if k > 1:
      images = jnp.repeat(jnp.repeat(images, k, axis=1), k, axis=2)
    return super().features(params, batch_stats, images, train=train)

  def play(self, params, state, given):
    """Returns (scores of real, of fake pairs, the new statistics)."""
    images, z, noise = given
    inferred, encoder = self.infer(
      params, state.batch_stats["encoder"], images, noise
    )
    fakes, generator = self.generate_train(
      params["generator"],
      state.batch_stats["generator"],
      z,
      jnp.zeros(len(z), jnp.int32),
    )
    scores, seen = self.discriminator.apply(
      {
        "params": params["discriminator"],
        "batch_stats": state.batch_stats["discriminator"],
      },
      jnp.concatenate([self.small(images), fakes]),
      jnp.concatenate([inferred, z]),
      train=True,
      mutable=["batch_stats"],
    )
    b = len(images)
    real = {term: score[:b] for term, score in scores.items()}
    fake = {term: score[b:] for term, score in scores.items()}
    moved = {
      "encoder": encoder,
      "generator": generator,
      "discriminator": seen["batch_stats"],
    }
    return real, fake, moved

  def d_loss(self, params, state, given):
    """D's loss; nothing but D and its spectral vectors moves."""
    real, fake, moved = self.play(params, state, given)
    loss = d_loss(real, fake)
    measured = {"d_loss": loss}
    for kind, scores in (("real", real), ("fake", fake)):
      for term, score in scores.items():
        measured[f"{kind}_{term}"] = jnp.mean(score)
    changes = {"discriminator": moved["discriminator"]}
    return loss, (measured, {"batch_stats": changes})

  def eg_loss(self, params, state, given):
    """The loss of E and G, whose statistics move."""
    real, fake, moved = self.play(params, state, given)
    loss = eg_loss(real, fake)
    images, z, _ = given
    variables = self.variables_of(params, state.batch_stats)
    measured = self.measure(variables, self.small(images), z)
    return loss, ({"eg_loss": loss, **measured}, {"batch_stats": moved})

  def average(self, state, update):
    """Moves the averages of E and G."""
    new = {
      "params": {name: state.params[name] for name in _NETWORKS},
      "batch_stats": {
        name: state.batch_stats[name] for name in ("encoder", "generator")
      },
    }
    ema = optim.ema(state.ema, new, self.options.ema_decay, update, warmup=True)
    return state.replace(ema=ema)

  def current(self, state):
    """The averaged networks."""
    return self.variables_of(state.ema["params"], state.ema["batch_stats"])

  def reconstruct(self, variables, images):
    """G(E(x)), in the size of x."""
    again = self.render(variables, self.latent(variables, images))
    k = images.shape[1] // again.shape[1]
    return jnp.repeat(jnp.repeat(again, k, axis=1), k, axis=2)

  def shown(self, frozen):
    """Real images in the size of generated ones."""
    return self.small(super().shown(frozen))


def _check(cfg, source, generator) -> int:
  """Returns how many times as wide real images are as generated ones."""
  if len(set(cfg.scores)) < len(cfg.scores):
    options.refuse("program.scores", tuple(cfg.scores), "each term once")
  if "xz" not in cfg.scores and "z" not in cfg.scores:
    options.refuse(
      "program.scores",
      tuple(cfg.scores),
      "z or xz among them: else E learns nothing (program gan has no E)",
    )
  side, halvings = min(generator.resolution), cfg.d_halvings
  if halvings > len(cfg.d_widths) or any(
    size % 2**halvings for size in generator.resolution
  ):
    options.refuse(
      "program.d_halvings",
      halvings,
      f"at most {len(cfg.d_widths)}, the blocks of d_widths, and a side of "
      f"{side} px that it halves evenly",
    )
  return source.image_shape[0] // generator.resolution[0]


def make(cfg, run) -> contracts.Program:
  """Builds the game.

  Args:
    cfg: options as in `OPTIONS`.
    run: a genrep_jax.run.Run; its source gives the real images.

  Returns:
    The Program; one step is `d_steps` updates of the discriminator and one of
    encoder and generator.

  Raises:
    UsageError: settings that cannot work together.
  """
  parts = _inference.parts(cfg, run, enlarged=True)
  shrink = _check(cfg, run.source, parts["generator"])
  adam = lambda rate: optax.adam(rate, b1=cfg.beta1, b2=cfg.beta2)  # noqa: E731
  game = Game(
    **parts,
    discriminator=_scores.Discriminator(
      tuple(cfg.d_widths),
      cfg.d_halvings,
      cfg.joint_width,
      cfg.joint_blocks,
      tuple(term for term in _TERMS if term in cfg.scores),
    ),
    latent_head=_scores.LatentHead(
      parts["generator"].latent_dim, cfg.head_width
    ),
    d_optimizer=adam(cfg.d_learning_rate),
    eg_optimizer=optax.multi_transform(
      {"e": adam(cfg.e_learning_rate), "g": adam(cfg.g_learning_rate)},
      {"encoder": "e", "head": "e", "generator": "g"},
    ),
    shrink=shrink,
  )
  times = cfg.d_steps
  return _inference.program(
    game,
    game.rules,
    run,
    told=f"bigbigan, {times} discriminator update(s) a step, scores of "
    f"{', '.join(game.discriminator.terms)}, "
    f"{'stochastic' if cfg.stochastic else 'deterministic'} encoder",
    feed_batches=times + 1,
    examples_per_step=run.batch * (times + 1),
    images_per_step=run.batch * (2 * times + 2),
    chance=2.0 * len(cfg.scores),
  )
