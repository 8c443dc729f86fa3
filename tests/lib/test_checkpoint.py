"""Checkpoints: restored bit for bit, or refused; never silently wrong."""

import gc
import hashlib
import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import threading
import time

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest

from genrep_jax.lib import checkpoint, errors, mesh as meshes

# An Orbax restore that fails leaves reads behind: their callbacks find the
# event loop closed, their coroutines complain when they are collected. pytest
# makes both errors, of whichever test runs by then.
pytestmark = pytest.mark.filterwarnings(
  "ignore:Exception ignored in:pytest.PytestUnraisableExceptionWarning"
)

_ROOT = pathlib.Path(__file__).resolve().parents[2]
_METADATA = {"config": {"seed": 1, "views": {"sigma": [0.5, 2.0]}}, "seed": 1}


@pytest.fixture(autouse=True, scope="module")
def _late_callbacks():
  yield
  # Let them come while the filter above holds, not in the next file's tests.
  time.sleep(0.5)
  gc.collect()


def _state(step, sharding=None, size=64):
  """A state of many dtypes, different at every step."""
  random = np.random.RandomState(step)
  params = {"w": jnp.asarray(random.randn(size, 256), jnp.float32)}
  state = {
    "params": params,
    "opt": optax.adam(1e-3).init(params),
    "half": jnp.asarray(random.randn(16), jnp.bfloat16),
    "bytes": jnp.asarray(random.randint(0, 256, (8, 3)), jnp.uint8),
    "mask": jnp.asarray(random.rand(8) < 0.5),
    "empty": jnp.zeros((0, 4)),
    "stats": {},
    "step": jnp.int32(step),
  }
  if sharding is None:
    return state
  return jax.device_put(state, sharding)


def _abstract(state, sharding=None):
  sharding = sharding or jax.sharding.SingleDeviceSharding(jax.devices()[0])
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), state
  )


def _bits(x):
  return np.asarray(x).tobytes()


def _assert_same(a, b):
  assert jax.tree.structure(a) == jax.tree.structure(b)
  for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b)):
    assert x.dtype == y.dtype and x.shape == y.shape and _bits(x) == _bits(y)


def _save(directory, *steps, keep=3, **kwargs):
  with checkpoint.Checkpoints(
    directory, keep=keep, metadata=_METADATA
  ) as saver:
    for step in steps:
      assert saver.save(step, _state(step, **kwargs))


def _restore(directory, target=None, keep=3):
  target = _abstract(_state(0)) if target is None else target
  with checkpoint.Checkpoints(
    directory, keep=keep, metadata=_METADATA
  ) as saver:
    return saver.restore_newest_sound(target)


def _data_file(directory, step):
  """The file that holds the arrays' bytes: the largest one."""
  files = (directory / str(step) / "state").rglob("d/*")
  return max(files, key=lambda path: path.stat().st_size)


def _flip(path, offset):
  raw = bytearray(path.read_bytes())
  raw[offset] ^= 0x10
  path.write_bytes(bytes(raw))


def test_round_trip_is_bit_exact(tmp_path):
  directory = tmp_path / "checkpoints"
  _save(directory, 3, 7)
  state, step, metadata = _restore(directory)
  assert step == 7
  _assert_same(state, _state(7))
  assert metadata["config"] == _METADATA["config"] and metadata["step"] == 7
  assert metadata["digests"]["params/w"]["shape"] == [64, 256]
  assert set(metadata) == {
    *("config", "seed", "step", "measured", "digests", "sha256")
  }
  assert metadata["measured"] == {}


@flax.struct.dataclass
class _Earlier:
  """The state of an earlier version."""

  params: dict
  views: dict


@flax.struct.dataclass
class _Later:
  """The same with a part more, which is seldom used."""

  params: dict
  views: dict
  added: dict


