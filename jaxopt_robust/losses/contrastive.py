"""Contrastive losses, exact on the batch: InfoNCE, the global and the robust one, supervised ones.

All take a matrix of scores, anchors by candidates, with the column of each anchor's positive.
"""

import jax
import jax.numpy as jnp

from jaxopt_robust import _checks, numerics
from jaxopt_robust.losses import _anchors, _embeddings
from jaxopt_robust.losses.dro.kl import kl_ball_dro_temperature
from jaxopt_robust.losses.noise_robust import cross_entropy_loss
from jaxopt_robust.typing import Array, ArrayLike

__all__ = [
  "global_contrastive_loss",
  "info_nce_loss",
  "normalized_softmax_loss",
  "robust_contrastive_temperatures",
  "robust_global_contrastive_loss",
  "supervised_contrastive_loss",
  "two_view_scores",
]


def info_nce_loss(
  scores: ArrayLike,
  pos_index: ArrayLike,
  *,
  temperature: ArrayLike = 0.1,
  where: ArrayLike | None = None,
) -> Array:
  r"""InfoNCE: the cross entropy of finding each anchor's positive among the candidates.

  Computes -log( exp(s_i+ / tau) / sum_j exp(s_ij / tau) ) with s_i+ the score of the positive and
  the sum over all candidates j, the positive included; neither divided by their number nor
  multiplied by tau = temperature.

  Args:
    scores: float[..., candidates] similarities of each anchor with the candidates, such as cosines.
    pos_index: int[...] column of each anchor's positive, in [0, candidates).
    temperature: > 0, a scalar or float[...] one per anchor; may be traced.
    where: bool[..., candidates]; columns where it is false are no candidates of the anchor,
      whatever they hold. A row whose positive is none has value 0 and gradient 0.

  Returns:
    float[...] one loss an anchor, in the dtype of ``scores``; 0 where the positive is the only
    candidate. Under ``jit`` a row whose positive is out of range is NaN.

  Raises:
    ValueError: shapes do not agree, a known position is out of range or temperature <= 0.
    TypeError: scores are not floating-point, pos_index not integers or where not boolean.

  Example:
    Two views of each example (SimCLR):

    >>> z1, z2 = jnp.array([[1.0, 0.0], [0.0, 1.0]]), jnp.array([[1.0, 0.1], [0.1, 1.0]])
    >>> scores, pos_index, where = two_view_scores(z1, z2)
    >>> info_nce_loss(scores, pos_index, temperature=1.0, where=where).round(2)
    Array([0.58, 0.58, 0.62, 0.62], dtype=float32)

    Images against texts and texts against images (CLIP), here as they come:

    >>> scores, diagonal = z1 @ z2.T, jnp.arange(2)
    >>> both = info_nce_loss(scores, diagonal) + info_nce_loss(scores.T, diagonal)

  Reference:
    van den Oord, Li and Vinyals, Representation learning with contrastive predictive coding, 2018;
    Chen, Kornblith, Norouzi and Hinton, A simple framework for contrastive learning of visual
    representations, 2020, equation 1.
  """
  anchors = _anchors.prepare(scores, pos_index, where)
  _checks.check_positive("temperature", temperature)
  tau = _anchors.per_anchor("temperature", temperature, anchors)
  has_any = jnp.any(anchors.negatives, axis=-1)
  logits = jnp.where(anchors.negatives, anchors.gap / tau[..., None], -jnp.inf)
  others = jax.nn.logsumexp(jnp.where(has_any[..., None], logits, 0), axis=-1)
  return _anchors.finish(jnp.where(has_any, jax.nn.softplus(others), 0), anchors)


