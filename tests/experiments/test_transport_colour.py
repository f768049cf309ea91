"""The pieces of the colour transport experiment: plans, distance, moments, kept pictures."""

import jax
import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from experiments.projections import transport_colour as experiment


def test_the_exact_plan_of_equal_weights_is_the_best_assignment():
  cost = np.random.default_rng(0).random((6, 6))
  weights = np.full(6, 1 / 6)
  plan = experiment.exact_plan(cost, weights, weights)
  rows, columns = linear_sum_assignment(cost)
  np.testing.assert_allclose((plan * cost).sum(), cost[rows, columns].sum() / 6, rtol=1e-9)
  np.testing.assert_allclose(plan.sum(1), weights, atol=1e-12)


@pytest.mark.x64
def test_a_large_strength_makes_plans_that_ignore_the_cost():
  cost = np.random.default_rng(0).random((4, 5))
  a, b = np.full(4, 1 / 4), np.array([0.1, 0.2, 0.2, 0.2, 0.3])
  with jax.enable_x64(True):
    entropic = experiment.entropic_plan(cost, 1e9, a, b)
    quadratic = experiment.quadratic_plan(cost, 1e9, a, b)
  np.testing.assert_allclose(entropic, np.outer(a, b), atol=1e-9)
  # The projection of 0: a_i / n + b_j / m - 1 / (m n), here positive.
  np.testing.assert_allclose(quadratic, a[:, None] / 5 + b[None] / 4 - 1 / 20, atol=1e-9)


def test_the_distance_of_colours_is_that_of_a_shift():
  points = np.random.default_rng(0).random((20, 3))
  moved = (points + np.array([3.0, 0.0, 4.0]))[::-1]
  np.testing.assert_allclose(experiment.colour_distance(points, moved), 5.0, rtol=1e-12)


def test_a_picture_survives_the_record():
  lab = np.array([[0.0, 0, 0], [100, 0, 0], [50, 20, -30]])
  index = np.array([0, 1, 2, 1, 0, 2])
  picture = experiment._picture(experiment._bytes(index), experiment._colours(lab), [2, 3])
  assert picture.shape == (2, 3, 3)
  assert picture[0, 0].tolist() == [0, 0, 0] and picture[0, 1].tolist() == [255, 255, 255]
  np.testing.assert_array_equal(picture[0, 2], picture[1, 2])


def test_matched_moments_are_the_targets():
  rng = np.random.default_rng(0)
  first, second = rng.normal(50, 10, (8, 9, 3)), rng.normal(30, 5, (7, 6, 3))
  matched = experiment.match_moments(first, second)
  np.testing.assert_allclose(matched.mean((0, 1)), second.mean((0, 1)))
  np.testing.assert_allclose(matched.std((0, 1)), second.std((0, 1)))
