"""GenRep's experiments at the scale of ImageNet."""
