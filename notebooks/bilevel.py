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
# # Which of my labels are wrong?
#
# You have many labelled examples, a good part of the labels is wrong, and nobody has the time to
# check them. But somebody has checked a hundred. Can these hundred find the wrong ones among the
# others?
#
# Give every training example a weight of its own, and choose the weights such that the model that
# is trained with them does well on the checked examples. That is a *bilevel* problem: the inner
# problem trains the model for given weights, the outer one moves the weights. There is one weight
# an example, far too many for a grid, but the trained model has a derivative by the weights.

# %%
import os

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from sklearn.datasets import load_digits

import jaxopt_robust as jr

QUICK = "QUICK" in os.environ  # set by the tests: fewer examples and steps
WRONG = 0.5  # change me: this share of the labels is drawn anew. At 0.2 as many wrong ones are
# found, with more false alarms, and there is little to win; at 0.8 the checked images alone are
# best.
TRAIN, CHECKED = (200, 100) if QUICK else (800, 100)
MAID_STEPS, SOBA_STEPS, DRAWS = (1, 40, 2) if QUICK else (6, 4800, 5)
RIDGE = 0.01  # of the inner problem, which it makes strongly convex

# %% [markdown]
# ## Data
#
# The digits of scikit-learn: 800 images whose labels are partly wrong, 100 with checked labels, and
# the rest for the test, which decides nothing.

# %%
digits = load_digits()


def draw(seed):
  rng = np.random.default_rng(seed)
  order = rng.permutation(len(digits.target))
  images = np.hstack([digits.data / 16, np.ones((len(order), 1))])[order].astype(np.float32)
  truth = digits.target[order].astype(np.int32)
  is_drawn = rng.random(TRAIN) < WRONG
  labels = np.where(is_drawn, rng.integers(0, 10, TRAIN), truth[:TRAIN]).astype(np.int32)
  end = TRAIN + CHECKED
  return {
    "x": images[:TRAIN], "y": labels, "wrong": labels != truth[:TRAIN],
    "x_checked": images[TRAIN:end], "y_checked": truth[TRAIN:end],
    "x_test": images[end:], "y_test": truth[end:], "truth": truth[:TRAIN],
  }  # fmt: skip


draws = jax.tree.map(lambda *rows: np.stack(rows), *map(draw, range(DRAWS)))
data = jax.tree.map(lambda rows: rows[0], draws)
print(f"{int(data['wrong'].sum())} of {TRAIN} labels are wrong")

# %% [markdown]
# ## Two objectives
#
# The inner one is a weighted logistic regression; each weight is the sigmoid of a free number, so
# that it stays between 0 and 1. The outer one is the loss of the checked images. A solver of the
# inner problem is accelerated gradient descent, by two constants of the problem: the ridge bounds
# the curvature from below, the longest image from above.


# %%
def cross_entropy(w, x, y):
  return optax.softmax_cross_entropy_with_integer_labels(x @ w, y)


def weighted_loss(w, weights, x, y):
  shares, ridge = weights
  return jnp.mean(shares * cross_entropy(w, x, y)) + ridge / 2 * jnp.sum(w**2)


def inner(w, free, batch):
  x, y, rows = batch["inner"]
  return weighted_loss(w, (jax.nn.sigmoid(free[rows]), RIDGE), x, y)


def outer(w, free, batch):
  return jnp.mean(cross_entropy(w, *batch["outer"]))


def whole(data):
  rows = jnp.arange(TRAIN)
  return {
    "inner": (data["x"], data["y"], rows), "outer": (data["x_checked"], data["y_checked"])
  }  # fmt: skip


curvature = float(np.max(np.sum(draws["x"] ** 2, axis=-1))) / 2  # of the softmax loss, at most
descent = jr.bilevel.strongly_convex_descent(
  weighted_loss,
  strong_convexity=lambda weights, x, y: weights[1],
  smoothness=lambda weights, x, y: weights[1] + curvature * jnp.mean(weights[0]),
)
zero = np.zeros((65, 10), np.float32)


