"""Ranking losses on rare positives: moving averages, batch plug-ins and cross entropy."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import _figures, _statistics
from experiments._claims import Claim, Side
from experiments._protocol import Paper, Progress, Row, Settings, Size, new_figure
from experiments._training import grid, stack, train_all
from experiments.compositional import _rare_positives as rare
from experiments.compositional import _x_risk_losses as known

PAPER = Paper(
  title="LibAUC: a deep learning library for X-risk optimization",
  authors="Yuan, Zhu, Qiu, Li, Wang and Yang (with the papers of SOAP, SOPA, SOPAs, SOTAs, PDSCA)",
  year=2023,
  claim="On imbalanced data a loss made for a ranking metric beats cross entropy in that metric, "
  "and a step of cross entropy inside the AUC margin loss (PDSCA) improves it further. A moving "
  "average for each positive reaches a lower objective than the batch's own mean in its place.",
  section="Experiments (imbalanced images), and the papers of the single methods",
  url="https://arxiv.org/abs/2306.03065",
)
EDGES = (
  "Recorded twice on the report seeds: the first record had no step size above .1, where some best "
  "values lay; 4 of the same claims held and 5 were open. A best value at the lower edge of its "
  "grid leaves the weights all but where the warm-up left them."
)


@dataclasses.dataclass(frozen=True)
class Config(Settings):
  """Settings.

  Attributes:
    families: which methods are compared; "CE" and "SOPAs" among them.
    data: "digits", "mnist5k" (one digit against the others) or "spambase" (spam is positive).
    positive: the digit that is positive; ignored for "spambase".
    num_positives: positives in the training set.
    num_negatives: negatives in the training set; the other rows are for validation and test, half
      each.
    features: how many principal components of the training rows are the features, one problem
      each. With few of them no model separates the classes. Claims are about the mean of both.
    hidden: width of the hidden layer; 0 for a linear scorer.
    warm_up: steps of cross entropy that all methods start with, as the authors advise.
    steps: optimizer steps after these.
    batch_positives: positives a batch, for all methods but plain cross entropy.
    batch_negatives: negatives a batch.
    warm_rate: step size of Adam during the warm-up.
    learning_rates: step sizes of Adam afterwards, a tenth of that in the last third of the steps.
      The smallest all but leave the weights where the warm-up left them.
      For each metric a method has the best one on the validation sets, and for its objective the
      best one on the training sets with other weights and batches.
    margin_rates: the same for PESG and PDSCA.
    rates: weights of the new value in averages; the claims are about the first, 1 is the plug-in.
    max_fpr: share of the negatives in the partial areas.
    min_tpr: 1 minus the share of the positives in the two-way partial area.
    temperature: of the losses in KL form.
  """

  seeds: int = 10
  families: tuple[str, ...] = known.FAMILIES
  data: str = "digits"
  positive: int = 8
  num_positives: int = 60
  num_negatives: int = 800
  features: tuple[int, ...] = (8, 30)
  hidden: int = 0
  warm_up: int = 1000
  steps: int = 2000
  batch_positives: int = 2
  batch_negatives: int = 14
  warm_rate: float = 1e-2
  learning_rates: tuple[float, ...] = (1e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0)
  margin_rates: tuple[float, ...] = (1e-3, 1e-2, 3e-2, 1e-1, 3e-1)
  rates: tuple[float, ...] = (0.1, 0.5, 1.0)
  max_fpr: float = 0.1
  min_tpr: float = 0.5
  temperature: float = 0.2

  def __post_init__(self) -> None:
    if not {"CE", "SOPAs"} <= set(self.families) <= set(known.FAMILIES):
      raise ValueError(f"families must be among {', '.join(known.FAMILIES)}, with CE and SOPAs.")
    if self.rates[-1] != 1 or len(self.rates) < 2:
      raise ValueError(
        f"rates must end with 1, the plug-in, after a smaller one; got {self.rates}."
      )


SIZES = {
  "toy": Size(
    Config(
      seeds=2, families=("CE", "SOPAs"), num_negatives=200, warm_up=20, steps=20, features=(8,),
      learning_rates=(3e-3,), rates=(0.1, 1.0),
    ),
    "SOPAs and cross entropy, 20 steps.",
  ),
  "desk": Size(
    Config(), "A linear scorer on digits of 8 x 8 pixels; images and deep networks."
  ),
  "large": Size(
    Config(
      data="mnist5k", num_positives=200, num_negatives=2500, features=(15, 100), hidden=64,
      warm_up=3000, steps=6000,
    ),
    "A small network on digits of 28 x 28 pixels; images and deep networks.",
  ),
}  # fmt: skip


def make_trainer(family: str, config: Config) -> Callable[..., Any]:
  """``train(setting, data)``: scores by part of the data after the warm-up and a run.

  Data holds the weights after the warm-up for every number of features; the family "warm-up" starts
  from its own weights and returns them.
  """
  model = rare.make_model(config)

  def train(setting: dict[str, jax.Array], data: rare.Data) -> Any:
    used = jnp.arange(max(config.features)) < jnp.asarray(config.features)[setting["place"]]
    logits = lambda params, x: model.apply(params, jnp.where(used[None, :], x, 0))[:, 0]
    if family == "warm-up":
      rows = data.plain[: config.warm_up]
      return known.train_adam("CE", logits, data.params, data, rows, 1.0, config.warm_rate, config)
    decay = optax.piecewise_constant_schedule(1.0, {2 * config.steps // 3: 0.1})
    learning_rate = lambda count: setting["learning_rate"] * decay(count)
    params = jax.tree.map(lambda leaf: leaf[setting["place"]], data.params)
    if family in known.MARGIN:
      params = known.train_margin(family, logits, params, data, data.mixed, learning_rate)
    else:
      rows = data.plain[config.warm_up :] if family == "CE" else data.mixed
      given = (params, data, rows, setting["rate"], learning_rate, config)
      params = known.train_adam(family, logits, *given)
    return {name: logits(params, x) for name, x in data.x.items()}

  return train


def label(family: str, rate: float) -> str:
  """The plug-in is the method whose average forgets everything."""
  if family not in known.AVERAGED:
    return family
  return f"{family} plug-in" if rate == 1 else f"{family} {rate:g}"


def aims_of(family: str, config: Config) -> list[str]:
  """Metrics that are measured; cross entropy has those of all other methods."""
  families = config.families if family.startswith("CE") else (family,)
  wanted = {aim for name in families for aim in known.AIMS.get(name, ())}
  return [name for name in rare.METRICS if name in wanted]


def objective_of(family: str) -> str | None:
  """Whose exact objective a method minimises."""
  owner = {plug_in: name for name, plug_in in known.PLUG_INS.items()}.get(family, family)
  return owner if owner in (*known.AVERAGED, *known.PLUG_INS) else None


def measured(scores: np.ndarray, labels: np.ndarray, key: str, config: Config) -> np.ndarray:
  """A metric of runs that only differ in the step size, float[runs, seeds]."""
  return np.array([rare.measure(of_run, labels, key, config) for of_run in scores])


def run(config: Config, progress: Progress) -> dict[str, Any]:
  """Trains every family on every problem with every step size and rate, in one program each."""
  seeds, num = config.seed_numbers(), config.seeds
  # first the streams on which step sizes are chosen for the objective, then those that count
  data = stack([rare.load_split(seed, part, config) for part in (0, 1) for seed in seeds])
  y = {name: np.asarray(labels) for name, labels in data.y.items()}
  places, _ = grid(place=range(len(config.features)))
  warm = train_all(progress, make_trainer("warm-up", config), places, data, name="warm-up")
  data = data._replace(params=warm)
  metrics: dict[str, Any] = {problem(features): {} for features in config.features}
  choices = []
  for family in progress.track(config.families, "losses"):
    steps = config.margin_rates if family in known.MARGIN else config.learning_rates
    rates = config.rates if family in known.AVERAGED else (1.0,)
    settings, shape = grid(place=range(len(config.features)), rate=rates, learning_rate=steps)
    scores = train_all(progress, make_trainer(family, config), settings, data, name=family)
    scores = {n: np.moveaxis(s, 0, 1).reshape(*shape, *s[:, 0].shape) for n, s in scores.items()}
    for i, features in enumerate(config.features):
      for j, rate in enumerate(rates):
        name, entry = label(family, rate), {}
        title = f"step size of {name}, {problem(features)}"
        group = {part: values[i, j] for part, values in scores.items()}
        for key in aims_of(family, config):
          value = {n: measured(group[n][:, num:], y[n][num:], key, config) for n in ("val", "test")}
          choice = _statistics.choose(
            f"{title}, {key}", steps, value["val"].mean(1), better="higher"
          )
          choices.append(choice)
          entry[key] = value["test"][steps.index(choice.chosen)]
        if own := objective_of(family):
          train = np.array([rare.objective(s, y["train"], own, config) for s in group["train"]])
          score = train[:, :num].mean(1)
          choice = _statistics.choose(f"{title}, objective", steps, score, better="lower")
          choices.append(choice)
          entry["objective"] = train[steps.index(choice.chosen), num:]
        metrics[problem(features)][name] = entry
  return {"problems": metrics, "choices": choices}


def problem(features: int) -> str:
  """Name of a problem."""
  return f"{features} features"


def pairs(config: Config) -> list[tuple[str, str]]:
  """Stateful methods and their batch plug-ins."""
  found = [
    (label(family, rate), label(family, 1.0))
    for family in known.AVERAGED
    for rate in config.rates[:-1]
  ] + list(known.PLUG_INS.items())
  used = {label(family, rate) for family in config.families for rate in config.rates}
  return [pair for pair in found if set(pair) <= used]


def claims(metrics: dict[str, Any], config: Config) -> list[Claim]:
  """Each loss beside cross entropy in its metric; averages beside plug-ins in the objective."""
  made, found = [], metrics["problems"].values()
  mean = lambda name, key: np.mean([entries[name][key] for entries in found], axis=0)
  for family, base, key in (
    ("AUC margin", "CE", "auc"), ("PDSCA", "AUC margin", "auc"), ("SOAP", "CE", "ap"),
    ("SOPAs", "CE", "pauc"), ("SOPA", "CE", "pauc"), ("SOTAs", "CE", "two_way"),
  ):  # fmt: skip
    if {family, base} <= set(config.families):
      name = label(family, config.rates[0])
      text = f"{name} has a higher test {rare.METRICS[key]} than {base}."
      sides = [Side(n, mean(n, key)) for n in (name, base)]
      metric = f"test {rare.METRICS[key]}, mean over the problems"
      made.append(Claim(f"{key}_{family}_{base}".replace(" ", "_"), text, "paper", metric, *sides))
  for family in (f for f in known.AVERAGED if f in config.families):
    names = [label(family, rate) for rate in (config.rates[0], 1.0)]
    text = f"{names[0]} ends lower in the exact training objective than its plug-in."
    sides = [Side(n, mean(n, "objective")) for n in names]
    metric = f"objective of {family}, training set, mean over the problems"
    made.append(
      Claim(f"objective_{family}", text, "paper", metric, *sides, better="lower", scale="ratio")
    )
  return made


def table(metrics: dict[str, Any], config: Config) -> list[Row]:
  """Each method beside both cross entropies in its metrics, and beside its plug-in."""
  rows = []
  for where, entries in metrics["problems"].items():
    side = lambda name, key, entries=entries: Side(name, entries[name][key])
    for name, entry in entries.items():
      for base in (
        b for b in ("CE", "CE, resampled") if b in entries and not name.startswith("CE")
      ):
        for key in (k for k in rare.METRICS if k in entry):
          metric = f"test {rare.METRICS[key]}, {config.data}, {where}"
          rows.append(Row(metric, side(name, key), side(base, key)))
    for name, plug_in in pairs(config):
      metric = f"exact training objective, {config.data}, {where}"
      sides = (side(name, "objective"), side(plug_in, "objective"))
      rows.append(Row(metric, *sides, "lower", note=EDGES))
  return rows


def figure(record: dict[str, Any]) -> Any:
  """Test AUC, partial AUC and average precision of the methods, by number of features."""
  found = record["metrics"]["problems"]
  fig, axes = new_figure(1, 3, width=5.0, height=4.2)
  for ax, key in zip(axes, ("auc", "pauc", "ap"), strict=True):
    groups = {w: {n: v[key] for n, v in e.items() if key in v} for w, e in found.items()}
    title = f"Test {rare.METRICS[key]}"
    _figures.dots(ax, {w: v for w, v in groups.items() if v}, ylabel=rare.METRICS[key], title=title)
  return fig
