"""How much of what is dropped where, and what that saves."""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxopt_robust import _arguments, _checks
from jaxopt_robust.layers.sparsify.thresholds import check_share
from jaxopt_robust.numerics import safe_norm, upcast
from jaxopt_robust.typing import Array, ArrayLike, PyTree

__all__ = ["ActivatedCost", "SparsityAllocation", "activated_cost", "greedy_allocate"]


_MOST_ROUNDS = 4096  # whatever the step: each moves this share of the parameters at least


class SparsityAllocation(NamedTuple):
  """Sparsities of the projections of a layer.

  Attributes:
    sparsity: dict of float[] by name.
    error: float[], what the layer's output loses with them on the calibration data.
    uniform_error: float[], the same where every projection has the target.

  Example:
    >>> SparsityAllocation._fields
    ('sparsity', 'error', 'uniform_error')

  Reference:
    Liu, Ponnusamy, Cai, Guo, Kim and Athiwaratkun, Training-free activation sparsity in large
    language models, 2024.
  """

  sparsity: dict[str, Array]
  error: Array
  uniform_error: Array


def greedy_allocate(
  layer_fn: Callable[[dict[str, Array], Any], Array],
  inputs: PyTree,
  *,
  weights: Mapping[str, ArrayLike],
  target: ArrayLike,
  step: ArrayLike = 0.025,
  tail: float = 0.25,
) -> SparsityAllocation:
  r"""Shares a budget of sparsity among the projections of a layer, a step at a time.

  From 0 on, each round raises one sparsity s_p by step / weight_p, the one for which the error of
  the layer's output is least, until sum_p weight_p s_p = target sum_p weight_p; the last step is
  cut to end there. With y the output and y_0 the dense one, the error is the mean over leading axes
  and features of ||y - y_0||_2 over the last ``tail`` of the tokens.

  Args:
    layer_fn: ``layer_fn(sparsity, inputs) -> float[..., tokens, features]`` with sparsity a dict of
      scalars by name, traced: ``wina_mask(x, norms, sparsity=...)``. 0 must be dense.
    inputs: of the layer, any pytree.
    weights: name -> number of parameters of a projection, in any unit; step is in this unit, so the
      paper's number asks for those relative to a projection of the width of the network.
    target: in [0, 1], mean sparsity; may be traced.
    step: > 0, at least a 4096th of all weights is taken; may be traced.
    tail: in (0, 1], the share of the tokens that counts; static.

  Returns:
    ``SparsityAllocation``. Where greedy choices are worse than the same sparsity for all, which
    can happen, that is returned.

  Raises:
    TypeError: ``layer_fn`` is no function of (sparsity, inputs), or ``weights`` no mapping.
    ValueError: a number is out of range, or the output has no axis of tokens.

  Note:
    One loop that calls the layer once a projection and round. The error is NaN where an output is.

  Example:
    >>> def layer(sparsity, x):
    ...   return jnp.stack([x * (1 - sparsity["a"]), 0.1 * x * (1 - sparsity["b"])], axis=-1)
    >>> found = greedy_allocate(layer, jnp.ones(4), weights={"a": 1.0, "b": 1.0}, target=0.5)
    >>> {name: round(float(s), 2) for name, s in found.sparsity.items()}
    {'a': 0.0, 'b': 1.0}

  Reference:
    Liu, Ponnusamy, Cai, Guo, Kim and Athiwaratkun, Training-free activation sparsity in large
    language models, 2024 (block-wise greedy optimisation), as used by WINA. The exact budget and
    the comparison with equal sparsities are ours.
  """
  _arguments.check_function_of("layer_fn", layer_fn, "sparsity", "inputs")
  if not isinstance(weights, Mapping):
    raise TypeError(f"weights must map names to numbers; got {_checks.describe(weights)}.")
  if not weights:
    raise ValueError("weights must name at least one projection; got none.")
  for name, number in weights.items():
    _checks.check_positive(f"weights[{name!r}]", number, scalar=True)
  goal = check_share("target", target)
  _checks.check_positive("step", step, scalar=True)
  _checks.check_interval("tail", tail, 0.0, 1.0, closed="right", scalar=True)
  names = list(weights)
  shares = jnp.stack([jnp.asarray(weights[name], goal.dtype) for name in names])
  total = jnp.sum(shares)
  stride = jnp.maximum(jnp.asarray(step, goal.dtype), total / _MOST_ROUNDS)

  def output(s: Array) -> Array:
    found = layer_fn(dict(zip(names, s, strict=True)), inputs)
    return upcast(_checks.check_float_array("layer_fn's output", found, min_rank=2))

  dense = output(jnp.zeros_like(shares))
  first = dense.shape[-2] - math.ceil(float(tail) * dense.shape[-2])

  def error(s: Array) -> Array:
    return jnp.mean(safe_norm((output(s) - dense)[..., first:, :], axis=-2))

  tiny = 8 * len(names) * jnp.finfo(goal.dtype).eps * total

  def left(s: Array) -> Array:
    return goal * total - jnp.sum(shares * s)

  def round_of(s: Array) -> Array:
    rise = jnp.minimum(jnp.minimum(stride, left(s)) / shares, 1 - s)
    candidates = s[None] + jnp.diag(rise)
    errors = jax.lax.map(error, candidates)
    errors = jnp.where(jnp.isfinite(errors), errors, jnp.finfo(errors.dtype).max)
    open_ones = s < 1
    best = jnp.argmin(jnp.where(open_ones, errors, jnp.inf))
    full = candidates[best, best] >= 1 - 4 * jnp.finfo(s.dtype).eps
    return s.at[best].set(jnp.where(full, 1, candidates[best, best]))

  found = jax.lax.while_loop(lambda s: left(s) > tiny, round_of, jnp.zeros_like(shares))
  uniform = jnp.broadcast_to(goal, shares.shape)
  of_found, of_uniform = error(found), error(uniform)
  worse = ~(of_found <= of_uniform)
  best = jnp.where(worse, uniform, found)
  allocation = dict(zip(names, best, strict=True))
  return SparsityAllocation(allocation, jnp.where(worse, of_uniform, of_found), of_uniform)


