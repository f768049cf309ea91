"""Spectral unmixing: descent, robustness to a channel, equality with plain formulas, metrics."""

import functools
import inspect
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from jaxopt_robust import problems, recovery, solvers
from jaxopt_robust.recovery import Unmixing
from tests.helpers import assert_no_retrace, central_difference

L, K, SIDE = 24, 3, 6
N = SIDE**2
FLOOR = 1e-3  # abundances above it have their own power


@functools.partial(jax.jit, static_argnames=("channels", "materials", "side"))
def _make(key, sharpness, snr_db, outlier_rate, *, channels, materials, side):
  problem = problems.make_spectral_mixture(
    key, num_channels=channels, num_spectra=materials, side=side, smoothness=side / 8,
    sharpness=sharpness, snr_db=snr_db, outlier_rate=outlier_rate,
  )  # fmt: skip
  return problem.data[0], problem.truth


def _problem(
  seed, *, sharpness=(6.0, 1.5), snr_db=30.0, rate=0.0, channels=L, materials=K, side=SIDE
):
  """Pixels and truth; one program a size."""
  sizes = {"channels": channels, "materials": materials, "side": side}
  return _make(jax.random.key(seed), sharpness, snr_db, rate, **sizes)


def _start(seed, pixels):
  rng = np.random.default_rng(seed)
  spectra = np.mean(pixels) * rng.uniform(0.5, 1.5, (pixels.shape[0], K))
  dtype = pixels.dtype
  return Unmixing(
    jnp.asarray(spectra, dtype), jnp.asarray(rng.uniform(0.1, 0.9, (K, pixels.shape[1])), dtype)
  )


def _objective(found, pixels, lam, power, weight, robust):
  """The documented objective in NumPy; exact where no abundance is below the floor."""
  (spectra, abundances), y = map(np.asarray, found), np.maximum(np.asarray(pixels), 0)
  residual, count = y - spectra @ abundances, y.shape[1]
  if robust:
    loss = np.linalg.norm(residual, axis=1).sum() / np.linalg.norm(y, axis=1).sum()
  else:
    loss = (residual**2).sum() / (2 * (y**2).sum())
  penalty = lam / count * (abundances ** np.asarray(power)).sum()
  return loss + penalty + weight / (2 * count) * ((1 - abundances.sum(0)) ** 2).sum()


# One program a shape: op by op each would compile many.
_errors = jax.jit(recovery.unmixing_errors)
_angle = jax.jit(recovery.spectral_angle)
_vertices = jax.jit(recovery.vertex_components, static_argnames="num_spectra")
_begin = jax.jit(recovery.unmixing_start, static_argnums=1)
_known = jax.jit(functools.partial(recovery.constrained_abundances, tol=1e-12))
_shares = jax.jit(recovery.constrained_abundances)
_sparseness = jax.jit(recovery.hoyer_sparseness, static_argnames="axis")

METHODS = {
  "robust, p 1/2": (recovery.robust_unmixing(exponent=0.5), True, 0.5, 10.0),
  "robust, p 1": (recovery.robust_unmixing(exponent=1.0), True, 1.0, 10.0),
  "squares, p 1/2": (recovery.sparse_nmf_unmixing(exponent=0.5), False, 0.5, 0.25),
  "learned": (recovery.robust_unmixing(warm_up=5), True, None, 10.0),
}


@functools.partial(jax.jit, static_argnames="name")
def _run(start, lam, pixels, *, name):
  """The last state and the infos of 150 steps."""
  solver = METHODS[name][0]

  def body(state, _):
    return solver.step(state, lam, pixels)

  return jax.lax.scan(body, solver.init(start, lam, pixels), None, length=150)


@functools.partial(jax.jit, static_argnames="name")
def _after(start, lam, pixels, num_steps, *, name):
  """The state after some steps and the info of the last of them: one program for any number."""
  solver = METHODS[name][0]
  first = solver.step(solver.init(start, lam, pixels), lam, pixels)
  more = lambda _, carry: solver.step(carry[0], lam, pixels)
  return jax.lax.fori_loop(1, num_steps, more, first)


