"""How many measurements recovery takes: maps over corruption and rank."""

import dataclasses
from typing import Any

import numpy as np

from experiments import _amendments, _figures, _recovery
from experiments._claims import Claim, Side
from experiments._protocol import Paper, Progress, Row, Settings, Size, new_figure
from experiments._recovery import Sensing

PAPER = Paper(
  title="Global Convergence of Sub-gradient Method for Robust Matrix Recovery: Small "
  "Initialization, Noisy Measurements, and Over-parameterization",
  authors="Ma and Fattahi",
  year=2023,
  claim="From a small start the sub-gradient method recovers the matrix for any fraction of gross "
  "errors below one, given enough measurements; how many it takes grows with the corruption and "
  "the rank and does not depend on the width of the factors.",
  section="Theorems 1 and 2; the maps are ours",
  url="https://arxiv.org/abs/2202.08788",
)
AMENDED = _amendments.RECOVERY_PHASE_MAPS

FULL, KNOWN, UNIT = "small start, full width", "small start, true rank", "unit start, full width"
METHODS = (FULL, KNOWN, UNIT)


@dataclasses.dataclass(frozen=True)
class Config(Settings):
  """Settings.

  The small start takes ``residual_proportional`` steps, which are made for less than three quarters
  of gross errors. The start of unit scale takes geometric steps; their first length and decay are
  those that recover most runs of development seeds at desk size.

  Attributes:
    dim: rows and columns of the matrix.
    rates: fractions of gross errors of the first map.
    rank: rank of the first map; all singular values are 1.
    ranks: ranks of the second map.
    rate: fraction of gross errors of the second map.
    samples: numbers of measurements, both maps.
    outlier_scale: standard deviation of the gross errors.
    alpha: scale of the small start.
    unit_eta0: first normalised step of the unit start.
    unit_decay: decay of its steps.
    steps: steps of a run.
    success: relative error that counts as recovered.
    lanes: runs at a time.
  """

  dim: int = 16
  rates: tuple[float, ...] = (0.0, 0.15, 0.3, 0.45, 0.6, 0.7)
  rank: int = 2
  ranks: tuple[int, ...] = (1, 2, 3, 4, 6)
  rate: float = 0.2
  samples: tuple[int, ...] = (64, 96, 128, 192, 256, 384, 512, 768, 1024)
  outlier_scale: float = 10.0
  alpha: float = 1e-3
  unit_eta0: float = 0.1
  unit_decay: float = 0.996
  steps: int = 1000
  success: float = 1e-2
  lanes: int = 64


SIZES = {
  "toy": Size(
    Config(
      seeds=2, dim=6, rates=(0.0, 0.6), rank=1, ranks=(1, 2), samples=(24, 160), steps=300,
      alpha=1e-2, success=0.1, lanes=24,
    ),
    "6 x 6 matrices.",
  ),
  "desk": Size(Config(), "16 x 16 matrices; the paper shows no such map."),
  "large": Size(
    Config(
      dim=50, rank=3, rates=(0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7), ranks=(1, 2, 3, 5, 7, 10),
      samples=(500, 1000, 2000, 4000, 8000, 16000), steps=3000,
    ),
    "50 x 50 matrices; the paper shows no such map.",
  ),
}  # fmt: skip


def levels(config: Config) -> list[tuple[float, int]]:
  """Corruption and rank of every row, the rows of the first map first."""
  return [(r, config.rank) for r in config.rates] + [(config.rate, k) for k in config.ranks]


def settings_of(config: Config, method: str) -> list[Sensing]:
  """All runs of a method on one seed: a row of measurements for each corruption and rank."""
  made = []
  for rate, rank in levels(config):
    for size in config.samples:
      run = Sensing(
        rank, rank if method == KNOWN else config.dim, config.alpha, rate=rate,
        scale=config.outlier_scale, size=size,
      )  # fmt: skip
      if method == UNIT:
        run = run._replace(
          alpha=1.0, spectral=False, rule=_recovery.GEOMETRIC, number=config.unit_decay,
          eta0=config.unit_eta0,
        )  # fmt: skip
      made.append(run)
  return made


def run(config: Config, progress: Progress) -> dict[str, Any]:
  """Solves every point of both maps for every seed."""
  program = _recovery.sensing_program(max(config.samples), config.dim, config.steps)
  runs = [setting for method in METHODS for setting in settings_of(config, method)]
  found = _recovery.run_all(
    progress, config.seed_numbers(), config.lanes, program, runs, name="runs"
  ).err[..., -1]
  norms = np.sqrt([rank for _, rank in levels(config)])
  shape = (config.seeds, len(METHODS), len(norms), len(config.samples))
  errors = found.reshape(shape) / norms[:, None]
  recovered = errors <= config.success
  return {
    "errors": errors,
    "needed": {name: needed(config, recovered[:, i]) for i, name in enumerate(METHODS)},
    "share": {name: recovered[:, i].mean((1, 2)) for i, name in enumerate(METHODS)},
  }


