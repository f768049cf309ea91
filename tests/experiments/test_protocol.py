"""The pieces of the protocol: JSON values, the clock, checks of modules and outcomes."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import _runner
from experiments._protocol import Claim, Clock, Outcome, Row, check_outcome, to_json
from tests.experiments.conftest import make_module


def test_to_json_turns_everything_into_plain_values():
  value = {
    "array": jnp.arange(4).reshape(2, 2),
    "half": jnp.ones(1, jnp.bfloat16),
    "numpy": np.float64(1 / 3),
    "flag": np.bool_(True),
    "nan": float("nan"),
    "infinite": np.array([np.inf, 1.0]),
    "row": Row("m", "x", 1.0),
    5: (1, "a", None),
  }
  plain = to_json(value)
  assert plain["array"] == [[0, 1], [2, 3]] and plain["half"] == [1.0]
  assert plain["numpy"] == 0.333333333 and plain["flag"] is True
  assert plain["nan"] is None and plain["infinite"] == [None, 1.0]
  assert plain["row"]["method"] == "m" and plain["5"] == [1, "a", None]
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
  assert _runner.union_length([(0, 4), (1, 2), (3, 5), (7, 8)]) == 6
  assert _runner.union_length([]) == 0


def test_the_record_splits_compiling_from_the_rest(fakes):
  def run(config, progress):
    jax.jit(lambda x: jnp.sin(x) @ x.T + config.rate)(jnp.ones((3, 3))).block_until_ready()
    return fakes["a_good"].run(config, progress)

  module = make_module(run=run)
  wall = _runner.execute("a_good", module, module.SIZES["toy"], size="toy")["wall"]
  assert 0 < wall["compile_s"] <= wall["total_s"]
  # Each is rounded to nine digits.
  assert wall["compile_s"] + wall["without_compile_s"] == pytest.approx(wall["total_s"], rel=1e-7)


@pytest.mark.parametrize("part", ["PAPER", "Config", "SIZES", "run", "figure"])
def test_a_module_without_a_part_is_refused(part):
  with pytest.raises(TypeError, match=f"'x' lacks {part}"):
    _runner.check_module("x", make_module(**{part: None}))


def test_a_module_with_a_wrong_part_is_refused():
  @dataclasses.dataclass
  class Thawed:
    seeds: int = 1

  for part, value, message in (
    ("PAPER", "title", "must be a Paper"),
    ("SIZES", {"toy": 1}, "toy, desk, paper"),
    ("Config", Thawed, "frozen dataclass"),
  ):
    with pytest.raises(TypeError, match=message):
      _runner.check_module("x", make_module(**{part: value}))


def test_an_outcome_that_shows_nothing_is_refused():
  row, claim = Row("m", "x", 1.0), Claim("c", True, {})
  with pytest.raises(TypeError, match="must return an Outcome; got dict"):
    check_outcome({})
  for outcome, message in (
    (Outcome({}, [row], [claim]), "metrics"),
    (Outcome({"m": 1}, [], [claim]), "table"),
    (Outcome({"m": 1}, [row], []), "claims"),
    (Outcome({"m": 1}, [row._replace(better="bigger")], [claim]), "'bigger'"),
  ):
    with pytest.raises(ValueError, match=message):
      check_outcome(outcome)
