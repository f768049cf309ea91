"""Contracts of every proximal operator: optimality, non-expansiveness, peers, derivatives."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

import jaxopt_robust as jr
from tests.helpers import assert_no_retrace, central_difference
from tests.registries.prox import PENALTIES
from tests.registries.prox_scalar import SCALAR


def name_of(case):
  return f"{case.name}-{case.tag}".replace(" ", "_") if case.tag else case.name


ALL = [*PENALTIES, *SCALAR]
CASES = pytest.mark.parametrize("case", ALL, ids=name_of)
CONVEX = pytest.mark.parametrize("case", [c for c in ALL if c.convex], ids=name_of)
JAXOPT = pytest.mark.parametrize("case", [c for c in ALL if c.in_jaxopt], ids=name_of)
WEIGHTED = pytest.mark.parametrize("case", [c for c in ALL if c.weighted], ids=name_of)
SCALINGS = (0.3, 1.0, 2.5)


def scaled(case, factor):
  """The case's hyper-parameters with the strength multiplied; shape parameters stay."""
  if isinstance(case.hyper, tuple):
    return (factor * case.hyper[0], *(jnp.full_like(factor, h) for h in case.hyper[1:]))
  return None if case.hyper is None else factor * case.hyper


def objective(case, y, x, hyper, scaling):
  value = case.value(jnp.asarray(y), hyper)
  return 0.5 * jnp.sum((jnp.asarray(y) - x) ** 2) + scaling * value


@functools.cache
def compiled(name):
  """The objective ``(y, x, scaling)`` of a case, and that of many points."""
  (case,) = (c for c in ALL if name_of(c) == name)
  one = lambda y, x, scaling: objective(case, y, x, case.hyper, scaling)
  return jax.jit(one), jax.jit(jax.vmap(one, in_axes=(0, None, None)))


@pytest.mark.x64
@CASES
@pytest.mark.parametrize("scaling", SCALINGS)
def test_brute_force_cannot_beat_it(case, scaling, rng):
  x = jnp.asarray(2 * rng.standard_normal(4))
  y = case.prox(x, case.hyper, scaling)
  best = float(objective(case, y, x, case.hyper, scaling))
  assert np.isfinite(best)
  value, values = compiled(name_of(case))
  # Points around the solution at all scales, on the axes and at zero.
  steps = rng.standard_normal((400, 4)) * 10.0 ** rng.uniform(-6, 0.5, (400, 1))
  candidates = np.concatenate([np.asarray(y) + steps, np.zeros((1, 4)), np.asarray(x)[None]])
  candidates = np.concatenate([candidates, np.maximum(candidates, 0)])
  others = values(candidates, x, scaling)
  assert best <= float(others.min()) + 1e-12
  found = scipy.optimize.minimize(
    lambda z: float(value(z, x, scaling)), np.maximum(np.asarray(y), 0) + 0.1,
    method="Nelder-Mead", options={"xatol": 1e-10, "fatol": 1e-14, "maxiter": 4000},
  )  # fmt: skip
  assert best <= found.fun + 1e-9


@pytest.mark.x64
@CONVEX
def test_firmly_non_expansive(case, rng):
  x, z = (jnp.asarray(3 * rng.standard_normal((200, 4))) for _ in range(2))
  prox = jax.vmap(lambda v: case.prox(v, case.hyper, 0.7))
  px, pz = prox(x), prox(z)
  inner = jnp.sum((px - pz) * (x - z), axis=1)
  assert bool(jnp.all(jnp.sum((px - pz) ** 2, axis=1) <= inner + 1e-12))


@pytest.mark.x64
@CASES
def test_scaling_zero_is_the_identity_or_the_projection(case, rng):
  x = jnp.asarray(rng.standard_normal(6))
  expected = jnp.maximum(x, 0) if case.non_negative else case.at_zero(x)
  # A closed form may leave a rounding; exact zeros stay exact.
  np.testing.assert_allclose(case.prox(x, case.hyper, 0.0), expected, rtol=1e-15, atol=0)


@CASES
def test_pytrees_act_leaf_by_leaf_or_as_one_vector(case, rng):
  x = rng.standard_normal(6).astype(np.float32)
  tree = {"a": jnp.asarray(x[:2]), "b": (jnp.asarray(x[2:]).reshape(2, 2),)}
  both = jax.jit(lambda t: (case.prox(t, case.hyper, 0.5), case.value(t, case.hyper)))
  (whole, value), (parts, of_tree) = both(jnp.asarray(x)), both(tree)
  flat = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(parts)])
  np.testing.assert_allclose(flat, whole, rtol=1e-6)
  assert jax.tree.structure(parts) == jax.tree.structure(tree)
  np.testing.assert_allclose(of_tree, value, rtol=1e-6)


@CASES
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
def test_dtype_is_kept(case, dtype):
  x = jax.ShapeDtypeStruct((4,), dtype)
  assert jax.eval_shape(lambda v: case.prox(v, case.hyper, 0.5), x).dtype == dtype
  assert jax.eval_shape(lambda v: case.value(v, case.hyper), x).dtype == dtype


