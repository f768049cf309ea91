"""Few labels and many unlabelled examples of a shifted distribution: robust self-training."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats

from experiments import _figures
from experiments._claims import Claim, Side
from experiments._protocol import Paper, Progress, Reported, Row, Settings, Size, new_figure
from experiments._statistics import Choice
from experiments._training import stack
from experiments.robustness import _unlabelled
from experiments.robustness._unlabelled import NOTE, every_setting, load_split, pick
from jaxopt_robust import problems

PAPER = Paper(
  title="Out-of-domain unlabeled data improves generalization",
  authors="Saberi, Najafi, Heidari, Movasaghinia, Motahari and Khalaj",
  year=2024,
  claim="A robust loss of unlabelled samples at self-assigned labels raises the accuracy far above "
  "that of the few labels alone, also where the unlabelled samples come from a shifted "
  "distribution.",
  section="Experiments: table on Gaussian data; there also histopathology",
  url="https://arxiv.org/abs/2310.00027",
)
ALONE, RSS, SELF = "labels only", "RSS", "self-training"
METHODS = {ALONE: _unlabelled.labels_only, RSS: _unlabelled.rss, SELF: _unlabelled.self_training}


@dataclasses.dataclass(frozen=True)
class Config(Settings):
  """Settings. A seed draws the means, the samples, the split and the batches.

  Attributes:
    labels: numbers of labelled samples, m.
    ratios: unlabelled samples in multiples of m.
    most: unlabelled samples of the last column.
    shifts: distance of the unlabelled mean from the labelled one, of length 1.
    dimension: d of the Gaussian data.
    steps: of Adam, of every method.
    batch: unlabelled rows of a step; all of them where there are no more.
    tuning_labels: m at which the settings for Gaussian data are chosen, for each column of the
      table, by the exact accuracy, the mean over the shifts, on the seeds from 50 on (development
      seeds, always): every method alike.
    tuning_seeds: how many of them.
    gammas: of the labelled ramp, for the labels alone; RSS has 0.5 there.
    rates: of Adam, for the labels alone; the other methods have 0.05.
    hats: gamma of the unlabelled term of RSS, for Gaussian data.
    digit_hats: the same for digits.
    weights: of the unlabelled term of RSS.
    self_weights: of the pseudo-labelled term of self-training.
    ridges: of self-training.
    copies: unlabelled copies of a picture, each with a brightness and a shift of its own.
  """

  seeds: int = 16
  labels: tuple[int, ...] = (10, 20, 40)
  ratios: tuple[int, ...] = (1, 10, 100)
  most: int = 10_000
  shifts: tuple[float, ...] = (0.0, 0.5)
  dimension: int = 200
  steps: int = 400
  batch: int = 1000
  tuning_labels: int = 20
  tuning_seeds: int = 4
  gammas: tuple[float, ...] = (0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0)
  rates: tuple[float, ...] = (1e-4, 1e-3, 1e-2, 0.05, 0.2)
  hats: tuple[float, ...] = (0.02, 0.05, 0.1, 0.2, 0.4)
  digit_hats: tuple[float, ...] = (1.0, 4.0, 8.0, 16.0, 32.0)
  weights: tuple[float, ...] = (0.003, 0.03, 0.3, 2.0, 20.0, 80.0, 320.0, 1280.0)
  self_weights: tuple[float, ...] = (0.06, 1.0, 16.0, 64.0, 256.0)
  ridges: tuple[float, ...] = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0)
  copies: int = 4

  def grids(self, hats: tuple[float, ...]) -> dict[str, dict[str, tuple[float, ...]]]:
    """What each method chooses: 40 settings each."""
    return {
      ALONE: {"gamma": self.gammas, "learning_rate": self.rates},
      RSS: {"unlabeled_gamma": hats, "weight": self.weights},
      SELF: {"weight": self.self_weights, "ridge": self.ridges},
    }


SIZES = {
  "toy": Size(
    Config(
      seeds=2, labels=(10,), ratios=(100,), most=1000, dimension=40, steps=60, batch=200,
      tuning_labels=10, tuning_seeds=2, gammas=(0.5, 1.0), rates=(0.01, 0.05),
      hats=(0.3, 0.5), digit_hats=(1.0, 2.0), weights=(5.0, 20.0),
      self_weights=(1.0, 4.0), ridges=(0.1, 0.3), copies=1,
    ),
    "40 dimensions instead of 200; digits instead of histopathology.",
  ),
  "desk": Size(
    Config(),
    "The Gaussian table at the paper's sizes, with sigma = 1 and settings of our own (it states "
    "none); digits instead of histopathology.",
  ),
  "large": Size(
    Config(seeds=100, batch=10_000, tuning_seeds=16),
    "The Gaussian table whole, 100 seeds, all unlabelled samples in every step; sigma and settings "
    "are ours.",
  ),
}  # fmt: skip


def seeds_of(config: Config) -> jax.Array:
  return jax.vmap(jax.random.key)(jnp.asarray(config.seed_numbers()))


@functools.partial(jax.jit, static_argnums=(2, 3, 4))
def draw(keys: jax.Array, shifts: jax.Array, m: int, n: int, dimension: int) -> dict[str, Any]:
  """Gaussian data of every key and shift, one axis of cases, the shifts of a key in turn."""

  def one(key: jax.Array, shift: jax.Array) -> dict[str, Any]:
    problem = problems.make_shifted_gaussians(
      key, num_labeled=m, num_unlabeled=n, dimension=dimension, shift=shift
    )
    truth = problem.truth
    whole = jnp.mean(truth.unlabeled_labels[:, None] * problem.data[2], axis=0)
    return {"key": key, "data": problem.data, "mean": truth.mean, "whole": whole}

  both = jax.vmap(jax.vmap(one, (None, 0)), (0, None))(keys, shifts)
  return jax.tree.map(lambda v: v.reshape(-1, *v.shape[2:]), both)


def tune(config: Config, progress: Progress) -> tuple[list[dict], list[Choice]]:
  """Settings for the Gaussian data, of each column and each method alike."""
  keys = jax.vmap(jax.random.key)(jnp.arange(50, 50 + config.tuning_seeds))
  m, found, choices = config.tuning_labels, [], []
  for n in columns(config, m):
    cases = draw(keys, jnp.asarray(config.shifts), m, n, config.dimension)
    found.append({})
    for name, axes in config.grids(config.hats).items():

      def one(setting: dict, case: dict, method: Any = METHODS[name]) -> jax.Array:
        plane = method(setting, case["data"], case["key"], config)
        return problems.gaussian_accuracy(plane.weights, case["mean"])

      scores = every_setting(progress, one, axes, cases, f"tuning of {name}, {n} unlabelled")
      found[-1][name], made = pick(name, axes, scores, f"{n} unlabelled Gaussians")
      choices += made
  return found, choices


def cell(config: Config, m: int, n: int, chosen: dict, progress: Progress) -> dict[str, Any]:
  """Exact accuracy of every method and shift, float[seeds]."""

  def one(case: dict) -> dict[str, jax.Array]:
    x, y, _ = case["data"]
    found = {"mean of the labelled": jnp.mean(y[:, None] * x, axis=0), "whole": case["whole"]}
    for name, method in METHODS.items():
      found[name] = method(chosen[name], case["data"], case["key"], config).weights
    accuracy = {k: problems.gaussian_accuracy(w, case["mean"]) for k, w in found.items()}
    return accuracy | {"cosine of RSS": jnp.sum(found[RSS] * case["mean"])}

  cases = draw(seeds_of(config), jnp.asarray(config.shifts), m, n, config.dimension)
  program = jax.jit(lambda cases: jax.lax.map(one, cases))
  found = progress.clock.call(program, cases, name=f"{m} labels, {n} unlabelled")
  split = {k: np.asarray(v).reshape(-1, len(config.shifts)) for k, v in found.items()}
  return {
    f"{shift:g}": {k: v[:, i] for k, v in split.items()} for i, shift in enumerate(config.shifts)
  }


def digits(config: Config, progress: Progress) -> tuple[dict[str, Any], list[Choice]]:
  """Test accuracy of every method, its settings chosen by the accuracy on validation pictures."""
  splits = stack([load_split(config.copies, seed) for seed in config.seed_numbers()])
  metrics, choices = {}, []
  for name, axes in config.grids(config.digit_hats).items():

    def one(setting: dict, data: tuple, method: Any = METHODS[name]) -> tuple:
      key, d = data
      plane = method(setting, (d["x"], d["y"], d["fresh"]), key, config, fit_intercept=True)
      right = lambda x, y: jnp.mean((y * (x @ plane.weights + plane.intercept) > 0) * 1.0)
      return right(d["vx"], d["vy"]), right(d["tx"], d["ty"])

    val, test = every_setting(progress, one, axes, (seeds_of(config), splits), f"digits, {name}")
    best, made = pick(name, axes, val, "digits")
    choices += made
    metrics[name] = test[(slice(None), *(axes[k].index(v) for k, v in best.items()))]
  return metrics, choices


def columns(config: Config, m: int) -> list[int]:
  return [*(ratio * m for ratio in config.ratios), config.most]


def run(config: Config, progress: Progress) -> dict[str, Any]:
  """The table on Gaussian data, then the digits."""
  chosen, choices = tune(config, progress)
  pairs = [(m, i, n) for m in config.labels for i, n in enumerate(columns(config, m))]
  cells = {f"{m}, {n}": cell(config, m, n, chosen[i], progress)
           for m, i, n in progress.track(pairs, "cells")}  # fmt: skip
  first = cells[f"{config.labels[0]}, {config.most}"][f"{config.shifts[0]:g}"]
  real, made = digits(config, progress)
  return {"cells": cells, "all labelled": first["whole"], "digits": real, "choices": choices + made}


def _side(metrics: dict, m: int, n: int, shift: float, name: str) -> Side:
  what = f"{name}, {m} labels" + ("" if name == ALONE else f", {n} unlabelled")
  return Side(what, metrics["cells"][f"{m}, {n}"][f"{shift:g}"][name])


def claims(metrics: dict, config: Config) -> list[Claim]:
  """Gains of the table, with some room; theory of the labelled mean; a gain on real pictures."""
  m, most, exact = config.labels[0], config.most, "exact accuracy, Gaussian data"
  at = lambda n, shift, name, m=m: _side(metrics, m, n, shift, name)
  same, other = config.shifts
  wanted = [
    ("gain_same", f"{most} unlabelled samples raise the accuracy of {m} labels by more than .15 "
     "(reported .23).", at(most, same, RSS), at(most, same, ALONE), 0.15),
    ("gain_shifted", "So they do, by more than .15, from a shifted distribution (reported .22).",
     at(most, other, RSS), at(most, other, ALONE), 0.15),
    ("near_all_labels", f"Then it is less than .03 below that of {most} labels (reported .01).",
     at(most, same, RSS), Side(f"{most} labels", metrics["all labelled"]), -0.03),
    ("shift_costs_little", "The shift costs less than .03 there (reported .01).",
     at(most, other, RSS), at(most, same, RSS), -0.03),
  ]  # fmt: skip
  if {10, 100} <= set(config.ratios):
    few, more = 10 * m, 100 * m
    wanted += [
      ("few_help", f"{few} unlabelled samples already raise it by more than .03 (reported .07).",
       at(few, same, RSS), at(few, same, ALONE), 0.03),
      ("more_is_better", f"{more} raise it by more than .05 beyond {few} (reported .13).",
       at(more, same, RSS), at(few, same, RSS), 0.05),
    ]  # fmt: skip
  top = config.labels[-1]
  if top != m and 100 in config.ratios:
    n = 100 * top
    wanted.append((
      "many_labels", f"{n} unlabelled samples raise that of {top} labels by more than .1 "
      "(reported .16).", at(n, same, RSS, m=top), at(n, same, ALONE, m=top), 0.1,
    ))  # fmt: skip
  found = [Claim(k, text, "paper", exact, a, b, margin=least) for k, text, a, b, least in wanted]
  real = (Side(name, metrics["digits"][name]) for name in (RSS, ALONE))
  theory = float(scipy.stats.norm.cdf(1 / np.sqrt(1 + config.dimension / top)))
  return [
    *found,
    Claim("digits", "Dimmed and moved pictures without labels raise the accuracy of 10 labels.",
          "paper", "test accuracy, digits 3 and 8", *real),
    Claim("labelled_mean", "The mean of the labelled samples has the accuracy of theory, to .02.",
          "control", exact, at(most, same, "mean of the labelled", m=top),
          Side("Phi(1 / sqrt(1 + d / m))", theory), margin=0.02),
  ]  # fmt: skip


def table(metrics: dict, config: Config) -> list[Row]:
  """Every cell beside the reported one, RSS beside self-training, the digits."""
  rows = []
  for shift in config.shifts:
    data = f"Gaussian data, shift {shift:g}"
    for m in config.labels:
      known = _unlabelled.REPORTED[shift][m] if config.dimension == 200 else ()
      size = f"linear, d = 200, {m} labels"
      told = [Reported(value, data, size, "table on simulated data") for value in known]
      told = told or [None] * 5
      side = lambda n, name, m=m, shift=shift: _side(metrics, m, n, shift, name)
      first = columns(config, m)[0]
      rows.append(Row(f"accuracy, {data}", side(first, ALONE), reported=told[0]))
      for i, n in enumerate(columns(config, m)):
        for name, known in ((ALONE, told[i + 1]), (SELF, None)):
          rows.append(Row(f"accuracy, {data}", side(n, RSS), side(n, name), "higher", known, NOTE))
  cosine = _side(metrics, config.labels[0], config.most, config.shifts[0], "cosine of RSS")
  rows.append(Row("cosine with the mean", cosine))
  real = {name: Side(name, values) for name, values in metrics["digits"].items()}
  note = "Settings chosen by the mean accuracy on 60 validation pictures, 40 of them a method."
  text = "test accuracy, digits 3 and 8, 10 labels"
  return rows + [Row(text, real[RSS], real[b], note=note) for b in (ALONE, SELF)]


def figure(record: dict) -> Any:
  """Accuracy over the number of unlabelled samples, ours and reported; digits."""
  metrics, settings = record["metrics"], record["settings"]
  shifts = settings["shifts"]
  fig, axes = new_figure(1, len(shifts) + 1)
  for ax, shift in zip(axes, shifts, strict=False):
    for m in settings["labels"]:
      n = [*(r * m for r in settings["ratios"]), settings["most"]]
      for name, style in ((RSS, "-o"), (ALONE, ":")):
        values = [np.mean(metrics["cells"][f"{m}, {k}"][f"{shift:g}"][name]) for k in n]
        (line,) = ax.plot(n, values, style, ms=4, label=f"{name}, {m} labels",
                          color=f"C{settings['labels'].index(m)}")  # fmt: skip
      if settings["dimension"] == 200 and len(n) == 4:
        ax.plot(n, _unlabelled.REPORTED[shift][m][1:], "x", color=line.get_color())
    ax.set(xscale="log", xlabel="unlabelled samples", ylabel="accuracy",
           title=f"Gaussians, shift {shift:g} (x: reported)")  # fmt: skip
    ax.legend(fontsize=7)
  _figures.dots(axes[-1], {"": metrics["digits"]}, ylabel="test accuracy", title="Digits 3 and 8")
  return fig
