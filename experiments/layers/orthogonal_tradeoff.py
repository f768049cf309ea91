"""The weight of the orthogonality penalty trades clean accuracy for robustness, on digits."""

import dataclasses
import functools
import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import _figures, datasets
from experiments._claims import Claim, Side
from experiments._protocol import Paper, Progress, Row, Settings, Size, new_figure
from experiments._training import batches, fit, schedule
from jaxopt_robust import layers, losses, robustness

PAPER = Paper(
  title="Existence, stability and scalability of orthogonal convolutional neural networks",
  authors="Achour, Malgouyres and Mamalet",
  year=2022,
  claim="The weight of the orthogonality penalty tunes a trade-off between accuracy and "
  "orthogonality, for the benefit of both accuracy and robustness.",
  section="Experiments on CIFAR-10 and Imagenette",
  url="https://arxiv.org/abs/2108.05623",
)
CONVOLUTIONS = ("conv1", "conv2", "conv3", "conv4")
_POINTS = 60  # of a spectrum in the record


@dataclasses.dataclass(frozen=True)
class Config(Settings):
  """Settings.

  Attributes:
    data: "digits" (8 x 8) or "mnist5k" (28 x 28).
    channels: outputs of the four convolutions of 3 x 3 taps; the third has stride 2.
    weights: lam, weights of the sum of the layers' residuals, rising from 0.
    train: training images; as many as ``test`` of the rest are test images.
    test: test images.
    epochs: passes over the training images.
    batch: batch size.
    learning_rate: initial step size of Adam, falling to 0 along a cosine; of .001, .003, .01, .03
      the best by clean accuracy over the weights on held-out images of development seed 0.
    radius: largest change of an image in the Euclidean norm, for grey values in [0, 1].
    attack_steps: steps of the attack, each 2.5 radii over their number long.
  """

  seeds: int = 8
  data: str = "digits"
  channels: tuple[int, ...] = (16, 16, 32, 32)
  weights: tuple[float, ...] = (0.0, 1e-3, 1e-2, 1e-1)
  train: int = 1200
  test: int = 500
  epochs: int = 30
  batch: int = 60
  learning_rate: float = 1e-2
  radius: float = 0.5
  attack_steps: int = 20


SIZES = {
  "toy": Size(
    Config(
      seeds=2, channels=(4, 4, 8, 8), weights=(0.0, 0.1), train=120, test=60, epochs=1,
      attack_steps=2,
    ),
    "One epoch of a small network, two weights.",
  ),
  "desk": Size(Config(), "8 x 8 digits and four convolutions instead of CIFAR-10 and Imagenette."),
  "large": Size(
    Config(
      data="mnist5k", channels=(32, 32, 64, 64), train=4000, test=1000, epochs=60,
      weights=(0.0, 1e-4, 1e-3, 1e-2, 1e-1, 1.0), radius=1.5,
    ),
    "28 x 28 digits and four convolutions instead of CIFAR-10 and Imagenette.",
  ),
}  # fmt: skip
STRIDES = {f"{name}/kernel": 2 if name == "conv3" else 1 for name in CONVOLUTIONS}


class Data(NamedTuple):
  """Images [number, 1, side, side], labels, and the minibatches of a run."""

  x: Any
  y: Any
  x_test: Any
  y_test: Any
  rows: Any


def load_split(seed: int, config: Config) -> Data:
  """Training and test images, grey values in [0, 1]."""
  table = datasets.load(config.data)
  side = int(np.sqrt(table["x"].shape[1]))
  x = np.asarray(table["x"] / table["x"].max(), np.float32).reshape(-1, 1, side, side)
  order = np.random.default_rng(seed).permutation(len(x))
  first, second = order[: config.train], order[config.train : config.train + config.test]
  y = np.asarray(table["y"], np.int32)
  rows = batches(config.train, config.batch, config.epochs, seed)
  return Data(x[first], y[first], x[second], y[second], rows)


