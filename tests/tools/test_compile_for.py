"""What a pod would communicate, compiled here: on fake devices, and by libtpu.

What is asserted of a train step, on 8 fake CPU devices and on a TPU v5e:2x4:
- one all-gather, of the embeddings [n d] of all rows, in the loss;
- its transpose: the embeddings' gradient, one array of n rows, which a compiler
  either all-reduces or reduce-scatters;
- all-reduces of every batch-norm layer's two sums over the global batch (the
  statistics), and backward of their gradients;
- all-reduces of the other parameters' gradients, at most one per parameter;
- scalars: the means over the batch of the loss and of what is measured with it,
  a few numbers of four bytes;
- and nothing else: no image, latent, weight or generated view ever moves.
"""

import dataclasses
import importlib.util
import json
import pathlib
import subprocess
import sys

import jax
import pytest

from genrep_jax.lib import configs, errors, execution, hlo, trees
from genrep_jax.tools import _collectives, compile_for
from tests import support

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
RANDOM_WEIGHTS = (
  "generator.weights=",
  "generator.sha256=",
  "report.recorded=",
)
SHAPES = _collectives.Shapes(
  params=frozenset({(3, 3, 16, 32), (32,), (16, 32)}),
  batch_stats=frozenset({(32,)}),
  rows=128,
)


@pytest.mark.parametrize(
  ("given", "name"),
  [
    ("v5e:2x4", "v5e:2x4"),
    ("V5E:2x4 ", "v5e:2x4"),
    ("v5litepod:4x4", "v5e:4x4"),
    ("v5litepod-8", "v5e:2x4"),
    ("v5e-256", "v5e:16x16"),
    ("v6e-32", "v6e:4x8"),
    ("v4-8", "v4:2x2x1"),
    ("v5p-128", "v5p:4x4x4"),
    ("v3-32", "v3:4x4"),
  ],
)
def test_spellings_of_a_slice(given, name):
  assert compile_for.parse_topology(given)[0] == name


def test_options_make_devices_what_users_see():
  assert compile_for.parse_topology("v4-8")[1] == {
    "chip_config_name": "megacore"
  }
  assert compile_for.parse_topology("v5e:2x4")[1] == {}
  assert compile_for.parse_topology("v6e:1x1")[1] == {
    "chips_per_host_bounds": [1, 1, 1]
  }


def test_accelerator_types_count_chips_or_cores():
  """Cloud's N is chips on v5e, v6e; two cores a chip elsewhere."""
  for kind, table in compile_for._ACCELERATORS.items():
    for count, sides in table.items():
      chips = 1
      for side in sides.split("x"):
        chips *= int(side)
      assert count == chips * (1 if kind in ("v5e", "v6e") else 2)


@pytest.mark.parametrize(
  ("given", "said"),
  [
    ("v5e", "is not GENERATION:SIDExSIDE; examples: v2:2x2"),
    ("v5e:8", "is not GENERATION:SIDExSIDE"),
    ("v5e-7", "unknown 'v5e-7'; known: v5e-1, v5e-4, v5e-8"),
    ("h100-8", "unknown 'h100-8'; known: v2:2x2"),
    ("", "is not GENERATION"),
  ],
)
def test_unknown_spellings_are_refused_in_one_line(given, said):
  with pytest.raises(errors.UsageError) as caught:
    compile_for.parse_topology(given)
  assert said in str(caught.value) and "\n" not in str(caught.value)


def test_missing_libtpu_names_the_extra(monkeypatch):
  monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
  with pytest.raises(errors.UsageError, match=r"pip install -e '\.\[tpu\]'"):
    compile_for.topology_devices("v5e:2x4")


def test_bad_words_are_refused_before_jax_starts(tmp_path, monkeypatch):
  monkeypatch.setattr(compile_for, "topology_devices", None)
  words = ["--config", "configs/quickstart.py", "--topology"]
  with pytest.raises(errors.UsageError, match="GENERATION"):
    compile_for.main([*words, "v5e"])
  missing = str(tmp_path / "no" / "x.json")
  with pytest.raises(errors.UsageError, match="no such folder"):
    compile_for.main([*words, "v5e:2x4", "--json", missing])


@pytest.mark.parametrize(
  ("message", "needed", "available"),
  [
    (
      "RESOURCE_EXHAUSTED: the program's temporaries (16.00G) exceeds "
      "available HBM (15.75G).",
      16.0,
      15.75,
    ),
    (
      "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory "
      "in memory space hbm. Used 32.50G of 15.75G hbm. Exceeded by 16.75G",
      32.5,
      15.75,
    ),
  ],
)
def test_what_did_not_fit_is_read_from_the_error(message, needed, available):
  assert compile_for.needed_and_available(message) == (
    needed * 2**30,
    available * 2**30,
  )
  assert compile_for.needed_and_available("RESOURCE_EXHAUSTED: no") is None


