"""Trains latent walks that imitate pixel edits of a frozen generator.

Jahanian et al. 2020, eq. 2, as GenRep does it (`biggan_steer_train.py`): for
latents z and edits T of coefficients a, all operations at once,

  min_w  sum_m (G(z + sum_d a_d w_d) - T(G(z)))^2 / |M|,   m in M,

where M are the pixel values of the batch that the edit knows. A game of one
player: it needs no real images, and the generator does not learn.
"""

import dataclasses
import functools
import pathlib
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax

from genrep_jax.lib import (
  contracts,
  errors,
  mesh as mesh_lib,
  metrics,
  pictures,
  plugins,
  rng,
  schedules,
)
from genrep_jax.views import stages, steering, walks

_COLUMNS = 9  # of the picture: coefficients from one end to the other
_SHOWN = 2  # latents in the picture
_MEASURED = 512  # latents, at least, that the exported errors are measured on


def default_config() -> dict:
  """Lists the options and their defaults, GenRep's."""
  return {
    "name": "walks",
    **steering.default_config(),
    "learning_rate": 1e-3,  # of Adam
    "init_std": 0.1,  # of the walks at step 0
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
class _Steering:
  """What is trained.

  Attributes:
    cfg: the whole config.
    mesh: the devices.
    generator: the frozen generator.
    law: what is drawn.
  """

  cfg: Any
  mesh: Any
  generator: contracts.Generator
  law: steering.Law

  @property
  def optimizer(self):
    """Adam, at a constant rate."""
    return optax.adam(self.cfg.steering.learning_rate)

  def init(self) -> State:
    """Returns the state of step 0."""
    key = rng.stream(self.cfg.seed, "walks_init")
    params = {
      name: self.cfg.steering.init_std
      * jax.random.normal(
        jax.random.fold_in(key, steering.OPERATIONS.index(name)),
        (self.law.rows(name), self.generator.latent_dim),
      )
      for name in self.law.operations
    }
    return State(jnp.int32(0), params, self.optimizer.init(params))

  def draw(self, name, batch, variables):
    """Draws (latents [b latent_dim], y [b], a [b dims]) of a batch."""
    b = self.cfg.global_batch
    index = jnp.uint32(batch) * jnp.uint32(b) + jnp.arange(b, dtype=jnp.uint32)
    index = mesh_lib.split_batch(index, self.mesh)
    keys = rng.per_index(rng.stream(self.cfg.seed, name), index)
    z, y = mesh_lib.split_batch(
      jax.vmap(self.generator.sample)(keys), self.mesh
    )
    z = self.generator.latents(variables, z, y)
    keys = rng.per_index(rng.stream(self.cfg.seed, f"{name}_edits"), index)
    drawn = z, y, jax.vmap(self.law.draw)(keys)
    return mesh_lib.split_batch(drawn, self.mesh)

  def render(self, variables, z, y):
    """Renders latents z [b latent_dim] as images [b h w c]."""
    chunk = self.cfg.generator.render_chunk
    images = stages.render_latents(
      self.generator, variables, z[:, None], y, self.mesh, chunk
    )
    return mesh_lib.split_batch(images[:, 0], self.mesh)

  def errors(self, params, variables, drawn):
    """Returns (error, error of walks that stand still), scalars."""
    z, y, a = drawn
    with jax.named_scope("edit"):
      images = self.render(variables, z, y)
      targets, masks = jax.vmap(steering.apply)(
        images, jax.vmap(self.law.edit)(a)
      )
    with jax.named_scope("walk"):
      moved = z + walks.displacement(self.law, params, a)
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
    does not know are grey.
    """
    variables = frozen["generator"]
    keys = rng.per_index(
      rng.stream(self.cfg.seed, "preview"), jnp.arange(_SHOWN, dtype=jnp.uint32)
    )
    z, y = jax.vmap(self.generator.sample)(keys)
    z = self.generator.latents(variables, z, y)
    images = self.generator.apply(variables, z, y)
    ends = [
      end
      for name, end in self.law.ends().items()
      for _ in range(self.law.rows(name))
    ]
    spread = np.linspace(*np.transpose(ends), _COLUMNS)  # [columns dims]
    strip = np.float32(np.eye(len(ends))[:, None] * spread)

    def rows(a, one):
      image, z, y = one
      edited, mask = jax.vmap(steering.apply, in_axes=(None, 0))(
        image, jax.vmap(self.law.edit)(a)
      )
      moved = z + walks.displacement(self.law, state.params, a)
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
      name for name in self.law.operations for _ in range(self.law.rows(name))
    ]
    measured = {}
    for name in (*self.law.operations, "all"):
      used = np.float32([name in (own, "all") for own in owner])
      batches = range(-(-_MEASURED // self.cfg.global_batch))
      found = [
        jax.device_get(errors_of(params, frozen, np.uint32(batch), used))
        for batch in batches
      ]
      measured[name] = tuple(map(float, np.mean(found, axis=0)))
    return measured


def _steering(cfg, mesh, generator) -> _Steering:
  """Checks the options; raises UsageError."""
  options = cfg.steering
  law = steering.make_law("steering", options, generator.channels)
  for name in ("learning_rate", "init_std"):
    if not 0 <= options[name] < float("inf"):
      raise errors.UsageError(
        f"steering.{name}: {options[name]} is not >= 0 and finite"
      )
  return _Steering(cfg, mesh, generator, law)


def make(cfg, mesh, loaded) -> contracts.Program:
  """Builds the training of walks.

  Args:
    cfg: the whole config: seed, global_batch, total_*, generator, steering.
    mesh: the devices.
    loaded: (Generator, its weights, facts), as parts.load_generator returns.

  Returns:
    The Program; its metrics are loss, error_of_zero_walks (of G(z) itself
    against the edited images) and error_ratio, the quotient of the two.

  Raises:
    UsageError: settings that cannot work, or random weights, to which no file
      of walks could belong.
  """
  generator, variables, facts = loaded
  if cfg.job == "steer" and not cfg.generator.weights:
    raise errors.UsageError(
      "generator.weights: ''; walks belong to the weights they are trained on"
    )
  made = _steering(cfg, mesh, generator)
  total = schedules.steps_of(
    cfg, "total", examples_per_epoch=0, batch=cfg.global_batch
  )
  return contracts.Program(
    init=made.init,
    step=made.step,
    frozen={"generator": variables},
    frozen_shardings=mesh_lib.replicated(mesh),
    examples_per_step=cfg.global_batch,
    images_per_step=2 * cfg.global_batch,
    total_steps=total,
    preview=made.preview,
    facts={
      **facts,
      "walks": f"{', '.join(made.law.operations)}: {made.law.dims} of "
      f"{generator.latent_dim} numbers",
    },
  )


def export(cfg, program, state, workdir, side) -> dict[str, str]:
  """Writes walks.safetensors and walks.png, and measures the walks.

  Args:
    cfg: the whole config.
    program: the Program.
    state: the final state.
    workdir: folder of the run.
    side: what the run's checkpoints are stored with.

  Returns:
    {what: value} for the summary: the file, its sha256, and what every
    operation leaves of the error of zero walks, on latents not trained on.
  """
  room = plugins.resolve("generators", cfg.generator.name)
  mesh = state.step.sharding.mesh
  made = _steering(cfg, mesh, room.make(cfg.generator))
  measured = made.measure(state.params, program.frozen)
  sha256 = side["facts"]["generator sha256"]
  path = pathlib.Path(workdir) / "walks.safetensors"
  digest = walks.save(
    path,
    made.law,
    jax.device_get(state.params),
    sha256,
    {
      "generator": cfg.generator.to_dict(),
      "steering": cfg.steering.to_dict(),
      "seed": cfg.seed,
      "global_batch": cfg.global_batch,
      "steps": int(state.step),
      "errors": measured,
    },
  )
  shown = jax.jit(program.preview)(state, program.frozen)["walks"]
  pictures.save_png(
    path.with_suffix(".png"),
    pictures.grid(
      jax.device_get(shown), scale=max(1, 64 // made.generator.resolution[1])
    ),
  )
  said = {"walks": str(path), "sha256": digest}
  for name, (error, still) in measured.items():
    ratio = error / still if still else float("nan")
    said[f"error_ratio {name}"] = f"{ratio:.3f} ({error:.4f} of {still:.4f})"
  return said
