"""Parts of the experiment on bases of offline search: CMA-ES, the Gaussian process, its rounds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

from experiments._protocol import Progress
from experiments.surrogates import _cma, _offline, _qei


@pytest.mark.x64
def test_cma_moves_with_its_coordinates(rng):
  """Rotated and stretched draws of a rotated state give the rotated state."""
  n, size = 4, 8
  turn = np.linalg.qr(rng.normal(size=(n, n)))[0]
  a = b = _cma.init(jnp.zeros(n), 0.7)
  for _ in range(4):
    z, values = rng.normal(size=(size, n)), rng.normal(size=size)
    root, inverse = _cma.roots(a.cov)
    x = _cma.ask(a, root, z)
    a = _cma.tell(a, inverse, x, values)
    b = _cma.tell(b, _cma.roots(b.cov)[1], x @ turn.T, values)
    np.testing.assert_allclose(b.mean, turn @ a.mean, atol=1e-10)
    np.testing.assert_allclose(b.cov, turn @ a.cov @ turn.T, atol=1e-10)
    np.testing.assert_allclose(b.sigma, a.sigma, rtol=1e-10)
  assert np.all(np.linalg.eigvalsh(a.cov) > 0)
  np.testing.assert_allclose(_cma.roots(a.cov)[0], scipy.linalg.sqrtm(a.cov), atol=1e-10)


@pytest.mark.peer
@pytest.mark.x64
def test_cma_is_that_of_a_peer():
  cmaes = pytest.importorskip("cmaes")
  peer = cmaes.CMA(mean=np.zeros(5), sigma=0.8, seed=1)
  state = _cma.init(jnp.zeros(5), 0.8)
  assert peer.population_size == _cma.population_size(5)
  scales = np.array([1.0, 3.0, 0.5, 2.0, 10.0])
  for _ in range(15):
    x = np.stack([peer.ask() for _ in range(peer.population_size)])
    values = -np.sum(scales * (x - 1) ** 2, axis=1)
    peer.tell([(row, -value) for row, value in zip(x, values, strict=True)])
    state = _cma.tell(state, _cma.roots(state.cov)[1], jnp.asarray(x), jnp.asarray(values))
    np.testing.assert_allclose(state.mean, peer._mean, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(state.sigma, peer._sigma, rtol=1e-6)
    np.testing.assert_allclose(state.cov, peer._C, rtol=1e-5, atol=1e-8)


def test_cma_finds_a_peak_in_the_box():
  peak = jnp.array([0.5, -0.25, 3.0])  # the last beyond the box
  objective = lambda x: -jnp.sum(jnp.array([[1.0, 30.0, 5.0]]) * (x - peak[None]) ** 2, axis=1)
  found = jax.jit(
    lambda key: _cma.search(
      objective, jnp.zeros((2, 3)), key, sigma=0.5, num_steps=60, bounds=(-1.0, 1.0)
    )
  )(jax.random.key(0))
  np.testing.assert_allclose(found, [[0.5, -0.25, 1.0]] * 2, atol=1e-2)


@pytest.mark.x64
def test_the_gaussian_process_is_that_of_a_peer(rng):
  kernels = pytest.importorskip("sklearn.gaussian_process.kernels")
  regressor = pytest.importorskip("sklearn.gaussian_process").GaussianProcessRegressor
  x, q = rng.uniform(-1, 1, (9, 2)), rng.uniform(-1, 1, (4, 2))
  y = np.sin(3 * x[:, 0])
  padded = np.concatenate([x, np.full((3, 2), 7.0)]), np.append(y, [9.0] * 3)
  length, inverse, product = _qei.fit(
    jnp.asarray(padded[0]), jnp.where(jnp.arange(12) < 9, padded[1], 0), jnp.arange(12) < 9
  )
  peers = {}
  for factor in _qei.LENGTHS:
    kernel = kernels.Matern(factor * np.sqrt(2), nu=2.5)
    peer = regressor(kernel, alpha=_qei.NOISE**2, optimizer=None).fit(x, y)
    peers[factor * np.sqrt(2)] = peer
  best = max(peers, key=lambda k: peers[k].log_marginal_likelihood_value_)
  np.testing.assert_allclose(length, best)
  mean, cov = peers[best].predict(q, return_cov=True)
  noise = rng.normal(size=(6, 4))
  found = _qei.draws(jnp.asarray(padded[0]), jnp.asarray(q), (length, inverse, product), noise)
  lower = np.linalg.cholesky(cov + 1e-4 * np.eye(4))
  np.testing.assert_allclose(found, mean + noise @ lower.T, atol=1e-4)


def test_rounds_of_joint_improvement_climb():
  objective = lambda x: -jnp.sum((x - 0.5) ** 2, axis=1)
  x = jnp.linspace(-1, 0, 6)[:, None]
  found = jax.jit(
    lambda key: _qei.search(
      objective, x, objective(x), key, num_steps=3, batch=2, restarts=2, climbs=10, samples=16,
      bounds=(-1.0, 1.0),
    )
  )(jax.random.key(0))  # fmt: skip
  assert found.shape == (6, 1) and abs(float(found[0, 0]) - 0.5) < 0.2
  values = objective(found)
  assert np.all(np.diff(values) <= 0) and float(values[-1]) >= float(objective(x)[1])


def test_runs_become_settings_of_programs():
  kinds = {"a": "plain", "b": "ignite", "c": "fixed", "d": "budget"}
  runs = [("a", 0.1, 0), ("b", 3.0, 1), ("c", 2.0, 0), ("d", 0.08, 0)]
  found = _offline.settings_of(runs, kinds)
  expected = {
    "decay": [0.1, 0, 0, 0], "multiplier": [0, 1e-3, 2, 1e-3], "rho": [0.05, 0.05, 0.2, 0.05],
    "rate": [0, 3, 0, _offline.RATE], "member": [0, 1, 0, 0],
  }  # fmt: skip
  for name, values in expected.items():
    np.testing.assert_array_equal(found[name], np.asarray(values, found[name].dtype))
  np.testing.assert_array_equal(found["budget"][[1, 3]], np.float32([0.1, 0.08]))
  assert _offline.programs_of(runs, kinds) == [("plain", [0]), ("ignite", [1, 2, 3])]


def test_pairs_are_chunks_of_one_program():
  """Five pairs in chunks of two are what all of them are at once."""
  program = jax.jit(jax.vmap(lambda w, data: w * data["x"]))
  stacked, data = np.arange(5.0)[:, None] + 1, {"x": np.arange(5.0)}
  progress = Progress()
  found = _offline.flat_call(progress, program, jnp.asarray(stacked), data, 2, "pairs")
  np.testing.assert_array_equal(found[:, 0], stacked[:, 0] * data["x"])
  assert progress.clock.parts["pairs"]["calls"] == 3
