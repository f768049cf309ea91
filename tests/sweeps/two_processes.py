"""One of two processes on loopback: ``python -m tests.sweeps.two_processes PORT RANK OUT``."""

import sys

import jax


def main(port: str, rank: str, folder: str) -> None:
  jax.config.update("jax_num_cpu_devices", 2)
  jax.config.update("jax_cpu_collectives_implementation", "gloo")
  jax.distributed.initialize(f"127.0.0.1:{port}", num_processes=2, process_id=int(rank))
  import jax.numpy as jnp
  import numpy as np

  import jaxopt_robust as jr
  from tests.sweeps.programs import make_grid, solve_point
  from tests.sweeps.test_sweep import solve_lasso

  assert jax.device_count() == 4 and jax.local_device_count() == 2
  entrywise = jr.sweeps.gather(jr.sweeps.sweep(solve_point)(make_grid()))
  strengths = jnp.asarray(np.geomspace(0.01, 1.0, 11), jnp.float32)
  rng = np.random.default_rng(0)
  x = jnp.asarray(rng.standard_normal((40, 20)), jnp.float32)
  y = x[:, :5].sum(axis=1)
  lasso = jr.sweeps.gather(jr.sweeps.sweep(solve_lasso, lanes=2)(strengths, shared=(x, y)))
  keys = jr.sweeps.gather(
    jr.sweeps.sweep(jax.random.uniform)(jax.random.split(jax.random.key(0), 7))
  )
  stored = jr.sweeps.run(solve_point, make_grid(), store=f"{folder}/store", chunk=8, progress=False)
  again = jr.sweeps.run(solve_point, make_grid(), store=f"{folder}/store", chunk=8, progress=False)
  assert (stored.num_restored, again.num_computed) == (0, 0)
  np.savez(
    f"{folder}/out{rank}.npz",
    root=entrywise["root"],
    count=entrywise["count"],
    lasso=lasso[0],
    steps=lasso[1].steps,
    uniform=keys,
    stored=stored.outputs["root"],
    again=again.outputs["root"],
  )


if __name__ == "__main__":
  main(*sys.argv[1:])
