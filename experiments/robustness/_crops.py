"""Crops of photographs, an autoencoder of their patches, and an oracle on a network's features."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import _efficientnet, datasets
from experiments._training import batches
from jaxopt_robust import calibration, robustness

PARTS = ("train", "oracle", "val", "test")
# A small network for tests, with as many features as channels: programs are shared.
SMALL = (_efficientnet.Stage(1, 3, 1, 1, 6), _efficientnet.Stage(1, 3, 2, 2, 6))


class Network(NamedTuple):
  """EfficientNet: parameters, its stages, and after which blocks the oracle has a head too."""

  params: Any
  stages: tuple[_efficientnet.Stage, ...]
  after: tuple[int, ...]

  def pooled(self, params: Any, x: jax.Array) -> list[jax.Array]:
    """Means over the places after some blocks, then the features."""
    return _efficientnet.pooled(params, x, after=self.after, stages=self.stages)


class Patches(NamedTuple):
  """The generator: the principal components of patches, float[numbers] and float[numbers, k]."""

  mean: Any
  basis: Any


class Seed(NamedTuple):
  """One split: crops and photographs' numbers by part, the generator, and the oracle's heads."""

  x: dict[str, Any]
  y: dict[str, Any]
  rows: Any  # of the minibatches
  key: Any
  patches: Patches
  heads: Any = ()


def network(config: Any) -> Network:
  """The real network, or a small random one."""
  if config.data == "efficientnet":
    params = _efficientnet.parameters(datasets.load("efficientnet_lite0"))
    return Network(jax.tree.map(jnp.asarray, params), _efficientnet.LITE0, (7, 10))
  params = _efficientnet.random_parameters(0, stages=SMALL, stem=6, head=6, classes=4)
  return Network(jax.tree.map(jnp.asarray, params), SMALL, (0,))


def photographs() -> list[np.ndarray]:
  """All that scikit-image bundles, float32[rows, columns, 3]; grey ones three times."""
  images = [datasets.load(name)["image"] for name in datasets.BUNDLED_IMAGES]
  return [v if v.ndim == 3 else np.repeat(v[..., None], 3, axis=2) for v in images]


def cut(x: Any, width: int) -> Any:
  """Patches side by side: [batch, h, w, c] to [batch, h / width, w / width, numbers]."""
  batch, rows, columns, channels = x.shape
  x = x.reshape(batch, rows // width, width, columns // width, width, channels)
  return x.swapaxes(2, 3).reshape(batch, rows // width, columns // width, -1)


def paste(patches: Any, width: int) -> Any:
  """The inverse of ``cut``."""
  batch, rows, columns, numbers = patches.shape
  x = patches.reshape(batch, rows, columns, width, width, numbers // width**2)
  return x.swapaxes(2, 3).reshape(batch, rows * width, columns * width, -1)


def draw(seed: int, images: Sequence[np.ndarray], config: Any) -> Seed:
  """Crops of upright strips of every photograph; parts have strips of their own.

  Only the crops for training and for the oracle's heads come from the same strips.
  """
  rng, size = np.random.default_rng(seed), config.size
  made: dict[str, tuple[list, list]] = {part: ([], []) for part in PARTS}
  for label, image in enumerate(images):
    width = image.shape[1] // sum(config.strips)
    strips = np.split(rng.permutation(sum(config.strips)), np.cumsum(config.strips)[:-1])
    for part, own in zip(PARTS, (strips[0], *strips), strict=True):
      for _ in range(config.crops[PARTS.index(part)]):
        left = rng.choice(own) * width + rng.integers(width - size + 1)
        top = rng.integers(len(image) - size + 1)
        made[part][0].append(image[top : top + size, left : left + size])
        made[part][1].append(label)
  x = {part: np.stack(crops) for part, (crops, _) in made.items()}
  y = {part: np.array(labels, np.int32) for part, (_, labels) in made.items()}
  rows = batches(len(y["train"]), config.batch, config.epochs, seed)
  return Seed(x, y, rows, jax.random.key(seed), principal_patches(x["train"], config))


def principal_patches(x: np.ndarray, config: Any) -> Patches:
  """Mean and first principal components of the patches of some crops, in float64."""
  rows = cut(x, config.patch)
  rows = rows.reshape(-1, rows.shape[-1]).astype(np.float64)
  basis = np.linalg.eigh(np.cov(rows.T))[1][:, ::-1][:, : config.components]
  return Patches(np.float32(np.mean(rows, axis=0)), np.float32(basis))


def generator(
  patches: Patches, width: int
) -> tuple[Callable[[jax.Array], jax.Array], Callable[[jax.Array], jax.Array]]:
  """``encode`` and ``decode``; a step in the code is as long in pixels, where none is cut off."""
  mean, basis = jnp.asarray(patches.mean)[None, None, None], jnp.asarray(patches.basis)
  encode = lambda x: (cut(x, width) - mean) @ basis
  return encode, lambda z: jnp.clip(paste(z @ basis.T + mean, width), 0, 1)


def fit_head(x: jax.Array, y: jax.Array, classes: int, c: Any) -> Any:
  """Logistic regression on features of mean 0 and deviation 1, for features as they are."""
  mean, scale = jnp.mean(x, axis=0), jnp.std(x, axis=0) + 1e-3
  head, _ = calibration.logistic_head(
    (x - mean[None]) / scale[None], y, num_classes=classes, inverse_strength=c, tol=1e-3,
    max_steps=300,
  )  # fmt: skip
  return head._replace(weights=head.weights / scale[None], center=mean + scale * head.center)


def noisy_copies(
  patches: Patches, key: jax.Array, x: jax.Array, *, noise: float, width: int
) -> jax.Array:
  """Crops, and what the generator makes of their codes with noise."""
  encode, decode = generator(patches, width)
  code = encode(x)
  return jnp.concatenate([x, decode(code + noise * jax.random.normal(key, code.shape))])


def in_chunks(function: Callable[[Any], Any], x: np.ndarray, chunk: int) -> Any:
  """``function`` of some rows at a time, of one shape; what it returns, as NumPy arrays."""
  missing = -len(x) % chunk
  whole = np.concatenate([x, x[:missing]])
  parts = [function(whole[i : i + chunk]) for i in range(0, len(whole), chunk)]
  return jax.tree.map(lambda *leaves: np.concatenate(leaves)[: len(x)], *parts)


def oracle(net: Network, params: Any, heads: Sequence[Any]) -> Callable[[jax.Array], jax.Array]:
  """Photographs by the mean probability of the heads."""
  one = lambda i: lambda head, parts: calibration.linear_head_logits(head, parts[i])
  decide = robustness.oracle_ensemble([one(i) for i in range(len(heads))], heads)
  return lambda x: decide(net.pooled(params, x))
