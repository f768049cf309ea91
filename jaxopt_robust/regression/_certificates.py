"""Certificates of paths: upper bounds of objective minus minimum, from a dual point."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxopt_robust import _designs
from jaxopt_robust.prox import elastic_net, lasso, non_negative_lasso
from jaxopt_robust.prox.groups import group_form
from jaxopt_robust.regression._problem import Inputs, Model, Params, Problem, original, predict
from jaxopt_robust.regression.linear_losses import linear_loss, total_loss
from jaxopt_robust.solvers import (
  _group_descent,
  elastic_net_duality_gap,
  lasso_duality_gap,
  logistic_lasso_duality_gap,
  non_negative_lasso_duality_gap,
)
from jaxopt_robust.typing import Array

# Bisections for an intercept: down to the last bits.
_HALVINGS = 80

_Gap = Callable[[Params, Array, Array], Array]


def known(model: Model) -> bool:
  """Whether a duality gap is known for a loss and a penalty."""
  losses = [linear_loss(name) for name in ("squared", "logistic", "huber", "poisson")]
  form = group_form(model.penalty)
  sums = model.penalty in (lasso, elastic_net, non_negative_lasso)
  return model.loss in losses and (sums or (form is not None and form.penalty == lasso))


def make(model: Model, inputs: Inputs, problem: Problem) -> _Gap:
  """``(parameters, loss, strength) -> gap``."""
  if group_form(model.penalty) is None and model.loss == linear_loss("squared"):
    return _squared(model, inputs, problem)
  if model.loss == linear_loss("logistic") and model.penalty == lasso:
    return _logistic(model, inputs, problem)
  return _by_conjugates(model, inputs, problem)


def _as_given(inputs: Inputs, problem: Problem) -> tuple[Array, Callable[[Array], Array]]:
  """Lengths of the columns by those they are scaled to, and their strengths in units as given."""
  alive = problem.scale > 0
  length = jnp.where(alive, 1 / jnp.where(alive, problem.scale, 1), 1)

  def strengths(strength: Array) -> Array:
    return jnp.where(alive, length * _strengths(inputs, strength), jnp.inf)

  return length, strengths


def _strengths(inputs: Inputs, strength: Array) -> Array:
  factor = jnp.ones((), strength.dtype) if inputs.factor is None else inputs.factor
  return jnp.where(jnp.isinf(factor), jnp.inf, strength * jnp.where(jnp.isinf(factor), 1, factor))


def _logistic(model: Model, inputs: Inputs, problem: Problem) -> _Gap:
  n = problem.weights.shape[0]
  _, strengths = _as_given(inputs, problem)
  x = _designs.to_dense(problem.x)
  ones = jnp.full((n, 1), 1.0 if model.intercept else 0.0, x.dtype)
  wide = jnp.concatenate([x, ones], axis=1)

  def gap(params: Params, loss: Array, strength: Array) -> Array:
    del loss
    hyper = jnp.append(strengths(strength), 0.0 if model.intercept else jnp.inf)
    return logistic_lasso_duality_gap(
      jnp.append(*original(problem, params)), wide, 2 * problem.target - 1, hyperparams=hyper,
      sample_weight=n * problem.weights,
    )  # fmt: skip

  return gap


def _squared(model: Model, inputs: Inputs, problem: Problem) -> _Gap:
  length, strengths = _as_given(inputs, problem)
  # At the best intercept the problem is the one of the centred data.
  x = _designs.to_dense(problem.x) - problem.center[None, :]
  y = problem.target
  if model.intercept:
    y = y - jnp.sum(problem.weights * y)
  options = {"sample_weight": problem.weights.shape[0] * problem.weights}

  def gap(params: Params, loss: Array, strength: Array) -> Array:
    del loss
    w, _ = original(problem, params)
    if model.penalty == elastic_net:
      hyper = (strengths(strength), length * inputs.params[0])
      return elastic_net_duality_gap(w, x, y, hyperparams=hyper, **options)
    found = lasso_duality_gap if model.penalty == lasso else non_negative_lasso_duality_gap
    return found(w, x, y, hyperparams=strengths(strength), **options)

  return gap


def _entropy(p: Array) -> Array:
  return jax.scipy.special.xlogy(p, p)


def _conjugate(model: Model, problem: Problem, u: Array) -> Array:
  """l*(u_i) = sup_z u_i z - l(z, y_i), of numbers that are within its domain."""
  y = problem.target
  if model.loss == linear_loss("logistic"):
    return _entropy(u + y) + _entropy(1 - u - y)
  if model.loss == linear_loss("poisson"):
    return _entropy(u + y) - u - _entropy(y)
  return u * y + 0.5 * u**2  # squared, Huber


def _domain(model: Model, problem: Problem, u: Array) -> Array:
  """The largest multiple of u whose entries are all in the domain of the conjugate."""
  y = problem.target
  if model.loss == linear_loss("squared"):
    return jnp.full((), jnp.inf, u.dtype)
  if model.loss == linear_loss("logistic"):
    room = jnp.where(u < 0, y, 1 - y)
  elif model.loss == linear_loss("poisson"):
    room = jnp.where(u < 0, y, jnp.inf)
  else:
    room = jnp.full_like(y, problem.loss_hyper)
  binds = (u != 0) & (problem.weights > 0)
  return jnp.min(jnp.where(binds, room / jnp.where(binds, jnp.abs(u), 1), jnp.inf))


def _slopes(model: Model, problem: Problem, z: Array) -> Array:
  """l' of each row, at predictions that are shifted so that they have the mean 0.

  The dual point must be orthogonal to the intercept's column; at the best intercept it is.
  """
  weights, target = problem.weights, problem.target
  ones = jnp.ones_like(weights)
  rows = jax.grad(lambda z: total_loss(model.loss, z, target, ones, problem.loss_hyper))
  if not model.intercept:
    return rows(z)
  if model.loss == linear_loss("squared"):
    return rows(z) - jnp.sum(weights * rows(z))
  mean = lambda shift: jnp.sum(weights * rows(z + shift))

  def halve(_: int, ends: tuple[Array, Array]) -> tuple[Array, Array]:
    low, high = ends
    middle = 0.5 * (low + high)
    above = mean(middle) > 0
    return jnp.where(above, low, middle), jnp.where(above, middle, high)

  # So far that the slopes have their signs there: by how much a prediction misses its own best one.
  if model.loss == linear_loss("huber"):
    reach = jnp.max(jnp.abs(target - z)) + problem.loss_hyper
  else:
    reach = jnp.max(jnp.abs(z)) - jnp.log(jnp.finfo(z.dtype).eps)
    reach = reach + jnp.log1p(jnp.max(target))
  low, high = jax.lax.fori_loop(0, _HALVINGS, halve, (-reach, reach))
  return rows(z + 0.5 * (low + high))


class _Terms(NamedTuple):
  """A penalty as a sum of strengths times lengths, of features or groups.

  Attributes:
    lengths: ``vector -> float[B]`` of float[p].
    strengths: ``strength -> float[B]``, infinite where every coefficient has to be 0.
    positive: bool[p], the coefficients that are to be non-negative.
  """

  lengths: Callable[[Array], Array]
  strengths: Callable[[Array], Array]
  positive: Array


def _terms(model: Model, inputs: Inputs, problem: Problem) -> _Terms:
  form, dead = group_form(model.penalty), problem.scale == 0
  if form is None:
    strengths = lambda strength: jnp.where(dead, jnp.inf, _strengths(inputs, strength))
    positive = jnp.full(dead.shape, model.penalty == non_negative_lasso)
    return _Terms(jnp.abs, strengths, positive)
  groups = _group_descent.of(form)
  positive = jnp.full(dead.shape, form.non_negative)

  def of_groups(strength: Array) -> Array:
    found = jnp.broadcast_to(_strengths(inputs, strength), (form.num_groups,))
    found = jnp.append(found, jnp.zeros(groups.free.size - form.num_groups, found.dtype))
    return jnp.where(groups.norms(jnp.where(dead, 0.0, 1.0)) == 0, jnp.inf, found)

  return _Terms(groups.norms, of_groups, positive)


def _by_conjugates(model: Model, inputs: Inputs, problem: Problem) -> _Gap:
  """P - D for D(u) = -sum_i s_i l_i*(u_i) - g*(-x^T (s u)), at a multiple of the slopes u."""
  weights, terms = problem.weights, _terms(model, inputs, problem)

  def gap(params: Params, loss: Array, strength: Array) -> Array:
    lam = terms.strengths(strength)
    u = _slopes(model, problem, predict(problem, params))
    u = jnp.where(weights > 0, u, 0)
    score = -problem.scale * ((weights * u) @ problem.x - problem.center * jnp.sum(weights * u))
    size = terms.lengths(jnp.where(terms.positive, jnp.maximum(score, 0), score))
    ridge = jnp.zeros_like(lam)
    if model.penalty == elastic_net:
      ridge = jnp.where(jnp.isinf(lam), 0, lam) * inputs.params[0]
    binds = (size > 0) & (ridge == 0) & ~jnp.isinf(lam)
    most = jnp.min(jnp.where(binds, lam / jnp.where(binds, size, 1), jnp.inf))
    multiple = jnp.minimum(1, jnp.minimum(most, _domain(model, problem, u)))
    u, size = multiple * u, multiple * size
    beyond = jnp.maximum(size - jnp.where(jnp.isinf(lam), 0, lam), 0) ** 2
    curved = ridge > 0
    dual = jnp.sum(jnp.where(curved, beyond / (2 * jnp.where(curved, ridge, 1)), 0))

    def at(u: Array) -> Array:
      return -jnp.sum(jnp.where(weights > 0, weights * _conjugate(model, problem, u), 0))

    dual = jnp.maximum(at(u) - dual, at(jnp.zeros_like(u)))
    w = params.coefficients
    length = terms.lengths(w)
    finite = jnp.where(jnp.isinf(lam), 0, lam)
    primal = loss + jnp.sum(finite * length) + 0.5 * jnp.sum(ridge * length**2)
    allowed = ~jnp.any(jnp.isinf(lam) & (length != 0)) & ~jnp.any(terms.positive & (w < 0))
    found = primal - dual
    return jnp.where(allowed | jnp.isnan(found), found, jnp.inf)

  return gap
