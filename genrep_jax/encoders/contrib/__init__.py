"""Readers of published files that nobody here has seen."""
