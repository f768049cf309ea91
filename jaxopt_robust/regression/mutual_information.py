"""Mutual information of an outcome and each of many covariates: kernel densities and bins."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxopt_robust import _arguments, _checks
from jaxopt_robust._units import in_units
from jaxopt_robust.numerics import upcast
from jaxopt_robust.typing import Array, ArrayLike

__all__ = ["MIScreening", "mi_binned", "mi_kde", "mi_kde_discrete", "mi_screen"]

# The interquartile range of a standard normal variable.
_NORMAL_IQR = 1.349
# The grid ends so many bandwidths beyond the data; the Epanechnikov kernel of variance 1, sqrt(5).
_MARGIN = 3.0
_ROOT_FIVE = 5.0**0.5
# The bandwidth is at least a cell of a grid that reaches so many spreads to both sides.
_LEAST_REACH = 3.0
_LEAST_GRID = 8
_KERNELS = ("epanechnikov", "gaussian")
_ESTIMATORS = ("kde", "discrete", "binned")


class MIScreening(NamedTuple):
  """Covariates by estimated mutual information.

  Attributes:
    scores: float[p], the mutual information of each covariate with the outcome, in nats.
    indices: int32[top_k], the covariates of the largest scores, largest first; the first of equal
      ones comes first, those whose score is NaN come last.
  """

  scores: Array
  indices: Array


def _standardised(x: Array) -> Array:
  """(x - median) / IQR; over the standard deviation where half of the numbers are equal."""
  x = in_units(x)[0]
  centred = x - jnp.median(x)
  # Any power of the unit would do; this one keeps squares in range.
  centred = centred / _or_one(jnp.max(jnp.abs(centred)))
  low, high = jnp.quantile(centred, jnp.array([0.25, 0.75], x.dtype))
  return centred / _or_one(jnp.where(high > low, high - low, jnp.std(centred)))


def _or_one(size: Array) -> Array:
  """A divisor: 1 in place of 0."""
  return jnp.where(size == 0, 1, size)


def _kernels(x: Array, num_grid: int, kernel: str) -> Array:
  """float[num_grid, n]: the kernel of each number on a grid over the data, up to a factor."""
  x = _standardised(x)
  n = x.size
  low, high = jnp.quantile(x, jnp.array([0.25, 0.75], x.dtype))
  deviation = jnp.std(x, ddof=1) if n > 1 else jnp.zeros((), x.dtype)
  robust = (high - low) / _NORMAL_IQR
  spread = jnp.where(robust > 0, jnp.minimum(deviation, robust), deviation)
  # A grid that is coarser than the bandwidth would lose the numbers between its points.
  half = (num_grid - 1 - 2 * _MARGIN) / 2
  bandwidth = _or_one(spread) * max((0.75 * n) ** -0.2, _LEAST_REACH / half)
  x = jnp.clip(x, -half * bandwidth, half * bandwidth)
  first, last = jnp.min(x) - _MARGIN * bandwidth, jnp.max(x) + _MARGIN * bandwidth
  grid = first + (last - first) * jnp.linspace(0, 1, num_grid, dtype=x.dtype)
  u = (grid[:, None] - x[None, :]) / bandwidth
  if kernel == "gaussian":
    return jnp.exp(-0.5 * u**2)
  return jnp.maximum(1 - (u / _ROOT_FIVE) ** 2, 0)


def _plug_in(weights: Array) -> Array:
  """sum P log(P / (P_x P_y)) of a table of non-negative weights, not below 0; NaN stays NaN."""
  p = weights / _or_one(jnp.sum(weights))
  rows, columns = jnp.sum(p, axis=1, keepdims=True), jnp.sum(p, axis=0, keepdims=True)
  log = lambda q: jnp.log(jnp.where(q > 0, q, 1))
  total = jnp.sum(p * (log(p) - log(rows) - log(columns)))
  return jnp.where(total < 0, 0, total)


def _pair(x: ArrayLike, y: ArrayLike) -> tuple[Array, Array]:
  x, y = _checks.check_float_array("x", x, rank=1), _checks.check_float_array("y", y, rank=1)
  _same_rows(x, y)
  return upcast(x), upcast(y)


def _same_rows(x: Array, y: Array) -> None:
  if y.shape[0] != x.shape[0]:
    raise ValueError(f"y must have a number for each of the {x.shape[0]} rows; got {y.shape[0]}.")


def _check_grid(num_grid: int, kernel: str) -> int:
  _arguments.check_option("kernel", kernel, _KERNELS)
  return _checks.check_int("num_grid", num_grid, minimum=_LEAST_GRID)


def mi_kde(
  x: ArrayLike, y: ArrayLike, *, num_grid: int = 300, kernel: str = "epanechnikov"
) -> Array:
  r"""Mutual information of two continuous variables by a kernel density estimate.

  Both are centred by their median and divided by their interquartile range. With the product
  kernel's density P on a grid over the data, normalised to sum 1, and its margins,

    MI = sum_{a, b} P_ab log(P_ab / (P_a. P_.b)),      0 log 0 = 0,

  in nats, at least 0. The bandwidths are min(sd, IQR / 1.349) (3 n / 4)^(-1/5) (Silverman); the
  grids reach three bandwidths beyond the data. One product of two matrices of num_grid x n.
  Numbers further than (num_grid - 7) / 2 bandwidths from the median (146 of them on 300 points)
  count as if they were there: the points of a grid are never further apart than a bandwidth.

  Args:
    x: float[n].
    y: float[n].
    num_grid: >= 8, static; points of each grid. On less than some 30 the bandwidth grows, so that
      the grid reaches three deviations.
    kernel: ``"epanechnikov"`` or ``"gaussian"``, static; both of variance 1.

  Returns:
    float scalar, in float32 or wider; 0, up to rounding, where a variable is
    constant.

  Raises:
    TypeError: when ``x`` or ``y`` is no array of real numbers.
    ValueError: when shapes or options are out of range.

  Note:
    Symmetric, and the same for any affine maps of x and y. The density is smoothed: strong
    dependence is underestimated (at a correlation of 0.9 by about a quarter at n = 1000) and
    independence has a small positive score. Memory is num_grid times n.

  Example:
    >>> x = jnp.linspace(-1.0, 1.0, 200)
    >>> bool(mi_kde(x, x**2) > 0.3)
    True

  Reference:
    Yang, Asgharian, Bhagwat, Poline and Greenwood, fastHDMI: fast mutual information estimation for
    high-dimensional data, 2024 (arXiv:2410.10082). Their package computes the bandwidths of the
    joint density but does not use them; here they are used. How far the grids reach is ours.
  """
  x, y = _pair(x, y)
  num_grid = _check_grid(num_grid, kernel)
  kx, ky = (_kernels(v, num_grid, kernel) for v in (x, y))
  return _plug_in(kx @ ky.T)


def mi_kde_discrete(
  x: ArrayLike,
  labels: ArrayLike,
  *,
  num_classes: int,
  num_grid: int = 500,
  kernel: str = "epanechnikov",
) -> Array:
  r"""Mutual information of a continuous variable and a class by kernel density estimates.

  As ``mi_kde`` with the table P_ac = (share of class c) times (density of x at grid point a within
  class c). All classes have the bandwidth of the whole sample, so that they add up to its density.

  Args:
    x: float[n].
    labels: int or bool[n], classes in [0, num_classes).
    num_classes: >= 1, static.
    num_grid: >= 8, static; points of the grid.
    kernel: ``"epanechnikov"`` or ``"gaussian"``, static; both of variance 1.

  Returns:
    float scalar, in float32 or wider; at most the entropy of the classes.

  Raises:
    TypeError: when ``x`` holds no real numbers or ``labels`` no integers.
    ValueError: when shapes, classes or options are out of range.

  Note:
    Under ``jit`` an example whose class is out of range counts for none; 0 where all are. Empty
    classes add nothing.

  Example:
    >>> x = jnp.linspace(-1.0, 1.0, 200)
    >>> bool(mi_kde_discrete(x, jnp.abs(x) > 0.5, num_classes=2) > 0.3)
    True

  Reference:
    Yang, Asgharian, Bhagwat, Poline and Greenwood, fastHDMI: fast mutual information estimation for
    high-dimensional data, 2024 (arXiv:2410.10082); one bandwidth for all classes is ours.
  """
  x = upcast(_checks.check_float_array("x", x, rank=1))
  num_grid = _check_grid(num_grid, kernel)
  num_classes = _checks.check_int("num_classes", num_classes, minimum=1)
  labels = _checks.check_labels("labels", labels, shape=x.shape, num_classes=num_classes)
  members = jax.nn.one_hot(labels, num_classes, dtype=x.dtype)
  return _plug_in(_kernels(x, num_grid, kernel) @ members)


def _bins(share: Array, number: Array) -> Array:
  """int32: the bin of each number, among ``number`` equal ones."""
  return jnp.minimum((share * number).astype(jnp.int32), number - 1)


def _number_of_bins(share: Array, max_bins: int) -> Array:
  """The number of equal bins with the largest penalised likelihood."""
  numbers = jnp.arange(2, max_bins + 1, dtype=jnp.int32)
  n = share.size

  def criterion(number: Array) -> Array:
    counts = jnp.zeros(max_bins, share.dtype).at[_bins(share, number)].add(1)
    fit = jnp.sum(counts * jnp.log(jnp.where(counts > 0, counts, 1)))
    d = number.astype(share.dtype)
    return fit + n * jnp.log(d) - (d - 1 + jnp.log(d) ** 2.5)

  return numbers[jnp.argmax(jax.lax.map(criterion, numbers))]


def _binned(x: Array, max_bins: int) -> Array:
  """int32[n]: the bin of each number; max_bins, which is none, where one is NaN or infinite."""
  x = in_units(x)[0]
  low = jnp.min(x)
  share = (x - low) / _or_one(jnp.max(x) - low)
  bins = _bins(share, _number_of_bins(share, max_bins))
  return jnp.where(jnp.all(jnp.isfinite(share)), bins, max_bins)


def _of_bins(a: Array, b: Array, max_bins: int, dtype: jnp.dtype) -> Array:
  """The plug-in estimate of two rows of bins."""
  counts = jnp.zeros((max_bins, max_bins), dtype).at[a, b].add(1, mode="drop")
  unknown = jnp.any(a == max_bins) | jnp.any(b == max_bins)
  return jnp.where(unknown, jnp.nan, _plug_in(counts))


def mi_binned(x: ArrayLike, y: ArrayLike, *, max_bins: int = 99) -> Array:
  r"""Mutual information of two variables by equal bins, as many as the data support.

  The number D in 2, ..., max_bins of bins of each variable maximises

    sum_j N_j log N_j + n log D - (D - 1 + log(D)^2.5),

  N_j the counts; the mutual information is that of the two-dimensional histogram, in nats.

  Args:
    x: float[n].
    y: float[n]; classes may be given as numbers.
    max_bins: >= 2, static.

  Returns:
    float scalar, in float32 or wider; 0, up to rounding, where a variable is
    constant.

  Raises:
    TypeError: when ``x`` or ``y`` is no array of real numbers.
    ValueError: when shapes or ``max_bins`` are out of range.

  Note:
    Plug-in estimates are biased upwards by about (D_x - 1) (D_y - 1) / (2 n). Evenly spread data
    get 2 bins, which hide what is symmetric. One number far from all others leaves these in one
    bin: the score is near 0 then.

  Example:
    >>> x = jax.random.normal(jax.random.key(0), (200,))
    >>> bool(mi_binned(x, x**2) > 0.3)
    True

  Reference:
    Birge and Rozenholc, How many bins should be put in a regular histogram, 2006, equation 1.1, as
    the baseline of Yang, Asgharian, Bhagwat, Poline and Greenwood, fastHDMI, 2024.
  """
  x, y = _pair(x, y)
  max_bins = _checks.check_int("max_bins", max_bins, minimum=2)
  return _of_bins(_binned(x, max_bins), _binned(y, max_bins), max_bins, x.dtype)


def mi_screen(
  x: ArrayLike,
  y: ArrayLike,
  *,
  top_k: int,
  estimator: str = "kde",
  num_classes: int | None = None,
  num_grid: int | None = None,
  kernel: str = "epanechnikov",
  max_bins: int = 99,
  block_size: int = 8,
) -> MIScreening:
  r"""Ranks covariates by their estimated mutual information with an outcome.

  The scores are those of ``mi_kde``, ``mi_kde_discrete`` or ``mi_binned``, in blocks of covariates.

  Args:
    x: float[n, p], a covariate a column.
    y: float[n], the outcome; int or bool[n] classes for ``"discrete"``.
    top_k: in [1, p], static; how many covariates to return.
    estimator: ``"kde"`` (continuous outcome), ``"discrete"`` (classes) or ``"binned"``, static.
    num_classes: >= 1, static; needed for ``"discrete"``.
    num_grid: >= 8, static; points of each grid. None: 300, and 500 for classes.
    kernel: ``"epanechnikov"`` or ``"gaussian"``, static.
    max_bins: >= 2, static; for ``"binned"``.
    block_size: >= 1, static; covariates at a time. Memory is block_size num_grid (n + num_grid).

  Returns:
    ``MIScreening(scores, indices)``.

  Raises:
    TypeError: when ``x`` or ``y`` holds the wrong kind of numbers.
    ValueError: when shapes, sizes or options are out of range, or ``num_classes`` is missing.

  Note:
    A score sees one covariate at a time: a covariate that matters only together with others is not
    found, one that is correlated with a relevant one is.

  Example:
    >>> x = jax.random.normal(jax.random.key(0), (200, 5))
    >>> scores, indices = mi_screen(x, x[:, 3] ** 2, top_k=1)
    >>> indices
    Array([3], dtype=int32)

  Reference:
    Yang, Asgharian, Bhagwat, Poline and Greenwood, fastHDMI: fast mutual information estimation for
    high-dimensional data, 2024 (arXiv:2410.10082).
  """
  x = _checks.check_float_array("x", x, rank=2)
  _arguments.check_option("estimator", estimator, _ESTIMATORS)
  top_k = _checks.check_int("top_k", top_k, minimum=1, maximum=x.shape[1])
  block_size = _checks.check_int("block_size", block_size, minimum=1)
  discrete = estimator == "discrete"
  num_grid = _check_grid((500 if discrete else 300) if num_grid is None else num_grid, kernel)
  if discrete and num_classes is None:
    raise ValueError("num_classes must be given for estimator='discrete'; got None.")
  columns = upcast(x).T
  if discrete:
    assert num_classes is not None
    number = _checks.check_int("num_classes", num_classes, minimum=1)
    labels = _checks.check_labels("y", y, shape=x.shape[:1], num_classes=number)
    members = jax.nn.one_hot(labels, number, dtype=columns.dtype)
    score = lambda v: _plug_in(_kernels(v, num_grid, kernel) @ members)
  else:
    outcome = upcast(_checks.check_float_array("y", y, rank=1))
    _same_rows(x, outcome)
    if estimator == "binned":
      max_bins = _checks.check_int("max_bins", max_bins, minimum=2)
      of_y = _binned(outcome, max_bins)
      score = lambda v: _of_bins(_binned(v, max_bins), of_y, max_bins, v.dtype)
    else:
      of_outcome = _kernels(outcome, num_grid, kernel)
      score = lambda v: _plug_in(_kernels(v, num_grid, kernel) @ of_outcome.T)
  scores = jax.lax.map(score, columns, batch_size=min(block_size, x.shape[1]))
  ranked = jnp.where(jnp.isnan(scores), -jnp.inf, scores)
  return MIScreening(scores, jax.lax.top_k(ranked, top_k)[1])
