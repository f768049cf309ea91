"""Total variation of one long line: exact here, against iterative peers at one accuracy."""

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks._timing import Contender, Row, compiled, copy_seconds, loosest, peer
from jaxopt_robust import prox

BOUND = 1e-4


def objective(y, x, lam: float) -> float:
  """The objective in float64."""
  y = np.asarray(y, np.float64)
  return 0.5 * np.sum((y - x) ** 2) + lam * np.abs(np.diff(y)).sum()


def build(size: str) -> Row:
  """A piecewise constant line with noise of half the size of the jumps."""
  length, lam = (2000, 1.0) if size == "toy" else (1_000_000, 1.0)
  rng = np.random.default_rng(0)
  levels = np.repeat(rng.standard_normal(length // 100), 100)
  x = (levels + 0.5 * rng.standard_normal(length)).astype(np.float32)
  wide = x.astype(np.float64)
  with jax.enable_x64(True):
    best = objective(prox.prox_tv1d(jnp.asarray(wide), lam), wide, lam)
  gap = lambda y: objective(y, wide, lam) / best - 1

  run = jax.jit(prox.prox_tv1d)
  arrays = (jnp.asarray(x), jnp.float32(lam))
  contenders = [compiled("jaxopt_robust: exact", run, *arrays, ours=True, accuracy=gap)]
  counts = (10, 20, 40, 80, 160, 320)
  if pyproximal := peer("pyproximal"):

    def their(inverse):
      steps = round(1 / inverse)
      op = pyproximal.TV(dims=(length,), sigma=lam, niter=steps, rtol=0.0)
      return Contender("pyproximal: TV", lambda: op.prox(x, 1.0), accuracy=gap)

    contenders.append(loosest(their, BOUND, tolerances=tuple(1 / c for c in counts)))
  if restoration := peer("skimage.restoration"):

    def chambolle(inverse):
      steps = round(1 / inverse)
      call = lambda: restoration.denoise_tv_chambolle(x, weight=lam, eps=0, max_num_iter=steps)
      return Contender("scikit-image: denoise_tv_chambolle", call, accuracy=gap)

    contenders.append(loosest(chambolle, BOUND, tolerances=tuple(1 / c for c in counts)))
  return Row(
    name="prox_tv1d",
    work=f"{length} float32 numbers in steps of 100, noise 0.5, strength {lam:g}",
    contenders=contenders,
    accuracy="objective above the exact one, relative",
    bound=BOUND,
    limit="memory bandwidth of a copy",
    limit_s=copy_seconds(2 * 4 * length),
    note="The peers' step counts are the smallest of a doubling list that meets the bound.",
  )