def test_a_part_that_an_earlier_version_did_not_know_may_be_empty(
  tmp_path, capsys
):
  params = {"b": jnp.arange(3.0), "a": jnp.ones((2, 2))}
  with checkpoint.Checkpoints(tmp_path, keep=1, metadata=_METADATA) as saver:
    assert saver.save(1, _Earlier(params, {}))
  target = _Later(jax.tree.map(jnp.zeros_like, params), {}, {})
  state, step, _ = _restore(tmp_path, jax.eval_shape(lambda: target))
  assert isinstance(state, _Later) and step == 1
  assert state.views == state.added == {}
  _assert_same(state.params, params)
  used = target.replace(added={"new": jnp.zeros(2)})
  with pytest.raises(errors.UsageError, match="another model.*no such leaf"):
    _restore(tmp_path, jax.eval_shape(lambda: used))
  assert not capsys.readouterr().err


def test_reading_and_refusing_write_nothing(tmp_path):
  directory = tmp_path / "checkpoints"
  with checkpoint.Checkpoints(directory, keep=1, metadata=_METADATA) as saver:
    assert saver.all_steps() == []
    assert saver.latest_metadata() is None
    assert saver.restore_newest_sound(_abstract(_state(0))) is None
  assert not directory.exists()
  with pytest.raises(errors.UsageError, match="keep = 0"):
    checkpoint.Checkpoints(directory, keep=0, metadata=_METADATA)
  _save(directory, 1)
  before = sorted(directory.rglob("*"))
  with checkpoint.Checkpoints(directory, keep=1, metadata={}) as saver:
    assert saver.latest_metadata()["config"] == _METADATA["config"]
  assert sorted(directory.rglob("*")) == before


def test_keeps_the_newest_and_saves_a_step_once(tmp_path):
  with checkpoint.Checkpoints(tmp_path, keep=2, metadata=_METADATA) as saver:
    for step in (1, 2, 3):
      assert saver.save(step, _state(step))
    assert not saver.save(3, _state(3), force=True)
    saver.wait()
    assert saver.all_steps() == [2, 3]
  assert sorted(path.name for path in tmp_path.iterdir()) == ["2", "3"]


def test_eight_devices_one_device_eight_devices(tmp_path):
  eight = meshes.make_mesh()
  rows = meshes.batch(eight)

  def spread(state):
    state = jax.device_put(state, meshes.replicated(eight))
    state["params"]["w"] = jax.device_put(state["params"]["w"], rows)
    return state

  state = spread(_state(1))
  with checkpoint.Checkpoints(tmp_path, keep=3, metadata=_METADATA) as saver:
    saver.save(1, state)
  on_one, _, metadata_one = _restore(tmp_path)
  assert on_one["params"]["w"].devices() == {jax.devices()[0]}
  _assert_same(on_one, state)
  with checkpoint.Checkpoints(tmp_path, keep=3, metadata=_METADATA) as saver:
    saver.save(2, on_one)
  target = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding),
    state,
  )
  on_eight, step, metadata_eight = _restore(tmp_path, target)
  assert step == 2 and metadata_one["digests"] == metadata_eight["digests"]
  assert on_eight["params"]["w"].sharding == rows
  _assert_same(on_eight, state)


def test_state_may_be_donated_as_soon_as_save_returns(tmp_path):
  spoil = jax.jit(
    lambda tree: jax.tree.map(lambda x: x * 0 + 1, tree), donate_argnums=0
  )
  with checkpoint.Checkpoints(tmp_path, keep=3, metadata=_METADATA) as saver:
    for step in (1, 2, 3):
      state = _state(step, size=2048)
      saver.save(step, state)
      spoiled = spoil({"w": state["params"]["w"], "half": state["half"]})
    jax.block_until_ready(spoiled)
  state, step, _ = _restore(tmp_path, _abstract(_state(0, size=2048)))
  assert step == 3
  _assert_same(state, _state(3, size=2048))


def test_runs_inside_a_transfer_guard(tmp_path):
  state = _state(1)
  with (
    jax.transfer_guard("disallow"),
    checkpoint.Checkpoints(tmp_path, keep=1, metadata=_METADATA) as saver,
  ):
    saver.save(1, state)
    assert saver.restore_newest_sound(_abstract(state))[1] == 1


