"""MAID: every certificate against closed forms of quadratics, limits against exact descent."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxopt_robust import bilevel, solvers

N = 6


class Quadratic:
  """g = 1/2 ||A2 y + A3 x - b2||^2, f = 1/2 ||A1 y - b1||^2, with F and its gradient."""

  def __init__(self, rng, condition=10.0):
    self.a1, self.a3 = rng.normal(size=(2, N, N))
    left, _, right = np.linalg.svd(rng.normal(size=(N, N)))
    self.a2 = left @ np.diag(np.linspace(1, np.sqrt(condition), N)) @ right
    self.b1, self.b2 = rng.normal(size=(2, N))
    self.gram = self.a2.T @ self.a2
    self.mu, self.smooth = np.linalg.eigvalsh(self.gram)[[0, -1]]
    self.outer_smooth = np.linalg.norm(self.a1, 2) ** 2
    self.cross = np.linalg.norm(self.a2.T @ self.a3, 2)
    self.weak = np.linalg.eigh(self.gram)[1][:, 0]  # the direction of least curvature

  @property
  def data(self):
    return tuple(jnp.asarray(a) for a in (self.a1, self.a2, self.a3, self.b1, self.b2))

  def solution(self, x):
    return np.linalg.solve(self.gram, self.a2.T @ (self.b2 - self.a3 @ x))

  def value(self, x):
    return 0.5 * np.sum((self.a1 @ self.solution(x) - self.b1) ** 2)

  def gradient(self, x):
    pulled = np.linalg.solve(self.gram, self.a1.T @ (self.a1 @ self.solution(x) - self.b1))
    return -self.a3.T @ self.a2 @ pulled

  @property
  def constants(self):
    return bilevel.BilevelConstants(self.mu, self.outer_smooth, self.cross)


def inner(y, x, a1, a2, a3, b1, b2):
  return 0.5 * jnp.sum((a2 @ y + a3 @ x - b2) ** 2)


def outer(y, x, a1, a2, a3, b1, b2):
  return 0.5 * jnp.sum((a1 @ y - b1) ** 2)


@functools.partial(jax.jit, static_argnames=("steps", "checked", "adversary", "options"))
def run(known, weak, data, accuracy, *, steps, checked=True, adversary=False, options=()):
  """A fixed number of steps from x = 1, y = 0; all x, y and infos, the start included in x."""
  mu, outer_smooth = known.strong_convexity, known.outer_smoothness
  _a1, a2, a3, _b1, b2 = data
  lower = bilevel.strongly_convex_descent(
    inner, strong_convexity=mu, smoothness=jnp.linalg.norm(a2, 2) ** 2
  )
  if adversary:  # as far off as the gradient can tell, on the side that looks best
    exact = lambda x: jnp.linalg.solve(a2.T @ a2, a2.T @ (b2 - a3 @ x))

    def step(state, x, *data):
      y = exact(x)
      slope = jax.grad(outer)(y, x, *data) @ weak
      y = y - jnp.sign(slope) * state.anchor * weak
      return state._replace(params=y, count=state.count + 1), solvers.OptaxInfo(
        jnp.zeros(()), jnp.zeros(())
      )

    distance = dict(options)["distance"]
    lower = solvers.Solver(
      lambda y, x, *data: bilevel.StronglyConvexState(y, jnp.asarray(distance), jnp.array(0)), step
    )
  settings = {k: v for k, v in options if k != "distance"}
  method = bilevel.maid(
    inner, outer, lower, strong_convexity=mu, outer_smoothness=outer_smooth, convex=True,
    constants=(lambda y, x, *data: known) if checked else None, accuracy=accuracy,
    residual=accuracy, descent=0.5, decrease=0.1, **settings,
  )  # fmt: skip
  start = bilevel.BilevelPoint(jnp.ones(N), jnp.zeros(N))
  state = method.init(start, None, *data)

  def body(state, _):
    new, info = method.step(state, None, *data)
    return new, (state.params, new.params, info)

  return jax.lax.scan(body, state, None, length=steps)[1]


@pytest.mark.x64
def test_accepted_steps_decrease_and_gradients_descend(rng):
  for problem in (Quadratic(rng), Quadratic(rng, 30.0)):
    for accuracy in (10.0, 1e-2):
      before, after, info = run(
        problem.constants, problem.weak, problem.data, accuracy, steps=25,
        options=(("stepsize", 0.05),),
      )  # fmt: skip
      assert not np.any(info.stalled)
      for i in range(25):
        x, new = np.asarray(before.x[i]), np.asarray(after.x[i])
        z = (x - new) / float(info.stepsize[i])
        exact = problem.gradient(x)
        assert float(info.decrease[i]) <= 0
        drop = problem.value(new) - problem.value(x)
        assert drop <= -0.1 * float(info.stepsize[i]) * np.sum(z**2) + 1e-12
        assert z @ exact >= 0.5 * np.sum(z**2)
        assert np.linalg.norm(z - exact) <= float(info.bound[i]) * (1 + 1e-6) + 1e-10
        assert float(info.low[i]) <= problem.value(x) + 1e-12
        assert float(info.high[i]) >= problem.value(new) - 1e-12
        off = np.linalg.norm(np.asarray(after.y[i]) - problem.solution(new))
        assert off <= 1.05 * float(info.accuracy[i]) + 1e-12


@pytest.mark.x64
@pytest.mark.parametrize("distance", [1e-3, 1e-2, 0.1])
def test_an_inner_solver_that_cheats_as_far_as_it_can_is_seen_through(rng, distance):
  problem = Quadratic(rng)
  before, after, info = run(
    problem.constants, problem.weak, problem.data, 1.0, steps=10, adversary=True, checked=False,
    options=(("stepsize", 0.05), ("distance", distance), ("max_refinements", 3)),
  )  # fmt: skip
  accepted = ~np.asarray(info.stalled)
  assert accepted[0] and (distance < 0.05 or not accepted.all())
  for i in np.flatnonzero(accepted):
    drop = problem.value(np.asarray(after.x[i])) - problem.value(np.asarray(before.x[i]))
    assert drop < 0
  for i in np.flatnonzero(~accepted):
    np.testing.assert_array_equal(after.x[i], before.x[i])


@pytest.mark.x64
def test_with_exact_numbers_it_is_descent_with_armijos_rule(rng):
  problem = Quadratic(rng)
  options = (("stepsize", 0.5), ("max_inner_steps", 5000))
  _, after, _ = run(problem.constants, problem.weak, problem.data, 1e-12, steps=12, options=options)
  x, alpha = np.ones(N), 0.5
  for i in range(12):
    z = problem.gradient(x)
    while problem.value(x - alpha * z) > problem.value(x) - 0.1 * alpha * z @ z:
      alpha *= 0.5
    x, alpha = x - alpha * z, alpha * 10 / 9
    np.testing.assert_allclose(after.x[i], x, atol=1e-8)


@pytest.mark.x64
def test_where_it_ends_does_not_depend_on_the_first_accuracy(rng):
  problem = Quadratic(rng, 4.0)
  ends = []
  for accuracy in (10.0, 1e-3):
    for checked in (True, False):
      _, after, info = run(
        problem.constants, problem.weak, problem.data, accuracy, steps=400, checked=checked,
        options=(("stepsize", 0.05),),
      )  # fmt: skip
      ends.append(problem.value(np.asarray(after.x[-1])))
      assert float(info.accuracy[-1]) < 1e-2
  start = problem.value(np.ones(N))
  assert (max(ends) - min(ends)) / start < 1e-3 and max(ends) < 0.05 * start


@pytest.mark.x64
def test_at_a_stationary_point_it_stalls_and_keeps_the_point(rng):
  problem = Quadratic(rng)
  problem.a3[:, 3:] = 0  # three numbers cannot bring f to 0: its own gradient does not vanish
  best = np.linalg.lstsq(
    problem.a1 @ np.linalg.solve(problem.gram, problem.a2.T @ problem.a3),
    problem.a1 @ np.linalg.solve(problem.gram, problem.a2.T @ problem.b2) - problem.b1,
    rcond=None,
  )[0]
  assert np.linalg.norm(problem.gradient(best)) < 1e-9
  lower = bilevel.strongly_convex_descent(
    inner, strong_convexity=problem.mu, smoothness=problem.smooth
  )
  method = bilevel.maid(
    inner, outer, lower, strong_convexity=problem.mu, outer_smoothness=problem.outer_smooth,
    min_accuracy=1e-3, max_refinements=8,
  )  # fmt: skip
  point = bilevel.BilevelPoint(jnp.asarray(best), jnp.asarray(problem.solution(best)))
  found, info = solvers.run_until(method, point, None, *problem.data, tol=0.0, max_steps=50)
  assert int(info.status) == solvers.STALLED
  np.testing.assert_array_equal(found.x, best)


@pytest.mark.x64
def test_projected_steps_stay_inside_and_trees_are_fine():
  """argmin over x >= 0 of 1/2 (1/(1+x) - t)^2: x = 1/t - 1, or 0 for t > 1."""
  inner = lambda y, x, t: 0.5 * jnp.sum((y["a"] - 1.0) ** 2) + 0.5 * x[0] * jnp.sum(y["a"] ** 2)
  outer = lambda y, x, t: 0.5 * jnp.sum((y["a"] - t) ** 2)
  mu = lambda x, t: 1 + x[0]
  lower = bilevel.strongly_convex_descent(inner, strong_convexity=mu, smoothness=mu)
  method = bilevel.maid(
    inner, outer, lower, strong_convexity=mu, outer_smoothness=1.0, stepsize=1.0, convex=True,
    project=lambda x: (jnp.maximum(x[0], 0.0),),
  )  # fmt: skip
  start = bilevel.BilevelPoint((jnp.array(2.0),), {"a": jnp.zeros(2)})
  solve = jax.jit(lambda t: solvers.run_until(method, start, None, t, tol=1e-7, max_steps=300))
  point, info = solve(jnp.array(0.8))
  assert int(info.status) == 0
  np.testing.assert_allclose(point.x[0], 0.25, atol=1e-5)
  point, info = solve(jnp.array(1.2))
  assert float(point.x[0]) == 0.0


@pytest.mark.x64
def test_error_of_the_inner_solver_bounds_the_distance(rng):
  problem = Quadratic(rng, 50.0)
  lower = bilevel.strongly_convex_descent(
    inner, strong_convexity=problem.mu, smoothness=problem.smooth
  )
  x = jnp.ones(N)
  star = problem.solution(np.ones(N))
  solve = jax.jit(lambda tol: solvers.run_until(
    lower, jnp.zeros(N), x, *problem.data, tol=tol, max_steps=10_000))  # fmt: skip
  steps = []
  for tol in (1.0, 1e-2, 1e-6, 1e-11):
    y, info = solve(tol)
    assert int(info.status) == 0 and float(info.error) <= tol
    assert np.linalg.norm(np.asarray(y) - star) <= tol / problem.mu
    assert np.linalg.norm(jax.grad(inner)(y, x, *problem.data)) <= tol * (1 + 1e-12)
    steps.append(int(info.steps))
  # Accelerated: the error falls by (1 - sqrt(mu/L)) a step or faster, not by 1 - mu/L.
  assert steps[-1] < 25 * np.sqrt(50.0) * 1.5
  _, info = solve(0.0)
  assert int(info.status) != 0  # rounding is no residual of 0


def test_float32_ends_at_its_floor(rng):
  problem = Quadratic(rng, 4.0)
  _before, after, _info = run(
    problem.constants, problem.weak, tuple(a.astype(jnp.float32) for a in problem.data), 0.1,
    steps=200, options=(("stepsize", 0.05),),
  )  # fmt: skip
  values = [problem.value(np.asarray(x, float)) for x in after.x]
  assert np.isfinite(values).all() and values[-1] < 0.1 * problem.value(np.ones(N))
  assert after.x.dtype == jnp.float32
