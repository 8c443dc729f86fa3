"""Writers: valid JSON whatever happens, event files without TensorFlow."""

import json
import pathlib
import struct
import subprocess
import sys
import types

import jax.numpy as jnp
import numpy as np
import pytest
import tensorboardX
from tensorboardX import record_writer
from tensorboardX.proto import event_pb2, plugin_hparams_pb2

from genrep_jax.lib import errors, writers

_ROOT = pathlib.Path(__file__).resolve().parents[2]


def _write(path, steps, resume_step=None):
  writer = writers.JsonlWriter(path, resume_step=resume_step, now=lambda: 12.5)
  for step in steps:
    writer.write_scalars(step, {"loss": jnp.float32(step / 2), "n": step})
  writer.close()


def _strict(line):
  def refuse(constant):
    raise AssertionError(f"{constant} is not JSON")

  return json.loads(line, parse_constant=refuse)


def test_one_json_object_per_line(tmp_path):
  path = tmp_path / "new" / "metrics.jsonl"
  _write(path, [1, 2])
  assert [_strict(line) for line in path.read_text().splitlines()] == [
    {"step": 1, "wall_time": 12.5, "loss": 0.5, "n": 1},
    {"step": 2, "wall_time": 12.5, "loss": 1.0, "n": 2},
  ]


def test_numbers_that_are_not_finite_stay_valid_json(tmp_path):
  path = tmp_path / "metrics.jsonl"
  writer = writers.JsonlWriter(path)
  values = {"a": np.float32("nan"), "b": jnp.inf, "c": -np.inf, "d": 1e-300}
  writer.write_scalars(1, values)
  row = _strict(path.read_text())
  assert [row[k] for k in "abcd"] == ["NaN", "Infinity", "-Infinity", 1e-300]
  back = writers.read_jsonl(path)[0]
  np.testing.assert_equal([back[k] for k in "abcd"], list(values.values()))
  writer.close()


def test_lines_are_on_disk_before_close(tmp_path):
  writer = writers.JsonlWriter(tmp_path / "metrics.jsonl")
  writer.write_scalars(1, {"loss": 1.0})
  assert len(writers.read_jsonl(tmp_path / "metrics.jsonl")) == 1
  writer.close()


def test_float32_is_written_exactly(tmp_path):
  path = tmp_path / "metrics.jsonl"
  writer = writers.JsonlWriter(path)
  writer.write_scalars(1, {"x": np.float32(0.1)})
  writer.close()
  assert np.float32(writers.read_jsonl(path)[0]["x"]) == np.float32(0.1)


@pytest.mark.parametrize("tail", ["", '{"step": 7, "lo', "garbage\n"])
def test_resumed_log_equals_uninterrupted_one(tmp_path, tail):
  whole, cut = tmp_path / "whole.jsonl", tmp_path / "cut.jsonl"
  _write(whole, range(1, 9))
  _write(cut, range(1, 7))
  with open(cut, "a") as file:
    file.write(tail)
  _write(cut, range(5, 9), resume_step=4)
  assert cut.read_text() == whole.read_text()
  assert sorted(path.name for path in tmp_path.iterdir()) == [
    "cut.jsonl", "whole.jsonl"
  ]  # fmt: skip


def test_run_from_the_beginning_starts_a_new_log(tmp_path):
  path = tmp_path / "metrics.jsonl"
  _write(path, [0, 1])
  _write(path, [0])
  assert [row["step"] for row in writers.read_jsonl(path)] == [0]


def test_half_written_last_line_is_skipped_when_read(tmp_path):
  path = tmp_path / "metrics.jsonl"
  path.write_text('{"step": 1}\n{"step": 2, "l')
  assert writers.read_jsonl(path) == [{"step": 1}]
  path.write_text('{"step": 1, "l\n{"step": 2}\n')
  with pytest.raises(ValueError, match="line 1: not JSON"):
    writers.read_jsonl(path)


