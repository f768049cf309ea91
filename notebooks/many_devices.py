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
  extras = ["matplotlib", "scikit-learn", "orbax-checkpoint"]
  subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", source, *extras], check=True)
else:
  print("jaxopt_robust is installed")

# %% [markdown]
# # Hundreds of trainings, on all the devices there are
#
# Which strength of the penalty, which step size, and does it depend on the seed? The honest answer
# is a grid: every strength with every step size, several times. That is a few hundred trainings,
# and questions of another kind: how to use all devices of the machine, and what if the machine is
# switched off half way?
#
# Here the function is written for *one* training. Where the grid runs is decided by the machine.

# %%
import os
import shutil
import sys

# Without an accelerator: 8 pretended devices, to see the same program that 8 real ones would run.
# JAX must not be imported yet. On a machine with a GPU or TPU nothing is set here.
has_accelerator = shutil.which("nvidia-smi") or os.path.exists("/dev/accel0")
if "jax" not in sys.modules and not has_accelerator:
  flags = os.environ.get("XLA_FLAGS", "")
  os.environ["XLA_FLAGS"] = f"{flags} --xla_force_host_platform_device_count=8"

import _thread
import pathlib
import tempfile
import threading
import time

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from sklearn.datasets import load_digits

import jaxopt_robust as jr

QUICK = "QUICK" in os.environ  # set by the tests: a smaller grid and fewer steps
SEEDS = 2 if QUICK else 5  # change me: more seeds, narrower intervals; the time grows in proportion
STRENGTHS, STEPS = (4, 2) if QUICK else (12, 7)
NUM_STEPS, BATCH, NOISE = 20 if QUICK else 400, 100, 0.3
print(f"{jax.device_count()} devices: {jax.devices()[0].device_kind}")

# %% [markdown]
# ## One training
#
# Softmax regression on the digits of scikit-learn, to which we add as many columns of pure noise as
# there are pixels, and wrong labels. A group penalty on the rows of the weights, all ten classes of
# a column together, should move the weight to the columns that matter: proximal stochastic gradient
# descent, an optax chain whose last link is the proximal step.
#
# A *point* of the grid is a strength, a step size and a seed, which decides the wrong labels, the
# noise columns and the batches. The data come as further arguments: they are no constants of the
# program.

# %%
digits = load_digits()
order = np.random.default_rng(0).permutation(len(digits.target))
pixels = ((digits.data - digits.data.mean(0)) / 6.0)[order].astype(np.float32)
labels = digits.target[order].astype(np.int32)
num_train, num_validation = 300, 700  # the others are the test


def accuracy(logits, y):
  return jnp.mean(jnp.argmax(logits, axis=1) == y)


def train(point, pixels, labels):
  noise_key, label_key, flip_key, batch_key = jax.random.split(point["key"], 4)
  x = jnp.concatenate([pixels, jax.random.normal(noise_key, pixels.shape)], axis=1)
  flips = jax.random.bernoulli(flip_key, NOISE, (num_train,))
  drawn = jax.random.randint(label_key, (num_train,), 0, 10)
  y = jnp.where(flips, drawn, labels[:num_train])
  chain = optax.chain(
    optax.sgd(point["step"]),
    jr.transforms.proximal(jr.prox.prox_l21, point["strength"], learning_rate=point["step"]),
  )

  def loss(weights, rows):
    logits = x[rows] @ weights
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, y[rows]))

  def step(carry, key):
    weights, state = carry
    rows = jax.random.randint(key, (BATCH,), 0, num_train)
    updates, state = chain.update(jax.grad(loss)(weights, rows), state, weights)
    return (optax.apply_updates(weights, updates), state), None

  weights = jnp.zeros((x.shape[1], 10))
  keys = jax.random.split(batch_key, NUM_STEPS)
  weights, _ = jax.lax.scan(step, (weights, chain.init(weights)), keys)[0]
  logits = x @ weights
  end = num_train + num_validation
  squares = jnp.sum(weights**2, axis=1)
  return {
    "validation": accuracy(logits[num_train:end], labels[num_train:end]),
    "test": accuracy(logits[end:], labels[end:]),
    "noise": jnp.sum(squares[64:]) / jnp.maximum(jnp.sum(squares), 1e-12),
  }


# %% [markdown]
# ## The grid
#
# All combinations as one pytree of arrays, a row a point; the seed is a typed key like any other
# value.

# %%
strengths = np.geomspace(0.003, 0.3, STRENGTHS, dtype=np.float32)
steps = np.geomspace(0.001, 1.0, STEPS, dtype=np.float32)
keys = jax.random.split(jax.random.key(0), SEEDS)
grid = jr.sweeps.product_grid(strength=strengths, step=steps, key=keys)
print(f"{len(grid['strength'])} trainings")

