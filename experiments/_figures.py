"""Panels that several figures share; each draws on axes that it is given."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments._statistics import mean_interval


def dots(
  ax: Any, groups: Mapping[str, Mapping[str, Any]], *, ylabel: str = "", title: str = ""
) -> None:
  """Means with 95 % intervals over the seeds: a place a method, a colour a group.

  Args:
    ax: axes.
    groups: group -> method -> values, a number a seed.
    ylabel: what is measured.
    title: of the panel.
  """
  methods = list(dict.fromkeys(name for values in groups.values() for name in values))
  for j, (group, values) in enumerate(groups.items()):
    shift = (j - (len(groups) - 1) / 2) * 0.7 / len(groups)
    found = {name: mean_interval(np.asarray(v, float)) for name, v in values.items()}
    place = np.array([methods.index(name) for name in found]) + shift
    center = np.array([interval.estimate for interval in found.values()])
    half = np.array([interval.high - interval.estimate for interval in found.values()])
    half = np.where(np.isfinite(half), half, 0)  # one seed has no interval
    ax.errorbar(place, center, half, fmt="o", ms=4, capsize=2, label=group or None)
  ax.set_xticks(range(len(methods)), methods, rotation=60, ha="right", fontsize=8)
  ax.set(ylabel=ylabel, title=title)
  if any(groups):
    ax.legend(fontsize=8)


def curves(
  ax: Any,
  lines: Mapping[str, Any],
  x: Any = None,
  *,
  xlabel: str = "",
  ylabel: str = "",
  title: str = "",
  log: str = "",
) -> None:
  """Lines; of values [seeds, points] the mean with a band between the least and the largest.

  Args:
    ax: axes.
    lines: name -> float[points] or float[seeds, points].
    x: float[points], or a dict of them by name; 1, 2, ... by default.
    xlabel: of the axis.
    ylabel: of the axis.
    title: of the panel.
    log: which axes are logarithmic: ``""``, ``"x"``, ``"y"`` or ``"xy"``.
  """
  for name, values in lines.items():
    values = np.atleast_2d(np.asarray(values, float))
    place = x[name] if isinstance(x, Mapping) else x
    place = np.arange(1, values.shape[1] + 1) if place is None else np.asarray(place, float)
    (line,) = ax.plot(place, values.mean(0), lw=1.2, label=name)
    if len(values) > 1:
      ax.fill_between(place, values.min(0), values.max(0), color=line.get_color(), alpha=0.15, lw=0)
  if "x" in log:
    ax.set_xscale("log")
  if "y" in log:
    ax.set_yscale("log")
  ax.set(xlabel=xlabel, ylabel=ylabel, title=title)
  if len(lines) > 1:
    ax.legend(fontsize=8)


def reliability(ax: Any, methods: Mapping[str, Mapping[str, Any]], *, title: str = "") -> None:
  """Accuracy over confidence, bins of all seeds together; a larger dot holds more examples.

  Args:
    ax: axes.
    methods: name -> ``count``, ``confidence`` and ``accuracy``, float[seeds, bins] each.
    title: of the panel.
  """
  ax.plot([0, 1], [0, 1], color="0.6", lw=0.8, zorder=0)
  for name, bins in methods.items():
    count, confidence, accuracy = (
      np.atleast_2d(np.asarray(bins[key], float)) for key in ("count", "confidence", "accuracy")
    )
    total = count.sum(0)
    kept = total > 0
    mean = lambda x, count=count, total=total, kept=kept: (count * x).sum(0)[kept] / total[kept]
    (line,) = ax.plot(mean(confidence), mean(accuracy), lw=1, label=name)
    size = 4 + 60 * total[kept] / total.sum()
    ax.scatter(mean(confidence), mean(accuracy), size, color=line.get_color())
  ax.set(xlabel="confidence", ylabel="accuracy", title=title, xlim=(0, 1), ylim=(0, 1))
  ax.legend(fontsize=8)


def reliability_of(
  ax: Any, metrics: Mapping[str, Mapping[str, Any]], methods: Sequence[str], *, title: str = ""
) -> None:
  """The same from metrics that hold ``bin count``, ``bin confidence`` and ``bin accuracy``.

  Args:
    ax: axes.
    metrics: method -> name -> values.
    methods: which are drawn; those that are missing are left out.
    title: of the panel.
  """
  names = ("count", "confidence", "accuracy")
  shown = {m: {n: metrics[m][f"bin {n}"] for n in names} for m in methods if m in metrics}
  reliability(ax, shown, title=title)


def images(ax: Any, rows: Mapping[str, Any], *, title: str = "", **options: Any) -> None:
  """A grid of pictures: a row a name, float[pictures, height, width] each (or with 3 channels)."""
  pictures = [np.concatenate(list(np.asarray(row)), axis=1) for row in rows.values()]
  width = max(row.shape[1] for row in pictures)
  pad = lambda row: [(0, 0), (0, width - row.shape[1]), *[(0, 0)] * (row.ndim - 2)]
  table = np.concatenate([np.pad(row, pad(row), constant_values=1) for row in pictures], axis=0)
  ax.imshow(table, **{"cmap": "gray", "vmin": 0, "vmax": 1, **options})
  heights = np.cumsum([0, *(row.shape[0] for row in pictures)])
  ax.set_yticks((heights[1:] + heights[:-1]) / 2, list(rows), fontsize=8)
  ax.set(xticks=[], title=title)
  ax.grid(visible=False)


def heat_map(
  ax: Any,
  values: Any,
  xticks: Sequence[Any],
  yticks: Sequence[Any],
  *,
  xlabel: str = "",
  ylabel: str = "",
  title: str = "",
  **options: Any,
) -> Any:
  """float[y, x] as colours, the first row below; returns the image, for a colour bar."""
  image = ax.imshow(np.asarray(values, float), origin="lower", aspect="auto", **options)
  ax.set_xticks(range(len(xticks)), [f"{v}" for v in xticks], rotation=60, fontsize=8)
  ax.set_yticks(range(len(yticks)), [f"{v}" for v in yticks], fontsize=8)
  ax.set(xlabel=xlabel, ylabel=ylabel, title=title)
  ax.grid(visible=False)
  return image
