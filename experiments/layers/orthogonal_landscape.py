"""Descent on the orthogonality residual of convolutions: where it ends, and the singular values."""

import dataclasses
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import _figures
from experiments._claims import Claim, Side
from experiments._protocol import Paper, Progress, Row, Settings, Size, new_figure
from jaxopt_robust import layers

PAPER = Paper(
  title="Existence, stability and scalability of orthogonal convolutional neural networks",
  authors="Achour, Malgouyres and Mamalet",
  year=2022,
  claim="Descent on the regulariser reaches orthogonal convolutions in nearly all architectures "
  "where they exist, some starts of square ones (M = C S^2) excepted; small errors leave the layer "
  "close to an isometry whatever the size of the image.",
  section="Sections on the landscape and on stability and scalability",
  url="https://arxiv.org/abs/2108.05623",
)
_FLOOR = 1e-16  # of a residual, for logarithms
_POINTS = 50  # of a curve and of a spectrum in the record
SUCCESS, SPREAD = 1e-6, 2e-3  # residual, and |sigma - 1|, of what counts as orthogonal


@dataclasses.dataclass(frozen=True)
class Config(Settings):
  """Settings.

  Attributes:
    usual: architectures where orthogonal kernels exist and M is not C S^2, as MxCxk/S: outputs M,
      inputs C, kernels k x k, stride S.
    square: architectures with M = C S^2.
    impossible: architectures without orthogonal kernels, whose least residual is known.
    sizes: outputs along an axis at which singular values are computed.
    steps: of Adam.
    learning_rate: its initial step size, falling to 0 along a cosine. It and the number of steps
      are from .005 to .2 and 2000 to 6000, by successes on development seeds 0 to 7.
  """

  seeds: int = 8
  usual: tuple[str, ...] = ("4x8x3/1", "8x4x3/1", "16x8x3/2", "40x8x3/2", "8x16x5/1", "30x3x3/1")
  square: tuple[str, ...] = ("8x8x3/1", "32x8x3/2", "16x4x5/2")
  impossible: tuple[str, ...] = ("5x1x1/2", "3x2x1/2")
  sizes: tuple[int, ...] = (8, 32)
  steps: int = 6000
  learning_rate: float = 0.08


SIZES = {
  "toy": Size(
    Config(
      seeds=2, usual=("4x2x3/1",), square=("2x2x2/1",), impossible=("3x2x1/2",), sizes=(4,),
      steps=60,
    ),
    "Small architectures, 60 steps.",
  ),
  "desk": Size(Config(), "Nine architectures and three without solutions instead of hundreds."),
  "large": Size(
    Config(
      seeds=20,
      usual=(
        "4x8x3/1", "8x4x3/1", "16x8x3/2", "40x8x3/2", "8x16x5/1", "30x3x3/1", "64x32x3/1",
        "64x128x3/1", "128x64x3/2", "32x64x7/1", "64x32x5/2",
      ),
      square=("8x8x3/1", "32x8x3/2", "16x4x5/2", "64x64x3/1", "128x32x3/2"),
      steps=10_000,
    ),
    "Sixteen architectures instead of hundreds.",
  ),
}  # fmt: skip


def parse(name: str) -> tuple[int, int, int, int]:
  """Outputs, inputs, kernel size and stride of an architecture such as 16x8x3/2."""
  if not (match := re.fullmatch(r"(\d+)x(\d+)x(\d+)/(\d+)", name)):
    raise ValueError(f"an architecture is written MxCxk/S, such as 16x8x3/2; got {name!r}.")
  return tuple(map(int, match.groups()))  # type: ignore[return-value]


def least(name: str) -> float:
  """The infimum of the residual for kernels of one tap."""
  out, channels, _, stride = parse(name)
  return float(out - min(out, channels) - max(0, out - channels * stride**2))


