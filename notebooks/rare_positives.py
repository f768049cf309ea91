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

# %%
# On Colab: install the library first (a restart is not needed).
import importlib.util

if importlib.util.find_spec("jaxopt_robust") is None:
  # %pip install --quiet "jaxopt-robust" matplotlib scikit-learn
  pass

# %% [markdown]
# # Finding rare examples
#
# Few examples in a hundred are what we look for, and what counts is the order of the scores:
# average precision. It is a mean over the positives of a *ratio of means over everything*, so a
# small batch estimates it with a bias. The remedy is a moving average for each positive, carried
# along as an explicit state. We train the same scorer with cross entropy, with the batch's own
# ratio, and with the moving averages (SOAP), on the same batches.

# %%
import os

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from sklearn.datasets import load_digits

import jaxopt_robust as jr

QUICK = "QUICK" in os.environ  # set by the tests: fewer steps and seeds
KEEP = 0.3  # this share of the positives is kept: change me
STEPS, SEEDS = (60, 2) if QUICK else (1500, 5)
POSITIVES, NEGATIVES = 2, 14  # in every batch

# %% [markdown]
# ## Data
#
# The digit 1 against the rest; half of the images are for testing, and of the training set's ones
# only a third stays. The scorer is linear: it cannot have everything, so it matters what it is
# asked for.

# %%
digits = load_digits()
order = np.random.default_rng(0).permutation(len(digits.target))
pixels, is_one = digits.data[order] / 16, (digits.target[order] == 1).astype(np.int32)
half = len(pixels) // 2
rare = np.flatnonzero(is_one[:half])
dropped = rare[int(KEEP * len(rare)) :]
keep = np.setdiff1d(np.arange(half), dropped)
x_train, y_train = jnp.asarray(pixels[keep], jnp.float32), jnp.asarray(is_one[keep])
x_test, y_test = jnp.asarray(pixels[half:], jnp.float32), jnp.asarray(is_one[half:])
print(f"{int(y_train.sum())} positives among {len(y_train)} training images")


def network(params, x):
  return x @ params


# %% [markdown]
# ## Losses with state
#
# A stateful loss returns `(surrogate, (state, info))`. The surrogate has the right gradient, and a
# value without meaning: what one watches is `info.objective`. With `rate=1.0` nothing is kept.


# %%
def cross_entropy(scores, labels, index, state):
  value = optax.sigmoid_binary_cross_entropy(scores, labels).mean()
  return value, (state, value, value)


def batch_precision(scores, labels, index, state):
  value, (_, info) = jr.compositional.soap_loss(
    jax.nn.sigmoid(scores), labels, index, state, rate=1.0
  )
  return value, (state, info.objective, value)


def soap(scores, labels, index, state):
  value, (state, info) = jr.compositional.soap_loss(
    jax.nn.sigmoid(scores), labels, index, state, rate=0.1
  )
  return value, (state, info.objective, value)


LOSSES = [cross_entropy, batch_precision, soap]

# %% [markdown]
# ## Training
#
# The sampler puts the same number of positives into every batch, none of them twice. All seeds
# train side by side.

# %%
optimizer = optax.adam(5e-3)


def train(loss, key):
  init_key, order_key = jax.random.split(key)
  batches = jr.compositional.epoch_batches_with_positives(
    order_key, y_train, num_positives=POSITIVES, num_negatives=NEGATIVES, num_steps=STEPS
  )

  def step(carry, index):
    params, opt_state, state = carry

    def objective(params):
      scores = network(params, x_train[index])
      value, (new_state, reported, surrogate) = loss(scores, y_train[index], index, state)
      return value, (new_state, (reported, surrogate))

    grads, (state, seen) = jax.grad(objective, has_aux=True)(params)
    updates, opt_state = optimizer.update(grads, opt_state)
    return (optax.apply_updates(params, updates), opt_state, state), seen

  params = 0.1 * jax.random.normal(init_key, (64,))
  state = jr.compositional.soap_init(len(y_train))
  carry, seen = jax.lax.scan(step, (params, optimizer.init(params), state), batches.index)
  return network(carry[0], x_test), seen


keys = jax.random.split(jax.random.key(0), SEEDS)
scores, reported = {}, {}
for loss in LOSSES:
  name = loss.__name__.replace("_", " ")
  scores[name], reported[name] = jax.jit(jax.vmap(lambda key, loss=loss: train(loss, key)))(keys)
  found = [float(jr.losses.average_precision(s, y_test)) for s in scores[name]]
  print(f"{name:>16}: test average precision {np.mean(found):.3f} ± {np.std(found):.3f}")

# %% [markdown]
# ## Result
#
# Left: precision against recall on the test images, all seeds together. Right: the surrogate of the
# run with moving averages beside the objective that it minimises.

# %%
figure, axes = plt.subplots(1, 2, figsize=(10, 3.5), layout="constrained")
labels = np.asarray(y_test)
for name, values in scores.items():
  curves = []
  for value in np.asarray(values):
    hits = np.cumsum(labels[np.argsort(-value)])
    curves.append(hits / np.arange(1, len(labels) + 1))
  recall = np.linspace(0, 1, 50)
  rank = np.searchsorted(hits / labels.sum(), recall).clip(max=len(labels) - 1)
  axes[0].plot(recall, np.mean(curves, 0)[rank], label=name)
axes[0].set(xlabel="recall", ylabel="precision")
axes[0].legend()
smooth = lambda v: np.convolve(v, np.ones(20) / 20, "valid")
objective, surrogate = (np.asarray(v).mean(0) for v in reported["soap"])
axes[1].plot(smooth(objective), label="info.objective: 1 - average precision (smoothed loss)")
axes[1].plot(smooth(surrogate), label="surrogate (its value means nothing)")
axes[1].set(xlabel="step")
axes[1].legend(fontsize="small")
plt.show()

# %% [markdown]
# ## How much memory?
#
# The rate of the moving averages is data: a grid of rates is one compiled call.

# %%
rates = jnp.array([1.0, 0.5, 0.1, 0.03])


def precision_at(rate):
  def loss(scores, labels, index, state):
    value, (state, info) = jr.compositional.soap_loss(
      jax.nn.sigmoid(scores), labels, index, state, rate=rate
    )
    return value, (state, info.objective, value)

  return jr.losses.average_precision(train(loss, keys[0])[0], y_test)


for rate, value in zip(rates, jax.jit(jax.vmap(precision_at))(rates), strict=True):
  print(f"rate {rate:4.2f}: test average precision {value:.3f}")

# %% [markdown]
# The digit and the linear scorer were chosen to show the effect: for the digit 8, or with a hidden
# layer, cross entropy is level or ahead. Things to change: `KEEP`; the loss:
# `jr.compositional.sopas_loss` looks at the hardest negatives only, which is the area under the
# left end of the ROC curve (`jr.losses.partial_auc`).
