"""Finished chunks of a sweep on disk: atomic, checked when read, tied to one grid and function."""

import hashlib
import json
import logging
import os
import pathlib
import shutil
import warnings
from typing import Any

import jax
import numpy as np

__all__ = ["ChunkStore", "StoreMismatchError", "digest"]

_FORMAT = 1
_MANIFEST = "manifest.json"


class StoreMismatchError(ValueError):
  """A store belongs to another grid, function or machine set-up than the one it was opened for."""


def digest(arrays: list[np.ndarray], *, salt: str = "") -> str:
  """SHA-256 over shapes, dtypes and bytes of arrays."""
  state = hashlib.sha256(salt.encode())
  for array in arrays:
    state.update(f"{array.shape}{array.dtype}".encode())
    state.update(np.ascontiguousarray(array).tobytes())
  return state.hexdigest()


def _load_orbax() -> Any:
  try:
    import orbax.checkpoint as ocp
  except ImportError as error:
    raise ImportError(
      "a store needs orbax-checkpoint; install it with: pip install 'jaxopt-robust[sweeps]'"
    ) from error
  logging.getLogger("absl").setLevel(logging.ERROR)  # a line for every saved chunk otherwise
  return ocp


def _barrier(name: str) -> None:
  if jax.process_count() > 1:
    from jax.experimental import multihost_utils

    multihost_utils.sync_global_devices(name)


class ChunkStore:
  """A folder with one checkpoint a chunk and a manifest that says what they are chunks of.

  Not public: ``sweeps.run`` is the way in. With several processes the folder must be shared.
  """

  def __init__(self, path: str | os.PathLike, identity: dict[str, Any]) -> None:
    self._ocp = _load_orbax()
    self._path = pathlib.Path(path).absolute()
    self._identity = {"format": _FORMAT, **identity}
    self._open()

  def _open(self) -> None:
    manifest = self._path / _MANIFEST
    if manifest.exists():
      self._refuse_others(manifest)
    elif self._path.exists() and any(p.name.startswith("chunk_") for p in self._path.iterdir()):
      raise StoreMismatchError(
        f"{self._path} holds chunks but no {_MANIFEST}, so nobody can say what they belong to; "
        "move it away or choose another store."
      )
    elif jax.process_index() == 0:
      self._path.mkdir(parents=True, exist_ok=True)
      partial = manifest.with_suffix(".partial")
      partial.write_text(json.dumps(self._identity, indent=2, sort_keys=True))
      os.replace(partial, manifest)
    _barrier("jaxopt_robust_store_open")
    if jax.process_index() == 0:
      for leftover in self._path.glob("chunk_*orbax-checkpoint-tmp*"):
        shutil.rmtree(leftover, ignore_errors=True)
    _barrier("jaxopt_robust_store_clean")

  def _refuse_others(self, manifest: pathlib.Path) -> None:
    try:
      found = json.loads(manifest.read_text())
    except ValueError as error:
      raise StoreMismatchError(
        f"{manifest} is damaged ({error}); move the store away or choose another."
      ) from error
    for field, wanted in self._identity.items():
      if found.get(field) != wanted:
        raise StoreMismatchError(
          f"the store {self._path} was made with another {field}: it has {found.get(field)!r}, "
          f"this run has {wanted!r}. Mixing them would give wrong results: use another store, or "
          "delete this one to start over."
        )

  def _chunk(self, number: int) -> pathlib.Path:
    return self._path / f"chunk_{number:06d}"

  def save(self, number: int, leaves: list[np.ndarray]) -> None:
    """Writes one chunk: it is there whole or not at all."""
    tree = {f"leaf_{i}": leaf for i, leaf in enumerate(leaves)}
    checksum = digest(leaves, salt=str(number))
    tree["checksum"] = np.frombuffer(bytes.fromhex(checksum), np.uint8)
    with self._ocp.StandardCheckpointer() as checkpointer:
      checkpointer.save(self._chunk(number), tree, force=True)

  def load(self, number: int, like: list[jax.ShapeDtypeStruct]) -> list[np.ndarray] | None:
    """One finished chunk; None when it is missing, or damaged (then a warning says so)."""
    path = self._chunk(number)
    if not path.exists():
      return None
    target = {f"leaf_{i}": np.zeros(leaf.shape, leaf.dtype) for i, leaf in enumerate(like)}
    target["checksum"] = np.zeros(32, np.uint8)
    try:
      with self._ocp.StandardCheckpointer() as checkpointer:
        tree = checkpointer.restore(path, target)
      leaves = [np.asarray(tree[f"leaf_{i}"]) for i in range(len(like))]
      intact = bytes(np.asarray(tree["checksum"])).hex() == digest(leaves, salt=str(number))
      reason = "its checksum is wrong"
    except Exception as error:  # whatever the reader meets in a damaged file
      intact, reason = False, f"it cannot be read ({type(error).__name__})"
    if intact:
      return leaves
    warnings.warn(
      f"chunk {number} of the store {self._path} is damaged: {reason}; it is computed again.",
      stacklevel=2,
    )
    _barrier(f"jaxopt_robust_chunk_{number}_damaged")
    if jax.process_index() == 0:
      shutil.rmtree(path, ignore_errors=True)
    _barrier(f"jaxopt_robust_chunk_{number}_removed")
    return None
