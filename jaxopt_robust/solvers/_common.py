"""What several solvers share: scalar types, linear combinations of trees, relative residuals."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxopt_robust.typing import Array, PyTree


def scalar_dtype(params: PyTree) -> jnp.dtype:
  """The type of scalars that go with a pytree."""
  return jnp.result_type(*jax.tree.leaves(params))


def add_scaled(x: PyTree, scale: Any, y: PyTree) -> PyTree:
  """x + scale * y, leaf by leaf, in the types of x."""
  return jax.tree.map(lambda a, b: a + jnp.asarray(scale, a.dtype) * b, x, y)


def scale(factor: Any, x: PyTree) -> PyTree:
  """factor * x, leaf by leaf, in the types of x."""
  return jax.tree.map(lambda a: jnp.asarray(factor, a.dtype) * a, x)


def norm(x: PyTree) -> Array:
  """Euclidean norm of a pytree, for reports: it has no derivative."""
  return jax.lax.stop_gradient(optax.tree.norm(x))


def report(objective: Callable[..., Array] | None, params: PyTree, *args: Any) -> Array:
  """The objective where the caller gave one, otherwise 0."""
  if objective is None:
    return jnp.zeros((), scalar_dtype(params))
  value = jnp.asarray(objective(params, *args))
  if value.shape != ():
    raise ValueError(f"objective must return a scalar; got shape {value.shape}.")
  return jax.lax.stop_gradient(value)


def smooth_gradient(fun: Callable[..., Array], params: PyTree, data: tuple) -> tuple[Array, PyTree]:
  """Value and gradient of a smooth part; refuses vector values."""
  value, grad = jax.value_and_grad(fun)(params, *data)
  if jnp.shape(value) != ():
    raise ValueError(f"fun must return a scalar; got shape {jnp.shape(value)}.")
  return value, grad


def pair_of(hyper: Any) -> tuple[Any, Any]:
  """The hyper-parameters of two operators; None means None for both."""
  if hyper is None:
    return None, None
  if not isinstance(hyper, tuple | list) or len(hyper) != 2:
    raise ValueError(
      "hyper must be a pair (of the first operator, of the second one) or None; "
      f"got a {type(hyper).__name__}."
    )
  return hyper[0], hyper[1]


def transpose_of(op: Callable[..., PyTree], example: PyTree, data: tuple) -> Callable:
  """The adjoint of ``x -> op(x, *data)``; refuses a function that is not linear."""
  shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), example)
  transposed = jax.linear_transpose(lambda x: op(x, *data), shapes)
  return lambda p: transposed(p)[0]


def stop_gradient(tree: PyTree) -> PyTree:
  """The same numbers, constant for derivatives; integers and keys pass."""

  def stop(leaf: Any) -> Any:
    inexact = jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)
    return jax.lax.stop_gradient(leaf) if inexact else leaf

  return jax.tree.map(stop, tree)
