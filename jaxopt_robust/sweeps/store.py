"""Finished chunks of a sweep on disk: atomic, checked when read, tied to one grid and function."""

import contextlib
import errno
import hashlib
import json
import logging
import os
import pathlib
import re
import shutil
import signal
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from jaxopt_robust.sweeps.lock import StoreLock, StoreLockedError

__all__ = ["ChunkStore", "StoreMismatchError", "digest", "read_manifest"]

_FORMAT = 2
_MANIFEST = "manifest.json"
# Fields that change the program's text too: a difference in one of them explains its change.
_EXPLAINS = {
  "format",
  "number of points",
  "lanes",
  "chunk size",
  "jax version",
  "platform",
  "number of devices",
}

_NOT_COMPARED = {"chunk asked for", "several devices"}


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


def _first_process_says(question: Callable[[], bool], what: str) -> bool:
  """The first process's answer, on every process; when it fails there, every process raises.

  Each process sees the files at a time of its own. If each decided by what it sees, some would wait
  for the others where these do not come.
  """
  error: Exception | None = None
  answer = False
  if jax.process_index() == 0:
    try:
      answer = question()
    except Exception as raised:
      error = raised
  if jax.process_count() > 1:
    from jax.experimental import multihost_utils

    code = int(multihost_utils.broadcast_one_to_all(np.int32(answer if error is None else 2)))
    if code == 2 and error is None:
      raise StoreLockedError(f"process 0 could not {what}; its error says why.")
    answer = code == 1
  if error is not None:
    raise error
  return answer


def _on_first_process(action: Callable[[], None], what: str) -> None:
  """Runs something on the first process; when it fails there, every process raises."""

  def done() -> bool:
    action()
    return True

  _first_process_says(done, what)


def _worst(code: int) -> int:
  """The largest code of all processes."""
  if jax.process_count() == 1:
    return code
  from jax.experimental import multihost_utils

  return int(np.max(multihost_utils.process_allgather(np.int32(code))))


@contextlib.contextmanager
def _interrupts_wait() -> Iterator[None]:
  """An interrupt from the keyboard takes effect at the end of the block; a second one at once.

  Otherwise it would leave threads behind that go on writing while the next run starts.
  """
  if threading.current_thread() is not threading.main_thread():
    yield  # interrupts reach the main thread only
    return
  before = signal.getsignal(signal.SIGINT)
  pending: list[tuple[int, Any]] = []

  def handle(number: int, frame: Any) -> None:
    if pending and callable(before):
      before(number, frame)
    pending.append((number, frame))

  if not callable(before):  # ignored, or handled outside of Python
    yield
    return
  signal.signal(signal.SIGINT, handle)
  try:
    yield
  finally:
    signal.signal(signal.SIGINT, before)
  if pending:
    before(*pending[0])


def _folder(store: str | os.PathLike) -> pathlib.Path:
  if not isinstance(store, str | os.PathLike):
    raise TypeError(f"store must be the path of a folder; got {type(store).__name__}.")
  if not os.fspath(store):
    raise ValueError("store must be the path of a folder; got an empty string.")
  path = pathlib.Path(store).absolute()
  if "\\" in path.as_posix():
    raise ValueError(f"store must not have a backslash in its path; got {path}.")
  if path.exists() and not path.is_dir():
    raise NotADirectoryError(f"store must be the path of a folder; {path} is a file.")
  return path


def read_manifest(store: str | os.PathLike) -> dict[str, Any] | None:
  """What the chunks of a store belong to; None for a store that is new."""
  path = _folder(store)
  manifest = path / _MANIFEST
  try:
    found = json.loads(manifest.read_text())
  except FileNotFoundError:
    if path.exists() and any(p.name.startswith("chunk_") for p in path.iterdir()):
      raise StoreMismatchError(
        f"{path} holds chunks but no {_MANIFEST}, so nobody can say what they belong to; move it "
        "away or choose another store."
      ) from None
    return None
  except ValueError as error:
    raise StoreMismatchError(
      f"{manifest} is damaged ({error}); move the store away or choose another."
    ) from error
  return found if isinstance(found, dict) else {}


