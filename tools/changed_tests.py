"""Prints the tests of what differs from the main branch: arguments for pytest.

    pytest $(python tools/changed_tests.py)

Compared are the working tree (committed, staged, unstaged and untracked) and the commit at which
the branch left ``main``; on ``main`` itself, the upstream branch, or else the last commit. A change
of ``jaxopt_robust/prox/`` asks for the tests of ``tests/prox/``, which hold the contracts of its
registries, and for the examples in the changed files. The tests of all public names come always.
"""

import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).parents[1]
PACKAGE = "jaxopt_robust"
ALWAYS = ["tests/test_public.py", "tests/test_bad_inputs.py"]
# Top-level files and folders that have one test file.
SINGLE = {
  "README.md": "readme",
  "CITATION.cff": "citation",
  "benchmarks": "benchmarks",
  "notebooks": "notebooks",
  "docs": "docs",
}
# Modules whose tests are named otherwise.
RENAMED = {"debug": "debug_and_deprecations", "_deprecations": "debug_and_deprecations"}


def git(*arguments: str, root: Path = ROOT) -> list[str]:
  """Lines that a git command prints; none where it fails."""
  done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True)
  return done.stdout.splitlines() if done.returncode == 0 else []


def changed_files(root: Path = ROOT, main: str = "main") -> list[str]:
  """Paths that differ from where this branch left the main branch."""
  branch = git("rev-parse", "--abbrev-ref", "HEAD", root=root)
  others = ["@{upstream}"] if branch == [main] else [main, f"origin/{main}"]
  bases = (git("merge-base", "HEAD", other, root=root) for other in others)
  base = next((found[0] for found in bases if found), "HEAD")
  changed = git("diff", "--name-only", "--no-renames", base, root=root)
  return sorted({*changed, *git("ls-files", "--others", "--exclude-standard", root=root)})


def _of_module(name: str) -> list[str]:
  test = RENAMED.get(name, name).strip("_")
  return [f"tests/{test}", f"tests/test_{test}.py"]


def tests_of(path: str) -> list[str]:
  """Tests of one file of the repository; some of them may not exist."""
  parts = PurePosixPath(path).parts
  stem = PurePosixPath(path).stem
  if parts[0] == PACKAGE:
    examples = [path] if path.endswith(".py") else []
    return examples + _of_module(parts[1].removesuffix(".py"))
  if parts[0] == "experiments":
    name = stem.strip("_")
    own = [f"tests/experiments/test_{name}.py"]
    if not stem.startswith("_"):
      nodes = [
        "test_toy_run_gives_a_record_and_a_figure",
        "test_committed_record_is_current",
      ]
      own += [f"tests/experiments/test_experiments.py::{node}[{stem}]" for node in nodes]
    return own
  if parts[0] == "tools":
    return ["tests/tools"]
  if parts[0] in SINGLE:
    extra = ["tests/test_migration.py"] if stem == "migration" else []
    return [f"tests/test_{SINGLE[parts[0]]}.py", *extra]
  if parts[0] != "tests" or not path.endswith(".py"):
    return []
  if parts[1] == "registries":
    return _of_module(stem.partition("_")[0])
  if stem.startswith("test_"):
    return [path]
  # A helper of one folder: all of its tests. (tests/helpers.py serves all: the short ones only.)
  return [f"tests/{parts[1]}"] if len(parts) > 2 else []


def _exists(test: str, root: Path) -> bool:
  file, _, node = test.partition("::")
  # An experiment's cases are those of its record; a new one without a record fails elsewhere.
  record = f"experiments/records/{node.partition('[')[2][:-1]}.json"
  return (root / file).exists() and (not node or (root / record).exists())


def selected(paths: Iterable[str], root: Path = ROOT) -> list[str]:
  """Arguments for pytest: existing files and folders, each once, none inside another."""
  wanted = [*ALWAYS, *(test for path in paths for test in tests_of(path))]
  found = [test for test in dict.fromkeys(wanted) if _exists(test, root)]
  inside = lambda test, other: test != other and test.startswith((f"{other}/", f"{other}::"))
  return [test for test in found if not any(inside(test, other) for other in found)]


if __name__ == "__main__":
  arguments = selected(changed_files())
  print("tests:", *arguments, file=sys.stderr)
  print(*arguments)
