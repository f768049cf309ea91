"""Positive semidefinite models of second derivatives, for Newton methods that take any of them."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from jaxopt_robust import _arguments, _checks
from jaxopt_robust.numerics import safe_norm
from jaxopt_robust.solvers._common import value_of
from jaxopt_robust.typing import Array, ArrayLike, PyTree

__all__ = [
  "LowRankCurvature",
  "empirical_fisher",
  "exact_curvature",
  "gauss_newton_curvature",
  "log_sum_exp_curvature",
  "power_norm_curvature",
  "power_norm_fisher",
  "zero_curvature",
]

FORMS = ("matrix", "factors", "product")


class LowRankCurvature(NamedTuple):
  """H = U diag(s) U^T, over the parameters in the order of ``jax.flatten_util.ravel_pytree``.

  Attributes:
    factors: U, float[d, r].
    weights: s >= 0, float[r].
  """

  factors: Array
  weights: Array


# What a model returns at a point: H, its factors, or v -> H v on trees like the parameters.
Curvature = Array | LowRankCurvature | Callable[[PyTree], PyTree]
CurvatureFn = Callable[..., Curvature]


class _Weights(NamedTuple):
  """The matrix W = diag(diagonal) + v v^T between two Jacobians; v may be None."""

  diagonal: Array
  vector: Array | None = None


def _congruence(
  fn: Callable[..., Any], name: str, weigh: Callable[[Array], _Weights], form: str
) -> CurvatureFn:
  """H = J^T W(z) J of a function z = fn(params) with Jacobian J, in one of the forms."""
  _arguments.check_callable(name, fn)
  _arguments.check_option("form", form, FORMS)

  def curvature(params: PyTree, *data: PyTree, **named: PyTree) -> Curvature:
    flat, unravel = ravel_pytree(_checks.check_float_tree("params", params))
    outputs = lambda x: _vector(name, fn(unravel(x), *data, **named))
    if form == "product":
      z, push = jax.linearize(outputs, flat)
      pull, w = jax.linear_transpose(push, flat), weigh(z)

      def product(v: PyTree) -> PyTree:
        image = push(ravel_pytree(v)[0])
        weighted = w.diagonal * image
        if w.vector is not None:
          weighted = weighted + w.vector * (w.vector @ image)
        return unravel(pull(weighted)[0])

      return product
    z = outputs(flat)
    # Rows of J by reverse mode, or its columns by forward mode, whichever are fewer.
    derive = jax.jacrev if z.size < flat.size else jax.jacfwd
    jacobian, w = derive(outputs)(flat), weigh(z)
    extra = None if w.vector is None else w.vector @ jacobian
    if form == "matrix":
      matrix = jacobian.T @ (w.diagonal[:, None] * jacobian)
      return matrix if extra is None else matrix + jnp.outer(extra, extra)
    if extra is None:
      return LowRankCurvature(jacobian.T, w.diagonal)
    factors = jnp.concatenate([jacobian.T, extra[:, None]], axis=1)
    return LowRankCurvature(factors, jnp.append(w.diagonal, jnp.ones((), z.dtype)))

  return curvature


def _vector(name: str, value: Any) -> Array:
  """All outputs of a function as one vector."""
  tree = _checks.check_float_tree(f"{name}(params)", value)
  return ravel_pytree(tree)[0]


def exact_curvature(fun: Callable[..., Array], *, form: str = "matrix") -> CurvatureFn:
  r"""The Hessian of f itself.

    H(x) = grad^2 f(x)

  Args:
    fun: ``fun(params, *data) -> scalar``, f, twice differentiable.
    form: static; ``"matrix"`` forms H, ``"product"`` returns v -> H v.

  Returns:
    ``curvature(params, *data)``: float[d, d], or a function on trees like ``params``.

  Raises:
    TypeError: ``fun`` is not a function.
    ValueError: ``form`` is none of the two, or ``fun`` no scalar.

  Note:
    Where f is not convex H is not positive semidefinite: ``gns_newton`` then shortens the step
    until H + lambda B is (a failed Cholesky factorisation counts as a rejection).

  Example:
    >>> exact_curvature(lambda w: w[0] ** 2 + w[0] * w[1])(jnp.ones(2))
    Array([[2., 1.],
           [1., 0.]], dtype=float32)

  Reference:
    Products in linear time: Pearlmutter, Fast exact multiplication by the Hessian, 1994.
  """
  _arguments.check_callable("fun", fun)
  _arguments.check_option("form", form, ("matrix", "product"))
  scalar = value_of(fun, False)

  def curvature(params: PyTree, *data: PyTree, **named: PyTree) -> Curvature:
    params = _checks.check_float_tree("params", params)
    if form == "product":
      grad = jax.grad(lambda w: scalar(w, *data, **named))
      return jax.linearize(grad, params)[1]
    flat, unravel = ravel_pytree(params)
    return jax.hessian(lambda x: scalar(unravel(x), *data, **named))(flat)

  return curvature


def gauss_newton_curvature(
  residual_fn: Callable[..., PyTree], *, form: str = "matrix"
) -> CurvatureFn:
  r"""Gauss-Newton model of f(x) = 1/2 ||u(x)||_2^2: second derivatives of u are left out.

    H(x) = J^T J,  J the Jacobian of u at x

  Args:
    residual_fn: ``residual_fn(params, *data) -> u``, an array or a tree of arrays.
    form: static; ``"matrix"``, ``"factors"`` (low rank: for fewer residuals than parameters) or
      ``"product"`` (nothing is formed).

  Returns:
    ``curvature(params, *data)``: float[d, d], ``LowRankCurvature``, or a function on trees.

  Raises:
    TypeError: ``residual_fn`` is not a function.
    ValueError: ``form`` is none of the three.

  Example:
    >>> gauss_newton_curvature(lambda w: jnp.array([w[0] * w[1], w[0]]))(jnp.array([1.0, 2.0]))
    Array([[5., 2.],
           [2., 1.]], dtype=float32)

  Reference:
    Nocedal and Wright, Numerical optimization, 2006, section 10.3.
  """
  one = lambda u: _Weights(jnp.ones_like(u))
  return _congruence(residual_fn, "residual_fn", one, form)


def _direction(u: Array, power: ArrayLike) -> tuple[Array, Array]:
  """u / ||u|| (0 for u = 0) and ||u||^(p-2), which has no slope at 0."""
  size, excess = safe_norm(u), jnp.asarray(power, u.dtype) - 2
  is_zero = size == 0
  length = jnp.where(is_zero, 1, size)
  limit = jnp.where(excess == 0, 1, 0).astype(u.dtype)
  return jnp.where(is_zero, 0, u / length), jnp.where(is_zero, limit, length**excess)


def _root(square: Array) -> Array:
  """Its root, without the infinite slope at 0."""
  return jnp.where(square == 0, 0, jnp.sqrt(jnp.where(square == 0, 1, square)))


def _check_power(power: ArrayLike) -> None:
  _checks.check_interval("power", power, 2.0, float("inf"), closed="left", scalar=True)


def power_norm_curvature(
  residual_fn: Callable[..., PyTree], *, power: ArrayLike, form: str = "matrix"
) -> CurvatureFn:
  r"""Gauss-Newton model of f(x) = 1/p ||u(x)||_2^p: second derivatives of u are left out.

    H(x) = ||u||^(p-2) J^T J + (p - 2) ||u||^(p-4) (J^T u)(J^T u)^T

  Exact for affine u.

  Args:
    residual_fn: ``residual_fn(params, *data) -> u``, an array or a tree of arrays.
    power: p >= 2; may be traced.
    form: static; ``"matrix"``, ``"factors"`` (low rank: for fewer residuals than parameters) or
      ``"product"`` (nothing is formed).

  Returns:
    ``curvature(params, *data)``: float[d, d], ``LowRankCurvature``, or a function on trees. 0 where
    u = 0 and p > 2.

  Raises:
    TypeError: ``residual_fn`` is not a function.
    ValueError: ``form`` is none of the three, or ``power`` below 2.

  Example:
    >>> model = power_norm_curvature(lambda w: w, power=4.0)
    >>> model(jnp.array([3.0, 4.0])).round().astype(int)  # 25 I + 2 w w^T
    Array([[43, 24],
           [24, 57]], dtype=int32)

  Reference:
    Semenov, Jaggi and Doikov, Gradient-normalized smoothness for optimization with approximate
    Hessians, 2025 (nonlinear equations).
  """
  _check_power(power)

  def weigh(u: Array) -> _Weights:
    unit, scale = _direction(u, power)
    extra = _root((jnp.asarray(power, u.dtype) - 2) * scale)
    return _Weights(jnp.broadcast_to(scale, u.shape), extra * unit)

  return _congruence(residual_fn, "residual_fn", weigh, form)


def power_norm_fisher(residual_fn: Callable[..., PyTree], *, power: ArrayLike) -> CurvatureFn:
  r"""The rank-one (Fisher) term of the curvature of f(x) = 1/p ||u(x)||_2^p alone.

    H(x) = (p - 2) ||u||^(p-4) (J^T u)(J^T u)^T = (p - 2) / ||u||^p grad f(x) grad f(x)^T

  One vector-Jacobian product; a solve with H + lambda B costs as much as one with B. What it leaves
  out, ||u||^(p-2) J^T J, is a multiple of the metric B = J^T J.

  Args:
    residual_fn: ``residual_fn(params, *data) -> u``, an array or a tree of arrays.
    power: p >= 2; may be traced.

  Returns:
    ``curvature(params, *data) -> LowRankCurvature`` with one column.

  Raises:
    TypeError: ``residual_fn`` is not a function.
    ValueError: ``power`` is below 2.

  Example:
    >>> model = power_norm_fisher(lambda w: w, power=4.0)(jnp.array([3.0, 4.0]))
    >>> (model.weights[0] * model.factors @ model.factors.T).round().astype(int)  # 2 w w^T
    Array([[18, 24],
           [24, 32]], dtype=int32)

  Reference:
    Semenov, Jaggi and Doikov, Gradient-normalized smoothness for optimization with approximate
    Hessians, 2025 (Fisher term of H).
  """
  _arguments.check_callable("residual_fn", residual_fn)
  _check_power(power)

  def curvature(params: PyTree, *data: PyTree, **named: PyTree) -> LowRankCurvature:
    flat, unravel = ravel_pytree(_checks.check_float_tree("params", params))
    u, pull = jax.vjp(
      lambda x: _vector("residual_fn", residual_fn(unravel(x), *data, **named)), flat
    )
    unit, scale = _direction(u, power)
    weight = (jnp.asarray(power, u.dtype) - 2) * scale
    return LowRankCurvature(pull(unit)[0][:, None], weight[None])

  return curvature


def log_sum_exp_curvature(
  scores_fn: Callable[..., PyTree], *, mu: ArrayLike = 1.0, form: str = "matrix"
) -> CurvatureFn:
  r"""Weighted Gauss-Newton model of f(x) = mu log sum_i exp(z_i(x) / mu).

    H(x) = 1/mu J^T diag(softmax(z / mu)) J,  J the Jacobian of z at x

  For affine z the Hessian is H - 1/mu grad f grad f^T: the model leaves the negative part out.

  Args:
    scores_fn: ``scores_fn(params, *data) -> z``, an array or a tree of arrays.
    mu: > 0; may be traced.
    form: static; ``"matrix"``, ``"factors"`` (low rank: for fewer scores than parameters) or
      ``"product"`` (nothing is formed).

  Returns:
    ``curvature(params, *data)``: float[d, d], ``LowRankCurvature``, or a function on trees.

  Raises:
    TypeError: ``scores_fn`` is not a function.
    ValueError: ``form`` is none of the three, or ``mu`` not positive.

  Example:
    >>> log_sum_exp_curvature(lambda w: w)(jnp.zeros(2))
    Array([[0.5, 0. ],
           [0. , 0.5]], dtype=float32)

  Reference:
    Semenov, Jaggi and Doikov, Gradient-normalized smoothness for optimization with approximate
    Hessians, 2025 (weighted Gauss-Newton).
  """
  _checks.check_positive("mu", mu, scalar=True)

  def weigh(z: Array) -> _Weights:
    width = jnp.asarray(mu, z.dtype)
    return _Weights(jax.nn.softmax(z / width) / width)

  return _congruence(scores_fn, "scores_fn", weigh, form)


def empirical_fisher(losses_fn: Callable[..., Array], *, form: str = "matrix") -> CurvatureFn:
  r"""Empirical Fisher model of a mean of losses f(x) = 1/n sum_i f_i(x).

    H(x) = 1/n sum_i grad f_i(x) grad f_i(x)^T

  Args:
    losses_fn: ``losses_fn(params, *data) -> float[n]``, the losses of the examples, unreduced.
    form: static; ``"matrix"``, ``"factors"`` (low rank: for fewer examples than parameters) or
      ``"product"`` (nothing is formed).

  Returns:
    ``curvature(params, *data)``: float[d, d], ``LowRankCurvature``, or a function on trees.

  Raises:
    TypeError: ``losses_fn`` is not a function.
    ValueError: ``form`` is none of the three, or ``losses_fn`` returns no vector: a mean, for
      example, whose H would be that of one example.

  Note:
    A penalty of the objective is not in it: add its curvature to the matrix,
    ``lambda w, *data: fisher(w, *data) + ridge * jnp.eye(w.size)``.

  Example:
    >>> x, y = jnp.array([[1.0, 0.0], [0.0, 2.0]]), jnp.array([1.0, 1.0])
    >>> empirical_fisher(lambda w, x, y: 0.5 * (x @ w - y) ** 2)(jnp.zeros(2), x, y)
    Array([[0.5, 0. ],
           [0. , 2. ]], dtype=float32)

  Reference:
    Semenov, Jaggi and Doikov, Gradient-normalized smoothness for optimization with approximate
    Hessians, 2025; what it is and is not: Kunstner, Hennig and Balles, Limitations of the empirical
    Fisher approximation for natural gradient descent, 2019.
  """
  _arguments.check_callable("losses_fn", losses_fn)
  mean = lambda losses: _Weights(jnp.full_like(losses, 1 / losses.size))

  def unreduced(params: PyTree, *data: PyTree, **named: PyTree) -> Array:
    losses = _checks.check_float_tree("losses_fn(params)", losses_fn(params, *data, **named))
    return _checks.check_float_array("losses_fn(params)", losses, rank=1)

  return _congruence(unreduced, "losses_fn", mean, form)


def zero_curvature() -> CurvatureFn:
  r"""No curvature at all, H(x) = 0: Newton steps become normalised gradient steps.

  Returns:
    ``curvature(params, *data) -> LowRankCurvature`` without columns.

  Example:
    >>> zero_curvature()(jnp.ones(3)).factors.shape
    (3, 0)

  Reference:
    Semenov, Jaggi and Doikov, Gradient-normalized smoothness for optimization with approximate
    Hessians, 2025 (first-order case).
  """
  return _nothing


def _nothing(params: PyTree, *data: PyTree, **named: PyTree) -> LowRankCurvature:
  """A function of the module, so that solvers made of it are equal."""
  del data, named
  flat, _ = ravel_pytree(_checks.check_float_tree("params", params))
  return LowRankCurvature(jnp.zeros((flat.size, 0), flat.dtype), jnp.zeros((0,), flat.dtype))
