"""Contracts of the operators that act on arrays of a shape: groups, rows, matrices."""

import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from tests.helpers import assert_no_retrace, central_difference
from tests.registries import prox_groups, prox_max_norms, prox_spectral

SHAPED = [*prox_groups.SHAPED, *prox_max_norms.SHAPED, *prox_spectral.SHAPED]


def name_of(case):
  tag = f"-{case.tag}" if case.tag else ""
  return f"{case.name}{tag}".replace(" ", "_")


BY_NAME = {name_of(c): c for c in SHAPED}
CASES = pytest.mark.parametrize("case", SHAPED, ids=name_of)
CONVEX = pytest.mark.parametrize("case", [c for c in SHAPED if c.convex], ids=name_of)


@functools.cache
def _compiled(name):
  case = BY_NAME[name]
  f = lambda x, w: jnp.vdot(w, case.prox(x, case.hyper, 0.5))
  objective = lambda y, x, s: (
    0.5 * jnp.sum((case.onto(y) - x) ** 2) + s * case.value(case.onto(y), case.hyper)
  )
  along = lambda fun, x, h: jax.jvp(fun, (x,), (h,))
  return SimpleNamespace(
    prox=jax.jit(lambda x, s: case.prox(x, case.hyper, s)),
    value=jax.jit(lambda x: case.value(x, case.hyper)),
    value_gradient=jax.jit(jax.grad(lambda x: case.value(x, case.hyper))),
    objective=jax.jit(objective),
    objectives=jax.jit(jax.vmap(objective, (0, None, None))),
    # value and forward derivative; reverse derivative and the forward derivative of it
    forward=jax.jit(lambda x, w, h: along(lambda v: f(v, w), x, h)),
    reverse=jax.jit(lambda x, w, h: along(lambda v: jax.grad(f)(v, w), x, h)),
  )


def compiled(case):
  """Jitted functions of a case, shared by its tests: most of the time is compilation."""
  return _compiled(name_of(case))


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
  fns = compiled(case)
  for scaling in (0.3, 1.0, 2.5):
    x = draw(case, rng)
    y = fns.prox(x, scaling)
    best = float(fns.objective(y, x, scaling))
    assert np.isfinite(best)
    # Points around the solution at all scales, multiples of the data and of the solution, zero.
    flat, data = np.ravel(y), np.ravel(x)
    steps = rng.standard_normal((400, flat.size)) * 10.0 ** rng.uniform(-6, 0.5, (400, 1))
    shrunk = np.linspace(0, 1.5, 30)[:, None]
    candidates = np.concatenate([flat + steps, shrunk * data, shrunk * flat])
    others = fns.objectives(jnp.asarray(candidates.reshape(-1, *case.shape)), x, scaling)
    assert best <= float(others.min()) + 1e-11  # the rounding of the matrix products
    found = scipy.optimize.minimize(
      lambda z, x=x, s=scaling: float(fns.objective(z.reshape(case.shape), x, s)),
      flat + 0.05 * steps[0], method="Nelder-Mead",
      options={"xatol": 1e-7, "fatol": 1e-12, "maxiter": 400},
    )  # fmt: skip
    assert best <= found.fun + 1e-9


@pytest.mark.x64
@CONVEX
def test_firmly_non_expansive(case, rng):
  x, z = (
    jax.vmap(case.onto)(jnp.asarray(3 * rng.standard_normal((200, *case.shape)))) for _ in range(2)
  )
  prox = jax.vmap(lambda v: compiled(case).prox(v, 0.7))
  px, pz = prox(x), prox(z)
  dots = lambda a, b: jnp.sum((a * b).reshape(200, -1), axis=1)
  assert bool(jnp.all(dots(px - pz, px - pz) <= dots(px - pz, x - z) + 1e-11))


@pytest.mark.x64
@CASES
def test_scaling_zero_is_the_identity_or_the_projection(case, rng):
  x = draw(case, rng)
  # Entries of size 2; a decomposition and its inverse leave some 100 roundings.
  np.testing.assert_allclose(compiled(case).prox(x, 0.0), case.at_zero(x), atol=5e-14)


