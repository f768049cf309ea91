"""Moreau's calculus: the envelope of any penalty, and the operator of its conjugate."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxopt_robust import _arguments, _checks
from jaxopt_robust.prox._common import scaled_for, start, value_dtype
from jaxopt_robust.typing import Array, ArrayLike, Penalty, ProxFn, PyTree

__all__ = ["moreau_envelope", "prox_conjugate"]


def moreau_envelope(penalty: Penalty) -> Callable[..., Array]:
  r"""Moreau envelope of a penalty: a smooth function with the same minimisers.

  M(x) = min_y g(y; hyperparams) + 1/(2 scaling) ||y - x||_2^2, with the gradient
  (x - prox(x)) / scaling, which is 1/scaling-Lipschitz for convex g.

  Args:
    penalty: ``Penalty(value, prox)``, such as ``prox.lasso``.

  Returns:
    ``envelope(x, hyperparams=None, scaling=1.0) -> scalar``, differentiable in all three (by the
    envelope theorem; second derivatives go through the operator). ``x`` is a float array or pytree,
    or a complex one where the penalty takes it; scaling > 0.

  Raises:
    TypeError: when ``penalty`` is no ``Penalty``.

  Note:
    For a non-convex g the minimiser may jump; the envelope is continuous there and the gradient is
    that of the minimiser that the operator returns.

  Example:
    >>> huber = moreau_envelope(jr.prox.lasso)
    >>> float(huber(jnp.array([3.0]), 1.0, 1.0)), float(jax.grad(huber)(jnp.array([0.5]), 1.0)[0])
    (2.5, 0.5)

  Reference:
    Moreau, Proximite et dualite dans un espace hilbertien, 1965; Parikh and Boyd, Proximal
    algorithms, 2014, section 3.1.
  """
  _arguments.check_penalty("penalty", penalty)

  def at(y: PyTree, x: PyTree, hyper: Any, scaling: Array) -> Array:
    square = sum(
      jnp.sum(jnp.real(d) ** 2 + jnp.imag(d) ** 2) if jnp.iscomplexobj(d) else jnp.sum(d * d)
      for d in jax.tree.leaves(optax.tree.sub(y, x))
    )
    return penalty.value(y, hyper) + square / (2 * scaling)

  @jax.custom_jvp
  def envelope(x: PyTree, hyper: Any, scaling: Array) -> Array:
    return at(penalty.prox(x, hyper, scaling), x, hyper, scaling)

  @envelope.defjvp
  def _rule(primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    y = penalty.prox(*primals)  # constant for this derivative, not for the next
    return jax.jvp(lambda *args: at(y, *args), primals, tangents)

  def checked(x: PyTree, hyperparams: Any = None, scaling: ArrayLike = 1.0) -> Array:
    _checks.check_positive("scaling", scaling)
    x = start(x, scaling, complex_ok=True)
    dtype = value_dtype(x)
    as_number = lambda h: _checks.check_float_array("hyperparams", h, non_empty=False)
    hyper = jax.tree.map(lambda h: as_number(h).astype(dtype), hyperparams)
    return envelope(x, hyper, jnp.asarray(scaling, dtype))

  return checked


def prox_conjugate(prox: ProxFn) -> Callable[..., PyTree]:
  r"""Proximal operator of the convex conjugate, by Moreau's decomposition.

  With g*(u) = sup_y <u, y> - g(y): prox_{s g*}(x) = x - s prox_{g / s}(x / s), s = scaling.

  Args:
    prox: ``prox(x, hyperparams, scaling)`` of a convex g.

  Returns:
    ``prox_star(x, hyperparams=None, scaling=1.0) -> x_like`` with scaling > 0, for example the dual
    step of a primal-dual method.

  Raises:
    TypeError: when ``prox`` is not a function.

  Note:
    For a non-convex g this is the operator of no function.

  Example:
    >>> prox_conjugate(jr.prox.prox_lasso)(jnp.array([-3.0, 0.5]), 1.0)
    Array([-1. ,  0.5], dtype=float32)

  Reference:
    Moreau, Proximite et dualite dans un espace hilbertien, 1965; Parikh and Boyd, Proximal
    algorithms, 2014, section 2.5.
  """
  prox = _arguments.as_prox("prox", prox)

  def prox_star(x: PyTree, hyperparams: Any = None, scaling: ArrayLike = 1.0) -> PyTree:
    _checks.check_positive("scaling", scaling)
    x = start(x, scaling, complex_ok=True)
    down = jax.tree.map(lambda v: v / scaled_for(scaling, v), x)
    inner = prox(down, hyperparams, 1 / jnp.asarray(scaling))
    return jax.tree.map(lambda v, p: v - scaled_for(scaling, v) * p, x, inner)

  return prox_star
