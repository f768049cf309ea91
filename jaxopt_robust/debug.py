"""For people who want exceptions, and for people who count compiles."""

import functools
from collections.abc import Callable
from typing import Any

import jax
from jax.experimental import checkify

from jaxopt_robust import _arguments
from jaxopt_robust._deprecations import install_getattr
from jaxopt_robust.typing import Array

__all__ = ["TraceCounter", "checked", "count_traces"]

install_getattr(__name__)


def checked(fn: Callable[..., Any]) -> Callable[..., Any]:
  """Makes a function raise where it computes NaN, divides by zero or indexes out of bounds.

  Args:
    fn: a JAX function; it may be jitted.

  Returns:
    A function with the signature of ``fn`` that raises ``checkify.JaxRuntimeError``
    with the place of the first fault.

  Raises:
    TypeError: when ``fn`` is not a function.

  Note:
    Costs a recompile and some speed: for debugging. Masked-out branches that compute NaN on purpose
    are reported too. Call it outside ``jit``; inside nothing can raise.

  Example:
    >>> float(checked(jnp.log)(1.0))
    0.0

  Reference:
    The checkify transformation of the JAX documentation.
  """
  _arguments.check_callable("fn", fn)
  errors = checkify.float_checks | checkify.index_checks | checkify.user_checks
  guarded = jax.jit(checkify.checkify(fn, errors=errors))

  @functools.wraps(fn)
  def raising(*args: Any, **kwargs: Any) -> Any:
    error, out = guarded(*args, **kwargs)
    error.throw()
    return out

  return raising


class TraceCounter:
  """Counts how often Python runs a function, that is, how often JAX traces it.

  Attributes:
    traces: the count so far.
  """

  def __init__(self, fn: Callable[..., Any]) -> None:
    self.traces = 0
    self._fn = fn
    functools.update_wrapper(self, fn)

  def __call__(self, *args: Any, **kwargs: Any) -> Array | Any:
    self.traces += 1
    return self._fn(*args, **kwargs)


def count_traces(fn: Callable[..., Any]) -> TraceCounter:
  """Wraps a function so that its traces can be counted.

  Args:
    fn: the function, for example an objective that a solver calls.

  Returns:
    A callable with the signature of ``fn`` and an integer attribute ``traces``.

  Raises:
    TypeError: when ``fn`` is not a function.

  Example:
    >>> square = count_traces(lambda x: x * x)
    >>> jitted = jax.jit(square)
    >>> _ = jitted(1.0), jitted(2.0)
    >>> square.traces
    1

  Reference:
    Tracing and caching: the JAX documentation, "Just-in-time compilation".
  """
  _arguments.check_callable("fn", fn)
  return TraceCounter(fn)
