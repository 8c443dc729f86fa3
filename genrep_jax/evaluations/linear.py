"""Linear probe: multinomial logistic regression on frozen features.

Kolesnikov, Zhai & Beyer 2019 (arXiv:1901.09005), section 5.2, show that the
full-batch problem solved by L-BFGS is the reproducible form of this protocol.
Features are standardized with the training images' mean and deviation. The
regularizer is chosen on a held-out tenth of the training images, then the
model is fitted to all of them and meets the test images once.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from genrep_jax.evaluations import _features
from genrep_jax.lib import contracts, mesh as mesh_lib, options, rng

_HIGHEST = jax.lax.Precision.HIGHEST
# Up to here one device of each process does the same work as every other: an
# iteration is shorter than a reduction over many devices.
_ONE_DEVICE_BYTES = 2**31
# Up to so many features all principal axes are taken, else so many of them.
_ALL_AXES, _SOME_AXES = 2048, 512
_STRETCH = 30  # iterations of L-BFGS between renewals of its preconditioner
_OPTIMIZER = optax.lbfgs(
  memory_size=10,
  # Each search starts at the full step. The objective is strictly convex, so
  # sufficient decrease is enough: the curvature pairs are always valid.
  linesearch=optax.scale_by_backtracking_linesearch(
    max_backtracking_steps=20, increase_factor=float("inf"), store_grad=True
  ),
)


OPTIONS = {
  "l2": options.several(
    (1e-1, 1e-2, 1e-3, 1e-4, 1e-5),
    options.number(low=1e-9, high=1e6),
    "regularizers, to choose one from",
    least=1,
  ),
  "validation_share": options.number(
    0.1, "of every class, held out to choose l2", above=0, below=1
  ),
  "max_iterations": options.integer(
    200, "of L-BFGS, for each fit", low=1, high=10**6
  ),
  "tolerance": options.number(
    1e-3, "on the length of the preconditioned gradient", low=1e-9, high=1
  ),
  "seed": options.integer(0, "of the choice of the held-out images", low=0),
  **_features.OPTIONS,
}


def make(cfg, model, mesh) -> contracts.Evaluation:
  """Makes the linear probe.

  Args:
    cfg: `OPTIONS`.
    model: has `encode`.
    mesh: the device mesh.

  Returns:
    Yields "linear_accuracy" (share of the test images),
    "linear_validation_accuracy" (of the held-out training images, at the chosen
    l2), "linear_l2", "linear_gradient_norm" (of the last fit) and, beyond 2,048
    features, "linear_principal_axes" (that its preconditioner knew).

  Raises:
    UsageError: nothing could be held out, or see `_features`.
  """
  dataset = _features.load(cfg, model)
  size = _features.train_size(cfg, dataset)
  if size <= dataset.num_classes:
    options.refuse(
      "evaluations.train_limit",
      cfg.train_limit,
      f"so many that {dataset.name} gives two training images of a class",
    )

  def measure(train, test, num_classes):
    fitted, l2, validation_accuracy = probe(
      *train,
      num_classes=num_classes,
      mesh=mesh,
      l2_grid=cfg.l2,
      validation_share=cfg.validation_share,
      max_iterations=cfg.max_iterations,
      tolerance=cfg.tolerance,
      seed=cfg.seed,
    )
    yield "linear_accuracy", accuracy(fitted, *test)
    yield "linear_validation_accuracy", validation_accuracy
    yield "linear_l2", l2
    yield "linear_gradient_norm", fitted.gradient_norm
    if fitted.axes < len(fitted.weights):
      yield "linear_principal_axes", fitted.axes

  return _features.of_features(
    cfg,
    dataset,
    model,
    mesh,
    measure,
    headline="linear_accuracy",
    about="logistic regression, l2 chosen on held-out training images, "
    f"preconditioned along all principal axes, of over {_ALL_AXES} features "
    f"the first {_SOME_AXES}",
  )


class Model(NamedTuple):
  """A fitted classifier: logits = features @ weights + bias.

  Attributes:
    weights: float32 [f k], for features as they are (not standardized).
    bias: float32 [k].
    loss: the objective at the end: mean cross-entropy and penalty.
    gradient_norm: length of the objective's gradient at the end, in the
      preconditioned coordinates of `fit`.
    iterations: of L-BFGS.
    axes: principal axes that were found.
  """

  weights: np.ndarray
  bias: np.ndarray
  loss: float
  gradient_norm: float
  iterations: int
  axes: int


def probe(
  features: np.ndarray,
  labels: np.ndarray,
  *,
  num_classes: int,
  mesh,
  l2_grid,
  validation_share: float = 0.1,
  max_iterations: int = 200,
  tolerance: float = 1e-3,
  seed: int = 0,
) -> tuple[Model, float, float]:
  """Chooses the regularizer on held-out rows, then fits to all rows.

  Args:
    features: float32 [N f].
    labels: int [N].
    num_classes: number of classes.
    mesh: the device mesh; rows of more than 2 GiB are spread over it.
    l2_grid: the regularizers, tried from the strongest to the weakest; a tie
      goes to the stronger. Weaker ones are not tried any more when the held-out
      accuracy has fallen by more than its standard error.
    validation_share: share of every class that is held out.
    max_iterations: of L-BFGS, for each fit.
    tolerance: see `fit`.
    seed: of the choice of the held-out rows.

  Returns:
    (model, the chosen l2, its accuracy on the held-out rows).
  """
  held_out = hold_out(labels, validation_share, seed)
  if features.nbytes <= _ONE_DEVICE_BYTES:
    mesh = mesh_lib.make_mesh(mesh.local_devices[:1])
  problem = Problem(features, labels, num_classes, mesh)
  limits = {"max_iterations": max_iterations, "tolerance": tolerance}
  best, best_l2, model = -1.0, None, None
  selection = problem.prepare(~held_out)
  for l2 in sorted(l2_grid, reverse=True):  # strong to weak: short ways
    model = problem.fit(selection, l2, start=model, **limits)
    score = accuracy(model, features[held_out], labels[held_out])
    if score > best:
      best, best_l2, start = score, l2, model
    elif score < best - np.sqrt(best * (1 - best) / held_out.sum()):
      break
  del selection  # as large as the rows: not beside the next one
  everything = problem.prepare(np.ones(len(labels), bool))
  return (
    problem.fit(everything, best_l2, start=start, **limits),
    float(best_l2),
    best,
  )


def accuracy(model: Model, features: np.ndarray, labels: np.ndarray) -> float:
  """Share of the rows whose largest logit is that of their label."""
  logits = features @ model.weights + model.bias
  return float(np.mean(logits.argmax(axis=1) == labels))


def hold_out(labels: np.ndarray, share: float, seed: int) -> np.ndarray:
  """Chooses `share` of the rows of every class.

  Args:
    labels: int [N].
    share: in (0, 1); of each class at least one row is held out and at least
      one is kept, except that a class with a single row keeps it.
    seed: of the choice.

  Returns:
    bool [N], True = held out.
  """
  random = np.random.default_rng(seed)
  held_out = np.zeros(len(labels), bool)
  for label in np.unique(labels):
    members = random.permutation(np.flatnonzero(labels == label))
    count = min(max(1, round(share * len(members))), len(members) - 1)
    held_out[members[:count]] = True
  return held_out


class Problem:
  """The training rows on the devices; fits to any part of them by a mask.

  The objective of Kolesnikov et al. and of scikit-learn (whose C is
  1 / (l2 * rows)), with x the standardized features:

    mean_i CE(softmax(x_i W + b), y_i) + l2 / 2 * |W|^2.

  L-BFGS works in other coordinates: x is rotated to its principal axes, which
  leaves |W| as it is, and every entry of W is divided by the square root of
  the objective's second derivative there (renewed every 30 iterations). This
  changes the path, not the optimum; without it, correlated features such as
  pixels need several times as many iterations.

  Of more than 2,048 features only the first 512 axes V are found, by subspace
  iteration: all would take time ~ f^3. The coordinates are then (x V,
  x - x V V^T) with W = V A + E. Whatever of E lies along V changes no logit
  and costs |E|, so that E is orthogonal to V at the optimum, |W|^2 is
  |A|^2 + |E|^2, and the optimum is the same. The time of an iteration and the
  memory are linear in the number of features.
  """

  def __init__(self, features, labels, num_classes, mesh):
    """Puts the rows onto the mesh, padded to a multiple of its devices."""
    self.count = len(features)
    self.mesh = mesh
    self.programs = _programs(mesh, num_classes)
    self.shape = (features.shape[1], num_classes)
    self.features = self._spread(np.asarray(features, np.float32))
    self.labels = self._spread(np.asarray(labels, np.int32))

  def prepare(self, keep: np.ndarray):
    """Standardizes and rotates, by the rows that bool [N] `keep` names."""
    keep = self._spread(np.asarray(keep, np.float32))
    return self.programs[0](self.features, keep)

  def fit(
    self, prepared, l2: float, *, max_iterations, tolerance, start=None
  ) -> Model:
    """Minimizes the objective over the rows given to `prepare`.

    Args:
      prepared: the result of `prepare`.
      l2: the regularizer.
      max_iterations: of L-BFGS.
      tolerance: stop when the gradient in the preconditioned coordinates is
        not longer. There the curvature is about 1, and where it is m the
        objective is within tolerance^2 / (2 m) of its minimum.
      start: model of a similar problem; None starts at zero.

    Returns:
      The model.
    """
    rows, keep, rotation = prepared
    if start is None:
      start = np.zeros(self.shape), np.zeros(self.shape[1])
    start = [self._everywhere(np.asarray(x, np.float32)) for x in start[:2]]
    scalars = [
      self._everywhere(np.asarray(value, dtype))
      for value, dtype in (
        (l2, np.float32),
        (max_iterations, np.int32),
        (tolerance, np.float32),
      )
    ]
    outcome = self.programs[1](
      rows, keep, self.labels, rotation, start, *scalars
    )
    weights, bias, *report = jax.device_get(outcome)
    loss, gradient_norm, iterations = (value.item() for value in report)
    axes = rotation.axes.shape[1]
    return Model(weights, bias, loss, gradient_norm, iterations, axes)

  def _spread(self, array):
    padding = -len(array) % self.mesh.size
    array = np.pad(array, [(0, padding)] + [(0, 0)] * (array.ndim - 1))
    return _features.place(array, mesh_lib.batch(self.mesh))

  def _everywhere(self, array):
    return _features.place(array, mesh_lib.replicated(self.mesh))


class _Rotation(NamedTuple):
  """How rows were standardized, (x - mean) * scale, and their axes [f r]."""

  mean: jax.Array
  scale: jax.Array
  axes: jax.Array


@functools.lru_cache(maxsize=4)
def _programs(mesh, num_classes):
  """Compiles (prepare, fit), once for all masks and regularizers."""
  whole, split = mesh_lib.replicated(mesh), mesh_lib.batch(mesh)
  prepare = jax.jit(_prepare, out_shardings=(split, split, whole))
  fit = jax.jit(
    functools.partial(_fit, num_classes=num_classes), out_shardings=whole
  )
  return prepare, fit


def _prepare(x, keep):
  total = keep.sum()
  mean = (keep @ x) / total
  x = (x - mean) * keep[:, None]
  variance = jnp.square(x).sum(0) / total
  # A feature that never changes has a rounding error for a deviation.
  noise = 1e-5 * (jnp.abs(mean) + jnp.sqrt(variance.max()))
  deviation = jnp.sqrt(variance)
  scale = jnp.where(deviation > noise, 1 / jnp.maximum(deviation, noise), 0.0)
  scale = jnp.where(jnp.isfinite(scale), scale, 0.0)
  axes = _axes(x * scale, total)
  return _coordinates(x * scale, axes), keep, _Rotation(mean, scale, axes)


def _axes(x, total):
  """The principal axes [f r] of rows [N f], all of them or the first."""

  def principal(x):
    covariance = jnp.matmul(x.T, x, precision=_HIGHEST) / total
    return jnp.linalg.eigh(covariance)[1]

  size = x.shape[1]
  if size <= _ALL_AXES:
    return principal(x)
  # Randomized subspace iteration (Halko, Martinsson & Tropp 2011).
  v = jax.random.normal(rng.stream(0, "principal_axes"), (size, _SOME_AXES))
  for _ in range(2):
    v, _ = jnp.linalg.qr(x.T @ (x @ v) / total)
  inside = principal(jnp.matmul(x, v, precision=_HIGHEST))
  return jnp.matmul(v, inside, precision=_HIGHEST)


def _coordinates(x, axes):
  """Rows [n f] along the axes [f r], then what is left if r < f: [n r+f]."""
  along = jnp.matmul(x, axes, precision=_HIGHEST)
  if axes.shape[0] == axes.shape[1]:
    return along
  rest = x - jnp.matmul(along, axes.T, precision=_HIGHEST)
  return jnp.concatenate([along, rest], axis=1)


def _rows(coordinates, axes):
  """Inverts `_coordinates`."""
  along, rest = jnp.split(coordinates, [axes.shape[1]], axis=1)
  if not rest.shape[1]:
    return jnp.matmul(along, axes.T, precision=_HIGHEST)
  # What of the rest lies along the axes moves no logit.
  along = along - jnp.matmul(rest, axes, precision=_HIGHEST)
  return jnp.matmul(along, axes.T, precision=_HIGHEST) + rest


def _fit(
  rows,
  keep,
  labels,
  rotation,
  start,
  l2,
  max_iterations,
  tolerance,
  *,
  num_classes,
):
  mean, scale, axes = rotation
  total = keep.sum()
  targets = jax.nn.one_hot(labels, num_classes)

  # Inside, weights are [k f]: the gradient's matmul then runs two to three
  # times as fast on CPU as with [f k].
  def logits(w, b):
    return jnp.matmul(rows, w.T, precision=_HIGHEST) + b

  def steepness(w, b):
    """1 / sqrt of the diagonal of the objective's Hessian in (W, b)."""
    p = jax.nn.softmax(logits(w, b))
    h = p * (1 - p) * keep[:, None] / total
    return (
      1 / jnp.sqrt(jnp.matmul(h.T, jnp.square(rows)) + l2),
      1 / jnp.sqrt(jnp.maximum(h.sum(0), 1e-4)),  # b is not penalized
    )

  def stretch(carry):
    """At most _STRETCH iterations of L-BFGS with one preconditioner."""
    w, b, _, _, done = carry
    d, e = steepness(w, b)

    def objective(parameters):
      w, b = d * parameters[0], e * parameters[1]
      losses = optax.softmax_cross_entropy(logits(w, b), targets)
      return (losses * keep).sum() / total + l2 / 2 * jnp.square(w).sum()

    value_and_grad = optax.value_and_grad_from_state(objective)

    def iterate(carry):
      parameters, state, _, iteration = carry
      value, gradient = value_and_grad(parameters, state=state)
      updates, state = _OPTIMIZER.update(
        gradient,
        state,
        parameters,
        value=value,
        grad=gradient,
        value_fn=objective,
      )
      parameters = optax.apply_updates(parameters, updates)
      # The line search has the gradient at the point it stopped at.
      norm = optax.tree.norm(optax.tree.get(state, "grad"))
      return parameters, state, norm, iteration + 1

    end = jnp.minimum(done + _STRETCH, max_iterations)
    parameters = (w / d, b / e)
    parameters, state, norm, done = jax.lax.while_loop(
      lambda carry: (carry[3] < end) & (carry[2] > tolerance),
      iterate,
      (parameters, _OPTIMIZER.init(parameters), jnp.float32(jnp.inf), done),
    )
    value = optax.tree.get(state, "value")
    w, b = d * parameters[0], e * parameters[1]
    if axes.shape[0] > axes.shape[1]:
      # Where the rest counts, the second derivatives fall by orders on the way,
      # and a gradient that they once made short is long by the ones here.
      gradient = optax.tree.get(state, "grad")
      slope = gradient[0] / d, gradient[1] / e
      d, e = steepness(w, b)
      norm = optax.tree.norm((d * slope[0], e * slope[1]))
    return w, b, value, norm, done

  w = jnp.where(scale > 0, 1 / jnp.where(scale > 0, scale, 1.0), 0.0)
  w = _coordinates((start[0] * w[:, None]).T, axes)
  b = start[1] + jnp.matmul(mean, start[0], precision=_HIGHEST)
  w, b, value, norm, done = jax.lax.while_loop(
    lambda carry: (carry[4] < max_iterations) & (carry[3] > tolerance),
    stretch,
    (w, b, jnp.float32(0), jnp.float32(jnp.inf), 0),
  )
  weights = scale[:, None] * _rows(w, axes).T
  bias = b - jnp.matmul(mean, weights, precision=_HIGHEST)
  return weights, bias, value, norm, done
