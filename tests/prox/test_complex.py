"""Complex arrays: a complex number is a group of two real ones, and only its modulus counts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxopt_robust import prox
from tests.registries.prox import PENALTIES
from tests.registries.prox_scalar import SCALAR

# Entrywise penalties that depend on the modulus alone.
EVEN = {
  "lasso", "elastic_net", "ridge", "three_halves", "cube", "fourth_power", "l0", "half",
  "two_thirds", "lq", "mcp", "scad", "cel0", "log_sum", "capped_l1", "huber", "epsilon_insensitive",
}  # fmt: skip
RADIAL = [case for case in [*PENALTIES, *SCALAR] if case.name in EVEN]
OTHERS = [case for case in [*PENALTIES, *SCALAR] if case.name not in EVEN | {"none", "group_lasso"}]
Z = np.array([3 + 4j, 0.1j, -2 + 0.3j, 0.0, -1.2 - 1.3j, 0.4 - 0.2j])


def assert_derivatives(fun, z, rng, size=2e-7):
  """A forward derivative equals differences of the real problem of twice the size; reverse too."""
  direction = rng.standard_normal(z.shape) + 1j * rng.standard_normal(z.shape)
  weights = rng.standard_normal(z.shape) + 1j * rng.standard_normal(z.shape)
  real = lambda v: jnp.sum(jnp.real(jnp.conj(weights) * fun(v)))
  step = 1e-6

  @jax.jit
  def run(z):
    ends = jax.vmap(real)(jnp.stack([z + step * direction, z - step * direction]))
    return ends, jax.jvp(real, (z,), (direction,))[1], jax.grad(real)(z)

  ends, slope, gradient = run(z)  # df = Re(gradient dz)
  np.testing.assert_allclose(slope, (ends[0] - ends[1]) / (2 * step), rtol=size, atol=size)
  np.testing.assert_allclose(np.sum(np.real(gradient * direction)), slope, rtol=1e-10)


@pytest.mark.x64
@pytest.mark.parametrize("case", RADIAL, ids=lambda c: f"{c.name}-{c.tag}".replace(" ", "_"))
def test_the_modulus_is_that_of_the_real_operator(case, rng):
  run = lambda z: case.prox(z, case.hyper, 0.5)
  value_of = lambda z: case.value(z, case.hyper)

  @jax.jit
  def both(z, sizes, with_nan):
    slopes = jax.grad(lambda z: jnp.sum(jnp.abs(run(z)) ** 2))(z), jax.grad(value_of)(z)
    return (run(z), value_of(z)), (run(sizes), value_of(sizes)), slopes, run(with_nan)

  sizes, with_nan = np.abs(Z), np.array([np.nan + 1j, *Z[1:]])
  (got, value), (real, real_value), slopes, spread = both(Z, sizes, with_nan)
  phase = np.where(sizes > 0, Z / np.where(sizes > 0, sizes, 1), 0)
  np.testing.assert_allclose(got, phase * real, rtol=1e-14)
  assert value.dtype == jnp.float64
  np.testing.assert_allclose(value, real_value, rtol=1e-14)
  # The real problem of twice the size: nothing around the result is better.
  objective = jax.vmap(lambda y: jnp.sum(jnp.abs(y - Z) ** 2) / 2 + 0.5 * case.value(y, case.hyper))
  steps = rng.standard_normal((300, 6, 2)) * 10.0 ** rng.uniform(-6, 0.5, (300, 1, 1))
  others = np.asarray(got) + steps[..., 0] + 1j * steps[..., 1]
  values = jax.jit(objective)(np.concatenate([got[None], others]))
  assert values[0] <= values[1:].min() + 1e-12
  assert_derivatives(run, Z[[0, 2, 4]], rng)
  assert all(np.isfinite(slope).all() for slope in slopes)
  assert np.isnan(spread).tolist() == [True] + [False] * 5


def shrink(group, threshold):
  norm = np.linalg.norm(group)
  return group * max(1 - threshold / norm, 0) if norm else group


@pytest.mark.x64
def test_groups_are_groups_of_twice_the_size(rng):
  rows = Z.reshape(3, 2)
  expected = np.stack([shrink(row, 0.7) for row in rows])
  of_group, of_rows, value, sparse_group = jax.jit(
    lambda z, rows: (
      prox.prox_group_lasso(z, 1.0), prox.prox_l21(rows, 0.7), prox.penalty_l21(rows),
      prox.prox_sparse_group_lasso(z, (0.2, 0.9)),
    )
  )(Z, rows)  # fmt: skip
  np.testing.assert_allclose(of_group, shrink(Z, 1.0), rtol=1e-14)
  np.testing.assert_allclose(of_rows, expected, atol=1e-15)
  np.testing.assert_allclose(value, np.linalg.norm(rows, axis=1).sum(), rtol=1e-14)
  ids = np.array([0, 1, 0, 1, 2, 2])
  soft = np.where(np.abs(Z) > 0.2, Z - 0.2 * Z / np.maximum(np.abs(Z), 0.1), 0)
  np.testing.assert_allclose(sparse_group, shrink(soft, 0.9))
  for sparse, data in ((False, Z), (True, soft)):
    make = prox.make_sparse_group_penalty if sparse else prox.make_group_penalty
    penalty = make(prox.lasso, ids, num_groups=3)
    hyper = (0.2, 0.9) if sparse else 0.9
    expected = np.zeros(6, complex)
    for g in range(3):
      expected[ids == g] = shrink(data[ids == g], 0.9)
    run = lambda z, p=penalty, h=hyper: (p.prox(z, h), p.value(z, h))
    got, got_value = jax.jit(run)(Z)
    np.testing.assert_allclose(got, expected, atol=1e-15)
    assert_derivatives(lambda z, r=run: r(z)[0], Z + 0.5, rng)
    value = sum(0.9 * np.linalg.norm(Z[ids == g]) for g in range(3))
    value += 0.2 * np.abs(Z).sum() if sparse else 0
    np.testing.assert_allclose(got_value, value, rtol=1e-14)


@pytest.mark.x64
def test_singular_values_of_complex_matrices(rng):
  x = rng.standard_normal((4, 3)) + 1j * rng.standard_normal((4, 3))
  u, s, vh = np.linalg.svd(x, full_matrices=False)
  build = lambda values: (u * values) @ vh
  cut = np.minimum(s, (s[0] - 0.5))  # the largest loses all of 0.5 unless the next one is near
  cases = {
    "nuclear": (0.5, np.maximum(s - 0.5, 0), 0.5 * s.sum()),
    "rank": (0.5, np.where(s > 1, s, 0), 1.5),
  }
  if s[1] < s[0] - 0.5:
    cases["spectral_norm"] = (0.5, cut, 0.5 * s[0])
  for name, (hyper, values, total) in cases.items():
    penalty = getattr(prox, name)
    got, value = jax.jit(lambda z, p=penalty, h=hyper: (p.prox(z, h), p.value(z, h)))(x)
    np.testing.assert_allclose(got, build(values), atol=1e-13)
    np.testing.assert_allclose(value, total, rtol=1e-13)
    assert_derivatives(lambda z, p=penalty, h=hyper: p.prox(z, h), x, rng)
  # At repeated values, and for the wide matrix: the derivatives of the smooth penalties there.
  huber = prox.make_spectral_penalty(prox.ridge)
  np.testing.assert_allclose(jax.jit(huber.prox)(x.T, 1.0), x.T / 2, atol=1e-14)
  assert_derivatives(lambda z: prox.prox_nuclear(z, 0.5), x.T, rng)
  tied = np.linalg.qr(x)[0]
  assert_derivatives(lambda z: prox.prox_nuclear(z, 0.5), tied, rng)
  nuclear = lambda z: prox.penalty_nuclear(z)
  np.testing.assert_allclose(jax.jit(jax.grad(nuclear))(x), np.conj(u @ vh), atol=1e-13)


@pytest.mark.x64
@pytest.mark.parametrize("name", ["tv2d", "tv2d_anisotropic"])
def test_total_variation_of_complex_images(name, rng):
  fun, penalty = getattr(prox, f"prox_{name}"), getattr(prox, f"penalty_{name}")
  run = jax.jit(lambda z: fun(z, 0.4, tol=1e-14, max_steps=20_000))
  z = rng.standard_normal((3, 4)) + 1j * rng.standard_normal((3, 4))
  y = run(z)
  down, right = np.diff(z, axis=0), np.diff(z, axis=1)
  down, right = np.pad(down, ((0, 1), (0, 0))), np.pad(right, ((0, 0), (0, 1)))
  pairs = np.sqrt(np.abs(down) ** 2 + np.abs(right) ** 2)
  links = np.abs(down) + np.abs(right)
  np.testing.assert_allclose(penalty(z), (pairs if name == "tv2d" else links).sum(), rtol=1e-14)
  # Convex: no direction leads down.
  objective = jax.jit(jax.vmap(lambda v: jnp.sum(jnp.abs(v - z) ** 2) / 2 + 0.4 * penalty(v)))
  steps = rng.standard_normal((2, 400, 3, 4)) * 10.0 ** rng.uniform(-6, 0, (400, 1, 1))
  others = np.concatenate([np.asarray(y) + steps[0] + 1j * steps[1], np.zeros((1, 3, 4)), z[None]])
  means = np.mean(z) * np.ones((1, 3, 4))
  values = objective(np.concatenate([y[None], others, means]))
  assert values[0] <= values[1:].min() + 1e-12
  # A real image with one phase is a real problem; a constant phase turns the result.
  phase = np.exp(0.7j)
  real = fun(z.real, 0.4, tol=1e-14, max_steps=20_000)
  np.testing.assert_allclose(run(phase * z.real), phase * real, atol=1e-6)
  np.testing.assert_allclose(run(phase * z), phase * y, atol=1e-6)
  assert_derivatives(run, z, rng, size=1e-5)


@pytest.mark.x64
def test_calculus_of_complex_arrays():
  """A unitary transform, an envelope and a conjugate, by their formulas."""
  transform = lambda x: jnp.fft.fft(x, norm="ortho")
  composed = prox.precompose_semi_orthogonal(prox.lasso, transform)
  soft = lambda c: c * np.maximum(1 - 0.3 / np.maximum(np.abs(c), 1e-30), 0)
  expected = np.fft.ifft(soft(np.fft.fft(Z, norm="ortho")), norm="ortho")
  np.testing.assert_allclose(jax.jit(composed.prox)(Z, 0.3), expected, atol=1e-15)
  huber = np.where(np.abs(Z) <= 1, np.abs(Z) ** 2 / 2, np.abs(Z) - 0.5).sum()
  envelope = prox.moreau_envelope(prox.lasso)
  got, got_slope = jax.jit(jax.value_and_grad(envelope))(jnp.asarray(Z), 1.0)
  np.testing.assert_allclose(got, huber, rtol=1e-14)
  slope = np.conj(Z) / np.maximum(np.abs(Z), 1)
  np.testing.assert_allclose(got_slope, slope, atol=1e-14)
  dual = jax.jit(prox.prox_conjugate(prox.prox_lasso))(Z, 1.0)
  np.testing.assert_allclose(dual, Z / np.maximum(np.abs(Z), 1), atol=1e-15)
  added = prox.add_quadratic(prox.lasso, weight=1.0, center=1j)
  np.testing.assert_allclose(added.value(jnp.asarray([2.0 + 0j]), 1.0), 2 + 5 / 2)
  moved = prox.precompose_affine(prox.lasso, shift=-2j)
  np.testing.assert_allclose(moved.prox(jnp.asarray([5j]), 1.0), [4j])


@pytest.mark.parametrize("case", OTHERS, ids=lambda c: f"{c.name}-{c.tag}".replace(" ", "_"))
def test_others_say_that_they_take_real_numbers(case):
  for call in (lambda: case.prox(Z, case.hyper), lambda: case.value(Z, case.hyper)):
    with pytest.raises(TypeError, match="x must be a floating-point array of real numbers"):
      call()


def test_shaped_operators_of_real_numbers_only():
  square = jnp.ones((2, 2), complex)
  for call in (
    lambda: prox.prox_log_det(square), lambda: prox.prox_owl(Z), lambda: prox.penalty_oscar(Z),
    lambda: prox.prox_tv1d(Z), lambda: prox.penalty_fused_lasso(Z), lambda: prox.prox_linf(Z),
    lambda: prox.prox_least_squares(Z, (np.eye(6), np.ones(6))), lambda: prox.prox_squared_l1(Z),
    lambda: prox.distance(jnp.abs).prox(Z),
  ):  # fmt: skip
    with pytest.raises(TypeError, match=r"x must .*real numbers"):
      call()


@pytest.mark.x64
def test_a_complex_image_from_half_of_its_fourier_transform(rng):
  """As in the documentation: FISTA; the optimality conditions hold in NumPy."""
  import jaxopt_robust as jr

  mask = rng.random((8, 8)) < 0.5
  image = np.zeros((8, 8), complex)
  image[2:4, 3:6] = np.exp(0.5j)
  data = np.where(mask, np.fft.fft2(image, norm="ortho"), 0)

  def misfit(pair, data):
    off = jnp.where(mask, jnp.fft.fft2(pair[0] + 1j * pair[1], norm="ortho") - data, 0)
    return 0.5 * jnp.sum(jnp.abs(off) ** 2)

  def prox_pair(pair, lam, scaling):
    z = prox.prox_lasso(pair[0] + 1j * pair[1], lam, scaling)
    return jnp.stack([z.real, z.imag])

  solver = jr.solvers.fista(misfit, prox_pair, stepsize=1.0)
  pair, info = jr.solvers.run_until(
    solver, jnp.zeros((2, 8, 8)), 0.02, data, tol=1e-10, max_steps=5000
  )
  z = np.asarray(pair[0] + 1j * pair[1])
  off = np.where(mask, np.fft.fft2(z, norm="ortho") - data, 0)
  back = np.fft.ifft2(off, norm="ortho")
  on = np.abs(z) > 0
  assert int(info.status) == 0 and 0 < on.sum() < 64
  np.testing.assert_allclose(back[on], -0.02 * z[on] / np.abs(z[on]), atol=1e-9)
  assert np.abs(back[~on]).max() <= 0.02 + 1e-9
  assert np.abs(z - image).max() < 0.15
  # The same on complex parameters, without the detour.
  whole = jr.solvers.fista(
    lambda z, data: misfit(jnp.stack([z.real, z.imag]), data), prox.prox_lasso, stepsize=1.0
  )
  direct, _ = jr.solvers.run_until(
    whole, jnp.zeros((8, 8), complex), 0.02, data, tol=1e-10, max_steps=5000
  )
  np.testing.assert_allclose(direct, z, atol=1e-8)