def global_contrastive_loss(
  scores: ArrayLike,
  pos_index: ArrayLike,
  *,
  temperature: ArrayLike = 0.1,
  radius: ArrayLike = 0.0,
  where: ArrayLike | None = None,
) -> Array:
  r"""Global contrastive loss: the soft maximum of the negatives' scores over the positive's.

  Computes tau_i log( (1/m_i) sum_j exp((s_ij - s_i+) / tau_i) ) + tau_i rho, the sum over the m_i
  candidates j other than the positive, with tau = temperature and rho = radius. With rho = 0 and a
  common tau it is the loss of SogCLR on the batch; with one tau per anchor it is the loss that
  iSogCLR minimises in tau as well (RGCL).

  Args:
    scores: float[..., candidates] similarities of each anchor with the candidates, such as cosines.
    pos_index: int[...] column of each anchor's positive, in [0, candidates).
    temperature: > 0, a scalar or float[...] one per anchor; may be traced; infinity is allowed
      where the radius is 0 (the mean).
    radius: >= 0, the paper's rho, a scalar or float[...] one per anchor; may be traced.
    where: bool[..., candidates]; columns where it is false are no candidates of the anchor,
      whatever they hold. A row whose positive is none has value 0 and gradient 0.

  Returns:
    float[...] one loss an anchor, in the dtype of ``scores``; 0 where there are no negatives. Under
    ``jit`` a row whose positive is out of range is NaN.

  Raises:
    ValueError: shapes do not agree, a known position is out of range, temperature <= 0 or
      radius < 0.
    TypeError: scores are not floating-point, pos_index not integers or where not boolean.

  Note:
    It is max_p sum_j p_j h_j - tau KL(p, 1/m) + tau rho with h_j = s_ij - s_i+. Derivatives are p
    in h and rho - KL(p, 1/m) in tau. As tau -> 0 it is max_j h_j, as tau -> infinity (rho = 0) the
    mean. For large data ``compositional.rgcl_loss`` keeps the sum over all negatives in memory.

  Example:
    >>> scores, pos_index = jnp.array([[0.9, 0.5, 0.1]]), jnp.array([0])
    >>> global_contrastive_loss(scores, pos_index, temperature=0.1).round(3)
    Array([-0.467], dtype=float32)

    Images against texts and texts against images:

    >>> scores, diagonal = jnp.eye(3) + 0.1, jnp.arange(3)
    >>> images = global_contrastive_loss(scores, diagonal, temperature=0.05)
    >>> texts = global_contrastive_loss(scores.T, diagonal, temperature=0.05)
    >>> float(jnp.mean(images + texts))
    -2.0

  Reference:
    Yuan, Wu, Qiu, Du, Zhang, Zhou and Yang, Provable stochastic optimization for global contrastive
    learning, 2022; Qiu, Hu, Yuan, Zhou, Zhang and Yang, Not all semantics are created equal, 2023
    (RGCL).
  """
  anchors = _anchors.prepare(scores, pos_index, where)
  _checks.check_positive("temperature", temperature)
  _checks.check_non_negative("radius", radius)
  tau = _anchors.per_anchor("temperature", temperature, anchors)
  rho = _anchors.per_anchor("radius", radius, anchors)
  return _anchors.finish(_robust_value(anchors, tau, rho), anchors)


def robust_global_contrastive_loss(
  scores: ArrayLike,
  pos_index: ArrayLike,
  *,
  radius: ArrayLike = 0.4,
  temperature_bounds: tuple[ArrayLike, ArrayLike] = (0.05, 1.0),
  where: ArrayLike | None = None,
) -> Array:
  r"""Robust global contrastive loss: each anchor's temperature is minimised out.

  Computes min over tau in [tau_min, tau_max] of
  tau log( (1/m_i) sum_j exp((s_ij - s_i+) / tau) ) + tau rho, the sum over the m_i candidates j
  other than the positive. It equals the maximum of sum_j p_j (s_ij - s_i+) - tau_min KL(p, 1/m_i)
  over the ball KL(p, 1/m_i) <= rho, plus tau_min rho, as long as tau_max does not bind.

  Args:
    scores: float[..., candidates] similarities of each anchor with the candidates, such as cosines.
    pos_index: int[...] column of each anchor's positive, in [0, candidates).
    radius: >= 0, the paper's rho, a scalar or float[...] one per anchor; may be traced. Useful
      between 0.1 and 0.5 for two views, 6 to 8 for images and texts.
    temperature_bounds: pair (tau_min, tau_max), 0 < tau_min <= tau_max, each a scalar or float[...]
      one per anchor; may be traced.
    where: bool[..., candidates]; columns where it is false are no candidates of the anchor,
      whatever they hold. A row whose positive is none has value 0 and gradient 0.

  Returns:
    float[...] one loss an anchor, in the dtype of ``scores``; 0 where there are no negatives. Under
    ``jit`` a row whose positive is out of range is NaN.

  Raises:
    ValueError: shapes do not agree, a known position is out of range, radius < 0 or bounds that are
      not 0 < tau_min <= tau_max.
    TypeError: scores are not floating-point, pos_index not integers or where not boolean.

  Note:
    It is ``kl_ball_dro`` of the s_ij - s_i+, plus tau_min rho, as long as tau_max does not bind.
    The temperature is found to rounding and differentiated implicitly: derivatives of all orders
    are exact away from the bounds of the temperature, where the second derivative jumps.

  Example:
    >>> scores, pos_index = jnp.array([[0.9, 0.5, 0.1]]), jnp.array([0])
    >>> robust_global_contrastive_loss(scores, pos_index, radius=0.3).round(2)
    Array([-0.45], dtype=float32)

  Reference:
    Qiu, Hu, Yuan, Zhou, Zhang and Yang, Not all semantics are created equal: contrastive
    self-supervised learning with automatic temperature individualization, 2023. The paper's
    algorithm moves the temperatures along (``compositional.rgcl_loss``); the exact minimisation is
    ours.
  """
  anchors, rho, tau = _minimise(scores, pos_index, radius, temperature_bounds, where)
  return _anchors.finish(_robust_value(anchors, tau, rho), anchors)


