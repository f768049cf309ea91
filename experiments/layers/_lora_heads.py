"""An attention head with adapters: errors of its fast gradient, and fine-tuning by it."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxopt_robust import layers

EXACT, FAST = "exact gradient", "fast gradient"
NAMES = ("query", "key", "value")


def make_head(key: jax.Array, bound: jax.Array, config: Any) -> tuple[Any, ...]:
  """Kernels, adapters, tokens and a target; the largest logit of the adapted head is ``bound``."""
  d, r = config.size, config.rank
  names = ["x", "y", *NAMES, *(f"{name} {part}" for name in NAMES for part in "ab")]
  keys = dict(zip(names, jax.random.split(key, len(names)), strict=True))
  x = jax.random.normal(keys["x"], (config.length, d))
  x = x * np.sqrt(d) / jnp.linalg.norm(x, axis=1, keepdims=True)
  weights = {n: jax.random.normal(keys[n], (d, d)) / np.sqrt(d) for n in NAMES}
  adapters = {
    n: layers.LoraAdapter(
      jax.random.normal(keys[f"{n} a"], (d, r)) / np.sqrt(d),
      jax.random.normal(keys[f"{n} b"], (r, d)) / np.sqrt(r),
    )
    for n in NAMES
  }
  whole = layers.lora_merge(weights, adapters)
  logits = (x @ whole["query"]) @ (x @ whole["key"]).T / np.sqrt(d)
  scale = bound / jnp.max(jnp.abs(logits))
  weights["query"] = scale * weights["query"]
  adapters["query"] = adapters["query"]._replace(b=scale * adapters["query"].b)
  return adapters, weights, x, jax.random.normal(keys["y"], (config.length, d))


def _norm(tree: Any) -> jax.Array:
  return jnp.sqrt(sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(tree)))


def gradient_errors(
  degree: int, series: str, config: Any, key: jax.Array, bound: jax.Array
) -> dict[str, jax.Array]:
  """Relative errors of the gradient of all adapters: chained factors, and the approximate loss."""
  adapters, weights, x, target = make_head(key, bound, config)
  exact = jax.grad(layers.lora_attention_loss)(adapters, weights, x, target=target)
  fast, info = layers.lora_attention_grads_fast(
    adapters, weights, x, target=target, degree=degree, series=series, bound=bound
  )

  def approximate_loss(adapters: Any) -> jax.Array:
    whole = layers.lora_merge(weights, adapters)
    q, k, v = (x @ whole[name] for name in NAMES)
    scaled = q / np.sqrt(config.size)
    left, right, _ = layers.softmax_poly_factors(
      scaled, k, degree=degree, series=series, bound=bound
    )
    return 0.5 * jnp.sum((left @ (right.T @ v) - target) ** 2)

  size = _norm(exact)
  gap = _norm(jax.tree.map(jnp.subtract, fast, exact))
  other = _norm(jax.tree.map(jnp.subtract, jax.grad(approximate_loss)(adapters), exact))
  norms = layers.logit_bound(adapters, weights, x)
  return {
    "error": gap / size,
    "of the approximate loss": other / size,
    "share of its bound": jnp.where(info.gradient_error < jnp.inf, gap / info.gradient_error, 0),
    "proven relative error": info.relative_error,
    "norm / sqrt(log n)": jnp.sqrt(norms.entries) / np.sqrt(np.log(config.length)),
  }


def fine_tune(
  config: Any, key: jax.Array, bound: jax.Array, rates: jax.Array
) -> dict[str, jax.Array]:
  """Exact losses along both runs, a share of the first; the teacher's kernels are changed."""
  key_head, key_init, *keys = jax.random.split(key, 5)
  no_adapters, weights, x, _ = make_head(key_head, bound, config)
  weights = layers.lora_merge(weights, no_adapters)  # of this largest logit
  teacher = {
    n: w + config.change * jnp.std(w) * jax.random.normal(k, w.shape)
    for (n, w), k in zip(weights.items(), keys, strict=True)
  }
  q, k, v = (x @ teacher[name] for name in NAMES)
  target = jax.nn.softmax(q @ k.T / np.sqrt(config.size), axis=-1) @ v
  adapters = layers.lora_init(key_init, weights, rank=config.rank)
  exact = functools.partial(layers.lora_attention_loss, weights=weights, x=x, target=target)
  fast = lambda a: layers.lora_attention_grads_fast(
    a, weights, x, target=target, degree=config.train_degree
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
