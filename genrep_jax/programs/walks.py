"""Trains latent walks that imitate pixel edits of a frozen generator.

Jahanian et al. 2020, eq. 2, as GenRep does it (`biggan_steer_train.py`): for
latents z and edits T of coefficients a, all operations at once,

  min_w  sum_m (G(z + sum_d a_d w_d) - T(G(z)))^2 / |M|,   m in M,

where M are the pixel values of the batch that the edit knows. A game of one
player: it needs no real images, and the generator does not learn.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax

from genrep_jax.lib import contracts, metrics, options, rng
from genrep_jax.views import edits, walks

_COLUMNS = 9  # of the picture: coefficients from one end to the other
_SHOWN = 2  # latents in the picture
_MEASURED = 512  # latents, at least, that the exported errors are measured on

OPTIONS = {
  **edits.OPTIONS,  # GenRep's
  "learning_rate": options.number(1e-3, "of Adam", low=0),
  "init_std": options.number(0.1, "of the walks at step 0", low=0),
}


@flax.struct.dataclass
class State:
  """State of the training; everything random is a function of (seed, step).

  Attributes:
    step: int32 scalar.
    params: operation -> walks [rows latent_dim].
    opt_state: of Adam.
  """

  step: jax.Array
  params: Any
  opt_state: Any


def masked_error(images, targets, masks) -> jax.Array:
  """Mean squared error over the valid pixel values of a batch.

  Args:
    images: [b h w c].
    targets: [b h w c].
    masks: [b h w], True = counts.

  Returns:
    A scalar; 0 where no pixel is valid.
  """
  difference = jnp.where(masks[..., None], images - targets, 0.0)
  count = jnp.sum(masks.astype(jnp.float32)) * images.shape[-1]
  return jnp.sum(difference**2) / jnp.maximum(count, 1.0)


@dataclasses.dataclass(frozen=True)
class Walking:
  """What is trained.

  Attributes:
    seed: of the run.
    batch: b, latents of one step.
    generator: the frozen generator.
    render_views: (variables, latents [b r latent_dim], y [b]) -> images
      [b r h w c].
    distribution: of the edits.
    optimizer: of the walks.
    init_std: of the walks at step 0.
    split: shards arrays over the devices by their first axis.
  """

  seed: int
  batch: int
  generator: contracts.Generator
  render_views: Callable
  distribution: edits.EditDistribution
  optimizer: optax.GradientTransformation
  init_std: float
  split: Callable

  def init(self) -> State:
    """Returns the state of step 0."""
    key = rng.stream(self.seed, "walks_init")
    params = {
      name: self.init_std
      * jax.random.normal(
        jax.random.fold_in(key, edits.OPERATIONS.index(name)),
        (self.distribution.rows(name), self.generator.latent_dim),
      )
      for name in self.distribution.operations
    }
    return State(jnp.int32(0), params, self.optimizer.init(params))

  def draw(self, name, batch, variables):
    """Draws (latents [b latent_dim], y [b], a [b dims]) of a batch."""
    index = self.split(rng.indices(batch, self.batch))
    keys = rng.per_index(rng.stream(self.seed, name), index)
    z, y = self.split(jax.vmap(self.generator.sample)(keys))
    z = self.generator.latents(variables, z, y)
    keys = rng.per_index(rng.stream(self.seed, f"{name}_edits"), index)
    return self.split((z, y, jax.vmap(self.distribution.draw)(keys)))

  def render(self, variables, z, y):
    """Renders latents z [b latent_dim] as images [b h w c]."""
    return self.split(self.render_views(variables, z[:, None], y)[:, 0])

  def errors(self, params, variables, drawn):
    """Returns (error, error of walks that stand still), scalars."""
    z, y, a = drawn
    with jax.named_scope("edit"):
      images = self.render(variables, z, y)
      targets, masks = jax.vmap(edits.apply)(
        images, jax.vmap(self.distribution.edit)(a)
      )
    with jax.named_scope("walk"):
      moved = z + walks.displacement(self.distribution, params, a)
      walked = self.render(variables, moved, y)
    return (
      masked_error(walked, targets, masks),
      masked_error(images, targets, masks),
    )

  def step(self, state, frozen):
    """One update; returns (state, metrics)."""
    drawn = self.draw("sample", state.step, frozen["generator"])
    loss = functools.partial(
      self.errors, variables=frozen["generator"], drawn=drawn
    )
    (error, still), grads = jax.value_and_grad(loss, has_aux=True)(state.params)
    updates, opt_state = self.optimizer.update(grads, state.opt_state)
    measured = metrics.collection(
      state.step + 1,
      loss=error,
      error_of_zero_walks=still,
      error_ratio=error / jnp.maximum(still, 1e-12),
      grad_norm=optax.tree.norm(grads),
    )
    params = optax.apply_updates(state.params, updates)
    return State(state.step + 1, params, opt_state), measured

  def preview(self, state, frozen):
    """Per coefficient and latent a row of edits and, below it, one of walks.

    Columns go from the least coefficient to the largest. Pixels that an edit
    does not know are gray.
    """
    variables = frozen["generator"]
    keys = rng.per_index(
      rng.stream(self.seed, "preview"), jnp.arange(_SHOWN, dtype=jnp.uint32)
    )
    z, y = jax.vmap(self.generator.sample)(keys)
    z = self.generator.latents(variables, z, y)
    images = self.generator.apply(variables, z, y)
    ends = [
      end
      for name, end in self.distribution.ends().items()
      for _ in range(self.distribution.rows(name))
    ]
    spread = np.linspace(*np.transpose(ends), _COLUMNS)  # [columns dims]
    strip = np.float32(np.eye(len(ends))[:, None] * spread)

    def rows(a, one):
      image, z, y = one
      edited, mask = jax.vmap(edits.apply, in_axes=(None, 0))(
        image, jax.vmap(self.distribution.edit)(a)
      )
      moved = z + walks.displacement(self.distribution, state.params, a)
      walked = self.generator.apply(variables, moved, jnp.full(len(a), y))
      return jnp.stack([jnp.where(mask[..., None], edited, 0.0), walked])

    shown = jax.lax.map(  # bounds memory; [dims shown 2 columns h w c]
      lambda a: jax.lax.map(lambda one: rows(a, one), (images, z, y)), strip
    )
    return {"walks": shown.reshape(-1, *shown.shape[3:])}

  def measure(self, params, frozen) -> dict[str, tuple[float, float]]:
    """Measures every operation alone, and all together, on latents of its own.

    Returns:
      {operation or "all": (error, error of zero walks)}.
    """

    @jax.jit
    def errors_of(params, frozen, batch, used):
      variables = frozen["generator"]
      z, y, a = self.draw("measure", batch, variables)
      return self.errors(params, variables, (z, y, a * used))

    owner = [
      name
      for name in self.distribution.operations
      for _ in range(self.distribution.rows(name))
    ]
    measured = {}
    for name in (*self.distribution.operations, "all"):
      used = np.float32([name in (own, "all") for own in owner])
      batches = range(-(-_MEASURED // self.batch))
      found = [
        jax.device_get(errors_of(params, frozen, np.uint32(batch), used))
        for batch in batches
      ]
      measured[name] = tuple(map(float, np.mean(found, axis=0)))
    return measured


def make(cfg, run) -> contracts.Program:
  """Builds the training of walks.

  Args:
    cfg: options as in `OPTIONS`.
    run: a genrep_jax.run.Run whose source is a generator.

  Returns:
    The Program; its metrics are loss, error_of_zero_walks (of G(z) itself
    against the edited images) and error_ratio, the quotient of the two.

  Raises:
    UsageError: settings that cannot work, or random weights, to which no file
      of walks could belong.
  """
  config, source = run.config, run.source
  if not source.differentiable:
    options.refuse("source.name", config.source.name, "generator")
  generator = source.generator
  if config.job == "train" and not config.generator.weights:
    options.refuse(
      "generator.weights", "", "the file of weights that the walks belong to"
    )
  one = Walking(
    seed=run.seed,
    batch=run.batch,
    generator=generator,
    render_views=run.render,
    distribution=edits.make_distribution("program", cfg, generator.channels),
    optimizer=optax.adam(cfg.learning_rate),
    init_std=cfg.init_std,
    split=run.split,
  )

  measured = {}  # step -> errors: measured once for results and metadata

  def errors(state, frozen):
    step = int(state.step)
    if step not in measured:
      measured[step] = one.measure(state.params, frozen)
    return measured[step]

  def measure(state, frozen):
    ratios = {}
    for name, (error, still) in errors(state, frozen).items():
      ratios[f"walks/error_ratio_{name}"] = error / max(still, 1e-12)
    return ratios

  def exported(state, frozen):
    metadata = walks.metadata_of(
      one.distribution,
      generator.sha256,
      {
        "generator": run.plain("generator"),
        "program": run.plain("program"),
        "seed": run.seed,
        "global_batch": run.batch,
        "steps": int(state.step),
        "errors": errors(state, frozen),
      },
    )
    return {"walks.safetensors": (state.params, metadata)}

  return contracts.Program(
    init=one.init,
    step=one.step,
    frozen=source.frozen,
    shardings=run.replicated,
    examples_per_step=run.batch,
    images_per_step=2 * run.batch,
    total_steps=run.total_steps,
    preview=one.preview,
    captions={
      "walks": "per coefficient and latent a row of edits and, below it, one "
      "of walks, from the least coefficient to the largest"
    },
    preview_at_end=True,
    facts={
      **run.source_facts(),
      "walks": f"{', '.join(one.distribution.operations)}: "
      f"{one.distribution.dims} of {generator.latent_dim} numbers",
    },
    export=exported,
    measure=measure,
    stages=("edit", "walk"),
  )
