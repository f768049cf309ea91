"""Training of sparse weights: dense ones are kept, a mask acts, a rule passes on the gradients."""

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxopt_robust import _arguments, _checks
from jaxopt_robust.transforms._links import Schedule, at, check_transformation, chosen, given
from jaxopt_robust.typing import Array, ArrayLike, PyTree

__all__ = ["SparseFlowState", "sparse_flow"]

FLOWS = ("masked", "ste", "srste", "frozen")


class SparseFlowState(NamedTuple):
  """State of ``sparse_flow``; masks are computed anew from the weights and not stored.

  Attributes:
    count: int32, updates done.
    inner_state: state of the inner optimizer.
  """

  count: Array  # type: ignore[assignment]
  inner_state: Any


def sparse_flow(
  inner: optax.GradientTransformation,
  mask: Callable[..., Array],
  *,
  flow: str = "masked",
  decay: Schedule = 0.0,
  strength: ArrayLike = 2e-4,
  predicate: Callable[[tuple, Array], bool] | None = None,
) -> tuple[optax.GradientTransformationExtraArgs, Callable[[PyTree, SparseFlowState], PyTree]]:
  r"""Optimizer of dense weights w of which only the effective ones, z * w, are used.

  With M = mask(w) or mask(w, count), computed anew in each step, and beta = decay(count) in [0, 1],

    z = M + beta (1 - M).

  Take the gradient g of the loss with respect to the *effective* weights; ``flow`` says what of it
  reaches the dense ones:

  - ``"masked"``: z * g, the derivative of the loss through z * w, M held fixed;
  - ``"ste"``: g, straight through;
  - ``"srste"``: g + strength (1 - M) * w, straight through with a pull of masked weights to zero;
  - ``"frozen"``: M * g, and masked weights do not move at all, whatever the inner optimizer adds.

  Args:
    inner: optimizer of the dense weights; put weight decay inside it.
    mask: function of one array to a boolean array of its shape, such as
      ``functools.partial(nm_mask, n=2, m=4, axis=0)``. A mask that cannot be called with one
      argument is called with two, the array and the number of updates done, and may change with it.
    flow: ``"masked"``, ``"ste"``, ``"srste"`` or ``"frozen"``; static.
    decay: beta, what is left of masked weights: a number in [0, 1] (may be traced) or a schedule
      ``count -> number``; 0 is a hard mask, 1 dense training.
    strength: >= 0, lambda of ``"srste"``; may be traced.
    predicate: function (path, array) -> bool that says which leaves are masked, with the path of
      ``jax.tree_util``; by default all of at least two axes.

  Returns:
    (transformation, effective): a ``GradientTransformationExtraArgs`` with state
    ``SparseFlowState``, whose ``update`` needs the dense parameters; and the function
    ``effective(params, state)``, the weights to compute the loss with.

  Raises:
    TypeError: ``inner`` is no transformation, or ``mask`` or ``predicate`` is not a function.
    ValueError: an unknown flow, a number out of range, an update without parameters, or a mask of
      another shape or dtype.

  Note:
    With ``"masked"`` and beta = 0, masked weights no longer move, except by weight decay, and the
    mask changes only where kept weights shrink below them; ``"ste"`` and ``"srste"`` can revive
    masked ones. Choose leaves by ``predicate``:
    ``optax.masked`` around it passes raw gradients on, as steps uphill, on all other leaves.

  Example:
    >>> weights = jnp.array([[3.0, 1.0, -2.0, 0.5]])
    >>> keep = lambda w: jr.transforms.nm_mask(w, 2, 4)
    >>> tx, effective = sparse_flow(optax.sgd(1.0), keep, flow="ste")
    >>> state = tx.init(weights)
    >>> effective(weights, state)
    Array([[ 3.,  0., -2.,  0.]], dtype=float32)
    >>> updates, state = tx.update(jnp.ones((1, 4)), state, weights)
    >>> optax.apply_updates(weights, updates)
    Array([[ 2. ,  0. , -3. , -0.5]], dtype=float32)

  Reference:
    Zhou et al., Learning N:M fine-grained structured sparse neural networks from scratch, 2021
    (SR-STE, equation 4 there recalled); Bambhaniya et al., Progressive gradient flow for robust N:M
    sparsity training in transformers, 2024 (decaying masks); Bengio, Leonard and Courville,
    Estimating or propagating gradients through stochastic neurons, 2013 (straight through).
  """
  check_transformation("inner", inner)
  _arguments.check_callable("mask", mask)
  _arguments.check_option("flow", flow, FLOWS)
  if not callable(decay):
    _checks.check_interval("decay", decay, 0.0, 1.0, scalar=True)
  _checks.check_non_negative("strength", strength, scalar=True)
  if predicate is not None:
    _arguments.check_callable("predicate", predicate)
  optimizer = optax.with_extra_args_support(inner)
  timed = _takes_count(mask)

  def masks(params: PyTree, count: Array) -> PyTree:
    """The mask of each leaf, or True where there is none."""

    def leaf(path: tuple, weights: Array) -> Array | bool:
      if not chosen(predicate, path, weights):
        return True
      with _arguments.within(f"params{jax.tree_util.keystr(path)}"):
        return _kept(mask, weights, *((count,) if timed else ()))

    return jax.tree_util.tree_map_with_path(leaf, params)

  def faded(kept: Array, count: Array, values: Array) -> Array:
    beta = jnp.asarray(at(decay, count), values.dtype)
    # What is masked wholly is 0, whatever it was.
    gone = ~kept & (beta == 0) & ~jnp.isfinite(values)
    return jnp.where(kept, values, beta * jnp.where(gone, 0, values))

  def effective(params: PyTree, state: SparseFlowState) -> PyTree:
    state = _arguments.check_state("state", state, SparseFlowState)
    return _where_masked(
      lambda kept, w: faded(kept, state.count, w), masks(params, state.count), params
    )

  def init(params: PyTree) -> SparseFlowState:
    return SparseFlowState(jnp.zeros((), jnp.int32), optimizer.init(params))

  def update(
    updates: PyTree, state: SparseFlowState, params: PyTree | None = None, **extra_args: Any
  ) -> tuple[PyTree, SparseFlowState]:
    state = _arguments.check_state("state", state, SparseFlowState)
    params = given(params, "sparse_flow")

    def reaching(kept: Array, g: Array, w: Array) -> Array:
      if flow == "ste":
        return g
      if flow == "srste":
        return g + jnp.asarray(strength, g.dtype) * jnp.where(kept, 0, w).astype(g.dtype)
      if flow == "frozen":
        return jnp.where(kept, g, 0)
      return faded(kept, state.count, g)

    kept = masks(params, state.count)
    grads = _where_masked(reaching, kept, updates, params)
    steps, inner_state = optimizer.update(grads, state.inner_state, params, **extra_args)
    if flow == "frozen":
      steps = _where_masked(lambda keep, step: jnp.where(keep, step, 0), kept, steps)
    return steps, SparseFlowState(optax.safe_increment(state.count), inner_state)

  return optax.GradientTransformationExtraArgs(init, update), effective


def _takes_count(mask: Callable[..., Array]) -> bool:
  """Whether a mask needs the number of updates: an optional second argument may be anything."""
  try:
    signature = inspect.signature(mask)
    signature.bind("weights", "count")
  except (TypeError, ValueError):  # takes one argument, or has no signature
    return False
  try:
    signature.bind("weights")
  except TypeError:
    return True
  return False


def _kept(mask: Callable[..., Array], weights: Array, *count: Array) -> Array:
  kept = mask(jax.lax.stop_gradient(weights), *count)
  if kept.shape != weights.shape or kept.dtype != bool:
    raise ValueError(
      f"mask must return a boolean array of shape {weights.shape}; got {kept.dtype}{kept.shape}."
    )
  return kept


def _where_masked(fun: Callable[..., Array], kept: PyTree, values: PyTree, *rest: PyTree) -> PyTree:
  """fun(mask, value, ...) on the leaves that have a mask; the other values as they are."""
  one = lambda mask, value, *others: value if mask is True else fun(mask, value, *others)
  return jax.tree.map(one, kept, values, *rest)
