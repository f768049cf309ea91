"""An attention head with adapters: errors of its fast gradient, and fine-tuning by it."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxopt_robust import layers

EXACT, FAST = "exact gradient", "fast gradient"
NAMES = ("query", "key", "value")


class Head(NamedTuple):
  """Kernels W and what is added to them, tokens, a target, and changes that make a teacher."""

  weights: Any
  adapters: Any
  x: Any
  target: Any
  changes: Any


def make_head(seed: int, config: Any) -> Head:
  """A random head, float64, whose largest logit is 1 with its adapters."""
  rng, d, r = np.random.default_rng(seed), config.size, config.rank
  x = rng.standard_normal((config.length, d))
  x *= np.sqrt(d) / np.linalg.norm(x, axis=1, keepdims=True)
  weights = {n: rng.standard_normal((d, d)) / np.sqrt(d) for n in NAMES}
  pairs = {
    n: (rng.standard_normal((d, r)) / np.sqrt(d), rng.standard_normal((r, d)) / np.sqrt(r))
    for n in NAMES
  }
  query, key = (weights[n] + pairs[n][0] @ pairs[n][1] for n in ("query", "key"))
  scale = np.sqrt(d) / np.max(np.abs((x @ query) @ (x @ key).T))
  weights["query"] *= scale
  pairs["query"] = (pairs["query"][0], scale * pairs["query"][1])
  adapters = {n: layers.LoraAdapter(*pair) for n, pair in pairs.items()}
  target = rng.standard_normal((config.length, d))
  return Head(weights, adapters, x, target, {n: rng.standard_normal((d, d)) for n in NAMES})


def scaled(head: Head, bound: jax.Array) -> Head:
  """The same head with the largest logit ``bound``."""
  query = head.adapters["query"]
  adapters = head.adapters | {"query": query._replace(b=bound * query.b)}
  weights = head.weights | {"query": bound * head.weights["query"]}
  return head._replace(weights=weights, adapters=adapters)


def _norm(tree: Any) -> jax.Array:
  return jnp.sqrt(sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(tree)))


def exact_gradient(head: Head, bound: jax.Array) -> tuple[Any, jax.Array]:
  """The gradient of all adapters, and the norm of the theory."""
  adapters, weights = scaled(head, bound).adapters, scaled(head, bound).weights
  grads = jax.grad(layers.lora_attention_loss)(adapters, weights, head.x, target=head.target)
  return grads, jnp.sqrt(layers.logit_bound(adapters, weights, head.x).entries)


def gradient_errors(
  degree: int, series: str, derivative: bool, head: Head, bound: jax.Array, exact: Any
) -> dict[str, jax.Array]:
  """Relative errors of the chained factors; of the ``derivative`` of the approximate loss too."""
  weights, adapters, x, target, _ = scaled(head, bound)
  options = {"degree": degree, "series": series, "bound": bound}
  size, gap = _norm(exact), lambda grads: _norm(jax.tree.map(jnp.subtract, grads, exact))
  fast, info = layers.lora_attention_grads_fast(adapters, weights, x, target=target, **options)
  error = gap(fast)
  found = {
    "error": error / size,
    "share of its bound": jnp.where(info.gradient_error < jnp.inf, error / info.gradient_error, 0),
    "proven relative error": info.relative_error,
  }
  if derivative:

    def approximate_loss(adapters: Any) -> jax.Array:
      whole = layers.lora_merge(weights, adapters)
      q, k, v = (x @ whole[name] for name in NAMES)
      left, right, _ = layers.softmax_poly_factors(q / np.sqrt(q.shape[1]), k, **options)
      return 0.5 * jnp.sum((left @ (right.T @ v) - target) ** 2)

    found["of the approximate loss"] = gap(jax.grad(approximate_loss)(adapters)) / size
  return found


def fine_tune(
  config: Any, head: Head, key: jax.Array, bound: jax.Array, rates: jax.Array
) -> dict[str, jax.Array]:
  """Exact losses along both runs, a share of the first; the teacher's kernels are changed."""
  known = scaled(head, bound)
  weights = layers.lora_merge(known.weights, known.adapters)  # frozen, of this largest logit
  teacher = {n: w + config.change * jnp.std(w) * head.changes[n] for n, w in weights.items()}
  q, k, v = (head.x @ teacher[name] for name in NAMES)
  target = jax.nn.softmax(q @ k.T / np.sqrt(config.size), axis=-1) @ v
  adapters = layers.lora_init(key, weights, rank=config.rank)
  exact = functools.partial(layers.lora_attention_loss, weights=weights, x=head.x, target=target)
  fast = lambda adapters: layers.lora_attention_grads_fast(
    adapters, weights, head.x, target=target, degree=config.train_degree
  )[0]

  def losses(gradient: Any, rate: jax.Array) -> jax.Array:
    optimizer = optax.adam(rate)

    def step(carry: tuple, _: None) -> tuple[tuple, jax.Array]:
      adapters, state = carry
      updates, state = optimizer.update(gradient(adapters), state)
      adapters = optax.apply_updates(adapters, updates)
      return (adapters, state), exact(adapters)

    start = adapters, optimizer.init(adapters)
    return jax.lax.scan(step, start, None, length=config.steps)[1] / exact(adapters)

  return {EXACT: losses(jax.grad(exact), rates[0]), FAST: losses(fast, rates[1])}
