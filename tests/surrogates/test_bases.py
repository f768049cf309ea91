"""Searches of a model: closed forms, quadrature, enumeration, constraints that are kept."""

import functools
import inspect
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.special
import scipy.stats

from jaxopt_robust import surrogates
from jaxopt_robust.debug import count_traces
from tests.helpers import central_difference

STANDARD = surrogates.GaussianDesigns(jnp.zeros(2), jnp.zeros(2))


@pytest.mark.x64
def test_the_conservative_objective_of_a_linear_model(rng):
  """T steps of length s move x by T s w: error + lam T s ||w||^2, but T s w held in its slope."""
  w, x, y = rng.normal(size=3), rng.normal(size=(4, 3)), rng.normal(size=4)
  found = functools.partial(
    surrogates.conservative_objective, lambda w, x: x @ w, multiplier=0.7, stepsize=0.1, num_steps=5
  )
  slopes = jax.jit(jax.value_and_grad(found, has_aux=True))
  (value, info), slope = slopes(jnp.asarray(w), x, y)
  residual = x @ w - y
  np.testing.assert_allclose(info.error, np.mean(residual**2), rtol=1e-12)
  np.testing.assert_allclose(info.gap, 0.5 * w @ w, rtol=1e-12)
  np.testing.assert_allclose(value, np.mean(residual**2) + 0.7 * 0.5 * w @ w, rtol=1e-12)
  np.testing.assert_allclose(slope, 2 / 4 * x.T @ residual + 0.7 * 0.5 * w, rtol=1e-12)


@pytest.mark.x64
def test_no_weight_is_the_squared_error_alone(rng):
  w, x, y = (jnp.asarray(rng.normal(size=s)) for s in (3, (4, 3), 4))
  plain = lambda w: jnp.mean((jnp.tanh(x @ w) - y) ** 2)
  found = lambda w: surrogates.conservative_objective(
    lambda w, x: jnp.tanh(x @ w), w, x, y, multiplier=0.0, num_steps=3
  )[0]
  for one, other in zip(*(jax.jit(jax.value_and_grad(f))(w) for f in (found, plain)), strict=True):
    np.testing.assert_allclose(one, other, rtol=1e-12)


def test_half_precision_squares_fit():
  """(3 - 303)^2 is beyond float16."""
  x, y = jnp.ones((2, 3), jnp.float16), jnp.full(2, 303.0, jnp.float16)
  found = functools.partial(
    surrogates.conservative_objective, lambda w, x: x @ w, multiplier=2.0, stepsize=0.5, num_steps=2
  )
  value, info = jax.jit(found)(x[0], x, y)
  assert (float(info.error), float(info.gap), float(value)) == (90_000, 3, 90_006)


@pytest.mark.x64
def test_the_multiplier_finds_the_constrained_optimum():
  """min (w - 2)^2 with the gap T s w^2 <= bound: w = sqrt(bound / (T s))."""
  x, y = jnp.ones((1, 1)), jnp.full(1, 2.0)
  model = lambda w, x: x @ w

  def step(carry, _):
    w, lam = carry
    objective = lambda w: surrogates.conservative_objective(
      model, w, x, y, multiplier=lam, stepsize=0.1, num_steps=10
    )
    (_, info), slope = jax.value_and_grad(objective, has_aux=True)(w)
    lam = surrogates.multiplier_step(lam, info.gap, bound=0.25, rate=0.5)
    return (w - 0.05 * slope, lam), None

  (w, lam), _ = jax.lax.scan(step, (jnp.ones(1), jnp.zeros(())), None, length=3000)
  np.testing.assert_allclose(w, 0.5, rtol=1e-6)  # T s = 1
  np.testing.assert_allclose(lam, 2 * (2 - 0.5) / 0.5, rtol=1e-6)  # slope of the error + lam w = 0
  slack = surrogates.multiplier_step(jnp.ones(2), jnp.array([-9.0, jnp.nan]), bound=1.0, rate=1.0)
  np.testing.assert_array_equal(slack, [0, 1])


