"""Estimators of inner expectations: the floor that each leaves on a KL-type partial AUC problem."""

import dataclasses
import itertools
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
from experiments.compositional._coupled import Problem, bounded, least_values, partial_auc
from jaxopt_robust import compositional, numerics, transforms

PAPER = Paper(
  title="Finite-sum coupled compositional stochastic optimization: theory and applications",
  authors="Wang and Yang",
  year=2022,
  claim="A mini-batch inside a non-linear function leaves a bias that no step size removes. A "
  "moving average of each example's inner value removes it, the better the smaller its rate is; "
  "estimators by mirror descent and by variance reduction do so too.",
  section="Theorem 1 and the comparison with biased SGD; KL-type partial AUC as in SOPA-s",
  url="https://arxiv.org/abs/2202.12396",
)
CURVE_POINTS = 40
NARROW = (5, 4)  # examples and inner samples of a step on the bounded problem
PLUG_IN = "average 1"  # the mini-batch's own value


@dataclasses.dataclass(frozen=True)
class Config(Settings):
  """Settings.

  Attributes:
    positives: examples of the outer sum.
    negatives: samples of every inner expectation.
    dimension: number of parameters.
    temperature: lambda of the KL penalty.
    batch: examples, and inner samples, of a step.
    large_batch: examples of a step in the comparison of variance-reduced estimators.
    steps: steps of a run.
    learning_rates: first step sizes, which fall to 0.3 and 0.1 of themselves at 1/2 and 3/4; every
      estimator has its best one by the mean objective on as many other random streams. Smaller
      ones do not reach their floor: with 0.001 the plug-in passes the minimum on its way to a
      floor of 0.014 and is at 0.0017 after 4000 steps, at 0.014 after 16000 (development seeds).
    momentum: weight of the new gradient.
    rates: moving averages that are compared; rate 1 is the mini-batch plug-in.
    alphas: step sizes a of the mirror-descent estimator (SCENT).
    storm: rates of the recursive estimators (STORM and MSVR).
    bounded_steps: steps on the second problem, whose inner values are bounded.
  """

  positives: int = 100
  negatives: int = 1000
  dimension: int = 10
  temperature: float = 0.3
  batch: int = 8
  large_batch: int = 32
  steps: int = 4000
  learning_rates: tuple[float, ...] = (0.003, 0.01, 0.03, 0.1)
  momentum: float = 0.1
  rates: tuple[float, ...] = (1.0, 0.5, 0.3, 0.1, 0.03)
  alphas: tuple[float, ...] = (1.0, 0.1, 0.02)
  storm: tuple[float, ...] = (0.1,)
  bounded_steps: int = 4000

  def __post_init__(self) -> None:
    if not {1.0, 0.1} <= set(self.rates):
      raise ValueError("rates must hold 1 and 0.1.")
    if self.steps % CURVE_POINTS or self.bounded_steps % CURVE_POINTS:
      raise ValueError(f"steps must be multiples of {CURVE_POINTS}; got {self.steps}.")


SIZES = {
  "toy": Size(
    Config(
      seeds=2, positives=40, negatives=100, steps=400, bounded_steps=400, rates=(1.0, 0.5, 0.1),
      alphas=(), storm=(), learning_rates=(0.03,),
    ),
    "Moving averages only, a tenth of the steps.",
  ),
  "desk": Size(Config(), "Two Gaussian classes, a linear scorer; images and deep networks."),
  "large": Size(
    Config(seeds=30, positives=1000, negatives=10000, dimension=50, steps=40000),
    "Two Gaussian classes, a linear scorer; images and deep networks.",
  ),
}  # fmt: skip


def make_estimator(family: str, rate: jax.Array, domain: str) -> compositional.InnerEstimator:
  """An estimator whose hyper-parameter is data; clips are what is known of the inner values."""
  clip = (1.0, 1e6) if domain == "log" else (-4.0, 4.0)
  if family == "average":
    return compositional.inner_ema(rate, domain=domain)
  if family == "SCENT":
    return compositional.inner_scent(jnp.log(rate))
  make = compositional.inner_storm if family == "STORM" else compositional.inner_msvr
  return make(rate, clip=clip, domain=domain)


