"""Naive Bayes beside logistic regression: how many examples each needs before it is at its best."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.stats import norm

from experiments import _figures, datasets
from experiments._claims import Claim, Side
from experiments._protocol import Paper, Progress, Row, Settings, Size, new_figure
from jaxopt_robust import calibration

PAPER = Paper(
  title="Revisiting discriminative vs. generative classifiers: theory and implications",
  authors="Zheng, Wu, Bao, Cao, Li and Zhu",
  year=2023,
  claim="Naive Bayes needs O(log n) examples of n features to come near its own limit, logistic "
  "regression O(n): with few labels the one is better, with many the other.",
  section="Simulations and features of pre-trained networks",
  url="https://arxiv.org/abs/2302.02334",
)
BAYES, SMOOTH, LOGISTIC = "naive Bayes", "naive Bayes, smoothing .01", "logistic regression"
DIGITS = (BAYES, SMOOTH, LOGISTIC)
_BLOCK = 10  # classes of the images


@dataclasses.dataclass(frozen=True)
class Config(Settings):
  """Settings. A seed draws the samples, their order and the split of the images.

  Attributes:
    features: numbers n of features of the simulated Gaussians.
    classes: of the simulated Gaussians.
    largest: most training examples, as a multiple of n; the grid of sizes grows by a factor of 1.25
      from 2 examples a class.
    test: simulated test examples.
    slack: excess of the test error over the Bayes error at which a size counts as enough.
    data: images of the second part.
    sizes: how many of their training images are used; those that are left are test images.
    test_images: how many test images.
  """

  features: tuple[int, ...] = (50, 100, 200, 400)
  classes: int = 2
  largest: float = 4.0
  test: int = 4000
  slack: float = 0.01
  data: str = "digits"
  sizes: tuple[int, ...] = (20, 30, 50, 100, 200, 1297)
  test_images: int = 500
  seeds: int = 16


OURS = (
  "Pixels instead of features of pre-trained networks; balanced draws of the simulated classes."
)
SIZES = {
  "toy": Size(
    Config(seeds=2, features=(8, 16), largest=8.0, test=200, sizes=(20, 50), test_images=100),
    OURS + " Few features and examples.",
  ),
  "desk": Size(Config(), OURS),
  "large": Size(
    Config(
      features=(100, 200, 400, 1000), test=10000, data="fashion_mnist",
      sizes=(20, 50, 100, 200, 500, 1000, 2000, 5000, 10000), test_images=10000,
    ),
    OURS,
  ),
}  # fmt: skip


def class_means(classes: int) -> jax.Array:
  """Every coordinate of the means: -1, then 1, 2, 4, ..."""
  return jnp.concatenate([-jnp.ones(1), 2.0 ** jnp.arange(classes - 1)])


def draw(key: jax.Array, num: int, features: int, classes: int) -> tuple[jax.Array, jax.Array]:
  """Gaussians whose first half of coordinates has variance n, the rest 1. Every run of ``classes``
  examples holds each class once."""
  key_order, key_noise = jax.random.split(key)
  rows = jnp.tile(jnp.arange(classes), (-(-num // classes), 1))
  labels = jax.random.permutation(key_order, rows, axis=1, independent=True).reshape(-1)[:num]
  spread = jnp.where(jnp.arange(features) < features // 2, features**0.5, 1.0)
  noise = spread[None] * jax.random.normal(key_noise, (num, features))
  return class_means(classes)[labels][:, None] + noise, labels


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


def _fits(x: jax.Array, labels: jax.Array, where: jax.Array, classes: int) -> dict[str, Any]:
  """The heads of the examples in use."""
  init = calibration.naive_bayes_init(num_classes=classes, num_features=x.shape[1])
  stats = calibration.naive_bayes_update(init, x, labels, where=where)
  # Errors of a few in a thousand do not ask for more digits than that.
  logistic, info = calibration.logistic_head(
    x, labels, num_classes=classes, where=where, tol=1e-4, max_steps=1000
  )
  heads = {
    BAYES: calibration.naive_bayes_head(stats),
    SMOOTH: calibration.naive_bayes_head(stats, var_smoothing=0.01),
    LOGISTIC: logistic,
  }
  return {"heads": heads, "status": info.status}


def _error(head: Any, x: jax.Array, labels: jax.Array) -> jax.Array:
  return jnp.mean(jnp.argmax(calibration.linear_head_logits(head, x), axis=1) != labels)


def simulate(
  key: jax.Array, sizes: jax.Array, *, features: int, classes: int, num: int, test: int
) -> dict[str, jax.Array]:
  """Test errors of both heads, a number a size."""
  key_train, key_test = jax.random.split(key)
  x, labels = draw(key_train, num, features, classes)
  x_test, y_test = draw(key_test, test, features, classes)

  def one(size: jax.Array) -> dict[str, jax.Array]:
    fits = _fits(x, labels, jnp.arange(num) < size, classes)
    found = {name: _error(fits["heads"][name], x_test, y_test) for name in (BAYES, LOGISTIC)}
    return found | {"status": fits["status"]}

  return jax.lax.map(one, sizes)


def on_images(
  x: jax.Array, labels: jax.Array, x_test: jax.Array, y_test: jax.Array, sizes: jax.Array
) -> dict[str, jax.Array]:
  """Test errors of the heads on pixels scaled to [0, 1] by the examples in use, a number a size."""

  def one(size: jax.Array) -> dict[str, jax.Array]:
    where = jnp.arange(x.shape[0]) < size
    low = jnp.min(jnp.where(where[:, None], x, jnp.inf), axis=0)
    high = jnp.max(jnp.where(where[:, None], x, -jnp.inf), axis=0)
    width = jnp.where(high > low, high - low, 1)
    scale = lambda v: (v - low[None]) / width[None]
    fits = _fits(scale(x), labels, where, _BLOCK)
    found = {name: _error(head, scale(x_test), y_test) for name, head in fits["heads"].items()}
    return found | {"status": fits["status"]}

  return jax.lax.map(one, sizes)


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


def run(config: Config, progress: Progress) -> dict[str, Any]:
  """Errors by size: simulated Gaussians of several dimensions, then images."""
  call, numbers = progress.clock.call, config.seed_numbers()
  keys = jax.vmap(jax.random.key)(jnp.asarray(numbers))
  curves: dict[str, Any] = {}
  enough: dict[str, dict] = {BAYES: {}, LOGISTIC: {}}
  for n in config.features:
    sizes = sizes_of(n, config.classes, config.largest)
    one = functools.partial(
      simulate, features=n, classes=config.classes, num=int(sizes[-1]), test=config.test
    )
    found = call(jax.jit(jax.vmap(one, in_axes=(0, None))), keys, sizes, name=f"n = {n}")
    found = jax.tree.map(np.asarray, found)
    curves[str(n)] = found | {"sizes": sizes}
    for name, values in enough.items():
      values[str(n)] = first_enough(found[name], sizes, bayes_error(n) + config.slack)
  table = datasets.load(config.data)
  x, y = np.asarray(table["x"], np.float32), np.int32(table["y"])
  x = x.reshape(len(x), -1)
  parts = []
  for seed in numbers:
    order = np.random.default_rng(seed).permutation(len(x))
    test, train = order[: config.test_images], order[config.test_images :][: max(config.sizes)]
    parts.append((x[train], y[train], x[test], y[test]))
  stacked = [np.stack(part) for part in zip(*parts, strict=True)]
  program = jax.jit(jax.vmap(on_images, in_axes=(0, 0, 0, 0, None)))
  images = call(program, *stacked, np.int32(config.sizes), name=config.data)
  return {
    "simulated": curves,
    "enough": enough,
    "slope": {name: slopes(values) for name, values in enough.items()},
    "images": jax.tree.map(np.asarray, images),
  }


def claims(metrics: dict[str, Any], config: Config) -> list[Claim]:
  """O(log n) against O(n), and two regimes on images."""
  slope, enough, images = metrics["slope"], metrics["enough"], metrics["images"]
  side = lambda name: Side(name, slope[name])
  what = "slope of log size by log n"
  low, high = str(config.features[0]), str(config.features[-1])
  growth = {
    name: np.asarray(values[high], float) / np.asarray(values[low], float)
    for name, values in enough.items()
  }
  text = "The number of examples that {} needs grows"
  made = [
    Claim("slower", f"{text.format(BAYES)} more slowly with n than that of {LOGISTIC}.", "paper",
          what, side(BAYES), side(LOGISTIC), better="lower"),
    Claim("linear_above", f"{text.format(LOGISTIC)} with a power of n of at least .7.", "paper",
          what, side(LOGISTIC), Side("a slope of .7", 0.7)),
    Claim("linear_below", f"{text.format(LOGISTIC)} with a power of n of at most 1.2.", "paper",
          what, side(LOGISTIC), Side("a slope of 1.2", 1.2), better="lower"),
    Claim("logarithmic", f"{text.format(BAYES)} at most twofold from {low} to {high} features.",
          "paper", f"size at n = {high} over that at {low}", Side(BAYES, growth[BAYES]),
          Side("twice", 2.0), better="lower", scale="ratio"),
  ]  # fmt: skip
  error = lambda name, i: Side(name, np.asarray(images[name])[:, i])
  for i, size in enumerate(config.sizes):
    where = f"test error, {config.data}, {size} examples"
    if size <= 50:
      made.append(
        Claim(f"few_{size}", f"With {size} examples {SMOOTH} errs less than {LOGISTIC}.", "paper",
              where, error(SMOOTH, i), error(LOGISTIC, i), better="lower")
      )  # fmt: skip
  last = len(config.sizes) - 1
  for key, name in (("many", BAYES), ("many_smooth", SMOOTH)):
    made.append(
      Claim(key, f"With {config.sizes[-1]} examples {LOGISTIC} errs less than {name}.", "paper",
            f"test error, {config.data}, {config.sizes[-1]} examples", error(LOGISTIC, last),
            error(name, last), better="lower")
    )  # fmt: skip
  if 100 in config.sizes:
    at = config.sizes.index(100)
    rest = lambda name: Side(name, error(name, at).values - error(name, last).values)
    made.append(
      Claim("limit", f"With 100 examples {BAYES} is nearer to its error with all of them than "
            f"{LOGISTIC} to its own.", "paper", f"test error with 100 less that with all, "
            f"{config.data}", rest(BAYES), rest(LOGISTIC), better="lower")
    )  # fmt: skip
  return made


def table(metrics: dict[str, Any], config: Config) -> list[Row]:
  """Sizes that are enough, and errors on images."""
  rows = []
  for n in config.features:
    ours, base = (Side(name, metrics["enough"][name][str(n)]) for name in (BAYES, LOGISTIC))
    rows.append(Row(f"examples for an excess error below {config.slack:g}, n = {n}", ours, base,
                    "lower"))  # fmt: skip
  for i, size in enumerate(config.sizes):
    for name in (BAYES, SMOOTH):
      ours, base = (Side(v, np.asarray(metrics["images"][v])[:, i]) for v in (name, LOGISTIC))
      rows.append(Row(f"test error, {config.data}, {size} examples", ours, base, "lower"))
  return rows


def figure(record: dict[str, Any]) -> Any:
  """Sizes that are enough over n, errors by size of one n, and errors on images."""
  metrics, settings = record["metrics"], record["settings"]
  fig, axes = new_figure(1, 3, width=4.8, height=3.8)
  features = settings["features"]
  enough = {
    name: np.stack([np.asarray(values[str(n)], float) for n in features], axis=1)
    for name, values in metrics["enough"].items()
  }
  _figures.curves(axes[0], enough, features, xlabel="features n", ylabel="examples that are enough")
  middle = str(features[-1])
  cell = metrics["simulated"][middle]
  found = {name: cell[name] for name in (BAYES, LOGISTIC)}
  _figures.curves(axes[1], found, cell["sizes"], xlabel="examples", ylabel="test error")
  axes[1].set_title(f"Gaussians, n = {middle}")
  images = {name: metrics["images"][name] for name in DIGITS}
  _figures.curves(axes[2], images, settings["sizes"], xlabel="examples", ylabel="test error")
  axes[2].set_title(settings["data"])
  for axis in axes:
    axis.set_xscale("log")
  axes[0].set_yscale("log")
  axes[2].set_yscale("log")
  return fig
