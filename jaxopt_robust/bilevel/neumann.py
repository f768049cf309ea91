"""An unbiased estimate of a Neumann series from one of its terms."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxopt_robust import _arguments, _checks
from jaxopt_robust.typing import Array, ArrayLike, PyTree

__all__ = ["solve_random_neumann"]


def solve_random_neumann(
  matvec: Callable[[PyTree], PyTree],
  b: PyTree,
  *,
  key: Array,
  num_terms: int,
  stepsize: ArrayLike,
) -> PyTree:
  r"""One random term of a Neumann series, with its mean equal to the sum of all of them.

  Draws p uniform on {0, ..., K-1} and returns K s (I - s A)^p b, whose mean over p is
  s sum_{k < K} (I - s A)^k b.

  Args:
    matvec: linear function ``v -> A v`` on pytrees like ``b``; may draw a new batch each time it is
      called.
    b: pytree of float arrays.
    key: typed PRNG key.
    num_terms: K >= 1, static.
    stepsize: s > 0, at most 2 over the largest eigenvalue of A; may be traced.

  Returns:
    pytree like ``b``.

  Raises:
    TypeError: when ``matvec`` is not a function, or ``key`` no typed key.
    ValueError: when ``num_terms`` is below 1 or ``stepsize`` not positive.

  Note:
    p products instead of K - 1; its variance grows with K. Bind the settings by
    ``functools.partial`` to hand it to ``hypergradient``.

  Example:
    >>> solve_random_neumann(lambda v: v, jnp.ones(2), key=jax.random.key(0), num_terms=1,
    ...                      stepsize=0.5)
    Array([0.5, 0.5], dtype=float32)

  Reference:
    Ghadimi and Wang, Approximation methods for bilevel programming, 2018 (Hessian inverse
    approximation); Hong, Wai, Wang and Yang, A two-timescale stochastic algorithm framework for
    bilevel optimization, 2023.
  """
  _arguments.check_callable("matvec", matvec)
  b = _checks.check_float_tree("b", b)
  _checks.check_key("key", key)
  num_terms = _checks.check_int("num_terms", num_terms, minimum=1)
  _checks.check_positive("stepsize", stepsize, scalar=True)
  power = jax.random.randint(key, (), 0, num_terms)
  s = jnp.asarray(stepsize)
  shrink = lambda v: jax.tree.map(lambda a, h: a - s.astype(a.dtype) * h, v, matvec(v))
  out = jax.lax.fori_loop(0, power, lambda _, v: shrink(v), b)
  return jax.tree.map(lambda a: (num_terms * s).astype(a.dtype) * a, out)
