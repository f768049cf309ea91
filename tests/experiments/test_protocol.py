"""The pieces of the protocol: JSON values, the clock, checks of modules and outcomes."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import _records, _runner
from experiments._claims import Amendment, Side
from experiments._protocol import Clock, Row, check_module, to_json
from experiments._statistics import choose
from tests.experiments.conftest import make_module


def test_to_json_turns_everything_into_plain_values():
  value = {
    "array": jnp.arange(4).reshape(2, 2),
    "half": jnp.ones(1, jnp.bfloat16),
    "numpy": np.float64(1 / 3),
    "flag": np.bool_(True),
    "nan": float("nan"),
    "infinite": np.array([np.inf, 1.0]),
    "row": Row("m", Side("x", 1.0)),
    5: (1, "a", None),
  }
  plain = to_json(value)
  assert plain["array"] == [[0, 1], [2, 3]] and plain["half"] == [1.0]
  assert plain["numpy"] == 0.333333333 and plain["flag"] is True
  assert plain["nan"] is None and plain["infinite"] == [None, 1.0]
  assert plain["row"]["ours"]["name"] == "x" and plain["5"] == [1, "a", None]
  assert json.loads(json.dumps(plain, allow_nan=False)) == plain


def test_to_json_keeps_float32_exactly():
  values = np.random.default_rng(0).standard_normal(100).astype(np.float32)
  assert np.array_equal(np.float32(to_json(values)), values)


def test_to_json_refuses_what_a_record_cannot_hold():
  with pytest.raises(TypeError, match="numbers, strings, lists and dicts only; got object"):
    to_json({"a": object()})


def test_clock_compiles_once_for_each_shape_and_books_under_the_name():
  clock, traces = Clock(), []

  @jax.jit
  def double(x):
    traces.append(x.shape)
    return 2 * x

  for size in (3, 3, 4):
    assert clock.call(double, jnp.ones(size), name="double").shape == (size,)
  assert clock.call(double, 1.0, name="scalar") == 2
  assert clock.call(double, 3.0, name="scalar") == 6
  assert traces == [(3,), (4,), ()]
  assert clock.parts["double"]["calls"] == 3 and clock.parts["scalar"]["calls"] == 2
  assert clock.parts["double"]["compile_s"] > 0 and clock.parts["double"]["run_s"] > 0


def test_clock_follows_the_precision():
  clock = Clock()
  half = jax.jit(lambda x: x / 2)
  assert clock.call(half, 1.0).dtype == jnp.float32
  with jax.enable_x64(True):
    assert clock.call(half, 1.0).dtype == jnp.float64


def test_compile_time_of_nested_traces_is_counted_once():
  assert _records.union_length([(0, 4), (1, 2), (3, 5), (7, 8)]) == 6
  assert _records.union_length([]) == 0


def test_the_record_splits_compiling_from_the_rest(fakes):
  def run(config, progress):
    jax.jit(lambda x: jnp.sin(x) @ x.T + config.rate)(jnp.ones((3, 3))).block_until_ready()
    return fakes["a_good"].run(config, progress)

  module = make_module(run=run)
  wall = _records.execute("a_good", module, module.SIZES["toy"].config, size="toy")["wall"]
  assert 0 < wall["compile_s"] <= wall["total_s"] and wall["cpu_s"] > 0
  # Each is rounded to nine digits.
  assert wall["compile_s"] + wall["without_compile_s"] == pytest.approx(wall["total_s"], rel=1e-7)


@pytest.mark.parametrize("part", ["PAPER", "Config", "SIZES", "run", "claims", "table", "figure"])
def test_a_module_without_a_part_is_refused(part):
  with pytest.raises(TypeError, match=f"'x' lacks {part}"):
    check_module("x", make_module(**{part: None}))


def test_a_module_with_a_wrong_part_is_refused():
  @dataclasses.dataclass
  class Thawed:
    seeds: int = 1

  for part, value, message in (
    ("PAPER", "title", "must be a Paper"),
    ("SIZES", {"toy": 1}, "toy, desk, large"),
    ("SIZES", dict.fromkeys(("toy", "desk", "large"), Thawed()), "must be a Size"),
    ("Config", Thawed, "frozen dataclass of Settings"),
  ):
    with pytest.raises(TypeError, match=message):
      check_module("x", make_module(**{part: value}))


def test_an_outcome_that_shows_nothing_is_refused():
  module = make_module()
  config = module.SIZES["toy"].config
  row = Row("m", Side("x", [1.0]))
  for part, value, error, message in (
    ("run", lambda config, progress: [], TypeError, "must return a dict of metrics; got list"),
    ("run", lambda config, progress: {}, TypeError, "must return a dict"),
    ("table", lambda metrics, config: [], ValueError, "at least one Row"),
    ("claims", lambda metrics, config: [], ValueError, "at least one Row and one Claim"),
    ("claims", lambda m, c: 2 * module.claims(m, c), ValueError, "key of its own; got below"),
    ("table", lambda m, c: [row._replace(better="bigger")], ValueError, "'bigger'"),
  ):
    with pytest.raises(error, match=message):
      _records.execute("x", make_module(**{part: value}), config, size="toy")


def test_a_best_value_at_the_edge_of_its_grid_is_warned_of(fakes):
  module = fakes["a_good"]
  run = lambda config, progress: {
    **module.run(config, progress),
    "choices": [choose("rate", (0.1, 0.5), (1, 3), better="higher")],
  }
  with pytest.warns(UserWarning, match=r"the best rate \(0.5\) lies at an edge.*0.1 to 0.5"):
    record = _records.execute("x", make_module(run=run), module.SIZES["toy"].config, size="toy")
  assert record["choices"][0]["at_edge"] is True


def test_metrics_reach_the_claims_as_the_record_holds_them():
  seen = []
  module = make_module(run=lambda config, progress: {"fake": {"values": np.array([np.inf, 1 / 3])}})
  claims = module.claims
  module.claims = lambda metrics, config: seen.append(metrics) or claims(metrics, config)
  record = _records.execute("x", module, module.SIZES["toy"].config, size="toy")
  assert seen == [{"fake": {"values": [None, 0.333333333]}}]
  assert record["claims"][0]["verdict"] == "open" and record["claims"][0]["gain"] is None


def test_records_of_report_seeds_alone_are_evidence(fakes, tmp_path):
  module = fakes["a_good"]
  config = _records.report_settings(module)
  assert config.seed_numbers() == [1000, 1001]
  record = _records.execute("a_good", module, config, size="desk")
  assert record["seeds"] == [1000, 1001] and record["differs"] == "Two seeds."
  assert _records.commit("a_good", record, records=tmp_path).exists()
  assert _records.settings_from(module, record) == config
  for wrong in (_runner.settings_of(module, "desk"), dataclasses.replace(config, rate=0.25)):
    record = _records.execute("a_good", module, wrong, size="desk")
    with pytest.raises(_runner.UsageError, match="only a desk run on report seeds"):
      _records.commit("a_good", record, records=tmp_path)


def test_a_changed_claim_is_amended_or_refused(fakes, tmp_path):
  module = fakes["a_good"]
  config = _records.report_settings(module)
  run = lambda: _records.execute("a_good", module, config, size="desk")
  _records.commit("a_good", run(), records=tmp_path)
  old = module.claims
  text = old({"fake": {"values": [1.0]}}, config)[0].text
  for change in ({"margin": 0.0}, {"text": "Easier."}, {"better": "higher"}, {"key": "new"}):
    module.claims = lambda m, c, change=change: [old(m, c)[0]._replace(**change)]
    with pytest.raises(_runner.UsageError, match=r"need an entry in AMENDED.*: below"):
      _records.commit("a_good", run(), records=tmp_path)
    said = Amendment("below", "2026-11-28", text, "new words", "a reason")
    added = said._replace(claim="new", was="")
    module.AMENDED = (said, added) if "key" in change else (said,)
    _records.check_announced("a_good", run(), tmp_path)
    del module.AMENDED
