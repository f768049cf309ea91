"""Numbers that certify: computed in float64, and never rounded to the unsafe side.

What is known is computed by NumPy and SciPy, which JAX itself needs; what is traced is computed by
JAX where it has float64, and refused where it has not.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxopt_robust import _checks
from jaxopt_robust.typing import Array

_BISECTIONS = 70  # 2**-70 is below the spacing of float64 above 1e-5, and below 1e-21 everywhere
# JAX's incomplete beta function puts the bisected bound off by some 1e-12 at 100000 trials.
_GUARD = 1e-11
_TEST_GUARD = 1e-8  # relative, of the p-value
# With more trials its fraction ends too early near the mean: 5e-5 above the bound at 10^9.
MOST_TRACED_TRIALS = 10**6


class Numbers(NamedTuple):
  """Arguments in float64.

  Attributes:
    values: NumPy arrays where all are known, otherwise traced ones.
    known: whether they are NumPy arrays.
  """

  values: tuple[Any, ...]
  known: bool


def has_float64() -> bool:
  """Whether JAX computes in float64 here."""
  return jax.dtypes.canonicalize_dtype(np.float64) == np.float64


def numbers(**arguments: Any) -> Numbers:
  """Arguments, checked before, in float64, with one shape; the first one's name is for errors."""
  known = _checks.is_concrete(tuple(arguments.values()))
  if not known and not has_float64():
    name, value = next((n, v) for n, v in arguments.items() if not _checks.is_concrete(v))
    raise TypeError(
      f"{name} must be known, or traced in float64: in float32 a bound can lie on the wrong side "
      f"of the exact one. Call this outside of jit, or within jax.enable_x64(True); got a traced "
      f"{_checks.describe(value)}."
    )
  shapes = {name: np.shape(value) for name, value in arguments.items()}
  try:
    shape = np.broadcast_shapes(*shapes.values())
  except ValueError as error:
    raise ValueError(
      f"{' and '.join(shapes)} must have shapes that broadcast; got "
      f"{', '.join(map(str, shapes.values()))}."
    ) from error
  lib: Any = np if known else jnp
  values = (lib.asarray(value, np.float64) for value in arguments.values())
  return Numbers(tuple(lib.broadcast_to(value, shape) for value in values), known)


def round_down(value: Any) -> Array:
  """As a JAX array; where that has 32 bits, the largest one that is not above the value."""
  return _rounded(value, -np.inf)


def round_up(value: Any) -> Array:
  """As a JAX array; where that has 32 bits, the smallest one that is not below the value."""
  return _rounded(value, np.inf)


def _rounded(value: Any, towards: float) -> Array:
  if has_float64() or not _checks.is_concrete(value):
    return jnp.asarray(value)
  wide = np.asarray(value, np.float64)
  with np.errstate(over="ignore", under="ignore"):
    near = wide.astype(np.float32)
    is_beyond = near > wide if towards < 0 else near < wide
    near = np.where(is_beyond, np.nextafter(near, np.float32(towards)), near)
  # Devices flush what is smaller than the smallest normal number to zero.
  tiny = np.finfo(np.float32).tiny
  is_small = (near != 0) & (np.abs(near) < tiny)
  flushed = np.where(np.sign(near) == np.sign(towards), np.sign(near) * tiny, 0)
  return jnp.asarray(np.where(is_small, flushed, near).astype(np.float32))


def normal_quantile(p: Any, known: bool) -> Any:
  """Quantile of the standard normal law."""
  if known:
    from scipy import special

    return special.ndtri(p)
  return jax.scipy.special.ndtri(p)


def _is_counted(k: Any, n: Any, known: bool) -> Any:
  """Whether counts are possible, and few enough for what is traced."""
  is_possible = (k >= 0) & (k <= n)
  return is_possible if known else is_possible & (n <= MOST_TRACED_TRIALS)


def _inner(k: Any, n: Any, lib: Any) -> Any:
  """k where 0 < k < n, and a harmless count elsewhere."""
  return lib.where((k > 0) & (k < n), k, 1.0), lib.where((k > 0) & (k < n), n, 2.0)


def beta_lower(k: Any, n: Any, alpha: Any, known: bool) -> Any:
  """The p with P(Binomial(n, p) >= k) = alpha; 0 at k = 0, alpha^(1/n) at k = n."""
  lib: Any = np if known else jnp
  inner_k, inner_n = _inner(k, n, lib)
  if known:
    from scipy import special

    found = special.betaincinv(inner_k, inner_n - inner_k + 1, alpha)
  else:

    def halve(_: int, bracket: tuple[Array, Array]) -> tuple[Array, Array]:
      low, high = bracket
      middle = (low + high) / 2
      is_low = jax.scipy.special.betainc(inner_k, inner_n - inner_k + 1, middle) < alpha
      return jnp.where(is_low, middle, low), jnp.where(is_low, high, middle)

    start = jnp.zeros_like(k), jnp.ones_like(k)
    found = jax.lax.fori_loop(0, _BISECTIONS, halve, start)[0]
    found = jnp.maximum(found - _GUARD, 0)
  full = lib.exp(lib.log(alpha) / lib.where(n > 0, n, 1.0))
  found = lib.where(k <= 0, 0.0, lib.where(k >= n, full, found))
  return lib.where(_is_counted(k, n, known) & (alpha > 0) & (alpha < 1), found, lib.nan)


def beta_upper(k: Any, n: Any, alpha: Any, known: bool) -> Any:
  """The p with P(Binomial(n, p) <= k) = alpha; 1 at k = n, 1 - alpha^(1/n) at k = 0."""
  if not known:
    return 1 - beta_lower(n - k, n, alpha, known)
  from scipy import special

  inner_k, inner_n = _inner(k, n, np)
  found = special.betainccinv(inner_k + 1, inner_n - inner_k, alpha)
  none = -np.expm1(np.log(alpha) / np.where(n > 0, n, 1.0))
  found = np.where(k >= n, 1.0, np.where(k <= 0, none, found))
  return np.where((k >= 0) & (k <= n), found, np.nan)


def fair_coin(k: Any, n: Any, known: bool) -> Any:
  """Two-sided p-value of k heads in n throws of a fair coin: min(1, 2 P(X >= max(k, n - k)))."""
  lib: Any = np if known else jnp
  larger = lib.where(n > 0, lib.maximum(k, n - k), 1.0)
  rest = lib.where(n > 0, lib.minimum(k, n - k), 0.0) + 1
  if known:
    from scipy import special

    tail = special.betainc(larger, rest, 0.5)
  else:
    tail = jax.scipy.special.betainc(larger, rest, jnp.full_like(larger, 0.5))
    tail = tail * (1 + _TEST_GUARD)
  return lib.where(_is_counted(k, n, known), lib.minimum(1.0, 2 * tail), lib.nan)
