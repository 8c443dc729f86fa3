"""Experiments: a run is a file."""