def test_reserved_names_and_texts(tmp_path):
  path = tmp_path / "metrics.jsonl"
  writer = writers.JsonlWriter(path)
  with pytest.raises(ValueError, match="cannot be called 'step'"):
    writer.write_scalars(1, {"step": 2})
  writer.write_texts(3, {"note": "NaN"})
  writer.close()
  assert writers.read_jsonl(path)[0]["texts"] == {"note": "NaN"}


def _events(directory):
  """Reads event files by the record format: length, crc, payload, crc."""
  events = []
  for path in sorted(pathlib.Path(directory).rglob("*tfevents*")):
    data = path.read_bytes()
    while data:
      (length,) = struct.unpack("<Q", data[:8])
      for part, at in ((data[:8], 8), (data[12 : 12 + length], 12 + length)):
        (checksum,) = struct.unpack("<I", data[at : at + 4])
        assert checksum == record_writer.masked_crc32c(part)
      events.append(event_pb2.Event.FromString(data[12 : 12 + length]))
      data = data[16 + length :]
  return events


def _values(directory):
  return [
    (event.step, value)
    for event in _events(directory)
    for value in event.summary.value
  ]


def test_tensorboard_events(tmp_path):
  writer = writers.TensorBoardWriter(tmp_path)
  writer.write_scalars(3, {"loss": jnp.float32(0.25)})
  writer.write_images(4, {
    "float": np.ones((2, 6, 5, 1), np.float32),
    "one": np.zeros((6, 5, 3), np.uint8),
  })  # fmt: skip
  writer.write_texts(5, {"note": "hello"})
  writer.write_hparams({"a": {"b": 1, "c": (1, 2)}, "d": "x"})
  writer.flush()
  writer.close()
  writer.close()
  found = {value.tag: (step, value) for step, value in _values(tmp_path)}
  assert found["loss"][0] == 3 and found["loss"][1].simple_value == 0.25
  tags = [tag for tag in found if tag.startswith(("float", "one"))]
  assert len(tags) == 2
  for tag in tags:
    step, value = found[tag]
    image = value.image
    assert step == 4 and image.encoded_image_string[1:4] == b"PNG"
    assert image.height == 6 and image.width == (10 if "float" in tag else 5)
  (text,) = [v for _, v in found.values() if v.HasField("tensor")]
  assert text.tensor.string_val[0] == b"hello"
  start = found["_hparams_/session_start_info"][1]
  content = plugin_hparams_pb2.HParamsPluginData.FromString(
    start.metadata.plugin_data.content
  )
  hparams = content.session_start_info.hparams
  assert hparams["a.b"].number_value == 1
  assert hparams["a.c"].string_value == "(1, 2)"
  assert len(list(tmp_path.iterdir())) == 1  # no second run in a sub-folder


def test_tensorboard_events_are_those_of_its_own_writer(tmp_path):
  """Record for record, but for times; and on disk before anybody closes."""
  image = np.random.default_rng(0).integers(0, 255, (2, 6, 5, 3), np.uint8)
  theirs = tensorboardX.SummaryWriter(str(tmp_path / "theirs"), purge_step=4)
  theirs.add_scalar("a/loss", 0.25, 4)
  theirs.add_images("x", image, 5, dataformats="NHWC")
  theirs.add_text("note", "hello", 6)
  theirs.close()
  writer = writers.TensorBoardWriter(tmp_path / "ours", resume_step=3)
  writer.write_scalars(4, {"a/loss": 0.25})
  writer.write_images(5, {"x": image})
  writer.write_texts(6, {"note": "hello"})
  ours, theirs = _events(tmp_path / "ours"), _events(tmp_path / "theirs")
  writer.close()
  assert len(ours) == 6
  for event in (*ours, *theirs):
    assert event.wall_time > 1e9
    event.wall_time = 0
  assert ours == theirs


def test_tensorboard_hides_what_the_restored_state_has_not_lived(tmp_path):
  writers.TensorBoardWriter(tmp_path, resume_step=4).close()
  starts = [e for e in _events(tmp_path) if e.HasField("session_log")]
  assert [(e.step, e.session_log.status) for e in starts] == [
    (5, event_pb2.SessionLog.START)
  ]


