"""Training steps of unfolded ISTA: one scan, a Python loop over the layers, and PyTorch."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks._timing import Contender, Row, compiled, first_call, peer
from jaxopt_robust import unfolding
from jaxopt_robust.numerics import soft_threshold

LAYERS, STEPS, STRENGTH, RATE = 16, 10, 0.1, 1e-3


def problem(size: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """A matrix, and signals with their measurements for every step."""
  rows, columns, batch = (16, 32, 8) if size == "toy" else (250, 500, 128)
  rng = np.random.default_rng(0)
  matrix = rng.standard_normal((rows, columns)) / np.sqrt(rows)
  active = rng.random((STEPS, batch, columns)) < 0.1
  truth = active * rng.standard_normal((STEPS, batch, columns))
  y = truth @ matrix.T + 0.01 * rng.standard_normal((STEPS, batch, rows))
  return tuple(v.astype(np.float32) for v in (matrix, truth, y))  # type: ignore[return-value]


def scanned(layers: Any, y: jax.Array, matrix: jax.Array) -> jax.Array:
  """Ours: the layers are one scan."""
  start = jnp.zeros((y.shape[0], matrix.shape[1]), y.dtype)
  data = unfolding.Measurements(y, matrix)
  return unfolding.unfold(unfolding.ista_cell, layers, start, data)[0]


def looped(layers: Any, y: jax.Array, matrix: jax.Array) -> jax.Array:
  """The same formula in plain JAX: every layer is traced."""
  x = jnp.zeros((y.shape[0], matrix.shape[1]), y.dtype)
  for k in range(LAYERS):
    x = soft_threshold(x + layers.step[k] * ((y - x @ matrix.T) @ matrix), layers.threshold[k])
  return x


def trainer(network: Any, layers: Any, data: Any, name: str, **options: Any) -> Contender:
  """Ten steps of Adam on the mean squared error, one scan over the batches."""
  tx = optax.adam(RATE)

  def run(layers: Any, matrix: jax.Array, truth: jax.Array, y: jax.Array) -> Any:
    def step(carry: Any, batch: Any) -> Any:
      layers, state = carry
      loss = lambda l: jnp.mean((network(l, batch[1], matrix) - batch[0]) ** 2)
      value, grads = jax.value_and_grad(loss)(layers)
      updates, state = tx.update(grads, state, layers)
      return (optax.apply_updates(layers, updates), state), value

    (layers, _), values = jax.lax.scan(step, (layers, tx.init(layers)), (truth, y))
    return layers, values

  return compiled(name, jax.jit(run), layers, *data, **options)


def build(size: str) -> Row:
  """The row; compile times stand beside the times of the steps."""
  arrays = problem(size)
  data = tuple(map(jnp.asarray, arrays))
  layers = unfolding.ista_layers(data[0], STRENGTH, num_layers=LAYERS)
  first = np.asarray(layers.step), np.asarray(layers.threshold)
  # A warm-up, so that nobody's compile time holds that of the machinery.
  jax.block_until_ready(jax.jit(lambda l: scanned(l, data[2][0], data[0]))(layers))
  loop = trainer(looped, layers, data, "plain JAX: a loop over the layers")
  reference = np.asarray(loop.run()[1])

  def gap(values: Any) -> float:
    return float(np.max(np.abs(np.asarray(values) / reference - 1)))

  loop.accuracy = lambda result: gap(result[1])
  scan = trainer(scanned, layers, data, "jaxopt_robust: one scan", ours=True)
  scan.accuracy = loop.accuracy
  contenders = [scan, loop, *pytorch(arrays, first, gap)]
  rows, columns = arrays[0].shape
  return Row(
    name="unfold_train",
    work=f"{STEPS} Adam steps of {LAYERS}-layer unfolded ISTA, {rows} x {columns}, batch "
    f"{arrays[1].shape[1]}",
    contenders=contenders,
    accuracy="losses of the steps, relative to the loop's",
    bound=1e-3,
    note="The compile column is what the scan is for: a loop's grows with its layers.",
  )


def pytorch(arrays: Any, first: Any, gap: Any) -> list[Contender]:
  """The same network, where PyTorch is installed."""
  torch = peer("torch")
  if torch is None:
    return []
  matrix, truth, y = (torch.from_numpy(v) for v in arrays)

  def network(step: Any, threshold: Any, y: Any) -> Any:
    x = torch.zeros((y.shape[0], matrix.shape[1]))
    for k in range(LAYERS):
      x = x + step[k] * ((y - x @ matrix.T) @ matrix)
      x = torch.sign(x) * torch.relu(torch.abs(x) - threshold[k])
    return x

  def run() -> Any:
    step, threshold = (torch.nn.Parameter(torch.tensor(v)) for v in first)
    adam, values = torch.optim.Adam([step, threshold], lr=RATE), []
    for i in range(STEPS):
      adam.zero_grad()
      value = torch.mean((network(step, threshold, y[i]) - truth[i]) ** 2)
      value.backward()
      adam.step()
      values.append(value.item())
    return np.array(values)

  return [Contender("PyTorch, eager", run, compile_s=first_call(run), accuracy=gap)]
