"""Curvature models: Hessians where they are exact, what they leave out elsewhere, equal forms."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxopt_robust import solvers
from tests.helpers import assert_no_retrace

pytestmark = pytest.mark.x64


def curved(w, a):
  """Six residuals of four parameters, second derivatives and all."""
  return jnp.tanh(a @ w) + 0.3 * (a @ w) ** 2


def affine(w, a):
  return a @ w - 1.0


def draw(rng):
  return jnp.asarray(rng.standard_normal(4)), jnp.asarray(rng.standard_normal((6, 4)))


def dense(model, w, *data):
  found = model(w, *data)
  if isinstance(found, solvers.LowRankCurvature):
    return found.factors @ jnp.diag(found.weights) @ found.factors.T
  return found if not callable(found) else jax.vmap(found)(jnp.eye(w.size))


MODELS = {
  "gauss_newton": solvers.gauss_newton_curvature,
  "power_norm": functools.partial(solvers.power_norm_curvature, power=3.5),
  "log_sum_exp": functools.partial(solvers.log_sum_exp_curvature, mu=0.7),
  "fisher": solvers.empirical_fisher,
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("rows", [6, 3], ids=["tall", "wide"])
def test_forms_of_a_model_are_one_matrix(name, rows, rng):
  w, a = draw(rng)
  a = a[:rows]
  make = lambda form: MODELS[name](curved, form=form)
  found = jax.jit(lambda w, a: [dense(make(f), w, a) for f in ("matrix", "factors", "product")])
  matrix, factors, product = found(w, a)
  np.testing.assert_allclose(factors, matrix, atol=1e-12)
  np.testing.assert_allclose(product, matrix, atol=1e-12)
  np.testing.assert_allclose(matrix, matrix.T, atol=1e-13)
  assert np.linalg.eigvalsh(matrix).min() > -1e-12


def test_what_each_model_leaves_out_of_the_hessian(rng):
  """Hessians by automatic differentiation; what is left out by its formula."""
  w, a = draw(rng)
  p, mu = 3.5, 0.7

  @jax.jit
  def parts(w, a):
    u, bends = curved(w, a), jax.hessian(curved)(w, a)
    size = jnp.linalg.norm(u)
    hessian = lambda f: jax.hessian(f)(w)
    share = jax.nn.softmax(affine(w, a) / mu)
    return {
      "gauss_newton": (
        hessian(lambda w: 0.5 * jnp.sum(curved(w, a) ** 2)),
        dense(MODELS["gauss_newton"](curved), w, a),
        jnp.einsum("i,ijk->jk", u, bends),
      ),
      "power_norm": (
        hessian(lambda w: jnp.sum(curved(w, a) ** 2) ** (p / 2) / p),
        dense(MODELS["power_norm"](curved), w, a),
        size ** (p - 2) * jnp.einsum("i,ijk->jk", u, bends),
      ),
      "power_norm_fisher": (
        hessian(lambda w: jnp.sum(affine(w, a) ** 2) ** (p / 2) / p),
        dense(solvers.power_norm_fisher(affine, power=p), w, a),
        jnp.linalg.norm(affine(w, a)) ** (p - 2) * a.T @ a,
      ),
      "log_sum_exp": (
        hessian(lambda w: mu * jax.nn.logsumexp(affine(w, a) / mu)),
        dense(MODELS["log_sum_exp"](affine), w, a),
        -jnp.outer(a.T @ share, a.T @ share) / mu,
      ),
      "exact": (
        hessian(lambda w: jnp.sum(curved(w, a) ** 4)),
        dense(solvers.exact_curvature(lambda w, a: jnp.sum(curved(w, a) ** 4)), w, a),
        jnp.zeros((4, 4)),
      ),
      "exact product": (
        hessian(lambda w: jnp.sum(curved(w, a) ** 4)),
        dense(
          solvers.exact_curvature(lambda w, a: jnp.sum(curved(w, a) ** 4), form="product"), w, a
        ),
        jnp.zeros((4, 4)),
      ),
    }

  for name, (hessian, model, rest) in parts(w, a).items():
    np.testing.assert_allclose(model + rest, hessian, atol=1e-10, err_msg=name)
  fisher = dense(solvers.power_norm_fisher(affine, power=p), w, a)
  grad = jax.grad(lambda w: jnp.sum(affine(w, a) ** 2) ** (p / 2) / p)(w)
  size = jnp.linalg.norm(affine(w, a))
  np.testing.assert_allclose(fisher, (p - 2) / size**p * jnp.outer(grad, grad), atol=1e-10)


def test_the_empirical_fisher_of_a_logistic_loss_is_as_near_as_the_theory_says(rng):
  """||hess f - H|| <= max_i sigma_i / n in the metric A^T A, sigma_i the odds of the wrong class.

  Each example adds (sigma (1 - sigma) - sigma^2) a a^T / n, and |sigma (1 - 2 sigma)| <= sigma.
  """
  a = jnp.asarray(rng.standard_normal((30, 4)))
  losses = lambda w, a: jax.nn.softplus(-(a @ w))

  @jax.jit
  def both(w):
    by_hand = jax.vmap(lambda row: jax.grad(lambda w: losses(w, row[None])[0])(w))(a)
    model = dense(solvers.empirical_fisher(losses), w, a)
    hessian = jax.hessian(lambda w: jnp.mean(losses(w, a)))(w)
    return model, by_hand.T @ by_hand / 30, hessian, jax.nn.sigmoid(-(a @ w))

  root = np.linalg.cholesky(np.asarray(a.T @ a))
  for scale in (0.1, 1.0, 5.0):
    model, by_hand, hessian, sigma = both(scale * jnp.asarray(rng.standard_normal(4)))
    np.testing.assert_allclose(model, by_hand, atol=1e-12)
    left = np.linalg.solve(root, np.asarray(hessian - model))
    apart = np.abs(np.linalg.eigvalsh(np.linalg.solve(root, left.T))).max()
    assert 0 < apart <= sigma.max() / 30 * (1 + 1e-9)


def test_nothing_is_nan_where_the_residual_vanishes():
  zero = jnp.zeros(2)
  same = lambda w: w
  for power, expected in ((4.0, np.zeros((2, 2))), (2.0, np.eye(2))):
    model = solvers.power_norm_curvature(same, power=power)
    np.testing.assert_array_equal(dense(model, zero), expected)
    fisher = solvers.power_norm_fisher(same, power=power)
    np.testing.assert_array_equal(dense(fisher, zero), np.zeros((2, 2)))
  np.testing.assert_array_equal(dense(solvers.zero_curvature(), zero), np.zeros((2, 2)))


def test_trees_come_in_the_order_of_ravel_pytree_and_numbers_may_be_traced(rng):
  a = jnp.asarray(rng.standard_normal((6, 4)))
  tree = {"b": jnp.ones(()), "w": jnp.arange(3.0)}
  flat = jnp.array([1.0, 0.0, 1.0, 2.0])
  on_tree = lambda t, a: curved(jnp.concatenate([t["b"][None], t["w"]]), a)

  def run(power):
    model = lambda fn, form: solvers.power_norm_curvature(fn, power=power, form=form)
    product = model(on_tree, "product")(tree, a)({"b": jnp.ones(()), "w": jnp.zeros(3)})
    return model(on_tree, "matrix")(tree, a), model(curved, "matrix")(flat, a), product

  of_tree, of_flat, product = jax.jit(run)(3.0)
  np.testing.assert_allclose(of_tree, of_flat, atol=1e-12)
  np.testing.assert_allclose(product["b"], of_flat[0, 0], atol=1e-12)
  np.testing.assert_allclose(product["w"], of_flat[1:, 0], atol=1e-12)
  assert_no_retrace(lambda p: run(p)[1], lambda i: (jnp.asarray(2.0 + i),))


@pytest.mark.parametrize("power", [2.0, 3.0])
def test_the_power_model_has_derivatives_where_its_rank_one_term_vanishes(power):
  """At p = 2 the model of u = w is the identity everywhere, at u = 0 it is flat by convention."""
  model = lambda w, p: solvers.power_norm_curvature(lambda w: w, power=p)(w)
  at = jnp.array([3.0, 4.0]) if power == 2 else jnp.zeros(2)
  np.testing.assert_array_equal(jax.jacfwd(model)(at, power), 0)
  assert np.all(np.isfinite(jax.jacfwd(model, argnums=1)(at, power)))
  zero = jax.jacfwd(model, argnums=1)(jnp.zeros(2), jnp.asarray(power))
  np.testing.assert_array_equal(zero, 0)


def test_a_reduced_loss_has_no_empirical_fisher():
  losses = lambda w: (w - 1) ** 2
  model = solvers.empirical_fisher(lambda w: jnp.mean(losses(w)))
  with pytest.raises(ValueError, match=r"losses_fn\(params\) must have rank 1; got shape \(\)"):
    model(jnp.zeros(3))
