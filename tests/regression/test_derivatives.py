"""Derivatives of solutions: finite differences, in both modes and of second order."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxopt_robust import prox, regression, solvers

N, P = 20, 5
CASES = {
  "lasso": {"penalty": prox.lasso},
  "logistic": {"loss": "logistic", "penalty": prox.elastic_net, "penalty_params": (0.5,)},
  "mcp": {
    "penalty": prox.mcp,
    "penalty_params": (3.0,),
    "linear_solve": solvers.solve_dense,
    "fit_intercept": False,
  },
}


@pytest.mark.x64
@pytest.mark.parametrize("name", CASES)
def test_derivatives_in_strength_data_weights_and_factors(name):
  rng = np.random.default_rng(0)
  x = rng.standard_normal((N, P)) + 0.5
  y = x[:, 0] - 1.2 * x[:, 1] + 0.3 * rng.standard_normal(N) + 0.4
  if CASES[name].get("loss") == "logistic":
    y = 1 / (1 + np.exp(-2 * y))
  dx, dy, ds, df = (rng.standard_normal(s) for s in ((N, P), (N,), (N,), (P,)))
  s, target = 1 + rng.uniform(size=N), rng.standard_normal(P)

  def fun(t):
    """Along one direction in everything at once; a quadratic and a linear function of the fit."""
    fit = regression.solve_at(
      x + t[0] * dx, y + 0.1 * t[0] * dy, 0.06 + 0.02 * t[1], sample_weight=s + 0.3 * t[1] * ds,
      penalty_factor=1 + 0.2 * t[0] * df, tol=1e-13, **CASES[name],
    )  # fmt: skip
    return jnp.sum((fit.coefficients - target) ** 2) / 2 + fit.intercept, fit

  reverse = jax.grad(fun, has_aux=True)

  @jax.jit
  def everything(t):
    slope, fit = reverse(t)
    return fun(t)[0], slope, jax.jacfwd(lambda t: fun(t)[0])(t), fit

  point = jnp.zeros(2)
  _, found, forward, fit = everything(point)
  assert fit.status == 0 and 2 <= np.sum(np.asarray(fit.coefficients) != 0) < P
  eps = 1e-5  # solutions are exact to some 1e-12, quotients to 1e-7
  up, down = ([everything(sign * eps * e) for e in np.eye(2)] for sign in (1, -1))
  expected = np.array([(a[0] - b[0]) / (2 * eps) for a, b in zip(up, down, strict=True)])
  np.testing.assert_allclose(found, expected, rtol=1e-5, atol=2e-7)
  np.testing.assert_allclose(forward, found, rtol=1e-7, atol=1e-9)
  if name == "lasso":
    second = jax.jit(jax.jacfwd(lambda t: reverse(t)[0]))(point)
    expected = np.stack([(a[1] - b[1]) / (2 * eps) for a, b in zip(up, down, strict=True)])
    np.testing.assert_allclose(second, expected, rtol=1e-5, atol=1e-6)


def test_a_sparse_design_has_the_derivatives_of_the_dense_one():
  from jax.experimental import sparse

  rng = np.random.default_rng(1)
  x = np.where(rng.uniform(size=(N, P)) < 0.5, 0, rng.standard_normal((N, P)))
  y = jnp.asarray(x[:, 0] + 0.1 * rng.standard_normal(N))
  given = sparse.BCOO.fromdense(jnp.asarray(x))
  dy, dx = jnp.asarray(rng.standard_normal(N)), jnp.asarray(rng.standard_normal(given.nse))

  def both(design):
    """Slopes in the targets and the entries that are not 0, and along a direction in both."""
    fun = lambda y, data: jnp.sum(regression.solve_at(design(data), y, 0.1).coefficients)
    slopes = jax.jit(jax.grad(fun, argnums=(0, 1)))(y, given.data)
    return slopes, jax.jit(lambda *d: jax.jvp(fun, (y, given.data), d)[1])(dy, dx)

  rows, columns = given.indices.T
  slopes, along = both(lambda data: jnp.zeros((N, P)).at[rows, columns].set(data))
  found, also = both(lambda data: sparse.BCOO((data, given.indices), shape=given.shape))
  for ours, dense in zip((*found, also), (*slopes, along), strict=True):
    np.testing.assert_allclose(ours, dense, atol=1e-5)
  np.testing.assert_allclose(along, slopes[0] @ dy + slopes[1] @ dx, rtol=1e-4)
  assert min(np.abs(slope).max() for slope in slopes) > 0.01


def test_units_of_the_columns_only_rescale_the_derivatives():
  """Columns times c_j with factors c_j: the same fit with w_j / c_j, in float32."""
  rng = np.random.default_rng(2)
  x = rng.standard_normal((N, P)).astype(np.float32)
  y = jnp.asarray(x[:, :3] @ np.array([2.0, -1.0, 1.5]) + 3.0, jnp.float32)
  c = 1e5 * np.array([10.0, 1.0, 3.0, 1.0, 0.3], np.float32)

  @jax.jit
  def slopes(x, factor):
    fit = lambda strength: regression.solve_at(x, y, strength, penalty_factor=factor)
    found = jax.jacfwd(lambda strength: fit(strength)[:2])(0.1)
    return found[0] * factor, found[1], fit(0.1)

  plain, moved = slopes(x, jnp.ones(P)), slopes(x * c, jnp.asarray(c))
  assert plain[2].status == moved[2].status == 0
  assert np.sum(np.asarray(plain[0]) != 0) >= 2
  np.testing.assert_allclose(moved[0], plain[0], rtol=1e-4)
  np.testing.assert_allclose(moved[1], plain[1], rtol=1e-4)
