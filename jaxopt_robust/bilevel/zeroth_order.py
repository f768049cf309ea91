"""Hypergradients from runs of the inner solver alone, at perturbed outer variables."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxopt_robust import _arguments, _checks
from jaxopt_robust.bilevel.products import scalar_of
from jaxopt_robust.typing import Array, ArrayLike, PyTree

__all__ = ["zeroth_order_hypergradient"]


def zeroth_order_hypergradient(
  solve: Callable[..., PyTree],
  outer: Callable[..., Any],
  x: PyTree,
  *data: PyTree,
  key: Array,
  num_directions: int = 1,
  radius: ArrayLike = 0.1,
) -> tuple[PyTree, PyTree]:
  r"""Hypergradient whose response Jacobian dy/dx is estimated by Gaussian smoothing.

    grad = grad_x f(y, x) + 1/Q sum_q <(y(x + r u_q) - y(x)) / r, grad_y f(y, x)> u_q,

  u_q standard normal, y(x) what the inner solver returns. The inner solver is not differentiated:
  it may be any code that JAX can trace, or a ``jax.pure_callback`` with a ``vmap_method``. Its mean
  over the draws goes through the response smoothed by a Gaussian of width r: off by O(r^2), and by
  nothing for a response that is affine in x.

  Args:
    solve: ``solve(x, *data) -> y``, the inner solver from a start of its own: a few steps from the
      last inner variable, the same for all draws.
    outer: ``outer(y, x, *data) -> scalar``, f.
    x: pytree of float arrays, the outer variable.
    *data: what both take.
    key: typed PRNG key of the draws.
    num_directions: Q >= 1, static.
    radius: r > 0, in the units of x and well above what rounding does to x and to y; may be traced.

  Returns:
    ``(grad, y)``: a pytree like x, and y(x), where the next call may start.

  Raises:
    TypeError: when an argument is not a function, or ``key`` no typed key.
    ValueError: when ``outer`` is no scalar, ``radius`` not positive or ``num_directions`` below 1.

  Note:
    Q + 1 runs of the solver. The variance grows with the number of outer variables over Q.

  Example:
    >>> solve = lambda x: jnp.stack([2.0 * x, 3.0 * x])
    >>> outer = lambda y, x: jnp.sum(y)
    >>> grad, y = zeroth_order_hypergradient(
    ...   solve, outer, jnp.array(1.0), key=jax.random.key(0), num_directions=4000)
    >>> bool(abs(grad - 5.0) < 0.5), y
    (True, Array([2., 3.], dtype=float32))

  Reference:
    Sow, Ji and Liang, On the convergence theory for Hessian-free bilevel algorithms, 2022 (PZOBO).
  """
  _arguments.check_callable("solve", solve)
  value_of = scalar_of("outer", outer)
  x = _checks.check_float_tree("x", x)
  _checks.check_key("key", key)
  num_directions = _checks.check_int("num_directions", num_directions, minimum=1)
  _checks.check_positive("radius", radius, scalar=True)
  y = solve(x, *data)
  outer_y, outer_x = jax.grad(value_of, argnums=(0, 1))(y, x, *data)
  r = jnp.asarray(radius)

  def term(key: Array) -> PyTree:
    u = optax.tree.random_like(key, x, jax.random.normal)
    moved = solve(jax.tree.map(lambda a, d: a + r.astype(a.dtype) * d, x, u), *data)
    change = jax.tree.map(
      lambda a, b, g: jnp.sum((a - b) / r.astype(a.dtype) * g), moved, y, outer_y
    )
    slope = sum(jax.tree.leaves(change))
    return jax.tree.map(lambda d: jnp.asarray(slope).astype(d.dtype) * d, u)

  terms = jax.vmap(term)(jax.random.split(key, num_directions))
  return jax.tree.map(lambda a, t: a + jnp.mean(t, axis=0), outer_x, terms), y
