"""Losses of retrieval: scores of queries against a common pool of passages."""

import jax
import jax.numpy as jnp

from jaxopt_robust import _arguments, _checks, numerics
from jaxopt_robust.typing import Array, ArrayLike

__all__ = ["mann_whitney_loss"]


def mann_whitney_loss(
  scores: ArrayLike,
  pos_index: ArrayLike,
  *,
  temperature: ArrayLike = 0.01,
  reduction: str = "mean",
  chunk: int | None = None,
  where: ArrayLike | None = None,
) -> Array:
  r"""Mann-Whitney loss: every query's positive against the negatives of all queries.

  Computes (1/|S|) sum_{s in S} log(1 + exp(-(s_i - s) / tau)) for each query i, where s_i is the
  score of its positive, tau = temperature, and S holds the scores of all pairs of a query and a
  passage that is not its positive. Unlike the contrastive loss it is not invariant to a shift of
  all scores of a query, so that one threshold can serve all queries: divided by log 2, its mean
  bounds the probability that a random positive scores below a random negative.

  Args:
    scores: float[B, P] scores of B queries against P passages.
    pos_index: int[B] column of each query's positive.
    temperature: > 0, a scalar; may be traced.
    reduction: over the pool S: "mean", or "sum" as the paper's equation has it.
    chunk: static integer >= 1, how many positives are compared at a time, so that memory is
      O(chunk B P), or None for all of them at once.
    where: bool[B, P]; pairs where it is false are neither positives nor negatives, whatever they
      hold, such as a second copy of a query's positive passage.

  Returns:
    float[B] one value a query, in the dtype of ``scores``; 0 for a query whose positive is masked
    out, and if S is empty. Under ``jit`` a query whose position is out of range is NaN.

  Raises:
    ValueError: shapes do not agree, a known position is out of range, temperature <= 0, chunk < 1
      or an unknown reduction.
    TypeError: scores are not floating-point, or pos_index or chunk are not integers.

  Note:
    d loss_i / d s_i = -(1/tau) mean_s sigmoid(-(s_i - s) / tau). As tau -> 0, tau times the loss
    tends to the mean hinge max(0, s - s_i); as tau -> infinity the loss tends to log 2. A passage
    that is relevant to several queries of the batch is to be masked out for all of them but its
    own.

  Example:
    >>> scores = jnp.array([[0.9, 0.1], [0.2, 0.8]])
    >>> loss = mann_whitney_loss(scores, jnp.arange(2), temperature=1.0)
    >>> [round(float(value), 3) for value in loss]
    [0.387, 0.42]

  Reference:
    Sheikholeslami, Hosseini, Bechard, Daruru and Rajeswar, Optimizing what matters: AUC-driven
    learning for robust neural retrieval, 2025, equation 3, which sums over S and leaves out tau;
    the mean and tau are those of its text and of lemma 2.
  """
  array = _checks.check_float_array("scores", scores, rank=2)
  mask = _checks.check_mask("where", where, shape=array.shape)
  has_any = None if mask is None else jnp.any(mask, axis=1)
  index = _checks.check_labels(
    "pos_index", pos_index, shape=array.shape[:1], num_classes=array.shape[1], where=has_any
  )
  _checks.check_positive("temperature", temperature)
  _arguments.check_option("reduction", reduction, ("mean", "sum"))
  keep = jnp.ones(array.shape, bool) if mask is None else mask
  wide = jnp.where(keep, numerics.upcast(array), 0)
  tau = _checks.check_array("temperature", temperature, rank=0).astype(wide.dtype)
  columns = jax.lax.broadcasted_iota(index.dtype, array.shape, 1)
  is_positive = (columns == index[:, None]) & keep
  in_pool = keep & ~is_positive
  positive = jnp.sum(jnp.where(is_positive, wide, 0), axis=1)

  def against_pool(score: Array) -> Array:
    gap = jnp.where(in_pool, wide - score, 0) / tau
    return jnp.sum(jnp.where(in_pool, jax.nn.softplus(gap), 0))

  if chunk is None:
    total = jax.vmap(against_pool)(positive)
  else:
    chunk = _checks.check_int("chunk", chunk, minimum=1)
    # Without the checkpoint the backward pass would keep all comparisons of all chunks.
    total = jax.lax.map(jax.checkpoint(against_pool), positive, batch_size=chunk)
  if reduction == "mean":
    total = total / jnp.maximum(jnp.sum(in_pool), 1).astype(total.dtype)
  total = jnp.where(jnp.any(is_positive, axis=1), total, 0)
  is_bad = ((index < 0) | (index >= array.shape[1])) & jnp.any(keep, axis=1)
  return jnp.where(is_bad, jnp.nan, total).astype(array.dtype)
