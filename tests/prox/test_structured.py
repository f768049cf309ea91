"""Total variation, sorted l1 norm and isotonic regression: optimality, derivatives, peers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxopt_robust import projections, prox
from tests.helpers import assert_no_retrace, central_difference
from tests.registries.prox_structured import SHAPED

CASES = pytest.mark.parametrize("case", SHAPED, ids=lambda c: c.name)
LINES = pytest.mark.parametrize(
  "case", [c for c in SHAPED if len(c.shape) == 1], ids=lambda c: c.name
)
IMAGES = pytest.mark.parametrize(
  "case", [c for c in SHAPED if len(c.shape) == 2], ids=lambda c: c.name
)


def data(case, rng, dtype=np.float64):
  return jnp.asarray(1.5 * rng.standard_normal(case.shape), dtype)


def solve(case, x, hyper=None, scaling=1.0):
  return case.prox(x, case.hyper if hyper is None else hyper, scaling, **case.kwargs)


@pytest.mark.x64
@CASES
@pytest.mark.parametrize("scaling", [0.3, 1.0, 2.5])
def test_brute_force_cannot_beat_it(case, scaling, rng):
  x = data(case, rng)
  y = solve(case, x, scaling=scaling)
  objective = lambda z: 0.5 * jnp.sum((z - x) ** 2) + scaling * case.value(z, case.hyper)
  best = float(objective(y))
  steps = rng.standard_normal((600, *case.shape))
  steps *= (10.0 ** rng.uniform(-6, 0.5, 600)).reshape(-1, *[1] * len(case.shape))
  steps[300:] *= rng.random((300, *case.shape)) < 0.3  # along few entries too
  # A single level for all, shrinkage of the solution, the data, zero.
  whole = [np.asarray(y) * f for f in (0, 0.5, 0.999, 1.001)] + [np.full(case.shape, x.mean()), x]
  others = np.concatenate([np.asarray(y)[None] + steps, np.stack(whole)])
  assert best <= float(jax.vmap(objective)(jnp.asarray(others)).min()) + case.slack


@pytest.mark.x64
@CASES
def test_firmly_non_expansive(case, rng):
  x, z = (jnp.asarray(2 * rng.standard_normal((20, *case.shape))) for _ in range(2))
  run = jax.jit(lambda v: solve(case, v, scaling=0.7))
  px, pz = run(x), run(z)
  axes = tuple(range(1, px.ndim))
  inner = jnp.sum((px - pz) * (x - z), axis=axes)
  # The points are off by sqrt(2 gap) at most.
  assert bool(jnp.all(jnp.sum((px - pz) ** 2, axis=axes) <= inner + 1e2 * case.slack**0.5))


@pytest.mark.x64
@CASES
def test_scaling_zero_or_no_strength_is_the_identity(case, rng):
  x = data(case, rng).at[..., 1].set(0.1).at[..., 2].set(0.1)
  np.testing.assert_allclose(solve(case, x, scaling=0.0), x, rtol=1e-15)
  none = jax.tree.map(lambda h: 0.0 * h, case.hyper)
  np.testing.assert_allclose(case.prox(x, none), x, rtol=1e-15)


@CASES
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
def test_dtype_is_kept(case, dtype, rng):
  x = data(case, rng, np.float32).astype(dtype)
  assert case.prox(x, case.hyper, 0.5).dtype == dtype
  assert case.value(x, case.hyper).dtype == dtype


@pytest.mark.x64
@CASES
def test_hyperparameters_and_scaling_may_be_traced_and_mapped(case, rng):
  x = data(case, rng)
  factors, scalings = jnp.array([0.2, 1.0, 3.0]), jnp.array([0.5, 1.0, 2.0])
  scaled = lambda f: jax.tree.map(lambda h: f * h, case.hyper)
  mapped = jax.jit(jax.vmap(lambda f, s: solve(case, x, scaled(f), s)))(factors, scalings)
  for i in range(3):
    one = solve(case, x, scaled(float(factors[i])), float(scalings[i]))
    np.testing.assert_allclose(mapped[i], one, atol=1e2 * case.slack**0.5)
  assert_no_retrace(lambda v, s: solve(case, v, scaling=s), lambda i: (x + i, 0.1 * (i + 1.0)))


@pytest.mark.x64
@CASES
def test_leading_axes_are_so_many_problems(case, rng):
  x = jnp.asarray(rng.standard_normal((2, 3, *case.shape)))
  got = solve(case, x)
  one = jnp.stack([solve(case, v) for v in x.reshape(-1, *case.shape)])
  np.testing.assert_allclose(got.reshape(one.shape), one, atol=1e2 * case.slack**0.5)
  total = sum(case.value(v, case.hyper) for v in x.reshape(-1, *case.shape))
  np.testing.assert_allclose(case.value(x, case.hyper), total, rtol=1e-13)


@pytest.mark.x64
@CASES
def test_derivatives_equal_finite_differences(case, rng):
  x, w = data(case, rng), jnp.asarray(rng.standard_normal(case.shape))
  # At such a step half the links jump and half do not.
  f = jax.jit(lambda v, h: jnp.vdot(w, solve(case, v, h, 0.5)))
  hyper = jax.tree.map(lambda h: jnp.asarray(h, float), case.hyper)
  if case.name == "owl":
    hyper = jnp.linspace(1.2, 0.1, case.shape[0])  # differences must not leave the allowed weights
  grads = jax.grad(f, (0, 1))(x, hyper)
  # Solutions are off by sqrt(2e-14) where the dual is iterated, differences by that over eps.
  eps, atol = (1e-6, 1e-8) if len(case.shape) == 1 else (1e-4, 1e-5)
  np.testing.assert_allclose(grads[0], central_difference(lambda v: f(v, hyper), x, eps), atol=atol)
  leaves, treedef = jax.tree.flatten(hyper)
  for k, leaf in enumerate(leaves):
    one = lambda h, k=k: f(x, jax.tree.unflatten(treedef, [*leaves[:k], h, *leaves[k + 1 :]]))
    got = jax.tree.leaves(grads[1])[k]
    np.testing.assert_allclose(got, central_difference(one, leaf, eps), atol=atol)
  tangents = (w, jax.tree.map(jnp.ones_like, hyper))
  forward = jax.jvp(f, (x, hyper), tangents)[1]
  reverse = jnp.vdot(grads[0], w) + sum(jnp.sum(g) for g in jax.tree.leaves(grads[1]))
  np.testing.assert_allclose(forward, reverse, rtol=1e-7)


@pytest.mark.x64
def test_second_derivative_of_isotropic_variation(rng):
  case = next(c for c in SHAPED if c.name == "tv2d")
  x, w = data(case, rng), jnp.asarray(rng.standard_normal(case.shape))
  grad = jax.jit(jax.grad(lambda v: jnp.vdot(w, solve(case, v, scaling=0.5))))
  got = jax.jit(jax.grad(lambda v: jnp.vdot(w, grad(v))))(x)
  expected = (grad(x + 1e-4 * w) - grad(x - 1e-4 * w)) / 2e-4
  assert float(jnp.abs(got).max()) > 1e-2
  np.testing.assert_allclose(got, expected, atol=1e-4)


@CASES
def test_derivatives_are_finite_at_ties_and_zero(case):
  for x in (jnp.zeros(case.shape), jnp.ones(case.shape), jnp.ones(case.shape).at[..., 0].set(-1.0)):
    for scaling in (0.0, 0.5, 1e6):
      f = lambda v, h: jnp.sum(jnp.sin(case.prox(v, h, scaling)))  # noqa: B023
      hyper = jax.tree.map(jnp.asarray, case.hyper)
      value, grads = jax.value_and_grad(f, (0, 1))(x, hyper)
      assert all(bool(jnp.all(jnp.isfinite(g))) for g in jax.tree.leaves((value, grads)))
  x = jnp.ones(case.shape)
  assert bool(jnp.all(jnp.isfinite(jax.grad(case.value)(x, case.hyper))))
  assert bool(jnp.all(jnp.isfinite(jax.grad(case.value)(0 * x, case.hyper))))


@CASES
def test_nan_makes_its_line_nan_and_no_other(case, rng):
  x = jnp.stack([data(case, rng, np.float32)] * 2)
  for bad in (jnp.nan, jnp.inf):
    out = case.prox(x.at[(0,) + (1,) * len(case.shape)].set(bad), case.hyper, 0.5)
    assert bool(jnp.all(jnp.isnan(out[0]))) and bool(jnp.all(jnp.isfinite(out[1])))


@CASES
def test_traced_negative_strength_gives_nan(case, rng):
  x = data(case, rng, np.float32)
  leaves, treedef = jax.tree.flatten(case.hyper)
  for k in range(len(leaves)):
    run = jax.jit(
      lambda h, k=k: case.prox(x, jax.tree.unflatten(treedef, [*leaves[:k], h, *leaves[k + 1 :]]))
    )
    assert bool(jnp.all(jnp.isnan(run(-jnp.abs(leaves[k]) - 0.1))))


def test_traced_rising_weights_give_nan():
  run = jax.jit(prox.prox_owl)
  assert bool(jnp.all(jnp.isnan(run(jnp.ones(3), jnp.array([0.1, 0.2, 0.3])))))


@CASES
@pytest.mark.parametrize("size", [1e-20, 1e20])
def test_tiny_and_huge_data_scale(case, size, rng):
  x = data(case, rng, np.float32)
  small = jax.tree.map(lambda h: h * size, case.hyper)
  expected = np.asarray(case.prox(x, case.hyper))
  got = np.asarray(case.prox(x * jnp.float32(size), small)) / np.float32(size)
  # Images are found to a gap of 1e-4 of an objective below 10.
  atol = 1e-5 if len(case.shape) == 1 else 0.05
  np.testing.assert_allclose(got, expected, atol=atol)


@CASES
def test_a_single_entry(case):
  x = jnp.full([1] * len(case.shape), -3.0)
  hyper = case.hyper if isinstance(case.hyper, tuple | float) else 0.5
  shrink = {"fused_lasso": 0.3, "owl": 0.5, "oscar": 0.2}.get(case.name, 0.0)
  np.testing.assert_allclose(case.prox(x, hyper), x + shrink, rtol=1e-6)


def kkt_residual(x, y, lam):
  """How far the running sums of x - y are from what an exact solution shows."""
  sums = np.cumsum(x - y)
  jumps = np.diff(y)
  inside = max(np.abs(sums[:-1]).max(initial=0) - lam, 0)
  at_jumps = np.abs(sums[:-1] + lam * np.sign(jumps))[jumps != 0].max(initial=0)
  return max(inside, abs(sums[-1]), at_jumps)


def _signals(n, rng):
  ramp = np.arange(n) * 1.0
  yield "noise", rng.standard_normal(n)
  yield "ties", rng.integers(0, 3, n) * 1.0
  yield "ramp", ramp
  yield "falling ramp", -ramp
  yield "constant", np.full(n, 0.1)
  yield "walk", np.cumsum(rng.standard_normal(n))
  yield "growth", 1.5 ** np.minimum(ramp, 60)
  yield "spike", 1e3 * (ramp == n // 2)
  yield "zigzag", (-1.0) ** ramp


@pytest.mark.x64
@pytest.mark.parametrize("n", [1, 2, 3, 5, 50, 1000])
def test_tv1d_satisfies_its_optimality_conditions(n, rng):
  run = jax.jit(prox.prox_tv1d)
  for name, x in _signals(n, rng):
    for lam in (0.0, 1e-3, 0.1, 1.0, 5.0, 1e3, np.inf):
      y = np.asarray(run(jnp.asarray(x), lam))
      if np.isinf(lam):
        np.testing.assert_allclose(y, np.full(n, x.mean()), rtol=1e-12, atol=1e-12)
        continue
      # n sums of rounded terms, and messages as large as lam.
      bound = 50 * n * np.finfo(float).eps * (np.abs(x).max() + lam)
      assert kkt_residual(x, y, lam) <= bound, (name, lam)


def test_tv1d_in_float32_on_a_long_line(rng):
  n = 100_000
  run = jax.jit(prox.prox_tv1d)
  steps = np.repeat(rng.standard_normal(n // 100), 100) + 0.5 * rng.standard_normal(n)
  for x in (steps, np.sin(np.arange(n) / n * 20), np.arange(n) * 1e-2):
    x = np.float64(np.float32(x))
    for lam in (0.01, 1.0, 100.0):
      objective = lambda y: 0.5 * np.sum((y - x) ** 2) + lam * np.abs(np.diff(y)).sum()  # noqa: B023
      got = np.float64(run(jnp.asarray(x, jnp.float32), lam))
      with jax.enable_x64(True):
        exact = np.asarray(prox.prox_tv1d(jnp.asarray(x), lam))
      assert kkt_residual(x, exact, lam) <= 1e-7
      assert objective(got) <= objective(exact) * (1 + 1e-6)


@pytest.mark.x64
def test_tv1d_commutes_with_shifts_reflections_and_scales(rng):
  x = jnp.asarray(rng.standard_normal(40))
  y = prox.prox_tv1d(x, 0.7)
  np.testing.assert_allclose(prox.prox_tv1d(x[::-1], 0.7), y[::-1], atol=1e-14)
  np.testing.assert_allclose(prox.prox_tv1d(3 - 2 * x, 1.4), 3 - 2 * y, atol=1e-14)
  assert len(np.unique(np.asarray(y))) < 40  # equal on blocks to the last digit


@pytest.mark.x64
@LINES
def test_derivative_along_the_data_is_a_projection(case, rng):
  """Block means: symmetric, idempotent, with eigenvalues 0 and 1."""
  x = data(case, rng)
  jacobian = np.asarray(jax.jacobian(lambda v: solve(case, v, scaling=0.5))(x))
  np.testing.assert_allclose(jacobian, jacobian.T, atol=1e-14)
  np.testing.assert_allclose(jacobian @ jacobian, jacobian, atol=1e-14)
  assert 1 <= round(float(np.trace(jacobian))) <= 7


@pytest.mark.x64
def test_fused_lasso_without_one_part_is_the_other(rng):
  x = jnp.asarray(rng.standard_normal(30))
  np.testing.assert_array_equal(prox.prox_fused_lasso(x, (0.0, 0.4)), prox.prox_tv1d(x, 0.4))
  expected = prox.prox_lasso(x, 0.4)
  np.testing.assert_allclose(prox.prox_fused_lasso(x, (0.4, 0.0)), expected, atol=1e-15)


@pytest.mark.x64
def test_owl_with_equal_weights_is_soft_thresholding_and_with_one_the_largest_size(rng):
  x = jnp.asarray(rng.standard_normal(30))
  np.testing.assert_allclose(prox.prox_owl(x, 0.4), prox.prox_lasso(x, 0.4), atol=1e-15)
  np.testing.assert_allclose(prox.prox_oscar(x, (0.4, 0.0)), prox.prox_lasso(x, 0.4), atol=1e-15)
  y = prox.prox_owl(x, jnp.zeros(30).at[0].set(0.9))
  cut = jnp.abs(y).max()
  np.testing.assert_allclose(y, jnp.clip(x, min=-cut, max=cut), atol=1e-15)
  np.testing.assert_allclose(jnp.sum(jnp.abs(x - y)), 0.9, rtol=1e-13)
  size = np.abs(x)
  pairs = np.triu(np.maximum(size[:, None], size[None]), 1).sum()
  expected = 0.3 * jnp.abs(x).sum() + 0.2 * pairs
  np.testing.assert_allclose(prox.penalty_oscar(x, (0.3, 0.2)), expected, rtol=1e-13)


@pytest.mark.x64
@IMAGES
def test_an_image_of_one_row_or_column_is_a_line(case, rng):
  x = jnp.asarray(rng.standard_normal(12))
  expected = prox.prox_tv1d(x, 0.4)
  for shape in ((1, 12), (12, 1)):
    got = case.prox(x.reshape(shape), 0.4, **case.kwargs)
    np.testing.assert_allclose(got.ravel(), expected, atol=1e-6)


@pytest.mark.x64
@IMAGES
def test_gap_bounds_the_distance_and_is_reported(case, rng):
  x = jnp.asarray(rng.standard_normal((8, 9)))
  kind = "anisotropic" if "aniso" in case.name else "isotropic"
  best = solve(case, x)
  objective = lambda z: 0.5 * jnp.sum((z - x) ** 2) + case.value(z, 0.4)
  for tol in (1e-1, 1e-3, 1e-6):
    y, gap = prox.prox_tv2d_with_gap(x, 0.4, kind=kind, tol=tol)
    assert gap <= tol
    np.testing.assert_array_equal(y, case.prox(x, 0.4, tol=tol))
    assert objective(y) - objective(best) <= gap * objective(y) + 1e-12
    assert 0.5 * jnp.sum((y - best) ** 2) <= gap * objective(y) + 1e-12
  _, gap = prox.prox_tv2d_with_gap(x, 0.4, kind=kind, tol=1e-14, max_steps=1)
  assert gap > 1e-3
  np.testing.assert_allclose(case.prox(x, 1e9), jnp.full(x.shape, x.mean()), atol=1e-3)


@pytest.mark.x64
def test_gap_of_an_image_falls_at_least_with_the_square_of_the_steps(rng):
  clean = np.kron(rng.normal(size=(4, 4)), np.ones((8, 8)))
  x = jnp.asarray(clean + 0.3 * rng.normal(size=(32, 32)))
  early, late = (
    prox.prox_tv2d_with_gap(x, 0.4, tol=1e-30, max_steps=steps)[1] for steps in (200, 1600)
  )
  assert late < early / 8**2


@pytest.mark.x64
@pytest.mark.parametrize("n", [1, 2, 5, 60, 700])
def test_isotonic_equals_scikit_learn(n, rng):
  from sklearn.isotonic import isotonic_regression

  weights = rng.uniform(0.1, 3, n)
  run = jax.jit(projections.projection_isotonic)
  for name, x in _signals(n, rng):
    atol = 1e-12 * (1 + np.abs(x).max())
    np.testing.assert_allclose(run(jnp.asarray(x)), isotonic_regression(x), atol=atol, err_msg=name)
    weighted = run(jnp.asarray(x), jnp.asarray(weights))
    expected = isotonic_regression(x, sample_weight=weights)
    np.testing.assert_allclose(weighted, expected, atol=atol, err_msg=name)


@pytest.mark.x64
def test_isotonic_is_a_projection_with_block_means_as_derivative(rng):
  x, w = jnp.asarray(rng.standard_normal(12)), jnp.asarray(rng.uniform(0.5, 2, 12))
  run = jax.jit(projections.projection_isotonic)
  y = run(x, w)
  assert bool(jnp.all(jnp.diff(y) >= 0))
  np.testing.assert_array_equal(run(y, w), y)
  inside = jnp.sort(jnp.asarray(rng.standard_normal((50, 12))), axis=1)
  assert bool(jnp.all((inside - y[None]) @ (w * (x - y)) <= 1e-12))
  v = jnp.asarray(rng.standard_normal(12))
  along_x = jax.jit(lambda a: jnp.vdot(v, run(a, w)))
  along_w = jax.jit(lambda a: jnp.vdot(v, run(x, a)))
  for f, at in ((along_x, x), (along_w, w)):
    np.testing.assert_allclose(jax.grad(f)(at), central_difference(f, at), atol=1e-8)
  ties = jax.grad(lambda a: jnp.sum(run(a) ** 2))(jnp.ones(5))
  np.testing.assert_allclose(ties, jnp.full(5, 2.0))
  batch = run(jnp.stack([x, -x]))
  np.testing.assert_allclose(batch[1], run(-x), atol=1e-15)
  assert run(x.astype(jnp.bfloat16)).dtype == jnp.bfloat16
  assert bool(jnp.all(jnp.isnan(run(x.at[3].set(jnp.nan)))))
  assert bool(jnp.all(jnp.isnan(run(x, -w))))
  assert_no_retrace(lambda a, b: run(a, b), lambda i: (x + i, w + i))


@pytest.mark.peer
@pytest.mark.x64
def test_owl_equals_skglm(rng):
  prox_slope = pytest.importorskip("skglm.utils.prox_funcs").prox_SLOPE
  for n in (1, 4, 60):
    x = rng.standard_normal(n)
    weights = np.sort(rng.uniform(0, 1.5, n))[::-1].copy()
    falling = np.sort(np.abs(x))[::-1].copy()  # all that the peer takes
    got = prox.prox_owl(jnp.asarray(x), jnp.asarray(weights))
    order = np.argsort(-np.abs(x))
    np.testing.assert_allclose(np.abs(got)[order], prox_slope(falling, weights), atol=1e-14)


@pytest.mark.peer
@pytest.mark.x64
def test_tv2d_equals_scikit_image(rng):
  restoration = pytest.importorskip("skimage.restoration")
  x = np.kron(rng.random((3, 3)), np.ones((8, 8))) + 0.1 * rng.standard_normal((24, 24))
  peer = restoration.denoise_tv_chambolle(x, weight=0.1, eps=1e-9, max_num_iter=20_000)
  y = prox.prox_tv2d(jnp.asarray(x), 0.1, tol=1e-10, max_steps=20_000)
  objective = lambda z: float(0.5 * np.sum((z - x) ** 2) + prox.penalty_tv2d(jnp.asarray(z), 0.1))
  assert objective(np.asarray(y)) <= objective(peer)  # the peer's descent stops earlier
  np.testing.assert_allclose(y, peer, atol=1e-3)
