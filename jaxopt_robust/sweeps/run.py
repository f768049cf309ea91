"""A long sweep in chunks: progress, a store that survives a kill, failed points reported."""

import hashlib
import math
import os
import warnings
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from jaxopt_robust import _checks
from jaxopt_robust.sweeps.grid import key_to_data, num_points, padded_rows, take_rows
from jaxopt_robust.sweeps.store import ChunkStore, digest
from jaxopt_robust.sweeps.sweep import check_mesh, default_mesh, gather, mapped_function
from jaxopt_robust.typing import PyTree

__all__ = ["RunResult", "run"]

# Without a chunk size: so many chunks, so that a kill costs a few per cent of a run.
_DEFAULT_CHUNKS = 16


class RunResult(NamedTuple):
  """What ``run`` returns.

  Attributes:
    outputs: pytree of ``numpy.ndarray`` with one row a point.
    failed: bool[n], the points whose output has a non-zero field ``status``.
    num_computed: points computed now.
    num_restored: points read from the store.
  """

  outputs: PyTree
  failed: np.ndarray
  num_computed: int
  num_restored: int


def _failed(outputs: PyTree, size: int) -> np.ndarray:
  """Points with a non-zero ``status`` (a field of a NamedTuple or a key of a dict)."""
  failed = np.zeros(size, bool)
  for path, leaf in jax.tree_util.tree_flatten_with_path(outputs)[0]:
    last = path[-1] if path else None
    name = getattr(last, "name", getattr(last, "key", None))
    if name == "status" and np.issubdtype(leaf.dtype, np.integer):
      failed |= (leaf != 0).reshape(size, -1).any(axis=1)
  return failed


def _progress(total: int, done: int, show: bool) -> Any:
  class Silent:
    def update(self, _: int) -> None: ...
    def close(self) -> None: ...

  if not show or jax.process_index() != 0:
    return Silent()
  try:
    import tqdm
  except ImportError:
    return Silent()
  return tqdm.tqdm(total=total, initial=done, unit="point", desc="sweep")


def _identity(
  grid: PyTree, shared: tuple, lowered: Any, *, chunk: int, num: int, devices: int
) -> dict[str, Any]:
  """What must agree between a store and a run for its chunks to be used."""

  def arrays(tree: PyTree) -> list[np.ndarray]:
    return [np.asarray(key_to_data(leaf)) for leaf in jax.tree.leaves(tree)]

  return {
    "grid": digest(arrays(grid), salt=str(jax.tree.structure(grid))),
    "shared data": digest(arrays(shared), salt=str(jax.tree.structure(shared))),
    "number of points": num,
    "chunk size": chunk,
    "jax version": jax.__version__,
    "platform": jax.default_backend(),
    "number of devices": devices,
    # The program itself, with the constants that it closes over.
    "function": hashlib.sha256(lowered.as_text().encode()).hexdigest(),
  }


def _chunks(num: int, chunk: int) -> Iterable[tuple[int, int, int]]:
  for number in range(math.ceil(num / chunk)):
    yield number, number * chunk, min((number + 1) * chunk, num)


