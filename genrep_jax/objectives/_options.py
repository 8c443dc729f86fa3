"""Options that several objectives have, and what no declaration can say."""

from genrep_jax.lib import options

_MAX_WIDTH = 16384
_MAX_COUNT = 65536  # of latents' coordinates and of classes

CHUNK_ROWS = options.integer(
  0, "rows of similarities held at a time; 0: all", low=0, unit="rows"
)
HEAD_HIDDEN = options.integer(
  0,
  "width of the head's hidden layer; 0: the feature's",
  low=0,
  high=_MAX_WIDTH,
)
MASK = {
  "mask_same_class": options.flag(
    False, "other anchors of one class are no negatives: needs labels"
  )
}


def temperature(default: float, help: str) -> options.Option:
  """Declares tau."""
  return options.number(default, help, low=1e-3, high=1e3)


def weight(default: float, help: str) -> options.Option:
  """Declares the weight of a term."""
  return options.number(default, help, low=0, high=1e6)


def width(default: int, help: str) -> options.Option:
  """Declares the dimension of a layer's output."""
  return options.integer(default, help, low=1, high=_MAX_WIDTH)


def hidden(default: tuple[int, ...], help: str) -> options.Option:
  """Declares the widths of a head's hidden layers."""
  return options.several(
    default,
    options.integer(low=0, high=_MAX_WIDTH),
    f"{help}; 0: that of the input",
  )


def count(help: str) -> options.Option:
  """Declares how many classes or latents there are; see `known`."""
  return options.integer(0, help, low=0, high=_MAX_COUNT)


def known(cfg, key: str, hint: str) -> int:
  """Returns a `count` that is filled in; UsageError with `hint` if it is 0."""
  if not cfg[key]:
    options.refuse(f"objective.{key}", cfg[key], f"an integer >= 1; {hint}")
  return cfg[key]


def some_weight(weights) -> None:
  """Raises UsageError if all weights {option: value} are zero."""
  if not any(weights.values()):
    options.refuse("objective", weights, "a weight > 0 among them")


def check_rows(what: str, n: int) -> None:
  """Raises UsageError if a batch is too small to compare its rows."""
  if n < 2:
    options.refuse("global_batch", n, f"at least 2 rows, as {what} compares")
