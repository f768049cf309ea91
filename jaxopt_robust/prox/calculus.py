"""New penalties from old ones, by the rules under which the operator keeps a closed form."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from jaxopt_robust import _arguments, _checks
from jaxopt_robust.numerics import magnitude, upcast
from jaxopt_robust.prox._common import scaled_for, start, value_dtype
from jaxopt_robust.typing import Array, ArrayLike, Penalty, PyTree

__all__ = [
  "add_quadratic",
  "leafwise",
  "precompose_affine",
  "precompose_semi_orthogonal",
  "ravelled",
]


def precompose_affine(
  penalty: Penalty, *, scale: ArrayLike = 1.0, shift: ArrayLike = 0.0
) -> Penalty:
  r"""The penalty of a scaled and shifted array.

  g(x) = psi(c x + b) with c = scale, b = shift; its operator with step s is
  (prox_{c^2 s psi}(c x + b) - b) / c.

  Args:
    penalty: ``Penalty`` psi of float (or complex) arrays.
    scale: a scalar other than 0; may be traced.
    shift: a scalar or an array of the shape of ``x``; may be traced.

  Returns:
    ``Penalty`` with the hyper-parameters of psi.

  Raises:
    TypeError: when ``penalty`` is no ``Penalty``.
    ValueError: when scale is 0 or not a scalar.

  Note:
    A traced scale of 0 gives NaN.

  Example:
    >>> around_two = precompose_affine(jr.prox.lasso, shift=-2.0)
    >>> around_two.prox(jnp.array([0.0, 2.5]), 1.0)
    Array([1., 2.], dtype=float32)

  Reference:
    Parikh and Boyd, Proximal algorithms, 2014, section 2.2 (affine addition, postcomposition).
  """
  _arguments.check_penalty("penalty", penalty)
  scale = _checks.check_float_array("scale", scale, rank=0, complex_ok=True)
  shift = _checks.check_float_array("shift", shift, non_empty=False, complex_ok=True)
  _checks.check_holds(scale != 0, "scale must not be 0; got 0.")

  def inner(x: Array) -> Array:
    return jnp.asarray(scale, x.dtype) * x + jnp.asarray(shift, x.dtype)

  def value(x: ArrayLike, hyperparams: Any = None) -> Array:
    array = _checks.check_float_array("x", x, non_empty=False, complex_ok=True)
    return penalty.value(inner(array), hyperparams)

  def prox(x: ArrayLike, hyperparams: Any = None, scaling: ArrayLike = 1.0) -> Array:
    _checks.check_non_negative("scaling", scaling)
    array = _checks.check_float_array("x", x, non_empty=False, complex_ok=True)
    c = jnp.asarray(scale, array.dtype)
    step = jnp.real(c * c) * scaled_for(scaling, array)
    return (penalty.prox(inner(array), hyperparams, step) - jnp.asarray(shift, array.dtype)) / c

  return Penalty(value, prox, penalty.convex)


def add_quadratic(penalty: Penalty, *, weight: ArrayLike, center: ArrayLike = 0.0) -> Penalty:
  r"""A penalty plus a quadratic.

  g(x) = psi(x) + (mu / 2) ||x - c||_2^2 with mu = weight, c = center; its operator with step s is
  prox_{s / (1 + s mu) psi}((x + s mu c) / (1 + s mu)).

  Args:
    penalty: ``Penalty`` psi of float (or complex) arrays.
    weight: >= 0, a scalar; may be traced.
    center: a scalar or an array of the shape of ``x``; may be traced.

  Returns:
    ``Penalty`` with the hyper-parameters of psi.

  Raises:
    TypeError: when ``penalty`` is no ``Penalty``.
    ValueError: when weight is negative or not a scalar.

  Example:
    >>> ridge_lasso = add_quadratic(jr.prox.lasso, weight=1.0)
    >>> ridge_lasso.prox(jnp.array([-3.0, 0.5]), 1.0)
    Array([-1.,  0.], dtype=float32)

  Reference:
    Parikh and Boyd, Proximal algorithms, 2014, section 2.2 (regularization).
  """
  _arguments.check_penalty("penalty", penalty)
  _checks.check_non_negative("weight", weight)
  if jnp.ndim(weight) != 0:
    raise ValueError(f"weight must be a scalar; got shape {jnp.shape(weight)}.")
  center = _checks.check_float_array("center", center, non_empty=False, complex_ok=True)

  def value(x: ArrayLike, hyperparams: Any = None) -> Array:
    array = _checks.check_float_array("x", x, non_empty=False, complex_ok=True)
    off = magnitude(array - jnp.asarray(center, array.dtype))
    square = scaled_for(weight, array) / 2 * jnp.sum(off * off)
    return penalty.value(array, hyperparams) + square

  def prox(x: ArrayLike, hyperparams: Any = None, scaling: ArrayLike = 1.0) -> Array:
    _checks.check_non_negative("scaling", scaling)
    array = _checks.check_float_array("x", x, non_empty=False, complex_ok=True)
    step = scaled_for(scaling, array)
    pull = step * scaled_for(weight, array)
    mean = (array + pull * jnp.asarray(center, array.dtype)) / (1 + pull)
    return penalty.prox(mean, hyperparams, step / (1 + pull))

  return Penalty(value, prox, penalty.convex)


def precompose_semi_orthogonal(
  penalty: Penalty, matvec: Callable[[Array], Array], *, nu: ArrayLike = 1.0
) -> Penalty:
  r"""The penalty of a transform, such as wavelet coefficients.

  g(x) = psi(L x) with L L^H = nu I; its operator with step s is
  x + (1 / nu) L^H (prox_{nu s psi}(L x) - L x).

  Args:
    penalty: ``Penalty`` psi of float (or complex) arrays.
    matvec: ``matvec(x) -> L x``, linear; its adjoint L^H is taken by ``jax.linear_transpose``.
    nu: > 0, a scalar; may be traced. 1 for orthogonal L.

  Returns:
    ``Penalty`` with the hyper-parameters of psi.

  Raises:
    TypeError: when ``penalty`` is no ``Penalty`` or ``matvec`` no function.
    ValueError: when nu is not positive or not a scalar.

  Note:
    L L^H = nu I is not checked; for any other L the result is the operator of no function in
    general.

  Example:
    >>> mean = precompose_semi_orthogonal(jr.prox.lasso, lambda x: jnp.sum(x)[None], nu=2.0)
    >>> mean.prox(jnp.array([3.0, 1.0]), 1.0)
    Array([2., 0.], dtype=float32)

  Reference:
    Combettes and Pesquet, Proximal splitting methods in signal processing, 2011, table 10.1.
  """
  _arguments.check_penalty("penalty", penalty)
  _arguments.check_callable("matvec", matvec)
  _checks.check_positive("nu", nu)
  if jnp.ndim(nu) != 0:
    raise ValueError(f"nu must be a scalar; got shape {jnp.shape(nu)}.")

  def value(x: ArrayLike, hyperparams: Any = None) -> Array:
    return penalty.value(
      matvec(_checks.check_float_array("x", x, non_empty=False, complex_ok=True)), hyperparams
    )

  def prox(x: ArrayLike, hyperparams: Any = None, scaling: ArrayLike = 1.0) -> Array:
    _checks.check_non_negative("scaling", scaling)
    array = _checks.check_float_array("x", x, non_empty=False, complex_ok=True)
    factor = scaled_for(nu, array)
    coefficients = matvec(array)
    step = factor * scaled_for(scaling, array)
    change = penalty.prox(coefficients, hyperparams, step) - coefficients
    back = jax.linear_transpose(matvec, array)(jnp.conj(change))[0]  # L^H, by conjugates on L^T
    return array + jnp.conj(back) / factor

  return Penalty(value, prox, penalty.convex)


def ravelled(penalty: Penalty) -> Penalty:
  r"""The penalty of all entries of a pytree as one vector.

  g(x) = psi(vec(x)): for the penalties that are not entrywise and take one array, such as
  ``prox.owl``, ``prox.linf``, ``prox.tv1d`` or one of ``prox.make_group_penalty``. The entrywise
  ones, and ``prox.group_lasso``, take pytrees themselves.

  Args:
    penalty: ``Penalty`` psi of float[n] arrays.

  Returns:
    ``Penalty`` of float pytrees with n entries in all (leaves in the order of ``jax.tree.leaves``,
    each row by row), with the hyper-parameters of psi.

  Raises:
    TypeError: when ``penalty`` is no ``Penalty``. The functions returned refuse pytrees that hold
      anything but floating-point arrays.

  Note:
    Leaves of several dtypes are computed in the widest of them.

  Example:
    >>> largest = ravelled(jr.prox.linf)
    >>> largest.prox({"a": jnp.array([3.0]), "b": jnp.array([[-1.0, 0.5]])}, 1.0)["a"]
    Array([2.], dtype=float32)

  Reference:
    The identification of a pytree with a vector: ``jax.flatten_util.ravel_pytree``.
  """
  _arguments.check_penalty("penalty", penalty)

  def value(x: PyTree, hyperparams: Any = None) -> Array:
    return penalty.value(
      ravel_pytree(_checks.check_float_tree("x", x, complex_ok=True))[0], hyperparams
    )

  def prox(x: PyTree, hyperparams: Any = None, scaling: ArrayLike = 1.0) -> PyTree:
    flat, unravel = ravel_pytree(_checks.check_float_tree("x", x, complex_ok=True))
    return unravel(penalty.prox(flat, hyperparams, scaling))

  return Penalty(value, prox, penalty.convex)


def leafwise(penalties: PyTree) -> Penalty:
  r"""One penalty for every leaf of a pytree, each with its own hyper-parameters.

  g(x) = sum_k psi_k(x_k; hyperparams_k) over the leaves x_k of x. It is for penalties that act on a
  whole array, such as ``prox.group_lasso`` or one of ``prox.make_group_penalty``, and for
  hyper-parameters that are kept beside the parameters.

  Args:
    penalties: a ``Penalty`` for all leaves, or a pytree with the structure of x that holds one for
      each.

  Returns:
    ``Penalty`` of float pytrees. Its hyper-parameters are a pytree with the structure of x that
    holds at each leaf what the penalty of that leaf takes, such as a pair (strength, ratio); None
    for the defaults of all.

  Raises:
    TypeError: when ``penalties`` holds anything but ``Penalty`` records. The functions returned
      refuse hyper-parameters or penalties of another structure (ValueError).

  Example:
    >>> penalty = leafwise(jr.prox.elastic_net)
    >>> x = {"a": jnp.array([3.0]), "b": jnp.array([3.0])}
    >>> penalty.prox(x, {"a": (1.0, 0.0), "b": (1.0, 1.0)})["b"]
    Array([1.], dtype=float32)

  Reference:
    Parikh and Boyd, Proximal algorithms, 2014, section 2.1 (separable sum).
  """
  is_record = lambda value: isinstance(value, Penalty)
  records = jax.tree.leaves(penalties, is_leaf=is_record)
  for record in records:
    _arguments.check_penalty("penalties", record)

  def matched(x: PyTree, name: str, tree: PyTree) -> list[Any]:
    structure: Any = jax.tree.structure(x)
    try:
      return structure.flatten_up_to(tree)
    except ValueError as error:
      raise ValueError(
        f"{name} must have the structure of x, {structure}; got "
        f"{jax.tree.structure(tree, is_leaf=is_record)}."
      ) from error

  def split(x: PyTree, hyperparams: Any) -> tuple[list, list, list]:
    leaves = jax.tree.leaves(x)
    each = [penalties] * len(leaves)
    if not is_record(penalties):
      each = matched(x, "penalties", penalties)
    hypers = [None] * len(leaves)
    if hyperparams is not None:
      hypers = matched(x, "hyperparams", hyperparams)
    return leaves, each, hypers

  def value(x: PyTree, hyperparams: Any = None) -> Array:
    tree = _checks.check_float_tree("x", x, complex_ok=True)
    terms = [
      psi.value(v) if hyper is None else psi.value(v, hyper)
      for v, psi, hyper in zip(*split(tree, hyperparams), strict=True)
    ]
    return jnp.asarray(sum(upcast(term) for term in terms), value_dtype(tree))

  def prox(x: PyTree, hyperparams: Any = None, scaling: ArrayLike = 1.0) -> PyTree:
    tree = start(x, scaling, complex_ok=True)
    out = [
      psi.prox(v, scaling=scaling) if hyper is None else psi.prox(v, hyper, scaling)
      for v, psi, hyper in zip(*split(tree, hyperparams), strict=True)
    ]
    return jax.tree.unflatten(jax.tree.structure(tree), out)

  return Penalty(value, prox, all(record.convex for record in records))
