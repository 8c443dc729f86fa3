"""What can be trained: `make(cfg, run) -> contracts.Program`."""
