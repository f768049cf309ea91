"""The background of a film in changing light, behind moving objects, by robust components."""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments._claims import Claim, Side
from experiments._pictures import decode, encode, load_picture, psnr
from experiments._protocol import Paper, Progress, Row, Settings, Size, new_figure
from experiments._recovery import best_of_rank, f1_score
from jaxopt_robust import recovery

PAPER = Paper(
  title="Robust Principal Component Analysis?",
  authors="Candes, Li, Ma and Wright",
  year=2011,
  claim="The frames of a film are a matrix of low rank, the background in its changing light, and "
  "a sparse one, what moves in front of it: robust principal components separate the two. The "
  "median over the frames follows no light, and principal components (the squared loss) smear what "
  "moves.",
  section="Section 4.2 (surveillance video); here a photograph with real objects pasted in",
  url="https://arxiv.org/abs/0912.3599",
)

_RANK = 2  # of the changing light: brightness, and its slope over the picture
_SCENES = ("changing light", "constant light", "changing light, a third missing")


@dataclasses.dataclass(frozen=True)
class Config(Settings):
  """Settings. A seed is a film: its light, what moves and how, and what is missing.

  Attributes:
    pixels: side of a frame.
    block: side of an averaged block of the photograph.
    frames: number of frames.
    patch: side of a moving object.
    objects: number of moving objects.
    noise: standard deviation of the sensor's noise.
    missing: fraction of pixels that are lost in the scene with missing ones.
    visible: difference to the background that counts as foreground.
    scenes: number of the scenes, of the three there are.
    methods: which methods are compared.
  """

  pixels: int = 40
  block: int = 11
  frames: int = 60
  patch: int = 10
  objects: int = 2
  noise: float = 0.01
  missing: float = 0.33
  visible: float = 0.1
  scenes: int = 3
  methods: tuple[str, ...] = ("PCP", "l1, scaled", "AccAltProj", "ScaledGD")


SIZES = {
  "toy": Size(
    Config(
      seeds=2, pixels=12, block=36, frames=20, patch=3, scenes=1, methods=("PCP", "l1, scaled")
    ),
    "Two tiny films.",
  ),
  "desk": Size(Config(), "Photographs with moving coins instead of surveillance video."),
  "large": Size(
    Config(seeds=10, pixels=120, block=4, frames=200, patch=30),
    "The same at the number of frames and nearly the resolution of the paper.",
  ),
}  # fmt: skip


def solvers_by_name() -> dict[str, Callable[[Any, Any], Any]]:
  """(frames, mask or None) -> L for every method."""
  pca = recovery.robust_pca

  def projections(frames: Any, where: Any) -> Any:
    start = jnp.max(jnp.abs(frames)) / (2 * jnp.linalg.norm(frames, ord=2))
    solver = recovery.acc_alt_proj(_RANK, beta_init=start)
    return pca(frames, solver=solver, tol=1e-4, max_steps=100, where=where)

  def descent(frames: Any, where: Any) -> Any:
    solver = recovery.scaledgd_rpca(_RANK, fraction=0.2)
    return pca(frames, solver=solver, tol=1e-4, max_steps=50, where=where)

  methods = {
    "PCP": lambda frames, where: pca(frames, tol=1e-4, max_steps=80, where=where),
    "l1, scaled": lambda frames, where: recovery.l1_robust_pca(
      frames, _RANK, rho=0.97, num_steps=400, where=where
    ),
    "AccAltProj": projections,
    "ScaledGD": descent,
  }
  take = lambda method: lambda frames, where: method(frames, where)[0].low_rank
  return {name: take(method) for name, method in methods.items()}


@functools.cache
def _program(name: str) -> Any:
  return jax.jit(solvers_by_name()[name])


