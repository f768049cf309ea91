"""Attacks and adversarial training losses: what is covered, and calls that must fail."""

import functools

import jax
import jax.numpy as jnp

from jaxopt_robust import robustness
from tests.helpers import BadInput

COVERED = {
  "pgd_adversarial_training_loss",
  "pgd_attack",
  "smooth_adversarial_comp_sum_training_loss",
  "trades_loss",
}

TRAINING_LOSSES = [
  robustness.pgd_adversarial_training_loss,
  robustness.trades_loss,
  robustness.smooth_adversarial_comp_sum_training_loss,
]

_X = jnp.zeros((2, 3))
_LABELS = jnp.zeros(2, jnp.int32)


def _key():
  return jax.random.key(0)


def _attack(objective=lambda v: jnp.sum(v, axis=1), x=_X, key=None, **options):
  options = {"radius": 0.1, "stepsize": 0.1, "num_steps": 2, **options}
  return robustness.pgd_attack(objective, x, _key() if key is None else key, **options)


def _bad(what, call, error, match):
  return BadInput("robustness.pgd_attack", what, call, error, match)


BAD_INPUTS = [
  _bad("rank", lambda: _attack(x=jnp.zeros(())), ValueError, "x must have rank at least 1"),
  _bad(
    "dtype", lambda: _attack(x=jnp.zeros((2, 3), complex)), TypeError, "x must be a floating-point"
  ),
  _bad("empty", lambda: _attack(x=jnp.zeros((0, 3))), ValueError, "x must not be empty"),
  _bad("key", lambda: _attack(key=jnp.zeros(2, jnp.uint32)), TypeError, "key must be a typed key"),
  _bad("callable", lambda: _attack(objective=None), TypeError, "objective must be callable"),
  _bad(
    "objective shape", lambda: _attack(jnp.sum), ValueError, "objective must return one number an"
  ),
  _bad("norm", lambda: _attack(norm="l3"), ValueError, "norm must be one of 'linf', 'l2'"),
  _bad("radius", lambda: _attack(radius=-0.1), ValueError, "radius must be >= 0"),
  _bad("radius shape", lambda: _attack(radius=jnp.ones(3)), ValueError, "radius must be a scalar"),
  _bad("stepsize", lambda: _attack(stepsize=0.0), ValueError, "stepsize must be > 0"),
  _bad("num_steps", lambda: _attack(num_steps=0), ValueError, "num_steps must be at least 1"),
  _bad("num_steps dtype", lambda: _attack(num_steps=1.5), TypeError, "num_steps must be a static"),
]


def _train(loss, apply_fn=lambda params, x: x @ params, x=_X, labels=_LABELS, key=None, **options):
  attack = functools.partial(robustness.pgd_attack, radius=0.1, stepsize=0.1, num_steps=1)
  options = {"attack": attack, **options}
  return loss(apply_fn, jnp.eye(3), x, labels, _key() if key is None else key, **options)


def _common(loss):
  def bad(what, error, match, **options):
    call = functools.partial(_train, loss, **options)
    return BadInput(f"robustness.{loss.__name__}", what, call, error, match)

  return [
    bad("apply_fn", TypeError, "apply_fn must be callable", apply_fn=None),
    bad("attack", TypeError, "attack must be callable", attack="pgd"),
    bad("key", TypeError, "key must be a typed key", key=0),
    bad("dtype", TypeError, "x must be a floating-point", x=jnp.zeros((2, 3), complex)),
    bad("empty", ValueError, "x must not be empty", x=jnp.zeros((0, 3))),
    bad("labels shape", ValueError, "labels must have shape", labels=jnp.zeros(3, int)),
    bad("labels range", ValueError, "labels must lie in", labels=jnp.array([0, 3])),
    bad("mask dtype", TypeError, "where must be a boolean mask", where=jnp.ones(2)),
  ]


for _loss in TRAINING_LOSSES:
  BAD_INPUTS += _common(_loss)
BAD_INPUTS += [
  BadInput(
    "robustness.pgd_adversarial_training_loss",
    "loss",
    lambda: robustness.pgd_adversarial_training_loss(
      lambda params, x: x @ params, jnp.eye(3), _X, _LABELS, _key(), attack=_attack, loss=None
    ),
    TypeError,
    "loss must be callable",
  ),
  BadInput(
    "robustness.trades_loss",
    "beta",
    lambda: _train(robustness.trades_loss, beta=-1.0),
    ValueError,
    "beta must be >= 0",
  ),
  BadInput(
    "robustness.trades_loss",
    "beta rank",
    lambda: _train(robustness.trades_loss, beta=jnp.ones(2)),
    ValueError,
    "beta must have rank 0",
  ),
  BadInput(
    "robustness.smooth_adversarial_comp_sum_training_loss",
    "nu",
    lambda: _train(robustness.smooth_adversarial_comp_sum_training_loss, nu=-1.0),
    ValueError,
    "nu must be >= 0",
  ),
]
