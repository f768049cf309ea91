"""Low-rank softmax and fast gradients: exact up to a proven error, and never n x n."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx

from jaxopt_robust import layers

N, E, RANK = 37, 3, 2
NAMES = ("query", "key", "value")
BOUNDS = np.array([0.25, 0.5, 1.0, 2.0, 4.0, 8.0])


def problem(seed=0):
  """Tokens of one length, kernels, adapters and a target; beta = 1 makes the largest logit 1."""
  rng = np.random.default_rng(seed)
  x = rng.standard_normal((N, E))
  x *= np.sqrt(E) / np.linalg.norm(x, axis=1, keepdims=True)
  kernels = {name: rng.standard_normal((E, E)) for name in NAMES}
  adapters = {
    name: layers.LoraAdapter(
      0.3 * rng.standard_normal((E, RANK)), 0.3 * rng.standard_normal((RANK, E))
    )
    for name in NAMES
  }
  whole = {n: kernels[n] + 1.5 * adapters[n].a @ adapters[n].b for n in NAMES}
  largest = np.abs((x @ whole["query"]) @ (x @ whole["key"]).T).max()
  kernels["key"] = kernels["key"] / largest
  adapters["key"] = layers.LoraAdapter(adapters["key"].a, adapters["key"].b / largest)
  return adapters, kernels, x, rng.standard_normal((N, E))


def flat(tree):
  return jnp.concatenate([jnp.ravel(leaf) for leaf in jax.tree.leaves(tree)])


def exact_grads(adapters, kernels, x, target, beta):
  return jax.grad(layers.lora_attention_loss)(
    adapters, kernels, x, target=target, alpha=3.0, beta=beta
  )


def exact_parts():
  """Of all bounds: queries, keys, values, the softmax, and the gradient."""

  def one(beta, adapters, kernels, x, target):
    whole = layers.lora_merge(kernels, adapters, alpha=3.0)
    q, k, v = (x @ whole[name] for name in NAMES)
    f = jax.nn.softmax(beta * q @ k.T, axis=-1)
    return beta * q, k, v, f, flat(exact_grads(adapters, kernels, x, target, beta))

  return jax.jit(jax.vmap(one, in_axes=(0, None, None, None, None)))(BOUNDS, *problem())


def errors(degree, series, given):
  """Of the gradients at all bounds: exact norm, error, and what is proven."""

  def one(beta, parts, adapters, kernels, x, target):
    q, k, v, f, exact = parts
    options = {"degree": degree, "series": series, "bound": beta if given else None}
    fast, info = layers.lora_attention_grads_fast(
      adapters, kernels, x, target=target, alpha=3.0, beta=beta, **options
    )
    left, right, _ = layers.softmax_poly_factors(q, k, **options)
    rows = jnp.max(jnp.sum(jnp.abs(left @ right.T - f), axis=-1))
    shift = jnp.max(jnp.linalg.norm((left @ right.T - f) @ v, axis=-1))
    sums = jnp.max(jnp.abs(jnp.sum(left @ right.T, axis=-1) - 1))
    gap = jnp.linalg.norm(flat(fast) - exact)
    return jnp.linalg.norm(exact), gap, rows, shift, sums, info

  axes = (0, 0, None, None, None, None)
  return jax.jit(jax.vmap(one, in_axes=axes))(BOUNDS, exact_parts(), *problem())


def series_of(degree, series, bound):
  """Coefficients of the polynomial by NumPy, constant first."""
  if series == "taylor":
    return np.array([1 / math.factorial(t) for t in range(degree + 1)])
  interpolant = np.polynomial.Chebyshev.interpolate(np.exp, degree, domain=[-bound, bound])
  return interpolant.convert(kind=np.polynomial.Polynomial).coef


@pytest.mark.x64
@pytest.mark.parametrize("series", ["taylor", "chebyshev"])
def test_features_are_the_polynomial_of_the_products(series):
  rng = np.random.default_rng(1)
  q, k = rng.standard_normal((5, 3)), 1e5 * rng.standard_normal((7, 3))
  q = q / 1e5
  bound = np.linalg.norm(q, axis=1).max() * np.linalg.norm(k, axis=1).max()
  for degree in (1, 4):
    run = lambda fun, degree=degree: jax.jit(functools.partial(fun, degree=degree, series=series))
    phi, psi = run(layers.exponential_features)(q, k)
    assert phi.shape == (5, math.comb(3 + degree, degree)) and psi.shape[0] == 7
    expected = np.polynomial.polynomial.polyval(q @ k.T, series_of(degree, series, bound))
    np.testing.assert_allclose(phi @ psi.T, expected, rtol=1e-12, atol=1e-12)
    left, right, info = run(layers.softmax_poly_factors)(q, k)
    rows = expected / expected.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(left @ right.T, rows, rtol=1e-9)
    np.testing.assert_allclose(np.sum(left @ right.T, axis=1), 1, rtol=1e-12)
    places = np.linspace(-bound, bound, 1001)
    off = np.polynomial.polynomial.polyval(places, series_of(degree, series, bound))
    off = np.abs(off - np.exp(places)).max()
    # A bound, and no more than Taylor's remainder is off its first term.
    assert off <= info.series_error <= 4 * np.exp(bound) * off


@pytest.mark.x64
def test_with_the_exact_softmax_the_gradient_is_exact():
  """And what the softmax does not see has no say: a vector added to all keys or values."""
  rng = np.random.default_rng(2)
  q, k, v, g = (rng.standard_normal(shape) for shape in ((4, 3), (6, 3), (6, 2), (4, 2)))
  attend = lambda q, k, v: jnp.sum(g * (jax.nn.softmax(q @ k.T, axis=-1) @ v))
  expected = jax.jit(jax.grad(attend, argnums=(0, 1, 2)))(q, k, v)
  pull = jax.jit(layers.factored_attention_vjp)
  softmax = lambda logits: np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
  f, moved = softmax(q @ k.T), softmax(q @ k.T + rng.standard_normal((4, 1)))
  np.testing.assert_allclose(moved, f, rtol=1e-13)
  for shares, keys, values in ((f, k, v), (moved, k, v), (f, k + 5.0, v), (f, k, v + 3.0)):
    found = pull((shares, np.eye(6)), (q, keys, values), g)
    tolerance = 1e-14 if shares is f and keys is k and values is v else 1e-13
    for one, other in zip(found, expected, strict=True):
      assert np.linalg.norm(one - other) <= tolerance * np.linalg.norm(other)
  # p 1 = 0, of approximate factors too.
  left, right, _ = jax.jit(layers.softmax_poly_factors)(q, k)
  dq, _, dv = pull((left, right), (q, np.ones_like(k), v), g)
  np.testing.assert_allclose(dq, 0, atol=1e-13)
  np.testing.assert_allclose(dv, np.asarray(right) @ (np.asarray(left).T @ g), rtol=1e-11)


@pytest.mark.x64
def test_a_factor_that_is_zero_stops_the_gradient_of_the_other():
  adapters, kernels, x, target = problem()
  zero = jax.tree.map(jnp.zeros_like, adapters)
  run = jax.jit(functools.partial(layers.lora_attention_grads_fast, degree=2))
  for still, moving in (("a", "b"), ("b", "a")):
    begun = {n: adapters[n]._replace(**{moving: getattr(zero[n], moving)}) for n in NAMES}
    grads, _ = run(begun, kernels, x, target=target)
    for name in NAMES:
      assert np.all(getattr(grads[name], still) == 0)
      assert np.any(getattr(grads[name], moving) != 0)


@pytest.mark.x64
def test_errors_fall_with_the_degree_grow_with_the_logits_and_keep_the_bound():
  by_degree = []
  for degree, series, given in (
    (4, "taylor", True), (6, "taylor", False), (8, "taylor", True), (5, "chebyshev", True),
  ):  # fmt: skip
    size, gap, rows, shift, sums, info = errors(degree, series, given)
    np.testing.assert_allclose(sums[:5], 0, atol=1e-12)
    assert np.all(rows <= info.softmax.softmax_error + 1e-13)
    assert np.all(shift <= info.output_error + 1e-13)
    assert np.all(gap <= info.gradient_error + 1e-12)
    assert np.all(gap <= info.relative_error * size + 1e-12)
    assert np.isfinite(info.gradient_error[:3]).all()
    np.testing.assert_array_equal(info.softmax.valid[:4], True)
    np.testing.assert_array_equal(info.softmax.valid[5:], False)
    if given:
      np.testing.assert_allclose(info.softmax.logit_bound, BOUNDS, rtol=1e-12)
      assert info.softmax.valid[4]  # 4 itself
      assert info.relative_error[1] < (1e-2 if degree < 6 else 1e-3)  # it says something
    if series == "taylor":
      by_degree.append(gap / size)
      assert np.all(np.diff(gap / size) > 0)
  assert np.all(np.diff(by_degree, axis=0)[:, :4] < 0)  # logits up to 2
  assert by_degree[0][2] < 1e-2 < by_degree[0][4]


@pytest.mark.x64
def test_bounds_are_never_exceeded_and_nearly_reached_by_small_heads():
  """Of 4000 heads with one query and two keys; each adapter alone, the others merged."""
  rng = np.random.default_rng(5)
  draw = lambda *shape: rng.standard_normal((4000, *shape))
  kernels = {name: draw(1, 1) for name in NAMES}
  adapters = {name: layers.LoraAdapter(draw(1, 1), draw(1, 1)) for name in NAMES}
  betas = np.exp(rng.uniform(-4, 0, 4000))

  def one(adapters, kernels, x, context, target, beta):
    found = {}
    for name in NAMES:
      others = {n: adapters[n] for n in NAMES if n != name}
      arguments = {name: adapters[name]}, layers.lora_merge(kernels, others), x
      options = {"context": context, "target": target, "beta": beta}
      exact = jax.grad(layers.lora_attention_loss)(*arguments, **options)
      fast, info = layers.lora_attention_grads_fast(*arguments, **options, degree=2)
      gap = jnp.linalg.norm(flat(fast) - flat(exact))
      found[name] = gap, info.gradient_error, info.softmax.logit_bound
    return found

  found = jax.jit(jax.vmap(one))(adapters, kernels, draw(1, 1), draw(2, 1), draw(1, 1), betas)
  for name, most in (("query", 0.4), ("key", 0.2), ("value", 0.4)):
    gap, proven, bound = (np.asarray(part) for part in found[name])
    share = np.where(bound > 0.02, gap / proven, 0)  # below, rounding is larger
    assert most < share.max() <= 1


@pytest.mark.x64
def test_twice_the_same_tokens_have_twice_the_gradient_and_the_bound():
  """By the queries' adapter: outputs stay, sums over the tokens double."""
  adapters, kernels, x, target = problem()
  only = {"query": adapters["query"]}
  run = jax.jit(functools.partial(layers.lora_attention_grads_fast, degree=2))
  (once, info), (twice, more) = (
    run(only, kernels, np.tile(x, (k, 1)), target=np.tile(target, (k, 1))) for k in (1, 2)
  )
  np.testing.assert_allclose(flat(twice), 2 * flat(once), rtol=1e-10)
  np.testing.assert_allclose(more.gradient_error, 2 * info.gradient_error, rtol=1e-12)
  np.testing.assert_allclose(more.output_error, info.output_error, rtol=1e-12)


