"""The command line of the experiments, on fake experiments."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from experiments import _records, _runner, datasets
from experiments.__main__ import main
from experiments._claims import Amendment

ROOT = Path(__file__).parents[2]


def test_list_names_every_experiment_and_its_first_line(fakes, capsys):
  assert main(["list"]) == 0
  lines = capsys.readouterr().out.splitlines()
  assert [line.split()[0] for line in lines] == ["group", "a_good", "b_bad", "c_quiet"]
  assert "demo" in lines[1] and "demo" not in lines[3] and lines[1].endswith("A fake.")


def test_help_of_an_experiment_explains_its_settings(fakes, capsys):
  assert main(["run", "a_good", "--help"]) == 0
  out = capsys.readouterr().out
  assert "rate=0.5\n      what is multiplied with the seed." in out and "sizes=1,2" in out
  assert "first_seed=0\n      the first of them; 0 to 99 are for development" in out
  assert main(["run", "a_god", "-h"]) == 2


def test_list_goes_on_past_a_broken_file(fakes, monkeypatch, capsys):
  monkeypatch.delattr(fakes["a_good"], "figure")
  assert main(["list"]) == 1
  out = capsys.readouterr().out
  assert "lacks figure" in out and "c_quiet" in out


def test_the_real_command_line_starts():
  # One process for all of it: importing JAX costs seconds.
  done = subprocess.run(
    [sys.executable, "-m", "experiments", "run", "no_such_thing"],
    cwd=ROOT,
    capture_output=True,
    text=True,
    env={**os.environ, "JAX_PLATFORMS": "cpu"},
    check=False,
  )
  assert done.returncode == 2
  assert "no_such_thing" in done.stderr and "Traceback" not in done.stderr
  for name in _runner.names():
    assert name in done.stderr


def test_unknown_command_and_unknown_size_are_refused(fakes, capsys):
  for args in (["dance"], ["run", "a_good", "--size", "huge"], ["run"]):
    with pytest.raises(SystemExit) as stop:
      main(args)
    assert stop.value.code == 2
  assert "huge" in capsys.readouterr().err


def test_run_writes_record_and_figure(fakes, tmp_path, capsys):
  assert main(["run", "a_good", "--size", "toy", "--out", str(tmp_path)]) == 0
  record = json.loads((tmp_path / "a_good.json").read_text())
  assert record["size"] == "toy" and record["seeds"] == [0]
  assert record["settings"] == {
    "seeds": 1, "first_seed": 0, "rate": 0.5, "label": "plain", "flag": False, "sizes": [1, 2]
  }  # fmt: skip
  assert record["versions"]["jax"] == jax.__version__
  assert record["device"]["platform"] == jax.devices()[0].platform
  assert (tmp_path / "a_good.png").read_bytes().startswith(b"\x89PNG")
  assert "fake <b>" in capsys.readouterr().out


def test_set_and_seeds_change_the_settings(fakes, tmp_path):
  args = ["--seeds", "3", "--set", "rate=0.25", "label=x=y", "--set", "flag=true", "sizes=4,5,6"]
  assert main(["run", "a_good", "--out", str(tmp_path), *args]) == 0
  record = json.loads((tmp_path / "a_good.json").read_text())
  assert record["settings"] == {
    "seeds": 3, "first_seed": 0, "rate": 0.25, "label": "x=y", "flag": True, "sizes": [4, 5, 6]
  }  # fmt: skip
  assert record["metrics"]["fake"]["values"] == [0.0, 0.25, 0.5]


@pytest.mark.parametrize(
  ("args", "message"),
  [
    (
      ["--set", "pace=1"],
      "no setting 'pace'. There are: seeds, first_seed, rate, label, flag, sizes",
    ),
    (["--set", "rate=fast"], "'fast' is not of type float"),
    (["--set", "rate"], "takes key=value"),
    (["--set", "flag=maybe"], "true or false"),
    (["--set", "sizes=1,b"], "'b' is not of type int"),
    (["--set", "seeds=2.5"], "is not of type int"),
    (["--set", "rate=7"], "rate must be at most 1"),
    (["--seeds", "0"], "at least 1"),
    (["--device", "tpu"], "JAX sees no tpu here"),
  ],
)
def test_mistakes_get_one_clear_line(fakes, tmp_path, capsys, args, message):
  assert main(["run", "a_good", "--out", str(tmp_path), *args]) == 2
  assert message in capsys.readouterr().err.replace("\n", " ")
  assert not list(tmp_path.glob("*.json"))


def test_an_unknown_name_lists_what_exists(fakes, capsys):
  assert main(["run", "a_god"]) == 2
  message = capsys.readouterr().err
  assert "Did you mean 'a_good'? There are: a_good, b_bad, c_quiet." in message.replace("\n", " ")
  assert main(["run", "a_good", "--set", "rat=2"]) == 2
  assert "no setting 'rat'. Did you mean 'rate'?" in capsys.readouterr().err.replace("\n", " ")


def test_a_failing_run_leaves_a_note_and_raises(fakes, tmp_path):
  with pytest.raises(FloatingPointError):
    main(["run", "b_bad", "--out", str(tmp_path)])
  note = json.loads((tmp_path / "b_bad.error.json").read_text())
  assert note["error"].startswith("FloatingPointError: ") and "Traceback" in note["traceback"]


def test_demo_reports_a_failure_and_keeps_the_others(fakes, tmp_path, capsys):
  assert main(["demo", "--out", str(tmp_path)]) == 1
  out = capsys.readouterr().out
  assert "1 of 2 experiments failed" in out and "c_quiet" not in out
  assert (tmp_path / "a_good.json").exists() and not (tmp_path / "b_bad.json").exists()
  page = (tmp_path / "index.html").read_text()
  assert "This run failed: FloatingPointError" in page and "Fake &lt;title&gt;" in page


def test_demo_without_failures_succeeds(fakes, tmp_path, monkeypatch):
  monkeypatch.setattr(fakes["b_bad"], "run", fakes["a_good"].run)
  (tmp_path / "b_bad.error.json").write_text('{"name": "b_bad", "error": "old"}')
  assert main(["demo", "--out", str(tmp_path)]) == 0
  assert not (tmp_path / "b_bad.error.json").exists()
  assert "This run failed" not in (tmp_path / "index.html").read_text()


def test_an_interrupt_keeps_what_is_finished(fakes, tmp_path, monkeypatch):
  def interrupt(config, progress):
    raise KeyboardInterrupt

  monkeypatch.setattr(fakes["b_bad"], "run", interrupt)
  assert main(["demo", "--out", str(tmp_path)]) == 130
  assert (tmp_path / "a_good.json").exists() and (tmp_path / "index.html").exists()
  assert not (tmp_path / "b_bad.error.json").exists()


def test_writing_is_all_or_nothing(tmp_path, monkeypatch):
  path = tmp_path / "x.json"
  _records.write_atomically(path, "old")

  def crash(*_):
    raise OSError("disk full")

  with monkeypatch.context() as patch:
    patch.setattr(os, "replace", crash)
    with pytest.raises(OSError, match="disk full"):
      _records.write_atomically(path, "new")
  assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_record_runs_on_report_seeds(fakes, tmp_path, monkeypatch, capsys):
  monkeypatch.setattr(_records, "RECORDS", tmp_path / "records")
  out = ["--out", str(tmp_path)]
  assert main(["record", "a_good", "--judge", *out]) == 2  # nothing to judge
  assert main(["record", "a_good", *out]) == 0
  path = tmp_path / "records" / "a_good.json"
  record = json.loads(path.read_text())
  assert record["seeds"] == [1000, 1001] and record["size"] == "desk"
  assert record["metrics"]["fake"]["values"] == [500.0, 500.5]
  assert (tmp_path / "a_good.json").read_text() == path.read_text()
  assert "HOLDS (paper): A claim" in capsys.readouterr().out


def test_judging_again_takes_amended_claims(fakes, tmp_path, monkeypatch, capsys):
  monkeypatch.setattr(_records, "RECORDS", tmp_path / "records")
  out = ["--out", str(tmp_path)]
  assert main(["record", "a_good", *out]) == 0
  path, module = tmp_path / "records" / "a_good.json", fakes["a_good"]
  before, old = json.loads(path.read_text()), module.claims
  monkeypatch.setattr(module, "run", None)  # nothing is run
  wider = lambda claim: claim._replace(ours=claim.ours._replace(values=[0.0, 1.0]))
  for changed in (
    lambda m, c: [*old(m, c), old(m, c)[0]._replace(key="another")],
    lambda m, c: [wider(old(m, c)[0])],
    lambda m, c: [old(m, c)[0]._replace(text="Stronger.", margin=5000.0)],
  ):
    module.claims = changed
    assert main(["record", "a_good", "--judge", *out]) == 2
    assert main(["record", "a_good", *out]) == 2  # before anything is run
  assert "need an entry in AMENDED" in capsys.readouterr().err
  assert json.loads(path.read_text()) == before
  said = Amendment("below", "2026-11-28", before["claims"][0]["text"], "Stronger.", "The page.")
  module.AMENDED = (said,)
  assert main(["record", "a_good", "--judge", *out]) == 0
  record = json.loads(path.read_text())
  assert record["claims"][0]["verdict"] == "fails" and record["metrics"] == before["metrics"]
  assert record["amended"] == [said._asdict()]
  del module.AMENDED


def test_runs_do_not_overwrite_committed_records(fakes, tmp_path, monkeypatch, capsys):
  monkeypatch.setattr(_records, "RECORDS", tmp_path)
  for command in (
    ["run", "a_good", "--size", "toy"],
    ["demo", "--size", "toy"],
    ["record", "a_good"],
  ):
    assert main([*command, "--out", str(tmp_path)]) == 2
    assert "holds the committed records" in capsys.readouterr().err
  assert not list(tmp_path.iterdir())


def test_figure_command_draws_committed_records_only(fakes, tmp_path, monkeypatch, capsys):
  monkeypatch.setattr(_records, "RECORDS", tmp_path / "records")
  to = ["--to", str(tmp_path / "images")]
  assert main(["figure", "a_good", *to]) == 2
  assert "has no committed record" in capsys.readouterr().err
  assert main(["record", "a_good", "--out", str(tmp_path)]) == 0
  assert main(["figure", "a_good", *to]) == 0
  assert (tmp_path / "images" / "a_good.png").read_bytes().startswith(b"\x89PNG")


def test_datasets_command(fakes, monkeypatch, capsys, tmp_path):
  assert main(["datasets", "list"]) == 0
  assert "mnist5k" in capsys.readouterr().out
  assert main(["datasets", "list", "letter"]) == 2
  assert main(["datasets", "fetch"]) == 2
  calls = []

  def fetch(name, *, folder, scratch):
    calls.append((name, folder, scratch))
    return [Path("cache") / name]

  monkeypatch.setattr(datasets, "fetch", fetch)
  assert main(["datasets", "fetch", "letter", "leter"]) == 2
  assert "no data set 'leter'. Did you mean 'letter'?" in capsys.readouterr().err
  assert calls == []  # not even the one that is right
  assert main(["datasets", "fetch", "letter", "satimage", "--from", str(tmp_path)]) == 0
  out = capsys.readouterr().out
  assert str(Path("cache") / "letter") in out and str(Path("cache") / "satimage") in out
  assert [call[:2] for call in calls] == [("letter", tmp_path), ("satimage", tmp_path)]
  assert calls[0][2] == calls[1][2]  # one folder of downloads
