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
# # A table of low rank, some of it grossly wrong, some of it missing
#
# A matrix of low rank has far fewer degrees of freedom than entries: ratings, sensors over time,
# pictures, roughly. So it can be recovered from few measurements, and from spoiled ones. What goes
# wrong in practice is that a few measurements are not noisy but *arbitrary*, and that nobody knows
# the rank. How many wrong numbers can be tolerated, and what has to be known for that?
#
# The matrix is a photograph here, so that one can see the errors.

# %%
import os

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from skimage import color, data

import jaxopt_robust as jr

QUICK = "QUICK" in os.environ  # set by the tests: toy sizes
RANK = 3  # of the pictures: change me
PIXELS, STEPS, SQUARED_STEPS = (16, 60, 30) if QUICK else (40, 500, 200)
SHARES = np.float32([0, 0.2] if QUICK else [0, 0.1, 0.2, 0.3, 0.4])  # of wrong numbers
SEEN = np.float32([0.3, 0.6] if QUICK else [0.2, 0.35, 0.5, 0.75])  # of the entries

# %% [markdown]
# With a larger rank every limit below comes sooner: fewer wrong numbers are tolerated and more
# entries must be seen. With `RANK = 40` the pictures stay as they are: only roughly of low rank, so
# that nothing is exact any more, and methods that are told the rank have nothing to be told.
#
# ## Data
#
# Two photographs of scikit-image, replaced by their best approximation of the rank above, so that
# exact recovery is possible and visible. All settings are chosen on the astronaut; the errors that
# are printed and drawn are those of the camera man.


# %%
def low_rank(picture, pixels):
  block = 512 // pixels
  square = picture[: pixels * block, : pixels * block]
  small = square.reshape(pixels, block, pixels, block).mean((1, 3))
  left, values, right = np.linalg.svd(small, full_matrices=False)
  return np.float32((left[:, :RANK] * values[None, :RANK]) @ right[:RANK])


both = [color.rgb2gray(data.astronaut()), data.camera() / 255]  # for tuning, for testing
pictures = np.stack([low_rank(picture, PIXELS) for picture in both])
relative = lambda x, truth: jnp.linalg.norm(x - truth) / jnp.linalg.norm(truth)


def tuned(errors):
  """The camera man's error where the setting is the astronaut's best; [picture, share, setting]."""
  errors = np.nan_to_num(np.asarray(errors), nan=np.inf)
  best = errors[0].argmin(-1)
  return np.take_along_axis(errors[1], best[:, None], 1)[:, 0]


def report(title, shares, curves):
  print(f"{title:>32} " + " ".join(f"{share:6.0%}" for share in shares))
  for name, values in curves.items():
    print(f"{name:>32} " + " ".join(f"{value:6.3f}" for value in values))


# %% [markdown]
# ## Random measurements, the rank unknown
#
# Each measurement is a random mixture of all pixels, and there are fewer measurements than pixels.
# Some of them are wrong by ten times their usual size. The matrix is written as a product of two
# factors, as wide as the matrix itself, for nobody knows the rank, and starts near zero.
#
# With the squared loss, gradient descent from there fits the wrong numbers. The sub-gradient method
# on the absolute loss does not: large errors pull with the same force as small ones. The steps of
# `residual_proportional` follow the size of the typical residual, so that they need neither the
# rank nor the share of outliers. The squared loss gets its best of five step sizes and its best
# stopping time, both chosen on the astronaut for each share.

# %%
side = min(PIXELS, 32)
small = np.stack([low_rank(picture, side) for picture in both])
count = int(0.95 * side**2)
operator = jax.jit(lambda key: jr.recovery.make_gaussian_sensing(key, count, side, side))(
  jax.random.key(0)
)


def measure(op, truth, share):
  clean = op.apply(truth)
  y = jr.recovery.bernoulli_outliers(
    jax.random.key(1), clean, rate=share, scale=10 * jnp.std(clean)
  ).y
  return y, jr.recovery.sign_spectral(op, y, side, alpha=1e-3, kind="general")


def absolute(op, truth, share):
  y, start = measure(op, truth, share)
  steps = jr.recovery.residual_proportional(eta0=0.25)
  factors, trace = jr.recovery.subgm(op, y, start, tx=steps, num_steps=STEPS, truth=truth)
  return jr.recovery.compose(factors), trace.err / jnp.linalg.norm(truth)


def squared(op, truth, share, rate):
  y, start = measure(op, truth, share)
  solver = jr.recovery.subgradient_method(
    optax.sgd, value_and_subgrad=jr.recovery.squared_value_grad
  )
  _, infos = jr.solvers.run_steps(solver, start, rate, op, y, truth, num_steps=SQUARED_STEPS)
  return infos.err / jnp.linalg.norm(truth)


