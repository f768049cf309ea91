"""Electricity, weather and forest cover in their own order: adaptation without labels."""

import dataclasses
from typing import Any

import jax
import numpy as np

from experiments import _figures, datasets
from experiments._claims import Claim, Side
from experiments._protocol import Paper, Progress, Row, Settings, Size, new_figure
from experiments._statistics import choose
from experiments._training import stack, train_all
from experiments.robustness._adaptation import METHODS, NONE, adapt, make_settings, train_network
from experiments.robustness._digit_streams import Net
from experiments.robustness._real_streams import (
  STREAMS,
  learn_with_labels,
  load_stretch,
  synthetic,
)

PAPER = Paper(
  title="Generalized incremental learning under concept drift across evolving data streams",
  authors="Yu, Lu and Zhang",
  year=2025,
  claim="Entropy minimisation on reliable answers at flat minima (RSGS) keeps a classifier useful "
  "on a real stream without labels, and where the learning rate is too large it does less harm "
  "than what leaves a part of it out. Neither is reported in what was read of the paper.",
  section="Expected from the method; its experiments were not read",
  url="https://arxiv.org/abs/2506.05736",
)
NOTE = "The least rate is the best one where adaptation does nothing but harm."
LABELS, MAJORITY, NO_CHANGE = "SGD with labels", "majority", "no change"
STRESS = 2.0  # a learning rate that is too large
PARTS = 8  # of a stream, in the figure


@dataclasses.dataclass(frozen=True)
class Config(Settings):
  """Settings.

  Attributes:
    streams: which of ``STREAMS``; ``"synthetic"`` needs no data.
    hidden: widths of the hidden layers; scales and shifts of their normalisation are adapted.
    train: labelled rows before the stream.
    length: rows of the stream.
    batch: batch size of the stream.
    epochs: passes over the labelled rows.
    learning_rate: of Adam in training.
    rates: learning rates of the adaptation by SGD with momentum, times (batch size) / 64.
    label_rates: those of SGD with labels.
    momentum: of both.
    rho: size of the perturbation.
    alpha: weight of the surrogate gap.
    share: of the largest entropy, below which an answer is reliable.
    recovery: least average entropy at 1000 classes, below which the network starts again.
    tune_seeds: development seeds 0, 1, ..., on whose stretches each method has its best rate.
  """

  seeds: int = 16
  streams: tuple[str, ...] = ("electricity", "weather", "covertype")
  hidden: tuple[int, ...] = (64, 64)
  train: int = 1536
  length: int = 4096
  batch: int = 64
  epochs: int = 40
  learning_rate: float = 1e-3
  rates: tuple[float, ...] = (0.00002, 0.0002, 0.001, 0.005, 0.02, 0.1, 0.5, 2.0, 5.0)
  label_rates: tuple[float, ...] = (0.0001, 0.0005, 0.002, 0.01, 0.05, 0.2, 1.0)
  momentum: float = 0.9
  rho: float = 0.05
  alpha: float = 0.2
  share: float = 0.4
  recovery: float = 0.2
  tune_seeds: int = 8

  def __post_init__(self) -> None:
    if not set(self.streams) <= set(STREAMS) or STRESS not in self.rates:
      raise ValueError(f"streams must be among {', '.join(STREAMS)}, and rates hold {STRESS:g}.")
    if self.length % (self.batch * PARTS):
      raise ValueError(f"length must be a multiple of {PARTS} batches.")


SIZES = {
  "toy": Size(
    Config(
      seeds=2, streams=("synthetic",), hidden=(8,), train=128, length=256, batch=32, epochs=4,
      rates=(0.02, 2.0), label_rates=(0.01, 0.1), tune_seeds=1,
    ),
    "A synthetic stream of eight batches.",
  ),
  "desk": Size(
    Config(),
    "Stretches of 4096 rows of each stream; the paper's streams and networks were not read.",
  ),
  "large": Size(
    Config(seeds=24, hidden=(256, 256), train=2048, length=5120, tune_seeds=12),
    "As desk, with a wider network, longer stretches and more seeds.",
  ),
}  # fmt: skip


def load(name: str) -> dict[str, np.ndarray]:
  """Rows of a stream in the order of time."""
  source = STREAMS[name][0]
  return datasets.load(source) if source else synthetic()


def run_stream(name: str, config: Config, progress: Progress) -> tuple[dict[str, Any], list]:
  """Everything on one stream: the sweep of every method, its best rate, simple rules, labels."""
  tune, table = config.tune_seeds, load(name)
  seeds = list(range(tune)) + config.seed_numbers()
  data = stack([load_stretch(name, table, seed, config) for seed in seeds])
  classes = STREAMS[name][2]
  model = Net(config.hidden, classes)
  params = train_all(
    progress, lambda s, d: train_network(model, d, config.learning_rate),
    {"none": np.zeros(1, np.float32)}, data, name=f"training, {name}",
  )  # fmt: skip
  seen = jax.tree.map(lambda v: v[:, 0], params), data.stream, data.labels
  setting, shape = make_settings(config.rates)
  right = train_all(
    progress, lambda s, d: adapt(s, d, model, classes, config), setting, seen, name=name
  )
  right = right.reshape(len(seeds), *shape, -1)
  label_rates = {"rate": np.float32(config.label_rates)}
  taught = train_all(
    progress, lambda s, d: learn_with_labels(s, d, model, config), label_rates, seen,
    name=f"labels, {name}",
  )  # fmt: skip
  pieces = lambda v: v[tune:].reshape(len(v) - tune, PARTS, -1).mean((0, 2))
  simple = {key: np.asarray(v) for key, v in data.simple.items()} | {NONE: right[:, 0, 0]}
  found = {key: {"accuracy": v[tune:].mean(1), "over time": pieces(v)} for key, v in simple.items()}
  choices = []
  sweeps = {method: (config.rates, right[:, i, 1:]) for i, method in enumerate(METHODS)}
  for method, (rates, values) in (sweeps | {LABELS: (config.label_rates, taught)}).items():
    accuracy = values.mean(-1)
    choice = choose(f"rate of {method}, {name}", rates, accuracy[:tune].mean(0), better="higher")
    choices += [choice] if len(rates) > 2 else []  # two have nothing but edges
    place = rates.index(choice.chosen)
    found[method] = {
      "rate": choice.chosen, "accuracy": accuracy[tune:, place], "sweep": accuracy[tune:],
      "over time": pieces(values[:, place]),
    }  # fmt: skip
  return found, choices


