"""The envelope and the conjugate of every convex penalty: closed forms and derivatives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxopt_robust import prox
from jaxopt_robust.typing import Penalty
from tests.helpers import central_difference
from tests.registries.prox import PENALTIES
from tests.registries.prox_scalar import SCALAR

pytestmark = pytest.mark.x64
CONVEX = pytest.mark.parametrize(
  "case", [c for c in [*PENALTIES, *SCALAR] if c.convex], ids=lambda c: c.name
)


def test_envelope_of_the_l1_norm_is_the_huber_function():
  x = jnp.linspace(-3.0, 3.0, 13)
  envelope = prox.moreau_envelope(prox.lasso)
  expected = prox.penalty_huber(x, (1 / 0.7, 0.7))
  np.testing.assert_allclose(envelope(x, 1.0, 0.7), expected, rtol=1e-14)


@CONVEX
def test_gradient_of_the_envelope(case):
  envelope = prox.moreau_envelope(Penalty(case.value, case.prox))
  x, s = jnp.asarray([1.71, -2.33, 0.12]), 0.6
  f = jax.jit(lambda v, t: envelope(v, case.hyper, t))
  operator = lambda v: case.prox(v, case.hyper, s)
  both = jax.grad(f, argnums=(0, 1))

  @jax.jit
  def derivatives(v):
    return *both(v, s), jax.hessian(f)(v, s), operator(v), jax.jacfwd(operator)(v)

  gradient, by_scaling, hessian, p, jacobian = derivatives(x)
  np.testing.assert_allclose(gradient, (x - p) / s, atol=1e-12)
  np.testing.assert_allclose(gradient, central_difference(lambda v: f(v, s), x), atol=1e-7)
  np.testing.assert_allclose(hessian, (jnp.eye(3) - jacobian) / s, atol=1e-9)
  numeric = central_difference(lambda t: f(x, t), np.asarray(s))
  np.testing.assert_allclose(by_scaling, numeric, atol=1e-7)


@CONVEX
def test_decomposition_into_operator_and_conjugate_operator(case, rng):
  """x = prox_{s g}(x) + s prox_{g*/s}(x / s), and the conjugate's operator is firm."""
  star = jax.jit(lambda v, t: prox.prox_conjugate(case.prox)(v, case.hyper, t))
  x, z, s = *jnp.asarray(2 * rng.standard_normal((2, 5))), 0.7
  whole = case.prox(x, case.hyper, s) + s * star(x / s, 1 / s)
  np.testing.assert_allclose(whole, x, atol=1e-12)
  px, pz = star(x, s), star(z, s)
  assert float(jnp.sum((px - pz) ** 2)) <= float(jnp.vdot(px - pz, x - z)) + 1e-12


def test_conjugate_of_the_l1_norm_is_a_box():
  x = jnp.linspace(-3.0, 3.0, 13)
  np.testing.assert_allclose(
    prox.prox_conjugate(prox.prox_lasso)(x, 0.8, 2.5), jnp.clip(x, min=-0.8, max=0.8), atol=1e-15
  )
