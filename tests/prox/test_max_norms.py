"""Penalties of largest entries, distances, and the rules that make new operators."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.stats

from jaxopt_robust import projections, prox
from tests.helpers import central_difference
from tests.registries.prox_max_norms import HYPER

pytestmark = pytest.mark.x64

BALL = optax.projections.projection_l2_ball
FRAME = scipy.stats.ortho_group.rvs(5, random_state=3)[:3] * np.sqrt(2.0)
CASES = {name: (getattr(prox, name), hyper) for name, hyper in HYPER.items()} | {
  "distance": (prox.distance(BALL), (0.8, 1.0)),
  "squared_distance": (prox.squared_distance(BALL), (0.8, 1.0)),
  "affine": (prox.precompose_affine(prox.lasso, scale=-1.7, shift=0.4), 0.8),
  "quadratic": (prox.add_quadratic(prox.linf, weight=0.6, center=0.3), 0.8),
  "semi_orthogonal": (
    prox.precompose_semi_orthogonal(prox.lasso,
      lambda x: jnp.asarray(FRAME, x.dtype) @ x, nu=2.0),
    0.8,
  ),
}  # fmt: skip
ALL = pytest.mark.parametrize("name", CASES)


@ALL
def test_brute_force_cannot_beat_it(name, rng):
  penalty, hyper = CASES[name]
  for scaling in (0.0, 0.3, 2.5):
    x = jnp.asarray(2 * rng.standard_normal(5))
    y = penalty.prox(x, hyper, scaling)
    value = lambda z, x=x, s=scaling: 0.5 * jnp.sum((z - x) ** 2) + s * penalty.value(z, hyper)
    steps = rng.standard_normal((2000, 5)) * 10.0 ** rng.uniform(-6, 0.5, (2000, 1))
    others = jax.vmap(value)(y[None] + jnp.asarray(steps))
    assert float(value(y)) <= float(others.min()) + 1e-12


@ALL
def test_derivative_equals_finite_differences(name, rng):
  penalty, hyper = CASES[name]
  w = jnp.asarray(rng.standard_normal(5))
  x = jnp.asarray([1.7, -2.3, 0.11, 0.9, 1.2])
  f = jax.jit(lambda v: jnp.vdot(w, penalty.prox(v, hyper, 0.5)))
  np.testing.assert_allclose(jax.grad(f)(x), central_difference(f, x), atol=1e-8)
  for kink in (jnp.zeros(5), jnp.ones(5)):
    assert bool(jnp.all(jnp.isfinite(jax.grad(f)(kink))))


def test_closed_forms():
  x = jnp.asarray([3.0, -1.0, 0.5])
  ball = optax.projections.projection_l1_ball(x, 0.4)
  np.testing.assert_allclose(prox.prox_linf(x, 0.8, 0.5), x - ball, atol=1e-15)
  simplex = optax.projections.projection_simplex(x, 0.4)
  np.testing.assert_allclose(prox.prox_max(x, 0.8, 0.5), x - simplex, atol=1e-15)
  np.testing.assert_allclose(
    prox.prox_sum_largest(x, (0.8, 1.0), 0.5), prox.prox_max(x, 0.8, 0.5), atol=1e-15
  )
  envelope = prox.moreau_envelope(prox.indicator(BALL))
  far = jnp.linalg.norm(x) - 1
  np.testing.assert_allclose(envelope(x, 1.0, 0.7), far**2 / 1.4, rtol=1e-12)


@pytest.mark.x64
def test_a_pytree_as_one_vector(rng):
  """Not entrywise, so the leaves must act together; derivatives pass."""
  x = rng.standard_normal(6)
  tree = {"a": jnp.asarray(x[:2]), "b": (jnp.asarray(x[2:]).reshape(2, 2),)}
  weights = jnp.asarray([1.0, 0.8, 0.5, 0.3, 0.2, 0.0])
  owl = prox.ravelled(prox.owl)
  found = jax.jit(owl.prox)(tree, weights, 0.7)
  assert jax.tree.structure(found) == jax.tree.structure(tree)
  flat = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(found)])
  np.testing.assert_allclose(flat, prox.prox_owl(jnp.asarray(x), weights, 0.7), rtol=1e-14)
  np.testing.assert_allclose(
    owl.value(tree, weights), prox.penalty_owl(jnp.asarray(x), weights), rtol=1e-14
  )
  grads = jax.grad(lambda t: jnp.sum(owl.prox(t, weights, 0.7)["a"] ** 2))(tree)
  whole = jax.grad(lambda v: jnp.sum(prox.prox_owl(v, weights, 0.7)[:2] ** 2))(jnp.asarray(x))
  np.testing.assert_allclose(grads["a"], whole[:2], rtol=1e-12)


def test_indicator_knows_its_units():
  penalty = prox.indicator(BALL)
  for unit in (1e-20, 1.0, 1e20):
    x = unit * jnp.array([0.6, 0.8])
    assert float(penalty.value(x, unit)) == 0.0  # on the ball
    assert float(penalty.value(2 * x, unit)) == np.inf
  assert float(penalty.value(jnp.zeros(2), 1.0)) == 0.0


@pytest.mark.parametrize("make", [prox.indicator, prox.distance, prox.squared_distance])
def test_penalties_of_sets_know_whether_they_are_convex(make):
  assert make(BALL).convex and make(projections.projection_psd).convex
  assert not make(projections.projection_top_k).convex
  assert not make(projections.projection_l2_sphere).convex
  assert not make(lambda x: jnp.sign(x), convex=False).convex


def test_distance_to_a_ball_of_a_radius_that_is_given():
  """d(x) = ||x|| - r outside; its operator shortens x by the strength, onto the ball at most."""
  x, norm, radius = jnp.array([3.0, -4.0, 12.0]), 13.0, 2.0
  for lam in (0.5, 20.0):
    hyper = (lam, radius)
    value = prox.distance(BALL).value(x, hyper)
    np.testing.assert_allclose(value, lam * (norm - radius), rtol=1e-14)
    moved = prox.distance(BALL).prox(x, hyper)
    np.testing.assert_allclose(moved, x * max(norm - lam, radius) / norm, rtol=1e-14)
    value = prox.squared_distance(BALL).value(x, hyper)
    np.testing.assert_allclose(value, lam / 2 * (norm - radius) ** 2, rtol=1e-14)
    moved = prox.squared_distance(BALL).prox(x, hyper)
    np.testing.assert_allclose(moved, x * (norm + lam * radius) / (1 + lam) / norm, rtol=1e-14)
