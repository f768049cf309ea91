"""Contracts of the operators that act on arrays of a shape: groups, rows, matrices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from tests.helpers import assert_no_retrace, central_difference
from tests.registries import prox_groups, prox_spectral

SHAPED = [*prox_groups.SHAPED, *prox_spectral.SHAPED]


def name_of(case):
  tag = f"-{case.tag}" if case.tag else ""
  return f"{case.name}{tag}".replace(" ", "_")


CASES = pytest.mark.parametrize("case", SHAPED, ids=name_of)
CONVEX = pytest.mark.parametrize("case", [c for c in SHAPED if c.convex], ids=name_of)


def draw(case, rng, size=2.0, dtype=None):
  return case.onto(jnp.asarray(size * rng.standard_normal(case.shape), dtype))


def scaled(case, factor):
  """The case's hyper-parameters with the strength multiplied; shape parameters stay."""
  if isinstance(case.hyper, tuple):
    return (factor * case.hyper[0], *case.hyper[1:])
  return factor * case.hyper


@pytest.mark.x64
@CASES
def test_brute_force_cannot_beat_it(case, rng):
  prox = jax.jit(lambda x, s: case.prox(x, case.hyper, s))

  @jax.jit
  def objective(y, x, s):
    y = case.onto(y.reshape(case.shape))
    return 0.5 * jnp.sum((y - x) ** 2) + s * case.value(y, case.hyper)

  many = jax.jit(jax.vmap(objective, (0, None, None)))
  for scaling in (0.3, 1.0, 2.5):
    x = draw(case, rng)
    y = prox(x, scaling)
    best = float(objective(y, x, scaling))
    assert np.isfinite(best)
    # Points around the solution at all scales, multiples of the data and of the solution, zero.
    flat, data = np.ravel(y), np.ravel(x)
    steps = rng.standard_normal((400, flat.size)) * 10.0 ** rng.uniform(-6, 0.5, (400, 1))
    shrunk = np.linspace(0, 1.5, 30)[:, None]
    candidates = np.concatenate([flat + steps, shrunk * data, shrunk * flat])
    others = many(jnp.asarray(candidates), x, scaling)
    # A tie of a jump aside, nothing is below; 1e-11 is the rounding of the matrix products.
    assert best <= float(jnp.nanmin(others)) + 1e-11
    found = scipy.optimize.minimize(
      lambda z, x=x, s=scaling: float(objective(jnp.asarray(z), x, s)), flat + 0.05 * steps[0],
      method="Nelder-Mead", options={"xatol": 1e-7, "fatol": 1e-12, "maxiter": 1500},
    )  # fmt: skip
    assert best <= found.fun + 1e-9


@pytest.mark.x64
@CONVEX
def test_firmly_non_expansive(case, rng):
  x, z = (
    jax.vmap(case.onto)(jnp.asarray(3 * rng.standard_normal((200, *case.shape)))) for _ in range(2)
  )
  prox = jax.jit(jax.vmap(lambda v: case.prox(v, case.hyper, 0.7)))
  px, pz = prox(x), prox(z)
  dots = lambda a, b: jnp.sum((a * b).reshape(200, -1), axis=1)
  assert bool(jnp.all(dots(px - pz, px - pz) <= dots(px - pz, x - z) + 1e-11))


@pytest.mark.x64
@CASES
def test_scaling_zero_is_the_identity_or_the_projection(case, rng):
  x = draw(case, rng)
  # Entries of size 2; a decomposition and its inverse leave some 100 roundings.
  np.testing.assert_allclose(case.prox(x, case.hyper, 0.0), case.at_zero(x), atol=5e-14)


@CASES
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
def test_dtype_is_kept_and_half_precision_computes_in_float32(case, dtype, rng):
  x = draw(case, rng, dtype=jnp.float32).astype(dtype)
  y, g = case.prox(x, case.hyper, 0.5), case.value(x, case.hyper)
  assert y.dtype == dtype and y.shape == x.shape and not y.weak_type
  assert g.dtype == dtype and g.shape == () and not g.weak_type
  wide = case.prox(x.astype(jnp.float32), case.hyper, 0.5)
  np.testing.assert_array_equal(y, wide.astype(dtype))


@CASES
def test_strengths_and_scaling_may_be_traced_and_mapped(case, rng):
  x = draw(case, rng, dtype=jnp.float32)
  factors, scalings = jnp.asarray([0.2, 1.0, 3.0]), jnp.asarray([0.5, 1.0, 2.0])
  mapped = jax.jit(jax.vmap(lambda f, s: case.prox(x, scaled(case, f), s)))(factors, scalings)
  for i in range(3):
    one = case.prox(x, scaled(case, float(factors[i])), float(scalings[i]))
    # float32 and matrices of norm below 10
    np.testing.assert_allclose(mapped[i], one, atol=1e-5)
  assert_no_retrace(
    lambda v, s: case.prox(v, case.hyper, s), lambda i: (x + i, jnp.float32(0.1 * (i + 1)))
  )


