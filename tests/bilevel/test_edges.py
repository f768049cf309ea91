"""Edges of bilevel methods: units, unsolved systems, indices, memories, dtypes; values by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxopt_robust import bilevel, prox, solvers
from jaxopt_robust.bilevel import BilevelBatch, BilevelPoint, BilevelVariables


def ridge(y, x):
  return 0.5 * jnp.sum((y - 1.0) ** 2) + 0.5 * x * jnp.sum(y**2)


def distance(y, x):
  return 0.5 * jnp.sum((y - 0.8) ** 2)


def mean_ridge(y, x, b):
  return 0.5 * jnp.mean((y - b) ** 2) + 0.5 * x * jnp.sum(y**2)


def mean_distance(y, x, b):
  return 0.5 * jnp.mean((y - 0.8 * b) ** 2)


RIDGE = bilevel.strongly_convex_descent(
  ridge, strong_convexity=lambda x: 1 + x, smoothness=lambda x: 1 + x
)
SOBA = bilevel.soba_directions(mean_ridge, mean_distance)


def outer_method(kind, inner, outer, lower, mu, **more):
  if kind == "hoag":
    return bilevel.hoag(inner, outer, lower, **more)
  return bilevel.maid(inner, outer, lower, strong_convexity=mu, outer_smoothness=1.0, **more)


def solve(kind, inner, outer, lower, start, *, mu=0.1, tol=1e-3, max_steps=60, **more):
  method = outer_method(kind, inner, outer, lower, mu, **more)
  return solvers.run_until(method, start, None, tol=tol, max_steps=max_steps)


def lower_of(inner, optimizer):
  """A solver of optax whose hyper is the outer variable, as the docstring of hoag makes it."""
  base = solvers.from_optax(inner, optimizer)
  return solvers.Solver(
    lambda y, x, *data: base.init(y, None, x, *data),
    lambda state, x, *data: base.step(state, None, x, *data),
  )


def test_the_tolerance_on_a_support_is_that_of_its_own_right_side():
  # y* = 1 / (1 + x) on the support, w = (1e-3, 1e3): dF/dx = -1e-3 / (1 + x)^2
  weights = jnp.array([1e-3, 1e3])
  found, info = bilevel.hypergradient(
    ridge, lambda y, x: weights @ y, jnp.array([0.5, 0.0]), 1.0, support=lambda y: y != 0
  )
  np.testing.assert_allclose(found, -2.5e-4, rtol=1e-5)
  assert int(info.status) == 0
  with pytest.raises(ValueError, match=r"support\(y\) must have shape \(2,\)"):
    bilevel.hypergradient(
      ridge, distance, jnp.ones(2), 1.0, support=lambda y: (y != 0)[:, None]
    )  # fmt: skip
  with pytest.raises(TypeError, match=r"support\(y\) must be a boolean mask"):
    bilevel.hypergradient(ridge, distance, jnp.ones(2), 1.0, support=jnp.abs)


def test_errors_name_the_argument():
  with pytest.raises(ValueError, match="adjoint and y must agree"):
    bilevel.hypergradient(ridge, distance, jnp.ones(2), 1.0, adjoint=jnp.ones(3))
  with pytest.raises(ValueError, match="decrease must be below descent"):
    outer_method("maid", ridge, distance, RIDGE, 1.0, decrease=0.5, constants=lambda y, x: None)


def test_without_a_right_side_the_adjoint_is_zero_from_any_start():
  scales = jnp.array([1.0, 3.0, 7.0, 11.0])
  inner = lambda y, x: 0.5 * jnp.sum(scales * y**2) + x * jnp.sum(y)
  found, info = bilevel.hypergradient(
    inner, lambda y, x: 2.0 * x, jnp.full(4, 0.3), 1.0, adjoint=jnp.full(4, 1.1)
  )
  assert (float(found), int(info.status)) == (2.0, 0)
  np.testing.assert_array_equal(info.adjoint, 0)


def test_what_is_not_finite_is_told_with_and_without_jit():
  known = bilevel.BilevelConstants(2.0, 1.0, 1.0)
  run = lambda y: bilevel.hypergradient(ridge, distance, y, 1.0, constants=known)[1]
  for info in (run(jnp.array([jnp.nan])), jax.jit(run)(jnp.array([jnp.nan]))):
    assert int(info.status) == 2
    assert bool(jnp.isnan(info.bound))
  for kind in ("hoag", "maid"):
    method = outer_method(kind, ridge, distance, RIDGE, lambda x: 1 + x)
    start = BilevelPoint(jnp.array(1.0), jnp.array([jnp.nan]))
    _, info = method.step(method.init(start, None), None)
    assert bool(jnp.isnan(info.error)), kind
  # derivatives that are finite where f and the fixed point are not
  step = lambda y, x: prox.prox_lasso(0.5 * y + 1.5, x, 0.5)
  _, info = bilevel.fixed_point_hypergradient(
    step, lambda y, x: jnp.sum(y), jnp.array([2.0, jnp.nan]), 1.0
  )
  assert int(info.status) == 2


@pytest.mark.parametrize("kind", ["hoag", "maid"])
def test_a_linear_system_that_nothing_solved_is_no_stationary_point(kind):
  # v = 0 and z = 0 at the saddle y = 0 of a double well, where H = -1 and f falls
  well = lambda y, x: jnp.sum((y**2 - 1) ** 2) / 4 - x * jnp.sum(y)
  start = BilevelPoint(jnp.array(0.0), jnp.zeros(1))
  _, info = solve(kind, well, distance, lower_of(well, optax.sgd(0.1)), start, max_steps=3)
  assert int(info.status) != 0
  assert float(info.error) > 1e30


@pytest.mark.parametrize("kind", ["hoag", "maid"])
def test_an_inner_problem_that_nothing_solved_is_no_stationary_point(kind):
  """y* = x and f = y^2 / 2, so F' = x = 5; at y = 0, where the inner solver starts, f' is 0."""
  inner, outer = lambda y, x: 0.5 * (y - x) ** 2, lambda y, x: 0.5 * y**2
  start = BilevelPoint(jnp.array(5.0), jnp.array(0.0))
  slow = bilevel.strongly_convex_descent(inner, strong_convexity=1.0, smoothness=1e9)
  _, info = solve(kind, inner, outer, slow, start, mu=1.0, max_steps=3, max_inner_steps=5)
  assert int(info.status) != solvers.CONVERGED
  method = outer_method(kind, inner, outer, slow, 1.0, max_inner_steps=5)
  assert bool(method.step(method.init(start, None), None)[1].unsolved)
  good = bilevel.strongly_convex_descent(inner, strong_convexity=1.0, smoothness=1.0)
  method = outer_method(kind, inner, outer, good, 1.0, stepsize=0.5)
  assert not bool(method.step(method.init(start, None), None)[1].unsolved)
  best, info = solve(kind, inner, outer, good, start, mu=1.0, stepsize=0.5)
  assert int(info.status) == solvers.CONVERGED and abs(float(best.x)) <= 1e-3


def test_an_accuracy_that_asks_for_nothing_does_not_end_a_run():
  # the first adjoint is 0, and so is z: not the hypergradient -0.15 of (0.5 - 0.8) / (1 + x)^2
  start = BilevelPoint(jnp.array(1.0), jnp.zeros(1))
  more = {"accuracy": bilevel.geometric_accuracy(1.0), "stepsize": 1.0}
  best, info = solve("hoag", ridge, distance, RIDGE, start, tol=1e-4, **more)
  assert int(info.status) == 0
  np.testing.assert_allclose(best.x, 0.25, atol=1e-3)
  method = bilevel.hoag(ridge, distance, RIDGE, **more)
  _, first = method.step(method.init(start, None), None)
  np.testing.assert_allclose(first.error, 0.3 * 0.25, rtol=1e-5)  # 0 + one exact step in 1-d


@pytest.mark.parametrize("unit", [1e-7, 1e-3, 1e6])
def test_maid_never_takes_small_units_for_a_solution(unit):
  inner = lambda y, x: 0.5 * jnp.sum((y - unit) ** 2) + 0.5 * x * jnp.sum(y**2)
  outer = lambda y, x: 0.5 * jnp.sum((y - 0.8 * unit) ** 2)
  start = BilevelPoint(jnp.array(1.0), jnp.zeros(1))
  best, info = solve(
    "maid", inner, outer, bilevel.strongly_convex_descent(
      inner, strong_convexity=lambda x: 1 + x, smoothness=lambda x: 1 + x
    ),
    start, mu=lambda x: 1 + x, tol=1e-4 * unit**2, stepsize=1 / unit**2,
  )  # fmt: skip
  slope = abs((1 / (1 + float(best.x)) - 0.8) / (1 + float(best.x)) ** 2)  # in units squared
  assert int(info.status) != 0 or slope < 2e-4
  assert unit < 1e-5 or int(info.status) == 0


def test_constants_that_bound_nothing_certify_nothing():
  known = lambda y, x: bilevel.BilevelConstants(1 + x, 1.0, jnp.inf)
  start = BilevelPoint(jnp.array(0.25), jnp.array([0.8]))
  more = {"constants": known, "max_refinements": 2}
  _, info = solve("maid", ridge, distance, RIDGE, start, mu=lambda x: 1 + x, max_steps=2, **more)
  assert int(info.status) != 0


@pytest.mark.x64
@pytest.mark.parametrize("kind", ["hoag", "maid", "maid with constants"])
@pytest.mark.parametrize("dtypes", ["fd", "df", "numbers"])
def test_outer_and_inner_variables_of_different_precision(kind, dtypes):
  names = {"f": jnp.float32, "d": jnp.float64}
  start = BilevelPoint(1, [0.0])
  if dtypes != "numbers":
    x, y = (names[d] for d in dtypes)
    start = BilevelPoint(jnp.ones((), x), jnp.zeros(1, y))
  inner, outer = (lambda y, x, f=f: f(y if dtypes != "numbers" else y[0], x)
                  for f in (ridge, distance))  # fmt: skip
  mu = lambda x: 1 + x
  known = lambda y, x: bilevel.BilevelConstants(1 + x, 1.0, 1.0, 0.0, 1.0)
  lower = bilevel.strongly_convex_descent(inner, strong_convexity=mu, smoothness=mu)
  more = {"constants": known} if "constants" in kind else {}
  method = outer_method(kind, inner, outer, lower, mu, stepsize=1.0, **more)
  state, _ = jax.lax.scan(
    lambda s, _: method.step(s, None), method.init(start, None), None, length=15
  )
  np.testing.assert_allclose(state.params.x, 0.25, atol=2e-3)


def test_a_solver_of_optax_solves_the_inner_problem_of_hoag():
  start = BilevelPoint(jnp.array(1.0), jnp.zeros(1))
  lower = lower_of(ridge, optax.lbfgs())
  best, info = solve("hoag", ridge, distance, lower, start, tol=1e-4, stepsize=1.0)
  assert int(info.status) == 0
  np.testing.assert_allclose(best.x, 0.25, atol=1e-3)


def test_steps_of_the_inverse_of_mu_unroll_exactly_whatever_rounding_says():
  for mu in np.linspace(0.01, 50, 200):
    numbers = {"stepsize": 1 / mu, "strong_convexity": mu, "jacobian_norm": 3.0}
    assert 0 <= float(bilevel.unrolled_bound(1, **numbers)) < 1e-5
  too_long = lambda s: bilevel.unrolled_bound(
    2, stepsize=s, strong_convexity=1.0, jacobian_norm=1.0
  )  # fmt: skip
  assert bool(jnp.isnan(jax.jit(too_long)(1.5)))


@pytest.mark.parametrize("kind", ["hoag", "maid"])
def test_methods_made_again_from_the_same_functions_are_the_same(kind):
  mu = lambda x: 1 + x

  def make():  # what run_until asks before it compiles anew
    lower = bilevel.strongly_convex_descent(ridge, strong_convexity=mu, smoothness=mu)
    return outer_method(kind, ridge, distance, lower, mu, stepsize=0.5)

  assert make() == make()
  assert hash(make()) == hash(make())


# Stochastic methods

SGD = BilevelVariables(optax.sgd(0.5), optax.sgd(0.3), optax.sgd(0.3))
START = BilevelVariables(1, 0, 0)  # whole numbers are numbers


def run(method, batches, **more):
  solver = bilevel.stochastic_bilevel(method, SGD, **more)
  state = solver.init(START, None, jax.tree.map(lambda leaf: leaf[0], batches))
  return jax.lax.scan(lambda s, b: solver.step(s, None, b), state, batches)[0]


def test_batches_with_inner_steps_need_no_index_but_their_axis():
  batches = BilevelBatch(jnp.ones((100, 3, 4)), jnp.ones((100, 3, 4)))
  np.testing.assert_allclose(run(SOBA, batches, inner_steps=3).params.x, 0.25, atol=1e-3)
  with pytest.raises(ValueError, match=r"batch.inner must have a leading axis of inner_steps, 3"):
    run(SOBA, BilevelBatch(jnp.ones((100, 4)), jnp.ones((100, 4))), inner_steps=3)
  short = BilevelBatch(jnp.ones((100, 3, 4)), jnp.ones((100, 2, 4)))
  with pytest.raises(ValueError, match=r"batch.outer must have a leading axis of inner_steps, 3"):
    run(SOBA, short, inner_steps=3)


def test_the_table_of_saga_keeps_its_mean_whatever_the_indices():
  method = bilevel.saga(SOBA, num_inner=2, num_outer=1)
  index = jnp.array([0, 5, 1, -1, 2] * 8)
  batches = BilevelBatch(jnp.ones((40, 4)) * index[:, None], jnp.ones((40, 4)), index)
  table = run(method, batches).memory[0]
  for rows, mean in zip(jax.tree.leaves(table.rows), jax.tree.leaves(table.mean), strict=True):
    np.testing.assert_allclose(np.mean(rows, axis=0), mean, atol=1e-5)
  with pytest.raises(ValueError, match=r"batch.inner_index must be the number of the batch"):
    run(method, batches._replace(inner_index=None))


def test_a_state_of_numpy_arrays_goes_on_as_it_was():
  batch = BilevelBatch(jnp.ones(4), jnp.ones(4), 1)
  solver = bilevel.stochastic_bilevel(bilevel.saga(SOBA, num_inner=2, num_outer=1), SGD)
  state, _ = solver.step(solver.init(START, None, batch), None, batch)
  restored, _ = solver.step(jax.tree.map(np.asarray, state), None, batch)
  straight, _ = solver.step(state, None, batch)
  for a, b in zip(jax.tree.leaves(restored), jax.tree.leaves(straight), strict=True):
    np.testing.assert_array_equal(a, b)


def test_methods_with_a_memory_are_not_wrapped_in_silence():
  batches = BilevelBatch(jnp.ones((200, 4)), jnp.ones((200, 4)))
  first_order = bilevel.f2sa_directions(mean_ridge, mean_distance)
  for method in (
    bilevel.saga(bilevel.storm(SOBA), num_inner=1, num_outer=1),
    bilevel.storm(bilevel.moving_average(SOBA)),
    bilevel.spider(first_order, period=3),
  ):
    with pytest.raises(ValueError, match="method must have no memory"):
      run(method, batches)
  constant = bilevel.f2sa_directions(mean_ridge, mean_distance, penalty=30.0, power=0.0)
  # argmin f + lam g and the outer optimum agree with the bilevel ones where f vanishes
  np.testing.assert_allclose(run(bilevel.storm(constant), batches).params.x, 0.25, atol=5e-3)


@pytest.mark.parametrize("unit", [1e-15, 1e-7, 1.0, 1e10])
def test_bome_has_the_same_multiplier_in_all_units(unit):
  # both objectives times unit^2: directions too, lam is free of units. By hand at x = 1, y = 0.1,
  # one step of size 0.3 / unit^2: w = 0.1 + 0.3 * 0.8 = 0.34, grad q = (-0.8, (0.01 - 0.1156) / 2),
  # grad f = (-0.2, 0): lam = 0.5 - 0.16 / ||grad q||^2
  inner = lambda y, x, b: 0.5 * jnp.sum((unit * (y - b)) ** 2) + 0.5 * x * jnp.sum((unit * y) ** 2)
  outer = lambda y, x, b: 0.5 * jnp.sum((unit * (y - b)) ** 2)
  method = bilevel.bome_directions(inner, outer, stepsize=0.3 / unit**2, num_steps=1)
  at = BilevelVariables(jnp.array(1.0), jnp.array([0.1]), jnp.zeros(1))
  found, _, _ = method.directions(at, (), BilevelBatch(jnp.ones(1), jnp.array([0.3])))
  gap = np.array([-0.8, -0.0528])
  lam = 0.5 - 0.16 / np.sum(gap**2)
  np.testing.assert_allclose(found.y / unit**2, [-0.2 + lam * gap[0]], rtol=1e-5)
  np.testing.assert_allclose(found.x / unit**2, lam * gap[1], rtol=1e-4)


def test_bome_takes_a_wide_step_size_for_narrow_variables():
  method = bilevel.bome_directions(mean_ridge, mean_distance, stepsize=jnp.float32(0.3))
  narrow = BilevelVariables(*(jnp.asarray(a, jnp.bfloat16) for a in (1.0, 0.0, 0.0)))
  found, _, _ = method.directions(narrow, (), BilevelBatch(jnp.ones(4), jnp.ones(4)))
  assert found.y.dtype == jnp.bfloat16
  # y_T = 1/2, grad q = (-1, -1/8), <grad f, grad q> = 0.8 > ||grad q||^2 / 2: lam = 0
  np.testing.assert_allclose(found.y.astype(float), -0.8, rtol=0.01)
