"""Few examples of new classes: their mean features, drawn towards those of similar classes."""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import _figures, datasets
from experiments._claims import Claim, Side
from experiments._protocol import Paper, Progress, Row, Settings, Size, new_figure
from experiments._training import batches, fit, stack
from jaxopt_robust import losses, nets, robustness, sweeps

PAPER = Paper(
  title="Few-shot class-incremental learning via training-free prototype calibration",
  authors="Wang, Zhou, Zhang, Zhan and Ye",
  year=2023,
  claim="Images of new classes with few examples are taken for classes that the features were "
  "trained on; mean features that are drawn towards those of similar trained classes tell the new "
  "classes better apart, and classification improves. The method is a part of CSFA (Yu, Lu and "
  "Zhang, 2025).",
  section="Abstract; tables were not read",
  url="https://arxiv.org/abs/2312.05229",
)
CLASSES, SIDE = 10, 87  # of digits; images of each class for training, and as many for testing
NONE, PUBLISHED, WARMER = "no calibration", "calibration, tau 16", "calibration, tau 4"


@dataclasses.dataclass(frozen=True)
class Config(Settings):
  """Settings.

  Attributes:
    base: classes that the features are trained on, drawn anew for each seed; the others are new.
    hidden: width of the hidden layer.
    features: number of features.
    epochs: passes over the training images of the base classes.
    batch: batch size.
    learning_rate: of Adam.
    temperature: of the cosine classifier, in training and afterwards.
    shots: numbers of examples of a new class.
    draws: draws of these examples, averaged.
    taus: temperatures of the calibration; the method's is 16.
    weights: of the calibration; the method's is 0.5, and 0 is none.
  """

  seeds: int = 12
  base: int = 6
  hidden: int = 128
  features: int = 64
  epochs: int = 50
  batch: int = 64
  learning_rate: float = 1e-3
  temperature: float = 16.0
  shots: tuple[int, ...] = (1, 2, 5)
  draws: int = 10
  taus: tuple[float, ...] = (1.0, 4.0, 16.0, 64.0)
  weights: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75)

  def __post_init__(self) -> None:
    if not {4.0, 16.0} <= set(self.taus) or not {0.0, 0.5} <= set(self.weights):
      raise ValueError("taus must hold 4 and 16, and weights 0 and 0.5.")
    if not 1 <= self.base < CLASSES or not {1, 2, 5} <= set(self.shots):
      raise ValueError("base must be 1 to 9, and shots hold 1, 2 and 5.")


SIZES = {
  "toy": Size(
    Config(seeds=2, hidden=16, features=8, epochs=3, draws=2, taus=(4.0, 16.0), weights=(0.0, 0.5)),
    "Three epochs and eight features.",
  ),
  "desk": Size(
    Config(),
    "Digits of 8 x 8 pixels, 6 + 4 classes and a perceptron; miniImageNet, CIFAR-100 and CUB-200 "
    "with ResNets, new classes in several sessions.",
  ),
  "large": Size(
    Config(seeds=24, hidden=512, features=128, epochs=100, draws=50),
    "As desk, with a wider network, more draws and seeds.",
  ),
}  # fmt: skip


class Data(NamedTuple):
  """A seed: images by class, base classes first, minibatches and draws of examples."""

  train: Any
  test: Any
  params: Any
  rows: Any
  shots: Any


@functools.partial(jax.jit, static_argnums=0)  # one program for all seeds
def initial(config: Config, seed: int) -> Any:
  """Weights of the features, a perceptron with one hidden layer, and of the classifier."""
  init_key, head_key = jax.random.split(jax.random.key(seed))
  return {
    "encoder": nets.MLP((config.hidden, config.features)).init(init_key, jnp.zeros((1, 64))),
    "head": jax.random.normal(head_key, (config.base, config.features)),
  }


