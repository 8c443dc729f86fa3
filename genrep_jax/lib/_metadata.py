"""The metadata of a checkpoint: plain JSON under a seal."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any


def plain(tree: Any) -> Any:
  """What JSON makes of a plain dict (tuples to lists, keys to strings)."""
  return json.loads(json.dumps(tree))


def seal(metadata: Mapping[str, Any]) -> str:
  """sha256 of everything in the metadata but the seal itself."""
  rest = {key: value for key, value in metadata.items() if key != "sha256"}
  text = json.dumps(rest, sort_keys=True, separators=(",", ":"))
  return hashlib.sha256(text.encode()).hexdigest()


def _flat(tree: Any, prefix: str = "") -> dict[str, Any]:
  if isinstance(tree, Mapping) and tree:
    flat = {}
    for key, value in tree.items():
      flat.update(_flat(value, f"{prefix}.{key}" if prefix else str(key)))
    return flat
  return {prefix: tree}


def differing_keys(
  earlier: Mapping[str, Any],
  config: Mapping[str, Any],
  *,
  may_differ: Sequence[str] = (),
  defaults: Mapping[str, Any] | None = None,
) -> list[str]:
  """Names the config keys in which two experiments differ.

  Args:
    earlier: config of the checkpoint's metadata.
    config: config of this run, as a plain dict.
    may_differ: dotted keys, or prefixes of such ("log" covers "log.every"),
      that make no other experiment.
    defaults: dotted key -> default. A key that `earlier` lacks was added since:
      it meant its default then.

  Returns:
    Sorted dotted keys that differ or that only one of the two has.
  """
  a, b = _flat(plain(earlier)), _flat(plain(config))
  for key, value in _flat(plain(dict(defaults or {}))).items():
    if key in b:
      a.setdefault(key, value)
  missing = object()

  def free(key):
    return any(key == one or key.startswith(f"{one}.") for one in may_differ)

  return sorted(
    key
    for key in {*a, *b}
    if a.get(key, missing) != b.get(key, missing) and not free(key)
  )
