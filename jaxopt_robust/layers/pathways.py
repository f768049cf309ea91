"""Pathways of experts chosen for a sample: gradient descent, kernel regression, mode finding."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxopt_robust import _arguments, _checks
from jaxopt_robust.layers.experts import Pathway, check_pathway
from jaxopt_robust.layers.neighbors import mean_shift
from jaxopt_robust.numerics import safe_divide, tree_where, upcast
from jaxopt_robust.solvers import CONVERGED, NON_FINITE, STEP_LIMIT
from jaxopt_robust.typing import Array, ArrayLike, PyTree

__all__ = [
  "PathwayInfo",
  "PathwaySearchInfo",
  "pathway_gradient_descent",
  "pathway_kernel_regression",
  "pathway_line_search",
  "pathway_mode_finding",
]

PARAMETRIZATIONS = ("projected", "softmax")


class PathwayInfo(NamedTuple):
  """How a descent went.

  Attributes:
    values: float[num_steps + 1], the objective at the start and after each step; after an early end
      the last one again, after status 2 what was not finite.
    steps: int32, steps taken.
    error: float scalar, largest change of a weight in the last step; inf before the first.
    status: int32, 0 (error <= tol), 1 (all steps taken), 2 (objective or step not finite; the last
      pathway with a finite objective is returned).

  Example:
    >>> PathwayInfo._fields
    ('values', 'steps', 'error', 'status')

  Reference:
    Li, Li and Zhou, C3PO: critical-layer, core-expert, collaborative pathway optimization for
    test-time expert re-mixing, 2025.
  """

  values: Array
  steps: Array
  error: Array
  status: Array


class PathwaySearchInfo(NamedTuple):
  """What a line search found.

  Attributes:
    alpha: float scalar, share of the start.
    value: float scalar, the objective there.
    status: int32, 0, or 2 where no value is finite (alpha is 1 then).

  Example:
    >>> PathwaySearchInfo._fields
    ('alpha', 'value', 'status')

  Reference:
    Li, Li and Zhou, C3PO: critical-layer, core-expert, collaborative pathway optimization for
    test-time expert re-mixing, 2025.
  """

  alpha: Array
  value: Array
  status: Array


def _objective(fun: Callable[..., Array], data: tuple) -> Callable[[Array, Array], Array]:
  """A checked scalar function of weights and core."""

  def value(weights: Array, core: Array) -> Array:
    found = jnp.asarray(fun(Pathway(weights, core), *data))
    if found.shape != () or not jnp.issubdtype(found.dtype, jnp.floating):
      raise ValueError(
        f"objective must return a floating-point scalar; got {_checks.describe(found)}."
      )
    return found.astype(jnp.promote_types(found.dtype, jnp.float32))

  return value


def pathway_gradient_descent(
  objective: Callable[..., Array],
  start: Pathway,
  *data: PyTree,
  optimizer: optax.GradientTransformation,
  num_steps: int = 10,
  parametrization: str = "projected",
  floor: ArrayLike = 1e-10,
  tol: ArrayLike | None = None,
) -> tuple[Pathway, PathwayInfo]:
  r"""Gradient steps on the weights of core experts, with every row's sum kept.

  On the neighbours' loss this is neighbourhood gradient descent (NGD), on a sample's own loss the
  oracle. With s_l the sum of the core weights of layer l at the start, a step is

    omega <- max(omega + u, 0),    then omega_le <- s_l omega_le / sum_e omega_le

  on the core entries, u the update of the optimizer for the gradient there ("projected"); or free
  steps on z with omega_l = s_l softmax(z_l) over the core ("softmax").

  Args:
    objective: ``objective(pathway, *data) -> float scalar``, such as ``neighborhood_loss`` with its
      other arguments bound.
    start: ``Pathway`` [layers, experts], from ``restrict_pathway``.
    *data: arrays that the objective needs; passed, not closed over, they cost no second compile.
    optimizer: any optax transformation; it gets ``value``, ``grad`` and ``value_fn`` too. The paper
      takes plain gradient descent with a cosine schedule.
    num_steps: at least 0, static.
    parametrization: "projected" or "softmax"; static.
    floor: in [0, 1), share of its row below which a core expert does not fall, up to a last
      rescaling; may be traced. It keeps as many experts above 0 as a model selects.
    tol: None, or >= 0: steps end once the largest change of a weight is at most ``tol``; may be
      traced.

  Returns:
    ``(pathway, info)``, a ``Pathway`` with the core of ``start`` and a ``PathwayInfo``.

  Raises:
    TypeError: an argument is of the wrong kind.
    ValueError: shapes do not fit, or a number is out of range.

  Note:
    No steps return the start, bit for bit. Derivatives of a model that selects the largest weights
    are 0 at experts that are not selected: in "projected" form these enter by the rescaling alone,
    as others fall below them. Samples: ``jax.vmap``.

  Example:
    >>> start = Pathway(jnp.array([[0.5, 0.3, 0.2]]), jnp.array([[True, True, False]]))
    >>> nearer = lambda pathway, target: jnp.sum((pathway.weights - target) ** 2)
    >>> found, info = pathway_gradient_descent(
    ...   nearer, start, jnp.array([[0.1, 0.7, 0.2]]), optimizer=optax.sgd(0.25)
    ... )
    >>> [round(float(w), 3) for w in found.weights[0]]
    [0.1, 0.7, 0.2]
    >>> int(info.steps)
    10

  Reference:
    Li, Li and Zhou, C3PO: critical-layer, core-expert, collaborative pathway optimization for
    test-time expert re-mixing, 2025, sections 3 and 4; how rows stay non-negative and of which sum
    is not told there: projection and softmax are ours.
  """
  _arguments.check_callable("objective", objective)
  _arguments.check_optimizer("optimizer", optimizer)
  _arguments.check_option("parametrization", parametrization, PARAMETRIZATIONS)
  steps = _checks.check_int("num_steps", num_steps, minimum=0)
  _checks.check_interval("floor", floor, 0.0, 1.0, closed="left", scalar=True)
  if tol is not None:
    _checks.check_non_negative("tol", tol, scalar=True)
  given = check_pathway("start", start, rank=2)
  _checks.check_holds(
    jnp.isfinite(given.weights) & (given.weights >= 0),
    "start.weights must be finite and >= 0; got another number.",
  )
  core, begin = given.core, upcast(given.weights)
  least = jnp.asarray(floor, begin.dtype)
  inner = lambda w: jnp.sum(jnp.where(core, w, 0), axis=-1, keepdims=True)
  total = inner(begin)
  free = parametrization == "softmax"

  def weights_of(point: Array) -> Array:
    if not free:
      return point
    z = jnp.where(core, point, jnp.finfo(point.dtype).min)
    powers = jnp.exp(z - jax.lax.stop_gradient(jnp.max(z, axis=-1, keepdims=True)))
    return jnp.where(core, safe_divide(total * powers, inner(powers)), begin)

  def project(point: Array) -> Array:
    if free:
      return point
    largest = jax.lax.stop_gradient(jnp.max(jnp.where(core, point, 0), axis=-1, keepdims=True))
    raised = jnp.where(largest > 0, jnp.maximum(point, 0), 1)  # all negative: alike
    raised = raised / jnp.where(largest > 0, largest, 1)  # of size 1, so that sums fit
    share = jnp.maximum(safe_divide(raised, inner(raised)), least)
    return jnp.where(core, safe_divide(total * share, inner(share)), begin)

  fun = _objective(objective, data)
  method = optax.with_extra_args_support(optimizer)
  first = begin
  if free and steps:
    share = safe_divide(begin, total)
    first = jnp.where(core, jnp.log(jnp.maximum(share, jnp.maximum(least, 1e-30))), begin)

  def step(carry: tuple, count: Array) -> tuple[tuple, Array]:
    kept, point, opt_state, taken, error, status, done = carry
    value_fn = lambda point: fun(weights_of(point), core)
    value, grad = jax.value_and_grad(value_fn)(point)
    is_finite = jnp.isfinite(value)
    accepted, moved = ~done & is_finite, count > 0
    change = jnp.max(jnp.abs(weights_of(point) - weights_of(kept)))
    kept = jnp.where(accepted, point, kept)
    counts = accepted & moved
    taken, error = taken + counts, jnp.where(counts, change, error)
    near = jnp.zeros((), bool) if tol is None else counts & (change <= tol)

    grad = jnp.where(core, grad, 0)
    updates, new_state = method.update(
      grad, opt_state, point, value=value, grad=grad, value_fn=value_fn
    )
    raw = optax.apply_updates(point, updates)
    can_move = jnp.all(jnp.isfinite(jnp.where(core, raw, 0)))
    new = jnp.where(core & can_move, project(raw), point)
    broken = ~done & (~is_finite | ((count < steps) & ~can_move))
    status = jnp.where(broken, NON_FINITE, jnp.where(near & ~broken, CONVERGED, status))
    done = done | broken | near
    point = jnp.where(done, kept, new)
    opt_state = tree_where(done, opt_state, new_state)
    return (kept, point, opt_state, taken, error, status, done), value

  carry = (
    first, first, method.init(first), jnp.zeros((), jnp.int32), jnp.full((), jnp.inf, begin.dtype),
    jnp.full((), STEP_LIMIT, jnp.int32), jnp.zeros((), bool),
  )  # fmt: skip
  carry, values = jax.lax.scan(step, carry, jnp.arange(steps + 1))
  kept, _, _, taken, error, status, _ = carry
  weights = begin if not steps else jnp.where(taken > 0, weights_of(kept), begin)
  return Pathway(weights, core), PathwayInfo(values, taken, error, status)


def _points(name: str, references: ArrayLike, start: Pathway) -> Array:
  """Pathways of references, [k, layers, experts]."""
  array = _checks.check_float_array(name, references, rank=3)
  if array.shape[1:] != start.weights.shape:
    raise ValueError(
      f"{name} must have shape [k, {', '.join(map(str, start.weights.shape))}], one pathway a "
      f"reference, as start has; got {array.shape}."
    )
  return upcast(array)


def pathway_kernel_regression(start: Pathway, references: ArrayLike, weights: ArrayLike) -> Pathway:
  r"""Kernel regression: the mean of the pathways of a sample's neighbours.

  omega^ = sum_i K_i omega_i / sum_i K_i.

  Args:
    start: ``Pathway`` [layers, experts] of the sample; its core says which entries are taken from
      the mean.
    references: float[k, layers, experts], the router's weights of the neighbours.
    weights: float[k] >= 0, K_i, such as those of ``kernel_neighbors``.

  Returns:
    ``Pathway`` like ``start``; ``start`` itself where all weights are 0.

  Raises:
    TypeError: an argument is of the wrong kind.
    ValueError: shapes do not fit, or a weight is negative.

  Note:
    With all experts of a layer in the core, rows are means of whole rows, so that they sum to 1.
    ``pathway_line_search`` finds how much of the start to keep; ``jax.vmap`` takes many samples.

  Example:
    >>> start = Pathway(jnp.array([[1.0, 0.0]]), jnp.ones((1, 2), bool))
    >>> two = jnp.array([[[0.0, 1.0]], [[0.4, 0.6]]])
    >>> found = pathway_kernel_regression(start, two, jnp.array([1.0, 3.0]))
    >>> [round(float(w), 3) for w in found.weights[0]]
    [0.3, 0.7]

  Reference:
    Li, Li and Zhou, C3PO: critical-layer, core-expert, collaborative pathway optimization for
    test-time expert re-mixing, 2025, section 3.
  """
  given = check_pathway("start", start, rank=2)
  array = _points("references", references, given)
  share = upcast(_checks.check_float_array("weights", weights, rank=1))
  if share.shape[0] != array.shape[0]:
    raise ValueError(
      f"weights must have one number a reference, {array.shape[0]}; got {share.shape}."
    )
  _checks.check_non_negative("weights", share)
  share = safe_divide(share, jnp.max(share))  # sums of the largest numbers would not fit
  rows = jnp.where((share > 0)[:, None, None], array, 0)
  sum_ = jnp.sum(share)
  mean = safe_divide(jnp.einsum("k,kle->le", share, rows, precision="highest"), sum_)
  begin = upcast(given.weights)
  return Pathway(jnp.where(given.core & (sum_ > 0), mean, begin), given.core)


def pathway_mode_finding(
  start: Pathway,
  references: ArrayLike,
  *,
  bandwidth: ArrayLike = 1.0,
  num_neighbors: int | None = 3,
  kernel: str = "gaussian",
  alpha: ArrayLike = 0.5,
  num_steps: int = 3,
  where: ArrayLike | None = None,
) -> Pathway:
  r"""Mode finding: ``mean_shift`` towards pathways that succeed, without labels or gradients.

  omega <- alpha omega + (1 - alpha) omega_bar with omega_bar the kernel's mean of the references
  nearest to omega, in the space of the core entries.

  Args:
    start: ``Pathway`` [layers, experts]; entries outside of its core do not change.
    references: float[n, layers, experts], pathways of examples that the model answers correctly.
    bandwidth: h > 0, in units of routing weights; may be traced.
    num_neighbors: k, from 1 to n, static; None for all references.
    kernel: as in ``kernel_neighbors``; static.
    alpha: what is kept of the pathway, in [0, 1]; may be traced.
    num_steps: at least 0, static.
    where: bool[n], references that count.

  Returns:
    ``Pathway`` like ``start``.

  Raises:
    TypeError: an argument is of the wrong kind.
    ValueError: shapes do not fit, or a number is out of range.

  Note:
    alpha and the number of steps are not told in the paper. ``jax.vmap`` takes many samples.

  Example:
    >>> start = Pathway(jnp.array([[0.5, 0.5]]), jnp.ones((1, 2), bool))
    >>> modes = jnp.array([[[0.8, 0.2]], [[0.8, 0.2]]])
    >>> pathway_mode_finding(start, modes, num_neighbors=2, alpha=0.0).weights
    Array([[0.8, 0.2]], dtype=float32)

  Reference:
    Li, Li and Zhou, C3PO: critical-layer, core-expert, collaborative pathway optimization for
    test-time expert re-mixing, 2025, section 3.
  """
  given = check_pathway("start", start, rank=2)
  array = _points("references", references, given)
  begin = upcast(given.weights)
  flat = jnp.where(given.core[None], array, 0).reshape(array.shape[0], -1)
  point = jnp.where(given.core, begin, 0).reshape(-1)
  _checks.check_holds(jnp.isfinite(point), "start must be finite; got NaN or infinity.")
  moved = mean_shift(
    point, flat, bandwidth=bandwidth, num_neighbors=num_neighbors, kernel=kernel, alpha=alpha,
    num_steps=num_steps, where=where,
  )  # fmt: skip
  return Pathway(jnp.where(given.core, moved.reshape(begin.shape), begin), given.core)


def pathway_line_search(
  objective: Callable[..., Array],
  start: Pathway,
  estimate: Pathway,
  *data: PyTree,
  num_points: int = 11,
) -> tuple[Pathway, PathwaySearchInfo]:
  r"""How much of a pathway to keep: the best of alpha start + (1 - alpha) estimate.

  Args:
    objective: ``objective(pathway, *data) -> float scalar``.
    start: ``Pathway`` [layers, experts].
    estimate: ``Pathway`` of the same shape, such as that of ``pathway_kernel_regression``.
    *data: arrays that the objective needs.
    num_points: values of alpha, equally spaced from 1 to 0; at least 2, static.

  Returns:
    ``(pathway, info)``, a ``Pathway`` with the core of ``start`` and a ``PathwaySearchInfo``.

  Raises:
    TypeError: an argument is of the wrong kind.
    ValueError: shapes do not fit, or a size is out of range.

  Note:
    Of equal values the one nearest to the start is taken; a value that is not finite never is.

  Example:
    >>> core = jnp.ones((1, 2), bool)
    >>> start, estimate = (Pathway(jnp.array([w]), core) for w in ([1.0, 0.0], [0.0, 1.0]))
    >>> even = lambda pathway: jnp.sum((pathway.weights - 0.5) ** 2)
    >>> found, info = pathway_line_search(even, start, estimate)
    >>> found.weights
    Array([[0.5, 0.5]], dtype=float32)

  Reference:
    Li, Li and Zhou, C3PO: critical-layer, core-expert, collaborative pathway optimization for
    test-time expert re-mixing, 2025, section 3; the 11 points are ours.
  """
  _arguments.check_callable("objective", objective)
  given, other = (
    check_pathway(name, p, rank=2) for name, p in (("start", start), ("estimate", estimate))
  )
  if other.weights.shape != given.weights.shape:
    raise ValueError(
      f"estimate must have the shape {given.weights.shape} of start; got {other.weights.shape}."
    )
  points = _checks.check_int("num_points", num_points, minimum=2)
  begin, end = upcast(given.weights), upcast(other.weights)
  fun = _objective(objective, data)

  def mixed(alpha: Array) -> Array:
    between = alpha * begin + (1 - alpha) * end
    return jnp.where(given.core & (alpha < 1), between, begin)

  alphas = jnp.linspace(1, 0, points, dtype=begin.dtype)
  values = jax.vmap(lambda alpha: fun(mixed(alpha), given.core))(alphas)
  ranked = jnp.where(jnp.isfinite(values), values, jnp.inf)
  best = jnp.argmin(ranked)
  status = jnp.where(jnp.isfinite(values[best]), CONVERGED, NON_FINITE).astype(jnp.int32)
  info = PathwaySearchInfo(alphas[best], values[best], status)
  return Pathway(mixed(alphas[best]), given.core), info
