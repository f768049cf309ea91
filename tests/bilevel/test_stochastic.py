"""Directions of stochastic methods: fixed points, their recursions written anew, limits."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxopt_robust import bilevel, solvers
from jaxopt_robust.bilevel import BilevelBatch, BilevelVariables

NY, NX, COUNT = 4, 3, 5


class FiniteSum:
  """g_i = 1/2 y^T H_i y - y^T (B_i x + c_i), f_j = 1/2 ||y - t_j||^2 + |x|^2 / 20."""

  def __init__(self, rng):
    a = rng.normal(size=(COUNT, NY, NY))
    self.h = a @ np.swapaxes(a, 1, 2) / NY + 0.5 * np.eye(NY)
    self.b = rng.normal(size=(COUNT, NY, NX))
    self.c, self.t = rng.normal(size=(2, COUNT, NY))

  def mean(self):
    return self.h.mean(0), self.b.mean(0), self.c.mean(0), self.t.mean(0)

  def batch(self, i=None, j=None):
    """One row of each, or (None) the means: full batches, since all is linear in the rows."""
    pick = lambda a, k: jnp.asarray(a.mean(0) if k is None else a[k])
    inner = (pick(self.h, i), pick(self.b, i), pick(self.c, i))
    index = lambda k: jnp.asarray(0 if k is None else k, jnp.int32)
    return BilevelBatch(inner, pick(self.t, j), index(i), index(j))

  def batches(self, rows, columns):
    """A row a step; None for the means."""
    pick = lambda a, ks: jnp.asarray(
      np.broadcast_to(a.mean(0), (len(ks), *a.shape[1:])) if ks[0] is None else a[np.asarray(ks)]
    )
    index = lambda ks: jnp.asarray([0 if k is None else int(k) for k in ks], jnp.int32)
    inner = (pick(self.h, rows), pick(self.b, rows), pick(self.c, rows))
    return BilevelBatch(inner, pick(self.t, columns), index(rows), index(columns))

  def solution(self, x):
    h, b, c, t = self.mean()
    y = np.linalg.solve(h, b @ x + c)
    v = np.linalg.solve(h, y - t)
    return y, v, b.T @ v + 0.1 * x  # cross derivative of g is -B


def inner(y, x, batch):
  h, b, c = batch
  return 0.5 * y @ h @ y - y @ (b @ x + c)


def outer(y, x, batch):
  return 0.5 * jnp.sum((y - batch) ** 2) + 0.05 * jnp.sum(x**2)


SOBA = bilevel.soba_directions(inner, outer)


def sgd(x, y, v=None):
  return BilevelVariables(optax.sgd(x), optax.sgd(y), optax.sgd(y if v is None else v))


def start(x=None):
  return BilevelVariables(jnp.ones(NX) if x is None else jnp.asarray(x), jnp.zeros(NY),
                          jnp.zeros(NY))  # fmt: skip


@functools.partial(jax.jit, static_argnames="solver")
def scan(solver, variables, batches):
  """All variables of a run, one row a step."""
  first = jax.tree.map(lambda leaf: leaf[0], batches)
  state = solver.init(variables, None, first)

  def step(state, batch):
    state, info = solver.step(state, None, batch)
    return state, (state.params, info)

  return jax.lax.scan(step, state, batches)


@pytest.mark.x64
def test_with_a_fixed_outer_variable_soba_finds_solution_adjoint_and_gradient(rng):
  problem = FiniteSum(rng)
  x = rng.normal(size=NX)
  full = problem.batches([None] * 600, [None] * 600)
  state, _ = scan(bilevel.stochastic_bilevel(SOBA, sgd(0.0, 0.3)), start(x), full)
  y, v, grad = problem.solution(x)
  np.testing.assert_allclose(state.params.y, y, atol=1e-9)
  np.testing.assert_allclose(state.params.v, v, atol=1e-9)
  found, _, value = SOBA.directions(state.params, (), problem.batch())
  np.testing.assert_allclose(found.x, grad, atol=1e-8)
  np.testing.assert_allclose([found.y, found.v], 0, atol=1e-8)
  np.testing.assert_allclose(value, 0.5 * np.sum((y - problem.t.mean(0)) ** 2) + 0.05 * x @ x)


@pytest.mark.x64
def test_one_step_of_soba_is_its_formula_with_all_old_values(rng):
  problem = FiniteSum(rng)
  x, y, v = rng.normal(size=NX), *rng.normal(size=(2, NY))
  solver = bilevel.stochastic_bilevel(SOBA, sgd(0.1, 0.2, 0.3))
  at = BilevelVariables(*(jnp.asarray(a) for a in (x, y, v)))
  state, info = scan(solver, at, problem.batches([2], [4]))
  h, b, c, t = problem.h[2], problem.b[2], problem.c[2], problem.t[4]
  np.testing.assert_allclose(state.params.y, y - 0.2 * (h @ y - b @ x - c), rtol=1e-12)
  np.testing.assert_allclose(state.params.v, v - 0.3 * (h @ v - (y - t)), rtol=1e-12)
  slope = 0.1 * x + b.T @ v
  np.testing.assert_allclose(state.params.x, x - 0.1 * slope, rtol=1e-12)
  np.testing.assert_allclose(info[1].error[0], np.linalg.norm(slope), rtol=1e-12)


@pytest.mark.x64
def test_saga_of_one_batch_is_soba_and_its_mean_is_that_of_the_table(rng):
  problem = FiniteSum(rng)
  rows, columns = rng.integers(0, COUNT, size=(2, 40))
  full = problem.batches([None] * 30, [None] * 30)
  one = bilevel.saga(SOBA, num_inner=1, num_outer=1)
  rates = sgd(0.05, 0.2)
  a, _ = scan(bilevel.stochastic_bilevel(one, rates), start(), full)
  b, _ = scan(bilevel.stochastic_bilevel(SOBA, rates), start(), full)
  np.testing.assert_allclose(a.params.x, b.params.x, rtol=1e-12)
  table = bilevel.saga(SOBA, num_inner=COUNT, num_outer=COUNT)
  state, _ = scan(bilevel.stochastic_bilevel(table, rates), start(), problem.batches(rows, columns))
  for part in state.memory:
    for rows_of, mean in zip(jax.tree.leaves(part.rows), jax.tree.leaves(part.mean), strict=True):
      np.testing.assert_allclose(rows_of.mean(0), mean, atol=1e-13)


@pytest.mark.x64
def test_saga_converges_where_constant_steps_of_soba_stay_noisy(rng):
  problem = FiniteSum(rng)
  rows, columns = rng.integers(0, COUNT, size=(2, 4000))
  batches = problem.batches(rows, columns)
  rates = sgd(0.02, 0.05)
  table = bilevel.saga(SOBA, num_inner=COUNT, num_outer=COUNT)
  size = {}
  for name, method in (("saba", table), ("soba", SOBA)):
    state, _ = scan(bilevel.stochastic_bilevel(method, rates), start(), batches)
    size[name] = np.linalg.norm(problem.solution(np.asarray(state.params.x))[2])
  assert size["saba"] < 1e-4 and size["soba"] > 1e-3


def recursion(problem, share, steps, rates, rows, columns, momentum="xyv"):
  """NumPy's d_k = new + share_k (d - old), for the directions with momentum."""

  def directions(z, i, j):
    x, y, v = z
    h, b, c, t = problem.h[i], problem.b[i], problem.c[i], problem.t[j]
    return [0.1 * x + b.T @ v, h @ y - b @ x - c, h @ v - (y - t)]

  z = [np.ones(NX), np.zeros(NY), np.zeros(NY)]
  old, d = z, None
  for k in range(steps):
    new = directions(z, rows[k], columns[k])
    past = directions(old, rows[k], columns[k])
    s = 0.0 if d is None else share(k)
    d = [
      n + (s * (e - p) if s and name in momentum else 0)
      for name, n, e, p in zip("xyv", new, d or new, past, strict=True)
    ]
    old, z = z, [a - r * e for a, r, e in zip(z, rates, d, strict=True)]
  return z


