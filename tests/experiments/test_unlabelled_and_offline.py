"""Parts of the experiments on unlabelled examples and on offline search."""

import types

import numpy as np
import pytest

from experiments.robustness import _unlabelled
from experiments.surrogates import _offline


def test_functions_have_their_known_peaks():
  peak = np.full(10, -2.903534 / 5)
  assert _offline.true_values(_offline.TANG, peak) == pytest.approx(39.16617, abs=1e-5)
  assert _offline.true_values(_offline.ACKLEY, np.zeros(10)) == pytest.approx(0, abs=1e-12)
  near = np.random.default_rng(0).normal(0, 0.02, (200, 10))
  assert np.all(_offline.true_values(_offline.TANG, peak + near) < 39.16617)
  assert np.all(_offline.true_values(_offline.ACKLEY, near) < 0)


def test_the_data_are_the_worse_half():
  config = types.SimpleNamespace(
    dimension=3, designs=100, hidden=4, epochs=2, batch=10, starts=5, members=2
  )
  data = _offline.make_data(config, _offline.TANG, 0)
  assert data["y"].max() <= data["hidden_y"].min() and len(data["y"]) == 50
  assert data["y"].mean() == pytest.approx(0, abs=1e-5) and data["y"].std() == pytest.approx(1)
  top = np.sort(_offline.true_values(_offline.TANG, data["x"]))[-5:]
  starts = _offline.true_values(_offline.TANG, np.asarray(data["starts"]))
  np.testing.assert_allclose(np.sort(starts), top, rtol=1e-6)
  assert data["known best"] == pytest.approx(top[-1], rel=1e-6)


def test_threes_and_eights_are_split_without_overlap():
  parts = _unlabelled.load_split(2, 0)
  assert parts["x"].shape == (10, 64) and parts["fresh"].shape == (280, 64)
  assert parts["y"].sum() == 0 and len(parts["vy"]) == 60 and len(parts["ty"]) == 147
  rows = {tuple(r) for key in ("x", "vx", "tx") for r in parts[key].round(4)}
  assert len(rows) == 10 + 60 + 147
  # darker on the whole
  assert parts["fresh"].mean() < parts["tx"].mean()


def test_a_choice_takes_the_best_row_and_the_best_of_it():
  scores = np.array([[[1.0, 5.0], [2.0, 3.0]], [[1.0, 5.0], [8.0, 3.0]]])
  best, choices = _unlabelled.pick("a", {"p": (0.1, 0.2), "q": (1.0, 2.0)}, scores, "data")
  assert best == {"p": 0.1, "q": 2.0}  # means: 5 against 5 and 3: the first of equals
  assert [c.chosen for c in choices] == [0.1, 2.0]
