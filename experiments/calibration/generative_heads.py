"""Naive Bayes beside logistic regression: how many examples each needs before it is at its best."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import _figures, datasets
from experiments._claims import Claim, Side
from experiments._protocol import Paper, Progress, Row, Settings, Size, new_figure
from experiments.calibration._gaussians import bayes_error, draw, first_enough, sizes_of, slopes
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
BAYES, SMOOTH = "naive Bayes", "naive Bayes, smoothing tuned"
LOGISTIC, TUNED = "logistic regression", "logistic regression, C tuned"
DIGITS = (BAYES, SMOOTH, LOGISTIC, TUNED)
_CLASSES = 10  # of the images


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
    smoothing: share of the largest variance that is added to all, of 1e-9, .003, .01, ..., 3 the
      best by mean error over the sizes on 300 held-out images of development seeds 0 to 19.
    tuned: C of logistic regression, of .01, .03, ..., 3000 the best there; else 1 as in the paper.
  """

  features: tuple[int, ...] = (50, 100, 200, 400)
  classes: int = 2
  largest: float = 4.0
  test: int = 4000
  slack: float = 0.01
  data: str = "digits"
  sizes: tuple[int, ...] = (20, 30, 50, 100, 200, 1297)
  test_images: int = 500
  smoothing: float = 0.3
  tuned: float = 300.0
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


def _heads(
  x: jax.Array, labels: jax.Array, where: jax.Array, classes: int, smoothing: float, c: Any
) -> tuple[dict[str, Any], jax.Array]:
  """Naive Bayes of the examples in use, as it is and smoothed, and logistic regression for every
  C, with its status."""
  init = calibration.naive_bayes_init(num_classes=classes, num_features=x.shape[1])
  stats = calibration.naive_bayes_update(init, x, labels, where=where)
  # Errors of a few in a thousand do not ask for more digits than 1e-4.
  solve = lambda c: calibration.logistic_head(
    x, labels, num_classes=classes, inverse_strength=c, where=where, tol=1e-4, max_steps=1000
  )
  logistic, info = jax.lax.map(solve, c)
  return {
    BAYES: calibration.naive_bayes_head(stats),
    SMOOTH: calibration.naive_bayes_head(stats, var_smoothing=smoothing),
    LOGISTIC: jax.tree.map(lambda leaf: leaf[0], logistic),
    TUNED: jax.tree.map(lambda leaf: leaf[-1], logistic),
  }, jnp.max(info.status)


def _error(head: Any, x: jax.Array, labels: jax.Array) -> jax.Array:
  return jnp.mean(jnp.argmax(calibration.linear_head_logits(head, x), axis=1) != labels)


def simulate(
  key: jax.Array, features: jax.Array, sizes: jax.Array, *, width: int, classes: int, num: int,
  test: int,
) -> dict[str, jax.Array]:  # fmt: skip
  """Test errors of both heads, a number a size."""
  key_train, key_test = jax.random.split(key)
  x, labels = draw(key_train, num, width, classes, features)
  x_test, y_test = draw(key_test, test, width, classes, features)

  def one(size: jax.Array) -> dict[str, jax.Array]:
    where = jnp.arange(num) < size
    heads, status = _heads(x, labels, where, classes, 0.0, jnp.ones(1))
    found = {name: _error(heads[name], x_test, y_test) for name in (BAYES, LOGISTIC)}
    return found | {"status": status}

  return jax.lax.map(one, sizes)


def on_images(
  x: jax.Array, labels: jax.Array, x_test: jax.Array, y_test: jax.Array, sizes: jax.Array, *,
  smoothing: float, tuned: float,
) -> dict[str, jax.Array]:  # fmt: skip
  """Test errors of the heads on pixels scaled to [0, 1] by the examples in use, a number a size."""

  def one(size: jax.Array) -> dict[str, jax.Array]:
    where = jnp.arange(x.shape[0]) < size
    low = jnp.min(jnp.where(where[:, None], x, jnp.inf), axis=0)
    high = jnp.max(jnp.where(where[:, None], x, -jnp.inf), axis=0)
    width = jnp.where(high > low, high - low, 1)
    scale = lambda v: (v - low[None]) / width[None]
    c = jnp.array([1.0, tuned])
    heads, status = _heads(scale(x), labels, where, _CLASSES, smoothing, c)
    found = {name: _error(head, scale(x_test), y_test) for name, head in heads.items()}
    return found | {"status": status}

  return jax.lax.map(one, sizes)


def run(config: Config, progress: Progress) -> dict[str, Any]:
  """Errors by size: simulated Gaussians of several dimensions, then images."""
  call, numbers = progress.clock.call, config.seed_numbers()
  keys = jax.vmap(jax.random.key)(jnp.asarray(numbers))
  curves: dict[str, Any] = {}
  enough: dict[str, dict] = {BAYES: {}, LOGISTIC: {}}
  grids = {n: sizes_of(n, config.classes, config.largest) for n in config.features}
  widest = max(config.features)
  one = functools.partial(
    simulate, width=widest, classes=config.classes, num=int(grids[widest][-1]), test=config.test
  )
  program = jax.jit(jax.vmap(one, in_axes=(0, None, None)))  # one for all n
  for n, sizes in grids.items():
    padded = np.pad(sizes, (0, len(grids[widest]) - len(sizes)), constant_values=sizes[0])
    found = call(program, keys, np.int32(n), padded, name="Gaussians")
    found = {name: np.asarray(values)[:, : len(sizes)] for name, values in found.items()}
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
  pixels = functools.partial(on_images, smoothing=config.smoothing, tuned=config.tuned)
  on_pixels = jax.jit(jax.vmap(pixels, in_axes=(0, 0, 0, 0, None)))
  images = call(on_pixels, *stacked, np.int32(config.sizes), name=config.data)
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
    for key, name in (("few", LOGISTIC), ("few_tuned", TUNED)) if size <= 50 else ():
      made.append(
        Claim(f"{key}_{size}", f"With {size} examples {SMOOTH}, errs less than {name}.", "paper",
              where, error(SMOOTH, i), error(name, i), better="lower")
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
    for pair in ((BAYES, LOGISTIC), (SMOOTH, TUNED)):
      ours, base = (Side(v, np.asarray(metrics["images"][v])[:, i]) for v in pair)
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
  axes[0].set_xticks(features, [str(n) for n in features])
  axes[0].minorticks_off()
  axes[0].set_yscale("log")
  axes[2].set_yscale("log")
  return fig
