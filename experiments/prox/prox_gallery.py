"""Every penalty of the catalogue with its proximal operator, drawn and checked by brute force."""

import dataclasses
import functools
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments._earlier import Claim, Outcome, Row
from experiments._protocol import Paper, Progress, new_figure
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
DEMO = False


class Curve(NamedTuple):
  """An entrywise penalty, drawn over the line.

  Attributes:
    hyper: its hyper-parameters.
    steps: step sizes of the operator; for a non-convex penalty one lies above the bend.
  """

  hyper: Any
  steps: tuple[float, float, float] = (0.5, 1.0, 2.0)


class Slice(NamedTuple):
  """A penalty of an array, drawn over a plane of arrays that the operator maps into itself.

  Attributes:
    hyper: its hyper-parameters.
    embed: isometry from (u, v) to the array.
    read: its inverse.
    text: what the array is, in the words of a title.
    step: step size of the operator.
    options: other arguments of the operator: the tolerance of an iterative one.
  """

  hyper: Any
  embed: Callable[[Any], Any] = lambda uv: uv
  read: Callable[[Any], Any] = lambda x: x
  text: str = "(u, v)"
  step: float = 1.0
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

# One line for each record of ``jaxopt_robust.prox``, entrywise ones here, the others below.
CURVES: dict[str, Curve] = {
  "lasso": Curve(1.0),
  "elastic_net": Curve((1.0, 0.5)),
  "ridge": Curve(1.0),
  "non_negative_lasso": Curve(1.0),
  "non_negative_ridge": Curve(1.0),
  "box": Curve((-1.0, 1.5)),
  "quadratic": Curve((1.0, 1.0)),
  "huber": Curve((1.0, 1.0)),
  "epsilon_insensitive": Curve((1.0, 0.5)),
  "pinball": Curve((1.0, 0.25)),
  "hinge": Curve(1.0),
  "squared_hinge": Curve(1.0),
  "logistic": Curve(1.0),
  "three_halves": Curve(1.0),
  "cube": Curve(0.5),
  "fourth_power": Curve(0.25),
  "neg_log": Curve(1.0),
  "poisson": Curve((1.0, 1.0)),
  "entropy": Curve(1.0),
  "l0": Curve(1.0),
  "lq": Curve((1.0, 0.3)),
  "half": Curve(1.0),
  "two_thirds": Curve(1.0),
  "mcp": Curve((1.0, 1.5)),
  "scad": Curve((1.0, 2.5)),
  "cel0": Curve((1.0, 1.0)),
  "log_sum": Curve((1.0, 1.0)),
  "capped_l1": Curve((1.0, 1.0)),
}
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
class Config:
  """Settings.

  Attributes:
    seeds: nothing is random.
    points: number of points of a curve, on [-3, 3].
    candidates: number of points of the search over a line; it reaches twice as far.
    cells: number of points along a side of a plane; the search there has four times as many.
    only: names of the records to draw; all when empty.
  """

  seeds: int = 1
  points: int = 81
  candidates: int = 6001
  cells: int = 41
  only: tuple[str, ...] = ()


SIZES = {
  "toy": Config(points=41, candidates=601, cells=9, only=("lasso", "mcp", "neg_log", "nuclear")),
  "desk": Config(),
  "large": Config(points=241, candidates=60_001, cells=81),
}

_REACH = 3.0  # half the length of the lines that are drawn
_SIDE = 2.0  # half the side of the planes
_MOVES = 6  # starting points along a side of a plane


def records() -> dict[str, prox.Penalty]:
  """All public penalties that are records of a value and an operator."""
  public = {name: getattr(prox, name) for name in prox.__all__}
  return {name: value for name, value in public.items() if isinstance(value, prox.Penalty)}


def pack(values: Any) -> str:
  """Numbers for a drawing as one string; "-" stands for infinity."""
  return " ".join(f"{v:.3g}" if np.isfinite(v) else "-" for v in np.ravel(np.asarray(values)))


