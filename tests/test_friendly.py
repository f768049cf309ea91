"""What has one meaning is taken: bool labels, whole numbers, states that hold NumPy arrays."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxopt_robust as jr
from jaxopt_robust import _checks

LOGITS = np.array([[1.0, -1.0], [0.5, 2.0]], np.float32)
SCORES = np.array([3, 1, 2])


def test_bool_labels_are_classes():
  for loss in (jr.losses.comp_sum_loss, jr.losses.ldr_kl_loss):
    np.testing.assert_array_equal(
      loss(LOGITS, np.array([True, False])), loss(LOGITS, np.array([1, 0]))
    )
  rows = np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]], np.float32)
  pair = np.array([True, True, False])
  for call in (jr.losses.supervised_contrastive_loss, jr.losses.recall_at_1):
    np.testing.assert_array_equal(call(rows, pair), call(rows, pair.astype(int)))
  labels = np.array([True, False, True])
  assert float(jr.losses.auc(np.float32(SCORES), labels)) == 1.0
  mapped = jax.jit(jr.losses.comp_sum_loss)(LOGITS, jnp.array([True, False]))
  np.testing.assert_allclose(mapped, jr.losses.comp_sum_loss(LOGITS, np.array([1, 0])), rtol=1e-6)


def test_whole_numbers_are_floats():
  labels = np.array([1, 0, 1])
  assert float(jr.losses.auc(SCORES, labels)) == 1.0
  assert jr.prox.prox_lasso(SCORES, 1.0).tolist() == [2.0, 0.0, 1.0]
  assert jr.prox.prox_lasso(SCORES, 1).dtype == jnp.result_type(float)
  # Beyond 32 bits they are still the right floats, where a conversion to int32 would wrap.
  assert float(jr.prox.prox_lasso(np.array([2**40]), 0.0)[0]) == 2.0**40


def test_labels_of_minus_one_and_one_say_how_to_convert():
  with pytest.raises(ValueError, match=r"got -1. Labels of -1 and 1 .* \(labels \+ 1\) // 2"):
    jr.losses.comp_sum_loss(LOGITS, np.array([-1, 1]))
  with pytest.raises(TypeError, match=r"converted by labels.astype\(int\)"):
    jr.losses.comp_sum_loss(LOGITS, np.array([0.0, 1.0]))


@pytest.mark.parametrize("wrapped", [2**32, -(2**32), 2**32 + 1, 2**63 - 1])
def test_integers_do_not_wrap(wrapped):
  index = np.array([wrapped, 0], np.int64)
  state = jr.compositional.soap_init(2)
  calls = {
    "labels": lambda: jr.losses.comp_sum_loss(LOGITS, index),
    "index": lambda: jr.compositional.soap_loss(np.float32([1, 2]), [1, 0], index, state),
    "groups": lambda: jr.losses.group_dro(np.float32([1, 2]), index, num_groups=2),
    "pos_index": lambda: jr.losses.info_nce_loss(LOGITS, index),
  }
  for argument, call in calls.items():
    with pytest.raises(ValueError, match=f"{argument} must .* got {wrapped}"):
      call()


def test_masked_integers_may_be_anything():
  labels, where = np.array([2**32 + 1, 0]), np.array([False, True])
  loss = jr.losses.comp_sum_loss(LOGITS, labels, where=where)
  np.testing.assert_array_equal(loss[0], 0.0)
  # A mask that is not known yet: out of range stays out of range instead of wrapping into it.
  late = jax.jit(lambda where: _checks.check_integers("i", labels, low=0, high=2, where=where))
  assert late(where).tolist() == [2**31 - 1, 0]


@pytest.mark.x64
def test_64_bits_are_kept_where_they_exist():
  assert _checks.check_integers("i", [2**40]).tolist() == [2**40]


def restored(state):
  """A state as some checkpoints bring it back."""
  return jax.tree.map(np.asarray, state)


def test_states_may_hold_numpy_arrays(key):
  x = jax.random.normal(key, (3, 4))
  index, c = jnp.arange(3), jr.compositional
  lists = (jnp.arange(2), jnp.broadcast_to(jnp.arange(3), (2, 3)))
  grades = jnp.array([[2, 0, 1], [0, 1, 0]])
  steps = [
    (lambda s: c.rgcl_bimodal_loss(x, x + 1, index, s), (c.rgcl_init(3), c.rgcl_init(3))),
    (lambda s: c.group_robust_mean(jnp.ones(3), index % 2, s), c.group_robust_mean_init(2)),
    (lambda s: c.k_song_loss(x[:2, :3], grades, lists, s, k=1), c.k_song_init(2, 3)),
    (lambda s: c.soap_loss(x[:, 0], jnp.array([1, 0, 1]), index, s), c.soap_init(3)),
  ]
  for step, state in steps:
    _, (state, _) = step(state)
    expected, (same, _) = step(state)
    value, (after, _) = step(restored(state))
    assert float(value) == float(expected)
    jax.tree.map(np.testing.assert_array_equal, after, same)


def test_transformations_say_what_they_need():
  with pytest.raises(ValueError, match=r"params must hold the scalars a and b .* got .'w'"):
    jr.transforms.pesg().init({"w": jnp.ones(2)})
  with pytest.raises(TypeError, match="state must be a PesgState; got NoneType"):
    jr.transforms.pesg().update({}, None, {})
  wrong = optax.inject_hyperparams(jr.transforms.proximal)
  with pytest.raises(TypeError, match=r"static_args=.'prox'"):
    wrong(prox=jr.prox.prox_lasso, hyperparams=1.0, learning_rate=0.1).init(jnp.ones(2))
  with pytest.raises(ValueError, match="rows of at least one weight"):
    tx = jr.transforms.exponentiated_gradient(0.1)
    tx.update(jnp.zeros((2, 0)), tx.init(jnp.zeros((2, 0))), jnp.zeros((2, 0)))


def test_a_penalty_is_taken_for_its_operator():
  params = jnp.array([0.2, 3.0])
  moved = []
  for prox in (jr.prox.lasso, jr.prox.prox_lasso):
    tx = jr.transforms.proximal(prox, 1.0, learning_rate=0.5)
    moved.append(tx.update(jnp.zeros(2), tx.init(params), params)[0])
  np.testing.assert_array_equal(*moved)
  conjugates = [jr.prox.prox_conjugate(p)(params, 1.0) for p in (jr.prox.lasso, jr.prox.prox_lasso)]
  np.testing.assert_array_equal(*conjugates)


def test_factories_that_were_not_called_are_told_to_be():
  op = jr.recovery.EntryCOO(jnp.array([0, 1]), jnp.array([0, 1]), (2, 2))
  with pytest.raises(TypeError, match=r"call it, huber_weights\("):
    jr.recovery.altmin_complete(
      op, jnp.ones(2), 1, key=jax.random.key(0), reweight=jr.recovery.huber_weights
    )
  with pytest.raises(TypeError, match=r"call it, fista\(fun, prox\)"):
    jr.solvers.run_until(jr.solvers.fista, jnp.ones(2), 1.0, tol=1e-3, max_steps=3)


def test_counts_beyond_32_bits_are_refused_by_name():
  with pytest.raises(ValueError, match="max_steps must be at most 2147483647; got 4294967296"):
    jr.projections.projection_polyhedron(jnp.ones(1), (None, None, [[1.0]], [2.0]), max_steps=2**32)
  with pytest.raises(ValueError, match="max_backtracks must be at most"):
    jr.solvers.ista(jnp.sum, jr.prox.prox_lasso, max_backtracks=2**32)
