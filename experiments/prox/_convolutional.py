"""Convolutional denoisers of photographs, non-local means, and the shape of a Jacobian."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen

from experiments.prox import _learned_images as lib
from jaxopt_robust import nets, prox, sweeps

NLM = "non-local means"
METHODS = (lib.LEARNED, lib.PLAIN, NLM, lib.TV)
KERNEL = (3, 3)
# Piecewise linear framelets (Ron and Shen, 1997): one smooth filter and two of differences an axis.
_LINE = np.array([[1, 2, 1], [2**0.5, 0, -(2**0.5)], [-1, 2, -1]]) / 4
_FRAMELETS = np.einsum("ai,bj->ijab", _LINE, _LINE).reshape(3, 3, 1, 9)


def convolve(
  x: jax.Array, kernel: jax.Array, strides: Any, padding: Any = "SAME", **_: Any
) -> jax.Array:
  """Convolution (NHWC, HWIO) as one product of patches and a matrix: fast on CPUs."""
  rows, cols, _, out = kernel.shape
  pads = jax.lax.padtype_to_pads(x.shape[1:3], (rows, cols), strides, padding)
  padded = jnp.pad(x, [(0, 0), *pads, (0, 0)])
  ends = [n - k + 1 for n, k in zip(padded.shape[1:3], (rows, cols), strict=True)]
  cut = [
    padded[:, i : i + ends[0] : strides[0], j : j + ends[1] : strides[1]]
    for i in range(rows)
    for j in range(cols)
  ]
  return jnp.concatenate(cut, axis=-1) @ kernel.reshape(-1, out)


def framelets(x: jax.Array) -> jax.Array:
  """Coefficients float[rows, cols, 9] of an image with mirrored borders; the first is smooth.

  Their squares sum to that of the image: nine filters W_k with sum_k W_k^T W_k = 1.
  """
  padded = jnp.pad(x, 1, "symmetric")[None, ..., None]
  return convolve(padded, jnp.asarray(_FRAMELETS, x.dtype), (1, 1), "VALID")[0]


class Plain(linen.Module):
  """Convolutions with ReLUs between them; one channel in, one out."""

  features: int
  layers: int

  @linen.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    for _ in range(self.layers):
      x = jax.nn.relu(linen.Conv(self.features, KERNEL, conv_general_dilated=convolve)(x))
    return linen.Conv(1, KERNEL, conv_general_dilated=convolve)(x)


@functools.cache
def make_network(name: str, config: Any) -> lib.Network:
  """The gradient of a convex convolutional network, or a plain network of as many weights.

  Both see the eight framelets that are not smooth, in units of the noise, and leave the smooth part
  as it is.
  """
  s, example = config.sigma, jnp.zeros((8, 8, 8))
  if name == lib.LEARNED:
    net = nets.ConvICNN(
      features=config.features, strides=(1,) * config.layers, beta=config.beta, alpha=0.0,
      nonnegative_init=nets.log_normal(config.log_weight), conv_general_dilated=convolve,
    )  # fmt: skip

    def potential(params: Any, x: jax.Array) -> jax.Array:
      parts = framelets(x)
      square = jnp.sum(parts[..., 0] ** 2) / 2 + config.alpha * jnp.sum(x**2)
      return s**2 * net.apply(params, parts[..., 1:] / s) + square

    operator = prox.make_prox_from_potential(potential)
    of = lambda params, x: operator(x, params)
    return lib.Network(lambda key: net.init(key, example), of, of, potential)
  plain = Plain(config.features, config.layers + 1)
  of = lambda params, x: x - s * plain.apply(params, framelets(x)[None, ..., 1:] / s)[0, ..., 0]
  return lib.Network(lambda key: plain.init(key, example), of, of, None)


def non_local_means(config: Any) -> Callable[[np.ndarray], np.ndarray]:
  """scikit-image's, for the noise that the networks learn to remove."""
  from skimage import restoration

  def denoise(x: np.ndarray) -> np.ndarray:
    return restoration.denoise_nl_means(
      x, patch_size=5, patch_distance=6, h=config.filtering * config.sigma, sigma=config.sigma,
      fast_mode=True,
    )  # fmt: skip

  return denoise


def plug_in(
  denoise: Callable[[np.ndarray], np.ndarray], weight: float, back: Any, task: lib.Task, steps: int
) -> lib.Solved:
  """The plug-and-play ADMM of ``lib.make_solve`` for an operator in NumPy."""
  factors, signs, c = (np.asarray(v, float) for v in task)
  back = np.asarray(back, float)
  z, u, errors = back, np.zeros_like(back), []
  for _ in range(steps):
    x = denoise(z - u)
    v = back + weight * (x + u)
    new = signs * (c.T @ ((c @ (signs * v) @ c.T) / (factors + weight)) @ c)
    u = u + x - new
    errors.append(np.hypot(np.linalg.norm(x - new), weight * np.linalg.norm(new - z)))
    z = new
  return lib.Solved(x, np.array(errors))


@functools.cache
def make_shape_of_jacobian(name: str, config: Any) -> Callable[..., Any]:
  """``shape(params, points)`` per seed: greatest asymmetry and least eigenvalue over its points.

  Asymmetry is ||J - J^T||_F / ||J||_F; the eigenvalue is that of the symmetric part.
  """
  network = make_network(name, config)

  def one(params: Any, points: jax.Array) -> Any:
    def shape(x: jax.Array) -> Any:
      jacobian = jax.jacfwd(lambda v: network.image(params, v.reshape(x.shape)).ravel())(x.ravel())
      off = jnp.linalg.norm(jacobian - jacobian.T) / jnp.linalg.norm(jacobian)
      return off, jnp.linalg.eigvalsh((jacobian + jacobian.T) / 2)[0]

    off, least = jax.lax.map(shape, points)
    return jnp.max(off), jnp.min(least)

  return jax.jit(sweeps.sweep(one))
