"""Label-distributionally robust losses against noisy labels: accuracy on clean test labels."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import _amendments, _figures, _statistics, datasets
from experiments._claims import Claim, Side
from experiments._protocol import Paper, Progress, Row, Settings, Size, new_figure
from experiments._training import batches, fit, grid, schedule, stack, train_all
from experiments.losses._noise_losses import LOSSES, STATELESS
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
AMENDED = _amendments.LABEL_DR_NOISE

MAIN = (
  "CE", "CS", "MAE", "GCE 0.7", "NCE+AGCE", "LDR 1", "LDR 10", "ALDR 1", "ALDR 10",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Config(Settings):
  """Settings.

  Attributes:
    data: "digits" (1797 images) or "letter" (20000 rows).
    losses: which of ``LOSSES`` are compared.
    uniform: rates of uniform noise (a label is drawn anew from all classes).
    class_dependent: rates of class-dependent noise (a label becomes the next class).
    learning_rates: initial step sizes; each loss has its best one for each kind of labels, by
      accuracy on validation rows whose labels are as noisy as those of the training rows.
    epochs: passes over the training set; the step size falls to a tenth at 1/2 and again at 3/4.
    batch: batch size.
    weight_decay: coefficient of the l2 term in the gradient.
    alpha: ALDR-KL's alpha.
    margin: margin of the LDR losses.
  """

  data: str = "digits"
  losses: tuple[str, ...] = MAIN
  uniform: tuple[float, ...] = (0.6,)
  class_dependent: tuple[float, ...] = (0.3,)
  learning_rates: tuple[float, ...] = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
  epochs: int = 100
  batch: int = 64
  weight_decay: float = 5e-3
  alpha: float = 2.0
  margin: float = 0.1

  def __post_init__(self) -> None:
    if self.data not in ("digits", "letter"):
      raise ValueError(f"data must be 'digits' or 'letter'; got {self.data!r}.")
    unknown = set(self.losses) - set(LOSSES)
    if unknown or not {"CE", "LDR 10", "ALDR 10"} <= set(self.losses):
      raise ValueError(
        f"losses must hold CE, LDR 10, ALDR 10 and be among {', '.join(LOSSES)}; got {self.losses}."
      )


SIZES = {
  "toy": Size(
    Config(seeds=2, losses=("CE", "LDR 10", "ALDR 10"), learning_rates=(0.1,), epochs=3),
    "Three losses, three epochs.",
  ),
  "desk": Size(Config(), "Digits and 8 other losses instead of seven data sets and 13 losses."),
  "large": Size(
    Config(
      data="letter", losses=tuple(LOSSES), uniform=(0.3, 0.6, 0.9), class_dependent=(0.1, 0.3, 0.5),
      learning_rates=(0.001, 0.01, 0.1, 1.0),
    ),
    "One of the paper's data sets (Letter), all of its noise settings.",
  ),
}  # fmt: skip


class Data(NamedTuple):
  """One split with its noisy labels (a row a kind), initial weights and minibatches."""

  params: Any
  x: dict[str, jax.Array]
  y: dict[str, jax.Array]
  noisy: dict[str, jax.Array]
  rows: jax.Array


def columns(config: Config) -> list[str]:
  """The kinds of labels."""
  uniform = [f"uniform {rate:g}" for rate in config.uniform]
  return ["clean", *uniform, *(f"class-dependent {rate:g}" for rate in config.class_dependent)]


def load_split(seed: int, config: Config) -> Data:
  """Features and labels; noise touches training and validation labels, as in the paper."""
  table = datasets.load(config.data)
  x, y = np.asarray(table["x"]), np.asarray(table["y"], np.int32)
  parts = (1000, 297, 500) if config.data == "digits" else (12_800, 3200, 4000)
  split = datasets.split(len(x), tuple(n / sum(parts) for n in parts), seed)
  grey = [x[rows] / 16 for rows in split]
  features = grey if config.data == "digits" else datasets.standardise(*(x[r] for r in split))
  names, classes = ("train", "val", "test"), int(y.max()) + 1
  init_key, noise_key = jax.random.split(jax.random.key(seed))
  clean = {n: jnp.asarray(y[rows]) for n, rows in zip(names, split, strict=True)}
  makers = [(problems.make_uniform_label_noise, rate) for rate in config.uniform]
  makers += [(problems.make_class_dependent_label_noise, rate) for rate in config.class_dependent]
  noisy = {n: [clean[n]] for n in ("train", "val")}
  for number, (make, rate) in enumerate(makers):
    for part, n in enumerate(noisy):
      key = jax.random.fold_in(jax.random.fold_in(noise_key, number), part)
      noisy[n].append(make(key, clean[n], num_classes=classes, rate=rate).labels)
  arrays = {n: jnp.asarray(v, jnp.float32) for n, v in zip(names, features, strict=True)}
  params = _init(make_model(x.shape[1], classes), init_key, arrays["train"][:1])
  rows = jnp.asarray(batches(len(split[0]), config.batch, config.epochs, seed))
  return Data(params, arrays, clean, {n: jnp.stack(v) for n, v in noisy.items()}, rows)


def make_model(num_features: int, num_classes: int) -> Any:
  """Two tanh layers with Xavier normal weights; the paper has them as narrow as the classes."""
  from flax import linen

  from jaxopt_robust import nets

  width = min(num_features, 64)
  return nets.MLP((width, width, num_classes), jnp.tanh, linen.initializers.glorot_normal())


@functools.partial(jax.jit, static_argnums=0)  # one program for all seeds and losses
def _init(model: Any, key: jax.Array, x: jax.Array) -> Any:
  return model.init(key, x)


def make_trainer(family: str, config: Config, num_classes: int) -> Callable[..., Any]:
  """``train(setting, data) -> accuracies and final temperatures`` of one run."""

  def train(setting: dict[str, jax.Array], data: Data) -> dict[str, jax.Array]:
    hyper = {k: v for k, v in setting.items() if k not in ("column", "learning_rate")}
    model = make_model(data.x["train"].shape[1], num_classes)
    labels = {name: values[setting["column"]] for name, values in data.noisy.items()}
    factor = schedule("steps", data.rows.shape[0] * data.rows.shape[1])
    optimizer = optax.chain(
      optax.add_decayed_weights(config.weight_decay),
      optax.trace(decay=0.9),
      optax.scale_by_learning_rate(lambda count: setting["learning_rate"] * factor(count)),
    )

    def objective(params: Any, state: Any, rows: jax.Array) -> Any:
      scores, y = model.apply(params, data.x["train"][rows]), labels["train"][rows]
      own = {"margin": config.margin} if family in ("ldr", "aldr") else {}
      if family == "aldr":
        values, state = losses.aldr_kl_loss(
          scores, y, rows, state, alpha=config.alpha, **own, **hyper
        )
      else:
        values = STATELESS[family](scores, y, **own, **hyper)
      return jnp.mean(values), state

    def evaluate(params: Any, _: Any) -> dict[str, jax.Array]:
      answers = {"val": labels["val"], "test": data.y["test"]}
      correct = lambda n: jnp.mean(jnp.argmax(model.apply(params, data.x[n]), 1) == answers[n])
      return {name: correct(name) for name in answers}

    size = len(data.x["train"]) if family == "aldr" else 1
    state = losses.aldr_init(size, temperature=hyper.get("temperature", 1.0))
    done = fit(objective, data.params, data.rows, optimizer, state=state, evaluate=evaluate)
    return {**done.history, "temperature": done.state.temperature}

  return train


def run(config: Config, progress: Progress) -> dict[str, Any]:
  """Trains every loss on every kind of labels, a family of losses at a time."""
  data = stack([load_split(seed, config) for seed in config.seed_numbers()])
  num_classes = int(jnp.max(data.y["train"])) + 1
  kinds, rates = columns(config), config.learning_rates
  families: dict[str, list[str]] = {}
  for name in config.losses:
    families.setdefault(LOSSES[name][0], []).append(name)
  metrics: dict[str, Any] = {name: {} for name in config.losses}
  choices = []
  for family, names in progress.track(families.items(), "losses", total=len(families)):
    axes, shape = grid(name=range(len(names)), column=range(len(kinds)), learning_rate=rates)
    hyper = {
      key: np.float32([LOSSES[names[i]][1][key] for i in axes["name"]])
      for key in LOSSES[names[0]][1]
    }
    setting = {"column": axes["column"], "learning_rate": axes["learning_rate"], **hyper}
    trainer = make_trainer(family, config, num_classes)
    found = train_all(progress, trainer, setting, data, name=family)
    found = {k: v.reshape(config.seeds, *shape, v.shape[-1]) for k, v in found.items()}
    for i, name in enumerate(names):
      for j, kind in enumerate(kinds):
        scores = found["val"][:, i, j, :, -1].mean(0)
        choice = _statistics.choose(f"rate of {name}, {kind}", rates, scores, better="higher")
        choices.append(choice)
        best = rates.index(choice.chosen)
        test = found["test"][:, i, j, best]
        metrics[name][kind] = {"accuracy": test[:, -1], "curve": test.mean(0)}
        if family == "aldr" and kind != "clean":
          wrong = np.asarray(data.noisy["train"][:, j] != data.y["train"])
          values = found["temperature"][:, i, j, best]
          metrics[name][kind] |= _by_label(values, wrong)
  return {"losses": metrics, "choices": choices}


def _by_label(values: np.ndarray, wrong: np.ndarray) -> dict[str, Any]:
  """Mean final temperature of wrong and of right labels, a number a seed, and the densities."""
  edges = np.linspace(values.min(), values.max(), 41)
  return {
    "wrong": [v[w].mean() for v, w in zip(values, wrong, strict=True)],
    "right": [v[~w].mean() for v, w in zip(values, wrong, strict=True)],
    "edges": edges,
    "wrong_density": np.histogram(values[wrong], edges, density=True)[0],
    "right_density": np.histogram(values[~wrong], edges, density=True)[0],
  }


def claims(metrics: dict[str, Any], config: Config) -> list[Claim]:
  """ALDR-KL beside cross entropy, ranks over all kinds of labels, temperatures by label."""
  found, kinds = metrics["losses"], columns(config)
  side = lambda name, kind: Side(name, found[name][kind]["accuracy"])
  made = []
  for kind in kinds:
    text = f"With {kind} labels ALDR-KL (lambda_0 = 10) is more accurate than cross entropy by .04."
    if kind == "clean":
      text = "With clean labels ALDR-KL (lambda_0 = 10) loses at most .01 to cross entropy."
    margin = -0.01 if kind == "clean" else 0.04
    ours, base = side("ALDR 10", kind), side("CE", kind)
    key = kind.replace(" ", "_")
    made.append(Claim(key, text, "paper", "test accuracy", ours, base, margin=margin))
  table = np.array([[found[n][kind]["accuracy"] for n in config.losses] for kind in kinds], float)
  ranks = np.stack(
    [_statistics.average_ranks(seed, better="higher") for seed in np.moveaxis(table, 2, 0)]
  )
  by_name = dict(zip(config.losses, ranks.T, strict=True))
  others = {n: v for n, v in by_name.items() if n not in ("ALDR 10", "LDR 10")}
  best = min(others, key=lambda n: others[n].mean())
  for name, key in (("ALDR 10", "aldr_rank"), ("LDR 10", "ldr_rank")):
    text = f"{name} has a better average rank over the kinds of labels than any loss but LDR and "
    sides = Side(name, by_name[name]), Side("the best other loss", others[best])
    count = {"better": "lower", "comparisons": len(others)}
    metric = f"average rank among {len(config.losses)}"
    made.append(Claim(key, f"{text}ALDR.", "paper", metric, *sides, **count))
  for kind in kinds[1:]:
    entry = found["ALDR 10"][kind]
    text = f"With {kind} labels wrongly labelled examples end with the higher temperature."
    sides = (Side("wrong labels", entry["wrong"]), Side("right labels", entry["right"]))
    key = f"temperature_{kind.replace(' ', '_')}"
    made.append(Claim(key, text, "paper", "mean temperature of ALDR 10", *sides))
  return made


def table(metrics: dict[str, Any], config: Config) -> list[Row]:
  """Each loss beside cross entropy."""
  side = lambda name, kind: Side(name, metrics["losses"][name][kind]["accuracy"])
  return [
    Row(f"test accuracy, {config.data}, {kind} labels", side(name, kind), side("CE", kind))
    for kind in columns(config)
    for name in config.losses
    if name != "CE"
  ]


def figure(record: dict[str, Any]) -> Any:
  """Accuracy by loss and kind of labels, accuracy while training, temperatures by label."""
  found = record["metrics"]["losses"]
  kinds = list(found["CE"])
  fig, axes = new_figure(1, 3)
  _figures.dots(
    axes[0], {kind: {n: v[kind]["accuracy"] for n, v in found.items()} for kind in kinds},
    ylabel="test accuracy", title="Last epoch, 95 % intervals",
  )  # fmt: skip
  _figures.curves(
    axes[1], {name: v[kinds[1]]["curve"] for name, v in found.items()},
    xlabel="epoch", ylabel="test accuracy", title=f"Training on {kinds[1]} labels",
  )  # fmt: skip
  entry = found["ALDR 10"][kinds[1]]
  for label in ("right", "wrong"):
    axes[2].stairs(entry[f"{label}_density"], entry["edges"], label=f"{label} label")
  axes[2].set(xlabel="temperature", ylabel="density", title=f"ALDR 10, {kinds[1]} labels")
  axes[2].legend()
  return fig