def make_descent(name: str, config: Config) -> Callable[[jax.Array], Any]:
  """``descend(key) -> (first kernel, last kernel, residuals along the run)``, one start a key."""
  out, channels, k, stride = parse(name)
  rate = optax.cosine_decay_schedule(config.learning_rate, config.steps)
  optimizer = optax.adam(rate)
  residual = lambda kernel: layers.orthogonality_residual(kernel, stride=stride)

  def step(carry: tuple, _: None) -> tuple[tuple, jax.Array]:
    kernel, state = carry
    value, gradient = jax.value_and_grad(residual)(kernel)
    updates, state = optimizer.update(gradient, state)
    return (optax.apply_updates(kernel, updates), state), value

  def descend(key: jax.Array) -> Any:
    start = jax.random.normal(key, (out, channels, k, k)) / np.sqrt(channels * k**2)
    carry = (start, optimizer.init(start))
    (kernel, _), values = jax.lax.scan(step, carry, None, length=config.steps)
    return start, kernel, values

  return jax.jit(jax.vmap(descend))


def _exact(kernels: Any, stride: int) -> tuple[np.ndarray, np.ndarray]:
  """Residuals and bounds of the distance to an isometry, in float64."""
  with jax.enable_x64(True):
    wide = np.asarray(kernels, np.float64)
    one = lambda kernel: (
      layers.orthogonality_residual(kernel, stride=stride),
      layers.singular_value_bounds(kernel, stride=stride).distance,
    )
    residuals, bounds = jax.jit(jax.vmap(one))(wide)
    return np.asarray(residuals), np.asarray(bounds)


def measure(name: str, config: Config, progress: Progress) -> dict[str, Any]:
  """Residuals, extreme singular values at each size, bounds, a curve and a spectrum."""
  *_, stride = parse(name)
  keys = jnp.stack([jax.random.key(seed) for seed in config.seed_numbers()])
  starts, kernels, curves = progress.clock.call(make_descent(name, config), keys, name=name)
  residuals, bounds = _exact(kernels, stride)
  _, first_bounds = _exact(starts, stride)
  found: dict[str, Any] = {"residual": np.maximum(residuals, _FLOOR), "low": {}, "high": {}}
  places = np.unique(np.linspace(0, config.steps - 1, _POINTS).astype(int))
  found["curve"] = {"x": places + 1, "y": np.maximum(np.asarray(curves)[:, places], _FLOOR)}
  used = []
  for size in config.sizes:
    spectrum = jax.jit(
      lambda kernel, size=size: layers.convolution_singular_values(
        kernel, size=size * stride, stride=stride
      )
    )
    values = np.stack([np.asarray(spectrum(kernel)).ravel() for kernel in kernels])
    found["low"][str(size)], found["high"][str(size)] = values.min(1), values.max(1)
    first = np.stack([np.asarray(spectrum(kernel)).ravel() for kernel in starts])
    for sigma, bound in ((values, bounds), (first, first_bounds)):
      # in float32 a distance is known to some 1e-5
      used.append(np.maximum(np.abs(sigma**2 - 1).max(1) - 1e-5, _FLOOR) / np.maximum(bound, 1e-12))
    if size == config.sizes[0]:
      found["spectrum"] = np.quantile(values, np.linspace(0, 1, _POINTS), axis=1).T
  found["share of the bound"] = np.max(used, axis=0)
  return found


def run(config: Config, progress: Progress) -> dict[str, Any]:
  """Descends in every architecture from every start."""
  names = (*config.usual, *config.square, *config.impossible)
  return {n: measure(n, config, progress) for n in progress.track(names, "architectures")}


def _deviation(found: dict[str, Any], size: int) -> np.ndarray:
  """Largest |sigma - 1| of each start."""
  low, high = (np.asarray(found[key][str(size)], float) for key in ("low", "high"))
  return np.maximum(1 - low, high - 1)


def _residuals(metrics: dict[str, Any], names: Any) -> np.ndarray:
  """float[architectures, starts]."""
  return np.array([metrics[name]["residual"] for name in names], float)