def needed(config: Config, recovered: np.ndarray) -> np.ndarray:
  """Least number of measurements from which on all runs succeed; 1.5 times the most if none."""
  from_here_on = np.flip(np.cumprod(np.flip(recovered, -1), -1), -1).astype(bool)
  sizes = np.where(from_here_on, np.asarray(config.samples, float), 1.5 * max(config.samples))
  return sizes.min(-1)


def claims(metrics: dict[str, Any], config: Config) -> list[Claim]:
  """Growth of the measurements with corruption and rank; width; unit start; much corruption."""
  counts = {name: np.asarray(rows, float) for name, rows in metrics["needed"].items()}
  rows, split = counts[FULL], len(config.rates)
  right = 1 / (1 - np.asarray(config.rates))
  heavy = np.asarray(metrics["errors"], float)[:, 0, split - 1, -1]
  most = f"{config.rates[-1]:.0%} gross errors and {config.samples[-1]} measurements"
  return [
    Claim(
      "corruption", "The measurements it takes grow no faster than 1/(1 - p)^2 in the fraction p "
      "of gross errors.", "theory", "slope of log measurements in log 1/(1 - p)",
      Side("slope", _recovery.slope(right, rows[:, :split].T)), Side("2", 2.0), better="lower",
    ),
    Claim(
      "rank", "They grow no faster than the square of the rank.", "theory",
      "slope of log measurements in log rank",
      Side("slope", _recovery.slope(config.ranks, rows[:, split:].T)), Side("2", 2.0),
      better="lower",
    ),
    Claim(
      "width", "They do not depend on the width: at no level of corruption or rank does full width "
      "take more than a step of the grid, a factor 1.5, beyond what the true rank takes.",
      "control",
      "measurements of full width over those of the true rank, the largest of all levels",
      Side(FULL, np.max(counts[FULL] / counts[KNOWN], axis=1)), Side(KNOWN, 1.0), scale="ratio",
      margin=1.5,
    ),
    Claim(
      "unit_start", "At full width the small start recovers more of the map than a start of unit "
      "scale.", "paper", "share of the runs recovered", Side(FULL, metrics["share"][FULL]),
      Side(UNIT, metrics["share"][UNIT]),
    ),
    Claim(
      "heavy", f"With {most} the matrix is recovered to {config.success:g} at full width.", "paper",
      "relative error", Side(FULL, heavy), Side("success", config.success), better="lower",
      scale="ratio",
    ),
  ]  # fmt: skip


def table(metrics: dict[str, Any], config: Config) -> list[Row]:
  """Measurements that full width takes beside those of the true rank; shares of the maps."""
  rows = []
  for i, (rate, rank) in enumerate(levels(config)):
    ours, base = (
      Side(name, np.asarray(metrics["needed"][name], float)[:, i]) for name in (FULL, KNOWN)
    )
    metric = f"measurements to recover rank {rank} with {rate:.0%} wrong"
    note = "Where the most measurements do not suffice, 1.5 times as many are written."
    rows.append(Row(metric, ours, base, better="lower", note=note))
  share = {name: Side(name, values) for name, values in metrics["share"].items()}
  rows += [Row("share of both maps recovered", share[FULL], share[n]) for n in (KNOWN, UNIT)]
  return rows


def figure(record: dict[str, Any]) -> Any:
  """Two rows of heat maps, a column a method: the fraction of problems recovered."""
  metrics, settings = record["metrics"], record["settings"]
  fig, axes = new_figure(2, len(METHODS), width=3.6)
  share = (np.asarray(metrics["errors"], float) <= settings["success"]).mean(0)
  split, image = len(settings["rates"]), None
  maps = (
    (share[:, :split], settings["rates"], "fraction of gross errors"),
    (share[:, split:], settings["ranks"], "rank"),
  )
  for i, (values, names, label) in enumerate(maps):
    for k, method in enumerate(METHODS):
      image = _figures.heat_map(
        axes[i * len(METHODS) + k], values[k], settings["samples"], names, xlabel="measurements",
        ylabel=label if k == 0 else "", title=method, vmin=0, vmax=1,
      )  # fmt: skip
  fig.colorbar(image, ax=list(axes), label="fraction recovered", shrink=0.8)
  return fig
