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

from genrep_jax.lib import options as options_lib

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
    train_apply: (variables, z [n sample_dim], y [n], momentum=None) -> (images
      [n h w c], variables whose statistics have seen this batch), for games
      that train it; None: it cannot be trained. `momentum`, a Python number, is
      the old statistics' share in the new ones: 0.0, and they are exactly this
      batch's; None: the generator's own.
    raw: as `apply`, in the network's own, unbounded range, for comparisons with
      other implementations; None: that is `apply`'s.
    sha256: of the weights it runs with, filled in when they are read; "":
      random ones. A view that belongs to a generator's weights compares it.
  """

  resolution: tuple[int, int]
  channels: int
  latent_dim: int
  num_classes: int
  init: Callable[[Array], Tree]
  sample: Callable[[Array], tuple[Array, Array]]
  apply: Callable[[Tree, Array, Array], Array]
  encode_latent: Callable[[Tree, Array, Array], Array] | None = None
  train_apply: Callable[..., tuple[Array, Tree]] | None = None
  raw: Callable[[Tree, Array, Array], Array] | None = None
  sha256: str = ""

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


# One view's T_x: (key, image [h w c] in [-1, 1]) -> view [h' w' c], normalized;
# sizes static.
PixelView = Callable[[Array, Array], Array]


@dataclasses.dataclass(frozen=True)
class PixelViews:
  """T_x: `views/pixel/<name>.py: make(cfg, image_shape, num_views)`.

  Attributes:
    views: a PixelView for each of the `num_views` views of an anchor; views
      that share one function are augmented in one call. The last ones may have
      another, smaller size than the first: local crops.
    mean: 1 or c numbers; what the encoder is shown is
      ((x + 1) / 2 - mean) / std, in training and in evaluation.
    std: likewise.
    boxes: for each view (key, size [2]) -> float [4], the box (top, left,
      height, width) that the view of the same key would cut out of an image of
      this height and width; (): T_x cannot say.
    cropped: for each view what it does to an image that is cut already,
      [crop_px crop_px c].
    crop_px: side to which all boxes are resized.
  """

  views: Sequence[PixelView]
  mean: Sequence[float] = (0.5,)
  std: Sequence[float] = (0.5,)
  boxes: Sequence[Callable[[Array, Array], Array]] = ()
  cropped: Sequence[PixelView] = ()
  crop_px: int = 0


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

  `heads` is the module `lib.heads`, handed in because rooms do not import
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
  """Real images and their classes.

  Attributes:
    images: numpy uint8 [N h w c], or an object that decodes on demand: with
      `shape`, `dtype` and a length, whose `images[rows]`, rows a slice or int
      [n], is such an array; `numpy.asarray` of it decodes everything. If it has
      `crops` and `sizes`, int [N 2], each image's own height and width,
      `crops(rows, boxes float [n v 4], side)` is uint8 [n v side side c]: of
      every image v boxes (top, left, height, width; pixels), cut out while
      decoding, once, and resized.
    labels: numpy, int [N], or bool [N k] where an image can have several.
  """

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
    selection: the official Split to choose by, or None: it is then held out
      of `train` where one is wanted.
  """

  name: str
  num_classes: int
  class_names: Sequence[str]
  train: Split
  test: Split
  selection: Split | None = None


Draws = Mapping[str, Array]


@dataclasses.dataclass(frozen=True)
class Feed:
  """What the host gives the program in every step.

  Attributes:
    shapes: {name: ShapeDtypeStruct [b ...]} of one batch.
    read: (number of the batch, positions int [p] within it) -> {name: numpy
      array [p ...]}; a pure function, called from a thread of its own and only
      for the positions of this process's devices.
    prefetch: batches that are read ahead.
  """

  shapes: Mapping[str, Any]
  read: Callable[[int, Any], Mapping[str, Any]]
  prefetch: int = 2


