"""Polynomials of logits in few digits: long vectors, high degrees."""

import jax
import numpy as np
import pytest

from jaxopt_robust import layers


@pytest.mark.parametrize("series", ["taylor", "chebyshev"])
def test_rounding_by_long_vectors_is_not_called_valid(series):
  """Logits of 1 at most, of queries of length 100: their terms cancel, few digits are left."""
  rng = np.random.default_rng(0)
  along, across = np.array([0.8, 0.6]), np.array([-0.6, 0.8])
  keys = (rng.uniform(-1, 1, (30, 1)) * across).astype(np.float32)
  off = []
  for length, valid in ((2.0, True), (100.0, False)):
    q = (length * along + rng.uniform(-1, 1, (20, 1)) * across).astype(np.float32)
    left, right, info = layers.softmax_poly_factors(q, keys, bound=1.0, series=series)
    exact = jax.nn.softmax(q.astype(np.float64) @ keys.T.astype(np.float64), axis=-1)
    off.append(np.abs(left @ right.T - exact).sum(axis=-1).max())
    assert info.valid == valid and info.softmax_error < 0.05
  assert off[0] < 0.01 < 0.02 < off[1]


@pytest.mark.parametrize("x64", [False, True])
def test_the_largest_degrees(x64):
  with jax.enable_x64(x64):
    q, k = np.array([[0.5], [-1.0]]), np.array([[1.0], [-1.0], [0.3]])
    exact = np.exp(q @ k.T)
    for degree in (12, 13, 20, 30):
      left, right, info = layers.softmax_poly_factors(q, k, degree=degree)
      assert info.valid and info.softmax_error < 1e-8
      off = np.abs(left @ right.T - exact / exact.sum(axis=1, keepdims=True)).sum(axis=1)
      assert np.all(off <= info.softmax_error + (1e-13 if x64 else 1e-5))
