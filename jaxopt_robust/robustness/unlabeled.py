"""Unlabelled examples of a nearby distribution: robust self-training (RSS)."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxopt_robust import _arguments, _checks, numerics
from jaxopt_robust.robustness.wasserstein import COSTS, robust_zero_one_loss
from jaxopt_robust.solvers.types import NON_FINITE, STEP_LIMIT
from jaxopt_robust.typing import Array, ArrayLike, PyTree

__all__ = [
  "HyperPlane",
  "RssFit",
  "RssInfo",
  "hyperplane_distance",
  "rss_linear_fit",
  "rss_objective",
]


class HyperPlane(NamedTuple):
  """A linear classifier, the sign of <w, x> + b.

  Attributes:
    weights: float[features], w.
    intercept: float scalar, b.
  """

  weights: Array
  intercept: Array


class RssInfo(NamedTuple):
  """What one evaluation of the objective saw.

  Attributes:
    labeled: float scalar, mean loss of the labelled examples.
    unlabeled: float scalar, mean loss of the unlabelled ones at their predicted labels.
    agreement: float scalar, share of labelled examples whose label is predicted. The unlabelled
      loss alone does not know which side is which: watch that this stays high.
  """

  labeled: Array
  unlabeled: Array
  agreement: Array


class RssFit(NamedTuple):
  """A trained linear classifier.

  Attributes:
    plane: HyperPlane with weights of length 1; of 0 where all labelled examples are 0.
    history: RssInfo with a leading axis of steps, each before its step (and before sides are
      exchanged at the end, where they are).
    status: int32, 1 after all steps, 2 if the plane or a loss is not finite.
  """

  plane: HyperPlane
  history: RssInfo
  status: Array


def rss_objective(
  fun: Callable[[PyTree, Array, Array], Array],
  params: PyTree,
  labeled: tuple[ArrayLike, ArrayLike],
  unlabeled: ArrayLike,
  *,
  predict: Callable[[PyTree, Array], Array],
  unlabeled_fun: Callable[[PyTree, Array, Array], Array] | None = None,
  weight: ArrayLike = 1.0,
  where: ArrayLike | None = None,
  unlabeled_where: ArrayLike | None = None,
) -> tuple[Array, RssInfo]:
  r"""Robust self-training objective (RSS): labelled loss plus the loss at the model's own labels.

  Computes (1/m) sum_i l(x_i, y_i) + (weight / n) sum_j l'(x'_j, h(x'_j)) with h the predicted
  label, which is held fixed in the derivative. With robust losses the second term keeps the
  decision boundary away from where the unlabelled examples are dense.

  Args:
    fun: ``fun(params, x, labels) -> float[batch]``, l, such as a ``wasserstein_robust_loss`` (its
      values) or a plain loss.
    params: pytree of parameters.
    labeled: pair (x, labels) of arrays with m rows.
    unlabeled: float[n, ...], x'.
    predict: ``predict(params, x) -> labels`` as ``fun`` takes them; at a tie either side may be
      given, but always the same.
    unlabeled_fun: l', called as ``fun`` is; by default ``fun`` itself.
    weight: >= 0, a scalar; may be traced. 0 leaves the labelled loss alone.
    where: bool[m]; labelled rows where it is false do not count, nor do their labels.
    unlabeled_where: bool[n], the same for unlabelled rows.

  Returns:
    ``(value, info)``: float scalar and an RssInfo. A mean over no rows is 0.

  Raises:
    ValueError: shapes do not agree, weight < 0, or a function that does not return one number an
      example.
    TypeError: a function is not callable, or unlabelled examples are not floating-point.

  Note:
    Predicted labels jump: the value is piecewise smooth in the parameters. Start from what the
    labelled examples give.

  Example:
    >>> fun = lambda w, x, y: jnp.maximum(0.0, 1.0 - y * (x @ w))
    >>> predict = lambda w, x: jnp.where(x @ w >= 0, 1.0, -1.0)
    >>> labeled = jnp.array([[2.0], [-2.0]]), jnp.array([1.0, -1.0])
    >>> value, info = rss_objective(
    ...   fun, jnp.ones(1), labeled, jnp.array([[0.5], [-3.0]]), predict=predict, weight=2.0)
    >>> float(value), float(info.agreement)
    (0.5, 1.0)

  Reference:
    Saberi, Najafi, Heidari, Movasaghinia, Motahari and Khalaj, Out-of-domain unlabeled data
    improves generalization, 2024, the estimator of the section on the proposed method.
  """
  for name, fn in (("fun", fun), ("predict", predict)):
    _arguments.check_callable(name, fn)
  other = fun if unlabeled_fun is None else unlabeled_fun
  _arguments.check_callable("unlabeled_fun", other)
  x, labels = _arguments.parts(labeled, "x", "labels", name="labeled")
  x = _checks.check_array("labeled x", x, min_rank=1, non_empty=False)
  labels = _checks.as_array("labels", labels)
  fresh = _checks.check_float_array("unlabeled", unlabeled, min_rank=1, non_empty=False)
  if labels.shape[:1] != x.shape[:1]:
    raise ValueError(
      f"labels must have a row an example of labeled x, {x.shape[0]}; got shape {labels.shape}."
    )
  if fresh.shape[1:] != x.shape[1:]:
    raise ValueError(
      "unlabeled and labeled x must have rows of equal shapes; "
      f"got {fresh.shape[1:]} and {x.shape[1:]}."
    )
  _checks.check_non_negative("weight", weight, scalar=True)
  masks = (
    _checks.check_mask("where", where, shape=x.shape[:1]),
    _checks.check_mask("unlabeled_where", unlabeled_where, shape=fresh.shape[:1]),
  )
  x, fresh = (_without_masked(v, mask) for v, mask in zip((x, fresh), masks, strict=True))
  frozen = jax.lax.stop_gradient(params)
  own, guess = (jax.lax.stop_gradient(predict(frozen, v)) for v in (x, fresh))
  if own.shape != labels.shape:
    raise ValueError(f"predict must return labels of shape {labels.shape}; got {own.shape}.")
  if masks[0] is not None:  # labels that are NaN would be so in the derivative
    labels = jnp.where(_along(masks[0], labels), labels, own.astype(labels.dtype))
  supervised = _mean("fun", fun(params, x, labels), masks[0], x)
  rest = _mean("unlabeled_fun", other(params, fresh, guess), masks[1], fresh)
  right = jnp.all(own == labels, axis=tuple(range(1, labels.ndim))).astype(supervised.dtype)
  agreement = _mean("predict", right, masks[0], x)
  value = supervised + jnp.asarray(weight, rest.dtype) * rest
  return value, RssInfo(*jax.lax.stop_gradient((supervised, rest, agreement)))


def hyperplane_distance(weights: ArrayLike, x: ArrayLike, *, intercept: ArrayLike = 0.0) -> Array:
  r"""Signed distance of points from a hyperplane, (<w, x> + b) / ||w||_2.

  Args:
    weights: float[features], w.
    x: float[..., features].
    intercept: float scalar, b; may be traced.

  Returns:
    float[...]; 0 where w = 0. Times a label -1 or 1 it is what ``robust_zero_one_loss`` takes.

  Raises:
    ValueError: shapes do not agree.
    TypeError: weights or x are not floating-point.

  Example:
    >>> hyperplane_distance(jnp.array([3.0, 4.0]), jnp.array([[1.0, 1.0]]), intercept=3.0)
    Array([2.], dtype=float32)

  Reference:
    Rosenblatt, The perceptron, 1958; the distance is elementary geometry.
  """
  w = _checks.check_float_array("weights", weights, rank=1)
  points = _checks.check_float_array("x", x, min_rank=1, non_empty=False)
  if points.shape[-1] != w.shape[0]:
    raise ValueError(f"x must have {w.shape[0]} features, as the weights; got {points.shape}.")
  shift = _checks.check_float_array("intercept", intercept, rank=0).astype(w.dtype)
  norm = numerics.safe_norm(w)
  unit = numerics.safe_divide(w, norm)  # first, so that no product overflows
  return jnp.matmul(points, unit, precision="highest") + numerics.safe_divide(shift, norm)


def rss_linear_fit(
  x: ArrayLike,
  labels: ArrayLike,
  unlabeled: ArrayLike,
  *,
  gamma: ArrayLike = 0.5,
  unlabeled_gamma: ArrayLike = 0.3,
  weight: ArrayLike = 20.0,
  cost: str = "l2",
  fit_intercept: bool = False,
  learning_rate: ArrayLike = 0.05,
  num_steps: int = 400,
  batch: int | None = None,
  key: ArrayLike | None = None,
) -> RssFit:
  r"""Linear classifier from few labelled and many unlabelled examples (RSS with 0-1 losses).

  Minimises over unit vectors w (and b) the mean of phi(y_i s_i) over the labelled examples plus
  weight times the mean of phi'(|s'_j|) over the unlabelled ones, with s = <w, x> + b and phi, phi'
  the ``robust_zero_one_loss`` of gamma and of unlabeled_gamma. Adam with a cosine schedule starts
  at the difference of the class means (at the mean of y x without an intercept), or at y x of the
  longest labelled example where that is 0; after each step w is scaled to length 1, and b with it.
  The unlabelled term is the same for (w, b) and (-w, -b): of the two the one with the smaller
  labelled loss is returned.

  Args:
    x: float[m, features], labelled examples.
    labels: m numbers -1 or 1, or bools.
    unlabeled: float[n, features].
    gamma: >= 0, of the labelled loss; may be traced. In units of 1 / distance (its square for the
      cost "squared_l2"), as unlabeled_gamma is.
    unlabeled_gamma: >= 0; may be traced. Small where the classes overlap: most of the examples
      must lie on the hat max(0, 1 - gamma |s|).
    weight: >= 0 of the unlabelled term; may be traced.
    cost: "l2" or "squared_l2".
    fit_intercept: static; False keeps b = 0.
    learning_rate: > 0, of Adam at the start; may be traced.
    num_steps: static integer >= 1.
    batch: unlabelled rows of a step, drawn with replacement, static; None takes all of them.
    key: typed PRNG key for the batches; not needed without ``batch``.

  Returns:
    RssFit.

  Raises:
    ValueError: shapes do not agree, a number is out of range, labels other than -1 and 1, or a
      batch without a key.
    TypeError: examples are not floating-point, or an integer is none.

  Note:
    Deterministic without ``batch``. Without an intercept the steps do not depend on the units of x
    once gamma does not: examples times c go with gamma / c. An intercept is in units of x and moves
    by about ``learning_rate`` a step: bring the examples to spreads of about 1 first.

  Example:
    >>> problem = jr.problems.make_shifted_gaussians(
    ...   jax.random.key(0), num_labeled=10, num_unlabeled=500, dimension=50)
    >>> fit = rss_linear_fit(*problem.data, num_steps=100)
    >>> alone = rss_linear_fit(*problem.data, num_steps=100, weight=0.0)
    >>> accuracy = [jr.problems.gaussian_accuracy(f.plane.weights, problem.truth.mean)
    ...             for f in (alone, fit)]
    >>> bool(accuracy[1] > accuracy[0] + 0.02)
    True

  Reference:
    Saberi, Najafi, Heidari, Movasaghinia, Motahari and Khalaj, Out-of-domain unlabeled data
    improves generalization, 2024, the experiment on Gaussian data. No code of it is published:
    gammas, weight and optimizer are ours.
  """
  points = _checks.check_float_array("x", x, rank=2)
  fresh = _checks.check_float_array("unlabeled", unlabeled, rank=2)
  signs = _checks.as_signs("labels", _checks.check_array("labels", labels)).astype(points.dtype)
  if signs.shape != points.shape[:1]:
    raise ValueError(f"labels must have shape {points.shape[:1]}; got {signs.shape}.")
  if fresh.shape[1] != points.shape[1]:
    raise ValueError(f"unlabeled must have {points.shape[1]} features; got {fresh.shape[1]}.")
  _checks.check_positive("learning_rate", learning_rate, scalar=True)
  num_steps = _checks.check_int("num_steps", num_steps, minimum=1)
  if not isinstance(fit_intercept, bool):
    raise TypeError(f"fit_intercept must be True or False; got {fit_intercept!r:.60}.")
  if batch is not None:
    batch = _checks.check_int("batch", batch, minimum=1)
    if key is None:
      raise ValueError("key must be given where batch is: rows are drawn at random; got None.")
    key = _checks.check_key("key", key)
  _checks.check_non_negative("weight", weight, scalar=True)
  _arguments.check_option("cost", cost, COSTS)
  prices = {"gamma": gamma, "unlabeled_gamma": unlabeled_gamma}
  for name, price in prices.items():
    _checks.check_interval(name, price, 0.0, float("inf"), closed="left", scalar=True)
  prices |= {"weight": weight, "learning_rate": learning_rate}
  numbers = {name: jnp.asarray(value, points.dtype) for name, value in prices.items()}
  return _fit(
    (points, signs),
    fresh,
    numbers,
    key,
    cost=cost,
    fit_intercept=fit_intercept,
    num_steps=num_steps,
    batch=batch,
  )


@functools.partial(jax.jit, static_argnames=("cost", "fit_intercept", "num_steps", "batch"))
def _fit(
  labeled: tuple[Array, Array],
  fresh: Array,
  numbers: dict[str, Array],
  key: Array | None,
  *,
  cost: str,
  fit_intercept: bool,
  num_steps: int,
  batch: int | None,
) -> RssFit:
  def side(plane: HyperPlane, v: Array) -> Array:
    return hyperplane_distance(plane.weights, v, intercept=plane.intercept)

  def term(price: Array) -> Callable[[HyperPlane, Array, Array], Array]:
    return lambda plane, v, y: robust_zero_one_loss(y * side(plane, v), gamma=price, cost=cost)

  def objective(plane: HyperPlane, rows: Array) -> tuple[Array, RssInfo]:
    return rss_objective(
      term(numbers["gamma"]),
      plane,
      labeled,
      rows,
      predict=lambda plane, v: jnp.where(side(plane, v) >= 0, 1, -1).astype(v.dtype),
      unlabeled_fun=term(numbers["unlabeled_gamma"]),
      weight=numbers["weight"],
    )

  optimizer = optax.adam(optax.cosine_decay_schedule(numbers["learning_rate"], num_steps))

  def step(carry: tuple[HyperPlane, optax.OptState], i: Array) -> tuple[tuple, RssInfo]:
    plane, state = carry
    rows = fresh
    if batch is not None and key is not None:
      drawn = jax.random.randint(jax.random.fold_in(key, i), (batch,), 0, fresh.shape[0])
      rows = fresh[drawn]
    grads, info = jax.grad(objective, has_aux=True)(plane, rows)
    if not fit_intercept:
      grads = grads._replace(intercept=jnp.zeros_like(grads.intercept))
    updates, state = optimizer.update(grads, state, plane)
    return (_on_the_sphere(optax.apply_updates(plane, updates)), state), info

  start = _start(*labeled, fit_intercept)
  steps = jnp.arange(num_steps)
  (plane, _), history = jax.lax.scan(step, (start, optimizer.init(start)), steps)
  other = jax.tree.map(jnp.negative, plane)
  losses = [jnp.mean(term(numbers["gamma"])(p, *labeled)) for p in (plane, other)]
  plane = numerics.tree_where(losses[1] < losses[0], other, plane)
  is_finite = numerics.tree_all_finite((plane, history))
  status = jnp.where(is_finite, STEP_LIMIT, NON_FINITE).astype(jnp.int32)
  return RssFit(plane, history, status)


def _without_masked(v: Array, mask: Array | None) -> Array:
  """Zeros in rows that are masked out: they may hold NaN."""
  return v if mask is None else jnp.where(_along(mask, v), v, 0)


def _along(mask: Array, v: Array) -> Array:
  """A mask of rows, to be broadcast against an array."""
  return mask.reshape(mask.shape + (1,) * (v.ndim - 1))


def _mean(name: str, values: Array, mask: Array | None, rows: Array) -> Array:
  """Mean over the rows that count; 0 where there are none."""
  if jnp.shape(values) != rows.shape[:1]:
    raise ValueError(
      f"{name} must return one number an example, shape {rows.shape[:1]}; got {jnp.shape(values)}."
    )
  every = jnp.ones(rows.shape[:1], bool) if mask is None else mask
  return numerics.masked_mean(values, every)


def _on_the_sphere(plane: HyperPlane) -> HyperPlane:
  norm = numerics.safe_norm(plane.weights)
  return jax.tree.map(lambda v: numerics.safe_divide(v, norm), plane)


def _start(x: Array, signs: Array, fit_intercept: bool) -> HyperPlane:
  """That of the means, or y x of the longest example: at weights of 0 no derivative leads away."""
  plane = _class_means(x, signs, fit_intercept)
  longest = jnp.argmax(numerics.safe_norm(x, axis=-1))
  other = _on_the_sphere(HyperPlane(signs[longest] * x[longest], jnp.zeros((), x.dtype)))
  middle = jnp.mean(hyperplane_distance(other.weights, x)) if fit_intercept else other.intercept
  return numerics.tree_where(jnp.all(plane.weights == 0), other._replace(intercept=-middle), plane)


def _class_means(x: Array, signs: Array, fit_intercept: bool) -> HyperPlane:
  """The plane half-way between the class means; without an intercept that of the mean of y x."""
  zero = jnp.zeros((), x.dtype)
  if not fit_intercept:
    return _on_the_sphere(HyperPlane(jnp.mean(signs[:, None] * x, axis=0), zero))
  means = [
    jnp.sum(jnp.where(side[:, None], x, 0), axis=0) / jnp.maximum(jnp.sum(side), 1).astype(x.dtype)
    for side in (signs > 0, signs <= 0)
  ]
  weights = means[0] - means[1]
  middle = 0.5 * (means[0] + means[1])
  return _on_the_sphere(HyperPlane(weights, -jnp.sum(weights * middle)))
