"""What plug-ins return, checked once against their contracts.

First abstractly (`jax.eval_shape`), when a part is made: shapes and dtypes.
Then on one small batch (`probe`), before the first step: values, and that a row
depends on nothing but itself. What is wrong is one line that names the plug-in.
"""

import functools
import numbers
import random

import jax
import jax.numpy as jnp
import numpy as np

from genrep_jax.lib import contracts, errors, options, plugins, rng

_KEY = jax.eval_shape(lambda: jax.random.key(0))
_ROWS = 3  # of abstract batches: neither 1 nor a usual batch
_PROBED = 4  # rows of the small batch
_DRAWN = 8192  # classes drawn: of 1,000, each with a probability of 0.9997
_SOME = np.array([2, 0])  # rows of it, in another order and company
_MEASURED = ("loss", "grad_norm", "learning_rate")  # by every program
_RANGE = 1.001  # of images; bfloat16's tanh may round past 1
_TOLERANCE = 2e-2  # of a row beside other rows, as a share of the largest


def refuse(label: str, what: str, given, allowed: str):
  """Raises PluginError "plug-in LABEL: WHAT is GIVEN; allowed: ALLOWED"."""
  raise errors.PluginError(
    f"plug-in {label}: {what} is {given}; allowed: {allowed}"
  )


def generator(label: str, made) -> None:
  """Checks a lib.frozen.Frozen."""
  one = made.generator
  sizes = {"resolution": one.resolution, "channels": (one.channels,)}
  for name, value in sizes.items():
    good = isinstance(value, tuple) and all(type(x) is int for x in value)
    if not good or min(value) < 1 or max(value) > 2**14:
      refuse(label, name, value, "positive integers")
  if one.channels not in (1, 3) or len(one.resolution) != 2:
    refuse(
      label,
      "resolution and channels",
      (one.resolution, one.channels),
      "(h, w) and 1 or 3",
    )
  if type(one.num_classes) is not int or one.num_classes < 0:
    refuse(label, "num_classes", one.num_classes, "an integer >= 0")
  z, y = _pair(label, "sample", _traced(label, "sample", one.sample, _KEY))
  _like(label, "z of sample", z, (None,), jnp.floating)
  _like(label, "y of sample", y, (), jnp.integer)
  if one.encode_latent is None and z.shape != (one.latent_dim,):
    refuse(label, "z of sample", z.shape, f"({one.latent_dim},), latent_dim")
  z, y = (_rows(x) for x in (z, y))
  latents = jax.eval_shape(one.latents, made.variables, z, y)
  _like(label, "latents", latents, (_ROWS, one.latent_dim), jnp.floating)
  images = _traced(label, "apply", one.apply, made.variables, latents, y)
  shape = (_ROWS, *one.resolution, one.channels)
  _like(label, "images of apply", images, shape, jnp.floating)


def source(label: str, made: contracts.Source) -> None:
  """Checks a Source's facts and what it draws and shows."""
  step = jax.ShapeDtypeStruct((), jnp.int32)
  frozen = dict(made.frozen)
  if made.feed is not None:
    frozen["fed"] = dict(made.feed.shapes)
  draws = jax.eval_shape(made.draw, step, frozen)
  wanted = ["index", "labels"]
  if made.generator is not None:
    wanted += ["anchor", "anchors", "y"]
  missing = [name for name in wanted if name not in draws]
  if missing:
    refuse(label, "draw", f"without {missing}", f"{wanted}")
  latents, batch = None, draws["index"].shape[0]
  if made.generator is not None:
    shape = (batch, 1, made.generator.latent_dim)
    latents = jax.ShapeDtypeStruct(shape, jnp.float32)
  images = jax.eval_shape(made.show, draws, latents, frozen)
  renderings = None if made.own_images else 1
  shape = (batch, renderings, *made.image_shape)
  _like(label, "images of show", images, shape, jnp.floating)


def latent_view(label: str, view, of: contracts.Generator) -> None:
  """Checks a T_z: a latent comes back as a latent."""
  _, y = jax.eval_shape(of.sample, _KEY)
  z = jax.ShapeDtypeStruct((of.latent_dim,), jnp.float32)
  if isinstance(view, contracts.LearnedView):
    params = jax.eval_shape(view.init, _KEY)
    moved = _traced(label, "apply", view.apply, params, _KEY, z, y)
  elif callable(view):
    moved = _traced(label, "its function", view, _KEY, z, y)
  else:
    refuse(label, "make's value", type(view).__name__, "a function")
  _like(label, "the moved latent", moved, z.shape, z.dtype)


def pixel_views(label: str, made: contracts.PixelViews, count, shape) -> None:
  """Checks how many T_x there are, and how they normalize."""
  if len(made.views) != count or not all(map(callable, made.views)):
    refuse(label, "views", f"{len(made.views)} values", f"{count} functions")
  for name in ("mean", "std"):
    value = np.asarray(getattr(made, name), np.float64)
    good = value.shape in ((1,), (shape[-1],)) and np.isfinite(value).all()
    if not good or name == "std" and (value <= 0).any():
      refuse(
        label,
        name,
        value.tolist(),
        f"1 or {shape[-1]} finite numbers{', > 0' if name == 'std' else ''}",
      )


