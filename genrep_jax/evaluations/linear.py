"""Linear probe: multinomial logistic regression on frozen features.

Kolesnikov, Zhai & Beyer 2019 (arXiv:1901.09005), section 5.2, show that the
full-batch problem solved by L-BFGS is the reproducible form of this protocol.
Features are standardized with the training images' mean and deviation. The
regularizer is chosen by cross-validation: the training images are dealt to
folds, every fold is predicted by a model that was fitted to the others, and
the l2 of the smallest mean cross-entropy on these predictions is taken. The
cross-entropy moves smoothly with the features and with l2, where the accuracy
is a staircase whose ties rounding breaks. Then the model is fitted to all
training images and meets the test images once.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from genrep_jax.evaluations import _calibration, _features, _splits
from genrep_jax.lib import contracts, mesh as mesh_lib, options, rng

_HIGHEST = jax.lax.Precision.HIGHEST
# Up to here one device of each process does the same work as every other: an
# iteration is shorter than a reduction over many devices.
_ONE_DEVICE_BYTES = 2**31
# Folds are fitted together, as one matmul, up to so many logits at a time.
_LOGITS = 2**27
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
    tuple(float(f"{10 ** (-i / 2):.0e}") for i in range(11)),
    options.number(low=1e-9, high=1e6),
    "regularizers, to choose one from",
    least=1,
  ),
  "folds": options.integer(5, "of the choice of l2", low=2, high=100),
  "max_iterations": options.integer(
    200, "of L-BFGS, for each fit", low=1, high=10**6
  ),
  "tolerance": options.number(
    1e-3, "on the length of the preconditioned gradient", low=1e-9, high=1
  ),
  "seed": options.integer(0, "of the folds", low=0),
  **_features.OPTIONS,
}


def make(cfg, model, mesh) -> contracts.Evaluation:
  """Makes the linear probe.

  Args:
    cfg: `OPTIONS`.
    model: has `encode`.
    mesh: the device mesh.

  Returns:
    Yields, of the test images, "linear_accuracy", "linear_nll" (mean
    cross-entropy, nats) and "linear_ece15" (`_calibration.ece`);
    "linear_temperature", which gives the folds' predictions their smallest
    cross-entropy, and "linear_scaled_ece15" with it; "linear_cv_accuracy" and
    "linear_cv_nll" of the folds at the chosen "linear_l2";
    "linear_gradient_norm" (of the last fit) and, beyond 2,048 features,
    "linear_principal_axes" (that its preconditioner knew).

  Raises:
    UsageError: no image could be held out, or see `_features`.
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
    fitted, l2, held_out = probe(
      *train,
      num_classes=num_classes,
      mesh=mesh,
      l2_grid=cfg.l2,
      folds=cfg.folds,
      max_iterations=cfg.max_iterations,
      tolerance=cfg.tolerance,
      seed=cfg.seed,
    )
    logits = predict(fitted, test[0])
    temperature = _calibration.temperature(*held_out)
    yield "linear_accuracy", _calibration.accuracy(logits, test[1])
    yield "linear_nll", _calibration.nll(logits, test[1])
    for name, t in (
      ("linear_ece15", 1.0),
      ("linear_scaled_ece15", temperature),
    ):
      yield name, _calibration.ece(_calibration.softmax(logits / t), test[1])
    yield "linear_temperature", temperature
    yield "linear_cv_accuracy", _calibration.accuracy(*held_out)
    yield "linear_cv_nll", _calibration.nll(*held_out)
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
    about=f"logistic regression, l2 of the smallest {cfg.folds}-fold "
    "cross-entropy on training images, preconditioned along all principal "
    f"axes, of over {_ALL_AXES} features the first {_SOME_AXES}",
    metrics={
      "linear_accuracy": "Share of the images whose class a linear classifier "
      "of frozen features tells.",
      "linear_nll": "Mean cross-entropy of its probabilities, in nats.",
      "linear_ece15": "Calibration error: mean gap of confidence and accuracy "
      "over 15 bins of confidence.",
      "linear_scaled_ece15": "The same after dividing logits by the "
      "temperature.",
      "linear_temperature": "Divisor of logits that fits held-out training "
      "images best; above 1: the probe is too sure.",
      "linear_cv_*": "Of held-out training images, at the chosen l2.",
      "linear_l2": "The regularizer that was chosen.",
      "linear_gradient_norm": "How far the solver was from the optimum.",
      "linear_principal_axes": "Axes that its preconditioner knew.",
    },
  )