def init_params(key: jax.Array, side: int, config: Config) -> Any:
  """Normal weights of variance 1 / inputs, no bias at first; kernels as the package lays them."""
  params, width = {}, 1
  keys = dict(zip((*CONVOLUTIONS, "head"), jax.random.split(key, 5), strict=True))
  for name, out in zip(CONVOLUTIONS, config.channels, strict=True):
    kernel = jax.random.normal(keys[name], (out, width, 3, 3)) / np.sqrt(9 * width)
    params[name], width = {"kernel": kernel, "bias": jnp.zeros(out)}, out
  inputs = width * (side // 2) ** 2
  head = jax.random.normal(keys["head"], (10, inputs)) / np.sqrt(inputs)
  return params | {"head": {"kernel": head, "bias": jnp.zeros(10)}}


def apply(params: Any, x: jax.Array) -> jax.Array:
  """Scores: four circular convolutions, each with GroupSort, and a linear layer."""
  for name in CONVOLUTIONS:
    kernel, stride = params[name]["kernel"], STRIDES[f"{name}/kernel"]
    x = layers.circular_convolution(x, kernel, stride=stride, method="taps")
    x = layers.group_sort(x + params[name]["bias"][None, :, None, None])
  return x.reshape(len(x), -1) @ params["head"]["kernel"].T + params["head"]["bias"][None]


def spectra(params: Any, side: int) -> dict[str, jax.Array]:
  """Singular values of all layers, each sorted."""
  found = {}
  for name in CONVOLUTIONS:
    stride = STRIDES[f"{name}/kernel"]
    size = side // 2 if name == "conv4" else side
    values = layers.convolution_singular_values(params[name]["kernel"], size=size, stride=stride)
    found[name] = jnp.sort(values.ravel())
  return found | {"head": jnp.sort(jnp.linalg.svd(params["head"]["kernel"], compute_uv=False))}


@functools.cache
def make_program(config: Config) -> Any:
  """``program(key, weight, data)``: one network, its accuracies and spectra; lam is data."""

  def program(key: jax.Array, weight: jax.Array, data: Data) -> dict[str, Any]:
    key_init, key_attack = jax.random.split(key)
    side = data.x.shape[-1]
    params = init_params(key_init, side, config)
    factor = schedule("cosine", data.rows.shape[0] * data.rows.shape[1])
    optimizer = optax.adam(lambda count: config.learning_rate * factor(count))

    def objective(params: Any, state: Any, rows: jax.Array) -> Any:
      entropy = jnp.mean(losses.cross_entropy_loss(apply(params, data.x[rows]), data.y[rows]))
      penalty = layers.orthogonality_penalty(params, STRIDES, layout="OIHW")
      return entropy + weight * penalty, state

    nothing = lambda params, state: ()
    params = fit(objective, params, data.rows, optimizer, evaluate=nothing).params
    attacked = robustness.pgd_attack(
      lambda x: losses.cross_entropy_loss(apply(params, x), data.y_test), data.x_test, key_attack,
      radius=config.radius, stepsize=2.5 * config.radius / config.attack_steps,
      num_steps=config.attack_steps, norm="l2", bounds=(0.0, 1.0),
    )  # fmt: skip
    accuracy = lambda x: jnp.mean(jnp.argmax(apply(params, x), axis=1) == data.y_test)
    values = spectra(params, side)
    return {
      "clean": accuracy(data.x_test),
      "robust": accuracy(attacked),
      "product": jnp.prod(jnp.stack([v[-1] for v in values.values()])),
      "penalty": layers.orthogonality_penalty(params, STRIDES, layout="OIHW"),
      "spectra": values,
    }

  return jax.jit(program)


def run(config: Config, progress: Progress) -> dict[str, Any]:
  """Trains a network with every weight on every seed, attacks it, and looks at its layers."""
  program = make_program(config)
  found: dict[str, dict[str, list[float]]] = {}
  shown: dict[str, Any] = {}
  for seed in progress.track(config.seed_numbers(), "seeds"):
    data = load_split(seed, config)
    for weight in config.weights:
      outcome = progress.clock.call(
        program, jax.random.key(seed), jnp.float32(weight), data, name="training and attack"
      )
      drawn = outcome.pop("spectra")
      values = found.setdefault(f"{weight:g}", {})
      for key, value in outcome.items():
        values.setdefault(key, []).append(float(value))
      if seed == config.first_seed:
        share = np.linspace(0, 1, _POINTS)
        shown[f"{weight:g}"] = {n: np.quantile(np.asarray(v), share) for n, v in drawn.items()}
  return {"weights": found, "spectra": shown}


def _sides(metrics: dict[str, Any], key: str, ours: float, base: float) -> tuple[Side, Side]:
  ours_name, base_name = f"{ours:g}", f"{base:g}"
  found = metrics["weights"]
  return (
    Side(f"lam {ours_name}", found[ours_name][key]), Side(f"lam {base_name}", found[base_name][key])
  )  # fmt: skip


def claims(metrics: dict[str, Any], config: Config) -> list[Claim]:
  """Robustness and norms from weight to weight, and what it costs."""
  made, weights = [], config.weights
  robust = f"accuracy under PGD in the l2 ball of radius {config.radius:g}"
  for low, high in itertools.pairwise(weights):
    count = len(weights) - 1
    text = f"Robust accuracy is higher with lam = {high:g} than with {low:g}."
    sides = _sides(metrics, "robust", high, low)
    made.append(Claim(f"robust_{high:g}", text, "paper", robust, *sides, comparisons=count))
    text = f"The product of the layers' norms is lower with lam = {high:g} than with {low:g}."
    sides = _sides(metrics, "product", high, low)
    made.append(
      Claim(f"product_{high:g}", text, "paper", "product of the largest singular values", *sides,
            better="lower", scale="ratio", comparisons=count)
    )  # fmt: skip
  text = f"Clean accuracy with lam = {weights[-1]:g} is at most two points below that without."
  sides = _sides(metrics, "clean", weights[-1], weights[0])
  made.append(Claim("clean", text, "paper", "clean accuracy", *sides, margin=-0.02))
  return made


def table(metrics: dict[str, Any], config: Config) -> list[Row]:
  """Accuracies, norms and residuals with every weight beside none."""
  words = {
    "clean": ("clean accuracy", "higher"),
    "robust": ("robust accuracy", "higher"),
    "product": ("product of the layers' norms", "lower"),
    "penalty": ("sum of the orthogonality residuals", "lower"),
  }
  rows = []
  for key, (what, better) in words.items():
    for weight in config.weights:
      ours, base = _sides(metrics, key, weight, config.weights[0])
      rows.append(Row(what, ours, base if weight != config.weights[0] else None, better))
  return rows


def figure(record: dict[str, Any]) -> Any:
  """Accuracies and norms over the weights, and the singular values of the first seed's layers."""
  found, shown = record["metrics"]["weights"], record["metrics"]["spectra"]
  fig, axes = new_figure(1, 4, width=4.0)
  names = {"clean": "clean", "robust": "attacked"}
  accuracies = {
    words: {f"lam {n}": v[key] for n, v in found.items()} for key, words in names.items()
  }
  _figures.dots(axes[0], accuracies, ylabel="test accuracy", title="Accuracy")
  products = {"": {f"lam {n}": v["product"] for n, v in found.items()}}
  _figures.dots(axes[1], products, ylabel="product of the layers' norms", title="Lipschitz bound")
  axes[1].set_yscale("log")
  first, *_, last = shown
  for ax, name in ((axes[2], first), (axes[3], last)):
    lines = {layer: np.asarray(shown[name][layer], float) for layer in CONVOLUTIONS}
    share = np.linspace(0, 1, len(lines[CONVOLUTIONS[0]]))
    _figures.curves(ax, lines, share, xlabel="share of the singular values",
                    title=f"Convolutions, lam = {name}")  # fmt: skip
  top = max(np.max(shown[first][layer]) for layer in CONVOLUTIONS)
  for ax in axes[2:]:
    ax.set_ylim(0, 1.05 * top)
  return fig
