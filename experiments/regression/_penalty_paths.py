"""Tables, planted models and one program for paths by penalty, with their optimality conditions."""

import functools
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments import datasets
from jaxopt_robust import prox, regression

PRODUCTS = "diabetes, products"
LOSSES = {
  "diabetes": "squared",
  PRODUCTS: "squared",
  "breast_cancer": "logistic",
  "spambase": "logistic",
}
L1, NET, MCP, SCAD, RIDGE = "l1", "elastic net", "MCP", "SCAD", "ridge"
CONVEX = (L1, NET, RIDGE)
# MCP that bends at infinity is the l1 norm, an elastic net of almost no l1 norm is ridge.
FAMILIES = {L1: "mcp", MCP: "mcp", SCAD: "scad", NET: "elastic_net", RIDGE: "elastic_net"}
_NEVER, _RIDGE = 1e12, 1e6
# Ridge: from ten times the strength at which l1 leaves nothing down to a thousandth of it.
_RIDGE_TOP, _RIDGE_RATIO = 10.0, 1e-4


class Table(NamedTuple):
  """Standardised training rows and test rows, and how many columns are not padding."""

  x: np.ndarray
  y: np.ndarray
  x_test: np.ndarray
  y_test: np.ndarray
  features: int


@functools.cache
def _raw(name: str) -> tuple[np.ndarray, np.ndarray]:
  data = datasets.load("diabetes" if name == PRODUCTS else name)
  x = np.log1p(data["x"]) if name == "spambase" else data["x"]  # frequencies and counts
  return x, data["y"].astype(float)


def _products(x: np.ndarray, binary: np.ndarray) -> np.ndarray:
  """Features, their squares (of two values a square says nothing new) and pairwise products."""
  first, second = np.triu_indices(x.shape[1], 1)
  return np.concatenate([x, x[:, ~binary] ** 2, x[:, first] * x[:, second]], axis=1)


def make_table(name: str, rows: int, width: int, seed: int) -> Table:
  """A random split; what is standardised is so by the training rows.

  Columns of 0 are added up to a width, so that one program serves all tables.
  """
  x, y = _raw(name)
  order = np.random.default_rng([seed, 31]).permutation(len(y))
  train, test = order[:rows], order[rows:]
  parts = datasets.standardise(x[train], x[test])
  if name == PRODUCTS:
    binary = np.array([len(np.unique(column)) == 2 for column in x.T])
    parts = datasets.standardise(*(_products(part, binary) for part in parts))
  targets = [y[train], y[test]]
  if LOSSES[name] == "squared":
    targets = datasets.standardise(*targets)
  features = parts[0].shape[1]
  x, x_test = (np.pad(part, [(0, 0), (0, width - features)]) for part in parts)
  return Table(x, targets[0], x_test, targets[1], features)