def fit(shares, ridge, x, y):
  weights = shares, jnp.asarray(ridge)
  return jr.solvers.run_until(
    descent, zero, weights, x, y, tol=3e-4, max_steps=100 if QUICK else 2000
  )[0]


def accuracy(w, x, y):
  return jnp.mean(jnp.argmax(x @ w, axis=1) == y)


# %% [markdown]
# ## The baseline: one weight for all
#
# A single weight for all examples is a grid's business. (It is the strength of the ridge in
# disguise: half the weight is twice the ridge.) We keep the value that is best on the checked
# images. Two more numbers frame what can be won: the model that is trained on the checked images
# alone, whose strength we choose on the test set, a gift; and the model that knows which labels are
# wrong.

# %%
strengths = np.geomspace(1e-3, 1e-1, 3 if QUICK else 7, dtype=np.float32)


@jax.jit
@jax.vmap
def solve_path(shares, data):
  """Accuracies, and the checked images' loss, at each strength; shares of both sets of images."""
  x = jnp.concatenate([data["x"], data["x_checked"]])
  y = jnp.concatenate([data["y"], data["y_checked"]])
  fits = jax.vmap(lambda ridge: fit(shares / jnp.mean(shares), ridge, x, y))(strengths)
  checked, test = (
    jax.vmap(lambda w, end=end: accuracy(w, data["x_" + end], data["y_" + end]))(fits)
    for end in ("checked", "test")
  )
  return checked, test, jax.vmap(lambda w: outer(w, None, whole(data)))(fits)


def path(train, checked):
  """The path of given weights of the training examples and of one weight of the checked images."""
  shares = np.concatenate([train, np.full((DRAWS, CHECKED), checked)], axis=1)
  return jax.device_get(solve_path(shares.astype(np.float32), draws))


def chosen(checked, values):
  return values[np.arange(DRAWS), checked.argmax(axis=1)]


def show(name, values):
  print(f"{name:>34}: test accuracy {values.mean():.3f} ± {values.std():.3f}")


everyone = np.ones((DRAWS, TRAIN))
checked, test, losses = path(everyone, 0.0)
base_loss = float(losses[0].min())
show("one weight for all", chosen(checked, test))
show("checked images alone", path(0 * everyone, 1.0)[1].max(1))
checked, test, _ = path(~draws["wrong"], 0.0)
show("wrong labels known", chosen(checked, test))

# %% [markdown]
# ## One implicit hypergradient
#
# The outer loss depends on the weights through the trained model alone. The implicit function
# theorem gives its derivative at the solution: one linear system with the Hessian of the inner
# problem, by conjugate gradients; nothing of the training is differentiated. We ask at equal
# weights: how would the loss of the checked images change if this example counted more?


# %%
@jax.jit
def slopes_at(free, data):
  w = fit(jax.nn.sigmoid(free), RIDGE, data["x"], data["y"])
  return jr.bilevel.hypergradient(inner, outer, w, free, whole(data), max_steps=500)


slopes, info = jax.device_get(slopes_at(np.zeros(TRAIN, np.float32), data))
order = np.argsort(-slopes)
worst = order[: int(data["wrong"].sum())]
print(
  f"{int(info.steps)} products with the Hessian, residual {float(info.residual):.1e}; of the "
  f"{len(worst)} examples with the steepest slopes {float(data['wrong'][worst].mean()):.0%} are "
  "wrongly labelled"
)

# %% [markdown]
# One derivative tells most of it. What remains is the descent.
#
# ## MAID: steps that are proved
#
# How exactly should the inner problem be solved, and how long should the step be? MAID chooses
# both: it solves roughly at first, bounds the outer loss before and after a step, and where the
# bounds cannot tell that the loss fell it shortens the step or solves better. It needs two
# constants of the problem. The first step size is large since each weight is one of 800 in a mean.

