"""New classes with few labels on a stream that drifts, session by session: CSFA and its parts."""

import dataclasses
import functools
from typing import Any

import jax
import numpy as np

from experiments import _figures, datasets
from experiments._claims import Claim, Side
from experiments._protocol import Paper, Progress, Row, Settings, Size, new_figure
from experiments._statistics import choose, mean_interval
from experiments._training import grid, stack, train_all
from experiments.robustness._sessions import (
  load_sessions,
  run_joint,
  run_sessions,
  train_both,
)

PAPER = Paper(
  title="Generalized incremental learning under concept drift across evolving data streams",
  authors="Yu, Lu and Zhang",
  year=2025,
  claim="Where labelled examples of new classes are few and the inputs drift without labels, "
  "calibrated prototypes (for the new classes) and RSGS (for the drift) are better together than "
  "either alone. Nothing of the kind is reported in what was read of the paper.",
  section="Expected from the method; its experiments were not read, its sessions are put together",
  url="https://arxiv.org/abs/2506.05736",
)
NONE, CALIBRATED, RSGS, CSFA = "none", "calibration", "RSGS", "CSFA"
TENT, JOINT = "TENT and calibration", "joint training"
# name -> (TENT instead of RSGS, calibration, adaptation)
METHODS = {
  NONE: (0, 0, False), CALIBRATED: (0, 1, False), RSGS: (0, 0, True), CSFA: (0, 1, True),
  TENT: (1, 1, True),
}  # fmt: skip
KEYS = {
  "base": "base classes",
  "new": "new classes",
  "all": "all rows",
  "classes": "mean of classes",
}
STRESS = 2.0  # a learning rate that is too large
NOTE = "The least rate is the best one where adaptation does nothing but harm. The drift of digits "
NOTE += "was chosen on development seeds, so that answers without adaptation stay above chance."


@dataclasses.dataclass(frozen=True)
class Config(Settings):
  """Settings.

  Attributes:
    data: ``"digits"`` (classes arrive in random order, images turn and brighten from session to
      session) and ``"covertype"`` (in its own order, where rare classes occur later).
    base: digits of the base session; each session after it brings one more.
    angle: of the rotation in the last session, in degrees.
    brightness: added to grey values in [0, 1] in the last session.
    labelled: rows of covertype of each class in the base session.
    shots: labelled examples of a new class.
    hidden: widths of the hidden layers; scales and shifts of their normalisation are adapted.
    features: number of features.
    epochs: passes over the labelled examples of the base session.
    learning_rate: of Adam in training.
    temperature: of the cosine classifier.
    tau: temperature of the calibration.
    weight: of the calibration.
    digit_batches: unlabelled batches of a session of digits.
    covertype_batches: those of a session of covertype.
    batch: batch size of the stream.
    rates: learning rates of the adaptation by SGD with momentum, times (batch size) / 64.
    momentum: of the adaptation.
    rho: size of the perturbation.
    alpha: weight of the surrogate gap.
    share: of the largest entropy, below which an answer is reliable.
    recovery: least average entropy at 1000 classes; not in use here.
    tune_seeds: development seeds 0, 1, ..., on which each method has its best rate, by the accuracy
      on all rows of the sessions with new classes.
  """

  seeds: int = 16
  data: tuple[str, ...] = ("digits", "covertype")
  base: int = 6
  angle: float = 20.0
  brightness: float = 0.15
  labelled: int = 240
  shots: tuple[int, ...] = (1, 5)
  hidden: tuple[int, ...] = (64, 64)
  features: int = 32
  epochs: int = 60
  learning_rate: float = 1e-3
  temperature: float = 16.0
  tau: float = 16.0
  weight: float = 0.5
  digit_batches: int = 8
  covertype_batches: int = 16
  batch: int = 64
  rates: tuple[float, ...] = (0.00002, 0.0002, 0.002, 0.01, 0.05, 0.2, 2.0)
  momentum: float = 0.9
  rho: float = 0.05
  alpha: float = 0.2
  share: float = 0.4
  recovery: float = 0.2
  tune_seeds: int = 8

  def __post_init__(self) -> None:
    if not {1, 5} <= set(self.shots) or STRESS not in self.rates or not 2 <= self.base <= 9:
      raise ValueError(f"shots must hold 1 and 5, rates {STRESS:g}, and base be 2 to 9.")

  @property
  def batches(self) -> dict[str, int]:
    """Batches of a session by data set."""
    return {"digits": self.digit_batches, "covertype": self.covertype_batches}


