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

from jaxopt_robust import _arguments, _checks
from jaxopt_robust.sweeps.grid import as_arrays, key_to_data, num_points, padded_rows, take_rows
from jaxopt_robust.sweeps.progress import progress_bar
from jaxopt_robust.sweeps.store import ChunkStore, digest, read_manifest
from jaxopt_robust.sweeps.sweep import (
  Mapped,
  check_mesh,
  check_shared,
  default_mesh,
  gather,
  mapped_function,
)
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


def _program_text(mapped: Mapped, lowered: Any, points: tuple, shared: tuple, lanes: Any) -> str:
  """The program with the constants that it closes over; with lanes, of one group of points."""
  if lanes is None:
    return lowered.as_text()

  def abstract(leaf: Any, *size: int) -> jax.ShapeDtypeStruct:
    weak = getattr(leaf, "weak_type", False)
    shape = (*size, *leaf.shape[len(size) :])
    return jax.ShapeDtypeStruct(shape, leaf.dtype, weak_type=weak)

  group = jax.tree.map(lambda leaf: abstract(leaf, lanes), points)
  return mapped.at_once.lower(group, jax.tree.map(abstract, shared)).as_text()


def _identity(
  grid: PyTree, shared: tuple, text: str, *, num: int, devices: int, lanes: int | None
) -> dict[str, Any]:
  """What must agree between a store and a run for its chunks to be used."""

  def digests(tree: PyTree) -> dict[str, str]:
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {
      jax.tree_util.keystr(path): digest([np.asarray(key_to_data(leaf))]) for path, leaf in leaves
    }

  return {
    "number of points": num,
    "lanes": lanes,
    "jax version": jax.__version__,
    "platform": jax.default_backend(),
    **({"number of devices": devices} if lanes is None else {}),
    "grid": digests(grid),
    "shared data": digests(shared),
    "function": hashlib.sha256(text.encode()).hexdigest(),
  }


def _chunks(num: int, chunk: int) -> Iterable[tuple[int, int, int]]:
  for number in range(math.ceil(num / chunk)):
    yield number, number * chunk, min((number + 1) * chunk, num)


def _kept_chunk(
  found: dict[str, Any] | None, asked: int | None, *, num: int, lanes: int
) -> int | None:
  """The chunk size of a store that may have been made on another number of devices."""
  if found is None or (found.get("number of points"), found.get("lanes")) != (num, lanes):
    return None
  size = found.get("chunk size")
  return size if asked in (None, found.get("chunk asked for")) and isinstance(size, int) else None


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
    progress: show a progress bar on stderr; without tqdm a line every few seconds.
    mesh: a one-axis mesh with the axis "sweep", as for ``sweep``.
    backend: ``"shard_map"`` or ``"vmap"``.
    lanes: points that a device works off at once, as for ``sweep``.

  Returns:
    ``RunResult``. Points that fail (a field ``status`` of the output is not 0, as in ``SolveInfo``)
    are marked and counted in a warning; the others are not lost.

  Raises:
    StoreMismatchError: the store was made by another function (its program and the constants in it
      count), for another grid, other shared data, lanes, chunk size, JAX version, platform, or,
      without ``lanes``, number of devices; the message names what changed.
    StoreLockedError: another run writes to the store now; the message says which and since when.
    OSError: the store cannot be written, such as on a full disk. What was finished before is safe:
      call it again with the same arguments once there is space.
    ImportError: a store is wanted and orbax-checkpoint is not installed.
    TypeError: when ``fn`` is not a function, ``shared`` no tuple, ``store`` no path, or a leaf
      holds no numbers.
    ValueError: when the grid is empty or ragged, ``chunk``, ``lanes`` or ``backend`` is not
      allowed, or the store's path has a backslash.

  Note:
    A chunk that was changed on disk is noticed by its checksum, reported in a warning and computed
    again. A chunk that cannot be read is computed again too, but kept beside the others under the
    name that the warning tells. An interrupt lets the chunk that is being written be finished. A
    run that was killed leaves its store free at once; one on another machine, after a minute. With
    ``lanes`` a store may be resumed on another number of devices; its chunk size is kept then, and
    between one device and several a warning says that the last bits may differ. Rows of a padded
    last chunk are computed twice and dropped.

  Example:
    >>> result = run(lambda lam: lam**2, jnp.array([1.0, 2.0, 3.0]), chunk=2, progress=False)
    >>> result.outputs.tolist(), result.num_computed
    ([1.0, 4.0, 9.0], 3)

  Reference:
    Checkpoint and restart at chunk boundaries: Young, A first order approximation to the optimum
    checkpoint interval, 1974. Chunks are written by Orbax.
  """
  _arguments.check_callable("fn", fn)
  _arguments.check_option("backend", backend, ("shard_map", "vmap"))
  _arguments.check_option("progress", progress, (True, False))
  shared = check_shared(shared)
  check_mesh(mesh, "sweep", backend)
  grid = as_arrays("grid", grid)
  num = num_points(grid)
  lanes = None if lanes is None else _checks.check_int("lanes", lanes, minimum=1)
  mesh = mesh or default_mesh("sweep", backend, math.ceil(num / (lanes or 1)))
  devices = 1 if mesh is None else mesh.shape["sweep"]
  unit = devices * (lanes or 1)
  asked = None if chunk is None else _checks.check_int("chunk", chunk, minimum=1)
  chunk = math.ceil(num / _DEFAULT_CHUNKS) if asked is None else asked
  chunk = min(math.ceil(chunk / unit), math.ceil(num / unit)) * unit
  if store is not None and lanes is not None:
    chunk = _kept_chunk(read_manifest(store), asked, num=num, lanes=lanes) or chunk

  mapped = mapped_function(fn, mesh=mesh, axis_name="sweep", backend=backend, lanes=lanes)
  prepared = mapped.prepare(shared)

  def points(start: int, stop: int) -> tuple:
    return mapped.prepare((take_rows(grid, padded_rows(start, stop, chunk)),))

  first = points(0, min(chunk, num))
  lowered = mapped.call.lower(first, prepared)
  structure = jax.tree.structure(lowered.out_info)
  shapes = [jax.eval_shape(key_to_data, leaf) for leaf in jax.tree.leaves(lowered.out_info)]
  chunks = None
  if store is not None:
    text = _program_text(mapped, lowered, first, prepared, lanes)
    identity = _identity(grid, shared, text, num=num, devices=devices, lanes=lanes)
    identity |= {"chunk size": chunk, "chunk asked for": asked, "several devices": devices > 1}
    chunks = ChunkStore(store, identity)

  program = None  # compiled when the first chunk is missing
  parts: list[list[np.ndarray]] = []
  computed = 0
  bar = progress_bar(num, show=progress)
  try:
    for number, start, stop in _chunks(num, chunk):
      leaves = None if chunks is None else chunks.load_or_lock(number, shapes)
      if leaves is None:
        if program is None:
          program = lowered.compile()
          if number and chunks is not None and chunks.made_on_several not in (None, devices > 1):
            warnings.warn(
              f"the store {store} was made on {'several devices' if devices == 1 else 'one device'}"
              f", and goes on with {devices}: points computed now may differ from what they would "
              "be there by a rounding, since programs for one device are compiled differently.",
              stacklevel=2,
            )
        leaves = jax.tree.leaves(gather(program(points(start, stop), prepared)))
        if chunks is not None:
          chunks.save(number, leaves)
        computed += stop - start
      parts.append([leaf[: stop - start] for leaf in leaves])
      bar.update(stop - start)
  finally:
    bar.close()
    if chunks is not None:
      chunks.close()

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
