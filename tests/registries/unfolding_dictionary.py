"""Dictionary learning: what is covered, and calls that must fail."""

import jax
import jax.numpy as jnp
import optax

from jaxopt_robust import prox, solvers, unfolding
from tests.helpers import BadInput

COVERED = {
  "DictionaryInfo",
  "DictionaryState",
  "dictionary_step",
  "init_dictionary",
  "learn_dictionary",
  "normalize_atoms",
  "random_patches",
  "recovered_atoms",
  "sparse_coding",
  "whiten",
}

_KEY = jax.random.key(0)
_SGD = optax.sgd(0.1)
_ATOMS = jnp.eye(3)
_OPTIONS = {"prox": prox.lasso, "optimizer": _SGD, "stepsize": 0.1}


def _bad(name, what, call, error, match):
  return BadInput(f"unfolding.{name}", what, call, error, match)


def _code(codes, *data, stepsize=0.1):
  solver = unfolding.sparse_coding(prox.lasso, stepsize=stepsize)
  return solvers.run_until(solver, codes, 1.0, *data, tol=0.1, max_steps=1)


def _state():
  return unfolding.init_dictionary(_KEY, 3, 4, optimizer=_SGD)


BAD_INPUTS: list[BadInput] = [
  _bad(
    "normalize_atoms",
    "rank",
    lambda: unfolding.normalize_atoms(jnp.ones(3)),
    ValueError,
    "dictionary must have rank 2",
  ),
  _bad(
    "sparse_coding",
    "stepsize",
    lambda: _code(_ATOMS, _ATOMS, _ATOMS, stepsize=0.0),
    ValueError,
    "stepsize must be > 0",
  ),
  _bad(
    "sparse_coding",
    "no data",
    lambda: _code(_ATOMS, _ATOMS),
    ValueError,
    "data must be the patches and the dictionary",
  ),
  _bad(
    "sparse_coding",
    "features",
    lambda: _code(_ATOMS, jnp.ones((3, 2)), _ATOMS),
    ValueError,
    "must agree",
  ),
  _bad(
    "sparse_coding",
    "codes",
    lambda: _code(jnp.ones(3), _ATOMS, _ATOMS),
    ValueError,
    "params must be codes of shape",
  ),
  _bad(
    "init_dictionary",
    "key",
    lambda: unfolding.init_dictionary(0, 3, 4, optimizer=_SGD),
    TypeError,
    "key must be a typed key",
  ),
  _bad(
    "init_dictionary",
    "atoms",
    lambda: unfolding.init_dictionary(_KEY, 3, 0, optimizer=_SGD),
    ValueError,
    "atoms must be at least 1",
  ),
  _bad(
    "dictionary_step",
    "state",
    lambda: unfolding.dictionary_step(_ATOMS, _ATOMS, 1.0, **_OPTIONS),
    TypeError,
    "state must be a DictionaryState",
  ),
  _bad(
    "dictionary_step",
    "features",
    lambda: unfolding.dictionary_step(_state(), jnp.ones((2, 5)), 1.0, **_OPTIONS),
    ValueError,
    "must agree",
  ),
  _bad(
    "learn_dictionary",
    "rank",
    lambda: unfolding.learn_dictionary(_state(), _ATOMS, 1.0, **_OPTIONS),
    ValueError,
    "batches must have rank 3",
  ),
  _bad(
    "recovered_atoms",
    "rows",
    lambda: unfolding.recovered_atoms(_ATOMS, jnp.eye(2)),
    ValueError,
    "equally many rows",
  ),
  _bad(
    "recovered_atoms",
    "threshold",
    lambda: unfolding.recovered_atoms(_ATOMS, _ATOMS, threshold=1.5),
    ValueError,
    "threshold must be in",
  ),
  _bad(
    "whiten",
    "rank",
    lambda: unfolding.whiten(jnp.ones(3)),
    ValueError,
    "image must have at least rank 2",
  ),
  _bad(
    "whiten",
    "cutoff",
    lambda: unfolding.whiten(_ATOMS, cutoff=0.0),
    ValueError,
    "cutoff must be > 0",
  ),
  _bad(
    "random_patches",
    "size",
    lambda: unfolding.random_patches(_KEY, _ATOMS, size=4, count=1),
    ValueError,
    "size must be at most",
  ),
]
