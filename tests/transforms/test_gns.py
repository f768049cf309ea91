"""The optax form of gradient-normalized Newton: the solver's own steps, refusals, reuse."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxopt_robust import solvers
from jaxopt_robust.debug import count_traces
from jaxopt_robust.transforms import scale_by_gns

pytestmark = pytest.mark.x64


def residual(w, shift=0.0):
  return jnp.array([1 - w["a"], 10 * (w["b"][0] - w["a"] ** 2 - shift)])


def fun(w, shift=0.0):
  return 0.5 * jnp.sum(residual(w, shift) ** 2)


START = {"a": jnp.asarray(-2.0), "b": jnp.array([2.0])}
MODEL = solvers.gauss_newton_curvature(residual)


@pytest.mark.parametrize("reuse", [True, False])
def test_updates_are_the_steps_of_the_solver(reuse):
  metric = jnp.array([[2.0, 0.5], [0.5, 1.0]])
  tx = scale_by_gns(MODEL, metric=metric)
  evaluations = count_traces(fun)

  def step(carry, _):
    w, state = carry
    if reuse:
      value, grad = optax.value_and_grad_from_state(evaluations)(w, state=state)
    else:
      value, grad = jax.value_and_grad(fun)(w)
    updates, state = tx.update(grad, state, w, value=value, value_fn=fun)
    w = optax.apply_updates(w, updates)
    return (w, state), (w, state)

  run = jax.jit(lambda w: jax.lax.scan(step, (w, tx.init(w)), None, length=12)[1])
  params, state = run({k: jnp.asarray(v, jnp.float64) for k, v in START.items()})
  solver = solvers.gns_newton(fun, MODEL, metric=metric)
  expected, infos = jax.jit(
    lambda: solvers.run_steps(
      solver, {k: jnp.asarray(v, jnp.float64) for k, v in START.items()}, None, num_steps=12
    )
  )()
  np.testing.assert_allclose(params["a"][-1], expected["a"], rtol=1e-10)
  np.testing.assert_allclose(params["b"][-1], expected["b"], rtol=1e-10)
  np.testing.assert_array_equal(state.trials, infos.trials)
  np.testing.assert_allclose(state.value, infos.value, rtol=1e-9)
  assert np.any(state.trials > 1)


def test_a_search_without_success_moves_nothing_and_goes_on_below():
  tx = scale_by_gns(solvers.zero_curvature(), gamma=64.0, max_trials=3)
  f = lambda x: jnp.sum(jnp.cosh(x))
  x = jnp.ones(2)
  value, grad = jax.value_and_grad(f)(x)
  updates, state = tx.update(grad, tx.init(x), x, value=value, value_fn=f)
  np.testing.assert_array_equal(updates, 0)
  assert not bool(state.found) and float(state.gamma) == 8.0 and int(state.trials) == 3
  np.testing.assert_array_equal(state.grad, grad)
  updates, state = tx.update(grad, state, x, value=value, value_fn=f)
  assert bool(state.found) and float(f(x + updates)) < float(value)
  nan = jnp.full(2, jnp.nan)
  updates, state = tx.update(nan, state, x, value=value, value_fn=f)
  np.testing.assert_array_equal(updates, 0)


def test_curvatures_of_a_batch_unknown_arguments_shapes_and_other_links():
  tx = optax.chain(scale_by_gns(MODEL), optax.identity())
  shift = jnp.asarray(0.5)

  @jax.jit
  def one(shift):
    value, grad = jax.value_and_grad(fun)(START, shift)
    return tx.update(
      grad, tx.init(START), START, value=value, value_fn=lambda w: fun(w, shift),
      curvature_data=(shift,), something="else",
    )[0]  # fmt: skip

  solver = solvers.gns_newton(fun, MODEL)
  step = jax.jit(lambda s: solver.step(solver.init(START, None, s), None, s)[0].params)(shift)
  found = optax.apply_updates(START, one(shift))
  np.testing.assert_allclose(found["a"], step["a"], rtol=1e-12)
  np.testing.assert_allclose(found["b"], step["b"], rtol=1e-12)
  shapes = jax.tree.map(lambda v: jax.ShapeDtypeStruct(v.shape, v.dtype), START)
  assert jax.tree.structure(tx.init(shapes)) == jax.tree.structure(tx.init(START))


def test_half_precision_and_any_driver():
  """float32 inside, the parameters' own type outside; from_optax hands over what it needs."""
  f = lambda x: jnp.sum(jnp.array([1.0, 4.0], x.dtype) * (x - 1) ** 2)
  tx, x = scale_by_gns(solvers.exact_curvature(f)), jnp.array([3.0, -1.0], jnp.bfloat16)

  @jax.jit
  def one(x):
    value, grad = jax.value_and_grad(f)(x)
    return value, *tx.update(grad, tx.init(x), x, value=value, value_fn=f)

  value, updates, state = one(x)
  assert updates.dtype == state.grad.dtype == jnp.bfloat16 and state.gamma.dtype == jnp.float32
  assert float(f(x + updates)) < float(value)
  solver = solvers.from_optax(f, tx)
  x, info = jax.jit(
    lambda x: solvers.run_until(solver, x, None, tol=1e-6, max_steps=30)
  )(jnp.array([3.0, -1.0]))  # fmt: skip
  np.testing.assert_allclose(x, 1.0, atol=1e-6)
  assert int(info.status) == solvers.CONVERGED


def test_injected_hyper_parameters_and_data_that_are_no_tuple():
  f = lambda x: jnp.sum(jnp.array([1.0, 100.0]) * x**2)
  curvature, x = solvers.exact_curvature(f), jnp.array([3.0, -1.0])
  value, grad = jax.value_and_grad(f)(x)
  make = lambda **options: optax.inject_hyperparams(scale_by_gns, **options)(curvature, gamma=0.5)
  with pytest.raises(TypeError, match=r"static_args=\('curvature', 'max_trials'\)"):
    make().init(x)
  tx = make(static_args=("curvature", "max_trials"))
  found = tx.update(grad, tx.init(x), x, value=value, value_fn=f)[0]
  plain = scale_by_gns(curvature, gamma=0.5)
  expected = plain.update(grad, plain.init(x), x, value=value, value_fn=f)[0]
  np.testing.assert_allclose(found, expected, rtol=1e-12)
  with pytest.raises(TypeError, match="curvature_data must be a tuple"):
    plain.update(grad, plain.init(x), x, value=value, value_fn=f, curvature_data=x)
