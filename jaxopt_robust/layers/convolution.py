"""Convolutions as linear maps: circular padding, the dense matrix, exact singular values."""

import itertools
import math
from typing import Any

import jax
import jax.numpy as jnp

from jaxopt_robust import _arguments, _checks
from jaxopt_robust.numerics import upcast
from jaxopt_robust.typing import Array, ArrayLike

__all__ = [
  "circular_convolution",
  "convolution_matrix",
  "convolution_residual",
  "convolution_singular_values",
]

PADDINGS = ("circular", "zeros", "valid")
METHODS = ("convolution", "taps")


def check_kernel(kernel: ArrayLike, *, axes: tuple[int, ...] = (1, 2, 3)) -> Array:
  """A kernel [out, in, *spatial] whose number of spatial axes is allowed, in its own dtype."""
  return _checks.check_float_array("kernel", kernel, rank=tuple(n + 2 for n in axes))


def check_stride(stride: Any) -> int:
  """A static stride."""
  return _checks.check_int("stride", stride, minimum=1)


def _sizes(size: Any, kernel: Array, stride: int, *, padding: str = "circular") -> tuple[int, ...]:
  """The input's size along each spatial axis."""
  axes = kernel.ndim - 2
  sizes = tuple(size) if isinstance(size, tuple | list) else (size,) * axes
  if len(sizes) != axes:
    raise ValueError(f"size must be one number or {axes} of them; got {size!r:.60}.")
  sizes = tuple(_checks.check_int("size", n, minimum=1) for n in sizes)
  for n, k in zip(sizes, kernel.shape[2:], strict=True):
    if padding != "valid" and n % stride:
      raise ValueError(f"size must be a multiple of the stride {stride}; got {n}.")
    if n < k:
      raise ValueError(f"size must be at least the kernel's, {k}; got {n}.")
  return sizes


