"""Recovering a low-rank matrix from grossly corrupted measurements without knowing its rank."""

import dataclasses
import functools
import math
from typing import Any

import numpy as np

from experiments import _figures, _recovery
from experiments._claims import Claim, Side
from experiments._protocol import Paper, Progress, Row, Settings, Size, new_figure
from experiments._recovery import Sensing, best, curves, middle, thin

PAPER = Paper(
  title="Global Convergence of Sub-gradient Method for Robust Matrix Recovery: Small "
  "Initialization, Noisy Measurements, and Over-parameterization",
  authors="Ma and Fattahi",
  year=2023,
  claim="Started small, the sub-gradient method on the l1 loss recovers a low-rank matrix although "
  "a fraction of the measurements is arbitrarily wrong; the error shrinks with the scale of the "
  "start and does not depend on the width of the factors, even where the truth is not the "
  "minimiser of the loss.",
  section="Theorems 1 and 2 and the numerical experiments",
  url="https://arxiv.org/abs/2202.08788",
)


@dataclasses.dataclass(frozen=True)
class Config(Settings):
  """Settings.

  The method takes ``residual_proportional`` steps; the baselines choose theirs inside the run by
  the error itself, which can only favour them. Runs at the true rank end at rounding, 1e-7.

  Attributes:
    dim: rows and columns of the matrix.
    rank: its rank; all singular values are 1.
    measurements: number of Gaussian measurements.
    rate: fraction of measurements that are grossly wrong.
    scale: standard deviation of the gross errors.
    widths: widths of the factor: the rank, a few more, the full dimension.
    alphas: scales of the start; the third is that of all other parts.
    eta0: first step under gross errors, normalised; the theory has small ones.
    steps: steps of a run.
    rates: growing fractions of gross errors.
    decays: of the geometric steps from a start of unit scale.
    squared_steps: constant steps of the squared loss, which is stopped at its best iterate.
    noises: standard deviations of dense Gaussian noise.
    noise_sizes: numbers of measurements under it.
    noise_steps: steps of a run there.
    constant_steps: constant steps of the l1 loss there.
    big_dim: dimension of the problem whose truth is not the minimiser.
    big_measurements: its measurements, fewer than the free parameters.
    big_scale: standard deviation of its gross errors.
    big_alpha: its start.
    big_steps: its steps.
    big_decays: as ``decays``, for it.
    lanes: runs at a time.
  """

  seeds: int = 12
  dim: int = 20
  rank: int = 2
  measurements: int = 1200
  rate: float = 0.3
  scale: float = 100.0
  widths: tuple[int, ...] = (2, 5, 20)
  alphas: tuple[float, ...] = (1e-1, 1e-2, 1e-3, 1e-4)
  eta0: float = 0.05
  steps: int = 1400
  rates: tuple[float, ...] = (0.0, 0.15, 0.3, 0.45, 0.6)
  decays: tuple[float, ...] = (0.97, 0.98, 0.99, 0.995, 0.997, 0.998)
  squared_steps: tuple[float, ...] = (0.001, 0.01, 0.1, 1.0, 10.0)
  noises: tuple[float, ...] = (0.1, 0.3, 1.0)
  noise_sizes: tuple[int, ...] = (1200, 4800)
  noise_steps: int = 500
  constant_steps: tuple[float, ...] = (0.01, 0.03, 0.1)
  big_dim: int = 50
  big_measurements: int = 800
  big_scale: float = 10.0
  big_alpha: float = 1e-8
  big_steps: int = 3000
  big_decays: tuple[float, ...] = (0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999)
  lanes: int = 8


SIZES = {
  "toy": Size(
    Config(
      seeds=2, dim=8, rank=1, measurements=160, widths=(1, 3, 8), alphas=(1e-1, 1e-2, 1e-3),
      eta0=0.25, steps=300, rates=(0.0, 0.3), decays=(0.97,), squared_steps=(0.01,),
      noises=(0.1, 1.0), noise_sizes=(80, 160), noise_steps=300, constant_steps=(0.05,),
      big_dim=8, big_measurements=160, big_alpha=1e-4, big_steps=300, big_decays=(0.98,), lanes=4,
    ),
    "8 x 8 matrices of rank 1.",
  ),
  "desk": Size(Config(), "20 x 20 matrices of rank 2; the paper's sizes were not read."),
  "large": Size(
    Config(
      seeds=8, dim=50, rank=3, measurements=8000, widths=(3, 10, 50), noise_sizes=(8000, 32000),
      rates=(0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7), steps=2400, noise_steps=1500, big_steps=6000,
    ),
    "50 x 50 matrices of rank 3; the paper's sizes were not read.",
  ),
}  # fmt: skip