def robust_contrastive_temperatures(
  scores: ArrayLike,
  pos_index: ArrayLike,
  *,
  radius: ArrayLike = 0.4,
  temperature_bounds: tuple[ArrayLike, ArrayLike] = (0.05, 1.0),
  where: ArrayLike | None = None,
) -> Array:
  r"""Temperatures of the robust global contrastive loss, one an anchor.

  Finds tau in [tau_min, tau_max] with KL(p_tau, 1/m) = rho, p_tau proportional to
  exp((s_ij - s_i+) / tau) over the m negatives; tau_min where the divergence is below rho all along
  the interval, tau_max where it is above.

  Args:
    scores: float[..., candidates] similarities of each anchor with the candidates, such as cosines.
    pos_index: int[...] column of each anchor's positive, in [0, candidates).
    radius: >= 0, the paper's rho, a scalar or float[...] one per anchor; may be traced.
    temperature_bounds: pair (tau_min, tau_max), 0 < tau_min <= tau_max, each a scalar or float[...]
      one per anchor; may be traced.
    where: bool[..., candidates]; columns where it is false are no candidates of the anchor,
      whatever they hold.

  Returns:
    float[...] one temperature an anchor, in the dtype of ``scores``; tau_min in rows without
    negatives. Under ``jit`` a row whose positive is out of range is NaN.

  Raises:
    ValueError: shapes do not agree, a known position is out of range, radius < 0 or bounds that are
      not 0 < tau_min <= tau_max.
    TypeError: scores are not floating-point, pos_index not integers or where not boolean.

  Note:
    Found by bisection on log tau, as many steps as the dtype has digits; differentiated by the
    implicit function theorem. At a bound the derivative is that of the bound.

  Example:
    >>> scores, pos_index = jnp.array([[0.9, 0.5, 0.1], [0.9, 0.5, 0.5]]), jnp.array([0, 0])
    >>> robust_contrastive_temperatures(scores, pos_index, radius=0.3).round(2)
    Array([0.21, 0.05], dtype=float32)

  Reference:
    Qiu, Hu, Yuan, Zhou, Zhang and Yang, Not all semantics are created equal: contrastive
    self-supervised learning with automatic temperature individualization, 2023.
  """
  anchors, _, tau = _minimise(scores, pos_index, radius, temperature_bounds, where)
  return jnp.where(anchors.is_bad, jnp.nan, tau).astype(anchors.dtype)


def _robust_value(anchors: _anchors.Anchors, tau: Array, rho: Array) -> Array:
  value = _anchors.worst_case_mean(anchors, tau)
  price = jnp.where(rho > 0, jnp.where(rho > 0, tau, 0) * rho, 0 * rho)  # no 0 times infinity
  return jnp.where(jnp.any(anchors.negatives, axis=-1), value + price, 0)


