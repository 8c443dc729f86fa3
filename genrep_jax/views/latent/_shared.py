"""What latent views share: noise, files that belong to weights, inner views."""

from genrep_jax.lib import contracts, errors, options, plugins, rng, weights

GAUSSIAN = {
  "sigma": options.number(
    0.2, "standard deviation of w before truncation", low=0, high=1e3
  ),
  "truncation": options.number(
    2.0, "t: |w| <= t * sigma per coordinate; 0: untruncated", low=0, high=1e3
  ),
}


def gaussian(cfg):
  """Makes (key, shape) -> w ~ N^t(0, sigma, t) from the options GAUSSIAN."""
  sigma, truncation = float(cfg.sigma), float(cfg.truncation)
  return lambda key, shape: rng.truncated_normal(
    key, shape, sigma=sigma, truncation=truncation
  )


def added(noise) -> contracts.LatentView:
  """Makes z' = z + w, of z's type, from `noise`: (key, shape) -> w."""

  def view(key, z, y):
    del y
    return z + noise(key, z.shape).astype(z.dtype)

  return view


def check_generator(file: str, wanted: str, generator) -> None:
  """Refuses a file that belongs to the latent space of another generator.

  Args:
    file: the file's name.
    wanted: sha256 of the generator's weights that the file was made with.
    generator: the run's, a contracts.Generator.

  Raises:
    UsageError: says both.
  """
  if generator.sha256 != wanted:
    given = generator.sha256 or "none: its weights are random"
    options.refuse(
      "views.latent.file",
      file,
      f"one made with this run's generator, of sha256 {given}; this one was "
      f"made with {wanted}",
    )


def read(path, reader=weights.read_metadata):
  """Reads the file of a view; a UsageError names the option, too."""
  try:
    return reader(path)
  except errors.UsageError as error:
    raise errors.UsageError(f"views.latent.file: {error}") from error


def make_inner(entry, generator, path: str) -> contracts.LatentView:
  """Makes a view that is a part of another; it must not learn.

  Args:
    entry: its options.
    generator: as it sees it.
    path: of the entry below views.latent, e.g. "inner".
  """
  path = f"views.latent.{path}"
  view = plugins.make("views/latent", entry, generator, path=path)
  if isinstance(view, contracts.LearnedView):
    options.refuse(
      f"{path}.name",
      entry["name"],
      "a view that does not learn, within another",
    )
  return view
