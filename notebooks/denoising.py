# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% tags=["hide-cell"]
# Install on Colab or anywhere else; nothing happens where the library is there already.
import glob
import importlib.util
import subprocess
import sys

REPOSITORY = ""  # the address of the repository, filled in when the notebook is published

if importlib.util.find_spec("jaxopt_robust") is None:
  wheels = sorted(glob.glob("jaxopt_robust-*.whl"))  # a wheel beside the notebook comes first
  source = wheels[-1] if wheels else f"git+{REPOSITORY}" if REPOSITORY else "jaxopt-robust"
  print("installing", source)
  extras = ["matplotlib", "scikit-learn", "scikit-image"]
  subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", source, *extras], check=True)
else:
  print("jaxopt_robust is installed")

# %% [markdown]
# # Which noise is it? Denoising a photograph
#
# A noisy photograph is smoothed with a filter, and the filter takes the edges along. Total
# variation is the sum of all jumps between neighbouring pixels; among the images near the
# photograph, the one of least total variation has few jumps, and those it has are sharp. Two
# questions decide what comes out: *how strong*, and *near in which sense*.
#
# The strength is found here in three ways: on a grid, by gradient, and without any clean picture.
# Then the noise changes, pixels are lost instead of blurred, and the squared distance has to go.

# %%
import os

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from scipy import ndimage
from skimage import color, data, filters, restoration

import jaxopt_robust as jr

QUICK = "QUICK" in os.environ  # set by the tests: toy sizes
LOST = 0.25  # this share of the pixels is black or white in the second part: change me
PIXELS, BLOCK, GRID, STEPS = (32, 16, 3, 20) if QUICK else (128, 4, 8, 250)
SIGMA = 0.1  # standard deviation of the noise in the first part

# %% [markdown]
# With a larger share every method loses, and each needs a larger strength or window; the last
# figure shows shares from 0.1 to 0.4.
#
# ## Data
#
# Two photographs come with scikit-image. All settings, of all methods, are chosen on the astronaut,
# whose clean picture we may look at. The numbers that count are those of the camera man.


# %%
def shrink(picture):
  """Averages blocks of pixels."""
  picture = picture[: PIXELS * BLOCK, : PIXELS * BLOCK]
  return picture.reshape(PIXELS, BLOCK, PIXELS, BLOCK).mean((1, 3)).astype(np.float32)


rng = np.random.default_rng(0)
tuning, camera = shrink(color.rgb2gray(data.astronaut())), shrink(data.camera() / 255)
truths = {"tuning": tuning, "camera": camera}
noisy = {
  name: (truth + SIGMA * rng.normal(size=truth.shape)).astype(np.float32)
  for name, truth in truths.items()
}


def psnr(picture, truth):
  """Peak signal-to-noise ratio in dB: 20 is bad, 30 is good."""
  return -10 * jnp.log10(jnp.mean((picture - truth) ** 2))


def tuned(method, settings, pictures):
  """The setting that is best on the astronaut, and the camera man with it."""
  levels = [float(psnr(method(pictures["tuning"], setting), tuning)) for setting in settings]
  best = int(np.argmax(levels))
  return settings[best], np.asarray(method(pictures["camera"], settings[best]))


# %% [markdown]
# ## How strong? A grid, a gradient, and no clean picture at all
#
# `jr.prox.prox_tv2d` is the solution of min 1/2 ||y - x||² + strength TV(y). It is a function of
# the strength like any other: `vmap` runs a grid of strengths, `grad` gives the slope of the error.
#
# Without a clean picture the error can still be estimated, as long as the noise is Gaussian of
# known size (Stein, 1981): mean squared error = ||denoised - noisy||²/n - σ² + 2σ² divergence/n,
# where the divergence of the denoiser, the sum of its partial derivatives, is bᵀ J b on average
# over random signs b. `jax.jvp` gives J b, at the price of one more solve.


# %%
def denoise(picture, log_strength):
  return jr.prox.prox_tv2d(picture, jnp.exp(log_strength), tol=1e-4)


def error(log_strength, picture, truth):
  return jnp.mean((denoise(picture, log_strength) - truth) ** 2)


