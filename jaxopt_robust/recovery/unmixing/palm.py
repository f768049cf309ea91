"""Spectral unmixing by proximal gradient steps (PALM): sparse abundances become exact zeros."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxopt_robust import _checks
from jaxopt_robust._units import times
from jaxopt_robust.numerics import safe_divide
from jaxopt_robust.projections import projection_simplex
from jaxopt_robust.prox import prox_half, prox_lq
from jaxopt_robust.recovery.operators import wide_dot
from jaxopt_robust.recovery.unmixing._objective import (
  Terms,
  channel_weights,
  check_options,
  data_term,
  first_state,
  make_terms,
  next_state,
  slope_of_powers,
  sum_penalty,
  tangent_powers,
)
from jaxopt_robust.recovery.unmixing.types import (
  Unmixing,
  UnmixingInfo,
  UnmixingState,
  check_factors,
)
from jaxopt_robust.solvers import Solver
from jaxopt_robust.typing import Array, ArrayLike

__all__ = ["palm_unmixing"]

_ROUNDS = 4  # of power iteration; the bound is one after any number of them
_SMALLEST = 1e-3  # entry of its vector, of the largest one

_on_simplex = jax.vmap(projection_simplex, in_axes=1, out_axes=1)


def largest_eigenvalue_bound(gram: Array) -> Array:
  """An upper bound of the largest eigenvalue of a symmetric matrix of non-negative entries.

  max_i (G x)_i / x_i for a positive x (Collatz and Wielandt), equal at the leading eigenvector.
  """
  x = jnp.ones(gram.shape[0], gram.dtype)
  for _ in range(_ROUNDS):
    x = gram @ x
    largest = jnp.max(x)
    x = jnp.maximum(safe_divide(x, largest), _SMALLEST)
  return jnp.max(gram @ x / x)


def _powers(terms: Terms, abundances: Array, power: Array) -> Array:
  present = abundances > 0
  kept = jnp.where(present, abundances, 1) ** power
  return terms.lam * jnp.sum(jnp.where(present, kept, 0))


def palm_unmixing(
  *,
  exponent: ArrayLike | None = 0.5,
  warm_up: ArrayLike = 20,
  sum_weight: ArrayLike | None = 10.0,
  safety: ArrayLike = 1.1,
) -> Solver:
  r"""Unmixing that outlier channels cannot dominate, with exact zeros, by proximal gradient steps.

  Decreases the J of ``robust_unmixing`` over spectra M >= 0 and abundances A >= 0. With the weights
  u_l = 1 / (||Y_l - M_l A|| sum_l ||Y_l||) of the squares that majorise the norms, s = sum_weight /
  N and c = safety a step is

    M_l <- max(0, M_l - (M_l A - Y_l) A^T / (c ||A A^T||_2)) for each channel,   then u anew, and
    A <- prox(A - G / L),   G = M^T U (M A - Y) + s 1 (1^T A - 1),   L = c ||M^T U M + s 1 1^T||_2

  with the proximal operator of A_kn^{p_n} lam / (N L) on A >= 0. With ``sum_weight=None`` the
  abundances of a pixel sum to one exactly: the powers are replaced by their tangents at A, which
  add (lam / N) p_n A^{p_n - 1} to G, and prox is the projection onto the simplex. (One operator
  after the other, first of the powers and then onto the simplex, is the operator of neither and
  fills the zeros again.)

  The stopping quantity ``info.error`` is that of ``robust_unmixing``: the fall of one step, which
  is small also where steps are short because ``safety`` is large.

  Args:
    exponent: a number in (0, 1], or float[N], the exponents p_n; may be traced. 1/2 as a Python
      number takes the fastest operator. None learns them pixel by pixel, as ``robust_unmixing``
      does.
    warm_up: >= 0, steps before the exponents are learned; may be traced.
    sum_weight: >= 0, weight of the constraint that abundances sum to one; may be traced. None
      makes it exact.
    safety: c > 1, by which steps are shorter than the inverse curvature; may be traced.

  Returns:
    Solver with state ``UnmixingState`` and info ``UnmixingInfo``. ``params`` is an ``Unmixing`` to
    start from, ``hyper`` is lam >= 0 (None for 0) and the data are Y.

  Raises:
    TypeError: Y is not floating-point or ``params`` no ``Unmixing``.
    ValueError: shapes do not fit, or a number is out of range.

  Note:
    No step increases J while the map is fixed: each block step falls by at least (c - 1) / 2 times
    the curvature times the squared move. Unlike with multiplicative updates zeros can be left and
    are reached exactly; steps are shorter, so that a run takes more of them. It is ``solvers.palm``
    with a block for each channel and one for the abundances. Powers have no floor except under
    ``sum_weight=None``, where below A = 1e-3 they are their tangents there. The norms of the small
    matrices are bounded from above to a few per cent (Collatz and Wielandt), not computed.

  Example:
    >>> pixels = jnp.array([[1.0, 0.0, 0.5], [0.0, 1.0, 0.5], [1.0, 1.0, 1.0]])
    >>> start = jr.recovery.Unmixing(jnp.array([[0.9, 0.2], [0.1, 0.8], [1.0, 1.0]]),
    ...                              jnp.array([[0.8, 0.2, 0.5], [0.2, 0.8, 0.5]]))
    >>> found, info = jr.solvers.run_until(palm_unmixing(sum_weight=None), start, 0.01, pixels,
    ...                                    tol=1e-6, max_steps=3000)
    >>> found.abundances.round(1)
    Array([[1. , 0. , 0.5],
           [0. , 1. , 0.5]], dtype=float32)

  Reference:
    Bolte, Sabach and Teboulle, Proximal alternating linearized minimization for nonconvex and
    nonsmooth problems, 2014, section 3.1 (the steps); Zhu, Wang, Fan, Meng and Pan, Effective
    spectral unmixing via robust representation and learning-based sparsity, 2014 (the objective;
    they minimise it by multiplicative updates).
  """
  warm_up = check_options(exponent, warm_up)
  on_simplex = sum_weight is None
  weight: ArrayLike = 0.0 if sum_weight is None else sum_weight
  _checks.check_non_negative("sum_weight", weight, scalar=True)
  _checks.check_greater("safety", safety, 1.0, scalar=True)
  is_half = isinstance(exponent, float) and exponent == 0.5

  def enter(lam: Any, pixels: ArrayLike) -> tuple[Array, Terms]:
    return make_terms(lam, pixels, weight, robust=True)

  def shrink(a: Array, stepsize: Array, terms: Terms, power: Array) -> Array:
    positive = jnp.maximum(a, 0)
    if is_half:
      return prox_half(positive, terms.lam, stepsize)
    is_l1 = power >= 1
    proper = jnp.broadcast_to(jnp.where(is_l1, 0.5, power), a.shape)
    curved = prox_lq(positive, (terms.lam, proper), stepsize)
    return jnp.where(is_l1, jnp.maximum(a - stepsize * terms.lam, 0), curved)

  def init(params: Unmixing, lam: Any, pixels: ArrayLike) -> UnmixingState:
    unit, terms = enter(lam, pixels)
    params = check_factors(params, terms.pixels)
    if on_simplex:
      params = params._replace(abundances=_on_simplex(params.abundances))
    return first_state(params, exponent, terms, unit)

  def step(state: UnmixingState, lam: Any, pixels: ArrayLike) -> tuple[UnmixingState, UnmixingInfo]:
    unit, terms = enter(lam, pixels)
    y = terms.pixels
    spectra, abundances = times(state.params.spectra, 1 / unit), state.params.abundances
    power = (1 - state.guidance)[None, :]
    powers = tangent_powers if on_simplex else _powers
    penalty = lambda a: powers(terms, a, power) + sum_penalty(terms, a)
    previous = state.loss + penalty(abundances)

    def stepsize(gram: Array) -> Array:
      curvature = jnp.asarray(safety, gram.dtype) * largest_eigenvalue_bound(gram)
      return jnp.where(curvature > 0, 1 / jnp.where(curvature > 0, curvature, 1), 1)

    # Each channel is a block: its weight cancels in the step.
    residual = y - wide_dot(spectra, abundances)
    size = stepsize(wide_dot(abundances, abundances.T))
    spectra = jnp.maximum(spectra + size * wide_dot(residual, abundances.T), 0)

    residual = y - wide_dot(spectra, abundances)
    weighted = spectra * channel_weights(terms, residual)
    size = stepsize(wide_dot(weighted.T, spectra) + terms.sum_weight)
    missing = 1 - jnp.sum(abundances, axis=0, keepdims=True)
    rise = wide_dot(weighted.T, residual) + terms.sum_weight * missing
    if on_simplex:
      rise = rise - slope_of_powers(terms, abundances, power)
      abundances = _on_simplex(abundances + size * rise)
    else:
      abundances = shrink(abundances + size * rise, size, terms, power)

    loss = data_term(terms, y - wide_dot(spectra, abundances))
    params = Unmixing(times(spectra, unit), abundances)
    values = (previous, loss + penalty(abundances))
    return next_state(state, params, loss, values, learns=exponent is None, warm_up=warm_up)

  return Solver(init, step)
