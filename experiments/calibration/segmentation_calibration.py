"""Calibrated segmentation of noisy shapes: NACL and SVLS beside other losses."""

import dataclasses
from functools import partial
from typing import Any

import jax
import numpy as np

from experiments import _figures
from experiments._claims import Claim, Side
from experiments._protocol import Paper, Progress, Row, Settings, Size, new_figure
from experiments._training import batches, stack
from experiments.calibration import _shapes as parts

PAPER = Paper(
  title="Neighbor-aware calibration of segmentation networks with penalty-based constraints",
  authors="Murugesan, Adiga Vasudeva, Liu, Lombaert, Ben Ayed and Dolz",
  year=2025,
  claim="A penalty that draws the logits of a pixel to the class proportions around it gives "
  "better calibrated segmentations than cross-entropy, at the same Dice.",
  section="Abstract; six medical benchmarks",
  url="https://arxiv.org/abs/2401.14487",
)
NACL, STRONG, SVLS, CE = "NACL .1", "NACL .3", "SVLS", "cross-entropy"
SMOOTHING, FOCAL, MBLS, ENTROPY = "label smoothing", "focal", "MbLS", "confidence penalty"
METHODS = {  # the loss, and the weight of NACL
  CE: (parts.CE, 0.0),
  NACL: (parts.NACL, 0.1),
  STRONG: (parts.NACL, 0.3),
  SVLS: (parts.SVLS, 0.0),
  SMOOTHING: (parts.SMOOTHING, 0.0),
  FOCAL: (parts.FOCAL, 0.0),
  MBLS: (parts.MBLS, 0.0),
  ENTROPY: (parts.ENTROPY, 0.0),
}


@dataclasses.dataclass(frozen=True)
class Config(Settings):
  """Settings.

  Attributes:
    train: training images.
    test: test images.
    side: pixels a side.
    steps: updates of Adam, whose rate falls to 0; enough for cross-entropy to be too sure.
    batch: images of an update.
    width: channels of the first level of the network.
    methods: losses; cross-entropy and NACL are two of them.
    rates: learning rate of each of them: of .003, .01, .03, .1 (and .3 for the focal loss) the best
      by Dice on other images of development seeds 0 and 1.
  """

  seeds: int = 8
  train: int = 12
  test: int = 100
  side: int = 32
  steps: int = 600
  batch: int = 4
  width: int = 8
  methods: tuple[str, ...] = tuple(METHODS)
  rates: tuple[float, ...] = (0.01, 0.01, 0.01, 0.01, 0.01, 0.1, 0.01, 0.01)


OURS = "Noisy ellipses of 32 x 32 pixels and a small U-Net instead of medical images."
SIZES = {
  "toy": Size(
    Config(
      seeds=2, train=4, test=4, side=8, steps=2, batch=2, width=4, methods=(CE, NACL, STRONG),
      rates=(0.01,) * 3,
    ),
    OURS + " Two updates.",
  ),
  "desk": Size(Config(), OURS),
  "large": Size(
    Config(seeds=20, train=48, test=400, side=64, steps=3000, batch=8, width=16),
    "Noisy ellipses of 64 x 64 pixels instead of medical images.",
  ),
}  # fmt: skip


