"""Drivers called outside ``jit``: one compile a solver, nothing leaks, an outer jit traces once."""

import gc
import types
import weakref
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxopt_robust import prox, solvers
from jaxopt_robust.debug import count_traces
from jaxopt_robust.solvers import _eager, drive

B = jnp.array([3.0, 0.5])


def square(w, b):
  return 0.5 * jnp.sum((w - b) ** 2)


def test_repeated_calls_compile_once_and_agree_with_jit():
  fun = count_traces(square)

  def run(i):
    solver = solvers.fista(fun, prox.prox_lasso, stepsize=0.5)  # made again, equal
    return solvers.run_until(
      solver, jnp.full(2, float(i)), 1.0 / (1 + i), b=B, tol=10.0**-i, max_steps=100 + i
    )

  first, _ = run(0)
  traces = fun.traces
  for i in range(1, 6):
    w, info = run(i)
    assert int(info.status) == solvers.CONVERGED
  assert fun.traces == traces
  np.testing.assert_allclose(w, [3.0 - 1.0 / 6, 0.5 - 1.0 / 6], atol=1e-4)
  np.testing.assert_array_equal(first, jax.jit(lambda: run(0)[0])())


def test_run_state_and_run_steps_compile_once_too():
  fun = count_traces(square)
  make = lambda: solvers.ista(fun, prox.lasso, stepsize=0.5)
  state = make().init(jnp.zeros(2), 1.0, B)
  solvers.run_state(make(), state, 1.0, B, tol=1e-3, max_steps=9)
  solvers.run_steps(make(), jnp.zeros(2), 1.0, B, num_steps=3)
  traces = fun.traces
  for i in range(3):
    state, _ = solvers.run_state(make(), state, 1.0 + i, B, tol=1e-4, max_steps=9 + i)
    solvers.run_steps(make(), jnp.full(2, float(i)), 1.0, B + i, num_steps=3)
  assert fun.traces == traces
  solvers.run_steps(make(), jnp.zeros(2), 1.0, B, num_steps=4)  # a length is static
  assert fun.traces > traces


def test_solvers_are_equal_when_their_functions_and_numbers_are():
  make = lambda **k: solvers.fista(square, prox.prox_lasso, **k)
  assert make(stepsize=0.5) == make(stepsize=0.5)
  assert hash(make(stepsize=0.5)) == hash(make(stepsize=0.5))
  assert make(stepsize=0.5) != make(stepsize=0.25)
  assert make(stepsize=0.5) != make(stepsize=0.5, restart=None)
  assert make(stepsize=0.5) != solvers.ista(square, prox.prox_lasso, stepsize=0.5)
  assert make(stepsize=0.5) != solvers.fista(
    lambda w, b: square(w, b), prox.prox_lasso, stepsize=0.5
  )
  step = jnp.asarray(0.5)
  assert make(stepsize=step) != make(stepsize=step), "arrays are not compared"
  palm = lambda: solvers.palm(square, [prox.lasso], [square], safety=1.5)
  assert palm() == palm()
  sgd = optax.sgd(0.1)
  assert solvers.from_optax(square, sgd) == solvers.from_optax(square, sgd)
  assert solvers.from_optax(square, sgd) != solvers.from_optax(square, optax.sgd(0.1))


@pytest.mark.parametrize("stepsize", [0.5, jnp.asarray(0.25)])
def test_an_outer_jit_traces_the_loop_once(stepsize):
  fun = count_traces(square)

  @jax.jit
  def outer(b, tol):
    solver = solvers.fista(fun, prox.prox_lasso, stepsize=stepsize)
    return solvers.run_until(solver, jnp.zeros(2), 1.0, b, tol=tol, max_steps=50)[0]

  for i in range(3):
    np.testing.assert_allclose(outer(B + i, 1e-5), np.maximum(B + i - 1, 0), atol=1e-4)
  assert fun.traces == 2  # the shape of the info, and the loop's body


def test_many_solvers_do_not_pile_up():
  """Factories keep nothing; runs keep the last programs, and what those hold."""
  _eager.compiled.cache_clear()
  kept = []
  for i in range(3_000):
    fun = lambda w, b, i=i: square(w, b + i)
    solver = solvers.ista(fun, prox.prox_lasso, stepsize=0.5)
    hash(solver)
    kept.append(weakref.ref(fun))
  del fun, solver
  gc.collect()
  assert not any(ref() is not None for ref in kept)
  runs = []
  for i in range(_eager.KEPT_PROGRAMS + 3):
    step = lambda state, hyper, i=i: (state._replace(count=state.count + 1), state.info)
    runs.append(weakref.ref(step))
    _eager.compiled(drive._until, solvers.Solver(step, step), (), ())
  assert _eager.compiled.cache_info().currsize == _eager.KEPT_PROGRAMS
  gc.collect()
  assert [ref() is None for ref in runs[:4]] == [True, True, True, False]
  _eager.compiled.cache_clear()


