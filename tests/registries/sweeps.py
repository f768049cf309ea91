"""Calls of the sweeps that must fail."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType

from jaxopt_robust import sweeps
from tests.helpers import BadInput

COVERED = set(sweeps.__all__)
SQUARE = lambda x: x**2


def _mesh():
  return jax.make_mesh((2,), ("a",), axis_types=(AxisType.Auto,), devices=jax.devices()[:2])


def _bad(name, what, call, error, match):
  return BadInput(f"sweeps.{name}", what, call, error, match)


BAD_INPUTS = [
  _bad("sweep", "function", lambda: sweeps.sweep(3), TypeError, "fn must be callable"),
  _bad(
    "sweep", "mode", lambda: sweeps.sweep(SQUARE, backend="threads"), ValueError,
    "backend must be one of 'shard_map', 'vmap', 'pmap'; got 'threads'",
  ),
  _bad("sweep", "axis", lambda: sweeps.sweep(SQUARE, mesh=_mesh()), ValueError, "axis of the mesh"),
  _bad(
    "sweep", "mesh", lambda: sweeps.sweep(SQUARE, mesh=_mesh(), backend="vmap"), ValueError,
    "mesh is for backend 'shard_map' only",
  ),
  _bad("sweep", "lanes", lambda: sweeps.sweep(SQUARE, lanes=0), ValueError, "lanes must"),
  _bad("sweep", "rank", lambda: sweeps.sweep(SQUARE)(jnp.ones(())), ValueError, "got a scalar"),
  _bad("sweep", "empty", lambda: sweeps.sweep(SQUARE)(jnp.ones(0)), ValueError, "one point"),
  _bad("sweep", "no leaves", lambda: sweeps.sweep(SQUARE)({}), ValueError, "empty pytree"),
  _bad(
    "sweep", "ragged", lambda: sweeps.sweep(SQUARE)(jnp.ones(2), jnp.ones(3)), ValueError,
    r"one leading size; got \[2, 3\]",
  ),
  _bad(
    "sweep", "shared", lambda: sweeps.sweep(SQUARE)(jnp.ones(2), shared=jnp.ones(2)), TypeError,
    "shared must be a tuple",
  ),
  _bad(
    "sweep", "grid beside the function", lambda: sweeps.sweep(SQUARE, jnp.ones(2)), TypeError,
    r"call sweep\(fn\)\(grid\)",
  ),
  _bad(
    "sweep", "kind of mesh", lambda: sweeps.sweep(SQUARE, mesh=jax.devices()), TypeError,
    "mesh must be a jax.sharding.Mesh; got list",
  ),
  _bad("sweep", "kind of axis", lambda: sweeps.sweep(SQUARE, axis_name=1), TypeError, "axis_name"),
  _bad("sweep", "kind of lanes", lambda: sweeps.sweep(SQUARE, lanes=2.5), TypeError, "lanes must"),
  _bad("sweep", "none", lambda: sweeps.sweep(SQUARE)(None), ValueError, "grid must hold at least"),
  _bad(
    "sweep", "strings", lambda: sweeps.sweep(SQUARE)({"a": np.array(["x", "y"])}), TypeError,
    r"grid\['a'\] must be a number",
  ),
  _bad(
    "sweep", "objects", lambda: sweeps.sweep(SQUARE)(jnp.ones(2), np.array([None, {}])), TypeError,
    r"grid\[1\] must be a number",
  ),
  _bad("sweep", "list", lambda: sweeps.sweep(SQUARE)([1.0, 2.0]), ValueError, "make it an array"),
  _bad(
    "sweep", "64 bits", lambda: sweeps.sweep(SQUARE)({"seed": np.array([2**32, 0])}), ValueError,
    r"grid\['seed'\] must fit 32 bits; got 4294967296",
  ),
  _bad(
    "sweep", "64 bits shared", lambda: sweeps.sweep(SQUARE)(jnp.ones(2), shared=(2**32 + 1,)),
    ValueError, r"shared\[0\] must fit 32 bits; got 4294967297",
  ),
  _bad(
    "sweep", "shared strings", lambda: sweeps.sweep(SQUARE)(jnp.ones(2), shared=("x",)), TypeError,
    r"shared\[0\] must be a number",
  ),
  _bad(
    "run", "64 bits", lambda: sweeps.run(SQUARE, np.array([2**32 + 1, 1])), ValueError,
    "grid must fit 32 bits",
  ),
  _bad("run", "none", lambda: sweeps.run(SQUARE, None), ValueError, "grid must hold at least"),
  _bad("run", "strings", lambda: sweeps.run(SQUARE, ["a", "b"]), TypeError, r"grid\[0\] must be"),
  _bad("run", "store", lambda: sweeps.run(SQUARE, jnp.ones(2), store=3), TypeError, "store must"),
  _bad(
    "run", "no store", lambda: sweeps.run(SQUARE, jnp.ones(2), store=""), ValueError, "empty string"
  ),
  _bad(
    "run", "backslash", lambda: sweeps.run(SQUARE, jnp.ones(2), store="a\\b"), ValueError,
    "must not have a backslash",
  ),
  _bad(
    "run", "store is a file", lambda: sweeps.run(SQUARE, jnp.ones(2), store=__file__),
    NotADirectoryError, "is a file",
  ),
  _bad("run", "kind of mesh", lambda: sweeps.run(SQUARE, jnp.ones(2), mesh=2), TypeError, "mesh"),
  _bad("run", "function", lambda: sweeps.run(None, jnp.ones(2)), TypeError, "fn must be callable"),
  _bad("run", "mode", lambda: sweeps.run(SQUARE, jnp.ones(2), backend="p"), ValueError, "backend"),
  _bad("run", "chunk", lambda: sweeps.run(SQUARE, jnp.ones(2), chunk=0), ValueError, "chunk must"),
  _bad("run", "type", lambda: sweeps.run(SQUARE, jnp.ones(2), chunk=2.0), TypeError, "static"),
  _bad("run", "empty", lambda: sweeps.run(SQUARE, jnp.ones(0)), ValueError, "one point"),
  _bad(
    "run", "shared", lambda: sweeps.run(SQUARE, jnp.ones(2), shared=[1]), TypeError, "shared"
  ),
  _bad("product_grid", "none", sweeps.product_grid, ValueError, "at least one axis"),
  _bad("product_grid", "rank", lambda: sweeps.product_grid(a=1.0), ValueError, "rank at least 1"),
  _bad(
    "product_grid", "64 bits", lambda: sweeps.product_grid(seed=np.array([2**32, 0])), ValueError,
    "seed must fit 32 bits; got 4294967296",
  ),
  _bad(
    "product_grid", "strings", lambda: sweeps.product_grid(a=["x"]), TypeError, "a must be a number"
  ),
  _bad("product_grid", "null", lambda: sweeps.product_grid(a=None), TypeError, "a must be"),
  _bad("product_grid", "empty", lambda: sweeps.product_grid(a=[]), ValueError, "must not be empty"),
  _bad(
    "make_sweep_mesh", "devices", lambda: sweeps.make_sweep_mesh(num_devices=1000), ValueError,
    "num_devices must be at most",
  ),
  _bad("make_sweep_mesh", "name", lambda: sweeps.make_sweep_mesh(3), TypeError, "must be a string"),
]  # fmt: skip
