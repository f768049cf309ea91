"""Progress of a long run on stderr: a bar where tqdm is installed, otherwise plain lines."""

import sys
import time
from typing import Any

import jax

__all__ = ["progress_bar"]

_EVERY_S = 5.0


class _Silent:
  def update(self, count: int) -> None: ...

  def close(self) -> None: ...


class _Lines:
  """A line every few seconds, and one at the end of a run that took so long."""

  def __init__(self, total: int) -> None:
    self._total, self._done, self._printed = total, 0, 0
    self._began = self._last = time.monotonic()

  def update(self, count: int) -> None:
    self._done += count
    if time.monotonic() - self._last >= _EVERY_S:
      self._print()

  def close(self) -> None:
    if self._printed != self._done:
      self._print()

  def _print(self) -> None:
    self._last, self._printed = time.monotonic(), self._done
    seconds = self._last - self._began
    print(f"sweep: {self._done}/{self._total} points, {seconds:.0f} s", file=sys.stderr, flush=True)


def progress_bar(total: int, *, show: bool) -> Any:
  """An object with ``update(count)`` and ``close()``; silent on all processes but the first."""
  if not show or jax.process_index() != 0:
    return _Silent()
  try:
    import tqdm
  except ImportError:
    return _Lines(total)
  return tqdm.tqdm(total=total, unit="point", desc="sweep")
