"""What a model generates, seen by its own encoder or by a judge's eyes.

Everything is a function of the sample's index, so no number depends on the
batch or on the devices. Features are kept while the weights live, so that
evaluations which follow each other render and encode once.
"""

import dataclasses
import functools
import weakref
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from genrep_jax.evaluations import _classifier, _features, _inception
from genrep_jax.lib import (
  contracts,
  errors,
  images as images_lib,
  mesh as mesh_lib,
  options,
)

# name -> which of (T_z, T_x) a view has.
VIEWS = {
  "both": (True, True),
  "latent": (True, False),
  "pixel": (False, True),
  "none": (False, False),
}


def views_option(default: str, help: str) -> options.Option:
  """The option `views`: which views of an anchor are encoded."""
  return options.choice(default, tuple(VIEWS), help)


class Seen(NamedTuple):
  """What an encoder says of the views of n anchors, numpy.

  Attributes:
    features: float32 [n q f].
    latents: float32 [n q d], after T_z, if they were asked for.
  """

  features: np.ndarray
  latents: np.ndarray | None


def encoded_views(
  model: contracts.Model,
  variables,
  mesh,
  *,
  samples: int,
  count: int,
  batch: int,
  views: str = "both",
  sigma: float | None = None,
  latents: bool = False,
) -> Seen:
  """Encodes `count` views of each of the first anchors.

  Args:
    model: has `encode` and `views`.
    variables: what they want.
    mesh: the device mesh: anchors are spread over it.
    samples: n, anchors.
    count: q, views of each.
    batch: images at once, over all devices.
    views: one of `VIEWS`.
    sigma: of T_z; None: its own.
    latents: whether they are returned, too; they can be large.

  Raises:
    Diverged: a feature is not finite.
    UsageError: there is a `sigma`, and T_z has none.
  """
  latent, pixel = VIEWS[views]

  def see(variables, _, index):
    judged = model.views(
      variables, index, count, latent=latent, pixel=pixel, sigma=sigma
    )
    n, q = judged.images.shape[:2]
    images = judged.images.reshape(n * q, *judged.images.shape[2:])
    features = model.encode(variables, images).astype(jnp.float32)
    kept = judged.latents.astype(jnp.float32) if latents else None
    return Seen(features.reshape(n, q, -1), kept)

  key = ("views", model.views, model.encode, count, views, sigma, latents)
  found = over_indices(
    see, key, variables, mesh, samples=samples, batch=batch // count
  )
  check_finite(np.isfinite(found.features), "anchors")
  return found


def classes_of_views(
  eyes: "Eyes",
  model,
  variables,
  mesh,
  *,
  samples: int,
  batch: int,
  sigma: float,
) -> np.ndarray:
  """Returns the classes int [n 2] of two T_z views of each of n anchors."""

  def see(variables, weights, index):
    images = model.views(variables, index, 2, pixel=False, sigma=sigma).images
    n = len(images)
    images = images.reshape(2 * n, *images.shape[2:])
    logits = eyes.encode(weights, images)[:, eyes.features :]
    return jnp.argmax(logits, axis=-1).reshape(n, 2)

  key = ("classes", eyes, model.views, sigma)
  return over_indices(
    see,
    key,
    variables,
    mesh,
    samples=samples,
    batch=batch // 2,
    extra=eyes.weights,
  )


def check_finite(finite: np.ndarray, what: str) -> None:
  """Raises Diverged unless all of bool [n ...] are true."""
  finite = finite.reshape(len(finite), -1).all(axis=1)
  if not finite.all():
    raise errors.Diverged(
      f"{int((~finite).sum())} of {len(finite)} {what} have a number that is "
      f"not finite, the first is {finite.argmin()}"
    )


