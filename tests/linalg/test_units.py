"""Linear algebra in any units: results scale with their arguments, and zeros have their answer."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxopt_robust import linalg

# Powers of 4 change no digit; the others round.
EXACT = [4.0**-49, 4.0**-41, 4.0**-20, 4.0**20, 4.0**41, 4.0**49]
ROUNDED = [1e-30, 1e-25, 1e-12, 3.0, 1e12, 1e25, 1e30]
EPS = float(np.finfo(np.float32).eps)


@functools.cache
def lstsq(solver):
  def solve(key, rows, targets, ridge):
    segments = jnp.arange(24) % 3
    return linalg.segment_lstsq(
      rows, segments, targets, num_segments=4, ridge=ridge, solver=solver, key=key, sketch_size=24,
      iterations=4,
    )  # fmt: skip

  return jax.jit(solve)


@pytest.mark.parametrize("solver", ["exact", "pcg", "sketch", "unit_step"])
def test_least_squares_in_any_units(solver, key, rng):
  """x is measured like b / a, the ridge like a^2."""
  rows = rng.standard_normal((24, 4)).astype(np.float32)
  targets = rng.standard_normal(24).astype(np.float32)
  run = lstsq(solver)
  ridge = 0.25
  x, info = run(key, rows, targets, np.float32(ridge))
  for row_unit, target_unit in [(1.0, c) for c in EXACT] + [(c, 1.0) for c in EXACT[1:-1]] + [
    (4.0**-41, 4.0**20), (4.0**20, 4.0**-41)
  ]:  # fmt: skip
    with np.errstate(over="ignore"):
      strength = np.float32(ridge * row_unit**2)
    if not 0 < strength < np.inf:  # 4^41 squared is out of range: then without
      strength, reference = np.float32(0), run(key, rows, targets, np.float32(0))[0]
    else:
      reference = x
    scaled, other = run(
      key, np.float32(row_unit) * rows, np.float32(target_unit) * targets, strength
    )
    np.testing.assert_array_equal(scaled, np.float32(target_unit / row_unit) * reference)
    assert int(other.status) == int(info.status)
  condition = 30.0  # of 8 x 4 normal matrices, and of its square for the normal equations below
  for c in ROUNDED:
    scaled, _ = run(key, rows, np.float32(c) * targets, np.float32(ridge))
    np.testing.assert_allclose(
      np.asarray(scaled, np.float64) / np.float64(np.float32(c)), x, atol=condition**2 * EPS
    )


def test_problems_of_different_units_do_not_disturb_each_other(key, rng):
  """Each problem of a batch has its own unit; none of them is a rounding error of another."""
  rows = rng.standard_normal((24, 4)).astype(np.float32)
  targets = rng.standard_normal(24).astype(np.float32)
  unit = np.array([4.0**-41, 1.0, 4.0**20], np.float32)[np.arange(24) % 3]
  for solver in ("exact", "pcg"):
    run = lstsq(solver)
    x, info = run(key, rows, targets, np.float32(0))
    mixed, other = run(key, unit[:, None] * rows, targets, np.float32(0))
    np.testing.assert_array_equal(
      mixed, x / np.array([4.0**-41, 1, 4.0**20, 1], np.float32)[:, None]
    )
    np.testing.assert_array_equal(other.residual, info.residual)
    expected = np.linalg.lstsq(rows[::3].astype(np.float64), targets[::3], rcond=None)[0]
    np.testing.assert_allclose(x[0], expected, rtol=1e-4)


def test_a_strong_ridge_on_tiny_rows_gives_the_limit_of_small_steps(key, rng):
  """With ridge much larger than A^T A: x = A^T b / ridge."""
  rows = rng.standard_normal((24, 4)).astype(np.float32) * np.float32(1e-25)
  targets = rng.standard_normal(24).astype(np.float32)
  for solver in ("exact", "pcg"):
    x, info = lstsq(solver)(key, rows, targets, np.float32(0.5))
    expected = 2 * rows[::3].astype(np.float64).T @ targets[::3]
    np.testing.assert_allclose(x[0], expected, rtol=1e-5)
    assert int(info.status) == 0


@pytest.mark.parametrize("solver", ["exact", "pcg"])
def test_zero_rows_or_targets_have_the_solution_zero(solver, key, rng):
  rows = rng.standard_normal((24, 4)).astype(np.float32)
  for a, b in ((0 * rows, rows[:, 0]), (rows, 0 * rows[:, 0]), (0 * rows, 0 * rows[:, 0])):
    x, info = lstsq(solver)(key, a, b, np.float32(0))
    np.testing.assert_array_equal(x, 0)
    assert int(info.status) == 0


def test_singular_values_in_any_units(key, rng):
  matrix = rng.standard_normal((9, 6)).astype(np.float32)
  run = jax.jit(lambda a: linalg.randomized_svd(key, a, rank=3))
  base = run(matrix)
  np.testing.assert_allclose(base.s, np.linalg.svd(matrix, compute_uv=False)[:3], rtol=1e-5)
  for c in EXACT:
    out = run(np.float32(c) * matrix)
    np.testing.assert_array_equal(out.s, np.float32(c) * base.s)
    np.testing.assert_array_equal(out.u, base.u)
  for c in ROUNDED:
    out = run(np.float32(c) * matrix)
    np.testing.assert_allclose(out.s / np.float32(c), base.s, rtol=100 * EPS)
  zero = run(0 * matrix)
  np.testing.assert_array_equal(zero.s, 0)
  np.testing.assert_allclose(zero.u.T @ zero.u, np.eye(3), atol=100 * EPS)


def test_sketched_factor_in_any_units(key, rng):
  rows = rng.standard_normal((24, 4)).astype(np.float32)
  run = jax.jit(
    lambda a: linalg.sketch_precondition(
      key, a, jnp.arange(24) % 3, num_segments=4, sketch_size=24
    )[:3]
  )
  base = run(rows)
  for c in EXACT:
    np.testing.assert_array_equal(run(np.float32(c) * rows), np.float32(c) * base)


def test_newton_inverse_in_any_units(rng):
  matrix = (np.eye(4) + 0.2 * rng.standard_normal((4, 4))).astype(np.float32)
  run = jax.jit(linalg.newton_inverse)
  base, info = run(matrix)
  np.testing.assert_allclose(base, np.linalg.inv(matrix.astype(np.float64)), atol=1e-5)
  for c in EXACT + ROUNDED:
    out, other = run(np.float32(c) * matrix)
    np.testing.assert_allclose(
      np.asarray(out, np.float64) * np.float64(np.float32(c)), base, atol=100 * EPS
    )
    assert float(other.error) < 1e-5 and float(info.error) < 1e-5
  inverse, info = run(0 * matrix)  # the pseudo-inverse of nothing, and its error says so
  np.testing.assert_array_equal(inverse, 0)
  assert float(info.error) == 1
