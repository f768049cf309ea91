"""Similarity-distance-magnitude estimator: answers with a probability, or none."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxopt_robust import _arguments, _checks, numerics
from jaxopt_robust.calibration import _sdm_region
from jaxopt_robust.calibration._sdm_region import dkw_epsilon
from jaxopt_robust.calibration._sdm_round import SdmModel, fit_round, of_label, represent, rescaled
from jaxopt_robust.calibration.sdm_activation import (
  class_ecdf,
  distance_quantiles,
  nearest_agreement,
  sdm_activation,
)
from jaxopt_robust.typing import Array, ArrayLike

__all__ = ["SdmEstimate", "SdmModel", "dkw_epsilon", "sdm_estimate", "sdm_fit"]


class SdmEstimate(NamedTuple):
  """What the estimator says about examples.

  Attributes:
    label: int32[n], the predicted class, admitted or not.
    is_admitted: bool[n], whether the prediction is in the region of high probability.
    probability: float[n], the lower probability of the predicted class, reduced by its spread over
      the rounds.
    central_probability: float[n], the probability without either correction.
    upper_probability: float[n], with the band of the distribution functions taken upwards.
    similarity: int32[n], how many nearest training examples agree.
    distance: float[n] in [0, 1], 1 for nearest.
    rescaled_similarity: float[n], ln(2 + similarity) times the share of held-out examples of the
      class with a smaller activation; 0 where the rescaled answer is another class.
    lower_similarity: float[n], the same with the band of the distribution functions taken
      downwards.
    support: int32[n], held-out examples of the predicted class with a smaller rescaled similarity:
      the sample size that the band has.
  """

  label: Array
  is_admitted: Array
  probability: Array
  central_probability: Array
  upper_probability: Array
  similarity: Array
  distance: Array
  rescaled_similarity: Array
  lower_similarity: Array
  support: Array


def sdm_fit(
  features: ArrayLike,
  labels: ArrayLike,
  key: ArrayLike,
  *,
  num_classes: int,
  level: ArrayLike = 0.95,
  width: int = 1000,
  num_rounds: int = 10,
  num_epochs: int = 50,
  batch_size: int = 50,
  learning_rate: ArrayLike = 1e-3,
  rescaler_steps: int = 500,
  rescaler_rate: ArrayLike = 1e-2,
  max_similarity: int = 1000,
  block_size: int = 256,
) -> SdmModel:
  r"""Fits the similarity-distance-magnitude estimator on features of a frozen network.

  Each round splits the examples into two halves, evenly in every class. On the first it trains a
  linear representation h = x G + g with logits h W + b by Adam on ``sdm_loss``, with similarities
  and distances of the epoch before (softmax in the first one), and keeps the epoch with the largest
  median similarity of the second half, averaged over the classes. The second half gives the
  distribution functions of distances and activations, a rescaling of the classes, and the region of
  high probability: the least rescaled similarity a such that of the examples of every class above
  it at most a share 1 - level have a rescaled probability below a threshold psi_k >= level. The
  round with the largest median similarity is kept; the spread over the rounds is added to a, and to
  what probabilities have taken off, as a Cauchy quantile: MAD tan(pi (level - 1/2)).

  Args:
    features: float[n, features].
    labels: int[n] in [0, num_classes).
    key: typed PRNG key for splits, initial weights and batches.
    num_classes: static integer >= 2.
    level: in (1/2, 1), the accuracy that is aimed at among what is admitted; may be traced.
    width: static integer >= 1, of the representation.
    num_rounds: static integer >= 1.
    num_epochs: static integer >= 1.
    batch_size: static integer >= 1.
    learning_rate: > 0, of Adam; may be traced.
    rescaler_steps: static integer >= 0, full-batch steps of Adam for the rescaling.
    rescaler_rate: > 0; may be traced.
    max_similarity: static integer >= 1; longer runs of neighbours count as that.
    block_size: static integer >= 1, of ``nearest_agreement``.

  Returns:
    SdmModel in the dtype of the features, at least float32. Under ``jit``, features that are not
    finite or labels out of range give a model that admits nothing.

  Raises:
    ValueError: shapes do not agree, a known label is out of range, known features are not finite,
      fewer than two examples, or a number is out of range.
    TypeError: features are not floating-point, labels no integers or key is no typed key.

  Note:
    Where no region is found (often with many classes and few held-out examples of each) the
    similarity threshold is inf and nothing is admitted. The level is an aim with sample sizes taken
    into account, no guarantee without assumptions. Equal examples in both halves make similarities
    too large: drop duplicates first. With one round there is no spread. Costs O(rounds epochs n^2
    width).

  Example:
    >>> x = jax.random.normal(jax.random.key(0), (200, 2))
    >>> y = (x[:, 0] > 0).astype(int)
    >>> model = sdm_fit(x, y, jax.random.key(1), num_classes=2, width=4, num_rounds=2, num_epochs=5)
    >>> found = sdm_estimate(model, jnp.array([[2.0, 0.0], [0.01, 0.0], [30.0, 30.0]]))
    >>> bool(found.is_admitted[2]), float(found.distance[2])
    (False, 0.0)

  Reference:
    Schmaltz, Similarity-distance-magnitude universal verification, 2025, algorithms 1 to 4. The
    rescaling is fitted in full batches, not example by example.
  """
  x = numerics.upcast(_checks.check_float_array("features", features, rank=2))
  classes = _checks.check_int("num_classes", num_classes, minimum=2)
  y = _checks.check_labels("labels", labels, shape=x.shape[:1], num_classes=classes)
  if x.shape[0] < 2:
    raise ValueError(f"features must hold at least two examples; got shape {x.shape}.")
  key = _checks.check_key("key", key)
  _checks.check_interval("level", level, 0.5, 1, closed="neither", scalar=True)
  for name, rate in (("learning_rate", learning_rate), ("rescaler_rate", rescaler_rate)):
    _checks.check_positive(name, rate, scalar=True)
  sizes = tuple(
    _checks.check_int(name, value, minimum=least)
    for name, value, least in (
      ("num_classes", classes, 2), ("width", width, 1), ("num_epochs", num_epochs, 1),
      ("batch_size", batch_size, 1), ("rescaler_steps", rescaler_steps, 0),
      ("max_similarity", max_similarity, 1), ("block_size", block_size, 1),
    )
  )  # fmt: skip
  rounds = _checks.check_int("num_rounds", num_rounds, minimum=1)
  level = jnp.asarray(level, x.dtype)
  _checks.check_interval("level", level, 0.5, 1, closed="neither")  # after rounding too
  is_good = jnp.all(jnp.isfinite(x)) & jnp.all((y >= 0) & (y < classes))
  _checks.check_holds(is_good, "features must be finite; got others: leave such examples out.")
  rates = (jnp.asarray(learning_rate, x.dtype), jnp.asarray(rescaler_rate, x.dtype))
  fit = lambda one: fit_round(one, x, y.astype(jnp.int32), level, rates, sizes)
  found = jax.lax.map(fit, jax.random.split(key, rounds))
  metric = found.model.round_medians
  best = jnp.argmax(jnp.where(jnp.isnan(metric), -jnp.inf, metric))
  model = jax.tree.map(lambda leaf: leaf[best], found.model)
  factor = jnp.tan(jnp.pi * (level - 0.5))
  least = found.model.round_thresholds
  threshold = model.similarity_threshold + factor * _sdm_region.deviation(least)
  offsets = factor * _sdm_region.deviation(found.medians)
  return model._replace(
    similarity_threshold=jnp.where(
      is_good & jnp.isfinite(model.similarity_threshold), threshold, jnp.inf
    ),
    offsets=offsets, round_thresholds=least, round_medians=metric,
  )  # fmt: skip


def sdm_estimate(model: SdmModel, features: ArrayLike, *, block_size: int = 256) -> SdmEstimate:
  r"""Answers with a probability that takes sample sizes into account, or none.

  With v_k = F_k(sdm(z)_k) the share of held-out examples of class k whose activation is smaller,
  the rescaled similarity is v_y ln(2 + q) of the predicted class y, and its probability that of
  softmax(ln(2 + rescaled similarity) W^T v). Both are computed again at the ends of the band
  eps_k = sqrt(ln(2 / (1 - level)) / (2 n_k)) of Dvoretzky, Kiefer and Wolfowitz, n_k the held-out
  examples of class k with a smaller rescaled similarity. Admitted is what reaches the thresholds of
  similarity and probability at the lower end.

  Args:
    model: SdmModel.
    features: float[n, features].
    block_size: static integer >= 1, of ``nearest_agreement``.

  Returns:
    SdmEstimate.

  Raises:
    TypeError: model is no SdmModel or features are not floating-point.
    ValueError: another number of features.

  Note:
    Features that are not finite are never admitted: their distance is 0. No gradient flows.

  Example:
    >>> x = jax.random.normal(jax.random.key(0), (60, 2))
    >>> model = sdm_fit(x, (x[:, 0] > 0).astype(int), jax.random.key(1), num_classes=2, width=4,
    ...                 num_rounds=1, num_epochs=3)
    >>> sdm_estimate(model, x[:3]).label.shape
    (3,)

  Reference:
    Schmaltz, Similarity-distance-magnitude universal verification, 2025, section on the estimator
    and its test rule.
  """
  _arguments.check_state("model", model, SdmModel)
  x = _checks.check_float_array("features", features, rank=2)
  if x.shape[1] != model.adaptor[0].shape[0]:
    raise ValueError(
      f"features must have {model.adaptor[0].shape[0]} columns; got shape {x.shape}."
    )
  block = _checks.check_int("block_size", block_size, minimum=1)
  model = jax.lax.stop_gradient(model)
  x = jax.lax.stop_gradient(x.astype(model.center.dtype))
  fine = jnp.all(jnp.isfinite(x), axis=1)
  x = jnp.where(fine[:, None], x - model.center, 0) / model.scale
  h, logits = represent(model.adaptor, x)
  label = jnp.argmax(logits, axis=1).astype(jnp.int32)
  q, far = nearest_agreement(
    h, model.references, predictions=label, reference_predictions=model.reference_predictions,
    reference_labels=model.reference_labels, max_similarity=model.references.shape[0],
    block_size=block,
  )  # fmt: skip
  q = jnp.minimum(q, model.max_similarity)
  distance = jnp.where(fine, distance_quantiles(model.distances, far), 0)
  shares = class_ecdf(
    model.outputs, sdm_activation(logits, similarity=q, distance=distance), saturate=True
  )
  similarity, central = rescaled(model.rescaler, shares, label, q)
  counts = _sdm_region.support(model.similarities, similarity)
  band = dkw_epsilon(counts, level=model.level)
  is_own = label[:, None] == jnp.arange(shares.shape[1])[None, :]
  low = jnp.clip(jnp.where(is_own, shares - band, shares + band), 0, 1)
  high = jnp.clip(jnp.where(is_own, shares + band, shares - band), 0, 1)
  lower_similarity, lower = rescaled(model.rescaler, low, label, q)
  _, upper = rescaled(model.rescaler, high, label, q)
  bins = jnp.clip(jnp.floor(lower_similarity), 0, model.offsets.shape[1] - 1).astype(jnp.int32)
  probability = jnp.maximum(of_label(lower, label) - model.offsets[label, bins], 0)
  is_admitted = (
    fine
    & (lower_similarity >= model.similarity_threshold)
    & (probability >= model.thresholds[label])
  )
  return SdmEstimate(
    label, is_admitted, probability, of_label(central, label), of_label(upper, label), q, distance,
    similarity, lower_similarity, of_label(counts, label),
  )  # fmt: skip
