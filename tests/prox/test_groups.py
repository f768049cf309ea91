"""Groups of entries: closed forms group by group, layouts, and what stays apart."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxopt_robust import prox
from tests.registries.prox_groups import IDS

WEIGHTS = np.array([0.4, 1.7, 0.9])


@pytest.mark.x64
def test_rows_are_the_group_lasso_of_every_row(rng):
  x = jnp.asarray(rng.standard_normal((4, 5, 3)))
  lam = jnp.asarray(rng.uniform(0.5, 2.0, (4, 5)))
  one = jax.vmap(jax.vmap(prox.prox_group_lasso, (0, 0, None)), (0, 0, None))
  np.testing.assert_allclose(prox.prox_l21(x, lam, 0.7), one(x, lam, 0.7), atol=1e-15)
  loss = lambda fn: jax.jit(jax.grad(lambda v: jnp.sum(jnp.sin(fn(v, lam, 0.7)))))(x)
  np.testing.assert_allclose(loss(prox.prox_l21), loss(one), atol=1e-14)
  values = jax.vmap(jax.vmap(prox.penalty_group_lasso))(x, lam)
  np.testing.assert_allclose(prox.penalty_l21(x, lam), values.sum(), rtol=1e-14)


@pytest.mark.x64
@pytest.mark.parametrize("name", ["lasso", "mcp", "scad", "l0", "half", "lq"])
def test_each_group_gets_the_length_of_the_scalar_operator(name, rng):
  scalar = getattr(prox, name)
  hyper = {"mcp": (WEIGHTS, 3.0), "scad": (WEIGHTS, 3.7), "lq": (WEIGHTS, 0.3)}.get(name, WEIGHTS)
  grouped = prox.make_group_penalty(scalar, IDS, num_groups=3)
  x = 2 * rng.standard_normal(6)
  expected, total = np.zeros(6), 0.0
  for g in range(3):
    norm = np.linalg.norm(x[g == IDS])
    one = (WEIGHTS[g], hyper[1]) if isinstance(hyper, tuple) else WEIGHTS[g]
    expected[g == IDS] = x[g == IDS] / norm * float(scalar.prox(jnp.asarray(norm), one, 0.6))
    total += float(scalar.value(jnp.asarray(norm), one))
  np.testing.assert_allclose(grouped.prox(jnp.asarray(x), hyper, 0.6), expected, atol=1e-14)
  np.testing.assert_allclose(grouped.value(jnp.asarray(x), hyper), total, rtol=1e-14)


@pytest.mark.x64
def test_layouts_at_both_ends_and_of_any_shape(rng):
  x = jnp.asarray(rng.standard_normal(6))
  alone = prox.make_group_penalty(prox.mcp, np.arange(6), num_groups=6)
  np.testing.assert_allclose(
    alone.prox(x, (0.5, 3.0), 0.7), prox.prox_mcp(x, (0.5, 3.0), 0.7), atol=1e-15
  )
  whole = prox.make_group_penalty(prox.lasso, np.zeros(6, int), num_groups=1)
  np.testing.assert_allclose(whole.prox(x, 0.8), prox.prox_group_lasso(x, 0.8), atol=1e-15)
  matrix = prox.make_group_penalty(prox.lasso, IDS.reshape(2, 3), num_groups=3)
  flat = prox.make_group_penalty(prox.lasso, IDS, num_groups=3)
  np.testing.assert_array_equal(matrix.prox(x.reshape(2, 3)), flat.prox(x).reshape(2, 3))
  many = jax.vmap(flat.prox, (0, None))(jnp.stack([x, 2 * x]), 0.5)
  np.testing.assert_allclose(many[1], flat.prox(2 * x, 0.5), rtol=1e-15)


@pytest.mark.x64
def test_sparse_groups_are_soft_then_block_soft(rng):
  x = jnp.asarray(2 * rng.standard_normal(6))
  grouped = prox.make_sparse_group_penalty(prox.lasso, IDS, num_groups=3)
  got = grouped.prox(x, (0.3, WEIGHTS), 0.9)
  for g in range(3):
    part = prox.prox_sparse_group_lasso(x[g == IDS], (0.3, WEIGHTS[g]), 0.9)
    np.testing.assert_allclose(got[g == IDS], part, atol=1e-15)
    # Optimality: x - y = s (lam u + mu y / ||y||) with u the sign of y where it is not zero.
    y, v = np.asarray(part), np.asarray(x[g == IDS])
    if np.any(y):
      rest = (v - y) / 0.9 - WEIGHTS[g] * y / np.linalg.norm(y)
      np.testing.assert_allclose(rest[y != 0], 0.3 * np.sign(y[y != 0]), atol=1e-14)
      assert np.all(np.abs(rest[y == 0]) <= 0.3 + 1e-14)
  wrong_order = prox.prox_lasso(prox.prox_group_lasso(x, 0.8), 0.6)
  assert not np.allclose(wrong_order, prox.prox_sparse_group_lasso(x, (0.6, 0.8)))


def test_weights_and_lists_of_indices():
  groups = [np.flatnonzero(g == IDS) for g in range(3)]
  ids = prox.groups_to_ids(groups, size=6)
  np.testing.assert_array_equal(ids, IDS)
  assert ids.dtype == jnp.int32
  np.testing.assert_allclose(
    prox.group_weights(ids, num_groups=3), np.sqrt([3.0, 1.0, 2.0]), rtol=1e-7
  )


def test_nan_and_inf_stay_in_their_group():
  grouped = prox.make_group_penalty(prox.lasso, IDS, num_groups=3)
  out = grouped.prox(jnp.asarray([1.0, jnp.nan, 2.0, 3.0, 1.0, 2.0]), 1.0)
  np.testing.assert_array_equal(jnp.isnan(out), IDS == 2)
  out = grouped.prox(jnp.asarray([1.0, 3.0, jnp.inf, 3.0, 4.0, 2.0]), 1.0)
  np.testing.assert_array_equal(jnp.isinf(out), np.arange(6) == 2)
  np.testing.assert_allclose(out[IDS == 2], [2.4, 3.2], rtol=1e-6)


def test_traced_group_numbers_out_of_range_give_nan():
  @jax.jit
  def both(ids, x):
    grouped = prox.make_group_penalty(prox.lasso, ids, num_groups=3)
    return grouped.prox(x, 1.0), grouped.value(x, 1.0)

  x = jnp.full(6, 2.0)
  good, value = both(jnp.asarray(IDS), x)
  known = prox.make_group_penalty(prox.lasso, IDS, num_groups=3)
  np.testing.assert_array_equal(good, jax.jit(known.prox)(x))
  assert np.isfinite(value)
  for wrong in (-2, 3):
    out, value = both(jnp.asarray(IDS).at[1].set(wrong), x)
    np.testing.assert_array_equal(jnp.isnan(out), np.arange(6) == 1)
    assert np.isnan(value)


@pytest.mark.x64
def test_entries_in_no_group_are_not_penalised(rng):
  """-1 leaves x_i alone, known or traced, with no derivative lost."""
  ids = np.where(IDS == 1, -1, np.where(IDS == 2, 1, IDS))
  x = jnp.asarray(rng.standard_normal(6))

  @jax.jit
  def run(ids, x):
    penalty = prox.make_group_penalty(prox.lasso, ids, num_groups=2)
    slope = jax.grad(lambda v: jnp.sum(penalty.prox(v, 0.3)))(x)
    return penalty.prox(x, 0.3), penalty.value(x, 0.3), slope

  out, value, slope = run(ids, x)
  norms = [np.linalg.norm(x[ids == g]) for g in range(2)]
  np.testing.assert_allclose(value, 0.3 * sum(norms), rtol=1e-14)
  for g in range(2):
    np.testing.assert_allclose(out[ids == g], x[ids == g] * max(1 - 0.3 / norms[g], 0), atol=1e-15)
  np.testing.assert_array_equal(out[ids == -1], x[ids == -1])
  np.testing.assert_array_equal(slope[ids == -1], 1.0)
  known = prox.make_group_penalty(prox.lasso, ids, num_groups=2)
  np.testing.assert_allclose(known.prox(x, 0.3), out, rtol=1e-14)
  np.testing.assert_array_equal(prox.groups_to_ids([[1, 4], [0, 2]], size=6), [1, 0, 1, -1, 0, -1])
  sparse = prox.make_sparse_group_penalty(prox.lasso, ids, num_groups=2).prox(x, (0.2, 0.3))
  soft = np.sign(x) * np.maximum(np.abs(x) - 0.2, 0)
  np.testing.assert_allclose(sparse[ids == -1], soft[ids == -1], atol=1e-15)


@pytest.mark.x64
def test_groups_may_spread_over_the_leaves_of_a_tree(rng):
  """One vector in two leaves of unequal dtype; a leaf may be empty."""
  x = rng.standard_normal(6).astype(np.float32)
  ids = {"a": IDS[:2], "b": (IDS[2:].reshape(2, 2), np.zeros((0,), int))}
  tree = {"a": jnp.asarray(x[:2]), "b": (jnp.asarray(x[2:].reshape(2, 2), float), jnp.zeros(0))}
  for make, hyper in (
    (prox.make_group_penalty, WEIGHTS), (prox.make_sparse_group_penalty, (0.1, WEIGHTS)),
  ):  # fmt: skip
    flat = make(prox.lasso, IDS, num_groups=3)
    grouped = make(prox.lasso, ids, num_groups=3)
    out = grouped.prox(tree, hyper, 0.4)
    assert out["a"].dtype == jnp.float32 and out["b"][1].shape == (0,)
    got = np.concatenate([out["a"], out["b"][0].ravel()])
    expected = flat.prox(jnp.asarray(x, float), hyper, 0.4)
    np.testing.assert_allclose(got, expected, rtol=3e-7)
    value = flat.value(jnp.asarray(x, float), hyper)
    np.testing.assert_allclose(grouped.value(tree, hyper), value, rtol=3e-7)
  with pytest.raises(ValueError, match="x must have the structure of group_ids"):
    grouped.prox(jnp.asarray(x), hyper)
  weights = prox.group_weights(ids, num_groups=3)
  np.testing.assert_allclose(weights, np.sqrt([3.0, 1.0, 2.0]))


def test_every_leaf_with_its_own_penalty_and_numbers():
  x = {"a": jnp.asarray([3.0, -4.0]), "b": (jnp.asarray([5.0]),)}
  net = prox.leafwise(prox.elastic_net)
  hyper = {"a": (1.0, 0.0), "b": ((2.0, 0.5),)}
  out = net.prox(x, hyper)
  np.testing.assert_allclose(out["a"], [2.0, -3.0])
  np.testing.assert_allclose(out["b"][0], [1.5])  # (5 - 2) / (1 + 2 * 0.5)
  np.testing.assert_allclose(net.value(x, hyper), 7 + 2 * (5 + 25 / 4))
  mixed = prox.leafwise({"a": prox.group_lasso, "b": (prox.ridge,)})
  out = mixed.prox(x, {"a": 2.0, "b": (None,)})
  np.testing.assert_allclose(out["a"], [1.8, -2.4], rtol=1e-6)
  np.testing.assert_allclose(out["b"][0], [2.5])
  np.testing.assert_allclose(mixed.value(x), 5 + 12.5)
  assert mixed.convex and not prox.leafwise({"a": prox.l0, "b": prox.lasso}).convex
  many = jax.vmap(lambda h: net.prox(x, {"a": (h, 0.0), "b": ((h, 0.0),)})["a"][0])
  np.testing.assert_allclose(many(jnp.asarray([0.0, 1.0])), [3.0, 2.0])


@pytest.mark.peer
@pytest.mark.x64
def test_equals_skglm(rng):
  peer = pytest.importorskip("skglm.utils.prox_funcs")
  x = rng.standard_normal((6, 3))
  expected = np.stack([peer.BST(row, 0.9) for row in x])
  np.testing.assert_allclose(prox.prox_l21(jnp.asarray(x), 0.9), expected, atol=1e-15)


@pytest.mark.x64
def test_non_negative_groups_are_the_best_non_negative_points(rng):
  """Against a grid of angles and lengths in the quadrant, for group lasso and group MCP."""
  angle = np.linspace(0, np.pi / 2, 1001)[:, None]
  length = np.linspace(0, 4, 2001)[None, :]
  first, second = np.cos(angle) * length, np.sin(angle) * length
  points = [(1.5, 0.8), (2.0, -1.0), (-0.3, 0.9), (-1.0, -2.0), (0.0, 1.2)]
  phi = {"lasso": 0.5 * length, "mcp": np.where(length < 1.5, 0.5 * length - length**2 / 6, 0.375)}
  for scalar, hyper in ((prox.lasso, 0.5), (prox.mcp, (0.5, 3.0))):
    penalty = prox.make_group_penalty(scalar, [0, 0], num_groups=1, non_negative=True)
    name = "lasso" if scalar is prox.lasso else "mcp"
    for x in points:
      got = np.asarray(penalty.prox(jnp.array(x), hyper))
      objective = 0.5 * (first - x[0]) ** 2 + 0.5 * (second - x[1]) ** 2 + phi[name]
      least = objective.min()
      value = 0.5 * np.sum((got - x) ** 2) + float(penalty.value(jnp.asarray(got), hyper))
      assert np.all(got >= 0) and value <= least + 1e-12
      np.testing.assert_allclose(value, least, atol=1e-5)
  assert penalty.value(jnp.array([1.0, -1e-3]), hyper) == np.inf
  with pytest.raises(TypeError, match="must be real"):
    penalty.prox(jnp.array([1j, 1.0]), hyper)
  free = prox.make_group_penalty(prox.lasso, [-1, 0], num_groups=1, non_negative=True)
  np.testing.assert_array_equal(free.prox(jnp.array([-1.0, 2.0]), 0.5), [0.0, 1.5])
