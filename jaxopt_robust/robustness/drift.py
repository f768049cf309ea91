"""Streams that drift: prototypes of new classes, and adaptation without labels."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxopt_robust import _arguments, _checks, numerics
from jaxopt_robust.typing import Array, ArrayLike, PyTree

__all__ = [
  "StreamInfo",
  "StreamState",
  "prediction_entropy",
  "reliable_mask",
  "rsgs_losses",
  "stream_init",
  "stream_step",
]

RELIABLE_SHARE = 0.4  # of the largest entropy, log C: the bound of Niu et al., 2022 and 2023


class StreamState(NamedTuple):
  """What a stream leaves behind.

  Attributes:
    params: pytree, the adapted parameters.
    optimizer_state: state of the optimizer.
  """

  params: PyTree
  optimizer_state: Any


class StreamInfo(NamedTuple):
  """What a step of a stream saw.

  Attributes:
    logits: float[batch, classes], answers of the parameters *before* this batch.
    entropy: float scalar, mean entropy of the reliable answers; 0 without any.
    num_reliable: int32, how many those are.
  """

  logits: Array
  entropy: Array
  num_reliable: Array


def prediction_entropy(logits: ArrayLike) -> Array:
  r"""Entropy of softmax answers, - sum_c p_c log p_c with p = softmax(logits).

  Args:
    logits: float[..., classes].

  Returns:
    float[...] in [0, log classes], in the dtype of ``logits``. NaN where a logit is NaN.

  Raises:
    TypeError: logits hold no real numbers.
    ValueError: logits have no axis of classes.

  Note:
    Computed from log-softmax: certain answers of any size have entropy 0 and a finite gradient.

  Example:
    >>> np.round(np.float64(prediction_entropy(jnp.array([[0.0, 0.0], [3.0, 0.0]]))), 3).tolist()
    [0.693, 0.191]

  Reference:
    Grandvalet and Bengio, Semi-supervised learning by entropy minimization, 2004.
  """
  array = _checks.check_float_array("logits", logits, min_rank=1)
  log_p = jax.nn.log_softmax(numerics.upcast(array), axis=-1)
  absent = jnp.isneginf(log_p)  # classes whose logit is -inf
  terms = jnp.exp(log_p) * jnp.where(absent, 0, log_p)
  return jnp.abs(-jnp.sum(terms, axis=-1)).astype(array.dtype)


def reliable_mask(logits: ArrayLike, *, threshold: ArrayLike | None = None) -> Array:
  r"""Which answers are certain enough to learn from: entropy < threshold.

  Args:
    logits: float[..., classes].
    threshold: a scalar; may be traced. 0.4 log(classes) if None; inf for all answers that are not
      NaN.

  Returns:
    bool[...]; False where a logit is NaN.

  Raises:
    TypeError: logits hold no real numbers.
    ValueError: logits have no axis of classes, or threshold is no scalar.

  Example:
    >>> reliable_mask(jnp.array([[0.0, 0.1], [9.0, 0.0]]))
    Array([False,  True], dtype=bool)

  Reference:
    Niu et al., Towards stable test-time adaptation in dynamic wild world, 2023, equation 2.
  """
  array = _checks.check_float_array("logits", logits, min_rank=1)
  entropy = prediction_entropy(numerics.upcast(array))
  return entropy < _bound(threshold, array.shape[-1], entropy.dtype)


def _bound(threshold: ArrayLike | None, num_classes: int, dtype: Any) -> Array:
  if threshold is None:
    return RELIABLE_SHARE * jnp.log(jnp.asarray(num_classes, dtype))
  return _checks.check_float_array("threshold", threshold, rank=0).astype(dtype)


def _reliable_entropy(
  logits: Array, threshold: ArrayLike | None, where: Array | None = None
) -> tuple[Array, Array]:
  """Mean entropy of the reliable answers among some, and which they are."""
  mask = reliable_mask(logits, threshold=threshold)
  if where is not None:
    mask = mask & where
  kept = jnp.where(mask[:, None], logits, 0)  # what is left out may be anything
  return numerics.masked_mean(prediction_entropy(numerics.upcast(kept)), mask), mask


def rsgs_losses(
  apply_fn: Callable[[PyTree, Any], Array], *, threshold: ArrayLike | None = None
) -> tuple[Callable[..., Any], Callable[..., Any]]:
  r"""The two losses of a step of ``transforms.rsgs``: mean entropies of reliable answers.

    first(params, x) = mean of E_i over m_i,    m_i = [E_i < threshold],
    second(params, x, m) = mean of E_i over m_i and [E_i < threshold] at these parameters,

  with E the entropy of ``apply_fn(params, x)``; means over nothing are 0.

  Args:
    apply_fn: ``apply_fn(params, x) -> float[batch, classes]``, logits.
    threshold: a scalar; may be traced. 0.4 log(classes) if None.

  Returns:
    (first, second), functions to (value, bool[batch] mask): differentiate with ``has_aux=True``.

  Raises:
    TypeError: apply_fn is not a function.
    ValueError: threshold is no scalar, or apply_fn returns no matrix.

  Example:
    >>> first, second = rsgs_losses(lambda w, x: x * w)
    >>> x = jnp.array([[4.0, 0.0], [0.1, 0.0]])
    >>> value, mask = first(jnp.ones(()), x)
    >>> round(float(value), 3), mask.tolist(), second(jnp.array(0.5), x, mask)[1].tolist()
    (0.09, [True, False], [False, False])

  Reference:
    Niu et al., Towards stable test-time adaptation in dynamic wild world, 2023, algorithm 1 (the
    mask of the perturbed weights lies within the first one).
  """
  _arguments.check_callable("apply_fn", apply_fn)
  if threshold is not None:
    _checks.check_float_array("threshold", threshold, rank=0)

  def first(params: PyTree, x: Any) -> tuple[Array, Array]:
    return _reliable_entropy(_logits(apply_fn, params, x), threshold)

  def second(params: PyTree, x: Any, mask: ArrayLike) -> tuple[Array, Array]:
    logits = _logits(apply_fn, params, x)
    where = _checks.check_mask("mask", mask, shape=logits.shape[:1])
    return _reliable_entropy(logits, threshold, where)

  return first, second


def _logits(apply_fn: Callable[[PyTree, Any], Array], params: PyTree, x: Any) -> Array:
  logits = apply_fn(params, x)
  with _arguments.within("apply_fn"):
    return _checks.check_float_array("logits", logits, rank=2)


def stream_init(params: PyTree, optimizer: optax.GradientTransformation) -> StreamState:
  """State at the start of a stream.

  Args:
    params: pytree of float arrays, the parameters to adapt (scales and shifts of normalisation
      layers, say).
    optimizer: ``transforms.rsgs``, or any other optax optimizer.

  Returns:
    ``StreamState``.

  Raises:
    TypeError: params are no arrays, or optimizer is no optax transformation.

  Example:
    >>> stream_init(jnp.ones(2), optax.sgd(0.1)).params
    Array([1., 1.], dtype=float32)

  Reference:
    Wang, Shelhamer, Liu, Olshausen and Darrell, Tent: fully test-time adaptation by entropy
    minimization, 2021 (which parameters).
  """
  _arguments.check_optimizer("optimizer", optimizer)
  params = _checks.check_float_tree("params", params)
  return StreamState(params, optimizer.init(params))


def stream_step(
  apply_fn: Callable[[PyTree, Any], Array],
  optimizer: optax.GradientTransformation,
  state: StreamState,
  x: Any,
  *,
  threshold: ArrayLike | None = None,
) -> tuple[StreamState, StreamInfo]:
  r"""Answers a batch without labels, then adapts to it: a step of a prequential run.

  The optimizer gets the gradient of the mean entropy of the reliable answers, the functions that
  ``transforms.rsgs``, ``transforms.sam`` and ``transforms.gsam`` need, and what line searches ask
  for (``value``, ``grad``, ``value_fn``). What it is decides on the method:

    rsgs(inner, rho, alpha)          RSGS
    rsgs(inner, rho, alpha=0)        SAR
    rsgs(inner, rho=0)               filtered entropy
    inner, with threshold=inf        TENT

  Args:
    apply_fn: ``apply_fn(params, x) -> float[batch, classes]``, logits; it may hold what is not
      adapted.
    optimizer: any optax optimizer.
    state: ``StreamState``, from ``stream_init``.
    x: the batch, as ``apply_fn`` takes it.
    threshold: of the entropy of a reliable answer, a scalar; may be traced. 0.4 log(classes) if
      None.

  Returns:
    (state, ``StreamInfo``). A stream of batches is one program:
    ``jax.lax.scan(lambda s, x: stream_step(apply_fn, optimizer, s, x), state, batches)``.

  Raises:
    TypeError: apply_fn is not a function, optimizer no optax transformation, or state of another
      kind.
    ValueError: threshold is no scalar, or apply_fn returns no matrix.

  Note:
    Where nothing is reliable ``transforms.rsgs`` does not move; other optimizers get gradients of 0
    and may, by momentum. Normalise by layers or groups: statistics of small batches spoil any of
    these methods. A batch whose gradient is not finite changes nothing: one example of NaN, which
    is never reliable, makes it so.

  Example:
    >>> tx = jr.transforms.rsgs(optax.sgd(1.0), rho=0.01)
    >>> batch = jnp.array([[3.0, 0.0], [0.1, 0.0]])
    >>> apply_fn = lambda w, x: x * w[None]
    >>> state, info = stream_step(apply_fn, tx, stream_init(jnp.ones(2), tx), batch)
    >>> info.logits[0], int(info.num_reliable), bool(state.params[0] > 1)
    (Array([3., 0.], dtype=float32), 1, True)

  Reference:
    Yu, Lu and Zhang, Generalized incremental learning under concept drift across evolving data
    streams, 2025; prequential runs: Gama, Sebastiao and Rodrigues, On evaluating stream learning
    algorithms, 2013.
  """
  _arguments.check_callable("apply_fn", apply_fn)
  _arguments.check_optimizer("optimizer", optimizer)
  state = _arguments.check_state("state", state, StreamState)

  def first(params: PyTree) -> tuple[Array, tuple[Array, Array]]:
    logits = _logits(apply_fn, params, x)
    value, mask = _reliable_entropy(logits, threshold)
    return value, (mask, logits)

  (value, (mask, logits)), grads = jax.value_and_grad(first, has_aux=True)(state.params)
  _, loss = rsgs_losses(apply_fn, threshold=threshold)
  second = jax.value_and_grad(lambda params, i: loss(params, x, mask), has_aux=True)

  def value_fn(params: PyTree, grad_fn: Any = None, value_and_grad_fn: Any = None) -> Array:
    del grad_fn, value_and_grad_fn  # optax hands all extra arguments on
    return first(params)[0]

  updates, optimizer_state = optax.with_extra_args_support(optimizer).update(
    grads,
    state.optimizer_state,
    state.params,
    value=value,
    grad=grads,
    value_fn=value_fn,
    value_and_grad_fn=second,
    grad_fn=lambda params, i: second(params, i)[1],
  )
  params = optax.apply_updates(state.params, updates)
  sound = numerics.tree_all_finite((grads, params))  # 0 times NaN: what is masked has slopes too
  after = numerics.tree_where(sound, StreamState(params, optimizer_state), state)
  return after, StreamInfo(logits, value, jnp.sum(mask, dtype=jnp.int32))
