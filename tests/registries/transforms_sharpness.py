"""Links that perturb the parameters: contract cases, and calls that must fail."""

import functools

import jax
import jax.numpy as jnp
import optax

from jaxopt_robust import transforms
from tests.helpers import BadInput
from tests.registries.transforms import TransformCase


def _gradients(params, i=0):
  """Gradients of a separable function of any tree, masked ones too."""
  return jax.tree.map(lambda p: 0.5 * p + p**3 + 0.1, params)


def _reliable(params, i=0):
  return (jnp.ones(()), jnp.array([True, False])), _gradients(params)


_INNER = {"inner": optax.adam(0.1)}
_NORM = {"norm": "adaptive"}


def _case(name, make, hyper, extra, **fixed):
  return TransformCase(name, make, hyper, (), _INNER | fixed, lambda grads: extra, separable=False)


SHARPNESS = [
  _case("sam", transforms.sam, {"rho": 0.1}, {"grad_fn": _gradients}),
  _case("sam adaptive", transforms.sam, {"rho": 0.1}, {"grad_fn": _gradients}, **_NORM),
  _case("gsam", transforms.gsam, {"rho": 0.1, "alpha": 0.3}, {"grad_fn": _gradients}),
  _case(
    "gsam plain", transforms.gsam, {"rho": 0.1, "alpha": 0.3}, {"grad_fn": _gradients},
    minimize="plain",
  ),
  _case("rsgs", transforms.rsgs, {"rho": 0.1, "alpha": 0.3}, {"value_and_grad_fn": _reliable}),
  _case(
    "rsgs recovery", transforms.rsgs, {"recovery": 0.2, "decay": 0.3},
    {"value_and_grad_fn": _reliable},
  ),
  _case(
    "ignite", transforms.ignite,
    {"rho": 0.05, "radius": 0.05, "budget": 0.1, "multiplier": 0.3, "multiplier_rate": 0.1},
    {"pred_grad_fn": _gradients},
  ),
  _case(
    "ignite_fixed exact", transforms.ignite_fixed, {"multiplier": 0.3},
    {"pred_grad_fn": _gradients}, derivative="exact", mask=True,
  ),
]  # fmt: skip
COVERED = {
  "IgniteState",
  "RsgsState",
  "SharpnessState",
  "gsam",
  "gsam_radius",
  "ignite",
  "ignite_fixed",
  "perturbed_gradient",
  "rsgs",
  "sam",
  "surrogate_sharpness",
}

X = jnp.ones(2)
SGD = optax.sgd(0.1)
BAD_INPUTS: list[BadInput] = []


def _add(name, what, error, match, *args, **options):
  call = functools.partial(getattr(transforms, name), *args, **options)
  BAD_INPUTS.append(BadInput(f"transforms.{name}", what, call, error, match))


def _step(name, what, match, error=ValueError, params=X, **extra):
  def call():
    tx = getattr(transforms, name)(SGD)
    return tx.update(X, tx.init(X), params, **extra)

  BAD_INPUTS.append(BadInput(f"transforms.{name}", what, call, error, match))


for _name in ("sam", "gsam", "rsgs", "ignite", "ignite_fixed"):
  _add(_name, "inner", TypeError, "inner must be an optax.GradientTransformation", 0.1)
  _step(_name, "no params", "needs the current parameters", params=None)
for _name in ("sam", "gsam", "rsgs"):
  _add(_name, "rho", ValueError, "rho must be a scalar >= 0|rho must be >= 0", SGD, rho=-1.0)
  _add(_name, "norm", ValueError, "norm must be one of 'l2', 'adaptive'", SGD, norm="l1")
for _name in ("sam", "gsam"):
  _step(_name, "no function", f"{_name} needs the function that the gradients are values of")
for _name in ("ignite", "ignite_fixed"):
  _add(_name, "rho", ValueError, "rho must be > 0", SGD, rho=0.0)
  _add(_name, "radius", ValueError, "radius must be > 0", SGD, radius=0.0)
  _add(_name, "multiplier", ValueError, "multiplier must be >= 0", SGD, multiplier=-1.0)
  _add(_name, "derivative", ValueError, "derivative must be one of", SGD, derivative="double")
  _step(_name, "no function", f"{_name} needs grad of the mean prediction")
_add("gsam", "alpha", ValueError, "alpha must be >= 0", SGD, alpha=-0.1)
_add("gsam", "minimize", ValueError, "minimize must be one of 'perturbed'", SGD, minimize="gap")
_add("rsgs", "alpha", ValueError, "alpha must be >= 0", SGD, alpha=-0.1)
_add("rsgs", "decay", ValueError, "decay must be in", SGD, decay=1.0)
_add("rsgs", "recovery", ValueError, "recovery must have rank 0", SGD, recovery=X)
_step("rsgs", "no function", "rsgs needs the loss on reliable examples")
_step(
  "rsgs", "mask", "with a boolean array reliable", TypeError,
  value_and_grad_fn=lambda p, i: ((jnp.ones(()), X), p),
)  # fmt: skip
_add("ignite", "budget", ValueError, "budget must be > 0", SGD, budget=0.0)
_add("ignite", "infeasible", ValueError, "budget must be > rho where an output", SGD, budget=0.05)
_add("ignite", "rate", ValueError, "multiplier_rate must be >= 0", SGD, multiplier_rate=-1.0)
_sharpness = lambda **o: {"fun": lambda w: jnp.sum(w**2), "params": X, **o}
for _what, _error, _match, _options in [
  ("fun", TypeError, "fun must be callable", {"fun": None}),
  ("params", TypeError, "params must be a floating-point", {"params": 1j * X}),
  ("rho", ValueError, "rho must be > 0", {"rho": -1.0}),
  ("mask", ValueError, "mask must be a pytree of booleans", {"mask": [True, False]}),
]:
  _add("surrogate_sharpness", _what, _error, _match, **_sharpness(**_options))
_schedule = lambda **o: {
  "learning_rate": optax.constant_schedule(0.1), "rho": (0.0, 0.1), "rates": (0.0, 0.1), **o
}  # fmt: skip
for _what, _error, _match, _options in [
  ("rate", TypeError, "learning_rate must be callable", {"learning_rate": 0.1}),
  ("pair", ValueError, r"rho must be a pair \(rho_min, rho_max\)", {"rho": 0.1}),
  ("rho", ValueError, "rho must be >= 0", {"rho": (-0.1, 0.1)}),
  ("order", ValueError, "in order; got", {"rho": (0.2, 0.1)}),
  ("rates", ValueError, "rates must be .* two of them", {"rates": (0.1, 0.1)}),
]:
  _add("gsam_radius", _what, _error, _match, **_schedule(**_options))
_perturbed = lambda **o: {
  "grad_fn": lambda w: w, "params": X, "direction": X, "radius": 0.1, **o
}  # fmt: skip
for _what, _error, _match, _options in [
  ("function", TypeError, "grad_fn must be callable", {"grad_fn": None}),
  ("params", TypeError, "params must be a floating-point", {"params": 1j * X}),
  ("structure", ValueError, "direction must have the pytree structure", {"direction": [X]}),
  ("shape", ValueError, "params and direction must have equal", {"direction": jnp.ones(3)}),
  ("radius", ValueError, "radius must have rank 0", {"radius": X}),
  ("norm", ValueError, "norm must be one of 'l2', 'adaptive'", {"norm": "l1"}),
]:
  _add("perturbed_gradient", _what, _error, _match, **_perturbed(**_options))
