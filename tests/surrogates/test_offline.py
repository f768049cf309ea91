"""Offline optimisation: the search against its formula, diagnostics against NumPy and SciPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from jaxopt_robust import surrogates
from jaxopt_robust.debug import count_traces


def model(w, x):
  return jnp.tanh(x @ w["in"]) @ w["out"]


@pytest.fixture
def params(rng):
  return {"in": jnp.asarray(rng.normal(size=(3, 5))), "out": jnp.asarray(rng.normal(size=5))}


@pytest.mark.x64
def test_the_search_is_its_formula(rng, params):
  x = jnp.asarray(rng.uniform(-1, 1, size=(4, 3)))
  low, high = jnp.array([-1.0, -0.5, -2.0]), jnp.array(1.0)
  designs, info = surrogates.gradient_ascent_search(
    lambda v: model(params, v), x, stepsize=0.3, num_steps=6, bounds=(low, high)
  )
  first_layer, last = np.asarray(params["in"]), np.asarray(params["out"])
  point, seen = np.clip(np.asarray(x), np.asarray(low), float(high)), []
  first = point
  for _ in range(6):
    hidden = np.tanh(point @ first_layer)
    seen.append(hidden @ last)
    slope = ((1 - hidden**2) * last) @ first_layer.T
    point = np.clip(point + 0.3 * slope, np.asarray(low), float(high))
  seen.append(np.tanh(point @ first_layer) @ last)
  np.testing.assert_allclose(designs, point, rtol=1e-12)
  np.testing.assert_allclose(info.predictions, seen, rtol=1e-12)
  np.testing.assert_allclose(info.distances, np.linalg.norm(point - first, axis=1), rtol=1e-12)


def test_the_default_step_and_one_compile_for_all_steps():
  counted = count_traces(
    lambda x, step: surrogates.gradient_ascent_search(lambda v: v[:, 0], x, stepsize=step)
  )
  fun, x = jax.jit(counted), jnp.zeros((2, 25))
  for step in (0.05, 0.1):
    designs, _ = fun(x, step)
    np.testing.assert_allclose(designs[:, 0], 200 * step, rtol=1e-4)
  assert counted.traces == 1
  designs, _ = surrogates.gradient_ascent_search(lambda v: v[:, 0], x, num_steps=10)
  np.testing.assert_allclose(designs[:, 0], 10 * 0.01 * 5, rtol=1e-5)
  wild = surrogates.gradient_ascent_search(lambda v: v[:, 0] + jnp.log(v[:, 1]), x, num_steps=3)[0]
  np.testing.assert_allclose(wild[:, 1], 0)  # an infinite slope does not move it
  assert np.all(np.isfinite(wild))


def test_the_search_is_differentiable_in_the_model():
  end = lambda w: surrogates.gradient_ascent_search(
    lambda v: w * v[:, 0], jnp.zeros((1, 1)), stepsize=0.1, num_steps=10
  )[0][0, 0]
  np.testing.assert_allclose(jax.grad(end)(2.0), 1.0, rtol=1e-6)


def test_top_designs_are_in_order_and_nan_is_last():
  x = jnp.arange(5.0)[:, None]
  found = surrogates.top_designs(x, jnp.array([1.0, jnp.nan, 3.0, 3.0, -jnp.inf]), num=4)
  np.testing.assert_array_equal(found.index[:3], [2, 3, 0])  # of equal ones the earlier row
  np.testing.assert_array_equal(found.designs[:3, 0], [2, 3, 0])
  np.testing.assert_array_equal(found.values[:3], [3, 3, 1])


@pytest.mark.x64
def test_ensembles_are_means_and_minima(rng):
  stacked = {
    "in": jnp.asarray(rng.normal(size=(4, 3, 5))),
    "out": jnp.asarray(rng.normal(size=(4, 5))),
  }
  x = jnp.asarray(rng.normal(size=(6, 3)))
  each = [model(jax.tree.map(lambda v, k=k: v[k], stacked), x) for k in range(4)]
  for reduce, expected in (("mean", np.mean), ("min", np.min)):
    found = surrogates.ensemble_prediction(model, stacked, x, reduce=reduce)
    np.testing.assert_allclose(found, expected(each, axis=0), rtol=1e-12)
  slope = jax.grad(
    lambda w: surrogates.ensemble_prediction(
      lambda w, x: w * x[:, 0], w, jnp.ones((1, 1)), reduce="min"
    )[0]
  )
  np.testing.assert_allclose(slope(jnp.array([2.0, 1.0, 1.0])), [0, 0.5, 0.5])


def test_scores_are_scaled_and_name_the_overestimation(rng):
  predictions, values = rng.normal(size=(2, 9)).astype(np.float32)
  found = surrogates.design_scores(predictions, values, low=-3.0, high=5.0)
  expected = [(values.max() + 3) / 8, (np.median(values) + 3) / 8, np.mean(predictions - values)]
  np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_conservative_gap_of_a_linear_model(rng):
  """T steps of length s move x by T s w: the gap is T s ||w||^2, its gradient T s w, not twice."""
  w, x = (
    jnp.asarray(rng.normal(size=3), jnp.float32),
    jnp.asarray(rng.normal(size=(4, 3)), jnp.float32),
  )
  gap = functools.partial(
    surrogates.conservative_gap, lambda w, x: x @ w, stepsize=0.1, num_steps=7
  )
  value, slope = jax.value_and_grad(gap)(w, x)
  np.testing.assert_allclose(value, 0.7 * w @ w, rtol=1e-5)
  np.testing.assert_allclose(slope, 0.7 * w, rtol=1e-4)
  inside = gap(w, jnp.zeros((4, 3)), bounds=(0.0, 0.0))  # nowhere to go
  assert float(inside) == 0


@pytest.mark.x64
def test_gaussian_likelihood_is_scipys(rng):
  mean, log_std, targets = rng.normal(size=(3, 7))
  found = surrogates.gaussian_nll_loss(mean, log_std, targets)
  expected = -scipy.stats.norm.logpdf(targets, mean, np.exp(log_std))
  np.testing.assert_allclose(found, expected, rtol=1e-12)
  mask = np.arange(7) > 2
  spoiled = np.where(mask, log_std, np.nan)
  slope = jax.grad(
    lambda s: jnp.sum(surrogates.gaussian_nll_loss(mean, s, targets, where=jnp.asarray(mask)))
  )(jnp.asarray(spoiled))
  expected = np.where(mask, 1 - (targets - mean) ** 2 * np.exp(-2 * log_std), 0)
  np.testing.assert_allclose(slope, expected, rtol=1e-10)


@pytest.mark.x64
def test_soft_clip_keeps_its_bounds_and_grows():
  x = jnp.linspace(-1e4, 1e4, 2001)
  low, high = -2.0, 1.0
  found = surrogates.soft_clip(x, low=low, high=high)
  assert np.all(found >= low) and np.all(found <= high + np.log1p(np.exp(low - high)) + 1e-12)
  assert np.all(np.diff(found) >= 0)
  slope = jax.vmap(jax.grad(lambda v: surrogates.soft_clip(v, low=low, high=high)))(x)
  assert np.all(np.isfinite(slope)) and np.all((slope >= 0) & (slope <= 1))
  wide = surrogates.soft_clip(jnp.array([0.3]), low=-40.0, high=40.0)
  np.testing.assert_allclose(wide, 0.3, atol=1e-12)
  half = surrogates.soft_clip(jnp.zeros(1, jnp.bfloat16), low=-1.0, high=1.0)
  assert half.dtype == jnp.bfloat16


def test_nan_is_behind_minus_infinity():
  found = surrogates.top_designs(
    jnp.arange(4.0)[:, None], jnp.array([jnp.nan, -jnp.inf, jnp.nan, 1.0]), num=4
  )
  np.testing.assert_array_equal(found.index, [3, 1, 0, 2])
  assert found.index.dtype == jnp.int32


def test_models_that_do_not_return_one_number_a_design_are_refused():
  with pytest.raises(ValueError, match=r"one number a design, shape \(4,\); got \(4, 1\)"):
    surrogates.ensemble_prediction(lambda w, x: x @ w, jnp.ones((3, 2, 1)), jnp.ones((4, 2)))


def test_half_precision_and_narrow_spreads_do_not_overflow():
  large = jnp.full(4, 6e4, jnp.float16)
  assert float(surrogates.design_scores(large, large).median) == float(large[0])
  zero = jnp.zeros(1)
  loss, slope = jax.value_and_grad(lambda s: surrogates.gaussian_nll_loss(zero, s, zero)[0])(
    jnp.array([-200.0], jnp.float32)
  )
  np.testing.assert_allclose(loss, -200 + 0.5 * np.log(2 * np.pi), rtol=1e-6)  # log_std + ...
  np.testing.assert_allclose(slope, 1.0)