@pytest.mark.x64
@pytest.mark.parametrize(
  ("wrapped", "share", "momentum"),
  [
    (bilevel.storm(SOBA, rate=0.3), lambda k: 0.7, "xyv"),
    (bilevel.storm(SOBA, rate=0.3, parts=("x",)), lambda k: 0.7, "x"),
    (bilevel.storm(SOBA, rate=1.0), lambda k: 0.0, "xyv"),
    (bilevel.spider(SOBA, period=3), lambda k: float(k % 3 != 0), "xyv"),
  ],
  ids=["storm", "fsla", "no momentum", "spider"],
)
def test_recursive_directions_are_their_formula(rng, wrapped, share, momentum):
  problem = FiniteSum(rng)
  rows, columns = rng.integers(0, COUNT, size=(2, 8))
  solver = bilevel.stochastic_bilevel(wrapped, sgd(0.1, 0.2, 0.25))
  state, _ = scan(solver, start(), problem.batches(rows, columns))
  wanted = recursion(problem, share, 8, (0.1, 0.2, 0.25), rows, columns, momentum)
  for ours, theirs in zip(state.params, wanted, strict=True):
    np.testing.assert_allclose(ours, theirs, rtol=1e-10)


@pytest.mark.x64
def test_moving_average_uses_the_old_average(rng):
  problem = FiniteSum(rng)
  batches = problem.batches([0, 1, 2], [2, 1, 0])
  method = bilevel.moving_average(SOBA, rate=0.25)
  zero = sgd(0.0, 0.0)
  solver = bilevel.stochastic_bilevel(method, zero._replace(x=optax.sgd(1.0)))
  _, (path, _) = scan(solver, start(), batches)
  moves = np.diff(np.concatenate([np.ones((1, NX)), path.x]), axis=0)
  first = 0.1 * np.ones(NX)  # v = 0
  second = 0.1 * (np.ones(NX) + moves[0])
  np.testing.assert_allclose(-moves[0], first, rtol=1e-12)
  np.testing.assert_allclose(-moves[1], first, rtol=1e-12)
  np.testing.assert_allclose(-moves[2], 0.75 * first + 0.25 * second, rtol=1e-12)


