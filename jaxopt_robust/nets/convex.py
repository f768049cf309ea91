"""Networks that are convex in their input."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen

from jaxopt_robust import _checks
from jaxopt_robust.typing import Array, ArrayLike, PyTree

__all__ = ["ICNN", "ConvICNN", "log_normal", "nonnegative_mask"]

# Parameters whose name, or whose module's name, begins like this must not be negative.
_NON_NEGATIVE = "nonnegative"


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
