"""Fine-tuning with few labels: the whole encoder and a linear head.

A semi-supervised protocol (SimCLR, arXiv:2002.05709, section 4.2, has 1 % and
10 % of ImageNet) for sets of any size: some labels of every class are drawn,
encoder and head are trained on these images by SGD with momentum and a cosine
schedule, and the last step meets the test images. The batch statistics are
frozen: the encoder is trained as it is evaluated.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from genrep_jax.evaluations import _calibration, _features, _splits
from genrep_jax.evaluations.linear_sgd import augmentation, orders
from genrep_jax.lib import (
  contracts,
  images as images_lib,
  mesh as mesh_lib,
  options,
)

OPTIONS = {
  "labels_per_class": options.integer(
    25, "labeled images of a class; 0: `share`", low=0, high=10**6
  ),
  "share": options.number(
    0.01, "of every class's training images, one at least", above=0, high=1
  ),
  "draws": options.integer(
    1, "of these images, with the seeds 0, 1, ...", low=1, high=100
  ),
  "epochs": options.integer(
    30, "over the labeled images", low=1, high=10**5, unit="epochs"
  ),
  "sgd_batch": options.integer(
    64,
    "of a step, of which there may be fewer; rounded up to the devices",
    low=1,
    high=2**16,
    unit="images",
  ),
  "learning_rate": options.number(
    0.05, "of the encoder, for 256 images: times sgd_batch / 256", above=0
  ),
  "head_learning_rate": options.number(
    0.5, "of the head, which starts at zero; likewise", above=0
  ),
  "weight_decay": options.number(0.0, "of all weights", low=0),
  "augment": options.choice(
    "flip", ("none", "flip", "rrc"), "training images, as of linear_sgd"
  ),
  **_features.OPTIONS,
}


def make(cfg, model, mesh) -> contracts.Evaluation:
  """Makes the fine-tuning.

  Args:
    cfg: `OPTIONS`.
    model: has `encode`; what it trains is "params" of its variables, and the
      head alone where there are none.
    mesh: the device mesh, over which batches are spread.

  Returns:
    Yields "finetune_<n>perclass_accuracy", or "finetune_<p>percent_accuracy",
    of the test images; of several draws their mean, and "..._std".

  Raises:
    UsageError: a class has fewer training images, or see `_features`.
  """
  dataset = _features.load(cfg, model)
  train, test = _features.splits(cfg, dataset)
  counts = np.bincount(train.labels, minlength=dataset.num_classes)
  if cfg.labels_per_class > counts.min():
    options.refuse(
      "evaluations.labels_per_class",
      cfg.labels_per_class,
      f"at most {counts.min()}, the training images of the rarest class",
    )
  name = f"{cfg.labels_per_class}perclass"
  if not cfg.labels_per_class:
    name = f"{100 * cfg.share:g}percent"
  change = None
  if cfg.augment != "none":
    shape = train.images.shape[1:]
    change = augmentation(cfg.augment, 0, shape, cfg.image_px)

  def rows(seed):
    if cfg.labels_per_class:
      return _splits.per_class(train.labels, cfg.labels_per_class, seed)
    if cfg.share == 1:
      return np.arange(len(train.labels))
    return np.flatnonzero(_splits.hold_out(train.labels, cfg.share, seed))

  def run(variables):
    values = []
    for seed in range(cfg.draws):
      drawn = _splits.take(train, rows(seed))
      tuned, head = tune(
        model.encode,
        variables,
        np.asarray(drawn.images[:]),
        drawn.labels,
        num_classes=dataset.num_classes,
        mesh=mesh,
        order=orders(len(drawn.labels), cfg.epochs, seed),
        batch=cfg.sgd_batch,
        learning_rate=cfg.learning_rate * cfg.sgd_batch / 256,
        head_learning_rate=cfg.head_learning_rate * cfg.sgd_batch / 256,
        weight_decay=cfg.weight_decay,
        image_px=cfg.image_px,
        change=change,
      )
      features = _features.extract(
        model.encode, tuned, test.images, mesh, cfg.batch, image_px=cfg.image_px
      )
      logits = features @ head[0] + head[1]
      values.append(_calibration.accuracy(logits, test.labels))
    yield f"finetune_{name}_accuracy", float(np.mean(values))
    if cfg.draws > 1:
      yield f"finetune_{name}_accuracy_std", float(np.std(values, ddof=1))

  return contracts.Evaluation(
    run=run,
    headline=f"finetune_{name}_accuracy",
    metrics={
      "finetune_*": "Accuracy after training encoder and head on few labeled "
      "images, mean (and deviation) of the draws."
    },
    about=_features.said(
      cfg,
      dataset,
      f"encoder and linear head trained on {len(rows(0))} labeled images, "
      f"frozen batch statistics, {cfg.epochs} epochs",
    ),
  )


def tune(
  encode,
  variables,
  images: np.ndarray,
  labels: np.ndarray,
  *,
  num_classes: int,
  mesh,
  order: np.ndarray,
  batch: int,
  learning_rate: float,
  head_learning_rate: float,
  weight_decay: float = 0.0,
  image_px: int = 0,
  change=None,
):
  """Trains an encoder and a linear head by SGD (momentum 0.9, cosine).

  Args:
    encode: (variables, images float32 [n h w c] in [-1, 1]) -> [n f].
    variables: its weights are in "params", if it has any; not changed.
    images: uint8 [N h w c].
    labels: int [N].
    num_classes: k.
    mesh: the device mesh.
    order: int [epochs N], the rows of every epoch in their order.
    batch: images of a step; the last of an epoch may have fewer.
    learning_rate: of the encoder.
    head_learning_rate: of the head.
    weight_decay: of all weights.
    image_px: see `_features.extract`.
    change: likewise.

  Returns:
    (variables with the trained "params", (weights float32 [f k], bias [k])).
  """
  batch = -(-min(batch, len(images)) // mesh.size) * mesh.size
  per_epoch = -(-len(images) // batch)
  everywhere, split = mesh_lib.replicated(mesh), mesh_lib.batch(mesh)
  begin, step = _programs(
    encode,
    mesh,
    num_classes,
    image_px,
    change,
    per_epoch * len(order),
    (learning_rate, head_learning_rate, weight_decay),
  )
  state = None
  for epoch, rows in enumerate(order):
    rows = np.pad(rows, (0, per_epoch * batch - len(rows)), constant_values=-1)
    at = _features.place(np.asarray(epoch, np.int32), everywhere)
    for index in rows.reshape(per_epoch, batch).astype(np.int32):
      given = [
        _features.place(x, split)
        for x in (images[index], labels[index].astype(np.int32), index)
      ]
      if state is None:
        state = begin(variables, given[0])
      state = step(variables, state, *given, at)
  params = state[0]
  return _merged(variables, params["encoder"]), jax.device_get(params["head"])


def _merged(variables, params):
  return {**variables, "params": params} if "params" in variables else variables


@functools.lru_cache(maxsize=4)
def _programs(encode, mesh, num_classes, image_px, change, steps, settings):
  """Compiles (first state, step)."""
  learning_rate, head_learning_rate, weight_decay = settings
  everywhere = mesh_lib.replicated(mesh)

  def sgd(rate):
    return optax.chain(
      optax.add_decayed_weights(weight_decay),
      optax.sgd(optax.cosine_decay_schedule(rate, steps), momentum=0.9),
    )

  optimizer = optax.partition(
    {"encoder": sgd(learning_rate), "head": sgd(head_learning_rate)},
    {"encoder": "encoder", "head": "head"},
  )

  def shown(images, index, epoch):
    x = images_lib.from_uint8(images)
    if change is not None and index is not None:
      x = change(x, index, epoch)
    if image_px:
      x = images_lib.resize_and_crop(x, (image_px, image_px))
    return x

  @functools.partial(jax.jit, out_shardings=everywhere)
  def begin(variables, images):
    size = jax.eval_shape(encode, variables, shown(images, None, None)).shape[1]
    params = {
      "encoder": variables.get("params", {}),
      "head": (jnp.zeros((size, num_classes)), jnp.zeros(num_classes)),
    }
    return params, optimizer.init(params)

  @functools.partial(jax.jit, out_shardings=everywhere, donate_argnums=1)
  def step(variables, state, images, labels, index, epoch):
    params, moments = state
    x, mask = shown(images, index, epoch), index >= 0

    def loss(params):
      weights, bias = params["head"]
      features = encode(_merged(variables, params["encoder"]), x)
      logits = features.astype(jnp.float32) @ weights + bias
      losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
      return (losses * mask).sum() / mask.sum()

    updates, moments = optimizer.update(jax.grad(loss)(params), moments, params)
    return optax.apply_updates(params, updates), moments

  return begin, step