class ActivatedCost(NamedTuple):
  """Parameters that a token touches.

  Attributes:
    fraction: float[], share of all parameters that are touched.
    parameters: float[], how many.
    flops: float[], 2 operations each: of one token.

  Example:
    >>> ActivatedCost._fields
    ('fraction', 'parameters', 'flops')

  Reference:
    He, Wu, Wen, Xue and Li, CHESS: optimizing LLM inference via channel-wise thresholding and
    selective sparsification, 2024.
  """

  fraction: Array
  parameters: Array
  flops: Array


def activated_cost(kept: PyTree, params: PyTree) -> ActivatedCost:
  r"""Counts the parameters that are touched where masks drop inputs or outputs of kernels.

  A kernel of P parameters with a share s of its inputs (or outputs) kept counts s P. With a
  sparsity s of gates a feed-forward network touches (1 + 2 (1 - s)) / 3 of three equal kernels, and
  with s of the inputs of query and output attention touches (2 + 2 (1 - s)) / 4 of four.

  Args:
    kept: pytree like ``params``: of each kernel the mask of its inputs or outputs, bool[...] whose
      mean over tokens is taken, or a share in [0, 1], or None where it is dense.
    params: pytree of kernels, arrays or their shapes.

  Returns:
    ``ActivatedCost``.

  Raises:
    TypeError: a leaf is no number or array.
    ValueError: the structures differ, or a share is out of range.

  Note:
    What is counted is what a kernel that skips rows would read; products with masked inputs by
    dense kernels save nothing.

  Example:
    >>> kernel = jnp.ones((2, 4))
    >>> cost = activated_cost({"gate": None, "up": 0.5}, {"gate": kernel, "up": kernel})
    >>> float(cost.fraction), float(cost.parameters), float(cost.flops)
    (0.75, 12.0, 24.0)

  Reference:
    He, Wu, Wen, Xue and Li, CHESS: optimizing LLM inference via channel-wise thresholding and
    selective sparsification, 2024; the floating-point operations: Chen, Zhao, Ko, Banbury, Zhuang,
    Liang, Cameron and Chen, WINA, 2025.
  """
  none: Any = lambda leaf: leaf is None
  kernels, treedef = jax.tree.flatten(params, is_leaf=none)
  masks = jax.tree.leaves(kept, is_leaf=none)
  found: Any = jax.tree.structure(kept, is_leaf=none)
  if found != treedef:
    raise ValueError(f"kept must have the structure of params, {treedef}; got {found}.")
  if not kernels:
    raise ValueError("params must hold at least one kernel; got an empty pytree.")
  sizes, shares = [], []
  for kernel, mask in zip(kernels, masks, strict=True):
    if not hasattr(kernel, "shape"):
      raise TypeError(f"params must hold arrays; got {_checks.describe(kernel)}.")
    sizes.append(float(math.prod(kernel.shape)))
    if mask is None:
      shares.append(jnp.ones((), jnp.float32))
      continue
    share = jnp.mean(_checks.check_float_array("kept", mask).astype(jnp.float32))
    _checks.check_interval("kept", share, 0.0, 1.0)
    shares.append(share)
  touched = jnp.stack([n * s for n, s in zip(sizes, shares, strict=True)])
  count = jnp.sum(touched)
  whole = max(sum(sizes), 1.0)
  return ActivatedCost(count / jnp.float32(whole), count, 2 * count)
