"""Label noise: what is covered, and calls that must fail."""

import functools

import jax
import jax.numpy as jnp

from jaxopt_robust import robustness
from tests.helpers import BadInput

COVERED = {
  "GaussianMixture2",
  "MixedBatch",
  "NoiseInfo",
  "NoiseState",
  "class_balance_kl",
  "cotrain_merge",
  "cross_view_contrastive_loss",
  "detect_noise",
  "gmm2_fit",
  "gmm2_posterior",
  "linear_separation",
  "mixup",
  "mixup_loss",
  "noise_init",
  "pseudo_label_weights",
  "sharpen",
  "small_loss_mask",
}

_V, _X, _FLAGS = jnp.array([0.0, 1.0]), jnp.eye(2), jnp.array([True, False])
_LABELS, _KEY = jnp.array([0, 1]), jax.random.key(0)
_MIXTURE = robustness.GaussianMixture2(_V, _V, 1 + _V, _V[0], _V[1], _LABELS[0], _LABELS[0])
_STATE = robustness.NoiseState(_FLAGS, _V, _X, _LABELS[0])
_LONG = jnp.ones(3, bool)
BAD_INPUTS: list[BadInput] = []


def _add(name, *cases):
  for what, error, match, args, options in cases:
    call = functools.partial(getattr(robustness, name), *args, **options)
    BAD_INPUTS.append(BadInput(f"robustness.{name}", what, call, error, match))


