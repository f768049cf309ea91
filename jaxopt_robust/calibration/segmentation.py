"""Training losses for calibrated segmentation: NACL, SVLS, margins, smoothing, focal, entropy."""

import jax
import jax.numpy as jnp

from jaxopt_robust import _arguments, _checks, numerics
from jaxopt_robust.calibration import _bins, _events
from jaxopt_robust.calibration.neighborhoods import neighbor_prior, spatial_kernel
from jaxopt_robust.losses import _classification as base
from jaxopt_robust.typing import Array, ArrayLike

__all__ = [
  "confidence_penalty_loss",
  "focal_loss",
  "foreground_calibration_error",
  "label_smoothing_loss",
  "mbls_loss",
  "nacl_loss",
  "svls_loss",
]


def _proportions(
  kind: str, labels: ArrayLike, prepared: base.Prepared, kernel: ArrayLike | None, padding: str
) -> Array:
  ndim = prepared.logits.ndim - 2
  if ndim < 1:
    raise ValueError(
      f"logits must have a batch axis, axes of space and classes; got shape "
      f"{prepared.logits.shape}."
    )
  weight = spatial_kernel(kind, ndim=ndim) if kernel is None else kernel
  classes = prepared.logits.shape[-1]
  tau = neighbor_prior(labels, weight, num_classes=classes, padding=padding, where=prepared.where)
  return jax.lax.stop_gradient(tau).astype(prepared.logits.dtype)


def _strength(name: str, value: ArrayLike, prepared: base.Prepared) -> Array:
  _checks.check_non_negative(name, value, scalar=True)
  return jnp.asarray(value, prepared.logits.dtype)


def nacl_loss(
  logits: ArrayLike,
  labels: ArrayLike,
  *,
  weight: ArrayLike = 0.1,
  kernel: ArrayLike | None = None,
  norm: str = "l1",
  on: str = "logits",
  padding: str = "edge",
  where: ArrayLike | None = None,
) -> Array:
  r"""Neighbour-aware calibration (NACL): logits are drawn to the class proportions around a pixel.

  Computes for each pixel -log softmax(z)_y + weight (1/C) sum_k |tau_k - z_k| with the proportions
  tau of ``neighbor_prior``; with ``norm="l2"`` the squares.

  Args:
    logits: float[batch, *space, classes] scores z, of images, volumes or lines.
    labels: int[batch, *space] in [0, classes).
    weight: >= 0, a scalar; may be traced. It bounds the confidence: where all neighbours agree the
      optimum has p_y = 1 - weight / classes.
    kernel: float[size, ..., size], or None: the mean of 3 pixels a side.
    norm: ``"l1"`` or ``"l2"``.
    on: ``"logits"``, or ``"probs"``: the penalty on softmax(z).
    padding: at the border, ``"edge"`` or ``"zeros"``; see ``neighbor_prior``.
    where: bool[batch, *space]; pixels where it is false have value 0 and gradient 0 and belong to
      no neighbourhood.

  Returns:
    float[batch, *space] one loss a pixel, in the dtype of ``logits``. Its mean is the loss of the
    paper. Under ``jit`` a pixel whose label is out of range is NaN.

  Raises:
    ValueError: shapes do not agree, a known label is out of range, weight < 0, or an unknown norm,
      option or padding.
    TypeError: logits are not floating-point or labels are not integers.

  Note:
    The optimum lies at the kinks z_k = tau_k of the l1 penalty, where the derivative is 0: let the
    step size decay. The penalty is a mean over classes: a sum would multiply weight by C.

  Example:
    >>> logits, labels = jnp.array([[[2.0, 0.0], [2.0, 0.0]]]), jnp.array([[0, 0]])
    >>> np.asarray(nacl_loss(logits, labels, weight=0.1, kernel=jnp.ones(3))).round(3)
    array([[0.177, 0.177]], dtype=float32)

  Reference:
    Murugesan, Adiga Vasudeva, Liu, Lombaert, Ben Ayed and Dolz, Neighbor-aware calibration of
    segmentation networks with penalty-based constraints, 2025, section 3.
  """
  prepared = base.prepare(logits, labels, where)
  strength = _strength("weight", weight, prepared)
  _arguments.check_option("norm", norm, ("l1", "l2"))
  _arguments.check_option("on", on, ("logits", "probs"))
  tau = _proportions("mean", labels, prepared, kernel, padding)
  scores = prepared.logits if on == "logits" else jax.nn.softmax(prepared.logits, axis=-1)
  gap = tau - scores
  penalty = jnp.mean(jnp.abs(gap) if norm == "l1" else gap**2, axis=-1)
  return base.finish(base.negative_log_likelihood(prepared) + strength * penalty, prepared)


