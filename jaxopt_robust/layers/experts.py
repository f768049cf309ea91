"""Mixtures of experts whose routing weights can be given from outside."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxopt_robust import _arguments, _checks
from jaxopt_robust._units import exponent_of, power
from jaxopt_robust.numerics import safe_divide, upcast
from jaxopt_robust.typing import Array, ArrayLike

__all__ = [
  "Pathway",
  "core_expert_mask",
  "load_balance_loss",
  "override_router",
  "restrict_pathway",
  "select_experts",
]

TOTALS = ("kept", "one")


class Pathway(NamedTuple):
  """Routing weights of one token in all layers, and which of them replace those of the router.

  Attributes:
    weights: float[..., layers, experts] >= 0.
    core: bool[..., layers, experts], the experts whose weights may be chosen. A layer with any of
      them takes its whole row of ``weights``; one with none (not critical) is left to its router.

  Example:
    >>> Pathway(jnp.array([[0.7, 0.3]]), jnp.array([[True, False]])).core
    Array([[ True, False]], dtype=bool)

  Reference:
    Li, Li and Zhou, C3PO: critical-layer, core-expert, collaborative pathway optimization for
    test-time expert re-mixing, 2025, section 3.
  """

  weights: Array
  core: Array


def check_pathway(name: str, pathway: Pathway, *, rank: int | None = None) -> Pathway:
  """A pathway of arrays that fit one another, or one layer's part of it."""
  if not isinstance(pathway, Pathway):
    raise TypeError(f"{name} must be a Pathway(weights, core); got {_checks.describe(pathway)}.")
  weights = _checks.check_float_array(f"{name}.weights", pathway.weights, min_rank=1)
  if rank is not None and weights.ndim != rank:
    raise ValueError(
      f"{name}.weights must have shape [layers, experts], one pathway (jax.vmap takes many); "
      f"got {weights.shape}."
    )
  core = _checks.check_mask(f"{name}.core", pathway.core, shape=weights.shape)
  if core is None:
    raise TypeError(f"{name}.core must be a boolean mask; got None.")
  return Pathway(weights, core)


def _non_negative(name: str, weights: Array) -> None:
  _checks.check_holds(~(weights < 0), f"{name} must be >= 0; got a negative number.")


def _shares(weights: Array) -> Array:
  """Rows divided by their sums, which need not fit; zeros where these are 0."""
  sizes = jnp.max(jnp.abs(weights), axis=-1, keepdims=True)
  rows = weights / power(exponent_of(sizes), weights.dtype)
  return safe_divide(rows, jnp.sum(rows, axis=-1, keepdims=True))


def override_router(weights: ArrayLike, override: Pathway | None) -> Array:
  r"""Routing weights with those of a pathway in their place, where it has any.

  To be called in the layers of a model, for the token whose pathway it is (the last one):

    row <- override.weights where any expert of the row is in override.core, else weights

  Args:
    weights: float[..., experts], the router's softmax: of one layer, or of all of them.
    override: ``Pathway`` of arrays of the shape of ``weights``; None to change nothing.

  Returns:
    Like ``weights``.

  Raises:
    TypeError: ``weights`` is not floating-point, or ``override`` no pathway.
    ValueError: shapes do not fit.

  Example:
    >>> own = jnp.array([[0.5, 0.5], [0.9, 0.1]])  # of two layers, the second is critical
    >>> core = jnp.array([[False, False], [True, True]])
    >>> override_router(own, Pathway(jnp.array([[0.0, 1.0], [0.25, 0.75]]), core))
    Array([[0.5 , 0.5 ],
           [0.25, 0.75]], dtype=float32)

  Reference:
    Li, Li and Zhou, C3PO: critical-layer, core-expert, collaborative pathway optimization for
    test-time expert re-mixing, 2025.
  """
  own = _checks.check_float_array("weights", weights, min_rank=1)
  if override is None:
    return own
  given = check_pathway("override", override)
  if given.weights.shape != own.shape:
    raise ValueError(
      f"override.weights must have the shape {own.shape} of weights; got {given.weights.shape}."
    )
  return jnp.where(
    jnp.any(given.core, axis=-1, keepdims=True), given.weights.astype(own.dtype), own
  )


def select_experts(weights: ArrayLike, *, num_selected: int, renormalize: bool = False) -> Array:
  r"""The largest routing weights of each row; zeros elsewhere.

  Args:
    weights: float[..., experts] >= 0.
    num_selected: k, from 1 to the number of experts, static.
    renormalize: whether the selected weights are divided by their sum; static.

  Returns:
    float[..., experts] in the dtype of ``weights``.

  Raises:
    TypeError: ``weights`` is not floating-point, or ``num_selected`` no static integer.
    ValueError: a number is out of range, or a weight is negative.

  Note:
    Ties go to the lower expert. The selection is a constant for derivatives: they are 0 for experts
    that are not selected, so that a gradient step alone never brings one in.

  Example:
    >>> select_experts(jnp.array([0.2, 0.5, 0.3]), num_selected=2)
    Array([0. , 0.5, 0.3], dtype=float32)

  Reference:
    Shazeer, Mirhoseini, Maziarz, Davis, Le, Hinton and Dean, Outrageously large neural networks:
    the sparsely-gated mixture-of-experts layer, 2017, equations 3 to 5.
  """
  array = _checks.check_float_array("weights", weights, min_rank=1)
  k = _checks.check_int("num_selected", num_selected, minimum=1, maximum=array.shape[-1])
  _arguments.check_option("renormalize", renormalize, (True, False))
  _non_negative("weights", array)
  kept = jnp.where(_largest(array, k), array, 0)
  if renormalize:
    kept = _shares(upcast(kept)).astype(array.dtype)
  return kept


