"""The runs of the experiment on paths by penalty: real tables, planted models, what is proved."""

from typing import Any

import jax
import numpy as np

from experiments._protocol import Progress
from experiments.regression import _penalty_paths as tools
from experiments.regression._penalty_paths import CONVEX, L1, LOSSES, MCP, RIDGE, SCAD
from jaxopt_robust import regression

LEAST, STABLE = "least squares", "stability selection"
ONE_SE = {method: f"{method}, one s.e." for method in (L1, MCP, SCAD)}


class Bench:
  """The compiled programs, and what the solves of each seed say of themselves."""

  def __init__(self, config: Any, progress: Progress):
    self.config, self.call = config, progress.clock.call
    self.grids = {loss: tools.make_grid(loss, config.strengths) for loss in ("squared", "logistic")}
    self.programs: dict[tuple[str, str], Any] = {}
    kinds = ("convex", "concave, squared", "concave, logistic")
    self.unconverged = {kind: np.zeros(config.seeds) for kind in kinds}
    self.violation = np.zeros(config.seeds)
    self.edges = dict.fromkeys(config.methods, 0)

  def data(self, name: str, seed: int) -> tuple[tools.Table, Any]:
    """A split, and the folds of its training rows: the same for all methods."""
    config = self.config
    folds = regression.make_folds(jax.random.key(seed), config.rows, num_folds=config.folds)
    return tools.make_table(name, config.rows, config.width, seed), folds

  def number(self, method: str, loss: str) -> float:
    """The penalty's second number."""
    return tools.number_of(method, 1.0 if loss == "squared" else self.config.logistic_curvature)

  def solve(
    self, method: str, loss: str, table: tools.Table, folds: Any, strengths: Any, max_steps: int
  ) -> tools.Fit:
    """A path and its cross-validation."""
    config, family = self.config, tools.FAMILIES[method]
    if (loss, family) not in self.programs:
      self.programs[loss, family] = tools.make_fit(loss, family, config.folds, config.tol)
    numbers = np.float64(self.number(method, loss)), np.int32(max_steps)
    args = (table.x, table.y, folds, strengths, *numbers)
    fit = self.call(self.programs[loss, family], *args, name=f"{family}, {loss}")
    return jax.tree.map(np.asarray, fit)

  def path(
    self, method: str, loss: str, table: tools.Table, folds: Any
  ) -> tuple[np.ndarray, tools.Fit, dict[str, int]]:
    """Strengths, path, and which of them the two rules choose."""
    config = self.config
    ratio = config.ratio if loss == "squared" else config.logistic_ratio
    strengths = tools.strengths_of(method, self.grids[loss], table.x, table.y, ratio)
    fit = self.solve(method, loss, table, folds, strengths, config.max_steps)
    nearest = lambda value: int(np.argmin(np.abs(strengths - value)))
    return strengths, fit, {"best": nearest(fit.best), "one s.e.": nearest(fit.one_se)}

  def fit(
    self, i: int, method: str, loss: str, table: tools.Table, folds: Any
  ) -> tuple[np.ndarray, tools.Fit, dict[str, int]]:
    """The same; books how the solves of seed i ended."""
    strengths, fit, chosen = self.path(method, loss, table, folds)
    kind = "convex" if method in CONVEX else f"concave, {loss}"
    self.unconverged[kind][i] += fit.unconverged
    worst = tools.violation(method, self.number(method, loss), loss, table, strengths, fit)
    self.violation[i] = max(self.violation[i], worst)
    self.edges[method] += chosen["best"] == len(strengths) - 1
    return strengths, fit, chosen


