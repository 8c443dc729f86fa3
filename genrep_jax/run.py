"""An experiment on its devices: every part of a config, made and checked once.

`Run(config, mesh)` is the one place where a config becomes parts. Each is made
when it is first asked for and then kept, so a program pays only for what it
uses, and jobs, tools, benchmarks and tests all get the same ones. Whatever can
be wrong with a config, alone or with two of its parts together, is refused
here, before anything is compiled.
"""

import dataclasses
import functools
import json

import jax.numpy as jnp
import ml_collections
import numpy as np

from genrep_jax import data
from genrep_jax.lib import (
  chunked,
  contracts,
  errors,
  frozen as frozen_lib,
  heads,
  latents,
  mesh as mesh_lib,
  optim,
  options,
  plugins,
  rng,
  schedules,
)
from genrep_jax.programs import _checks
from genrep_jax.programs._stages import Stages

PRECISIONS = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


class Run:
  """The parts of one resolved config.

  Attributes:
    config: from lib.configs.load.
    mesh: from lib.mesh.make_mesh; its devices need not be present.
    seed: of everything random.
    batch: b, anchors of one step.
    dtype: compute type of generator and encoder.
    replicated: the sharding of what every device holds whole.
    split: shards arrays over the devices by their first axis.
  """

  def __init__(self, config, mesh):
    """Checks what needs no part; raises UsageError."""
    self.config = config
    self.mesh = mesh
    self.seed = config.seed
    self.batch = config.global_batch
    self.dtype = PRECISIONS[config.precision]
    self.replicated = mesh_lib.replicated(mesh)
    self.split = functools.partial(mesh_lib.split_batch, mesh=mesh)
    _check_intervals(config)
    if config.job == "train" and config.encoder.get("weights"):
      options.refuse(
        "encoder.weights", config.encoder.weights, "'' but for job=evaluate"
      )
    if config.encoder.get("sha256") and not config.encoder.weights:
      options.refuse(
        "encoder.sha256", config.encoder.sha256, "'' without weights"
      )
    devices = mesh.devices.size
    if self.batch % devices:
      options.refuse(
        "global_batch", self.batch, f"a multiple of the {devices} devices"
      )

  @functools.cached_property
  def program(self) -> contracts.Program:
    """What is trained."""
    program = plugins.make("programs", self.config.program, self)
    _check_steps(self.config, program.total_steps)
    return program

  @functools.cached_property
  def evaluations(self) -> list[tuple[str, int, contracts.Evaluation]]:
    """(name, every so many steps, Evaluation) of every entry."""
    return self.make_evaluations(self.program.model)

  def make_evaluations(self, model: contracts.Model, only=None):
    """Makes the evaluations of a model.

    Args:
      model: what is judged.
      only: names of those to make; None: all.

    Raises:
      UsageError: one requires what the model does not have.
    """
    made = []
    for name, entry in self.config.evaluations.items():
      if only is not None and name not in only:
        continue
      entry = entry.copy_and_resolve_references()
      path = f"evaluations.{name}"
      if "data" in entry and not entry.data.name:
        with entry.unlocked():
          entry.data = self.config.data
      one = plugins.make("evaluations", entry, model, self.mesh, path=path)
      lacking = [x for x in one.requires if getattr(model, x, None) is None]
      if lacking:
        options.refuse(
          path,
          entry.name,
          f"evaluations without {', '.join(lacking)}, which program "
          f"{self.config.program.name!r} does not offer",
        )
      every = entry.every_steps
      made.append(
        (name, self.config.evaluate_every_steps if every < 0 else every, one)
      )
    return made

  @functools.cached_property
  def generator(self) -> frozen_lib.Frozen:
    """The frozen generator with its weights, in the dtype they are used in."""
    if not self.config.generator.name:
      options.refuse(
        "generator.name", "", ", ".join(plugins.names("generators"))
      )
    made = frozen_lib.from_config(
      self.config.generator,
      dtype=self.dtype,
      key=rng.stream(self.seed, "generator"),
    )
    _checks.generator(self._label("generators", "generator"), made)
    return made

  @functools.cached_property
  def dataset(self) -> contracts.Dataset:
    """The real images, one copy on the host."""
    return data.load(self.config.data)

  @functools.cached_property
  def stored_latents(self):
    """(latents of `sampler.file` or None, size of the virtual data set)."""
    count, file = self.config.sampler.num_anchors, self.config.sampler.file
    if not file:
      return None, count
    z, y = latents.read(
      "sampler.file", file, self.generator.generator, self.generator.name
    )
    if count not in (0, len(z)):
      options.refuse(
        "sampler.num_anchors", count, f"0 or {len(z)}, which {file} holds"
      )
    return {"z": z, "y": y}, len(z)

  @functools.cached_property
  def source(self) -> contracts.Source:
    """Where the images come from."""
    entry = self.config.source
    module = plugins.resolve("sources", entry.name)
    needs = plugins.hook("sources", module, "NEEDS") or frozenset()
    parts = {}
    if "generator" in needs:
      stored, num_anchors = self.stored_latents
      parts = {
        "generator": self.generator.generator,
        "variables": self.generator.variables,
        "render": self.render,
        "latents": stored,
        "num_anchors": num_anchors,
      }
    elif self.config.sampler.file:
      options.refuse(
        "sampler.file",
        self.config.sampler.file,
        f"'': source {entry.name!r} has no generator",
      )
    if "data" in needs:
      parts["dataset"] = self.dataset
    given = contracts.Given(
      seed=self.seed,
      batch=self.batch,
      split=self.split,
      renderings=1 + max(self._given_renderings, default=-1),
      pixel_views=self._pixel_views,
      **parts,
    )
    source = plugins.make("sources", entry, given)
    _checks.source(self._label("sources", "source"), source)
    return source

  def render(self, variables, latents, y):
    """Renders latents [b r latent_dim] of classes y [b]: [b r h w c]."""
    return chunked.render(
      self.generator.generator,
      variables,
      latents,
      y,
      devices=self.mesh.devices.size,
      chunk=self.config.generator.render_chunk,
    )

  @functools.cached_property
  def total_steps(self) -> int:
    """Length of the run."""
    total = schedules.steps_of(
      self.config,
      "total",
      examples_per_epoch=self.source.epoch_size,
      batch=self.batch,
    )
    if total * self.batch >= rng.MAX_SAMPLES:
      raise errors.UsageError(
        f"total_steps * global_batch: given {total * self.batch}; allowed: at "
        f"most {rng.MAX_SAMPLES - 1}, the sample index's"
      )
    return total

  @functools.cached_property
  def latent_view(self):
    """T_z; None without latents."""
    if self.source.generator is None:
      return None
    view = plugins.make(
      "views/latent", self.config.views.latent, self.source.generator
    )
    _checks.latent_view(
      self._label("views/latent", "views.latent"), view, self.source.generator
    )
    return view

  @property
  def _given_renderings(self) -> tuple[int, ...]:
    """`views.rendering_of`, where () is a rendering of its own for each."""
    views = self.config.views
    given, count = tuple(views.rendering_of), views.num_views
    if given and len(given) != count:
      options.refuse("views.rendering_of", given, f"() or {count} numbers")
    return given or tuple(range(count))

  @functools.cached_property
  def rendering_of(self) -> tuple[int, ...]:
    """Which rendering each view shows; all the one where T_z does nothing."""
    views, given = self.config.views, self._given_renderings
    own = tuple(range(len(given)))
    if self.source.cropped and given != own:
      options.refuse(
        "views.rendering_of",
        given,
        f"() or {own} where every view's crop is cut while decoding",
      )
    if self.source.own_images:
      return given
    if self.latent_view is None or views.latent.name == "none":
      return (0,) * len(given)
    drawn = len(set(given)) - bool(views.anchor_first)
    if 0 < views.num_neighbors < drawn:
      options.refuse(
        "views.num_neighbors",
        views.num_neighbors,
        f"0 (always new ones) or at least {drawn}, the views drawn of the pool",
      )
    return given

  @functools.cached_property
  def pixel_views(self) -> contracts.PixelViews:
    """T_x; views outside `views.pixel_on` are only normalized."""
    room, entry = "views/pixel", self.config.views.pixel
    count, shape = self.config.views.num_views, self.source.image_shape
    wanted = tuple(self.config.views.pixel_on) or tuple(range(count))
    if not set(wanted) <= set(range(count)):
      options.refuse("views.pixel_on", wanted, f"views in 0..{count - 1}")
    made = self._pixel_views(shape, count)
    if self.source.cropped:
      if len(wanted) < count:
        options.refuse(
          "views.pixel_on",
          wanted,
          "() where every view's crop is cut while decoding",
        )
      made = dataclasses.replace(made, views=made.cropped)
    if len(wanted) == count:
      return made
    bare = plugins.defaults(room, "none")
    bare |= {key: entry[key] for key in bare if key in entry}
    bare = plugins.make(room, {**bare, "name": "none"}, shape, count).views
    chosen = [made.views[i] if i in wanted else bare[i] for i in range(count)]
    return contracts.PixelViews(chosen, made.mean, made.std)

  def _pixel_views(self, shape, count) -> contracts.PixelViews:
    """T_x of images of a shape (h, w, c)."""
    made = plugins.make("views/pixel", self.config.views.pixel, shape, count)
    label = self._label("views/pixel", "views.pixel")
    _checks.pixel_views(label, made, count, shape)
    return made

  @property
  def normalization(self):
    """(mean, std) of what the encoder is shown, of pixels in [0, 1]."""
    return self.pixel_views.mean, self.pixel_views.std

  @functools.cached_property
  def view_shapes(self) -> tuple[tuple[int, int, int], ...]:
    """Shape of every view after T_x; refuses what cannot be encoded."""
    views, name = self.pixel_views.views, self.config.views.pixel.name
    shapes = _checks.view_shapes(
      plugins.label_of("views/pixel", name), views, self.source.image_shape
    )
    local = [shape for shape in shapes if shape != shapes[0]]
    if len(set(local)) > 1 or local != list(shapes[len(shapes) - len(local) :]):
      options.refuse(
        "views.pixel.name",
        name,
        "views of one size, or of a first size and, for the last views, one "
        f"other; these are {list(shapes)}",
      )
    if local and "local" in self.objective.requires:
      options.refuse(
        "objective.name",
        self.config.objective.name,
        "objectives without local maps: views.pixel cuts two sizes",
      )
    return shapes

  @functools.cached_property
  def encoder(self) -> contracts.Encoder:
    """The network that is trained."""
    encoder = plugins.make("encoders", self.config.encoder, dtype=self.dtype)
    for shape in dict.fromkeys(self.view_shapes):
      _checks.encoder(self._label("encoders", "encoder"), encoder, shape)
    return encoder

  @functools.cached_property
  def objective(self) -> contracts.Objective:
    """The loss, told how many classes and latents there are."""
    sizes = {"num_classes": self.source.num_classes}
    if self.source.generator is not None:
      sizes["latent_dim"] = self.source.generator.latent_dim
    entry = _filled(self.config.objective, sizes)
    objective = plugins.make("objectives", entry, heads)
    self._check_objective(objective)
    return objective

  def _check_objective(self, objective):
    """Refuses an objective that asks for what is not there."""
    name, views = self.config.objective.name, self.config.views.num_views
    if views < objective.min_views:
      options.refuse(
        "views.num_views",
        views,
        f"at least {objective.min_views} for objective {name!r}",
      )
    height, width, _ = self.source.image_shape
    if min(height, width) < objective.min_px:
      options.refuse(
        "objective.name",
        name,
        f"objectives for images of {height}x{width} pixels; it needs at least "
        f"{objective.min_px}x{objective.min_px}",
      )
    provided = {"local"}
    if self.source.differentiable:
      provided |= {"latents", "generator"}
    if self.source.num_classes:
      provided.add("labels")
    if self.config.ema_decay:
      provided.add("target")
    missing = sorted(objective.requires - provided)
    if missing == ["target"]:
      options.refuse(
        "ema_decay",
        self.config.ema_decay,
        f"> 0: objective {name!r} needs a target network, the moving average; "
        "0.99 is usual",
      )
    if missing:
      why = ""
      if "labels" in missing:
        why = "; generator and real images do not share their classes"
        if self.source.differentiable:
          why = "; the generator is unconditional (num_classes=0)"
      options.refuse(
        "objective.name",
        name,
        f"objectives without {', '.join(missing)}, which source "
        f"{self.config.source.name!r} does not provide{why}",
      )

  @functools.cached_property
  def schedule(self):
    """Step -> learning rate."""
    return schedules.make(
      self.config.schedule,
      base=self.config.optimizer.learning_rate,
      total_steps=self.total_steps,
      steps_per_epoch=self.source.epoch_size / self.batch,
    )

  @functools.cached_property
  def optimizer(self):
    """Of encoder and head."""
    return optim.make(self.config.optimizer, self.schedule)

  @functools.cached_property
  def ema_decay(self):
    """Step -> decay of the averaged weights; None: there are none."""
    if not self.config.ema_decay:
      return None
    return optim.ramp(
      self.config.ema_decay, self.config.ema_final_decay, self.total_steps
    )

  @functools.cached_property
  def stages(self) -> Stages:
    """Sample, render and augment, the program's first three stages."""
    return Stages(
      seed=self.seed,
      source=self.source,
      latent_view=self.latent_view,
      rendering_of=self.rendering_of,
      anchor_first=self.config.views.anchor_first,
      num_neighbors=self.config.views.num_neighbors,
      pixel_views=tuple(self.pixel_views.views),
      view_shapes=self.view_shapes,
      gives_render="generator" in self.objective.requires,
      split=self.split,
    )

  def source_facts(self) -> dict[str, str]:
    """Lines of the banner: the generator, the real images, stored latents."""
    facts = {}
    if self.source.generator is not None:
      generator, kind = self.source.generator, "unconditional"
      if generator.num_classes:
        kind = f"{generator.num_classes} classes"
      height, width = generator.resolution
      facts["generator"] = (
        f"{self.generator.name} {height}x{width}x{generator.channels}, {kind}, "
        f"weights {self.config.generator.weights or 'none'}"
      )
      facts["generator sha256"] = generator.sha256 or "none (random weights)"
      if not self.config.generator.sha256:
        facts["warning"] = "generator.sha256 is empty: weights are not checked"
    facts |= self.source.facts
    if self.config.sampler.file:
      _, count = self.stored_latents
      facts["latents"] = f"{count} of {self.config.sampler.file}"
    return facts

  def image_facts(self) -> dict:
    """Size and normalization of the images before T_x, for an export."""
    height, width, channels = self.source.image_shape
    mean, std = (np.asarray(x).tolist() for x in self.normalization)
    return {
      "height": height,
      "width": width,
      "channels": channels,
      "mean": mean,
      "std": std,
    }

  def generator_facts(self) -> dict:
    """Name, weights and sha256 of the generator; {} without one."""
    if self.source.generator is None:
      return {}
    return {
      "name": self.generator.name,
      "weights": self.config.generator.weights,
      "sha256": self.generator.sha256,
    }

  def plain(self, path: str = "") -> dict:
    """Returns the config, or an entry of it, as JSON has it."""
    value = json.loads(self.config.to_json_best_effort())
    for part in filter(None, path.split(".")):
      value = value[part]
    return value

  def _label(self, room, path):
    entry = self.config
    for part in path.split("."):
      entry = entry[part]
    return plugins.label_of(room, entry.name)


