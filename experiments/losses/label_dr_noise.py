"""Label-distributionally robust losses against noisy labels: accuracy on clean test labels."""

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
from jaxopt_robust import losses, problems

PAPER = Paper(
  title="Label distributionally robust losses for multi-class classification: consistency, "
  "robustness and adaptivity",
  authors="Zhu, Ying and Yang",
  year=2023,
  claim="With a large temperature the LDR-KL loss tolerates wrong labels, and ALDR-KL, which sets "
  "a temperature for each example, does so at least as well without losing accuracy on clean "
  "labels; wrongly labelled examples end with the higher temperatures.",
  section="Section 5, noisy-label experiments (ranks over seven data sets, thirteen other losses)",
  url="https://arxiv.org/abs/2112.14869",
)
DEMO = True

# name -> (family, hyperparameters that are data). One program serves a family.
LOSSES: dict[str, tuple[str, dict[str, float]]] = {
  "CE": ("power", {"q": 0.0}),
  "GCE 0.7": ("power", {"q": 0.7}),
  "MAE": ("power", {"q": 1.0}),
  "CS": ("hinge", {"margin": 1.0}),
  "LDR 1": ("ldr", {"temperature": 1.0}),
  "LDR 10": ("ldr", {"temperature": 10.0}),
  "ALDR 1": ("aldr", {"temperature": 1.0}),
  "ALDR 10": ("aldr", {"temperature": 10.0}),
  "JS 0.5": ("js", {"weight": 0.5}),
  "SCE 0.5": ("sce", {"balance": 0.5}),
  "RLL 1": ("rll", {"alpha": 1.0}),
  "NCE+RCE": ("nce_rce", {"alpha": 5.0, "beta": 5.0}),
  "NCE+AGCE": ("nce_agce", {"alpha": 5.0, "beta": 5.0}),
  "NCE+AUL": ("nce_aul", {"alpha": 5.0, "beta": 5.0}),
}
STATELESS: dict[str, Callable[..., jax.Array]] = {
  "power": losses.generalized_cross_entropy_loss,
  "hinge": losses.crammer_singer_loss,
  "ldr": losses.ldr_kl_loss,
  "js": losses.jensen_shannon_loss,
  "sce": losses.symmetric_cross_entropy_loss,
  "rll": losses.robust_log_loss,
  "nce_rce": losses.nce_rce_loss,
  "nce_agce": losses.nce_agce_loss,
  "nce_aul": losses.nce_aul_loss,
}
MAIN = (
  "CE", "CS", "MAE", "GCE 0.7", "NCE+AGCE", "LDR 1", "LDR 10", "ALDR 1", "ALDR 10",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Config:
  """Settings.

  Attributes:
    seeds: number of random splits, initial weights and noise draws.
    data: "digits" (1297 training images) or "letter" (16000 training rows).
    losses: which of ``LOSSES`` are compared.
    uniform: rates of uniform noise (a label is drawn anew from all classes).
    class_dependent: rates of class-dependent noise (a label becomes the next class).
    learning_rates: initial step sizes; each loss is given the best of them in each column. With
      0.1 and 0.01 the first was the better one in 23 of 24 columns of the first eight losses.
    epochs: passes over the training set; the step size falls to a tenth at 1/2 and again at 3/4.
    batch: batch size.
    weight_decay: coefficient of the l2 term in the gradient.
    alpha: ALDR-KL's alpha.
    margin: margin of the LDR losses.
  """

  seeds: int = 6
  data: str = "digits"
  losses: tuple[str, ...] = MAIN
  uniform: tuple[float, ...] = (0.6,)
  class_dependent: tuple[float, ...] = (0.3,)
  learning_rates: tuple[float, ...] = (0.1,)
  epochs: int = 100
  batch: int = 64
  weight_decay: float = 5e-3
  alpha: float = 2.0
  margin: float = 0.1

  def __post_init__(self) -> None:
    if self.data not in ("digits", "letter"):
      raise ValueError(f"data must be 'digits' or 'letter'; got {self.data!r}.")
    unknown = set(self.losses) - set(LOSSES)
    if unknown or not {"CE", "ALDR 10"} <= set(self.losses):
      raise ValueError(
        f"losses must hold 'CE' and 'ALDR 10' and be among {', '.join(LOSSES)}; got {self.losses}."
      )
    if not self.uniform or not self.class_dependent or not self.learning_rates:
      raise ValueError("uniform, class_dependent and learning_rates must not be empty.")


SIZES = {
  "toy": Config(seeds=1, losses=("CE", "ALDR 10"), epochs=4),
  "desk": Config(),
  "large": Config(
    seeds=5,
    data="letter",
    losses=tuple(LOSSES),
    uniform=(0.3, 0.6, 0.9),
    class_dependent=(0.1, 0.3, 0.5),
    learning_rates=(0.1, 0.01, 0.001),
  ),
}


class Data(NamedTuple):
  """One split, its noisy labels (one row a noise setting), initial weights and minibatches."""

  params: Any
  x_train: jax.Array
  y_train: jax.Array
  noisy: jax.Array
  x_test: jax.Array
  y_test: jax.Array
  batches: jax.Array


class Setting(NamedTuple):
  """One training run: which labels, which step size, and the loss's hyperparameters."""

  noise: jax.Array
  learning_rate: jax.Array
  hyper: dict[str, jax.Array]


class Result(NamedTuple):
  """Test accuracy after each epoch; for ALDR the final temperatures, else an empty array."""

  accuracy: jax.Array
  temperature: jax.Array


def noise_names(config: Config) -> list[str]:
  """Columns of the table."""
  return [
    "clean",
    *(f"uniform {rate:g}" for rate in config.uniform),
    *(f"class-dependent {rate:g}" for rate in config.class_dependent),
  ]


def load_split(seed: int, config: Config) -> Data:
  """Features and labels; the noise touches the training labels only."""
  table = datasets.load(config.data)
  x, y = np.asarray(table["x"]), np.asarray(table["y"])
  test_size = 500 if config.data == "digits" else 4000
  train, test = datasets.split(len(x), (1 - test_size / len(x), test_size / len(x)), seed)
  if config.data == "digits":
    x_train, x_test = x[train] / 16, x[test] / 16  # grey values 0 to 16
  else:
    x_train, x_test = datasets.standardise(x[train], x[test])
  init_key, noise_key = jax.random.split(jax.random.key(seed))
  labels, classes = jnp.asarray(y[train], jnp.int32), int(y.max()) + 1
  makers = [(problems.make_uniform_label_noise, rate) for rate in config.uniform]
  makers += [(problems.make_class_dependent_label_noise, rate) for rate in config.class_dependent]
  noisy = [labels]
  for number, (make, rate) in enumerate(makers):
    made = make(jax.random.fold_in(noise_key, number), labels, num_classes=classes, rate=rate)
    noisy.append(made.labels)
  return Data(
    _init(make_model(x.shape[1], classes), init_key, np.asarray(x_train[:1], np.float32)),
    jnp.asarray(x_train, jnp.float32),
    labels,
    jnp.stack(noisy),
    jnp.asarray(x_test, jnp.float32),
    jnp.asarray(y[test], jnp.int32),
    jnp.asarray(batches(len(train), config.batch, config.epochs, seed)),
  )


def make_model(num_features: int, num_classes: int) -> Any:
  """Two tanh layers with Xavier normal weights; the paper has them as narrow as the classes."""
  from flax import linen

  from jaxopt_robust import nets

  width = min(num_features, 64)
  return nets.MLP((width, width, num_classes), jnp.tanh, linen.initializers.glorot_normal())


@functools.partial(jax.jit, static_argnums=0)  # one program for all seeds and losses
def _init(model: Any, key: jax.Array, x: jax.Array) -> Any:
  return model.init(key, x)


def make_trainer(family: str, config: Config, num_classes: int) -> Callable[..., Result]:
  """``train(setting, data)``: one run; runs of one split see the same batches."""

  def train(setting: Setting, data: Data) -> Result:
    num, width = data.x_train.shape
    model = make_model(width, num_classes)
    steps = num // config.batch
    labels = data.noisy[setting.noise]
    schedule = optax.piecewise_constant_schedule(
      1.0, {steps * (config.epochs // 2): 0.1, steps * (3 * config.epochs // 4): 0.1}
    )
    optimizer = optax.chain(
      optax.add_decayed_weights(config.weight_decay),
      optax.trace(decay=0.9),
      optax.scale_by_learning_rate(lambda count: setting.learning_rate * schedule(count)),
    )

    def objective(params: Any, rows: jax.Array, state: losses.AldrState) -> Any:
      scores = model.apply(params, data.x_train[rows])
      if family == "aldr":
        values, state = losses.aldr_kl_loss(
          scores,
          labels[rows],
          rows,
          state,
          alpha=config.alpha,
          margin=config.margin,
          **setting.hyper,
        )
      else:
        extra = {"margin": config.margin} if family == "ldr" else {}
        values = STATELESS[family](scores, labels[rows], **extra, **setting.hyper)
      return jnp.mean(values), state

    def step(carry: Any, rows: jax.Array) -> tuple[Any, None]:
      params, opt_state, state = carry
      grads, state = jax.grad(objective, has_aux=True)(params, rows, state)
      updates, opt_state = optimizer.update(grads, opt_state, params)
      return (optax.apply_updates(params, updates), opt_state, state), None

    def epoch(carry: Any, rows: jax.Array) -> tuple[Any, jax.Array]:
      carry, _ = jax.lax.scan(step, carry, rows)
      predicted = jnp.argmax(model.apply(carry[0], data.x_test), axis=1)
      return carry, jnp.mean(predicted == data.y_test)

    size = num if family == "aldr" else 1
    state = losses.aldr_init(size, temperature=setting.hyper.get("temperature", 1.0))
    carry = (data.params, optimizer.init(data.params), state)
    carry, accuracy = jax.lax.scan(epoch, carry, data.batches)
    return Result(accuracy, carry[2].temperature)

  return train


def make_settings(names: list[str], config: Config) -> Setting:
  """Every loss of a family with every noise and step size, in this order of axes."""
  hypers = [LOSSES[name][1] for name in names]
  shape = (len(names), len(noise_names(config)), len(config.learning_rates))
  which, noise, rate = (axis.ravel() for axis in np.indices(shape))
  return Setting(
    jnp.asarray(noise, jnp.int32),
    jnp.asarray(np.array(config.learning_rates)[rate], jnp.float32),
    {key: jnp.asarray([hypers[i][key] for i in which], jnp.float32) for key in hypers[0]},
  )


def run(config: Config, progress: Progress) -> Outcome:
  """Trains every loss on every kind of labels, a family of losses at a time."""
  data = stack([load_split(seed, config) for seed in range(config.seeds)])
  num_classes = int(jnp.max(data.y_train)) + 1
  families: dict[str, list[str]] = {}
  for name in config.losses:
    families.setdefault(LOSSES[name][0], []).append(name)
  noises, rates = noise_names(config), config.learning_rates
  wrong = np.asarray(data.noisy != data.y_train[:, None])

  metrics: dict[str, Any] = {}
  temperatures: dict[str, Any] = {}
  for family, names in progress.track(families.items(), "losses", total=len(families)):
    trainer = make_trainer(family, config, num_classes)
    result = train_all(progress, trainer, make_settings(names, config), data, name=family)
    shape = (config.seeds, len(names), len(noises), len(rates))
    accuracy = result.accuracy.reshape(*shape, config.epochs)
    for i, name in enumerate(names):
      metrics[name] = _choose_rate(accuracy[:, i], noises, rates)
      if family == "aldr":
        lam = result.temperature.reshape(*shape, -1)[:, i]
        temperatures[name] = _temperatures(lam, wrong, metrics[name], noises, rates)
  metrics = {name: metrics[name] for name in config.losses}
  metrics["temperatures"] = temperatures
  return Outcome(metrics, _table(metrics, config), _claims(metrics, config))


def _choose_rate(
  accuracy: np.ndarray, noises: list[str], rates: tuple[float, ...]
) -> dict[str, Any]:
  """The better step size of each column by the mean final test accuracy, for every loss alike."""
  entry: dict[str, Any] = {}
  for j, noise in enumerate(noises):
    final = accuracy[:, j, :, -1]
    best = int(np.argmax(final.mean(0)))
    entry[noise] = {
      "accuracy": final[:, best],
      "learning_rate": rates[best],
      "by_learning_rate": final.mean(0),
      "curve": accuracy[:, j, best].mean(0),
    }
  return entry


def _temperatures(
  lam: np.ndarray,
  wrong: np.ndarray,
  chosen: dict[str, Any],
  noises: list[str],
  rates: tuple[float, ...],
) -> dict[str, Any]:
  """Mean final temperature of wrongly and of rightly labelled examples, one number a seed."""
  entry = {}
  for j, noise in enumerate(noises[1:], start=1):
    values = lam[:, j, rates.index(chosen[noise]["learning_rate"])]
    pairs = [(v[w].mean(), v[~w].mean()) for v, w in zip(values, wrong[:, j], strict=True)]
    edges = np.linspace(values.min(), values.max(), 41)
    entry[noise] = {
      "wrong": [p[0] for p in pairs],
      "right": [p[1] for p in pairs],
      "edges": edges,
      "wrong_density": np.histogram(values[wrong[:, j]], edges, density=True)[0],
      "right_density": np.histogram(values[~wrong[:, j]], edges, density=True)[0],
    }
  return entry


def _mean(metrics: dict[str, Any], name: str, noise: str) -> float:
  return float(np.mean(metrics[name][noise]["accuracy"]))


def _table(metrics: dict[str, Any], config: Config) -> list[Row]:
  note = "The paper reports ranks over seven other data sets."
  if len(config.learning_rates) > 1:
    note += f" Every loss has the best of {len(config.learning_rates)} step sizes on the test set."
  return [
    Row(
      method=name,
      metric=f"test accuracy, {config.data}, {noise} labels",
      ours=_mean(metrics, name, noise),
      baseline=_mean(metrics, "CE", noise),
      baseline_name="CE",
      spread=float(np.std(metrics[name][noise]["accuracy"])),
      note=note,
    )
    for noise in noise_names(config)
    for name in config.losses
    if name != "CE"
  ]


def _claims(metrics: dict[str, Any], config: Config) -> list[Claim]:
  clean, *noises = noise_names(config)
  claims = []
  for noise in noises:
    ours, base = _mean(metrics, "ALDR 10", noise), _mean(metrics, "CE", noise)
    claims.append(
      Claim(
        f"With {noise} labels ALDR-KL (lambda_0 = 10) is at least 0.04 above cross entropy.",
        ours - base >= 0.04,
        {"ALDR 10": ours, "CE": base},
      )
    )
  ours, base = _mean(metrics, "ALDR 10", clean), _mean(metrics, "CE", clean)
  claims.append(
    Claim(
      "With clean labels ALDR-KL (lambda_0 = 10) is within 0.01 of cross entropy.",
      abs(ours - base) <= 0.01,
      {"ALDR 10": ours, "CE": base},
    )
  )
  average = {
    name: float(np.mean([_mean(metrics, name, noise) for noise in (clean, *noises)]))
    for name in config.losses
  }
  if "LDR 10" in average:
    ours = {"ALDR 10", "LDR 10"}
    others = max(value for name, value in average.items() if name not in ours)
    claims.append(
      Claim(
        "Averaged over the columns ALDR-KL (lambda_0 = 10) and LDR-KL (lambda = 10) are ahead of "
        "all other losses compared.",
        min(average[name] for name in ours) > others,
        average,
      )
    )
  for name, by_noise in metrics["temperatures"].items():
    for noise, entry in by_noise.items():
      wrong, right = float(np.mean(entry["wrong"])), float(np.mean(entry["right"]))
      claims.append(
        Claim(
          f"{name}, {noise} labels: wrongly labelled examples end with a higher mean temperature.",
          wrong > right,
          {"wrong": wrong, "right": right},
        )
      )
  return claims


def figure(record: dict[str, Any]) -> Any:
  """Accuracy by loss and noise, accuracy while training, temperatures by label."""
  metrics = record["metrics"]
  names = [name for name in metrics if name != "temperatures"]
  noises = list(metrics[names[0]])
  fig, axes = new_figure(1, 3)
  place = np.arange(len(names))
  for j, noise in enumerate(noises):
    values = np.array([metrics[name][noise]["accuracy"] for name in names])
    offset = (j - (len(noises) - 1) / 2) * 0.8 / len(noises)
    axes[0].errorbar(
      place + offset, values.mean(1), np.ptp(values, axis=1) / 2, fmt="o", capsize=2, label=noise
    )
  axes[0].set_xticks(place, names, rotation=60, ha="right")
  axes[0].set(ylabel="test accuracy", title="Last epoch; bars span the seeds")
  axes[0].legend()
  noise = noises[1]
  for name in names:
    curve = metrics[name][noise]["curve"]
    axes[1].plot(np.arange(1, len(curve) + 1), curve, label=name, lw=1)
  axes[1].set(xlabel="epoch", ylabel="test accuracy", title=f"Training on {noise} labels")
  axes[1].legend(fontsize="x-small", ncols=2)
  entry = metrics["temperatures"]["ALDR 10"][noise]
  for kind in ("right", "wrong"):
    axes[2].stairs(entry[f"{kind}_density"], entry["edges"], label=f"{kind} label")
  axes[2].set(xlabel="temperature", ylabel="density", title=f"ALDR 10, {noise} labels")
  axes[2].legend()
  return fig
