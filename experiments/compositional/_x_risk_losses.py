"""The losses for rare positives that are compared, and how each of them trains a scorer."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from experiments._training import fit
from experiments.compositional._rare_positives import Data, over_positives
from jaxopt_robust import compositional, losses, transforms

AVERAGED = ("SOAP", "SOPAs", "SOTAs")  # with moving averages; they run with every rate
MARGIN = ("AUC margin", "PDSCA")  # the AUC margin loss by PESG; after a step of cross entropy
PLUG_INS = {"SOPA": "CVaR plug-in", "STACO": "two-way CVaR plug-in"}
FAMILIES = ("CE", "CE, resampled", "pairwise AUC", *MARGIN, *AVERAGED, *PLUG_INS,
            *PLUG_INS.values())  # fmt: skip
# Metrics in which a method is looked at; cross entropy in those of all others.
AIMS: dict[str, tuple[str, ...]] = {
  **dict.fromkeys(("pairwise AUC", *MARGIN), ("auc", "pauc")),
  "SOAP": ("ap",),
  **dict.fromkeys(("SOPAs", "SOPA", "CVaR plug-in"), ("pauc",)),
  **dict.fromkeys(("SOTAs", "STACO", "two-way CVaR plug-in"), ("two_way",)),
}


def entropy(scores: jax.Array, labels: jax.Array) -> jax.Array:
  """Mean cross entropy of a batch."""
  return jnp.mean(optax.sigmoid_binary_cross_entropy(scores, labels.astype(scores.dtype)))


def make_loss(family: str, config: Any) -> tuple[Callable[..., Any], Callable[..., Any]]:
  """``(init(num_examples), loss(logits, labels, rows, state, rate) -> (value, state))``."""
  cvar = {"max_fpr": config.max_fpr}
  two_way = {**cvar, "min_tpr": config.min_tpr}
  kl = {"temperature": config.temperature}
  both = {**kl, "positive_temperature": config.temperature}

  def stateless(fun: Callable[..., jax.Array]) -> Any:
    return lambda num: (), lambda s, y, rows, state, rate: (fun(jax.nn.sigmoid(s), y), state)

  def stateful(name: str, *rates: str, **hyper: Any) -> Any:
    loss = getattr(compositional, f"{name}_loss")

    def call(s: jax.Array, y: jax.Array, rows: jax.Array, state: Any, rate: jax.Array) -> Any:
      weights = dict.fromkeys(rates, rate)
      value, (state, _) = loss(jax.nn.sigmoid(s), y, rows, state, **weights, **hyper)
      return value, state

    return getattr(compositional, f"{name}_init"), call

  if family.startswith("CE"):
    return lambda num: (), lambda s, y, rows, state, rate: (entropy(s, y), state)
  pairwise = lambda s, y: over_positives(losses.pairwise_auc_loss(s, y), y)
  hardest = lambda s, y: over_positives(losses.partial_auc_cvar_loss(s, y, **cvar), y)
  return {
    "pairwise AUC": lambda: stateless(pairwise),
    "SOAP": lambda: stateful("soap", "rate"),
    "SOPAs": lambda: stateful("sopas", "rate", **kl),
    "SOTAs": lambda: stateful("sotas", "rate", "positive_rate", **both),
    "SOPA": lambda: stateful("sopa", **cvar),
    "STACO": lambda: stateful("staco", **two_way),
    "CVaR plug-in": lambda: stateless(hardest),
    "two-way CVaR plug-in": lambda: stateless(
      lambda s, y: losses.two_way_partial_auc_cvar_loss(s, y, **two_way)
    ),
  }[family]()


def train_adam(
  family: str, logits: Any, params: Any, data: Data, rows: jax.Array, rate: Any, learning_rate: Any,
  config: Any,
) -> Any:  # fmt: skip
  """Weights after a run on ``rows``, int32[steps, batch]."""
  init, loss = make_loss(family, config)
  x, y = data.x["train"], data.y["train"]

  def objective(params: Any, state: Any, rows: jax.Array) -> Any:
    return loss(logits(params, x[rows]), y[rows], rows, state, rate)

  nothing = lambda params, state: ()
  tx, state = optax.adam(learning_rate), init(len(y))
  return fit(objective, params, rows[None], tx, state=state, evaluate=nothing).params


def train_margin(
  family: str, logits: Any, params: Any, data: Data, rows: jax.Array, learning_rate: Any
) -> Any:
  """Weights after a run of PESG, or of PDSCA with a step of cross entropy before each of them."""
  composed = family == "PDSCA"
  tx = transforms.pdsca(learning_rate) if composed else transforms.pesg(learning_rate)
  x, y = data.x["train"], data.y["train"]

  def objective(params: Any, alpha: jax.Array, rows: jax.Array) -> jax.Array:
    variables = losses.AucMarginVariables(params["a"], params["b"], alpha)
    scores = jax.nn.sigmoid(logits(params["w"], x[rows]))
    return jnp.mean(losses.auc_margin_loss(scores, y[rows], variables))

  def step(carry: Any, rows: jax.Array) -> tuple[Any, None]:
    params, state = carry
    if composed:
      grads = jax.grad(lambda p: entropy(logits(p["w"], x[rows]), y[rows]))(params)
      updates, state = tx.update(grads, state, params, phase=0)
      params = optax.apply_updates(params, updates)
    grads = jax.grad(objective)(params, state.alpha, rows)
    updates, state = tx.update(grads, state, params, **({"phase": 1} if composed else {}))
    return (optax.apply_updates(params, updates), state), None

  params = {"w": params, "a": jnp.zeros(()), "b": jnp.zeros(())}
  return jax.lax.scan(step, (params, tx.init(params)), rows)[0][0]["w"]
