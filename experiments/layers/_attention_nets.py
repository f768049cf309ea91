"""Networks that differ in their attention, one block on the tokens of a small image; the digits."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen

from experiments import datasets
from experiments._training import batches
from jaxopt_robust import layers, nets

SOFTMAX, ELU, NYSTROM = "softmax", "elu", "Nystromformer"
FULL, FULL_NORM = "full Gaussian", "full Gaussian, normalised"
SOFT, SOFT_NORM = "SOFT", "SOFT, normalised"
KINDS = (SOFTMAX, ELU, NYSTROM, FULL, FULL_NORM, SOFT, SOFT_NORM)
SIDE = 4  # tokens of 2 x 2 pixels in a row of an image


class Mixer(linen.Module):
  """Self-attention with softmax, elu features or Nystrom form, heads as in ``SoftAttention``."""

  kind: str
  dim: int
  heads: int

  @linen.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    def split(name: str) -> jax.Array:
      mapped = linen.Dense(self.dim, use_bias=False, name=name)(x)
      return mapped.reshape(*x.shape[:-1], self.heads, -1).swapaxes(-2, -3)

    q, k, v = split("query"), split("key"), split("value")
    if self.kind == ELU:
      out = layers.elu_attention(q, k, v)
    elif self.kind == NYSTROM:
      out, _ = layers.nystrom_attention(q, k, v, num_landmarks=SIDE)
    else:
      shares = jax.nn.softmax(q @ k.swapaxes(-1, -2) / np.sqrt(q.shape[-1]), axis=-1)
      out = shares @ v
    return linen.Dense(self.dim, name="output")(out.swapaxes(-2, -3).reshape(x.shape))


class Classifier(linen.Module):
  """Tokens with positions, one block with the norms behind its parts, the mean token, scores."""

  kind: str
  dim: int
  heads: int

  @linen.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    place = self.param("place", linen.initializers.normal(0.02), (x.shape[-2], self.dim))
    x = linen.Dense(self.dim, name="embedding")(x) + place[None]
    grid, options = (SIDE, SIDE), {"dim": self.dim, "heads": self.heads, "conv": 0}
    if self.kind in (SOFTMAX, ELU, NYSTROM):
      mixer: Any = Mixer(self.kind, self.dim, self.heads)
    else:
      ratio = 0 if self.kind in (FULL, FULL_NORM) else 2
      normalize = self.kind in (FULL_NORM, SOFT_NORM)
      mixer = nets.SoftAttention(grid=grid, ratio=ratio, normalize=normalize, **options)
    x = linen.LayerNorm()(x + mixer(x))
    hidden = linen.Dense(self.dim)(jax.nn.gelu(linen.Dense(4 * self.dim)(x)))
    return linen.Dense(10)(jnp.mean(linen.LayerNorm()(x + hidden), axis=-2))


class Data(NamedTuple):
  """Tokens and labels of both parts, rows of the minibatches, and a key."""

  x: Any
  y: Any
  x_test: Any
  y_test: Any
  rows: Any
  key: Any


def load_split(seed: int, config: Any, test: int | None = None) -> Data:
  """Digits as tokens of 2 x 2 pixels; ``test`` training images are held out instead, if given."""
  table = datasets.load("digits")
  images = np.asarray(table["x"], np.float32).reshape(-1, SIDE, 2, SIDE, 2) / 16
  x = images.transpose(0, 1, 3, 2, 4).reshape(len(images), SIDE**2, 4)
  y = np.asarray(table["y"], np.int32)
  order = np.random.default_rng(seed).permutation(len(x))
  last = config.train if test is None else config.train - test
  first, second = order[:last], order[last : len(x) if test is None else config.train]
  epochs = -(-config.steps // (last // config.batch))
  rows = batches(last, config.batch, epochs, seed).reshape(-1, config.batch)[: config.steps]
  return Data(x[first], y[first], x[second], y[second], rows[None], jax.random.key(seed))