def run_tables(bench: Bench, progress: Progress) -> tuple[dict, dict, dict]:
  """Held-out loss and features by table and method; mean curves; paths of the first split."""
  config = bench.config
  found: dict[str, Any] = {}
  curves: dict[str, Any] = {}
  paths: dict[str, Any] = {}
  for name in progress.track(config.tables, "tables"):
    loss = LOSSES[name]
    cell: dict[str, Any] = {}
    lines: dict[str, Any] = {}

    def book(label: str, value: float, features: int, cell: dict = cell) -> None:
      entry = cell.setdefault(label, {"loss": [], "features": []})
      entry["loss"].append(value)
      entry["features"].append(int(features))

    for i, seed in enumerate(config.seed_numbers()):
      table, folds = bench.data(name, seed)
      for method in config.methods:
        strengths, fit, chosen = bench.fit(i, method, loss, table, folds)
        losses, used = tools.held_out(loss, table, fit), (fit.coefficients != 0).sum(1)
        book(method, losses[chosen["best"]], used[chosen["best"]])
        if method in ONE_SE:
          book(ONE_SE[method], losses[chosen["one s.e."]], used[chosen["one s.e."]])
        line = lines.setdefault(method, {"loss": 0, "features": 0})
        line["loss"] = line["loss"] + losses / config.seeds
        line["features"] = line["features"] + used / config.seeds
        if i == 0 and name == config.tables[0] and method in ONE_SE:
          share = strengths / strengths[0]
          w = fit.coefficients[:, : table.features]
          paths[method] = {"w": w, "share": share, "best": share[chosen["best"]]}
      if loss == "squared":
        w = tools.least_squares(table.x, table.y, table.x.std(0) > 0)
        book(LEAST, 0.5 * np.mean((table.x_test @ w - table.y_test) ** 2), table.features)
    found[name], curves[name] = cell, lines
  return found, curves, paths


def run_planted(bench: Bench, progress: Progress) -> tuple[dict, dict]:
  """False and missed features, errors and shrinkage, [ratios][seeds]; stability selection."""
  config = bench.config
  select = tools.make_stability(config.subsamples, config.threshold, config.tol)
  share = np.geomspace(1, config.stable_ratio, config.stable_strengths)
  shape = (len(config.snrs), config.seeds)
  found: dict[str, Any] = {}
  stable: dict[str, Any] = {}
  for name in progress.track(config.designs, "planted"):
    cell: dict[str, dict[str, np.ndarray]] = {}
    bound, size = np.zeros(shape), np.zeros(shape)

    def book(label: str, at: tuple, truth: Any, w: Any, cell: dict = cell) -> None:
      for key, value in tools.against(truth, w).items():
        cell.setdefault(label, {}).setdefault(key, np.zeros(shape))[at] = value

    for i, seed in enumerate(config.seed_numbers()):
      table, folds = bench.data(name, seed)
      live = int((table.x.std(0) > 0).sum())
      for a, snr in enumerate(config.snrs):
        y, truth = tools.plant(table, config.relevant, snr, seed)
        problem = table._replace(y=y)
        for method in (m for m in config.methods if m in ONE_SE):
          strengths, fit, chosen = bench.fit(i, method, "squared", problem, folds)
          book(method, (a, i), truth, fit.coefficients[chosen["best"]])
          book(ONE_SE[method], (a, i), truth, fit.coefficients[chosen["one s.e."]])
        args = (jax.random.key(seed), problem.x, y, strengths[0] * share)
        out = bench.call(select, *args, name=STABLE)
        # An estimate too: least squares on what is selected.
        w = tools.least_squares(table.x, y, np.asarray(out.selected))
        book(STABLE, (a, i), truth, w)
        # Columns that are constant on these rows are no features: the bound is for the others.
        bound[a, i] = float(out.error_bound) * config.width / live
        size[a, i] = float(out.mean_size)
        bench.unconverged["convex"][i] += int((np.asarray(out.status) != 0).sum())
    found[name], stable[name] = cell, {"bound": bound, "size": size}
  return found, stable


def run_theory(bench: Bench) -> dict[str, Any]:
  """Warm against cold starts of convex penalties, and descent, pass by pass, of all of them."""
  config = bench.config
  name = config.designs[0]
  loss = LOSSES[name]
  cold, rises = np.zeros(config.seeds), np.zeros(config.seeds)
  for i, seed in enumerate(config.seed_numbers()):
    table, folds = bench.data(name, seed)
    for method in (m for m in config.methods if m != RIDGE):
      if method in CONVEX:
        strengths, warm, chosen = bench.path(method, loss, table, folds)
        # One strength again and again: the first solve starts at 0; with a limit of one pass each
        # goes on where the last one ended.
        same = np.full_like(strengths, strengths[chosen["best"]])
        value = bench.solve(method, loss, table, folds, same, config.max_steps).objective[0]
        cold[i] = max(cold[i], abs(value / warm.objective[chosen["best"]] - 1))
      steps = bench.solve(method, loss, table, folds, same, 1).objective
      rises[i] = max(rises[i], np.max(np.diff(steps), initial=0) / steps[0])
  return {
    "cold": cold, "rises": rises, "unconverged": bench.unconverged, "violation": bench.violation,
  }  # fmt: skip
