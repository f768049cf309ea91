"""Photographs deblurred and sensed by a convolutional proximal network, beside non-local means."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import _figures, _statistics
from experiments._claims import Claim, Side
from experiments._pictures import decode, encode
from experiments._protocol import Paper, Progress, Row, Settings, Size, new_figure
from experiments.prox import _convolutional as conv
from experiments.prox import _learned_images as lib

PAPER = Paper(
  title="What's in a Prior? Learned Proximal Networks for Inverse Problems",
  authors="Fang, Buchanan and Sulam",
  year=2024,
  claim="Plug-and-play reconstructions with a learned proximal network, convolutional as in the "
  "paper, are better than those of total variation and as good as those of other denoisers; the "
  "network is a proximal operator by construction, so that the iterations converge.",
  section="Experiments on faces and computed tomography; the theorem on convergence",
  url="https://arxiv.org/abs/2310.14344",
)
TASKS, SHORT = lib.TASKS, lib.SHORT
# Of the rows that this matters to.
TWICE = (
  "Recorded twice on the report seeds: at first, in steps of a factor of four, the network's "
  "best weight for deblurring lay at the edge of the grid. It had 30.5 dB there, the plain network "
  "and total variation 31.1; of the claims on these one was open and one failed."
)


@dataclasses.dataclass(frozen=True)
class Config(Settings):
  """Settings.

  Each seed trains both networks on the right thirds of six photographs and restores squares of the
  left thirds. What a method has to choose on each task, one number out of as many for each, is
  chosen on squares of the middle thirds; so were, by denoising them on development seeds, learning
  rates and the filter width of non-local means, three values for each.

  Attributes:
    methods: which of ``_convolutional.METHODS``, the first and the last among them.
    pixels: side of a square after averaging blocks; a multiple of 4.
    squares: that a seed restores, of one picture after the other.
    tuning: seeds whose networks and tuning squares make the choices.
    blur: standard deviation of the Gaussian blur, in pixels.
    blur_noise: standard deviation of the noise on the blurred picture.
    rate: share of the cosines that compressed sensing measures.
    sensing_noise: standard deviation of their noise.
    weights: weights of plug-and-play ADMM that networks and non-local means try on both tasks.
    strengths: strengths of the total variation, as many, for both tasks.
    jump: weight of ADMM for total variation is strength / jump.
    iterations: of each reconstruction.
    sigma: noise that the networks learn to remove, and that non-local means expect.
    filtering: filter width of non-local means over sigma.
    levels: of the framelets that the networks see.
    scale: by which these are divided.
    features: channels of the hidden layers.
    layers: convolutions from hidden to hidden, 3 x 3 each.
    beta: sharpness of the softplus.
    alpha: factor of the squared norm in the convex network.
    log_weight: mean logarithm of its non-negative weights at the start.
    patch: side of a training patch.
    patches: number of training patches.
    batch: patches of a step.
    steps: of Adam; the convex network's second half is proximal matching.
    learning_rate: of the convex network, along a cosine to 0.
    plain_learning_rate: of the plain one.
    gamma: last of the widths of the matching loss, .08 times the side of a patch.
    stages: number of widths.
    points: patches a seed, of at most 12 x 12 pixels, at which Jacobians are taken.
  """

  methods: tuple[str, ...] = conv.METHODS
  pixels: int = 40
  squares: int = 2
  tuning: int = 6
  blur: float = 1.0
  blur_noise: float = 0.02
  rate: float = 0.25
  sensing_noise: float = 0.02
  weights: tuple[float, ...] = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64)
  strengths: tuple[float, ...] = (5e-4, 1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2, 3.2e-2)
  jump: float = 0.03
  iterations: int = 80
  sigma: float = 0.1
  filtering: float = 0.6
  levels: int = 2
  scale: float = 0.2
  features: int = 16
  layers: int = 1
  beta: float = 10.0
  alpha: float = 0.01
  log_weight: float = -4.0
  patch: int = 16
  patches: int = 6000
  batch: int = 8
  steps: int = 600
  learning_rate: float = 2e-2
  plain_learning_rate: float = 1e-2
  gamma: float = 1.28
  stages: int = 4
  points: int = 2

  def __post_init__(self) -> None:
    if (self.methods[0], self.methods[-1]) != (lib.LEARNED, lib.TV):
      raise ValueError("methods must begin with the learned network and end with total variation.")


networks = lambda config: [name for name in config.methods if name in (lib.LEARNED, lib.PLAIN)]

SIZES = {
  "toy": Size(
    Config(
      seeds=2, methods=(lib.LEARNED, conv.NLM, lib.TV), pixels=16, squares=1, tuning=1, levels=1,
      weights=(0.02, 0.08), strengths=(2e-3, 8e-3), iterations=5, features=4, patch=8, patches=50,
      batch=4, steps=16, points=1,
    ),
    "Squares of 16 x 16 pixels, a network that is hardly trained, without the plain one.",
  ),
  "desk": Size(
    Config(),
    "Six photographs instead of thousands of faces and scans; networks of two hidden layers of 16 "
    "channels without strides, on framelets, instead of deeper ones of 256 that end densely.",
  ),
  "large": Size(
    Config(
      seeds=16, pixels=80, squares=6, features=64, layers=3, patch=32, batch=32, steps=40_000,
      patches=100_000, gamma=1.28, iterations=200,
    ),
    "Six photographs; no dense layers at the end.",
  ),
}  # fmt: skip


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
  stacked = lambda chosen: (np.stack([pair[part] for pair in chosen]) for part in (0, 1))
  for name in progress.track(config.methods, task):
    params = trained.get(name, jnp.zeros(config.seeds))
    pick = lambda where, params=params: jax.tree.map(lambda leaf: leaf[np.asarray(where)], params)
    grid = config.strengths if name == lib.TV else config.weights
    rows = np.repeat(few, len(grid))
    settings = np.tile(grid, len(few))
    truths, noise = stacked([tuning[k] for k in rows])
    level, _ = conv.restore(progress, name, config, pick(rows), settings, truths, noise, task)
    score = level.reshape(len(few), len(grid)).mean(0)
    what = "strength of total variation" if name == lib.TV else f"weight of {name}"
    choices.append(_statistics.choose(f"{what}, {task}", grid, score, better="higher"))
    rows = np.repeat(np.arange(config.seeds), config.squares)
    settings = np.full(len(rows), choices[-1].chosen)
    truths, noise = stacked(squares)
    level, found = conv.restore(progress, name, config, pick(rows), settings, truths, noise, task)
    errors = np.asarray(found.errors)[:: config.squares]  # of one square a seed
    result[name] = {
      "psnr": level.reshape(config.seeds, config.squares).mean(1), "admm": errors / errors[:, :1],
    }  # fmt: skip
    result["pictures"][name] = encode(found.image[0])
    if name in trained:
      operator, backs = lib.measure(
        config, truths[:: config.squares], noise[:: config.squares], task
      )
      descend = lib.make_descent(name, config, conv.make_network)
      errors = progress.clock.call(descend, params, backs, operator, name=f"{name}, descent")
      result[name]["path"] = np.asarray(errors) / np.asarray(errors)[:, :1]
  return result


def jacobians(trained: dict[str, Any], config: Config, progress: Progress) -> dict[str, Any]:
  """Asymmetry and least eigenvalue at noisy patches of the left thirds, in float64."""
  seeds, result = config.seed_numbers(), {}
  side = min(config.patch, 12)
  points = np.stack([lib.make_patches(config.points, seed, lib.REPORT, side) for seed in seeds])
  noise = np.stack(
    [np.random.default_rng(seed).standard_normal(points.shape[1:]) for seed in seeds]
  )
  noisy = points + config.sigma * noise
  for name, params in trained.items():
    with jax.enable_x64(True):
      wide = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf), jnp.float64), params)
      shape = conv.make_shape_of_jacobian(name, config)
      found = progress.clock.call(shape, wide, jnp.asarray(noisy), name=f"{name}, Jacobian")
      result[name] = dict(zip(("asymmetry", "least"), map(np.asarray, found), strict=True))
  return result


def run(config: Config, progress: Progress) -> dict[str, Any]:
  """Both networks are trained and used on both tasks; their Jacobians are looked at."""
  keys = jnp.stack([jax.random.key(seed) for seed in config.seed_numbers()])
  patches = jnp.asarray(lib.make_patches(config.patches, 0, lib.TRAINING, config.patch))
  trained = {}
  for name in progress.track(networks(config), "networks"):
    train = lib.make_training(name, config, conv.make_network)
    trained[name] = progress.clock.call(train, keys, patches, name=f"{name}, training")
  choices: list[_statistics.Choice] = []
  metrics: dict[str, Any] = {
    task: run_task(task, trained, config, progress, choices) for task in TASKS
  }
  return {**metrics, "jacobian": jacobians(trained, config, progress), "choices": choices}


def claims(metrics: dict[str, Any], config: Config) -> list[Claim]:
  """Beside total variation, the plain network and non-local means; where iterations end."""
  made = []
  for task, short in SHORT.items():
    sides = {name: Side(name, metrics[task][name]["psnr"]) for name in config.methods}
    ours, metric = sides[lib.LEARNED], f"PSNR in dB, {task} of photographs"
    what = f"In {task}, pictures are nearer to the originals with the convolutional proximal "
    text = what + "network than by total variation, each with its best setting."
    made.append(Claim(f"tv_{short}", text, "paper", metric, ours, sides[lib.TV]))
    if lib.PLAIN in sides:
      text = what + "network than with a plain one of its size, or no more than .2 dB farther."
      both = (ours, sides[lib.PLAIN])
      made.append(Claim(f"plain_{short}", text, "paper", metric, *both, margin=-0.2))
    text = what + "network than with non-local means in the same iteration."
    made.append(Claim(f"nlm_{short}", text, "expected", metric, ours, sides[conv.NLM]))
    last = np.asarray(metrics[task][lib.LEARNED]["path"], float)[:, -1]
    text = f"In {task}, plug-and-play proximal gradient with the convolutional proximal network "
    text += "converges: its residual falls below a thousandth of the first."
    metric = f"residual after {config.iterations} steps over that of the first, {task}"
    pair = (Side(lib.LEARNED, last), Side("1e-3", 1e-3))
    made.append(Claim(f"converges_{short}", text, "paper", metric, *pair, "lower", scale="ratio"))
  jacobian = {k: np.asarray(v, float) for k, v in metrics["jacobian"][lib.LEARNED].items()}
  text = "The trained network is a gradient: its Jacobians are symmetric up to rounding."
  pair = (Side(lib.LEARNED, jacobian["asymmetry"]), Side("1e-10", 1e-10))
  metric = "||J - J^T|| / ||J||, greatest over noisy patches"
  made.append(Claim("symmetric", text, "theory", metric, *pair, "lower"))
  text = "It is that of a convex function: no eigenvalue of a Jacobian is below 2 alpha."
  below = np.maximum(2 * config.alpha - jacobian["least"], 0)
  pair = (Side(lib.LEARNED, below), Side("1e-6", 1e-6))
  metric = "2 alpha minus the least eigenvalue over noisy patches, where positive"
  return [*made, Claim("convex", text, "theory", metric, *pair, "lower")]


def table(metrics: dict[str, Any], config: Config) -> list[Row]:
  """Signal-to-noise ratios, last residuals, and how far Jacobians are from symmetric."""
  level = lambda task, n: Side(n, metrics[task][n]["psnr"])
  rows = [
    Row(f"PSNR in dB, {task}", level(task, lib.LEARNED), level(task, name), note=TWICE)
    for task in TASKS for name in config.methods[1:]
  ]  # fmt: skip
  last = lambda task, n, key: Side(n, np.asarray(metrics[task][n][key], float)[:, -1])
  for task in TASKS:
    sides = [*(last(task, name, "path") for name in networks(config)), None][:2]
    rows.append(Row(f"last residual over the first, proximal gradient, {task}", *sides, "lower"))
    for name in config.methods[1:]:
      sides = [last(task, other, "admm") for other in (lib.LEARNED, name)]
      rows.append(Row(f"last error over the first, ADMM, {task}", *sides, "lower"))
  sides = [*(Side(n, metrics["jacobian"][n]["asymmetry"]) for n in networks(config)), None][:2]
  rows.append(Row("asymmetry of Jacobians", *sides, "lower"))
  return rows


def figure(record: dict[str, Any]) -> Any:
  """Pictures, signal-to-noise ratios, and residuals along both iterations."""
  metrics, pixels = record["metrics"], record["settings"]["pixels"]
  fig, axes = new_figure(1, 4, width=3.8)
  methods = tuple(record["settings"]["methods"])
  shown = ("original", *methods)
  picture = lambda task, name: decode(metrics[task]["pictures"][name], pixels)
  rows = {SHORT[task]: np.stack([picture(task, name) for name in shown]) for task in TASKS}
  title = ", ".join(name.removesuffix(" network").split(" prox")[0] for name in shown)
  _figures.images(axes[0], rows, title=title)
  level = lambda task, name: np.asarray(metrics[task][name]["psnr"], float)
  groups = {t: {n.split()[0]: level(t, n) - level(t, lib.TV) for n in methods[:-1]} for t in TASKS}
  _figures.dots(axes[1], groups, ylabel="dB beyond total variation", title="Denoisers")
  axes[1].axhline(0, color="k", lw=1)
  for ax, key, title in ((axes[2], "path", "Proximal gradient"), (axes[3], "admm", "ADMM")):
    lines = {
      f"{name.removesuffix(' network')}, {SHORT[task]}": metrics[task][name][key]
      for name in methods for task in TASKS if key in metrics[task][name]
    }  # fmt: skip
    _figures.curves(ax, lines, xlabel="step", ylabel="residual / first", log="y", title=title)
  return fig
