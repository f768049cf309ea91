"""Penalties of one number in 40 digits: what the operators are compared with.

Nothing here comes from the package: each row is the penalty phi(y; parameters) as its docstring
states it, its derivative on every smooth piece, and the points where pieces meet.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import mpmath as mp
import numpy as np


class Reference(NamedTuple):
  """A penalty of one number.

  Attributes:
    name: what follows ``prox_``.
    value: phi(y, *hyper).
    slope: its derivative where it has one.
    kinks: hyper -> points where it has none, or jumps.
    degree: phi(c y) grows like c**degree: a strength of c**(2 - degree) competes with y of size c.
    shape: rng, size of x -> the hyper-parameters after the strength.
  """

  name: str
  value: Callable
  slope: Callable
  degree: float
  kinks: Callable = lambda *hyper: (mp.mpf(0),)
  shape: Callable = lambda rng, size: ()


def _mcp(y: Any, l: Any, t: Any) -> Any:
  return l * abs(y) - y * y / (2 * t) if abs(y) <= t * l else t * l * l / 2


def _mcp_slope(y: Any, l: Any, t: Any) -> Any:
  return mp.sign(y) * l - y / t if abs(y) <= t * l else mp.mpf(0)


def _scad(y: Any, l: Any, a: Any) -> Any:
  if abs(y) <= l:
    return l * abs(y)
  if abs(y) <= a * l:
    return (2 * a * l * abs(y) - y * y - l * l) / (2 * (a - 1))
  return l * l * (a + 1) / 2


def _scad_slope(y: Any, l: Any, a: Any) -> Any:
  if abs(y) <= l:
    return l * mp.sign(y)
  return (a * l * mp.sign(y) - y) / (a - 1) if abs(y) <= a * l else mp.mpf(0)


def _cel0(y: Any, l: Any, c: Any) -> Any:
  edge = mp.sqrt(2 * l) / c
  return l - c * c / 2 * (abs(y) - edge) ** 2 if abs(y) <= edge else l


def _cel0_slope(y: Any, l: Any, c: Any) -> Any:
  edge = mp.sqrt(2 * l) / c
  return -c * c * (abs(y) - edge) * mp.sign(y) if abs(y) <= edge else mp.mpf(0)


def _huber(y: Any, l: Any, d: Any) -> Any:
  return l * (y * y / 2 if abs(y) <= d else d * abs(y) - d * d / 2)


def _log(y: Any) -> Any:
  return mp.log(y) if y > 0 else -mp.inf


def _near(low: float, high: float) -> Callable:
  """A parameter in the units of x, from ``low`` to ``high`` times its size."""
  return lambda rng, size: (float(size * 10 ** rng.uniform(low, high)),)


def _free(low: float, high: float) -> Callable:
  return lambda rng, size: (float(10 ** rng.uniform(low, high)),)


def _above(penalty: Callable) -> Callable:
  return lambda y, *hyper: mp.inf if y < 0 else penalty(y, *hyper)


REFERENCES = [
  Reference("lasso", lambda y, l: l * abs(y), lambda y, l: l * mp.sign(y), 1),
  Reference("non_negative_lasso", _above(lambda y, l: l * y), lambda y, l: l, 1),
  Reference(
    "elastic_net", lambda y, l, g: l * (abs(y) + g * y * y / 2),
    lambda y, l, g: l * (mp.sign(y) + g * y), 1, shape=_free(-4, 4),
  ),
  Reference("ridge", lambda y, l: l * y * y / 2, lambda y, l: l * y, 2),
  Reference("non_negative_ridge", _above(lambda y, l: l * y * y / 2), lambda y, l: l * y, 2),
  Reference(
    "three_halves", lambda y, l: l * abs(y) ** mp.mpf(1.5),
    lambda y, l: l * mp.sign(y) * mp.sqrt(abs(y)) * 3 / 2, 1.5,
  ),
  Reference("cube", lambda y, l: l * abs(y) ** 3, lambda y, l: 3 * l * y * abs(y), 3),
  Reference("fourth_power", lambda y, l: l * y**4, lambda y, l: 4 * l * y**3, 4),
  Reference("l0", lambda y, l: l if y else mp.mpf(0), lambda y, l: mp.mpf(0), 0),
  Reference(
    "half", lambda y, l: l * mp.sqrt(abs(y)),
    lambda y, l: l * mp.sign(y) / (2 * mp.sqrt(abs(y))), 0.5,
  ),
  Reference(
    "two_thirds", lambda y, l: l * mp.cbrt(abs(y)) ** 2,
    lambda y, l: l * mp.sign(y) * 2 / (3 * mp.cbrt(abs(y))), 2 / 3,
  ),
  Reference(
    "lq", lambda y, l, q: l * abs(y) ** q if y else mp.mpf(0),
    lambda y, l, q: l * q * mp.sign(y) * abs(y) ** (q - 1), 0.5,
    shape=lambda rng, size: (float(rng.uniform(0.02, 0.98)),),
  ),
  Reference("mcp", _mcp, _mcp_slope, 1, lambda l, t: (0, t * l, -t * l), _free(-2, 2)),
  Reference(
    "scad", _scad, _scad_slope, 1, lambda l, a: (0, l, -l, a * l, -a * l),
    lambda rng, size: (2 + float(10 ** rng.uniform(-2, 2)),),
  ),
  Reference(
    "cel0", _cel0, _cel0_slope, 0,
    lambda l, c: (0, mp.sqrt(2 * l) / c, -mp.sqrt(2 * l) / c), _free(-2, 2),
  ),
  Reference(
    "log_sum", lambda y, l, e: l * mp.log1p(abs(y) / e),
    lambda y, l, e: l * mp.sign(y) / (e + abs(y)), 1, shape=_near(-4, 4),
  ),
  Reference(
    "capped_l1", lambda y, l, t: l * min(abs(y), t),
    lambda y, l, t: l * mp.sign(y) if abs(y) < t else mp.mpf(0), 1,
    lambda l, t: (0, t, -t), _near(-3, 3),
  ),
  Reference(
    "huber", _huber, lambda y, l, d: l * max(min(y, d), -d), 2, lambda l, d: (d, -d), _near(-3, 3)
  ),
  Reference(
    "epsilon_insensitive", lambda y, l, e: l * max(abs(y) - e, 0),
    lambda y, l, e: l * mp.sign(y) if abs(y) > e else mp.mpf(0), 1, lambda l, e: (e, -e),
    _near(-3, 3),
  ),
  Reference(
    "pinball", lambda y, l, t: l * max(t * y, (t - 1) * y),
    lambda y, l, t: l * (t if y > 0 else t - 1), 1,
    shape=lambda rng, size: (float(rng.uniform(0, 1)),),
  ),
  Reference(
    "hinge", lambda y, l: l * max(1 - y, 0), lambda y, l: -l if y < 1 else mp.mpf(0), 1,
    lambda l: (mp.mpf(1),),
  ),
  Reference(
    "squared_hinge", lambda y, l: l * max(1 - y, 0) ** 2 / 2, lambda y, l: -l * max(1 - y, 0), 2,
    lambda l: (mp.mpf(1),),
  ),
  Reference(
    "logistic", lambda y, l: l * mp.log1p(mp.exp(-y)), lambda y, l: -l / (1 + mp.exp(y)), 1,
    lambda l: (),
  ),
  Reference("neg_log", lambda y, l: -l * _log(y), lambda y, l: -l / y, 0, lambda l: ()),
  Reference(
    "poisson", lambda y, l, b: l * (y - b * _log(y)), lambda y, l, b: l * (1 - b / y), 1,
    lambda l, b: (), _near(-3, 3),
  ),
  Reference(
    "entropy", lambda y, l: l * y * mp.log(y) if y > 0 else mp.inf,
    lambda y, l: l * (1 + mp.log(y)), 1, lambda l: (),
  ),
  Reference(
    "quadratic", lambda y, l, b: l * y * y / 2 - b * y, lambda y, l, b: l * y - b, 2,
    lambda l, b: (),
    lambda rng, size: (float(rng.choice([-1, 1]) * size * 10 ** rng.uniform(-2, 2)),),
  ),
]  # fmt: skip


def draws(reference: Reference, seed: int, number: int) -> np.ndarray:
  """[number, 2 + parameters] rows (x, scaling, strength, ...), float32 numbers over 12 decades.

  In half of the rows the strength is what competes with an x of that size, give or take a decade.
  """
  rng = np.random.default_rng(seed)
  rows = []
  for i in range(number):
    size = 10 ** rng.uniform(-6, 6)
    scaling = 10 ** rng.uniform(-3, 3)
    strength = 10 ** rng.uniform(-6, 6)
    if i % 2:
      strength = size ** (2 - reference.degree) * 10 ** rng.uniform(-1.5, 1.5) / scaling
    x = size * rng.choice([-1, 1])
    rows.append((x, scaling, strength, *reference.shape(rng, size)))
  return np.asarray(rows, np.float32).astype(np.float64)


def objective(reference: Reference, y: Any, x: Any, scaling: Any, *hyper: Any) -> Any:
  """1/2 (y - x)^2 + scaling phi(y) in 40 digits."""
  value = reference.value(y, *hyper)
  return (y - x) ** 2 / 2 + scaling * value


def stationary(reference: Reference, y: Any, x: Any, scaling: Any, *hyper: Any) -> Any:
  """The stationary point beside y in 40 digits, by Newton on the derivative; None if it leaves."""
  first = y
  for _ in range(60):
    slope = lambda v: reference.slope(v, *hyper)
    curvature = 1 + scaling * _diff(slope, y)
    step = (y - x + scaling * slope(y)) / curvature
    y = y - step
    if not mp.isfinite(y) or (y * first < 0 and reference.name != "logistic"):
      return None
    if abs(step) <= mp.mpf(10) ** -36 * abs(y):
      return y
  return None


def _diff(fun: Callable, at: Any) -> Any:
  """Central difference with 60 digits: 40 are right."""
  with mp.workdps(80):
    step = abs(at) * mp.mpf(10) ** -25 if at else mp.mpf(10) ** -40
    return (fun(at + step) - fun(at - step)) / (2 * step)


def derivatives(reference: Reference, y: Any, x: Any, scaling: Any, *hyper: Any) -> list:
  """Derivatives of the stationary point y by x, the scaling and the hyper-parameters."""
  gain = 1 / (1 + scaling * _diff(lambda v: reference.slope(v, *hyper), y))
  out = [gain, -gain * reference.slope(y, *hyper)]
  for i, h in enumerate(hyper):
    moved = lambda t, i=i: reference.slope(y, *hyper[:i], t, *hyper[i + 1 :])
    out.append(-gain * scaling * _diff(moved, h))
  return out
