"""Doubly robust training, the log barrier attack, tail accuracy: covered, and bad calls."""

import functools

import jax
import jax.numpy as jnp

from jaxopt_robust import robustness
from tests.helpers import BadInput

COVERED = {
  "DoneInfo",
  "DoneState",
  "PerturbationBox",
  "done_init",
  "done_value_and_grad",
  "implicit_direction",
  "implicit_term",
  "log_barrier_attack",
  "perturbation_box",
  "tail_accuracy",
}

_X = jnp.full((2, 3), 0.5)
_BOX = robustness.PerturbationBox(-0.1 * jnp.ones((2, 3)), 0.1 * jnp.ones((2, 3)))
_LABELS = jnp.zeros(2, jnp.int32)


def _key():
  return jax.random.key(0)


def _attack(objective=lambda d: jnp.sum(d, axis=1), box=_BOX, key=None, **options):
  options = {"num_steps": 2, **options}
  return robustness.log_barrier_attack(objective, box, _key() if key is None else key, **options)


def _done(apply_fn=lambda params, x: x @ params, x=_X, labels=_LABELS, key=None, where=None, **o):
  fn = robustness.done_value_and_grad(apply_fn, **{"radius": 0.1, **o})
  key = _key() if key is None else key
  return fn(jnp.eye(3), robustness.done_init(), x, labels, key, where=where)


def _direction(objective=lambda d: jnp.sum(d, axis=1), d=0 * _X, gradient=_X, **options):
  return robustness.implicit_direction(objective, _BOX, d, gradient, **options)


_CORRECT = jnp.ones(2)


def _tail(correct=_CORRECT, labels=_LABELS, **options):
  return robustness.tail_accuracy(correct, labels, **{"num_classes": 3, **options})


BAD_INPUTS: list[BadInput] = []


def _add(name, what, call, error, match, **options):
  call = functools.partial(call, **options)
  BAD_INPUTS.append(BadInput(f"robustness.{name}", what, call, error, match))


_box = lambda x=_X, radius=0.1, **o: robustness.perturbation_box(x, radius, **o)
for _what, _error, _match, _options in [
  ("rank", ValueError, "x must have rank at least 1", {"x": jnp.zeros(())}),
  ("dtype", TypeError, "x must be a floating-point", {"x": jnp.zeros((2, 3), complex)}),
  ("empty", ValueError, "x must not be empty", {"x": jnp.zeros((0, 3))}),
  ("radius", ValueError, "radius must be > 0", {"radius": 0.0}),
  ("radius shape", ValueError, "radius must be a scalar or have", {"radius": jnp.ones(3)}),
  ("slack", ValueError, "slack must be > 0", {"slack": 0.0}),
]:
  _add("perturbation_box", _what, _box, _error, _match, **_options)
for _what, _error, _match, _options in [
  ("objective", TypeError, "objective must be callable", {"objective": None}),
  ("objective shape", ValueError, "objective must return one number", {"objective": jnp.sum}),
  ("box", ValueError, "must have equal shapes", {"box": _BOX._replace(lower=-_X[:1])}),
  ("key", TypeError, "key must be a typed key", {"key": 0}),
  ("num_steps", ValueError, "num_steps must be at least 1", {"num_steps": 0}),
  ("num_steps dtype", TypeError, "num_steps must be a static", {"num_steps": 2.0}),
  ("stepsize", ValueError, "stepsize must be > 0", {"stepsize": 0.0}),
  ("barrier", ValueError, "barrier must be > 0", {"barrier": -1.0}),
  ("barrier rank", ValueError, "barrier must have rank 0", {"barrier": jnp.ones(2)}),
]:
  _add("log_barrier_attack", _what, _attack, _error, _match, **_options)
for _what, _error, _match, _options in [
  ("objective", TypeError, "objective must be callable", {"objective": None}),
  ("hessian", ValueError, "hessian must be one of 'diagonal'", {"hessian": "none"}),
  ("barrier", ValueError, "barrier must be > 0", {"barrier": 0.0}),
  ("shape", ValueError, "must have equal shapes", {"d": _X[:1]}),
  ("gradient", ValueError, "must have equal shapes", {"gradient": _X[:1]}),
]:
  _add("implicit_direction", _what, _direction, _error, _match, **_options)
_add(
  "implicit_term", "objective", lambda: robustness.implicit_term(None, {}, _X, _X), TypeError,
  "objective must be callable",
)  # fmt: skip
_add(
  "implicit_term", "shape",
  lambda: robustness.implicit_term(lambda p, d: d[:, 0], {}, _X, _X[:1]), ValueError,
  "must have equal shapes",
)  # fmt: skip
_add(
  "done_init", "dtype", lambda: robustness.done_init(dtype=int), TypeError,
  "dtype must be a floating",
)  # fmt: skip
for _what, _error, _match, _options in [
  ("apply_fn", TypeError, "apply_fn must be callable", {"apply_fn": None}),
  ("loss", TypeError, "loss must be callable", {"loss": "ce"}),
  ("attack_loss", TypeError, "attack_loss must be callable", {"attack_loss": "ce"}),
  ("implicit", ValueError, "implicit must be one of", {"implicit": True}),
  ("radius", ValueError, "radius must be > 0", {"radius": 0.0}),
  ("temperature", ValueError, "temperature must be in", {"temperature": float("inf")}),
  ("temperature rank", ValueError, "temperature must have rank 0", {"temperature": jnp.ones(2)}),
  ("rate", ValueError, "rate must be in", {"rate": 0.0}),
  ("barrier", ValueError, "barrier must be > 0", {"barrier": 0.0}),
  ("num_steps", ValueError, "num_steps must be at least 1", {"num_steps": 0}),
  ("stepsize", ValueError, "stepsize must be > 0", {"stepsize": -1.0}),
  ("x dtype", TypeError, "x must be a floating-point", {"x": jnp.zeros((2, 3), complex)}),
  ("labels shape", ValueError, "labels must have shape", {"labels": jnp.zeros(3, int)}),
  ("labels range", ValueError, "labels must lie in", {"labels": jnp.array([0, 3])}),
  ("key", TypeError, "key must be a typed key", {"key": 0}),
  ("mask", TypeError, "where must be a boolean mask", {"where": jnp.ones(2)}),
]:
  _add("done_value_and_grad", _what, _done, _error, _match, **_options)
for _what, _error, _match, _options in [
  ("rank", ValueError, "correct must have rank 1", {"correct": jnp.ones((2, 1))}),
  ("labels dtype", TypeError, "labels must hold integer", {"labels": jnp.zeros(2)}),
  ("labels shape", ValueError, "labels must have shape", {"labels": jnp.zeros(3, int)}),
  ("labels range", ValueError, "labels must lie in", {"labels": jnp.array([0, 3])}),
  ("num_classes", ValueError, "num_classes must be at least 1", {"num_classes": 0}),
  ("fraction", ValueError, "must be in", {"fraction": 0.0}),
  ("mask", TypeError, "where must be a boolean mask", {"where": jnp.ones(2)}),
]:
  _add("tail_accuracy", _what, _tail, _error, _match, **_options)
