"""Helpers shared by the tests: bad-input cases and central finite differences."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxopt_robust.debug import count_traces


class BadInput(NamedTuple):
  """A call that must fail while tracing.

  Attributes:
    name: public name, such as ``"losses.ldr_kl_loss"``.
    what: a word on what is bad, such as ``"rank"``; with the name it makes the test's id.
    call: function of no argument that makes the call.
    error: the exception's type.
    match: regular expression that the message must match.
  """

  name: str
  what: str
  call: Callable[[], Any]
  error: type[Exception]
  match: str


def central_difference(fun: Callable, x, eps: float = 1e-6) -> np.ndarray:
  """Gradient of a scalar function of one array by central differences (float64)."""
  x = np.asarray(x, np.float64)
  grad = np.zeros_like(x)
  for index in np.ndindex(*x.shape):
    step = np.zeros_like(x)
    step[index] = eps
    grad[index] = (float(fun(jnp.asarray(x + step))) - float(fun(jnp.asarray(x - step)))) / (
      2 * eps
    )
  return grad


def assert_no_retrace(fun: Callable, make_args: Callable[[int], tuple]) -> None:
  """Calls a jitted function with several values; fails if any call but the first compiles."""
  counted = count_traces(fun)
  jitted = jax.jit(counted)
  for i in range(3):
    jax.block_until_ready(jitted(*make_args(i)))
  assert counted.traces == 1
