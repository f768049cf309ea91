"""All stochastic bilevel methods on cleaning a part of MNIST of wrong labels."""

import dataclasses
from typing import Any

import numpy as np

from experiments import datasets
from experiments._claims import Claim, Side
from experiments._protocol import Paper, Progress, Row, Settings, Size
from experiments.bilevel import _cleaning, data_cleaning
from experiments.bilevel._cleaning import LOSS, side

PAPER = Paper(
  title=data_cleaning.PAPER.title,
  authors=data_cleaning.PAPER.authors,
  year=data_cleaning.PAPER.year,
  claim="On MNIST too, moving the inner, the adjoint and the outer variable at once needs fewer "
  "oracle calls than the other stochastic bilevel methods.",
  section="Section 4, data hyper-cleaning on MNIST (figures only)",
  url=data_cleaning.PAPER.url,
)
SETS, TOY = (
  (2500, 1000),
  (100, 50),
)  # training and validation, of 5000 rows; the others are the test


@dataclasses.dataclass(frozen=True)
class Config(Settings):
  """Settings. A seed draws the split, the wrong labels, and the batches.

  Attributes:
    wrong: probability that a label of the training set is drawn anew, from all classes.
    batch: rows of a batch of each set.
    calls: oracle calls of a method: a gradient or a product with one batch is one.
    inner_steps: of the methods that have an inner loop.
    terms: of Neumann series.
    period: steps between fresh starts of recursive gradients.
    radius: of the ball that holds FdeHBO's adjoint.
    inner_rate: step size of the inner and the adjoint variable.
    outer_rates: step sizes of the outer variable, chosen by the validation loss at the end.
    records: points of the curves.
    mnist: whether the data are MNIST; the toy has digits, which need no download.
  """

  wrong: float = 0.5
  batch: int = 50
  calls: int = 3000
  inner_steps: int = 10
  terms: int = 10
  period: int = 25
  radius: float = 10.0
  inner_rate: float = 0.3
  outer_rates: tuple[float, ...] = (100.0, 300.0, 1000.0, 3000.0, 10_000.0)
  records: int = 5
  mnist: bool = True


SIZES = {
  "toy": Size(
    Config(seeds=2, calls=100, outer_rates=(10.0, 100.0, 1000.0), records=1, inner_steps=2, terms=2,
           period=2, mnist=False),
    "100 digits of 8 x 8 pixels and a few steps.",
  ),
  "desk": Size(Config(), "5000 images of MNIST, averaged to 14 x 14 pixels, instead of 60,000."),
  "large": Size(Config(calls=100_000), "5000 images of MNIST, 14 x 14 pixels, instead of 60,000."),
}  # fmt: skip


def load(config: Config) -> tuple[np.ndarray, np.ndarray]:
  """Rows in [0, 1] and labels."""
  if not config.mnist:
    digits = datasets.load("digits")
    return digits["x"][:300] / 16, digits["y"][:300]
  images = datasets.load("mnist5k")
  x = np.reshape(images["x"], (-1, 14, 2, 14, 2)).mean((2, 4)).reshape(-1, 196)
  return x / x.max(), images["y"]


def run(config: Config, progress: Progress) -> dict[str, Any]:
  """Every method at every outer rate, the best of each by its validation loss."""
  x, y = load(config)
  sizes = SETS if config.mnist else TOY
  sets = [_cleaning.make_data(x, y, sizes, config.wrong, s) for s in config.seed_numbers()]
  tried = _cleaning.methods(config, sizes, period=config.period, radius=config.radius)
  if not config.mnist:
    tried = {name: tried[name] for name in ("SOBA", "SRBA")}
  return _cleaning.compare(sets, config, sizes, tried, progress)


OTHERS = ("AmIGO", "stocBiO", "TTSA", "SUSTAIN", "MRBO", "FSLA")  # the others came later


def claims(metrics: dict, config: Config) -> list[Claim]:
  """Cleaning helps; SOBA needs fewer calls than methods without a memory of the batches."""
  found = [
    Claim(
      "cleaning", "Weights learned by SOBA are better than none.", "paper",
      "test accuracy, MNIST", side(metrics, "SOBA", "accuracy"),
      side(metrics, "all labels", "accuracy"),
    ),
    Claim(
      "weights_tell", "The weights learned by SOBA tell right labels from wrong ones.", "paper",
      "area under the ROC curve, right against wrong labels", side(metrics, "SOBA", "auc"),
      Side("0.95", 0.95),
    ),
  ]  # fmt: skip
  if "SABA" in metrics["loss"]:
    found.append(
      Claim(
        "memory", "With the same oracle calls SABA reaches a lower validation loss than SOBA.",
        "paper", LOSS, side(metrics, "SABA", "loss"), side(metrics, "SOBA", "loss"),
        better="lower", scale="ratio",
      )
    )  # fmt: skip
  return found + [
    Claim(
      f"soba_{name.lower()}",
      f"With the same oracle calls SOBA reaches a lower validation loss than {name}.", "paper",
      LOSS, side(metrics, "SOBA", "loss"), side(metrics, name, "loss"), better="lower",
      scale="ratio", comparisons=len(OTHERS),
    )
    for name in OTHERS
    if name in metrics["loss"]
  ]  # fmt: skip


def table(metrics: dict, config: Config) -> list[Row]:
  """Accuracies, losses and how well weights tell wrong labels."""
  del config
  return _cleaning.table(metrics)


figure = _cleaning.figure
