"""Experts re-mixed at test time: neighbours, pathways, and what may change of a model."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen, nnx
from scipy.special import erf, softmax

from jaxopt_robust import layers, nets
from tests.helpers import assert_no_retrace

TESTS, KNOWN, TOKENS, FEATURES = 24, 12, 3, 2
LAYERS, EXPERTS, SELECTED, CLASSES, CORE, CRITICAL = 3, 5, 2, 3, 3, 2
MODEL = nets.MixtureTransformer(
  classes=CLASSES, tokens=TOKENS, width=4, layers=LAYERS, experts=EXPERTS, hidden=3
)
ALL = jnp.ones((LAYERS, EXPERTS), bool)


@functools.cache
def problem():
  """Samples, references with labels, and parameters away from ties: NumPy arrays in float64."""
  rng = np.random.default_rng(0)
  draw = lambda *shape: rng.standard_normal(shape)
  shapes = jax.eval_shape(lambda: MODEL.init(jax.random.key(0), jnp.ones((1, TOKENS, FEATURES))))
  params = jax.tree.map(lambda leaf: 0.8 * draw(*leaf.shape), shapes)
  x, known = draw(TESTS, TOKENS, FEATURES), draw(KNOWN, TOKENS, FEATURES)
  return params, x, known, rng.integers(0, CLASSES, KNOWN).astype(np.int32)


def problem32():
  """The same in single precision, labels as they are."""
  params, x, known, labels = problem()
  return *jax.tree.map(np.float32, (params, x, known)), labels


def numpy_model(params, x, weights=None, rows=None):
  """The transformer token by token; ``weights`` [layers, experts] in the query's critical rows."""
  p = params["params"]
  root = lambda h, s: h / np.sqrt(np.mean(h**2, -1, keepdims=True) + 1e-6) * s
  h = np.concatenate(
    [x @ p["embedding"]["kernel"] + p["embedding"]["bias"] + p["position"], p["query"][None]]
  )
  router = []
  for l in range(LAYERS):
    q, k, v = np.split(root(h, p["norm_attention"][l]) @ p["attention"][l], 3, axis=-1)
    mixed = [softmax(k[: t + 1] @ q[t] / np.sqrt(len(q[t]))) @ v[: t + 1] for t in range(len(h))]
    h = h + np.array(mixed) @ p["merge"][l]
    inner, out = root(h, p["norm_experts"][l]), np.zeros_like(h)
    for t in range(len(h)):
      shares = softmax(inner[t] @ p["router"][l])
      if t == len(h) - 1:
        router.append(shares)
        if weights is not None and rows[l]:
          shares = weights[l]
      for e in np.argsort(-shares, kind="stable")[:SELECTED]:
        z = inner[t] @ p["expand"][l, e]
        out[t] += shares[e] * (0.5 * z * (1 + erf(z / np.sqrt(2)))) @ p["contract"][l, e]
    h = h + out
  logits = root(h[-1], p["norm"]) @ p["output"]["kernel"] + p["output"]["bias"]
  return logits, np.array(router)


BASE = jax.jit(MODEL.apply)
NEAREST = jax.jit(
  functools.partial(layers.kernel_neighbors, num_neighbors=3, max_similarity=jnp.inf)
)


def near(x, known):
  return NEAREST(*(a.reshape(len(a), -1) for a in (x, known)))


@jax.jit
def remixed(params, x, known, labels, neighbors, rate):
  return layers.remix_pathways(
    MODEL.apply, params, x, inputs=known, labels=labels, neighbors=neighbors,
    optimizer=optax.sgd(rate), num_steps=6, num_experts=CORE, num_layers=CRITICAL,
  )  # fmt: skip


