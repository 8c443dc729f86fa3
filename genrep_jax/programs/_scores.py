"""BigBiGAN's discriminator and the head of its encoder.

Donahue & Simonyan 2019 (arXiv:1907.02544), section 2: D is a trunk F of images,
an MLP H of latents and an MLP J of both, with a linear score on each. F has
BigGAN's blocks (Brock et al. 2019, the authors' PyTorch code), H, J and the
encoder's head have residual blocks with a linear skip. D is under spectral
normalization (lib/spectral.py), the head is not.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp

from genrep_jax.lib import spectral

_SLOPE = 0.3  # leaky ReLU of the MLPs


class ImageBlock(nn.Module):
  """Two 3x3 convolutions and a skip; wide: hidden channels are the result's.

  Attributes:
    features: channels of the result.
    first: no ReLU before it, and the skip is pooled before its convolution.
    halve: averages 2x2 at the end.
  """

  features: int
  first: bool = False
  halve: bool = False

  @nn.compact
  def __call__(self, x, *, train: bool):
    """Maps [n h w c] to [n h w features], h and w perhaps halved."""
    conv = lambda size, name: spectral.Conv(  # noqa: E731
      self.features, size=size, name=name
    )
    pool = _halved if self.halve else (lambda y: y)
    y = x if self.first else nn.relu(x)
    y = nn.relu(conv(3, "conv1")(y, train=train))
    y = pool(conv(3, "conv2")(y, train=train))
    if self.first:
      return y + conv(1, "conv_sc")(pool(x), train=train)
    if x.shape[-1] != self.features or self.halve:
      x = conv(1, "conv_sc")(x, train=train)
    return y + pool(x)


class Trunk(nn.Module):
  """F: images to features, summed over positions.

  Attributes:
    widths: channels of each block.
    halvings: the first so many blocks halve the side.
  """

  widths: Sequence[int]
  halvings: int

  @nn.compact
  def __call__(self, images, *, train: bool):
    """Maps images [n h w c] to [n widths[-1]]."""
    x = images
    for i, width in enumerate(self.widths):
      block = ImageBlock(width, not i, i < self.halvings, name=f"block_{i}")
      x = block(x, train=train)
    return jnp.sum(nn.relu(x), axis=(1, 2))


class Residual(nn.Module):
  """lrelu(W2 lrelu(W1 x)) + lrelu(Ws x), with biases.

  Attributes:
    width: of the result.
    normalized: under spectral normalization.
  """

  width: int
  normalized: bool

  @nn.compact
  def __call__(self, x, *, train: bool):
    """Maps [n d] to [n width]."""

    def dense(x, name):
      if self.normalized:
        return spectral.Dense(self.width, name=name)(x, train=train)
      return nn.Dense(self.width, name=name)(x)

    y = nn.leaky_relu(dense(x, "linear1"), _SLOPE)
    y = nn.leaky_relu(dense(y, "linear2"), _SLOPE)
    return y + nn.leaky_relu(dense(x, "skip_linear"), _SLOPE)


class Scores(nn.Module):
  """H, J and the three scores.

  Attributes:
    width: of H's and J's blocks.
    blocks: of each.
    terms: of "x", "z" and "xz"; the others are left out.
  """

  width: int
  blocks: int
  terms: Sequence[str] = ("x", "z", "xz")

  @nn.compact
  def __call__(self, f, z, *, train: bool):
    """Maps F(x) [n f] and z [n d] to {term: score [n]}."""

    def mlp(x, name):
      for i in range(self.blocks):
        block = Residual(self.width, True, name=f"{name}_block_{i}")
        x = block(x, train=train)
      return x

    h = mlp(z, "H")
    seen = {"x": f, "z": h}
    if "xz" in self.terms:
      seen["xz"] = mlp(jnp.concatenate([f, h], axis=-1), "J")
    return {
      term: spectral.Dense(1, name=f"s_{term}")(seen[term], train=train)[:, 0]
      for term in self.terms
    }


class Discriminator(nn.Module):
  """F and the scores; see `Trunk` and `Scores` for what it has."""

  widths: Sequence[int]
  halvings: int
  width: int
  blocks: int
  terms: Sequence[str]

  @nn.compact
  def __call__(self, images, z, *, train: bool):
    """Maps images [n h w c] and z [n d] to {term: score [n]}."""
    f = Trunk(self.widths, self.halvings, name="F")(images, train=train)
    scores = Scores(self.width, self.blocks, self.terms, name="scores")
    return scores(f, z, train=train)


class LatentHead(nn.Module):
  """E's head: features to the mean and the standard deviation of z.

  Attributes:
    latent_dim: d.
    width: of its two residual blocks.
  """

  latent_dim: int
  width: int

  @nn.compact
  def __call__(self, pooled):
    """Maps [n f] to (mean [n d], stdev [n d])."""
    x = pooled
    for i in range(2):
      x = Residual(self.width, False, name=f"block_{i}")(x, train=False)
    mean, raw = jnp.split(nn.Dense(2 * self.latent_dim, name="out")(x), 2, -1)
    return mean, nn.softplus(raw)


def _halved(x):
  n, h, w, c = x.shape
  return x.reshape(n, h // 2, 2, w // 2, 2, c).mean(axis=(2, 4))