def _minimise(
  scores: ArrayLike,
  pos_index: ArrayLike,
  radius: ArrayLike,
  temperature_bounds: tuple[ArrayLike, ArrayLike],
  where: ArrayLike | None,
) -> tuple[_anchors.Anchors, Array, Array]:
  """The anchors, their radii and their best temperatures."""
  anchors = _anchors.prepare(scores, pos_index, where)
  _checks.check_non_negative("radius", radius)
  low, high = _anchors.check_bounds(temperature_bounds)
  rho = _anchors.per_anchor("radius", radius, anchors)
  low = _anchors.per_anchor("temperature_bounds[0]", low, anchors)
  high = _anchors.per_anchor("temperature_bounds[1]", high, anchors)
  tau = kl_ball_dro_temperature(
    anchors.gap, rho, min_temperature=low, where=_anchors.never_empty(anchors)
  )
  return anchors, rho, jnp.minimum(tau, high)  # NaN where one of the numbers is


def two_view_scores(
  z1: ArrayLike, z2: ArrayLike, *, normalize: bool = True
) -> tuple[Array, Array, Array]:
  r"""Scores of the two views of a batch against each other: 2 B anchors, 2 B candidates.

  Stacks z = [z1; z2] and computes z z^T; the positive of view one of an example is its view two and
  the other way round; every view is a candidate except the anchor itself.

  Args:
    z1: float[batch, features] embeddings of the first views.
    z2: float[batch, features] embeddings of the second views, in the same order.
    normalize: whether rows are divided by their Euclidean norm, so that the scores are cosines (a
      row of zeros stays zero).

  Returns:
    (scores float[2 batch, 2 batch], pos_index int32[2 batch], where bool[2 batch, 2 batch]), to be
    passed on to ``info_nce_loss`` and ``global_contrastive_loss``. The latter leaves the positive
    out itself, so that its negatives are the 2 batch - 2 views of the other examples.

  Raises:
    ValueError: shapes do not agree or are not of rank 2.
    TypeError: embeddings are not floating-point.

  Example:
    >>> scores, pos_index, where = two_view_scores(jnp.eye(2), jnp.eye(2))
    >>> pos_index
    Array([2, 3, 0, 1], dtype=int32)
    >>> where.sum(axis=1)
    Array([3, 3, 3, 3], dtype=int32)

  Reference:
    Chen, Kornblith, Norouzi and Hinton, A simple framework for contrastive learning of visual
    representations, 2020, algorithm 1.
  """
  first = _checks.check_float_array("z1", z1, rank=2)
  second = _checks.check_float_array("z2", z2, rank=2)
  _checks.check_same_shape("z1", first, "z2", second)
  size = first.shape[0]
  stacked = jnp.concatenate([first, second])
  scores = _embeddings.unit_rows(stacked) if normalize else numerics.upcast(stacked)
  scores = _embeddings.matmul(scores, scores.T).astype(stacked.dtype)
  pos_index = jnp.roll(jnp.arange(2 * size, dtype=jnp.int32), size)
  return scores, pos_index, ~jnp.eye(2 * size, dtype=jnp.bool_)


