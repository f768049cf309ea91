"""What the experiments on unfolded networks share: problems, training, baselines, measurements."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments._training import schedule, train_all
from jaxopt_robust import prox, solvers, sweeps, unfolding

LOSSES = ("unsupervised", "supervised")


class Network(NamedTuple):
  """An unfolded method.

  Attributes:
    cell: one layer.
    layers: ``layers(matrix, num_layers)``, the classical parameters.
    objective: ``objective(x, data) -> float[batch]``.
    penalty: of that objective.
    strength: its strength.
  """

  cell: Callable[..., Any]
  layers: Callable[..., Any]
  objective: Callable[..., Any]
  penalty: Any
  strength: float


class Condition(NamedTuple):
  """How test signals differ from those of the training.

  Attributes:
    rate: factor of the share of non-zeros.
    noise: factor of the noise.
    other: 1 where they are measured by another matrix than that of the training, else 0.
  """

  rate: Any
  noise: Any
  other: Any = 0


def ista(strength: float) -> Network:
  """Steps and free thresholds."""
  layers = lambda matrix, num: unfolding.ista_layers(matrix, strength, num_layers=num)
  objective = functools.partial(unfolding.l1_objective, strength=strength)
  return Network(unfolding.ista_cell, layers, objective, prox.lasso, strength)


def iht(strength: float) -> Network:
  """Steps, from which the thresholds follow."""
  layers = lambda matrix, num: unfolding.step_layers(matrix, num_layers=num)
  objective = functools.partial(unfolding.l0_objective, strength=strength)
  cell = functools.partial(unfolding.iht_cell, strength=strength)
  return Network(cell, layers, objective, prox.l0, strength)


def gaussian(key: jax.Array, rows: int, columns: int, condition: Any = None) -> jax.Array:
  """A_ij ~ N(0, 1/rows); with a condition number its singular values become geometric.

  The mean squared length of the columns stays 1.
  """
  matrix = jax.random.normal(key, (rows, columns)) / np.sqrt(rows)
  if condition is None:
    return matrix
  left, _, right = jnp.linalg.svd(matrix, full_matrices=False)
  values = condition ** (-jnp.arange(rows) / (rows - 1))
  values = values * jnp.sqrt(columns / jnp.sum(values**2))
  return jnp.matmul(left * jnp.broadcast_to(values, left.shape), right, precision="highest")


def keys_of(seed: jax.Array) -> dict[str, jax.Array]:
  """Keys of one seed, by use."""
  names = ("matrix", "training", "test", "other")
  return dict(zip(names, jax.random.split(jax.random.key(seed), len(names)), strict=True))


def draw(
  data: dict[str, Any], condition: Condition, *, shape: tuple[int, int], signals: int
) -> tuple[unfolding.SparseBatch, jax.Array]:
  """Test signals of a seed and their matrix."""
  keys, spread = keys_of(data["seed"]), data.get("spread")
  matrix, other = (gaussian(keys[key], *shape, spread) for key in ("matrix", "other"))
  matrix = jnp.where(condition.other > 0, other, matrix)
  batch = unfolding.sample_sparse_batch(
    keys["test"], matrix, batch=signals, rate=condition.rate * data["rate"],
    noise=condition.noise * data["noise"],
  )  # fmt: skip
  return batch, matrix


def by_name(measure: Callable[..., Any], tests: Mapping[str, Condition]) -> dict[str, Any]:
  """What ``measure`` returns for each test condition, all in one program."""
  columns = (np.array(values, np.float32) for values in zip(*tests.values(), strict=True))
  found = jax.vmap(measure)(Condition(*columns))
  return {name: jax.tree.map(lambda a, i=i: a[i], found) for i, name in enumerate(tests)}


def measured(net: Network, x: jax.Array, batch: Any, matrix: jax.Array) -> dict[str, jax.Array]:
  """Mean objective over n, and NMSE in dB, of estimates float[..., signals, n]."""
  n = x.shape[-1]
  y = jnp.broadcast_to(batch.y, (*x.shape[:-1], batch.y.shape[-1]))
  value = net.objective(x, unfolding.Measurements(y, matrix))
  error = jnp.sum((x - jnp.broadcast_to(batch.truth, x.shape)) ** 2, (-2, -1))
  nmse = 10 * jnp.log10(error / jnp.sum(batch.truth**2))
  return {"objective": jnp.mean(value, -1) / n, "nmse": nmse}


def _of_depth(net: Network, start: Any, data: Any, free: Any, depth: Any) -> jax.Array:
  """The output of the first layers."""
  params = unfolding.to_positive(free)
  return unfolding.unfold(net.cell, params, start, data, depth=depth)[0]


def make_trainer(
  net: Network, *, shape: tuple[int, int], layers: int, steps: int, batch: int, signals: int,
  tests: Mapping[str, Condition], by_stage: bool = False, decay: str = "constant",
) -> Callable[..., Any]:  # fmt: skip
  """``train(setting, data)``: one network, measured layer by layer on test signals.

  The step size falls within each stage as ``decay`` says (see ``_training.schedule``). With
  ``by_stage`` it is the network of every depth instead, as it was when its last layer had been
  trained.

  A setting has the loss (``supervised``, 1 or 0) and the step size (``rate``) of Adam; the data
  have the seed and how training signals are made (``rate``, ``noise``, and ``spread``, the
  condition number of the matrix, None for a Gaussian one).
  """

  def train(setting: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
    keys, spread = keys_of(data["seed"]), data.get("spread")
    matrix, factor = gaussian(keys["matrix"], *shape, spread), schedule(decay, steps)
    sampler = functools.partial(
      unfolding.sample_sparse_batch, matrix=matrix, batch=batch, rate=data["rate"],
      noise=data["noise"],
    )  # fmt: skip

    def loss(free: Any, sample: Any, depth: Any) -> jax.Array:
      here = unfolding.Measurements(sample.y, matrix)
      start = jnp.zeros_like(sample.truth)
      x, _ = unfolding.unfold(net.cell, unfolding.to_positive(free), start, here, depth=depth)
      wrong = jnp.mean(unfolding.supervised_loss(x, sample.truth))
      value = jnp.mean(net.objective(x, here)) / shape[1]
      return jnp.where(setting["supervised"], wrong, value)

    trained = unfolding.train_incremental(
      keys["training"], loss, unfolding.from_positive(net.layers(matrix, layers)),
      optimizer=optax.adam(lambda count: setting["rate"] * factor(count)), sampler=sampler,
      num_layers=layers, num_steps=steps, evaluate=lambda free, depth: free,
    )  # fmt: skip
    params = unfolding.to_positive(trained.params)
    found = {
      "steps": params.step * jnp.linalg.norm(matrix, 2) ** 2,
      "history": jnp.mean(trained.history[:, -max(1, steps // 4) :], -1),
      "status": trained.status,
    }
    stages = jnp.arange(1, layers + 1)

    def measure(condition: Condition) -> dict[str, jax.Array]:
      batch, other = draw(data, condition, shape=shape, signals=signals)
      here, start = unfolding.Measurements(batch.y, other), jnp.zeros_like(batch.truth)
      if by_stage:
        apply = functools.partial(_of_depth, net, start, here)
        trace = jax.vmap(apply)(trained.evaluations, stages)
      else:
        _, trace = unfolding.unfold(net.cell, params, start, here)
      return measured(net, trace, batch, other)

    return found | {"tests": by_name(measure, tests)}

  return train


def train_networks(
  progress: Any, net: Network, rates: Mapping[str, float], data: Any, *, name: str, **options: Any
) -> dict[str, Any]:
  """Networks of both losses (the keys of ``rates``) on all rows of ``data``, in one program."""
  settings = {
    "supervised": np.array([loss == "supervised" for loss in rates]),
    "rate": np.array(list(rates.values()), np.float32),
  }
  found = train_all(progress, make_trainer(net, **options), settings, data, name=name)
  return {loss: jax.tree.map(lambda a, i=i: a[:, i], found) for i, loss in enumerate(rates)}


def classical(
  net: Network, *, shape: tuple[int, int], layers: int, signals: int,
  tests: Mapping[str, Condition], max_steps: int, continuation: int = 0,
) -> Callable[..., Any]:  # fmt: skip
  """``solve(data)``: the iteration itself, layer by layer, where it converges, and by continuation.

  The lasso's solution comes from FISTA. Continuation of that many steps is for hard thresholds.
  """

  def misfit(x: jax.Array, y: jax.Array, matrix: jax.Array) -> jax.Array:
    return 0.5 * jnp.sum((y - jnp.matmul(x, matrix.T, precision="highest")) ** 2)

  def converge(x: jax.Array, y: jax.Array, matrix: jax.Array) -> jax.Array:
    step = 1 / jnp.linalg.norm(matrix, 2) ** 2
    method = solvers.fista if net.penalty is prox.lasso else solvers.ista
    solver = method(misfit, net.penalty, stepsize=step)
    tol = 1e-4 * jnp.linalg.norm(y)
    return solvers.run_until(solver, x, net.strength, y, matrix, tol=tol, max_steps=max_steps)[0]

  def solve(data: dict[str, Any]) -> dict[str, Any]:
    def measure(condition: Condition) -> dict[str, Any]:
      batch, matrix = draw(data, condition, shape=shape, signals=signals)
      start, here = jnp.zeros_like(batch.truth), unfolding.Measurements(batch.y, matrix)
      _, trace = unfolding.unfold(net.cell, net.layers(matrix, layers), start, here)
      ends = {"iteration": trace, "converged": converge(start, batch.y, matrix)}
      if continuation:
        plan = unfolding.continuation_layers(matrix, net.strength, num_layers=continuation)
        x, _ = unfolding.unfold(unfolding.hard_threshold_cell, plan, start, here)
        ends["continuation"] = converge(x, batch.y, matrix)
      return {key: measured(net, x, batch, matrix) for key, x in ends.items()}

    return by_name(measure, tests)

  return solve


def solve_all(progress: Any, net: Network, data: Any, *, name: str, **options: Any) -> Any:
  """The classical methods on all rows of ``data``."""
  program = jax.jit(sweeps.sweep(classical(net, **options)))
  return jax.tree.map(np.asarray, progress.clock.call(program, data, name=name))


def rows(seeds: Any, **numbers: float) -> dict[str, np.ndarray]:
  """A row a seed, with the same numbers."""
  seeds = np.asarray(seeds, np.int32)
  return {"seed": seeds} | {k: np.full(len(seeds), v, np.float32) for k, v in numbers.items()}
