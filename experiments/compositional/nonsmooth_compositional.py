"""Non-smooth functions of expected losses: SONX, SONEX, ALEXR, NASA and STORM beside the plug-in.

All methods see the same groups and samples in a step. They differ in work: SONX and SONEX evaluate
the samples at two points, STORM takes two gradients, ALEXR splits its samples into two halves.
"""

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np

from experiments import _figures, _statistics
from experiments._claims import Claim, Side
from experiments._protocol import Paper, Progress, Row, Settings, Size, new_figure
from experiments._training import stack, train_all
from experiments.compositional import _kinks
from experiments.compositional._kink_methods import (
  CURVE_POINTS,
  FAMILIES,
  PLUG_IN,
  Setting,
  make_trainer,
  variants,
)

PAPER = Paper(
  title="Stochastic momentum methods for non-smooth non-convex finite-sum coupled compositional "
  "optimization",
  authors="Chen, Wang, Yang, Lin and Yang (SONEX); Hu, Zhu and Yang (SONX, 2023); Wang and Yang "
  "(ALEXR, 2024); Ghadimi, Ruszczynski and Wang (NASA, 2020); Cutkosky and Orabona (STORM, 2019)",
  year=2025,
  claim="Where the function outside an expectation has a kink, the mean of a few inner samples in "
  "its place leaves a bias, which methods with a memory of every expectation remove: by a "
  "subgradient (SONX), a smoothed kink with momentum (SONEX) or dual variables (ALEXR). Smoothing "
  "with momentum needs fewer steps than the subgradient.",
  section="Theorems on convergence; group DRO and constraints on groups, on data of our own",
  url="https://arxiv.org/abs/2506.02504",
)
PROBLEMS = ("linear", "network")
METRICS = {
  "linear": "worst groups' loss above its minimum, linear model",
  "network": "mean loss with penalised constraints, network",
}


@dataclasses.dataclass(frozen=True)
class Config(Settings):
  """Settings.

  Each method has its best pair of a step size and of a second number (the weight of a new value in
  its estimates; for the plug-in that of a new gradient, for ALEXR the dual step), by the mean
  objective on streams of samples, and starts of the network, that are not those of the result.

  Attributes:
    tuning: number of streams on which both numbers are chosen.
    problems: which of ``PROBLEMS`` are run; "linear" among them.
    families: which of ``FAMILIES`` are run; "average" and "SONEX" among them.
    groups: groups of a step, drawn without replacement from the ten digits.
    inner: samples of each group in a step, few and many; even numbers.
    alpha: fraction of the groups in the worst-case mean of the linear problem.
    linear_features: principal components of the linear model.
    radius: bound of the norm of the linear model.
    penalty: rho of the constraints of the network.
    tolerance: c, bound of the expected loss of every group.
    network_features: principal components that the network sees; so few that it cannot fit.
    hidden: width of its hidden layer.
    linear_steps: steps on the linear problem.
    network_steps: steps of the network.
    linear_rates: initial step sizes, the same for every method; they fall to 0.3 and 0.1 of
      themselves at 1/2 and 3/4.
    network_rates: the same for the network.
    rates: weights of a new value in the estimates.
    momenta: weights of a new gradient, for the plug-in.
    duals: step sizes of the dual variables, for ALEXR.
    momentum: weight of a new gradient for SONEX, NASA, STORM and the moving average (SOX).
    smoothing: of the Moreau envelope. On the linear problem 0.2 and 0.05 leave a bias of their own,
      and 0.01 is like 0.02 (development seeds).
  """

  tuning: int = 4
  problems: tuple[str, ...] = PROBLEMS
  families: tuple[str, ...] = FAMILIES
  groups: int = 3
  inner: tuple[int, ...] = (2, 16)
  alpha: float = 0.3
  linear_features: int = 16
  radius: float = 10.0
  penalty: float = 5.0
  tolerance: float = 0.3
  network_features: int = 3
  hidden: int = 8
  linear_steps: int = 6000
  network_steps: int = 4000
  linear_rates: tuple[float, ...] = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
  network_rates: tuple[float, ...] = (0.01, 0.03, 0.1, 0.3, 1.0)
  rates: tuple[float, ...] = (0.9, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001)
  momenta: tuple[float, ...] = (1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001)
  duals: tuple[float, ...] = (3.0, 1.0, 0.3, 0.1, 0.03, 0.01, 0.003)
  momentum: float = 0.1
  smoothing: float = 0.02

  def __post_init__(self) -> None:
    if set(self.problems) - set(PROBLEMS) or "linear" not in self.problems:
      raise ValueError(f"problems must be among {PROBLEMS} and hold 'linear'.")
    if set(self.families) - set(FAMILIES) or not {"average", "SONEX"} <= set(self.families):
      raise ValueError(f"families must be among {FAMILIES} and hold 'average' and 'SONEX'.")
    if any(size % 2 for size in self.inner):
      raise ValueError(f"inner must hold even numbers; got {self.inner}.")
    if self.linear_steps % CURVE_POINTS or self.network_steps % CURVE_POINTS:
      raise ValueError(f"steps must be multiples of {CURVE_POINTS}.")