def test_derivatives_and_batches_of_an_eager_call_are_not_cut():
  solver = solvers.ista(square, prox.prox_ridge, stepsize=0.5)
  last = lambda h: solvers.run_steps(solver, jnp.zeros(2), h, B, num_steps=60)[0].sum()
  np.testing.assert_allclose(jax.grad(last)(1.0), -B.sum() / 4, rtol=1e-5)  # b / (1 + h)
  run = lambda h: solvers.run_until(solver, jnp.zeros(2), h, B, tol=1e-6, max_steps=99)[0]
  np.testing.assert_allclose(jax.vmap(run)(jnp.array([0.0, 1.0])), jnp.stack([B, B / 2]), rtol=1e-5)


def test_bad_values_raise_in_every_eager_call():
  solver = solvers.ista(square, prox.prox_lasso, stepsize=0.5)
  run = lambda h: solvers.run_until(solver, jnp.zeros(2), h, B, tol=1e-6, max_steps=99)[0]
  for _ in range(2):
    np.testing.assert_allclose(run(1.0), [2.0, 0.0], atol=1e-5)
    for bad in (-1.0, float("nan")):
      with pytest.raises(ValueError, match="must be >= 0"):
        run(bad)


TARGET = jnp.array([3.0, 0.5])


def distance_to_target(w):
  return nested_distance(w)


def nested_distance(w):
  return 0.5 * jnp.sum((w - TARGET) ** 2)


def solution(fun):
  solver = solvers.fista(fun, prox.prox_lasso, stepsize=1.0)
  return solvers.run_until(solver, jnp.zeros(2), 1.0, tol=1e-6, max_steps=20)[0].tolist()


def test_data_that_a_function_closes_over_may_be_bound_anew(monkeypatch):
  # The compiled loop holds them as constants; under the same name there may be others now.
  assert solution(distance_to_target) == [2.0, 0.0]
  monkeypatch.setitem(globals(), "TARGET", jnp.array([5.0, -4.0]))
  assert solution(distance_to_target) == [4.0, -3.0]
  target = np.array([3.0, 0.5], np.float32)
  inner = lambda w: 0.5 * jnp.sum((w - target) ** 2)
  decorated = jax.jit(lambda w: inner(w))
  assert solution(inner) == solution(decorated) == [2.0, 0.0]
  target = np.array([5.0, -4.0], np.float32)
  assert solution(inner) == [4.0, -3.0]


def test_objects_that_may_change_are_looked_at_again():
  class Model:
    target = jnp.array([3.0, 0.5])

    def distance(self, w):
      return 0.5 * jnp.sum((w - self.target) ** 2)

    __call__ = distance

  class Callable(NamedTuple):
    model: Any

    def __call__(self, w):
      return self.model.distance(w)

  model = Model()
  ways = [model.distance, model, lambda w: model.distance(w), Callable(model)]
  assert [solution(way) for way in ways] == [[2.0, 0.0]] * 4
  model.target = jnp.array([5.0, -4.0])
  assert [solution(way) for way in ways] == [[4.0, -3.0]] * 4
  table = types.SimpleNamespace(target=jnp.array([3.0, 0.5]))
  fun = lambda w: 0.5 * jnp.sum((w - table.target) ** 2)
  assert solution(fun) == [2.0, 0.0]
  table.target = jnp.array([5.0, -4.0])
  assert solution(fun) == [4.0, -3.0]
  several = {"target": [jnp.array([3.0, 0.5])]}
  inside = lambda w: 0.5 * jnp.sum((w - several["target"][0]) ** 2)
  assert solution(inside) == [2.0, 0.0]
  several["target"][0] = jnp.array([5.0, -4.0])
  assert solution(inside) == [4.0, -3.0]


def test_containers_may_hold_themselves():
  table = {"target": jnp.array([3.0, 0.5])}
  table["self"] = [table]
  assert solution(lambda w: 0.5 * jnp.sum((w - table["target"]) ** 2)) == [2.0, 0.0]


def test_the_same_data_do_not_compile_again():
  fun = count_traces(distance_to_target)
  solution(fun)
  traces = fun.traces
  solution(fun)
  assert fun.traces == traces
