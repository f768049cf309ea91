"""Contracts of every projection: feasible, nearest, non-expansive, differentiable."""

import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers import assert_no_retrace, central_difference
from tests.registries.projections import CASES, arrays

ALL = pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
CONVEX = pytest.mark.parametrize("case", [c for c in CASES if c.convex], ids=lambda c: c.name)
# Rounding of float64 through conditioned solves; the iterative ones have tol 1e-8 or below.
ATOL = {"projection_intersection": 1e-6}


BY_NAME = {(c.name, c.tag): c for c in CASES}


@functools.cache
def _compiled(key):
  case = BY_NAME[key]
  return SimpleNamespace(
    project=jax.jit(case.project),
    mapped=jax.jit(jax.vmap(case.project, in_axes=(0, None))),
    slope=jax.jit(jax.grad(lambda x, hyper: jnp.sum(case.project(x, hyper)))),
  )


def compiled(case):
  """Jitted functions of a case, shared by its tests: most of the time is compilation."""
  return _compiled((case.name, case.tag))


@pytest.mark.x64
@ALL
def test_feasible_idempotent_and_nearest(case, rng):
  hyper, atol = arrays(case.hyper), ATOL.get(case.name, 1e-10)
  project = compiled(case).project
  for scale in (0.1, 1.0, 10.0):
    x = scale * rng.standard_normal(case.shape)
    p = np.asarray(project(jnp.asarray(x), hyper))
    assert np.max(np.abs(case.violation(p))) <= atol * max(1, scale)
    np.testing.assert_allclose(project(jnp.asarray(p), hyper), p, atol=10 * atol * max(1, scale))
    for _ in range(50):
      z = case.feasible(rng, p)
      assert np.max(np.abs(case.violation(z))) <= 1e-9 * (1 + np.max(np.abs(z)))
      if case.convex:  # the obtuse-angle inequality
        size = np.linalg.norm(x - p) * np.linalg.norm(z - p)
        assert np.sum((x - p) * (z - p)) <= 10 * atol * (1 + size)
      else:
        assert np.sum((x - p) ** 2) <= np.sum((x - z) ** 2) + 1e-12


@pytest.mark.x64
@CONVEX
def test_non_expansive(case, rng):
  x, z = (jnp.asarray(2 * rng.standard_normal((20, *case.shape))) for _ in range(2))
  project = compiled(case).mapped
  gap = jnp.reshape(project(x, arrays(case.hyper)) - project(z, arrays(case.hyper)), (20, -1))
  far = jnp.reshape(x - z, (20, -1))
  assert bool(jnp.all(jnp.sum(gap**2, 1) <= jnp.sum(gap * far, 1) + 1e-7))


@pytest.mark.x64
@ALL
def test_derivatives_equal_finite_differences(case, rng):
  hyper = arrays(case.hyper)
  weights = jnp.asarray(rng.standard_normal(case.shape))
  x = jnp.asarray(1.5 * rng.standard_normal(case.shape))
  f = lambda v, h: jnp.vdot(weights, case.project(v, h))
  # One program for values and both gradients.
  both = jax.jit(jax.value_and_grad(f, argnums=0 if case.hyper is None else (0, 1)))
  value = lambda v: both(v, hyper)[0]
  atol = 1e-5 if case.name == "projection_intersection" else 1e-6
  grad, by_hyper = both(x, hyper)[1], None
  if case.hyper is not None:
    grad, by_hyper = grad
  np.testing.assert_allclose(grad, central_difference(value, x, 1e-5), atol=atol)
  forward = jax.jit(lambda v: jax.jvp(lambda u: f(u, hyper), (v,), (weights,))[1])(x)
  np.testing.assert_allclose(forward, jnp.vdot(grad, weights), atol=1e-8)
  second = jax.jit(jax.grad(lambda v: jnp.vdot(weights, jax.grad(f)(v, hyper))))(x)
  assert bool(jnp.all(jnp.isfinite(second)))
  if case.hyper is None:
    return
  # A direction that keeps the totals of marginals equal; any other one serves as well elsewhere.
  change = jax.tree.map(lambda h: jnp.asarray(rng.standard_normal(h.shape)), hyper)
  if case.name == "transport":
    change = jax.tree.map(lambda h: h - jnp.mean(h), change)
  at = lambda t: both(x, jax.tree.map(lambda h, d: h + t * d, hyper, change))[0]
  expected = (at(1e-6) - at(-1e-6)) / 2e-6
  got = jax.tree.map(jnp.vdot, by_hyper, change)
  np.testing.assert_allclose(sum(jax.tree.leaves(got)), expected, atol=10 * atol)


@ALL
@pytest.mark.parametrize("value", [0.0, 1.0, 1e20, 1e-20])
def test_ties_and_extreme_scales_are_finite(case, value):
  hyper = arrays(case.hyper)
  x = jnp.full(case.shape, value, jnp.float32)
  p, back = compiled(case).project(x, hyper), compiled(case).slope(x, hyper)
  assert bool(jnp.all(jnp.isfinite(p))) and bool(jnp.all(jnp.isfinite(back)))
  # Rounding of float32 relative to x, or to the set.
  assert np.max(np.abs(case.violation(np.asarray(p, np.float64)))) <= 3e-5 * max(1, value)


@ALL
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_dtype_is_kept_and_nothing_is_retraced(case, dtype, rng):
  hyper = arrays(case.hyper)
  x = jnp.asarray(rng.standard_normal(case.shape), dtype)
  p = compiled(case).project(x, hyper)
  assert p.dtype == dtype
  if dtype == jnp.bfloat16:  # computed in float32: one rounding away
    wide = compiled(case).project(x.astype(jnp.float32), hyper)
    np.testing.assert_allclose(p.astype(jnp.float32), wide, rtol=2**-8, atol=1e-6)
  if dtype == jnp.float32:
    scaled = lambda i: jax.tree.map(lambda h: h * (1 + 0.01 * i), hyper)
    assert_no_retrace(lambda v, h: case.project(v, h), lambda i: (x + i, scaled(i)))


@ALL
def test_mapped_equals_one_by_one(case, rng):
  hyper = arrays(case.hyper)
  x = jnp.asarray(3 * rng.standard_normal((3, *case.shape)), jnp.float32).at[0].multiply(1e-3)
  mapped = compiled(case).mapped(x, hyper)
  project = compiled(case).project
  for i in range(3):
    np.testing.assert_allclose(mapped[i], project(x[i], hyper), atol=3e-4)


@ALL
def test_nan_data_give_nan(case):
  x = jnp.ones(case.shape).at[(0,) * len(case.shape)].set(jnp.nan)
  assert bool(jnp.any(jnp.isnan(case.project(x, arrays(case.hyper)))))
