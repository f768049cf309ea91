"""Levels of noise for pre-training along a path of noise: grid, growth, rate, features."""

import jax.numpy as jnp
import numpy as np

from jaxopt_robust import _arguments, _checks, numerics
from jaxopt_robust.typing import Array, ArrayLike

__all__ = [
  "edm_noise_level",
  "noise_level_embedding",
  "num_noise_levels",
  "sigmoid_ema_rate",
]

LEVELS = (0.002, 80.0)  # lowest and highest, for data in [-1, 1]


def edm_noise_level(
  index: ArrayLike,
  num_levels: ArrayLike,
  *,
  bounds: tuple[ArrayLike, ArrayLike] = LEVELS,
  power: ArrayLike = 7.0,
) -> Array:
  r"""Noise level of a grid that is even in t^{1/rho}, from the highest to the lowest (EDM).

  Computes t_i = (t_max^{1/rho} + i/(N-1) (t_min^{1/rho} - t_max^{1/rho}))^rho with i = index,
  N = num_levels and rho = power.

  Args:
    index: int[...] i in [0, N); may be traced.
    num_levels: integer N >= 2, a scalar; may be traced, so that the grid can grow in training.
    bounds: pair (t_min, t_max), 0 < t_min < t_max, scalars; may be traced.
    power: > 0, rho, a scalar; may be traced. 1 is the even grid.

  Returns:
    float[...]; t_max at i = 0, t_min at i = N - 1. NaN where a traced index is out of range.

  Raises:
    ValueError: a known index is out of range, num_levels < 2, or bounds and power that are out of
      range.
    TypeError: index or num_levels is not an integer.

  Example:
    >>> [round(float(t), 3) for t in edm_noise_level(jnp.arange(3), 3)]
    [80.0, 2.515, 0.002]

  Reference:
    Karras, Aittala, Aila and Laine, Elucidating the design space of diffusion-based generative
    models, 2022, equation 5.
  """
  count = _checks.check_integers("num_levels", num_levels, low=2, shape=())
  high_index = int(count) if _checks.is_concrete(count) else None
  place = _checks.check_integers("index", index, low=0, high=high_index)
  low, high = _arguments.parts(bounds, "t_min", "t_max", name="bounds")
  for name, value in (("t_min", low), ("t_max", high), ("power", power)):
    _checks.check_positive(name, value, scalar=True)
  _checks.check_holds(
    _checks.as_array("t_min", low) < _checks.as_array("t_max", high), "t_min must be below t_max."
  )
  dtype = jnp.result_type(float)
  top, bottom, rho = (jnp.asarray(value, dtype) for value in (high, low, power))
  share = place.astype(dtype) / (count - 1).astype(dtype)
  # relative to the highest level, so that units do not matter
  level = top * (1 + share * ((bottom / top) ** (1 / rho) - 1)) ** rho
  level = jnp.where(place == 0, top, jnp.where(place == count - 1, bottom, level))
  return jnp.where((place >= 0) & (place < count), level, jnp.nan)


