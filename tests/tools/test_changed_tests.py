"""Which tests a change asks for, and which files count as changed."""

import importlib.util
import pathlib
import subprocess

import pytest

ROOT = pathlib.Path(__file__).parents[2]
SPEC = importlib.util.spec_from_file_location("changed_tests", ROOT / "tools" / "changed_tests.py")
changed_tests = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(changed_tests)


@pytest.mark.parametrize(
  ("path", "tests"),
  [
    ("jaxopt_robust/prox/l1.py", ["jaxopt_robust/prox/l1.py", "tests/prox"]),
    ("jaxopt_robust/prox/removed.py", ["tests/prox"]),
    ("jaxopt_robust/numerics.py", ["jaxopt_robust/numerics.py", "tests/test_numerics.py"]),
    (
      "jaxopt_robust/debug.py",
      ["jaxopt_robust/debug.py", "tests/test_debug_and_deprecations.py"],
    ),
    ("jaxopt_robust/_checks.py", ["jaxopt_robust/_checks.py"]),
    ("tests/solvers/test_drive.py", ["tests/solvers/test_drive.py"]),
    ("tests/sweeps/programs.py", ["tests/sweeps"]),
    ("tests/registries/prox_scalar.py", ["tests/prox"]),
    ("tests/helpers.py", []),
    ("tools/mutants.py", ["tests/tools"]),
    ("docs/migration.md", ["tests/test_docs.py", "tests/test_migration.py"]),
    ("LICENSE", []),
  ],
)
def test_a_file_asks_for_its_tests(path, tests):
  assert changed_tests.selected([path]) == [*changed_tests.ALWAYS, *tests]


def test_an_experiment_asks_for_its_cases_and_files_inside_a_chosen_folder_are_not_repeated():
  cases = changed_tests.selected(["experiments/recovery/robust_pca.py", "experiments/_unknown.py"])[
    2:
  ]
  assert cases and all(case.endswith("[robust_pca]") for case in cases)
  text = (ROOT / "tests" / "experiments" / "test_experiments.py").read_text()
  for case in cases:
    assert f"def {case.partition('::')[2].partition('[')[0]}(" in text
  folder = changed_tests.selected(["jaxopt_robust/sweeps/run.py", "tests/sweeps/test_run.py"])[2:]
  assert folder == ["jaxopt_robust/sweeps/run.py", "tests/sweeps"]


def test_committed_staged_unstaged_and_untracked_files_count(tmp_path):
  def git(*arguments):
    identity = ["-c", "user.name=n", "-c", "user.email=e@example.org"]
    subprocess.run(["git", *identity, *arguments], cwd=tmp_path, check=True, capture_output=True)

  def write(name, text):
    (tmp_path / name).write_text(text)

  git("init", "-b", "main")
  for name in ("kept", "committed", "staged", "unstaged", "removed", ".gitignore"):
    write(name, "ignored\n")
  git("add", ".")
  git("commit", "-m", "first")
  assert changed_tests.changed_files(tmp_path) == []
  git("checkout", "-b", "topic")
  write("committed", "new")
  git("commit", "-am", "second")
  git("checkout", "main")
  write("later", "only on main")
  git("add", ".")
  git("commit", "-m", "third")
  write("kept", "new on main")
  assert changed_tests.changed_files(tmp_path) == ["kept"], "on main: against the last commit"
  git("checkout", "--", "kept")
  git("checkout", "topic")
  write("staged", "new")
  git("add", ".")
  write("unstaged", "new")
  write("untracked", "new")
  write("ignored", "new")
  (tmp_path / "removed").unlink()
  expected = ["committed", "removed", "staged", "unstaged", "untracked"]
  assert changed_tests.changed_files(tmp_path) == expected
