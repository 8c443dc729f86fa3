"""Things a person runs: `python -m genrep_jax.tools.NAME --help`."""
