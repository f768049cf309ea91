"""Training with corrected labels: sharpened guesses, weighted mixup, contrast across views."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxopt_robust import _checks, numerics
from jaxopt_robust.losses import _embeddings
from jaxopt_robust.typing import Array, ArrayLike

__all__ = [
  "MixedBatch",
  "class_balance_kl",
  "cross_view_contrastive_loss",
  "mixup",
  "mixup_loss",
  "sharpen",
]


class MixedBatch(NamedTuple):
  """Inputs mixed in pairs.

  Attributes:
    x: float[batch, ...], lam x_i + (1 - lam) x_o(i).
    lam: float scalar in [1/2, 1], the share of the input's own.
    perm: int32[batch], the partners o.
  """

  x: Array
  lam: Array
  perm: Array


def sharpen(probabilities: ArrayLike, gamma: ArrayLike = 2.0) -> Array:
  r"""Probabilities to a power, p_k^gamma / sum_j p_j^gamma.

  Args:
    probabilities: float[..., classes], >= 0; a factor of a row does not matter.
    gamma: > 0, a scalar; may be traced. 1 changes nothing (but the sum), infinity leaves the
      largest entry (equal ones share).

  Returns:
    float[..., classes] with sum 1; 0 in rows that are 0.

  Raises:
    ValueError: a known probability is negative or gamma is out of range.
    TypeError: probabilities are not floating-point.

  Example:
    >>> sharpen(jnp.array([0.75, 0.25]))
    Array([0.9, 0.1], dtype=float32)

  Reference:
    Berthelot, Carlini, Goodfellow, Papernot, Oliver and Raffel, MixMatch: a holistic approach to
    semi-supervised learning, 2019, equation 7 (gamma = 1 / T).
  """
  array = _checks.check_float_array("probabilities", probabilities, min_rank=1)
  _checks.check_interval("gamma", gamma, 0.0, float("inf"), closed="right", scalar=True)
  _checks.check_holds(~(array < 0), "probabilities must be >= 0; got a negative one.")
  wide = numerics.upcast(array)
  largest = jax.lax.stop_gradient(jnp.max(wide, axis=-1, keepdims=True))
  powers = numerics.safe_divide(wide, largest) ** jnp.asarray(gamma, wide.dtype)
  return numerics.safe_divide(powers, jnp.sum(powers, axis=-1, keepdims=True)).astype(array.dtype)


def mixup(key: ArrayLike, x: ArrayLike, *, alpha: ArrayLike = 1.0) -> MixedBatch:
  r"""Mixes each input of a batch with another one, lam x_i + (1 - lam) x_o(i).

  One b ~ Beta(alpha, alpha) and one permutation o are drawn for the batch; lam = max(b, 1 - b).

  Args:
    key: typed PRNG key.
    x: float[batch, ...].
    alpha: > 0, a scalar; may be traced.

  Returns:
    MixedBatch; ``mixup_loss`` takes its lam and perm.

  Raises:
    TypeError: key is no typed key or x is not floating-point.
    ValueError: x is empty or alpha <= 0.

  Example:
    >>> x = jnp.array([[0.0], [1.0], [2.0]])
    >>> mixed = mixup(jax.random.key(0), x)
    >>> bool(jnp.allclose(mixed.x, mixed.lam * x + (1 - mixed.lam) * x[mixed.perm]))
    True

  Reference:
    Zhang, Cisse, Dauphin and Lopez-Paz, mixup: beyond empirical risk minimization, 2018; the
    larger share is the input's own as in MixMatch (2019, equation 9).
  """
  key = _checks.check_key("key", key)
  array = _checks.check_float_array("x", x, min_rank=1)
  _checks.check_positive("alpha", alpha, scalar=True)
  wide = numerics.upcast(array)
  key_share, key_order = jax.random.split(key)
  a = jnp.asarray(alpha, wide.dtype)
  share = jax.random.beta(key_share, a, a)
  lam = jnp.maximum(share, 1 - share)
  perm = jax.random.permutation(key_order, array.shape[0]).astype(jnp.int32)
  mixed = lam * wide + (1 - lam) * wide[perm]
  return MixedBatch(mixed.astype(array.dtype), lam.astype(array.dtype), perm)


def mixup_loss(
  logits: ArrayLike,
  targets: ArrayLike,
  weights: ArrayLike | None = None,
  *,
  lam: ArrayLike = 1.0,
  perm: ArrayLike | None = None,
) -> Array:
  r"""Cross entropy of mixed inputs, each of the two targets with the weight of its example.

  Computes lam sum_i w_i CE(z_i, t_i) / sum_i w_i
  + (1 - lam) sum_i w_o(i) CE(z_i, t_o(i)) / sum_i w_i with
  CE(z, t) = -sum_k t_k log softmax_k(z).

  Args:
    logits: float[batch, classes], z, of the mixed inputs.
    targets: float[batch, classes], t, such as one-hot labels or stored guesses, not mixed.
    weights: float[batch] >= 0, w; 1 by default. A factor of all does not matter.
    lam: in [0, 1], a scalar; may be traced.
    perm: int[batch], o, in [0, batch); the example itself by default.

  Returns:
    float scalar, a mean; 0 where all weights are 0.

  Raises:
    ValueError: shapes do not agree or a number is out of range.
    TypeError: logits, targets or weights are not floating-point, or perm holds no integers.

  Note:
    No gradient reaches targets and weights. Under ``jit`` partners out of range make it NaN.

  Example:
    >>> logits = jnp.array([[2.0, 0.0], [0.0, 0.0]])
    >>> mixup_loss(logits, jnp.eye(2), jnp.array([0.0, 1.0])).round(2)
    Array(0.69, dtype=float32)

  Reference:
    Albert, Valmadre, Arazo, Krishna, O'Connor and McGuinness, An accurate detection is not all you
    need to combat label noise in web-noisy datasets, 2024.
  """
  array = _checks.check_float_array("logits", logits, rank=2)
  aims = _checks.check_float_array("targets", targets, rank=2)
  _checks.check_same_shape("logits", array, "targets", aims)
  size = array.shape[0]
  w = jnp.ones(size) if weights is None else _checks.check_float_array("weights", weights, rank=1)
  if w.shape != (size,):
    raise ValueError(f"weights must have shape ({size},); got {w.shape}.")
  _checks.check_non_negative("weights", w)
  _checks.check_interval("lam", lam, 0.0, 1.0, scalar=True)
  partners = _partners(perm, size)
  wide = numerics.upcast(array)
  w, aims = jax.lax.stop_gradient((w.astype(wide.dtype), aims.astype(wide.dtype)))
  w = numerics.safe_divide(w, jnp.max(w))
  log_p = jax.nn.log_softmax(wide, axis=-1)
  # A target of 0 has no part, also where its log-probability is -inf.
  entropy = lambda t: -jnp.sum(jnp.where(t == 0, 0, t * jnp.where(t == 0, 0, log_p)), axis=-1)
  mean = lambda w, t: jnp.sum(jnp.where(w == 0, 0, w * entropy(t)))
  of_partner = lambda v: jnp.take(v, partners, axis=0, mode="fill", fill_value=jnp.nan)
  share = jnp.asarray(lam, wide.dtype)
  other = mean(of_partner(w), of_partner(aims))
  value = share * mean(w, aims) + (1 - share) * other
  return numerics.safe_divide(value, jnp.sum(w)).astype(array.dtype)


def cross_view_contrastive_loss(
  first: ArrayLike,
  second: ArrayLike,
  labels: ArrayLike,
  *,
  temperature: ArrayLike = 0.2,
  lam: ArrayLike = 1.0,
  perm: ArrayLike | None = None,
  where: ArrayLike | None = None,
) -> Array:
  r"""Supervised contrast between two views: all second views of the anchor's class are positives.

  With s_ij the cosine of first view i and second view j, and P(c) the rows of class c,

    l_i(c) = -(1/|P(c)|) sum_{j in P(c)} log( exp(s_ij / tau) / sum_a exp(s_ia / tau) ),

  computes lam l_i(y_i) + (1 - lam) l_i(y_o(i)): the first views may be mixed inputs. Unlike
  ``losses.supervised_contrastive_loss`` the views are compared across only, the anchor's own
  second view included.

  Args:
    first: float[batch, features], anchors.
    second: float[batch, features], candidates, in the same order.
    labels: int[batch], y; any integers, such as the argmax of corrected targets.
    temperature: tau > 0, a scalar; may be traced.
    lam: in [0, 1], a scalar; may be traced.
    perm: int[batch], o, in [0, batch); the example itself by default.
    where: bool[batch]; rows where it is false are neither anchors nor candidates; their value is 0.

  Returns:
    float[batch] one loss an anchor; a label without candidates counts as 0.

  Raises:
    ValueError: shapes do not agree or a number is out of range.
    TypeError: views are not floating-point, labels or perm no integers or where not boolean.

  Note:
    With labels that all differ it is InfoNCE with the diagonal as positives. Under ``jit`` a
    partner out of range makes its row NaN.

  Example:
    >>> views, labels = jnp.eye(2), jnp.array([0, 1])
    >>> cross_view_contrastive_loss(views, views, labels, temperature=1.0).round(2)
    Array([0.31, 0.31], dtype=float32)

  Reference:
    Albert, Valmadre, Arazo, Krishna, O'Connor and McGuinness, An accurate detection is not all you
    need to combat label noise in web-noisy datasets, 2024 (supervised contrastive objective).
  """
  anchors = _checks.check_float_array("first", first, rank=2)
  others = _checks.check_float_array("second", second, rank=2)
  _checks.check_same_shape("first", anchors, "second", others)
  size = anchors.shape[0]
  label = _embeddings.check_class_numbers("labels", labels, shape=(size,))
  mask = _checks.check_mask("where", where, shape=(size,))
  _checks.check_positive("temperature", temperature, scalar=True)
  _checks.check_interval("lam", lam, 0.0, 1.0, scalar=True)
  partners = _partners(perm, size)
  used = jnp.ones(size, jnp.bool_) if mask is None else mask
  rows, columns = (_embeddings.unit_rows(v, used) for v in (anchors, others))
  logits = _embeddings.matmul(rows, columns.T) / jnp.asarray(temperature, rows.dtype)
  some = used | ~jnp.any(used)  # without any candidate: anything harmless
  total = jax.nn.logsumexp(jnp.where(some[None], logits, -jnp.inf), axis=1)
  log_share = logits - total[:, None]

  def row_loss(own: Array) -> Array:
    positives = used[:, None] & used[None] & (own[:, None] == label[None])
    count = jnp.maximum(jnp.sum(positives, axis=1), 1).astype(rows.dtype)
    return -jnp.sum(jnp.where(positives, log_share, 0), axis=1) / count

  share = jnp.asarray(lam, rows.dtype)
  is_bad = (partners < 0) | (partners >= size)
  mixed = row_loss(label[jnp.clip(partners, 0, size - 1)])
  value = share * row_loss(label) + (1 - share) * jnp.where(is_bad & used, jnp.nan, mixed)
  return value.astype(anchors.dtype)


def class_balance_kl(logits: ArrayLike, *, where: ArrayLike | None = None) -> Array:
  r"""Divergence of the mean prediction from equal classes, KL(u, p) = sum_k 1/K log( (1/K) / p_k ).

  p is the mean over the batch of softmax(z_i), u the uniform distribution on the K classes.

  Args:
    logits: float[batch, classes], z.
    where: bool[batch]; rows where it is false do not count, whatever they hold.

  Returns:
    float scalar >= 0; 0 where the mean is uniform or no row counts.

  Raises:
    ValueError: shapes do not agree.
    TypeError: logits are not floating-point or where is not boolean.

  Example:
    >>> float(class_balance_kl(jnp.array([[2.0, 0.0], [0.0, 2.0]])).round(3))
    0.0

  Reference:
    Tanaka, Ikami, Yamasaki and Aizawa, Joint optimization framework for learning with noisy labels,
    2018, equation 9 with a uniform prior.
  """
  array = _checks.check_float_array("logits", logits, rank=2)
  mask = _checks.check_mask("where", where, shape=array.shape[:1])
  wide = numerics.upcast(array)
  used = jnp.ones(array.shape[0], jnp.bool_) if mask is None else mask
  used = used | ~jnp.any(used)
  empty = jnp.zeros((), jnp.bool_) if mask is None else ~jnp.any(mask)
  # rows that do not count, and all rows where none counts, are uniform predictions
  keep = used & ~empty
  log_p = jax.nn.log_softmax(jnp.where(keep[:, None], wide, 0), axis=-1)
  total = jax.nn.logsumexp(jnp.where(used[:, None], log_p, -jnp.inf), axis=0)
  log_mean = total - jnp.log(jnp.sum(used).astype(wide.dtype))
  value = -jnp.mean(log_mean) - jnp.log(jnp.asarray(array.shape[1], wide.dtype))
  return jnp.maximum(value, 0).astype(array.dtype)


def _partners(perm: ArrayLike | None, size: int) -> Array:
  if perm is None:
    return jnp.arange(size, dtype=jnp.int32)
  return _checks.check_integers("perm", perm, low=0, high=size, shape=(size,))
