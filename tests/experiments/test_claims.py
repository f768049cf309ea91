"""Verdicts and statistics against values worked out by hand, tables and SciPy."""

import numpy as np
import pytest
import scipy.stats

from experiments import _claims, _statistics
from experiments._claims import Amendment, Claim, Side


def claim(ours, base, **changes):
  made = Claim("key", "Text.", "paper", "error", Side("a", ours), Side("b", base))
  return made._replace(**changes)


def judged(ours, base, **changes):
  return _claims.evaluate(claim(ours, base, **changes))


def test_interval_of_student():
  """Mean 3 of 1..5, standard error sqrt(2.5 / 5), t(4) at 97.5 % is 2.776445105 in tables."""
  found = _statistics.mean_interval([1, 2, 3, 4, 5])
  half = 2.776445105 * np.sqrt(0.5)
  np.testing.assert_allclose(found, (3, 3 - half, 3 + half), rtol=1e-9)
  assert _statistics.mean_interval([2.0, 2.0]) == (2, 2, 2)
  for values in ([1.0], [1.0, np.nan], [1.0, np.inf]):
    assert _statistics.mean_interval(values)[1:] == (-np.inf, np.inf)


def test_the_interval_covers_the_mean_as_often_as_it_says(rng):
  """2000 samples of 8: 95 % within four standard errors of the count."""
  samples = rng.normal(size=(2000, 8))
  covered = [low <= 0 <= high for _, low, high in map(_statistics.mean_interval, samples)]
  assert abs(np.mean(covered) - 0.95) < 4 * np.sqrt(0.95 * 0.05 / 2000)


def test_bootstrap_of_the_median():
  values = np.arange(41.0)
  estimate, low, high = _statistics.bootstrap_interval(values)
  # Order statistics at the binomial quantiles: each of 41 draws is below with probability 1/2.
  ranks = scipy.stats.binom.ppf([0.025, 0.975], 41, 0.5)
  assert estimate == 20 and abs(low - ranks[0]) <= 1 and abs(high - ranks[1]) <= 1
  assert _statistics.bootstrap_interval(values) == (estimate, low, high)  # deterministic
  assert _statistics.bootstrap_interval([1.0])[1:] == (-np.inf, np.inf)


def test_ranks_share_ties():
  scores = [[1.0, 2.0, 3.0], [2.0, 2.0, 1.0]]
  np.testing.assert_allclose(_statistics.average_ranks(scores, better="lower"), [1.75, 2.25, 2.0])
  np.testing.assert_allclose(_statistics.average_ranks(scores, better="higher"), [2.25, 1.75, 2.0])


def test_choice_from_a_grid():
  choice = _statistics.choose("rate", (1.0, 0.1, 10.0), (3.0, 5.0, np.nan), better="lower")
  assert choice.values == [0.1, 1.0, 10.0] and choice.chosen == 1.0 and not choice.at_edge
  assert _statistics.choose("rate", (1, 2), (5, 4), better="lower").at_edge
  assert not _statistics.choose("rate", (1,), (5,), better="lower").at_edge
  with pytest.raises(ValueError, match="rate: no score is finite"):
    _statistics.choose("rate", (1, 2), (np.nan, np.inf), better="lower")
  with pytest.raises(ValueError, match="2 values but 1 scores"):
    _statistics.choose("rate", (1, 2), (1,), better="lower")


@pytest.mark.parametrize(
  ("gain", "margin", "kind", "verdict"),
  [
    ((1.0, 1.1, 0.9), 0.5, "paper", "holds"),
    ((1.0, 1.1, 0.9), 1.5, "paper", "fails"),
    ((1.0, 1.1, 0.9), 1.0, "paper", "open"),
    ((-1.0, 1.2, 0.1), None, "paper", "open"),
    ((-1.0, -1.1, -0.9), -2.0, "paper", "holds"),
    ((-1.0, -1.1, -0.9), None, "theory", "fails"),
    ((0.1, -0.1, 0.0), 1.0, "control", "holds"),
    ((2.0, 2.1, 1.9), 1.0, "control", "fails"),
    ((-2.0, -2.1, -1.9), 1.0, "control", "fails"),
    ((0.9, 1.3, 0.6), 1.0, "control", "open"),
    ((1.0,), 0.5, "paper", "open"),
    ((1.0, np.nan, 1.0), 0.5, "paper", "open"),
    ((1.0, None, 1.0), 0.5, "paper", "open"),
    ((1.0, np.inf, 1.0), 0.5, "paper", "open"),
    ((1.0, 1.0, 1.0), 0.5, "paper", "holds"),
  ],
)
def test_verdicts(gain, margin, kind, verdict):
  base = np.arange(float(len(gain)))
  ours = [None if g is None else b + g for g, b in zip(gain, base, strict=True)]
  assert judged(ours, base, margin=margin, kind=kind)["verdict"] == verdict
  if kind != "control":
    swapped = judged(base, ours, margin=margin, kind=kind, better="lower")
    assert swapped["verdict"] == judged(
      [-v if v is not None else v for v in base], [-v if v is not None else v for v in ours],
      margin=margin, kind=kind,
    )["verdict"]  # fmt: skip


