"""Crops and their parts, the generator of patches, heads and oracle, models that are graded."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments._protocol import Clock
from experiments.robustness import _crops, _graded, foundation_photographs
from jaxopt_robust.calibration import LinearHead, linear_head_logits

CONFIG = foundation_photographs.SIZES["toy"].config
# Every pixel tells its column and photograph.
IMAGES = [
  np.stack(np.broadcast_arrays(np.arange(64) / 64, np.arange(40)[:, None] / 64, label / 4), axis=2)
  .astype(np.float32)
  for label in range(3)
]  # fmt: skip


@pytest.fixture(scope="module")
def grading():
  return _graded.Grading(_crops.network(CONFIG), CONFIG, Clock())


@pytest.fixture(scope="module")
def small():
  """Strips of 8 columns, crops of 8."""
  config = dataclasses.replace(CONFIG, size=8, crops=(20, 20, 20, 20))
  return _crops.draw(3, IMAGES, config), config


def test_parts_have_strips_of_their_own(small):
  seed, _ = small
  found = {}
  for part in _crops.PARTS:
    x, y = seed.x[part], seed.y[part]
    assert x.shape == (60, 8, 8, 3) and x.dtype == np.float32
    np.testing.assert_array_equal(x[:, 0, 0, 2], y / 4)
    np.testing.assert_array_equal(y, np.repeat(np.arange(3), 20))
    for label in range(3):
      columns = set(np.rint(64 * x[y == label][:, 0, :, 0]).astype(int).ravel().tolist())
      found[part, label] = columns
  for label in range(3):
    fitting = found["train", label] | found["oracle", label]
    assert len(fitting) == 40 and len(found["val", label]) == 8 and len(found["test", label]) == 16
    assert not fitting & found["val", label] and not fitting & found["test", label]
    assert not found["val", label] & found["test", label]


def test_draws_depend_on_the_seed_alone(small):
  seed, config = small
  again, other = _crops.draw(3, IMAGES, config), _crops.draw(4, IMAGES, config)
  np.testing.assert_array_equal(seed.x["test"], again.x["test"])
  assert not np.array_equal(seed.x["test"], other.x["test"])


def test_patches_are_cut_and_pasted():
  x = np.arange(2 * 6 * 4 * 3).reshape(2, 6, 4, 3)
  patches = _crops.cut(x, 2)
  assert patches.shape == (2, 3, 2, 12)
  np.testing.assert_array_equal(patches[1, 2, 0], x[1, 4:6, 0:2].ravel())
  np.testing.assert_array_equal(_crops.paste(patches, 2), x)


def test_the_generator_is_the_best_linear_one_and_keeps_lengths():
  x = np.random.default_rng(0).uniform(0.3, 0.7, (20, 8, 8, 3)).astype(np.float32)
  config = dataclasses.replace(CONFIG, patch=2, components=5)
  patches = _crops.principal_patches(x, config)
  encode, decode = _crops.generator(patches, 2)
  code = encode(jnp.asarray(x))
  assert code.shape == (20, 4, 4, 5)
  rows = np.float64(_crops.cut(x, 2)).reshape(-1, 12)
  # The error of the best linear code of 5 numbers: the other singular values.
  left = np.linalg.svd(rows - rows.mean(0), compute_uv=False)[5:]
  np.testing.assert_allclose(
    np.sum((np.asarray(decode(code)) - x) ** 2), np.sum(left**2), rtol=1e-4
  )
  np.testing.assert_allclose(encode(decode(code)), code, atol=1e-5)
  step = 1e-2 * jax.random.normal(jax.random.key(0), code.shape)
  moved = decode(code + step) - decode(code)
  np.testing.assert_allclose(jnp.linalg.norm(moved), jnp.linalg.norm(step), rtol=1e-4)
  far = decode(100 * code)
  assert far.min() == 0 and far.max() == 1


def test_heads_take_features_as_they_are(grading):
  """Of features moved and scaled, one by one, the same decisions."""
  rng = np.random.default_rng(0)
  y = np.arange(96, dtype=np.int32) % 12
  x = np.float32(rng.normal(size=(96, 6)) + 3 * rng.normal(size=(12, 6))[y])
  logits = lambda x: np.asarray(linear_head_logits(grading.head(x, y, 0.1), x))
  scale, shift = np.float32([1, 3, 10, 0.5, 1, 2]), np.float32([0, 5, -20, 1, 0, 3])
  np.testing.assert_allclose(logits(x * scale[None] + shift[None]), logits(x), atol=0.05)
  assert np.mean(np.argmax(logits(x), axis=1) == y) > 0.8


def test_chunks_of_one_shape_give_all_rows():
  shapes = []

  def double(rows):
    shapes.append(rows.shape)
    return [2 * rows, rows + 1]

  x = np.arange(14.0).reshape(7, 2)
  twice, more = _crops.in_chunks(double, x, 3)
  np.testing.assert_array_equal(twice, 2 * x)
  np.testing.assert_array_equal(more, x + 1)
  assert set(shapes) == {(3, 2)}


def test_the_oracle_is_the_largest_mean_probability():
  """As is the model that is the oracle itself."""
  net = _crops.network(CONFIG)
  rng = np.random.default_rng(0)
  head = lambda: LinearHead(*(np.float32(rng.normal(size=shape)) for shape in ((4, 6), (4,), (6,))))
  heads, own, x = [head(), head()], head(), rng.uniform(size=(5, 16, 16, 3)).astype(np.float32)

  @jax.jit
  def all_of(x):
    given = lambda flag: (flag, net.params, heads, own)
    scores = _graded.network_scores(net)
    seen = _crops.oracle(net, net.params, heads)(x)
    return net.pooled(net.params, x), seen, scores(given(True), x), scores(given(False), x)

  parts, seen, itself, other = all_of(x)
  logit = lambda head, part: (part - head.center[None]) @ head.weights.T + head.intercepts[None]
  mean = sum(jax.nn.softmax(logit(h, p)) for h, p in zip(heads, parts, strict=True)) / 2
  np.testing.assert_array_equal(seen, np.argmax(mean, axis=1))
  np.testing.assert_allclose(np.exp(itself), mean, atol=1e-5)
  np.testing.assert_allclose(other, logit(own, parts[-1]), atol=1e-4)


def test_without_steps_the_reconstructions_are_graded(grading):
  seeds, own = foundation_photographs.prepare(dataclasses.replace(CONFIG, seeds=1), grading)
  seed = seeds[0]
  assert len(seed.heads) == 2 and own[0].weights.shape == (12, 6)
  weights = np.random.default_rng(0).normal(size=(16 * 16 * 3, 12)).astype(np.float32)
  scores = lambda params, x: x.reshape(len(x), -1) @ params
  grade = grading(scores, weights, seed, 0)
  encode, decode = _crops.generator(seed.patches, CONFIG.patch)
  x, y = jnp.asarray(seed.x["test"]), seed.y["test"]
  made = decode(encode(x))
  np.testing.assert_allclose(grade["example"], made, atol=1e-6)
  valid = grading.seen(seed, made) == y
  right = np.argmax(scores(weights, np.asarray(made)), axis=1) == y
  assert 0 < valid.mean() < 1 and grade["oracle"] == 1 and float(grade["distance"]) == 0
  np.testing.assert_allclose(grade["PA"], np.mean(right[valid]), atol=1e-6)
  np.testing.assert_allclose(grade["valid"], np.mean(valid), atol=1e-6)


def test_the_model_is_linear_where_it_says_so():
  model = _graded.Model(3, widths=(4, 5), kernels=(4, 2))
  x = jax.random.uniform(jax.random.key(0), (2, 16, 16, 3))
  params = model.init(jax.random.key(1), x, True)
  call = lambda x, flag: model.apply(params, x, flag)
  middle = call((x[:1] + x[1:]) / 2, True)
  np.testing.assert_allclose(middle, jnp.mean(call(x, True), axis=0, keepdims=True), atol=1e-5)
  deep = call(x, False)
  assert jnp.max(jnp.abs(call((x[:1] + x[1:]) / 2, False) - deep.mean(0, keepdims=True))) > 1e-4
  # Nothing but the place of whole patches is lost in the mean over places.
  turned = x.reshape(2, 2, 8, 16, 3)[:, ::-1].reshape(x.shape)
  np.testing.assert_allclose(call(turned, False), deep, atol=1e-5)
