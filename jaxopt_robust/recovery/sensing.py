r"""Robust low-rank matrix recovery by the sub-gradient method (SubGM) with a small start.

Minimises (1/m) ||A(L R^T) - y||_1 over factors of any width >= the true rank. Started close to
zero, with normalised and geometrically decaying steps, the method finds the true matrix although a
fraction of the measurements is arbitrarily wrong, and even where the l1 loss has lower minima.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxopt_robust import _arguments, _checks
from jaxopt_robust._units import in_units, tree_norm
from jaxopt_robust.numerics import safe_divide, safe_norm, tree_all_finite, tree_where, upcast
from jaxopt_robust.recovery._order_statistics import kth_smallest
from jaxopt_robust.recovery.factors import Factors, check_pair
from jaxopt_robust.recovery.operators import AdjointProducts, MeasurementOperator, wide_dot
from jaxopt_robust.solvers import CONVERGED, NON_FINITE, STALLED, STEP_LIMIT, Solver, run_steps
from jaxopt_robust.typing import Array, ArrayLike, PyTree

__all__ = [
  "SubgmInfo",
  "SubgmState",
  "SubgradAux",
  "Trace",
  "l1_value_subgrad",
  "squared_value_grad",
  "subgm",
  "subgradient_method",
]


class SubgradAux(NamedTuple):
  """What a step rule or a person may want besides value and gradient.

  Attributes:
    q_norm: float scalar, ||Q||_F of the gradient Q with respect to the product X.
    resid: float[m], A(L R^T) - y; 0 where not observed.
    scale: float scalar, the lower quartile of |resid| over the observed measurements, which follows
      ||X - X*||_F whatever up to three quarters of the measurements are; or None.

  Example:
    >>> SubgradAux(jnp.ones(()), jnp.zeros(3)).resid.shape
    (3,)

  Reference:
    Ma and Fattahi, Global Convergence of Sub-gradient Method for Robust Matrix Recovery, 2023,
    algorithm 1.
  """

  q_norm: Array
  resid: Array
  scale: Array | None = None


def lower_quartile(op: MeasurementOperator, residual: Array) -> Array:
  """An order statistic of |residual|: a quarter of the observed ones is at most as large."""
  size = jnp.abs(residual)
  if op.observed is not None:
    size = jnp.where(op.observed, size, jnp.inf)
  last = jnp.maximum(jnp.asarray(op.count, jnp.int32) - 1, 0)
  return kth_smallest(size, last // 4)


def _check_fit(op: MeasurementOperator, factors: Factors) -> tuple[Array, Array]:
  if not isinstance(op, MeasurementOperator):
    raise TypeError(f"op must be a MeasurementOperator; got {type(op).__name__}.")
  return op.check_factors(*check_pair(factors))


def _divide(products: AdjointProducts, count: Array) -> AdjointProducts:
  """The products of Q / count, each in its own dtype."""

  def divide(leaf: Array) -> Array:
    wide = upcast(leaf)
    return (wide / count.astype(wide.dtype)).astype(leaf.dtype)

  return AdjointProducts(*map(divide, products))


def _gradients(factors: Factors, products: AdjointProducts) -> Factors:
  if factors.R is None:
    return Factors(products.left + products.right, None)
  return Factors(products.left, products.right)


def l1_value_subgrad(
  op: MeasurementOperator, y: ArrayLike, factors: Factors, *, balance: ArrayLike | None = None
) -> tuple[Array, Factors, SubgradAux]:
  r"""Value and sub-gradient of the l1 loss of factored measurements, in one pass.

  f(L, R) = (1/m) ||A(L R^T) - y||_1 + balance ||L^T L - R^T R||_F. With z = A(L R^T) - y and
  Q = (1/m) A*(sign z): dL = Q R, dR = Q^T L; for one factor U, dU = (Q + Q^T) U. m counts the
  observed measurements.

  Args:
    op: operator on d1 x d2 matrices with m measurements.
    y: float[m]; ignored, even NaN, where an entry operator does not observe.
    factors: Factors of float[d1, width] and float[d2, width] or None.
    balance: >= 0, weight of the balancing term of two factors; None or 0 leaves it out.

  Returns:
    (value, gradients like ``factors``, ``SubgradAux``).

  Raises:
    TypeError: ``op`` is not an operator, ``factors`` not a ``Factors``, or an array is not
      floating-point.
    ValueError: shapes do not fit, or ``balance`` is negative or given for a single factor.

  Note:
    At a kink, z_i = 0, the sub-gradient takes sign(0) = 0, as ``jax.grad`` does. ``q_norm`` leaves
    the balancing term out.

  Example:
    >>> op, start = jr.recovery.Identity((2, 2)), jr.recovery.Factors(jnp.eye(2), None)
    >>> value, grads, aux = l1_value_subgrad(op, jnp.zeros(4), start)
    >>> float(value), grads.L
    (0.5, Array([[0.5, 0. ],
           [0. , 0.5]], dtype=float32))

  Reference:
    Ma and Fattahi, Global Convergence of Sub-gradient Method for Robust Matrix Recovery, 2023,
    equation 2 and algorithm 1; the balancing term: Li, Zhu, So and Vidal, Nonconvex Robust Low-rank
    Matrix Recovery, 2020.
  """
  left, right = _check_fit(op, factors)
  residual, products = op.residual_products(left, right, y, link=jnp.sign)
  count = jnp.maximum(jnp.asarray(op.count, residual.dtype), 1)
  value = jnp.sum(jnp.abs(residual)) / count
  products = _divide(products, count)
  grads = _gradients(factors, products)
  if balance is not None:
    if grads.R is None:
      raise ValueError("balance needs two factors; got factors.R None.")
    _checks.check_non_negative("balance", balance, scalar=True)
    difference = wide_dot(left.T, left) - wide_dot(right.T, right)
    norm = safe_norm(difference)
    weight = jnp.asarray(balance, norm.dtype)
    unit = safe_divide(2 * weight * difference, norm)
    value = value + weight * norm
    grads = Factors(
      grads.L + wide_dot(left, unit).astype(left.dtype),
      grads.R - wide_dot(right, unit).astype(right.dtype),
    )
  return value, grads, SubgradAux(products.norm, residual, lower_quartile(op, residual))


def squared_value_grad(
  op: MeasurementOperator, y: ArrayLike, factors: Factors
) -> tuple[Array, Factors, SubgradAux]:
  r"""Value and gradient of the squared loss of factored measurements: the usual baseline.

  f(L, R) = 1/(2m) ||A(L R^T) - y||_2^2. With Q = (1/m) A*(A(L R^T) - y): dL = Q R, dR = Q^T L; for
  one factor U, dU = (Q + Q^T) U.

  Args:
    op: operator on d1 x d2 matrices with m measurements.
    y: float[m]; ignored, even NaN, where an entry operator does not observe.
    factors: Factors of float[d1, width] and float[d2, width] or None.

  Returns:
    (value, gradients like ``factors``, ``SubgradAux``).

  Raises:
    TypeError: ``op`` is not an operator, ``factors`` not a ``Factors``, or an array is not
      floating-point.
    ValueError: shapes do not fit.

  Example:
    >>> op = jr.recovery.Identity((2, 2))
    >>> start = jr.recovery.Factors(jnp.eye(2), None)
    >>> float(squared_value_grad(op, jnp.zeros(4), start)[0])
    0.25

  Reference:
    Bhojanapalli, Neyshabur and Srebro, Global optimality of local search for low rank matrix
    recovery, 2016.
  """
  left, right = _check_fit(op, factors)
  residual, products = op.residual_products(left, right, y, link=lambda z: z)
  count = jnp.maximum(jnp.asarray(op.count, residual.dtype), 1)
  products = _divide(products, count)
  value = 0.5 * jnp.sum(residual * residual) / count
  return (
    value,
    _gradients(factors, products),
    SubgradAux(products.norm, residual, lower_quartile(op, residual)),
  )


class SubgmState(NamedTuple):
  """State of ``subgradient_method``.

  Attributes:
    params: Factors, the iterate; the last finite one.
    tx_state: state of the optax transformation.
    arrived: bool scalar, whether the iterate has stopped growing at least once.
    count: int32 scalar, steps done.

  Example:
    >>> SubgmState._fields
    ('params', 'tx_state', 'arrived', 'count')

  Reference:
    Ma and Fattahi, Global Convergence of Sub-gradient Method for Robust Matrix Recovery, 2023,
    algorithm 1.
  """

  params: Factors
  tx_state: Any
  arrived: Array
  count: Array  # type: ignore[assignment]


class SubgmInfo(NamedTuple):
  """Diagnostics of one step of ``subgradient_method``.

  Attributes:
    error: float scalar, ||F_{t+1} - F_t||_F / ||F_{t+1}||_F, but at least 1 while the iterate has
      done nothing but grow; NaN once a number is not finite.
    value: float scalar, the loss at F_t.
    q_norm: float scalar, ||Q_t||_F.
    move: float scalar, ||F_{t+1} - F_t||_F / ||F_{t+1}||_F.
    err: float scalar, ||X_{t+1} - X*||_F where the truth was given, else None.
    stalled: bool scalar, the iterate no longer moves although it has only grown so far, or is 0.

  Example:
    >>> SubgmInfo._fields[:2]
    ('error', 'value')

  Reference:
    Ma and Fattahi, Global Convergence of Sub-gradient Method for Robust Matrix Recovery, 2023,
    algorithm 1.
  """

  error: Array
  value: Array
  q_norm: Array
  move: Array
  err: Array | None
  stalled: Array


class Trace(NamedTuple):
  """Record of a run of ``subgm``.

  Attributes:
    value: float[num_steps], the loss at the start of each step.
    q_norm: float[num_steps], ||Q_t||_F.
    error: float[num_steps], the stopping quantity of ``SubgmInfo``.
    err: float[num_steps], ||X_{t+1} - X*||_F where the truth was given, else None.
    status: int32 scalar: 0 the last step was at most ``tol``; 1 it was longer; 2 a number was not
      finite (the last finite iterate is returned); 3 the steps ran out while the iterate was still
      growing from its start, so that the signal has not arrived: the decay rho is too small for
      this alpha, or the start is zero.

  Example:
    >>> Trace._fields
    ('value', 'q_norm', 'error', 'err', 'status')

  Reference:
    Ma and Fattahi, Global Convergence of Sub-gradient Method for Robust Matrix Recovery, 2023,
    algorithm 1.
  """

  value: Array
  q_norm: Array
  error: Array
  err: Array | None
  status: Array


def _inner(a: PyTree, b: PyTree) -> Array:
  """<a, b> over all leaves, up to a positive factor that keeps it in range."""
  terms = jax.tree.map(lambda x, y: jnp.sum(x * y), in_units(a)[0], in_units(b)[0])
  return jnp.asarray(sum(jax.tree.leaves(terms)))


def subgradient_method(
  make_tx: Callable[[Any], optax.GradientTransformation],
  *,
  value_and_subgrad: Callable[..., tuple[Array, Factors, SubgradAux]] = l1_value_subgrad,
) -> Solver:
  r"""Sub-gradient method for factored recovery, as a solver for the drivers.

  F_{t+1} = F_t + update of ``make_tx(hyper)`` at the sub-gradient of the loss. The data of the
  solver are ``op, y`` and optionally the true matrix, float[d1, d2]. The transformation gets the
  keyword arguments ``value``, ``q_norm`` and ``scale``.

  The stopping quantity is error = ||F_{t+1} - F_t||_F / ||F_{t+1}||_F, but at least 1 as long as
  the radial derivative <dF_t, F_t> has been negative at all steps: a run whose steps shrink faster
  than the signal grows has small moves too, and must not be taken for a solution.

  Args:
    make_tx: function of ``hyper`` that returns an optax transformation, such as
      ``lambda hyper: q_normalized_geometric(eta0=hyper[0], rho=hyper[1])``.
    value_and_subgrad: ``f(op, y, factors) -> (value, gradients, SubgradAux)``.

  Returns:
    Solver with state ``SubgmState`` and info ``SubgmInfo``.

  Raises:
    TypeError: an argument is not callable.

  Note:
    A step that would make the iterate or the loss NaN or infinite is not taken; from then on the
    iterate stays and ``error`` is NaN, which the drivers report as status 2.

  Example:
    >>> solver = subgradient_method(lambda eta: optax.sgd(eta))
    >>> op, y = jr.recovery.Identity((1, 1)), jnp.array([1.0])
    >>> start = jr.recovery.Factors(jnp.array([[0.5]]), None)
    >>> factors, info = jr.solvers.run_steps(solver, start, 0.1, op, y, num_steps=1)
    >>> round(float(factors.L[0, 0]), 6)
    0.6

  Reference:
    Ma and Fattahi, Global Convergence of Sub-gradient Method for Robust Matrix Recovery, 2023,
    algorithm 1.
  """
  _arguments.check_callable("make_tx", make_tx)
  _arguments.check_callable("value_and_subgrad", value_and_subgrad)

  def transform(hyper: Any) -> optax.GradientTransformationExtraArgs:
    return optax.with_extra_args_support(make_tx(hyper))

  def init(params: Factors, hyper: Any, *data: Any) -> SubgmState:
    _check_fit(data[0], params)
    return SubgmState(
      params, transform(hyper).init(params), jnp.zeros((), jnp.bool_), jnp.zeros((), jnp.int32)
    )

  def step(
    state: SubgmState, hyper: Any, op: MeasurementOperator, y: Array, truth: Array | None = None
  ) -> tuple[SubgmState, SubgmInfo]:
    value, grads, aux = value_and_subgrad(op, y, state.params)
    updates, tx_state = transform(hyper).update(
      grads, state.tx_state, state.params, value=value, q_norm=aux.q_norm, scale=aux.scale
    )
    params = optax.apply_updates(state.params, updates)
    finite = jnp.isfinite(value) & tree_all_finite(params)
    params = tree_where(finite, params, state.params)
    tx_state = tree_where(finite, tx_state, state.tx_state)

    size = tree_norm(params)
    change = jax.tree.map(lambda a, b: a - b, params, state.params)
    move = safe_divide(tree_norm(change), size)
    # Nothing is left to grow where the loss is 0, as it is at the start for y = 0.
    arrived = state.arrived | ((_inner(grads, state.params) >= 0) & (size > 0)) | (value == 0)
    error = jnp.where(arrived, move, jnp.maximum(move, 1))
    error = jnp.where(finite, error, jnp.nan)
    epsilon = jnp.finfo(params.L.dtype).eps
    err = None
    if truth is not None:
      left, right = check_pair(params)
      err = safe_norm(wide_dot(left, right.T) - upcast(op.check_matrix(truth, name="truth")))
    info = SubgmInfo(error, value, aux.q_norm, move, err, ~arrived & (move <= epsilon))
    return SubgmState(params, tx_state, arrived, state.count + 1), info

  return Solver(init, step)


def subgm(
  op: MeasurementOperator,
  y: ArrayLike,
  factors: Factors,
  *,
  tx: optax.GradientTransformation,
  num_steps: int,
  truth: ArrayLike | None = None,
  tol: ArrayLike = 1e-6,
  balance: ArrayLike | None = None,
) -> tuple[Factors, Trace]:
  r"""Recovers a low-rank matrix from grossly corrupted measurements by sub-gradient steps.

  Minimises (1/m) ||A(L R^T) - y||_1 from ``factors`` with the steps of ``tx``, usually
  ``residual_proportional``, or ``q_normalized_geometric`` with the decay of ``subgm_schedule``.

  Args:
    op: operator on d1 x d2 matrices with m measurements.
    y: float[m], measurements.
    factors: Factors, the start; R None for a symmetric positive semidefinite matrix.
    tx: optax transformation that includes the minus sign; it gets ``value``, ``q_norm`` and
      ``scale``.
    num_steps: number of steps, >= 1, static.
    truth: float[d1, d2], X*, to record the error; None records none.
    tol: > 0, the last relative step of a run that counts as converged; may be traced.
    balance: >= 0, weight of ||L^T L - R^T R||_F for two factors; None leaves it out.

  Returns:
    (Factors, Trace): the last finite iterate, and the record of the run with its status.

  Raises:
    TypeError: ``op`` is not an operator, ``factors`` not a ``Factors``, or an array is not
      floating-point.
    ValueError: shapes do not fit, ``num_steps`` is less than 1, or ``tol`` is not positive.

  Note:
    Single entries (``EntryMask``, ``EntryCOO``) do not satisfy the Sign-RIP: there the width of the
    factors must be the true rank; with twice the rank the method fails. Quadratic sensing
    (``RankOneSensing`` with equal vectors) is outside the theory and slow. float32 reaches errors
    of about 1e-7; use float64 below that, or for starts smaller than 1e-4.

  Example:
    >>> op = jr.recovery.make_gaussian_sensing(jax.random.key(0), 200, 4, 4)
    >>> truth = jnp.diag(jnp.array([1.0, 0.0, 0.0, 0.0]))
    >>> y = op.apply(truth).at[:40].set(1e3)  # a fifth of the measurements is wrong
    >>> start = jr.recovery.sign_spectral(op, y, 4, alpha=1e-2)
    >>> tx = jr.recovery.q_normalized_geometric(eta0=0.25, rho=0.95)
    >>> factors, trace = subgm(op, y, start, tx=tx, num_steps=300, truth=truth)
    >>> bool(trace.err[-1] < 1e-2), int(trace.status)
    (True, 0)

  Reference:
    Ma and Fattahi, Global Convergence of Sub-gradient Method for Robust Matrix Recovery, 2023,
    algorithm 1.
  """
  _check_fit(op, factors)
  if not (callable(getattr(tx, "init", None)) and callable(getattr(tx, "update", None))):
    raise TypeError(f"tx must be an optax transformation; got {type(tx).__name__}.")
  _checks.check_positive("tol", tol, scalar=True)
  y = op.check_measurements("y", y)
  if truth is not None:
    truth = op.check_matrix(truth, name="truth")
  objective = functools.partial(l1_value_subgrad, balance=balance)
  solver = subgradient_method(lambda hyper: tx, value_and_subgrad=objective)
  factors, infos = run_steps(solver, factors, None, op, y, truth, num_steps=num_steps)
  error, move = infos.error[-1], infos.move[-1]
  bound = jnp.asarray(tol, error.dtype)
  codes = [jnp.asarray(code, jnp.int32) for code in (NON_FINITE, CONVERGED, STALLED)]
  growing = move < error  # the error was raised to 1
  status = jnp.select(
    [~jnp.isfinite(error), error <= bound, growing & (move <= bound)],
    codes,
    jnp.asarray(STEP_LIMIT, jnp.int32),
  )
  return factors, Trace(infos.value, infos.q_norm, infos.error, infos.err, status)
