r"""The gradient of an attention head by its low-rank adapters, in time linear in the tokens."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxopt_robust.layers._tokens import dot, transposed
from jaxopt_robust.layers.lora.adapters import LoraAdapter
from jaxopt_robust.layers.lora.head import (
  KERNELS,
  Adapters,
  Head,
  Kernels,
  check_head,
  check_target,
  project,
)
from jaxopt_robust.layers.lora.polynomial_attention import pull_back
from jaxopt_robust.layers.lora.polynomial_softmax import (
  Factors,
  PolynomialSoftmaxInfo,
  check_series,
  factors_of,
)
from jaxopt_robust.numerics import safe_norm, upcast
from jaxopt_robust.typing import Array, ArrayLike

__all__ = ["FastGradientInfo", "lora_attention_grads_fast"]


class FastGradientInfo(NamedTuple):
  """How good a fast gradient is, proven in exact arithmetic: rounding comes on top.

  Attributes:
    softmax: ``PolynomialSoftmaxInfo``.
    output_error: float scalar, no row of Z is further off than this in the Euclidean norm.
    gradient_error: float scalar, the gradient of all factors of all adapters, as one vector, is no
      further off than this in the Euclidean norm; inf where nothing is proven.
    relative_error: float scalar, the same as a share of the norm of the exact gradient; inf where
      the fast gradient is no longer than its error.

  Example:
    >>> FastGradientInfo._fields
    ('softmax', 'output_error', 'gradient_error', 'relative_error')

  Reference:
    The remainder of the series carried through the chain rule of Hu, Su, Kuo, Song and Liu,
    Computational limits of low-rank adaptation (LoRA) fine-tuning for transformer models, 2024.
  """

  softmax: PolynomialSoftmaxInfo
  output_error: Array
  gradient_error: Array
  relative_error: Array


def _token_errors(
  found: Factors, qkv: tuple[Array, Array, Array], out: Array, g: Array
) -> tuple[Array, tuple[Array, Array, Array]]:
  """Bounds of the errors of the rows of Z, and of those of the gradients by q, k and v (Frobenius).

  With f the exact softmax and f' = f + (d - f mean(d)) / (m row_mean) the approximate one, row by
  row, |d| <= largest and mean |d| <= mean. Both have rows that sum to 1, so that values and keys
  may be centred.
  """
  q, k, v = qkv
  far = lambda x: jnp.max(safe_norm(x - jnp.mean(x, axis=0, keepdims=True), axis=-1))
  widest_v, widest_k = far(v), far(k)
  error = found.row_error  # sum_j |f' - f|
  shift = error * widest_v  # of a row of Z, and of g = Z - Y
  size = safe_norm(g, axis=-1)
  spread = size * widest_v  # |g.(v_j - mean)| is at most this
  center = jnp.abs(jnp.sum(g * (out - jnp.mean(v, axis=0, keepdims=True)), axis=-1))
  # w - diag(w 1) f row by row: by f' in place of f, then by the g that goes with it.
  reach = spread + center
  row = error * (reach + spread) + shift * widest_v
  share = found.mean / found.row_mean
  count = k.shape[0]

  def columns(direct: Array, by_softmax: Array) -> Array:
    """Of sum_i (|f' - f|_ij direct_i + f_ij by_softmax_i), its norm over the keys j."""
    scattered = jnp.sum(direct * jnp.sqrt(found.largest * found.mean / count) / found.row_mean)
    rest = by_softmax + share * direct
    seen = dot(found.right, dot(transposed(found.left), rest[:, None]))
    return scattered + safe_norm(seen) + jnp.sum(error * rest)

  norms = safe_norm(q, axis=-1)
  dk = columns(reach * norms, (error * spread + 2 * shift * widest_v) * norms)
  dv = columns(size, shift)
  return shift, (widest_k * safe_norm(row), dk, dv)


def _spectral(x: Array) -> Array:
  """At least the spectral norm of a matrix, from the largest sum of a row of its Gram matrix."""
  unit = jnp.max(jnp.abs(x))
  scaled = x / jnp.where(unit > 0, unit, 1)
  return unit * jnp.sqrt(jnp.max(jnp.sum(jnp.abs(dot(transposed(scaled), scaled)), axis=-1)))


def _adapter_error(head: Head, errors: tuple[Array, Array, Array]) -> Array:
  """Bound of the error of the gradient by all factors: da = s x^T dq b^T, db = s (x a)^T dq."""
  parts = []
  for name, error in zip(KERNELS, errors, strict=True):
    if name in head.adapters:
      a, b = (upcast(factor) for factor in head.adapters[name])
      x = head.x if name == "query" else head.context
      scale = 1.0 if head.alpha is None else jnp.abs(jnp.asarray(head.alpha)) / a.shape[1]
      factor = jnp.abs(head.beta) if name == "query" else 1.0
      for side in (_spectral(x) * _spectral(transposed(b)), _spectral(dot(x, a))):
        parts.append(scale * factor * error * side)
  return safe_norm(jnp.stack(parts)) if parts else jnp.zeros((), head.x.dtype)


def lora_attention_grads_fast(
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
) -> tuple[dict[str, LoraAdapter], FastGradientInfo]:
  r"""Gradient of ``lora_attention_loss`` in time linear in the tokens, with a bound of its error.

  The softmax is replaced by left right^T of ``softmax_poly_factors`` and every further factor of
  the chain rule by its product of low rank (``factored_attention_vjp``), for queries, keys and
  values together; then da = (alpha / rank) x^T dq b^T and db = (alpha / rank) (x a)^T dq, and
  likewise for keys and values.

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
    (pytree like ``adapters``, ``FastGradientInfo``). O((n + m) r e h), r = C(e + degree, degree).
    Where ``info.softmax.valid`` is False the logits are too large for it: take
    ``jax.grad`` of ``lora_attention_loss``.

  Raises:
    TypeError: an array is not floating-point, or adapters or weights are no dicts.
    ValueError: names or shapes do not fit, or an option is out of range.

  Note:
    The bound follows the series' remainder through the chain rule by triangle inequalities, which
    know of no cancellation: it is some hundred times the error where that is small.

  Example:
    >>> weights = {name: 0.5 * jnp.eye(2) for name in ("query", "key", "value")}
    >>> ones = jr.layers.LoraAdapter(jnp.ones((2, 1)), 0.1 * jnp.ones((1, 2)))
    >>> x = jnp.array([[1.0, 0.0], [0.0, 1.0], [1.0, -1.0]])
    >>> grads, info = lora_attention_grads_fast({"query": ones, "key": ones}, weights, x)
    >>> exact = jax.grad(jr.layers.lora_attention_loss)({"query": ones, "key": ones}, weights, x)
    >>> gap = optax.tree.norm(jax.tree.map(jnp.subtract, grads, exact))
    >>> bool(gap <= info.gradient_error), bool(info.softmax.valid)
    (True, True)

  Reference:
    Hu, Su, Kuo, Song and Liu, Computational limits of low-rank adaptation (LoRA) fine-tuning for
    transformer models, 2024, theorems 3.1 (queries alone) and A.1 (queries and keys). The bounds in
    ``info`` are ours.
  """
  head = check_head(adapters, weights, x, context, alpha, beta)
  if not head.adapters:
    raise ValueError("adapters must hold at least one LoraAdapter; got none.")
  y = check_target(head, target)
  degree = check_series(head.kernels["query"].shape[1], degree, series, bound)
  qkv, back = jax.vjp(lambda a: project(a, head), head.adapters)
  limit = None if bound is None else jnp.asarray(bound, qkv[0].dtype)
  found = factors_of(qkv[0], qkv[1], limit, degree, series)
  out = dot(found.left, dot(transposed(found.right), qkv[2]))
  g = out - y
  (grads,) = back(pull_back(found.left, found.right, qkv, g))
  shift, errors = _token_errors(found, qkv, out, g)
  error = _adapter_error(head, errors)
  sound = jnp.all(found.row_mean > 0) & jnp.isfinite(found.info.softmax_error)
  error = jnp.where(sound & ~jnp.isnan(error), error, jnp.inf)
  left = safe_norm(jnp.concatenate([jnp.ravel(leaf) for leaf in jax.tree.leaves(grads)])) - error
  relative = jnp.where(left > 0, error / jnp.where(left > 0, left, 1), jnp.inf)
  relative = jnp.where(error > 0, relative, 0)
  output = jnp.max(jnp.where(jnp.isnan(shift), jnp.inf, shift))
  return grads, FastGradientInfo(found.info, output, error, relative)