def _largest(weights: Array, k: int) -> Array:
  """Which k entries of each row are the largest, the first of equals: bool like ``weights``."""
  _, index = jax.lax.top_k(jax.lax.stop_gradient(weights), k)
  experts = jnp.arange(weights.shape[-1]).reshape(*(1,) * weights.ndim, -1)
  return jnp.any(index[..., None] == experts, axis=-2)


def load_balance_loss(probabilities: ArrayLike, *, num_selected: int = 1) -> Array:
  r"""What keeps a router from sending all tokens to the same experts.

    E sum_e f_e P_e,   P_e the mean of p_e over tokens, f_e the share of the selections that are e

  with E experts; 1 where both are uniform, up to E / k where all tokens have the same k experts.

  Args:
    probabilities: float[..., experts], softmax of the router, a row a token.
    num_selected: k experts of each token, from 1 to the number of experts, static.

  Returns:
    float[], float32 at least. Only P_e has a derivative.

  Raises:
    TypeError: ``probabilities`` is not floating-point, or ``num_selected`` no static integer.
    ValueError: a number is out of range, or a probability is negative.

  Example:
    >>> load_balance_loss(jnp.array([[0.9, 0.1], [0.1, 0.9]]))
    Array(1., dtype=float32)
    >>> load_balance_loss(jnp.array([[0.9, 0.1], [0.9, 0.1]]))
    Array(1.8, dtype=float32)

  Reference:
    Fedus, Zoph and Shazeer, Switch transformers: scaling to trillion parameter models with simple
    and efficient sparsity, 2022, equations 4 to 6; they have k = 1.
  """
  array = upcast(_checks.check_float_array("probabilities", probabilities, min_rank=1))
  _non_negative("probabilities", array)
  experts = array.shape[-1]
  k = _checks.check_int("num_selected", num_selected, minimum=1, maximum=experts)
  rows = array.reshape(-1, experts)
  shares = jnp.mean(_largest(rows, k), axis=0, dtype=array.dtype) / k
  return experts * jnp.sum(shares * jnp.mean(rows, axis=0))


def core_expert_mask(weights: ArrayLike, *, num_experts: int = 20, num_layers: int = 5) -> Array:
  r"""The experts that are worth re-mixing: the strongest ones of the last layers.

  Args:
    weights: float[..., layers, experts], the router's weights of a token.
    num_experts: core experts of a layer: those of the largest weights; from 1 to the number of
      experts, static.
    num_layers: critical layers, the last ones; from 0 to the number of layers, static.

  Returns:
    bool[..., layers, experts], the ``core`` of a ``Pathway``. Ties go to the lower expert.

  Raises:
    TypeError: ``weights`` is not floating-point, or a size no static integer.
    ValueError: a number is out of range.

  Example:
    >>> core_expert_mask(jnp.array([[0.6, 0.4, 0.0], [0.1, 0.2, 0.7]]), num_experts=2, num_layers=1)
    Array([[False, False, False],
           [False,  True,  True]], dtype=bool)

  Reference:
    Li, Li and Zhou, C3PO: critical-layer, core-expert, collaborative pathway optimization for
    test-time expert re-mixing, 2025, section 4: 20 of 64 experts in 5 of 16 layers.
  """
  array = _checks.check_float_array("weights", weights, min_rank=2)
  layers, experts = array.shape[-2:]
  k = _checks.check_int("num_experts", num_experts, minimum=1, maximum=experts)
  last = _checks.check_int("num_layers", num_layers, minimum=0, maximum=layers)
  critical = jnp.broadcast_to((jnp.arange(layers) >= layers - last)[:, None], (layers, experts))
  return _largest(array, k) & jnp.broadcast_to(critical, array.shape)


def restrict_pathway(weights: ArrayLike, core: ArrayLike, *, total: str = "kept") -> Pathway:
  r"""The pathway of a router with nothing but core experts in its critical layers.

  With m the mask ``core``, rows with a core expert become m w ("kept"), or m w / sum(m w) ("one").

  Args:
    weights: float[..., layers, experts] >= 0, the router's weights of a token.
    core: bool[..., layers, experts], from ``core_expert_mask``.
    total: "kept" or "one"; static. A model that does not renormalise what it selects answers with
      "kept" as it did, if its experts are core ones; "one" changes the size of its layers' output.

  Returns:
    ``Pathway`` whose weights are float32 at least.

  Raises:
    TypeError: ``weights`` is not floating-point, or ``core`` not boolean.
    ValueError: shapes do not fit, or a weight is negative.

  Example:
    >>> core = jnp.array([[True, True, False]])
    >>> restrict_pathway(jnp.array([[0.5, 0.25, 0.25]]), core).weights
    Array([[0.5 , 0.25, 0.  ]], dtype=float32)

  Reference:
    Li, Li and Zhou, C3PO: critical-layer, core-expert, collaborative pathway optimization for
    test-time expert re-mixing, 2025, section 4. Their released code rescales rows to the sum 1.
  """
  array = _checks.check_float_array("weights", weights, min_rank=2)
  mask = _checks.check_mask("core", core, shape=array.shape)
  if mask is None:
    raise TypeError("core must be a boolean mask; got None.")
  _arguments.check_option("total", total, TOTALS)
  _non_negative("weights", array)
  wide = upcast(array)
  inner = jnp.where(mask, wide, 0)
  if total == "one":
    inner = _shares(inner)
  return Pathway(jnp.where(jnp.any(mask, axis=-1, keepdims=True), inner, wide), mask)