def test_images_of_a_wrong_shape_are_refused(tmp_path):
  writer = writers.TensorBoardWriter(tmp_path)
  with pytest.raises(ValueError, match=r"\(4, 5\)"):
    writer.write_images(1, {"x": np.zeros((4, 5))})
  writer.close()


class _FakeWandb(types.ModuleType):
  """What of wandb the writer uses."""

  def __init__(self):
    super().__init__("wandb")
    self.calls = []
    self.config = self

  def init(self, **kwargs):
    self.calls.append(("init", kwargs))
    return self

  def log(self, values, step):
    self.calls.append(("log", step, values))

  def update(self, values, allow_val_change):
    self.calls.append(("config", values))

  def finish(self):
    self.calls.append(("finish",))

  def Image(self, pixels):  # noqa: N802
    return ("image", pixels.shape, pixels.dtype)


def test_wandb_gets_python_floats(tmp_path, monkeypatch):
  fake = _FakeWandb()
  monkeypatch.setitem(sys.modules, "wandb", fake)
  writer = writers.make_writer(
    tmp_path, tensorboard=False, wandb={"project": "p", "id": "i"}
  )
  writer.write_hparams({"a": 1})
  writer.write_scalars(2, {"loss": jnp.float32(0.5)})
  writer.write_images(2, {"x": np.zeros((2, 4, 4, 3), np.uint8)})
  writer.write_texts(2, {"note": "hello"})
  writer.close()
  image = ("image", (4, 4, 3), np.uint8)
  assert fake.calls == [
    ("init", {"dir": str(tmp_path), "project": "p", "id": "i",
              "resume": "allow"}),
    ("config", {"a": 1}),
    ("log", 2, {"loss": 0.5}),
    ("log", 2, {"x": [image, image]}),
    ("log", 2, {"note": "hello"}),
    ("finish",),
  ]  # fmt: skip
  assert type(fake.calls[2][2]["loss"]) is float


@pytest.mark.parametrize(
  "package, options",
  [
    ("wandb", {"wandb": {}}),
    ("tensorboardX", {}),
  ],
)
def test_missing_package_is_named_and_nothing_written(
  tmp_path, monkeypatch, package, options
):
  monkeypatch.setitem(sys.modules, package, None)
  with pytest.raises(errors.UsageError, match=f"pip install {package}"):
    writers.make_writer(tmp_path, **options)
  assert not list(tmp_path.iterdir())


def test_only_process_0_writes(tmp_path):
  writer = writers.make_writer(tmp_path, process_index=1)
  writer.write_scalars(1, {"loss": 1.0})
  writer.flush()
  writer.close()
  assert not list(tmp_path.iterdir())
  writer = writers.make_writer(tmp_path)
  writer.write_scalars(1, {"loss": 1.0})
  writer.close()
  assert writers.read_jsonl(tmp_path / "metrics.jsonl")[0]["loss"] == 1.0
  assert [v.tag for _, v in _values(tmp_path / "tensorboard")] == ["loss"]


_NO_TENSORFLOW = """
import importlib, pathlib, sys
for name in ("tensorflow", "tensorboard", "wandb", "torch"):
  sys.modules[name] = None  # importing it raises ImportError
import genrep_jax.lib
for path in sorted(pathlib.Path(genrep_jax.lib.__file__).parent.glob("*.py")):
  importlib.import_module(f"genrep_jax.lib.{path.stem}")
assert "tensorboardX" not in sys.modules, "not imported lazily"
from genrep_jax.lib import writers
writer = writers.make_writer(sys.argv[1])
writer.write_scalars(1, {"loss": 1.0})
writer.close()
"""


def test_no_tensorflow(tmp_path):
  subprocess.run(
    [sys.executable, "-c", _NO_TENSORFLOW, str(tmp_path)],
    check=True, cwd=_ROOT, timeout=120,
  )  # fmt: skip
  assert len(_values(tmp_path)) == 1
