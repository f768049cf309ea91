"""Unmixing by proximal gradient steps: descent, equality with PALM block by block, stationarity."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxopt_robust import prox, recovery, solvers
from jaxopt_robust.recovery import Unmixing
from jaxopt_robust.recovery.unmixing.palm import largest_eigenvalue_bound
from tests.helpers import assert_no_retrace, central_difference

L, K, N = 12, 3, 16
LAM, WEIGHT = 0.1, 10.0
SOLVERS = {
  "p 1/2": recovery.palm_unmixing(),
  "learned": recovery.palm_unmixing(exponent=None, warm_up=5),
  "simplex": recovery.palm_unmixing(exponent=0.5, sum_weight=None),
}


@pytest.fixture
def problem(rng):
  """Pixels, of which half are pure, with one bad channel, and a start."""
  spectra = rng.uniform(0.1, 1, (L, K))
  shares = np.concatenate(
    [np.eye(K)[:, np.arange(N // 2) % K], rng.dirichlet(np.ones(K), N // 2).T], 1
  )
  pixels = spectra @ shares + 1e-3 * rng.standard_normal((L, N))
  pixels[4] += np.abs(rng.standard_normal(N))
  start = Unmixing(spectra * rng.uniform(0.7, 1.4, (L, K)), rng.uniform(0.1, 0.9, (K, N)))
  return pixels, start


def _objective(found, pixels, power, weight=WEIGHT, lam=LAM):
  """The documented objective in NumPy."""
  (spectra, abundances), y = map(np.asarray, found), np.maximum(pixels, 0)
  norms = np.linalg.norm(y - spectra @ abundances, axis=1)
  powers = np.sum(np.where(abundances > 0, abundances, 0) ** np.asarray(power))
  gaps = np.sum((1 - abundances.sum(0)) ** 2)
  return norms.sum() / np.linalg.norm(y, axis=1).sum() + (lam * powers + weight / 2 * gaps) / N


@functools.partial(jax.jit, static_argnames="name")
def _run(start, lam, pixels, *, name):
  """The last state, the states before each of 200 steps, and the infos."""
  solver = SOLVERS[name]

  def body(state, _):
    new, info = solver.step(state, lam, pixels)
    return new, (state, info)

  return jax.lax.scan(body, solver.init(start, lam, pixels), None, length=200)


@pytest.mark.x64
@pytest.mark.parametrize("name", SOLVERS)
def test_no_step_increases_the_documented_objective(name, problem):
  pixels, start = problem
  state, (states, infos) = _run(start, LAM, pixels, name=name)
  assert np.all(infos.value <= infos.previous * (1 + 1e-13))
  assert infos.value[-1] < 0.8 * infos.value[0]
  for k in (0, 3, 50):
    found = jax.tree.map(lambda x, k=k: x[k], states.params)
    if name == "simplex":
      np.testing.assert_allclose(found.abundances.sum(0), 1, rtol=1e-12)
      if float(found.abundances.min()) < 1e-3:  # tangents there
        continue
    exact = _objective(found, pixels, 1 - states.guidance[k])
    np.testing.assert_allclose(infos.previous[k], exact, rtol=1e-12)
  assert np.all(np.asarray(state.params.abundances) >= 0)
  assert np.any(np.asarray(state.params.abundances) == 0), "zeros are exact"
  if name == "learned":
    expected = recovery.hoyer_sparseness(state.params.abundances, axis=0)
    np.testing.assert_allclose(state.guidance, np.clip(expected, 0, 0.9), atol=1e-14)
    assert np.any(infos.value[5:-1] != infos.previous[6:]), "a new map makes another objective"
  else:
    np.testing.assert_allclose(infos.value[:-1], infos.previous[1:], rtol=1e-13)


@pytest.mark.x64
@pytest.mark.parametrize("exponent", [0.5, "mixed"])
def test_it_is_palm_with_a_block_for_each_channel(exponent, problem):
  pixels, start = problem
  pixels = np.maximum(pixels[:3], 0)
  start = Unmixing(start.spectra[:3], start.abundances)
  total, count = np.linalg.norm(pixels, axis=1).sum(), 3

  def fun(blocks, y):
    rows, a = jnp.stack(blocks[:-1]), blocks[-1]
    norms = jnp.linalg.norm(y - rows @ a, axis=1)
    return norms.sum() / total + WEIGHT / (2 * N) * jnp.sum((1 - a.sum(0)) ** 2)

  def of_channel(l, blocks, y):
    gram = blocks[-1] @ blocks[-1].T
    return largest_eigenvalue_bound(gram) / jnp.linalg.norm(y[l] - blocks[l] @ blocks[-1]) / total

  def of_abundances(blocks, y):
    rows = jnp.stack(blocks[:-1])
    weights = 1 / jnp.linalg.norm(y - rows @ blocks[-1], axis=1)[:, None] / total
    return largest_eigenvalue_bound(rows.T @ (weights * rows) + WEIGHT / N)

  odd = np.arange(N) % 2 == 1

  def operator(v, lam, s):
    if exponent == 0.5:
      return prox.prox_half(jnp.maximum(v, 0), lam, s)
    curved = prox.prox_lq(jnp.maximum(v, 0), (lam, 0.3), s)
    return jnp.where(odd[None], prox.prox_non_negative_lasso(v, lam, s), curved)

  peer = solvers.palm(
    fun, [lambda v, _, s: jnp.maximum(v, 0)] * count + [operator],
    [functools.partial(of_channel, l) for l in range(count)] + [of_abundances], safety=1.7,
  )  # fmt: skip
  powers = 0.5 if exponent == 0.5 else np.where(odd, 1.0, 0.3)
  ours = recovery.palm_unmixing(exponent=powers, safety=1.7)

  @jax.jit
  def both(start, pixels):
    blocks, _ = solvers.run_steps(
      peer, (*start.spectra, start.abundances), (None,) * count + (LAM / N,), pixels, num_steps=6
    )
    found, _ = solvers.run_steps(ours, start, LAM, pixels, num_steps=6)
    return blocks, found

  blocks, found = both(start, pixels)
  np.testing.assert_allclose(found.spectra, np.stack(blocks[:-1]), atol=1e-11)
  np.testing.assert_allclose(found.abundances, blocks[-1], atol=1e-11)


@pytest.mark.x64
def test_it_ends_at_a_stationary_point(problem):
  pixels, start = problem
  for _ in range(100):  # 20,000 steps
    state, (_, infos) = _run(start, LAM, pixels, name="p 1/2")
    spectra, abundances = start = state.params
  explicit = lambda m, a: _objective(Unmixing(m, np.maximum(a, 0)), pixels, 0.5)
  assert np.abs(infos.value[-1] - infos.value[-2]) < 1e-12
  slopes = central_difference(lambda a: explicit(spectra, a), abundances)
  kept = np.asarray(abundances) > 0
  assert 0.3 < kept.mean() < 0.9
  scale = WEIGHT / N
  assert np.all(np.abs(slopes[kept]) < 1e-4 * scale)
  slopes = central_difference(lambda m: explicit(m, abundances), spectra)
  assert np.all(np.abs(np.asarray(spectra) * slopes) < 1e-4 / L)
  assert np.all(slopes[np.asarray(spectra) == 0] >= -1e-6)


@pytest.mark.x64
def test_on_the_simplex_the_l1_norm_changes_nothing_and_powers_follow_their_tangents(problem):
  pixels, start = problem
  inside = start._replace(abundances=start.abundances / start.abundances.sum(0))

  @jax.jit
  def run(lam, exponent):
    solver = recovery.palm_unmixing(exponent=exponent, sum_weight=None)
    return solver.step(solver.init(inside, lam, pixels), lam, pixels)[0].params

  np.testing.assert_allclose(run(0.0, 1.0).abundances, run(0.7, 1.0).abundances, atol=1e-12)
  # one step written anew, the projection by the sorted sums
  y, (m, a) = np.maximum(pixels, 0), map(np.array, inside)
  total = np.linalg.norm(y, axis=1).sum()
  bound = lambda gram: 1.1 * float(largest_eigenvalue_bound(jnp.asarray(gram)))
  m = np.maximum(m + (y - m @ a) @ a.T / bound(a @ a.T), 0)
  weighted = m / np.linalg.norm(y - m @ a, axis=1)[:, None] / total
  slope = LAM / N * 0.5 * np.maximum(a, 1e-3) ** -0.5
  v = a + (weighted.T @ (y - m @ a) - slope) / bound(weighted.T @ m)
  ordered = -np.sort(-v, axis=0)
  tails = (np.cumsum(ordered, axis=0) - 1) / np.arange(1, K + 1)[:, None]
  expected = np.maximum(v - tails[np.sum(ordered > tails, axis=0) - 1, np.arange(N)], 0)
  found = run(LAM, 0.5)
  np.testing.assert_allclose(found.spectra, m, atol=1e-12)
  np.testing.assert_allclose(found.abundances, expected, atol=1e-12)


@pytest.mark.x64
def test_the_eigenvalue_is_bounded_from_above(rng):
  bound = jax.jit(largest_eigenvalue_bound)
  for size in (1, 3, 6):
    factor = rng.uniform(0, 1, (size, 9))
    gram = factor @ factor.T
    exact = np.linalg.eigvalsh(gram)[-1]
    assert exact * (1 - 1e-12) <= float(bound(gram)) < 1.02 * exact
    np.testing.assert_allclose(bound(1e-90 * gram), 1e-90 * bound(gram), rtol=1e-12)
  sparse = np.diag([3.0, 1.0, 0.0])  # a material that no pixel has
  np.testing.assert_allclose(bound(sparse), 3, rtol=1e-12)
  assert float(bound(np.zeros((2, 2)))) == 0


def test_zeros_can_be_left_and_units_do_not_matter(problem):
  pixels, start = (jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), part) for part in problem)
  start = start._replace(abundances=start.abundances.at[0].set(0.0).at[1:].add(0.3))
  state, _ = _run(start, 1e-4, pixels, name="p 1/2")
  assert np.any(np.asarray(state.params.abundances[0]) > 0.1), "multiplied, they would stay"
  state, _ = _run(start, LAM, pixels, name="p 1/2")
  assert np.any(np.asarray(state.params.abundances) == 0)
  for factor in (4.0**-40, 4.0**30):
    scaled = start._replace(spectra=factor * start.spectra)
    other, _ = _run(scaled, LAM, factor * pixels, name="p 1/2")
    np.testing.assert_array_equal(other.params.abundances, state.params.abundances)
    np.testing.assert_array_equal(other.params.spectra, factor * state.params.spectra)
  state, (_, infos) = _run(start, LAM, 0 * pixels, name="p 1/2")
  assert np.all(np.isfinite(infos.value))
  assert np.max(state.params.spectra @ state.params.abundances) < 1e-20


def test_one_compile_serves_all_strengths_and_weights(problem):
  pixels, start = problem
  pixels, start = jnp.float32(pixels), Unmixing(*map(jnp.float32, start))

  def solve(lam, exponent, weight):
    solver = recovery.palm_unmixing(exponent=exponent, sum_weight=weight)
    return solvers.run_steps(solver, start, lam, pixels, num_steps=2)[0]

  assert_no_retrace(
    solve, lambda i: (jnp.float32(0.1 * i), jnp.float32(0.3 + 0.2 * i), jnp.float32(1.0 + i))
  )