SIZES = {
  "toy": Size(
    Config(
      seeds=2, tuning=1, problems=("linear",), families=("average", "SONEX"), inner=(2,),
      linear_steps=500, linear_rates=(0.1,), rates=(0.1,), momenta=(0.1,),
    ),
    "SONEX and the average on the linear problem, few steps, nothing chosen.",
  ),
  "desk": Size(Config(), "Digits, a linear model and a small network; images and deep networks."),
  "large": Size(
    Config(seeds=30, tuning=8, linear_steps=40000, network_steps=20000, hidden=32),
    "Digits, a linear model and a small network; images and deep networks.",
  ),
}  # fmt: skip


def pick(name: str, rates: Any, second: Any, final: np.ndarray) -> list[_statistics.Choice]:
  """The best pair by the mean of ``final`` [streams, second, rates]: a choice for each number."""
  score = np.where(np.isfinite(final), final, np.inf).mean(0)
  what, values = second
  places = [momentum if what == "momentum" else rate for rate, momentum, _ in values]
  return [
    _statistics.choose(f"{what} of {name}", places, score.min(1), better="lower"),
    _statistics.choose(f"step size of {name}", rates, score.min(0), better="lower"),
  ]


def run_family(
  family: str, problem: _kinks.Problem, data: Any, config: Config, progress: Progress, choices: list
) -> dict[str, Any]:
  """Label -> inner samples -> the objective at the end, a number a seed, and along the run."""
  labels, rates = variants(family, config), problem.learning_rates
  sizes = config.inner[:1] if family == "full batch" else config.inner
  runs = [
    (step, size, *numbers)
    for _, values in labels.values() for size in sizes for numbers in values for step in rates
  ]  # fmt: skip
  types = (jnp.float32, jnp.int32, jnp.float32, jnp.float32, bool)
  columns = zip(zip(*runs, strict=True), types, strict=True)
  settings = Setting(*(jnp.asarray(values, dtype) for values, dtype in columns))
  name = f"{problem.name}, {family}"
  curves = train_all(progress, make_trainer(family, problem, config), settings, data, name=name)
  shape = (config.tuning + config.seeds, len(labels), len(sizes), -1, len(rates), CURVE_POINTS)
  curves, found = curves.astype(np.float64).reshape(shape), {}
  for i, (label, second) in enumerate(labels.items()):
    found[label] = {}
    for j, size in enumerate(sizes):
      name = f"{label}, {problem.name}, {size} samples"
      one = curves[:, i, j]
      made = pick(name, rates, second, one[: config.tuning, ..., -1])
      choices += made if second[0] else made[1:]
      place = made[0].chosen
      row = [m if second[0] == "momentum" else rate for rate, m, _ in second[1]].index(place)
      best = one[config.tuning :, row, rates.index(made[1].chosen)]
      found[label][str(size)] = {"final": best[:, -1], "curve": best.mean(0)}
  return found


