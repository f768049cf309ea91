"""Sparse coding and dictionary learning against closed forms, scikit-learn and planted atoms."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxopt_robust import prox, solvers, unfolding


def soft_rule(v, lam, mu):
  return np.sign(v) * np.maximum(np.abs(v) - mu * lam, 0)


# name -> (penalty, hyper of a strength, threshold rule written anew: (v, strength, step) -> codes)
RULES = {
  "soft": (prox.lasso, lambda lam: lam, soft_rule),
  "hard": (prox.l0, lambda lam: lam, lambda v, lam, mu: v * (abs(v) > np.sqrt(2 * mu * lam))),
  "half": (prox.half, lambda lam: lam, None),
  "cel0": (
    prox.cel0,
    lambda lam: (lam, 1.0),
    lambda v, lam, mu: np.sign(v)
    * np.minimum(abs(v), np.maximum(abs(v) - np.sqrt(2 * lam) * mu, 0) / (1 - mu)),
  ),
}  # fmt: skip


def half_rule(v, lam, mu):
  """Half thresholding in the form of its inventors, for (z - v)^2 + L sqrt|z| with L = 2 lam mu."""
  level = 2 * lam * mu
  size = np.abs(v)
  angle = np.arccos(np.clip(level / 8 * (np.maximum(size, 1e-9) / 3) ** -1.5, -1, 1))
  kept = 2 / 3 * v * (1 + np.cos(2 * np.pi / 3 - 2 / 3 * angle))
  return np.where(size > 54 ** (1 / 3) / 4 * level ** (2 / 3), kept, 0)


@pytest.fixture
def problem(rng):
  """Unit atoms, patches of four atoms each with noise, in float64."""
  atoms = rng.normal(size=(12, 24))
  atoms /= np.linalg.norm(atoms, axis=0)
  codes = np.where(rng.random((6, 24)) < 0.15, rng.normal(size=(6, 24)), 0)
  return codes @ atoms.T + 0.05 * rng.normal(size=(6, 12)), atoms


@functools.partial(jax.jit, static_argnames=("rule", "steps", "tol"))
def code(patches, atoms, lam, mu, *, rule, steps, tol=None):
  penalty, hyper, _ = RULES[rule]
  solver = unfolding.sparse_coding(penalty, stepsize=mu)
  zero = jnp.zeros((patches.shape[0], atoms.shape[1]), atoms.dtype)
  return solvers.run_until(solver, zero, hyper(lam), patches, atoms, tol=tol, max_steps=steps)


@pytest.mark.x64
@pytest.mark.parametrize("rule", RULES)
def test_three_steps_are_the_written_rule(rule, problem):
  patches, atoms = problem
  lam, mu = 0.05, 0.1
  threshold = RULES[rule][2] or half_rule
  codes = np.zeros((6, 24))
  for _ in range(3):
    codes = threshold(codes + mu * (patches - codes @ atoms.T) @ atoms, lam, mu)
  ours, info = code(patches, atoms, lam, mu, rule=rule, steps=3)
  assert 0 < np.mean(codes != 0) < 1
  np.testing.assert_allclose(ours, codes, atol=1e-12)
  assert int(info.steps) == 3


@pytest.mark.x64
def test_soft_codes_are_those_of_scikit_learn(problem):
  from sklearn.decomposition import sparse_encode

  patches, atoms = problem
  ours, info = code(patches, atoms, 0.1, 0.9 / np.linalg.norm(atoms, 2) ** 2, rule="soft",
                    steps=20_000, tol=1e-12)  # fmt: skip
  theirs = sparse_encode(patches, atoms.T, algorithm="lasso_cd", alpha=0.1, max_iter=20_000)
  assert int(info.status) == 0
  np.testing.assert_allclose(ours, theirs, atol=2e-4)  # the peer stops at a gap of 1e-4


@pytest.mark.x64
@pytest.mark.parametrize("rule", RULES)
def test_objective_never_rises_below_the_inverse_squared_norm(rule, problem):
  patches, atoms = problem
  penalty, hyper, _ = RULES[rule]
  solver = unfolding.sparse_coding(penalty, stepsize=0.99 / np.linalg.norm(atoms, 2) ** 2)

  @jax.jit
  def values(patches, atoms):
    def step(state, _):
      state, _ = solver.step(state, hyper(0.05), patches, atoms)
      misfit = 0.5 * jnp.sum((patches - state.params @ atoms.T) ** 2)
      return state, misfit + penalty.value(state.params, hyper(0.05))

    return jax.lax.scan(step, solver.init(jnp.zeros((6, 24)), None, patches, atoms), length=200)[1]

  trace = np.asarray(values(jnp.asarray(patches), jnp.asarray(atoms)))
  assert trace[-1] < 0.9 * trace[0]
  assert np.all(np.diff(trace) <= 1e-13 * trace[0])


@pytest.mark.x64
def test_cel0_codes_stay_under_hard_thresholding(problem):
  """The exact relaxation: with unit atoms its points at rest are points at rest for l0."""
  patches, atoms = problem
  lam, mu = 0.05, 0.9 / np.linalg.norm(atoms, 2) ** 2
  codes, info = code(patches, atoms, lam, mu, rule="cel0", steps=50_000, tol=1e-14)
  assert int(info.status) in (solvers.types.CONVERGED, solvers.types.STALLED)
  codes = np.asarray(codes)
  again = RULES["hard"][2](codes + mu * (patches - codes @ atoms.T) @ atoms, lam, mu)
  assert np.array_equal(again != 0, codes != 0) and np.any(codes)
  np.testing.assert_allclose(again, codes, atol=1e-10)


@pytest.mark.x64
def test_the_error_is_the_relative_change_of_the_codes(problem):
  patches, atoms = problem
  (one, _), (two, info) = (code(patches, atoms, 0.05, 0.1, rule="soft", steps=k) for k in (2, 3))
  change = np.linalg.norm(two - one) / np.linalg.norm(two)
  np.testing.assert_allclose(info.error, change, rtol=1e-10)


def test_atoms_have_unit_norm_in_any_unit():
  atoms = jnp.array([[3.0, 3e-30, 0.0, 3e30], [4.0, 4e-30, 0.0, 4e30]])
  ours = unfolding.normalize_atoms(atoms)
  expected = np.array([[0.6, 0.6, 0.0, 0.6], [0.8, 0.8, 0.0, 0.8]])
  np.testing.assert_allclose(ours, expected, rtol=3e-7)


@pytest.mark.x64
def test_dictionary_step_is_sgd_on_the_misfit(problem):
  patches, _ = problem
  optimizer, mu, eta = optax.sgd(0.02), 0.1, 0.02
  state = unfolding.init_dictionary(jax.random.key(1), 12, 24, optimizer=optimizer)
  before = np.asarray(state.params)
  new, info = unfolding.dictionary_step(
    state, patches, 0.05, prox=prox.lasso, optimizer=optimizer, stepsize=mu, tol=0.0, max_steps=5
  )
  codes = np.zeros((6, 24))
  for _ in range(5):
    codes = RULES["soft"][2](codes + mu * (patches - codes @ before.T) @ before, 0.05, mu)
  residual = patches - codes @ before.T
  wanted = before + eta * residual.T @ codes
  np.testing.assert_allclose(new.params, wanted / np.linalg.norm(wanted, axis=0), atol=1e-12)
  np.testing.assert_allclose(info.error, np.sum(residual**2) / np.sum(patches**2))
  np.testing.assert_allclose(info.active, np.mean(np.sum(codes != 0, axis=1)))
  np.testing.assert_allclose(info.used, np.mean(np.any(codes != 0, axis=0)))
  assert int(info.steps) == 5 and int(info.status) == solvers.types.STEP_LIMIT


def test_atoms_in_use_are_counted_over_patches():
  """Two of four unit vectors, one of them in both patches: half are used, 1.5 a patch."""
  optimizer = optax.sgd(0.1)
  state = unfolding.init_dictionary(jax.random.key(0), 4, 4, optimizer=optimizer)
  state = state._replace(params=jnp.eye(4))
  patches = jnp.array([[1.0, 0.0, 0.0, 0.0], [2.0, -1.0, 0.0, 0.0]])
  _, info = unfolding.dictionary_step(
    state, patches, 0.1, prox=prox.lasso, optimizer=optimizer, stepsize=0.5, max_steps=5
  )
  assert (float(info.used), float(info.active)) == (0.5, 1.5)
  half = unfolding.init_dictionary(jax.random.key(0), 3, 2, optimizer=optimizer, dtype=jnp.bfloat16)
  assert half.params.dtype == jnp.bfloat16 and state.params.dtype == jnp.float32


def test_planted_atoms_are_found(rng):
  """Patches of 3 of 32 atoms in 16 dimensions: from one of three starts nine in ten are found."""
  truth = rng.normal(size=(16, 32)).astype(np.float32)
  truth /= np.linalg.norm(truth, axis=0)
  chosen = rng.random((200, 50, 32)).argsort(-1) < 3
  codes = np.where(chosen, rng.normal(size=chosen.shape), 0)
  optimizer = optax.sgd(0.1)

  @jax.jit
  def learn(key, batches):
    state = unfolding.init_dictionary(key, 16, 32, optimizer=optimizer)
    state, info = unfolding.learn_dictionary(
      state, batches, (0.05, 1.0), prox=prox.cel0, optimizer=optimizer, stepsize=0.15, max_steps=60
    )
    return unfolding.recovered_atoms(state.params, truth), info.error

  keys = jax.random.split(jax.random.key(0), 3)
  found, errors = jax.vmap(learn, (0, None))(keys, jnp.asarray(codes @ truth.T, jnp.float32))
  assert found.max() >= 0.9
  assert np.all(errors[:, -20:].mean(1) < 0.6 * errors[:, :20].mean(1))


def test_recovered_atoms_knows_signs_orders_and_lengths():
  truth = jnp.array([[1.0, 0.0, 1.0], [0.0, 1.0, 1.0]])
  assert unfolding.recovered_atoms(truth[:, ::-1] * jnp.array([[-2.0, 1e-3, 5.0]]), truth) == 1
  near = jnp.array([[jnp.cos(0.3)], [jnp.sin(0.3)]])  # cosine .9553 to the first, .8870 to the last
  np.testing.assert_allclose(unfolding.recovered_atoms(near, truth), 1 / 3, rtol=1e-6)
  assert unfolding.recovered_atoms(near, truth, threshold=0.96) == 0


def test_whitening_has_the_filters_gain():
  """A sum of two waves comes out with the ratio of their gains; both axes count cycles a height."""
  y, x = np.mgrid[:32, :64] / 32.0
  image = 3.0 + np.cos(2 * np.pi * 4 * y) + np.cos(2 * np.pi * 10 * x)
  spectrum = np.abs(np.fft.fft2(np.asarray(unfolding.whiten(jnp.asarray(image, jnp.float32)))))
  gain = lambda r: r * np.exp(-((r / (0.4 * 32)) ** 4))
  ratio = spectrum[4, 0] / spectrum[0, 20]
  np.testing.assert_allclose(ratio, gain(4.0) / gain(10.0), rtol=1e-4)
  np.testing.assert_allclose(np.std(unfolding.whiten(image)), 1, rtol=1e-5)


def test_a_stack_is_whitened_image_by_image(rng):
  stack = (
    jnp.asarray(rng.standard_normal((3, 16, 16)), jnp.float32) + jnp.arange(3.0)[:, None, None]
  )
  each = jnp.stack([unfolding.whiten(image) for image in stack])
  np.testing.assert_allclose(unfolding.whiten(stack), each, atol=1e-5)


@pytest.mark.parametrize("factor", [1e-30, 1.0, 1e30])
def test_whitening_has_no_unit_and_flat_images_stay_flat(factor):
  image = jax.random.normal(jax.random.key(0), (16, 16))
  np.testing.assert_allclose(
    unfolding.whiten(factor * image), unfolding.whiten(image), rtol=1e-4, atol=1e-5
  )
  assert not np.any(unfolding.whiten(jnp.full((16, 16), factor, jnp.float32)))


def test_random_patches_are_windows_of_the_image():
  image = jax.random.normal(jax.random.key(1), (5, 7))
  patches = np.asarray(unfolding.random_patches(jax.random.key(2), image, size=4, count=200))
  windows = np.lib.stride_tricks.sliding_window_view(np.asarray(image), (4, 4)).reshape(-1, 16)
  windows = windows - windows.mean(1, keepdims=True)
  distance = np.abs(patches[:, None] - windows[None]).max(-1)
  assert np.all(distance.min(1) < 1e-6)
  assert set(distance.argmin(1)) == set(range(8))  # every window is drawn
  many = unfolding.random_patches(jax.random.key(3), image, size=4, count=4000)
  nearest = np.abs(np.asarray(many)[:, None] - windows[None]).max(-1).argmin(1)
  counts = np.bincount(nearest, minlength=8)  # and equally often
  assert np.all(np.abs(counts - 500) < 5 * np.sqrt(4000 / 8 * 7 / 8)), counts


def test_whitening_has_a_derivative_on_flat_images_and_takes_half_precision():
  grad = jax.grad(lambda image: jnp.sum(unfolding.whiten(image) ** 3))
  assert not np.any(grad(jnp.ones((8, 8))))
  image = jax.random.normal(jax.random.key(0), (8, 8))
  assert np.all(np.isfinite(grad(image))) and np.any(grad(image))
  half = unfolding.whiten(image.astype(jnp.bfloat16))
  assert half.dtype == jnp.bfloat16
  np.testing.assert_allclose(half, unfolding.whiten(image), atol=0.1)
