"""Integers, probabilities, settings and NaN as people pass them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxopt_robust import linalg, problems, recovery, solvers

WRAPS = 2**32 + 1  # 1 in 32 bits
KEY = jax.random.key(0)
OP = recovery.EntryCOO(jnp.array([0, 0, 1]), jnp.array([0, 1, 1]), (2, 2))
Y = jnp.array([1.0, 2.0, 3.0])
PAIR = recovery.Factors(jnp.ones((2, 1)), jnp.ones((2, 1)))


@pytest.mark.parametrize(
  "call",
  [
    lambda i: recovery.EntryCOO(np.array([i, 0]), np.array([0, 1]), (10, 10)),
    lambda i: recovery.EntryCOO([0, 1], [0, i], (10, 10)),
    lambda i: jax.jit(lambda op: op.size)(recovery.EntryCOO(np.array([0, i]), [0, 1], (10, 10))),
    lambda i: recovery.FourierSensing(jnp.ones(4), np.array([0, i]), (2, 2)),
    lambda i: PAIR.at(np.array([i]), np.array([0])),
    lambda i: recovery.Biases(jnp.zeros(()), jnp.zeros(2), jnp.zeros(2)).at([0], [i]),
    lambda i: linalg.segment_lstsq(
      jnp.ones((2, 1)), np.array([0, i]), jnp.ones(2), num_segments=2, solver="exact"
    ),
    lambda i: linalg.sketch_precondition(
      KEY, jnp.ones((2, 1)), np.array([0, i]), num_segments=2, sketch_size=2
    ),
    lambda i: problems.make_uniform_label_noise(KEY, np.array([0, i]), num_classes=3, rate=0.5),
    lambda i: problems.make_class_dependent_label_noise(
      KEY, np.array([0, 1]), num_classes=2, rate=0.5, partner=np.array([0, i])
    ),
  ],
)
@pytest.mark.parametrize("index", [WRAPS, -(2**32), 2**63 - 1])
def test_integers_that_would_wrap_are_refused(call, index):
  with pytest.raises(ValueError, match=r"must (fit 32 bits|lie in)"):
    call(index)


def test_negative_indices_are_outside_too():
  op = recovery.EntryCOO(jnp.array([0, -1]), jnp.array([0, 0]), (2, 2))
  z = op.apply(jnp.array([[1.0, 2.0], [3.0, 4.0]]))
  assert z[0] == 1 and np.isnan(z[1])
  np.testing.assert_array_equal(np.isnan(PAIR.at([0, -1, 2], [0, 0, 0])), [False, True, True])
  bias = recovery.Biases(jnp.zeros(()), jnp.zeros(2), jnp.zeros(2))
  np.testing.assert_array_equal(np.isnan(bias.at([0, -1, 2], [0, 0, 0])), [False, True, True])


def test_factors_give_the_entries_of_their_product(rng):
  left, right = rng.standard_normal((5, 3)), rng.standard_normal((4, 3))
  rows, cols = np.array([0, 4, 2, 2]), np.array([3, 0, 1, 1])
  found = jax.jit(lambda f: f.at(rows, cols))(
    recovery.Factors(jnp.asarray(left), jnp.asarray(right))
  )
  np.testing.assert_allclose(found, (left @ right.T)[rows, cols], rtol=1e-5, atol=1e-6)
  square = recovery.Factors(jnp.asarray(left), None)
  np.testing.assert_allclose(
    square.at(rows, cols[::-1]), (left @ left.T)[rows, cols[::-1]], rtol=1e-5, atol=1e-6
  )
  with pytest.raises(ValueError, match="row_index and col_index must have equal shapes"):
    square.at([0], [0, 1])


def test_lists_and_whole_numbers_are_taken():
  op = recovery.EntryCOO([0, 0, 1, 1], [0, 1, 0, 1], (2, 2))
  ratings = np.array([2, 4, 1, 2])
  factors, trace = recovery.als_complete(op, ratings, 1, key=KEY, ridge=0, num_rounds=3)
  np.testing.assert_allclose(recovery.compose(factors), [[2, 4], [1, 2]], rtol=1e-4)
  assert int(trace.status) == solvers.CONVERGED
  out = recovery.biased_baseline(op, [1, 2, 3, 4], row_ridge=0, col_ridge=0)
  np.testing.assert_allclose(out.at([0, 1], [0, 1]), [1, 4], rtol=1e-6)


@pytest.mark.parametrize(
  "call",
  [
    lambda rate: recovery.make_entry_mask(KEY, 3, 2, rate=rate).mask,
    lambda rate: recovery.bernoulli_outliers(KEY, Y, rate=rate, scale=1).mask,
    lambda rate: recovery.replace_outliers(KEY, Y, rate=rate, scale=1).mask,
    lambda rate: recovery.sign_flip_outliers(KEY, Y, rate=rate).mask,
    lambda rate: recovery.scaledsm_outliers(KEY, Y, rate=rate).mask,
    lambda rate: recovery.mixed_noise(KEY, Y, noise_scale=0, rate=rate, scale=1).mask,
    lambda rate: (
      problems.make_class_dependent_label_noise(
        KEY, jnp.arange(3), num_classes=3, rate=rate
      ).flipped
    ),
    lambda rate: (
      problems.make_low_rank_sensing(
        KEY, num_measurements=3, rows=2, rank=1, outlier_rate=rate, outlier_scale=1
      ).truth.outliers
    ),
  ],
)
def test_rates_of_zero_and_one_may_be_integers(call):
  assert call(1).all() and not call(0).any()
  np.testing.assert_array_equal(call(np.int64(1)), call(1.0))


@pytest.mark.parametrize(
  ("call", "error", "match"),
  [
    (
      lambda: recovery.als_complete(OP, Y, 1, key=KEY, ridge=[0.1, 0.2]),
      ValueError, "ridge must be a scalar",
    ),
    (lambda: recovery.als_complete(OP, Y, 1, key=jax.random.split(KEY), ridge=0.1),
     ValueError, "key"),
    (lambda: linalg.randomized_svd(jax.random.split(KEY), jnp.ones((2, 2)), rank=1),
     ValueError, "key"),
    (
      lambda: problems.make_class_dependent_label_noise(
        jax.random.split(KEY), [0, 1], num_classes=2, rate=0.1
      ), ValueError, "key",
    ),
    (
      lambda: recovery.subgm(OP, Y, PAIR, tx=3, num_steps=1),
      TypeError, "tx must be an optax transformation; got int",
    ),
    (lambda: recovery.geometric(eta0=[0.1, 0.2], rho=0.5), ValueError, "eta0 must be a scalar"),
    (
      lambda: recovery.level_polyak(gap0=jnp.ones(2), patience=1), ValueError,
      "gap0 must be a scalar",
    ),
    (
      lambda: (tx := recovery.polyak(minimum=0.0)).update(Y, tx.init(Y), value=Y), ValueError,
      "value must have rank 0",
    ),
    (
      lambda: (tx := recovery.residual_proportional(eta0=0.1)).update(
        Y, tx.init(Y), scale=Y, q_norm=1.0
      ), ValueError, "scale must have rank 0",
    ),
    (lambda: recovery.compose(recovery.Factors(jnp.ones((2, 1), complex), None)),
     TypeError, "factors.L must be a floating-point array of real"),
    (lambda: recovery.altmin_complete(OP, Y + 1j, 1, key=KEY), TypeError, "y must be"),
  ],
)  # fmt: skip
def test_errors_name_the_argument(call, error, match):
  with pytest.raises(error, match=match):
    call()


def test_rules_take_python_numbers_and_empty_trees():
  tx = recovery.level_polyak(gap0=1.0, patience=2)
  assert tx.init([1.0]).best.dtype == jnp.float32
  for tx in (recovery.polyak(minimum=0.0), recovery.grad_normalized_geometric(eta0=1.0, rho=0.5)):
    updates, _ = tx.update({}, tx.init({}), value=1.0)
    assert updates == {}
    blocks = {"a": jnp.array([3.0, 4.0]), "b": jnp.zeros((0,))}
    updates, _ = tx.update(blocks, tx.init(blocks), value=5.0)
    np.testing.assert_allclose(updates["a"], [-0.6, -0.8], rtol=1e-6)


@pytest.mark.parametrize("unit", [1e-25, 1e25])
def test_rules_in_any_units(unit):
  """Polyak's step is measured like f / g, the normalised one like its eta0."""
  gradient = np.float32(unit) * jnp.array([3.0, 4.0])
  tx = recovery.polyak(minimum=0.0)
  update, _ = tx.update(gradient, tx.init(gradient), value=np.float32(10 * unit))
  np.testing.assert_allclose(update, [-1.2, -1.6], rtol=1e-5)
  tx = recovery.grad_normalized_geometric(eta0=10.0, rho=0.5)
  np.testing.assert_allclose(tx.update(gradient, tx.init(gradient))[0], [-6.0, -8.0], rtol=1e-5)
  basis = np.float32(unit) * np.eye(3, dtype=np.float32)[:, :2]
  turned = basis @ np.array([[0.6, -0.8], [0.8, 0.6]], np.float32)
  assert float(recovery.procrustes_dist(basis, turned)) < 1e-6 * unit


