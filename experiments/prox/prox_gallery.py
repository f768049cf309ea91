"""Every penalty of the catalogue with its proximal operator, drawn and checked by brute force."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments._claims import Claim, Side
from experiments._protocol import Paper, Progress, Row, Settings, Size
from experiments.prox._gallery_drawing import MOVES, REACH, SIDE, STEPS, pack
from experiments.prox._gallery_drawing import figure as figure
from jaxopt_robust import prox

PAPER = Paper(
  title="Proximal algorithms",
  authors="Parikh and Boyd",
  year=2014,
  claim="The proximal operator is the point that minimises the penalty plus half the squared "
  "distance over the step. No search over a fine grid finds a better one, for any penalty of the "
  "catalogue, below or above the step at which a non-convex operator starts to jump.",
  section="Sections 3.1 and 6; the pictures are our own",
  url="https://doi.org/10.1561/2400000003",
)


class Slice(NamedTuple):
  """A penalty of an array, drawn over a plane of arrays that the operator maps into itself.

  Attributes:
    hyper: its hyper-parameters.
    embed: isometry from (u, v) to the array.
    read: its inverse.
    text: what the array is, in the words of a title.
    options: other arguments of the operator: the tolerance of an iterative one.
  """

  hyper: Any
  embed: Callable[[Any], Any] = lambda uv: uv
  read: Callable[[Any], Any] = lambda x: x
  text: str = "(u, v)"
  options: tuple[tuple[str, Any], ...] = ()


_rows = functools.partial(
  Slice, embed=lambda uv: uv[:, None], read=lambda x: x[:, 0], text="rows u, v"
)
_diagonal = functools.partial(Slice, embed=jnp.diag, read=jnp.diag, text="diag(u, v)")
_line = functools.partial(Slice, text="line u, v")
_image = functools.partial(
  Slice,
  embed=lambda uv: uv[None, :],
  read=lambda x: x[0],
  text="image u, v",
  options=(("tol", 1e-13), ("max_steps", 5000)),
)
_ROTATED = np.array([[1.2, 0.7], [-0.3, 0.6]])

# Hyper-parameters of each record of ``jaxopt_robust.prox``: entrywise ones here, others below.
CURVES: dict[str, Any] = {
  "lasso": 1.0, "elastic_net": (1.0, 0.5), "ridge": 1.0, "non_negative_lasso": 1.0,
  "non_negative_ridge": 1.0, "box": (-1.0, 1.5), "quadratic": (1.0, 1.0), "huber": (1.0, 1.0),
  "epsilon_insensitive": (1.0, 0.5), "pinball": (1.0, 0.25), "hinge": 1.0, "squared_hinge": 1.0,
  "logistic": 1.0, "three_halves": 1.0, "cube": 0.5, "fourth_power": 0.25, "neg_log": 1.0,
  "poisson": (1.0, 1.0), "entropy": 1.0, "l0": 1.0, "lq": (1.0, 0.3), "half": 1.0,
  "two_thirds": 1.0, "mcp": (1.0, 1.5), "scad": (1.0, 2.5), "cel0": (1.0, 1.0),
  "log_sum": (1.0, 1.0), "capped_l1": (1.0, 1.0),
}  # fmt: skip
SLICES: dict[str, Slice] = {
  "group_lasso": Slice(1.0),
  "l21": _rows(1.0),
  "sparse_group_lasso": Slice((0.5, 0.5)),
  "least_squares": Slice((_ROTATED, np.array([0.6, 0.3]))),
  "nuclear": _diagonal(1.0),
  "schatten": _diagonal((1.0, 0.5)),
  "rank": _diagonal(1.0),
  "spectral_norm": _diagonal(1.0),
  "log_det": _diagonal(1.0),
  "linf": Slice(1.0),
  "max": Slice(1.0),
  "sum_largest": Slice((0.5, 1.5)),
  "squared_l1": Slice(0.5),
  "owl": Slice(np.array([1.0, 0.4])),
  "oscar": Slice((0.4, 0.6)),
  "tv1d": _line(0.7),
  "fused_lasso": _line((0.4, 0.5)),
  "tv2d": _image(0.7),
  "tv2d_anisotropic": _image(0.7),
}


@dataclasses.dataclass(frozen=True)
class Config(Settings):
  """Settings. A seed draws where the points of the curves lie between those of a grid.

  Attributes:
    points: number of points of a curve, on [-3, 3].
    candidates: number of points of the search over a line; it reaches twice as far.
    cells: number of points along a side of a plane; the search there has four times as many.
    only: names of the records to draw; all when empty.
  """

  seeds: int = 4
  points: int = 81
  candidates: int = 6001
  cells: int = 41
  only: tuple[str, ...] = ()


SIZES = {
  "toy": Size(
    Config(seeds=2, points=41, candidates=601, cells=9, only=("lasso", "mcp", "nuclear")),
    "Three penalties.",
  ),
  "desk": Size(Config(), "The text has a dozen of these operators and no numbers."),
  "large": Size(Config(points=241, candidates=60_001, cells=81), "Finer grids."),
}


def records() -> dict[str, prox.Penalty]:
  """All public penalties that are records of a value and an operator."""
  public = {name: getattr(prox, name) for name in prox.__all__}
  return {name: value for name, value in public.items() if isinstance(value, prox.Penalty)}


def excess(points: Any, found: Any, value: Any, search: tuple, step: float) -> float:
  """How far the objective at the operator's points lies above a search's best, relatively.

  Args:
    points: float[n, d], x.
    found: float[n, d], what the operator returns for them.
    value: float[n], the penalty there.
    search: (float[m, d], float[m]), the points of the search and the penalty there.
    step: the step size.

  Returns:
    max over x of (objective(found) - min over the search) / (1 + |objective(found)|), where the
    objective is step * penalty(y) + 1/2 ||y - x||^2.
  """
  ours = step * value + 0.5 * np.sum((found - points) ** 2, axis=1)
  candidates, heights = search
  squares = 0.5 * np.sum((candidates[None] - points[:, None]) ** 2, axis=2)
  best = np.min(squares + step * heights[None], axis=1)
  return float(np.max((ours - best) / (1 + np.abs(ours))))


@jax.enable_x64(True)
def run(config: Config, progress: Progress) -> dict[str, Any]:
  """Draws and checks all records."""
  known = records()
  chosen = set(config.only or known)
  metrics: dict[str, Any] = {"curves": {}, "slices": {}}
  for name in progress.track([n for n in CURVES if n in chosen], "curves"):
    metrics["curves"][name] = check_curve(known[name], CURVES[name], config)
  for name in progress.track([n for n in SLICES if n in chosen], "planes"):
    metrics["slices"][name] = check_slice(known[name], SLICES[name], config)
  return metrics


def check_curve(record: prox.Penalty, hyper: Any, config: Config) -> dict[str, Any]:
  """The curves of an entrywise penalty, and what the checks say, a number a seed."""
  grid = np.linspace(-REACH, REACH, config.points)
  shifts = [np.random.default_rng(s).random() - 0.5 for s in config.seed_numbers()]
  points = np.stack([grid, *(grid + shift * (grid[1] - grid[0]) for shift in shifts)])
  candidates = np.linspace(-2 * REACH, 2 * REACH, config.candidates)
  steps = np.asarray(STEPS)
  envelope = prox.moreau_envelope(record)

  @jax.jit
  def evaluate(points: Any, candidates: Any, steps: Any) -> tuple:
    value = jax.vmap(lambda x: record.value(x, hyper))
    found = jax.vmap(lambda s: record.prox(points, hyper, s))(steps)
    smooth = jax.vmap(lambda s: jax.vmap(lambda x: envelope(x, hyper, s))(points))(steps)
    # One call for all, so that the penalty is compiled once.
    heights = value(jnp.concatenate([points, candidates, found.ravel()]))
    n, m = len(points), len(candidates)
    return heights[:n], heights[n : n + m], heights[n + m :].reshape(found.shape), found, smooth

  out = jax.tree.map(np.asarray, evaluate(points.ravel(), candidates, steps))
  height, heights, at_found, found, smooth = out
  split = lambda a: a.reshape(*a.shape[:-1], *points.shape)
  height, at_found, found, smooth = (split(a) for a in (height, at_found, found, smooth))
  search = (candidates[:, None], heights)
  beaten = lambda i: max(
    excess(points[i, :, None], y[i, :, None], g[i], search, s)
    for y, g, s in zip(found, at_found, steps, strict=True)
  )
  above = np.where(np.isfinite(height), smooth - np.where(np.isfinite(height), height, 0), -np.inf)
  return {
    "hyper": hyper,
    "excess": [beaten(i) for i in range(1, len(points))],
    "falls": np.maximum(0, -np.diff(found, axis=2).min((0, 2)))[1:],
    "envelope_above": above.max((0, 2))[1:],
    "penalty": pack(height[0]),
    "operators": [pack(y[0]) for y in found],
    "envelopes": [pack(m[0]) for m in smooth[[0, -1]]],
  }


def check_slice(record: prox.Penalty, plane: Slice, config: Config) -> dict[str, Any]:
  """The penalty and the operator (step 1) on a plane of arrays, and what the checks say."""
  cells, candidates = _grid(SIDE, config.cells), _grid(2 * SIDE, 4 * config.cells + 1)
  shifts = [np.random.default_rng(s).uniform(-0.3, 0.3, 2) for s in config.seed_numbers()]
  starts = np.stack([_grid(0.8 * SIDE, MOVES) + shift for shift in (np.zeros(2), *shifts)])
  hyper = jax.tree.map(jnp.asarray, plane.hyper)

  @jax.jit
  def evaluate(cells: Any, candidates: Any, starts: Any) -> tuple:
    def at(uv: Any) -> tuple:
      y = record.prox(plane.embed(uv), hyper, 1.0, **dict(plane.options))
      back = plane.read(y)
      return back, jnp.max(jnp.abs(plane.embed(back) - y))

    found, left = jax.vmap(at)(starts)
    value = jax.vmap(lambda uv: record.value(plane.embed(uv), hyper))
    heights = value(jnp.concatenate([cells, candidates, found]))
    n, m = len(cells), len(candidates)
    return found, left, heights[:n], heights[n : n + m], heights[n + m :]

  out = jax.tree.map(np.asarray, evaluate(cells, candidates, starts.reshape(-1, 2)))
  found, left, height, heights, at_found = out
  found, left, at_found = (
    a.reshape(len(starts), MOVES**2, *a.shape[1:]) for a in (found, left, at_found)
  )
  return {
    "text": plane.text,
    "excess": [
      excess(starts[i], found[i], at_found[i], (candidates, heights), 1.0)
      for i in range(1, len(starts))
    ],
    "leaves_plane": left[1:].max(1),
    "penalty": pack(height),
    "operator": pack(found[0]),
    "starts": pack(starts[0]),
  }


def _grid(reach: float, count: int) -> np.ndarray:
  """All pairs of ``count`` equally spaced numbers, float[count^2, 2]."""
  axis = np.linspace(-reach, reach, count)
  return np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2)


_CHECKS = {
  ("curves", "excess"): "No search over a line finds a lower objective than an entrywise operator.",
  (
    "slices",
    "excess",
  ): "No search over a plane finds a lower objective than an operator of arrays.",
  ("curves", "falls"): "No entrywise operator ever decreases, convex or not.",
  ("curves", "envelope_above"): "No Moreau envelope lies above its penalty.",
  ("slices", "leaves_plane"): "Operators of matrices map diagonal ones to diagonal ones.",
}


def _worst(metrics: dict[str, Any], kind: str, key: str) -> Side:
  """The worst of all penalties, a number a seed."""
  worst = np.max([np.asarray(v[key], float) for v in metrics[kind].values()], axis=0)
  return Side(f"worst of {len(metrics[kind])}", worst)


def claims(metrics: dict[str, Any], config: Config) -> list[Claim]:
  """What defines the operators, to rounding of float64."""
  rounding = Side("rounding", 1e-12)
  return [
    Claim(
      f"{kind}_{key}", text, "theory", f"{key}, relative", _worst(metrics, kind, key), rounding,
      better="lower",
    )
    for (kind, key), text in _CHECKS.items()
  ]  # fmt: skip


def table(metrics: dict[str, Any], config: Config) -> list[Row]:
  """How far the objective lies above that of the best candidate; negative where it is below."""
  return [
    Row("objective above the best candidate", _worst(metrics, kind, "excess"), better="lower")
    for kind in ("curves", "slices")
  ]