over_shares = jax.jit(jax.vmap(absolute, in_axes=(None, None, 0)))
found, errors = over_shares(operator, small[1], SHARES)
grid = jax.vmap(jax.vmap(jax.vmap(squared, (None, None, None, 0)), (None, None, 0, None)),
                (None, 0, None, None))  # fmt: skip
lines = jax.jit(grid)(operator, small, SHARES, np.geomspace(3e-4, 0.03, 5).astype(np.float32))
# Settings are a step size and a stopping time; what blows up counts as 2.
sensing = {
  "squared loss, tuned": np.minimum(tuned(lines.reshape(*lines.shape[:2], -1)), 2),
  "absolute loss, untuned": np.asarray(errors[:, -1]),
}
report(f"{count} random measurements, wrong", SHARES, sensing)

# %% [markdown]
# ## Wrong entries
#
# Now the entries themselves are seen, and some are replaced by black or white. Least squares is
# principal component analysis here: the best matrix of the known rank. Principal component pursuit
# splits the picture into a part of small nuclear norm and a part of small l1 norm; it is convex and
# is told nothing (one weight has a value that theory gives; here the best of three is taken too).
# The sub-gradient method on the absolute loss is told the rank.


# %%
def spoil(truth, share):
  key, value_key = jax.random.split(jax.random.key(2))
  wrong = jax.random.bernoulli(key, share, truth.shape)
  return jnp.where(wrong, jax.random.bernoulli(value_key, 0.5, truth.shape), truth)


def components(matrix):
  left, values, right = jnp.linalg.svd(matrix, full_matrices=False)
  return (left[:, :RANK] * values[None, :RANK]) @ right[:RANK]


def pursuit(matrix, factor, where=None):
  seen = 1.0 if where is None else jnp.mean(where)
  solver, lam = jr.recovery.pcp_ialm(), factor / jnp.sqrt(PIXELS * seen)
  return jr.recovery.robust_pca(
    matrix, solver=solver, lam=lam, where=where, tol=1e-4, max_steps=40
  )[0].low_rank


