"""The picture of the gallery, and the numbers for it as text."""

import warnings
from typing import Any

import numpy as np

from experiments._protocol import new_figure

STEPS = (
  0.5,
  1.0,
  2.0,
)  # of the operators on the line; for non-convex ones below and above the bend
REACH = 3.0  # half the length of the lines that are drawn
SIDE = 2.0  # half the side of the planes
MOVES = 6  # starting points along a side of a plane


def pack(values: Any) -> str:
  """Numbers for a drawing as one string; "-" stands for infinity."""
  return " ".join(f"{v:.3g}" if np.isfinite(v) else "-" for v in np.ravel(np.asarray(values)))


def unpack(text: str) -> np.ndarray:
  """The inverse of ``pack``, up to rounding; NaN stands for infinity."""
  return np.array([np.nan if v == "-" else float(v) for v in text.split()])


_PAIRS = 4  # entrywise penalties in a row, two panels each
_COLOURS = ("C0", "C1", "C3")


def _draw_curve(left: Any, right: Any, name: str, data: dict[str, Any]) -> None:
  height = unpack(data["penalty"])
  points = np.linspace(-REACH, REACH, len(height))
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
  right.set(xlim=(-REACH, REACH), ylim=(-REACH, REACH), yticks=(-2, 0, 2))
  for ax in (left, right):
    ax.set_xticks((-2, 0, 2))
  hyper = data["hyper"] if isinstance(data["hyper"], list) else [data["hyper"]]
  left.set_title(f"{name} ({', '.join(f'{h:g}' for h in hyper)})", fontsize=7.5, loc="left", pad=2)


def _draw_slice(ax: Any, name: str, data: dict[str, Any]) -> None:
  height = unpack(data["penalty"])
  side = round(len(height) ** 0.5)
  axis = np.linspace(-SIDE, SIDE, side)
  ax.pcolormesh(axis, axis, height.reshape(side, side), cmap="Blues", shading="nearest")
  with warnings.catch_warnings():
    warnings.simplefilter("ignore", UserWarning)  # a level set without a line, such as that of 0
    ax.contour(axis, axis, height.reshape(side, side), 6, colors="w", linewidths=0.6)
  starts, ends = (unpack(data[key]).reshape(-1, 2) for key in ("starts", "operator"))
  for start, end in zip(starts, ends, strict=True):
    ax.plot(*np.stack([start, end]).T, color="C1", lw=0.7)
  ax.plot(*ends.T, "o", color="C3", ms=2.2)
  ax.set(xlim=(-SIDE, SIDE), ylim=(-SIDE, SIDE), aspect="equal")
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
  _legend(fig)
  return fig


def _legend(fig: Any) -> None:
  from matplotlib.lines import Line2D

  low, middle, high = (f"{s:g}" for s in STEPS)
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
