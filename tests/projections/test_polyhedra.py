"""Polyhedra: vertices, redundant rows, empty sets, units, derivatives, and other solvers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linprog, nnls

from jaxopt_robust import projections as pj
from tests.helpers import central_difference

mapped = jax.jit(jax.vmap(pj.projection_polyhedron_with_info))
N, M, COUNT = 4, 16, 200  # one shape for all families: one program
EYE = np.eye(N)


def near_miss(x, p, a, b, g, h):
  """Largest violation, and the part of x - p off the cone of the active rows; relative to x, p."""
  size = max(np.abs(x).max(), np.abs(p).max())
  g_size, a_size = (np.maximum(np.linalg.norm(m, axis=1), 1e-300) for m in (g, a))
  g, h, a, b = g / g_size[:, None], h / g_size, a / a_size[:, None], b / a_size
  excess = g @ p - h
  active = np.abs(excess) <= 64 * np.finfo(np.float32).eps * (size + np.abs(h))
  cone = np.concatenate([g[active], a, -a]).T
  off = nnls(cone, x - p)[1] if cone.size else np.linalg.norm(x - p)
  return max(excess.max(), np.abs(a @ p - b).max(initial=0)) / size, off / size


def vertex(rng):
  g, v = rng.standard_normal((M, N)), rng.standard_normal(N)
  return 0 * EYE[:2], np.zeros(2), g, g @ v


def apex(rng):
  return 0 * EYE[:2], np.zeros(2), np.abs(rng.standard_normal((M, N))), np.zeros(M)


def simplex(rng):
  g = np.concatenate([-EYE, EYE, np.ones((1, N)), np.zeros((M - 2 * N - 1, N))])
  h = np.concatenate([np.zeros(N), np.ones(N + 1), np.zeros(M - 2 * N - 1)])
  return np.stack([np.ones(N), np.zeros(N)]), np.array([1.0, 0.0]), g, h


def flat_box(rng):
  low = rng.standard_normal(N)
  high = low + np.where(rng.random(N) < 0.5, 0, rng.random(N))
  h = np.concatenate([-low, high, -low, high])
  return 0 * EYE[:2], np.zeros(2), np.concatenate([-EYE, EYE, -EYE, EYE]), h


def line(rng):
  """Equalities as pairs of inequalities, some of them twice and up to a rounding."""
  g, v = rng.standard_normal((N - 1, N)), rng.standard_normal(N)
  g = np.concatenate([g, -g, 3 * g, rng.standard_normal((M - 3 * (N - 1), N))])
  h = g @ v
  h[3 * (N - 1) :] += 1
  return 0 * EYE[:2], np.zeros(2), g, h


def redundant(rng):
  """An equality twice, and twice more as inequalities of both signs."""
  a, v = rng.standard_normal((1, N)), rng.standard_normal(N)
  a = np.concatenate([a, -2.7 * a])
  g = np.concatenate([a, -a, rng.standard_normal((M - 4, N))])
  return a, a @ v, g, g @ v + np.concatenate([np.zeros(4), np.ones(M - 4)])


def parallel(angle):
  def make(rng):
    a, v = rng.standard_normal((2, N)), rng.standard_normal(N)
    turn = angle * rng.standard_normal((4, N))
    g = np.concatenate([a, a + turn[:2], a[:1] + turn[2:3], -a[:1] + turn[3:]])
    g = np.concatenate([g, rng.standard_normal((M - 6, N))])
    return 0 * EYE[:2], np.zeros(2), g, g @ v + np.repeat([0, 0.5], [6, M - 6])

  return make


def integers(rng):
  g = rng.integers(-1, 2, size=(M, N)).astype(float)
  return 0 * EYE[:2], np.zeros(2), g, g @ rng.integers(-2, 3, size=N)


def random(rng):
  g, v = rng.standard_normal((M, N)), rng.standard_normal(N)
  units = 10.0 ** rng.uniform(-6, 6, M)
  h = g @ v + 0.1 * rng.random(M)
  a = rng.standard_normal((2, N))
  return a, a @ v, g * units[:, None], h * units


FAMILIES = {
  "vertex": vertex, "apex": apex, "simplex": simplex, "flat_box": flat_box, "line": line,
  "redundant": redundant, "parallel_1e-2": parallel(1e-2), "parallel_1e-4": parallel(1e-4),
  "parallel_1e-6": parallel(1e-6), "integers": integers, "random": random,
}  # fmt: skip


def draw(family, rng):
  """Points and sets, [COUNT, ...] each, rounded to float32."""
  draws = [(3 * rng.standard_normal(N), *family(rng)) for _ in range(COUNT)]
  return [np.stack(part).astype(np.float32) for part in zip(*draws, strict=True)]


def solve(data, dtype=jnp.float32):
  """Points in float64 and status."""
  x, *sets = (jnp.asarray(v, dtype) for v in data)
  p, info = mapped(x, tuple(sets))
  assert p.dtype == dtype
  return np.asarray(p, float), np.asarray(info.status)


@pytest.mark.parametrize("name", FAMILIES)
def test_optimal_where_many_rows_meet(name, rng):
  """Feasible, and x - p in the cone of the active rows, in float32; at three sizes of the data."""
  x, a, b, g, h = draw(FAMILIES[name], rng)
  for unit in np.asarray([1e-12, 1.0, 1e12], np.float32):
    data = (x * unit, a, b * unit, g, h * unit)
    p, status = solve(data)
    np.testing.assert_array_equal(status, 0)
    for i in range(0, COUNT, 8):
      point, *rest = (v[i].astype(float) for v in (data[0], p, *data[1:]))
      # Right sides of rows through a point are rounded: 16 roundings of numbers below 10 each.
      assert max(near_miss(point, *rest)) <= 16 * 10 * np.finfo(np.float32).eps


@pytest.mark.x64
def test_random_sets_in_float32_have_float64_accuracy(rng):
  """None of 1000 is lost, and none has more than a few roundings, however narrow its corners."""
  for _ in range(1000 // COUNT):
    data = draw(random, rng)
    short, status = solve(data)
    np.testing.assert_array_equal(status, 0)
    long, status = solve(data, jnp.float64)
    np.testing.assert_array_equal(status, 0)
    size = np.maximum(np.abs(data[0]), np.abs(long)).max(axis=1, keepdims=True)
    assert np.max(np.abs(short - long) / size) <= 2 * np.finfo(np.float32).eps
    for i in range(0, COUNT, 40):  # those of float64 by their optimality
      point, *rest = (v[i].astype(float) for v in (data[0], long, *data[1:]))
      assert max(near_miss(point, *rest)) <= 1e-11


@pytest.mark.peer
@pytest.mark.parametrize("rows", [18, 200])
def test_quadprog_finds_the_same(rows, rng):
  quadprog = pytest.importorskip("quadprog")
  count, n = (COUNT, N) if rows == 18 else (50, 10)
  a, g, inside = (rng.standard_normal((count, k, n)) for k in (2, rows - 2, 1))
  h = np.einsum("bij,bkj->bi", g, inside) + 0.1 * rng.random((count, rows - 2))
  x, b = 3 * rng.standard_normal((count, n)), np.einsum("bij,bkj->bi", a, inside)
  x, a, b, g, h = data = [v.astype(np.float32) for v in (x, a, b, g, h)]
  rows, sides = np.concatenate([a, -g], axis=1), np.concatenate([b, -h], axis=1)
  rows, sides = rows.transpose(0, 2, 1).astype(float), sides.astype(float)
  theirs = np.stack(
    [
      quadprog.solve_qp(np.eye(n), x[i].astype(float), rows[i], sides[i], 2)[0]
      for i in range(count)
    ]
  )
  ours, status = solve(data)
  np.testing.assert_array_equal(status, 0)
  size = np.maximum(np.abs(x), np.abs(theirs)).max(axis=1, keepdims=True)
  assert np.max(np.abs(ours - theirs) / size) <= 2 * np.finfo(np.float32).eps
  if count == COUNT:
    with jax.enable_x64(True):
      ours, status = solve(data, jnp.float64)
    np.testing.assert_array_equal(status, 0)
    assert np.max(np.abs(ours - theirs) / size) <= 1e-9


def test_empty_sets_are_told_from_others_as_a_linear_program_does(rng):
  """The largest margin of random rows, by HiGHS, decides; near 0 it decides nothing."""
  x, a, b, g, h = draw(vertex, rng)
  h += np.where(np.arange(COUNT)[:, None] % 2 == 0, rng.standard_normal((COUNT, M)) + 0.8, -0.01)
  _, status = solve((x, a, b, g, h))
  margin = np.zeros(COUNT)
  for i in range(COUNT):
    rows = np.concatenate([g[i], np.linalg.norm(g[i], axis=1)[:, None]], axis=1)
    bounds = [(None, None)] * N + [(None, 10)]
    margin[i] = -linprog(np.r_[np.zeros(N), -1], rows, h[i], bounds=bounds).fun
  known = np.abs(margin) > 1e-4
  assert 20 < np.sum(margin[known] < 0) < known.sum() - 20
  np.testing.assert_array_equal(status[known], np.where(margin < 0, 4, 0)[known])


EMPTY = {
  "parallel": ([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]], [-1.0, -1.0, 9.0]),
  "zero row": ([[1.0, 0.0], [0.0, 0.0], [0.0, 1.0]], [1.0, -1e-6, 9.0]),
  "no distance": ([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]], [1.0, -np.inf, 9.0]),
  "triangle": ([[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]], [0.0, 0.0, -0.1]),
  "tiny units": ([[1e-20, 0.0], [0.0, 1e-20], [-1e-20, -1e-20]], [0.0, 0.0, -1e-21]),
}


@pytest.mark.parametrize("name", EMPTY)
def test_a_set_that_is_known_to_be_empty_is_refused(name):
  g, h = map(jnp.asarray, EMPTY[name])
  with pytest.raises(ValueError, match="polyhedron is empty"):
    pj.projection_polyhedron(jnp.ones(2), (None, None, g, h))
  p, info = pj.projection_polyhedron_with_info(jnp.ones(2), (None, None, g, h))
  assert int(info.status) == 4
  assert bool(jnp.all(jnp.isnan(p))) and bool(jnp.all(jnp.isnan(info.inequality)))


def test_equalities_that_contradict_one_another():
  a = jnp.asarray([[1.0, 1.0], [2.0, 2.0]])
  with pytest.raises(ValueError, match="polyhedron is empty"):
    pj.projection_polyhedron(jnp.ones(2), (a, jnp.asarray([1.0, 2.1]), None, None))
  with pytest.raises(ValueError, match="polyhedron is empty"):
    pj.projection_polyhedron(jnp.ones(2), (0 * a, jnp.asarray([0.0, 1.0]), None, None))
  p = pj.projection_polyhedron(jnp.asarray([2.0, 0.0]), (a, jnp.asarray([1.0, 2.0]), None, None))
  np.testing.assert_allclose(p, [1.5, -0.5], rtol=1e-6)


def test_vertices_are_exact():
  """Where active rows have entries of few bits nothing is rounded at all."""
  g = jnp.asarray([[-1.0, -1], [0, 1], [1, -1], [-1, 0], [0, -1]])
  h = jnp.asarray([-1.0, 1, 1, 0, 0])
  for x, expected in (([0.0, 1.0], [0.0, 1.0]), ([-3.0, 2.0], [0.0, 1.0]), ([0.5, -3.0], [1.0, 0])):
    p = pj.projection_polyhedron(jnp.asarray(x), (None, None, g, h))
    np.testing.assert_array_equal(p, expected)


def test_rows_that_say_nothing():
  x = jnp.asarray([2.0, 0.3])
  data = (jnp.zeros((1, 2)), jnp.zeros(1), -jnp.eye(2), jnp.zeros(2))
  np.testing.assert_array_equal(pj.projection_polyhedron(x, data), x)
  free = (None, None, jnp.eye(2), jnp.asarray([1.0, jnp.inf]))
  np.testing.assert_array_equal(pj.projection_polyhedron(9 + x, free), jnp.asarray([1.0, 9.3]))
  none = (jnp.zeros((0, 2)), jnp.zeros(0), None, None)
  np.testing.assert_array_equal(pj.projection_polyhedron(x, none), x)
  np.testing.assert_array_equal(pj.projection_polyhedron(x, (None, None, None, None)), x)


def test_what_is_not_finite_or_not_done_has_its_status():
  g, h = map(jnp.asarray, EMPTY["zero row"])
  h = jnp.zeros(3)
  for x, rows, bounds, status in (
    (jnp.asarray([jnp.nan, 1.0]), g, h, 2), (jnp.ones(2), g.at[0, 0].set(jnp.nan), h, 2),
    (jnp.ones(2), g, h.at[0].set(jnp.nan), 2), (jnp.ones(2), g, h, 0),
  ):  # fmt: skip
    p, info = pj.projection_polyhedron_with_info(x, (None, None, rows, bounds))
    assert int(info.status) == status
    np.testing.assert_array_equal(jnp.isnan(p), status != 0)
  p, info = pj.projection_polyhedron_with_info(jnp.ones(2), (None, None, g, h), max_steps=2)
  assert int(info.status) == 1 and bool(jnp.all(jnp.isnan(p)))


@pytest.mark.x64
def test_multipliers_and_derivatives_of_both_orders_in_all_arguments(rng):
  """Against finite differences, in both modes; redundant rows leave them as they are."""
  a, g, x, v = (rng.standard_normal(s) for s in ((2, 5), (4, 5), 5, 5))
  x, b, h = 3 * x, a @ v, g @ v + 0.1
  twice = lambda rows, value: (np.concatenate([rows, rows]), np.concatenate([value, value]))
  data = (*map(jnp.asarray, twice(a, b)), *map(jnp.asarray, twice(g, h)))
  p, info = pj.projection_polyhedron_with_info(jnp.asarray(x), data)
  gap = data[0].T @ info.equality + data[2].T @ info.inequality
  np.testing.assert_allclose(x - p, gap, atol=1e-13)
  assert np.min(info.inequality) >= 0 and 1 <= np.sum(np.asarray(info.inequality) > 0) <= 3
  weights = jnp.asarray(rng.standard_normal(5))
  shapes = [v.shape for v in (x, a, b, g, h)]
  sizes = np.cumsum([np.prod(s) for s in shapes])[:-1]

  def value(flat):
    v, rows, right, more, bounds = (
      part.reshape(s) for part, s in zip(jnp.split(flat, sizes), shapes, strict=True)
    )
    return jnp.vdot(weights, pj.projection_polyhedron(v, (rows, right, more, bounds)) ** 2)

  flat = jnp.concatenate([jnp.ravel(v) for v in (x, a, b, g, h)])
  move = jnp.asarray(rng.standard_normal(flat.shape))

  @jax.jit
  def derivatives(v):
    slope = jax.grad(value)
    second = jax.grad(lambda v: jnp.vdot(move, slope(v)))(v)
    return slope(v), second, jax.jvp(slope, (v,), (move,))[1]

  slope, second, forward = derivatives(flat)
  # Third derivatives are below 1e3 here: a step of 1e-6 leaves 1e-9 of curvature, 1e-9 of rounding.
  np.testing.assert_allclose(slope, central_difference(jax.jit(value), flat), atol=1e-7)
  along = (derivatives(flat + 1e-6 * move)[0] - derivatives(flat - 1e-6 * move)[0]) / 2e-6
  np.testing.assert_allclose(second, along, atol=1e-5 * float(jnp.max(jnp.abs(second))))
  np.testing.assert_allclose(forward, second, atol=1e-9 * float(jnp.max(jnp.abs(second))))


def test_the_first_jacobian_compiles_a_small_program():
  """A stand-in for seconds of compilation, which depend on the machine: operations compiled."""
  g = jnp.asarray([[1.0, 1.0, 1.0], [-1.0, 0.0, 0.0]])
  jacobian = jax.jit(jax.jacobian(pj.projection_polyhedron))
  lowered = jacobian.lower(jnp.ones(3), (None, None, g, jnp.asarray([1.0, 0.0])))
  assert len(lowered.as_text().splitlines()) < 2400


def test_sets_far_from_the_point_in_any_units():
  """From 0 to p_i >= c_i: squares of 1e30 do not fit, wherever the large numbers stand."""
  for unit in (1e-30, 1.0, 1e30):
    c = jnp.asarray([1.0, 2.0], jnp.float32) * unit
    p = pj.projection_polyhedron(jnp.zeros(2), (None, None, -jnp.eye(2), -c))
    np.testing.assert_allclose(p, c, rtol=1e-6)


@pytest.mark.x64
@pytest.mark.parametrize("unit", [1e-250, 1e200, 1e300])
def test_units_over_the_range_of_double_precision(unit):
  corner, eye = unit * jnp.array([1.0, 0.5]), jnp.eye(2)
  x, h = unit * jnp.array([3.0, 0.5]), jnp.full(2, unit)
  np.testing.assert_allclose(pj.projection_polyhedron(x, (None, None, eye, h)), corner, rtol=1e-15)
  # The rows in the same units, the point not: x <= 1.
  scaled = pj.projection_polyhedron(jnp.array([3.0, 0.5]), (None, None, unit * eye, h))
  np.testing.assert_allclose(scaled, [1.0, 0.5], rtol=1e-15)
