"""Regularization paths: equal to peers, optimal by hand-written conditions, safe on bad data."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxopt_robust as jr
from jaxopt_robust import prox, regression

N, P = 40, 12
STRENGTHS = np.array([0.02, 0.5, 0.1])  # not in order
path = functools.partial(regression.regularization_path, tol=1e-11, max_steps=20_000)


@functools.cache
def data():
  rng = np.random.default_rng(0)
  x = rng.standard_normal((N, P)) + 1
  x[:, 1] += 0.5 * x[:, 0]
  signal = x[:, :3] @ np.array([2.0, -1.5, 1.0]) / 2
  noise = rng.standard_normal(N)
  weights = rng.integers(0, 3, N).astype(float)
  return {
    "x": x,
    "squared": signal + 3 + 0.3 * noise,
    "logistic": (signal - signal.mean() + noise > 0).astype(float),
    "poisson": rng.poisson(np.exp(signal / 2)).astype(float),
    "weights": weights,
  }


def gradient(x, y, w, weights=None):
  """Of half the mean squared error at the best intercept."""
  s = np.ones(len(y)) if weights is None else weights
  s = s / s.sum()
  xc, yc = x - s @ x, y - s @ y
  return xc.T @ (s * (xc @ w - yc))


@pytest.mark.x64
@pytest.mark.peer
def test_lasso_equals_scikit_learn_with_weights_and_certificates():
  linear_model = pytest.importorskip("sklearn.linear_model")
  d = data()
  for weights in (None, d["weights"]):
    s = np.ones(N) if weights is None else weights
    found = path(d["x"], d["squared"], STRENGTHS, sample_weight=s, certificate=True)
    assert found.status.tolist() == [0, 0, 0]
    for i, lam in enumerate(STRENGTHS):
      model = linear_model.Lasso(lam, tol=1e-14, max_iter=100_000)
      model.fit(d["x"], d["squared"], sample_weight=weights)
      np.testing.assert_allclose(found.coefficients[i], model.coef_, atol=1e-8)
      np.testing.assert_allclose(found.intercepts[i], model.intercept_, atol=1e-8)
      np.testing.assert_array_equal(found.coefficients[i] != 0, model.coef_ != 0)
      residual = d["squared"] - model.predict(d["x"])
      value = s @ residual**2 / (2 * s.sum()) + lam * np.abs(model.coef_).sum()
      np.testing.assert_allclose(found.objective[i], value, rtol=1e-12)
    assert np.all(np.abs(found.gap) < 1e-8 * found.objective)
  # Counts are repeated rows.
  rows = np.repeat(np.arange(N), d["weights"].astype(int))
  model = linear_model.Lasso(0.1, tol=1e-14, max_iter=100_000).fit(d["x"][rows], d["squared"][rows])
  np.testing.assert_allclose(found.coefficients[2], model.coef_, atol=1e-8)
  rough = path(d["x"], d["squared"], STRENGTHS, sample_weight=s, certificate=True, max_steps=1)
  excess = rough.objective - found.objective
  assert np.all(excess <= rough.gap) and np.all(rough.gap[rough.status == 1] > 0)
  rough = path(
    d["x"], d["squared"], STRENGTHS, sample_weight=s, certificate=True, max_steps=3,
    method="proximal_gradient",
  )  # fmt: skip
  excess = rough.objective - found.objective
  assert rough.status.tolist() == [1, 1, 1] and np.all(excess <= rough.gap) and excess.max() > 1e-4


@pytest.mark.x64
@pytest.mark.peer
def test_standardized_elastic_net_equals_scikit_learn():
  linear_model = pytest.importorskip("sklearn.linear_model")
  d = data()
  x = d["x"] * np.geomspace(0.01, 100, P)
  ratio = 0.6
  found = path(
    x, d["squared"], ratio * STRENGTHS, penalty=prox.elastic_net, certificate=True,
    penalty_params=((1 - ratio) / ratio,), standardize=True,
  )  # fmt: skip
  spread = x.std(axis=0)
  for i, lam in enumerate(STRENGTHS):
    model = linear_model.ElasticNet(lam, l1_ratio=ratio, tol=1e-14, max_iter=100_000)
    model.fit((x - x.mean(axis=0)) / spread, d["squared"])
    np.testing.assert_allclose(found.coefficients[i] * spread, model.coef_, atol=1e-8)
    prediction = x @ found.coefficients[i] + found.intercepts[i]
    np.testing.assert_allclose(prediction, model.predict((x - x.mean(axis=0)) / spread), atol=1e-8)
  assert np.all(np.abs(found.gap) < 1e-8)


@pytest.mark.x64
@pytest.mark.peer
def test_logistic_lasso_equals_scikit_learn():
  linear_model = pytest.importorskip("sklearn.linear_model")
  d = data()
  lams = np.array([0.1, 0.02])
  found = path(d["x"], d["logistic"], lams, loss="logistic", certificate=True)
  assert np.all(found.gap < 1e-8) and found.status.tolist() == [0, 0]
  for i, lam in enumerate(lams):
    model = linear_model.LogisticRegression(
      C=1 / (lam * N), l1_ratio=1.0, solver="saga", tol=1e-12, max_iter=100_000
    ).fit(d["x"], d["logistic"])
    np.testing.assert_allclose(found.coefficients[i], model.coef_[0], atol=2e-7)
    np.testing.assert_allclose(found.intercepts[i], model.intercept_[0], atol=2e-7)
    np.testing.assert_array_equal(found.coefficients[i] != 0, model.coef_[0] != 0)


@pytest.mark.x64
@pytest.mark.parametrize(
  ("loss", "penalty", "intercept"),
  [
    ("huber", prox.elastic_net, True),
    ("huber", prox.lasso, False),
    ("logistic", prox.elastic_net, True),
    ("poisson", prox.lasso, True),
    ("poisson", prox.non_negative_lasso, False),
  ],
)
def test_gaps_of_other_losses_bound_the_excess_and_vanish(loss, penalty, intercept):
  d = data()
  targets = {"huber": d["squared"] + 20 * (np.arange(N) < 4), **d}
  run = functools.partial(
    path, d["x"], targets[loss], [0.3, 0.05], loss=loss, penalty=penalty, certificate=True,
    penalty_params=(0.5,) if penalty == prox.elastic_net else (), fit_intercept=intercept,
    sample_weight=d["weights"],
  )  # fmt: skip
  best = run()
  assert best.status.tolist() == [0, 0]
  np.testing.assert_allclose(best.gap, 0, atol=1e-8)
  rough = run(max_steps=1)
  excess = rough.objective - best.objective
  assert np.all(rough.gap >= excess - 1e-12) and np.max(excess) > 1e-6
  assert np.all(rough.gap <= rough.objective)


@pytest.mark.x64
@pytest.mark.peer
def test_huber_poisson_and_quantile_equal_scikit_learn():
  linear_model = pytest.importorskip("sklearn.linear_model")
  d = data()
  x, y = d["x"], d["squared"].copy()
  y[:4] += 20  # outliers
  # It finds the scale too; at that scale the problem is ours.
  model = linear_model.HuberRegressor(epsilon=1.5, alpha=0.5, tol=1e-10, max_iter=10_000)
  model.fit(x, y)
  found = path(
    x, y, [0.5 * model.scale_ / N], loss="huber", loss_hyper=1.5 * model.scale_,
    penalty=prox.ridge,
  )  # fmt: skip
  # Its solver stops where the objective changes by less than 2e-9 of itself.
  np.testing.assert_allclose(found.coefficients[0], model.coef_, atol=1e-4)
  np.testing.assert_allclose(found.intercepts[0], model.intercept_, atol=1e-3)
  w, delta = np.asarray(found.coefficients[0]), 1.5 * model.scale_
  slopes = np.clip(x @ w + found.intercepts[0] - y, -delta, delta) / N
  np.testing.assert_allclose(x.T @ slopes + 0.5 * model.scale_ / N * w, 0, atol=1e-9)
  np.testing.assert_allclose(slopes.sum(), 0, atol=1e-9)

  model = linear_model.PoissonRegressor(
    alpha=0.05, tol=1e-10, max_iter=10_000, solver="newton-cholesky"
  ).fit(x, d["poisson"])
  found = path(x, d["poisson"], [0.05], loss="poisson", penalty=prox.ridge)
  np.testing.assert_allclose(found.coefficients[0], model.coef_, atol=1e-8)
  np.testing.assert_allclose(found.intercepts[0], model.intercept_, atol=1e-8)

  none = path(x, np.zeros(N), [0.05], loss="poisson", penalty=prox.ridge)
  assert none.status[0] == 0 and np.exp(none.intercepts[0]) < 1e-300
  np.testing.assert_allclose(none.coefficients, 0, atol=1e-12)

  lams = np.array([0.1, 0.02])
  found = path(x, y, lams, loss="quantile", loss_hyper=0.3, max_steps=100_000)
  assert found.status.tolist() == [0, 0]
  for i, lam in enumerate(lams):
    model = linear_model.QuantileRegressor(quantile=0.3, alpha=lam).fit(x, y)
    np.testing.assert_allclose(found.coefficients[i], model.coef_, atol=1e-6)
    np.testing.assert_allclose(found.intercepts[i], model.intercept_, atol=1e-6)
    np.testing.assert_array_equal(found.coefficients[i] != 0, model.coef_ != 0)


def _folded(g, w, lam, slope):
  """Violation of stationarity for a penalty of slope ``slope(|w|)`` away from 0."""
  return np.where(w != 0, g + np.sign(w) * slope(np.abs(w)), np.maximum(np.abs(g) - lam, 0))


def mcp_violation(g, w, lam):
  return _folded(g, w, lam, lambda a: np.maximum(lam - a / 3.0, 0))


def scad_violation(g, w, lam):
  middle = lambda a: np.maximum(3.7 * lam - a, 0) / 2.7
  return _folded(g, w, lam, lambda a: np.where(a <= lam, lam, middle(a)))


GROUPS = np.repeat(np.arange(4), 3)


def group_violation(g, w, lam):
  sizes = np.sqrt(3.0) * lam
  norms = np.linalg.norm(w.reshape(4, 3), axis=1, keepdims=True)
  on = g.reshape(4, 3) + sizes * w.reshape(4, 3) / np.where(norms > 0, norms, 1)
  off = np.maximum(np.linalg.norm(g.reshape(4, 3), axis=1, keepdims=True) - sizes, 0)
  return np.where(norms > 0, on, off)


SLOPE = np.linspace(1.0, 0.2, P)


def owl_violation(g, w, lam):
  """-g lies in the dual ball, where it is aligned with w."""
  ball = np.cumsum(-np.sort(-np.abs(g))) - lam * np.cumsum(SLOPE)
  aligned = g @ w + lam * SLOPE @ -np.sort(-np.abs(w))
  return np.append(np.maximum(ball, 0), aligned)


def non_negative_group_violation(g, w, lam):
  assert np.all(w >= 0)
  sizes, norms = np.sqrt(3.0) * lam, np.linalg.norm(w.reshape(4, 3), axis=1, keepdims=True)
  g, w = g.reshape(4, 3), w.reshape(4, 3)
  slope = g + sizes * w / np.where(norms > 0, norms, 1)
  on = np.where(w > 0, slope, np.minimum(slope, 0))
  off = np.linalg.norm(np.maximum(-g, 0), axis=1, keepdims=True) - sizes
  return np.where(norms > 0, on, np.maximum(off, 0))


def non_negative_violation(g, w, lam):
  assert np.all(w >= 0)
  return np.where(w > 0, g + lam, np.minimum(g + lam, 0))


CASES = {
  "mcp": (prox.mcp, {"penalty_params": (3.0,)}, mcp_violation),
  "scad": (prox.scad, {"penalty_params": (3.7,)}, scad_violation),
  "group": (
    prox.make_group_penalty(prox.lasso, GROUPS, num_groups=4),
    {"penalty_factor": np.full(4, np.sqrt(3.0))},
    group_violation,
  ),
  "non_negative_group": (
    prox.make_group_penalty(prox.lasso, GROUPS, num_groups=4, non_negative=True),
    {"penalty_factor": np.full(4, np.sqrt(3.0))},
    non_negative_group_violation,
  ),
  "owl": (prox.owl, {"penalty_factor": SLOPE}, owl_violation),
  "non_negative": (prox.non_negative_lasso, {}, non_negative_violation),
}


@pytest.mark.x64
@pytest.mark.parametrize("name", CASES)
def test_penalties_satisfy_their_optimality_conditions(name):
  penalty, options, violation = CASES[name]
  d = data()
  found = path(d["x"], d["squared"], STRENGTHS, penalty=penalty, **options)
  assert found.status.tolist() == [0, 0, 0]
  for i, lam in enumerate(STRENGTHS):
    w = np.asarray(found.coefficients[i])
    g = gradient(d["x"], d["squared"], w)
    np.testing.assert_allclose(violation(g, w, lam), 0, atol=1e-8)
    assert np.any(w != 0) and (i == 0 or np.sum(w == 0) > 0)


@pytest.mark.x64
@pytest.mark.peer
@pytest.mark.slow  # its functions are compiled at the first call
def test_mcp_equals_skglm_from_the_same_start():
  skglm = pytest.importorskip("skglm")
  d = data()
  x, y = d["x"] - d["x"].mean(axis=0), d["squared"] - d["squared"].mean()
  x = x / np.sqrt(np.mean(x**2, axis=0))
  model = skglm.MCPRegression(alpha=0.5, gamma=3.0, fit_intercept=False, tol=1e-12).fit(x, y)
  found = path(x, y, STRENGTHS, penalty=prox.mcp, penalty_params=(3.0,))
  np.testing.assert_allclose(found.coefficients[1], model.coef_, atol=1e-8)


@pytest.mark.x64
def test_sparse_designs_factors_and_no_intercept():
  from jax.experimental import sparse

  d = data()
  dense = np.where(np.abs(d["x"]) > 0.8, d["x"], 0)
  x = sparse.BCOO.fromdense(jnp.asarray(dense))
  factor = np.ones(P)
  factor[0], factor[2], factor[3] = 0, np.inf, 2
  found = path(x, d["squared"], STRENGTHS, penalty_factor=factor, standardize=True)
  assert found.status.tolist() == [0, 0, 0]
  spread = dense.std(axis=0)
  for i, lam in enumerate(STRENGTHS):
    w = np.asarray(found.coefficients[i]) * spread
    g = gradient(dense / spread, d["squared"], w)
    on = np.where(w != 0, g + lam * np.minimum(factor, 9) * np.sign(w), 0)
    np.testing.assert_allclose(on, 0, atol=1e-9)
    assert np.all(np.abs(g[w == 0]) <= lam * factor[w == 0] + 1e-9) and w[2] == 0 and w[0] != 0
  plain = path(
    dense, d["squared"], [0.1], penalty_factor=factor, fit_intercept=False, certificate=True
  )
  w = np.asarray(plain.coefficients[0])
  assert plain.intercepts[0] == 0 and plain.gap[0] < 1e-8 and w[2] == 0 and w[0] != 0
  g = dense.T @ (dense @ w - d["squared"]) / N
  np.testing.assert_allclose((g + 0.1 * np.where(factor < 9, factor, 0) * np.sign(w))[w != 0], 0,
                             atol=1e-9)  # fmt: skip


@pytest.mark.x64
def test_bad_data_has_defined_outcomes():
  d = data()
  y = d["squared"]
  run = functools.partial(path, strengths=STRENGTHS, sample_weight=np.ones(N), certificate=True)
  x = d["x"].copy()
  x[:, 4], x[:, 5], x[:, 7] = 1e3, 0, x[:, 0]  # constant, zero, a copy
  found = run(x, y)
  assert found.status.tolist() == [0, 0, 0]
  w = np.asarray(found.coefficients)
  assert np.all(w[:, [4, 5]] == 0)
  # Of equal columns any split is optimal: alone, the one has what both have together.
  single = np.where(np.arange(P) == 7, 0, x)
  alone = run(single, y)
  np.testing.assert_allclose(w[:, 7] + w[:, 0], np.asarray(alone.coefficients)[:, 0], atol=1e-9)
  even = np.asarray(run(x, y, method="proximal_gradient").coefficients)
  np.testing.assert_allclose(even[:, 7], even[:, 0], atol=1e-12)
  zero = run(x, np.zeros(N))
  assert zero.status.tolist() == [0, 0, 0]
  assert np.all(np.asarray(zero.coefficients) == 0) and np.all(np.asarray(zero.intercepts) == 0)
  flat = run(x, np.full(N, 7.3))
  assert flat.status.tolist() == [0, 0, 0] and np.all(np.asarray(flat.coefficients) == 0)
  np.testing.assert_allclose(flat.intercepts, 7.3, rtol=1e-14)
  far = run(x, y + 1e6)  # a large mean does not loosen the tolerance
  np.testing.assert_allclose(far.coefficients, w, atol=1e-8)
  empty = run(x, y, sample_weight=np.zeros(N))
  assert np.all(np.asarray(empty.coefficients) == 0) and empty.status.tolist() == [0, 0, 0]
  for bad in (np.where(np.arange(N) == 2, np.nan, y), np.where(np.arange(N) == 2, np.inf, y)):
    assert run(x, bad).status.tolist() == [2, 2, 2]
  x[2, 3] = np.nan
  assert run(x, y).status.tolist() == [2, 2, 2]
  # Units do not matter: coefficients stay where x, y and root lam grow alike.
  scale = 1e9
  large = path(
    scale * d["x"], scale * y, scale**2 * STRENGTHS, sample_weight=np.ones(N), certificate=True
  )
  np.testing.assert_allclose(large.coefficients, run(d["x"], y).coefficients, atol=1e-9)
  assert large.status.tolist() == [0, 0, 0]


@pytest.mark.x64
def test_separable_and_one_sided_labels():
  d = data()
  labels = (d["x"][:, 0] > 1).astype(float)
  lams = np.array([0.1, 0.02])
  run = functools.partial(path, d["x"], loss="logistic", certificate=True)
  separable = run(labels, lams)
  assert separable.status.tolist() == [0, 0] and np.all(separable.gap < 1e-8)
  free = run(labels, np.zeros(2), tol=1e-3)
  accuracy = (d["x"] @ free.coefficients[1] + free.intercepts[1] > 0) == labels
  assert free.status.tolist() == [0, 0] and np.all(accuracy)
  assert run(labels, np.zeros(1), max_steps=4).status.tolist() == [1]
  none = run(np.zeros(N), lams)
  assert np.all(np.asarray(none.coefficients) == 0) and none.status.tolist() == [0, 0]
  np.testing.assert_allclose(none.intercepts, np.log(np.finfo(float).tiny), rtol=1e-12)
  every = run(np.ones(N), lams)
  assert np.all(np.asarray(every.coefficients) == 0) and every.status.tolist() == [0, 0]
  np.testing.assert_allclose(every.intercepts, -none.intercepts, rtol=1e-12)


@pytest.mark.x64
def test_more_features_than_rows_interpolate_without_strength():
  rng = np.random.default_rng(1)
  x, y = rng.standard_normal((10, 40)), rng.standard_normal(10)
  found = path(x, y, [1e-3, 0.0])
  assert found.status.tolist() == [0, 0]
  np.testing.assert_allclose(x @ found.coefficients[1] + found.intercepts[1], y, atol=1e-8)
  w = np.asarray(found.coefficients[0])
  g = gradient(x, y, w)
  np.testing.assert_allclose((g + 1e-3 * np.sign(w))[w != 0], 0, atol=1e-9)
  assert np.all(np.abs(g) <= 1e-3 + 1e-9) and np.sum(w != 0) <= 10


def test_one_compile_serves_data_strengths_and_weights_and_maps_over_targets():
  d = data()
  x = jnp.asarray(d["x"], jnp.float32)
  y = jnp.asarray(d["squared"], jnp.float32)
  counted = jr.debug.count_traces(
    lambda y, lams, s: regression.regularization_path(x, y, lams, sample_weight=s).coefficients
  )
  many = jax.jit(jax.vmap(counted, in_axes=(0, None, 0)))
  targets, weights = jnp.stack([y, -2 * y]), jnp.stack([jnp.ones(N), 3 * jnp.ones(N)])
  lams = jnp.asarray([0.5, 0.1])
  out = many(targets, lams, weights)
  np.testing.assert_allclose(out[0], counted(y, lams, weights[0]), atol=1e-4)
  np.testing.assert_allclose(many(targets, 2 * lams, weights)[1], -2 * out[0], atol=1e-4)
  assert counted.traces == 2


@pytest.mark.x64
def test_largest_strengths_in_closed_form():
  d = data()
  x, y = d["x"], d["squared"]
  g = gradient(x, y, np.zeros(P))
  largest = regression.max_strength
  np.testing.assert_allclose(largest(x, y, penalty_factor=np.ones(P)), np.abs(g).max(), rtol=1e-12)
  np.testing.assert_allclose(
    largest(x, y, penalty=prox.owl, penalty_factor=SLOPE),
    np.max(np.cumsum(-np.sort(-np.abs(g))) / np.cumsum(SLOPE)), rtol=1e-12,
  )  # fmt: skip
  factor = np.ones(P)
  factor[0], factor[2], factor[3] = 0, np.inf, 2
  xc = x - x.mean(axis=0)
  free = np.linalg.lstsq(xc[:, :1], y - y.mean(), rcond=None)[0]
  g = gradient(x, y, np.append(free, np.zeros(P - 1)))
  found = largest(x, y, penalty_factor=factor)
  np.testing.assert_allclose(found, np.max(np.abs(g[1:]) / factor[1:]), rtol=1e-10)
  assert largest(x, np.zeros(N), penalty_factor=factor) == 0
  labels = d["logistic"]
  g = x.T @ (labels.mean() - labels) / N
  np.testing.assert_allclose(largest(x, labels, loss="logistic"), np.abs(g).max(), rtol=1e-10)
  grid = regression.strength_grid(found, num_strengths=4, ratio=1e-3)
  np.testing.assert_allclose(grid, found * np.array([1, 0.1, 0.01, 1e-3]), rtol=1e-12)
