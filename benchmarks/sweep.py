"""256 settings of an early-stopping solve: the sweep, a Python loop, a sharded vmap."""

import os

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from benchmarks import _lasso
from benchmarks._timing import Contender, Row, compiled, first_call
from jaxopt_robust import prox, solvers, sweeps

_LANES = 32  # the fastest of 4, 8, ..., 256 on two cores


def build(size: str) -> Row:
  """The row; strengths over two decades, so that some solves stop far earlier than others."""
  # One device a core, before any device is used; on an accelerator its devices are taken.
  jax.config.update("jax_num_cpu_devices", os.cpu_count() or 1)
  samples, features, points = (20, 30, 16) if size == "toy" else (100, 200, 256)
  x, y = _lasso.make_problem(samples, features)
  largest = np.abs(x.T @ y).max() / samples
  # Easy and hard points are dealt out to the devices like cards; each share stays sorted, so that
  # the solves of a group stop at about the same time.
  dealt = np.argsort(np.arange(points) % len(jax.devices()), kind="stable")
  strengths = jnp.asarray(largest * np.geomspace(0.9, 0.01, points)[dealt], jnp.float32)
  x, y = jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.float32)
  step = float(samples / jnp.linalg.norm(x, 2) ** 2)
  ones = jnp.ones(samples)

  def solve(strength, x, y):
    solver = solvers.fista(_lasso.squared_error, prox.prox_lasso, stepsize=step)
    w, info = solvers.run_until(
      solver, jnp.zeros(features), strength, x, y, ones, tol=1e-4, max_steps=5000
    )
    return w, info.steps

  swept = sweeps.sweep(solve, lanes=_LANES)
  single = jax.jit(solve)
  compile_s = [first_call(single, strengths[0], x, y)]
  compile_s.append(first_call(swept, strengths, shared=(x, y)))
  points_list = list(strengths)
  expected = np.stack([np.asarray(single(s, x, y)[0]) for s in points_list])
  difference = lambda result: float(np.abs(np.asarray(result[0]) - expected).max())

  auto = (jax.sharding.AxisType.Auto,)
  mesh = jax.make_mesh((len(jax.devices()),), ("sweep",), axis_types=auto)
  split = jax.device_put(strengths, NamedSharding(mesh, PartitionSpec("sweep")))
  whole = jax.device_put((x, y), NamedSharding(mesh, PartitionSpec()))
  sharded = jax.jit(jax.vmap(solve, in_axes=(0, None, None)))

  def loop():
    results = [single(s, x, y) for s in points_list]
    jax.block_until_ready(results)
    return np.stack([np.asarray(w) for w, _ in results]), None

  return Row(
    name="sweep",
    work=f"{points} Lasso solves of {samples} x {features} on {len(jax.devices())} devices",
    contenders=[
      Contender(
        f"jaxopt_robust: sweep, {_LANES} lanes",
        lambda: jax.block_until_ready(swept(strengths, shared=(x, y))),
        ours=True,
        compile_s=compile_s[1],
        accuracy=difference,
      ),
      Contender(
        "a Python loop of jitted solves", loop, compile_s=compile_s[0], accuracy=difference
      ),
      compiled("a vmap on a sharded grid", sharded, split, *whole, accuracy=difference),
    ],
    accuracy="largest difference from the loop",
    bound=1e-2,
    note="against the loop alone the goal is 0.2",
  )