def unpack(text: str) -> np.ndarray:
  """The inverse of ``pack``, up to rounding; NaN stands for infinity."""
  return np.array([np.nan if v == "-" else float(v) for v in text.split()])


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


def run(config: Config, progress: Progress) -> Outcome:
  """Draws and checks all records."""
  with jax.enable_x64(True):
    return _run(config, progress)


def _run(config: Config, progress: Progress) -> Outcome:
  known = records()
  chosen = set(config.only or known)
  curves = {n: c for n, c in CURVES.items() if n in chosen}
  slices = {n: s for n, s in SLICES.items() if n in chosen}
  metrics: dict[str, Any] = {"curves": {}, "slices": {}}
  for name, curve in progress.track(curves.items(), "curves", total=len(curves)):
    metrics["curves"][name] = check_curve(known[name], curve, config)
  for name, plane in progress.track(slices.items(), "planes", total=len(slices)):
    metrics["slices"][name] = check_slice(known[name], plane, config)
  metrics["catalogue"] = {
    "records": len(known),
    "drawn": len(curves) + len(slices),
    "missing": sorted(chosen - {*curves, *slices}),
  }
  return Outcome(metrics, _table(config, metrics), _claims(metrics))


def check_curve(record: prox.Penalty, curve: Curve, config: Config) -> dict[str, Any]:
  """The curves of an entrywise penalty, and what the checks say."""
  points = np.linspace(-_REACH, _REACH, config.points)
  candidates = np.linspace(-2 * _REACH, 2 * _REACH, config.candidates)
  steps = np.asarray(curve.steps)
  envelope = prox.moreau_envelope(record)

  @jax.jit
  def evaluate(points: Any, candidates: Any, steps: Any) -> tuple:
    value = jax.vmap(lambda x: record.value(x, curve.hyper))
    found = jax.vmap(lambda s: record.prox(points, curve.hyper, s))(steps)
    smooth = jax.vmap(lambda s: jax.vmap(lambda x: envelope(x, curve.hyper, s))(points))(steps)
    # One call for all, so that the penalty is compiled once.
    heights = value(jnp.concatenate([points, candidates, found.ravel()]))
    n, m = len(points), len(candidates)
    return heights[:n], heights[n : n + m], heights[n + m :].reshape(found.shape), found, smooth

  out = jax.tree.map(np.asarray, evaluate(points, candidates, steps))
  height, heights, at_found, found, smooth = out
  beaten = [
    excess(points[:, None], y[:, None], g, (candidates[:, None], heights), s)
    for y, g, s in zip(found, at_found, steps, strict=True)
  ]
  inside = np.isfinite(height)
  return {
    "hyper": curve.hyper,
    "steps": curve.steps,
    "excess": max(beaten),
    "falls": float(max(0.0, -np.diff(found, axis=1).min())),
    "envelope_above": float(np.max((smooth - height)[:, inside], initial=-np.inf)),
    "penalty": pack(height),
    "operators": [pack(y) for y in found],
    "envelopes": [pack(m) for m in smooth[[0, -1]]],
  }


def check_slice(record: prox.Penalty, plane: Slice, config: Config) -> dict[str, Any]:
  """The penalty and the operator on a plane of arrays, and what the checks say."""
  cells = _grid(_SIDE, config.cells)
  candidates = _grid(2 * _SIDE, 4 * config.cells + 1)
  starts = _grid(0.8 * _SIDE, _MOVES)
  hyper = jax.tree.map(jnp.asarray, plane.hyper)

  @jax.jit
  def evaluate(cells: Any, candidates: Any, starts: Any) -> tuple:
    def at(uv: Any) -> tuple:
      y = record.prox(plane.embed(uv), hyper, plane.step, **dict(plane.options))
      back = plane.read(y)
      return back, jnp.max(jnp.abs(plane.embed(back) - y))

    found, left = jax.vmap(at)(starts)
    value = jax.vmap(lambda uv: record.value(plane.embed(uv), hyper))
    heights = value(jnp.concatenate([cells, candidates, found]))
    n, m = len(cells), len(candidates)
    return found, left, heights[:n], heights[n : n + m], heights[n + m :]

  out = jax.tree.map(np.asarray, evaluate(cells, candidates, starts))
  found, left, height, heights, at_found = out
  return {
    "text": plane.text,
    "step": plane.step,
    "excess": excess(starts, found, at_found, (candidates, heights), plane.step),
    "leaves_plane": float(left.max()),
    "penalty": pack(height),
    "operator": pack(found),
    "starts": pack(starts),
  }


