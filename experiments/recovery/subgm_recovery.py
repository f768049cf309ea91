"""Recovering a low-rank matrix from grossly corrupted measurements without knowing its rank."""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments._earlier import Claim, Outcome, Row
from experiments._protocol import Paper, Progress, new_figure
from jaxopt_robust import problems, recovery, solvers, sweeps

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
DEMO = True

_CURVE_POINTS = 120  # of a curve in the record
_UNIT_DECAY = 0.985  # of the run from a start of unit scale, which has nothing to grow
_BIG_UNIT_DECAY = 0.997  # the same where the loss has far better minima than the truth
_WRONG_START, _WRONG_DECAY = 1e-6, 0.9616  # a decay that is right for a start of 1e-2
_SQUARED_STEP = 0.02  # constant step of the squared loss
_CONSTANT_STEP = 0.05  # constant step of the l1 loss under Gaussian noise


@dataclasses.dataclass(frozen=True)
class Config:
  """Settings.

  Attributes:
    seeds: number of random problems.
    dim: rows and columns of the matrix.
    rank: its rank; all singular values are 1.
    measurements: number of Gaussian measurements.
    outlier_rate: fraction of measurements that are grossly wrong.
    outlier_scale: standard deviation of the gross errors.
    widths: widths of the factor: the rank, a few more, the full dimension.
    alphas: scales of the start.
    eta0: first normalised step.
    tol: relative last step of a run that counts as converged.
    steps: steps of a run; they need neither rank nor growth.
    rates: growing fractions of gross errors.
    noises: standard deviations of dense Gaussian noise.
    noise_sizes: numbers of measurements under Gaussian noise.
    noise_draws: noise vectors averaged for each standard deviation.
    squared_steps: gradient steps of the squared loss.
    constant_steps: steps of the run with a constant step.
    big_dim: dimension of the problem whose truth is not the minimiser.
    big_measurements: its measurements, fewer than the free parameters.
    big_alpha: its start.
    big_steps: its steps.
  """

  seeds: int = 3
  dim: int = 20
  rank: int = 2
  measurements: int = 1200
  outlier_rate: float = 0.3
  outlier_scale: float = 100.0
  widths: tuple[int, ...] = (2, 5, 20)
  alphas: tuple[float, ...] = (1e-1, 1e-2, 1e-3, 1e-4)
  eta0: float = 0.25
  tol: float = 1e-8
  steps: int = 1200
  rates: tuple[float, ...] = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6)
  noises: tuple[float, ...] = (0.1, 0.3, 1.0)
  noise_sizes: tuple[int, ...] = (1200, 4800)
  noise_draws: int = 5
  squared_steps: int = 800
  constant_steps: int = 2000
  big_dim: int = 50
  big_measurements: int = 800
  big_alpha: float = 1e-8
  big_steps: int = 3600


SIZES = {
  "toy": Config(
    seeds=1, dim=8, rank=1, measurements=160, widths=(1, 8), alphas=(1e-1, 1e-2, 1e-3), tol=1e-5,
    steps=500, rates=(0.0, 0.3), noise_sizes=(160,), noise_draws=2, squared_steps=60,
    constant_steps=60, big_dim=8, big_measurements=160, big_alpha=1e-4, big_steps=768,
  ),
  "desk": Config(),
  "large": Config(
    seeds=10, dim=50, rank=3, measurements=8000, widths=(3, 10, 50), rates=tuple(
      round(0.1 * i, 1) for i in range(10)
    ),
    noise_sizes=(8000, 32000), squared_steps=3000, steps=2400,
  ),
}  # fmt: skip


@functools.partial(
  jax.jit, static_argnames=("num_measurements", "rows", "rank", "single_precision")
)
def make(
  key: jax.Array, rate: Any, scale: Any, *,
  num_measurements: int, rows: int, rank: int, single_precision: bool = False,
) -> tuple[Any, jax.Array, Any]:  # fmt: skip
  """Operator, measurements and truth of one problem; the operator depends on the key alone."""
  problem = problems.make_low_rank_sensing(
    key, num_measurements=num_measurements, rows=rows, rank=rank, outlier_rate=rate,
    outlier_scale=scale, dtype=jnp.float32 if single_precision else None,
  )  # fmt: skip
  matrices, y = problem.data
  op = recovery.GaussianSensing(matrices.reshape(num_measurements, -1), (rows, rows))
  return op, y, problem.truth


