"""Scores on generated images: what is covered, and calls that must fail."""

import functools

import jax.numpy as jnp

from jaxopt_robust import robustness
from tests.helpers import BadInput

COVERED = {"FmrImages", "FmrScore", "fmr_generate", "fmr_score", "oracle_ensemble"}

_X = jnp.ones((2, 3))
_LABELS = jnp.zeros(2, int)


def _generate(x=_X, labels=_LABELS, **options):
  same = lambda z: z
  default = {"encode": same, "decode": same, "oracle": lambda x: jnp.zeros(len(x), int)}
  return robustness.fmr_generate(
    lambda params, x: x @ params, jnp.eye(3), x, labels, **{**default, **options}
  )


def _score(logits=_X, generated=_X, labels=_LABELS, valid=None):
  valid = jnp.ones(2, bool) if valid is None else valid
  return robustness.fmr_score(logits, generated, labels, valid=valid)


def _oracle(apply_fns=lambda params, x: x, params=((),)):
  return robustness.oracle_ensemble(apply_fns, params)


BAD_INPUTS = [
  BadInput(f"robustness.{name}", what, functools.partial(call, **options), error, match)
  for name, call, cases in (
    ("fmr_generate", _generate, (
      ("x", {"x": _X + 0j}, TypeError, "x must be a floating-point"),
      ("labels", {"labels": jnp.array([0, 3])}, ValueError, "labels must lie in"),
      ("encode", {"encode": None}, TypeError, "encode must be callable"),
      ("decode", {"decode": 1}, TypeError, "decode must be callable"),
      ("oracle", {"oracle": "h"}, TypeError, "oracle must be callable"),
      ("penalty", {"penalty": 2.0}, TypeError, "penalty must be callable"),
      ("image", {"decode": lambda z: z[:, :2]}, ValueError, "decode must return images of the"),
      ("decision", {"oracle": lambda x: x}, ValueError, "oracle must return one class an image"),
      ("num_steps", {"num_steps": -1}, ValueError, "num_steps must be at least 0"),
      ("stepsize", {"stepsize": 0.0}, ValueError, "stepsize must be > 0"),
    )),
    ("fmr_score", _score, (
      ("rank", {"logits": _X[0]}, ValueError, "logits must have rank 2"),
      ("shapes", {"generated": _X[:1]}, ValueError, "logits and generated must have equal"),
      ("labels", {"labels": jnp.array([0, 3])}, ValueError, "labels must lie in"),
      ("valid", {"valid": jnp.ones(2)}, TypeError, "valid must be a boolean mask"),
    )),
    ("oracle_ensemble", _oracle, (
      ("none", {"params": ()}, ValueError, "params must be a sequence"),
      ("apply_fns", {"apply_fns": 3}, TypeError, "apply_fns must be functions"),
      ("callable", {"apply_fns": [3]}, TypeError, "apply_fns must be callable"),
      ("count", {"apply_fns": [len, len]}, ValueError, "apply_fns must be one function"),
    )),
  )
  for what, options, error, match in cases
]  # fmt: skip
