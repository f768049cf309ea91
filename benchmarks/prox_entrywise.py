"""The non-convex and loss-like entrywise operators on one long vector, against pyproximal."""

import time

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks._timing import Contender, Row, copy_seconds, first_call, peer
from jaxopt_robust import prox

# Operators that pyproximal has too; its Huber and l0 operators have other thresholds.
SHARED = {
  "lasso": 0.5, "ridge": 0.5, "scad": (0.5, 3.7), "box": (-0.5, 0.7),
}  # fmt: skip
# The others of the catalogue, for the note.
OTHERS = {
  "capped_l1": (0.5, 1.0), "cel0": (0.5, 0.7), "cube": 0.5, "elastic_net": (0.5, 0.3),
  "entropy": 0.5, "epsilon_insensitive": (0.5, 0.2), "fourth_power": 0.5, "half": 0.5,
  "hinge": 0.5, "l0": 0.5, "log_sum": (0.5, 1.0), "logistic": 0.5, "lq": (0.5, 0.4),
  "mcp": (0.5, 3.0), "neg_log": 0.5, "non_negative_lasso": 0.5, "non_negative_ridge": 0.5,
  "pinball": (0.5, 0.3), "huber": (1.0, 0.8), "poisson": (0.5, 1.0), "quadratic": (0.5, 0.1),
  "squared_hinge": 0.5,
  "three_halves": 0.5, "two_thirds": 0.5,
}  # fmt: skip
STEP = 0.7


def build(size: str) -> Row:
  """Four shared operators one after the other; the note holds every operator's time."""
  length = 1000 if size == "toy" else 1_000_000
  array = np.random.default_rng(0).standard_normal(length).astype(np.float32)
  x = jnp.asarray(array)
  calls = {
    name: (jax.jit(getattr(prox, f"prox_{name}")), hyper)
    for name, hyper in {**SHARED, **OTHERS}.items()
  }
  seconds = sum(first_call(calls[name][0], x, hyper, STEP) for name, hyper in SHARED.items())
  ours = lambda: [jax.block_until_ready(calls[n][0](x, h, STEP)) for n, h in SHARED.items()]
  expected = [np.asarray(a) for a in ours()]

  def difference(result) -> float:
    # The jump of hard thresholding falls either way within a rounding of its threshold.
    return max(
      float(np.quantile(np.abs(np.asarray(a) - b), 0.999))
      for a, b in zip(result, expected, strict=True)
    )

  contenders = [Contender("jaxopt_robust", ours, True, seconds, difference)]
  if pyproximal := peer("pyproximal"):
    operators = [
      pyproximal.L1(sigma=0.5), pyproximal.L2(sigma=0.5),
      pyproximal.SCAD(sigma=0.5, a=3.7), pyproximal.Box(-0.5, 0.7),
    ]  # fmt: skip
    contenders.append(
      Contender(
        "pyproximal", lambda: [op.prox(array, STEP) for op in operators], accuracy=difference
      )
    )
  one_copy = copy_seconds(2 * 4 * length)
  times = {}
  for name, (call, hyper) in calls.items():
    if size == "toy" and name not in SHARED:
      continue
    jax.block_until_ready(call(x, hyper, STEP))
    start = time.perf_counter()
    for _ in range(5):
      jax.block_until_ready(call(x, hyper, STEP))
    times[name] = (time.perf_counter() - start) / 5
  slowest = sorted(times, key=times.__getitem__, reverse=True)
  listed = ", ".join(f"{n} {times[n] / one_copy:.1f}" for n in slowest)
  return Row(
    name="prox_entrywise",
    work=f"{len(SHARED)} operators on {length} float32 numbers",
    contenders=contenders,
    accuracy="0.999 quantile of the difference from ours",
    bound=1e-5,
    limit="memory bandwidth of a copy",
    limit_s=one_copy * len(SHARED),
    note=f"times of all operators in copies of the vector: {listed}",
  )
