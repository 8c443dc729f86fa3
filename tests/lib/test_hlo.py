"""Costs and collectives of compiled programs, read from HLO text."""

import jax
import jax.numpy as jnp
import pytest

from genrep_jax.lib import hlo, mesh as mesh_lib
from genrep_jax.programs import genrep

# What the compilers write, shortened: layouts with and without tiles, tuples
# with comments, asynchronous pairs, a TPU's fused reduce-scatter, a loop.
TEXT = """\
HloModule jit_steps, is_scheduled=true, num_partitions=8

FileNames
1 "all-reduce(%x)"

%add (x: f32[], y: f32[]) -> f32[] {
  %x = f32[]{:T(128)} parameter(0)
  %y = f32[]{:T(128)} parameter(1)
  ROOT %sum = f32[]{:T(128)} add(%x, %y)
}

%all-reduce-scatter.3 (input: f32[128,32]) -> f32[16,32] {
  %input = f32[128,32]{1,0:T(8,128)S(1)} parameter(0)
  %all-reduce.17 = f32[128,32]{1,0:T(8,128)} all-reduce(%input), \
channel_id=10, replica_groups={{0,1,2,3,4,5,6,7}}, to_apply=%add
  ROOT %slice = f32[16,32]{1,0:T(8,128)S(1)} dynamic-slice(%all-reduce.17, \
%multiply, %constant), dynamic_slice_sizes={16,32}
}

%body (p: (s32[], f32[4])) -> (s32[], f32[4]) {
  %p = (s32[], f32[4]{0}) parameter(0)
  %v = f32[4]{0} get-tuple-element(%p), index=1
  %permute = f32[4]{0} collective-permute(%v), channel_id=20, \
metadata={op_name="jit(steps)/update/ppermute"}
  ROOT %t = (s32[], f32[4]{0}) tuple(%i, %permute)
}

%endless (q: (s32[], f32[4])) -> (s32[], f32[4]) {
  %q = (s32[], f32[4]{0}) parameter(0)
  %w = f32[4]{0} get-tuple-element(%q), index=1
  ROOT %all2all = f32[4]{0} all-to-all(%w), channel_id=21
}

ENTRY %main.1_spmd (a: f32[3,3,3,8], b: f32[]) -> (f32[3,3,3,8], f32[]) {
  %a = f32[3,3,3,8]{3,2,1,0:T(4,128)} parameter(0)
  %b = f32[]{:T(128)} parameter(1)
  %z = bf16[16,32]{1,0:T(8,128)(2,1)} parameter(2)
  %g = f32[128,32]{1,0} parameter(3)
  %all-reduce.2 = (f32[3,3,3,8]{3,2,1,0:T(4,128)S(1)}, /*index=1*/f32[]\
{:T(128)}) all-reduce(%a, /*index=1*/%b), channel_id=1, \
replica_groups=mesh['axis_0'=8,'axis_1'=1] {'axis_0'}, to_apply=%add, \
metadata={op_name="jit(steps)/(transpose(jvp(encode))/ResNet_0/conv:\
jvp(loss)/reduce_sum)" stack_frame_id=3}, backend_config={"a":[{"b":"("}]}
  %gather-start = (bf16[16,32]{1,0}, bf16[128,32]{1,0}) \
all-gather-start(%z), channel_id=2, dimensions={0}, \
metadata={op_name="jit(steps)/jvp(loss)/dot_general"}
  %gather-done = bf16[128,32]{1,0} all-gather-done(%gather-start)
  %gather.clone = bf16[128,32]{1,0} all-gather(%z), channel_id=2
  %fusion = f32[16,32]{1,0} fusion(%g), kind=kCustom, \
calls=%all-reduce-scatter.3, \
metadata={op_name="jit(steps)/transpose(jvp(loss))/dot_general"}
  %loop = (s32[], f32[4]{0}) while(%t0), condition=%c, body=%body, \
backend_config={"known_trip_count":{"n":"5"}}
  %loop2 = (s32[], f32[4]{0}) while(%t1), condition=%c2, body=%endless
  ROOT %out = (f32[3,3,3,8]{3,2,1,0}, f32[]) tuple(%a, %b)
}
"""


