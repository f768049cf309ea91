"""A classifier on a stream that drifts, adapted without labels: RSGS beside TENT, SAR and none."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import _figures
from experiments._claims import Claim, Side
from experiments._protocol import Paper, Progress, Row, Settings, Size, new_figure
from experiments._statistics import choose
from experiments._training import stack, train_all
from experiments.robustness._adaptation import METHODS, NONE, adapt, make_settings, train_network
from experiments.robustness._digit_streams import STREAMS, Net, load_split

PAPER = Paper(
  title="Generalized incremental learning under concept drift across evolving data streams",
  authors="Yu, Lu and Zhang",
  year=2025,
  claim="On streams whose distribution drifts, adaptation by the surrogate gap of a perturbed "
  "entropy on reliable samples (RSGS) is better than the state of the art: it aligns "
  "distributions robustly and does not suffer from unreliable samples.",
  section="Abstract; experiments were not read, methods are put together from its sources",
  url="https://arxiv.org/abs/2506.05736",
)
# Learning rates that are too large for the stream, and what is compared there.
STRESS = {
  "brightness, 8": 2.0,
  "brightness and noise, 8": 2.0,
  "blur and brightness, 64": 0.1,
}
SHOWN = 0.1  # on the other streams
TUNED = ("brightness, 64", "brightness and noise, 8", "gradual, 64")


@dataclasses.dataclass(frozen=True)
class Config(Settings):
  """Settings.

  Attributes:
    streams: which of ``STREAMS``.
    hidden: widths of the hidden layers; scales and shifts of their normalisation are adapted.
    train: training images, clean; the stream shows the others, in two orders.
    epochs: passes over the training images.
    learning_rate: of Adam in training.
    length: images of a stream.
    rates: learning rates of the adaptation by SGD with momentum, times (batch size) / 64.
    momentum: of the adaptation.
    rho: size of the perturbation.
    alpha: weight of the surrogate gap.
    share: of the largest entropy, below which an answer is reliable.
    recovery: least average entropy at 1000 classes, below which the network starts again.
    brightness: added to all grey values in [0, 1].
    noise: standard deviation of the noise.
    blur: standard deviation of the Gaussian blur, in pixels.
    angle: of the rotation at the end of the gradual stream, in degrees.
    tune_seeds: development seeds 0, 1, ..., on whose streams each method has its best rate (those
      of ``TUNED``; on the others, where adaptation harms, all rates are shown).
  """

  seeds: int = 16
  streams: tuple[str, ...] = tuple(STREAMS)
  hidden: tuple[int, ...] = (128, 128)
  train: int = 900
  epochs: int = 60
  learning_rate: float = 1e-3
  length: int = 1792
  rates: tuple[float, ...] = (0.005, 0.02, 0.1, 0.5, 1.0, 2.0, 5.0)
  momentum: float = 0.9
  rho: float = 0.05
  alpha: float = 0.2
  share: float = 0.4
  recovery: float = 0.2
  brightness: float = 0.45
  noise: float = 0.15
  blur: float = 0.85
  angle: float = 30.0
  tune_seeds: int = 8

  def __post_init__(self) -> None:
    needed = {*STRESS, *TUNED}
    if not needed <= set(self.streams) <= set(STREAMS) or not set(STRESS.values()) <= set(
      self.rates
    ):
      raise ValueError(
        f"streams must hold {', '.join(sorted(needed))}, and rates {set(STRESS.values())}."
      )


SIZES = {
  "toy": Size(
    Config(
      seeds=2, streams=tuple(s for s in STREAMS if not s.startswith("sorted")), hidden=(16,),
      train=400, epochs=2, length=128, rates=(0.1, 2.0), tune_seeds=1,
    ),
    "Two epochs and two batches.",
  ),
  "desk": Size(
    Config(),
    "Corrupted digits of 8 x 8 pixels and a perceptron; the paper's streams were not read.",
  ),
  "large": Size(
    Config(seeds=24, hidden=(512, 512, 512), tune_seeds=12),
    "As desk, with a wider and deeper network and more seeds.",
  ),
}  # fmt: skip


def run(config: Config, progress: Progress) -> dict[str, Any]:
  """Online accuracy of every method at every rate; the rate of each is from development seeds."""
  tune, report = list(range(config.tune_seeds)), config.seed_numbers()
  data = stack([load_split(seed, config) for seed in tune + report])
  dummy, model = {"none": np.zeros(1, np.float32)}, Net(config.hidden)
  params = train_all(
    progress,
    lambda s, d: train_network(model, d, config.learning_rate),
    dummy,
    data,
    name="training",
  )
  params = jax.tree.map(lambda v: v[:, 0], params)
  setting, shape = make_settings(config.rates)
  accuracy_of = lambda s, d: jnp.mean(adapt(s, d, model, 10, config))
  found, choices = {}, []
  accuracies = {}
  for batch in progress.track(sorted({STREAMS[name][1] for name in config.streams}), "batches"):
    names = [name for name in config.streams if STREAMS[name][1] == batch]
    together = lambda trees: jax.tree.map(lambda *v: jnp.concatenate(v), *trees)
    seen = together([(params, data.streams[name], data.labels[name]) for name in names])
    accuracy = train_all(progress, accuracy_of, setting, seen, name=f"batches of {batch}").reshape(
      len(names), -1, *shape
    )
    accuracies |= dict(zip(names, accuracy, strict=True))
  for name in config.streams:
    accuracy = accuracies[name]
    found[name] = {NONE: accuracy[len(tune) :, 0, 0]}
    for i, method in enumerate(METHODS):
      early, late = accuracy[: len(tune), i, 1:], accuracy[len(tune) :, i, 1:]
      found[name][method] = {"sweep": late}
      if name in TUNED:
        label = f"rate of {method}, {name}"
        choice = choose(label, config.rates, early.mean(0), better="higher")
        choices += [choice] if len(config.rates) > 2 else []  # two have nothing but edges
        best = late[:, config.rates.index(choice.chosen)]
        found[name][method] |= {"rate": choice.chosen, "accuracy": best}
  return {"streams": found, "choices": choices}


def _side(
  metrics: dict[str, Any], stream: str, name: str, rate: float | None = None, rates: Any = ()
) -> Side:
  """A method at its own best rate, or at a given one."""
  entry = metrics["streams"][stream][name]
  if name == NONE:
    return Side(NONE, entry)
  if rate is None:
    return Side(name, entry["accuracy"])
  return Side(
    f"{name} at rate {rate:g}", np.asarray(entry["sweep"], float)[:, list(rates).index(rate)]
  )


def claims(metrics: dict[str, Any], config: Config) -> list[Claim]:
  """RSGS beside none, beside the others at their best, and where learning rates are too large."""
  metric = lambda stream: f"online accuracy, {stream}"
  made = []
  for stream, margin in (("brightness, 64", 0.05), ("gradual, 64", 0.0)):
    text = f"On the stream '{stream}' RSGS is more accurate than no adaptation"
    text += f" by {margin:g}." if margin else "."
    sides = _side(metrics, stream, "RSGS"), _side(metrics, stream, NONE)
    key = f"gain_{stream.split(',')[0]}"
    made.append(Claim(key, text, "paper", metric(stream), *sides, margin=margin))
  for stream in TUNED:
    for other in ("TENT", "SAR"):
      text = f"On '{stream}', each at its best rate, RSGS is more accurate than {other}."
      sides = _side(metrics, stream, "RSGS"), _side(metrics, stream, other)
      made.append(Claim(f"tuned_{stream}_{other}", text, "paper", metric(stream), *sides))
  for stream, rate in STRESS.items():
    for other in ("TENT", "filtered", "SAR"):
      text = f"On '{stream}' at the large rate {rate:g} RSGS is more accurate than {other}."
      sides = (_side(metrics, stream, name, rate, config.rates) for name in ("RSGS", other))
      made.append(Claim(f"stress_{stream}_{other}", text, "paper", metric(stream), *sides))
  return made


def table(metrics: dict[str, Any], config: Config) -> list[Row]:
  """Every method beside none, at its best rate and at one that all share."""
  rows = []
  for stream in config.streams:
    for rate in ([None] if stream in TUNED else []) + [STRESS.get(stream, SHOWN)]:
      what = "best rate" if rate is None else f"rate {rate:g}"
      metric, base = f"online accuracy, {stream}, {what}", _side(metrics, stream, NONE)
      for name in METHODS:
        rows.append(Row(metric, _side(metrics, stream, name, rate, config.rates), base))
  return rows


def figure(record: dict[str, Any]) -> Any:
  """Mean online accuracy over the learning rate: a panel a stream."""
  metrics, rates = record["metrics"]["streams"], record["settings"]["rates"]
  fig, axes = new_figure(2, math.ceil(len(metrics) / 2))
  mean = lambda values: np.mean(np.asarray(values, float), axis=0)
  for ax, (stream, found) in zip(axes, metrics.items(), strict=False):
    lines = {name: mean(v["sweep"]) for name, v in found.items() if name != NONE}
    lines[NONE] = np.full(len(rates), mean(found[NONE]))
    _figures.curves(
      ax, lines, rates, xlabel="learning rate", ylabel="online accuracy", title=stream, log="x"
    )
  return fig
