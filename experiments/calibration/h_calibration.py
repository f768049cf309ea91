"""Recalibration by the h-loss beside eight other maps: known truth, digits, clothes."""

import dataclasses
from functools import partial
from typing import Any

import jax

from experiments import _figures
from experiments._claims import Claim, Side
from experiments._protocol import Paper, Progress, Row, Settings, Size, new_figure
from experiments.calibration import _recalibration as parts
from experiments.calibration._recalibration import (
  BASELINES,
  HISTOGRAM,
  ISOTONIC,
  MIXTURE,
  MIXTURE_H,
  PWL,
  PWL_H,
  RAW,
  TRUTH,
  TS,
)

PAPER = Paper(
  title="h-calibration: rethinking classifier recalibration with probabilistic error-bounded "
  "objective",
  authors="Huang, Cao, Xia, Chen, Wang and Zhang",
  year=2025,
  claim="A rank-preserving map fitted by the calibration error of all classes itself is better "
  "calibrated than maps fitted by likelihood and than histogram binning and isotonic regression.",
  section="Abstract; comparisons on CIFAR, SVHN and ImageNet",
  url="https://arxiv.org/abs/2506.17968",
)


@dataclasses.dataclass(frozen=True)
class Config(Settings):
  """Settings.

  Chosen by the class-wise ECE of fresh distorted logits on development seeds, 4 to 6 values each:
  segments, members, rates, the selector and the strength. The number of bins by the Brier score:
  one bin is calibrated and says nothing.

  Attributes:
    calibration: synthetic calibration examples, of 10 classes.
    test: synthetic test examples.
    data: networks whose logits are recalibrated.
    train: training images of each network.
    epochs: of their training, in batches of 64.
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
  calibration: int = 2000
  test: int = 20_000
  data: tuple[str, ...] = ("digits",)
  train: tuple[int, ...] = (300,)
  epochs: tuple[int, ...] = (100,)
  steps: int = 400
  segments: tuple[int, ...] = (40, 20)
  members: tuple[int, ...] = (16, 8)
  rates: tuple[float, ...] = (0.003, 0.01)
  selector: str = "loss"
  bins: int = 15
  matrix_strength: float = 0.001
  baselines: tuple[str, ...] = BASELINES


OURS = "Known probabilities and a small network on digits instead of CIFAR, SVHN and ImageNet."
SIZES = {
  "toy": Size(
    Config(seeds=2, calibration=100, test=100, epochs=(1,), steps=2, segments=(2, 2),
           baselines=(TS, ISOTONIC)),
    OURS + " Two updates.",
  ),
  "desk": Size(Config(), OURS),
  "large": Size(Config(seeds=20, steps=2000), OURS),
}  # fmt: skip


def methods_of(config: Config) -> tuple[str, ...]:
  """None, the baselines, and the maps fitted by the h-loss."""
  methods = (RAW, *config.baselines, PWL_H)
  return (*methods, MIXTURE_H) if MIXTURE in config.baselines else methods


def run(config: Config, progress: Progress) -> dict[str, Any]:
  """Every method on every source of logits and every seed."""
  sources = {
    kind: lambda seed, kind=kind: parts.synthetic(
      jax.random.key(seed), config.calibration, config.test, kind
    )
    for kind in ("distorted", "temperature")
  }
  for data, train, epochs in zip(config.data, config.train, config.epochs, strict=True):
    sources[data] = partial(
      parts.of_network, data=data, train=train, epochs=epochs,
      most=(config.calibration, config.test),
    )  # fmt: skip
  return parts.compare(config, sources, methods_of(config), progress)


def claims(metrics: dict[str, Any], config: Config) -> list[Claim]:
  """Lower errors than the other maps; nothing to gain where a temperature is the truth."""

  def side(source: str, method: str, what: str = "ece") -> Side:
    return Side(method, metrics[source][method][what])

  made = []
  for base in config.baselines:
    text = f"On distorted logits the h-loss leaves a lower error than: {base}."
    sides = side("distorted", PWL_H), side("distorted", base)
    key = f"distorted_{base.replace(' ', '_')}"
    made.append(Claim(key, text, "paper", "ECE, distorted", *sides, better="lower"))
  if MIXTURE in config.baselines:
    text = "So does the mixture of temperatures, against its own fit by likelihood."
    sides = side("distorted", MIXTURE_H), side("distorted", MIXTURE)
    made.append(Claim("mixture", text, "paper", "ECE, distorted", *sides, better="lower"))
  text = "A temperature leaves .02 more than the true probabilities have."
  sides = side("distorted", TS), side("distorted", TRUTH)
  made.append(Claim("temperature_short", text, "expected", "ECE, distorted", *sides, margin=0.02))
  text = "All classes together are within .002 of the error of the true probabilities."
  sides = (side("distorted", method, "class-wise ece") for method in (PWL_H, TRUTH))
  made.append(
    Claim("near_truth", text, "expected", "class-wise ECE, distorted", *sides, better="lower",
          margin=-0.002)
  )  # fmt: skip
  text = "No answer changes."
  sides = (side("distorted", method, "accuracy") for method in (PWL_H, RAW))
  made.append(Claim("ranks", text, "control", "accuracy, distorted", *sides, margin=1e-3))
  text = "Where a temperature is the truth, the h-loss and temperature scaling are as good."
  sides = (side("temperature", method) for method in (PWL_H, TS))
  made.append(Claim("no_gain", text, "control", "ECE, temperature", *sides, margin=0.004))
  text = "There the map that is found has the slope .4 of the truth, to .02."
  sides = side("temperature", PWL_H, "slope"), Side("truth", 0.4)
  made.append(Claim("slope", text, "control", "slope", *sides, margin=0.02))
  for data in config.data:
    for base in (RAW, TS):
      text = f"On {data}, all classes together, the h-loss leaves a lower error than: {base}."
      sides = (side(data, method, "class-wise ece") for method in (PWL_H, base))
      key = f"{data}_{base.replace(' ', '_')}"
      made.append(Claim(key, text, "paper", f"class-wise ECE, {data}", *sides, better="lower"))
  return made


def table(metrics: dict[str, Any], config: Config) -> list[Row]:
  """Errors of every method beside temperature scaling."""
  rows = []
  for source, found in metrics.items():
    for what in ("ece", "class-wise ece", "brier"):
      for method in found:
        base = None if method == TS else Side(TS, found[TS][what])
        ours = Side(method, found[method][what])
        rows.append(Row(f"{what}, {source}", ours, base, better="lower"))
  return rows


def figure(record: dict[str, Any]) -> Any:
  """Reliability before and after, and errors of all methods."""
  metrics = record["metrics"]
  fig, axes = new_figure(1, 3, width=4.5, height=4.2)
  _figures.reliability_of(
    axes[0], metrics["distorted"], (RAW, TS, PWL, PWL_H), title="Distorted logits"
  )
  for ax, what in zip(axes[1:], ("ece", "class-wise ece"), strict=True):
    errors = {
      source: {method: found[method][what] for method in found if method not in (RAW, HISTOGRAM)}
      for source, found in metrics.items()
    }
    title = "Errors (without raw and histogram)"
    _figures.dots(ax, errors, ylabel=what.replace("ece", "ECE"), title=title)
  axes[2].get_legend().remove()  # the same as beside it, and in the way
  return fig
