"""Gradient-normalized Newton: closed forms, bounds, covariance, published counts, statuses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxopt_robust import solvers
from jaxopt_robust.debug import count_traces
from jaxopt_robust.solvers import gns_newton

pytestmark = pytest.mark.x64


def trace(solver, start, *data, steps):
  """All infos and iterates, with the iterate before each step."""

  def step(state, _):
    new, info = solver.step(state, None, *data)
    return new, (state, new, info)

  return jax.lax.scan(step, solver.init(start, None, *data), None, length=steps)[1]


def spd(rng, size):
  basis = np.linalg.qr(rng.standard_normal((size, size)))[0]
  return jnp.asarray(basis @ np.diag(np.geomspace(0.1, 10, size)) @ basis.T)


def scores(x, a, b):
  return a @ x - b


def log_sum_exp(x, a, b):
  return jax.nn.logsumexp(scores(x, a, b))


def problem(rng, size=6):
  """A log-sum-exp with its optimum at zero, and the metric A^T A."""
  a, b = rng.uniform(-1, 1, (10, size)), rng.uniform(-1, 1, 10)
  share = np.exp(-b) / np.exp(-b).sum()
  a = a - share @ a
  return jnp.asarray(a), jnp.asarray(b), jnp.asarray(a.T @ a)


def test_on_a_quadratic_with_its_hessian_every_trial_is_accepted_and_gamma_doubles(rng):
  h, start, steps = spd(rng, 4), jnp.asarray(rng.standard_normal(4)), 8
  fun = lambda x, h: 0.5 * x @ h @ x
  solver = gns_newton(fun, solvers.exact_curvature(fun), gamma=0.1)
  before, after, info = jax.jit(lambda h: trace(solver, start, h, steps=steps))(h)
  assert np.all(info.trials == 1) and np.all(info.found)
  np.testing.assert_array_equal(after.gamma, 0.1 * 2.0 ** np.arange(1, steps + 1))
  np.testing.assert_array_equal(after.num_solves, np.arange(1, steps + 1))
  # g_{k+1} = lambda (H + lambda I)^{-1} g_k with lambda = ||g_k|| / gamma_k: superlinear.
  for grad, gamma, new in zip(before.grad, before.gamma, after.grad, strict=True):
    lam = np.linalg.norm(grad) / gamma
    expected = lam * np.linalg.solve(np.asarray(h) + lam * np.eye(4), grad)
    np.testing.assert_allclose(new, expected, atol=1e-12)
  ratios = np.asarray(info.error[1:] / info.error[:-1])
  assert np.all(np.diff(ratios) < 0) and ratios[-1] < 0.05


@pytest.mark.parametrize("kind", ["identity", "diagonal", "matrix"])
def test_without_curvature_a_step_is_a_normalised_gradient_of_length_gamma(kind, rng):
  b = spd(rng, 4)
  metric = {"identity": None, "diagonal": jnp.diag(b), "matrix": b}[kind]
  form = {"identity": jnp.eye(4), "diagonal": jnp.diag(jnp.diag(b)), "matrix": b}[kind]
  fun = lambda x: jnp.sum(jnp.cosh(x - 1.0)) + x[0] * x[1]
  solver = gns_newton(fun, solvers.zero_curvature(), metric=metric, gamma=0.3)
  before, after, info = jax.jit(lambda x: trace(solver, x, steps=6))(jnp.zeros(4))
  np.testing.assert_allclose(info.length, info.gamma, rtol=1e-12)
  for x, grad, gamma, new, error, g in zip(
    before.params, before.grad, info.gamma, after.params, info.error, after.grad, strict=True
  ):
    direction = -np.linalg.solve(form, grad)
    size = np.sqrt(-direction @ grad)
    np.testing.assert_allclose(new - x, gamma * direction / size, atol=1e-12)
    np.testing.assert_allclose(error, np.sqrt(g @ np.linalg.solve(form, g)), rtol=1e-10)


@pytest.mark.parametrize("model", ["exact", "weighted", "zero"])
def test_accepted_steps_satisfy_their_inequality_and_stay_within_gamma(model, rng):
  a, b, metric = problem(rng)
  curvature = {
    "exact": solvers.exact_curvature(log_sum_exp),
    "weighted": solvers.log_sum_exp_curvature(scores),
    "zero": solvers.zero_curvature(),
  }[model]
  solver = gns_newton(log_sum_exp, curvature, metric=lambda a, b: a.T @ a)
  before, after, info = jax.jit(lambda *d: trace(solver, 3 * jnp.ones(6), *d, steps=7))(a, b)
  assert np.all(info.found) and np.any(info.trials > 1)
  lam = [
    np.sqrt(g @ np.linalg.solve(metric, g)) / gamma
    for g, gamma in zip(before.grad, info.gamma, strict=True)
  ]
  drop = np.asarray(before.value - after.value)
  needed = np.asarray(info.error) ** 2 / (8 * np.asarray(lam))
  # Both sides at the end are differences of numbers of size 1.
  assert np.all(drop >= needed - 1e-14) and np.all(drop >= 0)
  assert np.all(info.length <= info.gamma * (1 + 1e-12))
  np.testing.assert_allclose(info.value, [log_sum_exp(x, a, b) for x in after.params], rtol=1e-14)
  # The trial before, with twice the gamma, was refused: gamma is the first of its sequence.
  np.testing.assert_allclose(info.gamma, before.gamma * 0.5 ** (info.trials - 1.0))
  np.testing.assert_allclose(after.gamma, 2 * info.gamma)


def test_affine_covariance(rng):
  """f(P z) from P^{-1} x_0 in the metric P^T B P takes the values of f from x_0 in B."""
  a, b, metric = problem(rng)
  p = jnp.asarray(rng.standard_normal((6, 6)))
  start = jnp.ones(6)

  @jax.jit
  def values(a, start, metric):
    solver = gns_newton(log_sum_exp, solvers.log_sum_exp_curvature(scores), metric=metric)
    return trace(solver, start, a, b, steps=8)[2].value

  moved = values(a @ p, jnp.linalg.solve(p, start), p.T @ metric @ p)
  np.testing.assert_allclose(moved, values(a, start, metric), rtol=1e-9)


@pytest.mark.parametrize("kind", ["diagonal", "matrix"])
def test_woodbury_and_conjugate_gradients_equal_cholesky(kind, rng):
  metric = spd(rng, 6) if kind == "matrix" else jnp.diag(spd(rng, 6))
  x, u = jnp.asarray(rng.standard_normal((3, 6))), lambda w, x: jnp.tanh(x @ w) + (x @ w) - 1.0
  fun = lambda w, x: jnp.sum(u(w, x) ** 2) ** 2 / 4 + 0.05 * jnp.sum(w**2)

  def run(form):
    model = solvers.power_norm_curvature(u, power=4.0, form=form)
    solver = gns_newton(fun, model, metric=metric, cg_tol=1e-13)
    _, after, info = trace(solver, jnp.ones(6), x, steps=6)
    return after.params, info.trials, after.num_products

  found = jax.jit(lambda: [run(form) for form in ("matrix", "factors", "product")])()
  (dense, trials, none), (woodbury, same, _), (products, also, taken) = found
  np.testing.assert_allclose(woodbury, dense, atol=1e-10)
  np.testing.assert_allclose(products, dense, atol=1e-10)
  np.testing.assert_array_equal(same, trials)
  np.testing.assert_array_equal(also, trials)
  assert none[-1] == 0
  # Without rounding 5 products (4 eigenvalues of the curved part, and one) and that of the start.
  total = np.cumsum(trials)
  assert np.all(taken >= 2 * total) and taken[-1] <= 10 * total[-1]


def iterations(solver, start, *data, target=1e-8):
  """Steps and solves until f < target."""

  def go_on(state):
    return (state.value >= target) & (state.count < 200)

  step = lambda state: solver.step(state, None, *data)[0]
  end = jax.lax.while_loop(go_on, step, solver.init(start, None, *data))
  return end.count, end.num_solves


def test_published_iteration_counts_of_linear_equations():
  """p = 4, A 100 x 200, metric A^T A + 1e-8 I, start 1, until f < 1e-8: 27 steps, 18 by Fisher."""
  state = np.random.RandomState(3124)
  a, b = state.rand(100, 200) * 2 - 1, state.rand(100) * 2 - 1
  fun = lambda x, a, b: jnp.sum(scores(x, a, b) ** 2) ** 2 / 4

  @jax.jit
  def run(a, b):
    metric, start = a.T @ a + 1e-8 * jnp.eye(200), jnp.ones(200)
    models = (
      # Exact for affine residuals; by Woodbury's identity, with half as many columns as unknowns.
      solvers.power_norm_curvature(scores, power=4.0, form="factors"),
      solvers.power_norm_fisher(scores, power=4.0),
    )
    return [iterations(gns_newton(fun, m, metric=metric), start, a, b) for m in models]

  (exact, solves), (fisher, fewer) = run(a, b)
  assert abs(exact - 27) <= 1 and abs(solves - 55) <= 2
  assert abs(fisher - 18) <= 1 and abs(fewer - 34) <= 2


def test_published_iteration_counts_of_rosenbrock_equations():
  """From (-2, 2) until f < 1e-8: 56 steps with p = 5; 57 and 55 of 2.6's other rows."""
  u = lambda w: jnp.array([1 - w[0], 10 * (w[1] - w[0] ** 2)])

  @jax.jit
  def run(power):
    fun = lambda w: jnp.sum(u(w) ** 2) ** (power / 2) / power
    models = solvers.exact_curvature(fun), solvers.power_norm_curvature(u, power=power)
    return [iterations(gns_newton(fun, m), jnp.array([-2.0, 2.0])) for m in models]

  (exact, solves), (inexact, others) = run(5.0)
  assert abs(exact - 56) <= 1 and abs(solves - 114) <= 2
  assert abs(inexact - 57) <= 1 and abs(others - 116) <= 2
  (exact, solves), (inexact, others) = run(4.0)
  assert abs(exact - 55) <= 1 and abs(solves - 113) <= 2
  assert abs(inexact - 55) <= 1 and abs(others - 113) <= 2