@dataclasses.dataclass(frozen=True)
class Source:
  """Where images come from: `sources/<name>.py: make(cfg, given) -> Source`.

  Attributes:
    image_shape: (h, w, c) of its images.
    num_classes: k of the labels that all its images carry; 0: none do.
    epoch_size: anchors of one epoch; 0: there is no end.
    frozen: pytree of numpy arrays that it reads and nobody changes.
    draw: (step, frozen) -> Draws: everything random that is neither T_z nor
      T_x, a function of the seed and the global sample index. Of each anchor
      "index" uint32 [b] and "labels" int32 [b]; and where it has latents
      "anchor" uint32 [b], which one it is, "anchors" [b latent_dim] and "y"
      int32 [b], the class that the generator is given.
    show: (draws, latents [b r latent_dim] or None, frozen) -> images
      [b r h w c], float32 in [-1, 1].
    facts: lines of the start banner, {what: value}.
    generator: whose latents T_z moves; None: there are none.
    differentiable: all images are the generator's, so that an objective may
      differentiate through `show`, and all latents are those of the images.
    feed: what the host gives, which `draw` and `show` find in
      `frozen["fed"]`; None: all images are on the devices.
    own_images: every rendering is an image of its own even without latents; r
      is then as `views.rendering_of` says.
    cropped: its images are cut already: T_x is without its crop.
  """

  image_shape: tuple[int, int, int]
  num_classes: int
  epoch_size: int
  frozen: Tree
  draw: Callable[[Array, Tree], Draws]
  show: Callable[[Draws, Array | None, Tree], Array]
  facts: Mapping[str, str]
  generator: Generator | None = None
  differentiable: bool = False
  feed: Feed | None = None
  own_images: bool = False
  cropped: bool = False


@dataclasses.dataclass(frozen=True)
class Given:
  """What a source is made from.

  Attributes:
    seed: of the run.
    batch: b.
    split: shards arrays over the devices by their first axis.
    generator: if the source's `NEEDS` name it, else None; likewise:
    variables: its weights, numpy.
    render: (variables, latents [b r latent_dim], y [b]) -> images [b r h w c].
    latents: {"z": [N latent_dim], "y": [N]} to take in turn, or None.
    num_anchors: size of a virtual data set of latents; 0: endless.
    dataset: real images, a Dataset.
    renderings: how many images of an anchor a source with `own_images` shows.
    pixel_views: (image_shape, num_views) -> T_x, for sources that cut the
      crops themselves.
  """

  seed: int
  batch: int
  split: Callable[[Tree], Tree]
  generator: Generator | None = None
  variables: Tree = None
  render: Callable[[Tree, Array, Array], Array] | None = None
  latents: Mapping[str, Any] | None = None
  num_anchors: int = 0
  dataset: Dataset | None = None
  renderings: int = 1
  pixel_views: Callable[[tuple[int, int, int], int], PixelViews] | None = None


class Judged(NamedTuple):
  """Views of n anchors, rendered to be judged.

  Attributes:
    images: [n q h w c] in [-1, 1], as `Model.encode` takes them.
    latents: [n q latent_dim], after T_z.
    labels: int32 [n], the class given to the generator; 0 without classes.
  """

  images: Array
  latents: Array
  labels: Array


@dataclasses.dataclass(frozen=True)
class Model:
  """What an evaluation may ask of a trained program.

  Attributes:
    encode: (variables, images float32 [n h w c] in [-1, 1]) -> features [n f],
      jit-able; a row depends on its own image only. None: nothing encodes.
    generate: (variables, index uint32 [n]) -> (images [n h w c] in [-1, 1],
      labels int32 [n]), jit-able; None: nothing generates.
    views: (variables, index uint32 [n], count, *, latent=True, pixel=True,
      sigma=None) -> Judged, `count` views of each of n anchors, jit-able with
      all but the first two static: drawn as in training, of other anchors.
      Without `latent`, every view is of the anchor itself; without `pixel`,
      T_x is left out; `sigma` replaces T_z's own. None: nothing is rendered.
    sigma_varies: T_z has a sigma that `views` can replace.
    reconstruct: (variables, images [n h w c] in [-1, 1]) -> images of the same
      shape, what is left of them; jit-able. None: nothing is reconstructed.
    channels: c of the images.
  """

  encode: Callable[[Tree, Array], Array] | None = None
  generate: Callable[[Tree, Array], tuple[Array, Array]] | None = None
  views: Callable[..., Judged] | None = None
  sigma_varies: bool = True
  reconstruct: Callable[[Tree, Array], Array] | None = None
  channels: int | None = None


class Picture(NamedTuple):
  """A picture of a finished run's report.

  Attributes:
    caption: one line.
    draw: path of a PNG -> None, writes it; small, a report holds it.
  """

  caption: str
  draw: Callable[[Any], None]


