"""Names of leaves, masks, counts and mismatches."""

import typing

import flax.struct
import jax
import numpy as np
import optax
import pytest

from genrep_jax.lib import trees


@flax.struct.dataclass
class _State:
  step: int
  params: typing.Any


class _Pair(typing.NamedTuple):
  left: int
  right: int


_PARAMS = {
  "encoder": {
    "conv0": {"kernel": np.zeros((3, 3, 1, 8)), "bias": np.zeros(8)},
    "norm0": {"scale": np.ones(8), "bias": np.zeros(8)},
  },
  "head": {"linear_out": {"kernel": np.zeros((8, 4))}},
}


def test_names():
  tree = _State(step=1, params={"b": (2, [3]), "a": _Pair(4, 5), "none": None})
  assert trees.named(tree) == {
    "step": 1,
    "params/a/left": 4,
    "params/a/right": 5,
    "params/b/0": 2,
    "params/b/1/0": 3,
  }
  assert trees.named(7) == {"": 7}
  assert list(trees.named(_PARAMS)) == [
    "encoder/conv0/bias",
    "encoder/conv0/kernel",
    "encoder/norm0/bias",
    "encoder/norm0/scale",
    "head/linear_out/kernel",
  ]


def test_names_of_an_optax_state():
  state = optax.sgd(0.1, momentum=0.9).init(_PARAMS)
  names = list(trees.named(state))
  assert "0/trace/encoder/conv0/kernel" in names
  assert len(names) == len(set(names)) == len(jax.tree.leaves(state))


def test_ambiguous_names():
  with pytest.raises(ValueError, match="same name"):
    trees.named({"a": {"b": 1}, "a/b": 2})


def test_map_named_keeps_the_structure():
  tree = _State(step=1, params={"a": (2, 3)})
  got = trees.map_named(lambda name, leaf: f"{name}={leaf}", tree)
  assert got == _State(
    step="step=1", params={"a": ("params/a/0=2", "params/a/1=3")}
  )


def test_mask():
  got = trees.mask(_PARAMS, ["bias$", "norm.*scale"])
  assert jax.tree.structure(got) == jax.tree.structure(_PARAMS)
  assert [name for name, on in trees.named(got).items() if on] == [
    "encoder/conv0/bias",
    "encoder/norm0/bias",
    "encoder/norm0/scale",
  ]
  assert not any(jax.tree.leaves(trees.mask(_PARAMS, [])))


def test_parameter_count():
  assert trees.parameter_count(_PARAMS) == 72 + 8 + 8 + 8 + 32
  shapes = jax.eval_shape(lambda: jax.tree.map(lambda x: x, _PARAMS))
  assert trees.parameter_count(shapes) == 128
  assert trees.parameter_count({"scalar": np.float32(1)}) == 1


def test_mismatches():
  assert trees.first_mismatches(_PARAMS, trees.named(_PARAMS)) == []
  got = trees.named(_PARAMS)
  del got["encoder/norm0/bias"]
  got["encoder/extra"] = np.zeros(2)
  got["head/linear_out/kernel"] = jax.ShapeDtypeStruct((8, 5), "float32")
  got["encoder/conv0/bias"] = np.zeros((8, 1))
  lines = [
    "missing encoder/norm0/bias (8,)",
    "unexpected encoder/extra (2,)",
    "encoder/conv0/bias is (8, 1), expected (8,)",
    "head/linear_out/kernel is (8, 5), expected (8, 4)",
  ]
  assert trees.first_mismatches(_PARAMS, got) == [*lines[:3], "and 1 more"]
  assert trees.first_mismatches(_PARAMS, got, limit=4) == lines
