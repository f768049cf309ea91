"""What the experiments on matrix recovery share: grids of runs on one operator a seed."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import _figures, _statistics
from experiments._protocol import Progress
from jaxopt_robust import recovery, solvers, sweeps

CURVE_POINTS = 100  # of a curve in a record
FLOOR = 1e-16  # of an error, for logarithms
FREE, GEOMETRIC, CONSTANT = range(3)  # step rules of ``Sensing``


class Sensing(NamedTuple):
  """One run of robust sensing of a positive semidefinite matrix; all of it may be traced.

  Attributes:
    rank: of the truth, whose singular values are 1.
    width: columns of the factor.
    alpha: scale of the start.
    spectral: whether the start comes from the signs of the measurements or is random.
    rule: FREE (``residual_proportional``), GEOMETRIC or CONSTANT steps.
    number: decay of geometric steps, or the constant step.
    rate: fraction of gross errors.
    scale: their standard deviation.
    noise: standard deviation of dense Gaussian noise.
    size: measurements that are used; all by default.
    eta0: first normalised step.
  """

  rank: Any
  width: Any
  alpha: Any
  spectral: Any = True
  rule: Any = FREE
  number: Any = 0.5
  rate: Any = 0.0
  scale: Any = 0.0
  noise: Any = 0.0
  size: Any = 2**30
  eta0: Any = 0.25


class Recovered(NamedTuple):
  """Loss and error ||X - X*||_F along a run, and the loss of the truth."""

  value: jax.Array
  err: jax.Array
  truth_loss: jax.Array


@functools.cache  # grids of equal sizes share one program
def sensing_program(num: int, dim: int, steps: int, *, squared: bool = False) -> Any:
  """``program(settings, key) -> Recovered``, a row a setting, spread over the devices.

  The key alone decides on the operator, the errors' places and directions, and the truth.

  Args:
    num: measurements.
    dim: rows and columns of the matrix.
    steps: of a run.
    squared: gradient descent on the squared loss, with constant steps, instead of SubGM.
  """

  def solve(setting: Sensing, key: jax.Array) -> Recovered:
    names = ("operator", "truth", "where", "gross", "noise", "start")
    keys = dict(zip(names, jax.random.split(key, len(names)), strict=True))
    stored = recovery.make_gaussian_sensing(keys["operator"], num, dim, dim)
    columns = jnp.arange(dim)
    basis = jnp.linalg.qr(jax.random.normal(keys["truth"], (dim, dim)))[0]
    left = jnp.where(columns < setting.rank, basis, 0)
    truth = jnp.matmul(left, left.T, precision="highest")
    wrong = jax.random.uniform(keys["where"], (num,)) < setting.rate
    gross = jnp.where(wrong, setting.scale * jax.random.normal(keys["gross"], (num,)), 0)
    corruption = gross + setting.noise * jax.random.normal(keys["noise"], (num,))
    y = stored.apply(truth) + corruption
    keep = jnp.arange(num) < setting.size
    op = recovery.Subset(stored, keep)
    signs = recovery.sign_spectral(op, y, dim, alpha=setting.alpha).L
    random = recovery.random_small(keys["start"], dim, dim, alpha=setting.alpha).L
    start = jnp.where(setting.spectral, signs, random)
    # A column that is 0 stays 0, so that the width is data.
    factors = recovery.Factors(jnp.where(columns < setting.width, start, 0), None)
    if squared:
      loss = recovery.squared_value_grad
      solver = recovery.subgradient_method(optax.sgd, value_and_subgrad=loss)
      data = (op, y, truth)
      _, trace = solvers.run_steps(solver, factors, setting.number, *data, num_steps=steps)
    else:
      rules = (
        recovery.residual_proportional(eta0=setting.eta0),
        recovery.q_normalized_geometric(eta0=setting.eta0, rho=setting.number),
        optax.with_extra_args_support(optax.sgd(setting.number)),
      )
      tx = pick_rule(setting.rule, rules)
      _, trace = recovery.subgm(op, y, factors, tx=tx, num_steps=steps, truth=truth)
    return Recovered(trace.value, trace.err, jnp.mean(jnp.abs(corruption), where=keep))

  mapped = sweeps.sweep(solve)
  return jax.jit(lambda settings, key: mapped(settings, shared=(key,)))


def pick_rule(index: Any, rules: Sequence[Any]) -> optax.GradientTransformationExtraArgs:
  """The step rule with a number that is data: all run, one is taken, so one program serves all."""

  def init(params: Any) -> tuple:
    return tuple(rule.init(params) for rule in rules)

  def update(updates: Any, state: tuple, params: Any = None, **extra: Any) -> tuple:
    found = [rule.update(updates, s, params, **extra) for rule, s in zip(rules, state, strict=True)]
    taken = jax.tree.map(lambda *u: jnp.stack(u)[index], *(u for u, _ in found))
    return taken, tuple(s for _, s in found)

  return optax.GradientTransformationExtraArgs(init, update)


def run_all(
  progress: Progress,
  seeds: Sequence[int],
  lanes: int,
  program: Callable[..., Any],
  settings: Sequence[Any],
  *,
  name: str,
) -> Any:
  """Every setting on every seed.

  The runs of one seed share their operator, so that a step reads it once for ``lanes`` of them.

  Args:
    progress: books the time under ``name``.
    seeds: numbers of the keys.
    lanes: runs at a time; the last group is padded by its last run.
    program: jitted ``program(settings, key) -> outputs``, a row a setting; groups of one shape
      compile once.
    settings: pytrees of numbers, one a run.
    name: for the record.

  Returns:
    pytree of NumPy arrays with the axes (seeds, settings, ...).
  """
  groups = []
  for first in range(0, len(settings), lanes):
    part = list(settings[first : first + lanes])
    part += [part[-1]] * (lanes - len(part))
    groups.append(jax.tree.map(lambda *leaves: np.stack(leaves), *part))
  found = []
  for seed in progress.track(seeds, name, total=len(seeds)):
    key = jax.random.key(seed)
    parts = [progress.clock.call(program, group, key, name=name) for group in groups]
    joined = jax.tree.map(lambda *leaves: np.concatenate(list(map(np.asarray, leaves))), *parts)
    found.append(jax.tree.map(lambda leaf: leaf[: len(settings)], joined))
  return jax.tree.map(lambda *leaves: np.stack(leaves), *found)


def thin(curves: Any, points: int = CURVE_POINTS) -> dict[str, Any]:
  """Iteration numbers and the values there: a few, denser at the beginning, of the last axis."""
  curves = np.asarray(curves)
  index = np.unique(np.geomspace(1, curves.shape[-1], points).astype(int)) - 1
  return {"x": index + 1, "y": curves[..., index]}


def middle(errors: Any) -> Any:
  """Geometric mean over the seeds, the first axis."""
  return np.exp(np.mean(np.log(np.maximum(np.asarray(errors, float), FLOOR)), axis=0))


def best(choices: list[_statistics.Choice], name: str, values: Sequence[float], errors: Any) -> int:
  """Place of the value with the least geometric mean of the errors [seeds, values], booked."""
  choices.append(_statistics.choose(name, values, middle(errors), better="lower"))
  return list(values).index(choices[-1].chosen)


def curves(ax: Any, found: dict[str, Any], **options: Any) -> None:
  """Draws curves that ``thin`` made, by name."""
  xs, ys = ({name: curve[axis] for name, curve in found.items()} for axis in ("x", "y"))
  _figures.curves(ax, ys, xs, xlabel="iteration", **options)


def best_of_rank(matrix: np.ndarray, rank: int) -> np.ndarray:
  """Principal components: the best approximation in squared error."""
  u, s, vt = np.linalg.svd(matrix, full_matrices=False)
  return (u[:, :rank] * s[:rank]) @ vt[:rank]


def f1_score(found: np.ndarray, wanted: np.ndarray) -> float:
  """2 TP / (2 TP + FP + FN) of two supports; 0 where both are empty."""
  return float(2 * np.sum(found & wanted) / max(np.sum(found) + np.sum(wanted), 1))


def rounds_to(errors: Any, target: float) -> np.ndarray:
  """Rounds until errors [..., rounds] are below the target, interpolated in the logarithm.

  At least 1; NaN where a run does not get there.
  """
  logs = np.log(np.maximum(np.asarray(errors, float), FLOOR)) - np.log(target)
  below = logs < 0
  at = np.argmax(below, axis=-1)
  take = lambda index: np.take_along_axis(logs, index[..., None], axis=-1)[..., 0]
  last, before = take(at), take(np.maximum(at - 1, 0))
  part = np.where(at > 0, last / np.where(at > 0, last - before, 1), 0)
  return np.where(below.any(axis=-1), at + 1 - part, np.nan)


def slope(x: Any, values: Any) -> np.ndarray:
  """Power of x with which positive values [cases, seeds] grow, a number a seed."""
  return np.polyfit(np.log(np.asarray(x, float)), np.log(np.asarray(values, float)), 1)[0]


def completion_problem(
  seed: int,
  shape: tuple[int, int],
  rank: int,
  entries: int,
  *,
  condition: float | None = None,
  room: int | None = None,
) -> tuple[recovery.EntryCOO, np.ndarray, np.ndarray]:
  """Operator, values and truth: Gaussian factors, positions uniform without repetition.

  Args:
    seed: of factors and positions.
    shape: of the matrix.
    rank: of the matrix.
    entries: number of observed entries.
    condition: condition number of orthonormal factors with evenly spaced singular values instead.
    room: entries that are listed, of which those beyond ``entries`` weigh 0: one program for all.
  """
  rng = np.random.default_rng(seed)
  left, right = (rng.standard_normal((n, rank)) for n in shape)
  if condition is not None:
    left, right = (np.linalg.qr(factor)[0] for factor in (left, right))
    left = left * np.linspace(condition, 1, rank)
  truth = left @ right.T
  flat = rng.choice(truth.size, room or entries, replace=False)
  flat[:entries].sort()  # neighbours in memory
  rows, cols = (index.astype(np.int32) for index in np.divmod(flat, shape[1]))
  weight = (np.arange(flat.size) < entries).astype(float)
  return recovery.EntryCOO(rows, cols, shape, weight), weight * truth[rows, cols], truth


def altmin_work(
  solver: str, shape: tuple[int, int], rank: int, entries: int, *, sketch: int = 4, inner: int = 3
) -> float:
  """Multiplications of a round of ``recovery.altmin_complete``, both half steps, leading order.

  With E entries and n = rows + columns, exact half steps take 2 E k^2 for the Gram matrices,
  2 E 6 k for the right sides and two refinements, n k^3 / 6 for Cholesky. Sketched ones take 2 E k
  for the sketches, 2 E 2 k for each product with the entries (one each conjugate gradient, at the
  start and at the end), and the QR of sketches and shifts.

  Args:
    solver: ``"exact"`` or ``"pcg"``.
    shape: of the matrix.
    rank: k.
    entries: E, observed.
    sketch: rows of a sketch, in ranks.
    inner: conjugate gradients of a half step.
  """
  if solver == "exact":
    return 2 * entries * (rank**2 + 6 * rank) + sum(shape) * rank**3 / 6
  return 2 * entries * rank * (1 + 2 * (inner + 2)) + sum(shape) * (sketch + 4 / 3) * rank**3