def run(
  fn: Callable[..., PyTree],
  grid: PyTree,
  *,
  shared: tuple = (),
  store: str | os.PathLike | None = None,
  chunk: int | None = None,
  progress: bool = True,
  mesh: Mesh | None = None,
  backend: str = "shard_map",
  lanes: int | None = None,
) -> RunResult:
  r"""Sweeps a grid in chunks, keeps what is finished, and goes on after a kill.

  Computes what ``sweep(fn)(grid, shared=shared)`` computes, chunk by chunk with one compiled
  program. With a store each finished chunk is written at once and whole; a later call with the same
  arguments reads it back instead of computing it, so that a run that was killed at any moment ends
  with the same bits as one that was not.

  Args:
    fn: pure function of a point, then of the shared arguments; returns a pytree of arrays.
    grid: pytree of arrays with one common leading size n (values or typed PRNG keys); a point is
      one row of each.
    shared: tuple of pytrees that every point gets whole.
    store: a folder, made where it is missing; None keeps nothing. Several processes must see the
      same folder.
    chunk: points a chunk, static, rounded up so that all devices and lanes are busy; by default a
      sixteenth of the grid.
    progress: show a progress bar (needs tqdm).
    mesh: a one-axis mesh with the axis "sweep", as for ``sweep``.
    backend: ``"shard_map"`` or ``"vmap"``.
    lanes: points that a device works off at once, as for ``sweep``.

  Returns:
    ``RunResult``. Points that fail (a field ``status`` of the output is not 0, as in ``SolveInfo``)
    are marked and counted in a warning; the others are not lost.

  Raises:
    StoreMismatchError: the store was made by another function (its program and the constants in it
      count), for another grid, chunk size, JAX version, platform or number of devices.
    ImportError: a store is wanted and orbax-checkpoint is not installed.
    TypeError: when ``fn`` is not a function or ``shared`` no tuple.
    ValueError: when the grid is empty or ragged, or ``chunk``, ``lanes`` or ``backend`` is not
      allowed.

  Note:
    A chunk that was truncated or changed on disk is noticed by its checksum, reported in a warning
    and computed again. Rows of a padded last chunk are computed twice and dropped.

  Example:
    >>> result = run(lambda lam: lam**2, jnp.array([1.0, 2.0, 3.0]), chunk=2, progress=False)
    >>> result.outputs.tolist(), result.num_computed
    ([1.0, 4.0, 9.0], 3)

  Reference:
    Checkpoint and restart at chunk boundaries: Young, A first order approximation to the optimum
    checkpoint interval, 1974. Chunks are written by Orbax.
  """
  _checks.check_callable("fn", fn)
  _checks.check_option("backend", backend, ("shard_map", "vmap"))
  if not isinstance(shared, tuple):
    raise TypeError(f"shared must be a tuple of arguments; got {type(shared).__name__}.")
  check_mesh(mesh, "sweep", backend)
  num = num_points(grid)
  lanes = None if lanes is None else _checks.check_int("lanes", lanes, minimum=1)
  mesh = mesh or default_mesh("sweep", backend, math.ceil(num / (lanes or 1)))
  devices = 1 if mesh is None else mesh.shape["sweep"]
  unit = devices * (lanes or 1)
  chunk = math.ceil(num / _DEFAULT_CHUNKS) if chunk is None else chunk
  chunk = _checks.check_int("chunk", chunk, minimum=1)
  chunk = min(math.ceil(chunk / unit), math.ceil(num / unit)) * unit

  mapped = mapped_function(fn, mesh=mesh, axis_name="sweep", backend=backend, lanes=lanes)
  shared = mapped.prepare(shared)

  def points(start: int, stop: int) -> tuple:
    return mapped.prepare((take_rows(grid, padded_rows(start, stop, chunk)),))

  lowered = mapped.call.lower(points(0, min(chunk, num)), shared)
  structure = jax.tree.structure(lowered.out_info)
  shapes = [jax.eval_shape(key_to_data, leaf) for leaf in jax.tree.leaves(lowered.out_info)]
  chunks = None
  if store is not None:
    chunks = ChunkStore(
      store, _identity(grid, shared, lowered, chunk=chunk, num=num, devices=devices)
    )

  program = None  # compiled when the first chunk is missing
  parts: list[list[np.ndarray]] = []
  computed = 0
  bar = _progress(num, 0, progress)
  try:
    for number, start, stop in _chunks(num, chunk):
      leaves = chunks.load(number, shapes) if chunks is not None else None
      if leaves is None:
        program = lowered.compile() if program is None else program
        leaves = jax.tree.leaves(gather(program(points(start, stop), shared)))
        if chunks is not None:
          chunks.save(number, leaves)
        computed += stop - start
      parts.append([leaf[: stop - start] for leaf in leaves])
      bar.update(stop - start)
  finally:
    bar.close()

  columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
  outputs = jax.tree.unflatten(structure, columns)
  failed = _failed(outputs, num)
  if failed.any():
    warnings.warn(
      f"{int(failed.sum())} of {num} points of the sweep failed (status not 0); "
      f"the first is point {int(np.argmax(failed))}.",
      stacklevel=2,
    )
  return RunResult(outputs, failed, computed, num - computed)
