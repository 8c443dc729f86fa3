"""genrep_jax: visual representations learned from image generators, in JAX."""

__version__ = "0.1.0"