# %%
gram = np.linalg.norm(data["x_checked"], 2) ** 2 / CHECKED
maid = jr.bilevel.maid(
  inner,
  outer,
  jr.bilevel.strongly_convex_descent(
    inner, strong_convexity=RIDGE, smoothness=RIDGE + curvature / 2
  ),
  strong_convexity=RIDGE,
  outer_smoothness=float(gram) / 2,
  convex=True,
  stepsize=10.0 * TRAIN,
  growth=2.0,
  max_inner_steps=100 if QUICK else 1000,
)


@jax.jit
def run_maid(data):
  start = jr.bilevel.BilevelPoint(jnp.zeros(TRAIN), jnp.asarray(zero))
  return jr.solvers.run_steps(maid, start, None, whole(data), num_steps=MAID_STEPS)


point, steps = jax.device_get(run_maid(data))
maid_cost = np.cumsum(steps.inner_steps + steps.products)
print(" step  inner accuracy  loss is at least  loss after it at most  evaluations so far")
for k in range(MAID_STEPS):
  print(
    f"{k:5d}  {steps.accuracy[k]:14.4f}  {steps.low[k]:16.4f}  {steps.high[k]:21.4f}  "
    f"{maid_cost[k]:18d}"
  )

# %% [markdown]
# ## SOBA: batches
#
# With many examples no full gradient is affordable. SOBA moves the model, the solution of the
# linear system and the weights at the same time, each by one step on one batch of 50. It has step
# sizes; that of the weights is the one that matters, so we run a grid of it as one program, and all
# draws of the data beside each other. The checked images' loss of the inner solution, which MAID
# bounds too, chooses.

# %%
BATCH, RECORDS = 50, 2 if QUICK else 8
rates = np.geomspace(100.0, 1000.0, 2 if QUICK else 5, dtype=np.float32)
soba = jr.bilevel.stochastic_bilevel(
  jr.bilevel.soba_directions(inner, outer),
  lambda rate: jr.bilevel.BilevelVariables(optax.sgd(rate), optax.sgd(0.5), optax.sgd(0.5)),
)


