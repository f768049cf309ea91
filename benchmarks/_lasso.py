"""The Lasso problem of two rows: correlated design, duality gap, path and bootstrap by FISTA."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from jaxopt_robust import prox, solvers


def make_problem(samples: int, features: int, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
  """Rows with correlation 0.5^|i - j|, features / 100 active ones, signal-to-noise ratio 5."""
  rng = np.random.default_rng(seed)
  noise = rng.standard_normal((samples, features))
  x = np.empty_like(noise)
  x[:, 0] = noise[:, 0]
  for j in range(1, features):
    x[:, j] = 0.5 * x[:, j - 1] + np.sqrt(0.75) * noise[:, j]
  weights = np.zeros(features)
  active = rng.choice(features, max(3, features // 100), replace=False)
  weights[active] = rng.choice([-1.0, 1.0], len(active))
  signal = x @ weights
  y = signal + rng.standard_normal(samples) * signal.std() / 5
  return np.asfortranarray(x), y


def relative_gap(
  w: np.ndarray, strength: float, x: np.ndarray, y: np.ndarray, weights: np.ndarray | None = None
) -> float:
  """Duality gap of 1/(2n) ||x w - y||^2 + strength ||w||_1, divided by its value at w = 0."""
  if weights is not None:  # weighted rows
    root = np.sqrt(weights)
    x, y = x * root[:, None], y * root
  n = len(y)
  residual = y - x @ w
  dual = residual / max(1.0, np.abs(x.T @ residual).max() / (n * strength))
  primal = residual @ residual / (2 * n) + strength * np.abs(w).sum()
  dual_value = (y @ y - (y - dual) @ (y - dual)) / (2 * n)
  return float((primal - dual_value) / (y @ y / (2 * n)))


def squared_error(w, x, y, weights):
  """1/(2n) sum_i weights_i (x_i w - y_i)^2."""
  return 0.5 * jnp.mean(weights * (x @ w - y) ** 2)


@functools.partial(jax.jit, static_argnames=("max_steps",))
def path(strengths, x, y, weights, stepsize, tol, max_steps=10_000):
  """Solutions for strengths in falling order; each solve starts from the one before."""
  solver = solvers.working_set(squared_error, prox.prox_lasso, stepsize=stepsize)

  def one(w, strength):
    w, info = solvers.run_until(solver, w, strength, x, y, weights, tol=tol, max_steps=max_steps)
    return w, (w, info.steps)

  return jax.lax.scan(one, jnp.zeros(x.shape[1], x.dtype), strengths)[1]


@functools.partial(jax.jit, static_argnames=("max_steps",))
def batch(strength, x, y, weights, stepsizes, tol, max_steps=10_000):
  """Solutions for several weightings of the rows at one strength."""

  def one(weights, stepsize):
    solver = solvers.fista(squared_error, prox.prox_lasso, stepsize=stepsize)
    start = jnp.zeros(x.shape[1], x.dtype)
    w, info = solvers.run_until(
      solver, start, strength, x, y, weights, tol=tol, max_steps=max_steps
    )
    return w, info.steps

  return jax.vmap(one)(weights, stepsizes)
