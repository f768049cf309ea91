"""A photograph recovered from random measurements, a quarter of which are grossly wrong."""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import _recovery, datasets
from experiments._claims import Claim, Side
from experiments._pictures import decode, encode, psnr
from experiments._protocol import Paper, Progress, Row, Settings, Size, new_figure
from experiments._recovery import FREE, GEOMETRIC, best, curves, pick_rule, thin
from jaxopt_robust import recovery, solvers, sweeps

PAPER = Paper(
  title="Global Convergence of Sub-gradient Method for Robust Matrix Recovery: Small "
  "Initialization, Noisy Measurements, and Over-parameterization",
  authors="Ma and Fattahi",
  year=2023,
  claim="The method keeps what it promises on a real matrix, which is only roughly of low rank and "
  "not symmetric: a small start and the l1 loss recover a photograph from grossly corrupted "
  "measurements, where the squared loss from the same start finds nothing. The width of the "
  "factors may be the full dimension.",
  section="Our own trial; the paper's experiments use synthetic matrices",
  url="https://arxiv.org/abs/2202.08788",
)
DEMO = True

CHOSEN, FULL, CLEAN, LARGER = "chosen width", "full width", "nothing wrong", "larger errors"
UNIT, SQUARED, TRIMMED = "unit start", "squared loss", "trimmed spectral"


@dataclasses.dataclass(frozen=True)
class Config(Settings):
  """Settings.

  Each seed draws its own cut-out of the picture, measurements and errors. The method takes
  ``residual_proportional`` steps. The baselines take their best steps by the error itself, and the
  squared loss is stopped at its best iterate: that can only favour them.

  Attributes:
    picture: a grey picture bundled with scikit-image.
    pixels: side of the picture after averaging blocks.
    block: side of an averaged block.
    measurements: number of Gaussian measurements.
    rate: fraction of measurements that are grossly wrong.
    scale: size of the gross errors, in standard deviations of the clean measurements.
    width: width of the factors where it is chosen for the picture.
    alpha: scale of the start.
    eta0: first normalised step.
    steps: number of steps.
    decays: of the geometric steps from a start of unit scale.
    squared_rates: constant steps of the squared loss.
    squared_steps: its number of steps.
  """

  picture: str = "camera"
  pixels: int = 48
  block: int = 8
  measurements: int = 3600
  rate: float = 0.25
  scale: float = 10.0
  width: int = 10
  alpha: float = 1e-3
  eta0: float = 0.25
  steps: int = 1000
  decays: tuple[float, ...] = (0.95, 0.97, 0.98, 0.99)
  squared_rates: tuple[float, ...] = (0.0001, 0.001, 0.01, 0.1)
  squared_steps: int = 300


SIZES = {
  "toy": Size(
    Config(
      seeds=2, pixels=12, block=32, measurements=300, width=3, alpha=1e-2, steps=200,
      decays=(0.98,), squared_rates=(0.01,), squared_steps=40,
    ),
    "12 x 12 pixels; the paper has no picture.",
  ),
  "desk": Size(Config(), "48 x 48 pixels; the paper has no picture."),
  "large": Size(
    Config(pixels=100, block=4, measurements=16_000, width=20, steps=3000, squared_steps=600),
    "100 x 100 pixels; the paper has no picture.",
  ),
}  # fmt: skip


class Setting(NamedTuple):
  """One run.

  Attributes:
    width: columns of the factors.
    alpha: scale of the start.
    spectral: whether it comes from the signs of the measurements or is random.
    rule: FREE or GEOMETRIC steps.
    number: their decay, or the step of the squared loss.
    scale: size of the gross errors, in standard deviations of the clean measurements.
  """

  width: Any
  alpha: Any
  spectral: Any
  rule: Any
  number: Any
  scale: Any


class Outcome(NamedTuple):
  """Last matrix, errors along the run, the picture, and the one-step spectral estimate."""

  image: jax.Array
  err: jax.Array
  truth: jax.Array
  trimmed: jax.Array


