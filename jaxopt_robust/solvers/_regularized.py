"""Newton steps -(H + lambda B)^{-1} g for one H and g and many lambda, and the norms of B."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from jaxopt_robust import _arguments, _checks
from jaxopt_robust.numerics import safe_norm, upcast
from jaxopt_robust.solvers.conjugate_gradient import conjugate_gradient
from jaxopt_robust.solvers.curvature import Curvature, LowRankCurvature
from jaxopt_robust.typing import Array, ArrayLike, PyTree


class Metric(NamedTuple):
  """B and its root: a matrix with its lower Cholesky factor, a diagonal with its square root.

  Both are None for B = I.
  """

  form: Array | None
  root: Array | None


def check_metric(metric: Any) -> None:
  """None, a matrix, a diagonal, or a function of the data to one of these."""
  if metric is None or callable(metric):
    return
  _checks.check_float_array("metric", metric, rank=(1, 2))


def make_metric(metric: Any, size: int, dtype: Any, data: tuple, named: dict) -> Metric:
  """The metric of a problem with ``size`` parameters, factorised."""
  found = metric(*data, **named) if callable(metric) else metric
  if found is None:
    return Metric(None, None)
  form = _checks.check_float_array("metric", found, rank=(1, 2))
  if form.shape not in ((size,), (size, size)):
    raise ValueError(
      f"metric must have shape ({size},) or ({size}, {size}), one entry a parameter; got "
      f"{form.shape}."
    )
  form = form.astype(dtype)
  return Metric(form, jnp.sqrt(form) if form.ndim == 1 else jnp.linalg.cholesky(form))


def whiten(metric: Metric, v: Array) -> Array:
  """L^{-1} v with B = L L^T, for a vector or the columns of a matrix."""
  if metric.root is None:
    return v
  if metric.root.ndim == 1:
    return v / (metric.root if v.ndim == 1 else metric.root[:, None])
  columns = v if v.ndim == 2 else v[:, None]
  return jax.scipy.linalg.solve_triangular(metric.root, columns, lower=True).reshape(v.shape)


def blacken(metric: Metric, v: Array) -> Array:
  """L^{-T} v."""
  if metric.root is None:
    return v
  if metric.root.ndim == 1:
    return v / metric.root
  columns = v[:, None]
  return jax.scipy.linalg.solve_triangular(metric.root, columns, lower=True, trans=1)[:, 0]


def _root_times(metric: Metric, v: Array) -> Array:
  """L^T v."""
  if metric.root is None:
    return v
  return metric.root * v if metric.root.ndim == 1 else metric.root.T @ v


def dual_norm(metric: Metric, g: Array) -> Array:
  """||g||_* = <g, B^{-1} g>^{1/2}."""
  return safe_norm(whiten(metric, g))


def primal_norm(metric: Metric, h: Array) -> Array:
  """||h|| = <B h, h>^{1/2}."""
  return safe_norm(_root_times(metric, h))


# (lambda, a guess) -> (the step, products with H that it took)
Steps = Callable[[Array, Array], tuple[Array, Array]]


def regularized_steps(
  curvature: Curvature, metric: Metric, grad: Array, unravel: Callable[[Array], PyTree], *,
  cg_tol: ArrayLike, cg_max_steps: int | None,
) -> Steps:  # fmt: skip
  """The solve that the form of H asks for; what does not depend on lambda is done here, once.

  A system that is not positive definite gives NaN (or, by conjugate gradients, a step along which
  the quadratic model falls): to be rejected by the caller.
  """
  if isinstance(curvature, LowRankCurvature):
    factors, weights = _check_factors(curvature, grad)
    if factors.shape[1] >= grad.size:  # the matrix itself is the smaller one
      return _dense_steps((factors * weights[None, :]) @ factors.T, metric, grad)
    return _low_rank_steps(factors, weights, metric, grad)
  if callable(curvature):
    return _product_steps(
      curvature, metric, grad, unravel, cg_tol=cg_tol, cg_max_steps=cg_max_steps
    )
  with _arguments.within("curvature"):
    matrix = _checks.check_float_array("curvature(params)", curvature)
  if matrix.shape != (grad.size, grad.size):
    raise ValueError(
      f"curvature(params) must have shape ({grad.size}, {grad.size}), a row a parameter; got "
      f"{matrix.shape}."
    )
  return _dense_steps(matrix.astype(grad.dtype), metric, grad)


def _check_factors(curvature: LowRankCurvature, grad: Array) -> tuple[Array, Array]:
  factors = _checks.check_float_array(
    "curvature(params).factors", curvature.factors, rank=2, non_empty=False
  )
  weights = _checks.check_float_array(
    "curvature(params).weights", curvature.weights, rank=1, non_empty=False
  )
  if factors.shape != (grad.size, weights.size):
    raise ValueError(
      f"curvature(params).factors must have shape ({grad.size}, {weights.size}), a row a parameter "
      f"and a column a weight; got {factors.shape}."
    )
  return factors.astype(grad.dtype), weights.astype(grad.dtype)


def _none() -> Array:
  return jnp.zeros((), jnp.int32)


def _dense_steps(matrix: Array, metric: Metric, grad: Array) -> Steps:
  """By a Cholesky factorisation of H + lambda B."""

  def steps(lam: Array, guess: Array) -> tuple[Array, Array]:
    del guess
    if metric.form is None or metric.form.ndim == 1:
      diagonal = jnp.ones_like(grad) if metric.form is None else metric.form
      system = matrix + jnp.diag(lam * diagonal)
    else:
      system = matrix + lam * metric.form
    root = jnp.linalg.cholesky(system)
    return -jax.scipy.linalg.cho_solve((root, True), grad[:, None])[:, 0], _none()

  return steps


def _low_rank_steps(factors: Array, weights: Array, metric: Metric, grad: Array) -> Steps:
  """By Woodbury's identity: with q = L^{-1} g, W = L^{-1} U sqrt(s) and r columns,

  L^T d = -(q - W (lambda I_r + W^T W)^{-1} W^T q) / lambda.
  """
  q = whiten(metric, grad)
  if weights.size == 0:
    return lambda lam, guess: (blacken(metric, -q / lam), _none())
  w = whiten(metric, factors) * jnp.sqrt(weights)[None, :]
  gram, share = w.T @ w, w.T @ q

  def steps(lam: Array, guess: Array) -> tuple[Array, Array]:
    del guess
    root = jnp.linalg.cholesky(gram + lam * jnp.eye(weights.size, dtype=gram.dtype))
    inside = w @ jax.scipy.linalg.cho_solve((root, True), share[:, None])[:, 0]
    return blacken(metric, -(q - inside) / lam), _none()

  return steps


def _product_steps(
  product: Callable[[PyTree], PyTree], metric: Metric, grad: Array,
  unravel: Callable[[Array], PyTree], *, cg_tol: ArrayLike, cg_max_steps: int | None,
) -> Steps:  # fmt: skip
  """By conjugate gradients on L^{-1} H L^{-T} + lambda I, from the step of the last lambda."""
  right = -whiten(metric, grad)
  bound = jnp.asarray(cg_tol, right.dtype) * safe_norm(right)
  limit = 10 * grad.size if cg_max_steps is None else cg_max_steps

  def system(v: Array, lam: Array) -> Array:
    image = product(unravel(blacken(metric, v)))
    flat = ravel_pytree(image)[0]
    if flat.shape != v.shape:
      raise ValueError(
        "curvature(params)(v) must be like the parameters; got "
        f"{jax.tree.map(jnp.shape, image)!s:.200}."
      )
    return whiten(metric, upcast(flat).astype(v.dtype)) + lam * v

  solver = conjugate_gradient(system)

  def steps(lam: Array, guess: Array) -> tuple[Array, Array]:
    state = solver.init(_root_times(metric, guess), None, right, lam)
    first = (state, state.unit * safe_norm(state.residual), jnp.zeros((), jnp.bool_))

    def go_on(carry: tuple) -> Array:
      state, error, stalled = carry
      return (error > bound) & ~stalled & (state.count < limit)

    def one(carry: tuple) -> tuple:
      state, info = solver.step(carry[0], None, right, lam)
      return state, info.error, info.stalled

    state, _, _ = jax.lax.while_loop(go_on, one, first)
    return blacken(metric, state.params), state.count + 1  # one for the start

  return steps
