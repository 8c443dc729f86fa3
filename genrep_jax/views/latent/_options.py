"""What latent views check at the door, and views within views."""

import math

import ml_collections

from genrep_jax.lib import contracts, errors, plugins, rng, weights

_ROOM = "views/latent"


def refuse(view: str, what: str, given, allowed: str):
  """Raises UsageError "views.latent VIEW: WHAT=GIVEN; allowed: ALLOWED"."""
  raise errors.UsageError(
    f"views.latent {view}: {what}={given!r}; allowed: {allowed}"
  )


def non_negative(view: str, cfg, key: str) -> float:
  """Checks that cfg[key] is finite and >= 0; returns it as a float."""
  value = float(cfg[key])
  if not (math.isfinite(value) and value >= 0):
    refuse(view, key, value, f"{key} >= 0")
  return value


def gaussian(view: str, cfg):
  """Makes w(key, shape) ~ N^t(0, sigma, t) of a view's sigma and truncation.

  Raises:
    UsageError: either is negative or not finite.
  """
  law = {key: non_negative(view, cfg, key) for key in ("sigma", "truncation")}
  return lambda key, shape: rng.truncated_normal(key, shape, **law)


def check_generator(path: str, file: str, wanted: str, generator_weights: str):
  """Refuses a file that belongs to the latent space of another generator.

  Args:
    path: of the config key that names the file, for the message.
    file: the file's name, for the message.
    wanted: sha256 of the generator's weights that the file was made with.
    generator_weights: the run's `generator.weights`.

  Raises:
    UsageError: says both.
  """
  given = weights.sha256(generator_weights) if generator_weights else ""
  if given != wanted:
    raise errors.UsageError(
      f"{path}: {file} was made with the generator of sha256 {wanted}; "
      f"generator.weights {generator_weights!r} has "
      f"{given or 'none: it is random'}"
    )


def completed(entry, path: str, *, name: str = "", **shared):
  """Fills in the defaults of a view that is an option of another view.

  Called once when the config is loaded, so that every option can be overridden
  by its key, and again by `make`, which so refuses the leftovers of a view
  whose name was overridden.

  Args:
    entry: options of the inner view, a dictionary.
    path: its key in the config, for messages.
    name: the plug-in, where the entry has no name of its own.
    **shared: options, with defaults, that every view has at this place.

  Returns:
    A new, unlocked ConfigDict with every option.

  Raises:
    UsageError: no dictionary, an unknown view, or an option it does not have.
  """
  if not isinstance(entry, ml_collections.ConfigDict):
    raise errors.UsageError(f"{path}: {entry!r} is not a dictionary of options")
  name = entry.get("name", name)
  module = plugins.resolve(_ROOM, name)
  known = {**getattr(module, "default_config", dict)(), **shared, "name": name}
  for key in entry:
    if key not in known:
      raise errors.UsageError(
        f"{path}: view {name!r} has no option {key!r}; "
        f"options: {', '.join(known)}"
      )
  entry = ml_collections.ConfigDict({**known, **entry.to_dict()})
  if hasattr(module, "complete"):
    module.complete(entry, path)
  return entry


def make_inner(entry, generator):
  """Makes a view from what `completed` returned; it must not learn."""
  view = plugins.resolve(_ROOM, entry.name).make(entry, generator)
  if isinstance(view, contracts.LearnedView):
    raise errors.UsageError(
      f"views.latent: {entry.name!r} learns and cannot be a part of another "
      "view"
    )
  return view