def run(config: Config, progress: Progress) -> dict[str, Any]:
  """Corruption, Gaussian noise, and a truth that is not the minimiser."""
  choices: list = []
  every = functools.partial(_recovery.run_all, progress, config.seed_numbers(), config.lanes)
  parts = {"noise": _noise, "not_minimiser": _not_minimiser}
  metrics = _corruption(config, every, choices) | {"choices": choices}
  return metrics | {name: part(config, every, choices) for name, part in parts.items()}


def _corruption(config: Config, every: Any, choices: list) -> dict[str, Any]:
  """Start, width and growing corruption, beside a start of unit scale and the squared loss."""
  alpha, few, full = config.alphas[2], config.widths[0], config.widths[-1]
  gross = {"rate": config.rate, "scale": config.scale, "eta0": config.eta0}
  one = functools.partial(Sensing, config.rank, **gross)
  parts = (
    [one(w, a) for w in config.widths for a in config.alphas],
    [one(w, alpha, rate=r) for w in (few, full) for r in config.rates],
    [one(full, alpha, scale=1e4 * config.scale)],
    [one(full, 1.0, False, _recovery.GEOMETRIC, rho, eta0=0.25) for rho in config.decays],
  )
  sizes = (config.measurements, config.dim, config.steps)
  program, settings = _recovery.sensing_program(*sizes), [s for part in parts for s in part]
  found = every(program, settings, name="gross errors").err
  cuts = np.cumsum([len(part) for part in parts])[:-1]
  by_start, by_rate, larger, unit = np.split(found, cuts, axis=1)
  by_start = by_start.reshape(config.seeds, len(config.widths), len(config.alphas), -1)
  there = by_start[:, :, 2] < 0.01 * math.sqrt(config.rank)
  decay = best(choices, "decay from unit scale", config.decays, unit[..., -1])
  program = _recovery.sensing_program(*sizes, squared=True)
  settings = [one(full, alpha, number=s) for s in config.squared_steps]
  squares = every(program, settings, name="squared loss").err
  squares = np.where(squares < 1e3, squares, np.nan)  # what has diverged
  least = np.nanmin(squares, -1)
  step = best(choices, "step of the squared loss", config.squared_steps, least)
  lines = {f"width {w}": by_start[0, i, 2] for i, w in enumerate(config.widths)}
  lines |= {"unit start": unit[0, decay], "squared loss": squares[0, step]}
  return {
    "errors": by_start[..., -1],
    "arrival": np.where(there.any(-1), there.argmax(-1), config.steps) + 1,
    "by_rate": by_rate[..., -1].reshape(config.seeds, 2, -1),
    "larger_outliers": larger[:, 0, -1],
    "unit_start": unit[:, decay, -1],
    "squared_least": least[:, step],
    "curves": {name: thin(line) for name, line in lines.items()},
  }


def _noise(config: Config, every: Any, choices: list) -> dict[str, Any]:
  """Errors under Gaussian noise by width, size and noise; constant steps at the hardest of them."""
  widths, sizes, noises = (config.widths[0], config.widths[-1]), config.noise_sizes, config.noises
  one = functools.partial(Sensing, config.rank, alpha=config.alphas[2])
  settings = [one(width=w, size=m, noise=n) for w in widths for m in sizes for n in noises]
  free = len(settings)
  worst = {"rule": _recovery.CONSTANT, "noise": noises[-1], "size": sizes[0]}
  settings += [one(width=w, number=s, **worst) for w in widths for s in config.constant_steps]
  program = _recovery.sensing_program(max(sizes), config.dim, config.noise_steps)
  last = every(program, settings, name="Gaussian noise").err[..., -1]
  errors = last[:, :free].reshape(config.seeds, 2, len(sizes), len(noises))
  constant = last[:, free:].reshape(config.seeds, 2, -1)
  place = best(choices, "constant step under noise", config.constant_steps, constant[:, 1])
  slope = lambda x, y: np.polyfit(np.log(x), np.log(y), 1)[0]
  return {
    "errors": errors,
    "slope_noise": [slope(noises, e.mean((0, 1))) for e in errors],
    "slope_size": [slope(sizes, e.mean((0, 2))) for e in errors],
    "constant": constant[..., place],
  }


