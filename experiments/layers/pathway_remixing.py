"""A mixture of experts on shifted digits: routing weights re-mixed sample by sample."""

import dataclasses
import functools
from typing import Any

import jax
import numpy as np

from experiments import _figures
from experiments._claims import Claim, Side
from experiments._protocol import Paper, Progress, Reported, Row, Settings, Size, new_figure
from experiments.layers._remixing import (
  KERNEL,
  MODE,
  SEARCH,
  VOTE,
  Data,
  Prepared,
  load,
  programs,
)

PAPER = Paper(
  title="C3PO: critical-layer, core-expert, collaborative pathway optimization for test-time "
  "expert re-mixing",
  authors="Li, Li and Zhou",
  year=2025,
  claim="Experts chosen anew for each test sample, guided by similar examples that the model "
  "answers correctly, make it more accurate: gradient descent more than kernel regression, and "
  "that more than mode finding.",
  section="Abstract; main table and ablations (OLMoE on six question answering sets)",
  url="https://arxiv.org/abs/2504.07964",
)
BASE, ORACLE = "model", "oracle"
DESCENT, ONE, SOFTMAX = "gradient descent", "descent, rows of sum 1", "descent on logits"
VARIANTS = ("1 neighbour", "5 neighbours", "linear", "polynomial", "matern", "3 steps", "20 steps")
ORDER = (BASE, MODE, KERNEL, SEARCH, DESCENT, ONE, SOFTMAX, ORACLE, VOTE, *VARIANTS)
REPORTED = {BASE: 69.9, MODE: 72.4, SEARCH: 76.9, DESCENT: 79.2, ORACLE: 85.2}  # per cent


@dataclasses.dataclass(frozen=True)
class Config(Settings):
  """Settings.

  Attributes:
    train: clean images that the model is trained on.
    references: shifted images with labels; those that the model answers correctly guide.
    test: shifted test images.
    epochs: of the training, with AdamW.
    rate: learning rate of the training.
    batch: batch size.
    balance: weight of the load-balance loss.
    width: features of a token, and hidden width of an expert.
    depth: layers.
    experts: experts of a layer; two are selected.
    core: core experts of a layer.
    critical: critical layers, the last ones.
    angle: least and largest rotation of the shift, degrees either way.
    noise: standard deviation of the noise of the shift, pixels from 0 to 1.
    neighbors: number of neighbours.
    steps: of the descent, with a rate that falls to a thousandth along a cosine.
    bandwidth: of the Gaussian kernel on pixels.
    bandwidth_regression: of the kernel regression's; of .03, .1, .3, 1, 3 and 10 the best by
      accuracy on development seeds 0 to 3.
    bandwidth_mode: of the mode finding's, on routing weights; chosen in the same way.
    rate_kept: learning rate of the descent; of .1, .3, 1, 3, 10, 30 and 100 the best in the same
      way, as for the two below.
    rate_one: with rows rescaled to the sum 1.
    rate_softmax: on logits; 0 to leave it out.
    variants: of the descent, one thing changed each; empty for none.
  """

  seeds: int = 8
  train: int = 600
  references: int = 700
  test: int = 400
  epochs: int = 40
  rate: float = 3e-3
  batch: int = 64
  balance: float = 0.01
  width: int = 32
  depth: int = 4
  experts: int = 8
  core: int = 5
  critical: int = 3
  angle: tuple[float, float] = (9.0, 18.0)
  noise: float = 0.12
  neighbors: int = 3
  steps: int = 10
  bandwidth: float = 1.0
  bandwidth_regression: float = 1.0
  bandwidth_mode: float = 3.0
  rate_kept: float = 30.0
  rate_one: float = 30.0
  rate_softmax: float = 30.0
  variants: tuple[str, ...] = VARIANTS


OURS = "Digits rotated and noisy and a transformer of 4 layers instead of OLMoE on questions."
SIZES = {
  "toy": Size(
    Config(seeds=2, train=64, references=60, test=20, epochs=2, width=8, depth=2, experts=4, core=3,
           critical=1, steps=3, rate_softmax=0.0, variants=()),
    OURS + " Two epochs of training.",
  ),
  "desk": Size(Config(), OURS),
  "large": Size(Config(seeds=20, width=64, epochs=80), OURS),
}  # fmt: skip


