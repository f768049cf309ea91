"""Self-attention without softmax as a layer of images of tokens (SOFT)."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen

from jaxopt_robust import _checks
from jaxopt_robust.layers import full_gaussian_attention, soft_attention
from jaxopt_robust.typing import Array, ArrayLike

__all__ = ["SoftAttention"]


class SoftAttention(linen.Module):
  r"""Multi-head ``layers.soft_attention`` of an image of tokens, with convolved landmarks.

  Queries are keys: q = x W_q and v = x W_v are split into heads of size e, q is divided by e^(1/4).
  Landmarks are GELU(LayerNorm(convolution of q)), one a square of ratio x ratio tokens, the same
  convolution for all heads. To the attention a convolution of v is added, one kernel a head; heads
  are merged and mapped by a last dense layer.

  Input float[..., tokens, dim] with tokens = height * width row by row, output the same. The error
  of the landmarks' inverse is sown as "inverse_error" into "intermediates".

  Attributes:
    dim: features of a token; a multiple of ``heads``.
    heads: number of heads.
    grid: (height, width) of the image of tokens.
    ratio: side of the square of tokens that has one landmark; divides height and width. 0: the
      whole kernel, ``layers.full_gaussian_attention``.
    conv: odd side of the convolution of the values, 0 for none.
    normalize: as in ``layers.soft_attention``.
    num_iters: as there.
    ridge: as there.

  Reference:
    Lu, Yao, Zhang, Zhu, Xu, Gao, Xu, Xiang and Zhang, SOFT: softmax-free transformer with linear
    complexity, 2021; Lu, Zhang, Zhu, Feng, Xiang and Zhang, Softmax-free linear transformers, 2024
    (the normalisation and the convolution).
  """

  dim: int
  heads: int
  grid: Sequence[int]
  ratio: int = 2
  conv: int = 3
  normalize: bool = True
  num_iters: int = 20
  ridge: ArrayLike = 0.01

  @linen.compact
  def __call__(self, x: Array) -> Array:
    height, width = self.grid
    heads = _checks.check_int("heads", self.heads, minimum=1)
    ratio = _checks.check_int("ratio", self.ratio, minimum=0)
    size = _checks.check_int("conv", self.conv, minimum=0)
    if self.dim % heads:
      raise ValueError(f"dim must be a multiple of heads; got {self.dim} and {heads}.")
    if ratio and (height % ratio or width % ratio):
      raise ValueError(f"ratio must divide the grid {(height, width)}; got {ratio}.")
    if size and size % 2 == 0:
      raise ValueError(f"conv must be 0 or odd; got {size}.")
    if x.ndim < 2 or x.shape[-2:] != (height * width, self.dim):
      raise ValueError(
        f"x must have shape [..., {height * width}, {self.dim}], tokens and dim; got {x.shape}."
      )
    tokens, e = x.reshape(-1, *x.shape[-2:]), self.dim // heads

    def split(name: str) -> Array:
      mapped = linen.Dense(self.dim, use_bias=False, name=name)(tokens)
      return mapped.reshape(*tokens.shape[:-1], heads, e).transpose(0, 2, 1, 3)

    q, v = split("query") / e**0.25, split("value")
    if ratio:
      image = q.reshape(-1, height, width, e)
      window = (ratio, ratio)
      marks = linen.Conv(
        e, window, strides=window, padding="VALID", use_bias=False, name="landmarks"
      )(image)
      marks = jax.nn.gelu(linen.LayerNorm(name="landmark_norm")(marks), approximate=False)
      marks = marks.reshape(*q.shape[:2], -1, e)
      out, info = soft_attention(
        q, marks, v, normalize=self.normalize, num_iters=self.num_iters, ridge=self.ridge
      )
      self.sow("intermediates", "inverse_error", info.error)
    else:
      out = full_gaussian_attention(q, v, normalize=self.normalize)
    if size:
      kernel = self.param("conv", linen.initializers.lecun_normal(), (size, size, 1, heads))
      out = out + _per_head(v.reshape(*v.shape[:2], height, width, e), kernel)
    merged = out.transpose(0, 2, 1, 3).reshape(tokens.shape)
    return linen.Dense(self.dim, name="output")(merged).reshape(x.shape)


def _per_head(values: Array, kernel: Array) -> Array:
  """Images [batch, heads, height, width, e], each feature convolved with the kernel of its head."""
  batch, heads, height, width, e = values.shape
  channels = values.transpose(0, 4, 2, 3, 1).reshape(batch * e, height, width, heads)
  out = jax.lax.conv_general_dilated(
    channels, jnp.asarray(kernel, channels.dtype), (1, 1), "SAME",
    dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=heads,
  )  # fmt: skip
  out = out.reshape(batch, e, height, width, heads).transpose(0, 4, 2, 3, 1)
  return out.reshape(batch, heads, height * width, e)