def _not_minimiser(config: Config, every: Any, choices: list) -> dict[str, Any]:
  """Fewer measurements than parameters: the same random directions, small and of unit scale."""
  dim, decays = config.big_dim, config.big_decays
  one = functools.partial(Sensing, config.rank, dim, rate=config.rate, scale=config.big_scale)
  settings = [one(config.big_alpha, False)]
  settings += [one(1.0, False, _recovery.GEOMETRIC, rho) for rho in decays]
  program = _recovery.sensing_program(config.big_measurements, dim, config.big_steps)
  found = every(program, settings, name="truth no minimiser")
  closest = 1 + best(choices, "decay, truth no minimiser", decays, found.err[:, 1:, -1])
  lowest = 1 + best(choices, "decay of the least loss", decays, found.value[:, 1:, -1])
  places = {"small start": 0, "unit start, closest": closest, "unit start, lowest": lowest}
  return {
    "loss": {name: found.value[:, i, -1] for name, i in places.items()}
    | {"truth": found.truth_loss[:, 0]},
    "error": {name: found.err[:, i, -1] for name, i in places.items()},
    "loss_curves": {name: thin(found.value[0, i]) for name, i in places.items()},
    "error_curves": {name: thin(found.err[0, i]) for name, i in places.items()},
  }


def claims(metrics: dict[str, Any], config: Config) -> list[Claim]:
  """Start, width, outliers, a truth that is not the minimiser, and the rate under noise."""
  errors, arrival = np.asarray(metrics["errors"]), np.asarray(metrics["arrival"])
  noise, loss, error = metrics["noise"], *(metrics["not_minimiser"][k] for k in ("loss", "error"))
  (first, _, alpha), (_, few, full) = config.alphas[:3], config.widths
  what = f"||X - X*||_F, {config.rate:.0%} gross errors"
  sides = {w: Side(f"width {w}", errors[:, i, 2]) for i, w in enumerate(config.widths)}
  small = Side(f"start of {alpha:g}", errors[:, 2, 2])
  lower = functools.partial(Claim, kind="paper", better="lower", scale="ratio")
  equal = functools.partial(Claim, kind="control", scale="ratio")
  return [
    lower(
      "start", "At full width a start a hundred times smaller ends with less than a hundredth of "
      "the error.", metric=what, ours=small, baseline=Side(f"start of {first:g}", errors[:, 2, 0]),
      margin=100.0,
    ),
    equal(
      "width", "The error does not depend on the surplus width, within a factor 2.", metric=what,
      ours=sides[full], baseline=sides[few], margin=2.0,
    ),
    equal(
      "width_steps", "Nor does the number of steps to an error of 1 %, within 10 %.",
      metric="steps to 1 % of ||X*||_F", margin=1.1,
      ours=Side(f"width {full}", arrival[:, 2]), baseline=Side(f"width {few}", arrival[:, 1]),
    ),
    lower(
      "small_start", "At full width the small start ends closer than a start of unit scale.",
      metric=what, ours=small, baseline=Side("unit start, its best decay", metrics["unit_start"]),
    ),
    equal(
      "outlier_size", "The size of the gross errors does not matter: 10,000 times larger ones "
      "change the error at full width by less than a factor 3.", metric=what,
      ours=Side("larger errors", metrics["larger_outliers"]), baseline=small, margin=3.0,
    ),
    lower(
      "not_minimiser", "With fewer measurements than parameters the truth is not the minimiser: "
      "the start of unit scale finds a lower loss.", metric="l1 loss",
      baseline=Side("the truth", loss["truth"]),
      ours=Side("unit start", loss["unit start, lowest"]),
    ),
    lower(
      "not_minimiser_error", "There the small start ends closer to the truth than the start of "
      "unit scale.", metric="||X - X*||_F", ours=Side("small start", error["small start"]),
      baseline=Side("unit start, its best decay", error["unit start, closest"]),
    ),
    Claim(
      "noise_slope", "Under Gaussian noise the error is proportional to its size: a slope of 1, "
      "within .05.", "control", "slope of log error in log nu",
      Side("slope", noise["slope_noise"]), Side("1", 1.0), margin=0.05,
    ),
    Claim(
      "noise_sizes", "It falls with the root of the number of measurements: a slope of -1/2, "
      "within .1.", "control", "slope of log error in log m",
      Side("slope", noise["slope_size"]), Side("-1/2", -0.5), margin=0.1,
    ),
  ]  # fmt: skip


