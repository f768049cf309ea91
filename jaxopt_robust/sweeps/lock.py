"""One writer a store: a lock file that names its holder, and that a killed run leaves takeable."""

import contextlib
import datetime
import json
import os
import pathlib
import platform
import socket
import tempfile
import threading
import time
import uuid
from typing import Any

try:
  import fcntl
except ImportError:  # no such locks on this system
  fcntl = None  # type: ignore[assignment]

__all__ = ["StoreLock", "StoreLockedError"]

_NAME = "lock.json"
_BEAT_S = 10.0  # the holder touches its lock so often
_STALE_S = 60.0  # without a touch for so long the holder is taken for dead


class StoreLockedError(RuntimeError):
  """Another run writes to the store now; the message says which, where and since when."""


def _machine() -> str:
  """This start of this machine: a process of another one cannot be asked whether it lives."""
  try:
    return pathlib.Path("/proc/sys/kernel/random/boot_id").read_text().strip()
  except OSError:
    return f"{uuid.getnode():x}"


def _try_flock(descriptor: int) -> bool | None:
  """Locks a file until this process ends; False when another one has it, None when none can."""
  if fcntl is None:
    return None
  try:
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except BlockingIOError:
    return False
  except OSError:
    return None
  return True


class StoreLock:
  """A file ``lock.json`` in a folder, held by at most one process.

  The system's own lock on the file tells whether a holder on this machine lives: it ends with the
  process, however that dies. A holder on another machine is judged by its touches of the file.
  """

  def __init__(self, folder: pathlib.Path) -> None:
    self._folder = folder
    self._path = folder / _NAME
    self._descriptor: int | None = None
    self._released = threading.Event()

  def acquire(self) -> None:
    """Takes the lock, also from a dead holder; raises ``StoreLockedError`` for a living one."""
    deadline = time.monotonic() + 2.0
    while True:
      descriptor, is_new = self._open()
      taken = _try_flock(descriptor)
      if not self._is_current(descriptor):  # its holder has just removed it
        os.close(descriptor)
        continue
      holder = {} if is_new else self._holder()
      if is_new or self._is_dead(holder, taken):
        break
      os.close(descriptor)
      if holder or time.monotonic() > deadline:
        raise StoreLockedError(self._in_use(holder))
      time.sleep(0.05)  # made, and not yet written
    mine = self._identity()
    try:
      os.ftruncate(descriptor, 0)
      os.write(descriptor, json.dumps(mine, indent=2).encode())
      os.fsync(descriptor)
    except OSError:
      os.close(descriptor)
      self._path.unlink(missing_ok=True)
      raise
    if holder and holder.get("machine") != mine["machine"]:
      time.sleep(0.2)  # a third machine may be taking it over at the same time
      if self._holder() != mine:
        os.close(descriptor)
        raise StoreLockedError(self._in_use(self._holder()))
    self._descriptor, self._mine = descriptor, mine
    self._released.clear()
    threading.Thread(target=self._beat, name="store-lock", daemon=True).start()

  def check(self) -> None:
    """Raises when another machine has taken the lock over: this process was stopped for long."""
    if self._holder() != self._mine:
      raise StoreLockedError(
        f"this process was stopped for more than {_STALE_S:.0f} s, and then its store was taken "
        f"over: {self._in_use(self._holder())}"
      )

  def release(self) -> None:
    """Gives the lock back; nothing where it is not held."""
    if self._descriptor is None:
      return
    self._released.set()
    with contextlib.suppress(OSError):
      if self._holder() == self._mine:
        self._path.unlink()
    os.close(self._descriptor)
    self._descriptor = None

  def _open(self) -> tuple[int, bool]:
    while True:
      try:
        return os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644), True
      except FileExistsError:
        with contextlib.suppress(FileNotFoundError):
          return os.open(self._path, os.O_RDWR), False

  def _is_current(self, descriptor: int) -> bool:
    try:
      return os.path.samestat(os.fstat(descriptor), os.stat(self._path))
    except FileNotFoundError:
      return False

  def _identity(self) -> dict[str, Any]:
    now = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
    return {
      "host": platform.node() or socket.gethostname(),
      "machine": _machine(),
      "process": os.getpid(),
      "since": now.isoformat(),
      "token": uuid.uuid4().hex,
    }

  def _holder(self) -> dict[str, Any]:
    try:
      found = json.loads(self._path.read_text())
    except (OSError, ValueError):
      return {}
    return found if isinstance(found, dict) else {}

  def _age(self) -> float:
    """Seconds since the last touch, by the clock of the file system."""
    with tempfile.TemporaryFile(dir=self._folder) as now:
      try:
        return os.fstat(now.fileno()).st_mtime - os.stat(self._path).st_mtime
      except FileNotFoundError:
        return 0.0

  def _is_dead(self, holder: dict[str, Any], taken: bool | None) -> bool:
    if taken is False:
      return False
    if taken and holder.get("machine") == _machine():
      return True
    return self._age() > _STALE_S

  def _beat(self) -> None:
    while not self._released.wait(_BEAT_S):
      with contextlib.suppress(OSError):
        os.utime(self._path)

  def _in_use(self, holder: dict[str, Any]) -> str:
    who = f"process {holder.get('process', '?')} on {holder.get('host', '?')}"
    if holder.get("process") == os.getpid() and holder.get("machine") == _machine():
      who = "this very process"
    text = f"the store {self._folder} is in use by {who} since {holder.get('since', '?')}. One run "
    text += "at a time writes to a store: wait for it, or choose another store."
    if holder.get("machine") != _machine():
      text += f" A run that was killed there frees the store after {_STALE_S:.0f} s."
    return text