@pytest.mark.x64
def test_neumann_directions_are_the_hypergradient_of_the_batch(rng):
  problem = FiniteSum(rng)
  x, y = rng.normal(size=NX), rng.normal(size=NY)
  at = BilevelVariables(jnp.asarray(x), jnp.asarray(y), jnp.zeros(NY))
  batch = problem.batch(1, 3)
  method = bilevel.neumann_directions(inner, outer, num_terms=7, stepsize=0.2)
  found, _, _ = method.directions(at, (), batch)
  h, b, t = problem.h[1], problem.b[1], problem.t[3]
  series = sum(0.2 * np.linalg.matrix_power(np.eye(NY) - 0.2 * h, k) for k in range(8)) @ (y - t)
  np.testing.assert_allclose(found.v, -series, rtol=1e-11)
  np.testing.assert_allclose(found.x, 0.1 * x + b.T @ series, rtol=1e-11)
  drawn = bilevel.neumann_directions(inner, outer, num_terms=3, stepsize=0.2, random=True)
  terms = [3 * 0.2 * np.linalg.matrix_power(np.eye(NY) - 0.2 * h, k) @ (y - t) for k in range(3)]
  one = jax.jit(lambda key: drawn.directions(at, (), batch._replace(key=key))[0].v)
  for seed in range(6):
    v = -np.asarray(one(jax.random.key(seed)))
    assert min(np.abs(v - term).max() for term in terms) < 1e-12
  with pytest.raises(ValueError, match=r"batch\.key must be a typed key"):
    drawn.directions(at, (), batch)


@pytest.mark.x64
def test_the_penalty_leaves_an_error_that_falls_with_its_inverse(rng):
  problem = FiniteSum(rng)
  h, b, c, t = problem.mean()
  x = rng.normal(size=NX)
  star, _, grad = problem.solution(x)
  scaled = []
  for lam in (1e1, 1e2, 1e3, 1e4):
    y = np.linalg.solve(np.eye(NY) + lam * h, t + lam * (b @ x + c))
    method = bilevel.f2sa_directions(inner, outer, penalty=lam)
    at = BilevelVariables(*(jnp.asarray(a) for a in (x, y, star)))
    found, memory, _ = method.directions(at, method.init(at, problem.batch()), problem.batch())
    np.testing.assert_allclose(found.y, 0, atol=1e-10)  # both inner problems are solved
    np.testing.assert_allclose(found.v, 0, atol=1e-10)
    scaled.append(lam * np.linalg.norm(np.asarray(found.x) - grad))
    assert int(memory) == 1
  np.testing.assert_allclose(scaled[2:], scaled[3], rtol=0.02)


