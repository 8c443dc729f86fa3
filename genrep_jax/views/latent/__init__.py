"""T_z: latent views, `make(cfg, generator) -> (key, z, y) -> z'`."""