def encode(config: Config, params: Any, x: jax.Array) -> jax.Array:
  """Features, not negative, as those of the paper's networks."""
  return jax.nn.relu(nets.MLP((config.hidden, config.features)).apply(params["encoder"], x))


def load_split(seed: int, config: Config) -> Data:
  """Images of each class, half for training, half for testing, classes in random order."""
  table, rng = datasets.load("digits"), np.random.default_rng(seed)
  x, y = np.asarray(table["x"], np.float32) / 16, np.asarray(table["y"])
  chosen = [rng.permutation(np.nonzero(y == c)[0]) for c in rng.permutation(CLASSES)]
  halves = [np.stack([x[rows[part]] for rows in chosen]) for part in (
    slice(0, SIDE), slice(SIDE, 2 * SIDE)
  )]  # fmt: skip
  orders = np.stack(
    [
      [rng.permutation(SIDE)[: max(config.shots)] for _ in range(CLASSES - config.base)]
      for _ in range(config.draws)
    ]
  )
  rows = batches(config.base * SIDE, config.batch, config.epochs, seed)
  return Data(
    *map(jnp.asarray, halves), initial(config, seed), jnp.asarray(rows), jnp.asarray(orders)
  )


def one_seed(data: Data, config: Config) -> dict[str, jax.Array]:
  """Trains the features, then answers by prototypes; axes (shots, weights, taus)."""
  base = config.base
  images = data.train[:base].reshape(-1, data.train.shape[-1])
  labels = jnp.repeat(jnp.arange(base), SIDE)

  def objective(params: Any, state: Any, rows: jax.Array) -> Any:
    found = encode(config, params, images[rows])
    logits = robustness.prototype_logits(found, params["head"], temperature=config.temperature)
    return jnp.mean(losses.cross_entropy_loss(logits, labels[rows])), state

  done = fit(
    objective, data.params, data.rows, optax.adam(config.learning_rate),
    evaluate=lambda params, state: jnp.zeros(()),
  )  # fmt: skip
  features = lambda x: encode(config, done.params, x.reshape(-1, x.shape[-1]))
  known = robustness.class_prototypes(features(data.train[:base]), labels, num_classes=base)
  fresh = features(data.train[base:]).reshape(CLASSES - base, SIDE, -1)
  test, truth = features(data.test), jnp.repeat(jnp.arange(CLASSES), SIDE)

  def answer(order: jax.Array, shots: jax.Array, weight: jax.Array, tau: jax.Array) -> dict:
    few = jnp.take_along_axis(
      fresh, order[..., None], axis=1
    )  # [new classes, most shots, features]
    names = jnp.repeat(jnp.arange(CLASSES - base), few.shape[1])
    seen = jnp.tile(jnp.arange(few.shape[1]) < shots, CLASSES - base)
    new = robustness.class_prototypes(
      few.reshape(-1, few.shape[-1]), names, num_classes=CLASSES - base, where=seen
    )
    new = robustness.calibrate_prototypes(new, known, temperature=tau, weight=weight)
    given = jnp.argmax(robustness.prototype_logits(test, jnp.concatenate([known, new])), axis=1)
    is_new, share = truth >= base, lambda event, where: jnp.mean(event, where=where)
    return {
      "base": share(given == truth, ~is_new),
      "new": share(given == truth, is_new),
      "all": jnp.mean(given == truth),
      "new taken for base": share(given < base, is_new),
      "base taken for new": share(given >= base, ~is_new),
    }

  each = jax.vmap(answer, (0, None, None, None))
  for axis in (3, 2, 1):
    each = jax.vmap(each, [None if i != axis else 0 for i in range(4)])
  grid = (jnp.asarray(v) for v in (config.shots, config.weights, config.taus))
  return jax.tree.map(lambda v: jnp.mean(v, axis=-1), each(data.shots, *grid))


