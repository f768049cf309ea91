"""What a problem generator returns."""

from collections.abc import Callable
from typing import NamedTuple

from jaxopt_robust.typing import Array, PyTree

__all__ = ["Problem"]


class Problem(NamedTuple):
  """Data with the truth that made them, and the objective that a method minimises.

  A problem holds a function and is therefore no argument of ``jit``: pass ``problem.data``.

  Attributes:
    data: tuple of arrays, what a method may see; the trailing arguments of ``objective``.
    truth: NamedTuple of arrays, what a method must not see.
    objective: ``objective(params, *data) -> scalar``; the generator's docstring tells its scaling.
    optimum: float scalar, least value of the objective, or None where it is not known.

  Example:
    >>> problem = jr.problems.make_sparse_regression(
    ...   jax.random.key(0), num_samples=5, num_features=3, num_active=1, noise=0.0)
    >>> float(problem.objective(problem.truth.weights, *problem.data)) < 1e-12
    True

  Reference:
    Objective, data and solver as separate things: Moreau et al., Benchopt: reproducible, efficient
    and collaborative optimization benchmarks, 2022.
  """

  data: tuple[Array, ...]
  truth: PyTree
  objective: Callable[..., Array]
  optimum: Array | None
