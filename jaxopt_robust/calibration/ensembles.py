"""Ensemble temperature scaling: a mixture of softmaxes at several temperatures."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxopt_robust import _checks, numerics
from jaxopt_robust.calibration import _logits
from jaxopt_robust.typing import Array, ArrayLike

__all__ = ["TemperatureMixture", "ensemble_temperature_apply", "ensemble_temperature_init"]


class TemperatureMixture(NamedTuple):
  """Parameters of ensemble temperature scaling; signs do not matter.

  Attributes:
    scale: float[members], inverse temperatures a.
    weight: float[members], weights w before they are normalised.
  """

  scale: Array
  weight: Array


def ensemble_temperature_init(key: ArrayLike, *, num_members: int = 16) -> TemperatureMixture:
  r"""Random parameters of ensemble temperature scaling.

  Draws a_j, w_j ~ U(-1/sqrt(S), 1/sqrt(S)) for S members.

  Args:
    key: typed PRNG key.
    num_members: static integer >= 1, S.

  Returns:
    ``TemperatureMixture`` of float32[num_members] (float64 where it is the default).

  Raises:
    ValueError: num_members < 1.
    TypeError: key is not a typed key or num_members no integer.

  Example:
    >>> ensemble_temperature_init(jax.random.key(0), num_members=4).scale.shape
    (4,)

  Reference:
    Huang et al., h-calibration: rethinking classifier recalibration with probabilistic
    error-bounded objective, 2025 (its linear map).
  """
  key = _checks.check_key("key", key)
  num_members = _checks.check_int("num_members", num_members, minimum=1)
  dtype, bound = jnp.result_type(float), num_members**-0.5
  draw = jax.random.uniform(key, (2, num_members), dtype, -bound, bound)
  return TemperatureMixture(draw[0], draw[1])


def ensemble_temperature_apply(params: TemperatureMixture, logits: ArrayLike) -> Array:
  r"""Log-probabilities of a mixture of softmaxes at several temperatures.

  Computes log( sum_j v_j softmax(|a_j| z) ) with v_j = |w_j| / sum_i |w_i|.

  Args:
    params: ``TemperatureMixture``.
    logits: float[..., classes].

  Returns:
    float[..., classes] log-probabilities of the dtype of ``logits``, which are logits too. Weights
    that are all 0 count the same.

  Raises:
    ValueError: logits have fewer than two classes, or the parts of params differ in length.
    TypeError: params is no ``TemperatureMixture``, or logits are not floating-point.

  Note:
    Predicted classes never change. Fit the parameters with ``likelihood_fit`` or ``recalibrate``;
    the loss is not convex in them. The reference returns the probabilities themselves.

  Example:
    >>> params = TemperatureMixture(jnp.array([0.0, 1.0]), jnp.array([1.0, 1.0]))
    >>> np.asarray(jnp.exp(ensemble_temperature_apply(params, jnp.array([4.0, 0.0])))).round(3)
    array([0.741, 0.259], dtype=float32)

  Reference:
    Zhang, Kailkhura and Han, Mix-n-match: ensemble and compositional methods for uncertainty
    calibration in deep learning, 2020, section 4; Huang et al., h-calibration, 2025.
  """
  if not isinstance(params, TemperatureMixture):
    raise TypeError(f"params must be a TemperatureMixture; got {_checks.describe(params)}.")
  scores = _logits.check_logits(logits)
  scale = _checks.check_float_array("params.scale", params.scale, rank=1)
  weight = _checks.check_float_array("params.weight", params.weight, rank=1)
  _checks.check_same_shape("params.scale", scale, "params.weight", weight)
  wide = numerics.upcast(scores)
  shape = (len(scale),) + (1,) * scores.ndim
  size = jnp.abs(weight).astype(wide.dtype)
  total = jnp.sum(size)
  share = jnp.where(total > 0, size / jnp.where(total > 0, total, 1), 1 / len(size))
  is_used = share > 0
  log_share = jnp.where(is_used, jnp.log(jnp.where(is_used, share, 1)), -jnp.inf)
  members = jax.nn.log_softmax(
    jnp.abs(scale).astype(wide.dtype).reshape(shape) * wide[None], axis=-1
  )
  return jax.nn.logsumexp(members + log_share.reshape(shape), axis=0).astype(scores.dtype)
