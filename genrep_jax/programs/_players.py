"""Games: players who learn in turn or together, one round one XLA program.

A player owns networks and an optimizer. A phase says who learns, from what that
is drawn, how often a round, and what else moves then: statistics, spectral
vectors, averages, memories. In a phase all its players learn from one draw, and
their gradients are all taken at the parameters before it (a simultaneous game
is one phase); the next phase sees what this one changed (a sequential game is
several).
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import optax

from genrep_jax.lib import metrics


@flax.struct.dataclass
class State:
  """State of a game; everything random is a function of (seed, step).

  Attributes:
    step: int32 scalar, rounds played.
    params: {network: its parameters}.
    opt_state: {player: its optimizer's}.
    batch_stats: {network: its running statistics}.
    vectors: {network: singular vectors of its kernels}.
    ema: {"params" and "batch_stats": {network: averaged}}.
    memory: {name: what else a game remembers}.
  """

  step: jax.Array
  params: Any
  opt_state: Any
  batch_stats: Any
  vectors: Any
  ema: Any
  memory: Any

  def moved(self, **changes) -> "State":
    """Returns the state with some entries of its fields exchanged.

    Args:
      **changes: {field: {name: new entry}}.
    """
    return self.replace(
      **{kind: getattr(self, kind) | new for kind, new in changes.items()}
    )


class Player(NamedTuple):
  """Who learns.

  Attributes:
    networks: names of the networks that are its own.
    optimizer: of {network: parameters}.
  """

  networks: Sequence[str]
  optimizer: optax.GradientTransformation


def _as_it_was(state, update):
  del update
  return state


@dataclasses.dataclass(frozen=True)
class Phase:
  """A part of a round.

  Attributes:
    name: of the stage.
    losses: {player: (params, state, given) -> (scalar, (metrics, changes))},
      each differentiated by its player's networks and by nothing else; changes
      are those of `State.moved`.
    draw: (update, frozen) -> given, drawn anew for each update.
    times: updates of a round.
    before: (state, update) -> state, before the losses of each update.
    after: (state, update) -> state, after the players have learned.
  """

  name: str
  losses: Mapping[str, Callable]
  draw: Callable[[jax.Array, Any], Any]
  times: int = 1
  before: Callable[[State, jax.Array], State] = _as_it_was
  after: Callable[[State, jax.Array], State] = _as_it_was


@dataclasses.dataclass(frozen=True)
class Rules:
  """Who plays, and how a round goes.

  Attributes:
    players: {name: Player}; a network belongs to one of them.
    phases: in their order.
    total: metrics whose sum is the metric "loss".
  """

  players: Mapping[str, Player]
  phases: Sequence[Phase]
  total: Sequence[str]

  def init(
    self, params, *, batch_stats=None, vectors=None, ema=None, memory=None
  ):
    """Returns the state of round 0; see `State`."""
    return State(
      step=jnp.zeros((), jnp.int32),
      params=params,
      opt_state={
        name: player.optimizer.init(self._own(player, params))
        for name, player in self.players.items()
      },
      batch_stats=batch_stats or {},
      vectors=vectors or {},
      ema=ema or {},
      memory=memory or {},
    )

  def round(self, state, frozen):
    """Plays a round; returns (state, the round's metrics).

    Of a phase that is played several times, the last time is measured.
    """
    measured = {}
    for phase in self.phases:
      with jax.named_scope(phase.name):
        for turn in range(phase.times):
          update = state.step * phase.times + turn
          state, values = self.update(phase, state, frozen, update)
      measured |= values
    loss = sum(measured[name] for name in self.total)
    collected = metrics.collection(state.step + 1, loss=loss, **measured)
    return state.replace(step=state.step + 1), collected

  def update(self, phase: Phase, state: State, frozen, update):
    """Plays a phase once; returns (state, metrics)."""
    given = phase.draw(update, frozen)
    state = phase.before(state, update)
    grads, measured, changes = self.gradients(phase, state, given)
    params, opt_state = {}, {}
    for name, gradient in grads.items():
      player = self.players[name]
      own = self._own(player, state.params)
      moves, opt_state[name] = player.optimizer.update(
        gradient, state.opt_state[name], own
      )
      params |= optax.apply_updates(own, moves)
    state = state.moved(params=params, opt_state=opt_state, **changes)
    return phase.after(state, update), measured

  def gradients(self, phase: Phase, state: State, given):
    """Returns ({player: gradient of its networks}, metrics, changes)."""
    grads, measured, changes = {}, {}, {}
    for name, loss in phase.losses.items():

      def of_own(own, loss=loss):
        return loss(state.params | own, state, given)

      own = self._own(self.players[name], state.params)
      grads[name], (values, moved) = jax.grad(of_own, has_aux=True)(own)
      measured |= values
      for kind, new in moved.items():
        changes[kind] = changes.get(kind, {}) | new
    return grads, measured, changes

  def _own(self, player, params):
    return {name: params[name] for name in player.networks}
