"""A plane between the features of noisy and of clean examples, from uncertain labels of both."""

import jax
import jax.numpy as jnp
import optax

from jaxopt_robust import _checks, numerics
from jaxopt_robust.solvers.drive import run_until
from jaxopt_robust.solvers.optax_link import from_optax
from jaxopt_robust.solvers.types import SolveInfo
from jaxopt_robust.typing import Array, ArrayLike

__all__ = ["linear_separation"]


def _separation_loss(
  params: tuple[Array, Array], x: Array, sign: Array, weights: Array, ridge: Array
) -> Array:
  slope, shift = params
  logits = jnp.matmul(x, slope, precision="highest") + shift
  return jnp.sum(weights * jax.nn.softplus(-sign * logits)) + 0.5 * ridge * jnp.sum(slope**2)


_SEPARATION = from_optax(_separation_loss, optax.lbfgs())


def linear_separation(
  features: ArrayLike,
  noisy: ArrayLike,
  *,
  ridge: ArrayLike = 1e-4,
  where: ArrayLike | None = None,
  tol: ArrayLike = 1e-4,
  max_steps: ArrayLike = 1000,
) -> tuple[Array, Array, SolveInfo]:
  r"""Plane between features of noisy and of clean examples (W), from uncertain labels of both.

  Minimises sum_i u_i log(1 + exp(-s_i (<a, x_i> + b))) + ridge / 2 ||a||_2^2 with s_i = 1 where
  noisy and -1 elsewhere, u_i = 1 / (2 n_s) for the n_s examples of the side of i, and x the
  features less their mean and divided by their deviation (both with the weights u). An example is
  on the noisy side where its logit is positive, whatever it was labelled.

  Args:
    features: float[n, d], of a network trained without labels, such as by contrast; the paper has
      rows of length 1.
    noisy: bool[n], such as what ``small_loss_mask`` finds.
    ridge: > 0, a scalar; may be traced.
    where: bool[n]; examples where it is false count for nothing and get False and 0.
    tol: >= 0, norm of the gradient at which the solve stops; may be traced.
    max_steps: >= 0, of L-BFGS; may be traced.

  Returns:
    ``(noisy, probability, info)``: bool[n], float[n] (the sigmoid of the logit) and SolveInfo.
    Where ``noisy`` has one side only, it is returned as it is.

  Raises:
    ValueError: shapes do not agree or a number is out of range.
    TypeError: features are not floating-point, or noisy or where not boolean.

  Note:
    Without a ridge the solution of sides that a plane separates is infinite; the reference stops
    at 1000 steps there. Repeating examples of one side changes nothing, nor do the units of a
    feature. Constant features count for nothing.

  Example:
    >>> x = jnp.array([[0.0], [0.1], [0.2], [1.0], [1.1], [0.9]])
    >>> guess = jnp.array([False, False, True, True, True, True])
    >>> linear_separation(x, guess, ridge=0.1)[0]
    Array([False, False, False,  True,  True,  True], dtype=bool)

  Reference:
    Albert, Valmadre, Arazo, Krishna, O'Connor and McGuinness, An accurate detection is not all you
    need to combat label noise in web-noisy datasets, 2024 (linear separation of out-of-distribution
    noise). The ridge and the weights in mean and deviation are ours.
  """
  array = _checks.check_float_array("features", features, rank=2)
  sides = check_flags(noisy, array.shape[:1])
  mask = _checks.check_mask("where", where, shape=array.shape[:1])
  _checks.check_positive("ridge", ridge, scalar=True)
  used = jnp.ones(sides.shape, jnp.bool_) if mask is None else mask
  x = jnp.where(used[:, None], numerics.upcast(array), 0)
  upper = used & sides
  count = jnp.stack([jnp.sum(used & ~sides), jnp.sum(upper)])
  both = jnp.all(count > 0)
  per_side = jnp.where(count > 0, 0.5 / jnp.maximum(count, 1), 0).astype(x.dtype)
  weights = jnp.where(used, jnp.where(sides, per_side[1], per_side[0]), 0)
  weights = numerics.safe_divide(weights, jnp.sum(weights))
  moved = _standardise(x, weights, used)
  start = (jnp.zeros(x.shape[1], x.dtype), jnp.zeros((), x.dtype))
  (slope, shift), info = run_until(
    _SEPARATION, start, None, moved, jnp.where(sides, 1, -1).astype(x.dtype),
    jnp.where(both, weights, 0), jnp.asarray(ridge, x.dtype), tol=tol, max_steps=max_steps,
  )  # fmt: skip
  logits = jnp.matmul(moved, slope, precision="highest") + shift
  found = used & jnp.where(both, logits > 0, sides)
  probability = jnp.where(both, jax.nn.sigmoid(logits), sides.astype(x.dtype))
  return found, jnp.where(used, probability, 0).astype(array.dtype), info


def _standardise(x: Array, weights: Array, used: Array) -> Array:
  """Columns of weighted mean 0 and deviation 1; constant ones are 0, as unused rows are."""
  base = x[jnp.argmax(used)]  # around some row first: constant columns are then exactly 0
  keep = lambda rows: jnp.where(used[:, None], rows, 0)
  moved = keep(x - base[None])
  moved = numerics.safe_divide(moved, jnp.max(jnp.abs(moved), axis=0)[None])
  mean = jnp.sum(weights[:, None] * moved, axis=0)
  moved = keep(moved - mean[None])
  deviation = jnp.sqrt(jnp.sum(weights[:, None] * moved**2, axis=0))
  return numerics.safe_divide(moved, deviation[None])


def check_flags(noisy: ArrayLike, shape: tuple[int, ...]) -> Array:
  """A boolean mask of the noisy examples; None is none."""
  flags = _checks.check_mask("noisy", noisy, shape=shape)
  if flags is None:
    raise TypeError("noisy must be a boolean mask; got None.")
  return flags
