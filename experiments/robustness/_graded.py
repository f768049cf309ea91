"""Models that tell photographs by their crops, and how they are graded."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen

from experiments._training import fit, schedule, stack, train_all
from experiments.robustness._crops import (
  Network,
  Seed,
  cut,
  fit_head,
  generator,
  in_chunks,
  noisy_copies,
  oracle,
)
from jaxopt_robust import calibration, losses, robustness

# Model -> (linear, noise in training, radius of the attacks in training), trained from nothing.
TRAINED = {
  "linear": (True, 0.0, 0.0),
  "standard": (False, 0.0, 0.0),
  "noise": (False, 0.1, 0.0),
  "adversarial": (False, 0.0, 8 / 255),
}
HEAD, ORACLE = "EfficientNet", "the oracle"
KEYS = ("FMR", "SA", "PA", "valid", "oracle", "distance", "PGD", "PGD, oracle")


class Model(linen.Module):
  """A linear classifier, or convolutions whose strides are their widths; a parameter says which.

  Such convolutions are matrix products, which CPUs train 20 times as fast as overlapping ones.
  """

  classes: int
  widths: tuple[int, ...] = (24, 48, 48)
  kernels: tuple[int, ...] = (4, 2, 2)

  @linen.compact
  def __call__(self, x: jax.Array, is_linear: Any) -> jax.Array:
    flat = linen.Dense(self.classes)(x.reshape(len(x), -1) - 0.5)
    h = x - 0.5
    for width, kernel in zip(self.widths, self.kernels, strict=True):
      h = jax.nn.relu(linen.Dense(width)(cut(h, kernel)))
    deep = linen.Dense(self.classes)(jnp.mean(h, axis=(1, 2)))
    return jnp.where(is_linear, flat, deep)


def make_training(attacked: bool, classes: int, config: Any) -> Callable[[Any, Seed], Any]:
  """``train(setting, seed) -> (parameters, validation accuracy)``.

  The validation crops are attacked as the training crops are.
  """
  steps, model = config.train_steps, Model(classes, config.widths, config.kernels)

  def train(setting: dict[str, jax.Array], seed: Seed) -> Any:
    scores = lambda params, x: model.apply(params, x, setting["linear"])

    def moved(params: Any, x: jax.Array, y: jax.Array, key: jax.Array) -> jax.Array:
      if not attacked:
        return x
      radius, frozen = setting["radius"], jax.lax.stop_gradient(params)
      return robustness.pgd_attack(
        lambda v: losses.cross_entropy_loss(scores(frozen, v), y), x, key, radius=radius,
        num_steps=steps, stepsize=2.5 * radius / steps, bounds=(0.0, 1.0),
      )  # fmt: skip

    factor = schedule("cosine", seed.rows.shape[0] * seed.rows.shape[1])
    optimizer = optax.adam(lambda count: setting["rate"] * factor(count))

    def objective(params: Any, number: jax.Array, rows: jax.Array) -> Any:
      keys = jax.random.split(jax.random.fold_in(seed.key, number))
      x, y = seed.x["train"][rows], seed.y["train"][rows]
      x = moved(params, x, y, keys[0]) + setting["noise"] * jax.random.normal(keys[1], x.shape)
      return jnp.mean(losses.cross_entropy_loss(scores(params, x), y)), number + 1

    params = model.init(seed.key, seed.x["train"][:1], True)
    zero, nothing = jnp.zeros((), jnp.int32), lambda params, state: ()
    params = fit(objective, params, seed.rows, optimizer, state=zero, evaluate=nothing).params
    x, y = seed.x["val"], seed.y["val"]
    found = jnp.argmax(scores(params, moved(params, x, y, seed.key)), axis=1)
    return params, jnp.mean(found == y)

  return train


def train_models(
  config: Any, seeds: Sequence[Seed], rates: Sequence[Sequence[float]], progress: Any
) -> dict[str, Any]:
  """(parameters, validation accuracy) by model, with the axes (seeds, its rates, ...)."""
  some = lambda parts: {part: parts[part] for part in ("train", "val")}
  data = stack([seed._replace(x=some(seed.x), y=some(seed.y), heads=()) for seed in seeds])
  classes, trained = int(np.max(seeds[0].y["train"])) + 1, {}
  for attacked in (False, True):
    names = [name for name, (_, _, radius) in TRAINED.items() if (radius > 0) == attacked]
    own = [(name, rate) for name, of in zip(TRAINED, rates, strict=True) for rate in of
           if name in names]  # fmt: skip
    linear, noise, radius = zip(*(TRAINED[name] for name, _ in own), strict=True)
    settings = {
      "linear": np.array(linear), "noise": np.float32(noise), "radius": np.float32(radius),
      "rate": np.float32([rate for _, rate in own]),
    }  # fmt: skip
    found = train_all(
      progress, make_training(attacked, classes, config), settings, data,
      name="adversarial training" if attacked else "training",
    )  # fmt: skip
    for name in names:
      rows = np.array([i for i, (other, _) in enumerate(own) if other == name])
      trained[name] = jax.tree.map(lambda leaf, rows=rows: leaf[:, rows], found)
  return trained


def trained_scores(classes: int, config: Any) -> Callable[[Any, jax.Array], jax.Array]:
  """``scores((is_linear, parameters), x)`` of all models that were trained from nothing."""
  model = Model(classes, config.widths, config.kernels)
  return lambda params, x: model.apply(params[1], x, params[0])


def network_scores(net: Network) -> Callable[[Any, jax.Array], jax.Array]:
  """``scores((is_oracle, net's parameters, the oracle's heads, own head), x)``.

  The own head on the features, or the logarithm of the oracle's mean probability.
  """

  def scores(params: Any, x: jax.Array) -> jax.Array:
    is_oracle, weights, heads, own = params
    parts = net.pooled(weights, x)
    logits = [calibration.linear_head_logits(*pair) for pair in zip(heads, parts, strict=True)]
    mean = jax.nn.logsumexp(jax.nn.log_softmax(jnp.stack(logits)), axis=0) - np.log(len(logits))
    return jnp.where(is_oracle, mean, calibration.linear_head_logits(own, parts[-1]))

  return scores


def _no_scores(params: Any, x: jax.Array) -> jax.Array:
  """0 for all classes, as many as parameters."""
  return jnp.zeros((len(x), len(params)), x.dtype)


class Grading:
  """Programs that are compiled once for all models of a kind, seeds, and uses of the oracle."""

  def __init__(self, net: Network, config: Any, clock: Any) -> None:
    self.net, self.config, self.clock = net, config, clock
    self._programs: dict[Any, Callable[..., Any]] = {}

  def _call(self, function: Callable[..., Any], static: tuple, *args: Any, name: str) -> Any:
    """``function(*static)(*args)``, made and compiled the first time only."""
    if (name, static) not in self._programs:
      self._programs[name, static] = jax.jit(function(*static))
    return self.clock.call(self._programs[name, static], *args, name=name)

  def pooled(self, x: np.ndarray) -> list[np.ndarray]:
    """Features of crops at all depths."""
    chunk = self.config.chunk
    one = lambda rows: self._call(self._pooled, (), self.net.params, rows, name="features")
    return in_chunks(one, x, chunk)

  def noisy(self, seed: Seed) -> np.ndarray:
    """The crops for the oracle's heads, as they are and as the generator makes noisy ones."""
    config = self.config
    made = lambda: functools.partial(
      noisy_copies, noise=config.latent_noise, width=config.patch
    )  # fmt: skip
    return np.asarray(
      self._call(made, (), seed.patches, seed.key, seed.x["oracle"], name="noisy copies")
    )

  def _pooled(self) -> Callable[..., Any]:
    return self.net.pooled

  def head(self, x: np.ndarray, y: np.ndarray, c: float) -> Any:
    """Logistic regression on features."""
    made = lambda classes: lambda x, y, c: fit_head(x, y, classes, c)
    return self._call(made, (int(np.max(y)) + 1,), x, y, np.float32(c), name="heads")

  def seen(self, seed: Seed, x: Any) -> np.ndarray:
    """What the oracle sees."""
    made = lambda: lambda params, heads, x: oracle(self.net, params, heads)(x)
    return np.asarray(self._call(made, (), self.net.params, seed.heads, x, name="oracle"))

  def _generate(self, scores: Any, budget: int) -> Callable[..., Any]:
    net, config = self.net, self.config

    def generate(params: Any, weights: Any, seed: Seed) -> Any:
      encode, decode = generator(seed.patches, config.patch)
      x, y = seed.x["test"], seed.y["test"]
      found = robustness.fmr_generate(
        scores, params, x, y, encode=encode, decode=decode, oracle=oracle(net, weights, seed.heads),
        num_steps=budget, stepsize=config.stepsize,
      )  # fmt: skip
      far = jnp.sqrt(jnp.sum((found.x - decode(encode(x))) ** 2, axis=(1, 2, 3)))
      return found, jnp.sum(far * found.valid) / jnp.maximum(jnp.sum(found.valid), 1)

    return generate

  def _attack(self, scores: Any) -> Callable[..., Any]:
    def attack(params: Any, seed: Seed, radius: jax.Array) -> jax.Array:
      x, y = seed.x["test"], seed.y["test"]
      return robustness.pgd_attack(
        lambda v: robustness.cross_entropy_attack_loss(scores(params, v), y), x, seed.key,
        radius=radius, stepsize=0.25 * radius, num_steps=self.config.test_steps, norm="l2",
        bounds=(0.0, 1.0),
      )  # fmt: skip

    return attack

  def __call__(self, scores: Any, params: Any, seed: Seed, budget: int) -> dict[str, Any]:
    """FMR of a model on the test crops of a seed, and plain PGD that goes as far."""
    small = seed._replace(x={"test": seed.x["test"]}, y={"test": seed.y["test"]}, rows=())
    logits = lambda x: self._call(lambda own: own, (scores,), params, x, name="scores")
    # Without steps no model is asked: one program, without its gradients, does for all.
    way = (scores, params) if budget else (_no_scores, np.zeros(len(small.heads[0].intercepts)))
    found, distance = self._call(
      self._generate, (way[0], budget), way[1], self.net.params, small, name=f"{budget} steps"
    )
    x, y, valid = small.x["test"], small.y["test"], np.asarray(found.valid)
    score = robustness.fmr_score(logits(x), logits(found.x), y, valid=valid)
    share = lambda right: float(np.sum(right * valid) / max(np.sum(valid), 1))
    grade = {
      "FMR": score.fmr, "SA": score.standard, "PA": score.perturbed, "valid": score.valid,
      "oracle": share(self.seen(seed, found.x) == y), "distance": distance, "example": found.x,
    }  # fmt: skip
    if budget:
      radius = jnp.maximum(distance, 1e-6)
      moved = self._call(self._attack, (scores,), params, small, radius, name="PGD")
      right = np.argmax(logits(moved), axis=1) == y
      grade |= {"PGD": np.mean(right), "PGD, oracle": np.mean(self.seen(seed, moved) == y)}
    return grade
