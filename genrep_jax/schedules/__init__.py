"""Learning rates over a run, as fractions of the base rate."""
