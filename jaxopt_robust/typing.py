"""Type aliases and protocols shared by the whole package."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
from jax.typing import ArrayLike

__all__ = ["Array", "ArrayLike", "LossFn", "Penalty", "ProxFn", "PyTree"]

Array = jax.Array
PyTree = Any


class LossFn(Protocol):
  """A per-example loss: ``loss(scores, labels, *, where=None, **hyper) -> float[batch]``."""

  def __call__(
    self, scores: ArrayLike, labels: ArrayLike, /, *, where: ArrayLike | None = None, **hyper: Any
  ) -> Array: ...


class ProxFn(Protocol):
  """A proximal operator.

  ``prox(x, hyperparams, scaling)`` returns, as a pytree like ``x``, the minimiser over ``y`` of
  ``1/2 ||y - x||^2 + scaling * g(y; hyperparams)``.
  """

  def __call__(self, x: PyTree, hyperparams: Any, scaling: ArrayLike, /) -> PyTree: ...


class Penalty(NamedTuple):
  """A penalty with its proximal operator.

  Attributes:
    value: ``value(x, hyperparams) -> scalar``, the penalty ``g(x; hyperparams)``.
    prox: ``prox(x, hyperparams, scaling) -> x_like``, the minimiser of
      ``1/2 ||y - x||^2 + scaling * g(y; hyperparams)``.
    convex: whether g is convex. Where it is not, a solver finds a stationary point, and those that
      count on convexity take their safe form.
  """

  value: Callable[[PyTree, Any], Array]
  prox: Callable[..., PyTree]
  convex: bool = True