def _convolve(
  x: Array, kernel: Array, stride: int, padding: str, precision: str | None = None
) -> Array:
  axes = kernel.ndim - 2
  sides = [(0, 0)] * axes
  if padding != "valid":
    sides = [((k - 1) // 2, k // 2) for k in kernel.shape[2:]]
  if padding == "circular":
    x = jnp.pad(x, [(0, 0), (0, 0), *sides], mode="wrap")
    sides = [(0, 0)] * axes
  letters = "HWD"[:axes]
  layout = (f"NC{letters}", f"OI{letters}", f"NC{letters}")
  return jax.lax.conv_general_dilated(
    x, kernel, (stride,) * axes, sides, dimension_numbers=layout, precision=precision
  )


def _by_taps(x: Array, kernel: Array, stride: int) -> Array:
  """The circular convolution as one product of the kernel with shifted copies of the input."""
  sides, sizes = kernel.shape[2:], x.shape[2:]
  pads = [((k - 1) // 2, k // 2) for k in sides]
  wrapped = jnp.pad(x, [(0, 0), (0, 0), *pads], mode="wrap")
  copies = [
    wrapped[(..., *(slice(t, t + n, stride) for t, n in zip(tap, sizes, strict=True)))]
    for tap in itertools.product(*map(range, sides))
  ]
  flat = kernel.reshape(*kernel.shape[:2], -1)
  return jnp.einsum("bct...,mct->bm...", jnp.stack(copies, axis=2), flat)


def circular_convolution(
  x: ArrayLike, kernel: ArrayLike, *, stride: int = 1, method: str = "convolution"
) -> Array:
  r"""Convolution layer with circular padding, y_m(n) = sum_{c,t} K_mc(t) x_c(S n + t - (k-1)//2).

  Positions are taken modulo the size. As in all libraries of networks the kernel is not flipped: it
  is a correlation. On circular input ``layers.orthogonality_residual`` is exact.

  Args:
    x: float[batch, in, *size], one to three spatial axes, each a multiple of the stride and at
      least as long as the kernel.
    kernel: float[out, in, *k], K.
    stride: S >= 1, static, the same along all axes.
    method: ``"convolution"``, XLA's own, or ``"taps"``, one matrix product with k^axes shifted
      copies of the input: more memory, and 30 times faster for small images inside a ``scan`` on
      a CPU; static.

  Returns:
    float[batch, out, *(size / stride)].

  Raises:
    TypeError: an argument is not floating-point, or the stride no static integer.
    ValueError: the ranks, channels or sizes do not fit, or an unknown method.

  Example:
    >>> shift = jnp.array([[[1.0, 0.0, 0.0]]])  # takes the left neighbour
    >>> circular_convolution(jnp.array([[[1.0, 2.0, 3.0, 4.0]]]), shift)
    Array([[[4., 1., 2., 3.]]], dtype=float32)

  Reference:
    Achour, Malgouyres and Mamalet, Existence, stability and scalability of orthogonal convolutional
    neural networks, 2022, section 2.
  """
  kernel, stride = check_kernel(kernel), check_stride(stride)
  x = _checks.check_float_array("x", x, rank=kernel.ndim)
  if x.shape[1] != kernel.shape[1]:
    raise ValueError(
      f"x and kernel must have equally many input channels (axis 1); got shapes {x.shape} and "
      f"{kernel.shape}."
    )
  _sizes(x.shape[2:], kernel, stride)
  _arguments.check_option("method", method, METHODS)
  dtype = jnp.result_type(x, kernel)
  if method == "taps":
    return _by_taps(x.astype(dtype), kernel.astype(dtype), stride)
  return _convolve(x.astype(dtype), kernel.astype(dtype), stride, "circular")


def convolution_matrix(
  kernel: ArrayLike, *, size: int | tuple[int, ...], stride: int = 1, padding: str = "circular"
) -> Array:
  r"""The matrix W of a convolution, vec(y) = W vec(x).

  Args:
    kernel: float[out, in, *k], one to three spatial axes.
    size: of the input along each axis, static; one number stands for all axes. A multiple of the
      stride unless ``padding`` is ``"valid"``.
    stride: >= 1, static.
    padding: ``"circular"``, ``"zeros"`` (as much as the circular one, so that the output has size /
      stride positions) or ``"valid"`` (none).

  Returns:
    float[out * positions, in * size^axes], in float32 or wider: dense, for small sizes.

  Raises:
    TypeError: the kernel is not floating-point, or a size no static integer.
    ValueError: a size that does not fit, or an unknown padding.

  Example:
    >>> convolution_matrix(jnp.array([[[1.0, 2.0, 0.0]]]), size=3)
    Array([[2., 0., 1.],
           [1., 2., 0.],
           [0., 1., 2.]], dtype=float32)

  Reference:
    Achour, Malgouyres and Mamalet, Existence, stability and scalability of orthogonal convolutional
    neural networks, 2022, section 2 and appendix (the matrix of a layer).
  """
  kernel, stride = upcast(check_kernel(kernel)), check_stride(stride)
  _arguments.check_option("padding", padding, PADDINGS)
  sizes = _sizes(size, kernel, stride, padding=padding)
  inputs = kernel.shape[1] * math.prod(sizes)
  basis = jnp.eye(inputs, dtype=kernel.dtype).reshape(inputs, kernel.shape[1], *sizes)
  return _convolve(basis, kernel, stride, padding, "highest").reshape(inputs, -1).T


def convolution_residual(
  kernel: ArrayLike, *, size: int | tuple[int, ...], stride: int = 1, padding: str = "circular"
) -> Array:
  r"""How far the matrix W of a convolution is from an isometry, for any padding.

  ||W W^T - I||_F^2 where W has at most as many rows as columns, ||W^T W - I||_F^2 otherwise,
  computed from the dense matrix.

  Args:
    kernel: float[out, in, *k], one to three spatial axes.
    size: of the input along each axis, static; as in ``convolution_matrix``.
    stride: >= 1, static.
    padding: ``"circular"``, ``"zeros"`` or ``"valid"``.

  Returns:
    float scalar, in float32 or wider.

  Raises:
    TypeError: the kernel is not floating-point, or a size no static integer.
    ValueError: a size that does not fit, or an unknown padding.

  Note:
    With circular padding and a size of at least 2 k - 1 this is ``orthogonality_residual`` times
    the number of output positions. With zeros a kernel that is orthogonal on the circle loses
    energy at the border: the residual grows with the border's length, and with stride 1 it is 0
    only for kernels that vanish outside of their central tap.

  Example:
    >>> shift = jnp.array([[[1.0, 0.0, 0.0]]])
    >>> [float(convolution_residual(shift, size=5, padding=p)) for p in ("circular", "zeros")]
    [0.0, 1.0]

  Reference:
    Achour, Malgouyres and Mamalet, Existence, stability and scalability of orthogonal convolutional
    neural networks, 2022, definitions of row and column orthogonality.
  """
  matrix = convolution_matrix(kernel, size=size, stride=stride, padding=padding)
  if matrix.shape[0] > matrix.shape[1]:
    matrix = matrix.T
  gram = jnp.matmul(matrix, matrix.T, precision="highest")
  return jnp.sum((gram - jnp.eye(gram.shape[0], dtype=gram.dtype)) ** 2)


def convolution_singular_values(
  kernel: ArrayLike, *, size: int | tuple[int, ...], stride: int = 1
) -> Array:
  r"""All singular values of a circular convolution, exactly, by Fourier transforms.

  With F the Fourier transform of the kernel on a grid of the input's size, W acts on each of the
  N^axes output frequencies as a matrix of out x (in S^axes) entries: those frequencies of F that
  the stride folds onto it, divided by S^(axes / 2).

  Args:
    kernel: float[out, in, *k], one to three spatial axes.
    size: of the input along each axis, S N, static; one number stands for all axes. A multiple of
      the stride and at least as large as the kernel.
    stride: S >= 1, static.

  Returns:
    float[N^axes, min(out, in S^axes)], largest first within each frequency; in float32 or wider.

  Raises:
    TypeError: the kernel is not floating-point, or a size no static integer.
    ValueError: a size that does not fit.

  Note:
    Its largest one is the Lipschitz constant of the layer. For zero padding there is no such form:
    use ``convolution_matrix``.

  Example:
    >>> convolution_singular_values(jnp.array([[[1.0, 0.0, 1.0]]]), size=4).ravel().round(3)
    Array([2., 0., 2., 0.], dtype=float32)

  Reference:
    Sedghi, Gupta and Long, The singular values of convolutional layers, 2019, theorem 6 (stride 1;
    strides by the folding above).
  """
  kernel, stride = upcast(check_kernel(kernel)), check_stride(stride)
  sizes = _sizes(size, kernel, stride)
  out, channels, axes = *kernel.shape[:2], len(sizes)
  transform = jnp.fft.fftn(kernel, s=sizes, axes=tuple(range(2, 2 + axes)))
  split = [part for n in sizes for part in (stride, n // stride)]
  folded = transform.reshape(out, channels, *split)
  strides, positions = ([2 + 2 * i + j for i in range(axes)] for j in (0, 1))
  blocks = jnp.transpose(folded, [*positions, 0, 1, *strides])
  blocks = blocks.reshape(-1, out, channels * stride**axes) / stride ** (axes / 2)
  return jnp.linalg.svd(blocks, compute_uv=False)