@pytest.mark.x64
def test_proven_errors_of_the_softmax_are_their_formulas():
  """One query and four keys: bounds of the tail carried through the quotient."""
  degree, logits = 3, np.array([[0.6, -0.6, 0.0, 0.3]])
  run = jax.jit(layers.softmax_poly_factors, static_argnames=("degree", "series"))
  _, _, info = run(np.array([[0.3]]), logits.T / 0.3, degree=degree)
  series = sum(logits**t / math.factorial(t) for t in range(degree + 1))
  tail = 0.6**4 / math.factorial(4) * (1 + np.expm1(0.6) / 5)
  np.testing.assert_allclose(info.series_error, tail, rtol=1e-12)
  np.testing.assert_allclose(info.logit_bound, 0.6, rtol=1e-12)
  expected = 2 * tail * np.mean(logits**2) / 0.6**2 / np.mean(series)
  np.testing.assert_allclose(info.softmax_error, expected, rtol=1e-12)
  _, _, info = run(np.array([[0.3]]), logits.T / 0.3, degree=degree, series="chebyshev")
  tail = 0.3**4 / math.factorial(4) * (1 + np.expm1(0.3) / 5)
  np.testing.assert_allclose(info.series_error, 4 * np.exp(0.6**2 / 20) * tail, rtol=1e-12)


