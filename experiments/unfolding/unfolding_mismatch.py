"""Unfolded IHT on test signals unlike those of its training: noise, sparsity, another matrix."""

import dataclasses
import functools
from typing import Any

import numpy as np

from experiments import _figures
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


@dataclasses.dataclass(frozen=True)
class Config(Settings):
  """Settings.

  Networks, training and step sizes are those of the experiment on both losses.

  Attributes:
    measurements: rows of the matrix.
    features: its columns, the size of a signal.
    share: share of non-zeros in training.
    noise: standard deviation of the noise in training.
    batch: signals in a training step.
    signals: test signals of each kind.
    strength: of the l0 penalty.
    layers: layers of IHT, which have a step each.
    steps: training steps of each stage.
    rates: step sizes of Adam, unsupervised and supervised.
    continuation: steps of IHT with a falling threshold.
    max_steps: of the iterations that converge.
  """

  seeds: int = 8
  measurements: int = 64
  features: int = 128
  share: float = 0.08
  noise: float = 0.05
  batch: int = 64
  signals: int = 300
  strength: float = 0.02
  layers: int = 16
  steps: int = 200
  rates: tuple[float, float] = (0.05, 0.1)
  continuation: int = 200
  max_steps: int = 3000


SIZES = {
  "toy": Size(
    Config(
      seeds=2, measurements=12, features=24, batch=16, signals=50, layers=3, steps=20,
      continuation=60, max_steps=200,
    ),
    "24 coefficients and three layers.",
  ),
  "desk": Size(Config(), "128 coefficients; the paper's sizes were not read."),
  "large": Size(
    Config(measurements=256, features=512, batch=100, signals=1000, layers=20, steps=500),
    "512 coefficients; the paper's sizes were not read.",
  ),
}  # fmt: skip


def run(config: Config, progress: Progress) -> dict[str, Any]:
  """Networks of both losses, trained once a seed, under every test condition."""
  net = _networks.iht(config.strength)
  data = _networks.rows(config.seed_numbers(), rate=config.share, noise=config.noise)
  options = {
    "shape": (config.measurements, config.features), "signals": config.signals, "tests": TESTS,
    "layers": config.layers,
  }  # fmt: skip
  found = _networks.train_networks(
    progress, net, dict(zip(LOSSES, config.rates, strict=True)), data, name="networks",
    steps=config.steps, batch=config.batch, **options,
  )  # fmt: skip
  plain = _networks.solve_all(
    progress,
    net,
    data,
    name="IHT itself",
    continuation=config.continuation,
    max_steps=config.max_steps,
    **options,
  )
  return {
    name: {loss: values["tests"][name] for loss, values in found.items()} | plain[name]
    for name in TESTS
  }


def _side(metrics: dict[str, Any], test: str, key: str, measure: str) -> Side:
  values = np.asarray(metrics[test][key][measure], float)
  names = {"converged": "IHT, converged", "continuation": "IHT with a falling threshold"}
  names |= {loss: f"{loss} IHT" for loss in LOSSES}
  return Side(names[key], values if values.ndim == 1 else values[:, -1])


def claims(metrics: dict[str, Any], config: Config) -> list[Claim]:
  """The unsupervised network has the lower objective under each mismatch."""
  return [
    Claim(
      name.replace(" ", "_"),
      f"Tested on {name}, the unsupervised network ends at a lower l0 objective than the "
      "supervised one.",
      "paper", f"test objective over n, {name}", _side(metrics, name, "unsupervised", "objective"),
      _side(metrics, name, "supervised", "objective"), better="lower", scale="ratio",
    )
    for name in MISMATCHES
  ]  # fmt: skip


def table(metrics: dict[str, Any], config: Config) -> list[Row]:
  """Objective and error of both networks, of converged IHT and of continuation."""
  made = []
  for name in TESTS:
    for measure, label in (("objective", "objective over n"), ("nmse", "NMSE (dB)")):
      side = functools.partial(_side, metrics, name, measure=measure)
      pairs = [("unsupervised", "supervised")]
      pairs += [(loss, other) for loss in LOSSES for other in ("converged", "continuation")]
      made += [Row(f"{label}, {name}", side(a), side(b), better="lower") for a, b in pairs]
  return made


def figure(record: dict[str, Any]) -> Any:
  """Objective and error at the end, by test condition."""
  fig, axes = new_figure(1, 2, width=5.6, height=4.0)
  for ax, measure, label in zip(
    axes, ("objective", "nmse"), ("objective over n", "NMSE (dB)"), strict=True
  ):
    groups = {
      key: {test: _side(record["metrics"], test, key, measure).values for test in TESTS}
      for key in (*LOSSES, "converged", "continuation")
    }
    _figures.dots(ax, groups, ylabel=label)
  return fig
