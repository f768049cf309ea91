"""Weights of examples with wrong labels, learned by stochastic bilevel methods."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.metrics import roc_auc_score

from experiments import _amendments, _figures, _statistics, datasets
from experiments._claims import Claim, Side
from experiments._protocol import Paper, Progress, Row, Settings, Size, new_figure
from jaxopt_robust import bilevel, solvers
from jaxopt_robust.bilevel import BilevelBatch, BilevelVariables

PAPER = Paper(
  title="A framework for bilevel optimization that enables stochastic and global variance "
  "reduction algorithms",
  authors="Dagreou, Ablin, Vaiter and Moreau",
  year=2022,
  claim="Moving the inner, the adjoint and the outer variable at once needs fewer oracle calls "
  "than methods with inner loops, for weights that clean a training set of wrong labels; memory of "
  "the batches removes the noise.",
  section="Section 4, data hyper-cleaning (there on MNIST, figures only)",
  url="https://arxiv.org/abs/2201.13409",
)
AMENDED = _amendments.DATA_CLEANING
CLASSES = 10
RIDGE = 1e-3
LOSS = "validation loss of the inner solution"  # F(x): methods whose y sees f gain nothing by it
TRAIN, VALIDATION = 800, 400  # of 1797 digits; the others are the test


@dataclasses.dataclass(frozen=True)
class Config(Settings):
  """Settings. A seed draws the split, the wrong labels, and the batches.

  Attributes:
    wrong: probability that a label of the training set is drawn anew, from all classes.
    batch: rows of a batch of each set.
    calls: oracle calls of a method: a gradient or a product with one batch is one.
    inner_steps: of the methods that have an inner loop.
    terms: of Neumann series.
    inner_rate: step size of the inner and the adjoint variable.
    outer_rates: step sizes of the outer variable, chosen by the validation loss at the end.
    records: points of the curves.
    only: the methods; all when empty.
  """

  wrong: float = 0.5
  batch: int = 50
  calls: int = 16_000
  inner_steps: int = 10
  terms: int = 10
  inner_rate: float = 0.5
  outer_rates: tuple[float, ...] = (10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0, 10_000.0)
  records: int = 10
  only: tuple[str, ...] = ()


SIZES = {
  "toy": Size(
    Config(
      seeds=2, calls=320, outer_rates=(10.0, 100.0, 1000.0), records=2, inner_steps=2, terms=2,
      only=("SOBA", "stocBiO"),
    ),
    "A few steps.",
  ),
  "desk": Size(Config(), "1797 digits of 8 x 8 pixels instead of 60,000 of 28 x 28."),
  "large": Size(Config(calls=200_000), "1797 digits of 8 x 8 pixels instead of 60,000 of 28 x 28."),
}  # fmt: skip


def make_data(config: Config, seed: int) -> dict[str, np.ndarray]:
  """Rows and labels of the three sets, and which training labels are wrong."""
  rng, digits = np.random.default_rng(seed), datasets.load("digits")
  order = rng.permutation(len(digits["y"]))
  x, y = digits["x"][order].astype(np.float32) / 16, digits["y"][order].astype(np.int32)
  drawn = rng.integers(0, CLASSES, TRAIN).astype(np.int32)
  labels = np.where(rng.random(TRAIN) < config.wrong, drawn, y[:TRAIN])
  end = TRAIN + VALIDATION
  return {
    "x": x[:TRAIN], "y": labels, "good": labels == y[:TRAIN], "vx": x[TRAIN:end],
    "vy": y[TRAIN:end], "tx": x[end:], "ty": y[end:], "seed": np.int32(seed),
  }  # fmt: skip


def cross_entropy(w: jax.Array, x: jax.Array, y: jax.Array) -> jax.Array:
  return optax.softmax_cross_entropy_with_integer_labels(x @ w, y)


def inner(w: jax.Array, weights: jax.Array, batch: tuple) -> jax.Array:
  """Weighted loss of a batch of the training set: weights are sigmoids of the outer variable."""
  x, y, rows = batch
  shares = jax.nn.sigmoid(weights[rows])
  return jnp.mean(shares * cross_entropy(w, x, y)) + RIDGE * jnp.sum(w**2)


def outer(w: jax.Array, weights: jax.Array, batch: tuple) -> jax.Array:
  del weights
  return jnp.mean(cross_entropy(w, *batch))


class Method(NamedTuple):
  """How a method is run: directions, inner steps, what moves in them, calls a step, v's rate."""

  directions: Any
  repeats: int
  moves: tuple[str, ...]
  calls: int
  adjoint_rate: float


