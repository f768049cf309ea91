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
# # Choosing a Lasso strength by gradient
#
# How strong should the penalty be? Usually that is decided on a grid: solve for each value, look at
# the held-out error. But the solution is a function of the strength, with a derivative. So the
# held-out error can be minimised over the strength, or over many strengths at once, by gradient
# descent.

# %%
import os

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from sklearn.datasets import load_diabetes

import jaxopt_robust as jr

QUICK = "QUICK" in os.environ  # set by the tests: a smaller grid and fewer steps
GRID, STEPS = (8, 4) if QUICK else (60, 25)
RATE = (
  0.3  # change me: the learning rate of the descent on log(strength). At 0.03 it is still on its
)
# way when the steps are used up; at 3 it jumps over the valley and back.

# %% [markdown]
# ## Data
#
# The diabetes data of scikit-learn: ten measurements of 442 patients, and how their disease went
# on. With squares and products of the measurements there are 64 features, few of which matter.

# %%
data = load_diabetes()
first, second = np.triu_indices(10)
keep = ~((first == 1) & (second == 1))  # the square of the two-valued feature repeats it
features = np.concatenate([data.data, (data.data[:, first] * data.data[:, second])[:, keep]], 1)
order = np.random.default_rng(0).permutation(len(features))
train, held_out, test = order[:220], order[220:330], order[330:]
mean, scale = features[train].mean(0), features[train].std(0)
x = jnp.asarray((features - mean) / scale, jnp.float32)
y = jnp.asarray((data.target - data.target[train].mean()) / data.target[train].std(), jnp.float32)

# %% [markdown]
# ## The solve
#
# The smooth part and the operator of the penalty make a solver; a driver runs it until a stated
# accuracy. `implicit` gives the result the derivatives of the solution, by the implicit function
# theorem. The strength enters as its logarithm, so that it stays positive.


# %%
def squared_error(w, x, y):
  return 0.5 * jnp.mean((x @ w - y) ** 2)


def lasso(w, log_strength, scaling):
  return jr.prox.prox_lasso(w, jnp.exp(log_strength), scaling)


lipschitz = jnp.linalg.norm(x[train], 2) ** 2 / len(train)
solver = jr.solvers.fista(squared_error, lasso, stepsize=1 / lipschitz)


def run(w, log_strength, x, y):
  return jr.solvers.run_until(solver, w, log_strength, x, y, tol=1e-5, max_steps=5000)


solve = jr.solvers.implicit(run, jr.solvers.proximal_residual(squared_error, lasso))


def held_out_error(log_strength):
  w, info = solve(jnp.zeros(64), log_strength, x[train], y[train])
  test_error = jnp.mean((x[test] @ w - y[test]) ** 2)
  return jnp.mean((x[held_out] @ w - y[held_out]) ** 2), (w, test_error, info)


# %% [markdown]
# ## A grid
#
# All strengths are solved in one compiled call, with the slope of the held-out error at each.

# %%
largest = jnp.log(jnp.max(jnp.abs(x[train].T @ y[train])) / len(train))  # above it, w is zero
grid = largest + jnp.linspace(-7.0, 0.0, GRID)
evaluate = jax.jit(jax.vmap(jax.value_and_grad(held_out_error, has_aux=True)))
(errors, (w, test_errors, info)), slopes = evaluate(grid)
jr.solvers.raise_if_failed(info)
best = int(errors.argmin())
print(
  f"grid of {GRID}: held-out error {errors[best]:.4f}, test error {test_errors[best]:.4f}, "
  f"{int((w[best] != 0).sum())} of 64 features used"
)

# %% [markdown]
# ## A descent
#
# Adam on the logarithm of the strength. Each step is one solve and one linear solve.


# %%
@jax.jit
def descend(log_strength):
  optimizer = optax.adam(RATE)

  def step(carry, _):
    theta, opt_state = carry
    (error, (_, test_error, _)), grad = jax.value_and_grad(held_out_error, has_aux=True)(theta)
    updates, opt_state = optimizer.update(grad, opt_state)
    return (optax.apply_updates(theta, updates), opt_state), (theta, error, test_error)

  return jax.lax.scan(step, (log_strength, optimizer.init(log_strength)), None, length=STEPS)[1]


path, path_errors, path_tests = descend(largest - 4.0)
print(
  f"descent, {STEPS} solves: held-out error {path_errors.min():.4f}, "
  f"test error {path_tests[path_errors.argmin()]:.4f}"
)

# %% [markdown]
# ## One strength for each feature
#
# 64 strengths are far beyond any grid, and the same code finds them. It also shows what to beware
# of: the held-out error goes down a good deal, the test error does not. 64 numbers chosen on 110
# rows fit these rows.

# %%
many, many_errors, many_tests = descend(jnp.full(64, grid[best]))
print(f"64 strengths: held-out error {many_errors[-1]:.4f}, test error {many_tests[-1]:.4f}")

# %%
figure, axes = plt.subplots(1, 2, figsize=(10, 3.5), layout="constrained")
axes[0].plot(grid - largest, errors, label="grid, held out")
axes[0].plot(grid - largest, test_errors, "--", label="grid, test")
axes[0].plot(path - largest, path_errors, "o-", markersize=3, label="descent")
axes[0].set(xlabel="log(strength / largest)", ylabel="mean squared error")
axes[0].legend()
axes[1].plot(path_errors, label="1 strength, held out")
axes[1].plot(many_errors, label="64 strengths, held out")
axes[1].plot(many_tests, "--", color="C1", label="64 strengths, test")
axes[1].set(xlabel="step", ylabel="mean squared error")
axes[1].legend()
plt.show()

# %% [markdown]
# ## The path, and the slope
#
# Left: every coefficient on the way from a weak to a strong penalty; a feature is used where its
# line is not at zero. Right: the slope of the held-out error that the implicit derivative gives,
# beside the differences of neighbouring errors of the grid. Between the places where a feature
# enters or leaves they agree.

# %%
figure, axes = plt.subplots(1, 2, figsize=(10, 3.5), layout="constrained")
axes[0].plot(grid - largest, w, linewidth=1)
axes[0].axvline(float(grid[best] - largest), color="black", linestyle=":", label="best held out")
axes[0].set(xlabel="log(strength / largest)", ylabel="coefficients")
axes[0].legend()
middle = (grid[1:] + grid[:-1]) / 2 - largest
axes[1].plot(middle, np.diff(errors) / np.diff(grid), label="differences of the grid")
axes[1].plot(grid - largest, slopes, ".", label="implicit derivative")
axes[1].axhline(0, color="gray", linewidth=0.8)
axes[1].set(xlabel="log(strength / largest)", ylabel="slope of the held-out error")
axes[1].legend()
plt.show()

# %% [markdown]
# ## The next function to try
#
# - `jr.prox.prox_elastic_net`: two strengths, learned together by the same descent.
# - `jr.bilevel.hoag`: a descent that solves roughly at first, then better, with steps of its own.
# - `jr.prox.prox_mcp`: a penalty that leaves large coefficients alone.
