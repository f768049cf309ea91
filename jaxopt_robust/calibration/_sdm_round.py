"""One round of the similarity-distance-magnitude estimator: split, training, thresholds."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxopt_robust import _units, numerics
from jaxopt_robust.calibration import _sdm_region
from jaxopt_robust.calibration.sdm_activation import (
  ClassEcdf,
  class_ecdf,
  class_ecdf_fit,
  distance_quantiles,
  nearest_agreement,
  sdm_activation,
  sdm_loss,
)
from jaxopt_robust.typing import Array

_SOFTMAX = 0.7182818284590451  # e - 2: the similarity at which the activation is softmax


class SdmModel(NamedTuple):
  """A fitted estimator: the best of its rounds, and what all of them say about its thresholds.

  Attributes:
    center: float scalar, mean of all entries of the training features; subtracted from them.
    scale: float scalar, their standard deviation; divides them.
    adaptor: float[features, width], float[width], float[width, classes], float[classes]: a
      representation h = x G + g and logits z = h W + b.
    references: float[train, width], representations of the training examples.
    reference_predictions: int32[train], their predicted classes.
    reference_labels: int32[train], their classes.
    distances: ClassEcdf of the held-out examples' distances to the nearest training example.
    outputs: ClassEcdf of their activations.
    similarities: ClassEcdf of their rescaled similarities.
    max_similarity: int32 scalar; longer runs of neighbours count as that.
    rescaler: float[classes, classes].
    thresholds: float[classes], what the lower probability of a predicted class must reach.
    similarity_threshold: float scalar, what the lower rescaled similarity must reach; inf where no
      region was found, so that nothing is admitted.
    offsets: float[classes, bins], what is taken off lower probabilities by predicted class and
      whole part of the lower rescaled similarity: their spread over the rounds.
    level: float scalar, the accuracy that is aimed at.
    round_thresholds: float[rounds], the least rescaled similarity of the region of each round.
    round_medians: float[rounds], the mean over the classes of the median similarity of held-out
      examples: the round of the largest is the one above.
  """

  center: Array
  scale: Array
  adaptor: tuple[Array, Array, Array, Array]
  references: Array
  reference_predictions: Array
  reference_labels: Array
  distances: ClassEcdf
  outputs: ClassEcdf
  similarities: ClassEcdf
  max_similarity: Array
  rescaler: Array
  thresholds: Array
  similarity_threshold: Array
  offsets: Array
  level: Array
  round_thresholds: Array
  round_medians: Array


class Round(NamedTuple):
  """One split, in the fields of the model, and the medians of its outputs."""

  model: SdmModel
  medians: Array


def represent(adaptor: tuple, x: Array) -> tuple[Array, Array]:
  """Representations and logits."""
  gain, shift, weights, bias = adaptor
  h = jnp.matmul(x, gain, precision="highest") + shift[None]
  return h, jnp.matmul(h, weights, precision="highest") + bias[None]


def _split(key: Array, labels: Array) -> tuple[Array, Array]:
  """Rows of two halves, which every class enters evenly."""
  order = jnp.lexsort((jax.random.uniform(key, labels.shape), labels))
  return order[::2], order[1::2]


class _Part(NamedTuple):
  """Features and classes of one half."""

  x: Array
  labels: Array


class _Seen(NamedTuple):
  """A half seen from the training examples."""

  h: Array
  logits: Array
  label: Array
  similarity: Array
  distance: Array
  ecdf: ClassEcdf


def _see(adaptor: tuple, part: _Part, train: Any, classes: int, limit: int, block: int) -> _Seen:
  """Similarities and distances of a half; of the training half itself where ``train`` is None."""
  h, logits = represent(adaptor, part.x)
  label = jnp.argmax(logits, axis=1).astype(jnp.int32)
  references, predictions, labels = (h, label, part.labels) if train is None else train
  q, far = nearest_agreement(
    h, references, predictions=label, reference_predictions=predictions, reference_labels=labels,
    max_similarity=limit, exclude_self=train is None, block_size=block,
  )  # fmt: skip
  ecdf = class_ecdf_fit(far, part.labels, num_classes=classes, where=q > 0)
  return _Seen(h, logits, label, q, distance_quantiles(ecdf, far), ecdf)


def _rescale(rescaler: Array, shares: Array, effective: Array) -> Array:
  """Probabilities of all classes."""
  logits = jnp.matmul(shares, rescaler, precision="highest")
  return sdm_activation(logits, similarity=effective, distance=1.0)


def of_label(table: Array, label: Array) -> Array:
  return jnp.take_along_axis(table, label[:, None], axis=1)[:, 0]


def rescaled(
  rescaler: Array, shares: Array, label: Array, similarity: Array
) -> tuple[Array, Array]:
  """The rescaled similarity, 0 where the answer turns, and the probabilities."""
  found = of_label(shares, label) * jnp.log(2 + similarity.astype(shares.dtype))
  probabilities = _rescale(rescaler, shares, found)
  return jnp.where(jnp.argmax(probabilities, axis=1) == label, found, 0), probabilities


def fit_round(
  key: Array, x: Array, labels: Array, level: Array, rates: tuple[Array, Array],
  sizes: tuple[int, ...],
) -> Round:  # fmt: skip
  classes, width, epochs, batch, steps, limit, block = sizes
  key_split, key_init, key_epochs, key_rescaler = jax.random.split(key, 4)
  rows_train, rows_held = _split(key_split, labels)
  unit = _units.power(_units.exponent_of(jnp.max(jnp.abs(x))), x.dtype)
  center, scale = jnp.mean(x[rows_train]), unit * jnp.std(x[rows_train] / unit, ddof=1)
  x = (x - center) / jnp.where(scale > 0, scale, 1)
  train, held = (_Part(x[rows], labels[rows]) for rows in (rows_train, rows_held))
  init = jax.nn.initializers.lecun_normal()
  key_gain, key_weights = jax.random.split(key_init)
  adaptor = (
    init(key_gain, (x.shape[1], width), x.dtype), jnp.zeros(width, x.dtype),
    init(key_weights, (width, classes), x.dtype), jnp.zeros(classes, x.dtype),
  )  # fmt: skip
  optimizer = optax.adam(rates[0])
  num = train.x.shape[0]
  batch = min(batch, num)

  def loss(adaptor: tuple, rows: Array, similarity: Array, distance: Array) -> Array:
    _, logits = represent(adaptor, train.x[rows])
    values = sdm_loss(
      logits, train.labels[rows], similarity=similarity[rows], distance=distance[rows]
    )
    return jnp.mean(values)

  def look(adaptor: tuple) -> tuple[_Seen, _Seen]:
    own = _see(adaptor, train, None, classes, limit, block)
    theirs = (own.h, own.label, train.labels)
    return own, _see(adaptor, held, theirs, classes, limit, block)

  def epoch(carry: tuple, key: Array) -> tuple[tuple, None]:
    adaptor, state, similarity, distance, kept, best = carry
    count = num // batch
    order = jax.random.permutation(key, num)[: count * batch].reshape(count, batch)

    def step(carry: tuple, rows: Array) -> tuple[tuple, None]:
      adaptor, state = carry
      grads = jax.grad(loss)(adaptor, rows, similarity, distance)
      updates, state = optimizer.update(grads, state)
      return (optax.apply_updates(adaptor, updates), state), None

    (adaptor, state), _ = jax.lax.scan(step, (adaptor, state), order)
    own, seen = look(adaptor)
    of_class = lambda k: _sdm_region.median(seen.similarity.astype(x.dtype), held.labels == k)
    metric = jnp.mean(jax.vmap(of_class)(jnp.arange(classes)))
    # Of equals the later one; a class without held-out examples leaves the last epoch.
    better = ~(metric < best)
    kept = numerics.tree_where(better, adaptor, kept)
    best = jnp.where(better, metric, best)
    return (adaptor, state, own.similarity.astype(x.dtype), own.distance, kept, best), None

  # The first epoch is one of plain softmax.
  first = (
    adaptor, optimizer.init(adaptor), jnp.full(num, _SOFTMAX, x.dtype), jnp.ones(num, x.dtype),
    adaptor, jnp.full((), -jnp.inf, x.dtype),
  )  # fmt: skip
  last, _ = jax.lax.scan(epoch, first, jax.random.split(key_epochs, epochs))
  adaptor, best = last[4], last[5]
  own, seen = look(adaptor)
  activations = sdm_activation(seen.logits, similarity=seen.similarity, distance=seen.distance)
  outputs = class_ecdf_fit(activations, held.labels, num_classes=classes)
  shares = class_ecdf(outputs, activations, saturate=True)
  start = jnp.eye(classes, dtype=x.dtype)
  start = start + 0.01 * jax.random.normal(key_rescaler, start.shape, x.dtype)
  bare = of_label(shares, seen.label) * jnp.log(2 + seen.similarity.astype(x.dtype))
  rescaler = _fit_rescaler(start, shares, held.labels, bare, rates[1], steps)
  effective, probabilities = rescaled(rescaler, shares, seen.label, seen.similarity)
  least, thresholds = _sdm_region.high_probability_region(
    effective, probabilities, held.labels, level
  )
  bins = _sdm_region.num_bins(limit)
  spread = _sdm_region.medians_by_bin(
    of_label(probabilities, seen.label), seen.label, effective, classes, bins
  )
  similarities = class_ecdf_fit(effective, held.labels, num_classes=classes)
  model = SdmModel(
    center, jnp.where(scale > 0, scale, 1), adaptor, own.h, own.label, train.labels, seen.ecdf,
    outputs, similarities, jnp.asarray(limit, jnp.int32), rescaler, thresholds, least,
    jnp.zeros((classes, bins), x.dtype), level, least, best,
  )  # fmt: skip
  return Round(model, spread)


def _fit_rescaler(
  start: Array, shares: Array, labels: Array, effective: Array, rate: Array, steps: int
) -> Array:
  """Full-batch Adam on the loss to the base 2 + rescaled similarity."""
  optimizer = optax.adam(rate)

  def loss(rescaler: Array) -> Array:
    logits = jnp.matmul(shares, rescaler, precision="highest")
    return jnp.mean(sdm_loss(logits, labels, similarity=effective, distance=1.0))

  def step(carry: tuple, _: None) -> tuple[tuple, None]:
    rescaler, state = carry
    updates, state = optimizer.update(jax.grad(loss)(rescaler), state)
    return (optax.apply_updates(rescaler, updates), state), None

  (rescaler, _), _ = jax.lax.scan(step, (start, optimizer.init(start)), length=steps)
  return rescaler
