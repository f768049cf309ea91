"""Each experiment at toy size, and each committed record: complete, current, drawable."""

import functools
import json
import re

import jax
import pytest

from experiments import _records, _runner
from experiments._protocol import RECORD_FORMAT, RECORD_KEYS, REPORT_SEED, Progress, to_json

NAMES = _runner.names()
ONE_A_FOLDER = sorted({folder: name for name, folder in _runner.groups().items()}.values())
RECORDS = sorted(path.stem for path in _records.RECORDS.glob("*.json"))
VERSIONS = {"python", "jax", "jaxlib", "numpy", "optax", "jaxopt_robust"}


@functools.cache
def toy_record(name):
  module = _runner.load(name)
  return _records.execute(name, module, _runner.settings_of(module, "toy"), size="toy")


def check_record(record, name):
  assert record["name"] == name
  assert set(record["versions"]) == VERSIONS and all(record["versions"].values())
  assert record["paper"]["title"] and record["paper"]["claim"]
  assert record["table"] and record["claims"]
  wall = record["wall"]
  assert wall["total_s"] >= wall["compile_s"] >= 0
  assert set(record) == set(RECORD_KEYS) and record["format"] == RECORD_FORMAT
  assert len(record["seeds"]) == record["settings"]["seeds"] >= 1
  assert record["differs"]
  for row in record["table"]:
    assert row["ours"]["center"] is not None, f"{row['method']}: our figure is not finite"


@pytest.mark.parametrize("name", NAMES)
def test_toy_run_gives_a_record_and_a_figure(name, tmp_path):
  module = _runner.load(name)
  assert 1 <= len(_runner.first_line(module.__doc__)) <= 100
  record = toy_record(name)
  check_record(record, name)
  _records.save(module, json.loads(json.dumps(record)), tmp_path)
  assert (tmp_path / f"{name}.png").stat().st_size > 1000
  assert bool(jax.config.jax_enable_x64) is False, "run leaves JAX's settings as they were"


# One of each folder: a second run of all costs half a minute.
@pytest.mark.parametrize("name", ONE_A_FOLDER)
def test_same_settings_give_the_same_numbers(name):
  module = _runner.load(name)
  again = module.run(_runner.settings_of(module, "toy"), Progress())
  again.pop("choices", None)
  assert to_json(again) == toy_record(name)["metrics"]


@pytest.mark.parametrize("name", NAMES)
def test_every_experiment_has_its_record(name):
  assert name in RECORDS, f"run: python -m experiments record {name}"


@pytest.mark.parametrize("name", RECORDS)
def test_committed_record_is_current(name):
  """Its settings are those of the file, its verdicts those of its own numbers; they may fail."""
  text = (_records.RECORDS / f"{name}.json").read_text()
  record, module = json.loads(text), _runner.load(name)
  check_record(record, name)
  assert record["size"] == "desk"
  assert record["settings"] == to_json(_records.report_settings(module)), "record it again"
  assert record["paper"] == to_json(module.PAPER)
  assert not re.search(r"[\s\"'](/(home|root|tmp|usr|work|Users|mnt)/|[A-Z]:\\\\)", text)
  assert record["settings"]["first_seed"] == REPORT_SEED
  judged = _records.judge(module, record["metrics"], _records.settings_from(module, record))
  assert {key: record[key] for key in judged} == judged, "judge it again: record NAME --judge"


@pytest.mark.parametrize("name", RECORDS)
def test_figure_of_a_committed_record_needs_the_record_alone(name):
  module = _runner.load(name)
  path = _records.RECORDS / f"{name}.json"
  assert _records.draw(module, _records.read(path)).startswith(b"\x89PNG")
