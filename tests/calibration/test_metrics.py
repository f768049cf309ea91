"""Calibration errors: other libraries' values, the formulas in NumPy, what must not matter."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
import sklearn.calibration
import sklearn.metrics

from jaxopt_robust import calibration as cal
from tests.helpers import assert_no_retrace, central_difference

N, C = 200, 4
SCALARS = {
  "ece": cal.expected_calibration_error,
  "ece mass": lambda p, y, **o: cal.expected_calibration_error(p, y, binning="mass", **o),
  "mce": cal.maximum_calibration_error,
  "ace": cal.average_calibration_error,
  "rmsce": cal.root_mean_square_calibration_error,
  "class-wise": cal.classwise_calibration_error,
  "debiased": cal.debiased_calibration_error,
  "sweep": cal.sweep_calibration_error,
  "ks": cal.ks_calibration_error,
  "mmce": cal.maximum_mean_calibration_error,
  "skce": cal.squared_kernel_calibration_error,
  "dirichlet": cal.dirichlet_calibration_error,
  "brier": cal.brier_score,
  "nll": cal.negative_log_likelihood,
}
every = pytest.mark.parametrize("name", SCALARS)


def softmax(z):
  e = np.exp(z - z.max(1, keepdims=True))
  return e / e.sum(1, keepdims=True)


def sample(seed=0, n=N, temperature=0.5):
  """Probabilities that are too sure of themselves, and labels."""
  rng = np.random.default_rng(seed)
  z = 2 * rng.standard_normal((n, C))
  truth = softmax(temperature * z)
  ends = np.cumsum(truth, axis=1)
  labels = np.sum(ends / ends[:, -1:] <= rng.random((n, 1)), axis=1)
  return softmax(z), labels


def top(p, y):
  return p.max(1), (p.argmax(1) == y).astype(float)


def numpy_bins(conf, out, num_bins=15):
  index = np.clip(np.ceil(conf * num_bins) - 1, 0, num_bins - 1).astype(int)
  return [(conf[index == b], out[index == b]) for b in range(num_bins) if (index == b).any()]


def numpy_mass(conf, out, num_bins=15):
  order, n = np.argsort(conf, kind="stable"), len(conf)
  ends = [int(np.floor(n * b / num_bins + 0.5)) for b in range(num_bins + 1)]
  parts = [order[a:b] for a, b in itertools.pairwise(ends) if b > a]
  return [(conf[part], out[part]) for part in parts]


def gaps(bins):
  return np.array([abs(c.mean() - o.mean()) for c, o in bins])


def weights(bins):
  return np.array([len(c) for c, _ in bins]) / sum(len(c) for c, _ in bins)


@pytest.mark.x64
def test_values_of_netcal_and_torchmetrics():
  # netcal 1.4.0: ECE, MCE and ACE of 15 bins; of 10 bins for class 1 as an event.
  p, y = sample()
  frozen = {
    cal.expected_calibration_error: (0.1560810649887639, 0.1314338745473967),
    cal.maximum_calibration_error: (0.328971183597567, 0.4561764149851539),
    cal.average_calibration_error: (0.15796110990967122, 0.22171328370997606),
  }
  for metric, (multi, event) in frozen.items():
    np.testing.assert_allclose(metric(p, y), multi, rtol=1e-12)
    np.testing.assert_allclose(metric(p[:, 1], y == 1, num_bins=10), event, rtol=1e-12)
  # torchmetrics 1.9.0, multiclass_calibration_error with the norms l1, l2 and max, in float32.
  for metric, value in (
    (cal.expected_calibration_error, 0.15608106553554535),
    (cal.root_mean_square_calibration_error, 0.1788543164730072),
    (cal.maximum_calibration_error, 0.3289712071418762),
  ):
    np.testing.assert_allclose(metric(p, y), value, rtol=1e-6)


@pytest.mark.x64
def test_bins_are_those_of_scikit_learn():
  p, y = sample()
  for score in (p[:, 1], np.round(p[:, 1], 1)):  # many on the edges
    share, mean = sklearn.calibration.calibration_curve(y == 1, score, n_bins=10)
    found = cal.reliability_bins(score, y == 1, num_bins=10)
    kept = np.asarray(found.count) > 0
    np.testing.assert_allclose(found.accuracy[kept], share, rtol=1e-12)
    np.testing.assert_allclose(found.confidence[kept], mean, rtol=1e-12)
    assert found.count.sum() == N
  score = np.linspace(0, 1, 100)  # equal mass: their quantiles agree where there are no ties
  share, mean = sklearn.calibration.calibration_curve(
    score > 0.3, score, n_bins=10, strategy="quantile"
  )
  found = cal.reliability_bins(score, score > 0.3, num_bins=10, binning="mass")
  np.testing.assert_allclose(found.accuracy, share, atol=1e-12)
  np.testing.assert_allclose(found.confidence, mean, rtol=1e-12)


@pytest.mark.x64
def test_scores_are_those_of_scikit_learn():
  p, y = sample()
  np.testing.assert_allclose(cal.negative_log_likelihood(p, y), sklearn.metrics.log_loss(y, p))
  for column in range(C):
    event, score = y == column, p[:, column]
    expected = sklearn.metrics.brier_score_loss(event, score)
    np.testing.assert_allclose(cal.brier_score(score, event), expected)
    np.testing.assert_allclose(
      cal.negative_log_likelihood(score, event), sklearn.metrics.log_loss(event, score)
    )
  two = np.stack([1 - p[:, 0], p[:, 0]], axis=1)
  np.testing.assert_allclose(cal.brier_score(two, y == 0), 2 * cal.brier_score(p[:, 0], y == 0))
  np.testing.assert_allclose(cal.brier_score(p, y), np.mean(np.sum((p - np.eye(C)[y]) ** 2, 1)))


@pytest.mark.x64
def test_formulas_in_numpy():
  p, y = sample(1)
  conf, out = top(p, y)
  bins, mass = numpy_bins(conf, out), numpy_mass(conf, out)
  expected = {
    "rmsce": np.sqrt(np.sum(weights(bins) * gaps(bins) ** 2)),
    "ece mass": np.sum(weights(mass) * gaps(mass)),
    "ks": np.abs(np.cumsum((conf - out)[np.argsort(conf)])).max() / N,
  }
  plain, noise = 0.0, 0.0
  for (c, o), w in zip(mass, weights(mass), strict=True):
    plain += w * abs(o.mean() - c.mean())
    s = np.sqrt(o.mean() * (1 - o.mean()) / len(o))
    noise += w * (
      scipy.stats.foldnorm(abs(o.mean() - c.mean()) / s, scale=s).mean()
      if s else abs(o.mean() - c.mean())
    )  # fmt: skip
  expected["debiased"] = 2 * plain - noise
  last = None
  for num_bins in range(1, N + 1):
    parts = numpy_mass(conf, out, num_bins)
    means = [o.mean() for _, o in parts]
    if any(b < a for a, b in itertools.pairwise(means)):
      break
    last = np.sum(weights(parts) * gaps(parts))
  assert num_bins > 3
  expected["sweep"] = last
  r = out - conf
  kernel = np.exp(-2.5 * np.abs(conf[:, None] - conf[None, :]))
  expected["mmce"] = np.sqrt(r @ kernel @ r) / N
  left = np.eye(C)[y] - p
  pairs = np.exp(-np.linalg.norm(p[:, None] - p[None], axis=2)) * (left @ left.T)
  expected["skce"] = pairs[np.triu_indices(N, 1)].mean()
  density = np.array([
    [scipy.stats.dirichlet(p[j] / 0.1 + 1).pdf(p[i] / p[i].sum()) for j in range(40)]
    for i in range(40)
  ])  # fmt: skip
  np.fill_diagonal(density, 0)
  mean = density @ np.eye(C)[y[:40]] / density.sum(1, keepdims=True)
  dirichlet = np.mean(np.sum((mean - p[:40]) ** 2, axis=1))
  np.testing.assert_allclose(cal.dirichlet_calibration_error(p[:40], y[:40]), dirichlet, rtol=1e-9)
  for name, value in expected.items():
    np.testing.assert_allclose(SCALARS[name](p, y), value, rtol=1e-9, err_msg=name)


@pytest.mark.x64
def test_class_by_class():
  p, y = sample(2)
  errors = []
  for j in range(C):
    bins = numpy_bins(p[:, j], (y == j).astype(float))
    errors.append(np.sum(weights(bins) * gaps(bins)))
  np.testing.assert_allclose(cal.classwise_calibration_error(p, y, reduction="none"), errors)
  np.testing.assert_allclose(cal.classwise_calibration_error(p, y), np.mean(errors))
  np.testing.assert_allclose(cal.classwise_calibration_error(p, y, reduction="sum"), np.sum(errors))
  limited = cal.classwise_calibration_error(p, y, reduction="none", threshold=1 / C)
  for j in range(C):
    kept = p[:, j] > 1 / C
    bins = numpy_bins(p[kept, j], (y[kept] == j).astype(float))
    np.testing.assert_allclose(limited[j], np.sum(weights(bins) * gaps(bins)))


def test_calibrated_probabilities():
  sizes = (100, 1600, 25_600)
  mean = [
    np.mean([float(cal.expected_calibration_error(*sample(s, n, 1.0))) for s in range(6)])
    for n in sizes
  ]
  slope = np.polyfit(np.log(sizes), np.log(mean), 1)[0]
  assert -0.6 < slope < -0.4
  skce = [float(cal.squared_kernel_calibration_error(*sample(s, N, 1.0))) for s in range(40)]
  assert abs(np.mean(skce)) < 3 * np.std(skce) / np.sqrt(40)
  assert np.mean(skce) < 0.2 * float(cal.squared_kernel_calibration_error(*sample(0)))
  # Of the bias E|N(0, s^2)| of the plain estimate the share 2 - sqrt(2) is left: the gap that is
  # subtracted is noisy itself.
  debiased = [float(cal.debiased_calibration_error(*sample(s, N, 1.0))) for s in range(20)]
  plain = [SCALARS["ece mass"](*sample(s, N, 1.0)) for s in range(20)]
  assert 0.45 < np.mean(debiased) / np.mean(plain) < 0.72


@every
def test_the_order_of_the_rows_and_masked_rows_do_not_matter(name):
  p, y = (a[:60] for a in sample(3))
  p[10:20] = p[10]  # ties
  p[30:35] = np.eye(C)[0]  # sure
  if name == "nll":
    y[30:35] = 0
  metric = SCALARS[name]
  order = np.random.default_rng(1).permutation(60)
  base = metric(p, y)
  np.testing.assert_allclose(metric(p[order], y[order]), base, rtol=2e-5, atol=1e-7)
  where = np.arange(60) < 45
  wrong, labels = p.copy(), y.copy()
  wrong[45:], labels[45:] = np.nan, 77
  np.testing.assert_allclose(
    metric(wrong, labels, where=where), metric(p[:45], y[:45]), rtol=2e-5, atol=1e-7
  )
  # Classes are names only.
  swap = np.array([2, 0, 3, 1])
  np.testing.assert_allclose(
    metric(p[:45][:, swap], np.argsort(swap)[y[:45]]), metric(p[:45], y[:45]), rtol=2e-5, atol=1e-7
  )
  assert metric(p, y, where=np.zeros(60, bool)) == 0


@every
def test_numbers_that_are_not_finite_and_unknown_labels_show_under_jit(name):
  p, y = (jnp.asarray(a[:60]) for a in sample(3))
  metric = jax.jit(SCALARS[name])
  np.testing.assert_allclose(metric(p, y), SCALARS[name](p, y), rtol=1e-5, atol=1e-7)
  assert np.isnan(metric(p.at[3, 1].set(jnp.nan), y))
  assert np.isnan(metric(p.at[3, 1].set(jnp.inf), y))
  assert np.isnan(metric(p, y.at[5].set(C)))
  assert np.isnan(metric(p, y.at[5].set(-2)))


@every
def test_types_and_batches(name):
  metric = SCALARS[name]
  p, y = (a[:60] for a in sample(3))
  half = jnp.asarray(p, jnp.bfloat16)
  rough, exact = metric(half, y), jax.jit(metric)(half.astype(jnp.float32), jnp.asarray(y))
  assert rough.dtype == jnp.float32
  np.testing.assert_allclose(rough, exact, rtol=1e-5, atol=1e-7)
  batch = jax.vmap(metric)(jnp.stack([p, p[::-1]]), jnp.stack([y, y[::-1]]))
  np.testing.assert_allclose(batch, [metric(p, y)] * 2, rtol=2e-5, atol=1e-7)


def test_constant_and_sure_predictors():
  labels = np.array([0] * 70 + [1] * 30)
  constant = np.tile([0.6, 0.4], (100, 1))
  for name in ("ece", "ece mass", "mce", "ace", "rmsce", "sweep", "ks", "mmce"):
    np.testing.assert_allclose(SCALARS[name](constant, labels), 0.1, rtol=1e-5, err_msg=name)
  sure = np.eye(2)[1 - labels]  # always wrong
  for name in ("ece", "ece mass", "mce", "ace", "rmsce", "class-wise", "debiased", "ks"):
    np.testing.assert_allclose(SCALARS[name](sure, labels), 1, rtol=1e-5, err_msg=name)
  right = np.eye(2)[labels]
  for name, metric in SCALARS.items():
    np.testing.assert_allclose(metric(right, labels), 0, atol=1e-6, err_msg=name)
  assert np.isinf(cal.negative_log_likelihood(sure, labels))
  assert cal.brier_score(sure, labels) == 2


def test_one_class_only_a_class_without_rows_and_fewer_rows_than_bins():
  p, _ = sample(4, 5)
  labels = np.zeros(5, int)
  for name, metric in SCALARS.items():
    assert np.isfinite(metric(p, labels)), name
  errors = cal.classwise_calibration_error(p, labels, reduction="none")
  np.testing.assert_allclose(errors[1:], p[:, 1:].mean(0), rtol=1e-5)
  mass = cal.reliability_bins(p, labels, binning="mass")
  assert mass.count.sum() == 5 and mass.count.max() == 1
  for name in ("skce", "dirichlet"):  # one row has no pair
    assert SCALARS[name](p[:1], labels[:1]) == 0


def test_ks_is_at_least_the_error_of_one_bin():
  for seed in range(5):
    p, y = sample(seed)
    one = cal.expected_calibration_error(p, y, num_bins=1)
    conf, out = top(p, y)
    np.testing.assert_allclose(one, abs(conf.mean() - out.mean()), rtol=1e-4)
    assert cal.ks_calibration_error(p, y) >= one - 1e-6


@pytest.mark.x64
@pytest.mark.parametrize("name", ["ece", "rmsce", "ks", "mmce", "skce", "dirichlet", "brier"])
def test_gradients(name):
  p, y = (a[:12] for a in sample(5))
  metric = lambda z: SCALARS[name](jax.nn.softmax(z, axis=1), y)
  z = np.log(p)
  exact = np.asarray(jax.grad(metric)(jnp.asarray(z)))
  np.testing.assert_allclose(exact, central_difference(metric, z), rtol=1e-5, atol=1e-8)


def test_gradients_stay_finite_at_sure_probabilities():
  p, y = jnp.eye(3), jnp.array([0, 1, 1])
  for name in ("ece", "rmsce", "ks", "mmce", "skce", "dirichlet", "brier"):
    slope = jax.grad(lambda p, name=name: SCALARS[name](p, y))(p)
    assert np.all(np.isfinite(slope)), name


def test_no_retrace():
  make = lambda i: tuple(jnp.asarray(a) for a in sample(i, 20))
  assert_no_retrace(lambda p, y: cal.expected_calibration_error(p, y), make)


@pytest.mark.parametrize("num", [64**3, 10**6])
def test_many_examples_in_one_bin(num):
  """Of 0.99 n right answers at confidence 0.99 the error is 0: added one after another in float32
  10^6 confidences come to 0.997 n."""
  labels = jnp.arange(num) % 100 > 0
  probs = jnp.full(num, 0.99)
  want = abs(float(labels.sum()) / num - 0.99)
  found = cal.reliability_bins(probs, labels)
  np.testing.assert_allclose(found.confidence[14], 0.99, rtol=1e-5)
  got = cal.expected_calibration_error(probs, labels)
  np.testing.assert_allclose(got, want, atol=1e-5)