def run(config: Config, progress: Progress) -> dict[str, Any]:
  """Online accuracy of every method at every rate; the rate of each is from development seeds."""
  found, choices = {}, []
  for name in progress.track(config.streams, "streams"):
    found[name], more = run_stream(name, config, progress)
    choices += more
  return {"streams": found, "choices": choices}


def _side(metrics: dict[str, Any], stream: str, name: str, place: int | None = None) -> Side:
  """A method at its own best rate, or at the rate of one place of the grid."""
  entry = metrics["streams"][stream][name]
  if place is None:
    return Side(name, entry["accuracy"])
  return Side(f"{name} at rate {STRESS:g}", np.asarray(entry["sweep"], float)[:, place])


def claims(metrics: dict[str, Any], config: Config) -> list[Claim]:
  """Gains at the best rate, order at a rate that is too large, and what labels would give."""
  made, place = [], config.rates.index(STRESS)

  def expect(stream: str, key: str, text: str, ours: Side, base: Side) -> None:
    metric = f"online accuracy, {stream}"
    made.append(Claim(f"{key}_{stream}", f"On '{stream}' {text}.", "expected", metric, ours, base))

  for stream in config.streams:
    best = lambda name, stream=stream: _side(metrics, stream, name)
    large = lambda name, stream=stream: _side(metrics, stream, name, place)
    expect(
      stream, "gain", "RSGS at its best rate is more accurate than no adaptation", best("RSGS"),
      best(NONE),
    )  # fmt: skip
    for other in ("TENT", "SAR"):
      text = f"RSGS is more accurate than {other}, each at its best rate"
      expect(stream, f"tuned_{other}", text, best("RSGS"), best(other))
    for other in ("TENT", "filtered", "SAR"):
      text = f"RSGS is more accurate than {other} at the large rate {STRESS:g}"
      expect(stream, f"stress_{other}", text, large("RSGS"), large(other))
    text = f"recovery makes RSGS more accurate at the large rate {STRESS:g}"
    expect(stream, "recovery", text, large("RSGS, recovery"), large("RSGS"))
    text = "SGD with labels is more accurate than RSGS, each at its best rate"
    expect(stream, "labels", text, best(LABELS), best("RSGS"))
    if stream == "electricity":
      text = "the label before, taken for the answer, is more accurate than SGD with labels"
      expect(stream, "no_change", text, best(NO_CHANGE), best(LABELS))
  return made


def table(metrics: dict[str, Any], config: Config) -> list[Row]:
  """Every method at its best rate and at the large one, and the rules, beside no adaptation."""
  rows, place = [], config.rates.index(STRESS)
  for stream in config.streams:
    base = _side(metrics, stream, NONE)
    for name in (*METHODS, LABELS, MAJORITY, NO_CHANGE):
      note = NOTE if name in METHODS else "Uses the labels of the stream."
      metric = f"online accuracy, {stream}, best rate"
      rows.append(Row(metric, _side(metrics, stream, name), base, note=note))
    for name in METHODS:
      metric = f"online accuracy, {stream}, rate {STRESS:g}"
      rows.append(Row(metric, _side(metrics, stream, name, place), base))
  return rows


def figure(record: dict[str, Any]) -> Any:
  """Online accuracy over the learning rate, and over time at the best rates: a column a stream."""
  metrics, settings = record["metrics"]["streams"], record["settings"]
  fig, axes = new_figure(2, len(metrics))
  mean = lambda values: np.mean(np.asarray(values, float), axis=0)
  for i, (stream, found) in enumerate(metrics.items()):
    lines = {name: mean(found[name]["sweep"]) for name in METHODS}
    for name in (NONE, LABELS, MAJORITY, NO_CHANGE):
      lines[name] = np.full(len(settings["rates"]), mean(found[name]["accuracy"]))
    _figures.curves(
      axes[i], lines, settings["rates"], xlabel="learning rate", ylabel="online accuracy",
      title=stream, log="x",
    )  # fmt: skip
    shown = {name: found[name]["over time"] for name in (NONE, "TENT", "RSGS", LABELS, NO_CHANGE)}
    rows = (np.arange(PARTS) + 0.5) * settings["length"] / PARTS
    _figures.curves(
      axes[len(metrics) + i], shown, rows, xlabel="row of the stream", ylabel="accuracy",
      title=f"{stream}, best rates",
    )  # fmt: skip
  return fig
