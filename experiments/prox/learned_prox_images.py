"""Photographs deblurred and sensed by learned operators, beside total variation; learned priors."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import _figures, _statistics
from experiments._claims import Claim, Side
from experiments._pictures import decode, encode
from experiments._protocol import Paper, Progress, Row, Settings, Size, new_figure
from experiments.prox import _learned_images as lib
from experiments.prox._photographs import decibels

PAPER = Paper(
  title="What's in a Prior? Learned Proximal Networks for Inverse Problems",
  authors="Fang, Buchanan and Sulam",
  year=2024,
  claim="Plug-and-play reconstructions with a learned proximal network are better than those of "
  "total variation and as good as those of other learned denoisers; the iterations converge, and "
  "the regulariser can be evaluated: it grows with the noise on an image.",
  section="Experiments on faces, computed tomography and handwritten digits",
  url="https://arxiv.org/abs/2310.14344",
)
TASKS, SHORT = lib.TASKS, lib.SHORT
# Of the rows that the choices matter to.
TWICE = (
  "Recorded twice on the report seeds: settings were chosen on squares of three of the six "
  "photographs at first, where that of total variation for deblurring came out half as large and "
  "the claim on it held."
)


@dataclasses.dataclass(frozen=True)
class Config(Settings):
  """Settings.

  Each seed trains both networks on patches of the right thirds of six photographs, and restores
  squares of their left thirds. What a method has to choose on each task, one number out of as many
  for each, is chosen on squares of the middle thirds. Learning rates were chosen on development
  seeds, three for each network.

  Attributes:
    methods: which of ``_learned_images.METHODS``, the learned proximal network among them.
    pixels: side of a square after averaging blocks; a multiple of 4.
    squares: squares that a seed restores, of one picture after the other.
    tuning: seeds whose networks and tuning squares the choices are made with; six for six pictures.
    blur: standard deviation of the Gaussian blur, in pixels.
    blur_noise: standard deviation of the noise on the blurred picture.
    rate: share of the cosines that compressed sensing measures.
    sensing_noise: standard deviation of their noise.
    weights: weights of plug-and-play ADMM that both networks try on both tasks.
    strengths: strengths of the total variation, as many, for both tasks.
    jump: weight of ADMM for total variation is strength / jump.
    iterations: of each reconstruction.
    stride: between patches of a picture.
    sigma: noise that the networks learn to remove.
    features: width of the hidden layers.
    layers: layers from hidden to hidden.
    beta: sharpness of the softplus.
    alpha: factor of the squared norm in the convex network.
    log_weight: mean logarithm of its non-negative weights at the start.
    patches: number of training patches.
    batch: patches of a step.
    steps: of Adam; the convex network's second half is proximal matching.
    learning_rate: of the convex network, along a cosine to 0.
    plain_learning_rate: of the plain one.
    gamma: last width of the matching loss, on patches of 64 values.
    stages: number of widths.
    levels: noise on the patches whose regulariser is evaluated.
    prior_patches: number of these patches.
  """

  methods: tuple[str, ...] = lib.METHODS
  pixels: int = 40
  squares: int = 2
  tuning: int = 6
  blur: float = 1.0
  blur_noise: float = 0.02
  rate: float = 0.25
  sensing_noise: float = 0.02
  weights: tuple[float, ...] = (0.000625, 0.01, 0.04, 0.08, 0.16, 0.32)
  strengths: tuple[float, ...] = (5e-4, 1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2)
  jump: float = 0.03
  iterations: int = 80
  stride: int = 2
  sigma: float = 0.05
  features: int = 96
  layers: int = 2
  beta: float = 10.0
  alpha: float = 0.01
  log_weight: float = -4.0
  patches: int = 20_000
  batch: int = 64
  steps: int = 4000
  learning_rate: float = 1e-2
  plain_learning_rate: float = 1e-3
  gamma: float = 0.32
  stages: int = 4
  levels: tuple[float, ...] = (0.0, 0.05, 0.1, 0.2, 0.3)
  prior_patches: int = 12

  def __post_init__(self) -> None:
    if (self.methods[0], self.methods[-1]) != (lib.LEARNED, lib.TV):
      raise ValueError("methods must begin with the learned network and end with total variation.")


SIZES = {
  "toy": Size(
    Config(
      seeds=2, methods=(lib.LEARNED, lib.TV), pixels=16, squares=1, tuning=1,
      weights=(0.02, 0.08), strengths=(2e-3, 8e-3), iterations=5, features=8, layers=1,
      patches=100, batch=8, steps=16, levels=(0.0, 0.3), prior_patches=2,
    ),
    "Squares of 16 x 16 pixels, a network that is hardly trained, without the plain one.",
  ),
  "desk": Size(
    Config(),
    "Six photographs instead of thousands of faces and scans; dense networks on patches of 8 x 8 "
    "pixels, averaged, instead of convolutional ones on images of 128 x 128.",
  ),
  "large": Size(
    Config(
      seeds=16, pixels=80, squares=6, features=256, steps=40_000, patches=100_000, stride=2,
      iterations=200, prior_patches=50,
    ),
    "Six photographs; dense networks on patches.",
  ),
}  # fmt: skip


def restore(
  progress: Progress, name: str, config: Config, params: Any, settings: Any, truths: Any,
  noise: Any, task: str,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
  """Decibels and pictures, for rows of (network, setting, square)."""
  operator, backs = lib.measure(config, truths, noise, task)
  solve = lib.make_solve(name, config)
  arguments = (params, jnp.asarray(settings, jnp.float32), backs, operator)
  found = np.asarray(progress.clock.call(solve, *arguments, name=f"{name}, ADMM").image)
  return np.array([decibels(x, t) for x, t in zip(found, truths, strict=True)]), found


def run_task(
  task: str, trained: dict[str, Any], config: Config, progress: Progress, choices: list
) -> dict[str, Any]:
  """Choices on the tuning squares, then every method on the others."""
  seeds, result = config.seed_numbers(), {"pictures": {}}
  few = list(range(min(config.tuning, config.seeds)))
  tuning = [lib.make_square(seeds[k], lib.TUNING, config.pixels) for k in few]
  numbers = [seed * config.squares + k for seed in seeds for k in range(config.squares)]
  squares = [lib.make_square(number, lib.REPORT, config.pixels) for number in numbers]
  result["pictures"]["original"] = encode(squares[0][0])
  for name in config.methods:
    params = trained.get(name, jnp.zeros(config.seeds))
    grid = config.strengths if name == lib.TV else config.weights
    rows = np.repeat(few, len(grid))
    pick = lambda where, params=params: jax.tree.map(lambda leaf: leaf[np.asarray(where)], params)
    truths, noise = (np.stack([tuning[k][part] for k in rows]) for part in (0, 1))
    level, _ = restore(
      progress, name, config, pick(rows), np.tile(grid, len(few)), truths, noise, task
    )
    score = level.reshape(len(few), len(grid)).mean(0)
    what = "strength of total variation" if name == lib.TV else f"weight of the {name}"
    choices.append(_statistics.choose(f"{what}, {task}", grid, score, better="higher"))
    truths, noise = (np.stack([square[part] for square in squares]) for part in (0, 1))
    rows = np.repeat(np.arange(config.seeds), config.squares)
    settings = np.full(len(rows), choices[-1].chosen)
    level, found = restore(progress, name, config, pick(rows), settings, truths, noise, task)
    result[name] = {"psnr": level.reshape(config.seeds, config.squares).mean(1)}
    result["pictures"][name] = encode(found[0])
    if name == lib.TV:
      continue
    first = slice(0, None, config.squares)  # one square a seed shows how the iterations end
    operator, backs = lib.measure(config, truths[first], noise[first], task)
    descend = lib.make_descent(name, config)
    errors = progress.clock.call(descend, params, backs, operator, name=f"{name}, descent")
    result[name]["path"] = np.asarray(errors) / np.asarray(errors)[:, :1]
  return result


def run(config: Config, progress: Progress) -> dict[str, Any]:
  """Both networks are trained and used on both tasks; the convex one's regulariser is evaluated."""
  seeds = config.seed_numbers()
  keys = jnp.stack([jax.random.key(seed) for seed in seeds])
  patches = jnp.asarray(lib.make_patches(config.patches, 0, lib.TRAINING))
  trained = {}
  for name in progress.track([m for m in config.methods if m != lib.TV], "networks"):
    train = lib.make_training(name, config)
    trained[name] = progress.clock.call(train, keys, patches, name=f"{name}, training")
  choices: list[_statistics.Choice] = []
  metrics: dict[str, Any] = {
    task: run_task(task, trained, config, progress, choices)
    for task in progress.track(TASKS, "tasks")
  }
  clean = np.stack([lib.make_patches(config.prior_patches, seed, lib.REPORT) for seed in seeds])
  noise = np.stack([np.random.default_rng(seed).standard_normal(clean.shape[1:]) for seed in seeds])
  noisy = np.stack([clean + level * noise for level in config.levels], axis=1)
  noisy = noisy.reshape(len(seeds), -1, lib.PATCH, lib.PATCH).astype(np.float32)
  prior = lib.make_prior(config)
  found = progress.clock.call(prior, trained[lib.LEARNED], jnp.asarray(noisy), name="prior")
  values, status = (np.asarray(v) for v in found)
  values = values.reshape(len(seeds), len(config.levels), -1)
  median = np.median(values, axis=2)
  metrics["prior"] = {
    "median": median, "rise": np.diff(median, axis=1).min(1), "failed": (status != 0).mean(1),
  }  # fmt: skip
  return {**metrics, "choices": choices}


