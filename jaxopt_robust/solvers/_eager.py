"""Loops that are called without ``jit``: their compiled programs are kept, one a solver."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxopt_robust import _checks
from jaxopt_robust.solvers._captured import captured
from jaxopt_robust.solvers.types import Solver
from jaxopt_robust.typing import PyTree

# The program used longest ago goes first.
KEPT_PROGRAMS = 64


class _Program:
  """The compiled loop of a solver, and whether a call with known values has been checked."""

  def __init__(self, loop: Callable) -> None:
    self.run = jax.jit(loop)
    self.is_checked = False


@functools.lru_cache(maxsize=KEPT_PROGRAMS)
def compiled(loop: Callable, solver: Solver, options: tuple, captured: tuple) -> _Program:
  del captured  # constants of the program: with others it would be another one
  return _Program(functools.partial(loop, solver, *options))


def run(
  loop: Callable, solver: Solver, options: tuple, start: PyTree, hyper: PyTree, *rest: PyTree
) -> Any:
  """``loop(solver, *options, start, ...)``, compiled once a solver where it is called eagerly.

  Under a transformation (an argument is a tracer) the loop is part of the outer program.
  """
  args = (start, hyper, *rest)
  try:
    hash(solver)
  except TypeError:
    return loop(solver, *options, *args)
  constants = captured(solver.init, solver.step) if _checks.is_concrete(args) else None
  if constants is None:
    return loop(solver, *options, *args)
  program = compiled(loop, solver, options, constants)
  if not (program.is_checked and _is_plausible(hyper)):
    # Traced with its values: operators refuse, say, a negative strength only where they see it.
    jax.eval_shape(lambda: loop(solver, *options, *args))
    program.is_checked = True
  return program.run(*args)


def _is_plausible(hyper: PyTree) -> bool:
  """Whether no number is negative or NaN: what another look at the values would be for."""
  numbers = [leaf for leaf in jax.tree.leaves(hyper) if jnp.issubdtype(leaf.dtype, jnp.floating)]
  return all(bool(np.all(np.asarray(leaf) >= 0)) for leaf in numbers)
