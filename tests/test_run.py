"""Run: every part once, only when asked for, and none that it does not need."""

import jax
import numpy as np
import pytest

from genrep_jax import data
from genrep_jax.lib import errors, execution
from tests import support

GAN = (
  "program.name=gan",
  "source.name=array",
  "program.d_widths=(8,)",
  "program.d_extra_convs=(0,)",
)


def test_a_part_is_made_once():
  run = support.open_run(support.tiny())
  for part in ("generator", "source", "encoder", "objective", "stages"):
    assert getattr(run, part) is getattr(run, part)
  assert run.program is run.program
  assert run.source.generator is run.generator.generator
  assert run.stages.source is run.source


def test_real_images_are_held_once_on_the_host():
  run = support.open_run(support.tiny("source.name=array"))
  images = run.program.frozen["images"]
  assert np.shares_memory(images, run.dataset.train.images)
  assert data.load(run.config.data) is run.dataset  # what evaluations load
  assert run.evaluations
  assert data.load(run.config.data) is run.dataset


def test_a_program_makes_only_what_it_uses():
  config = support.tiny(*GAN)
  with config.unlocked():
    config.encoder = {"name": ""}
    config.views.latent = {"name": ""}
    config.evaluations = {}
  run = support.open_run(config)
  assert run.program.model.encode is None
  made = set(vars(run))
  assert {"program", "source", "dataset"} <= made
  assert not made & {"encoder", "objective", "generator", "stages"}


def test_an_evaluation_says_what_it_lacks():
  run = support.open_run(support.tiny(*GAN))
  with pytest.raises(errors.UsageError) as raised:
    _ = run.evaluations
  assert "evaluations.knn: given 'knn'" in str(raised.value)
  assert "encode, which program 'gan' does not offer" in str(raised.value)


def test_one_sharding_places_everything():
  program, mesh, state, frozen = support.open_program(support.tiny(), devices=8)
  abstract = execution.abstract(program)
  for tree in (state, frozen, *abstract):
    for leaf in jax.tree.leaves(tree):
      assert leaf.sharding == program.shardings
  assert program.shardings.mesh == mesh
