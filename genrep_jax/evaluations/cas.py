"""Classification accuracy score (Ravuri & Vinyals 2019).

Trained on generated images, tested on real ones. With the small classifier, so
it compares generators of one data set. The generator must be class-conditional,
its classes those of the data set.
"""

import jax
import numpy as np

from genrep_jax.evaluations import _classifier, _features, _generated
from genrep_jax.lib import contracts, options

OPTIONS = {
  "data": _features.OPTIONS["data"],
  "samples": options.integer(
    60000, "generated training images", low=2, high=10**7, unit="images"
  ),
  "epochs": options.integer(5, "of them", low=1, high=1000),
  "repeats": options.integer(1, "classifiers, averaged", low=1, high=100),
  "seed": options.integer(0, "of the first classifier", low=0),
  "batch": _features.OPTIONS["batch"],
}


def make(cfg, model, mesh) -> contracts.Evaluation:
  """Makes the classification accuracy score.

  Args:
    cfg: `OPTIONS`.
    model: has `generate`, of labeled images.
    mesh: the device mesh: images are generated on all of it.

  Returns:
    Yields ("cas_classifier_<samples>", accuracy on the test images) and, of
    several classifiers, "cas_std_...", with "_of<repeats>" in both names.

  Raises:
    UsageError: see `_features.load`; when it runs: images of another size, or
      of other classes than the data set's.
  """
  dataset = _features.load(cfg, model)
  protocol = f"classifier_{cfg.samples}"
  if cfg.repeats > 1:
    protocol += f"_of{cfg.repeats}"

  def draw(variables, count):
    images, labels, finite = _generated.over_indices(
      lambda variables, _, index: _generated.draw(model, variables, index),
      ("images", model.generate),
      variables,
      mesh,
      samples=count,
      batch=cfg.batch,
      keep=False,
    )
    _generated.check_finite(finite, "generated images")
    _generated.check_shape(dataset, images.shape[1:])
    classes = np.unique(labels)
    if len(classes) < 2 or classes[-1] >= dataset.num_classes:
      options.refuse(
        "evaluations.data",
        dataset.name,
        f"a set of the generator's own classes, {classes[0]}..{classes[-1]}",
      )
    return images, labels

  def run(variables):
    draw(variables, min(cfg.batch, cfg.samples))  # what is wrong is wrong there
    images, labels = draw(variables, cfg.samples)
    with jax.transfer_guard("allow"):  # an island beside the guarded loop
      shares = [
        _classifier.accuracy(
          _classifier.train(
            images,
            labels,
            dataset.num_classes,
            seed=cfg.seed + i,
            epochs=cfg.epochs,
          ),
          np.asarray(dataset.test.images),
          dataset.test.labels,
        )
        for i in range(cfg.repeats)
      ]
    yield f"cas_{protocol}", float(np.mean(shares))
    if cfg.repeats > 1:
      yield f"cas_std_{protocol}", float(np.std(shares, ddof=1))

  return contracts.Evaluation(
    run=run,
    headline=f"cas_{protocol}",
    requires=frozenset({"generate"}),
    about="accuracy of a small classifier trained on "
    f"{cfg.samples} generated images, on {dataset.name}",
    metrics={
      "cas_std_*": "Standard deviation over classifiers.",
      "cas_*": "Test accuracy of what was trained on generated images alone.",
    },
  )