def variant(
  name: str, data: Data, found: Prepared, near: tuple, jits: Any, config: Config
) -> tuple:
  """Neighbours, number of steps, and steps of the program, with one thing changed."""
  if name == "1 neighbour":
    weights = np.zeros(near[2].shape, np.float32)
    weights[:, 0] = 1
    return (*near[:2], weights), config.steps, config.steps
  if name.endswith(" steps"):
    steps = int(name.split()[0])
    return near, steps, max(steps, config.steps)
  count, kernel = (5, "gaussian") if name == "5 neighbours" else (config.neighbors, name)
  other = jits["nearest"](
    data, found.is_correct, count=count, width=config.bandwidth, kernel=kernel
  )
  return jits["gather"](data, found, other), config.steps, config.steps


def run_seed(seed: int, jits: Any, config: Config) -> dict[str, Any]:
  """Accuracy of each method, flips of right answers, and what else is told of one split."""
  data = load(seed, config)
  params = jits["train"](data)
  found = jits["prepare"](params, data)
  widths = {"mode": config.bandwidth_mode, "regression": config.bandwidth_regression}
  logits = {BASE: found.logits, **jits["static"](params, data, found, widths)}
  count, steps = config.neighbors, config.steps
  near = jits["nearest"](data, found.is_correct, count=count, width=config.bandwidth)
  near = jits["gather"](data, found, near)
  run = functools.partial(jits["descend"], params, found)
  logits[DESCENT], fell = run(near, config.rate_kept, steps, steps=steps)
  logits[ONE], _ = run(near, config.rate_one, steps, True, steps=steps)
  if config.rate_softmax:
    logits[SOFTMAX], _ = run(near, config.rate_softmax, steps, form="softmax", steps=steps)
  # The sample itself in the first place of the neighbours, and no weight on the others.
  own = jax.tree.map(lambda a: np.repeat(np.asarray(a)[:, None], count, 1), found.context)
  first = np.repeat(np.eye(count, dtype=np.float32)[:1], config.test, 0)
  own = own, np.repeat(np.asarray(data.y_test)[:, None], count, 1), first
  logits[ORACLE], _ = run(own, config.rate_kept, steps, steps=steps)
  none, _ = run(near, config.rate_kept, 0, steps=steps)
  for name in config.variants:
    other, length, most = variant(name, data, found, near, jits, config)
    logits[name], _ = run(other, config.rate_kept, length, steps=most)
  right = {name: np.argmax(f, axis=-1) == data.y_test for name, f in logits.items()}
  changed = (DESCENT, ONE, SOFTMAX, SEARCH, MODE)
  flips = {name: np.mean(~right[name][right[BASE]]) for name in changed if name in right}
  return {
    "accuracy": {name: float(np.mean(r)) for name, r in right.items()},
    "flips": {name: float(share) for name, share in flips.items()},
    "loss fell": float(np.mean(fell)),
    "no steps": float(np.max(np.abs(none - found.logits))),
    "references answered": float(np.mean(found.is_correct)),
  }


def run(config: Config, progress: Progress) -> dict[str, Any]:
  """Trains a model a seed and re-mixes its experts in every way."""
  jits = programs(config)
  found = [run_seed(seed, jits, config) for seed in progress.track(config.seed_numbers(), "seeds")]
  return jax.tree.map(lambda *values: list(values), *found)