def test_linear_rate_on_logistic_regression_from_any_first_radius(rng):
  """Some labels are wrong: log(f - f*) falls on a line, and gamma_0 costs its logarithm."""
  x = rng.standard_normal((80, 4))
  y = jnp.asarray(np.sign(x @ np.ones(4)) * np.where(np.arange(80) < 8, -1, 1))
  x = jnp.asarray(x)
  losses = lambda w, x, y: jax.nn.softplus(-y * (x @ w))
  fun = lambda w, x, y: jnp.mean(losses(w, x, y))
  ridge = lambda w, x, y: solvers.empirical_fisher(losses)(w, x, y) + 1e-3 * jnp.eye(4)
  start = 3 * jnp.ones(4)

  @jax.jit
  def run(gamma):
    solver = gns_newton(fun, ridge, gamma=gamma)
    steps = solvers.run_until(solver, start, None, x, y, tol=1e-6, max_steps=200)[1].steps
    best = solvers.run_until(
      gns_newton(fun, solvers.exact_curvature(fun)), start, None, x, y, tol=1e-10, max_steps=50
    )[1].value
    return steps, trace(solver, start, x, y, steps=60)[2].value - best

  counts, gaps = {}, {}
  for gamma in (1e-3, 1.0, 1e3):
    steps, gap = run(gamma)
    counts[gamma], gaps[gamma] = int(steps), np.asarray(gap)
  assert abs(counts[1e-3] - counts[1.0]) <= np.log2(1e3) + 2, counts
  assert abs(counts[1e3] - counts[1.0]) <= np.log2(1e3) + 2, counts
  gap = gaps[1.0]
  near = np.flatnonzero((gap < 0.1) & (gap > 1e-12))
  assert near.size >= 8
  line = np.corrcoef(near, np.log(gap[near]))[0, 1]
  assert line < -0.995, line