def run(config: Config, progress: Progress) -> dict[str, Any]:
  """Every family on every problem; all choices of its numbers are one program."""
  metrics: dict[str, Any] = {}
  choices: list[_statistics.Choice] = []
  seeds = config.seed_numbers()
  streams = [(k, 0) for k in range(config.tuning)] + [(seed, 1) for seed in seeds]
  for name in config.problems:
    problem = _kinks.make_problem(name, config)
    data = [_kinks.load(*stream, problem, config) for stream in streams]
    metrics[name] = {"least": 0.0, "methods": {}}
    if name == "linear":
      metrics[name]["least"] = _kinks.least_value(data[0], config)[0]
    families = [
      f for f in config.families if f != "ALEXR" or name == "linear"
    ]  # it needs convexity
    stacked = stack(data)
    for family in progress.track(families, name):
      found = run_family(family, problem, stacked, config, progress, choices)
      metrics[name]["methods"] |= found
  return {**metrics, "choices": choices}


def side(metrics: dict[str, Any], name: str, label: str, size: int) -> Side:
  """Objective at the end, one number a seed; above its minimum where that is known."""
  final = np.asarray(metrics[name]["methods"][label][str(size)]["final"], float)
  return Side(label, final - metrics[name]["least"])


def claims(metrics: dict[str, Any], config: Config) -> list[Claim]:
  """With few samples: each method of the three beside the plug-in, and momentum beside none."""
  few, made = min(config.inner), []
  words = {
    "linear": "ends nearer to the least loss of the worst groups",
    "network": "ends lower on the constrained network",
  }
  pairs = [(name, PLUG_IN) for name in ("SONX", "SONEX", "ALEXR")] + [("SONEX", "SONX")]
  for name in config.problems:
    scale = "ratio" if name == "linear" else "difference"
    for ours, base in pairs:
      if {ours, base} <= set(metrics[name]["methods"]):
        article = "the " if base == PLUG_IN else ""
        text = f"With {few} samples of a group {ours} {words[name]} than {article}{base}."
        sides = (side(metrics, name, label, few) for label in (ours, base))
        key = f"{name}_{ours}_{base}".replace("-", "_")
        made.append(Claim(key, text, "paper", METRICS[name], *sides, better="lower", scale=scale))
  return made


def table(metrics: dict[str, Any], config: Config) -> list[Row]:
  """Each method beside the plug-in with as many samples."""
  return [
    Row(
      f"{METRICS[name]}, {size} inner samples", side(metrics, name, label, size),
      side(metrics, name, PLUG_IN, size), "lower",
    )
    for name in config.problems
    for label, entry in metrics[name]["methods"].items()
    for size in config.inner
    if label not in (PLUG_IN, "full batch") and str(size) in entry
  ]  # fmt: skip


def figure(record: dict[str, Any]) -> Any:
  """Objective along the run on the linear problem, and at the end with few and many samples."""
  metrics, settings = record["metrics"], record["settings"]
  fig, axes = new_figure(1, 1 + len(settings["problems"]), width=5.0, height=4.0)
  few, linear = min(settings["inner"]), metrics["linear"]
  lines = {
    label: np.asarray(entry[str(few)]["curve"], float) - linear["least"]
    for label, entry in linear["methods"].items() if str(few) in entry
  }  # fmt: skip
  place = settings["linear_steps"] / CURVE_POINTS * np.arange(1, CURVE_POINTS + 1)
  _figures.curves(
    axes[0], lines, place, xlabel="step", ylabel="objective - minimum", log="y",
    title=f"Worst groups, linear, {few} inner samples",
  )  # fmt: skip
  for ax, name in zip(axes[1:], settings["problems"], strict=True):
    groups = {
      f"{size} inner samples": {
        label: side(metrics, name, label, size).values
        for label, entry in metrics[name]["methods"].items() if str(size) in entry
      }
      for size in settings["inner"]
    }  # fmt: skip
    _figures.dots(ax, groups, ylabel=METRICS[name], title=f"At the end, {name}")
    ax.yaxis.label.set_size(8)
    if name == "linear":
      ax.set_yscale("log")
  return fig