def _filled(entry, sizes):
  """Returns an objective's entry, its zeros among `sizes` filled in.

  An objective that needs to know how many classes or latents there are has an
  option of that name; 0 means what the generator or the real images have.
  """
  entry = entry.copy_and_resolve_references()
  with entry.unlocked():
    for key, value in entry.items():
      if isinstance(value, ml_collections.ConfigDict):
        entry[key] = _filled(value, sizes)
      elif key in sizes and not value:
        entry[key] = sizes[key]
  return entry


def _check_intervals(config):
  """Refuses what cannot fall on the end of a call of several steps."""
  calls = config.steps_per_call
  intervals = {
    "log_every_steps": config.log_every_steps,
    "evaluate_every_steps": config.evaluate_every_steps,
    "checkpoint.every_steps": config.checkpoint.every_steps,
    "stop_at_step": config.stop_at_step,
  }
  for name, entry in config.evaluations.items():
    if entry.every_steps > 0:
      intervals[f"evaluations.{name}.every_steps"] = entry.every_steps
  for name, value in intervals.items():
    if value % calls:
      options.refuse(name, value, f"a multiple of steps_per_call, {calls}")


def _check_steps(config, total_steps):
  if total_steps % config.steps_per_call:
    options.refuse(
      "steps_per_call",
      config.steps_per_call,
      f"a divisor of the {total_steps} steps of the run",
    )
