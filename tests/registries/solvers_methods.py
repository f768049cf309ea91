"""Calls of the splitting, fixed-point, sparse and certifying functions that must fail."""

import jax
import jax.numpy as jnp
import optax
from jax.experimental import sparse

from jaxopt_robust import prox, solvers
from tests.helpers import BadInput

COVERED: set[str] = set()  # tests/registries/solvers.py names them all

X = jnp.ones(2)
EYE = jnp.eye(2)
FUN = lambda w, *data: jnp.sum(w**2)
SAME = lambda x, *data: x
SOFT = prox.prox_lasso


def _bad(fn: str, what: str, call, error: type[Exception], match: str) -> BadInput:
  return BadInput(f"solvers.{fn}", what, call, error, match)


def _run(solver, params=X, hyper=None, *data):
  return solvers.run_until(solver, params, hyper, *data, tol=1e-3, max_steps=2)


def _svrg(**options):
  base = {"fun": FUN, "prox": SOFT, "stepsize": 0.1, "key": jax.random.key(0)}
  return solvers.prox_svrg(**{**base, **options})


BAD_INPUTS = [
  # douglas_rachford, davis_yin
  _bad(
    "douglas_rachford", "prox", lambda: solvers.douglas_rachford(None, SOFT), TypeError,
    "prox_f must be a proximal operator",
  ),
  _bad(
    "douglas_rachford", "relaxation",
    lambda: solvers.douglas_rachford(SOFT, SOFT, relaxation=2.0), ValueError,
    r"relaxation must be in \(0.0, 2.0\); got 2.0",
  ),
  _bad(
    "douglas_rachford", "stepsize", lambda: solvers.douglas_rachford(SOFT, SOFT, stepsize=0.0),
    ValueError, "stepsize must be > 0; got 0",
  ),
  _bad(
    "douglas_rachford", "no pair", lambda: _run(solvers.douglas_rachford(SOFT, SOFT), X, 1.0),
    ValueError, "hyper must be a pair",
  ),
  _bad(
    "douglas_rachford", "vector objective",
    lambda: _run(solvers.douglas_rachford(SOFT, SOFT, objective=lambda x, h: x)), ValueError,
    "objective must return a scalar",
  ),
  _bad(
    "davis_yin", "fun", lambda: solvers.davis_yin(1.0, SOFT, SOFT, stepsize=1.0), TypeError,
    "fun must be callable",
  ),
  _bad(
    "davis_yin", "relaxation",
    lambda: solvers.davis_yin(FUN, SOFT, SOFT, stepsize=1.0, relaxation=-1.0), ValueError,
    "relaxation must be > 0",
  ),
  _bad(
    "davis_yin", "vector fun",
    lambda: _run(solvers.davis_yin(lambda w: w, SOFT, SOFT, stepsize=1.0)),
    (TypeError, ValueError), "scalar",
  ),
  # admm
  _bad("admm", "argmin", lambda: solvers.admm(None, SOFT), TypeError, "argmin_f must be callable"),
  _bad("admm", "prox", lambda: solvers.admm(SOFT, 1.0), TypeError, "prox_g must be a prox"),
  _bad("admm", "op", lambda: solvers.admm(SOFT, SOFT, EYE), TypeError, "op must be callable"),
  _bad("admm", "weight", lambda: solvers.admm(SOFT, SOFT, weight=-1.0), ValueError, "weight must"),
  _bad(
    "admm", "relaxation", lambda: solvers.admm(SOFT, SOFT, relaxation=2.5), ValueError,
    "relaxation must be in",
  ),
  _bad(
    "admm", "balance", lambda: solvers.admm(SOFT, SOFT, balance=1.0), ValueError,
    "balance must be > 1",
  ),
  _bad(
    "admm", "factor", lambda: solvers.admm(SOFT, SOFT, balance=10.0, factor=0.5), ValueError,
    "factor must be > 1",
  ),
  _bad("admm", "no pair", lambda: _run(solvers.admm(SOFT, SOFT), X, (1, 2, 3)), ValueError, "pair"),
  # primal-dual
  *(
    case
    for name, make in (
      ("chambolle_pock", solvers.chambolle_pock),
      ("condat_vu", lambda *a, **k: solvers.condat_vu(FUN, *a, **k)),
    )
    for case in (
      _bad(
        name, "op", lambda m=make: m(SOFT, SOFT, EYE, stepsize=0.1, dual_stepsize=0.1), TypeError,
        "op must be callable",
      ),
      _bad(
        name, "stepsize", lambda m=make: m(SOFT, SOFT, SAME, stepsize=0.0, dual_stepsize=0.1),
        ValueError, "stepsize must be > 0",
      ),
      _bad(
        name, "dual_stepsize", lambda m=make: m(SOFT, SOFT, SAME, stepsize=0.1, dual_stepsize=-1.0),
        ValueError, "dual_stepsize must be > 0",
      ),
      _bad(
        name, "no pair",
        lambda m=make: _run(m(SOFT, SOFT, SAME, stepsize=0.1, dual_stepsize=0.1), X, 1.0),
        ValueError, "pair",
      ),
    )
  ),
  _bad(
    "chambolle_pock", "strong_convexity",
    lambda: solvers.chambolle_pock(
      SOFT, SOFT, SAME, stepsize=0.1, dual_stepsize=0.1, strong_convexity=-1.0
    ),
    ValueError, "strong_convexity must be >= 0",
  ),
  _bad(
    "condat_vu", "fun",
    lambda: solvers.condat_vu(None, SOFT, SOFT, SAME, stepsize=0.1, dual_stepsize=0.1), TypeError,
    "fun must be callable",
  ),
  # fixed points
  _bad(
    "fixed_point_iteration", "function", lambda: solvers.fixed_point_iteration(1.0), TypeError,
    "fixed_point_fun must be callable",
  ),
  _bad(
    "fixed_point_iteration", "shape",
    lambda: _run(solvers.fixed_point_iteration(lambda x, h: x[:1])), ValueError, "must agree",
  ),
  _bad("anderson", "function", lambda: solvers.anderson(None), TypeError, "callable"),
  _bad(
    "anderson", "memory", lambda: solvers.anderson(SAME, memory=0), ValueError,
    "memory must be at least 1",
  ),
  _bad("anderson", "mixing", lambda: solvers.anderson(SAME, mixing=0.0), ValueError, "mixing must"),
  _bad("anderson", "ridge", lambda: solvers.anderson(SAME, ridge=-1.0), ValueError, "ridge must"),
  _bad(
    "anderson", "shape", lambda: _run(solvers.anderson(lambda x, h: (x, x))), ValueError,
    "structure",
  ),
  # mirror descent, projected gradient, spectral
  _bad(
    "mirror_descent", "fun", lambda: solvers.mirror_descent(1, SAME, stepsize=1.0), TypeError,
    "fun must be callable",
  ),
  _bad(
    "mirror_descent", "step", lambda: solvers.mirror_descent(FUN, None, stepsize=1.0), TypeError,
    "projection_grad must be callable",
  ),
  _bad(
    "mirror_descent", "stepsize", lambda: solvers.mirror_descent(FUN, SAME, stepsize=0.0),
    ValueError, "stepsize must be > 0",
  ),
  _bad(
    "entropic_step", "mass", lambda: solvers.entropic_step(X, X, 1.0, 0.0), ValueError,
    "hyper must be > 0",
  ),
  _bad(
    "entropic_step", "shape", lambda: solvers.entropic_step(X, jnp.ones(3), 1.0), ValueError,
    "must agree in shapes",
  ),
  _bad(
    "make_projection_grad", "projection", lambda: solvers.make_projection_grad(1, jnp.log),
    TypeError, "projection must be callable",
  ),
  _bad(
    "make_projection_grad", "map", lambda: solvers.make_projection_grad(SAME, "log"), TypeError,
    "mapping_fun must be callable",
  ),
  _bad(
    "projected_gradient", "projection", lambda: solvers.projected_gradient(FUN, 1.0), TypeError,
    "projection must be callable",
  ),
  _bad(
    "projected_gradient", "stepsize",
    lambda: solvers.projected_gradient(FUN, SAME, stepsize=-1.0), ValueError, "stepsize must",
  ),
  _bad(
    "spectral_proximal_gradient", "penalty",
    lambda: solvers.spectral_proximal_gradient(FUN, SOFT), TypeError, "penalty must be a Penalty",
  ),
  _bad(
    "spectral_proximal_gradient", "memory",
    lambda: solvers.spectral_proximal_gradient(FUN, prox.lasso, memory=0), ValueError, "memory",
  ),
  _bad(
    "spectral_proximal_gradient", "bounds",
    lambda: solvers.spectral_proximal_gradient(FUN, prox.lasso, max_stepsize=1e-20), ValueError,
    "max_stepsize must be",
  ),
  # optax
  _bad("from_optax", "fun", lambda: solvers.from_optax(None, optax.sgd(0.1)), TypeError, "fun"),
  _bad(
    "from_optax", "optimizer", lambda: solvers.from_optax(FUN, 0.1), TypeError,
    "optimizer must be an optax optimizer",
  ),
  _bad(
    "from_optax", "factory", lambda: _run(solvers.from_optax(FUN, lambda h: h), X, 0.1), TypeError,
    "must be an optax optimizer; got",
  ),
  _bad(
    "from_optax", "mode", lambda: solvers.from_optax(FUN, optax.sgd(0.1), error="value"),
    ValueError, "error must be one of",
  ),
  # coordinates
  _bad(
    "block_coordinate_descent", "curvature",
    lambda: solvers.block_coordinate_descent(FUN, SOFT, curvature=0.0), ValueError,
    "curvature must be > 0",
  ),
  _bad(
    "block_coordinate_descent", "data",
    lambda: _run(solvers.block_coordinate_descent(FUN, SOFT, curvature=1.0), X, 1.0, EYE),
    ValueError, "design X and the targets y",
  ),
  _bad(
    "block_coordinate_descent", "columns",
    lambda: _run(
      solvers.block_coordinate_descent(FUN, SOFT, curvature=1.0), X, 1.0, jnp.ones((2, 3)), X
    ),
    ValueError, "a column for each of the 2 blocks",
  ),
  _bad(
    "block_coordinate_descent", "strengths",
    lambda: _run(
      solvers.block_coordinate_descent(lambda z, y: jnp.sum(z * y), SOFT, curvature=1.0), X,
      jnp.ones(3), EYE, X,
    ),
    ValueError, "leading length 2",
  ),
  _bad(
    "gram_coordinate_descent", "penalty", lambda: solvers.gram_coordinate_descent(SOFT), TypeError,
    "penalty must be a Penalty",
  ),
  _bad(
    "gram_coordinate_descent", "shapes",
    lambda: _run(solvers.gram_coordinate_descent(prox.lasso), X, 1.0, EYE, jnp.ones(3)),
    ValueError, "G must have shape",
  ),
  _bad(
    "gram_coordinate_descent", "strengths",
    lambda: _run(solvers.gram_coordinate_descent(prox.lasso), X, jnp.ones(3), EYE, X),
    ValueError, "hyper must hold scalars or arrays",
  ),
  # working sets
  _bad(
    "working_set", "fun", lambda: solvers.working_set(None, SOFT, stepsize=1.0), TypeError,
    "fun must be callable",
  ),
  _bad(
    "working_set", "stepsize", lambda: solvers.working_set(FUN, SOFT, stepsize=0.0), ValueError,
    "stepsize must be > 0",
  ),
  _bad(
    "working_set", "size", lambda: solvers.working_set(FUN, SOFT, stepsize=1.0, min_size=0),
    ValueError, "min_size must be at least 1",
  ),
  _bad(
    "working_set", "factor",
    lambda: solvers.working_set(FUN, SOFT, stepsize=1.0, inner_factor=1.0), ValueError,
    "inner_factor must be in",
  ),
  _bad(
    "working_set", "no data", lambda: _run(solvers.working_set(FUN, SOFT, stepsize=1.0), X, 1.0),
    ValueError, "data must be the design X",
  ),
  _bad(
    "working_set", "columns",
    lambda: _run(solvers.working_set(FUN, SOFT, stepsize=1.0), X, 1.0, jnp.ones((2, 3)), X),
    ValueError, "a column for each of the 2 params",
  ),
  _bad(
    "working_set", "strengths",
    lambda: _run(solvers.working_set(FUN, SOFT, stepsize=1.0), X, jnp.ones(3), EYE, X),
    ValueError, "arrays of shape",
  ),
  # hard thresholding
  *(
    case
    for name, make in (
      ("iht", lambda s: solvers.iht(sparsity=s, stepsize=0.1)),
      ("niht", lambda s: solvers.niht(sparsity=s)),
      ("htp", lambda s: solvers.htp(sparsity=s)),
    )
    for case in (
      _bad(name, "zero", lambda m=make: m(0), ValueError, "sparsity must be at least 1"),
      _bad(name, "float", lambda m=make: m(1.0), TypeError, "static Python integer"),
      _bad(
        name, "too many", lambda m=make: _run(m(3), X, None, EYE, X), ValueError,
        "at most the size of params, 2; got 3",
      ),
      _bad(name, "data", lambda m=make: _run(m(1), X, None, EYE), ValueError, "matrix A and the"),
      _bad(
        name, "shape", lambda m=make: _run(m(1), X, None, EYE, jnp.ones(3)), ValueError,
        "equal shapes",
      ),
      _bad(
        name, "rank", lambda m=make: _run(m(1), EYE, None, EYE, X), ValueError, "rank 1",
      ),
    )
  ),
  _bad("iht", "stepsize", lambda: solvers.iht(sparsity=1, stepsize=0.0), ValueError, "> 0"),
  _bad(
    "niht", "reductions", lambda: solvers.niht(sparsity=1, max_reductions=0), ValueError,
    "max_reductions must be at least 1",
  ),
  _bad(
    "htp", "measurements",
    lambda: _run(solvers.htp(sparsity=2), X, None, jnp.ones((1, 2)), jnp.ones(1)), ValueError,
    "number of measurements, 1; got 2",
  ),
  # prox-SVRG
  *(
    _bad("prox_svrg", what, lambda o=options: _svrg(**o), error, match)
    for what, options, error, match in (
      ("fun", {"fun": None}, TypeError, "fun must be callable"),
      ("prox", {"prox": 3}, TypeError, "prox must be a proximal operator"),
      ("key", {"key": 0}, TypeError, "key must be a typed key"),
      ("batch", {"batch_size": 0}, ValueError, "batch_size must be at least 1"),
      ("inner", {"num_inner": 0}, ValueError, "num_inner must be at least 1"),
      ("step", {"stepsize": 0.0}, ValueError, "stepsize must be > 0"),
    )
  ),
  _bad("prox_svrg", "no data", lambda: _run(_svrg(), X, 1.0), ValueError, "data must hold arrays"),
  _bad(
    "prox_svrg", "lengths", lambda: _run(_svrg(), X, 1.0, EYE, jnp.ones(3)), ValueError,
    "leading axes",
  ),
  # PALM
  _bad("palm", "fun", lambda: solvers.palm(None, [SOFT], [FUN]), TypeError, "fun must be callable"),
  _bad(
    "palm", "blocks", lambda: solvers.palm(FUN, [SOFT, SOFT], [FUN]), ValueError,
    "one function a block; got 2 and 1",
  ),
  _bad("palm", "prox", lambda: solvers.palm(FUN, [1], [FUN]), TypeError, "proxes must be a prox"),
  _bad(
    "palm", "safety", lambda: solvers.palm(FUN, [SOFT], [FUN], safety=1.0), ValueError,
    "safety must be > 1",
  ),
  _bad(
    "palm", "params", lambda: _run(solvers.palm(FUN, [SOFT], [FUN]), X), ValueError,
    "params must be a tuple of 1 blocks",
  ),
  _bad(
    "palm", "hyper", lambda: _run(solvers.palm(FUN, [SOFT], [FUN]), (X,), 1.0), ValueError,
    "one entry for each of 1 blocks",
  ),
  # power iteration
  _bad(
    "operator_norm", "key", lambda: solvers.operator_norm(SAME, X, key=0), TypeError, "typed key",
  ),
  _bad(
    "operator_norm", "not linear",
    lambda: solvers.operator_norm(lambda x: x**2, X, key=jax.random.key(0)), Exception, None,
  ),
  _bad(
    "operator_norm", "steps",
    lambda: solvers.operator_norm(SAME, X, key=jax.random.key(0), num_steps=0), ValueError,
    "num_steps must be at least 1",
  ),
  _bad(
    "operator_norm", "margin",
    lambda: solvers.operator_norm(SAME, X, key=jax.random.key(0), margin=0.5), ValueError,
    "margin must be in",
  ),
  # drivers and derivatives
  _bad(
    "run_state", "state",
    lambda: solvers.run_state(solvers.fixed_point_iteration(SAME), X, None, tol=0.1, max_steps=1),
    TypeError, "state must be a solver's state",
  ),
  _bad(
    "run_steps", "truncate",
    lambda: solvers.run_steps(
      solvers.fixed_point_iteration(SAME), X, None, num_steps=3, truncate=-1
    ),
    ValueError, "truncate must be at least 0",
  ),
  _bad(
    "implicit_fixed_point", "solver",
    lambda: solvers.implicit_fixed_point(SAME, tol=0.1, max_steps=1), TypeError,
    "solver must be a Solver",
  ),
  _bad(
    "implicit_fixed_point", "tol",
    lambda: solvers.implicit_fixed_point(
      solvers.fixed_point_iteration(SAME), tol=-0.1, max_steps=1
    ),
    ValueError, "tol must be >= 0",
  ),
  _bad(
    "support_residual", "fun", lambda: solvers.support_residual(None, prox.lasso), TypeError,
    "fun must be callable",
  ),
  _bad(
    "support_residual", "penalty", lambda: solvers.support_residual(FUN, SOFT), TypeError,
    "penalty must be a Penalty",
  ),
  _bad(
    "support_residual", "support",
    lambda: solvers.support_residual(FUN, prox.lasso, support=X), TypeError, "support must be",
  ),
  _bad(
    "solve_neumann", "matvec", lambda: solvers.solve_neumann(None, X, num_terms=1), TypeError,
    "matvec must be callable",
  ),
  _bad(
    "condat_vu", "vector step",
    lambda: solvers.condat_vu(FUN, SOFT, SOFT, SAME, stepsize=X, dual_stepsize=0.1), ValueError,
    "stepsize must be a scalar",
  ),
  _bad(
    "davis_yin", "vector step", lambda: solvers.davis_yin(FUN, SOFT, SOFT, stepsize=X), ValueError,
    "stepsize must be a scalar",
  ),
  _bad(
    "mirror_descent", "vector step", lambda: solvers.mirror_descent(FUN, SAME, stepsize=X),
    ValueError, "stepsize must be a scalar",
  ),
  _bad(
    "entropic_step", "stepsize", lambda: solvers.entropic_step(X, X, -1.0), ValueError,
    "stepsize must be > 0",
  ),
  _bad(
    "block_coordinate_descent", "sparse integers",
    lambda: _run(
      solvers.block_coordinate_descent(FUN, SOFT, curvature=1.0), X, 1.0,
      sparse.BCOO.fromdense(jnp.eye(2, dtype=int)), X,
    ),
    TypeError, "X must hold real floating-point numbers",
  ),
  _bad(
    "solve_neumann", "terms", lambda: solvers.solve_neumann(SAME, X, num_terms=-1), ValueError,
    "num_terms must be at least 0",
  ),
  _bad(
    "solve_neumann", "stepsize",
    lambda: solvers.solve_neumann(SAME, X, num_terms=1, stepsize=0.0), ValueError, "> 0",
  ),
]  # fmt: skip

