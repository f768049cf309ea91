"""What is claimed, tabled and drawn of grades by generated images, of digits and of photographs."""

from collections.abc import Sequence
from typing import Any

from experiments import _figures
from experiments._claims import Claim, Side
from experiments._protocol import Row

Grades = dict[str, Any]  # budget -> model -> key -> values of the seeds


def grade_claims(
  grades: Grades,
  budgets: Sequence[int],
  models: Sequence[str],
  *,
  near: float,
  higher: dict[str, str],
  itself: str | None = None,
) -> list[Claim]:
  """The order of the models, what holds by construction, and no steps as a control.

  Args:
    grades: of all budgets.
    budgets: 0 first.
    models: those that are graded.
    near: how far FMR may be from 100 without steps.
    higher: model -> its training in words, of those expected above the standard model.
    itself: the oracle's name as a model, or None.

  Returns:
    Claims.
  """
  side = lambda budget, name, key="FMR": Side(name, grades[f"{budget}"][name][key])
  none, *budgets = budgets
  made = []
  for budget in budgets:
    for base in ("standard", "linear"):
      text = f"At {budget} steps the adversarially trained model has a higher FMR than the {base}."
      sides = side(budget, "adversarial"), side(budget, base)
      made.append(Claim(f"adversarial_{base}_{budget}", text, "paper", "FMR", *sides))
    for ours, what in higher.items():
      text = f"At {budget} steps {what} a higher FMR than standard training."
      sides = side(budget, ours), side(budget, "standard")
      made.append(Claim(f"{ours.lower()}_{budget}", text, "expected", "FMR", *sides))
  for name in models:
    text = f"Without steps FMR is within {near:g} of 100 ({name})."
    made.append(
      Claim(f"none_{name}", text, "control", "FMR", side(none, name), Side("100", 100.0),
            margin=near)
    )  # fmt: skip
    text = f"A longer path does not raise the accuracy on valid images ({name})."
    ends = [side(b, name, "PA") for b in (budgets[0], budgets[-1] if budgets[1:] else none)]
    ours, base = ends if budgets[1:] else ends[::-1]
    made.append(
      Claim(f"prefix_{name}", text, "theory", "accuracy on valid images", ours, base,
            margin=-1e-6)
    )  # fmt: skip
  text = "The oracle gives every valid image its label."
  made.append(
    Claim("oracle", text, "theory", "share that the oracle accepts",
          side(budgets[-1], "adversarial", "oracle"), Side("all", 1.0), margin=-1e-6)
  )  # fmt: skip
  if itself:
    text = "The oracle, graded by itself, is right on all valid images."
    made.append(
      Claim("itself", text, "theory", "accuracy on valid images", side(budgets[0], itself, "PA"),
            Side("all", 1.0), margin=-1e-6)
    )  # fmt: skip
  text = (
    "Of images of plain PGD that goes as far in pixels, the oracle accepts fewer than of those."
  )
  made.append(
    Claim("plain", text, "expected", "share that the oracle accepts",
          side(budgets[-1], "standard", "oracle"), side(budgets[-1], "standard", "PGD, oracle"))
  )  # fmt: skip
  return made


def grade_table(grades: Grades, data: str) -> list[Row]:
  """FMR beside the standard model, and accuracy under plain PGD that goes as far."""
  rows = []
  for budget, entry in grades.items():
    for name, own in entry.items():
      base = None if name == "standard" else Side("standard", entry["standard"]["FMR"])
      rows.append(Row(f"FMR, {budget} steps, {data}", Side(name, own["FMR"]), base))
    if budget == "0":
      continue
    for name, own in entry.items():
      pgd = Side("plain l_2 PGD, as far", own["PGD"])
      rows.append(Row(f"accuracy on generated images, {budget} steps", Side(name, own["PA"]), pgd))
      rows.append(
        Row(f"distance in pixels, {budget} steps", Side(name, own["distance"]), better="lower")
      )
      pgd = Side("plain l_2 PGD, as far", own["PGD, oracle"])
      rows.append(Row(f"oracle accepts, {budget} steps", Side(name, own["oracle"]), pgd))
  for key, text in (("SA", "accuracy on the images"), ("valid", "valid images")):
    rows += [Row(text, Side(n, own[key])) for n, own in grades["0"].items()]
  return rows


def draw_grades(axes: Any, grades: Grades, models: Sequence[str]) -> str:
  """FMR by model and budget, accuracy beside plain PGD; returns the largest budget."""
  groups = {
    f"{budget} steps": {name: entry[name]["FMR"] for name in models}
    for budget, entry in grades.items()
  }
  _figures.dots(axes[0], groups, ylabel="FMR", title="Score by budget")
  axes[0].set_ylim(top=1.3 * axes[0].get_ylim()[1])
  axes[0].legend(fontsize=8, loc="upper center", ncols=len(groups))
  last = list(grades)[-1]
  groups = {
    word: {name: grades[last][name][key] for name in models}
    for word, key in (("generated, valid", "PA"), ("plain PGD, as far", "PGD"))
  }
  _figures.dots(axes[1], groups, ylabel="accuracy", title=f"{last} steps")
  return last