def make_trainer(
  family: str, problem: Problem, config: Config, batch: tuple[int, int]
) -> Callable[..., dict[str, jax.Array]]:
  """``train(setting, (key, data))``: one run with batches of (examples, inner samples)."""
  in_logs = problem.domain == "log"
  outer = compositional.outer_log(config.temperature) if in_logs else compositional.outer_square()

  def train(setting: dict[str, jax.Array], seed: Any) -> dict[str, jax.Array]:
    key, data = seed
    estimator = make_estimator(family, setting["rate"], problem.domain)
    inner = lambda w, index, columns: problem.inner(w, index, columns, data)
    oracle = compositional.fcco_value_and_grad(inner, outer, estimator)
    falls = {problem.steps // 2: 0.3, 3 * problem.steps // 4: 1 / 3}
    schedule = optax.piecewise_constant_schedule(1.0, falls)
    optimizer = optax.chain(
      transforms.ema_first(config.momentum),
      optax.scale_by_learning_rate(lambda count: setting["learning_rate"] * schedule(count)),
    )

    def step(carry: Any, key: jax.Array) -> tuple[Any, None]:
      w, opt_state, state = carry
      keys = jax.random.split(key)
      index = jax.random.randint(keys[0], (batch[0],), 0, problem.examples)
      columns = jax.random.randint(keys[1], (batch[1],), 0, problem.columns)
      _, grads, state = oracle(w, state, index, columns)
      grads = grads + jax.grad(problem.regulariser)(w)
      updates, opt_state = optimizer.update(grads, opt_state, w)
      return (optax.apply_updates(w, updates), opt_state, state), None

    def leg(carry: Any, keys: jax.Array) -> tuple[Any, jax.Array]:
      carry, _ = jax.lax.scan(step, carry, keys)
      return carry, problem.exact(carry[0], data)

    w = jnp.zeros(config.dimension)
    carry = (w, optimizer.init(w), estimator.init(problem.examples, w))
    keys = jax.random.split(key, (CURVE_POINTS, problem.steps // CURVE_POINTS))
    (w, _, state), exact = jax.lax.scan(leg, carry, keys)
    gap = state.value - problem.true_values(w, data)
    return {"exact": exact, "error": jnp.sqrt(numerics.masked_mean(gap**2, state.seen))}

  return train


def make_plan(config: Config) -> dict[tuple[str, tuple[int, int], str], tuple[float, ...]]:
  """(problem, batch, family) -> hyper-parameters."""
  small, large = (config.batch, config.batch), (config.large_batch, config.batch)
  plan = {
    ("pauc", small, "average"): config.rates,
    ("pauc", small, "SCENT"): config.alphas,
    ("pauc", small, "MSVR"): config.storm,
    ("pauc", large, "average"): (1.0, 0.1) if config.storm else (),
    ("pauc", large, "MSVR"): config.storm,
    ("bounded", NARROW, "average"): (1.0, 0.1),
    ("bounded", NARROW, "STORM"): config.storm,
    ("bounded", NARROW, "MSVR"): config.storm,
  }
  return {key: rates for key, rates in plan.items() if rates}


def run(config: Config, progress: Progress) -> dict[str, Any]:
  """Every estimator on both problems; the settings of a family are one program."""
  problems = {"pauc": partial_auc(config), "bounded": bounded(config)}
  seeds, steps = config.seed_numbers(), config.learning_rates
  data = {name: [problem.draw(seed) for seed in seeds] for name, problem in problems.items()}
  least = {
    "pauc": least_values(problems["pauc"], config.dimension, data["pauc"]),
    "bounded": np.zeros(len(seeds)),
  }
  # first the streams on which step sizes are chosen, then those that count
  keys = jnp.stack([jax.random.fold_in(jax.random.key(s), part) for part in (0, 1) for s in seeds])
  groups: dict[str, Any] = {}
  choices = []
  plan = make_plan(config)
  for (name, batch, family), rates in progress.track(plan.items(), "estimators", total=len(plan)):
    group = f"{name}, {batch[0]} x {batch[1]}"
    setting, shape = grid(rate=rates, learning_rate=steps)
    train = make_trainer(family, problems[name], config, batch)
    twice = stack(2 * data[name])
    found = train_all(progress, train, setting, (keys, twice), name=f"{group} {family}")
    error = found["error"].reshape(2, len(seeds), *shape)[1]
    excess = found["exact"].reshape(2, len(seeds), *shape, -1)
    excess = np.where(np.isfinite(excess), excess - least[name][:, None, None, None], np.inf)
    for i, rate in enumerate(rates):
      label, score = f"{family} {rate:g}", excess[0, :, i, :, -1].mean(0)
      best = 0
      if np.isfinite(score).any():
        choice = _statistics.choose(f"step of {label}, {group}", steps, score, better="lower")
        choices.append(choice)
        best = steps.index(choice.chosen)
      final = excess[1, :, i, best]
      groups.setdefault(group, {})[label] = {
        "excess": final[:, -1], "error": error[:, i, best], "curve": final.mean(0),
        "finite": np.isfinite(excess[1, :, i, :, -1]).mean(1),
      }  # fmt: skip
  return {"groups": groups, "choices": choices}


def _group(config: Config, problem: str) -> str:
  batch = NARROW if problem == "bounded" else (config.batch, config.batch)
  return f"{problem}, {batch[0]} x {batch[1]}"


def claims(metrics: dict[str, Any], config: Config) -> list[Claim]:
  """The floor by rate and by step size of the estimator, and beside the plug-in by a factor."""
  made = []
  found = {n: metrics["groups"][_group(config, n)] for n in ("pauc", "bounded")}

  def add(problem: str, ours: str, base: str, factor: float, words: str) -> None:
    sides = [Side(name, found[problem][name]["excess"]) for name in (ours, base)]
    text = f"On the {words} the floor of {ours} is below that of {base}, by a factor {factor:g}."
    key = f"{problem}_{ours}_{base}_{factor:g}".replace(" ", "_")
    made.append(
      Claim(
        key, text, "paper", "objective above its minimum", *sides, better="lower", scale="ratio",
        margin=factor,
      )
    )  # fmt: skip

  # Below 0.1 the average lags behind the parameters, so that the paper's order ends there.
  falling = sorted((r for r in config.rates if r >= 0.1), reverse=True)
  for family, rates in (("average", falling), ("SCENT", sorted(config.alphas, reverse=True))):
    for high, low in itertools.pairwise(rates):
      add("pauc", f"{family} {low:g}", f"{family} {high:g}", 1.0, "partial AUC problem")
  add("pauc", "average 0.1", PLUG_IN, 5.0, "partial AUC problem")
  for name in found["bounded"]:
    if name != PLUG_IN:
      add("bounded", name, PLUG_IN, 5.0, "bounded problem")
  return made


def table(metrics: dict[str, Any], config: Config) -> list[Row]:
  """Each estimator beside the mini-batch plug-in of its group; finite runs where some are lost."""
  note = (
    "A first record on the same seeds, with step sizes down to 0.0003 in the grids, had seven of "
    "nine claims holding and two open: smaller steps stop on the way to their floor (development "
    "seeds), and the grids were cut after it. Most choices lie at their lower edge."
  )
  rows = []
  for group, entries in metrics["groups"].items():
    side = lambda name, key, entries=entries: Side(name, entries[name][key])
    for name in entries:
      if name == PLUG_IN:
        continue
      if None in entries[name]["excess"]:  # some runs left the finite numbers
        metric = f"share of finite runs over all step sizes, {group}"
        rows.append(Row(metric, side(name, "finite"), side(PLUG_IN, "finite")))
      else:
        metric = f"objective above its minimum, {group}"
        sides = (side(name, "excess"), side(PLUG_IN, "excess"))
        rows.append(Row(metric, *sides, "lower", note=note))
  return rows


def figure(record: dict[str, Any]) -> Any:
  """Excess over the minimum along the run, the floors by estimator, errors of the estimates."""
  groups = record["metrics"]["groups"]
  first = next(iter(groups))
  finite = {
    group: {name: v for name, v in entries.items() if None not in v["excess"]}
    for group, entries in groups.items()
  }
  fig, axes = new_figure(1, 3)
  lines = {n: np.abs(v["curve"]) for n, v in finite[first].items() if n.startswith("average")}
  place = record["settings"]["steps"] / CURVE_POINTS * np.arange(1, CURVE_POINTS + 1)
  _figures.curves(
    axes[0], lines, place, xlabel="step", ylabel="objective - minimum", title=first, log="y"
  )
  for ax, key, ylabel in ((axes[1], "excess", "objective - minimum"), (axes[2], "error", "error")):
    _figures.dots(
      ax, {g: {n: v[key] for n, v in entries.items()} for g, entries in finite.items()},
      ylabel=ylabel, title="After the last step" if key == "excess" else "Inner values",
    )  # fmt: skip
    ax.set_yscale("log")
  return fig