@pytest.mark.x64
def test_the_network_is_its_formula_and_gradients_are_those_of_differences():
  params, x, _, labels = problem()
  rng = np.random.default_rng(1)
  own = np.stack([numpy_model(params, one)[1] for one in x[:3]])
  core = np.zeros((3, LAYERS, EXPERTS), bool)
  core[:, -CRITICAL:] = True
  given = np.where(core, rng.uniform(0.1, 1, own.shape), own)

  def value(weights):
    override = layers.Pathway(weights, jnp.asarray(core))
    logits, router = MODEL.apply(params, x[:3], override)
    return -jax.nn.log_softmax(logits)[jnp.arange(3), labels[:3]].sum(), (logits, router)

  (_, (logits, router)), slope = jax.jit(jax.value_and_grad(value, has_aux=True))(given)
  for i in range(3):
    expected, last = numpy_model(params, x[i], given[i], core[i].any(-1))
    np.testing.assert_allclose(logits[i], expected, atol=1e-10)
    np.testing.assert_allclose(router[i, -1], last[-1], atol=1e-10)
  np.testing.assert_allclose(router[:, 0], own[:, 0], atol=1e-10)

  def loss(weights, i):
    logits = numpy_model(params, x[i], weights, core[i].any(-1))[0]
    return np.log(np.exp(logits).sum()) - logits[labels[i]]

  for i, l, e in itertools.product(range(3), range(LAYERS), range(EXPERTS)):
    step = np.zeros((LAYERS, EXPERTS))
    step[l, e] = 1e-6
    difference = (loss(given[i] + step, i) - loss(given[i] - step, i)) / 2e-6
    np.testing.assert_allclose(slope[i, l, e], difference, atol=1e-7)
  chosen = np.argsort(-given, axis=-1)[..., :SELECTED]
  unchosen = np.ones_like(core)
  np.put_along_axis(unchosen, chosen, False, axis=-1)
  assert np.all(slope[unchosen] == 0) and np.all(slope[~unchosen & core] != 0)


def test_own_weights_and_no_steps_change_nothing_and_the_context_is_computed_once():
  params, x, *_ = problem32()

  @jax.jit
  def run(params, x, one):
    (logits, router), state = MODEL.apply(params, x, mutable=["intermediates"])
    core = jnp.broadcast_to(ALL[None], router.shape)
    same = MODEL.apply(params, x, layers.Pathway(router, core))
    context = MODEL.apply(params, x, method="context")
    parts = MODEL.apply(params, context, method="answer")
    # What no steps return, bit for bit (below): core experts, with the sum that they had.
    strong = layers.core_expert_mask(router, num_experts=CORE, num_layers=CRITICAL)
    start = layers.restrict_pathway(router, strong)
    still = MODEL.apply(params, context, start, method="answer")
    # Under the pathway of one expert a layer, the weights of the others count for nothing.
    other = MODEL.apply(params, context, layers.Pathway(one, core), method="answer")
    (balance,) = state["intermediates"]["load_balance"]
    return (logits, router), same, parts, still, other, balance

  one = np.zeros((TESTS, LAYERS, EXPERTS), np.float32)
  one[..., 0] = 1
  (logits, router), same, parts, still, other, balance = run(params, x, one)
  np.testing.assert_allclose(same[0], logits, atol=1e-6)
  np.testing.assert_allclose(still[0], logits, atol=1e-6)
  for found, expected in zip(parts, (logits, router), strict=True):
    np.testing.assert_allclose(found, expected, atol=1e-6)
  assert np.abs(other[0] - logits).max() > 0.1
  assert 1 <= balance <= EXPERTS / SELECTED


