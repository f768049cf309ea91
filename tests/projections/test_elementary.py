"""Half-spaces, boxes, simplex, balls, spheres: optax's values, units, NaN, zeros, derivatives."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxopt_robust import projections as pj
from tests.helpers import central_difference
from tests.registries.projections_elementary import HYPER

N = 5
A = np.asarray([1.0, -2.0, 0.5, 0.0, 3.0])
# name -> (hyper-parameters at a unit, optax's call)
ALL = {
  "non_negative": (lambda c: None, lambda x, h: optax.projections.projection_non_negative(x)),
  "box": (lambda c: (-0.3 * c, c * np.abs(A)), lambda x, h: jnp.clip(x, min=h[0], max=h[1])),
  "hyperplane": (
    lambda c: (A, 0.7 * c),
    lambda x, h: optax.projections.projection_hyperplane(x, *h),
  ),
  "halfspace": (lambda c: (A, 0.1 * c), lambda x, h: optax.projections.projection_halfspace(x, *h)),
}
for _name in ("hypercube", "simplex", "l1_sphere", "l1_ball", "l2_sphere", "l2_ball", "linf_ball"):
  ALL[_name] = (lambda c: 1.3 * c, getattr(optax.projections, f"projection_{_name}"))
EACH = pytest.mark.parametrize("name", ALL)


def test_all_are_here():
  assert set(ALL) == set(HYPER)


@EACH
def test_equals_optax_in_any_units(name, rng):
  """At 1; at 1e-30 to 1e30, where squares leave the range, it scales along."""
  hyper, theirs = ALL[name]
  ours = jax.jit(getattr(pj, f"projection_{name}"))
  cast = lambda h: jax.tree.map(lambda v: jnp.asarray(v, jnp.float32), h)
  for _ in range(5):
    x = jnp.asarray(2 * rng.standard_normal(N), jnp.float32)
    base = theirs(x, cast(hyper(1.0)))
    for c in (1.0, 1e-30, 1e-12, 1e12, 1e30):
      got = np.asarray(ours(jnp.float32(c) * x, cast(hyper(c))), float) / c
      # Sums of five products of numbers below 10.
      np.testing.assert_allclose(got, base, atol=64 * np.finfo(np.float32).eps)


@EACH
def test_pytrees_empty_leaves_and_dtypes(name):
  hyper, project = ALL[name][0](1.0), getattr(pj, f"projection_{name}")
  x = jnp.asarray([0.5, -2.0, 1.0, 3.0, 0.1], jnp.bfloat16)
  cut = lambda v: {"a": v[:2], "b": (v[2:], v[:0])}
  like = hyper
  if name in ("hyperplane", "halfspace"):
    like = (cut(A), hyper[1])
  elif name == "box":
    like = (hyper[0], cut(hyper[1]))
  tree, flat = project(cut(x), like), project(x, hyper)
  assert flat.dtype == jnp.bfloat16
  for one, other in zip(jax.tree.leaves(tree), jax.tree.leaves(cut(flat)), strict=True):
    assert one.dtype == jnp.bfloat16
    np.testing.assert_array_equal(one, other)


@EACH
def test_nan_stays_and_zeros_have_an_image(name):
  hyper, project = ALL[name][0](1.0), getattr(pj, f"projection_{name}")
  out = project(jnp.asarray([0.0, jnp.nan, 1.0, 2.0, 3.0]), hyper)
  assert bool(jnp.isnan(out[1]))
  zero = project(jnp.zeros(N), hyper)
  assert bool(jnp.all(jnp.isfinite(zero)))
  if name.endswith("sphere"):
    order = 1 if "l1" in name else 2
    np.testing.assert_allclose(jnp.linalg.norm(zero, order), 1.3, rtol=1e-6)
    part = project(jnp.asarray([0.1, 0.0, 0.0, 0.0, 0.0]), hyper)
    np.testing.assert_allclose(jnp.linalg.norm(part, order), 1.3, rtol=1e-6)
  slope = jax.grad(lambda v: jnp.sum(project(v, hyper)))(jnp.zeros(N))
  assert bool(jnp.all(jnp.isfinite(slope)))


@pytest.mark.x64
@EACH
def test_derivatives_equal_finite_differences(name, rng):
  hyper, project = ALL[name][0](1.0), getattr(pj, f"projection_{name}")
  x, weights = jnp.asarray(rng.standard_normal((2, N)))
  value = jax.jit(lambda v: jnp.vdot(weights, project(v, hyper)))
  # A step of 1e-6 leaves 1e-10 of rounding and less of curvature.
  np.testing.assert_allclose(jax.grad(value)(x), central_difference(value, x), atol=1e-8)


def test_traced_sizes_that_cannot_be():
  for name in ("hypercube", "simplex", "l1_sphere", "l1_ball", "l2_sphere", "l2_ball", "linf_ball"):
    out = jax.jit(getattr(pj, f"projection_{name}"))(jnp.ones(3), -1.0)
    assert bool(jnp.all(jnp.isnan(out))), name
  assert bool(jnp.all(jnp.isnan(jax.jit(pj.projection_box)(jnp.ones(3), (1.0, 0.0)))))
  for name in ("hyperplane", "halfspace"):
    out = jax.jit(getattr(pj, f"projection_{name}"))(jnp.ones(3), (jnp.zeros(3), -1.0))
    assert bool(jnp.all(jnp.isnan(out))), name


def test_nan_in_a_block_of_a_matrix_is_not_lost():
  """All spectral functions of diag(NaN, 1) depend on the NaN; a correlation has nothing to say."""
  x = jnp.asarray([[jnp.nan, 0.0], [0.0, 1.0]])
  for project in (
    pj.projection_psd, pj.projection_correlation, pj.projection_spectral_norm_ball,
    pj.projection_nuclear_norm_ball, pj.projection_rank, pj.projection_stiefel,
    pj.projection_birkhoff, pj.kl_projection_birkhoff,
  ):  # fmt: skip
    assert bool(jnp.all(jnp.isnan(project(x)))), project.__name__


def test_nan_in_a_bound_is_no_empty_set():
  x, nan = jnp.asarray([0.2, 0.1]), jnp.nan
  for out in (
    pj.projection_hyperslab(x, (jnp.ones(2), nan, 1.0)),
    pj.projection_box_section(x, (0.0, 1.0, jnp.asarray([nan, 1.0]), 1.0)),
    pj.projection_box_section(x, (jnp.asarray([nan, 0.0]), 1.0, 1.0, 1.0)),
    pj.projection_box_section(x, (0.0, 1.0, 1.0, nan)),
    pj.projection_box(x, (nan, 1.0)), pj.projection_halfspace(x, (jnp.ones(2), nan)),
  ):  # fmt: skip
    assert bool(jnp.all(jnp.isnan(out)))


def test_weighted_l1_ball_with_weights_of_any_size(rng):
  """Against bisection in float64: weights, entries and radii from 1e-4 to 1e4, in float32."""
  count, n = 500, 20
  size = lambda *shape: 10.0 ** rng.uniform(-4, 4, shape)
  x, w, r = rng.standard_normal((count, n)) * size(count, n), size(count, n), size(count)
  x, w, r = (np.asarray(v, np.float32) for v in (x, w, r))
  project = jax.jit(jax.vmap(lambda x, w, r: pj.projection_weighted_l1_ball(x, (w, r))))
  got = np.asarray(project(x, w, r), float)
  x, w, r = (v.astype(float) for v in (x, w, r[:, None]))
  low, high = np.zeros((count, 1)), np.max(np.abs(x) / w, axis=1, keepdims=True)
  shrunk = lambda tau: np.maximum(np.abs(x) - tau * w, 0)
  for _ in range(120):
    middle = (low + high) / 2
    above = np.sum(w * shrunk(middle), axis=1, keepdims=True) > r
    low, high = np.where(above, middle, low), np.where(above, high, middle)
  inside = np.sum(w * np.abs(x), axis=1, keepdims=True) <= r
  expected = np.where(inside, x, np.sign(x) * shrunk(high))
  # Some dozen roundings of the largest entry.
  miss = np.max(np.abs(got - expected), axis=1) / np.max(np.abs(x), axis=1)
  assert np.max(miss) <= 32 * np.finfo(np.float32).eps


def _by_bisection(x, low, high, w, c):
  """float64[draws, n], the points of box sections."""
  ends = np.concatenate([(low - x) / w, (high - x) / w], axis=1)
  left, right = np.min(ends, axis=1, keepdims=True), np.max(ends, axis=1, keepdims=True)
  for _ in range(150):
    middle = (left + right) / 2
    below = np.sum(w * np.clip(x + middle * w, low, high), axis=1, keepdims=True) < c[:, None]
    left, right = np.where(below, middle, left), np.where(below, right, middle)
  return np.clip(x + right * w, low, high)


def test_box_section_with_weights_of_any_size(rng):
  """Against bisection in float64: weights of both signs from 1e-4 to 1e4, in float32."""
  count, n = 500, 20
  w = 10.0 ** rng.uniform(-4, 4, (count, n)) * rng.choice([-1, 1], (count, n))
  x, low, high = rng.standard_normal((3, count, n))
  x, low, high, w = (np.asarray(v, np.float32) for v in (x, -np.abs(low), np.abs(high), w))
  least, most = np.where(w > 0, low, high), np.where(w > 0, high, low)
  least, most = (np.sum(w.astype(float) * v, axis=1) for v in (least, most))
  c = np.asarray(least + rng.uniform(0.05, 0.95, count) * (most - least), np.float32)
  project = jax.jit(
    jax.vmap(lambda x, low, high, w, c: pj.projection_box_section(x, (low, high, w, c)))
  )
  got = np.asarray(project(x, low, high, w, c), float)
  expected = _by_bisection(*(v.astype(float) for v in (x, low, high, w, c)))
  # Some roundings of an entry: the right side is one of float32 already.
  size = np.maximum(np.max(np.abs(expected), axis=1), np.max(np.abs(x), axis=1))
  assert np.max(np.max(np.abs(got - expected), axis=1) / size) <= 2 * np.finfo(np.float32).eps


def test_correlation_of_entries_far_larger_than_one():
  """Of -c X with c -> inf three unit vectors with the angles of a triangle: sides 4, 5, 6."""
  x = -np.asarray([[0.0, 1 / 4, 1 / 5], [1 / 4, 0.0, 1 / 6], [1 / 5, 1 / 6, 0.0]])
  cosines = [-3 / 4, -9 / 16, -1 / 8]  # by the law of cosines
  project = jax.jit(pj.projection_correlation)
  for c in (1e6, 2.0**40, 1e30):
    out = np.asarray(project(jnp.asarray(c * x, jnp.float32)), float)
    eps = np.finfo(np.float32).eps
    # At the multiple 1 / sqrt(eps) the angles are off by H^-1 g sqrt(eps): |H^-1| <= 2, |g| <= 1.
    np.testing.assert_allclose(out[np.triu_indices(3, 1)], cosines, atol=2 * np.sqrt(eps))
    np.testing.assert_array_equal(np.diagonal(out), 1)
    assert np.linalg.eigvalsh(out)[0] >= -8 * eps
  both = project(jnp.asarray([[1.0, 2.0**41, 0], [2.0**41, 1.0, 0], [0, 0, 1.0]], jnp.float32))
  np.testing.assert_allclose(both, [[1, 1, 0], [1, 1, 0], [0, 0, 1]], atol=1e-6)


def test_box_section_from_where_no_entry_moves():
  rng = np.random.default_rng(0)
  x, w, share = rng.standard_normal((3, 2000, 2)).astype(np.float32)
  # At the first tau both are at a bound; only the entry that leaves its bound can meet the sum.
  x[:3] = [[0.03, 1.36], [2.04, -2.56], [-1.14, 0.77]]
  w[:3] = 1
  low = np.where(np.arange(2000) < 3, 0, -1).astype(np.float32)
  c = (w * np.clip(share, -1, 1)).sum(axis=1)
  c[:3] = [1.2, 1.6, 1.87]
  project = lambda x, low, w, c: pj.projection_box_section(x, (low, 1.0, w, c))
  found = np.asarray(jax.jit(jax.vmap(project))(x, low, w, c))
  np.testing.assert_allclose(found[:3], [[0.2, 1], [1, 0.6], [0.87, 1]], rtol=1e-6)
  # The kinks may be rounded to either side of the bound: the sum is met all the same.
  miss = (w.astype(float) * found).sum(axis=1) - c
  assert np.all(np.abs(miss) <= 4e-7 * np.abs(w).sum(axis=1))
