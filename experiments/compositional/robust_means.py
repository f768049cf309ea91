"""Worst-case means by minibatches: with and without a state, against the whole data."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import datasets
from experiments._earlier import Claim, Outcome, Row
from experiments._protocol import Paper, Progress, new_figure
from experiments._training import batches, stack, train_all
from jaxopt_robust import compositional, losses

PAPER = Paper(
  title="Distributionally robust objectives as compositional functions",
  authors="Qi, Guo, Xu, Jin and Yang; Sagawa, Koh, Hashimoto and Liang; Rockafellar and Uryasev",
  year=2021,
  claim="Distributionally robust objectives computed on each minibatch by itself lead elsewhere "
  "than the objective on the whole data; with a state carried from batch to batch (moving average, "
  "threshold, temperature) the same batches come closer to its minimum. The robust objectives "
  "raise the accuracy of the worst class over the plain mean on imbalanced data.",
  section="(methods of several papers; the comparison is ours)",
)

ERM = "mean"


@dataclasses.dataclass(frozen=True)
class Config:
  """Settings.

  Attributes:
    seeds: number of random splits and orders of the data.
    data: "digits" or "mnist5k".
    objectives: which are run, by the start of their names; "groups" among them.
    majority: training images of each of the classes 0 to 4.
    minority: training images of each of the classes 5 to 9; the others are test images.
    weight_decay: coefficient of the l2 penalty (half the squared weights) of the linear model. The
      results depend on it. With 1e-3 the classes are nearly separated, all losses are small at the
      minimum, and minibatches by themselves do about as well as with a state under the KL and
      chi-squared penalties; the worst class has accuracy 0.75 with the mean and 0.88 with group
      DRO (two seeds). With 0.03 the plain mean leaves the rare classes out (0.03), and every state
      is at least four times closer than the minibatches by themselves.
    kl: temperature of the KL penalty.
    radius: of the KL ball.
    alpha: fraction of largest losses in the CVaR.
    chi2: temperature of the chi-squared penalty.
    group: temperature of the smoothed group DRO over the classes.
    epochs: passes over the data, in minibatches.
    batch: batch size.
    learning_rate: initial step size, decayed by a cosine.
    rate: weight of a new batch in moving averages.
    stepsize: of thresholds and temperatures, decayed like the learning rate.
    full_steps: steps of the reference run on the whole data.
    full_learning_rate: its initial step size (Adam), decayed by a cosine.
  """

  seeds: int = 5
  data: str = "digits"
  objectives: tuple[str, ...] = ("KL penalty", "KL ball", "CVaR", "chi-squared", "groups")
  majority: int = 125
  minority: int = 26
  weight_decay: float = 0.01
  kl: float = 0.3
  radius: float = 0.5
  alpha: float = 0.1
  chi2: float = 0.2
  group: float = 0.1
  epochs: int = 80
  batch: int = 8
  learning_rate: float = 0.1
  rate: float = 0.1
  stepsize: float = 0.02
  full_steps: int = 1500
  full_learning_rate: float = 0.05

  def __post_init__(self) -> None:
    if self.data not in ("digits", "mnist5k"):
      raise ValueError(f"data must be 'digits' or 'mnist5k'; got {self.data!r}.")
    if "groups" not in self.objectives:
      raise ValueError(f"objectives must hold 'groups'; got {self.objectives}.")


SIZES = {
  "toy": Config(seeds=1, objectives=("groups",), majority=30, minority=10, epochs=2, full_steps=20),
  "desk": Config(),
  "large": Config(seeds=10, data="mnist5k", majority=400, minority=80, epochs=200, full_steps=4000),
}


class Data(NamedTuple):
  """One split, and the minibatches of its runs."""

  x_train: jax.Array
  y_train: jax.Array
  x_test: jax.Array
  y_test: jax.Array
  batches: jax.Array


class Setting(NamedTuple):
  """One run; nothing but its number differs, since every objective is a program of its own."""

  number: jax.Array


class Result(NamedTuple):
  """The objective on the whole training set at the end, and the accuracy of each class."""

  objective: jax.Array
  accuracy: jax.Array


class Objective(NamedTuple):
  """A worst-case mean.

  Attributes:
    exact: ``exact(losses, groups)`` on any set of losses.
    stateful: ``stateful(losses, groups, state, scale) -> (surrogate, (state, info))``; ``scale``
      shrinks the steps of dual variables.
    init: makes the state.
  """

  exact: Callable[..., jax.Array]
  stateful: Callable[..., Any]
  init: Callable[[], Any]


def objectives(config: Config) -> dict[str, Objective]:
  """Name -> objective, of those asked for."""
  chi2 = {"temperature": config.chi2, "conjugate": losses.chi2_conjugate}
  group = {"temperature": config.group}
  known = {
    f"KL penalty {config.kl:g}": Objective(
      lambda l, g: losses.kl_dro(l, config.kl),
      lambda l, g, s, scale: compositional.kl_robust_mean(
        l, s, temperature=config.kl, rate=config.rate
      ),
      compositional.kl_robust_mean_init,
    ),
    f"KL ball {config.radius:g}": Objective(
      lambda l, g: losses.kl_ball_dro(l, config.radius),
      lambda l, g, s, scale: compositional.kl_ball_robust_mean(
        l, s, radius=config.radius, rate=config.rate, stepsize=config.stepsize * scale + 1e-6
      ),
      compositional.kl_ball_robust_mean_init,
    ),
    f"CVaR {config.alpha:g}": Objective(
      lambda l, g: losses.cvar(l, config.alpha),
      lambda l, g, s, scale: compositional.cvar_robust_mean(
        l, s, alpha=config.alpha, stepsize=config.stepsize * scale
      ),
      compositional.threshold_init,
    ),
    f"chi-squared penalty {config.chi2:g}": Objective(
      lambda l, g: losses.chi2_dro(l, config.chi2),
      lambda l, g, s, scale: compositional.phi_divergence_robust_mean(
        l, s, stepsize=config.stepsize * scale, **chi2
      ),
      compositional.threshold_init,
    ),
    f"groups, smoothed {config.group:g}": Objective(
      lambda l, g: losses.group_dro(l, g, num_groups=10, **group),
      lambda l, g, s, scale: compositional.smoothed_group_robust_mean(
        l, g, s, rate=config.rate, frequencies=_shares(config), **group
      ),
      lambda: compositional.group_robust_mean_init(10),
    ),
  }
  return {name: known[name] for name in known if name.startswith(config.objectives)}


def _shares(config: Config) -> np.ndarray:
  sizes = np.repeat([config.majority, config.minority], 5).astype(np.float32)
  return sizes / sizes.sum()


def load_split(seed: int, config: Config) -> Data:
  """Step imbalance in the training set; every seed has the same numbers of each class."""
  table = datasets.load(config.data)
  x, y = np.asarray(table["x"], np.float32), np.asarray(table["y"])
  x = x / 16 if config.data == "digits" else x  # grey values to [0, 1]
  rng = np.random.default_rng(seed)
  orders = [rng.permutation(np.nonzero(y == label)[0]) for label in range(10)]
  sizes = [config.majority] * 5 + [config.minority] * 5
  train = np.concatenate([rows[:size] for rows, size in zip(orders, sizes, strict=True)])
  test = np.concatenate([rows[size:] for rows, size in zip(orders, sizes, strict=True)])
  rows = batches(len(train), config.batch, config.epochs, seed)
  parts = (x[train], y[train].astype(np.int32), x[test], y[test].astype(np.int32), rows)
  return Data(*(jnp.asarray(part) for part in parts))


def each_loss(params: Any, x: jax.Array, y: jax.Array) -> jax.Array:
  """Cross entropies of the linear model."""
  return losses.cross_entropy_loss(x @ params["w"] + params["b"][None], y)


def make_trainer(kind: str, objective: Objective, config: Config) -> Callable[..., Result]:
  """``train(setting, data)`` on the whole data ("full"), or minibatches ("naive", "state")."""

  def penalty(params: Any) -> jax.Array:
    return config.weight_decay / 2 * jnp.sum(params["w"] ** 2)

  def whole(params: Any, data: Data) -> jax.Array:
    values = each_loss(params, data.x_train, data.y_train)
    return objective.exact(values, data.y_train) + penalty(params)

  def finish(params: Any, data: Data) -> Result:
    right = jnp.argmax(data.x_test @ params["w"] + params["b"][None], axis=1) == data.y_test
    member = jax.nn.one_hot(data.y_test, 10)
    accuracy = jnp.sum(member * right[:, None], axis=0) / jnp.sum(member, axis=0)
    return Result(whole(params, data), accuracy)

  def train(setting: Setting, data: Data) -> Result:
    params = {"w": jnp.zeros((data.x_train.shape[1], 10)), "b": jnp.zeros(10)}
    if kind == "full":
      total, rate = config.full_steps, config.full_learning_rate
      optimizer = optax.adam(optax.cosine_decay_schedule(rate, total))
    else:
      total, rate = data.batches.shape[0] * data.batches.shape[1], config.learning_rate
      schedule = optax.cosine_decay_schedule(1.0, total)
      optimizer = optax.sgd(lambda count: rate * schedule(count))

    def step(carry: Any, inputs: Any) -> tuple[Any, None]:
      params, opt_state, state = carry
      rows, number = inputs

      def loss(params: Any) -> Any:
        if kind == "full":
          return whole(params, data), state
        x, y = data.x_train[rows], data.y_train[rows]
        values = each_loss(params, x, y)
        if kind == "naive":
          return objective.exact(values, y) + penalty(params), state
        surrogate, (new, _) = objective.stateful(values, y, state, schedule(number))
        return surrogate + penalty(params), new

      grads, state = jax.grad(loss, has_aux=True)(params)
      updates, opt_state = optimizer.update(grads, opt_state, params)
      return (optax.apply_updates(params, updates), opt_state, state), None

    carry = (params, optimizer.init(params), objective.init())
    rows = data.batches.reshape(-1, config.batch) if kind != "full" else jnp.zeros((total, 0), int)
    return finish(jax.lax.scan(step, carry, (rows, jnp.arange(total)))[0][0], data)

  return train


def run(config: Config, progress: Progress) -> Outcome:
  """Every objective by the three ways, and the plain mean."""
  data = stack([load_split(seed, config) for seed in range(config.seeds)])
  setting = Setting(jnp.zeros(1, jnp.int32))
  plain = Objective(lambda l, g: jnp.mean(l), lambda *a: None, lambda: ())
  runs = [(ERM, "full", plain)]
  runs += [(n, k, o) for n, o in objectives(config).items() for k in ("full", "naive", "state")]
  metrics: dict[str, Any] = {}
  for name, kind, objective in progress.track(runs, "runs", total=len(runs)):
    trainer = make_trainer(kind, objective, config)
    result = train_all(progress, trainer, setting, data, name=f"{name}, {kind}")
    metrics.setdefault(name, {})[kind] = {
      "objective": result.objective[:, 0],
      "worst": result.accuracy[:, 0].min(-1),
      "mean": result.accuracy[:, 0].mean(-1),
      "by_class": result.accuracy[:, 0],
    }
  for entry in metrics.values():
    best = entry["full"]["objective"]
    for kind in entry:
      entry[kind]["excess"] = entry[kind]["objective"] - best
  return Outcome(metrics, _table(metrics, config), _claims(metrics))


def _mean(metrics: dict[str, Any], name: str, kind: str, key: str) -> float:
  return float(np.mean(metrics[name][kind][key]))


def _table(metrics: dict[str, Any], config: Config) -> list[Row]:
  rows = []
  for name in metrics:
    if name == ERM:
      continue
    rows.append(
      Row(
        method=f"{name}, with state",
        metric=f"objective above the whole-data minimum, {config.data}",
        ours=_mean(metrics, name, "state", "excess"),
        baseline=_mean(metrics, name, "naive", "excess"),
        baseline_name="each batch by itself",
        better="lower",
        spread=float(np.std(metrics[name]["state"]["excess"])),
      )
    )
  for name in metrics:
    if name == ERM:
      continue
    rows.append(
      Row(
        method=f"{name}, whole data",
        metric=f"test accuracy of the worst class, {config.data}",
        ours=_mean(metrics, name, "full", "worst"),
        baseline=_mean(metrics, ERM, "full", "worst"),
        baseline_name="mean of the losses",
        spread=float(np.std(metrics[name]["full"]["worst"])),
        note=f"With state {_mean(metrics, name, 'state', 'worst'):.3f}, each batch by itself "
        f"{_mean(metrics, name, 'naive', 'worst'):.3f}.",
      )
    )
  return rows


def _claims(metrics: dict[str, Any]) -> list[Claim]:
  names = [name for name in metrics if name != ERM]
  claims = [
    Claim(
      f"{name}: with a state the minibatches end less far above the whole-data minimum than "
      "without.",
      _mean(metrics, name, "state", "excess") < _mean(metrics, name, "naive", "excess"),
      {kind: _mean(metrics, name, kind, "excess") for kind in ("state", "naive")},
    )
    for name in names
  ]
  group = next(name for name in names if name.startswith("groups"))
  numbers = {name: _mean(metrics, name, "full", "worst") for name in (ERM, group)}
  claims.append(
    Claim(
      "Group DRO over the classes has at least 0.05 more accuracy on the worst class than the "
      "mean.",
      numbers[group] - numbers[ERM] >= 0.05,
      numbers,
    )
  )
  return claims


def figure(record: dict[str, Any]) -> Any:
  """Distance to the minimum, and worst-class accuracy, by objective and way."""
  metrics = record["metrics"]
  names = [name for name in metrics if name != ERM]
  labels = {"full": "whole data", "state": "batches with state", "naive": "each batch by itself"}
  fig, axes = new_figure(1, 2, width=5.5, height=4.0)
  place = np.arange(len(names))
  for key, ax, kinds in (("excess", axes[0], ("state", "naive")), ("worst", axes[1], labels)):
    for i, kind in enumerate(kinds):
      values = np.array([metrics[name][kind][key] for name in names])
      offset = (i - (len(kinds) - 1) / 2) * 0.25
      color = f"C{list(labels).index(kind)}"
      ax.bar(
        place + offset, values.mean(1), 0.25, yerr=values.std(1), capsize=2, color=color,
        label=labels[kind],
      )  # fmt: skip
    ax.set_xticks(place, names, rotation=25, ha="right", fontsize="small")
  axes[0].set_yscale("log")
  axes[0].set_ylim(top=0.5)
  axes[0].set(ylabel="objective above its minimum", title="On the whole training set")
  base = _mean(metrics, ERM, "full", "worst")
  axes[1].axhline(base, color="black", linestyle="--", label="mean of the losses")
  axes[1].set(ylabel="test accuracy of the worst class", title="Five rare classes out of ten")
  axes[1].set_ylim(0, 1.25)
  for ax in axes:
    ax.legend(fontsize="small", ncol=2, loc="upper center")
  return fig
