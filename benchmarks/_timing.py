"""Fair timing: compile apart, results ready, contenders in alternating order, medians.

A row is a file ``benchmarks/<row>.py`` with ``build(size) -> Row``, where ``size`` is ``"toy"`` (a
second; runs in every test) or ``"full"``. Each row runs in a process of its own.
"""

import dataclasses
import importlib
import time
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np

_SLOW_S = 20.0
_ON_TORCH = ("torch", "libauc", "netcal")  # an extra of their own: PyTorch is large


@dataclasses.dataclass
class Contender:
  """One way to do a row's work.

  Attributes:
    name: library and method.
    run: does the work and returns its finished result.
    ours: whether it is this package's.
    compile_s: seconds of compilation, booked apart.
    accuracy: ``accuracy(result)``, the row's measure of how good a result is; None: exact.
    counts: whether it enters the ratio; False: shown for information.
  """

  name: str
  run: Callable[[], Any]
  ours: bool = False
  compile_s: float = 0.0
  accuracy: Callable[[Any], float] | None = None
  counts: bool = True


@dataclasses.dataclass
class Row:
  """Work that is timed.

  Attributes:
    name: name of the row.
    work: what is done, with sizes.
    contenders: who does it.
    accuracy: what ``Contender.accuracy`` measures, and the bound that all must meet.
    bound: the bound, or None.
    goal: ours divided by the fastest peer should be at most this.
    limit: name of the nearest hardware limit, or empty.
    limit_s: seconds at this limit, or None.
    note: what a reader must know.
  """

  name: str
  work: str
  contenders: list[Contender]
  accuracy: str = ""
  bound: float | None = None
  goal: float = 1.0
  limit: str = ""
  limit_s: float | None = None
  note: str = ""


def compiled(name: str, jitted: Callable, *args: Any, ours: bool = False, **kwargs: Any):
  """A contender from a jitted function: compiled ahead of time, its result waited for."""
  import jax

  start = time.perf_counter()
  executable = jitted.lower(*args).compile()
  seconds = time.perf_counter() - start
  run = lambda: jax.block_until_ready(executable(*args))
  return Contender(name, run, ours=ours, compile_s=seconds, **kwargs)


def first_call(function: Callable, *args: Any, **kwargs: Any) -> float:
  """Seconds that a second call does not take: compilation, for functions that cannot be lowered."""
  import jax

  seconds = []
  for _ in range(2):
    start = time.perf_counter()
    jax.block_until_ready(function(*args, **kwargs))
    seconds.append(time.perf_counter() - start)
  return max(0.0, seconds[0] - seconds[1])


def peer(name: str) -> ModuleType | None:
  """An optional library, or None with a printed line."""
  try:
    return importlib.import_module(name)
  except ImportError:
    extra = "peers-torch" if name in _ON_TORCH else "peers"
    print(f"skipped: {name} is not installed (pip install '.[{extra}]')", flush=True)
    return None


def loosest(
  make: Callable[[float], Contender], bound: float, *, tolerances: tuple[float, ...]
) -> Contender:
  """The contender at its loosest tolerance whose result meets the bound, so that none overworks.

  Args:
    make: makes the contender for a tolerance.
    bound: what its ``accuracy`` must not exceed.
    tolerances: candidates, falling; the last one is taken where none meets the bound.

  Returns:
    The contender.
  """
  compile_s = 0.0
  for tolerance in tolerances:
    contender = make(tolerance)
    assert contender.accuracy is not None
    # Where the tolerance is an argument only the first of them compiles.
    contender.compile_s = compile_s = max(compile_s, contender.compile_s)
    if contender.accuracy(contender.run()) <= bound:
      break
  return contender


def copy_seconds(num_bytes: int) -> float:
  """Seconds to move so many bytes at the memory bandwidth that a copy reaches here."""
  source = np.ones(1 << 24, np.float32)  # 64 MiB, beyond any cache
  target = np.empty_like(source)
  times = []
  for _ in range(5):
    start = time.perf_counter()
    np.copyto(target, source)
    times.append(time.perf_counter() - start)
  return num_bytes / (2 * source.nbytes / min(times))  # a copy reads and writes


def read_seconds(num_bytes: int) -> float:
  """Seconds to read so many bytes once, as fast as a matrix-vector product reads here."""
  matrix, vector = np.ones((1 << 12, 1 << 12), np.float32), np.ones(1 << 12, np.float32)
  times = []
  for _ in range(5):
    start = time.perf_counter()
    matrix @ vector
    times.append(time.perf_counter() - start)
  return num_bytes / (matrix.nbytes / min(times))


def measure(row: Row, *, repeats: int) -> dict[str, Any]:
  """Times all contenders of a row; each round visits them in turn, every other round backwards."""
  found: dict[str, Any] = {}
  rounds = {}
  for contender in row.contenders:  # warm-up, and what the result is worth
    start = time.perf_counter()
    result = contender.run()
    # A contender that is far behind is timed once: repeating it would not change the picture.
    rounds[contender.name] = 1 if time.perf_counter() - start > _SLOW_S else repeats
    value = None if contender.accuracy is None else float(contender.accuracy(result))
    found[contender.name] = {
      "ours": contender.ours,
      "compile_s": contender.compile_s,
      "accuracy": value,
      "times_s": [],
    }
  for turn in range(repeats):
    for contender in row.contenders[:: 1 if turn % 2 == 0 else -1]:
      if turn >= rounds[contender.name]:
        continue
      start = time.perf_counter()
      contender.run()
      found[contender.name]["times_s"].append(time.perf_counter() - start)
  for entry in found.values():
    entry["median_s"] = float(np.median(entry["times_s"]))
    # A contender that misses the bound did less work: it is shown, and not raced against.
    entry["valid"] = row.bound is None or (
      entry["accuracy"] is not None and entry["accuracy"] <= row.bound
    )
  racing = {c.name: found[c.name] for c in row.contenders if c.counts and found[c.name]["valid"]}
  peers = {n: e["median_s"] for n, e in racing.items() if not e["ours"]}
  fastest = min(peers, key=peers.__getitem__) if peers else None
  for entry in found.values():
    entry["ratio"] = entry["median_s"] / peers[fastest] if fastest else None
  ours = [e["ratio"] for e in racing.values() if e["ours"] and e["ratio"] is not None]
  return {
    "row": row.name,
    "work": row.work,
    "accuracy": row.accuracy,
    "bound": row.bound,
    "goal": row.goal,
    "contenders": found,
    "fastest_peer": fastest,
    "ratio": min(ours) if ours else None,
    "met": min(ours) <= row.goal if ours else None,
    "limit": row.limit,
    "limit_s": row.limit_s,
    "note": row.note,
  }