def estimated_error(log_strength, picture, signs, truth):
  """The estimate, which does not look at the truth, and the error."""
  out, moved = jax.jvp(lambda p: denoise(p, log_strength), (picture,), (signs,))
  distance = jnp.mean((out - picture) ** 2)
  estimate = distance - SIGMA**2 + 2 * SIGMA**2 * jnp.mean(signs * moved)
  return estimate, jnp.mean((out - truth) ** 2)


# The slope tells on which side of a strength the best one is: bisection.
evaluate = jax.jit(jax.value_and_grad(error))
bounds, path = [np.log(0.01), np.log(1.0)], []
for _ in range(3 if QUICK else 9):
  middle = sum(bounds) / 2
  value, slope = evaluate(middle, noisy["tuning"], tuning)
  path.append((np.exp(middle), float(value)))
  bounds[int(slope > 0)] = middle
by_gradient = min(path, key=lambda point: point[1])[0]

strengths = np.geomspace(0.02, 0.3, GRID).astype(np.float32)
signs = np.sign(rng.normal(size=camera.shape)).astype(np.float32)
stein = jax.jit(jax.vmap(estimated_error, in_axes=(0, None, None, None)))
estimates, errors = stein(np.log(strengths), noisy["camera"], signs, camera)
by_stein, really_best = strengths[np.argmin(estimates)], strengths[np.argmin(errors)]
print(
  f"best strength for the astronaut, by {len(path)} slopes: {by_gradient:.3f}; for the camera man, "
  f"without a clean picture: {by_stein:.3f} (really best of the grid: {really_best:.3f})"
)

# %% [markdown]
# The estimate follows the true error of the camera man closely although it never saw the clean
# picture: with Gaussian noise of known size no validation picture is needed.
#
# ## Against two filters
#
# Gaussian smoothing, and non-local means, which averages pixels whose surroundings look alike. Both
# are tuned on the astronaut like total variation.

# %%
results = {}
smooth = lambda picture, width: filters.gaussian(picture, width)
alike = lambda picture, h: restoration.denoise_nl_means(
  picture, patch_size=5, patch_distance=6, h=h, sigma=SIGMA, fast_mode=True
)
results["Gaussian filter"] = tuned(smooth, np.linspace(0.4, 1.6, 7), noisy)
results["non-local means"] = tuned(alike, np.linspace(0.03, 0.15, 7), noisy)
for name, place in (("total variation", by_gradient), ("the same, by Stein", by_stein)):
  results[name] = place, np.asarray(jax.jit(denoise)(noisy["camera"], jnp.log(place)))
print(f"{'noisy':>20}: {psnr(noisy['camera'], camera):.1f} dB")
for name, (setting, picture) in results.items():
  print(f"{name:>20}: {psnr(picture, camera):.1f} dB, setting {setting:.3f}")


# %%
def show(axis, picture, name):
  axis.imshow(picture, cmap="gray", vmin=0, vmax=1)
  title = name if picture is camera else f"{name}: {psnr(picture, camera):.1f} dB"
  axis.set_title(title, fontsize="small")
  axis.set_axis_off()


figure, axes = plt.subplots(
  1, 6, figsize=(15, 3.2), layout="constrained", width_ratios=[1.3] + 5 * [1]
)
axes[0].plot(*zip(*path, strict=True), "o", ms=4, label="astronaut, bisection")
axes[0].plot(strengths, errors, label="camera man")
axes[0].plot(strengths, estimates, "--", color="C1", label="estimate (Stein)")
axes[0].set(xscale="log", xlabel="strength", ylabel="mean squared error")
axes[0].set_xticks([0.03, 0.1, 0.3], ["0.03", "0.1", "0.3"])
axes[0].set_xticks([], minor=True)
axes[0].legend(fontsize="x-small")
show(axes[1], camera, "camera man")
show(axes[2], noisy["camera"], "noisy")
for axis, name in zip(axes[3:], list(results)[:3], strict=True):
  show(axis, results[name][1], name)
plt.show()

# %% [markdown]
# Total variation keeps the edges and beats the Gaussian filter; what it loses is texture, such as
# grass. Non-local means does better on this noise: similar patches are many in a photograph. What
# total variation has is that it is one term of an objective, and the other term can be changed.
#
# ## Lost pixels
#
# Now a share of the pixels is replaced by black or white. The squared distance counts such a pixel
# a hundred times as much as a slightly noisy one, so that the solution gives in to it. The absolute
# distance counts it by its size: min ||x - y||₁ + strength TV(x). Neither term is smooth, and one
# of them sits behind the differences K; the method of Chambolle and Pock wants no more than the
# operator of each term and products with K and its transpose, which JAX derives.


