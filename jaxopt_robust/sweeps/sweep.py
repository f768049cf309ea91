"""One function over a grid of points: on one device, on all devices, on all hosts."""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxopt_robust import _arguments, _checks
from jaxopt_robust.sweeps.grid import as_arrays, key_to_data, num_points, padded_rows, take_rows
from jaxopt_robust.typing import PyTree

__all__ = ["gather", "make_sweep_mesh", "sweep"]

BACKENDS = ("shard_map", "vmap", "pmap")


def sweep_devices() -> list[jax.Device]:
  """All devices of all processes, of the platform of ``jax.default_device`` where that is set."""
  config: Any = jax.config  # the attribute is not in its annotations
  chosen = config.jax_default_device
  if chosen is None:
    return jax.devices()
  return jax.devices(chosen if isinstance(chosen, str) else chosen.platform)


def make_sweep_mesh(axis_name: str = "sweep", *, num_devices: int | None = None) -> Mesh:
  """A one-axis mesh over all devices of all processes, or over the first few.

  Args:
    axis_name: name of the axis.
    num_devices: >= 1, static; all by default.

  Returns:
    ``jax.sharding.Mesh`` with one axis of type Auto.

  Raises:
    TypeError: when ``axis_name`` is not a string or ``num_devices`` no integer.
    ValueError: when there are not so many devices.

  Example:
    >>> make_sweep_mesh().axis_names
    ('sweep',)

  Reference:
    "Distributed arrays and automatic parallelization" in the JAX documentation.
  """
  if not isinstance(axis_name, str):
    raise TypeError(f"axis_name must be a string; got {type(axis_name).__name__}.")
  devices = sweep_devices()
  count = len(devices) if num_devices is None else num_devices
  count = _checks.check_int("num_devices", count, minimum=1)
  if count > len(devices):
    raise ValueError(f"num_devices must be at most {len(devices)}; got {count}.")
  axis_types = (AxisType.Auto,)
  return jax.make_mesh((count,), (axis_name,), axis_types=axis_types, devices=devices[:count])


def gather(outputs: PyTree) -> PyTree:
  """Outputs of a sweep as NumPy arrays, whole on every process.

  Args:
    outputs: pytree of arrays, possibly sharded over devices and processes. Typed keys become their
      integers.

  Returns:
    pytree of ``numpy.ndarray``.

  Example:
    >>> gather({"a": jnp.arange(3)})["a"].tolist()
    [0, 1, 2]

  Reference:
    "Introduction to multi-controller JAX" in the JAX documentation.
  """

  def to_host(leaf: Any) -> np.ndarray:
    leaf = key_to_data(leaf)
    if isinstance(leaf, jax.Array) and not (leaf.is_fully_addressable or leaf.is_fully_replicated):
      from jax.experimental import multihost_utils

      return np.asarray(multihost_utils.process_allgather(leaf, tiled=True))
    return np.asarray(leaf)

  for leaf in jax.tree.leaves(outputs):
    is_number = isinstance(leaf, bool | int | float | complex)
    if not is_number and getattr(leaf, "dtype", np.dtype(object)) == np.dtype(object):
      raise TypeError(f"outputs must hold arrays and numbers; got a {type(leaf).__name__}.")
  return jax.tree.map(to_host, outputs)


def _replicated(tree: PyTree, mesh: Mesh) -> PyTree:
  """Puts equal host copies of an array on the devices of all processes."""

  def put(leaf: Any) -> Any:
    is_key = jnp.issubdtype(jnp.result_type(leaf), jax.dtypes.prng_key)
    data = jax.device_put(np.asarray(key_to_data(leaf)), NamedSharding(mesh, PartitionSpec()))
    return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf)) if is_key else data

  return jax.tree.map(put, tree)


class Mapped(NamedTuple):
  """A function over a whole grid, ready to be lowered, compiled or called.

  Attributes:
    prepare: puts ``(grids, shared)`` where the program expects them.
    call: ``(grids, shared) -> outputs``; jitted, except for the backend "pmap".
    at_once: ``(grids, shared) -> outputs`` of points that a device works off at once; jitted.
  """

  prepare: Callable[[PyTree], PyTree]
  call: Any
  at_once: Any


