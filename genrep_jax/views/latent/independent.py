"""Independent latent view: another anchor of the same class.

GenRep's "independent" sets: the positive is a fresh draw of z, rendered with
the anchor's y. Meant for conditional generators; with an unconditional one a
pair has nothing in common (useful as a control: nothing can be learned).
"""

from genrep_jax.lib import contracts, errors


def default_config() -> dict:
  """Returns the options of this plug-in: none."""
  return {"name": "independent"}


def make(cfg, generator: contracts.Generator) -> contracts.LatentView:
  """Makes z' = a fresh z from the generator's own latent law.

  Args:
    cfg: unused.
    generator: its `sample` gives the law of z; the class it draws is dropped,
      since the view keeps the anchor's.

  Returns:
    (key, z [latent_dim], y) -> z' [latent_dim], of z's type.

  Raises:
    UsageError: the latents are not what is drawn (StyleGAN2's w): their law is
      known to the weights only.
  """
  del cfg
  if generator.encode_latent is not None:
    raise errors.UsageError(
      "views.latent independent: the generator's latents are not drawn but "
      "computed from z; set generator.latent=z"
    )

  def view(key, z, y):
    del y
    return generator.sample(key)[0].astype(z.dtype)

  return view