def view_shapes(label: str, views, image_shape):
  """Returns the shape of every view; refuses what is no image."""
  image = jax.ShapeDtypeStruct(image_shape, jnp.float32)
  shapes, channels = {}, image_shape[-1]
  for view in views:
    if id(view) not in shapes:
      shown = _traced(label, "a view", view, _KEY, image)
      _like(label, "a view", shown, (None, None, channels), jnp.floating)
      shapes[id(view)] = shown.shape
  return tuple(shapes[id(view)] for view in views)


def encoder(label: str, made: contracts.Encoder, shape) -> None:
  """Checks an encoder on views of one shape (h, w, c)."""
  variables = _traced(label, "init", lambda key: made.init(key, shape), _KEY)
  if not isinstance(variables, dict) or set(variables) != {
    "params",
    "batch_stats",
  }:
    refuse(
      label,
      "init's value",
      sorted(variables) if isinstance(variables, dict) else type(variables),
      "{'params': ..., 'batch_stats': ...}",
    )
  _check_params(label, variables["params"])
  images = jax.ShapeDtypeStruct((_ROWS, *shape), jnp.float32)
  for train in (False, True):
    try:
      shown = _traced(
        label,
        "apply",
        lambda v, x, train=train: made.apply(v, x, train=train),
        variables,
        images,
      )
    except errors.PluginError as error:
      size = "x".join(map(str, shape))
      raise errors.PluginError(
        f"{error}; it was given images of {size}"
      ) from error.__cause__
    features, stats = _pair(label, "apply", shown)
    if not isinstance(features, contracts.Features):
      refuse(label, "apply's value", type(features).__name__, "Features")
    _like(label, "pooled", features.pooled, (_ROWS, None), jnp.float32)
    _like_tree(
      label, "batch_stats after apply", stats, variables["batch_stats"]
    )


def _check_params(label, params):
  for path, leaf in jax.tree_util.tree_leaves_with_path(params):
    if leaf.dtype != jnp.float32:
      name = jax.tree_util.keystr(path)
      refuse(label, f"parameter {name}", leaf.dtype, "float32")


def objective(label: str, loss, state, frozen) -> None:
  """Checks what an objective's `apply` returns.

  Args:
    label: of the plug-in.
    loss: (state, frozen) -> (loss, (metrics, batch_stats, objective's state)).
    state: of the program, abstract or not.
    frozen: likewise.
  """
  _check_params(label, state.params["head"])

  def values(state, frozen):
    value, (extra, _, new) = loss(state, frozen)
    if not hasattr(extra, "items"):
      refuse(label, "metrics", type(extra).__name__, "a dictionary of scalars")
    for name, one in extra.items():
      if not isinstance(name, str) or name in _MEASURED:
        refuse(label, "a metric's name", repr(name), "a text of its own")
      if not isinstance(one, numbers.Real) and getattr(one, "shape", 0) != ():
        shown = getattr(one, "shape", repr(one))
        refuse(label, f"metric {name!r}", shown, "a scalar")
    return value, new

  value, new = _traced(label, "apply", values, state, frozen)
  _like(label, "the loss", value, (), jnp.float32)
  _like_tree(label, "the new state", new, state.objective)


def local_maps(run) -> None:
  """Refuses an encoder without local maps where the objective wants them."""
  if "local" not in run.objective.requires:
    return
  shape = run.view_shapes[0]

  def local(key, images):
    variables = run.encoder.init(key, shape)
    return run.encoder.apply(variables, images, train=True, local=True)[0].local

  images = jax.ShapeDtypeStruct((_ROWS, *shape), jnp.float32)
  if jax.eval_shape(local, _KEY, images) is None:
    options.refuse(
      "encoder.name",
      run.config.encoder.name,
      "an encoder with local maps, which objective "
      f"{run.config.objective.name!r} compares",
    )