@pytest.mark.x64
@pytest.mark.parametrize("baseline", ["leave_one_out", "none"])
def test_the_score_function_has_the_gradients_mean(rng, baseline):
  """Over all 4^3 outcomes of three draws of a categorical variable, with their probabilities."""
  logits, losses = jnp.asarray(rng.normal(size=4)), jnp.asarray(rng.normal(size=4))
  outcomes = np.array(list(itertools.product(range(4), repeat=3)))

  def surrogate(logits, drawn):
    logs = jax.nn.log_softmax(logits)[drawn]
    return surrogates.score_function_surrogate(logs, losses[drawn], baseline=baseline)

  slopes = jax.jit(jax.vmap(jax.grad(surrogate), (None, 0)))(logits, outcomes)
  weights = np.prod(np.asarray(jax.nn.softmax(logits))[outcomes], axis=1)
  expected = central_difference(lambda v: jax.nn.softmax(v) @ losses, logits)
  np.testing.assert_allclose(weights @ slopes, expected, atol=1e-9)


@pytest.mark.x64
def test_standardized_advantages_and_masks(rng):
  logs, losses = rng.normal(size=(2, 6))
  mask = np.arange(6) < 4
  spoiled = np.where(mask, losses, np.nan)
  found = functools.partial(surrogates.score_function_surrogate, where=jnp.asarray(mask))
  standardized = lambda v: found(v, spoiled, baseline="standardized")
  slope = jax.jit(jax.grad(standardized))(jnp.asarray(logs))
  kept = losses[:4]
  expected = np.concatenate([(kept - kept.mean()) / kept.std() / 4, [0, 0]])
  np.testing.assert_allclose(slope, expected, rtol=1e-10)
  for baseline in ("standardized", "leave_one_out"):
    same = lambda v, b=baseline: surrogates.score_function_surrogate(
      v, jnp.full(6, 0.1), baseline=b
    )  # a sum of six tenths is not six times a tenth
    np.testing.assert_array_equal(jax.jit(jax.grad(same))(jnp.ones(6)), 0)
    alone = surrogates.score_function_surrogate(
      logs, losses, baseline=baseline, where=jnp.arange(6) == 0
    )
    assert float(alone) == 0


@pytest.mark.parametrize("unit", [1e-30, 1e36])
def test_advantages_of_any_unit(unit):
  """Losses 0 and 3 of 250 samples each: -1.5 and 1.5 in their unit, -1 and 1 standardized."""
  losses = jnp.tile(jnp.float32([0, 3]) * jnp.float32(unit), 250)
  signs = np.tile([-1, 1], 250)
  slope = lambda baseline: (
    500
    * jax.grad(lambda v: surrogates.score_function_surrogate(v, losses, baseline=baseline))(
      jnp.zeros(500)
    )
  )
  np.testing.assert_allclose(slope("standardized"), signs, rtol=1e-5)
  found = np.float64(slope("leave_one_out")) / unit
  np.testing.assert_allclose(found, 1.5 * signs * 500 / 499, rtol=1e-5)


@pytest.mark.x64
def test_a_fit_is_the_weighted_likelihoods_maximum(rng):
  x, logs = rng.normal(size=(7, 2)), rng.normal(size=7)
  fit = jax.jit(functools.partial(surrogates.fit_gaussian_designs, min_std=1e-3))
  found = fit(x, log_weights=logs)
  w = scipy.special.softmax(logs)
  np.testing.assert_allclose(found.mean, w @ x, rtol=1e-12)
  np.testing.assert_allclose(np.exp(found.log_std) ** 2, w @ (x - w @ x) ** 2, rtol=1e-12)
  likelihood = lambda d: w @ surrogates.design_log_prob(d, x)
  for leaf in jax.jit(jax.grad(likelihood))(found):
    np.testing.assert_allclose(leaf, 0, atol=1e-12)
  logs_of_scipy = scipy.stats.norm.logpdf(x, found.mean, np.exp(found.log_std)).sum(1)
  np.testing.assert_allclose(surrogates.design_log_prob(found, x), logs_of_scipy, rtol=1e-12)
  out = jnp.where(jnp.arange(7) < 6, 0, -jnp.inf)
  wild = np.where(np.arange(7)[:, None] < 6, x, np.inf)
  kept = fit(wild, log_weights=out)
  np.testing.assert_allclose(kept.mean, x[:6].mean(0), rtol=1e-12)
  np.testing.assert_allclose(np.exp(kept.log_std), x[:6].std(0), rtol=1e-12)
  same = surrogates.fit_gaussian_designs(jnp.ones((3, 1)), min_std=0.5)
  np.testing.assert_allclose(same.log_std, np.log(0.5))
  tiny = surrogates.fit_gaussian_designs(jnp.array([[1e-25], [-1e-25]], jnp.float32), min_std=1e-30)
  np.testing.assert_allclose(np.exp(np.float64(tiny.log_std)), 1e-25, rtol=1e-4)


