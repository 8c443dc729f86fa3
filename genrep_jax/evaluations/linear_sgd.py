"""Linear probes by SGD, with the settings of the papers that report them.

A linear head, or several with a learning rate each, is trained on frozen
features by SGD with momentum for a fixed number of epochs; the last epoch
counts. Of several heads, which see the same batches and do not touch each
other, the best on a held-out tenth of the training images is reported, as
DINOv2 (arXiv:2304.07193) and StableRep (arXiv:2306.00984) do: which rate suits
depends on the features' length.

Such a probe is stopped early by design: `linear` solves its problem instead.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from genrep_jax.evaluations import _calibration, _features, _splits
from genrep_jax.lib import contracts, options, plugins, rng

_HIGHEST = jax.lax.Precision.HIGHEST


class Preset(NamedTuple):
  """Settings of a paper or of its code.

  Attributes:
    learning_rates: one for each head.
    epochs: that the schedule spans.
    batch: images of a step.
    schedule: see `rates`.
    scaled: learning rates are for 256 images and multiplied by batch / 256.
    milestones: epochs done when the rate falls, of the schedule "step".
    decay: factor of each fall.
    weight_decay: of weights and biases.
  """

  learning_rates: tuple[float, ...]
  epochs: int
  batch: int
  schedule: str
  scaled: bool = False
  milestones: tuple[int, ...] = ()
  decay: float = 0.2
  weight_decay: float = 0.0


_GENREP = {
  "epochs": 100,
  "schedule": "step",
  "milestones": (60, 75, 90),
}
PRESETS = {
  # GenRep's main_linear.py, README and "standard hyperparams" of June 2021.
  "genrep": Preset((0.06,), batch=256, **_GENREP),
  "genrep_readme": Preset((0.3,), batch=256, **_GENREP),
  "genrep_2021": Preset((1.0,), batch=512, **_GENREP),
  "moco": Preset((30.0,), 100, 256, "step", milestones=(60, 80), decay=0.1),
  "simclr": Preset((0.1,), 90, 4096, "cosine", True, weight_decay=1e-6),
  "dinov2": Preset(
    (
      1e-5,
      2e-5,
      5e-5,
      1e-4,
      2e-4,
      5e-4,
      1e-3,
      2e-3,
      5e-3,
      1e-2,
      2e-2,
      5e-2,
      0.1,
    ),
    10,
    1024,
    "cosine",
    True,
  ),  # fmt: skip
  "stablerep": Preset(
    (1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1, 0.2, 0.3, 0.5),
    90,
    1024,
    "cosine",
    True,
  ),  # fmt: skip
}

OPTIONS = {
  "preset": options.choice(
    "dinov2", tuple(PRESETS), "whose settings; part of the metrics' names"
  ),
  "learning_rates": options.several(
    (),
    options.number(above=0, high=1e6),
    "one for each head; (): the preset's",
    only=("no two alike", lambda rates: len(set(rates)) == len(rates)),
  ),
  "epochs": options.integer(
    0,
    "0: the preset's; else its milestones move along",
    low=0,
    high=10**5,
    unit="epochs",
  ),
  "sgd_batch": options.integer(
    0, "of a step; 0: the preset's", low=0, high=2**20, unit="images"
  ),
  "augment": options.choice(
    "none",
    ("none", "flip", "rrc"),
    "training images, anew in every epoch: flip, or also random resized crops "
    "(the papers' choice); encodes them once an epoch",
  ),
  "held_out_share": options.number(
    0.1, "of every class, to choose among several heads by", above=0, below=1
  ),
  "seed": options.integer(0, "of heads, order and augmentation", low=0),
  **_features.OPTIONS,
}


def make(cfg, model, mesh) -> contracts.Evaluation:
  """Makes an SGD probe.

  Args:
    cfg: `OPTIONS`.
    model: has `encode`.
    mesh: the device mesh: images are encoded on all of it; the heads are
      trained by one device of each process.

  Returns:
    Yields, of the test images, "linear_sgd_<preset>_accuracy" and, of several
    heads, "linear_sgd_<preset>_learning_rate", which was chosen, and its
    "linear_sgd_<preset>_held_out_accuracy".

  Raises:
    UsageError: nothing can be held out, or see `_features`.
  """
  dataset = _features.load(cfg, model)
  labels = _features.splits(cfg, dataset)[0].labels
  preset = _preset(cfg)
  several = len(preset.learning_rates) > 1
  held_out = np.zeros(len(labels), bool)
  if several:
    held_out = _splits.hold_out(labels, cfg.held_out_share, cfg.seed)
    if not held_out.any():
      options.refuse(
        "evaluations.learning_rates",
        preset.learning_rates,
        f"one: {dataset.name} has one training image of each class",
      )
  name = f"linear_sgd_{cfg.preset}"
  change = None
  if cfg.augment != "none":
    shape = dataset.train.images.shape[1:]
    change = augmentation(cfg.augment, cfg.seed, shape, cfg.image_px)
  order = orders(int((~held_out).sum()), preset.epochs, cfg.seed)

  def run(variables):
    train, test, num_classes = _features.of_dataset(
      cfg, dataset, model.encode, variables, mesh
    )
    features = train[0][~held_out]
    if change is not None:
      learned = _splits.take(_features.splits(cfg, dataset)[0], ~held_out)

      def features(epoch):
        return _features.extract(
          model.encode,
          variables,
          learned.images,
          mesh,
          cfg.batch,
          image_px=cfg.image_px,
          change=change,
          epoch=epoch,
        )

    heads = descend(
      features,
      labels[~held_out],
      num_classes=num_classes,
      order=order,
      batch=preset.batch,
      rates=rates(preset, len(order[0])),
      weight_decay=preset.weight_decay,
      start=start(
        cfg.seed, len(preset.learning_rates), train[0].shape[1], num_classes
      ),
    )

    def scores(features, labels):
      return [
        _calibration.accuracy(features @ w.T + b, labels)
        for w, b in zip(heads.weights, heads.bias)
      ]

    best = 0
    if several:
      chosen = scores(train[0][held_out], labels[held_out])
      best = int(np.argmax(chosen))  # a tie: the smaller rate's, if they rise
    yield f"{name}_accuracy", scores(*test)[best]
    if several:
      yield f"{name}_learning_rate", preset.learning_rates[best]
      yield f"{name}_held_out_accuracy", chosen[best]

  words = "augmented" if cfg.augment != "none" else "fixed"
  return contracts.Evaluation(
    run=run,
    headline=f"{name}_accuracy",
    metrics={
      f"{name}_accuracy": "Share of the images that the chosen head gets "
      "right.",
      f"{name}_learning_rate": "Of the head that was chosen on held-out "
      "training images.",
      f"{name}_held_out_accuracy": "Its accuracy there.",
    },
    about=_features.said(
      cfg,
      dataset,
      f"linear head(s) by SGD on {words} features, {preset.epochs} epochs, the "
      f"last, batch {preset.batch}, {len(preset.learning_rates)} learning "
      "rate(s)",
    ),
  )


def _preset(cfg) -> Preset:
  """Returns the entry's settings: a preset with what is given instead."""
  preset = PRESETS[cfg.preset]
  epochs = cfg.epochs or preset.epochs
  return preset._replace(
    learning_rates=tuple(cfg.learning_rates) or preset.learning_rates,
    batch=cfg.sgd_batch or preset.batch,
    epochs=epochs,
    milestones=tuple(
      round(m * epochs / preset.epochs) for m in preset.milestones
    ),
  )


