"""Class proportions around each pixel or voxel of a label map."""

import jax
import jax.numpy as jnp

from jaxopt_robust import _arguments, _checks
from jaxopt_robust.typing import Array, ArrayLike

__all__ = ["neighbor_prior", "spatial_kernel"]

KINDS = ("mean", "gaussian", "svls")
PADDINGS = ("edge", "zeros")


def spatial_kernel(
  kind: str = "mean", *, size: int = 3, sigma: ArrayLike = 1.0, ndim: int = 2
) -> Array:
  r"""Weights of a neighbourhood, which sum to 1.

  With the Gaussian g_i proportional to exp(-||i||_2^2 / (2 sigma^2)) and of sum 1, "svls" gives the
  centre the weight 1/2 and shares the other half among the neighbours like g; "mean" gives all of
  them size^-ndim, the centre included.

  Args:
    kind: ``"mean"``, ``"gaussian"`` or ``"svls"``.
    size: static odd integer >= 3, pixels a side.
    sigma: > 0, a scalar; may be traced. Not used by ``"mean"``.
    ndim: static integer >= 1, 2 for images and 3 for volumes.

  Returns:
    float[size, ..., size] of ndim axes, in the default float.

  Raises:
    ValueError: an unknown kind, an even size or one below 3, ndim < 1 or sigma <= 0.
    TypeError: size or ndim is no integer.

  Note:
    The code of the authors of NACL calls the kernel of SVLS "gaussian".

  Example:
    >>> np.asarray(spatial_kernel("svls")).round(3)
    array([[0.047, 0.078, 0.047],
           [0.078, 0.5  , 0.078],
           [0.047, 0.078, 0.047]], dtype=float32)

  Reference:
    Islam and Glocker, Spatially varying label smoothing: capturing uncertainty from expert
    annotations, 2021, section 2; Murugesan et al., Neighbor-aware calibration of segmentation
    networks with penalty-based constraints, 2025.
  """
  _arguments.check_option("kind", kind, KINDS)
  size = _checks.check_int("size", size, minimum=3)
  ndim = _checks.check_int("ndim", ndim, minimum=1)
  if size % 2 == 0:
    raise ValueError(f"size must be odd; got {size}.")
  _checks.check_positive("sigma", sigma, scalar=True)
  dtype = jnp.result_type(float)
  shape = (size,) * ndim
  if kind == "mean":
    return jnp.full(shape, size**-ndim, dtype)
  axes = [jax.lax.broadcasted_iota(dtype, shape, axis) - size // 2 for axis in range(ndim)]
  square = sum((axis**2 for axis in axes), jnp.zeros(shape, dtype))
  weight = jnp.exp(-square / (2 * jnp.asarray(sigma, dtype) ** 2))
  if kind == "gaussian":
    return weight / jnp.sum(weight)
  others = jnp.where(square == 0, 0, weight)
  total = jnp.sum(others)  # 0 where a narrow Gaussian leaves the neighbours nothing
  return jnp.where(square == 0, 0.5, 0.5 * others / jnp.where(total > 0, total, 1))


def neighbor_prior(
  labels: ArrayLike,
  kernel: ArrayLike,
  *,
  num_classes: int,
  padding: str = "edge",
  where: ArrayLike | None = None,
) -> Array:
  r"""Weighted proportions of the classes around each pixel of a label map.

  Computes tau_k(i) = sum_j K_j 1[y_{i+j} = k] / sum_j K_j over the offsets j of the kernel.

  Args:
    labels: int[batch, *space] in [0, num_classes), with one, two, three, ... axes of space.
    kernel: float[size, ..., size] >= 0 with odd sizes and as many axes, such as
      ``spatial_kernel("mean")``; may be traced.
    num_classes: static integer >= 2.
    padding: ``"edge"`` repeats the labels at the border; with ``"zeros"`` what lies outside counts
      as no class, so that proportions at the border do not sum to 1.
    where: bool[batch, *space]; pixels where it is false belong to no neighbourhood, and are left
      out of the sum below too.

  Returns:
    float[batch, *space, num_classes], of the dtype of ``kernel`` and at least float32. Zeros where
    no pixel of a neighbourhood is kept. Under ``jit`` labels out of range count as no class.

  Raises:
    ValueError: shapes do not agree, a known label is out of range, a kernel of even size or with
      known negative weights, num_classes < 2, or an unknown padding.
    TypeError: labels are not integers, or where is not boolean.

  Note:
    One convolution for each class, computed once for a batch: it depends on the labels alone. The
    authors of NACL pad the label map with class 0.

  Example:
    >>> neighbor_prior(jnp.array([[0, 0, 1]]), jnp.array([0.25, 0.5, 0.25]), num_classes=2)[0, 1]
    Array([0.75, 0.25], dtype=float32)

  Reference:
    Murugesan et al., Neighbor-aware calibration of segmentation networks with penalty-based
    constraints, 2025, section 3.
  """
  num_classes = _checks.check_int("num_classes", num_classes, minimum=2)
  _arguments.check_option("padding", padding, PADDINGS)
  weight = _checks.check_float_array("kernel", kernel, min_rank=1)
  weight = weight.astype(jnp.promote_types(weight.dtype, jnp.float32))
  _checks.check_non_negative("kernel", weight)
  if any(side % 2 == 0 for side in weight.shape):
    raise ValueError(f"kernel must have odd sizes; got shape {weight.shape}.")
  found = _checks.as_array("labels", labels)
  if found.ndim != weight.ndim + 1 or found.size == 0:
    raise ValueError(
      f"labels must have a batch axis and the {weight.ndim} axes of the kernel; got shape "
      f"{found.shape}."
    )
  mask = _checks.check_mask("where", where, shape=found.shape)
  index = _checks.check_labels(
    "labels", labels, shape=found.shape, num_classes=num_classes, where=mask
  )
  keep = jnp.ones(found.shape, bool) if mask is None else mask
  classes = jnp.arange(num_classes, dtype=index.dtype).reshape((1, -1) + (1,) * weight.ndim)
  is_class = (index[:, None] == classes) & keep[:, None]
  amount = jnp.concatenate([is_class, keep[:, None]], axis=1).astype(weight.dtype)
  pad = [(0, 0), (0, 0), *((side // 2, side // 2) for side in weight.shape)]
  if padding == "edge":
    amount = jnp.pad(amount, pad, mode="edge")
  else:  # outside there is something, but of no class
    one = jnp.pad(amount[:, -1:], pad, constant_values=1)
    amount = jnp.concatenate([jnp.pad(amount[:, :-1], pad), one], axis=1)
  # Every class is an image of one channel: no grouped convolution is needed.
  flat = amount.reshape((-1, 1, *amount.shape[2:]))
  sums = jax.lax.conv_general_dilated(
    flat, weight[None, None], (1,) * weight.ndim, "VALID", precision=jax.lax.Precision.HIGHEST
  )
  sums = jnp.moveaxis(sums.reshape((*amount.shape[:2], *found.shape[1:])), 1, -1)
  total = sums[..., -1:]
  return sums[..., :-1] / jnp.where(total > 0, total, 1)
