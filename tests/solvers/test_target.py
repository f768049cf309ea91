"""Target-based surrogates: closed forms in the space of the outputs, bounds, counters, rules."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxopt_robust import solvers
from jaxopt_robust.debug import count_traces
from jaxopt_robust.solvers import TargetBatch, target_surrogate
from jaxopt_robust.transforms import armijo_descent

pytestmark = pytest.mark.x64
LINEAR = lambda w, x: x @ w
LOGISTIC = lambda z, y: jnp.sum(jax.nn.softplus(z) - y * z)
HALF_SQUARE = lambda z, y: 0.5 * jnp.sum((z - y) ** 2)
EXACT = optax.lbfgs()  # minimises a quadratic of few unknowns within rounding in a few dozen steps


def softmax_loss(z, y):
  return jnp.sum(optax.softmax_cross_entropy_with_integer_labels(z, y))


LOSSES = {  # loss, labels, Lipschitz constant of the gradient of one example
  "square": (lambda z, y: jnp.sum((z - y) ** 2), jnp.array([1.0, -2.0, 0.5, 3.0]), 2.0),
  "logistic": (LOGISTIC, jnp.array([1.0, 0.0, 1.0, 0.0]), 0.25),
  "softmax": (softmax_loss, jnp.array([0, 2, 1, 1]), 0.5),
}


def table(rng, rows=12, columns=3):
  x = jnp.asarray(rng.standard_normal((rows, columns)))
  return TargetBatch(x, jnp.asarray(rng.integers(0, 2, rows), float))


def outer_steps(solver, w, batch, steps, hyper=None):
  """All iterates and infos."""

  def step(state, _):
    state, info = solver.step(state, hyper, batch)
    return state, (state.params, info)

  return jax.lax.scan(step, solver.init(w, hyper, batch), None, length=steps)


def test_one_inner_step_is_gradient_descent_whatever_the_target_step(rng):
  batch, w = table(rng), jnp.asarray(rng.standard_normal(3))
  net = lambda w, x: jnp.tanh(x @ w) * jnp.sum(w)
  composed = lambda w: LOGISTIC(net(w, batch.inputs), batch.targets)

  @jax.jit
  def run(eta):
    solver = solvers.sso(net, jax.value_and_grad(LOGISTIC), stepsize=eta, inner=optax.sgd(0.05))
    return outer_steps(solver, w, batch, 5)[1]

  expected = w
  plain = []
  for _ in range(5):
    expected = expected - 0.05 * jax.grad(composed)(expected)
    plain.append(expected)
  for eta in (1e-3, 1.0, 1e3):
    params, info = run(jnp.asarray(eta))
    np.testing.assert_allclose(params, jnp.stack(plain), rtol=1e-9)
    np.testing.assert_allclose(info.value[0], composed(w), rtol=1e-12)
    np.testing.assert_allclose(info.error[0], jnp.linalg.norm(jax.grad(composed)(w)), rtol=1e-9)


@pytest.mark.parametrize("name", LOSSES)
def test_the_surrogate_lies_above_the_loss_and_touches_it(name, rng):
  loss, y, lipschitz = LOSSES[name]
  shape = (200, 4, 3) if name == "softmax" else (200, 4)
  z, at = (jnp.asarray(3 * rng.standard_normal(shape)) for _ in range(2))

  @jax.jit
  @jax.vmap
  def gaps(z, at):
    value, u = jax.value_and_grad(loss)(at, y)
    q = functools.partial(
      target_surrogate, anchor=at, gradient=u, stepsize=1 / lipschitz, value=value
    )
    return q(z) - loss(z, y), q(at) - value, jax.grad(q)(at) - u

  above, touch, slope = gaps(z, at)
  assert np.all(above >= -1e-9)
  np.testing.assert_allclose(touch, 0, atol=1e-12)
  np.testing.assert_allclose(slope, 0, atol=1e-12)
  # The constant is the best one: a step that is longer by a tenth lies below somewhere.
  if name != "softmax":
    value, u = jax.value_and_grad(loss)(jnp.zeros(4), y)
    near = jnp.full(4, 1e-2)
    long = target_surrogate(near, jnp.zeros(4), u, stepsize=1.1 / lipschitz, value=value)
    assert float(long) < float(loss(near, y))


@pytest.mark.parametrize("name", ["logistic", "softmax"])
def test_the_divergence_of_the_loss_itself_gives_the_loss(name, rng):
  loss, y, _ = LOSSES[name]
  z, at = (jnp.asarray(rng.standard_normal((4, 3) if name == "softmax" else 4)) for _ in range(2))
  value, u = jax.value_and_grad(loss)(at, y)
  q = target_surrogate(z, at, u, stepsize=1.0, value=value, divergence=name)
  np.testing.assert_allclose(q, loss(z, y), rtol=1e-12)


def test_divergences_are_divergences(rng):
  z, at = (jnp.asarray(rng.uniform(0.1, 2, (5, 3))) for _ in range(2))
  none = jnp.zeros((5, 3))
  for name in ("squared", "logistic", "softmax", "kl"):
    distance = lambda z, name=name: target_surrogate(z, at, none, stepsize=1.0, divergence=name)
    assert float(distance(z)) > 0 and abs(float(distance(at))) < 1e-14
    np.testing.assert_allclose(jax.grad(distance)(at), 0, atol=1e-14)
  p, q = jax.nn.softmax(at), jax.nn.softmax(z)
  kl = jnp.sum(p * jnp.log(p / q))
  np.testing.assert_allclose(
    target_surrogate(z, at, none, stepsize=1.0, divergence="softmax"), kl, rtol=1e-12
  )
  p, q = jax.nn.sigmoid(at), jax.nn.sigmoid(z)
  kl = jnp.sum(p * jnp.log(p / q) + (1 - p) * jnp.log((1 - p) / (1 - q)))
  np.testing.assert_allclose(
    target_surrogate(z, at, none, stepsize=1.0, divergence="logistic"), kl, rtol=1e-12
  )
  # Free positive outputs: the minimiser is the exponentiated gradient.
  u, eta = jnp.asarray(rng.standard_normal((5, 3))), 0.7
  best = at * jnp.exp(-eta * u)
  slope = jax.grad(lambda z: target_surrogate(z, at, u, stepsize=eta, divergence="kl"))(best)
  np.testing.assert_allclose(slope, 0, atol=1e-13)
  own = lambda z, at: (z - at) ** 4
  np.testing.assert_allclose(
    target_surrogate(z, at, none, stepsize=0.5, weights=jnp.full((5, 1), 3.0), divergence=own),
    6 * jnp.sum((z - at) ** 4), rtol=1e-12,
  )  # fmt: skip


def test_the_full_batch_loss_never_increases_for_any_number_of_armijo_steps(rng):
  batch = table(rng)
  net = lambda w, x: jnp.tanh(x @ w["first"]) @ w["second"]
  start = {
    "first": jnp.asarray(rng.standard_normal((3, 4))), "second": jnp.asarray(rng.standard_normal(4))
  }  # fmt: skip

  @functools.partial(jax.jit, static_argnums=0)
  def run(inner_steps, eta):
    solver = solvers.sso(
      net, jax.value_and_grad(LOGISTIC), stepsize=eta, inner=armijo_descent(),
      num_inner=inner_steps,
    )  # fmt: skip
    return outer_steps(solver, start, batch, 30)[1][1]

  ends = []
  for inner_steps in (1, 2, 15):
    for eta in (4.0, 1.0):  # 1/L = 4
      info = run(inner_steps, jnp.asarray(eta))
      assert np.all(np.diff(info.value) <= 0) and np.all(np.asarray(info.decrease) >= 0)
      # The surrogate is an upper bound: the loss falls at least as much as it does.
      falls = -np.diff(np.asarray(info.value))
      assert np.all(falls >= np.asarray(info.decrease)[:-1] - 1e-9)
    ends.append(float(info.value[-1]))
  assert ends[2] < ends[0]


def test_exact_inner_minimisation_is_the_pseudo_inverse_step(rng):
  batch, w = table(rng), jnp.asarray(rng.standard_normal(3))
  u = jax.grad(LOGISTIC)(LINEAR(w, batch.inputs), batch.targets)
  expected = w - 4.0 * jnp.linalg.pinv(batch.inputs) @ u
  solver = solvers.sso(
    LINEAR, jax.value_and_grad(LOGISTIC), stepsize=4.0, inner=EXACT, num_inner=30
  )
  params, _ = solvers.run_steps(solver, w, None, batch, num_steps=1)
  np.testing.assert_allclose(params, expected, atol=1e-9)


def test_one_oracle_call_solves_least_squares(rng):
  batch = table(rng)._replace(targets=jnp.asarray(rng.standard_normal(12)))
  solver = solvers.sso(
    LINEAR, jax.value_and_grad(HALF_SQUARE), stepsize=1.0, inner=EXACT, num_inner=30
  )
  params, _ = solvers.run_steps(solver, jnp.zeros(3), None, batch, num_steps=1)
  expected = np.linalg.lstsq(np.asarray(batch.inputs), np.asarray(batch.targets), rcond=None)[0]
  np.testing.assert_allclose(params, expected, atol=1e-9)


def test_outputs_do_not_depend_on_the_coordinates_of_the_parameters(rng):
  batch = table(rng)
  change = jnp.asarray(rng.standard_normal((3, 3)) + 2 * np.eye(3))

  @jax.jit
  def run(x):
    solver = solvers.sso(
      LINEAR, jax.value_and_grad(LOGISTIC), stepsize=4.0, inner=EXACT, num_inner=60
    )
    return outer_steps(solver, jnp.zeros(3), batch._replace(inputs=x), 4)[1][0] @ x.T

  outputs, other = run(batch.inputs), run(batch.inputs @ change)
  assert float(jnp.max(jnp.abs(outputs))) > 1
  np.testing.assert_allclose(other, outputs, atol=1e-6)


def test_counters_restart_and_a_grid_in_one_compile(rng):
  batch = table(rng)
  counted = count_traces(LINEAR)

  @jax.jit
  @jax.vmap
  def run(eta, rate):
    solver = solvers.sso(
      counted, jax.value_and_grad(LOGISTIC), stepsize=solvers.target_search(eta),
      inner=optax.adam, num_inner=3,
    )  # fmt: skip
    return outer_steps(solver, jnp.zeros(3), batch, 4, hyper=rate)[0]

  state = run(jnp.array([1.0, 5.0]), jnp.array([0.1, 0.01]))
  first = counted.traces
  state = run(jnp.array([2.0, 3.0]), jnp.array([0.1, 0.01]))
  assert counted.traces == first
  assert state.count.tolist() == state.num_oracle.tolist() == [4, 4]
  assert state.num_inner.tolist() == [12, 12] and min(state.num_values.tolist()) >= 4
  assert state.inner[0].count.tolist() == [3, 3]  # begun anew with each surrogate
  kept = solvers.sso(
    LINEAR, jax.value_and_grad(LOGISTIC), stepsize=1.0, inner=optax.adam(0.1), num_inner=3,
    restart=False,
  )  # fmt: skip
  end, _ = outer_steps(kept, jnp.zeros(3), batch, 4)
  assert int(end.inner[0].count) == 12


def test_an_oracle_outside_of_jax(rng):
  batch, calls = table(rng), []

  def simulator(z, y):
    calls.append(1)
    z, y = np.asarray(z), np.asarray(y)
    return np.sum(np.logaddexp(0, z) - y * z), 1 / (1 + np.exp(-z)) - y

  def oracle(z, y):
    shapes = jax.ShapeDtypeStruct((), z.dtype), jax.ShapeDtypeStruct(z.shape, z.dtype)
    return jax.pure_callback(simulator, shapes, z, y)

  def run(oracle):
    solver = solvers.sso(LINEAR, oracle, stepsize=4.0, inner=optax.sgd(0.1), num_inner=5)
    return jax.jit(lambda: outer_steps(solver, jnp.zeros(3), batch, 6))()

  (_, (params, info)), (_, (expected, plain)) = run(oracle), run(jax.value_and_grad(LOGISTIC))
  np.testing.assert_allclose(params, expected, rtol=1e-9, atol=1e-12)
  np.testing.assert_allclose(info.value, plain.value, rtol=1e-9)
  assert len(calls) == 6  # one an outer step, whatever the inner steps


def test_a_full_batch_runs_to_a_tolerance_and_bad_data_are_reported(rng):
  batch = table(rng)
  x, y = np.asarray(batch.inputs), np.asarray(batch.targets)
  batch = TargetBatch(jnp.asarray(np.concatenate([x, x])), jnp.asarray(np.concatenate([y, 1 - y])))
  solver = solvers.sso(LINEAR, jax.value_and_grad(LOGISTIC), stepsize=4.0, inner=EXACT, num_inner=9)
  start = jnp.ones(3)
  run = jax.jit(lambda b: solvers.run_until(solver, start, None, b, tol=1e-8, max_steps=200))
  params, info = run(batch)
  assert int(info.status) == solvers.CONVERGED
  np.testing.assert_allclose(params, 0, atol=1e-8)  # each row has both labels
  _, info = run(batch._replace(inputs=batch.inputs * jnp.nan))
  assert int(info.status) == solvers.NON_FINITE


def weights_of(rule, points):
  """(eta, weights) of a rule on a list of gradients."""
  found, memory = [], None
  for count, (z, u, batch) in enumerate(points):
    point = solvers.TargetPoint(jnp.asarray(count), z, u, jnp.sum(z**2), None, batch)
    memory = rule.init(z) if memory is None else memory
    eta, weights, memory, _ = rule.update(memory, point)
    found.append((eta, weights))
  return found


def test_step_size_rules_are_their_formulas():
  z, first, second = jnp.zeros(2), jnp.array([3.0, 4.0]), jnp.array([0.0, 12.0])
  points = [
    (z, first, TargetBatch(None, None, jnp.array([2, 0]))),
    (z, second, TargetBatch(None, None, jnp.array([0, 1]))),
  ]
  (eta, none), (later, _) = weights_of(solvers.target_adagrad(2.0), points)
  assert none is None
  np.testing.assert_allclose([eta, later], [2 / 5, 2 / 13], rtol=1e-12)
  rule = solvers.target_example_adagrad(2.0, num_examples=3, initial=0.0)
  (eta, weights), (_, later) = weights_of(rule, points)
  assert float(eta) == 2
  np.testing.assert_allclose(weights, [3, 4], rtol=1e-12)
  np.testing.assert_allclose(later, [4, 12], rtol=1e-12)  # example 0 had 4 before and 0 now
  start = solvers.target_example_adagrad(num_examples=3)
  np.testing.assert_allclose(
    weights_of(start, points)[0][1], np.sqrt(1e-5 + np.array([9, 16])), rtol=1e-12
  )
  decay = solvers.target_curvature(lambda z, y: jnp.exp(z), solvers.inverse_sqrt_schedule(3.0))
  (eta, weights), (later, _) = weights_of(decay, points)
  np.testing.assert_allclose([eta, later], [3, 3 / np.sqrt(2)], rtol=1e-12)
  np.testing.assert_allclose(weights, 1)
  geometric = optax.exponential_decay(3.0, 10, 1 / 10)
  np.testing.assert_allclose(geometric(5), 3 / np.sqrt(10), rtol=1e-6)


def test_weights_are_step_sizes_of_outputs(rng):
  """Free outputs, one for each example: the exact step is -eta u / w, entry by entry."""
  u, w = jnp.asarray(rng.standard_normal(4)), jnp.asarray(rng.uniform(0.5, 2, 4))
  rule = solvers.target_curvature(lambda z, y: w, 0.7)
  oracle = lambda z, y: (jnp.sum(z * u), u)
  solver = solvers.sso(lambda z, _: z, oracle, stepsize=rule, inner=EXACT, num_inner=20)
  start = jnp.ones(4)
  end, _ = solvers.run_steps(solver, start, None, TargetBatch(None), num_steps=1)
  np.testing.assert_allclose(end, start - 0.7 * u / w, atol=1e-9)


def test_the_line_search_takes_the_first_step_that_decreases_enough(rng):
  z, y = jnp.asarray(rng.standard_normal(6)), jnp.zeros(6)
  value, u = jax.value_and_grad(HALF_SQUARE)(z, y)  # L = 1: good are steps up to 2 (1 - c)
  eta, info = solvers.target_line_search(
    lambda z: HALF_SQUARE(z, y), z, u, stepsize=1.0, growth=2.0, shrink=0.8, decrease=0.25
  )
  good = [2 * 0.8**k for k in range(9) if 2 * 0.8**k <= 1.5]
  np.testing.assert_allclose(eta, good[0], rtol=1e-12)
  assert bool(info.found) and int(info.trials) == 3 + 1  # and the value at z
  _, info = solvers.target_line_search(
    lambda z: jnp.sum(z) * jnp.nan, z, u, stepsize=1.0, value=value, max_trials=4
  )
  assert not bool(info.found) and int(info.trials) == 4
  eta, info = solvers.target_line_search(
    lambda z: HALF_SQUARE(z, y), z, u, stepsize=0.5, value=value, growth=2.0
  )
  assert float(eta) == 1.0 and int(info.trials) == 1  # the first one does, up to 2 (1 - c) = 1
  rule = solvers.target_search(max_stepsize=0.5, growth=4.0)
  point = solvers.TargetPoint(
    jnp.asarray(0), z, u, value, lambda z: HALF_SQUARE(z, y), TargetBatch(None)
  )
  assert float(rule.update(rule.init(z), point)[0]) == 0.5
  # The next search starts from the last step: 2, 4 and then, since 8 is beyond 2 (1 - c), 4.8.
  rule = solvers.target_search(growth=2.0, shrink=0.6, decrease=0.1)
  flat = point._replace(value=value / 4, value_fn=lambda z: HALF_SQUARE(z, y) / 4, gradient=u / 4)
  memory, found = rule.init(z), []
  for _ in range(3):
    eta, _, memory, trials = rule.update(memory, flat)
    found.append((float(eta), int(trials)))
  np.testing.assert_allclose(found, [(2, 1), (4, 1), (4.8, 2)], rtol=1e-12)


@pytest.mark.parametrize("curvature", [1e-21, 1.0, 1e21])
def test_a_line_search_whose_squares_are_out_of_range(curvature):
  z = jnp.array([1.0, 2.0], jnp.float32)
  loss = lambda z: 0.5 * curvature * jnp.sum(z**2)
  eta, info = solvers.target_line_search(loss, z, curvature * z, stepsize=100 / curvature)
  # l(z - eta u) = (1 - t)^2 l(z) with t = eta curvature: it decreases enough once t <= 1.
  first = next(k for k in range(100) if 180 * 0.9**k <= 1)
  assert bool(info.found) and int(info.trials) == first + 2
  np.testing.assert_allclose(eta * curvature, 180 * 0.9**first, rtol=1e-5)


def test_weights_and_bounds_that_do_not_fit_are_refused():
  z = jnp.ones((2, 3))
  surrogate = functools.partial(target_surrogate, z, 0 * z, z, stepsize=1.0, divergence="softmax")
  assert float(surrogate(weights=jnp.zeros(2))) == 6.0  # <u, z - z_t>
  with pytest.raises(ValueError, match=r"weights must broadcast .*\(2,\); got \(2, 3\)"):
    surrogate(weights=z)
  with pytest.raises(ValueError, match="min_stepsize must be <= max_stepsize"):
    solvers.target_search(min_stepsize=10.0, max_stepsize=1.0)


RULES = {
  "constant": lambda eta: eta,
  "schedule": solvers.inverse_sqrt_schedule,
  "adagrad": solvers.target_adagrad,
  "example_adagrad": functools.partial(solvers.target_example_adagrad, num_examples=6),
  "curvature": functools.partial(solvers.target_curvature, lambda z, y: 1 + z**2),
}


@pytest.mark.parametrize("name", RULES)
def test_derivatives_through_the_steps_are_those_of_differences(name, rng):
  x, y = jnp.asarray(rng.standard_normal((6, 2))), jnp.asarray(rng.standard_normal(6))

  def run(eta, size):
    oracle, stepsize = jax.value_and_grad(HALF_SQUARE), RULES[name](eta)
    solver = solvers.sso(LINEAR, oracle, stepsize=stepsize, inner=optax.sgd(0.02), num_inner=3)
    batch = TargetBatch(x, size * y, jnp.arange(6))
    return jnp.sum(solvers.run_steps(solver, jnp.zeros(2), None, batch, num_steps=3)[0] ** 2)

  at, step, value = np.array([0.7, 1.3]), 1e-5, jax.jit(run)
  slopes = jax.jit(jax.grad(run, (0, 1)))
  for slope, e in zip(slopes(*at), step * np.eye(2), strict=True):
    np.testing.assert_allclose(slope, (value(*(at + e)) - value(*(at - e))) / 2e-5, rtol=1e-6)
  assert float(slopes(0.7, 0.0)[0]) == 0  # no gradient at all
