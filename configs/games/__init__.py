"""Games: encoder and generator are learned from real images together."""
