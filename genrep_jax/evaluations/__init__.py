"""How good a representation or a generator is, measured on real images.

A plug-in is `evaluations/<name>.py: make(cfg, model, mesh) -> Evaluation`: see
lib/contracts.py.
"""
