"""Doubly robust adversarial training: worst-case example weights on imbalanced classes."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import _figures, _statistics, datasets
from experiments._claims import Claim, Side
from experiments._protocol import Paper, Progress, Row, Settings, Size, new_figure
from experiments._training import batches, schedule, stack, train_all
from jaxopt_robust import losses, nets, robustness

PAPER = Paper(
  title="Doubly robust instance-reweighted adversarial training",
  authors="Sow, Lin, Wang and Liang",
  year=2024,
  claim="Adversarial training with worst-case (KL) example weights and an attack that is "
  "differentiated through (DONE) raises the robust accuracy of the most vulnerable classes on "
  "imbalanced data, over uniform weights and over heuristic ones, at no loss of robust accuracy.",
  section="Experiments on imbalanced CIFAR-10 and SVHN (RA-Tail-30)",
  url="https://arxiv.org/abs/2308.00311",
)

# name -> (program: how the attack is made and differentiated, weights of the examples)
METHODS: dict[str, tuple[str, str]] = {
  "PGD": ("pgd", "uniform"),
  "PGD, KL weights": ("pgd", "KL"),
  "PGD, margin weights": ("pgd", "margin"),
  "PGD, class weights": ("pgd", "class"),
  "barrier": ("none", "uniform"),
  "barrier, KL weights": ("none", "KL"),
  "barrier, implicit term": ("diagonal", "uniform"),
  "DONE": ("diagonal", "KL"),
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

  The learning rate was chosen on development seeds from .02, .05, .1 and .2, by RA-Tail-30 on
  validation images; it was the best for PGD and for DONE.

  Attributes:
    data: "digits" or "mnist5k".
    methods: which of ``METHODS`` are run.
    majority: training images of each of the classes 0 to 4.
    minority: training images of each of the classes 5 to 9.
    validation: validation images of each class; what is left is the test set. All averages are over
      classes.
    hidden: widths of the hidden layers.
    radius: largest change of a grey value in [0, 1].
    temperatures: the r of KL weights. This and the two grids that follow have one size, and each
      method has its best value by RA-Tail-30 on validation images.
    slopes: of the margin weights, sigmoid(-slope margin) with the margin of probabilities.
    powers: of the class weights, frequency of the class to the minus power.
    rate: weight of the new batch in the moving average.
    barrier: weight of the log barrier.
    stepsize: of the barrier attack.
    epochs: passes over the training set.
    batch: batch size.
    learning_rate: initial step size, decayed by a cosine.
    weight_decay: coefficient of the l2 term in the gradient.
    clip: global norm to which gradients are clipped.
    train_steps: attack steps in training.
    test_steps: attack steps in the evaluation, each a tenth of the radius.
  """

  data: str = "digits"
  methods: tuple[str, ...] = tuple(METHODS)
  majority: int = 110
  minority: int = 22
  validation: int = 24
  hidden: tuple[int, ...] = (64,)
  radius: float = 0.1
  temperatures: tuple[float, ...] = (0.25, 0.5, 1.0, 2.0, 4.0)
  slopes: tuple[float, ...] = (1.0, 3.0, 10.0, 30.0, 100.0)
  powers: tuple[float, ...] = (0.25, 0.5, 1.0, 1.5, 2.0)
  rate: float = 0.9
  barrier: float = 1e-3
  stepsize: float = 0.5
  epochs: int = 60
  batch: int = 32
  learning_rate: float = 0.05
  weight_decay: float = 5e-4
  clip: float = 5.0
  train_steps: int = 10
  test_steps: int = 40

  def __post_init__(self) -> None:
    if self.data not in ("digits", "mnist5k"):
      raise ValueError(f"data must be 'digits' or 'mnist5k'; got {self.data!r}.")
    needed = {"PGD", "PGD, margin weights", *(name for pair in SHARES.values() for name in pair)}
    if not needed <= set(self.methods) <= set(METHODS):
      raise ValueError(f"methods must hold {needed}, from {list(METHODS)}; got {self.methods}.")


