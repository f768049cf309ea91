"""Small networks as pure functions: perceptrons, input-convex ones, first layers, nnx adapter."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxopt_robust import _checks
from jaxopt_robust._deprecations import install_getattr
from jaxopt_robust.transforms import tract_conv, tract_dense
from jaxopt_robust.typing import Array, ArrayLike, PyTree

try:
  from flax import linen, nnx
except ImportError as error:
  raise ImportError(
    "jaxopt_robust.nets needs flax; install it with: pip install 'jaxopt-robust[nets]'"
  ) from error

__all__ = [
  "ICNN",
  "MLP",
  "ConvICNN",
  "TrActConv",
  "TrActDense",
  "from_nnx",
  "log_normal",
  "nonnegative_mask",
]

# Parameters whose name, or whose module's name, begins like this must not be negative.
_NON_NEGATIVE = "nonnegative"

install_getattr(__name__)


class MLP(linen.Module):
  """Multilayer perceptron: dense layers with an activation between them.

  Attributes:
    features: width of each layer; the last is the number of outputs.
    activation: entrywise function after every layer but the last.
    kernel_init: initializer of the weights; biases start at zero.
  """

  features: Sequence[int]
  activation: Callable[[Array], Array] = jax.nn.relu
  kernel_init: Callable[..., Array] = linen.initializers.lecun_normal()

  @linen.compact
  def __call__(self, x: Array) -> Array:
    for width in self.features[:-1]:
      x = self.activation(linen.Dense(width, kernel_init=self.kernel_init)(x))
    return linen.Dense(self.features[-1], kernel_init=self.kernel_init)(x)


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


def _check_shape_of_potential(beta: ArrayLike, alpha: ArrayLike) -> None:
  _checks.check_positive("beta", beta, scalar=True)
  _checks.check_non_negative("alpha", alpha, scalar=True)


class ICNN(linen.Module):
  r"""Input-convex network: a scalar that is convex, smooth and strongly convex in its input.

  With s(t) = log(1 + exp(beta t)) / beta entrywise,

    z_1 = s(W_0 x),    z_{j+1} = s(W_j z_j + V_j x + c_j),    j = 1..layers,
    psi(x) = <w, z_last> + <v, x> + alpha ||x||_2^2    (no half: the gradient of it is 2 alpha x),

  convex where W_j >= 0 and w >= 0 (``nonnegative_mask``). Its gradient is the proximal operator of
  a function: ``prox.make_prox_from_potential(model.apply)``.

  Input float[..., n], output float[...]. The layers are one stack of weights and one loop, so that
  depth costs no compile time.

  Attributes:
    features: width of the hidden layers.
    layers: number of layers from hidden to hidden, at least 1.
    beta: > 0, sharpness of the softplus.
    alpha: >= 0; above 0 the gradient is a bijection.
    kernel_init: initializer of the weights that are free.
    nonnegative_init: initializer of those that are not, ``log_normal()`` by default.
    bias_init: initializer of the biases c_j; in one dimension zeros put all kinks in one place.

  Reference:
    Amos, Xu and Kolter, Input convex neural networks, 2017, equation 2; Fang, Buchanan and Sulam,
    What's in a prior? Learned proximal networks for inverse problems, 2024 (softplus, the
    quadratic, the initial weights).
  """

  features: int = 64
  layers: int = 2
  beta: ArrayLike = 10.0
  alpha: ArrayLike = 0.0
  kernel_init: Callable[..., Array] = linen.initializers.lecun_normal()
  nonnegative_init: Callable[..., Array] | None = None
  bias_init: Callable[..., Array] = linen.initializers.zeros_init()

  @linen.compact
  def __call__(self, x: Array) -> Array:
    _check_shape_of_potential(self.beta, self.alpha)
    n, h, depth = x.shape[-1], self.features, _checks.check_int("layers", self.layers, minimum=1)
    positive = self.nonnegative_init or log_normal()
    first = self.param("input", self.kernel_init, (n, h))
    core = self.param(f"{_NON_NEGATIVE}_core", positive, (depth, h, h))
    stacked = lambda key, shape: jax.vmap(lambda k: self.kernel_init(k, shape[1:]))(
      jax.random.split(key, shape[0])
    )
    skip = self.param("skip", stacked, (depth, n, h))
    bias = self.param("bias", self.bias_init, (depth, h))
    last = self.param(f"{_NON_NEGATIVE}_output", positive, (h,))
    linear = self.param("output_skip", linen.initializers.zeros_init(), (n,))

    rows = x.reshape(-1, n)
    inner = jnp.einsum("bn,lnh->lbh", rows, skip) + bias[:, None]

    def layer(z: Array, weights: tuple[Array, Array]) -> tuple[Array, None]:
      kernel, shift = weights
      return _softplus(z @ kernel + shift, self.beta), None

    z, _ = jax.lax.scan(layer, _softplus(rows @ first, self.beta), (core, inner))
    square = jnp.asarray(self.alpha, rows.dtype) * jnp.sum(rows**2, -1)
    return (z @ last + rows @ linear + square).reshape(x.shape[:-1])


class ConvICNN(linen.Module):
  r"""Convolutional input-convex network of images, for any image size.

  With s as in ``ICNN``, * a 3 x 3 convolution and x_j the image resized linearly to the size of
  z_{j+1},

    z_1 = s(W_0 * x),    z_{j+1} = s(W_j * z_j + V_j * x_j + c_j),    strides[j - 1] apart,
    psi(x) = sum over the positions of <w, z_last> + alpha ||x||_2^2,

  convex where W_j >= 0 and w >= 0. Input float[..., height, width, channels], output float[...].

  Attributes:
    features: channels of the hidden layers.
    strides: stride of each layer from hidden to hidden.
    beta: > 0, sharpness of the softplus.
    alpha: >= 0; above 0 the gradient is a bijection.
    kernel_init: initializer of the weights that are free.
    nonnegative_init: initializer of those that are not, ``log_normal()`` by default.
    conv_general_dilated: what convolves instead of ``jax.lax.conv_general_dilated``, with its
      arguments, as in ``linen.Conv``. On CPUs training, which differentiates twice, is several
      times as fast where patches are cut out and multiplied with the kernel as a matrix.

  Reference:
    Fang, Buchanan and Sulam, What's in a prior? Learned proximal networks for inverse problems,
    2024 (network for images). Theirs ends in two dense layers and so has one image size.
  """

  features: int = 32
  strides: Sequence[int] = (2, 1, 2)
  beta: ArrayLike = 10.0
  alpha: ArrayLike = 0.01
  kernel_init: Callable[..., Array] = linen.initializers.lecun_normal()
  nonnegative_init: Callable[..., Array] | None = None
  conv_general_dilated: Callable[..., Array] | None = None

  @linen.compact
  def __call__(self, x: Array) -> Array:
    _check_shape_of_potential(self.beta, self.alpha)
    positive = self.nonnegative_init or log_normal()
    own: dict[str, Any] = {"conv_general_dilated": self.conv_general_dilated}
    images = x.reshape(-1, *x.shape[-3:])

    def conv(name: str, x: Array, init: Callable[..., Array], **options: Any) -> Array:
      return linen.Conv(self.features, (3, 3), kernel_init=init, name=name, **own, **options)(x)

    z = _softplus(conv("input", images, self.kernel_init, use_bias=False), self.beta)
    for j, stride in enumerate(self.strides):
      core = conv(f"{_NON_NEGATIVE}_core_{j}", z, positive, strides=stride, use_bias=False)
      size = (*core.shape[:-1], images.shape[-1])
      small = jax.image.resize(images, size, "linear", antialias=False)
      z = _softplus(core + conv(f"skip_{j}", small, self.kernel_init), self.beta)
    last = self.param(f"{_NON_NEGATIVE}_output", positive, (self.features,))
    square = jnp.asarray(self.alpha, images.dtype) * jnp.sum(images**2, (1, 2, 3))
    return (jnp.sum(z, (1, 2)) @ last + square).reshape(x.shape[:-3])


def _softplus(t: Array, beta: ArrayLike) -> Array:
  """log(1 + exp(beta t)) / beta without overflow."""
  scale = jnp.asarray(beta, t.dtype)
  return jax.nn.softplus(scale * t) / scale


def log_normal(mean: ArrayLike = -10.0, *, deviation: ArrayLike = 0.1) -> Callable[..., Array]:
  r"""Initializer of weights that must not be negative: exp(N(mean, deviation^2)).

  Args:
    mean: of the logarithm, a scalar; -10 starts near 0 (4.5e-5) and leaves the skip connections
      alone at first.
    deviation: standard deviation of the logarithm, >= 0, a scalar.

  Returns:
    ``init(key, shape, dtype=float32) -> float[shape]``, as linen's initializers.

  Raises:
    ValueError: when ``deviation`` is negative, or a number is no scalar.

  Example:
    >>> log_normal(0.0, deviation=0.0)(jax.random.key(0), (2,))
    Array([1., 1.], dtype=float32)

  Reference:
    Fang, Buchanan and Sulam, What's in a prior? Learned proximal networks for inverse problems,
    2024 (the initial weights of their image networks).
  """
  mean = _checks.check_float_array("mean", mean, rank=0)
  _checks.check_non_negative("deviation", deviation, scalar=True)

  def init(key: Array, shape: Sequence[int], dtype: Any = jnp.float32) -> Array:
    spread = jnp.asarray(deviation, dtype) * jax.random.normal(key, shape, dtype)
    return jnp.exp(mean.astype(dtype) + spread)

  return init


def nonnegative_mask(params: PyTree) -> PyTree:
  r"""Marks the weights that must not be negative for a network to be convex in its input.

  These are the leaves below a key that begins with "nonnegative", in ``ICNN``, in ``ConvICNN`` and
  in your own networks. After every step of an optimizer they are projected on [0, inf):
  ``optax.chain(optax.adam(s), optax.masked(optax.keep_params_nonnegative(), nonnegative_mask))``.

  Args:
    params: pytree of dicts, such as what ``ICNN(...).init`` returns; arrays or their shapes.

  Returns:
    pytree of bools like ``params``.

  Raises:
    ValueError: when no leaf is marked.

  Note:
    Initial weights that are negative, as of other initializers, move to 0 in the first step.

  Example:
    >>> params = ICNN(features=4).init(jax.random.key(0), jnp.ones(2))
    >>> nonnegative_mask(params)["params"]["nonnegative_output"]
    True

  Reference:
    Amos, Xu and Kolter, Input convex neural networks, 2017, proposition 1.
  """

  def is_marked(path: tuple, _: Any) -> bool:
    return any(str(getattr(key, "key", "")).startswith(_NON_NEGATIVE) for key in path)

  mask = jax.tree_util.tree_map_with_path(is_marked, params)
  if not any(jax.tree.leaves(mask)):
    raise ValueError(
      f"params must hold a key that begins with {_NON_NEGATIVE!r}, as those of ICNN do; got "
      f"{jax.tree.structure(params)!s:.200}."
    )
  return mask


def from_nnx(model: Any) -> tuple[Callable[..., Any], PyTree]:
  """Splits an nnx model into a pure function and its parameters.

  Args:
    model: a ``flax.nnx.Module`` instance that is called with ``x``.

  Returns:
    ``(apply_fn, params)`` with ``apply_fn(params, x, *, key=None)``. State that is no parameter
    (batch statistics, say) stays as it was; ``key`` is passed on as ``rngs`` when it is given.

  Raises:
    TypeError: when ``model`` is no ``flax.nnx.Module``.

  Example:
    >>> from flax import nnx
    >>> apply_fn, params = from_nnx(nnx.Linear(2, 3, rngs=nnx.Rngs(0)))
    >>> apply_fn(params, jnp.ones((4, 2))).shape
    (4, 3)

  Reference:
    The functional interface of nnx in the Flax documentation (``nnx.split``, ``nnx.merge``).
  """
  if not isinstance(model, nnx.Module):
    raise TypeError(f"model must be a flax.nnx.Module; got {type(model).__name__}.")
  parts: Any = nnx.split(model, nnx.Param, ...)  # its annotation does not know three parts
  graph, params, rest = parts

  def apply_fn(params: PyTree, x: Array, *, key: Array | None = None) -> Any:
    merged = nnx.merge(graph, params, rest)
    if key is None:
      return merged(jnp.asarray(x))
    return merged(jnp.asarray(x), rngs=nnx.Rngs(_checks.check_key("key", key)))

  return apply_fn, params
