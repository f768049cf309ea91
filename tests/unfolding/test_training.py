"""Training, unfolded solvers, equilibria and sweeps over networks."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxopt_robust import prox, solvers, sweeps
from jaxopt_robust import unfolding as u
from tests.helpers import central_difference

M, N, BATCH, LAYERS, STEPS, LAM = 16, 32, 32, 4, 60, 0.05


def gaussian(seed):
  return jax.random.normal(jax.random.key(seed), (M, N)) / np.sqrt(M)


def objective(matrix, params, y, depth=None):
  data = u.Measurements(y, matrix)
  x, _ = u.unfold(u.ista_cell, params, jnp.zeros((*y.shape[:-1], N)), data, depth=depth)
  return jnp.mean(u.l1_objective(x, data, strength=LAM))


def train(seed, layers=LAYERS, steps=STEPS, look=True):
  """An unsupervised network, and the objective on held-out signals after every stage."""
  matrix = gaussian(seed)
  sampler = functools.partial(u.sample_sparse_batch, matrix=matrix, batch=BATCH, noise=0.05)
  held_out = u.sample_sparse_batch(jax.random.key(99), matrix, batch=200, noise=0.05).y
  return u.train_incremental(
    jax.random.key(seed), lambda z, b, k: objective(matrix, u.to_positive(z), b.y, k),
    u.from_positive(u.ista_layers(matrix, LAM, num_layers=layers)),
    optimizer=optax.adam(0.02), sampler=sampler, num_layers=layers, num_steps=steps,
    evaluate=(
      (lambda z, depth: (objective(matrix, u.to_positive(z), held_out, depth), z)) if look else None
    ),
  )  # fmt: skip


@pytest.fixture(scope="module")
def trained():
  """Four seeds, as one program on one device."""
  return jax.jit(jax.vmap(train))(jnp.arange(4))


def test_every_stage_improves_and_the_network_beats_the_iteration(trained):
  values = np.asarray(trained.evaluations[0])
  assert np.all(np.diff(values, axis=1) < 0)

  @jax.jit
  @jax.vmap
  def plain(seed):
    matrix = gaussian(seed)
    y = u.sample_sparse_batch(jax.random.key(99), matrix, batch=200, noise=0.05).y
    return objective(matrix, u.ista_layers(matrix, LAM, num_layers=LAYERS), y)

  assert np.all(values[:, -1] < plain(jnp.arange(4)))
  assert not np.any(trained.status)
  assert trained.history.shape == (4, LAYERS, STEPS)


def test_steps_leave_the_classical_value(trained):
  norms = [np.linalg.norm(gaussian(seed), 2) ** 2 for seed in range(4)]
  relative = np.asarray(u.to_positive(trained.params).step) * np.array(norms)[:, None]
  # Beyond 2 the iteration alone would diverge: the products of all layers are what counts.
  assert np.all(relative.max(1) > 2) and np.all(relative > 0.5)


def test_layers_behind_the_stage_keep_their_start(trained):
  after = np.asarray(trained.evaluations[1].step)  # seeds, stages, layers
  first = np.asarray(u.from_positive(u.ista_layers(gaussian(0), LAM, num_layers=LAYERS)).step)
  for stage in range(LAYERS - 1):
    np.testing.assert_allclose(after[0, stage, stage + 1 :], first[stage + 1 :], rtol=1e-6)
    assert np.all(after[0, stage, : stage + 1] != first[: stage + 1])


def test_incremental_training_equals_a_loop_over_stages():
  matrix = gaussian(0)
  sampler = functools.partial(u.sample_sparse_batch, matrix=matrix, batch=4)
  loss = lambda p, batch, depth: objective(matrix, p, batch.y, depth)
  start = u.ista_layers(matrix, LAM, num_layers=2)
  adam, key = optax.adam(0.01), jax.random.key(3)
  got = jax.jit(
    lambda p: u.train_incremental(
      key, loss, p, optimizer=adam, sampler=sampler, num_layers=2, num_steps=3
    )
  )(start)
  value_and_grad = jax.jit(jax.value_and_grad(lambda p, y: objective(matrix, p, y)))
  params, keys = start, jax.random.split(key, 2)
  for stage in (1, 2):
    head = jax.tree.map(lambda a, k=stage: a[:k], params)
    state = adam.init(head)
    for i, step_key in enumerate(jax.random.split(keys[stage - 1], 3)):
      value, grads = value_and_grad(head, sampler(step_key).y)
      np.testing.assert_allclose(got.history[stage - 1, i], value, rtol=1e-5)
      updates, state = adam.update(grads, state)
      head = optax.apply_updates(head, updates)
    params = jax.tree.map(lambda a, h, k=stage: a.at[:k].set(h), params, head)
  np.testing.assert_allclose(got.params.step, params.step, rtol=1e-5)
  np.testing.assert_allclose(got.params.threshold, params.threshold, rtol=1e-5)


def test_end_to_end_lowers_the_loss_and_nan_is_told():
  matrix = gaussian(1)
  start = u.ista_layers(matrix, LAM, num_layers=LAYERS)
  sampler = functools.partial(u.sample_sparse_batch, matrix=matrix, batch=BATCH)

  @jax.jit
  def run(factor):
    loss = lambda p, batch, depth: factor * objective(matrix, p, batch.y, depth)
    return u.train_end_to_end(
      jax.random.key(0), loss, start, optimizer=optax.adam(0.005), sampler=sampler, num_steps=80
    )

  found = run(1.0)
  assert found.history.shape == (80,) and int(found.status) == 0
  assert found.history[-10:].mean() < 0.9 * found.history[:10].mean()
  assert int(run(jnp.nan).status) == solvers.NON_FINITE


@pytest.mark.x64
def test_positive_parameters_there_and_back():
  values = jnp.array([1e-12, 1e-3, 1.0, 30.0, 1e6])
  np.testing.assert_allclose(u.to_positive(u.from_positive(values)), values, rtol=1e-12)
  scaled = u.to_positive(u.from_positive(values, scale=7.0), scale=7.0)
  np.testing.assert_allclose(scaled, values, rtol=1e-12)
  z = jnp.array([-3.0, 0.0, 2.0])
  np.testing.assert_allclose(u.to_positive(z, scale=2.0), 2 * np.log1p(np.exp(z)), rtol=1e-12)


def test_networks_as_a_sweep_equal_one_device():
  seeds, small = jnp.arange(8), functools.partial(train, layers=2, steps=3, look=False)
  many = sweeps.sweep(small)(seeds)
  one = sweeps.sweep(small, mesh=sweeps.make_sweep_mesh(num_devices=1))(seeds)
  assert len(many.params.step.sharding.device_set) == 8
  for a, b in zip(jax.tree.leaves(many), jax.tree.leaves(one), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)  # products round by their batch


def misfit(x, matrix, y):
  return 0.5 * jnp.sum((matrix @ x - y) ** 2)


def least_squares(v, hyper, rho, matrix, y):
  del hyper
  return jnp.linalg.solve(matrix.T @ matrix + rho * jnp.eye(N), matrix.T @ y + rho * v)


def identity(x, *data):
  return x


MAKERS = {
  "ista": lambda s: solvers.ista(misfit, prox.prox_lasso, stepsize=s),
  "fista": lambda s: solvers.fista(misfit, prox.prox_lasso, stepsize=s, restart=None),
  "admm": lambda s: solvers.admm(least_squares, prox.prox_lasso, identity, weight=s),
  "pdhg": lambda s: solvers.condat_vu(
    misfit, prox.prox_none, prox.prox_lasso, identity, stepsize=s, dual_stepsize=1 / (4 * s)
  ),
}


@pytest.mark.x64
@pytest.mark.parametrize("name", MAKERS)
def test_unfolded_solver_equals_its_run_and_has_the_right_gradient(name):
  matrix = gaussian(2).astype(jnp.float64)
  y = jnp.sin(jnp.arange(M) * 1.0)
  hyper = 0.1 if name in ("ista", "fista") else (None, 0.1)
  make, start = MAKERS[name], jnp.zeros(N)
  size = 0.5 if name == "admm" else 0.15

  @jax.jit
  def network(steps, depth=None):
    return u.unfold_solver(make, steps, start, hyper, matrix, y, depth=depth, checkpoint=2)

  x, infos = network(jnp.full(LAYERS, size))
  want, seen = solvers.run_steps(make(size), start, hyper, matrix, y, num_steps=LAYERS)
  np.testing.assert_allclose(x, want, rtol=1e-12, atol=1e-14)
  np.testing.assert_allclose(infos.error, seen.error, rtol=1e-9)
  if name == "ista":
    shorter, _ = network(jnp.full(LAYERS, size), 3)
    want, _ = solvers.run_steps(make(size), start, hyper, matrix, y, num_steps=3)
    np.testing.assert_allclose(shorter, want, rtol=1e-12, atol=1e-14)
  value = jax.jit(lambda steps: jnp.sum(jnp.sin(network(steps)[0])))
  steps = size * jnp.linspace(0.7, 1.3, LAYERS)
  want = central_difference(value, steps)
  assert np.count_nonzero(want) >= LAYERS - 1
  np.testing.assert_allclose(jax.grad(value)(steps), want, rtol=1e-5, atol=1e-8)


@pytest.mark.x64
def test_changed_weights_of_admm_keep_the_multiplier():
  matrix, y = gaussian(2).astype(jnp.float64), jnp.ones(M)
  weights = [0.5, 2.0, 0.7]
  got, _ = u.unfold_solver(MAKERS["admm"], jnp.array(weights), jnp.zeros(N), (None, 0.1), matrix, y)
  z, multiplier = np.zeros(N), np.zeros(N)  # unscaled ADMM with over-relaxation 1.6
  a = np.asarray(matrix)
  for rho in weights:
    x = np.linalg.solve(a.T @ a + rho * np.eye(N), a.T @ y + rho * z - multiplier)
    relaxed = 1.6 * x - 0.6 * z
    v = relaxed + multiplier / rho
    z = np.sign(v) * np.maximum(np.abs(v) - 0.1 / rho, 0)
    multiplier = multiplier + rho * (relaxed - z)
  np.testing.assert_allclose(got, x, rtol=1e-10)


@pytest.mark.x64
def test_penalties_a_layer():
  matrix, y = jnp.eye(N)[:M].astype(jnp.float64), jnp.linspace(-2, 2, M)
  make = lambda layer: solvers.ista(misfit, prox.prox_lasso, stepsize=1.0)
  x, _ = u.unfold_solver(
    make, {"lam": jnp.array([5.0, 0.5])}, jnp.zeros(N), lambda layer: layer["lam"], matrix, y
  )
  np.testing.assert_allclose(x[:M], np.sign(y) * np.maximum(np.abs(y) - 0.5, 0), atol=1e-14)


@pytest.mark.x64
def test_equilibrium_has_the_derivative_of_the_fixed_point():
  matrix = gaussian(5)[:8, :12].astype(jnp.float64)
  y = jax.random.normal(jax.random.key(6), (8,), jnp.float64)
  step = 1 / jnp.linalg.norm(matrix, 2) ** 2

  def solution(lam, y):
    layer = u.ThresholdLayers(step, step * lam)
    return u.unfold_equilibrium(
      u.ista_cell, layer, jnp.zeros(12), u.Measurements(y, matrix), tol=1e-13, max_steps=20_000
    )

  @jax.jit
  def everything(lam, y):
    x, pull, info = jax.vjp(solution, lam, y, has_aux=True)
    slope = jax.jvp(lambda lam: solution(lam, y)[0], (lam,), (jnp.ones_like(lam),))[1]
    return x, info, slope, pull(jnp.ones_like(x))[1]

  x, info, jacobian, grad = everything(jnp.array(0.2), y)
  assert int(info.status) == solvers.CONVERGED
  # On its support S the lasso is linear: x_S = (A_S^T A_S)^{-1} (A_S^T y - lam sign x_S).
  support = np.flatnonzero(np.asarray(x))
  part = np.asarray(matrix)[:, support]
  gram, signs = part.T @ part, np.sign(np.asarray(x)[support])
  np.testing.assert_allclose(x[support], np.linalg.solve(gram, part.T @ y - 0.2 * signs), atol=1e-9)
  np.testing.assert_allclose(jacobian[support], -np.linalg.solve(gram, signs), rtol=1e-5)
  assert not np.any(np.delete(np.asarray(jacobian), support))
  np.testing.assert_allclose(grad, part @ np.linalg.solve(gram, np.ones(len(support))), rtol=1e-5)