def _soft_cross_entropy(target: Array, logits: Array) -> Array:
  logs = jax.nn.log_softmax(logits, axis=-1)
  counts = (target > 0) | jnp.isnan(logs)  # a label out of range has no neighbourhood perhaps
  return -jnp.sum(jnp.where(counts, target * logs, 0), axis=-1)


def svls_loss(
  logits: ArrayLike,
  labels: ArrayLike,
  *,
  kernel: ArrayLike | None = None,
  padding: str = "edge",
  where: ArrayLike | None = None,
) -> Array:
  r"""Spatially varying label smoothing (SVLS): labels blurred by a kernel whose centre weighs 1/2.

  Computes for each pixel -sum_k tau_k log softmax(z)_k with the proportions tau of
  ``neighbor_prior``. With the proportions tauN of the neighbours alone it is
  1/2 CE(e_y, p) + 1/2 CE(tauN, p): cross-entropy with a penalty of fixed weight.

  Args:
    logits: float[batch, *space, classes] scores z, of images, volumes or lines.
    labels: int[batch, *space] in [0, classes).
    kernel: float[size, ..., size], or None: ``spatial_kernel("svls")`` of 3 pixels a side.
    padding: at the border, ``"edge"`` or ``"zeros"``; see ``neighbor_prior``.
    where: bool[batch, *space]; pixels where it is false have value 0 and gradient 0 and belong to
      no neighbourhood.

  Returns:
    float[batch, *space] one loss a pixel, in the dtype of ``logits``. Under ``jit`` a pixel whose
    label is out of range is NaN.

  Raises:
    ValueError: shapes do not agree, a known label is out of range, or an unknown padding.
    TypeError: logits are not floating-point or labels are not integers.

  Example:
    >>> logits, labels = jnp.array([[[2.0, 0.0], [2.0, 0.0]]]), jnp.array([[0, 0]])
    >>> np.asarray(svls_loss(logits, labels)).round(3)
    array([[0.127, 0.127]], dtype=float32)

  Reference:
    Islam and Glocker, Spatially varying label smoothing: capturing uncertainty from expert
    annotations, 2021, section 2.
  """
  prepared = base.prepare(logits, labels, where)
  tau = _proportions("svls", labels, prepared, kernel, padding)
  return base.finish(_soft_cross_entropy(tau, prepared.logits), prepared)


def mbls_loss(
  logits: ArrayLike,
  labels: ArrayLike,
  *,
  weight: ArrayLike = 0.1,
  margin: ArrayLike = 10.0,
  where: ArrayLike | None = None,
) -> Array:
  r"""Margin-based label smoothing (MbLS): cross-entropy, and a price for differences of logits.

  Computes -log softmax(z)_y + weight (1/C) sum_k max( max_j z_j - z_k - margin, 0 ).

  Args:
    logits: float[..., classes] scores z, at least two classes.
    labels: int[...] in [0, classes).
    weight: >= 0, a scalar; may be traced.
    margin: >= 0, a scalar; may be traced. Differences up to it cost nothing.
    where: bool[...]; rows where it is false have value 0 and gradient 0, whatever they hold.

  Returns:
    float[...] one loss a row, in the dtype of ``logits``. Under ``jit`` a row whose label is out of
    range is NaN.

  Raises:
    ValueError: shapes do not agree, a known label is out of range, weight < 0 or margin < 0.
    TypeError: logits are not floating-point or labels are not integers.

  Note:
    A mean over classes, as in the authors' code.

  Example:
    >>> np.asarray(mbls_loss(jnp.array([[14.0, 0.0]]), jnp.array([0]))).round(3)
    array([0.2], dtype=float32)

  Reference:
    Liu, Ben Ayed, Galdran and Dolz, The devil is in the margin: margin-based label smoothing for
    network calibration, 2022, equation 7.
  """
  prepared = base.prepare(logits, labels, where)
  strength, free = (_strength(n, v, prepared) for n, v in (("weight", weight), ("margin", margin)))
  gap = jnp.max(prepared.logits, axis=-1, keepdims=True) - prepared.logits
  penalty = jnp.mean(jax.nn.relu(gap - free), axis=-1)
  return base.finish(base.negative_log_likelihood(prepared) + strength * penalty, prepared)


