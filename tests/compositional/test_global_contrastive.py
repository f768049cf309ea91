"""SogCLR and iSogCLR: gradient identities, temperatures, the state, and a batch over devices."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from jaxopt_robust import compositional, losses
from tests.helpers import central_difference

BATCH, WIDTH, EXAMPLES = 8, 3, 12
INDEX = np.array([7, 0, 3, 11, 4, 1, 9, 5], np.int32)
EVERY = np.ones(BATCH, bool)
NUMBERS = {
  "radius": 0.4,
  "rate": 0.8,
  "momentum": 0.5,
  "temperature_rate": 0.03,
  "gradient_clip": 3.0,
}
FUNCTIONS = {"views": compositional.rgcl_loss, "pairs": compositional.rgcl_bimodal_loss}
both = pytest.mark.parametrize("kind", FUNCTIONS)


@functools.cache
def compiled(kind, mode="isogclr", normalize=True):
  """Jitted ``(z1, z2, index, state, numbers, bounds, where) -> (value, gradients, state, info)``.

  One shape for all tests: compilation is what takes time.
  """

  def evaluate(z1, z2, index, state, numbers, bounds, where):
    def loss(z1, z2):
      return FUNCTIONS[kind](
        z1, z2, index, state, temperature_bounds=bounds, where=where, mode=mode,
        normalize=normalize, **numbers,
      )  # fmt: skip

    (value, (new, info)), grads = jax.value_and_grad(loss, (0, 1), has_aux=True)(z1, z2)
    return value, grads, new, info

  return jax.jit(evaluate)


def visit(
  kind, z, state, index=INDEX, where=EVERY, bounds=(0.05, 1.0), mode="isogclr", normalize=True,
  **numbers,
):  # fmt: skip
  dtype = np.asarray(z[0]).dtype if np.asarray(z[0]).dtype == np.float64 else np.float32
  numbers = {k: np.asarray(v, dtype) for k, v in {**NUMBERS, **numbers}.items()}
  bounds = tuple(np.asarray(b, dtype) for b in bounds)
  fun = compiled(kind, mode, normalize)
  return fun(*z, np.asarray(index, np.int32), state, numbers, bounds, where)


def start(kind, temperature=0.2):
  dtype = jnp.result_type(float)
  one = compositional.rgcl_init(EXAMPLES, temperature=temperature, dtype=dtype)
  return one if kind == "views" else (one, one)


def sides(kind, state):
  return (state,) if kind == "views" else state


@pytest.fixture
def z(rng):
  dtype = jnp.result_type(float)
  z1 = rng.normal(size=(BATCH, WIDTH))
  return jnp.asarray(z1, dtype), jnp.asarray(z1 + 0.5 * rng.normal(size=z1.shape), dtype)


def unit(x):
  return x / jnp.linalg.norm(x, axis=1, keepdims=True)


def exact(kind, z1, z2, tau, rho):
  """The robust loss of the batch with all anchors at one temperature, by the stateless losses."""
  options = {"temperature": tau, "radius": rho}
  if kind == "views":
    scores, positives, where = losses.two_view_scores(z1, z2)
    return jnp.mean(losses.global_contrastive_loss(scores, positives, where=where, **options))
  scores, diagonal = unit(z1) @ unit(z2).T, jnp.arange(BATCH)
  image = losses.global_contrastive_loss(scores, diagonal, **options)
  text = losses.global_contrastive_loss(scores.T, diagonal, **options)
  return jnp.mean(image) + jnp.mean(text)


@pytest.mark.x64
@both
def test_full_batch_gradient_is_exact(kind, z):
  """rate = 1: gradient and objective of the robust loss; in tau too, by finite differences."""
  state = start(kind)
  _, grads, new, info = visit(kind, z, state, rate=1.0, momentum=1.0, gradient_clip=np.inf)
  fun = jax.jit(jax.value_and_grad(functools.partial(exact, kind), (0, 1)))
  value, expected = fun(*z, 0.2, 0.4)
  for got, want in zip(grads, expected, strict=True):
    np.testing.assert_allclose(got, want, rtol=1e-10, atol=1e-15)
  np.testing.assert_allclose(info.objective, value, rtol=1e-12)
  step = 1e-5
  number = 1 if kind == "views" else 2  # the info holds the mean over the two sides
  slope = (fun(*z, 0.2 + step, 0.4)[0] - fun(*z, 0.2 - step, 0.4)[0]) / (2 * step)
  np.testing.assert_allclose(info.temperature_gradient, slope / number, rtol=1e-7)
  moved = np.mean([np.mean(s.temperature[INDEX]) for s in sides(kind, new)])
  np.testing.assert_allclose(0.2 - moved, 0.03 * slope / number, rtol=1e-7)
  np.testing.assert_allclose(info.temperature_gradient, 0.4 - info.divergence, rtol=1e-10)


@pytest.mark.x64
@both
def test_simclr_mode_is_info_nce_times_the_temperature(kind, z):
  state = start(kind)
  _, grads, new, info = visit(kind, z, state, mode="simclr")

  def loss(z1, z2):
    if kind == "views":
      scores, positives, where = losses.two_view_scores(z1, z2)
      return 0.2 * jnp.mean(losses.info_nce_loss(scores, positives, temperature=0.2, where=where))
    scores, diagonal = unit(z1) @ unit(z2).T, jnp.arange(BATCH)
    values = [losses.info_nce_loss(s, diagonal, temperature=0.2) for s in (scores, scores.T)]
    return 0.2 * jnp.mean(values[0] + values[1])

  value, expected = jax.jit(jax.value_and_grad(loss, (0, 1)))(*z)
  for got, want in zip(grads, expected, strict=True):
    np.testing.assert_allclose(got, want, rtol=1e-10, atol=1e-15)
  np.testing.assert_allclose(info.objective, value, rtol=1e-12)
  jax.tree.map(np.testing.assert_array_equal, new, state)


@pytest.mark.x64
def test_removing_the_positive_from_the_denominator_gives_the_sogclr_gradient(z):
  """rate = 1 and held temperatures: tau times InfoNCE without its positive in the denominator."""
  _, grads, _, info = visit("views", z, start("views"), rate=1.0, mode="sogclr")

  def loss(z1, z2):
    scores, positives, where = losses.two_view_scores(z1, z2)
    off = where & (positives[:, None] != jnp.arange(2 * BATCH)[None, :])
    logits = jnp.where(off, scores / 0.2, -jnp.inf)
    positive = jnp.take_along_axis(scores / 0.2, positives[:, None], 1)[:, 0]
    return 0.2 * jnp.mean(jax.nn.logsumexp(logits, axis=1) - positive)

  value, expected = jax.jit(jax.value_and_grad(loss, (0, 1)))(*z)
  for got, want in zip(grads, expected, strict=True):
    np.testing.assert_allclose(got, want, rtol=1e-10, atol=1e-15)
  # a sum instead of a mean over the 2 B - 2 negatives: a constant apart
  np.testing.assert_allclose(info.objective, value - 0.2 * np.log(2 * BATCH - 2), rtol=1e-12)


def buffer_step(s, b, logits, rate):
  """The recursion with a running maximum b, as published: s is u exp(-b)."""
  new_b = np.maximum(b, logits.max(1))
  g = np.exp(logits - new_b[:, None]).mean(1)
  return (1 - rate) * s * np.exp(b - new_b) + rate * g, new_b


@pytest.mark.x64
def test_log_domain_equals_the_running_maximum(rng):
  """100 visits with logits of scale 20, to rounding."""
  rate, tau = 0.3, 0.05
  state = (compositional.rgcl_init(EXAMPLES, temperature=tau, dtype=jnp.float64),) * 2
  off = ~np.eye(BATCH, dtype=bool)
  buffers = [None, None]
  worst = 0.0
  for _ in range(100):
    z = rng.normal(size=(2, BATCH, WIDTH)) / np.sqrt(WIDTH)
    _, _, state, _ = visit(
      "pairs", tuple(z), state, np.arange(BATCH), rate=rate, mode="sogclr", normalize=False
    )
    for side, (own, other) in enumerate(((z[0], z[1]), (z[1], z[0]))):
      scores = own @ other.T
      logits = ((scores - np.diag(scores)[:, None]) / tau)[off].reshape(BATCH, -1)
      if buffers[side] is None:
        largest = logits.max(1)
        buffers[side] = (np.exp(logits - largest[:, None]).mean(1), largest)
      else:
        buffers[side] = buffer_step(*buffers[side], logits, rate)
      s, b = buffers[side]
      error = np.abs(state[side].log_average[:BATCH] - (np.log(s) + b))
      worst = max(worst, np.max(error))
  assert np.ptp(np.asarray(state[0].log_average[:BATCH])) > 1  # the averages differ
  assert worst < 1e-12  # logs up to 100 in size have a rounding error of 1e-14


@pytest.mark.x64
def test_state_recursion_over_two_visits(z):
  """Second visit by hand: shared average of the views, momentum, clipping, untouched rows."""
  state = start("views", 0.3)
  _, _, first, _ = visit("views", z, state)
  later = tuple(1.5 * x[::-1] for x in z)
  _, _, second, info = visit("views", later, first, gradient_clip=0.05)
  z1, z2 = (np.asarray(unit(x), np.float64) for x in later)
  every = np.concatenate([z1, z2])
  keep = np.tile(~np.eye(BATCH, dtype=bool), (2, 2))
  gap = every @ every.T - np.sum(every * np.roll(every, BATCH, 0), 1)[:, None]
  old_u, tau = (
    np.asarray(x, np.float64)[INDEX] for x in (np.exp(first.log_average), first.temperature)
  )
  logits = gap / np.tile(tau, 2)[:, None]
  g = np.where(keep, np.exp(logits), 0).sum(1) / (2 * BATCH - 2)
  u = 0.2 * np.tile(old_u, 2) + 0.8 * g
  np.testing.assert_allclose(
    second.log_average[INDEX], np.log(u.reshape(2, -1).mean(0)), rtol=1e-4, atol=1e-5
  )
  weights = np.where(keep, np.exp(logits), 0) / (2 * BATCH - 2) / u[:, None]
  slope = np.log(u) + 0.4 - np.sum(weights * logits, 1)
  np.testing.assert_allclose(info.temperature_gradient, slope.mean(), rtol=1e-4, atol=1e-5)
  slope = np.clip(slope.reshape(2, -1).mean(0), -0.05, 0.05)
  m = 0.5 * np.asarray(first.momentum)[INDEX] + 0.5 * slope
  np.testing.assert_allclose(second.momentum[INDEX], m, rtol=1e-4, atol=1e-6)
  np.testing.assert_allclose(second.temperature[INDEX], tau - 0.03 * m, rtol=1e-5)
  rest = np.setdiff1d(np.arange(EXAMPLES), INDEX)
  for new, old in zip(second, state, strict=True):
    np.testing.assert_array_equal(new[rest], old[rest])
  assert np.all(np.isneginf(second.log_average[rest]))


def run_temperatures(z, radius, steps=300, temperature=0.3, **numbers):
  state = start("views", temperature)
  for _ in range(steps):
    _, _, state, info = visit("views", z, state, radius=radius, rate=1.0, **numbers)
  return state, info


@pytest.mark.x64
def test_temperatures_without_a_radius_grow_to_the_bound(z):
  state, _ = run_temperatures(z, 0.0, temperature_rate=0.3)  # the derivative is -KL <= 0
  np.testing.assert_array_equal(state.temperature[INDEX], 1.0)


@pytest.mark.x64
def test_temperatures_with_a_large_radius_fall_to_the_bound(z):
  state, info = run_temperatures(z, np.log(2 * BATCH - 2), temperature_rate=0.3)  # KL <= log m
  np.testing.assert_array_equal(state.temperature[INDEX], 0.05)
  assert info.divergence < np.log(2 * BATCH - 2)


@pytest.mark.x64
def test_equal_negatives_have_no_divergence():
  """All H equal: KL = 0, G = rho > 0, and the temperature falls by momentum * rate * rho."""
  z = jnp.ones((BATCH, WIDTH))
  _, grads, new, info = visit("views", (z, z), start("views"))
  np.testing.assert_allclose(info.divergence, 0, atol=1e-6)
  np.testing.assert_allclose(info.temperature_gradient, 0.4, rtol=1e-5)
  np.testing.assert_allclose(new.temperature[INDEX], 0.2 - 0.03 * 0.5 * 0.4, rtol=1e-5)
  np.testing.assert_allclose(grads[0], 0, atol=1e-6)


@pytest.mark.x64
def test_fixed_point_has_the_radius_as_its_divergence(z):
  """At rest and inside the bounds KL(p_i) = rho: the temperatures of the exact minimisation.

  The two views share a temperature, so their divergences average to rho.
  """
  state = start("pairs", 0.3)
  for _ in range(400):
    _, _, state, _ = visit(
      "pairs", z, state, radius=0.3, rate=1.0, temperature_rate=0.1, momentum=0.9
    )
  scores, diagonal = unit(z[0]) @ unit(z[1]).T, jnp.arange(BATCH)
  solve = jax.jit(
    lambda s: losses.robust_contrastive_temperatures(
      s, diagonal, radius=0.3, temperature_bounds=(0.05, 1.0)
    )
  )
  for side, matrix in zip(state, (scores, scores.T), strict=True):
    expected = solve(matrix)
    assert np.sum((expected > 0.051) & (expected < 0.99)) >= BATCH // 2
    np.testing.assert_allclose(side.temperature[INDEX], expected, rtol=1e-4)


@pytest.mark.x64
def test_averages_do_not_see_a_constant_in_the_scores(z):
  """An extra coordinate, 0 in the positives' products, shifts a row of scores by a constant."""
  shift = np.linspace(-1, 1, BATCH)[:, None]
  ones, zeros = np.ones((BATCH, 1)), np.zeros((BATCH, 1))
  images, texts = (np.concatenate([x, zeros, zeros], 1) for x in z)
  moved = np.concatenate([z[0], shift, zeros], 1)  # image i gains shift_i with every text
  texts_1 = np.concatenate([z[1], ones, zeros], 1)
  state = start("pairs")
  _, grads, new, info = visit("pairs", (images, texts), state, normalize=False, mode="sogclr")
  _, other, other_new, _ = visit("pairs", (moved, texts_1), state, normalize=False, mode="sogclr")
  # the side of the images: H is unchanged
  np.testing.assert_allclose(other_new[0].log_average[INDEX], new[0].log_average[INDEX], rtol=1e-9)
  assert np.any(np.abs(other_new[1].log_average - new[1].log_average)[INDEX] > 0.1)
  assert np.all(np.isfinite(info.objective)) and other[0].shape == grads[0].shape


