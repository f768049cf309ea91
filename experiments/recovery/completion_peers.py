"""Completing a low-rank matrix by inexact alternating minimisation, beside six other methods."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments._earlier import Claim, Outcome, Row
from experiments._protocol import Paper, Progress, new_figure
from jaxopt_robust import linalg, recovery, solvers

PAPER = Paper(
  title="Low Rank Matrix Completion via Robust Alternating Minimization in Nearly Linear Time",
  authors="Gu, Song, Yin and Zhang",
  year=2023,
  claim="Alternating minimisation completes a matrix at the same linear rate when its "
  "least-squares steps are solved inexactly, by a sketch and a few iterations that cost O(E k) "
  "instead of O(E k^2). The paper has no experiments; the error floor under inexact steps is "
  "proportional to their error. The unit step of the analysis diverges over many columns: "
  "preconditioned conjugate gradients take its place here.",
  section="Theorem 1.1",
  url="https://arxiv.org/abs/2302.11068",
)

_OWN_RATE = 0.3  # by which the error falls a round at most, without noise
_TARGET = 1e-6  # the error that counts as recovered where rounds are counted
_PEERS = {
  "LMaFit": (recovery.lmafit_complete, {}),
  "ScaledGD": (recovery.scaled_gradient_complete, {}),
  "Riemannian gradient": (recovery.riemannian_complete, {"direction": "gradient"}),
  "Riemannian CG": (recovery.riemannian_complete, {}),
  "altmin, exact": (recovery.altmin_complete, {"solver": "exact"}),
  "altmin, PCG": (recovery.altmin_complete, {"solver": "pcg"}),
}


@dataclasses.dataclass(frozen=True)
class Config:
  """Settings.

  Attributes:
    seeds: random problems averaged.
    dim: rows and columns of the first problems.
    rank: their rank.
    rates: fractions of entries observed, one for each condition number.
    conditions: condition numbers that go with the rates.
    solvers: how half steps are solved in the first table.
    rounds: rounds of alternating minimisation.
    deltas: relative sizes of the noise added to each right factor.
    factors: sizes of noise in proportion to the present error.
    trial_columns: columns of the trial of the least-squares solvers.
    unit_steps: numbers of unit steps tried.
    pcg_steps: numbers of conjugate-gradient steps tried.
    peer_shape: shape of the problems of the peers.
    peers: which peers.
    peer_rounds: steps of each peer.
    peer_rate: fraction of entries that they see.
    soft_lams: strengths of softImpute from a cold start.
    soft_steps: its steps.
    path_lams: number of strengths of its warm-started path, 0 for none.
    cost_sizes: numbers of entries whose cost is measured, at the middle rank.
    cost_ranks: ranks whose cost is measured, at the middle number of entries.
    cost_solvers: solvers whose cost is measured.
  """

  seeds: int = 5
  dim: int = 300
  rank: int = 5
  rates: tuple[float, ...] = (0.4, 0.2, 0.2)
  conditions: tuple[float, ...] = (1.0, 1.0, 10.0)
  solvers: tuple[str, ...] = ("exact", "sketch", "pcg")
  rounds: int = 25
  deltas: tuple[float, ...] = (1e-3, 1e-2, 1e-1)
  factors: tuple[float, ...] = (0.1, 0.3, 0.6)
  trial_columns: int = 300
  unit_steps: tuple[int, ...] = (5, 20)
  pcg_steps: tuple[int, ...] = (2, 4, 5)
  peer_shape: tuple[int, int] = (150, 200)
  peers: tuple[str, ...] = tuple(_PEERS)
  peer_rounds: int = 200
  peer_rate: float = 0.3
  soft_lams: tuple[float, ...] = (1.0, 0.1)
  soft_steps: int = 200
  path_lams: int = 10
  cost_sizes: tuple[int, ...] = (20_000, 40_000, 80_000, 160_000)
  cost_ranks: tuple[int, ...] = (4, 8, 16, 32, 64)
  cost_solvers: tuple[str, ...] = ("pcg", "exact")


SIZES = {
  "toy": Config(
    seeds=1, dim=40, rank=2, rates=(0.6,), conditions=(1.0,), solvers=("pcg",), rounds=15,
    deltas=(1e-3, 1e-2), factors=(), trial_columns=60, unit_steps=(20,), pcg_steps=(),
    peer_shape=(30, 40), peers=(), peer_rounds=30, peer_rate=0.6,
    soft_lams=(), path_lams=0, cost_sizes=(500,), cost_ranks=(2,), cost_solvers=(),
  ),
  "desk": Config(),
  "large": Config(
    seeds=10, dim=1000, rank=10, peer_shape=(600, 800),
    cost_sizes=(100_000, 200_000, 400_000, 800_000),
  ),
}  # fmt: skip


def draw(
  seed: int, shape: tuple[int, int], rank: int, rate: float, condition: float | None, size: int
) -> tuple[Any, np.ndarray, np.ndarray]:
  """Operator padded to a number of entries, values, truth; Gaussian factors without a condition."""
  rng = np.random.default_rng(seed)
  left, right = (rng.standard_normal((n, rank)) for n in shape)
  if condition is not None:
    left, right = np.linalg.qr(left)[0], np.linalg.qr(right)[0]
    left = left * np.linspace(condition, 1, rank)
  truth = left @ right.T
  rows, cols = np.nonzero(rng.random(shape) < rate)
  pad = size - rows.size
  assert pad >= 0
  fill = lambda index: np.concatenate([index, np.zeros(pad, index.dtype)]).astype(np.int32)
  weight = np.concatenate([np.ones(rows.size), np.zeros(pad)])
  values = np.concatenate([truth[rows, cols], np.zeros(pad)])
  return recovery.EntryCOO(fill(rows), fill(cols), shape, weight), values, truth


def stack(problems: list[Any]) -> Any:
  """A batch of problems of one padded size."""
  return jax.tree.map(lambda *leaves: np.stack(leaves), *problems)


def room(shape: tuple[int, int], rate: float) -> int:
  """Entries that hold any draw at a rate: its mean and six standard deviations."""
  mean = rate * shape[0] * shape[1]
  return min(shape[0] * shape[1], int(mean + 6 * mean**0.5))


def run(config: Config, progress: Progress) -> Outcome:
  """Runs the parts in float64."""
  with jax.enable_x64(True):
    progress.message("alternating minimisation, exact and sketched")
    metrics: dict[str, Any] = {"altmin": _altmin(config)}
    progress.message("noise in the half steps")
    metrics["floor"] = _floor(config)
    progress.message("unit steps against conjugate gradients")
    metrics["trial"] = _trial(config)
    progress.message("peers")
    metrics["peers"] = _peers(config, progress)
    progress.message("cost")
    metrics["cost"] = _cost(config, progress)
  return Outcome(metrics, _table(config, metrics), _claims(config, metrics))


def _altmin(config: Config) -> dict[str, Any]:
  """Errors after each round, [case, seed, round] for each solver."""
  shape = (config.dim, config.dim)
  size = room(shape, max(config.rates))
  problems = [
    draw(seed, shape, config.rank, rate, condition, size)
    for rate, condition in zip(config.rates, config.conditions, strict=True)
    for seed in range(config.seeds)
  ]
  op, y, truth = stack(problems)
  keys = jax.random.split(jax.random.key(0), len(problems))
  out = {}
  for solver in config.solvers:
    # A sketch alone has to be good; as a preconditioner half of its rows do.
    rows = (8 if solver == "sketch" else 4) * config.rank
    fit = functools.partial(
      recovery.altmin_complete, rank=config.rank, num_rounds=config.rounds, solver=solver,
      sketch_size=rows,
    )  # fmt: skip
    trace = jax.jit(jax.vmap(lambda o, v, k, t, fit=fit: fit(o, v, key=k, truth=t)[1]))(
      op, y, keys, truth
    )
    out[solver] = np.asarray(trace.err).reshape(len(config.rates), config.seeds, -1)
  return out


def _floor(config: Config) -> dict[str, Any]:
  """Final errors when each right factor is disturbed: by a fixed size, or in proportion."""
  shape = (config.dim, config.dim)
  rate, condition = config.rates[-1], config.conditions[-1]
  problems = [
    draw(100 + seed, shape, config.rank, rate, condition, room(shape, rate))
    for seed in range(config.seeds)
  ]

  def fit(op: Any, y: Any, truth: Any, key: Any, delta: Any, factor: Any) -> Any:
    def body(carry: Any, step_key: Any) -> Any:
      u, error = carry
      v, _ = recovery.coo_lstsq(op, y, u, solver="exact")
      spread = jnp.linalg.norm(v) / v.size**0.5
      v = v + (delta + factor * error) * spread * jax.random.normal(step_key, v.shape)
      v = jnp.linalg.qr(v)[0]
      u, _ = recovery.coo_lstsq(op, y, v, side="left", solver="exact")
      error = jnp.linalg.norm(u @ v.T - truth) / jnp.linalg.norm(truth)
      return (jnp.linalg.qr(u)[0], error), error

    start_key, run_key = jax.random.split(key)
    start = recovery.entry_spectral(start_key, op, y, config.rank, clip=2.0)
    carry = (jnp.linalg.qr(start.L)[0], jnp.ones(()))
    return jax.lax.scan(body, carry, jax.random.split(run_key, config.rounds))[1]

  noises = [(d, 0.0) for d in config.deltas] + [(0.0, f) for f in config.factors]
  deltas, factors = (np.array(column) for column in zip(*noises, strict=True))
  keys = jax.random.split(jax.random.key(1), config.seeds)
  by_noise = jax.vmap(fit, in_axes=(None, None, None, None, 0, 0))
  errors = jax.jit(jax.vmap(by_noise, in_axes=(0, 0, 0, 0, None, None)))(
    *stack(problems), keys, deltas, factors
  )
  last = np.asarray(errors)[:, :, -1]  # [seed, noise]
  num = len(config.deltas)
  mean = np.exp(np.log(last).mean(axis=0))
  return {
    "fixed": last[:, :num],
    "proportional": last[:, num:],
    "slope": float(np.polyfit(np.log(config.deltas), np.log(mean[:num]), 1)[0]),
  }


def _trial(config: Config) -> dict[str, Any]:
  """One batch of regressions on one sketch: errors relative to the exact solution."""
  num, seen = config.trial_columns, config.trial_columns // 5
  rng = np.random.default_rng(7)
  basis = np.linalg.qr(rng.standard_normal((num, config.rank)))[0]
  own = np.concatenate([rng.choice(num, seen, replace=False) for _ in range(num)])
  rows, segments = basis[own], np.repeat(np.arange(num), seen)
  targets = rng.standard_normal(own.size)  # residuals throughout: no sketch is exact here
  exact = np.stack(
    [
      np.linalg.lstsq(rows[j * seen : (j + 1) * seen], targets[j * seen : (j + 1) * seen])[0]
      for j in range(num)
    ]
  )
  out: dict[str, Any] = {}
  for solver, steps in (("unit_step", config.unit_steps), ("pcg", config.pcg_steps)):
    found: dict[str, Any] = {"steps": steps, "error": [], "residual": [], "status": []}
    for iterations in steps:
      fit = functools.partial(
        linalg.segment_lstsq, num_segments=num, solver=solver, sketch_size=8 * config.rank,
        iterations=iterations,
      )  # fmt: skip
      x, info = jax.jit(lambda r, s, b, k, fit=fit: fit(r, s, b, key=k))(
        rows, segments, targets, jax.random.key(3)
      )
      found["error"].append(np.linalg.norm(x - exact) / np.linalg.norm(exact))
      found["residual"].append(float(info.residual.max()))
      found["status"].append(int(info.status))
      out["first_residual"] = float(info.first_residual.max())
    out[solver] = found
  return out


def _peers(config: Config, progress: Progress) -> dict[str, Any]:
  """Errors after each step of each method, [seed, step]."""
  shape, rank = config.peer_shape, config.rank
  problems = [
    draw(200 + seed, shape, rank, config.peer_rate, None, room(shape, config.peer_rate))
    for seed in range(config.seeds)
  ]
  op, y, truth = stack(problems)
  keys = jax.random.split(jax.random.key(2), config.seeds)
  out: dict[str, Any] = {"error": {}, "status": {}, "soft": {}}
  for name in progress.track(config.peers, "peers"):
    method, options = _PEERS[name]
    steps = config.peer_rounds if "altmin" not in name else min(config.peer_rounds, 40)
    fit = functools.partial(method, rank=rank, num_rounds=steps, tol=1e-6, **options)
    trace = jax.jit(jax.vmap(lambda o, v, k, t, fit=fit: fit(o, v, key=k, truth=t)[1]))(
      op, y, keys, truth
    )
    out["error"][name] = np.asarray(trace.err)
    out["status"][name] = np.asarray(trace.status)
  relative = lambda x, t: jnp.linalg.norm(x - t, axis=(-2, -1)) / jnp.linalg.norm(t)
  if config.soft_lams:
    cold = jax.jit(
      lambda o, v, t, lam: relative(
        recovery.soft_impute_path(o, v, lam, tol=0.0, max_steps=config.soft_steps)[0], t
      )
    )
    for lam in config.soft_lams:
      out["soft"][f"cold {lam:g}"] = [
        float(cold(*p, np.array([lam]))[0]) for p in problems[: max(1, config.seeds // 2)]
      ]
  if config.path_lams:
    lams = np.geomspace(100, 0.1, config.path_lams)
    path = jax.jit(
      lambda o, v, t: relative(
        recovery.soft_impute_path(o, v, lams, tol=1e-5, max_steps=config.soft_steps)[0], t
      )
    )
    out["soft"]["path_lams"] = lams
    out["soft"]["path"] = [np.asarray(path(*p)) for p in problems[: max(1, config.seeds // 2)]]
  return out


def _cost(config: Config, progress: Progress) -> dict[str, Any]:
  """Operations of a half step as entries and rank grow; the times are booked by the clock."""
  if not config.cost_solvers:
    return {"columns": 0, "rank": 0, "entries": 0}
  middle_size = config.cost_sizes[len(config.cost_sizes) // 2]
  middle_rank = config.cost_ranks[len(config.cost_ranks) // 2]
  rng = np.random.default_rng(9)
  columns = max(20, config.cost_sizes[0] // 100)

  def half_step(size: int, rank: int, solver: str) -> None:
    own, out = rng.integers(0, columns, (2, size)).astype(np.int32)
    fixed, values = rng.standard_normal((columns, rank)), rng.standard_normal(size)

    def fit(own: Any, out: Any, fixed: Any, values: Any, key: Any) -> Any:
      return linalg.segment_lstsq(
        fixed[own], out, values, num_segments=columns, solver=solver, key=key
      )[0]

    jitted = jax.jit(fit)
    args = tuple(jnp.asarray(a) for a in (own, out, fixed, values))
    for _ in range(3):
      progress.clock.call(jitted, *args, jax.random.key(0), name=f"{solver}, {size}, rank {rank}")

  for solver in config.cost_solvers:
    for size in config.cost_sizes:
      half_step(size, middle_rank, solver)
    for rank in config.cost_ranks:
      half_step(middle_size, rank, solver)
  return {"columns": columns, "rank": middle_rank, "entries": middle_size}


def _geometric_mean(values: Any, axis: Any = None) -> Any:
  return np.exp(np.mean(np.log(np.maximum(values, 1e-300)), axis=axis))


def _table(config: Config, metrics: dict[str, Any]) -> list[Row]:
  rows = []
  marks = [r for r in (1, 5, 10, 25) if r <= config.rounds]
  for solver, errors in metrics["altmin"].items():
    for i, (rate, condition) in enumerate(zip(config.rates, config.conditions, strict=True)):
      mean = _geometric_mean(errors[i], axis=0)
      rows.append(
        Row(
          f"altmin, {solver}",
          f"relative error after {marks[-1]} rounds, p = {rate:g}, condition {condition:g}",
          float(mean[marks[-1] - 1]),
          better="lower",
          note="after " + ", ".join(f"{r}: {mean[r - 1]:.1e}" for r in marks),
        )
      )
  for name, errors in metrics["peers"]["error"].items():
    mean = _geometric_mean(errors, axis=0)
    reached = np.flatnonzero(mean < _TARGET)
    rows.append(
      Row(
        name,
        f"relative error after {mean.size} steps, p = {config.peer_rate:g}",
        float(mean[-1]),
        better="lower",
        note=f"below {_TARGET:g} after {reached[0] + 1} steps." if reached.size else
        f"not below {_TARGET:g}.",
      )
    )  # fmt: skip
  for name, errors in metrics["peers"]["soft"].items():
    if name.startswith("cold"):
      rows.append(
        Row(
          f"softImpute, {name}",
          f"relative error after {config.soft_steps} steps, p = {config.peer_rate:g}",
          float(np.mean(errors)), better="lower", note="Biased by its penalty.",
        )
      )  # fmt: skip
  return rows


def _claims(config: Config, metrics: dict[str, Any]) -> list[Claim]:
  altmin, floor, trial = metrics["altmin"], metrics["floor"], metrics["trial"]
  last = {s: _geometric_mean(e[:, :, -1], axis=1) for s, e in altmin.items()}
  rates = {
    s: _geometric_mean(e[:, :, min(10, config.rounds) - 1] / e[:, :, 0])
    ** (1 / (min(10, config.rounds) - 1))
    for s, e in altmin.items()
  }
  claims = [
    Claim(
      "Inexact alternating minimisation recovers the matrix: the error falls by half or more each "
      "round.",
      bool(max(rates.values()) < 0.5),
      {f"factor a round, {s}": float(r) for s, r in rates.items()},
    ),
    Claim(
      "The error left by noise in the half steps is proportional to it.",
      bool(abs(floor["slope"] - 1) < 0.05),
      {"slope": floor["slope"]},
    ),
    Claim(
      "The unit step diverges on the sketches on which conjugate gradients converge, and this is "
      "reported (status 3).",
      bool(
        trial["unit_step"]["status"][-1] == solvers.STALLED
        and trial["unit_step"]["error"][-1] > 1
        and all(e < 0.1 for e in trial["pcg"]["error"][-1:])
      ),
      {
        f"error after {n} unit steps": e
        for n, e in zip(trial["unit_step"]["steps"], trial["unit_step"]["error"], strict=True)
      }
      | {
        f"error after {n} conjugate gradients": e
        for n, e in zip(trial["pcg"]["steps"], trial["pcg"]["error"], strict=True)
      },
    ),
  ]
  if {"exact", "pcg"} <= set(altmin):
    ratio = last["pcg"] / last["exact"]
    early = altmin["pcg"][:, :, :10] / altmin["exact"][:, :, :10]
    claims.append(
      Claim(
        "Three conjugate gradients a half step lose nothing: in the first ten rounds the error is "
        "at most 10 % above that of exact half steps, in the mean.",
        bool(_geometric_mean(early, axis=(1, 2)).max() < 1.1),
        {
          f"ratio in ten rounds, case {i + 1}": float(r)
          for i, r in enumerate(_geometric_mean(early, axis=(1, 2)))
        }
        | {f"ratio after all rounds, case {i + 1}": float(r) for i, r in enumerate(ratio)},
      )
    )
  if config.factors:
    proportional = _geometric_mean(floor["proportional"], axis=0)
    # The slower of the two rates, after five rounds that may be spent on the start.
    bounds = np.maximum(config.factors, _OWN_RATE) ** (config.rounds - 5)
    claims.append(
      Claim(
        "Noise in proportion to the present error leaves no floor: the error falls by the larger "
        "of this proportion and 0.3 a round.",
        bool(np.all(proportional < bounds)),
        {
          f"error at factor {f:g}": float(e)
          for f, e in zip(config.factors, proportional, strict=True)
        },
      )
    )
  errors = metrics["peers"]["error"]
  if {"altmin, PCG", "ScaledGD", "Riemannian CG"} <= set(errors):
    claims.append(
      Claim(
        "All factored peers recover the matrix; by step, alternating minimisation is first.",
        bool(
          all(e[:, -1].max() < 1e-5 for e in errors.values())
          and _first(errors["altmin, PCG"]) <= min(_first(e) for e in errors.values())
        ),
        {f"steps to {_TARGET:g}, {n}": _first(e) for n, e in errors.items()},
      )
    )
  soft = metrics["peers"]["soft"]
  if "path" in soft and len(config.soft_lams) > 1:
    least = float(np.mean([np.min(p) for p in soft["path"]]))
    claims.append(
      Claim(
        "A small strength of softImpute from a cold start is far from its solution after these "
        "steps; the warm-started path gets there.",
        bool(least < 0.1 * np.mean(soft[f"cold {config.soft_lams[-1]:g}"])),
        {"error, end of the path": least}
        | {f"error, {n}": float(np.mean(e)) for n, e in soft.items() if n.startswith("cold")},
      )
    )
  return claims


def _first(errors: Any) -> int:
  """Steps until the mean error is below the target."""
  mean = _geometric_mean(errors, axis=0)
  below = np.flatnonzero(mean < _TARGET)
  return int(below[0]) + 1 if below.size else mean.size + 1


def _times(record: dict[str, Any], solver: str) -> tuple[list[Any], list[Any]]:
  """(entries, seconds) and (rank, seconds) of the half steps of a solver."""
  cost, settings = record["metrics"]["cost"], record["settings"]
  parts = record["wall"].get("parts", {})
  seconds = lambda size, rank: (
    (p := parts.get(f"{solver}, {size}, rank {rank}")) and p["run_s"] / p["calls"]
  )
  by_size = [(s, seconds(s, cost["rank"])) for s in settings["cost_sizes"]]
  by_rank = [(r, seconds(cost["entries"], r)) for r in settings["cost_ranks"]]
  keep = lambda pairs: [(x, t) for x, t in pairs if t]
  return keep(by_size), keep(by_rank)


def figure(record: dict[str, Any]) -> Any:
  """Six panels: rounds, noise, the trial, peers, and cost by entries and by rank."""
  metrics, settings = record["metrics"], record["settings"]
  fig, axes = new_figure(2, 3, width=4.2)
  case = len(settings["rates"]) - 1
  for solver, errors in metrics["altmin"].items():
    mean = _geometric_mean(np.asarray(errors, float)[case], axis=0)
    axes[0].semilogy(np.arange(1, mean.size + 1), mean, label=solver)
  axes[0].set(
    xlabel="round", ylabel="relative error",
    title=f"Half steps: p = {settings['rates'][case]:g}, condition "
    f"{settings['conditions'][case]:g}",
  )  # fmt: skip

  fixed = np.asarray(metrics["floor"]["fixed"], float)
  axes[1].loglog(settings["deltas"], _geometric_mean(fixed, axis=0), "o-", label="final error")
  axes[1].loglog(settings["deltas"], settings["deltas"], "k:", label="slope 1")
  axes[1].set(xlabel="relative noise in a half step", title="Floor under noise")

  trial = metrics["trial"]
  for name, label in (("unit_step", "unit step"), ("pcg", "conjugate gradients")):
    axes[2].semilogy(trial[name]["steps"], trial[name]["error"], "o-", ms=4, label=label)
  axes[2].set(xlabel="iterations", ylabel="relative error", title="Regressions on one sketch")

  for name, errors in metrics["peers"]["error"].items():
    mean = _geometric_mean(np.asarray(errors, float), axis=0)
    axes[3].semilogy(np.arange(1, mean.size + 1), mean, label=name)
  axes[3].set(xlabel="step", ylabel="relative error", title="Peers")
  axes[3].set_xlim(0, 100)

  for solver, marker in (("pcg", "o-"), ("exact", "x--")):
    for ax, pairs in zip(axes[4:], _times(record, solver), strict=True):
      if len(pairs) > 1:
        x, t = np.array(pairs).T
        slope = np.polyfit(np.log(x), np.log(t), 1)[0]
        ax.loglog(x, 1e3 * t, marker, ms=4, label=f"{solver}: slope {slope:.2f}")
  for ax, ticks in zip(axes[4:], (settings["cost_sizes"], settings["cost_ranks"]), strict=True):
    ax.set_xticks(ticks, [str(t) for t in ticks])
    ax.minorticks_off()
  axes[4].set(xlabel="entries", ylabel="milliseconds", title="A half step, by entries")
  axes[5].set(xlabel="rank", ylabel="milliseconds", title="A half step, by rank")
  for ax in axes:
    if ax.has_data():
      ax.legend(fontsize=7)
  return fig