def random_batch(key, data):
  first, second = jax.random.split(key)
  rows = BATCH * jax.random.randint(first, (), 0, TRAIN // BATCH) + jnp.arange(BATCH)
  checked = BATCH * jax.random.randint(second, (), 0, CHECKED // BATCH) + jnp.arange(BATCH)
  return jr.bilevel.BilevelBatch(
    {"inner": (data["x"][rows], data["y"][rows], rows)},
    {"outer": (data["x_checked"][checked], data["y_checked"][checked])},
  )


def run_soba(rate, data):
  keys = jax.random.split(jax.random.key(0), (RECORDS, SOBA_STEPS // RECORDS))
  start = jr.bilevel.BilevelVariables(jnp.zeros(TRAIN), *2 * [jnp.asarray(zero)])
  state = soba.init(start, rate, random_batch(keys[0, 0], data))

  def step(state, key):
    return soba.step(state, rate, random_batch(key, data))[0], None

  def stretch(state, keys):
    state = jax.lax.scan(step, state, keys)[0]
    w = fit(jax.nn.sigmoid(state.params.x), RIDGE, data["x"], data["y"])
    return state, (outer(w, None, whole(data)), w)

  state, (losses, w) = jax.lax.scan(stretch, state, keys)
  return jax.nn.sigmoid(state.params.x), losses, accuracy(w[-1], data["x_test"], data["y_test"])


over_rates = jax.vmap(run_soba, in_axes=(0, None))
results = jax.jit(jax.vmap(over_rates, in_axes=(None, 0)))(rates, draws)
all_shares, all_losses, all_accuracies = jax.device_get(results)
best = int(all_losses[:, :, -1].mean(0).argmin())
shares, soba_losses = all_shares[:, best], all_losses[0, best]
print(f"step size {float(rates[best]):.0f} of {np.round(rates).astype(int).tolist()}")

# %% [markdown]
# ## How the loss falls
#
# An evaluation is a gradient, or a product with the Hessian, of the whole training set; SOBA's
# batches are counted by their size. A dotted line shows what the best weight for all can do. No
# single weight comes near.

# %%
soba_cost = np.arange(1, RECORDS + 1) * SOBA_STEPS / RECORDS * 3 * BATCH / TRAIN
figure, axis = plt.subplots(figsize=(6.5, 3.8), layout="constrained")
axis.plot(maid_cost, np.asarray(steps.high), "o-", label="MAID, upper bound")
axis.plot(soba_cost, soba_losses, "s-", label="SOBA")
axis.axhline(base_loss, color="gray", linestyle=":", label="best weight for all")
axis.set(xscale="log", xlabel="evaluations of the training set", ylabel="loss of checked images")
axis.legend()
plt.show()

# %% [markdown]
# ## What the weights find
#
# An example whose weight fell below a half, where all began, is taken for wrongly labelled.
# *Precision* is the share of wrong labels among these, *recall* the share of the wrong labels that
# is among them.


# %%
def found_by(shares, wrong):
  flagged = shares < 0.5
  hits = (flagged & wrong).sum()
  return hits / flagged.sum(), hits / wrong.sum()


maid_shares = 1 / (1 + np.exp(-point.x))
precision, recall = found_by(maid_shares, data["wrong"])
print(f"MAID, first draw: precision {precision:.3f}, recall {recall:.3f}")
precision, recall = np.array(
  [found_by(*pair) for pair in zip(shares, draws["wrong"], strict=True)]
).T
print(f"SOBA, first draw: precision {precision[0]:.3f}, recall {recall[0]:.3f}")
print(
  f"SOBA, {DRAWS} draws: precision {precision.mean():.3f} ± {precision.std():.3f}, "
  f"recall {recall.mean():.3f} ± {recall.std():.3f}"
)

# %%
figure = plt.figure(figsize=(10, 3.6), layout="constrained")
left, right = figure.subfigures(1, 2, width_ratios=[1, 1.1])
axis = left.subplots()
edges = np.linspace(0, 1, 26)
for is_wrong, name in ((False, "right label"), (True, "wrong label")):
  axis.hist(maid_shares[data["wrong"] == is_wrong], edges, alpha=0.6,
            label=name)  # fmt: skip
axis.set(xlabel="learned weight (MAID)", ylabel="examples", yscale="log")
axis.legend()
lowest = np.argsort(maid_shares)
axes = right.subplots(2, 6)
for row, places in zip(axes, (lowest[:6], lowest[-6:]), strict=True):
  for axis, i in zip(row, places, strict=True):
    axis.imshow(data["x"][i, :64].reshape(8, 8), cmap="gray_r")
    axis.set(xticks=[], yticks=[])
    axis.set_title(
      f"label {int(data['y'][i])}", fontsize=9, color="C3" if bool(data["wrong"][i]) else "C2"
    )
axes[0, 0].set_ylabel("lowest")
axes[1, 0].set_ylabel("highest")
plt.show()

# %% [markdown]
# ## What it is good for
#
# The weighted model itself; and, often better, a model that is trained anew without the examples
# that were found, together with the checked images, with the strength of the ridge that was best on
# these before they joined.


# %%
show("SOBA's weights", all_accuracies[:, best])
kept = shares >= 0.5
checked = path(kept, 0.0)[0]
show("found ones dropped, checked added", chosen(checked, path(kept, 1.0)[1]))

# %% [markdown]
# Beware: the outer loss is that of a hundred images, and hundreds of weights can fit them; it is no
# estimate of the error. And mind the line of the checked images alone: where they are many, or most
# of the other labels are wrong, they are all one needs.
#
# ## The next function to try
#
# - `jr.bilevel.saga`, around `soba_directions`: a memory of the batches takes the noise out.
# - `jr.bilevel.fixed_point_hypergradient`: the same for an inner problem with a penalty such as the
#   Lasso, through its proximal step.
# - `jr.losses.aldr_kl_loss`: a loss that bears wrong labels where no checked examples exist.
