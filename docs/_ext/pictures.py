"""Small pictures for the reference, drawn by the build: penalties, losses, projections."""

import inspect
import io
from collections.abc import Callable
from typing import Any

import facts
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

from experiments import _records
from experiments.prox import _gallery_drawing, prox_gallery

_MARGINS = np.linspace(-3.0, 3.0, 121)
# Sets in the plane, with the hyper-parameters of their projections.
_SETS: dict[str, Any] = {
  "projection_box": (jnp.array([-0.8, -0.4]), jnp.array([0.6, 0.9])),
  "projection_halfspace": (jnp.array([1.0, 0.6]), 0.3),
  "projection_hyperplane": (jnp.array([1.0, 0.6]), 0.3),
  "projection_hyperslab": (jnp.array([1.0, 0.6]), -0.4, 0.5),
  "projection_hypercube": 1.0,
  "projection_l1_ball": 1.0,
  "projection_weighted_l1_ball": (jnp.array([1.0, 2.0]), 1.0),
  "projection_l1_sphere": 1.0,
  "projection_l2_ball": 1.0,
  "projection_l2_sphere": 1.0,
  "projection_linf_ball": 0.8,
  "projection_non_negative": None,
  "projection_simplex": 1.0,
  "projection_second_order_cone": None,
  "projection_isotonic": None,
  "projection_top_k": 1,
}


def _figure(columns: int, width: float, height: float) -> tuple[Any, Any]:
  """Panels with fixed margins: a layout engine would draw each picture twice."""
  fig, axes = plt.subplots(1, columns, figsize=(columns * width, height), squeeze=False)
  fig.subplots_adjust(
    left=0.55 / width / columns, right=1 - 0.1 / width / columns, bottom=0.45 / height,
    top=1 - 0.3 / height, wspace=0.3,
  )  # fmt: skip
  for ax in axes[0]:
    ax.grid(visible=True, color="0.9")
    ax.spines[["top", "right"]].set_visible(False)
  return fig, axes[0]


def _png(fig: Any) -> bytes:
  out = io.BytesIO()
  fig.savefig(out, format="png", dpi=110, metadata={"Software": None})
  plt.close(fig)
  return out.getvalue()


def _penalty_pictures() -> dict[str, bytes]:
  """Each penalty with its operator, from the committed numbers of the gallery."""
  metrics = _records.read(_records.RECORDS / "prox_gallery.json")["metrics"]
  result = {}
  for name, data in metrics["curves"].items():
    fig, axes = _figure(2, width=3.0, height=2.3)
    _gallery_drawing._draw_curve(axes[0], axes[1], name, data)
    axes[0].set(xlabel="x", ylabel="g(x)")
    axes[1].set(xlabel="x", ylabel="operator")
    steps = ", ".join(f"{s:g}" for s in _gallery_drawing.STEPS)
    axes[1].set_title(f"steps {steps}: blue, orange, red", fontsize=7.5, loc="left", pad=2)
    result[f"prox_{name}"] = _png(fig)
  for name, data in metrics["slices"].items():
    fig, axes = _figure(1, width=3.0, height=3.0)
    _gallery_drawing._draw_slice(axes[0], name, data)
    result[f"prox_{name}"] = _png(fig)
  return result


def loss_of_margin(function: Callable) -> np.ndarray | None:
  """A loss of scores (m, 0) and label 0 over m; None for a loss of another shape."""
  parameters = list(inspect.signature(function).parameters.values())
  free = [p.name for p in parameters if p.default is p.empty]
  if free[1:] != ["labels"] or free[0] not in ("logits", "scores"):
    return None
  scores = jnp.stack([jnp.asarray(_MARGINS, jnp.float32), jnp.zeros(len(_MARGINS))], axis=1)
  try:
    values = jax.jit(function)(scores, jnp.zeros(len(_MARGINS), jnp.int32))
  except (TypeError, ValueError):
    return None
  return np.asarray(values) if np.shape(values) == _MARGINS.shape else None


def _curve(values: np.ndarray, xlabel: str, ylabel: str) -> bytes:
  fig, axes = _figure(1, width=3.2, height=2.3)
  axes[0].plot(_MARGINS, values, lw=1.6)
  axes[0].set(xlabel=xlabel, ylabel=ylabel)
  return _png(fig)


def _loss_pictures() -> dict[str, bytes]:
  result = {}
  for fact in facts.facts().values():
    if fact.module != "losses" or not inspect.isfunction(fact.thing):
      continue
    if fact.name.endswith("_surrogate"):
      values = np.asarray(jax.vmap(fact.thing)(jnp.asarray(_MARGINS, jnp.float32)))
      result[f"losses_{fact.name}"] = _curve(values, "difference of scores", "value")
    elif fact.name.endswith("_loss"):
      values = loss_of_margin(fact.thing)
      if values is not None and np.ptp(values) > 0:
        label = "score of the label minus the other score"
        result[f"losses_{fact.name}"] = _curve(values, label, "loss, two classes")
  return result