@functools.lru_cache(maxsize=8)
def augmentation(kind: str, seed: int, shape, image_px: int):
  """Returns the `change` of `_features.extract` that an `augment` names.

  Args:
    kind: "flip", with probability 1/2; or "rrc": torchvision's
      RandomResizedCrop of scale (0.2, 1), and flip.
    seed: of every image's draw, with its index and the epoch.
    shape: (h, w, c) of the images.
    image_px: side at which they are encoded; 0: as they are.
  """
  if kind == "rrc":
    height, width, _ = shape
    if height != width and not image_px:
      options.refuse(
        "evaluations.augment",
        f"rrc of images {height}x{width}",
        "square images, or image_px",
      )
    entry = {"name": "genrep", "crop_px": min(image_px, height, width)}
    off = ("jitter_probability", "grayscale_probability")
    entry |= dict.fromkeys(off, 0.0) | dict.fromkeys(("mean", "std"), (0.5,))
    view = plugins.make("views/pixel", entry, tuple(shape), 1).views[0]
  else:

    def view(key, image):
      return jnp.where(jax.random.bernoulli(key), image[:, ::-1], image)

  def change(images, index, epoch):
    key = jax.random.fold_in(rng.stream(seed, "linear_sgd_augment"), epoch)
    return jax.vmap(view)(rng.per_index(key, index), images)

  return change


