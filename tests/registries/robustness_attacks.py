"""Attacks on classifiers and what they maximise: what is covered, and calls that must fail."""

import functools

import jax
import jax.numpy as jnp
import optax

from jaxopt_robust import robustness
from tests.helpers import BadInput

LOSSES = {
  "cross_entropy_attack_loss": 2,
  "margin_attack_loss": 2,
  "dlr_attack_loss": 3,
  "targeted_dlr_attack_loss": 4,
  "targeted_margin_attack_loss": 2,
}
ATTACKS = ("pgd_worst_case", "apgd_attack", "robust_accuracy")
COVERED = {*LOSSES, *ATTACKS, "AttackInfo", "RobustnessInfo", "fgsm_attack"}

_X = jnp.full((2, 5), 0.5)
_LABELS = jnp.zeros(2, jnp.int32)


def _loss(name, classes=5, labels=_LABELS, targets=None, **options):
  arguments = (jnp.zeros((2, classes)), labels)
  if name.startswith("targeted"):
    arguments += (jnp.ones(2, jnp.int32) if targets is None else targets,)
  return getattr(robustness, name)(*arguments, **options)


def _attack(name, apply_fn=lambda params, x: x @ params, x=_X, labels=_LABELS, **options):
  options = {"radius": 0.1, "num_steps": 1, **options}
  key = options.pop("key", None)
  key = jax.random.key(0) if key is None else key
  return getattr(robustness, name)(apply_fn, jnp.eye(5), x, labels, key, **options)


def _fgsm(objective=lambda v: jnp.sum(v, axis=1), x=_X, **options):
  return robustness.fgsm_attack(objective, x, **{"radius": 0.1, **options})


BAD_INPUTS = []


def _bad(name, what, error, match, call, **options):
  BAD_INPUTS.append(
    BadInput(f"robustness.{name}", what, functools.partial(call, **options), error, match)
  )


for _name, _classes in LOSSES.items():
  _of = functools.partial(_loss, _name)
  _bad(_name, "labels", ValueError, "labels must lie in", _of, labels=jnp.array([0, 5]))
  _bad(_name, "labels shape", ValueError, "labels must have shape", _of, labels=jnp.zeros(3, int))
  _bad(_name, "mask", TypeError, "where must be a boolean mask", _of, where=jnp.ones(2))
  for _few in range(1, _classes):
    _bad(_name, f"{_few} classes", ValueError, "logits must have at least", _of, classes=_few)
  if _name.startswith("targeted"):
    _bad(_name, "targets", ValueError, "targets must lie in", _of, targets=jnp.array([1, 5]))
    _bad(_name, "same", ValueError, "targets must differ", _of, targets=_LABELS)

for _name in ATTACKS:
  _of = functools.partial(_attack, _name)
  _bad(_name, "apply_fn", TypeError, "apply_fn must be callable", _of, apply_fn=None)
  _bad(
    _name, "scores", ValueError, "apply_fn must return scores of shape", _of,
    apply_fn=lambda params, x: x @ params[:, 0],
  )  # fmt: skip
  _bad(_name, "x", TypeError, "x must be a floating-point", _of, x=_X + 0j)
  _bad(_name, "empty", ValueError, "x must not be empty", _of, x=_X[:0])
  _bad(_name, "labels", ValueError, "labels must lie in", _of, labels=jnp.array([0, 5]))
  _bad(_name, "key", TypeError, "key must be a typed key", _of, key=0)
  _bad(_name, "radius", ValueError, "radius must be >= 0", _of, radius=-1.0)
  _bad(_name, "norm", ValueError, "norm must be one of 'linf', 'l2', 'l1'", _of, norm="l_inf")
  _bad(_name, "num_steps", ValueError, "num_steps must be at least 1", _of, num_steps=0)
  _bad(_name, "restarts", ValueError, "restarts must be at least 1", _of, restarts=0)
  _bad(_name, "bounds", ValueError, "bounds must contain x", _of, bounds=(-1.0, 0.0))
  _bad(_name, "bounds pair", ValueError, "bounds must be a pair", _of, bounds=1.0)
  _bad(_name, "bounds order", ValueError, "bounds must have low <= high", _of, bounds=(1.0, 0.0))
  _bad(
    _name, "bounds shape", ValueError, "bounds must be scalars or have", _of,
    bounds=(jnp.zeros(3), 1.0),
  )  # fmt: skip
for _name in ATTACKS[:2]:
  _of = functools.partial(_attack, _name)
  _bad(_name, "loss", TypeError, "loss must be callable", _of, loss="ce")
  _bad(
    _name, "loss shape", ValueError, "objective must return one number an", _of,
    loss=lambda logits, labels: jnp.sum(logits),
  )  # fmt: skip
  _dlr = robustness.dlr_attack_loss
  _bad(
    _name, "classes", ValueError, "logits must have at least 3 classes", _of, loss=_dlr,
    apply_fn=lambda params, x: x[:, :2],
  )  # fmt: skip
_of = functools.partial(_attack, "pgd_worst_case")
_bad("pgd_worst_case", "stepsize", ValueError, "stepsize must be > 0", _of, stepsize=0.0)
_bad(
  "pgd_worst_case", "both", ValueError, "stepsize must be None where an optimizer", _of,
  stepsize=0.1, optimizer=optax.sgd(0.1),
)  # fmt: skip
_bad(
  "pgd_worst_case", "optimizer", TypeError, "optimizer must be an optax", _of, optimizer=optax.sgd
)
_of = functools.partial(_attack, "robust_accuracy")
_bad("robust_accuracy", "num_targets", ValueError, "num_targets must be", _of, num_targets=-1)
_bad("robust_accuracy", "mask", TypeError, "where must be a boolean mask", _of, where=jnp.ones(2))
_bad("fgsm_attack", "objective", TypeError, "objective must be callable", _fgsm, objective=0)
_bad("fgsm_attack", "shape", ValueError, "objective must return one", _fgsm, objective=jnp.sum)
_bad("fgsm_attack", "radius", ValueError, "radius must be >= 0", _fgsm, radius=-0.1)
_bad("fgsm_attack", "norm", ValueError, "norm must be one of", _fgsm, norm=2)
_bad("fgsm_attack", "bounds", ValueError, "bounds must contain x", _fgsm, bounds=(0.6, 1.0))
