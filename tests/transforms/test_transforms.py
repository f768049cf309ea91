"""Contracts of every optax link, and what the proximal step must do."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxopt_robust as jr
from jaxopt_robust.debug import count_traces
from tests.registries.transforms import TRANSFORMS
from tests.registries.transforms_sharpness import SHARPNESS

ALL = [*TRANSFORMS, *SHARPNESS]
CASES = pytest.mark.parametrize("case", ALL, ids=lambda c: c.name)
WITH_HYPER = pytest.mark.parametrize("case", [c for c in ALL if c.hyper], ids=lambda c: c.name)


def params():
  return {"a": jnp.array([0.2, -3.0, 0.0]), "b": {"c": jnp.ones((2, 2))}}


def grads():
  return jax.tree.map(lambda p: 0.5 * p + 0.1, params())


def make(case):
  return case.make(**case.fixed, **case.hyper)


def one_step(case, tx, p=None, g=None, **extra):
  p, g = p or params(), g or grads()
  updates, _ = tx.update(g, tx.init(p), p, **case.extra(g), **extra)
  return updates


def close(a, b):
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-6, atol=1e-7), a, b)


@CASES
def test_chain_and_unknown_extra_arguments(case):
  tx = optax.chain(optax.sgd(0.1), make(case))
  close(one_step(case, tx), one_step(case, tx, value=1.0, something_unknown=3))


@CASES
def test_masked_and_partition_leave_the_rest_alone(case):
  masked = optax.masked(make(case), {"a": True, "b": {"c": False}})
  updates = one_step(case, masked)
  close(updates["b"], grads()["b"])
  if case.separable:
    close(updates["a"], one_step(case, make(case))["a"])
  labels = {"a": "x", "b": {"c": "y"}}
  parts = optax.partition({"x": make(case), "y": optax.identity()}, labels)
  close(one_step(case, parts), updates)
  nothing = optax.masked(make(case), {"a": False, "b": {"c": False}})
  close(one_step(case, nothing), grads())


@CASES
def test_multi_steps(case):
  tx = optax.MultiSteps(optax.chain(optax.sgd(0.1), make(case)), every_k_schedule=2)
  p = params()
  state = tx.init(p)
  first, state = tx.update(grads(), state, p, **case.extra(grads()))
  close(first, jax.tree.map(jnp.zeros_like, p))
  second, state = tx.update(grads(), state, p, **case.extra(grads()))
  close(second, one_step(case, optax.chain(optax.sgd(0.1), make(case))))


@WITH_HYPER
def test_injected_hyperparameters_are_data(case):
  tx = optax.inject_hyperparams(case.make, static_args=case.static)(**case.fixed, **case.hyper)
  close(one_step(case, tx), one_step(case, make(case)))

  counted = count_traces(lambda values: one_step(case, case.make(**case.fixed, **values)))
  updates_with = jax.jit(counted)
  for factor in (1.0, 2.0, 3.0):
    values = {name: jnp.asarray(value * factor) for name, value in case.hyper.items()}
    close(updates_with(values), one_step(case, case.make(**case.fixed, **values)))
  assert counted.traces == 1


@CASES
def test_dtype_is_kept_and_the_second_call_does_not_compile(case):
  tx = make(case)
  half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params())
  assert all(u.dtype == jnp.bfloat16 for u in jax.tree.leaves(one_step(case, tx, half, half)))
  counted = count_traces(lambda g, s, p: tx.update(g, s, p, **case.extra(g)))
  step = jax.jit(counted)
  p, state = params(), tx.init(params())
  for _ in range(3):
    updates, state = step(grads(), state, p)
    p = optax.apply_updates(p, updates)
  assert counted.traces == 1


@CASES
def test_init_accepts_shapes_alone(case):
  shapes = jax.eval_shape(params)
  state = make(case).init(shapes)
  like = make(case).init(params())
  assert jax.tree.structure(state) == jax.tree.structure(like)


def lasso():
  rng = np.random.default_rng(0)
  x = jnp.asarray(rng.standard_normal((50, 10)), jnp.float32)
  return x, x @ jnp.asarray([2.0, -1.0] + [0.0] * 8) + 0.1


def test_sgd_with_a_proximal_link_is_ista_and_keeps_exact_zeros():
  x, y = lasso()
  fun = lambda w: 0.5 * jnp.mean((x @ w - y) ** 2)
  tx = optax.chain(
    optax.sgd(0.4), jr.transforms.proximal(jr.prox.prox_lasso, 0.3, learning_rate=0.4)
  )

  @jax.jit
  def by_optax():
    def body(carry, _):
      w, state = carry
      updates, state = tx.update(jax.grad(fun)(w), state, w)
      return (optax.apply_updates(w, updates), state), None

    start = jnp.zeros(10)
    return jax.lax.scan(body, (start, tx.init(start)), None, length=50)[0][0]

  solver = jr.solvers.ista(fun, jr.prox.prox_lasso, stepsize=0.4)
  ista, _ = jax.jit(lambda: jr.solvers.run_steps(solver, jnp.zeros(10), 0.3, num_steps=50))()
  w = by_optax()
  np.testing.assert_allclose(w, ista, atol=2e-6)
  assert (w == 0).tolist() == (ista == 0).tolist() and int((w == 0).sum()) == 8


def test_a_schedule_sees_the_count():
  seen = []
  schedule = lambda count: seen.append(count) or 0.1 * (count + 1)
  tx = jr.transforms.proximal(jr.prox.prox_lasso, 1.0, learning_rate=schedule)
  p = jnp.array([1.0])
  state = tx.init(p)
  first, state = tx.update(jnp.zeros(1), state, p)
  second, state = tx.update(jnp.zeros(1), state, p)
  np.testing.assert_allclose([first[0], second[0]], [-0.1, -0.2], rtol=1e-6)
  assert int(state.count) == 2


def test_projected_updates_hit_the_bounds_exactly():
  rng = np.random.default_rng(1)
  p = jnp.asarray(rng.uniform(0.1, 0.9, 1000), jnp.float32)
  u = jnp.asarray(rng.standard_normal(1000), jnp.float32)
  box = lambda x: jnp.clip(x, min=0.1, max=0.9)
  projected = jr.transforms.apply_updates_projected(p, u, box)
  assert float(projected.min()) == np.float32(0.1) and float(projected.max()) == np.float32(0.9)
  tx = jr.transforms.proximal(jr.prox.make_prox_from_projection(box), learning_rate=1.0)
  chained = optax.apply_updates(p, tx.update(u, tx.init(p), p)[0])
  np.testing.assert_allclose(chained, projected, atol=1e-6)
  simplex = jr.transforms.apply_updates_projected(
    jnp.ones(3), jnp.arange(3.0), optax.projections.projection_simplex, 2.0
  )
  assert float(simplex.sum()) == pytest.approx(2.0)
