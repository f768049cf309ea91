"""Designs from logged data alone: surrogates with a bound on their sharpness (IGNITE), searched."""

import dataclasses
import functools
from typing import Any

import jax
import numpy as np

from experiments import _figures
from experiments._claims import Claim, Side
from experiments._protocol import RECORDED_TWICE, Paper, Progress, Row, Settings, Size, new_figure
from experiments._statistics import Choice, choose
from experiments._training import stack
from experiments.surrogates._offline import ACKLEY, TANG, make_data, score, search_all, searched

PAPER = Paper(
  title="Incorporating surrogate gradient norm to improve offline optimization techniques",
  authors="Dao, Nguyen, Truong and Hoang",
  year=2024,
  claim="A surrogate trained under a bound on how much its mean prediction grows when its weights "
  "are perturbed is searched with more success, and is less sharp on unseen designs.",
  section="Experiments on Design-Bench (there Ant, D'Kitty, TF-Bind-8 and TF-Bind-10)",
  url="https://arxiv.org/abs/2503.04242",
)
NONE, REPO, IGNITE, FIXED = "no regulariser", "IGNITE, published", "IGNITE", "IGNITE-2"
SAM, DECAY, MEAN, LEAST = "SAM", "weight decay", "ensemble, mean", "ensemble, least"
NOTE = (
  "Strengths (the rate of IGNITE's multiplier, that of IGNITE-2, the radius of SAM, weight decay) "
  "were chosen on development seeds of Styblinski-Tang by the true value of the best design, seven "
  "values for every method alike; nobody could do that in a real offline task. Ensembles have no "
  "strength to choose. Chosen strengths are high: the networks that are searched with most success "
  "predict hidden designs worse than the others do, SAM's too. "
  + RECORDED_TWICE
  + " IGNITE's rate "
  "is at the edge of the wider grid too, to its own disadvantage if at all: at such rates the "
  "multiplier overshoots and regularises beyond the budget."
)
KINDS = {
  NONE: "plain",
  DECAY: "plain",
  REPO: "ignite",
  IGNITE: "ignite",
  FIXED: "fixed",
  SAM: "sam",
}


@dataclasses.dataclass(frozen=True)
class Config(Settings):
  """Settings. A seed draws the designs, the batches and the weights.

  Attributes:
    dimension: of a design, in [-1, 1]^dimension.
    designs: uniform designs, of which the worse half is the data and the better one is hidden.
    hidden: widths of the two hidden layers.
    epochs: of training.
    batch: designs of a batch.
    starts: best designs of the data, where searches start.
    steps: of gradient ascent, of 0.01 sqrt(dimension) each.
    members: networks of an ensemble.
    rates: of IGNITE's multiplier; rho .05 and the budget .1 are the published ones.
    multipliers: of IGNITE-2, whose rho is .2 as published.
    radii: of SAM.
    decays: of the squared weights, in the gradient.
    tuning_seeds: development seeds, from 50 on always, of the choices.
  """

  dimension: int = 10
  designs: int = 2000
  hidden: int = 64
  seeds: int = 16
  epochs: int = 100
  batch: int = 128
  starts: int = 64
  steps: int = 200
  members: int = 5
  rates: tuple[float, ...] = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
  multipliers: tuple[float, ...] = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
  radii: tuple[float, ...] = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
  decays: tuple[float, ...] = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3)
  tuning_seeds: int = 8

  def grids(self) -> dict[str, tuple[float, ...]]:
    """What each method chooses."""
    return {IGNITE: self.rates, FIXED: self.multipliers, SAM: self.radii, DECAY: self.decays}


SIZES = {
  "toy": Size(
    Config(
      seeds=2, dimension=3, designs=200, hidden=8, epochs=2, batch=32, starts=8, steps=5,
      members=2, rates=(0.03, 0.3), multipliers=(1.0,), radii=(0.1,), decays=(1e-3, 3e-3, 1e-2),
      tuning_seeds=4,
    ),
    "Two epochs; Styblinski-Tang and Ackley functions instead of Design-Bench.",
  ),
  "desk": Size(
    Config(),
    "Styblinski-Tang and Ackley functions of 10 variables instead of Design-Bench, 64 units a "
    "layer instead of 2048, squared error instead of a Gaussian head.",
  ),
  "large": Size(
    Config(designs=20_000, hidden=2048, starts=128),
    "Styblinski-Tang and Ackley functions of 10 variables instead of Design-Bench; squared error "
    "instead of a Gaussian head.",
  ),
}  # fmt: skip


def tune(config: Config, progress: Progress) -> tuple[dict[str, float], list[Choice]]:
  """The strength of each method by the best design on development seeds."""
  seeds = range(50, 50 + config.tuning_seeds)
  data = stack([make_data(config, TANG, seed) for seed in seeds])
  runs = [(name, v, 0) for name, grid in config.grids().items() for v in grid]
  _, found = searched(config, progress, data, runs, KINDS, "tuning")
  cut = lambda i: jax.tree.map(lambda v: v[:, i], found)
  best = {run: score(TANG, cut(i))["best"].mean() for i, run in enumerate(runs)}
  choices = [
    choose(f"strength of {name}", grid, [best[name, v, 0] for v in grid], better="higher")
    for name, grid in config.grids().items()
  ]
  return dict(zip(config.grids(), (c.chosen for c in choices), strict=True)), choices