@functools.cache
def picture_program(config: Config, *, squared: bool) -> Any:
  """``program(settings, key) -> Outcome``, a row a setting; the key decides on the problem."""
  whole = np.asarray(datasets.load(config.picture)["image"], np.float32)
  size, side = config.pixels, config.pixels * config.block
  room = jnp.asarray(whole.shape) - side + 1

  def solve(setting: Setting, key: jax.Array) -> Outcome:
    names = ("place", "operator", "errors", "start")
    keys = dict(zip(names, jax.random.split(key, len(names)), strict=True))
    corner = jax.random.randint(keys["place"], (2,), 0, room)
    square = jax.lax.dynamic_slice(jnp.asarray(whole), corner, (side, side))
    truth = square.reshape(size, config.block, size, config.block).mean((1, 3))
    op = recovery.make_gaussian_sensing(keys["operator"], config.measurements, size, size)
    clean = op.apply(truth)
    gross = setting.scale * jnp.std(clean)
    y = recovery.bernoulli_outliers(keys["errors"], clean, rate=config.rate, scale=gross).y
    signs = recovery.sign_spectral(op, y, size, alpha=setting.alpha, kind="general")
    random = recovery.random_small(keys["start"], (size, size), size, alpha=setting.alpha)
    columns = jnp.arange(size) < setting.width  # a column that is 0 stays 0
    choose = lambda a, b: jnp.where(columns, jnp.where(setting.spectral, a, b), 0)
    start = jax.tree.map(choose, signs, random)
    if squared:
      loss = recovery.squared_value_grad
      solver = recovery.subgradient_method(optax.sgd, value_and_subgrad=loss)
      data, steps = (op, y, truth), config.squared_steps
      factors, trace = solvers.run_steps(solver, start, setting.number, *data, num_steps=steps)
    else:
      rules = (
        recovery.residual_proportional(eta0=config.eta0),
        recovery.q_normalized_geometric(eta0=config.eta0, rho=setting.number),
      )
      tx = pick_rule(setting.rule, rules)
      factors, trace = recovery.subgm(op, y, start, tx=tx, num_steps=config.steps, truth=truth)
    trimmed = recovery.compose(recovery.median_truncated_spectral(op, y, config.width))
    return Outcome(recovery.compose(factors), trace.err, truth, trimmed)

  mapped = sweeps.sweep(solve)
  return jax.jit(lambda settings, key: mapped(settings, shared=(key,)))


def run(config: Config, progress: Progress) -> dict[str, Any]:
  """Recovers the pictures with the l1 and the squared loss."""
  choices: list = []
  free = Setting(config.pixels, config.alpha, True, FREE, 0.5, config.scale)
  unit = free._replace(alpha=1.0, spectral=False, rule=GEOMETRIC)
  settings = {
    CHOSEN: free._replace(width=config.width), FULL: free, CLEAN: free._replace(scale=0.0),
    LARGER: free._replace(scale=100 * config.scale),
  }  # fmt: skip
  runs = [*settings.values(), *(unit._replace(number=rho) for rho in config.decays)]
  slopes = [free._replace(number=step) for step in config.squared_rates]

  def solve(runs: list[Setting], name: str, *, squared: bool) -> Outcome:
    program, seeds = picture_program(config, squared=squared), config.seed_numbers()
    return _recovery.run_all(progress, seeds, len(runs), program, runs, name=name)

  l1, l2 = solve(runs, "l1 loss", squared=False), solve(slopes, SQUARED, squared=True)
  truth, first = l1.truth[:, 0], len(settings)
  decay = first + best(choices, "decay from unit scale", config.decays, l1.err[:, first:, -1])
  lines = np.where(np.isfinite(l2.err), l2.err, np.inf)
  step = best(choices, "step of the squared loss", config.squared_rates, lines.min(-1))
  places = {name: i for i, name in enumerate(settings)} | {UNIT: decay}
  errors = {name: l1.err[:, i, -1] for name, i in places.items()}
  errors |= {SQUARED: lines[:, step].min(-1)}
  errors[TRIMMED] = np.linalg.norm(l1.trimmed[:, 0] - truth, axis=(1, 2))
  left, values, right = np.linalg.svd(truth)
  low = (left[:, :, : config.width] * values[:, None, : config.width]) @ right[:, : config.width]
  floor = "best of this rank"
  errors[floor] = np.linalg.norm(low - truth, axis=(1, 2))
  pictures = {"original": truth[0], floor: low[0], SQUARED: l2.image[0, step]}
  pictures |= {name: l1.image[0, i] for name, i in places.items()}
  level = {name: psnr(l1.err[0, i], config.pixels) for name, i in places.items()}
  level[SQUARED] = psnr(lines[0, step], config.pixels)
  return {
    "psnr": {name: psnr(values, config.pixels) for name, values in errors.items()},
    "singular_values": values[0],
    "curves": {name: thin(curve) for name, curve in level.items()},
    "pictures": {name: encode(image) for name, image in pictures.items()},
    "choices": choices,
  }


