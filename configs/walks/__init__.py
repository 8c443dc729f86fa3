"""Training of latent walks, program.name=walks."""
