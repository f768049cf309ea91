"""Learned proximal operators: gradients of convex potentials, and the loss that trains them."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxopt_robust import _arguments, _checks
from jaxopt_robust.numerics import upcast
from jaxopt_robust.prox._common import start_array
from jaxopt_robust.typing import Array, ArrayLike, PyTree

__all__ = [
  "make_patch_potential",
  "make_prox_from_potential",
  "matching_schedule",
  "proximal_matching_loss",
]


def scalar_potential(potential: Callable[..., Any], params: PyTree, x: Array) -> Array:
  """The potential of one sample, which must be a real scalar."""
  value = potential(params, x)
  if not hasattr(value, "dtype") or jnp.shape(value) != ():
    shape = f"shape {jnp.shape(value)}" if hasattr(value, "dtype") else f"{type(value).__name__}"
    raise ValueError(
      f"potential(params, x) must be a scalar for one sample x of shape {x.shape}; got {shape}. "
      "Batches are for jax.vmap."
    )
  if not jnp.issubdtype(value.dtype, jnp.floating):
    raise TypeError(f"potential(params, x) must be a real number; got {value.dtype}.")
  return value


def gradient_of(potential: Callable[..., Any], params: PyTree, x: Array) -> Array:
  """The gradient of a potential in x, in the dtype of x."""
  grad = jax.grad(lambda v: scalar_potential(potential, params, v))
  return grad(upcast(x)).astype(x.dtype)


def make_prox_from_potential(potential: Callable[..., Any]) -> Callable[..., Array]:
  r"""Turns a convex potential, such as an input-convex network, into a proximal operator.

  The gradient f = grad psi of a convex differentiable psi is the proximal operator of a function,
  convex or not:

    f(x) = argmin_y 1/2 ||y - x||_2^2 + R(y),    R(y) = sup_z (<z, y> - psi(z)) - 1/2 ||y||_2^2,

  and every continuous proximal operator is such a gradient. Trained as a denoiser it is an operator
  for plug-and-play reconstruction whose regulariser exists and can be evaluated:
  ``solvers.invert_potential``, ``solvers.potential_regularizer``.

  Args:
    potential: ``potential(params, x) -> scalar``, convex and once differentiable in x (which is not
      checked), such as ``nets.ICNN(...).apply``.

  Returns:
    ``prox(x, hyperparams=None, scaling=1.0) -> x_like``: x is one float array, hyperparams are the
    parameters of the potential. The scaling does not matter, as with a projection: at every step
    size s the result is the operator of s (R / s), so that a proximal gradient method of step s
    minimises f + R / s. For the operator of s R itself see ``solvers.make_potential_penalty``.

  Raises:
    TypeError: when ``potential`` is not a function or not real; the operator, when x is not real.
    ValueError: the operator, when the potential is no scalar.

  Note:
    1/2 ||y||^2 + R(y) is the convex conjugate of psi, so that R is 1-weakly convex. Computed in
    float32 at least. Derivatives in x and in the parameters are those of JAX: training is reverse
    over reverse mode.

  Example:
    >>> huber = lambda lam, x: 0.5 * jnp.sum(jax.nn.relu(jnp.abs(x) - lam) ** 2)
    >>> prox = make_prox_from_potential(huber)  # the gradient is soft thresholding
    >>> prox(jnp.array([-3.0, 0.5, 2.0]), 1.0)
    Array([-2.,  0.,  1.], dtype=float32)

  Reference:
    Fang, Buchanan and Sulam, What's in a prior? Learned proximal networks for inverse problems,
    2024 (learned proximal networks); Gribonval and Nikolova, A characterization of proximity
    operators, 2020, theorem 1.
  """
  _arguments.check_callable("potential", potential)

  def prox(x: ArrayLike, hyperparams: Any = None, scaling: ArrayLike = 1.0) -> Array:
    return gradient_of(potential, hyperparams, start_array(x, scaling))

  return prox


def make_patch_potential(
  potential: Callable[..., Any], *, patch: tuple[int, int], stride: int = 1
) -> Callable[..., Array]:
  r"""The potential of an image whose gradient averages what overlapping patches become.

  Psi(x) = (1/c) sum_p psi(P_p x) over all patches p at a stride, periodic at the borders, c the
  number of patches that cover a pixel. Its gradient (1/c) sum_p P_p^T grad psi(P_p x) is the mean
  of the processed patches at every pixel: the usual average over overlaps, still the gradient of a
  convex function and so the proximal operator of a regulariser of whole images.

  Args:
    potential: ``potential(params, x) -> scalar`` of a patch x: float[rows, cols], convex in x.
    patch: (rows, cols) of a patch, static; divides the image.
    stride: >= 1, static, between patches; divides the sides of a patch.

  Returns:
    ``image_potential(params, x) -> scalar`` for one image x: float[height, width].

  Raises:
    TypeError: when ``potential`` is not a function, or a size no static integer.
    ValueError: when the stride does not divide the patch, or (when called) the patch does not
      divide the image.

  Note:
    Where psi is alpha-strongly convex, so is Psi. For reflecting borders extend the image first,
    ``lambda params, x: image_potential(params, jnp.pad(x, [(0, n), (0, n)], "symmetric")) / 4``:
    each pixel appears four times, and the gradient is again an average.

  Example:
    >>> half_square = lambda params, x: 0.5 * jnp.sum(x**2)  # the identity as its gradient
    >>> image_potential = make_patch_potential(half_square, patch=(2, 2))
    >>> float(image_potential(None, jnp.ones((4, 4))))
    8.0

  Reference:
    Zoran and Weiss, From learning models of natural image patches to whole image restoration, 2011
    (priors of overlapping patches); the form as one potential is ours.
  """
  _arguments.check_callable("potential", potential)
  if not isinstance(patch, tuple | list) or len(patch) != 2:
    raise ValueError(f"patch must be a pair of integers; got {_checks.describe(patch)}.")
  rows, cols = (_checks.check_int("patch", side, minimum=1) for side in patch)
  stride = _checks.check_int("stride", stride, minimum=1)
  if rows % stride or cols % stride:
    raise ValueError(f"stride must divide the sides of a patch, {(rows, cols)}; got {stride}.")

  def image_potential(params: PyTree, x: ArrayLike) -> Array:
    image = _checks.check_float_array("x", x, rank=2)
    height, width = image.shape
    if height % rows or width % cols:
      raise ValueError(f"patch must divide the image, {image.shape}; got {(rows, cols)}.")
    shifts = [(i, j) for i in range(0, rows, stride) for j in range(0, cols, stride)]
    # A shifted copy is cut into tiles: slices and reshapes, no gather, and few of them.
    wrapped = jnp.pad(image, ((0, rows), (0, cols)), mode="wrap")
    tiles = jnp.stack([wrapped[i : i + height, j : j + width] for i, j in shifts])
    tiles = tiles.reshape(len(shifts), height // rows, rows, width // cols, cols)
    tiles = jnp.swapaxes(tiles, 2, 3).reshape(-1, rows, cols)
    values = jax.vmap(lambda tile: scalar_potential(potential, params, tile))(tiles)
    return jnp.sum(values) / len(shifts)

  return image_potential


def proximal_matching_loss(
  predictions: ArrayLike, targets: ArrayLike, *, gamma: ArrayLike, where: ArrayLike | None = None
) -> Array:
  r"""Proximal matching: a loss whose minimiser tends to the most probable value, not to a mean.

  l_i = 1 - exp(-||predictions_i - targets_i||_2^2 / gamma^2), with the norm over all entries of a
  sample. As gamma -> 0 the best prediction of a target x given its noisy version y is the mode of
  the posterior, that is the proximal operator of -sigma^2 log p for noise of variance sigma^2 and
  a density p; the squared loss gives the posterior mean and the absolute loss its median.

  Args:
    predictions: float[batch, ...].
    targets: float[batch, ...], of the same shape.
    gamma: > 0, the width, in the units of a sample's norm: it must grow with the square root of
      the number of entries. A scalar; may be traced.
    where: bool[batch]; the loss is 0 where it is false.

  Returns:
    float[batch], in [0, 1].

  Raises:
    TypeError: when predictions or targets are not real.
    ValueError: when the shapes differ, there is no batch axis, or gamma is not positive.

  Note:
    As gamma -> infinity, gamma^2 l_i -> ||predictions_i - targets_i||^2. Errors far above gamma
    have no gradient: train with the absolute loss first, then let gamma fall
    (``matching_schedule``).

  Example:
    >>> x = jnp.array([[3.0, 4.0], [0.0, 0.0]])
    >>> proximal_matching_loss(x, jnp.zeros((2, 2)), gamma=5.0).round(3)  # 1 - 1/e, 0
    Array([0.632, 0.   ], dtype=float32)

  Reference:
    Fang, Buchanan and Sulam, What's in a prior? Learned proximal networks for inverse problems,
    2024 (proximal matching). They write the same with a constant factor that depends on gamma.
  """
  predicted = _checks.check_float_array("predictions", predictions, min_rank=1, non_empty=False)
  target = _checks.check_float_array("targets", targets, min_rank=1, non_empty=False)
  _checks.check_same_shape("predictions", predicted, "targets", target)
  _checks.check_positive("gamma", gamma, scalar=True)
  mask = _checks.check_mask("where", where, shape=predicted.shape[:1])
  dtype = jnp.result_type(predicted.dtype, target.dtype)
  off = upcast(predicted) - upcast(target)
  off = (off / jnp.asarray(gamma, off.dtype)).reshape(off.shape[0], -1)
  if mask is not None:
    off = jnp.where(mask[:, None], off, 0)  # before the square: what is masked may be NaN
  return -jnp.expm1(-jnp.sum(off**2, axis=1)).astype(dtype)


def matching_schedule(
  gamma_min: ArrayLike, *, num_steps: int, stages: int = 4
) -> Callable[[ArrayLike], Array]:
  r"""Widths of the proximal matching loss that are halved from stage to stage.

  gamma(k) = gamma_min 2^(stages - 1 - s), s = min(floor(k stages / num_steps), stages - 1).

  Args:
    gamma_min: > 0, the last width; for images 0.08 times the square root of their number of entries
      is the paper's. A scalar; may be traced.
    num_steps: >= stages, static, optimizer steps in all.
    stages: >= 1, static.

  Returns:
    ``gamma(count) -> scalar``, as optax's schedules.

  Raises:
    TypeError: when a count is no static integer.
    ValueError: when ``gamma_min`` is not positive, or there are fewer steps than stages.

  Example:
    >>> gamma = matching_schedule(0.5, num_steps=90, stages=3)
    >>> [float(gamma(k)) for k in (0, 29, 30, 89, 1000)]
    [2.0, 2.0, 1.0, 0.5, 0.5]

  Reference:
    Fang, Buchanan and Sulam, What's in a prior? Learned proximal networks for inverse problems,
    2024 (the schedule of their image networks).
  """
  _checks.check_positive("gamma_min", gamma_min, scalar=True)
  least = _checks.check_float_array("gamma_min", gamma_min, rank=0)
  stages = _checks.check_int("stages", stages, minimum=1)
  num_steps = _checks.check_int("num_steps", num_steps, minimum=stages)
  # The first step of each stage but the first: products of counts would overflow 32 bits.
  starts = jnp.asarray([-(-j * num_steps // stages) for j in range(1, stages)], jnp.int32)

  def gamma(count: ArrayLike) -> Array:
    stage = jnp.sum(jnp.asarray(count) >= starts) if stages > 1 else jnp.zeros((), jnp.int32)
    return jnp.ldexp(least, stages - 1 - stage)

  return gamma