def plant(table: Table, relevant: int, snr: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
  """Targets of a sparse model on real columns drawn at random, and its coefficients.

  The signal has variance 1; coefficients have one magnitude and random signs.
  """
  rng = np.random.default_rng([seed, 37])
  live = np.flatnonzero(table.x.std(0) > 0)
  truth = np.zeros(table.x.shape[1])
  truth[rng.choice(live, relevant, replace=False)] = rng.choice([-1.0, 1.0], relevant)
  truth /= (table.x @ truth).std()
  y = table.x @ truth + rng.standard_normal(len(table.x)) / np.sqrt(snr)
  return y - y.mean(), truth


def number_of(method: str, curvature: float) -> float:
  """The penalty's second number: 3 for MCP and 3.7 for SCAD where the loss has the curvature 1.

  Along a standardised coordinate of at least that curvature the objective is convex then.
  """
  numbers = {
    L1: _NEVER, MCP: 3.0 / curvature, SCAD: 1 + 2.7 / curvature, NET: 1.0, RIDGE: _RIDGE,
  }  # fmt: skip
  return numbers[method]


class Fit(NamedTuple):
  """A path with what cross-validation says of it.

  Attributes:
    coefficients: float[k, p].
    intercepts: float[k].
    objective: float[k].
    status: int[k].
    unconverged: folds and strengths whose solves ended otherwise than converged.
    best: strength of the lowest cross-validated loss.
    one_se: strength by the one-standard-error rule.
  """

  coefficients: Any
  intercepts: Any
  objective: Any
  status: Any
  unconverged: Any
  best: Any
  one_se: Any


def make_fit(loss: str, family: str, num_folds: int, tol: float) -> Any:
  """``fit(x, y, folds, strengths, number, max_steps) -> Fit``, compiled once for all problems."""
  penalty = getattr(prox, family)

  def fit(x: Any, y: Any, folds: Any, strengths: Any, number: Any, max_steps: Any) -> Fit:
    options = {
      "loss": loss, "penalty": penalty, "penalty_params": (number,), "tol": tol,
      "max_steps": max_steps,
    }  # fmt: skip
    choice = regression.cross_validate(x, y, strengths, folds=folds, num_folds=num_folds, **options)
    path = regression.regularization_path(x, y, strengths, **options)
    bad = (choice.status != 0).sum() + (path.status != 0).sum()
    return Fit(
      path.coefficients, path.intercepts, path.objective, path.status, bad, choice.best,
      choice.one_standard_error,
    )  # fmt: skip

  return jax.jit(fit)


def make_grid(loss: str, num_strengths: int) -> Any:
  """``grid(x, y, ratio) -> strengths``, from the one at which l1 leaves nothing down."""

  def grid(x: Any, y: Any, ratio: Any) -> Any:
    largest = regression.max_strength(x, y, loss=loss)
    return regression.strength_grid(largest, num_strengths=num_strengths, ratio=ratio)

  return jax.jit(grid)


def make_stability(num_subsamples: int, threshold: float, tol: float) -> Any:
  """``select(key, x, y, strengths) -> StabilitySelection`` of the Lasso."""

  def select(key: Any, x: Any, y: Any, strengths: Any) -> Any:
    return regression.stability_selection(
      key, x, y, strengths, num_subsamples=num_subsamples, threshold=threshold, tol=tol
    )

  return jax.jit(select)


def strengths_of(method: str, grid: Any, x: Any, y: Any, ratio: float) -> np.ndarray:
  """Strengths of one method for one problem."""
  if method != RIDGE:
    return np.asarray(grid(x, y, ratio))
  return np.asarray(grid(x, y, _RIDGE_RATIO)) * _RIDGE_TOP / _RIDGE


def _slope(method: str, w: np.ndarray, lam: np.ndarray, number: float) -> np.ndarray:
  """Derivative of the penalty where w is not 0."""
  size = np.abs(w)
  if FAMILIES[method] == "mcp":
    slope = np.maximum(lam - size / number, 0)
  elif FAMILIES[method] == "scad":
    slope = np.where(size <= lam, lam, np.maximum(number * lam - size, 0) / (number - 1))
  else:
    slope = lam * (1 + number * size)
  return np.sign(w) * slope


def violation(
  method: str, number: float, loss: str, table: Table, strengths: np.ndarray, fit: Fit
) -> float:
  """Largest violation of the optimality conditions along a path, by the largest strength of l1."""
  w = np.asarray(fit.coefficients)
  z = w @ table.x.T + np.asarray(fit.intercepts)[:, None]
  slopes = (z if loss == "squared" else 1 / (1 + np.exp(-z))) - table.y
  gradient = slopes @ table.x / len(table.y)
  lam = strengths[:, None]
  moved = np.abs(gradient + _slope(method, w, lam, number))
  found = np.where(w != 0, moved, np.maximum(np.abs(gradient) - lam, 0))
  found = np.maximum(found.max(1), np.abs(slopes.mean(1)))
  top = strengths.max() * (_RIDGE / _RIDGE_TOP if method == RIDGE else 1)
  return float(found[np.asarray(fit.status) == 0].max(initial=0) / top)


def held_out(loss: str, table: Table, fit: Fit) -> np.ndarray:
  """Mean loss of the test rows, a number a strength."""
  z = np.asarray(fit.coefficients) @ table.x_test.T + np.asarray(fit.intercepts)[:, None]
  if loss == "squared":
    return 0.5 * np.mean((z - table.y_test) ** 2, axis=1)
  return np.mean(np.logaddexp(0, z) - table.y_test * z, axis=1)


def least_squares(x: np.ndarray, y: np.ndarray, kept: np.ndarray) -> np.ndarray:
  """The unpenalised fit of some columns, 0 elsewhere (columns and targets are centred)."""
  w = np.zeros(x.shape[1])
  w[kept] = np.linalg.lstsq(x[:, kept], y, rcond=None)[0]
  return w


def against(truth: np.ndarray, w: np.ndarray) -> dict[str, float]:
  """False and missed features, relative error, and the shrinkage of what was rightly found."""
  found, real = w != 0, truth != 0
  both = found & real
  shrinkage = 1 - np.mean(w[both] / truth[both]) if both.any() else 1.0
  return {
    "false": float(np.sum(found & ~real)),
    "missed": float(np.sum(real & ~found)),
    "error": float(np.linalg.norm(w - truth) / np.linalg.norm(truth)),
    "shrinkage": float(shrinkage),
  }