def test_slopes_of_a_fit_see_no_weights_of_zero():
  """d log std / d log w_i = w_i ((x_i - mean)^2 / std^2 - 1) / 2, also where w_i is 0."""
  x, logs = jnp.array([[0.0], [2.0], [5.0], [7.0]]), jnp.array([0.0, np.log(3), -jnp.inf, -200.0])
  std = lambda v: surrogates.fit_gaussian_designs(x, min_std=0.1, log_weights=v).log_std[0]
  expected = [1 / 8 * (9 / 3 - 1), 3 / 8 * (1 / 3 - 1), 0, 0]  # mean 3/2, variance 3/4
  np.testing.assert_allclose(jax.jit(jax.grad(std))(logs), expected, atol=1e-6)


def test_a_design_may_be_a_number(key):
  """A line of numbers is fitted, weighed and sampled."""

  @jax.jit
  def run(x):
    found = surrogates.fit_gaussian_designs(x, min_std=0.1)
    return surrogates.design_log_prob(found, x), surrogates.sample_designs(key, found, num=4)

  x = np.float32([0.0, 1.0, 5.0])
  logs, drawn = run(x)
  np.testing.assert_allclose(logs, scipy.stats.norm.logpdf(x, 2, np.std(x)), rtol=1e-5)
  assert drawn.shape == (4,)


def test_samples_have_the_distributions_moments(key):
  designs = surrogates.GaussianDesigns(jnp.array([1.0, -2.0]), jnp.log(jnp.array([0.5, 3.0])))
  x = np.asarray(surrogates.sample_designs(key, designs, num=20_000))
  deviations = (x - [1.0, -2.0]) / [0.5, 3.0]
  assert np.all(np.abs(deviations.mean(0)) < 5 / np.sqrt(20_000))
  assert np.all(np.abs((deviations**2).mean(0) - 1) < 5 * np.sqrt(2 / 20_000))
  assert abs(np.mean(deviations[:, 0] * deviations[:, 1])) < 5 / np.sqrt(20_000)
  assert scipy.stats.kstest(deviations[:, 0], "norm").pvalue > 1e-4


def test_reinforce_finds_the_peak_within_bounds_and_compiles_once(key):
  peak = lambda x: -jnp.sum((x - jnp.array([[0.5, 3.0]])) ** 2, axis=1)

  @count_traces
  def search(key, start, rate):
    return surrogates.reinforce_search(
      peak, start, key, optimizer=optax.adam(rate), num_samples=128, num_steps=150,
      bounds=(-1.0, 1.0),
    )  # fmt: skip

  run = jax.jit(search)
  for rate in (0.03, 0.05):
    found, info = run(key, STANDARD, rate)
    assert abs(float(found.mean[0]) - 0.5) < 0.1
    assert float(found.mean[1]) > 0.9  # beyond 1 nothing is gained
    assert float(info.predictions[-1]) > float(info.predictions[0])
    assert float(info.spreads[0]) == 1 and float(info.spreads[-1]) < 0.7
  assert search.traces == 1
  still, _ = surrogates.reinforce_search(
    lambda x: jnp.full(4, jnp.nan), STANDARD, key, num_samples=4, num_steps=2
  )
  np.testing.assert_array_equal(still.mean, STANDARD.mean)  # nothing finite: it stays


def test_a_reinforce_step_is_its_formula(key):
  """One step of gradient descent with all samples known."""
  found, info = surrogates.reinforce_search(
    lambda x: x[:, 0] ** 3, STANDARD, key, optimizer=optax.sgd(0.1), num_samples=16, num_steps=1,
    baseline="leave_one_out",
  )  # fmt: skip
  drawn = surrogates.sample_designs(jax.random.split(key, 1)[0], STANDARD, num=16)
  x = np.asarray(drawn, np.float64)
  values = x[:, 0] ** 3
  advantages = (values - values.mean()) * 16 / 15
  np.testing.assert_allclose(info.predictions, [values.mean()], rtol=1e-4)
  np.testing.assert_allclose(found.mean, 0.1 * advantages @ x / 16, rtol=1e-4, atol=1e-6)
  np.testing.assert_allclose(
    found.log_std, 0.1 * advantages @ (x**2 - 1) / 16, rtol=1e-4, atol=1e-6
  )


