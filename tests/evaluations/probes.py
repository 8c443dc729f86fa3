"""A small data set and a maker of plug-ins, for the tests of probes."""

import dataclasses

import jax
import numpy as np

from genrep_jax import data
from genrep_jax.evaluations import _features
from genrep_jax.lib import contracts, mesh as mesh_lib, plugins


def mesh_of(count):
  return mesh_lib.make_mesh(jax.devices()[:count])


def toy(per_class=20, classes=3, *, several=False):
  """Noise, and a bright row that says the class (or one for each)."""
  random = np.random.default_rng(0)
  labels = np.tile(np.arange(classes, dtype=np.int32), per_class)
  if several:
    labels = random.random((len(labels), classes)) < 0.4
  splits = []
  for _ in range(2):
    images = random.integers(0, 90, (len(labels), 4, 4, 1))
    bright = labels if several else np.eye(classes, dtype=bool)[labels]
    images[:, :classes] += 150 * bright[:, :, None, None]
    splits.append(contracts.Split(images.astype(np.uint8), labels))
  return contracts.Dataset("toy", classes, (), *splits)


def raw_pixels(variables, images):
  return images.reshape(len(images), -1)


def maker(monkeypatch, name, **defaults):
  """Returns make(dataset=toy(), encode=raw_pixels, **options)."""
  monkeypatch.setattr(_features, "_last", None)

  def make(dataset=None, encode=raw_pixels, **options):
    dataset = dataset or toy()
    monkeypatch.setattr(data, "load", lambda entry, path: dataset)
    entry = {"name": name, "batch": 32, **defaults, **options}
    model = contracts.Model(encode=encode)
    made = plugins.make("evaluations", entry, model, mesh_of(2), path="here")

    def run(variables):
      with jax.transfer_guard("disallow"):  # as the training loop calls it
        return list(made.run(variables))

    return dataclasses.replace(made, run=run)

  return make
