"""What every experiment has: all keys of a config, declared once.

A config names plug-ins (`generator.name`, `encoder.name`, ...) and states only
the options it changes: the rest are these defaults and the plug-ins' own.
Nothing here needs JAX.
"""

import re

from genrep_jax.lib import options
from genrep_jax.lib.options import Entry

JOBS = ("train", "evaluate", "compile_only", "study")
_MAX_SEED = 2**32 - 1
_MAX_VIEWS = 64
_MAX_ANCHORS = 2**31 - 1


def _pairs(value) -> bool:
  """Whether a value is ((name, ("key=value", ...)), ...), names unique."""
  names = [name for name, _ in value]
  return (
    all(isinstance(name, str) and name for name in names)
    and len(set(names)) == len(names)
    and all(
      isinstance(words, (tuple, list))
      and all(isinstance(word, str) and "=" in word for word in words)
      for _, words in value
    )
  )


def _curves(value) -> bool:
  """Whether a value is ((line, ((x, name of a row), ...)), ...)."""
  return all(
    isinstance(name, str)
    and all(
      type(x) in (int, float) and isinstance(row, str) for x, row in points
    )
    for name, points in value
  )


def _address(value) -> bool:
  """Whether a value is "" or host:port; JAX itself crashes on some others."""
  host, _, port = value.rpartition(":")
  plain = re.fullmatch(r"[^\s:\[\]]+|\[[0-9A-Fa-f:.]+\]", host)
  digits = port.isascii() and port.isdecimal() and len(port) <= 5
  return not value or bool(plain and digits and 0 < int(port) < 2**16)


def _counts_from_zero(value) -> bool:
  return {*value} == {*range(len({*value}))}


_STEPS = {"low": 0, "unit": "steps"}

