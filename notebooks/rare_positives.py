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
  extras = ["flax", "matplotlib", "scikit-learn"]
  subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", source, *extras], check=True)
else:
  print("jaxopt_robust is installed")

# %% [markdown]
# # Finding rare examples
#
# Few examples in a hundred are what we look for, and somebody will read our list from the top: what
# counts is the order of the scores. Two numbers say how good it is. *Average precision* looks at
# the whole list, the *partial AUC* at its top alone: the area under the ROC curve where at most
# 5 % of the negatives are let through. Cross entropy optimises neither. Can we train for them?
#
# Both are means over the positives of a function of *a mean over everything*, so a small batch
# estimates them with a bias. The remedy is a moving average for each positive, carried along as an
# explicit state: a *compositional* loss. We compare it with cross entropy, first for a linear
# scorer, then for two networks, one of flax linen and one of flax nnx.

# %%
import os
from functools import partial

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from flax import nnx
from sklearn.datasets import load_digits

import jaxopt_robust as jr

QUICK = "QUICK" in os.environ  # set by the tests: fewer steps and seeds
KEEP = 0.3  # change me: this share of the positives is kept for training; the smaller it is, the
# lower are all numbers, and the more do seeds and draws differ.
STEPS, SEEDS, RATES = (30, 2, 2) if QUICK else (800, 4, 4)
DIGIT = 8  # the rare one
POSITIVES, NEGATIVES = 2, 14  # in every batch
MAX_FPR = 0.05

# %% [markdown]
# ## Data
#
# The digit 8 against the rest. 40 % of the images are for training, where only a third of the
# eights stays, 20 % for validation, where step sizes are chosen, and 40 % for the test.

# %%
digits = load_digits()
order = np.random.default_rng(0).permutation(len(digits.target))
pixels = (digits.data[order] / 16).astype(np.float32)
is_rare = (digits.target[order] == DIGIT).astype(np.int32)
train_end, validation_end = int(0.4 * len(order)), int(0.6 * len(order))
rare = np.flatnonzero(is_rare[:train_end])
kept = np.setdiff1d(np.arange(train_end), rare[int(KEEP * len(rare)) :])
x_train, y_train = pixels[kept], is_rare[kept]
x_rest, y_rest = pixels[train_end:], is_rare[train_end:]
is_test = np.arange(len(y_rest)) >= validation_end - train_end
print(f"{y_train.sum()} positives among {len(y_train)} training images")

# %% [markdown]
# ## Losses with state
#
# A stateful loss returns `(surrogate, (state, info))`. The surrogate has the right gradient, and a
# value without meaning: what one watches is `info.objective`. With `rate=1.0` nothing is kept, and
# the batch's own estimate is used. Cross entropy passes the state through.


# %%
def cross_entropy(scores, labels, index, state):
  value = optax.sigmoid_binary_cross_entropy(scores, labels).mean()
  return value, (state, value)


def precision(scores, labels, index, state, *, rate):
  value, (state, info) = jr.compositional.soap_loss(scores, labels, index, state, rate=rate)
  return value, (state, info.objective)


def top(scores, labels, index, state, *, rate):
  value, (state, info) = jr.compositional.sopas_loss(
    scores, labels, index, state, rate=rate, temperature=1.0
  )
  return value, (state, info.objective)


# %% [markdown]
# ## Training
#
# A model is a function of parameters and images. The sampler puts the same number of positives into
# every batch, none of them twice. All seeds and step sizes train side by side, on the same batches
# for every loss.

# %%
keys = jax.random.split(jax.random.key(0), SEEDS)


@jax.jit
@jax.vmap
def draw_batches(key):
  return jr.compositional.epoch_batches_with_positives(
    key, y_train, num_positives=POSITIVES, num_negatives=NEGATIVES, num_steps=STEPS
  ).index


batches = draw_batches(keys)


def train(apply_fn, loss, state, learning_rate, params, batches, x, y):
  optimizer = optax.adam(learning_rate)

  def step(carry, index):
    params, opt_state, state = carry

    def objective(params):
      scores = apply_fn(params, x[index]).reshape(-1)
      value, (new_state, reported) = loss(scores, y[index], index, state)
      return value, (new_state, (reported, value))

    grads, (state, seen) = jax.grad(objective, has_aux=True)(params)
    updates, opt_state = optimizer.update(grads, opt_state)
    return (optax.apply_updates(params, updates), opt_state, state), seen

  carry, seen = jax.lax.scan(step, (params, optimizer.init(params), state), batches)
  return apply_fn(carry[0], x_rest).reshape(-1), seen


learning_rates = np.geomspace(1e-3, 0.03, RATES, dtype=np.float32)
size = len(y_train)


def compare(apply_fn, params, losses, metric):
  """Each loss with its best step size: scores of the test images and what training reported."""
  results = {}
  measure = jax.jit(jax.vmap(jax.vmap(metric, in_axes=(0, None)), in_axes=(0, None)))
  for name, (loss, state) in losses.items():
    run = jax.vmap(partial(train, apply_fn, loss), in_axes=(None, None, 0, 0, None, None))
    run = jax.jit(jax.vmap(run, in_axes=(None, 0, None, None, None, None)))
    found = run(state, learning_rates, params, batches, x_train, y_train)
    scores, seen = jax.device_get(found)
    choice = np.asarray(measure(scores[..., ~is_test], y_rest[~is_test])).mean(1).argmax()
    values = np.asarray(measure(scores[..., is_test], y_rest[is_test]))[choice]
    print(
      f"{name:>32}: test {metric.__name__.replace('_', ' ')} {values.mean():.3f} ± "
      f"{values.std():.3f}, step size {learning_rates[choice]:.3f}"
    )
    results[name] = scores[choice][:, is_test], [v[choice] for v in seen], values
  return results


