"""Randomised singular value decomposition: accuracy, warm starts, degenerate matrices."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxopt_robust import linalg

RANK = 4


@functools.cache
def geometric():
  """A 40 x 30 matrix with singular values 2^-i."""
  rng = np.random.default_rng(0)
  u = np.linalg.qr(rng.standard_normal((40, 30)))[0]
  v = np.linalg.qr(rng.standard_normal((30, 30)))[0]
  values = 0.5 ** np.arange(30)
  return (u * values) @ v.T, values


@functools.cache
def decompose(power):
  return jax.jit(functools.partial(linalg.randomized_svd, rank=RANK, power=power))


@pytest.mark.x64
@pytest.mark.parametrize("power", [1, 2])
def test_geometric_spectrum_is_found_to_the_best_error(key, power):
  matrix, values = geometric()
  out = decompose(power)(key, jnp.asarray(matrix))
  product = np.asarray(out.u * out.s[None, :]) @ np.asarray(out.vt)
  # The part that is missed shrinks as (s_{l+1} / s_{k+1})^(4 power + 2) with l = k + 10.
  ratio = np.linalg.norm(matrix - product, 2) / values[RANK]
  assert ratio == pytest.approx(1, abs=1e-3)
  np.testing.assert_allclose(out.s, values[:RANK], atol=1e-12)
  np.testing.assert_allclose(out.u.T @ out.u, np.eye(RANK), atol=1e-13)
  np.testing.assert_allclose(out.vt @ out.vt.T, np.eye(RANK), atol=1e-13)


@pytest.mark.x64
def test_vmap_over_keys_equals_a_loop(key):
  matrix = jnp.asarray(geometric()[0])
  keys = jax.random.split(key, 2)
  both = jax.vmap(decompose(1), in_axes=(0, None))(keys, matrix)
  for i in range(2):
    single = decompose(1)(keys[i], matrix)
    np.testing.assert_allclose(both.s[i], single.s, rtol=1e-12)
    product = (single.u * single.s[None, :]) @ single.vt
    np.testing.assert_allclose((both.u[i] * both.s[i][None, :]) @ both.vt[i], product, atol=1e-12)


@pytest.mark.x64
def test_exact_guess_needs_no_random_column(key):
  matrix, values = geometric()
  matrix = jnp.asarray(matrix)
  guess = np.linalg.svd(matrix)[2][:RANK].T

  def products(start):
    return linalg.randomized_svd_matvec(
      key, lambda x: matrix @ x, lambda x: matrix.T @ x,
      shape=matrix.shape, rank=RANK, oversample=0, power=0, start=start,
    )  # fmt: skip

  np.testing.assert_allclose(products(jnp.asarray(guess)).s, values[:RANK], rtol=1e-12)
  # Without the guess this few products miss: the guess did the work.
  assert abs(products(None).s[0] - values[0]) > 1e-6
  # Columns of zeros are no guess.
  np.testing.assert_array_equal(products(jnp.zeros((30, RANK))).s, products(None).s)


def test_zero_matrix_and_nan(key):
  zero = decompose(1)(key, jnp.zeros((40, 30)))
  np.testing.assert_array_equal(zero.s, 0)
  np.testing.assert_allclose(zero.u.T @ zero.u, np.eye(RANK), atol=1e-5)
  bad = decompose(1)(key, jnp.zeros((40, 30)).at[3, 4].set(jnp.nan))
  assert np.isnan(bad.s).all()


def test_half_precision_is_returned_in_half_precision(key):
  matrix, values = geometric()
  out = decompose(1)(key, jnp.asarray(matrix, jnp.bfloat16))
  assert out.u.dtype == out.s.dtype == jnp.bfloat16
  # bfloat16 entries are off by 2^-9 of their size at most, which bounds the singular values by
  # 2^-9 ||A||_F; the result is rounded once more.
  bound = 2.0**-9 * np.linalg.norm(values) + 2.0**-9
  np.testing.assert_allclose(np.asarray(out.s, np.float32), values[:RANK], atol=bound)