@CASES
def test_strengths_and_scaling_may_be_traced_and_mapped(case, rng):
  x = jnp.asarray(rng.standard_normal(5), jnp.float32)
  hyper = scaled(case, jnp.asarray([0.2, 1.0, 3.0]))
  scalings = jnp.asarray([0.5, 1.0, 2.0])
  mapped = jax.jit(jax.vmap(lambda h, s: case.prox(x, h, s)))(hyper, scalings)
  one = jax.jit(lambda h, s: case.prox(x, h, s))
  for i in range(3):
    alone = one(jax.tree.map(lambda h: float(h[i]), hyper), float(scalings[i]))  # noqa: B023
    np.testing.assert_allclose(mapped[i], alone, rtol=2e-6, atol=1e-7)
  assert_no_retrace(
    lambda v, s: case.prox(v, case.hyper, s), lambda i: (x + i, jnp.float32(0.1 * (i + 1)))
  )


@pytest.mark.x64
@CASES
def test_derivative_equals_finite_differences_and_is_finite_at_kinks(case, rng):
  weights = jnp.asarray(rng.standard_normal(4))
  x = jnp.asarray([1.7, -2.3, 0.11, 0.9])
  f = lambda v: jnp.vdot(weights, case.prox(v, case.hyper, 0.5))
  both = jax.jit(lambda v: (f(v), jax.grad(f)(v), jax.jvp(f, (v,), (weights,))[1]))
  _, gradient, along = both(x)
  np.testing.assert_allclose(gradient, central_difference(lambda v: both(v)[0], x), atol=1e-8)
  np.testing.assert_allclose(along, jnp.vdot(gradient, weights))
  for kink in (0.0, 0.5, 0.25):
    assert np.all(np.isfinite(both(jnp.full(4, kink))[1]))
  if case.hyper is not None:
    g = jax.jit(jax.grad(lambda h: jnp.vdot(weights, case.prox(x, h, 0.5))))
    grads = jax.tree.leaves(g(jax.tree.map(jnp.asarray, case.hyper)))
    assert all(np.isfinite(leaf) for leaf in grads)


@CASES
def test_nan_data_stay_nan(case):
  out = case.prox(jnp.asarray([jnp.nan, 1.0]), case.hyper, 0.5)
  assert bool(jnp.isnan(out[0]))


@pytest.mark.x64
@WEIGHTED
def test_weights_an_entry_where_strengths_may_be_arrays(case, rng):
  x = jnp.asarray(rng.standard_normal(5))
  weights = jnp.asarray(rng.uniform(0.1, 2.0, 5))
  hyper = scaled(case, weights)
  got = case.prox(x, hyper, 0.8)
  one = [case.prox(x[i], jax.tree.map(lambda h: h[i], hyper), 0.8) for i in range(5)]  # noqa: B023
  np.testing.assert_allclose(got, jnp.stack(one), rtol=1e-14)


@pytest.mark.x64
def test_group_lasso_keeps_the_direction_and_dies_below_its_threshold():
  x = jnp.asarray([3.0, 4.0])
  np.testing.assert_allclose(jr.prox.prox_group_lasso(x, 2.0, 1.5), x * (1 - 3 / 5))
  assert jr.prox.prox_group_lasso(x, 5.0).tolist() == [0.0, 0.0]
  rows = jax.vmap(jr.prox.prox_group_lasso, in_axes=(0, None))(jnp.stack([x, 2 * x]), 5.0)
  np.testing.assert_allclose(rows, jnp.stack([0 * x, x]))


def test_projections_ignore_the_scaling():
  import optax

  prox = jr.prox.make_prox_from_projection(optax.projections.projection_simplex)
  x = jnp.asarray([0.9, 0.4, -1.0])
  np.testing.assert_allclose(prox(x, 2.0, 7.0).sum(), 2.0, rtol=1e-6)
  np.testing.assert_allclose(prox(x).sum(), 1.0, rtol=1e-6)
  np.testing.assert_array_equal(prox(x, 2.0, 0.1), prox(x, 2.0, 5.0))


@pytest.mark.peer
@pytest.mark.x64
@JAXOPT
def test_equals_jaxopt(case, rng):
  jaxopt = pytest.importorskip("jaxopt")
  x = jnp.asarray(rng.standard_normal(7))
  peer = getattr(jaxopt.prox, f"prox_{case.name}")
  for scaling in SCALINGS:
    np.testing.assert_allclose(
      case.prox(x, case.hyper, scaling), peer(x, case.hyper, scaling), atol=1e-15
    )


def test_known_bounds_may_be_closed_over_inside_jit():
  box = lambda v: jr.prox.prox_box(v, (jnp.zeros(2), 1.0))
  np.testing.assert_array_equal(jax.jit(box)(jnp.asarray([-1.0, 2.0])), [0.0, 1.0])
