"""The migration page: all of jaxopt's names, and every line with a name of ours runs."""

import importlib
import re
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxopt_robust as jr

PAGE = (Path(__file__).parents[1] / "docs" / "migration.md").read_text().split("## Name by name")[1]
ROWS = dict(re.findall(r"^\| `([\w.]+)` \| (.*) \|$", PAGE, re.M))
OURS = {name: text for name, text in ROWS.items() if "jr." in text}

X = jnp.asarray(np.random.default_rng(0).standard_normal((12, 3)), jnp.float32)
Y = X @ jnp.asarray([1.0, -2.0, 0.0]) + 0.1
V = jnp.asarray([0.9, -0.4, 0.3])
SQUARE = jnp.asarray([[4.0, 1.0, 0.0], [1.0, 3.0, 0.5], [0.0, 0.5, 2.0]])
SIM = jnp.asarray([[1.0, 0.2, 0.0], [0.3, 0.8, 0.1], [0.0, 0.4, 0.5]])
MARGINALS = (jnp.asarray([0.2, 0.5, 0.3]), jnp.asarray([0.4, 0.4, 0.2]))
LABELS = jnp.asarray([0, 2, 1])


def least_squares(w, x, y):
  return 0.5 * jnp.mean((x @ w - y) ** 2)


def run(solver, start=None, hyper=None, *data, tol=1e-5, max_steps=2000):
  start = jnp.zeros(3) if start is None else start
  params, info = jax.jit(
    lambda s, h, d: jr.solvers.run_until(solver, s, h, *d, tol=tol, max_steps=max_steps)
  )(start, hyper, data)
  assert int(info.status) == jr.solvers.CONVERGED
  return params


def near(got, expected, atol=1e-3):
  np.testing.assert_allclose(got, expected, atol=atol)


def solution(strength=0.0):
  """The Lasso of the data by coordinates, in float64."""
  x, y, w = np.asarray(X, float), np.asarray(Y, float), np.zeros(3)
  for _ in range(500):
    for j in range(3):
      r = x[:, j] @ (y - x @ w + x[:, j] * w[j]) / 12
      w[j] = np.sign(r) * max(abs(r) - strength, 0) / (x[:, j] @ x[:, j] / 12)
  return w


def bounded():
  """Minimum of the quadratic 1/2 w^T SQUARE w - w^T (4, -2, 1) over [-0.5, 0.5]."""
  w = np.zeros(3)
  for _ in range(200):
    for j in range(3):
      r = np.array([4.0, -2.0, 1.0])[j] - SQUARE[j] @ w + SQUARE[j, j] * w[j]
      w[j] = np.clip(r / SQUARE[j, j], -0.5, 0.5)
  return w


def quadratic(w):
  return 0.5 * w @ SQUARE @ w - w @ jnp.asarray([4.0, -2.0, 1.0])


BOX = (-0.5, 0.5)


def spectral_in_a_box():
  near(run(jr.solvers.spectral_proximal_gradient(quadratic, jr.prox.box), None, BOX), bounded())


def projected_in_a_box():
  clip = lambda w, b: jnp.clip(w, min=b[0], max=b[1])
  near(run(jr.solvers.projected_gradient(quadratic, clip), None, BOX), bounded())
  spectral_in_a_box()


def admm_in_a_box():
  q = jnp.asarray([4.0, -2.0, 1.0])
  argmin = lambda v, h, rho: jnp.linalg.solve(SQUARE + rho * jnp.eye(3), q + rho * v)
  solver = jr.solvers.admm(argmin, jr.prox.prox_box, lambda x: x)
  near(run(solver, None, (None, BOX)), bounded())


def anderson_of_a_map():
  move = lambda x, h: jnp.cos(x)
  near(run(jr.solvers.anderson(move), jnp.ones(3)), 0.739085)


def anderson_of_a_solver():
  solver = jr.solvers.ista(least_squares, jr.prox.prox_lasso, stepsize=0.3)
  move = lambda x, h, *d: solver.step(solver.init(x, h, *d), h, *d)[0].params
  near(run(jr.solvers.anderson(move), None, 0.1, X, Y), solution(0.1))