def test_steps_lower_the_loss_of_the_neighbours_and_keep_rows():
  params, x, known, labels = problem32()
  logits, info = remixed(params, x, known, labels, near(x, known), 0.05)
  values = np.asarray(info.descent.values)
  assert np.mean(values[:, -1] < values[:, 0]) > 0.95
  assert np.any(logits != info.base_logits) and np.all(info.descent.steps == 6)
  own = np.asarray(BASE(params, x)[1])
  found, core = np.asarray(info.pathway.weights), np.asarray(info.pathway.core)
  np.testing.assert_array_equal(core.sum(-1), [[0, CORE, CORE]] * TESTS)
  np.testing.assert_array_equal(found[:, 0], own[:, 0])  # no critical layer
  assert np.all(found[:, 1:][~core[:, 1:]] == 0)  # no core expert
  assert np.all(found[core] > 0) and np.any(found[core] != own[core])
  total = np.sum(own * core, -1)[:, 1:]
  np.testing.assert_allclose(found.sum(-1)[:, 1:], total, rtol=1e-5)
  np.testing.assert_array_equal(
    core[:, 1:], own[:, 1:] >= np.sort(own[:, 1:], axis=-1)[..., -CORE, None]
  )
  # Large steps end at weights that are still of that kind.
  for rate in (1e3, 1e30):
    wild = np.asarray(remixed(params, x, known, labels, near(x, known), rate)[1].pathway.weights)
    assert np.all(wild[core] > 0) and np.all(np.isfinite(wild))
    np.testing.assert_allclose(wild.sum(-1)[:, 1:], total, rtol=1e-5)


def test_with_the_sample_itself_for_neighbour_it_is_the_oracle():
  params, _, known, labels = problem32()
  x, y = np.concatenate([known, known]), np.concatenate([labels, labels])
  found = near(x, known)
  np.testing.assert_array_equal(found.rows[:, 0], np.arange(TESTS) % KNOWN)
  np.testing.assert_allclose(found.distance[:, 0], 0, atol=1e-6)
  # Of three neighbours the first counts alone.
  first = found._replace(weights=jnp.zeros_like(found.weights).at[:, 0].set(1.0))
  _, info = remixed(params, x, known, labels, first, 0.05)

  @jax.jit
  @jax.vmap
  def oracle(x, y, own, core):
    def loss(pathway):
      logits, _ = MODEL.apply(params, x[None], jax.tree.map(lambda a: a[None], pathway))
      return -jax.nn.log_softmax(logits[0])[y]

    start = layers.restrict_pathway(own, core)
    return layers.pathway_gradient_descent(loss, start, optimizer=optax.sgd(0.05), num_steps=6)

  pathway, descent = oracle(x, y, BASE(params, x)[1], info.pathway.core)
  np.testing.assert_allclose(info.pathway.weights, pathway.weights, atol=1e-5)
  np.testing.assert_allclose(info.descent.values, descent.values, atol=1e-4)


def test_regression_on_one_neighbour_is_its_pathway_and_the_search_finds_the_best_share():
  rng = np.random.default_rng(2)
  start = layers.Pathway(
    jnp.asarray(rng.dirichlet(np.ones(4), 2), jnp.float32), jnp.ones((2, 4), bool)
  )
  known = jnp.asarray(rng.dirichlet(np.ones(4), (3, 2)), jnp.float32)
  only = layers.pathway_kernel_regression(start, known, jnp.array([0.0, 2.0, 0.0]))
  np.testing.assert_allclose(only.weights, known[1], rtol=1e-6)
  some = layers.pathway_kernel_regression(start, known, jnp.array([1.0, 2.0, 0.0]))
  np.testing.assert_allclose(some.weights, (known[0] + 2 * known[1]) / 3, rtol=1e-6)
  unused = layers.pathway_kernel_regression(start, known.at[0].set(jnp.nan), jnp.array([0, 1, 1]))
  np.testing.assert_allclose(unused.weights, (known[1] + known[2]) / 2, rtol=1e-6)
  none = layers.pathway_kernel_regression(start, known * jnp.nan, jnp.zeros(3))
  np.testing.assert_array_equal(none.weights, start.weights)
  huge = layers.pathway_kernel_regression(start, known, 3e38 * jnp.array([1.0, 1.0, 0.0]))
  np.testing.assert_allclose(huge.weights, (known[0] + known[1]) / 2, rtol=1e-6)
  half = layers.pathway_kernel_regression(start._replace(core=start.core.at[0].set(False)),
                                          known, jnp.ones(3))  # fmt: skip
  np.testing.assert_array_equal(half.weights[0], start.weights[0])

  far = lambda pathway, target: jnp.sum((pathway.weights - target) ** 2)
  for share in (0.0, 0.3, 1.0):
    target = share * start.weights + (1 - share) * only.weights
    found, info = layers.pathway_line_search(far, start, only, target)
    np.testing.assert_allclose(info.alpha, share, atol=1e-6)
    np.testing.assert_allclose(found.weights, target, atol=1e-6)
  # Nothing to choose between: the start. Nothing finite: the start and a status.
  flat, info = layers.pathway_line_search(lambda pathway: jnp.zeros(()), start, only)
  np.testing.assert_array_equal(flat.weights, start.weights)
  assert info.alpha == 1 and info.status == 0
  broken, info = layers.pathway_line_search(lambda pathway: jnp.nan, start, only)
  np.testing.assert_array_equal(broken.weights, start.weights)
  assert info.alpha == 1 and info.status == 2