def test_float32_ends_as_stalled_and_not_as_converged(rng):
  """The values' difference is below their rounding long before the gradient is."""
  a, b, metric = (v.astype(jnp.float32) for v in problem(rng))
  solver = gns_newton(log_sum_exp, solvers.exact_curvature(log_sum_exp), metric=metric)
  run = jax.jit(lambda x, tol: solvers.run_until(solver, x, None, a, b, tol=tol, max_steps=500))
  x, info = run(jnp.ones(6, jnp.float32), 1e-9)
  assert x.dtype == info.value.dtype == jnp.float32
  assert int(info.status) == solvers.STALLED and float(info.error) < 1e-2
  assert int(info.steps) < 60
  _, info = run(jnp.ones(6, jnp.float32), 0.05)
  assert int(info.status) == solvers.CONVERGED and float(info.error) <= 0.05
  assert int(run(x.at[0].set(jnp.nan), 1e-3)[1].status) == solvers.NON_FINITE


@pytest.mark.parametrize("form", ["matrix", "product"])
def test_indefinite_hessians_and_undefined_values_are_steps_refused(form):
  """1 - exp(-|x|^2): concave from 0.7 on, so that the Hessian is not positive there."""
  fun = lambda x: 1 - jnp.exp(-jnp.sum(x**2)) + jnp.where(x[0] < -0.5, jnp.nan, 0.0)
  solver = gns_newton(fun, solvers.exact_curvature(fun, form=form), gamma=100.0)
  start = jnp.array([1.5, 0.5])
  assert np.linalg.eigvalsh(jax.hessian(fun)(start)).min() < 0
  x, info = jax.jit(
    lambda x: solvers.run_until(solver, x, None, tol=1e-7, max_steps=50)
  )(start)  # fmt: skip
  assert int(info.status) == solvers.CONVERGED and np.all(np.abs(x) < 1e-6)