def label_smoothing_loss(
  logits: ArrayLike,
  labels: ArrayLike,
  *,
  smoothing: ArrayLike = 0.1,
  where: ArrayLike | None = None,
) -> Array:
  r"""Cross-entropy with labels that leave a share to all classes alike.

  Computes (1 - a) (-log p_y) + (a / C) sum_k -log p_k with p = softmax(z) and a = smoothing.

  Args:
    logits: float[..., classes] scores z, at least two classes.
    labels: int[...] in [0, classes).
    smoothing: a in [0, 1], a scalar; may be traced.
    where: bool[...]; rows where it is false have value 0 and gradient 0, whatever they hold.

  Returns:
    float[...] one loss a row, in the dtype of ``logits``. Under ``jit`` a row whose label is out of
    range is NaN.

  Raises:
    ValueError: shapes do not agree, a known label is out of range, or smoothing outside [0, 1].
    TypeError: logits are not floating-point or labels are not integers.

  Example:
    >>> np.asarray(label_smoothing_loss(jnp.array([[2.0, 0.0]]), jnp.array([0]))).round(3)
    array([0.227], dtype=float32)

  Reference:
    Szegedy, Vanhoucke, Ioffe, Shlens and Wojna, Rethinking the inception architecture for computer
    vision, 2016, section 7.
  """
  prepared = base.prepare(logits, labels, where)
  _checks.check_interval("smoothing", smoothing, 0, 1, scalar=True)
  share = jnp.asarray(smoothing, prepared.logits.dtype)
  uniform = -jnp.mean(jax.nn.log_softmax(prepared.logits, axis=-1), axis=-1)
  loss = (1 - share) * base.negative_log_likelihood(prepared) + share * uniform
  return base.finish(loss, prepared)


def focal_loss(
  logits: ArrayLike,
  labels: ArrayLike,
  *,
  gamma: ArrayLike = 3.0,
  where: ArrayLike | None = None,
) -> Array:
  r"""Focal loss: cross-entropy that counts less where the label is likely already.

  Computes -(1 - p_y)^gamma log p_y with p = softmax(z).

  Args:
    logits: float[..., classes] scores z, at least two classes.
    labels: int[...] in [0, classes).
    gamma: >= 0, a scalar; may be traced. 0 gives cross-entropy.
    where: bool[...]; rows where it is false have value 0 and gradient 0, whatever they hold.

  Returns:
    float[...] one loss a row, in the dtype of ``logits``. Under ``jit`` a row whose label is out of
    range is NaN.

  Raises:
    ValueError: shapes do not agree, a known label is out of range, or gamma < 0.
    TypeError: logits are not floating-point or labels are not integers.

  Note:
    No class weights (alpha). 3 is the value for calibration; detection uses 2.

  Example:
    >>> np.asarray(focal_loss(jnp.array([[0.0, 0.0]]), jnp.array([0]))).round(3)
    array([0.087], dtype=float32)

  Reference:
    Lin, Goyal, Girshick, He and Dollar, Focal loss for dense object detection, 2017, equation 4;
    for calibration: Mukhoti et al., Calibrating deep neural networks using focal loss, 2020.
  """
  prepared = base.prepare(logits, labels, where)
  power = _strength("gamma", gamma, prepared)
  nll = base.negative_log_likelihood(prepared)
  wrong = -jnp.expm1(-nll)
  is_sure = wrong <= 0
  factor = jnp.exp(power * jnp.log(jnp.where(is_sure, 1, wrong)))
  return base.finish(jnp.where(is_sure & (power > 0), 0, factor) * nll, prepared)