NAN = jnp.array([1.0, jnp.nan, 3.0, 2.0])
SQUARE = recovery.Identity((2, 2))


@pytest.mark.parametrize(
  "call",
  [
    lambda: recovery.support_f1(NAN, jnp.ones(4)),
    lambda: recovery.support_f1(jnp.ones(4), NAN),
    lambda: recovery.rel_err(NAN, jnp.ones(4)),
    lambda: recovery.sign_rip_phi(1.0, NAN),
    lambda: recovery.incoherence(NAN.reshape(2, 2)),
    lambda: recovery.procrustes_dist(NAN.reshape(2, 2), jnp.eye(2)),
    lambda: recovery.principal_angle(jnp.eye(2), NAN.reshape(2, 2)),
    lambda: recovery.factor_imbalance(NAN.reshape(2, 2), jnp.eye(2)),
    lambda: recovery.top_rows_and_columns(NAN.reshape(2, 2), fraction=0.5)[0, 1],
    lambda: recovery.trimmed_weights(rate=0.5)(NAN, None)[1],
    lambda: recovery.huber_weights()(NAN, None)[1],
    lambda: recovery.truncated_spectral(SQUARE, NAN, 1, rate=0.5).L[0, 0],
    lambda: recovery.median_truncated_spectral(SQUARE, NAN, 1).L[0, 0],
    lambda: recovery.mask_spectral(recovery.EntryMask(jnp.ones((2, 2), bool)), NAN, 1).L[0, 0],
    lambda: recovery.sign_spectral(SQUARE, NAN, 1).L[0, 0],
    lambda: recovery.growth_factor(SQUARE, NAN, 1),
    lambda: recovery.growth_factor(SQUARE, NAN, kind="general"),
    lambda: linalg.randomized_svd(KEY, NAN.reshape(2, 2), rank=1).s[0],
    lambda: jax.jit(linalg.newton_inverse)(NAN.reshape(2, 2))[0][0, 0],
    lambda: jax.jit(
      lambda w: linalg.segment_lstsq(
        jnp.ones((4, 1)), jnp.zeros(4, int), jnp.ones(4), num_segments=1, weights=w, solver="exact"
      )[0][0, 0]
    )(NAN),
    lambda: jax.jit(
      lambda w: recovery.entry_spectral(
        KEY, recovery.EntryMask(jnp.ones((2, 2), bool)), jnp.ones(4), 1, weights=w
      ).L[0, 0]
    )(NAN),
  ],
)
def test_nan_is_not_swallowed(call):
  assert np.isnan(call())


def test_unobserved_nan_does_not_matter_to_the_starts():
  mask = jnp.array([[True, False], [True, True]])
  op = recovery.EntryMask(mask)
  truncated = recovery.truncated_spectral(op, NAN, 1, rate=0.3)
  by_median = recovery.median_truncated_spectral(op, NAN, 1)
  assert np.isfinite(truncated.L).all() and np.isfinite(by_median.L).all()