def claims(metrics: dict[str, Any], config: Config) -> list[Claim]:
  """Full width beside the squared loss, one spectral step, a unit start, and a chosen width."""
  side = {name: Side(name, values) for name, values in metrics["psnr"].items()}
  full, what = side[FULL], f"PSNR in dB, {config.rate:.0%} wrong"
  text = "At full width the l1 loss from a small start recovers the picture better than"
  return [
    Claim(
      "squared", f"{text} the best iterate of the squared loss.", "paper", what, full, side[SQUARED]
    ),
    Claim(
      "spectral", f"{text} a spectral estimate from the measurements within two medians.", "paper",
      what, full, side[TRIMMED],
    ),
    Claim("unit_start", f"{text} a start of unit scale.", "paper", what, full, side[UNIT]),
    Claim(
      "width", "The full width, chosen without looking at the picture, loses at most 1 dB to the "
      "chosen one.", "paper", what, full, side[CHOSEN], margin=-1.0,
    ),
    Claim(
      "outlier_size", "The size of the gross errors does not matter: errors 100 times larger "
      "change the PSNR by less than 1 dB.", "control", what, side[LARGER], full, margin=1.0,
    ),
  ]  # fmt: skip


def table(metrics: dict[str, Any], config: Config) -> list[Row]:
  """Full width beside everything else."""
  side = {name: Side(name, values) for name, values in metrics["psnr"].items()}
  metric = (
    f"PSNR in dB, {config.pixels} x {config.pixels} pixels, {config.measurements} measurements, "
    f"{config.rate:.0%} wrong"
  )
  notes = {
    CLEAN: "What the gross errors cost.",
    "best of this rank": f"The best matrix of rank {config.width}, from the picture itself.",
    FULL: "There are more measurements than pixels.",
  }
  return [
    Row(metric, side[FULL], other, note=notes.get(name, notes[FULL]))
    for name, other in side.items()
    if name != FULL
  ]


def figure(record: dict[str, Any]) -> Any:
  """The photograph, what each method makes of it, PSNR along the runs, and the singular values."""
  metrics, pixels = record["metrics"], record["settings"]["pixels"]
  fig, axes = new_figure(2, 4, width=3.2, height=3.2)
  names = ("original", "best of this rank", CLEAN, CHOSEN, FULL, SQUARED)
  for ax, name in zip((*axes[:3], *axes[4:7]), names, strict=True):
    ax.imshow(decode(metrics["pictures"][name], pixels), cmap="gray", vmin=0, vmax=1)
    level = f": {metrics['psnr'][name][0]:.1f} dB" if name in metrics["psnr"] else ""
    ax.set_title(name + level, fontsize=10)
    ax.set_axis_off()
  title = f"{record['settings']['rate']:.0%} of {record['settings']['measurements']} wrong"
  curves(axes[3], metrics["curves"], ylabel="PSNR (dB)", title=title)
  axes[3].set_ylim(0, None)
  values = np.asarray(metrics["singular_values"], float)
  axes[7].semilogy(np.arange(1, len(values) + 1), values, "o-", ms=3)
  axes[7].axvline(record["settings"]["width"] + 0.5, color="k", ls=":")
  axes[7].set(xlabel="number", title="Singular values of the picture")
  return fig