@pytest.mark.x64
@pytest.mark.parametrize("name", METHODS)
def test_no_step_increases_the_objective(name):
  pixels, _ = _problem(0, rate=0.1)
  state, infos = _run(_start(0, pixels), 0.3, pixels, name=name)
  assert np.all(infos.value <= infos.previous * (1 + 1e-13))
  if name == "learned":  # a new map makes another objective
    gap = np.abs(infos.value[:-1] - infos.previous[1:])
    assert np.all(gap[:4] < 1e-14) and np.any(gap[5:] > 1e-6)
    expected = np.clip(_sparseness(state.params.abundances, axis=0), 0, 0.9)
    np.testing.assert_allclose(state.guidance, expected, atol=1e-14)
  else:
    np.testing.assert_allclose(infos.value[:-1], infos.previous[1:], rtol=1e-13)
    assert infos.value[-1] < 0.7 * infos.value[0]


@pytest.mark.x64
@pytest.mark.parametrize("name", ["robust, p 1/2", "squares, p 1/2"])
def test_value_is_the_documented_objective_and_its_stationary_point_is_found(name):
  _, robust, power, weight = METHODS[name]
  (pixels, _), lam = _problem(1, rate=0.1), 0.01
  start = _start(1, pixels)
  state, info = _after(start, lam, pixels, 1, name=name)
  assert float(state.params.abundances.min()) > FLOOR
  explicit = functools.partial(
    _objective, pixels=pixels, lam=lam, power=power, weight=weight, robust=robust
  )
  np.testing.assert_allclose(info.value, explicit(state.params), rtol=1e-12)
  np.testing.assert_allclose(info.previous, explicit(start), rtol=1e-12)
  state, _ = _after(start, lam, pixels, 20_000, name=name)
  spectra, abundances = state.params
  slopes = central_difference(lambda a: explicit(Unmixing(spectra, np.maximum(a, 0))), abundances)
  kept = np.asarray(abundances) > FLOOR
  scale = np.abs(slopes).max() + weight / N
  assert np.all(np.abs(slopes[kept]) < 2e-3 * scale), np.abs(slopes[kept]).max() / scale
  of_spectra = central_difference(lambda m: explicit(Unmixing(m, abundances)), spectra)
  assert np.all(np.abs(np.asarray(spectra) * of_spectra) < 1e-3 / L)


@pytest.mark.x64
def test_without_sparsity_it_is_the_plain_factorisation_in_the_l21_norm():
  pixels, _ = _problem(2, rate=0.1)
  start = _start(2, pixels)
  y, (m, a) = np.maximum(np.asarray(pixels), 0), map(np.array, start)
  for _ in range(30):
    m = m * (y @ a.T) / (m @ a @ a.T)
    u = 1 / np.linalg.norm(y - m @ a, axis=1)[:, None]
    a = a * (m.T @ (u * y)) / (m.T @ (u * (m @ a)))
  solver = recovery.robust_unmixing(exponent=1.0, sum_weight=0.0)
  found, _ = solvers.run_steps(solver, start, 0.0, pixels, num_steps=30)
  np.testing.assert_allclose(found.spectra, m, rtol=1e-9)
  np.testing.assert_allclose(found.abundances, a, rtol=1e-9)
  # and with squares it is that of Lee and Seung
  m, a = map(np.array, start)
  for _ in range(30):
    m = m * (y @ a.T) / (m @ a @ a.T)
    a = a * (m.T @ y) / (m.T @ m @ a)
  found, _ = solvers.run_steps(
    recovery.nmf_unmixing(sum_weight=0.0), start, None, pixels, num_steps=30
  )
  np.testing.assert_allclose(found.spectra @ found.abundances, m @ a, rtol=1e-9)


