"""Where a batch's images come from: `make(cfg, given) -> contracts.Source`."""
