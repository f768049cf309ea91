"""Paths with group penalties by coordinate descent: optimality conditions, closed forms, peers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxopt_robust import prox, regression, solvers

# Working sets are solved on a matrix up to 64 features, beyond on columns: 73 is more than 2 N.
N, P, G = 30, 72, 20


@functools.cache
def data():
  """Groups of 1 to 6 in no order; the features 5 and 50 are in none."""
  rng = np.random.default_rng(0)
  x = rng.standard_normal((N, P))
  x[:, 1:] += 0.5 * x[:, :-1]
  ids = rng.permutation(np.concatenate([np.arange(G), rng.integers(0, G, P - G)]))
  ids[[5, 50]] = -1
  ids = np.unique(ids, return_inverse=True)[1] - 1
  w = np.where(np.isin(ids, [2, 3, 11]), rng.standard_normal(P), 0)
  signal = x @ w
  y = signal + 0.3 * rng.standard_normal(N) + 3
  return x, y, (signal > 0).astype(float), ids, int(ids.max()) + 1


def largest(x, slope, ids, groups, weights):
  correlation = x.T @ (slope - slope.mean()) / len(slope)
  return max(np.linalg.norm(correlation[ids == g]) / weights[g] for g in range(groups))


def violation(w, gradient, ids, strengths, slope, positive=False):
  """How far a point is from stationary: ``slope(length, strength)`` is phi' of a group's norm."""
  worst = 0.0
  for g in range(-1, len(strengths)):
    for part in [[j] for j in np.flatnonzero(ids == g)] if g < 0 else [np.flatnonzero(ids == g)]:
      v, d, r = w[part], gradient[part].copy(), np.linalg.norm(w[part])
      if g >= 0 and r > 0:
        d += slope(r, strengths[g]) * v / r
      if positive:
        assert np.all(v >= 0)
        d = np.where(v > 0, d, np.minimum(d, 0))
      rest = np.linalg.norm(d)
      if g >= 0 and r == 0:
        rest = max(rest - slope(0.0, strengths[g]), 0)
      worst = max(worst, rest)
  return worst


CASES = {
  "lasso": (prox.lasso, False, "squared", (), lambda r, s: s),
  "non-negative": (prox.lasso, True, "squared", (), lambda r, s: s),
  "mcp": (prox.mcp, False, "squared", (3.0,), lambda r, s: max(s - r / 3.0, 0)),
  "elastic net": (prox.elastic_net, False, "logistic", (0.5,), lambda r, s: s + s * 0.5 * r),
}


@pytest.mark.x64
@pytest.mark.parametrize("case", CASES)
def test_optimality_conditions_along_a_path(case):
  phi, positive, loss, params, slope = CASES[case]
  x, y, labels, ids, groups = data()
  target = y if loss == "squared" else labels
  weights = np.array(prox.group_weights(ids, num_groups=groups))
  top = largest(x, target, ids, groups, weights)
  strengths = top * np.array([1.01, 0.6, 0.2, 0.02])
  penalty = prox.make_group_penalty(phi, ids, num_groups=groups, non_negative=positive)
  found = regression.regularization_path(
    x, target, strengths, loss=loss, penalty=penalty, penalty_params=params,
    penalty_factor=weights, method="coordinate_descent", tol=1e-10,
    certificate=phi is prox.lasso,
  )  # fmt: skip
  assert not np.any(found.status) and np.all(found.steps < 100)
  for i, strength in enumerate(strengths):
    w = np.asarray(found.coefficients[i])
    z = x @ w + float(found.intercepts[i])
    rows = (z - target) if loss == "squared" else 1 / (1 + np.exp(-z)) - target
    assert abs(np.mean(rows)) < 1e-8 * top  # the intercept
    assert violation(w, x.T @ rows / N, ids, strength * weights, slope, positive) < 1e-7 * top
  active = [len(set(ids[w != 0]) - {-1}) for w in np.asarray(found.coefficients)]
  assert active[0] == 0 and active[1] <= 6 and active[-1] >= 6
  if case == "lasso":  # features without a group have strength 0: the bound is the value itself
    assert np.all(found.gap >= 0)


@pytest.mark.x64
@pytest.mark.peer
def test_equal_to_celer_and_certified():
  celer = pytest.importorskip("celer")
  x, y, _, ids, groups = data()
  x, ids = x[:, ids >= 0], ids[ids >= 0]
  weights = np.array(prox.group_weights(ids, num_groups=groups))
  top = largest(x, y, ids, groups, weights)
  strengths = top * np.array([0.5, 0.1])
  penalty = prox.make_group_penalty(prox.lasso, ids, num_groups=groups)
  path = functools.partial(
    regression.regularization_path, x, y, strengths, penalty=penalty, penalty_factor=weights,
    certificate=True,
  )  # fmt: skip
  found, rough = path(tol=1e-10), path(tol=1e-2)
  assert np.all(np.abs(found.gap) < 1e-9)
  # A bound of what is missing, also far from the solution.
  assert np.all(rough.gap >= rough.objective - found.objective) and np.all(rough.gap < 1)
  lists = [np.flatnonzero(ids == g).tolist() for g in range(groups)]
  for i, strength in enumerate(strengths):
    theirs = celer.GroupLasso(groups=lists, alpha=strength, weights=weights, tol=1e-14).fit(x, y)
    np.testing.assert_allclose(found.coefficients[i], theirs.coef_, atol=1e-6)


@pytest.mark.x64
def test_on_a_matrix_the_closed_form_of_orthonormal_groups_and_fixed_points():
  rng = np.random.default_rng(1)
  ids = [0, 1, 0, 1, -1, 2]
  penalty = prox.make_group_penalty(prox.lasso, ids, num_groups=3)
  solver = solvers.gram_coordinate_descent(penalty)
  linear = np.array([3.0, 0.1, 4.0, 0.2, 7.0, -2.0])
  run = jax.jit(
    lambda gram: solvers.run_until(
      solver, jnp.zeros(6), jnp.array([1.0, 1.0, 0.5]), gram, linear, tol=1e-12, max_steps=50
    )
  )
  w, info = run(jnp.eye(6))
  # (1 - lam / ||c_g||)_+ c_g; the entry in no group is free.
  np.testing.assert_allclose(w, [2.4, 0, 3.2, 0, 7, -1.5], atol=1e-12)
  assert info.status == 0
  root = rng.standard_normal((8, 6))
  gram = root.T @ root / 8
  w, info = run(jnp.asarray(gram))
  assert info.status == 0
  rest = violation(
    np.asarray(w), np.asarray(gram @ w) - linear, np.array(ids), [1.0, 1.0, 0.5], lambda r, s: s
  )
  assert rest < 1e-10
  with pytest.raises(ValueError, match="length of the penalty's group_ids, 6"):
    solver.init(jnp.zeros(5), 1.0, jnp.eye(5), jnp.zeros(5))


@pytest.mark.x64
def test_the_derivative_of_orthonormal_groups_is_a_closed_form():
  ids, n = np.array([0, 1, 0, 1, 2]), 8
  penalty = prox.make_group_penalty(prox.lasso, ids, num_groups=3)
  x = np.sqrt(n) * np.linalg.qr(np.random.default_rng(0).standard_normal((n, 5)))[0]
  c = np.array([3.0, 0.1, -4.0, 0.2, 2.0])
  fit = lambda lam: regression.solve_at(
    x, x @ c, lam, penalty=penalty, fit_intercept=False, tol=1e-13
  ).coefficients  # fmt: skip
  # w_g = (1 - lam / ||c_g||)_+ c_g.
  expected = [-0.6, 0, 0.8, 0, -1]
  for derivative in (jax.jacfwd, jax.jacrev):
    np.testing.assert_allclose(jax.jit(derivative(fit))(0.5), expected, atol=1e-9)


def test_what_coordinate_descent_does_not_know_is_refused_or_left_to_proximal_gradients():
  x, y = jnp.eye(4), jnp.arange(4.0)

  @jax.jit
  def path(ids):  # numbers that are not known while tracing
    penalty = prox.make_group_penalty(prox.lasso, ids, num_groups=2)
    with pytest.raises(ValueError, match="known group numbers"):
      regression.regularization_path(
        x, y, jnp.ones(1), penalty=penalty, method="coordinate_descent"
      )
    return regression.regularization_path(x, y, jnp.ones(1), penalty=penalty).status

  assert path(jnp.array([0, 0, 1, 1])).tolist() == [0]
  overlapping = prox.make_group_penalty(prox.l0, [0, 0, 1, 1], num_groups=2)
  with pytest.raises(ValueError, match="make_group_penalty"):
    regression.regularization_path(
      x, y, jnp.ones(1), penalty=overlapping, method="coordinate_descent"
    )


@pytest.mark.parametrize("unit", [1e-3, 1.0, 1e4])
def test_the_largest_strength_leaves_free_features_that_resemble_the_others(unit):
  rng = np.random.default_rng(1)
  ids, groups = np.array([0, 0, 1, 1, 1, -1, 2, -1, 3]), 4
  x = rng.standard_normal((60, 9)) + 3 * rng.standard_normal((60, 1))
  y = x[:, :4] @ [2, -1, 1, 0.5] + 0.5 * rng.standard_normal(60) + 3
  x[:, 5] *= unit
  x, y = np.float32(x), np.float32(y)
  # What is left of the targets after least squares on the free features and the intercept.
  free = np.column_stack([np.ones(60), x[:, ids < 0]]).astype(float)
  rest = y - free @ np.linalg.lstsq(free, y.astype(float), rcond=None)[0]
  score = x.astype(float).T @ rest / 60
  expected = max(np.linalg.norm(score[ids == g]) for g in range(groups))
  penalty = prox.make_group_penalty(prox.lasso, ids, num_groups=groups)
  np.testing.assert_allclose(regression.max_strength(x, y, penalty=penalty), expected, rtol=1e-4)
  expected = np.abs(score[ids >= 0]).max()
  found = regression.max_strength(x, y, penalty_factor=(ids >= 0).astype(float))
  np.testing.assert_allclose(found, expected, rtol=1e-4)


@pytest.mark.parametrize("loss", ["squared", "poisson", "cox"])
def test_the_largest_strength_of_what_is_not_a_number_is_not_one(loss):
  x, y = np.random.default_rng(0).standard_normal((2, 12, 3)).astype(np.float32)
  y = np.abs(y[:, 0])
  target = lambda y: (y, y > 0.5) if loss == "cox" else y
  find = lambda x, y: float(jax.jit(regression.max_strength, static_argnames="loss")(
    x, target(y), loss=loss
  ))  # fmt: skip
  assert find(x, y) > 0 and find(0 * x, y) == 0
  bad = x.copy()
  bad[4, 1] = np.nan
  assert np.isnan(find(bad, y))
  if loss != "cox":  # times are checked
    bad = y.copy()
    bad[3] = np.nan
    assert np.isnan(find(x, bad))


@pytest.mark.parametrize("ids", [None, np.zeros(40, int), np.arange(40) // 10, np.arange(40) - 39])
def test_a_singular_matrix_without_a_penalty_has_a_minimiser(ids):
  penalty = prox.lasso
  if ids is not None:
    ids = np.maximum(ids, -1)
    penalty = prox.make_group_penalty(prox.lasso, ids, num_groups=int(ids.max()) + 1)
  solver = solvers.gram_coordinate_descent(penalty)
  run = jax.jit(
    lambda gram, linear: solvers.run_until(
      solver, jnp.zeros(40), 0.0, gram, linear, tol=1e-4, max_steps=100
    )
  )
  for seed in range(6):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((20, 40))
    x[:, 1] = x[:, 0]
    gram, linear = np.float32(x.T @ x / 20), np.float32(x.T @ rng.standard_normal(20) / 20)
    w, info = run(gram, linear)
    # 40 coefficients fit 20 rows: the gradient is 0 at a minimiser, of no great length.
    assert info.status == 0
    w = np.asarray(w, float)
    assert np.linalg.norm(gram @ w - linear) < 1e-3 * np.linalg.norm(linear)
    assert np.linalg.norm(w) < 10


def test_the_linear_part_is_taken_in_the_type_of_the_coefficients():
  gram, linear = jnp.array([[2.0, 1.0], [1.0, 2.0]]), jnp.array([3.0, 0.5])
  solver = solvers.gram_coordinate_descent(prox.lasso)
  w, info = solvers.run_until(
    solver, jnp.zeros(2, jnp.bfloat16), 1.0, gram, linear, tol=1e-2, max_steps=9
  )
  assert w.dtype == jnp.bfloat16 and info.status == 0
  np.testing.assert_array_equal(w.astype(float), [1.0, 0.0])
