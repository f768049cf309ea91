"""Any parametric recalibration map, fitted by maximum likelihood."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxopt_robust import _arguments, _checks
from jaxopt_robust.calibration import _logits
from jaxopt_robust.solvers import SolveInfo, Solver, from_optax, run_until
from jaxopt_robust.typing import Array, ArrayLike, PyTree

__all__ = ["likelihood_fit"]

MAX_STEPS = 200
TOL = 1e-4


def mean_nll(apply_fn: Callable[..., Array], params: PyTree, given: _logits.Labelled) -> Array:
  """Mean negative log-likelihood of the kept rows after the map."""
  logits = apply_fn(params, given.logits)
  loss = jax.nn.logsumexp(logits, axis=1) - _logits.label_value(logits, given.labels)
  return jnp.sum(jnp.where(given.weight > 0, given.weight * loss, 0))


@functools.lru_cache(maxsize=64)
def _solver(apply_fn: Callable[..., Array]) -> Solver:
  # The same solver for the same map: the driver compiles once for it.
  return from_optax(functools.partial(mean_nll, apply_fn), optax.lbfgs())


def likelihood_fit(
  apply_fn: Callable[[Any, Array], Array],
  params: PyTree,
  logits: ArrayLike,
  labels: ArrayLike,
  *,
  where: ArrayLike | None = None,
  tol: ArrayLike = TOL,
  max_steps: ArrayLike = MAX_STEPS,
) -> tuple[PyTree, SolveInfo]:
  r"""Fits any map of logits by maximum likelihood, with L-BFGS.

  Minimises (1/n) sum_i -log softmax(apply_fn(params, z_i))[y_i] over the parameters.

  Args:
    apply_fn: maps (params, float[n, classes] logits) to float[n, classes] logits (log-probabilities
      are logits too).
    params: pytree of float arrays, where to start.
    logits: float[n, classes] of held-out examples.
    labels: int[n] in [0, classes).
    where: bool[n]; rows where it is false are ignored, whatever they hold.
    tol: >= 0, a scalar; may be traced. Ends where the norm of the gradient is at most tol.
    max_steps: >= 0, an integer scalar; may be traced.

  Returns:
    ``(params, info)`` with a ``SolveInfo``: error is the norm of the gradient, value the loss.
    Classes that a straight map separates have no best parameters: then the last ones are returned.

  Raises:
    ValueError: shapes do not agree, a known label is out of range, or tol or max_steps is negative.
    TypeError: apply_fn is not callable, logits are not floating-point or labels not integers.

  Note:
    Outside of ``jit`` it compiles once for an ``apply_fn``: pass the same function again, not a new
    lambda.

  Example:
    >>> logits, labels = jnp.array([[4.0, 0.0], [0.0, 4.0], [4.0, 0.0]]), jnp.array([0, 1, 1])
    >>> scale, info = likelihood_fit(lambda s, z: s * z, jnp.ones(()), logits, labels)
    >>> round(float(scale), 3), int(info.status)
    (0.173, 0)

  Reference:
    Platt, Probabilistic outputs for support vector machines, 1999 (maps fitted by likelihood on
    held-out scores); Liu and Nocedal, On the limited memory BFGS method for large scale
    optimization, 1989.
  """
  _arguments.check_callable("apply_fn", apply_fn)
  given = _logits.check_labelled(logits, labels, where)
  params = _checks.check_float_tree("params", params)
  try:
    solver = _solver(apply_fn)
  except TypeError:  # a callable that has no hash
    solver = _solver.__wrapped__(apply_fn)
  return run_until(solver, params, None, given, tol=tol, max_steps=max_steps)
