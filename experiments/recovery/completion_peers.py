"""Completing a low-rank matrix by inexact alternating minimisation, beside six other methods."""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import _amendments, _figures, _recovery
from experiments._claims import Claim, Side
from experiments._protocol import Paper, Progress, Row, Settings, Size, new_figure
from experiments._recovery import rounds_to
from jaxopt_robust import recovery

PAPER = Paper(
  title="Low Rank Matrix Completion via Robust Alternating Minimization in Nearly Linear Time",
  authors="Gu, Song, Yin and Zhang",
  year=2024,
  claim="Alternating minimisation completes a matrix at the same linear rate when its least-"
  "squares steps are solved inexactly, by a sketch and a few iterations; the error that inexact "
  "steps leave is proportional to theirs. Preconditioned conjugate gradients stand in for the unit "
  "step of the analysis, which diverges over many columns. The paper has no experiments.",
  section="Theorem 1.1; the peers: Wen, Yin and Zhang 2012, Tong, Ma and Chi 2021, Vandereycken "
  "2013, Mazumder, Hastie and Tibshirani 2010",
  url="https://arxiv.org/abs/2302.11068",
)
AMENDED = _amendments.COMPLETION_PEERS

PCG, EXACT, SKETCH = "pcg", "exact", "sketch"
SOFT = "With a bias, on the first seeds; a path has up to ten times the steps of a cold start."
HOW = {PCG: "sketches and three conjugate gradients", SKETCH: "sketches alone"}
SCALED_GD, GRADIENT, CONJUGATE = "ScaledGD", "Riemannian gradient", "Riemannian CG"
# Method, options, multiplications on the entries in E k a step; ``altmin_work`` counts those of 0.
PEERS = {
  "LMaFit": (recovery.lmafit_complete, {}, 4),
  SCALED_GD: (recovery.scaled_gradient_complete, {}, 4),
  GRADIENT: (recovery.riemannian_complete, {"direction": "gradient"}, 6),
  CONJUGATE: (recovery.riemannian_complete, {}, 6),
  "altmin, exact": (recovery.altmin_complete, {"solver": EXACT}, 0),
  "altmin, PCG": (recovery.altmin_complete, {"solver": PCG}, 0),
}
_EARLY = 10  # rounds over which the rate is taken: later ones may be at the floor of rounding


@dataclasses.dataclass(frozen=True)
class Config(Settings):
  """Settings. A seed draws positions, factors, noise and sketches.

  Attributes:
    dim: rows and columns of the first problems.
    rank: rank of all problems.
    rates: fractions of entries observed, one for each condition number.
    conditions: condition numbers that go with the rates.
    solvers: how half steps are solved there.
    rounds: rounds of alternating minimisation.
    deltas: relative sizes of the noise added to each right factor.
    factors: sizes of noise in proportion to the present error.
    peer_shape: shape of the problems of the peers.
    peers: which peers.
    peer_rounds: steps of each peer; a fifth of them for altmin.
    peer_rate: fraction of entries that they see.
    target: relative error to reach.
    etas: step sizes of ScaledGD, chosen by the residual on the observed entries.
    soft_seeds: the first seeds, for softImpute: it takes a dense decomposition a step.
    soft_lams: its strengths from a cold start.
    soft_steps: its steps for a strength.
    path_lams: number of strengths of its warm-started path, 0 for none.
  """

  dim: int = 300
  rank: int = 5
  rates: tuple[float, ...] = (0.4, 0.2, 0.2)
  conditions: tuple[float, ...] = (1.0, 1.0, 10.0)
  solvers: tuple[str, ...] = (EXACT, SKETCH, PCG)
  rounds: int = 25
  deltas: tuple[float, ...] = (1e-3, 1e-2, 1e-1)
  factors: tuple[float, ...] = (0.1, 0.3, 0.6)
  peer_shape: tuple[int, int] = (150, 200)
  peers: tuple[str, ...] = tuple(PEERS)
  peer_rounds: int = 200
  peer_rate: float = 0.3
  target: float = 1e-6
  etas: tuple[float, ...] = (0.25, 0.5, 0.75, 1.0, 1.25)
  soft_seeds: int = 3
  soft_lams: tuple[float, ...] = (0.1,)
  soft_steps: int = 100
  path_lams: int = 10


