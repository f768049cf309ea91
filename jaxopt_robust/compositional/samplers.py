"""Random batches of example numbers, as pure functions of a key: no number twice in a batch.

All shapes are static, so that every function works under ``jit``, ``vmap`` (over keys: the batches
of many steps or seeds at once) and ``scan``. Where a class has too few examples, the places that
are left hold the number of examples, which is out of range (states drop it), and ``where`` is
false there; a number is never repeated to fill a batch.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxopt_robust import _checks
from jaxopt_robust.typing import Array, ArrayLike

__all__ = [
  "Sample",
  "epoch_batches",
  "epoch_batches_with_positives",
  "sample_batch",
  "sample_classes",
  "sample_with_positives",
]


class Sample(NamedTuple):
  """Example numbers of one batch or of several.

  Attributes:
    index: int32[..., batch], numbers in [0, num_examples), distinct within a batch; num_examples
      in the places that could not be filled.
    where: bool[..., batch], true in the places that hold an example.
  """

  index: Array  # type: ignore[assignment]  # hides the method of tuples
  where: Array


def sample_batch(key: ArrayLike, num_examples: int, batch: int) -> Array:
  r"""Draws a batch of distinct examples, every set of them with the same probability.

  Takes the ``batch`` largest of ``num_examples`` random numbers, so that each example is in the
  batch with probability batch / num_examples, in random order.

  Args:
    key: typed PRNG key.
    num_examples: static integer >= 1, size of the training set.
    batch: static integer in [1, num_examples].

  Returns:
    int32[batch], distinct numbers in [0, num_examples).

  Raises:
    ValueError: num_examples < 1 or batch is not in [1, num_examples].
    TypeError: key is not a typed key, or a size is not a static integer.

  Example:
    >>> index = sample_batch(jax.random.key(0), 5, 5)
    >>> jnp.sort(index)
    Array([0, 1, 2, 3, 4], dtype=int32)

  Reference:
    Efraimidis and Spirakis, Weighted random sampling with a reservoir, 2006 (the largest of random
    keys), with equal weights.
  """
  _checks.check_key("key", key)
  size = _checks.check_int("num_examples", num_examples, minimum=1)
  count = _check_batch("batch", batch, size)
  return jax.lax.top_k(_priorities(key, size), count)[1].astype(jnp.int32)


def sample_with_positives(
  key: ArrayLike, labels: ArrayLike, *, num_positives: int, num_negatives: int
) -> Sample:
  r"""Draws a batch with a fixed number of positives and of negatives, all distinct.

  Draws num_positives of the examples with label > 0 without replacement, then num_negatives of the
  others, so that the rate of positives is num_positives / (num_positives + num_negatives) in every
  batch, whatever it is in the data.

  Args:
    key: typed PRNG key.
    labels: int[n] or bool[n], an example is positive where its label is > 0.
    num_positives: static integer in [1, n].
    num_negatives: static integer in [1, n].

  Returns:
    Sample of int32[num_positives + num_negatives] numbers, the positives first. A class with fewer
    examples than asked for gives all it has; the places left hold n and are false in ``where``.

  Raises:
    ValueError: labels are not a vector, or a number is not in [1, n].
    TypeError: key is not a typed key, labels are not integers, or a number is not a static integer.

  Example:
    >>> labels = jnp.array([0, 1, 0, 0, 1, 0])
    >>> index, where = sample_with_positives(
    ...   jax.random.key(0), labels, num_positives=2, num_negatives=2
    ... )
    >>> labels[index]
    Array([1, 1, 0, 0], dtype=int32)

  Reference:
    Yuan, Zhu, Qiu, Li, Wang and Yang, LibAUC: a deep learning library for X-risk optimization,
    2023, section on controlled data sampling.
  """
  _checks.check_key("key", key)
  positive = _positive(labels)
  size = positive.shape[0]
  num_positives = _check_batch("num_positives", num_positives, size)
  num_negatives = _check_batch("num_negatives", num_negatives, size)
  priority = _priorities(key, size)
  parts = [
    _largest(priority, positive, num_positives),
    _largest(priority, ~positive, num_negatives),
  ]
  return Sample(*(jnp.concatenate(part) for part in zip(*parts, strict=True)))


def sample_classes(
  key: ArrayLike,
  labels: ArrayLike,
  *,
  num_classes: int,
  classes_per_batch: int,
  examples_per_class: int,
) -> Sample:
  r"""Draws a few classes, and a few distinct examples of each: the batches of metric learning.

  Draws classes_per_batch of the classes that occur, without replacement and with equal probability,
  whatever their sizes, then examples_per_class of the examples of each, without replacement.

  Args:
    key: typed PRNG key.
    labels: int[n] class of each example, in [0, num_classes).
    num_classes: static integer >= 1.
    classes_per_batch: static integer in [1, num_classes].
    examples_per_class: static integer in [1, n].

  Returns:
    Sample of int32[classes_per_batch * examples_per_class] numbers, class by class. Where a class
    has too few examples, or too few classes occur, places hold n and are false in ``where``.

  Raises:
    ValueError: labels are not a vector, a known label is out of range, or a number is out of range.
    TypeError: key is not a typed key, labels are not integers, or a number is not a static integer.

  Note:
    Costs classes_per_batch partial sorts of n numbers.

  Example:
    >>> labels = jnp.array([0, 1, 2, 0, 1, 2])
    >>> index, where = sample_classes(
    ...   jax.random.key(1), labels, num_classes=3, classes_per_batch=2, examples_per_class=2
    ... )
    >>> chosen = labels[index]
    >>> bool(chosen[0] == chosen[1]), bool(chosen[2] == chosen[3]), bool(chosen[0] != chosen[2])
    (True, True, True)

  Reference:
    Hermans, Beyer and Leibe, In defense of the triplet loss for person re-identification, 2017,
    section 2 (batches of P classes with K examples each).
  """
  _checks.check_key("key", key)
  array = _checks.check_array("labels", labels, rank=1)
  classes = _checks.check_int("num_classes", num_classes, minimum=1)
  array = _checks.check_labels("labels", array, shape=array.shape, num_classes=classes)
  per_batch = _check_batch("classes_per_batch", classes_per_batch, classes, "num_classes")
  per_class = _check_batch("examples_per_class", examples_per_class, array.shape[0])
  class_key, example_key = jax.random.split(key)
  occurs = jnp.zeros((classes,), jnp.bool_).at[array].set(True, mode="drop")
  chosen, found = _largest(_priorities(class_key, classes), occurs, per_batch)
  priority = _priorities(example_key, array.shape[0])
  member = (array[None, :] == chosen[:, None]) & found[:, None]
  index, where = jax.vmap(lambda rows: _largest(priority, rows, per_class))(member)
  return Sample(index.reshape(-1), where.reshape(-1))


def epoch_batches(key: ArrayLike, num_examples: int, batch: int) -> Sample:
  r"""Draws the batches of one epoch: every example once, in random order.

  Cuts a random permutation of 0, ..., num_examples - 1 into ceil(num_examples / batch) batches.

  Args:
    key: typed PRNG key; another one for each epoch.
    num_examples: static integer >= 1, size of the training set.
    batch: static integer in [1, num_examples].

  Returns:
    Sample of int32[steps, batch] numbers. If the batches do not divide the training set, the end of
    the last one holds num_examples and is false in ``where``.

  Raises:
    ValueError: num_examples < 1 or batch is not in [1, num_examples].
    TypeError: key is not a typed key, or a size is not a static integer.

  Example:
    >>> epoch_batches(jax.random.key(0), 5, 2).where
    Array([[ True,  True],
           [ True,  True],
           [ True, False]], dtype=bool)

  Reference:
    Sampling without replacement in epochs (random reshuffling): Bottou, Curiously fast convergence
    of some stochastic gradient descent algorithms, 2009.
  """
  _checks.check_key("key", key)
  size = _checks.check_int("num_examples", num_examples, minimum=1)
  count = _check_batch("batch", batch, size)
  order = jax.random.permutation(key, jnp.arange(size, dtype=jnp.int32))
  index = jnp.pad(order, (0, -size % count), constant_values=size).reshape(-1, count)
  return Sample(index, index < size)


def epoch_batches_with_positives(
  key: ArrayLike, labels: ArrayLike, *, num_positives: int, num_negatives: int, num_steps: int
) -> Sample:
  r"""Draws a sequence of batches with fixed numbers of positives and negatives, in passes.

  Each class goes through its own examples in random order, each of them once, and starts again in a
  new order when they are used up; a pass that ends within a batch is completed from the next one by
  examples that the batch does not hold yet. After any number of steps the examples of one class
  have been used equally often, give or take one.

  Args:
    key: typed PRNG key.
    labels: int[n] or bool[n], an example is positive where its label is > 0.
    num_positives: static integer in [1, n], positives in each batch.
    num_negatives: static integer in [1, n], negatives in each batch.
    num_steps: static integer >= 1, number of batches. The number of negatives divided by
      num_negatives, rounded up, is one pass over the negatives.

  Returns:
    Sample of int32[num_steps, num_positives + num_negatives] numbers, the positives first in each
    batch. A class smaller than its part of the batch gives all it has each time; the places left
    hold n and are false in ``where``.

  Raises:
    ValueError: labels are not a vector, or a number is out of range.
    TypeError: key is not a typed key, labels are not integers, or a number is not a static integer.

  Note:
    Costs two partial sorts of n numbers a step.

  Example:
    >>> labels = jnp.array([1, 1, 0, 0, 0, 0])
    >>> index, where = epoch_batches_with_positives(
    ...   jax.random.key(0), labels, num_positives=1, num_negatives=2, num_steps=2
    ... )
    >>> jnp.sort(index[:, 1:].ravel())
    Array([2, 3, 4, 5], dtype=int32)

  Reference:
    Yuan, Zhu, Qiu, Li, Wang and Yang, LibAUC: a deep learning library for X-risk optimization,
    2023, section on controlled data sampling. There a batch in which a pass ends may hold an
    example twice.
  """
  _checks.check_key("key", key)
  positive = _positive(labels)
  size = positive.shape[0]
  num_positives = _check_batch("num_positives", num_positives, size)
  num_negatives = _check_batch("num_negatives", num_negatives, size)
  steps = _checks.check_int("num_steps", num_steps, minimum=1)

  def step(used: Array, key: Array) -> tuple[Array, Sample]:
    priority = _priorities(key, size)
    taken_positive = _next_of_pass(priority, used, positive, num_positives)
    taken_negative = _next_of_pass(priority, used, ~positive, num_negatives)
    index, where, used = (
      jnp.concatenate([taken_positive[0], taken_negative[0]]),
      jnp.concatenate([taken_positive[1], taken_negative[1]]),
      jnp.where(positive, taken_positive[2], taken_negative[2]),
    )
    return used, Sample(index, where)

  unused = jnp.zeros((size,), jnp.bool_)
  return jax.lax.scan(step, unused, jax.random.split(key, steps))[1]


def _check_batch(name: str, value: int, size: int, of: str = "the number of examples") -> int:
  count = _checks.check_int(name, value, minimum=1)
  if count > size:
    raise ValueError(f"{name} must be at most {of}, {size}; got {count}.")
  return count


def _positive(labels: ArrayLike) -> Array:
  """bool[n] from labels that are 0 / 1, -1 / 1 or booleans."""
  array = _checks.check_array("labels", labels, rank=1)
  if array.dtype != jnp.bool_ and not jnp.issubdtype(array.dtype, jnp.integer):
    raise TypeError(f"labels must be integers or booleans; got dtype {array.dtype}.")
  return array > 0


def _priorities(key: ArrayLike, size: int) -> Array:
  """int32[size], random in [0, 2^30): room above for a preference, below for what is left out.

  Equal numbers, which have probability 2^-30 for a pair, go in the order of the examples.
  """
  return (jax.random.bits(key, (size,), jnp.uint32) >> 2).astype(jnp.int32)


def _largest(priority: Array, allowed: Array, count: int) -> tuple[Array, Array]:
  """The ``count`` allowed examples of the highest priority; the size where there are no more."""
  top, index = jax.lax.top_k(jnp.where(allowed, priority, -1), count)
  where = top >= 0
  return jnp.where(where, index, priority.shape[0]).astype(jnp.int32), where


def _next_of_pass(
  priority: Array, used: Array, member: Array, count: int
) -> tuple[Array, Array, Array]:
  """The next examples of a class: those not used in this pass first. Also the new flags."""
  index, where = _largest(jnp.where(used, priority, priority + 2**30), member, count)
  taken = jnp.zeros_like(used).at[index].set(True, mode="drop")
  is_over = jnp.sum(member & ~used) < count  # so that what was used before opens the next pass
  return index, where, jnp.where(is_over, taken & used, used | taken)
