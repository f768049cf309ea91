"""Projections against jaxopt and optax, limits of one another, and optimality conditions."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxopt_robust import projections as pj
from tests.helpers import central_difference

pytestmark = pytest.mark.x64
N = 7
ATOL = 1e-13  # float64 rounding of some dozen operations on numbers below 10


@pytest.fixture
def peer():
  pytest.importorskip("jaxopt")
  from jaxopt import projection

  with jax.numpy_rank_promotion("allow"):
    yield projection


def test_limits_are_the_simplex_and_the_l1_ball_of_optax(rng):
  both = jax.jit(
    lambda x, r: (
      (
        pj.projection_sparse_simplex(x, N, r),
        pj.projection_box_section(x, (0.0, jnp.inf, 1.0, r)),
        pj.projection_polyhedron(x, (jnp.ones((1, N)), r[None], -jnp.eye(N), jnp.zeros(N))),
        optax.projections.projection_simplex(x, r),
      ),
      (
        pj.projection_weighted_l1_ball(x, (1.0, r)),
        jnp.diagonal(pj.projection_nuclear_norm_ball(jnp.diag(x), r)),
        optax.projections.projection_l1_ball(x, r),
      ),
    )
  )
  draws = [2 * rng.standard_normal(N) for _ in range(5)] + [np.ones(N), np.arange(N) * 1.0]
  for x in draws:
    for r in (0.3, 4.0, 100.0):
      for *found, expected in both(jnp.asarray(x), jnp.asarray(r)):
        for one in found:
          np.testing.assert_allclose(one, expected, atol=ATOL * max(1, r) * 10)


def test_hyperslab_with_an_infinite_bound_or_equal_bounds_is_optax(rng):
  x, a = jnp.asarray(2 * rng.standard_normal((2, N)))
  slab = jax.jit(lambda low, high: pj.projection_hyperslab(x, (a, low, high)))
  for b in (-3.0, 0.2, 50.0):
    half = optax.projections.projection_halfspace(x, a, b)
    np.testing.assert_allclose(slab(-jnp.inf, b), half, atol=ATOL)
    np.testing.assert_allclose(
      slab(-b, jnp.inf), optax.projections.projection_halfspace(x, -a, b), atol=ATOL
    )
    plane = optax.projections.projection_hyperplane(x, a, b)
    np.testing.assert_allclose(slab(b, b), plane, atol=ATOL * 50)


def test_sparse_simplex_is_jaxopt(peer, rng):
  for k in (1, 3, N):
    x = jnp.asarray(rng.standard_normal(N))
    theirs = peer.projection_sparse_simplex(x, max_nz=k)
    np.testing.assert_allclose(pj.projection_sparse_simplex(x, k), theirs, atol=ATOL)


def test_affine_set_and_polyhedron_are_jaxopt(peer, rng):
  a, g = jnp.asarray(rng.standard_normal((2, N))), jnp.asarray(rng.standard_normal((4, N)))
  inside = jnp.asarray(0.3 * rng.standard_normal(N))
  x = jnp.asarray(2 * rng.standard_normal(N))
  theirs = peer.projection_affine_set(x, (a, a @ inside))
  # Its solver stops at a relative residual of 1e-6.
  np.testing.assert_allclose(pj.projection_affine_set(x, (a, a @ inside)), theirs, atol=1e-5)
  hyper = (a, a @ inside, g, g @ inside + 0.1)
  theirs = peer.projection_polyhedron(x, hyper, check_feasible=False)
  # Its solver stops at residuals of 1e-3, in rows of norm about 2.
  np.testing.assert_allclose(pj.projection_polyhedron(x, hyper), theirs, atol=1e-2)


def test_box_section_is_jaxopt(peer, rng):
  low, high, w = -jnp.ones(N), 2 * jnp.ones(N), jnp.asarray(rng.uniform(0.3, 2, N))
  for c in (-1.0, 1.5, 8.0):
    x = jnp.asarray(3 * rng.standard_normal(N))
    theirs = peer.projection_box_section(x, (low, high, w, c))
    # Its bisection stops at 1e-5 in the multiplier, times weights below 2 and rounding slack.
    np.testing.assert_allclose(pj.projection_box_section(x, (low, high, w, c)), theirs, atol=1e-4)


@pytest.mark.parametrize("name", ["projection_transport", "kl_projection_transport"])
def test_transport_is_jaxopt(peer, name, rng):
  import jaxopt

  sim = jnp.asarray(rng.standard_normal((5, 4)))
  marginals = (jnp.asarray(rng.dirichlet(np.ones(5))), jnp.asarray(rng.dirichlet(np.ones(4))))
  solver = lambda fun: jaxopt.LBFGS(fun, tol=1e-10, maxiter=2000)
  theirs = getattr(peer, name)(sim, marginals, make_solver=solver)
  plan = getattr(pj, name)(sim, marginals)
  # Marginals off by 1e-10 move the plan by that over the least curvature; 1e-6 leaves four digits.
  np.testing.assert_allclose(plan, theirs, atol=1e-6)
  square = sim[:4]
  name = name.replace("transport", "birkhoff")
  theirs = getattr(peer, name)(square, make_solver=solver)
  np.testing.assert_allclose(getattr(pj, name)(square), theirs, atol=1e-6)


def test_optimality_of_the_polyhedron(rng):
  """x - p = A^T nu + G^T lam with lam >= 0 on the active rows."""
  a, g = rng.standard_normal((2, N)), rng.standard_normal((9, N))
  inside = 0.3 * rng.standard_normal(N)
  hyper = tuple(map(jnp.asarray, (a, a @ inside, g, g @ inside + 0.1)))
  project = jax.jit(pj.projection_polyhedron)
  for scale in (0.1, 1.0, 100.0):
    x = scale * rng.standard_normal(N)
    p = np.asarray(project(jnp.asarray(x), hyper))
    slack = np.asarray(hyper[3]) - g @ p
    active = slack <= 1e-9 * max(1, scale)
    assert slack.min() >= -1e-9 * max(1, scale)
    rows = np.concatenate([a, g[active]])
    found = np.linalg.lstsq(rows.T, x - p, rcond=None)[0]
    np.testing.assert_allclose(rows.T @ found, x - p, atol=1e-8 * max(1, scale))
    assert found[2:].min(initial=0) >= -1e-8 * max(1, scale)


def test_redundant_rows_change_nothing(rng):
  a = rng.standard_normal((2, N))
  thick = np.concatenate([a, a[:1], a[:1] - 3 * a[1:]])
  b, x = a @ np.ones(N), jnp.asarray(rng.standard_normal(N))
  expected = x - np.linalg.pinv(a) @ (a @ x - b)
  system = (jnp.asarray(thick), jnp.asarray(thick @ np.ones(N)))
  project = jax.jit(pj.projection_affine_set)
  np.testing.assert_allclose(project(x, system), expected, atol=1e-12)
  factor = jax.jit(pj.affine_factor)(system[0])
  np.testing.assert_allclose(project(x, (factor, system[1])), expected, atol=1e-12)
  rows = jax.vmap(project, (0, None))(jnp.stack([x, 2 * x]), (factor, system[1]))
  np.testing.assert_allclose(rows[0], expected, atol=1e-12)
  jacobian = jax.jacrev(project)(x, (factor, system[1]))
  np.testing.assert_allclose(jacobian, np.eye(N) - np.linalg.pinv(a) @ a, atol=1e-12)
  # Equalities given twice, in a polyhedron.
  bounds = (-jnp.eye(N), jnp.full(N, 10.0))
  both = jax.jit(pj.projection_polyhedron)(x, (*system, *bounds))
  np.testing.assert_allclose(both, expected, atol=1e-8)


NOWHERE = {
  "weighted_l1_ball": lambda x, t: pj.projection_weighted_l1_ball(x, (1.0, t)),
  "sparse_simplex": lambda x, t: pj.projection_sparse_simplex(x, 2, t),
  "hyperslab": lambda x, t: pj.projection_hyperslab(x, (jnp.ones(3), 0.0, t)),
  "box_section": lambda x, t: pj.projection_box_section(x, (0.0, 1.0, 1.0, t)),
  "second_order_cone": lambda x, t: pj.projection_second_order_cone(x, t),
  "spectral": lambda x, t: pj.projection_spectral_norm_ball(jnp.diag(x), t),
  "nuclear": lambda x, t: pj.projection_nuclear_norm_ball(jnp.diag(x), t),
}


@pytest.mark.parametrize("name", NOWHERE)
def test_empty_sets(name):
  x = jnp.asarray([1.0, -2.0, 0.5])
  with pytest.raises(ValueError, match=r"empty|>= 0|> 0"):
    NOWHERE[name](x, -1.0)
  assert bool(jnp.all(jnp.isnan(jax.jit(NOWHERE[name])(x, -1.0))))


def test_an_empty_polyhedron_is_nan():
  g = jnp.asarray([[1.0, 0.0], [-1.0, 0.0]])
  out = jax.jit(pj.projection_polyhedron)(jnp.ones(2), (None, None, g, jnp.asarray([-1.0, -1.0])))
  assert bool(jnp.all(jnp.isnan(out)))


def test_length_one():
  one = jnp.asarray([3.0])
  for p in (
    pj.projection_sparse_simplex(one, 1), pj.projection_weighted_l1_ball(one),
    pj.projection_hyperslab(one, (jnp.ones(1), 0.0, 1.0)),
    pj.projection_affine_set(one, (2 * jnp.ones((1, 1)), jnp.asarray([2.0]))),
    pj.projection_polyhedron(one, (None, None, jnp.ones((1, 1)), jnp.ones(1))),
    pj.projection_box_section(one, (0.0, 2.0, 2.0, 2.0)),
    pj.projection_spectral_norm_ball(one[None])[0], pj.projection_nuclear_norm_ball(one[None])[0],
    pj.projection_stiefel(one[None])[0], pj.projection_correlation(one[None])[0],
  ):  # fmt: skip
    np.testing.assert_allclose(p, [1.0], atol=1e-9)
  np.testing.assert_array_equal(pj.projection_top_k(one, 1), one)
  np.testing.assert_array_equal(pj.projection_rank(one[None], 1), one[None])


SMOOTH = {
  "spectral": lambda x: pj.projection_spectral_norm_ball(x, 1.2),
  "stiefel": pj.projection_stiefel,
  "nuclear": lambda x: pj.projection_nuclear_norm_ball(x, 1.2),
  "rank": lambda x: pj.projection_rank(x, 2),
}


@pytest.mark.parametrize("name", SMOOTH)
def test_derivatives_where_singular_values_repeat(name, rng):
  """Off the kinks the maps are smooth at ties, where the decomposition is not."""
  u, v = (np.linalg.qr(rng.standard_normal((n, n)))[0] for n in (4, 3))
  weights = jnp.asarray(rng.standard_normal((4, 3)))
  f = jax.jit(lambda x: jnp.vdot(weights, SMOOTH[name](x)))
  values = [2.0, 2.0, 0.5]
  x = jnp.asarray((u[:, :3] * np.asarray(values)) @ v)
  # Third derivatives are below 10: 1e-9 of curvature and 1e-10 of rounding.
  np.testing.assert_allclose(jax.grad(f)(x), central_difference(f, x, 1e-5), atol=1e-8)


def test_eigenvalues_repeat(rng):
  q = np.linalg.qr(rng.standard_normal((4, 4)))[0]
  x = jnp.asarray((q * np.asarray([1.5, 1.5, -0.7, -0.7])) @ q.T)
  weights = jnp.asarray(rng.standard_normal((4, 4)))
  f = jax.jit(lambda x: jnp.vdot(weights, pj.projection_psd(x)))
  np.testing.assert_allclose(jax.grad(f)(x), central_difference(f, x, 1e-5), atol=1e-8)


def test_what_is_not_found_is_nan():
  """Sets that do not meet, too few sweeps or steps; the origin is a point like any other."""
  box = lambda x, bounds: jnp.clip(x, min=bounds[0], max=bounds[1])
  both = pj.projection_intersection([box, box])
  apart = jax.jit(both)(jnp.zeros(2), ((0.0, 1.0), (2.0, 3.0)))
  assert bool(jnp.all(jnp.isnan(apart)))
  np.testing.assert_allclose(both(jnp.zeros(2), ((0.5, 1.0), (0.7, 3.0))), [0.7, 0.7], atol=1e-6)
  simplex, plane = (
    optax.projections.projection_simplex,
    lambda x, h: optax.projections.projection_hyperplane(x, *h),
  )
  ball = pj.projection_l2_ball
  hurried = pj.projection_intersection([simplex, plane, ball], max_steps=1)
  normal = jnp.asarray([1.0, 2.0, 4.0])
  x, sets = jnp.asarray([3.0, -1.0, 2.0]), (1.0, (normal, 2.5), 0.62)
  full = pj.projection_intersection([simplex, plane, ball])(x, sets)
  assert bool(jnp.all(jnp.isfinite(full)))
  early = hurried(x, sets)  # one sweep and some Newton steps: the point, or nothing
  assert bool(jnp.all(jnp.isnan(early) | (jnp.abs(early - full) < 1e-3)))
  matrix = 5 * jnp.asarray(np.random.default_rng(0).standard_normal((6, 6)))
  assert bool(jnp.all(jnp.isnan(pj.projection_correlation(matrix, max_steps=1))))
  assert bool(jnp.all(jnp.isfinite(pj.projection_correlation(matrix))))


def test_intersections_at_small_angles_without_interior_and_of_the_same_sets():
  """Two planes that nearly agree meet where both hold; sweeps alone stop anywhere on the way."""
  a, x = jnp.asarray([1.0, 2.0, 3.0]), jnp.asarray([3.0, -1.0, 2.0])
  tilted = a + jnp.asarray([0.0, 0.0, 1e-2])
  planes = jax.jit(pj.projection_intersection([pj.projection_hyperplane] * 2))
  sides = jax.jit(pj.projection_intersection([pj.projection_halfspace] * 2))
  onto = x - a * (a @ x - 1) / (a @ a)
  for unit in (1e-12, 1.0, 1e12):
    meet = planes(unit * x, ((a, unit), (tilted, unit)))  # p_3 = 0, p_1 + 2 p_2 = 1
    np.testing.assert_allclose(meet / unit, [3.0, -1.0, 0.0], atol=1e-6)
    for flat in (
      planes(unit * x, ((a, unit), (a, unit))), sides(unit * x, ((a, unit), (-a, -unit)))
    ):  # fmt: skip
      np.testing.assert_allclose(flat / unit, onto, atol=1e-7)
  with jax.enable_x64(False):
    single = [jnp.asarray(v, jnp.float32) for v in (x, a, tilted)]
    low = planes(single[0], ((single[1], 1.0), (single[2], 1.0)))
    assert bool(jnp.all(jnp.isnan(low)))  # no digits are left: not a wrong point
