"""Intervals over seeds, ranks over data sets, and choices from grids."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import scipy.stats

Statistic = Callable[..., Any]


class Interval(NamedTuple):
  """An estimate and its interval; both ends are infinite where it cannot be told."""

  estimate: float
  low: float
  high: float


class Choice(NamedTuple):
  """What was chosen from a grid, for the record.

  Attributes:
    name: what was chosen, such as "learning rate of SGD".
    values: the grid, in ascending order.
    chosen: the value of the best score.
    scores: a score a value (validation data, development seeds).
    better: ``"lower"`` or ``"higher"``.
  """

  name: str
  values: Sequence[float]
  chosen: float
  scores: Sequence[float]
  better: str

  @property
  def at_edge(self) -> bool:
    """Whether a wider grid might hold a better value; grids of one value choose nothing."""
    return len(self.values) > 1 and self.chosen in (self.values[0], self.values[-1])


def numbers(values: Any) -> np.ndarray:
  """Values of a record as float[n]; None, which stands for what is not finite, is NaN."""
  return np.ravel(np.asarray(values, float))


def mean_interval(values: Any, *, level: float = 0.95) -> Interval:
  """Mean of independent values and its interval by Student's t.

  One value has no interval (both ends infinite); equal values have one of length 0.
  """
  values = np.asarray(values, float)
  mean = float(np.mean(values))
  if values.size < 2 or not np.isfinite(values).all():
    return Interval(mean, -np.inf, np.inf)
  error = float(np.std(values, ddof=1)) / np.sqrt(values.size)
  half = float(scipy.stats.t.ppf((1 + level) / 2, values.size - 1)) * error
  return Interval(mean, mean - half, mean + half)


def bootstrap_interval(
  values: Any, statistic: Statistic = np.median, *, level: float = 0.95, seed: int = 0
) -> Interval:
  """A statistic of independent values and its percentile bootstrap interval, 10000 draws."""
  values = np.asarray(values, float)
  estimate = float(statistic(values))
  if values.size < 2 or not np.isfinite(values).all():
    return Interval(estimate, -np.inf, np.inf)
  low, high = scipy.stats.bootstrap(
    (values,), statistic, n_resamples=10_000, confidence_level=level, method="percentile",
    vectorized=statistic is np.median or statistic is np.mean, rng=np.random.default_rng(seed),
  ).confidence_interval  # fmt: skip
  return Interval(estimate, float(low), float(high))


def corrected_level(level: float, comparisons: int) -> float:
  """Level of each of several intervals that are to hold together (Bonferroni)."""
  return 1 - (1 - level) / comparisons


def average_ranks(scores: Any, *, better: str) -> np.ndarray:
  """Rank of each method in each row, 1 the best, ties shared, averaged over the rows.

  Args:
    scores: float[rows, methods], a row a data set or a seed.
    better: ``"lower"`` or ``"higher"``.

  Returns:
    float[methods].
  """
  sign = {"lower": 1, "higher": -1}[better]
  return scipy.stats.rankdata(sign * np.asarray(scores, float), axis=1).mean(0)


def choose(name: str, values: Sequence[float], scores: Any, *, better: str) -> Choice:
  """The grid value with the best score; the first of equals, and none that is not finite.

  Raises:
    ValueError: when values and scores do not match, or no score is finite.
  """
  order = np.argsort(np.asarray(values, float), kind="stable")
  values = [float(values[i]) for i in order]
  scores = np.asarray(scores, float).ravel()
  if scores.size != len(values):
    raise ValueError(f"{name}: {len(values)} values but {scores.size} scores.")
  scores = scores[order]
  losses = np.where(np.isfinite(scores), {"lower": 1, "higher": -1}[better] * scores, np.inf)
  if not np.isfinite(losses).any():
    raise ValueError(f"{name}: no score is finite.")
  return Choice(name, values, values[int(np.argmin(losses))], scores.tolist(), better)