def _differences(found: dict[str, Any], wanted: dict[str, Any]) -> Iterator[str]:
  """What differs between two manifests, in words."""
  explained = False
  for field, value in wanted.items():
    other = found.get(field)
    if other == value or field in _NOT_COMPARED:
      continue
    if field == "number of devices" and field not in found:  # a store with lanes
      continue
    if field in _EXPLAINS:
      explained = True
      hint = " (with lanes it may change)" if field == "number of devices" else ""
      yield f"{field} changed: {other} in the store, {value} in this run{hint}"
    elif isinstance(value, dict) and isinstance(other, dict) and set(value) == set(other):
      if "number of points" in found and found["number of points"] == wanted["number of points"]:
        parts = sorted(name for name in value if value[name] != other[name])
        named = [part for part in parts if part]
        yield f"{field} changed" + (f" in {', '.join(named)}" if named else "")
    elif field != "function" or not explained:
      yield f"{field} changed"


class ChunkStore:
  """A folder with one checkpoint a chunk and a manifest that says what they are chunks of.

  Not public: ``sweeps.run`` is the way in. With several processes the folder must be shared. The
  lock is taken for the first write: finished stores may be read by many runs at once.
  """

  def __init__(self, path: str | os.PathLike, identity: dict[str, Any]) -> None:
    self._ocp = _load_orbax()
    self._path = _folder(path)
    self._identity = {"format": _FORMAT, **identity}
    self._lock = StoreLock(self._path)
    self._locked = False
    self.made_on_several: bool | None = None
    opened = f"open the store {self._path}"
    try:  # an interrupt may come at any line: the lock must not outlive this run
      if not _first_process_says(self._is_mine, opened):
        self.lock()
        if not _first_process_says(self._is_mine, opened):  # nobody was faster
          _on_first_process(self._write_manifest, f"write {_MANIFEST} of the store {self._path}")
      _barrier("jaxopt_robust_store_open")
      if jax.process_index() != 0:
        self._is_mine()  # the manifest is there now: it must be that of this process's run too
    except BaseException:
      self.close()
      raise

  def lock(self) -> None:
    """Makes this run the only one that writes to the store."""
    if self._locked:
      return

    def acquire() -> None:
      with self._explained("its lock"):
        self._path.mkdir(parents=True, exist_ok=True)
        self._lock.acquire()
      for entry in list(self._path.iterdir()):
        if entry.name.startswith("chunk_") and "orbax-checkpoint-tmp" in entry.name:
          shutil.rmtree(entry, ignore_errors=True)

    with _interrupts_wait():
      _on_first_process(acquire, f"lock the store {self._path}")
      self._locked = True

  def close(self) -> None:
    """Lets other runs write."""
    with _interrupts_wait():
      self._lock.release()
      self._locked = False

  def _is_mine(self) -> bool:
    """False for a new store; raises for that of another run."""
    found = read_manifest(self._path)
    if found is None:
      return False
    self.made_on_several = found.get("several devices")
    differences = list(_differences(found, self._identity))
    if differences:
      raise StoreMismatchError(
        f"the store {self._path} does not belong to this run: {'; '.join(differences)}. Mixing "
        "them would give wrong results: use another store, or delete this one to start over."
      )
    return True

  def _write_manifest(self) -> None:
    manifest = self._path / _MANIFEST
    partial = manifest.with_suffix(".partial")
    with self._explained(_MANIFEST):
      partial.write_text(json.dumps(self._identity, indent=2, sort_keys=True))
      os.replace(partial, manifest)

  def _chunk(self, number: int) -> pathlib.Path:
    return self._path / f"chunk_{number:06d}"

  @contextlib.contextmanager
  def _explained(self, part: str) -> Iterator[None]:
    """Errors of the file system say which store, which part of it, and what to do."""
    try:
      yield
    except (OSError, ValueError) as error:
      found = re.search(r"os_error_code='(\d+)'", str(error))
      code = int(found.group(1)) if found else getattr(error, "errno", None)
      if code is None:
        raise
      is_full = code in (errno.ENOSPC, errno.EDQUOT)
      cause = "the disk is full" if is_full else os.strerror(code)
      remedy = "free some space" if is_full else "make it writable"
      raise OSError(
        code,
        f"{part} of the store {self._path} cannot be written: {cause}. Everything that was "
        f"finished before is safe: {remedy}, then call run again with the same arguments, and it "
        "goes on from there. To move the store, move its whole folder",
      ) from error

  def save(self, number: int, leaves: list[np.ndarray]) -> None:
    """Writes one chunk: it is there whole or not at all."""
    if jax.process_index() == 0:
      self._lock.check()
    path = self._chunk(number)
    # Orbax refuses arrays without elements; there is nothing in them to keep either.
    tree = {f"leaf_{i}": leaf for i, leaf in enumerate(leaves) if leaf.size}
    tree["checksum"] = np.frombuffer(bytes.fromhex(digest(leaves, salt=str(number))), np.uint8)

    with self._explained(f"chunk {number}"):
      try:
        with _interrupts_wait(), self._checkpointer() as checkpointer:
          checkpointer.save(path, args=self._ocp.args.PyTreeSave(tree))
      except Exception:
        for entry in list(self._path.iterdir()):
          if entry.name.startswith(f"{path.name}.orbax-checkpoint-tmp"):
            shutil.rmtree(entry, ignore_errors=True)
        raise

  def load_or_lock(self, number: int, like: list[jax.ShapeDtypeStruct]) -> list[np.ndarray] | None:
    """One finished chunk; where there is none, this run is the only one that may write it."""
    leaves = self.load(number, like)
    if leaves is None and not self._locked:
      self.lock()
      leaves = self.load(number, like)  # another run may have written it meanwhile
    return leaves

  def load(self, number: int, like: list[jax.ShapeDtypeStruct]) -> list[np.ndarray] | None:
    """One finished chunk; None when it is missing or damaged.

    A chunk whose checksum is wrong is removed; one that cannot be read may be good all the same, so
    it is only moved aside. A warning says which. Both need the lock: without it nothing is done.
    """
    path = self._chunk(number)
    if not _first_process_says(path.exists, f"look for chunk {number} of the store {self._path}"):
      return None
    target = {f"leaf_{i}": np.zeros(x.shape, x.dtype) for i, x in enumerate(like) if x.size}
    target["checksum"] = np.zeros(32, np.uint8)
    reason = "its checksum is wrong"
    code = 1
    try:
      with _interrupts_wait(), self._checkpointer() as checkpointer:
        tree = checkpointer.restore(path, args=self._ocp.args.PyTreeRestore(target))
      leaves = [
        np.asarray(tree[f"leaf_{i}"]) if x.size else np.zeros(x.shape, x.dtype)
        for i, x in enumerate(like)
      ]
      if bytes(np.asarray(tree["checksum"])).hex() == digest(leaves, salt=str(number)):
        code = 0
    except Exception as error:  # whatever the reader meets in a damaged file
      code, reason = 2, f"it cannot be read ({type(error).__name__}: {error!s:.200})"
    code = _worst(code)
    if code == 0:
      return leaves
    if self._locked:
      self._set_aside(number, path, code == 2, reason)
    return None

  def _set_aside(self, number: int, path: pathlib.Path, unreadable: bool, reason: str) -> None:
    names = (f"unreadable_{path.name}_{i}" for i in range(10**6))
    aside = next(path.with_name(name) for name in names if not path.with_name(name).exists())
    fate = f"it is kept as {aside.name}, and" if unreadable else "it"
    warnings.warn(
      f"chunk {number} of the store {self._path} is damaged: {reason}; {fate} is computed again.",
      stacklevel=5,
    )
    _barrier(f"jaxopt_robust_chunk_{number}_damaged")

    def remove() -> None:
      with self._explained(f"chunk {number}"):
        if unreadable:
          path.rename(aside)
        else:
          shutil.rmtree(path)

    _on_first_process(remove, f"move chunk {number} of the store {self._path}")

  def _checkpointer(self) -> Any:
    # Plain files: the other layout takes the path of a checkpoint for a pattern when it reads it.
    return self._ocp.Checkpointer(self._ocp.PyTreeCheckpointHandler(use_ocdbt=False))
