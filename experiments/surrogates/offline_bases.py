"""IGNITE inside eight searches of logged designs: ascent, REINFORCE, CMA-ES, CbAS, BO, COMs, ..."""

import dataclasses
from typing import Any

import jax
import numpy as np

from experiments import _figures
from experiments._claims import Claim, Side
from experiments._protocol import Paper, Progress, Row, Settings, Size, new_figure
from experiments._statistics import Choice, choose
from experiments._training import stack
from experiments.surrogates._bases import (
  ASCENT,
  BASES,
  REINFORCE,
  members_of,
  search_base,
)
from experiments.surrogates._offline import (
  COMS,
  TANG,
  make_data,
  score,
  trained_flat,
)

PAPER = Paper(
  title="Incorporating surrogate gradient norm to improve offline optimization techniques",
  authors="Dao, Nguyen, Truong and Hoang",
  year=2024,
  claim="Training the surrogate under a bound on its sharpness improves most of the searches that "
  "it is put into, and makes the surrogate less sharp on unseen designs.",
  section="Experiments on Design-Bench: gains in most pairs of a base and a task; sharpness of "
  "REINFORCE and gradient ascent",
  url="https://arxiv.org/abs/2503.04242",
)
NONE, DECAY, IGNITE, FIXED = "alone", "weight decay", "IGNITE", "IGNITE-2"
METHODS = {NONE: "plain", DECAY: "plain", IGNITE: "budget", FIXED: "fixed"}
NOTE = (
  "Each base keeps its own settings. The strength of each regulariser (the budget of IGNITE, the "
  "multiplier of IGNITE-2, weight decay) was chosen for each base by the true value of its best "
  "design on development seeds, from five values for every method alike; nobody could do that in a "
  "real offline task. The ends of the grids are natural ones: a budget at or below rho = .05 "
  "cannot be kept, since the output's bias alone contributes rho, and at the other ends next to "
  "nothing is regularised, which suits CbAS best. The share of bases that gain counts seeds: in "
  "REINFORCE and CMA-ES most seeds gain and some lose much. Weight decay, chosen alike, gains in "
  "as many bases, and as much."
)


@dataclasses.dataclass(frozen=True)
class Config(Settings):
  """Settings. A seed draws the designs, the batches, the weights and all that searches draw.

  Attributes:
    bases: what searches the surrogate.
    dimension: of a design, in [-1, 1]^dimension.
    designs: uniform designs, of which the worse half is the data and the better one is hidden.
    hidden: widths of the two hidden layers.
    epochs: of training.
    batch: designs of a batch.
    starts: best designs of the data, where searches start; as many are found.
    members: networks of an ensemble.
    steps: of gradient ascent, of 0.01 sqrt(dimension) each, and of REINFORCE.
    samples: designs of a step of REINFORCE, a quarter of those of CbAS.
    generations: of CMA-ES.
    conditionings: steps of CbAS.
    rounds: of Bayesian optimisation.
    round_designs: of a round of it.
    restarts: of the maximisation of expected improvement.
    climbs: steps of each.
    conservative_steps: of the ascent in the training of COMs, and of their search.
    conservative_step: length of these, times sqrt(dimension).
    budgets: of IGNITE; rho .05 is the published one, and its multiplier's rate is 3.
    multipliers: of IGNITE-2, whose rho is .2 as published.
    decays: of the squared weights, in the gradient.
    tuning_seeds: development seeds, from 50 on always, of the choices.
  """

  bases: tuple[str, ...] = BASES
  dimension: int = 10
  designs: int = 2000
  hidden: int = 64
  epochs: int = 100
  batch: int = 128
  starts: int = 64
  members: int = 3
  steps: int = 200
  samples: int = 256
  generations: int = 100
  conditionings: int = 20
  rounds: int = 4
  round_designs: int = 16
  restarts: int = 2
  climbs: int = 20
  conservative_steps: int = 5
  conservative_step: float = 0.1
  budgets: tuple[float, ...] = (0.051, 0.056, 0.07, 0.11, 0.2)
  multipliers: tuple[float, ...] = (0.03, 0.4, 2.0, 7.0, 30.0)
  decays: tuple[float, ...] = (1e-3, 0.01, 0.03, 0.064, 0.2)
  tuning_seeds: int = 4

  def grids(self) -> dict[str, tuple[float, ...]]:
    """What each method chooses from."""
    return {DECAY: self.decays, IGNITE: self.budgets, FIXED: self.multipliers}

  def pairs(self) -> int:
    """How many networks are searched at a time: those of the record, a method a seed."""
    return self.seeds * (1 + len(self.grids()))

  def conservative_length(self) -> float:
    """Of a step in the training of COMs."""
    return self.conservative_step * self.dimension**0.5


