"""Stochastic bilevel methods as solvers: directions, each handed to an optax optimizer."""

from collections.abc import Callable
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import optax

from jaxopt_robust import _arguments, _checks
from jaxopt_robust._units import tree_norm
from jaxopt_robust.bilevel.directions import (
  BilevelBatch,
  BilevelVariables,
  StochasticMethod,
  check_batch,
  check_parts,
)
from jaxopt_robust.solvers import Solver
from jaxopt_robust.typing import Array, PyTree

__all__ = ["StochasticInfo", "StochasticState", "stochastic_bilevel"]

Optimizers = BilevelVariables  # of three optax transformations


class StochasticState(NamedTuple):
  """State of a stochastic bilevel method.

  Attributes:
    params: ``BilevelVariables``.
    memory: of the method's directions.
    optimizers: ``BilevelVariables`` of three optax states.
    count: int32, outer steps done.
  """

  params: BilevelVariables
  memory: Any
  optimizers: BilevelVariables
  count: Array  # type: ignore[assignment]


class StochasticInfo(NamedTuple):
  """What a step saw.

  Attributes:
    error: norm of the stochastic outer direction: noise, no residual.
    value: f on the outer batch, before the step.
  """

  error: Array
  value: Array


def _check_optimizers(value: Any) -> Optimizers:
  if not isinstance(value, BilevelVariables):
    raise TypeError(
      "optimizers must be BilevelVariables of three optax optimizers, or a function of hyper that "
      f"returns them; got {_checks.describe(value)}."
    )
  for name, part in value._asdict().items():
    _arguments.check_optimizer(f"optimizers.{name}", part)
  return value


