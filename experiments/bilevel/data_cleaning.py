"""Weights of examples with wrong labels, learned by stochastic bilevel methods."""

import dataclasses
from typing import Any

from experiments import _amendments, datasets
from experiments._claims import Claim, Side
from experiments._protocol import Paper, Progress, Row, Settings, Size
from experiments.bilevel import _cleaning
from experiments.bilevel._cleaning import LOSS, side

PAPER = Paper(
  title="A framework for bilevel optimization that enables stochastic and global variance "
  "reduction algorithms",
  authors="Dagreou, Ablin, Vaiter and Moreau",
  year=2022,
  claim="Moving the inner, the adjoint and the outer variable at once needs fewer oracle calls "
  "than methods with inner loops, for weights that clean a training set of wrong labels; memory of "
  "the batches removes the noise.",
  section="Section 4, data hyper-cleaning (there on MNIST, figures only)",
  url="https://arxiv.org/abs/2201.13409",
)
AMENDED = _amendments.DATA_CLEANING
SETS = 800, 400  # training and validation, of 1797 digits; the others are the test
METHODS = ("SOBA", "SABA", "MA-SOBA", "AmIGO", "stocBiO", "F2SA", "BOME")


@dataclasses.dataclass(frozen=True)
class Config(Settings):
  """Settings. A seed draws the split, the wrong labels, and the batches.

  Attributes:
    wrong: probability that a label of the training set is drawn anew, from all classes.
    batch: rows of a batch of each set.
    calls: oracle calls of a method: a gradient or a product with one batch is one.
    inner_steps: of the methods that have an inner loop.
    terms: of Neumann series.
    inner_rate: step size of the inner and the adjoint variable.
    outer_rates: step sizes of the outer variable, chosen by the validation loss at the end.
    records: points of the curves.
    only: the methods; all when empty.
  """

  wrong: float = 0.5
  batch: int = 50
  calls: int = 16_000
  inner_steps: int = 10
  terms: int = 10
  inner_rate: float = 0.5
  outer_rates: tuple[float, ...] = (10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0, 10_000.0)
  records: int = 10
  only: tuple[str, ...] = ()


SIZES = {
  "toy": Size(
    Config(
      seeds=2, calls=320, outer_rates=(10.0, 100.0, 1000.0), records=2, inner_steps=2, terms=2,
      only=("SOBA",),
    ),
    "A few steps.",
  ),
  "desk": Size(Config(), "1797 digits of 8 x 8 pixels instead of 60,000 of 28 x 28."),
  "large": Size(Config(calls=200_000), "1797 digits of 8 x 8 pixels instead of 60,000 of 28 x 28."),
}  # fmt: skip


def methods_of(config: Config) -> tuple[str, ...]:
  return config.only or METHODS


def run(config: Config, progress: Progress) -> dict[str, Any]:
  """Every method at every outer rate, the best of each by its validation loss."""
  digits = datasets.load("digits")
  sets = [
    _cleaning.make_data(digits["x"] / 16, digits["y"], SETS, config.wrong, seed)
    for seed in config.seed_numbers()
  ]
  every = _cleaning.methods(config, SETS)
  tried = {name: every[name] for name in methods_of(config)}
  return _cleaning.compare(sets, config, SETS, tried, progress)


OTHERS = ("AmIGO", "stocBiO", "F2SA", "BOME")


def claims(metrics: dict, config: Config) -> list[Claim]:
  """Cleaning helps; one loop needs fewer calls than two; memory helps once more."""
  accuracy, auc = "test accuracy, digits", "area under the ROC curve, right against wrong labels"
  names = methods_of(config)
  found = [
    Claim(
      "cleaning", "Weights learned by SOBA are better than none.", "paper", accuracy,
      side(metrics, "SOBA", "accuracy"), side(metrics, "all labels", "accuracy"),
    ),
    Claim(
      "weights_tell", "The weights learned by SOBA tell right labels from wrong ones.", "paper",
      auc, side(metrics, "SOBA", "auc"), Side("0.95", 0.95),
    ),
  ]  # fmt: skip
  found += [
    Claim(
      "memory", "With the same oracle calls SABA reaches a lower validation loss than SOBA.",
      "paper", LOSS, side(metrics, name, "loss"), side(metrics, "SOBA", "loss"),
      better="lower", scale="ratio",
    )
    for name in ("SABA",)
    if name in names
  ]  # fmt: skip
  found += [
    Claim(
      f"soba_{name.lower()}",
      f"With the same oracle calls SOBA reaches a lower validation loss than {name}.", "paper",
      LOSS, side(metrics, "SOBA", "loss"), side(metrics, name, "loss"),
      better="lower", scale="ratio", comparisons=len(OTHERS),
    )
    for name in OTHERS
    if name in names
  ]  # fmt: skip
  return found


def table(metrics: dict, config: Config) -> list[Row]:
  """Accuracies, losses and how well weights tell wrong labels."""
  del config
  return _cleaning.table(metrics)


figure = _cleaning.figure