@pytest.mark.x64
def test_bome_has_its_multiplier_and_none_where_descent_suffices(rng):
  problem = FiniteSum(rng)
  h, b, c, t = problem.mean()
  batch = problem.batch()
  seen = set()
  for _ in range(20):
    x, y = rng.normal(size=NX), rng.normal(size=NY) * 3
    near = y
    for _ in range(6):
      near = near - 0.3 * (h @ near - b @ x - c)
    gap_y, gap_x = h @ y - b @ x - c, -b.T @ (y - near)
    f_y, f_x = y - t, 0.1 * x
    square, dot = gap_y @ gap_y + gap_x @ gap_x, f_y @ gap_y + f_x @ gap_x
    lam = max(0.5 * square - dot, 0) / square
    seen.add(lam == 0)
    method = bilevel.bome_directions(inner, outer, stepsize=0.3, num_steps=6)
    at = BilevelVariables(jnp.asarray(x), jnp.asarray(y), jnp.zeros(NY))
    found, _, _ = method.directions(at, (), batch)
    np.testing.assert_allclose(found.y, f_y + lam * gap_y, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(found.x, f_x + lam * gap_x, rtol=1e-10, atol=1e-12)
  assert seen == {True, False}
  flat = bilevel.bome_directions(lambda y, x, _: 0.0 * jnp.sum(y), outer, stepsize=0.3)
  found, _, _ = flat.directions(at, (), batch)  # 0 / 0
  np.testing.assert_allclose(found.x, 0.1 * x, rtol=1e-12)


@pytest.mark.x64
def test_inner_steps_move_the_outer_variable_once(rng):
  problem = FiniteSum(rng)
  batches = problem.batches([0, 1, 2], [0, 1, 2])
  solver = bilevel.stochastic_bilevel(SOBA, sgd(0.1, 0.2), inner_steps=3)
  state, _ = scan(solver, start(), jax.tree.map(lambda leaf: leaf[None], batches))
  alone = bilevel.stochastic_bilevel(SOBA, sgd(0.0, 0.2))
  before, _ = scan(alone, start(), jax.tree.map(lambda leaf: leaf[:2], batches))
  b, v = problem.b[2], np.asarray(before.params.v)
  np.testing.assert_allclose(state.params.x, np.ones(NX) - 0.1 * (0.1 + b.T @ v), rtol=1e-12)
  after, _ = scan(alone, start(), batches)
  np.testing.assert_allclose(state.params.y, after.params.y, rtol=1e-12)
  assert int(state.count) == 1
  still = bilevel.stochastic_bilevel(SOBA, sgd(0.1, 0.2), inner_steps=3, inner_moves=("y",))
  state, _ = scan(still, start(), jax.tree.map(lambda leaf: leaf[None], batches))
  before, _ = scan(alone, start(), jax.tree.map(lambda leaf: leaf[:2], batches))
  slope = problem.t[2] - np.asarray(before.params.y)  # v was 0 until the last of them
  np.testing.assert_allclose(state.params.v, -0.2 * slope, rtol=1e-12)


@pytest.mark.x64
def test_every_method_reaches_a_stationary_point_with_full_batches(rng):
  problem = FiniteSum(rng)
  exact = {"num_terms": 60, "stepsize": 0.3}
  near = bilevel.soba_directions(
    inner, outer, products=bilevel.finite_difference_products, max_adjoint=50.0
  )
  falling = optax.adam(optax.exponential_decay(0.05, 100, 0.7))
  cases = {
    "soba": (SOBA, sgd(0.05, 0.3), 1),
    "amigo": (SOBA, sgd(0.2, 0.3), 4),
    "stocbio": (bilevel.neumann_directions(inner, outer, **exact), sgd(0.2, 0.3, 1.0), 4),
    "mrbo": (
      bilevel.storm(bilevel.neumann_directions(inner, outer, **exact)), sgd(0.05, 0.3, 1.0), 1,
    ),
    "fdehbo": (bilevel.storm(near), sgd(0.05, 0.3), 1),
    "adam": (SOBA, sgd(0.0, 0.3)._replace(x=falling), 1),
    "f2sa": (bilevel.f2sa_directions(inner, outer, penalty=300.0, power=0.0), sgd(0.03, 0.3), 1),
    "bome": (bilevel.bome_directions(inner, outer, stepsize=0.3, control=0.5), sgd(0.02, 0.02), 1),
  }  # fmt: skip
  full = problem.batches([None] * 1600, [None] * 1600)
  first = np.linalg.norm(problem.solution(np.ones(NX))[2])
  for name, (method, rates, repeats) in cases.items():
    batches = jax.tree.map(lambda a: a.reshape(-1, repeats, *a.shape[1:]), full)  # noqa: B023
    batches = full if repeats == 1 else batches
    state, _ = scan(
      bilevel.stochastic_bilevel(method, rates, inner_steps=repeats), start(), batches
    )
    size = np.linalg.norm(problem.solution(np.asarray(state.params.x))[2])
    bound = {"f2sa": 0.05, "bome": 0.3, "adam": 0.05}.get(name, 1e-3)  # biased or slow ones
    assert size < bound * first, name


@pytest.mark.x64
def test_rates_are_swept_as_hyper_parameters(rng):
  problem = FiniteSum(rng)
  batches = problem.batches([0, 1], [1, 0])
  solver = bilevel.stochastic_bilevel(
    SOBA, lambda rates: BilevelVariables(*(optax.sgd(r) for r in rates))
  )

  @jax.jit
  @jax.vmap
  def run(rates):
    state = solver.init(start(), rates, jax.tree.map(lambda leaf: leaf[0], batches))
    return jax.lax.scan(lambda s, b: solver.step(s, rates, b), state, batches)[0].params

  grid = jnp.array([[0.1, 0.2, 0.3], [0.0, 0.1, 0.1]])
  found = run(grid)
  for i, rates in enumerate(grid):
    fixed = bilevel.stochastic_bilevel(
      SOBA, BilevelVariables(*(optax.sgd(float(r)) for r in rates))
    )
    state, _ = scan(fixed, start(), batches)
    np.testing.assert_allclose(found.y[i], state.params.y, rtol=1e-12)
    np.testing.assert_allclose(found.x[i], state.params.x, rtol=1e-12)
  assert isinstance(solver, solvers.Solver)
