"""An autoencoder, an oracle and models to be graded on images that are generated against them."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen

from experiments import datasets
from experiments._training import batches, fit, schedule, stack, train_all
from jaxopt_robust import losses, nets, robustness

# Model -> (linear, noise in training, radius of the attacks in training).
MODELS = {
  "linear": (True, 0.0, 0.0),
  "standard": (False, 0.0, 0.0),
  "noise": (False, 0.2, 0.0),
  "adversarial": (False, 0.0, 0.1),
}


class Data(NamedTuple):
  """One split with minibatches, and the networks once they are trained."""

  x: dict[str, jax.Array]
  y: dict[str, jax.Array]
  rows: jax.Array
  key: jax.Array
  generator: Any = ()
  oracle: Any = ()


class Autoencoder(linen.Module):
  """Two perceptrons with one hidden layer; images have entries in [0, 1]."""

  hidden: int
  latent: int
  pixels: int = 64

  def setup(self) -> None:
    self.encoder = nets.MLP((self.hidden, self.latent))
    self.decoder = nets.MLP((self.hidden, self.pixels))

  def encode(self, x: jax.Array) -> jax.Array:
    return self.encoder(x)

  def decode(self, z: jax.Array) -> jax.Array:
    return jax.nn.sigmoid(self.decoder(z))

  def __call__(self, x: jax.Array) -> jax.Array:
    return self.decode(self.encode(x))


class Model(linen.Module):
  """A linear classifier or a perceptron, by a parameter that no gradient changes."""

  hidden: int

  @linen.compact
  def __call__(self, x: jax.Array, is_linear: jax.Array) -> jax.Array:
    deep = nets.MLP((self.hidden, self.hidden, 10))(x)
    return jnp.where(is_linear, linen.Dense(10)(x), deep)


def load_split(seed: int, config: Any) -> Data:
  """Training, validation and test images, grey values in [0, 1]."""
  table = datasets.load("digits")
  x, y = np.float32(table["x"] / np.max(table["x"])), np.asarray(table["y"], np.int32)
  order = np.random.default_rng(seed).permutation(len(x))[: sum(config.sizes)]
  split = np.split(order, np.cumsum(config.sizes)[:-1])
  names = ("train", "val", "test")
  parts = lambda a: {n: jnp.asarray(a[r]) for n, r in zip(names, split, strict=True)}
  rows = jnp.asarray(batches(config.sizes[0], config.batch, config.epochs, seed))
  return Data(parts(x), parts(y), rows, jax.random.key(seed))


def _fit(config: Any, rate: Any, params: Any, loss: Callable[..., jax.Array], data: Data) -> Any:
  """``loss(params, x, y, key)`` over the minibatches."""
  factor = schedule("cosine", data.rows.shape[0] * data.rows.shape[1])
  optimizer = optax.adam(lambda count: rate * factor(count))

  def objective(params: Any, number: jax.Array, rows: jax.Array) -> Any:
    key = jax.random.fold_in(data.key, number)
    return loss(params, data.x["train"][rows], data.y["train"][rows], key), number + 1

  zero = jnp.zeros((), jnp.int32)
  nothing = lambda params, state: ()
  return fit(objective, params, data.rows, optimizer, state=zero, evaluate=nothing).params


def generator(config: Any, params: Any) -> tuple[Callable[..., Any], Callable[..., Any]]:
  """``encode`` and ``decode`` of trained parameters."""
  model = Autoencoder(config.hidden, config.latent)
  return (
    lambda x: model.apply(params, x, method="encode"),
    lambda z: model.apply(params, z, method="decode"),
  )


def oracle(config: Any, members: Any) -> Callable[[jax.Array], jax.Array]:
  """Classes by the mean probability of the members, parameters with a leading axis of them."""
  one = lambda i: jax.tree.map(lambda p: p[i], members)
  model = nets.MLP((2 * config.hidden, 2 * config.hidden, 10))
  return robustness.oracle_ensemble(model.apply, [one(i) for i in range(config.members)])


def make_autoencoder(config: Any) -> Callable[[Any, Data], Any]:
  """``train(rate, data) -> (parameters, validation error)``."""
  model = Autoencoder(config.hidden, config.latent)

  def train(rate: jax.Array, data: Data) -> Any:
    loss = lambda params, x, y, key: jnp.mean((model.apply(params, x) - x) ** 2)
    params = model.init(data.key, data.x["train"][:1])
    params = _fit(config, rate, params, loss, data)
    return params, jnp.mean((model.apply(params, data.x["val"]) - data.x["val"]) ** 2)

  return train


def make_member(config: Any) -> Callable[[Any, Data], Any]:
  """``train(setting, data) -> (parameters, validation accuracy)`` of a member of the oracle.

  On noisy images and on decoded noisy latent codes.
  """
  model = nets.MLP((2 * config.hidden, 2 * config.hidden, 10))

  def train(setting: dict[str, jax.Array], data: Data) -> Any:
    encode, decode = generator(config, data.generator)

    def loss(params: Any, x: jax.Array, y: jax.Array, key: jax.Array) -> jax.Array:
      keys = jax.random.split(jax.random.fold_in(key, setting["member"]), 2)
      noisy = x + 0.2 * jax.random.normal(keys[0], x.shape)
      latent = encode(x)
      made = decode(latent + config.latent_noise * jax.random.normal(keys[1], latent.shape))
      scores = model.apply(params, jnp.concatenate([noisy, made]))
      return jnp.mean(losses.cross_entropy_loss(scores, jnp.concatenate([y, y])))

    init = model.init(jax.random.fold_in(data.key, setting["member"]), data.x["train"][:1])
    params = _fit(config, setting["rate"], init, loss, data)
    right = jnp.argmax(model.apply(params, data.x["val"]), axis=1) == data.y["val"]
    return params, jnp.mean(right)

  return train


def make_model(config: Any) -> Callable[[Any, Data], Any]:
  """``train(setting, data) -> (parameters, validation accuracy)`` of a model that is graded.

  The validation images are attacked with the radius of the training, which may be 0.
  """
  model = Model(config.hidden)

  def train(setting: dict[str, jax.Array], data: Data) -> Any:
    scores = lambda params, x: model.apply(params, x, setting["linear"])
    radius, steps = setting["radius"], config.train_steps
    attack = functools.partial(
      robustness.pgd_attack, radius=radius, num_steps=steps, stepsize=2.5 * radius / steps,
      bounds=(0.0, 1.0),
    )  # fmt: skip

    def loss(params: Any, x: jax.Array, y: jax.Array, key: jax.Array) -> jax.Array:
      frozen, keys = jax.lax.stop_gradient(params), jax.random.split(key)
      entropy = lambda v: losses.cross_entropy_loss(scores(frozen, v), y)
      moved = attack(entropy, x, keys[0]) + setting["noise"] * jax.random.normal(keys[1], x.shape)
      return jnp.mean(losses.cross_entropy_loss(scores(params, moved), y))

    init = model.init(data.key, data.x["train"][:1], True)
    params = _fit(config, setting["rate"], init, loss, data)
    x, y = data.x["val"], data.y["val"]
    moved = attack(lambda v: losses.cross_entropy_loss(scores(params, v), y), x, data.key)
    return params, jnp.mean(jnp.argmax(scores(params, moved), axis=1) == y)

  return train


def prepare(config: Any, progress: Any) -> tuple[Data, dict[str, Any], Any]:
  """All splits with generators and oracles; settings and parameters of the models."""
  data = stack([load_split(seed, config) for seed in config.seed_numbers()])
  rate = np.float32(config.rates[:1])
  params, _ = train_all(progress, make_autoencoder(config), rate, data, name="generator")
  data = data._replace(generator=jax.tree.map(lambda p: p[:, 0], params))
  members = {
    "member": np.arange(config.members), "rate": np.full(config.members, config.rates[1], "f"),
  }  # fmt: skip
  params, _ = train_all(progress, make_member(config), members, data, name="oracle")
  data = data._replace(oracle=params)
  setting = settings(config.rates[2:])
  params, _ = train_all(progress, make_model(config), setting, data, name="models")
  return data, setting, params


def settings(rates: Any) -> dict[str, np.ndarray]:
  """Settings of ``make_model``, a row a model."""
  linear, noise, radius = zip(*MODELS.values(), strict=True)
  return {
    "linear": np.array(linear), "noise": np.float32(noise), "radius": np.float32(radius),
    "rate": np.float32(rates),
  }  # fmt: skip


def make_grading(config: Any, budget: int) -> Callable[[Any, Any], dict[str, jax.Array]]:
  """``grade((setting, parameters), data)``: FMR, and plain PGD that goes as far."""
  model = Model(config.hidden)

  def grade(run: tuple[Any, Any], data: Data) -> dict[str, jax.Array]:
    setting, params = run
    scores = lambda params, x: model.apply(params, x, setting["linear"])
    encode, decode = generator(config, data.generator)
    decide, x, y = oracle(config, data.oracle), data.x["test"], data.y["test"]
    found = robustness.fmr_generate(
      scores, params, x, y, encode=encode, decode=decode, oracle=decide, num_steps=budget,
      stepsize=config.stepsize,
    )  # fmt: skip
    score = robustness.fmr_score(scores(params, x), scores(params, found.x), y, valid=found.valid)
    first = decode(encode(x))
    share = lambda v: jnp.sum(v * found.valid) / jnp.sum(found.valid)
    distance = share(jnp.linalg.norm(found.x - first, axis=1))
    entropy = lambda v: robustness.cross_entropy_attack_loss(scores(params, v), y)
    moved = robustness.pgd_attack(
      entropy, x, data.key, radius=distance, stepsize=0.25 * distance, num_steps=config.test_steps,
      norm="l2", bounds=(0.0, 1.0),
    )  # fmt: skip
    return {
      "FMR": score.fmr, "SA": score.standard, "PA": score.perturbed, "valid": score.valid,
      "oracle": share(decide(found.x) == y), "distance": distance, "example": found.x[:8],
      "PGD": jnp.mean(jnp.argmax(scores(params, moved), axis=1) == y),
      "PGD, oracle": jnp.mean(decide(moved) == y),
    }  # fmt: skip

  return grade