def _grid(reach: float, count: int) -> np.ndarray:
  """All pairs of ``count`` equally spaced numbers, float[count^2, 2]."""
  axis = np.linspace(-reach, reach, count)
  return np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2)


def _worst(metrics: dict[str, Any], kind: str, key: str) -> tuple[str, float]:
  name = max(metrics[kind], key=lambda n: metrics[kind][n][key])
  return name, metrics[kind][name][key]


def _table(config: Config, metrics: dict[str, Any]) -> list[Row]:
  rows = []
  side = 4 * config.cells + 1
  for kind, what, many, gap in (
    (
      "curves",
      "entrywise operators, three steps each",
      config.candidates,
      4 * _REACH / (config.candidates - 1),
    ),
    ("slices", "operators of vectors and matrices", side**2, 4 * _SIDE / (side - 1)),
  ):
    name, worst = _worst(metrics, kind, "excess")
    rows.append(
      Row(
        f"{len(metrics[kind])} {what}",
        f"objective above the best of {many} candidates, worst point, relative",
        worst,
        better="lower",
        note=f"Worst: {name}; negative where the operator beats every candidate. In float64. "
        f"The candidates are {gap:.2g} apart.",
      )
    )
  return rows


_ROUNDING = 1e-12  # float64 after a few hundred operations


def _claims(metrics: dict[str, Any]) -> list[Claim]:
  catalogue = metrics["catalogue"]
  numbers = {kind: _worst(metrics, kind, "excess")[1] for kind in ("curves", "slices")}
  falls = _worst(metrics, "curves", "falls")[1]
  above = _worst(metrics, "curves", "envelope_above")[1]
  leaves = _worst(metrics, "slices", "leaves_plane")[1]
  return [
    Claim(
      "Every record of the catalogue that was asked for is drawn.",
      not catalogue["missing"],
      {k: catalogue[k] for k in ("records", "drawn")},
    ),
    Claim(
      "No search over a grid finds a lower objective than an operator's point.",
      max(numbers.values()) <= _ROUNDING,
      numbers,
    ),
    Claim(
      "No entrywise operator ever decreases, convex or not.",
      falls <= _ROUNDING,
      {"largest fall": falls},
    ),
    Claim(
      "No Moreau envelope lies above its penalty.",
      above <= _ROUNDING,
      {"largest excess": above},
    ),
    Claim(
      "The operators of matrices map diagonal ones to diagonal ones, those of rows rows to rows.",
      leaves <= _ROUNDING,
      {"largest entry off the plane": leaves},
    ),
  ]


_PAIRS = 4  # entrywise penalties in a row, two panels each
_COLOURS = ("C0", "C1", "C3")