@pytest.mark.x64
@CASES
def test_derivative_equals_finite_differences(case, rng):
  weights = jnp.asarray(rng.standard_normal(case.shape))
  f = jax.jit(lambda v: jnp.vdot(weights, case.prox(v, case.hyper, 0.5)))
  grad = jax.jit(jax.grad(f))
  jvp = jax.jit(lambda v, h: jax.jvp(f, (v,), (h,))[1])
  for x in (draw(case, rng), *map(jnp.asarray, case.exact)):
    # Central differences: 1e-16 / 1e-6 of rounding, amplified by the curvature at an almost tie.
    np.testing.assert_allclose(grad(x), central_difference(f, x), atol=1e-7)
    np.testing.assert_allclose(jvp(x, weights), jnp.vdot(grad(x), weights), rtol=1e-10)


@pytest.mark.x64
@CASES
def test_derivative_by_strength_and_scaling(case, rng):
  x = draw(case, rng)
  weights = jnp.asarray(rng.standard_normal(case.shape))
  h = jax.jit(
    lambda p: jnp.vdot(weights, case.prox(x, scaled(case, p[0]), p[1]))
    + case.value(case.prox(x, case.hyper, 0.2), scaled(case, p[0]))
  )
  at = jnp.asarray([1.0, 0.5])
  expected = central_difference(h, at)
  np.testing.assert_allclose(jax.grad(h)(at), expected, atol=1e-7)
  np.testing.assert_allclose(jax.jacfwd(h)(at), expected, atol=1e-7)


@pytest.mark.x64
@CASES
def test_gradient_of_the_penalty(case, rng):
  x = case.prox(draw(case, rng), case.hyper, 0.01)  # inside the domain of a barrier
  value = jax.jit(lambda v: case.value(v, case.hyper))
  np.testing.assert_allclose(jax.grad(value)(x), central_difference(value, x), atol=1e-6)


@pytest.mark.x64
@CASES
def test_derivatives_are_finite_at_kinks(case, rng):
  weights = jnp.asarray(rng.standard_normal(case.shape))
  f = lambda v: jnp.vdot(weights, case.prox(v, case.hyper, 0.5))
  first = jax.jit(jax.grad(f))
  second = jax.jit(lambda v: jax.jvp(jax.grad(f), (v,), (weights,))[1])
  value = jax.jit(jax.grad(lambda v: case.value(v, case.hyper)))
  points = [np.zeros(case.shape), np.full(case.shape, 0.5), np.eye(*np.atleast_2d(weights).shape)]
  points = [p.reshape(case.shape) for p in points]
  for x in (*points, *case.kinks, *case.exact):
    x = jnp.asarray(x)
    assert bool(jnp.all(jnp.isfinite(first(x))))
    assert bool(jnp.all(jnp.isfinite(second(x))))
    if np.isfinite(float(case.value(x, case.hyper))):
      assert bool(jnp.all(jnp.isfinite(value(x))))


@pytest.mark.x64
@CASES
def test_second_derivative_equals_finite_differences(case, rng):
  x = draw(case, rng)
  weights, direction = jnp.asarray(rng.standard_normal((2, *case.shape)))
  f = jax.jit(lambda v: jnp.vdot(weights, case.prox(v, case.hyper, 0.5)))
  slope = jax.jit(lambda v: jax.jvp(f, (v,), (direction,))[1])
  forward_over_reverse = jax.jit(lambda v: jax.jvp(jax.grad(f), (v,), (direction,))[1])(x)
  np.testing.assert_allclose(forward_over_reverse, central_difference(slope, x), atol=1e-6)
  np.testing.assert_allclose(jax.grad(slope)(x), forward_over_reverse, atol=1e-9)


@CASES
def test_nan_data_stay_nan(case):
  x = jnp.ones(case.shape).at[(0,) * len(case.shape)].set(jnp.nan)
  out = case.prox(x, case.hyper, 0.5)
  assert bool(jnp.isnan(out[(0,) * len(case.shape)]))


@CASES
@pytest.mark.parametrize("size", [1e-20, 1e20])
def test_homogeneous_at_the_ends_of_float32(case, size, rng):
  """Without a penalty the data come back, however small or large."""
  x = draw(case, rng, size=size, dtype=jnp.float32)
  y = case.prox(x, case.hyper, 0.0)
  np.testing.assert_allclose(y / size, jnp.asarray(case.at_zero(x)) / size, atol=1e-5)
  f = lambda v: jnp.sum(case.prox(v, case.hyper, 0.5))
  assert bool(jnp.all(jnp.isfinite(jax.grad(f)(x))))
