"""Adversarial training with worst-case example weights (doubly robust, DONE)."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxopt_robust import _arguments, _checks, numerics
from jaxopt_robust.losses.dro.kl import kl_dro, kl_dro_weights
from jaxopt_robust.losses.noise_robust import cross_entropy_loss
from jaxopt_robust.robustness import log_barrier
from jaxopt_robust.typing import Array, ArrayLike, PyTree

__all__ = ["DoneInfo", "DoneState", "done_init", "done_value_and_grad"]


class DoneState(NamedTuple):
  """What doubly robust training remembers between steps.

  Attributes:
    log_average: float scalar, logarithm of the moving average of mean exp(loss / temperature);
      -inf before the first step.
    steps: int32 scalar, steps done.
  """

  log_average: Array
  steps: Array


class DoneInfo(NamedTuple):
  """What one step saw.

  Attributes:
    objective: float scalar, estimate of temperature * log mean exp(loss / temperature).
    weights: float[batch], weights of the examples; they sum to one when the rate is 1, else to the
      batch's mean exponential over its moving average.
    losses: float[batch], at the adversarial examples.
    perturbation: float[batch, ...], the attack's solution.
  """

  objective: Array
  weights: Array
  losses: Array
  perturbation: Array


def done_init(*, dtype: Any = jnp.float32) -> DoneState:
  r"""State of doubly robust training before the first step.

  Sets log_average = -inf, which marks that nothing was averaged yet.

  Args:
    dtype: floating-point type of the average; that of the losses (at least float32) serves best.

  Returns:
    DoneState of scalars.

  Raises:
    TypeError: dtype is not a floating-point type.

  Example:
    >>> int(done_init().steps)
    0

  Reference:
    Sow, Lin, Wang and Liang, Doubly robust instance-reweighted adversarial training, 2024.
  """
  dtype = _checks.check_float_dtype(dtype)
  return DoneState(jnp.full((), -jnp.inf, dtype), jnp.zeros((), jnp.int32))


def done_value_and_grad(
  apply_fn: Callable[[PyTree, Array], Array],
  *,
  radius: ArrayLike,
  temperature: ArrayLike = 1.0,
  rate: ArrayLike = 0.9,
  barrier: ArrayLike = 1e-3,
  num_steps: int = 10,
  stepsize: ArrayLike = 0.5,
  bounds: tuple[ArrayLike, ArrayLike] = (0.0, 1.0),
  implicit: str = "diagonal",
  loss: Callable[..., Array] = cross_entropy_loss,
  attack_loss: Callable[..., Array] | None = None,
) -> Callable[..., tuple[tuple[Array, DoneInfo], PyTree, DoneState]]:
  r"""Gradient of the doubly robust objective (DONE): attacked examples, worst-case weights.

  The objective is r log( (1/M) sum_i exp(l_i(theta, d_i) / r) ), which is the maximum over weights
  w in the simplex of sum_i w_i l_i - r sum_i w_i log(M w_i), where l_i(theta, d) is the loss of
  example i perturbed by d, d_i maximises the attack's loss plus a log barrier on the box of allowed
  perturbations, and r = temperature. On a batch of B examples the weights are
  a_i = exp(l_i / r) / (B u) with the moving average u <- (1 - rate) u + rate mean_i exp(l_i / r),
  and the gradient is sum_i a_i (dl_i/dtheta + what the dependence of d_i on theta adds).

  Args:
    apply_fn: ``apply_fn(params, x) -> float[batch, classes]``, row by row (no batch statistics).
    radius: > 0, largest change of an entry, a scalar or float[batch]; may be traced.
    temperature: > 0 and finite, the paper's r, a scalar; may be traced. Large: plain adversarial
      training. Small: the largest loss alone.
    rate: in (0, 1], the weight of the new batch, the paper's nu, a scalar; may be traced.
    barrier: > 0, weight of the log barrier, a scalar; may be traced.
    num_steps: static integer >= 1, steps of the attack.
    stepsize: > 0, of the attack, a scalar; may be traced.
    bounds: (low, high) of the entries of x, as in ``perturbation_box``.
    implicit: how the dependence of the perturbation on the parameters is differentiated: "diagonal"
      (with the barrier's Hessian), "full" (with the whole Hessian, for small examples) or "none"
      (not at all, as in plain adversarial training).
    loss: ``loss(logits, labels, where=...) -> float[batch]``.
    attack_loss: the same, what the attack maximises; ``loss`` by default.

  Returns:
    ``fn(params, state, x, labels, key, *, where=None) -> ((objective, info), grads, state)`` with a
    DoneState, a DoneInfo, and gradients like ``params`` for any optimizer. Rows where the mask is
    false have weight 0; with none left, or a loss that is NaN, the state stays as it was.

  Raises:
    ValueError: radius, temperature, rate, barrier, stepsize or num_steps out of range, or an
      unknown ``implicit``; when called, shapes that do not agree or a known label out of range.
    TypeError: a function is not callable or num_steps is not an integer; when called, x is not
      floating-point or key is not a typed key.

  Note:
    Pixels at a bound may leave it by 1e-3 (``perturbation_box``). The implicit term costs about as
    much as the gradient itself; it is small where the barrier is.

  Example:
    >>> linear = lambda weights, x: x @ weights
    >>> step = done_value_and_grad(linear, radius=0.1, rate=1.0)
    >>> x, labels = jnp.array([[0.9, 0.2], [0.4, 0.6]]), jnp.array([0, 0])
    >>> (value, info), grads, state = step(
    ...   jnp.eye(2), done_init(), x, labels, jax.random.key(0)
    ... )
    >>> np.round(np.float64(info.weights), 2).tolist()
    [0.39, 0.61]

  Reference:
    Sow, Lin, Wang and Liang, Doubly robust instance-reweighted adversarial training, 2024, its
    compositional form (equation 6) and barrier (equation 7). The diagonal Hessian, the attack's
    preconditioner and the logarithmic form of the average are ours.
  """
  _arguments.check_callable("apply_fn", apply_fn)
  _arguments.check_callable("loss", loss)
  inner_loss = loss if attack_loss is None else attack_loss
  _arguments.check_callable("attack_loss", inner_loss)
  _arguments.check_option("implicit", implicit, ("diagonal", "full", "none"))
  num_steps = _checks.check_int("num_steps", num_steps, minimum=1)
  _checks.check_positive("radius", radius)
  for name, value in (("temperature", temperature), ("rate", rate)):
    _checks.check_array(name, value, rank=0)
  _checks.check_interval("temperature", temperature, 0.0, float("inf"), closed="neither")
  _checks.check_interval("rate", rate, 0.0, 1.0, closed="right")
  _checks.check_positive("barrier", barrier)
  _checks.check_positive("stepsize", stepsize)

  def value_and_grad(
    params: PyTree,
    state: DoneState,
    x: ArrayLike,
    labels: ArrayLike,
    key: ArrayLike,
    *,
    where: ArrayLike | None = None,
  ) -> tuple[tuple[Array, DoneInfo], PyTree, DoneState]:
    state = _arguments.check_state("state", state, DoneState)
    clean = _checks.check_float_array("x", x, min_rank=1)
    mask = _checks.check_mask("where", where, shape=clean.shape[:1])
    if mask is not None:
      clean = jnp.where(mask.reshape(-1, *(1,) * (clean.ndim - 1)), clean, 0)
    box = log_barrier.perturbation_box(clean, radius, low=bounds[0], high=bounds[1])
    frozen = jax.lax.stop_gradient(params)

    def attacked(kind: Callable[..., Array], params: PyTree, d: Array) -> Array:
      return kind(apply_fn(params, clean + d), labels, where=mask)

    d = log_barrier.log_barrier_attack(
      lambda d: attacked(inner_loss, frozen, d),
      box,
      key,
      num_steps=num_steps,
      stepsize=stepsize,
      barrier=barrier,
    )

    def outer(d: Array) -> tuple[Array, Array]:
      values = attacked(loss, frozen, d)
      return jnp.sum(values), values

    slope, values = jax.grad(outer, has_aux=True)(d)
    weights, objective, state = _reweigh(values, state, temperature, rate, mask)
    kept = weights != 0  # a weight of 0 (a row that is masked out, say) meets no infinite number

    def surrogate(params: PyTree) -> Array:
      total = attacked(loss, params, d)
      if implicit != "none":
        q = log_barrier.implicit_direction(
          lambda d: attacked(inner_loss, frozen, d),
          box,
          d,
          slope,
          barrier=barrier,
          hessian=implicit,
        )
        objective = lambda params, d: attacked(inner_loss, params, d)
        total = total + log_barrier.implicit_term(objective, params, d, q)
      return jnp.sum(jnp.where(kept, weights.astype(total.dtype) * total, 0))

    grads = jax.grad(surrogate)(params)
    return (objective, DoneInfo(objective, weights, values, d)), grads, state

  return value_and_grad


def _reweigh(
  losses: Array, state: DoneState, temperature: ArrayLike, rate: ArrayLike, where: Array | None
) -> tuple[Array, Array, DoneState]:
  """Weights of the examples, the objective, and the state with its average moved."""
  wide = jax.lax.stop_gradient(numerics.upcast(losses))
  r = jnp.asarray(temperature, wide.dtype)
  fresh = kl_dro(wide, r, where=where) / r  # log mean exp(l / r), accurate for any r
  average = numerics.log_average(state.log_average, fresh, rate)
  is_empty = jnp.asarray(False) if where is None else ~jnp.any(where)
  weights = kl_dro_weights(wide, r, where=where) * jnp.exp(fresh - average)
  is_kept = jnp.isnan(average) | is_empty
  stored = jnp.where(is_kept, state.log_average, average.astype(state.log_average.dtype))
  objective = jnp.where(is_empty, 0, r * average)
  return weights, objective, DoneState(stored, state.steps + jnp.where(is_kept, 0, 1))
