"""What the experiments on matrix recovery share: rounds to a target, growth, work, problems."""

import numpy as np
import pytest

from experiments import _recovery


def test_rounds_to_a_target_are_interpolated_in_the_logarithm():
  errors = 10.0 ** -np.arange(1, 6) * 3  # 0.3, 0.03, ...
  expected = 1 + np.log10(0.3 / 1e-3)
  np.testing.assert_allclose(_recovery.rounds_to(errors, 1e-3), expected)
  batch = np.stack([errors, errors / 1e3, np.full(5, 0.1)])
  np.testing.assert_allclose(_recovery.rounds_to(batch, 1e-3), [expected, 1, np.nan])


def test_slope_is_the_power():
  x = np.array([10.0, 20.0, 80.0])
  values = np.stack([3 * x**1.5, 7 / x], axis=1)  # [cases, seeds]
  np.testing.assert_allclose(_recovery.slope(x, values), [1.5, -1])


def test_work_of_sketched_half_steps_is_linear_in_the_rank_where_entries_are_many():
  work = lambda solver, rank: _recovery.altmin_work(solver, (10, 10), rank, 10**9)
  assert work("pcg", 64) / work("pcg", 16) == pytest.approx(4, rel=1e-3)
  assert work("exact", 640) / work("exact", 320) == pytest.approx(4, rel=0.02)
  assert work("pcg", 4) > work("exact", 4) and work("pcg", 16) < work("exact", 16)


def test_a_padded_problem_holds_the_entries_asked_for():
  op, y, truth = _recovery.completion_problem(3, (8, 6), 2, 20, condition=5.0, room=30)
  places = set(zip(op.row_index.tolist(), op.col_index.tolist(), strict=True))
  assert len(places) == 30, "no position twice"
  np.testing.assert_array_equal(y[20:], 0)
  np.testing.assert_array_equal(y[:20], truth[op.row_index, op.col_index][:20])
  sizes = np.linalg.svd(truth, compute_uv=False)
  np.testing.assert_allclose(sizes[:3], [5, 1, 0], atol=1e-12)
