"""Stretches of real streams in their own order, and what simple rules answer on them."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import datasets
from experiments._protocol import REPORT_SEED
from experiments._training import batches
from experiments.robustness._digit_streams import Net
from jaxopt_robust import losses

# name -> (data set, first row, classes); the first rows of covertype are a balanced selection.
STREAMS = {
  "electricity": ("electricity", 0, 2),
  "weather": ("weather", 0, 2),
  "covertype": ("covertype", 15120, 7),
  "synthetic": ("", 0, 3),
}
DEVELOPMENT = (
  0.4  # share of the rows, from the first on, where development seeds have their stretch
)
MOST = 5.0  # deviations of the training rows, to which all features are cut


class Data(NamedTuple):
  """A seed: labelled rows, weights and minibatches; then the stream, in batches.

  Attributes:
    x, y: the labelled rows that come before the stream.
    params: weights before training.
    rows: minibatches of the training.
    stream, labels: float[batches, batch, features] and int32[batches, batch].
    simple: accuracies of ``simple_answers``, float[batches] each.
  """

  x: Any
  y: Any
  params: Any
  rows: Any
  stream: Any
  labels: Any
  simple: dict[str, Any]


def synthetic() -> dict[str, np.ndarray]:
  """Three Gaussian classes in the plane that turn about the origin; for tests without real data."""
  rng, num = np.random.default_rng(0), 2000
  y = rng.integers(0, 3, num)
  angle = 2 * np.pi * y / 3 + np.linspace(0, 2, num)
  x = 2 * np.stack([np.cos(angle), np.sin(angle)], axis=1) + 0.5 * rng.standard_normal((num, 2))
  return {"x": x.astype(np.float32), "y": y.astype(np.int32)}


def simple_answers(before: np.ndarray, labels: np.ndarray, classes: int) -> dict[str, np.ndarray]:
  """Which rows are right by the most frequent label so far, and by the label of the row before."""
  known = np.concatenate([before, labels])
  counts = np.cumsum(np.eye(classes, dtype=int)[known], axis=0)
  start = len(before) - 1
  return {
    "majority": counts[start:-1].argmax(1) == labels,
    "no change": known[start:-1] == labels,
  }


def load_stretch(name: str, table: dict[str, np.ndarray], seed: int, config: Any) -> Data:
  """A stretch of the stream that starts at random: ``train`` labelled rows, then the stream."""
  _, first, classes = STREAMS[name]
  rng, num, span = np.random.default_rng(seed), len(table["y"]), config.train + config.length
  border = first + round(DEVELOPMENT * (num - first))
  low, high = (border, num) if seed >= REPORT_SEED else (first, border)
  start = int(rng.integers(low, high - span + 1))
  x, y = (table[key][start : start + span] for key in ("x", "y"))
  x = x.astype(np.float64) - x[0]  # so that constant columns have a deviation of exactly 0
  scaled = datasets.standardise(x[: config.train], x[config.train :])
  before, later = (np.clip(part, -MOST, MOST).astype(np.float32) for part in scaled)
  known, labels = y[: config.train], y[config.train :]
  cut = lambda v: jnp.asarray(v).reshape(-1, config.batch, *v.shape[1:])
  simple = simple_answers(known, labels, classes)
  return Data(
    jnp.asarray(before), jnp.asarray(known),
    Net(config.hidden, classes).init(jax.random.key(seed), before[:1]),
    jnp.asarray(batches(config.train, 64, config.epochs, seed)),
    cut(later), cut(labels), {key: cut(v).mean(1) for key, v in simple.items()},
  )  # fmt: skip


def learn_with_labels(setting: dict, data: tuple, model: Any, config: Any) -> jax.Array:
  """Online accuracy of each batch, where labels come after the answers: SGD on all weights."""
  params, x, y = data
  optimizer = optax.sgd(setting["rate"] * config.batch / 64, momentum=config.momentum)

  def loss(params: Any, x: jax.Array, y: jax.Array) -> tuple[jax.Array, jax.Array]:
    logits = model.apply(params, x)
    return jnp.mean(losses.cross_entropy_loss(logits, y)), logits

  def step(carry: tuple, batch: tuple) -> tuple[tuple, jax.Array]:
    params, state = carry
    grads, logits = jax.grad(loss, has_aux=True)(params, *batch)
    updates, state = optimizer.update(grads, state)
    right = jnp.mean(jnp.argmax(logits, axis=-1) == batch[1])
    return (optax.apply_updates(params, updates), state), right

  return jax.lax.scan(step, (params, optimizer.init(params)), (x, y))[1]