def orders(rows: int, epochs: int, seed: int) -> np.ndarray:
  """Returns a permutation of the rows for every epoch, int32 [epochs N]."""
  random = np.random.default_rng(seed)
  return np.stack([random.permutation(rows) for _ in range(epochs)]).astype(
    np.int32
  )


def start(seed: int, heads: int, size: int, num_classes: int):
  """Returns the heads' weights ~ N(0, 0.01^2) [H k f] and biases 0 [H k].

  All heads start alike, so that their rate is all they differ in.
  """
  random = np.random.default_rng(seed)
  weights = random.normal(scale=0.01, size=(num_classes, size))
  return (
    np.broadcast_to(weights, (heads, *weights.shape)),
    np.zeros((heads, num_classes), np.float32),
  )


def rates(preset: Preset, rows: int, *, warmup=(0, 0.0)) -> np.ndarray:
  """Returns the learning rate of every step and head, float64 [steps H].

  Schedules, with base the preset's rate (times batch / 256 if `scaled`), and
  epochs counted from 1:
    step: base * decay^(milestones below this epoch), as GenRep and MoCo.
    cosine: base * (1 + cos(pi step / steps)) / 2, step by step.
    genrep_cosine: low + (base - low) (1 + cos(pi epoch / epochs)) / 2 with low
      = base * decay^3: below base already in the first epoch.

  Args:
    preset: has everything but
    rows: of an epoch; the last, partial batch counts as a step.
    warmup: (epochs, rate before the first step), linear up to what the
      schedule has in the last of these epochs.
  """
  steps = -(-rows // preset.batch)
  base = np.asarray(preset.learning_rates, np.float64)
  base = base * (preset.batch / 256 if preset.scaled else 1)
  step = np.arange(steps * preset.epochs)[:, None]

  def at(epoch):
    if preset.schedule == "step":
      passed = np.asarray(preset.milestones, np.int64) < epoch[..., None]
      return base * preset.decay ** passed.sum(-1)
    low = base * preset.decay**3
    angle = np.pi * epoch / preset.epochs
    return low + (base - low) * (1 + np.cos(angle)) / 2

  if preset.schedule == "cosine":
    result = base * (1 + np.cos(np.pi * step / len(step))) / 2
  else:
    result = at(step // steps + 1)
  epochs, low = warmup
  if epochs:
    high = at(np.array([[epochs]]))
    rising = low + step / (epochs * steps) * (high - low)
    result = np.where(step < epochs * steps, rising, result)
  return result


class Heads(NamedTuple):
  """Trained heads: logits = features @ weights[h].T + bias[h].

  Attributes:
    weights: [H k f].
    bias: [H k].
  """

  weights: np.ndarray
  bias: np.ndarray


def fit(
  features,
  labels: np.ndarray,
  *,
  learning_rates,
  epochs: int,
  batch: int,
  order: np.ndarray,
  schedule: str = "cosine",
  scaled: bool = True,
  milestones=(),
  decay: float = 0.2,
  warmup=(0, 0.0),
  start=None,
  momentum: float = 0.9,
  weight_decay: float = 0.0,
  num_classes: int | None = None,
  watch=None,
) -> Heads:
  """Trains a head for each learning rate, all on the same batches.

  Args:
    features: [N f]; float64 ones are trained in float64.
    labels: int [N].
    learning_rates: one for each head.
    epochs: passes over the rows.
    batch: rows of a step.
    order: int [epochs n], the rows of every epoch in their order; [n]: those of
      all.
    schedule: "cosine", "step" or "genrep_cosine", see `rates`; so are scaled,
      milestones, decay and warmup.
    scaled: see `Preset`.
    milestones: likewise.
    decay: likewise.
    warmup: see `rates`.
    start: (weights [H k f], bias [H k]); None: zeros.
    momentum: of SGD.
    weight_decay: of weights and biases.
    num_classes: k; None: the largest label + 1.
    watch: see `descend`.

  Returns:
    The heads after the last step.
  """
  features, order = np.asarray(features), np.asarray(order)
  order = np.broadcast_to(order, (epochs, order.shape[-1]))
  learning_rates = tuple(np.atleast_1d(learning_rates).tolist())
  preset = Preset(
    learning_rates,
    epochs,
    batch,
    schedule,
    scaled,
    tuple(milestones),
    decay,
  )
  k = int(np.max(labels)) + 1 if num_classes is None else num_classes
  if start is None:
    heads = len(learning_rates)
    start = np.zeros((heads, k, features.shape[1])), np.zeros((heads, k))
  with jax.enable_x64(features.dtype == np.float64):
    return descend(
      features,
      labels,
      num_classes=k,
      order=order,
      batch=batch,
      rates=rates(preset, order.shape[1], warmup=warmup),
      start=start,
      momentum=momentum,
      weight_decay=weight_decay,
      watch=watch,
    )


def descend(
  features,
  labels: np.ndarray,
  *,
  num_classes: int,
  order: np.ndarray,
  batch: int,
  rates: np.ndarray,
  start,
  momentum: float = 0.9,
  weight_decay: float = 0.0,
  watch=None,
) -> Heads:
  """Trains heads side by side; each is what it would be alone.

  The loss is the sum of the heads' mean cross-entropies over a batch; v =
  momentum v + gradient (+ weight_decay w), w -= rate v, as PyTorch has it.

  Args:
    features: [N f], float32 or, under jax.enable_x64, float64; or epoch ->
      such an array, features of augmented images.
    labels: int [N].
    num_classes: k.
    order: int [epochs n], the rows of every epoch in their order; they are cut
      into batches, of which the last one may be smaller.
    batch: rows of a step.
    rates: [steps of all epochs, H], see `rates`.
    start: (weights [H k f], bias [H k]).
    momentum: of SGD.
    weight_decay: of weights and biases.
    watch: (epoch, Heads, mean loss of its rows when they were visited [H]),
      called after every epoch.

  Returns:
    The heads after the last step.
  """
  device = jax.local_devices()[0]
  per_epoch = -(-order.shape[1] // batch)
  padding = per_epoch * batch - order.shape[1]
  mask = np.pad(np.ones(order.shape[1]), (0, padding)).reshape(-1, batch)
  # An island on one device, beside the guarded loop.
  with jax.transfer_guard("allow"):
    put = functools.partial(jax.device_put, device=device)
    train = _program(num_classes, momentum, weight_decay)
    x = None if callable(features) else put(features)
    y = put(np.asarray(labels, np.int32))
    state = None
    for epoch, rows in enumerate(order):
      if callable(features):
        x = put(features(epoch))
      if state is None:
        first = [put(np.asarray(p, x.dtype)) for p in start]
        state = first, [jnp.zeros_like(p) for p in first]
      here = slice(epoch * per_epoch, (epoch + 1) * per_epoch)
      state, losses = train(
        state,
        x,
        y,
        put(np.pad(rows, (0, padding)).reshape(-1, batch)),
        put(mask.astype(x.dtype)),
        put(rates[here].astype(x.dtype)),
      )
      if watch is not None:
        heads = Heads(*jax.device_get(state[0]))
        watch(epoch, heads, jax.device_get(losses) / order.shape[1])
    return Heads(*jax.device_get(state[0]))


@functools.lru_cache(maxsize=8)
def _program(num_classes, momentum, weight_decay):
  """Compiles one epoch."""

  def step(carry, now, x, y):
    parameters, velocity = carry
    rows, mask, rates = now
    x, targets = x[rows], jax.nn.one_hot(y[rows], num_classes, dtype=x.dtype)

    def loss(parameters):
      w, b = parameters
      logits = jnp.einsum("nf,hkf->nhk", x, w, precision=_HIGHEST) + b
      losses = jax.nn.logsumexp(logits, axis=2)
      losses -= jnp.einsum("nhk,nk->nh", logits, targets, precision=_HIGHEST)
      losses = (losses * mask[:, None]).sum(0)
      return losses.sum() / mask.sum(), losses

    gradient, losses = jax.grad(loss, has_aux=True)(parameters)
    velocity = [
      momentum * v + g + weight_decay * p
      for v, g, p in zip(velocity, gradient, parameters)
    ]
    parameters = [
      p - rates.reshape(-1, *[1] * (p.ndim - 1)) * v
      for p, v in zip(parameters, velocity)
    ]
    return (parameters, velocity), losses

  @functools.partial(jax.jit, donate_argnums=0)
  def epoch(state, x, y, rows, mask, rates):
    state, losses = jax.lax.scan(
      lambda carry, now: step(carry, now, x, y), state, (rows, mask, rates)
    )
    return state, losses.sum(0)

  return epoch
