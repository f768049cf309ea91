"""Robust recovery in one call: the start, the decay of the steps and their number are chosen."""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxopt_robust import _checks
from jaxopt_robust._units import root_of_unit, saturated, times
from jaxopt_robust.numerics import safe_divide, safe_norm, upcast
from jaxopt_robust.recovery.factors import Factors
from jaxopt_robust.recovery.gaussian import GaussianSensing, KeyedGaussianSensing
from jaxopt_robust.recovery.initial import (
  check_problem,
  growth_of,
  mean_of_signs,
  random_small,
  spectral_factors,
)
from jaxopt_robust.recovery.operators import MeasurementOperator
from jaxopt_robust.recovery.residual_steps import residual_proportional
from jaxopt_robust.recovery.sensing import Trace, lower_quartile, subgm
from jaxopt_robust.recovery.stepsizes import q_normalized_geometric
from jaxopt_robust.recovery.subset import Subset
from jaxopt_robust.typing import Array, ArrayLike

__all__ = ["SubgmSchedule", "robust_recover", "subgm_schedule"]

_LARGEST_OF_NOISE = 0.98  # 95th percentile of the Tracy-Widom law of real symmetric matrices
_LEAST_DIM = 8  # the limit laws are used from this size on
_ARRIVALS = 24  # times what the strongest direction needs to grow
_STEPS_PER_DIGIT = 64  # twice what the cooling of residual_proportional needs for a factor of 10
_ROUND_STEPS = 128


class SubgmSchedule(NamedTuple):
  """Decay of the steps, and how many of them a tolerance needs.

  Attributes:
    rho: float scalar, decay of a step; may be traced.
    num_steps: ``num_steps(tol) -> int``, ceil(log(1/tol) / (1 - rho)); needs a known ``rho``.

  Example:
    >>> subgm_schedule(eta0=0.25, alpha=1e-3, growth=2.0).num_steps(1e-8)
    815

  Reference:
    Ma and Fattahi, Global Convergence of Sub-gradient Method for Robust Matrix Recovery, 2023,
    theorem 1 (rho = 1 - Theta(eta0 / (kappa log(1/alpha))); recalled, not verified).
  """

  rho: Array
  num_steps: Callable[[float], int]


def subgm_schedule(
  *, eta0: ArrayLike, alpha: ArrayLike, growth: ArrayLike, c: ArrayLike = 0.8
) -> SubgmSchedule:
  r"""Decay that lets the signal grow from ``alpha`` to 1 before the steps have shrunk.

  rho = 1 - eta0 / (c g log(1/alpha)). A step multiplies the weakest signal direction by
  1 + 2 eta_t / g, so that growth by 1/alpha needs c >= 0.5; more leaves a margin, too much lets the
  surplus directions grow.

  Args:
    eta0: > 0, first normalised step; may be traced.
    alpha: in (0, 1), scale of the start; may be traced.
    growth: g of ``growth_factor``, finite and positive; may be traced.
    c: > 0, margin; may be traced.

  Returns:
    SubgmSchedule(rho, num_steps), ``num_steps`` a function from a tolerance to a Python integer.

  Raises:
    ValueError: an argument is out of range, or the decay would not lie in (0, 1).

  Example:
    >>> round(float(subgm_schedule(eta0=0.25, alpha=1e-3, growth=2.0).rho), 4)
    0.9774

  Reference:
    Ma and Fattahi, Global Convergence of Sub-gradient Method for Robust Matrix Recovery, 2023,
    theorem 1 (its order; the constant c is ours).
  """
  _checks.check_positive("eta0", eta0)
  _checks.check_interval("alpha", alpha, 0.0, 1.0, closed="neither")
  _checks.check_interval("growth", growth, 0.0, math.inf, closed="neither")
  _checks.check_positive("c", c)
  numbers = [jnp.asarray(value) for value in (eta0, alpha, growth, c)]
  dtype = jnp.promote_types(jnp.result_type(float, *numbers), jnp.float32)
  eta0, alpha, growth, c = (value.astype(dtype) for value in numbers)
  gap = eta0 / (c * growth * -jnp.log(alpha))
  _checks.check_interval("eta0 / (c growth log(1/alpha))", gap, 0.0, 1.0, closed="neither")

  def num_steps(tol: float) -> int:
    _checks.check_interval("tol", tol, 0.0, 1.0, closed="neither")
    if not _checks.is_concrete(gap):
      raise TypeError("num_steps needs a known decay; call it outside jit, vmap and grad.")
    return math.ceil(-math.log(tol) / float(np.max(np.asarray(gap))))

  return SubgmSchedule(1 - gap, num_steps)


