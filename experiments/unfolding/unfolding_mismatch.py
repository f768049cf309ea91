"""Unfolded IHT on test signals unlike those of its training: noise, sparsity, another matrix."""

import dataclasses
import functools
import itertools
from typing import Any

import numpy as np

from experiments import _amendments, _figures
from experiments._claims import Claim, Side
from experiments._protocol import Paper, Progress, Row, Settings, Size, new_figure
from experiments.unfolding import _networks
from experiments.unfolding._networks import LOSSES, Condition

PAPER = Paper(
  title="Comparison between Supervised and Unsupervised Learning in Deep Unfolded Sparse Signal "
  "Recovery",
  authors="Nagahisa, Hayakawa and Iiguni",
  year=2025,
  claim="Where test signals differ from those of the training, unsupervised iterative hard "
  "thresholding generalises and supervised iterative hard thresholding degrades.",
  section="Abstract of the second version; the kinds and sizes of the mismatch are ours",
  url="https://arxiv.org/abs/2509.01331",
)
# Factors of the training's share of non-zeros and noise, and whether the matrix is another one.
TESTS = {
  "as trained": Condition(1.0, 1.0),
  "twice the non-zeros": Condition(2.0, 1.0),
  "three times the noise": Condition(1.0, 3.0),
  "another matrix": Condition(1.0, 1.0, 1),
}
MISMATCHES = tuple(TESTS)[1:]
REGIMES = ("little noise", "more noise")
AMENDED = _amendments.UNFOLDING_MISMATCH


@dataclasses.dataclass(frozen=True)
class Config(Settings):
  """Settings.

  Two regimes of training, with little and with more noise: settings with two numbers have one each
  (one number of layers: the first alone).
  The step sizes of Adam were chosen on development seeds, by the objective of unsupervised and the
  error of supervised networks as trained, among 0.02, 0.05, 0.1 and 0.2; within a stage they fall
  to 0 along a cosine.

  Attributes:
    measurements: rows of the matrix.
    features: its columns, the size of a signal.
    shares: share of non-zeros in training.
    noises: standard deviation of the noise in training.
    strengths: of the l0 penalty.
    layers: layers of IHT, which have a step each.
    unsupervised_rates: step sizes of Adam.
    supervised_rates: step sizes of Adam.
    steps: training steps of each stage.
    batch: signals in a training step.
    signals: test signals of each kind.
    continuation: steps of IHT with a falling threshold.
    max_steps: of the iterations that converge.
  """

  seeds: int = 8
  measurements: int = 64
  features: int = 128
  shares: tuple[float, ...] = (0.08, 0.1)
  noises: tuple[float, ...] = (0.05, 0.1)
  strengths: tuple[float, ...] = (0.02, 0.05)
  layers: tuple[int, ...] = (16, 10)
  unsupervised_rates: tuple[float, ...] = (0.05, 0.1)
  supervised_rates: tuple[float, ...] = (0.05, 0.05)
  steps: int = 200
  batch: int = 64
  signals: int = 300
  continuation: int = 200
  max_steps: int = 3000


SIZES = {
  "toy": Size(
    Config(
      seeds=2, measurements=12, features=24, batch=16, signals=50, layers=(3,), steps=20,
      continuation=60, max_steps=200,
    ),
    "24 coefficients and three layers, one regime.",
  ),
  "desk": Size(Config(), "128 coefficients; the paper's sizes were not read."),
  "large": Size(
    Config(measurements=256, features=512, batch=100, signals=1000, layers=(20, 16), steps=500),
    "512 coefficients; the paper's sizes were not read.",
  ),
}  # fmt: skip


def _regimes(config: Config) -> tuple[str, ...]:
  return REGIMES[: len(config.layers)]


def run(config: Config, progress: Progress) -> dict[str, Any]:
  """Networks of both losses, trained once a seed and regime, under every test condition."""
  return {
    regime: _regime(config, progress, i, regime)
    for i, regime in progress.track(list(enumerate(_regimes(config))), "regimes")
  }


def _regime(config: Config, progress: Progress, i: int, regime: str) -> dict[str, Any]:
  net = _networks.iht(config.strengths[i])
  data = _networks.rows(config.seed_numbers(), rate=config.shares[i], noise=config.noises[i])
  options = {
    "shape": (config.measurements, config.features), "signals": config.signals, "tests": TESTS,
    "layers": config.layers[i],
  }  # fmt: skip
  rates = (config.unsupervised_rates[i], config.supervised_rates[i])
  found = _networks.train_networks(
    progress, net, dict(zip(LOSSES, rates, strict=True)), data, name=f"networks, {regime}",
    steps=config.steps, batch=config.batch, decay="cosine", **options,
  )  # fmt: skip
  plain = _networks.solve_all(
    progress, net, data, name=f"IHT itself, {regime}", continuation=config.continuation,
    max_steps=config.max_steps, **options,
  )  # fmt: skip
  return {
    name: {loss: values["tests"][name] for loss, values in found.items()} | plain[name]
    for name in TESTS
  }


def _side(metrics: dict[str, Any], regime: str, test: str, key: str, measure: str) -> Side:
  values = np.asarray(metrics[regime][test][key][measure], float)
  names = {"converged": "IHT, converged", "continuation": "IHT with a falling threshold"}
  names |= {loss: f"{loss} IHT" for loss in LOSSES}
  return Side(names[key], values if values.ndim == 1 else values[:, -1])


def claims(metrics: dict[str, Any], config: Config) -> list[Claim]:
  """The unsupervised network has the lower objective under each mismatch."""
  made = []
  for regime in _regimes(config):
    for name in MISMATCHES:
      key = name.replace(" ", "_")
      text = f"Tested on {name}, the unsupervised network ends at a lower l0 objective than the "
      text += "supervised one."
      metric = f"test objective over n, {name}"
      if regime == REGIMES[1]:
        key, metric = f"more_noise_{key}", f"{metric}, more noise in training"
        text = f"With more noise in training: t{text[1:]}"
      sides = (
        _side(metrics, regime, name, loss, "objective") for loss in ("unsupervised", "supervised")
      )
      made.append(Claim(key, text, "paper", metric, *sides, better="lower", scale="ratio"))
  return made


def table(metrics: dict[str, Any], config: Config) -> list[Row]:
  """Objective and error of both networks, of converged IHT and of continuation."""
  made = []
  for regime, name in itertools.product(_regimes(config), TESTS):
    for measure, label in (("objective", "objective over n"), ("nmse", "NMSE (dB)")):
      side = functools.partial(_side, metrics, regime, name, measure=measure)
      pairs = [("unsupervised", "supervised")]
      pairs += [(loss, other) for loss in LOSSES for other in ("converged", "continuation")]
      label = f"{label}, {regime}, {name}"
      made += [Row(label, side(a), side(b), better="lower") for a, b in pairs]
  return made


def figure(record: dict[str, Any]) -> Any:
  """Objective and error at the end, by test condition."""
  regimes = list(record["metrics"])
  fig, axes = new_figure(len(regimes), 2, width=5.6, height=3.8)
  measures = (("objective", "objective over n"), ("nmse", "NMSE (dB)"))
  for ax, (regime, (measure, label)) in zip(
    axes, itertools.product(regimes, measures), strict=True
  ):
    groups = {
      key: {test: _side(record["metrics"], regime, test, key, measure).values for test in TESTS}
      for key in (*LOSSES, "converged", "continuation")
    }
    _figures.dots(ax, groups, ylabel=label, title=regime)
    if measure == "objective":
      ax.set_yscale("log")
  return fig
