r"""Many small least-squares problems at once, their rows in one list: exact, or sketched.

Problem j has the rows e with segments[e] = j. All work is a gather, a sum over segments, or a
batched factorisation of k x k matrices, so that ragged problems need no padding.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxopt_robust import _arguments, _checks
from jaxopt_robust._units import exponent_of, power
from jaxopt_robust.numerics import safe_divide, upcast
from jaxopt_robust.typing import Array, ArrayLike

__all__ = ["SOLVERS", "SegmentLstsqInfo", "segment_lstsq", "sketch_precondition"]

SOLVERS = ("exact", "pcg", "sketch", "unit_step")
_CONVERGED, _STEP_LIMIT, _NON_FINITE, _STALLED = 0, 1, 2, 3  # the codes of the solvers


class SegmentLstsqInfo(NamedTuple):
  r"""How well the problems of ``segment_lstsq`` were solved.

  Attributes:
    residual: float[num_segments], the gradient A^T (b - A x) - ridge x of each problem in the norm
      of its preconditioner, over ||b||: 0 at the solution, about ||A (x - x*)|| / ||b|| elsewhere.
    first_residual: float[num_segments], the same at the starting point of the iterations.
    deficient: bool[num_segments], problems with fewer than k rows of positive weight, or with
      dependent columns: ridge, or else the shortest solution, decides them.
    status: int32 scalar: 0 all residuals are at most the square root of the machine epsilon, 1 some
      residual is larger, 2 a number is not finite, 3 some residual is larger than at the start: the
      iteration diverges there.

  Example:
    >>> SegmentLstsqInfo._fields
    ('residual', 'first_residual', 'deficient', 'status')

  Reference:
    Gu, Song, Yin and Zhang, Low rank matrix completion via robust alternating minimization in
    nearly linear time, 2023 (inexact solves and their tolerance).
  """

  residual: Array
  first_residual: Array
  deficient: Array
  status: Array


def _check_rows(rows: ArrayLike, segments: ArrayLike, num_segments: int) -> tuple[Array, Array]:
  array = _checks.check_float_array("rows", rows, rank=2)
  index = _checks.check_integers("segments", segments, low=0, high=num_segments, rank=1)
  if index.shape[0] != array.shape[0]:
    raise ValueError(
      f"segments must have one entry per row, ({array.shape[0]},); got {index.shape}."
    )
  return array, index


def _count_sketch(
  key: Array, rows: Array, segments: Array, num_segments: int, sketch_size: int
) -> Array:
  """[num_segments, sketch_size, k]: each row is added, with a random sign, to a random bucket."""
  num_rows, width = rows.shape
  bucket_key, sign_key = jax.random.split(key)
  bucket = jax.random.randint(bucket_key, (num_rows,), 0, sketch_size, dtype=segments.dtype)
  sign = jax.random.rademacher(sign_key, (num_rows,), rows.dtype)
  out = jnp.zeros((num_segments, sketch_size, width), rows.dtype)
  return out.at[segments, bucket].add(sign[:, None] * rows, mode="drop")


def _row_mass(rows: Array, segments: Array, num_segments: int) -> tuple[Array, Array]:
  """Sum of squares and number of non-zero rows of each problem."""
  square = jnp.sum(rows * rows, axis=1)
  table = jnp.stack([square, jnp.any(rows != 0, axis=1).astype(rows.dtype)], axis=1)
  total = jax.ops.segment_sum(table, segments, num_segments)
  return total[:, 0], total[:, 1]


def _floor(mass: Array, is_short: Array, small: ArrayLike, penalty: Array) -> Array:
  """Least diagonal shift of A^T A, relative to its trace; 1 where there is nothing to shift.

  Rounding is amplified by 1 / shift in directions without data: a problem that has such directions
  gets a shift that leaves them half of the digits, any other only what a factorisation needs.
  """
  large = jnp.finfo(mass.dtype).eps ** 0.5
  nothing = jnp.where(penalty > 0, 0, 1).astype(mass.dtype)
  return jnp.where(mass > 0, mass * jnp.where(is_short, large, small), nothing)


def _solve_upper(factor: Array, rhs: Array, *, transpose: bool) -> Array:
  """R^{-1} b or R^{-T} b for a batch of upper triangular R."""
  solution = jax.lax.linalg.triangular_solve(
    factor, rhs[..., None], left_side=True, lower=False, transpose_a=transpose
  )
  return solution[..., 0]


def sketch_precondition(
  key: Array, rows: ArrayLike, segments: ArrayLike, *, num_segments: int, sketch_size: int
) -> Array:
  r"""Triangular preconditioners of a batch of tall matrices, by a count sketch and QR.

  With S_j a count sketch of ``sketch_size`` rows for problem j: S_j A_j = Q_j R_j, and A_j R_j^{-1}
  is close to orthonormal where the sketch is much larger than the k columns.

  Args:
    key: typed PRNG key.
    rows: float[E, k], rows of all matrices.
    segments: int[E] in [0, num_segments), which matrix a row belongs to.
    num_segments: number of matrices, >= 1, static.
    sketch_size: rows of a sketch, >= 1, static; at least k + 1, and 4 k by custom.

  Returns:
    float[num_segments, k, k], upper triangular with a positive diagonal; the identity for a matrix
    without rows.

  Raises:
    TypeError: wrong dtypes, or a size that is not a static integer.
    ValueError: shapes do not fit, a size is less than 1, or a segment is out of range.

  Note:
    Costs O(E k) and a QR decomposition a problem. A shift of the order of the rounding error keeps
    the diagonal positive where columns are dependent, and a larger one where a matrix has fewer
    than k rows.

  Example:
    >>> rows = jax.random.normal(jax.random.key(0), (400, 2))
    >>> r = sketch_precondition(
    ...   jax.random.key(1), rows, jnp.zeros(400, int), num_segments=1, sketch_size=400)
    >>> q = rows @ jnp.linalg.inv(r[0])
    >>> bool(jnp.abs(q.T @ q - jnp.eye(2)).max() < 0.5)
    True

  Reference:
    Clarkson and Woodruff, Low rank approximation and regression in input sparsity time, 2013 (count
    sketch); Rokhlin and Tygert, A fast randomized algorithm for overdetermined linear least-squares
    regression, 2008 (sketched QR as a preconditioner).
  """
  _checks.check_key("key", key)
  num_segments = _checks.check_int("num_segments", num_segments, minimum=1)
  sketch_size = _checks.check_int("sketch_size", sketch_size, minimum=1)
  array, index = _check_rows(rows, segments, num_segments)
  wide = upcast(array)
  if sketch_size < wide.shape[1]:
    raise ValueError(f"sketch_size must be at least {wide.shape[1]}; got {sketch_size}.")
  none = jnp.zeros(num_segments, wide.dtype)
  unit = _units(jnp.max(jnp.abs(wide), axis=1), index, num_segments)
  wide = wide / unit.at[index].get(mode="fill", fill_value=1)[:, None]
  factor = _sketched_qr(key, wide, index, num_segments, sketch_size, none)[0]
  return (factor * unit[:, None, None]).astype(array.dtype)


def _sketched_qr(
  key: Array, rows: Array, segments: Array, num_segments: int, sketch_size: int, penalty: Array,
  targets: Array | None = None,
) -> tuple[Array, Array | None, Array, Array]:  # fmt: skip
  """R of [S A; sqrt(shift) I], Q^T [S b; 0] where targets are given, shift, and who is short."""
  width = rows.shape[1]
  mass, count = _row_mass(rows, segments, num_segments)
  table = rows if targets is None else jnp.concatenate([rows, targets[:, None]], axis=1)
  sketch = _count_sketch(key, table, segments, num_segments, sketch_size)
  # The last column of R is Q^T [S b; 0]: Q itself is never formed.
  upper = jnp.linalg.qr(sketch, mode="r")
  small = (4 * width * jnp.finfo(rows.dtype).eps) ** 2
  diagonal = jnp.diagonal(upper[:, :width, :width], axis1=1, axis2=2)
  is_short = (count < width) | (jnp.min(jnp.abs(diagonal), axis=1) ** 2 <= small * mass)
  shift = jnp.maximum(penalty, _floor(mass, is_short, small, penalty))
  shifts = jnp.sqrt(shift)[:, None, None] * jnp.eye(width, table.shape[1], dtype=rows.dtype)[None]
  upper = jnp.linalg.qr(jnp.concatenate([upper, shifts], axis=1), mode="r")[:, :width]
  sign = jnp.where(jnp.diagonal(upper, axis1=1, axis2=2) < 0, -1, 1).astype(rows.dtype)
  upper = upper * sign[:, :, None]
  return upper[:, :, :width], None if targets is None else upper[:, :, width], shift, is_short


def segment_lstsq(
  rows: ArrayLike,
  segments: ArrayLike,
  targets: ArrayLike,
  *,
  num_segments: int,
  weights: ArrayLike | None = None,
  ridge: ArrayLike = 0.0,
  solver: str = "pcg",
  key: Array | None = None,
  sketch_size: int | None = None,
  iterations: int = 3,
) -> tuple[Array, SegmentLstsqInfo]:
  r"""Solves a batch of least-squares problems whose rows stand in one list.

  For each j, argmin_x sum_{e: segments[e] = j} w_e (<a_e, x> - b_e)^2 + ridge_j ||x||^2, by

  - ``"exact"``: Cholesky factorisation of the k x k normal equations, and one step of refinement:
    O(E k^2 + num_segments k^3);
  - ``"pcg"``: ``iterations`` conjugate gradients from the sketched solution, with the triangular
    factor of the sketch as preconditioner: O(E k) an iteration;
  - ``"sketch"``: the sketched solution itself, min ||S (A x - b)||;
  - ``"unit_step"``: x <- x + (R^T R)^{-1} A^T (b - A x), ``iterations`` times.

  Args:
    rows: float[E, k], a_e.
    segments: int[E] in [0, num_segments), the problem of a row.
    targets: float[E], b_e.
    num_segments: number of problems, >= 1, static.
    weights: float[E] >= 0, w_e; None for all ones. Rows of weight 0 may hold NaN.
    ridge: >= 0, scalar or float[num_segments]; may be traced.
    solver: one of the four above; static.
    key: typed PRNG key of the sketch; ``"exact"`` needs none.
    sketch_size: rows of a sketch, static; 4 k by default, >= k.
    iterations: number of iterations, >= 0, static; k conjugate gradients are exact.

  Returns:
    (float[num_segments, k], ``SegmentLstsqInfo``). A problem without rows has the solution 0; one
    with fewer than k rows and no ridge has the shortest solution, to half the digits; so has one
    with dependent columns, but by ``"exact"``, which gives some solution of least residual.
    ``info.deficient`` tells both.

  Raises:
    TypeError: wrong dtypes, a size that is not a static integer, or a key that is missing.
    ValueError: shapes do not fit, an unknown solver, a negative ridge or weight, a segment out of
      range, NaN among targets of positive weight, or a size out of range.

  Note:
    The unit step diverges wherever a sketch is poor, and among many problems some always is; its
    residual and status 3 say so. Conjugate gradients on the same sketch converge. The exact solver
    squares the condition number; in float32 prefer ``"pcg"`` for badly conditioned problems.

  Example:
    >>> rows = jnp.array([[1.0, 0.0], [1.0, 1.0], [1.0, 2.0]])
    >>> x, info = segment_lstsq(rows, jnp.zeros(3, int), jnp.array([1.0, 3.0, 5.0]),
    ...                         num_segments=1, solver="exact")
    >>> x.round(4), int(info.status)
    (Array([[1., 2.]], dtype=float32), 0)

  Reference:
    Gu, Song, Yin and Zhang, Low rank matrix completion via robust alternating minimization in
    nearly linear time, 2023 (sketched solves; the unit step is recalled, not verified; conjugate
    gradients in its place are ours); Bjorck, Numerical methods for least squares problems, 1996,
    section 7.4 (conjugate gradients on the normal equations).
  """
  num_segments = _checks.check_int("num_segments", num_segments, minimum=1)
  array, index = _check_rows(rows, segments, num_segments)
  values = _checks.check_float_array("targets", targets, rank=1)
  if values.shape != index.shape:
    raise ValueError(f"targets must have one entry per row, {index.shape}; got {values.shape}.")
  _arguments.check_option("solver", solver, SOLVERS)
  _checks.check_non_negative("ridge", ridge)
  iterations = _checks.check_int("iterations", iterations, minimum=0)
  width = array.shape[1]
  size = 4 * width if sketch_size is None else sketch_size
  size = _checks.check_int("sketch_size", size, minimum=width)
  dtype = jnp.result_type(array, values)
  a, b = upcast(array.astype(dtype)), upcast(values.astype(dtype))
  if weights is not None:
    scale = _checks.check_float_array("weights", weights, rank=1)
    _checks.check_same_shape("weights", scale, "targets", values)
    _checks.check_non_negative("weights", scale)
    used = ~(scale <= 0)  # NaN is used, and shows
    root = jnp.where(used, jnp.sqrt(jnp.where(used, scale, 1)), 0).astype(a.dtype)
    a = jnp.where(used[:, None], a * root[:, None], 0)
    b = jnp.where(used, b * root, 0)
  _checks.check_holds(~jnp.isnan(b), "targets must not be NaN where the weight is positive.")
  epsilon = jnp.finfo(a.dtype).eps
  penalty = jnp.asarray(ridge, a.dtype)
  if penalty.ndim and penalty.shape != (num_segments,):
    raise ValueError(
      f"ridge must be a scalar or have shape ({num_segments},); got {jnp.shape(ridge)}."
    )
  penalty = jnp.broadcast_to(penalty, (num_segments,))
  # Each problem in units of its own: rows and targets of size 1, whose squares stay in range.
  unit_a = _units(jnp.max(jnp.abs(a), axis=1), index, num_segments, jnp.sqrt(penalty))
  unit_b = _units(jnp.abs(b), index, num_segments)
  a = a / unit_a.at[index].get(mode="fill", fill_value=1)[:, None]
  b = b / unit_b.at[index].get(mode="fill", fill_value=1)
  inverse = 1 / unit_a  # a power of two; x / u / u may become x / (u u), which is out of range
  penalty = penalty * inverse * inverse

  scale_b = jnp.sqrt(jax.ops.segment_sum(b * b, index, num_segments))

  def multiply(x: Array) -> Array:
    return jnp.sum(a * x.at[index].get(mode="fill", fill_value=0), axis=1)

  def collect(values: Array) -> Array:
    return jax.ops.segment_sum(a * values[:, None], index, num_segments)

  def gradient(x: Array) -> Array:
    return collect(b - multiply(x)) - penalty[:, None] * x

  def curve(x: Array) -> Array:
    return collect(multiply(x)) + shift[:, None] * x

  if solver == "exact":
    mass, count = _row_mass(a, index, num_segments)
    small = 4 * width * epsilon
    shift = jnp.maximum(penalty, _floor(mass, count < width, small, penalty))
    gram = _gram(a, index, num_segments)
    factor = jnp.linalg.cholesky(
      gram + shift[:, None, None] * jnp.eye(width, dtype=a.dtype)[None], upper=True
    )
    start = jnp.zeros((num_segments, width), a.dtype)
    pivots = jnp.diagonal(factor, axis1=1, axis2=2)
    is_short = (count < width) | (jnp.min(pivots, axis=1) ** 2 <= 4 * small * mass)
  else:
    if key is None:
      raise TypeError(f"key must be a typed key for solver={solver!r}; got None.")
    _checks.check_key("key", key)
    factor, rotated, shift, is_short = _sketched_qr(key, a, index, num_segments, size, penalty, b)
    assert rotated is not None
    start = _solve_upper(factor, rotated, transpose=False)

  def whiten(grad: Array) -> Array:
    return _solve_upper(factor, grad, transpose=True)

  def unwhiten(half: Array) -> Array:
    return _solve_upper(factor, half, transpose=False)

  grad = gradient(start)
  half = whiten(grad)
  first = half
  if solver == "pcg":
    # In units of the gradient: of a strong ridge it is as small as the rows, and squared below.
    unit = power(exponent_of(jnp.max(jnp.abs(grad), axis=1)), grad.dtype)[:, None]
    moved = _conjugate_gradients(
      jnp.zeros_like(start), grad / unit, curve, whiten, unwhiten, iterations
    )
    x = start + unit * moved
    half = whiten(gradient(x))
  else:
    steps = {"exact": 2, "sketch": 0, "unit_step": iterations}[solver]

    def body(carry: tuple[Array, Array], _: None) -> tuple[tuple[Array, Array], None]:
      x, half = carry
      x = x + unwhiten(half)
      return (x, whiten(gradient(x))), None

    (x, half), _ = jax.lax.scan(body, (start, half), None, length=steps)

  def relative(half: Array) -> Array:
    norm = jnp.sqrt(jnp.sum(half * half, axis=1))
    return safe_divide(norm, scale_b)

  residual, first_residual = relative(half), relative(first)
  tol = epsilon**0.5
  grown = jnp.any(residual > jnp.maximum(first_residual, tol))
  finite = jnp.all(jnp.isfinite(residual)) & jnp.all(jnp.isfinite(x))
  status = jnp.select(
    [~finite, grown, jnp.any(residual > tol)],
    [jnp.asarray(code, jnp.int32) for code in (_NON_FINITE, _STALLED, _STEP_LIMIT)],
    jnp.asarray(_CONVERGED, jnp.int32),
  )
  info = SegmentLstsqInfo(residual, first_residual, is_short, status)
  return (x * (unit_b / unit_a)[:, None]).astype(dtype), info


def _units(sizes: Array, segments: Array, num_segments: int, least: Array | None = None) -> Array:
  """The largest power of two at most the largest number of each problem; 1 where that is 0."""
  largest = jnp.maximum(jax.ops.segment_max(sizes, segments, num_segments), 0)
  if least is not None:
    largest = jnp.maximum(largest, least)
  return power(exponent_of(largest), sizes.dtype)


def _gram(rows: Array, segments: Array, num_segments: int) -> Array:
  """[num_segments, k, k], sum of a_e a_e^T, column by column: no array of E k^2 numbers."""
  columns = jax.lax.map(
    lambda column: jax.ops.segment_sum(rows * column[:, None], segments, num_segments), rows.T
  )
  return jnp.moveaxis(columns, 0, 1)


def _conjugate_gradients(
  x: Array,
  grad: Array,
  curve: Callable[[Array], Array],
  whiten: Callable[[Array], Array],
  unwhiten: Callable[[Array], Array],
  iterations: int,
) -> Array:
  """Preconditioned conjugate gradients, each direction made conjugate to all before it.

  With a poor preconditioner plain recursions lose conjugacy, and k iterations are not exact. There
  are few directions, of k numbers a problem: keeping them costs nothing beside the rows.
  """
  if iterations == 0:
    return x
  past = jnp.zeros((iterations, *x.shape), x.dtype)

  def body(carry: tuple, index: Array) -> tuple[tuple, None]:
    x, grad, directions, curved = carry
    direction = unwhiten(whiten(grad))
    curvatures = jnp.sum(curved * directions, axis=2)
    for _ in range(2):  # once is not enough where the first pass cancels most of the direction
      overlap = safe_divide(jnp.sum(curved * direction[None], axis=2), curvatures)
      direction = direction - jnp.sum(overlap[:, :, None] * directions, axis=0)
    image = curve(direction)
    step = safe_divide(jnp.sum(direction * grad, axis=1), jnp.sum(direction * image, axis=1))[
      :, None
    ]
    return (
      x + step * direction,
      grad - step * image,
      directions.at[index].set(direction),
      curved.at[index].set(image),
    ), None

  carry = (x, grad, past, past)
  return jax.lax.scan(body, carry, jnp.arange(iterations))[0][0]