def solve(
  alpha: jax.Array, y: jax.Array, op: Any, truth: jax.Array, *,
  width: int, num_steps: int, eta0: float, tol: float,
) -> recovery.Trace:  # fmt: skip
  """SubGM from the signs of the measurements, in steps that are told neither rank nor growth."""
  start = recovery.sign_spectral(op, y, width, alpha=alpha)
  tx = recovery.residual_proportional(eta0=eta0)
  return recovery.subgm(op, y, start, tx=tx, num_steps=num_steps, truth=truth, tol=tol)[1]


@functools.partial(jax.jit, static_argnames=("num_steps", "eta0"))
def solve_random(
  key: jax.Array, alpha: jax.Array, rho: jax.Array | None, op: Any, y: jax.Array,
  truth: jax.Array, *, num_steps: int, eta0: float,
) -> recovery.Trace:  # fmt: skip
  """SubGM at full width from a random start, with a decay or, for None, without."""
  dim = op.shape[0]
  start = recovery.random_small(key, dim, dim, alpha=alpha, dtype=y.dtype)
  tx = (
    recovery.residual_proportional(eta0=eta0)
    if rho is None
    else recovery.q_normalized_geometric(eta0=eta0, rho=rho)
  )
  return recovery.subgm(op, y, start, tx=tx, num_steps=num_steps, truth=truth)[1]


@functools.partial(jax.jit, static_argnames=("num_steps", "eta0"))
def solve_decay(
  alpha: jax.Array, rho: jax.Array, op: Any, y: jax.Array, truth: jax.Array, *,
  num_steps: int, eta0: float,
) -> recovery.Trace:  # fmt: skip
  """SubGM at full width from the signs of the measurements, with a given decay."""
  start = recovery.sign_spectral(op, y, op.shape[0], alpha=alpha)
  tx = recovery.q_normalized_geometric(eta0=eta0, rho=rho)
  return recovery.subgm(op, y, start, tx=tx, num_steps=num_steps, truth=truth)[1]


def squared(
  y: jax.Array, op: Any, truth: jax.Array, *, width: int, alpha: float, num_steps: int
) -> jax.Array:
  """Errors along gradient descent on the squared loss, from the same small start."""
  start = recovery.sign_spectral(op, y, width, alpha=alpha)
  solver = recovery.subgradient_method(optax.sgd, value_and_subgrad=recovery.squared_value_grad)
  step = jnp.asarray(_SQUARED_STEP, y.dtype)
  return solvers.run_steps(solver, start, step, op, y, truth, num_steps=num_steps)[1].err


def constant(
  y: jax.Array, op: Any, truth: jax.Array, *, width: int, alpha: float, num_steps: int
) -> jax.Array:
  """Errors along SubGM with a constant step."""
  start = recovery.sign_spectral(op, y, width, alpha=alpha)
  tx = optax.sgd(_CONSTANT_STEP)
  return recovery.subgm(op, y, start, tx=tx, num_steps=num_steps, truth=truth)[1].err


def on_grid(mapped: Any, points: list[tuple[Any, Any]], num: int, *shared: Any) -> Any:
  """Solves for a list of (alpha, y), padded to ``num`` points: one compile serves all."""
  padded = points + [points[-1]] * (num - len(points))
  alphas, ys = (np.stack([np.asarray(p[i]) for p in padded]) for i in range(2))
  trace = mapped(alphas.astype(ys.dtype), ys, shared=shared)
  return jax.tree.map(lambda leaf: np.asarray(leaf)[: len(points)], trace)


def thin(curve: Any) -> list[list[float]]:
  """Iteration numbers and values of a few points of a curve."""
  index = np.unique(np.linspace(0, len(curve) - 1, _CURVE_POINTS).astype(int))
  return [(index + 1).tolist(), np.asarray(curve)[index].tolist()]


def run(config: Config, progress: Progress) -> Outcome:
  """Runs the four parts."""
  with jax.enable_x64(True):
    progress.message("scale of the start, width of the factors, growing corruption")
    metrics, shared_solve = _start_and_corruption(config, progress)
    progress.message("Gaussian noise")
    metrics["noise"] = _noise(config, progress, shared_solve)
    progress.message("a truth that is not the minimiser")
    metrics["not_minimiser"] = _not_minimiser(config)
  return Outcome(metrics, _table(config, metrics), _claims(config, metrics))