def _is_pure_noise(op: MeasurementOperator, dense: Array, kind: str) -> bool:
  """Whether C = mean sign(y_i) A_i looks as if the signs had nothing to do with Gaussian A_i.

  Then C has independent N(0, 1/m) entries: neither its norm nor its largest eigenvalue exceeds what
  such a matrix has. Either shows a signal: the eigenvalue a low rank, the norm a high one.
  """
  base = op.op if isinstance(op, Subset) else op
  if not isinstance(base, GaussianSensing | KeyedGaussianSensing) or min(op.shape) < _LEAST_DIM:
    return False
  rows, cols = map(float, op.shape)
  square = base.flat if isinstance(base, GaussianSensing) else jnp.ones(())
  scale = math.sqrt(float(jnp.mean(upcast(square) ** 2)))
  size = float(safe_norm(dense))
  if kind == "psd":
    largest = float(jnp.linalg.eigvalsh((dense + dense.T) / 2)[-1])
    edge, spread = math.sqrt(2 / rows), 0.5 * rows ** (-2 / 3)
  else:
    largest = float(jnp.linalg.norm(dense, 2))
    roots = math.sqrt(rows) + math.sqrt(cols)
    edge = roots / math.sqrt(rows * cols)
    spread = 0.5 * (rows**-0.5 + cols**-0.5) ** (1 / 3) / roots
  is_flat = largest <= size * edge * (1 + _LARGEST_OF_NOISE * spread)
  # ||C||_F^2 m is a sum of d1 d2 squares of N(0, 1): its square root has a deviation below 1.
  return is_flat and size * math.sqrt(float(op.count)) <= scale * (math.sqrt(rows * cols) + 2)


@functools.partial(jax.jit, static_argnames="num_steps")
def _run(
  op: MeasurementOperator,
  y: Array,
  start: Factors,
  truth: ArrayLike | None,
  eta0: ArrayLike,
  rho: ArrayLike | None,
  tol: ArrayLike,
  *,
  num_steps: int,
) -> tuple[Factors, Trace]:
  tx: optax.GradientTransformation
  if rho is None:
    tx = residual_proportional(eta0=eta0)
  else:
    tx = q_normalized_geometric(eta0=eta0, rho=rho)
  return subgm(op, y, start, tx=tx, num_steps=num_steps, truth=truth, tol=tol)


def _size_of(op: MeasurementOperator, y: Array, direction: Array) -> Array:
  """How large X is in the norm of Frobenius, from y and the measurements of a unit matrix.

  The ratio of their lower quartiles: for Gaussian measurements and without outliers the norm itself
  up to the noise, with outliers a small multiple of it. It has the units of X, whatever those of y
  and of the operator.
  """
  wide = upcast(y)
  like = upcast(op.apply(direction))
  if op.observed is not None:
    wide, like = (jnp.where(op.observed, z, 0) for z in (wide, like))
  quartiles = lower_quartile(op, wide), lower_quartile(op, like)
  norms = safe_norm(wide), safe_norm(like)  # where a quarter of the numbers is 0
  usable = (quartiles[0] > 0) & (quartiles[1] > 0)
  top, bottom = (jnp.where(usable, q, n) for q, n in zip(quartiles, norms, strict=True))
  return safe_divide(top, bottom)


def _num_steps(arrival: float, tol: float) -> int:
  """Steps of ``residual_proportional``: for the signal to arrive, and for the steps to shrink.

  One singular value after the other grows, each while the steps are as long as what is left; the
  number of steps is rounded up so that few programs are compiled.
  """
  needed = _ARRIVALS * arrival + _STEPS_PER_DIGIT * math.log10(1 / tol)
  return _ROUND_STEPS * math.ceil(needed / _ROUND_STEPS)


