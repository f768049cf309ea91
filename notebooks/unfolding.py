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
# # How many layers does a trained iteration need?
#
# A sensor measures sparse signals, always with the same matrix, and there is time for eight steps
# with that matrix, not for a thousand. An iteration that is stopped so early is far from its
# solution. But its steps and thresholds can be trained for exactly this: eight steps, this matrix,
# signals of this kind. The iteration becomes a network with two numbers a layer.
#
# This notebook counts. How many layers are worth how many iterations of ISTA and FISTA, what do the
# layers learn, and is it necessary to know the true signals?

# %%
import functools
import os

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

import jaxopt_robust as jr

QUICK = "QUICK" in os.environ  # set by the tests: toy sizes
NOISE = 0.01  # standard deviation of the measurements' noise: change me
ROWS, COLUMNS, SHARE = (16, 32, 0.1) if QUICK else (50, 100, 0.1)  # this share is not zero
LAYERS, TRAIN_STEPS, ITERATIONS, SIGNALS = (2, 10, 10, 20) if QUICK else (8, 90, 300, 200)

# %% [markdown]
# With more noise all curves end higher and closer together. With 0.1, eight layers of ALISTA do
# better than any number of iterations: those converge to the minimiser of an objective, the layers
# to what was asked.
#
# ## The problem
#
# A random matrix with half as many rows as columns, and signals of which a tenth of the entries is
# not zero. Validation signals decide about every setting, test signals are looked at once.


# %%
@jax.jit
def make_data(key):
  matrix_key, *keys = jax.random.split(key, 3)
  matrix = jax.random.normal(matrix_key, (ROWS, COLUMNS))
  matrix = matrix / jnp.linalg.norm(matrix, axis=0, keepdims=True)
  both = jax.vmap(lambda key: sample(key, matrix, SIGNALS))(jnp.stack(keys))
  return matrix, jnp.linalg.norm(matrix, 2) ** 2, jr.unfolding.alista_weight(matrix), both


def sample(key, matrix, batch):
  return jr.unfolding.sample_sparse_batch(key, matrix, batch=batch, rate=SHARE, noise=NOISE)


matrix, lipschitz, weight, both = make_data(jax.random.key(0))  # both: validation, test


def error_in_db(x, truth):
  return 10 * jnp.log10(jnp.sum((x - truth) ** 2, (-2, -1)) / jnp.sum(truth**2, (-2, -1)))


# %% [markdown]
# ## The iterations, tuned
#
# ISTA and FISTA minimise 1/2 ||y - A x||² + strength ||x||₁. A strong penalty is quick and biased,
# a weak one is exact and slow. So for each number of iterations the best strength is another one,
# and a fair baseline takes, at each number, the one that is best on the validation signals. ISTA
# may also take longer steps than 1/L; up to 2/L it converges.


# %%
def misfit(x, y):
  return 0.5 * jnp.sum((y - matrix @ x) ** 2)


def curve(make, strength, factor):
  """Error after each iteration of a solver, on validation and test signals."""
  solver = make(misfit, jr.prox.prox_lasso, stepsize=factor / lipschitz)
  each = lambda function: jax.vmap(jax.vmap(function))

  def step(states, _):
    states, _ = each(lambda state, y: solver.step(state, strength, y))(states, both.y)
    return states, error_in_db(states.params, both.truth)

  states = each(lambda y: solver.init(jnp.zeros(COLUMNS), strength, y))(both.y)
  return jax.lax.scan(step, states, None, length=ITERATIONS)[1]


def tuned(make, factors):
  """Test error after each iteration, with the setting that is best there on validation signals."""
  strengths, factors = (a.ravel() for a in np.meshgrid(STRENGTHS, factors))
  errors = jax.jit(jax.vmap(lambda *setting: curve(make, *setting)))(strengths, factors)
  best = np.argmin(errors[:, :, 0], axis=0)
  return np.asarray(errors)[best, np.arange(ITERATIONS), 1], strengths[best]


STRENGTHS = np.geomspace(0.003, 1.0, 3 if QUICK else 9)
curves = {}
curves["ISTA"], ista_strengths = tuned(jr.solvers.ista, [1.0, 1.9])
curves["FISTA"], fista_strengths = tuned(jr.solvers.fista, [1.0])
for name, chosen in (("ISTA", ista_strengths), ("FISTA", fista_strengths)):
  print(
    f"{name:>5}: {curves[name][LAYERS - 1]:6.1f} dB after {LAYERS}, {curves[name][-1]:6.1f} dB "
    f"after {ITERATIONS} iterations; best strength {chosen[LAYERS - 1]:.3f}, {chosen[-1]:.3f}"
  )

