"""What links of optax chains share: schedules, what must be given, checked parts, unit vectors."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxopt_robust import _checks
from jaxopt_robust._units import in_units
from jaxopt_robust.numerics import upcast
from jaxopt_robust.typing import Array, ArrayLike, PyTree

Schedule = ArrayLike | Callable[[Array], ArrayLike]


def at(number: Schedule, count: Array) -> ArrayLike:
  """A number, or what a schedule says of it now."""
  if not callable(number):
    return number
  value = number(count)
  if jnp.shape(value) != ():  # it would broadcast against the parameters
    raise ValueError(f"a schedule must return a scalar; got shape {jnp.shape(value)}.")
  return value


def given(params: PyTree | None, name: str) -> PyTree:
  """The parameters, without which the link called ``name`` cannot update."""
  if params is None:
    raise ValueError(f"{name} needs the current parameters: call tx.update(grads, state, params).")
  return params


def chosen(predicate: Callable[[tuple, Array], bool] | None, path: tuple, leaf: Array) -> bool:
  """Whether a leaf is to be masked; without a predicate those of at least two axes are."""
  return leaf.ndim >= 2 if predicate is None else bool(predicate(path, leaf))


def check_transformation(name: str, tx: Any) -> None:
  """An optax transformation."""
  if not isinstance(tx, optax.GradientTransformation):
    raise TypeError(f"{name} must be an optax.GradientTransformation; got {type(tx).__name__}.")


def function_given(fun: Any, name: str, argument: str, what: str) -> Callable[..., Any]:
  """A function among the extra arguments, without which the link called ``name`` cannot update."""
  if fun is None or not callable(fun):
    raise ValueError(
      f"{name} needs {what}: call tx.update(grads, state, params, {argument}=...); got "
      f"{type(fun).__name__}."
    )
  return fun


def check_like(what: str, tree: PyTree, params: PyTree) -> None:
  """Gradients of the structure and the shapes of the parameters: others would broadcast."""
  shapes, given_shapes = (jax.tree.map(np.shape, t) for t in (params, tree))
  structure: Any = jax.tree.structure(params)
  if structure != jax.tree.structure(tree) or shapes != given_shapes:
    raise ValueError(
      f"{what} must be like the parameters, shapes {shapes!s:.200}; got {given_shapes!s:.200}."
    )


def unit_direction(tree: PyTree) -> tuple[PyTree, Array]:
  """A tree over its Euclidean norm, and the norm, in float32 or wider; zeros give zeros and 0."""
  for leaf in jax.tree.leaves(tree):
    if jnp.iscomplexobj(leaf):
      raise TypeError(f"gradients must hold real numbers; got {_checks.describe(leaf)}.")
  scaled, unit = in_units(tree)
  square = sum((jnp.sum(leaf**2).astype(unit.dtype) for leaf in jax.tree.leaves(scaled)), 0 * unit)
  is_zero = square == 0  # False for NaN, which stays NaN
  norm = jnp.sqrt(jnp.where(is_zero, 1, square))
  direction = jax.tree.map(lambda leaf: leaf / norm.astype(leaf.dtype), scaled)
  return direction, unit * jnp.where(is_zero, 0, norm)


def vdot(a: PyTree, b: PyTree) -> Array:
  """Inner product of two trees, summed in float32 or wider."""
  products = jax.tree.map(lambda x, y: jnp.sum(upcast(x) * upcast(y)), a, b)
  return sum(jax.tree.leaves(products), jnp.zeros((), jnp.float32))
