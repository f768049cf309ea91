"""Any optax optimizer as a solver, for the drivers' early stopping, sweeps and derivatives."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import optax

from jaxopt_robust import _arguments
from jaxopt_robust.solvers._common import displacement, hashable, norm, smooth_part, value_of
from jaxopt_robust.solvers.types import Solver
from jaxopt_robust.typing import Array, PyTree

__all__ = ["OptaxInfo", "OptaxState", "from_optax"]


class OptaxState(NamedTuple):
  """State of an optax optimizer with its iterate.

  Attributes:
    params: the iterate.
    optimizer: the optimizer's own state.
    count: int32, steps done.
  """

  params: PyTree
  optimizer: Any
  count: Array  # type: ignore[assignment]


class OptaxInfo(NamedTuple):
  """Diagnostics of an optimizer step.

  Attributes:
    error: ||grad f(x_k)||_2, or ||x_{k+1} - x_k||_2 with ``error="step"``.
    value: f(x_k).
    aux: what ``fun`` returned besides the value at x_k (None without ``has_aux``).
  """

  error: Array
  value: Array
  aux: Any = None


@hashable
def from_optax(
  fun: Callable[..., Any],
  optimizer: optax.GradientTransformation | Callable[[PyTree], optax.GradientTransformation],
  *,
  error: str = "gradient",
  has_aux: bool = False,
) -> Solver:
  r"""Makes a solver of any optax optimizer.

  Minimises f(x) by x_{k+1} = x_k + u_k, u_k the update that the optimizer makes of grad f(x_k).

  Args:
    fun: ``fun(params, *data) -> scalar``, the objective f.
    optimizer: an optax optimizer, such as ``optax.lbfgs()``, or a function from ``hyper`` to one,
      such as ``lambda rate: optax.adam(rate)``: then ``hyper`` can be swept. Line searches get the
      ``value``, ``grad`` and ``value_fn`` that they ask for.
    error: ``"gradient"`` stops by the norm of the gradient; ``"step"`` by the norm of the step, for
      chains that end in a proximal operator or a projection, where the gradient does not vanish.
    has_aux: static; whether ``fun`` returns a pair ``(scalar, aux)``: aux is ``info.last.aux``.

  Returns:
    ``Solver`` with states ``OptaxState`` and infos ``OptaxInfo``.

  Raises:
    TypeError: when ``fun`` is not a function, or ``optimizer`` neither an optimizer nor a function
      that returns one.
    ValueError: when ``error`` is no mode, or ``fun`` is not scalar.

  Note:
    Data are fixed during a solve: for mini-batches write the loop around ``optimizer.update``
    yourself.

  Example:
    >>> solver = from_optax(lambda x, b: jnp.sum((x - b) ** 2), optax.lbfgs())
    >>> x, info = jr.solvers.run_until(
    ...   solver, jnp.zeros(2), None, jnp.array([3.0, -1.0]), tol=1e-5, max_steps=50)
    >>> x.round(1), int(info.status)
    (Array([ 3., -1.], dtype=float32), 0)

  Reference:
    DeepMind et al., The DeepMind JAX ecosystem, 2020 (optax); the solver of jaxopt for optax
    optimizers in Blondel et al., Efficient and modular implicit differentiation, 2022.
  """
  _arguments.check_callable("fun", fun)
  _arguments.check_option("error", error, ("gradient", "step"))
  fixed = isinstance(optimizer, optax.GradientTransformation)
  if not fixed and not callable(optimizer):
    raise TypeError(
      "optimizer must be an optax optimizer or a function of hyper that returns one; got "
      f"{type(optimizer).__name__}."
    )

  smooth = value_of(fun, has_aux)

  def build(hyper: PyTree) -> optax.GradientTransformationExtraArgs:
    made: Any = optimizer if fixed else optimizer(hyper)
    if not isinstance(made, optax.GradientTransformation):
      raise TypeError(f"optimizer(hyper) must be an optax optimizer; got {type(made).__name__}.")
    return optax.with_extra_args_support(made)

  def init(params: PyTree, hyper: PyTree, *data: PyTree, **named: PyTree) -> OptaxState:
    del data, named
    return OptaxState(params, build(hyper).init(params), jnp.zeros((), jnp.int32))

  def step(
    state: OptaxState, hyper: PyTree, *data: PyTree, **named: PyTree
  ) -> tuple[OptaxState, OptaxInfo]:
    value, grad, aux = smooth_part(fun, has_aux, state.params, data, named)
    updates, inner = build(hyper).update(
      grad,
      state.optimizer,
      state.params,
      value=value,
      grad=grad,
      value_fn=lambda params: smooth(params, *data, **named),
    )
    params = optax.apply_updates(state.params, updates)
    size = norm(grad) if error == "gradient" else displacement(params, state.params)
    return OptaxState(params, inner, state.count + 1), OptaxInfo(size, value, aux)

  return Solver(init, step)
