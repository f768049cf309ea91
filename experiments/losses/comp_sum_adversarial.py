"""Comp-sum losses on clean images, and the smooth adversarial comp-sum loss against PGD attacks."""

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
from experiments._training import batches, fit, grid, schedule, stack, train_all
from jaxopt_robust import losses, nets, robustness

PAPER = Paper(
  title="Cross-entropy loss functions: theoretical analysis and applications",
  authors="Mao, Mohri and Zhong",
  year=2023,
  claim="Among comp-sum losses cross entropy (tau = 1) is the most accurate on clean images. "
  "Networks trained with the smooth adversarial comp-sum loss are more robust and more accurate "
  "than those trained with TRADES.",
  section="Section 6 (CIFAR-10, CIFAR-100, SVHN)",
  url="https://arxiv.org/abs/2304.07288",
)

# Method -> (its program, tau). A program has one grid of strengths: beta, or nu.
METHODS: dict[str, tuple[str, float]] = {
  "PGD training": ("pgd", 1.0),
  "TRADES": ("trades", 1.0),
  "ADV-COMP-SUM": ("smooth", 1.0),
  "ADV-COMP-SUM, tau .5": ("smooth", 0.5),
}


@dataclasses.dataclass(frozen=True)
class Config(Settings):
  """Settings.

  ``attacked_rates`` are the best of .05, .1, .2, .4, .8 on validation images of development seeds.

  Attributes:
    data: "digits" (997 training images) or "mnist5k" (3200).
    hidden: width of the two hidden layers.
    radii: attack radii in the largest-entry norm, for grey values in [0, 1].
    taus: comp-sum losses trained on clean images, among them 1 and 2.
    rates: initial step sizes on clean images, among them .05; each tau has its best one by
      validation accuracy.
    betas: weights of TRADES; like ``nus`` a grid from which each method has its best value at each
      radius, by robust accuracy on validation images.
    nus: weights of the deviation in the smooth adversarial comp-sum loss.
    attacked_rates: initial step sizes of PGD training, of TRADES and of the smooth loss, which
      fall to 0 along a cosine, as do all others.
    epochs: passes over the training set.
    batch: batch size.
    weight_decay: coefficient of the l2 term in the gradient.
    clip: global norm to which gradients are clipped.
    train_steps: attack steps in training.
    test_steps: attack steps in the evaluation, each a tenth of the radius.
  """

  data: str = "digits"
  hidden: int = 64
  radii: tuple[float, ...] = (0.08, 0.15)
  taus: tuple[float, ...] = (0.0, 0.5, 1.0, 1.5, 2.0)
  rates: tuple[float, ...] = (0.02, 0.05, 0.2, 0.5, 1.0)
  betas: tuple[float, ...] = (0.5, 1.0, 2.0, 4.0, 8.0)
  nus: tuple[float, ...] = (0.05, 0.1, 0.2, 0.4, 0.8)
  attacked_rates: tuple[float, ...] = (0.4, 0.4, 0.4)
  epochs: int = 40
  batch: int = 64
  weight_decay: float = 5e-4
  clip: float = 1.0
  train_steps: int = 7
  test_steps: int = 40


