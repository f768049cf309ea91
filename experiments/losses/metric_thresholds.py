"""Threshold-consistent margins: does one similarity threshold suit all classes, seen and unseen?"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import _figures, _statistics, datasets
from experiments._claims import Claim, Side
from experiments._protocol import RECORDED_TWICE, Paper, Progress, Row, Settings, Size, new_figure
from experiments._training import fit, grid, schedule, stack, train_all
from jaxopt_robust import losses, nets

PAPER = Paper(
  title="Threshold-consistent margin loss for open-world deep metric learning",
  authors="Zhang, Xu, Tang, Fang, Wu, Tighe and Xing",
  year=2024,
  claim="Adding the threshold-consistent margin loss (TCM) to a loss that shapes embeddings makes "
  "the best threshold vary less between classes (lower OPIS) without losing recall at 1.",
  section="Section 5, OPIS and recall at 1 on four retrieval benchmarks",
  url="https://arxiv.org/abs/2307.04047",
)

BASES = ("SupCon", "softmax")
# name -> weight of both parts, positive margin, negative margin; TCM's are the paper's.
METHODS: dict[str, tuple[float, float, float]] = {
  "base": (0.0, 0.9, 0.5),
  "TCM": (1.0, 0.9, 0.5),
  "TCM, weight 3": (3.0, 0.9, 0.5),
  "TCM, margins .7, .3": (1.0, 0.7, 0.3),
}
PARTS = ("validation", "seen", "unseen")  # held-out images, of seen classes but for the last
SYMMETRIES = 8  # of a square; a digit under each of them is a class of its own
SHAPES = (2, 3, 4, 5, 7)  # digits that no symmetry of the square maps to themselves
CLASSES = 20  # half of the digits and symmetries are seen, the others unseen


@dataclasses.dataclass(frozen=True)
class Config(Settings):
  """Settings.

  The noise was chosen on development seeds: the best recall of the bases on validation images.

  Attributes:
    data: "digits" (8 x 8 images) or "mnist5k" (28 x 28).
    methods: which of ``METHODS`` are run on either base.
    per_class: training images of each of the 20 seen classes; at most as many of each class are
      held out for validation and for measurements.
    in_batch: images of each class in a minibatch.
    epochs: passes over the training set.
    learning_rates: initial step sizes of AdamW, falling to zero along a cosine; each method has
      its best one by recall at 1 on validation images of the seen classes.
    weight_decay: of AdamW.
    temperature: of the supervised contrastive loss.
    scale: inverse temperature of the normalised softmax.
    noise: standard deviation of noise added to training images, whose grey values lie in [0, 1].
    widths: widths of the network; the last is the number of features.
  """

  data: str = "digits"
  methods: tuple[str, ...] = tuple(METHODS)
  per_class: int = 40
  in_batch: int = 8
  epochs: int = 80
  learning_rates: tuple[float, ...] = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
  weight_decay: float = 1e-4
  temperature: float = 0.1
  scale: float = 20.0
  noise: float = 0.1
  widths: tuple[int, ...] = (256, 32)

  def __post_init__(self) -> None:
    if self.data not in ("digits", "mnist5k"):
      raise ValueError(f"data must be 'digits' or 'mnist5k'; got {self.data!r}.")
    if not {"base", "TCM"} <= set(self.methods) <= set(METHODS):
      raise ValueError(f"methods: base, TCM and more of {list(METHODS)}; got {self.methods}.")


SIZES = {
  "toy": Size(
    Config(seeds=2, methods=("base", "TCM"), per_class=16, epochs=3, learning_rates=(3e-3,)),
    "Two methods, 16 images a class, three epochs.",
  ),
  "desk": Size(
    Config(),
    "40 classes of turned 8 x 8 digits and a small perceptron instead of four sets of photographs "
    "and pretrained networks.",
  ),
  "large": Size(
    Config(data="mnist5k", per_class=150, epochs=60, widths=(512, 256, 64)),
    "40 classes of turned 28 x 28 digits and a perceptron instead of photographs.",
  ),
}


class Data(NamedTuple):
  """One seed: initial weights, training images, those held out (``PARTS``), and minibatches."""

  params: Any
  x: jax.Array
  y: jax.Array
  held_x: jax.Array
  held_y: jax.Array
  is_held: jax.Array
  rows: jax.Array
  key: jax.Array


def load_split(seed: int, config: Config) -> Data:
  """Digits under the symmetries of the square.

  A digit's images are dealt to training, validation and test before they are turned, so that none
  is seen under one symmetry in one of them and under another one elsewhere.
  """
  table = datasets.load(config.data)
  x, y = np.asarray(table["x"], np.float32), np.asarray(table["y"])
  side = int(np.sqrt(x.shape[1]))
  x = (x / x.max()).reshape(-1, side, side)
  rng = np.random.default_rng(seed)
  pools = []
  for digit in SHAPES:
    order = rng.permutation(np.flatnonzero(y == digit))
    pools.append(np.split(order, [int(0.5 * len(order)), int(0.7 * len(order))]))
  seen, unseen = np.split(rng.permutation(len(SHAPES) * SYMMETRIES), [CLASSES])

  def images(chosen: np.ndarray, pool: int) -> tuple[np.ndarray, np.ndarray]:
    found, labels = [], []
    for label, number in enumerate(chosen):
      shape, symmetry = divmod(number, SYMMETRIES)
      own = rng.permutation(pools[shape][pool])[: config.per_class]
      turned = np.rot90(x[own], symmetry % 4, axes=(1, 2))
      found.append((turned[:, :, ::-1] if symmetry >= 4 else turned).reshape(len(own), -1))
      labels += [label] * len(own)
    return np.concatenate(found), np.array(labels, np.int32)

  train_x, train_y = images(seen, 0)
  held = [images(chosen, pool) for chosen, pool in ((seen, 1), (seen, 2), (unseen, 2))]
  size = CLASSES * config.per_class
  pad = lambda array: np.pad(array, [(0, size - len(array)), *[(0, 0)] * (array.ndim - 1)])
  held_x, held_y = (np.stack([pad(part[i]) for part in held]) for i in range(2))
  is_held = np.stack([np.arange(size) < len(labels) for _, labels in held])
  steps = config.per_class // config.in_batch
  order = np.tile(np.arange(config.per_class), (config.epochs, CLASSES, 1))
  orders = rng.permuted(order, axis=2)[:, :, : steps * config.in_batch]
  rows = orders.reshape(config.epochs, CLASSES, steps, -1)
  rows = rows + config.per_class * np.arange(CLASSES)[None, :, None, None]
  rows = rows.transpose(0, 2, 1, 3).reshape(config.epochs, steps, -1).astype(np.int32)
  model_key, prototype_key, noise_key = jax.random.split(jax.random.key(seed), 3)
  params = {
    "model": nets.MLP(config.widths).init(model_key, train_x[:1]),
    "prototypes": jax.random.normal(prototype_key, (CLASSES, config.widths[-1])),
  }
  arrays = (train_x, train_y, held_x, held_y, is_held, rows)
  return Data(params, *(jnp.asarray(array) for array in arrays), noise_key)


def make_trainer(config: Config) -> Callable[..., Any]:
  """``train(setting, data) -> metrics of the parts``; runs of a seed see the same batches."""
  model = nets.MLP(config.widths)

  def train(setting: dict[str, jax.Array], data: Data) -> dict[str, jax.Array]:
    factor = schedule("cosine", data.rows.shape[0] * data.rows.shape[1])
    optimizer = optax.adamw(
      lambda count: setting["rate"] * factor(count), weight_decay=config.weight_decay
    )

    def objective(params: Any, count: jax.Array, rows: jax.Array) -> Any:
      x, labels = data.x[rows], data.y[rows]
      x = x + config.noise * jax.random.normal(jax.random.fold_in(data.key, count), x.shape)
      z = model.apply(params["model"], x)
      pairwise = losses.supervised_contrastive_loss(z, labels, temperature=config.temperature)
      softmax = losses.normalized_softmax_loss(
        z, params["prototypes"], labels, temperature=1 / config.scale
      )
      margin = losses.threshold_consistent_margin_loss(
        losses.cosine_similarities(z), labels,
        positive_margin=setting["positive"], negative_margin=setting["negative"],
        positive_weight=setting["weight"], negative_weight=setting["weight"],
      )  # fmt: skip
      base = jnp.where(setting["is_softmax"], jnp.mean(softmax), jnp.mean(pairwise))
      return base + margin, count + 1

    zero, nothing = jnp.zeros((), jnp.int32), lambda params, state: state
    done = fit(objective, data.params, data.rows, optimizer, state=zero, evaluate=nothing)

    def measure(part: tuple[jax.Array, ...]) -> dict[str, jax.Array]:
      x, labels, where = part
      embeddings = model.apply(done.params["model"], x)
      options = {"num_bins": 2048, "block": 400, "where": where}
      found = losses.opis(embeddings, labels, num_classes=CLASSES, **options)
      return {
        "recall": losses.recall_at_1(embeddings, labels, block=400, where=where),
        "opis": found.score, "eps_opis": losses.eps_opis(found),
        "utility": found.utility, "thresholds": found.thresholds,
      }  # fmt: skip

    return jax.lax.map(measure, (data.held_x, data.held_y, data.is_held))

  return train


def run(config: Config, progress: Progress) -> dict[str, Any]:
  """Trains every base with and without TCM at every rate, in one program; chooses the rates."""
  data = stack([load_split(seed, config) for seed in config.seed_numbers()])
  axes, shape = grid(
    is_softmax=range(2), method=range(len(config.methods)), rate=config.learning_rates
  )
  numbers = np.float32([METHODS[name] for name in config.methods])[axes["method"]]
  setting = {
    "is_softmax": axes["is_softmax"] == 1, "rate": axes["rate"],
    "weight": numbers[:, 0], "positive": numbers[:, 1], "negative": numbers[:, 2],
  }  # fmt: skip
  found = train_all(progress, make_trainer(config), setting, data, name="training")
  found = {k: v.reshape(config.seeds, *shape, *v.shape[2:]) for k, v in found.items()}
  metrics: dict[str, Any] = {base: {} for base in BASES}
  choices = []
  for i, base in enumerate(BASES):
    for j, name in enumerate(config.methods):
      scores = found["recall"][:, i, j, :, PARTS.index("validation")].mean(0)
      rates, title = config.learning_rates, f"rate of {base}, {name}"
      choices.append(_statistics.choose(title, rates, scores, better="higher"))
      own = {k: v[:, i, j, rates.index(choices[-1].chosen)] for k, v in found.items()}
      metrics[base][name] = {
        part: {key: own[key][:, PARTS.index(part)] for key in ("recall", "opis", "eps_opis")}
        for part in ("seen", "unseen")
      }
      if name in ("base", "TCM"):  # curves of the first seed
        metrics[base][name]["curves"] = {
          "thresholds": own["thresholds"][0, 2, ::4],
          "utility": own["utility"][0, 2, :, ::4],
        }
  return {"methods": metrics, "choices": choices}


def claims(metrics: dict[str, Any], config: Config) -> list[Claim]:
  """OPIS falls on held-out images of seen and of unseen classes; recall at 1 does not."""
  # Least factors: five on seen classes with softmax, a fifth less on unseen ones with SupCon.
  factors = {("seen", "softmax"): 5.0, ("unseen", "SupCon"): 1.25}
  opis = f"OPIS, {config.data} under the symmetries of the square"
  sides = lambda base, part, key: [
    Side(title, metrics["methods"][base][name][part][key])
    for title, name in ((f"{base} + TCM", "TCM"), (base, "base"))
  ]
  made = []
  for base in BASES:
    for part in ("unseen", "seen"):
      factor = factors.get((part, base), 1.0)
      amount = f" by a factor of at least {factor:g}" if factor > 1 else ""
      text = f"TCM cuts OPIS on held-out images of {part} classes{amount}, with the base {base}."
      both, key = sides(base, part, "opis"), f"opis_{part}_{base}"
      made.append(Claim(key, text, "paper", opis, *both, "lower", factor, "ratio"))
    text = f"TCM cuts OPIS of the best and worst tenth of unseen classes, with the base {base}."
    both = sides(base, "unseen", "eps_opis")
    key = f"eps_opis_{base}"
    made.append(Claim(key, text, "paper", f"eps-{opis}", *both, "lower", scale="ratio"))
    text = f"TCM costs less than .005 of recall at 1 on unseen classes, with the base {base}."
    both = sides(base, "unseen", "recall")
    made.append(Claim(f"recall_{base}", text, "paper", "recall at 1", *both, margin=-0.005))
  return made


def table(metrics: dict[str, Any], config: Config) -> list[Row]:
  """Each variant of TCM beside its base, on seen and unseen classes."""
  words = {"opis": "OPIS", "eps_opis": "eps-OPIS", "recall": "recall at 1"}
  return [
    Row(
      f"{text}, held-out images of {part} classes, {config.data}",
      Side(f"{base} + {name}", metrics["methods"][base][name][part][key]),
      Side(base, metrics["methods"][base]["base"][part][key]),
      "higher" if key == "recall" else "lower",
      note=RECORDED_TWICE,
    )
    for base in BASES
    for name in config.methods
    if name != "base"
    for part in ("unseen", "seen")
    for key, text in words.items()
  ]


def figure(record: dict[str, Any]) -> Any:
  """Utility by threshold for every unseen class without and with TCM; OPIS of all methods."""
  metrics = record["metrics"]["methods"]
  fig, axes = new_figure(1, 4)
  for ax, name in zip(axes, ("base", "TCM"), strict=False):
    entry = metrics["softmax"][name]["curves"]
    ax.plot(entry["thresholds"], np.transpose(entry["utility"]), color="C0", lw=0.8, alpha=0.6)
    ax.plot(entry["thresholds"], np.mean(entry["utility"], axis=0), color="C3", lw=2)
    ax.set(xlabel="distance threshold", ylabel="utility", ylim=(0, 1.02))
    ax.set_title(f"softmax, {name}: unseen classes, one seed, mean", fontsize="medium")
  for ax, part in zip(axes[2:], ("seen", "unseen"), strict=True):
    groups = {base: {n: v[part]["opis"] for n, v in metrics[base].items()} for base in BASES}
    _figures.dots(ax, groups, ylabel="OPIS (lower is better)", title=f"{part.capitalize()} classes")
  return fig
