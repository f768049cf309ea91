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
  extras = ["matplotlib", "scikit-learn"]
  subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", source, *extras], check=True)
else:
  print("jaxopt_robust is installed")

# %% [markdown]
# # Training with wrong labels
#
# Labels are cheap when nobody checks them. What does it cost to train on them, and is there a loss
# that bears them?
#
# More than half of the labels of a small image data set are replaced by random ones. A network that
# is trained with cross entropy first learns the digits, then learns the wrong labels by heart. With
# the label-distributionally robust losses it learns hardly any of them. The five noise draws of
# each loss are trained side by side, as one jitted function.

# %%
import os

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from sklearn.datasets import load_digits

import jaxopt_robust as jr

QUICK = "QUICK" in os.environ  # set by the tests: fewer epochs and seeds
NOISE = 0.6  # change me: this share of the labels is drawn anew, so 54 % end up wrong. At 0.2 the
# losses lie closer together; at 0.8 all learn less, and cross entropy much less.
EPOCHS, SEEDS, BATCH, HIDDEN = (4, 2, 64, 32) if QUICK else (40, 5, 64, 128)

# %% [markdown]
# ## Data and network
#
# 1797 images of 8 x 8 pixels come with scikit-learn. A quarter is kept for testing, with clean
# labels.

# %%
digits = load_digits()
order = np.random.default_rng(0).permutation(len(digits.target))
pixels = jnp.asarray(digits.data[order] / 16, jnp.float32)
labels = jnp.asarray(digits.target[order])
num_train = 1344  # 21 batches of 64
x_train, y_train = pixels[:num_train], labels[:num_train]
x_test, y_test = pixels[num_train:], labels[num_train:]


def init_network(key):
  first, second = jax.random.split(key)
  return {
    "w1": jax.random.normal(first, (64, HIDDEN)) * (2 / 64) ** 0.5,
    "b1": jnp.zeros(HIDDEN),
    "w2": jax.random.normal(second, (HIDDEN, 10)) * (2 / HIDDEN) ** 0.5,
    "b2": jnp.zeros(10),
  }


def network(params, x):
  hidden = jax.nn.relu(x @ params["w1"] + params["b1"][None])
  return hidden @ params["w2"] + params["b2"][None]


# %% [markdown]
# ## Four losses
#
# A loss takes logits and labels and returns one value an example. ALDR-KL also keeps a temperature
# for every example; it goes in and comes out as a value, like everything in JAX. The other losses
# pass it through.


# %%
def cross_entropy(logits, y, index, state):
  return jr.losses.cross_entropy_loss(logits, y), state


def mean_absolute_error(logits, y, index, state):
  return jr.losses.softmax_mae_loss(logits, y), state


def ldr_kl(logits, y, index, state):
  return jr.losses.ldr_kl_loss(logits, y), state


def aldr_kl(logits, y, index, state):
  return jr.losses.aldr_kl_loss(logits, y, index, state)


LOSSES = [cross_entropy, mean_absolute_error, ldr_kl, aldr_kl]

# %% [markdown]
# ## Training
#
# The whole training is a scan over epochs of a scan over batches. `key` decides the wrong labels,
# the first weights and the order of the examples, so `jax.vmap` over keys trains all seeds at once.

# %%
optimizer = optax.adam(2e-3)


def train(loss, key):
  noise_key, init_key, order_key = jax.random.split(key, 3)
  noisy = jr.problems.make_uniform_label_noise(noise_key, y_train, num_classes=10, rate=NOISE)

  def batch_step(carry, index):
    params, opt_state, state = carry

    def mean_loss(params):
      values, new_state = loss(network(params, x_train[index]), noisy.labels[index], index, state)
      return values.mean(), new_state

    grads, state = jax.grad(mean_loss, has_aux=True)(params)
    updates, opt_state = optimizer.update(grads, opt_state)
    return (optax.apply_updates(params, updates), opt_state, state), None

  def epoch(carry, key):
    batches = jax.random.permutation(key, num_train).reshape(-1, BATCH)
    carry, _ = jax.lax.scan(batch_step, carry, batches)
    accuracy = (network(carry[0], x_test).argmax(-1) == y_test).mean()
    fit = network(carry[0], x_train).argmax(-1) == noisy.labels
    memorised = (fit & noisy.flipped).sum() / noisy.flipped.sum()
    return carry, (accuracy, memorised)

  params = init_network(init_key)
  carry = (params, optimizer.init(params), jr.losses.aldr_init(num_train))
  return jax.lax.scan(epoch, carry, jax.random.split(order_key, EPOCHS))[1]


keys = jax.random.split(jax.random.key(0), SEEDS)
curves = {}
for loss in LOSSES:
  curves[loss.__name__] = jax.jit(jax.vmap(lambda key, loss=loss: train(loss, key)))(keys)
  accuracy, memorised = (np.asarray(curve)[:, -1] for curve in curves[loss.__name__])
  print(
    f"{loss.__name__:>20}: test accuracy {accuracy.mean():.3f} ± {accuracy.std():.3f}, "
    f"wrong labels learned by heart {memorised.mean():.2f}"
  )

# %% [markdown]
# ## Result
#
# Left: accuracy on the clean test set. Right: share of the wrong labels that the network repeats.

# %%
figure, axes = plt.subplots(1, 2, figsize=(10, 3.5), layout="constrained")
for name, results in curves.items():
  for axis, curve in zip(axes, results, strict=True):
    mean, spread = np.mean(curve, 0), np.std(curve, 0)
    axis.plot(mean, label=name.replace("_", " "))
    axis.fill_between(range(EPOCHS), mean - spread, mean + spread, alpha=0.2)
axes[0].set(xlabel="epoch", ylabel="test accuracy")
axes[1].set(xlabel="epoch", ylabel="wrong labels learned by heart")
axes[0].legend()
plt.show()

# %% [markdown]
# ## Which temperature?
#
# The temperature of LDR-KL leads from a max-margin loss (small) to a noise-tolerant mean (large).
# Hyper-parameters are data here: all temperatures are trained in one compiled call.

# %%
temperatures = jnp.array([1.0, 3.0, 10.0, 30.0, 100.0])


def final_accuracy(temperature):
  def loss(logits, y, index, state):
    return jr.losses.ldr_kl_loss(logits, y, temperature=temperature), state

  return train(loss, keys[0])[0][-1]


results = np.asarray(jax.jit(jax.vmap(final_accuracy))(temperatures))
for temperature, result in zip(temperatures, results, strict=True):
  print(f"temperature {temperature:5.0f}: test accuracy {result:.3f}")

# %%
figure, axis = plt.subplots(figsize=(6, 3.5), layout="constrained")
axis.semilogx(temperatures, results, "o-", label="LDR-KL, one noise draw")
level = float(curves["cross_entropy"][0][0, -1])
axis.axhline(level, color="gray", linestyle=":", label="cross entropy, same draw")
axis.set(xlabel="temperature", ylabel="test accuracy after the last epoch")
axis.legend()
plt.show()

# %% [markdown]
# The pictures show the test set, to understand the losses. To *choose* a temperature keep some of
# the noisy labels for validation: a loss that is best on them is best on clean ones too where the
# noise does not depend on the class.
#
# ## The next function to try
#
# - `jr.problems.make_class_dependent_label_noise`: labels that are confused with one other class.
# - `jr.losses.generalized_cross_entropy_loss`: another way between cross entropy and the mean
#   absolute error.
# - `jr.bilevel.soba_directions`: where a hundred labels were checked, a weight for each example.
