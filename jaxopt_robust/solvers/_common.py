"""What several solvers share: scalar types, sums of trees, honest residuals, smooth parts."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxopt_robust import _arguments, _checks
from jaxopt_robust._units import tree_norm
from jaxopt_robust.solvers.types import Solver
from jaxopt_robust.typing import Array, ArrayLike, PyTree


def scalar_dtype(params: PyTree) -> jnp.dtype:
  """The real type of scalars that go with a pytree."""
  return jnp.finfo(jnp.result_type(*jax.tree.leaves(params))).dtype


def add_scaled(x: PyTree, scale: Any, y: PyTree) -> PyTree:
  """x + scale * y, leaf by leaf, in the types of x."""
  return jax.tree.map(lambda a, b: a + jnp.asarray(scale, a.dtype) * b, x, y)


def scale(factor: Any, x: PyTree) -> PyTree:
  """factor * x, leaf by leaf, in the types of x."""
  return jax.tree.map(lambda a: jnp.asarray(factor, a.dtype) * a, x)


def norm(x: PyTree) -> Array:
  """Euclidean norm of a pytree of any scale, for reports: it has no derivative."""
  return tree_norm(jax.lax.stop_gradient(x)).astype(scalar_dtype(x))


def rounding(x: PyTree) -> Array:
  """By how much, in the Euclidean norm, rounding to its own dtype may have moved ``x``."""
  return norm(jax.tree.map(lambda leaf: leaf * (jnp.finfo(leaf.dtype).eps / 2), x))


def displacement(
  new: PyTree, old: PyTree, step: ArrayLike = 1.0, *, noise: ArrayLike = 0.0
) -> Array:
  """||new - old|| / step, at least what rounding of ``old`` and ``noise`` alone make of it.

  The quotient of a small difference has no digits left: where a step rounds to nothing the
  difference is 0, and the residual that it stands for is anything below rounding(old) / step.
  A step of 0 says nothing of a residual: the largest finite number. One below 0 is wrong: NaN.
  """
  moved = norm(jax.tree.map(jnp.subtract, new, old))
  step = jnp.asarray(step, moved.dtype)
  size = jnp.where(step == 0, 1, step)
  error = jnp.maximum(moved / size, rounding(old) / size + noise)
  error = jnp.where(step == 0, jnp.finfo(moved.dtype).max, error)
  return jnp.where(step < 0, jnp.nan, error)


def report(
  objective: Callable[..., Array] | None, params: PyTree, hyper: PyTree, data: tuple, named: dict
) -> Array:
  """The objective where the caller gave one, otherwise 0."""
  if objective is None:
    return jnp.zeros((), scalar_dtype(params))
  value = jnp.asarray(objective(params, hyper, *data, **named))
  if value.shape != ():
    raise ValueError(f"objective must return a scalar; got shape {value.shape}.")
  return jax.lax.stop_gradient(value)


def smooth_part(
  fun: Callable[..., Any], has_aux: bool, params: PyTree, data: tuple, named: dict
) -> tuple[Array, PyTree, PyTree]:
  """Value, gradient and auxiliary output (None without one) of a smooth part.

  The gradient of complex parameters is the direction of steepest ascent, the conjugate of JAX's.
  """

  def checked(params: PyTree) -> tuple[Array, PyTree]:
    return _value_and_aux(fun(params, *data, **named), has_aux)

  (value, aux), grad = jax.value_and_grad(checked, has_aux=True)(params)
  return value, jax.tree.map(jnp.conj, grad), jax.lax.stop_gradient(aux)


def inner_product(a: PyTree, b: PyTree) -> Array:
  """The real inner product of two trees."""
  products = jax.tree.map(lambda x, y: jnp.sum((jnp.conj(x) * y).real), a, b)
  return functools.reduce(jnp.add, jax.tree.leaves(products))


def value_of(fun: Callable[..., Any], has_aux: bool) -> Callable[..., Array]:
  """A smooth part without its auxiliary output."""
  return lambda *args, **named: _value_and_aux(fun(*args, **named), has_aux)[0]


def _value_and_aux(out: Any, has_aux: bool) -> tuple[Array, PyTree]:
  """What a smooth part returned, as a pair; the errors name ``fun``."""
  if has_aux and not (isinstance(out, tuple) and len(out) == 2):
    raise TypeError(
      f"fun must return a pair (scalar, aux) with has_aux=True; got a {type(out).__name__}."
    )
  value, aux = out if has_aux else (out, None)
  if value is None or isinstance(value, tuple | list | dict | str):
    pair = " A pair (scalar, aux) needs has_aux=True." if isinstance(value, tuple) else ""
    raise TypeError(f"fun must return a scalar; got a {type(value).__name__}.{pair}")
  if jnp.shape(value) != ():
    raise ValueError(f"fun must return a scalar; got shape {jnp.shape(value)}.")
  return value, aux


def operator_of(name: str, value: Any) -> Callable[..., PyTree]:
  """A prox function, of one or of a ``Penalty``, whose result is held against its argument.

  A result of another shape would broadcast against the iterate and solve another problem.
  """
  operator = _arguments.as_prox(name, value)

  def checked(x: PyTree, hyper: PyTree, scaling: ArrayLike) -> PyTree:
    out = operator(x, hyper, scaling)
    if _forms(out) != _forms(x):
      raise ValueError(
        f"{name} must return the structure, shapes and kind of numbers of its argument "
        f"{_forms(x)}; got {_forms(out)}."
      )
    return out

  return checked


def _forms(tree: PyTree) -> Any:
  """Structure, shapes and kinds (real, complex, other) of a tree."""

  def form(leaf: Any) -> str:
    dtype = jnp.result_type(leaf)
    kinds = (("real", jnp.floating), ("complex", jnp.complexfloating))
    kind = next((word for word, kind in kinds if jnp.issubdtype(dtype, kind)), str(dtype))
    return f"{kind}{list(jnp.shape(leaf))}"

  return str(jax.tree.structure(tree)), [form(leaf) for leaf in jax.tree.leaves(tree)]


def check_stepsize(name: str, stepsize: Any) -> None:
  """A scalar > 0, or a schedule ``count -> scalar``."""
  if not callable(stepsize):
    _checks.check_positive(name, stepsize, scalar=True)


def step_at(stepsize: Any, count: Array, dtype: Any) -> Array:
  """The step size of step ``count``, of a number or a schedule."""
  with _arguments.within("stepsize"):
    value = jnp.asarray(stepsize(count) if callable(stepsize) else stepsize, dtype)
  if value.shape != ():
    raise ValueError(f"stepsize(count) must return a scalar; got shape {value.shape}.")
  if callable(stepsize):
    # A schedule that ends at 0 may end a rounding of its start below it.
    least = jnp.finfo(dtype).eps * jnp.abs(jnp.asarray(stepsize(jnp.zeros_like(count)), dtype))
    value = jnp.where((value < 0) & (value >= -least), 0, value)
  return value


class _Part:
  """``init`` or ``step`` of a solver that equals that of one made from the same arguments."""

  def __init__(self, function: Callable, key: tuple) -> None:
    self.__wrapped__ = function
    self._key = key

  def __call__(self, *args: Any, **named: Any) -> Any:
    return self.__wrapped__(*args, **named)

  def __eq__(self, other: object) -> bool:
    return isinstance(other, _Part) and self._key == other._key

  def __hash__(self) -> int:
    return hash(self._key)


def _key_of(value: Any) -> Any:
  """What makes two arguments the same; raises TypeError for arrays and whatever has no hash."""
  if isinstance(value, tuple | list):
    return (type(value), *(_key_of(member) for member in value))
  if isinstance(value, bool | int | float | str | np.generic | None):
    return type(value), value
  if callable(value):
    hash(value)
    return value
  raise TypeError("no constant")


def hashable(factory: Callable[..., Solver]) -> Callable[..., Solver]:
  """Solvers that a factory makes of the same functions and plain numbers become equal.

  So the eager drivers compile once for them. Those with array arguments equal themselves alone.
  """

  @functools.wraps(factory)
  def make(*args: Any, **options: Any) -> Solver:
    solver = factory(*args, **options)
    try:
      key = (factory, _key_of(args), _key_of(tuple(sorted(options.items()))))
    except TypeError:
      return solver
    return Solver(_Part(solver.init, ("init", *key)), _Part(solver.step, ("step", *key)))

  return make


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


def transpose_of(
  op: Callable[..., PyTree], example: PyTree, data: tuple, named: dict | None = None
) -> Callable:
  """The adjoint of ``x -> op(x, *data, **named)``; refuses a function that is not linear."""
  shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), example)
  transposed = jax.linear_transpose(lambda x: op(x, *data, **(named or {})), shapes)
  return lambda p: transposed(p)[0]


def stop_gradient(tree: PyTree) -> PyTree:
  """The same numbers, constant for derivatives; integers and keys pass."""

  def stop(leaf: Any) -> Any:
    inexact = jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)
    return jax.lax.stop_gradient(leaf) if inexact else leaf

  return jax.tree.map(stop, tree)
