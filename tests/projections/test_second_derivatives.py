"""Second derivatives through the linear solves behind affine sets and transport polytopes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxopt_robust import projections as pj

rng = np.random.default_rng(0)
A, B, X, S = (rng.standard_normal(s) for s in ((2, 4), 2, 4, (3, 2)))
ROWS, COLUMNS = np.array([0.5, 0.25, 0.25]), np.array([0.375, 0.625])
SWAP = np.array([1.0, -1.0, 0.0]) / 16  # keeps the total


def entries(v):
  """Some numbers of x, A and b; the rest is constant."""
  a = jnp.stack([jnp.concatenate([v[:1], A[0, 1:]]), jnp.asarray(A[1])])
  x, b = jnp.concatenate([X[:3], v[2:3]]), jnp.concatenate([B[:1], v[1:2]])
  return pj.projection_affine_set(x, (a, b))


def plan(project, v):
  return project(v[:6].reshape(3, 2) / 8, (ROWS + v[6] * SWAP, COLUMNS))


# Functions of a vector: all of the data, or a part of them.
MAPS = {
  "affine": lambda v: pj.projection_affine_set(v[:4], (v[4:12].reshape(2, 4), v[12:])),
  "affine-entries": entries,
  "transport": lambda v: plan(pj.projection_transport, v),
  "transport-rows": lambda v: pj.projection_transport(S / 8, (ROWS + v[0] * SWAP, COLUMNS)),
  "kl": lambda v: plan(pj.kl_projection_transport, v),
}
LOSSES = {
  "linear": lambda p, v: jnp.sum(p * jnp.cos(jnp.arange(p.size)).reshape(p.shape)),
  "constant": lambda p, v: jnp.ones(()) + 0 * jnp.sum(jax.lax.stop_gradient(p)),
  "quadratic": lambda p, v: jnp.sum(p**2) / 2,
  "of data too": lambda p, v: jnp.sum(p**3) + jnp.sum(v**2) * jnp.sum(p),
}


@pytest.mark.x64
@pytest.mark.parametrize("name", MAPS)
def test_second_derivatives_equal_differences_of_first_ones(name):
  """Reverse over reverse and forward over reverse, for losses of any degree, in one program."""
  v, move = np.random.default_rng(1).standard_normal((2, 14))

  @jax.jit
  def run(v):
    found = []
    for loss in LOSSES.values():
      slope = jax.grad(lambda u, loss=loss: loss(MAPS[name](u), u))
      found.append((
        slope(v), jax.grad(lambda u, s=slope: jnp.vdot(move, s(u)))(v),
        jax.jvp(slope, (v,), (move,))[1],
      ))  # fmt: skip
    return found

  for (up, *_), (down, *_), (_, *seconds) in zip(
    run(v + 1e-5 * move), run(v - 1e-5 * move), run(v), strict=True
  ):
    expected = (up - down) / 2e-5
    # Steps of 1e-5: 1e-10 of the fourth derivatives, and rounding of 1e-15 / 1e-5.
    size = 1e-7 * max(1, np.max(np.abs(expected)))
    for second in seconds:
      np.testing.assert_allclose(second, expected, rtol=0, atol=size)


@pytest.mark.x64
def test_hessians_of_affine_sets():
  """``jax.hessian`` of a loss that is linear, and of the squared distance: I - P, P idempotent."""
  fun = lambda x: jnp.sum((x - pj.projection_affine_set(x, (A, B))) ** 2) / 2
  away = np.linalg.pinv(A) @ A
  np.testing.assert_allclose(jax.jit(jax.hessian(fun))(X), away, atol=1e-14)
  linear = lambda b: jnp.sum(pj.projection_affine_set(X, (A, b)))
  np.testing.assert_array_equal(jax.jit(jax.hessian(linear))(B), np.zeros((2, 2)))
