"""Step-size rules: formulas, the optax contract, guards at zero."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxopt_robust import recovery
from jaxopt_robust.debug import count_traces
from tests.helpers import assert_no_retrace
from tests.registries.recovery import TRANSFORMS

GRADS = {"a": jnp.array([3.0, -1.0]), "b": jnp.array([[0.5]])}
VALUES = [2.0, 1.5, 1.0, 0.5]
Q_NORM = 4.0

each = pytest.mark.parametrize("case", TRANSFORMS, ids=str)


def _extra(value):
  return {
    "value": jnp.asarray(value), "scale": jnp.asarray(value), "q_norm": jnp.asarray(Q_NORM)
  }  # fmt: skip


def _run(tx, grads=GRADS):
  """The updates of four steps; what the rule does not know must be ignored."""
  state, out = tx.init(grads), []
  for value in VALUES:
    updates, state = tx.update(grads, state, grads, **_extra(value), unknown="ignored")
    out.append(updates)
  return out, state


@each
def test_formula(case):
  updates, _ = _run(case.factory(**case.hyper))
  for t, update in enumerate(updates):
    step = case.step(t, GRADS, VALUES[t], Q_NORM)
    jax.tree.map(
      lambda u, g, step=step: np.testing.assert_allclose(u, -step * g, rtol=1e-5), update, GRADS
    )


@each
def test_chain_mask_partition_multisteps_inject(case):
  tx = case.factory(**case.hyper)
  plain, _ = _run(tx)
  same = lambda a, b: jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5), a, b)
  same(_run(optax.chain(tx))[0], plain)
  hyper = {k: jnp.asarray(v, jnp.float32) for k, v in case.hyper.items()}
  same(_run(optax.inject_hyperparams(case.factory)(**hyper))[0], plain)
  same(_run(optax.masked(tx, {"a": True, "b": True}))[0], plain)
  same(_run(optax.partition({"x": tx}, {"a": "x", "b": "x"}))[0], plain)
  every = optax.MultiSteps(tx, every_k_schedule=1)
  same(_run(every)[0], plain)


@each
def test_zero_gradient_gives_zero_update(case):
  zero = jax.tree.map(jnp.zeros_like, GRADS)
  tx = case.factory(**case.hyper)
  updates, _ = tx.update(zero, tx.init(zero), **(_extra(1.0) | {"q_norm": jnp.asarray(0.0)}))
  assert all(bool(jnp.all(u == 0)) for u in jax.tree.leaves(updates))


@each
def test_dtypes_shapes_and_no_retrace(case):
  tx = case.factory(**case.hyper)
  abstract = jax.tree.map(lambda g: jax.ShapeDtypeStruct(g.shape, g.dtype), GRADS)
  concrete = tx.init(GRADS)
  jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b), tx.init(abstract), concrete)
  assert not any(jax.typeof(leaf).weak_type for leaf in jax.tree.leaves(concrete))
  half = jax.tree.map(lambda g: g.astype(jnp.bfloat16), GRADS)
  updates, _ = tx.update(half, tx.init(half), **_extra(1.0))
  assert all(u.dtype == jnp.bfloat16 for u in jax.tree.leaves(updates))

  state = concrete
  counted = count_traces(lambda state, value: tx.update(GRADS, state, **_extra(value))[1])
  step = jax.jit(counted)
  for value in VALUES:
    state = step(state, value)
  assert counted.traces == 1
  assert jax.tree.map(jax.typeof, state) == jax.tree.map(jax.typeof, concrete)


def test_hyperparameters_are_data():
  def first(eta0, rho):
    tx = recovery.q_normalized_geometric(eta0=eta0, rho=rho)
    return tx.update(GRADS, tx.init(GRADS), q_norm=jnp.asarray(2.0))[0]["a"][0]

  assert_no_retrace(first, lambda i: (0.1 * (i + 1), 0.9))
  np.testing.assert_allclose(jax.grad(first)(0.3, 0.9), -3.0 / 2.0, rtol=1e-6)


def test_polyak_matches_optax_without_its_cap():
  ours = recovery.polyak(minimum=0.25)
  theirs = optax.scale_by_polyak(f_min=0.25, max_learning_rate=jnp.inf)
  update, _ = ours.update(GRADS, ours.init(GRADS), value=jnp.asarray(2.0))
  reference, _ = theirs.update(GRADS, theirs.init(GRADS), GRADS, value=jnp.asarray(2.0))
  # scale_by_* leaves the minus sign to a later link; ours includes it.
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, -b, rtol=1e-6), update, reference)


def test_polyak_does_not_climb_below_the_minimum():
  tx = recovery.polyak(minimum=1.0)
  update, _ = tx.update(GRADS, tx.init(GRADS), value=jnp.asarray(0.5))
  assert bool(jnp.all(update["a"] == 0))


def test_level_rule_halves_its_gap_after_patience():
  tx = recovery.level_polyak(gap0=1.0, patience=2)
  state = tx.init(GRADS)
  gaps = []
  for value in (5.0, 5.0, 5.0, 5.0, 5.0, 1.0):
    _, state = tx.update(GRADS, state, value=jnp.asarray(value))
    gaps.append(float(state.gap))
  assert gaps == [1.0, 1.0, 0.5, 0.5, 0.25, 0.25]
  assert float(state.best) == 1.0 and int(state.stall) == 0


def test_level_rule_counts_a_gain_of_half_the_gap_as_progress():
  tx = recovery.level_polyak(gap0=1.0, patience=1)
  state = tx.init(GRADS)
  for value, gap in ((5.0, 1.0), (4.5, 1.0), (4.125, 0.5), (3.875, 0.5)):
    _, state = tx.update(GRADS, state, value=jnp.asarray(value))
    assert float(state.gap) == gap


def test_level_rule_minimises_without_knowing_the_minimum():
  """|x - 3| + 1 from 0: the gap to the unknown minimum 1 shrinks below any fixed level."""
  tx = recovery.level_polyak(gap0=1.0, patience=4)
  fun = lambda x: jnp.abs(x - 3.0) + 1.0

  def step(carry, _):
    x, state = carry
    value, grad = jax.value_and_grad(fun)(x)
    update, state = tx.update(grad, state, value=value)
    return (x + update, state), None

  start = jnp.zeros(())
  (_, state), _ = jax.lax.scan(step, (start, tx.init(start)), None, length=100)
  assert float(state.best) - 1 < 1e-5
