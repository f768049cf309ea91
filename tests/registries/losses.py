"""All losses, with hyperparameters to try and what is known of each."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxopt_robust import losses
from tests.helpers import BadInput


class LossCase(NamedTuple):
  """A loss of one set of scores.

  Attributes:
    name: public name in ``losses``.
    loss: ``loss(logits, labels, *, where=None, **hyper) -> float[batch]``.
    hyper: hyperparameters, different from the defaults.
    symmetric_sum: the constant that the losses over all labels of five classes sum to, or None.
    frozen: whether the gradient holds something fixed on purpose (no finite-difference test).
  """

  name: str
  loss: Callable[..., jax.Array]
  hyper: dict[str, float]
  symmetric_sum: Callable[..., float] | None = None
  frozen: bool = False

  def __str__(self) -> str:
    return self.name


def _deviation(logits, labels, *, where=None):
  return losses.margin_deviation(logits, 0.5 * logits[..., ::-1] + 0.1, labels, where=where)


def _smooth(logits, labels, *, where=None, **hyper):
  other = 0.5 * logits[..., ::-1] + 0.1
  return losses.smooth_adversarial_comp_sum_loss(logits, other, labels, where=where, **hyper)


def _aldr(logits, labels, *, where=None, **hyper):
  index = jnp.zeros(jnp.shape(labels), jnp.int32)
  state = losses.aldr_init(2, temperature=hyper.get("temperature", 10.0))
  return losses.aldr_kl_loss(logits, labels, index, state, where=where, **hyper)[0]


def _raw(loss, **fixed):
  return lambda logits, labels, **hyper: loss(logits, labels, **fixed, **hyper)


CASES = [
  LossCase("cross_entropy_loss", losses.cross_entropy_loss, {}),
  LossCase("generalized_cross_entropy_loss", losses.generalized_cross_entropy_loss, {"q": 0.4}),
  LossCase("truncated_gce_loss", losses.truncated_gce_loss, {"q": 0.4, "threshold": 0.05}),
  LossCase(
    "symmetric_cross_entropy_loss",
    losses.symmetric_cross_entropy_loss,
    {"balance": 0.3, "log_zero": -5.0},
  ),
  LossCase("jensen_shannon_loss", losses.jensen_shannon_loss, {"weight": 0.2}),
  LossCase("softmax_mae_loss", losses.softmax_mae_loss, {}, lambda: 4.0),
  LossCase("softmax_mse_loss", losses.softmax_mse_loss, {}),
  LossCase(
    "nce_rce_loss",
    losses.nce_rce_loss,
    {"alpha": 0.3, "beta": 2.0, "log_zero": -5.0},
    lambda alpha, beta, log_zero: alpha - 4 * beta * log_zero,
  ),
  LossCase("nce_agce_loss", losses.nce_agce_loss, {"alpha": 0.3, "beta": 2.0, "a": 2.0, "q": 0.7}),
  LossCase("nce_aul_loss", losses.nce_aul_loss, {"alpha": 0.3, "beta": 2.0, "a": 2.0, "q": 0.7}),
  LossCase(
    "robust_log_loss",
    losses.robust_log_loss,
    {"alpha": 0.3},
    lambda alpha: 5 * float(jnp.log((alpha + 1) / alpha)),
  ),
  LossCase("crammer_singer_loss", losses.crammer_singer_loss, {"margin": 0.7}),
  LossCase("weston_watkins_loss", losses.weston_watkins_loss, {"margin": 0.7}),
  LossCase("comp_sum_loss", losses.comp_sum_loss, {"tau": 0.6, "rho": 1.5}),
  LossCase("margin_deviation", _deviation, {}),
  LossCase("smooth_adversarial_comp_sum_loss", _smooth, {"tau": 1.4, "rho": 1.5, "nu": 0.3}),
  LossCase("ldr_kl_loss", losses.ldr_kl_loss, {"temperature": 0.7, "margin": 0.3}),
  LossCase(
    "ldr_kl_loss",
    _raw(losses.ldr_kl_loss, normalize=None),
    {"temperature": float("inf"), "margin": 0.0},
    lambda temperature, margin: 0.0,
  ),
  LossCase(
    "ldr_kl_loss",
    _raw(losses.ldr_kl_loss, normalize="l1"),
    {"temperature": 2.0, "margin": 0.3},
  ),
  LossCase(
    "ldr_kl_topk_loss", _raw(losses.ldr_kl_topk_loss, k=2), {"temperature": 0.7, "margin": 0.3}
  ),
  LossCase("aldr_kl_loss", _aldr, {"temperature": 0.7, "margin": 0.3, "alpha": 1.5}, frozen=True),
  LossCase(
    "aldr_kl_exact_loss",
    losses.aldr_kl_exact_loss,
    {"temperature": 0.7, "margin": 0.3, "alpha": 1.5},
  ),
]

COVERED = {case.name for case in CASES} | {
  "AldrState",
  "aldr_init",
  "comp_sum_conditional_regret",
  "comp_sum_gamma",
  "comp_sum_gamma_exact",
  "comp_sum_transform",
  "ldr_weights",
}

_LOGITS = jnp.zeros((2, 3))
_LABELS = jnp.zeros((2,), jnp.int32)
_STATE = losses.AldrState(jnp.ones((4,), jnp.float32))


def _aldr_call(logits, labels, **options):
  index = options.pop("index", jnp.arange(2))
  return losses.aldr_kl_loss(logits, labels, index, _STATE, **options)


def _pair_call(loss):
  return lambda logits, labels, **options: loss(logits, logits, labels, **options)


# Every function of (logits, labels): how to call it, and hyperparameters with a bad value.
_CALLS: dict[str, tuple[Callable[..., Any], dict[str, tuple[Any, str]]]] = {
  "cross_entropy_loss": (losses.cross_entropy_loss, {}),
  "generalized_cross_entropy_loss": (
    losses.generalized_cross_entropy_loss,
    {"q": (-0.1, "q must be >= 0")},
  ),
  "truncated_gce_loss": (
    losses.truncated_gce_loss,
    {"q": (-0.1, "q must be >= 0"), "threshold": (1.0, r"threshold must be in \(0")},
  ),
  "symmetric_cross_entropy_loss": (
    losses.symmetric_cross_entropy_loss,
    {"balance": (1.5, r"balance must be in \[0")},
  ),
  "jensen_shannon_loss": (
    losses.jensen_shannon_loss,
    {"weight": (0.0, r"weight must be in \(0")},
  ),
  "softmax_mae_loss": (losses.softmax_mae_loss, {}),
  "softmax_mse_loss": (losses.softmax_mse_loss, {}),
  "nce_rce_loss": (
    losses.nce_rce_loss,
    {"alpha": (-1.0, "alpha must be >= 0"), "beta": (-1.0, "beta must be >= 0")},
  ),
  "nce_agce_loss": (
    losses.nce_agce_loss,
    {"a": (0.0, "a must be > 0"), "q": (0.0, "q must be > 0")},
  ),
  "nce_aul_loss": (losses.nce_aul_loss, {"a": (1.0, "a must be > 1"), "q": (0.0, "q must be > 0")}),
  "robust_log_loss": (losses.robust_log_loss, {"alpha": (0.0, "alpha must be > 0")}),
  "crammer_singer_loss": (losses.crammer_singer_loss, {"margin": (-1.0, "margin must be >= 0")}),
  "weston_watkins_loss": (losses.weston_watkins_loss, {"margin": (-1.0, "margin must be >= 0")}),
  "comp_sum_loss": (
    losses.comp_sum_loss,
    {"tau": (-0.1, "tau must be >= 0"), "rho": (0.0, "rho must be > 0")},
  ),
  "margin_deviation": (_pair_call(losses.margin_deviation), {}),
  "smooth_adversarial_comp_sum_loss": (
    _pair_call(losses.smooth_adversarial_comp_sum_loss),
    {"tau": (-0.1, "tau must be >= 0"), "nu": (-1.0, "nu must be >= 0")},
  ),
  "ldr_kl_loss": (
    losses.ldr_kl_loss,
    {
      "temperature": (0.0, "temperature must be > 0"),
      "margin": (-1.0, "margin must be >= 0"),
      "normalize": ("l2", "normalize must be one of 'softplus_mean'"),
    },
  ),
  "ldr_weights": (losses.ldr_weights, {"temperature": (-1.0, "temperature must be > 0")}),
  "ldr_kl_topk_loss": (
    lambda logits, labels, **options: losses.ldr_kl_topk_loss(
      logits, labels, **{"k": 2, **options}
    ),
    {"k": (4, "k must be at most the number of classes, 3"), "normalize": ("", "normalize must")},
  ),
  "aldr_kl_loss": (
    _aldr_call,
    {
      "alpha": (1.0, "alpha must be > 1"),
      "temperature": (float("inf"), "temperature must be in"),
      "index": (jnp.array([0, 4]), r"index must lie in \[0, 4\)"),
    },
  ),
  "aldr_kl_exact_loss": (
    losses.aldr_kl_exact_loss,
    {
      "alpha": (1.0, "alpha must be > 1"),
      "temperature": (jnp.ones(2), "temperature must have rank 0"),
      "num_steps": (0, "num_steps must be at least 1"),
    },
  ),
}


def _common(name: str, call: Callable[..., Any]) -> list[BadInput]:
  def bad(what, error, match, logits=_LOGITS, labels=_LABELS, **options):
    run = lambda: call(logits, labels, **options)
    return BadInput(f"losses.{name}", what, run, error, match)

  return [
    bad("rank", ValueError, "must have rank at least 1", jnp.zeros(()), jnp.zeros((), jnp.int32)),
    bad("dtype", TypeError, "must be a floating-point array", jnp.zeros((2, 3), complex)),
    bad("empty", ValueError, "must not be empty", jnp.zeros((0, 3)), jnp.zeros(0, jnp.int32)),
    bad("one class", ValueError, "at least two classes", jnp.zeros((2, 1))),
    bad("labels dtype", TypeError, "labels must hold integer", labels=jnp.zeros(2)),
    bad("labels shape", ValueError, r"labels must have shape \(2,\)", labels=jnp.zeros(3, int)),
    bad("labels range", ValueError, r"labels must lie in \[0, 3\)", labels=jnp.array([0, 3])),
    bad("labels negative", ValueError, "labels must lie in", labels=jnp.array([0, -1])),
    bad("mask dtype", TypeError, "where must be a boolean mask", where=jnp.ones(2)),
    bad("mask shape", ValueError, "where must have shape", where=jnp.ones(3, bool)),
  ]


BAD_INPUTS = [bad for name, (call, _) in _CALLS.items() for bad in _common(name, call)]
for _name, (_call, _values) in _CALLS.items():
  for _option, (_value, _match) in _values.items():
    BAD_INPUTS.append(
      BadInput(
        f"losses.{_name}",
        _option,
        lambda call=_call, option=_option, value=_value: call(_LOGITS, _LABELS, **{option: value}),
        ValueError,
        _match,
      )
    )
BAD_INPUTS += [
  BadInput(
    "losses.crammer_singer_loss",
    "margin shape",
    lambda: losses.crammer_singer_loss(_LOGITS, _LABELS, margin=jnp.ones(3)),
    ValueError,
    r"margin must be a scalar or have shape \(2,\)",
  ),
  BadInput(
    "losses.margin_deviation",
    "other shape",
    lambda: losses.margin_deviation(_LOGITS, jnp.zeros((2, 4)), _LABELS),
    ValueError,
    "logits and adversarial_logits must have equal shapes",
  ),
  BadInput(
    "losses.margin_deviation",
    "other dtype",
    lambda: losses.margin_deviation(_LOGITS, _LOGITS.astype(jnp.bfloat16), _LABELS),
    TypeError,
    "logits and adversarial_logits must have equal dtypes",
  ),
  BadInput(
    "losses.ldr_kl_topk_loss",
    "k dtype",
    lambda: losses.ldr_kl_topk_loss(_LOGITS, _LABELS, k=1.0),
    TypeError,
    "k must be a static Python integer",
  ),
  BadInput(
    "losses.aldr_kl_loss",
    "index dtype",
    lambda: _aldr_call(_LOGITS, _LABELS, index=jnp.zeros(2)),
    TypeError,
    "index must hold integers",
  ),
  BadInput(
    "losses.aldr_kl_loss",
    "index shape",
    lambda: _aldr_call(_LOGITS, _LABELS, index=jnp.arange(3)),
    ValueError,
    r"index must have shape \(2,\)",
  ),
  BadInput(
    "losses.aldr_init", "size", lambda: losses.aldr_init(0), ValueError, "num_examples must be"
  ),
  BadInput(
    "losses.aldr_init",
    "size dtype",
    lambda: losses.aldr_init(2.0),
    TypeError,
    "num_examples must be a static",
  ),
  BadInput(
    "losses.aldr_init",
    "temperature",
    lambda: losses.aldr_init(2, temperature=0.0),
    ValueError,
    "temperature must be > 0",
  ),
]

_P = jnp.full((2, 3), 1 / 3)


def _bounds(name: str, argument: str, low: float) -> list[BadInput]:
  call = getattr(losses, name)
  bad = lambda what, run, error, match: BadInput(f"losses.{name}", what, run, error, match)
  half = jnp.full(2, 0.5)
  return [
    bad("value", lambda: call(low * half, num_classes=2), ValueError, f"{argument} must be"),
    bad(
      "dtype", lambda: call(1j * jnp.ones(2), num_classes=2), TypeError, f"{argument} must be a fl"
    ),
    bad("empty", lambda: call(jnp.zeros(0), num_classes=2), ValueError, "must not be empty"),
    bad("tau", lambda: call(half, tau=-1.0, num_classes=2), ValueError, "tau must be >= 0"),
    bad("tau rank", lambda: call(half, tau=half, num_classes=2), ValueError, "tau must have rank"),
    bad("classes", lambda: call(half, num_classes=1), ValueError, "num_classes must be at least 2"),
    bad("classes dtype", lambda: call(half, num_classes=2.0), TypeError, "num_classes must be a"),
  ]


BAD_INPUTS += _bounds("comp_sum_transform", "beta", 4.0)
BAD_INPUTS += _bounds("comp_sum_gamma", "surrogate_regret", -1.0)
BAD_INPUTS += _bounds("comp_sum_gamma_exact", "surrogate_regret", -1.0)
_REGRET = "losses.comp_sum_conditional_regret"
_regret = losses.comp_sum_conditional_regret
BAD_INPUTS += [
  BadInput(
    _REGRET, "shape", lambda: _regret(_LOGITS, _P[:1]), ValueError, "must have equal shapes"
  ),
  BadInput(_REGRET, "value", lambda: _regret(_LOGITS, 4 * _P), ValueError, "probabilities must be"),
  BadInput(_REGRET, "tau", lambda: _regret(_LOGITS, _P, tau=-1.0), ValueError, "tau must be >= 0"),
  BadInput(_REGRET, "rank", lambda: _regret(_P[0, 0], _P[0, 0]), ValueError, "rank at least 1"),
  BadInput(_REGRET, "dtype", lambda: _regret(1j * _LABELS, _LABELS), TypeError, "floating-point"),
  BadInput(
    _REGRET, "one class", lambda: _regret(_P[:, :1], _P[:, :1]), ValueError, "at least two classes"
  ),
  BadInput(_REGRET, "empty", lambda: _regret(_P[:0], _P[:0]), ValueError, "must not be empty"),
]
