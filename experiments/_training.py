"""What the experiments that train small networks share: seeds as a sweep, settings as a batch."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments._protocol import Progress
from jaxopt_robust import sweeps


class Fitted(NamedTuple):
  """A training run.

  Attributes:
    params: parameters after the best epoch, or after the last one where there is no score.
    state: state of the loss at the same time.
    history: what ``evaluate`` returned, with a leading axis of epochs.
    best: int32, the epoch (from 0) that params belong to.
  """

  params: Any
  state: Any
  history: Any
  best: jax.Array


def stack(trees: Sequence[Any]) -> Any:
  """Pytrees of one structure as one pytree with a new leading axis."""
  return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def batches(num: int, batch: int, epochs: int, seed: int) -> np.ndarray:
  """Rows of every minibatch, int32[epochs, steps, batch]: each epoch a new order, the rest dropped.

  Drawn here, once for all programs, since a sort inside each of them takes long to compile.
  """
  rng, steps = np.random.default_rng(seed), num // batch
  orders = [rng.permutation(num)[: steps * batch] for _ in range(epochs)]
  return np.stack(orders).reshape(epochs, steps, batch).astype(np.int32)


def schedule(kind: str, total: int) -> Callable[[jax.Array], jax.Array]:
  """Factor of the learning rate: constant, cosine to 0, or a tenth at 1/2 and again at 3/4.

  Args:
    kind: ``"constant"``, ``"cosine"`` or ``"steps"``.
    total: number of updates.
  """
  if kind == "constant":
    return optax.constant_schedule(1.0)
  if kind == "cosine":
    return optax.cosine_decay_schedule(1.0, total)
  if kind == "steps":
    return optax.piecewise_constant_schedule(1.0, {total // 2: 0.1, 3 * total // 4: 0.1})
  raise ValueError(f"schedule must be 'constant', 'cosine' or 'steps'; got {kind!r}.")


def fit(
  objective: Callable[[Any, Any, jax.Array], tuple[jax.Array, Any]],
  params: Any,
  rows: jax.Array,
  optimizer: optax.GradientTransformation,
  *,
  state: Any = None,
  evaluate: Callable[[Any, Any], Any],
  score: Callable[[Any], jax.Array] | None = None,
) -> Fitted:
  """One training run, to be mapped over settings and seeds.

  Args:
    objective: ``(params, state, batch_rows) -> (value, state)``.
    params: initial parameters.
    rows: int32[epochs, steps, batch], rows of the minibatches.
    optimizer: any optax chain; learning rates may be traced.
    state: state of the objective, such as moving averages of examples.
    evaluate: ``(params, state) -> pytree`` after each epoch.
    score: of an evaluation, higher is better: the parameters of the best epoch are kept (the first
      of equals), chosen on validation data. Without it those of the last epoch are returned.

  Returns:
    ``Fitted``.
  """

  def step(carry: tuple, batch: jax.Array) -> tuple[tuple, None]:
    params, opt_state, state = carry
    grads, state = jax.grad(objective, has_aux=True)(params, state, batch)
    updates, opt_state = optimizer.update(grads, opt_state, params)
    return (optax.apply_updates(params, updates), opt_state, state), None

  def epoch(carry: tuple, batch: jax.Array) -> tuple[tuple, Any]:
    run, kept, best, top, count = carry
    run, _ = jax.lax.scan(step, run, batch)
    now = (run[0], run[2])
    seen = evaluate(*now)
    value = jnp.asarray(count if score is None else score(seen), jnp.float32)
    better = value > top
    kept = jax.tree.map(lambda new, old: jnp.where(better, new, old), now, kept)
    best = jnp.where(better, count, best)
    return (run, kept, best, jnp.where(better, value, top), count + 1), seen

  zero = jnp.zeros((), jnp.int32)
  first = ((params, optimizer.init(params), state), (params, state), zero, -jnp.inf, zero)
  (_, kept, best, _, _), history = jax.lax.scan(epoch, first, rows)
  return Fitted(*kept, history, best)


def train_all(
  progress: Progress,
  train: Callable[[Any, Any], Any],
  settings: Any,
  data: Any,
  *,
  name: str,
) -> Any:
  """Every setting on every seed, in one compiled program.

  The settings of one seed are a batch, so that products with the seed's common minibatch become one
  large matrix product; the seeds are a sweep over the devices.

  Args:
    progress: books the time of the program under ``name``.
    train: ``train(setting, data) -> pytree``, one run.
    settings: pytree of arrays, one row a setting.
    data: pytree of arrays, one row a seed.
    name: for the record.

  Returns:
    pytree of NumPy arrays with the axes (seeds, settings, ...).
  """

  def all_settings(data: Any, settings: Any) -> Any:
    return jax.vmap(train, in_axes=(0, None))(settings, data)

  over_seeds = sweeps.sweep(all_settings)
  program = jax.jit(lambda data, settings: over_seeds(data, shared=(settings,)))
  return jax.tree.map(np.asarray, progress.clock.call(program, data, settings, name=name))


def train_seeds(
  progress: Progress,
  train: Callable[[Any, Any], Any],
  settings: Any,
  data: Any,
  *,
  name: str,
) -> Any:
  """``train_all``, but one seed after another: with convolutions a batch of them is no faster."""

  @jax.jit
  def program(data: Any, settings: Any) -> Any:
    one = lambda each: jax.vmap(train, in_axes=(0, None))(settings, each)
    return jax.lax.map(one, data)

  return jax.tree.map(np.asarray, progress.clock.call(program, data, settings, name=name))


def train_each(
  progress: Progress,
  train: Callable[[Any, Any], Any],
  settings: Any,
  data: Sequence[Any],
  *,
  name: str,
) -> Any:
  """``train_all``, but one run after another: one program, called for every setting and seed.

  On a CPU this is the faster way where a single run keeps it busy, and the leaner one: no batch of
  all runs is held in memory.

  Args:
    progress: as in ``train_all``.
    train: as in ``train_all``.
    settings: as in ``train_all``.
    data: one pytree of arrays a seed, of equal shapes.
    name: as in ``train_all``.

  Returns:
    pytree of NumPy arrays with the axes (seeds, settings, ...).
  """
  program = jax.jit(train)
  count = len(jax.tree.leaves(settings)[0])
  runs = [
    progress.clock.call(program, jax.tree.map(lambda v, i=i: v[i], settings), one, name=name)
    for one in data
    for i in range(count)
  ]
  shape = len(data), count
  join = lambda *leaves: np.stack(leaves).reshape(*shape, *np.shape(leaves[0]))
  return jax.tree.map(join, *runs)


def grid(**axes: Sequence[float]) -> tuple[dict[str, np.ndarray], tuple[int, ...]]:
  """All combinations of some values, the last axis fastest, as one array a name, and the shape.

  Integers stay int32; other numbers become float32.
  """
  shape = tuple(len(values) for values in axes.values())
  places = [place.ravel() for place in np.indices(shape)]
  columns = {}
  for (name, values), place in zip(axes.items(), places, strict=True):
    array = np.asarray(values)
    columns[name] = array.astype(np.int32 if array.dtype.kind in "iu" else np.float32)[place]
  return columns, shape
