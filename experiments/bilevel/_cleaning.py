"""Weights of training examples learned by stochastic bilevel methods: what two data sets share."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.metrics import roc_auc_score

from experiments import _figures, _statistics
from experiments._claims import Side
from experiments._protocol import Progress, Row, new_figure
from jaxopt_robust import bilevel, solvers
from jaxopt_robust.bilevel import BilevelBatch, BilevelVariables

CLASSES = 10
RIDGE = 1e-3
LOSS = "validation loss of the inner solution"  # F(x): methods whose y sees f gain nothing by it


def make_data(
  x: np.ndarray, y: np.ndarray, sizes: tuple[int, int], wrong: float, seed: int
) -> dict[str, np.ndarray]:
  """Rows and labels of the three sets, and which training labels are right."""
  rng, (train, validation) = np.random.default_rng(seed), sizes
  order = rng.permutation(len(y))
  x, y = x[order].astype(np.float32), y[order].astype(np.int32)
  drawn = rng.integers(0, CLASSES, train).astype(np.int32)
  labels = np.where(rng.random(train) < wrong, drawn, y[:train])
  end = train + validation
  return {
    "x": x[:train], "y": labels, "good": labels == y[:train], "vx": x[train:end],
    "vy": y[train:end], "tx": x[end:], "ty": y[end:], "seed": np.int32(seed),
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
  """How a method is run.

  Attributes:
    directions: its ``StochasticMethod``.
    calls: oracle calls of a step: a gradient or a product with one batch is one.
    repeats: inner steps of a step.
    moves: what moves in them.
    adjoint_rate: step size of v.
    period: > 0: every period-th step sees all rows, which costs as much as all their batches.
  """

  directions: Any
  calls: int
  repeats: int = 1
  moves: tuple[str, ...] = ("y", "v")
  adjoint_rate: float = 1.0
  period: int = 0


def methods(
  config: Any, sizes: tuple[int, int], *, period: int = 10, radius: float = 10.0
) -> dict[str, Method]:
  """All methods; ``period`` of fresh starts, ``radius`` of the ball that FdeHBO's v lies in.

  SOBA's three calls: inner gradient, product with v, outer gradient. Recursive directions evaluate
  two points, difference products two gradients; a random Neumann term has half of all on average.
  """
  soba = bilevel.soba_directions(inner, outer)
  rate, steps, terms = config.inner_rate, config.inner_steps, config.terms
  numbers = dict(zip(("num_inner", "num_outer"), (n // config.batch for n in sizes), strict=True))
  neumann = functools.partial(
    bilevel.neumann_directions, inner, outer, num_terms=terms, stepsize=rate
  )
  random = neumann(random=True)
  differences = bilevel.soba_directions(
    inner, outer, products=bilevel.finite_difference_products, max_adjoint=radius
  )
  gap = bilevel.bome_directions(inner, outer, stepsize=rate, num_steps=steps)
  return {
    "SOBA": Method(soba, 3, adjoint_rate=rate),
    "SABA": Method(bilevel.saga(soba, **numbers), 3, adjoint_rate=rate),
    "MA-SOBA": Method(bilevel.moving_average(soba), 3, adjoint_rate=rate),
    "AmIGO": Method(soba, 3 * steps, steps, adjoint_rate=rate),
    "stocBiO": Method(neumann(), steps + terms + 2, steps, ("y",)),
    "F2SA": Method(bilevel.f2sa_directions(inner, outer), 3 * steps, steps, adjoint_rate=rate),
    "BOME": Method(gap, steps + 3, adjoint_rate=rate),
    "TTSA": Method(random, terms // 2 + 3),
    "SUSTAIN": Method(bilevel.storm(random), 2 * (terms // 2 + 3)),
    "MRBO": Method(bilevel.storm(neumann()), 2 * (terms + 3)),
    "VRBO": Method(bilevel.spider(neumann(), period=period), 2 * (terms + 3), period=period),
    "SRBA": Method(bilevel.spider(soba, period=period), 6, adjoint_rate=rate, period=period),
    "FSLA": Method(bilevel.storm(soba, parts=("x",)), 4, adjoint_rate=rate),
    "FdeHBO": Method(bilevel.storm(differences), 8, adjoint_rate=rate),
  }


def solve(data: dict, shares: jax.Array, w: jax.Array, steps: int = 40) -> jax.Array:
  """The inner problem with given weights, on all rows, by L-BFGS."""

  def loss(w: jax.Array) -> jax.Array:
    return jnp.mean(shares * cross_entropy(w, data["x"], data["y"])) + RIDGE * jnp.sum(w**2)

  solver = solvers.from_optax(loss, optax.lbfgs())
  return solvers.run_until(solver, w, None, tol=1e-5, max_steps=steps)[0]


def accuracy(w: jax.Array, data: dict) -> jax.Array:
  """Of the test set."""
  return jnp.mean((jnp.argmax(data["tx"] @ w, axis=1) == data["ty"]).astype(jnp.float32))


def train(method: Method, config: Any, sizes: tuple[int, int]) -> Any:
  """(outer rate, data) -> results of one run."""
  repeats, period = method.repeats, method.period
  cost = method.calls  # of a round
  if period:
    cost = method.calls * (period - 1) + method.calls // 2 * (sizes[0] // config.batch)
  rounds = max(1, config.calls // (cost * config.records))

  def draw(key: jax.Array, data: dict) -> BilevelBatch:
    first, second = jax.random.split(key)
    i = jax.random.randint(first, (), 0, sizes[0] // config.batch)
    j = jax.random.randint(second, (), 0, sizes[1] // config.batch)
    cut = lambda a, k: jax.lax.dynamic_slice_in_dim(a, k * config.batch, config.batch)
    rows = cut(jnp.arange(sizes[0]), i)
    return BilevelBatch(
      (cut(data["x"], i), cut(data["y"], i), rows), (cut(data["vx"], j), cut(data["vy"], j)), i, j,
      jax.random.fold_in(key, 1),
    )  # fmt: skip

  def run(rate: jax.Array, data: dict) -> dict[str, jax.Array]:
    rates = (rate, config.inner_rate, method.adjoint_rate)
    solver = bilevel.stochastic_bilevel(
      method.directions, BilevelVariables(*map(optax.sgd, rates)), inner_steps=repeats,
      inner_moves=method.moves,
    )  # fmt: skip
    each = max(repeats, period)
    keys = jax.random.split(jax.random.fold_in(jax.random.key(5), data["seed"]),
                            config.records * rounds * each)  # fmt: skip
    keys = keys.reshape(config.records, rounds, *((each,) if each > 1 else ()))
    many = draw if repeats == 1 else jax.vmap(draw, in_axes=(0, None))
    everything = (data["x"], data["y"], jnp.arange(sizes[0]))

    def step(state: Any, key: jax.Array) -> tuple[Any, None]:
      return solver.step(state, None, many(key, data))[0], None

    def cycle(state: Any, keys: jax.Array) -> tuple[Any, None]:
      whole = draw(keys[0], data)._replace(inner=everything, outer=(data["vx"], data["vy"]))
      state = solver.step(state, None, whole)[0]
      return jax.lax.scan(step, state, keys[1:])

    def stretch(carry: Any, keys: jax.Array) -> tuple[Any, jax.Array]:
      state, _ = jax.lax.scan(cycle if period else step, carry[0], keys)
      y = solve(data, jax.nn.sigmoid(state.params.x), state.params.y)
      return (state, y), outer(y, state.params.x, (data["vx"], data["vy"]))

    zero = jnp.zeros((data["x"].shape[1], CLASSES))
    start = BilevelVariables(jnp.zeros(sizes[0]), zero, zero)
    batch = draw(keys[0, 0, 0], data) if period else many(keys[0, 0], data)
    carry = (solver.init(start, None, batch), zero)
    (state, y), values = jax.lax.scan(stretch, carry, keys)
    return {"values": values, "accuracy": accuracy(y, data), "weights": state.params.x}

  return run


def compare(
  sets: list[dict], config: Any, sizes: tuple[int, int], tried: dict[str, Method],
  progress: Progress,
) -> dict[str, Any]:  # fmt: skip
  """Every method at every outer rate, the best of each by its validation loss."""
  data = jax.tree.map(lambda *rows: jnp.asarray(np.stack(rows)), *sets)
  rates = jnp.asarray(config.outer_rates)
  metrics: dict[str, Any] = {"accuracy": {}, "auc": {}, "loss": {}, "curve": {}}
  choices = []
  for name, method in progress.track(tried.items(), "methods"):
    one = train(method, config, sizes)
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


def side(metrics: dict, name: str, key: str) -> Side:
  return Side(name, metrics[key][name])


def table(metrics: dict) -> list[Row]:
  """Accuracies, losses and how well weights tell wrong labels."""
  bare = side(metrics, "all labels", "accuracy")
  names = list(metrics["loss"])
  rows = [Row("test accuracy", side(metrics, name, "accuracy"), bare) for name in names]
  rows.append(Row("test accuracy", side(metrics, "right labels known", "accuracy"), bare))
  soba = side(metrics, "SOBA", "loss")
  rows += [
    Row(LOSS, side(metrics, name, "loss"), soba, better="lower") for name in names if name != "SOBA"
  ]
  return rows + [Row("AUC of the weights", side(metrics, name, "auc")) for name in names]


def figure(record: dict) -> Any:
  """Validation loss against oracle calls for each method; beside it test accuracies."""
  metrics, settings = record["metrics"], record["settings"]
  fig, axes = new_figure(1, 2)
  calls = np.linspace(0, settings["calls"], settings["records"] + 1)[1:]
  _figures.curves(axes[0], metrics["curve"], calls, xlabel="oracle calls", ylabel=LOSS, log="y")
  _figures.dots(axes[1], {"": metrics["accuracy"]}, ylabel="test accuracy")
  return fig