# %% [markdown]
# ## A linear scorer, and average precision
#
# It cannot have everything, so it matters what it is asked for.


# %%
def linear(params, x):
  return x @ params


def average_precision(scores, labels):
  return jr.losses.average_precision(scores, labels)


start = 0.1 * jax.vmap(lambda key: jax.random.normal(key, (64,)))(keys)
soap_state = jr.compositional.soap_init(size)
linear_results = compare(
  linear,
  start,
  {
    "cross entropy": (cross_entropy, soap_state),
    "precision of the batch": (partial(precision, rate=1.0), soap_state),
    "precision, moving averages": (partial(precision, rate=0.1), soap_state),
  },
  average_precision,
)

# %% [markdown]
# Left: precision against recall on the test images, all seeds together. Right: the surrogate of the
# run with moving averages beside the objective that it minimises.

# %%
labels = y_rest[is_test]
figure, axes = plt.subplots(1, 2, figsize=(10, 3.5), layout="constrained")
for name, (scores, _, _) in linear_results.items():
  ranks = np.array([np.flatnonzero(labels[np.argsort(-row)]) + 1 for row in scores])
  found = np.arange(1, labels.sum() + 1)  # the k-th eight of the list is at rank ranks[k - 1]
  axes[0].plot(found / labels.sum(), (found / ranks).mean(0), label=name)
axes[0].set(xlabel="recall", ylabel="precision")
axes[0].legend()
smooth = lambda v: np.convolve(v.mean(0), np.ones(20) / 20, "valid")
objective, surrogate = linear_results["precision, moving averages"][1]
axes[1].plot(smooth(objective), label="info.objective: 1 - average precision (smoothed loss)")
axes[1].plot(smooth(surrogate), label="surrogate (its value means nothing)")
axes[1].set(xlabel="step")
axes[1].legend(fontsize="small")
plt.show()

# %% [markdown]
# ## Networks of flax, and the top of the list
#
# A linen module is a function of its parameters already. An nnx model holds them;
# `jr.nets.from_nnx` takes it apart into a function and a pytree, and the same `train` serves both.
# Each seed has its own first weights.

# %%
linen_model = jr.nets.MLP((16, 1))
linen_start = jax.jit(jax.vmap(lambda key: linen_model.init(key, x_train[:1])))(keys)


class Scorer(nnx.Module):
  def __init__(self, rngs):
    self.hidden = nnx.Linear(64, 16, rngs=rngs)
    self.out = nnx.Linear(16, 1, rngs=rngs)

  def __call__(self, x):
    return self.out(nnx.relu(self.hidden(x)))


models = [jr.nets.from_nnx(Scorer(nnx.Rngs(seed))) for seed in range(SEEDS)]
nnx_apply = models[0][0]
nnx_start = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(params for _, params in models))


def partial_auc(scores, labels):
  return jr.losses.partial_auc(scores, labels, max_fpr=MAX_FPR)


sopas_state = jr.compositional.sopas_init(size)
losses = {
  "cross entropy": (cross_entropy, sopas_state),
  "partial AUC, moving averages": (partial(top, rate=0.1), sopas_state),
}
network_results = {}
for name, apply_fn, params in (
  ("linear", linear, start),
  ("linen", linen_model.apply, linen_start),
  ("nnx", nnx_apply, nnx_start),
):
  print(name)
  network_results[name] = compare(apply_fn, params, losses, partial_auc)

# %% [markdown]
# The left end of the ROC curve, of the linear scorer and of one of the networks; a mean over the
# seeds.

# %%
figure, axes = plt.subplots(1, 2, figsize=(10, 3.5), sharey=True, layout="constrained")
false_rates = np.linspace(0, MAX_FPR, 100)
for axis, model in zip(axes, ("linear", "nnx"), strict=True):
  for name, (scores, _, values) in network_results[model].items():
    curves = []
    for row in scores:
      limit = np.quantile(row[labels == 0], 1 - false_rates)
      curves.append((row[labels == 1][:, None] > limit).mean(0))
    axis.plot(false_rates, np.mean(curves, 0), label=f"{name}: {values.mean():.3f}")
  axis.set(xlabel="share of the negatives let through", title=model)
  axis.legend(title="partial AUC")
axes[0].set_ylabel("share of the eights found")
plt.show()

# %% [markdown]
# For the linear scorer the gain is large: it cannot separate the eights, and the loss decides which
# of its errors matter. The networks fit all the training images, so that every loss is content with
# them; what is left is the luck of the seed and of the step sizes, some of which lie at the edge of
# their grid. Both are the same network, and cross entropy is ahead for one, behind for the other.
# The digit was chosen to show the effect: with `DIGIT = 1` cross entropy is level or ahead for the
# linear scorer too.
#
# ## The next function to try
#
# - `jr.compositional.sopa_loss`: exactly the hardest negatives, by a threshold for each positive.
# - `jr.compositional.sotas_loss`: the top of the list in both directions (two-way partial AUC).
# - `jr.transforms.pesg` with `jr.losses.auc_margin_loss`: the whole area, as a min-max problem.
