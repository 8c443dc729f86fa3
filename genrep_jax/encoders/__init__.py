"""Trained image encoders: images [n h w c] -> features [n f]."""
