"""The norm of a linear operator, for step sizes."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from jaxopt_robust import _arguments, _checks
from jaxopt_robust.numerics import safe_divide
from jaxopt_robust.solvers._common import norm, scalar_dtype, scale, transpose_of
from jaxopt_robust.typing import Array, ArrayLike, PyTree

__all__ = ["operator_norm"]


def operator_norm(
  op: Callable[..., PyTree],
  example: PyTree,
  *data: PyTree,
  key: Array,
  num_steps: int = 100,
  margin: ArrayLike = 1.01,
) -> Array:
  r"""Spectral norm of a linear operator by power iteration, with a margin for step sizes.

  Computes margin * ||K v_k||_2 with v_{k+1} = K^T K v_k / ||K^T K v_k||, from a random v_0.

  Args:
    op: ``op(x, *data) -> K x``, linear, on pytrees; its adjoint comes from
      ``jax.linear_transpose``.
    example: an x, for its structure, shapes and dtypes.
    *data: what else ``op`` takes.
    key: typed PRNG key of the start.
    num_steps: >= 1, static.
    margin: >= 1: power iteration approaches the norm from below, and a step size needs an upper
      bound.

  Returns:
    float scalar; 0 for the zero operator.

  Raises:
    TypeError: when ``op`` is not a function, or not linear.
    ValueError: when ``num_steps`` or ``margin`` is below 1.

  Note:
    The square is the Lipschitz constant of the gradient of 1/2 ||K x - b||^2.

  Example:
    >>> norm = operator_norm(jnp.diff, jnp.zeros(64), key=jax.random.key(0), margin=1.0)
    >>> 1.9 < float(norm) <= 2.0
    True

  Reference:
    Golub and Van Loan, Matrix Computations, 2013, section 8.2.1.
  """
  _arguments.check_callable("op", op)
  example = _checks.check_float_tree("example", example)
  _checks.check_key("key", key)
  num_steps = _checks.check_int("num_steps", num_steps, minimum=1)
  _checks.check_interval("margin", margin, 1.0, float("inf"), closed="left")
  adjoint = transpose_of(op, example, data)
  start = optax.tree.random_like(key, example)

  def normalise(v: PyTree) -> PyTree:
    v = _in_units(v, norm(v))
    return _in_units(v, optax.tree.norm(v))  # this one has derivatives

  def improve(v: PyTree, _: None) -> tuple[PyTree, None]:
    # Normalised twice: K^T K v has the square of the norm's scale, which may not exist in floats.
    return normalise(adjoint(normalise(op(v, *data)))), None

  v, _ = jax.lax.scan(improve, normalise(start), None, length=num_steps)
  image = op(v, *data)
  unit = norm(image)
  size = unit * optax.tree.norm(_in_units(image, unit))
  return jnp.asarray(margin, scalar_dtype(example)) * size


def _in_units(v: PyTree, size: Array) -> PyTree:
  return scale(safe_divide(jnp.ones_like(size), size), v)
