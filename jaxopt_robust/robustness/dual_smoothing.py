"""Dual randomized smoothing: an image as two sub-images, each smoothed in half the dimension."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxopt_robust import _arguments, _checks, numerics
from jaxopt_robust.losses.noise_robust import cross_entropy_loss
from jaxopt_robust.robustness import _float64
from jaxopt_robust.robustness.smoothing import (
  Certificate,
  SmoothingVotes,
  certificate,
  check_votes,
  possible,
  smoothing_votes,
)
from jaxopt_robust.robustness.smoothing_training import consistency_smoothing_loss
from jaxopt_robust.typing import Array, ArrayLike, PyTree

__all__ = [
  "certify_dual_votes",
  "checkerboard_masks",
  "dual_radius",
  "dual_smoothing_loss",
  "dual_smoothing_votes",
  "sub_image",
]

ApplyFn = Callable[[PyTree, Array], Array]
_FILLS = ("zero", "block_max")


def checkerboard_masks(height: int, width: int) -> Array:
  r"""The two colours of a checkerboard: pixels with i + j even, and those with i + j odd.

  In each block of 2 x 2 pixels either mask holds one diagonal.

  Args:
    height: static integer >= 1, rows.
    width: static integer >= 1, columns; not both 1.

  Returns:
    bool[2, height, width]; each pixel is true in exactly one of the two.

  Raises:
    ValueError: a size is < 1, or there is one pixel only.
    TypeError: a size is not an integer.

  Example:
    >>> checkerboard_masks(2, 3)[0].astype(int)
    Array([[1, 0, 1],
           [0, 1, 0]], dtype=int32)

  Reference:
    Xia, Yu, Jiang and Ding, Mitigating the curse of dimensionality for certified robustness via
    dual randomized smoothing, 2024; the same parity in every column, unlike in the authors' code.
  """
  height = _checks.check_int("height", height, minimum=1)
  width = _checks.check_int("width", width, minimum=1)
  if height * width < 2:
    raise ValueError("height and width must give at least two pixels; got 1 x 1.")
  is_odd = (np.arange(height)[:, None] + np.arange(width)) % 2 == 1
  return jnp.asarray(np.stack([~is_odd, is_odd]))


def sub_image(x: ArrayLike, mask: ArrayLike, *, fill: str = "zero") -> Array:
  r"""One of the sub-images at full size: pixels that the mask leaves out are 0.

  Computes x on the mask and 0 elsewhere; with fill "block_max" the maximum of each block of 2 x 2
  pixels of that, channel by channel, is added to the pixels of the mask.

  Args:
    x: float[..., height, width, channels].
    mask: bool[height, width], shared by all channels.
    fill: "zero" or "block_max" (the authors' choice; height and width must be even).

  Returns:
    An array like ``x``; it depends on the pixels of the mask alone.

  Raises:
    ValueError: x has fewer than three axes, the mask has another shape, or an unknown fill.
    TypeError: x is not floating-point or the mask is not boolean.

  Example:
    >>> x = jnp.arange(4.0).reshape(2, 2, 1)
    >>> sub_image(x, checkerboard_masks(2, 2)[1])[..., 0]
    Array([[0., 1.],
           [2., 0.]], dtype=float32)

  Reference:
    Xia, Yu, Jiang and Ding, Mitigating the curse of dimensionality for certified robustness via
    dual randomized smoothing, 2024; the fill is that of the authors' code.
  """
  image = _checks.check_float_array("x", x, min_rank=3, non_empty=False)
  _arguments.check_option("fill", fill, _FILLS)
  where = _checks.check_mask("mask", mask, shape=image.shape[-3:-1])
  if where is None:
    raise TypeError("mask must be a boolean mask; got None.")
  where = jnp.broadcast_to(where[..., None], image.shape)
  kept = jnp.where(where, image, 0)
  if fill == "zero":
    return kept
  *lead, height, width, channels = image.shape
  if height % 2 or width % 2:
    raise ValueError(f"x must have even sizes for fill='block_max'; got {image.shape}.")
  blocks = kept.reshape(*lead, height // 2, 2, width // 2, 2, channels)
  most = jnp.broadcast_to(jnp.max(blocks, axis=(-4, -2), keepdims=True), blocks.shape)
  return kept + jnp.where(where, most.reshape(image.shape), 0)


def _branches(x: Array, masks: ArrayLike | None, sigma: ArrayLike) -> tuple[Array, Array]:
  """Masks bool[2, height, width] and deviations float[2] of the two sub-images."""
  shape = (2, *x.shape[-3:-1])
  if masks is None:
    both = checkerboard_masks(*shape[1:])
  else:
    both = jnp.asarray(_checks.check_mask("masks", masks, shape=shape))
    _checks.check_holds(both[0] != both[1], "masks must hold each pixel in exactly one of the two.")
  _check_sigma(sigma)
  return both, jnp.broadcast_to(jnp.asarray(sigma, numerics.upcast(x).dtype), (2,))


def _check_sigma(sigma: ArrayLike) -> None:
  _checks.check_positive("sigma", sigma)
  if np.shape(sigma) not in ((), (2,)):
    raise ValueError(f"sigma must be a scalar or have shape (2,); got {np.shape(sigma)}.")


def _check_params(params: PyTree) -> PyTree:
  shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(params)]
  if any(shape[:1] != (2,) for shape in shapes):
    raise ValueError(f"params must have a leading axis of the two sub-images; got shapes {shapes}.")
  return params


def dual_smoothing_votes(
  apply_fn: ApplyFn,
  params: PyTree,
  x: ArrayLike,
  key: ArrayLike,
  *,
  sigma: ArrayLike,
  num_samples: int = 100_000,
  num_selection: int = 200,
  masks: ArrayLike | None = None,
  fill: str = "zero",
  batch_size: int = 500,
  axis_name: str | None = None,
) -> SmoothingVotes:
  r"""Votes of two classifiers, each on its noisy sub-image of one image.

  Counts n_{s,c} = sum_i 1[argmax_k f_s(S_s(x + sigma_s e_{s,i}))_k = c] for both sub-images s, S_s
  the image without the pixels of the other one: num_selection votes, and num_samples fresh ones.

  Args:
    apply_fn: ``apply_fn(params_s, images) -> scores [batch, classes]``, row by row.
    params: pytree of arrays with a leading axis of two, the parameters of f_1 and f_2.
    x: float[height, width, channels], one image: use ``jax.vmap`` or ``jax.lax.map`` over images
      and keys.
    key: typed PRNG key; each sub-image and each set of votes gets a key of its own.
    sigma: > 0, standard deviation of the noise in the units of ``x``, a scalar or float[2], one a
      sub-image; may be traced.
    num_samples: static integer >= 1, votes of each sub-image.
    num_selection: static integer >= 1.
    masks: bool[2, height, width], each pixel in exactly one of them; by default
      ``checkerboard_masks``.
    fill: as in ``sub_image``.
    batch_size: static integer >= 1, noisy copies evaluated at once.
    axis_name: as in ``vote_counts``.

  Returns:
    ``SmoothingVotes`` of int32[2, classes], for ``certify_dual_votes``.

  Raises:
    ValueError: sigma <= 0, a size < 1, masks that are no partition, parameters without an axis of
      two, or scores of another shape.
    TypeError: x is not floating-point, key is not a typed key, or apply_fn is not callable.

  Note:
    For two different networks stack ``smoothing_votes`` of each sub-image, from their own keys.

  Example:
    >>> def mean(scale, x):
    ...   total = scale * x.sum((1, 2, 3))
    ...   return jnp.stack([total, -total], axis=1)
    >>> x = jnp.full((4, 4, 1), 0.5)
    >>> votes = dual_smoothing_votes(
    ...   mean, jnp.ones(2), x, jax.random.key(0), sigma=0.5, num_samples=1000)
    >>> found = certify_dual_votes(votes, num_samples=1000, sigma=0.5)
    >>> int(found.label), bool(found.radius < 2.0)  # the distance from a mean of 0 is 2
    (0, True)

  Reference:
    Xia, Yu, Jiang and Ding, Mitigating the curse of dimensionality for certified robustness via
    dual randomized smoothing, 2024.
  """
  _arguments.check_callable("apply_fn", apply_fn)
  image = _checks.check_float_array("x", x, rank=3)
  key = _checks.check_key("key", key)
  _arguments.check_option("fill", fill, _FILLS)
  both, scale = _branches(image, masks, sigma)

  def votes_of(branch: tuple[PyTree, Array, Array, Array]) -> SmoothingVotes:
    weights, mask, deviation, own = branch
    # Noise on the pixels of the other sub-image is masked out with them.
    return smoothing_votes(
      lambda images: apply_fn(weights, sub_image(images, mask, fill=fill)),
      image, own, sigma=deviation, num_samples=num_samples, num_selection=num_selection,
      batch_size=batch_size, axis_name=axis_name,
    )  # fmt: skip

  # One after the other: kernels with an axis of their own would make slow grouped convolutions.
  return jax.lax.map(votes_of, (_check_params(params), both, scale, jax.random.split(key)))


def dual_radius(lower: ArrayLike, *, sigma: ArrayLike) -> Array:
  r"""l2 radius that the probabilities of one class on two sub-images certify together.

  Computes max(0, (Phi^{-1}(p_1) + Phi^{-1}(p_2)) / sqrt(1 / s_1^2 + 1 / s_2^2)), which is
  (sigma / sqrt(2)) (Phi^{-1}(p_1) + Phi^{-1}(p_2)) where both deviations s are sigma. Either
  quantile may be negative.

  Args:
    lower: float[..., 2] in [0, 1], lower bounds p_1 and p_2 on the probability of the same class.
    sigma: > 0, standard deviation of the noise, a scalar or float[2], one a sub-image.

  Returns:
    float[...]: float64 where JAX has it, otherwise the largest float32 that is not above the
    radius. It is positive where p_1 + p_2 > 1, and 0 elsewhere.

  Raises:
    ValueError: the last axis is not of two, a probability is not in [0, 1] or sigma <= 0.
    TypeError: an argument is no real number; or it is traced and JAX has no float64.

  Note:
    The decision is that of p_1 + p_2. The smallest attack that makes the sum of a class reach 1
    has the share s_1^2 : s_2^2 of both sub-images, and this length: the radius is tight for linear
    classifiers. The rule sqrt(r_1^2 + r_2^2) with single radii, and the sum with negative quantiles
    clipped to 0, are larger and certify nothing: at margins -.2 and 1 with sigma = .5 they say 1
    and .707, where a change of .566 turns the decision.

  Example:
    >>> print(f"{dual_radius([0.9, 0.9], sigma=0.5):.3f}")  # sqrt(2) times the single radius
    0.906
    >>> print(f"{dual_radius([0.5, 0.9], sigma=0.5):.3f}")
    0.453

  Reference:
    Xia, Yu, Jiang and Ding, Mitigating the curse of dimensionality for certified robustness via
    dual randomized smoothing, 2024, the theorem on the certified radius; two deviations are ours.
  """
  _checks.check_interval("lower", lower, 0, 1)
  _check_sigma(sigma)
  if np.shape(lower)[-1:] != (2,):
    raise ValueError(f"lower must have a last axis of two; got shape {np.shape(lower)}.")
  (p, s), known = _float64.numbers(lower=lower, sigma=sigma)
  lib: Any = np if known else jnp
  s = lib.where(s > 0, s, lib.nan)
  # At p = 0 and p = 1 together nothing is certified: infinities of both signs stay out.
  is_certified = lib.sum(p, axis=-1) > 1
  q = _float64.normal_quantile(lib.where(is_certified[..., None], p, 0.5), known)
  smaller, larger = lib.min(s, axis=-1), lib.max(s, axis=-1)  # no square that overflows
  scale = smaller / lib.sqrt(1 + (smaller / larger) ** 2)
  return _float64.round_down(lib.maximum(scale * lib.sum(q, axis=-1), 0.0))


def certify_dual_votes(
  votes: SmoothingVotes, *, num_samples: int, sigma: ArrayLike, alpha: ArrayLike = 0.001
) -> Certificate:
  r"""Class and certified l2 radius of dual randomized smoothing, from its votes.

  Takes A = argmax_c (selection_{1,c} + selection_{2,c}), p_s the Clopper-Pearson lower bound at
  level alpha / 2 from counts_{s,A} of num_samples, and their ``dual_radius``; where that is 0, at
  p_1 + p_2 <= 1, it abstains.

  Args:
    votes: ``SmoothingVotes``, or a pair (selection, counts) of int[..., 2, classes] from different
      keys.
    num_samples: static integer >= 1, the draws behind ``counts`` of each sub-image.
    sigma: > 0, standard deviation of the noise, a scalar or float[2], one a sub-image.
    alpha: in (0, 1), the probability of a wrong certificate for each image, a scalar.

  Returns:
    ``Certificate`` of arrays of the votes' leading shape, ``lower`` with the two bounds.

  Raises:
    ValueError: shapes do not agree, counts that are negative or sum to more than num_samples,
      sigma <= 0 or alpha is not in (0, 1).
    TypeError: votes are not integers; or they are traced and JAX has no float64.

  Note:
    Each bound may fail in half of alpha (the authors' code spends all of alpha on each). See
    ``certify_votes`` for rounding.

  Example:
    >>> votes = jnp.array([[[90, 10], [55, 45]]]), jnp.array([[[950, 50], [450, 550]]])
    >>> found = certify_dual_votes(votes, num_samples=1000, sigma=0.5)
    >>> print(f"{found.label[0]} {found.radius[0]:.3f}")
    0 0.414

  Reference:
    Xia, Yu, Jiang and Ding, Mitigating the curse of dimensionality for certified robustness via
    dual randomized smoothing, 2024.
  """
  selection, counts = check_votes(votes, num_samples, min_rank=2)
  if counts.shape[-2] != 2:
    raise ValueError(f"votes must have shape [..., 2, classes]; got {counts.shape}.")
  _checks.check_interval("alpha", alpha, 0, 1, closed="neither", scalar=True)
  label = jnp.argmax(jnp.sum(selection, axis=-2), axis=-1).astype(jnp.int32)
  place = jnp.broadcast_to(label[..., None, None], (*counts.shape[:-1], 1))
  top = jnp.take_along_axis(counts, place, axis=-1)[..., 0]
  top = possible(top, counts, num_samples)
  (k, n, level), known = _float64.numbers(votes=top, num_samples=num_samples, alpha=alpha)
  lower = _float64.beta_lower(k, n, level / 2, known)
  is_certified = (np if known else jnp).sum(lower, axis=-1) > 1
  return certificate(label, is_certified, lower, dual_radius(lower, sigma=sigma), alpha)


def dual_smoothing_loss(
  apply_fn: ApplyFn,
  params: PyTree,
  x: ArrayLike,
  labels: ArrayLike,
  key: ArrayLike,
  *,
  sigma: ArrayLike,
  num_copies: int = 1,
  kl_weight: ArrayLike = 0.0,
  entropy_weight: ArrayLike = 0.0,
  loss: Callable[..., Array] = cross_entropy_loss,
  masks: ArrayLike | None = None,
  fill: str = "zero",
  where: ArrayLike | None = None,
) -> Array:
  r"""Training loss of the two classifiers, each on its noisy sub-images.

  Computes the sum over both sub-images s of ``consistency_smoothing_loss`` of f_s at S_s(x), under
  noise of deviation sigma_s.

  Args:
    apply_fn: ``apply_fn(params_s, images) -> float[rows, classes]``.
    params: pytree of arrays with a leading axis of two, the parameters of f_1 and f_2.
    x: float[batch, height, width, channels] clean images.
    labels: int[batch] classes.
    key: typed PRNG key for the noise.
    sigma: > 0, standard deviation of the noise in the units of ``x``, a scalar or float[2], one a
      sub-image; may be traced.
    num_copies: static integer >= 1, noisy copies of each image.
    kl_weight: >= 0, weight of the divergence between copies, a scalar; may be traced.
    entropy_weight: >= 0, weight of the entropy of their mean, a scalar; may be traced.
    loss: ``loss(logits, labels, where=...) -> float[rows]``.
    masks: as in ``dual_smoothing_votes``.
    fill: as in ``sub_image``.
    where: bool[batch]; images where it is false have value 0 and gradient 0.

  Returns:
    float[batch] one loss an image, in the dtype of the logits.

  Raises:
    ValueError: shapes do not agree, a known label is out of range, num_copies < 1, sigma <= 0, a
      weight is negative, masks that are no partition, or parameters without an axis of two.
    TypeError: x is not floating-point, key is not a typed key, or a function is not callable.

  Note:
    The paper's second mode has 4 copies, kl_weight 15 and entropy_weight .75, after networks that
    were trained on whole noisy images.

  Example:
    >>> def mean(scale, x):
    ...   total = scale * x.sum((1, 2, 3))
    ...   return jnp.stack([total, -total], axis=1)
    >>> x, labels = jnp.full((2, 4, 4, 1), 0.5), jnp.array([0, 1])
    >>> values = dual_smoothing_loss(mean, jnp.ones(2), x, labels, jax.random.key(0), sigma=0.1)
    >>> bool(values[0] < values[1])
    True

  Reference:
    Xia, Yu, Jiang and Ding, Mitigating the curse of dimensionality for certified robustness via
    dual randomized smoothing, 2024, section on training.
  """
  _arguments.check_callable("apply_fn", apply_fn)
  images = _checks.check_float_array("x", x, rank=4)
  key = _checks.check_key("key", key)
  _arguments.check_option("fill", fill, _FILLS)
  both, scale = _branches(images, masks, sigma)
  weights = _check_params(params)

  def branch(s: int, own: Array) -> Array:
    def apply(weights: PyTree, v: Array) -> Array:
      return apply_fn(weights, sub_image(v, both[s], fill=fill))

    return consistency_smoothing_loss(
      apply, jax.tree.map(lambda leaf: leaf[s], weights), images, labels, own, sigma=scale[s],
      num_copies=num_copies, kl_weight=kl_weight, entropy_weight=entropy_weight, loss=loss,
      where=where,
    )  # fmt: skip

  keys = jax.random.split(key)
  return branch(0, keys[0]) + branch(1, keys[1])