def stochastic_bilevel(
  method: StochasticMethod,
  optimizers: BilevelVariables | Callable[[PyTree], BilevelVariables],
  *,
  inner_steps: int = 1,
  inner_moves: tuple[str, ...] = ("y", "v"),
) -> Solver:
  r"""A stochastic bilevel method from its directions and three optax optimizers.

  A step of a batch: the directions (d_x, d_y, d_v) at the old variables; each optimizer makes an
  update of its direction; all three variables move. With ``inner_steps`` = T > 1, y and v move T
  times, each time on a batch of its own, and x with the last of them.

    soba_directions                      SOBA; with T > 1 AmIGO
    saga(soba_directions)                SABA
    moving_average(soba_directions)      MA-SOBA
    spider(soba_directions)              SRBA
    storm(soba_directions, parts=("x",))                                FSLA
    storm(soba_directions, products=finite differences, max_adjoint)    FdeHBO
    neumann_directions                   stocBiO (T = 10, y alone); random terms and T = 1: TTSA
    storm(neumann_directions)            MRBO; random terms: SUSTAIN
    spider(neumann_directions)           VRBO

  Args:
    method: ``StochasticMethod``.
    optimizers: ``BilevelVariables`` of the optax optimizers of x, y and v, or a function from
      ``hyper`` to them, such as ``lambda rates: BilevelVariables(*map(optax.sgd, rates))``: then
      ``hyper`` can be swept.
    inner_steps: T >= 1, static. With T > 1 every array of a batch has a leading axis of T.
    inner_moves: static, which of "y" and "v" move in the first T - 1 of them; what does not move is
      not computed.

  Returns:
    ``Solver`` with states ``StochasticState`` and infos ``StochasticInfo``; its params are
    ``BilevelVariables``, its data one ``BilevelBatch``. Batches change from step to step: scan its
    step over them, ``jax.lax.scan(lambda s, batch: solver.step(s, hyper, batch), state, batches)``.

  Raises:
    TypeError: when ``method`` or ``optimizers`` are of another kind.
    ValueError: when ``inner_steps`` is below 1, ``inner_moves`` names anything else, or a batch
      lacks the leading axis of T.

  Note:
    Rates that converge: SOBA's fall like k^{-2/5} for y and v and k^{-3/5} for x, or are constant
    for a fixed number of steps; SABA's are constant. An optimizer of x with a projection as its
    last link keeps x in a set.

  Example:
    >>> inner = lambda y, x, b: 0.5 * jnp.mean((y - b) ** 2) + 0.5 * x * jnp.sum(y**2)
    >>> outer = lambda y, x, b: 0.5 * jnp.mean((y - 0.8 * b) ** 2)
    >>> solver = stochastic_bilevel(
    ...   jr.bilevel.soba_directions(inner, outer),
    ...   BilevelVariables(x=optax.sgd(0.5), y=optax.sgd(0.3), v=optax.sgd(0.3)))
    >>> batch = BilevelBatch(jnp.ones(4), jnp.ones(4))
    >>> start = BilevelVariables(jnp.array(1.0), jnp.zeros(()), jnp.zeros(()))
    >>> state, _ = jax.lax.scan(lambda s, _: solver.step(s, None, batch),
    ...                         solver.init(start, None, batch), None, length=300)
    >>> float(state.params.x.round(2))  # 1 / (1 + x) = 0.8
    0.25

  Reference:
    Dagreou, Ablin, Vaiter and Moreau, A framework for bilevel optimization that enables stochastic
    and global variance reduction algorithms, 2022; inner steps: Arbel and Mairal, Amortized
    implicit differentiation for stochastic bilevel optimization, 2022.
  """
  if not isinstance(method, StochasticMethod):
    raise TypeError(
      "method must be a StochasticMethod, such as soba_directions(inner, outer); got "
      f"{_checks.describe(method)}."
    )
  made = optimizers if callable(optimizers) else None
  fixed = _check_optimizers(optimizers) if made is None else None
  inner_steps = _checks.check_int("inner_steps", inner_steps, minimum=1)

  moves = check_parts("inner_moves", inner_moves, ("y", "v"))

  def chains(hyper: PyTree) -> Optimizers:
    return _check_optimizers(made(hyper)) if made is not None else cast(Optimizers, fixed)

  def batch_of(batch: Any) -> BilevelBatch:
    batch = check_batch(batch)
    for name, part in batch._asdict().items() if inner_steps > 1 else ():
      for leaf in jax.tree.leaves(part):
        if jnp.shape(leaf)[:1] != (inner_steps,):
          raise ValueError(
            f"batch.{name} must have a leading axis of inner_steps, {inner_steps}; got shape "
            f"{jnp.shape(leaf)}."
          )
    return batch

  def first_of(batch: BilevelBatch) -> BilevelBatch:
    return batch if inner_steps == 1 else jax.tree.map(lambda leaf: leaf[0], batch)

  def init(params: BilevelVariables, hyper: PyTree, batch: BilevelBatch) -> StochasticState:
    if not isinstance(params, BilevelVariables):
      raise TypeError(f"params must be BilevelVariables; got {_checks.describe(params)}.")
    params = BilevelVariables(
      *(_checks.check_float_tree(f"params.{k}", part) for k, part in params._asdict().items())
    )
    _checks.check_same_structure("params.v", params.v, "params.y", params.y)
    memory = method.init(params, first_of(batch_of(batch)))
    states = BilevelVariables(
      *(chain.init(part) for chain, part in zip(chains(hyper), params, strict=True))
    )
    return StochasticState(params, memory, states, jnp.zeros((), jnp.int32))

  def move(state: StochasticState, hyper: PyTree, batch: BilevelBatch, names: tuple) -> tuple:
    found, memory, value = method.directions(state.params, state.memory, batch)
    parts, states = [], []
    for name, chain in chains(hyper)._asdict().items():
      part, own = getattr(state.params, name), getattr(state.optimizers, name)
      if name in names:
        updates, own = chain.update(getattr(found, name), own, part)
        part = optax.apply_updates(part, updates)
      parts.append(part)
      states.append(own)
    new = state._replace(
      params=BilevelVariables(*parts), memory=memory, optimizers=BilevelVariables(*states)
    )
    return new, StochasticInfo(tree_norm(found.x), value)

  def step(
    state: StochasticState, hyper: PyTree, batch: BilevelBatch
  ) -> tuple[StochasticState, StochasticInfo]:
    batch = batch_of(batch)
    last = batch
    if inner_steps > 1:
      rest = jax.tree.map(lambda leaf: leaf[:-1], batch)
      last = jax.tree.map(lambda leaf: leaf[-1], batch)
      state, _ = jax.lax.scan(lambda s, b: move(s, hyper, b, moves), state, rest)
    state, info = move(state, hyper, last, ("x", "y", "v"))
    return state._replace(count=state.count + 1), info

  return Solver(init, step)
