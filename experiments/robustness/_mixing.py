"""An accurate and a robust classifier, a network that mixes them, and attacks on all mixtures."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen

from experiments import datasets
from experiments._convolution import Convolution
from experiments._training import batches, fit, schedule, stack, train_all
from jaxopt_robust import losses, nets, numerics, robustness

PROBABILITY, LOGITS, NETWORK = range(3)  # kinds of mixtures
# What an attack differentiates: all, all but the weight, the robust network alone. A weight that
# saturates has no gradient, and would hide how weak a mixture is.
WHOLE, FIXED, ROBUST = range(3)
# The attacks whose union counts: (on the margin instead of the cross entropy, differentiates).
ATTACKS = ((False, WHOLE), (True, WHOLE), (True, FIXED), (True, ROBUST))


class Data(NamedTuple):
  """One split with its initial weights and minibatches, and the networks once they are trained.

  ``params`` has a leading axis (g, h); ``trained`` has the keys "g", "h" and "mixing".
  """

  x: dict[str, jax.Array]
  y: dict[str, jax.Array]
  rows: jax.Array
  rows_mixing: jax.Array
  params: Any
  mixing: Any
  key: jax.Array
  trained: Any = ()


class Classifier(linen.Module):
  """A perceptron, or for images of a given side two convolutions and a dense layer.

  Returns the scores, and features at two depths.
  """

  hidden: int
  side: int = 0

  @linen.compact
  def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    if not self.side:
      shallow = jax.nn.relu(linen.Dense(self.hidden)(x))
      deep = jax.nn.relu(linen.Dense(self.hidden)(shallow))
      return linen.Dense(10)(deep), shallow, deep
    image = x.reshape(-1, self.side, self.side, 1)
    shallow = jax.nn.relu(Convolution(16, 3, 2)(image))
    deep = jax.nn.relu(Convolution(32, 3, 2)(shallow))
    last = jax.nn.relu(linen.Dense(self.hidden)(deep.reshape(len(x), -1)))
    return linen.Dense(10)(last), shallow, deep


def classifier(config: Any) -> Classifier:
  """The network of both classifiers."""
  return Classifier(config.hidden, 28 if config.data == "fashion_mnist" else 0)


def mixer(config: Any) -> nets.MixingNet:
  """The network that chooses alpha."""
  return nets.MixingNet(config.width, config.blocks)


def load_split(seed: int, config: Any) -> Data:
  """Training, validation and test images, grey values in [0, 1]."""
  table, sizes = datasets.load(config.data), config.sizes
  if config.data == "fashion_mnist":
    table = {name: np.concatenate([table[f"{name}_train"], table[f"{name}_test"]]) for name in "xy"}
  x, y = np.float32(table["x"] / np.max(table["x"])), np.asarray(table["y"], np.int32)
  order = np.random.default_rng(seed).permutation(len(x))
  split = np.split(order[: sum(sizes)], np.cumsum(sizes)[:-1])
  key = jax.random.key(seed)
  parts = lambda a: {n: jnp.asarray(a[r]) for n, r in zip(("train", "val", "test"), split)}  # noqa: B905
  rows, rows_mixing = (
    jnp.asarray(batches(sizes[0], config.batch, epochs, seed))
    for epochs in (config.epochs, config.mixing_epochs)
  )
  return Data(parts(x), parts(y), rows, rows_mixing, *_init(config, key, x[:2]), key)


@functools.partial(jax.jit, static_argnums=0)  # one program for all seeds
def _init(config: Any, key: jax.Array, x: jax.Array) -> tuple[Any, Any]:
  key_g, key_h, key_mixing = jax.random.split(key, 3)
  pair = [classifier(config).init(k, x) for k in (key_g, key_h)]
  _, *features = classifier(config).apply(pair[0], x)
  return stack(pair), mixer(config).init(key_mixing, *([f, f] for f in features))


def _optimizer(rate: Any, rows: jax.Array, decay: float = 1e-5) -> optax.GradientTransformation:
  factor = schedule("cosine", rows.shape[0] * rows.shape[1])
  return optax.chain(
    optax.clip_by_global_norm(10.0),
    optax.adamw(lambda count: rate * factor(count), weight_decay=decay),
  )


def make_classifier(config: Any) -> Callable[[Any, Data], Any]:
  """``train(setting, data) -> parameters`` of g, attacked with radius 0 in training, or h."""
  model = classifier(config)
  scores = lambda params, x: model.apply(params, x)[0]

  def train(setting: dict[str, jax.Array], data: Data) -> Any:
    attack = functools.partial(
      robustness.pgd_attack, radius=setting["radius"], num_steps=config.train_steps,
      stepsize=2.5 * setting["radius"] / config.train_steps, bounds=(0.0, 1.0),
    )  # fmt: skip

    def objective(params: Any, number: jax.Array, rows: jax.Array) -> Any:
      x, y, key = data.x["train"][rows], data.y["train"][rows], jax.random.fold_in(data.key, number)
      loss = robustness.pgd_adversarial_training_loss(scores, params, x, y, key, attack=attack)
      return jnp.mean(loss), number + 1

    found = fit(
      objective, jax.tree.map(lambda p: p[setting["index"]], data.params), data.rows,
      _optimizer(setting["rate"], data.rows), state=jnp.zeros((), jnp.int32),
      evaluate=lambda params, state: (),
    )  # fmt: skip
    return found.params

  return train


def features_of(config: Any, params: Any, x: jax.Array) -> tuple[Any, Any, list[Any], list[Any]]:
  """Scores of g and h, and their features at both depths."""
  model = classifier(config)
  (g, *low_g), (h, *low_h) = (model.apply(params[name], x) for name in "gh")
  return g, h, *([a, b] for a, b in zip(low_g, low_h, strict=True))


def make_mixing(config: Any) -> Callable[[Any, Data], Any]:
  """``train(rate, data) -> variables`` of the mixing network, g and h as they are."""
  model, steps = mixer(config), config.mixing_steps

  def train(rate: jax.Array, data: Data) -> Any:
    def objective(params: Any, state: Any, rows: jax.Array) -> Any:
      stats, number = state
      x, y = data.x["train"][rows], data.y["train"][rows]
      keys = jax.random.split(jax.random.fold_in(data.key, number), 3)
      radius = config.radius * jax.random.uniform(keys[0], y.shape, minval=0.4, maxval=1.1)
      share = jax.random.uniform(keys[1], y.shape, maxval=0.4)
      frozen = jax.lax.stop_gradient({"params": params, "batch_stats": stats})

      def worst(x: jax.Array) -> jax.Array:  # the whole mixture, through the mixing network
        g, h, *features = features_of(config, data.trained, x)
        gamma, alpha = model.apply(frozen, *features)
        mixed = robustness.mix_log_probs(g, h, alpha)
        use_h = jax.nn.softplus(-gamma)  # cross entropy of gamma for the label "attacked"
        return (1 - share) * losses.cross_entropy_loss(mixed, y) + share * use_h

      moved = robustness.pgd_attack(
        worst, x, keys[2], radius=radius, stepsize=2.5 * radius / steps, num_steps=steps,
        bounds=(0.0, 1.0),
      )  # fmt: skip
      both, labels = jnp.concatenate([x, moved]), jnp.concatenate([y, y])
      g, h, shallow, deep = features_of(config, data.trained, both)
      (gamma, alpha), new = model.apply(
        {"params": params, "batch_stats": stats}, shallow, deep, train=True, mutable=["batch_stats"]
      )
      is_attacked = jnp.arange(len(labels)) >= len(y)
      mixed = robustness.mix_log_probs(g, h, alpha)
      loss = robustness.mixing_loss(mixed, gamma, labels, attacked=is_attacked)
      return jnp.mean(loss), (new["batch_stats"], number + 1)

    state = (data.mixing["batch_stats"], jnp.zeros((), jnp.int32))
    found = fit(
      objective, data.mixing["params"], data.rows_mixing, _optimizer(rate, data.rows_mixing),
      state=state, evaluate=lambda params, state: (),
    )  # fmt: skip
    return {"params": found.params, "batch_stats": found.state[0]}

  return train


def settings(config: Any) -> tuple[dict[str, np.ndarray], dict[str, slice]]:
  """All mixtures that are attacked, one row each, and the rows of each method."""
  alphas, biases = np.float32(config.alphas), np.float32(config.biases)
  none, one = np.zeros_like(biases), np.ones_like(alphas)
  parts = {  # kind, alpha, s_h, bias of gamma
    "probabilities": (PROBABILITY, alphas, one, 0 * one),
    "probabilities, s_h = 3": (PROBABILITY, alphas, 3 * one, 0 * one),
    "logits": (LOGITS, alphas, one, 0 * one),
    "mixing network": (NETWORK, none, none + 1, biases),
  }
  ends = np.cumsum([len(part[1]) for part in parts.values()])
  rows = {n: slice(e - len(p[1]), e) for (n, p), e in zip(parts.items(), ends, strict=True)}
  columns = [np.concatenate([p[i] for p in parts.values()]) for i in (1, 2, 3)]
  kinds = np.concatenate([np.full(len(p[1]), p[0], np.int32) for p in parts.values()])
  return dict(zip(("alpha", "scale", "bias", "kind"), (*columns, kinds), strict=True)), rows


def make_mixture(config: Any) -> Callable[[Any, jax.Array], jax.Array]:
  """``apply_fn((setting, networks, path), x) -> log-probabilities`` of a mixture of any kind.

  Their values are the mixture's, their derivatives those of the path.
  """

  def apply_fn(params: Any, x: jax.Array) -> jax.Array:
    setting, trained, path = params
    g, h, shallow, deep = features_of(config, trained, x)
    gamma, _ = mixer(config).apply(trained["mixing"], shallow, deep)
    low, high = config.alpha_range
    chosen = low + (high - low) * jax.nn.sigmoid(gamma + setting["bias"])
    alpha = jnp.where(setting["kind"] == NETWORK, chosen, setting["alpha"])
    alpha = jnp.where(path == WHOLE, alpha, jax.lax.stop_gradient(alpha))
    mixed = robustness.mix_log_probs(g, h, alpha, scale_h=setting["scale"])
    by_logits = (1 - setting["alpha"]) * g + setting["alpha"] * h
    mixed = jnp.where(setting["kind"] == LOGITS, jax.nn.log_softmax(by_logits), mixed)
    alone = jax.nn.log_softmax(setting["scale"] * h)
    alone = alone + jax.lax.stop_gradient(mixed - alone)
    return jnp.where(path == ROBUST, alone, mixed)

  return apply_fn


def all_of(config: Any, run: Callable[[Any], Any], rows: Any) -> Any:
  """``run`` of all rows: together for small images, one by one where memory would not do."""
  return jax.vmap(run)(rows) if config.data == "digits" else jax.lax.map(run, rows)


def make_evaluation(config: Any, part: str) -> Callable[[Any, Data], Any]:
  """``evaluate(setting, data)``: accuracies of a mixture, the leads of its likeliest class.

  Robust is what the union of ``ATTACKS`` leaves, "through" what those leave that differentiate all.
  """
  apply_fn = make_mixture(config)
  options = {"radius": config.radius, "num_steps": config.test_steps, "bounds": (0.0, 1.0)}

  def evaluate(setting: Any, data: Data) -> dict[str, jax.Array]:
    x, y = data.x[part], data.y[part]

    def attack(use_margin: jax.Array, path: jax.Array) -> tuple[jax.Array, jax.Array]:
      def loss(logits: jax.Array, labels: jax.Array) -> jax.Array:
        entropy = robustness.cross_entropy_attack_loss(logits, labels)
        return jnp.where(use_margin, robustness.margin_attack_loss(logits, labels), entropy)

      point, info = robustness.pgd_worst_case(
        apply_fn, (setting, data.trained, path), x, y, data.key, loss=loss, **options
      )
      return point, info.broken

    kinds = tuple(map(jnp.array, zip(*ATTACKS, strict=True)))
    moved, broken = all_of(config, lambda kind: attack(*kind), kinds)
    found = {
      "robust": jnp.mean(~jnp.any(broken, axis=0)), "PGD": jnp.mean(~broken[0]),
      "through": jnp.mean(~jnp.any(broken[:2], axis=0)),
    }  # fmt: skip
    for name, points in (("clean", x), ("attacked", moved[0])):
      scores = apply_fn((setting, data.trained, WHOLE), points)
      top, right = jax.lax.top_k(jnp.exp(scores), 2)[0], jnp.argmax(scores, 1) == y
      if name == "clean":
        found["clean"] = jnp.mean(right)
      for word, rows in (("right", right), ("wrong", ~right)):
        found[f"{name}, {word}"] = numerics.masked_mean(top[:, 0] - top[:, 1], rows)
    return found

  return evaluate


def make_apgd(config: Any) -> Callable[[Any, Data], jax.Array]:
  """``evaluate(setting, data)``: the accuracy that AutoPGD on the cross entropy leaves."""
  apply_fn = make_mixture(config)
  options = {"radius": config.radius, "num_steps": config.test_steps, "bounds": (0.0, 1.0)}

  def evaluate(setting: Any, data: Data) -> jax.Array:
    params = (setting, data.trained, WHOLE)
    _, info = robustness.apgd_attack(
      apply_fn, params, data.x["test"], data.y["test"], data.key, **options
    )
    return jnp.mean(~info.broken)

  return evaluate


def prepare(config: Any, rates: Any, progress: Any) -> Data:
  """All splits with their trained networks."""
  data = stack([load_split(seed, config) for seed in config.seed_numbers()])
  setting = {
    "index": np.arange(2), "radius": np.float32([0, config.train_radius]),
    "rate": np.float32(rates[:2]),
  }  # fmt: skip
  params = train_all(progress, make_classifier(config), setting, data, name="classifiers")
  trained = {name: jax.tree.map(lambda p, i=i: p[:, i], params) for i, name in enumerate("gh")}
  data = data._replace(trained=trained)
  rate = np.float32(rates[2:3])
  mixing = train_all(progress, make_mixing(config), rate, data, name="mixing network")
  return data._replace(trained={**trained, "mixing": jax.tree.map(lambda p: p[:, 0], mixing)})