# %% [markdown]
# ## Started, and stopped half way
#
# `jr.sweeps.run` splits the grid over all devices, works it off in chunks and writes each finished
# chunk to a store. We play the person who presses *stop*: a thread that waits until half of the
# chunks are there and then interrupts.

# %%
folder = pathlib.Path(tempfile.mkdtemp()) / "store"
devices = jax.device_count()
chunk = -(-len(grid["step"]) // (12 * devices)) * devices  # points: about 12 chunks
half = -(-len(grid["step"]) // chunk) // 2
lock, running = threading.Lock(), True


def press_stop():
  while True:
    with lock:
      if not running:
        return
      if len(list(folder.glob("chunk_*"))) >= half:
        _thread.interrupt_main()
        return
    time.sleep(0.01)


def sweep():
  return jr.sweeps.run(
    train, grid, shared=(pixels, labels), store=folder, chunk=chunk, progress=False
  )


stopper = threading.Thread(target=press_stop)
stopper.start()
try:
  sweep()
  with lock:
    running = False
  print("finished before the interrupt came")
except KeyboardInterrupt:
  print(f"stopped: {len(list(folder.glob('chunk_*')))} chunks are in the store")
finally:
  with lock:
    running = False
  stopper.join()

# %% [markdown]
# ## Started again
#
# The same call. What was finished is read back, the rest is computed; the result has the bits of a
# run that was never stopped. After a power cut it is the same, only in a new process. A store
# belongs to its function, grid and data: change a line of `train` and it is refused, not mixed.

# %%
result = sweep()
print(f"{result.num_restored} points read from the store, {result.num_computed} computed now")
result = sweep()
print(f"once more: {result.num_restored} read, {result.num_computed} computed")

# %% [markdown]
# ## What the grid says
#
# Rows of the output are points in the order of the grid, so `reshape` gives the table back. The
# setting is chosen by the mean over the seeds of the accuracy on the validation images, whose
# labels are right; the test accuracy is that of this one setting.

# %%
table = jax.tree.map(lambda a: a.reshape(STRENGTHS, STEPS, SEEDS), result.outputs)
mean = table["validation"].mean(axis=2)
best = np.unravel_index(mean.argmax(), mean.shape)
weakest = mean[0].argmax()
for name, (i, j) in (("best of all", best), ("best step, weakest penalty", (0, weakest))):
  test, noise = table["test"][i, j], table["noise"][i, j].mean()
  print(
    f"{name}: strength {strengths[i]:.3g}, step {steps[j]:.3g}: test accuracy {test.mean():.3f} ± "
    f"{test.std():.3f}, {noise:.0%} of the squared weights on noise"
  )
if best[0] in (0, STRENGTHS - 1) or best[1] in (0, STEPS - 1):
  print("the best setting is at an edge: widen the grid")

# %%
figure, axes = plt.subplots(1, 3, figsize=(12, 3.8), layout="constrained")
maps = {
  "validation accuracy": mean,
  "share of the weights on noise": table["noise"].mean(axis=2),
  "spread of the accuracy over seeds": table["validation"].std(axis=2),
}
for axis, (name, values) in zip(axes, maps.items(), strict=True):
  picture = axis.pcolormesh(steps, strengths, values, shading="nearest")
  axis.plot(steps[best[1]], strengths[best[0]], "r*", markersize=12)
  axis.set(xscale="log", yscale="log", xlabel="step size", title=name)
  figure.colorbar(picture, ax=axis)
axes[0].set_ylabel("strength")
plt.show()

# %% [markdown]
# The star is the setting that was chosen. Seeds differ by a percent or two: a difference between
# two settings that is smaller than this is no difference, unless it is seen on the same seeds.

# %%
figure, axis = plt.subplots(figsize=(6.5, 3.8), layout="constrained")
accuracies = table["validation"][:, best[1]]
axis.plot(strengths, accuracies, ".", color="C0", alpha=0.5)
axis.plot(strengths, accuracies.mean(axis=1), color="C0", label="mean over the seeds")
axis.axvline(strengths[best[0]], color="C3", linestyle=":", label="chosen")
axis.set(xscale="log", xlabel="strength", ylabel="validation accuracy", title="at the chosen step")
axis.legend()
plt.show()

# %% [markdown]
# ## Elsewhere
#
# The notebook is unchanged on one GPU, on eight, or on a TPU: `sweep` takes the devices that JAX
# finds. Eight pretended devices share the cores of one CPU, so nothing is faster here; they show
# that the program splits. With `lanes=` a store made on one number of devices can be resumed on
# another.
#
# ## The next function to try
#
# - `jr.sweeps.sweep`: the same map without a store, as a function to call again and again.
# - `jr.sweeps.make_sweep_mesh`: a part of the devices only.
# - `jr.solvers.run_until` as what is swept: points whose `status` is not 0 are marked in
#   `result.failed`.
