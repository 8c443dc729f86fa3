"""Which latent view? None, drawn, steered, learned; with T_x and without it.

Command:  python -m genrep_jax.main --config configs/studies/views.py \
            --workdir runs/studies/views
Hardware: two CPU cores, no accelerator, no network; about an hour.

Every row is the quick start cut to 400 updates, but for T_z (and T_x). Sigma is
the best of configs/studies/sigma.py: 0.7 with T_x, 1.0 without. For the views
that learn it is the radius of the ball in which they search. "Independent"
needs classes: its rows, and a Gaussian beside it, draw from the conditional
generator. Docs: docs/reproduce.md.
"""

from configs import common


def _view(name, **options):
  options = {"name": name, **options}
  return tuple(f"views.latent.{key}={value}" for key, value in options.items())


WALKS = _view("walks", file="asset:fashion_mnist_walks.safetensors")


def _learned(sigma):
  return (
    # Thirty times COP-Gen's rate, for far fewer updates.
    ("navigator", _view("navigator", sigma=sigma, learning_rate=1e-3)),
    ("adversarial", _view("adversarial", sigma=sigma)),
  )


WITH = (
  ("none", _view("none")),
  ("gaussian", _view("gaussian", sigma=0.7)),
  ("angular", _view("angular", sigma=0.7)),
  ("ball", _view("ball", sigma=0.7)),
  ("steered", WALKS),
  *_learned(0.7),
  ("adversarial, sigma 0.4", _view("adversarial", sigma=0.4)),
  ("gaussian, by class", (*_view("gaussian", sigma=0.7), *common.CONDITIONAL)),
  ("independent, by class", (*_view("independent"), *common.CONDITIONAL)),
)
WITHOUT = (
  ("none", _view("none")),
  ("gaussian", _view("gaussian", sigma=1.0)),
  ("angular", _view("angular", sigma=1.0)),
  ("steered", WALKS),
  *_learned(1.0),
)


def get_config():
  """Ten views with T_x, six without."""
  rows = [(f"T_x, {name}", view) for name, view in WITH]
  rows += [
    (f"no T_x, {name}", (*common.NO_PIXEL_VIEW, *view))
    for name, view in WITHOUT
  ]
  return common.get_study("views", rows)
