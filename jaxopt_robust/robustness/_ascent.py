"""The loop of all attacks: step, projection and acceptance are arguments."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxopt_robust import numerics
from jaxopt_robust.robustness._balls import over_batch
from jaxopt_robust.typing import Array

# objective(point) -> (float[batch], aux): what is maximised, row by row, and what else is known.
Objective = Callable[[Array], tuple[Array, Any]]
# rule(point, value, gradient, memory, x) -> (proposal, memory); x is this step's entry of ``xs``.
Rule = Callable[[Array, Array, Array, Any, Any], tuple[Array, Any]]


class Worst(NamedTuple):
  """The worst point seen of each example: one that breaks it before any that does not.

  Attributes:
    x: float[batch, ...].
    value: float[batch], objective there.
    broken: bool[batch].
  """

  x: Array
  value: Array
  broken: Array


def choose(condition: Array, a: Array, b: Array) -> Array:
  """Row by row one of two batches."""
  return jnp.where(over_batch(condition, a), a, b)


def worse(old: Worst, new: Worst) -> Worst:
  """Of two points of each example the worse one; of equal ones the old one."""
  larger = (new.value > old.value) | (jnp.isnan(old.value) & ~jnp.isnan(new.value))
  is_worse = (new.broken & ~old.broken) | ((new.broken == old.broken) & larger)
  return Worst(*(choose(is_worse, a, b) for a, b in zip(new, old, strict=True)))


class Ascended(NamedTuple):
  """What the loop returns.

  Attributes:
    point: the last iterate.
    seen: what ``look`` made of all iterates.
    alive: bool[batch], whether every proposal was accepted.
    history: what ``emit`` took from ``seen`` after each step.
  """

  point: Array
  seen: Any
  alive: Array
  history: Any


def ascend(
  objective: Objective,
  start: Array,
  rule: Rule,
  *,
  num_steps: int,
  memory: Any = (),
  xs: Any = None,
  confine: Callable[[Array], Array] = lambda point: point,
  accept: Callable[[Array], Array] | None = None,
  look: Callable[..., Any] | None = None,
  seen: Any = (),
  emit: Callable[[Any], Any] = lambda seen: (),
) -> Ascended:
  """point <- confine(rule(point)) where ``accept`` allows it, from then on not at all.

  Args:
    objective: what is ascended; non-finite entries of its gradient count as 0.
    start: float[batch, ...].
    rule: the step, with its own ``memory``.
    num_steps: static.
    memory: of the rule.
    xs: arrays with a leading axis of steps that the rule gets one by one.
    confine: projection of the proposals.
    accept: ``proposal -> bool[batch]``; an example stops before its first proposal that fails.
    look: ``(seen, point, value, gradient, aux) -> seen``, of every iterate but the last.
    seen: what look starts with.
    emit: part of ``seen`` that is recorded after each step.
  """

  def total(point: Array) -> tuple[Array, Any]:
    values, aux = objective(point)
    if jnp.shape(values) != point.shape[:1]:
      raise ValueError(
        "objective must return one number an example, "
        f"shape {point.shape[:1]}; got {jnp.shape(values)}."
      )
    return jnp.sum(values), (values, aux)

  def step(carry: tuple[Any, ...], x: Any) -> tuple[tuple[Any, ...], Any]:
    point, memory, seen, alive = carry
    (_, (value, aux)), gradient = jax.value_and_grad(total, has_aux=True)(point)
    gradient = jnp.where(jnp.isfinite(gradient), gradient, 0)
    if look is not None:
      seen = look(seen, point, value, gradient, aux)
    proposal, memory = rule(point, value, gradient, memory, x)
    proposal = confine(proposal)
    if accept is not None:
      alive = alive & accept(proposal)
      proposal = choose(alive, proposal, point)
    return (proposal, memory, seen, alive), emit(seen)

  first = (start, memory, seen, jnp.ones(start.shape[:1], bool))
  (point, _, seen, alive), history = jax.lax.scan(step, first, xs, length=num_steps)
  return Ascended(point, seen, alive, history)


def optax_rule(optimizer: Any, start: Array) -> tuple[Rule, Any]:
  """An optax optimizer that minimises minus the objective, each example with a state of its own."""

  def rule(point: Array, value: Array, gradient: Array, memory: Any, x: Any) -> tuple[Array, Any]:
    update, memory = jax.vmap(optimizer.update)(-gradient, memory, point)
    update = jnp.where(jnp.isfinite(update), update, 0)  # such as a norm of 0 that was divided by
    return point + update.astype(point.dtype), memory

  return rule, jax.vmap(optimizer.init)(start)


def is_wrong(logits: Array, labels: Array) -> Array:
  """Whether rows are misclassified: the largest score, the first of equal ones, or NaN."""
  # Compilers keep scores of 16 bits in 32 inside of a program: equal ones would differ there.
  scores = logits
  if jnp.issubdtype(logits.dtype, jnp.floating):
    kind = jnp.finfo(logits.dtype)
    scores = jax.lax.reduce_precision(logits, kind.nexp, kind.nmant)
  scores = numerics.upcast(scores)
  return (jnp.argmax(scores, axis=-1) != labels) | jnp.any(jnp.isnan(scores), axis=-1)