def claims(metrics: dict[str, Any], config: Config) -> list[Claim]:
  """Beside total variation and the plain network; where iterations end; the regulariser."""
  made = []
  for task in TASKS:
    sides = {name: Side(name, metrics[task][name]["psnr"]) for name in config.methods}
    ours, metric = sides[lib.LEARNED], f"PSNR in dB, {task} of photographs"
    what = f"In {task}, pictures are nearer to the originals with the learned proximal network "
    text = what + "than by total variation, each with its best setting."
    made.append(Claim(f"tv_{SHORT[task]}", text, "paper", metric, ours, sides[lib.TV]))
    if lib.PLAIN in sides:
      text = what + "than with the plain network, or no more than .2 dB farther."
      both = (ours, sides[lib.PLAIN])
      made.append(Claim(f"plain_{SHORT[task]}", text, "paper", metric, *both, margin=-0.2))
    last = np.asarray(metrics[task][lib.LEARNED]["path"], float)[:, -1]
    text = f"In {task}, plug-and-play proximal gradient with the learned proximal network "
    text += "converges: its residual falls below a thousandth of the first."
    metric = f"residual after {config.iterations} steps over that of the first, {task}"
    sides_of = (Side(lib.LEARNED, last), Side("1e-3", 1e-3))
    made.append(
      Claim(f"converges_{SHORT[task]}", text, "paper", metric, *sides_of, "lower", scale="ratio")
    )
  text = "The learned regulariser's median over patches rises with each level of added noise."
  sides_of = (Side(lib.LEARNED, metrics["prior"]["rise"]), Side("0", 0.0))
  metric = "least rise of the median regulariser from one level of noise to the next"
  return [*made, Claim("prior_noise", text, "paper", metric, *sides_of)]


