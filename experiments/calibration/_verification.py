"""Answers or none: the similarity-distance-magnitude estimator beside what softmax allows."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import _figures
from experiments._claims import Claim, Side
from experiments._protocol import Progress, Row, new_figure
from jaxopt_robust import calibration

SOFTMAX, TEMPERATURE = "softmax", "temperature scaling"
APS, RAPS, SDM = "APS", "RAPS", "SDM"
METHODS = (SOFTMAX, TEMPERATURE, APS, RAPS, SDM)
NO_ANSWER = -1  # the class of what has none


class Draw(NamedTuple):
  """Features and classes to fit on, keys, and sets to answer."""

  key: Any
  x: Any
  y: Any
  x_sets: Any  # float[sets, n, features]
  y_sets: Any  # int32[sets, n]; NO_ANSWER where no class is right


def make_verify(
  *, num_classes: int, level: float, width: int, rounds: int, epochs: int, rate: float, c: float
) -> Callable[[Draw], dict[str, Any]]:
  """A function from a draw to the shares of every set that each method admits, of those that are
  wrong, and of right answers among all.

  Softmax, temperature scaling and the conformal sets share a logistic regression on half of the
  examples; the other half is theirs for calibration.
  """
  fit = functools.partial(
    calibration.sdm_fit, num_classes=num_classes, level=level, width=width, num_rounds=rounds,
    num_epochs=epochs, learning_rate=rate,
  )  # fmt: skip

  def verify(draw: Draw) -> dict[str, Any]:
    key_fit, key_sets = jax.random.split(draw.key)
    model = fit(draw.x, draw.y, key_fit)
    half = draw.x.shape[0] // 2
    scale = 1 / jnp.std(draw.x)
    head, _ = calibration.logistic_head(
      scale * draw.x[:half], draw.y[:half], num_classes=num_classes, inverse_strength=c, tol=1e-4
    )
    logits_of = lambda x: calibration.linear_head_logits(head, scale * x)
    held, labels = logits_of(draw.x[half:]), draw.y[half:]
    inverse, _ = calibration.temperature_fit(held, labels)
    key_held, *keys = jax.random.split(key_sets, 1 + draw.x_sets.shape[0])
    p = jax.nn.softmax(held)
    rules = {
      APS: calibration.aps_scores,
      RAPS: functools.partial(calibration.raps_scores, penalty=0.1, num_free=1),
    }
    limits = {
      name: calibration.conformal_quantile(
        calibration.label_scores(scores(p, key_held), labels), alpha=1 - level
      )
      for name, scores in rules.items()
    }

    def on(x: jax.Array, y: jax.Array, key: jax.Array) -> dict[str, Any]:
      logits = logits_of(x)
      p = jax.nn.softmax(logits)
      found = calibration.sdm_estimate(model, x)
      plain = jnp.argmax(logits, axis=1)
      sets = {
        name: calibration.prediction_sets(scores(p, key), limits[name])
        for name, scores in rules.items()
      }
      admitted = {
        SOFTMAX: jnp.max(p, axis=1) >= level,
        TEMPERATURE: jnp.max(jax.nn.softmax(inverse * logits), axis=1) >= level,
        SDM: found.is_admitted,
      } | {name: jnp.sum(chosen, axis=1) == 1 for name, chosen in sets.items()}  # fmt: skip
      cells = {}
      for name, kept in admitted.items():
        # A set of one class holds the answer, for APS not always the likeliest one.
        answer = found.label if name == SDM else plain
        if name in sets:
          answer = jnp.where(kept, jnp.argmax(sets[name], axis=1), plain)
        right = answer == y
        cells[name] = {
          "admitted": jnp.mean(kept), "wrong": jnp.mean(kept & ~right), "right": jnp.mean(right),
        }  # fmt: skip
      return cells

    cells = jax.vmap(on)(draw.x_sets, draw.y_sets, jnp.stack(keys))
    return {"sets": cells, "q_min": model.round_thresholds, "threshold": model.similarity_threshold}

  return verify


def run_all(
  verify: Callable[[Draw], dict[str, Any]], draws: list[Draw], sets: Any, progress: Progress
) -> dict[str, Any]:
  """Every draw by one program, metrics by the names of the sets, a number a seed."""
  program = jax.jit(verify)
  found = []
  for one in progress.track(draws, "draws"):
    found.append(jax.device_get(progress.clock.call(program, one, name="fit and answer")))
  stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *found)
  cells = stacked.pop("sets")
  pick = lambda i: jax.tree.map(lambda leaf: leaf[:, i], cells)
  return stacked | {"sets": {name: pick(i) for i, name in enumerate(sets)}}


def _admitted_accuracy(cell: dict[str, Any]) -> Any:
  """Accuracy among what is admitted, NaN where nothing is."""
  kept, wrong = (np.asarray(cell[key], float) for key in ("admitted", "wrong"))
  return np.where(kept > 0, 1 - wrong / np.where(kept > 0, kept, 1), np.nan)


def claims(
  metrics: dict[str, Any], level: float, *, same: str, shifted: tuple[str, ...], strange: tuple
) -> list[Claim]:
  """Accurate where it answers; fewer wrong answers under shifts, none about what is strange."""
  made = []
  cell = metrics["sets"]
  text = f"Of its answers to what it was fitted on ({same}) a share of at least {level:g} is right."
  made.append(
    Claim("level", text, "paper", f"accuracy of what is admitted, {same}",
          Side(SDM, _admitted_accuracy(cell[same][SDM])), Side(f"{level:g}", level))
  )  # fmt: skip
  for name in shifted + strange:
    for base in (SOFTMAX, TEMPERATURE, APS, RAPS):
      key = f"{name}_{METHODS.index(base)}".replace(" ", "_")
      text = f"On {name} fewer of all answers are given and wrong than with {base}."
      made.append(
        Claim(key, text, "paper", f"share admitted and wrong, {name}",
              Side(SDM, cell[name][SDM]["wrong"]), Side(base, cell[name][base]["wrong"]),
              better="lower")
      )  # fmt: skip
  for name in strange:
    text = f"Of {name}, which have no right answer, it answers at most one in a hundred."
    made.append(
      Claim(f"none_{name}".replace(" ", "_"), text, "expected", f"share admitted, {name}",
            Side(SDM, cell[name][SDM]["admitted"]), Side("one in a hundred", 0.01), better="lower")
    )  # fmt: skip
  text = f"The price: of {same} it answers fewer than softmax."
  made.append(
    Claim("price", text, "paper", f"share admitted, {same}", Side(SDM, cell[same][SDM]["admitted"]),
          Side(SOFTMAX, cell[same][SOFTMAX]["admitted"]), better="lower")
  )  # fmt: skip
  return made


def table(metrics: dict[str, Any]) -> list[Row]:
  """Shares admitted, and admitted and wrong, of every set and method beside softmax."""
  rows = []
  for name, cells in metrics["sets"].items():
    for method in METHODS[::-1]:
      for key, what, better in (
        ("admitted", "share admitted", "higher"), ("wrong", "share admitted and wrong", "lower"),
      ):  # fmt: skip
        base = None if method == SOFTMAX else Side(SOFTMAX, cells[SOFTMAX][key])
        rows.append(Row(f"{what}, {name}", Side(method, cells[method][key]), base, better))
  return rows


def figure(record: dict[str, Any]) -> Any:
  """Admitted, and admitted and wrong, by set and method."""
  sets = record["metrics"]["sets"]
  fig, axes = new_figure(1, 2, width=6.4, height=4.4)
  for axis, key, label in zip(
    axes, ("admitted", "wrong"), ("share admitted", "share admitted and wrong"), strict=True
  ):
    groups = {
      method: {name: cells[method][key] for name, cells in sets.items()} for method in METHODS
    }
    _figures.dots(axis, groups, ylabel=label)
  return fig
