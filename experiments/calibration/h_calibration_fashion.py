"""Recalibration by the h-loss beside eight other maps: a convolutional network on clothes."""

import dataclasses
from functools import partial
from typing import Any

from experiments import _figures
from experiments._claims import Claim, Side
from experiments._protocol import Progress, Row, Settings, Size, new_figure
from experiments.calibration import _recalibration as parts
from experiments.calibration import h_calibration
from experiments.calibration._recalibration import (
  BASELINES,
  HISTOGRAM,
  ISOTONIC,
  MIXTURE,
  MIXTURE_H,
  PWL,
  PWL_H,
  RAW,
  TS,
)

PAPER = h_calibration.PAPER
ERRORS = {"ece": "ECE", "class-wise ece": "class-wise ECE"}


@dataclasses.dataclass(frozen=True)
class Config(Settings):
  """Settings. A seed draws training and calibration images, initial weights and batches.

  Chosen by the class-wise ECE of other training images on development seeds, 0 to 3 for the
  baselines and 0 and 1 for the h-loss, 4 to 6 values each: segments (the fewest within .0001 of the
  best; 80 gain no more), members by likelihood, rates, and the strength. The number of bins by the
  Brier score. The rest is that of the digits.

  Attributes:
    data: ``"fashion_mnist"``, or ``"digits"``, which need no download.
    train: training images of the network.
    calibration: other images of the training set, for the maps.
    test: test images.
    epochs: of the network, in batches of 64: until it is too sure.
    steps: updates by the h-loss.
    segments: of the piecewise linear map by likelihood and by the h-loss.
    members: of the mixture of temperatures by likelihood and by the h-loss.
    rates: learning rates of the h-loss: piecewise linear map, mixture.
    selector: error that chooses the iterate of the h-loss: class-wise (ECE), debiased (ECE),
      likelihood or loss.
    bins: of histogram binning.
    matrix_strength: of the penalties of matrix scaling.
    baselines: maps that are not fitted by the h-loss; temperature is one of them.
  """

  seeds: int = 8
  data: str = "fashion_mnist"
  train: int = 10_000
  calibration: int = 5000
  test: int = 10_000
  epochs: int = 15
  steps: int = 200
  segments: tuple[int, ...] = (40, 40)
  members: tuple[int, ...] = (16, 8)
  rates: tuple[float, ...] = (0.01, 0.1)
  selector: str = "loss"
  bins: int = 15
  matrix_strength: float = 0.1
  baselines: tuple[str, ...] = BASELINES


OURS = "Fashion-MNIST and a small convolutional network instead of CIFAR, SVHN and ImageNet."
SIZES = {
  "toy": Size(
    Config(
      seeds=2, data="digits", train=300, calibration=100, test=100, epochs=1, steps=2,
      segments=(2, 2), baselines=(TS, ISOTONIC),
    ),
    "Digits of 8 x 8 pixels, two updates.",
  ),
  "desk": Size(Config(), OURS),
  "large": Size(Config(seeds=20, train=50_000, epochs=30, steps=2000), OURS),
}  # fmt: skip


def run(config: Config, progress: Progress) -> dict[str, Any]:
  """Every method on the logits of a network of each seed."""
  make = partial(
    parts.of_network, data=config.data, train=config.train, epochs=config.epochs,
    most=(config.calibration, config.test), network="cnn",
  )  # fmt: skip
  methods = h_calibration.methods_of(config)
  return parts.compare(config, {config.data: make}, methods, progress)[config.data]


def claims(metrics: dict[str, Any], config: Config) -> list[Claim]:
  """Lower errors than those of every other map, for the predicted class and for all classes."""

  def sides(ours: str, base: str, what: str) -> tuple[Side, Side]:
    return Side(ours, metrics[ours][what]), Side(base, metrics[base][what])

  made = []
  raw = Side(RAW, metrics[RAW]["ece"])
  text = "The network is too sure of itself: its error is above .03."
  made.append(Claim("too_sure", text, "expected", "ECE", raw, Side(".03", [0.03] * config.seeds)))
  for what, name in ERRORS.items():
    for base in (RAW, *config.baselines):
      text = f"The h-loss leaves a lower {name} than: {base}."
      key = f"{what.replace('class-wise ', 'classes_')}_{base}".replace(" ", "_")
      made.append(
        Claim(key, text, "paper", name, *sides(PWL_H, base, what), better="lower",
              comparisons=1 + len(config.baselines))
      )  # fmt: skip
    if MIXTURE in config.baselines:
      text = f"The mixture of temperatures has a lower {name} by the h-loss than by likelihood."
      key = f"mixture_{what.split()[0].replace('-', '_')}"
      made.append(
        Claim(key, text, "paper", name, *sides(MIXTURE_H, MIXTURE, what), better="lower")
      )  # fmt: skip
  text = "No answer changes."
  made.append(
    Claim("ranks", text, "control", "accuracy", *sides(PWL_H, RAW, "accuracy"), margin=1e-3)
  )  # fmt: skip
  return made


def table(metrics: dict[str, Any], config: Config) -> list[Row]:
  """Errors of every method beside temperature scaling, accuracies beside the network's own."""
  rows = []
  for what in (*ERRORS, "brier", "accuracy"):
    to, better = (RAW, "higher") if what == "accuracy" else (TS, "lower")
    for method, found in metrics.items():
      base = None if method == to else Side(to, metrics[to][what])
      ours = Side(method, found[what])
      rows.append(Row(f"{ERRORS.get(what, what)}, {config.data}", ours, base, better=better))
  return rows


def figure(record: dict[str, Any]) -> Any:
  """Reliability before and after, and errors of all methods."""
  metrics = record["metrics"]
  fig, axes = new_figure(1, 3, width=4.5, height=4.2)
  _figures.reliability_of(axes[0], metrics, (RAW, TS, PWL, PWL_H), title="Before and after")
  for ax, (what, name) in zip(axes[1:], ERRORS.items(), strict=True):
    errors = {"": {m: found[what] for m, found in metrics.items() if m not in (RAW, HISTOGRAM)}}
    _figures.dots(ax, errors, ylabel=name, title="Errors (without raw and histogram)")
  return fig
