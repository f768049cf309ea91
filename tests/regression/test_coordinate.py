"""Coordinate descent on working sets: equal to peers and to proximal gradients, of any size."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxopt_robust import prox, regression, solvers

N, P = 60, 150


@functools.cache
def data():
  rng = np.random.default_rng(0)
  x = np.empty((N, P))
  x[:, 0] = rng.standard_normal(N)
  for j in range(1, P):
    x[:, j] = 0.5 * x[:, j - 1] + np.sqrt(0.75) * rng.standard_normal(N)
  signal = x[:, ::25] @ np.array([2.0, -1.5, 1.0, 1.0, -1.0, 0.5])
  y = signal + 0.5 * rng.standard_normal(N)
  return x, y, (signal > 0).astype(float), rng.poisson(np.exp(signal / 3)).astype(float)


def correlation(x, y):
  return np.abs(x.T @ (y - y.mean())).max() / len(y)


@pytest.mark.x64
@pytest.mark.peer
def test_a_path_through_several_sizes_equals_scikit_learn_and_celer():
  linear_model = pytest.importorskip("sklearn.linear_model")
  x, y, *_ = data()
  strengths = correlation(x, y) * np.geomspace(0.9, 0.01, 7)
  found = regression.regularization_path(x, y, strengths, tol=1e-12, certificate=True)
  sizes = np.sum(np.asarray(found.coefficients) != 0, axis=1)
  assert not np.any(found.status) and sizes[0] < 10 and sizes[-1] > 50  # the buffer grows
  assert np.all(np.abs(found.gap) < 1e-9)
  for i, lam in enumerate(strengths):
    model = linear_model.Lasso(lam, tol=1e-15, max_iter=1_000_000).fit(x, y)
    np.testing.assert_allclose(found.coefficients[i], model.coef_, atol=1e-8)
    np.testing.assert_array_equal(found.coefficients[i] != 0, model.coef_ != 0)
  celer = pytest.importorskip("celer")
  xc, yc = np.asfortranarray(x - x.mean(axis=0)), y - y.mean()
  theirs = celer.celer_path(xc, yc, pb="lasso", alphas=strengths[:4], tol=1e-14, max_iter=1000)[1]
  np.testing.assert_allclose(found.coefficients[:4], theirs.T, atol=1e-8)
  # From the constant model to the last strength at once: the working sets double.
  cold = regression.regularization_path(x, y, strengths[-1:], tol=1e-12)
  np.testing.assert_allclose(cold.coefficients[0], found.coefficients[-1], atol=1e-9)


@pytest.mark.x64
def test_other_losses_and_penalties_equal_proximal_gradients():
  x, y, labels, counts = data()
  x = x[:, :70]
  y = y.copy()
  y[:3] += 30
  strength = np.array([0.2, 0.1])
  for loss, target in (("huber", y), ("logistic", labels), ("poisson", counts)):
    both = [
      regression.regularization_path(
        x, target, strength, loss=loss, penalty=prox.elastic_net, penalty_params=(0.3,),
        tol=1e-11, max_steps=50_000, method=method,
      )
      for method in ("coordinate_descent", "proximal_gradient")
    ]  # fmt: skip
    assert not np.any(both[0].status) and not np.any(both[1].status)
    np.testing.assert_allclose(both[0].coefficients, both[1].coefficients, atol=1e-8)
    np.testing.assert_allclose(both[0].intercepts, both[1].intercepts, atol=1e-8)
    # Newton models: far fewer epochs than gradient steps.
    assert np.all(both[0].steps < 60) and np.all(both[0].steps < both[1].steps)


@pytest.mark.x64
def test_a_huber_loss_most_of_whose_rows_bend_elsewhere():
  x, y, *_ = data()
  x, y = x[:, :70], y + np.where(np.arange(N) < 3, 30, 0)
  delta, gamma, strengths = 0.05, 0.3, np.array([0.002, 0.001])
  found = regression.regularization_path(
    x, y, strengths, loss="huber", loss_hyper=delta, penalty=prox.elastic_net,
    penalty_params=(gamma,), tol=1e-9, max_steps=50_000, method="coordinate_descent",
  )  # fmt: skip
  assert not np.any(found.status) and np.all(found.steps < 5000)
  for w, b, lam in zip(found.coefficients, found.intercepts, strengths, strict=True):
    slopes = np.clip(x @ np.asarray(w) + b - y, -delta, delta) / N
    g = x.T @ slopes + lam * gamma * w
    violation = np.where(w != 0, g + lam * np.sign(w), np.maximum(np.abs(g) - lam, 0))
    np.testing.assert_allclose(violation, 0, atol=1e-8)
    assert abs(slopes.sum()) < 1e-8


@pytest.mark.x64
def test_classes_that_nearly_separate_are_fitted_to_the_end():
  # Most rows hardly bend at the last strengths, and columns have heavy tails.
  rng = np.random.default_rng(5)
  counts = rng.exponential(1, (150, 30)) * (rng.random((150, 30)) < rng.uniform(0.05, 0.6, 30))
  x = np.log1p(counts * np.exp(rng.standard_normal(30)))
  x = (x - x.mean(axis=0)) / x.std(axis=0)
  odds = x @ rng.standard_normal(30) * 1.2
  y = (rng.random(150) < 1 / (1 + np.exp(-odds))).astype(float)
  strengths = np.geomspace(0.2, 2e-5, 24)
  found = regression.regularization_path(x, y, strengths, loss="logistic", tol=1e-7)
  assert not np.any(found.status) and np.sum(found.steps) < 300
  w = np.asarray(found.coefficients)
  z = w @ x.T + np.asarray(found.intercepts)[:, None]
  g = (1 / (1 + np.exp(-z)) - y) @ x / 150
  lam = strengths[:, None]
  violation = np.where(w != 0, np.abs(g + lam * np.sign(w)), np.maximum(np.abs(g) - lam, 0))
  assert np.max(violation) < 1e-6 and np.max(np.abs(w)) > 30


@pytest.mark.x64
def test_more_active_features_than_the_buffer_holds():
  rng = np.random.default_rng(1)
  x, y = rng.standard_normal((20, 600)), rng.standard_normal(20)
  lam, gamma = 1e-6, 1e4  # the ridge part is 0.01: nearly all features are active
  found = regression.regularization_path(
    x, y, [lam], penalty=prox.elastic_net, penalty_params=(gamma,), tol=1e-9, fit_intercept=False
  )
  w = np.asarray(found.coefficients[0])
  assert found.status[0] == 0 and np.sum(w != 0) > 520
  g = x.T @ (x @ w - y) / 20 + lam * gamma * w
  np.testing.assert_allclose((g + lam * np.sign(w))[w != 0], 0, atol=1e-7)
  assert np.all(np.abs(g[w == 0]) <= lam + 1e-7)


@pytest.mark.x64
def test_paths_mapped_over_run_one_after_the_other_with_the_results_of_each():
  x, y, *_ = data()
  x = x[:, :70]
  fit = lambda s: regression.regularization_path(x, y, [0.5, 0.2], sample_weight=s, tol=1e-10)
  counts = np.asarray(regression.bootstrap_weights(jax.random.key(0), N, 3))
  together = jax.jit(jax.vmap(fit))(counts)
  for i, s in enumerate(counts):
    np.testing.assert_allclose(together.coefficients[i], fit(s).coefficients, atol=1e-10)


@pytest.mark.x64
def test_derivatives_along_the_steps_are_the_implicit_ones_and_reverse_mode_says_why_not():
  x, y, *_ = data()
  x = x[:, ::15]
  path = lambda lam: regression.regularization_path(x, y, lam, tol=1e-12).coefficients
  strengths = jnp.array([0.5, 0.2])
  w, slopes = np.asarray(path(strengths)), np.asarray(jax.jit(jax.jacfwd(path))(strengths))
  centred = x - x.mean(axis=0)
  for i in range(2):
    on = w[i] != 0
    inverse = np.linalg.inv(centred[:, on].T @ centred[:, on] / N)
    np.testing.assert_allclose(slopes[i, on, i], -inverse @ np.sign(w[i, on]), rtol=1e-6)
    np.testing.assert_array_equal(slopes[i, ~on], 0)
  with pytest.raises(ValueError, match="Reverse-mode differentiation"):
    jax.grad(lambda lam: path(lam).sum())(strengths)


@pytest.mark.x64
def test_a_tolerance_below_rounding_ends_as_stalled_and_bad_numbers_as_such():
  x, y, *_ = data()
  x = x[:, :70]
  found = regression.regularization_path(x, y, [0.5, 0.2], tol=0.0)
  assert found.status.tolist() == [3, 3] and np.all(found.error < 1e-14)
  y = np.where(np.arange(N) == 2, np.nan, y)
  bad = regression.regularization_path(x, y, [0.5, 0.2])
  assert bad.status.tolist() == [2, 2]


@pytest.mark.x64
@pytest.mark.parametrize("name", ["lasso", "mcp"])
def test_a_gram_matrix_alone_gives_stationary_points(name):
  rng = np.random.default_rng(2)
  factor = rng.standard_normal((40, 30))
  gram, linear = jnp.asarray(factor.T @ factor / 40), jnp.asarray(rng.standard_normal(30))
  gram = gram.at[3].set(0).at[:, 3].set(0)  # a dead coordinate
  penalty, hyper = (prox.lasso, 0.2) if name == "lasso" else (prox.mcp, (0.2, 4.0))
  solver = solvers.gram_coordinate_descent(penalty)
  w, info = solvers.run_until(solver, jnp.zeros(30), hyper, gram, linear, tol=1e-12, max_steps=200)
  assert info.status == 0 and w[3] == 0 and 3 < np.sum(w != 0) < 29
  slope = 0.2 if name == "lasso" else np.maximum(0.2 - np.abs(w) / 4, 0)
  g = gram @ w - linear
  violation = np.where(w != 0, g + np.sign(w) * slope, np.maximum(np.abs(g) - 0.2, 0))
  np.testing.assert_allclose(np.delete(violation, 3), 0, atol=1e-11)
  np.testing.assert_allclose(info.value, 0.5 * w @ gram @ w - linear @ w, rtol=1e-12)


@pytest.mark.x64
@pytest.mark.parametrize("name", ["mcp", "scad"])
def test_a_logistic_loss_that_bends_less_than_the_penalty(name):
  """Along a coordinate the objective is not convex: any stationary point, and status 0 for it."""
  x, _, labels, _ = data()
  x = ((x - x.mean(axis=0)) / x.std(axis=0))[:, :70:5]  # too few to separate the labels
  penalty, theta = (prox.mcp, 1.5) if name == "mcp" else (prox.scad, 2.5)
  strengths = np.array([0.15, 0.1, 0.05])
  found = regression.regularization_path(
    x, labels, strengths, loss="logistic", penalty=penalty, penalty_params=(theta,), tol=1e-10
  )
  assert found.status.tolist() == [0, 0, 0]
  for i, lam in enumerate(strengths):
    w, b = np.asarray(found.coefficients[i]), float(found.intercepts[i])
    g = x.T @ (1 / (1 + np.exp(-x @ w - b)) - labels) / N
    size = np.abs(w)
    slope = np.maximum(lam - size / theta, 0)
    if name == "scad":
      slope = np.where(size <= lam, lam, np.maximum(theta * lam - size, 0) / (theta - 1))
    violation = np.where(w != 0, g + np.sign(w) * slope, np.maximum(np.abs(g) - lam, 0))
    np.testing.assert_allclose(violation, 0, atol=1e-8)


@pytest.mark.x64
def test_of_two_nearly_equal_features_one_leaves_at_once():
  rng = np.random.default_rng(1)
  factor = rng.standard_normal((40, 30))
  factor[:, 1] = factor[:, 0] + 1e-3 * rng.standard_normal(40)
  y = 3 * factor[:, 0] + factor[:, 5] + rng.standard_normal(40)
  gram, linear = jnp.asarray(factor.T @ factor / 40), jnp.asarray(factor.T @ y / 40)
  solver = solvers.gram_coordinate_descent(prox.lasso)
  # Epochs alone move along the pair by a millionth of the way each.
  w, info = solvers.run_until(solver, jnp.zeros(30), 0.2, gram, linear, tol=1e-12, max_steps=30)
  assert info.status == 0 and np.sum(w[:2] != 0) == 1
  g = gram @ w - linear
  violation = np.where(w != 0, g + np.sign(w) * 0.2, np.maximum(np.abs(g) - 0.2, 0))
  np.testing.assert_allclose(violation, 0, atol=1e-11)
