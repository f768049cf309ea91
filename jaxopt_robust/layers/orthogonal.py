r"""Orthogonal convolutions: a differentiable residual, when it can be 0, what follows from it.

A layer with M output and C input channels, stride S and circular padding is a matrix W. Where
M <= C S^axes it can be row orthogonal, W W^T = I, otherwise column orthogonal, W^T W = I. Kernels
are laid out as in the paper, [out, in, height, width]; ``kernel_to_oihw`` turns those of flax.
"""

import itertools
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxopt_robust import _arguments, _checks
from jaxopt_robust.layers.convolution import check_kernel, check_stride
from jaxopt_robust.numerics import upcast
from jaxopt_robust.typing import Array, ArrayLike, PyTree

__all__ = [
  "OrthogonalExistence",
  "SingularValueBounds",
  "kernel_to_oihw",
  "orthogonal_convolution_exists",
  "orthogonality_penalty",
  "orthogonality_residual",
  "singular_value_bounds",
]

LAYOUTS = ("OIHW", "HWIO")
_ANY = (0, 1, 2, 3)  # numbers of spatial axes; 0 is a dense layer


def _overlaps(kernel: Array, stride: int) -> Array:
  """Products of all pairs of filters, one shifted by multiples of the stride.

  float[offsets, out, out]: half of the offsets, the last one is 0; the other half is transposed.
  """
  out, channels, *sizes = kernel.shape
  reach = [(k - 1) // stride for k in sizes]
  offsets = list(itertools.product(*(range(-r, r + 1) for r in reach)))
  offsets = offsets[: len(offsets) // 2 + 1]
  pads = [r * stride for r in reach]
  padded = jnp.pad(kernel, [(0, 0), (0, 0), *((p, p) for p in pads)])
  # Places of every shifted copy in the padded kernel, known without data.
  shape = padded.shape[2:]
  grids = np.indices(tuple(sizes)).reshape(len(sizes), math.prod(sizes))
  places = [
    np.ravel_multi_index(
      [g + p + stride * o for g, p, o in zip(grids, pads, offset, strict=True)], shape
    )
    if sizes
    else np.zeros(1, int)
    for offset in offsets
  ]
  copies = padded.reshape(out, channels, -1)[:, :, np.stack(places)]
  flat = kernel.reshape(out, channels, -1)
  return jnp.einsum("mcot,lct->oml", copies, flat, precision="highest")


def orthogonality_residual(kernel: ArrayLike, *, stride: int = 1) -> Array:
  r"""How far a circular convolution is from an orthogonal one, whatever the size of its input.

    L = ||conv(K, K; padding P, stride S) - I_0||_F^2 - max(0, M - C S^axes)

  with P = S floor((k - 1) / S), where conv(K, K)_ml holds the products of filter m, shifted by
  multiples of S, with filter l, and I_0 is the identity at shift 0. For inputs of a size S N of at
  least 2 k - 1 along each axis

    ||W W^T - I||_F^2 = N^axes L  where M <= C S^axes,  ||W^T W - I||_F^2 = N^axes L  otherwise.

  Args:
    kernel: float[out, in, *k] with none (a dense layer) to three spatial axes, K.
    stride: S >= 1, static.

  Returns:
    float scalar, L, in float32 or wider.

  Raises:
    TypeError: the kernel is not floating-point, or the stride no static integer.
    ValueError: the kernel has a wrong rank or is empty.

  Note:
    Where M > C S^axes the constant is subtracted from a sum of at least its size: rounding may
    leave a number slightly below 0. A polynomial of degree 4 in K, so any derivative exists. Other
    padding than circular is another matrix: see ``convolution_residual``.

  Example:
    >>> tap = jnp.zeros((2, 2, 3, 3)).at[:, :, 1, 1].set(jnp.eye(2))
    >>> float(orthogonality_residual(tap)), float(orthogonality_residual(2 * tap))
    (0.0, 18.0)

  Reference:
    Achour, Malgouyres and Mamalet, Existence, stability and scalability of orthogonal convolutional
    neural networks, 2022, definition of L_orth (padding and subtraction as in their public code);
    an earlier form: Wang, Chen, Chakraborty and Yu, Orthogonal convolutional neural networks, 2020.
  """
  kernel = upcast(check_kernel(kernel, axes=_ANY))
  stride = check_stride(stride)
  out, channels, axes = *kernel.shape[:2], kernel.ndim - 2
  products = _overlaps(kernel, stride)
  center = products[-1] - jnp.eye(out, dtype=kernel.dtype)
  total = jnp.sum(center**2) + 2 * jnp.sum(products[:-1] ** 2)
  return total - max(0, out - channels * stride**axes)


class OrthogonalExistence(NamedTuple):
  """Whether orthogonal kernels exist.

  Attributes:
    exists: bool.
    case: "rows" (W W^T = I is wanted) or "columns" (W^T W = I).
    reason: a sentence that says why.

  Example:
    >>> OrthogonalExistence._fields
    ('exists', 'case', 'reason')

  Reference:
    Achour, Malgouyres and Mamalet, Existence, stability and scalability of orthogonal convolutional
    neural networks, 2022, theorem on existence.
  """

  exists: bool
  case: str
  reason: str


def orthogonal_convolution_exists(
  out_channels: int,
  in_channels: int,
  kernel_size: int,
  *,
  stride: int = 1,
  num_axes: int = 2,
  padding: str = "circular",
) -> OrthogonalExistence:
  r"""Tells whether a convolution of this architecture can be orthogonal, and why.

  With circular padding, M outputs, C inputs, kernels of k^axes taps and stride S:

    M <= C S^axes (rows): exactly if M <= C k^axes;   M >= C S^axes (columns): exactly if S <= k.

  Args:
    out_channels: M >= 1, static.
    in_channels: C >= 1, static.
    kernel_size: k >= 1, static, along each axis.
    stride: S >= 1, static.
    num_axes: 1 or 2, spatial axes, static.
    padding: ``"circular"``, or ``"zeros"`` (as many positions in as out), for which stride 1 only
      is known.

  Returns:
    ``OrthogonalExistence`` of Python values.

  Raises:
    TypeError: a size is no static integer.
    ValueError: a size is out of range, an unknown padding, or zeros with a stride above 1.

  Example:
    >>> answer = orthogonal_convolution_exists(5, 1, 1, stride=2)
    >>> answer.exists, answer.case
    (False, 'columns')
    >>> answer.reason
    'stride 2 exceeds the kernel size 1: inputs between the kernels reach no output'

  Reference:
    Achour, Malgouyres and Mamalet, Existence, stability and scalability of orthogonal convolutional
    neural networks, 2022, theorem on existence (from memory of it and their public code; both
    necessary conditions are counting arguments, the sufficient ones are seen in the tests).
  """
  sizes = {"out_channels": out_channels, "in_channels": in_channels, "kernel_size": kernel_size}
  out, inputs, k = (_checks.check_int(name, n, minimum=1) for name, n in sizes.items())
  stride = check_stride(stride)
  axes = _checks.check_int("num_axes", num_axes, minimum=1, maximum=2)
  _arguments.check_option("padding", padding, ("circular", "zeros"))
  room, taps = inputs * stride**axes, inputs * k**axes
  case = "rows" if out <= room else "columns"
  if padding == "zeros":
    if stride > 1:
      raise ValueError(
        f"padding 'zeros' with stride {stride}: nothing is known; compute convolution_residual."
      )
    reason = "with zeros at the border only the central tap of a kernel may differ from 0"
    return OrthogonalExistence(True, case, reason)
  if case == "rows" and out > taps:
    reason = f"the {out} filters at one position would be orthonormal vectors of {taps} numbers"
    return OrthogonalExistence(False, case, reason)
  if stride > k and out >= room:
    reason = (
      f"stride {stride} exceeds the kernel size {k}: inputs between the kernels reach no output"
    )
    return OrthogonalExistence(False, case, reason)
  if case == "rows":
    reason = f"the {out} filters at one position fit in {taps} numbers, and in {room} a position"
  else:
    reason = f"{out} outputs a position hold its {room} inputs, and kernels of {k} cover stride "
    reason += f"{stride}"
  return OrthogonalExistence(True, case, reason)


class SingularValueBounds(NamedTuple):
  """An interval for all singular values of a convolution.

  Attributes:
    low: float scalar, sqrt(max(0, 1 - e)).
    high: float scalar, sqrt(1 + e).
    distance: float scalar, e >= ||W W^T - I||_2 or ||W^T W - I||_2.

  Example:
    >>> SingularValueBounds._fields
    ('low', 'high', 'distance')

  Reference:
    Achour, Malgouyres and Mamalet, Existence, stability and scalability of orthogonal convolutional
    neural networks, 2022, section on scalability.
  """

  low: Array
  high: Array
  distance: Array


def singular_value_bounds(kernel: ArrayLike, *, stride: int = 1) -> SingularValueBounds:
  r"""Bounds of the singular values of a circular convolution that hold for every input size.

  With L the ``orthogonality_residual``, e^2 = a L bounds the squared spectral norm of W W^T - I,
  with a the number of shifts (2 floor((k - 1) / S) + 1)^axes, or of W^T W - I, with
  a = ceil((2 k - 1) / S)^axes: at each frequency an entry of that matrix is a sum of so many terms,
  and the squares of all terms sum to L.

  Args:
    kernel: float[out, in, *k] with none to three spatial axes.
    stride: >= 1, static.

  Returns:
    ``SingularValueBounds``, for sizes of at least 2 k - 1; exact in exact arithmetic.

  Raises:
    TypeError: the kernel is not floating-point, or the stride no static integer.
    ValueError: the kernel has a wrong rank or is empty.

  Example:
    >>> tap = jnp.zeros((2, 2, 3, 3)).at[:, :, 1, 1].set(jnp.eye(2))
    >>> [float(b) for b in singular_value_bounds(tap)]
    [1.0, 1.0, 0.0]

  Reference:
    Achour, Malgouyres and Mamalet, Existence, stability and scalability of orthogonal convolutional
    neural networks, 2022, theorem on the spectral norm. Their constants, (2 floor((k-1)/S) + 1)^2 M
    and (2 k - 1)^2 C (from memory), are larger: the factors M and C are not needed.
  """
  residual = orthogonality_residual(kernel, stride=stride)
  out, channels, *sizes = jnp.shape(kernel)
  if out <= channels * stride ** len(sizes):
    terms = math.prod(2 * ((k - 1) // stride) + 1 for k in sizes)
  else:
    terms = math.prod(-(-(2 * k - 1) // stride) for k in sizes)
  square = terms * jnp.maximum(residual, 0)
  positive = square > 0  # the root has no derivative at 0
  distance = jnp.where(positive, jnp.sqrt(jnp.where(positive, square, 1)), 0)
  below = 1 - distance
  low = jnp.where(below > 0, jnp.sqrt(jnp.where(below > 0, below, 1)), 0)
  return SingularValueBounds(low, jnp.sqrt(1 + distance), distance)


def kernel_to_oihw(kernel: ArrayLike) -> Array:
  r"""Turns a kernel of flax, [*spatial, in, out], into [out, in, *spatial].

  Args:
    kernel: float[*k, in, out] with none (a dense layer) to three spatial axes.

  Returns:
    float[out, in, *k].

  Raises:
    TypeError: the kernel is not floating-point.
    ValueError: it has a wrong rank or is empty.

  Note:
    Neither library flips kernels, so that nothing but the order of the axes differs.

  Example:
    >>> kernel_to_oihw(jnp.zeros((3, 5, 8, 16))).shape
    (16, 8, 3, 5)

  Reference:
    The layouts of the documentation of flax (HWIO) and of Achour, Malgouyres and Mamalet,
    Existence, stability and scalability of orthogonal convolutional neural networks, 2022 (OIHW).
  """
  kernel = check_kernel(kernel, axes=_ANY)
  return jnp.moveaxis(kernel, (-1, -2), (0, 1))


def orthogonality_penalty(
  params: PyTree, strides: Mapping[str, int], *, layout: str = "HWIO"
) -> Array:
  r"""Sum of the orthogonality residuals of the named kernels of a network, sum_l L(K_l).

  Add lam times it to the loss: a larger lam makes the layers more nearly isometries.

  Args:
    params: pytree of parameters, such as those of a flax network.
    strides: path of each kernel in the tree -> its stride, such as
      ``{"params/Conv_0/kernel": 1, "params/Conv_1/kernel": 2}``; what is not named is not
      penalised. Dense kernels have stride 1. Static.
    layout: ``"HWIO"``, kernels [*spatial, in, out] as in flax, or ``"OIHW"``; static.

  Returns:
    float scalar; 0 without kernels. Kernels of equal shape and stride are computed as one batch.

  Raises:
    TypeError: ``strides`` is no mapping, a kernel is not floating-point, or a stride no integer.
    ValueError: a path that is not in the tree, a kernel of wrong rank, or an unknown layout.

  Example:
    >>> params = {"conv": {"kernel": jnp.ones((1, 1, 1, 1)), "bias": jnp.ones(1)}}
    >>> float(orthogonality_penalty(params, {"conv/kernel": 1}))
    0.0

  Reference:
    Achour, Malgouyres and Mamalet, Existence, stability and scalability of orthogonal convolutional
    neural networks, 2022, section on training (loss plus lam times the sum over the layers).
  """
  _arguments.check_option("layout", layout, LAYOUTS)
  if not isinstance(strides, Mapping):
    raise TypeError(
      f"strides must map paths such as 'conv/kernel' to strides; got {_checks.describe(strides)}."
    )
  leaves = {
    jax.tree_util.keystr(path, simple=True, separator="/"): leaf
    for path, leaf in jax.tree_util.tree_leaves_with_path(params)
  }
  groups: dict[Any, list[Array]] = {}
  for path, stride in strides.items():
    if path not in leaves:
      raise ValueError(
        f"strides names {path!r}, which is not in params.{_arguments.did_you_mean(path, leaves)}"
      )
    with _arguments.within(f"params[{path!r}]"):
      kernel = check_kernel(leaves[path], axes=_ANY)
    kernel = kernel if layout == "OIHW" else kernel_to_oihw(kernel)
    groups.setdefault((kernel.shape, kernel.dtype, check_stride(stride)), []).append(kernel)
  parts = [
    jnp.sum(jax.vmap(lambda k, s=stride: orthogonality_residual(k, stride=s))(jnp.stack(kernels)))
    for (_, _, stride), kernels in groups.items()
  ]
  return sum(parts, start=jnp.zeros(()))