@functools.partial(jax.jit, static_argnames="robust")
def _plain(pixels, bad, *, robust):
  """Normalised abundances of both, from the purest pixels and even abundances."""
  solver = recovery.robust_unmixing(exponent=1.0) if robust else recovery.nmf_unmixing()
  spectra = jnp.maximum(pixels[:, recovery.successive_projections(pixels, 4)], 1e-3)
  start = Unmixing(spectra, jnp.full((4, pixels.shape[1]), 0.25))

  def solve(data):
    found, _ = solvers.run_steps(solver, start, None, data, num_steps=100)
    return found.abundances / jnp.sum(found.abundances, axis=0, keepdims=True)

  return jax.vmap(solve)(jnp.stack([pixels, bad]))


@pytest.mark.parametrize("seed", range(3))
def test_one_bad_channel_moves_the_robust_abundances_less_than_half_as_much(seed):
  pixels, _ = _problem(10 + seed, channels=120, materials=4, side=16)
  moved = []
  for robust in (True, False):
    one, other = np.asarray(_plain(pixels, pixels.at[7].multiply(20.0), robust=robust))
    moved.append(np.linalg.norm(one - other) / np.linalg.norm(one))
  assert 0.01 < moved[0] < 0.5 * moved[1], moved


@pytest.mark.x64
def test_pixels_may_come_in_any_order():
  pixels, _ = _problem(3)
  start, order = _start(3, pixels), np.random.default_rng(0).permutation(N)
  one, _ = _run(start, 0.1, pixels, name="learned")
  shuffled = start._replace(abundances=start.abundances[:, order])
  other, _ = _run(shuffled, 0.1, pixels[:, order], name="learned")
  np.testing.assert_allclose(other.params.abundances, one.params.abundances[:, order], rtol=1e-8)
  np.testing.assert_allclose(other.guidance, one.guidance[order], rtol=1e-8)


@jax.jit
def _unmix(pixels, lam, max_steps):
  return recovery.unmix(pixels, K, lam=lam, tol=1e-5, max_steps=max_steps)


@pytest.mark.parametrize("factor", [4.0**-40, 4.0**30])
def test_units_do_not_matter(factor):
  pixels, _ = _problem(4, rate=0.1)
  (one, record), (other, scaled) = (_unmix(y, 0.1, 50) for y in (pixels, factor * pixels))
  np.testing.assert_array_equal(other.abundances, one.abundances)
  np.testing.assert_array_equal(other.spectra, factor * one.spectra)
  jax.tree.map(np.testing.assert_array_equal, scaled, record)


def test_zeros_give_zeros():
  found, record = _unmix(jnp.zeros((L, N)), 0.1, 100)
  assert float(jnp.max(jnp.abs(found.spectra))) == 0 and float(record.residual) == 0
  assert np.all(np.isfinite(found.abundances))
  np.testing.assert_allclose(record.channel_weights, 1000, rtol=1e-6)  # no residual at all


def test_defaults_and_dtypes_are_those_of_the_docstrings():
  pixels, _ = _problem(2, rate=0.1)
  start = _start(2, pixels)
  solver = recovery.nmf_unmixing()
  _, info = jax.jit(lambda: solver.step(solver.init(start, None, pixels), None, pixels))()
  exact = _objective(start, pixels, lam=0.0, power=1.0, weight=0.25, robust=False)
  np.testing.assert_allclose(info.previous, exact, rtol=1e-5)
  assert inspect.signature(recovery.unmix).parameters["lam"].default == 0.01
  for given, wanted in ((jnp.bfloat16, jnp.bfloat16), (jnp.int32, jnp.float32)):
    shape = jax.ShapeDtypeStruct((4, 5), given)
    found, record = jax.eval_shape(lambda y: recovery.unmix(y, 2), shape)
    assert {x.dtype for x in (*found, record.residual, record.guidance)} == {jnp.dtype(wanted)}


def test_status_and_bad_channels_show():
  pixels, truth = _problem(5, snr_db=40.0, rate=0.1)
  found, record = _unmix(pixels, 0.05, 20_000)
  assert int(record.status) == 0 and 20 < int(record.steps) < 20_000
  bad = np.flatnonzero(truth.outliers)
  assert set(np.argsort(record.channel_weights)[: bad.size].tolist()) == set(bad.tolist())
  y = np.maximum(np.asarray(pixels), 0)
  residual = y - np.asarray(found.spectra) @ np.asarray(found.abundances)
  np.testing.assert_allclose(
    record.residual, np.linalg.norm(residual) / np.linalg.norm(y), rtol=1e-5
  )
  _, record = _unmix(pixels, 0.05, 3)
  assert int(record.status) == 1 and int(record.steps) == 3
  _, record = _unmix(pixels.at[0, 0].set(jnp.nan), 0.05, 100)
  assert int(record.status) == 2


