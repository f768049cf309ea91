"""Plants small faults in a module, runs its tests, and prints the faults that no test sees.

    python tools/mutants.py prox --count 20 --seed 0
    python tools/mutants.py prox --file jaxopt_robust/prox/l1.py --workers 2 --out survivors.json

What survives is a missing test or a change that makes no difference; a person judges which. Equal
seeds plant equal faults. The working tree is never touched: each worker has a copy in a temporary
folder. The first run of a module records, test by test, which statements it runs (kept in
``build/mutants`` until the module or the test file changes); a fault then meets only the tests that
run its statement, those of the test file that is named like it first. Tests run in forks of a
process that has imported JAX and the other libraries already. A fault that makes the tests take
three times as long (plus half a minute) counts as killed.
"""

import argparse
import ast
import contextlib
import hashlib
import importlib
import json
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from faults import Fault, faults_of, with_probes

PACKAGE = "jaxopt_robust"
COPIED = (PACKAGE, "tests", "experiments", "tools", "conftest.py", "pyproject.toml", "Makefile")
SHARED_TESTS = "tests/test_bad_inputs.py"  # of all modules; only the cases of this one are run
OPTIONS = ["-q", "-x", "-p", "no:cacheprovider", "-p", "no:xdist", "--tb=line"]
GRACE = 30.0  # seconds on top of three times the unmutated time


class Recorder:
  """A pytest plugin: seconds, outcome and executed statements of each test."""

  def __init__(self, only: str, out: Path) -> None:
    self.only, self.out = only, out
    self.tests: dict[str, dict[str, Any]] = {}
    self.hits: set[tuple[str, int]] = set()
    self.spawned = False
    import builtins

    builtins._probe_hit = lambda path, line: self.hits.add((path, line))
    sys.addaudithook(self._audit)

  def _audit(self, event: str, args: tuple) -> None:
    self.spawned = self.spawned or event in ("subprocess.Popen", "os.fork")

  def pytest_collection_modifyitems(self, items: list) -> None:
    items[:] = [item for item in items if self.only in item.nodeid]

  @pytest.hookimpl(wrapper=True)
  def pytest_runtest_protocol(self, item: Any, nextitem: Any) -> Any:
    # A program that an earlier test has traced already would not run its statements again.
    for name, module in list(sys.modules.items()):
      if name.startswith(PACKAGE):
        for value in list(vars(module).values()):
          if hasattr(value, "clear_cache") and callable(value):
            value.clear_cache()
    self.hits.clear()
    self.spawned, self.good, began = False, True, time.monotonic()
    result = yield
    files: dict[str, list[int]] = {}
    for path, line in sorted(self.hits):
      files.setdefault(path, []).append(line)
    self.tests[item.nodeid] = {
      "seconds": round(time.monotonic() - began, 3),
      "passed": self.good,
      "spawns": self.spawned,
      "hits": files,
    }
    return result

  def pytest_runtest_logreport(self, report: Any) -> None:
    self.good = self.good and not report.failed

  def pytest_sessionfinish(self) -> None:
    self.out.write_text(json.dumps(self.tests))


class Chosen:
  """A pytest plugin: runs the given tests in the given order."""

  def __init__(self, nodeids: list[str]) -> None:
    self.rank = {nodeid: i for i, nodeid in enumerate(nodeids)}

  def pytest_collection_modifyitems(self, items: list) -> None:
    items[:] = sorted(
      (item for item in items if item.nodeid in self.rank), key=lambda i: self.rank[i.nodeid]
    )


