r"""An attention head with low-rank adapters: its loss, exactly and in linear time, and its norms.

The head is Z = softmax(beta x Q K^T c^T) c V with x its tokens, c their context (x itself in
self-attention) and kernels W + (alpha / rank) a b.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxopt_robust import _checks
from jaxopt_robust.layers._tokens import dot, transposed
from jaxopt_robust.layers.lora.adapters import LoraAdapter, check_adapters, lora_apply
from jaxopt_robust.layers.lora.polynomial_attention import as_beta, polynomial_attention
from jaxopt_robust.layers.lora.polynomial_softmax import PolynomialSoftmaxInfo
from jaxopt_robust.numerics import safe_norm, upcast
from jaxopt_robust.typing import Array, ArrayLike

__all__ = ["LogitBound", "logit_bound", "lora_attention_loss", "lora_attention_loss_fast"]

KERNELS = ("query", "key", "value")
Adapters = Mapping[str, LoraAdapter]
Kernels = Mapping[str, ArrayLike]


class Head(NamedTuple):
  """Checked inputs of a head."""

  adapters: dict[str, LoraAdapter]
  kernels: dict[str, Array]
  x: Array
  context: Array
  alpha: ArrayLike | None
  beta: Array


def check_head(
  adapters: Any,
  weights: Any,
  x: ArrayLike,
  context: ArrayLike | None,
  alpha: ArrayLike | None,
  beta: ArrayLike | None,
) -> Head:
  if not isinstance(weights, Mapping):
    raise TypeError(
      f"weights must map 'query', 'key' and 'value' to kernels; got {_checks.describe(weights)}."
    )
  missing = [name for name in KERNELS if name not in weights]
  if missing or len(weights) != len(KERNELS):
    raise ValueError(
      "weights must map 'query', 'key' and 'value' to kernels; got "
      f"{', '.join(map(repr, weights))}."
    )
  kernels = {
    name: upcast(_checks.check_float_array(f"weights[{name!r}]", weights[name], rank=2))
    for name in KERNELS
  }
  array = upcast(_checks.check_float_array("x", x, rank=2))
  other = (
    array if context is None else upcast(_checks.check_float_array("context", context, rank=2))
  )
  for name, kernel in kernels.items():
    source, given = ("x", array) if name == "query" or context is None else ("context", other)
    if kernel.shape[0] != given.shape[1]:
      raise ValueError(
        f"weights[{name!r}] must have the {given.shape[1]} inputs of {source}; got shape "
        f"{kernel.shape}."
      )
  if kernels["query"].shape[1] != kernels["key"].shape[1]:
    raise ValueError(
      "weights of 'query' and 'key' must have equally many outputs; got shapes "
      f"{kernels['query'].shape} and {kernels['key'].shape}."
    )
  known = check_adapters(
    adapters, "weights", {name: kernel.shape for name, kernel in kernels.items()}
  )
  return Head(known, kernels, array, other, alpha, as_beta(beta, kernels["query"].shape[1]))


def project(adapters: Adapters, head: Head) -> tuple[Array, Array, Array]:
  """Queries times beta, keys and values."""
  found = []
  for name in KERNELS:
    x = head.x if name == "query" else head.context
    if name in adapters:
      found.append(lora_apply(x, head.kernels[name], adapters[name], alpha=head.alpha))
    else:
      found.append(dot(x, head.kernels[name]))
  q, k, v = found
  return q * head.beta.astype(q.dtype), k, v


def check_target(head: Head, target: ArrayLike | None) -> Array:
  shape = (head.x.shape[0], head.kernels["value"].shape[1])
  if target is None:
    return jnp.zeros(shape, head.x.dtype)
  array = upcast(_checks.check_float_array("target", target))
  if array.shape != shape:
    raise ValueError(f"target must have the shape {shape} of the outputs; got shape {array.shape}.")
  return array


def lora_attention_loss(
  adapters: Adapters,
  weights: Kernels,
  x: ArrayLike,
  *,
  target: ArrayLike | None = None,
  context: ArrayLike | None = None,
  alpha: ArrayLike | None = None,
  beta: ArrayLike | None = None,
) -> Array:
  r"""Squared error of an attention head with adapters, 1/2 ||Z - Y||_F^2, exactly.

  Z = softmax(beta x Q K^T c^T) c V with the kernels Q, K, V, each W + (alpha / rank) a b, and the
  context c = x by default. Its gradient by JAX is the exact one, at a cost of O(n m).

  Args:
    adapters: dict from ``"query"``, ``"key"`` and ``"value"``, or some of them, to a
      ``LoraAdapter``, as ``lora_init`` makes it of ``weights``.
    weights: dict from the three names to the frozen kernels: query and key float[d, e], value
      float[d, h].
    x: float[n, d], tokens. Heads and examples: ``jax.vmap``.
    target: float[n, h], Y; zeros by default.
    context: float[m, d], the tokens of keys and values in cross-attention.
    alpha: number, by default the rank of each adapter; may be traced.
    beta: number that multiplies the logits, e^(-1/2) by default; may be traced.

  Returns:
    float scalar, float32 or wider.

  Raises:
    TypeError: an array is not floating-point, or adapters or weights are no dicts.
    ValueError: names or shapes do not fit.

  Example:
    >>> weights = {name: jnp.eye(2) for name in ("query", "key", "value")}
    >>> adapters = jr.layers.lora_init(jax.random.key(0), weights, rank=1)
    >>> x = jnp.array([[1.0, 0.0], [0.0, 1.0]])
    >>> float(lora_attention_loss(adapters, weights, x, beta=0.0))  # means of the values
    0.5

  Reference:
    Hu, Su, Kuo, Song and Liu, Computational limits of low-rank adaptation (LoRA) fine-tuning for
    transformer models, 2024, definitions 1.1 and 1.2.
  """
  head = check_head(adapters, weights, x, context, alpha, beta)
  y = check_target(head, target)
  q, k, v = project(head.adapters, head)
  out = dot(jax.nn.softmax(dot(q, transposed(k)), axis=-1), v)
  return 0.5 * jnp.sum((out - y) ** 2)


def lora_attention_loss_fast(
  adapters: Adapters,
  weights: Kernels,
  x: ArrayLike,
  *,
  target: ArrayLike | None = None,
  context: ArrayLike | None = None,
  alpha: ArrayLike | None = None,
  beta: ArrayLike | None = None,
  degree: int = 4,
  series: str = "taylor",
  bound: ArrayLike | None = None,
) -> tuple[Array, PolynomialSoftmaxInfo]:
  r"""``lora_attention_loss``, nearly, in time linear in the tokens, forward and backward.

  The attention is ``polynomial_attention``; ``jax.grad`` of this loss is what
  ``lora_attention_grads_fast`` returns: the chain rule of the exact loss with the low-rank softmax
  in it.

  Args:
    adapters: dict from ``"query"``, ``"key"`` and ``"value"``, or some of them, to a
      ``LoraAdapter``.
    weights: dict from the three names to the frozen kernels: query and key float[d, e], value
      float[d, h].
    x: float[n, d], tokens.
    target: float[n, h], Y; zeros by default.
    context: float[m, d], the tokens of keys and values in cross-attention.
    alpha: number, by default the rank of each adapter; may be traced.
    beta: number that multiplies the logits, e^(-1/2) by default; may be traced.
    degree: >= 1, static.
    series: ``"taylor"`` or ``"chebyshev"``; static.
    bound: a bound of the logits that you know, as in ``exponential_features``; may be traced.

  Returns:
    (float scalar, ``PolynomialSoftmaxInfo``).

  Raises:
    TypeError: an array is not floating-point, or adapters or weights are no dicts.
    ValueError: names or shapes do not fit, or an option is out of range.

  Example:
    >>> weights = {name: jnp.eye(2) for name in ("query", "key", "value")}
    >>> adapters = jr.layers.lora_init(jax.random.key(0), weights, rank=1)
    >>> x = jnp.array([[1.0, 0.0], [0.0, 1.0]])
    >>> (loss, info), grads = jax.value_and_grad(lora_attention_loss_fast, has_aux=True)(
    ...   adapters, weights, x
    ... )
    >>> bool(info.valid), bool(jnp.all(grads["query"].a == 0))  # b is 0
    (True, True)

  Reference:
    Hu, Su, Kuo, Song and Liu, Computational limits of low-rank adaptation (LoRA) fine-tuning for
    transformer models, 2024, theorems 3.1 and A.1.
  """
  head = check_head(adapters, weights, x, context, alpha, beta)
  y = check_target(head, target)
  q, k, v = project(head.adapters, head)
  out, info = polynomial_attention(q, k, v, degree=degree, series=series, beta=1.0, bound=bound)
  return 0.5 * jnp.sum((out - y) ** 2), info


class LogitBound(NamedTuple):
  """Norms of the projected tokens, on which it depends whether a fast gradient exists.

  Attributes:
    query_max: float scalar, the largest entry of the queries in size, beta among them.
    key_max: float scalar, the largest entry of the keys in size.
    entries: float scalar, e query_max key_max, a bound of the logits.
    bound: float scalar, max_i ||q_i||_2 max_j ||k_j||_2, a smaller one.

  Example:
    >>> LogitBound._fields
    ('query_max', 'key_max', 'entries', 'bound')

  Reference:
    Hu, Su, Kuo, Song and Liu, Computational limits of low-rank adaptation (LoRA) fine-tuning for
    transformer models, 2024, theorem 3.1 (its norm condition).
  """

  query_max: Array
  key_max: Array
  entries: Array
  bound: Array


def logit_bound(
  adapters: Adapters,
  weights: Kernels,
  x: ArrayLike,
  *,
  context: ArrayLike | None = None,
  alpha: ArrayLike | None = None,
  beta: ArrayLike | None = None,
) -> LogitBound:
  r"""The norms of the theory as numbers to log: G_Q = max |beta x Q|, G_K = max |c K|.

  |logits| <= max_i ||q_i||_2 max_j ||k_j||_2 <= e G_Q G_K for heads of size e.

  Args:
    adapters: dict from ``"query"``, ``"key"`` and ``"value"``, or some of them, to a
      ``LoraAdapter``.
    weights: dict from the three names to the frozen kernels.
    x: float[n, d], tokens.
    context: float[m, d], the tokens of keys and values in cross-attention.
    alpha: number, by default the rank of each adapter; may be traced.
    beta: number that multiplies the logits, e^(-1/2) by default; may be traced.

  Returns:
    ``LogitBound``.

  Raises:
    TypeError: an array is not floating-point, or adapters or weights are no dicts.
    ValueError: names or shapes do not fit.

  Example:
    >>> weights = {name: jnp.eye(2) for name in ("query", "key", "value")}
    >>> found = logit_bound({}, weights, jnp.array([[3.0, 4.0]]), beta=1.0)
    >>> float(found.entries), float(found.bound)
    (32.0, 25.0)

  Reference:
    Hu, Su, Kuo, Song and Liu, Computational limits of low-rank adaptation (LoRA) fine-tuning for
    transformer models, 2024, theorem 3.1.
  """
  head = check_head(adapters, weights, x, context, alpha, beta)
  q, k, _ = project(head.adapters, head)
  largest = lambda a: jnp.max(jnp.abs(a))
  longest = lambda a: jnp.max(safe_norm(a, axis=-1))
  return LogitBound(
    largest(q), largest(k), q.shape[1] * largest(q) * largest(k), longest(q) * longest(k)
  )