SIZES = {
  "toy": Size(
    Config(
      seeds=2, data=("digits",), hidden=(16,), features=8, epochs=4, digit_batches=2,
      rates=(0.01, 2.0), tune_seeds=1,
    ),
    "Digits alone, four epochs and two batches a session.",
  ),
  "desk": Size(
    Config(),
    "Digits of 8 x 8 pixels and rows of covertype; the paper's data and networks were not read.",
  ),
  "large": Size(
    Config(seeds=24, hidden=(256, 256), features=64, covertype_batches=60, tune_seeds=12),
    "As desk, with a wider network, longer sessions of covertype and more seeds.",
  ),
}  # fmt: skip


def run_data(name: str, config: Config, progress: Progress) -> tuple[dict[str, Any], list]:
  """All methods on one data set: accuracies by session, that of the base session first."""
  table = datasets.load(name) if name != "digits" else None
  tune, seeds = config.tune_seeds, list(range(config.tune_seeds)) + config.seed_numbers()
  data = stack([load_sessions(name, table, seed, config) for seed in seeds])

  def learn(_: Any, d: Any) -> tuple[Any, Any]:
    params = train_both(d, name, config)
    first, joint = (jax.tree.map(lambda v, i=i: v[i], params) for i in range(2))
    return first, run_joint(joint, d, name, config)

  dummy = {"none": np.zeros(1, np.float32)}
  params, joint = jax.tree.map(
    lambda v: v[:, 0], train_all(progress, learn, dummy, data, name=f"training, {name}")
  )
  rates = (0.0, *config.rates)
  setting, shape = grid(tent=range(2), weight=(0.0, 1.0), rate=rates, shots=config.shots)
  parts = 1 - np.float32(setting.pop("tent"))
  setting |= {"filter": parts, "rho": parts, "alpha": parts, "recovery": 0 * parts}
  setting["weight"] = np.float32(config.weight) * setting["weight"]
  found = train_all(
    progress, lambda s, d: run_sessions(s, d, name, config), setting, (params, data), name=name
  )
  found = {key: v.reshape(len(seeds), *shape, -1) for key, v in found.items()}
  total, choices = found["all"][..., 1:].mean(-1), []
  metrics: dict[str, Any] = {}
  for j, shots in enumerate(config.shots):
    metrics[str(shots)] = mine = {JOINT: {key: v[tune:] for key, v in joint.items()}}
    for method, (tent, calibrated, adapted) in METHODS.items():
      place = 0
      if adapted:
        scores = total[:tune, tent, calibrated, 1:, j].mean(0)
        label = f"rate of {method}, {name}, {shots} shot(s)"
        choice = choose(label, config.rates, scores, better="higher")
        choices += [choice] if len(config.rates) > 2 else []  # two have nothing but edges
        place = 1 + config.rates.index(choice.chosen)
      mine[method] = {key: v[tune:, tent, calibrated, place, j] for key, v in found.items()}
      if adapted:
        mine[method] |= {
          "rate": rates[place], "sweep": total[tune:, tent, calibrated, 1:, j]
        }  # fmt: skip
  return metrics, choices


def run(config: Config, progress: Progress) -> dict[str, Any]:
  """Accuracies by session, method and number of shots; rates from development seeds."""
  found, choices = {}, []
  for name in progress.track(config.data, "data sets"):
    found[name], more = run_data(name, config, progress)
    choices += more
  return {"data": found, "choices": choices}


def _side(metrics: dict[str, Any], data: str, shots: int, name: str, key: str) -> Side:
  """Means over the sessions after the base session."""
  values = np.asarray(metrics["data"][data][str(shots)][name][key], float)
  return Side(name, values[:, 1:].mean(1))


def _stress(metrics: dict[str, Any], data: str, name: str, config: Config) -> Side:
  sweep = np.asarray(metrics["data"][data]["1"][name]["sweep"], float)
  return Side(f"{name} at rate {STRESS:g}", sweep[:, config.rates.index(STRESS)])


