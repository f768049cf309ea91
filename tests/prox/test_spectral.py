"""Functions of singular values: NumPy's decomposition, optimality conditions, exact derivatives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxopt_robust import prox, solvers
from tests.registries.prox_spectral import with_values

pytestmark = pytest.mark.x64
SHAPES = pytest.mark.parametrize("shape", [(4, 3), (3, 4), (3, 3)], ids=str)


@SHAPES
@pytest.mark.parametrize(
  ("name", "scalar", "hyper"),
  [
    ("nuclear", lambda s: np.maximum(s - 0.56, 0), 0.8),
    ("rank", lambda s: s * (s > np.sqrt(2 * 0.56)), 0.8),
    ("schatten", lambda s: np.asarray(prox.prox_half(jnp.asarray(s), 0.8, 0.7)), (0.8, 0.5)),
  ],
)
def test_equals_numpy_in_a_batch(name, scalar, hyper, shape, rng):
  x = rng.standard_normal((2, 3, *shape))
  u, s, vt = np.linalg.svd(x, full_matrices=False)
  expected = (u * scalar(s)[..., None, :]) @ vt
  penalty = getattr(prox, name)
  got = penalty.prox(jnp.asarray(x), hyper, 0.7)
  np.testing.assert_allclose(got, expected, atol=1e-13)
  power = {"nuclear": 1.0, "rank": 0.0, "schatten": 0.5}[name]
  np.testing.assert_allclose(penalty.value(jnp.asarray(x), hyper), 0.8 * np.sum(s**power))


def test_one_strength_a_matrix(rng):
  x = jnp.asarray(rng.standard_normal((3, 4, 2)))
  lam = jnp.asarray([0.1, 0.5, 2.0])
  for penalty in (prox.nuclear, prox.rank, prox.spectral_norm):
    each = [penalty.prox(x[i], lam[i], 0.7) for i in range(3)]
    np.testing.assert_allclose(penalty.prox(x, lam, 0.7), jnp.stack(each), atol=1e-14)
    total = sum(penalty.value(x[i], lam[i]) for i in range(3))
    np.testing.assert_allclose(penalty.value(x, lam), total, rtol=1e-14)


@SHAPES
def test_optimality_of_the_nuclear_and_the_spectral_norm(shape, rng):
  """(x - y) / (s lam) is a sub-gradient: on the dual ball, and aligned with y."""
  x = jnp.asarray(2 * rng.standard_normal(shape))
  for penalty, norm, dual in (
    (prox.nuclear, "nuc", 2), (prox.spectral_norm, 2, "nuc")
  ):  # fmt: skip
    y = penalty.prox(x, 0.8, 1.5)
    z = np.asarray((x - y) / 1.2)
    assert 0 < np.linalg.norm(y, norm) < np.linalg.norm(x, norm)
    assert np.linalg.norm(z, dual) <= 1 + 1e-12
    np.testing.assert_allclose(np.vdot(z, y), np.linalg.norm(y, norm), rtol=1e-12)
  np.testing.assert_array_equal(prox.prox_spectral_norm(x, 100.0), np.zeros(shape))


def test_log_det_solves_its_equation(rng):
  x = rng.standard_normal((4, 4))
  y = np.asarray(prox.prox_log_det(jnp.asarray(x), 0.8, 1.5))
  np.testing.assert_allclose(y, y.T, atol=1e-14)
  assert np.linalg.eigvalsh(y).min() > 0
  np.testing.assert_allclose(y - (x + x.T) / 2, 1.2 * np.linalg.inv(y), atol=1e-12)
  np.testing.assert_allclose(prox.penalty_log_det(jnp.asarray(y)), -np.linalg.slogdet(y)[1])
  assert np.isinf(prox.penalty_log_det(jnp.asarray(x - 9 * np.eye(4))))


@SHAPES
def test_rotations_pass_through(shape, rng):
  x = jnp.asarray(rng.standard_normal(shape))
  q, r = (jnp.asarray(np.linalg.qr(rng.standard_normal((n, n)))[0]) for n in shape)
  for penalty, hyper in ((prox.nuclear, 0.8), (prox.schatten, (0.4, 0.3)), (prox.rank, 0.8)):
    rotated = penalty.prox(q @ x @ r, hyper)
    np.testing.assert_allclose(rotated, q @ penalty.prox(x, hyper) @ r, atol=1e-13)


def plain_nuclear(x):
  u, s, vt = jnp.linalg.svd(x, full_matrices=False)
  return (u * jnp.maximum(s - 0.5, 0)[None, :]) @ vt


@SHAPES
def test_rule_equals_the_derivative_of_the_decomposition_where_that_exists(shape, rng):
  x, weights = jnp.asarray(rng.standard_normal((2, *shape)))
  ours = lambda v: jnp.vdot(weights, jnp.sin(prox.prox_nuclear(v, 0.5)))
  plain = lambda v: jnp.vdot(weights, jnp.sin(plain_nuclear(v)))
  # Gradient and a product with the Hessian, in one compilation each.
  both = lambda f: jax.jit(lambda v: jax.jvp(jax.grad(f), (v,), (weights,)))(x)
  for got, expected in zip(both(ours), both(plain), strict=True):
    np.testing.assert_allclose(got, expected, atol=1e-9)


def test_exact_where_the_plain_derivative_is_nan():
  x = 2 * jnp.eye(3)
  jacobian = lambda f: jax.jit(jax.jacfwd(f))(x).reshape(9, 9)
  assert bool(jnp.any(jnp.isnan(jacobian(plain_nuclear))))
  # At 2 I the symmetric part passes (slope 1), the skew part is scaled by f / s = 3 / 4.
  swap = np.eye(9).reshape(3, 3, 3, 3).transpose(0, 1, 3, 2).reshape(9, 9)
  expected = (np.eye(9) + swap) / 2 + 0.75 * (np.eye(9) - swap) / 2
  np.testing.assert_allclose(jacobian(lambda v: prox.prox_nuclear(v, 0.5)), expected, atol=1e-14)


@jax.jit
def _ridge_derivatives(x):
  ridge = prox.make_spectral_penalty(prox.ridge)
  value, operator = lambda v: ridge.value(v, 0.8), lambda v: ridge.prox(v, 0.8, 0.5)
  second = jax.jacfwd(jax.jacrev(operator))(x)
  return jax.grad(value)(x), jax.hessian(value)(x), jax.jacrev(operator)(x), second


@SHAPES
@pytest.mark.parametrize("values", [[3.0, 3.0], [3.0], []], ids=["tie", "rank_one", "zero"])
def test_a_linear_function_of_singular_values_has_linear_derivatives(shape, values):
  """lam/2 ||X||_F^2, written over singular values: every derivative is known at every matrix."""
  x = jnp.asarray(with_values(values, shape)) if values else jnp.zeros(shape)
  identity = jnp.eye(x.size).reshape(*shape, *shape)
  gradient, hessian, jacobian, second = _ridge_derivatives(x)
  np.testing.assert_allclose(gradient, 0.8 * x, atol=1e-14)
  np.testing.assert_allclose(hessian, 0.8 * identity, atol=1e-13)
  np.testing.assert_allclose(jacobian, identity / 1.4, atol=1e-13)
  np.testing.assert_allclose(second, np.zeros_like(second), atol=1e-12)


@SHAPES
def test_sub_gradient_of_the_nuclear_norm_lives_on_the_support(shape):
  x = with_values([3.0, 3.0], shape)
  gradient = np.asarray(jax.grad(prox.penalty_nuclear)(jnp.asarray(x), 0.8))
  np.testing.assert_allclose(gradient, 0.8 * x / 3, atol=1e-14)
  np.testing.assert_array_equal(jax.grad(prox.penalty_nuclear)(jnp.zeros(shape)), np.zeros(shape))


def test_rounding_is_not_rank(rng):
  x = jnp.asarray(rng.standard_normal((20, 2)) @ rng.standard_normal((2, 15)))
  assert float(prox.penalty_rank(x)) == 2.0
  assert float(prox.penalty_rank(jnp.stack([x, 0 * x, x]), jnp.asarray([1.0, 1.0, 0.5]))) == 3.0
  s = np.linalg.svd(x, compute_uv=False)[:2]
  np.testing.assert_allclose(prox.penalty_schatten(x, (1.0, 0.1)), np.sum(s**0.1), rtol=1e-13)


def test_a_threshold_among_tiny_singular_values_is_resolved_in_float32(rng):
  """Ties are told by rounding alone: 0.2, 0.12 and 0.08 beside 1000, cut at 0.1."""
  x = with_values([1000.0, 0.2, 0.12, 0.08], (6, 5))
  weights = rng.standard_normal((6, 5))
  f = lambda v: jnp.vdot(jnp.asarray(weights, v.dtype), prox.prox_nuclear(v, 0.1))
  grad = jax.jit(jax.grad(f))
  exact = grad(jnp.asarray(x))
  single = grad(jnp.asarray(x, jnp.float32))
  # Singular values are known to 1000 eps = 1e-4, a hundredth of these gaps.
  np.testing.assert_allclose(single, exact, atol=0.05)


def test_envelope_and_solver_take_matrices(rng):
  x = jnp.asarray(rng.standard_normal((4, 3)))
  envelope = prox.moreau_envelope(prox.nuclear)
  gradient = jax.grad(envelope)(x, 0.8, 0.7)
  np.testing.assert_allclose(gradient, (x - prox.prox_nuclear(x, 0.8, 0.7)) / 0.7, atol=1e-13)
  solver = solvers.fista(
    lambda v, target: 0.5 * jnp.sum((v - target) ** 2), prox.prox_nuclear, stepsize=0.5
  )
  found, info = solvers.run_until(solver, jnp.zeros((4, 3)), 0.8, x, tol=1e-10, max_steps=500)
  assert int(info.status) == 0
  np.testing.assert_allclose(found, prox.prox_nuclear(x, 0.8), atol=1e-9)


def test_batches_of_matrices_that_are_not_square_are_refused():
  """With any two of three axes equal, not only a single matrix."""
  for shape in ((2, 3, 2), (3, 3, 2), (2, 3, 3, 2)):
    with pytest.raises(ValueError, match="square"):
      prox.prox_log_det(jnp.ones(shape))


def test_a_strength_for_each_matrix_of_a_batch():
  x = jnp.asarray([[3.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
  out = prox.prox_spectral_norm(jnp.stack([x, x]), jnp.asarray([1.0, 3.0]))
  # Of (3, 1): 1 off the largest; then 3 off both in equal parts of what lies above one level.
  np.testing.assert_allclose(out[0], [[2, 0], [0, 1], [0, 0]], atol=1e-6)
  np.testing.assert_allclose(out[1], [[0.5, 0], [0, 0.5], [0, 0]], atol=1e-6)
  with pytest.raises(ValueError, match="lam must be a scalar or hold one number a matrix"):
    prox.prox_spectral_norm(jnp.stack([x, x]), jnp.ones((2, 3)))