@pytest.mark.x64
@pytest.mark.parametrize("series", ["taylor", "chebyshev"])
def test_the_loss_is_differentiated_by_the_fast_gradient(series):
  adapters, kernels, x, target = problem()
  context = np.random.default_rng(3).standard_normal((11, E))
  options = {"target": target, "context": context, "alpha": 3.0, "degree": 5, "series": series}
  some = {name: adapters[name] for name in ("query", "value")}
  exact_loss = functools.partial(
    layers.lora_attention_loss, target=target, context=context, alpha=3.0
  )
  fast_loss = functools.partial(layers.lora_attention_loss_fast, **options)

  @jax.jit
  def run(*args):
    return (
      jax.value_and_grad(fast_loss, has_aux=True)(*args),
      layers.lora_attention_grads_fast(*args, **options),
      jax.value_and_grad(exact_loss)(*args),
    )

  ((value, _), grads), (again, info), (loss, exact) = run(some, kernels, x)
  assert set(grads) == set(again) == {"query", "value"}
  np.testing.assert_allclose(flat(grads), flat(again), rtol=1e-12, atol=1e-13)
  assert np.linalg.norm(flat(again) - flat(exact)) <= info.gradient_error < np.inf
  np.testing.assert_allclose(flat(again), flat(exact), atol=3e-3 * np.abs(flat(exact)).max())
  whole = {n: kernels[n] + 1.5 * adapters[n].a @ adapters[n].b for n in some}
  weights = np.exp((x @ whole["query"]) @ (context @ kernels["key"]).T / np.sqrt(E))
  shares = weights / weights.sum(axis=1, keepdims=True)
  expected = 0.5 * np.sum((shares @ context @ whole["value"] - target) ** 2)
  np.testing.assert_allclose(loss, expected, rtol=1e-12)
  np.testing.assert_allclose(value, expected, rtol=1e-2)