@dataclasses.dataclass(frozen=True)
class Evaluation:
  """One way to judge: `evaluations/<name>.py: make(cfg, model, mesh)`.

  Attributes:
    run: variables -> (metric, value) pairs. A metric's name carries its
      protocol, e.g. "knn20_accuracy"; the trainer puts the entry's name before
      it: "knn/knn20_accuracy".
    headline: the metric that tables, studies and plots show.
    requires: fields of Model that must be there.
    unit: of the headline; "%" shows a share as percent.
    about: one line on the protocol and the data, for reports.
    metrics: {metric: one sentence}, for reports; a name that ends with "*"
      stands for all that begin so.
    pictures: variables -> {name: Picture} of a finished run; None: it has none.
  """

  run: Callable[[Tree], Iterable[tuple[str, float]]]
  headline: str
  requires: frozenset[str] = frozenset({"encode"})
  unit: str = "%"
  about: str = ""
  metrics: Mapping[str, str] = dataclasses.field(default_factory=dict)
  pictures: Callable[[Tree], Mapping[str, Picture]] | None = None


@dataclasses.dataclass(frozen=True)
class Program:
  """What the loop runs: `programs/<name>.py: make(cfg, run) -> Program`.

  `run` is a genrep_jax.run.Run, which makes every part of a config when it is
  first asked for.

  Attributes:
    init: () -> state; jit-able; `state.step` is an int32 scalar.
    step: (state, frozen) -> (state, clu metrics collection); pure, not jitted.
    frozen: pytree of numpy or jax arrays that no step changes (generator
      weights, resident real images); passed, not donated, never closed over.
    shardings: of the state and of `frozen`, one for both (what is fed is
      spread over the devices); everything that places or compiles reads it
      here.
    examples_per_step: anchors (or real images) one step consumes.
    images_per_step: images one step shows to the trained networks.
    total_steps: length of the run.
    preview: (state, frozen) -> {picture name: images [rows columns h w c] in
      [-1, 1]}, what the trained networks are shown or draw.
    captions: {picture name: one line}, for reports.
    preview_at_end: the pictures are drawn again after the last step.
    facts: lines of the start banner, {what: value}.
    model: what evaluations may ask of it.
    variables: (state, frozen) -> the variables that `model` wants; encoders
      have their trained weights in "params".
    feed: what the host gives in every step, in `frozen["fed"]`, or None.
    feed_batches: batches of `feed` that one step takes; of several, `frozen`
      has [feed_batches b ...].
    export: (state, frozen) -> {file name: (tree of arrays, metadata)}, what a
      finished run leaves in its workdir as safetensors: "encoder.safetensors",
      "generator.safetensors", a trained view's own.
    measure: (state, frozen) -> {metric: value}, once at the end, beside the
      evaluations; metrics are named as theirs are.
    check: (state, frozen) -> None; refuses, on one small batch and before the
      first step, what plug-ins return against their contracts.
    chance: loss of a network that has learned nothing, or None.
    stages: named scopes of the step, in their order.
  """

  init: Callable[[], Tree]
  step: Callable[[Tree, Tree], tuple[Tree, Any]]
  frozen: Tree
  shardings: Any
  examples_per_step: int
  images_per_step: int
  total_steps: int
  preview: Callable[[Tree, Tree], Mapping[str, Array]]
  facts: Mapping[str, str]
  captions: Mapping[str, str] = dataclasses.field(default_factory=dict)
  preview_at_end: bool = False
  model: Model = Model()
  variables: Callable[[Tree, Tree], Tree] = lambda state, frozen: {}
  feed: Feed | None = None
  feed_batches: int = 1
  export: Callable[[Tree, Tree], Mapping[str, tuple[Tree, Mapping]]] = (
    lambda state, frozen: {}
  )
  measure: Callable[[Tree, Tree], Mapping[str, float]] = lambda *_: {}
  check: Callable[[Tree, Tree], None] = lambda state, frozen: None
  chance: float | None = None
  stages: Sequence[str] = ()


@dataclasses.dataclass(frozen=True)
class Converter:
  """The hook `CONVERTER`: reads published weights under their own keys.

  Attributes:
    convert: (arrays {key: numpy array}, **options) -> (variables, options of
      the plug-in that the weights were made with). Refuses any key it does not
      know (lib/foreign.py).
    options: keyword options of `convert`, declared.
    from_tensorflow: arrays of a TensorFlow checkpoint -> those that `convert`
      reads; None: it takes them as they are.
    parameters: the plug-in's options -> number of parameters as published.
    truncation: which of `options` --truncation means; "": none.
  """

  convert: Callable[..., tuple[Tree, Mapping[str, Any]]]
  options: Mapping[str, options_lib.Option] = dataclasses.field(
    default_factory=dict
  )
  from_tensorflow: Callable[[Mapping], Mapping] | None = None
  parameters: Callable[[Mapping], int] | None = None
  truncation: str = ""