SIZES = {
  "toy": Size(
    Config(
      seeds=2, hidden=16, radii=(0.08,), taus=(1.0, 2.0), rates=(0.05,), betas=(1.0,), nus=(0.1,),
      epochs=1, train_steps=2, test_steps=2,
    ),
    "One epoch, two attack steps.",
  ),
  "desk": Size(
    Config(),
    "8 x 8 digits and perceptrons instead of CIFAR and residual networks; PGD with two objectives "
    "instead of AutoAttack.",
  ),
  "large": Size(
    Config(data="mnist5k", hidden=512, radii=(0.1, 0.2), epochs=100, train_steps=10),
    "28 x 28 digits and perceptrons instead of CIFAR and residual networks.",
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
  """Training, validation and test images, grey values in [0, 1]."""
  table = datasets.load(config.data)
  x, y = np.float32(table["x"] / np.max(table["x"])), np.asarray(table["y"], np.int32)
  sizes = (997, 300, 500) if config.data == "digits" else (3200, 800, 1000)
  split = datasets.split(len(x), tuple(n / sum(sizes) for n in sizes), seed)
  names, (key, init_key) = ("train", "val", "test"), jax.random.split(jax.random.key(seed))
  parts_of = lambda a: {n: jnp.asarray(a[rows]) for n, rows in zip(names, split, strict=True)}
  rows = jnp.asarray(batches(len(split[0]), config.batch, config.epochs, seed))
  return Data(_init(make_model(config), init_key, x[:1]), parts_of(x), parts_of(y), rows, key)


def make_model(config: Config) -> Any:
  """A perceptron with two hidden layers."""
  from flax import linen

  init = linen.initializers.lecun_uniform()
  return nets.MLP((config.hidden, config.hidden, 10), jax.nn.relu, init)


@functools.partial(jax.jit, static_argnums=0)  # one program for all seeds
def _init(model: Any, key: jax.Array, x: jax.Array) -> Any:
  return model.init(key, x)


def make_trainer(program: str, config: Config) -> Callable[..., Any]:
  """``train(setting, data) -> parameters``: one run; runs of one split see the same batches."""
  model = make_model(config)

  def train(setting: dict[str, jax.Array], data: Data) -> Any:
    factor = schedule("cosine", data.rows.shape[0] * data.rows.shape[1])
    optimizer = optax.chain(
      optax.clip_by_global_norm(config.clip), optax.add_decayed_weights(config.weight_decay),
      optax.sgd(lambda count: setting["rate"] * factor(count), momentum=0.9, nesterov=True),
    )  # fmt: skip

    def objective(params: Any, number: jax.Array, rows: jax.Array) -> Any:
      x, y, tau = data.x["train"][rows], data.y["train"][rows], setting["tau"]
      if program == "standard":
        return jnp.mean(losses.comp_sum_loss(model.apply(params, x), y, tau=tau)), number + 1
      attack = functools.partial(
        robustness.pgd_attack, radius=setting["radius"], num_steps=config.train_steps,
        stepsize=2.5 * setting["radius"] / config.train_steps, bounds=(0.0, 1.0),
      )  # fmt: skip
      loss, options = {
        "pgd": (robustness.pgd_adversarial_training_loss, {}),
        "trades": (robustness.trades_loss, {"beta": setting["strength"]}),
        "smooth": (
          robustness.smooth_adversarial_comp_sum_training_loss,
          {"nu": setting["strength"], "tau": tau},
        ),
      }[program]
      key = jax.random.fold_in(data.key, number)
      return jnp.mean(loss(model.apply, params, x, y, key, attack=attack, **options)), number + 1

    zero, nothing = jnp.zeros((), jnp.int32), lambda params, state: ()
    return fit(objective, data.params, data.rows, optimizer, state=zero, evaluate=nothing).params

  return train


def evaluate(params: Any, radius: jax.Array, data: Data, config: Config) -> dict[str, jax.Array]:
  """Clean accuracy, and accuracy after the worse of two attacks, on validation and test images."""
  model = make_model(config)
  x, y = (jnp.concatenate([part["val"], part["test"]]) for part in (data.x, data.y))
  is_right = lambda x: jnp.argmax(model.apply(params, x), axis=1) == y

  def survives(use_margin: jax.Array, key: jax.Array) -> jax.Array:
    def objective(x: jax.Array) -> jax.Array:
      scores, is_label = model.apply(params, x), jax.nn.one_hot(y, 10, dtype=bool)
      wrong = jnp.max(jnp.where(is_label, -jnp.inf, scores), axis=1)
      margin = wrong - jnp.sum(jnp.where(is_label, scores, 0), axis=1)
      return jnp.where(use_margin, margin, losses.cross_entropy_loss(scores, y))

    options = {"stepsize": radius / 10, "num_steps": config.test_steps, "bounds": (0.0, 1.0)}
    return is_right(robustness.pgd_attack(objective, x, key, radius=radius, **options))

  attacked = jax.vmap(survives)(jnp.array([False, True]), jax.random.split(data.key))
  right, num = is_right(x), len(data.y["val"])
  robust = right & jnp.all(attacked, axis=0)
  return {
    f"{part} {name}": jnp.mean(values[rows])
    for name, values in (("clean", right), ("robust", robust))
    for part, rows in (("val", slice(num)), ("test", slice(num, None)))
  }


def run(config: Config, progress: Progress) -> dict[str, Any]:
  """Trains the networks a program at a time, attacks them all, chooses rates and strengths."""
  data = stack([load_split(seed, config) for seed in config.seed_numbers()])
  grids = {"pgd": (1.0,), "trades": config.betas, "smooth": config.nus}
  axes: dict[str, dict[str, Any]] = {
    "standard": {"tau": config.taus, "radius": [max(config.radii)], "rate": config.rates}
  }
  for (program, strengths), rate in zip(grids.items(), config.attacked_rates, strict=True):
    axes[program] = {"rate": [rate], "strength": strengths}
  trained, radii, shapes = [], [], {}
  for program, own in progress.track(axes.items(), "programs", total=len(axes)):
    taus = [tau for name, tau in METHODS.values() if name == program]
    setting, shapes[program] = grid(**{"tau": taus, "radius": config.radii, **own})
    params = train_all(progress, make_trainer(program, config), setting, data, name=program)
    trained.append(jax.tree.map(lambda p: np.moveaxis(p, 1, 0), params))
    radii.append(setting["radius"])
  runs = (jax.tree.map(lambda *parts: np.concatenate(parts), *trained), np.concatenate(radii))
  one = lambda run, data: jax.vmap(lambda p, d: evaluate(p, run[1], d, config))(run[0], data)
  # One setting at a time: a batch of attacked images fills the caches.
  attack_all = jax.jit(lambda runs, data: jax.lax.map(lambda run: one(run, data), runs))
  result = progress.clock.call(attack_all, runs, data, name="attacks")
  parts = np.split(np.arange(len(runs[1])), np.cumsum([np.prod(s) for s in shapes.values()])[:-1])
  found = {
    program: {k: np.asarray(v)[part].reshape(*shape, -1) for k, v in result.items()}
    for (program, shape), part in zip(shapes.items(), parts, strict=True)
  }
  metrics: dict[str, Any] = {"clean": {}, "attacked": {}, "choices": []}

  def pick(title: str, values: Any, own: dict[str, Any], score: str) -> dict[str, Any]:
    """The test accuracies [values, seeds] at the best of the values, and their means at all."""
    choice = _statistics.choose(title, values, own[score].mean(-1), better="higher")
    metrics["choices"].append(choice)
    test = {k: own[f"test {k}"] for k in ("clean", "robust")}
    best = {k: v[values.index(choice.chosen)] for k, v in test.items()}
    return {**best, "path": {k: v.mean(-1) for k, v in test.items()}}

  for i, tau in enumerate(config.taus):
    own, key = {k: v[i, 0] for k, v in found["standard"].items()}, f"tau {tau:g}"
    metrics["clean"][key] = pick(f"rate of {key}", config.rates, own, "val clean")
    metrics["clean"][key]["rate .05"] = own["test clean"][config.rates.index(0.05)]
  for j, radius in enumerate(config.radii):
    for name, (program, tau) in METHODS.items():
      taus = [other for own, other in METHODS.values() if own == program]
      own = {k: v[taus.index(tau), j, 0] for k, v in found[program].items()}
      picked = pick(f"{name}, radius {radius:g}", grids[program], own, "val robust")
      metrics["attacked"].setdefault(f"radius {radius:g}", {})[name] = picked
  return metrics


def claims(metrics: dict[str, Any], config: Config) -> list[Claim]:
  """Cross entropy among comp-sum losses; the smooth adversarial loss beside TRADES."""
  clean, metric = metrics["clean"], f"test accuracy, {config.data}"
  side = lambda tau, key="clean": Side(f"tau {tau:g}", clean[f"tau {tau:g}"][key])
  made = []
  for tau in sorted({0.0, 1.5, 2.0} & set(config.taus)):
    text = f"Cross entropy (tau = 1) is more accurate than the comp-sum loss with tau = {tau:g}."
    made.append(Claim(f"clean_{tau:g}", text, "paper", metric, side(1), side(tau)))
  text = "At a learning rate of .05 tau = 2 (MAE) is at least .1 less accurate than tau = 1."
  both = [side(tau, "rate .05") for tau in (1, 2)]
  made.append(Claim("clean_2_fixed", text, "paper", metric, *both, margin=0.1))
  for radius, entry in metrics["attacked"].items():
    for key, word in (("robust", "robust accuracy"), ("clean", "clean accuracy")):
      ours, base = (Side(name, entry[name][key]) for name in ("ADV-COMP-SUM", "TRADES"))
      text = f"At {radius} ADV-COMP-SUM has more {word} than TRADES, each at its most robust."
      made.append(Claim(f"{key}_{radius.split()[1]}", text, "paper", word, ours, base))
  radius = f"radius {max(config.radii):g}"
  ours = Side("ADV-COMP-SUM", metrics["attacked"][radius]["ADV-COMP-SUM"]["robust"])
  base = Side("standard training", clean["tau 1"]["robust"])
  text = f"At {radius} ADV-COMP-SUM has .45 more robust accuracy than training on clean images."
  return [*made, Claim("standard", text, "paper", "robust accuracy", ours, base, margin=0.45)]


def table(metrics: dict[str, Any], config: Config) -> list[Row]:
  """Each comp-sum loss beside cross entropy, each method under attack beside TRADES."""
  clean = {name: Side(name, entry["clean"]) for name, entry in metrics["clean"].items()}
  rows = [
    Row(f"accuracy, {config.data}, clean images", side, clean["tau 1"])
    for name, side in clean.items()
    if name != "tau 1"
  ]
  for radius, entry in metrics["attacked"].items():
    for key in ("robust", "clean"):
      base, text = Side("TRADES", entry["TRADES"][key]), f"{key} accuracy, {config.data}, {radius}"
      rows += [Row(text, Side(n, v[key]), base) for n, v in entry.items() if n != "TRADES"]
  return rows


def figure(record: dict[str, Any]) -> Any:
  """Clean accuracy by tau and learning rate, and clean against robust accuracy at each radius."""
  metrics, settings = record["metrics"], record["settings"]
  fig, axes = new_figure(1, 1 + len(metrics["attacked"]))
  lines = {name: entry["path"]["clean"] for name, entry in metrics["clean"].items()}
  _figures.curves(
    axes[0], lines, settings["rates"], xlabel="learning rate", ylabel="test accuracy",
    title="Comp-sum losses, clean images", log="x",
  )  # fmt: skip
  for ax, (radius, entry) in zip(axes[1:], metrics["attacked"].items(), strict=True):
    for marker, (name, own) in zip("sD^o", entry.items(), strict=True):
      ax.plot(own["path"]["clean"], own["path"]["robust"], marker + "-", label=name)
    ax.set(xlabel="clean accuracy", ylabel="robust accuracy", title=f"Attack, {radius}")
    ax.legend(fontsize="x-small")
  return fig
