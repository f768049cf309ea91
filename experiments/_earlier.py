"""The earlier form of an experiment: ``run`` returns table and claims with numbers, as booleans.

Experiments move from here to ``_protocol`` and ``_claims`` one by one; their records (format 1) are
read as if they were of the new form, without intervals and with claims that count for no verdict.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple


class Row(NamedTuple):
  """One line of the report's table.

  Attributes:
    method: the method that ``ours`` belongs to.
    metric: what is measured, with data set and unit.
    ours: our figure (mean over the seeds).
    baseline: the same measurement for the baseline, or None.
    baseline_name: which baseline.
    reported: the number in the paper, or None where the paper has none for this setting.
    better: ``"lower"`` or ``"higher"``.
    spread: standard deviation of ``ours`` over the seeds, or None.
    note: what a reader must know when comparing with ``reported`` (other data, smaller size).
  """

  method: str
  metric: str
  ours: float
  baseline: float | None = None
  baseline_name: str = ""
  reported: float | None = None
  better: str = "higher"
  spread: float | None = None
  note: str = ""


class Claim(NamedTuple):
  """One statement that the run confirms or refutes.

  Attributes:
    text: the statement, one sentence.
    holds: whether it holds in this run.
    numbers: the numbers it was decided on.
  """

  text: str
  holds: bool
  numbers: Mapping[str, float]


class Outcome(NamedTuple):
  """What ``run`` returns.

  Attributes:
    metrics: nested dict, method -> metric -> number or (nested) list of numbers, including the
      values for each seed and whatever the figure draws. Arrays are allowed: they become lists.
      Numbers that are not finite become None in the record.
    table: rows of the report.
    claims: the statements checked; at least one.
  """

  metrics: Mapping[str, Any]
  table: list[Row]
  claims: list[Claim]


def check_outcome(outcome: Any) -> Outcome:
  """Refuses an outcome that the report could not show."""
  if not isinstance(outcome, Outcome):
    raise TypeError(f"run must return an Outcome; got {type(outcome).__name__}.")
  if not isinstance(outcome.metrics, Mapping) or not outcome.metrics:
    raise ValueError("Outcome.metrics must be a dict with at least one method.")
  if not outcome.table or not all(isinstance(row, Row) for row in outcome.table):
    raise ValueError("Outcome.table must hold at least one Row.")
  if not outcome.claims or not all(isinstance(claim, Claim) for claim in outcome.claims):
    raise ValueError("Outcome.claims must hold at least one Claim.")
  for row in outcome.table:
    if row.better not in ("lower", "higher"):
      raise ValueError(f"Row.better must be 'lower' or 'higher'; got {row.better!r}.")
  return outcome


def is_earlier(module: Any) -> bool:
  """Whether an experiment still has the earlier form."""
  return hasattr(module, "SIZES") and dataclasses.is_dataclass(module.SIZES.get("desk"))


def check_module(name: str, module: Any) -> None:
  """Refuses a module that lacks a part of the earlier form."""
  for attribute in ("PAPER", "Config", "SIZES", "run", "figure"):
    if not hasattr(module, attribute):
      raise TypeError(f"Experiment {name!r} lacks {attribute}.")
  if set(module.SIZES) != {"toy", "desk", "large"}:
    raise TypeError(f"Experiment {name!r}: SIZES must have the keys toy, desk, large.")


def upgraded(record: dict[str, Any]) -> dict[str, Any]:
  """A record in the form of today; those that have it are returned as they are."""
  if record.get("format") != 1 or "amended" in record:
    return record
  side = lambda name, value: {"name": name, "values": None, "center": value}
  rows = [
    {
      **{key: row[key] for key in ("method", "metric", "better", "note")},
      "ours": {**side(row["method"], row["ours"]), "low": None, "high": None},
      "baseline": None if row["baseline"] is None else side(row["baseline_name"], row["baseline"]),
      "reported": None,
    }
    for row in record["table"]
  ]
  claims = [
    {
      "key": str(i), "text": claim["text"], "kind": "earlier", "numbers": claim["numbers"],
      "verdict": "holds" if claim["holds"] else "fails",
    }
    for i, claim in enumerate(record["claims"])
  ]  # fmt: skip
  changed = {"table": rows, "claims": claims, "amended": [], "choices": [], "differs": ""}
  return {**record, **changed, "seeds": list(range(record["seeds"]))}