def _threshold_pictures() -> dict[str, bytes]:
  result = {}
  for name in ("soft_threshold", "hard_threshold"):
    function = facts.facts()[f"numerics.{name}"].thing
    values = np.asarray(function(jnp.asarray(_MARGINS, jnp.float32), 1.0))
    if name == "hard_threshold":
      values = np.where(np.abs(np.abs(_MARGINS) - 1.0) < 0.03, np.nan, values)
    result[f"numerics_{name}"] = _curve(values, "x", "threshold 1")
  return result


def _projection_pictures() -> dict[str, bytes]:
  """Points of the plane and where the projection moves them."""
  axis = np.linspace(-1.7, 1.7, 7)
  starts = np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2) + 0.02
  dense = np.stack(np.meshgrid(*2 * [np.linspace(-1.9, 1.9, 121)]), -1).reshape(-1, 2)
  result = {}
  for name, hyper in _SETS.items():
    function = facts.facts()[f"projections.{name}"].thing
    move = jax.jit(jax.vmap(lambda x, f=function, h=hyper: f(x) if h is None else f(x, h)))
    ends, inside = np.asarray(move(jnp.asarray(starts))), np.asarray(move(jnp.asarray(dense)))
    fig, axes = _figure(1, width=2.6, height=2.6)
    axes[0].plot(*inside.T, ",", color="C0", alpha=0.6)
    for start, end in zip(starts, ends, strict=True):
      axes[0].plot(*np.stack([start, end]).T, color="C1", lw=0.7)
    axes[0].plot(*ends.T, "o", color="C3", ms=2.5)
    axes[0].set(xlim=(-1.9, 1.9), ylim=(-1.9, 1.9), aspect="equal", xlabel="x₁", ylabel="x₂")
    result[f"projections_{name}"] = _png(fig)
  return result


def pictures() -> tuple[dict[str, bytes], dict[str, str]]:
  """The pictures by name, and which public name has which."""
  drawn = _penalty_pictures() | _loss_pictures() | _threshold_pictures() | _projection_pictures()
  used = {}
  for fact in facts.facts().values():
    stem = fact.name.removeprefix("prox_").removeprefix("penalty_")
    for key in (f"{fact.module}_{fact.name}", f"prox_{stem}" if fact.module == "prox" else ""):
      if key in drawn:
        used[fact.short] = key
  assert set(prox_gallery.CURVES) <= {k.removeprefix("prox_") for k in drawn}
  return drawn, used


# Box: what it says, the modules, left, bottom, width, height, colour.
_PARTS = (
  ("what is minimised", "losses, prox, projections", 0.01, 0.56, 0.25, 0.32, "C0"),
  ("how", "solvers, transforms, optax", 0.35, 0.56, 0.25, 0.32, "C1"),
  ("methods of papers", "unfolding, recovery, compositional,\nbilevel, robustness, surrogates",
   0.69, 0.50, 0.30, 0.44, "C2"),
  ("where: a grid of settings, on any devices", "sweeps", 0.25, 0.06, 0.45, 0.30, "C3"),
)  # fmt: skip


def composition() -> bytes:
  """How the parts of the package compose."""
  from matplotlib.patches import FancyBboxPatch

  fig, axes = _figure(1, width=9.0, height=2.8)
  ax = axes[0]
  ax.set_axis_off()
  ax.grid(visible=False)
  ax.set(xlim=(0, 1), ylim=(0, 1))
  for says, modules, left, bottom, width, height, colour in _PARTS:
    style = "round,pad=0,rounding_size=0.02"
    box = FancyBboxPatch(
      (left, bottom), width, height, boxstyle=style, fc="white", ec=colour, lw=1.8
    )
    ax.add_patch(box)
    middle = left + width / 2
    ax.text(
      middle, bottom + 0.72 * height, says, ha="center", va="center", fontsize=9, weight="bold"
    )
    ax.text(middle, bottom + 0.32 * height, modules, ha="center", va="center", fontsize=8.5)
  arrow = {"arrowstyle": "-|>", "color": "0.35", "lw": 1.3, "shrinkA": 0, "shrinkB": 0}
  for start, end in (
    ((0.26, 0.72), (0.35, 0.72)), ((0.60, 0.72), (0.69, 0.72)), ((0.475, 0.56), (0.475, 0.36)),
    ((0.14, 0.56), (0.30, 0.36)), ((0.82, 0.50), (0.66, 0.36)),
  ):  # fmt: skip
    ax.annotate("", xy=end, xytext=start, arrowprops=arrow)
  ax.text(
    0.99, 0.18, "jit, vmap and grad\nthrough everything", ha="right", fontsize=8.5, style="italic"
  )
  return _png(fig)
