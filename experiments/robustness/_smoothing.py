"""Images, a network and certificates for the experiments on randomized smoothing."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen

from experiments import datasets
from experiments._convolution import Convolution
from experiments._training import batches, fit
from jaxopt_robust import nets, robustness


class Data(NamedTuple):
  """One seed: images in [0, 1] and labels of both parts, rows of the minibatches, and a key."""

  x: Any
  y: Any
  x_test: Any
  y_test: Any
  rows: Any
  key: Any


@functools.cache
def load_images(name: str, repeat: int) -> tuple[np.ndarray, np.ndarray]:
  """All images in [0, 1], float32[n, side, side, 1], each pixel repeated in both directions."""
  data = datasets.load(name)
  if name == "digits":
    x, y = data["x"].reshape(-1, 8, 8) / 16, data["y"]
  else:
    x, y = (np.concatenate([data[f"{k}_train"], data[f"{k}_test"]]) for k in "xy")
    x = x.reshape(-1, 28, 28)
  x = np.float32(x).repeat(repeat, axis=1).repeat(repeat, axis=2)
  return x[..., None], np.asarray(y, np.int32)


def load_split(seed: int, config: Any, repeat: int) -> Data:
  """A random split; with ``config.held_out`` training images stand in for the test images."""
  x, y = load_images(config.data, repeat)
  order = np.random.default_rng(seed).permutation(len(x))
  last = config.train - config.held_out
  first, second = order[:last], order[config.train :][: config.test]
  if config.held_out:
    second = order[last : config.train]
  epochs = -(-config.steps // (last // config.batch))
  rows = batches(last, config.batch, epochs, seed).reshape(-1, config.batch)[: config.steps]
  return Data(x[first], y[first], x[second], y[second], rows[None], jax.random.key(seed))


class Network(linen.Module):
  """Scores of images: a perceptron, or patches of 4 x 4 pixels, a convolution, and dense layers."""

  kind: str
  hidden: tuple[int, ...]

  @linen.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    if self.kind == "cnn":
      x = jax.nn.relu(Convolution(32, 4, 4)(x))
      x = jax.nn.relu(Convolution(32, 3, 2)(x))
    return nets.MLP((*self.hidden, 10))(x.reshape(len(x), -1))


def train(
  loss: Callable[..., jax.Array], params: Any, rate: jax.Array, data: Data, steps: int
) -> Any:
  """Parameters after Adam with a cosine; ``loss(params, x, y, key) -> float[batch]``."""
  factor = optax.cosine_decay_schedule(1.0, steps)
  optimizer = optax.adam(lambda count: rate * factor(count))

  def objective(params: Any, count: jax.Array, rows: jax.Array) -> Any:
    key = jax.random.fold_in(data.key, count)
    return jnp.mean(loss(params, data.x[rows], data.y[rows], key)), count + 1

  start = jnp.zeros((), jnp.int32)
  nothing = lambda params, state: ()
  return fit(objective, params, data.rows, optimizer, state=start, evaluate=nothing).params


def summary(found: robustness.Certificate, labels: np.ndarray, radii: Any) -> dict[str, Any]:
  """ACR and certified accuracy of certificates [seeds, images], a number a seed each."""
  correct = jnp.asarray(np.asarray(found.label) == labels)
  curve = jax.vmap(lambda r, c: robustness.certified_accuracy(r, c, radii=np.float32(radii)))
  return {
    "acr": np.asarray(jax.vmap(robustness.average_certified_radius)(found.radius, correct)),
    "curve": np.asarray(curve(found.radius, correct)),
    "abstained": np.mean(np.asarray(found.label) < 0, axis=1),
  }
