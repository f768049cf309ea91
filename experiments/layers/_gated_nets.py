"""Residual networks of gated blocks on images of digits, with places to drop channels."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import datasets
from experiments._training import batches, fit
from jaxopt_robust import layers, losses

# What may be dropped: the inputs of the gate and of the other factor, the gate, the product.
GATE_INPUT, UP_INPUT, GATE, PRODUCT = "gate input", "up input", "gate", "product"
Drop = Callable[[str, int, jax.Array], jax.Array]


class Data(NamedTuple):
  """Images and labels of the parts, rows of the minibatches, first parameters, and a key."""

  x: Any
  y: Any
  x_calibration: Any
  x_test: Any
  y_test: Any
  rows: Any
  start: Any
  key: Any


def load_split(seed: int, config: Any) -> Data:
  """Training, calibration and test images with grey values in [0, 1]."""
  table = datasets.load(config.data)
  x = np.asarray(table["x"] / np.max(table["x"]), np.float32)
  y = np.asarray(table["y"], np.int32)
  order = np.random.default_rng(seed).permutation(len(x))
  ends = np.cumsum([config.train, getattr(config, "calibration", 0), config.test])
  first, second, third = np.split(order[: ends[-1]], ends[:-1])
  epochs = -(-config.steps // (config.train // config.batch))
  rows = batches(config.train, config.batch, epochs, seed).reshape(-1, config.batch)
  key = jax.random.key(seed)
  start = _init_params(key, x.shape[1], config.dim, config.width, config.blocks)
  return Data(
    x[first], y[first], x[second], x[third], y[third], rows[None, : config.steps], start, key
  )  # fmt: skip


@functools.partial(jax.jit, static_argnums=(1, 2, 3, 4))
def _init_params(key: jax.Array, inputs: int, d: int, width: int, blocks: int) -> Any:
  """Normal weights of variance 1 / inputs; scales of the norms are 1.

  Not within the training program: random numbers are most of what it would take to compile.
  """
  shapes: dict[str, tuple[int, ...]] = {"embed": (inputs, d), "head": (d, 10)}
  for i in range(blocks):
    shapes |= {f"gate{i}": (d, width), f"up{i}": (d, width), f"down{i}": (width, d)}
  keys = jax.random.split(key, len(shapes))
  params = {
    name: jax.random.normal(k, shape) / np.sqrt(shape[0])
    for k, (name, shape) in zip(keys, shapes.items(), strict=True)
  }
  return params | {f"norm{i}": jnp.ones(d) for i in range(blocks + 1)}


def rms_norm(h: jax.Array, scale: jax.Array) -> jax.Array:
  """Root-mean-square norm."""
  root = jnp.sqrt(jnp.mean(h**2, axis=-1, keepdims=True) + 1e-6)
  return h / root * scale[None]


def apply(
  params: Any, x: jax.Array, drop: Drop = lambda place, block, v: v, rotations: Any = None
) -> jax.Array:
  """Scores of images [batch, pixels]; ``drop`` sees what may be dropped, by place and block."""
  h = x @ params["embed"]
  for i in range(sum(name.startswith("gate") for name in params)):
    n = rms_norm(h, params[f"norm{i}"])
    a = drop(GATE, i, jax.nn.silu(drop(GATE_INPUT, i, n) @ params[f"gate{i}"]))
    product = drop(PRODUCT, i, a * (drop(UP_INPUT, i, n) @ params[f"up{i}"]))
    h = (h if rotations is None else h @ rotations[i]) + product @ params[f"down{i}"]
  blocks = sum(name.startswith("gate") for name in params)
  return rms_norm(h, params[f"norm{blocks}"]) @ params["head"]


def activations(params: Any, x: jax.Array) -> dict[str, tuple[jax.Array, jax.Array]]:
  """Gates a_gate and other factors a_up of every block of the dense network."""
  found: dict[str, tuple[jax.Array, jax.Array]] = {}
  seen: dict[tuple[str, int], jax.Array] = {}

  def watch(place: str, block: int, value: jax.Array) -> jax.Array:
    seen[place, block] = value
    if place == PRODUCT:
      found[f"block{block}"] = (seen[GATE, block], seen[UP_INPUT, block] @ params[f"up{block}"])
    return value

  apply(params, x, watch)
  return found


def residual_spec(blocks: int) -> layers.ResidualSpec:
  """Where the parameters are; the gates are the pivots."""
  sublayers = [
    layers.Sublayer(f"gate{i}", [f"gate{i}", f"up{i}"], [f"down{i}"], f"norm{i}")
    for i in range(blocks)
  ]
  return layers.ResidualSpec(["embed"], sublayers, ["head"], f"norm{blocks}")


def train(rate: jax.Array, data: Data) -> Any:
  """Parameters after training by AdamW."""
  optimizer = optax.adamw(rate, weight_decay=1e-2)

  def objective(params: Any, state: Any, rows: jax.Array) -> Any:
    scores = apply(params, data.x[rows])
    return jnp.mean(losses.cross_entropy_loss(scores, data.y[rows])), state

  return fit(objective, data.start, data.rows, optimizer, evaluate=lambda p, s: ()).params
