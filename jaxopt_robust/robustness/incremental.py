"""Streams that drift and bring new classes: calibrated prototypes with adaptation (CSFA)."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxopt_robust import _arguments, _checks
from jaxopt_robust.robustness.drift import (
  RELIABLE_SHARE,
  StreamInfo,
  StreamState,
  stream_init,
  stream_step,
)
from jaxopt_robust.robustness.prototypes import (
  calibrate_prototypes,
  class_prototypes,
  prototype_logits,
)
from jaxopt_robust.typing import Array, ArrayLike, PyTree

__all__ = ["CsfaState", "csfa_add_classes", "csfa_init", "csfa_logits", "csfa_stream_step"]


class CsfaState(NamedTuple):
  """What a stream with growing classes leaves behind; the number of classes is known, K.

  Attributes:
    stream: ``StreamState``, adapted parameters and the optimizer's state.
    prototypes: float[K, d]; rows of classes that are not seen yet have no meaning.
    seen: bool[K], the classes that answers are chosen from.
    base: bool[K], those of the labelled base session, to which new ones are compared.
  """

  stream: StreamState
  prototypes: Array
  seen: Array
  base: Array


def _features(encode: Callable[[PyTree, Any], Array], params: PyTree, x: Any) -> Array:
  _arguments.check_callable("encode", encode)
  features = encode(params, x)
  with _arguments.within("encode"):
    return _checks.check_float_array("features", features, rank=2)


def _classes(
  features: Array, labels: ArrayLike, num_classes: int, where: ArrayLike | None
) -> tuple[Array, Array]:
  """Prototypes of all classes, and which have an example."""
  found = class_prototypes(features, labels, num_classes=num_classes, where=where)
  index = _checks.check_labels(
    "labels", labels, shape=features.shape[:1], num_classes=num_classes, where=where
  )
  member = jax.nn.one_hot(index, num_classes, dtype=jnp.bool_)
  if where is not None:
    member = member & jnp.asarray(where)[:, None]
  return found, jnp.any(member, axis=0)


def csfa_init(
  encode: Callable[[PyTree, Any], Array],
  optimizer: optax.GradientTransformation,
  params: PyTree,
  x: Any,
  labels: ArrayLike,
  *,
  num_classes: int,
  where: ArrayLike | None = None,
) -> CsfaState:
  """State after the labelled base session: a prototype for each class that has an example.

  Args:
    encode: ``encode(params, x) -> float[n, d]``, trained features; it may hold what is not adapted.
    optimizer: ``transforms.rsgs``, or any other optax optimizer.
    params: pytree of float arrays, the parameters to adapt (scales and shifts of normalisation
      layers, say).
    x: n labelled examples, as ``encode`` takes them.
    labels: int[n], in [0, num_classes).
    num_classes: K >= 1, all classes that may ever come; static.
    where: bool[n]; examples where it is false are ignored.

  Returns:
    ``CsfaState``.

  Raises:
    TypeError: encode is not a function, optimizer no optax transformation, params are no arrays,
      labels no integers, or where no booleans.
    ValueError: shapes do not agree, encode returns no matrix, or a known label or num_classes is
      out of range.

  Example:
    >>> encode = lambda scale, x: x * scale[None]
    >>> x, labels = jnp.array([[2.0, 0.0], [0.0, 3.0]]), jnp.array([0, 2])
    >>> state = csfa_init(encode, optax.sgd(0.1), jnp.ones(2), x, labels, num_classes=3)
    >>> state.seen
    Array([ True, False,  True], dtype=bool)

  Reference:
    Yu, Lu and Zhang, Generalized incremental learning under concept drift across evolving data
    streams, 2025 (CSFA, put together from its parts: only its abstract was read).
  """
  _arguments.check_callable("encode", encode)
  num_classes = _checks.check_int("num_classes", num_classes, minimum=1)
  stream = stream_init(params, optimizer)
  features = _features(encode, stream.params, x)
  prototypes, present = _classes(features, labels, num_classes, where)
  return CsfaState(stream, prototypes, present, present)


def csfa_add_classes(
  encode: Callable[[PyTree, Any], Array],
  state: CsfaState,
  x: Any,
  labels: ArrayLike,
  *,
  temperature: ArrayLike = 16.0,
  weight: ArrayLike = 0.5,
  where: ArrayLike | None = None,
) -> CsfaState:
  """Start of a session: prototypes of new classes from a few labelled examples, calibrated.

  They are mean features under the parameters as adapted so far, drawn towards those of similar
  base classes by ``calibrate_prototypes``. Nothing is trained. Prototypes of classes that were seen
  before stay, labelled examples of these have no effect.

  Args:
    encode: as in ``csfa_init``.
    state: ``CsfaState``.
    x: n labelled examples, as ``encode`` takes them.
    labels: int[n], in [0, K).
    temperature: of the calibration, >= 0, finite, a scalar; may be traced.
    weight: of the calibration, in [0, 1], a scalar; may be traced. 0: plain prototypes.
    where: bool[n]; examples where it is false are ignored, so that sessions with different numbers
      of new classes have one shape.

  Returns:
    ``CsfaState`` of the same shapes.

  Raises:
    TypeError: encode is not a function, state of another kind, labels no integers, or where no
      booleans.
    ValueError: shapes do not agree, encode returns no matrix, or a known label or number is out of
      range.

  Example:
    >>> encode = lambda scale, x: x * scale[None]
    >>> base = jnp.array([[2.0, 0.0], [-1.0, 0.0]])
    >>> state = csfa_init(encode, optax.sgd(0.1), jnp.ones(2), base, jnp.arange(2), num_classes=3)
    >>> csfa_add_classes(encode, state, jnp.array([[3.0, 4.0]]), jnp.array([2])).prototypes[2]
    Array([0.8, 0.4], dtype=float32)

  Reference:
    Wang, Zhou, Zhang, Zhan and Ye, Few-shot class-incremental learning via training-free prototype
    calibration, 2023 (TEEN), as part of Yu, Lu and Zhang, Generalized incremental learning under
    concept drift across evolving data streams, 2025.
  """
  state = _arguments.check_state("state", state, CsfaState)
  features = _features(encode, state.stream.params, x)
  found, present = _classes(features, labels, state.seen.shape[0], where)
  found = calibrate_prototypes(
    found, state.prototypes, temperature=temperature, weight=weight, where=state.base
  ).astype(state.prototypes.dtype)
  is_new = present & ~state.seen
  prototypes = jnp.where(is_new[:, None], found, state.prototypes)
  return state._replace(prototypes=prototypes, seen=state.seen | is_new)


def csfa_logits(
  encode: Callable[[PyTree, Any], Array],
  state: CsfaState,
  x: Any,
  *,
  temperature: ArrayLike = 16.0,
) -> Array:
  """Answers among the classes seen so far, by the angles between features and prototypes.

  Args:
    encode: as in ``csfa_init``.
    state: ``CsfaState``.
    x: n examples, as ``encode`` takes them.
    temperature: of the logits, > 0, finite, a scalar; may be traced.

  Returns:
    float[n, K]; -inf for classes that were not seen.

  Raises:
    TypeError: encode is not a function, or state of another kind.
    ValueError: shapes do not agree, encode returns no matrix, or a known temperature is out of
      range.

  Example:
    >>> encode = lambda scale, x: x * scale[None]
    >>> base = jnp.array([[2.0, 0.0], [0.0, 3.0]])
    >>> state = csfa_init(encode, optax.sgd(0.1), jnp.ones(2), base, jnp.arange(2), num_classes=3)
    >>> csfa_logits(encode, state, jnp.array([[0.0, 1.0]]))
    Array([[  0.,  16., -inf]], dtype=float32)

  Reference:
    Yu, Lu and Zhang, Generalized incremental learning under concept drift across evolving data
    streams, 2025.
  """
  state = _arguments.check_state("state", state, CsfaState)
  return _answers(encode, state, temperature)(state.stream.params, x)


def _answers(
  encode: Callable[[PyTree, Any], Array], state: CsfaState, temperature: ArrayLike
) -> Callable[[PyTree, Any], Array]:
  def apply_fn(params: PyTree, x: Any) -> Array:
    features = _features(encode, params, x)
    return prototype_logits(features, state.prototypes, temperature=temperature, where=state.seen)

  return apply_fn


def csfa_stream_step(
  encode: Callable[[PyTree, Any], Array],
  optimizer: optax.GradientTransformation,
  state: CsfaState,
  x: Any,
  *,
  threshold: ArrayLike | None = None,
  temperature: ArrayLike = 16.0,
) -> tuple[CsfaState, StreamInfo]:
  """Answers a batch without labels among the classes seen so far, then adapts the features to it.

  This is ``stream_step`` on ``csfa_logits``; the prototypes stay.

  Args:
    encode: as in ``csfa_init``.
    optimizer: the one of ``csfa_init``; what it is decides on the method, as in ``stream_step``.
    state: ``CsfaState``.
    x: the batch, as ``encode`` takes it.
    threshold: of the entropy of a reliable answer, a scalar; may be traced. 0.4 log(number of
      classes seen) if None.
    temperature: of the logits, > 0, finite, a scalar; may be traced.

  Returns:
    (state, ``StreamInfo``); the logits of unseen classes are -inf. All shapes stay, so that
    sessions are one ``jax.lax.scan`` over ``csfa_add_classes`` and a scan of this function.

  Raises:
    TypeError: encode is not a function, optimizer no optax transformation, or state of another
      kind.
    ValueError: shapes do not agree, encode returns no matrix, or a known number is out of range.

  Note:
    Until a second class is seen nothing is uncertain: the default threshold is 0 and no answer is
    reliable. A batch whose gradient is not finite changes nothing, as in ``stream_step``.

  Example:
    >>> encode = lambda scale, x: x * scale[None]
    >>> tx = jr.transforms.rsgs(optax.sgd(0.1))
    >>> base = jnp.array([[2.0, 0.0], [0.0, 3.0]])
    >>> state = csfa_init(encode, tx, jnp.ones(2), base, jnp.arange(2), num_classes=3)
    >>> state, info = csfa_stream_step(encode, tx, state, jnp.array([[3.0, 1.0], [1.0, 1.1]]))
    >>> jnp.argmax(info.logits, axis=1).tolist(), int(info.num_reliable)
    ([0, 1], 1)

  Reference:
    Yu, Lu and Zhang, Generalized incremental learning under concept drift across evolving data
    streams, 2025 (CSFA with RSGS).
  """
  state = _arguments.check_state("state", state, CsfaState)
  if threshold is None:
    count = jnp.sum(state.seen, dtype=jnp.result_type(jnp.float32, state.prototypes))
    threshold = RELIABLE_SHARE * jnp.log(jnp.maximum(count, 1))
  stream, info = stream_step(
    _answers(encode, state, temperature), optimizer, state.stream, x, threshold=threshold
  )
  return state._replace(stream=stream), info
