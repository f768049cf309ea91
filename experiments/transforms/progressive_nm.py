"""Weights that keep 1 of every m: masks that fade or tighten beside hard ones from the start."""

import dataclasses
from typing import Any

import numpy as np

from experiments import _figures
from experiments._claims import Claim, Side
from experiments._protocol import Paper, Progress, Row, Settings, Size, new_figure
from experiments._training import stack, train_all
from experiments.transforms._sparse_nets import load, make_train
from jaxopt_robust import transforms

PAPER = Paper(
  title="Progressive gradient flow for robust N:M sparsity training in transformers",
  authors="Bambhaniya, Yazdanbakhsh, Subramanian, Kao, Agrawal, Evci and Krishna",
  year=2024,
  claim="At high sparsity a network is more accurate when pruned weights fade out or the pattern "
  "tightens in stages than with a hard mask from the start, whose gradients vary more.",
  section="Abstract (vision transformers, up to 2 points; a language model, up to 5)",
  url="https://arxiv.org/abs/2402.04744",
)
DENSE, STE, SRSTE = "dense", "straight through", "SR-STE"
LINEAR, LINEAR_STE = "linear decay", "linear decay, straight through"
EXP, EXP_STE = "exponential decay", "exponential decay, straight through"
STEPS, GEOMETRIC = "stepwise structure", "geometric structure"
RECIPES = (DENSE, STE, SRSTE, LINEAR, LINEAR_STE, EXP, EXP_STE, STEPS, GEOMETRIC)
PROGRESSIVE = (LINEAR, EXP, EXP_STE, STEPS, GEOMETRIC)
FEW = (SRSTE, LINEAR)
TWICE = (
  "Recorded twice on the report seeds: the learning rates of the first record came from two "
  "development seeds, those of this one from six. No claim was changed."
)
ON_MLP = (SRSTE, EXP, EXP_STE, STEPS)  # at the second length; the first and last at the last


@dataclasses.dataclass(frozen=True)
class Config(Settings):
  """Settings. A seed draws the split, initial weights and minibatches.

  Attributes:
    width: features of a token; the feed-forward parts are four times as wide.
    train: training images; the others are test images.
    batch: batch size.
    steps: updates of the transformer.
    steps_mlp: of the perceptron, 64-64-64-10.
    rate: learning rates of AdamW: of .001, .002, .004, .008 and .016 the best for each recipe by
      accuracy of the transformer on 300 held-out training images of development seeds 0 and 1, at
      1:16; between .004 and .008, of seeds 0 to 5.
    warm_up: steps in which the learning rate rises; then it falls to 0 along a cosine.
    weight_decay: of AdamW.
    m: lengths of runs of which one weight is kept; the second is that of all recipes.
    recipes: at the second length.
    few: recipes at the other lengths.
    on_mlp: recipes on the perceptron at the second length; the first and the last of them also at
      the last length.
  """

  seeds: int = 8
  width: int = 32
  train: int = 1297
  batch: int = 32
  steps: int = 400
  steps_mlp: int = 600
  rate: tuple[float, ...] = (0.008,) * len(RECIPES)
  warm_up: int = 50
  weight_decay: float = 1e-2
  m: tuple[int, ...] = (8, 16, 32)
  recipes: tuple[str, ...] = RECIPES
  few: tuple[str, ...] = FEW
  on_mlp: tuple[str, ...] = ON_MLP


OURS = (
  "Digits and a transformer of two blocks instead of ImageNet and ViT-B or translation and T5X."
)
SIZES = {
  "toy": Size(
    Config(
      seeds=2, train=200, steps=8, steps_mlp=8, warm_up=2, m=(8, 16), recipes=(SRSTE, LINEAR),
      rate=(2e-3, 2e-3), few=(), on_mlp=(),
    ),
    OURS + " Eight updates.",
  ),
  "desk": Size(Config(), OURS),
  "large": Size(
    Config(seeds=20, batch=64, steps=4000, steps_mlp=1200, warm_up=200), OURS
  ),
}  # fmt: skip


