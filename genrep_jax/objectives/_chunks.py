"""Rows of a comparison, all at once or a chunk at a time.

Every row is compared with every key: n * m numbers. In chunks of rows only
chunk * m of them exist at a time, in the forward and in the backward pass,
which computes each chunk again.
"""

import jax

from genrep_jax.lib import options

ANCHORS_TIMES_VIEWS = "anchors times views"
ONE_PER_ANCHOR = "one per anchor"


def check(n: int, chunk_rows: int, rows: str = ANCHORS_TIMES_VIEWS) -> None:
  """Raises UsageError if chunks of `chunk_rows` do not tile n rows.

  Args:
    n: rows of the global batch.
    chunk_rows: 0, or at least n: all at once.
    rows: what the rows are, for the message.
  """
  if chunk_rows and chunk_rows < n and n % chunk_rows:
    fits = max(c for c in range(1, chunk_rows) if n % c == 0)
    options.refuse(
      "objective.chunk_rows",
      chunk_rows,
      f"0, or a divisor of the {n} rows ({rows}) of the global batch: {fits}",
    )


def over_rows(function, rows, chunk_rows: int):
  """Applies a function of rows, chunk by chunk.

  Args:
    function: (tree of arrays [c ...]) -> tree of arrays [c ...].
    rows: tree of arrays [n ...].
    chunk_rows: c; 0, or at least n: all n at once.

  Returns:
    Tree of arrays [n ...], or [chunks c ...] in another order: for sums and
    means over all rows.
  """
  n = len(jax.tree.leaves(rows)[0])
  check(n, chunk_rows)
  if not chunk_rows or chunk_rows >= n:
    return function(rows)
  # Chunk j takes the rows j, j + n/chunk, ...: with n spread over devices,
  # every device holds a part of every chunk. The compiler then gathers one
  # chunk at a time, and the keys stay where they are.
  rows = jax.tree.map(
    lambda x: x.reshape(chunk_rows, -1, *x.shape[1:]).swapaxes(0, 1), rows
  )
  return jax.lax.map(jax.checkpoint(function), rows)