def _shapes(jaxpr):
  """Shapes of all that a program computes."""
  for equation in jaxpr.eqns:
    for variable in equation.outvars:
      yield variable.aval.shape
    for inner in jax.tree.leaves(equation.params, is_leaf=lambda p: hasattr(p, "eqns")):
      inner = getattr(inner, "jaxpr", inner)
      if hasattr(inner, "eqns"):
        yield from _shapes(inner)


def test_nothing_of_the_size_of_all_pairs():
  adapters, kernels, x, target = jax.tree.map(jnp.float32, problem())
  pairs = lambda fun, *a: [
    shape
    for shape in _shapes(jax.make_jaxpr(fun)(*a).jaxpr)
    if list(shape).count(N) > 1 or any(size >= N * N for size in shape)
  ]
  fast = lambda a: layers.lora_attention_grads_fast(a, kernels, x, target=target, degree=2)
  loss = lambda a: layers.lora_attention_loss_fast(a, kernels, x, target=target, degree=2)[0]
  attend = lambda q: layers.polynomial_attention(q, q, q, degree=2, series="chebyshev", bound=3.0)
  assert not pairs(fast, adapters) and not pairs(jax.value_and_grad(loss), adapters)
  assert not pairs(attend, x)
  exact = lambda a: exact_grads(a, kernels, x, target, 1.0)
  assert pairs(exact, adapters)  # the test sees them