def test_whole_numbers_are_numbers(key):
  """Votes are maximised, and their mean is no whole number; -1 is 255 among bytes."""
  found, info = surrogates.reinforce_search(
    lambda x: (x[:, 0] > 0).astype(jnp.uint8), STANDARD, key, num_samples=33, num_steps=1,
    optimizer=optax.sgd(0.5),
  )  # fmt: skip
  drawn = surrogates.sample_designs(jax.random.split(key, 1)[0], STANDARD, num=33)
  np.testing.assert_allclose(info.predictions, [np.mean(np.asarray(drawn)[:, 0] > 0)], rtol=1e-6)
  assert float(found.mean[0]) > 0.1


@pytest.mark.x64
def test_a_model_of_another_precision(key):
  prior = surrogates.GaussianDesigns(jnp.zeros(1, jnp.float32), jnp.zeros(1, jnp.float32))
  found, info = surrogates.cbas_search(
    lambda x: x[:, 0].astype(jnp.float64), prior, key, noise=0.5, num_samples=16, num_steps=2
  )
  assert info.thresholds.dtype == found.mean.dtype == jnp.float32 and float(found.mean[0]) > 0


@pytest.mark.x64
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_slopes_of_unlikely_predictions(dtype):
  """d log Phi(x) / dx = phi(x) / Phi(x) = sqrt(2 / pi) / erfcx(-x / sqrt 2), about -x far below."""
  x = np.array([-1e10, -1e6, -1e3, -50.0, -21.0, -19.0, -11.0, -9.0, -2.0, 0.0, 3.0])
  slope = jax.jit(
    jax.grad(
      lambda v: jnp.sum(
        surrogates.cbas_log_weights(0 * v, 0 * v, v, threshold=0.0, noise=jnp.asarray(1.0, dtype))
      )
    )
  )
  expected = np.sqrt(2 / np.pi) / scipy.special.erfcx(-x / np.sqrt(2))
  rtol = 2e-5 if dtype == jnp.float32 else 1e-12
  np.testing.assert_allclose(slope(jnp.asarray(x, dtype)), expected, rtol=rtol)
  unknown = surrogates.cbas_log_weights(
    jnp.zeros(2), jnp.zeros(2), jnp.ones(2), threshold=jnp.nan, noise=0.0
  )
  assert np.all(np.isnan(unknown))


@pytest.mark.x64
def test_cbas_weights_condition_the_prior_whatever_the_search_model():
  """x ~ N(0, 1), y | x ~ N(x, s^2): moments of x | y >= t are known, by quadrature under any q."""
  s, t = 0.5, 1.2
  alpha = t / np.sqrt(1 + s**2)
  hazard = scipy.stats.norm.pdf(alpha) / scipy.stats.norm.sf(alpha)
  mean = hazard / np.sqrt(1 + s**2)
  variance = 1 - hazard * (hazard - alpha) / (1 + s**2)
  prior = surrogates.GaussianDesigns(jnp.zeros(1), jnp.zeros(1))
  grid = jnp.linspace(-9, 9, 20_001)[:, None]

  @jax.jit
  def conditioned(center, spread):
    q = surrogates.GaussianDesigns(jnp.full(1, center), jnp.log(jnp.full(1, spread)))
    log_q = surrogates.design_log_prob(q, grid)
    logs = surrogates.cbas_log_weights(
      surrogates.design_log_prob(prior, grid), log_q, grid[:, 0], threshold=t, noise=s
    )
    return surrogates.fit_gaussian_designs(grid, min_std=1e-6, log_weights=logs + log_q)

  for center, spread in ((0.0, 1.0), (1.0, 0.7), (2.0, 2.0)):
    found = conditioned(center, spread)
    np.testing.assert_allclose(found.mean, [mean], rtol=1e-6)
    np.testing.assert_allclose(np.exp(2 * found.log_std), [variance], rtol=1e-6)
  sharp = surrogates.cbas_log_weights(
    jnp.zeros(4), jnp.zeros(4), jnp.array([1.0, 2.0, 3.0, jnp.nan]), threshold=2.0, noise=0.0
  )
  np.testing.assert_array_equal(sharp, [-jnp.inf, 0, 0, -jnp.inf])
  slope = jax.grad(lambda v: surrogates.cbas_log_weights(v, v, v, threshold=0.0, noise=0.0)[0])
  np.testing.assert_array_equal(slope(jnp.ones(2)), 0)  # finite where the noise is 0