def mapped_function(
  fn: Callable[..., PyTree],
  *,
  mesh: Mesh | None,
  axis_name: str,
  backend: str,
  lanes: int | None,
) -> Mapped:
  """The program behind ``sweep``; grid sizes are read off the arguments."""

  def at_once(grids: tuple, shared: tuple) -> PyTree:
    in_axes = (0,) * len(grids) + (None,) * len(shared)
    return jax.vmap(fn, in_axes=in_axes)(*grids, *shared)

  def batch(grids: tuple, shared: tuple) -> PyTree:
    """One device's share, ``lanes`` points at a time."""
    if lanes is None:
      return at_once(grids, shared)
    groups = jax.tree.map(lambda x: x.reshape(-1, lanes, *x.shape[1:]), grids)
    outputs = jax.lax.map(lambda group: at_once(group, shared), groups)
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), outputs)

  def padded(over_devices: Callable, devices: int, grids: tuple, shared: tuple) -> PyTree:
    size = num_points(grids)
    unit = devices * (lanes or 1)
    rows = padded_rows(0, size, math.ceil(size / unit) * unit)
    outputs = over_devices(take_rows(grids, rows), shared)
    return jax.tree.map(lambda leaf: leaf[:size], outputs)

  def local(tree: PyTree) -> PyTree:
    return jax.tree.map(jnp.asarray, tree)

  group = jax.jit(at_once)
  if backend == "vmap":
    return Mapped(local, jax.jit(functools.partial(padded, batch, 1)), group)

  if backend == "pmap":
    count = jax.local_device_count()
    parallel = jax.pmap(batch, axis_name=axis_name)

    def split_and_join(grids: tuple, shared: tuple) -> PyTree:
      split = jax.tree.map(lambda x: x.reshape(count, -1, *x.shape[1:]), grids)
      copies = jax.tree.map(lambda x: jnp.broadcast_to(x, (count, *x.shape)), shared)
      return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), parallel(split, copies))

    return Mapped(local, functools.partial(padded, split_and_join, count), group)

  assert mesh is not None
  spec, everywhere = PartitionSpec(axis_name), PartitionSpec()
  sharded = jax.shard_map(
    batch, mesh=mesh, in_specs=(spec, everywhere), out_specs=spec, check_vma=False
  )
  program = functools.partial(padded, sharded, mesh.shape[axis_name])
  if jax.process_count() == 1:
    return Mapped(local, jax.jit(program), group)
  # Every process gets every result: it could not be sliced or read otherwise.
  jitted = jax.jit(program, out_shardings=NamedSharding(mesh, everywhere))
  return Mapped(functools.partial(_replicated, mesh=mesh), jitted, group)


def check_mesh(mesh: Mesh | None, axis_name: str, backend: str) -> None:
  """Checks the arguments of ``sweep`` that choose the devices."""
  _arguments.check_option("backend", backend, BACKENDS)
  if not isinstance(axis_name, str):
    raise TypeError(f"axis_name must be a string; got {type(axis_name).__name__}.")
  if not isinstance(mesh, Mesh | None):
    raise TypeError(f"mesh must be a jax.sharding.Mesh; got {type(mesh).__name__}.")
  if backend != "shard_map":
    if mesh is not None:
      raise ValueError(f"mesh is for backend 'shard_map' only; got backend {backend!r} and a mesh.")
    if jax.process_count() > 1:
      raise ValueError(
        f"with {jax.process_count()} processes backend must be 'shard_map'; got {backend!r}."
      )
  elif mesh is not None and axis_name not in mesh.axis_names:
    raise ValueError(f"axis_name must be an axis of the mesh {mesh.axis_names}; got {axis_name!r}.")


def check_shared(shared: tuple) -> tuple:
  """The shared arguments as arrays."""
  if not isinstance(shared, tuple):
    raise TypeError(f"shared must be a tuple of arguments; got {type(shared).__name__}.")
  return as_arrays("shared", shared)


def default_mesh(axis_name: str, backend: str, groups: int) -> Mesh | None:
  """The devices that have work: with several processes all of them, or a process would idle."""
  if backend != "shard_map":
    return None
  count = len(sweep_devices())
  return make_sweep_mesh(
    axis_name, num_devices=count if jax.process_count() > 1 else min(count, groups)
  )


