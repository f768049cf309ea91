"""Global contrastive losses on small batches: SogCLR, and iSogCLR with a temperature an example."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxopt_robust import _arguments, _checks, numerics
from jaxopt_robust.compositional import _examples
from jaxopt_robust.losses import _anchors, _embeddings
from jaxopt_robust.typing import Array, ArrayLike

__all__ = ["RgclInfo", "RgclState", "rgcl_bimodal_loss", "rgcl_init", "rgcl_loss"]

_MODES = ("isogclr", "sogclr", "simclr")


class RgclState(NamedTuple):
  """What is kept of every example.

  Attributes:
    log_average: float[num_examples], logarithm of the moving average u_i of
      mean_j exp((s_ij - s_i+) / tau_i); -inf before the first visit.
    temperature: float[num_examples], tau_i.
    momentum: float[num_examples], moving average of the objective's derivative in tau_i.
  """

  log_average: Array
  temperature: Array
  momentum: Array


class RgclInfo(NamedTuple):
  """Diagnostics of one visit, means over the batch's anchors.

  Attributes:
    objective: estimate of the objective, tau_i log u_i + tau_i rho (without rho for "sogclr", the
      InfoNCE loss times tau_i for "simclr").
    divergence: KL(p_i, 1/m), p_i the weights of the m negatives in the batch.
    temperature: tau_i before the update.
    temperature_gradient: derivative of the objective in tau_i, before clipping; 0 unless the
      temperatures are trained.
  """

  objective: Array
  divergence: Array
  temperature: Array
  temperature_gradient: Array


class _Options(NamedTuple):
  """Hyper-parameters, checked, in the dtype of the computation."""

  mode: str
  radius: Array
  rate: Array
  momentum: Array
  temperature_rate: Array
  low: Array
  high: Array
  clip: Array


class _Batch(NamedTuple):
  """The batch and this device's part of it (the whole of it without an axis).

  Attributes:
    row: int[batch], positions in the state; out of range in rows to be left alone.
    number: int[batch], the index as given.
    is_kept: bool[batch], rows that are not masked out.
    part: takes this device's rows of an array whose last axis is the batch.
    whole: joins the devices' rows along the last axis.
    total: sums a scalar over the devices.
  """

  row: Array
  number: Array
  is_kept: Array
  part: Any
  whole: Any
  total: Any


def rgcl_init(
  num_examples: int, *, temperature: ArrayLike = 0.1, dtype: Any = jnp.float32
) -> RgclState:
  r"""State of a global contrastive loss before training.

  Sets tau_i = temperature, the momentum to 0, and marks every example as not seen.

  Args:
    num_examples: static integer >= 1, size of the training set.
    temperature: > 0, the first temperature, a scalar or float[num_examples]; may be traced.
    dtype: floating-point dtype of the state, at least float32.

  Returns:
    RgclState with arrays of length num_examples.

  Raises:
    ValueError: num_examples < 1, temperature <= 0 or of another shape.
    TypeError: num_examples is not an integer or dtype is not float32 or float64.

  Example:
    >>> rgcl_init(2, temperature=0.1).temperature
    Array([0.1, 0.1], dtype=float32)

  Reference:
    Qiu, Hu, Yuan, Zhou, Zhang and Yang, Not all semantics are created equal: contrastive
    self-supervised learning with automatic temperature individualization, 2023.
  """
  size = _checks.check_int("num_examples", num_examples, minimum=1)
  _checks.check_positive("temperature", temperature)
  kind = _checks.check_float_dtype(dtype, wide=True)
  start = _checks.check_array("temperature", temperature, rank=(0, 1))
  if start.ndim and start.shape != (size,):
    raise ValueError(f"temperature must be a scalar or have shape {(size,)}; got {start.shape}.")
  return RgclState(
    jnp.full((size,), -jnp.inf, kind),
    jnp.broadcast_to(start, (size,)).astype(kind),
    jnp.zeros((size,), kind),
  )


def rgcl_loss(
  z1: ArrayLike,
  z2: ArrayLike,
  index: ArrayLike,
  state: RgclState,
  *,
  radius: ArrayLike = 0.4,
  rate: ArrayLike = 0.8,
  momentum: ArrayLike = 0.5,
  temperature_rate: ArrayLike = 0.03,
  temperature_bounds: tuple[ArrayLike, ArrayLike] = (0.05, 1.0),
  gradient_clip: ArrayLike = 3.0,
  mode: str = "isogclr",
  normalize: bool = True,
  where: ArrayLike | None = None,
  axis_name: str | None = None,
) -> tuple[Array, tuple[RgclState, RgclInfo]]:
  r"""One visit of the robust global contrastive loss: two views of a batch of examples.

  The objective is (1/n) sum_i tau_i log E_j exp((s_ij - s_i+) / tau_i) + tau_i rho over all anchors
  i and, for each, all views j of all other examples, minimised in the embeddings and in
  tau_i in [tau_min, tau_max]. With H_ij = s_ij - s_i+ and m negatives in the batch a visit sets

  - g_i = mean_j exp(H_ij / tau_i), u_i = (1 - rate) u_i + rate g_i (u_i = g_i at the first visit);
  - W_ij = exp(H_ij / tau_i) / (m u_i), surrogate = mean_i sum_j W_ij H_ij with W held fixed;
  - G_i = log u_i + rho - sum_j W_ij H_ij / tau_i, averaged over the two views and clipped;
    v_i = (1 - momentum) v_i + momentum G_i; tau_i = clip(tau_i - temperature_rate v_i).

  The two views share one stored u_i, the mean of their two.

  Args:
    z1: float[batch, features] embeddings of the first views.
    z2: float[batch, features] embeddings of the second views.
    index: int[batch] position of each example in the state. Views of the same example are never
      negatives of each other; an example that occurs twice is averaged.
    state: RgclState from ``rgcl_init`` or the previous visit.
    radius: >= 0, the paper's rho, a scalar; may be traced, as may all numbers that follow.
    rate: in (0, 1], the paper's gamma; 1 forgets the past.
    momentum: in [0, 1], weight of the new derivative, the paper's beta.
    temperature_rate: >= 0, step size of the temperatures, the paper's eta; 0 holds them.
    temperature_bounds: pair (tau_min, tau_max), 0 < tau_min <= tau_max, scalars.
    gradient_clip: > 0, bound on |G_i|; infinity for none.
    mode: "isogclr" as above; "sogclr", the same with the temperatures of the state and no rho;
      "simclr", tau_i times the InfoNCE loss on the batch, without memory: the state is returned
      as it came.
    normalize: whether rows are divided by their Euclidean norm, so that s are cosines.
    where: bool[batch]; rows where it is false are neither anchors nor negatives and keep their
      state.
    axis_name: name of the mapped axis over which the batch is split, inside ``jax.shard_map``; None
      when it is not. See the note.

  Returns:
    (surrogate, (new state, RgclInfo)). The surrogate's gradient is that of the objective; its value
    means nothing. Both are 0 without negatives. Under ``jit`` an index out of range makes the
    surrogate NaN.

  Raises:
    ValueError: shapes do not agree, a known index is out of range, or a number is outside its
      range.
    TypeError: embeddings are not floating-point, index not integers or where not boolean.

  Note:
    Use with ``jax.value_and_grad(..., has_aux=True)``; no gradient flows through state and info. A
    NaN embedding makes the surrogate NaN and leaves the state as it was. Indices must mean the same
    examples in every epoch.

    With ``axis_name`` every device passes its rows and the whole state; embeddings are gathered,
    the state and the info that come back are the same on all devices, and so is the surrogate's
    value. The gradient on each device is that in its own embeddings: sum the gradients of common
    parameters over the axis (``jax.lax.psum``). For ``jax.shard_map(..., check_vma=False)``.

  Example:
    >>> z1, z2 = jnp.eye(3, 4), jnp.eye(3, 4) + 0.1
    >>> state, index = rgcl_init(10, temperature=0.5), jnp.array([7, 0, 3])
    >>> loss = lambda z1: rgcl_loss(z1, z2, index, state)
    >>> (_, (state, info)), grad = jax.value_and_grad(loss, has_aux=True)(z1)
    >>> grad.shape, round(float(info.objective), 3)
    ((3, 4), -0.692)

  Reference:
    Qiu, Hu, Yuan, Zhou, Zhang and Yang, Not all semantics are created equal: contrastive
    self-supervised learning with automatic temperature individualization, 2023; Yuan, Wu, Qiu, Du,
    Zhang, Zhou and Yang, Provable stochastic optimization for global contrastive learning, 2022
    ("sogclr"). Clipping and constants from the authors' code, which leaves the positive's score
    out of the exponential for two views; we subtract it, as the paper and that code's bimodal half.
  """
  state = _arguments.check_state("state", state, RgclState)
  first = _checks.check_float_array("z1", z1, rank=2)
  second = _checks.check_float_array("z2", z2, rank=2)
  _checks.check_same_shape("z1", first, "z2", second)
  options, dtype = _check(
    state, first, radius, rate, momentum, temperature_rate, temperature_bounds, gradient_clip, mode
  )
  batch = _gather_batch(index, where, first.shape[0], state, axis_name)
  views = tuple(_rows(z, batch, normalize, dtype) for z in (first, second))
  everything = jnp.concatenate([_whole_rows(z, axis_name) for z in views])
  anchors = jnp.concatenate(views)
  positive = jnp.sum(views[0] * views[1], axis=1)
  is_negative = jnp.tile(_is_negative(batch), (2, 2))
  gap = _embeddings.matmul(anchors, everything.T) - jnp.tile(positive, 2)[:, None]
  return _visit(gap, is_negative, batch, state, options)


def rgcl_bimodal_loss(
  images: ArrayLike,
  texts: ArrayLike,
  index: ArrayLike,
  state: tuple[RgclState, RgclState],
  *,
  radius: ArrayLike = 6.0,
  rate: ArrayLike = 0.8,
  momentum: ArrayLike = 0.9,
  temperature_rate: ArrayLike = 0.03,
  temperature_bounds: tuple[ArrayLike, ArrayLike] = (0.005, 1.0),
  gradient_clip: ArrayLike = 5.0,
  mode: str = "isogclr",
  normalize: bool = True,
  where: ArrayLike | None = None,
  axis_name: str | None = None,
) -> tuple[Array, tuple[tuple[RgclState, RgclState], RgclInfo]]:
  r"""One visit of the robust global contrastive loss of pairs, such as images and their texts.

  The sum of two losses as in ``rgcl_loss``: images as anchors against the texts of the other pairs,
  and texts as anchors against their images, with s_ij = <image_i, text_j> and s_i+ = s_ii; each is
  a mean over the batch, and each side has moving averages and temperatures of its own.

  Args:
    images: float[batch, features] embeddings of one side.
    texts: float[batch, features] embeddings of the other side, in the same order.
    index: int[batch] position of each pair in the states. Pairs of equal index are never negatives
      of each other; one that occurs twice is averaged.
    state: pair of RgclState from ``rgcl_init``, of the images and of the texts (the paper starts
      at temperature 0.01).
    radius: >= 0, the paper's rho, 6 to 8 there, a scalar; may be traced, as may all numbers that
      follow.
    rate: in (0, 1], the paper's gamma; 1 forgets the past.
    momentum: in [0, 1], weight of the new derivative, the paper's beta.
    temperature_rate: >= 0, step size of the temperatures, the paper's eta; 0 holds them.
    temperature_bounds: pair (tau_min, tau_max), 0 < tau_min <= tau_max, scalars.
    gradient_clip: > 0, bound on the derivatives in the temperatures; infinity for none.
    mode: "isogclr", "sogclr" or "simclr" (which is then CLIP's loss, times tau_i), as in
      ``rgcl_loss``.
    normalize: whether rows are divided by their Euclidean norm.
    where: bool[batch]; rows where it is false are neither anchors nor negatives and keep their
      state.
    axis_name: name of the mapped axis over which the batch is split, as in ``rgcl_loss``.

  Returns:
    (surrogate, (new pair of states, RgclInfo)). The objective in the info is the sum of both
    sides', the other fields are their mean.

  Raises:
    ValueError: shapes do not agree, a known index is out of range, or a number is outside its
      range.
    TypeError: embeddings are not floating-point, index not integers, where not boolean or state not
      a pair.

  Note:
    Use with ``jax.value_and_grad(..., has_aux=True)``; everything said of ``rgcl_loss`` holds. In a
    batch KL(p_i, 1/m) <= log m, so that rho must be below log(batch - 1) for a temperature to find
    a balance: 6 needs batches of more than 400 pairs.

  Example:
    >>> images, texts, index = jnp.eye(3, 4), jnp.eye(3, 4) + 0.1, jnp.arange(3)
    >>> states = (rgcl_init(3, temperature=0.5), rgcl_init(3, temperature=0.5))
    >>> _, (states, info) = rgcl_bimodal_loss(images, texts, index, states)
    >>> states[0].temperature.round(3)
    Array([0.365, 0.365, 0.365], dtype=float32)

  Reference:
    Qiu, Hu, Yuan, Zhou, Zhang and Yang, Not all semantics are created equal: contrastive
    self-supervised learning with automatic temperature individualization, 2023; constants from the
    authors' code.
  """
  first = _checks.check_float_array("images", images, rank=2)
  second = _checks.check_float_array("texts", texts, rank=2)
  _checks.check_same_shape("images", first, "texts", second)
  if not isinstance(state, tuple) or len(state) != 2 or isinstance(state, RgclState):
    raise TypeError(f"state must be a pair of RgclState; got {type(state).__name__}.")
  _checks.check_same_shape(
    "state[0].log_average", state[0].log_average, "state[1].log_average", state[1].log_average
  )
  state = tuple(_arguments.check_state("state", side, RgclState) for side in state)
  batch = _gather_batch(index, where, first.shape[0], state[0], axis_name)
  numbers = (
    radius, rate, momentum, temperature_rate, temperature_bounds, gradient_clip, mode,
  )  # fmt: skip
  sides = []
  for own, other, side in ((first, second, state[0]), (second, first, state[1])):
    options, dtype = _check(side, own, *numbers)
    rows, columns = (_rows(z, batch, normalize, dtype) for z in (own, other))
    positive = jnp.sum(rows * columns, axis=1)
    gap = _embeddings.matmul(rows, _whole_rows(columns, axis_name).T) - positive[:, None]
    sides.append(_visit(gap, _is_negative(batch), batch, side, options))
  (value_1, (state_1, info_1)), (value_2, (state_2, info_2)) = sides
  info = jax.tree.map(lambda a, b: (a + b) / 2, info_1, info_2)
  info = info._replace(objective=info_1.objective + info_2.objective)
  return value_1 + value_2, ((state_1, state_2), info)


def _check(
  state: RgclState,
  z: Array,
  radius: ArrayLike,
  rate: ArrayLike,
  momentum: ArrayLike,
  temperature_rate: ArrayLike,
  temperature_bounds: tuple[ArrayLike, ArrayLike],
  gradient_clip: ArrayLike,
  mode: str,
) -> tuple[_Options, jnp.dtype]:
  """The hyper-parameters, and the dtype to compute in."""
  _arguments.check_option("mode", mode, _MODES)
  _checks.check_non_negative("radius", radius)
  _checks.check_interval("rate", rate, 0.0, 1.0, closed="right")
  _checks.check_interval("momentum", momentum, 0.0, 1.0)
  _checks.check_non_negative("temperature_rate", temperature_rate)
  low, high = _anchors.check_bounds(temperature_bounds)
  _checks.check_positive("gradient_clip", gradient_clip)
  stored = _checks.check_float_array("state.log_average", state.log_average, rank=1)
  _checks.check_same_shape("state.log_average", stored, "state.temperature", state.temperature)
  _checks.check_same_shape("state.log_average", stored, "state.momentum", state.momentum)
  dtype = jnp.promote_types(numerics.upcast(z).dtype, stored.dtype)
  names = ("radius", "rate", "momentum", "temperature_rate", "tau_min", "tau_max", "gradient_clip")
  values = (radius, rate, momentum, temperature_rate, low, high, gradient_clip)
  scalars = [
    _checks.check_array(name, value, rank=0).astype(dtype)
    for name, value in zip(names, values, strict=True)
  ]
  return _Options(mode, *scalars), dtype


def _gather_batch(
  index: ArrayLike,
  where: ArrayLike | None,
  size: int,
  state: RgclState,
  axis_name: str | None,
) -> _Batch:
  mask = _checks.check_mask("where", where, shape=(size,))
  num_examples = jnp.shape(state.log_average)[0]
  row = _checks.check_index("index", index, shape=(size,), num_examples=num_examples, where=mask)
  kept = jnp.ones((size,), jnp.bool_) if mask is None else mask
  if axis_name is None:
    same = lambda x: x
    return _Batch(row, jnp.asarray(index), kept, same, same, same)
  whole = lambda x: jax.lax.all_gather(x, axis_name, axis=x.ndim - 1, tiled=True)
  start = jax.lax.axis_index(axis_name) * size
  part = lambda x: jax.lax.dynamic_slice_in_dim(x, start, size, axis=x.ndim - 1)
  total = lambda x: jax.lax.psum(x, axis_name)
  return _Batch(whole(row), whole(jnp.asarray(index)), whole(kept), part, whole, total)


def _whole_rows(z: Array, axis_name: str | None) -> Array:
  return z if axis_name is None else jax.lax.all_gather(z, axis_name, tiled=True)


def _rows(z: Array, batch: _Batch, normalize: bool, dtype: jnp.dtype) -> Array:
  """Embeddings of this device; rows that are masked out are 0."""
  wide = jnp.where(batch.part(batch.is_kept)[:, None], z.astype(dtype), 0)
  return _embeddings.unit_rows(wide) if normalize else wide


def _is_negative(batch: _Batch) -> Array:
  """bool[own rows, batch], kept rows of other examples."""
  own, kept = batch.part(batch.number), batch.part(batch.is_kept)
  is_other = own[:, None] != batch.number[None, :]
  return is_other & kept[:, None] & batch.is_kept[None, :]


def _visit(
  gap: Array, is_negative: Array, batch: _Batch, state: RgclState, options: _Options
) -> tuple[Array, tuple[RgclState, RgclInfo]]:
  """Surrogate, new state and info from H of this device's anchors.

  The anchors are one or more views of its rows, a view after the other; arrays of numbers an anchor
  have the shape [views, rows].
  """
  dtype, num_rows = gap.dtype, batch.part(batch.row).shape[0]
  by_view = lambda x: x.reshape(-1, num_rows)
  fixed = jax.lax.stop_gradient(jnp.where(is_negative, gap, 0))
  old_tau = jnp.where(batch.is_kept, _examples.read(state.temperature, batch.row), 1).astype(dtype)
  own_tau = batch.part(old_tau)
  log_mean, weights, divergence = _batch_weights(
    fixed, is_negative, jnp.tile(own_tau, gap.shape[0] // num_rows)
  )
  log_mean, divergence = by_view(log_mean), by_view(divergence)
  own_tau = jnp.broadcast_to(own_tau, log_mean.shape)
  has_negative = by_view(jnp.any(is_negative, axis=1))
  count = jnp.maximum(batch.total(jnp.sum(has_negative)), 1).astype(dtype)
  average = lambda x: batch.total(jnp.sum(jnp.where(has_negative, x, 0))) / count
  gradient = jnp.zeros((), dtype)
  if options.mode == "simclr":
    num_negatives = by_view(jnp.sum(is_negative, axis=1)).astype(dtype)
    logit = log_mean + jnp.log(jnp.maximum(num_negatives, 1))
    factor, objective = jax.nn.sigmoid(logit), own_tau * jax.nn.softplus(logit)
  else:
    log_u, new_state = _update_average(log_mean, has_negative, batch, state, options)
    factor = jnp.exp(log_mean - log_u)
    objective = own_tau * log_u
    if options.mode == "isogclr":
      objective = objective + own_tau * options.radius
      # sum_j W_j H_j / tau = factor (log g + KL), since log(m p_j) = H_j / tau - log g
      slope = log_u + options.radius - factor * (log_mean + divergence)
      new_state = _update_temperature(slope, has_negative, old_tau, batch, new_state, options)
      gradient = average(slope)
    state = new_state
  weights = weights * jnp.where(has_negative, factor, 0).reshape(-1)[:, None]
  own = jnp.sum(jnp.where(is_negative, weights * gap, 0)) / count
  # The value of the whole batch, the derivative of this device's share of it.
  value = own + jax.lax.stop_gradient(batch.total(own) - own)
  info = RgclInfo(average(objective), average(divergence), average(own_tau), gradient)
  return value, jax.lax.stop_gradient((state, info))


def _batch_weights(gap: Array, where: Array, tau: Array) -> tuple[Array, Array, Array]:
  """log mean_j exp(H_j / tau), p_j and KL(p, 1/m) of each row over its m true entries."""
  count = jnp.maximum(jnp.sum(where, axis=1), 1).astype(gap.dtype)
  largest = jnp.max(jnp.where(where, gap, -jnp.inf), axis=1)
  largest = jnp.where(jnp.any(where, axis=1), largest, 0)
  shifted = jnp.where(where, (gap - largest[:, None]) / tau[:, None], 0)
  power = jnp.where(where, jnp.exp(shifted), 0)
  total = jnp.sum(power, axis=1)
  total = jnp.where(total == 0, 1, total)  # no negatives
  weights = power / total[:, None]
  log_total = jnp.log(total) - jnp.log(count)
  # Rounding may leave a divergence of an ulp below zero.
  divergence = jnp.maximum(jnp.sum(weights * shifted, axis=1) - log_total, 0)
  return largest / tau + log_total, weights, divergence


def _update_average(
  log_mean: Array, has_negative: Array, batch: _Batch, state: RgclState, options: _Options
) -> tuple[Array, RgclState]:
  """log u_i of this device's anchors, and the state with the views' mean of u_i stored."""
  every = batch.whole(jnp.where(has_negative, log_mean, jnp.nan))  # NaN is not written
  log_views = jax.nn.logsumexp(every, axis=0) - jnp.log(float(every.shape[0]))
  stored, _ = _examples.log_average(state.log_average, batch.row, log_views, options.rate)
  merged = jax.vmap(lambda view: _examples.merge_log(batch.row, view))(every)
  old = _examples.read(state.log_average, batch.row).astype(every.dtype)
  new = numerics.log_average(jnp.broadcast_to(old, every.shape), merged, options.rate)
  log_u = jnp.where(has_negative, batch.part(new), 0)
  return log_u, state._replace(log_average=stored)


def _update_temperature(
  slope: Array,
  has_negative: Array,
  old_tau: Array,
  batch: _Batch,
  state: RgclState,
  options: _Options,
) -> RgclState:
  """The state after a projected momentum step of the temperatures."""
  every = jnp.mean(batch.whole(jnp.where(has_negative, slope, jnp.nan)), axis=0)
  slope = jnp.clip(_examples.merge(batch.row, every), min=-options.clip, max=options.clip)
  old = _examples.read(state.momentum, batch.row).astype(slope.dtype)
  new = old + options.momentum * (slope - old)
  tau = jnp.clip(old_tau - options.temperature_rate * new, min=options.low, max=options.high)
  return state._replace(
    temperature=_examples.write(state.temperature, batch.row, tau),
    momentum=_examples.write(state.momentum, batch.row, new),
  )
