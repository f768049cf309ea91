"""A multilayer perceptron, and nnx models as pure functions."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen, nnx

from jaxopt_robust import _checks
from jaxopt_robust.typing import Array, PyTree

__all__ = ["MLP", "from_nnx"]


class MLP(linen.Module):
  """Multilayer perceptron: dense layers with an activation between them.

  Attributes:
    features: width of each layer; the last is the number of outputs.
    activation: entrywise function after every layer but the last.
    kernel_init: initializer of the weights; biases start at zero.
  """

  features: Sequence[int]
  activation: Callable[[Array], Array] = jax.nn.relu
  kernel_init: Callable[..., Array] = linen.initializers.lecun_normal()

  @linen.compact
  def __call__(self, x: Array) -> Array:
    for width in self.features[:-1]:
      x = self.activation(linen.Dense(width, kernel_init=self.kernel_init)(x))
    return linen.Dense(self.features[-1], kernel_init=self.kernel_init)(x)


def from_nnx(model: Any) -> tuple[Callable[..., Any], PyTree]:
  """Splits an nnx model into a pure function and its parameters.

  Args:
    model: a ``flax.nnx.Module`` instance that is called with ``x``.

  Returns:
    ``(apply_fn, params)`` with ``apply_fn(params, x, *, key=None)``. State that is no parameter
    (batch statistics, say) stays as it was; ``key`` is passed on as ``rngs`` when it is given.

  Raises:
    TypeError: when ``model`` is no ``flax.nnx.Module``.

  Example:
    >>> from flax import nnx
    >>> apply_fn, params = from_nnx(nnx.Linear(2, 3, rngs=nnx.Rngs(0)))
    >>> apply_fn(params, jnp.ones((4, 2))).shape
    (4, 3)

  Reference:
    The functional interface of nnx in the Flax documentation (``nnx.split``, ``nnx.merge``).
  """
  if not isinstance(model, nnx.Module):
    raise TypeError(f"model must be a flax.nnx.Module; got {type(model).__name__}.")
  parts: Any = nnx.split(model, nnx.Param, ...)  # its annotation does not know three parts
  graph, params, rest = parts

  def apply_fn(params: PyTree, x: Array, *, key: Array | None = None) -> Any:
    merged = nnx.merge(graph, params, rest)
    if key is None:
      return merged(jnp.asarray(x))
    return merged(jnp.asarray(x), rngs=nnx.Rngs(_checks.check_key("key", key)))

  return apply_fn, params
