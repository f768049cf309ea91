"""Spectral images unmixed with a tenth of bad channels: norms or squares, learned sparsity."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import _figures, datasets
from experiments._claims import Claim, Side
from experiments._pictures import decode, encode
from experiments._protocol import Paper, Progress, Row, Settings, Size, new_figure
from jaxopt_robust import problems, recovery, solvers

PAPER = Paper(
  title="Effective spectral unmixing via robust representation and learning-based sparsity",
  authors="Zhu, Wang, Fan, Meng and Pan",
  year=2014,
  claim="A sum of norms of channels keeps outlier channels from dominating the factorisation, and "
  "a sparsity whose exponent is learned pixel by pixel finds better spectra and abundances than "
  "earlier sparse factorisations; the learned map shows how mixed each pixel is.",
  section="Abstract (it names no numbers)",
  url="https://arxiv.org/abs/1409.0685",
)

ROBUST, FIXED = "l2,1, learned map", "l2,1, l1/2"
SQUARES, PALM = "squares, learned map", "l2,1, l1/2, PALM"  # PALM: the objective of FIXED
# name -> (whether norms of channels are summed, exponent of the sparsity, whether it is used)
METHODS: dict[str, tuple[bool, float | None, bool]] = {
  "NMF": (False, 1.0, False),
  "l1-NMF": (False, 1.0, True),
  "l1/2-NMF": (False, 0.5, True),
  SQUARES: (False, None, True),
  "l2,1": (True, 1.0, False),
  FIXED: (True, 0.5, True),
  ROBUST: (True, None, True),
  PALM: (True, 0.5, True),
}
SPARSE = [name for name, (*_, used) in METHODS.items() if used]
ORACLE, PICKED = "true spectra", "start alone"
PLAIN = "plain"  # the case in which methods start from pixels picked without regard to noise
SHOWN = ("truth", "l1/2-NMF", ROBUST)  # whose abundance maps are drawn
CASES = {
  "measured": "measured spectra", "drawn": "drawn spectra",
  "clean": "measured, no outliers", "plain": "drawn, plain start",
}  # fmt: skip
WORDS = {"rmse": "abundance error", "angle": "spectral angle, radians"}
WORDS["map"] = "correlation of the map"


@dataclasses.dataclass(frozen=True)
class Config(Settings):
  """Settings.

  The strengths of ``SPARSE``, in its order, are the best by abundance error on development seeds 0
  to 3 for each kind of data, from .0001 to .1 beside squares (that of l1 hardly matters) and from
  .003 to 1 beside norms.

  Attributes:
    cases: kinds of data: "drawn" spectra (three bumps each), "measured" ones (minerals, plants,
      snow), the latter without outlier channels ("clean"), and drawn spectra where methods start
      from pixels picked without regard to the noise of channels and from even abundances
      ("plain"); elsewhere they start as ``recovery.unmix`` does.
    methods: which of ``METHODS``; the second and the fourth leave out the plain start.
    side: rows and columns of the image.
    channels: number of them.
    materials: number of them; in measured data each seed has its own.
    snr_db: signal to noise ratio, decibels.
    outlier_rate: share of the channels that get |N(0, 1)| added.
    drawn: strengths for the case of that name, as the three that follow.
    measured: strengths.
    clean: strengths.
    plain: strengths.
    steps: of each method, unless it converges.
  """

  seeds: int = 8
  cases: tuple[str, ...] = ("measured", "drawn", "clean", "plain")
  methods: tuple[str, ...] = tuple(METHODS)
  side: int = 32
  channels: int = 120
  materials: int = 4
  snr_db: float = 30.0
  outlier_rate: float = 0.1
  drawn: tuple[float, ...] = (3e-3, 1e-2, 1e-2, 1e-2, 1e-2, 1e-2)
  measured: tuple[float, ...] = (3e-3, 1e-2, 1e-2, 1e-2, 1e-2, 1e-2)
  clean: tuple[float, ...] = (3e-3, 1e-3, 1e-3, 1e-2, 1e-2, 1e-2)
  plain: tuple[float, ...] = (3e-3, 1e-3, 1e-2, 0.1, 0.3, 3e-2)
  steps: int = 1000


SIZES = {
  "toy": Size(
    Config(
      seeds=2, cases=("drawn",), methods=("NMF", "l1/2-NMF", ROBUST), side=8, channels=24,
      materials=3, steps=30,
    ),
    "Small images of drawn spectra, 30 steps.",
  ),
  "desk": Size(
    Config(), "Planted abundances, 32 x 32 pixels, instead of scenes with labels by hand."
  ),
  "large": Size(
    Config(side=100, channels=200, materials=6, steps=3000),
    "Planted abundances instead of scenes with labels by hand; the size is that of a scene.",
  ),
}  # fmt: skip


@functools.cache
def _library(channels: int) -> np.ndarray:
  """Measured reflectances over the whole range, float[materials, channels]; dark ones left out."""
  table = datasets.load("usgs_spectra")
  kept = table["measured"] & (np.isnan(table["spectra"]).mean(1) < 0.2)
  spectra = table["spectra"][kept]
  spectra = spectra[np.nanmax(spectra, axis=1) > 0.1]
  spectra = spectra[:, ~np.isnan(spectra).any(0)]
  return spectra[:, np.linspace(0, spectra.shape[1] - 1, channels).round().astype(int)]


def _draw_materials(seed: int, config: Config) -> np.ndarray:
  """Spectra of different materials, no two within an angle of .15, float[channels, materials]."""
  library, rng = _library(config.channels), np.random.default_rng(seed)
  unit = library / np.linalg.norm(library, axis=1, keepdims=True)
  while True:
    rows = rng.choice(len(library), config.materials, replace=False)
    cosines = unit[rows] @ unit[rows].T - np.eye(len(rows))
    if cosines.max() < np.cos(0.15):
      return library[rows].T


@functools.cache
def _maker(config: Config) -> Any:
  """``make(key, spectra or None, outlier rate) -> (pixels, truth)``."""

  def make(key: jax.Array, spectra: jax.Array | None, rate: jax.Array) -> Any:
    problem = problems.make_spectral_mixture(
      key, spectra, num_channels=config.channels, num_spectra=config.materials, side=config.side,
      snr_db=config.snr_db, outlier_rate=rate,
    )  # fmt: skip
    return problem.data[0], problem.truth

  return jax.jit(make)


def make_data(case: str, seed: int, config: Config) -> Any:
  """An image with its truth."""
  spectra = None
  if case in ("measured", "clean"):
    spectra = jnp.asarray(_draw_materials(seed, config), jnp.float32)
  rate = 0.0 if case == "clean" else config.outlier_rate
  return _maker(config)(jax.random.key(seed), spectra, rate)


@functools.partial(jax.jit, static_argnames=("materials", "plain"))
def _start(pixels: jax.Array, *, materials: int, plain: bool) -> recovery.Unmixing:
  if not plain:
    return recovery.unmixing_start(pixels, materials)
  spectra = pixels[:, recovery.successive_projections(pixels, materials)]
  even = jnp.full((materials, pixels.shape[1]), 1 / materials, pixels.dtype)
  return recovery.Unmixing(jnp.maximum(spectra, 1e-3), even)


@functools.cache
def _program(robust: bool, learned: bool, steps: int, palm: bool = False) -> Any:
  """``program(start, lam, exponent, pixels) -> Unmixing``: strengths and exponents are data."""
  make = recovery.robust_unmixing if robust else recovery.sparse_nmf_unmixing

  def run(start: Any, lam: jax.Array, exponent: jax.Array, pixels: jax.Array) -> Any:
    solver = recovery.palm_unmixing() if palm else make(exponent=None if learned else exponent)
    return solvers.run_until(solver, start, lam, pixels, tol=1e-6, max_steps=steps)[0]

  return jax.jit(run)


_known = jax.jit(lambda pixels, spectra: recovery.constrained_abundances(pixels, spectra)[0])


@jax.jit
def _errors(found: Any, truth: Any, clean: jax.Array) -> Any:
  """Errors (angles on clean channels), and the map with its correlation with the true one."""
  errors = recovery.unmixing_errors(found, truth, where=clean)
  guidance, wanted = (
    jnp.clip(recovery.hoyer_sparseness(part.abundances, axis=0), 0, 0.9) for part in (found, truth)
  )
  shares = found.abundances / jnp.sum(found.abundances, axis=0, keepdims=True)
  return errors, jnp.corrcoef(guidance, wanted)[0, 1], shares[errors.order], guidance


def evaluate(
  case: str, strengths: dict[str, float], config: Config, progress: Progress
) -> tuple[dict[str, Any], dict[str, Any]]:
  """Errors of every method, a number a seed, and the maps of the first seed."""
  found: dict[str, Any] = {}
  maps: dict[str, Any] = {}
  for seed in progress.track(config.seed_numbers(), case):
    pixels, drawn = make_data(case, seed, config)
    truth = recovery.Unmixing(drawn.spectra, drawn.abundances)
    start = _start(pixels, materials=config.materials, plain=case == PLAIN)
    results = {} if case == PLAIN else {PICKED: start}
    for name, strength in strengths.items():
      robust, exponent, _ = METHODS[name]
      program = _program(robust, exponent is None, config.steps, name == PALM)
      numbers = (jnp.float32(strength), jnp.float32(exponent or 1.0))
      results[name] = progress.clock.call(program, start, *numbers, pixels, name=name)
    if case != PLAIN:
      results[ORACLE] = truth._replace(abundances=_known(pixels, truth.spectra))
    for name, unmixed in results.items():
      errors, correlation, shares, guidance = _errors(unmixed, truth, ~drawn.outliers)
      values = {"angle": errors.angle, "rmse": errors.rmse, "map": correlation}
      for key, value in values.items():
        found.setdefault(name, {}).setdefault(key, []).append(float(value))
      if name in SHOWN and name not in maps:
        maps |= {name: list(map(encode, shares)), f"guidance, {name}": [encode(guidance)]}
    if "truth" not in maps:
      purity = recovery.hoyer_sparseness(truth.abundances, axis=0)
      maps |= {"truth": list(map(encode, truth.abundances)), "guidance, truth": [encode(purity)]}
  return found, maps


def run(config: Config, progress: Progress) -> dict[str, Any]:
  """Every method on every kind of data."""
  metrics: dict[str, Any] = {}
  for case in config.cases:
    strengths = dict.fromkeys(METHODS, 0.0) | dict(zip(SPARSE, getattr(config, case), strict=True))
    kept = [n for n in config.methods if case != PLAIN or n not in ("l1-NMF", SQUARES)]
    metrics[case], maps = evaluate(case, {n: strengths[n] for n in kept}, config, progress)
    metrics.setdefault("maps", maps)
  return metrics


def claims(metrics: dict[str, Any], config: Config) -> list[Claim]:
  """Errors beside the baselines, the map, and where nothing should differ."""
  made = []

  def add(case: str, key: str, metric: str, text: str, names: tuple[str, str], **options: Any):
    if not set(names) <= set(metrics[case]):
      return
    ours, base = (Side(name, metrics[case][name][metric]) for name in names)
    label = f"{WORDS[metric]}, {CASES[case]}"
    options = {"kind": "paper", "better": "lower", "scale": "ratio", **options}
    made.append(Claim(f"{key}_{case}", text, metric=label, ours=ours, baseline=base, **options))

  for case in (c for c in config.cases if c in ("measured", "drawn")):
    for base in ("NMF", "l1-NMF", "l1/2-NMF"):
      text = f"With outlier channels ({case} spectra) the robust model with the learned map has a "
      text += f"lower abundance error than {base}."
      key = "rmse_" + base.replace("/", "")
      add(case, key, "rmse", text, (ROBUST, base), comparisons=3)
      text = text.replace("abundance error", "spectral angle")
      add(case, key.replace("rmse", "angle"), "angle", text, (ROBUST, base), comparisons=3)
    for ours, base in ((ROBUST, SQUARES), (FIXED, "l1/2-NMF")):
      text = f"With outlier channels ({case} spectra) the sum of norms cuts the abundance error of "
      text += f"the squares at the same kind of sparsity ({ours} against {base})."
      add(case, "loss_" + ("map" if ours == ROBUST else "l12"), "rmse", text, (ours, base))
    text = "The learned map has a correlation above .8 with how pure each pixel is "
    text += f"({case} spectra)."
    sides = (Side(ROBUST, metrics[case][ROBUST]["map"]), Side(".8", 0.8))
    made.append(Claim(f"map_{case}", text, "paper", f"{WORDS['map']}, {CASES[case]}", *sides))
    text = f"The learned exponent is as good as the fixed 1/2, within a quarter ({case} spectra)."
    add(case, "exponent", "rmse", text, (ROBUST, FIXED), kind="control", margin=1.25)
  if "clean" in config.cases:
    text = "Without outlier channels the two data terms with the learned map are equally good, "
    text += "within a quarter."
    add("clean", "loss", "rmse", text, (ROBUST, SQUARES), kind="control", margin=1.25)
  return made


def table(metrics: dict[str, Any], config: Config) -> list[Row]:
  """Abundance errors, angles and correlations of all methods beside l1/2-NMF."""
  rows = []
  notes = {ORACLE: "Told the true spectra: no rival.", PICKED: "Before any step."}
  for case in config.cases:
    for key, what in WORDS.items():
      base = Side("l1/2-NMF", metrics[case]["l1/2-NMF"][key])
      for name, values in metrics[case].items():
        if (name, key) != (ORACLE, "angle"):
          better, note = "higher" if key == "map" else "lower", notes.get(name, "")
          rows.append(
            Row(f"{what}, {CASES[case]}", Side(name, values[key]), base, better, note=note)
          )
  return rows


def figure(record: dict[str, Any]) -> Any:
  """Errors of all methods, abundance maps of the first seed, and the map of mixing."""
  metrics = record["metrics"]
  cases = [case for case in metrics if case != "maps"]
  fig, axes = new_figure(1, 3, width=4.8, height=4.2)
  errors = {CASES[c]: {n: v["rmse"] for n, v in metrics[c].items()} for c in cases}
  _figures.dots(axes[0], errors, ylabel="abundance error", title="Abundances")
  side = record["settings"]["side"]
  maps = {n: [decode(text, side) for text in found] for n, found in metrics["maps"].items()}
  title = f"Abundances, {CASES[cases[0]]}"
  _figures.images(axes[1], {name: maps[name] for name in SHOWN}, title=title)
  guides = {n: maps[f"guidance, {n}"] for n in ("truth", ROBUST)}
  _figures.images(axes[2], guides, title="How pure a pixel is (1: one material)")
  return fig
