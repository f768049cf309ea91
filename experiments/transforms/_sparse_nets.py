"""A small vision transformer and a perceptron whose matrices are trained with n:m patterns."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen

from experiments import datasets
from experiments._training import batches
from jaxopt_robust import losses, nets, transforms

SIDE = 4  # tokens of 2 x 2 pixels in a row of an image


class Data(NamedTuple):
  """Images and labels of both parts, rows of every minibatch, and initial parameters."""

  x: Any
  y: Any
  x_test: Any
  y_test: Any
  rows: Any
  params: Any


class Block(linen.Module):
  """Pre-norm attention with two heads and a feed-forward part, ``inputs`` and ``outputs``."""

  @linen.compact
  def __call__(self, x: jax.Array, _: None) -> tuple[jax.Array, None]:
    width = x.shape[-1]
    inner = linen.LayerNorm()(x)
    split = lambda name: linen.Dense(width, name=name)(inner).reshape(*x.shape[:-1], 2, width // 2)
    q, k, v = (split(name) for name in ("query", "key", "value"))
    shares = jax.nn.softmax(jnp.einsum("bqhe,bkhe->bhqk", q, k) / (width // 2) ** 0.5, axis=-1)
    mixed = jnp.einsum("bhqk,bkhe->bqhe", shares, v).reshape(x.shape)
    x = x + linen.Dense(width, name="merge")(mixed)
    hidden = linen.Dense(4 * width, name="inputs")(linen.LayerNorm()(x))
    return x + linen.Dense(width, name="outputs")(jax.nn.gelu(hidden)), None


class Transformer(linen.Module):
  """Tokens of 2 x 2 pixels with positions, two blocks, the mean token."""

  width: int

  @linen.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    x = x.reshape(-1, SIDE, 2, SIDE, 2).transpose(0, 1, 3, 2, 4).reshape(-1, SIDE**2, 4)
    place = self.param("place", linen.initializers.normal(0.02), (SIDE**2, self.width))
    x = linen.Dense(self.width)(x) + place[None]
    blocks = linen.scan(Block, variable_axes={"params": 0}, split_rngs={"params": True}, length=2)
    x, _ = blocks(name="blocks")(x, None)
    return linen.Dense(10)(jnp.mean(linen.LayerNorm()(x), axis=-2))


def make_network(kind: str, width: int) -> tuple[linen.Module, Callable]:
  """A network and which of its leaves are masked: feed-forward matrices, or the hidden layers."""
  if kind == "transformer":
    is_masked = lambda path, leaf: leaf.ndim == 3 and path[-2].key in ("inputs", "outputs")
    return Transformer(width), is_masked
  is_masked = lambda path, leaf: leaf.ndim == 2 and path[-2].key in ("Dense_0", "Dense_1")
  return nets.MLP((64, 64, 10)), is_masked


@functools.cache
def _start(kind: str, width: int) -> Callable:
  """Initial parameters from a key: once compiled, and not in each of the training programs."""
  model, _ = make_network(kind, width)
  return jax.jit(lambda key: model.init(key, jnp.ones((1, 64))))


def load(
  kind: str, width: int, seed: int, *, train: int, held: int, batch: int, steps: int
) -> Data:
  """Digits as float32[n, 64] in [0, 1]; ``held`` training images are the test, if not 0."""
  table = datasets.load("digits")
  x, y = np.asarray(table["x"], np.float32) / 16, np.int32(table["y"])
  order = np.random.default_rng(seed).permutation(len(x))
  first, second = order[: train - held], order[train - held : train if held else len(x)]
  epochs = -(-steps // (len(first) // batch))
  rows = batches(len(first), batch, epochs, seed).reshape(-1, batch)[:steps]
  params = _start(kind, width)(jax.random.key(seed))
  return Data(x[first], y[first], x[second], y[second], rows, params)


class SpreadState(NamedTuple):
  """Sum over the steps of the variance of |gradient| of one matrix, and their number."""

  total: jax.Array
  steps: jax.Array


def watch_spread(predicate: Callable) -> optax.GradientTransformation:
  """Passes gradients on, and sums the variance of the magnitudes in the first masked matrix.

  The feed-forward matrix of the first of two blocks, which are a stack.
  """

  def init(params: Any) -> SpreadState:
    del params
    return SpreadState(jnp.zeros(()), jnp.zeros((), jnp.int32))

  def update(updates: Any, state: SpreadState, params: Any = None) -> tuple[Any, SpreadState]:
    del params
    leaves = jax.tree_util.tree_leaves_with_path(updates)
    first = next(leaf for path, leaf in leaves if predicate(path, leaf))
    first = first[0] if first.ndim == 3 else first
    return updates, SpreadState(state.total + jnp.var(jnp.abs(first)), state.steps + 1)

  return optax.GradientTransformation(init, update)


def make_train(
  kind: str, width: int, steps: int, *, n: int, m: int, flow: str, stages: tuple | None,
  warm_up: int, weight_decay: float,
) -> Callable:  # fmt: skip
  """``train(setting, data)`` to accuracy, gradient variance and largest run of what is left.

  A setting holds "rate", "betas" (what is left of masked weights at each step) and "dense".
  """
  model, is_masked = make_network(kind, width)

  def train(setting: dict, data: Data) -> dict[str, jax.Array]:
    factor = optax.warmup_cosine_decay_schedule(0.0, 1.0, warm_up, steps)
    inner = optax.chain(
      watch_spread(is_masked), optax.clip_by_global_norm(1.0),
      optax.adamw(lambda count: setting["rate"] * factor(count), weight_decay=weight_decay),
    )  # fmt: skip
    decay: Any = lambda count: setting["betas"][jnp.minimum(count, steps - 1)]
    tx, effective = transforms.progressive_nm(
      inner, n=n, m=m, flow=flow, decay=0.0 if flow == "srste" or stages else decay,
      stages=stages, predicate=is_masked,
    )  # fmt: skip

    def loss(weights: Any, rows: jax.Array) -> jax.Array:
      scores = model.apply(weights, data.x[rows])
      return jnp.mean(losses.cross_entropy_loss(scores, data.y[rows]))

    def step(carry: tuple, rows: jax.Array) -> tuple[tuple, None]:
      params, state = carry
      grads = jax.grad(loss)(effective(params, state), rows)
      updates, state = tx.update(grads, state, params)
      return (optax.apply_updates(params, updates), state), None

    (params, state), _ = jax.lax.scan(step, (data.params, tx.init(data.params)), data.rows)
    used = effective(params, state)
    hard = transforms.harden(used, n=n, m=m, predicate=is_masked)
    used = jax.tree.map(functools.partial(jnp.where, setting["dense"]), used, hard)
    right = jnp.argmax(model.apply(used, data.x_test), axis=-1) == data.y_test
    left = [
      jnp.max(jnp.sum(leaf.reshape(-1, m, leaf.shape[-1]) != 0, axis=1))
      for path, leaf in jax.tree_util.tree_leaves_with_path(used)
      if is_masked(path, leaf)
    ]
    spread = state.inner_state[0]
    return {
      "accuracy": jnp.mean(right), "variance": spread.total / spread.steps,
      "left": jnp.max(jnp.stack(left)),
    }  # fmt: skip

  return train
