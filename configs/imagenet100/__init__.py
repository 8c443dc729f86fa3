"""GenRep's experiments at the scale of ImageNet-100: as many updates."""


def judged(c):
  """Returns a config of configs/imagenet, judged on the 100 classes."""
  c.data.name = "imagenet100"
  return c
