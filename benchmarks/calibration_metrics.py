"""Expected calibration error of many probabilities: the formula in NumPy, netcal."""

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks._timing import Contender, Row, compiled, peer, read_seconds
from jaxopt_robust import calibration

CLASSES = 10
BINS = 15
BOUND = 1e-5


def numpy_ece(probs: np.ndarray, labels: np.ndarray) -> float:
  """Sums over 15 bins of equal width, by bincount."""
  confidence = probs.max(axis=1)
  right = probs.argmax(axis=1) == labels
  index = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)
  add = lambda weights: np.bincount(index, weights, minlength=BINS)
  return float(np.abs(add(confidence) - add(right.astype(np.float64))).sum() / len(labels))


def build(size: str) -> Row:
  """ECE with 15 bins of equal width, from probabilities and labels in memory."""
  rows = 1000 if size == "toy" else 1_000_000
  rng = np.random.default_rng(0)
  logits = 2 * rng.standard_normal((rows, CLASSES), np.float32)
  wide = np.exp(logits.astype(np.float64))
  probs = (wide / wide.sum(axis=1, keepdims=True)).astype(np.float32)
  labels = np.argmax(logits / 2 + rng.gumbel(size=logits.shape), axis=1)
  exact = numpy_ece(probs.astype(np.float64), labels)
  distance = lambda value: abs(float(value) - exact)
  contenders = [
    compiled(
      "jaxopt_robust",
      jax.jit(calibration.expected_calibration_error),
      jnp.asarray(probs),
      jnp.asarray(labels, jnp.int32),
      ours=True,
      accuracy=distance,
    ),
    Contender("NumPy", lambda: numpy_ece(probs, labels), accuracy=distance),
  ]
  if peer("netcal"):
    from netcal.metrics import ECE

    contenders.append(
      Contender("netcal", lambda: ECE(BINS).measure(probs, labels), accuracy=distance)
    )
  return Row(
    name="calibration_metrics",
    work=f"ECE of {rows} x {CLASSES} float32 probabilities, {BINS} bins",
    contenders=contenders,
    accuracy="distance to the error in float64",
    bound=BOUND,
    limit="memory bandwidth of one reading",
    limit_s=read_seconds(4 * rows * CLASSES),
  )
