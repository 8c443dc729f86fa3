"""A train step is one program: six stages, one compilation, no transfers."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genrep_jax.lib import execution, hlo, plugins, rng
from tests import support


def scopes(jaxpr, found=None):
  """Collects the named scopes of every equation, inner jaxprs included."""
  found = set() if found is None else found
  for equation in jaxpr.eqns:
    found.update(str(equation.source_info.name_stack).split("/"))
    for value in equation.params.values():
      for inner in jax.tree.leaves(
        value, is_leaf=lambda x: hasattr(x, "eqns") or hasattr(x, "jaxpr")
      ):
        if hasattr(inner, "jaxpr"):
          inner = inner.jaxpr
        if hasattr(inner, "eqns"):
          scopes(inner, found)
  return found


@pytest.mark.parametrize("source", ["generator", "array", "mix"])
def test_jaxpr_holds_all_six_stages(source):
  program, _, state, frozen = support.open_program(
    support.tiny(f"source.name={source}")
  )
  jaxpr = jax.make_jaxpr(program.step)(state, frozen)
  found = {
    part.removeprefix("jvp(").removeprefix("transpose(").strip("()")
    for part in scopes(jaxpr.jaxpr)
  }
  assert set(hlo.STAGES) <= found


def test_fifty_steps_compile_once_and_transfer_nothing():
  program, mesh, state, frozen = support.open_program(support.tiny(), devices=8)
  train_step = execution.jit(program)
  with jax.transfer_guard("disallow"):
    for _ in range(50):
      state, measured = train_step(state, frozen)
  assert train_step._cache_size() == 1
  assert int(state.step) == 50
  assert np.isfinite(float(measured.compute()["loss"]))


def test_generator_weights_are_arguments_not_constants():
  program, mesh, state, frozen = support.open_program(support.tiny())
  lowered = execution.jit(program).lower(state, frozen)
  weights = sum(x.nbytes for x in jax.tree.leaves(frozen["generator"]))
  assert len(lowered.as_text()) < 1e6
  arguments = lowered.compile().memory_analysis().argument_size_in_bytes
  states = sum(x.nbytes for x in jax.tree.leaves(state))
  assert arguments >= weights + states


def test_state_is_donated_and_generator_is_kept():
  program, mesh, state, frozen = support.open_program(support.tiny())
  execution.jit(program)(state, frozen)
  assert all(x.is_deleted() for x in jax.tree.leaves(state.params))
  assert not any(x.is_deleted() for x in jax.tree.leaves(frozen))


def test_scanned_steps_equal_single_steps():
  # Not Adam: it makes whole steps out of the rounding of a zero gradient.
  config = support.tiny("optimizer.name=sgd", "optimizer.learning_rate=0.1")
  program, mesh, state, frozen = support.open_program(config)
  single = execution.jit(program)
  once = state
  losses = []
  for _ in range(4):
    once, measured = program_step(single, once, frozen)
    losses.append(measured["loss"])
  fresh = support.open_program(config)[2]
  before = support.leaves(fresh.params)
  scanned, measured = execution.jit(program, 4)(fresh, frozen)
  assert int(scanned.step) == 4
  np.testing.assert_allclose(
    float(measured.compute()["loss"]), np.mean(losses), rtol=1e-6
  )
  for name, value in support.leaves(once.params).items():
    np.testing.assert_allclose(
      support.leaves(scanned.params)[name], value, atol=1e-5, err_msg=name
    )
  moved = [
    np.abs(x - before[k]).max() for k, x in support.leaves(once.params).items()
  ]
  assert max(moved) > 1e-3  # a hundred times the tolerance


def program_step(jitted, state, frozen):
  """One step on a copy, so that the state given stays alive."""
  state, measured = jitted(jax.tree.map(jnp.copy, state), frozen)
  return state, {k: float(v) for k, v in measured.compute().items()}


@pytest.mark.usefixtures("optimized")
def test_sample_k_is_the_same_bits_for_any_batch_and_device_count():
  wide = support.shown(support.tiny("global_batch=16"), 1, 1)  # samples 16..31
  narrow = [support.shown(support.tiny("global_batch=8"), 1, s) for s in (2, 3)]
  spread = support.shown(support.tiny("global_batch=16"), 8, 1)
  for k, name in enumerate(["before T_x", "views", "latents"]):
    joined = np.concatenate([narrow[0][k], narrow[1][k]])
    # The sample (z, y, T_z's and T_x's numbers) is the same bits. Rendering
    # passes through matmuls, whose blocking, and so whose last bit, depends on
    # how many rows a device holds.
    tolerance = 0 if name == "latents" else 2e-6
    np.testing.assert_allclose(
      joined, wide[k], rtol=0, atol=tolerance, err_msg=name
    )
    np.testing.assert_allclose(
      spread[k], wide[k], rtol=0, atol=tolerance, err_msg=name
    )


def test_real_images_are_the_same_bits_on_any_device_count():
  config = support.tiny("source.name=array", "global_batch=16")
  shown_by = []
  for devices in (1, 8):
    program, _, state, frozen = support.open_program(config, devices)
    pictures = jax.jit(program.preview)(state, frozen)
    shown_by.append(np.asarray(pictures["views_before_pixel"]))
  np.testing.assert_array_equal(*shown_by)


def test_chunked_rendering_shows_the_same_images():
  whole = support.shown(support.tiny(), 8, 0)[0]
  chunked = support.shown(support.tiny("generator.render_chunk=8"), 8, 0)[0]
  np.testing.assert_allclose(chunked, whole, atol=1e-6)


def test_the_step_accepts_more_views():
  program, mesh, state, frozen = support.open_program(
    support.tiny("views.num_views=3", "global_batch=8")
  )
  _, measured = execution.jit(program)(state, frozen)
  assert np.isfinite(float(measured.compute()["loss"]))


def test_bfloat16_computes_in_bfloat16_and_keeps_a_float32_loss():
  program, mesh, state, frozen = support.open_program(
    support.tiny("precision=bfloat16")
  )
  text = execution.jit(program).lower(state, frozen).as_text()
  assert "bf16" in text
  new, measured = execution.jit(program)(state, frozen)
  assert measured.compute()["loss"].dtype == jnp.float32
  assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(new.params))


def test_bfloat16_weights_are_placed_once_and_never_converted():
  """Neither a copy nor a cast of a frozen array is part of the step."""
  config = support.tiny("precision=bfloat16", "generator.widths=(8, 4)")
  run = support.open_run(config)
  state, given = execution.abstract(run.program)
  params = given["generator"]["params"]
  assert {x.dtype for x in jax.tree.leaves(params)} == {jnp.dtype("bfloat16")}
  first = len(jax.tree.leaves(state))
  numbers = range(first, first + len(jax.tree.leaves(given)))

  def moved(given):
    """Frozen arguments that are converted, copied or handed on unseen."""
    text = execution.jit(run.program).lower(state, given).as_text()
    # The encoder's own are converted, which shows that the words are right.
    assert re.search(r"stablehlo.convert %arg\d+ : .*xf32.*xbf16", text)
    lines = re.findall(r"(?:\.convert|\.optimization_barrier|call @).*", text)
    words = {word for line in lines for word in re.findall(r"%arg\d+\b", line)}
    return words & {f"%arg{number}" for number in numbers}

  assert moved(given) == set()
  wide = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, jnp.float32, sharding=x.sharding),
    given,
  )
  assert len(moved(wide)) == len(jax.tree.leaves(params))
  # Converted once beforehand or in every step: the same bits.
  frozen = execution.put_frozen(run.program)
  drawn = plugins.make("generators", config.generator, dtype=run.dtype).init(
    rng.stream(run.seed, "generator")
  )
  views_of = jax.jit(run.stages.views)
  for one, other in zip(
    *(views_of(jnp.int32(1), g)[0] for g in (frozen, {"generator": drawn})),
    strict=True,
  ):
    if one is not None:
      np.testing.assert_array_equal(one, other)


def test_frozen_arrays_are_not_copied_in_the_compiled_step():
  program, _, state, frozen = support.open_program(support.tiny())
  text = execution.jit(program).lower(state, frozen).compile().as_text()
  entry = text[text.index("\nENTRY") :]
  names = re.findall(r"%(frozen\S*) = \S+ parameter", entry)
  assert len(names) == len(jax.tree.leaves(frozen))
  copied = re.findall(r" copy\(%?(\S+?)\)", entry)
  assert not {*names} & {*copied}