def test_a_bound_that_is_not_kept_and_logits_that_are_too_large_are_told():
  attend = jax.jit(layers.polynomial_attention, static_argnames=("degree", "series"))
  q = jnp.array([[2.0, 0.0], [0.1, 0.1]])
  kept = attend(q, q, q, beta=1.0, bound=4.5)[1]
  broken = attend(q, q, q, beta=1.0, bound=3.9)[1]
  np.testing.assert_allclose(kept.logit_bound, 4.0, rtol=1e-6)
  assert np.isfinite(kept.softmax_error)
  assert broken.softmax_error == np.inf and not broken.valid
  # Degree 1: 1 + x has rows with a sum of 0 and below.
  for scale in (1.0, 5.0):
    low = attend(jnp.array([[-scale]]), jnp.ones((2, 1)), jnp.ones((2, 1)), degree=1)[1]
    assert low.softmax_error == np.inf and not low.valid
  for extreme in (1e30, jnp.nan):
    _, info = attend(extreme * q, extreme * q, q)
    assert not info.valid and info.softmax_error == np.inf
  # Without any logits: means, exactly, whatever the units.
  for small in (0.0, 1e-30):
    out, info = attend(small * q, q / 1e3, q, series="chebyshev")
    np.testing.assert_allclose(out, jnp.broadcast_to(q.mean(0), (2, 2)), rtol=1e-6)
    assert info.valid


def test_heads_examples_units_and_half_precision():
  rng = np.random.default_rng(4)
  q, k, v = (jnp.asarray(rng.standard_normal((2, 3, N, 4)) / 2, jnp.float32) for _ in range(3))
  run = jax.jit(layers.polynomial_attention)
  out, info = run(q, k, v)
  assert info.valid.shape == (2, 3)
  one, _ = run(q[1, 2], k[1, 2], v[1, 2])
  np.testing.assert_allclose(out[1, 2], one, atol=1e-6)
  mapped = jax.jit(jax.vmap(jax.vmap(lambda *a: layers.polynomial_attention(*a)[0])))(q, k, v)
  np.testing.assert_allclose(mapped, out, atol=1e-6)
  exact = jax.nn.softmax(jnp.einsum("abie,abje->abij", q, k) / 2, axis=-1) @ v
  widest = jnp.linalg.norm(v - v.mean(axis=-2, keepdims=True), axis=-1).max(axis=-1)
  off = jnp.linalg.norm(out - exact, axis=-1).max(axis=-1)
  assert np.all(off <= info.softmax_error * widest + 1e-6) and np.all(info.softmax_error < 0.1)
  np.testing.assert_allclose(run(1e-20 * q, 1e20 * k, 1e15 * v)[0], 1e15 * out, rtol=1e-4, atol=1e9)
  for dtype in (jnp.bfloat16, jnp.float16):
    halves = [a.astype(dtype) for a in (q, k, v)]
    rough, found = run(*halves)
    wide, _ = run(*(a.astype(jnp.float32) for a in halves))
    assert rough.dtype == dtype and found.softmax_error.dtype == jnp.float32
    np.testing.assert_allclose(rough.astype(jnp.float32), wide, rtol=1e-2, atol=1e-3)
  betas = jnp.array([0.1, 0.5])
  many = jax.jit(jax.vmap(lambda b: layers.polynomial_attention(q[0], k[0], v[0], beta=b)[0]))(
    betas
  )
  np.testing.assert_allclose(many[1], out[0], atol=1e-6)
  ones = jnp.ones((2, 1), int)
  whole = run(ones, ones, v[0, 0, :2])
  np.testing.assert_allclose(whole[0], jnp.broadcast_to(v[0, 0, :2].mean(0), (2, 4)), rtol=1e-6)