def table(metrics: dict[str, Any], config: Config) -> list[Row]:
  """Errors beside those of the baselines."""
  errors, noise = np.asarray(metrics["errors"], float), metrics["noise"]
  small, *others = (Side(*item) for item in metrics["not_minimiser"]["error"].items())
  last, steps = np.asarray(noise["errors"], float), np.asarray(noise["constant"], float)
  what = f"||X - X*||_F, {config.rate:.0%} gross errors of size {config.scale:g}"
  note = f"||X*||_F = {math.sqrt(config.rank):.2f}. The paper shows figures only."
  squared = Side("squared loss, its best step and iterate", metrics["squared_least"])
  unit = Side("unit start, its best decay", metrics["unit_start"])
  sides = [Side(f"SubGM, width {w}", errors[:, i, 2]) for i, w in enumerate(config.widths)]
  rows = [(what, side, squared, note) for side in sides]
  rows.append((what, sides[-1], unit, ""))
  metric = f"||X - X*||_F, {config.big_measurements} measurements, width {config.big_dim}"
  rows += [(metric, small, other, "") for other in others]
  metric = f"||X - X*||_F, {config.noise_sizes[0]} measurements, noise {config.noises[-1]:g}"
  for i, w in enumerate((config.widths[0], config.widths[-1])):
    constant = Side(f"constant step, width {w}", steps[:, i])
    rows.append((metric, Side(f"SubGM, width {w}", last[:, i, 0, -1]), constant, ""))
  return [Row(metric, *sides, better="lower", note=note) for metric, *sides, note in rows]


def figure(record: dict[str, Any]) -> Any:
  """Error along runs, by start, corruption and noise; loss and error where they disagree."""
  metrics, settings = record["metrics"], record["settings"]
  fig, axes = new_figure(2, 3, width=4.2)
  what, ends = r"$\|X - X^*\|_F$", settings["widths"][:: len(settings["widths"]) - 1]
  named = lambda names, lines: {f"width {w}": v for w, v in zip(names, lines, strict=True)}
  title = f"{settings['rate']:.0%} gross errors"
  curves(axes[0], metrics["curves"], ylabel=what, title=title, log="y")
  lines = named(settings["widths"], middle(metrics["errors"]))
  _figures.curves(axes[1], lines, settings["alphas"], log="xy", xlabel="scale of the start, alpha")
  lines = named(ends, middle(metrics["by_rate"]))
  _figures.curves(axes[2], lines, settings["rates"], log="y", xlabel="fraction of gross errors")
  noise, big = middle(metrics["noise"]["errors"]), metrics["not_minimiser"]
  lines = {
    f"{m} measurements, {name}": line for j, m in enumerate(settings["noise_sizes"])
    for name, line in named(ends, noise[:, j]).items()
  }  # fmt: skip
  _figures.curves(axes[3], lines, settings["noises"], log="xy", xlabel="Gaussian noise")
  title = f"{settings['big_measurements']} measurements, width {settings['big_dim']}"
  curves(axes[4], big["loss_curves"], ylabel="l1 loss (dotted: of the truth)", title=title, log="x")
  axes[4].axhline(big["loss"]["truth"][0], color="k", ls=":")
  curves(axes[5], big["error_curves"], ylabel=what, title=title, log="xy")
  return fig
