"""Directions of single-loop stochastic bilevel methods, from one batch of each objective."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxopt_robust import _arguments, _checks
from jaxopt_robust._units import tree_norm
from jaxopt_robust.bilevel.neumann import solve_random_neumann
from jaxopt_robust.bilevel.products import (
  SecondOrderProducts,
  product_at,
  scalar_of,
  second_order_products,
)
from jaxopt_robust.solvers import solve_neumann
from jaxopt_robust.typing import Array, ArrayLike, PyTree

__all__ = [
  "BilevelBatch",
  "BilevelVariables",
  "Directions",
  "StochasticMethod",
  "neumann_directions",
  "soba_directions",
]


class BilevelVariables(NamedTuple):
  """What a stochastic bilevel method iterates, or the directions along which it descends.

  Attributes:
    x: the outer variable.
    y: the inner variable.
    v: the adjoint variable, like y: near H^{-1} grad_y f.
  """

  x: PyTree
  y: PyTree
  v: PyTree


class BilevelBatch(NamedTuple):
  """A batch of each objective.

  Attributes:
    inner: what ``inner(y, x, batch)`` takes.
    outer: what ``outer(y, x, batch)`` takes.
    inner_index: int32 scalar, number of the inner batch, for methods with a memory of batches; None
      for others.
    outer_index: int32 scalar, number of the outer batch, likewise.
    key: typed PRNG key, for methods that draw; None for others.
  """

  inner: PyTree
  outer: PyTree
  inner_index: ArrayLike | None = None
  outer_index: ArrayLike | None = None
  key: Array | None = None


class Directions(NamedTuple):
  """Directions by the batch that they depend on, before they are summed.

  Attributes:
    inner: pytree, from the inner batch: ``BilevelVariables`` of grad_y g, H v and -B^T v.
    outer: pytree, from the outer batch: ``BilevelVariables`` of 0, -grad_y f and grad_x f.
    value: f on the outer batch.
  """

  inner: BilevelVariables
  outer: BilevelVariables
  value: Array


class StochasticMethod(NamedTuple):
  """Directions of a stochastic bilevel method and the memory that they need.

  Attributes:
    init: ``init(variables, batch) -> memory``.
    parts: ``parts(variables, batch) -> Directions``, without memory: what variance reduction
      builds upon.
    directions: ``directions(variables, memory, batch) -> (BilevelVariables, memory, value)``, what
      is descended along.
  """

  init: Callable[..., Any]
  parts: Callable[..., Directions]
  directions: Callable[..., tuple[BilevelVariables, Any, Array]]


def total(found: Directions) -> BilevelVariables:
  """The sum of both parts."""
  return jax.tree.map(jnp.add, found.inner, found.outer)


def _no_memory(variables: BilevelVariables, batch: BilevelBatch) -> tuple:
  del variables, batch
  return ()


def method_of(parts: Callable[..., Directions]) -> StochasticMethod:
  """A method without memory."""

  def directions(variables: BilevelVariables, memory: tuple, batch: BilevelBatch) -> tuple:
    found = parts(variables, batch)
    return total(found), memory, found.value

  return StochasticMethod(_no_memory, parts, directions)


def check_batch(batch: Any) -> BilevelBatch:
  """A ``BilevelBatch``."""
  if not isinstance(batch, BilevelBatch):
    raise TypeError(f"batch must be a BilevelBatch; got {_checks.describe(batch)}.")
  return batch


def check_parts(
  name: str, value: Any, allowed: tuple[str, ...] = BilevelVariables._fields
) -> tuple[str, ...]:
  """Names of variables; a single name may stand alone."""
  parts = tuple(value) if isinstance(value, tuple | list) else (value,)
  for part in parts:
    _arguments.check_option(name, part, allowed)
  return parts


def _zeros(tree: PyTree) -> PyTree:
  return jax.tree.map(jnp.zeros_like, tree)


def soba_directions(
  inner: Callable[..., Any],
  outer: Callable[..., Any],
  *,
  products: Callable[..., SecondOrderProducts] = second_order_products,
  max_adjoint: ArrayLike | None = None,
) -> StochasticMethod:
  r"""Directions of SOBA: all three variables move at once, each along its own stochastic gradient.

    d_y = grad_y g,   d_v = H v - grad_y f,   d_x = grad_x f - B^T v,

  all at the old variables; they vanish together at (y*(x), H^{-1} grad_y f, stationary x).

  Args:
    inner: ``inner(y, x, batch) -> scalar``, g on a batch, twice differentiable.
    outer: ``outer(y, x, batch) -> scalar``, f on a batch.
    products: ``second_order_products`` or ``finite_difference_products``.
    max_adjoint: > 0, radius of the ball on which v is projected before it is used; None: no ball.
      v itself is not projected: where H^{-1} grad_y f lies outside it moves away step by step, so
      choose a radius that no solution reaches, or end the optimizer of v with a projection. May be
      traced.

  Returns:
    ``StochasticMethod`` for ``stochastic_bilevel``, or for ``saga``, ``storm``, ``spider``,
    ``moving_average``.

  Raises:
    TypeError: when an objective is not a function.
    ValueError: when ``max_adjoint`` is not positive, or an objective is no scalar.

  Example:
    >>> inner = lambda y, x, b: 0.5 * jnp.sum((y - b) ** 2) + 0.5 * x * jnp.sum(y**2)
    >>> outer = lambda y, x, b: 0.5 * jnp.sum((y - b) ** 2)
    >>> method = soba_directions(inner, outer)
    >>> at = BilevelVariables(jnp.array(1.0), jnp.array([1.0]), jnp.array([0.5]))
    >>> found, _, value = method.directions(at, (), BilevelBatch(jnp.ones(1), jnp.zeros(1)))
    >>> float(found.y[0]), float(found.v[0]), float(found.x)
    (1.0, 0.0, -0.5)

  Reference:
    Dagreou, Ablin, Vaiter and Moreau, A framework for bilevel optimization that enables stochastic
    and global variance reduction algorithms, 2022 (their v is the negative of ours).
  """
  inner_of, outer_of = scalar_of("inner", inner), scalar_of("outer", outer)
  _arguments.check_callable("products", products)
  if max_adjoint is not None:
    _checks.check_positive("max_adjoint", max_adjoint, scalar=True)

  def parts(variables: BilevelVariables, batch: BilevelBatch) -> Directions:
    x, y, v = variables
    batch = check_batch(batch)
    if max_adjoint is not None:
      size = tree_norm(v)
      factor = jnp.minimum(1, jnp.asarray(max_adjoint, size.dtype) / jnp.where(size > 0, size, 1))
      v = jax.tree.map(lambda a: factor.astype(a.dtype) * a, v)
    slope = jax.grad(inner_of)(y, x, batch.inner)
    found = products(inner, y, x, v, batch.inner)
    value, (outer_y, outer_x) = jax.value_and_grad(outer_of, argnums=(0, 1))(y, x, batch.outer)
    negative = lambda tree: jax.tree.map(jnp.negative, tree)
    return Directions(
      BilevelVariables(negative(found.cross), slope, found.hessian),
      BilevelVariables(outer_x, _zeros(y), negative(outer_y)),
      value,
    )

  return method_of(parts)


def neumann_directions(
  inner: Callable[..., Any],
  outer: Callable[..., Any],
  *,
  num_terms: int,
  stepsize: ArrayLike,
  random: bool = False,
  products: Callable[..., SecondOrderProducts] = second_order_products,
) -> StochasticMethod:
  r"""Directions of methods that compute the adjoint anew from the batch by a Neumann series.

    v^ = s sum_{k=0}^{K} (I - s H)^k grad_y f, or one random term of it (``random``),
    d_y = grad_y g,   d_v = v - v^,   d_x = grad_x f - B^T v^.

  With many inner steps a step of the outer variable it is stocBiO, with one and ``random`` TTSA,
  with ``storm`` MRBO and SUSTAIN.

  Args:
    inner: ``inner(y, x, batch) -> scalar``, g on a batch, twice differentiable.
    outer: ``outer(y, x, batch) -> scalar``, f on a batch.
    num_terms: K >= 0, static; with ``random`` K >= 1 terms to draw from.
    stepsize: s > 0, at most 2 over the largest eigenvalue of H; may be traced.
    random: static; the batches then need a ``key``.
    products: ``second_order_products`` or ``finite_difference_products``.

  Returns:
    ``StochasticMethod``. An optimizer of v with rate 1, ``optax.sgd(1.0)``, keeps the last v^.

  Raises:
    TypeError: when an objective is not a function, or ``num_terms`` no static integer.
    ValueError: when ``stepsize`` is not positive, or a random method gets no key.

  Example:
    >>> inner = lambda y, x, b: 0.5 * jnp.sum((y - b) ** 2) + 0.5 * x * jnp.sum(y**2)
    >>> outer = lambda y, x, b: 0.5 * jnp.sum((y - b) ** 2)
    >>> method = neumann_directions(inner, outer, num_terms=20, stepsize=0.4)
    >>> at = BilevelVariables(jnp.array(1.0), jnp.array([1.0]), jnp.zeros(1))
    >>> found, _, _ = method.directions(at, (), BilevelBatch(jnp.ones(1), jnp.zeros(1)))
    >>> float(found.v[0].round(3)), float(found.x.round(3))
    (-0.5, -0.5)

  Reference:
    Ji, Yang and Liang, Bilevel optimization: convergence analysis and enhanced design, 2021
    (stocBiO); Hong, Wai, Wang and Yang, A two-timescale stochastic algorithm framework for bilevel
    optimization, 2023 (TTSA).
  """
  inner_of, outer_of = scalar_of("inner", inner), scalar_of("outer", outer)
  _arguments.check_callable("products", products)
  num_terms = _checks.check_int("num_terms", num_terms, minimum=1 if random else 0)
  _checks.check_positive("stepsize", stepsize, scalar=True)

  def parts(variables: BilevelVariables, batch: BilevelBatch) -> Directions:
    x, y, v = variables
    batch = check_batch(batch)
    slope = jax.grad(inner_of)(y, x, batch.inner)
    value, (outer_y, outer_x) = jax.value_and_grad(outer_of, argnums=(0, 1))(y, x, batch.outer)
    product = product_at(products, inner, y, x, batch.inner)
    matvec = lambda w: product(w).hessian
    if random:
      if batch.key is None:
        raise ValueError("batch.key must be a typed key for random terms; got None.")
      adjoint = solve_random_neumann(
        matvec, outer_y, key=batch.key, num_terms=num_terms, stepsize=stepsize
      )
    else:
      adjoint = solve_neumann(matvec, outer_y, num_terms=num_terms, stepsize=stepsize)
    cross = product(adjoint).cross
    return Directions(
      BilevelVariables(
        jax.tree.map(jnp.negative, cross), slope, jax.tree.map(jnp.subtract, v, adjoint)
      ),
      BilevelVariables(outer_x, _zeros(y), _zeros(v)),
      value,
    )

  return method_of(parts)