def test_nearly_pure_pixels_are_recovered_and_noisy_channels_known(seed):
  pixels, truth = _problem(6, snr_db=60.0, sharpness=(12.0, 2.0))
  found, _ = _unmix(pixels, 1e-3, 1000)
  errors = _errors(found, Unmixing(truth.spectra, truth.abundances))
  assert float(errors.angle) < 0.05 and float(errors.rmse) < 0.05
  rng = np.random.default_rng(seed)
  size = rng.uniform(0.1, 1, 6)
  # channels 3 to 5 repeat 0 to 2 up to noise: each explains the other
  clean = np.tile(rng.standard_normal((3, 5000)), (2, 1))
  noise = recovery.channel_noise(clean + 1e-2 * size[:, None] * rng.standard_normal((6, 5000)))
  pair = np.hypot(size[:3], size[3:])  # the error of the other one counts too
  np.testing.assert_allclose(noise, 1e-2 * np.tile(pair, 2), rtol=0.05)


@pytest.mark.x64
def test_derivative_of_the_iterations():
  pixels, _ = _problem(7)
  start = _start(7, pixels)
  solver = recovery.robust_unmixing(warm_up=2)

  def total(lam):
    found, _ = solvers.run_steps(solver, start, lam, pixels, num_steps=6)
    return jnp.sum(found.abundances**2)

  both = jax.jit(lambda lam: (*jax.value_and_grad(total)(lam), jax.jvp(total, (lam,), (1.0,))[1]))
  expected = central_difference(lambda lam: both(lam)[0], 0.2, 1e-6)
  np.testing.assert_allclose(both(0.2)[1:], expected, rtol=1e-6)


def test_one_compile_serves_all_strengths():
  pixels, _ = _problem(8)
  start = _start(8, pixels)

  def solve(lam, exponent):
    solver = recovery.robust_unmixing(exponent=exponent)
    return solvers.run_until(solver, start, lam, pixels, tol=1e-4, max_steps=10)[0]

  assert_no_retrace(solve, lambda i: (jnp.float32(0.1 * i), jnp.float32(0.3 + 0.1 * i)))
  lams = jnp.array([0.0, 0.3])
  batch = jax.jit(jax.vmap(solve, in_axes=(0, None)))(lams, 0.5)
  single_solve = jax.jit(solve)
  for i, lam in enumerate(lams):
    single = single_solve(lam, 0.5)
    np.testing.assert_allclose(batch.abundances[i], single.abundances, atol=1e-5)


def test_sparseness():
  eye = jnp.eye(5)
  np.testing.assert_allclose(_sparseness(eye, axis=0), 1, atol=1e-6)
  np.testing.assert_allclose(_sparseness(jnp.full((5, 2), 0.2), axis=0), 0, atol=1e-6)
  x = np.array([0.5, 0.3, 0.2, 0.0])
  expected = (2 - x.sum() / np.linalg.norm(x)) / 1
  np.testing.assert_allclose(_sparseness(jnp.asarray(x)), expected, rtol=1e-6)
  assert _sparseness(jnp.zeros((2, 3))).tolist() == [0, 0]


def test_l21_weights_majorise(rng):
  residual = rng.standard_normal((4, 6))
  weights = np.asarray(recovery.l21_weights(residual))
  other = rng.standard_normal((50, 4, 6))
  norms = np.linalg.norm(other, axis=-1)
  bound = weights * norms**2 / 2 + 1 / (2 * weights)
  assert np.all(norms <= bound + 1e-6)
  at = np.linalg.norm(residual, axis=-1)
  np.testing.assert_allclose(weights * at**2 / 2 + 1 / (2 * weights), at, rtol=1e-6)
  assert recovery.l21_weights(jnp.zeros((1, 2)), floor=0.5).tolist() == [2.0]
  np.testing.assert_allclose(recovery.l21_weights(residual[0]), weights[0], rtol=1e-6)
  np.testing.assert_allclose(recovery.l21_weights(residual.T, axis=0), weights, rtol=1e-6)


