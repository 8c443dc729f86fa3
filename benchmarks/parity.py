"""How far our objectives are from their references: the table of the docs.

`python -m benchmarks.parity` computes every case of tests/fixtures/losses.npz,
loss and gradient, in float32 and in float64, and prints a line per objective:
the largest difference of any case, as a share of the largest entry.
"""

from tests.objectives import reference


def main() -> None:
  """Prints the table."""
  file, cases = reference.read()
  worst, counts = {}, {}
  for case in cases.values():
    counts[case["objective"]] = counts.get(case["objective"], 0) + 1
  for dtype in ("float32", "float64"):
    for name, found in reference.compute(file, cases, dtype).items():
      for what, pair in found.items():
        key = cases[name]["objective"], dtype, what == "loss"
        worst[key] = max(worst.get(key, 0.0), reference.error(*pair))
  print("| objective | cases | loss, gradient: float32 | float64 |")
  print("| --- | ---: | ---: | ---: |")
  for kind, count in counts.items():
    cells = [
      ", ".join(f"{worst[kind, dtype, loss]:.0e}" for loss in (True, False))
      for dtype in ("float32", "float64")
    ]
    print(f"| {kind} | {count} | {' | '.join(cells)} |")


if __name__ == "__main__":
  main()