def test_pairs_count_and_not_the_spread_between_seeds():
  base = np.array([1.0, 50.0, 900.0, 3.0])
  ours = base + np.array([0.1, 0.12, 0.09, 0.11])
  assert judged(ours, base)["verdict"] == "holds"
  assert judged(ours[::-1], base)["verdict"] == "open"


def test_ratios_are_of_geometric_means():
  found = judged([1.0, 2.0, 4.0], [4.0, 10.0, 16.0], better="lower", scale="ratio", margin=3.0)
  assert found["verdict"] == "holds"
  assert found["gain"] == pytest.approx((4 * 5 * 4) ** (1 / 3))
  assert found["ours"]["center"] == pytest.approx(2.0)
  half = 4.302652730 * np.std(np.log([4, 5, 4]), ddof=1) / np.sqrt(3)  # t(2) in tables
  assert found["low"] == pytest.approx(found["gain"] / np.exp(half), rel=1e-8)
  assert judged([1.0, 2.0], [1.0, 2.0], scale="ratio")["margin"] == 1.0
  assert judged([1.0, 0.0], [1.0, 2.0], scale="ratio")["verdict"] == "open"  # log of 0
  wide = judged([1e-300, 1e300], [1.0, 1.0], scale="ratio")  # its interval leaves the numbers
  assert wide["verdict"] == "open" and wide["high"] is None and wide["gain"] == pytest.approx(1.0)


def test_several_comparisons_need_wider_intervals():
  ours, base = [0.2, 1.0, 1.4, 0.9], [0.0] * 4
  assert judged(ours, base)["verdict"] == "holds"
  assert judged(ours, base, comparisons=10)["verdict"] == "open"
  assert _statistics.corrected_level(0.95, 5) == pytest.approx(0.99)


def test_a_number_of_the_statement_itself_stands_for_all_seeds():
  assert judged([2.1, 2.2, 2.3], 1.0)["verdict"] == "holds"
  with pytest.raises(ValueError, match="3 seeds and b 2"):
    judged([1.0, 2.0, 3.0], [1.0, 2.0])
  with pytest.raises(ValueError, match="a has no values"):
    judged([], [1.0, 2.0])


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"kind": "hope"}, "kind must be one of paper, theory, control, expected; got 'hope'"),
    ({"better": "bigger"}, "better must be one of higher, lower"),
    ({"scale": "log"}, "scale must be one of"),
    ({"statistic": "mode"}, "statistic must be one of"),
    ({"scale": "ratio", "margin": -1.0}, "margin of a ratio must be positive"),
    ({"kind": "control"}, "names the margin"),
    ({"comparisons": 0}, "at least 1"),
  ],
)
def test_malformed_claims_are_refused(changes, message):
  with pytest.raises(ValueError, match=message):
    judged([1.0, 2.0], [0.0, 0.0], **changes)


def test_verdict_on_a_paper():
  made = lambda *pairs: [{"kind": k, "verdict": v} for k, v in pairs]
  verdict = _claims.paper_verdict
  assert verdict(made(("paper", "holds"), ("theory", "fails"))) == "reproduced"
  assert verdict(made(("paper", "holds"), ("paper", "open"))) == "partly"
  assert verdict(made(("paper", "fails"), ("paper", "open"))) == "not reproduced"
  assert verdict(made(("paper", "open"), ("theory", "fails"))) == "open"
  assert verdict(made(("theory", "holds"), ("control", "fails"))) == "checked"
  assert verdict(made(("theory", "holds"), ("theory", "open"))) == "not reproduced"
  assert verdict(made(("control", "holds"))) == "no claim"
  assert verdict(made(("expected", "holds"), ("expected", "fails"))) == "no claim"
  assert verdict(made(("paper", "holds"), ("expected", "fails"))) == "reproduced"


def test_what_changed_without_a_word():
  before = [judged([1.0, 2.0], [0.0, 0.0])]
  again = [judged([7.0, 9.0], [0.0, 1.0])]  # other numbers are no other claim
  assert _claims.unannounced(before, again, ()) == []
  for change in ({"text": "Other."}, {"margin": 0.5}, {"kind": "theory"}, {"comparisons": 2}):
    now = [judged([1.0, 2.0], [0.0, 0.0], **change)]
    assert _claims.unannounced(before, now, ()) == ["key"]
    said = Amendment("key", "2026-11-28", "Text.", "Other.", "why")
    assert _claims.unannounced(before, now, (said,)) == []
    assert _claims.unannounced(before, now, (said,), (said,)) == ["key"]  # of an earlier change
    assert _claims.unannounced(before, now, (said._replace(was="Another."),)) == ["key"]
  assert _claims.unannounced(before, [], ()) == ["key"]  # withdrawn
  assert _claims.unannounced([], before, ()) == ["key"]  # added
  said = Amendment("key", "2026-11-28", "", "Text.", "why")
  assert _claims.unannounced([], before, (said,)) == []
  assert _claims.unannounced(before, again, (), same_numbers=True) == ["key"]  # reads other ones
