"""Convolutional denoisers of photographs, non-local means, and the shape of a Jacobian."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen

from experiments._convolution import convolve
from experiments._protocol import Progress
from experiments.prox import _learned_images as lib
from experiments.prox._photographs import decibels
from jaxopt_robust import nets, prox, sweeps

NLM = "non-local means"
METHODS = (lib.LEARNED, lib.PLAIN, NLM, lib.TV)
KERNEL = (3, 3)
# Piecewise linear framelets (Ron and Shen, 1997): one smooth filter and two of differences an axis.
_LINE = np.array([[1, 2, 1], [2**0.5, 0, -(2**0.5)], [-1, 2, -1]]) / 4


def framelets(x: jax.Array, levels: int) -> tuple[jax.Array, jax.Array]:
  """The smooth part of an image with mirrored borders, and float[rows, cols, 8 levels] of details.

  Their squares sum to that of the image: at each level, whose filters are twice as far apart,
  sum_k W_k^T W_k = 1.
  """
  details = []
  for step in (2**j for j in range(levels)):
    padded, parts = jnp.pad(x, step, "symmetric"), []
    rows = [padded[k * step : k * step + x.shape[0]] for k in range(3)]
    for line in _LINE:
      mixed = _mix(line, rows)
      cols = [mixed[:, k * step : k * step + x.shape[1]] for k in range(3)]
      parts += [_mix(other, cols) for other in _LINE]
    x, details = parts[0], [*details, *parts[1:]]
  return x, jnp.stack(details, axis=-1)


def _mix(weights: np.ndarray, parts: list[jax.Array]) -> jax.Array:
  return sum(float(w) * part for w, part in zip(weights, parts, strict=True) if w)


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

  Both see the details of the image, divided by a scale, and leave its smooth part as it is.
  """
  s, example = config.scale, jnp.zeros((8, 8, 8 * config.levels))
  if name == lib.LEARNED:
    net = nets.ConvICNN(
      features=config.features, strides=(1,) * config.layers, beta=config.beta, alpha=0.0,
      nonnegative_init=nets.log_normal(config.log_weight), conv_general_dilated=convolve,
    )  # fmt: skip

    def potential(params: Any, x: jax.Array) -> jax.Array:
      low, details = framelets(x, config.levels)
      # The slope of the smooth part is 1 in all: above, iterations would raise it again and again.
      square = (0.5 - config.alpha) * jnp.sum(low**2) + config.alpha * jnp.sum(x**2)
      return s**2 * net.apply(params, details / s) + square

    operator = prox.make_prox_from_potential(potential)
    of = lambda params, x: operator(x, params)
    return lib.Network(lambda key: net.init(key, example), of, of, potential)
  plain = Plain(config.features, config.layers + 1)

  def of(params: Any, x: jax.Array) -> jax.Array:
    _, details = framelets(x, config.levels)
    return x - s * plain.apply(params, details[None] / s)[0, ..., 0]

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


def restore(
  progress: Progress, name: str, config: Any, params: Any, settings: Any, truths: Any,
  noise: Any, task: str,
) -> tuple[np.ndarray, lib.Solved]:  # fmt: skip
  """Decibels, and pictures with their errors, for rows of (network, setting, square)."""
  operator, backs = lib.measure(config, truths, noise, task)
  if name == NLM:
    denoise = non_local_means(config)
    done = [
      plug_in(denoise, float(w), back, operator, config.iterations)
      for w, back in zip(settings, np.asarray(backs), strict=True)
    ]
    found = lib.Solved(*(np.stack(part) for part in zip(*done, strict=True)))
  else:
    solve = lib.make_solve(name, config, make_network)
    arguments = (params, jnp.asarray(settings, jnp.float32), backs, operator)
    found = progress.clock.call(solve, *arguments, name=f"{name}, ADMM")
  images = np.asarray(found.image)
  return np.array([decibels(x, t) for x, t in zip(images, truths, strict=True)]), found


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