@pytest.mark.x64
def test_logit_bound_and_regime_are_their_formulas():
  adapters, kernels, x, _ = problem()
  whole = {n: kernels[n] + 1.5 * adapters[n].a @ adapters[n].b for n in NAMES}
  q, k = 0.7 * x @ whole["query"], x @ whole["key"]
  found = jax.jit(layers.logit_bound)(adapters, kernels, x, alpha=3.0, beta=0.7)
  np.testing.assert_allclose(found.query_max, np.abs(q).max(), rtol=1e-12)
  np.testing.assert_allclose(found.key_max, np.abs(k).max(), rtol=1e-12)
  expected = np.linalg.norm(q, axis=1).max() * np.linalg.norm(k, axis=1).max()
  np.testing.assert_allclose(found.bound, expected, rtol=1e-12)
  assert np.abs(q @ k.T).max() <= found.bound <= found.entries
  np.testing.assert_allclose(found.entries, E * found.query_max * found.key_max, rtol=1e-12)
  tols = [(1.5, tol) for tol in np.logspace(-1, -8, 60)]
  for norm, tol in ((0.5, None), (2.0, 1e-6), (1e-9, 0.5), *tols):
    regime = layers.attention_norm_regime(2 * norm, norm / 2 / E, length=1000, size=E, tol=tol)
    bound, allowed = norm**2, tol or 1e-3
    tails = [sum(bound**t / math.factorial(t) for t in range(g + 1, g + 60)) for g in range(1, 80)]
    least = 1 + next(i for i, one in enumerate(tails) if one <= allowed)
    assert regime.degree == least
    assert regime.num_features == math.comb(E + regime.degree, E)
    assert regime.fast == (regime.num_features * E < 1000)
    assert regime.below == (norm < math.sqrt(math.log(1000))) == ("is below" in regime.reason)
    np.testing.assert_allclose(regime.ratio, norm / math.sqrt(math.log(1000)))
  assert not layers.attention_norm_regime(3.0, 3.0, length=1000, size=2).below
  assert layers.attention_norm_regime(0, 0.0, length=2, size=1).degree == 1
  with pytest.raises(TypeError, match="tol must be a number that is known while tracing"):
    jax.jit(lambda t: layers.attention_norm_regime(1, 1, length=9, size=1, tol=t).degree)(0.1)
  many = layers.attention_norm_regime(1.4, 1.4, length=4096, size=512)  # features beyond 1e308
  assert many.num_features == math.comb(512 + many.degree, 512) and "e+612 features" in many.reason


def test_inside_linen_and_nnx_models():
  x = jnp.float32(problem()[2])

  class Linen(linen.Module):
    @linen.compact
    def __call__(self, x):
      q, k, v = (linen.Dense(E)(x) for _ in range(3))
      return layers.polynomial_attention(q, k, v, degree=2)[0]

  class Nnx(nnx.Module):
    def __init__(self, rngs):
      self.q, self.k, self.v = (nnx.Linear(E, E, rngs=rngs) for _ in range(3))

    def __call__(self, x):
      return layers.polynomial_attention(self.q(x), self.k(x), self.v(x), degree=2)[0]

  model = Linen()
  params = jax.jit(model.init)(jax.random.key(0), x)
  slopes = (
    jax.jit(jax.grad(lambda p: jnp.sum(model.apply(p, x) ** 2)))(params),
    nnx.jit(nnx.grad(lambda m: jnp.sum(m(x) ** 2)))(Nnx(nnx.Rngs(0))),
  )
  for slope in slopes:
    assert np.all(np.isfinite(flat(slope))) and np.mean(np.asarray(flat(slope)) != 0) > 0.5
