"""Problem generators: what they promise about truth, noise and objective."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxopt_robust import problems
from tests.registries.problems import PROBLEMS


@pytest.mark.x64
@pytest.mark.parametrize("name", PROBLEMS)
def test_objective_and_repeatability(name, key):
  problem = PROBLEMS[name](key)
  value = float(problem.objective(problem.truth[0], *problem.data))
  if problem.optimum is not None:
    assert abs(value - float(problem.optimum)) < 1e-12
  else:
    np.testing.assert_allclose(value, jnp.mean(jnp.abs(problem.truth.corruption)), rtol=1e-10)
  again = PROBLEMS[name](key)
  jax.tree.map(np.testing.assert_array_equal, again.data, problem.data)
  assert all(leaf.dtype == jnp.float64 for leaf in problem.data)


@pytest.mark.x64
def test_low_rank_truth(key):
  problem = PROBLEMS["low_rank_psd"](key)
  truth = problem.truth
  np.testing.assert_allclose(
    jnp.linalg.svd(truth.matrix, compute_uv=False), [3.0, 1.0, 0, 0, 0], atol=1e-12
  )
  np.testing.assert_array_equal(truth.left, truth.right)
  general = PROBLEMS["low_rank_general"](key)
  left, right = general.truth.left, general.truth.right
  np.testing.assert_allclose(general.truth.matrix, left @ right.T, atol=1e-13)
  np.testing.assert_allclose(left.T @ left, right.T @ right, atol=1e-13)
  matrices, y = general.data
  clean = jnp.einsum("mij,ij->m", matrices, general.truth.matrix)
  np.testing.assert_allclose(y, clean + general.truth.corruption, atol=1e-12)
  np.testing.assert_array_equal(general.truth.outliers, general.truth.corruption != 0)
  as_pair = general.objective((left, right), *general.data)
  as_matrix = general.objective(general.truth.matrix, *general.data)
  np.testing.assert_allclose(as_pair, as_matrix, rtol=1e-12)
  psd_pair = problem.objective((truth.left, None), *problem.data)
  assert float(psd_pair) < 1e-12


def test_low_rank_settings_may_be_traced(key):
  make = lambda rate: (
    problems.make_low_rank_sensing(
      key, num_measurements=200, rows=3, rank=1, outlier_rate=rate, outlier_scale=10.0
    ).truth.outliers
  )
  outliers = jax.jit(jax.vmap(make))(jnp.array([0.0, 0.5, 1.0]))
  assert not bool(outliers[0].any()) and bool(outliers[2].all())
  assert 60 < int(outliers[1].sum()) < 140


def test_sparse_regression_design(key):
  n, p, rho = 20_000, 6, 0.5
  problem = problems.make_sparse_regression(
    key, num_samples=n, num_features=p, num_active=2, correlation=rho, noise=0.3
  )
  design, y = problem.data
  weights, support = problem.truth
  assert int(support.sum()) == 2
  np.testing.assert_array_equal(jnp.abs(weights), support.astype(weights.dtype))
  distance = np.abs(np.subtract.outer(np.arange(p), np.arange(p)))
  covariance = design.T @ design / n
  np.testing.assert_allclose(covariance, rho**distance, atol=5 / np.sqrt(n) * np.sqrt(2))
  np.testing.assert_allclose(jnp.std(y - design @ weights), 0.3, rtol=0.05)
  value = float(problem.objective(weights, *problem.data))
  np.testing.assert_allclose(value, 0.5 * float(jnp.mean((y - design @ weights) ** 2)), rtol=1e-4)


def test_uniform_label_noise(key):
  n, k, rate = 30_000, 5, 0.4
  labels = jnp.arange(n) % k
  noisy, flipped = jax.jit(
    lambda key, labels, rate: problems.make_uniform_label_noise(
      key, labels, num_classes=k, rate=rate
    )
  )(key, labels, rate)
  np.testing.assert_array_equal(flipped, noisy != labels)
  transition = np.zeros((k, k))
  np.add.at(transition, (np.asarray(labels), np.asarray(noisy)), 1 / (n / k))
  expected = rate / k + (1 - rate) * np.eye(k)
  np.testing.assert_allclose(transition, expected, atol=5 * np.sqrt(0.25 / (n / k)))


def test_class_dependent_label_noise(key):
  labels = jnp.tile(jnp.arange(4), 5000)
  noisy, flipped = problems.make_class_dependent_label_noise(key, labels, num_classes=4, rate=0.25)
  np.testing.assert_array_equal(noisy[flipped], (labels[flipped] + 1) % 4)
  assert abs(float(flipped.mean()) - 0.25) < 5 * np.sqrt(0.25 * 0.75 / 20_000)
  partner = jnp.array([0, 2, 1, 1])  # class 0 stays clean
  noisy, flipped = problems.make_class_dependent_label_noise(
    key, labels, num_classes=4, rate=1.0, partner=partner
  )
  np.testing.assert_array_equal(noisy, partner[labels])
  assert not bool(flipped[labels == 0].any()) and bool(flipped[labels == 3].all())


def test_label_noise_keeps_shape_and_dtype(key):
  labels = jnp.zeros((3, 2), jnp.int8)
  for make in (problems.make_uniform_label_noise, problems.make_class_dependent_label_noise):
    noisy = make(key, labels, num_classes=3, rate=1.0)
    assert noisy.labels.dtype == jnp.int8 and noisy.labels.shape == (3, 2)


@pytest.mark.parametrize("drift", ["gradual", "abrupt", "recurring"])
def test_drifting_stream(drift, key):
  batches, batch = 5, 4000
  make = lambda shift: problems.make_drifting_stream(
    key, num_batches=batches, batch=batch, num_classes=3, num_features=6, shift=shift, drift=drift
  )
  stream = jax.jit(make)(3.0)
  expected = {"gradual": [0, 0.25, 0.5, 0.75, 1], "abrupt": [0, 0, 0, 1, 1],
              "recurring": [0, 1, 0, 1, 0]}[drift]  # fmt: skip
  np.testing.assert_allclose(stream.progress, expected, atol=1e-6)
  np.testing.assert_allclose(jnp.linalg.norm(stream.centers, axis=1), 4, rtol=1e-6)
  np.testing.assert_allclose(jnp.linalg.norm(stream.shift), 3, rtol=1e-6)
  moved = stream.progress[:, None, None] * stream.shift[None, None]
  noise = stream.x - stream.centers[stream.y] - moved
  np.testing.assert_allclose(noise.mean(1), 0, atol=5 / np.sqrt(batch))
  np.testing.assert_allclose(noise.std(1), 1, rtol=5 / np.sqrt(2 * batch))
  shares = np.bincount(np.ravel(stream.y), minlength=3) / (batches * batch)
  np.testing.assert_allclose(shares, 1 / 3, atol=5 * np.sqrt(0.25 / (batches * batch)))
  # Nothing but the shift depends on its length.
  still = jax.jit(make)(0.0)
  np.testing.assert_array_equal(still.y, stream.y)
  np.testing.assert_allclose(stream.x - still.x, jnp.broadcast_to(moved, stream.x.shape), atol=1e-5)


def test_shifted_gaussians(key):
  make = lambda shift, noise: problems.make_shifted_gaussians(
    key, num_labeled=4000, num_unlabeled=6000, dimension=5, shift=shift, noise=noise
  )
  (x, y, fresh), truth, *_ = make(0.7, 0.5)
  for samples, labels, center in (
    (x, y, truth.mean), (fresh, truth.unlabeled_labels, truth.shifted_mean),
  ):  # fmt: skip
    assert set(np.unique(labels)) == {-1.0, 1.0}
    np.testing.assert_allclose(np.mean(labels), 0, atol=5 / np.sqrt(len(labels)))
    rest = np.asarray(samples - jnp.outer(labels, center))
    np.testing.assert_allclose(rest.T @ rest / len(rest), 0.25 * np.eye(5), atol=0.03)
  np.testing.assert_allclose(jnp.linalg.norm(truth.mean), 1, rtol=1e-6)
  np.testing.assert_allclose(jnp.linalg.norm(truth.shifted_mean - truth.mean), 0.7, rtol=1e-5)
  # nothing but the unlabelled samples feels the shift
  again = make(0.0, 0.5)
  np.testing.assert_array_equal(again.data[0], x)
  np.testing.assert_allclose(again.truth.shifted_mean, truth.mean)
  w = jnp.arange(5.0) - 1.5
  rate = np.mean(np.sign(x @ w) == y)
  exact = problems.gaussian_accuracy(3.0 * w, truth.mean, noise=0.5)
  np.testing.assert_allclose(rate, exact, atol=5 * 0.5 / np.sqrt(4000))
  np.testing.assert_allclose(
    problems.gaussian_accuracy(truth.mean, truth.mean), 0.841345, atol=1e-5
  )
  np.testing.assert_allclose(again.objective(jnp.zeros(5), *again.data), np.log(2), rtol=1e-6)
