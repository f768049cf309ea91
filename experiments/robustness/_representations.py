"""Encoder, projector and pre-training for the experiment on consistent representations."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen

from experiments._training import batches
from experiments.robustness._smoothing import load_images
from jaxopt_robust import robustness

SCALE = 0.5  # deviation of data in [-1, 1], as in the paper
LEVELS = 81  # levels of the grid at the end of pre-training
FEATURES = 32  # of the noise level
LOW = 0.002  # lowest level


class Data(NamedTuple):
  """One seed: images in [0, 1] and labels, rows of the minibatches of each stage, and a key."""

  x: Any
  y: Any
  x_test: Any
  y_test: Any
  pre_rows: Any
  rows: Any  # [label counts, steps, batch]
  key: Any


def load_split(seed: int, config: Any) -> Data:
  """A random split; with ``config.held_out`` training images stand in for the test images."""
  x, y = load_images(config.data, 1)
  order = np.random.default_rng(seed).permutation(len(x))
  last = config.train - config.held_out
  first, second = order[:last], order[config.train :][: config.test]
  if config.held_out:
    second = order[last : config.train]

  def rows(num: int, batch: int, steps: int) -> np.ndarray:
    batch = min(batch, num)
    epochs = -(-steps // (num // batch))
    return batches(num, batch, epochs, seed).reshape(-1, batch)[:steps]

  labelled = [rows(min(n, last), config.batch, config.steps) for n in config.labels]
  return Data(
    x[first], y[first], x[second], y[second], rows(last, config.pre_batch, config.pre_steps),
    np.stack(labelled), jax.random.key(seed),
  )  # fmt: skip


class Encoder(linen.Module):
  """Representation of images in [-1, 1] at a noise level: a perceptron with a norm at its end."""

  width: int
  features: int

  @linen.compact
  def __call__(self, x: jax.Array, level: jax.Array) -> jax.Array:
    x = x.reshape(len(x), -1) / jnp.sqrt(level**2 + SCALE**2)
    time = robustness.noise_level_embedding(level, FEATURES)
    x = jnp.concatenate([x, jnp.broadcast_to(time, (len(x), FEATURES))], axis=1)
    for _ in range(2):
      x = jax.nn.relu(linen.Dense(self.width)(x))
    return linen.LayerNorm()(linen.Dense(self.features)(x))


class Projector(linen.Module):
  """Three layers without biases, normalised over the batch between them."""

  features: int

  @linen.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    for _ in range(2):
      x = linen.Dense(self.features, use_bias=False)(x)
      mean, spread = jnp.mean(x, axis=0, keepdims=True), jnp.std(x, axis=0, keepdims=True)
      x = jax.nn.relu((x - mean) / (spread + 1e-3))  # of size one; 1e-3 for units that are off
    return linen.Dense(self.features // 2, use_bias=False)(x)


def shifted(x: jax.Array, key: jax.Array) -> jax.Array:
  """Each image of [-1, 1] moved by at most one pixel in both directions."""
  padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-1.0)
  place = jax.random.randint(key, (len(x), 2), 0, 3)
  cut = lambda image, at: jax.lax.dynamic_slice(image, (at[0], at[1], 0), x.shape[1:])
  return jax.vmap(cut)(padded, place)


def networks(config: Any) -> tuple[Encoder, Projector]:
  """Encoder and projector."""
  return Encoder(config.width, config.features), Projector(config.features)


def init(config: Any, x: jax.Array, key: jax.Array) -> dict[str, Any]:
  """Parameters of both."""
  encoder, projector = networks(config)
  first, second = jax.random.split(key)
  return {
    "encoder": encoder.init(first, x[:1], jnp.float32(1.0)),
    "projector": projector.init(second, jnp.zeros((2, config.features))),
  }


def independent_loss(
  encode: Any, project: Any, params: Any, target: Any, images: Any, key: jax.Array, count: Any
) -> jax.Array:
  """The loss of ``robustness.rrcm_loss``, but with a noise of its own at the target's level."""
  x, *views = images
  key_level, *keys = jax.random.split(key, 3)
  noise, other = (jax.random.normal(k, x.shape) for k in keys)
  place = jax.random.randint(key_level, (), 0, count - 1)
  level = lambda i: robustness.edm_noise_level(i, count)
  nce, low = robustness.representation_nce_loss, level(count - 1)
  ours, targets = (
    [project(w, encode(w, v + low * noise, low)) for v in views] for w in (params, target)
  )
  high, next_high = level(place), level(place + 1)
  denoising = nce(
    encode(params, x + high * noise, high), encode(params, x + next_high * other, next_high)
  )
  return jnp.mean(nce(ours[0], targets[1]) + nce(ours[1], targets[0]) + denoising)


def pretrain(rate: jax.Array, data: Data, config: Any, independent: bool) -> Any:
  """Parameters of the encoder after pre-training without labels."""
  encoder, projector = networks(config)
  encode = lambda params, x, level: encoder.apply(params["encoder"], x, level)
  project = lambda params, x: projector.apply(params["projector"], x)
  warm_up = config.pre_steps // 20
  factor = optax.warmup_cosine_decay_schedule(0.0, 1.0, warm_up, config.pre_steps)
  optimizer = optax.chain(
    optax.clip_by_global_norm(2.0),
    optax.adamw(lambda count: rate * factor(count), weight_decay=0.0),
  )
  state = robustness.rrcm_init(init(config, data.x, data.key), optimizer)

  def step(state: robustness.RrcmState, rows: jax.Array) -> tuple[robustness.RrcmState, tuple]:
    key, first, second = jax.random.split(jax.random.fold_in(data.key, state.count), 3)
    x = 2 * data.x[rows] - 1
    images = (x, shifted(x, first), shifted(x, second))
    if not independent:
      state, _ = robustness.rrcm_step(
        encode, project, optimizer, state, images, key, num_steps=config.pre_steps
      )
      return state, ()
    count = robustness.num_noise_levels(state.count, config.pre_steps)
    loss = lambda p: independent_loss(encode, project, p, state.target_params, images, key, count)
    grads = jax.grad(loss)(state.params)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    rate_now = robustness.sigmoid_ema_rate(state.count, config.pre_steps)
    target = optax.incremental_update(params, state.target_params, 1 - rate_now)
    return robustness.RrcmState(params, target, opt_state, state.count + 1), ()

  return jax.lax.scan(step, state, data.pre_rows)[0].params["encoder"]


def level_of(sigma: jax.Array) -> jax.Array:
  """The level of the grid that is nearest to noise sigma on [0, 1], 2 sigma on [-1, 1]."""
  grid = robustness.edm_noise_level(jnp.arange(LEVELS), LEVELS)
  return grid[jnp.argmin(jnp.abs(grid - 2 * sigma))]
