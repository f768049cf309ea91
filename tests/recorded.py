"""Calls of the public functions, recorded while the examples of their docstrings run."""

import doctest
import functools
import importlib
import inspect
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxopt_robust as jr

MODULES = [name for name in jr.__all__ if name not in ("__version__", "typing")]


class Call(NamedTuple):
  """A call of a public function that works.

  Attributes:
    name: public name, such as ``"prox.prox_lasso"``.
    fn: the function.
    args: its positional arguments.
    kwargs: its keyword arguments.
    result: what it returned.
  """

  name: str
  fn: Callable
  args: tuple
  kwargs: dict[str, Any]
  result: Any


def public_functions() -> dict[str, Callable]:
  """All public functions of the package by public name."""
  found = {}
  for module_name in MODULES:
    module = importlib.import_module(f"jaxopt_robust.{module_name}")
    for name in module.__all__:
      value = getattr(module, name)
      if inspect.isfunction(value) and value.__module__.startswith("jaxopt_robust"):
        found[f"{module_name}.{name}"] = value
  return found


FUNCTIONS = public_functions()


@functools.cache
def record(name: str) -> tuple[Call, ...]:
  """Runs the example in a docstring; returns the calls that it makes of its own function."""
  fn = FUNCTIONS[name]
  module_name, short = name.split(".")
  home = sys.modules[fn.__module__]
  calls = []

  @functools.wraps(fn)
  def recording(*args, **kwargs):
    result = fn(*args, **kwargs)
    if not any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves((args, kwargs))):
      calls.append(Call(name, fn, args, kwargs, result))
    return result

  names = {"jax": jax, "jnp": jnp, "optax": optax, "jr": jr, "np": np}
  globs = vars(home) | names | {short: recording}
  public = importlib.import_module(f"jaxopt_robust.{module_name}")
  example = doctest.DocTestParser().get_doctest(fn.__doc__, globs, name, home.__file__, None)
  report = []
  setattr(public, short, recording)
  try:
    # The names stay: functions made by the example are called again later.
    failed, _ = doctest.DocTestRunner(verbose=False).run(
      example, out=report.append, clear_globs=False
    )
  finally:
    setattr(public, short, fn)
  if failed:
    raise AssertionError("".join(report))
  return tuple(calls)
