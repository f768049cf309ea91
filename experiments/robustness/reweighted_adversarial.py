"""Doubly robust adversarial training: worst-case example weights on imbalanced classes."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import _amendments, _figures, datasets
from experiments._claims import Claim, Side
from experiments._protocol import RECORDED_TWICE, Paper, Progress, Row, Settings, Size, new_figure
from experiments._statistics import choose
from experiments._training import batches, fit, schedule, stack, train_all
from jaxopt_robust import losses, nets, robustness

PAPER = Paper(
  title="Doubly robust instance-reweighted adversarial training",
  authors="Sow, Lin, Wang and Liang",
  year=2024,
  claim="Adversarial training with worst-case (KL) example weights and an attack that is "
  "differentiated through (DONE) raises the robust accuracy of the most vulnerable classes on "
  "imbalanced data, over uniform weights and over heuristic ones, at no loss of robust accuracy.",
  section="Experiments on imbalanced CIFAR-10 and SVHN",
  url="https://arxiv.org/abs/2308.00311",
)
AMENDED = _amendments.REWEIGHTED_ADVERSARIAL

# name -> (attack, weights of the examples, whether the attack is differentiated through)
METHODS: dict[str, tuple[str, str, bool]] = {
  "PGD": ("pgd", "uniform", False),
  "PGD, KL weights": ("pgd", "KL", False),
  "PGD, margin weights": ("pgd", "margin", False),
  "PGD, class weights": ("pgd", "class", False),
  "barrier": ("barrier", "uniform", False),
  "barrier, KL weights": ("barrier", "KL", False),
  "barrier, implicit term": ("barrier", "uniform", True),
  "DONE": ("barrier", "KL", True),
}
WEIGHTS = ("uniform", "KL", "margin", "class")
NEARLY_UNIFORM = 1e4  # the temperature of DONE's program that stands for uniform weights
# What DONE adds to PGD step by step: name -> (method, method without it).
SHARES = {
  "attack": ("barrier", "PGD"),
  "weights": ("barrier, KL weights", "barrier"),
  "implicit term": ("DONE", "barrier, KL weights"),
}


@dataclasses.dataclass(frozen=True)
class Config(Settings):
  """Settings.

  Attributes:
    data: "digits" or "mnist5k".
    majority: training images of each of the classes 0 to 4.
    minority: training images of each of the classes 5 to 9.
    validation: validation images of each class; the rest is the test set, averaged over classes.
    hidden: widths of the hidden layers.
    radius: largest change of a grey value in [0, 1].
    temperatures: the r of KL weights; from this and the three grids that follow each method has its
      best values by RA-Tail-30 on validation images.
    slopes: of the margin weights, sigmoid(-slope margin) with the margin of probabilities.
    powers: of the class weights, frequency of the class to the minus power.
    rates: initial step sizes, decayed by a cosine.
    epochs: passes over the training set.
    batch: batch size.
    weight_decay: coefficient of the l2 term in the gradient.
    train_steps: attack steps in training.
    test_steps: attack steps in the evaluation, each a tenth of the radius.
  """

  data: str = "digits"
  majority: int = 110
  minority: int = 22
  validation: int = 24
  hidden: tuple[int, ...] = (64,)
  radius: float = 0.1
  temperatures: tuple[float, ...] = (0.25, 1.0, 4.0, 16.0)
  slopes: tuple[float, ...] = (1.0, 3.0, 10.0, 30.0)
  powers: tuple[float, ...] = (0.5, 1.0, 1.5, 2.0)
  rates: tuple[float, ...] = (0.05, 0.1, 0.2, 0.4)
  epochs: int = 50
  batch: int = 32
  weight_decay: float = 5e-4
  train_steps: int = 10
  test_steps: int = 40


SIZES = {
  "toy": Size(
    Config(
      seeds=2, majority=20, minority=8, validation=10, hidden=(16,), temperatures=(1.0,),
      slopes=(10.0,), powers=(1.0,), rates=(0.05,), epochs=1, train_steps=2, test_steps=2,
    ),
    "One epoch, two attack steps.",
  ),
  "desk": Size(Config(), "8 x 8 digits and one hidden layer instead of CIFAR-10 and ResNet-18."),
  "large": Size(
    Config(
      data="mnist5k", majority=300, minority=60, validation=50, hidden=(256, 256), epochs=100,
      batch=64, test_steps=100,
    ),
    "28 x 28 digits and two hidden layers instead of CIFAR-10 and ResNet-18.",
  ),
}  # fmt: skip


class Data(NamedTuple):
  """One split, and the initial weights, minibatches and key of its training runs."""

  params: Any
  x: dict[str, jax.Array]
  y: dict[str, jax.Array]
  rows: jax.Array
  key: jax.Array


def load_split(seed: int, config: Config) -> Data:
  """Step imbalance in the training set; every seed has the same numbers of each class."""
  table = datasets.load(config.data)
  x, y = np.float32(table["x"] / np.max(table["x"])), np.asarray(table["y"], np.int32)
  rng, parts = np.random.default_rng(seed), []
  for label, size in enumerate([config.majority] * 5 + [config.minority] * 5):
    rows = rng.permutation(np.nonzero(y == label)[0])
    parts.append(np.split(rows, [size, size + config.validation]))
  split = [np.concatenate(part) for part in zip(*parts, strict=True)]
  names, key = ("train", "val", "test"), jax.random.key(seed)
  parts_of = lambda a: {n: jnp.asarray(a[rows]) for n, rows in zip(names, split, strict=True)}
  rows = jnp.asarray(batches(len(split[0]), config.batch, config.epochs, seed))
  return Data(
    _init(nets.MLP((*config.hidden, 10)), key, x[:1]), parts_of(x), parts_of(y), rows, key
  )


@functools.partial(jax.jit, static_argnums=0)  # one program for all seeds
def _init(model: Any, key: jax.Array, x: jax.Array) -> Any:
  return model.init(key, x)


def pgd_weights(scores: jax.Array, labels: jax.Array, setting: Any, count: jax.Array) -> jax.Array:
  """Weights of a batch of attacked images, which sum to one."""
  values, strength = losses.cross_entropy_loss(scores, labels), setting["strength"]
  probability, is_label = jax.nn.softmax(scores), jax.nn.one_hot(labels, 10, dtype=bool)
  own = jnp.sum(jnp.where(is_label, probability, 0), axis=1)
  margin = own - jnp.max(jnp.where(is_label, 0, probability), axis=1)
  options = (
    jnp.ones_like(values), losses.kl_dro_weights(values, strength),
    jax.nn.sigmoid(-strength * margin), count[labels] ** -strength,
  )  # fmt: skip
  weights = jax.lax.stop_gradient(jnp.stack(options)[setting["weights"]])
  return weights / jnp.sum(weights)


def make_trainer(attack_name: str, config: Config) -> Callable[..., Any]:
  """``train(setting, data) -> accuracies``: one run; runs of one split see the same batches."""
  model = nets.MLP((*config.hidden, 10))

  def attack(params: Any, x: jax.Array, y: jax.Array, key: jax.Array, step: float, num: int) -> Any:
    entropy = lambda point: losses.cross_entropy_loss(model.apply(params, point), y)
    options = {"radius": config.radius, "bounds": (0.0, 1.0), "num_steps": num}
    return robustness.pgd_attack(entropy, x, key, stepsize=config.radius / step, **options)

  def train(setting: dict[str, jax.Array], data: Data) -> dict[str, jax.Array]:
    factor = schedule("cosine", data.rows.shape[0] * data.rows.shape[1])
    optimizer = optax.chain(
      optax.clip_by_global_norm(1.0), optax.add_decayed_weights(config.weight_decay),
      optax.sgd(lambda count: setting["rate"] * factor(count), momentum=0.9),
    )  # fmt: skip
    count = jnp.sum(jax.nn.one_hot(data.y["train"], 10), axis=0)

    def objective(params: Any, state: Any, rows: jax.Array) -> Any:
      average, number = state
      x, y, key = data.x["train"][rows], data.y["train"][rows], jax.random.fold_in(data.key, number)
      frozen = jax.lax.stop_gradient(params)
      if attack_name == "pgd":
        attacked = attack(frozen, x, y, key, 4, config.train_steps)
        scores = model.apply(params, attacked)
        weights = pgd_weights(scores, y, setting, count)
        return jnp.sum(weights * losses.cross_entropy_loss(scores, y)), (average, number + 1)
      gradient = robustness.done_value_and_grad(
        model.apply, radius=config.radius, temperature=setting["strength"],
        num_steps=config.train_steps,
      )  # fmt: skip
      (_, info), grads, average = gradient(frozen, average, x, y, key)
      values = losses.cross_entropy_loss(model.apply(params, x + info.perturbation), y)
      whole = optax.tree.vdot(params, grads)  # a value with this gradient
      part = jnp.sum(info.weights * values)
      return jnp.where(setting["implicit"], whole, part), (average, number + 1)

    state, nothing = (robustness.done_init(), jnp.zeros((), jnp.int32)), lambda params, state: ()
    done = fit(objective, data.params, data.rows, optimizer, state=state, evaluate=nothing)
    return evaluate(done.params, setting, data, count)

  def evaluate(params: Any, setting: Any, data: Data, count: jax.Array) -> dict[str, jax.Array]:
    x, y = (jnp.concatenate([part["val"], part["test"]]) for part in (data.x, data.y))
    attacked = attack(params, x, y, data.key, 10, config.test_steps)
    right = jnp.argmax(model.apply(params, x), axis=1) == y
    robust = right & (jnp.argmax(model.apply(params, attacked), axis=1) == y)
    is_test = jnp.arange(len(y)) >= len(data.y["val"])
    tail = functools.partial(robustness.tail_accuracy, robust, y, num_classes=10)
    x, labels = data.x["train"], data.y["train"]
    attacked = attack(params, x, labels, data.key, 4, config.train_steps)
    weights = pgd_weights(model.apply(params, attacked), labels, setting, count) * len(labels)

    def by_class(values: jax.Array, labels: jax.Array, where: jax.Array) -> jax.Array:
      member = jax.nn.one_hot(labels, 10) * where[:, None]
      return values @ member / jnp.sum(member, axis=0)

    clean, kept = (by_class(v.astype(jnp.float32), y, is_test) for v in (right, robust))
    return {
      "validation": tail(where=~is_test), "tail": tail(where=is_test), "robust": jnp.mean(kept),
      "clean": jnp.mean(clean), "robust_by_class": kept,
      "weight_by_class": by_class(weights, labels, jnp.ones(len(labels))),
    }  # fmt: skip

  return train


def run(config: Config, progress: Progress) -> dict[str, Any]:
  """Trains and attacks the networks an attack at a time; chooses the strength of the weights."""
  data = stack([load_split(seed, config) for seed in config.seed_numbers()])
  strengths = ((NEARLY_UNIFORM,), config.temperatures, config.slopes, config.powers)
  grids = dict(zip(WEIGHTS, strengths, strict=True))
  metrics, choices = {}, []
  for attack in progress.track(("pgd", "barrier"), "attacks"):
    names = [name for name, method in METHODS.items() if method[0] == attack]
    runs = [(n, v, rate) for n in names for v in grids[METHODS[n][1]] for rate in config.rates]
    title, strength, rate = zip(*runs, strict=True)
    setting = {
      "strength": np.float32(strength), "rate": np.float32(rate),
      "weights": np.int32([WEIGHTS.index(METHODS[name][1]) for name in title]),
      "implicit": np.array([METHODS[name][2] for name in title]),
    }  # fmt: skip
    found = train_all(progress, make_trainer(attack, config), setting, data, name=attack)
    for name in names:
      values, rates = grids[METHODS[name][1]], config.rates
      columns = np.flatnonzero(np.array(title) == name).reshape(-1, len(rates))
      scores = found["validation"][:, columns].mean(0)
      choices.append(choose(f"strength of {name}", values, scores.max(1), better="higher"))
      i = values.index(choices[-1].chosen)
      choices.append(choose(f"rate of {name}", rates, scores[i], better="higher"))
      best = columns[i, rates.index(choices[-1].chosen)]
      metrics[name] = {key: value[:, best] for key, value in found.items()}
  return {"methods": metrics, "choices": choices}


def claims(metrics: dict[str, Any], config: Config) -> list[Claim]:
  """The worst classes, robust accuracy, what the weights add, and where they lie."""
  found, margin, by_class = metrics["methods"], "PGD, margin weights", "PGD, class weights"
  side = lambda name, key: Side(name, found[name][key])
  worst = "robust accuracy in the worst 30 % of the classes"
  wanted = [
    ("tail", f"DONE has at least .02 more {worst} than PGD.", "DONE", "PGD", "tail", 0.02),
    ("robust", "DONE loses less than .005 of RA-PGD to PGD.", "DONE", "PGD", "robust", -0.005),
    ("margin_weights", f"DONE has more {worst} than margin weights.", "DONE", margin, "tail", 0),
    ("class_weights", f"DONE has more {worst} than class weights.", "DONE", by_class, "tail", 0),
    ("kl_weights", f"KL weights raise the {worst}.", *SHARES["weights"], "tail", 0),
  ]
  made = [
    Claim(name, text, "paper", f"RA {key}, test", side(ours, key), side(base, key), margin=least)
    for name, text, ours, base, key, least in wanted
  ]
  weight = np.asarray(found["DONE"]["weight_by_class"], float)
  text = "After training KL weights put more on an image of a rare class than of a frequent one."
  both = Side("rare classes", weight[:, 5:].mean(1)), Side("frequent", weight[:, :5].mean(1))
  return [*made, Claim("rare_classes", text, "paper", "mean weight", *both, scale="ratio")]


def table(metrics: dict[str, Any], config: Config) -> list[Row]:
  """The share of attack, weights and implicit term, then every method beside PGD."""
  words = {"tail": "RA-Tail-30", "robust": "RA-PGD", "clean": "accuracy (SA)"}
  pairs = [(f"share of the {name}", *pair) for name, pair in SHARES.items()]
  pairs += [("mean over classes", name, "PGD") for name in METHODS if name != "PGD"]
  side = lambda name, key: Side(name, metrics["methods"][name][key])
  return [
    Row(f"{text}, {config.data}, {what}", side(ours, key), side(base, key), note=RECORDED_TWICE)
    for what, ours, base in pairs
    for key, text in words.items()
  ]


def figure(record: dict[str, Any]) -> Any:
  """Robust accuracy by class, weights by class, and the worst three classes by method."""
  metrics, (fig, axes) = record["metrics"]["methods"], new_figure(1, 3)
  for ax, key, names in (
    (axes[0], "robust_by_class", ("PGD", "DONE")),
    (axes[1], "weight_by_class", ("PGD, margin weights", "PGD, KL weights", "DONE")),
  ):
    groups = {n: dict(zip("0123456789", np.transpose(metrics[n][key]), strict=True)) for n in names}
    _figures.dots(ax, groups)
    ax.set_xlabel("class (5 to 9 are rare in training)")
  axes[0].set(ylabel="robust accuracy", title="By class")
  axes[1].set(ylabel="mean weight", title="Training images, after training", yscale="log")
  groups = {k: {name: m[k] for name, m in metrics.items()} for k in ("tail", "robust")}
  _figures.dots(axes[2], groups, ylabel="accuracy", title="Worst three classes, all classes")
  return fig
