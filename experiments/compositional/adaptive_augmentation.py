"""Segmentation with dense and empty images: adaptively weighted consistency (AdaWAC)."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import _figures, _pictures, _statistics
from experiments._claims import Claim, Side
from experiments._protocol import Paper, Progress, Row, Settings, Size, new_figure
from experiments._training import fit, grid, schedule, stack, train_all
from experiments.compositional._segmentation import DEPTH, SIDE, Data, augment, load, segment
from jaxopt_robust import compositional, losses

PAPER = Paper(
  title="Adaptively weighted data augmentation consistency regularization for robust optimization "
  "under concept shift",
  authors="Dong, Xie and Ward",
  year=2023,
  claim="Weights learned between supervision and consistency tell dense images from empty ones, "
  "and segment better than plain training, either half of the method, and dropping images.",
  section="Section 5 (Synapse and ACDC), tables 1 to 3",
  url="https://arxiv.org/abs/2210.01891",
)

# Method -> (rule for the weights, step size of the weights). "told": which images are empty.
METHODS: dict[str, tuple[str, float]] = {
  "ERM": ("erm", 0.0),
  "AdaWAC 8": ("adawac", 8.0),
  "reweighted": ("reweight", 1.0),
  "consistency": ("adawac", 0.0),
  "trim by loss": ("trim_loss", 0.0),
  "trim, told": ("trim", 0.0),
  "AdaWAC 1": ("adawac", 1.0),
  "PM-DRO": ("entropic", 1.0),
  "split, told": ("pseudo", 0.0),
}
MAIN = tuple(METHODS)[:6]
# The best of 0.05 to 0.8 for each of MAIN by the Dice on validation images, development seeds.
RATES = {"distinct": (0.4, 0.2, 0.2, 0.4, 0.4, 0.4), "slices": (0.4, 0.2, 0.2, 0.8, 0.4, 0.1)}
AGAINST = {
  "ERM": "plain training on both copies",
  "reweighted": "weighing by the loss alone",
  "consistency": "equal weights of both losses",
  "trim by loss": "dropping the easiest images of a batch",
  "trim, told": "dropping the empty images",
}
RULES = ("erm", "reweight", "entropic", "adawac", "trim_loss", "pseudo", "trim")
_ENTROPIC, _TRIMMED = 0.01, 0.421  # PM-DRO's pull to equal weights; fraction of a batch dropped


class Kind(NamedTuple):
  """Share of the Dice loss; Dice is that of ``group`` test images together; what it is called."""

  dice_ratio: float = 0.0
  group: int = 1
  score: str = "Dice of dense test images"


KINDS = {
  "distinct": Kind(), "alike": Kind(), "slices": Kind(0.5, DEPTH, "Dice of whole test volumes"),
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Config(Settings):
  """Settings.

  Attributes:
    kinds: "distinct" (empty images have a darker, smoother background; no Dice term in the loss),
      "alike" (the same with equal backgrounds) or "slices" (neighbouring slices of volumes, which
      share texture and distractors; half of the loss is the Dice loss, as in the paper).
    methods: which of ``METHODS`` are compared.
    images: training images.
    test_images: test images, and as many validation images; all of them dense but for "slices".
    epochs: passes over the training images.
    batch: batch size.
    factors: multiples of ``RATES`` that are tried as first step sizes, decayed by a cosine; chosen
      by the Dice on validation images.
    momentum: of the gradient steps.
    weight_decay: coefficient of the l2 term in the gradient.
    consistency: coefficient of the consistency loss.
  """

  kinds: tuple[str, ...] = ("distinct", "slices")
  methods: tuple[str, ...] = MAIN
  images: int = 128
  test_images: int = 160
  epochs: int = 60
  batch: int = 16
  factors: tuple[float, ...] = (1.0,)
  momentum: float = 0.9
  weight_decay: float = 1e-4
  consistency: float = 2.0

  def __post_init__(self) -> None:
    if not set(self.kinds) <= set(KINDS) or not self.kinds:
      raise ValueError(f"kinds must be among {', '.join(KINDS)}; got {self.kinds}.")
    if not set(MAIN) <= set(self.methods) <= set(METHODS):
      raise ValueError(f"methods must hold {', '.join(MAIN)}; got {self.methods}.")
    if "slices" in self.kinds and (self.images % DEPTH or self.test_images % DEPTH):
      raise ValueError(f"images and test_images must be multiples of {DEPTH} for 'slices'.")


SIZES = {
  "toy": Size(
    Config(seeds=2, kinds=("slices",), images=32, test_images=16, epochs=2), "Four volumes only."
  ),
  "desk": Size(Config(), "Synthetic images of 16 x 16 pixels and a small network."),
  "large": Size(
    Config(
      kinds=tuple(KINDS), methods=tuple(METHODS), images=512, test_images=480, epochs=150,
      batch=24, factors=(0.25, 0.5, 1.0, 2.0),
    ),
    "Synthetic images of 16 x 16 pixels and a small network.",
  ),
}  # fmt: skip


def coefficients(
  setting: Any, entropy: jax.Array, is_dense: jax.Array, log_weight: jax.Array, weight: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """What each image's cross entropy and consistency count in the mean of the batch.

  Also the new log weights of the rules that compete within a batch, normalised there.
  """
  size, rule = len(entropy), setting["rule"]
  decay = jnp.where(rule == RULES.index("entropic"), setting["stepsize"] * _ENTROPIC, 0)
  raised = (1 - decay) * log_weight + setting["stepsize"] * entropy
  raised = raised - jax.nn.logsumexp(raised) + jnp.log(size)
  kept = jnp.argsort(jnp.argsort(entropy)) >= round(_TRIMMED * size)
  dense = is_dense.astype(entropy.dtype)
  supervised = {
    "erm": jnp.ones_like(entropy),
    "reweight": jnp.exp(raised),
    "entropic": jnp.exp(raised),
    "adawac": weight,
    "trim_loss": kept * (size / jnp.sum(kept)),
    "pseudo": dense,
    "trim": dense * size / jnp.maximum(jnp.sum(dense), 1),
  }
  consistency = {"adawac": 1 - weight, "pseudo": 1 - dense}
  pick = lambda table: jnp.stack([table.get(r, jnp.zeros_like(entropy)) for r in RULES])[rule]
  return pick(supervised), pick(consistency), raised


def make_trainer(config: Config, kind: Kind) -> Any:
  """``train(setting, data)``: one run; runs of one data set see the same copies."""

  def train(setting: dict[str, jax.Array], data: Data) -> dict[str, jax.Array]:
    factor = schedule("cosine", data.rows.shape[0] * data.rows.shape[1])
    optimizer = optax.chain(
      optax.add_decayed_weights(config.weight_decay),
      optax.trace(decay=config.momentum),
      optax.scale_by_learning_rate(lambda count: setting["learning_rate"] * factor(count)),
    )
    drops = jnp.isin(setting["rule"], np.int32([RULES.index(r) for r in ("trim_loss", "trim")]))

    def objective(params: Any, state: Any, rows: jax.Array) -> Any:
      own, log_weight, count = state
      key = jax.random.fold_in(data.key, count)
      copies, mask = augment(data.x[rows], data.y[rows], key)
      features, scores = segment(params, copies.reshape(-1, SIDE, SIDE))
      both = jnp.concatenate([mask, mask])
      pixels = losses.cross_entropy_loss(scores, both)
      entropy = jnp.mean(pixels.reshape(2, config.batch, -1), axis=(0, 2))
      spread = config.consistency * losses.feature_consistency_loss(*jnp.split(features, 2))
      _, (own, info) = compositional.adawac_loss(
        entropy, spread, rows, own, stepsize=setting["stepsize"]
      )
      a, b, raised = jax.lax.stop_gradient(
        coefficients(setting, entropy, data.is_dense[rows], log_weight[rows], info.weight)
      )
      total = jnp.mean(a * entropy + b * spread)
      if kind.dice_ratio > 0:  # it takes no part in the weights, but dropped images lose it
        overlap = jnp.mean(losses.soft_dice_loss(scores, both).reshape(2, -1), axis=0)
        shares = jnp.where(drops, a, 1)
        total = (1 - kind.dice_ratio) * total + kind.dice_ratio * jnp.mean(shares * overlap)
      return total, (own, log_weight.at[rows].set(raised), count + 1)

    def evaluate(_: Any, state: Any) -> dict[str, jax.Array]:
      weight, dense = jax.nn.sigmoid(state[0].logits), data.is_dense
      return {"dense": jnp.mean(weight, where=dense), "empty": jnp.mean(weight, where=~dense)}

    num = len(data.x)
    start = (compositional.adawac_init(num), jnp.zeros(num), jnp.zeros((), jnp.int32))
    done = fit(objective, data.params, data.rows, optimizer, state=start, evaluate=evaluate)
    predicted = jnp.argmax(segment(done.params, data.x_held)[1], axis=-1)
    count = lambda masks: jnp.sum(masks.reshape(2, -1, kind.group * SIDE * SIDE), axis=2)
    sizes = count(predicted) + count(data.y_held)
    dice = jnp.mean(2 * count(predicted * data.y_held) / jnp.maximum(sizes, 1), axis=1)
    final = {"val": dice[0], "test": dice[1], "predicted": predicted[data.shown]}
    return {**final, "weight": jax.nn.sigmoid(done.state[0].logits), **done.history}

  return train


def run(config: Config, progress: Progress) -> dict[str, Any]:
  """Every method and step size on every data set; one program for each kind of images."""
  factors = config.factors
  axes, shape = grid(method=range(len(config.methods)), factor=factors)
  rules, stepsizes = zip(*(METHODS[config.methods[i]] for i in axes["method"]), strict=True)
  setting = {"rule": np.int32([RULES.index(r) for r in rules]), "stepsize": np.float32(stepsizes)}
  metrics: dict[str, Any] = {}
  choices: list[_statistics.Choice] = []
  for kind in progress.track(config.kinds, "kinds of images"):
    best_rates = dict(zip(MAIN, RATES.get(kind, RATES["distinct"]), strict=True))
    rates = np.float32([best_rates.get(name, 0.2) for name in config.methods])
    setting["learning_rate"] = axes["factor"] * rates[axes["method"]]
    data = stack([load(seed, kind, config) for seed in config.seed_numbers()])
    found = train_all(progress, make_trainer(config, KINDS[kind]), setting, data, name=kind)
    found = {k: v.reshape(config.seeds, *shape, *v.shape[2:]) for k, v in found.items()}
    metrics[kind] = {"methods": {}, "pictures": _samples(data)}
    for i, name in enumerate(config.methods):
      score = found["val"][:, i].mean(0)
      choice = _statistics.choose(f"factor of {name}, {kind}", factors, score, better="higher")
      choices.append(choice)
      best = factors.index(choice.chosen)
      entry: dict[str, Any] = {"dice": found["test"][:, i, best]}
      if name.startswith("AdaWAC"):
        weight, dense = found["weight"][:, i, best], np.asarray(data.is_dense)
        entry["auc"] = [_auc(w[d], w[~d]) for w, d in zip(weight, dense, strict=True)]
        entry |= {group: found[group][:, i, best] for group in ("dense", "empty")}
      metrics[kind]["methods"][name] = entry
      if name in ("ERM", "AdaWAC 8"):
        masks = found["predicted"][0, i, best]
        metrics[kind]["pictures"][name] = [_pictures.encode(mask) for mask in masks]
  return {"kinds": metrics, "choices": choices}


def _auc(above: np.ndarray, below: np.ndarray) -> float:
  """Fraction of pairs in the right order; ties count half."""
  return float(np.mean(0.5 + 0.5 * np.sign(above[:, None] - below[None])))


def _samples(data: Data) -> dict[str, Any]:
  """Test images of the first seed with their masks, and empty training images."""
  shown, empty = data.shown[0], np.flatnonzero(~np.asarray(data.is_dense[0]))[-2:]
  grey = {"test": data.x_held[0, shown], "empty": data.x[0, empty]}
  found = {key: [_pictures.encode((image + 1.5) / 4) for image in v] for key, v in grey.items()}
  return {**found, "masks": [_pictures.encode(mask) for mask in data.y_held[0, shown]]}


def claims(metrics: dict[str, Any], config: Config) -> list[Claim]:
  """Weights by kind of image; Dice beside plain training, half of the method, dropping images."""
  made = []
  for kind in config.kinds:
    found, metric = metrics["kinds"][kind]["methods"], KINDS[kind].score
    dice = {name: Side(name, entry["dice"]) for name, entry in found.items()}
    # Darker empty images teach nothing, unlike the paper's slices, which share organs: beside the
    # dropping of images AdaWAC is judged on slices only.
    for name, words in (AGAINST if kind == "slices" else {}).items():
      text = f"On slices AdaWAC segments better than {words}."
      key = f"slices_{name.replace(', ', '_')}"
      made.append(Claim(key, text, "paper", metric, dice["AdaWAC 8"], dice[name]))
    if kind == "distinct":
      for name, by in (("ERM", 0.0), ("consistency", 0.03)):
        text = f"With darker empty images AdaWAC segments better than {AGAINST[name]}, by {by:g}."
        sides = [dice["AdaWAC 8"], dice[name]]
        made.append(Claim(f"distinct_{name}", text, "paper", metric, *sides, margin=by))
      groups = ("dense", "empty")
      sides = [Side(f"{g} images", [v[-1] for v in found["AdaWAC 8"][g]]) for g in groups]
      text = "The final weights of supervision of dense images exceed those of empty ones by 0.4."
      made.append(Claim("weights", text, "paper", "mean weight", *sides, margin=0.4))
      text = "The final weights rank dense above empty images: an AUC of at least 0.9."
      auc = Side("AdaWAC 8", found["AdaWAC 8"]["auc"])
      made.append(Claim("auc", text, "paper", "AUC of the weights", auc, Side("AUC 0.9", 0.9)))
  return made


def table(metrics: dict[str, Any], config: Config) -> list[Row]:
  """Each method beside plain training on both copies."""
  rows = []
  for kind in config.kinds:
    side = {n: Side(n, e["dice"]) for n, e in metrics["kinds"][kind]["methods"].items()}
    metric = f"{KINDS[kind].score}, images {kind}"
    rows += [Row(metric, side[name], side["ERM"]) for name in config.methods if name != "ERM"]
  return rows


def figure(record: dict[str, Any]) -> Any:
  """Weights over training, Dice by method, sample images with masks and predictions."""
  kinds = record["metrics"]["kinds"]
  fig, axes = new_figure(len(kinds), 3, width=4.6)
  for row, (kind, found) in enumerate(kinds.items()):
    methods, pictures = found["methods"], found["pictures"]
    lines = {f"{group} images": methods["AdaWAC 8"][group] for group in ("dense", "empty")}
    title = f"AdaWAC 8, images {kind}"
    _figures.curves(axes[3 * row], lines, xlabel="epoch", ylabel="weight", title=title)
    dice = {"": {name: entry["dice"] for name, entry in methods.items()}}
    _figures.dots(axes[3 * row + 1], dice, ylabel=KINDS[kind].score, title="95 % intervals")
    tiles = {
      name: np.stack([_pictures.decode(text, SIDE) for text in pictures[name]])
      for name in ("test", "masks", "ERM", "AdaWAC 8", "empty")
    }
    _figures.images(axes[3 * row + 2], tiles, title="First seed")
  return fig
