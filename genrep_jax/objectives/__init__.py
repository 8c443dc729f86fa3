"""Training objectives, one per file: how features become a loss."""