def _draw_curve(left: Any, right: Any, name: str, data: dict[str, Any]) -> None:
  height = unpack(data["penalty"])
  points = np.linspace(-_REACH, _REACH, len(height))
  left.plot(points, height, color="k", lw=1.6)
  for colour, smooth in zip((_COLOURS[0], _COLOURS[-1]), data["envelopes"], strict=True):
    left.plot(points, unpack(smooth), color=colour, lw=0.9, ls="--")
  floor = min(0.0, np.nanmin(height))
  left.set_ylim(floor - 0.15, min(max(1.0, np.nanmax(height)), floor + 4.0) + 0.15)
  right.plot(points, points, color="0.6", lw=0.7, ls=":")
  for colour, values in zip(_COLOURS, data["operators"], strict=True):
    y = unpack(values)
    jumps = np.flatnonzero(np.abs(np.diff(y)) > 4 * (points[1] - points[0])) + 1
    right.plot(np.insert(points, jumps, np.nan), np.insert(y, jumps, np.nan), color=colour, lw=1.1)
  right.set(xlim=(-_REACH, _REACH), ylim=(-_REACH, _REACH), yticks=(-2, 0, 2))
  for ax in (left, right):
    ax.set_xticks((-2, 0, 2))
  hyper = data["hyper"] if isinstance(data["hyper"], list) else [data["hyper"]]
  left.set_title(f"{name} ({', '.join(f'{h:g}' for h in hyper)})", fontsize=7.5, loc="left", pad=2)


def _draw_slice(ax: Any, name: str, data: dict[str, Any]) -> None:
  height = unpack(data["penalty"])
  side = round(len(height) ** 0.5)
  axis = np.linspace(-_SIDE, _SIDE, side)
  ax.pcolormesh(axis, axis, height.reshape(side, side), cmap="Blues", shading="nearest")
  with warnings.catch_warnings():
    warnings.simplefilter("ignore", UserWarning)  # a level set without a line, such as that of 0
    ax.contour(axis, axis, height.reshape(side, side), 6, colors="w", linewidths=0.6)
  starts, ends = (unpack(data[key]).reshape(-1, 2) for key in ("starts", "operator"))
  for start, end in zip(starts, ends, strict=True):
    ax.plot(*np.stack([start, end]).T, color="C1", lw=0.7)
  ax.plot(*ends.T, "o", color="C3", ms=2.2)
  ax.set(xlim=(-_SIDE, _SIDE), ylim=(-_SIDE, _SIDE), aspect="equal")
  ax.set_title(f"{name}\n{data['text']}", fontsize=7.5, pad=2)
  ax.grid(visible=False)


def figure(record: dict[str, Any]) -> Any:
  """Two small panels a curve (penalty with envelopes; operators), one panel a plane."""
  curves, slices = record["metrics"]["curves"], record["metrics"]["slices"]
  columns = 2 * _PAIRS
  top = -(-len(curves) // _PAIRS)
  fig, axes = new_figure(top - (-len(slices) // columns), columns, width=1.55, height=1.5)
  for ax in axes:
    ax.tick_params(labelsize=6, length=2, pad=1)
  for number, (name, data) in enumerate(curves.items()):
    _draw_curve(axes[2 * number], axes[2 * number + 1], name, data)
  for ax in axes[2 * len(curves) : top * columns]:
    ax.set_axis_off()
  planes = axes[top * columns :]
  for ax, (name, data) in zip(planes, slices.items(), strict=False):
    _draw_slice(ax, name, data)
  for ax in planes[len(slices) :]:
    ax.set_axis_off()
  steps = next(iter(curves.values()))["steps"]
  _legend(fig, steps)
  return fig


def _legend(fig: Any, steps: Any) -> None:
  from matplotlib.lines import Line2D

  low, middle, high = (f"{s:g}" for s in steps)
  lines = [Line2D([], [], color="k", lw=1.6, label="penalty g (left)")]
  lines += [
    Line2D([], [], color=c, ls="--", lw=1, label=f"its Moreau envelope, step {s}")
    for c, s in ((_COLOURS[0], low), (_COLOURS[-1], high))
  ]
  lines += [
    Line2D([], [], color=c, lw=1.2, label=f"operator, step {s} (right)")
    for c, s in zip(_COLOURS, (low, middle, high), strict=True)
  ]
  fig.legend(handles=lines, loc="outside upper center", ncols=6, fontsize=7.5, frameon=False)
  fig.supxlabel(
    "Last rows: penalties of arrays on the plane of u (across) and v (up), dark is high, white are "
    "level lines; the operator moves each x along its line to the red dot, step 1",
    fontsize=8,
  )