def over_indices(
  function: Callable,
  key,
  variables,
  mesh,
  *,
  samples: int,
  batch: int,
  extra=(),
  keep: bool = True,
):
  """Runs f(variables, extra, index uint32 [b]) for 0, 1, ... samples - 1.

  Args:
    function: jit-able; every leaf of its result has a row for each index, which
      depends on that index only. Equal keys must mean equal functions.
    key: hashable.
    variables: what the function wants.
    mesh: the device mesh: a batch is spread over it.
    samples: how many.
    batch: at once; rounded up to a multiple of the devices.
    extra: what else it reads, as the key says; placed on every device.
    keep: the result is kept while `variables` live.

  Returns:
    Its result for all of them, numpy.
  """
  size = min(max(batch, 1), samples)
  size = -(-size // mesh.size) * mesh.size

  def compute():
    program = _program(key, mesh, function)
    pieces, pending = [], None
    for start in range(0, samples, size):
      index = np.arange(start, start + size, dtype=np.uint32)
      index = np.minimum(index, samples - 1).astype(np.uint32)
      placed = _features.place(index, mesh_lib.batch(mesh))
      done = program(variables, extra, placed)
      if pending is not None:  # fetched while the devices work on the next one
        pieces.append(jax.device_get(pending))
      pending = done
    pieces.append(jax.device_get(pending))
    return jax.tree.map(lambda *x: np.concatenate(x)[:samples], *pieces)

  if not keep:
    return compute()
  return _memory.recall(variables, (key, mesh, samples), compute)


_programs: dict = {}


def _program(key, mesh, function):
  """Compiles a function once for its key; replicated, for every process."""
  if (key, mesh) not in _programs:
    if len(_programs) == 64:
      _programs.clear()
    _programs[key, mesh] = jax.jit(
      function, out_shardings=mesh_lib.replicated(mesh)
    )
  return _programs[key, mesh]


class _Memory:
  """Results for the weights that were last asked about; holds them weakly."""

  def __init__(self):
    self.leaves, self.structure = [], jax.tree.structure(())
    self.results = {}

  def recall(self, variables, key, compute):
    """Returns what `compute` returns, or returned for the same weights."""
    leaves, structure = jax.tree.flatten(variables)
    # numpy arrays can change in place: only immutable weights are recognized.
    if not all(isinstance(x, jax.Array) for x in leaves) or not leaves:
      return compute()
    same = structure == self.structure and all(
      ref() is leaf for ref, leaf in zip(self.leaves, leaves)
    )
    if not same:
      self.results = {}
      self.leaves = [weakref.ref(x) for x in leaves]
      self.structure = structure
    if key not in self.results:
      self.results[key] = compute()
    return self.results[key]


_memory = _Memory()


# --- judges of generators -----------------------------------------------------

OPTIONS = {
  "data": _features.OPTIONS["data"],
  "real": options.choice("test", ("test", "train"), "images to compare with"),
  "samples": options.integer(
    10000, "generated images", low=2, high=10**6, unit="images"
  ),
  "batch": _features.OPTIONS["batch"],
  "features": options.choice(
    "classifier",
    ("classifier", "inception"),
    "a small classifier trained on the real images, or the FID InceptionV3",
  ),
  "epochs": options.integer(
    5, "of the classifier on the training images", low=1, high=1000
  ),
  "seed": options.integer(0, "of the classifier", low=0),
  "weights": options.text(
    "", "of the InceptionV3: pt_inception-2015-12-05-6726825d.pth, or its keys"
  ),
  "sha256": options.text("", "of that file; empty: not checked"),
  "resize": options.choice(
    "clean",
    _inception.RESIZES,
    "to the InceptionV3's 299 px: bicubic as clean-fid, or bilinear as "
    "TensorFlow 1 or pytorch-fid",
  ),
}


@dataclasses.dataclass(frozen=True, eq=False)
class Eyes:
  """A network that sees images for a judge.

  Attributes:
    name: for metrics: "classifier", "inception_clean", ...
    encode: (weights, images [n h w c] in [-1, 1]) -> [n features + classes].
    weights: on every device.
    features: how many there are; logits follow.
  """

  name: str
  encode: Callable
  weights: contracts.Tree
  features: int


_made: dict = {}


def _once(key, dataset, make):
  """Makes something once for a key and a data set, compared by identity."""
  found = _made.get(key)
  if found is None or found[0] is not dataset:
    if len(_made) == 8:
      _made.clear()
    found = _made[key] = dataset, make()
  return found[1]


def classifier(cfg, dataset, mesh, shape) -> Eyes:
  """Trains the small classifier, an island on one device of each process.

  Args:
    cfg: has `seed` and `epochs`.
    dataset: its training images.
    mesh: where it will see.
    shape: (h, w, c) of what it will see.

  Raises:
    UsageError: the data set's images have another shape.
  """
  (images, labels), k = dataset.train, dataset.num_classes
  check_shape(dataset, shape)

  def make():
    with jax.transfer_guard("allow"):  # beside the guarded loop
      net, params = _classifier.train(
        np.asarray(images), labels, k, seed=cfg.seed, epochs=cfg.epochs
      )
      params = jax.device_get(params)

    def encode(params, images):
      return jnp.concatenate(net.apply(params, images), axis=-1)

    return Eyes("classifier", encode, _placed(params, mesh), net.feature_dim)

  return _once(("classifier", mesh, cfg.seed, cfg.epochs), dataset, make)


def check_shape(dataset, shape) -> None:
  """Refuses real images of another shape (h, w, c) than the generated ones."""
  if tuple(shape) != tuple(dataset.train.images.shape[1:]):
    options.refuse(
      "evaluations.data", dataset.name, f"images {tuple(shape)}, as generated"
    )


def inception(cfg, mesh) -> Eyes:
  """Reads the FID InceptionV3.

  Args:
    cfg: has `weights`, `sha256` and `resize`.
    mesh: where it will see.
  """

  def make():
    return Eyes(
      f"inception_{cfg.resize}",
      functools.partial(_inception.encode, resize=cfg.resize),
      _placed(_inception.load(cfg.weights, cfg.sha256), mesh),
      _inception.FEATURES,
    )

  key = "inception", mesh, cfg.weights, cfg.sha256, cfg.resize
  return _once(key, None, make)


def _placed(tree, mesh):
  whole = mesh_lib.replicated(mesh)
  return jax.tree.map(lambda x: _features.place(np.asarray(x), whole), tree)


class View(NamedTuple):
  """What a judge's eyes see of n images, numpy.

  Attributes:
    features: float32 [n f].
    logits: float32 [n k].
    labels: int [n], of the generator or of the data set.
  """

  features: np.ndarray
  logits: np.ndarray
  labels: np.ndarray


class Judge:
  """Generated and real images, seen by the eyes that a config names.

  Attributes:
    dataset: of the real ones.
    real_count: how many real images there are.
    protocol: what a metric's name ends with: eyes, number of samples and, if
      they are not the test images, which the real ones are.
    about: the same in words.
  """

  def __init__(self, cfg, model: contracts.Model, mesh):
    """Checks what can be checked before anything runs.

    Args:
      cfg: has `OPTIONS`.
      model: has `generate`.
      mesh: the device mesh: images are generated on all of it.

    Raises:
      UsageError: no such data or weights, other channels than the model's, or
        fewer than two real images.
    """
    self._cfg, self._model, self._mesh = cfg, model, mesh
    wanted = cfg.features == "inception"
    several = None if wanted else False  # the classifier learns one class
    self.dataset = _features.load(cfg, model, several=several)
    self._split = getattr(self.dataset, cfg.real)
    self.real_count = len(self._split.labels)
    if self.real_count < 2:
      options.refuse(
        "evaluations.data", self.dataset.name, f"two {cfg.real} images or more"
      )
    if bool(cfg.weights) != wanted:
      options.refuse(
        "evaluations.weights",
        cfg.weights,
        "the file of the InceptionV3" if wanted else "'' with the classifier",
      )
    name = inception(cfg, mesh).name if wanted else "classifier"
    self.protocol = f"{name}_{cfg.samples}"
    if cfg.real != "test":
      self.protocol += f"_{cfg.real}"
    said = name if wanted else "a small classifier"
    self.about = (
      f"{cfg.samples} generated images, in the features of {said}, on "
      f"{self.dataset.name}"
    )
    if cfg.real != "test":
      self.about += f" ({cfg.real})"

  def see(self, variables) -> tuple[View, View]:
    """Returns what it sees of the real and of the generated images.

    These are rounded to bytes, as the real ones are.

    Raises:
      UsageError: the images are of another size than the classifier's.
      Diverged: a feature is not finite.
    """
    cfg, model, mesh = self._cfg, self._model, self._mesh
    if cfg.features == "inception":
      eyes = inception(cfg, mesh)
    else:
      two = jax.ShapeDtypeStruct((2,), np.uint32)
      shape = jax.eval_shape(model.generate, variables, two)[0].shape[1:]
      eyes = classifier(cfg, self.dataset, mesh, shape)

    def generate(variables, weights, index):
      images, *rest = draw(model, variables, index)
      return eyes.encode(weights, images_lib.from_uint8(images)), *rest

    def look():
      images, labels = self._split
      seen = _features.extract(
        eyes.encode, eyes.weights, images, mesh, cfg.batch
      )
      return _view(eyes, seen, labels)

    seen, labels, finite = over_indices(
      generate,
      ("generated", eyes, model.generate),
      variables,
      mesh,
      samples=cfg.samples,
      batch=cfg.batch,
      extra=eyes.weights,
    )
    check_finite(finite, "generated images")
    real = _once((eyes, cfg.real), self.dataset, look)
    return real, _view(eyes, seen, labels)


def _view(eyes, seen, labels) -> View:
  return View(seen[:, : eyes.features], seen[:, eyes.features :], labels)


def draw(model: contracts.Model, variables, index):
  """Generates images, rounded to bytes; jit-able.

  Returns:
    (images uint8 [n h w c], classes int32 [n], whether an image is finite
    bool [n]), which bytes no longer say.
  """
  images, labels = model.generate(variables, index)
  finite = jnp.isfinite(images).all(axis=(1, 2, 3))
  return images_lib.to_uint8(images.astype(jnp.float32)), labels, finite