def test_too_large_is_a_result_and_other_errors_are_not(monkeypatch, capsys):
  def fail(message):
    def analyse(lower):
      raise RuntimeError(message)

    monkeypatch.setattr(compile_for, "analyse", analyse)

  fail("RESOURCE_EXHAUSTED: Used 32.50G of 15.75G hbm.")
  result = compile_for._compile(None)
  assert result["fits"] is False
  compile_for._print(result, "TPU v5 lite")
  assert capsys.readouterr().out == (
    "fits            no: it needs 32.5 GiB of the 15.8 GiB that a program has "
    "on a 16 GiB TPU v5 lite\n"
  )
  fail("INTERNAL: a bug")
  with pytest.raises(RuntimeError, match="a bug"):
    compile_for._compile(None)


def test_labels_are_gathered_as_whole_numbers():
  labels = hlo.Buffer("s32", (128,))
  found = hlo.stages("")
  for kind in ("all-reduce", "all-gather"):
    assert _collectives.purpose(kind, labels, found, SHAPES) == "labels"
  other = hlo.Buffer("s32", (129,))
  assert _collectives.purpose(kind, other, found, SHAPES) == "unexplained"


@pytest.mark.parametrize(
  ("kind", "shape", "op_name", "what"),
  [
    ("all-gather", (128, 32), "jvp(loss)/dot", "embeddings"),
    ("all-gather", (32, 128), "jvp(loss)/dot", "embeddings"),
    ("all-gather", (64, 2, 32), "jvp(loss)/dot", "embeddings"),
    ("reduce-scatter", (128, 32), "transpose(jvp(loss))/dot", "embeddings"),
    ("all-reduce", (128, 32), "transpose(jvp(loss))/dot", "embeddings"),
    ("all-reduce", (32,), "jvp(encode)/BatchNorm", "batch-norm statistics"),
    (
      "all-reduce",
      (1, 1, 1, 32),
      "transpose(jvp(encode))/BatchNorm",
      "batch-norm statistics",
    ),
    ("all-reduce", (3, 3, 16, 32), "transpose(jvp(encode))/Conv", "gradients"),
    ("all-reduce", (32, 16), "transpose(jvp(loss))/Dense", "gradients"),
    ("all-reduce", (), "jvp(loss)/reduce_sum", "scalars"),
    ("all-reduce", (1,), "update/reduce_sum", "scalars"),
    # What must never move: images, latents, weights, gradients by gather.
    ("all-gather", (128, 28, 28, 1), "augment/crop", "unexplained"),
    ("all-gather", (128, 32), "sample/normal", "unexplained"),
    ("all-gather", (128, 32), "jvp(encode)/Dense", "unexplained"),
    ("all-gather", (3, 3, 16, 32), "jvp(encode)/Conv", "unexplained"),
    ("all-gather", (3, 3, 16, 32), "update/adam", "unexplained"),
    ("all-gather", (32,), "jvp(encode)/BatchNorm", "unexplained"),
    ("all-gather", (16, 32), "transpose(jvp(encode))/Dense", "unexplained"),
    ("all-reduce", (3, 3, 16, 32), "jvp(encode)/Conv", "unexplained"),
    ("all-reduce", (5, 7), "transpose(jvp(encode))/Conv", "unexplained"),
    ("all-reduce", (32,), "augment/mean", "unexplained"),
    ("all-reduce", (), "augment/mean", "unexplained"),
    ("all-to-all", (128, 32), "jvp(loss)/dot", "unexplained"),
    ("collective-permute", (128, 32), "jvp(loss)/dot", "unexplained"),
    ("all-reduce", (128, 32), "", "unexplained"),
  ],
)
def test_purpose(kind, shape, op_name, what):
  found = hlo.stages(f"jit(steps)/{op_name}")
  buffer = hlo.Buffer("f32", shape)
  assert _collectives.purpose(kind, buffer, found, SHAPES) == what


@pytest.mark.parametrize(
  ("kind", "what"),
  [
    ("all-gather", "embeddings"),
    ("reduce-scatter", "embeddings"),
    ("all-reduce", "gradients"),
  ],
)
def test_purpose_with_a_parameter_as_large_as_the_embeddings(kind, what):
  shapes = dataclasses.replace(SHAPES, params=frozenset({(32, 128)}))
  found = hlo.stages("jit(steps)/transpose(jvp(loss))/dot")
  buffer = hlo.Buffer("f32", (128, 32))
  assert _collectives.purpose(kind, buffer, found, shapes) == what


def check_step(result, params, norms, gathers=1):
  """Asserts what the module's docstring says of a step's collectives.

  Args:
    result: compile_for.analyse, or its JSON.
    params: number of parameter arrays outside batch norms.
    norms: number of batch-norm layers.
    gathers: arrays of the loss that every device needs whole.
  """
  assert result["unexplained"] == []
  table = {what: row["arrays"] for what, row in result["by_purpose"].items()}
  assert table.pop("embeddings, all-gather") == gathers
  backward = table.pop("embeddings, all-reduce", 0)
  backward += table.pop("embeddings, reduce-scatter", 0)
  assert backward == gathers
  # Two sums a layer forward, and between two and four backward: the gradients
  # of both sums, of scale and of bias are two distinct pairs at most.
  if norms:
    statistics = table.pop("batch-norm statistics, all-reduce")
    assert 4 * norms <= statistics <= 6 * norms
  gradients = table.pop("gradients, all-reduce")
  assert 0 < gradients <= params
  scalars = table.pop("scalars, all-reduce", 0)
  assert scalars <= 8
  assert table == {}