# %% [markdown]
# ## The networks
#
# A layer is a step of ISTA with numbers of its own, x ← soft(x + step Aᵀ(y − A x), threshold).
# ALISTA replaces Aᵀ by a matrix that is computed from A once, and leaves the largest entries of x
# unshrunk, more of them in later layers. Layers are added one after the other: each stage starts
# where the last one ended, so that one training gives a network of every depth.
#
# Two losses: the error against the true signal (supervised), or the objective itself, which needs
# measurements only (unsupervised). The strength in that objective is the one that is best for FISTA
# after five times as many iterations as there are layers: a weaker penalty would be more exact at
# its minimum, which so few layers cannot reach. The loss is a mixture of the two, and what is mixed
# is data, so that both trainings are one program.
#
# Adam gets four step sizes, all trained in the same compiled call, and the validation signals say
# which one counts, for each network.

# %%
STRENGTH = fista_strengths[min(5 * LAYERS, ITERATIONS) - 1]


def ista_network(free, y, depth):
  data = jr.unfolding.Measurements(y, matrix)
  start, layers = jnp.zeros((*y.shape[:-1], COLUMNS)), jr.unfolding.to_positive(free)
  return jr.unfolding.unfold(jr.unfolding.ista_cell, layers, start, data, depth=depth)[0]


def alista_network(free, y, depth):
  data = jr.unfolding.Measurements(y, matrix, weight)
  support = jr.unfolding.support_schedule(num_layers=LAYERS)
  layers = jr.unfolding.to_positive(free)._replace(support=support)
  start = jnp.zeros((*y.shape[:-1], COLUMNS))
  return jr.unfolding.unfold(jr.unfolding.alista_cell, layers, start, data, depth=depth)[0]


def squared_error(x, batch):
  return jr.unfolding.supervised_loss(x, batch.truth).mean(-1)


def objective(x, batch):
  data = jr.unfolding.Measurements(batch.y, matrix)
  return jr.unfolding.l1_objective(x, data, strength=STRENGTH).mean(-1)


starts = {
  ista_network: lambda a: jr.unfolding.ista_layers(a, 0.1, num_layers=LAYERS),
  alista_network: lambda a: jr.unfolding.alista_layers(a, threshold=0.1, num_layers=LAYERS),
}


@functools.partial(jax.jit, static_argnums=0)
@functools.partial(jax.vmap, in_axes=(None, 0, 0))
def train(network, supervised, rate):
  """Layers, and after each stage: loss, error and objective on validation and test signals."""
  start = starts[network]
  decay = optax.cosine_decay_schedule(1.0, TRAIN_STEPS)

  def losses(free, batch, depth):
    x = network(free, batch.y, depth)
    first, second = squared_error(x, batch), objective(x, batch)
    loss = supervised * first + (1 - supervised) * second
    return loss, error_in_db(x, batch.truth), second

  trained = jr.unfolding.train_incremental(
    jax.random.key(1),
    lambda free, batch, depth: losses(free, batch, depth)[0],
    jr.unfolding.from_positive(start(matrix)),
    optimizer=optax.adam(lambda count: rate * decay(count)),
    sampler=lambda key: sample(key, matrix, 32),
    num_layers=LAYERS,
    num_steps=TRAIN_STEPS,
    evaluate=lambda free, depth: losses(free, both, depth),
  )
  return jr.unfolding.to_positive(trained.params), trained.evaluations


RATES = np.array([0.03, 0.1, 0.3, 1.0], np.float32)
mixed, all_rates = np.repeat(np.float32([0, 1]), 4), np.tile(RATES, 2)
ista_runs = jax.tree.map(np.asarray, train(ista_network, mixed, all_rates))
alista_runs = jax.tree.map(np.asarray, train(alista_network, np.ones(4, np.float32), RATES))
results = {
  "ISTA, trained on the objective": jax.tree.map(lambda leaf: leaf[:4], ista_runs),
  "ISTA, trained on the truth": jax.tree.map(lambda leaf: leaf[4:], ista_runs),
  "ALISTA, trained on the truth": alista_runs,
}
learned, objectives = {}, {}
for name, (layers, (losses, errors, values)) in results.items():
  best = int(np.nanargmin(losses[:, -1, 0]))
  learned[name] = jax.tree.map(lambda leaf, best=best: leaf[best], layers)
  curves[name], objectives[name] = errors[best, :, 1], values[best, :, 1]
  beaten = np.flatnonzero(curves["FISTA"] <= curves[name][-1])
  count = f"{beaten[0] + 1} iterations" if len(beaten) else f"more than {ITERATIONS} iterations"
  print(
    f"{name}: {curves[name][-1]:.1f} dB with {LAYERS} layers (Adam {RATES[best]:.2f}), "
    f"as good as {count} of FISTA"
  )

