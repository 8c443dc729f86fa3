"""Image generators: (variables, latents, y) -> images in [-1, 1].

A module that defines `make(cfg, *, dtype)` and returns a
`lib.contracts.Generator` is a generator; its name is what a config calls it.
"""
