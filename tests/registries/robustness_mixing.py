"""Mixtures of classifiers: what is covered, and calls that must fail."""

import functools

import jax
import jax.numpy as jnp

from jaxopt_robust import robustness
from tests.helpers import BadInput

COVERED = {
  "TradeoffCurve", "alpha_for_margin", "margin_for_alpha", "mix_log_probs",
  "mixed_radius_lipschitz", "mixed_radius_smoothing", "mixing_loss", "smoothed_lipschitz",
  "tradeoff_curve",
}  # fmt: skip

_Z = jnp.zeros((2, 3))
_H = jnp.full((2, 3), 1 / 3)
_LABELS = jnp.zeros(2, int)


def _mix(g=_Z, h=_Z, alpha=0.5, **options):
  return robustness.mix_log_probs(g, h, alpha, **options)


def _lipschitz(h=_H, alpha=0.8, lipschitz=1.0):
  return robustness.mixed_radius_lipschitz(h, alpha, lipschitz)


def _smoothing(lower=0.8, upper=0.1, alpha=0.8, sigma=0.5):
  return robustness.mixed_radius_smoothing(lower, upper, alpha, sigma=sigma)


def _loss(gamma=None, labels=_LABELS, attacked=None, **options):
  gamma = jnp.zeros(2) if gamma is None else gamma
  attacked = jnp.zeros(2, bool) if attacked is None else attacked
  return robustness.mixing_loss(_Z, gamma, labels, attacked=attacked, **options)


def _curve(apply_fn=lambda p, x: (x, x), key=None, alphas=None, attack=None, **options):
  attack = attack or functools.partial(robustness.pgd_worst_case, radius=0.1, num_steps=1)
  key = jax.random.key(0) if key is None else key
  alphas = jnp.array([0.5]) if alphas is None else alphas
  return robustness.tradeoff_curve(
    apply_fn, (), _Z, _LABELS, key, alphas=alphas, attack=attack, **options
  )


BAD_INPUTS = [
  BadInput(f"robustness.{name}", what, functools.partial(call, **options), error, match)
  for name, call, cases in (
    ("mix_log_probs", _mix, (
      ("alpha", {"alpha": 1.5}, ValueError, r"alpha must be in \[0, 1\]"),
      ("alpha shape", {"alpha": jnp.ones(3)}, ValueError, "alpha must be a scalar or have shape"),
      ("shapes", {"h": _Z[:1]}, ValueError, "logits_g and logits_h must have equal shapes"),
      ("classes", {"g": _Z[:, :1], "h": _Z[:, :1]}, ValueError, "at least two classes"),
      ("scale", {"scale_g": 0.0}, ValueError, "scale_g must be > 0"),
      ("dtype", {"g": _Z + 0j}, TypeError, "logits_g must be a floating-point"),
    )),
    ("mixed_radius_lipschitz", _lipschitz, (
      ("alpha", {"alpha": -0.1}, ValueError, r"alpha must be in \[0, 1\]"),
      ("probabilities", {"h": 2 * _H + 1}, ValueError, r"probabilities must be in \[0, 1\]"),
      ("classes", {"h": _H[:, :1]}, ValueError, "at least two classes"),
      ("lipschitz", {"lipschitz": 0.0}, ValueError, "lipschitz must be > 0"),
      ("lipschitz shape", {"lipschitz": jnp.ones(2)}, ValueError, "lipschitz must be a scalar or"),
    )),
    ("mixed_radius_smoothing", _smoothing, (
      ("alpha", {"alpha": 2.0}, ValueError, r"alpha must be in \[0, 1\]"),
      ("lower", {"lower": 1.5}, ValueError, r"lower must be in \[0, 1\]"),
      ("upper", {"upper": -0.5}, ValueError, r"upper must be in \[0, 1\]"),
      ("shapes", {"upper": jnp.ones(2)}, ValueError, "lower and upper must have equal shapes"),
      ("sigma", {"sigma": 0.0}, ValueError, "sigma must be > 0"),
    )),
    ("mixing_loss", _loss, (
      ("gamma", {"gamma": jnp.zeros(3)}, ValueError, "gamma must have shape"),
      ("labels", {"labels": jnp.array([0, 3])}, ValueError, "labels must lie in"),
      ("attacked", {"attacked": jnp.zeros(2)}, TypeError, "attacked must be a boolean mask"),
      ("weight", {"ce_weight": -1.0}, ValueError, "ce_weight must be >= 0"),
    )),
    ("tradeoff_curve", _curve, (
      ("apply_fn", {"apply_fn": 1}, TypeError, "apply_fn must be callable"),
      ("attack", {"attack": "pgd"}, TypeError, "attack must be callable"),
      ("key", {"key": 0}, TypeError, "key must be a typed key"),
      ("alphas", {"alphas": jnp.array([0.5, 1.2])}, ValueError, r"alphas must be in \[0, 1\]"),
      ("alphas rank", {"alphas": 0.5}, ValueError, "alphas must have rank 1"),
      ("outputs", {"apply_fn": lambda p, x: x}, ValueError, "what apply_fn returns must be a pair"),
    )),
    ("alpha_for_margin", robustness.alpha_for_margin, (
      ("margin", {"margin": 1.5}, ValueError, r"margin must be in \[0, 1\]"),
    )),
    ("margin_for_alpha", robustness.margin_for_alpha, (
      ("alpha", {"alpha": -0.5}, ValueError, r"alpha must be in \[0, 1\]"),
    )),
    ("smoothed_lipschitz", robustness.smoothed_lipschitz, (
      ("sigma", {"sigma": 0.0}, ValueError, "sigma must be > 0"),
      ("constant", {"sigma": 1.0, "constant": "Sharp"}, ValueError, "constant must be one of"),
    )),
  )
  for what, options, error, match in cases
]  # fmt: skip