solver = jr.solvers.fista(misfit, jr.prox.prox_lasso, stepsize=1 / lipschitz)


@jax.jit
@functools.partial(jax.vmap, in_axes=(0, None))
def solve(steps, batch):
  """Error and objective of FISTA after so many steps on the objective of the networks."""
  run = lambda y: jr.solvers.run_until(
    solver, jnp.zeros(COLUMNS), STRENGTH, y, tol=1e-3, max_steps=steps
  )[0]
  x = jax.vmap(run)(batch.y)
  return error_in_db(x, batch.truth), objective(x, batch)


depths = np.arange(1, LAYERS + 1)
test = jax.tree.map(lambda leaf: leaf[1], both)
errors, values = jax.tree.map(np.asarray, solve(np.append(depths, 3000), test))
minimum, objectives["FISTA"] = values[-1], values[:-1]
print(f"minimiser of the objective (strength {STRENGTH:.3f}): {errors[-1]:.1f} dB")

# %%
figure, axes = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
for axis, length in zip(axes, (ITERATIONS, LAYERS), strict=True):
  for place, (name, values) in enumerate(curves.items()):
    shown = values[:length]
    axis.plot(range(1, len(shown) + 1), shown, "--" if place < 2 else "o-", ms=3, label=name)
axes[0].set(xscale="log", xlabel="iterations, or layers", ylabel="error (dB)")
axes[0].legend(fontsize="small")
axes[1].set(xlabel="iterations, or layers", title="the left end again")
plt.show()

# %% [markdown]
# Each curve of an iteration is the best of all strengths at that number (it bends, or even jumps,
# where another strength takes over). Eight trained layers with two numbers each are worth several
# times as many iterations. With the better matrix of ALISTA the gain is much larger, at the same
# cost a layer; still, FISTA gets there, and further, when it has hundreds of iterations.
#
# ## What the layers have learned
#
# Left: the steps in units of 1/L. A constant step above the dotted line would diverge. The networks
# mix short and very long steps: what one layer blows up the next takes back. Middle: thresholds
# start high and end low, first what is large for certain, then the rest: a schedule that one
# strength for all iterations cannot have. After a long step the threshold is high again. Right: how
# far the objective is above its minimum. Of the two networks of plain steps the one that was
# trained on the objective gets closer to its minimiser, and much sooner than FISTA; the supervised
# one recovers the signals better and does not care. ALISTA, with the better matrix, is near the
# minimum unasked.

# %%
figure, axes = plt.subplots(1, 3, figsize=(12, 3.6), layout="constrained")
for place, (name, layers) in enumerate(learned.items()):
  unit = 1.0 if name.startswith("ALISTA") else lipschitz  # the weight of ALISTA has its own units
  style = {"color": f"C{place + 2}", "marker": "o", "markersize": 3, "label": name}
  axes[0].plot(depths, layers.step * unit, **style)
  axes[1].plot(depths, layers.threshold, **style)
  axes[2].plot(depths, objectives[name] / minimum - 1, **style)
axes[2].plot(depths, objectives["FISTA"] / minimum - 1, "C1--", label="FISTA")
axes[0].axhline(2.0, color="gray", ls=":")
axes[0].set(xlabel="layer", ylabel="step (1/L; ALISTA: as it is)", yscale="log")
axes[1].set(xlabel="layer", ylabel="threshold", yscale="log")
axes[2].set(xlabel="layers", ylabel="objective / minimum - 1", yscale="log")
axes[2].legend(fontsize="x-small")
plt.show()

# %% [markdown]
# One matrix and one seed were drawn here; networks that learn more than two numbers a layer, and
# many matrices, are compared in the experiments `supervised_unsupervised` and `lista_variants`.
#
# ## The next function to try
#
# - `jr.unfolding.tista_cell`: where the share of non-zeros and the noise are known, no threshold is
#   left to learn.
# - `jr.unfolding.unfold_solver`: layers out of any solver, such as `jr.solvers.admm`.
# - `jr.unfolding.unfold_equilibrium`: as many equal layers as it takes, trained through their fixed
#   point.