def num_noise_levels(
  step: ArrayLike, num_steps: int, *, counts: tuple[int, int] = (20, 80)
) -> Array:
  r"""Number of noise levels at a step: it doubles from stage to stage.

  Computes N(k) = min(s_0 2^{ceil(k / K')}, s_1) + 1 with K' = ceil(K / log2(ceil(s_1 / s_0) + 1)),
  k = step, K = num_steps and (s_0, s_1) = counts.

  Args:
    step: int[...] k in [0, num_steps]; may be traced.
    num_steps: static integer K >= 1.
    counts: pair of static integers (s_0, s_1), 1 <= s_0 <= s_1.

  Returns:
    int32[...]; s_0 + 1 at k = 0, s_1 + 1 at k = K.

  Raises:
    ValueError: a known step is negative, or a count is out of range.
    TypeError: steps or counts are not integers.

  Example:
    >>> num_noise_levels(jnp.array([0, 1, 400, 1000]), 1000)
    Array([21, 41, 41, 81], dtype=int32)

  Reference:
    Lei, Wang, Chen, Ba, Ren, Zhu and Anandkumar, Robust representation consistency model via
    contrastive denoising, 2025; the rounding is that of the authors' code.
  """
  k = _checks.check_integers("step", step, low=0)
  total = _checks.check_int("num_steps", num_steps, minimum=1)
  first, last = _arguments.parts(counts, "first", "last", name="counts")
  first = _checks.check_int("counts[0]", first, minimum=1)
  last = _checks.check_int("counts[1]", last, minimum=first)
  stage = int(np.ceil(total / np.log2(np.ceil(last / first) + 1)))
  most = int(np.ceil(np.log2(last / first)))  # doublings until s_1: no power overflows
  doublings = jnp.clip(-(-k // stage), 0, most).astype(jnp.int32)
  # s_0 2^most < 2 s_1 may pass 32 bits; compared in halves it does not
  table = np.minimum(first * 2 ** np.arange(most + 1, dtype=np.int64), last) + 1
  return jnp.asarray(table.clip(max=2**31 - 1), jnp.int32)[doublings]


def sigmoid_ema_rate(
  step: ArrayLike,
  num_steps: ArrayLike,
  *,
  bounds: tuple[ArrayLike, ArrayLike] = (0.99, 0.9999),
  sharpness: ArrayLike = 15.0,
) -> Array:
  r"""Rate of a moving average that rises steeply at first and settles.

  Computes mu = c m_1 + (1 - c) m_0 with c = 2 / (1 + exp(-A (r - m_0) / (m_1 - m_0))) - 1 and
  r = sqrt((k/K) (m_1^2 - m_0^2) + m_0^2), where k = step, K = num_steps, (m_0, m_1) = bounds and
  A = sharpness. The average moves by theta' <- mu theta' + (1 - mu) theta.

  Args:
    step: number[...] k in [0, num_steps]; may be traced.
    num_steps: K > 0, a scalar; may be traced.
    bounds: pair (m_0, m_1), 0 < m_0 <= m_1 <= 1, scalars; may be traced.
    sharpness: > 0, A, a scalar; may be traced.

  Returns:
    float[...] in [m_0, m_1]; m_0 at k = 0, nearly m_1 from k = K / 2 on.

  Raises:
    ValueError: a known step is negative, or a number is out of range.
    TypeError: an argument is no number.

  Example:
    >>> [round(float(mu), 4) for mu in sigmoid_ema_rate(jnp.array([0, 100, 1000]), 1000)]
    [0.99, 0.9963, 0.9999]

  Reference:
    Lei, Wang, Chen, Ba, Ren, Zhu and Anandkumar, Robust representation consistency model via
    contrastive denoising, 2025, as in the authors' code.
  """
  _checks.check_non_negative("step", step)
  _checks.check_positive("num_steps", num_steps, scalar=True)
  _checks.check_positive("sharpness", sharpness, scalar=True)
  low, high = _arguments.parts(bounds, "low", "high", name="bounds")
  for name, value in (("bounds[0]", low), ("bounds[1]", high)):
    _checks.check_interval(name, value, 0, 1, closed="right", scalar=True)
  dtype = jnp.result_type(float)
  m0, m1, total, a = (jnp.asarray(v, dtype) for v in (low, high, num_steps, sharpness))
  _checks.check_holds(m0 <= m1, "bounds must be (low, high) with low <= high.")
  share = jnp.clip(_checks.as_array("step", step).astype(dtype) / total, 0, 1)
  r = jnp.sqrt(share * (m1 - m0) * (m1 + m0) + m0 * m0)
  # (r - m_0) / (m_1 - m_0) without the difference of two numbers near one
  gone = share * (m1 + m0) / (r + m0)
  return m0 + jnp.tanh(a * gone / 2) * (m1 - m0)


def noise_level_embedding(
  level: ArrayLike, num_features: int, *, scale: ArrayLike = 250.0, max_period: ArrayLike = 1e4
) -> Array:
  r"""Features of a noise level for a network: cosines and sines of its logarithm.

  Computes [cos(w_j u), sin(w_j u)] with u = scale log(t), t = level, and w_j = max_period^{-j / h},
  j = 0, ..., h - 1, h = num_features / 2.

  Args:
    level: float[...] t >= 0; may be traced. Levels below 1e-20 count as 1e-20.
    num_features: static even integer >= 2.
    scale: a scalar; may be traced.
    max_period: > 0, a scalar; may be traced.

  Returns:
    float[..., num_features], at least float32.

  Raises:
    ValueError: a known level is negative, num_features < 2 or odd, or max_period <= 0.
    TypeError: level is no real number, or num_features is not an integer.

  Example:
    >>> noise_level_embedding(1.0, 4)
    Array([1., 1., 0., 0.], dtype=float32)

  Reference:
    Vaswani et al., Attention is all you need, 2017, section 3.5; Lei, Wang, Chen, Ba, Ren, Zhu and
    Anandkumar, Robust representation consistency model via contrastive denoising, 2025.
  """
  _checks.check_non_negative("level", level)
  t = numerics.upcast(_checks.check_float_array("level", level))
  count = _checks.check_int("num_features", num_features, minimum=2)
  if count % 2:
    raise ValueError(f"num_features must be even; got {count}.")
  _checks.check_positive("max_period", max_period, scalar=True)
  u = jnp.asarray(scale, t.dtype) * jnp.log(jnp.maximum(t, 1e-20))  # smaller ones are flushed to 0
  half = jnp.arange(count // 2, dtype=t.dtype) / (count // 2)
  angle = u[..., None] * (jnp.asarray(max_period, t.dtype) ** -half).reshape((1,) * t.ndim + (-1,))
  return jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], axis=-1)
