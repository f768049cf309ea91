"""What the experiments that train small networks share: seeds as a sweep, settings as a batch."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments._protocol import Progress
from jaxopt_robust import sweeps


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