SIZES = {
  "toy": Size(
    Config(
      seeds=2, dim=40, rank=2, rates=(0.6,), conditions=(1.0,), solvers=(PCG,), rounds=15,
      deltas=(), peer_shape=(30, 40), peers=(GRADIENT,), peer_rounds=30, peer_rate=0.6,
      soft_lams=(), path_lams=0,
    ),
    "One solver and one peer on small matrices; no noise.",
  ),
  "desk": Size(Config(), "The paper has no experiments; the sizes are ours."),
  "large": Size(Config(seeds=10, dim=1000, rank=10, peer_shape=(600, 800)), "As desk, larger."),
}  # fmt: skip


def _batch(config: Config, *sizes: Any, **options: Any) -> Any:
  """The problems of all seeds, and their keys."""
  seeds = config.seed_numbers()
  problems = [_recovery.completion_problem(seed, *sizes, **options) for seed in seeds]
  keys = jnp.stack([jax.random.key(seed) for seed in seeds])
  return jax.tree.map(lambda *leaves: np.stack(leaves), *problems), keys


def compare_half_steps(config: Config) -> dict[str, Any]:
  """Errors after each round, [case, seed, round] for each solver."""
  shape, size = (config.dim, config.dim), config.dim**2
  out: dict[str, list[Any]] = {solver: [] for solver in config.solvers}
  for solver in config.solvers:
    # A sketch alone has to be good; as a preconditioner half of its rows do.
    options = {"solver": solver, "sketch_size": (8 if solver == SKETCH else 4) * config.rank}
    fit = functools.partial(
      recovery.altmin_complete, rank=config.rank, num_rounds=config.rounds, **options
    )
    program = jax.jit(jax.vmap(lambda o, v, t, k, fit=fit: fit(o, v, key=k, truth=t)[1].err))
    for rate, condition in zip(config.rates, config.conditions, strict=True):
      padded = {"condition": condition, "room": round(max(config.rates) * size)}
      problems, keys = _batch(config, shape, config.rank, round(rate * size), **padded)
      out[solver].append(np.asarray(program(*problems, keys)))
  return {solver: np.stack(errors) for solver, errors in out.items()}


def noise_floors(config: Config) -> dict[str, Any]:
  """Final errors [seed, noise] with each right factor disturbed, on the last of the cases."""

  def fit(op: Any, y: Any, truth: Any, key: Any, delta: Any, factor: Any) -> Any:
    def body(carry: Any, step_key: Any) -> Any:
      u, error = carry
      v, _ = recovery.coo_lstsq(op, y, u, solver=EXACT)
      spread = jnp.linalg.norm(v) / v.size**0.5
      v = v + (delta + factor * error) * spread * jax.random.normal(step_key, v.shape)
      v = jnp.linalg.qr(v)[0]
      u, _ = recovery.coo_lstsq(op, y, v, side="left", solver=EXACT)
      error = jnp.linalg.norm(u @ v.T - truth) / jnp.linalg.norm(truth)
      return (jnp.linalg.qr(u)[0], error), None

    start_key, run_key = jax.random.split(key)
    start = recovery.entry_spectral(start_key, op, y, config.rank, clip=2.0)
    carry = (jnp.linalg.qr(start.L)[0], jnp.ones(()))
    return jax.lax.scan(body, carry, jax.random.split(run_key, config.rounds))[0][1]

  shape, entries = (config.dim, config.dim), round(config.rates[-1] * config.dim**2)
  problems, keys = _batch(config, shape, config.rank, entries, condition=config.conditions[-1])
  noises = np.array([(d, 0.0) for d in config.deltas] + [(0.0, f) for f in config.factors])
  by_noise = jax.vmap(fit, in_axes=(None, None, None, None, 0, 0))
  by_seed = jax.jit(jax.vmap(by_noise, in_axes=(0, 0, 0, 0, None, None)))
  last, num = np.asarray(by_seed(*problems, keys, *noises.T)), len(config.deltas)
  return {"fixed": last[:, :num], "proportional": last[:, num:]}


