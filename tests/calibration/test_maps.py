"""Recalibration maps: their optimality conditions, scikit-learn's values, ranks, edges."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
import sklearn.isotonic
import sklearn.linear_model

from jaxopt_robust import calibration as cal

N, C = 300, 3
MAPS = {
  "temperature": (cal.temperature_fit, cal.temperature_apply),
  "vector": (cal.vector_fit, cal.vector_apply),
  "matrix": (cal.matrix_fit, cal.matrix_apply),
}
every = pytest.mark.parametrize("name", MAPS)


def sample(seed=0, n=N, temperature=0.5, scale=2.0):
  """Logits that are too large by 1 / temperature, and labels."""
  rng = np.random.default_rng(seed)
  z = scale * rng.standard_normal((n, C)) + np.array([1.0, 0.0, -0.5])
  p = softmax(temperature * z)
  return z, np.array([rng.choice(C, p=row) for row in p])


def softmax(z):
  return np.asarray(jax.nn.softmax(jnp.asarray(z), axis=-1))


def nll(z, y):
  return float(jnp.mean(jax.nn.logsumexp(z, axis=1) - z[np.arange(len(y)), y]))


@pytest.mark.x64
def test_the_best_parameters_satisfy_their_conditions():
  z, y = sample()
  t, info = cal.temperature_fit(z, y, tol=1e-12)
  p = softmax(t * z)
  assert info.status == 0 and info.steps < 20
  np.testing.assert_allclose(np.mean(z[np.arange(N), y] - np.sum(p * z, axis=1)), 0, atol=1e-10)
  best = scipy.optimize.minimize_scalar(lambda t: nll(t * z, y), (0.1, 1.0), tol=1e-12)
  np.testing.assert_allclose(t, best.x, rtol=1e-6)
  frequency = np.bincount(y, minlength=C) / N
  params, info = cal.vector_fit(z, y, tol=1e-8)
  p = softmax(cal.vector_apply(params, z))
  assert info.status == 0
  np.testing.assert_allclose(p.mean(0), frequency, atol=1e-7)
  np.testing.assert_allclose(np.mean((p - np.eye(C)[y]) * z, axis=0), 0, atol=1e-6)
  params, info = cal.matrix_fit(z, y, tol=1e-8)
  p = softmax(cal.matrix_apply(params, z))
  assert info.status == 0
  np.testing.assert_allclose((p - np.eye(C)[y]).T @ z / N, 0, atol=1e-6)
  other = sklearn.linear_model.LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000).fit(z, y)
  np.testing.assert_allclose(p, other.predict_proba(z), atol=1e-4)
  losses = [nll(np.asarray(apply(fit(z, y)[0], z)), y) for fit, apply in MAPS.values()]
  assert losses[2] <= losses[1] <= losses[0] < nll(z, y)


@pytest.mark.x64
def test_penalties_of_matrix_scaling():
  z, y = sample(1)
  off, intercept = 0.3, 0.2
  params, info = cal.matrix_fit(z, y, off_diagonal=off, intercept=intercept, tol=1e-9)
  assert info.status == 0
  p, (w, b) = softmax(cal.matrix_apply(params, z)), params
  rest = np.where(np.eye(C, dtype=bool), 0, w)
  slope = (p - np.eye(C)[y]).T @ z / N + 2 * off * rest / (C * (C - 1))
  np.testing.assert_allclose(slope, 0, atol=1e-6)
  bias = np.mean(p - np.eye(C)[y], axis=0) + 2 * intercept * b / C
  np.testing.assert_allclose(bias, 0, atol=1e-6)
  strong, _ = cal.matrix_fit(z, y, off_diagonal=1e4, intercept=1e4)
  np.testing.assert_allclose(strong.weight - np.diag(np.diag(strong.weight)), 0, atol=1e-3)
  np.testing.assert_allclose(strong.bias, 0, atol=1e-3)


def test_true_logits_keep_their_temperature():
  errors = []
  for n in (200, 20_000):
    found = [float(cal.temperature_fit(*sample(seed, n, temperature=1.0))[0]) for seed in range(12)]
    errors.append(np.sqrt(np.mean((np.array(found) - 1) ** 2)))
  assert errors[1] < 0.03 and errors[1] < errors[0] / 3


@every
def test_units_of_the_logits_do_not_matter(name):
  fit, apply = MAPS[name]
  z, y = sample()
  base = softmax(apply(fit(z, y)[0], z))
  for factor in (2.0**20, 2.0**-20):
    found = softmax(apply(fit(factor * z, y)[0], factor * z))
    np.testing.assert_allclose(found, base, rtol=1e-3, atol=1e-3)


@every
def test_masked_rows_do_not_matter_and_batches_agree(name):
  fit, apply = MAPS[name]
  z, y = sample()
  where = np.arange(N) < 200
  wrong, labels = z.copy(), y.copy()
  wrong[200:], labels[200:] = np.nan, 99
  masked, short = fit(wrong, labels, where=where)[0], fit(z[:200], y[:200])[0]
  compare = lambda a, b: np.testing.assert_allclose(softmax(a), softmax(b), atol=1e-3)
  compare(apply(masked, z), apply(short, z))
  batch = jax.jit(jax.vmap(lambda z, y: fit(z, y)[0]))(jnp.stack([z, 2 * z]), jnp.stack([y, y]))
  for i, factor in enumerate((1, 2)):
    one = jax.tree.map(lambda leaf, i=i: leaf[i], batch)
    compare(apply(one, factor * z), apply(fit(z, y)[0], z))


@every
def test_edges_of_a_fit(name):
  fit, apply = MAPS[name]
  z, y = sample(n=40)
  finite = lambda params: np.all(np.isfinite(apply(params, z)))
  for logits, labels in (
    (z, np.zeros(40, int)),  # one class only
    (1e4 * z, y),
    (np.zeros_like(z), y),
    (10 * np.eye(C)[y], y),  # every answer is right
    (-z * 5, z.argmax(1)),  # every answer is wrong
    (z[:2], y[:2]),
  ):
    params, info = fit(logits, labels)
    assert finite(params) and info.status in (0, 1, 3)
    before = nll(logits, labels)
    assert nll(np.asarray(apply(params, logits)), labels) <= before + 1e-5 * (1 + before)
  empty, _ = fit(z, y, where=np.zeros(40, bool))
  assert finite(empty)
  broken = z.copy()
  broken[0, 0] = np.nan
  assert fit(broken, y)[1].status == 2
  unknown = jax.jit(lambda y: fit(z, y)[1].status)
  assert unknown(jnp.asarray(y).at[0].set(C)) == 2 and unknown(jnp.asarray(y)) != 2


def test_edges_of_the_temperature():
  z, y = sample()
  assert cal.temperature_fit(z, z.argmin(1))[0] == 0  # the answers are upside down
  t, info = cal.temperature_fit(np.zeros((4, 3)), y[:4])
  assert t == 1 and info.status == 0
  t, _ = cal.temperature_fit(z, y, where=np.zeros(N, bool))
  assert t == 1
  t, info = cal.temperature_fit(np.eye(C)[y], y)  # every answer is right
  assert t > 10 and np.isfinite(t) and info.error < 1e-5


@every
def test_precision_of_a_map(name):
  fit, apply = MAPS[name]
  z, y = sample(n=40)
  half = jnp.asarray(z, jnp.bfloat16)
  params, info = fit(half, y)
  assert info.value.dtype == jnp.float32 and apply(params, half).dtype == jnp.bfloat16
  one = apply(params, half[0])
  np.testing.assert_array_equal(one.astype(jnp.float32), apply(params, half)[0].astype(jnp.float32))


def test_temperatures_and_piecewise_slopes_keep_every_rank(key):
  z = 5 * np.random.default_rng(0).standard_normal((200, 6)).astype(np.float32)
  mixture = cal.ensemble_temperature_init(key, num_members=8)
  slopes = jax.random.normal(key, (20,))
  network = cal.monotone_network_init(key, z, num_hidden=8)
  for out in (
    cal.temperature_apply(0.3, z),
    cal.ensemble_temperature_apply(mixture, z),
    cal.piecewise_linear_apply(slopes, z, span=15.0),
    cal.monotone_network_apply(network, z),
  ):
    np.testing.assert_array_equal(np.argsort(out, axis=1), np.argsort(z, axis=1))


@pytest.mark.x64
def test_mixture_of_temperatures():
  z, y = sample()
  params = cal.TemperatureMixture(jnp.array([0.2, -1.0, 3.0]), jnp.array([1.0, 2.0, -3.0]))
  expected = sum(v * softmax(a * z) for v, a in ((1 / 6, 0.2), (1 / 3, 1.0), (1 / 2, 3.0)))
  np.testing.assert_allclose(np.exp(cal.ensemble_temperature_apply(params, z)), expected)
  equal = cal.ensemble_temperature_apply(params._replace(weight=jnp.zeros(3)), z)
  np.testing.assert_allclose(np.exp(equal), sum(softmax(a * z) for a in (0.2, 1.0, 3.0)) / 3)
  # One member is temperature scaling.
  start = cal.TemperatureMixture(jnp.ones(1), jnp.ones(1))
  found, info = cal.likelihood_fit(cal.ensemble_temperature_apply, start, z, y, tol=1e-8)
  assert info.status == 0
  np.testing.assert_allclose(abs(found.scale[0]), cal.temperature_fit(z, y)[0], rtol=1e-5)
  large = cal.ensemble_temperature_apply(params, 1e4 * z)
  assert np.all(np.isfinite(large)) and np.all(large <= 1e-12)


@pytest.mark.x64
def test_monotone_network_is_the_integral_of_its_density(key):
  z = np.random.default_rng(0).standard_normal((5, 4))
  params = cal.monotone_network_init(key, z, num_hidden=3)
  logs = np.log(softmax(z))
  x = (logs - logs.mean()) / logs.std()

  def density(t):
    hidden = t.reshape(-1, 1)
    for kernel, bias in zip(params.kernels[:2], params.biases[:2], strict=True):
      hidden = np.maximum(hidden @ np.asarray(kernel) + np.asarray(bias), 0)
    out = (hidden @ np.asarray(params.kernels[2]) + np.asarray(params.biases[2]))[:, 0]
    return np.where(out > 0, out, np.expm1(np.minimum(out, 0))) + 1

  nodes = np.linspace(0, 1, 20_001)
  expected = [np.trapezoid(density(v * nodes), v * nodes) for v in x.ravel()]
  found = cal.monotone_network_apply(params, z)
  np.testing.assert_allclose(found.ravel(), expected, atol=2e-4)
  assert np.all(density(np.linspace(-5, 5, 100)) > 0)


def test_histogram_binning():
  z, y = sample()
  p = softmax(z)
  for binning, j in itertools.product(("width", "mass"), (0, 2)):
    score = p[:, j]
    params = cal.histogram_fit(score, y == j, num_bins=8, binning=binning)
    after = np.asarray(cal.histogram_apply(params, score))
    # No calibration error on its own rows: every value is the share of its own bin.
    index = np.searchsorted(np.asarray(params.edges), score)
    for b in np.unique(index):
      np.testing.assert_allclose(after[index == b], np.mean(y[index == b] == j), rtol=1e-5)
    if binning == "width":
      assert cal.expected_calibration_error(after, y == j) < 1e-6
    else:
      assert params.count.max() - params.count.min() <= 1
  params = cal.histogram_fit(p, y, num_bins=8)
  rows = np.asarray(cal.histogram_apply(params, p))
  np.testing.assert_allclose(rows.sum(1), 1, rtol=1e-5)
  one = cal.histogram_fit(p[:, 1], y == 1, num_bins=8)
  np.testing.assert_allclose(params.value[1], one.value)


def test_edges_of_histogram_binning():
  few = cal.histogram_fit(np.array([0.3, 0.7]), np.array([0, 1]), num_bins=5, binning="mass")
  np.testing.assert_allclose(cal.histogram_apply(few, np.array([0.3, 0.7])), [0, 1])
  ends = cal.histogram_fit(np.array([0.0, 1.0]), np.array([1, 0]), num_bins=4)
  np.testing.assert_allclose(ends.value, [1, 0.375, 0.625, 0])  # empty bins: their middle
  none = cal.histogram_fit(np.ones(2), np.ones(2, int), num_bins=4, where=np.zeros(2, bool))
  np.testing.assert_allclose(none.value, [0.125, 0.375, 0.625, 0.875])
  zeros = cal.HistogramMap(jnp.zeros((2, 0)), jnp.zeros((2, 1)), jnp.ones((2, 1)))
  np.testing.assert_allclose(cal.histogram_apply(zeros, np.array([[0.5, 0.5]])), [[0.5, 0.5]])
  equal = cal.histogram_fit(np.full(9, 0.4), np.arange(9) < 3, num_bins=3, binning="mass")
  np.testing.assert_allclose(cal.histogram_apply(equal, np.array([0.4])), 1 / 3, rtol=1e-6)


@pytest.mark.x64
@pytest.mark.parametrize("digits", [1, 8])  # with ties, and without
def test_isotonic_regression_of_scikit_learn(digits):
  z, y = sample()
  score = np.round(softmax(z)[:, 0], digits)
  found = cal.isotonic_fit(score, y == 0)
  other = sklearn.isotonic.IsotonicRegression(out_of_bounds="clip").fit(score, y == 0)
  points = np.concatenate([np.linspace(0, 1, 101), score])
  np.testing.assert_allclose(cal.isotonic_apply(found, points), other.predict(points), atol=1e-12)
  where = np.arange(N) < 180
  masked = cal.isotonic_fit(score, y == 0, where=where)
  other = sklearn.isotonic.IsotonicRegression(out_of_bounds="clip").fit(score[:180], (y == 0)[:180])
  np.testing.assert_allclose(cal.isotonic_apply(masked, points), other.predict(points), atol=1e-12)


def test_isotonic_rows_and_edges():
  z, y = sample()
  p = softmax(z)
  rows = np.asarray(cal.isotonic_apply(cal.isotonic_fit(p, y), p))
  np.testing.assert_allclose(rows.sum(1), 1, rtol=1e-5)
  empty = cal.isotonic_fit(p, y, where=np.zeros(N, bool))
  np.testing.assert_allclose(cal.isotonic_apply(empty, p), p, atol=1e-5)
  one_class = cal.isotonic_apply(cal.isotonic_fit(p, np.zeros(N, int)), p)
  np.testing.assert_allclose(one_class, np.eye(C)[np.zeros(N, int)], atol=1e-6)
  same = cal.isotonic_fit(np.full(4, 0.3), np.array([0, 1, 1, 1]))
  np.testing.assert_allclose(cal.isotonic_apply(same, np.array([0.0, 0.3, 1.0])), 0.75)
  broken = jax.jit(cal.isotonic_fit)(jnp.array([0.1, jnp.nan]), jnp.array([0, 1]))
  assert np.all(np.isnan(broken.value))
  back = jax.jit(cal.isotonic_apply)(same, jnp.array([jnp.nan]))
  assert np.isnan(back[0])