def test_a_stationary_start_a_linear_function_and_a_function_without_minimum():
  run = lambda fun, model: jax.jit(
    lambda x: solvers.run_until(gns_newton(fun, model), x, None, tol=1e-9, max_steps=30)
  )(jnp.zeros(2))  # fmt: skip
  square = lambda x: jnp.sum(x**2)
  x, info = run(square, solvers.zero_curvature())
  assert int(info.status) == solvers.CONVERGED and int(info.steps) == 1 and not np.any(x)
  x, info = run(lambda x: x[0], solvers.zero_curvature())
  assert int(info.status) == solvers.STEP_LIMIT
  np.testing.assert_allclose(x, [-(2.0**30 - 1), 0.0])  # 1 + 2 + 4 + ...


@pytest.mark.parametrize("exponents", [(0, 40), (40, 0), (-30, -20)], ids=str)
def test_units_do_not_matter(exponents, rng):
  """2^j f(x / 2^i) from 2^i x_0 with 2^i gamma_0 takes the same steps, in float32 bit by bit."""
  unit, height = (2.0**e for e in exponents)
  a, b, _ = (v.astype(jnp.float32) for v in problem(rng))

  @jax.jit
  def run(unit, height):
    fun = lambda x, a, b: height * log_sum_exp(x / unit, a, b)
    solver = gns_newton(fun, solvers.exact_curvature(fun), gamma=unit, min_gamma=0.0)
    _, after, info = trace(solver, jnp.full(6, unit), a, b, steps=6)
    return after.params / unit, info.trials

  one, scale = jnp.ones((), jnp.float32), lambda v: jnp.asarray(v, jnp.float32)
  plain, moved = run(one, one), run(scale(unit), scale(height))
  np.testing.assert_array_equal(moved[1], plain[1])
  np.testing.assert_array_equal(moved[0], plain[0])


def test_trees_a_batch_and_one_compile_for_all_numbers(rng):
  a, b, metric = problem(rng)
  on_tree = lambda t, a, b: log_sum_exp(jnp.concatenate([t["first"][None], t["rest"]]), a, b)
  counted = count_traces(lambda *args: run(*args))

  def run(start, gamma, growth):
    solver = gns_newton(
      on_tree, solvers.exact_curvature(on_tree), metric=metric, gamma=gamma, growth=growth
    )
    return solvers.run_until(solver, start, None, a, b, tol=1e-7, max_steps=60)

  jitted = jax.jit(counted)
  start = {"first": jnp.ones(()), "rest": jnp.ones(5)}
  alone = [jitted(start, jnp.asarray(g), jnp.asarray(2.0)) for g in (1.0, 0.01, 30.0)]
  assert counted.traces == 1
  batch, infos = jax.jit(jax.vmap(run, (None, 0, None)))(
    start, jnp.array([1.0, 0.01, 30.0]), jnp.asarray(2.0)
  )
  for i, (x, info) in enumerate(alone):
    assert int(info.status) == int(infos.status[i]) == solvers.CONVERGED
    assert int(info.steps) == int(infos.steps[i])
    np.testing.assert_allclose(batch["rest"][i], x["rest"], atol=1e-9)
    np.testing.assert_allclose(x["rest"], 0.0, atol=1e-5)


def test_the_radius_does_not_fall_below_its_least_once_a_step_is_accepted():
  fun = lambda x: jnp.sum(jnp.cosh(x))
  solver = gns_newton(fun, solvers.zero_curvature(), gamma=1e-12, min_gamma=1e-3, growth=3.0)
  after = jax.jit(lambda x: trace(solver, x, steps=3))(jnp.ones(2))[1]
  np.testing.assert_allclose(after.gamma, [1e-3, 3e-3, 9e-3])


def test_going_on_from_other_parameters_keeps_the_radius(rng):
  a, b, metric = problem(rng)
  solver = gns_newton(log_sum_exp, solvers.exact_curvature(log_sum_exp), metric=metric)
  state = solver.init(jnp.ones(6), None, a, b)._replace(gamma=jnp.asarray(0.25))
  other = solvers.at(solver, state, jnp.zeros(6), None, a, b)
  assert float(other.gamma) == 0.25
  np.testing.assert_allclose(other.value, log_sum_exp(jnp.zeros(6), a, b))