# %%
def differences(x):
  down, across = jnp.diff(x, axis=0), jnp.diff(x, axis=1)
  return jnp.stack([jnp.pad(down, ((0, 1), (0, 0))), jnp.pad(across, ((0, 0), (0, 1)))], -1)


def prox_distance(x, y, scaling):
  """The operator of ||x - y||₁."""
  return y + jr.prox.prox_lasso(x - y, 1.0, scaling)


step = 0.99 / 8**0.5  # the norm of the differences is below the root of 8
solver = jr.solvers.chambolle_pock(
  prox_distance, jr.prox.prox_l21, differences, stepsize=step, dual_stepsize=step
)


def repair(picture, strength):
  data = (picture, strength)
  return jr.solvers.run_until(solver, picture, data, tol=1e-2, max_steps=STEPS)[0]


def repair_squared(picture, strength):
  return jr.prox.prox_tv2d(picture, strength, tol=1e-3)


def lose(picture, share):
  lost = rng.random(picture.shape) < share
  return np.where(lost, rng.integers(0, 2, picture.shape), picture).astype(np.float32)


def tuned_together(method, strengths):
  """As ``tuned``, for all shares and strengths in one call."""
  each = jax.vmap(lambda picture: jax.vmap(lambda s: psnr(method(picture, s), tuning))(strengths))
  best = strengths[np.argmax(jax.jit(each)(lossy["tuning"]), axis=1)]
  return np.asarray(jax.jit(jax.vmap(method))(lossy["camera"], best))


median = lambda picture, size: ndimage.median_filter(picture, size)
nearby = lambda picture, h: restoration.denoise_nl_means(
  picture, patch_size=5, patch_distance=6, h=h, fast_mode=True
)
shares = sorted({0.1, LOST, 0.4})
lossy = {name: np.stack([lose(truth, s) for s in shares]) for name, truth in truths.items()}
by_share = [{name: pictures[i] for name, pictures in lossy.items()} for i in range(len(shares))]
repaired = {
  "total variation, l1": tuned_together(repair, np.float32(np.geomspace(0.4, 1.6, GRID))),
  "total variation, squared": tuned_together(
    repair_squared, np.float32(np.geomspace(0.05, 1.6, GRID))
  ),
  "median filter": [tuned(median, [3, 5, 7, 9], pictures)[1] for pictures in by_share],
  "non-local means": [tuned(nearby, np.linspace(0.1, 0.7, 7), p)[1] for p in by_share],
}
levels = {name: [float(psnr(p, camera)) for p in pictures] for name, pictures in repaired.items()}
for place, share in enumerate(shares):
  print(f"{share:.0%} lost: " + ", ".join(f"{n} {v[place]:.1f} dB" for n, v in levels.items()))

# %%
figure, axes = plt.subplots(
  1, 6, figsize=(15, 3.2), layout="constrained", width_ratios=[1.3] + 5 * [1]
)
for name, values in levels.items():
  axes[0].plot(shares, values, "o-", ms=3, label=name)
axes[0].set(xlabel="share of lost pixels", ylabel="PSNR (dB)")
axes[0].legend(fontsize="x-small")
show(axes[1], lossy["camera"][shares.index(LOST)], "lost pixels")
for axis, (name, pictures) in zip(axes[2:], repaired.items(), strict=True):
  show(axis, pictures[shares.index(LOST)], name)
plt.show()

# %% [markdown]
# With the absolute distance the picture comes back; the squared distance and non-local means, best
# before, do not recover from it. The median filter is the classical answer and holds its own where
# few pixels are lost, but it rounds corners everywhere, also where nothing was lost.
#
# ## The next function to try
#
# - `jr.solvers.condat_vu`: with a blur in the smooth term, it deblurs.
# - `jr.solvers.admm`: fewer and dearer steps for the same problems.
# - `jr.prox.make_prox_from_potential`: an operator that was learned from pictures, in place of
#   total variation.