def claims(metrics: dict[str, Any], config: Config) -> list[Claim]:
  """The paper's order of methods and its ablations; sizes that a digit model should show."""
  side = lambda name: Side(name, metrics["accuracy"][name])
  made = []

  def add(key: str, text: str, kind: str, ours: str, base: str, **options: Any) -> None:
    made.append(
      Claim(key, text, kind, "test accuracy", side(ours), side(base), **options)  # type: ignore[arg-type]
    )  # fmt: skip

  better = "is more accurate than"
  add("descent", f"Gradient descent on the neighbours' loss {better} the model.", "paper", DESCENT,
      BASE)  # fmt: skip
  add("regression", f"Kernel regression {better} the model.", "paper", SEARCH, BASE)
  add("mode", f"Mode finding {better} the model.", "paper", MODE, BASE)
  add("order", f"Gradient descent {better} kernel regression.", "paper", DESCENT, SEARCH)
  add("order_mode", f"Kernel regression {better} mode finding.", "paper", SEARCH, MODE)
  add("oracle", f"Descent on the sample's own loss {better} that on its neighbours'.", "paper",
      ORACLE, DESCENT)  # fmt: skip
  for key, name in (("descent_7", DESCENT), ("regression_7", SEARCH)):
    add(key, f"{name}: seven points more accurate than the model.", "expected", name, BASE,
        margin=0.07)  # fmt: skip
  add("oracle_8", "The oracle is eight points above the descent.", "expected", ORACLE, DESCENT,
      margin=0.08)  # fmt: skip
  add("mode_3", "Mode finding stays within three points of the model.", "control", MODE, BASE,
      margin=0.03)  # fmt: skip
  add("vote", "A vote of the same neighbours, without any model, is more accurate than the "
      "re-mixed model.", "expected", VOTE, DESCENT)  # fmt: skip
  flips = Side(DESCENT, metrics["flips"][DESCENT])
  text = "Fewer than 6 % of the answers that were right become wrong."
  made.append(Claim("flips", text, "expected", "share of right answers", flips,
                    Side("bound", 0.06), better="lower"))  # fmt: skip
  text = "The neighbours' loss falls for more than 95 % of the samples."
  made.append(Claim("loss", text, "expected", "share of samples",
                    Side(DESCENT, metrics["loss fell"]), Side("bound", 0.95)))  # fmt: skip
  text = "Without steps the model answers as it did."
  made.append(Claim("no_steps", text, "theory", "largest change of a logit",
                    Side("no steps", metrics["no steps"]), Side("bound", 1e-4),
                    better="lower"))  # fmt: skip
  for name in (n for n in VARIANTS if n in config.variants):
    if name == "20 steps":
      text = "Twenty steps are within a point of ten."
      add("steps_20", text, "control", name, DESCENT, margin=0.01)
      continue
    kind = 1 if name == "3 steps" else 2 if "neighbour" in name else 3
    what = {1: "Ten steps are", 2: "Three neighbours are", 3: "The Gaussian kernel is"}[kind]
    text = f"{what} more accurate than: {name}."
    add(name.replace(" ", "_"), text, "paper", DESCENT, name, comparisons=kind)
  return made


def _ordered(values: dict[str, Any]) -> dict[str, Any]:
  """Methods in the order of the paper."""
  return {name: values[name] for name in ORDER if name in values}


def table(metrics: dict[str, Any], config: Config) -> list[Row]:
  """Accuracy of every method beside the model's, and flips."""
  rows = []
  where = "average of six question answering sets", "OLMoE-1B-7B"
  for name, values in _ordered(metrics["accuracy"]).items():
    reported = None
    if name in REPORTED:
      reported = Reported(REPORTED[name] / 100, *where, "main table")
    base = None if name == BASE else Side(BASE, metrics["accuracy"][BASE])
    note = "No re-mixing: the labels of the neighbours alone." if name == VOTE else ""
    metric = "test accuracy, shifted digits"
    rows.append(Row(metric, Side(name, values), base, "higher", reported, note))
  for name, values in _ordered(metrics["flips"]).items():
    rows.append(Row("right answers that become wrong", Side(name, values), None, "lower"))
  share = Side(BASE, metrics["references answered"])
  rows.append(Row("references that the model answers correctly", share))
  return rows


def figure(record: dict[str, Any]) -> Any:
  """Accuracies of methods, of variants of the descent, and flips."""
  metrics = record["metrics"]
  accuracy, variants = _ordered(metrics["accuracy"]), record["settings"]["variants"]
  fig, axes = new_figure(1, 3 if variants else 2, width=4.8, height=4.0)
  main = {name: values for name, values in accuracy.items() if name not in variants}
  _figures.dots(axes[0], {"": main}, ylabel="test accuracy", title="Rotated and noisy digits")
  _figures.dots(axes[1], {"": _ordered(metrics["flips"])}, ylabel="share of right answers",
                title="Right answers that become wrong")  # fmt: skip
  if variants:
    chosen = {"as above": accuracy[DESCENT], **{name: accuracy[name] for name in variants}}
    _figures.dots(axes[2], {"": chosen}, ylabel="test accuracy",
                  title="Descent with one thing changed")  # fmt: skip
  return fig
