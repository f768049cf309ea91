"""Optimizers of the AUC margin loss: PESG, and PDSCA for its compositional form."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxopt_robust import _arguments, _checks, numerics
from jaxopt_robust.transforms._links import Schedule, at, check_transformation, given
from jaxopt_robust.transforms.momentum import ema_first, zeros_like
from jaxopt_robust.typing import Array, ArrayLike, PyTree

__all__ = ["PdscaState", "PesgState", "pdsca", "pesg"]

_LARGEST_ALPHA = 999.0  # as in the authors' code

Variables = Callable[[PyTree], tuple[ArrayLike, ArrayLike]]


class _Stage(NamedTuple):
  """What the proximal term of a stage needs.

  Attributes:
    reference: pytree like the parameters, the centre of the proximal term.
    mean: pytree like the parameters, at least float32, mean of the iterates of this stage.
    steps: float32, iterates in ``mean``.
    scale: float32, factor of the learning rate.
  """

  reference: PyTree
  mean: PyTree
  steps: Array
  scale: Array


class PesgState(NamedTuple):
  """State of ``pesg``.

  Attributes:
    alpha: float scalar >= 0, the dual variable; the loss reads it from here.
    direction: state of the link that turns gradients into a direction.
    stage: reference point, mean of iterates, their number, factor of the learning rate.
    count: int32, updates done.
  """

  alpha: Array
  direction: PyTree
  stage: _Stage
  count: Array  # type: ignore[assignment]


class PdscaState(NamedTuple):
  """State of ``pdsca``.

  Attributes:
    alpha: float scalar >= 0, the dual variable; the loss reads it from here.
    weights: pytree like the parameters, average of the points of the cross-entropy steps.
    gradient: pytree like the parameters, average of the gradients of the AUC steps.
    stage: reference point, mean of iterates, their number, factor of the learning rates.
    inner_count: int32, cross-entropy steps done.
    outer_count: int32, AUC steps done.
  """

  alpha: Array
  weights: PyTree
  gradient: PyTree
  stage: _Stage
  inner_count: Array
  outer_count: Array


def pesg(
  learning_rate: ArrayLike | Callable[[Array], ArrayLike] = 0.1,
  *,
  margin: ArrayLike = 1.0,
  epoch_decay: ArrayLike = 2e-3,
  weight_decay: ArrayLike = 1e-5,
  clip: ArrayLike = 1.0,
  momentum: ArrayLike = 0.9,
  stage_decay: ArrayLike = 10.0,
  direction: optax.GradientTransformation | None = None,
  variables: Variables | None = None,
) -> optax.GradientTransformationExtraArgs:
  r"""Proximal epoch stochastic gradient (PESG) for the AUC margin loss.

  With p any parameter, p_ref the reference point of the stage and a, b the estimates of the mean
  scores among the parameters:

    d = clip(grad p, -c, c) + epoch_decay (p - p_ref) + weight_decay p,
    v <- (1 - momentum) v + momentum d (d at the first step),    p <- p - learning_rate v,
    alpha <- clip(alpha + learning_rate (2 (margin + b - a) - 2 alpha), 0, 999).

  At the start of a new stage p_ref becomes the mean of the iterates of the last one, and the
  learning rate is divided by ``stage_decay``.

  Args:
    learning_rate: > 0, a number (may be traced) or a schedule ``count -> number``.
    margin: m > 0, as in the loss; may be traced.
    epoch_decay: >= 0, weight of the proximal term; may be traced.
    weight_decay: >= 0; may be traced.
    clip: > 0, bound of every entry of the gradients; may be traced.
    momentum: in (0, 1], weight of the *new* direction; may be traced.
    stage_decay: >= 1, divides the learning rate at each new stage; may be traced.
    direction: replaces the average of the d by another link, such as ``optax.scale_by_adam()``;
      ``momentum`` is not used then.
    variables: ``params -> (a, b)``, the scalars among the parameters; by default
      ``(params["a"], params["b"])``.

  Returns:
    ``optax.GradientTransformationExtraArgs`` with state ``PesgState``. ``update`` needs ``params``
    and takes the extra argument ``new_stage`` (bool scalar, may be traced, default False): whether
    this step begins a stage.

  Raises:
    ValueError: a known hyper-parameter is out of range, or ``update`` gets no ``params``.
    TypeError: ``direction`` or ``variables`` is of the wrong kind.

  Note:
    alpha is no parameter: take it out of the state for the loss, inside a chain with
    ``optax.tree.get(state, "alpha")``. Its step uses a and b in place of the mean scores of the
    batch, after they were updated. The reference point starts at the initial parameters (the
    authors' code starts it at small noise). ``optax.masked`` passes raw gradients on, as steps
    uphill, on the leaves that it leaves out: give those an optimizer by ``optax.partition``.

  Example:
    >>> tx = pesg(0.1)
    >>> params = {"w": jnp.ones(2), "a": jnp.zeros(()), "b": jnp.zeros(())}
    >>> state = tx.init(params)
    >>> def objective(params, alpha, x, labels):
    ...   variables = jr.losses.AucMarginVariables(params["a"], params["b"], alpha)
    ...   return jr.losses.auc_margin_loss(x @ params["w"], labels, variables).mean()
    >>> x, labels = jnp.array([[1.0, 0.0], [0.0, 1.0]]), jnp.array([1, 0])
    >>> grads = jax.grad(objective)(params, state.alpha, x, labels)
    >>> updates, state = tx.update(grads, state, params, new_stage=False)
    >>> float(state.alpha)
    0.20000000298023224

  Reference:
    Yuan, Yan, Sonka and Yang, Large-scale robust deep AUC maximization: a new surrogate loss and
    empirical studies on medical image classification, 2021, algorithm 1; constants from the
    authors' code.
  """
  _check_common(learning_rate, margin, epoch_decay, weight_decay, clip, stage_decay)
  _checks.check_interval("momentum", momentum, 0.0, 1.0, closed="right")
  if direction is not None:
    check_transformation("direction", direction)
  link = optax.with_extra_args_support(direction or ema_first(momentum))
  read = _variables(variables)

  def init(params: PyTree) -> PesgState:
    count = jnp.zeros((), jnp.int32)
    return PesgState(_first_alpha(read(params)), link.init(params), _first_stage(params), count)

  def update(
    updates: PyTree,
    state: PesgState,
    params: PyTree | None = None,
    *,
    new_stage: ArrayLike = False,
    **extra_args: Any,
  ) -> tuple[PyTree, PesgState]:
    state = _arguments.check_state("state", state, PesgState)
    params = given(params, "pesg")
    stage = _begin(state.stage, new_stage, stage_decay)
    decayed = _decayed(updates, params, stage.reference, clip, epoch_decay, weight_decay)
    directions, link_state = link.update(decayed, state.direction, params, **extra_args)
    rate = _rate(learning_rate, state.count) * stage.scale
    out = jax.tree.map(
      lambda v, g: (-rate.astype(v.dtype) * v).astype(g.dtype), directions, updates
    )
    moved = optax.apply_updates(params, out)
    alpha = _ascend(state.alpha, read(moved), margin, rate)
    count = optax.safe_increment(state.count)
    return out, PesgState(alpha, link_state, _visited(stage, moved), count)

  return optax.GradientTransformationExtraArgs(init, update)


def pdsca(
  learning_rate: ArrayLike | Callable[[Array], ArrayLike] = 0.1,
  *,
  inner_learning_rate: ArrayLike | Callable[[Array], ArrayLike] | None = None,
  margin: ArrayLike = 1.0,
  epoch_decay: ArrayLike = 2e-3,
  weight_decay: ArrayLike = 1e-5,
  clip: ArrayLike = 1.0,
  inner_rate: ArrayLike = 0.99,
  outer_rate: ArrayLike = 0.999,
  stage_decay: ArrayLike = 10.0,
  variables: Variables | None = None,
) -> optax.GradientTransformationExtraArgs:
  r"""Primal-dual stochastic compositional adaptive method (PDSCA, its SGD form).

  Minimises L_AUC(w - eta_0 grad L_CE(w)): steps on the cross entropy and steps on the AUC margin
  loss take turns. With d as in ``pesg``,

    phase 0 (cross entropy): u <- (1 - inner_rate) u + inner_rate (p - eta_0 d),    p <- u,
    phase 1 (AUC): z <- (1 - outer_rate) z + outer_rate d,    p <- p - eta z,  and alpha as in
    ``pesg``.

  The first u and the first z are the new values.

  Args:
    learning_rate: eta > 0, a number (may be traced) or a schedule of the AUC steps done.
    inner_learning_rate: eta_0 > 0, or a schedule of the cross-entropy steps done; by default that
      of the AUC steps.
    margin: m > 0, as in the loss; may be traced.
    epoch_decay: >= 0, weight of the proximal term; may be traced.
    weight_decay: >= 0; may be traced.
    clip: > 0, bound of every entry of the gradients; may be traced.
    inner_rate: in (0, 1], weight of the new point, the paper's beta_1; may be traced.
    outer_rate: in (0, 1], weight of the new gradient, the paper's beta_2; may be traced.
    stage_decay: >= 1, divides both learning rates at each new stage; may be traced.
    variables: ``params -> (a, b)``; by default ``(params["a"], params["b"])``.

  Returns:
    ``optax.GradientTransformationExtraArgs`` with state ``PdscaState``. ``update`` needs ``params``
    and the extra argument ``phase`` (int scalar, may be traced): 0 where the gradients are those of
    the cross entropy, 1 where they are those of the AUC loss. ``new_stage`` is as in ``pesg``.

  Raises:
    ValueError: a known hyper-parameter or phase is out of range, or ``update`` gets no ``params``
      or no ``phase``.
    TypeError: ``variables`` is not a function.

  Note:
    In phase 0 the gradients of a and b are zero, but the decay terms act on them too, as in the
    authors' code.

  Example:
    >>> tx = pdsca(0.1)
    >>> params = {"w": jnp.ones(2), "a": jnp.zeros(()), "b": jnp.zeros(())}
    >>> state = tx.init(params)
    >>> zeros = jax.tree.map(jnp.zeros_like, params)
    >>> updates, state = tx.update(zeros, state, params, phase=0)
    >>> updates, state = tx.update(zeros, state, params, phase=1)
    >>> int(state.inner_count), int(state.outer_count), round(float(state.alpha), 3)
    (1, 1, 0.2)

  Reference:
    Yuan, Guo, Chawla and Yang, Compositional training for end-to-end deep AUC maximization, 2022,
    algorithm 1; constants from the authors' code.
  """
  _check_common(learning_rate, margin, epoch_decay, weight_decay, clip, stage_decay)
  _checks.check_interval("inner_rate", inner_rate, 0.0, 1.0, closed="right")
  _checks.check_interval("outer_rate", outer_rate, 0.0, 1.0, closed="right")
  inner_learning_rate = learning_rate if inner_learning_rate is None else inner_learning_rate
  if not callable(inner_learning_rate):
    _checks.check_positive("inner_learning_rate", inner_learning_rate)
  read = _variables(variables)

  def init(params: PyTree) -> PdscaState:
    return PdscaState(
      _first_alpha(read(params)),
      zeros_like(params),
      zeros_like(params),
      _first_stage(params),
      jnp.zeros((), jnp.int32),
      jnp.zeros((), jnp.int32),
    )

  def update(
    updates: PyTree,
    state: PdscaState,
    params: PyTree | None = None,
    *,
    phase: ArrayLike | None = None,
    new_stage: ArrayLike = False,
    **extra_args: Any,
  ) -> tuple[PyTree, PdscaState]:
    state = _arguments.check_state("state", state, PdscaState)
    del extra_args
    params = given(params, "pdsca")
    if phase is None:
      raise ValueError("pdsca needs the phase: call tx.update(grads, state, params, phase=0 or 1).")
    _checks.check_interval("phase", phase, 0, 1)
    is_outer = jnp.asarray(phase) == 1
    stage = _begin(state.stage, new_stage, stage_decay)
    decayed = _decayed(updates, params, stage.reference, clip, epoch_decay, weight_decay)
    inner_step = _rate(inner_learning_rate, state.inner_count) * stage.scale
    step = _rate(learning_rate, state.outer_count) * stage.scale
    fresh = lambda rate, count: jnp.where(count == 0, 1, jnp.asarray(rate))
    inner_weight = fresh(inner_rate, state.inner_count)
    outer_weight = fresh(outer_rate, state.outer_count)
    mix = lambda old, new, w: old + w.astype(old.dtype) * (new - old)
    weights = jax.tree.map(
      lambda u, p, d: mix(u, p - inner_step.astype(p.dtype) * d, inner_weight).astype(u.dtype),
      state.weights, params, decayed,
    )  # fmt: skip
    gradient = jax.tree.map(lambda z, d: mix(z, d, outer_weight), state.gradient, decayed)

    def one(p: Array, u: Array, z: Array, g: Array) -> Array:
      return jnp.where(is_outer, -step.astype(z.dtype) * z, u - p).astype(g.dtype)

    out = jax.tree.map(one, params, weights, gradient, updates)
    moved = optax.apply_updates(params, out)
    choose = lambda a, b: jax.tree.map(lambda x, y: jnp.where(is_outer, x, y), a, b)
    alpha = jnp.where(is_outer, _ascend(state.alpha, read(moved), margin, step), state.alpha)
    return out, PdscaState(
      alpha,
      choose(state.weights, weights),
      choose(gradient, state.gradient),
      _visited(stage, moved),
      jnp.where(is_outer, state.inner_count, optax.safe_increment(state.inner_count)),
      jnp.where(is_outer, optax.safe_increment(state.outer_count), state.outer_count),
    )

  return optax.GradientTransformationExtraArgs(init, update)


def _check_common(
  learning_rate: Any, margin: Any, epoch_decay: Any, weight_decay: Any, clip: Any, stage_decay: Any
) -> None:
  if not callable(learning_rate):
    _checks.check_positive("learning_rate", learning_rate)
  _checks.check_positive("margin", margin)
  _checks.check_non_negative("epoch_decay", epoch_decay)
  _checks.check_non_negative("weight_decay", weight_decay)
  _checks.check_positive("clip", clip)
  _checks.check_interval("stage_decay", stage_decay, 1.0, float("inf"), closed="left")


def _variables(variables: Variables | None) -> Variables:
  if variables is None:

    def read(params: PyTree) -> tuple[ArrayLike, ArrayLike]:
      try:
        return params["a"], params["b"]
      except (KeyError, IndexError, TypeError):
        kind = sorted(params) if isinstance(params, dict) else type(params).__name__
        raise ValueError(
          "params must hold the scalars a and b of the loss, for example {'model': ..., "
          "'a': jnp.zeros(()), 'b': jnp.zeros(())}, or pass variables=lambda params: (a, b); "
          f"got {kind}. The dual variable alpha is in the state, not among the parameters."
        ) from None

    return read
  _arguments.check_callable("variables", variables)
  return variables


def _first_alpha(variables: tuple[ArrayLike, ArrayLike]) -> Array:
  return jnp.zeros((), jnp.result_type(variables[0]))


def _first_stage(params: PyTree) -> _Stage:
  # A copy, so that parameters and state can both be donated; zeros where only shapes are known.
  is_shape = lambda p: isinstance(p, jax.ShapeDtypeStruct)
  start = jax.tree.map(
    lambda p: jnp.zeros(p.shape, p.dtype) if is_shape(p) else jnp.array(p, p.dtype), params
  )
  mean = jax.tree.map(lambda p: jnp.zeros(p.shape, numerics.upcast(p).dtype), start)
  return _Stage(start, mean, jnp.zeros((), jnp.float32), jnp.ones((), jnp.float32))


def _begin(stage: _Stage, new_stage: ArrayLike, stage_decay: ArrayLike) -> _Stage:
  """The next stage where it begins: reference at the mean iterate, a smaller step."""
  begins = jnp.asarray(new_stage) & (stage.steps > 0)
  return _Stage(
    jax.tree.map(lambda r, m: jnp.where(begins, m.astype(r.dtype), r), stage.reference, stage.mean),
    stage.mean,
    jnp.where(begins, 0, stage.steps),
    jnp.where(begins, stage.scale / jnp.asarray(stage_decay, jnp.float32), stage.scale),
  )


def _visited(stage: _Stage, params: PyTree) -> _Stage:
  steps = stage.steps + 1
  mean = lambda m, p: jnp.where(steps == 1, p.astype(m.dtype), m + (p - m) / steps.astype(m.dtype))
  return stage._replace(mean=jax.tree.map(mean, stage.mean, params), steps=steps)


def _decayed(
  grads: PyTree, params: PyTree, reference: PyTree, clip: Any, epoch_decay: Any, weight_decay: Any
) -> PyTree:
  def one(g: Array, p: Array, r: Array) -> Array:
    bound, near, small = (jnp.asarray(v, p.dtype) for v in (clip, epoch_decay, weight_decay))
    g = jnp.clip(g.astype(p.dtype), min=-bound, max=bound)
    return g + near * (p - r) + small * p

  return jax.tree.map(one, grads, params, reference)


def _ascend(
  alpha: Array, variables: tuple[ArrayLike, ArrayLike], margin: ArrayLike, rate: Array
) -> Array:
  a, b = (jnp.asarray(v, alpha.dtype) for v in variables)
  slope = 2 * (jnp.asarray(margin, alpha.dtype) + b - a) - 2 * alpha
  return jnp.clip(alpha + rate.astype(alpha.dtype) * slope, min=0, max=_LARGEST_ALPHA)


def _rate(rate: Schedule, count: Array) -> Array:
  return jnp.asarray(at(rate, count), jnp.float32)
