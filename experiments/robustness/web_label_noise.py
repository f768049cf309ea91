"""Wrong labels and foreign pictures: who detects which, and what training makes of it (PLS-LSA)."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import sklearn.metrics

from experiments import _figures
from experiments._claims import Claim, Side
from experiments._protocol import Paper, Progress, Row, Settings, Size, new_figure
from experiments._training import stack, train_all
from experiments.robustness import _web_noise

PAPER = Paper(
  title="An accurate detection is not all you need to combat label noise in web-noisy datasets",
  authors="Albert, Valmadre, Arazo, Krishna, O'Connor and McGuinness",
  year=2024,
  claim="Foreign images are linearly separable in contrastive features; a plane there detects them "
  "better than small losses, but misses wrong labels of known classes: alternating the two "
  "detectors trains best.",
  section="Method; the tables on CNWL and mini-Webvision",
  url="https://arxiv.org/abs/2407.05528",
)
Z, EARLY, LATE, PIXELS, ORACLE = "Z", "W, early", "W, late", "W, pixels", "oracle"
CE, MIXUP, ONLY_Z, ONLY_W, BOTH = "cross entropy", "mixup", "Z only", "W only", "alternate"
# name -> mixup, augmented views, detection, parity of its epochs (0: W, 1: Z, 2: in turn)
METHODS = {
  CE: (0, 0, 0, 1), MIXUP: (1, 1, 0, 1), ONLY_Z: (1, 1, 1, 1), ONLY_W: (1, 1, 1, 0),
  BOTH: (1, 1, 1, 2),
}  # fmt: skip
GRID = np.concatenate([[0.0], np.geomspace(0.003, 1.0, 30)])
NAMES = {
  "auc": "AUC of textures against digits with right labels",
  "clean kept": "digits with right labels that are kept",
  "wrong caught": "digits with wrong labels that are flagged",
  "foreign caught": "textures that are flagged",
  "auc wrong": "AUC of wrong against right labels of digits",
}


@dataclasses.dataclass(frozen=True)
class Config(Settings):
  """Settings. A seed draws digits, textures, labels, weights, minibatches and views.

  Attributes:
    data: ``"digits"``, 8 x 8 pixels, or ``"fashion_mnist"``.
    network: ``"mlp"`` (64-128-64), ``"small cnn"`` or ``"cnn"``, three convolutions.
    digits: training images of known classes.
    textures: training images of none, with random labels.
    validation: more images of known classes, right labels; rates are chosen on them. The rest are
      test images.
    levels: shares of wrong labels among the digits: of the detection table, of the training.
    contrast_steps: of Adam, without labels.
    contrast_rate: its learning rate at the start of a cosine: of .001, .003 and .01 the best by
      the first AUC of the plane on early features, development seeds 0 to 3 (they differ by .001).
    batch: batch size.
    steps: of SGD in all, warm-up included.
    warm_up: before the first detection, a multiple of period.
    period: steps of each epoch; a detection before each after the warm-up.
    ridge: of the plane.
    strong: strength of the views of noisy images in units of that of the others.
    rates: learning rate of each method, at the start of a cosine: of .03, .1, .3 and 1 the best by
      accuracy on the validation images of development seeds 0 to 3; cross entropy, best at .03,
      had .0003, .001, .003 and .01 too.
  """

  seeds: int = 8
  data: str = "digits"
  network: str = "mlp"
  digits: int = 700
  textures: int = 500
  validation: int = 300
  levels: tuple[float, ...] = (0.1, 0.35)
  contrast_steps: int = 1000
  contrast_rate: float = 3e-3
  batch: int = 128
  steps: int = 600
  warm_up: int = 200
  period: int = 50
  ridge: float = 1e-4
  strong: float = 2.0
  rates: tuple[float, ...] = (0.003, 0.3, 0.1, 0.1, 0.1)


OURS = (
  "Digits of 8 x 8 pixels among patches of six photographs instead of web images; a perceptron, "
  "600 updates; wrong labels made; shifts, gains and noise as views; no test-time augmentation; "
  "one network (PLS-LSA)."
)
SIZES = {
  "toy": Size(
    Config(
      seeds=2, digits=100, textures=60, validation=20, contrast_steps=4, batch=32, steps=6,
      warm_up=2, period=2, ridge=0.1,
    ),
    OURS + " Six updates.",
  ),
  "desk": Size(Config(), OURS),
  "large": Size(
    Config(seeds=20, contrast_steps=5000, steps=3000, warm_up=1000, period=250),
    OURS.replace("600", "3000"),
  ),
}  # fmt: skip


def _settings(rates: tuple[float, ...]) -> dict[str, np.ndarray]:
  """Every method with its learning rate, one row each."""
  columns = np.array(list(METHODS.values()))
  names = ("mixup", "views", "detects", "parity")
  parts = {name: columns[:, i] for i, name in enumerate(names)}
  parts = {k: v.astype(np.int32 if k == "parity" else np.float32) for k, v in parts.items()}
  return {"rate": np.float32(rates), **parts}


def prepare(level: jax.Array, data: Any, config: Config) -> tuple[Any, dict[str, jax.Array]]:
  """Contrastive weights (the same at all levels), and the detections after the warm-up."""
  params = _web_noise.pretrain(data, config)
  labels = data.labels[level]
  setting = {k: v[1] for k, v in _settings(config.rates).items()}  # mixup
  warmed = _web_noise.train(setting, params, labels, data, config, warm_up=True)
  return params, _web_noise.detections(warmed, labels, data, config)


def compare(setting: dict, data: tuple, config: Config) -> dict[str, jax.Array]:
  """One method at the last noise level: accuracies, shares flagged."""
  data, params = data
  params, flagged = _web_noise.train(setting, params, data.labels[-1], data, config)
  score = functools.partial(_web_noise.accuracy, params, config=config)
  return {
    "test": score(data.x_test, data.y_test), "validation": score(data.x_val, data.y_val),
    "flagged": flagged,
  }  # fmt: skip


def judge(probability: np.ndarray, data: Any, level: int, cut: float) -> dict[str, Any]:
  """How well one detector did on one seed."""
  foreign = np.asarray(data.foreign)
  wrong = (np.asarray(data.labels[level]) != np.asarray(data.truth)) & ~foreign
  clean, flags = ~foreign & ~wrong, probability > cut
  auc = lambda bad: sklearn.metrics.roc_auc_score(bad[clean | bad], probability[clean | bad])
  fpr, tpr, _ = sklearn.metrics.roc_curve(foreign[clean | foreign], probability[clean | foreign])
  return {
    "auc": auc(foreign), "clean kept": 1 - flags[clean].mean(), "wrong caught": flags[wrong].mean(),
    "foreign caught": flags[foreign].mean(), "auc wrong": auc(wrong),
    "roc": np.interp(GRID, fpr, tpr),
  }  # fmt: skip


def run(config: Config, progress: Progress, train: Callable = train_all) -> dict[str, Any]:
  """The detection table at every level, then the training at the last one."""
  seeds = [_web_noise.load_seed(seed, config) for seed in config.seed_numbers()]
  data = stack(seeds)
  levels = np.arange(len(config.levels), dtype=np.int32)
  first = functools.partial(prepare, config=config)
  params, found = train(progress, first, levels, data, name="contrast and warm-up")
  table: dict[str, Any] = {}
  for i, level in enumerate(config.levels):
    table[f"{level:g}"] = {}
    for name, values in found.items():
      cut = 0.95 if name == Z else 0.5
      rows = [judge(values[s, i], one, i, cut) for s, one in enumerate(seeds)]
      table[f"{level:g}"][name] = {k: [row[k] for row in rows] for k in rows[0]}
  start = jax.tree.map(lambda v: jnp.asarray(v[:, 0]), params)
  second = functools.partial(compare, config=config)
  settings = _settings(config.rates)
  trained = train(progress, second, settings, (data, start), name="training")
  methods = {
    name: {k: v[:, i] for k, v in trained.items()} for i, name in enumerate(METHODS)
  }  # fmt: skip
  return {"detection": table, "training": methods}


def _side(metrics: dict, config: Config, name: str, what: str, level: int = 0) -> Side:
  return Side(name, metrics["detection"][f"{config.levels[level]:g}"][name][what])


def _accuracy(metrics: dict, name: str) -> Side:
  return Side(name, metrics["training"][name]["test"])


def claims(metrics: dict, config: Config) -> list[Claim]:
  """The detection table first, then accuracies."""
  at = functools.partial(_side, metrics, config)
  constant = lambda name, value: Side(name, [value] * config.seeds)
  wanted: list[tuple] = [
    ("separable", "Textures are linearly separable from digits in contrastive features: the AUC of "
     "a plane that knows them is above .99.", "paper", "auc", at(ORACLE, "auc"),
     constant(".99", 0.99), {}),
    ("early_auc", "The plane trained on small losses ranks textures above digits better than small "
     "losses do, on early features.", "paper", "auc", at(EARLY, "auc"), at(Z, "auc"),
     {"comparisons": 2}),
    ("late_auc", "So it does on late features.", "paper", "auc", at(LATE, "auc"), at(Z, "auc"),
     {"comparisons": 2}),
    ("clean_kept", "The plane keeps more of the digits with right labels.", "paper", "clean kept",
     at(EARLY, "clean kept"), at(Z, "clean kept"), {}),
    ("wrong_caught", "Small losses catch more of the wrong labels of digits, by more than .5.",
     "paper", "wrong caught", at(Z, "wrong caught"), at(EARLY, "wrong caught"), {"margin": 0.5}),
    ("foreign_caught", "The plane flags more than nine tenths of the textures.", "expected",
     "foreign caught", at(EARLY, "foreign caught"), constant(".9", 0.9), {}),
    ("late_blind", "To the plane on late features wrong labels of digits look like right ones: its "
     "AUC there is .5, to .15.", "control", "auc wrong", at(LATE, "auc wrong"),
     constant("chance", 0.5), {"margin": 0.15}),
    ("better_than_pixels", "Contrastive features serve the plane better than pixels.", "expected",
     "auc", at(EARLY, "auc"), at(PIXELS, "auc"), {}),
  ]  # fmt: skip
  made = [
    Claim(key, text, kind, f"{NAMES[what]}, {config.levels[0]:.0%} wrong labels", a, b, **options)
    for key, text, kind, what, a, b, options in wanted
  ]
  accuracy = functools.partial(_accuracy, metrics)
  for key, base, text in (
    ("over_z", ONLY_Z, "Detectors in turn train a more accurate network than small losses alone."),
    ("over_w", ONLY_W, "They train a more accurate one than the plane alone."),
    ("over_mixup", MIXUP, "They train a more accurate one than mixup."),
    ("over_ce", CE, "They train a more accurate one than cross entropy."),
  ):
    metric = f"test accuracy, {config.levels[-1]:.0%} wrong labels"
    made.append(Claim(key, text, "paper", metric, accuracy(BOTH), accuracy(base), comparisons=4))
  return made


def table(metrics: dict, config: Config) -> list[Row]:
  """Every detector at every level beside small losses, then accuracies and shares flagged."""
  rows = []
  note = "Cut at .95 for Z, at .5 for planes. AUCs are those of probabilities."
  for i, level in enumerate(config.levels):
    for what, text in NAMES.items():
      for name in (Z, EARLY, LATE, PIXELS, ORACLE):
        side = lambda name, i=i, what=what: _side(metrics, config, name, what, i)
        base = None if name == Z else side(Z)
        rows.append(Row(f"{text}, {level:.0%} wrong labels", side(name), base, note=note))
  for name in METHODS:
    base = None if name == BOTH else _accuracy(metrics, BOTH)
    note = f"Learning rate {dict(zip(METHODS, config.rates, strict=True))[name]:g}."
    rows.append(Row("test accuracy", _accuracy(metrics, name), base, note=note))
  for name in (ONLY_Z, ONLY_W, BOTH):
    flagged = [row[-1] for row in metrics["training"][name]["flagged"]]
    rows.append(Row("share flagged before the last epoch", Side(name, flagged), better="lower"))
  return rows


def figure(record: dict) -> Any:
  """ROC of the detectors, what is kept and caught, accuracies."""
  metrics, settings = record["metrics"], record["settings"]
  level = settings["levels"][0]
  found = metrics["detection"][f"{level:g}"]
  fig, axes = new_figure(1, 3, height=3.8)
  shown = (Z, EARLY, LATE, PIXELS)
  _figures.curves(
    axes[0], {k: found[k]["roc"] for k in shown}, GRID, xlabel="digits with right labels flagged",
    ylabel="textures flagged", title=f"ROC, {level:.0%} wrong labels",
  )  # fmt: skip
  axes[0].set_xscale("symlog", linthresh=0.003)
  axes[0].set(xlim=(0, 1))
  parts = ("clean kept", "wrong caught", "foreign caught")
  groups = {name: {k: found[name][k] for k in parts} for name in (Z, EARLY, LATE)}
  _figures.dots(axes[1], groups, ylabel="share", title="Kept and caught")
  accuracies = {name: cell["test"] for name, cell in metrics["training"].items()}
  _figures.dots(axes[2], {"": accuracies}, ylabel="test accuracy",
                title=f"Training, {settings['levels'][-1]:.0%} wrong labels")  # fmt: skip
  return fig