@pytest.mark.x64
@both
def test_surrogate_is_linear_in_the_scores_and_state_is_frozen(kind, z):
  """Without normalisation: finite differences of the surrogate with its weights held."""
  _, _, state, _ = visit(kind, z, start(kind), normalize=False)
  later = tuple(0.7 * x for x in z)
  _, grads, _, _ = visit(kind, later, state, normalize=False, rate=0.3)

  def frozen_objective(z1):  # rate * grad of tau log g at the batch, weighted by g / u
    total = 0.0
    for number, side in enumerate(sides(kind, state)):
      tau = np.asarray(side.temperature)[INDEX]
      u_old = np.exp(np.asarray(side.log_average))[INDEX]
      own = (z1, later[1]) if number == 0 else (later[1], z1)
      if kind == "views":
        anchors, columns = np.concatenate(own), np.concatenate(own)
        tau, u_old = np.tile(tau, 2), np.tile(u_old, 2)
        keep = np.tile(~np.eye(BATCH, dtype=bool), (2, 2))
      else:
        anchors, columns, keep = *own, ~np.eye(BATCH, dtype=bool)
      positive = np.tile(np.sum(own[0] * own[1], 1), len(anchors) // BATCH)
      gap = anchors @ columns.T - positive[:, None]
      g = np.where(keep, np.exp(gap / tau[:, None]), 0).sum(1) / keep.sum(1)
      base = frozen.setdefault(number, 0.7 * u_old + 0.3 * g)
      total += np.mean(tau * g / base)
    return total

  frozen = {}
  frozen_objective(np.asarray(later[0]))
  expected = central_difference(frozen_objective, later[0])
  np.testing.assert_allclose(grads[0], expected, rtol=1e-6, atol=1e-8)


@pytest.mark.x64
@both
def test_duplicates_are_averaged_in_any_order(kind, z):
  index = np.array([7, 0, 3, 7, 4, 0, 9, 7], np.int32)
  state = start(kind)
  _, grads, new, info = visit(kind, z, state, index)
  order = np.array([5, 2, 7, 0, 1, 6, 3, 4])
  _, other, again, other_info = visit(kind, tuple(x[order] for x in z), state, index[order])
  for a, b in zip(jax.tree.leaves((new, info)), jax.tree.leaves((again, other_info)), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(other[0], grads[0][order], rtol=1e-4, atol=1e-6)
  # views of the same example are no negatives of each other: here there is one example only
  value, grads, new, info = visit(kind, z, state, np.full(BATCH, 3))
  assert value == 0 and info.objective == 0 and np.all(grads[0] == 0)
  jax.tree.map(np.testing.assert_array_equal, new, state)


@pytest.mark.x64
@both
def test_masked_rows_do_not_count(kind, z):
  where = np.array([1, 1, 0, 1, 1, 0, 1, 1], bool)
  hidden = tuple(x.at[2].set(jnp.nan).at[5].set(jnp.inf) for x in z)
  index = np.where(where, INDEX, [0, 0, -7, 0, 0, 400, 0, 0])
  state = start(kind)
  value, grads, new, info = visit(kind, hidden, state, index, where)
  fun = jax.jit(
    lambda a, b: jax.value_and_grad(
      lambda a: FUNCTIONS[kind](a, b, INDEX[where], state, **NUMBERS), has_aux=True
    )(a)
  )
  (expected, (kept, kept_info)), kept_grads = fun(*(x[where] for x in z))
  np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(grads[0][where], kept_grads, rtol=1e-4, atol=1e-6)
  np.testing.assert_array_equal(grads[0][~where], 0)
  for a, b in zip(jax.tree.leaves((new, info)), jax.tree.leaves((kept, kept_info)), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
  value, grads, new, _ = visit(kind, hidden, state, index, np.zeros(BATCH, bool))
  assert value == 0 and np.all(grads[0] == 0) and np.all(grads[1] == 0)
  jax.tree.map(np.testing.assert_array_equal, new, state)


@pytest.mark.x64
@both
def test_bad_scores_spoil_the_step_and_not_the_state(kind, z):
  _, _, state, _ = visit(kind, z, start(kind))
  value, _, new, _ = visit(kind, (z[0].at[1, 0].set(jnp.nan), z[1]), state)
  assert np.isnan(value)
  for old_side, new_side in zip(sides(kind, state), sides(kind, new), strict=True):
    for a, b in zip(new_side, old_side, strict=True):
      assert np.all(np.isfinite(a[INDEX]))
      np.testing.assert_array_equal(a[INDEX[1]], b[INDEX[1]])
  index = np.where(np.arange(BATCH) == 2, EXAMPLES, INDEX)
  value, _, new, _ = visit(kind, z, state, index)  # out of range, under jit
  assert np.isnan(value)
  assert not any(np.any(np.isnan(x)) for x in jax.tree.leaves(new))


@pytest.mark.parametrize(("kind", "mode"), [("views", "isogclr"), ("pairs", "simclr")])
def test_huge_scores_and_low_temperatures_are_finite(kind, mode, z):
  state = start(kind, 0.01)
  huge = tuple(100 * jnp.sign(x) for x in z)  # products of +-1e4, divided by 0.01
  for z_now in (huge, huge[::-1]):
    value, grads, state, info = visit(
      kind, z_now, state, normalize=False, mode=mode, bounds=(0.01, 1.0)
    )
    assert np.isfinite(value) and all(np.all(np.isfinite(g)) for g in grads)
    assert all(np.all(np.isfinite(x)) for x in info)
    assert not any(np.any(np.isnan(x)) for x in jax.tree.leaves(state))


def test_dtypes_and_precision(z):
  loss = lambda z1: compositional.rgcl_loss(z1, z[1], INDEX, start("views"), **NUMBERS)
  half = jax.eval_shape(jax.value_and_grad(loss, has_aux=True), z[0].astype(jnp.bfloat16))
  (value, (new, info)), grads = half
  assert value.dtype == jnp.float32 and grads.dtype == jnp.bfloat16
  assert all(x.dtype == jnp.float32 for x in (*new, *info))
  narrow = visit("views", z, start("views"))
  with jax.enable_x64(True):
    wide = visit("views", tuple(np.asarray(x, np.float64) for x in z), start("views"))
  for a, b in zip(jax.tree.leaves(narrow), jax.tree.leaves(wide), strict=True):
    assert a.dtype == jnp.float32 and b.dtype == jnp.float64
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.x64
def test_new_numbers_do_not_retrace_and_may_be_vmapped(z):
  radii = np.array([0.1, 0.5])
  visit("views", z, start("views"))
  size = compiled("views")._cache_size()
  expected = [visit("views", z, start("views"), radius=rho)[2].temperature for rho in radii]
  assert compiled("views")._cache_size() == size and np.any(expected[0] != expected[1])
  fun = lambda rho: compositional.rgcl_loss(*z, INDEX, start("views"), radius=rho)
  _, (states, _) = jax.jit(jax.vmap(fun))(radii)
  np.testing.assert_allclose(states.temperature, expected, rtol=1e-12)


@both
def test_batch_over_devices_equals_one_device(kind, z):
  """Eight devices with a row each: values, parameter gradients and states of the whole batch."""
  mesh = jax.make_mesh((8,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,))
  rows, everywhere = P("batch"), P()
  _, _, state, _ = visit(kind, z, start(kind))
  index = np.array([7, 0, 3, 11, 7, 1, 9, 5], np.int32)  # the same example on two devices
  where = np.arange(BATCH) != 6
  weights = jnp.asarray(np.linspace(-1, 1, WIDTH * WIDTH).reshape(WIDTH, WIDTH), jnp.float32)

  def step(weights, z1, z2, index, where, state, axis_name):
    loss = lambda w: FUNCTIONS[kind](
      z1 @ w + z1, z2 @ w + z2, index, state, where=where, axis_name=axis_name, **NUMBERS
    )
    (value, aux), grads = jax.value_and_grad(loss, has_aux=True)(weights)
    if axis_name is not None:
      grads = jax.lax.psum(grads, axis_name)
    return value, grads, aux

  split = jax.shard_map(
    functools.partial(step, axis_name="batch"), mesh=mesh,
    in_specs=(everywhere, rows, rows, rows, rows, everywhere), out_specs=everywhere,
    check_vma=False,
  )  # fmt: skip
  together = functools.partial(step, axis_name=None)
  args = (weights, *z, index, where, state)
  got, expected = jax.jit(split)(*args), jax.jit(together)(*args)
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