def table(metrics: dict[str, Any], config: Config) -> list[Row]:
  """Signal-to-noise ratios, last residuals of both networks, and the regulariser."""
  rows = []
  for task in TASKS:
    ours = Side(lib.LEARNED, metrics[task][lib.LEARNED]["psnr"])
    for name in config.methods[1:]:
      theirs = Side(name, metrics[task][name]["psnr"])
      rows.append(Row(f"PSNR in dB, {task}", ours, theirs, note=TWICE))
  for task in TASKS:
    last = {n: np.asarray(metrics[task][n]["path"], float)[:, -1] for n in config.methods[:-1]}
    sides = [*(Side(name, values) for name, values in last.items()), None][:2]
    rows.append(Row(f"last residual over the first, proximal gradient, {task}", *sides, "lower"))
  failed = Side(lib.LEARNED, metrics["prior"]["failed"])
  note = "Such a value of the regulariser is a lower bound."
  return [*rows, Row("share of inversions that did not converge", failed, None, "lower", note=note)]


def figure(record: dict[str, Any]) -> Any:
  """Pictures, signal-to-noise ratios, residuals along the iterations, the regulariser."""
  metrics, pixels = record["metrics"], record["settings"]["pixels"]
  fig, axes = new_figure(1, 4, width=3.8)
  methods = tuple(record["settings"]["methods"])
  shown = ("original", *methods)
  rows = {
    SHORT[task]: np.stack([decode(metrics[task]["pictures"][name], pixels) for name in shown])
    for task in TASKS
  }
  title = ", ".join(name.removesuffix(" network").split(" prox")[0] for name in shown)
  _figures.images(axes[0], rows, title=title)
  networks = methods[:-1]
  level = lambda task, name: np.asarray(metrics[task][name]["psnr"], float)
  gain = lambda task, name: level(task, name) - level(task, lib.TV)
  groups = {t: {n.split()[0]: gain(t, n) for n in networks} for t in TASKS}
  _figures.dots(axes[1], groups, ylabel="dB beyond total variation", title="Networks")
  axes[1].axhline(0, color="k", lw=1)
  lines = {
    f"{name}, {SHORT[task]}": metrics[task][name]["path"] for name in networks for task in TASKS
  }
  _figures.curves(
    axes[2], lines, xlabel="step", ylabel="residual / first", log="y", title="Proximal gradient"
  )
  median = np.asarray(metrics["prior"]["median"], float)
  lines = {"median over patches": median - median[:, :1]}
  _figures.curves(
    axes[3], lines, record["settings"]["levels"], xlabel="added noise", ylabel="R - R(clean)",
    title="Learned regulariser",
  )  # fmt: skip
  return fig
