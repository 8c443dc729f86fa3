"""Adversarial games: two players, one round of both is one XLA program."""