class Forks:
  """Runs pytest in forks, a few at a time."""

  def __init__(self, workers: int) -> None:
    self.free = list(range(workers))
    self.running: dict[int, tuple[int, float, Any]] = {}

  def start(self, tree: Path, args: list[str], plugin: Any, log: Path, limit: float, job: Any):
    """Runs pytest in ``tree``; ``wait`` gives ``job`` back when it ends."""
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
      code = 3
      try:
        os.setsid()
        os.chdir(tree)
        out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(out, 1)
        os.dup2(out, 2)
        sys.path.insert(0, str(tree))
        os.environ["PYTHONPATH"] = str(tree)
        code = int(pytest.main([*OPTIONS, *args], plugins=[plugin]))
      except BaseException:
        traceback.print_exc()
      finally:
        sys.stdout.flush()
        os._exit(code)
    self.running[pid] = (self.free.pop(0), time.monotonic() + limit, job)

  def wait(self) -> tuple[Any, int | str]:
    """Waits until one run ends: its job, and the exit code of pytest, "timeout" or "crash"."""
    while True:
      for pid, (slot, deadline, job) in list(self.running.items()):
        done, status = os.waitpid(pid, os.WNOHANG)
        late = not done and time.monotonic() > deadline
        if not (done or late):
          continue
        with contextlib.suppress(ProcessLookupError):
          os.killpg(pid, signal.SIGKILL)  # what the tests have started too
        if late:
          os.waitpid(pid, 0)
        del self.running[pid]
        self.free.append(slot)
        crashed = not late and os.WIFSIGNALED(status)
        return job, "timeout" if late else "crash" if crashed else os.WEXITSTATUS(status)
      time.sleep(0.02)


def set_up_jax(root: Path) -> None:
  """The compiler flags of the Makefile and a shared cache, before JAX is imported."""
  makefile = root / "Makefile"
  if "XLA_FLAGS" not in os.environ and makefile.exists():
    match = re.search(r"^TEST_XLA_FLAGS \?= ((?:.*\\\n)*.*)$", makefile.read_text(), re.M)
    os.environ["XLA_FLAGS"] = match.group(1).replace("\\\n", " ") if match else ""
  os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(root / ".jax_cache"))
  os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.02")


def import_libraries(files: list[Path]) -> None:
  """Imports what the files import, except what lies in this repository."""
  names = set()
  for file in files:
    text = file.read_text()
    names |= set(re.findall(r"importorskip\(\"([\w.]+)\"", text))
    for node in ast.walk(ast.parse(text)):
      if isinstance(node, ast.Import):
        names |= {alias.name for alias in node.names}
      elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
        names.add(node.module)
  own = {PACKAGE, "tests", "experiments", "benchmarks", "tools"}
  for name in sorted(names):
    if name.partition(".")[0] not in own:
      with contextlib.suppress(Exception):
        importlib.import_module(name)


def files_of(root: Path, module: str) -> tuple[list[Path], list[Path]]:
  """Source files and test files of a module."""
  package = root / PACKAGE
  sources = sorted((package / module).rglob("*.py")) or [package / f"{module}.py"]
  name = module.strip("_")
  tests = sorted((root / "tests" / name).rglob("test_*.py"))
  tests += [f for f in (root / "tests" / f"test_{name}.py", root / SHARED_TESTS) if f.exists()]
  if not sources[0].exists() or not tests:
    raise SystemExit(f"{module}: there is no such module below {package}, or it has no tests")
  return sources, tests


def digests(root: Path, files: Iterable[Path]) -> dict[str, str]:
  return {str(f.relative_to(root)): hashlib.sha256(f.read_bytes()).hexdigest()[:16] for f in files}


