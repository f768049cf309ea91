"""Stochastic proximal gradient with variance reduction (prox-SVRG) for means over examples."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxopt_robust import _arguments, _checks
from jaxopt_robust.solvers._common import (
  add_scaled,
  displacement,
  operator_of,
  rounding,
  scalar_dtype,
  smooth_part,
  value_of,
)
from jaxopt_robust.solvers.types import Solver
from jaxopt_robust.typing import Array, ArrayLike, Penalty, ProxFn, PyTree

__all__ = ["SvrgInfo", "SvrgState", "prox_svrg"]


class SvrgState(NamedTuple):
  """State of prox-SVRG.

  Attributes:
    params: the iterate, where the next full gradient is taken (the snapshot).
    key: typed PRNG key of the next epoch's batches.
    count: int32, epochs done.
  """

  params: PyTree
  key: Array
  count: Array  # type: ignore[assignment]


class SvrgInfo(NamedTuple):
  """Diagnostics of an epoch.

  Attributes:
    error: ``||x - prox(x - s grad f(x))||_2 / s`` at the snapshot, the norm of the exact gradient
      mapping there, and at least the rounding of that formula.
    value: the smooth part at the snapshot.
    aux: what ``fun`` returned besides the value at the snapshot (None without ``has_aux``).
  """

  error: Array
  value: Array
  aux: Any = None


def prox_svrg(
  fun: Callable[..., Any],
  prox: ProxFn | Penalty,
  *,
  stepsize: ArrayLike,
  key: Array,
  batch_size: int = 1,
  num_inner: int | None = None,
  has_aux: bool = False,
) -> Solver:
  r"""Proximal stochastic variance-reduced gradient (prox-SVRG).

  Minimises f(x) + g(x; hyper) with f the mean over n examples of smooth terms. One step is an
  epoch: with the snapshot z, its full gradient m = grad f(z), and x = z, repeat

    v = grad f_B(x) - grad f_B(z) + m,     x <- prox(x - s v, hyper, s),

  f_B the mean over a batch B drawn with replacement; the last x is the next snapshot. The variance
  of v vanishes at the solution, so that a constant step converges linearly where f or g is strongly
  convex. The stopping quantity ``info.error`` is the norm of the exact gradient mapping at z.

  Args:
    fun: ``fun(params, *data) -> scalar``, the mean over the examples that it is given: every leaf
      of the data has the examples on its leading axis, and batches of it are passed.
    prox: ``prox(x, hyper, scaling)``, the proximal operator of g, or a ``Penalty`` that holds it.
    stepsize: s > 0, about 1/(3 L) with L the largest Lipschitz constant of the gradient of one
      term; may be traced.
    key: typed PRNG key; the same key gives the same batches.
    batch_size: >= 1, static.
    num_inner: >= 1, static: inner steps an epoch; None: two passes over the data, 2 n / batch_size.
    has_aux: static; whether ``fun`` returns a pair ``(scalar, aux)``: aux is ``info.last.aux``.

  Returns:
    ``Solver`` with states ``SvrgState`` and infos ``SvrgInfo``.

  Raises:
    TypeError: when ``fun`` is not a function, ``prox`` no operator, or ``key`` no typed key.
    ValueError: when a number is out of its range, there are no data, or leading axes differ.

  Note:
    Use ``implicit`` with ``proximal_residual`` for derivatives of the solution.

  Example:
    >>> fun = lambda w, x, y: 0.5 * jnp.mean((x @ w - y) ** 2)
    >>> solver = prox_svrg(fun, jr.prox.prox_lasso, stepsize=0.3, key=jax.random.key(0))
    >>> x, y = jnp.eye(2), jnp.array([3.0, 0.5])
    >>> w, info = jr.solvers.run_until(solver, jnp.zeros(2), 0.5, x, y, tol=1e-5, max_steps=200)
    >>> w.round(3), int(info.status)
    (Array([2., 0.], dtype=float32), 0)

  Reference:
    Xiao and Zhang, A proximal stochastic gradient method with progressive variance reduction, 2014,
    figure 1. They take the mean of the inner iterates as the next snapshot; the last one, as in
    Johnson and Zhang, Accelerating stochastic gradient descent using predictive variance reduction,
    2013 (option I), keeps exact zeros.
  """
  _arguments.check_callable("fun", fun)
  operator = operator_of("prox", prox)
  _checks.check_positive("stepsize", stepsize, scalar=True)
  _checks.check_key("key", key)
  batch_size = _checks.check_int("batch_size", batch_size, minimum=1)
  if num_inner is not None:
    num_inner = _checks.check_int("num_inner", num_inner, minimum=1)
  smooth = value_of(fun, has_aux)

  def num_examples(data: tuple, named: dict) -> int:
    sizes = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves((data, named))}
    if len(sizes) != 1 or () in sizes:
      raise ValueError(
        "data must hold arrays with the examples on their leading axes; got leading axes "
        f"{sorted(sizes)}."
      )
    return sizes.pop()[0]

  def init(params: PyTree, hyper: PyTree, *data: PyTree, **named: PyTree) -> SvrgState:
    del hyper
    num_examples(data, named)
    return SvrgState(params, key, jnp.zeros((), jnp.int32))

  def step(
    state: SvrgState, hyper: PyTree, *data: PyTree, **named: PyTree
  ) -> tuple[SvrgState, SvrgInfo]:
    examples = num_examples(data, named)
    inner = num_inner or max(1, 2 * examples // batch_size)
    snapshot = state.params
    s = jnp.asarray(stepsize, scalar_dtype(snapshot))
    value, full, aux = smooth_part(fun, has_aux, snapshot, data, named)
    mapped = operator(add_scaled(snapshot, -s, full), hyper, s)
    error = displacement(mapped, snapshot, s, noise=rounding(full))
    next_key, batch_key = jax.random.split(state.key)
    batches = jax.random.randint(batch_key, (inner, batch_size), 0, examples)

    def move(x: PyTree, index: Array) -> tuple[PyTree, None]:
      part, part_named = jax.tree.map(lambda leaf: jnp.asarray(leaf)[index], (data, named))
      slope = jax.grad(lambda w: smooth(w, *part, **part_named))
      change = optax.tree.sub(slope(x), slope(snapshot))
      return operator(add_scaled(x, -s, optax.tree.add(change, full)), hyper, s), None

    params, _ = jax.lax.scan(move, snapshot, batches)
    return SvrgState(params, next_key, state.count + 1), SvrgInfo(error, value, aux)

  return Solver(init, step)
