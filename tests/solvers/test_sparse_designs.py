"""BCOO designs in the regression solvers: minima by scikit-learn, padding and duplicates."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import sparse

from jaxopt_robust import prox, solvers
from tests.registries.solvers import half_mean_square

pytestmark = pytest.mark.x64
N, P, LAM = 300, 12, 0.05


@pytest.fixture(scope="module")
def problem():
  """Columns with 0, few and many entries (more than a chunk), and scikit-learn's optimum."""
  from sklearn.linear_model import Lasso

  rng = np.random.default_rng(1)
  x = rng.standard_normal((N, P)) * (rng.random((N, P)) < np.linspace(0, 0.9, P))
  y = x @ np.linspace(-1, 1, P) + 0.1 * rng.standard_normal(N)
  return x, y, Lasso(alpha=LAM, fit_intercept=False, tol=1e-14, max_iter=100_000).fit(x, y).coef_


def designs(x):
  """The same matrix in four forms."""
  dense = jnp.asarray(x)
  padded = sparse.BCOO.fromdense(dense, nse=2 * N * P)
  twice = sparse.bcoo_concatenate([0.25 * sparse.BCOO.fromdense(dense)] * 2, dimension=0)
  index = jnp.concatenate([sparse.BCOO.fromdense(dense).indices] * 2)
  doubled = sparse.BCOO((twice.data * 2, index), shape=x.shape)  # each entry in two halves
  return {"padded": padded, "doubled": doubled, "rows": sparse.BCSR.fromdense(dense)}


def make(name, step):
  return {
    "block_coordinate_descent": lambda: solvers.block_coordinate_descent(
      lambda z, y: 0.5 * jnp.mean((z - y) ** 2), prox.lasso, curvature=1 / N
    ),
    "working_set": lambda: solvers.working_set(
      half_mean_square, prox.lasso, stepsize=step, min_size=4
    ),
    "fista": lambda: solvers.fista(half_mean_square, prox.lasso, stepsize=step),
    "spectral": lambda: solvers.spectral_proximal_gradient(half_mean_square, prox.lasso),
  }[name]()


@pytest.mark.parametrize(
  ("name", "form"),
  [
    ("block_coordinate_descent", "padded"), ("block_coordinate_descent", "doubled"),
    ("block_coordinate_descent", "rows"), ("working_set", "padded"), ("working_set", "rows"),
    ("fista", "padded"), ("spectral", "padded"),
  ],
)  # fmt: skip
def test_the_optimum_of_a_sparse_design(name, form, problem):
  x, y, best = problem
  step = N / np.linalg.norm(x, 2) ** 2
  w, info = solvers.run_until(
    make(name, step), jnp.zeros(P), LAM, designs(x)[form], jnp.asarray(y), tol=1e-10,
    max_steps=3000,
  )  # fmt: skip
  assert int(info.status) == solvers.CONVERGED
  np.testing.assert_allclose(w, best, atol=1e-8)


def test_rows_as_blocks(problem):
  """Two equal tasks: the entries of a row are equal, those of a Lasso at lam / sqrt(2)."""
  x, y, _ = problem
  solver = solvers.block_coordinate_descent(
    lambda z, y: 0.5 * jnp.sum((z - y) ** 2) / N, prox.group_lasso, curvature=1 / N
  )
  both = jnp.stack([jnp.asarray(y)] * 2, axis=1)
  w, _ = jax.jit(
    lambda x: solvers.run_until(
      solver, jnp.zeros((P, 2)), LAM * np.sqrt(2), x, both, tol=1e-11, max_steps=3000
    )
  )(designs(x)["padded"])
  np.testing.assert_allclose(w, np.stack([problem[2]] * 2, axis=1), atol=1e-8)