def record(
  root: Path, module: str, planted: set[str], forks: Forks, scratch: Path
) -> dict[str, dict[str, Any]]:
  """What each test of the module runs: test -> seconds, passed, spawns, hits."""
  sources, tests = files_of(root, module)
  kept = root / "build" / "mutants"
  kept.mkdir(parents=True, exist_ok=True)
  tree = copy_tree(root, scratch / "probed")
  for source in sources:
    path = str(source.relative_to(root))
    (tree / path).write_text(with_probes(source.read_text(), path))
  tool = hashlib.sha256(Path(__file__).with_name("faults.py").read_bytes()).hexdigest()[:16]
  states = {**digests(root, sources), "tool": tool}
  doctests = [root / path for path in sorted(planted) if ">>>" in (root / path).read_text()]

  def start(file: Path) -> None:
    only = f"[{module}." if str(file).endswith(SHARED_TESTS) else ""
    args = ["--maxfail=0", str(file.relative_to(root))]
    args += ["--doctest-modules"] if file in doctests else []
    log, out = scratch / f"{file.stem}.log", scratch / f"{file.stem}.json"
    forks.start(tree, args, LateRecorder(only, out), log, 3600.0, (file, log, out))

  records, waiting = {}, []
  for file in [*tests, *doctests]:
    wanted = {path: states[path] for path in [*planted, "tool"]} | digests(root, [file])
    path = kept / f"{module}-{str(file.relative_to(root)).replace('/', '-')}.json"
    found = json.loads(path.read_text()) if path.exists() else {"state": {}}
    if wanted.items() <= found["state"].items():
      records[path] = found
    else:
      waiting.append(file)
  if waiting:
    print(f"{module}: recording what {len(waiting)} test files run", file=sys.stderr, flush=True)
  while waiting or forks.running:
    while waiting and forks.free:
      start(waiting.pop(0))
    (file, log, out), code = forks.wait()
    if code not in (0, 1, 5) or not out.exists():
      raise SystemExit(f"{file}: pytest ended with {code}\n{log.read_text()[-3000:]}")
    path = kept / f"{module}-{str(file.relative_to(root)).replace('/', '-')}.json"
    state = states | digests(root, [file])
    records[path] = {"state": state, "tests": json.loads(out.read_text())}
    path.write_text(json.dumps(records[path]))
  merged = {name: test for found in records.values() for name, test in found["tests"].items()}
  for nodeid in [n for n, test in merged.items() if not test["passed"]]:
    print(f"left out, since it fails without a fault: {nodeid}", file=sys.stderr)
    del merged[nodeid]
  return merged


class LateRecorder:
  """Makes the recorder in the fork: it hooks into the process that it is made in."""

  def __init__(self, *arguments: Any) -> None:
    self.arguments = arguments

  def pytest_configure(self, config: Any) -> None:
    config.pluginmanager.register(Recorder(*self.arguments), "recorder")


def copy_tree(root: Path, target: Path) -> Path:
  for name in COPIED:
    if (root / name).is_dir():
      ignored = shutil.ignore_patterns("__pycache__", "*.png", "*.json.gz")
      shutil.copytree(root / name, target / name, ignore=ignored)
    elif (root / name).exists():
      target.mkdir(exist_ok=True)
      shutil.copy(root / name, target / name)
  return target


def tests_for(fault: Fault, recorded: dict[str, dict[str, Any]]) -> list[str]:
  """Tests that may see a fault, the most promising first."""
  stem = Path(fault.path).stem.strip("_")

  def rank(nodeid: str) -> tuple | None:
    test = recorded[nodeid]
    lines = test["hits"].get(fault.path, [])
    exact = fault.probe in lines or (fault.probe is None and bool(lines))
    if not (exact or lines or test["spawns"]):
      return None
    file = nodeid.partition("::")[0]
    named = stem in Path(file).stem
    return (not exact, not named, "contract" not in file, test["seconds"])

  ranked = {nodeid: rank(nodeid) for nodeid in recorded}
  chosen = [n for n, r in ranked.items() if r is not None]
  # A statement that no test was seen to run: only tests in other processes may reach it.
  if all(ranked[n][0] for n in chosen):
    chosen = [n for n in chosen if recorded[n]["spawns"]]
  hit_files = {n.partition("::")[0] for n in chosen if not ranked[n][0]}
  chosen = [n for n in chosen if n.partition("::")[0] in hit_files or recorded[n]["spawns"]]
  return sorted(chosen, key=lambda n: (ranked[n], n))


def choose(faults: list[Fault], count: int, seed: int) -> list[Fault]:
  """Faults of all kinds in turn; a second one of a line only when every line has one."""
  rng = random.Random(seed)
  rng.shuffle(faults)
  kinds = sorted({fault.kind for fault in faults})
  rng.shuffle(kinds)
  waiting = {kind: [fault for fault in faults if fault.kind == kind] for kind in kinds}
  firsts, seconds, lines = [], [], set()
  while any(waiting.values()) and len(firsts) < count:
    for kind in kinds:
      while waiting[kind]:
        fault = waiting[kind].pop()
        if (fault.path, fault.line) in lines:
          seconds.append(fault)
          continue
        lines.add((fault.path, fault.line))
        firsts.append(fault)
        break
  return [*firsts, *seconds][:count]


def describe(fault: Fault) -> str:
  return f"{fault.path}:{fault.line} {fault.kind}: {fault.before}  ->  {fault.after}"


