"""Training of latent walks, job=steer."""
