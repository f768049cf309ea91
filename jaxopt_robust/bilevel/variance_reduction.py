"""Directions with less noise: memories of batches, recursive momentum, moving averages."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxopt_robust import _checks
from jaxopt_robust.bilevel.directions import (
  BilevelBatch,
  BilevelVariables,
  StochasticMethod,
  check_parts,
  total,
)
from jaxopt_robust.numerics import tree_where
from jaxopt_robust.typing import Array, ArrayLike, PyTree

__all__ = ["moving_average", "saga", "spider", "storm"]


def _check_method(method: Any) -> StochasticMethod:
  if not isinstance(method, StochasticMethod):
    raise TypeError(
      f"method must be a StochasticMethod, such as soba_directions(inner, outer); got "
      f"{_checks.describe(method)}."
    )
  return method


def _check_no_memory(method: StochasticMethod, *at: Any) -> None:
  """Only ``method.parts`` are used: what needs a memory would be lost."""
  if jax.tree.leaves(jax.eval_shape(method.init, *at)):
    raise ValueError(
      "method must have no memory, such as soba_directions, neumann_directions, bome_directions or "
      "f2sa_directions with power=0; got one whose init(variables, batch) returns arrays."
    )


class _Table(NamedTuple):
  """Directions of every batch when it was last seen, and their weighted sum."""

  rows: PyTree
  mean: PyTree


class _Recursion(NamedTuple):
  """The variables of the last step, the estimate there, steps done."""

  variables: BilevelVariables
  estimate: BilevelVariables
  steps: Array


def saga(method: StochasticMethod, *, num_inner: int, num_outer: int) -> StochasticMethod:
  r"""Variance reduction by a memory of all batches: SABA, from the directions of SOBA.

  For the part d_i of each direction that depends on the inner batch i (and likewise for the outer
  one),

    direction = d_i(now) - table_i + mean(table),   table_i <- d_i(now).

  Args:
    method: ``soba_directions(inner, outer)``, or another method without memory.
    num_inner: number of inner batches, of equal size; static.
    num_outer: number of outer batches; static.

  Returns:
    ``StochasticMethod`` whose batches need ``inner_index`` and ``outer_index``; a table of one
    batch needs none.

  Raises:
    TypeError: when ``method`` is no ``StochasticMethod``, or a number no static integer.
    ValueError: when a number is below 1, ``method`` has a memory, or an index is missing or, where
      it is known while tracing, out of range.

  Note:
    Under ``jit`` a batch whose index is out of range is taken as one never seen, and not kept.
    The tables start at 0. They hold every direction of every batch: for an outer variable as large
    as the data (weights of examples) that is num_inner times as much.

  Example:
    >>> inner = lambda y, x, b: 0.5 * jnp.sum((y - b) ** 2) + 0.5 * x * jnp.sum(y**2)
    >>> outer = lambda y, x, b: 0.5 * jnp.sum((y - b) ** 2)
    >>> method = saga(jr.bilevel.soba_directions(inner, outer), num_inner=2, num_outer=1)
    >>> at = BilevelVariables(jnp.array(1.0), jnp.array([1.0]), jnp.array([0.5]))
    >>> batch = BilevelBatch(jnp.ones(1), jnp.zeros(1), inner_index=1)
    >>> found, memory, _ = method.directions(at, method.init(at, batch), batch)
    >>> float(found.y[0])
    1.0

  Reference:
    Dagreou, Ablin, Vaiter and Moreau, A framework for bilevel optimization that enables stochastic
    and global variance reduction algorithms, 2022 (SABA); Defazio, Bach and Lacoste-Julien, SAGA,
    2014.
  """
  method = _check_method(method)
  counts = tuple(
    _checks.check_int(name, value, minimum=1)
    for name, value in (("num_inner", num_inner), ("num_outer", num_outer))
  )

  def init(variables: BilevelVariables, batch: BilevelBatch) -> tuple[_Table, _Table]:
    _check_no_memory(method, variables, batch)
    shapes = jax.eval_shape(method.parts, variables, batch)

    def table(part: PyTree, count: int) -> _Table:
      zeros = lambda lead: jax.tree.map(lambda s: jnp.zeros((*lead, *s.shape), s.dtype), part)
      return _Table(zeros((count,)), zeros(()))

    return table(shapes.inner, counts[0]), table(shapes.outer, counts[1])

  def reduce(
    new: PyTree, table: _Table, name: str, index: ArrayLike | None, count: int
  ) -> tuple[PyTree, _Table]:
    if index is None and count > 1:
      raise ValueError(f"batch.{name} must be the number of the batch, below {count}; got None.")
    number = 0 if index is None else index
    table = jax.tree.map(jnp.asarray, table)  # a restored state may hold NumPy's
    index = _checks.check_index(f"batch.{name}", number, shape=(), num_examples=count)
    old = jax.tree.map(lambda rows: rows.at[index].get(mode="fill", fill_value=0), table.rows)
    change = jax.tree.map(jnp.subtract, new, old)
    direction = jax.tree.map(jnp.add, change, table.mean)
    rows = jax.tree.map(lambda rows, a: rows.at[index].set(a, mode="drop"), table.rows, new)
    share = lambda m, c: jnp.where(index < count, m + c / count, m)
    return direction, _Table(rows, jax.tree.map(share, table.mean, change))

  def directions(variables: BilevelVariables, memory: tuple, batch: BilevelBatch) -> tuple:
    found = method.parts(variables, batch)
    inner, first = reduce(found.inner, memory[0], "inner_index", batch.inner_index, counts[0])
    outer, second = reduce(found.outer, memory[1], "outer_index", batch.outer_index, counts[1])
    return jax.tree.map(jnp.add, inner, outer), (first, second), found.value

  return StochasticMethod(init, method.parts, directions)


def _recursive(
  method: StochasticMethod, keep: Any, parts: tuple[str, ...] = BilevelVariables._fields
) -> StochasticMethod:
  """d_k = new_k + keep(k) (d_{k-1} - old), both new and old on the batch of step k.

  The directions that ``parts`` does not name are new_k.
  """

  def init(variables: BilevelVariables, batch: BilevelBatch) -> _Recursion:
    _check_no_memory(method, variables, batch)
    zeros = jax.tree.map(jnp.zeros_like, variables)
    return _Recursion(variables, zeros, jnp.zeros((), jnp.int32))

  def directions(variables: BilevelVariables, memory: _Recursion, batch: BilevelBatch) -> tuple:
    found = method.parts(variables, batch)
    new = total(found)
    old = total(method.parts(memory.variables, batch))
    share = jnp.where(memory.steps == 0, 0, keep(memory.steps))

    def mix(n: Array, d: Array, o: Array) -> Array:
      return n + share.astype(n.dtype) * (d - o)

    mixed = jax.tree.map(mix, new, memory.estimate, old)
    estimate = new._replace(**{part: getattr(mixed, part) for part in parts})
    return estimate, _Recursion(variables, estimate, memory.steps + 1), found.value

  return StochasticMethod(init, method.parts, directions)


def storm(
  method: StochasticMethod,
  *,
  rate: ArrayLike = 0.5,
  parts: tuple[str, ...] = BilevelVariables._fields,
) -> StochasticMethod:
  r"""Recursive momentum (STORM) on the directions, all three or some.

    d_k = D(z_k; batch_k) + (1 - rate) (d_{k-1} - D(z_{k-1}; batch_k)),

  D the directions of ``method``, both evaluated on the batch of step k.

  Args:
    method: ``StochasticMethod`` without memory. With ``neumann_directions`` it is MRBO and
      SUSTAIN, with ``soba_directions`` and difference products FdeHBO.
    rate: in [0, 1]; 1 is no momentum. May be traced.
    parts: static, which directions have momentum, of "x", "y" and "v"; the others are those of
      the batch. ``("x",)`` on ``soba_directions`` is FSLA.

  Returns:
    ``StochasticMethod``.

  Raises:
    TypeError: when ``method`` is no ``StochasticMethod``.
    ValueError: when ``rate`` is out of its range, ``parts`` names something else, or ``method`` has
      a memory.

  Example:
    >>> inner = lambda y, x, b: 0.5 * jnp.sum((y - b) ** 2) + 0.5 * x * jnp.sum(y**2)
    >>> method = storm(jr.bilevel.soba_directions(inner, inner))
    >>> at = BilevelVariables(jnp.array(1.0), jnp.array([1.0]), jnp.array([0.5]))
    >>> batch = BilevelBatch(jnp.ones(1), jnp.ones(1))
    >>> float(method.directions(at, method.init(at, batch), batch)[0].y[0])
    1.0

  Reference:
    Cutkosky and Orabona, Momentum-based variance reduction in non-convex SGD, 2019; Yang, Ji and
    Liang, Provably faster algorithms for bilevel optimization, 2021 (MRBO); Khanduri, Zeng, Hong,
    Wai, Wang and Yang, A near-optimal algorithm for stochastic bilevel optimization via
    double-momentum, 2021 (SUSTAIN); Li, Gu and Huang, A fully single loop algorithm for bilevel
    optimization without Hessian inverse, 2022 (FSLA; their x moves after y and v, ours with them).
  """
  _checks.check_interval("rate", rate, 0.0, 1.0, scalar=True)
  names = check_parts("parts", parts)
  return _recursive(_check_method(method), lambda count: 1 - jnp.asarray(rate), names)


def spider(method: StochasticMethod, *, period: int) -> StochasticMethod:
  r"""Recursive gradients (SPIDER, SARAH) with a fresh start every ``period`` steps.

    d_k = D(z_k; batch_k)                                      at steps 0, period, 2 period, ...
    d_k = d_{k-1} + D(z_k; batch_k) - D(z_{k-1}; batch_k)      at the others.

  Give full batches at the fresh starts.

  Args:
    method: ``StochasticMethod`` without memory. With ``soba_directions`` it is SRBA, with
      ``neumann_directions`` VRBO.
    period: >= 1, static.

  Returns:
    ``StochasticMethod``.

  Raises:
    TypeError: when ``method`` is no ``StochasticMethod``, or ``period`` no static integer.
    ValueError: when ``period`` is below 1, or ``method`` has a memory.

  Note:
    With ``inner_steps`` = T of ``stochastic_bilevel`` every move counts, T an outer step.

  Example:
    >>> inner = lambda y, x, b: 0.5 * jnp.sum((y - b) ** 2) + 0.5 * x * jnp.sum(y**2)
    >>> method = spider(jr.bilevel.soba_directions(inner, inner), period=10)
    >>> at = BilevelVariables(jnp.array(1.0), jnp.array([1.0]), jnp.array([0.5]))
    >>> batch = BilevelBatch(jnp.ones(1), jnp.ones(1))
    >>> float(method.directions(at, method.init(at, batch), batch)[0].y[0])
    1.0

  Reference:
    Fang, Li, Lin and Zhang, SPIDER: near-optimal non-convex optimization via stochastic
    path-integrated differential estimator, 2018; Dagreou, Moreau, Vaiter and Ablin, A lower bound
    and a near-optimal algorithm for bilevel empirical risk minimization, 2024 (SRBA); Yang, Ji and
    Liang, Provably faster algorithms for bilevel optimization, 2021 (VRBO).
  """
  period = _checks.check_int("period", period, minimum=1)
  return _recursive(_check_method(method), lambda count: jnp.where(count % period == 0, 0.0, 1.0))


def moving_average(method: StochasticMethod, *, rate: ArrayLike = 0.1) -> StochasticMethod:
  r"""A moving average of the outer direction, applied before it is renewed: MA-SOBA.

    d_x = h,   h <- (1 - rate) h + rate D_x(z; batch).

  Args:
    method: ``StochasticMethod``, such as ``soba_directions(inner, outer)``.
    rate: in (0, 1]; may be traced.

  Returns:
    ``StochasticMethod``. The average starts at the first direction.

  Raises:
    TypeError: when ``method`` is no ``StochasticMethod``.
    ValueError: when ``rate`` is out of its range.

  Example:
    >>> inner = lambda y, x, b: 0.5 * jnp.sum((y - b) ** 2) + 0.5 * x * jnp.sum(y**2)
    >>> method = moving_average(jr.bilevel.soba_directions(inner, inner))
    >>> at = BilevelVariables(jnp.array(1.0), jnp.array([1.0]), jnp.array([0.5]))
    >>> batch = BilevelBatch(jnp.ones(1), jnp.ones(1))
    >>> float(method.directions(at, method.init(at, batch), batch)[0].x)
    0.0

  Reference:
    Chen, Xiao and Balasubramanian, Optimal algorithms for stochastic bilevel optimization under
    relaxed smoothness conditions, 2024 (MA-SOBA). Their average starts at 0.
  """
  method = _check_method(method)
  _checks.check_interval("rate", rate, 0.0, 1.0, closed="right", scalar=True)

  def init(variables: BilevelVariables, batch: BilevelBatch) -> tuple:
    zeros = jax.tree.map(jnp.zeros_like, variables.x)
    return method.init(variables, batch), zeros, jnp.zeros((), jnp.bool_)

  def directions(variables: BilevelVariables, memory: tuple, batch: BilevelBatch) -> tuple:
    inside, average, begun = memory
    found, inside, value = method.directions(variables, inside, batch)
    average = tree_where(begun, average, found.x)
    share = jnp.asarray(rate)
    renewed = jax.tree.map(lambda h, d: h + share.astype(h.dtype) * (d - h), average, found.x)
    return found._replace(x=average), (inside, renewed, jnp.ones((), jnp.bool_)), value

  return StochasticMethod(init, method.parts, directions)