def _mapped(config: Config, width: int) -> Any:
  """Solves of one width over a grid of starts and measurements."""
  return sweeps.sweep(
    functools.partial(solve, width=width, num_steps=config.steps, eta0=config.eta0, tol=config.tol)
  )


def _start_and_corruption(config: Config, progress: Progress) -> tuple[dict[str, Any], Any]:
  """The first two parts, which share their operators; and their compiled solve."""
  sizes = {"num_measurements": config.measurements, "rows": config.dim, "rank": config.rank}
  middle = config.alphas[len(config.alphas) // 2]
  full, narrow = config.widths[-1], config.widths[0]

  data = []
  for seed in range(config.seeds):
    key = jax.random.key(seed)
    op, y, truth = make(key, config.outlier_rate, config.outlier_scale, **sizes)
    far = make(key, config.outlier_rate, 1e4 * config.outlier_scale, **sizes)[1]
    by_rate = [make(key, rate, config.outlier_scale, **sizes)[1] for rate in config.rates]
    data.append((key, op, truth.matrix, y, far, by_rate))
  points = max(2 * len(config.alphas), len(config.rates))

  mapped = {width: _mapped(config, width) for width in config.widths}
  fit_squared = sweeps.sweep(
    functools.partial(squared, width=full, alpha=middle, num_steps=config.squared_steps)
  )
  start: dict[str, Any] = {
    "errors": [], "errors_larger_outliers": [], "status": [], "unit_start": [],
    "squared_least": [], "squared_last": [], "wrong_decay": [], "wrong_decay_status": [],
    "norm": math.sqrt(config.rank), "curves": {},
  }  # fmt: skip
  corruption: dict[str, Any] = {
    "widths": (narrow, full), "alpha": middle, "errors": [], "squared_least": [],
  }  # fmt: skip
  for seed, (key, op, truth, y, far, by_rate) in enumerate(progress.track(data, "problems")):
    grid = [(a, y) for a in config.alphas] + [(a, far) for a in config.alphas[1:]]
    traces = {w: on_grid(mapped[w], grid, points, op, truth) for w in config.widths}
    num = len(config.alphas)
    start["errors"].append([traces[w].err[:num, -1] for w in config.widths])
    start["errors_larger_outliers"].append([traces[w].err[num:, -1] for w in config.widths])
    start["status"].append([traces[w].status[:num] for w in config.widths])
    wrong = solve_decay(
      np.asarray(_WRONG_START), np.asarray(_WRONG_DECAY), op, y, truth,
      num_steps=config.steps, eta0=config.eta0,
    )  # fmt: skip
    start["wrong_decay"].append(wrong.err[-1])
    start["wrong_decay_status"].append(int(wrong.status))
    unit_trace = solve_random(
      key, np.asarray(1.0), np.asarray(_UNIT_DECAY), op, y, truth,
      num_steps=config.steps, eta0=config.eta0,
    )  # fmt: skip
    unit = np.asarray(unit_trace.err)
    start["unit_start"].append(unit[-1])

    grid = [(middle, v) for v in by_rate]
    corruption["errors"].append(
      [on_grid(mapped[w], grid, points, op, truth).err[:, -1] for w in (narrow, full)]
    )
    errors = np.asarray(fit_squared(np.stack([y, *by_rate]), shared=(op, truth)))
    start["squared_least"].append(errors[0].min())
    start["squared_last"].append(errors[0, -1])
    corruption["squared_least"].append(errors[1:].min(axis=1))
    if seed == 0:
      i = len(config.alphas) // 2
      start["curves"] = {f"width {w}": thin(traces[w].err[i]) for w in config.widths}
      start["curves"]["squared loss"] = thin(errors[0])
      start["curves"]["unit start"] = thin(unit)
      start["curves"]["wrong decay"] = thin(wrong.err)
  return {"start": start, "corruption": corruption}, (mapped, points)


def _noise(config: Config, progress: Progress, shared_solve: Any) -> dict[str, Any]:
  """Errors relative to nu sqrt(d r / m), and what a constant step does instead."""
  alpha = 1e-3
  sizes = config.noise_sizes
  widths = (config.widths[0], config.widths[-1])
  out: dict[str, Any] = {"widths": widths, "sizes": sizes, "ratio": [], "rms": []}
  mapped = {width: _mapped(config, width) for width in widths}
  nus = np.repeat(config.noises, config.noise_draws)
  for i, m in enumerate(progress.track(sizes, "sizes")):
    # The size of the first parts takes their compiled solve; else single precision is ample.
    is_shared = m == config.measurements
    op, clean, truth = make(
      jax.random.key(200 + i), 0.0, 1.0, num_measurements=m, rows=config.dim, rank=config.rank,
      single_precision=not is_shared,
    )  # fmt: skip
    noise = np.random.default_rng(i).standard_normal((len(nus), m))
    ys = (np.asarray(clean)[None, :] + nus[:, None] * noise).astype(clean.dtype)
    run_width, points = shared_solve if is_shared else (mapped, len(nus))
    rms = []
    for width in widths:
      last = [
        on_grid(run_width[width], [(alpha, y) for y in part], points, op, truth.matrix).err[:, -1]
        for part in np.split(ys, range(points, len(ys), points))
      ]
      by_noise = np.concatenate(last).reshape(len(config.noises), -1)
      rms.append(np.sqrt(np.mean(by_noise**2, axis=1)))
    scale = np.asarray(config.noises) * math.sqrt(config.dim * config.rank / m)
    out["rms"].append(np.asarray(rms))
    out["ratio"].append(np.asarray(rms) / scale)
    if i == 0:
      biggest = int(np.argmax(nus))
      out["constant_step"] = []
      for width in widths:
        fit = jax.jit(
          functools.partial(constant, width=width, alpha=alpha, num_steps=config.constant_steps)
        )
        out["constant_step"].append(np.asarray(fit(ys[biggest], op, truth.matrix))[-1])
  rms = np.asarray(out["rms"])  # [size, width, nu]
  out["slope_noise"] = float(np.polyfit(np.log(config.noises), np.log(rms).mean((0, 1)), 1)[0])
  out["slope_measurements"] = (
    float(np.polyfit(np.log(sizes), np.log(rms).mean((1, 2)), 1)[0]) if len(sizes) > 1 else None
  )
  return out


def _not_minimiser(config: Config) -> dict[str, Any]:
  """Fewer measurements than parameters: a small start against a start of unit scale."""
  single = config.big_dim > config.dim  # errors of 1e-2 and more: it is ample, and twice as fast
  op, y, truth = make(
    jax.random.key(400), config.outlier_rate, 10.0, num_measurements=config.big_measurements,
    rows=config.big_dim, rank=config.rank, single_precision=single,
  )  # fmt: skip
  # Both from the same random directions. They run one after the other: each is one product of the
  # stored matrices with a vector, which is limited by memory, and a batch of two gains nothing.
  traces = [
    jax.tree.map(
      np.asarray,
      solve_random(
        jax.random.key(401), np.asarray(alpha, y.dtype), rho, op, y, truth.matrix,
        num_steps=config.big_steps, eta0=config.eta0,
      ),
    )
    for alpha, rho in ((config.big_alpha, None), (1.0, np.asarray(_BIG_UNIT_DECAY, y.dtype)))
  ]  # fmt: skip
  return {
    "truth_loss": float(np.mean(np.abs(truth.corruption))),
    "loss": [t.value[-1] for t in traces],
    "error": [t.err[-1] for t in traces],
    "steps": config.big_steps,
    "curves": {
      name: [thin(t.value), thin(t.err)] for name, t in zip(("small", "unit"), traces, strict=True)
    },
  }


def _geometric_mean(values: Any, axis: Any = None) -> Any:
  return np.exp(np.mean(np.log(values), axis=axis))


def _start_slopes(config: Config, metrics: dict[str, Any]) -> np.ndarray:
  """Slope of log error in log alpha for each width, errors averaged over the problems."""
  errors = _geometric_mean(np.asarray(metrics["start"]["errors"]), axis=0)
  return np.array([np.polyfit(np.log(config.alphas), np.log(e), 1)[0] for e in errors])


def _table(config: Config, metrics: dict[str, Any]) -> list[Row]:
  start, big, noise = metrics["start"], metrics["not_minimiser"], metrics["noise"]
  errors = np.asarray(start["errors"])  # [seed, width, alpha]
  i = len(config.alphas) // 2
  full = config.widths[-1]
  what = f"||X - X*||_F, {config.outlier_rate:.0%} gross errors of scale {config.outlier_scale:g}"
  note = "The paper shows figures only; ||X*||_F = " + f"{start['norm']:.2f}."
  rows = [
    Row(
      f"SubGM, width {width}, alpha {config.alphas[i]:g}",
      what,
      float(_geometric_mean(errors[:, k, i])),
      baseline=float(np.mean(start["squared_least"])),
      baseline_name="squared loss, stopped at its best",
      better="lower",
      spread=float(np.std(errors[:, k, i])),
      note=note,
    )
    for k, width in enumerate(config.widths)
  ]
  rows += [
    Row(
      f"SubGM, width {full}, alpha {config.alphas[i]:g}",
      what,
      float(_geometric_mean(errors[:, -1, i])),
      baseline=float(np.mean(start["unit_start"])),
      baseline_name="the same from a start of unit scale",
      better="lower",
      spread=float(np.std(errors[:, -1, i])),
    ),
    Row(
      f"SubGM, small start, width {config.big_dim}",
      f"||X - X*||_F, {config.big_measurements} measurements",
      float(big["error"][0]),
      baseline=float(big["error"][1]),
      baseline_name="start of unit scale",
      better="lower",
      note=f"l1 loss {big['loss'][0]:.3f}, of the baseline {big['loss'][1]:.3f}, of the truth "
      f"{big['truth_loss']:.3f}: the better loss has the useless matrix.",
    ),
    Row(
      f"SubGM, width {full}, Gaussian noise",
      "||X - X*||_F / (nu sqrt(d r / m)), nu = " + f"{config.noises[-1]:g}",
      float(noise["ratio"][0][1][-1]),
      baseline=float(noise["ratio"][0][0][-1]),
      baseline_name=f"width {config.rank}, the true rank",
      better="lower",
    ),
  ]
  return rows


def _claims(config: Config, metrics: dict[str, Any]) -> list[Claim]:
  start, corruption = metrics["start"], metrics["corruption"]
  big, noise = metrics["not_minimiser"], metrics["noise"]
  errors = np.asarray(start["errors"])
  far = np.asarray(start["errors_larger_outliers"])
  slopes = _start_slopes(config, metrics)
  widths = errors[:, -1] / errors[:, 1]
  larger = (far / errors[:, :, 1:])[:, [0, -1]]
  by_rate = _geometric_mean(np.asarray(corruption["errors"]), axis=0)  # [width, rate]
  up_to_half = np.asarray(config.rates) <= 0.5
  squared_least = np.mean(corruption["squared_least"], axis=0)
  noisy_rates = up_to_half & (np.asarray(config.rates) > 0)
  exact_rate = np.asarray(noise["ratio"])
  return [
    Claim(
      "At the true rank the error has no floor from the start: it is that of the steps.",
      bool(errors[:, 0].max() < 10 * config.tol),
      {"largest error": errors[:, 0].max()},
    ),
    Claim(
      "Over-specified, the error falls with the start faster than linearly.",
      bool(np.all(slopes[1:] > 1)),
      {f"slope, width {w}": s for w, s in zip(config.widths[1:], slopes[1:], strict=True)},
    ),
    Claim(
      "The error at full width is within a factor 2 of the error at a small surplus width.",
      bool(np.all((widths > 0.5) & (widths < 2))),
      {"least ratio": widths.min(), "largest ratio": widths.max()},
    ),
    Claim(
      "Gross errors 10,000 times larger change nothing by more than a factor 3.",
      bool(np.all((larger < 3) & (larger > 1 / 3))),
      {"least ratio": larger.min(), "largest ratio": larger.max()},
    ),
    Claim(
      "Recovery to 1 % of the norm with up to half of the measurements wrong, at full width.",
      bool(np.all(by_rate[-1][up_to_half] < 0.01 * start["norm"])),
      {f"error at {r:g}": e for r, e in zip(config.rates, by_rate[-1], strict=True)},
    ),
    Claim(
      "The squared loss does not get below half of the norm at any corruption, wherever stopped.",
      bool(np.all(squared_least[noisy_rates] > 0.5 * start["norm"])),
      {f"least error at {r:g}": e for r, e in zip(config.rates, squared_least, strict=True)},
    ),
    Claim(
      "A decay chosen for a larger start fails, and the run says so (status 3, stalled).",
      bool(np.min(start["wrong_decay"]) > 0.9 * start["norm"])
      and set(start["wrong_decay_status"]) == {solvers.STALLED},
      {"least error": np.min(start["wrong_decay"])},
    ),
    Claim(
      "Where the truth is not the minimiser, the start of unit scale has a lower loss than the "
      "truth and a useless matrix; the small start recovers the truth.",
      bool(
        big["loss"][1] < 0.8 * big["truth_loss"]
        and big["error"][1] > start["norm"]
        and big["error"][0] < 0.05 * start["norm"]
      ),
      {
        "loss of the truth": big["truth_loss"],
        "loss, unit start": float(big["loss"][1]),
        "error, unit start": float(big["error"][1]),
        "error, small start": float(big["error"][0]),
      },
    ),
    Claim(
      "With Gaussian noise the error is proportional to nu / sqrt(m), whatever the width.",
      bool(
        abs(noise["slope_noise"] - 1) < 0.05
        and (noise["slope_measurements"] is None or abs(noise["slope_measurements"] + 0.5) < 0.1)
        and np.all(np.abs(exact_rate[:, 1] / exact_rate[:, 0] - 1) < 0.05)
      ),
      {"slope in nu": noise["slope_noise"]}
      | ({"slope in m": noise["slope_measurements"]} if len(noise["sizes"]) > 1 else {}),
    ),
    Claim(
      "With a constant step the full width overfits the noise instead.",
      bool(noise["constant_step"][1] > 1.5 * noise["constant_step"][0]),
      {
        f"error, width {w}": e for w, e in zip(noise["widths"], noise["constant_step"], strict=True)
      },
    ),
  ]


def figure(record: dict[str, Any]) -> Any:
  """Six panels: runs, start, corruption, noise, and the two sides of the last problem."""
  metrics, settings = record["metrics"], record["settings"]
  fig, axes = new_figure(2, 3, width=4.2)
  start, corruption = metrics["start"], metrics["corruption"]
  for name, (x, y) in start["curves"].items():
    dashed = not name.startswith("width")
    axes[0].semilogy(x, y, "--" if dashed else "-", label=name)
  alphas = settings["alphas"]
  axes[0].set(
    xlabel="iteration", ylabel=r"$\|X - X^*\|_F$",
    title=f"{settings['outlier_rate']:.0%} gross errors, alpha = {alphas[len(alphas) // 2]:g}",
  )  # fmt: skip
  axes[0].legend(fontsize=7)

  errors = np.exp(np.mean(np.log(np.asarray(start["errors"], float)), axis=0))
  for width, line in zip(settings["widths"], errors, strict=True):
    axes[1].loglog(alphas, line, "o-", ms=4, label=f"width {width}")
  axes[1].set(xlabel="scale of the start, alpha", title="Final error against the start")
  axes[1].legend(fontsize=8)

  rates = settings["rates"]
  by_rate = np.exp(np.mean(np.log(np.asarray(corruption["errors"], float)), axis=0))
  for width, line in zip(corruption["widths"], by_rate, strict=True):
    axes[2].semilogy(rates, line, "o-", ms=4, label=f"l1, width {width}")
  least = np.mean(np.asarray(corruption["squared_least"], float), axis=0)
  axes[2].semilogy(rates, least, "k--", label="squared loss, best iterate")
  axes[2].set(xlabel="fraction of gross errors", title="Final error, alpha = 0.001")
  axes[2].legend(fontsize=8)

  noise = metrics["noise"]
  for m, lines in zip(noise["sizes"], noise["rms"], strict=True):
    for width, line in zip(noise["widths"], lines, strict=True):
      style = "o-" if width == noise["widths"][0] else "x--"
      axes[3].loglog(settings["noises"], line, style, label=f"m = {m}, width {width}")
  axes[3].set(
    xlabel="standard deviation of the noise", ylabel=r"$\|X - X^*\|_F$", title="Gaussian noise"
  )
  axes[3].legend(fontsize=7)

  big = metrics["not_minimiser"]
  for name, (loss, error) in big["curves"].items():
    axes[4].semilogx(*loss, label=f"{name} start")
    axes[5].loglog(*error, label=f"{name} start")
  axes[4].axhline(big["truth_loss"], color="k", ls=":", label="loss of the truth")
  title = f"{settings['big_measurements']} measurements, width {settings['big_dim']}"
  axes[4].set(xlabel="iteration", ylabel="l1 loss", title=title)
  axes[5].set(xlabel="iteration", ylabel=r"$\|X - X^*\|_F$", title="The same runs: error")
  for ax in axes[4:]:
    ax.legend(fontsize=8)
  return fig