def claims(metrics: dict[str, Any], config: Config) -> list[Claim]:
  """Success where it is expected, isometries at each size, the bound, and known infima."""
  worst = _residuals(metrics, config.usual).max(0)
  text = "Where M is not C S^2 descent reaches a residual below 1e-6 in every architecture, from "
  text += "every start."
  sides = (Side("worst architecture", worst), Side("1e-6", SUCCESS))
  label = "orthogonality residual"
  made = [Claim("descent", text, "paper", label, *sides, better="lower", scale="ratio")]
  for size in config.sizes:
    worst = np.max([_deviation(metrics[name], size) for name in config.usual], axis=0)
    text = f"There all singular values are within .002 of 1 on images of {size} x {size} outputs."
    sides = (Side("worst architecture", worst), Side(".002", SPREAD))
    made.append(
      Claim(f"isometry_{size}", text, "paper", "largest |sigma - 1|", *sides, better="lower")
    )
  shares = [
    np.mean(_residuals(metrics, names) < SUCCESS, axis=0) for names in (config.usual, config.square)
  ]
  text = "In square architectures, M = C S^2, some starts do not get there."
  sides = (Side("other architectures", shares[0]), Side("square architectures", shares[1]))
  made.append(Claim("square", text, "paper", "share of architectures solved", *sides))
  used = np.max([metrics[n]["share of the bound"] for n in (*config.usual, *config.square)], axis=0)
  text = (
    "The bound of ||W W^T - I|| or ||W^T W - I|| by the residual holds at every size, at random "
  )
  text += "kernels and after the descent."
  sides = (Side("largest distance over its bound", used), Side("1", 1.0))
  made.append(Claim("bound", text, "theory", "distance over bound", *sides, better="lower"))
  for name in config.impossible:
    off = np.abs(_residuals(metrics, [name])[0] - least(name))
    text = f"In {name}, where no orthogonal kernel exists, descent ends at the infimum, "
    text += f"{least(name):g}."
    sides = (Side("distance to the infimum", off), Side("1e-4", 1e-4))
    key = "infimum_" + re.sub(r"\W", "_", name)
    made.append(Claim(key, text, "theory", label, *sides, better="lower"))
  return made


def table(metrics: dict[str, Any], config: Config) -> list[Row]:
  """Residuals and deviations of all architectures."""
  rows = []
  for name in (*config.usual, *config.square, *config.impossible):
    found, (out, channels, k, stride) = metrics[name], parse(name)
    note = layers.orthogonal_convolution_exists(out, channels, k, stride=stride).reason
    residual = Side(name, found["residual"])
    rows.append(Row("orthogonality residual", residual, None, "lower", note=note))
    if name not in config.impossible:
      solved = Side(name, np.asarray(found["residual"], float) < SUCCESS)
      rows.append(Row("share of starts solved", solved))
      for size in config.sizes:
        rows.append(
          Row(f"largest |sigma - 1|, {size} x {size}", Side(name, _deviation(found, size)), None,
              "lower")
        )  # fmt: skip
  return rows


def figure(record: dict[str, Any]) -> Any:
  """Residuals along the descent, their ends, and singular values of the first size."""
  metrics, settings = record["metrics"], record["settings"]
  usual, square = settings["usual"], settings["square"]
  fig, axes = new_figure(1, 3, width=4.6, height=3.8)
  for names, style in ((usual, "-"), (square, "--"), (settings["impossible"], ":")):
    for name in names:
      curve = metrics[name]["curve"]
      axes[0].semilogy(curve["x"], np.median(np.asarray(curve["y"], float), axis=0), style,
                       lw=1, label=name)  # fmt: skip
  axes[0].set(xlabel="step", ylabel="residual, median of the starts", title="Descent")
  axes[0].legend(fontsize=6, ncol=2)
  names = [*usual, *square]
  for i, name in enumerate(names):
    values = np.asarray(metrics[name]["residual"], float)
    axes[1].semilogy(np.full(values.size, i), values, "os"[name in square], ms=4, alpha=0.6,
                     color=f"C{int(name in square)}")  # fmt: skip
  axes[1].axhline(SUCCESS, color="gray", lw=0.8)
  axes[1].set_xticks(range(len(names)), names, rotation=60, ha="right", fontsize=8)
  axes[1].set(title="Last residuals (orange: M = C S^2)")
  spectra = {n: np.asarray(metrics[n]["spectrum"], float) for n in names}
  share = np.linspace(0, 1, len(next(iter(spectra.values()))[0]))
  title = "Spectra, {0} x {0} outputs".format(settings["sizes"][0])
  _figures.curves(axes[2], spectra, share, xlabel="share of the singular values", title=title)
  axes[2].legend(fontsize=6)
  return fig
