"""Public names and bad inputs of scaled sub-gradient steps and robust principal components."""

import jax.numpy as jnp

from jaxopt_robust import recovery
from tests.helpers import BadInput

COVERED = {
  "AccAltProjState",
  "LowRankSparse",
  "PcpInfo",
  "PcpState",
  "RobustPcaInfo",
  "ScaledGdState",
  "ScaledState",
  "SplitInfo",
  "acc_alt_proj",
  "incoherence",
  "l1_robust_pca",
  "pcp_admm",
  "pcp_ialm",
  "precondition_factors",
  "robust_pca",
  "scaled_geometric",
  "scaled_polyak",
  "scaledgd_rpca",
  "top_rows_and_columns",
}

_D = jnp.ones((3, 2))
_MASK = jnp.ones((3, 2), bool)
_PAIR = recovery.Factors(jnp.ones((3, 1)), jnp.ones((2, 1)))
_ZERO = recovery.LowRankSparse(jnp.zeros((3, 2)), jnp.zeros((3, 2)))


def _bad(name, what, call, error, match):
  return BadInput(f"recovery.{name}", what, call, error, match)


def _update(tx, updates, params):

  return tx.update(updates, tx.init(_PAIR), params)


BAD_INPUTS: list[BadInput] = [
  _bad(
    "precondition_factors",
    "damping",
    lambda: recovery.precondition_factors(damping=-1.0),
    ValueError,
    "damping must be >= 0",
  ),
  _bad(
    "precondition_factors",
    "no params",
    lambda: _update(recovery.precondition_factors(), _PAIR, None),
    ValueError,
    "update needs params",
  ),
  _bad(
    "precondition_factors",
    "type",
    lambda: _update(recovery.precondition_factors(), _PAIR, tuple(_PAIR)),
    TypeError,
    "must be a Factors",
  ),
  _bad(
    "precondition_factors",
    "one factor",
    lambda: _update(recovery.precondition_factors(), recovery.Factors(_PAIR.L, None), _PAIR),
    ValueError,
    "factors of equal shapes",
  ),
  _bad(
    "scaled_polyak",
    "missing",
    lambda: _update(recovery.scaled_polyak(minimum=0.0), _PAIR, _PAIR),
    ValueError,
    "keyword argument value",
  ),
  _bad(
    "scaled_polyak",
    "minimum",
    lambda: recovery.scaled_polyak(minimum=jnp.nan),
    ValueError,
    "minimum",
  ),
  _bad(
    "scaled_geometric",
    "rho",
    lambda: recovery.scaled_geometric(eta0=1.0, rho=1.5),
    ValueError,
    "rho",
  ),
  _bad("incoherence", "rank", lambda: recovery.incoherence(jnp.ones(3)), ValueError, "rank 2"),
  _bad("pcp_admm", "mu", lambda: recovery.pcp_admm(mu=0.0), ValueError, "mu must be > 0"),
  _bad(
    "pcp_admm",
    "params type",
    lambda: recovery.pcp_admm().init(tuple(_ZERO), None, _D),
    TypeError,
    "params must be a LowRankSparse",
  ),
  _bad(
    "pcp_admm",
    "params shape",
    lambda: recovery.pcp_admm().init(_ZERO, None, jnp.ones((2, 2))),
    ValueError,
    "params.low_rank and matrix must have equal shapes",
  ),
  _bad(
    "pcp_ialm",
    "growth",
    lambda: recovery.pcp_ialm(growth=0.5),
    ValueError,
    "growth must be in",
  ),
  _bad("robust_pca", "rank", lambda: recovery.robust_pca(jnp.ones(3)), ValueError, "rank 2"),
  _bad(
    "robust_pca",
    "dtype",
    lambda: recovery.robust_pca("text"),
    TypeError,
    "matrix must be a number or an array of numbers",
  ),
  _bad("robust_pca", "empty", lambda: recovery.robust_pca(jnp.ones((0, 2))), ValueError, "empty"),
  _bad(
    "robust_pca", "lam", lambda: recovery.robust_pca(_D, lam=0.0), ValueError, "lam must be > 0"
  ),
  _bad(
    "robust_pca",
    "solver",
    lambda: recovery.robust_pca(_D, solver=recovery.pcp_admm),
    TypeError,
    "solver must be a Solver",
  ),
  _bad(
    "robust_pca",
    "mask shape",
    lambda: recovery.robust_pca(_D, where=_MASK[:1]),
    ValueError,
    "where must have shape",
  ),
  _bad(
    "robust_pca",
    "mask dtype",
    lambda: recovery.robust_pca(_D, where=_D),
    TypeError,
    "where must be a boolean",
  ),
  _bad(
    "robust_pca",
    "NaN where observed",
    lambda: recovery.robust_pca(_D.at[0, 0].set(jnp.nan), where=_MASK),
    ValueError,
    "matrix must be finite",
  ),
  _bad(
    "acc_alt_proj",
    "rank above the size",
    lambda: recovery.robust_pca(_D, solver=recovery.acc_alt_proj(3)),
    ValueError,
    "rank must be at most 2",
  ),
  _bad("acc_alt_proj", "rank", lambda: recovery.acc_alt_proj(0), ValueError, "at least 1"),
  _bad(
    "acc_alt_proj",
    "beta",
    lambda: recovery.acc_alt_proj(1, beta_init=-1.0),
    ValueError,
    "beta_init",
  ),
  _bad("acc_alt_proj", "gamma", lambda: recovery.acc_alt_proj(1, gamma=1.0), ValueError, "gamma"),
  _bad(
    "acc_alt_proj",
    "mask",
    lambda: recovery.robust_pca(_D, solver=recovery.acc_alt_proj(1), where=_MASK),
    ValueError,
    "takes no mask",
  ),
  _bad(
    "scaledgd_rpca",
    "rank above the size",
    lambda: recovery.robust_pca(_D, solver=recovery.scaledgd_rpca(3, fraction=0.1)),
    ValueError,
    "rank must be at most 2",
  ),
  _bad(
    "scaledgd_rpca",
    "fraction",
    lambda: recovery.scaledgd_rpca(1, fraction=1.5),
    ValueError,
    "fraction",
  ),
  _bad(
    "scaledgd_rpca",
    "mask",
    lambda: recovery.robust_pca(_D, solver=recovery.scaledgd_rpca(1, fraction=0.1), where=_MASK),
    ValueError,
    "takes no mask",
  ),
  _bad(
    "top_rows_and_columns",
    "fraction",
    lambda: recovery.top_rows_and_columns(_D, fraction=-0.1),
    ValueError,
    "fraction",
  ),
  _bad(
    "l1_robust_pca",
    "rank above the size",
    lambda: recovery.l1_robust_pca(_D, 3),
    ValueError,
    "rank must be at most 2",
  ),
  _bad(
    "l1_robust_pca",
    "rule",
    lambda: recovery.l1_robust_pca(_D, 1, rule="odd"),
    ValueError,
    "rule must be one of",
  ),
  _bad(
    "l1_robust_pca",
    "quantile",
    lambda: recovery.l1_robust_pca(_D, 1, quantile=0.0),
    ValueError,
    "quantile",
  ),
  _bad(
    "l1_robust_pca",
    "NaN",
    lambda: recovery.l1_robust_pca(_D.at[0, 0].set(jnp.nan), 1),
    ValueError,
    "matrix must be finite",
  ),
]
