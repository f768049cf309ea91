"""The Lasso problem of several rows: correlated design, duality gap, paths and bootstraps."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from jaxopt_robust import prox, regression


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


@functools.partial(jax.jit, static_argnames=("loss", "penalty"))
def path(strengths, x, y, tol, *, loss="squared", penalty=prox.lasso, params=()):
  """Solutions for strengths in falling order, and what was said of each."""
  found = regression.regularization_path(
    x, y, strengths, loss=loss, penalty=penalty, penalty_params=params, fit_intercept=False, tol=tol
  )
  return found.coefficients, found.steps, found.status


@jax.jit
def batch(strength, x, y, weights, tol):
  """Solutions for several weightings of the rows at one strength."""

  def one(weights):
    found = regression.regularization_path(
      x, y, strength[None], sample_weight=weights, fit_intercept=False, tol=tol
    )
    return found.coefficients[0], found.status[0]

  return jax.vmap(one)(weights)
