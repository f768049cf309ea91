"""The partial likelihood: brute force over risk sets, finite differences, no overflow, paths."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxopt_robust import regression
from tests.helpers import central_difference

N = 14


def survival():
  rng = np.random.default_rng(5)
  times = np.array([3, 1, 4, 1, 5, 2, 2, 2, 5, 3, 7, 7, 1, 4], float)
  events = np.array([1, 1, 0, 1, 1, 1, 1, 0, 1, 0, 1, 1, 0, 1])
  strata = np.arange(N) % 2
  weights = rng.integers(0, 4, N).astype(float)
  return rng.standard_normal(N), times, events, strata, weights


def brute_force(z, times, events, strata, weights, ties):
  """Sums over all pairs of rows, as in the docstring."""
  total = 0.0
  for stratum in np.unique(strata):
    inside = (strata == stratum) & (weights > 0)
    for t in np.unique(times[inside]):
      risk = inside & (times >= t)
      dead = inside & (times == t) & (events == 1)
      d = dead.sum()
      if d == 0:
        continue
      all_mass = weights[risk] @ np.exp(z[risk])
      dead_mass = weights[dead] @ np.exp(z[dead])
      total -= weights[dead] @ z[dead]
      for k in range(d):
        left = all_mass - (k / d * dead_mass if ties == "efron" else 0)
        total += weights[dead].mean() * np.log(left)
  return total / weights.sum()


@pytest.mark.x64
@pytest.mark.parametrize("ties", ["breslow", "efron"])
def test_equals_brute_force_with_ties_strata_and_weights(ties):
  z, times, events, strata, weights = survival()
  loss = jax.jit(
    lambda z, strata, weights: regression.cox_partial_likelihood_loss(
      z, times, events, strata=strata, sample_weight=weights, ties=ties
    )
  )
  for groups, s in ((strata, weights), (0 * strata, np.ones(N)), (strata, 0.5 * np.ones(N))):
    expected = brute_force(z, times, events, groups, s, ties)
    np.testing.assert_allclose(loss(z, groups, s), expected, rtol=1e-12)
  slope = jax.grad(loss)(jnp.asarray(z), strata, weights)
  np.testing.assert_allclose(
    slope, central_difference(lambda v: loss(v, strata, weights), z), atol=1e-8
  )
  np.testing.assert_allclose(loss(z + 1e3, strata, weights), loss(z, strata, weights), rtol=1e-9)
  far = jnp.where(jnp.arange(N) % 3 == 0, 1e4, -1e4)
  assert jnp.isfinite(loss(far, strata, weights))
  assert jnp.all(jnp.isfinite(jax.grad(loss)(far, strata, weights)))
  plain = regression.cox_partial_likelihood_loss(z, times, events, ties=ties)
  np.testing.assert_allclose(plain, brute_force(z, times, events, 0 * strata, np.ones(N), ties),
                             rtol=1e-12)  # fmt: skip
  assert regression.cox_partial_likelihood_loss(z, times, 0 * events, ties=ties) == 0
  nan = np.where(np.arange(N) == 0, np.nan, times)
  assert np.isnan(regression.cox_partial_likelihood_loss(z, nan, events, ties=ties))


@pytest.mark.x64
def test_both_forms_agree_without_ties():
  z, _, events, strata, weights = survival()
  times = np.random.default_rng(0).permutation(N).astype(float)
  forms = [
    regression.cox_partial_likelihood_loss(
      z, times, events, strata=strata, sample_weight=weights, ties=ties
    )
    for ties in ("breslow", "efron")
  ]
  np.testing.assert_allclose(forms[0], forms[1], rtol=1e-13)


@pytest.mark.x64
def test_path_satisfies_the_optimality_conditions_of_the_lasso():
  rng = np.random.default_rng(1)
  x = rng.standard_normal((N, 3))
  _, times, events, strata, weights = survival()
  options = {"loss": "cox", "sample_weight": weights, "tol": 1e-10}
  y = (times, events, strata)
  largest = regression.max_strength(x, y, loss="cox", sample_weight=weights)
  lams = np.asarray(largest) * np.array([1.001, 0.5, 0.1])
  path = regression.regularization_path(x, y, lams, **options)
  assert path.status.tolist() == [0, 0, 0] and np.all(np.asarray(path.intercepts) == 0)
  assert np.all(np.asarray(path.coefficients[0]) == 0)
  objective = lambda w: brute_force(x @ np.asarray(w), times, events, strata, weights, "efron")
  for w, lam in zip(np.asarray(path.coefficients), lams, strict=True):
    g = central_difference(objective, w)
    np.testing.assert_allclose((g + lam * np.sign(w))[w != 0], 0, atol=1e-7)
    assert np.all(np.abs(g) <= lam + 1e-7)
  at_zero = np.abs(central_difference(objective, np.zeros(3))).max()
  np.testing.assert_allclose(largest, at_zero, rtol=1e-6)


@pytest.mark.parametrize("kind", ["numpy", "jax", "seconds", "path"])
def test_times_that_float32_would_tie_are_compared_as_they_are(kind):
  """Seconds since 1970: float32 has one number in 128 of them."""
  z, events = np.array([1.0, 0.0, -1.0, 0.5], np.float32), np.ones(4, int)
  early = np.array([3, 0, 1, 1])
  late = early + 1_700_000_000
  if kind == "seconds":
    late = late + 0.25
  if kind == "path":
    x = np.stack([z, z**2], 1)
    solve = lambda t: regression.solve_at(x, (t, events), 0.01, loss="cox").coefficients
    np.testing.assert_allclose(solve(late), solve(early), rtol=1e-6)
    assert np.abs(solve(early)).max() > 0.1
    return
  times = jnp.asarray(late) if kind == "jax" else late
  loss = jax.jit(lambda z: regression.cox_partial_likelihood_loss(z, times, events))
  expected = brute_force(z, early, events, 0 * events, np.ones(4), "efron")
  np.testing.assert_allclose(loss(z), expected, rtol=1e-5)


def test_half_precision_predictions_do_not_tie_times():
  n = 300
  half = jnp.zeros(n, jnp.bfloat16)
  found = regression.cox_partial_likelihood_loss(half, 1000.0 + np.arange(n), np.ones(n, int))
  # log(n!) / n: at the k-th last event k rows are at risk.
  expected = np.log(np.arange(1, n + 1)).sum() / n
  assert found.dtype == jnp.bfloat16
  np.testing.assert_allclose(float(found), expected, rtol=2.0**-8)
