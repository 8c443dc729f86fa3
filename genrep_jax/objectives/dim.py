"""Deep InfoMax, local: DIM(L) (Hjelm et al. 2018, arXiv 1808.06670).

The image's vector E(x) should predict every position of its local map C(x).
The critic is "encode-and-dot": two small residual networks, one per position of
the map and one for the vector, end in a layer norm, and the score is the plain
dot product, without temperature. All views are rows of their own: the paper has
no views, and another view of the same anchor counts as another image. The
cross-view form is `amdim`.

With `prior`, a critic P tells draws of it from sigmoid(E(x)) (uniform in (0,
1)) or from E(x) itself (Gaussian); the encoder makes P err (section 3.3). P is
part of the head, all learn from one batch, and no gradient of either reaches
the other's weights, so that this is the paper's game at one learning rate.
"""

import jax
import jax.numpy as jnp

from genrep_jax.lib import contracts, options
from genrep_jax.objectives import (
  _chunks,
  _heads_on_views,
  _local_global,
  _options,
  _pairs,
)

OPTIONS = {
  "measure": options.choice(
    "jsd",
    _local_global.MEASURES,
    "infonce: better with many negatives; dv: least stable",
  ),
  "mi_units": _options.width(512, "d; the code: 2048, 1024 with infonce"),
  "chunk_rows": _options.CHUNK_ROWS,
  "prior": options.choice(
    "none", ("none", "uniform", "gaussian"), "that features are matched to"
  ),
  "prior_weight": _options.weight(
    0.1, "gamma: 0.1 for DIM(L) in the paper, 1 in the code"
  ),
  "prior_penalty": _options.weight(
    1.0, "of the critic's squared gradients, zero-centered"
  ),
}
_CRITIC = (1000, 200)  # hidden units of P


def _compare(local_maps, global_features, measure, chunk_rows):
  """Returns what `_local_global.compare` does; arguments as of `loss`."""
  n = len(global_features)
  options.check("measure", OPTIONS["measure"], measure)
  _options.check_rows("dim", n)
  local_maps, u = map(_pairs.to_float, (local_maps, global_features))
  maps = local_maps.reshape(n, -1, u.shape[-1])
  return _local_global.compare(u, maps, measure=measure, chunk_rows=chunk_rows)


def loss(local_maps, global_features, *, measure="jsd", chunk_rows=0):
  """-1/m^2 sum_q I(C_q(X); E(X)), estimated with scores T = C_q(x') . E(x).

  jsd: mean sp(-T) over positives + mean sp(T) over negatives - 2 log 2,
  sp(t) = log(1 + e^t). 0 says no information.
  infonce: -mean log e^T / (e^T + sum over negatives e^T').
  dv: -mean T over positives + log mean e^T over negatives. The released code's
  cannot run.
  nwj: -mean T over positives + mean e^(T - 1) over negatives.
  Negatives of image i are all positions of the other images; its own other
  positions are left out (the original puts scores of -10 there, which take over
  once true scores fall below).

  Args:
    local_maps: [n m m d], raw.
    global_features: [n d], raw. n >= 2.
    measure: "jsd", "infonce", "dv" or "nwj".
    chunk_rows: rows of scores held at a time; 0 means all n.

  Returns:
    Scalar, float32 (float64 if both are).
  """
  return _compare(local_maps, global_features, measure, chunk_rows)[0]


def prior_losses(critic_real, critic_fake):
  """Returns (L_P, L_E): the critic's loss, but for its penalty, the encoder's.

  L_P = mean sp(-P(p)) + mean sp(P(q)), L_E = mean sp(-P(q)), which does not
  saturate (section 3.3, in the code's form).

  Args:
    critic_real: P of draws of the prior [n].
    critic_fake: P of features [n].
  """
  critic = jnp.mean(jax.nn.softplus(-critic_real))
  critic += jnp.mean(jax.nn.softplus(critic_fake))
  return critic, jnp.mean(jax.nn.softplus(-critic_fake))


def penalty(critic, real, fake):
  """Returns 1/2 (E |dP/dp|^2 + E |dP/dq|^2), zero-centered.

  Args:
    critic: [n d] -> [n], each row by itself.
    real: draws of the prior [n d].
    fake: features [n d].
  """

  def squares(x):
    slope = jax.grad(lambda x: jnp.sum(critic(x)))(x)
    return jnp.mean(jnp.sum(slope**2, axis=-1))

  return (squares(real) + squares(fake)) / 2


def make(cfg, heads):
  """Makes the objective; it requires local maps.

  Its chance level is None: the loss of uninformative embeddings is 0 (jsd) or
  log(1 + (n-1) m^2) (infonce) only at equal scores. Its metrics:
  score_accuracy, positive_score, negative_score (`_local_global.compare`), and
  with a prior critic_loss, encoder_prior_loss and critic_penalty.
  """
  units, run = cfg.mi_units, _heads_on_views.run
  net = heads.mlp(
    [units], units, batch_norm=True, shortcut=True, out_layer_norm=True
  )

  critic = heads.mlp(_CRITIC, 1)

  def init(key, features):
    b, v, f = features.pooled.shape
    _chunks.check(b * v, cfg.chunk_rows)
    networks = {"local": (net, features.local.shape[-1]), "global": (net, f)}
    if cfg.prior != "none":
      networks["critic"] = (critic, f)
    return _heads_on_views.init(key, networks)

  def match(params, pooled, key):
    """Returns (the loss of critic and encoder, metrics)."""
    fixed = jax.lax.stop_gradient

    def score(params, x):
      return critic.apply({"params": params, "batch_stats": {}}, x, True)[0][
        :, 0
      ]

    if cfg.prior == "uniform":
      real, fake = jax.random.uniform(key, pooled.shape), jax.nn.sigmoid(pooled)
    else:
      real, fake = jax.random.normal(key, pooled.shape), pooled
    told, _ = prior_losses(score(params, real), score(params, fixed(fake)))
    slopes = penalty(lambda x: score(params, x), real, fixed(fake))
    fooled = score(fixed(params), fake)
    _, meant = prior_losses(fooled, fooled)
    loss = told + cfg.prior_penalty * slopes + cfg.prior_weight * meant
    return loss, {
      "critic_loss": told,
      "critic_penalty": slopes,
      "encoder_prior_loss": meant,
    }

  def apply(head_params, features, views, target, state, key):
    del views, target
    rows = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), features)
    local, state = run(net, "local", head_params, state, rows.local)
    u, state = run(net, "global", head_params, state, rows.pooled)
    total, _, metrics = _compare(local, u, cfg.measure, cfg.chunk_rows)
    if cfg.prior != "none":
      matched, said = match(head_params["critic"], rows.pooled, key)
      total, metrics = total + matched, metrics | said
    return total, metrics, state

  return contracts.Objective(
    requires=frozenset({"local"}),
    min_views=1,
    init=init,
    apply=apply,
    chance=lambda b, v: None,
  )