for _name in ("lasso", "non_negative_lasso", "elastic_net", "group_lasso", "logistic_lasso"):
  _gap = getattr(solvers, f"{_name}_duality_gap")
  _w = EYE if _name == "group_lasso" else X
  _h = (lambda v: (v, 1.0)) if _name == "elastic_net" else (lambda v: v)
  BAD_INPUTS += [
    _bad(
      f"{_name}_duality_gap", "shape",
      lambda g=_gap, w=_w, h=_h: g(w, jnp.ones((2, 3)), w, hyperparams=h(1.0)), ValueError,
      "x must have shape",
    ),
    _bad(
      f"{_name}_duality_gap", "negative",
      lambda g=_gap, w=_w, h=_h: g(w, EYE, w, hyperparams=h(-1.0)), ValueError, ">= 0; got -1",
    ),
    _bad(
      f"{_name}_duality_gap", "text",
      lambda g=_gap, w=_w, h=_h: g("text", EYE, w, hyperparams=h(1.0)), TypeError,
      "array of numbers",
    ),
    _bad(
      f"{_name}_duality_gap", "strengths",
      lambda g=_gap, w=_w, h=_h: g(w, EYE, w, hyperparams=h(jnp.ones(3))), ValueError,
      "a scalar or one number for each of the 2 features",
    ),
    _bad(
      f"{_name}_duality_gap", "weights",
      lambda g=_gap, w=_w, h=_h: g(w, EYE, w, hyperparams=h(1.0), sample_weight=-X), ValueError,
      "sample_weight must be >= 0",
    ),
    _bad(
      f"{_name}_duality_gap", "weights' length",
      lambda g=_gap, w=_w, h=_h: g(w, EYE, w, hyperparams=h(1.0), sample_weight=jnp.ones(3)),
      ValueError, "sample_weight and the rows of y must have equal shapes",
    ),
  ]  # fmt: skip
BAD_INPUTS += [
  _bad(
    "elastic_net_duality_gap", "pair",
    lambda: solvers.elastic_net_duality_gap(X, EYE, X, hyperparams=1.0), ValueError, "pair",
  ),
  _bad(
    "logistic_lasso_duality_gap", "labels",
    lambda: solvers.logistic_lasso_duality_gap(X, EYE, 0 * X, hyperparams=1.0), ValueError,
    "labels -1 and 1",
  ),
]  # fmt: skip