def coordinates():
  loss = lambda z, y: 0.5 * jnp.mean((z - y) ** 2)
  solver = jr.solvers.block_coordinate_descent(loss, jr.prox.prox_lasso, curvature=1 / 12)
  near(run(solver, None, 0.1, X, Y), solution(0.1))


def kkt_system():
  """min 1/2 w^T Q w - c^T w with sum w = 1, by one linear solve."""

  def matvec(p):
    return {"w": SQUARE @ p["w"] + p["dual"], "dual": jnp.sum(p["w"])}

  right = {"w": V, "dual": jnp.ones(())}
  found = jr.solvers.solve_dense(matvec, right)
  near(jax.tree.leaves(matvec(found))[1], V, 1e-5)
  near(found["w"].sum(), 1.0, 1e-5)


def gradient_descent():
  fun = lambda w: least_squares(w, X, Y)
  near(run(jr.solvers.ista(fun, jr.prox.prox_none)), solution())
  near(run(jr.solvers.fista(fun, jr.prox.prox_none)), solution())


def proximal_gradient():
  near(run(jr.solvers.fista(least_squares, jr.prox.prox_lasso), None, 0.1, X, Y), solution(0.1))
  near(run(jr.solvers.ista(least_squares, jr.prox.prox_lasso), None, 0.1, X, Y), solution(0.1))


def projected_gradient():
  solver = jr.solvers.projected_gradient(quadratic, optax.projections.projection_simplex)
  p = run(solver, jnp.ones(3) / 3, 1.0)
  grad = jax.grad(quadratic)(p)
  assert float(grad @ p - grad.min()) < 1e-4


def mirror_descent():
  step = jr.solvers.make_projection_grad(jax.nn.softmax, jnp.log)
  p = run(jr.solvers.mirror_descent(quadratic, step, stepsize=0.2), jnp.ones(3) / 3)
  grad = jax.grad(quadratic)(p)
  assert float(grad @ p - grad.min()) < 1e-3


def by_optax(optimizer):
  solver = jr.solvers.from_optax(lambda w: least_squares(w, X, Y), optimizer)
  near(run(solver, tol=1e-4), solution())


def implicit_derivatives():
  solve = lambda x, h: (V / h, None)
  root = jr.solvers.implicit(solve, lambda x, h: h * x - V)
  value = lambda h: root(jnp.zeros(3), h)[0]
  near(jax.jvp(value, (2.0,), (1.0,))[1], -V / 4, 1e-5)
  near(jax.vjp(value, 2.0)[1](jnp.ones(3))[0], -jnp.sum(V) / 4, 1e-5)
  solver = jr.solvers.fixed_point_iteration(lambda x, h: 0.5 * x + h)
  whole = jr.solvers.implicit_fixed_point(solver, tol=1e-6, max_steps=99)
  near(jax.grad(lambda h: whole(jnp.zeros(()), h)[0].params)(1.0), 2.0, 1e-4)


def linear(solve):
  near(SQUARE @ solve(lambda v: SQUARE @ v, V), V, 1e-4)


def support_solve():
  solve = lambda x, lam: (jr.prox.prox_lasso(V, lam), None)
  fun = lambda x: 0.5 * jnp.sum((x - V) ** 2)
  exact = jr.solvers.implicit(
    solve, jr.solvers.support_residual(fun, jr.prox.lasso), linear_solve=jr.solvers.solve_cg
  )
  near(jax.jacobian(lambda lam: exact(jnp.zeros(3), lam)[0])(0.35), [-1.0, 1.0, 0.0], 1e-5)


def states_hold_multipliers():
  solver = jr.solvers.admm(jr.prox.prox_least_squares, jr.prox.prox_lasso)
  start = solver.init(jnp.zeros(3), ((X, Y), 0.5))
  state, _ = jr.solvers.run_state(solver, start, ((X, Y), 0.5), tol=1e-6, max_steps=999)
  assert isinstance(state, jr.solvers.ADMMState)
  near(state.weight * state.dual, X.T @ (Y - X @ state.params), 1e-2)
  assert "dual" in jr.solvers.PrimalDualState._fields


