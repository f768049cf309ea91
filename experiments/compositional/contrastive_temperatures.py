"""Contrastive learning with a temperature for each example: what it becomes on a long tail."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import scipy.stats

from experiments import _figures, _statistics
from experiments._claims import Claim, Side
from experiments._protocol import Paper, Progress, Row, Settings, Size, new_figure
from experiments._training import fit, schedule, stack, train_all
from experiments.compositional._long_tail import (
  NUM_CLASSES,
  Data,
  class_sizes,
  load_split,
  make_models,
  probe,
  view,
)
from jaxopt_robust import compositional

PAPER = Paper(
  title="Not all semantics are created equal: contrastive self-supervised learning with automatic "
  "temperature individualization",
  authors="Qiu, Hu, Yuan, Zhou, Zhang and Yang",
  year=2023,
  claim="When every example learns its own temperature (iSogCLR), examples of frequent classes end "
  "with high temperatures and those of rare classes with low ones, whatever temperature training "
  "starts from, and linear probes are a little better than with one temperature for all.",
  section="Section 5, long-tailed CIFAR, and the study of learned temperatures",
  url="https://arxiv.org/abs/2305.11965",
)
TAIL = slice(5, None)  # the rarer half of the classes
METHODS = ("SimCLR", "SogCLR", "iSogCLR")


@dataclasses.dataclass(frozen=True)
class Config(Settings):
  """Settings.

  Attributes:
    data: "digits" (8 x 8 images) or "mnist5k" (28 x 28).
    largest: training examples of the most frequent class; seed s shifts the digits by s places in
      the order of frequency.
    ratio: examples of the rarest class divided by those of the most frequent one.
    val: validation examples of each class.
    test: test examples of each class.
    temperatures: grid for SimCLR and SogCLR.
    radii: grid for rho of iSogCLR; all three have their best value by the balanced accuracy of the
      probe on validation images.
    radius: the paper's rho, with which temperatures are looked at.
    starts: first temperatures of iSogCLR; all but the first with the paper's rho only.
    epochs: passes over the training set.
    batch: examples in a minibatch, each with two views.
    learning_rate: of Adam, falling to zero along a cosine.
    rate: weight of the new value in the moving averages.
    temperature_rate: step size of the temperatures.
    encoder: widths of the encoder's layers.
    projector: widths of the projector's layers.
    probe_steps: steps of accelerated gradient descent for the linear probe.
  """

  seeds: int = 16
  data: str = "digits"
  largest: int = 125
  ratio: float = 0.08
  val: int = 19
  test: int = 30
  temperatures: tuple[float, ...] = (0.02, 0.05, 0.1, 0.2, 0.4)
  radii: tuple[float, ...] = (0.2, 0.4, 0.8, 1.6, 3.2)
  radius: float = 0.4
  starts: tuple[float, ...] = (0.1, 0.3)
  epochs: int = 150
  batch: int = 32
  learning_rate: float = 1e-3
  rate: float = 0.8
  temperature_rate: float = 0.03
  encoder: tuple[int, ...] = (128, 64)
  projector: tuple[int, ...] = (64, 32)
  probe_steps: int = 400

  def __post_init__(self) -> None:
    if self.data not in ("digits", "mnist5k"):
      raise ValueError(f"data must be 'digits' or 'mnist5k'; got {self.data!r}.")
    if len(self.starts) != 2 or self.radius not in self.radii:
      raise ValueError("starts must hold two numbers, and radii the radius.")


SIZES = {
  "toy": Size(
    Config(
      seeds=2, largest=40, ratio=0.2, temperatures=(0.1,), radii=(0.4,), epochs=4, probe_steps=50
    ),
    "158 digits, four epochs.",
  ),
  "desk": Size(Config(), "474 digits of 8 x 8 pixels and a perceptron; CIFAR-10-LT and ResNet-18."),
  "large": Size(
    Config(
      data="mnist5k", largest=400, ratio=0.02, val=40, test=60, epochs=400, batch=128,
      encoder=(256, 256, 128), projector=(128, 64),
    ),
    "Digits of 28 x 28 pixels and a perceptron; CIFAR-10-LT and ResNet-18.",
  ),
}  # fmt: skip


def make_trainer(mode: str, config: Config) -> Callable[..., dict[str, jax.Array]]:
  """``train(setting, data)``: one run; runs of one split see the same batches and views."""
  encoder, projector = make_models(config)

  def train(setting: dict[str, jax.Array], data: Data) -> dict[str, jax.Array]:
    factor = schedule("cosine", data.rows.shape[0] * data.rows.shape[1])
    optimizer = optax.adam(lambda count: config.learning_rate * factor(count))
    hot = {name: jax.nn.one_hot(labels, NUM_CLASSES) for name, labels in data.y.items()}
    by_class = lambda values, name: values @ hot[name] / jnp.sum(hot[name], axis=0)

    def embed(params: Any, x: jax.Array) -> jax.Array:
      return projector.apply(params[1], jax.nn.relu(encoder.apply(params[0], x)))

    def objective(params: Any, state: Any, rows: jax.Array) -> Any:
      own, count = state
      keys = jax.random.split(jax.random.fold_in(data.key, count))
      views = [embed(params, view(key, data, rows)) for key in keys]
      value, (own, _) = compositional.rgcl_loss(
        *views, rows, own, radius=setting["radius"], rate=config.rate,
        temperature_rate=setting["temperature_rate"], mode=mode,
        temperature_bounds=(jnp.minimum(setting["start"], 0.05), 1.0),
      )  # fmt: skip
      return value, (own, count + 1)

    def evaluate(_: Any, state: Any) -> jax.Array:
      return by_class(state[0].temperature, "train")

    own = compositional.rgcl_init(len(data.x["train"]), temperature=setting["start"])
    state = (own, jnp.zeros((), jnp.int32))
    done = fit(objective, data.params, data.rows, optimizer, state=state, evaluate=evaluate)
    features = {n: jax.nn.relu(encoder.apply(done.params[0], x)) for n, x in data.x.items()}
    classes = probe(features, data.y["train"], config.probe_steps)
    right = {n: (classes[n] == data.y[n]).astype(jnp.float32) for n in ("val", "test")}
    accuracy = {name: by_class(values, name) for name, values in right.items()}
    return {**accuracy, "temperature": done.state[0].temperature, "history": done.history}

  return train


def run(config: Config, progress: Progress) -> dict[str, Any]:
  """Trains every method on every split, then summarises accuracies and temperatures."""
  data = stack([load_split(seed, config) for seed in config.seed_numbers()])
  first, second = config.starts
  fixed = [(t, 0.0, 0.0) for t in config.temperatures]
  moving = [(first, r, config.temperature_rate) for r in config.radii]
  plan = {
    "simclr": {"SimCLR": fixed},
    "isogclr": {
      "SogCLR": fixed,  # iSogCLR with temperatures that do not move
      "iSogCLR": moving,
      "second start": [(second, config.radius, config.temperature_rate)],
    },
  }
  metrics: dict[str, Any] = {"class_sizes": class_sizes(config)}
  choices, labels = [], np.asarray(data.y["train"])
  for mode, methods in progress.track(plan.items(), "programs", total=2):
    columns = zip(*(row for rows in methods.values() for row in rows), strict=True)
    setting = dict(
      zip(("start", "radius", "temperature_rate"), map(np.float32, columns), strict=True)
    )
    found = train_all(progress, make_trainer(mode, config), setting, data, name=mode)
    begin = 0
    for name, rows in methods.items():
      own = {key: values[:, begin : begin + len(rows)] for key, values in found.items()}
      begin += len(rows)
      if name in METHODS:
        values = config.radii if name == "iSogCLR" else config.temperatures
        what = "rho" if name == "iSogCLR" else "temperature"
        score = own["val"].mean((0, 2))
        choice = _statistics.choose(f"{what} of {name}", values, score, better="higher")
        choices.append(choice)
        test = own["test"][:, values.index(choice.chosen)]
        metrics[name] = {"balanced": test.mean(1), "tail": test[:, TAIL].mean(1)}
      if name in ("iSogCLR", "second start"):
        at = config.radii.index(config.radius) if name == "iSogCLR" else 0
        metrics[f"start {rows[at][0]:g}"] = _temperatures(
          own["temperature"][:, at], own["history"][:, at], metrics["class_sizes"][labels]
        )
  return {**metrics, "choices": choices}


def _temperatures(values: np.ndarray, history: np.ndarray, sizes: np.ndarray) -> dict[str, Any]:
  """How the final temperatures go with the sizes of the classes, numbers a seed."""
  return {
    "spearman": [
      float(scipy.stats.spearmanr(a, b).statistic) for a, b in zip(sizes, values, strict=True)
    ],
    "by_class": history[:, -1],
    "history": history.mean(0),
  }


def claims(metrics: dict[str, Any], config: Config) -> list[Claim]:
  """Temperatures by frequency and by start; accuracies beside one temperature for all."""
  first, second = (metrics[f"start {t:g}"] for t in config.starts)
  by_class = np.asarray(first["by_class"])
  far = np.max(np.abs(by_class - np.asarray(second["by_class"])), axis=1)
  made = [
    Claim(
      "rank_correlation",
      "Temperatures of examples rank like the sizes of their classes: correlation at least 0.6.",
      "paper", "rank correlation of temperature and class size",
      Side("iSogCLR", first["spearman"]), Side("0.6", 0.6),
    ),
    Claim(
      "frequent_higher",
      "The more frequent half of the classes ends with the higher temperatures.",
      "paper", "mean temperature",
      Side("frequent classes", by_class[:, : TAIL.start].mean(1)),
      Side("rare classes", by_class[:, TAIL].mean(1)),
    ),
    Claim(
      "start",
      "The mean temperature of no class depends on the start: starts at 0.1 and 0.3 end less than "
      "0.03 apart.",
      "paper", "largest difference of class means",
      Side("two starts", far), Side("0.03", 0.03), better="lower",
    ),
  ]  # fmt: skip
  for key, words in (("balanced", "all classes"), ("tail", "the rarer half of the classes")):
    for base in ("SimCLR", "SogCLR"):
      text = f"Probes of iSogCLR are more accurate than those of {base} on {words}."
      sides = [Side(name, metrics[name][key]) for name in ("iSogCLR", base)]
      made.append(Claim(f"{key}_{base}", text, "paper", f"test accuracy, {words}", *sides))
  return made


def table(metrics: dict[str, Any], config: Config) -> list[Row]:
  """Accuracies of the probes beside SimCLR; every method with its best setting."""
  side = lambda name, key: Side(name, metrics[name][key])
  return [
    Row(f"probe's test accuracy, {words}, {config.data}", side(name, key), side("SimCLR", key))
    for key, words in (("balanced", "all classes"), ("tail", "rarer half"))
    for name in METHODS[1:]
  ]


def figure(record: dict[str, Any]) -> Any:
  """Temperatures by class size, their way from two starts, and accuracies of linear probes."""
  metrics, sizes = record["metrics"], record["metrics"]["class_sizes"]
  starts = [f"start {t:g}" for t in record["settings"]["starts"]]
  fig, axes = new_figure(1, 3)
  _figures.curves(
    axes[0], {name: metrics[name]["by_class"] for name in starts}, sizes, log="x",
    xlabel="training examples of the class", ylabel="mean temperature",
    title="After training; bands span the seeds",
  )  # fmt: skip
  ways = {
    f"{sizes[k]} examples, {name}": np.asarray(metrics[name]["history"])[:, k]
    for k in (0, 9)
    for name in starts
  }
  _figures.curves(
    axes[1], ways, xlabel="epoch", ylabel="mean temperature", title="Two starts", log="x"
  )
  accuracy = {
    words: {name: metrics[name][key] for name in METHODS}
    for key, words in (("balanced", "all classes"), ("tail", "rarer half"))
  }
  _figures.dots(axes[2], accuracy, ylabel="accuracy of a linear probe", title="95 % intervals")
  return fig
