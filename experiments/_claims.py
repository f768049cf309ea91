"""Claims, written before an experiment is run, and the verdicts that the numbers give.

A claim compares two methods seed by seed. With d_i the amount by which ours is better than the
baseline on seed i, the verdict comes from the 95 % interval of the mean of d (Student's t) or of
its median (bootstrap) and from the margin that the claim names:

- *holds*: the interval lies beyond the margin;
- *fails*: the interval lies below the margin;
- *open*: the margin lies inside the interval, or a seed has no finite value.

A ``control`` says that an effect is absent: it holds where the interval lies between -margin and
margin, fails where it lies outside, and is open otherwise.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from experiments import _statistics

KINDS = ("paper", "theory", "control", "expected")
VERDICTS = ("holds", "fails", "open")
LEVEL = 0.95


class Side(NamedTuple):
  """One method's numbers.

  Attributes:
    name: the method.
    values: a number a seed; one number stands for a value that no seed changes.
  """

  name: str
  values: Any


class Claim(NamedTuple):
  """One statement, and the numbers that decide on it.

  Attributes:
    key: short name that stays the same when the wording changes.
    text: the statement, one sentence.
    kind: ``"paper"`` (what the paper reports), ``"theory"`` (what is proved; asserted in tests
      too), ``"control"`` (where an effect must be absent) or ``"expected"`` (neither reported nor
      proved: what the design leads one to expect; no verdict on a paper counts it).
    metric: what is compared, with data set and unit.
    ours: the method that the statement is about.
    baseline: what it is compared with; a number of the statement itself ("a slope of 1").
    better: ``"higher"`` or ``"lower"``: which values of the metric speak for ours.
    margin: least mean of the differences ``ours - baseline`` (``baseline - ours`` where lower is
      better) that makes the statement true; may be negative ("no worse than .01"). With
      ``scale="ratio"`` the least factor, 1 by default.
    scale: ``"difference"``, or ``"ratio"`` of positive values, whose geometric mean is taken.
    statistic: ``"mean"`` (Student's t) or ``"median"`` (bootstrap, for heavy tails).
    comparisons: how many comparisons this one was picked from; the level is corrected for them.
  """

  key: str
  text: str
  kind: Literal["paper", "theory", "control", "expected"]
  metric: str
  ours: Side
  baseline: Side
  better: Literal["higher", "lower"] = "higher"
  margin: float | None = None
  scale: Literal["difference", "ratio"] = "difference"
  statistic: Literal["mean", "median"] = "mean"
  comparisons: int = 1


class Amendment(NamedTuple):
  """A claim that was changed after a record existed.

  Attributes:
    claim: key of the claim.
    date: day of the change, YYYY-MM-DD.
    was: its text, word by word; empty for a claim that was added.
    now: the same afterwards; empty for a claim that was withdrawn.
    why: the reason.
  """

  claim: str
  date: str
  was: str
  now: str
  why: str


def _values(claim: Claim, side: Side) -> np.ndarray:
  values = _statistics.numbers(side.values)
  if values.size == 0:
    raise ValueError(f"Claim {claim.key!r}: {side.name} has no values.")
  return values


def _differences(claim: Claim) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Values of both sides, and by how much ours is better, a number a seed."""
  ours, base = (_values(claim, side) for side in (claim.ours, claim.baseline))
  if ours.size != base.size and 1 not in (ours.size, base.size):
    raise ValueError(
      f"Claim {claim.key!r}: {claim.ours.name} has {ours.size} seeds and {claim.baseline.name} "
      f"{base.size}; the comparison goes seed by seed."
    )
  if claim.scale == "ratio":
    with np.errstate(divide="ignore", invalid="ignore"):
      gain = np.log(ours) - np.log(base)
  else:
    gain = ours - base
  return ours, base, gain if claim.better == "higher" else -gain


def _check(claim: Claim) -> None:
  allowed = {
    "kind": KINDS, "better": ("higher", "lower"), "scale": ("difference", "ratio"),
    "statistic": ("mean", "median"),
  }  # fmt: skip
  for name, options in allowed.items():
    if getattr(claim, name) not in options:
      raise ValueError(
        f"Claim {claim.key!r}: {name} must be one of {', '.join(options)}; "
        f"got {getattr(claim, name)!r}."
      )
  if claim.scale == "ratio" and claim.margin is not None and claim.margin <= 0:
    raise ValueError(f"Claim {claim.key!r}: the margin of a ratio must be positive.")
  if claim.kind == "control" and claim.margin is None:
    raise ValueError(f"Claim {claim.key!r}: a control names the margin that counts as no effect.")
  if claim.comparisons < 1:
    raise ValueError(f"Claim {claim.key!r}: comparisons must be at least 1.")


def margin_of(claim: Claim) -> float:
  """The margin in the units of the claim: 0, or a factor of 1, where none is named."""
  return claim.margin if claim.margin is not None else float(claim.scale == "ratio")


def _verdict(kind: str, low: float, high: float, margin: float) -> str:
  if kind == "control":
    margin = abs(margin)
    if -margin <= low and high <= margin:
      return "holds"
    return "fails" if low > margin or high < -margin else "open"
  if low > margin:
    return "holds"
  return "fails" if high < margin else "open"


def evaluate(claim: Claim) -> dict[str, Any]:
  """A claim with its numbers and its verdict, for the record."""
  _check(claim)
  ours, base, gain = _differences(claim)
  level = _statistics.corrected_level(LEVEL, claim.comparisons)
  interval = (
    _statistics.mean_interval(gain, level=level)
    if claim.statistic == "mean"
    else _statistics.bootstrap_interval(gain, level=level)
  )
  ratio = claim.scale == "ratio"
  margin = math.log(margin_of(claim)) if ratio else margin_of(claim)
  verdict = _verdict(claim.kind, interval.low, interval.high, margin)
  show = _ratio if ratio else float
  finite = bool(np.isfinite(gain).all())
  return {
    "key": claim.key,
    "text": claim.text,
    "kind": claim.kind,
    "metric": claim.metric,
    "better": claim.better,
    "scale": claim.scale,
    "statistic": claim.statistic,
    "comparisons": claim.comparisons,
    "margin": margin_of(claim),
    "ours": {"name": claim.ours.name, "values": ours, "center": _center(claim, ours)},
    "baseline": {"name": claim.baseline.name, "values": base, "center": _center(claim, base)},
    "gain": show(interval.estimate) if finite else None,
    "low": show(interval.low) if finite and math.isfinite(interval.low) else None,
    "high": show(interval.high) if finite and math.isfinite(interval.high) else None,
    "verdict": verdict,
  }


def _ratio(logarithm: float) -> float | None:
  """Its exponential; None beyond the largest number, as for what is not finite."""
  return math.exp(logarithm) if logarithm < math.log(np.finfo(float).max) else None


def _center(claim: Claim, values: np.ndarray) -> float:
  if claim.statistic == "median":
    return float(np.median(values))
  if claim.scale == "ratio":
    with np.errstate(divide="ignore", invalid="ignore"):
      return float(np.exp(np.mean(np.log(values))))
  return float(np.mean(values))


def paper_verdict(claims: Sequence[Mapping[str, Any]]) -> str:
  """reproduced, partly, not, or open: from the claims of kind ``paper`` of all experiments.

  A source that reports nothing to reproduce, such as a textbook, is checked where its theory holds.
  """
  verdicts = [c["verdict"] for c in claims if c["kind"] == "paper"]
  holding = [verdict == "holds" for verdict in verdicts]
  theory = [c["verdict"] == "holds" for c in claims if c["kind"] == "theory"]
  if not holding:
    return ("checked" if all(theory) else "not reproduced") if theory else "no claim"
  if all(holding):
    return "reproduced"
  if any(holding):
    return "partly"
  return "not reproduced" if "fails" in verdicts else "open"


def wording(claim: Mapping[str, Any]) -> str:
  """What must not change without an amendment: the text, the margin and how they are compared."""
  fixed = ("text", "kind", "metric", "better", "scale", "margin", "statistic", "comparisons")
  parts = [str(claim["text"])]
  parts += [f"{name} {claim[name]}" for name in fixed[1:]]
  return " | ".join([*parts, f"{claim['ours']['name']} against {claim['baseline']['name']}"])


def unannounced(
  before: Sequence[Mapping[str, Any]],
  now: Sequence[Mapping[str, Any]],
  amended: Sequence[Amendment],
  told: Sequence[Amendment] = (),
  *,
  same_numbers: bool = False,
) -> list[str]:
  """Keys of claims that differ from those of an older record and have no amendment that says so.

  Claims that are new need one too, whose ``was`` is empty. Amendments that the older record
  ``told`` already announced earlier changes, not this one. With ``same_numbers`` both were judged
  on the same metrics: then a claim that reads other values from them has changed as well.
  """
  new = {c["key"]: c for c in now}
  old = {c["key"]: c for c in before}
  known = {(a.claim, a.was) for a in set(amended) - set(told)}
  values = lambda claim: [np.ravel(claim[side]["values"]).tolist() for side in ("ours", "baseline")]

  def changed(key: str) -> bool:
    if key not in new or key not in old or wording(old[key]) != wording(new[key]):
      return True
    return same_numbers and values(old[key]) != values(new[key])

  return [
    key
    for key in dict.fromkeys([*old, *new])
    if changed(key) and (key, old[key]["text"] if key in old else "") not in known
  ]
