"""Unfolded networks for sparse recovery that differ in what each layer learns."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxopt_robust import prox, solvers, unfolding
from jaxopt_robust.unfolding import Measurements, ThresholdLayers, WeightLayers


class Problem(NamedTuple):
  """A matrix with what networks may be told of the signals.

  Attributes:
    matrix: float[m, n], A.
    rate: share of non-zeros.
    noise: standard deviation of the measurements' noise.
    support: float[layers], shares of the largest entries that are not shrunk.
  """

  matrix: jax.Array
  rate: Any
  noise: Any
  support: jax.Array


class Variant(NamedTuple):
  """A network.

  Attributes:
    init: ``init(problem, strength, num_layers) -> params``, free parameters at their start.
    apply: ``apply(params, y, problem, depth) -> x`` for measurements float[batch, m].
  """

  init: Callable[..., Any]
  apply: Callable[..., Any]


def _cells(cell: Callable, layers_of: Callable, weight_of: Callable | None = None) -> Callable:
  """``apply`` of a cell; ``layers_of(params, problem)``, ``weight_of(params, problem)``."""

  def apply(params: Any, y: jax.Array, problem: Problem, depth: Any) -> jax.Array:
    weight = None if weight_of is None else weight_of(params, problem)
    start = jnp.zeros((len(y), problem.matrix.shape[1]), y.dtype)
    data = Measurements(y, problem.matrix, weight)
    return unfolding.unfold(cell, layers_of(params, problem), start, data, depth=depth)[0]

  return apply


def _positive(layers: Any) -> Any:
  return unfolding.from_positive(layers)


def _analytic(problem: Problem) -> jax.Array:
  return unfolding.alista_weight(problem.matrix)


def _ista(problem: Problem, strength: Any, num: int) -> Any:
  return _positive(unfolding.ista_layers(problem.matrix, strength, num_layers=num))


def _lista(problem: Problem, strength: Any, num: int) -> Any:
  return unfolding.lista_layers(problem.matrix, strength, num_layers=num)


def _coupled(problem: Problem, strength: Any, num: int) -> Any:
  return unfolding.lista_cp_layers(problem.matrix, strength, num_layers=num)


def _selected(params: WeightLayers, problem: Problem) -> WeightLayers:
  return params._replace(support=problem.support)


def _alista(problem: Problem, strength: Any, num: int) -> Any:
  return _positive(unfolding.alista_layers(problem.matrix, num_layers=num, threshold=strength))


def _with_support(free: Any, problem: Problem) -> ThresholdLayers:
  return unfolding.to_positive(free)._replace(support=problem.support)


def _tista_apply(params: Any, y: jax.Array, problem: Problem, depth: Any) -> jax.Array:
  cell = functools.partial(unfolding.tista_cell, rate=problem.rate, noise_variance=problem.noise**2)
  weight = lambda params, problem: unfolding.tista_weight(problem.matrix)
  layers = lambda params, problem: unfolding.to_positive(params)
  return _cells(cell, layers, weight)(params, y, problem, depth)


def _tista_init(problem: Problem, strength: Any, num: int) -> Any:
  del strength
  return _positive(unfolding.step_layers(problem.matrix, num_layers=num, lipschitz=1.0))


def _solver_init(problem: Problem, strength: Any, num: int, *, names: dict[str, Any]) -> Any:
  """The same positive numbers for every layer, and the strength."""
  del problem
  layer = {name: jnp.asarray(value, jnp.float32) for name, value in names.items()}
  layer["strength"] = jnp.asarray(strength, jnp.float32)
  return _positive(unfolding.repeat_layers(layer, num_layers=num))


def _admm_apply(params: Any, y: jax.Array, problem: Problem, depth: Any) -> jax.Array:
  """Weights of the augmented Lagrangian and strengths a layer."""
  u, s, vt = jnp.linalg.svd(problem.matrix, full_matrices=False)
  del u
  multiply = functools.partial(jnp.matmul, precision="highest")

  def least_squares(v: jax.Array, hyper: Any, rho: jax.Array, y: jax.Array) -> jax.Array:
    """(A^T A + rho I)^{-1} (A^T y + rho v) by the singular values."""
    del hyper
    q = multiply(problem.matrix.T, y) + rho * v
    return (q - multiply(vt.T, s**2 / (s**2 + rho) * multiply(vt, q))) / rho

  make = lambda layer: solvers.admm(
    least_squares, prox.prox_lasso, lambda x, y: x, weight=layer["weight"]
  )
  return _of_solver(make, params, y, problem, depth)


def _pdhg_apply(params: Any, y: jax.Array, problem: Problem, depth: Any) -> jax.Array:
  """Both steps and strengths a layer; 1/2 ||A x - y||^2 is the smooth term."""

  def misfit(x: jax.Array, y: jax.Array) -> jax.Array:
    return 0.5 * jnp.sum((jnp.matmul(problem.matrix, x, precision="highest") - y) ** 2)

  make = lambda layer: solvers.condat_vu(
    misfit, prox.prox_none, prox.prox_lasso, lambda x, y: x, stepsize=layer["step"],
    dual_stepsize=layer["dual"],
  )  # fmt: skip
  return _of_solver(make, params, y, problem, depth)


def _of_solver(
  make: Callable, params: Any, y: jax.Array, problem: Problem, depth: Any
) -> jax.Array:
  layers = unfolding.to_positive(params)
  start = jnp.zeros(problem.matrix.shape[1], y.dtype)
  one = lambda y: unfolding.unfold_solver(
    make, layers, start, lambda layer: (None, layer["strength"]), y, depth=depth
  )[0]
  return jax.vmap(one)(y)


VARIANTS = {
  "steps and thresholds": Variant(
    _ista, _cells(unfolding.ista_cell, lambda free, _: unfolding.to_positive(free))
  ),
  "LISTA": Variant(_lista, _cells(unfolding.lista_cell, lambda params, _: params)),
  "LISTA-CP": Variant(_coupled, _cells(unfolding.lista_cp_cell, lambda params, _: params)),
  "LISTA-CPSS": Variant(_coupled, _cells(unfolding.lista_cp_cell, _selected)),
  "TiLISTA": Variant(
    lambda problem, strength, num: (_alista(problem, strength, num), _analytic(problem)),
    _cells(
      unfolding.alista_cell, lambda params, problem: _with_support(params[0], problem),
      lambda params, _: params[1],
    ),
  ),
  "ALISTA": Variant(
    _alista, _cells(unfolding.alista_cell, _with_support, lambda _, problem: _analytic(problem))
  ),
  "TISTA": Variant(_tista_init, _tista_apply),
  "ADMM": Variant(functools.partial(_solver_init, names={"weight": 0.5}), _admm_apply),
  "primal-dual": Variant(
    functools.partial(_solver_init, names={"step": 0.2, "dual": 1.0}), _pdhg_apply
  ),
}  # fmt: skip


def equilibrium(free: jax.Array, y: jax.Array, problem: Problem, *, max_steps: int) -> jax.Array:
  """Infinitely many equal layers: the fixed point of ISTA, whose log-strength is learned."""
  step = 1 / jnp.linalg.norm(problem.matrix, 2) ** 2
  layer = ThresholdLayers(step, step * jnp.exp(free))
  start = jnp.zeros(problem.matrix.shape[1], y.dtype)

  def one(y: jax.Array) -> jax.Array:
    data = Measurements(y, problem.matrix)
    return unfolding.unfold_equilibrium(
      unfolding.ista_cell, layer, start, data, tol=1e-4, max_steps=max_steps,
      linear_solve=functools.partial(solvers.solve_neumann, num_terms=max_steps, stepsize=1.0),
    )[0]  # fmt: skip

  return jax.vmap(one)(y)
