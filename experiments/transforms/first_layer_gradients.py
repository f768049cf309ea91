"""First layers that train their pre-activations: accuracy at all epochs and at half of them."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen

from experiments import _figures, datasets
from experiments._claims import Claim, Side
from experiments._protocol import Paper, Progress, Row, Settings, Size, new_figure
from experiments._statistics import choose
from experiments._training import batches, fit, grid, stack
from jaxopt_robust import nets, sweeps

PAPER = Paper(
  title="TrAct: making first-layer pre-activations trainable",
  authors="Petersen, Borgelt and Ermon",
  year=2024,
  claim="A first layer whose weights move so that its pre-activations follow their own gradient "
  "trains to a better accuracy in as many epochs and to about the same in half of them, with all "
  "other settings as tuned for the plain layer; the gain is larger where inputs are not "
  "standardised.",
  section="Sections 4.1 to 4.3 (CIFAR-10, CIFAR-100, ImageNet)",
  url="https://arxiv.org/abs/2410.23970",
)
CLASSES, MOMENTUM = 10, 0.9
INPUTS = ("standardised", "in [0, 1]", "other brightness each")
HE = linen.initializers.he_normal()


@dataclasses.dataclass(frozen=True)
class Config(Settings):
  """Settings. A seed draws the split, the brightness of images, initial weights and batches.

  Attributes:
    data: data sets.
    inputs: forms of the inputs.
    network: "mlp", or "cnn" with a convolution of 5 x 5 pixels as its first layer.
    hidden: width of the layers.
    layers: hidden layers of the perceptron.
    train: images for training.
    held: images for validation, and as many for the test; the training loss is that of so many.
    batch: images a minibatch.
    epochs: all epochs of each data set; the short training has half of them, and its own cosine.
    rates: learning rates of SGD with momentum, chosen for the plain layer, for each length.
    lam: ridge of TrAct; not tuned.
    shrink: side of the squares of pixels that are averaged, of 28 x 28 images.
  """

  data: tuple[str, ...] = ("digits", "fashion_mnist")
  inputs: tuple[str, ...] = INPUTS
  network: str = "mlp"
  hidden: int = 64
  layers: int = 2
  train: tuple[int, ...] = (880, 5000)
  held: tuple[int, ...] = (440, 1500)
  batch: int = 64
  epochs: tuple[int, ...] = (10, 4)
  rates: tuple[float, ...] = (0.01, 0.03, 0.1, 0.3, 1.0)
  lam: float = 0.1
  shrink: int = 2


SIZES = {
  "toy": Size(
    Config(
      seeds=2, data=("digits",), inputs=INPUTS[:2], hidden=16, layers=1, train=(256,), held=(128,),
      epochs=(2,), rates=(0.03, 0.1, 0.3),
    ),
    "256 digits, two epochs.",
  ),
  "desk": Size(
    Config(),
    "Digits and 5000 images of Fashion-MNIST at 14 x 14 pixels with small perceptrons, instead of "
    "CIFAR and ImageNet with ResNets and vision transformers; lam = 0.1 throughout.",
  ),
  "large": Size(
    Config(
      data=("fashion_mnist",), network="cnn", train=(40_000,), held=(10_000,),
      epochs=(20,), shrink=1,
    ),
    "Fashion-MNIST with a small convolutional network instead of CIFAR and ImageNet.",
  ),
}  # fmt: skip


class Data(NamedTuple):
  """One seed: images and labels of training, validation and test, weights, rows of batches."""

  x: dict
  y: dict
  params: Any
  rows: jax.Array


@functools.cache
def load_images(name: str, shrink: int) -> tuple[np.ndarray, np.ndarray]:
  """All images in [0, 1], float32[n, side, side, 1], and their labels."""
  data = datasets.load(name)
  if name == "digits":
    return (data["x"] / 16).reshape(-1, 8, 8, 1).astype(np.float32), data["y"]
  x, y = (np.concatenate([data[f"{k}_train"], data[f"{k}_test"]]) for k in "xy")
  side = 28 // shrink
  x = x.reshape(-1, side, shrink, side, shrink).mean((2, 4))
  return x[..., None], y


def transform(x: np.ndarray, train: np.ndarray, how: str, rng: np.random.Generator) -> np.ndarray:
  """Images in one of the forms; what is estimated is estimated on the training rows."""
  if how == "standardised":  # one mean and deviation for all pixels, as of a colour channel
    return (x - train.mean()) / train.std()
  if how == "other brightness each":
    return x * np.exp(rng.standard_normal((len(x), 1, 1, 1))).astype(np.float32)
  return x


def first_layers(config: Config) -> tuple[linen.Module, linen.Module]:
  """The layer with the gradient of the paper, and the plain one; they share parameters."""
  if config.network == "cnn":
    options = {"kernel_size": (5, 5), "strides": (2, 2), "kernel_init": HE}
    return nets.TrActConv(16, lam=config.lam, **options), linen.Conv(16, **options)
  width, options = config.hidden, {"kernel_init": HE}
  return nets.TrActDense(width, lam=config.lam, **options), linen.Dense(width, **options)


def make_apply(config: Config) -> tuple[Callable, Callable]:
  """(init(key, x), apply(params, x, tract)): one network, whose first layer is chosen by a bool."""
  ours, plain = first_layers(config)
  rest = nets.MLP((config.hidden,) * (config.layers - 1) + (CLASSES,), kernel_init=HE)
  flat = lambda x: x.reshape(len(x), -1)
  prepare = (lambda x: x) if config.network == "cnn" else flat

  def init(key: jax.Array, x: jax.Array) -> dict:
    first, second = jax.random.split(key)
    z, params = plain.init_with_output(first, prepare(x))
    return {"first": params, "rest": rest.init(second, flat(z))}

  def apply(params: dict, x: jax.Array, tract: jax.Array) -> jax.Array:
    x = prepare(x)
    # The same numbers; the cotangent goes to the one that was taken.
    z = jnp.where(tract, ours.apply(params["first"], x), plain.apply(params["first"], x))
    return rest.apply(params["rest"], jax.nn.relu(flat(z)))

  return init, apply


def make_data(config: Config, name: str, how: str, seed: int) -> Data:
  """One seed of one data set in one form; splits and weights are those of all other forms."""
  x, y = load_images(name, config.shrink)
  place = config.data.index(name)
  parts = (config.train[place], *(config.held[place],) * 2)
  rng = np.random.default_rng(seed)
  order = rng.permutation(len(y))[: sum(parts)]
  places = dict(zip(("train", "val", "test"), np.split(order, np.cumsum(parts)[:2]), strict=True))
  images = transform(x[order], x[places["train"]], how, rng)
  split = dict(zip(places, np.split(images, np.cumsum(parts)[:2]), strict=True))
  params = make_apply(config)[0](jax.random.key(seed), jnp.asarray(images[:1]))
  rows = batches(parts[0], config.batch, config.epochs[place], seed)
  return Data(split, {k: y[i].astype(np.int32) for k, i in places.items()}, params, rows)


def make_program(config: Config) -> Callable:
  """(data[seeds], settings) -> losses and accuracies [seeds, settings], in one program."""
  _, apply = make_apply(config)

  def train(setting: dict, data: Data) -> dict[str, jax.Array]:
    steps = setting["epochs"] * data.rows.shape[1]
    rate = lambda count: setting["rate"] * jnp.cos(jnp.pi / 2 * jnp.minimum(count / steps, 1)) ** 2
    optimizer = optax.sgd(rate, momentum=MOMENTUM)
    cross_entropy = optax.softmax_cross_entropy_with_integer_labels

    def loss(params: Any, x: jax.Array, y: jax.Array) -> jax.Array:
      return jnp.mean(cross_entropy(apply(params, x, setting["tract"]), y))

    def objective(params: Any, state: None, rows: jax.Array) -> tuple[jax.Array, None]:
      return loss(params, data.x["train"][rows], data.y["train"][rows]), state

    def evaluate(params: Any, state: None) -> dict[str, jax.Array]:
      del state
      answer = lambda part: jnp.argmax(apply(params, data.x[part], setting["tract"]), axis=1)
      right = {part: jnp.mean(answer(part) == data.y[part]) for part in ("val", "test")}
      some = slice(len(data.y["test"]))
      return {"loss": loss(params, data.x["train"][some], data.y["train"][some]), **right}

    return fit(objective, data.params, data.rows, optimizer, evaluate=evaluate).history

  over_seeds = sweeps.sweep(lambda data, settings: jax.vmap(train, (0, None))(settings, data))
  return jax.jit(lambda data, settings: over_seeds(data, shared=(settings,)))


def run(config: Config, progress: Progress) -> dict[str, Any]:
  """Every data set in every form: both layers at every rate, for all and for half of the epochs."""
  runs, choices = {}, []
  for name, epochs in zip(config.data, config.epochs, strict=True):
    lengths = (epochs // 2, epochs)
    settings, shape = grid(tract=(0, 1), epochs=lengths, rate=config.rates)
    settings["tract"] = settings["tract"].astype(bool)
    program = make_program(config)
    for how in progress.track(config.inputs, name):
      data = stack([make_data(config, name, how, seed) for seed in config.seed_numbers()])
      found = jax.device_get(progress.clock.call(program, data, settings, name=f"{name}, {how}"))
      found = {k: v.reshape(config.seeds, *shape, -1) for k, v in found.items()}
      kept: dict[str, Any] = {"plain": {}, "TrAct": {}, "TrAct, own rate": {}}
      for i, length in enumerate(lengths):
        scores = found["val"][..., -1].mean(0)[:, i]
        words = f"{name}, {how}, {length} epochs"
        best = [
          choose(f"rate of {layer}, {words}", config.rates, row, better="higher")
          for layer, row in zip(("plain", "TrAct"), scores, strict=True)
        ]
        choices += best
        plain, own = (config.rates.index(choice.chosen) for choice in best)
        for title, layer, j in (("plain", 0, plain), ("TrAct", 1, plain),
                                ("TrAct, own rate", 1, own)):  # fmt: skip
          test, loss = (found[key][:, layer, i, j] for key in ("test", "loss"))
          kept[title][("half", "all")[i]] = {
            "test": test[:, -1], "loss": loss[:, -1], "curve": loss.mean(0)
          }  # fmt: skip
      runs[f"{name}, {how}"] = kept
  return {"runs": runs, "choices": choices}


def _side(metrics: dict, where: str, layer: str, length: str, key: str = "test") -> Side:
  return Side(f"{layer}, {length} epochs", metrics["runs"][where][layer][length][key])


def _gain(metrics: dict, where: str) -> Side:
  ours, plain = (
    np.asarray(_side(metrics, where, name, "all").values, float) for name in ("TrAct", "plain")
  )
  return Side(where.split(", ", 1)[1], ours - plain)


def claims(metrics: dict, config: Config) -> list[Claim]:
  """More accurate at equal epochs, about as accurate in half, more so without standardisation."""
  made = []
  for name in config.data:
    standard, unit = f"{name}, {INPUTS[0]}", f"{name}, {INPUTS[1]}"
    accuracy = f"test accuracy, {name}, standardised inputs"
    plain = _side(metrics, standard, "plain", "all")
    made += [
      Claim(
        f"{name}_equal", "In as many epochs TrAct is more accurate than the plain layer.", "paper",
        accuracy, _side(metrics, standard, "TrAct", "all"), plain,
      ),
      Claim(
        f"{name}_half", "In half the epochs TrAct is less than .005 below the plain layer in all.",
        "paper", accuracy, _side(metrics, standard, "TrAct", "half"), plain, margin=-0.005,
      ),
      Claim(
        f"{name}_gain", "TrAct gains more accuracy for inputs in [0, 1] than for standardised "
        "ones.", "paper", f"gain of test accuracy, {name}", _gain(metrics, unit),
        _gain(metrics, standard),
      ),
    ]  # fmt: skip
  return made


def table(metrics: dict, config: Config) -> list[Row]:
  """Accuracy and training loss of every form and length, beside the plain layer."""
  rows = []
  for where in metrics["runs"]:
    for length in ("all", "half"):
      for key, what, better in (("test", "test accuracy", "higher"),
                                ("loss", "training loss", "lower")):  # fmt: skip
        rows += [
          Row(
            f"{what}, {where}", _side(metrics, where, layer, length, key),
            _side(metrics, where, "plain", length, key), better=better,
            note="At the rate that suits the plain layer, unless it says own rate.",
          )
          for layer in ("TrAct", "TrAct, own rate")
        ]  # fmt: skip
  return rows


def figure(record: dict) -> Any:
  """Training loss over the epochs for each form; beside it the accuracies."""
  runs = record["metrics"]["runs"]
  names = list(dict.fromkeys(where.split(", ")[0] for where in runs))
  fig, axes = new_figure(2, len(names))
  for j, name in enumerate(names):
    own = {w.split(", ", 1)[1]: v for w, v in runs.items() if w.startswith(name)}
    both = ("plain", "TrAct")
    lines = {f"{k}, {how}": v[k]["all"]["curve"] for how, v in own.items() for k in both}
    _figures.curves(axes[j], lines, xlabel="epoch", ylabel="training loss", title=name, log="y")
    groups = {
      f"{k}, {n} epochs": {how: v[k][n]["test"] for how, v in own.items()}
      for n in ("half", "all")
      for k in both
    }
    _figures.dots(axes[len(names) + j], groups, ylabel="test accuracy")
  return fig
