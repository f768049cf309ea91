"""Unfolded ISTA over depth, conditioning and noise: how much sooner than the iteration it ends."""

import dataclasses
import functools
import itertools
from typing import Any

import numpy as np

from experiments import _figures
from experiments._claims import Claim, Side
from experiments._protocol import Paper, Progress, Row, Settings, Size, new_figure
from experiments.unfolding import _networks
from experiments.unfolding._networks import Condition

PAPER = Paper(
  title="Comparison between Supervised and Unsupervised Learning in Deep Unfolded Sparse Signal "
  "Recovery",
  authors="Nagahisa, Hayakawa and Iiguni",
  year=2025,
  claim="Unsupervised ISTA converges to nearly the solution of ISTA, but faster. Here: for "
  "matrices of small and large condition number, with little and much noise, at two depths.",
  section="Abstract; the grid of conditions is ours",
  url="https://arxiv.org/abs/2509.01331",
)


@dataclasses.dataclass(frozen=True)
class Config(Settings):
  """Settings.

  Every seed, condition number and noise is a network, and all networks are one sweep. Layers are
  added one after the other, so that one training has the networks of every depth.

  Attributes:
    measurements: rows of the matrix.
    features: its columns, the size of a signal.
    share: share of non-zeros.
    strength: of the l1 penalty.
    conditions: condition numbers of the matrix, whose singular values are geometric.
    noises: standard deviations of the noise.
    layers: the largest depth.
    steps: training steps of each stage.
    batch: signals in a training step.
    signals: test signals.
    rate: step size of Adam, chosen on development seeds among 0.01, 0.03 and 0.1.
    max_steps: of the iterations that converge.
  """

  seeds: int = 8
  measurements: int = 48
  features: int = 96
  share: float = 0.08
  strength: float = 0.1
  conditions: tuple[float, ...] = (2.0, 5.0, 15.0)
  noises: tuple[float, ...] = (0.01, 0.05, 0.2)
  layers: int = 10
  steps: int = 100
  batch: int = 32
  signals: int = 200
  rate: float = 0.03
  max_steps: int = 3000


SIZES = {
  "toy": Size(
    Config(
      seeds=2, measurements=12, features=24, conditions=(2.0, 15.0), noises=(0.01, 0.2), layers=3,
      steps=10, batch=8, signals=50, max_steps=200,
    ),
    "24 coefficients, three layers, four conditions.",
  ),
  "desk": Size(Config(), "96 coefficients; conditions and sizes are ours."),
  "large": Size(
    Config(
      measurements=256, features=512, conditions=(2.0, 5.0, 15.0, 50.0),
      noises=(0.01, 0.03, 0.1, 0.3), layers=20, steps=400, batch=100, signals=1000,
    ),
    "512 coefficients; conditions and sizes are ours.",
  ),
}  # fmt: skip
_TEST = {"test": Condition(1.0, 1.0)}


def run(config: Config, progress: Progress) -> dict[str, Any]:
  """All networks and all iterations; objectives relative to the least one."""
  grid = list(itertools.product(config.conditions, config.noises, config.seed_numbers()))
  spread, noise, seed = (np.array(column) for column in zip(*grid, strict=True))
  data = _networks.rows(seed, rate=config.share)
  data |= {"noise": noise.astype(np.float32), "spread": spread.astype(np.float32)}
  net = _networks.ista(config.strength)
  options = {
    "shape": (config.measurements, config.features), "signals": config.signals, "tests": _TEST,
    "layers": config.layers,
  }  # fmt: skip
  found = _networks.train_networks(
    progress, net, {"unsupervised": config.rate}, data, name="networks", steps=config.steps,
    batch=config.batch, by_stage=True, **options,
  )["unsupervised"]  # fmt: skip
  plain = _networks.solve_all(
    progress, net, data, name="ISTA itself", max_steps=config.max_steps, **options
  )["test"]
  shape = (len(config.conditions), len(config.noises), config.seeds)
  least = plain["converged"]["objective"]
  over = lambda values: (values / least[:, None]).reshape(*shape, -1)
  return {
    "network": over(found["tests"]["test"]["objective"]),
    "iteration": over(plain["iteration"]["objective"]),
    "nmse": {
      "network": found["tests"]["test"]["nmse"].reshape(*shape, -1),
      "iteration": plain["iteration"]["nmse"].reshape(*shape, -1),
      "converged": plain["converged"]["nmse"].reshape(shape),
    },
    "largest_step": found["steps"].max(-1).reshape(shape),
    "failed": found["status"].reshape(shape),
  }


def _sides(metrics: dict[str, Any], i: int, j: int, depth: int) -> tuple[Side, Side]:
  """Objective over the least one of the network and of the iteration, a number a seed."""
  values = (np.asarray(metrics[key], float)[i, j, :, depth - 1] for key in ("network", "iteration"))
  names = (f"unsupervised ISTA, {depth} layers", f"ISTA, {depth} steps")
  return tuple(Side(name, v) for name, v in zip(names, values, strict=True))  # type: ignore


def claims(metrics: dict[str, Any], config: Config) -> list[Claim]:
  """The networks are ahead at the corners of the grid."""
  made = []
  metric = "test objective over the least one"
  lower = functools.partial(Claim, kind="paper", metric=metric, better="lower", scale="ratio")
  ends = lambda values: ((0, values[0]), (len(values) - 1, values[-1]))
  for (i, condition), (j, noise) in itertools.product(ends(config.conditions), ends(config.noises)):
    for depth in (config.layers // 2, config.layers):
      ours, baseline = _sides(metrics, i, j, depth)
      text = f"At condition number {condition:g} and noise {noise:g} the network of {depth} layers "
      text += "has a lower objective than as many steps of ISTA."
      made.append(lower(f"{condition:g}_{noise:g}_{depth}", text, ours=ours, baseline=baseline))
  return made


def table(metrics: dict[str, Any], config: Config) -> list[Row]:
  """Both at the largest depth, for every condition."""
  return [
    Row(
      f"objective over the least one, condition number {condition:g}, noise {noise:g}",
      *_sides(metrics, i, j, config.layers), better="lower",
    )
    for i, condition in enumerate(config.conditions)
    for j, noise in enumerate(config.noises)
  ]  # fmt: skip


def figure(record: dict[str, Any]) -> Any:
  """Excess objective over the depth, a panel a noise."""
  metrics, settings = record["metrics"], record["settings"]
  fig, axes = new_figure(1, len(settings["noises"]), width=4.2)
  for j, (ax, noise) in enumerate(zip(axes, settings["noises"], strict=True)):
    for key, style in (("network", "-"), ("iteration", ":")):
      values = np.asarray(metrics[key], float)[:, j].mean(1) - 1
      lines = {f"{key}, {c:g}": v for c, v in zip(settings["conditions"], values, strict=True)}
      before = len(ax.lines)
      _figures.curves(ax, lines, xlabel="layers", title=f"noise {noise:g}", log="y")
      for color, line in enumerate(ax.lines[before:]):
        line.set(linestyle=style, color=f"C{color}")
    ax.legend(fontsize=7, title="condition number", title_fontsize=7)
  axes[0].set_ylabel("objective above the least one, relative")
  return fig