def logreg(intercept):
  def fun(params):
    return jnp.mean(
      jr.losses.cross_entropy_loss(X[:3] @ params["w"] + params["b"][None, :], LABELS)
    )

  def prox(params, hyper, scaling):
    w = jr.prox.prox_ridge(params["w"], hyper, scaling)
    return {"w": w, "b": jr.prox.prox_none(params["b"]) if intercept else 0 * params["b"]}

  start = {"w": jnp.zeros((3, 3)), "b": jnp.zeros(3)}
  found = run(jr.solvers.fista(fun, prox), start, 0.1)
  near(jax.grad(fun)(found)["w"], -0.1 * found["w"])


def svm():
  fun = lambda w: jnp.mean(jr.losses.crammer_singer_loss(X[:3] @ w, LABELS))
  assert jnp.isfinite(fun(jr.prox.prox_ridge(jnp.ones((3, 3)), 0.1)))
  projected_gradient()


def any_prox(name):
  fn, hyper = getattr(jr.prox, f"prox_{name}"), (0.3, 0.5) if name == "elastic_net" else 0.3
  out = fn(V, None if name == "none" else hyper, 0.7)
  assert out.shape == V.shape and bool(jnp.all(jnp.abs(out) <= jnp.abs(V)))


def any_projection(name, *args):
  fn = getattr(jr.projections, name)
  once = fn(*args)
  assert bool(jnp.all(jnp.isfinite(once)))
  if not name.startswith("kl_"):
    near(fn(once, *args[1:]), once, 1e-4)
  return once


def transport(name, *marginals):
  plan = any_projection(name, SIM, *marginals)
  rows = marginals[0][0] if marginals else jnp.ones(3)
  near(plan.sum(axis=1), rows, 1e-4)
  assert float(plan.min()) >= 0


