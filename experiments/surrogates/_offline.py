"""Offline search: test functions, data, training of surrogates in a batch, searches of them."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments._protocol import Progress
from experiments._training import batches
from jaxopt_robust import nets, surrogates, sweeps, transforms

ACKLEY, TANG = "Ackley", "Styblinski-Tang"
COMS = "COMs"
RATE = 3.0  # of IGNITE's multiplier where its budget is chosen


def true_values(function: str, x: np.ndarray) -> np.ndarray:
  """To be maximised, of designs in the box; at most 39.17 (Styblinski-Tang) and 0 (Ackley)."""
  z = 5 * np.asarray(x, np.float64)
  if function == TANG:
    return -0.5 * np.mean(z**4 - 16 * z**2 + 5 * z, axis=-1)
  root = np.sqrt(np.mean(z**2, axis=-1))
  waves = np.mean(np.cos(2 * np.pi * z), axis=-1)
  return 20 * np.exp(-0.2 * root) - 20 + np.exp(waves) - np.e


def network(config: Any) -> nets.MLP:
  leaky = functools.partial(jax.nn.leaky_relu, negative_slope=0.3)
  return nets.MLP((config.hidden, config.hidden, 1), activation=leaky)


def apply_fn(config: Any) -> Any:
  model = network(config)
  return lambda params, x: model.apply(params, x)[:, 0]


def make_data(config: Any, function: str, seed: int) -> dict[str, Any]:
  """The worse half, standardised, the hidden half, batches, starts, a network a member."""
  rng = np.random.default_rng(seed)
  x = rng.uniform(-1, 1, (config.designs, config.dimension)).astype(np.float32)
  y = true_values(function, x)
  order, half = np.argsort(y, kind="stable"), config.designs // 2
  known, hidden = order[:half], order[half:]
  mean, std = y[known].mean(), y[known].std()
  scaled = np.float32((y - mean) / std)
  keys = jax.random.split(jax.random.key(seed), config.members)
  rows = batches(half, config.batch, config.epochs, seed)
  top = surrogates.top_designs(x[known], scaled[known], num=config.starts)
  return {
    "x": x[known], "y": scaled[known], "hidden": x[hidden], "hidden_y": scaled[hidden],
    "rows": rows.reshape(-1, config.batch), "starts": top.designs, "starts_y": top.values,
    "seed": np.uint32(seed), "mean": np.float32(mean),
    "std": np.float32(std), "weights": _init(network(config), keys, x[:1]),
    "known best": np.float32(y[known].max()),
  }  # fmt: skip


@functools.partial(jax.jit, static_argnums=0)  # one program for all seeds
def _init(model: Any, keys: jax.Array, x: jax.Array) -> Any:
  return jax.vmap(model.init, in_axes=(0, None))(keys, x)


def optimizer_of(kind: str, setting: dict) -> optax.GradientTransformationExtraArgs:
  adam = optax.adam(1e-3)
  if kind == "sam":
    return transforms.sam(adam, rho=setting["strength"])
  decayed = optax.chain(optax.add_decayed_weights(setting["decay"]), adam)
  if kind == "plain":
    return optax.with_extra_args_support(decayed)
  # "fixed" is "ignite" whose multiplier does not move: one program for both, and for COMs' plain
  return transforms.ignite(
    decayed if kind == COMS else adam, rho=setting["rho"], budget=setting["budget"],
    multiplier=setting["multiplier"], multiplier_rate=setting["rate"],
  )  # fmt: skip


def make_trainer(kind: str, config: Any) -> Any:
  """``train(setting, data) -> weights``; every method sees the same batches."""
  predict = apply_fn(config)

  def loss(weights: Any, x: jax.Array, y: jax.Array, weight: jax.Array) -> tuple[jax.Array, Any]:
    """Squared error; that of COMs has its own weight, which moves."""
    if kind != COMS:
      return jnp.mean((predict(weights, x) - y) ** 2), weight
    value, info = surrogates.conservative_objective(
      predict, weights, x, y, multiplier=weight, num_steps=config.conservative_steps,
      stepsize=config.conservative_length(), bounds=(-1.0, 1.0),
    )  # fmt: skip
    return value, surrogates.multiplier_step(weight, info.gap, bound=0.5, rate=0.01)

  def train(setting: dict, data: dict) -> Any:
    optimizer = optimizer_of(kind, setting)

    def step(carry: tuple, rows: jax.Array) -> tuple[tuple, None]:
      weights, state, weight = carry
      x, y = data["x"][rows], data["y"][rows]
      slope = jax.grad(loss, has_aux=True)
      extra = {"plain": {}, "sam": {"grad_fn": lambda w, i: slope(w, x, y, weight)[0]}}.get(
        kind, {"pred_grad_fn": jax.grad(lambda w: jnp.mean(predict(w, x)))}
      )
      grads, moved = slope(weights, x, y, weight)
      updates, state = optimizer.update(grads, state, weights, **extra)
      return (optax.apply_updates(weights, updates), state, moved), None

    weights = jax.tree.map(lambda v: v[setting["member"]], data["weights"])
    first = (weights, optimizer.init(weights), jnp.full((), 0.1, jnp.float32))
    return jax.lax.scan(step, first, data["rows"])[0][0]

  return train


@functools.cache
def training_program(kind: str, config: Any) -> Any:
  """All settings on every seed; for the choices and for the record the same one."""
  train = make_trainer(kind, config)
  all_settings = lambda data, settings: jax.vmap(train, (0, None))(settings, data)
  over_seeds = sweeps.sweep(all_settings)
  return jax.jit(lambda data, settings: over_seeds(data, shared=(settings,)))


@functools.cache
def search_program(reduce: str, config: Any) -> Any:
  """Searches of weights[seeds, models, members]."""
  return jax.jit(jax.vmap(jax.vmap(make_search(reduce, config), (0, None))))


def make_search(reduce: str, config: Any) -> Any:
  """``search(weights[members], data) -> designs``, their predictions, sharpness, hidden error."""
  one = apply_fn(config)

  def search(weights: Any, data: dict) -> dict[str, jax.Array]:
    predict = lambda w, x: surrogates.ensemble_prediction(one, w, x, reduce=reduce)
    found, info = surrogates.gradient_ascent_search(
      lambda x: predict(weights, x), data["starts"], num_steps=config.steps, bounds=(-1.0, 1.0)
    )
    hidden = data["hidden"]
    mean = lambda w: jnp.mean(predict(w, hidden))
    error = predict(weights, hidden) - data["hidden_y"]
    return {
      "designs": found, "predictions": info.predictions[-1] * data["std"] + data["mean"],
      "sharpness": transforms.surrogate_sharpness(mean, weights, rho=0.05),
      "error": jnp.sqrt(jnp.mean(error**2)),
    }  # fmt: skip

  return search


def score(function: str, found: dict) -> dict[str, np.ndarray]:
  """True values of what was found, a number a seed; ``found`` has a leading axis of seeds."""
  values = true_values(function, found["designs"])
  scores = [
    surrogates.design_scores(*pair) for pair in zip(found["predictions"], values, strict=True)
  ]
  names = ("best", "median", "overestimation")
  return {name: np.array([float(s[i]) for s in scores]) for i, name in enumerate(names)} | {
    "sharpness": found["sharpness"], "error": found["error"],
  }  # fmt: skip


def settings_of(runs: list[tuple[str, float, int]], kinds: dict[str, str]) -> dict[str, np.ndarray]:
  """Runs (method, strength, member) as the arrays that a program takes.

  The strength of "ignite" is its multiplier's rate, that of "budget" its budget, that of "fixed"
  its multiplier, that of "plain" weight decay.
  """
  values = {
    "plain": lambda v: (v, 0.05, 0.0, 0.0, 0.1),
    "sam": lambda v: (0.0, 0.05, 0.0, 0.0, 0.1),
    "ignite": lambda v: (0.0, 0.05, 1e-3, v, 0.1),
    "budget": lambda v: (0.0, 0.05, 1e-3, RATE, v),
    "fixed": lambda v: (0.0, 0.2, v, 0.0, 0.3),
  }
  columns = np.float32([values[kinds[name]](value) for name, value, _ in runs]).T
  names = ("decay", "rho", "multiplier", "rate", "budget")
  return dict(zip(names, columns, strict=True)) | {
    "strength": np.float32([value for _, value, _ in runs]),
    "member": np.int32([member for *_, member in runs]),
  }


def programs_of(
  runs: list[tuple[str, float, int]], kinds: dict[str, str]
) -> list[tuple[str, list[int]]]:
  """Which program trains which runs."""
  parts = {"plain": ("plain",), "ignite": ("ignite", "budget", "fixed"), "sam": ("sam",)}
  found = [
    (program, [i for i, run in enumerate(runs) if kinds[run[0]] in members])
    for program, members in parts.items()
  ]
  return [(program, places) for program, places in found if places]


def flat_call(
  progress: Progress, program: Any, stacked: Any, data: Any, chunk: int, name: str
) -> Any:
  """A program of ``chunk`` pairs, called for all pairs of stacked[seeds, models] and data[seeds].

  So programs of other numbers of seeds and models are the same one, compiled once.
  """
  seeds, models = jax.tree.leaves(stacked)[0].shape[:2]
  row = np.arange(seeds * models)
  parts = []
  for first in range(0, len(row), chunk):
    at = np.resize(row[first : first + chunk], chunk)  # the last one is filled by repetition
    own = jax.tree.map(lambda v, at=at: v.reshape(-1, *v.shape[2:])[at], stacked)
    given = jax.tree.map(lambda v, at=at: v[at // models], data)
    parts.append(progress.clock.call(program, own, given, name=name))
  joined = jax.tree.map(lambda *v: np.concatenate([np.asarray(p) for p in v])[: len(row)], *parts)
  return jax.tree.map(lambda v: v.reshape(seeds, models, *v.shape[1:]), joined)


@functools.cache
def flat_program(kind: str, config: Any) -> Any:
  """Trains pairs of a setting and data."""
  return jax.jit(jax.vmap(make_trainer(kind, config)))


def trained_flat(
  config: Any,
  progress: Progress,
  data: Any,
  runs: list[tuple[str, float, int]],
  kinds: dict[str, str],
  name: str,
  *,
  conservative: bool = False,
) -> Any:
  """Weights[seeds, runs, ...] of (method, strength, member), ``config.pairs()`` at a time."""
  groups = [(COMS, list(range(len(runs))))] if conservative else programs_of(runs, kinds)
  order, parts = [], []
  for kind, places in groups:
    setting = settings_of([runs[i] for i in places], kinds)
    each = jax.tree.map(lambda v: np.broadcast_to(v, (data["seed"].shape[0], *v.shape)), setting)
    part = flat_call(
      progress, flat_program(kind, config), each, data, config.pairs(), f"{name}, training {kind}"
    )
    parts.append(part)
    order += places
  back = np.argsort(order)
  return jax.tree.map(lambda *v: np.concatenate(v, axis=1)[:, back], *parts)


def searched(
  config: Any,
  progress: Progress,
  data: Any,
  runs: list[tuple[str, float, int]],
  kinds: dict[str, str],
  name: str,
) -> tuple[Any, dict[str, np.ndarray]]:
  """Trains (method, strength, member) and searches: weights and results, [seeds, runs, ...]."""
  order, parts = [], []
  for program, places in programs_of(runs, kinds):
    setting = settings_of([runs[i] for i in places], kinds)
    trainer = training_program(program, config)
    parts.append(progress.clock.call(trainer, data, setting, name=f"{name}, {program}"))
    order += places
  back = np.argsort(order)
  weights = jax.tree.map(lambda *v: np.concatenate(v, axis=1)[:, back], *parts)
  alone = jax.tree.map(lambda v: v[:, :, None], weights)
  return weights, search_all(config, progress, "mean", alone, data, f"{name}, search")


def search_all(
  config: Any, progress: Progress, reduce: str, weights: Any, data: Any, name: str
) -> dict[str, np.ndarray]:
  """Searches of weights[seeds, models, members]."""
  found = progress.clock.call(search_program(reduce, config), weights, data, name=name)
  return jax.tree.map(np.asarray, found)
