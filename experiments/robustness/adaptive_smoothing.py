"""Adaptive smoothing: clean against robust accuracy of an accurate and a robust network, mixed."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import _figures
from experiments._claims import Claim, Side
from experiments._protocol import Paper, Progress, Row, Settings, Size, new_figure
from experiments._training import train_all
from experiments.robustness._mixing import all_of, make_apgd, make_evaluation, prepare, settings
from jaxopt_robust import robustness

PAPER = Paper(
  title="Improving the accuracy-robustness trade-off of classifiers via adaptive smoothing",
  authors="Bai, Anderson, Kim and Sojoudi",
  year=2024,
  claim="Mixing the probabilities of an accurate and a robust network regains most of the clean "
  "accuracy at a small loss of robustness, since the robust network is surer where it is right; "
  "the mixture inherits certificates, and a network that chooses the weight improves it further.",
  section="Experiments on CIFAR-10 and CIFAR-100",
  url="https://arxiv.org/abs/2301.12554",
)
PROBABILITY, SHARP, LOGITS = "probabilities", "probabilities, s_h = 3", "logits"
NETWORK, CHOICE = "mixing network", "random choice"
METHODS = (PROBABILITY, SHARP, LOGITS, NETWORK)

TWICE = (
  "Recorded twice on the report seeds: at first a mixture without a flip in the range searched "
  "counted as one that flips at 0, so that both claims on radii were open; all else is the same."
)


@dataclasses.dataclass(frozen=True)
class Config(Settings):
  """Settings.

  Rates are the best on held-out training images of development seeds 0 to 3: for g, of .001, .003,
  .01 and .03 by clean accuracy, which hardly depends on it; for h, of .0003, .001, .002, .003, .005
  and .01 by robust accuracy; for the mixing network, of .00001, .00003, .0001, .0003 and .001 by
  ``mean_robust``.

  Attributes:
    data: "digits" or "fashion_mnist".
    sizes: training, validation and test images.
    hidden: width of the hidden layers.
    width: of the mixing network.
    blocks: residual blocks of the mixing network after the first.
    radius: of the attacks, in the largest-entry norm, for grey values in [0, 1].
    train_radius: of the attacks that h is trained on; so large that h loses clean accuracy.
    alphas: weights of h, 0 and 1 among them.
    biases: added to gamma of the mixing network in evaluation, which moves all alphas.
    alpha_range: of the mixing network in evaluation.
    rates: of g, h and the mixing network.
    epochs: passes over the training set, of g and h.
    mixing_epochs: of the mixing network.
    batch: batch size.
    train_steps: attack steps in training of h.
    mixing_steps: attack steps in training of the mixing network.
    test_steps: steps of each attack in the evaluation.
    sigma: noise of the smoothed linear classifiers that are certified.
  """

  data: str = "digits"
  sizes: tuple[int, ...] = (997, 300, 400)
  hidden: int = 128
  width: int = 32
  blocks: int = 1
  radius: float = 0.12
  train_radius: float = 0.3
  alphas: tuple[float, ...] = (0.0, 0.4, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0)
  biases: tuple[float, ...] = (-3.0, -1.5, 0.0, 1.5, 3.0, 5.0)
  alpha_range: tuple[float, ...] = (0.15, 0.99)
  rates: tuple[float, ...] = (0.01, 0.003, 0.0003)
  epochs: int = 200
  mixing_epochs: int = 20
  batch: int = 64
  train_steps: int = 7
  mixing_steps: int = 10
  test_steps: int = 20
  sigma: float = 0.5


SIZES = {
  "toy": Size(
    Config(
      seeds=2, sizes=(128, 40, 40), hidden=16, width=8, blocks=0, alphas=(0.0, 0.9, 1.0),
      biases=(0.0,), epochs=4, mixing_epochs=1, train_steps=1, mixing_steps=1, test_steps=2,
    ),
    "Four epochs, two attack steps.",
  ),
  "desk": Size(
    Config(),
    "8 x 8 digits and perceptrons instead of CIFAR and residual networks; PGD on two losses, and "
    "past the mixing network, instead of AutoAttack.",
  ),
  "large": Size(
    Config(
      data="fashion_mnist", sizes=(55000, 5000, 10000), hidden=256, width=64, radius=0.05,
      train_radius=0.1, epochs=30, mixing_epochs=5, batch=256, train_steps=10, mixing_steps=20,
      test_steps=50,
    ),
    "Fashion-MNIST and small convolutional networks instead of CIFAR and residual networks.",
  ),
}  # fmt: skip


@jax.jit
def certify(key: jax.Array, sigma: jax.Array) -> dict[str, jax.Array]:
  """Least distance between a flip and the certified radius, for smoothed half-spaces in 20 numbers.

  g is sure of the other class everywhere, the worst there is. The flip is sought along the weights.
  """
  key_weights, key_x = jax.random.split(key)
  weights, x = jax.random.normal(key_weights, (20,)), jax.random.normal(key_x, (40, 20))
  unit = weights / jnp.linalg.norm(weights)
  x = x * jnp.sign(x @ unit)[:, None]
  times = jnp.linspace(0, 3, 301)

  def one(alpha: jax.Array) -> dict[str, jax.Array]:
    h = lambda x: jax.scipy.stats.norm.cdf(jnp.stack([x @ unit, -(x @ unit)], -1) / sigma)
    g = jnp.broadcast_to(jnp.array([0.0, 1e4]), (40, 2))

    def is_right(t: jax.Array) -> jax.Array:
      mixed = robustness.mix_log_probs(g, jnp.log(h(x - t[:, None] * unit[None])), alpha)
      return jnp.argmax(mixed, axis=1) == 0

    def halve(_: int, ends: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
      low, high = ends
      middle = (low + high) / 2
      right = is_right(middle)
      return jnp.where(right, middle, low), jnp.where(right, high, middle)

    right = jax.lax.map(lambda t: is_right(jnp.broadcast_to(t, 40)), times)
    first = jnp.argmin(right, axis=0)  # the first point that is wrong
    ends = (times[jnp.maximum(first - 1, 0)], times[first])
    flip = jax.lax.fori_loop(0, 20, halve, ends)[1]
    flip = jnp.where(jnp.all(right, axis=0), times[-1], flip)  # none as far as was looked
    p = h(x)
    smooth = robustness.mixed_radius_smoothing(p[:, 0], p[:, 1], alpha, sigma=sigma)
    slope = robustness.smoothed_lipschitz(sigma)
    lipschitz = robustness.mixed_radius_lipschitz(p, alpha, slope)
    slack = lambda r: jnp.min(jnp.where(r > 0, flip - r, jnp.inf))
    return {"smoothing": slack(smooth), "Lipschitz": slack(lipschitz)}

  found = jax.vmap(one)(jnp.array([0.6, 0.7, 0.8, 0.9]))
  return {name: jnp.min(v) for name, v in found.items()}


def run(config: Config, progress: Progress) -> dict[str, Any]:
  """Trains both networks and the one that mixes them, attacks all mixtures, certifies."""
  data = prepare(config, config.rates, progress)
  setting, rows = settings(config)
  evaluate = make_evaluation(config, "test")
  one = lambda _, data: all_of(config, lambda row: evaluate(row, data), setting)
  found = train_all(progress, one, np.zeros(1, np.float32), data, name="attacks")
  found = {key: value[:, 0] for key, value in found.items()}
  keys = ("clean", "robust", "through")
  curves = {name: {k: found[k][:, rows[name]] for k in keys} for name in METHODS}
  places = {"mixture": config.alphas.index(0.9), "h": config.alphas.index(1.0)}
  few = jax.tree.map(lambda v: v[list(places.values())], setting)
  apgd = train_all(progress, make_apgd(config), few, data, name="APGD")
  attacks = {
    name: {"APGD": apgd[:, i], "PGD": found["PGD"][:, place]}
    for i, (name, place) in enumerate(places.items())
  }
  slack = [
    progress.clock.call(certify, jax.random.key(seed), np.float32(config.sigma), name="radii")
    for seed in config.seed_numbers()
  ]
  return {
    "curves": curves, "attacks": attacks,
    "lead": {k: v[:, places["h"]] for k, v in found.items() if ", " in k},
    "slack": {name: [float(one[name]) for one in slack] for name in slack[0]},
  }  # fmt: skip


def mean_robust(curves: dict[str, Any], name: str, robust_key: str = "robust") -> list[float]:
  """Robust accuracy at a clean accuracy, averaged over those between h and g, a number a seed.

  At each clean accuracy counts the most robust mixture that has it at least, g and h themselves
  among them; a random choice between g and h lies on the line between both.
  """
  keys = ("clean", robust_key)
  ends = {key: np.asarray(curves[PROBABILITY][key], float)[:, [0, -1]] for key in keys}
  if name == CHOICE:
    return ends[robust_key].mean(axis=1).tolist()
  result = []
  for i, (high, low) in enumerate(ends["clean"]):
    clean, robust = (np.r_[np.asarray(curves[name][k][i], float), ends[k][i]] for k in keys)
    wanted = np.linspace(min(low, high), high, 101)
    result.append(np.mean([robust[clean >= c - 1e-9].max() for c in wanted]))
  return np.asarray(result).tolist()


def _at(metrics: dict[str, Any], config: Config, alpha: float, key: str) -> np.ndarray:
  """Accuracies of mixed probabilities at one alpha."""
  curve = np.asarray(metrics["curves"][PROBABILITY][key], float)
  return curve[:, config.alphas.index(alpha)]


def claims(metrics: dict[str, Any], config: Config) -> list[Claim]:
  """The frontier, what is regained and kept, the mechanism, certificates, the attacks."""
  side = lambda name: Side(name, mean_robust(metrics["curves"], name))
  where = "robust accuracy, mean over clean accuracies between h and g"
  rows = (
    ("frontier", f"Mixed {PROBABILITY} keep .05 more of it than a random choice of g or h.",
     "paper", PROBABILITY, CHOICE, 0.05),
    ("logits", f"Mixed {PROBABILITY} keep more of it than mixed logits.", "paper", PROBABILITY,
     LOGITS, 0.0),
    ("network", "A mixing network keeps more of it than constant weights.", "paper", NETWORK,
     PROBABILITY, 0.0),
    ("scale", "With s_h = 3 no more than .02 of it is lost.", "expected", SHARP, PROBABILITY,
     -0.02),
  )  # fmt: skip
  made = [
    Claim(key, text, kind, where, side(a), side(b), margin=margin)  # type: ignore[arg-type]
    for key, text, kind, a, b, margin in rows
  ]
  at = functools.partial(_at, metrics, config)
  gap = at(0.0, "clean") - at(1.0, "clean")
  regained = (at(0.9, "clean") - at(1.0, "clean")) / np.where(gap == 0, np.nan, gap)
  text = "At alpha = .9 at least half of the clean accuracy that h lost is regained."
  made.append(
    Claim("regained", text, "paper", "share of the clean gap", Side("alpha .9", regained.tolist()),
          Side("half", 0.5))
  )  # fmt: skip
  text = "At alpha = .9 at least .85 of the robust accuracy of h is kept."
  kept = [Side(f"alpha {a:g}", at(a, "robust").tolist()) for a in (0.9, 1.0)]
  made.append(Claim("kept", text, "paper", "robust accuracy", *kept, margin=0.85, scale="ratio"))
  for part in ("clean", "attacked"):
    text = f"On {part} images the lead of h is larger where h is right than where it is wrong."
    sides = [Side(n, metrics["lead"][f"{part}, {n}"]) for n in ("right", "wrong")]
    made.append(Claim(f"margin_{part}", text, "paper", "lead of the likeliest class", *sides))
  for name, values in metrics["slack"].items():
    text = f"No mixture flips within its certified radius ({name}): the distance is positive."
    made.append(
      Claim(f"radius_{name.lower()}", text, "theory", "first flip minus radius",
            Side(name, values), Side("zero", 0.0))
    )  # fmt: skip
  for target, entry in metrics["attacks"].items():
    text = f"AutoPGD leaves no more than .005 above what PGD of as many steps leaves ({target})."
    sides = [Side(name, entry[name]) for name in ("APGD", "PGD")]
    made.append(
      Claim(f"apgd_{target}", text, "expected", "robust accuracy", *sides, better="lower",
            margin=-0.005)
    )  # fmt: skip
  return made


def table(metrics: dict[str, Any], config: Config) -> list[Row]:
  """Means over the frontier, every alpha, and what stands beside."""
  curves = metrics["curves"]
  base = Side(CHOICE, mean_robust(curves, CHOICE))
  rows = [
    Row(f"mean robust accuracy over the frontier, {config.data}",
        Side(name, mean_robust(curves, name)), base)
    for name in METHODS
  ]  # fmt: skip
  through = Side("attacks through it only", mean_robust(curves, NETWORK, "through"))
  whole = Side("all attacks", mean_robust(curves, NETWORK))
  rows.append(Row("mean robust accuracy, mixing network", through, whole))
  h = {key: Side("h alone", _at(metrics, config, 1.0, key).tolist()) for key in ("clean", "robust")}
  for alpha in config.alphas[:-1]:
    for key, other in h.items():
      ours = Side(f"alpha {alpha:g}", _at(metrics, config, alpha, key).tolist())
      rows.append(Row(f"{key} accuracy, mixed probabilities", ours, other))
  for target, entry in metrics["attacks"].items():
    sides = [Side(name, entry[name]) for name in ("APGD", "PGD")]
    rows.append(Row(f"accuracy left, {target}, {config.test_steps} steps", *sides, better="lower"))
  for part in ("clean", "attacked"):
    sides = [Side(n, metrics["lead"][f"{part}, {n}"]) for n in ("right", "wrong")]
    rows.append(Row(f"lead of h's likeliest class, {part}", *sides))
  rows[0] = rows[0]._replace(note=TWICE)
  return rows


def figure(record: dict[str, Any]) -> Any:
  """Frontiers, means along them, and the lead of h where it is right and wrong."""
  metrics, (fig, axes) = record["metrics"], new_figure(1, 3)
  for (name, curve), marker in zip(metrics["curves"].items(), "osD^", strict=True):
    clean, robust = (np.asarray(curve[k], float).mean(axis=0) for k in ("clean", "robust"))
    axes[0].plot(clean, robust, marker + "-", ms=4, lw=1, label=name)
  ends = [np.asarray(metrics["curves"][PROBABILITY][k], float).mean(0) for k in ("clean", "robust")]
  axes[0].plot(*(v[[0, -1]] for v in ends), "k:", lw=1, label=CHOICE)
  axes[0].set(xlabel="clean accuracy", ylabel="robust accuracy", title="Frontier, mean over seeds")
  axes[0].legend(fontsize=7)
  groups = {"": {n: mean_robust(metrics["curves"], n) for n in (CHOICE, *METHODS)}}
  _figures.dots(axes[1], groups, ylabel="mean robust accuracy", title="Along the frontier")
  parts = {
    name: {part: metrics["lead"][f"{part}, {name}"] for part in ("clean", "attacked")}
    for name in ("right", "wrong")
  }
  title = "Where h is right and wrong"
  _figures.dots(axes[2], parts, ylabel="lead of the likeliest class", title=title)
  return fig
