"""Positives that lie on disk: groups of images, and our own rendered ones."""

import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from genrep_jax.lib import errors, execution, weights
from genrep_jax.tools import render
from tests import support

SIDE = 8


def folder(root, groups, *, layout="folders"):
  """Writes gray images whose value says group and number: 20 g + n."""
  for group, count in enumerate(groups):
    place = root / f"{group:03d}"
    place.mkdir(parents=True)
    for number in range(count):
      image = np.full((SIDE, SIDE), 20 * group + number, np.uint8)
      image[0, 0] = 255 - image[0, 0]
      Image.fromarray(image).save(place / f"{number:02d}.png")
  return root


def source(root, *overrides, batch=4):
  run = support.open_run(
    support.tiny(
      "source.name=groups",
      f"source.data_dir={root}",
      "source.layout=folders",
      "source.channels=1",
      f"global_batch={batch}",
      *overrides,
    )
  )
  return run.source


def seen(one, batches, batch=4):
  """Returns the values [batches * b r] of what is fed."""
  read = [one.feed.read(i, np.arange(batch))["images"] for i in range(batches)]
  return np.concatenate(read)[..., 4, 4, 0].astype(int)


def test_a_group_is_seen_once_an_epoch_and_views_are_of_one_group(tmp_path):
  one = source(folder(tmp_path, [3, 2, 5, 4, 3, 2, 2, 6]))
  values = seen(one, 20)
  groups, numbers = values // 20, values % 20
  np.testing.assert_array_equal(groups[:, 0], groups[:, 1])
  assert (numbers[:, 0] != numbers[:, 1]).all()
  for epoch in groups[:, 0].reshape(10, 8):
    assert sorted(epoch) == list(range(8))
  for group, count in enumerate([3, 2, 5, 4, 3, 2, 2, 6]):
    used = numbers[groups[:, 0] == group]
    assert set(used.ravel()) <= set(range(count)) and len(used) == 10
  assert len(set(numbers[groups[:, 0] == 7].ravel())) >= 5
  assert one.epoch_size == 8 and one.num_classes == 0


def test_what_is_fed_is_a_function_of_seed_number_and_position(tmp_path):
  root = folder(tmp_path, [3, 4, 5, 3, 2, 2, 3, 4])
  whole = source(root).feed.read(5, np.arange(4))["images"]
  again = source(root).feed.read(5, np.array([3, 1]))["images"]
  np.testing.assert_array_equal(again, whole[[3, 1]])
  wide = source(root, batch=8).feed.read(2, np.arange(4, 8))["images"]
  np.testing.assert_array_equal(wide, whole)
  other = source(root, "seed=1")
  assert (seen(other, 8) != seen(source(root), 8)).any()


def test_program_and_host_draw_the_same_groups(tmp_path):
  root = folder(tmp_path, [2] * 6)
  run = support.open_run(
    support.tiny(
      *("source.name=groups", f"source.data_dir={root}"),
      *("source.layout=folders", "source.channels=1", "global_batch=4"),
      *("views.pixel.scale=(0.9, 1.0)", "encoder.width=0.1"),
    )
  )
  for step in (0, 3):
    frozen = execution.put_frozen(run.program, step)
    _, images = jax.jit(run.stages.views)(jnp.int32(step), frozen)
    draws = run.source.draw(jnp.int32(step), frozen)
    value = np.rint((np.asarray(images)[..., 4, 4, 0] + 1) * 127.5) // 20
    rows = np.asarray(draws["row"])
    np.testing.assert_array_equal(value, np.stack([rows, rows], axis=1))


def test_a_rendered_folder_trains_as_the_online_run(tmp_path):
  """Its images in the first epoch, up to the rounding to bytes."""
  size = ("generator.widths=(4, 4)", "generator.latent_dim=6")
  online = support.open_run(
    support.tiny(*size, "sampler.num_anchors=16", "views.latent.sigma=0.5")
  )
  file = tmp_path / "g.safetensors"
  weights.save(
    file,
    online.generator.variables,
    {"generator": online.plain("generator") | {"weights": "", "sha256": ""}},
  )
  words = f"--weights {file} --out {tmp_path / 'set'} --num 16 --neighbors 2"
  words += " --view gaussian --per_folder 8 --set view.sigma=0.5"
  render.main(words.split())
  layout = (
    *("source.name=groups", f"source.data_dir={tmp_path / 'set'}"),
    *("source.order=in_order", "source.channels=1"),
  )
  offline = support.open_run(support.tiny(*layout, "views.num_views=3"))
  assert offline.source.num_classes == 0
  classes = support.open_run(support.tiny(*layout, "source.labels=True"))
  assert classes.source.num_classes == 2
  fed = offline.source.feed.read(0, np.arange(16))["images"]
  three = support.tiny(
    *(*size, "views.num_views=3", "views.num_neighbors=2"),
    *("sampler.num_anchors=16", "views.latent.sigma=0.5"),
  )
  images, _, _ = support.shown(three)
  off = np.abs(fed / 127.5 - 1 - images)
  assert off.max() <= 2.01 / 127.5 and off.mean() < 1 / 127.5


def test_bad_folders_are_one_line(tmp_path):
  good = folder(tmp_path / "good", [2, 2])

  def refused(message, root=good, *overrides):
    with pytest.raises(errors.UsageError, match=re.escape(message)) as error:
      source(root, *overrides, batch=2)
    assert "\n" not in str(error.value)

  refused("allowed: a folder", "/nowhere")
  refused(
    "allowed: a folder of groups, as 'genrep'", good, "source.layout=genrep"
  )
  (tmp_path / "empty").mkdir()
  refused("allowed: a folder of groups, as 'folders'", tmp_path / "empty")
  lonely = folder(tmp_path / "lonely", [3, 1])
  refused("001 has 1 image(s); allowed: at least 2, one for each", lonely)
  refused("000 has 2 image(s); allowed: at least 3", good, "views.num_views=3")
  mixed = shutil.copytree(good, tmp_path / "mixed")
  Image.new("L", (9, 9)).save(mixed / "001" / "00.png")
  with pytest.raises(errors.UsageError, match="at most the 2 groups in"):
    source(mixed)
  one = source(mixed, batch=2)
  with pytest.raises(errors.UsageError, match="001/00.png is .9, 9, 1.* but"):
    seen(one, 1, 2)
  seen(source(mixed, "source.image_px=6", batch=2), 1, 2)
  broken = shutil.copytree(good, tmp_path / "broken")
  (broken / "001" / "01.png").write_bytes(b"no image")
  with pytest.raises(errors.UsageError, match="001/01.png"):
    seen(source(broken, batch=2), 1, 2)