_add(
  "gmm2_fit",
  ("rank", ValueError, "values must have rank 1", (_X,), {}),
  ("dtype", TypeError, "values must be a floating-point", (1j * _V,), {}),
  ("mask", ValueError, "where must have shape", (_V,), {"where": _LONG}),
  ("max_steps", ValueError, "max_steps must be at least 1", (_V,), {"max_steps": 0}),
  ("tol", ValueError, "tol must be >= 0", (_V,), {"tol": -1.0}),
  ("reg", ValueError, "regularization must be > 0", (_V,), {"regularization": 0.0}),
)
_add(
  "gmm2_posterior",
  ("mixture", TypeError, "mixture must be a GaussianMixture2", (_V, _V), {}),
  ("dtype", TypeError, "values must be a floating-point", (_MIXTURE, 1j * _V), {}),
)
_add(
  "small_loss_mask",
  ("rank", ValueError, "losses must have rank 1", (_X,), {}),
  ("threshold", ValueError, "threshold must be in", (_V,), {"threshold": 1.5}),
  ("mask", TypeError, "where must be a boolean mask", (_V,), {"where": _V}),
)
_add(
  "linear_separation",
  ("rank", ValueError, "features must have rank 2", (_V, _FLAGS), {}),
  ("noisy", TypeError, "noisy must be a boolean mask", (_X, _V), {}),
  ("none", TypeError, "noisy must be a boolean mask; got None", (_X, None), {}),
  ("rows", ValueError, "noisy must have shape", (_X, _LONG), {}),
  ("ridge", ValueError, "ridge must be > 0", (_X, _FLAGS), {"ridge": 0.0}),
  ("mask", ValueError, "where must have shape", (_X, _FLAGS), {"where": _LONG}),
)
_add(
  "pseudo_label_weights",
  ("rank", ValueError, "pseudo_losses must have rank 1", (_X, _FLAGS), {}),
  ("noisy", ValueError, "noisy must have shape", (_V, _LONG), {}),
  ("mask", ValueError, "where must have shape", (_V, _FLAGS), {"where": _LONG}),
)
_add(
  "noise_init",
  ("range", ValueError, r"labels must lie in \[0, 2\)", (_LABELS + 1,), {"num_classes": 2}),
  ("num_classes", ValueError, "num_classes must be at least 2", (_LABELS,), {"num_classes": 1}),
  ("rank", ValueError, "labels must have rank 1", (_LABELS[None],), {"num_classes": 2}),
  ("kind", TypeError, "labels must hold integer", (_V,), {"num_classes": 2}),
  ("dtype", TypeError, "dtype must be a floating", (_LABELS,), {"num_classes": 2, "dtype": int}),
)
_add(
  "detect_noise",
  ("state", TypeError, "state must be a NoiseState", (_V, _V, _V), {}),
  ("shapes", ValueError, "state must hold noisy", (_STATE._replace(weights=_X), _V, _V), {}),
  ("losses", ValueError, "losses must have shape", (_STATE, jnp.ones(3), _V), {}),
  ("pseudo", ValueError, "pseudo_losses must have shape", (_STATE, _V, jnp.ones(3)), {}),
  ("which", ValueError, "Did you mean 'linear'", (_STATE, _V, _V), {"which": "linea"}),
  ("no features", ValueError, "features must be given where which is 'alternate'",
   (_STATE, _V, _V), {}),
  ("features", ValueError, "features must have 2 rows", (_STATE, _V, _V),
   {"features": jnp.eye(3)}),
  ("ridge", ValueError, "ridge must be > 0", (_STATE, _V, _V), {"features": _X, "ridge": 0.0}),
  ("mask", ValueError, "where must have shape", (_STATE, _V, _V), {"where": _LONG}),
)  # fmt: skip
_add(
  "cotrain_merge",
  ("a", TypeError, "a must be a NoiseState", (_V, _STATE), {}),
  ("b", TypeError, "b must be a NoiseState", (_STATE, _V), {}),
  ("shapes", ValueError, "must have equal shapes",
   (_STATE, _STATE._replace(guesses=jnp.ones((2, 3)))), {}),
)  # fmt: skip
_add(
  "sharpen",
  ("dtype", TypeError, "probabilities must be a floating-point", (1j * _V,), {}),
  ("rank", ValueError, "probabilities must have rank at least 1", (1.0,), {}),
  ("gamma", ValueError, "gamma must be in", (_V,), {"gamma": 0.0}),
  ("sign", ValueError, "probabilities must be >= 0", (-_V,), {}),
)
_add(
  "mixup",
  ("key", TypeError, "key must be a typed key", (0, _X), {}),
  ("dtype", TypeError, "x must be a floating-point", (_KEY, 1j * _X), {}),
  ("alpha", ValueError, "alpha must be > 0", (_KEY, _X), {"alpha": 0.0}),
)
_add(
  "mixup_loss",
  ("rank", ValueError, "logits must have rank 2", (_V, _X), {}),
  ("targets", ValueError, "must have equal shapes", (_X, jnp.ones((2, 3))), {}),
  ("weights", ValueError, "weights must have shape", (_X, _X, jnp.ones(3)), {}),
  ("sign", ValueError, "weights must be >= 0", (_X, _X, -1 - _V), {}),
  ("lam", ValueError, "lam must be in", (_X, _X), {"lam": 1.5}),
  ("perm", ValueError, r"perm must lie in \[0, 2\)", (_X, _X), {"perm": jnp.array([0, 2])}),
  ("perm shape", ValueError, "perm must have shape", (_X, _X), {"perm": jnp.arange(3)}),
)
_add(
  "cross_view_contrastive_loss",
  ("rank", ValueError, "first must have rank 2", (_V, _X, _LABELS), {}),
  ("shapes", ValueError, "must have equal shapes", (_X, jnp.ones((2, 3)), _LABELS), {}),
  ("labels", ValueError, "labels must have shape", (_X, _X, jnp.arange(3)), {}),
  ("temperature", ValueError, "temperature must be > 0", (_X, _X, _LABELS), {"temperature": 0.0}),
  ("lam", ValueError, "lam must be in", (_X, _X, _LABELS), {"lam": -0.5}),
  ("perm", TypeError, "perm must hold integers", (_X, _X, _LABELS), {"perm": _V}),
  ("mask", ValueError, "where must have shape", (_X, _X, _LABELS), {"where": _LONG}),
)
_add(
  "class_balance_kl",
  ("rank", ValueError, "logits must have rank 2", (_V,), {}),
  ("mask", TypeError, "where must be a boolean mask", (_X,), {"where": _V}),
)
