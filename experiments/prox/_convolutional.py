"""Convolutional denoisers of photographs, non-local means, and whether an operator is a gradient."""

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
_WEIGHTS = np.array([1, 4, 6, 4, 1]) / 16


def convolve(
  x: jax.Array, kernel: jax.Array, strides: Any, padding: Any = "SAME", **_: Any
) -> jax.Array:
  """Convolution as one matrix product of patches, NHWC and HWIO: fast on CPUs, twice derived too."""
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


def smooth(x: jax.Array) -> jax.Array:
  """Binomial weights over 5 x 5 pixels of an image with mirrored borders."""
  for axis in (0, 1):
    padded = jnp.pad(x, [(2, 2) if axis == a else (0, 0) for a in (0, 1)], "symmetric")
    parts = [jax.lax.slice_in_dim(padded, k, k + x.shape[axis], axis=axis) for k in range(5)]
    x = sum(float(w) * part for w, part in zip(_WEIGHTS, parts, strict=True))
  return x


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

  Both see what smoothing takes away, in units of the noise, and leave the smooth part as it is (up
  to a second smoothing in the convex one, whose quadratic is half the square of the smooth part).
  """
  s, example = config.sigma, jnp.zeros((8, 8, 1))
  if name == lib.LEARNED:
    net = nets.ConvICNN(
      features=config.features, strides=(1,) * config.layers, beta=config.beta, alpha=0.0,
      nonnegative_init=nets.log_normal(config.log_weight), conv_general_dilated=convolve,
    )  # fmt: skip

    def potential(params: Any, x: jax.Array) -> jax.Array:
      low = smooth(x)
      square = jnp.sum(low**2) / 2 + config.alpha * jnp.sum(x**2)
      return s**2 * net.apply(params, (x - low)[..., None] / s) + square

    operator = prox.make_prox_from_potential(potential)
    of = lambda params, x: operator(x, params)
    return lib.Network(lambda key: net.init(key, example), of, of, potential)
  plain = Plain(config.features, config.layers + 1)
  of = lambda params, x: x - s * plain.apply(params, (x - smooth(x))[..., None] / s)[..., 0]
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
