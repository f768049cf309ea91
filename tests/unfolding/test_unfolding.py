"""Cells against the classical iterations, finite differences and brute force; the engine."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from scipy.integrate import quad

from jaxopt_robust import prox, solvers
from jaxopt_robust import unfolding as u
from tests.helpers import assert_no_retrace, central_difference

M, N, LAYERS, BATCH = 6, 10, 4, 3
HIGHEST = functools.partial(jnp.matmul, precision="highest")


def misfit(x, matrix, y):
  return 0.5 * jnp.sum((HIGHEST(x, matrix.T) - y) ** 2)


@pytest.fixture
def dyadic(rng):
  """Small binary fractions, whose sums and products are exact in float64: no order matters."""
  matrix = rng.integers(-2, 3, (M, N)) / 2.0
  return jnp.asarray(matrix), jnp.asarray(rng.integers(-8, 9, (BATCH, M)) / 1.0)


@pytest.fixture
def general(rng):
  matrix = rng.standard_normal((M, N)) / np.sqrt(M)
  return jnp.asarray(matrix), jnp.asarray(8 * rng.standard_normal((BATCH, M)))


def classical(matrix, y, strength, penalty, lipschitz):
  """The iterates of solvers.ista, one example after the other."""
  solver = solvers.ista(misfit, penalty, stepsize=1 / lipschitz)

  def run(y):
    def step(state, _):
      state, _ = solver.step(state, strength, matrix, y)
      return state, state.params

    start = solver.init(jnp.zeros(N, matrix.dtype), strength, matrix, y)
    return jax.lax.scan(step, start, None, length=LAYERS)[1]

  return np.swapaxes(np.asarray(jax.jit(jax.vmap(run))(y)), 0, 1)


LAM, HARD, L = 4.0, 0.25, 32.0  # powers of two, with a root where one is taken
NETS = {
  "ista": (
    u.ista_cell, lambda a: u.ista_layers(a, LAM, num_layers=LAYERS, lipschitz=L), prox.lasso,
  ),
  "tied_ista": (
    functools.partial(u.tied_ista_cell, strength=LAM),
    lambda a: u.step_layers(a, num_layers=LAYERS, lipschitz=L), prox.lasso,
  ),
  "lista": (
    u.lista_cell, lambda a: u.lista_layers(a, LAM, num_layers=LAYERS, lipschitz=L), prox.lasso,
  ),
  "lista_cp": (
    u.lista_cp_cell, lambda a: u.lista_cp_layers(a, LAM, num_layers=LAYERS, lipschitz=L),
    prox.lasso,
  ),
  "alista": (  # and TiLISTA, whose cell it is
    u.alista_cell, lambda a: u.ista_layers(a, LAM, num_layers=LAYERS, lipschitz=L), prox.lasso,
  ),
  "iht": (
    functools.partial(u.iht_cell, strength=HARD),
    lambda a: u.step_layers(a, num_layers=LAYERS, lipschitz=L), prox.l0,
  ),
  "hard_threshold": (
    u.hard_threshold_cell,
    lambda a: u.ThresholdLayers(jnp.full(LAYERS, 1 / L), jnp.full(LAYERS, np.sqrt(2 * HARD / L))),
    prox.l0,
  ),
}  # fmt: skip


@pytest.mark.x64
@pytest.mark.parametrize("name", NETS)
def test_initial_network_is_the_classical_iteration_bit_for_bit(name, dyadic):
  cell, layers, penalty = NETS[name]
  matrix, y = dyadic
  data = u.Measurements(y, matrix, matrix)
  start = jnp.zeros((BATCH, N))
  last, trace = jax.jit(functools.partial(u.unfold, cell))(layers(matrix), start, data)
  want = classical(matrix, y, LAM if penalty is prox.lasso else HARD, penalty, L)
  assert 5 < np.count_nonzero(want[-1]) < 28
  np.testing.assert_array_equal(trace, want)
  np.testing.assert_array_equal(last, want[-1])


@pytest.mark.parametrize("penalty", [prox.lasso, prox.l0], ids=["ista", "iht"])
def test_an_unfolded_solver_is_the_solver_bit_for_bit(general, penalty):
  # The layers are the solver's own steps, with parameters of their own: rounding is the same.
  matrix, y = (v.astype(jnp.float32) for v in general)
  start = jnp.zeros(N, jnp.float32)
  step = jnp.float32(1 / np.linalg.norm(matrix, 2) ** 2)

  def make(layer):
    return solvers.ista(misfit, penalty, stepsize=layer["step"])

  @jax.jit
  def network(layers, matrix, y):
    return u.unfold_solver(make, layers, start, lambda layer: layer["lam"], matrix, y)[0]

  @jax.jit
  def iteration(step, matrix, y):
    solver = make({"step": step})
    return solvers.run_steps(solver, start, jnp.float32(0.3), matrix, y, num_steps=LAYERS)[0]

  layers = {"step": jnp.full(LAYERS, step), "lam": jnp.full(LAYERS, 0.3, jnp.float32)}
  got, want = network(layers, matrix, y[0]), iteration(step, matrix, y[0])
  assert np.count_nonzero(want) > 2
  np.testing.assert_array_equal(got, want)
  layers["step"] = layers["step"].at[1].multiply(1.1)  # untied: another layer, another network
  assert np.any(network(layers, matrix, y[0]) != want)


@pytest.mark.parametrize("name", ["tied_ista", "iht"])
def test_general_data_agree_to_rounding_in_float32(name, general):
  cell, _, penalty = NETS[name]
  strength = LAM if penalty is prox.lasso else HARD
  matrix, y = (v.astype(jnp.float32) for v in general)
  lipschitz = float(np.linalg.norm(matrix, 2) ** 2)
  layers = u.step_layers(matrix, num_layers=LAYERS)
  np.testing.assert_allclose(layers.step, 1 / lipschitz, rtol=1e-5)
  run = jax.jit(functools.partial(u.unfold, cell))
  last, _ = run(layers, jnp.zeros((BATCH, N)), u.Measurements(y, matrix))
  assert last.dtype == jnp.float32
  np.testing.assert_allclose(
    last, classical(matrix, y, strength, penalty, lipschitz)[-1], atol=3e-5
  )


@pytest.mark.x64
@pytest.mark.parametrize("name", NETS)
def test_gradient_equals_finite_differences_away_from_thresholds(name, general):
  cell, layers, _ = NETS[name]
  matrix, y = general
  params, unravel = jax.flatten_util.ravel_pytree(layers(matrix))
  params = params * (3.0 if name in ("iht", "tied_ista") else 1.5)
  data = u.Measurements(y, matrix, matrix)

  @jax.jit
  def loss(params):
    x, trace = u.unfold(cell, unravel(params), jnp.zeros((BATCH, N)), data)
    return u.l1_objective(x, data, strength=LAM).sum(), trace

  # No entry may cross its threshold on the way of the differences, which move x by 1e-5.
  _, trace = loss(params)
  assert np.abs(trace).max() > 0.1
  got, _ = jax.grad(loss, has_aux=True)(params)
  places = np.linspace(0, params.size - 1, min(params.size, 12)).astype(int)  # of many weights some
  other = central_difference(
    lambda p: loss(params.at[places].set(p))[0], np.asarray(params)[places], eps=1e-6
  )
  np.testing.assert_allclose(got[places], other, rtol=1e-5, atol=1e-7)
  if name == "alista":  # TiLISTA: the weight is trained too
    by_weight = jax.jit(
      lambda w: u.l1_objective(
        u.unfold(cell, layers(matrix), jnp.zeros((BATCH, N)), data._replace(weight=w))[0],
        data, strength=LAM,
      ).sum()
    )  # fmt: skip
    row = central_difference(lambda r: by_weight(matrix.at[0].set(r)), np.asarray(matrix)[0])
    np.testing.assert_allclose(jax.grad(by_weight)(matrix)[0], row, rtol=1e-5, atol=1e-7)
  if name == "hard_threshold":  # a free threshold gets no gradient
    assert not np.any(unravel(got).threshold)


def test_permuting_coordinates_permutes_the_output(general, rng):
  matrix, y = (v.astype(jnp.float32) for v in general)
  order = rng.permutation(N)
  run = jax.jit(
    lambda a: u.unfold(
      u.ista_cell,
      u.ThresholdLayers(jnp.linspace(0.2, 1.0, LAYERS), jnp.full(LAYERS, 0.1)),
      jnp.zeros((BATCH, N)),
      u.Measurements(y, a),
    )[0]
  )
  np.testing.assert_allclose(run(matrix[:, order]), run(matrix)[:, order], atol=1e-5)


@pytest.mark.x64
def test_alista_weight_minimises_the_coherence(general):
  matrix, _ = (np.asarray(v) for v in general)
  weight = np.asarray(u.alista_weight(matrix))
  np.testing.assert_allclose((weight * matrix).sum(0), 1.0, rtol=1e-12)
  inverse = np.linalg.inv(matrix @ matrix.T)
  closed = inverse @ matrix / np.einsum("mi,mk,ki->i", matrix, inverse, matrix)
  np.testing.assert_allclose(weight, closed, rtol=1e-9, atol=1e-11)
  # Brute force: each column over the hyperplane w_i^T a_i = 1.
  for i in (0, N - 1):
    a, basis = matrix[:, i], scipy.linalg.null_space(matrix[:, i : i + 1].T)
    found = scipy.optimize.minimize(
      lambda z, a=a, basis=basis: np.sum((matrix.T @ (a / (a @ a) + basis @ z)) ** 2),
      np.zeros(M - 1), tol=1e-14,
    )  # fmt: skip
    np.testing.assert_allclose(np.sum((matrix.T @ weight[:, i]) ** 2), found.fun, rtol=1e-9)


def test_alista_weight_of_awkward_matrices():
  matrix = jnp.array([[1.0, 0.0, 0.0], [2.0, 0.0, 1.0], [3.0, 0.0, 1.0]])  # dependent rows
  run = jax.jit(u.alista_weight)
  weight = np.asarray(run(matrix))
  np.testing.assert_allclose((weight * matrix).sum(0), [1, 0, 1], atol=1e-5)
  assert not weight[:, 1].any() and np.isfinite(weight).all()
  assert not np.asarray(run(jnp.zeros((3, 3)))).any()


@pytest.mark.x64
def test_support_selection_against_a_loop(rng):
  x = np.round(rng.standard_normal((5, 8)), 1)  # with ties
  run = jax.jit(lambda t, share: u.soft_threshold_except_largest(x, t, support=share))
  for share, t in ((0.0, 0.5), (0.25, 0.5), (0.5, 1.0), (1.0, 0.3)):
    want = np.sign(x) * np.maximum(np.abs(x) - t, 0)
    for row, values in enumerate(x):
      for i in sorted(range(8), key=lambda i, v=values: (-abs(v[i]), i))[: round(share * 8)]:
        if abs(values[i]) > t:
          want[row, i] = values[i]
    np.testing.assert_allclose(run(t, share), want, atol=1e-15)
  data = u.Measurements(jnp.asarray(x[0]), jnp.eye(8), jnp.eye(8))
  one = jnp.ones(())
  for cell, layer in (
    (u.alista_cell, u.ThresholdLayers(one, one, jnp.array(0.25))),
    (u.lista_cp_cell, u.WeightLayers(jnp.eye(8), one, jnp.array(0.25))),
  ):
    want = u.soft_threshold_except_largest(data.y, 1.0, support=0.25)
    np.testing.assert_array_equal(cell(jnp.zeros(8), layer, data), want)


@pytest.mark.x64
def test_shrinkage_is_the_posterior_mean():
  p, a = 0.2, 1.5

  def mean(x, v):
    """By quadrature over the Gaussian part, the point mass apart."""
    like = lambda s: np.exp(-((x - s) ** 2) / (2 * v)) / np.sqrt(2 * np.pi * v)
    prior = lambda s: p * np.exp(-(s**2) / (2 * a)) / np.sqrt(2 * np.pi * a)
    around = [0.0, x, x * a / (a + v)]
    top = quad(lambda s: s * prior(s) * like(s), -12, 12, points=around, epsabs=1e-14)[0]
    bottom = quad(lambda s: prior(s) * like(s), -12, 12, points=around, epsabs=1e-14)[0]
    return top / (bottom + (1 - p) * like(0.0))

  for v in (0.01, 0.3):
    x = np.array([-2.0, -0.3, 0.1, 0.4, 1.7])
    got = u.shrink_bernoulli_gaussian(jnp.asarray(x), rate=p, noise_variance=v, signal_variance=a)
    np.testing.assert_allclose(got, [mean(e, v) for e in x], rtol=1e-7)
  far = u.shrink_bernoulli_gaussian(jnp.array([0.0, 1e30]), rate=0.0, noise_variance=1e-3)
  np.testing.assert_array_equal(far, [0, 0])
  np.testing.assert_allclose(
    u.shrink_bernoulli_gaussian(jnp.array([2.0]), rate=1.0, noise_variance=1.0), [1.0]
  )


@pytest.mark.x64
def test_tista_cell_follows_its_formula(general):
  matrix, y = (np.asarray(v) for v in general)
  x = 0.3 * np.ones((BATCH, N))
  g, p, s2, a = 1.3, 0.2, 0.05, 0.8
  inverse = np.linalg.pinv(matrix)
  np.testing.assert_allclose(u.tista_weight(matrix).T, inverse, rtol=1e-9, atol=1e-12)
  data = u.Measurements(jnp.asarray(y), jnp.asarray(matrix), u.tista_weight(matrix))
  got = u.tista_cell(
    jnp.asarray(x), u.StepLayers(jnp.array(g)), data, rate=p, noise_variance=s2, signal_variance=a
  )
  for row in range(1):
    residual = y[row] - matrix @ x[row]
    v2 = max((residual @ residual - M * s2) / np.trace(matrix.T @ matrix), 1e-9 * a)
    t2 = v2 / N * (N + (g**2 - 2 * g) * M) + g**2 * s2 * np.trace(inverse @ inverse.T) / N
    # the same trace without the identity that the paper uses for the pseudo-inverse
    free = np.eye(N) - g * inverse @ matrix
    np.testing.assert_allclose(
      t2, v2 / N * np.sum(free**2) + g**2 * s2 * np.sum(inverse**2) / N, rtol=1e-9
    )
    want = u.shrink_bernoulli_gaussian(
      jnp.asarray(x[row] + g * inverse @ residual), rate=p, noise_variance=t2, signal_variance=a
    )
    np.testing.assert_allclose(got[row], want, rtol=1e-9)


def test_untrained_tista_is_far_ahead_of_ista():
  """A wrong variance or density would stall it: the error falls in every layer."""

  @jax.jit
  def run(key):
    matrix = jax.random.normal(key, (150, 300)) / np.sqrt(150)
    batch = u.sample_sparse_batch(jax.random.key(1), matrix, batch=20, rate=0.1, noise=0.01)
    data = u.Measurements(batch.y, matrix, u.tista_weight(matrix))
    cell = functools.partial(u.tista_cell, rate=0.1, noise_variance=1e-4)
    start = jnp.zeros((20, 300))
    _, tista = u.unfold(cell, u.StepLayers(jnp.ones(10)), start, data)
    _, ista = u.unfold(u.ista_cell, u.ista_layers(matrix, 0.05, num_layers=10), start, data)
    return [jnp.mean((trace - batch.truth[None]) ** 2, (1, 2)) for trace in (tista, ista)]

  tista, ista = run(jax.random.key(0))
  assert np.all(np.diff(tista) < 0) and tista[-1] < 0.1 * ista[-1]


def test_depth_skips_layers_without_another_compile(general):
  matrix, y = (v.astype(jnp.float32) for v in general)
  layers = u.ista_layers(matrix, LAM, num_layers=LAYERS)
  start, data = jnp.zeros((BATCH, N)), u.Measurements(y, matrix)

  def run(depth):
    return u.unfold(u.ista_cell, layers, start, data, depth=depth)

  assert_no_retrace(run, lambda i: (jnp.asarray(i, jnp.int32),))
  jitted = jax.jit(run)
  full, trace = jitted(LAYERS)
  for depth in range(LAYERS + 1):
    last, seen = jitted(depth)
    np.testing.assert_array_equal(last, start if depth == 0 else trace[depth - 1])
    np.testing.assert_array_equal(seen[:depth], trace[:depth])
  np.testing.assert_array_equal(jitted(99)[0], full)
  grad = jax.jit(jax.grad(lambda p, d: jnp.sum(
    u.unfold(u.ista_cell, p, start, data, depth=d)[0] ** 2)))(layers, 2)  # fmt: skip
  assert np.all(grad.step[:2] != 0) and not np.any(grad.step[2:])


def test_checkpoint_gives_the_same_gradient_in_less_memory():
  layers, size = 16, 128
  matrix = jax.random.normal(jax.random.key(0), (size, 2 * size)) / np.sqrt(size)
  data = u.Measurements(jnp.ones((32, size)), matrix)
  params = u.ista_layers(matrix, 0.1, num_layers=layers)

  def loss(params, checkpoint):
    x, _ = u.unfold(u.ista_cell, params, jnp.zeros((32, 2 * size)), data, checkpoint=checkpoint)
    return jnp.sum(x**2)

  found, memory = [], []
  for checkpoint in (None, 4):
    compiled = jax.jit(jax.grad(functools.partial(loss, checkpoint=checkpoint))).lower(params)
    compiled = compiled.compile()
    found.append(compiled(params).step)
    memory.append(compiled.memory_analysis().temp_size_in_bytes)
  np.testing.assert_allclose(found[1], found[0], rtol=1e-4)
  iterates = layers * 32 * 2 * size * 4  # bytes of one array of all iterates
  assert memory[0] > 2 * iterates  # without it: masks and residuals of every layer too
  # Of 16 layers four iterates are kept, and the residuals of one segment of four layers.
  assert memory[1] < memory[0] - iterates


@pytest.mark.x64
def test_repeated_layers_sum_the_gradient(general):
  matrix, y = general
  data = u.Measurements(y, matrix)
  layer = u.ThresholdLayers(jnp.array(0.3), jnp.array(0.1))

  def loss(params):
    return jnp.sum(u.unfold(u.ista_cell, params, jnp.zeros((BATCH, N)), data)[0] ** 2)

  shared = jax.grad(lambda l: loss(u.repeat_layers(l, num_layers=LAYERS)))(layer)
  each = jax.grad(loss)(u.repeat_layers(layer, num_layers=LAYERS))
  np.testing.assert_allclose(shared.step, each.step.sum(), rtol=1e-12)
  np.testing.assert_allclose(shared.threshold, each.threshold.sum(), rtol=1e-12)


def test_negative_parameters_count_as_zero():
  data = u.Measurements(jnp.ones((1, 2)), jnp.eye(2))
  x = jnp.array([[1.0, -2.0]])
  run = jax.jit(lambda cell, layer: cell(x, layer, data), static_argnums=0)
  off = -jnp.ones(())
  for cell, layer in (
    (u.ista_cell, u.ThresholdLayers(off, off)),
    (functools.partial(u.tied_ista_cell, strength=1.0), u.StepLayers(off)),
    (functools.partial(u.iht_cell, strength=1.0), u.StepLayers(off)),
  ):
    np.testing.assert_array_equal(run(cell, layer), x)


@pytest.mark.x64
def test_l0_surrogate_is_below_the_count_and_goes_to_it(general):
  matrix, y = general
  data, x = u.Measurements(y, matrix), jnp.asarray([[0.0, 0.5] * (N // 2)] * BATCH)
  base = 0.5 * np.sum((np.asarray(y) - np.asarray(x) @ np.asarray(matrix).T) ** 2, -1)
  exact = u.l0_objective(x, data, strength=0.3)
  np.testing.assert_allclose(exact, base + 0.3 * N / 2, rtol=1e-12)
  # The count has no gradient: the data term alone trains.
  grad = jax.grad(lambda x: u.l0_objective(x, data, strength=0.3).sum())(x)
  np.testing.assert_allclose(grad, (x @ matrix.T - y) @ matrix, rtol=1e-9, atol=1e-12)
  soft = u.l0_objective(x, data, strength=0.3, width=0.5)
  np.testing.assert_allclose(soft, base + 0.3 * N / 2 * (1 - np.exp(-0.5)), rtol=1e-12)
  np.testing.assert_allclose(u.l0_objective(x, data, strength=0.3, width=1e-3), exact, rtol=1e-12)
  np.testing.assert_allclose(
    u.l1_objective(x, data, strength=0.3), base + 0.3 * 0.25 * N, rtol=1e-12
  )
  np.testing.assert_allclose(u.supervised_loss(x, jnp.zeros_like(x)), 0.125, rtol=1e-12)


def test_batches_have_the_stated_moments():
  matrix = jnp.eye(50)[:40]
  batch = jax.jit(
    lambda key: u.sample_sparse_batch(key, matrix, batch=400, rate=0.2, noise=0.5, scale=2.0)
  )(jax.random.key(1))
  active = np.asarray(batch.truth != 0)
  assert abs(active.mean() - 0.2) < 4 * np.sqrt(0.16 / active.size)
  values = np.asarray(batch.truth)[active]
  assert abs(values.std() - 2.0) < 4 * 2.0 / np.sqrt(2 * values.size)
  errors = np.asarray(batch.y - batch.truth @ matrix.T)
  assert abs(errors.std() - 0.5) < 4 * 0.5 / np.sqrt(2 * errors.size)
  assert abs(errors.mean()) < 4 * 0.5 / np.sqrt(errors.size)


@pytest.mark.x64
def test_continuation_ends_at_the_threshold_of_the_objective():
  matrix = 2 * jnp.eye(3)  # L = 4
  layers = u.continuation_layers(matrix, 0.5, num_layers=60, start=3.0, decay=0.9)
  factor = np.maximum(3 * 0.9 ** np.arange(60), 1)
  np.testing.assert_allclose(layers.threshold, factor * np.sqrt(2 * 0.5 / 4), rtol=1e-12)
  np.testing.assert_allclose(layers.step, 0.25, rtol=1e-12)
  one = u.continuation_layers(matrix, 0.5, num_layers=1, start=1.0)
  np.testing.assert_allclose(one.threshold, [0.5], rtol=1e-12)
  assert u.step_layers(matrix, num_layers=1).step.shape == (1,)


def test_tista_with_every_entry_active_is_linear():
  """At rate 1 the shrinkage is the Wiener factor a / (a + t2)."""
  matrix = jnp.eye(4)[:2]
  data = u.Measurements(jnp.array([1.0, -2.0]), matrix, u.tista_weight(matrix))
  x = u.tista_cell(
    jnp.zeros(4), u.StepLayers(jnp.ones(())), data, rate=1.0, noise_variance=0.5,
    signal_variance=2.0,
  )  # fmt: skip
  v2 = (5.0 - 2 * 0.5) / 2
  t2 = v2 / 4 * (4 - 2) + 0.5 * 2 / 4
  np.testing.assert_allclose(x, np.array([1.0, -2.0, 0, 0]) * 2 / (2 + t2), rtol=1e-5)


def test_half_precision_weights_and_steps():
  matrix = jnp.array([[1.0, 0.5, 0.0], [0.0, 0.25, 2.0]])
  half = matrix.astype(jnp.bfloat16)
  for make in (u.alista_weight, u.tista_weight):
    assert make(half).dtype == jnp.bfloat16
    np.testing.assert_allclose(make(half), make(matrix), atol=0.02)
  step = u.step_layers(half, num_layers=2).step
  np.testing.assert_allclose(step, u.step_layers(matrix, num_layers=2).step, rtol=0.02)


def test_derivatives_of_the_shrinkage_at_the_ends_of_the_rate_are_finite():
  grad = jax.grad(lambda p: u.shrink_bernoulli_gaussian(0.3, rate=p, noise_variance=0.1))
  assert all(np.isfinite(grad(p)) for p in (0.0, 0.5, 1.0))