SIZES = {
  "toy": Size(
    Config(
      bases=(ASCENT, REINFORCE, COMS), seeds=2, dimension=3, designs=120, hidden=8, epochs=2,
      batch=30, starts=6, members=1, steps=4, samples=8, conservative_steps=2,
      budgets=(0.1,), multipliers=(2.0,), decays=(0.1,), tuning_seeds=2,
    ),
    "Two epochs, three bases; the Styblinski-Tang function instead of Design-Bench.",
  ),
  "desk": Size(
    Config(),
    "The Styblinski-Tang function of 10 variables instead of Design-Bench, 64 units a layer "
    "instead of 2048, squared error instead of a Gaussian head, fewer samples, members and inner "
    "steps; no MINs.",
  ),
  "large": Size(
    Config(
      designs=20_000, hidden=2048, starts=128, members=5, samples=2048, conservative_steps=50,
      conservative_step=0.05, rounds=10, round_designs=32, restarts=10, climbs=200,
    ),
    "The Styblinski-Tang function of 10 variables instead of Design-Bench; squared error instead "
    "of a Gaussian head; no MINs.",
  ),
}  # fmt: skip


def _searched(
  config: Config, progress: Progress, data: Any, chosen: dict[str, list], name: str
) -> dict[str, dict]:
  """What each base finds with its models (method, strength), [seeds, models, ...]."""
  wanted = {
    (*model, member)
    for base in config.bases
    if base != COMS
    for model in chosen[base]
    for member in range(members_of(base, config))
  }
  runs = sorted(wanted)
  weights = trained_flat(config, progress, data, runs, METHODS, name)
  found = {}
  for base in config.bases:
    models = [[(*model, k) for k in range(members_of(base, config))] for model in chosen[base]]
    if base == COMS:
      alone = [model[0] for model in models]
      own = trained_flat(config, progress, data, alone, METHODS, name, conservative=True)
      own = jax.tree.map(lambda v: v[:, :, None], own)
    else:
      places = np.array([[runs.index(run) for run in model] for model in models])
      own = jax.tree.map(lambda v, places=places: v[:, places], weights)
    found[base] = search_base(base, config, progress, own, data, name)
  return found


def _scores(found: dict, model: int) -> dict[str, np.ndarray]:
  return score(TANG, jax.tree.map(lambda v: v[:, model], found))


def tune(config: Config, progress: Progress) -> tuple[dict[str, list], list[Choice]]:
  """The strength of each method in each base, by the best design on development seeds."""
  seeds = range(50, 50 + config.tuning_seeds)
  data = stack([make_data(config, TANG, seed) for seed in seeds])
  models = [(NONE, 0.0), *((name, v) for name, grid in config.grids().items() for v in grid)]
  found = _searched(config, progress, data, dict.fromkeys(config.bases, models), "tuning")
  chosen, choices = {}, []
  for base in config.bases:
    best = {model: _scores(found[base], i)["best"].mean() for i, model in enumerate(models)}
    own = [
      choose(f"{name} in {base}", grid, [best[name, v] for v in grid], better="higher")
      for name, grid in config.grids().items()
    ]
    strengths = zip(config.grids(), (choice.chosen for choice in own), strict=True)
    chosen[base] = [(NONE, 0.0), *strengths]
    choices += own
  return chosen, choices


