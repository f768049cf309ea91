"""Transport polytopes: optimality conditions, scaling forms, hard ranges, derivatives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
import scipy.sparse
import scipy.sparse.csgraph

from jaxopt_robust import projections as pj
from tests.helpers import central_difference

M, N = 9, 6
RANGES = pytest.mark.parametrize("size", [1e-3, 0.1, 1.0, 30.0, 1e3])
euclid = jax.jit(pj.projection_transport)
kl = jax.jit(pj.kl_projection_transport)
gradients = {
  pj.projection_transport: jax.jit(jax.grad(lambda s, h, w: jnp.vdot(w, euclid(s, h)), (0, 1))),
  pj.kl_projection_transport: jax.jit(jax.grad(lambda s, h, w: jnp.vdot(w, kl(s, h)), (0, 1))),
}


def problem(rng, size, *, zeros=True, dtype=np.float64):
  a, b = rng.dirichlet(np.ones(M)), rng.dirichlet(np.ones(N))
  if zeros:
    a[2], b[4] = 0, 0
  a, b = a / a.sum(), b / b.sum()
  return jnp.asarray(size * rng.standard_normal((M, N)), dtype), (
    jnp.asarray(a, dtype), jnp.asarray(b, dtype)
  )  # fmt: skip


def sums_are_right(plan, marginals, atol):
  a, b = (np.asarray(m, np.float64) for m in marginals)
  plan = np.asarray(plan, np.float64)
  np.testing.assert_allclose(plan.sum(1), a, atol=atol)
  np.testing.assert_allclose(plan.sum(0), b, atol=atol)
  assert plan.min() >= 0
  assert not plan[a == 0].any() and not plan[:, b == 0].any()


def multipliers(rest, weights):
  """u, v with rest = u + v in the least squares sense, where the weights are positive."""
  rows, columns = np.nonzero(weights)
  system = np.zeros((rows.size, M + N))
  system[np.arange(rows.size), rows] = 1
  system[np.arange(rows.size), M + columns] = 1
  # Weighted rows keep the accuracy where the plan is large.
  scale = weights[rows, columns]
  out = np.linalg.lstsq(scale[:, None] * system, scale * rest[rows, columns], rcond=None)[0]
  return out[:M], out[M:]


@pytest.mark.x64
@RANGES
def test_optimality_conditions(size, rng):
  """P - sim = u + v on the support and P - sim >= u + v off it, with marginals and signs."""
  for _ in range(3):
    sim, marginals = problem(rng, size)
    plan = np.asarray(euclid(sim, marginals))
    sums_are_right(plan, marginals, 1e-13)
    live = np.outer(*(np.asarray(m) > 0 for m in marginals))
    rest = plan - np.asarray(sim)
    u, v = multipliers(rest, (plan > 0).astype(float))
    eps = 1e-12 * max(1.0, size)  # float64 rounding of numbers of this size, in a chain of 15
    gap = rest - u[:, None] - v[None, :]
    assert np.abs(gap[plan > 0]).max() <= eps
    # Off the support the inequality binds u and v only within a component; a single component has
    # no freedom, several are tested by the objective below.
    graph = scipy.sparse.bmat([[None, plan > 0], [(plan > 0).T, None]])
    parts = scipy.sparse.csgraph.connected_components(graph)[0] - (~live.any(1)).sum()
    if parts - (~live.any(0)).sum() == 1:
      assert gap[live & (plan == 0)].min(initial=0) >= -eps


@pytest.mark.x64
@RANGES
def test_nearest_among_vertices_and_mixtures(size, rng):
  """<P - sim, Z - P> >= 0 for all Z: it suffices at the minimiser, a linear program."""
  sim, marginals = problem(rng, size, zeros=False)
  plan = np.asarray(euclid(sim, marginals))
  a, b = (np.asarray(m) for m in marginals)
  eye = np.concatenate([np.kron(np.eye(M), np.ones((1, N))), np.kron(np.ones((1, M)), np.eye(N))])
  gap = plan - np.asarray(sim)
  best = scipy.optimize.linprog(gap.ravel(), A_eq=eye, b_eq=np.concatenate([a, b]))
  assert best.status == 0
  # linprog (HiGHS) is feasible and optimal to 1e-7 of the numbers.
  assert best.fun - np.sum(gap * plan) >= -1e-7 * max(1.0, size)


@pytest.mark.x64
@RANGES
def test_scaling_form_of_the_entropic_plan(size, rng):
  """P = diag(e^u) exp(sim) diag(e^v): log P - sim is a sum of rows and columns."""
  for _ in range(3):
    sim, marginals = problem(rng, size)
    plan = np.asarray(kl(sim, marginals))
    sums_are_right(plan, marginals, 1e-9)  # tol, times a largest marginal below 1
    support = plan > 1e-290
    rest = np.where(support, np.log(np.where(support, plan, 1)) - np.asarray(sim), 0)
    u, v = multipliers(rest, support.astype(float))
    gap = np.abs(rest - u[:, None] - v[None, :])[support].max()
    assert gap <= 1e-11 * max(1.0, size)


@pytest.mark.parametrize("size", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("project", [euclid, kl], ids=["euclid", "kl"])
def test_float32(project, size, rng):
  sim, marginals = problem(rng, size, dtype=np.float32)
  plan = project(sim, marginals)
  assert plan.dtype == jnp.float32
  # The entropic plan is exp of numbers of this size, known to their rounding.
  sums_are_right(plan, marginals, 64 * np.finfo(np.float32).eps * max(1.0, size))


@pytest.mark.x64
@pytest.mark.parametrize("size", [0.05, 1.0])
@pytest.mark.parametrize("project", list(gradients), ids=["euclid", "kl"])
def test_derivatives_with_zero_marginals(project, size, rng):
  sim, (a, b) = problem(rng, size)
  weights = jnp.asarray(rng.standard_normal((M, N)))
  value = lambda s, h: jnp.vdot(weights, (euclid if "kl" not in project.__name__ else kl)(s, h))
  by_sim, by_marginals = gradients[project](sim, (a, b), weights)
  # Central differences with a step of 1e-6: rounding 1e-10, the solves' 1e-9 tolerance over it.
  np.testing.assert_allclose(
    by_sim, central_difference(lambda s: value(s, (a, b)), sim, 1e-5), atol=2e-5
  )
  da, db = rng.standard_normal(M) * (a > 0), rng.standard_normal(N) * (b > 0)
  da, db = da - da.sum() * a, db - db.sum() * b
  got = jnp.vdot(by_marginals[0], da) + jnp.vdot(by_marginals[1], db)
  at = lambda t: value(sim, (a + t * da, b + t * db))
  np.testing.assert_allclose(got, (at(1e-5) - at(-1e-5)) / 2e-5, atol=2e-5 * float(1 + abs(got)))
  tangent = jax.jvp(lambda s: value(s, (a, b)), (sim,), (weights,))[1]
  np.testing.assert_allclose(tangent, jnp.vdot(by_sim, weights), rtol=1e-8, atol=1e-10)


@pytest.mark.x64
@pytest.mark.parametrize("project", [euclid, kl], ids=["euclid", "kl"])
def test_mapped_over_mixed_ranges_and_marginals(project, rng):
  cases = [problem(rng, size) for size in (0.01, 1.0, 100.0)]
  stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *cases)
  mapped = jax.jit(jax.vmap(project))(*stacked)
  for got, (sim, marginals) in zip(mapped, cases, strict=True):
    np.testing.assert_allclose(got, project(sim, marginals), atol=1e-9)


@pytest.mark.parametrize("project", [euclid, kl], ids=["euclid", "kl"])
def test_what_cannot_be_is_nan(project):
  sim = jnp.zeros((M, N))
  even, other = jnp.full(M, 1 / M), jnp.full(N, 1 / N)
  assert bool(jnp.all(jnp.isnan(project(sim, (even, 2 * other)))))
  assert bool(jnp.all(jnp.isnan(project(sim, (even.at[0].add(-0.5).at[1].add(0.5), other)))))
  np.testing.assert_array_equal(project(sim, (0 * even, 0 * other)), sim)


@pytest.mark.parametrize("name", ["birkhoff", "kl"])
def test_birkhoff_small_and_degenerate(name):
  project = pj.projection_birkhoff if name == "birkhoff" else pj.kl_projection_birkhoff
  np.testing.assert_allclose(project(jnp.full((1, 1), -7.0)), [[1.0]], rtol=1e-6)
  np.testing.assert_allclose(project(jnp.full((5, 5), 3.0)), np.full((5, 5), 0.2), atol=1e-6)
  # Far apart entries give the best assignment: a vertex, where the supports fall apart.
  order = np.random.default_rng(0).permutation(5)
  near = project(1e3 * jnp.eye(5)[order])
  np.testing.assert_allclose(near, np.eye(5)[order], atol=1e-5)


def test_too_few_steps_are_not_taken_for_a_result(rng):
  sim, marginals = problem(rng, 30.0, dtype=np.float32)
  for project in (pj.projection_transport, pj.kl_projection_transport):
    assert bool(jnp.all(jnp.isnan(project(sim, marginals, max_steps=1))))


@pytest.mark.x64
def test_at_a_huge_range_it_is_the_optimal_assignment():
  """Costs over 1e-8: the quadratic term only breaks ties, and no step may go astray."""
  from scipy.optimize import linear_sum_assignment

  rng = np.random.default_rng(11)
  points = rng.standard_normal((2, 20, 16, 3))
  costs = ((points[0][:, :, None] - points[1][:, None]) ** 2).sum(-1)
  plans = jax.jit(jax.vmap(pj.projection_birkhoff))(jnp.asarray(-costs / 1e-8))
  for cost, plan in zip(costs, plans, strict=True):
    best = np.zeros_like(cost)
    best[linear_sum_assignment(cost)] = 1
    np.testing.assert_allclose(plan, best, atol=1e-12)