def test_a_duplicated_mode_is_a_fixed_point_and_draws_what_is_near():
  mode = np.array([[0.6, 0.3, 0.1], [0.2, 0.2, 0.6]])
  other = np.array([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]])
  known = jnp.asarray(np.stack([mode, other, mode, mode]), jnp.float32)
  core = jnp.ones((2, 3), bool)

  @functools.partial(jax.jit, static_argnames=("num_neighbors", "num_steps"))
  def run(w, *alpha, **sizes):
    start = layers.Pathway(jnp.asarray(w, jnp.float32), core)
    options = {"alpha": alpha[0]} if alpha else {}
    return layers.pathway_mode_finding(start, known, bandwidth=0.1, **options, **sizes).weights

  np.testing.assert_allclose(run(mode, num_neighbors=None), mode, atol=1e-6)
  np.testing.assert_allclose(run(mode), mode, atol=1e-6)  # of three neighbours all are the mode
  near = 0.9 * mode + 0.1 * other
  np.testing.assert_allclose(run(near, 0.0), mode, atol=1e-6)
  # Half of the way is left at each step.
  np.testing.assert_allclose(run(near, num_steps=2), 0.75 * mode + 0.25 * near, atol=1e-6)
  # The density of a Gaussian kernel does not fall along the steps.
  points = np.random.default_rng(3).standard_normal((20, 2)).astype(np.float32)
  density = lambda x: np.exp(-0.5 * np.sum((x - points) ** 2, axis=-1) / 0.25).sum()
  path = [layers.mean_shift(points[0], points, bandwidth=0.5, alpha=0.0, num_steps=s)
          for s in range(4)]  # fmt: skip
  assert np.all(np.diff([density(np.asarray(x)) for x in path]) >= -1e-5)


def _brute(q, r, kernel, h, k, radius=np.inf, most=np.inf, where=None):
  distance = np.sqrt(np.sum((q[:, None] - r[None]) ** 2, -1))
  product = q @ r.T
  cosine = product / (np.linalg.norm(q, axis=1)[:, None] * np.linalg.norm(r, axis=1)[None])
  u = np.sqrt(3) * distance / h
  value = {
    "gaussian": np.exp(-(distance**2) / (2 * h**2)), "matern": (1 + u) * np.exp(-u),
    "linear": np.maximum(product, 0), "polynomial": np.maximum(1 + product / h**2, 0) ** 3,
  }[kernel]  # fmt: skip
  open_ = (distance <= radius) & (cosine <= most)
  open_ = open_ if where is None else open_ & where[None]
  ranked = np.where(open_, distance, np.inf)
  index = np.argsort(ranked, axis=1)[:, :k]
  take = lambda a: np.take_along_axis(a, index, 1)
  there = (take(ranked) < np.inf) & (take(value) > 0)
  weights = np.where(there, take(value), 0)
  return index, weights / np.maximum(weights.sum(1, keepdims=True), 1e-300), take(distance), there


