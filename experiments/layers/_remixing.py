"""Shifted digits, a mixture-of-experts model trained on clean ones, and every way to re-mix it."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from scipy import ndimage

from experiments import datasets
from experiments._training import batches, fit
from jaxopt_robust import layers, losses, nets

MODE, KERNEL, SEARCH = "mode finding", "kernel regression", "kernel regression, searched"
VOTE = "vote of the neighbours"


class Data(NamedTuple):
  """Images as rows of pixels in [0, 1] and labels: clean training, shifted references and tests."""

  x: Any
  y: Any
  known: Any
  answers: Any
  x_test: Any
  y_test: Any
  rows: Any
  key: Any


def load(seed: int, config: Any) -> Data:
  """One split of the digits; the shift is drawn image by image."""
  table, rng = datasets.load("digits"), np.random.default_rng(seed)
  x, y = np.asarray(table["x"], np.float32).reshape(-1, 8, 8) / 16, np.int32(table["y"])
  order = rng.permutation(len(x))[: config.train + config.references + config.test]
  first, *others = np.split(order, np.cumsum([config.train, config.references]))

  def shifted(rows: np.ndarray) -> np.ndarray:
    angles = rng.choice([-1, 1], len(rows)) * rng.uniform(*config.angle, len(rows))
    turned = [
      ndimage.rotate(x[i], a, reshape=False, order=1) for i, a in zip(rows, angles, strict=True)
    ]
    return np.float32(turned + config.noise * rng.standard_normal((len(rows), 8, 8)))

  known, tests = (shifted(rows) for rows in others)
  rows = batches(config.train, config.batch, config.epochs, seed)
  return Data(
    x[first], y[first], known, y[others[0]], tests, y[others[1]], rows, jax.random.key(seed)
  )


def make_model(config: Any) -> nets.MixtureTransformer:
  """Eight tokens of eight pixels."""
  return nets.MixtureTransformer(
    classes=10, tokens=8, width=config.width, layers=config.depth, experts=config.experts,
    hidden=config.width,
  )  # fmt: skip


def train(data: Data, config: Any) -> Any:
  """Parameters after the last epoch on clean images."""
  model = make_model(config)

  def objective(params: Any, state: Any, rows: jax.Array) -> Any:
    (scores, _), sown = model.apply(params, data.x[rows], mutable=["intermediates"])
    (balance,) = sown["intermediates"]["load_balance"]
    loss = jnp.mean(losses.cross_entropy_loss(scores, data.y[rows]))
    return loss + config.balance * balance, state

  params = model.init(data.key, data.x[:1])
  optimizer = optax.adamw(config.rate)
  return fit(objective, params, data.rows, optimizer, evaluate=lambda params, state: ()).params


class Prepared(NamedTuple):
  """What all methods share: contexts, the model's answers, and whose pathways guide."""

  context: Any
  known: Any
  router: Any
  known_router: Any
  logits: Any
  is_correct: Any


def prepare(params: Any, data: Data, config: Any) -> Prepared:
  """Keys and values of all tokens but the last, which no pathway changes, and own answers."""
  model = make_model(config)
  answer = functools.partial(model.apply, params, method="answer")
  context, known = (model.apply(params, x, method="context") for x in (data.x_test, data.known))
  (logits, router), (known_logits, known_router) = answer(context), answer(known)
  is_correct = jnp.argmax(known_logits, axis=-1) == data.answers
  return Prepared(context, known, router, known_router, logits, is_correct)


def nearest(data: Data, is_correct: Any, count: int, width: Any, kernel: str = "gaussian") -> Any:
  """Neighbours by pixels among the references that the model answers correctly."""
  flat = lambda a: a.reshape(len(a), -1)
  return layers.kernel_neighbors(
    flat(data.x_test), flat(data.known), num_neighbors=count, bandwidth=width, kernel=kernel,
    where=is_correct,
  )  # fmt: skip


def loss_of(params: Any, config: Any) -> Any:
  """The neighbours' loss of a pathway, for one sample."""
  apply_fn = functools.partial(make_model(config).apply, method="answer")

  def loss(pathway: Any, near: Any, answers: Any, weights: Any) -> jax.Array:
    return layers.neighborhood_loss(
      apply_fn, params, pathway, inputs=near, labels=answers, weights=weights
    )

  return loss