@CASES
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
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
  weights, direction = jnp.asarray(rng.standard_normal((2, *case.shape)))
  fns = compiled(case)
  for x in (draw(case, rng), *map(jnp.asarray, case.exact)):
    gradient = fns.reverse(x, weights, direction)[0]
    expected = central_difference(lambda v: fns.forward(v, weights, direction)[0], x)
    # Central differences: 1e-16 / 1e-6 of rounding, amplified by the curvature at an almost tie.
    np.testing.assert_allclose(gradient, expected, atol=1e-7)
    slope = fns.forward(x, weights, direction)[1]
    np.testing.assert_allclose(slope, jnp.vdot(gradient, direction), rtol=1e-10)


@pytest.mark.x64
@CASES
def test_second_derivative_equals_finite_differences(case, rng):
  weights, direction = jnp.asarray(rng.standard_normal((2, *case.shape)))
  x, fns = draw(case, rng), compiled(case)
  second = fns.reverse(x, weights, direction)[1]
  expected = central_difference(lambda v: fns.forward(v, weights, direction)[1], x)
  np.testing.assert_allclose(second, expected, atol=1e-6)


@pytest.mark.x64
@CASES
def test_gradient_of_the_penalty(case, rng):
  fns = compiled(case)
  x = draw(case, rng)
  if not np.isfinite(fns.value(x)):
    x = fns.prox(x, 0.01)  # inside the domain of a barrier
  np.testing.assert_allclose(
    fns.value_gradient(x), central_difference(fns.value, x), rtol=1e-6, atol=1e-6
  )


@pytest.mark.x64
@CASES
def test_derivatives_are_finite_at_kinks(case, rng):
  weights, direction = jnp.asarray(rng.standard_normal((2, *case.shape)))
  fns = compiled(case)
  points = [np.zeros(case.shape), np.full(case.shape, 0.5), np.eye(*np.atleast_2d(weights).shape)]
  points = [p.reshape(case.shape) for p in points]
  for x in (*points, *case.kinks, *case.exact):
    x = jnp.asarray(x)
    assert all(bool(jnp.all(jnp.isfinite(d))) for d in fns.reverse(x, weights, direction))
    if np.isfinite(float(fns.value(x))):
      assert bool(jnp.all(jnp.isfinite(fns.value_gradient(x))))


@pytest.mark.x64
@CASES
def test_derivative_by_strength_and_scaling(case, rng):
  x = draw(case, rng)
  y = compiled(case).prox(x, 0.2)
  weights = jnp.asarray(rng.standard_normal(case.shape))
  h = lambda p: (
    jnp.vdot(weights, case.prox(x, scaled(case, p[0]), p[1])) + case.value(y, scaled(case, p[0]))
  )
  both = jax.jit(jax.value_and_grad(h))
  at = jnp.asarray([1.0, 0.5])
  np.testing.assert_allclose(
    both(at)[1], central_difference(lambda p: both(p)[0], at), rtol=1e-7, atol=1e-7
  )


@CASES
def test_nan_data_stay_nan(case):
  x = jnp.ones(case.shape).at[(0,) * len(case.shape)].set(jnp.nan)
  out = case.prox(x, case.hyper, 0.5)
  assert bool(jnp.isnan(out[(0,) * len(case.shape)]))


@CASES
def test_the_ends_of_float32(case, rng):
  """Without a penalty the data come back, however small or large; derivatives stay finite."""
  f = lambda v, s: jnp.sum(case.prox(v, case.hyper, s))
  with_gradient = jax.jit(lambda v, s: (case.prox(v, case.hyper, s), jax.grad(f)(v, s)))
  for size in (1e-20, 1e20):
    x = draw(case, rng, size=size, dtype=jnp.float32)
    y, _ = with_gradient(x, 0.0)
    np.testing.assert_allclose(y / size, jnp.asarray(case.at_zero(x)) / size, atol=1e-5)
    y, gradient = with_gradient(x, 0.5)
    assert bool(jnp.all(jnp.isfinite(y))) and bool(jnp.all(jnp.isfinite(gradient)))