def confidence_penalty_loss(
  logits: ArrayLike,
  labels: ArrayLike,
  *,
  weight: ArrayLike = 0.1,
  where: ArrayLike | None = None,
) -> Array:
  r"""Cross-entropy less a share of the entropy of the prediction.

  Computes -log p_y - weight (1/C) sum_k -p_k log p_k with p = softmax(z).

  Args:
    logits: float[..., classes] scores z, at least two classes.
    labels: int[...] in [0, classes).
    weight: >= 0, a scalar; may be traced.
    where: bool[...]; rows where it is false have value 0 and gradient 0, whatever they hold.

  Returns:
    float[...] one loss a row, in the dtype of ``logits``. Under ``jit`` a row whose label is out of
    range is NaN.

  Raises:
    ValueError: shapes do not agree, a known label is out of range, or weight < 0.
    TypeError: logits are not floating-point or labels are not integers.

  Note:
    A mean over classes, as in the code of NACL; the paper below has the sum: weight C times as
    large here is theirs.

  Example:
    >>> np.asarray(confidence_penalty_loss(jnp.array([[0.0, 0.0]]), jnp.array([0]))).round(3)
    array([0.658], dtype=float32)

  Reference:
    Pereyra, Tucker, Chorowski, Kaiser and Hinton, Regularizing neural networks by penalizing
    confident output distributions, 2017, section 3.
  """
  prepared = base.prepare(logits, labels, where)
  strength = _strength("weight", weight, prepared)
  logs = jax.nn.log_softmax(prepared.logits, axis=-1)
  is_there = logs > -jnp.inf
  entropy = -jnp.mean(jnp.where(is_there, jnp.exp(logs) * jnp.where(is_there, logs, 0), 0), axis=-1)
  loss = base.negative_log_likelihood(prepared) - strength * entropy
  return base.finish(loss, prepared)


def foreground_calibration_error(
  probs: ArrayLike,
  labels: ArrayLike,
  *,
  num_bins: int = 15,
  background: int = 0,
  where: ArrayLike | None = None,
) -> Array:
  r"""ECE of the pixels whose label is not the background, by image or volume, then averaged.

  Computes the mean of ``expected_calibration_error`` over the images that have a foreground, each
  of its own foreground pixels.

  Args:
    probs: float[batch, *space, classes] probabilities (not logits).
    labels: int[batch, *space] in [0, classes).
    num_bins: static integer >= 1, of equal width.
    background: static integer >= 0, the class that is left out.
    where: bool[batch, *space]; pixels where it is false are ignored.

  Returns:
    float scalar in [0, 1], at least float32; 0 if there is no foreground, NaN where a kept pixel is
    not finite.

  Raises:
    ValueError: shapes do not agree, known values are no probabilities, a known label is out of
      range, num_bins < 1 or background < 0.
    TypeError: probs are not floating-point, labels are not integers, where is not boolean.

  Note:
    Easy background dominates the error of whole images and can rank methods the other way: report
    both.

  Example:
    >>> probs, labels = jnp.array([[[0.9, 0.1], [0.25, 0.75]]]), jnp.array([[0, 1]])
    >>> foreground_calibration_error(probs, labels)
    Array(0.25, dtype=float32)

  Reference:
    Murugesan et al., Neighbor-aware calibration of segmentation networks with penalty-based
    constraints, 2025, section 4.
  """
  scores = _checks.check_float_array("probs", probs, min_rank=3)
  num_bins = _checks.check_int("num_bins", num_bins, minimum=1)
  background = _checks.check_int("background", background, minimum=0)
  mask = _checks.check_mask("where", where, shape=scores.shape[:-1])
  index = _checks.check_labels(
    "labels", labels, shape=scores.shape[:-1], num_classes=scores.shape[-1], where=mask
  )
  keep = jnp.ones(scores.shape[:-1], bool) if mask is None else mask
  flat = numerics.upcast(scores).reshape(-1, scores.shape[-1])
  given = _events.check_probs(flat, index.ravel(), keep.ravel())
  events = _events.top_label_events(given)
  batch = len(scores)
  fore = events.keep & (given.labels != background)
  rows = lambda v: v.reshape(batch, -1)

  def one(confidence: Array, outcome: Array, keep: Array) -> tuple[Array, Array]:
    found = _events.Events(confidence, outcome, keep, events.poison)
    sums = _bins.binned(found, num_bins, "width")
    return jnp.sum(_bins.shares(sums) * _bins.gaps(sums)), jnp.any(keep)

  errors, has = jax.vmap(one)(rows(events.confidence), rows(events.outcome), rows(fore))
  return numerics.masked_mean(errors, has) + events.poison