def betas(recipe: str, steps: int) -> np.ndarray:
  """What is left of masked weights at each step."""
  count = np.arange(steps)
  if recipe == DENSE:
    return np.ones(steps, np.float32)
  decay: Any = None
  if recipe in (LINEAR, LINEAR_STE):
    decay = transforms.linear_mask_decay(4 / steps)
  elif recipe in (EXP, EXP_STE):
    decay = transforms.exponential_mask_decay(20 / steps)
  return np.zeros(steps, np.float32) if decay is None else np.float32(decay(count))


def stages(recipe: str, m: int, size: int, steps: int) -> tuple | None:
  """Structure decay with a last quarter of fine tuning; as many halvings as the matrix admits."""
  if recipe not in (STEPS, GEOMETRIC):
    return None
  kind = "stepwise" if recipe == STEPS else "geometric"
  return transforms.sdgf_stages(
    kind, 1, m, total=steps, fine_tune=steps // 4, num_stages=min(4, int(np.log2(size // m)) + 1)
  )


def program_of(recipe: str) -> str:
  """Recipes of one flow differ in data alone."""
  if recipe == SRSTE:
    return "srste"
  return "masked" if recipe in (LINEAR, EXP) else "ste"


def run_recipes(
  kind: str, m: int, recipes: tuple[str, ...], config: Config, data: Any, progress: Progress
) -> dict[str, Any]:
  """Accuracy, gradient variance and what is left of a run, a number a seed, of each recipe."""
  steps = config.steps if kind == "transformer" else config.steps_mlp
  size = config.width if kind == "transformer" else 64
  rates = dict(zip(config.recipes, config.rate, strict=True))
  groups: dict[Any, list[str]] = {}
  for recipe in recipes:
    groups.setdefault((program_of(recipe), stages(recipe, m, size, steps)), []).append(recipe)
  found = {}
  for (flow, pattern), names in groups.items():
    train = make_train(
      kind, config.width, steps, n=1, m=m, flow=flow, stages=pattern, warm_up=config.warm_up,
      weight_decay=config.weight_decay,
    )  # fmt: skip
    settings = {
      "rate": np.float32([rates[name] for name in names]),
      "betas": np.stack([betas(name, steps) for name in names]),
      "dense": np.array([name == DENSE for name in names]),
    }
    result = train_all(progress, train, settings, data, name=f"{kind}, 1:{m}, {names[0]}")
    for i, name in enumerate(names):
      found[name] = {key: values[:, i] for key, values in result.items()}
  return found


def run(config: Config, progress: Progress) -> dict[str, Any]:
  """Every recipe at one pattern, some at the others, and some on a perceptron."""
  found: dict[str, Any] = {}
  for kind, steps in (("transformer", config.steps), ("perceptron", config.steps_mlp)):
    sizes = {"train": config.train, "held": 0, "batch": config.batch, "steps": steps}
    data = stack([load(kind, config.width, seed, **sizes) for seed in config.seed_numbers()])
    for i, m in enumerate(config.m):
      recipes = config.recipes if i == 1 else config.few
      if kind == "perceptron":
        recipes = config.on_mlp if i == 1 else config.on_mlp[:: len(config.on_mlp) - 1] if i else ()
      if recipes:
        found[f"{kind}, 1:{m}"] = run_recipes(kind, m, recipes, config, data, progress)
  return found


def _side(metrics: dict[str, Any], where: str, name: str, key: str = "accuracy") -> Side:
  return Side(name, metrics[where][name][key])