@pytest.mark.parametrize("kernel", ["gaussian", "matern", "linear", "polynomial"])
def test_neighbours_are_those_of_all_distances(kernel):
  rng = np.random.default_rng(4)
  q, r = rng.standard_normal((5, 3)), rng.standard_normal((9, 3))
  where = rng.random(9) < 0.8
  run = jax.jit(functools.partial(layers.kernel_neighbors, num_neighbors=4, kernel=kernel))
  for radius, most in ((np.inf, np.inf), (1.5, 0.6)):
    index, weights, distance, there = _brute(q, r, kernel, 0.7, 4, radius, most, where)
    for unit in (1.0, 1e-25, 1e25, 1e37):  # units do not matter
      found = run(
        unit * q.astype(np.float32), unit * r.astype(np.float32), radius=radius * unit,
        bandwidth=0.7 * unit, max_similarity=most, where=where,
      )  # fmt: skip
      np.testing.assert_array_equal(found.where, there)
      np.testing.assert_array_equal(np.where(there, index, 0), found.rows)
      np.testing.assert_allclose(found.weights, weights, atol=2e-5)
      np.testing.assert_allclose(found.distance[there] / unit, distance[there], rtol=1e-5)
      assert np.all(found.distance[~there] == np.inf)
  assert not there.all() and there.any()
  if kernel == "gaussian":  # far from the origin squares would hide the differences
    index, weights, _, _ = _brute(q, r, kernel, 0.7, 4)
    far = np.float32(q + 4096), np.float32(r + 4096)
    found = run(*far, radius=np.inf, bandwidth=0.7, max_similarity=np.inf, where=np.ones(9, bool))
    np.testing.assert_array_equal(found.rows, index)
    np.testing.assert_allclose(found.weights, weights, atol=2e-3)


def test_neighbours_without_an_answer():
  run = jax.jit(functools.partial(layers.kernel_neighbors, num_neighbors=3))
  r = np.float32([[1, 0], [0, 1], [np.nan, 0]])
  q = np.float32([[1, 0], [np.nan, 0], [0, 0]])
  found = run(q, r)
  # The first query is a reference itself; what is not finite has no part.
  np.testing.assert_array_equal(found.rows, [[1, 0, 0], [0, 0, 0], [0, 1, 0]])
  np.testing.assert_array_equal(found.where.sum(1), [1, 0, 2])
  np.testing.assert_allclose(found.weights, [[1, 0, 0], [0, 0, 0], [0.5, 0.5, 0]])
  with pytest.raises(ValueError, match="queries must be finite"):
    layers.kernel_neighbors(q, r[:2], num_neighbors=1)
  # A huge query has neighbours too, and does not blind the others.
  far = run(np.float32([[1e30, 1], [0.1, 1.1], [-3e38, 0]]), np.float32([[1, 0], [0, 3], [0, 1]]),
            max_similarity=np.inf)  # fmt: skip
  np.testing.assert_array_equal(far.rows[1], [2, 0, 1])
  assert np.all(np.isfinite(far.weights)) and np.all(far.where)

  @jax.jit
  def others(q, r, half_q, half_r):
    slope = jax.grad(lambda q: jnp.sum(layers.kernel_neighbors(q, r, num_neighbors=3).weights ** 2))
    return slope(q), layers.kernel_neighbors(half_q, half_r, num_neighbors=2)

  half = jnp.array([[3e4, 0.0]], jnp.float16), jnp.array([[-3e4, 1.0], [0.0, 3e4]], jnp.float16)
  slope, found = others(q, r, *half)
  assert np.all(np.isfinite(slope)) and np.any(slope[2] == 0)
  np.testing.assert_array_equal(found.rows, [[1, 0]])
  kinds = jax.eval_shape(
    functools.partial(layers.kernel_neighbors, num_neighbors=1), jnp.array([1, 0]), jnp.eye(2)
  )
  assert kinds.rows.shape == (1,) and kinds.weights.dtype == jnp.float32


