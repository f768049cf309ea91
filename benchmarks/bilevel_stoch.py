"""Steps of single-loop stochastic bilevel methods, against the same formulas in plain JAX."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks._timing import Row, compiled
from jaxopt_robust import bilevel
from jaxopt_robust.bilevel import BilevelBatch, BilevelVariables

CLASSES, RATES = 10, (10.0, 0.5, 0.5)  # of x, y and v
Data = tuple[tuple[jax.Array, ...], tuple[jax.Array, ...]]


def inner(w: jax.Array, weights: jax.Array, batch: Any) -> jax.Array:
  """Weighted cross entropy of a batch of rows with a ridge term."""
  x, y, rows = batch
  losses = optax.softmax_cross_entropy_with_integer_labels(x @ w, y)
  return jnp.mean(jax.nn.sigmoid(weights[rows]) * losses) + 1e-3 * jnp.sum(w**2)


def outer(w: jax.Array, weights: jax.Array, batch: Any) -> jax.Array:
  """Cross entropy of a batch of other rows."""
  del weights
  return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(batch[0] @ w, batch[1]))


def pick(data: Data, index: tuple[jax.Array, jax.Array]) -> BilevelBatch:
  """The batches that a step names."""
  parts = [tuple(a[i] for a in part) for part, i in zip(data, index, strict=True)]
  return BilevelBatch(*parts, *index)


def ours(method: Any) -> Callable[..., BilevelVariables]:
  """The package's method as one scan."""
  solver = bilevel.stochastic_bilevel(method, BilevelVariables(*map(optax.sgd, RATES)))

  def run(start: BilevelVariables, indices: Any, data: Data) -> BilevelVariables:
    state = solver.init(start, None, pick(data, (indices[0][0], indices[1][0])))
    step = lambda state, index: (solver.step(state, None, pick(data, index))[0], None)
    return jax.lax.scan(step, state, indices)[0].params

  return run


def gradients(z: BilevelVariables, batch: BilevelBatch) -> tuple[tuple, tuple]:
  """What one batch of each objective gives to the three directions."""
  x, y, v = z
  slope, pull = jax.vjp(lambda y, x: jax.grad(inner)(y, x, batch.inner), y, x)
  product, cross = pull(v)
  outer_y, outer_x = jax.grad(outer, argnums=(0, 1))(y, x, batch.outer)
  return (-cross, slope, product), (outer_x, jnp.zeros_like(y), -outer_y)


def move(z: Any, directions: Any) -> BilevelVariables:
  """Gradient steps."""
  return BilevelVariables(*(a - r * d for a, r, d in zip(z, RATES, directions, strict=True)))


def plain_soba(start: BilevelVariables, indices: Any, data: Data) -> BilevelVariables:
  """SOBA written down for these two losses."""

  def step(z: BilevelVariables, index: Any) -> Any:
    first, second = gradients(z, pick(data, index))
    return move(z, [a + b for a, b in zip(first, second, strict=True)]), None

  return jax.lax.scan(step, start, indices)[0]


def plain_saba(start: BilevelVariables, indices: Any, data: Data) -> BilevelVariables:
  """SABA written down: a table of batches for each direction, and its mean."""
  zeros = lambda *lead: tuple(jnp.zeros((*lead, *a.shape)) for a in start)
  tables = tuple((zeros(len(part[0])), zeros()) for part in data)

  def step(carry: Any, index: Any) -> Any:
    z, tables = carry
    total, new = [0.0, 0.0, 0.0], []
    found = gradients(z, pick(data, index))
    for directions, (rows, means), i in zip(found, tables, index, strict=True):
      changes = [d - table[i] for d, table in zip(directions, rows, strict=True)]
      total = [t + c + m for t, c, m in zip(total, changes, means, strict=True)]
      count = rows[0].shape[0]
      rows = tuple(table.at[i].set(d) for d, table in zip(directions, rows, strict=True))
      new.append((rows, tuple(m + c / count for m, c in zip(means, changes, strict=True))))
    return (move(z, total), tuple(new)), None

  return jax.lax.scan(step, (start, tables), indices)[0][0]


def build(size: str) -> Row:
  """The row: SOBA and then SABA, the same batches for both sides."""
  toy = size == "toy"
  steps, batch, features, counts = (5, 4, 8, (3, 2)) if toy else (2000, 64, 784, (16, 8))
  rng = np.random.default_rng(0)

  def batches(count: int) -> tuple[jax.Array, ...]:
    x = rng.standard_normal((count, batch, features)).astype(np.float32)
    y = rng.integers(0, CLASSES, (count, batch)).astype(np.int32)
    return jnp.asarray(x), jnp.asarray(y)

  rows = jnp.arange(counts[0] * batch, dtype=jnp.int32).reshape(counts[0], batch)
  data = (*batches(counts[0]), rows), batches(counts[1])
  indices = tuple(jnp.asarray(rng.integers(0, n, steps).astype(np.int32)) for n in counts)
  zero = jnp.zeros((features, CLASSES))
  start = BilevelVariables(jnp.zeros(counts[0] * batch), zero, zero)
  soba = bilevel.soba_directions(inner, outer)
  saba = bilevel.saga(soba, num_inner=counts[0], num_outer=counts[1])

  def pair(first: Callable, second: Callable) -> Any:
    return jax.jit(lambda *args: (first(*args), second(*args)))

  wanted = jax.device_get(pair(plain_soba, plain_saba)(start, indices, data))

  def distance(result: Any) -> float:
    """Largest relative difference between the two sides' variables."""
    pairs = zip(jax.tree.leaves(jax.device_get(result)), jax.tree.leaves(wanted), strict=True)
    return max(float(np.abs(a - b).max() / np.abs(b).max()) for a, b in pairs)

  return Row(
    name="bilevel_stoch",
    work=f"{steps} steps of SOBA and of SABA, batches of {batch} x {features}, {CLASSES} classes, "
    f"{counts[0] * batch} weights",
    contenders=[
      compiled("jaxopt_robust: soba_directions, saga", pair(ours(soba), ours(saba)), start, indices,
               data, ours=True, accuracy=distance),
      compiled("the same formulas in plain JAX", pair(plain_soba, plain_saba), start, indices,
               data, accuracy=distance),
    ],
    accuracy="largest relative difference from the plain formulas",
    bound=1e-2,
    note="The peer is the benchmark's own code: what is measured is the cost of composition.",
  )  # fmt: skip