def main() -> int:
  parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
  parser.add_argument("module", help="prox, losses, solvers, ...")
  parser.add_argument("--count", type=int, default=20, help="faults (default 20)")
  parser.add_argument("--seed", type=int, default=0)
  parser.add_argument("--file", help="plant in this file of the module only")
  parser.add_argument("--workers", type=int, default=2, help="tests at once (default 2)")
  parser.add_argument("--out", type=Path, help="write all faults and their fate as JSON")
  parser.add_argument("--list", action="store_true", help="print the faults and run nothing")
  parser.add_argument("--root", type=Path, default=Path(__file__).parents[1], help="repository")
  options = parser.parse_args()
  root, module = options.root.resolve(), options.module
  sources, tests = files_of(root, module)
  if options.file:
    sources = [(root / options.file).resolve()]
  faults = [
    fault for source in sources for fault in faults_of(source.read_text(), source.relative_to(root))
  ]
  faults = choose(faults, options.count, options.seed)
  if options.list:
    print("\n".join(describe(fault) for fault in faults))
    return 0
  set_up_jax(root)
  warnings.filterwarnings("ignore", message=r".*os\.fork\(\)")
  import_libraries([*files_of(root, module)[0], *tests, *(root / "tests").glob("*.py")])
  with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
    return run(options, root, faults, Path(folder))


def run(options: Any, root: Path, faults: list[Fault], scratch: Path) -> int:
  forks, module = Forks(options.workers), options.module
  recorded = record(root, module, {fault.path for fault in faults}, forks, scratch)
  trees = [copy_tree(root, scratch / f"tree{i}") for i in range(options.workers)]
  fates: dict[Fault, str] = {}
  waiting = list(faults)
  while waiting or forks.running:
    while waiting and forks.free:
      fault = waiting.pop(0)
      tests = tests_for(fault, recorded)
      if not tests:
        fates[fault] = "survived (no test runs it)"
        print(f"SURVIVED, no test runs it  {describe(fault)}", flush=True)
        continue
      tree = trees[forks.free[0]]
      file, source = tree / fault.path, (root / fault.path).read_text()
      file.write_text(fault.plant(source))
      for compiled in (file.parent / "__pycache__").glob(f"{file.stem}.*"):
        compiled.unlink()
      limit = 3 * sum(recorded[test]["seconds"] for test in tests) + GRACE
      paths = list(dict.fromkeys(test.partition("::")[0] for test in tests))
      doctests = ["--doctest-modules"] if any(p.startswith(PACKAGE) for p in paths) else []
      log = scratch / f"{len(fates)}-{fault.line}.log"
      job = (fault, file, source, log, time.monotonic())
      forks.start(tree, [*doctests, *paths], Chosen(tests), log, limit, job)
    if not forks.running:
      break
    (fault, file, source, log, began), code = forks.wait()
    file.write_text(source)
    if code in (3, 4, 5):
      raise SystemExit(f"{describe(fault)}: pytest ended with {code}\n{log.read_text()[-3000:]}")
    failed = re.search(r"^(?:FAILED|ERROR) (\S+)", log.read_text(), re.M)
    by = f" ({code})" if isinstance(code, str) else f" by {failed.group(1)}" if failed else ""
    fates[fault] = fate = "survived" if code == 0 else f"killed{by}"
    seconds = time.monotonic() - began
    print(f"{'SURVIVED' if code == 0 else 'killed'}  {seconds:.0f} s  {describe(fault)}", end="")
    print("" if code == 0 else f"  [{fate}]", flush=True)
  survivors = [fault for fault in faults if fates[fault].startswith("survived")]
  killed = len(faults) - len(survivors)
  share = round(100 * killed / max(len(faults), 1))
  names = ", ".join(f"{fault.path}:{fault.line} ({fault.kind})" for fault in survivors) or "none"
  print(f"{module}: {len(faults)} mutants, {killed} killed ({share} %), survivors: {names}")
  if options.out:
    rows = [{**fault._asdict(), "fate": fates[fault]} for fault in faults]
    options.out.write_text(json.dumps(rows, indent=2) + "\n")
  return 0


if __name__ == "__main__":
  sys.exit(main())