START = layers.Pathway(
  jnp.array([[0.5, 0.3, 0.2], [0.1, 0.8, 0.1]]), jnp.array([[True, True, False], [False] * 3])
)
LINEAR = lambda pathway, c: jnp.sum(c * pathway.weights)
COST = jnp.array([[1.0, 0.0, 5.0], [2.0, 2.0, 2.0]])


def descend(objective=LINEAR, start=START, *data, **options):
  data = data or (COST,)
  options = {"optimizer": optax.sgd(0.1), "num_steps": 1, **options}
  return layers.pathway_gradient_descent(objective, start, *data, **options)


def test_one_step_by_hand():
  found, info = descend()
  expected = [[0.8 * 0.4 / 0.7, 0.8 * 0.3 / 0.7, 0.2], [0.1, 0.8, 0.1]]
  np.testing.assert_allclose(found.weights, expected, rtol=1e-6)
  np.testing.assert_allclose(info.values, [3.5, 3.5 - 0.5 + 0.32 / 0.7], rtol=1e-6)
  np.testing.assert_allclose(info.error, 0.5 - 0.32 / 0.7, rtol=1e-5)
  # Below zero: the floor, a share of the row.
  found, _ = descend(optimizer=optax.sgd(10.0), floor=0.25)
  np.testing.assert_allclose(found.weights[0], [0.8 * 0.2, 0.8 * 0.8, 0.2], rtol=1e-6)
  # Logits: dL/dz = s p (c - <p, c>) with p = (5/8, 3/8) and s = 0.8.
  found, _ = descend(parametrization="softmax", num_steps=1)
  p = np.array([0.625, 0.375])
  z = np.log(p) - 0.1 * 0.8 * p * (np.array([1.0, 0.0]) - p[0])
  np.testing.assert_allclose(found.weights[0, :2], 0.8 * softmax(z), rtol=1e-5)
  np.testing.assert_array_equal(found.weights[1], START.weights[1])
  for options in ({}, {"parametrization": "softmax"}):
    same, info = descend(num_steps=0, **options)
    np.testing.assert_array_equal(same.weights, START.weights)
    assert info.steps == 0 and info.status == 1 and info.error == np.inf


def test_ends_early_and_says_so():
  target = jnp.array([[0.3, 0.5, 0.2], [0.0, 0.0, 0.0]])
  near = lambda pathway, target: jnp.sum((pathway.weights - target) ** 2)
  run = functools.partial(descend, near, START, target, optimizer=optax.sgd(0.3), num_steps=40)
  full, info = run()
  assert info.steps == 40 and info.status == 1
  np.testing.assert_allclose(full.weights[0], target[0], atol=1e-6)
  early, info = run(tol=1e-3)
  assert info.status == 0 and 1 < info.steps < 20 and info.error <= 1e-3
  assert np.all(info.values[int(info.steps) :] == info.values[-1])
  np.testing.assert_allclose(early.weights[0], target[0], atol=1e-2)
  # The objective breaks below a weight: the last pathway where it had a value.
  broken = lambda pathway, c: jnp.where(pathway.weights[0, 0] < 0.4, jnp.nan, LINEAR(pathway, c))
  found, info = descend(broken, num_steps=9)
  assert info.status == 2 and info.steps == 2 and np.isfinite(info.values[2])
  assert found.weights[0, 0] >= 0.4 and np.all(np.isfinite(found.weights))
  found, info = descend(lambda pathway, c: jnp.log(-jnp.sum(c)), num_steps=3)
  assert info.status == 2 and info.steps == 0
  np.testing.assert_array_equal(found.weights, START.weights)
  infinite = lambda pathway, c: jnp.sum(jnp.sqrt(jnp.abs(pathway.weights - START.weights)))
  found, info = descend(infinite, num_steps=3)  # its gradient is not finite
  assert info.status == 2
  np.testing.assert_array_equal(found.weights, START.weights)