class Model(NamedTuple):
  """A fitted classifier: logits = features @ weights + bias.

  Attributes:
    weights: float32 [f k], for features as they are (not standardized); with
      one more axis in front, several classifiers.
    bias: float32 [k], likewise.
    loss: the objective at the end, mean cross-entropy and penalty; of several
      float32 [p].
    gradient_norm: length of the objective's gradient at the end, in the
      preconditioned coordinates of `fit`; of several the root mean square.
    iterations: of L-BFGS.
    axes: principal axes that were found.
  """

  weights: np.ndarray
  bias: np.ndarray
  loss: float
  gradient_norm: float
  iterations: int
  axes: int


class Probe(NamedTuple):
  """What `probe` returns.

  Attributes:
    model: fitted to all rows.
    l2: the chosen regularizer.
    held_out: (logits float32 [n k], labels int [n]) of the rows of all folds,
      each predicted without it, at that l2.
  """

  model: Model
  l2: float
  held_out: tuple[np.ndarray, np.ndarray]


def probe(
  features: np.ndarray,
  labels: np.ndarray,
  *,
  num_classes: int,
  mesh,
  l2_grid,
  folds: int = 5,
  max_iterations: int = 200,
  tolerance: float = 1e-3,
  seed: int = 0,
) -> Probe:
  """Chooses the regularizer by cross-validation, for a fit to all rows.

  All folds are standardized and rotated as the whole is, so that this is done
  once: it looks at no label. They and the whole are fitted together, from the
  strongest to the weakest l2, each from where the one before ended.

  Args:
    features: float32 [N f].
    labels: int [N].
    num_classes: number of classes.
    mesh: the device mesh; rows of more than 2 GiB are spread over it.
    l2_grid: the regularizers; a tie goes to the stronger. Weaker ones are not
      tried any more when the cross-entropy is above the smallest by more than
      the standard error of the difference.
    folds: see `_splits.folds`.
    max_iterations: of L-BFGS, for each fit.
    tolerance: see `Problem.fit`.
    seed: of the folds.
  """
  fold = _splits.folds(labels, folds, seed)
  tested = fold >= 0
  parts = [fold != number for number in np.unique(fold[tested])]
  parts = np.stack([*parts, np.ones(len(labels), bool)])
  if features.nbytes <= _ONE_DEVICE_BYTES:
    mesh = mesh_lib.make_mesh(mesh.local_devices[:1])
  problem = Problem(features, labels, num_classes, mesh)
  limits = {"max_iterations": max_iterations, "tolerance": tolerance}
  together = max(1, _LOGITS // (len(labels) * num_classes))
  groups = [parts[i : i + together] for i in range(0, len(parts), together)]
  best, models = None, [None] * len(groups)
  for l2 in sorted(l2_grid, reverse=True):  # strong to weak: short ways
    logits = np.empty((len(labels), num_classes), np.float32)
    for i, group in enumerate(groups):
      models[i] = problem.fit(l2, keep=group, start=models[i], **limits)
      for part, *model in zip(group, *models[i][:2]):
        logits[~part] = predict(model, features[~part])
    held_out = logits[tested], labels[tested]
    losses = _calibration.losses(*held_out)
    if best is None or losses.mean() < best[0].mean():
      whole = models[-1]._replace(
        **{key: getattr(models[-1], key)[-1] for key in Model._fields[:3]}
      )
      best = losses, Probe(whole, float(l2), held_out)
    else:
      worse = losses - best[0]
      if worse.mean() > worse.std() / np.sqrt(len(worse)):
        break
  return best[1]


def predict(model, features: np.ndarray) -> np.ndarray:
  """Returns the logits [n k] of features [n f] by a (weights, bias, ...)."""
  return features @ model[0] + model[1]


def accuracy(model: Model, features: np.ndarray, labels: np.ndarray) -> float:
  """Share of the rows whose largest logit is that of their label."""
  return _calibration.accuracy(predict(model, features), labels)


class Problem:
  """The training rows on the devices; fits to any parts of them by masks.

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

  def __init__(self, features, labels, num_classes, mesh, *, standardize=True):
    """Puts the rows onto the mesh, standardizes and rotates them.

    Args:
      features: float32 [N f].
      labels: int [N].
      num_classes: k.
      mesh: rows are padded to a multiple of its devices.
      standardize: if not, they are only centered, which the bias undoes.
    """
    self.count = len(features)
    self.mesh = mesh
    self.shape = (features.shape[1], num_classes)
    self.program = _fit_program(mesh, num_classes)
    prepare = _prepare_program(mesh, standardize)
    self.labels = self._spread(np.asarray(labels, np.int32))
    rows = self._spread(np.asarray(features, np.float32))
    real = self._spread(np.ones(self.count, np.float32))
    self.rows, self.rotation = prepare(rows, real)

  def fit(
    self, l2: float, *, max_iterations, tolerance, keep=None, start=None
  ) -> Model:
    """Minimizes the objective over all rows, or over several parts of them.

    Args:
      l2: the regularizer.
      max_iterations: of L-BFGS.
      tolerance: stop when the gradient in the preconditioned coordinates is
        not longer. There the curvature is about 1, and where it is m the
        objective is within tolerance^2 / (2 m) of its minimum.
      keep: bool [p N], the rows of each part; None: one part, all rows.
      start: model of a similar problem; None starts at zero.

    Returns:
      The model; with `keep`, p of them in one.
    """
    parts = np.ones((1, self.count)) if keep is None else keep
    if start is None:
      start = np.zeros(self.shape), np.zeros(self.shape[1])
    scalars = [
      self._everywhere(np.asarray(value, dtype))
      for value, dtype in (
        (l2, np.float32),
        (max_iterations, np.int32),
        (tolerance, np.float32),
      )
    ]
    outcome = self.program(
      self.rows,
      self._spread(np.asarray(parts.T, np.float32)),
      self.labels,
      self.rotation,
      [
        self._everywhere(
          np.broadcast_to(x, (len(parts), *shape)).astype(np.float32)
        )
        for x, shape in zip(start, (self.shape, self.shape[1:]))
      ],
      *scalars,
    )
    weights, bias, *report = jax.device_get(outcome)
    loss, gradient_norm, iterations = report
    if keep is None:
      weights, bias, loss = weights[0], bias[0], loss[0].item()
    gradient_norm, iterations = gradient_norm.item(), iterations.item()
    axes = self.rotation.axes.shape[1]
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
def _prepare_program(mesh, standardize):
  prepare = functools.partial(_prepare, standardize=standardize)
  whole, split = mesh_lib.replicated(mesh), mesh_lib.batch(mesh)
  return jax.jit(prepare, out_shardings=(split, whole))


@functools.lru_cache(maxsize=4)
def _fit_program(mesh, num_classes):
  """Compiles once for all masks, regularizers and starts."""
  fit = functools.partial(_fit, num_classes=num_classes)
  return jax.jit(fit, out_shardings=mesh_lib.replicated(mesh))


def _prepare(x, real, *, standardize):
  total = real.sum()
  mean = (real @ x) / total
  x = (x - mean) * real[:, None]
  variance = jnp.square(x).sum(0) / total
  # A feature that never changes has a rounding error for a deviation.
  noise = 1e-5 * (jnp.abs(mean) + jnp.sqrt(variance.max()))
  deviation = jnp.sqrt(variance)
  scale = jnp.where(deviation > noise, 1 / jnp.maximum(deviation, noise), 0.0)
  scale = jnp.where(jnp.isfinite(scale), scale, 0.0)
  scale = scale if standardize else jnp.ones_like(scale)
  axes = _axes(x * scale, total)
  return _coordinates(x * scale, axes), _Rotation(mean, scale, axes)


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
  """Fits p models at once: the sum of their objectives is one convex problem.

  Their second derivatives are alike, so that L-BFGS needs about as many
  iterations as for one of them, and each of its matmuls serves all.
  """
  mean, scale, axes = rotation
  total = keep.sum(0)
  targets = jax.nn.one_hot(labels, num_classes)[:, None]
  share = (keep / total)[:, :, None]  # [N p 1]

  # Inside, weights are [p k f]: the gradient's matmul then runs two to three
  # times as fast on CPU as with f first.
  def logits(w, b):
    return jnp.einsum("nf,pkf->npk", rows, w, precision=_HIGHEST) + b

  def steepness(w, b):
    """1 / sqrt of the diagonal of the objective's Hessian in (W, b)."""
    p = jax.nn.softmax(logits(w, b))
    h = p * (1 - p) * share
    return (
      1 / jnp.sqrt(jnp.einsum("npk,nf->pkf", h, jnp.square(rows)) + l2),
      1 / jnp.sqrt(jnp.maximum(h.sum(0), 1e-4)),  # b is not penalized
    )

  def length(gradient):
    return optax.tree.norm(gradient) / np.sqrt(total.size)

  def objectives(w, b):
    losses = optax.softmax_cross_entropy(logits(w, b), targets)
    penalty = l2 / 2 * jnp.square(w).sum((1, 2))
    return (losses * share[..., 0]).sum(0) + penalty

  def stretch(carry):
    """At most _STRETCH iterations of L-BFGS with one preconditioner."""
    w, b, _, done = carry
    d, e = steepness(w, b)

    def objective(parameters):
      return objectives(d * parameters[0], e * parameters[1]).sum()

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
      norm = length(optax.tree.get(state, "grad"))
      return parameters, state, norm, iteration + 1

    end = jnp.minimum(done + _STRETCH, max_iterations)
    parameters = (w / d, b / e)
    parameters, state, norm, done = jax.lax.while_loop(
      lambda carry: (carry[3] < end) & (carry[2] > tolerance),
      iterate,
      (parameters, _OPTIMIZER.init(parameters), jnp.float32(jnp.inf), done),
    )
    w, b = d * parameters[0], e * parameters[1]
    if axes.shape[0] > axes.shape[1]:
      # Where the rest counts, the second derivatives fall by orders on the way,
      # and a gradient that they once made short is long by the ones here.
      gradient = optax.tree.get(state, "grad")
      slope = gradient[0] / d, gradient[1] / e
      d, e = steepness(w, b)
      norm = length((d * slope[0], e * slope[1]))
    return w, b, norm, done

  shape = start[0].shape  # [p f k]
  w = jnp.where(scale > 0, 1 / jnp.where(scale > 0, scale, 1.0), 0.0)
  w = (start[0] * w[:, None]).transpose(0, 2, 1).reshape(-1, shape[1])
  w = _coordinates(w, axes).reshape(shape[0], shape[2], -1)
  b = start[1] + jnp.einsum("f,pfk->pk", mean, start[0], precision=_HIGHEST)
  w, b, norm, done = jax.lax.while_loop(
    lambda carry: (carry[3] < max_iterations) & (carry[2] > tolerance),
    stretch,
    (w, b, jnp.float32(jnp.inf), 0),
  )
  losses = objectives(w, b)
  w = _rows(w.reshape(-1, w.shape[2]), axes).reshape(shape[0], shape[2], -1)
  weights = scale[:, None] * w.transpose(0, 2, 1)
  bias = b - jnp.einsum("f,pfk->pk", mean, weights, precision=_HIGHEST)
  return weights, bias, losses, norm, done
