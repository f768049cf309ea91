"""Attention without softmax: a Gaussian kernel of tokens, in Nystrom form on a few landmarks."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxopt_robust import _arguments, _checks
from jaxopt_robust.layers._tokens import check_same, dot, tokens, transposed
from jaxopt_robust.linalg import newton_inverse
from jaxopt_robust.numerics import safe_divide, upcast
from jaxopt_robust.typing import Array, ArrayLike

__all__ = [
  "SoftAttentionInfo",
  "elu_attention",
  "full_gaussian_attention",
  "gaussian_gram",
  "nystrom_attention",
  "segment_means",
  "soft_attention",
]


class SoftAttentionInfo(NamedTuple):
  """How good the inverse of the landmarks' kernel is.

  Attributes:
    error: float[...], one a head, ``NewtonInverseInfo.error`` of the iteration: near 0 for the
      inverse; larger where landmarks are so alike that directions of their kernel are left out.

  Example:
    >>> SoftAttentionInfo._fields
    ('error',)

  Reference:
    Lu, Yao, Zhang, Zhu, Xu, Gao, Xu, Xiang and Zhang, SOFT: softmax-free transformer with linear
    complexity, 2021.
  """

  error: Array


def _finite(**arrays: Array) -> None:
  """What is to be inverted is made of these."""
  for name, array in arrays.items():
    _checks.check_holds(jnp.isfinite(array), f"{name} must be finite; got NaN or infinity.")


def gaussian_gram(a: ArrayLike, b: ArrayLike) -> Array:
  r"""Gaussian kernel of two sets of tokens, K_ij = exp(-||a_i - b_j||_2^2 / 2).

  Args:
    a: float[..., n, e].
    b: float[..., m, e], the same leading axes.

  Returns:
    float[..., n, m] in (0, 1], at least float32.

  Raises:
    TypeError: an array is not floating-point.
    ValueError: shapes do not fit.

  Note:
    By one product, ||a||^2 + ||b||^2 - 2 a.b, of tokens from which the mean of b is taken first:
    far from the origin squares would hide the differences. They still do between tokens that are
    near one another and 1000 widths from the mean (float32). For another width divide the tokens by
    it; attention heads of size e take e^(1/4).

  Example:
    >>> gaussian_gram(jnp.array([[0.0], [2.0]]), jnp.array([[0.0]])).round(4)
    Array([[1.    ],
           [0.1353]], dtype=float32)

  Reference:
    Lu, Yao, Zhang, Zhu, Xu, Gao, Xu, Xiang and Zhang, SOFT: softmax-free transformer with linear
    complexity, 2021, section 3.2.
  """
  first, second = tokens(a=a, b=b)
  check_same("b", second, "a", first, -1)
  return _gram(upcast(first), upcast(second))


def _gram(a: Array, b: Array, *, same: bool = False) -> Array:
  """The kernel; of the ``same`` tokens its diagonal is 1 whatever rounding says."""
  # The kernel does not change when both sets are moved.
  center = jax.lax.stop_gradient(jnp.sum(b / b.shape[-2], axis=-2, keepdims=True))
  known = ~jnp.any(jnp.isnan(a), -1)[..., :, None] & ~jnp.any(jnp.isnan(b), -1)[..., None, :]
  a, b = a - center, b - center
  square = jnp.sum(a**2, -1)[..., :, None] + jnp.sum(b**2, -1)[..., None, :]
  distance = jnp.maximum(square - 2 * dot(a, transposed(b)), 0)
  distance = jnp.where(known & jnp.isnan(distance), jnp.inf, distance)  # squares out of range
  if same:
    itself = jnp.broadcast_to(jnp.eye(a.shape[-2], dtype=bool), known.shape)
    distance = jnp.where(known & itself, 0, distance)
  return jnp.exp(-0.5 * distance)


def segment_means(x: ArrayLike, *, num_landmarks: int) -> Array:
  r"""Landmarks: means of runs of tokens of the same length.

  Args:
    x: float[..., n, e].
    num_landmarks: m >= 1, static; divides n.

  Returns:
    float[..., m, e] in the dtype of ``x``.

  Raises:
    TypeError: ``x`` is not floating-point, or ``num_landmarks`` no static integer.
    ValueError: ``num_landmarks`` does not divide the number of tokens.

  Example:
    >>> segment_means(jnp.array([[1.0], [3.0], [5.0], [5.0]]), num_landmarks=2)
    Array([[2.],
           [5.]], dtype=float32)

  Reference:
    Xiong, Zeng, Chakraborty, Tan, Fung, Li and Singh, Nystromformer: a Nystrom-based algorithm for
    approximating self-attention, 2021.
  """
  (array,) = tokens(x=x)
  m = _checks.check_int("num_landmarks", num_landmarks, minimum=1)
  n = array.shape[-2]
  if n % m:
    raise ValueError(f"num_landmarks must divide the {n} tokens of x; got {m}.")
  runs = upcast(array).reshape(*array.shape[:-2], m, n // m, array.shape[-1])
  return jnp.mean(runs, axis=-2).astype(array.dtype)


def soft_attention(
  q: ArrayLike,
  landmarks: ArrayLike,
  v: ArrayLike,
  *,
  normalize: bool = True,
  num_iters: int = 20,
  ridge: ArrayLike = 0.01,
  safety: ArrayLike = 0.9,
) -> tuple[Array, SoftAttentionInfo]:
  r"""Softmax-free attention (SOFT): queries are keys, and their Gaussian kernel has a low rank.

  With K_1 = gaussian_gram(q, landmarks), n x m, and K_2 = gaussian_gram(landmarks, landmarks),
  m x m,

    out = K_1 (Z (K_1^T v)),    Z = newton_inverse(K_2 + ridge I),

  or with ``normalize`` D^(-1/2) Z D^(-1/2) in place of Z, D = diag(K_2 1). In this order of the
  products the cost is O(n m e) and nothing of size n x n exists. There is no normalisation over
  tokens: out grows with their number.

  Args:
    q: float[..., n, e], queries and keys in one; heads and examples are leading axes. Divide
      projections of size e by e^(1/4).
    landmarks: float[..., m, e], the tokens that stand for all: strided convolutions of q in the
      paper, ``segment_means``, or any m of them.
    v: float[..., n, f].
    normalize: whether Z is normalised; static.
    num_iters: of the inverse, static.
    ridge: >= 0, added to the diagonal of K_2; may be traced.
    safety: of the inverse, in (0, 1]; may be traced.

  Returns:
    (float[..., n, f] in the dtype of ``v``, ``SoftAttentionInfo``). Kernels and inverse are
    computed in float32 at least.

  Raises:
    TypeError: an array is not floating-point, or ``num_iters`` no static integer.
    ValueError: shapes do not fit, a number is out of range, or the tokens are not finite.

  Note:
    The middle factor alone is normalised: it divides the norm of the attention matrix by about m,
    and does not make it 1 (``full_gaussian_attention`` does). The matrix K_1 Z K_1^T is symmetric
    and positive semi-definite; with all tokens for landmarks and no ridge it is the kernel itself.
    The derivative is that of the inverse, two products for any ``num_iters``.

  Example:
    >>> q, v = jnp.array([[0.0], [1.0], [1.0]]), jnp.array([[1.0], [2.0], [4.0]])
    >>> out, info = soft_attention(q, q[:2], v, normalize=False, ridge=0.0)
    >>> bool(info.error < 1e-5)
    True
    >>> jnp.abs(out[0] - (1 + 6 * jnp.exp(-0.5))).max() < 1e-4  # by the kernel itself
    Array(True, dtype=bool)

  Reference:
    Lu, Yao, Zhang, Zhu, Xu, Gao, Xu, Xiang and Zhang, SOFT: softmax-free transformer with linear
    complexity, 2021, section 3.2; the normalisation: Lu, Zhang, Zhu, Feng, Xiang and Zhang,
    Softmax-free linear transformers, 2024. Their code adds the ridge without normalisation only.
  """
  queries, marks, values = tokens(q=q, landmarks=landmarks, v=v)
  check_same("landmarks", marks, "q", queries, -1)
  check_same("v", values, "q", queries, -2)
  _arguments.check_option("normalize", normalize, (True, False))
  _finite(q=queries, landmarks=marks)
  wide, wide_marks = upcast(queries), upcast(marks)
  outer, core = _gram(wide, wide_marks), _gram(wide_marks, wide_marks, same=True)
  inverse, info = newton_inverse(core, num_iters=num_iters, ridge=ridge, safety=safety)
  inner = dot(transposed(outer), upcast(values))
  if normalize:
    root = jax.lax.rsqrt(jnp.sum(core, axis=-1, keepdims=True))
    inner = root * dot(inverse, root * inner)
  else:
    inner = dot(inverse, inner)
  return dot(outer, inner).astype(values.dtype), SoftAttentionInfo(info.error)


def full_gaussian_attention(q: ArrayLike, v: ArrayLike, *, normalize: bool = True) -> Array:
  r"""Attention by the whole Gaussian kernel S = gaussian_gram(q, q), what ``soft_attention`` nears.

  Computes S v, or with ``normalize`` D^(-1/2) S D^(-1/2) v, D = diag(S 1), whose matrix has the
  spectral norm 1. O(n^2): the reference for short sequences.

  Args:
    q: float[..., n, e].
    v: float[..., n, f].
    normalize: static.

  Returns:
    float[..., n, f] in the dtype of ``v``.

  Raises:
    TypeError: an array is not floating-point.
    ValueError: shapes do not fit.

  Example:
    >>> full_gaussian_attention(jnp.array([[0.0], [9.0]]), jnp.array([[1.0], [2.0]]))
    Array([[1.],
           [2.]], dtype=float32)

  Reference:
    Lu, Zhang, Zhu, Feng, Xiang and Zhang, Softmax-free linear transformers, 2024.
  """
  queries, values = tokens(q=q, v=v)
  check_same("v", values, "q", queries, -2)
  _arguments.check_option("normalize", normalize, (True, False))
  wide = upcast(queries)
  kernel, out = _gram(wide, wide, same=True), upcast(values)
  if not normalize:
    return dot(kernel, out).astype(values.dtype)
  root = jax.lax.rsqrt(jnp.sum(kernel, axis=-1, keepdims=True))
  return (root * dot(kernel, root * out)).astype(values.dtype)


def elu_attention(q: ArrayLike, k: ArrayLike, v: ArrayLike) -> Array:
  r"""Linear attention with the feature map phi(x) = elu(x) + 1.

  Computes out_i = phi(q_i)^T (sum_j phi(k_j) v_j^T) / (phi(q_i)^T sum_j phi(k_j)), without a mask;
  O(n e f).

  Args:
    q: float[..., n, e].
    k: float[..., s, e].
    v: float[..., s, f].

  Returns:
    float[..., n, f] in the dtype of ``v``; each row is a weighted mean of those of v.

  Raises:
    TypeError: an array is not floating-point.
    ValueError: shapes do not fit.

  Example:
    >>> elu_attention(jnp.zeros((1, 2)), jnp.zeros((2, 2)), jnp.array([[1.0], [3.0]]))
    Array([[2.]], dtype=float32)

  Reference:
    Katharopoulos, Vyas, Pappas and Fleuret, Transformers are RNNs: fast autoregressive transformers
    with linear attention, 2020, equations 4 to 7.
  """
  queries, keys, values = tokens(q=q, k=k, v=v)
  check_same("k", keys, "q", queries, -1)
  check_same("v", values, "k", keys, -2)
  features = lambda x: jax.nn.elu(upcast(x)) + 1
  left, right = features(queries), features(keys)
  total = dot(left, jnp.sum(right, axis=-2)[..., None])
  out = dot(left, dot(transposed(right), upcast(values)))
  # phi is positive, and 0 where e^x vanishes.
  return safe_divide(out, total).astype(values.dtype)


def nystrom_attention(
  q: ArrayLike, k: ArrayLike, v: ArrayLike, *, num_landmarks: int, num_iters: int = 20
) -> tuple[Array, SoftAttentionInfo]:
  r"""Softmax attention in Nystrom form on segment means (Nystromformer).

  With landmarks a = segment_means(q), b = segment_means(k) and row-wise softmax of products scaled
  by e^(-1/2),

    out = softmax(q b^T) (softmax(a b^T)^+ (softmax(a k^T) v)),

  O(n m e); the pseudo-inverse is the one of ``linalg.newton_inverse``.

  Args:
    q: float[..., n, e].
    k: float[..., s, e].
    v: float[..., s, f].
    num_landmarks: m >= 1, static; divides n and s.
    num_iters: of the inverse, static.

  Returns:
    (float[..., n, f] in the dtype of ``v``, ``SoftAttentionInfo``).

  Raises:
    TypeError: an array is not floating-point, or a size no static integer.
    ValueError: shapes do not fit, or the tokens are not finite.

  Note:
    With n = s = m it is softmax attention, up to the inverse: an ill-conditioned middle factor is
    inverted in part only (``info.error``).

  Example:
    >>> x = jnp.eye(2)
    >>> out, _ = nystrom_attention(4 * x, 4 * x, x, num_landmarks=2)
    >>> jnp.abs(out - jax.nn.softmax(16 / jnp.sqrt(2.0) * x)).max() < 1e-5
    Array(True, dtype=bool)

  Reference:
    Xiong, Zeng, Chakraborty, Tan, Fung, Li and Singh, Nystromformer: a Nystrom-based algorithm for
    approximating self-attention, 2021, equation 13; they take an iteration of third order.
  """
  queries, keys, values = tokens(q=q, k=k, v=v)
  check_same("k", keys, "q", queries, -1)
  check_same("v", values, "k", keys, -2)
  _finite(q=queries, k=keys)
  wide, other = upcast(queries), upcast(keys)
  a = segment_means(wide, num_landmarks=num_landmarks)
  b = segment_means(other, num_landmarks=num_landmarks)
  root = wide.shape[-1] ** -0.5
  shares = lambda x, y: jax.nn.softmax(root * dot(x, transposed(y)), axis=-1)
  inverse, info = newton_inverse(shares(a, b), num_iters=num_iters)
  inner = dot(inverse, dot(shares(a, other), upcast(values)))
  return dot(shares(wide, b), inner).astype(values.dtype), SoftAttentionInfo(info.error)
