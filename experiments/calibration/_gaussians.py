"""Gaussian classes of growing dimension, and how many examples are enough."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.stats import norm


def class_means(classes: int) -> jax.Array:
  """Every coordinate of the means: -1, then 1, 2, 4, ..."""
  return jnp.concatenate([-jnp.ones(1), 2.0 ** jnp.arange(classes - 1)])


def draw(
  key: jax.Array, num: int, width: int, classes: int, features: jax.Array | int
) -> tuple[jax.Array, jax.Array]:
  """Gaussians whose first half of coordinates has variance n, the rest 1, with zeros up to a width.
  Every run of ``classes`` examples holds each class once."""
  key_order, key_noise = jax.random.split(key)
  rows = jnp.tile(jnp.arange(classes), (-(-num // classes), 1))
  labels = jax.random.permutation(key_order, rows, axis=1, independent=True).reshape(-1)[:num]
  place, features = jnp.arange(width), jnp.asarray(features)
  spread = jnp.where(place < features // 2, jnp.sqrt(features.astype(float)), 1.0)
  x = class_means(classes)[labels][:, None] + spread[None] * jax.random.normal(
    key_noise, (num, width)
  )
  return jnp.where((place < features)[None], x, 0), labels


def bayes_error(features: int) -> float:
  """Of the two classes -1 and 1, whose distance in units of the spread is 2 sqrt(1/2 + n/2)."""
  big = features // 2
  return float(norm.cdf(-((big / features + features - big) ** 0.5)))


def sizes_of(features: int, classes: int, largest: float) -> np.ndarray:
  """The grid of sizes, whole runs of the classes."""
  first, last = 2 * classes, largest * features
  steps = int(np.log(last / first) / np.log(1.25)) + 1
  grid = classes * np.round(first * 1.25 ** np.arange(steps) / classes)
  return np.unique(np.minimum(grid, last)).astype(np.int32)


def first_enough(errors: np.ndarray, sizes: np.ndarray, target: float) -> np.ndarray:
  """The first size whose error is below the target, a number a seed; NaN where there is none."""
  good = np.asarray(errors) < target
  first = np.asarray(sizes, float)[np.argmax(good, axis=1)]
  return np.where(good.any(axis=1), first, np.nan)


def slopes(enough: dict[str, np.ndarray]) -> np.ndarray:
  """Least-squares slope of log size by log n, a number a seed."""
  x = np.log([float(n) for n in enough])
  y = np.log(np.stack(list(enough.values()), axis=1))
  return (y - y.mean(axis=1, keepdims=True)) @ (x - x.mean()) / np.sum((x - x.mean()) ** 2)
