"""Arrays without entries, and trees with such leaves: an empty leaf is a leaf."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxopt_robust import prox
from tests.registries import prox_groups, prox_max_norms, prox_spectral, prox_structured
from tests.registries.prox import PENALTIES
from tests.registries.prox_scalar import SCALAR

ENTRYWISE = [case for case in [*PENALTIES, *SCALAR] if not case.tag]
# x without entries, of the rank that each operator takes. The largest of no entries is no number,
# and groups have entries.
SHAPED = [
  *((case, (0,)) for case in prox_max_norms.SHAPED if case.name not in ("max", "sum_largest")),
  *((case, (0, 3)) for case in prox_spectral.SHAPED if case.name != "log_det" and not case.tag),
  *((case, (2, 0)) for case in prox_groups.SHAPED if case.name in ("l21", "row_log_sum")),
  *((case, (*case.shape[:-1], 0)) for case in prox_structured.SHAPED if case.name != "owl"),
]


@pytest.mark.parametrize("case", ENTRYWISE, ids=lambda case: case.name)
def test_an_empty_leaf_is_a_leaf(case):
  tree = {"a": jnp.asarray([1.5, 0.2]), "b": jnp.zeros((0, 3))}

  @jax.jit
  def run(tree):
    prox_of = lambda x: case.prox(x, case.hyper, 0.5)
    value = lambda x: case.value(x, case.hyper)
    slope = tree if case.name == "none" else jax.grad(lambda t: value(prox_of(t)))(tree)
    nothing = prox_of(jnp.zeros((0,))), value(jnp.zeros((0, 2)))
    both = [(prox_of(x), value(x)) for x in (tree, tree["a"])]
    return nothing, both, slope

  (nothing, zero), ((out, value), (alone, value_alone)), slope = run(tree)
  assert nothing.shape == (0,) and nothing.dtype == jnp.float32
  assert float(zero) == 0.0
  assert out["b"].shape == slope["b"].shape == (0, 3)
  np.testing.assert_array_equal(out["a"], alone)
  np.testing.assert_array_equal(value, value_alone)


@pytest.mark.parametrize("case,shape", SHAPED, ids=lambda v: getattr(v, "name", ""))
def test_arrays_without_entries(case, shape):
  x = jnp.zeros(shape)
  assert case.prox(x, case.hyper, 0.5).shape == shape
  assert float(case.value(x, case.hyper)) == 0.0


def test_what_is_made_of_others():
  x = jnp.zeros((0,))
  assert float(prox.moreau_envelope(prox.lasso)(x, 1.0)) == 0.0
  assert prox.prox_conjugate(prox.prox_lasso)(x, 1.0).shape == (0,)
  assert prox.add_quadratic(prox.lasso, weight=1.0).prox(x, 1.0).shape == (0,)
  assert prox.precompose_affine(prox.lasso, shift=1.0).prox(x, 1.0).shape == (0,)
  assert prox.ravelled(prox.linf).prox({"a": x}, 1.0)["a"].shape == (0,)
  assert prox.prox_sum_largest(x, (1.0, 0.0)).shape == (0,)
  assert prox.prox_owl(x, 1.0).shape == (0,)
  assert prox.prox_least_squares(x, (jnp.zeros((2, 0)), jnp.ones(2))).shape == (0,)
  assert float(prox.penalty_least_squares(x, (jnp.zeros((2, 0)), jnp.ones(2)))) == 1.0
  assert prox.prox_log_det(jnp.zeros((0, 0))).shape == (0, 0)


def test_the_outer_function_of_no_estimates():
  from jaxopt_robust import compositional

  outer = compositional.outer_moreau(prox.lasso, 1.0, smoothing=1.0)
  assert outer.value(jnp.zeros((0,))).shape == (0,)
  np.testing.assert_allclose(outer.value(jnp.asarray([3.0, 0.5])), [2.5, 0.125])