def rows_of(seed: int, config: Any) -> np.ndarray:
  """Training images of every update."""
  epochs = -(-config.steps // (config.train // config.batch))
  rows = batches(config.train, config.batch, epochs, seed).reshape(-1, config.batch)
  return rows[: config.steps]


def make_data(seed: int, config: Config, *, held_out: bool = False) -> dict[str, Any]:
  """Images and batches of a seed; with ``held_out`` other images in place of the test images."""
  keys = jax.random.split(jax.random.key(seed), 4)
  return {
    "key": keys[0],
    "train": parts.draw(keys[1], config.train, config.side),
    "test": parts.draw(keys[3 if held_out else 2], config.test, config.side),
    "rows": rows_of(seed, config),
  }


def run(config: Config, progress: Progress) -> dict[str, Any]:
  """Every loss on every seed, in one program."""
  return compare([make_data(seed, config) for seed in config.seed_numbers()], config, progress)


def compare(
  seeds: list[dict[str, Any]], config: Any, progress: Progress, measure: Any = parts.measured
) -> dict[str, Any]:
  """Every loss on the data of every seed: what is measured by the method."""
  data = stack(seeds)
  numbers = [METHODS[method] for method in config.methods]
  settings = {
    "loss": np.array([number for number, _ in numbers], np.int32),
    "weight": np.array([weight for _, weight in numbers], np.float32),
    "rate": np.array(config.rates, np.float32),
  }
  net = parts.UNet(config.width)
  program = jax.jit(partial(parts.fit_all, net=net, steps=config.steps, measure=measure))
  found = progress.clock.call(program, settings, data, name="training")
  return {
    method: {name: np.asarray(value)[:, i] for name, value in found.items()}
    for i, method in enumerate(config.methods)
  }


def claims(metrics: dict[str, Any], config: Config) -> list[Claim]:
  """NACL is better calibrated, its weight decides by how much, and Dice does not suffer."""

  def side(method: str, what: str) -> Side:
    return Side(method, metrics[method][what])

  made = []
  fore, whole = "foreground ece", "image ece"
  for key, ours, base, text in (
    ("nacl", NACL, CE, "NACL with the weight .1 leaves a lower error than cross-entropy."),
    ("weight", STRONG, NACL, "The weight .3 leaves a lower error than .1."),
  ):
    sides = side(ours, fore), side(base, fore)
    made.append(Claim(key, text, "paper", "foreground ECE", *sides, better="lower"))
  for method in (NACL, STRONG):
    text = f"{method} costs at most .02 of Dice."
    key = f"dice_{method[-1]}"
    sides = side(method, "dice"), side(CE, "dice")
    made.append(Claim(key, text, "paper", "Dice", *sides, margin=-0.02))
  text = (
    "On whole images, mostly background, the weight .3 leaves a larger error than cross-entropy."
  )
  sides = side(STRONG, whole), side(CE, whole)
  made.append(Claim("whole", text, "expected", "ECE of whole images", *sides))
  if SVLS in config.methods:
    text = "SVLS leaves a lower error than cross-entropy."
    sides = side(SVLS, fore), side(CE, fore)
    made.append(Claim("svls", text, "expected", "foreground ECE", *sides, better="lower"))
  for base in (SVLS, SMOOTHING, FOCAL, MBLS, ENTROPY):
    if base not in config.methods:
      continue
    text = f"NACL with the weight .3 leaves a lower error than: {base}."
    sides = side(STRONG, fore), side(base, fore)
    key = f"strong_{base.replace(' ', '_').lower()}"
    made.append(Claim(key, text, "paper", "foreground ECE", *sides, better="lower"))
  return made


def table(metrics: dict[str, Any], config: Config) -> list[Row]:
  """Every loss beside cross-entropy."""
  rows = []
  for what, better in (
    ("foreground ece", "lower"), ("class-wise ece", "lower"), ("image ece", "lower"),
    ("dice", "higher"),
  ):  # fmt: skip
    for method in config.methods:
      base = None if method == CE else Side(CE, metrics[CE][what])
      rows.append(Row(what, Side(method, metrics[method][what]), base, better=better))
  return rows


def figure(record: dict[str, Any]) -> Any:
  """Reliability of the foreground, its error beside that of whole images, and Dice."""
  metrics = record["metrics"]
  fig, axes = new_figure(1, 3, width=4.5, height=4.0)
  _figures.reliability_of(axes[0], metrics, (CE, NACL, STRONG, SVLS), title="Foreground")
  errors = {
    label: {method: found[what] for method, found in metrics.items()}
    for label, what in (("foreground", "foreground ece"), ("whole images", "image ece"))
  }
  _figures.dots(axes[1], errors, ylabel="ECE", title="Calibration error")
  dice = {"": {method: found["dice"] for method, found in metrics.items()}}
  _figures.dots(axes[2], dice, ylabel="Dice", title="Overlap with ring and core")
  return fig
