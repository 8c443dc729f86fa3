"""Independent latent view: another anchor of the same class.

GenRep's "independent" sets: the positive is a fresh draw of z, rendered with
the anchor's y. Meant for conditional generators; with an unconditional one a
pair has nothing in common (useful as a control: nothing can be learned).
"""

from genrep_jax.lib import contracts, options


def make(cfg, generator: contracts.Generator) -> contracts.LatentView:
  """Makes z' = a fresh z, drawn as the generator's; the anchor's class is kept.

  Raises:
    UsageError: the latents are not what is drawn (StyleGAN2's w): how they are
      distributed is known to the weights only.
  """
  if generator.encode_latent is not None:
    options.refuse(
      "views.latent.name",
      cfg.name,
      "another view, or generator.latent=z: the latents of this generator are "
      "not drawn but computed from z",
    )

  def view(key, z, y):
    del y
    return generator.sample(key)[0].astype(z.dtype)

  return view