def sweep(
  fn: Callable[..., PyTree],
  *grids: Any,
  mesh: Mesh | None = None,
  axis_name: str = "sweep",
  backend: str = "shard_map",
  lanes: int | None = None,
) -> Callable[..., PyTree]:
  r"""Maps a function over a grid of points, split over all devices.

  ``sweep(fn)(grid)[i] = fn(grid[i])``, as ``jit(shard_map(vmap(fn)))`` on a one-axis mesh. The
  points are split over the devices, each device works its share off as one vmapped batch, and
  devices whose solves stop early do not wait for the others at each step.

  Args:
    fn: pure function of one point of each grid, then of the shared arguments; returns a pytree of
      arrays.
    *grids: none here: grids are arguments of the returned function, ``sweep(fn)(grid)``.
    mesh: a mesh with the axis ``axis_name``, for ``"shard_map"`` only; by default all devices of
      all processes (of one process: as many as there are points), of the platform of
      ``jax.default_device`` where that is set.
    axis_name: the mesh axis that the points are split over.
    backend: ``"shard_map"`` (default), ``"vmap"`` (one device) or ``"pmap"`` (all local devices;
      in maintenance mode in JAX).
    lanes: >= 1, static: a device works its share off in groups of so many points. By default all
      at once, which is fastest for small points. With ``lanes`` the bits of a point's result do not
      depend on the number of devices, as long as there are several, and a group waits for its own
      slowest solve only.

  Returns:
    ``mapped(*grids, shared=()) -> outputs``: each grid is a pytree of arrays with one common
    leading size n (values, or typed PRNG keys), ``shared`` is a tuple of pytrees that every point
    gets whole, and each output leaf has the leading size n. Grids whose size the device count does
    not divide are padded by their last point and cut again. Keep ``mapped`` and call it again:
    equal shapes compile once.

  Raises:
    TypeError: when ``fn`` is not a function, a grid is given beside it, or a leaf holds no numbers.
    ValueError: when ``backend`` or ``axis_name`` is unknown, ``lanes`` is not positive, or a grid
      is empty, holds a scalar or has leaves of different lengths.

  Note:
    With several processes (``jax.distributed``) every process calls it with equal arguments and
    gets all outputs. It is a plain map, so it serves as NumPyro's ``chain_method`` too. A matrix
    product rounds differently for another number of columns, so a function that multiplies a shared
    matrix gives the same bits on 2 and on 8 devices only with ``lanes``; entrywise functions and
    sums do so anyway. A program for one device is compiled by other passes than one for several:
    most functions give the same bits there, but a long chaotic one may differ by roundings.

  Example:
    >>> square_sum = sweep(lambda lam, b: lam * jnp.sum(b * b))
    >>> square_sum(jnp.array([1.0, 2.0, 3.0]), shared=(jnp.ones(2),))
    Array([2., 4., 6.], dtype=float32)

  Reference:
    "Manual parallelism with shard_map" in the JAX documentation.
  """
  _arguments.check_callable("fn", fn)
  if grids:
    raise TypeError("sweep takes a function and gives one back: call sweep(fn)(grid).")
  check_mesh(mesh, axis_name, backend)
  lanes = None if lanes is None else _checks.check_int("lanes", lanes, minimum=1)

  @functools.cache  # one program a mesh; only grids smaller than the device count have their own
  def mapped_on(mesh: Mesh | None) -> Mapped:
    return mapped_function(fn, mesh=mesh, axis_name=axis_name, backend=backend, lanes=lanes)

  def over_grid(*grids: PyTree, shared: tuple = ()) -> PyTree:
    shared = check_shared(shared)
    grid = as_arrays("grid", grids[0] if len(grids) == 1 else grids)
    groups = math.ceil(num_points(grid) / (lanes or 1))
    grids = (grid,) if len(grids) == 1 else grid
    mapped = mapped_on(mesh or default_mesh(axis_name, backend, groups))
    return mapped.call(mapped.prepare(grids), mapped.prepare(shared))

  return over_grid