@pytest.mark.x64
def test_spectral_angle_does_not_see_the_scale(rng):
  a, b = rng.uniform(0.1, 1, (2, 9))
  exact = np.arccos(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
  for scale in (1e-9, 1.0, 1e7):
    np.testing.assert_allclose(_angle(scale * a, b), exact, rtol=1e-12)
  tiny = _angle(jnp.array([1.0, 0.0]), jnp.array([1.0, 1e-9]))
  np.testing.assert_allclose(tiny, 1e-9, rtol=1e-6)
  assert float(_angle(jnp.zeros(3), jnp.ones(3))) == pytest.approx(np.pi / 2)


def test_errors_are_those_of_the_best_order(rng):
  truth = Unmixing(rng.uniform(0, 1, (8, 4)), rng.dirichlet(np.ones(4), 5).T)
  found = Unmixing(rng.uniform(0, 1, (8, 4)), rng.uniform(0, 1, (4, 5)))
  errors = _errors(found, truth)
  unit = lambda m: m / np.linalg.norm(m, axis=0)
  angles = np.arccos(unit(truth.spectra).T @ unit(found.spectra))
  angle = lambda order: np.mean([angles[k, j] for k, j in enumerate(order)])
  best = min(itertools.permutations(range(4)), key=angle)
  assert errors.order.tolist() == list(best)
  np.testing.assert_allclose(errors.angle, angle(best), rtol=1e-5)
  shares = found.abundances / found.abundances.sum(0)
  rmse = np.sqrt(np.mean((shares[list(best)] - truth.abundances) ** 2))
  np.testing.assert_allclose(errors.rmse, rmse, rtol=1e-5)
  # channels that do not count may hold anything
  dirty = found._replace(spectra=np.concatenate([found.spectra[:7], np.full((1, 4), 1e9)]))
  where = np.arange(8) < 7
  np.testing.assert_allclose(
    _errors(dirty, truth, where=where).angle,
    _errors(found, truth, where=where).angle,
    rtol=1e-6,
  )
  zeros = [part._replace(spectra=part.spectra * where[:, None]) for part in (found, truth)]
  np.testing.assert_allclose(  # a channel of zeros adds nothing to an angle
    _errors(found, truth, where=where).angle, _errors(*zeros).angle, rtol=1e-6
  )
  lost = _errors(jax.tree.map(lambda x: jnp.nan * x, found), truth)
  assert np.isnan(lost.angle)  # and it comes back


def test_pure_pixels_are_found(rng):
  spectra = rng.uniform(0, 1, (9, 4))
  mixed = rng.dirichlet(np.ones(4), 30).T
  pure = [3, 11, 20, 29]
  mixed[:, pure] = np.eye(4)
  pixels = jnp.asarray(spectra @ mixed, jnp.float32)
  assert sorted(recovery.successive_projections(pixels, 4).tolist()) == pure
  shares = np.asarray(_begin(pixels, 4).abundances)[:, pure]
  np.testing.assert_allclose(np.sort(shares, axis=0)[:3], 0.02, rtol=1e-6)  # what is 0 is raised
  for seed in range(3):
    found = _vertices(jax.random.key(seed), pixels, num_spectra=4)
    assert sorted(found.tolist()) == pure
  bright = pixels * jnp.linspace(0.5, 2.0, 30)[None, :]  # brightness does not matter to the second
  assert sorted(_vertices(jax.random.key(0), bright, num_spectra=4).tolist()) == pure
  wide = jnp.asarray(np.repeat(np.asarray(pixels), 5, axis=0))  # more channels than pixels
  assert sorted(_vertices(jax.random.key(0), wide, num_spectra=4).tolist()) == pure


@pytest.mark.x64
def test_constrained_abundances_against_closed_form_and_a_general_solver(rng):
  pair = rng.uniform(0, 1, (7, 2))
  pixels = rng.uniform(0, 1.5, (7, 12))
  found, info = _known(pixels, pair)
  assert int(info.status) == 0
  edge = pair[:, 0] - pair[:, 1]
  share = np.clip(edge @ (pixels - pair[:, 1:]) / (edge @ edge), 0, 1)
  np.testing.assert_allclose(found, np.stack([share, 1 - share]), atol=1e-9)
  alone = [int(_known(np.repeat(pixels[:, [n]], 12, axis=1), pair)[1].steps) for n in range(6)]
  assert min(alone) + 1 < max(alone) <= int(info.steps) + 1, alone  # the slowest pixel counts
  spectra = rng.uniform(0, 1, (7, 3))
  found, _ = _known(pixels, spectra)
  np.testing.assert_allclose(np.sum(found, axis=0), 1, rtol=1e-12)
  assert np.all(np.asarray(found) >= 0)
  for n in range(3):
    peer = scipy.optimize.minimize(
      lambda a, n=n: 0.5 * np.sum((pixels[:, n] - spectra @ a) ** 2), np.full(3, 1 / 3),
      bounds=[(0, 1)] * 3, constraints={"type": "eq", "fun": lambda a: a.sum() - 1},
      method="SLSQP", options={"ftol": 1e-14},
    )  # fmt: skip
    np.testing.assert_allclose(found[:, n], peer.x, atol=1e-5)


def test_planted_mixture():
  pixels, truth = _problem(9, channels=120, materials=4, side=16, rate=0.1, snr_db=20.0)
  pixels, (spectra, abundances, corruption, outliers) = np.asarray(pixels), map(np.asarray, truth)
  assert pixels.shape == (120, 256) and outliers.sum() == 12
  clean = spectra @ abundances
  np.testing.assert_allclose(pixels, clean + corruption, atol=1e-5)
  np.testing.assert_allclose(abundances.sum(0), 1, rtol=1e-5)
  ratio = 10 * np.log10(np.mean(clean**2) / np.mean(corruption[~outliers] ** 2))
  assert abs(ratio - 20) < 0.5
  assert np.mean(corruption[outliers]) == pytest.approx(np.sqrt(2 / np.pi), abs=0.1)
  h = np.asarray(_sparseness(abundances, axis=0)).reshape(16, 16)
  assert h[:, :8].mean() > 0.75 > 0.6 > h[:, 8:].mean()
  own = problems.make_spectral_mixture(jax.random.key(0), jnp.eye(5, 3), side=4, snr_db=np.inf)
  np.testing.assert_allclose(own.data[0], jnp.eye(5, 3) @ own.truth.abundances, atol=1e-6)
  value = own.objective((own.truth.spectra, jnp.zeros((3, 16))), *own.data)
  expected = np.mean(np.sqrt(np.mean(np.asarray(own.data[0]) ** 2, axis=1)))
  np.testing.assert_allclose(value, expected, rtol=1e-5)


@pytest.mark.parametrize("factor", [1.0, 1e3, 1e6])
def test_a_bright_pixel_leaves_the_others_as_they_are(rng, factor):
  """Every pixel is a problem of its own, and the value counts what no mixture explains."""
  spectra = rng.uniform(0, 1, (10, 3))
  truth = rng.dirichlet(np.ones(3), 20).T
  pixels = spectra @ truth
  pixels[:, 0] *= factor
  found, info = _shares(np.float32(pixels), np.float32(spectra))
  assert int(info.status) == 0
  np.testing.assert_allclose(found[:, 1:], truth[:, 1:], atol=2e-4)
  off = pixels + (factor == 1.0) * 0.1 * rng.normal(size=pixels.shape)
  found, info = _shares(np.float32(off), np.float32(spectra))
  squares = 0.5 * np.sum((off - spectra @ np.asarray(found)) ** 2)
  np.testing.assert_allclose(info.value, squares / np.linalg.norm(spectra, 2) ** 2, rtol=1e-3)
