r"""Converts a published checkpoint into the safetensors file a config names.

  python -m genrep_jax.tools.convert_weights --arch biggan_deep \
      --source pytorch_model.bin --out biggan128.safetensors --truncation 0.4

Reads safetensors, .npz, PyTorch files and TensorFlow checkpoints; needs neither
PyTorch nor TensorFlow, and runs no code of any file. Sizes are read off the
tensors; every tensor must be used and have its shape. The result says in its
metadata which options it needs and the sha256 of what it came from; the same
input gives the same bytes.
"""

import pathlib

from genrep_jax.lib import errors, options as options_lib, plugins
from genrep_jax.tools import _cli

# Room: what its architectures' names begin with.
_PREFIXES = {
  "generators": "",
  "encoders": "encoders/",
  "objectives": "objectives/",
}


def main(argv) -> int:
  """Converts what the command line names; returns the exit code."""
  arguments = _cli.parser("genrep_jax.tools.convert_weights", __doc__)
  add = arguments.add_argument
  add("--arch", help="e.g. biggan_deep; a word that is none lists them all")
  add("--source", required=True, help="file, or hf://OWNER/REPO/FILE@REVISION")
  add("--out", help="the safetensors file to write")
  add("--truncation", help="of the latents (BigGAN) or of w")
  _cli.add_set(arguments, "an option of the architecture's converter")
  add(
    "--subtree",
    action="append",
    default=[],
    metavar="NAME",
    help="dictionary of the file that holds the generator; may be repeated",
  )
  add("--sha256", default="", help="that the source must have")
  add("--list", action="store_true", help="print the file's tensors, and stop")
  _cli.add_overwrite(arguments)
  flags, overrides = _cli.parse(arguments, argv)
  if overrides:
    raise errors.UsageError("convert_weights: takes no --config")
  if flags.list:
    return _list(flags)
  for name in ("arch", "out"):
    if not getattr(flags, name):
      raise errors.UsageError(f"--{name}: not given (or --list)")
  return _convert(flags)


def architectures() -> list[str]:
  """Names what can be converted: plug-ins with the hook CONVERTER."""
  return [
    prefix + name
    for room, prefix in _PREFIXES.items()
    for name in plugins.names(room)
    if plugins.hook(room, plugins.resolve(room, name), "CONVERTER")
  ]


def resolve(arch: str):
  """Returns (room, name, contracts.Converter) of an architecture.

  Raises:
    UsageError: no such architecture, or one without a converter.
  """
  room, name = "generators", arch
  for other, prefix in _PREFIXES.items():
    if prefix and arch.startswith(prefix):
      room, name = other, arch.removeprefix(prefix)
  converter = None
  if "." in name or name in plugins.names(room):
    module = plugins.resolve(room, name, "--arch")
    converter = plugins.hook(room, module, "CONVERTER")
  if converter is None:
    near = options_lib.nearest(arch, architectures())
    options_lib.refuse("--arch", arch, f"{', '.join(architectures())}{near}")
  return room, name, converter


def _options(flags, converter) -> dict:
  """Returns the keyword arguments of the architecture's `convert`."""
  values = _cli.read_set(flags.set, converter.options, flags.arch)
  if flags.truncation is not None:
    if not converter.truncation:
      raise errors.UsageError(f"--truncation: {flags.arch} is not truncated")
    share = options_lib.number(above=0, high=1)
    values[converter.truncation] = options_lib.parse(
      "--truncation", share, flags.truncation
    )
  defaults = options_lib.defaults(converter.options)
  return defaults | values


def _open(flags):
  """Reads the source; returns (a foreign.Checkpoint, its sha256)."""
  from genrep_jax.lib import foreign, weights

  path = flags.source
  weights.check_pinned(path, flags.sha256)
  path = (
    weights.resolve(path) if weights.is_remote(path) else pathlib.Path(path)
  )
  digest = foreign.sha256(path) if flags.sha256 else None
  if digest and digest != flags.sha256.lower():
    raise errors.UsageError(
      f"source: {flags.source} has sha256 {digest}, not {flags.sha256}"
    )
  return foreign.read(path), digest or foreign.sha256(path)


def _list(flags) -> int:
  from genrep_jax.lib import untrusted

  (arrays, kind, left_out), digest = _open(flags)
  for name, array in sorted(arrays.items()):
    print(f"{untrusted.shown(name)}\t{tuple(array.shape)}\t{array.dtype}")
  for name, why in sorted(left_out.items()):
    print(f"{untrusted.shown(name)}\tleft out\t{untrusted.shown(why)}")
  total = sum(array.size for array in arrays.values())
  print(f"{len(arrays)} tensors, {total:,} numbers, {kind}, sha256 {digest}")
  return errors.EXIT_OK


def _convert(flags) -> int:
  import jax

  from genrep_jax.lib import environment, foreign, trees, weights

  environment.prepare()
  room, name, converter = resolve(flags.arch)
  options = _options(flags, converter)
  out = _cli.output(flags.out, flags.overwrite)
  source, digest = _open(flags)
  kind = source.format

  def convert(arrays):
    with plugins.guard(plugins.label_of(room, name), "convert"):
      return converter.convert(arrays, **options)

  try:
    if kind == "tensorflow" and converter.from_tensorflow:
      variables, made = convert(converter.from_tensorflow(source.arrays))
    else:
      arrays = source.arrays
      if flags.subtree:
        arrays = foreign.select(arrays, flags.subtree)
      variables, made = foreign.fitted(arrays, convert)
  except errors.UsageError as error:
    if not source.left_out:
      raise
    said = f"{error}; left out of the file: {source.said()}"
    if kind == "torch":
      said = f"{said}; {foreign.extraction(flags.source, source)}"
    raise errors.UsageError(said) from error
  made = {"name": name, **made}
  # What an objective's converter reads is not what the objective is made of.
  plugin = plugins.make(room, made) if room != "objectives" else None
  if room == "generators":
    expected = jax.eval_shape(plugin.init, jax.random.key(0))
    wrong = trees.first_mismatches(expected, variables)
    if wrong:  # of ours, not of the user's
      raise RuntimeError(f"{flags.arch}: {'; '.join(wrong)}")
  metadata = {
    room.removesuffix("s"): made,
    "source": {"sha256": digest, "format": kind, "options": options},
  }
  written = weights.save(out, variables, metadata)
  if converter.parameters:
    print(f"parameters   {converter.parameters(made):,} (as published)")
  stored = sum(leaf.size for leaf in jax.tree.leaves(variables))
  print(f"stored       {stored:,} numbers")
  for key, value in made.items():
    print(f"{key:<12} {value}")
  print(f"source       {kind}, sha256 {digest}")
  if source.left_out:
    print(f"left out     {source.said()}")
  print(f"written      {out}")
  print(f"sha256       {written}")
  return errors.EXIT_OK


if __name__ == "__main__":
  _cli.run(main)