SIZES = {
  "toy": Size(
    Config(
      seeds=2, methods=tuple(name for name in METHODS if "class" not in name), majority=20,
      minority=8, validation=10, hidden=(16,), temperatures=(1.0,), slopes=(10.0,), epochs=1,
      train_steps=2, test_steps=2,
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
  x, y = np.asarray(table["x"], np.float32), np.asarray(table["y"], np.int32)
  x = x / x.max()
  rng, parts = np.random.default_rng(seed), []
  for label in range(10):
    rows = rng.permutation(np.nonzero(y == label)[0])
    size = config.majority if label < 5 else config.minority
    parts.append(np.split(rows, [size, size + config.validation]))
  split = [np.concatenate(part) for part in zip(*parts, strict=True)]
  names, key = ("train", "val", "test"), jax.random.key(seed)
  arrays = {n: (jnp.asarray(x[r]), jnp.asarray(y[r])) for n, r in zip(names, split, strict=True)}
  rows = jnp.asarray(batches(len(split[0]), config.batch, config.epochs, seed))
  params = _init(make_model(config), key, x[:1])
  parts_of = lambda i: {name: pair[i] for name, pair in arrays.items()}
  return Data(params, parts_of(0), parts_of(1), rows, key)


def make_model(config: Config) -> Any:
  """A perceptron with ReLU layers."""
  return nets.MLP((*config.hidden, 10))


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


def make_trainer(family: str, config: Config) -> Callable[..., Any]:
  """``train(setting, data) -> accuracies``: one run; runs of one split see the same batches."""
  model = make_model(config)
  pgd = functools.partial(robustness.pgd_attack, radius=config.radius, bounds=(0.0, 1.0))

  def attack(params: Any, x: jax.Array, y: jax.Array, key: jax.Array, step: float, num: int) -> Any:
    entropy = lambda point: losses.cross_entropy_loss(model.apply(params, point), y)
    return pgd(entropy, x, key, stepsize=step, num_steps=num)

  def train(setting: dict[str, jax.Array], data: Data) -> dict[str, jax.Array]:
    total = data.rows.shape[0] * data.rows.shape[1]
    factor = schedule("cosine", total)
    optimizer = optax.chain(
      optax.clip_by_global_norm(config.clip), optax.add_decayed_weights(config.weight_decay),
      optax.sgd(lambda count: config.learning_rate * factor(count), momentum=0.9),
    )  # fmt: skip
    x_train, y_train = data.x["train"], data.y["train"]
    count = jnp.sum(jax.nn.one_hot(y_train, 10), axis=0)

    def pgd_gradient(params: Any, state: Any, x: jax.Array, y: jax.Array, key: jax.Array) -> Any:
      attacked = attack(params, x, y, key, config.radius / 4, config.train_steps)

      def objective(params: Any) -> jax.Array:
        scores = model.apply(params, attacked)
        weights = pgd_weights(scores, y, setting, count)
        return jnp.sum(weights * losses.cross_entropy_loss(scores, y))

      return jax.grad(objective)(params), state

    def done_gradient(params: Any, state: Any, x: jax.Array, y: jax.Array, key: jax.Array) -> Any:
      fn = robustness.done_value_and_grad(
        model.apply, radius=config.radius, temperature=setting["strength"], rate=config.rate,
        barrier=config.barrier, num_steps=config.train_steps, stepsize=config.stepsize,
        implicit=family,
      )  # fmt: skip
      _, grads, state = fn(params, state, x, y, key)
      return grads, state

    gradient = pgd_gradient if family == "pgd" else done_gradient

    def step(carry: Any, inputs: Any) -> tuple[Any, None]:
      (params, opt_state, state), (rows, number) = carry, inputs
      key = jax.random.fold_in(jax.random.fold_in(data.key, 1), number)
      grads, state = gradient(params, state, x_train[rows], y_train[rows], key)
      updates, opt_state = optimizer.update(grads, opt_state, params)
      return (optax.apply_updates(params, updates), opt_state, state), None

    carry = (data.params, optimizer.init(data.params), robustness.done_init())
    inputs = (data.rows.reshape(total, -1), jnp.arange(total))
    params = jax.lax.scan(step, carry, inputs)[0][0]
    return evaluate(params, setting, data, count)

  def evaluate(params: Any, setting: Any, data: Data, count: jax.Array) -> dict[str, jax.Array]:
    # Validation and test images are attacked together, in one loop.
    x, y = (jnp.concatenate([part["val"], part["test"]]) for part in (data.x, data.y))
    attacked = attack(params, x, y, data.key, config.radius / 10, config.test_steps)
    right = jnp.argmax(model.apply(params, x), axis=1) == y
    robust = right & (jnp.argmax(model.apply(params, attacked), axis=1) == y)
    is_test = jnp.arange(len(y)) >= len(data.y["val"])
    tail = functools.partial(robustness.tail_accuracy, robust, y, num_classes=10)
    attacked = attack(
      params, data.x["train"], data.y["train"], data.key, config.radius / 4, config.train_steps
    )
    scores = model.apply(params, attacked)
    weights = len(scores) * pgd_weights(scores, data.y["train"], setting, count)

    def by_class(values: jax.Array, labels: jax.Array, where: jax.Array) -> jax.Array:
      member = jax.nn.one_hot(labels, 10) * where[:, None]
      return values @ member / jnp.sum(member, axis=0)

    clean, kept = (by_class(v.astype(jnp.float32), y, is_test) for v in (right, robust))
    weight = by_class(weights, data.y["train"], jnp.ones(len(weights)))
    return {
      "validation": tail(where=~is_test), "tail": tail(where=is_test), "robust": jnp.mean(kept),
      "clean": jnp.mean(clean), "robust_by_class": kept, "weight_by_class": weight,
    }  # fmt: skip

  return train


def run(config: Config, progress: Progress) -> dict[str, Any]:
  """Trains and attacks the networks a program at a time; chooses the strength of the weights."""
  data = stack([load_split(seed, config) for seed in config.seed_numbers()])
  grids = {
    "uniform": (NEARLY_UNIFORM,), "KL": config.temperatures, "margin": config.slopes,
    "class": config.powers,
  }  # fmt: skip
  metrics, choices = {}, []
  families = dict.fromkeys(METHODS[name][0] for name in config.methods)
  for family in progress.track(families, "programs", total=len(families)):
    names = [name for name in config.methods if METHODS[name][0] == family]
    runs = [(name, v) for name in names for v in grids[METHODS[name][1]]]
    setting = {
      "strength": np.float32([v for _, v in runs]),
      "weights": np.int32([WEIGHTS.index(METHODS[name][1]) for name, _ in runs]),
    }
    found = train_all(progress, make_trainer(family, config), setting, data, name=family)
    for name in names:
      columns = [i for i, (other, _) in enumerate(runs) if other == name]
      values, scores = grids[METHODS[name][1]], found["validation"][:, columns].mean(0)
      choice = _statistics.choose(f"strength of {name}", values, scores, better="higher")
      choices += [choice] if len(values) > 1 else []
      metrics[name] = {k: v[:, columns[values.index(choice.chosen)]] for k, v in found.items()}
  return {"methods": metrics, "choices": choices}


def claims(metrics: dict[str, Any], config: Config) -> list[Claim]:
  """The worst classes, robust accuracy, what the weights add, and where they lie."""
  found = metrics["methods"]
  side = lambda name, key="tail": Side(name, found[name][key])
  tail, done, at = "RA-Tail-30, test", side("DONE"), side("PGD")
  text = "DONE has at least .02 more robust accuracy in the worst 30 % of the classes than PGD."
  made = [Claim("tail", text, "paper", tail, done, at, margin=0.02)]
  text = "DONE loses less than .005 of robust accuracy to PGD adversarial training."
  both = side("DONE", "robust"), side("PGD", "robust")
  made.append(Claim("robust", text, "paper", "RA-PGD, test", *both, margin=-0.005))
  text = "DONE has more robust accuracy in the worst classes than weights by the margin."
  made.append(Claim("margin_weights", text, "paper", tail, done, side("PGD, margin weights")))
  text = "With the same attack KL weights raise the robust accuracy of the worst classes."
  both = [side(name) for name in SHARES["weights"]]
  made.append(Claim("kl_weights", text, "paper", tail, *both))
  weight = np.asarray(found["DONE"]["weight_by_class"], float)
  text = (
    "After training the KL weights put more on an image of a rare class than of a frequent one."
  )
  both = Side("rare classes", weight[:, 5:].mean(1)), Side("frequent", weight[:, :5].mean(1))
  metric = "mean weight of a training image"
  made.append(Claim("rare_classes", text, "paper", metric, *both, scale="ratio"))
  return made


def table(metrics: dict[str, Any], config: Config) -> list[Row]:
  """The share of attack, weights and implicit term, then every method beside PGD."""
  words = {"tail": "RA-Tail-30", "robust": "RA-PGD", "clean": "accuracy (SA)"}
  pairs = {f"share of the {name}": pair for name, pair in SHARES.items()}
  others = [name for name in config.methods if name != "PGD"]
  side = lambda name, key: Side(name, metrics["methods"][name][key])
  rows = [
    Row(f"{text}, {config.data}, {share}", side(ours, key), side(base, key))
    for share, (ours, base) in pairs.items()
    for key, text in words.items()
  ]
  return rows + [
    Row(f"{text}, {config.data}, mean over classes", side(name, key), side("PGD", key))
    for key, text in words.items()
    for name in others
  ]


def figure(record: dict[str, Any]) -> Any:
  """Robust accuracy by class, weights by class, and the worst three classes by method."""
  metrics = record["metrics"]["methods"]
  fig, axes = new_figure(1, 3)
  for ax, key, names in (
    (axes[0], "robust_by_class", ("PGD", "DONE")),
    (axes[1], "weight_by_class", ("PGD, margin weights", "PGD, KL weights", "DONE")),
  ):
    groups = {n: dict(zip("0123456789", np.transpose(metrics[n][key]), strict=True)) for n in names}
    _figures.dots(ax, groups)
    ax.set_xlabel("class (5 to 9 are rare in training)")
  axes[0].set(ylabel="robust accuracy", title="By class")
  axes[1].set(
    ylabel="mean weight of a training image", title="Weights after training", yscale="log"
  )
  groups = {k: {name: m[k] for name, m in metrics.items()} for k in ("tail", "robust")}
  _figures.dots(axes[2], groups, ylabel="accuracy", title="Worst three classes, all classes")
  return fig
