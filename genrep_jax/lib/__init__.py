"""Floor 0: what every room stands on. Imports nothing of ours but itself."""