def run(config: Config, progress: Progress) -> dict[str, Any]:
  """Chooses strengths, then trains and searches all methods on both functions."""
  strengths, choices = tune(config, progress)
  strengths |= {NONE: 0.0, REPO: 1e-3}
  functions, seeds = (TANG, ACKLEY), config.seed_numbers()
  data = stack([make_data(config, f, seed) for f in functions for seed in seeds])
  runs = [(name, strengths[name], 0) for name in KINDS]
  runs += [(NONE, 0.0, k) for k in range(1, config.members)]
  weights, found = searched(config, progress, data, runs, KINDS, "record")
  results = {name: jax.tree.map(lambda v, i=i: v[:, i], found) for i, name in enumerate(KINDS)}
  members = [i for i, (name, *_) in enumerate(runs) if name == NONE]
  together = jax.tree.map(lambda v: v[:, members][:, None], weights)
  for name, reduce in ((MEAN, "mean"), (LEAST, "min")):
    ensemble = search_all(config, progress, reduce, together, data, name)
    results[name] = jax.tree.map(lambda v: v[:, 0], ensemble)
  metrics: dict[str, Any] = {}
  for i, function in enumerate(functions):
    part = slice(i * len(seeds), (i + 1) * len(seeds))
    metrics[function] = {
      name: score(function, jax.tree.map(lambda v, part=part: v[part], f))
      for name, f in results.items()
    }
    metrics[function]["data"] = {"best": np.asarray(data["known best"])[part]}
  return metrics | {"choices": choices}


def _side(metrics: dict, function: str, name: str, key: str) -> Side:
  return Side(name, metrics[function][name][key])


def claims(metrics: dict, config: Config) -> list[Claim]:
  """Better designs, less sharpness; next to nothing on Ackley."""
  best = f"true value of the best of {config.starts} designs, {TANG}"
  sharp = f"0.05 times the norm of the mean prediction's gradient, hidden designs, {TANG}"
  found = []
  for key, name in (("ignite", IGNITE), ("ignite_2", FIXED)):
    found += [
      Claim(f"{key}_best", f"{name} finds a better design than no regulariser.", "paper", best,
            _side(metrics, TANG, name, "best"), _side(metrics, TANG, NONE, "best")),
      Claim(f"{key}_sharpness", f"{name} is less sharp than no regulariser on unseen designs.",
            "paper", sharp, _side(metrics, TANG, name, "sharpness"),
            _side(metrics, TANG, NONE, "sharpness"), better="lower", scale="ratio"),
    ]  # fmt: skip
  return [
    *found,
    Claim("ackley", "On Ackley, which is flat away from its peak, IGNITE changes the best design "
          "by less than 0.5.", "control", f"true value of the best design, {ACKLEY}",
          _side(metrics, ACKLEY, IGNITE, "best"), _side(metrics, ACKLEY, NONE, "best"), margin=0.5),
  ]  # fmt: skip


def table(metrics: dict, config: Config) -> list[Row]:
  """All methods beside no regulariser, on both functions."""
  words = {
    "best": ("best design", "higher"), "median": ("median design", "higher"),
    "overestimation": ("prediction minus truth", "lower"),
    "sharpness": ("sharpness on hidden designs", "lower"),
    "error": ("error on hidden designs, standardised", "lower"),
  }  # fmt: skip
  rows = []
  for function in (TANG, ACKLEY):
    side = functools.partial(_side, metrics, function)
    rows.append(Row(f"best design, {function}", side(NONE, "best"), side("data", "best")))
    for name in (REPO, IGNITE, FIXED, SAM, DECAY, MEAN, LEAST):
      for key, (text, better) in words.items():
        if key == "sharpness" and name in (MEAN, LEAST):
          continue  # of five times the weights
        pair = side(name, key), side(NONE, key)
        rows.append(Row(f"{text}, {function}", *pair, better=better, note=NOTE))
  return rows


def figure(record: dict) -> Any:
  """Best designs, over-estimation and sharpness of all methods, Styblinski-Tang; best, Ackley."""
  metrics, (fig, axes) = record["metrics"], new_figure(1, 4, width=3.6)
  for ax, function, key, label in (
    (axes[0], TANG, "best", "true value of the best design"),
    (axes[1], TANG, "overestimation", "prediction minus truth"),
    (axes[2], TANG, "sharpness", "sharpness on hidden designs"),
    (axes[3], ACKLEY, "best", "true value of the best design"),
  ):
    skipped = (MEAN, LEAST) if key == "sharpness" else ()
    values = {k: v[key] for k, v in metrics[function].items() if key in v and k not in skipped}
    _figures.dots(ax, {"": values}, ylabel=label, title=function)
  return fig
