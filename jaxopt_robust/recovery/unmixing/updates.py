r"""Spectral unmixing by multiplicative updates: robust to bad channels, sparse, or neither.

One step serves all methods. The data term is a sum of norms of channels (``robust_unmixing``) or
of squares (``nmf_unmixing``, ``sparse_nmf_unmixing``); the exponent of the sparsity penalty is
fixed or learned pixel by pixel.
"""

from typing import Any

import jax.numpy as jnp

from jaxopt_robust import _checks
from jaxopt_robust._units import times
from jaxopt_robust.numerics import safe_divide, safe_norm
from jaxopt_robust.recovery.operators import wide_dot
from jaxopt_robust.recovery.unmixing._objective import (
  SMALL_NORM,
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
from jaxopt_robust.recovery.unmixing.start import unmixing_start
from jaxopt_robust.recovery.unmixing.types import (
  Unmixing,
  UnmixingInfo,
  UnmixingRecord,
  UnmixingState,
  check_count,
  check_factors,
  check_pixels,
  row_norms,
  unit_of,
)
from jaxopt_robust.recovery.unmixing.weights import l21_weights
from jaxopt_robust.solvers import Solver, run_state
from jaxopt_robust.typing import Array, ArrayLike

__all__ = ["nmf_unmixing", "robust_unmixing", "sparse_nmf_unmixing", "unmix"]


def _solver(
  *, robust: bool, exponent: ArrayLike | None, warm_up: ArrayLike, sum_weight: ArrayLike
) -> Solver:
  warm_up = check_options(exponent, warm_up)
  _checks.check_non_negative("sum_weight", sum_weight, scalar=True)

  def enter(lam: Any, pixels: ArrayLike) -> tuple[Array, Terms]:
    return make_terms(lam, pixels, sum_weight, robust=robust)

  def init(params: Unmixing, lam: Any, pixels: ArrayLike) -> UnmixingState:
    unit, terms = enter(lam, pixels)
    return first_state(check_factors(params, terms.pixels), exponent, terms, unit)

  def step(state: UnmixingState, lam: Any, pixels: ArrayLike) -> tuple[UnmixingState, UnmixingInfo]:
    unit, terms = enter(lam, pixels)
    y = terms.pixels
    spectra, abundances = times(state.params.spectra, 1 / unit), state.params.abundances
    power = (1 - state.guidance)[None, :]
    penalty = lambda a: tangent_powers(terms, a, power) + sum_penalty(terms, a)
    previous = state.loss + penalty(abundances)

    # The weights of the channels cancel in the update of the spectra.
    gram = wide_dot(abundances, abundances.T)
    spectra = spectra * safe_divide(wide_dot(y, abundances.T), wide_dot(spectra, gram))
    weighted = spectra * channel_weights(terms, y - wide_dot(spectra, abundances))
    up = wide_dot(weighted.T, y) + terms.sum_weight
    down = wide_dot(wide_dot(weighted.T, spectra), abundances)
    down = down + terms.sum_weight * jnp.sum(abundances, axis=0, keepdims=True)
    abundances = abundances * safe_divide(up, down + slope_of_powers(terms, abundances, power))

    loss = data_term(terms, y - wide_dot(spectra, abundances))
    params = Unmixing(times(spectra, unit), abundances)
    values = (previous, loss + penalty(abundances))
    return next_state(state, params, loss, values, learns=exponent is None, warm_up=warm_up)

  return Solver(init, step)


def robust_unmixing(
  *,
  exponent: ArrayLike | None = None,
  warm_up: ArrayLike = 20,
  sum_weight: ArrayLike = 10.0,
) -> Solver:
  r"""Unmixing that outlier channels cannot dominate, with a sparsity learned pixel by pixel.

  For pixels Y, float[L, N], decreases over M >= 0, float[L, K], and A >= 0, float[K, N],

    J = sum_l ||Y_l - M_l A||_2 / sum_l ||Y_l||_2 + (lam / N) sum_nk A_kn^{p_n}
        + (sum_weight / (2 N)) sum_n (1 - sum_k A_kn)^2

  with l the channels and p_n = 1 - h_n. The guidance map h_n is the Hoyer sparseness of pixel n's
  abundances, at most 0.9, taken anew after each step beyond the first ``warm_up``: a nearly pure
  pixel is pulled towards fewer materials. With u_l = 1 / (||Y_l - M_l A|| sum_l ||Y_l||) a step is

    M <- M * (Y A^T) / (M A A^T),   then u anew, and
    A <- A * (M^T U Y + s) / (M^T U M A + s 1 1^T A + (lam / N) p_n A^{p_n - 1})

  with s = sum_weight / N.

  The stopping quantity ``info.error`` is the larger one of |J_before - J| / J and the mean over the
  pixels of |h_n - (sparseness now)|.

  Args:
    exponent: None learns the exponents; else a number in (0, 1], or float[N], keeps them; may be
      traced. 1 with lam = 0 is the plain factorisation under this data term.
    warm_up: >= 0, steps with the first map, that of the abundances one starts from; may be traced.
    sum_weight: >= 0, weight of the constraint that abundances sum to one; may be traced.

  Returns:
    Solver with state ``UnmixingState`` and info ``UnmixingInfo``. ``params`` is an ``Unmixing`` to
    start from, ``hyper`` is lam >= 0 (None for 0) and the data are Y.

  Raises:
    TypeError: Y is not floating-point or ``params`` no ``Unmixing``.
    ValueError: shapes do not fit, or a number is out of range.

  Note:
    J does not depend on the units of Y, nor much on L and N, so that lam means the same for all
    data; multiplying Y multiplies M. With a fixed map no step increases J: the norms are majorised
    by squares, the concave powers by their tangents. That holds for J as it is computed: norms
    below 1e-3 of the mean one count as squares, powers below A = 1e-3 as their tangents there
    (``info.previous`` and ``info.value`` are J before and after a step with the same map; a new map
    makes another J). Negative entries of Y, which are noise, count as 0. What is 0 stays 0: start
    from positive numbers. M A does not change where a material is scaled up in M and down in A;
    ``unmixing_errors`` compares abundances that are divided by their sums.

  Example:
    >>> pixels = jnp.array([[1.0, 0.0, 0.5], [0.0, 1.0, 0.5], [1.0, 1.0, 1.0]])
    >>> start = jr.recovery.Unmixing(jnp.array([[0.9, 0.2], [0.1, 0.8], [1.0, 1.0]]),
    ...                              jnp.array([[0.8, 0.2, 0.5], [0.2, 0.8, 0.5]]))
    >>> found, info = jr.solvers.run_until(robust_unmixing(), start, 0.01, pixels,
    ...                                    tol=1e-5, max_steps=2000)
    >>> found.abundances.round(1)
    Array([[1. , 0. , 0.5],
           [0. , 1. , 0.5]], dtype=float32)

  Reference:
    Zhu, Wang, Fan, Meng and Pan, Effective spectral unmixing via robust representation and
    learning-based sparsity, 2014. The abstract names the data term, the exponents by a learned map
    and multiplicative convergence proofs; the map (Hoyer sparseness), the soft constraint on the
    sums, the floors and the scaling of the terms are ours, the updates derived here.
  """
  return _solver(robust=True, exponent=exponent, warm_up=warm_up, sum_weight=sum_weight)


def nmf_unmixing(*, sum_weight: ArrayLike = 0.25) -> Solver:
  r"""Unmixing by non-negative matrix factorisation with abundances that about sum to one.

  Decreases ||Y - M A||_F^2 / (2 ||Y||_F^2) + (sum_weight / (2 N)) sum_n (1 - sum_k A_kn)^2 over
  M, A >= 0 by the multiplicative updates of ``robust_unmixing`` with equal weights of all channels.

  Args:
    sum_weight: >= 0, weight of the constraint that abundances sum to one; may be traced.

  Returns:
    Solver as that of ``robust_unmixing``; ``hyper`` is not used (pass None).

  Raises:
    TypeError: Y is not floating-point or ``params`` no ``Unmixing``.
    ValueError: shapes do not fit, or a number is out of range.

  Example:
    >>> start = jr.recovery.Unmixing(jnp.array([[0.9, 0.2], [0.1, 0.8]]), jnp.full((2, 2), 0.5))
    >>> _, infos = jr.solvers.run_steps(nmf_unmixing(), start, None, jnp.eye(2), num_steps=200)
    >>> bool(infos.value[-1] < 1e-4)
    True

  Reference:
    Lee and Seung, Algorithms for non-negative matrix factorization, 2001, theorem 1; sums to one by
    an added channel: Heinz and Chang, Fully constrained least squares linear spectral mixture
    analysis, 2001.
  """
  plain = _solver(robust=False, exponent=1.0, warm_up=0, sum_weight=sum_weight)

  def init(params: Unmixing, hyper: Any, pixels: ArrayLike) -> UnmixingState:
    del hyper
    return plain.init(params, None, pixels)

  def step(state: UnmixingState, hyper: Any, pixels: ArrayLike) -> tuple[Any, Any]:
    del hyper
    return plain.step(state, None, pixels)

  return Solver(init, step)


def sparse_nmf_unmixing(
  *,
  exponent: ArrayLike | None = 0.5,
  warm_up: ArrayLike = 20,
  sum_weight: ArrayLike = 0.25,
) -> Solver:
  r"""Unmixing by non-negative matrix factorisation with sparse abundances.

  Decreases ||Y - M A||_F^2 / (2 ||Y||_F^2) + (lam / N) sum_nk A_kn^p
  + (sum_weight / (2 N)) sum_n (1 - sum_k A_kn)^2 over M, A >= 0 by the updates of
  ``robust_unmixing`` with equal weights of all channels.

  Args:
    exponent: p in (0, 1], a number or one a pixel; may be traced. 1/2 is l1/2-NMF and 1 is l1-NMF,
      where the constraint on the sums leaves the penalty little to do. None learns the exponents
      as ``robust_unmixing`` does.
    warm_up: >= 0, steps before the exponents are learned; may be traced.
    sum_weight: >= 0, weight of the constraint that abundances sum to one; may be traced.

  Returns:
    Solver as that of ``robust_unmixing``; ``hyper`` is lam >= 0, beside a squared relative residual
    here.

  Raises:
    TypeError: Y is not floating-point or ``params`` no ``Unmixing``.
    ValueError: shapes do not fit, or a number is out of range.

  Example:
    >>> start = jr.recovery.Unmixing(jnp.array([[0.9, 0.2], [0.1, 0.8]]), jnp.full((2, 2), 0.5))
    >>> solver = sparse_nmf_unmixing(exponent=0.5)
    >>> _, infos = jr.solvers.run_steps(solver, start, 0.01, jnp.eye(2), num_steps=50)
    >>> bool(jnp.all(infos.value <= infos.previous))
    True

  Reference:
    Qian, Jia, Zhou and Robles-Kelly, Hyperspectral unmixing via l1/2 sparsity-constrained
    nonnegative matrix factorization, 2011 (recalled, not verified); Hoyer, Non-negative sparse
    coding, 2002 (l1).
  """
  return _solver(robust=False, exponent=exponent, warm_up=warm_up, sum_weight=sum_weight)


def unmix(
  pixels: ArrayLike,
  num_spectra: int,
  *,
  solver: Solver | None = None,
  lam: ArrayLike = 0.01,
  start: Unmixing | None = None,
  tol: ArrayLike | None = None,
  max_steps: ArrayLike = 1000,
) -> tuple[Unmixing, UnmixingRecord]:
  r"""Splits the pixels of a spectral image into a few spectra and their abundances, Y ~ M A.

  Args:
    pixels: float[channels, N], Y; an image of rows and columns is reshaped before. Negative entries
      count as 0.
    num_spectra: K, materials, at most the smaller side of Y; static.
    solver: ``robust_unmixing()`` (what None takes), ``palm_unmixing()``, ``nmf_unmixing()`` or
      ``sparse_nmf_unmixing()``.
    lam: >= 0, strength of the sparsity; may be traced. In experiments .01 is good from this start,
      with norms and with squares; from even abundances the norms want ten times as much.
    start: Unmixing of positive numbers to start from; None takes ``unmixing_start``.
    tol: >= 0, error of the solver at which a run has converged; may be traced. None takes 1e-6.
    max_steps: >= 0, int; may be traced.

  Returns:
    (Unmixing, UnmixingRecord) in the dtype of ``pixels``: look at ``record.status``. The materials
    come in no particular order.

  Raises:
    TypeError: ``pixels`` is not floating-point, ``num_spectra`` no static integer, ``solver`` no
      solver, or ``start`` no ``Unmixing``.
    ValueError: wrong shapes, a number out of range, or pixels that are known not to be finite;
      inside ``jit`` these end with status 2.

  Note:
    The problem is not convex: another start may end elsewhere. Pixels that are nearly pure make it
    well posed. Not differentiable in reverse mode; ``solvers.run_steps`` with the solver is.

  Example:
    >>> weights = jnp.linspace(0.0, 1.0, 6)
    >>> pixels = jnp.outer(jnp.array([1.0, 0.2, 0.4]), weights) + jnp.outer(
    ...   jnp.array([0.1, 0.9, 0.4]), 1 - weights)
    >>> found, record = unmix(pixels, 2, lam=0.01)
    >>> bool(record.residual < 0.01), found.abundances.shape
    (True, (2, 6))

  Reference:
    Zhu, Wang, Fan, Meng and Pan, Effective spectral unmixing via robust representation and
    learning-based sparsity, 2014.
  """
  data = check_pixels(pixels)
  count = check_count(num_spectra, data)
  solver = robust_unmixing() if solver is None else solver
  if not isinstance(solver, Solver):
    raise TypeError(f"solver must be a Solver; got {_checks.describe(solver)}.")
  _checks.check_non_negative("lam", lam, scalar=True)
  if tol is None:
    tol = max(1e-6, 8 * float(jnp.finfo(data.dtype).eps))
  if start is None:
    params = unmixing_start(data, count)
  else:
    params = check_factors(start, data, "start")
    for field, part in params._asdict().items():  # what is 0 stays 0: such a start is at rest
      _checks.check_holds((part > 0).any(), f"start.{field} must have positive entries; got zeros.")
  if params.spectra.shape[1] != count:
    raise ValueError(f"start must have num_spectra = {count} spectra; got {params.spectra.shape}.")
  state = solver.init(params, lam, data)
  state, info = run_state(solver, state, lam, data, tol=tol, max_steps=max_steps)
  found, dtype = state.params, jnp.asarray(pixels).dtype
  dtype = dtype if jnp.issubdtype(dtype, jnp.floating) else data.dtype

  unit = unit_of(data)
  y = jnp.maximum(data / unit, 0)
  residual = y - wide_dot(found.spectra / unit, found.abundances)
  typical = jnp.mean(row_norms(y))
  # The floor keeps a weight finite; data of zeros have no scale of their own.
  floor = SMALL_NORM * jnp.where(typical > 0, typical, 1)
  weights = jnp.where(typical > 0, typical, 1) * l21_weights(residual, axis=1, floor=floor)
  record = UnmixingRecord(
    safe_divide(safe_norm(residual), safe_norm(y)).astype(dtype),
    state.guidance.astype(dtype), weights.astype(dtype), info.value, info.steps, info.status,
  )  # fmt: skip
  return Unmixing(*(part.astype(dtype) for part in found)), record
