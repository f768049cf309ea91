"""Public names and bad inputs of ``linalg``."""

import jax
import jax.numpy as jnp

from jaxopt_robust import linalg
from tests.helpers import BadInput

COVERED = {
  "LowRankSVD",
  "NewtonInverseInfo",
  "SegmentLstsqInfo",
  "newton_inverse",
  "randomized_svd",
  "randomized_svd_matvec",
  "segment_lstsq",
  "sketch_precondition",
}

_KEY = jax.random.key(0)
_ROWS, _SEG, _B = jnp.ones((3, 2)), jnp.zeros(3, int), jnp.ones(3)


def _bad(name, what, call, error, match):
  return BadInput(f"linalg.{name}", what, call, error, match)


def _lstsq(rows=_ROWS, segments=_SEG, targets=_B, *, num_segments=1, key=_KEY, **extra):
  return linalg.segment_lstsq(rows, segments, targets, num_segments=num_segments, key=key, **extra)


def _products(**extra):
  options = {"shape": (3, 2), "rank": 1} | extra
  return linalg.randomized_svd_matvec(_KEY, lambda x: _ROWS @ x, lambda x: _ROWS.T @ x, **options)


BAD_INPUTS = [
  _bad("newton_inverse", "shape", lambda: linalg.newton_inverse(_ROWS), ValueError, "n, n"),
  _bad(
    "newton_inverse", "dtype", lambda: linalg.newton_inverse(jnp.eye(2, dtype=complex)), TypeError,
    "floating-point",
  ),
  _bad(
    "newton_inverse", "NaN", lambda: linalg.newton_inverse(jnp.full((2, 2), jnp.nan)), ValueError,
    "must be finite",
  ),
  _bad("newton_inverse", "ridge", lambda: linalg.newton_inverse(jnp.eye(2), ridge=-1.0),
       ValueError, "ridge"),
  _bad("newton_inverse", "safety", lambda: linalg.newton_inverse(jnp.eye(2), safety=1.5),
       ValueError, "safety"),
  _bad("newton_inverse", "steps", lambda: linalg.newton_inverse(jnp.eye(2), num_iters=-1),
       ValueError, "num_iters"),
  _bad("randomized_svd", "key", lambda: linalg.randomized_svd(0, _ROWS, rank=1), TypeError, "key"),
  _bad(
    "randomized_svd", "dtype", lambda: linalg.randomized_svd(_KEY, 1j * _ROWS, rank=1),
    TypeError, "floating-point",
  ),
  _bad(
    "randomized_svd", "rank", lambda: linalg.randomized_svd(_KEY, _ROWS, rank=3), ValueError,
    "at most 2",
  ),
  _bad(
    "randomized_svd", "power", lambda: linalg.randomized_svd(_KEY, _ROWS, rank=1, power=-1),
    ValueError, "power",
  ),
  _bad("randomized_svd_matvec", "start", lambda: _products(start=_ROWS), ValueError, "start must"),
  _bad(
    "randomized_svd_matvec", "callable",
    lambda: linalg.randomized_svd_matvec(_KEY, _ROWS, _ROWS, shape=(3, 2), rank=1), TypeError,
    "matvec must be callable",
  ),
  _bad(
    "sketch_precondition", "size",
    lambda: linalg.sketch_precondition(_KEY, _ROWS, _SEG, num_segments=1, sketch_size=0),
    ValueError, "sketch_size",
  ),
  _bad(
    "sketch_precondition", "segments",
    lambda: linalg.sketch_precondition(_KEY, _ROWS, _SEG + 1, num_segments=1, sketch_size=2),
    ValueError, "segments must lie in",
  ),
  _bad("segment_lstsq", "solver", lambda: _lstsq(solver="qr"), ValueError, "solver must be one of"),
  _bad("segment_lstsq", "key", lambda: _lstsq(key=None), TypeError, "key must be a typed key"),
  _bad("segment_lstsq", "rows", lambda: _lstsq(segments=_SEG[:2]), ValueError, "one entry per row"),
  _bad("segment_lstsq", "dtype", lambda: _lstsq(segments=_B), TypeError, "must hold integers"),
  _bad("segment_lstsq", "targets", lambda: _lstsq(targets=_B[:2]), ValueError, "targets must"),
  _bad("segment_lstsq", "ridge", lambda: _lstsq(ridge=-1.0), ValueError, "ridge"),
  _bad("segment_lstsq", "ridge shape", lambda: _lstsq(ridge=jnp.ones(2)), ValueError, "ridge must"),
  _bad("segment_lstsq", "weights", lambda: _lstsq(weights=-_B), ValueError, "weights"),
  _bad("segment_lstsq", "sketch", lambda: _lstsq(sketch_size=1), ValueError, "at least 2"),
  _bad(
    "segment_lstsq", "NaN", lambda: _lstsq(targets=_B.at[0].set(jnp.nan)), ValueError,
    "must not be NaN",
  ),
]  # fmt: skip
