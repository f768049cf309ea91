"""Doubly robust adversarial training: worst-case example weights on imbalanced classes."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import datasets
from experiments._earlier import Claim, Outcome, Row
from experiments._protocol import Paper, Progress, new_figure
from experiments._training import batches, stack, train_all
from jaxopt_robust import losses, robustness, sweeps

PAPER = Paper(
  title="Doubly robust instance-reweighted adversarial training",
  authors="Sow, Lin, Wang and Liang",
  year=2024,
  claim="Adversarial training with worst-case (KL) example weights raises the robust accuracy of "
  "the most vulnerable classes over uniform weights on imbalanced data, at no loss of robust "
  "accuracy on average. At this size the weights account for the gain, since the implicit "
  "derivative of the attack is small; and weights by margin, which the paper reports behind, are "
  "ahead.",
  section="Experiments on imbalanced CIFAR-10 and SVHN (RA-Tail-30)",
  url="https://arxiv.org/abs/2308.00311",
)

AT, KL, MAIL, BALANCED = (
  "PGD-AT",
  "PGD-AT, KL weights",
  "PGD-AT, margin weights",
  "PGD-AT, class weights",
)
WITHOUT = "DONE 1 without implicit term"


@dataclasses.dataclass(frozen=True)
class Config:
  """Settings.

  Attributes:
    seeds: number of random splits, initial weights and attacks.
    data: "digits" or "mnist5k".
    majority: training images of each of the classes 0 to 4.
    minority: training images of each of the classes 5 to 9; what is left is the test set, in which
      all averages are over classes.
    hidden: widths of the hidden layers.
    radius: largest change of a grey value in [0, 1].
    temperatures: the r of DONE; 1000 is as good as uniform weights.
    rate: weight of the new batch in the moving average.
    barrier: weight of the log barrier.
    stepsize: of the barrier attack.
    margin_slope: of the margin weights, sigmoid(slope (bias - margin of probabilities)).
    margin_bias: see there.
    epochs: passes over the training set.
    batch: batch size.
    learning_rate: initial step size, decayed by a cosine.
    weight_decay: coefficient of the l2 term in the gradient.
    clip: global norm to which gradients are clipped.
    train_steps: attack steps in training.
    test_steps: attack steps in the evaluation, each a tenth of the radius.
  """

  seeds: int = 6
  data: str = "digits"
  majority: int = 125
  minority: int = 26
  hidden: tuple[int, ...] = (64,)
  radius: float = 0.1
  temperatures: tuple[float, ...] = (0.5, 1.0, 2.0, 1000.0)
  rate: float = 0.9
  barrier: float = 1e-3
  stepsize: float = 0.5
  margin_slope: float = 10.0
  margin_bias: float = 0.0
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
    if 1.0 not in self.temperatures:
      raise ValueError(f"temperatures must hold 1; got {self.temperatures}.")


SIZES = {
  "toy": Config(
    seeds=1, majority=40, minority=10, hidden=(16,), temperatures=(1.0,), epochs=2, test_steps=5
  ),
  "desk": Config(),
  "large": Config(
    seeds=10, data="mnist5k", majority=400, minority=80, hidden=(256, 256), epochs=100,
    temperatures=(0.25, 0.5, 1.0, 2.0, 4.0, 1000.0), batch=64, test_steps=100,
  ),
}  # fmt: skip


class Data(NamedTuple):
  """One split, and the initial weights, minibatches and key of its training runs."""

  params: Any
  x_train: jax.Array
  y_train: jax.Array
  x_test: jax.Array
  y_test: jax.Array
  batches: jax.Array
  key: jax.Array


class Setting(NamedTuple):
  """One training run.

  Attributes:
    temperature: of the KL weights; infinity for none.
    by_margin: 1 for weights by the margin of the probabilities.
    by_class: 1 for weights inverse to the class's frequency.
  """

  temperature: jax.Array
  by_margin: jax.Array
  by_class: jax.Array


class Result(NamedTuple):
  """Accuracy of each class, clean and attacked; mean weight of its training images."""

  clean: jax.Array
  robust: jax.Array
  tail: jax.Array
  weight: jax.Array


def setting(temperature: float = np.inf, *, by_margin: float = 0.0, by_class: float = 0.0):
  """A training run."""
  return Setting(*(np.float32(v) for v in (temperature, by_margin, by_class)))


def make_settings(config: Config) -> dict[str, dict[str, Setting]]:
  """Family -> name of a run -> its setting. One program serves a family."""
  return {
    "pgd": {
      AT: setting(),
      KL: setting(1.0),
      MAIL: setting(by_margin=1.0),
      BALANCED: setting(by_class=1.0),
    },
    "diagonal": {f"DONE {r:g}": setting(r) for r in config.temperatures},
    "none": {WITHOUT: setting(1.0)},
  }


def load_split(seed: int, config: Config) -> Data:
  """Step imbalance in the training set; every seed has the same numbers of each class."""
  table = datasets.load(config.data)
  x, y = np.asarray(table["x"], np.float32), np.asarray(table["y"])
  x = x / 16 if config.data == "digits" else x  # grey values to [0, 1]
  rng = np.random.default_rng(seed)
  train, test = [], []
  for label in range(10):
    rows = rng.permutation(np.nonzero(y == label)[0])
    size = config.majority if label < 5 else config.minority
    train.append(rows[:size])
    test.append(rows[size:])
  train, test = np.concatenate(train), np.concatenate(test)
  key = jax.random.key(seed)
  rows = batches(len(train), config.batch, config.epochs, seed)
  parts = (x[train], y[train].astype(np.int32), x[test], y[test].astype(np.int32), rows)
  params = _init(make_model(config), key, x[:1])
  return Data(params, *(jnp.asarray(part) for part in parts), key)


def make_model(config: Config) -> Any:
  """A perceptron with ReLU layers."""
  from jaxopt_robust import nets

  return nets.MLP((*config.hidden, 10))


@functools.partial(jax.jit, static_argnums=0)  # one program for all seeds
def _init(model: Any, key: jax.Array, x: jax.Array) -> Any:
  return model.init(key, x)


def pgd_weights(
  scores: jax.Array, labels: jax.Array, run: Setting, class_weight: jax.Array, config: Config
) -> jax.Array:
  """Weights of a batch of attacked images, which sum to one."""
  values = losses.cross_entropy_loss(scores, labels)
  by_loss = losses.kl_dro_weights(values, run.temperature)
  probability = jax.nn.softmax(scores)
  is_label = jax.nn.one_hot(labels, 10, dtype=bool)
  margin = jnp.sum(jnp.where(is_label, probability, 0), axis=1) - jnp.max(
    jnp.where(is_label, 0, probability), axis=1
  )
  by_margin = jax.nn.sigmoid(config.margin_slope * (config.margin_bias - margin))
  weights = jnp.where(run.by_margin > 0, by_margin, by_loss)
  weights = jnp.where(run.by_class > 0, class_weight[labels], weights)
  return jax.lax.stop_gradient(weights / jnp.sum(weights))


def make_trainer(family: str, config: Config) -> Callable[[Setting, Data], Any]:
  """``train(setting, data)``: one run; runs of one split see the same batches."""
  model = make_model(config)
  attack = functools.partial(
    robustness.pgd_attack,
    radius=config.radius,
    stepsize=config.radius / 4,
    num_steps=config.train_steps,
    bounds=(0.0, 1.0),
  )

  def train(run: Setting, data: Data) -> Any:
    total = data.batches.shape[0] * data.batches.shape[1]
    optimizer = optax.chain(
      optax.clip_by_global_norm(config.clip),
      optax.add_decayed_weights(config.weight_decay),
      optax.sgd(optax.cosine_decay_schedule(config.learning_rate, total), momentum=0.9),
    )
    count = jnp.sum(jax.nn.one_hot(data.y_train, 10), axis=0)

    def pgd_gradient(params: Any, state: Any, x: jax.Array, y: jax.Array, key: jax.Array) -> Any:
      entropy = lambda point: losses.cross_entropy_loss(model.apply(params, point), y)
      attacked = attack(entropy, x, key)

      def objective(params: Any) -> jax.Array:
        scores = model.apply(params, attacked)
        weights = pgd_weights(scores, y, run, 1 / count, config)
        return jnp.sum(weights * losses.cross_entropy_loss(scores, y))

      return jax.grad(objective)(params), state

    def done_gradient(params: Any, state: Any, x: jax.Array, y: jax.Array, key: jax.Array) -> Any:
      fn = robustness.done_value_and_grad(
        model.apply,
        radius=config.radius,
        temperature=run.temperature,
        rate=config.rate,
        barrier=config.barrier,
        num_steps=config.train_steps,
        stepsize=config.stepsize,
        implicit=family,
      )
      _, grads, state = fn(params, state, x, y, key)
      return grads, state

    gradient = pgd_gradient if family == "pgd" else done_gradient

    def step(carry: Any, inputs: Any) -> tuple[Any, None]:
      params, opt_state, state = carry
      rows, number = inputs
      key = jax.random.fold_in(jax.random.fold_in(data.key, 1), number)
      grads, state = gradient(params, state, data.x_train[rows], data.y_train[rows], key)
      updates, opt_state = optimizer.update(grads, opt_state, params)
      return (optax.apply_updates(params, updates), opt_state, state), None

    carry = (data.params, optimizer.init(data.params), robustness.done_init())
    inputs = (data.batches.reshape(total, -1), jnp.arange(total))
    return jax.lax.scan(step, carry, inputs)[0][0]

  return train


def make_evaluator(config: Config) -> Callable[[Any, Data], Result]:
  """``evaluate((params, setting), data)``: accuracies on the test set, weights in training."""
  model = make_model(config)

  def class_means(values: jax.Array, labels: jax.Array) -> jax.Array:
    member = jax.nn.one_hot(labels, 10)
    return jnp.sum(values[:, None] * member, axis=0) / jnp.sum(member, axis=0)

  def evaluate(run: tuple[Any, Setting], data: Data) -> Result:
    params, kind = run

    def attacked(x: jax.Array, labels: jax.Array, stepsize: float, num_steps: int) -> jax.Array:
      entropy = lambda point: losses.cross_entropy_loss(model.apply(params, point), labels)
      options = {"radius": config.radius, "stepsize": stepsize, "bounds": (0.0, 1.0)}
      found = robustness.pgd_attack(entropy, x, data.key, num_steps=num_steps, **options)
      return model.apply(params, found)

    right = jnp.argmax(model.apply(params, data.x_test), axis=1) == data.y_test
    scores = attacked(data.x_test, data.y_test, config.radius / 10, config.test_steps)
    robust = right & (jnp.argmax(scores, axis=1) == data.y_test)
    scores = attacked(data.x_train, data.y_train, config.radius / 4, config.train_steps)
    count = jnp.sum(jax.nn.one_hot(data.y_train, 10), axis=0)
    weights = len(data.y_train) * pgd_weights(scores, data.y_train, kind, 1 / count, config)
    return Result(
      class_means(right, data.y_test),
      class_means(robust, data.y_test),
      robustness.tail_accuracy(robust, data.y_test, num_classes=10),
      class_means(weights, data.y_train),
    )

  return evaluate


def run(config: Config, progress: Progress) -> Outcome:
  """Trains the networks a family at a time, then attacks them all."""
  data = stack([load_split(seed, config) for seed in range(config.seeds)])
  families = make_settings(config)
  trained = []
  for family, settings in progress.track(families.items(), "families", total=len(families)):
    runs = stack(list(settings.values()))
    trained.append(train_all(progress, make_trainer(family, config), runs, data, name=family))
  progress.message("Attacking the trained networks.")
  params = jax.tree.map(lambda *parts: np.concatenate(parts, axis=1), *trained)
  kinds = stack([s for settings in families.values() for s in settings.values()])
  result = evaluate_all(progress, make_evaluator(config), params, kinds, data)
  metrics = {}
  names = [name for settings in families.values() for name in settings]
  for number, name in enumerate(names):
    metrics[name] = {
      "clean": result.clean[number].mean(-1),
      "robust": result.robust[number].mean(-1),
      "tail": result.tail[number],
      "robust_by_class": result.robust[number],
      "weight_by_class": result.weight[number],
    }
  return Outcome(metrics, _table(metrics, config), _claims(metrics, config))


def evaluate_all(
  progress: Progress, evaluate: Callable[..., Result], params: Any, kinds: Setting, data: Data
) -> Result:
  """Every network on the images of its seed, (settings, seeds, ...)."""
  by_setting = (jax.tree.map(lambda p: np.moveaxis(p, 1, 0), params), kinds)

  def all_seeds(run: tuple[Any, Setting], data: Data) -> Result:
    params, kind = run
    return jax.vmap(lambda p, d: evaluate((p, kind), d))(params, data)

  # One setting at a time on a device: a batch of test images fills the caches.
  over_settings = sweeps.sweep(all_seeds, lanes=1)
  program = jax.jit(lambda runs, data: over_settings(runs, shared=(data,)))
  return Result(*map(np.asarray, progress.clock.call(program, by_setting, data, name="attacks")))


def _mean(metrics: dict[str, Any], name: str, key: str = "tail") -> float:
  return float(np.mean(metrics[name][key]))


def _table(metrics: dict[str, Any], config: Config) -> list[Row]:
  words = {
    "tail": "robust accuracy of the worst 30 % of the classes (RA-Tail-30)",
    "robust": "robust accuracy (RA-PGD)",
    "clean": "accuracy (SA)",
  }
  return [
    Row(
      method=name,
      metric=f"{words[key]}, {config.data}, mean over classes",
      ours=_mean(metrics, name, key),
      baseline=_mean(metrics, AT, key),
      baseline_name=AT,
      spread=float(np.std(metrics[name][key])),
      note="The paper's numbers are for ResNet-18 on other data.",
    )
    for key in words
    for name in metrics
    if name != AT
  ]


def _claims(metrics: dict[str, Any], config: Config) -> list[Claim]:
  numbers = lambda key, *names: {name: _mean(metrics, name, key) for name in names}
  gain = _mean(metrics, "DONE 1") - _mean(metrics, AT)
  claims = [
    Claim(
      "DONE (r = 1) has at least 0.02 more RA-Tail-30 than PGD adversarial training.",
      gain >= 0.02,
      numbers("tail", "DONE 1", AT),
    ),
    Claim(
      "DONE (r = 1) has at most 0.005 less robust accuracy than PGD adversarial training.",
      _mean(metrics, "DONE 1", "robust") >= _mean(metrics, AT, "robust") - 0.005,
      numbers("robust", "DONE 1", AT),
    ),
    Claim(
      "Most of the gain in RA-Tail-30 is due to the weights: DONE (r = 1) without the implicit "
      "term keeps at least half of it.",
      _mean(metrics, WITHOUT) - _mean(metrics, AT) >= gain / 2,
      numbers("tail", "DONE 1", WITHOUT, AT),
    ),
  ]
  if 1000.0 in config.temperatures:
    claims.append(
      Claim(
        "DONE with nearly uniform weights (r = 1000) is within 0.02 of PGD adversarial training in "
        "RA-Tail-30 and in robust accuracy.",
        all(
          abs(_mean(metrics, "DONE 1000", k) - _mean(metrics, AT, k)) <= 0.02
          for k in ("tail", "robust")
        ),
        {k: _mean(metrics, "DONE 1000", k) - _mean(metrics, AT, k) for k in ("tail", "robust")},
      )
    )
  names = (MAIL, BALANCED)
  best = max(_mean(metrics, f"DONE {r:g}") for r in config.temperatures)
  claims.append(
    Claim(
      "Weights by the margin, and by the known frequency of the class, have more RA-Tail-30 than "
      "DONE at its best temperature (our finding; the paper reports DONE ahead of margin weights).",
      all(_mean(metrics, name) > best for name in names),
      {name: _mean(metrics, name) for name in names} | {"best of DONE": best},
    )
  )
  weight = np.mean(metrics["DONE 1"]["weight_by_class"], axis=0)
  claims.append(
    Claim(
      "After training the worst-case weights (r = 1) put more on an image of a rare class, on "
      "average, than on one of a frequent class.",
      bool(weight[5:].mean() > weight[:5].mean()),
      {"rare": float(weight[5:].mean()), "frequent": float(weight[:5].mean())},
    )
  )
  return claims


def figure(record: dict[str, Any]) -> Any:
  """Robust accuracy by class, weights by class, and the tail against the temperature."""
  metrics, temperatures = record["metrics"], record["settings"]["temperatures"]
  fig, axes = new_figure(1, 3, width=4.9, height=3.6)
  classes = np.arange(10)
  for offset, name in zip((-0.2, 0.2), (AT, "DONE 1"), strict=True):
    values = np.array(metrics[name]["robust_by_class"])
    axes[0].bar(classes + offset, values.mean(0), 0.4, yerr=values.std(0), capsize=2, label=name)
    axes[0].axhline(_mean(metrics, name), color=f"C{int(offset > 0)}", linestyle="--", linewidth=1)
  axes[0].set(
    xlabel="class (5 to 9 are rare in training)",
    ylabel="robust accuracy",
    title="By class; dashed: worst three",
    ylim=(0, 1.25),
  )
  axes[0].legend(ncol=2, loc="upper center")
  shown = (MAIL, BALANCED, *(f"DONE {r:g}" for r in temperatures))
  for marker, name in zip("os^DvP*X", shown, strict=False):
    weight = np.mean(metrics[name]["weight_by_class"], axis=0)
    axes[1].plot(classes, weight, marker + "-", label=name)
  axes[1].set(
    xlabel="class", ylabel="mean weight of a training image",
    title="Weights after training (uniform: 1)", yscale="symlog",
  )  # fmt: skip
  axes[1].set_ylim(0, 20)
  axes[1].set_yticks([0, 1, 2, 5, 10], ["0", "1", "2", "5", "10"])
  axes[1].legend(fontsize="x-small", loc="upper left")
  tails = np.array([metrics[f"DONE {r:g}"]["tail"] for r in temperatures])
  error = tails.std(1) / np.sqrt(tails.shape[1])
  axes[2].errorbar(temperatures, tails.mean(1), error, fmt="o-", capsize=3, label="DONE")
  for i, name in enumerate((AT, KL, WITHOUT, MAIL, BALANCED)):
    axes[2].axhline(_mean(metrics, name), color=f"C{i + 1}", linestyle="--", label=name)
  axes[2].set(
    xlabel="temperature r", ylabel="RA-Tail-30", xscale="log",
    title="Worst three classes (bars: s.e.)",
  )  # fmt: skip
  for ax in axes[:2]:
    ax.set_xticks(classes)
  axes[2].legend(fontsize="x-small", loc="center left", bbox_to_anchor=(1, 0.5))
  return fig
