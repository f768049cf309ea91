"""Tables whose positives are rare in training: splits, minibatches, and what is measured."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import datasets
from experiments._training import batches
from jaxopt_robust import compositional, losses, nets

METRICS = {
  "ap": "average precision",
  "auc": "AUC",
  "pauc": "partial AUC",
  "two_way": "two-way partial AUC",
}
PARTS = ("train", "val", "test")


class Data(NamedTuple):
  """One split by name of ``PARTS``; initial weights, minibatches without and with positives."""

  params: Any
  x: dict[str, Any]
  y: dict[str, Any]
  plain: Any
  mixed: Any


def make_model(config: Any) -> Any:
  """A linear scorer, or one hidden layer."""
  return nets.MLP((config.hidden, 1) if config.hidden else (1,))


@functools.partial(jax.jit, static_argnums=0)
def _init(model: Any, key: jax.Array, x: jax.Array) -> Any:
  return model.init(key, x)


@functools.partial(jax.jit, static_argnames=("num_positives", "num_negatives", "num_steps"))
def _draw(key: jax.Array, labels: jax.Array, **sizes: int) -> jax.Array:
  return compositional.epoch_batches_with_positives(key, labels, **sizes).index


def load_split(seed: int, part: int, config: Any) -> Data:
  """Principal components and labels; both parts of a seed differ in weights and batches alone."""
  table = datasets.load(config.data)
  x, y = np.asarray(table["x"], np.float64), np.asarray(table["y"])
  y = (y == (1 if config.data == "spambase" else config.positive)).astype(np.int32)
  rng, pieces = np.random.default_rng(seed), []
  for label, size in ((1, config.num_positives), (0, config.num_negatives)):
    order = rng.permutation(np.flatnonzero(y == label))
    pieces.append(np.split(order, [size, size + (len(order) - size) // 2]))
  rows = {n: np.concatenate([p[i] for p in pieces]) for i, n in enumerate(PARTS)}
  train = rows["train"]
  if config.data == "spambase":
    x = np.log1p(x)
  x = np.clip((x - x[train].mean(0)) / (x[train].std(0) + 1e-3), -5, 5)
  x = x @ np.linalg.eigh(x[train].T @ x[train])[1][:, ::-1][:, : max(config.features)]
  x = (x / x[train].std(0)).astype(np.float32)
  batch = config.batch_positives + config.batch_negatives
  steps = config.warm_up + config.steps
  passes = -(-steps // (len(train) // batch))
  plain = batches(len(train), batch, passes, 2 * seed + part).reshape(-1, batch)[:steps]
  init_key, draw_key = jax.random.split(jax.random.fold_in(jax.random.key(seed), part))
  sizes = {"num_positives": config.batch_positives, "num_negatives": config.batch_negatives}
  mixed = _draw(draw_key, y[train], num_steps=config.steps, **sizes)
  params = _init(make_model(config), init_key, x[:1])
  return Data(params, {n: x[r] for n, r in rows.items()}, {n: y[r] for n, r in rows.items()},
              plain, mixed)  # fmt: skip


@functools.partial(jax.jit, static_argnums=(2, 3))
def measure(scores: jax.Array, labels: jax.Array, name: str, config: Any) -> jax.Array:
  """A metric of ``METRICS`` of each seed, float[seeds]; scores float[seeds, rows]."""
  share = {"max_fpr": config.max_fpr}
  return jax.vmap(
    {
      "ap": losses.average_precision,
      "auc": losses.auc,
      "pauc": functools.partial(losses.partial_auc, **share),
      "two_way": functools.partial(losses.partial_auc, **share, min_tpr=config.min_tpr),
    }[name]
  )(scores, labels)


def over_positives(loss: jax.Array, labels: jax.Array) -> jax.Array:
  """Mean of losses that only positives have."""
  return jnp.sum(loss) / jnp.maximum(jnp.sum(labels), 1)


@functools.partial(jax.jit, static_argnums=(2, 3))
def objective(scores: jax.Array, labels: jax.Array, name: str, config: Any) -> jax.Array:
  """The objective of a stateful method, exact on the whole set, float[seeds]."""
  kl = {"temperature": config.temperature}
  cvar = {"max_fpr": config.max_fpr}
  two_way = {**kl, "positive_temperature": config.temperature}

  def one(s: jax.Array, y: jax.Array) -> jax.Array:
    s = jax.nn.sigmoid(s)
    return {
      "SOAP": lambda: over_positives(losses.average_precision_loss(s, y), y),
      "SOPAs": lambda: over_positives(losses.partial_auc_kl_loss(s, y, **kl), y),
      "SOPA": lambda: over_positives(losses.partial_auc_cvar_loss(s, y, **cvar), y),
      "SOTAs": lambda: losses.two_way_partial_auc_kl_loss(s, y, **two_way),
      "STACO": lambda: losses.two_way_partial_auc_cvar_loss(s, y, **cvar, min_tpr=config.min_tpr),
    }[name]()

  return jax.vmap(one)(scores, labels)
