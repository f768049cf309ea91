"""All solvers with the problems that they support, and calls that must fail."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxopt_robust import prox, solvers
from jaxopt_robust.typing import Penalty
from tests.helpers import BadInput


class Problem(NamedTuple):
  """A composite problem f(x; *data) + g(x; hyper) with its known optimum, as float64 NumPy data.

  Attributes:
    name: its name.
    fun: the smooth part.
    prox: the proximal operator of the penalty.
    value: the penalty.
    hyper: the penalty's strength.
    data: what ``fun`` takes after the parameters.
    lipschitz: Lipschitz constant of the gradient of ``fun``.
    strong: strong convexity constant (0: none).
    optimum: the solution.
  """

  name: str
  fun: Callable
  prox: Callable
  value: Callable
  hyper: Any
  data: tuple
  lipschitz: float
  strong: float
  optimum: np.ndarray


def half_mean_square(w, x, y):
  """f(w) = 1/(2n) ||X w - y||^2."""
  return 0.5 * jnp.mean((x @ w - y) ** 2)


def _regression() -> tuple[np.ndarray, np.ndarray]:
  rng = np.random.default_rng(0)
  x = rng.standard_normal((60, 20))
  truth = np.zeros(20)
  truth[:5] = [3.0, -2.0, 1.5, 1.0, -1.0]
  return x, x @ truth + 0.5 * rng.standard_normal(60)


def _ridge() -> Problem:
  x, y = _regression()
  gram = x.T @ x / 60
  eigenvalues = np.linalg.eigvalsh(gram)
  optimum = np.linalg.solve(gram + 0.3 * np.eye(20), x.T @ y / 60)
  return Problem(
    "ridge", half_mean_square, prox.prox_ridge, prox.penalty_ridge, 0.3, (x, y),
    eigenvalues[-1], eigenvalues[0], optimum,
  )  # fmt: skip


def _lasso() -> Problem:
  from sklearn.linear_model import Lasso

  x, y = _regression()
  eigenvalues = np.linalg.eigvalsh(x.T @ x / 60)
  model = Lasso(alpha=0.2, fit_intercept=False, tol=1e-15, max_iter=100_000).fit(x, y)
  return Problem(
    "lasso", half_mean_square, prox.prox_lasso, prox.penalty_lasso, 0.2, (x, y),
    eigenvalues[-1], eigenvalues[0], model.coef_,
  )  # fmt: skip


def _elastic_net() -> Problem:
  from sklearn.linear_model import ElasticNet

  x, y = _regression()
  eigenvalues = np.linalg.eigvalsh(x.T @ x / 60)
  lam, gamma = 0.15, 2.0
  model = ElasticNet(
    alpha=lam * (1 + gamma), l1_ratio=1 / (1 + gamma), fit_intercept=False, tol=1e-15,
    max_iter=100_000,
  ).fit(x, y)  # fmt: skip
  return Problem(
    "elastic_net", half_mean_square, prox.prox_elastic_net, prox.penalty_elastic_net,
    (lam, gamma), (x, y), eigenvalues[-1], eigenvalues[0], model.coef_,
  )  # fmt: skip


def _non_negative_least_squares() -> Problem:
  from scipy.optimize import nnls

  x, y = _regression()
  eigenvalues = np.linalg.eigvalsh(x.T @ x / 60)
  return Problem(
    "non_negative_least_squares", half_mean_square, prox.prox_non_negative_lasso,
    prox.penalty_non_negative_lasso, 0.0, (x, y), eigenvalues[-1], eigenvalues[0], nnls(x, y)[0],
  )  # fmt: skip


def _group_lasso() -> Problem:
  """One group and an orthogonal design: shrinks the whole vector."""
  target = np.array([3.0, -4.0, 0.0])
  fun = lambda w, b: 0.5 * jnp.sum((w - b) ** 2)
  return Problem(
    "group_lasso", fun, prox.prox_group_lasso, prox.penalty_group_lasso, 2.0, (target,), 1.0, 1.0,
    target * (1 - 2.0 / 5.0),
  )  # fmt: skip


PROBLEMS = [_ridge(), _lasso(), _elastic_net(), _non_negative_least_squares(), _group_lasso()]


class SolverCase(NamedTuple):
  """A solver under the contract tests of ``tests/solvers``.

  Attributes:
    name: its name.
    make: ``make(problem) -> Solver``.
    supports: names of the problems that it solves.
    monotone: whether theory says that the objective never increases.
    pack: ``pack(problem, hyper) -> (hyper, data)`` as the solver takes them.
    at_rest: whether the state comes to rest, as ``implicit_fixed_point`` needs.
    tol: tolerance at which the optimum is reached to 1e-8.
  """

  name: str
  make: Callable[[Problem], solvers.Solver]
  supports: tuple[str, ...]
  monotone: bool = False
  pack: Callable = lambda problem, hyper: (hyper, tuple(jnp.asarray(d) for d in problem.data))
  at_rest: bool = False
  tol: float = 1e-10


def least_squares_of(problem: Problem) -> tuple[Any, Any]:
  """(A, b) with f(w) = 1/2 ||A w - b||^2."""
  if problem.name == "group_lasso":
    return jnp.eye(3), jnp.asarray(problem.data[0])
  x, y = (jnp.asarray(d) for d in problem.data)
  return x / jnp.sqrt(60.0), y / jnp.sqrt(60.0)


def both_terms(problem: Problem, hyper: Any) -> tuple[Any, tuple]:
  """For methods that take the least-squares term by its operator."""
  return (least_squares_of(problem), hyper), ()


def as_gram(problem: Problem, hyper: Any) -> tuple[Any, tuple]:
  """For methods that take f by its matrix and its vector."""
  a, b = least_squares_of(problem)
  return hyper, (a.T @ a, a.T @ b)


def no_first_term(problem: Problem, hyper: Any) -> tuple[Any, tuple]:
  """For methods with a smooth part and two operators, the first of which is not used."""
  return (None, hyper), tuple(jnp.asarray(d) for d in problem.data)


def one_step(problem: Problem) -> Callable:
  """The proximal gradient map, for methods that take any map."""
  step = 1 / problem.lipschitz

  def move(w, hyper, *data):
    return problem.prox(w - step * jax.grad(problem.fun)(w, *data), hyper, step)

  return move


def with_penalty(problem: Problem) -> Callable:
  """f + g as one function, for methods that know of no penalty."""
  return lambda w, hyper, *data: problem.fun(w, *data) + problem.value(w, hyper)


ALL = tuple(p.name for p in PROBLEMS)
SOLVERS = [
  SolverCase(
    "ista", lambda p: solvers.ista(p.fun, p.prox, stepsize=1 / p.lipschitz), ALL, monotone=True,
    at_rest=True,
  ),
  SolverCase("ista_backtracking", lambda p: solvers.ista(p.fun, p.prox), ALL, monotone=True),
  SolverCase(
    "fista", lambda p: solvers.fista(p.fun, p.prox, stepsize=1 / p.lipschitz), ALL, monotone=False
  ),
  SolverCase(
    "fista_no_restart",
    lambda p: solvers.fista(p.fun, p.prox, stepsize=1 / p.lipschitz, restart=None),
    ALL,
    monotone=False,
  ),
  SolverCase("fista_backtracking", lambda p: solvers.fista(p.fun, p.prox), ALL, monotone=False),
  SolverCase(
    "spectral",
    lambda p: solvers.spectral_proximal_gradient(p.fun, Penalty(p.value, p.prox)),
    ALL,
  ),
  SolverCase(
    "spectral_monotone",
    lambda p: solvers.spectral_proximal_gradient(p.fun, Penalty(p.value, p.prox), memory=1),
    ALL,
    monotone=True,
  ),
  SolverCase(
    "douglas_rachford", lambda p: solvers.douglas_rachford(prox.prox_least_squares, p.prox), ALL,
    pack=both_terms, at_rest=True,
  ),
  SolverCase(
    "davis_yin",
    lambda p: solvers.davis_yin(p.fun, prox.prox_none, p.prox, stepsize=1 / p.lipschitz),
    ALL, pack=no_first_term, at_rest=True,
  ),
  SolverCase(
    "admm", lambda p: solvers.admm(prox.prox_least_squares, p.prox), ALL, pack=both_terms,
    at_rest=True, tol=1e-11,
  ),
  SolverCase(
    "admm_balanced",
    lambda p: solvers.admm(prox.prox_least_squares, p.prox, weight=100.0, balance=10.0),
    ALL, pack=both_terms, tol=1e-11,
  ),
  SolverCase(
    "chambolle_pock",
    lambda p: solvers.chambolle_pock(
      prox.prox_least_squares, p.prox, lambda w: w, stepsize=0.99, dual_stepsize=0.99
    ),
    ALL, pack=both_terms, at_rest=True,
  ),
  SolverCase(
    "condat_vu",
    lambda p: solvers.condat_vu(
      p.fun, prox.prox_none, p.prox, lambda w, *data: w, stepsize=1 / p.lipschitz,
      dual_stepsize=p.lipschitz / 2,
    ),
    ALL, pack=no_first_term, at_rest=True,
  ),
  SolverCase(
    "block_coordinate_descent",
    lambda p: solvers.block_coordinate_descent(
      lambda z, y: 0.5 * jnp.mean((z - y) ** 2), p.prox, curvature=1 / 60
    ),
    ALL[:-1], monotone=True, at_rest=True,
  ),
  SolverCase(
    "gram_coordinate_descent",
    lambda p: solvers.gram_coordinate_descent(Penalty(p.value, p.prox)),
    ALL[:-1], pack=as_gram, monotone=True,
  ),
  SolverCase(
    "fixed_point_iteration", lambda p: solvers.fixed_point_iteration(one_step(p)), ALL,
    monotone=True, at_rest=True,
  ),
  SolverCase("anderson", lambda p: solvers.anderson(one_step(p)), ALL),
  SolverCase(
    "working_set",
    lambda p: solvers.working_set(
      half_mean_square, p.prox, stepsize=1 / p.lipschitz, min_size=16
    ),
    ALL[:-1],
  ),
  SolverCase(
    "prox_ncg", lambda p: solvers.prox_ncg(p.fun, Penalty(p.value, p.prox)), ALL, monotone=True
  ),
  SolverCase(
    "gns_newton",
    lambda p: solvers.gns_newton(with_penalty(p), solvers.exact_curvature(with_penalty(p))),
    ("ridge",), monotone=True,
    pack=lambda p, hyper: (None, (hyper, *(jnp.asarray(d) for d in p.data))),
  ),
]  # fmt: skip

COVERED = set(solvers.__all__)  # each is exercised in tests/solvers

X = jnp.ones(2)
QUADRATIC = lambda w: jnp.sum(w**2)
ISTA = solvers.ista(lambda w, *data: QUADRATIC(w), prox.prox_lasso, stepsize=0.1)
SOLVE = lambda w, h: (w * h, None)
RESIDUAL = lambda w, h: w


def _run(params, **options):
  return solvers.run_until(ISTA, params, 1.0, **{"tol": 1e-3, "max_steps": 5, **options})


def _no_info(w):
  bare = solvers.Solver(ISTA.init, lambda s, h: (s, jnp.zeros(())))
  return solvers.run_until(bare, w, 1.0, tol=1e-3, max_steps=5)


def _failed_inside_jit():
  return jax.jit(lambda w: solvers.raise_if_failed(_run(w)[1]))(X)


def _bad(fn: str, what: str, call: Callable, error: type[Exception], match: str) -> BadInput:
  return BadInput(f"solvers.{fn}", what, call, error, match)


BAD_INPUTS = [
  _bad("run_until", "None", lambda: _run(None), TypeError, "params must be an array or a pytree"),
  _bad("run_until", "text", lambda: _run("text"), TypeError, "params must be a number"),
  _bad(
    "run_until", "uncalled factory",
    lambda: solvers.run_until(solvers.fista, X, 1.0, tol=0.1, max_steps=5), TypeError,
    "call it, fista",
  ),
  _bad("run_until", "vector tol", lambda: _run(X, tol=[0.1, 0.2]), ValueError, "tol must be a sc"),
  _bad(
    "run_until", "vector steps", lambda: _run(X, max_steps=np.array([1, 2])), ValueError,
    "max_steps must be a scalar",
  ),
  _bad("run_until", "half steps", lambda: _run(X, max_steps=2.5), TypeError, "must hold int"),
  _bad(
    "run_until", "64 bits", lambda: _run(X, max_steps=2**32 + 1), ValueError, "max_steps must fit",
  ),
  _bad("run_until", "empty", lambda: _run({}), ValueError, "empty pytree"),
  _bad("run_until", "no leaves", lambda: _run(()), ValueError, "empty pytree"),
  _bad("run_until", "tol", lambda: _run(X, tol=-1.0), ValueError, "tol must be >= 0; got -1"),
  _bad("run_until", "steps", lambda: _run(X, max_steps=-1), ValueError, "max_steps must be >= 0"),
  _bad("run_until", "info", lambda: _no_info(X), TypeError, "fields 'error' and 'value'"),
  _bad(
    "run_steps", "solver", lambda: solvers.run_steps(3, X, 1.0, num_steps=2), TypeError,
    r"solver must be a Solver\(init, step\); got int 3",
  ),
  _bad(
    "run_steps", "zero", lambda: solvers.run_steps(ISTA, X, 1.0, num_steps=0), ValueError,
    "num_steps must be at least 1",
  ),
  _bad(
    "run_steps", "params", lambda: solvers.run_steps(ISTA, None, 1.0, num_steps=2), TypeError,
    "params must be an array",
  ),
  _bad(
    "at", "state", lambda: solvers.at(ISTA, X, X, 1.0), TypeError, "state must be a solver's state",
  ),
  _bad("at", "solver", lambda: solvers.at(3, X, X, 1.0), TypeError, "solver must be a Solver"),
  _bad(
    "at", "shape", lambda: solvers.at(ISTA, ISTA.init(X, 1.0), jnp.ones(3), 1.0), ValueError,
    "must agree in shapes",
  ),
  _bad(
    "run_steps", "float", lambda: solvers.run_steps(ISTA, X, 1.0, num_steps=2.0), TypeError,
    "static Python integer",
  ),
  _bad("raise_if_failed", "inside jit", _failed_inside_jit, TypeError, "debug.checked"),
  _bad("implicit", "solve", lambda: solvers.implicit(3, RESIDUAL), TypeError, "solve must be call"),
  _bad("implicit", "optimality", lambda: solvers.implicit(SOLVE, 3), TypeError, "optimality"),
  _bad(
    "implicit", "linear_solve", lambda: solvers.implicit(SOLVE, RESIDUAL, linear_solve="cg"),
    TypeError, "linear_solve must be callable",
  ),
  _bad(
    "implicit", "residual", lambda: jax.grad(
      lambda h: solvers.implicit(SOLVE, lambda w, h: w[:1])(X, h)[0].sum()
    )(1.0), ValueError, "must agree in shapes",
  ),
  _bad(
    "implicit", "params",
    lambda: solvers.implicit(SOLVE, RESIDUAL)(None, 1.0), TypeError, "params must be an array",
  ),
  _bad(
    "proximal_residual", "prox", lambda: solvers.proximal_residual(QUADRATIC, None), TypeError,
    "prox must be a proximal operator",
  ),
  _bad(
    "proximal_residual", "vector step",
    lambda: solvers.proximal_residual(QUADRATIC, prox.lasso, stepsize=X), ValueError,
    "stepsize must be a scalar",
  ),
  _bad(
    "proximal_residual", "stepsize",
    lambda: solvers.proximal_residual(QUADRATIC, prox.prox_lasso, stepsize=0.0), ValueError, "> 0",
  ),
  *(
    case
    for name in ("solve_cg", "solve_bicgstab", "solve_gmres", "solve_dense")
    for case in (
      _bad(
        name, "matvec", lambda f=name: getattr(solvers, f)(None, X), TypeError,
        "matvec must be callable",
      ),
      _bad(
        name, "b", lambda f=name: getattr(solvers, f)(lambda v: v, "b"), TypeError,
        "b must be a number or an array",
      ),
    )
  ),
  _bad(
    "solve_gmres", "vector tol", lambda: solvers.solve_gmres(lambda v: v, X, tol=X), ValueError,
    "tol must be a scalar",
  ),
  _bad(
    "solve_cg", "tol", lambda: solvers.solve_cg(lambda v: v, X, tol=-1.0), ValueError, "> 0",
  ),
  _bad(
    "solve_bicgstab", "steps", lambda: solvers.solve_bicgstab(lambda v: v, X, max_steps=0),
    ValueError, "at least 1",
  ),
  _bad(
    "solve_gmres", "restart", lambda: solvers.solve_gmres(lambda v: v, X, restart=0), ValueError,
    "at least 1",
  ),
]  # fmt: skip
for _name in ("ista", "fista"):
  _make = getattr(solvers, _name)
  _vector_fun = _make(lambda w: w, prox.prox_lasso, stepsize=1.0)
  BAD_INPUTS += [
    _bad(_name, "fun", lambda m=_make: m(None, prox.prox_lasso), TypeError, "fun must be callable"),
    _bad(_name, "prox", lambda m=_make: m(QUADRATIC, 1.0), TypeError, "prox must be a prox"),
    _bad(
      _name, "vector step", lambda m=_make: m(QUADRATIC, prox.lasso, stepsize=X), ValueError,
      "stepsize must be a scalar",
    ),
    _bad(
      _name, "vector schedule", lambda m=_make: solvers.run_until(
        m(QUADRATIC, prox.lasso, stepsize=lambda count: X), X, 1.0, tol=0.1, max_steps=3
      ), ValueError, "must return a scalar",
    ),
    _bad(
      _name, "stepsize", lambda m=_make: m(QUADRATIC, prox.prox_lasso, stepsize=-1.0), ValueError,
      "stepsize must be > 0; got -1",
    ),
    _bad(
      _name, "shrink", lambda m=_make: m(QUADRATIC, prox.prox_lasso, shrink=1.0), ValueError,
      r"shrink must be in \(0",
    ),
    _bad(
      _name, "tries", lambda m=_make: m(QUADRATIC, prox.prox_lasso, max_backtracks=0), ValueError,
      "max_backtracks must be at least 1",
    ),
    _bad(
      _name, "vector objective",
      lambda s=_vector_fun: solvers.run_until(s, X, 1.0, tol=1e-3, max_steps=3),
      (TypeError, ValueError), "scalar",
    ),
  ]  # fmt: skip
BAD_INPUTS += [
  _bad(
    "fista", "mode", lambda: solvers.fista(QUADRATIC, prox.prox_lasso, restart="speed"),
    ValueError, "restart must be one of 'gradient', None; got 'speed'",
  ),
  _bad(
    "fista", "monotone", lambda: solvers.fista(QUADRATIC, prox.prox_l0, monotone=True), ValueError,
    "monotone needs the value of g",
  ),
  _bad(
    "ista", "growth", lambda: solvers.ista(QUADRATIC, prox.prox_lasso, growth=0.5), ValueError,
    "growth must be in",
  ),
]  # fmt: skip
