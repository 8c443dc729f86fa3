"""What games with an encoder share: E, its alarms, what is judged and shown.

Logged beside the losses, on `alarm_images` of the batch in evaluation mode:
`reconstruction_error`, the mean |x - G(E(x))| over images in [0, 1] (EGr);
`reconstruction_ratio`, that to the error against the next image, 1 where
nothing is inverted; `latent_variance_ratio`, Var(E(G(z))) / Var(z), 0 where the
encoder collapses; `mean_cosine` of the E(x) of different images.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from genrep_jax.lib import (
  contracts,
  export,
  images as images_lib,
  options,
  plugins,
  rng,
)
from genrep_jax.programs import _games, _players

_PRIOR_DRAWS = 256  # of z, to see whether it is bounded
_PATH = 8  # images of an interpolation
_STANDING_BATCHES = 50  # of real images; running statistics remember ten

OPTIONS = {
  "prior": options.choice(
    "uniform",
    ("uniform", "gaussian"),
    "the generator's: E ends in 2 sigmoid - 1, or in a linear map",
  ),
  "features": options.choice(
    "hidden", ("hidden", "latent"), "judged: those before the head, or E(x)"
  ),
  "alarm_images": options.integer(
    32, "of each step that say whether the game goes well", low=2, high=65536
  ),
}


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
  """A game with an encoder; its networks are encoder, head and generator.

  Attributes:
    encoder: E, but for its head.
    mean: of what E is shown.
    std: likewise.
  """

  encoder: contracts.Encoder
  mean: jax.Array
  std: jax.Array

  @property
  def batches(self) -> int:
    """Real batches that a round takes."""
    return 1

  def head(self, params, pooled):
    """E's head: features [n f] -> z [n d], before `prior` bounds it."""
    raise NotImplementedError

  def init_networks(self, images):
    """Returns (params, batch_stats) of encoder and generator, and pooled.

    Args:
      images: [n h w c], zeros, as E is shown them.
    """
    encoder = self.encoder.init(
      rng.stream(self.seed, "encoder_init"), images.shape[1:]
    )
    pooled = jax.eval_shape(
      lambda: self.encoder.apply(encoder, images, train=False)[0].pooled
    )
    generator = self.generator.init(rng.stream(self.seed, "generator_init"))
    made = {"encoder": encoder, "generator": generator}
    params = {name: of["params"] for name, of in made.items()}
    stats = {name: of["batch_stats"] for name, of in made.items()}
    return params, stats, pooled

  def bounded(self, z):
    """Takes E's z to where the prior is."""
    if self.options.prior == "uniform":
      return jnp.tanh(z / 2)  # 2 sigmoid(z) - 1
    return z

  def features(self, params, batch_stats, images, *, train):
    """Returns (pooled features [n f], statistics) of images in [-1, 1]."""
    features, batch_stats = self.encoder.apply(
      {"params": params["encoder"], "batch_stats": batch_stats},
      images_lib.normalize(images, self.mean, self.std),
      train=train,
    )
    return features.pooled, batch_stats

  def measure(self, variables, images, z):
    """`alarms` of some of a batch: images as the generator has them, z."""
    some = self.options.alarm_images
    images, z = images[:some], z[:some]
    inferred = self.latent(variables, images)
    return jax.lax.stop_gradient(
      alarms(
        images,
        self.render(variables, inferred),
        z,
        self.latent(variables, self.render(variables, z)),
        inferred,
      )
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

  def current(self, state):
    """The variables that are judged, their statistics as they run."""
    return self.variables_of(state.params, state.batch_stats)

  def variables(self, state, frozen):
    """The variables that are judged, their statistics those of their weights.

    Of images that the host feeds, E's statistics stay the running ones.
    """
    made = self.current(state)
    if frozen and self.source.feed is None:

      def see(batch, batch_stats):
        images = self.real_batch(frozen, batch)[0]
        encoder = {"encoder": made["params"]}
        return self.features(encoder, batch_stats, images, train=True)[1]

      made["batch_stats"] = jax.jit(
        lambda stats: jax.lax.fori_loop(0, _STANDING_BATCHES, see, stats)
      )(made["batch_stats"])
    return {**made, "generator": self.standing(made["generator"])}

  def render(self, variables, z):
    """G in evaluation mode."""
    y = jnp.zeros(len(z), jnp.int32)
    return self.generator.apply(variables["generator"], z, y)

  def _inferred(self, variables, images):
    pooled, _ = self.features(
      {"encoder": variables["params"]},
      variables["batch_stats"],
      images,
      train=False,
    )
    return self.bounded(self.head(variables["head"], pooled)), pooled

  def latent(self, variables, images):
    """E(x) in evaluation mode."""
    return self._inferred(variables, images)[0]

  def encode(self, variables, images):
    """The features that are judged."""
    z, hidden = self._inferred(variables, images)
    return hidden if self.options.features == "hidden" else z

  def reconstruct(self, variables, images):
    """G(E(x))."""
    return self.render(variables, self.latent(variables, images))

  def shown(self, frozen):
    """Real images of the preview."""
    return self.real_batch(frozen, jnp.int32(0), self.batches)[0][: _games.GRID]

  def preview(self, state, frozen):
    """Samples; images above G(E(x)); paths between E(x) of two images."""
    variables = self.current(state)
    images = self.shown(frozen)
    z = self.latent(variables, images)
    share = jnp.linspace(0, 1, _PATH)[None, :, None]
    path = z[:, None] * (1 - share) + jnp.roll(z, 1, axis=0)[:, None] * share
    drawn = self.render(variables, path.reshape(-1, z.shape[-1]))
    return {
      "samples": self.samples(variables["generator"]),
      "reconstructions": jnp.stack([images, self.render(variables, z)]),
      "interpolations": drawn.reshape(len(images), _PATH, *images.shape[1:]),
    }

  def exported(self, run, state, frozen) -> Mapping[str, tuple[Any, dict]]:
    """Returns the files of encoder and generator."""
    variables = jax.device_get(self.variables(state, frozen))
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


def parts(cfg, run, *, enlarged: bool = False) -> dict[str, Any]:
  """Makes what every such game has; refuses what cannot play.

  Args:
    cfg: an entry with `OPTIONS`.
    run: a genrep_jax.run.Run.
    enlarged: real images may be several times as wide as generated ones.

  Returns:
    Fields of `Game`.
  """
  generator = plugins.make(
    "generators", run.config.generator, dtype=jnp.float32
  )
  _games.check(run.source, generator, run.config, enlarged=enlarged)
  _check(cfg, run, generator)
  mean, std = run.normalization
  return {
    "seed": run.seed,
    "batch": run.batch,
    "options": cfg,
    "source": run.source,
    "generator": generator,
    "split": run.split,
    "encoder": run.encoder,
    "mean": jnp.asarray(mean, jnp.float32),
    "std": jnp.asarray(std, jnp.float32),
  }


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


def program(
  game: Game, rules: _players.Rules, run, *, told: str, **fields
) -> contracts.Program:
  """Assembles the Program of such a game.

  Args:
    game: what is played; it has `init`.
    rules: how.
    run: a genrep_jax.run.Run.
    told: of the game, for the banner.
    **fields: of the Program.
  """
  return contracts.Program(
    init=game.init,
    step=rules.round,
    frozen=game.source.frozen,
    shardings=run.replicated,
    total_steps=run.total_steps,
    preview=game.preview,
    captions={
      "samples": "samples of the generator",
      "reconstructions": "real images and, below, G(E(x))",
      "interpolations": "from E of one image to E of another",
    },
    preview_at_end=True,
    facts={"game": told, **run.source_facts()},
    model=contracts.Model(
      encode=game.encode,
      generate=lambda variables, index: game.generate(
        variables["generator"], index
      ),
      reconstruct=game.reconstruct,
      channels=game.generator.channels,
    ),
    variables=game.variables,
    feed=game.source.feed,
    export=lambda state, frozen: game.exported(run, state, frozen),
    stages=tuple(phase.name for phase in rules.phases),
    **fields,
  )