def test_cbas_steps_condition_and_never_lower_the_threshold(key):
  """With y = x and no noise a step fits the part of the samples above their quantile."""
  prior = surrogates.GaussianDesigns(jnp.zeros(1), jnp.zeros(1))
  search = jax.jit(
    functools.partial(
      surrogates.cbas_search, lambda x: x[:, 0], prior, num_samples=4000, num_steps=5
    )
  )
  found, info = search(key, noise=0.0)
  cut = scipy.stats.norm.ppf(0.8)
  np.testing.assert_allclose(info.thresholds[0], cut, atol=0.1)
  np.testing.assert_allclose(info.effective[0], 800, atol=2)
  np.testing.assert_allclose(info.predictions[1], scipy.stats.norm.pdf(cut) / 0.2, atol=0.1)
  assert np.all(np.diff(info.thresholds) >= 0)
  assert float(found.mean[0]) > float(info.thresholds[-1])
  # The ratio to the prior holds it back: a threshold nearly out of reach for the prior is exceeded
  # by little (the overshoot of a normal variable is about 1 / threshold).
  last = float(info.thresholds[-1])
  assert float(found.mean[0]) - last < 1.5 / last


@pytest.mark.x64
def test_derivatives_of_cbas_hold_the_draws_fixed(key):
  @jax.jit
  def found(v):
    prior = surrogates.GaussianDesigns(v[:1], v[1:2])
    return surrogates.cbas_search(
      lambda x: -((x[:, 0] - v[2]) ** 2), prior, key, noise=v[3], num_samples=8, num_steps=2
    )[0].mean[0]

  point = np.array([0.1, 0.2, 1.0, 0.3])
  np.testing.assert_allclose(jax.grad(found)(point), central_difference(found, point), atol=1e-7)


def test_cbas_keeps_a_part_of_the_priors_spread(key):
  """All weight on the best of the samples: the spread is the floor, in units of the prior's."""
  prior = surrogates.GaussianDesigns(jnp.zeros(1), jnp.log(jnp.full(1, 4.0)))
  search = lambda **options: surrogates.cbas_search(
    lambda x: x[:, 0], prior, key, noise=0.0, quantile=0.999, num_samples=8, num_steps=1, **options
  )[0]
  np.testing.assert_allclose(jnp.exp(search(floor=0.5).log_std), [2.0], rtol=1e-5)
  np.testing.assert_allclose(jnp.exp(search().log_std), [0.04], rtol=1e-5)


def test_default_steps_are_those_of_the_baselines(key):
  """Adam's first step is its rate, .01; sizes are those of the published baselines."""
  found, _ = surrogates.reinforce_search(
    lambda x: x[:, 0], STANDARD, key, num_samples=32, num_steps=1
  )
  np.testing.assert_allclose(found.mean[0], 0.01, rtol=1e-4)
  defaults = lambda fn: {n: p.default for n, p in inspect.signature(fn).parameters.items()}
  assert defaults(surrogates.reinforce_search)["num_samples"] == 2048
  assert defaults(surrogates.reinforce_search)["num_steps"] == 200
  published = defaults(surrogates.cbas_search)
  assert (published["quantile"], published["num_samples"], published["num_steps"]) == (
    0.8,
    1000,
    20,
  )


def test_cbas_stays_where_nothing_counts(key):
  prior = surrogates.GaussianDesigns(jnp.zeros(1), jnp.zeros(1))
  found, info = surrogates.cbas_search(
    lambda x: jnp.full(8, jnp.nan), prior, key, noise=1.0, num_samples=8, num_steps=2
  )
  np.testing.assert_array_equal(found.mean, 0)
  np.testing.assert_array_equal(info.effective, 0)
