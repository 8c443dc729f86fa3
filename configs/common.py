"""What the experiments of this folder share.

All keys of an experiment, with their meaning and ranges, are declared in
genrep_jax/lib/experiment.py; `--describe` of genrep_jax.main
prints them, resolved. A config names plug-ins and states what it changes.
"""

import ml_collections

from genrep_jax.lib import experiment

# Entries whose options are checked when their plug-in is known.
_ENTRIES = (
  "program",
  "source",
  "generator",
  "encoder",
  "objective",
  "optimizer",
  "schedule",
  "data",
  "evaluations",
)


def get_config() -> ml_collections.ConfigDict:
  """Returns the defaults: SimCLR on a generator's views, nothing named yet."""
  c = ml_collections.ConfigDict(experiment.defaults())
  c.lock()  # a misspelt key in an experiment's file is an error...
  for entry in (*(c[key] for key in _ENTRIES), c.views.latent, c.views.pixel):
    entry.unlock()  # ... and a plug-in's options are checked when it is known
  return c


# The generators of the package.
EMBEDDED = {
  "name": "small",
  "weights": "asset:fashion_mnist_unconditional.safetensors",
  "sha256": "0b8ca9a6662b147ecdf2e5de6d86694173f242a28ba0c2f76e8934d5cc814909",
}
EMBEDDED_CONDITIONAL = {
  "name": "small",
  "num_classes": 10,
  "weights": "asset:fashion_mnist_conditional.safetensors",
  "sha256": "0966e8c24760b23e79a6ba53c93c6c339b16eba2fc9086fc5ff96ba7d2655df5",
}


def get_without_encoder(title: str, program: str) -> ml_collections.ConfigDict:
  """Returns the base of programs that train no encoder on views.

  Their rooms stay empty.

  Args:
    title: name of the experiment.
    program: a module of the room programs, e.g. "gan".
  """
  c = get_config()
  c.title = title
  c.program.name = program
  for entry in (c.views.latent, c.views.pixel, c.encoder, c.objective):
    entry.name = ""
  return c


def get_walks(title: str) -> ml_collections.ConfigDict:
  """Returns the base config of latent walks: no real images either."""
  c = get_without_encoder(title, "walks")
  c.data.name = ""
  return c


# What the rows of a small study share: the quick start's updates cut to a
# third, and one core for a run, so that two cores take two runs at a time.
STUDY_BUDGET = (
  "total_steps=400",
  "evaluate_every_steps=0",
  "cpu_devices=1",
)

# Overrides that several studies need.
NO_PIXEL_VIEW = (
  "views.pixel.name=none",
  "views.pixel.mean=(0.5,)",
  "views.pixel.std=(0.5,)",
)
CONDITIONAL = tuple(
  f"generator.{key}={value}"
  for key, value in EMBEDDED_CONDITIONAL.items()
  if key != "name"
)


def get_study(title: str, rows, **options) -> ml_collections.ConfigDict:
  """Returns a study of the quick start within STUDY_BUDGET.

  Args:
    title: name of the study.
    rows: ((name, overrides of the quick start), ...).
    **options: of `study`: seeds (three if not given), curves, levels, x_label,
      log_x.
  """
  c = get_config()
  c.job = "study"
  c.title = title
  c.study.base = "configs/quickstart.py"
  c.study.rows = tuple((name, (*STUDY_BUDGET, *row)) for name, row in rows)
  c.study.seeds = (0, 1, 2)
  c.study.parallel = 2
  c.study.update(options)
  return c


def swap(entry: ml_collections.ConfigDict, name: str, **options) -> None:
  """Names another plug-in; the options of the one before go with it.

  Args:
    entry: of an experiment, e.g. c.objective.
    name: of the plug-in.
    **options: its own.
  """
  for key in list(entry):
    if key != "name":
      del entry[key]
  entry.name = name
  entry.update(options)
