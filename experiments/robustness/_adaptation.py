"""Adaptation of a trained network to a stream: the methods compared, one run of one of them."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments._training import fit, grid
from jaxopt_robust import losses, robustness, transforms

NONE = "none"
# name -> (filter by entropy, rho, alpha, recovery), in units of the settings
METHODS: dict[str, tuple[bool, float, float, bool]] = {
  "TENT": (False, 0, 0, False),
  "filtered": (True, 0, 0, False),
  "SAR": (True, 1, 0, False),
  "RSGS": (True, 1, 1, False),
  "SAR, recovery": (True, 1, 0, True),
  "RSGS, recovery": (True, 1, 1, True),
}


def make_settings(rates: Sequence[float]) -> tuple[dict[str, np.ndarray], tuple[int, ...]]:
  """All methods at the rate 0 (no adaptation) and at all others; axes (methods, rates)."""
  columns, shape = grid(method=range(len(METHODS)), rate=(0.0, *rates))
  parts = np.float32([METHODS[list(METHODS)[i]] for i in columns.pop("method")])
  names = ("filter", "rho", "alpha", "recovery")
  return columns | dict(zip(names, parts.T, strict=True)), shape


def train_network(model: Any, data: Any, learning_rate: float) -> Any:
  """Weights after training on the labelled examples ``x``, ``y`` of a seed."""

  def objective(params: Any, state: Any, rows: jax.Array) -> Any:
    logits = model.apply(params, data.x[rows])
    return jnp.mean(losses.cross_entropy_loss(logits, data.y[rows])), state

  done = fit(
    objective, data.params, data.rows, optax.adam(learning_rate),
    evaluate=lambda params, state: jnp.zeros(()),
  )  # fmt: skip
  return done.params


def make_optimizer(setting: dict[str, jax.Array], batch: int, classes: int, config: Any) -> Any:
  """RSGS with the parts that a setting leaves of it."""
  least = config.recovery * math.log(classes) / math.log(1000)
  return transforms.rsgs(
    optax.sgd(setting["rate"] * batch / 64, momentum=config.momentum),
    rho=config.rho * setting["rho"], alpha=config.alpha * setting["alpha"],
    recovery=jnp.where(setting["recovery"] > 0, least, -1.0),
  )  # fmt: skip


def norms_of(weights: dict[str, Any]) -> dict[str, Any]:
  """Scales and shifts of the normalisation, which are adapted."""
  return {name: part for name, part in weights.items() if name.startswith("LayerNorm")}


def adapt(
  setting: dict[str, jax.Array], data: tuple, model: Any, classes: int, config: Any
) -> jax.Array:
  """Online accuracy of each batch: answers come before the adaptation to it."""
  params, x, y = data
  weights = params["params"]
  apply_fn = lambda norms, x: model.apply({"params": weights | norms}, x)
  optimizer = make_optimizer(setting, x.shape[1], classes, config)
  threshold = jnp.where(setting["filter"] > 0, config.share * math.log(classes), jnp.inf)

  def step(state: Any, batch: jax.Array) -> tuple[Any, jax.Array]:
    state, info = robustness.stream_step(apply_fn, optimizer, state, batch, threshold=threshold)
    return state, info.logits

  _, logits = jax.lax.scan(step, robustness.stream_init(norms_of(weights), optimizer), x)
  return jnp.mean(jnp.argmax(logits, axis=-1) == y, axis=1)
