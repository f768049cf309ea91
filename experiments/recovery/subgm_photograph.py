"""A photograph recovered from random measurements, a quarter of which are grossly wrong."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments._earlier import Claim, Outcome, Row
from experiments._pictures import decode, encode, load_picture, psnr
from experiments._protocol import Paper, Progress, new_figure
from jaxopt_robust import recovery, solvers

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

_CURVE_POINTS = 120  # of a curve in the record


@dataclasses.dataclass(frozen=True)
class Config:
  """Settings.

  Attributes:
    seeds: number of draws of measurements and errors.
    picture: a grey picture bundled with scikit-image.
    top: first row of the square that is cut out.
    left: first column of the square that is cut out.
    pixels: side of the picture after averaging blocks.
    block: side of an averaged block.
    measurements: number of Gaussian measurements.
    rate: fraction of measurements that are grossly wrong.
    scale: size of the gross errors, in standard deviations of the clean measurements.
    width: width of the factors where it is chosen for the picture.
    alpha: scale of the start.
    eta0: first normalised step.
    rho: decay of the steps.
    steps: number of steps.
    squared_step: constant step of the squared loss.
    squared_steps: its number of steps.
  """

  seeds: int = 1
  picture: str = "camera"
  top: int = 30
  left: int = 80
  pixels: int = 48
  block: int = 8
  measurements: int = 3600
  rate: float = 0.25
  scale: float = 10.0
  width: int = 10
  alpha: float = 1e-3
  eta0: float = 0.25
  rho: float = 0.9955
  steps: int = 1000
  squared_step: float = 0.01
  squared_steps: int = 300


SIZES = {
  "toy": Config(
    pixels=12, block=32, measurements=300, width=3, alpha=1e-2, rho=0.99, steps=300,
    squared_steps=40,
  ),
  "desk": Config(),
  "large": Config(
    seeds=5, top=0, left=0, pixels=128, block=4, measurements=26_000, width=20, steps=2000,
    rho=0.9975,
  ),
}  # fmt: skip


@functools.partial(jax.jit, static_argnames=("width", "steps"))
def robust(
  op: Any, y: jax.Array, truth: jax.Array, alpha: Any, eta0: Any, rho: Any, *,
  width: int, steps: int,
) -> tuple[jax.Array, recovery.Trace]:  # fmt: skip
  """The sub-gradient method on the l1 loss from the signs of the measurements."""
  start = recovery.sign_spectral(op, y, width, alpha=alpha, kind="general")
  tx = recovery.q_normalized_geometric(eta0=eta0, rho=rho)
  factors, trace = recovery.subgm(op, y, start, tx=tx, num_steps=steps, truth=truth)
  return recovery.compose(factors), trace


@functools.partial(jax.jit, static_argnames=("width", "steps"))
def squared(
  op: Any, y: jax.Array, truth: jax.Array, alpha: Any, step: Any, *, width: int, steps: int
) -> tuple[jax.Array, jax.Array]:
  """Gradient descent on the squared loss from the same start: the last matrix, all errors."""
  start = recovery.sign_spectral(op, y, width, alpha=alpha, kind="general")
  solver = recovery.subgradient_method(optax.sgd, value_and_subgrad=recovery.squared_value_grad)
  step = jnp.asarray(step, y.dtype)
  factors, infos = solvers.run_steps(solver, start, step, op, y, truth, num_steps=steps)
  return recovery.compose(factors), infos.err


@functools.partial(jax.jit, static_argnames="width")
def trimmed(op: Any, y: jax.Array, *, width: int) -> jax.Array:
  """One spectral step from the measurements within two medians, the usual start of l1 methods."""
  return recovery.compose(recovery.median_truncated_spectral(op, y, width))


def run(config: Config, progress: Progress) -> Outcome:
  """Recovers the picture with the l1 and the squared loss."""
  picture = load_picture(
    config.picture, top=config.top, left=config.left, pixels=config.pixels, block=config.block
  )
  values = np.linalg.svd(picture, compute_uv=False)
  u, s, vt = np.linalg.svd(picture, full_matrices=False)
  best = (u[:, : config.width] * s[: config.width]) @ vt[: config.width]
  floor = float(np.linalg.norm(picture - best))
  widths = {"chosen": config.width, "full": config.pixels}
  names = (
    "l1, chosen width", "l1, full width", "l1, nothing corrupted", "squared loss", "trimmed",
  )  # fmt: skip
  metrics: dict[str, Any] = {n: {"psnr": [], "best_psnr": [], "status": []} for n in names}
  metrics["picture"] = {"singular_values": values, "floor_psnr": float(psnr(floor, config.pixels))}
  drawing: dict[str, Any] = {"pictures": {}, "curves": {}}

  def book(name: str, image: Any, errors: Any, status: Any, seed: int) -> None:
    curve = psnr(errors, config.pixels)
    metrics[name]["psnr"].append(float(curve[-1]))
    metrics[name]["best_psnr"].append(float(curve.max()))
    metrics[name]["status"].append(int(status))
    if seed == 0:
      index = np.unique(np.linspace(0, len(curve) - 1, _CURVE_POINTS).astype(int))
      drawing["curves"][name] = [(index + 1).tolist(), curve[index].tolist()]
      drawing["pictures"][name] = encode(image)

  truth = jnp.asarray(picture)
  call = progress.clock.call
  for seed in progress.track(range(config.seeds), "draws"):
    op_key, error_key = jax.random.split(jax.random.key(seed))
    op = recovery.make_gaussian_sensing(
      op_key, config.measurements, config.pixels, config.pixels, dtype=jnp.float32
    )
    clean = jax.jit(lambda op, x: op.apply(x))(op, truth)
    y = recovery.bernoulli_outliers(
      error_key, clean, rate=config.rate, scale=config.scale * jnp.std(clean)
    ).y
    numbers = [jnp.asarray(v, jnp.float32) for v in (config.alpha, config.eta0, config.rho)]

    def fit(width: int, y: Any, op: Any = op, numbers: Any = numbers) -> Any:
      program = _program(robust, width, config.steps)
      return call(program, op, y, truth, *numbers, name=f"l1, width {width}")

    for name, width, data in (
      ("l1, chosen width", widths["chosen"], y),
      ("l1, full width", widths["full"], y),
      ("l1, nothing corrupted", widths["chosen"], clean),
    ):
      image, trace = fit(width, data)
      book(name, image, trace.err, trace.status, seed)
    program = _program(squared, config.width, config.squared_steps)
    step = jnp.asarray(config.squared_step, jnp.float32)
    image, errors = call(program, op, y, truth, numbers[0], step, name="squared loss")
    book("squared loss", image, errors, 0, seed)
    image = trimmed(op, y, width=config.width)
    book("trimmed", image, [float(jnp.linalg.norm(image - truth))], 0, seed)

  drawing["pictures"]["original"] = encode(picture)
  drawing["pictures"]["best of this rank"] = encode(best)
  metrics["drawing"] = drawing
  return Outcome(metrics, _table(config, metrics), _claims(metrics))


@functools.cache
def _program(function: Any, width: int, steps: int) -> Any:
  """One jitted function for each width, with its static arguments bound."""
  return jax.jit(functools.partial(function, width=width, steps=steps))


def _mean(metrics: dict[str, Any], name: str, key: str = "psnr") -> float:
  return float(np.mean(metrics[name][key]))


def _table(config: Config, metrics: dict[str, Any]) -> list[Row]:
  what = (
    f"PSNR in dB, {config.pixels} x {config.pixels} pixels, {config.measurements} measurements, "
    f"{config.rate:.0%} wrong"
  )
  baseline = _mean(metrics, "squared loss", "best_psnr")
  rows = [
    Row(
      f"SubGM, {label}",
      what,
      _mean(metrics, name),
      baseline=baseline,
      baseline_name="squared loss, stopped at its best iterate",
      spread=float(np.std(metrics[name]["psnr"])),
      note=note,
    )
    for label, name, note in (
      (
        f"width {config.width}",
        "l1, chosen width",
        f"The best matrix of rank {config.width} has {metrics['picture']['floor_psnr']:.1f} dB; "
        "the paper has no picture. Start and decay were chosen by hand on this picture; there are "
        "more measurements than pixels.",
      ),
      (f"width {config.pixels} (full)", "l1, full width", ""),
    )
  ]
  rows += [
    Row(
      f"SubGM, width {config.width}",
      what,
      _mean(metrics, "l1, chosen width"),
      baseline=_mean(metrics, name),
      baseline_name=label,
      note=note,
    )
    for name, label, note in (
      ("trimmed", "best rank from the measurements within two medians", ""),
      ("l1, nothing corrupted", "the same without any corruption", "What the gross errors cost."),
    )
  ]
  return rows


def _claims(metrics: dict[str, Any]) -> list[Claim]:
  chosen, full = _mean(metrics, "l1, chosen width"), _mean(metrics, "l1, full width")
  best_squared = _mean(metrics, "squared loss", "best_psnr")
  clean, spectral = _mean(metrics, "l1, nothing corrupted"), _mean(metrics, "trimmed")
  return [
    Claim(
      "The l1 loss beats the best iterate of the squared loss by 10 dB, at both widths.",
      bool(min(chosen, full) > best_squared + 10),
      {"l1, chosen width": chosen, "l1, full width": full, "squared loss": best_squared},
    ),
    Claim(
      "The l1 loss beats a spectral estimate from the smallest measurements by 3 dB.",
      bool(min(chosen, full) > spectral + 3),
      {"l1, chosen width": chosen, "l1, full width": full, "spectral": spectral},
    ),
    Claim(
      "The full width, chosen without looking at the picture, loses at most 1 dB.",
      bool(full > chosen - 1),
      {"l1, chosen width": chosen, "l1, full width": full},
    ),
    Claim(
      "The gross errors cost at most 5 dB against measurements without any.",
      bool(chosen > clean - 5),
      {"corrupted": chosen, "nothing corrupted": clean},
    ),
  ]


def figure(record: dict[str, Any]) -> Any:
  """The pictures, the spectrum and the PSNR along the runs."""
  metrics, settings = record["metrics"], record["settings"]
  drawing, pixels = metrics["drawing"], settings["pixels"]
  fig, axes = new_figure(2, 4, width=3.2, height=3.2)
  level = {name: metrics[name]["psnr"][0] for name in drawing["curves"]}
  level["best of this rank"] = metrics["picture"]["floor_psnr"]
  order = (
    "original", "best of this rank", "l1, nothing corrupted",
    "l1, chosen width", "l1, full width", "squared loss",
  )  # fmt: skip
  places = (0, 1, 2, 4, 5, 6)
  titles = {
    "best of this rank": f"best of rank {settings['width']}",
    "l1, chosen width": f"l1, width {settings['width']}",
    "l1, full width": f"l1, width {pixels}",
  }
  for place, name in zip(places, order, strict=True):
    ax = axes[place]
    ax.imshow(decode(drawing["pictures"][name], pixels), cmap="gray", vmin=0, vmax=1)
    text = titles.get(name, name)
    ax.set_title(f"{text}: {level[name]:.1f} dB" if name in level else text, fontsize=10)
    ax.set_axis_off()
  for name, (x, y) in drawing["curves"].items():
    if len(x) == 1:
      continue
    axes[3].plot(x, y, label=titles.get(name, name))
  axes[3].axhline(metrics["picture"]["floor_psnr"], color="k", ls=":", label="best of this rank")
  axes[3].set(
    xlabel="iteration", ylabel="PSNR (dB)", ylim=(0, None),
    title=f"{settings['rate']:.0%} of {settings['measurements']} wrong",
  )  # fmt: skip
  axes[3].legend(fontsize=7)
  values = np.asarray(metrics["picture"]["singular_values"], float)
  axes[7].semilogy(np.arange(1, len(values) + 1), values, "o-", ms=3)
  axes[7].axvline(settings["width"] + 0.5, color="k", ls=":")
  axes[7].set(xlabel="number", title="Singular values of the picture")
  return fig