def compare_peers(config: Config, progress: Progress, choices: list[Any]) -> dict[str, Any]:
  """Errors after each step of each method, [seed, step], and those of softImpute, [seed]."""
  entries = round(config.peer_rate * math.prod(config.peer_shape))
  problems, keys = _batch(config, config.peer_shape, config.rank, entries)
  out: dict[str, Any] = {"entries": entries, "error": {}, "soft": {}}
  for name in progress.track(config.peers, "peers"):
    method, options, _ = PEERS[name]
    steps = config.peer_rounds // (5 if "altmin" in name else 1)
    fit = functools.partial(method, rank=config.rank, num_rounds=steps, **options)
    grid = [{"eta": eta} for eta in config.etas] if name == SCALED_GD else [{}]

    def solve(op: Any, y: Any, truth: Any, key: Any, options: Any, fit: Any = fit) -> Any:
      trace = fit(op, y, key=key, truth=truth, **options)[1]
      return trace.err, trace.residual

    program = jax.jit(jax.vmap(solve, in_axes=(0, 0, 0, 0, None)))
    found = [program(*problems, keys, chosen) for chosen in grid]
    errors, residuals = (np.stack(leaves, axis=1) for leaves in zip(*found, strict=True))
    place = 0
    if name == SCALED_GD:
      early = residuals[..., steps // 4]
      place = _recovery.best(choices, f"step size of {name}", config.etas, early)
    out["error"][name] = errors[:, place]

  def soft(op: Any, y: Any, truth: Any, lams: Any, tol: Any) -> Any:
    path, _ = recovery.soft_impute_path(op, y, lams, tol=tol, max_steps=config.soft_steps)
    return jnp.linalg.norm(path - truth, axis=(-2, -1)) / jnp.linalg.norm(truth)

  program = jax.jit(soft)
  singles = [jax.tree.map(lambda leaf, i=i: leaf[i], problems) for i in range(config.seeds)]
  singles = singles[: config.soft_seeds]
  starts = {f"cold {lam:g}": (np.array([lam]), 0.0) for lam in config.soft_lams}
  if config.path_lams:
    starts["path"] = (np.geomspace(100, min(config.soft_lams), config.path_lams), 1e-5)
  for name, (lams, tol) in progress.track(list(starts.items()), "softImpute"):
    out["soft"][name] = [float(program(*one, lams, tol)[-1]) for one in singles]
  return out


@jax.enable_x64(True)
def run(config: Config, progress: Progress) -> dict[str, Any]:
  """The parts, in float64."""
  choices: list[Any] = []
  metrics: dict[str, Any] = {"half steps": compare_half_steps(config)}
  if config.deltas:
    metrics["noise"] = noise_floors(config)
  return {**metrics, "peers": compare_peers(config, progress, choices), "choices": choices}


def _rates(errors: np.ndarray) -> np.ndarray:
  """Factor a round over the first rounds, the largest of the cases: a number a seed."""
  last = min(_EARLY, errors.shape[-1])
  return np.max((errors[..., last - 1] / errors[..., 0]) ** (1 / (last - 1)), axis=0)


def claims(metrics: dict[str, Any], config: Config) -> list[Claim]:
  """The rate of inexact half steps, their noise, and the peers."""
  half = {n: np.asarray(v, float) for n, v in metrics["half steps"].items()}
  peers = {n: np.asarray(v, float) for n, v in metrics["peers"]["error"].items()}
  lower = functools.partial(Claim, better="lower", scale="ratio")
  made = []
  for solver in (s for s in (PCG, SKETCH) if s in half):
    text = f"With half steps by {HOW[solver]} the error falls by half or more a round, in the mean."
    sides = Side(solver, _rates(half[solver])), Side("1/2", 0.5)
    metric = f"factor a round in the first {_EARLY}, the largest of the problems"
    made.append(lower(f"halves_{solver}", text, "theory", metric, *sides))
  if {EXACT, PCG} <= set(half):
    text = "Three conjugate gradients a half step lose nothing: in the first ten rounds the error "
    text += "is at most 10 % above that of exact half steps, in the mean."
    sides = (Side(s, np.exp(np.log(half[s][..., :_EARLY]).mean(axis=(0, 2)))) for s in (PCG, EXACT))
    metric = f"relative error, geometric mean of {_EARLY} rounds and all problems"
    made.append(lower("inexact", text, "paper", metric, *sides, margin=1 / 1.1))
  if "noise" in metrics:
    fixed, proportional = (np.asarray(metrics["noise"][n]) for n in ("fixed", "proportional"))
    text = "The error that noise in the half steps leaves grows with it: a slope of 1, within .05."
    sides = Side("slope", _recovery.slope(config.deltas, fixed.T)), Side("1", 1.0)
    metric = "slope of log final error in log noise"
    made.append(Claim("floor", text, "control", metric, *sides, margin=0.05))
    text = f"Noise of {config.factors[-1]:g} of the present error leaves less than noise of fixed "
    text += f"size {config.deltas[0]:g}."
    sides = Side("proportional", proportional[:, -1]), Side("fixed", fixed[:, 0])
    made.append(lower("no_floor", text, "theory", "final relative error", *sides))
  worst = Side("the worst of all", np.max([errors[:, -1] for errors in peers.values()], axis=0))
  sides, text = (worst, Side("1e-5", 1e-5)), "All factored methods recover the matrix."
  made.append(lower("recover", text, "paper", "relative error after all steps", *sides))
  if {GRADIENT, CONJUGATE} <= set(peers):
    text = "Riemannian conjugate gradients need fewer steps than Riemannian gradients."
    sides = (Side(n, rounds_to(peers[n], config.target)) for n in (CONJUGATE, GRADIENT))
    made.append(lower("conjugate", text, "paper", f"steps to {config.target:g}", *sides))
  return made


def table(metrics: dict[str, Any], config: Config) -> list[Row]:
  """Errors of half steps, and steps, multiplications and errors of the peers."""
  rows = []
  row = functools.partial(Row, better="lower")
  half = {n: np.asarray(v, float) for n, v in metrics["half steps"].items()}
  for i, (rate, condition) in enumerate(zip(config.rates, config.conditions, strict=True)):
    for name, errors in half.items():
      what = f"relative error after {_EARLY} rounds, p = {rate:g}, condition {condition:g}"
      base = Side(EXACT, half[EXACT][i, :, _EARLY - 1]) if EXACT in half else None
      ours = Side(f"altmin, {name}", errors[i, :, _EARLY - 1])
      rows.append(row(what, ours, None if name == EXACT else base))
  peers = {n: np.asarray(v, float) for n, v in metrics["peers"]["error"].items()}
  entries = metrics["peers"]["entries"]
  for name, errors in peers.items():
    steps, unit = rounds_to(errors, config.target), PEERS[name][2]
    if not unit:
      sizes = config.peer_shape, config.rank, entries
      unit = _recovery.altmin_work(PEERS[name][1]["solver"], *sizes) / (entries * config.rank)
    if np.isfinite(steps).all():
      rows.append(row(f"steps to {config.target:g}, p = {config.peer_rate:g}", Side(name, steps)))
      what = f"multiplications to {config.target:g}, in entries x rank"
      rows.append(row(what, Side(name, unit * steps)))
    rows.append(row(f"relative error after {errors.shape[1]} steps", Side(name, errors[:, -1])))
  for name, values in metrics["peers"]["soft"].items():
    rows.append(row("relative error", Side(f"softImpute, {name}", values), note=SOFT))
  return rows


def figure(record: dict[str, Any]) -> Any:
  """Errors by round of three kinds of half steps, left by noise, and of seven methods by step."""
  metrics, settings = record["metrics"], record["settings"]
  fig, axes = new_figure(1, 3, width=4.6)
  last = {n: np.asarray(v, float)[-1] for n, v in metrics["half steps"].items()}
  title = f"Half steps: p = {settings['rates'][-1]:g}, condition {settings['conditions'][-1]:g}"
  error = "relative error"
  _figures.curves(axes[0], last, xlabel="round", ylabel=error, title=title, log="y")
  peers = {n: np.asarray(v, float) for n, v in metrics["peers"]["error"].items()}
  _figures.curves(axes[2], peers, xlabel="step", ylabel=error, title="Peers", log="y")
  axes[2].set_xlim(0, 100)
  if "noise" in metrics:
    fixed = {"final error": metrics["noise"]["fixed"], "slope 1": settings["deltas"]}
    labels = {"xlabel": "relative noise in a half step", "title": "Error left by noise"}
    _figures.curves(axes[1], fixed, settings["deltas"], **labels, ylabel=error, log="xy")
  return fig