def robust_recover(
  op: MeasurementOperator,
  y: ArrayLike,
  rank: int,
  *,
  key: Array | None = None,
  kind: str = "psd",
  alpha: float = 1e-3,
  eta0: float = 0.25,
  growth: float | None = None,
  c: float = 0.8,
  tol: float = 1e-8,
  num_steps: int | None = None,
  truth: ArrayLike | None = None,
) -> tuple[Factors, Trace]:
  r"""Recovers a low-rank matrix from corrupted measurements, with start and steps chosen for it.

  Takes a start of scale ``alpha`` relative to the data (``sign_spectral``, or ``random_small``
  where a key is given) and runs ``subgm`` with the steps of ``residual_proportional``, which need
  neither the true rank nor the growth of its weakest direction. Where ``growth`` is given the steps
  are those of ``q_normalized_geometric`` with the decay of ``subgm_schedule``.

  Args:
    op: operator on d1 x d2 matrices with m measurements.
    y: float[m], measurements, finite; a fraction below one half (more with many measurements) may
      be arbitrarily wrong.
    rank: width of the factors, static: the true rank or, for Gaussian measurements, any more.
    key: typed PRNG key for a random start; None starts from the signs of ``y``.
    kind: ``"psd"`` for symmetric positive semidefinite matrices, ``"general"`` else; static.
    alpha: in (0, 1), scale of the start relative to the size of X: smaller is more exact and slower
      when ``rank`` exceeds the true rank.
    eta0: > 0, first normalised step.
    growth: g of ``growth_factor``, for the geometric schedule; None takes the adaptive steps, and
      for Gaussian measurements refuses data whose signs cannot be told from random ones (at the 5 %
      level).
    c: > 0, margin of the geometric schedule.
    tol: in (0, 1), by how much the steps shrink during the run.
    num_steps: number of steps, >= 1; None takes what ``alpha`` and ``tol`` need.
    truth: float[d1, d2], X*, to record the error; None records none.

  Returns:
    (Factors, Trace): ``compose(factors)`` is the matrix; look at ``trace.status``, which is 0 where
    the run converged. Measurements that are all 0 have the zero matrix, with status 0.

  Raises:
    TypeError: a wrong type, or a call inside ``jit``: the number of steps depends on the data. Use
      ``subgm`` there.
    ValueError: shapes do not fit, ``y`` is not finite, a number is out of range, or the signs of
      ``y`` show no signal at all.

  Note:
    The limits of ``subgm`` hold here too: single entries need ``rank`` equal to the true rank. The
    result scales with ``y``: units do not matter.

  Example:
    >>> op = jr.recovery.make_gaussian_sensing(jax.random.key(0), 200, 4, 4)
    >>> truth = jnp.diag(jnp.array([1.0, 0.0, 0.0, 0.0]))
    >>> y = op.apply(truth).at[:40].set(1e3)  # a fifth of the measurements is wrong
    >>> factors, trace = robust_recover(op, y, 4, truth=truth)
    >>> bool(trace.err[-1] < 1e-3), int(trace.status)
    (True, 0)

  Reference:
    Ma and Fattahi, Global Convergence of Sub-gradient Method for Robust Matrix Recovery, 2023,
    algorithm 1; the length of the steps is that of ``residual_proportional``.
  """
  y = check_problem(op, y, kind)
  rank = _checks.check_rank(rank, op.shape)
  if not _checks.is_concrete((op, y, alpha, eta0, growth, c, tol)):
    raise TypeError("robust_recover cannot run inside jit, vmap or grad; use subgm there.")
  if num_steps is not None:
    num_steps = _checks.check_int("num_steps", num_steps, minimum=1)
  _checks.check_interval("alpha", alpha, 0.0, 1.0, closed="neither", scalar=True)
  _checks.check_positive("eta0", eta0, scalar=True)
  _checks.check_interval("tol", tol, 0.0, 1.0, closed="neither", scalar=True)
  numbers = np.asarray(upcast(y))
  if op.observed is not None:
    numbers = np.where(np.asarray(op.observed), numbers, 0)
  finite = np.isfinite(numbers)
  if not finite.all():
    raise ValueError(f"y must be finite; got {np.sum(~finite)} entries that are NaN or infinite.")

  signs = mean_of_signs(op, y)
  rho: ArrayLike | None = None
  if growth is not None:
    schedule = subgm_schedule(eta0=eta0, alpha=alpha, growth=growth, c=c)
    rho, num_steps = schedule.rho, num_steps or schedule.num_steps(tol)
  elif numbers.any():
    leading = float(growth_of(signs, 1, kind))
    if not math.isfinite(leading):
      raise ValueError("y shows no signal: the mean of sign(y_i) A_i has no positive direction.")
    if _is_pure_noise(op, signs, kind):
      raise ValueError(
        "y shows no signal: the mean of sign(y_i) A_i cannot be told from that of random signs. "
        "Either (almost) all measurements are wrong or there are too few; pass growth to go on."
      )
    num_steps = num_steps or _num_steps(leading * math.log(1 / alpha) / (2 * eta0), tol)

  # All is done in units of X, a power of 4: the products of small factors stay in range.
  direction = safe_divide(signs, safe_norm(signs))
  size = _size_of(op, y, direction.astype(y.dtype))
  unit = root_of_unit(size)
  scale = alpha * jnp.sqrt(size / unit / unit)
  if key is None:
    start = spectral_factors(direction, rank, scale, kind, y.dtype)
  else:
    shape = op.shape[0] if kind == "psd" else op.shape
    start = random_small(key, shape, rank, alpha=scale, dtype=y.dtype)
  down = 1 / unit
  matrix = None if truth is None else times(op.check_matrix(truth, name="truth"), down, down)
  # Steps shrink to tol; a converged run then moves by about eta0 * tol, or by its dtype's rounding.
  bound = max(float(tol), float(jnp.finfo(y.dtype).eps))
  factors, trace = _run(
    op, times(y, down, down), start, matrix, eta0, rho, bound, num_steps=num_steps or 1
  )
  err = None if trace.err is None else times(trace.err, unit, unit)
  trace = trace._replace(value=saturated(trace.value, unit, unit), err=err)
  return jax.tree.map(lambda factor: times(factor, unit), factors), trace