def test_flipped_byte_that_orbax_accepts_is_refused(tmp_path, capsys):
  sound = tmp_path / "sound"
  _save(sound, 5, 9)
  size = _data_file(sound, 9).stat().st_size
  accepted = 0
  for fraction in (0.2, 0.35, 0.5, 0.65, 0.8):
    directory = tmp_path / f"flipped_{fraction}"
    shutil.copytree(sound, directory)
    path = _data_file(directory, 9)
    _flip(path, int(fraction * size))
    damaged = path.read_bytes()
    raw = None
    with ocp.CheckpointManager(directory) as manager:
      target = _abstract({**_state(0), "empty": None})
      try:
        raw = manager.restore(
          9, args=ocp.args.Composite(state=ocp.args.StandardRestore(target))
        )["state"]
      except ValueError:
        pass  # the decompressor noticed
    state, step, _ = _restore(directory)
    assert step == 5
    _assert_same(state, _state(5))
    message = capsys.readouterr().err
    assert message.count("\n") == 1 and "step 9" in message
    assert "damaged-9" in message and "trying the next older" in message
    kept = directory / "damaged-9" / path.relative_to(directory / "9")
    assert kept.read_bytes() == damaged and not (directory / "9").exists()
    if raw is not None:
      accepted += 1
      assert _bits(raw["params"]["w"]) != _bits(_state(9)["params"]["w"])
      assert "leaf params/w differs from its digest" in message
  assert accepted, "Orbax noticed every flip: this test shows nothing"


def _truncate_data(directory):
  path = _data_file(directory, 9)
  path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _edit_metadata(directory):
  path = directory / "9" / "side" / "metadata"
  text = path.read_text()
  assert '"seed": 1' in text or '"seed":1' in text
  path.write_text(
    text.replace('"seed": 1', '"seed": 2').replace('"seed":1', '"seed":2')
  )


def _metadata_of_another_step(directory):
  shutil.copy(directory / "5/side/metadata", directory / "9/side/metadata")


def _break(name, text=None):
  def damage(directory):
    path = directory / "9" / name
    assert path.exists()
    if text is None:
      path.unlink()
    else:
      path.write_text(text)

  return damage


def _put(make, name):
  """Puts what is no file in the place of one."""

  def damage(directory):
    path = directory / "9" / name
    if path.exists():
      path.unlink()
    make(path)

  return damage


def _socket(path):
  with socket.socket(socket.AF_UNIX) as one:
    here = os.getcwd()
    os.chdir(path.parent)  # the address of a socket is short
    one.bind(path.name)
    os.chdir(here)


def _data_is_a_fifo(directory):
  path = _data_file(directory, 9)
  path.unlink()
  os.mkfifo(path)


def _dangle(path):
  path.symlink_to("nowhere")


def _half_copied(directory):
  """As a copy that broke off: the names of some files, bytes of none."""
  for number, path in enumerate(sorted((directory / "9").rglob("*"))):
    if path.is_file():
      path.write_bytes(b"") if number % 2 else path.unlink()


def _sealed_without(*keys):
  def damage(directory):
    path = directory / "9" / "side" / "metadata"
    record = json.loads(path.read_text())
    for key in (*keys, "sha256"):
      record.pop(key)
    text = json.dumps(record, sort_keys=True, separators=(",", ":"))
    record["sha256"] = hashlib.sha256(text.encode()).hexdigest()
    path.write_text(json.dumps(record))

  return damage


@pytest.mark.parametrize(
  "damage",
  [
    _put(os.mkfifo, "side/metadata"),
    _put(os.mkfifo, "state/manifest.ocdbt"),
    _put(os.mkfifo, "strange"),
    _put(_socket, "state/_METADATA"),
    _put(_dangle, "state/_METADATA"),
    _data_is_a_fifo,
    _half_copied,
    _sealed_without("config"),
    _sealed_without("digests"),
    _sealed_without("config", "digests", "step", "measured"),
    _truncate_data,
    _edit_metadata,
    _metadata_of_another_step,
    _break("side/metadata"),
    _break("side/metadata", '{"seed": 1'),
    _break("side/metadata", "[]"),
    _break("state/manifest.ocdbt"),
    _break("state/_METADATA"),
    _break("state/_METADATA", "{"),
  ],
)
def test_other_damage_falls_back_too(tmp_path, capsys, damage):
  _save(tmp_path, 5, 9)
  damage(tmp_path)
  state, step, metadata = _restore(tmp_path)
  assert step == 5 and metadata["step"] == 5
  _assert_same(state, _state(5))
  assert (tmp_path / "damaged-9").is_dir()
  gc.collect()  # what a failed read leaves has nothing to say, either
  message = capsys.readouterr().err
  assert message.count("\n") == 1
  if damage is _metadata_of_another_step:
    assert "the metadata is that of step 5" in message