def claims(metrics: dict[str, Any], config: Config) -> list[Claim]:
  """Better than SR-STE at high sparsity, with gradients that vary less; a perceptron differs."""
  made = []
  middle, last = (f"transformer, 1:{m}" for m in (config.m[1], config.m[-1]))
  tried = [name for name in PROGRESSIVE if name in metrics[middle]]

  def add(key: str, text: str, kind: str, where: str, ours: str, base: str, **options: Any) -> None:
    metric = options.pop("metric", "accuracy")
    words = {"accuracy": "test accuracy", "variance": "variance of |gradient|"}[metric]
    sides = _side(metrics, where, ours, metric), _side(metrics, where, base, metric)
    made.append(
      Claim(key, f"{text} ({where})", kind, f"{words}, {where}", *sides, **options)  # type: ignore[arg-type]
    )  # fmt: skip

  for name in tried:
    key = str(RECIPES.index(name))
    add(f"better_{key}", f"{name}: more accurate than SR-STE.", "paper", middle, name, SRSTE,
        comparisons=len(tried))  # fmt: skip
    add(f"point_{key}", f"{name}: a point more accurate than SR-STE.", "expected", middle, name,
        SRSTE, margin=0.01)  # fmt: skip
  if last in metrics and last != middle:
    add("sparser", f"{LINEAR}: more accurate than SR-STE.", "paper", last, LINEAR, SRSTE)
  for name in (n for n in (LINEAR, EXP) if n in metrics[middle]):
    key, options = str(RECIPES.index(name)), {"metric": "variance", "better": "lower"}
    add(f"variance_{key}", f"{name}: gradients vary less than with SR-STE.", "paper", middle, name,
        SRSTE, scale="ratio", **options)  # fmt: skip
    add(f"half_{key}", f"{name}: at most half the variance of the gradients with SR-STE.",
        "expected", middle, name, SRSTE, scale="ratio", margin=2.0, **options)  # fmt: skip
  hard = [cell["left"] for name, cell in metrics[middle].items() if name != DENSE]
  text = f"One weight of each run of {config.m[1]} is left."
  most = Side("all recipes", np.max(np.asarray(hard, float), axis=0))
  made.append(
    Claim("left", text, "control", "weights of a run", most, Side("one", 1.0), margin=1e-6)
  )
  for where in (w for w in metrics if w.startswith("perceptron")):
    key = where.rpartition(":")[2]
    for name in (n for n in (EXP, STEPS) if n in metrics[where]):
      add(f"perceptron_{key}_{RECIPES.index(name)}", f"Not everywhere: {name} is less accurate "
          "than SR-STE.", "expected", where, SRSTE, name)  # fmt: skip
    if EXP_STE in metrics[where]:
      add(f"perceptron_{key}_{RECIPES.index(EXP_STE)}", f"{EXP_STE}: at most a point less accurate "
          "than SR-STE.", "expected", where, EXP_STE, SRSTE, margin=-0.01)  # fmt: skip
  return made


def table(metrics: dict[str, Any], config: Config) -> list[Row]:
  """Accuracy and gradient variance of every recipe beside SR-STE."""
  rows = []
  for where, cell in metrics.items():
    for name in cell:
      base = None if name == SRSTE else _side(metrics, where, SRSTE)
      note = ""
      if name == GEOMETRIC:
        note = "Two stages: runs of more than the 32 inputs of the first matrix do not exist."
      rows.append(Row(f"test accuracy, {where}", _side(metrics, where, name), base, note=note))
  where = f"transformer, 1:{config.m[1]}"
  for name in metrics[where]:
    ours, base = (_side(metrics, where, n, "variance") for n in (name, SRSTE))
    note = "All at one learning rate, on which the variance depends too."
    base = None if name == SRSTE else base
    rows.append(Row(f"variance of |gradient|, {where}", ours, base, "lower", note=note))
  rows[0] = rows[0]._replace(note=TWICE)
  return rows


def figure(record: dict[str, Any]) -> Any:
  """Accuracies over patterns and networks, and the variance of gradients."""
  metrics, m = record["metrics"], record["settings"]["m"]
  middle = f"transformer, 1:{m[1]}"
  fig, axes = new_figure(1, 3, width=4.8, height=4.2)
  cells = {w: {n: c["accuracy"] for n, c in cell.items()} for w, cell in metrics.items()}
  whole = {w.rpartition(", ")[2]: c for w, c in cells.items() if w.startswith("transformer")}
  _figures.dots(axes[0], whole, ylabel="test accuracy", title="Transformer on digits")
  spread = {name: cell["variance"] for name, cell in metrics[middle].items()}
  _figures.dots(axes[1], {"": spread}, ylabel="variance of |gradient|", title=middle)
  axes[1].set_yscale("log")
  other = {w.rpartition(", ")[2]: c for w, c in cells.items() if w.startswith("perceptron")}
  _figures.dots(axes[2], other, ylabel="test accuracy", title="Perceptron on digits")
  return fig
