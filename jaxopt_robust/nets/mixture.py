"""A small transformer with a mixture of experts whose routing can be given from outside."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen

from jaxopt_robust import _checks
from jaxopt_robust.layers import Pathway, load_balance_loss, override_router, select_experts
from jaxopt_robust.layers.experts import check_pathway
from jaxopt_robust.typing import Array

__all__ = ["MixtureContext", "MixtureTransformer"]

_EPSILON = 1e-6  # of the root mean square, as in linen.RMSNorm


class MixtureContext(NamedTuple):
  """What the query token reads of the other tokens: no routing of its own changes it.

  Attributes:
    keys: float[batch, layers, tokens, width].
    values: float[batch, layers, tokens, width].

  Example:
    >>> MixtureContext._fields
    ('keys', 'values')

  Reference:
    Vaswani et al., Attention is all you need, 2017.
  """

  keys: Array
  values: Array


class MixtureTransformer(linen.Module):
  r"""Causal transformer classifier whose feed-forward parts are mixtures of experts.

  A learnt query token stands behind the tokens and gives the logits. With n the root mean square
  norm, each layer is x <- x + attention(n(x)), x <- x + sum_e w_e gelu(n(x) A_e) B_e, with one head
  and w = select_experts(softmax(n(x) R)), not renormalised. All experts are computed.

  Call: ``(x, override=None) -> (logits, router)`` with x float[batch, tokens, features], logits
  float[batch, classes] and router float[batch, layers, experts], the query's own routing weights;
  ``override``, a ``layers.Pathway`` of that shape, replaces them. It is what
  ``layers.remix_pathways`` takes as ``apply_fn`` (``model.apply``). Since attention is causal, the
  other tokens can be computed once: ``context(x)`` gives a ``MixtureContext``, and
  ``answer(context, override)`` the rest (``model.apply(..., method="answer")``).
  ``layers.load_balance_loss``, the mean over layers, is sown as "load_balance" into
  "intermediates". Layers are one stack of weights and one loop.

  Attributes:
    classes: number of logits.
    tokens: number of tokens of an input; each has a learnt position.
    width: features of a token.
    layers: number of layers, at least 1.
    experts: experts of a layer.
    selected: experts that a token takes, at most ``experts``.
    hidden: hidden width of an expert.

  Reference:
    Shazeer et al., Outrageously large neural networks: the sparsely-gated mixture-of-experts layer,
    2017; Muennighoff et al., OLMoE: open mixture-of-experts language models, 2024 (weights without
    renormalisation).
  """

  classes: int
  tokens: int
  width: int = 32
  layers: int = 4
  experts: int = 8
  selected: int = 2
  hidden: int = 32

  def setup(self) -> None:
    depth = _checks.check_int("layers", self.layers, minimum=1)
    experts = _checks.check_int("experts", self.experts, minimum=1)
    _checks.check_int("selected", self.selected, minimum=1, maximum=experts)
    d = _checks.check_int("width", self.width, minimum=1)
    for name in ("classes", "tokens", "hidden"):
      _checks.check_int(name, getattr(self, name), minimum=1)
    kernel = linen.initializers.lecun_normal(batch_axis=(0,))
    expert = linen.initializers.lecun_normal(batch_axis=(0, 1))
    ones = linen.initializers.ones_init()
    small = linen.initializers.normal(0.02)
    self.embedding = linen.Dense(d)
    self.position = self.param("position", small, (self.tokens, d))
    self.query = self.param("query", small, (d,))
    self.stack = {
      "attention": self.param("attention", kernel, (depth, d, 3 * d)),
      "merge": self.param("merge", kernel, (depth, d, d)),
      "router": self.param("router", kernel, (depth, d, experts)),
      "expand": self.param("expand", expert, (depth, experts, d, self.hidden)),
      "contract": self.param("contract", expert, (depth, experts, self.hidden, d)),
      "norm_attention": self.param("norm_attention", ones, (depth, d)),
      "norm_experts": self.param("norm_experts", ones, (depth, d)),
    }
    self.norm = self.param("norm", ones, (d,))
    self.output = linen.Dense(self.classes)

  def __call__(self, x: Array, override: Pathway | None = None) -> tuple[Array, Array]:
    x = _checks.check_float_array("x", x, min_rank=1)
    if x.ndim != 3 or x.shape[1] != self.tokens:
      raise ValueError(f"x must have shape [batch, {self.tokens}, features]; got {x.shape}.")
    context, router = self._context(x)
    logits, own = self.answer(context, override)
    every = jnp.concatenate([router, own[:, :, None]], axis=2)
    balance = jax.vmap(lambda p: load_balance_loss(p, num_selected=self.selected), 1)(every)
    self.sow("intermediates", "load_balance", jnp.mean(balance))
    return logits, own

  def context(self, x: Array) -> MixtureContext:
    """Keys and values of all tokens but the query, in all layers."""
    return self._context(x)[0]

  def _context(self, x: Array) -> tuple[MixtureContext, Array]:
    """Also the routing weights of these tokens, [batch, layers, tokens, experts]."""
    n = x.shape[1]

    def layer(h: Array, w: dict[str, Array]) -> tuple[Array, tuple[Array, Array, Array]]:
      q, k, v = _projections(h, w)
      h = h + _attend(q, k, v, bias) @ w["merge"]
      h, router = self._experts(h, w, None)
      return h, (k, v, router)

    start = self.embedding(x) + jnp.asarray(self.position)[None]
    bias = jnp.where(jnp.tril(jnp.ones((n, n), bool)), 0.0, -jnp.inf).astype(start.dtype)[None]
    _, stacked = jax.lax.scan(layer, start, self.stack)
    keys, values, router = (jnp.moveaxis(a, 0, 1) for a in stacked)
    return MixtureContext(keys, values), router

  def answer(self, context: MixtureContext, override: Pathway | None = None) -> tuple[Array, Array]:
    """Logits and routing weights of the query, given what it reads of the others."""
    keys, values = (jnp.moveaxis(a, 1, 0) for a in context)
    batch = keys.shape[1]
    shape = (batch, self.layers, self.experts)
    if override is not None:
      override = check_pathway("override", override)
      if override.weights.shape != shape:
        raise ValueError(
          f"override.weights must have shape {shape}, batch, layers and experts; "
          f"got {override.weights.shape}."
        )
    given = jax.tree.map(lambda a: jnp.moveaxis(a, 1, 0)[:, :, None], override)

    def layer(h: Array, scanned: tuple) -> tuple[Array, Array]:
      w, k, v, row = scanned
      q, own_k, own_v = _projections(h, w)
      k, v = jnp.concatenate([k, own_k], axis=1), jnp.concatenate([v, own_v], axis=1)
      h = h + _attend(q, k, v, jnp.zeros((1, 1, 1), h.dtype)) @ w["merge"]
      return self._experts(h, w, row)

    start = jnp.broadcast_to(jnp.asarray(self.query, keys.dtype), (batch, 1, self.width))
    h, router = jax.lax.scan(layer, start, (self.stack, keys, values, given))
    return self.output(_normalized(h[:, 0], self.norm)), jnp.moveaxis(router[:, :, 0], 0, 1)

  def _experts(
    self, h: Array, w: dict[str, Array], override: Pathway | None
  ) -> tuple[Array, Array]:
    """The mixture on tokens [batch, tokens, width], and the router's own weights."""
    x = _normalized(h, w["norm_experts"])
    own = jax.nn.softmax(x @ w["router"], axis=-1)
    weights = select_experts(override_router(own, override), num_selected=self.selected)
    inner = jax.nn.gelu(jnp.einsum("btd,edh->bteh", x, w["expand"]), approximate=False)
    return h + jnp.einsum("bteh,ehd->btd", weights[..., None] * inner, w["contract"]), own


def _normalized(x: Array, scale: Array) -> Array:
  root = jax.lax.rsqrt(jnp.mean(x**2, axis=-1, keepdims=True) + _EPSILON)
  return x * root * scale.reshape(*(1,) * (x.ndim - 1), -1)


def _projections(h: Array, w: dict[str, Array]) -> tuple[Array, Array, Array]:
  q, k, v = jnp.split(_normalized(h, w["norm_attention"]) @ w["attention"], 3, axis=-1)
  return q, k, v


def _attend(q: Array, k: Array, v: Array, bias: Array) -> Array:
  scores = jnp.einsum("bqd,bkd->bqk", q, k) / q.shape[-1] ** 0.5 + bias
  return jnp.einsum("bqk,bkd->bqd", jax.nn.softmax(scores, axis=-1), v)
