"""A sweep that another process runs: ``python -m tests.sweeps.programs STORE OUT [DELAY]``.

Interrupted by SIGINT it goes on in the same process.
"""

import contextlib
import pathlib
import signal
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

import jaxopt_robust as jr

NUM_POINTS, CHUNK = 40, 5


def newton_root(target, shift):
  """Square root by Newton's method: entrywise, and it stops at different times."""

  def step(carry):
    x, count = carry
    return 0.5 * (x + target / x), count + 1

  x, count = jax.lax.while_loop(
    lambda c: (jnp.abs(c[0] ** 2 - target) > 1e-5 * target) & (c[1] < 100),
    step,
    (target + shift, jnp.zeros((), jnp.int32)),
  )
  return {"root": x, "count": count}


def make_grid():
  targets = jnp.geomspace(0.01, 1e8, NUM_POINTS)
  return {"target": targets, "shift": jnp.ones(NUM_POINTS)}


def solve_point(point):
  return newton_root(point["target"], point["shift"])


def main(store: str, out: str, delay: float = 0.0) -> None:
  # Whoever started this process may ignore interrupts, which it would inherit.
  signal.signal(signal.SIGINT, signal.default_int_handler)
  # Slow enough to be killed in the middle: each save waits a little first.
  save = jr.sweeps.store.ChunkStore.save

  def slow_save(self, number, leaves):
    time.sleep(delay)
    save(self, number, leaves)
    print("saved", number, flush=True)

  jr.sweeps.store.ChunkStore.save = slow_save
  result = None
  while result is None:
    try:
      result = jr.sweeps.run(solve_point, make_grid(), store=store, chunk=CHUNK, progress=False)
      signal.signal(signal.SIGINT, signal.SIG_IGN)
    except KeyboardInterrupt:
      with contextlib.suppress(KeyboardInterrupt):  # the next one may come at once
        print("interrupted", flush=True)
  np.savez(pathlib.Path(out), **result.outputs, computed=result.num_computed)


if __name__ == "__main__":
  main(sys.argv[1], sys.argv[2], *map(float, sys.argv[3:]))
