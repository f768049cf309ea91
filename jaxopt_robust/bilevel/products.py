"""Products with the second derivatives of the inner objective, exact or by differences."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxopt_robust import _arguments, _checks
from jaxopt_robust._units import tree_norm
from jaxopt_robust.transforms import perturbed_gradient
from jaxopt_robust.typing import Array, ArrayLike, PyTree

__all__ = ["SecondOrderProducts", "finite_difference_products", "second_order_products"]


class SecondOrderProducts(NamedTuple):
  """Products of the second derivatives of g(y, x) with a vector v like y.

  Attributes:
    hessian: H v with H the Hessian of g in y, like y.
    cross: B^T v with B = d(grad_y g)/dx, like x.
  """

  hessian: PyTree
  cross: PyTree


def scalar_of(name: str, fun: Callable[..., Any]) -> Callable[..., Array]:
  """A function whose result must be a real scalar; errors name it."""
  _arguments.check_callable(name, fun)

  def checked(*args: Any) -> Array:
    value = fun(*args)
    if not hasattr(value, "dtype") or jnp.shape(value) != ():
      shape = jnp.shape(value) if hasattr(value, "dtype") else type(value).__name__
      raise ValueError(f"{name}(y, x, *data) must be a scalar; got {shape}.")
    return value

  return checked


def inner_arguments(
  y: PyTree, x: PyTree, v: PyTree, name: str = "v"
) -> tuple[PyTree, PyTree, PyTree]:
  """Variables and vector as float trees, v like y."""
  y, x, v = (_checks.check_float_tree(k, tree) for k, tree in (("y", y), ("x", x), (name, v)))
  _checks.check_same_structure(name, v, "y", y)
  return y, x, v


def second_order_products(
  inner: Callable[..., Any], y: PyTree, x: PyTree, v: PyTree, *data: PyTree
) -> SecondOrderProducts:
  r"""Exact H v and B^T v by differentiating <grad_y g(y, x), v> once more.

  One reverse pass through grad_y g gives both; neither matrix is formed.

  Args:
    inner: ``inner(y, x, *data) -> scalar``, g, twice differentiable.
    y: pytree of float arrays, the inner variable.
    x: pytree of float arrays, the outer variable.
    v: pytree like ``y``.
    *data: what else ``inner`` takes.

  Returns:
    ``SecondOrderProducts``.

  Raises:
    TypeError: when ``inner`` is not a function, or a tree holds anything but numbers.
    ValueError: when ``v`` is not like ``y``, or ``inner`` is no scalar.

  Note:
    At kinks (ReLU, an unsmoothed total variation) the part of the second derivative that is a
    measure is left out.

  Example:
    >>> inner = lambda y, x: 0.5 * x * jnp.sum(y**2)
    >>> second_order_products(inner, jnp.array([1.0, 2.0]), jnp.array(3.0), jnp.array([1.0, 0.0]))
    SecondOrderProducts(hessian=Array([3., 0.], dtype=float32), cross=Array(1., dtype=float32))

  Reference:
    Pearlmutter, Fast exact multiplication by the Hessian, 1994; both products of one linearisation:
    Dagreou, Ablin, Vaiter and Moreau, A framework for bilevel optimization that enables stochastic
    and global variance reduction algorithms, 2022.
  """
  fun = scalar_of("inner", inner)
  y, x, v = inner_arguments(y, x, v)
  return _linearised(fun, y, x, *data)(v)


def _linearised(
  fun: Callable[..., Any], y: PyTree, x: PyTree, *data: PyTree
) -> Callable[[PyTree], SecondOrderProducts]:
  _, pull = jax.vjp(lambda y, x: jax.grad(fun)(y, x, *data), y, x)
  return lambda v: SecondOrderProducts(*pull(v))


def product_at(
  products: Callable[..., SecondOrderProducts],
  inner: Callable[..., Any],
  y: PyTree,
  x: PyTree,
  *data: PyTree,
) -> Callable[[PyTree], SecondOrderProducts]:
  """``v -> products(inner, y, x, v, *data)`` for many v: g is differentiated once where it can."""
  if products is second_order_products:
    return _linearised(scalar_of("inner", inner), y, x, *data)
  return lambda v: products(inner, y, x, v, *data)


def finite_difference_products(
  inner: Callable[..., Any],
  y: PyTree,
  x: PyTree,
  v: PyTree,
  *data: PyTree,
  radius: ArrayLike | None = None,
) -> SecondOrderProducts:
  r"""H v and B^T v by central differences of gradients: no second derivative is taken.

    H v   ~ (grad_y g(y + d v, x) - grad_y g(y - d v, x)) / (2 d)
    B^T v ~ (grad_x g(y + d v, x) - grad_x g(y - d v, x)) / (2 d)

  The error falls with d^2 and is 0 for quadratics, up to rounding.

  Args:
    inner: ``inner(y, x, *data) -> scalar``, g.
    y: pytree of float arrays, the inner variable.
    x: pytree of float arrays, the outer variable.
    v: pytree like ``y``.
    *data: what else ``inner`` takes.
    radius: d ||v|| > 0, how far y is moved; may be traced. None: the cube root of machine epsilon
      (6e-6 in float64, 5e-3 in float32) times the larger of 1 and ||y||, which balances both errors
      for functions of size 1; for y far smaller than 1 give one in the units of y.

  Returns:
    ``SecondOrderProducts``; zeros for v = 0.

  Raises:
    TypeError: when ``inner`` is not a function, or a tree holds anything but numbers.
    ValueError: when ``v`` is not like ``y``, ``inner`` is no scalar, or ``radius`` not positive.

  Example:
    >>> inner = lambda y, x: 0.5 * x * jnp.sum(y**2)
    >>> found = finite_difference_products(
    ...   inner, jnp.array([1.0, 2.0]), jnp.array(3.0), jnp.array([1.0, 0.0]))
    >>> found.hessian.round(2), found.cross.round(2)
    (Array([3., 0.], dtype=float32), Array(1., dtype=float32))

  Reference:
    Liu, Simonyan and Yang, DARTS: differentiable architecture search, 2019, equation 8; Yang, Xiao
    and Ji, Achieving O(eps^-1.5) complexity in Hessian/Jacobian-free stochastic bilevel
    optimization, 2023.
  """
  fun = scalar_of("inner", inner)
  y, x, v = inner_arguments(y, x, v)
  size = tree_norm(v)
  if radius is None:
    radius = jnp.finfo(size.dtype).eps ** (1 / 3) * jnp.maximum(1, tree_norm(y))
  else:
    _checks.check_positive("radius", radius, scalar=True)
  radius = jnp.asarray(radius, size.dtype)
  gradients = lambda y: jax.grad(fun, argnums=(0, 1))(y, x, *data)
  ahead, behind = (perturbed_gradient(gradients, y, v, radius=r) for r in (radius, -radius))
  difference = lambda a, b: (a - b) * (size / (2 * radius)).astype(a.dtype)
  return SecondOrderProducts(*jax.tree.map(difference, ahead, behind))
