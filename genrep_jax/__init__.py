"""genrep_jax: visual representations learned from image generators, in JAX.

`load_encoder` loads what a finished run leaves.
"""

import importlib

__version__ = "0.2.0"


def __getattr__(name):
  """Imports JAX only for what needs it."""
  if name not in ("Encoder", "load_encoder"):
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
  return getattr(importlib.import_module("genrep_jax.lib.export"), name)
