"""Progressive training of n:m sparse weights: masks fade in, or patterns tighten in stages."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxopt_robust import _arguments, _checks
from jaxopt_robust.transforms._links import Schedule, chosen
from jaxopt_robust.transforms.masks import nm_mask
from jaxopt_robust.transforms.sparse_flow import SparseFlowState, sparse_flow
from jaxopt_robust.typing import Array, ArrayLike, PyTree

__all__ = [
  "exponential_mask_decay",
  "harden",
  "linear_mask_decay",
  "progressive_nm",
  "sdgf_stages",
]

KINDS = ("stepwise", "geometric", "densify")
Stage = tuple[int, int, int]


def linear_mask_decay(
  rate: ArrayLike, *, start: ArrayLike = 0, end: ArrayLike | None = None
) -> Callable[[ArrayLike], Array]:
  r"""Schedule of what is left of masked weights: 1, then a line down to 0.

    beta(t) = 1 for t < start, max(0, 1 - rate (t - start)) from there, 0 for t >= end

  Args:
    rate: eta, in [0, inf), a step; may be traced. With 4 over the number of steps the decay is over
      after a quarter of the training.
    start: steps of dense training before the decay, >= 0; may be traced.
    end: step from which the mask is hard, >= start; None for where the line reaches 0; may be
      traced.

  Returns:
    Function of the step (an optax schedule), for ``decay`` of ``progressive_nm`` and
    ``sparse_flow``.

  Raises:
    ValueError: a number is out of range or not a scalar.

  Example:
    >>> decay = linear_mask_decay(0.25, start=2, end=5)
    >>> [float(decay(step)) for step in (0, 2, 3, 4, 5, 9)]
    [1.0, 1.0, 0.75, 0.5, 0.0, 0.0]

  Reference:
    Bambhaniya et al., Progressive gradient flow for robust N:M sparsity training in transformers,
    2024 (MdGf-Linear).
  """
  return _mask_decay(lambda done: jnp.maximum(1 - done, 0), rate, start, end)


def exponential_mask_decay(
  rate: ArrayLike, *, start: ArrayLike = 0, end: ArrayLike | None = None
) -> Callable[[ArrayLike], Array]:
  r"""Schedule of what is left of masked weights: 1, then an exponential decay, at last 0.

    beta(t) = 1 for t < start, exp(-rate (t - start)) from there, 0 for t >= end

  Args:
    rate: eta, in [0, inf), a step; may be traced. With 20 over the number of steps less than 1 % is
      left after a quarter of the training.
    start: steps of dense training before the decay, >= 0; may be traced.
    end: step from which the mask is hard (fine tuning), >= start; None for never: then take
      ``harden`` at the end of the training; may be traced.

  Returns:
    Function of the step (an optax schedule), for ``decay`` of ``progressive_nm`` and
    ``sparse_flow``.

  Raises:
    ValueError: a number is out of range or not a scalar.

  Example:
    >>> decay = exponential_mask_decay(0.6931472, start=1, end=4)
    >>> [round(float(decay(step)), 3) for step in range(6)]
    [1.0, 1.0, 0.5, 0.25, 0.0, 0.0]

  Reference:
    Bambhaniya et al., Progressive gradient flow for robust N:M sparsity training in transformers,
    2024 (MdGf-Exponential).
  """
  return _mask_decay(lambda done: jnp.exp(-done), rate, start, end)


def sdgf_stages(
  kind: str,
  n: int,
  m: int,
  *,
  total: int,
  dense: int = 0,
  fine_tune: int = 0,
  num_stages: int = 4,
) -> tuple[Stage, ...]:
  r"""Stages in which an n:m pattern tightens, of equal lengths: structure decay (SdGf).

  With span = total - dense - fine_tune, stage i of F begins at dense + floor(i span / F) and keeps

    stepwise:   m - 1, m/2, m/4, ..., n  of m        F = log2(m/n) + 1
    geometric:  n 2^(F-1-i)  of  m 2^(F-1-i)         F = num_stages; the share n/m stays
    densify:    n  of  m 2^(F-1-i)                   F = num_stages; from sparser to n:m

  Args:
    kind: ``"stepwise"``, ``"geometric"`` or ``"densify"``.
    n: entries kept of each run in the end, 1 <= n <= m.
    m: length of a run in the end; ``"stepwise"`` needs m/n to be a power of 2. ``"geometric"`` and
      ``"densify"`` begin with runs of m 2^(F-1) entries, which must divide the axis.
    total: length of the training; steps for ``progressive_nm``.
    dense: dense training at the beginning, >= 0, in the unit of ``total``.
    fine_tune: training with n:m after the last stage, >= 0, in the same unit.
    num_stages: F of ``"geometric"`` and ``"densify"``, >= 1; of no effect on ``"stepwise"``.

  Returns:
    Tuple of stages (start, n_i, m_i), Python integers, the last of them n:m; dense training before
    the first.

  Raises:
    TypeError: a number is not a static integer.
    ValueError: an unknown kind, a number out of range, or no time left between ``dense`` and
      ``fine_tune``.

  Example:
    >>> sdgf_stages("stepwise", 1, 16, total=350)
    ((0, 15, 16), (70, 8, 16), (140, 4, 16), (210, 2, 16), (280, 1, 16))
    >>> sdgf_stages("geometric", 1, 8, total=350)
    ((0, 8, 64), (87, 4, 32), (175, 2, 16), (262, 1, 8))

  Reference:
    Bambhaniya et al., Progressive gradient flow for robust N:M sparsity training in transformers,
    2024 (SdGf-Stepwise, SdGf-Geometric). ``"densify"`` is not from there, nor its number of stages.
  """
  _arguments.check_option("kind", kind, KINDS)
  n = _checks.check_int("n", n, minimum=1)
  m = _checks.check_int("m", m, minimum=1)
  if n > m:
    raise ValueError(f"n must be at most m; got {n} of {m}.")
  total = _checks.check_int("total", total, minimum=1)
  dense = _checks.check_int("dense", dense, minimum=0)
  fine_tune = _checks.check_int("fine_tune", fine_tune, minimum=0)
  num_stages = _checks.check_int("num_stages", num_stages, minimum=1)
  span = total - dense - fine_tune
  if span < 1:
    raise ValueError(
      f"total must be more than dense + fine_tune = {dense + fine_tune}; got {total}."
    )
  if kind == "stepwise":
    halvings = int(math.log2(m // n))
    if n << halvings != m:
      raise ValueError(f"m must be n times a power of 2 for 'stepwise'; got {n} of {m}.")
    sizes = [m - 1, *(m >> i for i in range(1, halvings + 1))] if halvings else [n]
    patterns = [(size, m) for size in sizes]
  else:
    factors = [2**i for i in reversed(range(num_stages))]
    patterns = [(n * f if kind == "geometric" else n, m * f) for f in factors]
  count = len(patterns)
  return tuple((dense + i * span // count, *pattern) for i, pattern in enumerate(patterns))


def progressive_nm(
  inner: optax.GradientTransformation,
  *,
  n: int,
  m: int,
  axis: int = -2,
  flow: str = "masked",
  decay: Schedule = 0.0,
  stages: Sequence[Stage] | None = None,
  strength: ArrayLike = 2e-4,
  predicate: Callable[[tuple, Array], bool] | None = None,
) -> tuple[optax.GradientTransformationExtraArgs, Callable[[PyTree, SparseFlowState], PyTree]]:
  r"""Optimizer of dense weights w whose n:m sparse part is used; the rest may leave gradually.

  With M_t the mask of the largest magnitudes, computed anew from w in each step t, the weights to
  compute the loss with are

    w_eff = (M_t + beta_t (1 - M_t)) * w

  - ``decay=0``: a hard mask from the start, as straight-through training and SR-STE have it;
  - ``decay=linear_mask_decay(...)`` or ``exponential_mask_decay(...)``: masked weights fade out
    (mask decay, MdGf);
  - ``stages=sdgf_stages(...)``: M_t keeps n_i of m_i from step start_i on (structure decay, SdGf).

  ``flow`` says which part of the gradient g by w_eff reaches the dense weights: with ``"masked"``
  the derivative through the product, (M_t + beta_t (1 - M_t)) * g, so that the gradients of masked
  weights fade as the weights do; with ``"ste"`` all of g. The authors have published both.

  Args:
    inner: optimizer of the dense weights; put weight decay and clipping inside it.
    n: entries kept of each run, 0 <= n <= m, static.
    m: length of a run; divides the length of the axis; static.
    axis: axis along which runs lie, static. The default is that of the inputs in kernels of shape
      [inputs, outputs], [layers, inputs, outputs] and [height, width, inputs, outputs].
    flow: ``"masked"``, ``"ste"``, ``"srste"`` (g + strength (1 - M) * w) or ``"frozen"``
      (masked weights do not move); static.
    decay: beta, a number in [0, 1] (may be traced) or a schedule ``count -> number``.
    stages: triples (start, n_i, m_i) of static integers, as ``sdgf_stages`` returns them or your
      own: starts in steps, not decreasing, the last pattern n:m. Before the first start weights are
      dense. None for n:m throughout.
    strength: >= 0, lambda of ``"srste"``; may be traced.
    predicate: function (path, array) -> bool that says which leaves are masked, with the path of
      ``jax.tree_util``: the matrices of the feed-forward parts, in the paper; embeddings, norms,
      biases and the last layer stay dense. By default all of at least two axes.

  Returns:
    (transformation, effective): a ``GradientTransformationExtraArgs`` with state
    ``SparseFlowState``, whose ``update`` needs the gradients by the effective weights and the
    dense parameters; and ``effective(params, state)``. All follows from the number of updates in
    the state, so training goes on from a checkpoint where it was.

  Raises:
    TypeError: an argument of the wrong kind, or a size that is not a static integer.
    ValueError: an unknown flow, a number out of range, stages that do not fit, ``"srste"`` with a
      decay (it is defined for hard masks), or an m that does not divide an axis.

  Note:
    With ``"masked"`` and beta = 0 masked weights no longer move (except by weight decay), and the
    pattern changes only where kept weights shrink below them: that is fine tuning. Stages are
    branches of one compiled step; where the *state* is batched by ``jax.vmap``, all of them are
    computed. For patterns that differ between
    layers nest two of them, each with its predicate, the inner one as ``inner`` of the outer one;
    the effective weights are then effective_outer(effective_inner(params, state.inner_state),
    state).

  Example:
    >>> weights = jnp.array([[3.0], [1.0], [-2.0], [0.5]])
    >>> tx, effective = progressive_nm(optax.sgd(1.0), n=1, m=2, decay=linear_mask_decay(0.5))
    >>> state = tx.init(weights)
    >>> for _ in range(3):
    ...   print(effective(weights, state)[:, 0])
    ...   updates, state = tx.update(jnp.ones((4, 1)), state, weights)
    [ 3.   1.  -2.   0.5]
    [ 3.    0.5  -2.    0.25]
    [ 3.  0. -2.  0.]
    >>> updates[:, 0]
    Array([-1., -0., -1., -0.], dtype=float32)

  Reference:
    Bambhaniya et al., Progressive gradient flow for robust N:M sparsity training in transformers,
    2024; Kao et al., Training recipe for N:M structured sparsity with decaying pruning mask, 2022.
    Zhou et al., Learning N:M fine-grained structured sparse neural networks from scratch, 2021
    (SR-STE). The authors' vision code passes gradients straight through in all recipes, their JAX
    code multiplies them; runs lie along inputs by default in the former only.
  """
  n = _checks.check_int("n", n, minimum=0)
  m = _checks.check_int("m", m, minimum=1)
  if n > m:
    raise ValueError(f"n must be at most m; got {n} of {m}.")
  axis = _checks.check_int("axis", axis, minimum=-(2**31))
  if not callable(decay):
    _checks.check_interval("decay", decay, 0.0, 1.0, scalar=True)
  if flow == "srste" and (callable(decay) or not _checks.is_concrete(decay) or decay != 0):
    raise ValueError("decay must be 0 with flow='srste', which is defined for hard masks.")
  mask: Callable[..., Array] = functools.partial(nm_mask, n=n, m=m, axis=axis)
  if stages is not None:
    mask = _staged_mask(_check_stages(stages, n, m), axis)
  return sparse_flow(inner, mask, flow=flow, decay=decay, strength=strength, predicate=predicate)


def harden(
  params: PyTree,
  *,
  n: int,
  m: int,
  axis: int = -2,
  predicate: Callable[[tuple, Array], bool] | None = None,
) -> PyTree:
  """Sets all but the n largest magnitudes of each run of m weights to exact zeros.

  Args:
    params: pytree of arrays, those that are masked of dtype float.
    n: entries kept of each run, 0 <= n <= m, static.
    m: length of a run; divides the length of the axis; static.
    axis: axis along which runs lie, static; by default that of the inputs of a kernel.
    predicate: function (path, array) -> bool that says which leaves are masked, as in
      ``progressive_nm``; by default all of at least two axes.

  Returns:
    Like ``params``; a second call changes nothing. Of equal magnitudes the first are kept, NaN
    counts as the largest.

  Raises:
    TypeError: ``params`` is None, a leaf that is masked is not floating-point, ``predicate`` is not
      a function, or a size is not a static integer.
    ValueError: a size or the axis is out of range, or m does not divide the length of the axis.

  Note:
    What ``effective`` of ``progressive_nm`` gives when beta is 0; needed where beta has only come
    close to it.

  Example:
    >>> harden({"kernel": jnp.array([[3.0], [1.0], [-2.0], [0.5]]), "bias": jnp.ones(1)}, n=1, m=2)
    {'bias': Array([1.], dtype=float32), 'kernel': Array([[ 3.],
           [ 0.],
           [-2.],
           [ 0.]], dtype=float32)}

  Reference:
    Projection on n:m sparse arrays, as Zhou et al., Learning N:M fine-grained structured sparse
    neural networks from scratch, 2021, section 3.
  """
  if params is None:
    raise TypeError("params must be an array or a pytree of arrays; got None.")
  if predicate is not None:
    _arguments.check_callable("predicate", predicate)

  def leaf(path: tuple, weights: Any) -> Array:
    name = f"params{jax.tree_util.keystr(path)}"
    array = _checks.as_array(name, weights)
    if not chosen(predicate, path, array):
      return array
    with _arguments.within(name):
      return jnp.where(nm_mask(array, n, m, axis=axis), array, jnp.zeros((), array.dtype))

  return jax.tree_util.tree_map_with_path(leaf, params)


def _mask_decay(
  shape: Callable[[Array], Array], rate: ArrayLike, start: Any, end: Any
) -> Callable[[ArrayLike], Array]:
  _checks.check_interval("rate", rate, 0.0, math.inf, closed="left", scalar=True)
  _checks.check_non_negative("start", start, scalar=True)
  if end is not None:
    _checks.check_non_negative("end", end, scalar=True)
    if _checks.is_concrete((start, end)) and end < start:
      raise ValueError(f"end must be at least start = {start}; got {end}.")

  def schedule(count: ArrayLike) -> Array:
    step = jnp.asarray(count, jnp.result_type(float))
    beta = shape(jnp.asarray(rate * jnp.maximum(step - start, 0)))
    return beta if end is None else jnp.where(step >= end, jnp.zeros((), beta.dtype), beta)

  return schedule


def _check_stages(stages: Any, n: int, m: int) -> tuple[Stage, ...]:
  if not isinstance(stages, tuple | list) or not stages:
    raise TypeError(
      f"stages must be triples (start, n, m), as of sdgf_stages; got {_checks.describe(stages)}."
    )
  checked: list[Stage] = []
  for stage in stages:
    if not isinstance(stage, tuple | list) or len(stage) != 3:
      raise ValueError(f"stages must be triples (start, n, m); got {stage!r:.60}.")
    start, n_i, m_i = (
      _checks.check_int(f"{part} of stages", value, minimum=least)
      for part, value, least in zip(("start", "n", "m"), stage, (0, 0, 1), strict=True)
    )
    if n_i > m_i or (checked and start < checked[-1][0]):
      raise ValueError(
        f"stages must not begin before the last one, and have n at most m; got {stage}."
      )
    checked.append((start, n_i, m_i))
  if checked[-1][1:] != (n, m):
    raise ValueError(f"stages must end with {n}:{m}; got {checked[-1][1]}:{checked[-1][2]}.")
  return tuple(checked)


def _staged_mask(stages: tuple[Stage, ...], axis: int) -> Callable[[Array, Array], Array]:
  starts = tuple(start for start, _, _ in stages)
  dense: Callable[..., Array] = lambda weights: jnp.ones(weights.shape, bool)
  patterns = [functools.partial(nm_mask, n=n, m=m, axis=axis) for _, n, m in stages]
  branches: list[Callable[..., Array]] = [dense, *patterns]

  def mask(weights: Array, count: Array) -> Array:
    stage = jnp.sum(count >= jnp.array(starts, jnp.int32), dtype=jnp.int32)
    return jax.lax.switch(stage, branches, weights)

  return mask
