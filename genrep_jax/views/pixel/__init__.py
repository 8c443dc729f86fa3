"""T_x: pixel views, `make(cfg) -> (key, image [h w c]) -> view [h' w' c]`."""