def methods(config: Config) -> dict[str, Method]:
  """All methods. SOBA's three calls: inner gradient, product with v, outer gradient."""
  soba = bilevel.soba_directions(inner, outer)
  rate, steps, terms = config.inner_rate, config.inner_steps, config.terms
  neumann = bilevel.neumann_directions(inner, outer, num_terms=terms, stepsize=rate)
  saga = bilevel.saga(soba, num_inner=TRAIN // config.batch, num_outer=VALIDATION // config.batch)
  penalty = bilevel.f2sa_directions(inner, outer)
  gap = bilevel.bome_directions(inner, outer, stepsize=rate, num_steps=steps)
  both = ("y", "v")
  every = {
    "SOBA": Method(soba, 1, both, 3, rate),
    "SABA": Method(saga, 1, both, 3, rate),
    "MA-SOBA": Method(bilevel.moving_average(soba), 1, both, 3, rate),
    "AmIGO": Method(soba, steps, both, 3 * steps, rate),
    "stocBiO": Method(neumann, steps, ("y",), steps + terms + 2, 1.0),
    "F2SA": Method(penalty, steps, both, 3 * steps, rate),
    "BOME": Method(gap, 1, both, steps + 3, rate),
  }
  return {name: every[name] for name in config.only or every}


def solve(data: dict, shares: jax.Array, w: jax.Array, steps: int = 40) -> jax.Array:
  """The inner problem with given weights, on all rows, by L-BFGS."""

  def loss(w: jax.Array) -> jax.Array:
    return jnp.mean(shares * cross_entropy(w, data["x"], data["y"])) + RIDGE * jnp.sum(w**2)

  solver = solvers.from_optax(loss, optax.lbfgs())
  return solvers.run_until(solver, w, None, tol=1e-5, max_steps=steps)[0]


def accuracy(w: jax.Array, data: dict) -> jax.Array:
  """Of the test set."""
  return jnp.mean((jnp.argmax(data["tx"] @ w, axis=1) == data["ty"]).astype(jnp.float32))


def train(name: str, config: Config) -> Any:
  """(outer rate, data) -> results of one run."""
  method = methods(config)[name]
  repeats, rounds = method.repeats, config.calls // (method.calls * config.records)

  def draw(key: jax.Array, data: dict) -> BilevelBatch:
    first, second = jax.random.split(key)
    i = jax.random.randint(first, (), 0, TRAIN // config.batch)
    j = jax.random.randint(second, (), 0, VALIDATION // config.batch)
    cut = lambda a, k: jax.lax.dynamic_slice_in_dim(a, k * config.batch, config.batch)
    rows = cut(jnp.arange(TRAIN), i)
    return BilevelBatch(
      (cut(data["x"], i), cut(data["y"], i), rows), (cut(data["vx"], j), cut(data["vy"], j)), i, j
    )

  def run(rate: jax.Array, data: dict) -> dict[str, jax.Array]:
    rates = (rate, config.inner_rate, method.adjoint_rate)
    solver = bilevel.stochastic_bilevel(
      method.directions, BilevelVariables(*map(optax.sgd, rates)), inner_steps=repeats,
      inner_moves=method.moves,
    )  # fmt: skip
    keys = jax.random.split(jax.random.fold_in(jax.random.key(5), data["seed"]),
                            config.records * rounds * repeats)  # fmt: skip
    keys = keys.reshape(config.records, rounds, *((repeats,) if repeats > 1 else ()))
    many = draw if repeats == 1 else jax.vmap(draw, in_axes=(0, None))

    def step(state: Any, key: jax.Array) -> tuple[Any, None]:
      return solver.step(state, None, many(key, data))[0], None

    def stretch(state: Any, keys: jax.Array) -> tuple[Any, jax.Array]:
      state, _ = jax.lax.scan(step, state, keys)
      y = solve(data, jax.nn.sigmoid(state.params.x), state.params.y)
      return state, outer(y, state.params.x, (data["vx"], data["vy"]))

    zero = jnp.zeros((data["x"].shape[1], CLASSES))
    start = BilevelVariables(jnp.zeros(TRAIN), zero, zero)
    state, values = jax.lax.scan(stretch, solver.init(start, None, many(keys[0, 0], data)), keys)
    y = solve(data, jax.nn.sigmoid(state.params.x), state.params.y)
    return {"values": values, "accuracy": accuracy(y, data), "weights": state.params.x}

  return run


def run(config: Config, progress: Progress) -> dict[str, Any]:
  """Every method at every outer rate, the best of each by its validation loss."""
  sets = [make_data(config, seed) for seed in config.seed_numbers()]
  data = jax.tree.map(lambda *rows: jnp.asarray(np.stack(rows)), *sets)
  rates = jnp.asarray(config.outer_rates)
  metrics: dict[str, Any] = {"accuracy": {}, "auc": {}, "loss": {}, "curve": {}}
  choices = []
  for name in progress.track(methods(config), "methods"):
    one = train(name, config)
    program = jax.jit(jax.vmap(jax.vmap(one, in_axes=(0, None)), in_axes=(None, 0)))
    found = jax.device_get(progress.clock.call(program, rates, data, name=name))
    scores = found["values"][:, :, -1].mean(0)
    choice = _statistics.choose(
      f"outer step size of {name}", config.outer_rates, scores, better="lower"
    )
    choices.append(choice)
    best = config.outer_rates.index(choice.chosen)
    metrics["accuracy"][name] = found["accuracy"][:, best]
    metrics["loss"][name] = found["values"][:, best, -1]
    metrics["curve"][name] = found["values"][:, best]
    metrics["auc"][name] = [
      roc_auc_score(s["good"], w[best]) for s, w in zip(sets, found["weights"], strict=True)
    ]
  zero = jnp.zeros((data["x"].shape[2], CLASSES))
  bare = jax.jit(jax.vmap(lambda d, shares: accuracy(solve(d, shares, zero, 200), d)))
  good = data["good"].astype(jnp.float32)
  metrics["accuracy"]["all labels"] = np.asarray(bare(data, jnp.ones_like(good)))
  metrics["accuracy"]["right labels known"] = np.asarray(bare(data, good))
  return metrics | {"choices": choices}


def _side(metrics: dict, name: str, key: str) -> Side:
  return Side(name, metrics[key][name])


OTHERS = ("AmIGO", "stocBiO", "F2SA", "BOME")


def claims(metrics: dict, config: Config) -> list[Claim]:
  """Cleaning helps; one loop needs fewer calls than two; memory helps once more."""
  accuracy, auc = "test accuracy, digits", "area under the ROC curve, right against wrong labels"
  found = [
    Claim(
      "cleaning", "Weights learned by SOBA are better than none.", "paper", accuracy,
      _side(metrics, "SOBA", "accuracy"), _side(metrics, "all labels", "accuracy"),
    ),
    Claim(
      "weights_tell", "The weights learned by SOBA tell right labels from wrong ones.", "paper",
      auc, _side(metrics, "SOBA", "auc"), Side("0.95", 0.95),
    ),
  ]  # fmt: skip
  found += [
    Claim(
      "memory", "With the same oracle calls SABA reaches a lower validation loss than SOBA.",
      "paper", LOSS, _side(metrics, name, "loss"), _side(metrics, "SOBA", "loss"),
      better="lower", scale="ratio",
    )
    for name in ("SABA",)
    if name in methods(config)
  ]  # fmt: skip
  found += [
    Claim(
      f"soba_{name.lower()}",
      f"With the same oracle calls SOBA reaches a lower validation loss than {name}.", "paper",
      LOSS, _side(metrics, "SOBA", "loss"), _side(metrics, name, "loss"),
      better="lower", scale="ratio", comparisons=len(OTHERS),
    )
    for name in OTHERS
    if name in methods(config)
  ]  # fmt: skip
  return found


def table(metrics: dict, config: Config) -> list[Row]:
  """Accuracies, losses and how well weights tell wrong labels."""
  bare = _side(metrics, "all labels", "accuracy")
  names = methods(config)
  rows = [Row("test accuracy", _side(metrics, name, "accuracy"), bare) for name in names]
  rows.append(Row("test accuracy", _side(metrics, "right labels known", "accuracy"), bare))
  soba = _side(metrics, "SOBA", "loss")
  rows += [
    Row(LOSS, _side(metrics, name, "loss"), soba, better="lower")
    for name in names
    if name != "SOBA"
  ]
  return rows + [Row("AUC of the weights", _side(metrics, name, "auc")) for name in names]


def figure(record: dict) -> Any:
  """Validation loss against oracle calls for each method; beside it test accuracies."""
  metrics, settings = record["metrics"], record["settings"]
  fig, axes = new_figure(1, 2)
  calls = np.linspace(0, settings["calls"], settings["records"] + 1)[1:]
  _figures.curves(axes[0], metrics["curve"], calls, xlabel="oracle calls", ylabel=LOSS, log="y")
  _figures.dots(axes[1], {"": metrics["accuracy"]}, ylabel="test accuracy")
  return fig