@pytest.mark.parametrize("make", [os.mkfifo, pathlib.Path.touch])
def test_a_step_that_is_no_folder_falls_back_too(tmp_path, capsys, make):
  _save(tmp_path, 5)
  make(tmp_path / "9")
  assert _restore(tmp_path)[1] == 5
  assert capsys.readouterr().err.count("\n") == 1


def test_a_reader_moves_nothing(tmp_path, capsys):
  _save(tmp_path, 5, 9)
  _edit_metadata(tmp_path)
  before = sorted(tmp_path.rglob("*"))
  with checkpoint.Checkpoints(
    tmp_path, keep=1, metadata=_METADATA, read_only=True
  ) as reader:
    for _ in range(2):
      state, step, _ = reader.restore_newest_sound(_abstract(_state(0)))
      assert step == 5
      _assert_same(state, _state(5))
      assert "left where it is" in capsys.readouterr().err
  assert sorted(tmp_path.rglob("*")) == before


def test_a_reader_beside_a_run_that_keeps_one_finds_the_newest(
  tmp_path, capsys
):
  _save(tmp_path, 1, keep=1)
  done = threading.Event()

  def run():
    with checkpoint.Checkpoints(tmp_path, keep=1, metadata=_METADATA) as saver:
      for step in range(2, 30):
        saver.save(step, _state(step), force=True)
    done.set()

  writer = threading.Thread(target=run)
  writer.start()
  steps = []
  with checkpoint.Checkpoints(
    tmp_path, keep=1, metadata=_METADATA, read_only=True
  ) as reader:
    while not done.is_set():
      state, step, _ = reader.restore_newest_sound(_abstract(_state(0)))
      _assert_same(state, _state(step))
      assert reader.latest_metadata()["step"] >= step
      steps.append(step)
  writer.join()
  assert steps == sorted(steps) and len(set(steps)) > 1
  assert capsys.readouterr().err == ""


@pytest.mark.parametrize("text", ["", "{", "{}"])
def test_broken_orbax_step_metadata_loses_nothing(tmp_path, text):
  _save(tmp_path, 5, 9)
  (tmp_path / "9" / "_CHECKPOINT_METADATA").write_text(text)
  state, step, _ = _restore(tmp_path)
  assert step in (5, 9)
  _assert_same(state, _state(step))


def test_step_can_be_saved_again_after_being_set_aside(tmp_path):
  for _ in range(2):
    with checkpoint.Checkpoints(tmp_path, keep=2, metadata=_METADATA) as saver:
      saver.restore_newest_sound(_abstract(_state(0)))
      for step in (5, 9):
        saver.save(step, _state(step))
    _flip(_data_file(tmp_path, 9), 30000)
  assert _restore(tmp_path)[1] == 5
  names = sorted(path.name for path in tmp_path.iterdir())
  assert names == ["5", "damaged-9", "damaged-9-2"]


def test_never_starts_over_silently(tmp_path):
  _save(tmp_path, 5, 9)
  for step in (5, 9):
    _flip(_data_file(tmp_path, step), 30000)
  for _ in range(2):  # and again: the first call has moved them
    with pytest.raises(errors.UsageError) as caught:
      _restore(tmp_path)
    message = str(caught.value)
    assert "\n" not in message and str(tmp_path) in message
    assert "damaged-5, damaged-9" in message


def test_another_tree_is_named_and_left_alone(tmp_path):
  _save(tmp_path, 5)
  target = _abstract(_state(0))
  target["params"]["w"] = jax.ShapeDtypeStruct((64, 255), jnp.float32)
  target["half"] = jax.ShapeDtypeStruct((16,), jnp.float32)
  target["new"] = jax.ShapeDtypeStruct((), jnp.int32)
  del target["mask"]
  with pytest.raises(errors.UsageError) as caught:
    _restore(tmp_path, target)
  message = str(caught.value)
  assert "\n" not in message and "4 leaves differ" in message
  assert "half: saved bfloat16[16], this run float32[16]" in message
  assert "new: saved no such leaf, this run int32[]" in message
  assert "params/w: saved float32[64, 256], this run float32[64, 255]" in (
    message
  )
  assert _restore(tmp_path)[1] == 5


