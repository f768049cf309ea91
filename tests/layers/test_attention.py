"""Attention by a Gaussian kernel: equal to the kernel, linear in the tokens, differentiable."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx

from jaxopt_robust import layers, nets

N, M, E = 24, 6, 4


def tokens(seed=0, scale=1.0):
  rng = np.random.default_rng(seed)
  q = scale * rng.standard_normal((2, N, E))
  return q, q[:, ::4], rng.standard_normal((2, N, E))


def kernel(a, b):
  return np.exp(-0.5 * np.sum((a[..., :, None, :] - b[..., None, :, :]) ** 2, axis=-1))


def matrix_of(q, landmarks, **options):
  """The attention matrix, column by column."""
  eye = np.broadcast_to(np.eye(q.shape[-2]), (*q.shape[:-1], q.shape[-2]))
  return np.asarray(layers.soft_attention(q, landmarks, eye, **options)[0])


@pytest.mark.x64
def test_soft_attention_is_its_formula_and_with_all_tokens_the_kernel():
  q, marks, v = tokens()
  outer, core = kernel(q, marks), kernel(marks, marks)
  np.testing.assert_allclose(layers.gaussian_gram(q, marks), outer, rtol=1e-12)
  for normalize in (False, True):
    inverse = np.linalg.inv(core + 0.01 * np.eye(M))
    if normalize:
      root = core.sum(axis=-1) ** -0.5
      inverse = root[..., :, None] * inverse * root[..., None, :]
    expected = outer @ inverse @ np.swapaxes(outer, 1, 2) @ v
    found, info = layers.soft_attention(q, marks, v, normalize=normalize, num_iters=40)
    np.testing.assert_allclose(found, expected, atol=1e-10)
    assert info.error.shape == (2,) and np.all(info.error < 1e-10)
    matrix = matrix_of(q, marks, normalize=normalize, num_iters=40)
    np.testing.assert_allclose(matrix, np.swapaxes(matrix, 1, 2), atol=1e-10)
    assert np.linalg.eigvalsh(matrix).min() > -1e-10
  wide = tokens(scale=3.0)[0]
  whole = matrix_of(wide, wide, normalize=False, num_iters=60, ridge=0.0)
  np.testing.assert_allclose(whole, kernel(wide, wide), atol=1e-12)


@pytest.mark.x64
def test_the_full_kernel_is_of_norm_one_where_it_is_normalised():
  q, _, v = tokens(scale=0.3)
  s = kernel(q, q)
  np.testing.assert_allclose(layers.full_gaussian_attention(q, v, normalize=False), s @ v)
  eye = np.broadcast_to(np.eye(N), (2, N, N))
  matrix = np.asarray(layers.full_gaussian_attention(q, eye))
  np.testing.assert_allclose(np.linalg.norm(matrix, 2, axis=(1, 2)), 1, rtol=1e-12)
  # The cheap normalisation of the middle factor alone divides the norm, and leaves it above 1.
  plain, cheap = (
    np.linalg.norm(matrix_of(q, q[:, ::4], normalize=normalize), 2, axis=(1, 2))
    for normalize in (False, True)
  )
  assert np.all(cheap < plain / 3) and np.all(cheap > 1)


def test_moved_and_permuted_tokens_and_half_precision():
  q, marks, v = (a.astype(np.float32) for a in tokens())
  run = jax.jit(layers.soft_attention)
  here, _ = run(q, marks, v)
  there, _ = run(q + 512.0, marks + 512.0, v)
  # The inputs themselves are rounded to 2^-15 there.
  np.testing.assert_allclose(there, here, atol=5e-3)
  order = np.random.default_rng(1).permutation(N)
  np.testing.assert_allclose(run(q[:, order], marks, v[:, order])[0], here[:, order], atol=1e-4)
  halves = [jnp.asarray(a, jnp.bfloat16) for a in (q, marks, v)]
  rough, _ = run(*halves)
  exact, _ = run(*(a.astype(jnp.float32) for a in halves))
  assert rough.dtype == jnp.bfloat16
  np.testing.assert_allclose(rough.astype(jnp.float32), exact, rtol=1e-2, atol=1e-2)
  heads = jax.vmap(lambda *a: layers.soft_attention(*a)[0])(q, marks, v)
  np.testing.assert_allclose(heads, here, atol=1e-4)


def test_tokens_far_apart_do_not_see_one_another():
  far = jnp.array([[1e30], [-3e38], [2.0]])
  np.testing.assert_array_equal(layers.full_gaussian_attention(far, far, normalize=False), far)
  kernel = layers.gaussian_gram(jnp.array([[jnp.nan], [0.0]]), jnp.zeros((1, 1)))
  np.testing.assert_array_equal(kernel, [[np.nan], [1.0]])


def _shapes(jaxpr):
  """Shapes of all that a program computes, and the names of what computes it."""
  for equation in jaxpr.eqns:
    for variable in equation.outvars:
      yield equation.primitive.name, variable.aval.shape
    for inner in jax.tree.leaves(equation.params, is_leaf=lambda p: hasattr(p, "eqns")):
      inner = getattr(inner, "jaxpr", inner)
      if hasattr(inner, "eqns"):
        yield from _shapes(inner)


def test_nothing_of_the_size_of_all_pairs_and_no_loop_in_the_derivative():
  q, marks, v = (a.astype(np.float32) for a in tokens())
  pairs = lambda shapes: [s for _, s in shapes if list(s).count(N) > 1]
  program = lambda f, *a: list(_shapes(jax.make_jaxpr(f)(*a).jaxpr))
  soft = lambda q, marks, v: layers.soft_attention(q, marks, v)[0]
  forward = program(soft, q, marks, v)
  assert not pairs(forward) and {name for name, _ in forward} & {"while", "scan"}
  assert pairs(program(layers.full_gaussian_attention, q, v))  # the test sees them
  out, back = jax.vjp(soft, q, marks, v)
  names = {name for name, _ in program(back, out)}
  assert not names & {"while", "scan"} and not pairs(program(back, out))


@pytest.mark.x64
def test_derivatives_are_those_of_the_inverse():
  q, marks, v = tokens()
  weights = np.random.default_rng(2).standard_normal(v.shape)
  for argument in range(3):
    arrays = [q, marks, v]

    def exact(a, argument=argument, arrays=arrays):
      q, marks, v = (*arrays[:argument], a, *arrays[argument + 1 :])
      outer, core = kernel(q, marks), kernel(marks, marks)
      inverse = np.linalg.inv(core + 0.01 * np.eye(M))
      root = core.sum(axis=-1) ** -0.5
      inverse = root[..., :, None] * inverse * root[..., None, :]
      return np.sum(weights * (outer @ inverse @ np.swapaxes(outer, 1, 2) @ v))

    direction = np.random.default_rng(3).standard_normal(arrays[argument].shape)
    step = 1e-5
    slope = (
      exact(arrays[argument] + step * direction) - exact(arrays[argument] - step * direction)
    ) / (2 * step)
    value = lambda *a: jnp.sum(weights * layers.soft_attention(*a, num_iters=40)[0])
    found = jnp.sum(jax.grad(value, argnums=argument)(*arrays) * direction)
    np.testing.assert_allclose(found, slope, rtol=1e-7)


@pytest.mark.x64
def test_linear_and_nystrom_attention_are_their_formulas():
  q, _, v = tokens()
  k = tokens(5)[0]
  phi = lambda x: np.where(x > 0, x + 1, np.exp(x))
  scores = phi(q) @ np.swapaxes(phi(k), 1, 2)
  expected = scores / scores.sum(axis=-1, keepdims=True) @ v
  np.testing.assert_allclose(layers.elu_attention(q, k, v), expected, rtol=1e-12)
  # Keys whose features all vanish have no say, and no answer is NaN.
  assert np.all(layers.elu_attention(q, k - 1e4, v) == 0)
  full, info = layers.nystrom_attention(q, k, v, num_landmarks=N, num_iters=60)
  expected = jax.nn.dot_product_attention(*(np.asarray(a)[:, :, None] for a in (q, k, v)))[:, :, 0]
  assert np.all(info.error < 1e-8)
  np.testing.assert_allclose(full, expected, atol=1e-7)
  few, _ = layers.nystrom_attention(q, k, v, num_landmarks=M, num_iters=40)
  soft = lambda a, b: np.asarray(jax.nn.softmax(a @ np.swapaxes(b, 1, 2) / 2, axis=-1))
  a, b = (np.mean(x.reshape(2, M, N // M, E), axis=2) for x in (q, k))
  np.testing.assert_allclose(layers.segment_means(q, num_landmarks=M), a, rtol=1e-12)
  expected = soft(q, b) @ np.linalg.inv(soft(a, b)) @ soft(a, k) @ v
  np.testing.assert_allclose(few, expected, atol=1e-6)


def test_inside_linen_and_nnx_models():
  x = tokens()[0].astype(np.float32)

  class Linen(linen.Module):
    @linen.compact
    def __call__(self, x):
      q, v = (linen.Dense(E)(x) for _ in range(2))
      return layers.soft_attention(q, layers.segment_means(q, num_landmarks=M), v)[0]

  class Nnx(nnx.Module):
    def __init__(self, rngs):
      self.q, self.v = nnx.Linear(E, E, rngs=rngs), nnx.Linear(E, E, rngs=rngs)

    def __call__(self, x):
      q = self.q(x)
      return layers.soft_attention(q, layers.segment_means(q, num_landmarks=M), self.v(x))[0]

  model = Linen()
  params = model.init(jax.random.key(0), x)
  other = Nnx(nnx.Rngs(0))
  slopes = (
    jax.grad(lambda p: jnp.sum(model.apply(p, x) ** 2))(params),
    nnx.grad(lambda m: jnp.sum(m(x) ** 2))(other),
  )
  for slope in itertools.chain.from_iterable(map(jax.tree.leaves, slopes)):
    assert np.all(np.isfinite(slope)) and np.any(slope != 0)


@pytest.mark.x64
@pytest.mark.parametrize("ratio", [2, 0])
def test_the_module_is_its_formula(ratio):
  """Two heads of size 3 on a grid of 4 x 6 tokens, head by head in NumPy."""
  height, width, e = 4, 6, 3
  model = nets.SoftAttention(dim=2 * e, heads=2, grid=(height, width), ratio=ratio, num_iters=40)
  rng = np.random.default_rng(4)
  x = rng.standard_normal((height * width, 2 * e))
  variables = model.init(jax.random.key(0), x)
  variables = {"params": jax.tree.map(lambda p: rng.standard_normal(p.shape), variables["params"])}
  out, state = model.apply(variables, x, mutable=["intermediates"])
  p = variables["params"]
  heads = []
  for h in range(2):
    part = slice(h * e, (h + 1) * e)
    q, v = x @ p["query"]["kernel"][:, part] / e**0.25, x @ p["value"]["kernel"][:, part]
    if ratio:
      squares = q.reshape(height // 2, 2, width // 2, 2, e).transpose(0, 2, 1, 3, 4)
      marks = np.einsum("abijc,ijcd->abd", squares, p["landmarks"]["kernel"]).reshape(-1, e)
      marks = (marks - marks.mean(-1, keepdims=True)) / np.sqrt(marks.var(-1, keepdims=True) + 1e-6)
      marks = marks * p["landmark_norm"]["scale"] + p["landmark_norm"]["bias"]
      marks = np.asarray(jax.nn.gelu(marks, approximate=False))
      outer, core = kernel(q, marks), kernel(marks, marks)
      root = np.diag(core.sum(axis=1) ** -0.5)
      middle = root @ np.linalg.inv(core + 0.01 * np.eye(len(core))) @ root
      mixed = outer @ middle @ outer.T @ v
    else:
      s = kernel(q, q)
      root = np.diag(s.sum(axis=1) ** -0.5)
      mixed = root @ s @ root @ v
    image = np.pad(v.reshape(height, width, e), ((1, 1), (1, 1), (0, 0)))
    taps = p["conv"][:, :, 0, h]
    near = sum(
      taps[i, j] * image[i : i + height, j : j + width] for i in range(3) for j in range(3)
    )
    heads.append(mixed + near.reshape(-1, e))
  expected = np.concatenate(heads, axis=1) @ p["output"]["kernel"] + p["output"]["bias"]
  np.testing.assert_allclose(out, expected, atol=1e-7)
  assert ("intermediates" in state) == bool(ratio)
  batch = model.apply(variables, np.stack([x, 2 * x]))
  np.testing.assert_allclose(batch[0], out, atol=1e-9)