def run(config: Config, progress: Progress) -> dict[str, Any]:
  """Chooses strengths for each base, then trains and searches on the seeds of the record."""
  chosen, choices = tune(config, progress)
  data = stack([make_data(config, TANG, seed) for seed in config.seed_numbers()])
  found = _searched(config, progress, data, chosen, "record")
  metrics: dict[str, Any] = {
    base: {name: _scores(results, i) for i, (name, _) in enumerate(chosen[base])}
    for base, results in found.items()
  }
  return metrics | {"data": {"best": np.asarray(data["known best"])}, "choices": choices}


def _share(metrics: dict, config: Config, name: str) -> Side:
  """The part of the bases whose best design is better with a method than alone, a number a seed."""
  better = [
    np.greater(metrics[base][name]["best"], metrics[base][NONE]["best"]) for base in config.bases
  ]
  return Side(f"bases with {name}", np.mean(better, axis=0))


def claims(metrics: dict, config: Config) -> list[Claim]:
  """Gains in most bases; less sharpness in the two bases that the paper shows it for."""
  share = "part of the bases whose best design is truly better than the base's alone, a seed"
  half = Side("half of them", 0.5)
  found = [
    Claim(f"most_bases_{key}", f"{name} improves the best design of most bases.", "paper", share,
          _share(metrics, config, name), half)
    for key, name in (("ignite", IGNITE), ("ignite_2", FIXED))
  ]  # fmt: skip
  sharp = "0.05 times the norm of the mean prediction's gradient, hidden designs"
  return found + [
    Claim(f"sharpness_{key}", f"The surrogate that {base} searches is less sharp on unseen designs "
          "after IGNITE.", "paper", sharp, Side(IGNITE, metrics[base][IGNITE]["sharpness"]),
          Side(NONE, metrics[base][NONE]["sharpness"]), better="lower", scale="ratio")
    for key, base in (("reinforce", REINFORCE), ("gradient_ascent", ASCENT))
  ]  # fmt: skip


def table(metrics: dict, config: Config) -> list[Row]:
  """All methods in all bases beside the base alone; over all bases beside weight decay."""
  words = {
    "best": ("best design", "higher"), "median": ("median design", "higher"),
    "overestimation": ("prediction minus truth", "lower"),
    "sharpness": ("sharpness on hidden designs", "lower"),
  }  # fmt: skip
  rows = []
  for base in config.bases:
    side = lambda name, key, base=base: Side(name, metrics[base][name][key])
    known = Side("data", metrics["data"]["best"])
    rows.append(Row(f"best design, {base}", side(NONE, "best"), known))
    for name in (DECAY, IGNITE, FIXED):
      for key, (text, better) in words.items():
        pair, note = (side(name, key), side(NONE, key)), NOTE if key == "best" else ""
        rows.append(Row(f"{text}, {base}", *pair, better=better, note=note))
  mean = lambda name: np.mean([metrics[base][name]["best"] for base in config.bases], axis=0)
  rows += [
    Row(
      "best design, mean of all bases", Side(name, mean(name)), Side(DECAY, mean(DECAY)), note=NOTE
    )
    for name in (NONE, IGNITE, FIXED)
  ]
  return rows


def figure(record: dict) -> Any:
  """Best designs, over-estimation and sharpness of every base, a colour a method."""
  metrics, (fig, axes) = record["metrics"], new_figure(1, 3, width=5.0, height=3.8)
  bases = [base for base in BASES if base in metrics]
  for ax, key, label in (
    (axes[0], "best", "true value of the best design"),
    (axes[1], "overestimation", "prediction minus truth"),
    (axes[2], "sharpness", "sharpness on hidden designs"),
  ):
    groups = {name: {base: metrics[base][name][key] for base in bases} for name in METHODS}
    _figures.dots(ax, groups, ylabel=label)
  known = np.mean(metrics["data"]["best"])
  axes[0].axhline(known, color="0.4", lw=1, ls="--")
  axes[0].set_title("dashed: the best of the data", fontsize=9)
  return fig
