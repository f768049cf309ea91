"""Gradients at a normalised perturbation of the parameters."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxopt_robust import _arguments, _checks
from jaxopt_robust._units import in_units
from jaxopt_robust.numerics import upcast
from jaxopt_robust.transforms._links import unit_direction
from jaxopt_robust.typing import ArrayLike, PyTree

__all__ = ["perturbed_gradient"]

NORMS = ("l2", "adaptive")


def perturbed_gradient(
  grad_fn: Callable[[PyTree], Any],
  params: PyTree,
  direction: PyTree,
  *,
  radius: ArrayLike,
  norm: str = "l2",
) -> Any:
  r"""What a function gives at parameters that are moved along a direction of unit length.

  Computes grad_fn(w + radius * s), with g = direction and the 2-norm over the whole pytree,

    s = g / ||g||_2                  ("l2"), the maximiser of <g, s> over ||s||_2 <= 1;
    s = |w|^2 g / || |w| g ||_2      ("adaptive", entry by entry), over || s / |w| ||_2 <= 1.

  Args:
    grad_fn: function of the parameters alone, such as ``jax.grad(loss)``.
    params: pytree of float arrays, w.
    direction: pytree like ``params``, g; its length does not matter.
    radius: a scalar, negative to move against the direction; may be traced.
    norm: ``"l2"`` or ``"adaptive"``; static.

  Returns:
    What ``grad_fn`` returns; grad_fn(w) where the direction is zero.

  Raises:
    TypeError: when ``grad_fn`` is not a function, or a tree holds anything but real numbers.
    ValueError: when the trees do not agree, ``radius`` is no scalar, or the norm is unknown.

  Note:
    Nothing is added to the norm: gradients of any size count alike. Parameters keep their dtype, so
    that a radius below their rounding moves nothing: half precision needs radii of 1e-2 ||w|| or
    more.

  Example:
    >>> grad = jax.grad(lambda w: jnp.sum(w**2))
    >>> perturbed_gradient(grad, jnp.array([3.0, 4.0]), jnp.array([0.0, 7.0]), radius=0.5)
    Array([6., 9.], dtype=float32)

  Reference:
    Foret, Kleiner, Mobahi and Neyshabur, Sharpness-aware minimization for efficiently improving
    generalization, 2021, equation 2; the adaptive norm: Kwon, Kim, Park and Choi, ASAM: adaptive
    sharpness-aware minimization for scale-invariant learning of deep neural networks, 2021.
  """
  _arguments.check_callable("grad_fn", grad_fn)
  _arguments.check_option("norm", norm, NORMS)
  radius = _checks.check_float_array("radius", radius, rank=0)
  params = _checks.check_float_tree("params", params)
  direction = _checks.check_float_tree("direction", direction)
  structure: Any = jax.tree.structure(params)
  if structure != jax.tree.structure(direction):
    raise ValueError(
      f"direction must have the pytree structure of params, {structure}; "
      f"got {jax.tree.structure(direction)}."
    )
  for leaf, other in zip(jax.tree.leaves(params), jax.tree.leaves(direction), strict=True):
    _checks.check_same_shape("params", leaf, "direction", other)
  return grad_fn(moved(params, direction, radius, norm))


def moved(params: PyTree, direction: PyTree, radius: ArrayLike, norm: str = "l2") -> PyTree:
  """The parameters at a distance from where they are."""
  if norm == "adaptive":
    sizes = jax.tree.map(lambda w: jnp.abs(upcast(w)), params)
    (a, _), (b, _) = in_units(sizes), in_units(direction)  # products of these stay in range
    unit, _ = unit_direction(jax.tree.map(jnp.multiply, a, b))
    unit = jax.tree.map(lambda size, u: size * u, sizes, unit)
  else:
    unit, _ = unit_direction(direction)

  def move(w: Any, u: Any) -> Any:
    return (upcast(w) + jnp.asarray(radius, u.dtype) * u).astype(w.dtype)

  return jax.tree.map(move, params, unit)
