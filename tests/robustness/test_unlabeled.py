"""Robust self-training: limits, invariances, accuracy on Gaussian data against theory."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from jaxopt_robust import problems, robustness
from jaxopt_robust.robustness import HyperPlane, robust_zero_one_loss, rss_linear_fit, rss_objective

D = 200


def side(plane, x):
  return robustness.hyperplane_distance(plane.weights, x, intercept=plane.intercept)


def ramp(gamma):
  return lambda plane, x, y: robust_zero_one_loss(y * side(plane, x), gamma=gamma)


def predict(plane, x):
  return jnp.where(side(plane, x) >= 0, 1.0, -1.0).astype(x.dtype)


@pytest.fixture
def data(rng):
  x, fresh = rng.normal(size=(6, 4)), rng.normal(size=(9, 4))
  y = np.where(rng.random(6) < 0.5, -1.0, 1.0)
  plane = HyperPlane(jnp.asarray(rng.normal(size=4)), jnp.asarray(0.3))
  return plane, (jnp.asarray(x), jnp.asarray(y)), jnp.asarray(fresh)


@jax.jit
def objective(plane, labeled, fresh, **options):
  options = {"weight": 2.0, **options}
  return rss_objective(
    ramp(0.5), plane, labeled, fresh, predict=predict, unlabeled_fun=ramp(0.3), **options
  )


@pytest.mark.x64
def test_the_objective_is_its_formula(data):
  plane, (x, y), fresh = data
  s = (np.asarray(x) @ plane.weights + plane.intercept) / np.linalg.norm(plane.weights)
  t = (np.asarray(fresh) @ plane.weights + plane.intercept) / np.linalg.norm(plane.weights)
  labeled = np.clip(1 - 0.5 * y * s, 0, 1).mean()
  unlabeled = np.maximum(0, 1 - 0.3 * np.abs(t)).mean()
  value, info = objective(plane, (x, y), fresh)
  np.testing.assert_allclose(value, labeled + 2 * unlabeled, rtol=1e-12)
  np.testing.assert_allclose(info[:2], (labeled, unlabeled), rtol=1e-12)
  np.testing.assert_allclose(info.agreement, np.mean(np.sign(s) == np.asarray(y)), rtol=1e-12)


@pytest.mark.x64
def test_without_weight_it_is_the_labeled_loss(data):
  """Plain (ERM) or robust (DRO), with its derivative."""
  plane, (x, y), fresh = data
  for loss in (ramp(0.5), lambda p, x, y: jax.nn.softplus(-y * side(p, x))):
    alone = lambda plane, loss=loss: jnp.mean(loss(plane, x, y))
    both = lambda plane, loss=loss: rss_objective(
      loss, plane, (x, y), fresh, predict=predict, weight=0.0
    )[0]
    jax.tree.map(
      functools.partial(np.testing.assert_allclose, rtol=1e-13),
      jax.jit(jax.value_and_grad(both))(plane), jax.jit(jax.value_and_grad(alone))(plane),
    )  # fmt: skip


@pytest.mark.x64
def test_the_unlabeled_term_knows_no_side_and_no_length(data):
  plane, labeled, fresh = data
  term = lambda plane: objective(plane, labeled, fresh)[1].unlabeled
  other = jax.tree.map(lambda v: -7.0 * v, plane)
  np.testing.assert_allclose(term(other), term(plane), rtol=1e-13)
  longer = objective(jax.tree.map(lambda v: 7.0 * v, plane), labeled, fresh)[0]
  np.testing.assert_allclose(longer, objective(plane, labeled, fresh)[0], rtol=1e-13)
  # so that the whole derivative has no part along the parameters
  slope = jax.jit(jax.grad(lambda plane: objective(plane, labeled, fresh)[0]))(plane)
  along = slope.weights @ plane.weights + slope.intercept * plane.intercept
  np.testing.assert_allclose(along, 0, atol=1e-13)


def test_predicted_labels_are_held_fixed_and_ties_go_up():
  """A loss of a guessed label: its derivative is the one at that label, also on the plane."""
  fun = lambda w, x, y: y * (x @ w)
  labeled = jnp.zeros((0, 1)), jnp.zeros(0)
  sign = lambda w, x: jnp.where(x @ w >= 0, 1.0, -1.0)
  for w, slope in ((2.0, 1.0), (0.0, 1.0), (-2.0, -1.0)):
    value = lambda w: rss_objective(fun, w, labeled, jnp.ones((1, 1)), predict=sign)[0]
    np.testing.assert_allclose(jax.grad(value)(jnp.array([w])), [slope])


def test_masked_rows_may_hold_anything(data):
  plane, (x, y), fresh = jax.tree.map(lambda v: v.astype(jnp.float32), data)
  keep, keep_fresh = jnp.arange(6) != 2, jnp.arange(9) > 3
  run = jax.jit(jax.value_and_grad(
    lambda plane, *data, **o: objective(plane, *data, **o)[0]
  ))  # fmt: skip
  spoiled = (x.at[2].set(jnp.nan), y), fresh.at[:4].set(jnp.inf)
  found = run(plane, *spoiled, where=keep, unlabeled_where=keep_fresh)
  kept = np.asarray(keep)
  expected = run(plane, (x[kept], y[kept]), fresh[4:])
  jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), found, expected)
  nothing = objective(plane, (x, y), fresh, where=jnp.zeros(6, bool))[1]
  assert float(nothing.labeled) == 0 == float(nothing.agreement)


@jax.jit
def cell(n, keys):
  """Accuracy and cosine with the truth after RSS with 10 labels; n rows repeated fill the pool."""

  def one(key):
    problem = problems.make_shifted_gaussians(
      key, num_labeled=10, num_unlabeled=10_000, dimension=D
    )
    x, y, pool = problem.data
    fit = rss_linear_fit(
      x, y, pool[jnp.arange(10_000) % n], batch=250, num_steps=120, key=jax.random.fold_in(key, 1)
    )
    accuracy = problems.gaussian_accuracy(fit.plane.weights, problem.truth.mean)
    return accuracy, jnp.sum(fit.plane.weights * problem.truth.mean), fit.status

  return jax.lax.map(one, keys)


def test_accuracy_grows_with_the_unlabeled_samples_and_finds_the_direction():
  keys = jax.random.split(jax.random.key(7), 4)
  found = [cell(n, keys) for n in (10, 100, 1000, 10_000)]
  accuracy = [float(values[0].mean()) for values in found]
  assert np.all(np.diff(accuracy) > -0.02), accuracy
  assert accuracy[3] > accuracy[0] + 0.15
  ceiling = np.sqrt((1 - D / 10_000) / (1 + D / 10_000))  # of the leading eigenvector
  assert 0.9 <= float(found[3][1].mean()) <= ceiling
  assert all(np.all(values[2] == 1) for values in found)


@pytest.mark.parametrize("m", [10, 40])
def test_mean_of_the_labeled_samples_has_the_accuracy_of_theory(m):
  def one(key):
    problem = problems.make_shifted_gaussians(key, num_labeled=m, num_unlabeled=1, dimension=D)
    x, y, _ = problem.data
    return problems.gaussian_accuracy(jnp.mean(y[:, None] * x, axis=0), problem.truth.mean)

  accuracy = jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(3), 200))
  expected = scipy.stats.norm.cdf(1 / np.sqrt(1 + D / m))
  np.testing.assert_allclose(np.mean(accuracy), expected, atol=0.01)


def test_fit_starts_at_the_class_means_keeps_unit_length_and_finds_the_intercept(key):
  signs = jnp.tile(jnp.array([1.0, -1.0]), 40)
  noise = jax.random.normal(key, (80, 3))
  first = jnp.array([1.0, 0.0, 0.0])
  x = jnp.outer(4.0 + 2.0 * signs, first) + 0.5 * noise
  fit = functools.partial(rss_linear_fit, fit_intercept=True, num_steps=50)
  found = fit(x[:6], signs[:6], x[6:])
  np.testing.assert_allclose(jnp.linalg.norm(found.plane.weights), 1, rtol=1e-5)
  assert abs(-float(found.plane.intercept / found.plane.weights[0]) - 4) < 0.5
  np.testing.assert_array_equal(jnp.sign(side(found.plane, x)), signs)
  assert found.history.labeled.shape == (50,) and float(found.history.agreement[-1]) == 1
  # bools are labels; units: examples times c, gammas over c
  flags = fit(x[:6], signs[:6] > 0, x[6:])
  np.testing.assert_allclose(flags.plane.weights, found.plane.weights, atol=1e-5)
  scaled = rss_linear_fit(
    1e3 * x[:6], signs[:6], 1e3 * x[6:], gamma=0.5e-3, unlabeled_gamma=0.3e-3, num_steps=20
  )
  plain = rss_linear_fit(x[:6], signs[:6], x[6:], num_steps=20)
  np.testing.assert_allclose(scaled.plane.weights, plain.plane.weights, atol=1e-4)
  assert int(fit(x[:6], signs[:6], x[6:] * jnp.nan).status) == 2


@pytest.mark.parametrize("fit_intercept", [False, True])
def test_without_training_it_is_the_plane_of_the_class_means(fit_intercept):
  """Means (2, 0) and (-1, 2): half-way between them; and through 0, by the mean of y x."""
  x, y = jnp.array([[1.0, 0.0], [3.0, 0.0], [-1.0, 2.0]]), jnp.array([1.0, 1.0, -1.0])
  fit = rss_linear_fit(
    x,
    y,
    x[:2],
    weight=0.0,
    gamma=0.05,
    learning_rate=1e-7,
    num_steps=5,
    fit_intercept=fit_intercept,
  )
  w = np.array([3.0, -2.0]) if fit_intercept else np.array([5.0, -2.0])
  b = 0.5 if fit_intercept else 0.0
  found = np.append(fit.plane.weights, fit.plane.intercept)
  np.testing.assert_allclose(found, np.append(w, b) / np.linalg.norm(w), atol=1e-6)


def test_of_two_sides_the_one_that_the_labels_support_is_returned():
  """A start on the wrong side of one label of three, and much unlabelled weight that keeps it."""
  x, y = jnp.array([[0.1, 0.0], [0.1, 0.0], [-9.0, 1.0]]), jnp.array([1.0, 1.0, 1.0])
  fresh = jnp.array([[3.0, 0.0], [-3.0, 0.0]])
  fit = rss_linear_fit(x, y, fresh, weight=100.0, num_steps=5, gamma=8.0)
  assert float(fit.history.agreement[-1]) < 0.5 < float(fit.plane.weights[0])
  np.testing.assert_allclose(jnp.linalg.norm(fit.plane.weights), 1, rtol=1e-6)


def test_distance_is_signed_and_safe_at_zero():
  w, x = jnp.array([3.0, -4.0]), jnp.array([[1.0, 0.0], [0.0, 1.0]])
  np.testing.assert_allclose(robustness.hyperplane_distance(w, x, intercept=5.0), [1.6, 0.2],
                             rtol=1e-6)  # fmt: skip
  np.testing.assert_allclose(robustness.hyperplane_distance(w, x[0]), 0.6, rtol=1e-6)
  images = jnp.broadcast_to(x, (5, 2, 2))
  np.testing.assert_allclose(robustness.hyperplane_distance(w, images)[3], [0.6, -0.8], rtol=1e-6)
  zero = jax.jacobian(lambda w: robustness.hyperplane_distance(w, x))(jnp.zeros(2))
  np.testing.assert_array_equal(zero, 0)
  huge = robustness.hyperplane_distance(1e30 * w, 1e30 * x)
  np.testing.assert_allclose(huge, [0.6e30, -0.8e30], rtol=1e-6)


def test_masked_labels_may_be_missing():
  x, y = jnp.array([[1.0, 0.0], [0.0, 2.0], [3.0, 3.0]]), jnp.array([1.0, -1.0, jnp.nan])
  w, keep = jnp.array([1.0, -2.0]), jnp.array([True, True, False])
  fun = lambda w, x, y: (x @ w - y) ** 2
  predict = lambda w, x: jnp.where(x @ w >= 0, 1.0, -1.0)
  value = lambda w: rss_objective(fun, w, (x, y), x, predict=predict, where=keep, weight=0.0)[0]
  # (1 - 1)^2 and (-4 + 1)^2; its gradient 2 (-3) (0, 2) / 2.
  np.testing.assert_allclose(value(w), 4.5)
  np.testing.assert_allclose(jax.grad(value)(w), [0.0, -6.0])


@pytest.mark.parametrize("fit_intercept", [False, True])
def test_a_start_that_cancels_leads_on(fit_intercept):
  x = jnp.array([[2.0, 0.0], [-2.0, 0.0], [2.0, 0.0], [-2.0, 0.0]])
  labels = [1, 1, -1, -1]  # means of y x and differences of class means are 0
  fresh = jnp.array([[1.0, 3.0], [1.5, 3.0], [-1.0, -3.0], [-1.5, -3.0]])
  fit = rss_linear_fit(x, labels, fresh, num_steps=50, fit_intercept=fit_intercept)
  np.testing.assert_allclose(jnp.linalg.norm(fit.plane.weights), 1, rtol=1e-6)
  assert float(fit.history.unlabeled[-1]) < 0.3 < float(fit.history.unlabeled[0])
  nothing = rss_linear_fit(0 * x, labels, 0 * fresh, num_steps=5, fit_intercept=fit_intercept)
  np.testing.assert_array_equal(nothing.plane.weights, 0)
