"""Isotropic total variation of an image to one accuracy, against scikit-image and pyproximal."""

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks._timing import Contender, Row, compiled, copy_seconds, loosest, peer
from jaxopt_robust import prox

BOUND = 1e-3


def objective(y, x, lam: float) -> float:
  """The objective in float64."""
  y = np.asarray(y, np.float64)
  down, right = np.diff(y, axis=0, append=y[-1:]), np.diff(y, axis=1, append=y[:, -1:])
  return 0.5 * np.sum((y - x) ** 2) + lam * np.sqrt(down**2 + right**2).sum()


def build(size: str) -> Row:
  """An image of rectangles with noise a tenth of their height."""
  side, lam = (24, 0.1) if size == "toy" else (512, 0.1)
  rng = np.random.default_rng(0)
  clean = np.kron(rng.random((8, 8)) > 0.5, np.ones((side // 8, side // 8)))
  x = (clean + 0.1 * rng.standard_normal((side, side))).astype(np.float32)
  wide = x.astype(np.float64)
  with jax.enable_x64(True):
    y, left = prox.prox_tv2d_with_gap(jnp.asarray(wide), lam, tol=1e-5, max_steps=4000)
    # A lower bound of the minimum, so that nobody's gap is understated.
    best = objective(y, wide, lam) * (1 - float(left))
  gap = lambda y: objective(y, wide, lam) / best - 1

  run = jax.jit(lambda x, lam, tol: prox.prox_tv2d(x, lam, tol=tol))
  ours = lambda tol: compiled(
    "jaxopt_robust: dual, accelerated", run, jnp.asarray(x), jnp.float32(lam), jnp.float32(tol),
    ours=True, accuracy=gap,
  )  # fmt: skip
  tolerances = tuple(10.0**-k for k in np.arange(1.0, 5.0, 0.25))
  contenders = [loosest(ours, BOUND, tolerances=tolerances)]
  counts = tuple(round(10 * 1.3**k) for k in range(19))
  if pyproximal := peer("pyproximal"):

    def their(inverse):
      steps = round(1 / inverse)
      op = pyproximal.TV(dims=(side, side), sigma=lam, niter=steps, rtol=0.0)
      call = lambda: op.prox(x.ravel(), 1.0).reshape(side, side)
      return Contender("pyproximal: TV", call, accuracy=gap)

    contenders.append(loosest(their, BOUND, tolerances=tuple(1 / c for c in counts)))
  if restoration := peer("skimage.restoration"):

    def chambolle(inverse):
      steps = round(1 / inverse)
      call = lambda: restoration.denoise_tv_chambolle(x, weight=lam, eps=0, max_num_iter=steps)
      return Contender("scikit-image: denoise_tv_chambolle", call, accuracy=gap)

    contenders.append(loosest(chambolle, BOUND, tolerances=tuple(1 / c for c in counts)))
  return Row(
    name="prox_tv2d",
    work=f"{side} x {side} float32 image of squares, noise 0.1, strength {lam:g}",
    contenders=contenders,
    accuracy="objective above the minimum, relative",
    bound=BOUND,
    limit="memory bandwidth of a copy (one read and write of the image)",
    limit_s=copy_seconds(2 * 4 * side * side),
    note="Each with the loosest tolerance, or the fewest steps of a list, that meets the bound.",
  )