def probe(run, encode, variables, frozen) -> None:
  """Runs every part on a small batch; refuses wrong values.

  Args:
    run: a genrep_jax.run.Run.
    encode: (variables, images [n h w c] in [-1, 1]) -> features [n f].
    variables: of the untrained encoder, on the devices.
    frozen: the program's, on the devices.

  Raises:
    PluginError: names the plug-in, what it gave and what is allowed.
  """

  # Replicated: what is fed is spread over all processes.
  @functools.partial(jax.jit, out_shardings=run.replicated)
  def parts(variables, frozen):
    out = {}
    index = jnp.arange(_PROBED, dtype=jnp.uint32)
    keys = rng.per_index(rng.stream(run.seed, "probe"), index)
    if run.source.generator is None:
      draws = run.source.draw(jnp.int32(0), frozen)
      images = run.source.show(draws, None, frozen)[:_PROBED, 0]
    else:
      made, weights = run.source.generator, frozen["generator"]
      z, y = jax.vmap(made.sample)(keys)
      many = rng.per_index(
        rng.stream(run.seed, "probe"), jnp.arange(_DRAWN, dtype=jnp.uint32)
      )
      out["y"] = jax.vmap(made.sample)(many)[1]
      latents = made.latents(weights, z, y)
      images = made.apply(weights, latents, y).astype(jnp.float32)
      other = made.apply(weights, latents[_SOME], y[_SOME])
      out |= {"images": images, "images again": other}
      if not isinstance(run.latent_view, contracts.LearnedView):
        out["moved"] = jax.vmap(run.latent_view)(keys, latents, y)
    for i, view in enumerate(dict.fromkeys(run.pixel_views.views)):
      out[f"view {i}"] = jax.vmap(view)(keys, images)
    out["features"] = encode(variables, images)
    out["features again"] = encode(variables, images[_SOME])
    return out

  out = {
    name: np.asarray(x, np.float32)
    for name, x in jax.device_get(parts(variables, frozen)).items()
  }
  config = run.config
  if "images" in out:
    label = plugins.label_of("generators", config.generator.name)
    _check_images(label, out["images"])
    k = max(1, run.source.generator.num_classes)
    if out["y"].min() < 0 or out["y"].max() >= k:
      given = f"in {out['y'].min():g}..{out['y'].max():g}"
      refuse(label, "y of sample", given, f"0..{k - 1}")
    _check_rows(label, "images of apply", out["images"], out["images again"])
  if "moved" in out:
    label = plugins.label_of("views/latent", config.views.latent.name)
    _check_finite(label, "the moved latent", out["moved"])
  for name in (name for name in out if name.startswith("view ")):
    label = plugins.label_of("views/pixel", config.views.pixel.name)
    _check_finite(label, "a view", out[name])
  label = plugins.label_of("encoders", config.encoder.name)
  _check_finite(label, "pooled", out["features"])
  _check_rows(label, "pooled", out["features"], out["features again"])


def _check_images(label, images):
  _check_finite(label, "images of apply", images)
  low, high = float(images.min()), float(images.max())
  allowed = "in [-1, 1], from black to white"
  if low < -_RANGE or high > _RANGE:
    refuse(label, "range of images", f"[{low:g}, {high:g}]", allowed)
  if low >= 0:
    refuse(
      label,
      "range of images",
      f"[{low:g}, {high:g}], not a dark pixel",
      allowed,
    )


def _check_finite(label, what, x):
  if not np.isfinite(x).all():
    refuse(label, what, "not finite", "finite numbers")


def _check_rows(label, what, x, again):
  """Rows differ, and are the same without the others and in another order."""
  if (x == x[0]).all():
    refuse(label, what, "the same for every row", "rows of their own")
  scale = max(float(np.abs(x).max()), 1e-6)
  difference = float(np.abs(x[_SOME] - again).max()) / scale
  if difference > _TOLERANCE:
    refuse(
      label,
      what,
      f"changed by {difference:.2g} of its size when other rows change",
      "rows that depend on themselves alone",
    )


def _pair(label, what, value):
  if not isinstance(value, tuple) or len(value) != 2:
    refuse(label, f"{what}'s value", type(value).__name__, "two values")
  return value


def _rows(x):
  return jax.ShapeDtypeStruct((_ROWS, *x.shape), x.dtype)


def _like(label, what, x, shape, dtype) -> None:
  """Checks one array's shape (None: any length) and kind of dtype."""
  if not hasattr(x, "shape") or not hasattr(x, "dtype"):
    refuse(label, what, type(x).__name__, "an array")
  fits = len(x.shape) == len(shape) and all(
    have and want in (None, have)
    for have, want in zip(x.shape, shape, strict=True)
  )
  if not fits or not jnp.issubdtype(x.dtype, dtype):
    said = "x".join("?" if d is None else str(d) for d in shape) or "scalar"
    kind = getattr(dtype, "__name__", str(dtype))
    refuse(label, what, f"{x.dtype}{list(x.shape)}", f"{kind} {said}")


def _like_tree(label, what, tree, first) -> None:
  """Checks that a tree has the leaves that `init` gave it."""
  described = [
    jax.tree.map(lambda x: f"{x.dtype}{list(x.shape)}", x)
    for x in (tree, first)
  ]
  if described[0] != described[1]:
    refuse(label, what, f"{described[0]}", f"as init's, {described[1]}")


def _traced(label, what, function, *arguments):
  """Returns shapes of a function's result; refuses one that draws by itself."""

  def drawn():
    _, words, position, *_ = np.random.get_state()
    return random.getstate(), words.tobytes(), position

  before = drawn()
  # A function of its own: JAX keeps the traces of those that it has seen.
  traced = jax.eval_shape(lambda *given: function(*given), *arguments)
  if drawn() != before:
    refuse(
      label,
      what,
      "a function that draws Python's or NumPy's random numbers",
      "a pure function of its arguments, a key among them",
    )
  return traced