def counts(program):
  """Returns (parameters outside batch norms, batch norms) of a program."""
  state, _ = execution.abstract(program)
  norms = {name.rpartition("/")[0] for name in trees.named(state.batch_stats)}
  encoder = trees.named(state.params["encoder"])
  others = [name for name in encoder if name.rpartition("/")[0] not in norms]
  return len(others) + len(jax.tree.leaves(state.params["head"])), len(norms)


def test_the_quick_start_on_eight_devices_moves_only_what_it_must():
  config = support.tiny("encoder.norm=batch")
  run = support.open_run(config, 8)
  result = compile_for.analyse(lambda: compile_for.lower_step(run))
  params, norms = counts(run.program)
  assert params and norms
  check_step(result, params, norms)
  kinds = set(result["collectives"])
  assert kinds <= {"all-gather", "all-reduce", "reduce-scatter"}


def test_one_device_moves_nothing():
  config = support.tiny("encoder.norm=batch")
  run = support.open_run(config, 1)
  result = compile_for.analyse(lambda: compile_for.lower_step(run))
  assert result["collectives"] == {} == result["by_purpose"]
  assert result["flops"] > 0


def test_rendering_alone_moves_nothing_and_costs_by_the_image():
  found = {}
  for anchors in (16, 32):
    config = support.tiny(f"global_batch={anchors}", "precision=bfloat16")
    run = support.open_run(config, 8)
    found[anchors] = compile_for.analyse(
      lambda run=run: compile_for.lower_render(run)
    )
    assert found[anchors]["collectives"] == {}
  ratio = found[32]["flops"] / found[16]["flops"]
  assert 1.95 < ratio < 2.05
  with pytest.raises(errors.UsageError, match="given 20; .* the 8 devices"):
    support.open_run(support.tiny("global_batch=20"), 8)


def compile_on(tmp_path, topology, *overrides):
  """Runs the command in its own process: libtpu and fake devices apart."""
  if importlib.util.find_spec("libtpu") is None:
    pytest.skip("libtpu, the TPU compiler, is not installed: '.[tpu]'")
  file = tmp_path / "result.json"
  done = subprocess.run(
    [
      sys.executable,
      "-m",
      "genrep_jax.tools.compile_for",
      *("--config", "configs/quickstart.py"),
      *("--topology", topology),
      *("--json", str(file)),
      *(f"--config.{text}" for text in overrides),
    ],
    cwd=ROOT,
    capture_output=True,
    text=True,
  )
  result = json.loads(file.read_text()) if file.exists() else {}
  return done, result


@pytest.mark.slow
def test_the_quick_start_compiles_for_a_tpu_slice(tmp_path):
  done, result = compile_on(tmp_path, "v5e:2x4", *RANDOM_WEIGHTS)
  assert done.returncode == 0, done.stderr
  assert result["devices"] == 8
  assert "fits            yes" in done.stdout
  config = configs.load(str(ROOT / "configs/quickstart.py"), RANDOM_WEIGHTS)
  check_step(result, *counts(support.open_run(config, 8).program))


RESNET_50 = (
  *RANDOM_WEIGHTS,
  "generator.base_px=8",
  "generator.widths=(16, 8, 8)",
  "generator.extra_convs=(0, 0, 0)",
  "generator.channels=3",
  "views.pixel.mean=(0.5, 0.5, 0.5)",
  "views.pixel.std=(0.5, 0.5, 0.5)",
  "encoder.name=resnet",
  "encoder.depth=50",
  "global_batch=64",
  "precision=bfloat16",
)


@pytest.mark.slow
def test_a_resnet50_contrastive_step_compiles_for_a_tpu_slice(tmp_path):
  done, result = compile_on(tmp_path, "v5e:2x4", *RESNET_50)
  assert done.returncode == 0, done.stderr
  config = configs.load(str(ROOT / "configs/quickstart.py"), RESNET_50)
  params, norms = counts(support.open_run(config, 8).program)
  assert norms == 53
  check_step(result, params, norms)


@pytest.mark.slow
def test_a_step_that_does_not_fit_is_exit_code_1_with_both_numbers(tmp_path):
  # 64**2 times the parameters: with Adam's moments, more than the chip holds.
  large = ("encoder.width=64", "global_batch=16")
  done, result = compile_on(tmp_path, "v5e:2x4", *RANDOM_WEIGHTS, *large)
  assert done.returncode == 1, done.stderr
  assert result["fits"] is False
  assert result["needed_bytes"] > result["available_bytes"] > 10 * 2**30
  assert "fits            no: it needs" in done.stdout


@pytest.mark.slow
def test_an_unknown_generation_is_refused_in_one_line(tmp_path):
  done, _ = compile_on(tmp_path, "v9:2x2", *RANDOM_WEIGHTS)
  assert done.returncode == errors.EXIT_USAGE
  assert done.stderr.count("\n") == 1
  assert "the compiler refuses 'v9:2x2'" in done.stderr