HALF = jnp.asarray([[1.0, 1.0, 1.0]])
CHECKS: dict[str, Callable[[], object]] = {
  "AndersonAcceleration": anderson_of_a_map,
  "AndersonWrapper": anderson_of_a_solver,
  "ArmijoSGD": lambda: by_optax(
    optax.chain(optax.sgd(1.0), optax.scale_by_backtracking_linesearch(15))
  ),
  "BlockCoordinateDescent": coordinates,
  "BoxCDQP": projected_in_a_box,
  "BoxOSQP": admm_in_a_box,
  "Broyden": anderson_of_a_map,
  "EqualityConstrainedQP": kkt_system,
  "FixedPointIteration": lambda: near(
    run(jr.solvers.fixed_point_iteration(lambda x, h: jnp.cos(x)), jnp.ones(3)), 0.739085
  ),
  "GradientDescent": gradient_descent,
  "LBFGS": lambda: by_optax(optax.lbfgs()),
  "LBFGSB": spectral_in_a_box,
  "MirrorDescent": mirror_descent,
  "OSQP": admm_in_a_box,
  "OptaxSolver": lambda: by_optax(optax.adam(0.1)),
  "OptStep": lambda: jr.solvers.SolveInfo(0, 0.0, 0.0, 0, None),
  "ProjectedGradient": projected_gradient,
  "ProximalGradient": proximal_gradient,
  "ScipyBoundedMinimize": spectral_in_a_box,
  "implicit_diff.custom_root": implicit_derivatives,
  "implicit_diff.custom_fixed_point": implicit_derivatives,
  "implicit_diff.root_jvp": implicit_derivatives,
  "implicit_diff.root_vjp": implicit_derivatives,
  "linear_solve.solve_bicgstab": lambda: linear(jr.solvers.solve_bicgstab),
  "linear_solve.solve_cg": lambda: linear(jr.solvers.solve_cg),
  "linear_solve.solve_cholesky": lambda: linear(jr.solvers.solve_dense),
  "linear_solve.solve_gmres": lambda: linear(jr.solvers.solve_gmres),
  "linear_solve.solve_inv": lambda: linear(jr.solvers.solve_dense),
  "linear_solve.solve_lu": lambda: linear(jr.solvers.solve_dense),
  "linear_solve.solve_normal_cg": support_solve,
  "linear_solve.solve_qr": lambda: linear(jr.solvers.solve_dense),
  "prox.make_prox_from_projection": lambda: near(
    jr.prox.make_prox_from_projection(optax.projections.projection_simplex)(V).sum(), 1.0
  ),
  **{
    f"prox.prox_{name}": lambda name=name: any_prox(name)
    for name in (
      "none", "lasso", "non_negative_lasso", "elastic_net", "group_lasso", "ridge",
      "non_negative_ridge",
    )
  },
  "projection.projection_non_negative": lambda: near(
    any_projection("projection_non_negative", V), [0.9, 0.0, 0.3], 1e-6
  ),
  "projection.projection_box": lambda: near(
    any_projection("projection_box", V, BOX), [0.5, -0.4, 0.3], 1e-6
  ),
  "projection.projection_hypercube": lambda: near(
    any_projection("projection_hypercube", V, 0.5), [0.5, 0.0, 0.3], 1e-6
  ),
  "projection.projection_hyperplane": lambda: near(
    any_projection("projection_hyperplane", V, (V, 1.0)) @ V, 1.0, 1e-6
  ),
  "projection.projection_halfspace": lambda: near(
    any_projection("projection_halfspace", V, (V, 1.0)) @ V, 1.0, 1e-6
  ),
  **{
    f"projection.projection_{name}": lambda name=name, order=order: near(
      jnp.linalg.norm(any_projection(f"projection_{name}", V, 0.8), order), 0.8, 1e-6
    )
    for name, order in (
      ("simplex", 1), ("l1_sphere", 1), ("l1_ball", 1), ("l2_sphere", 2), ("l2_ball", 2),
      ("linf_ball", jnp.inf),
    )
  },
  "projection.projection_sparse_simplex": lambda: any_projection(
    "projection_sparse_simplex", V, 2
  ),
  "projection.projection_affine_set": lambda: near(
    any_projection("projection_affine_set", V, (HALF, jnp.ones(1))).sum(), 1.0
  ),
  "projection.projection_polyhedron": lambda: near(
    any_projection(
      "projection_polyhedron", V, (HALF, jnp.ones(1), -jnp.eye(3), jnp.zeros(3))
    ),
    optax.projections.projection_simplex(V),
  ),
  "projection.projection_box_section": lambda: near(
    any_projection(
      "projection_box_section", V, (jnp.zeros(3), jnp.ones(3), jnp.ones(3), 1.0)
    ),
    optax.projections.projection_simplex(V),
  ),
  "projection.projection_transport": lambda: transport("projection_transport", MARGINALS),
  "projection.projection_birkhoff": lambda: transport("projection_birkhoff"),
  "projection.kl_projection_transport": lambda: transport("kl_projection_transport", MARGINALS),
  "projection.kl_projection_birkhoff": lambda: transport("kl_projection_birkhoff"),
  "isotonic.isotonic_l2_pav": lambda: near(
    jr.projections.projection_isotonic(V), [0.25, 0.25, 0.3], 1e-6
  ),
  "loss.multiclass_hinge_loss": lambda: near(
    jr.losses.crammer_singer_loss(SIM, LABELS),
    jax.vmap(optax.losses.multiclass_hinge_loss)(SIM, LABELS),
  ),
  "loss.multiclass_logistic_loss": lambda: near(
    jr.losses.cross_entropy_loss(SIM, LABELS),
    optax.losses.softmax_cross_entropy_with_integer_labels(SIM, LABELS),
  ),
  "objective.CompositeLinearFunction": coordinates,
  "objective.least_squares": lambda: near(
    jr.prox.least_squares.value(V, (X, Y)) / 12, least_squares(V, X, Y), 1e-5
  ),
  "objective.ridge_regression": lambda: near(
    run(jr.solvers.fista(least_squares, jr.prox.ridge.prox), None, 0.2, X, Y),
    jnp.linalg.solve(X.T @ X / 12 + 0.2 * jnp.eye(3), X.T @ Y / 12),
  ),
  "objective.multiclass_logreg": lambda: logreg(intercept=False),
  "objective.multiclass_logreg_with_intercept": lambda: logreg(intercept=True),
  "objective.l2_multiclass_logreg": lambda: logreg(intercept=False),
  "objective.l2_multiclass_logreg_with_intercept": lambda: logreg(intercept=True),
  "objective.multiclass_linear_svm_dual": svm,
  "tree_util.tree_where": lambda: near(jr.numerics.tree_where(True, V, 0 * V), V),
  "loop.while_loop": lambda: proximal_gradient(),
  "base.IterativeSolver": lambda: jr.solvers.Solver(init=None, step=None),
  "base.KKTSolution": states_hold_multipliers,
  "base.StochasticSolver": lambda: jr.transforms.proximal(jr.prox.prox_lasso, learning_rate=0.1),
}  # fmt: skip


