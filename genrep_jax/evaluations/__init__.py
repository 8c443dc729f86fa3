"""Floor 2: how good a representation is, measured on real images.

A plug-in is `evaluations/<name>.py: make(cfg, encode, mesh) -> run`, and
`run(variables)` yields (metric name, value): see lib/contracts.py.
"""