@pytest.mark.parametrize(
  "optimizer",
  [optax.lbfgs(), optax.chain(optax.clip(0.1), optax.adam(0.1))],
  ids=["lbfgs", "chain"],
)
def test_any_optimizer_serves(optimizer):
  target = jnp.array([[0.3, 0.5, 0.2], [0.0, 0.0, 0.0]])
  near = lambda pathway, target: jnp.sum((pathway.weights - target) ** 2)
  found, info = descend(near, START, target, optimizer=optimizer, num_steps=60)
  assert info.status == 1
  np.testing.assert_allclose(found.weights[0], target[0], atol=2e-2)
  np.testing.assert_allclose(found.weights[0].sum(), 1.0, rtol=1e-6)


def test_rates_are_data_and_equal_to_single_runs():
  def run(rate, floor, cost=COST):
    options = {"optimizer": optax.sgd(rate), "floor": floor, "num_steps": 3}
    return descend(LINEAR, START, cost, **options)[0].weights

  rates, floors = jnp.array([0.0, 0.1, 0.2]), jnp.array([0.0, 1e-3, 0.1])
  many, single = jax.jit(jax.vmap(run))(rates, floors), jax.jit(run)
  for i in range(3):
    np.testing.assert_allclose(many[i], single(rates[i], floors[i]), rtol=1e-5)
  assert_no_retrace(run, lambda i: (rates[i], floors[i]))
  # Derivatives go through all steps: in the rate and in the data.
  value = lambda rate, cost: run(rate, 0.0, cost)[0, 1]
  by_rate, by_cost = jax.jit(jax.grad(value, argnums=(0, 1)))(0.1, COST)

  def by_hand(rate, cost):
    w = np.array([0.5, 0.3])
    for _ in range(3):
      w = w - rate * cost
      w = 0.8 * w / w.sum()
    return w[1]

  cost = np.asarray(COST[0, :2], np.float64)
  slope = (by_hand(0.1 + 1e-6, cost) - by_hand(0.1 - 1e-6, cost)) / 2e-6
  np.testing.assert_allclose(by_rate, slope, rtol=1e-4)
  for i in range(2):
    step = 1e-6 * np.eye(2)[i]
    slope = (by_hand(0.1, cost + step) - by_hand(0.1, cost - step)) / 2e-6
    np.testing.assert_allclose(by_cost[0, i], slope, rtol=1e-4)


def test_masks_selection_and_balance():
  w = jnp.array([[0.25, 0.25, 0.5, 0.0], [0.25, 0.25, 0.25, 0.25]])
  np.testing.assert_array_equal(
    layers.select_experts(w, num_selected=2), [[0.25, 0, 0.5, 0], [0.25, 0.25, 0, 0]]
  )
  np.testing.assert_allclose(
    layers.select_experts(w, num_selected=2, renormalize=True),
    [[1 / 3, 0, 2 / 3, 0], [0.5, 0.5, 0, 0]],
  )
  np.testing.assert_array_equal(layers.select_experts(w, num_selected=4), w)
  assert np.all(layers.select_experts(0 * w, num_selected=1, renormalize=True) == 0)
  core = layers.core_expert_mask(jnp.stack([w, w[::-1]]), num_experts=3, num_layers=1)
  np.testing.assert_array_equal(core, [[[0] * 4, [1, 1, 1, 0]], [[0] * 4, [1, 1, 1, 0]]])
  assert not layers.core_expert_mask(w, num_experts=4, num_layers=0).any()
  assert layers.core_expert_mask(w, num_experts=4, num_layers=2).all()
  one = layers.restrict_pathway(w, core[0], total="one")
  np.testing.assert_allclose(one.weights, [w[0], [1 / 3, 1 / 3, 1 / 3, 0]], rtol=1e-6)
  nothing = layers.restrict_pathway(0 * w, core[0], total="one")
  assert np.all(nothing.weights == 0)
  still, info = descend(LINEAR, nothing, w, num_steps=2)
  assert np.all(still.weights == 0) and info.status == 1
  # Balance: f_e P_e of two tokens, two selections each.
  p = jnp.array([[0.5, 0.3, 0.2], [0.1, 0.3, 0.6]])
  share, mean = np.array([0.25, 0.5, 0.25]), np.mean(p, 0)
  np.testing.assert_allclose(
    layers.load_balance_loss(p, num_selected=2), 3 * np.sum(share * mean), rtol=1e-6
  )
  slope = jax.grad(layers.load_balance_loss)(p)
  np.testing.assert_allclose(slope, 3 * np.array([[0.5, 0.0, 0.5]] * 2) / 2, rtol=1e-6)