def test_every_collective_is_found_once_with_its_shapes():
  found = {one.kind: one for one in hlo.collectives(TEXT)}
  assert len(hlo.collectives(TEXT)) == len(found) == 5
  reduce = found["all-reduce"]
  assert reduce.operands == reduce.results
  assert reduce.buffers == (
    hlo.Buffer("f32", (3, 3, 3, 8)),
    hlo.Buffer("f32", ()),
  )
  assert reduce.bytes == 4 * (216 + 1)
  gather = found["all-gather"]
  assert gather.operands == (hlo.Buffer("bf16", (16, 32)),)
  assert gather.results == (hlo.Buffer("bf16", (128, 32)),)
  assert gather.bytes == 2 * 128 * 32
  scatter = found["reduce-scatter"]
  assert scatter.operands == (hlo.Buffer("f32", (128, 32)),)
  assert scatter.results == (hlo.Buffer("f32", (16, 32)),)
  assert scatter.bytes == 4 * 128 * 32


def test_stages_survive_combining_and_fusing():
  found = {one.kind: one for one in hlo.collectives(TEXT)}
  assert found["all-reduce"].stages == {("encode", True), ("loss", False)}
  assert found["all-gather"].stages == {("loss", False)}
  # The fused all-reduce has no name of its own: its fusion's is taken.
  assert found["reduce-scatter"].stages == {("loss", True)}
  assert found["all-to-all"].stages == frozenset()
  assert hlo.STAGES == genrep.STAGES


def test_stages_are_whole_words():
  assert hlo.stages("jit(f)/jvp(encoder)/lossy/a") == frozenset()
  assert hlo.stages("jit(f)/update/add") == {("update", False)}


def test_loops_are_counted_by_their_trips():
  found = {one.kind: one for one in hlo.collectives(TEXT)}
  assert found["collective-permute"].repeats == 5
  assert found["collective-permute"].bytes == 5 * 16
  assert found["all-to-all"].repeats is None
  assert found["all-to-all"].bytes == 16
  assert found["all-reduce"].repeats == 1


def test_by_kind_sums():
  table = hlo.by_kind(hlo.collectives(TEXT))
  assert list(table) == sorted(table)
  assert table["all-reduce"] == {"count": 1, "buffers": 2, "bytes": 868}
  assert hlo.by_kind([]) == {}


@pytest.mark.parametrize(
  ("dtype", "size"),
  [("pred", 5), ("s4", 3), ("u8", 5), ("bf16", 10), ("f8e4m3fn", 5)]
  + [("f32", 20), ("c64", 40), ("token", 0)],
)
def test_bytes_of_dtypes(dtype, size):
  assert hlo.Buffer(dtype, (5,)).bytes == size


@pytest.mark.parametrize(
  ("count", "text"),
  [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (2**40, "1024.0 GiB")],
)
def test_size(count, text):
  assert hlo.size(count) == text


def compiled(devices, rows=64):
  """The gradient of a mean of products over rows sharded between devices."""
  mesh = mesh_lib.make_mesh(jax.devices()[:devices])
  whole, split = mesh_lib.replicated(mesh), mesh_lib.batch(mesh)
  return (
    jax.jit(
      jax.grad(lambda w, x: jnp.mean(jnp.square(x @ w))),
      in_shardings=(whole, split),
      out_shardings=whole,
    )
    .lower(
      jax.ShapeDtypeStruct((16, 4), jnp.float32),
      jax.ShapeDtypeStruct((rows, 16), jnp.float32),
    )
    .compile()
  )


def test_a_real_program_reduces_its_gradient_and_nothing_else():
  program = compiled(8)
  (one,) = hlo.collectives(program.as_text())
  assert one.kind == "all-reduce"
  # The mean's 1/n may be folded on either side of it, transposed or not.
  assert sorted(one.buffers[0].shape) == [4, 16]
  cost = hlo.costs(program)
  assert cost["collectives"]["all-reduce"]["bytes"] == 4 * 16 * 4
  assert cost["memory_bytes"]["arguments"] == 4 * (16 * 4 + 8 * 16)
  assert cost["memory_bytes"]["outputs"] == 4 * 16 * 4
  # Two matrix products of 8 rows on each of the devices, and little else.
  assert cost["flops"] == pytest.approx(2 * 2 * 8 * 16 * 4, rel=0.2)


def test_one_device_needs_no_collective():
  program = compiled(1)
  assert hlo.collectives(program.as_text()) == []
  text = hlo.describe(program)
  assert "collectives     none" in text
  assert "FLOPs/device" in text and "peak" in text


def test_the_peak_holds_the_temporaries():
  x = jnp.ones((512, 2))
  cost = hlo.costs(jax.jit(lambda x: jnp.sin(x @ x.T) @ x).lower(x).compile())
  memory = cost["memory_bytes"]
  assert memory["peak"] >= memory["temporaries"] >= 512 * 512 * 4


def test_describe_lists_the_kinds():
  lines = hlo.describe(compiled(8)).splitlines()
  assert lines[-1].split() == (
    "collectives all-reduce 1 of 1 arrays 256 B".split()
  )
