"""Test-time re-mixing of experts: a sample's pathway from the labels of examples it resembles."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxopt_robust import _arguments, _checks
from jaxopt_robust.layers.experts import (
  TOTALS,
  Pathway,
  check_pathway,
  core_expert_mask,
  restrict_pathway,
)
from jaxopt_robust.layers.neighbors import Neighbors
from jaxopt_robust.layers.pathways import PathwayInfo, pathway_gradient_descent
from jaxopt_robust.losses import cross_entropy_loss
from jaxopt_robust.numerics import safe_divide, upcast
from jaxopt_robust.typing import Array, ArrayLike, PyTree

__all__ = ["RemixInfo", "neighborhood_loss", "remix_pathways"]

ApplyFn = Callable[[PyTree, PyTree, Pathway | None], tuple[Array, Array]]


class RemixInfo(NamedTuple):
  """What ``remix_pathways`` did to each sample.

  Attributes:
    pathway: ``Pathway`` [batch, layers, experts] that was injected.
    base_logits: float[batch, ...], what the model answers by itself.
    descent: ``PathwayInfo`` with a leading axis of samples.

  Example:
    >>> RemixInfo._fields
    ('pathway', 'base_logits', 'descent')

  Reference:
    Li, Li and Zhou, C3PO: critical-layer, core-expert, collaborative pathway optimization for
    test-time expert re-mixing, 2025.
  """

  pathway: Pathway
  base_logits: Array
  descent: PathwayInfo


def _rows(name: str, tree: PyTree) -> int:
  """Length of the leading axis that all arrays of a pytree share."""
  leaves = [_checks.as_array(name, leaf) for leaf in jax.tree.leaves(tree)]
  counts = {leaf.shape[0] if leaf.ndim else -1 for leaf in leaves}
  if len(counts) != 1 or counts & {0, -1}:
    raise ValueError(
      f"{name} must be an array or a pytree of arrays with one leading axis of examples; got "
      f"shapes {[leaf.shape for leaf in leaves]}."
    )
  return counts.pop()


def _arrays(tree: PyTree) -> PyTree:
  return jax.tree.map(jnp.asarray, tree)


def neighborhood_loss(
  apply_fn: ApplyFn,
  params: PyTree,
  pathway: Pathway,
  *,
  inputs: PyTree,
  labels: PyTree,
  weights: ArrayLike,
  loss_fn: Callable[..., Array] = cross_entropy_loss,
) -> Array:
  r"""Loss of one pathway on a few labelled neighbours.

    L(omega) = sum_i K_i loss(f(x_i, omega), y_i) / sum_i K_i

  Args:
    apply_fn: the model, ``(params, x, override) -> (logits, router)`` on batches: ``override`` is
      None or a ``Pathway`` [batch, layers, experts], for ``override_router`` at the last token;
      ``logits`` float[batch, ...]; ``router`` float[batch, layers, experts], the routing weights
      of that token.
    params: of the model.
    pathway: ``Pathway`` [layers, experts], the same for all neighbours.
    inputs: pytree of arrays [k, ...], what ``apply_fn`` takes.
    labels: pytree of arrays [k, ...], what ``loss_fn`` takes.
    weights: float[k] >= 0, K_i. A neighbour of weight 0 adds nothing to the value, whatever its
      loss is.
    loss_fn: ``(logits, labels) -> float[k]``.

  Returns:
    float[], float32 at least; 0 where all weights are 0.

  Raises:
    TypeError: an argument is of the wrong kind.
    ValueError: shapes do not fit, or a weight is negative.

  Example:
    >>> def model(params, x, override):  # two experts, logits e_1 and e_2
    ...   router = jnp.full((x.shape[0], 1, 2), 0.5)
    ...   return jr.layers.override_router(router, override)[:, 0] * params, router
    >>> pathway = Pathway(jnp.array([[1.0, 0.0]]), jnp.ones((1, 2), bool))
    >>> neighborhood_loss(
    ...   model, 2.0, pathway, inputs=jnp.zeros((2, 1)), labels=jnp.array([0, 1]),
    ...   weights=jnp.array([1.0, 0.0]),
    ... ).round(3)
    Array(0.127, dtype=float32)

  Reference:
    Li, Li and Zhou, C3PO: critical-layer, core-expert, collaborative pathway optimization for
    test-time expert re-mixing, 2025, section 3.
  """
  for name, function in (("apply_fn", apply_fn), ("loss_fn", loss_fn)):
    _arguments.check_callable(name, function)
  given = check_pathway("pathway", pathway, rank=2)
  share = upcast(_checks.check_float_array("weights", weights, rank=1))
  count = _rows("inputs", inputs)
  for name, found in (("labels", _rows("labels", labels)), ("weights", share.shape[0])):
    if found != count:
      raise ValueError(f"{name} must have {count} rows, as inputs have; got {found}.")
  _checks.check_non_negative("weights", share)
  share = safe_divide(share, jnp.max(share))  # sums of the largest numbers would not fit
  many = jax.tree.map(lambda a: jnp.broadcast_to(a[None], (count, *a.shape)), given)
  logits, _ = apply_fn(params, _arrays(inputs), many)
  each = jnp.asarray(loss_fn(logits, _arrays(labels)))
  if each.shape != (count,):
    raise ValueError(f"loss_fn must return one loss a neighbour, [{count}]; got {each.shape}.")
  total = jnp.sum(share * jnp.where(share > 0, upcast(each), 0))
  return safe_divide(total, jnp.sum(share))


def remix_pathways(
  apply_fn: ApplyFn,
  params: PyTree,
  x: PyTree,
  *,
  inputs: PyTree,
  labels: PyTree,
  neighbors: Neighbors,
  optimizer: optax.GradientTransformation | None = None,
  num_steps: int = 10,
  num_experts: int = 20,
  num_layers: int = 5,
  total: str = "kept",
  parametrization: str = "projected",
  floor: ArrayLike = 1e-10,
  tol: ArrayLike | None = None,
  loss_fn: Callable[..., Array] = cross_entropy_loss,
) -> tuple[Array, RemixInfo]:
  r"""Answers of a mixture-of-experts model with experts re-mixed sample by sample (C3PO).

  For each sample the weights of its core experts in the critical layers descend the loss of its
  neighbours (``neighborhood_loss``, ``pathway_gradient_descent``), and the model answers with what
  came out. No parameter changes, and the sample's own label is not needed.

  Args:
    apply_fn: the model, as in ``neighborhood_loss``.
    params: of the model.
    x: pytree of arrays [batch, ...], the samples.
    inputs: pytree of arrays [n, ...], the references.
    labels: pytree of arrays [n, ...], their labels.
    neighbors: ``Neighbors`` [batch, k] of the samples among the references, from
      ``kernel_neighbors``; ``where`` there picks the references that the model answers correctly.
    optimizer: any optax transformation; None for the paper's, gradient descent with a rate that
      falls from 1e-2 to 1e-5 along a cosine. Small models need larger rates.
    num_steps: at least 0, static.
    num_experts: core experts of a layer, static.
    num_layers: critical layers, static.
    total: as in ``restrict_pathway``.
    parametrization: as in ``pathway_gradient_descent``.
    floor: as there.
    tol: as there.
    loss_fn: ``(logits, labels) -> float[k]``.

  Returns:
    ``(logits, info)``, float[batch, ...] and a ``RemixInfo``. A sample without neighbours keeps the
    model's answer, up to what ``total`` does.

  Raises:
    TypeError: an argument is of the wrong kind.
    ValueError: shapes do not fit, or a number is out of range.

  Note:
    Memory grows with batch x k x what the model needs for one example: map over batches that fit.
    Where the last token alone is overridden and attention is causal, all other tokens can be
    computed once: pass their keys and values as ``x`` and ``inputs`` (``nets.MixtureTransformer``).

  Example:
    >>> def model(params, x, override):  # two experts, logits e_1 and e_2
    ...   router = jax.nn.softmax(x, axis=-1)[:, None]
    ...   return jr.layers.override_router(router, override)[:, 0] * params, router
    >>> neighbors = jr.layers.kernel_neighbors(
    ...   jnp.array([[1.0]]), jnp.array([[1.1], [5.0]]), num_neighbors=1, max_similarity=jnp.inf
    ... )
    >>> logits, info = remix_pathways(
    ...   model, 2.0, jnp.array([[0.2, 0.0]]), inputs=jnp.array([[0.0, 0.3], [1.0, 0.0]]),
    ...   labels=jnp.array([1, 0]), neighbors=neighbors, optimizer=optax.sgd(0.1), num_experts=2,
    ...   num_layers=1,
    ... )
    >>> int(info.base_logits.argmax()), int(logits.argmax())  # the neighbour's label is 1
    (0, 1)

  Reference:
    Li, Li and Zhou, C3PO: critical-layer, core-expert, collaborative pathway optimization for
    test-time expert re-mixing, 2025.
  """
  for name, function in (("apply_fn", apply_fn), ("loss_fn", loss_fn)):
    _arguments.check_callable(name, function)
  _arguments.check_option("total", total, TOTALS)
  steps = _checks.check_int("num_steps", num_steps, minimum=0)
  if optimizer is None:
    optimizer = optax.sgd(optax.cosine_decay_schedule(1e-2, max(steps, 1), alpha=1e-3))
  batch, count = _rows("x", x), _rows("inputs", inputs)
  if _rows("labels", labels) != count:
    raise ValueError(
      f"labels must have {count} rows, as inputs have; got {_rows('labels', labels)}."
    )
  if not isinstance(neighbors, Neighbors):
    raise TypeError(f"neighbors must be Neighbors; got {_checks.describe(neighbors)}.")
  shape = jnp.shape(neighbors.rows)
  if len(shape) != 2 or shape[0] != batch:
    raise ValueError(f"neighbors.rows must have shape [{batch}, k], a row a sample; got {shape}.")
  rows = _checks.check_integers("neighbors.rows", neighbors.rows, low=0, high=count)
  share = _checks.check_float_array("neighbors.weights", neighbors.weights)
  _checks.check_same_shape("neighbors.rows", rows, "neighbors.weights", share)
  _checks.check_non_negative("neighbors.weights", share)

  samples, known = _arrays(x), _arrays((inputs, labels))
  base_logits, router = apply_fn(params, samples, None)
  router = _checks.check_float_array("router", router)
  if router.ndim != 3 or router.shape[0] != batch:
    raise ValueError(
      f"apply_fn must return routing weights [{batch}, layers, experts]; got {router.shape}."
    )
  if loss_fn is cross_entropy_loss:  # known here; not where it is mapped over samples
    used = jnp.zeros(count, bool).at[rows].max(share > 0)
    classes = base_logits.shape[-1]
    _checks.check_labels("labels", labels, shape=(count,), num_classes=classes, where=used)
  core = core_expert_mask(router, num_experts=num_experts, num_layers=num_layers)

  def one(start: Pathway, rows: Array, share: Array) -> tuple[Pathway, PathwayInfo]:
    near, answers = jax.tree.map(lambda a: a[rows], known)

    def objective(pathway: Pathway) -> Array:
      return neighborhood_loss(
        apply_fn, params, pathway, inputs=near, labels=answers, weights=share, loss_fn=loss_fn
      )

    found, info = pathway_gradient_descent(
      objective, start, optimizer=optimizer, num_steps=steps, parametrization=parametrization,
      floor=floor, tol=tol,
    )  # fmt: skip
    # Without neighbours neither the floor nor an optimizer's own moves change anything.
    alone = ~jnp.any(share > 0)
    return found._replace(weights=jnp.where(alone, start.weights, found.weights)), info

  found, descent = jax.vmap(one)(restrict_pathway(router, core, total=total), rows, share)
  logits, _ = apply_fn(params, samples, found)
  return logits, RemixInfo(found, base_logits, descent)
