"""What a plug-in of each room is. Read this file to write one.

Shape letters, here and everywhere: b anchors (the global batch), v views,
n = b*v rows, h w c image, f feature, d embedding, k classes, m side of a local
map. Images are [b h w c] or [b v h w c], float, in [-1, 1]. Masks say
True = keep. Every function is pure: same arguments, same bits.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax

Array = jax.Array
Tree = Any  # a pytree of arrays


@dataclasses.dataclass(frozen=True)
class Generator:
  """A frozen image generator: `generators/<name>.py: make(cfg, *, dtype)`.

  Attributes:
    resolution: (h, w) of the images, in pixels.
    channels: c, 1 or 3.
    latent_dim: length of one latent, which T_z moves and `apply` renders.
    num_classes: k; 0 means unconditional.
    init: key -> variables, random weights of the right shapes.
    sample: key -> (z [sample_dim], y int32 scalar) for ONE anchor; y is 0 when
      the generator is unconditional. The trainer vmaps it.
    apply: (variables, latents [n latent_dim], y [n]) -> images [n h w c] in
      [-1, 1]. No mutable collection; batch norms use stored statistics.
    encode_latent: (variables, z [n sample_dim], y int32 [n]) -> latents float32
      [n latent_dim]: what a drawn z is in the space that T_z moves (StyleGAN2's
      w). None: z is that latent, and sample_dim is latent_dim.
  """

  resolution: tuple[int, int]
  channels: int
  latent_dim: int
  num_classes: int
  init: Callable[[Array], Tree]
  sample: Callable[[Array], tuple[Array, Array]]
  apply: Callable[[Tree, Array, Array], Array]
  encode_latent: Callable[[Tree, Array, Array], Array] | None = None

  @property
  def sample_dim(self) -> int:
    """Length of the z that `sample` draws and that stored files hold."""
    z, _ = jax.eval_shape(self.sample, jax.random.key(0))
    return z.shape[-1]

  def latents(self, variables, z, y):
    """Turns drawn z [n sample_dim] into latents [n latent_dim]."""
    if self.encode_latent is None:
      return z
    return self.encode_latent(variables, z, y)


# T_z, `views/latent/<name>.py: make(cfg, generator)`:
# (key, z [latent_dim], y) -> z' [latent_dim], for one anchor.
LatentView = Callable[[Array, Array, Array], Array]


@dataclasses.dataclass(frozen=True)
class LearnedView:
  """A T_z that learns what is hard for the encoder; `make` may return one.

  Either kind of learning goes through the frozen generator, T_x and the
  encoder, inside the one program.

  Attributes:
    init: key -> params; {} if there is nothing to train.
    apply: (params, key, z [latent_dim], y) -> z' [latent_dim], for one anchor.
    optimizer: trains `params` UP the objective's loss in every step, beside the
      encoder, which goes down; None without params.
    search: None, or (slope, latents [b r d], anchors [b d]) -> (latents
      [b r d], metrics), which moves what `apply` gave. `slope`: latents ->
      (loss, its gradient [b r d]) under the encoder as it is; a latent that
      must stay where it is has the slope 0.
  """

  init: Callable[[Array], Tree]
  apply: Callable[[Tree, Array, Array, Array], Array]
  optimizer: Any = None  # an optax.GradientTransformation
  search: Callable[..., tuple[Array, Mapping[str, Array]]] | None = None


# T_x, `views/pixel/<name>.py: make(cfg)`:
# (key, image [h w c] in [-1, 1]) -> view [h' w' c], normalised; sizes static.
# Where the views of an anchor differ, the module also has
# `make_for_view(cfg, number)`; the last views may have another, smaller size.
PixelView = Callable[[Array, Array], Array]


class Features(NamedTuple):
  """What an encoder says: pooled [... f], local [... m m c] or None."""

  pooled: Array
  local: Array | None = None


@dataclasses.dataclass(frozen=True)
class Encoder:
  """A trained image encoder: `encoders/<name>.py: make(cfg, *, dtype)`.

  Attributes:
    init: (key, image_shape (h, w, c)) -> variables
      {"params": ..., "batch_stats": ...}; "batch_stats" is {} without BN.
    apply: (variables, images [n h w c], *, train: bool, local: bool=False) ->
      (Features with float32 leaves, batch_stats). In training the batch norms
      see the whole (global) batch and batch_stats are the updated ones; else
      they are returned unchanged.
  """

  init: Callable[[Array, tuple[int, int, int]], Tree]
  apply: Callable[..., tuple[Features, Tree]]


class Views(NamedTuple):
  """What the encoder was shown: the generator's side of one batch.

  Attributes:
    images: [b v h w c], after T_x.
    local_crops: [b l h' w' c], the last views where T_x cuts these smaller;
      `images` then has the others, and v counts both elsewhere. Else None.
    latents: [b v latent_dim], after T_z; None for real images.
    anchors: [b latent_dim], before T_z; None for real images.
    labels: int32 [b], the class given to the generator or of the real image;
      None when there is none.
    rendered: [b v h w c] in [-1, 1], before T_x; for objectives that require
      "generator", else None.
    render: latents [b v latent_dim] -> images [b v h w c] in [-1, 1], under the
      anchors' own classes and differentiable; likewise.
    frozen: the objective's `frozen`, as the program was given it; else None.
  """

  images: Array
  latents: Array | None = None
  anchors: Array | None = None
  labels: Array | None = None
  local_crops: Array | None = None
  rendered: Array | None = None
  render: Callable[[Array], Array] | None = None
  frozen: Tree = None


class Target(NamedTuple):
  """The target network of a batch: an exponential average of the trained one.

  Attributes:
    features: its Features [b v ...] of the same views; no gradient flows.
    head: the same average of the objective's head params.
  """

  features: Features
  head: Tree


@dataclasses.dataclass(frozen=True)
class Objective:
  """A training objective: `objectives/<name>.py: make(cfg, heads)`.

  `heads` is the module `encoders.heads`, handed in because rooms do not import
  each other. Sees GLOBAL arrays under jit: no axis names, no gathers.

  Attributes:
    requires: subset of {"local", "target", "labels", "latents", "generator"}.
    min_views: smallest V it is defined for.
    init: (key, features) -> (head params, objective state), where `features` is
      a Features of ShapeDtypeStructs [b v f]; state is {} when there is none.
    apply: (head_params, features, views, target, state, key) ->
      (float32 scalar loss, metrics dict of scalars, new state). Features are
      [b v f]; `target` is a Target if it is required, else None; the loss is
      a batch mean, computed in float32.
    chance: (num_anchors, num_views) -> loss of embeddings that carry no
      information, or None where the objective has no such level.
    frozen: numpy weights that the objective reads and nobody trains, or None.
      `apply` finds them in `views.frozen`: closed over, they would be compiled
      into the program as constants. They are in no checkpoint.
    min_px: shortest side of the images before T_x that it is defined for.
  """

  requires: frozenset[str]
  min_views: int
  init: Callable[[Array, Features], tuple[Tree, Tree]]
  apply: Callable[..., tuple[Array, Mapping[str, Array], Tree]]
  chance: Callable[[int, int], float | None]
  frozen: Tree = None
  min_px: int = 0


class Split(NamedTuple):
  """Real images: images uint8 [N h w c] and labels int32 [N], numpy."""

  images: Any
  labels: Any


@dataclasses.dataclass(frozen=True)
class Dataset:
  """A real image set: `data/<name>.py: make(cfg) -> Dataset`.

  Attributes:
    name: for tables and messages.
    num_classes: k.
    class_names: one name per class, or ().
    train: a Split.
    test: a Split.
  """

  name: str
  num_classes: int
  class_names: Sequence[str]
  train: Split
  test: Split


# An evaluation, `evaluations/<name>.py: make(cfg, encode, mesh) -> run`:
# `encode(variables, images float32 [n h w c] in [-1, 1]) -> features [n f]` is
# jit-able; `run(variables)` yields (metric name, value), and the metric's name
# carries its protocol, e.g. "knn20_accuracy".
Evaluation = Callable[[Tree], Iterable[tuple[str, float]]]


@dataclasses.dataclass(frozen=True)
class Program:
  """What the loop runs: the one XLA program of a training job or of a game.

  Attributes:
    init: () -> state; jit-able; `state.step` is an int32 scalar.
    step: (state, frozen) -> (state, clu metrics collection); pure, not jitted.
    frozen: pytree of numpy or jax arrays that no step changes (generator
      weights, resident real images); passed, not donated, never closed over.
    frozen_shardings: pytree (prefix) of shardings of `frozen`.
    examples_per_step: anchors (or real images) one step consumes.
    images_per_step: images one step shows to the trained network.
    total_steps: length of the run.
    encode: (variables, images [n h w c]) -> features [n f], or None.
    encoder_variables: state -> the variables `encode` wants, or None.
    preview: (state, frozen) -> {picture name: images [rows columns h w c] in
      [-1, 1]}, what the trained network is shown or what a game draws.
    facts: lines of the start banner, {what: value}.
    image_shape: (h, w, c) of the images before T_x, or None; `encode` takes
      images of as many channels.
    exports: state -> {file name: (tree of arrays, metadata)}, what a finished
      run leaves in its workdir as safetensors for other runs.
  """

  init: Callable[[], Tree]
  step: Callable[[Tree, Tree], tuple[Tree, Any]]
  frozen: Tree
  frozen_shardings: Tree
  examples_per_step: int
  images_per_step: int
  total_steps: int
  preview: Callable[[Tree, Tree], Mapping[str, Array]]
  facts: Mapping[str, str]
  encode: Callable[[Tree, Array], Array] | None = None
  encoder_variables: Callable[[Tree], Tree] | None = None
  image_shape: tuple[int, int, int] | None = None
  exports: Callable[[Tree], Mapping[str, tuple[Tree, Mapping[str, Any]]]] = (
    lambda state: {}
  )