def test_latest_metadata_skips_a_broken_one(tmp_path):
  _save(tmp_path, 5, 9)
  (tmp_path / "9/side/metadata").write_text("{")
  with checkpoint.Checkpoints(tmp_path, keep=3, metadata={}) as saver:
    assert saver.latest_metadata()["step"] == 5
    assert saver.all_steps() == [5, 9]  # nothing was moved


def test_differing_keys():
  a = {"seed": 1, "views": {"sigma": (0.5, 2), "n": 2}, "log": {"every": 10}}
  b = {"seed": 1, "views": {"sigma": [0.5, 2], "n": 3}, "log": {"every": 20},
       "extra": {}, "logs": 1}  # fmt: skip
  assert checkpoint.differing_keys(a, json.loads(json.dumps(a))) == []
  everything = ["extra", "log.every", "logs", "views.n"]
  assert checkpoint.differing_keys(a, b) == everything
  assert checkpoint.differing_keys(b, a) == everything
  free = ["log", "extra"]
  assert checkpoint.differing_keys(a, b, may_differ=free) == ["logs", "views.n"]


def test_a_key_that_was_added_since_meant_its_default():
  earlier = {"seed": 1, "views": {"n": 2}}
  now = {"seed": 1, "views": {"n": 2, "pool": 0, "sizes": (1, 2)}}
  defaults = {"seed": 7, "views.pool": 0, "views.sizes": (1, 2), "gone": 1}

  def differing(config):
    return checkpoint.differing_keys(earlier, config, defaults=defaults)

  assert differing(now) == []
  assert differing({**now, "views": {**now["views"], "pool": 3}}) == [
    "views.pool"
  ]
  assert differing({**now, "seed": 7}) == ["seed"]  # it was 1, not absent
  assert differing({"views": {"n": 2}}) == ["seed"]  # a key that went


def test_what_was_measured_is_remembered_and_sealed(tmp_path):
  measured = {"first_nonfinite": 2**31 - 1, "averages": {"loss": [0.1, 3.0]}}
  with checkpoint.Checkpoints(tmp_path, keep=2, metadata=_METADATA) as saver:
    saver.save(5, _state(5), measured=measured)
  assert _restore(tmp_path)[2]["measured"] == measured
  path = tmp_path / "5/side/metadata"
  text = path.read_text()
  assert "0.1" in text
  path.write_text(text.replace("0.1", "0.2"))
  with pytest.raises(errors.UsageError, match="no sound checkpoint"):
    _restore(tmp_path)


def test_disk_full_keeps_the_last_good_checkpoint(tmp_path, caplog):
  if shutil.which("mount") is None or os.geteuid() != 0:
    pytest.skip("needs root to mount a small tmpfs")
  mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(tmp_path)]
  if subprocess.run(mount, capture_output=True).returncode:
    pytest.skip("tmpfs cannot be mounted here")
  try:
    directory = tmp_path / "checkpoints"
    saver = checkpoint.Checkpoints(directory, keep=1, metadata=_METADATA)
    saver.save(1, _state(1))
    saver.wait()
    free = shutil.disk_usage(tmp_path).free
    (tmp_path / "ballast").write_bytes(bytes(free - 40 * 1024))
    with pytest.raises(OSError) as caught:
      saver.save(2, _state(2))
      saver.save(3, _state(3))
      saver.wait()
    message = str(caught.value)
    assert f"{directory} failed (No space left on device); " in message
    assert message.endswith("newest finished checkpoint: step 1")
    assert not caplog.records  # nor does Orbax log pages of it
    saver.close()
    (tmp_path / "ballast").unlink()
    state, step, _ = _restore(directory, keep=1)
    assert step == 1
    _assert_same(state, _state(1))
    _save(directory, 2, keep=1)
    assert _restore(directory, keep=1)[1] == 2
  finally:
    subprocess.run(["umount", str(tmp_path)], check=True)


