"""T_x: pixel views, `make(cfg, image_shape, num_views) -> PixelViews`."""
