"""Images of noisy ellipses, a small network for them, and its training."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import linen

from jaxopt_robust import calibration as cal
from jaxopt_robust import losses

CLASSES = 3  # background, ring, core
NOISE = 0.7
LOSSES = (
  losses.cross_entropy_loss, cal.nacl_loss, cal.svls_loss, cal.label_smoothing_loss,
  cal.focal_loss, cal.mbls_loss, cal.confidence_penalty_loss,
)  # fmt: skip
CE, NACL, SVLS, SMOOTHING, FOCAL, MBLS, ENTROPY = range(7)


class Shapes(NamedTuple):
  """Images float[n, side, side, 1] and their labels int[n, side, side]."""

  x: jax.Array
  y: jax.Array


def draw(key: jax.Array, num: int, side: int) -> Shapes:
  """A rotated ellipse in each image: a ring of grey .5, a core of grey 1 of half the size."""
  keys = jax.random.split(key, 4)
  centre = jax.random.uniform(keys[0], (num, 2, 1, 1), minval=0.35, maxval=0.65) * side
  radius = jax.random.uniform(keys[1], (num, 2, 1, 1), minval=0.18, maxval=0.34) * side
  turn = jax.random.uniform(keys[2], (num, 1, 1), maxval=jnp.pi)
  rows, columns = jnp.meshgrid(jnp.arange(side), jnp.arange(side), indexing="ij")
  dy, dx = rows[None] - centre[:, 0], columns[None] - centre[:, 1]
  along = (jnp.cos(turn) * dx + jnp.sin(turn) * dy) / radius[:, 0]
  across = (jnp.cos(turn) * dy - jnp.sin(turn) * dx) / radius[:, 1]
  square = along**2 + across**2
  y = (square <= 1).astype(jnp.int32) + (square <= 0.25)
  x = y / 2 + NOISE * jax.random.normal(keys[3], y.shape)
  return Shapes(x[..., None], y)


class Conv(linen.Module):
  """A convolution of 3 x 3 pixels as one product of matrices, many times faster on CPUs."""

  features: int

  @linen.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    height, width = x.shape[1:3]
    wide = jnp.pad(x, [(0, 0), (1, 1), (1, 1), (0, 0)])
    near = [wide[:, i : i + height, j : j + width] for i in range(3) for j in range(3)]
    return linen.Dense(self.features)(jnp.concatenate(near, axis=-1))


class UNet(linen.Module):
  """Two levels down and up again; 8, 16 and 16 channels by default.

  Pooling by means and growing by copies: their derivatives are sums, not scatters.
  """

  width: int = 8

  @linen.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    def block(x: jax.Array, features: int) -> jax.Array:
      return linen.relu(linen.GroupNorm(num_groups=4)(Conv(features)(x)))

    def pool(x: jax.Array) -> jax.Array:
      batch, height, width, features = x.shape
      return x.reshape(batch, height // 2, 2, width // 2, 2, features).mean((2, 4))

    def grow(x: jax.Array) -> jax.Array:
      batch, height, width, features = x.shape
      wide = jnp.broadcast_to(x[:, :, None, :, None], (batch, height, 2, width, 2, features))
      return wide.reshape(batch, 2 * height, 2 * width, features)

    first = block(x, self.width)
    second = block(pool(first), 2 * self.width)
    deep = block(pool(second), 2 * self.width)
    second = block(jnp.concatenate([grow(deep), second], axis=-1), 2 * self.width)
    first = block(jnp.concatenate([grow(second), first], axis=-1), self.width)
    return linen.Dense(CLASSES)(first)


def loss_of(setting: Any, logits: jax.Array, labels: jax.Array) -> jax.Array:
  """The mean loss of a setting, chosen by a number."""
  options: list[dict[str, Any]] = [{} for _ in LOSSES]
  options[NACL] = {"weight": setting["weight"]}
  options[MBLS] = {"margin": 5.0}
  branches = [
    lambda logits, loss=loss, given=given: jnp.mean(loss(logits, labels, **given))
    for loss, given in zip(LOSSES, options, strict=True)
  ]
  return jax.lax.switch(setting["loss"], branches, logits)


def dice(guess: jax.Array, labels: jax.Array) -> jax.Array:
  """Mean Dice of ring and core, an image each, then of all images."""
  found = []
  for k in range(1, CLASSES):
    ours, theirs = guess == k, labels == k
    both = jnp.sum(ours & theirs, axis=(1, 2))
    size = jnp.sum(ours, axis=(1, 2)) + jnp.sum(theirs, axis=(1, 2))
    found.append(jnp.mean(2 * both / jnp.maximum(size, 1)))
  return jnp.mean(jnp.stack(found))


def measured(logits: jax.Array, labels: jax.Array) -> dict[str, jax.Array]:
  """Errors of foreground and whole images, Dice, and the diagram of the foreground."""
  labels = labels.reshape(logits.shape[:-1])
  probs = jax.nn.softmax(logits, axis=-1)
  flat, index = probs.reshape(-1, CLASSES), labels.ravel()
  bins = cal.reliability_bins(flat, index, where=index != 0)
  return {
    "foreground ece": cal.foreground_calibration_error(probs, labels),
    "image ece": jnp.mean(
      jax.vmap(lambda p, y: cal.expected_calibration_error(p.reshape(-1, CLASSES), y.ravel()))(
        probs, labels
      )
    ),
    "class-wise ece": cal.classwise_calibration_error(flat, index, where=index != 0),
    "dice": dice(jnp.argmax(probs, axis=-1), labels),
    **{f"bin {name}": value for name, value in bins._asdict().items()},
  }


def fit(
  setting: Any, data: Any, net: UNet, steps: int, measure: Callable = measured
) -> dict[str, jax.Array]:
  """Trains one network with Adam, the rate falling to 0, and measures it on the test images."""
  params = net.init(data["key"], data["train"].x[:1])
  rate = lambda count: setting["rate"] * 0.5 * (1 + jnp.cos(jnp.pi * count / steps))
  optimizer = optax.adam(rate)

  def step(carry: tuple, rows: jax.Array) -> tuple[tuple, None]:
    params, state = carry
    x, y = data["train"].x[rows], data["train"].y[rows]
    slope = jax.grad(lambda params: loss_of(setting, net.apply(params, x), y))(params)
    updates, state = optimizer.update(slope, state)
    return (optax.apply_updates(params, updates), state), None

  (params, _), _ = jax.lax.scan(step, (params, optimizer.init(params)), data["rows"])
  test = data["test"]
  some = test.x.reshape(-1, data["rows"].shape[1], *test.x.shape[1:])
  logits = jax.lax.map(lambda x: net.apply(params, x), some)
  return measure(logits.reshape(*test.x.shape[:-1], CLASSES), test.y)


def fit_all(
  settings: Any, data: Any, net: UNet, steps: int, measure: Callable = measured
) -> dict[str, jax.Array]:
  """All seeds and settings one after another, [seeds, settings, ...]: a batch is no faster here."""
  return jax.lax.map(
    lambda one: jax.lax.map(lambda setting: fit(setting, one, net, steps, measure), settings), data
  )
