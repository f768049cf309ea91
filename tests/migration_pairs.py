"""The two sides of the rows of the migration page that are functions of numbers."""

import importlib
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxopt_robust as jr
from tests.test_migration import MARGINALS, SIM, X, Y


def _isotonic() -> Callable:
  """jaxopt's function, whose compiled inner part refuses the buffers of recent versions of JAX."""
  inner = importlib.import_module("jaxopt._src.isotonic")
  plain = getattr(inner._isotonic_l2_pav_numba, "py_func", inner._isotonic_l2_pav_numba)
  inner._isotonic_l2_pav_numba = lambda y: plain(np.asarray(y))
  return inner.isotonic_l2_pav


def pairs() -> dict:
  """Row -> (jaxopt's call, the page's call) on random arguments (x, y, w, labels, key)."""
  import jaxopt
  from jaxopt import linear_solve, loss, objective, perturbations, projection, prox, tree_util

  out = {}

  def add(name, theirs, ours):
    out[name] = (theirs, ours)

  for name, hyper in {
    "none": lambda y: None, "lasso": lambda y: jnp.abs(y), "non_negative_lasso": lambda y: 0.3,
    "elastic_net": lambda y: (0.3, jnp.abs(y)), "group_lasso": lambda y: 0.3,
    "ridge": lambda y: jnp.abs(y), "non_negative_ridge": lambda y: 0.3,
  }.items():  # fmt: skip
    args = lambda x, y, *_, hyper=hyper: (x, hyper(y), 0.7)
    add(f"prox.prox_{name}", *(
      lambda *a, m=m, n=name, args=args: getattr(m, f"prox_{n}")(*args(*a)) for m in (prox, jr.prox)
    ))  # fmt: skip
  a, g = X[:2], X[2:8]
  for name, hyper in {
    "non_negative": lambda y: None, "box": lambda y: (-jnp.abs(y), jnp.abs(y)),
    "hypercube": lambda y: 0.4, "simplex": lambda y: 1.7, "sparse_simplex": lambda y: 2,
    "l1_sphere": lambda y: 0.8, "l1_ball": lambda y: 0.8, "l2_sphere": lambda y: 0.8,
    "l2_ball": lambda y: 0.8, "linf_ball": lambda y: 0.3, "hyperplane": lambda y: (y, 0.2),
    "halfspace": lambda y: (y, 0.2), "affine_set": lambda y: (a, a @ y),
    "polyhedron": lambda y: (a[:1], a[:1] @ y, g, g @ y + 0.1),
    "box_section": lambda y: (y - 1, y + 1, jnp.abs(y), jnp.abs(y) @ y),
  }.items():  # fmt: skip
    name = f"projection_{name}"
    for m in (projection, jr.projections):
      call = lambda x, y, *_, m=m, n=name, h=hyper: getattr(m, n)(x, h(y))
      out.setdefault(f"projection.{name}", []).append(call)
  solver = lambda fun: jaxopt.LBFGS(fun, tol=1e-7, maxiter=2000)
  square = lambda x, y: jnp.outer(x, y) + SIM
  for name, rest in (("transport", (MARGINALS,)), ("birkhoff", ())):
    for kind in ("", "kl_"):
      full = f"{kind}projection_{name}"
      add(
        f"projection.{full}",
        lambda x, y, *_, f=full, r=rest: getattr(projection, f)(
          square(x, y), *r, make_solver=solver
        ),
        lambda x, y, *_, f=full, r=rest: getattr(jr.projections, f)(square(x, y), *r),
      )
  isotonic = _isotonic()
  up = jr.projections.projection_isotonic
  add("isotonic.isotonic_l2_pav",
    lambda x, *_: (isotonic(x), isotonic(x, increasing=False), isotonic(x, -0.2, 0.4)),
    lambda x, *_: (up(x), -up(-x), jnp.clip(up(x), min=-0.2, max=0.4)))  # fmt: skip
  make = lambda m, simplex: m.make_prox_from_projection(simplex)
  add("prox.make_prox_from_projection",
    lambda x, *_: make(prox, projection.projection_simplex)(x, 1.7),
    lambda x, *_: make(jr.prox, jr.projections.projection_simplex)(x, 1.7))  # fmt: skip
  binary = lambda f: lambda x, y, w, labels, key: jax.vmap(f)(labels % 2, x)
  sign = lambda labels: 2.0 * (labels % 2) - 1
  add("loss.binary_hinge_loss", binary(loss.binary_hinge_loss),
    lambda x, y, w, labels, key: optax.losses.hinge_loss(x, sign(labels)))  # fmt: skip
  add("loss.binary_perceptron_loss", binary(loss.binary_perceptron_loss),
    lambda x, y, w, labels, *_: optax.losses.perceptron_loss(x, sign(labels)))  # fmt: skip
  add("loss.binary_logistic_loss", binary(loss.binary_logistic_loss),
    lambda x, y, w, k, _: optax.losses.sigmoid_binary_cross_entropy(x, k % 2))  # fmt: skip
  add("loss.binary_sparsemax_loss", binary(loss.binary_sparsemax_loss),
    lambda x, y, w, labels, key: optax.losses.sparsemax_loss(x, labels % 2))  # fmt: skip
  add("loss.huber_loss", lambda x, y, *_: loss.huber_loss(x, y, 0.3),
    lambda x, y, *_: optax.losses.huber_loss(y, x, delta=0.3))  # fmt: skip
  for name, ours in {
    "hinge": jr.losses.crammer_singer_loss, "logistic": jr.losses.cross_entropy_loss,
    "perceptron": jax.vmap(optax.losses.multiclass_perceptron_loss),
    "sparsemax": optax.losses.multiclass_sparsemax_loss,
  }.items():  # fmt: skip
    full = f"multiclass_{name}_loss"
    add(f"loss.{full}",
      lambda x, y, w, labels, key, n=full: jax.vmap(getattr(loss, n))(labels, w),
      lambda x, y, w, labels, key, f=ours: f(w, labels))  # fmt: skip
  add("loss.sparse_plus", lambda x, *_: loss.sparse_plus(x), lambda x, *_: jax.nn.sparse_plus(x))
  add("loss.sparse_sigmoid", lambda x, *_: loss.sparse_sigmoid(x),
    lambda x, *_: jax.nn.sparse_sigmoid(x))  # fmt: skip
  add("loss.make_fenchel_young_loss",
    lambda x, y, *_: loss.make_fenchel_young_loss(jax.nn.logsumexp)(y, x),
    lambda x, y, *_: optax.losses.make_fenchel_young_loss(jax.nn.logsumexp)(x, y))  # fmt: skip
  add("objective.least_squares", lambda x, *_: objective.least_squares(x, (X, Y)),
    lambda x, *_: 0.5 * jnp.mean((X @ x - Y) ** 2))  # fmt: skip
  add("objective.ridge_regression", lambda x, *_: objective.ridge_regression(x, 0.3, (X, Y)),
    lambda x, *_: 0.5 * jnp.mean((X @ x - Y) ** 2) + jr.prox.ridge.value(x, 0.3))  # fmt: skip
  add("objective.binary_logreg",
    lambda x, y, w, labels, key: objective.binary_logreg(x, (X[:3], labels % 2)),
    lambda x, y, w, labels, key: jnp.mean(
      optax.losses.sigmoid_binary_cross_entropy(X[:3] @ x, labels % 2)
    ))  # fmt: skip
  entropy = lambda w, b, labels: jnp.mean(jr.losses.cross_entropy_loss(X[:3] @ w + b[None], labels))
  add("objective.multiclass_logreg",
    lambda x, y, w, labels, key: objective.multiclass_logreg(w, (X[:3], labels)),
    lambda x, y, w, labels, *_: entropy(w, 0 * x, labels))  # fmt: skip
  add("objective.multiclass_logreg_with_intercept",
    lambda x, y, w, labels, key: objective.multiclass_logreg_with_intercept(
      (w, x), (X[:3], labels)
    ),
    lambda x, y, w, labels, *_: entropy(w, x, labels))  # fmt: skip
  add("objective.l2_multiclass_logreg",
    lambda x, y, w, labels, key: objective.l2_multiclass_logreg(w, 0.3, (X[:3], labels)),
    lambda x, y, w, k, _: entropy(w, 0 * x, k) + jr.prox.ridge.value(w, 0.3))  # fmt: skip
  add("objective.l2_multiclass_logreg_with_intercept",
    lambda x, y, w, labels, key: objective.l2_multiclass_logreg_with_intercept(
      (w, x), 0.3, (X[:3], labels)
    ),
    lambda x, y, w, labels, *_: entropy(w, x, labels) + jr.prox.ridge.value(w, 0.3))  # fmt: skip
  spd = lambda w: w @ w.T + jnp.eye(3)
  for name, ours in {
    "cg": jr.solvers.solve_cg, "bicgstab": jr.solvers.solve_bicgstab,
    "gmres": jr.solvers.solve_gmres, "cholesky": jr.solvers.solve_dense,
    "inv": jr.solvers.solve_dense, "lu": jr.solvers.solve_dense, "qr": jr.solvers.solve_dense,
  }.items():  # fmt: skip
    for f in (getattr(linear_solve, f"solve_{name}"), ours):
      call = lambda x, y, w, *_, f=f: f(lambda v: spd(w) @ v, x)
      out.setdefault(f"linear_solve.solve_{name}", []).append(call)
  trees = lambda x, y: ({"a": x, "b": y[:2]}, {"a": y + 3, "b": x[:2] + 3})
  tree = optax.tree
  for name, ours in {
    "add": tree.add, "sub": tree.sub, "mul": tree.mul, "div": tree.div, "vdot": tree.vdot,
    "vdot_real": lambda a, b: jnp.real(tree.vdot(a, b)),
    "dot": lambda a, b: jax.tree.map(jnp.dot, a, b),
  }.items():  # fmt: skip
    add(f"tree_util.tree_{name}",
      lambda x, y, *_, n=name: getattr(tree_util, f"tree_{n}")(*trees(x, y)),
      lambda x, y, *_, f=ours: f(*trees(x, y)))  # fmt: skip
  add("tree_util.tree_where", lambda x, y, *_: tree_util.tree_where(x[0] > 0, *trees(x, y)),
    lambda x, y, *_: jr.numerics.tree_where(x[0] > 0, *trees(x, y)))  # fmt: skip
  for name, ours in {
    "sum": tree.sum, "l2_norm": tree.norm, "inf_norm": lambda t: tree.norm(t, ord=jnp.inf),
    "zeros_like": tree.zeros_like, "ones_like": tree.ones_like, "conj": tree.conj,
    "real": tree.real, "negative": lambda t: jax.tree.map(jnp.negative, t),
    "imag": lambda t: jax.tree.map(jnp.imag, t),
  }.items():  # fmt: skip
    add(f"tree_util.tree_{name}",
      lambda x, y, *_, n=name: getattr(tree_util, f"tree_{n}")(trees(x, y)[0]),
      lambda x, y, *_, f=ours: f(trees(x, y)[0]))  # fmt: skip
  add("tree_util.tree_scalar_mul", lambda x, y, *_: tree_util.tree_scalar_mul(0.3, trees(x, y)[0]),
    lambda x, y, *_: tree.scale(0.3, trees(x, y)[0]))  # fmt: skip
  add("tree_util.tree_add_scalar_mul",
    lambda x, y, *_: tree_util.tree_add_scalar_mul(trees(x, y)[0], 0.3, trees(x, y)[1]),
    lambda x, y, *_: tree.add_scale(trees(x, y)[0], 0.3, trees(x, y)[1]))  # fmt: skip
  add("tree_util.broadcast_pytrees",
    lambda x, y, *_: tree_util.broadcast_pytrees(1.0, trees(x, y)[0])[0],
    lambda x, y, *_: jax.tree.broadcast(1.0, trees(x, y)[0]))  # fmt: skip
  for name in ("Gumbel", "Normal"):
    draw = lambda x, y, w, labels, key, m=None, n=name: getattr(m, n)().sample(key, (3,))
    add(
      f"perturbations.{name}", *(partial(draw, m=m) for m in (perturbations, optax.perturbations))
    )
  return out
