"""Samplers: what they refuse. Their contracts are in ``tests/compositional/test_samplers.py``."""

import jax
import jax.numpy as jnp

from jaxopt_robust import compositional
from tests.helpers import BadInput

COVERED = {
  "Sample",
  "epoch_batches",
  "epoch_batches_with_positives",
  "sample_batch",
  "sample_classes",
  "sample_with_positives",
}

_LABELS = jnp.zeros((4,), jnp.int32)


def _positives(key=None, labels=_LABELS, num_positives=1, num_negatives=1):
  key = jax.random.key(0) if key is None else key
  return compositional.sample_with_positives(
    key, labels, num_positives=num_positives, num_negatives=num_negatives
  )


def _passes(labels=_LABELS, num_positives=1, num_negatives=1, num_steps=1):
  return compositional.epoch_batches_with_positives(
    jax.random.key(0),
    labels,
    num_positives=num_positives,
    num_negatives=num_negatives,
    num_steps=num_steps,
  )


def _classes(labels=_LABELS, num_classes=2, classes_per_batch=1, examples_per_class=1):
  return compositional.sample_classes(
    jax.random.key(0),
    labels,
    num_classes=num_classes,
    classes_per_batch=classes_per_batch,
    examples_per_class=examples_per_class,
  )


def _case(name, what, call, error, match):
  return BadInput(f"compositional.{name}", what, call, error, match)


BAD_INPUTS = [
  _case("sample_batch", "key", lambda: compositional.sample_batch(0, 4, 2), TypeError, "typed key"),
  _case(
    "sample_batch",
    "batch",
    lambda: compositional.sample_batch(jax.random.key(0), 4, 5),
    ValueError,
    "batch must be at most the number of examples, 4; got 5",
  ),
  _case(
    "sample_batch",
    "traced size",
    lambda: jax.eval_shape(lambda n: compositional.sample_batch(jax.random.key(0), n, 2), 4),
    TypeError,
    "num_examples must be a static Python integer",
  ),
  _case(
    "sample_with_positives", "key", lambda: _positives(key=jnp.zeros(2)), TypeError, "typed key"
  ),
  _case(
    "sample_with_positives",
    "rank",
    lambda: _positives(labels=jnp.zeros((2, 2), int)),
    ValueError,
    "labels must have rank 1",
  ),
  _case(
    "sample_with_positives",
    "dtype",
    lambda: _positives(labels=jnp.zeros(4)),
    TypeError,
    "labels must be integers or booleans",
  ),
  _case(
    "sample_with_positives",
    "number",
    lambda: _positives(num_positives=0),
    ValueError,
    "num_positives must be at least 1",
  ),
  _case(
    "sample_with_positives",
    "large number",
    lambda: _positives(num_negatives=5),
    ValueError,
    "num_negatives must be at most the number of examples, 4; got 5",
  ),
  _case(
    "sample_classes",
    "labels",
    lambda: _classes(labels=jnp.array([0, 2])),
    ValueError,
    r"labels must lie in \[0, 2\); got 2",
  ),
  _case(
    "sample_classes",
    "classes",
    lambda: _classes(classes_per_batch=3),
    ValueError,
    "classes_per_batch must be at most num_classes, 2; got 3",
  ),
  _case(
    "sample_classes",
    "examples",
    lambda: _classes(examples_per_class=5),
    ValueError,
    "examples_per_class must be at most the number of examples, 4; got 5",
  ),
  _case(
    "epoch_batches",
    "batch",
    lambda: compositional.epoch_batches(jax.random.key(0), 4, 0),
    ValueError,
    "batch must be at least 1",
  ),
  _case(
    "epoch_batches_with_positives",
    "steps",
    lambda: _passes(num_steps=0),
    ValueError,
    "num_steps must be at least 1",
  ),
  _case(
    "epoch_batches_with_positives",
    "dtype",
    lambda: _passes(labels=jnp.zeros(4)),
    TypeError,
    "labels must be integers or booleans",
  ),
]
