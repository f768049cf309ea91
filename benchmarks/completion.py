"""A rating matrix completed at rank 10: alternating least squares and softImpute, against NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks._timing import Contender, Row, compiled
from experiments import datasets
from jaxopt_robust import recovery

_RIDGE = 0.1  # times the number of ratings of a user or film
_LAM = 15.0  # near the best strength of the nuclear norm on held-out ratings


def _ratings(size: str):
  """Centred ratings: indices of rows and columns, values, shape."""
  if size == "full":
    data = datasets.load("movielens100k")
    rows, cols, values = data["user"], data["item"], data["rating"]
  else:
    rng = np.random.default_rng(0)
    rows, cols = np.nonzero(rng.random((40, 30)) < 0.4)
    factors = rng.standard_normal((40, 2)), rng.standard_normal((30, 2))
    values = np.sum(factors[0][rows] * factors[1][cols], axis=1)
  shape = (int(rows.max()) + 1, int(cols.max()) + 1)
  values = (values - values.mean()).astype(np.float32)
  return rows.astype(np.int32), cols.astype(np.int32), values, shape


def _by_group(index, num):
  """The entries of each row or column, as positions."""
  order = np.argsort(index, kind="stable")
  return np.split(order, np.cumsum(np.bincount(index, minlength=num))[:-1])


def _numpy_als(rows, cols, values, left, right, num_rounds):
  """One Cholesky solve a row and column, the way it is usually written."""
  groups = _by_group(cols, right.shape[0]), _by_group(rows, left.shape[0])
  factors = [right.copy(), left.copy()]
  eye = np.eye(left.shape[1], dtype=np.float32)
  for _ in range(num_rounds):
    for side, other in ((0, rows), (1, cols)):
      fixed = factors[1 - side]
      for i, mine in enumerate(groups[side]):
        if mine.size:
          a = fixed[other[mine]]
          gram = a.T @ a + _RIDGE * mine.size * eye
          factors[side][i] = np.linalg.solve(gram, a.T @ values[mine])
        else:
          factors[side][i] = 0
  return factors[1], factors[0]


def _numpy_soft_impute(rows, cols, values, shape, num_steps):
  """Full decompositions of the filled-in matrix."""
  x = np.zeros(shape, np.float32)
  for _ in range(num_steps):
    x[rows, cols] = values
    u, s, vt = np.linalg.svd(x, full_matrices=False)
    x = (u * np.maximum(s - _LAM, 0)) @ vt
  return x


def build(size: str) -> Row:
  """The row: ten rounds of alternating least squares; five steps of softImpute beside it."""
  rows, cols, values, shape = _ratings(size)
  rank, num_rounds = (10, 10) if size == "full" else (2, 10)
  num_steps = 5
  op = recovery.EntryCOO(jnp.asarray(rows), jnp.asarray(cols), shape)
  y = jnp.asarray(values)
  key = jax.random.key(0)
  start = recovery.entry_spectral(key, op, y, rank)

  def als(op, y, start, key, *, solver):
    factors, _ = recovery.als_complete(
      op, y, rank, key=key, ridge=_RIDGE, num_rounds=num_rounds, solver=solver, start=start
    )
    return factors

  @jax.jit
  def soft(op, y, key):
    lams = jnp.full(1, _LAM)
    factors, _ = recovery.soft_impute_path(
      op, y, lams, rank=min(50, *shape), key=key, tol=0.0, max_steps=num_steps
    )
    return factors

  counts = np.bincount(rows, minlength=shape[0]), np.bincount(cols, minlength=shape[1])

  def objective(factors) -> float:
    left, right = (np.asarray(f, np.float64) for f in factors)
    misfit = np.sum(left[rows] * right[cols], axis=1) - values
    sizes = [np.sum(n[:, None] * f**2) for n, f in zip(counts, (left, right), strict=True)]
    return float(0.5 * np.sum(misfit**2) + 0.5 * _RIDGE * sum(sizes))

  left, right = (np.asarray(f) for f in start)
  peer = functools.partial(_numpy_als, rows, cols, values, left, right, num_rounds)
  best = objective(peer())
  excess = lambda factors: objective(factors) / best - 1

  def residual(matrix) -> float:
    return float(np.linalg.norm(matrix[rows, cols] - values) / np.linalg.norm(values))

  soft_peer = functools.partial(_numpy_soft_impute, rows, cols, values, shape, num_steps)
  soft_best = residual(soft_peer())

  def soft_gap(factors) -> float:
    return abs(residual(np.asarray(factors.L[0]) @ np.asarray(factors.R[0]).T) - soft_best)

  contenders = [
    compiled(
      f"jaxopt_robust, {name}", jax.jit(functools.partial(als, solver=name)), op, y, start, key,
      ours=True, accuracy=excess,
    )
    for name in ("exact", "pcg")
  ]  # fmt: skip
  contenders += [
    Contender("NumPy, a solve for each row and column", peer, accuracy=excess),
    compiled(
      "jaxopt_robust, softImpute as factors", soft, op, y, key, ours=True,
      accuracy=soft_gap, counts=False,
    ),
    Contender(
      "NumPy, softImpute with full decompositions",
      soft_peer, accuracy=lambda matrix: abs(residual(matrix) - soft_best), counts=False,
    ),
  ]  # fmt: skip
  return Row(
    name="completion",
    work=f"{num_rounds} rounds of ridge ALS, {values.size} entries of {shape[0]} x {shape[1]}, "
    f"rank {rank}, float32; softImpute: {num_steps} steps",
    contenders=contenders,
    accuracy="excess over NumPy: of the objective for ALS, of the residual for softImpute",
    bound=1e-2 if size == "full" else 1e-1,
    note="softImpute is shown for information and is not in the ratio; ours keeps at most 50 "
    "singular values of inexact decompositions, NumPy's all of exact ones.",
  )
