"""Parts of the experiments on streams: stretches, simple rules, sessions; nothing is downloaded."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from experiments.robustness import _real_streams, _sessions, incremental_sessions, real_streams


def test_simple_rules_by_hand():
  before, labels = np.array([0, 1, 1]), np.array([1, 0, 0, 0, 0, 2])
  right = _real_streams.simple_answers(before, labels, 3)
  # So far: 0 once, 1 twice. Rows: 1 is the majority until 0 has caught up (ties go to 0).
  assert right["majority"].tolist() == [True, False, False, True, True, False]
  assert right["no change"].tolist() == [True, False, True, True, True, False]


def test_stretches_keep_their_order_and_development_is_apart_from_report():
  config = dataclasses.replace(
    real_streams.SIZES["toy"].config, train=64, length=256, batch=32, epochs=1
  )
  num, first = 1000, 0
  table = {
    "x": np.stack([np.arange(num), np.full(num, 0.003467)], axis=1).astype(np.float32),
    "y": np.arange(num) % 3,
  }
  border = first + 400
  for seed, low, high in ((0, 0, border), (1, 0, border), (1000, border, num), (1001, border, num)):
    data = _real_streams.load_stretch("synthetic", table, seed, config)
    labels = np.concatenate([data.y, np.ravel(data.labels)])
    start = (labels[0] - 0) % 3
    np.testing.assert_array_equal(labels, (start + np.arange(320)) % 3)
    assert data.stream.shape == (8, 32, 2) and data.x.shape == (64, 2)
    steps = np.diff(np.ravel(data.x[:, 0]))
    np.testing.assert_allclose(steps, steps[0], rtol=1e-4)
    np.testing.assert_allclose(data.x[:, 0].mean(), 0, atol=1e-5)
    assert float(jnp.max(data.stream)) == _real_streams.MOST  # cut
    np.testing.assert_array_equal(data.stream[..., 1], 0)  # constant columns stay 0
    where = np.random.default_rng(seed).integers(low, high - 320 + 1)
    assert where % 3 == start and low <= where <= high - 320


def test_sessions_of_digits():
  config = incremental_sessions.SIZES["toy"].config
  data = _sessions.load_sessions("digits", None, 0, config)
  sessions = 10 - config.base + 1
  assert data.stream.shape == (sessions, config.digit_batches, config.batch, 64)
  assert data.shots.shape == (sessions, 5, 64)
  assert np.all(data.shot_ranks[0] == _sessions.NEVER)
  for t in range(1, sessions):
    assert data.shot_labels[t].tolist() == [config.base + t - 1] * 5
    assert data.shot_ranks[t].tolist() == list(range(5))
  for t in range(sessions):
    assert int(data.labels[t].min()) >= 0 and int(data.labels[t].max()) == config.base + t - 1
  labelled = config.base * _sessions.SIDE
  assert np.bincount(data.y[:labelled]).tolist() == [_sessions.SIDE] * config.base
  np.testing.assert_allclose(np.mean(data.x[:labelled]), 0, atol=0.02)  # cut at five deviations
  # A class of the base session occurs once in each of five sessions, the last one in one.
  counts = np.bincount(data.y) // _sessions.SIDE
  assert counts.tolist() == [sessions] * config.base + list(range(sessions - 1, 0, -1))
  base_rows, all_rows = data.rows
  assert int(base_rows.max()) < labelled <= int(all_rows.max()) < len(data.y)
  assert all(len(np.unique(batch)) == 64 for batch in np.reshape(data.rows, (-1, 64)))


def test_drift_of_digits_is_none_at_first_and_a_brighter_turn_in_the_end():
  config = dataclasses.replace(
    incremental_sessions.SIZES["toy"].config, angle=90.0, brightness=0.25
  )
  images = np.random.default_rng(0).random((3, 8, 8))
  np.testing.assert_array_equal(_sessions.drifted(images, 0.0, config), images)
  turned = np.rot90(images, axes=(1, 2))
  np.testing.assert_allclose(_sessions.drifted(images, 1.0, config), turned + 0.25, atol=1e-6)


@pytest.fixture(scope="module")
def forest():
  """Rows that know their own number, and classes that arrive when those of covertype do."""
  rng, num = np.random.default_rng(0), _sessions.BORDERS[-1] + 100
  y, seen = np.zeros(num, int), []
  borders = (0, *_sessions.BORDERS[1:-1], num)
  for low, high, new in zip(borders[:-1], borders[1:], _sessions.ARRIVALS, strict=True):
    seen += new
    y[low:high] = rng.choice(seen, high - low)
  return {"x": np.arange(num, dtype=np.float32)[:, None], "y": y.astype(np.int32)}


@pytest.mark.parametrize("seed", [0, 1000])
def test_sessions_of_covertype(forest, seed):
  config = dataclasses.replace(
    incremental_sessions.SIZES["toy"].config, covertype_batches=2, labelled=20
  )
  order = [c for group in _sessions.ARRIVALS for c in group]
  base, joint, few, stream = _sessions._covertype(forest, seed, config)
  assert np.bincount(base[1]).tolist() == [20] * 3
  numbers = {"base": base[0].ravel(), "joint": joint[0].ravel()}
  assert numbers["base"].min() >= _sessions.FIRST and numbers["base"].max() < _sessions.BORDERS[0]
  half = int(seed >= 1000)
  assert all(np.all(v % 2 == half) for v in numbers.values())
  np.testing.assert_array_equal(np.array(order)[base[1]], forest["y"][numbers["base"].astype(int)])
  seen = 0
  for t, group in enumerate(few):
    rows, labels = stream[t][0].ravel(), stream[t][1]
    assert np.all(np.diff(rows) > 0) and np.all(rows % 2 == half)  # in the order of time
    assert _sessions.BORDERS[t] <= rows[0] and rows[-1] < _sessions.BORDERS[t + 1]
    np.testing.assert_array_equal(np.array(order)[labels], forest["y"][rows.astype(int)])
    new = list(range(seen, seen + len(_sessions.ARRIVALS[t]))) if t else []
    seen += len(_sessions.ARRIVALS[t])
    assert [c for _, c in group] == new and labels.max() == seen - 1
    for shots, c in group:
      assert len(np.unique(shots)) == 5 and np.all(
        forest["y"][shots.ravel().astype(int)] == order[c]
      )
      assert not set(shots.ravel()) & (set(rows) | set(numbers["joint"]))
  assert not set(numbers["joint"]) & {r for rows, _ in stream for r in rows.ravel()}


def test_score_by_hand():
  logits = jnp.eye(4)[jnp.array([[0, 1, 1], [3, 2, 3]])]
  found = _sessions.score(logits, jnp.array([[0, 0, 1], [3, 3, 3]]), base=2)
  expected = {"base": 2 / 3, "new": 2 / 3, "all": 2 / 3, "classes": (1 / 2 + 1 + 2 / 3) / 3}
  assert {k: round(float(v), 6) for k, v in found.items()} == {
    k: round(v, 6) for k, v in expected.items()
  }
  assert np.isnan(_sessions.score(logits, jnp.zeros((2, 3), jnp.int32), base=2)["new"])
