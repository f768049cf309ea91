"""Newton's inverse: its closed form, its derivative, degenerate matrices."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from jaxopt_robust import linalg
from tests.helpers import assert_no_retrace


def matrix_with(values, seed=0, symmetric=False):
  """U diag(values) V^T; V = U for symmetric ones."""
  rng = np.random.default_rng(seed)
  size = len(values)
  u, v = (np.linalg.qr(rng.standard_normal((size, size)))[0] for _ in range(2))
  v = u if symmetric else v
  return (u * values) @ v.T, u, v


def size_of(matrix):
  return np.linalg.norm(matrix, 1) * np.linalg.norm(matrix, np.inf)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("num_iters", [0, 3, 20])
@pytest.mark.x64
def test_iterates_are_the_filtered_inverse(dtype, symmetric, num_iters):
  values = np.array([3.0, 1.0, 0.2, 1e-3, 1e-6])
  matrix, u, v = matrix_with(values, symmetric=symmetric)
  inverse, info = linalg.newton_inverse(jnp.asarray(matrix, dtype), num_iters=num_iters)
  first = 1.8 / size_of(matrix) * values**2
  small = -np.expm1(2.0**num_iters * np.log1p(-np.minimum(first, 0.5)))  # without cancellation
  share = np.where(first > 0.5, 1 - (1 - first) ** (2**num_iters), small)
  expected = (v * (share / values)) @ u.T
  assert inverse.dtype == dtype
  tol = np.finfo(dtype).eps * 3e3  # the condition number of what is inverted
  np.testing.assert_allclose(inverse, expected, rtol=0, atol=tol * np.abs(expected).max())
  # What is missing of the identity.
  error = np.linalg.norm(np.eye(5) - matrix @ expected) / np.sqrt(5)
  np.testing.assert_allclose(info.error, error, rtol=0, atol=tol)


@pytest.mark.x64
def test_well_conditioned_matrices_are_inverted_each_with_its_own_scale():
  rng = np.random.default_rng(1)
  matrices = np.stack([matrix_with([2.0, 1.0, 0.5], seed)[0] for seed in range(4)])
  matrices *= np.array([1.0, 1e-200, 1e200, -7.0])[:, None, None]
  inverse, info = jax.jit(linalg.newton_inverse)(jnp.asarray(matrices))
  np.testing.assert_allclose(inverse @ matrices, np.broadcast_to(np.eye(3), (4, 3, 3)), atol=1e-14)
  assert info.error.shape == (4,) and np.max(info.error) < 1e-14
  one, _ = linalg.newton_inverse(jnp.asarray(matrices[2]))
  np.testing.assert_allclose(inverse[2], one, rtol=1e-12)
  ridge = 0.3
  gram = rng.standard_normal((3, 3))
  gram = gram @ gram.T
  shifted, _ = linalg.newton_inverse(jnp.asarray(gram), ridge=ridge)
  np.testing.assert_allclose(shifted, np.linalg.inv(gram + ridge * np.eye(3)), rtol=1e-10)


@pytest.mark.parametrize(("safety", "entry"), [(1.0, 0.0), (0.9, 1 / 16)])
def test_equal_rows_need_the_safety_factor(safety, entry):
  inverse, info = linalg.newton_inverse(jnp.ones((4, 4)), safety=safety)
  np.testing.assert_allclose(inverse, entry, atol=1e-6)  # 1/16: the pseudo-inverse
  missing = 4 if entry == 0 else 3
  np.testing.assert_allclose(info.error, np.sqrt(missing / 4), rtol=1e-5)


@pytest.mark.x64
def test_derivative_is_that_of_the_inverse_in_both_modes_and_twice():
  matrix = jnp.asarray(matrix_with([2.0, 1.0, 0.5])[0])
  ours = lambda a, r: linalg.newton_inverse(a, ridge=r)[0]
  exact = lambda a, r: jnp.linalg.inv(a + r * jnp.eye(3))
  ridge = jnp.asarray(0.1)
  for jacobian in (jax.jacfwd, jax.jacrev):
    for got, wanted in zip(
      jacobian(ours, (0, 1))(matrix, ridge), jacobian(exact, (0, 1))(matrix, ridge), strict=True
    ):
      np.testing.assert_allclose(got, wanted, atol=1e-10)
  check_grads(ours, (matrix, ridge), order=2, atol=1e-6, rtol=1e-6)


def test_neither_the_derivative_nor_its_cost_depends_on_the_iterations():
  """Nothing of the loop is kept for the backward pass, nor run there."""

  def backward(num_iters):
    f = functools.partial(linalg.newton_inverse, num_iters=num_iters)
    inverse, pull = jax.vjp(lambda a: f(a)[0], jnp.eye(3))
    return jax.make_jaxpr(pull)(inverse), jax.tree.leaves(pull)

  for num_iters in (5, 20):
    program, kept = backward(num_iters)
    assert "scan" not in str(program) and "while" not in str(program)
    assert str(program).count("dot_general") == 2
    assert sum(leaf.size for leaf in kept) <= 2 * 9


def test_degenerate_matrices_have_defined_outcomes():
  inverse, info = linalg.newton_inverse(jnp.zeros((2, 2)))
  assert np.all(inverse == 0) and info.error == 1
  inverse, info = jax.jit(linalg.newton_inverse)(jnp.full((2, 2), jnp.nan))
  assert np.all(np.isnan(inverse)) and np.isnan(info.error)
  grads = jax.grad(lambda a: jnp.sum(linalg.newton_inverse(a)[0]))(jnp.zeros((2, 2)))
  assert np.all(np.isfinite(grads))


def test_every_leading_axis_is_a_batch():
  matrices = np.stack([matrix_with([1.0, 0.5, 0.8], seed)[0] for seed in range(10)])
  inverse, _ = linalg.newton_inverse(jnp.asarray(matrices.reshape(5, 2, 3, 3), jnp.float32))
  expected = np.linalg.inv(matrices).reshape(5, 2, 3, 3)
  np.testing.assert_allclose(inverse, expected, atol=1e-4)


def test_half_precision_is_computed_in_single():
  matrix = jnp.asarray(matrix_with([2.0, 1.0, 0.05])[0], jnp.bfloat16)
  inverse, info = linalg.newton_inverse(matrix)
  wide, _ = linalg.newton_inverse(matrix.astype(jnp.float32))
  assert inverse.dtype == jnp.bfloat16 and info.error.dtype == jnp.float32
  assert np.all(inverse == wide.astype(jnp.bfloat16))


def test_sizes_are_static_and_values_do_not_retrace():
  assert_no_retrace(
    lambda matrix, ridge, safety: linalg.newton_inverse(matrix, ridge=ridge, safety=safety)[0],
    lambda i: ((1 + i) * jnp.eye(2), 0.1 * i, 0.9 - 0.1 * i),
  )
