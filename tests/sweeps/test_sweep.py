"""Sweeps equal vmap bit for bit: every backend, odd sizes, unequal stopping times."""

import os
import pathlib
import socket
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType

import jaxopt_robust as jr
from tests.sweeps.programs import make_grid, solve_point

ROOT = pathlib.Path(__file__).parents[2]


def solve_lasso(strength, x, y):
  """A solve with a shared matrix: its rounding depends on how many points go at once."""
  fun = lambda b, x, y: 0.5 * jnp.mean((x @ b - y) ** 2)
  solver = jr.solvers.fista(fun, jr.prox.prox_lasso, stepsize=0.3)
  return jr.solvers.run_until(
    solver, jnp.zeros(x.shape[1], x.dtype), strength, x, y, tol=1e-4, max_steps=300
  )


def lasso_data():
  rng = np.random.default_rng(0)
  x = jnp.asarray(rng.standard_normal((40, 20)), jnp.float32)
  return x, x[:, :5].sum(axis=1)


def assert_equal_bits(a, b):
  for left, right in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
    np.testing.assert_array_equal(np.asarray(left), np.asarray(right))


def rows(tree, stop):
  return jax.tree.map(lambda leaf: leaf[:stop], tree)


@pytest.mark.parametrize("backend", ["shard_map", "vmap", "pmap"])
@pytest.mark.parametrize("size", [1, 3, 8, 11, 40])
def test_every_backend_equals_plain_vmap(backend, size):
  assert jax.device_count() == 8
  grid = rows(make_grid(), size)
  expected = jax.jit(jax.vmap(solve_point))(grid)
  got = jr.sweeps.sweep(solve_point, backend=backend)(grid)
  assert_equal_bits(got, expected)
  if size == 40:
    assert len(set(np.asarray(got["count"]).tolist())) > 5, "the solves must stop at unequal times"


@pytest.mark.parametrize("size", [1, 5, 8, 11, 17])
def test_lanes_fix_the_bits_of_solves_with_a_shared_matrix(size):
  data = lasso_data()
  strengths = jnp.asarray(np.geomspace(0.01, 1.0, size), jnp.float32)
  single = jr.sweeps.sweep(solve_lasso, backend="vmap", lanes=2)(strengths, shared=data)
  for backend in ("shard_map", "pmap"):
    spread = jr.sweeps.sweep(solve_lasso, backend=backend, lanes=2)(strengths, shared=data)
    assert_equal_bits(spread, single)
  assert single[1].status.tolist() == [0] * size
  if size == 17:
    assert len(set(single[1].steps.tolist())) > 5


def test_without_lanes_a_shared_matrix_agrees_to_rounding():
  data = lasso_data()
  strengths = jnp.asarray(np.geomspace(0.01, 1.0, 13), jnp.float32)
  single, _ = jr.sweeps.sweep(solve_lasso, backend="vmap")(strengths, shared=data)
  spread, _ = jr.sweeps.sweep(solve_lasso)(strengths, shared=data)
  # Stopped at a gradient mapping of 1e-4; a different rounding may move the stop by one step.
  np.testing.assert_allclose(spread, single, atol=1e-4)


def test_a_mesh_of_some_devices_and_typed_keys():
  mesh = jax.make_mesh((3,), ("points",), axis_types=(AxisType.Auto,), devices=jax.devices()[:3])
  keys = jax.random.split(jax.random.key(1), 7)
  mapped = jr.sweeps.sweep(
    lambda k, s: s * jax.random.normal(k, (2,)), mesh=mesh, axis_name="points"
  )
  scales = jnp.arange(1.0, 8.0)
  expected = jax.jit(jax.vmap(lambda k, s: s * jax.random.normal(k, (2,))))(keys, scales)
  assert_equal_bits(mapped(keys, scales), expected)


def test_a_small_grid_occupies_as_many_devices_as_it_has_points():
  out = jr.sweeps.sweep(lambda x: x + 1)(jnp.arange(3.0))
  assert len(out.sharding.device_set) == 3
  grouped = jr.sweeps.sweep(lambda x: x + 1, lanes=2)(jnp.arange(4.0))
  assert len(grouped.sharding.device_set) == 2


def test_the_default_device_chooses_the_platform():
  with jax.default_device(jax.devices("cpu")[1]):
    assert set(jr.sweeps.make_sweep_mesh().devices.flat) == set(jax.devices("cpu"))
    assert jr.sweeps.sweep(lambda x: x + 1)(jnp.arange(3.0)).tolist() == [1.0, 2.0, 3.0]


def test_one_compile_serves_all_grids_of_a_size():
  counted = jr.debug.count_traces(solve_point)
  mapped = jr.sweeps.sweep(counted)
  grid = make_grid()
  mapped(grid)
  traces = counted.traces
  mapped({"target": grid["target"] * 2, "shift": grid["shift"]})
  assert counted.traces == traces


def test_a_sweep_can_be_jitted_and_differentiated():
  mapped = jr.sweeps.sweep(lambda a, b: a * b**2)
  total = jax.jit(lambda b: mapped(jnp.arange(1.0, 4.0), shared=(b,)).sum())
  np.testing.assert_allclose(jax.grad(total)(2.0), 6 * 2 * 2.0)


def test_product_grid_is_row_major():
  grid = jr.sweeps.product_grid(
    a=jnp.arange(2), b=jnp.arange(3.0), key=jax.random.split(jax.random.key(0), 2)
  )
  assert grid["a"].tolist() == [0] * 6 + [1] * 6
  assert grid["b"].tolist() == [0, 0, 1, 1, 2, 2] * 2
  assert grid["key"].shape == (12,)


@pytest.mark.slow
def test_two_processes_equal_one(tmp_path):
  with socket.socket() as s:
    s.bind(("127.0.0.1", 0))
    port = s.getsockname()[1]
  env = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
  workers = [
    subprocess.Popen(
      [sys.executable, "-m", "tests.sweeps.two_processes", str(port), str(rank), str(tmp_path)],
      cwd=ROOT,
      env=env,
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      text=True,
    )
    for rank in range(2)
  ]
  logs = [worker.communicate(timeout=240)[0] for worker in workers]
  assert [worker.returncode for worker in workers] == [0, 0], "\n".join(logs)

  expected = jax.jit(jax.vmap(solve_point))(make_grid())
  strengths = jnp.asarray(np.geomspace(0.01, 1.0, 11), jnp.float32)
  lasso, info = jr.sweeps.sweep(solve_lasso, backend="vmap", lanes=2)(
    strengths, shared=lasso_data()
  )
  uniform = jax.vmap(jax.random.uniform)(jax.random.split(jax.random.key(0), 7))
  for rank in range(2):
    with np.load(tmp_path / f"out{rank}.npz") as got:
      for name, value in (
        ("root", expected["root"]),
        ("count", expected["count"]),
        ("stored", expected["root"]),
        ("again", expected["root"]),
        ("lasso", lasso),
        ("steps", info.steps),
        ("uniform", uniform),
      ):
        np.testing.assert_array_equal(got[name], np.asarray(value), err_msg=name)
