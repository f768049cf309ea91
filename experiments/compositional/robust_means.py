"""Worst-case means by minibatches: with and without a state, against the whole data."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import _figures, _statistics, datasets
from experiments._claims import Claim, Side
from experiments._protocol import Paper, Progress, Row, Settings, Size, new_figure
from experiments._training import batches, fit, grid, schedule, stack, train_all
from jaxopt_robust import compositional, losses

PAPER = Paper(
  title="Distributionally robust objectives as compositional functions",
  authors="Qi, Guo, Xu, Jin and Yang; Sagawa, Koh, Hashimoto and Liang; Rockafellar and Uryasev",
  year=2021,
  claim="A robust objective computed on each minibatch by itself has another minimum than on the "
  "whole data, whatever the step size; a state carried from batch to batch (moving average, "
  "threshold, temperature) removes this bias. On imbalanced data robust objectives have a higher "
  "accuracy than the mean, and group DRO has one higher by 10 points or more on the worst class.",
  section="Abstracts of Qi et al. (KL penalty) and Sagawa et al. (group DRO); the comparison with "
  "each batch by itself is ours",
  url="https://arxiv.org/abs/2006.10138",
)
ERM = "mean"
OBJECTIVES = ("KL penalty", "KL ball", "CVaR", "chi-squared penalty", "groups")
PARTS = ("train", "val", "test")
WAYS = ("each batch by itself", "with state")


@dataclasses.dataclass(frozen=True)
class Config(Settings):
  """Settings.

  Attributes:
    data: "digits" or "mnist5k".
    objectives: which of ``OBJECTIVES``; "groups" among them.
    majority: training images of each of the classes 0 to 4.
    minority: training images of each of the classes 5 to 9.
    val: validation images of each class; the others are test images.
    weight_decays: coefficients of the l2 penalty (half the squared weights). On the whole data each
      objective has its best one on validation images; below 1e-4 hardly anything changes.
    weight_decay: the one with which minibatches are compared with the whole data.
    kl: temperature of the KL penalty.
    radius: of the KL ball.
    alpha: fraction of largest losses in the CVaR.
    chi2: temperature of the chi-squared penalty.
    group: temperature of the smoothed group DRO over the classes.
    epochs: passes over the data, in minibatches.
    batch: batch size.
    learning_rates: initial step sizes of SGD, falling to 0 along a cosine; each way has its best
      one by the objective on the whole training set, after as many other orders of the data.
    rate: weight of a new batch in moving averages.
    stepsize: of thresholds and temperatures, falling like the learning rate.
    full_steps: steps of Adam on the whole data.
    full_learning_rate: its initial step size, falling to 0 along a cosine.
  """

  seeds: int = 12
  data: str = "digits"
  objectives: tuple[str, ...] = OBJECTIVES
  majority: int = 120
  minority: int = 12
  val: int = 20
  weight_decays: tuple[float, ...] = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
  weight_decay: float = 1e-2
  kl: float = 0.3
  radius: float = 0.5
  alpha: float = 0.1
  chi2: float = 0.2
  group: float = 0.1
  epochs: int = 120
  batch: int = 8
  learning_rates: tuple[float, ...] = (0.01, 0.03, 0.1, 0.3, 1.0)
  rate: float = 0.1
  stepsize: float = 0.02
  full_steps: int = 1000
  full_learning_rate: float = 0.05

  def __post_init__(self) -> None:
    if "groups" not in self.objectives or self.weight_decay not in self.weight_decays:
      raise ValueError("objectives must hold groups, and weight_decays weight_decay.")


SIZES = {
  "toy": Size(
    Config(
      seeds=2, objectives=("groups",), majority=30, minority=10, epochs=2, full_steps=20,
      weight_decays=(1e-2,), learning_rates=(0.1,),
    ),
    "Group DRO only, 200 images, two epochs.",
  ),
  "desk": Size(Config(), "Digits of 8 x 8 pixels and a linear model; images and deep networks."),
  "large": Size(
    Config(data="mnist5k", majority=400, minority=80, val=50, epochs=200, full_steps=4000),
    "Digits of 28 x 28 pixels and a linear model; images and deep networks.",
  ),
}  # fmt: skip


class Data(NamedTuple):
  """One split by "train", "val" and "test", and the minibatches of a run."""

  x: dict[str, Any]
  y: dict[str, Any]
  rows: Any


# exact(losses, groups); stateful(losses, groups, state, scale of the steps of duals); init()
Objective = tuple[Callable[..., jax.Array], Callable[..., Any], Callable[[], Any]]


def make_objective(name: str, config: Config) -> Objective:
  """The mean, or one of ``OBJECTIVES``."""
  kl, average, cvar = {"temperature": config.kl}, {"rate": config.rate}, {"alpha": config.alpha}
  ball, group = {"radius": config.radius, **average}, {"temperature": config.group}
  chi2 = {"temperature": config.chi2, "conjugate": losses.chi2_conjugate}
  sizes = np.repeat(np.float32([config.majority, config.minority]), 5)
  by_group = {"frequencies": sizes / sizes.sum(), **group, **average}
  step = lambda scale: {"stepsize": config.stepsize * scale + 1e-6}  # steps are positive
  return {
    ERM: (lambda l, g: jnp.mean(l), lambda *a: None, lambda: ()),
    "KL penalty": (
      lambda l, g: losses.kl_dro(l, config.kl),
      lambda l, g, s, scale: compositional.kl_robust_mean(l, s, **kl, **average),
      compositional.kl_robust_mean_init,
    ),
    "KL ball": (
      lambda l, g: losses.kl_ball_dro(l, config.radius),
      lambda l, g, s, scale: compositional.kl_ball_robust_mean(l, s, **ball, **step(scale)),
      compositional.kl_ball_robust_mean_init,
    ),
    "CVaR": (
      lambda l, g: losses.cvar(l, config.alpha),
      lambda l, g, s, scale: compositional.cvar_robust_mean(l, s, **cvar, **step(scale)),
      compositional.threshold_init,
    ),
    "chi-squared penalty": (
      lambda l, g: losses.chi2_dro(l, config.chi2),
      lambda l, g, s, scale: compositional.phi_divergence_robust_mean(l, s, **chi2, **step(scale)),
      compositional.threshold_init,
    ),
    "groups": (
      lambda l, g: losses.group_dro(l, g, num_groups=10, **group),
      lambda l, g, s, scale: compositional.smoothed_group_robust_mean(l, g, s, **by_group),
      lambda: compositional.group_robust_mean_init(10),
    ),
  }[name]


def load_split(seed: int, part: int, config: Config) -> Data:
  """Step imbalance in the training set; both parts of a seed differ in the order of its images."""
  table = datasets.load(config.data)
  x, y = np.asarray(table["x"], np.float32), np.asarray(table["y"], np.int32)
  x = x / x.max()
  rng = np.random.default_rng(seed)
  orders = [rng.permutation(np.nonzero(y == label)[0]) for label in range(10)]
  sizes = np.repeat([config.majority, config.minority], 5)
  pieces = [np.split(o, [n, n + config.val]) for o, n in zip(orders, sizes, strict=True)]
  rows = {n: np.concatenate([p[i] for p in pieces]) for i, n in enumerate(PARTS)}
  shown = batches(len(rows["train"]), config.batch, config.epochs, 2 * seed + part)
  return Data({n: x[r] for n, r in rows.items()}, {n: y[r] for n, r in rows.items()}, shown)


def make_trainer(way: str, objective: Objective, config: Config) -> Callable[..., Any]:
  """``train(setting, data)``: weights, and the objective along a run in one of ``WAYS``."""
  whole_data, (exact, stateful, init) = way == "whole data", objective

  def train(setting: dict[str, jax.Array], data: Data) -> dict[str, jax.Array]:
    rows = jnp.zeros((1, config.full_steps, 1), int) if whole_data else data.rows
    factor = schedule("cosine", rows.shape[0] * rows.shape[1])
    rate = lambda count: setting["learning_rate"] * factor(count)
    optimizer = optax.adam(rate) if whole_data else optax.sgd(rate)
    penalty = lambda params: setting["weight_decay"] / 2 * jnp.sum(params["w"] ** 2)
    entropy = lambda params, x, y: losses.cross_entropy_loss(x @ params["w"] + params["b"][None], y)
    x, y = data.x["train"], data.y["train"]
    whole = lambda params: exact(entropy(params, x, y), y) + penalty(params)

    def loss(params: Any, state: Any, rows: jax.Array) -> Any:
      own, count = state
      if whole_data:
        return whole(params), (own, count + 1)
      values = entropy(params, x[rows], y[rows])
      value = exact(values, y[rows])
      if way == "with state":
        value, (own, _) = stateful(values, y[rows], own, factor(count))
      return value + penalty(params), (own, count + 1)

    params = {"w": jnp.zeros((x.shape[1], 10)), "b": jnp.zeros(10)}
    state = (init(), jnp.zeros((), jnp.int32))
    evaluate = lambda params, _: whole(params)
    fitted = fit(loss, params, rows, optimizer, state=state, evaluate=evaluate)
    return {**fitted.params, "objective": fitted.history}

  return train


def accuracies(found: dict[str, Any], data: Data, name: str) -> np.ndarray:
  """Accuracy of each class on held-out images, float[seeds, settings, classes]."""
  right = []
  for x, y, w, b in zip(data.x[name], data.y[name], found["w"], found["b"], strict=True):
    hits = (np.asarray(x) @ w + b[:, None]).argmax(-1) == np.asarray(y)
    right.append([hits[:, y == label].mean(1) for label in range(10)])
  return np.moveaxis(np.array(right), 1, 2)


def run(config: Config, progress: Progress) -> dict[str, Any]:
  """Every objective on the whole data, each with its penalty; then by minibatches in both ways."""
  seeds = config.seed_numbers()
  parts = [stack([load_split(seed, part, config) for seed in seeds]) for part in (0, 1)]
  both = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts)
  decays, rates = config.weight_decays, config.learning_rates
  whole_grid, _ = grid(weight_decay=decays, learning_rate=(config.full_learning_rate,))
  batch_grid, _ = grid(weight_decay=(config.weight_decay,), learning_rate=rates)
  names = (ERM, *config.objectives)
  metrics: dict[str, Any] = {name: {} for name in names}
  choices = []
  for name in progress.track(names, "objectives"):
    objective = make_objective(name, config)
    trainer = make_trainer("whole data", objective, config)
    found = train_all(progress, trainer, whole_grid, parts[1], name=f"{name}, whole data")
    last = {part: accuracies(found, parts[1], part) for part in ("val", "test")}
    for key, statistic in (("worst", np.min), ("mean", np.mean)):
      score = {part: statistic(values, axis=-1) for part, values in last.items()}
      label = f"weight decay of {name}, {key} class"
      choices.append(_statistics.choose(label, decays, score["val"].mean(0), better="higher"))
      metrics[name][key] = score["test"][:, decays.index(choices[-1].chosen)]
    if name == ERM:
      continue
    least = found["objective"][:, decays.index(config.weight_decay), -1]
    for way in WAYS:
      trainer = make_trainer(way, objective, config)
      found = train_all(progress, trainer, batch_grid, both, name=f"{name}, {way}")
      value = found["objective"].reshape(2, len(seeds), len(rates), -1)
      score = value[0, :, :, -1].mean(0)
      label = f"step size of {name}, {way}"
      choices.append(_statistics.choose(label, rates, score, better="lower"))
      best = rates.index(choices[-1].chosen)
      excess = value[1, :, best] - least[:, None]
      worst = accuracies(found, both, "test")[len(seeds) :, best].min(-1)
      metrics[name][way] = {"excess": excess[:, -1], "curve": excess.mean(0), "worst": worst}
  return {"objectives": metrics, "choices": choices}


def claims(metrics: dict[str, Any], config: Config) -> list[Claim]:
  """Distance to the minimum with and without a state; accuracies beside those of the mean."""
  found, made = metrics["objectives"], []
  for name in config.objectives:
    sides = [Side(f"{name}, {way}", found[name][way]["excess"]) for way in WAYS[::-1]]
    text = f"{name}: minibatches with a state end less far above the minimum on the whole data "
    text += "than with the objective of each batch by itself, both with their best step size."
    label, metric = f"closer_{name.replace(' ', '_')}", "training objective above its minimum"
    made.append(Claim(label, text, "paper", metric, *sides, better="lower", scale="ratio"))
  gains = (
    ("groups", "worst", 0.1, "Group DRO over the classes has an accuracy on the worst class that "
     "is 10 points higher than that of the mean, both with their best l2 penalty."),
    ("KL penalty", "mean", 0.0, "The KL penalty has a higher mean accuracy over the classes than "
     "the mean of the losses, both with their best l2 penalty."),
  )  # fmt: skip
  for name, key, margin, text in gains:
    if name in found:
      sides = [Side(n, found[n][key]) for n in (name, ERM)]
      label, metric = f"{key}_{name.replace(' ', '_')}", f"test accuracy, {key} of the classes"
      made.append(Claim(label, text, "paper", metric, *sides, margin=margin))
  return made


def table(metrics: dict[str, Any], config: Config) -> list[Row]:
  """Excess and worst class with a state beside without; accuracies beside those of the mean."""
  found, rows = metrics["objectives"], []
  excess = ("training objective above its minimum", "excess", "lower")
  for metric, key, better in (excess, ("test accuracy of the worst class", "worst", "higher")):
    for name in config.objectives:
      sides = [Side(f"{name}, {way}", found[name][way][key]) for way in WAYS[::-1]]
      rows.append(Row(metric, *sides, better))
  for key in ("worst", "mean"):
    for name in config.objectives:
      sides = [Side(n, found[n][key]) for n in (name, ERM)]
      rows.append(Row(f"test accuracy, {key} of the classes, whole data", *sides))
  return rows


def figure(record: dict[str, Any]) -> Any:
  """Distance to the minimum along and after the run, and test accuracies of worst classes."""
  found = record["metrics"]["objectives"]
  fig, axes = new_figure(1, 3)
  lines = {f"groups, {way}": np.abs(found["groups"][way]["curve"]) for way in WAYS}
  gap = "objective - minimum"
  _figures.curves(axes[0], lines, xlabel="epoch", ylabel=gap, title="Group DRO", log="y")
  ends = {way: {n: v[way]["excess"] for n, v in found.items() if way in v} for way in WAYS}
  _figures.dots(axes[1], ends, ylabel=gap, title="After the last step")
  axes[1].set_yscale("log")
  accuracy = {key: {n: v[key] for n, v in found.items()} for key in ("worst", "mean")}
  _figures.dots(axes[2], accuracy, ylabel="test accuracy", title="Classes, whole data")
  return fig
