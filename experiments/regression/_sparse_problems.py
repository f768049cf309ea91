"""Sparse regression problems with correlated features: blocks of coefficients, labels."""

from typing import Any

import numpy as np

LOSSES = ("lasso", "logistic")


def design(rng: np.random.Generator, rows: int, features: int, tau: float) -> np.ndarray:
  """Standardised rows of a Gaussian sequence with correlation tau^|i - j|."""
  noise = rng.standard_normal((rows, features))
  x = np.empty_like(noise)
  x[:, 0] = noise[:, 0]
  for j in range(1, features):
    x[:, j] = tau * x[:, j - 1] + np.sqrt(1 - tau**2) * noise[:, j]
  return (x - x.mean(0)) / x.std(0)


def nonconvex_problem(config: Any, tau: float, seed: int) -> tuple[np.ndarray, ...]:
  """Five blocks of five coefficients of growing size; X, y, Lipschitz constant, strength."""
  rng = np.random.default_rng([seed, round(100 * tau)])
  x = design(rng, config.rows, config.features, tau)
  truth = np.zeros(config.features)
  for i, mean in enumerate((0.5, 5.0, 10.0, 20.0, 50.0)):
    at = i * config.features // 5
    truth[at : at + 5] = mean + (i + 1) * rng.standard_normal(5)
  signal = x @ truth
  y = signal + signal.std() / np.sqrt(config.snr) * rng.standard_normal(config.rows)
  y = (y - y.mean()) / y.std()
  return x, y, *_constants(x, y, config.share)


def _constants(x: np.ndarray, y: np.ndarray, share: float) -> tuple[np.ndarray, np.ndarray]:
  """Largest eigenvalue of X^T X / n and share times ||X^T y||_inf / n."""
  return np.linalg.norm(x, 2) ** 2 / len(y), share * np.abs(x.T @ y).max() / len(y)


def convex_problem(config: Any, loss: str, seed: int) -> tuple[np.ndarray, ...]:
  """Twenty coefficients of a normal distribution; X, y, Lipschitz constant, strength."""
  rng = np.random.default_rng([seed, 1000 + LOSSES.index(loss)])
  x = design(rng, config.convex_rows, config.convex_features, config.convex_tau)
  truth = np.zeros(config.convex_features)
  truth[rng.permutation(config.convex_features)[:20]] = rng.standard_normal(20)
  signal = x @ truth
  if loss == "lasso":
    y = signal + signal.std() / np.sqrt(config.snr) * rng.standard_normal(len(x))
    return x, y, *_constants(x, y, config.convex_share)
  y = (rng.random(len(x)) < 1 / (1 + np.exp(-signal))).astype(float)
  top, lam = _constants(x, y - 0.5, config.convex_share)
  return x, y, top / 4, lam
