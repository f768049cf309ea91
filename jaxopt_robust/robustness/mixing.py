"""Adaptive smoothing: an accurate and a robust classifier mixed in probability, certified."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxopt_robust import _arguments, _checks, numerics
from jaxopt_robust.losses import _classification as base
from jaxopt_robust.robustness._ascent import is_wrong
from jaxopt_robust.robustness.attacks import AttackInfo
from jaxopt_robust.robustness.mixing_bounds import share_a_row
from jaxopt_robust.typing import Array, ArrayLike, PyTree

__all__ = [
  "TradeoffCurve",
  "mix_log_probs",
  "mixing_loss",
  "tradeoff_curve",
]

_RETURNED = "what apply_fn returns"


def mix_log_probs(
  logits_g: ArrayLike,
  logits_h: ArrayLike,
  alpha: ArrayLike,
  *,
  scale_g: ArrayLike = 1.0,
  scale_h: ArrayLike = 1.0,
) -> Array:
  r"""Mixture of two classifiers in probability (adaptive smoothing).

  Computes log( (1 - alpha) softmax(scale_g z_g) + alpha softmax(scale_h z_h) ), by logarithms, so
  that probabilities which underflow still have gradients. alpha = 0 is g, the accurate classifier,
  alpha = 1 is h, the robust one.

  Args:
    logits_g: float[..., classes] scores of g, at least two classes.
    logits_h: float[..., classes] scores of h, the same shape.
    alpha: in [0, 1], a scalar or float[...] one a row; may be traced, and come from a network.
    scale_g: > 0, inverse temperature of g, a scalar; may be traced. Less than 1 where g is too
      sure.
    scale_h: > 0, of h; more than 1 makes h decide where it is right.

  Returns:
    float[..., classes] log-probabilities, in the wider dtype of the logits. NaN where a traced
    alpha is out of range.

  Raises:
    ValueError: shapes do not agree, alpha is not in [0, 1] or a scale is not > 0.
    TypeError: logits are not floating-point.

  Note:
    Attack this function itself, alpha's network included: with a gradient that stops anywhere
    robustness is overestimated. Derivatives in alpha are one-sided limits at 0 and 1. A mixture of
    logits, (1 - alpha) z_g + alpha z_h, has no certificate: z_g is not bounded.

  Example:
    >>> g, h = jnp.log(jnp.array([0.1, 0.9])), jnp.log(jnp.array([0.8, 0.2]))
    >>> np.exp(np.float64(mix_log_probs(g, h, 0.75))).round(3).tolist()
    [0.625, 0.375]

  Reference:
    Bai, Anderson, Kim and Sojoudi, Improving the accuracy-robustness trade-off of classifiers via
    adaptive smoothing, 2024.
  """
  g = _checks.check_float_array("logits_g", logits_g, min_rank=1)
  h = _checks.check_float_array("logits_h", logits_h, min_rank=1)
  _checks.check_same_shape("logits_g", g, "logits_h", h)
  if g.shape[-1] < 2:
    raise ValueError(f"logits_g must have at least two classes; got shape {g.shape}.")
  dtype = jnp.promote_types(g.dtype, h.dtype)
  wide = jnp.promote_types(dtype, jnp.float32)
  logs = []
  for name, scale, logits in (("scale_g", scale_g, g), ("scale_h", scale_h, h)):
    _checks.check_array(name, scale, rank=0)
    _checks.check_positive(name, scale)
    scaled = jnp.asarray(scale, wide) * logits.astype(wide)
    logs.append(jax.nn.log_softmax(scaled, axis=-1))
  weight = share_a_row(alpha, g.shape[:-1], wide)[..., None]
  return _log_mixture(jnp.broadcast_to(weight, g.shape), *logs).astype(dtype)


@jax.custom_jvp
def _log_mixture(alpha: Array, log_g: Array, log_h: Array) -> Array:
  return jnp.logaddexp(jnp.log1p(-alpha) + log_g, jnp.log(alpha) + log_h)


@_log_mixture.defjvp
def _log_mixture_jvp(
  primals: tuple[Array, Array, Array], tangents: tuple[Array, Array, Array]
) -> tuple[Array, Array]:
  # The derivative of the logarithms is infinite at alpha = 0 and 1, that of the mixture is not.
  alpha, log_g, log_h = primals
  out = _log_mixture(alpha, log_g, log_h)
  nothing = jnp.isneginf(out)
  ratio_g, ratio_h = (
    jnp.exp(jnp.where(nothing, -jnp.inf, log - jnp.where(nothing, 0, out)))
    for log in (log_g, log_h)
  )
  d_alpha, d_g, d_h = tangents
  slope = (1 - alpha) * ratio_g * d_g + alpha * ratio_h * d_h + (ratio_h - ratio_g) * d_alpha
  return out, slope


def mixing_loss(
  log_probs: ArrayLike,
  gamma: ArrayLike,
  labels: ArrayLike,
  *,
  attacked: ArrayLike,
  ce_weight: ArrayLike = 0.0,
  bce_weight: ArrayLike = 1.5,
  product_weight: ArrayLike = 0.3,
  where: ArrayLike | None = None,
) -> Array:
  r"""Loss of the network that chooses alpha = sigmoid(gamma) for each example.

  Computes c_ce CE + c_bce BCE + c_prod CE BCE with CE = -f_y of the mixture f and BCE the binary
  cross entropy of sigmoid(gamma) for the label "attacked": 1 asks for the robust classifier.

  Args:
    log_probs: float[..., classes] output of ``mix_log_probs``.
    gamma: float[...] output of the mixing network.
    labels: int[...] class of each row, in [0, classes).
    attacked: bool[...], whether the row was attacked.
    ce_weight: >= 0, c_ce, a scalar; may be traced.
    bce_weight: >= 0, c_bce, a scalar; may be traced.
    product_weight: >= 0, c_prod, a scalar; may be traced.
    where: bool[...]; rows where it is false have value 0 and gradient 0, whatever they hold.

  Returns:
    float[...] one loss a row, in the dtype of ``log_probs``. Under ``jit`` a row whose label is out
    of range is NaN.

  Raises:
    ValueError: shapes do not agree, a known label is out of range or a weight is negative.
    TypeError: log_probs or gamma are not floating-point, labels are not integers, or attacked is
      not boolean.

  Example:
    >>> log_probs = jnp.log(jnp.array([[0.5, 0.5], [0.5, 0.5]]))
    >>> mixing_loss(
    ...   log_probs, jnp.zeros(2), jnp.array([0, 1]), attacked=jnp.array([True, False])
    ... ).round(3)
    Array([1.184, 1.184], dtype=float32)

  Reference:
    Bai, Anderson, Kim and Sojoudi, Improving the accuracy-robustness trade-off of classifiers via
    adaptive smoothing, 2024 (the authors' code; default weights: those for CIFAR-10).
  """
  prepared = base.prepare(log_probs, labels, where, name="log_probs")
  rows = prepared.logits.shape[:-1]
  choice = numerics.upcast(_checks.check_float_array("gamma", gamma))
  if choice.shape != rows:
    raise ValueError(f"gamma must have shape {rows}; got {choice.shape}.")
  is_attacked = _checks.check_mask("attacked", attacked, shape=rows)
  if is_attacked is None:
    raise TypeError("attacked must be a boolean mask; got None.")
  weights = []
  for name, value in (
    ("ce_weight", ce_weight), ("bce_weight", bce_weight), ("product_weight", product_weight),
  ):  # fmt: skip
    _checks.check_array(name, value, rank=0)
    _checks.check_non_negative(name, value)
    weights.append(jnp.asarray(value, prepared.logits.dtype))
  if prepared.where is not None:
    choice = jnp.where(prepared.where, choice, 0)
  ce = -base.label_score(prepared)
  bce = jax.nn.softplus(jnp.where(is_attacked, -choice, choice)).astype(ce.dtype)
  return base.finish(weights[0] * ce + weights[1] * bce + weights[2] * ce * bce, prepared)


class TradeoffCurve(NamedTuple):
  """Accuracies of mixtures.

  Attributes:
    clean: float[alphas], share of the examples that are right.
    robust: float[alphas], share that is right and that the attack does not break.
    right: bool[alphas, batch], example by example.
    survives: bool[alphas, batch].

  Example:
    >>> TradeoffCurve._fields
    ('clean', 'robust', 'right', 'survives')

  Reference:
    Bai, Anderson, Kim and Sojoudi, Improving the accuracy-robustness trade-off of classifiers via
    adaptive smoothing, 2024.
  """

  clean: Array
  robust: Array
  right: Array
  survives: Array


def tradeoff_curve(
  apply_fn: Callable[[PyTree, Array], tuple[Array, Array]],
  params: PyTree,
  x: ArrayLike,
  labels: ArrayLike,
  key: ArrayLike,
  *,
  alphas: ArrayLike,
  attack: Callable[..., tuple[Array, AttackInfo]],
  scale_g: ArrayLike = 1.0,
  scale_h: ArrayLike = 1.0,
) -> TradeoffCurve:
  r"""Clean against robust accuracy of the mixtures with several alphas, each attacked as a whole.

  Runs ``attack`` on ``mix_log_probs`` of both classifiers for every alpha, all in one program
  (``vmap`` over alpha), with the same random numbers.

  Args:
    apply_fn: ``apply_fn(params, x) -> (logits_g, logits_h)``, float[batch, classes] each, row by
      row (no batch statistics).
    params: pytree of parameters of both.
    x: float[batch, ...] clean examples.
    labels: int[batch] classes.
    key: typed PRNG key for the attack.
    alphas: float[alphas] in [0, 1]; may be traced.
    attack: ``attack(apply_fn, params, x, labels, key) -> (x', info)`` with ``info.broken``, such as
      ``functools.partial(apgd_attack, radius=8 / 255)``.
    scale_g: > 0, as in ``mix_log_probs``.
    scale_h: > 0, as there.

  Returns:
    TradeoffCurve.

  Raises:
    ValueError: shapes do not agree, or an alpha is out of range.
    TypeError: a function is not callable, key is not a typed key, or alphas are no numbers.

  Example:
    >>> import functools
    >>> both = lambda params, x: (4 * x, x @ params)
    >>> curve = tradeoff_curve(
    ...   both, jnp.eye(2), jnp.array([[1.0, 0.0]]), jnp.array([0]), jax.random.key(0),
    ...   alphas=jnp.array([0.0, 1.0]),
    ...   attack=functools.partial(jr.robustness.pgd_worst_case, radius=0.2, num_steps=5),
    ... )
    >>> curve.robust
    Array([1., 1.], dtype=float32)

  Reference:
    Bai, Anderson, Kim and Sojoudi, Improving the accuracy-robustness trade-off of classifiers via
    adaptive smoothing, 2024.
  """
  _arguments.check_callable("apply_fn", apply_fn)
  _arguments.check_callable("attack", attack)
  points = _checks.check_float_array("x", x, min_rank=1)
  _checks.check_key("key", key)
  values = _checks.check_float_array("alphas", alphas, rank=1)
  _checks.check_interval("alphas", alphas, 0, 1)

  def one(alpha: Array) -> tuple[Array, Array]:
    def mixture(both: tuple[Array, PyTree], x: Array) -> Array:
      alpha, params = both
      g, h = _arguments.parts(apply_fn(params, x), "logits_g", "logits_h", name=_RETURNED)
      return mix_log_probs(g, h, alpha, scale_g=scale_g, scale_h=scale_h)

    both = (alpha, params)
    _, info = attack(mixture, both, points, labels, key)
    right = ~is_wrong(mixture(both, points), jnp.asarray(labels))
    return right, right & ~info.broken

  right, survives = jax.vmap(one)(values)
  share = lambda v: jnp.mean(v.astype(jnp.result_type(float)), axis=1)
  return TradeoffCurve(share(right), share(survives), right, survives)
