"""The least-squares operator: optimality, both shapes, factor and matrix alike, derivatives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxopt_robust import prox
from tests.helpers import assert_no_retrace, central_difference

pytestmark = pytest.mark.x64


@pytest.mark.parametrize("shape", [(3, 6), (6, 3), (4, 4)])
def test_first_order_condition_and_factor(shape, rng):
  a, b, x = (jnp.asarray(rng.standard_normal(s)) for s in (shape, shape[0], shape[1]))
  for s in (0.0, 0.3, 50.0):
    y = prox.prox_least_squares(x, (a, b), s)
    np.testing.assert_allclose(y - x + s * a.T @ (a @ y - b), 0, atol=1e-11)
    factor = prox.least_squares_factor(a)
    np.testing.assert_allclose(prox.prox_least_squares(x, (factor, b), s), y, atol=1e-11)
  value = prox.penalty_least_squares(x, (factor, b))
  np.testing.assert_allclose(value, 0.5 * np.sum((a @ x - b) ** 2), rtol=1e-14)


def test_derivatives_in_point_target_scaling_and_matrix(rng):
  a, b, x = (jnp.asarray(rng.standard_normal(s)) for s in ((3, 5), 3, 5))
  weights = jnp.cos(jnp.arange(5.0))
  by_matrix = lambda a, b, x, s: jnp.vdot(weights, prox.prox_least_squares(x, (a, b), s))
  grads = jax.grad(by_matrix, argnums=(0, 1, 2, 3))(a, b, x, 0.7)
  for i, point in enumerate((a, b, x, 0.7)):
    one = lambda v, i=i: by_matrix(*(v if j == i else p for j, p in enumerate((a, b, x, 0.7))))
    np.testing.assert_allclose(grads[i], central_difference(one, point), atol=1e-8)


def test_one_compile_for_all_scalings(rng):
  factor = prox.least_squares_factor(jnp.asarray(rng.standard_normal((3, 5))))
  b, x = jnp.ones(3), jnp.ones(5)
  assert_no_retrace(
    lambda x, s: prox.prox_least_squares(x, (factor, b), s), lambda i: (x + i, 0.1 * (i + 1.0))
  )