# Rows about solvers, derivatives and base classes: their lines are run above, against solutions
# that need no other package.
NO_PAIR = (
  "implicit_diff.", "base.", "loop.", "cond.", "linear_solve.solve_iterative", "tree_util.tree_map",
  "tree_util.tree_reduce", "linear_solve.solve_normal_cg", "objective.Composite",
  "objective.multiclass_linear_svm", "perturbations.make",
)  # fmt: skip


@pytest.mark.peer
def test_both_sides_of_a_row_agree(rng):
  """On random arguments, wherever a row is a function of numbers."""
  pytest.importorskip("jaxopt")
  from tests.migration_pairs import pairs

  with jax.numpy_rank_promotion("allow"):
    table = pairs()
    wanted = {n for n in ROWS if "." in n and not n.startswith(NO_PAIR)}
    assert wanted <= set(table), wanted - set(table)
    for i in range(3):
      x, y = jnp.asarray(rng.standard_normal((2, 3)), jnp.float32)
      w = jnp.asarray(rng.standard_normal((3, 3)), jnp.float32)
      labels = jnp.asarray(rng.integers(0, 3, 3))
      for name, (theirs, ours) in table.items():
        # jaxopt's solvers inside its projections stop early.
        loose = {"polyhedron": 2e-2, "birkhoff": 2e-3, "transport": 2e-3}
        atol = next((v for word, v in loose.items() if word in name), 1e-5)
        got, expected = (f(x, y, w, labels, jax.random.key(i)) for f in (ours, theirs))
        for one, other in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
          np.testing.assert_allclose(one, other, rtol=1e-4, atol=atol, err_msg=name)


def test_the_page_has_jaxopts_131_names():
  assert len(ROWS) == 131


@pytest.mark.peer
def test_the_page_has_every_name_of_the_installed_jaxopt():
  jaxopt = pytest.importorskip("jaxopt")
  found = set()
  folders = (
    "", "projection", "prox", "loss", "objective", "linear_solve", "implicit_diff", "tree_util",
    "perturbations", "isotonic", "base", "cond", "loop",
  )  # fmt: skip
  for folder in folders:
    module = importlib.import_module(f"jaxopt.{folder}") if folder else jaxopt
    for name, thing in vars(module).items():
      home = getattr(thing, "__module__", None) or ""
      if not name.startswith("_") and home.startswith("jaxopt"):
        found.add(f"{folder}.{name}" if folder else name)
  assert found <= set(ROWS), found - set(ROWS)


@pytest.mark.parametrize("name", sorted(OURS))
def test_the_line_runs(name):
  CHECKS[name]()


def test_every_line_with_a_name_of_ours_is_run_and_no_other():
  assert set(CHECKS) == set(OURS)


def test_every_other_line_names_something_that_exists():
  """optax, JAX and SciPy are here to ask; optimistix and lineax only where installed."""
  for name, text in ROWS.items():
    for dotted in re.findall(r"`((?:optax|jax|jnp|scipy|optimistix|lineax)\.[\w.]+)", text):
      root, *rest = dotted.replace("jnp.", "jax.numpy.").split(".")
      try:
        thing = importlib.import_module(root)
      except ImportError:
        assert root in ("optimistix", "lineax")
        continue
      path = root
      for part in rest:
        path += f".{part}"
        if not hasattr(thing, part):
          importlib.import_module(path)
        thing = getattr(thing, part)
        assert thing is not None, name
