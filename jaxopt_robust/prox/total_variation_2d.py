"""Total variation of images, isotropic and anisotropic, by accelerated dual projection."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxopt_robust import _arguments, _checks
from jaxopt_robust.numerics import safe_divide, upcast
from jaxopt_robust.prox._common import real_dtype, root
from jaxopt_robust.prox._lines import check_blocks_of, scalar_strength
from jaxopt_robust.typing import Array, ArrayLike, Penalty

__all__ = [
  "penalty_tv2d",
  "penalty_tv2d_anisotropic",
  "prox_tv2d",
  "prox_tv2d_anisotropic",
  "prox_tv2d_with_gap",
  "tv2d",
  "tv2d_anisotropic",
]

# 1 / ||D||^2 for the forward differences D of a grid, whose norm is below sqrt(8).
_STEP = 0.125
# Steps between two looks at the duality gap, which costs about as much as one step.
_CHECK_EVERY = 10


class _Field(NamedTuple):
  """A number for each link of the grid: to the entry below and to the one on the right."""

  down: Array
  right: Array


def _grad(x: Array) -> _Field:
  """Forward differences, 0 at the last row or column."""
  # Concatenations cost half of what padding does on a CPU.
  down = jnp.concatenate([x[1:], x[-1:]], axis=0) - x
  return _Field(down, jnp.concatenate([x[:, 1:], x[:, -1:]], axis=1) - x)


def _grad_adjoint(s: _Field) -> Array:
  """Adjoint of the forward differences; what stands in the last row or column is not read."""
  out = jnp.zeros_like(s.down)
  for axis, part in enumerate(s):
    inner = jax.lax.slice_in_dim(part, 0, part.shape[axis] - 1, axis=axis)
    edge = jnp.zeros_like(jax.lax.slice_in_dim(part, 0, 1, axis=axis))
    term = jnp.concatenate([edge, inner], axis) - jnp.concatenate([inner, edge], axis)
    out = out + term
  return out


def _dot(a: Array, b: Array) -> Array:
  """Product of images, summed over the channels where there are some."""
  return a * b if a.ndim == 2 else jnp.sum(a * b, axis=-1)


def _times(factor: Array, image: Array) -> Array:
  """A factor a pixel times an image with or without channels."""
  return factor * image if image.ndim == 2 else factor[..., None] * image


def _products(a: _Field, b: _Field, isotropic: bool) -> _Field:
  """Inner products over what the variation takes the norm of: both links at an entry, or each."""
  down, right = _dot(a.down, b.down), _dot(a.right, b.right)
  return _Field(down + right, down + right) if isotropic else _Field(down, right)


def _sizes(s: _Field, isotropic: bool) -> _Field:
  return _Field(*map(root, _products(s, s, isotropic)))


def _clip(r: _Field, lam: Array, isotropic: bool) -> _Field:
  if not isotropic and r.down.ndim == 2:
    return _Field(*(jnp.minimum(jnp.maximum(v, -lam), lam) for v in r))
  # Continuous in floats too: a reciprocal root, or a factor that is not exactly 1 at the rim, lets
  # the field drift there and the gap stall at 1e-4 in float32.
  sizes = map(jnp.sqrt, _products(r, r, isotropic))
  factors = (jnp.where(size <= lam, 1, lam / jnp.maximum(size, lam)) for size in sizes)
  return _Field(*(_times(factor, v) for factor, v in zip(factors, r, strict=True)))


def _variation(d: _Field, isotropic: bool) -> Array:
  if not isotropic and d.down.ndim == 2:
    return jnp.abs(d.down) + jnp.abs(d.right)
  down, right = _sizes(d, isotropic)
  return down if isotropic else down + right


def _sum(x: Array) -> Array:
  """Sum down the columns, then along: vectorised on a CPU, and more exact than one running sum."""
  return jnp.sum(jax.lax.optimization_barrier(jnp.sum(x, axis=0)))


def _gap(x: Array, s: _Field, v: Array, lam: Array, isotropic: bool) -> tuple[Array, Array]:
  """Duality gap, as a sum of terms >= 0, and the objective, for x = v - D^T s."""
  d = _grad(x)
  variation = lam * _variation(d, isotropic)
  slack = jnp.maximum(variation - _dot(d.down, s.down) - _dot(d.right, s.right), 0)
  return _sum(slack), _sum(0.5 * _dot(x - v, x - v) + variation)


@functools.partial(jax.custom_jvp, nondiff_argnums=(3, 4))
def _solve(
  v: Array, lam: Array, tol: Array, isotropic: bool, max_steps: int
) -> tuple[Array, _Field]:
  """Minimiser and dual field, by accelerated projected gradient steps that restart.

  A complex image is a real one with two channels, over which the norms run.
  """

  def step(_: Any, carry: tuple) -> tuple:
    s, q, t = carry
    d = _grad(v - _grad_adjoint(q))
    new = _clip(_Field(q.down + _STEP * d.down, q.right + _STEP * d.right), lam, isotropic)
    t_new = 0.5 * (1 + jnp.sqrt(1 + 4 * t * t))
    beta = (t - 1) / t_new
    return new, _Field(*(b + beta * (b - c) for b, c in zip(new, s, strict=True))), t_new

  def go_on(carry: tuple) -> Array:
    *_, count, open_ = carry
    return open_ & (count < max_steps)

  def several(carry: tuple) -> tuple:
    s, q, t, best, count, _ = carry
    steps = min(_CHECK_EVERY, max_steps)
    s, q, t = jax.lax.fori_loop(0, steps, step, (s, q, t))
    gap, value = _gap(v - _grad_adjoint(s), s, v, lam, isotropic)
    # Momentum that has led the dual objective downhill is dropped.
    worse = value - gap < best
    q = _Field(*(jnp.where(worse, a, b) for a, b in zip(s, q, strict=True)))
    t = jnp.where(worse, 1, t)
    return s, q, t, value - gap, count + steps, gap > tol * value

  zero = _Field(jnp.zeros_like(v), jnp.zeros_like(v))
  one = jnp.ones((), v.dtype)
  first = (
    zero,
    zero,
    one,
    jnp.full((), -jnp.inf, v.dtype),
    jnp.zeros((), jnp.int32),
    jnp.asarray(True),
  )
  s = jax.lax.while_loop(go_on, several, first)[0]
  return v - _grad_adjoint(s), s


@_solve.defjvp
def _solve_jvp(isotropic: bool, max_steps: int, primals: tuple, tangents: tuple) -> tuple:
  """The linearised optimality conditions on the links, solved by conjugate gradients.

  A link (isotropic: the pair of links at an entry) is saturated where x jumps. There the dual field
  is lam d/|d| with d the jump: it moves with d across it, and along itself with lam only. Where it
  is not saturated it is free, and keeps the tangent of x constant. With T the free part of the
  field, (W + D D^T) ds_T = D (dv - D^T ds_N) on T, W = |d| / lam on saturated pairs; then
  dx = dv - D^T (ds_T + ds_N).
  """
  v, lam, tol = primals
  dv, dlam, _ = tangents
  x, s = _solve(v, lam, tol, isotropic, max_steps)
  fixed = jax.lax.stop_gradient(s)
  d = _grad(x)
  bound = jax.lax.stop_gradient(lam)
  step = jax.lax.stop_gradient(d)
  r = _Field(fixed.down + _STEP * step.down, fixed.right + _STEP * step.right)
  safe_lam = jnp.where(lam > 0, lam, 1)
  size = _sizes(d, isotropic)
  saturated = [
    (a > bound) & (b > 0)
    for a, b in zip(_sizes(r, isotropic), _sizes(step, isotropic), strict=True)
  ]
  normal = _Field(
    *(
      _times(jnp.where(hit, safe_divide(1, n), 0), a)
      for hit, n, a in zip(saturated, size, d, strict=True)
    )
  )
  stiff = [jnp.where(hit, n / safe_lam, 0) for hit, n in zip(saturated, size, strict=True)]

  def tangential(f: _Field) -> _Field:
    along = _products(f, normal, isotropic)
    return _Field(*(a - _times(b, n) for a, b, n in zip(f, along, normal, strict=True)))

  def matvec(f: _Field) -> _Field:
    f = tangential(f)
    g = _grad(_grad_adjoint(f))
    return tangential(_Field(*(_times(k, a) + b for k, a, b in zip(stiff, f, g, strict=True))))

  pushed = _Field(*(dlam * a for a in normal))
  target = tangential(_grad(dv - _grad_adjoint(pushed)))
  solve = lambda op, b: jax.scipy.sparse.linalg.cg(op, b, tol=_cg_tol(v), maxiter=_cg_steps(v))[0]
  free = tangential(jax.lax.custom_linear_solve(matvec, target, solve, symmetric=True))
  moved = _Field(*(a + b for a, b in zip(free, pushed, strict=True)))
  # The free part of the dual field is not unique; nothing reads its derivative.
  return (x, s), (dv - _grad_adjoint(moved), _Field(*(jnp.zeros_like(a) for a in s)))


def _cg_tol(v: Array) -> float:
  # The system is singular: asked for its last digits, conjugate gradients would diverge.
  return float(jnp.finfo(v.dtype).eps) ** (2 / 3)


def _cg_steps(v: Array) -> int:
  """The condition is at most about that of a Laplacian on the whole image."""
  return 10 * (v.shape[0] + v.shape[1]) + 100


@functools.partial(jax.jit, static_argnames=("isotropic", "max_steps"))
def _image(
  v: Array, strength: Array, tolerance: Array, *, isotropic: bool, max_steps: int
) -> tuple[Array, Array]:
  good = jnp.all(jnp.isfinite(v)) & (strength >= 0) & (tolerance > 0)
  # Units in which the data are of size one: their squares neither overflow nor vanish.
  unit = jax.lax.stop_gradient(jnp.max(jnp.abs(v)))
  unit = jnp.where(good & (unit > 0), unit, 1)
  scaled = jnp.where(good, v, 0) / unit
  # Above this strength the solution is constant; a larger one would only cost digits.
  bound = jnp.minimum(jnp.where(good, strength, 0) / unit, jnp.asarray(2 * v.size, v.dtype))
  y, field = _solve(scaled, bound, tolerance, isotropic, max_steps)
  gap, value = _gap(*jax.lax.stop_gradient((y, field, scaled, bound)), isotropic)
  nothing = good & (strength == 0)  # gives back what came in, to the last digit
  out = jnp.where(good, jnp.where(nothing, v, unit * y), jnp.nan)
  return out, jnp.where(good, safe_divide(gap, value), jnp.nan)


def _prox(
  x: ArrayLike, lam: Any, scaling: ArrayLike, isotropic: bool, tol: ArrayLike, max_steps: int
) -> tuple[Array, Array]:
  array = check_blocks_of(x, 2, scaling, complex_ok=True)
  _checks.check_positive("tol", tol, scalar=True)
  max_steps = _checks.check_int("max_steps", max_steps, minimum=1)
  wide = _with_channels(upcast(array))
  strength = scalar_strength("lam", lam, wide) * jnp.asarray(scaling, wide.dtype)
  tolerance = jnp.asarray(tol, wide.dtype)

  image = lambda v: _image(v, strength, tolerance, isotropic=isotropic, max_steps=max_steps)
  if not array.size:
    return array, jnp.zeros(array.shape[:-2], wide.dtype)
  if array.ndim == 2:
    out, gap = image(wide)
  else:
    out, gap = jax.vmap(image)(wide.reshape(-1, *wide.shape[array.ndim - 2 :]))
  out = out.reshape(wide.shape)
  if jnp.iscomplexobj(array):
    out = jax.lax.complex(out[..., 0], out[..., 1])
  gap = gap.reshape(array.shape[:-2]).astype(real_dtype(array.dtype))
  return out.astype(array.dtype), gap


def _with_channels(x: Array) -> Array:
  """A real image as it is, a complex one with two channels behind."""
  return jnp.stack([x.real, x.imag], axis=-1) if jnp.iscomplexobj(x) else x


def _penalty(x: ArrayLike, lam: Any, isotropic: bool) -> Array:
  array = check_blocks_of(x, 2, complex_ok=True)
  wide = _with_channels(upcast(array))
  strength = scalar_strength("lam", lam, wide)
  if not array.size:
    return jnp.zeros((), real_dtype(array.dtype))
  images = wide.reshape(-1, *wide.shape[array.ndim - 2 :])
  terms = jax.vmap(lambda v: _variation(_grad(v), isotropic))(images)
  return (strength * jnp.sum(terms)).astype(real_dtype(array.dtype))


def prox_tv2d(
  x: ArrayLike,
  lam: Any = 1.0,
  scaling: ArrayLike = 1.0,
  *,
  tol: ArrayLike = 1e-4,
  max_steps: int = 2000,
) -> Array:
  r"""Proximal operator of the isotropic total variation of images.

  Solves argmin_y 1/2 ||y - x||_2^2 + scaling * lam TV(y) over the last two axes, with
  TV(y) = sum_ij sqrt((y_{i+1,j} - y_ij)^2 + (y_{i,j+1} - y_ij)^2), differences 0 beyond
  the border.

  Args:
    x: float[..., height, width] or complex; leading axes are so many images.
    lam: >= 0, a scalar; may be traced. None means 1.
    scaling: >= 0, the step size; may be traced.
    tol: > 0, largest duality gap relative to the objective; may be traced. The distance to the
      minimiser is at most sqrt(2 gap).
    max_steps: static, the gradient steps at most (rounded up to tens above ten).

  Returns:
    An array of the shape and dtype of ``x``: the point that belongs to the last dual field,
    whether or not the tolerance was reached; ``prox_tv2d_with_gap`` tells.

  Raises:
    TypeError: when ``x`` is not a floating-point array.
    ValueError: when ``x`` has rank below 2, a number is negative or not a scalar, or ``tol`` or
      ``max_steps`` is not positive.

  Note:
    Accelerated projected gradient on the dual, with restarts; float32 reaches gaps of about 1e-5 of
    the objective. The derivative is implicit: the optimality conditions are linearised at the set
    of jumps that was found and solved by conjugate gradients (about as many steps as the larger
    regions are wide), so that it is as exact as the solution; where a jump is just born it is
    one-sided. A NaN or an infinity in an image, or a negative traced strength, makes the whole
    image NaN.

  Example:
    >>> x = jnp.zeros((4, 4)).at[:2].set(4.0)
    >>> [round(float(v), 2) for v in prox_tv2d(x, 1.0, tol=1e-6)[:, 0]]
    [3.5, 3.5, 0.5, 0.5]

  Reference:
    Beck and Teboulle, Fast gradient-based algorithms for constrained total variation image
    denoising and deblurring problems, 2009; O'Donoghue and Candes, Adaptive restart for
    accelerated gradient schemes, 2015.
  """
  return _prox(x, lam, scaling, True, tol, max_steps)[0]


def penalty_tv2d(x: ArrayLike, lam: Any = 1.0) -> Array:
  r"""Isotropic total variation of images.

  Computes g(x) = lam TV(x), summed over the leading axes, with
  TV(x) = sum_ij sqrt((x_{i+1,j} - x_ij)^2 + (x_{i,j+1} - x_ij)^2), differences 0 beyond
  the border.

  Args:
    x: float[..., height, width] or complex.
    lam: >= 0, a scalar; may be traced. None means 1.

  Returns:
    float scalar of the dtype of ``x``.

  Raises:
    TypeError: when ``x`` is not a floating-point array.
    ValueError: when ``x`` has rank below 2, or the strength is negative or not a scalar.

  Note:
    The derivative of a term whose differences are all 0 is 0.

  Example:
    >>> float(penalty_tv2d(jnp.array([[0.0, 3.0], [4.0, 3.0]])))
    6.0

  Reference:
    Rudin, Osher and Fatemi, Nonlinear total variation based noise removal algorithms, 1992.
  """
  return _penalty(x, lam, True)


def prox_tv2d_anisotropic(
  x: ArrayLike,
  lam: Any = 1.0,
  scaling: ArrayLike = 1.0,
  *,
  tol: ArrayLike = 1e-4,
  max_steps: int = 2000,
) -> Array:
  r"""Proximal operator of the anisotropic total variation of images.

  Solves argmin_y 1/2 ||y - x||_2^2 + scaling * lam TV(y) over the last two axes, with
  TV(y) = sum_ij |y_{i+1,j} - y_ij| + |y_{i,j+1} - y_ij| and differences 0 beyond the border.

  Args:
    x: float[..., height, width] or complex; leading axes are so many images.
    lam: >= 0, a scalar; may be traced. None means 1.
    scaling: >= 0, the step size; may be traced.
    tol: > 0, largest duality gap relative to the objective; may be traced. The distance to the
      minimiser is at most sqrt(2 gap).
    max_steps: static, the gradient steps at most (rounded up to tens above ten).

  Returns:
    An array of the shape and dtype of ``x``: the point that belongs to the last dual field,
    whether or not the tolerance was reached; ``prox_tv2d_with_gap`` tells.

  Raises:
    TypeError: when ``x`` is not a floating-point array.
    ValueError: when ``x`` has rank below 2, a number is negative or not a scalar, or ``tol`` or
      ``max_steps`` is not positive.

  Note:
    Accelerated projected gradient on the dual, with restarts; float32 reaches gaps of about 1e-5 of
    the objective. The derivative is implicit: the optimality conditions are linearised at the set
    of jumps that was found and solved by conjugate gradients (about as many steps as the larger
    regions are wide), so that it is as exact as the solution; where a jump is just born it is
    one-sided. A NaN or an infinity in an image, or a negative traced strength, makes the whole
    image NaN.

  Example:
    >>> x = jnp.zeros((4, 4)).at[:2].set(4.0)
    >>> [round(float(v), 2) for v in prox_tv2d_anisotropic(x, 1.0, tol=1e-6)[:, 0]]
    [3.5, 3.5, 0.5, 0.5]

  Reference:
    Beck and Teboulle, Fast gradient-based algorithms for constrained total variation image
    denoising and deblurring problems, 2009; O'Donoghue and Candes, Adaptive restart for
    accelerated gradient schemes, 2015.
  """
  return _prox(x, lam, scaling, False, tol, max_steps)[0]


def penalty_tv2d_anisotropic(x: ArrayLike, lam: Any = 1.0) -> Array:
  r"""Anisotropic total variation of images.

  Computes g(x) = lam TV(x), summed over the leading axes, with
  TV(x) = sum_ij |x_{i+1,j} - x_ij| + |x_{i,j+1} - x_ij| and differences 0 beyond the border.

  Args:
    x: float[..., height, width] or complex.
    lam: >= 0, a scalar; may be traced. None means 1.

  Returns:
    float scalar of the dtype of ``x``.

  Raises:
    TypeError: when ``x`` is not a floating-point array.
    ValueError: when ``x`` has rank below 2, or the strength is negative or not a scalar.

  Note:
    The derivative of a term whose differences are all 0 is 0.

  Example:
    >>> float(penalty_tv2d_anisotropic(jnp.array([[0.0, 3.0], [4.0, 3.0]])))
    8.0

  Reference:
    Rudin, Osher and Fatemi, Nonlinear total variation based noise removal algorithms, 1992.
  """
  return _penalty(x, lam, False)


def prox_tv2d_with_gap(
  x: ArrayLike,
  lam: Any = 1.0,
  scaling: ArrayLike = 1.0,
  *,
  kind: str = "isotropic",
  tol: ArrayLike = 1e-4,
  max_steps: int = 2000,
) -> tuple[Array, Array]:
  r"""Proximal operator of the total variation of images, with the accuracy that was reached.

  Solves argmin_y 1/2 ||y - x||_2^2 + scaling * lam TV(y), as ``prox_tv2d`` or
  ``prox_tv2d_anisotropic`` do.

  Args:
    x: float[..., height, width] or complex; leading axes are so many images.
    lam: >= 0, a scalar; may be traced. None means 1.
    scaling: >= 0, the step size; may be traced.
    kind: static, "isotropic" or "anisotropic".
    tol: > 0, largest duality gap relative to the objective; may be traced.
    max_steps: static, the gradient steps at most.

  Returns:
    (y, gap): an array of the shape and dtype of ``x``, and float[...], the duality gap of
    each image divided by its objective (0 where the objective is 0; without derivative). It is
    above ``tol`` where the steps ran out, and NaN where the image is.

  Raises:
    TypeError: when ``x`` is not a floating-point array.
    ValueError: when ``x`` has rank below 2, a number is negative or not a scalar, ``kind`` is none
      of the two, or ``tol`` or ``max_steps`` is not positive.

  Example:
    >>> y, gap = prox_tv2d_with_gap(jnp.eye(4), 0.2, tol=1e-3)
    >>> bool(gap <= 1e-3)
    True

  Reference:
    Chambolle, An algorithm for total variation minimization and applications, 2004 (the dual).
  """
  _arguments.check_option("kind", kind, ("isotropic", "anisotropic"))
  return _prox(x, lam, scaling, kind == "isotropic", tol, max_steps)


tv2d = Penalty(penalty_tv2d, prox_tv2d)
tv2d_anisotropic = Penalty(penalty_tv2d_anisotropic, prox_tv2d_anisotropic)
