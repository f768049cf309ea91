"""Votes of a small CNN under noise for certificates, against the same loop in PyTorch."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks._timing import Contender, Row, compiled, peer
from jaxopt_robust import robustness

CLASSES, SIGMA = 10, 0.5


def init(side: int, widths: tuple[int, int]) -> dict[str, np.ndarray]:
  """He initialisation of two 3 x 3 convolutions with stride 2 and a linear layer."""
  rng, (first, second) = np.random.default_rng(0), widths
  shapes = {
    "first": (3, 3, 1, first),
    "second": (3, 3, first, second),
    "last": ((side // 4) ** 2 * second, CLASSES),
  }
  scale = lambda shape: np.sqrt(2 / np.prod(shape[:-1]))
  return {k: (scale(s) * rng.standard_normal(s)).astype(np.float32) for k, s in shapes.items()}


def network(params: Any, x: jax.Array) -> jax.Array:
  """Scores of images [n, side, side, 1]."""
  for name in ("first", "second"):
    x = jax.lax.conv_general_dilated(
      x, params[name], (2, 2), [(1, 0), (1, 0)], dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    x = jax.nn.relu(x)
  return x.reshape(x.shape[0], -1) @ params["last"]


def build(size: str) -> Row:
  """The row: all draws of all images, a batch of draws of one image at a time."""
  side, num, draws, batch, widths = (
    (8, 2, 20, 10, (4, 4)) if size == "toy" else (28, 8, 1000, 250, (16, 32))
  )
  params = init(side, widths)
  x = np.random.default_rng(1).uniform(size=(num, side, side, 1)).astype(np.float32)
  keys = jax.random.split(jax.random.key(0), num)

  @jax.jit
  def ours(params, x, keys):
    one = lambda pair: robustness.vote_counts(
      functools.partial(network, params), *pair, sigma=SIGMA, num_samples=draws, batch_size=batch
    )
    return jax.lax.map(one, (x, keys))

  expected: list[np.ndarray] = []

  def difference(votes: Any) -> float:
    return float(np.abs(np.asarray(votes) / draws - expected[0]).max())

  arguments = jax.tree.map(jnp.asarray, params), jnp.asarray(x), keys
  contenders = [compiled("jaxopt_robust", ours, *arguments, ours=True, accuracy=difference)]
  expected.append(np.asarray(contenders[0].run()) / draws)
  if torch := peer("torch"):
    contenders.append(torch_votes(torch, params, x, draws, batch, difference))
  return Row(
    name="certify",
    work=f"{num} images of {side} x {side}, {draws} noise draws each, batches of {batch}, "
    "two convolutions",
    contenders=contenders,
    accuracy="largest difference in the share of votes (other draws)",
    bound=0.6 if size == "toy" else 0.1,  # six deviations of a share
    note="Noise and network: PyTorch draws from a sequential generator, JAX by counters, so that "
    "votes depend neither on the batch size nor on the number of devices.",
  )


def torch_votes(
  torch: Any, params: Any, x: np.ndarray, draws: int, batch: int, difference: Any
) -> Contender:
  """The same network and the same batches in PyTorch, without gradients."""
  kernels = [
    torch.from_numpy(np.ascontiguousarray(params[k].transpose(3, 2, 0, 1)))
    for k in ("first", "second")
  ]
  # Features in the order of PyTorch: channels first.
  second, side = kernels[1].shape[0], x.shape[1] // 4
  last = params["last"].reshape(side, side, second, CLASSES).transpose(2, 0, 1, 3)
  last = torch.from_numpy(np.ascontiguousarray(last.reshape(-1, CLASSES)))
  images = torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2)))
  relu, conv, pad = torch.relu, torch.nn.functional.conv2d, torch.nn.functional.pad

  def run() -> Any:
    found = []
    with torch.no_grad():
      for image in images:
        votes = torch.zeros(CLASSES, dtype=torch.int64)
        for _ in range(draws // batch):
          z = image[None] + SIGMA * torch.randn(batch, *image.shape)
          for kernel in kernels:
            z = relu(conv(pad(z, (1, 0, 1, 0)), kernel, stride=2))
          votes += torch.bincount((z.flatten(1) @ last).argmax(1), minlength=CLASSES)
        found.append(votes)
    return torch.stack(found).numpy()

  return Contender("PyTorch, the same loop", run, accuracy=difference)
