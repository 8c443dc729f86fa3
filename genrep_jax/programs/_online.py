"""A linear probe that learns beside the encoder, which does not notice.

It sees the features of real images under the encoder as it is, in evaluation
mode; no gradient goes back. What it says is a sign of life during training; the
evaluations judge.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from genrep_jax.lib import contracts, options, plugins

OPTIONS = {
  "online_probe": options.flag(
    False, "train a linear classifier of global_batch real images a step"
  ),
  "online_learning_rate": options.number(
    1e-3, "of its Adam", above=0, high=100
  ),
  "online_source": options.choice(
    "array", ("array", "stream"), "on the devices, or fed by the host"
  ),
}
_FED = "online_"  # before the names of what is fed


@dataclasses.dataclass(frozen=True)
class Probe:
  """The probe: a state, and a step that changes nothing else.

  Attributes:
    source: of the real images.
    encode: (encoder's variables, images [n h w c] in [-1, 1]) -> [n f].
    optimizer: its own.
  """

  source: contracts.Source
  encode: Callable
  optimizer: optax.GradientTransformation

  def init(self, variables) -> dict:
    """Returns {"params", "opt_state"} of step 0; weights are zero."""
    image = jax.ShapeDtypeStruct((1, *self.source.image_shape), jnp.float32)
    features = jax.eval_shape(self.encode, variables, image)
    k = self.source.num_classes
    params = {
      "kernel": jnp.zeros((features.shape[-1], k)),
      "bias": jnp.zeros(k),
    }
    return {"params": params, "opt_state": self.optimizer.init(params)}

  def step(self, state, step, variables, frozen):
    """Returns (its next state, metrics).

    Args:
      state: from `init`.
      step: of the run.
      variables: the encoder's.
      frozen: the program's.
    """
    given = dict(frozen["online"])
    if self.source.feed is not None:
      given["fed"] = {
        name: frozen["fed"][_FED + name] for name in self.source.feed.shapes
      }
    # A barrier: what the encoder computes is compiled as without the probe.
    variables = jax.lax.optimization_barrier(jax.lax.stop_gradient(variables))
    draws = self.source.draw(step, given)
    images = self.source.show(draws, None, given)[:, 0]
    features = jax.lax.stop_gradient(self.encode(variables, images))

    def loss(params):
      logits = features @ params["kernel"] + params["bias"]
      losses = optax.softmax_cross_entropy_with_integer_labels(
        logits, draws["labels"]
      )
      right = jnp.argmax(logits, axis=-1) == draws["labels"]
      return losses.mean(), right.mean(dtype=jnp.float32)

    (value, accuracy), grads = jax.value_and_grad(loss, has_aux=True)(
      state["params"]
    )
    updates, opt_state = self.optimizer.update(
      grads, state["opt_state"], state["params"]
    )
    params = optax.apply_updates(state["params"], updates)
    return {"params": params, "opt_state": opt_state}, {
      "online_loss": value,
      "online_accuracy": accuracy,
    }

  def feed(self, other: contracts.Feed | None) -> contracts.Feed | None:
    """Returns what the program is fed: the source's and the probe's."""
    mine = self.source.feed
    if mine is None:
      return other

    def read(number, positions):
      rows = mine.read(number, positions)
      rows = {_FED + name: x for name, x in rows.items()}
      return rows | dict(other.read(number, positions) if other else {})

    shapes = {_FED + name: x for name, x in mine.shapes.items()}
    shapes |= dict(other.shapes if other else {})
    return contracts.Feed(shapes, read, mine.prefetch)


def make(cfg, run, encode) -> Probe | None:
  """Makes the probe that `OPTIONS` ask for, or None.

  Args:
    cfg: the program's entry.
    run: a genrep_jax.run.Run; its `data` are the real images.
    encode: see Probe.

  Raises:
    UsageError: images of another shape than the encoder's, or with several
      labels.
  """
  if not cfg.online_probe:
    return None
  dataset, path = run.dataset, "program.online_probe"
  if dataset.train.labels.ndim > 1:
    options.refuse(path, dataset.name, "images with one label each")
  channels = dataset.train.images.shape[-1]
  if channels != run.source.image_shape[-1]:
    options.refuse(
      path,
      f"{dataset.name}, c = {channels}",
      f"images of {run.source.image_shape[-1]} channel(s)",
    )
  given = contracts.Given(
    seed=run.seed,
    batch=run.batch,
    split=run.split,
    dataset=dataset,
  )
  source = plugins.make("sources", {"name": cfg.online_source}, given)
  return Probe(source, encode, optax.adam(cfg.online_learning_rate))
