"""Every elementwise proximal operator on one long vector, against jaxopt and pyproximal."""

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks._timing import Contender, Row, copy_seconds, first_call, peer
from jaxopt_robust import prox

# Operators that jaxopt has under the same name, with hyper-parameters.
OPERATORS = {
  "prox_lasso": 0.5,
  "prox_non_negative_lasso": 0.5,
  "prox_elastic_net": (0.5, 0.3),
  "prox_group_lasso": 0.5,
  "prox_ridge": 0.5,
  "prox_non_negative_ridge": 0.5,
}


def build(size: str) -> Row:
  """All operators one after the other, as one unit of work for each library."""
  length = 1000 if size == "toy" else 1_000_000
  x = jnp.asarray(np.random.default_rng(0).standard_normal(length), jnp.float32)

  def all_of(library):
    # Each operator is its own compiled call: fused into one, they would share the read of x.
    calls = [(jax.jit(getattr(library, name)), hyper) for name, hyper in OPERATORS.items()]
    seconds = sum(first_call(call, x, hyper, 0.7) for call, hyper in calls)
    run = lambda: [jax.block_until_ready(call(x, hyper, 0.7)) for call, hyper in calls]
    return run, seconds

  ours, seconds = all_of(prox)
  expected = ours()

  def difference(result) -> float:
    return max(float(jnp.abs(a - b).max()) for a, b in zip(result, expected, strict=True))

  contenders = [Contender("jaxopt_robust", ours, True, seconds, difference)]
  if jaxopt := peer("jaxopt"):
    run, seconds = all_of(jaxopt.prox)
    contenders.append(Contender("jaxopt", run, False, seconds, difference))
  if pyproximal := peer("pyproximal"):
    array = np.asarray(x)
    lasso, ridge = pyproximal.L1(sigma=0.5), pyproximal.L2(sigma=0.5)
    soft = np.asarray(expected[list(OPERATORS).index("prox_lasso")])

    def two_operators():  # it has two of the six; three times each makes up the count
      return [(lasso.prox(array, 0.7), ridge.prox(array, 0.7)) for _ in range(3)]

    contenders.append(
      Contender(
        "pyproximal: L1 and L2, three times each",
        two_operators,
        accuracy=lambda result: float(np.abs(result[0][0] - soft).max()),
        counts=False,
      )
    )
  return Row(
    name="prox_catalogue",
    work=f"{len(OPERATORS)} operators on {length} float32 numbers",
    contenders=contenders,
    accuracy="largest difference from ours",
    bound=1e-5,
    limit="memory bandwidth of a copy",
    limit_s=copy_seconds(2 * 4 * length * len(OPERATORS)),
  )