def told_rank(matrix, where=None):
  return jr.recovery.l1_robust_pca(matrix, RANK, where=where, num_steps=STEPS // 2)[0].low_rank


@jax.jit
@jax.vmap
def split(share):
  spoiled = jax.vmap(lambda truth: spoil(truth, share))(pictures)
  by_factor = jax.vmap(jax.vmap(pursuit, in_axes=(None, 0)), in_axes=(0, None))(spoiled, FACTORS)
  outputs = spoiled[1], components(spoiled[1]), by_factor[1, 1], told_rank(spoiled[1])
  pursued = jax.vmap(lambda xs, truth: jax.vmap(lambda x: relative(x, truth))(xs))
  return outputs, [relative(x, pictures[1]) for x in outputs], pursued(by_factor, pictures)


FACTORS = np.float32([0.7, 1.0, 1.4])  # times the weight of the theory
outputs, errors, pursued = split(SHARES)
names = ["spoiled", "principal components", "pursuit", "absolute loss, rank known"]
entries = {name: np.asarray(values) for name, values in zip(names, errors, strict=True)}
entries["pursuit, weight tuned"] = tuned(np.moveaxis(np.asarray(pursued), 1, 0))
report("all entries, wrong", SHARES, entries)

# %%
figure, axes = plt.subplots(1, 3, figsize=(13, 3.4), layout="constrained")
for name, values in sensing.items():
  axes[0].semilogy(SHARES, np.maximum(values, 1e-7), "o-", ms=3, label=name)
for name, values in entries.items():
  axes[1].semilogy(SHARES, np.maximum(values, 1e-7), "o-", ms=3, label=name)
shown = [small[1], *(found[i] for i in (1, -1))]
axes[0].set(xlabel="share of wrong measurements", ylabel="relative error")
axes[1].set(xlabel="share of wrong entries")
for axis in axes[:2]:
  axis.legend(fontsize="x-small")
axes[2].imshow(np.concatenate(shown, 1), cmap="gray", vmin=0, vmax=1)
axes[2].set_title(
  f"random measurements: truth, {SHARES[1]:.0%} wrong, {SHARES[-1]:.0%} wrong", fontsize="small"
)
axes[2].set_axis_off()
plt.show()

place = min(2, len(SHARES) - 1)
figure, axes = plt.subplots(1, 5, figsize=(13, 3), layout="constrained")
for axis, (name, picture) in zip(
  axes, [("truth", pictures[1]), *((n, o[place]) for n, o in zip(names, outputs, strict=True))],
  strict=True,
):  # fmt: skip
  axis.imshow(picture, cmap="gray", vmin=0, vmax=1)
  axis.set_title(
    f"{name} ({SHARES[place]:.0%} wrong)" if name == "spoiled" else name, fontsize="small"
  )
  axis.set_axis_off()
plt.show()

# %% [markdown]
# An error of 1 is that of a black picture. Without outliers the squared loss is exact; a tenth of
# wrong measurements is enough to make it useless. The absolute loss at full width is off by some
# percent after these steps, whether a tenth of the measurements is wrong or none, and degrades
# slowly from a share of about 0.2 on.
#
# Of single entries, pursuit and the absolute loss bring the picture back where principal components
# draw stripes. The one that knows the rank is exact up to higher shares, until it fails as well.
# The weight of pursuit needs no tuning until it fails.

# %% [markdown]
# ## Missing entries, and wrong ones among the rest
#
# Only a share of the entries is seen. Soft-impute minimises the squared error with a nuclear norm,
# at the best of four strengths; alternating least squares is told the rank. Both trust every entry.
# Then a tenth of the entries that are seen is black or white.


# %%
def look(truth, seen, share):
  """What is seen: a mask, the entries (0 elsewhere) and their operator."""
  where = jax.random.bernoulli(jax.random.key(3), seen, truth.shape)
  y = jnp.where(where, spoil(truth, share), 0)
  return where, y, jr.recovery.EntryMask(where)


def soft_impute(truth, seen, share):
  _, y, op = look(truth, seen, share)
  path, _ = jr.recovery.soft_impute_path(op, y.ravel(), STRENGTHS, tol=1e-3, max_steps=30)
  return jax.vmap(lambda x: relative(x, truth))(path)


def complete(truth, seen, share):
  where, y, op = look(truth, seen, share)
  factors, _ = jr.recovery.altmin_complete(
    op, y.ravel(), RANK, key=jax.random.key(4), solver="exact", num_rounds=10
  )
  untuned = jr.recovery.compose(factors), pursuit(y, 1.0, where), told_rank(y, where)
  return [relative(x, truth) for x in untuned]


STRENGTHS = np.float32([5, 1.5, 0.5, 0.15])
wrong = np.float32([0.0, 0.1])
on_grid = lambda f: jax.vmap(jax.vmap(f, in_axes=(None, 0, None)), in_axes=(None, None, 0))
by_strength = jax.jit(jax.vmap(on_grid(soft_impute), in_axes=(0, None, None)))(
  pictures, SEEN, wrong
)  # [picture, wrong, seen, strength]
untuned = np.asarray(jax.jit(on_grid(complete))(pictures[1], SEEN, wrong))
names = ["least squares, rank known", "pursuit", "absolute loss, rank known"]
figure, axes = plt.subplots(1, 2, figsize=(10, 3.4), layout="constrained", sharey=True)
for i, axis in enumerate(axes):
  curves = {"soft-impute, tuned": tuned(by_strength[:, i])}
  curves |= {name: values[i] for name, values in zip(names, untuned, strict=True)}
  report(f"seen, {wrong[i]:.0%} of them wrong", SEEN, curves)
  for name, values in curves.items():
    axis.semilogy(SEEN, np.maximum(values, 1e-7), "o-", ms=3, label=name)
  axis.set(xlabel="share of entries that are seen", title=f"{wrong[i]:.0%} of them wrong")
axes[0].set_ylabel("relative error")
axes[0].legend(fontsize="x-small")
plt.show()

# %% [markdown]
# Where every entry is right, all methods get there with enough of them. Least squares at the known
# rank needs the fewest, and is far off, worse than no answer, just below that. With a tenth of the
# entries wrong the trusting methods stay wrong however much is seen. The absolute loss is exact
# when three quarters are seen; pursuit, which knows nothing, is within some percent there.
#
# The sub-gradient method has a limit of its own. With random measurements the factors may be as
# wide as the matrix; with single entries they must have the true rank, or the surplus columns fit
# the outliers. So take pursuit where entries are seen and the rank is unknown.
#
# ## The next function to try
#
# - `jr.recovery.acc_alt_proj`: robust principal components of large matrices, the rank known.
# - `jr.recovery.als_complete` with `reweight=jr.recovery.huber_weights()`: ratings, after
#   `jr.recovery.biased_baseline`.
# - `jr.recovery.robust_recover`: random measurements without any setting, start included.
