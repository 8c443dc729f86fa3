"""Writes the averaged generator of a finished game as a weights file."""

import hashlib
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from genrep_jax.lib import pictures, plugins, rng, weights

_STANDING_BATCHES = 40  # of _STANDING_SIZE latents each
_STANDING_SIZE = 500


def standing_statistics(cfg, variables):
  """Measures batch-norm statistics over many latents.

  The moving average of the statistics lags behind the averaged weights: they
  belong to other weights. Measured anew they fit (Brock et al. 2019, section
  2: "standing statistics").

  Args:
    cfg: the whole config: seed and generator.
    variables: {"params", "batch_stats"} of the generator.

  Returns:
    The batch_stats: means over 40 batches of 500 latents.
  """
  room = plugins.resolve("generators", cfg.generator.name)
  sample = room.make(cfg.generator).sample
  net = room.module(cfg.generator).clone(momentum=0.0)
  key = rng.stream(cfg.seed, "standing_statistics")

  @jax.jit
  def measure(variables, batch):
    indices = batch * jnp.uint32(_STANDING_SIZE) + jnp.arange(
      _STANDING_SIZE, dtype=jnp.uint32
    )
    z, y = jax.vmap(sample)(rng.per_index(key, indices))
    _, updated = net.apply(variables, z, y, train=True, mutable=["batch_stats"])
    return updated["batch_stats"]

  measured = [
    jax.device_get(measure(variables, jnp.uint32(batch)))
    for batch in range(_STANDING_BATCHES)
  ]
  return jax.tree.map(lambda *x: np.mean(x, axis=0), *measured)


def export(cfg, program, state, workdir, side) -> dict[str, str]:
  """Writes the averaged generator and a sample grid.

  Args:
    cfg: the whole config.
    program: the game's Program; its real images are named by their sha256.
    state: the final state.
    workdir: folder of the run; gets generator.safetensors (parameters in
      float16, statistics in float32) and samples.png.
    side: what the run's checkpoints are stored with; its config is resolved.

  Returns:
    {what: value} for the summary.
  """
  del side
  variables = jax.device_get(state.ema)
  variables = {
    "params": jax.tree.map(lambda x: x.astype(np.float16), variables["params"]),
    "batch_stats": standing_statistics(cfg, variables),
  }
  sha = hashlib.sha256()
  for name in ("images", "labels"):
    sha.update(np.ascontiguousarray(program.frozen[name]).tobytes())
  plain = json.loads(cfg.to_json_best_effort())
  for key in ("weights", "sha256"):  # of what was loaded, not of this file
    plain["generator"].pop(key, None)
  metadata = {
    "generator": plain["generator"],
    "game": plain["game"],
    "data": cfg.data.name,
    "data_sha256": sha.hexdigest(),
    "seed": cfg.seed,
    "global_batch": cfg.global_batch,
    "steps": int(state.step),
  }
  workdir = pathlib.Path(workdir)
  path = workdir / "generator.safetensors"
  shown = jax.jit(program.preview)(
    state.replace(ema=jax.tree.map(jnp.float32, variables)), program.frozen
  )["samples"]
  digest = weights.save(path, variables, metadata)
  pictures.save_png(
    workdir / "samples.png", pictures.grid(jax.device_get(shown), scale=2)
  )
  return {"generator": str(path), "sha256": digest}
