"""Long-tailed digits with augmented views, two small networks, and a linear probe."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import datasets
from experiments._training import batches
from jaxopt_robust import losses, prox, solvers

NUM_CLASSES = 10


class Data(NamedTuple):
  """One split, its shifted copies, initial weights and minibatches; class 0 is the most frequent.

  ``x`` and ``y`` have the keys train, val and test.
  """

  params: Any
  shifted: jax.Array
  x: dict[str, jax.Array]
  y: dict[str, jax.Array]
  rows: jax.Array
  key: jax.Array


def class_sizes(config: Any) -> np.ndarray:
  """Training examples of each class, falling geometrically."""
  steps = np.arange(NUM_CLASSES) / (NUM_CLASSES - 1)
  return (config.largest * config.ratio**steps + 1e-9).astype(int)


def load_split(seed: int, config: Any) -> Data:
  """A long-tailed training set, balanced validation and test sets; the seed says what is rare."""
  table = datasets.load(config.data)
  x, y = np.asarray(table["x"], np.float32), np.asarray(table["y"])
  x, rng = x / x.max(), np.random.default_rng(seed)
  ends = np.cumsum([config.largest, config.val, config.test])
  parts: dict[str, list[np.ndarray]] = {"train": [], "val": [], "test": []}
  for k, size in enumerate(class_sizes(config)):
    found = rng.permutation(np.flatnonzero(y == (k + seed) % NUM_CLASSES))
    cut = (found[:size], found[ends[0] : ends[1]], found[ends[1] : ends[2]])
    for rows, own in zip(parts.values(), cut, strict=True):
      rows.append(own)
  labels = {n: np.repeat(np.arange(NUM_CLASSES), [len(r) for r in v]) for n, v in parts.items()}
  arrays = {name: x[np.concatenate(rows)] for name, rows in parts.items()}
  side = int(np.sqrt(x.shape[1]))
  images = np.pad(arrays["train"].reshape(-1, side, side), ((0, 0), (1, 1), (1, 1)))
  places = [(i, j) for i in range(3) for j in range(3)]
  shifted = [images[:, i : i + side, j : j + side].reshape(len(images), -1) for i, j in places]
  key, init_key = jax.random.split(jax.random.key(seed))
  models, widths = make_models(config), (x.shape[1], config.encoder[-1])
  params = tuple(
    model.init(jax.random.fold_in(init_key, i), np.zeros((1, width), np.float32))
    for i, (model, width) in enumerate(zip(models, widths, strict=True))
  )
  return Data(
    params,
    jnp.asarray(np.stack(shifted)),
    jax.tree.map(jnp.asarray, arrays),
    {name: jnp.asarray(v, jnp.int32) for name, v in labels.items()},
    jnp.asarray(batches(len(images), config.batch, config.epochs, seed)),
    key,
  )


def make_models(config: Any) -> tuple[Any, Any]:
  """The encoder, whose features are probed, and the projector, thrown away after training."""
  from jaxopt_robust import nets

  return nets.MLP(config.encoder), nets.MLP(config.projector)


def view(key: jax.Array, data: Data, rows: jax.Array) -> jax.Array:
  """An augmented copy: shifted by up to a pixel, another contrast, noise, a tenth of it dropped."""
  shift, gain, noise, keep = jax.random.split(key, 4)
  x = data.shifted[jax.random.randint(shift, rows.shape, 0, len(data.shifted)), rows]
  x = x * (1 + 0.3 * jax.random.normal(gain, (len(rows), 1)))
  x = x + 0.15 * jax.random.normal(noise, x.shape)
  return jnp.where(jax.random.bernoulli(keep, 0.9, x.shape), x, 0)


def probe(
  features: dict[str, jax.Array], labels: jax.Array, num_steps: int
) -> dict[str, jax.Array]:
  """Classes predicted by logistic regression with balanced classes and a unit ridge penalty."""
  mean, scale = jnp.mean(features["train"], axis=0), jnp.std(features["train"], axis=0) + 1e-6
  extend = lambda v: jnp.concatenate([(v - mean[None]) / scale[None], jnp.ones((len(v), 1))], 1)
  x = extend(features["train"])
  count = jnp.sum(jax.nn.one_hot(labels, NUM_CLASSES), axis=0)
  weight = len(x) / (NUM_CLASSES * count[labels])

  def objective(coefficients: jax.Array) -> jax.Array:
    values = losses.cross_entropy_loss(x @ coefficients, labels)
    return (weight @ values + 0.5 * jnp.sum(coefficients[:-1] ** 2)) / len(x)

  # The Hessian of the cross entropy in the scores is at most 1/2.
  curvature = jnp.linalg.norm((x.T * weight[None]) @ x, ord="fro") / len(x)
  solver = solvers.fista(objective, prox.prox_none, stepsize=1 / (0.5 * curvature + 1 / len(x)))
  start = jnp.zeros((x.shape[1], NUM_CLASSES))
  coefficients, _ = solvers.run_steps(solver, start, None, num_steps=num_steps)
  return {n: jnp.argmax(extend(features[n]) @ coefficients, axis=1) for n in ("val", "test")}