OPTIONS = {
  "job": options.choice("train", JOBS, "what to do with the experiment"),
  "title": options.text("", "the run's row in reports; empty: the file's name"),
  "seed": options.integer(0, "of everything random", low=0, high=_MAX_SEED),
  "precision": options.choice(
    "float32", ("float32", "bfloat16"), "compute of generator and encoder"
  ),
  "global_batch": options.integer(
    256,
    "b, anchors of one step, over all devices",
    low=2,
    high=2**24,
    unit="anchors",
  ),
  "total_steps": options.integer(
    0, "length of the run; exactly one of the three is positive", **_STEPS
  ),
  "total_epochs": options.number(
    0.0, "the same, of the source's epochs", low=0, unit="epochs"
  ),
  "total_examples": options.integer(
    0, "the same, in anchors", low=0, high=2**40, unit="anchors"
  ),
  "steps_per_call": options.integer(
    1, "scanned inside one call of the program", low=1, unit="steps"
  ),
  "stop_at_step": options.integer(
    0, "save and stop there, as if preempted; 0: never", **_STEPS
  ),
  "cpu_devices": options.integer(
    0,
    "XLA devices that a CPU counts as; 0: as XLA_FLAGS say, or 1",
    low=0,
    high=256,
  ),
  "compilation_cache": options.text("user", "user, workdir, off, or a folder"),
  "program": Entry("programs", "genrep", "what is trained"),
  "source": Entry("sources", "generator", "where a batch's images come from"),
  "generator": Entry("generators", "", "the image generator"),
  "sampler": {
    "num_anchors": options.integer(
      0,
      "0: endless; N: a virtual data set of N anchors",
      low=0,
      high=_MAX_ANCHORS,
      unit="anchors",
    ),
    "file": options.text(
      "", ".npz of z and y (tools/render) instead of drawing them"
    ),
  },
  "views": {
    "num_views": options.integer(
      2, "v, of each anchor", low=1, high=_MAX_VIEWS
    ),
    "anchor_first": options.flag(
      True, "view 0 is the anchor; False: T_z on all views"
    ),
    "num_neighbors": options.integer(
      0, "T_z's pool per anchor; 0: new ones at every visit", low=0, high=2**16
    ),
    "rendering_of": options.several(
      (),
      options.integer(low=0, high=_MAX_VIEWS),
      "rendering that each view shows, e.g. multi-crop's (0, 1, 0, 0, 1, 1); "
      "(): each view its own",
      only=("counted from 0 without gaps", _counts_from_zero),
    ),
    "pixel_on": options.several(
      (),
      options.integer(low=0, high=_MAX_VIEWS),
      "views that get T_x, e.g. (1,); (): all",
      only=("each once", lambda views: len({*views}) == len(views)),
    ),
    "latent": Entry("views/latent", "gaussian", "T_z"),
    "pixel": Entry("views/pixel", "genrep", "T_x"),
  },
  "encoder": Entry("encoders", "small", "the network that is trained"),
  "objective": Entry("objectives", "simclr", "the loss"),
  "optimizer": Entry("optimizers", "sgd", "of encoder and head"),
  "schedule": Entry("schedules", "cosine", "of the learning rate"),
  "ema_decay": options.number(
    0.0,
    "of the averaged weights, an objective's target; 0: none",
    low=0,
    high=1,
  ),
  "ema_final_decay": options.number(
    -1.0,
    "reached along half a cosine; -1: constant",
    low=-1,
    high=1,
    only=("-1 or >= 0", lambda x: x == -1 or x >= 0),
  ),
  "evaluate_ema": options.flag(
    True, "evaluate and export the averaged weights, if there are any"
  ),
  "data": Entry("data", "fashion_mnist_mini", "the real images"),
  "evaluations": Entry(
    "evaluations", "", "how the result is judged, by any names", many=True
  ),
  "evaluate_every_steps": options.integer(0, "0: only at the end", **_STEPS),
  "log_every_steps": options.integer(50, "0: only at the end", **_STEPS),
  "writers": {
    "tensorboard": options.flag(True, "write event files"),
    "wandb": options.flag(False, "write to Weights & Biases"),
    "wandb_project": options.text("genrep_jax", "its project"),
  },
  "checkpoint": {
    "every_steps": options.integer(
      1000, "besides evaluations and the end", **_STEPS
    ),
    "keep": options.integer(2, "newest checkpoints", low=1, high=10_000),
  },
  "report": {
    "baselines": options.flag(
      True, "evaluate raw pixels and the untrained encoder too"
    ),
    "pictures": options.flag(
      True, "draw neighbors, confusions, maps: what evaluations offer"
    ),
    "recorded": options.text(
      "", "table of recorded rows to print beside this run's"
    ),
  },
  "study": {
    "base": options.text("", "the experiment that every row varies"),
    "rows": options.anything(
      (),
      "runs to compare",
      '((name, ("key=value", ...)), ...), each name once',
      _pairs,
    ),
    "seeds": options.several(
      (0,),
      options.integer(low=0, high=_MAX_SEED),
      "of every row",
      least=1,
      only=("each once", lambda seeds: len({*seeds}) == len(seeds)),
    ),
    "parallel": options.integer(
      1, "runs at a time, each on its share of the cores", low=1, high=1024
    ),
    "curves": options.anything(
      (),
      "the plot's lines; (): a dot for every row that is not one of `levels`",
      "((line, ((x, name of a row), ...)), ...)",
      _curves,
    ),
    "levels": options.several(
      (), options.text(), "rows drawn as lines of reference"
    ),
    "x_label": options.text("", "of the curves"),
    "log_x": options.flag(False, "a logarithmic axis"),
  },
  "distributed": {
    "mode": options.choice(
      "auto", ("auto", "on", "off"), "call jax.distributed.initialize?"
    ),
    "coordinator": options.text(
      "",
      "host:port; empty: found by JAX (TPU, SLURM, GKE)",
      only=("empty, or host:port", _address),
    ),
    "num_processes": options.integer(0, "0: found by JAX", low=0, high=2**20),
    "process_id": options.integer(-1, "-1: found by JAX", low=-1, high=2**20),
    "start_seconds": options.integer(
      300, "until all processes have met", low=1, high=86_400, unit="seconds"
    ),
    "lost_seconds": options.integer(
      100,
      "until a process that says nothing counts as lost",
      low=10,
      high=86_400,
      unit="seconds",
    ),
  },
}
# Keys of earlier versions -> what to write instead.
MOVED = {
  "report.floors": "report.baselines",
  "game": "program (c.program.name = 'gan', job 'train')",
  "steering": "program (c.program.name = 'walks', job 'train')",
}
MOVED_JOBS = {
  "game": "job=train with program.name=gan",
  "steer": "job=train with program.name=walks",
}


def defaults() -> dict:
  """Returns {key: default}, nested; plug-ins by their names alone."""
  return options.defaults(OPTIONS)
