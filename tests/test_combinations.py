"""Any T_z with any T_x, objective, source and generator: all of them trace.

Only shapes are computed, nothing is compiled: what a combination would refuse
or trip over shows while it is traced.
"""

import jax
import pytest

from genrep_jax.lib import configs, execution, plugins
from tests import support

WHITE = ("views.pixel.mean=(0.5,)", "views.pixel.std=(0.5,)")
LATENT = {
  "groups": ("views.latent.num_groups=2", "views.latent.groups=(1,)"),
}
PIXEL = {
  "multi_crop": (
    "views.pixel.crop_px=20",
    "views.pixel.local_crop_px=12",
    "views.num_views=3",
    "views.rendering_of=(0,1,0)",
  ),
}
OBJECTIVE = {
  "moco_v3": ("ema_decay=0.9",),
  "byol": ("ema_decay=0.9",),
}
CONDITIONAL = ("generator.num_classes=10",)
SOURCES = (
  (),
  ("sampler.num_anchors=24",),
  ("sampler.num_anchors=24", "views.num_neighbors=5"),
  ("source.name=mix", "source.mix_ratio=0.5"),
  ("views.anchor_first=False",),
  ("views.pixel_on=(1,)",),
)
NEEDS_LATENTS = ("inverter", "autoencoder")
NEEDS_ONE_SIZE = ("dim", "amdim")
NEEDS_FILE = ("walks",)  # tests/views/test_edits.py


def combinations():
  """Every plug-in of every room at least once, no two rooms in step."""
  latents = [n for n in plugins.names("views/latent") if n not in NEEDS_FILE]
  pixels = plugins.names("views/pixel")
  objectives = plugins.names("objectives")
  for i in range(max(len(latents), len(objectives))):
    objective = objectives[i % len(objectives)]
    pixel = pixels[(i + i // len(pixels)) % len(pixels)]
    source = SOURCES[(i + i // len(SOURCES)) % len(SOURCES)]
    if objective in NEEDS_LATENTS and "source.name=mix" in source:
      source = SOURCES[0]
    if pixel == "multi_crop":
      if objective in NEEDS_ONE_SIZE:
        pixel = "none"
      elif "views.pixel_on=(1,)" in source:  # of one size, or of three
        source = SOURCES[1]
    yield latents[i % len(latents)], pixel, objective, source


def options(latent, pixel, objective, source):
  chosen = [
    "global_batch=8",
    *CONDITIONAL,
    f"views.latent.name={latent}",
    *LATENT.get(latent, ()),
    f"views.pixel.name={pixel}",
    *WHITE,
    f"objective.name={objective}",
    *OBJECTIVE.get(objective, ()),
    *source,
  ]
  if pixel not in ("none", "multi_crop"):
    chosen.append("views.pixel.crop_px=0")
  if pixel == "multi_crop":
    chosen += PIXEL[pixel]
  return chosen


@pytest.mark.parametrize(
  "combination", [*combinations()], ids=lambda c: "-".join(c[:3])
)
def test_it_traces(combination):
  latent, _, objective, _ = combination
  config = support.tiny(*options(*combination))
  with config.unlocked():
    if latent == "mixture":  # dictionaries cannot be given as overrides
      config.views.latent.views = {"ball": {}, "none": {"weight": 2.0}}
    if objective == "weighted":
      config.objective.terms = {"simclr": {}, "vicreg": {"weight": 0.1}}
    configs.complete(config)
  program = support.open_run(config, 8).program
  state, frozen = execution.abstract(program)
  new, measured = jax.eval_shape(program.step, state, frozen)
  assert shapes(new) == shapes(state)
  assert {"loss", "grad_norm"} <= set(measured.averages)


def shapes(tree):
  leaves, structure = jax.tree.flatten(tree)
  return structure, [(leaf.shape, leaf.dtype) for leaf in leaves]
