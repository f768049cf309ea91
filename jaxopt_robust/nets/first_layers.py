"""First layers that train their pre-activations (TrAct)."""

from collections.abc import Callable, Sequence

from flax import linen

from jaxopt_robust.transforms import tract_conv, tract_dense
from jaxopt_robust.typing import Array, ArrayLike

__all__ = ["TrActConv", "TrActDense"]


class TrActDense(linen.Module):
  r"""First dense layer with the weight gradient of ``transforms.tract_dense``.

  The parameters, their names and the values are those of ``linen.Dense``: one may stand in for the
  other, for training with this one and inference with that.

  Attributes:
    features: number of outputs.
    lam: >= 0, ridge of the gradient.
    use_bias: whether a bias is added; its gradient is the ordinary one.
    axis_name: mapped axis that splits the rows, or None.
    kernel_init: initializer of the weights.
    bias_init: initializer of the bias.

  Reference:
    Petersen, Borgelt and Ermon, TrAct: making first-layer pre-activations trainable, 2024.
  """

  features: int
  lam: ArrayLike = 0.1
  use_bias: bool = True
  axis_name: str | None = None
  kernel_init: Callable[..., Array] = linen.initializers.lecun_normal()
  bias_init: Callable[..., Array] = linen.initializers.zeros_init()

  @linen.compact
  def __call__(self, x: Array) -> Array:
    kernel = self.param("kernel", self.kernel_init, (x.shape[-1], self.features))
    out = tract_dense(x, kernel, lam=self.lam, axis_name=self.axis_name)
    return _with_bias(self, out) if self.use_bias else out


class TrActConv(linen.Module):
  r"""First convolution with the weight gradient of ``transforms.tract_conv``.

  The parameters, their names and the values are those of ``linen.Conv``. A patch embedding is one
  with ``strides=kernel_size``.

  Attributes:
    features: number of output channels.
    kernel_size: size of the kernel along each spatial axis.
    lam: >= 0, ridge of the gradient.
    strides: one number, or one an axis.
    padding: "SAME", "VALID", or a pair (before, after) for each axis.
    kernel_dilation: one number, or one an axis.
    feature_group_count: number of groups of channels.
    use_bias: whether a bias is added; its gradient is the ordinary one.
    axis_name: mapped axis that splits the images, or None.
    kernel_init: initializer of the weights.
    bias_init: initializer of the bias.

  Reference:
    Petersen, Borgelt and Ermon, TrAct: making first-layer pre-activations trainable, 2024.
  """

  features: int
  kernel_size: Sequence[int]
  lam: ArrayLike = 0.1
  strides: int | Sequence[int] = 1
  padding: str | Sequence[tuple[int, int]] = "SAME"
  kernel_dilation: int | Sequence[int] = 1
  feature_group_count: int = 1
  use_bias: bool = True
  axis_name: str | None = None
  kernel_init: Callable[..., Array] = linen.initializers.lecun_normal()
  bias_init: Callable[..., Array] = linen.initializers.zeros_init()

  @linen.compact
  def __call__(self, x: Array) -> Array:
    groups = self.feature_group_count
    shape = (*self.kernel_size, x.shape[-1] // groups, self.features)
    kernel = self.param("kernel", self.kernel_init, shape)
    out = tract_conv(
      x, kernel, lam=self.lam, strides=self.strides, padding=self.padding,
      dilation=self.kernel_dilation, groups=groups, axis_name=self.axis_name,
    )  # fmt: skip
    return _with_bias(self, out) if self.use_bias else out


def _with_bias(layer: TrActDense | TrActConv, out: Array) -> Array:
  bias = layer.param("bias", layer.bias_init, (layer.features,))
  return out + bias.astype(out.dtype).reshape((1,) * (out.ndim - 1) + (-1,))