def claims(metrics: dict[str, Any], config: Config) -> list[Claim]:
  """What calibration does for new classes, RSGS for all rows, and both together."""
  made = []
  for data in config.data:
    side = functools.partial(_side, metrics, data)

    def expect(
      label: str, shots: int, ours: str, base: str, key: str, data=data, side=side
    ) -> None:
      text = f"On {data} with {shots} shot(s), {ours} is more accurate than {base}: {KEYS[key]}."
      metric = f"online accuracy, {data}, {KEYS[key]}, mean of sessions, {shots} shot(s)"
      sides = side(shots, ours, key), side(shots, base, key)
      made.append(Claim(f"{label}_{data}", text, "expected", metric, *sides))

    expect("csfa_1", 1, CSFA, NONE, "all")
    expect("csfa_5", 5, CSFA, NONE, "all")
    expect("calibration", 1, CALIBRATED, NONE, "new")
    expect("adaptation", 5, RSGS, NONE, "all")
    expect("csfa_calibration", 1, CSFA, CALIBRATED, "all")
    expect("csfa_rsgs", 1, CSFA, RSGS, "new")
    expect("csfa_tent", 1, CSFA, TENT, "all")
    expect("joint", 5, JOINT, CSFA, "all")
    text = f"On {data} with 1 shot, CSFA is more accurate than {TENT} at the large rate {STRESS:g}."
    sides = (_stress(metrics, data, name, config) for name in (CSFA, TENT))
    metric = f"online accuracy, {data}, all rows, mean of sessions, 1 shot, rate {STRESS:g}"
    made.append(Claim(f"stress_{data}", text, "expected", metric, *sides))
  if "digits" in config.data:
    side = functools.partial(_side, metrics, "digits", 5)
    text = "On digits with 5 shots calibration changes the accuracy on new classes by at most .03."
    metric = "online accuracy, digits, new classes, mean of sessions, 5 shots"
    sides = side(CALIBRATED, "new"), side(NONE, "new")
    made.append(Claim("calibration_5", text, "control", metric, *sides, margin=0.03))
    gain = np.subtract(*(metrics["data"]["digits"]["5"][name]["all"] for name in (CSFA, NONE)))
    text = "On digits with 5 shots CSFA gains more over none in the last session than in the first."
    metric = "gain of CSFA in online accuracy, digits, all rows, 5 shots"
    sides = Side("last session", gain[:, -1]), Side("first session", gain[:, 1])
    made.append(Claim("growth", text, "expected", metric, *sides))
  return made


def table(metrics: dict[str, Any], config: Config) -> list[Row]:
  """Each method beside none: base classes, new ones, all rows, means of classes."""
  rows = []
  for data in config.data:
    for shots in config.shots:
      for key, words in KEYS.items():
        base = _side(metrics, data, shots, NONE, key)
        for name in (*list(METHODS)[1:], JOINT):
          metric = f"online accuracy, {data}, {words}, mean of sessions, {shots} shot(s)"
          rows.append(Row(metric, _side(metrics, data, shots, name, key), base, note=NOTE))
  return rows


def _lines(ax: Any, found: dict[str, Any], key: str, title: str, *, legend: bool) -> None:
  """Means over the seeds with 95 % intervals, a line a method; the base session is number 0."""
  for i, name in enumerate((*METHODS, JOINT)):
    values = np.asarray(found[name][key], float)[:, 1 if key == "new" else 0 :]
    center = [mean_interval(column) for column in values.T]
    sessions = np.arange(len(center)) + (key == "new")
    half = np.nan_to_num([c.high - c.estimate for c in center], posinf=0.0)
    ax.errorbar(
      sessions + 0.06 * (i - len(METHODS) / 2), [c.estimate for c in center], half, marker="o",
      ms=3, lw=1, capsize=2, label=name,
    )  # fmt: skip
  ax.set(xlabel="session", ylabel="online accuracy", title=title, xticks=sessions)
  if legend:
    ax.legend(fontsize=7)


def figure(record: dict[str, Any]) -> Any:
  """Accuracy over the sessions, and over the learning rate: a row a data set, one shot."""
  metrics, rates = record["metrics"]["data"], record["settings"]["rates"]
  fig, axes = new_figure(len(metrics), 4)
  for i, (data, found) in enumerate(metrics.items()):
    for ax, key in zip(axes[4 * i :], ("base", "new", "all"), strict=False):
      _lines(ax, found["1"], key, f"{data}, {KEYS[key]}, 1 shot", legend=key == "base")
    lines = {
      name: np.mean(np.asarray(found["1"][name]["sweep"], float), axis=0)
      for name in METHODS
      if METHODS[name][2]
    }
    lines[NONE] = np.full(len(rates), np.mean(np.asarray(found["1"][NONE]["all"], float)))
    _figures.curves(
      axes[4 * i + 3], lines, rates, xlabel="learning rate", ylabel="online accuracy",
      title=f"{data}, all rows, 1 shot", log="x",
    )  # fmt: skip
  return fig