def supervised_contrastive_loss(
  embeddings: ArrayLike,
  labels: ArrayLike,
  *,
  temperature: ArrayLike = 0.1,
  normalize: bool = True,
  where: ArrayLike | None = None,
) -> Array:
  r"""Supervised contrastive loss (SupCon): all rows of the anchor's class are positives.

  Computes -(1/|P_i|) sum_{p in P_i} log( exp(s_ip / tau) / sum_{a != i} exp(s_ia / tau) ) with
  P_i the other rows of the anchor's class, s the cosines and tau = temperature; the mean over the
  positives stands outside the logarithm.

  Args:
    embeddings: float[batch, features].
    labels: int[batch] classes; any integers.
    temperature: > 0, a scalar; may be traced.
    normalize: whether rows are divided by their Euclidean norm.
    where: bool[batch]; rows where it is false are neither anchors nor candidates, whatever they
      hold; their value is 0 and so is their gradient.

  Returns:
    float[batch] one loss an anchor, in the dtype of ``embeddings``; 0 for anchors without a
    positive.

  Raises:
    ValueError: shapes do not agree or temperature <= 0.
    TypeError: embeddings are not floating-point, labels not integers or where not boolean.

  Example:
    >>> embeddings = jnp.array([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0]])
    >>> labels = jnp.array([0, 0, 1, 1])
    >>> supervised_contrastive_loss(embeddings, labels, temperature=1.0).round(2)
    Array([0.58, 0.62, 0.58, 0.62], dtype=float32)

  Reference:
    Khosla, Teterwak, Wang, Sarna, Tian, Isola, Maschinot, Liu and Krishnan, Supervised contrastive
    learning, 2020, equation 2.
  """
  array, label, mask = _embeddings.check_embeddings(embeddings, labels, where)
  _checks.check_array("temperature", temperature, rank=0)
  _checks.check_positive("temperature", temperature)
  rows = jnp.where(mask[:, None], numerics.upcast(array), 0)
  rows = _embeddings.unit_rows(rows) if normalize else rows
  candidates = mask[:, None] & mask[None, :] & ~jnp.eye(array.shape[0], dtype=jnp.bool_)
  positives = candidates & (label[:, None] == label[None, :])
  count = jnp.sum(positives, axis=1)
  is_anchor = count > 0
  logits = _embeddings.matmul(rows, rows.T) / jnp.asarray(temperature, rows.dtype)
  allowed = candidates | ~is_anchor[:, None]  # rows without a positive: anything harmless
  total = jax.nn.logsumexp(jnp.where(allowed, logits, -jnp.inf), axis=1)
  # s_ip / tau - total as one difference a pair: sums of large scores do not cancel
  log_share = jnp.where(positives, logits - total[:, None], 0)
  value = -jnp.sum(log_share, axis=1) / jnp.maximum(count, 1).astype(rows.dtype)
  return jnp.where(is_anchor, value, 0).astype(array.dtype)


def normalized_softmax_loss(
  embeddings: ArrayLike,
  prototypes: ArrayLike,
  labels: ArrayLike,
  *,
  temperature: ArrayLike = 0.05,
  where: ArrayLike | None = None,
) -> Array:
  r"""Cross entropy of the cosines with one prototype a class (normalised softmax).

  Computes -log( exp(c_y / tau) / sum_k exp(c_k / tau) ) with c_k the cosine of the embedding and
  the prototype of class k, y the label and tau = temperature (1 / tau is called the scale).

  Args:
    embeddings: float[..., features].
    prototypes: float[classes, features], at least two classes; usually trained along.
    labels: int[...] class y of each row, in [0, classes).
    temperature: > 0, a scalar; may be traced.
    where: bool[...]; rows where it is false have value 0 and gradient 0, whatever they hold.

  Returns:
    float[...] one loss a row, in the dtype of ``embeddings``. Under ``jit`` a row whose label is
    out of range is NaN.

  Raises:
    ValueError: shapes do not agree, a known label is out of range or temperature <= 0.
    TypeError: arrays are not floating-point or labels are not integers.

  Example:
    >>> embeddings, labels = jnp.array([[2.0, 0.0]]), jnp.array([0])
    >>> normalized_softmax_loss(embeddings, jnp.eye(2), labels, temperature=1.0).round(2)
    Array([0.31], dtype=float32)

  Reference:
    Zhai and Wu, Classification is a strong baseline for deep metric learning, 2019, equation 3
    (recalled, not verified).
  """
  array = _checks.check_float_array("embeddings", embeddings, min_rank=1)
  table = _checks.check_float_array("prototypes", prototypes, rank=2)
  if array.shape[-1] != table.shape[-1]:
    raise ValueError(
      f"embeddings and prototypes must have equally many features; got {array.shape} and "
      f"{table.shape}."
    )
  mask = _checks.check_mask("where", where, shape=array.shape[:-1])
  _checks.check_array("temperature", temperature, rank=0)
  _checks.check_positive("temperature", temperature)
  cosines = _embeddings.matmul(_embeddings.unit_rows(array, mask), _embeddings.unit_rows(table).T)
  logits = cosines / jnp.asarray(temperature, cosines.dtype)
  return cross_entropy_loss(logits, labels, where=mask).astype(array.dtype)