@pytest.mark.parametrize("call", ["save", "wait", "close"])
def test_failed_save_surfaces_at_the_next_call(tmp_path, monkeypatch, call):
  saver = checkpoint.Checkpoints(tmp_path, keep=2, metadata=_METADATA)
  saver.save(1, _state(1), force=True)

  def fail(self):
    raise ValueError("RESOURCE_EXHAUSTED: No space\nleft on device")

  monkeypatch.setattr(ocp.CheckpointManager, "wait_until_finished", fail)
  with pytest.raises(OSError, match="No space left on device.*: step 1"):
    saver.save(3, _state(3)) if call == "save" else getattr(saver, call)()
  saver.close()  # does not complain twice
  monkeypatch.undo()
  assert _restore(tmp_path)[1] == 1


def test_unsupported_leaf_is_refused_before_orbax_sees_it(tmp_path):
  # An exception inside `CheckpointManager.save` leaves threads behind that
  # keep the process alive for minutes.
  with checkpoint.Checkpoints(tmp_path, keep=2, metadata=_METADATA) as saver:
    with pytest.raises(TypeError, match="no digest"):
      saver.save(1, {"x": jnp.zeros(2, "complex64")})
    assert saver.save(1, _state(1))
  assert _restore(tmp_path)[1] == 1


_WORKER = """
import sys
import jax
import numpy as np
port, index, directory, job = sys.argv[1:]
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 2)
jax.distributed.initialize(f"127.0.0.1:{port}", 2, int(index))
from genrep_jax.lib import checkpoint, mesh
batch = mesh.batch(mesh.make_mesh())
def state(step):
  value = np.random.RandomState(step).randn(64, 256).astype(np.float32)
  return {"w": jax.make_array_from_callback(
    value.shape, batch, lambda i: value[i])}
with checkpoint.Checkpoints(directory, keep=2, metadata={}) as saver:
  if job == "save":
    for step in (1, 2):
      saver.save(step, state(step), force=True)
  else:
    target = jax.tree.map(lambda x: jax.ShapeDtypeStruct(
      x.shape, x.dtype, sharding=x.sharding), state(0))
    restored, step, _ = saver.restore_newest_sound(target)
    wanted = state(step)["w"]
    for a, b in zip(restored["w"].addressable_shards,
                    wanted.addressable_shards):
      np.testing.assert_array_equal(a.data, b.data)
    print("restored", step)
"""


def _two_processes(directory, job):
  with socket.socket() as probe:
    probe.bind(("127.0.0.1", 0))
    port = str(probe.getsockname()[1])
  environment = {**os.environ, "PYTHONPATH": str(_ROOT), "XLA_FLAGS": ""}
  workers = [
    subprocess.Popen(
      [sys.executable, "-c", _WORKER, port, str(i), str(directory), job],
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
      env=environment,
    )  # fmt: skip
    for i in range(2)
  ]
  try:
    outputs = [worker.communicate(timeout=120) for worker in workers]
  finally:
    for worker in workers:
      worker.kill()
  assert [worker.returncode for worker in workers] == [0, 0], outputs
  return outputs


@pytest.mark.slow
@pytest.mark.parametrize("of", [0, 1])
def test_two_processes_agree_on_what_is_damaged(tmp_path, of):
  _two_processes(tmp_path, "save")
  path = max(
    (tmp_path / "2" / "state" / f"ocdbt.process_{of}").rglob("d/*"),
    key=lambda path: path.stat().st_size,
  )
  _flip(path, path.stat().st_size // 2)
  outputs = _two_processes(tmp_path, "restore")
  assert all("restored 1" in out for out, _ in outputs)
  assert sum("step 2" in err for _, err in outputs) == 1
  assert (tmp_path / "damaged-2").is_dir()
  value = np.random.RandomState(1).randn(64, 256).astype(np.float32)
  target = {"w": jax.ShapeDtypeStruct(value.shape, value.dtype)}
  alone, step, _ = _restore(tmp_path, target)  # and one process restores it
  assert step == 1
  np.testing.assert_array_equal(alone["w"], value)
