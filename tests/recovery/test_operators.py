"""Operators: adjoint identity, factored forms, batching, keyed equal to stored, dtypes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxopt_robust import recovery
from tests.registries.recovery import COLS, OPERATORS, ROWS

WIDTH = 3


@jax.jit
def _everything(op, matrix, left, right, z):
  return {
    "apply": op.apply(matrix),
    "adjoint": op.adjoint(z),
    "apply_product": op.apply(left @ right.T),
    "apply_factored": op.apply_factored(left, right),
    "adjoint_mul": op.adjoint_mul(z, right),
    "adjoint_t_mul": op.adjoint_t_mul(z, left),
    "products": op.adjoint_products(z, left, right),
    "residual": op.residual_products(left, right, z, link=jnp.sign),
  }


def _inputs(rng, size, batch=()):
  draw = lambda *shape: jnp.asarray(rng.standard_normal((*batch, *shape)))
  return draw(ROWS, COLS), draw(ROWS, WIDTH), draw(COLS, WIDTH), draw(size)


@pytest.mark.x64
@pytest.mark.parametrize("name", OPERATORS)
def test_adjoint_and_factored_forms(name, key, rng):
  op = OPERATORS[name](key)
  assert op.shape == (ROWS, COLS)
  matrix, left, right, z = _inputs(rng, op.size)
  out = _everything(op, matrix, left, right, z)

  gap = abs(jnp.vdot(out["apply"], z) - jnp.vdot(matrix, out["adjoint"]))
  assert gap <= 1e-10 * jnp.linalg.norm(out["apply"]) * jnp.linalg.norm(z)
  close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)
  close(out["apply_factored"], out["apply_product"])
  close(out["adjoint_mul"], out["adjoint"] @ right)
  close(out["adjoint_t_mul"], out["adjoint"].T @ left)
  close(out["products"].left, out["adjoint_mul"])
  close(out["products"].right, out["adjoint_t_mul"])
  close(out["products"].norm, jnp.linalg.norm(out["adjoint"]))

  residual, products = out["residual"]
  expected = out["apply_factored"] - z
  if op.observed is not None:
    expected = jnp.where(op.observed, expected, 0)
  close(residual, expected)
  dense = op.adjoint(jnp.sign(expected))
  close(products.left, dense @ right)
  close(products.norm, jnp.linalg.norm(dense))


@pytest.mark.x64
@pytest.mark.parametrize("name", OPERATORS)
def test_dense_matrices_of_an_operator(name, key):
  """Row i of the operator as a matrix is vec(A_i); adjoint is its transpose."""
  op = OPERATORS[name](key)
  units = jnp.eye(ROWS * COLS).reshape(-1, ROWS, COLS)
  forward = jax.vmap(op.apply)(units).T
  backward = jax.vmap(op.adjoint)(jnp.eye(op.size)).reshape(op.size, -1)
  np.testing.assert_allclose(forward, backward, atol=1e-12)
  if name == "gaussian":
    np.testing.assert_array_equal(forward, op.flat)
  if name == "rank_one":
    dense = jnp.einsum("mi,mj->mij", op.left_vectors, op.right_vectors)
    np.testing.assert_allclose(forward, dense.reshape(op.size, -1), rtol=1e-14)
  if name == "fourier":  # distinct rows of an orthonormal transform, times sqrt(N / m)
    gram = forward @ forward.T
    np.testing.assert_allclose(gram, ROWS * COLS / op.size * jnp.eye(op.size), atol=1e-12)


@pytest.mark.parametrize("name", ["gaussian", "rank_one", "coo_padded", "keyed", "mask"])
def test_batch_of_operators_equals_a_loop(name, key, rng):
  keys = jax.random.split(key, 3)
  ops = [OPERATORS[name](k) for k in keys]
  stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *ops)
  inputs = _inputs(rng, ops[0].size, batch=(3,))
  batched = jax.vmap(_everything)(stacked, *inputs)
  for i, op in enumerate(ops):
    single = _everything(op, *(x[i] for x in inputs))
    jax.tree.map(
      lambda a, b, i=i: np.testing.assert_allclose(a[i], b, rtol=2e-5, atol=2e-5), batched, single
    )


def test_keyed_holds_the_same_matrices_bit_for_bit(key):
  op = recovery.make_keyed_gaussian_sensing(key, 12, ROWS, COLS, chunk=4)
  dense = op.to_dense()
  by_hand = jnp.concatenate(
    [jax.random.normal(jax.random.fold_in(key, b), (4, ROWS * COLS)) for b in range(3)]
  )
  np.testing.assert_array_equal(dense.flat, by_hand)
  # One nonzero entry, or one nonzero measurement: no sum is rounded, so results are equal too.
  unit = jnp.zeros((ROWS, COLS)).at[2, 1].set(1.0)
  np.testing.assert_array_equal(op.apply(unit), dense.apply(unit))
  for i in (0, 5, 11):
    z = jnp.zeros(12).at[i].set(1.0)
    np.testing.assert_array_equal(op.adjoint(z), dense.adjoint(z))


@pytest.mark.x64
def test_keyed_gradient_equals_the_dense_one(key, rng):
  op = recovery.make_keyed_gaussian_sensing(key, 12, ROWS, COLS, chunk=4)
  matrix, _, _, z = _inputs(rng, 12)
  loss = lambda o, x: jnp.sum(o.apply(x) ** 2 * z)
  np.testing.assert_allclose(
    jax.grad(loss, argnums=1)(op, matrix), jax.grad(loss, argnums=1)(op.to_dense(), matrix),
    rtol=1e-11,
  )  # fmt: skip


def test_gaussian_entries_are_standard_normal(key):
  op = recovery.make_gaussian_sensing(key, 4000, ROWS, COLS)
  # E[A*(A(X))] = m X: no 1/m and no 1/sqrt(m) inside.
  matrix = jnp.zeros((ROWS, COLS)).at[0, 0].set(1.0)
  mean = op.adjoint(op.apply(matrix)) / op.size
  assert jnp.linalg.norm(mean - matrix) < 5 * np.sqrt(ROWS * COLS / 4000)
  assert abs(float(jnp.var(op.flat)) - 1) < 5 * np.sqrt(2 / op.flat.size)


def test_quadratic_sensing_uses_one_vector_twice(key):
  op = recovery.make_rank_one_sensing(key, 5, 3)
  matrix = jnp.arange(9.0).reshape(3, 3)
  expected = jnp.einsum("mi,ij,mj->m", op.left_vectors, matrix, op.left_vectors)
  np.testing.assert_allclose(op.apply(matrix), expected, rtol=1e-5)


def test_masked_and_padded_entries_do_not_count(key):
  op = OPERATORS["coo_padded"](key)
  assert int(op.count) == 4 and op.size == 6
  left, right = jnp.ones((ROWS, 1)), jnp.ones((COLS, 1))
  poisoned = jnp.zeros(6).at[2].set(jnp.nan)
  residual, products = op.residual_products(left, right, poisoned, link=jnp.sign)
  assert jnp.isfinite(residual).all() and jnp.isfinite(products.norm)
  mask = recovery.EntryMask(jnp.eye(3, dtype=bool))
  assert int(mask.count) == 3
  np.testing.assert_array_equal(mask.apply(jnp.ones((3, 3))), jnp.eye(3).ravel())


def test_an_index_outside_the_matrix_measures_nan():
  op = recovery.EntryCOO(jnp.array([0, 9]), jnp.array([0, 0]), (ROWS, COLS))
  z = op.apply_factored(jnp.ones((ROWS, 1)), jnp.ones((COLS, 1)))
  assert z[0] == 1 and jnp.isnan(z[1]) and jnp.isnan(op.apply(jnp.ones((ROWS, COLS)))[1])


@pytest.mark.parametrize("name", ["gaussian", "keyed", "rank_one", "identity", "coo", "fourier"])
def test_half_precision_in_and_out(name, key):
  halve = lambda t: jax.tree.map(
    lambda a: a.astype(jnp.bfloat16) if a.dtype == jnp.float32 else a, t
  )
  op = halve(OPERATORS[name](key))
  if name == "keyed":
    op = recovery.make_keyed_gaussian_sensing(key, 12, ROWS, COLS, chunk=4, dtype=jnp.bfloat16)
  left, right = jnp.ones((ROWS, 2), jnp.bfloat16), jnp.ones((COLS, 2), jnp.bfloat16)
  z = op.apply_factored(left, right)
  assert z.dtype == jnp.bfloat16
  assert op.adjoint(z).dtype == jnp.bfloat16
  assert op.adjoint_products(z, left, right).left.dtype == jnp.bfloat16


def test_sizes_are_static_and_values_do_not_retrace(key):
  first, second = (recovery.make_gaussian_sensing(k, 7, 3, 2) for k in jax.random.split(key))
  traces = []

  @jax.jit
  def measure(op, x):
    traces.append(op.size)
    return op.apply(x)

  measure(first, jnp.ones((3, 2)))
  measure(second, jnp.ones((3, 2)))
  assert traces == [7]
