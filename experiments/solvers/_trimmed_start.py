"""Least trimmed squares from random subsets, the start of fits with bounded losses.

Rousseeuw and Van Driessen, Computing LTS regression for large data sets, 2006 (concentration
steps).
"""

from typing import Any

import jax
import jax.numpy as jnp

from jaxopt_robust import prox

MEDIAN_TO_DEVIATION = 1.4826  # the median of |x| of a normal distribution is 0.6745 deviations
CAP = 3.0  # the usual "three sigma"


def trimmed(subsets: jax.Array, x: jax.Array, y: jax.Array, *, trims: int) -> tuple[Any, Any]:
  """The start of the bounded losses: small random subsets, concentrated on the best half.

  Each subset's fit is refitted to the half of the rows that fits it best, a few times. The smallest
  trimmed sum of squares gives the scale of the residuals, and the bounded loss at this scale picks
  among all candidates. Returns the coefficients and the scale.
  """
  half = (len(y) + x.shape[1] + 1) // 2
  eye = 1e-9 * jnp.eye(x.shape[1])  # repeated rows make a small subset singular

  def concentrate(w: jax.Array, _: Any) -> Any:
    _, keep = jax.lax.top_k(-jnp.abs(y - x @ w), half)
    rows = x[keep]
    return jax.scipy.linalg.solve(rows.T @ rows + eye, y[keep] @ rows, assume_a="pos"), None

  def one(index: jax.Array) -> Any:
    rows = x[index]
    w = jax.scipy.linalg.solve(rows.T @ rows + eye, y[index] @ rows, assume_a="pos")
    return jax.lax.scan(concentrate, w, None, length=trims)[0]

  candidates = jax.vmap(one)(subsets)
  residuals = jnp.abs(y[None] - candidates @ x.T)
  smallest = jnp.argmin(jnp.sum(-jax.lax.top_k(-(residuals**2), half)[0], axis=1))
  scale = MEDIAN_TO_DEVIATION * jnp.median(residuals[smallest])
  bounded = jax.vmap(lambda r: prox.penalty_capped_l1(r, (1.0, CAP * scale)))(residuals)
  return candidates[jnp.argmin(bounded)], scale