def run(config: Config, progress: Progress) -> dict[str, Any]:
  """Accuracies by numbers of shots: without calibration, with the method's, with a warmer one."""
  data = stack([load_split(seed, config) for seed in config.seed_numbers()])
  program = jax.jit(sweeps.sweep(lambda seed: one_seed(seed, config)))
  found = jax.tree.map(np.asarray, progress.clock.call(program, data, name="all seeds"))
  half, zero = config.weights.index(0.5), config.weights.index(0.0)
  places = {NONE: (zero, 0), PUBLISHED: (half, config.taus.index(16.0))}
  places[WARMER] = (half, config.taus.index(4.0))
  methods = {
    name: {str(k): {key: v[:, i, a, t] for key, v in found.items()}
           for i, k in enumerate(config.shots)}
    for name, (a, t) in places.items()
  }  # fmt: skip
  one = config.shots.index(1)
  maps = {key: found[key][:, one].mean(0) for key in ("new", "all")}
  return {"methods": methods, "one shot": maps}


def _side(metrics: dict[str, Any], name: str, shots: int, key: str) -> Side:
  return Side(name, metrics["methods"][name][str(shots)][key])


def claims(metrics: dict[str, Any], config: Config) -> list[Claim]:
  """Where errors lie, what calibration gains with one and two shots, and that five need none."""
  side = lambda *args: _side(metrics, *args)
  share = side(NONE, 1, "new taken for base").values, side(NONE, 1, "base taken for new").values
  made = [
    Claim(
      "bias", "Without calibration new classes are taken for base classes more often than the "
      "other way round, by .1 of the images.", "paper", "share of test images, one shot",
      Side("new taken for base", share[0]), Side("base taken for new", share[1]), margin=0.1,
    )
  ]  # fmt: skip
  for key, words in (("new", "the new classes"), ("all", "all classes")):
    for name in (PUBLISHED, WARMER):
      for shots in (1, 2) if name == PUBLISHED and key == "new" else (1,):
        label = f"{key}_{shots}" + ("" if name == PUBLISHED else "_warmer")
        text = f"With {shots} example(s) of a new class, {name}, is more accurate on {words}."
        metric = f"test accuracy, {words}, {shots} shot(s)"
        ours, base = side(name, shots, key), side(NONE, shots, key)
        made.append(Claim(label, text, "paper", metric, ours, base))
  text = "With five examples of a new class calibration changes its accuracy by at most .03."
  metric = "test accuracy, the new classes, 5 shots"
  sides = side(PUBLISHED, 5, "new"), side(NONE, 5, "new")
  return [*made, Claim("new_5", text, "control", metric, *sides, margin=0.03)]


def table(metrics: dict[str, Any], config: Config) -> list[Row]:
  """Each calibration beside none, on base, new and all classes."""
  return [
    Row(
      f"test accuracy, digits, {key} classes, {k} shot(s)", _side(metrics, name, k, key),
      _side(metrics, NONE, k, key),
    )
    for k in config.shots
    for key in ("base", "new", "all")
    for name in (PUBLISHED, WARMER)
  ]  # fmt: skip


def figure(record: dict[str, Any]) -> Any:
  """Accuracy by shots, and over weight and temperature of the calibration with one shot."""
  metrics, settings = record["metrics"], record["settings"]
  fig, axes = new_figure(1, 4)
  for ax, key in zip(axes[:2], ("new", "all"), strict=True):
    groups = {
      name: {f"{k} shot(s)": v[str(k)][key] for k in settings["shots"]}
      for name, v in metrics["methods"].items()
    }
    _figures.dots(ax, groups, ylabel="test accuracy", title=f"{key} classes")
  for ax, key in zip(axes[2:], ("new", "all"), strict=True):
    image = _figures.heat_map(
      ax, metrics["one shot"][key], settings["taus"], settings["weights"],
      xlabel="temperature tau", ylabel="weight a", title=f"One shot, {key} classes",
    )  # fmt: skip
    fig.colorbar(image, ax=ax, label="test accuracy")
  return fig