def make_film(config: Config, is_changing: bool, seed: int) -> tuple[np.ndarray, np.ndarray]:
  """Frames and their backgrounds, [pixels^2, frames]: a photograph with coins moving over it.

  Where the light changes, the photograph is brightened and dimmed, from one side to the other.
  """
  rng = np.random.default_rng(seed)
  n, num = config.pixels, config.frames
  scene = load_picture("camera", top=30, left=30, pixels=n, block=config.block)
  time = np.arange(num) / num
  gain = np.ones((num, 1, 1))
  if is_changing:
    slope = np.linspace(-1, 1, n)[None, None, :]
    wave = lambda k: np.sin(2 * np.pi * (k * time + rng.random()))[:, None, None]
    gain = 0.8 + 0.15 * wave(1) + 0.1 * wave(2) * slope
  background = gain * scene[None]
  frames = background.copy()
  room, block = n - config.patch, max(40 // config.patch, 1)
  for _ in range(config.objects):
    top, left = int(rng.integers(20, 200)), int(rng.integers(20, 250))
    coin = load_picture("coins", top=top, left=left, pixels=config.patch, block=block)
    start, speed = rng.uniform(0, 2 * room, 2), rng.uniform(0.5, 1.5, 2) * 2 * room / num
    path = start[None] + np.arange(num)[:, None] * speed[None]
    at = np.round(room - np.abs(path % (2 * room) - room)).astype(int)  # there and back
    for t, (y, x) in enumerate(at):
      frames[t, y : y + config.patch, x : x + config.patch] = coin
  frames += config.noise * rng.standard_normal(frames.shape)
  flat = lambda film: film.reshape(num, -1).T.astype(np.float32)
  return flat(frames), flat(background)


def baselines(frames: np.ndarray, where: np.ndarray | None) -> dict[str, np.ndarray]:
  """The median over time, the same with the brightness of each frame put back, and components.

  Missing pixels are filled with the median, for the components.
  """
  seen = frames if where is None else np.where(where, frames, np.nan)
  median = np.nanmedian(seen, axis=1)[:, None]
  ratio = seen / np.maximum(median, 0.05)
  brightness = np.nanmedian(ratio, axis=0)[None, :]
  scaled = np.nanmedian(seen / brightness, axis=1)[:, None]
  filled = np.where(np.isnan(seen), median, seen)
  return {
    "median": np.broadcast_to(median, frames.shape),
    "median, brightness": scaled * brightness,
    "principal components": best_of_rank(filled, _RANK),
  }


def run(config: Config, progress: Progress) -> dict[str, Any]:
  """Every method on every film."""
  metrics: dict[str, Any] = {"scenes": {}, "drawing": {}}
  size = math.sqrt(config.frames) * config.pixels  # psnr takes the side of one picture
  middle = config.frames // 3
  for scene in _SCENES[: config.scenes]:
    is_missing = "missing" in scene
    by_name: dict[str, Any] = {}
    for seed in progress.track(config.seed_numbers(), scene):
      frames, background = make_film(config, "changing" in scene, seed)
      moving = np.abs(frames - background) > config.visible
      where = None
      if is_missing:
        where = np.random.default_rng([seed, 1]).random(frames.shape) >= config.missing
      found = baselines(frames, where)
      data = frames if where is None else np.where(where, frames, np.nan).astype(np.float32)
      for name in config.methods:
        if is_missing and name not in ("PCP", "l1, scaled"):  # the others take no mask
          continue
        found[name] = np.asarray(
          progress.clock.call(_program(name), jnp.asarray(data), where, name=f"{scene}, {name}")
        )
      seen = np.ones(frames.shape, bool) if where is None else where
      for name, low in found.items():
        row = by_name.setdefault(name, {"psnr": [], "f1": []})
        row["psnr"].append(float(psnr(np.linalg.norm(low - background), size)))
        row["f1"].append(f1_score((np.abs(frames - low) > config.visible) & seen, moving & seen))
        if seed == config.first_seed and scene == _SCENES[0]:
          metrics["drawing"][name] = encode(low[:, middle])
          metrics["drawing"][f"in front, {name}"] = encode(np.abs(frames - low)[:, middle] * 2)
      if seed == config.first_seed and scene == _SCENES[0]:
        metrics["drawing"]["frame"] = encode(frames[:, middle])
        metrics["drawing"]["background"] = encode(background[:, middle])
    metrics["scenes"][scene] = by_name
  return metrics


def _best_baseline(by_name: dict[str, Any], key: str) -> Side:
  """The best of the three on each film: harder to beat than any one of them."""
  names = [name for name in by_name if name.startswith(("median", "principal"))]
  best = np.max([np.asarray(by_name[name][key], float) for name in names], axis=0)
  return Side(f"best of {len(names)} baselines on each film", best)


_KEYS = {"psnr": "PSNR of the background in dB", "f1": "F1 of what moves"}


def claims(metrics: dict[str, Any], config: Config) -> list[Claim]:
  """Both robust methods beside the best baseline of each film, wherever the light changes."""
  words = {"psnr": "finds the background better", "f1": "finds what moves better"}
  return [
    Claim(
      f"{name} {scene} {key}".replace(",", "").replace(" ", "_"),
      f"{scene.capitalize()}: {name} {words[key]} than every baseline.", "paper", what,
      Side(name, by_name[name][key]), _best_baseline(by_name, key),
    )
    for scene, by_name in metrics["scenes"].items()
    if "changing" in scene
    for name in ("PCP", "l1, scaled")
    for key, what in _KEYS.items()
  ]  # fmt: skip


def table(metrics: dict[str, Any], config: Config) -> list[Row]:
  """Every method beside the best baseline; with constant light the median is the right model."""
  return [
    Row(f"{what}, {scene}", Side(name, values[key]), _best_baseline(by_name, key))
    for scene, by_name in metrics["scenes"].items()
    for name, values in by_name.items()
    for key, what in _KEYS.items()
  ]


def figure(record: dict[str, Any]) -> Any:
  """One frame of the first film, its background by each method, and what that leaves in front."""
  metrics, settings = record["metrics"], record["settings"]
  drawing, pixels = metrics["drawing"], settings["pixels"]
  level = metrics["scenes"][_SCENES[0]]
  names = ["median, brightness", "principal components", *settings["methods"]]
  fig, axes = new_figure(2, 1 + len(names), width=2.3, height=2.5)
  columns = 1 + len(names)

  def show(ax: Any, key: str, title: str) -> None:
    ax.imshow(decode(drawing[key], pixels), cmap="gray", vmin=0, vmax=1)
    ax.set_title(title, fontsize=9)
    ax.set_axis_off()

  show(axes[0], "frame", "one frame")
  show(axes[columns], "background", "its background")
  for i, name in enumerate(names, start=1):
    show(axes[i], name, f"{name}\n{np.mean(level[name]['psnr']):.1f} dB")
    show(axes[columns + i], f"in front, {name}", f"F1 {np.mean(level[name]['f1']):.2f}")
  return fig
