"""Images among textures with wrong labels: data, network, contrast, the training in epochs."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen

from experiments import datasets
from experiments._convolution import convolve
from experiments._training import batches
from jaxopt_robust import losses, robustness

TEXTURES = ("brick", "grass", "gravel", "camera", "coins", "moon")
CLASSES = 10
WIDTHS = {"small cnn": (16, 32, 64), "cnn": (32, 64, 128)}


class Data(NamedTuple):
  """A seed: training images, truth, labels at each noise level, minibatches, other images.

  Attributes:
    x: float32[n, side, side]; digits first, then textures.
    foreign: bool[n], textures.
    labels: int32[levels, n].
    truth: int32[n], classes of the digits; arbitrary for textures.
    pre: int32[steps, batch], rows of the contrastive steps.
    rows: int32[steps, batch], rows of the others.
    x_val, y_val, x_test, y_test: other digits with their right labels.
    key: PRNG key.
  """

  x: Any
  foreign: Any
  labels: Any
  truth: Any
  pre: Any
  rows: Any
  x_val: Any
  y_val: Any
  x_test: Any
  y_test: Any
  key: Any


class Net(linen.Module):
  """Encoder with a classifier and a linear contrastive head: a perceptron or three convolutions."""

  kind: str

  @linen.compact
  def __call__(self, x: jax.Array) -> dict[str, jax.Array]:
    if self.kind == "mlp":
      early = linen.relu(linen.Dense(128)(x.reshape(len(x), -1)))
      late = linen.relu(linen.Dense(64)(early))
    else:
      maps, early = x[..., None], x
      for i, width in enumerate(WIDTHS[self.kind]):
        conv = linen.Conv(width, (3, 3), (2, 2), conv_general_dilated=convolve)
        maps = linen.relu(conv(maps))
        early = jnp.mean(maps, axis=(1, 2)) if i == 1 else early
      late = linen.relu(linen.Dense(128)(jnp.mean(maps, axis=(1, 2))))
    return {
      "early": early, "late": late, "logits": linen.Dense(CLASSES)(late),
      "contrast": linen.Dense(32)(late),
    }  # fmt: skip


def _textures(count: int, side: int, rng: np.random.Generator) -> np.ndarray:
  """Squares of six photographs, averaged over 2 x 2 pixels, each stretched to [0, 1]."""
  pictures = [datasets.load(name)["image"] for name in TEXTURES]
  found = []
  for i in range(count):
    image = pictures[i % len(pictures)]
    top, left = (int(rng.integers(0, n - 2 * side + 1)) for n in image.shape)
    patch = image[top : top + 2 * side, left : left + 2 * side]
    patch = patch.reshape(side, 2, side, 2).mean((1, 3))
    found.append((patch - patch.min()) / max(np.ptp(patch), 1e-3))
  return np.stack(found)


def _pictures(config: Any, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, int]:
  """Images and classes in random order, training and validation first, and where test begins."""
  if config.data == "digits":
    table = datasets.load("digits")
    order = rng.permutation(len(table["y"]))
    images = table["x"][order].reshape(-1, 8, 8) / 16
    return images, table["y"][order], config.digits + config.validation
  table = datasets.load(config.data)
  order = rng.permutation(len(table["y_train"]))[: config.digits + config.validation]
  x = np.concatenate([table["x_train"][order], table["x_test"]])
  x = x.reshape(-1, 28 // config.shrink, config.shrink, 28 // config.shrink, config.shrink)
  x = x.mean((2, 4), dtype=np.float32)
  return x, np.concatenate([table["y_train"][order], table["y_test"]]), len(order)


def load_seed(seed: int, config: Any) -> Data:
  """Training images of known and of no class, with labels at each noise level."""
  rng = np.random.default_rng(seed)
  images, classes, test = _pictures(config, rng)
  known, count = config.digits, config.digits + config.textures
  foreign = np.arange(count) >= known
  patches = _textures(config.textures, images.shape[1], rng)
  x = np.concatenate([images[:known], patches])
  truth = np.concatenate([classes[:known], rng.integers(0, CLASSES, config.textures)])
  labels = []
  for level in config.levels:
    wrong = rng.permutation(known)[: round(level * known)]
    given = truth.copy()
    given[wrong] = (truth[wrong] + rng.integers(1, CLASSES, len(wrong))) % CLASSES
    labels.append(given)

  def rows(steps: int, seed: int) -> np.ndarray:
    epochs = -(-steps // (count // config.batch))
    return batches(count, config.batch, epochs, seed).reshape(-1, config.batch)[:steps]

  center, float32 = x.mean(), lambda v: jnp.asarray(v, jnp.float32)
  integers = lambda v: jnp.asarray(v, jnp.int32)
  put = lambda v: float32((v - center) / 0.3)
  return Data(
    put(x), jnp.asarray(foreign), integers(labels), integers(truth),
    integers(rows(config.contrast_steps, seed)), integers(rows(config.steps, seed + 1)),
    put(images[known:test]), integers(classes[known:test]), put(images[test:]),
    integers(classes[test:]), jax.random.key(seed),
  )  # fmt: skip


def augment(key: jax.Array, x: jax.Array, strength: jax.Array) -> jax.Array:
  """A shift by a pixel, a gain and noise of every image; ``strength`` is 1, or one an image."""
  side = x.shape[-1]
  shifts = jnp.stack([jnp.eye(side, k=k) for k in (-1, 0, 1)])
  key_shift, key_gain, key_noise = jax.random.split(key, 3)
  down, right = jax.random.randint(key_shift, (2, len(x)), 0, 3)
  moved = jnp.einsum("bij,bjk,blk->bil", shifts[down], x, shifts[right])
  spread = 0.3 * strength * jax.random.uniform(key_gain, (len(x),), minval=-1)
  noise = jnp.broadcast_to(0.3 * strength, (len(x),))  # .1 of grey values in [0, 1]
  return (1 + spread)[:, None, None] * moved + noise[:, None, None] * jax.random.normal(
    key_noise, x.shape
  )


def pretrain(data: Data, config: Any) -> Any:
  """Weights after contrast of two views of all images, without labels (SimCLR)."""
  model = Net(config.network)
  key_start, key_views = jax.random.split(data.key)
  params = model.init(key_start, data.x[:1])
  optimizer = optax.adam(optax.cosine_decay_schedule(config.contrast_rate, config.contrast_steps))

  def loss(params: Any, x: jax.Array, key: jax.Array) -> jax.Array:
    views = [augment(k, x, jnp.ones(())) for k in jax.random.split(key)]
    heads = model.apply(params, jnp.concatenate(views))["contrast"]
    scores, positive, where = losses.two_view_scores(*jnp.split(heads, 2))
    return jnp.mean(losses.info_nce_loss(scores, positive, temperature=0.2, where=where))

  def step(carry: tuple, batch: tuple) -> tuple[tuple, None]:
    params, state = carry
    rows, count = batch
    grads = jax.grad(loss)(params, data.x[rows], jax.random.fold_in(key_views, count))
    updates, state = optimizer.update(grads, state)
    return (optax.apply_updates(params, updates), state), None

  steps = data.pre, jnp.arange(config.contrast_steps)
  return jax.lax.scan(step, (params, optimizer.init(params)), steps)[0][0]


def train(
  setting: dict, params: Any, labels: jax.Array, data: Data, config: Any, *, warm_up: bool = False
) -> Any:
  """Warm-up and epochs of PLS-LSA or of one of its parts.

  ``setting``: ``rate``; ``mixup`` and ``views``, whether inputs are mixed and augmented;
  ``detects``, whether noise is looked for; ``parity``, of the epoch counter: 0 takes the plane
  before every epoch, 1 the losses, 2 both in turn.

  Returns the weights and the share flagged before each epoch (0 in the warm-up); with ``warm_up``
  the weights before the first detection alone.
  """
  model = Net(config.network)
  factor = optax.cosine_decay_schedule(1.0, config.steps)
  optimizer = optax.chain(
    optax.add_decayed_weights(5e-4), optax.sgd(lambda n: setting["rate"] * factor(n), momentum=0.9)
  )
  hard = jax.nn.one_hot(labels, CLASSES)
  key = jax.random.fold_in(data.key, 1)

  def loss(params: Any, state: Any, rows: jax.Array, key: jax.Array) -> Any:
    keys = jax.random.split(key, 4)
    x, noisy = data.x[rows], state.noisy[rows]
    guess = model.apply(params, augment(keys[0], x, jnp.ones(())))["logits"]
    guess = robustness.sharpen(jax.nn.softmax(jax.lax.stop_gradient(guess)))
    state = state._replace(guesses=state.guesses.at[rows].set(guess))
    targets = jnp.where(noisy[:, None], guess, hard[rows])
    strength = setting["views"] * jnp.where(noisy, config.strong, 1.0)
    seen = jnp.where(setting["views"] > 0, augment(keys[1], x, strength), x)
    mixed = robustness.mixup(keys[2], seen)
    lam = jnp.where(setting["mixup"] > 0, mixed.lam, 1.0)
    seen = lam * seen + (1 - lam) * seen[mixed.perm]
    out = model.apply(params, seen)
    share = {"lam": lam, "perm": mixed.perm}
    value = robustness.mixup_loss(out["logits"], targets, state.weights[rows], **share)
    view = model.apply(params, augment(keys[3], x, jnp.ones(())))["contrast"]
    rest = robustness.cross_view_contrastive_loss(
      out["contrast"], view, jnp.argmax(targets, axis=1), temperature=0.2, **share
    )
    on = setting["detects"] * (state.epoch > 0)
    return value + on * jnp.mean(rest), state

  def step(carry: tuple, batch: tuple) -> tuple[tuple, None]:
    params, opt_state, state = carry
    rows, count = batch
    grads, state = jax.grad(loss, has_aux=True)(params, state, rows, jax.random.fold_in(key, count))
    updates, opt_state = optimizer.update(grads, opt_state, params)
    return (optax.apply_updates(params, updates), opt_state, state), None

  def look(params: Any, state: Any) -> tuple[Any, jax.Array]:
    """Detection on the images as they are."""
    out = model.apply(params, data.x)
    loss, pseudo = (optax.softmax_cross_entropy(out["logits"], t) for t in (hard, state.guesses))
    parity = setting["parity"]
    turn = state._replace(epoch=jnp.where(parity == 2, state.epoch, parity))
    found, info = robustness.detect_noise(
      turn, loss, pseudo, features=out["early"], ridge=config.ridge
    )
    found = found._replace(
      noisy=found.noisy & (setting["detects"] > 0),
      weights=jnp.where(setting["detects"] > 0, found.weights, 1.0),
      epoch=state.epoch + 1,
    )
    return found, info.flagged

  def epoch(carry: tuple, batch: tuple) -> tuple[tuple, jax.Array]:
    params, opt_state, state = carry
    flagged = jnp.zeros(())
    if not warm_up:
      rest = lambda params, state: (state, jnp.zeros(()))
      is_warm = batch[1][0] < config.warm_up
      state, flagged = jax.lax.cond(is_warm, rest, look, params, state)
    return jax.lax.scan(step, (params, opt_state, state), batch)[0], flagged

  state = robustness.noise_init(labels, num_classes=CLASSES)
  split = lambda v: v[: config.warm_up if warm_up else None].reshape(
    -1, config.period, *v.shape[1:]
  )
  batch = split(data.rows), split(jnp.arange(config.steps))
  carry, flagged = jax.lax.scan(epoch, (params, optimizer.init(params), state), batch)
  return carry[0] if warm_up else (carry[0], flagged)


def detections(params: Any, labels: jax.Array, data: Data, config: Any) -> dict[str, jax.Array]:
  """Probabilities of being noisy by each detector, float[n]."""
  out = Net(config.network).apply(params, data.x)
  loss = losses.cross_entropy_loss(out["logits"], labels)
  noisy, probability = robustness.small_loss_mask(loss)
  kinds = {"early": out["early"], "late": out["late"], "pixels": data.x.reshape(len(data.x), -1)}
  unit = lambda v: v / jnp.maximum(jnp.linalg.norm(v, axis=1, keepdims=True), 1e-6)
  wide = max(v.shape[1] for v in kinds.values())
  # Columns of zeros count for nothing: one program for all of them.
  stacked = [jnp.pad(unit(v), ((0, 0), (0, wide - v.shape[1]))) for v in kinds.values()]
  plane = lambda v, sides: robustness.linear_separation(v, sides, ridge=config.ridge)[1]
  sides = jnp.stack([noisy] * len(kinds) + [data.foreign])
  found = jax.vmap(plane)(jnp.stack([*stacked, stacked[0]]), sides)
  names = [*(f"W, {name}" for name in kinds), "oracle"]
  return {"Z": probability, **dict(zip(names, found, strict=True))}


def accuracy(params: Any, x: jax.Array, y: jax.Array, config: Any) -> jax.Array:
  scores = Net(config.network).apply(params, x)["logits"]
  return jnp.mean(jnp.argmax(scores, axis=1) == y)
