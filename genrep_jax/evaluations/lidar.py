"""Exact LiDAR: the rank of what tells latents apart (arXiv:2312.04000).

LiDAR's surrogate classes are views of one sample. A generator renders as many
of each latent as are wanted, so they are right by construction; no labels, no
real images. The formula is `spectrum.lidar`.
"""

from genrep_jax.evaluations import _features, _generated, spectrum
from genrep_jax.lib import contracts, options

OPTIONS = {
  "views": _generated.views_option("both", "T_z, T_x or both"),
  "samples": options.integer(
    1000, "n, latents; compare at equal n and q", low=2, high=10**5
  ),
  "q": options.integer(10, "views of each; the paper has 50", low=2, high=1000),
  "delta": options.number(
    1e-4, "on the diagonal of the covariance within", above=0, high=1e3
  ),
  "batch": _features.OPTIONS["batch"],
}


def make(cfg, model, mesh) -> contracts.Evaluation:
  """Makes LiDAR of generated views.

  Args:
    cfg: `OPTIONS`.
    model: has `encode` and `views`.
    mesh: the device mesh.

  Returns:
    Yields ("lidar_q<q>_n<samples>_<views>", the rank), with "_delta<delta>" if
    that is not 1e-4.

  Raises:
    UsageError: views that do not differ.
  """
  if cfg.views == "none":
    options.refuse("evaluations.views", cfg.views, "both, latent or pixel")
  name = f"lidar_q{cfg.q}_n{cfg.samples}_{cfg.views}"
  if cfg.delta != 1e-4:
    name += f"_delta{cfg.delta:g}"

  def run(variables):
    seen = _generated.encoded_views(
      model,
      variables,
      mesh,
      samples=cfg.samples,
      count=cfg.q,
      batch=cfg.batch,
      views=cfg.views,
    )
    yield name, spectrum.lidar(seen.features, delta=cfg.delta)

  return contracts.Evaluation(
    run=run,
    headline=name,
    requires=frozenset({"encode", "views"}),
    unit="",
    about=f"LiDAR of {cfg.samples} latents, {cfg.q} views of each "
    f"({cfg.views}), delta {cfg.delta:g}",
    metrics={
      name: "Directions that tell latents apart, their views being noise; "
      "higher is better at equal n and q."
    },
  )