def without_gradients(params: Any, data: Data, found: Prepared, widths: Any, config: Any) -> Any:
  """Logits of mode finding and of kernel regression, as it is and searched; the vote."""
  answer = functools.partial(make_model(config).apply, params, found.context, method="answer")
  core = layers.core_expert_mask(
    found.router[0], num_experts=config.experts, num_layers=config.critical
  )
  start, axes = layers.Pathway(found.router, core), layers.Pathway(0, None)
  near = nearest(data, found.is_correct, config.neighbors, widths["regression"])
  mode = jax.vmap(
    functools.partial(
      layers.pathway_mode_finding, bandwidth=widths["mode"], num_neighbors=config.neighbors,
      where=found.is_correct,
    ), (axes, None), axes,
  )(start, found.known_router)  # fmt: skip
  mean = jax.vmap(layers.pathway_kernel_regression, (axes, 0, 0), axes)(
    start, found.known_router[near.rows], near.weights
  )
  search = functools.partial(layers.pathway_line_search, loss_of(params, config))
  best, _ = jax.vmap(search, (axes, axes, 0, 0, 0), (axes, 0))(
    start, mean, jax.tree.map(lambda a: a[near.rows], found.known), data.answers[near.rows],
    near.weights,
  )  # fmt: skip
  every = lambda p: layers.Pathway(p.weights, jnp.broadcast_to(core, p.weights.shape))
  logits = {name: answer(every(p))[0] for name, p in ((MODE, mode), (KERNEL, mean), (SEARCH, best))}
  near = nearest(data, found.is_correct, config.neighbors, config.bandwidth)
  votes = jax.nn.one_hot(data.answers[near.rows], 10) * near.weights[..., None]
  return {**logits, VOTE: jnp.sum(votes, axis=1)}


def descend(
  params: Any, found: Prepared, near: Any, rate: Any, length: Any, ones: Any = False, *,
  config: Any, form: str = "projected", steps: int,
) -> Any:  # fmt: skip
  """Logits after the descent, and whether the neighbours' loss fell, a sample each.

  ``near`` are contexts, labels and weights of the neighbours [test, k]; ``length`` steps of at most
  ``steps`` are taken; ``ones``: whether rows are rescaled to the sum 1.
  """
  core = layers.core_expert_mask(found.router, num_experts=config.core, num_layers=config.critical)

  def schedule(count: jax.Array) -> jax.Array:
    done = count / jnp.maximum(length, 1)
    return jnp.where(count < length, rate * (1e-3 + 0.5 * 0.999 * (1 + jnp.cos(jnp.pi * done))), 0)

  run = functools.partial(
    layers.pathway_gradient_descent, loss_of(params, config), optimizer=optax.sgd(schedule),
    num_steps=steps, parametrization=form,
  )  # fmt: skip
  kept, one = (layers.restrict_pathway(found.router, core, total=t) for t in ("kept", "one"))
  start = layers.Pathway(jnp.where(ones, one.weights, kept.weights), core)
  pathway, info = jax.vmap(run)(start, *near)
  logits, _ = make_model(config).apply(params, found.context, pathway, method="answer")
  return logits, info.values[:, -1] < info.values[:, 0]


def gather(data: Data, found: Prepared, near: Any) -> tuple:
  """Contexts, labels and weights of neighbours."""
  return jax.tree.map(lambda a: a[near.rows], found.known), data.answers[near.rows], near.weights


def programs(config: Any) -> dict[str, Any]:
  """Jitted functions of arrays."""
  bound = lambda function: jax.jit(functools.partial(function, config=config))
  return {
    "train": bound(train), "prepare": bound(prepare), "static": bound(without_gradients),
    "nearest": jax.jit(nearest, static_argnames=("count", "kernel")), "gather": jax.jit(gather),
    "descend": jax.jit(
      functools.partial(descend, config=config), static_argnames=("form", "steps")
    ),
  }  # fmt: skip
