"""Total variation of a noisy or blurred picture: its operators, and three splitting methods."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxopt_robust import prox, solvers, sweeps

ADMM, PLAIN, FAST, GRADIENT = (
  "ADMM", "Chambolle-Pock", "Chambolle-Pock, accelerated", "Condat-Vu",
)  # fmt: skip
METHODS = (ADMM, PLAIN, FAST, GRADIENT)


class Problem(NamedTuple):
  """What all pictures of one task share.

  The borders reflect, so that the blur and the Laplacian are both diagonal in the cosine basis.

  Attributes:
    basis: float[n, n], the orthonormal cosines (DCT-II) as rows.
    laplacian: float[n, n], eigenvalues of K^T K.
    blur: float[n, n], eigenvalues of A, ones for denoising: one program then serves both tasks.
  """

  basis: Any
  laplacian: Any
  blur: Any


class Point(NamedTuple):
  """One solve; with a leading axis, a batch of them.

  Attributes:
    observed: float[n, n], y.
    lam: strength of the total variation.
    jump: jump between neighbouring pixels that the first step cuts to zero: the weight of ADMM and
      the first dual step of the others are lam / jump.
    reference: float[n, n], the picture to which distances are measured.
  """

  observed: jax.Array
  lam: jax.Array
  jump: jax.Array
  reference: jax.Array


class Solved(NamedTuple):
  """The picture, a lower bound of the minimum (denoising), objective and distance of each step."""

  image: jax.Array
  bound: jax.Array
  values: jax.Array
  distances: jax.Array


def cosine_basis(n: int) -> np.ndarray:
  """The orthonormal type-II cosine transform as a matrix."""
  k, i = np.arange(n)[:, None], np.arange(n)[None, :]
  return np.sqrt(np.where(k == 0, 1, 2) / n) * np.cos(np.pi * k * (2 * i + 1) / (2 * n))


def kernel(sigma: float) -> np.ndarray:
  """Samples of a Gaussian up to four deviations, of sum 1; the identity for sigma = 0."""
  radius = int(4 * sigma + 0.5)
  weights = np.exp(-0.5 * (np.arange(-radius, radius + 1) / (sigma or 1)) ** 2)
  return weights / weights.sum()


def make_problem(pixels: int, blur: float) -> Problem:
  """The operators of a task; ``blur`` is a standard deviation in pixels, 0 for denoising."""
  frequency = np.pi * np.arange(pixels) / pixels
  second, weights = 2 - 2 * np.cos(frequency), kernel(blur)
  row = np.cos(np.outer(frequency, np.arange(len(weights)) - len(weights) // 2)) @ weights
  laplacian = second[:, None] + second[None, :]
  return Problem(cosine_basis(pixels), laplacian, np.outer(row, row))


def differences(x: jax.Array, *_: Any) -> jax.Array:
  """K x: float[n, n, 2], forward differences down and across, zero at the far border."""
  down, across = jnp.diff(x, axis=0), jnp.diff(x, axis=1)
  return jnp.stack([jnp.pad(down, ((0, 1), (0, 0))), jnp.pad(across, ((0, 0), (0, 1)))], -1)


def filtered(x: Any, factors: Any, problem: Problem) -> Any:
  """The operator with the eigenvalues ``factors`` in the cosine basis."""
  c = problem.basis
  return c.T @ (factors * (c @ x @ c.T)) @ c


def misfit(x: jax.Array, observed: jax.Array, problem: Problem) -> jax.Array:
  """1/2 ||A x - y||^2."""
  return 0.5 * jnp.sum((filtered(x, problem.blur, problem) - observed) ** 2)


def objective(x: jax.Array, hyper: Any, observed: jax.Array, problem: Problem) -> jax.Array:
  """1/2 ||A x - y||^2 + lam sum_ij ||(K x)_ij||_2, isotropic total variation; hyper = (_, lam)."""
  return misfit(x, observed, problem) + prox.penalty_l21(differences(x), hyper[1])


def quadratic_argmin(
  v: jax.Array, weight: Any, observed: jax.Array, problem: Problem, penalty: Any
) -> jax.Array:
  """argmin_x 1/2 ||A x - y||^2 + weight (1/2 <x, P x> - <v, x>), P with eigenvalues ``penalty``."""
  right = filtered(observed, problem.blur, problem) + weight * v
  return filtered(right, 1 / (problem.blur**2 + weight * penalty), problem)


def _argmin(v: jax.Array, _: Any, rho: jax.Array, observed: jax.Array, problem: Problem) -> Any:
  (adjoint,) = jax.linear_transpose(differences, observed)(v)
  return quadratic_argmin(adjoint, rho, observed, problem, problem.laplacian)


def _prox_misfit(x: jax.Array, data: tuple[jax.Array, Problem], scaling: Any) -> jax.Array:
  return quadratic_argmin(x, 1 / scaling, *data, 1.0)


def make_solver(family: str, lam: Any, jump: Any, norm: Any, convexity: Any) -> solvers.Solver:
  """A splitting method with the dual step (of ADMM: the weight) lam / jump.

  ADMM solves one linear system a step, in the cosine basis; the method of Chambolle and Pock takes
  the exact operator of the misfit, and is accelerated for ``convexity`` 1 (denoising); that of
  Condat and Vu takes gradients of the misfit, whose Lipschitz constant is 1 for any blur.
  """
  sigma, l21 = lam / jump, prox.prox_l21
  if family == ADMM:
    return solvers.admm(_argmin, l21, differences, weight=sigma, objective=objective)
  if family == PLAIN:
    return solvers.chambolle_pock(
      _prox_misfit, l21, differences, stepsize=0.99 / (sigma * norm**2), dual_stepsize=sigma,
      strong_convexity=convexity, objective=objective,
    )  # fmt: skip
  return solvers.condat_vu(
    misfit, prox.prox_none, l21, differences, stepsize=1 / (0.5 + sigma * norm**2),
    dual_stepsize=sigma, objective=objective,
  )  # fmt: skip


def dual_value(p: jax.Array, lam: Any, observed: jax.Array) -> jax.Array:
  """A lower bound of the denoising minimum: 1/2 ||y||^2 - 1/2 ||y - K^T p||^2, ||p_ij|| <= lam."""
  size = jnp.sqrt(jnp.sum(p**2, -1, keepdims=True))
  feasible = p * jnp.minimum(1.0, lam / jnp.maximum(size, lam))
  (back,) = jax.linear_transpose(differences, observed)(feasible)
  return 0.5 * jnp.sum(observed**2) - 0.5 * jnp.sum((observed - back) ** 2)


@functools.cache
def _program(family: str, steps: int) -> Callable[..., Solved]:
  def one(point: Point, convexity: Any, problem: Problem) -> Solved:
    data, norm = (point.observed, problem), jnp.sqrt(jnp.max(problem.laplacian))
    solver = make_solver(family, point.lam, point.jump, norm, convexity)
    hyper = (data if family == PLAIN else None, point.lam)

    def body(state: Any, _: None) -> tuple[Any, Any]:
      state, info = solver.step(state, hyper, *data)
      return state, (info.value, jnp.linalg.norm(state.params - point.reference))

    state, path = jax.lax.scan(body, solver.init(point.observed, hyper, *data), None, length=steps)
    dual = state.dual * (state.weight if family == ADMM else 1.0)
    return Solved(state.params, dual_value(dual, point.lam, point.observed), *path)

  mapped = sweeps.sweep(one)
  return jax.jit(lambda points, *shared: mapped(points, shared=shared))


def make_solve(name: str, steps: int) -> tuple[Callable[..., Solved], float]:
  """``solve(points, convexity, problem)`` of a method, and the convexity that it uses.

  The accelerated method shares the program of the plain one.
  """
  fast = name == FAST
  return _program(PLAIN if fast else name, steps), float(fast)
