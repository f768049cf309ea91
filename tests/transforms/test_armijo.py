"""The Armijo search: its condition, the step before it, where it gives up, one compile."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxopt_robust.debug import count_traces
from jaxopt_robust.transforms import armijo_descent

pytestmark = pytest.mark.x64


def fun(x):
  return jnp.sum(jnp.array([1.0, 30.0]) * x**2)


def one(tx, state, x, f=fun):
  value, grad = jax.value_and_grad(f)(x)
  return tx.update(grad, state, x, value=value, value_fn=f)


def test_the_first_step_that_decreases_enough_is_taken():
  x = jnp.array([1.0, -1.0])
  grad = np.asarray(jax.grad(fun)(x))
  tx = armijo_descent(stepsize=1.0, shrink=0.5, growth=2.0, decrease=0.25)
  updates, state = one(tx, tx.init(x), x)
  slope = float(grad @ grad)
  good = lambda a: float(fun(x - a * grad)) <= float(fun(x)) - 0.25 * a * slope
  step = next(a for a in 0.5 ** np.arange(20.0) if good(a))
  assert 0 < step < 0.5
  np.testing.assert_allclose(updates, -step * grad, rtol=1e-14)
  assert float(state.stepsize) == 2 * step and int(state.trials) == 1 - np.log2(step)


@pytest.mark.parametrize(
  ("what", "options"),
  [("trials", {"max_trials": 3}), ("least step", {"min_stepsize": 0.5}), ("tol", {"tol": 1e4})],
)
def test_where_it_gives_up_nothing_moves(what, options):
  x = jnp.array([1.0, -1.0])
  tx = armijo_descent(stepsize=1.0, shrink=0.5, **options)
  updates, state = one(tx, tx.init(x), x)
  np.testing.assert_array_equal(updates, 0)
  # A search that ran out of trials goes on from its last one, 0.5^2.
  assert float(state.stepsize) == (0.25 if what == "trials" else 1.0)


def test_values_that_are_not_finite_are_never_accepted():
  x = jnp.array([1.0, -1.0])
  tx = armijo_descent()
  beyond = lambda x: jnp.where(jnp.max(jnp.abs(x)) > 1, jnp.nan, fun(x))
  updates, _ = one(tx, tx.init(x), x, beyond)
  assert float(fun(x + updates)) < float(fun(x))
  updates, _ = one(tx, tx.init(x), x, lambda x: fun(x) * jnp.nan)
  np.testing.assert_array_equal(updates, 0)


def test_any_number_of_steps_lowers_the_objective_with_one_compile():
  counted = count_traces(lambda *args: run(*args))

  def run(x, stepsize):
    tx = armijo_descent(stepsize=stepsize, min_stepsize=0.0, tol=0.0)

    def step(carry, _):
      x, state = carry
      updates, state = one(tx, state, x)
      x = optax.apply_updates(x, updates)
      return (x, state), fun(x)

    return jax.lax.scan(step, (x, tx.init(x)), None, length=60)[1]

  every = jax.jit(counted)
  for stepsize in (10.0, 1e-3):
    values = np.asarray(every(jnp.array([3.0, -1.0]), jnp.asarray(stepsize)))
    assert np.all(np.diff(values) <= 0)
    # Each step is at least shrink / L = 0.9 / 60 (once it has grown), so that f falls by a factor
    # of at least 1 - 2 decrease mu 0.9 / 60 with mu = 2.
    assert np.all(values[11:] <= (1 - 0.03) * values[10:-1])
  assert counted.traces == 1


@pytest.mark.parametrize("curvature", [1e-21, 1.0, 1e21])
def test_squares_of_gradients_may_be_out_of_range(curvature):
  x = jnp.array([1.0, 2.0], jnp.float32)
  f = lambda x: 0.5 * curvature * jnp.sum(x**2)
  tx = armijo_descent(stepsize=100 / curvature, min_stepsize=0.0, tol=0.0)
  moves, (_, trials) = one(tx, tx.init(x), x, f)
  # f(x - a g) = (1 - t)^2 f(x) with t = a curvature: it decreases enough once t <= 1.
  first = next(k for k in range(100) if 100 * 0.9**k <= 1)
  assert trials == first + 1
  np.testing.assert_allclose(moves, -100 * 0.9**first * x, rtol=1e-5)


def test_values_that_are_no_scalars_are_refused():
  x, tx = jnp.ones(2), armijo_descent()
  for value, f in ((x, fun), (fun(x), lambda x: x)):
    with pytest.raises(ValueError, match=r"value.* must be a scalar.*shape \(2,\)"):
      tx.update(x, tx.init(x), x, value=value, value_fn=f)