@dataclasses.dataclass(frozen=True)
class Exporter:
  """One value of the hook `EXPORTERS`: an encoder as a PyTorch network.

  Attributes:
    arrays: (options, variables) -> {key: contiguous array}, its state_dict.
    source: (options, channels of the images) -> Python source that defines
      `Encoder()`, the network that loads these arrays, strictly, and maps
      normalized images [n c h w] to features; torch and nn are imported.
      Refuses options that such a network cannot have.
    package: what `source` imports beside; "": nothing. It has then the keys of
      the exporter "torch_module", which stands in where it is not installed.
  """

  arrays: Callable[[Mapping, Tree], Mapping[str, Any]]
  source: Callable[[Mapping, int], str]
  package: str = ""


@dataclasses.dataclass(frozen=True)
class Room:
  """What the modules of a room are.

  A module of a room has `make` and, if it has options, `OPTIONS`, {name:
  lib.options.Option}. Nothing else of it is looked up by name but the hooks
  that are listed here.

  Attributes:
    path: config entry that names its plug-ins.
    make: signature of `make`, in words.
    returns: type of what `make` returns; None: a function.
    shared: options of every plug-in of the room, because others read them.
    hooks: module attributes that are optional, {name: type}.
  """

  path: str
  make: str
  returns: Any = None
  shared: options_lib.Options = dataclasses.field(default_factory=dict)
  hooks: Mapping[str, type] = dataclasses.field(default_factory=dict)


_o = options_lib
ROOMS = {
  "programs": Room("program", "make(cfg, run)", Program),
  "sources": Room(
    "source", "make(cfg, given)", Source, hooks={"NEEDS": frozenset}
  ),
  "generators": Room(
    "generator",
    "make(cfg, *, dtype)",
    Generator,
    shared={
      "weights": _o.text(
        "", "safetensors file, asset:NAME or hf://...; empty: random weights"
      ),
      "sha256": _o.text(
        "",
        "of that file; empty: not checked, and said so",
        only=("64 hexadecimal digits or empty", lambda x: _is_sha256(x)),
      ),
      "render_chunk": _o.integer(
        0, "rendered at once, over all devices; 0: all", low=0, unit="images"
      ),
    },
    hooks={"CONVERTER": Converter},
  ),
  "views/latent": Room("views.latent", "make(cfg, generator)"),
  "views/pixel": Room(
    "views.pixel", "make(cfg, image_shape, num_views)", PixelViews
  ),
  "encoders": Room(
    "encoder",
    "make(cfg, *, dtype)",
    Encoder,
    shared={
      "weights": _o.text(
        "", "job=evaluate: a safetensors file instead of a checkpoint"
      ),
      "sha256": _o.text(
        "",
        "of that file; empty: not checked",
        only=("64 hexadecimal digits or empty", lambda x: _is_sha256(x)),
      ),
    },
    hooks={"CONVERTER": Converter, "EXPORTERS": Mapping},
  ),
  "objectives": Room(
    "objective", "make(cfg, heads)", Objective, hooks={"CONVERTER": Converter}
  ),
  "optimizers": Room(
    "optimizer",
    "make(cfg, schedule, decayed)",
    shared={
      "learning_rate": _o.number(0.03, "before the schedule", low=0, high=1e4),
      "weight_decay": _o.number(1e-4, "of the weights, per update", low=0),
      "decay_exclude": _o.patterns(
        (),
        "parameters that are not decayed, on names as encoder/conv0/kernel; "
        "GenRep decays all, LARS wants ('bias', 'scale')",
      ),
      "clip_norm": _o.number(
        0.0, "of the whole gradient, before decay; 0: off", low=0
      ),
    },
  ),
  "schedules": Room(
    "schedule",
    "make(cfg, *, warmup_steps, total_steps, steps_per_epoch)",
    shared={
      "warmup_steps": _o.integer(
        0,
        "linear, before all else; at most one of the two",
        low=0,
        unit="steps",
      ),
      "warmup_epochs": _o.number(0.0, "the same", low=0, unit="epochs"),
      "warmup_start_fraction": _o.number(
        0.0, "of the learning rate, at step 0", low=0, high=1
      ),
    },
  ),
  "data": Room("data", "make(cfg)", Dataset),
  "evaluations": Room(
    "evaluations",
    "make(cfg, model, mesh)",
    Evaluation,
    shared={
      "every_steps": _o.integer(
        -1,
        "-1: evaluate_every_steps; 0: only at the end",
        low=-1,
        unit="steps",
      ),
    },
  ),
}


def _is_sha256(word: str) -> bool:
  return (
    not word or len(word) == 64 and set(word.lower()) <= set("0123456789abcdef")
  )