class Linen(linen.Module):
  """Two expert layers of one token."""

  @linen.compact
  def __call__(self, x, override=None):
    return _layers(
      x, override, [linen.Dense(4) for _ in range(2)], [linen.Dense(4 * 3) for _ in range(2)]
    )


class Nnx(nnx.Module):
  """The same."""

  def __init__(self, rngs):
    make = lambda size: nnx.List([nnx.Linear(3, size, rngs=rngs) for _ in range(2)])
    self.routers, self.experts = make(4), make(4 * 3)

  def __call__(self, x, override=None):
    return _layers(x, override, self.routers, self.experts)


def _layers(x, override, routers, experts):
  found = []
  for l, (router, expert) in enumerate(zip(routers, experts, strict=True)):
    own = jax.nn.softmax(router(x))
    row = None if override is None else jax.tree.map(lambda a, l=l: a[:, l], override)
    weights = layers.select_experts(layers.override_router(own, row), num_selected=2)
    x = x + jnp.einsum("be,bed->bd", weights, jnp.tanh(expert(x)).reshape(-1, 4, 3))
    found.append(own)
  return x, jnp.stack(found, axis=1)


@pytest.mark.parametrize("kind", ["linen", "half", "nnx"])
def test_on_any_model(kind):
  x = np.random.default_rng(5).standard_normal((8, 3)).astype(np.float32)
  if kind == "nnx":
    graph, params = nnx.split(Nnx(nnx.Rngs(0)))
    apply_fn = lambda params, x, override: nnx.merge(graph, params)(x, override)
  else:
    params, apply_fn = jax.jit(Linen().init)(jax.random.key(0), x), Linen().apply
  if kind == "half":
    params, x = jax.tree.map(lambda a: jnp.asarray(a, jnp.bfloat16), (params, x))
  labels = np.arange(8) % 3
  neighbors = layers.Neighbors(*(a[:, :2] for a in NEAREST(x, x)))

  def run(params, x):
    return layers.remix_pathways(
      apply_fn, params, x, inputs=x, labels=labels, neighbors=neighbors, num_experts=3,
      num_layers=1, optimizer=optax.sgd(0.1), num_steps=4, total="one",
    )  # fmt: skip

  logits, info = jax.jit(run)(params, x)
  assert logits.dtype == x.dtype and np.all(np.isfinite(logits.astype(np.float32)))
  assert info.pathway.weights.dtype == jnp.float32 and np.all(info.descent.status == 1)
  np.testing.assert_allclose(info.pathway.weights[:, 1].sum(-1), 1, rtol=1e-5)
  assert np.mean(info.descent.values[:, -1] < info.descent.values[:, 0]) > 0.8


def test_the_rate_of_the_paper_is_the_default():
  def model(params, x, override):
    router = jnp.full((x.shape[0], 1, 2), 0.5)
    return layers.override_router(router, override)[:, 0], router

  one = jnp.zeros((1, 1))
  near = layers.kernel_neighbors(one, one + 1, num_neighbors=1)
  options = {"inputs": one, "labels": one, "neighbors": near, "num_experts": 2, "num_layers": 1}
  logits, _ = layers.remix_pathways(
    model, None, one, num_steps=2, loss_fn=lambda f, y: f[:, 0], **options
  )
  first, second = 0.5, 0.5
  for rate in (1e-2, 0.5 * (1e-2 + 1e-5)):  # along a cosine
    first = (first - rate) / (first - rate + second)
    second = 1 - first
  np.testing.assert_allclose(logits, [[first, second]], rtol=1e-5)
