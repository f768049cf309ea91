"""Mixture of two Gaussians: scikit-learn's posteriors, affine maps, data without two groups."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sklearn.mixture

from jaxopt_robust.robustness import gmm2_fit, gmm2_posterior

pytestmark = pytest.mark.x64  # one precision: the fit is compiled once
N = 300
ALL = np.ones(N, bool)


@functools.partial(jax.jit, static_argnames="max_steps")
def compiled(values, where, max_steps=10):
  mixture = gmm2_fit(values, where=where, max_steps=max_steps)
  return mixture, gmm2_posterior(mixture, values)


def fit(values, where=ALL, **options):
  return compiled(jnp.asarray(values), jnp.asarray(where), **options)


def two_groups(rng, far=2.0):
  low, high = rng.normal(0, 0.4, 2 * N // 3), rng.normal(far, 0.3, N // 3)
  return rng.permutation(np.concatenate([low, high]))


@pytest.mark.parametrize("far", [1.2, 2.0, 4.0])
def test_posteriors_are_those_of_scikit_learn(rng, far):
  values = two_groups(rng, far)
  scaled = (values - values.min()) / np.ptp(values)
  peer = sklearn.mixture.GaussianMixture(2, max_iter=10, tol=1e-2, reg_covar=5e-4, random_state=0)
  peer.fit(scaled[:, None])
  order = np.argsort(peer.means_[:, 0])
  mixture, found = fit(jnp.asarray(values))
  expected = peer.predict_proba(scaled[:, None])[:, order[1]]
  np.testing.assert_allclose(found, expected, atol=1e-14)
  np.testing.assert_allclose(mixture.means, peer.means_[order, 0], rtol=1e-12)
  np.testing.assert_allclose(mixture.variances, peer.covariances_[order, 0, 0], rtol=1e-10)
  np.testing.assert_allclose(mixture.weights, peer.weights_[order], rtol=1e-12)
  assert int(mixture.steps) == peer.n_iter_ and int(mixture.status) == int(not peer.converged_)


def test_the_components_are_told_apart_by_their_means(rng):
  """A wide lower group beside a narrow upper one: the index never decides, the means do."""
  values = jnp.asarray(np.concatenate([rng.normal(0, 1, 250), rng.normal(3, 0.1, 50)]))
  for v, upper in ((values, slice(250, N)), (-values, slice(0, 250))):
    mixture, found = fit(v)
    assert mixture.means[0] < mixture.means[1]
    is_upper = np.zeros(N, bool)
    is_upper[upper] = True
    assert np.mean(found[is_upper]) > 0.8 and np.mean(found[~is_upper]) < 0.2


def test_two_spikes_give_zero_and_one(rng):
  upper = rng.random(N) < 0.3
  mixture, found = fit(jnp.where(upper, 7.0, 3.0))
  np.testing.assert_allclose(found, upper, atol=1e-12)
  np.testing.assert_allclose(mixture.weights[1], upper.mean(), rtol=1e-12)
  np.testing.assert_allclose(mixture.variances, 5e-4, rtol=1e-9)
  np.testing.assert_allclose((mixture.low, mixture.high), (3, 7))


@pytest.mark.parametrize(("factor", "shift"), [(3.0, -2.0), (1e-200, 0.0), (1e200, 1e200)])
def test_an_affine_map_changes_nothing(rng, factor, shift):
  values = two_groups(rng)
  first, second = (fit(jnp.asarray(v))[1] for v in (values, factor * values + shift))
  np.testing.assert_allclose(first, second, atol=1e-10)


def test_masked_values_are_not_there(rng):
  values, used = two_groups(rng), rng.random(N) < 0.7
  spoilt = jnp.where(used, values, jnp.nan)
  mixture, found = fit(spoilt, jnp.asarray(used))
  count = used.sum()
  alone, expected = fit(np.resize(values[used], N), np.arange(N) < count)
  np.testing.assert_allclose(found[used], expected[:count], atol=1e-12)
  assert int(mixture.steps) == int(alone.steps) and int(mixture.status) == 0


def test_without_two_values_there_is_no_upper_group():
  everything, nothing = jnp.ones(N, bool), jnp.zeros(N, bool)
  one = nothing.at[3].set(True)
  for values, used in (
    (jnp.full(N, 5.0), everything), (jnp.arange(1.0, N + 1), one), (jnp.ones(N), nothing),
    (jnp.full(N, jnp.inf), everything), (jnp.full(N, 5.0).at[:].set(0.0), everything),
  ):  # fmt: skip
    mixture, found = fit(values, used)
    np.testing.assert_array_equal(mixture.weights, [1, 0])
    np.testing.assert_array_equal(jnp.where(used, found, 0), 0)
    assert int(mixture.status) == 0 and np.isfinite(np.asarray(mixture.variances)).all()


def test_infinite_and_unknown_values(rng):
  values = jnp.asarray(two_groups(rng))
  everything = jnp.ones(N, bool)
  top = values.at[5].set(values.max())
  infinite, largest = fit(values.at[5].set(jnp.inf)), fit(top)
  np.testing.assert_allclose(infinite[1], largest[1], atol=1e-6)
  mixture, found = fit(values.at[5].set(jnp.nan), everything)
  assert int(mixture.status) == 2 and np.isnan(np.asarray(found)).all()
  assert int(fit(values, everything, max_steps=1)[0].status) == 1


def test_one_value_far_away_is_finite():
  mixture, _ = fit(jnp.linspace(0.0, 1.0, N))
  far = gmm2_posterior(mixture, jnp.array([3e38, -3e38, jnp.inf, -jnp.inf]))
  assert np.isfinite(np.asarray(far)).all()


def test_half_precision_vmap_and_derivatives(rng):
  values = jnp.asarray(two_groups(rng))
  _, found = fit(values)
  half = fit(values.astype(jnp.bfloat16))
  assert half[1].dtype == jnp.bfloat16 and half[0].means.dtype == jnp.float32
  np.testing.assert_allclose(half[1].astype(float), found, atol=0.1)
  both = jax.vmap(lambda v: fit(v)[1])(jnp.stack([values, values[::-1]]))
  np.testing.assert_allclose(both, jnp.stack([found, found[::-1]]), atol=1e-10)
  gradient = jax.grad(lambda v: jnp.sum(fit(v)[0].means))(values)
  np.testing.assert_array_equal(gradient, 0)
