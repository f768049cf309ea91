"""Hypergradients against closed forms, central differences, dense algebra and peers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxopt_robust import bilevel, prox, solvers
from tests.helpers import assert_no_retrace, central_difference

N, D = 30, 6


@pytest.fixture
def data(rng):
  """Training and validation rows."""
  truth = rng.normal(size=D)
  x, z = rng.normal(size=(2, N, D))
  y, t = (m @ truth + 0.3 * rng.normal(size=N) for m in (x, z))
  return tuple(jnp.asarray(a) for a in (x, y, z, t))


def ridge(w, h, x, y, *_):
  """1/2n ||X w - y||^2 + 1/2 sum e^{h_j} w_j^2: a weight a coefficient."""
  return 0.5 * jnp.mean((x @ w - y) ** 2) + 0.5 * jnp.sum(jnp.exp(h) * w**2)


def validation(w, h, x, y, z, t):
  """Half the mean square on other rows, and a direct dependence on h."""
  return 0.5 * jnp.mean((z @ w - t) ** 2) + 0.01 * jnp.sum(h**2)


def ridge_solution(h, x, y):
  return np.linalg.solve(x.T @ x / N + np.diag(np.exp(h)), x.T @ y / N)


def logistic(w, h, x, y, *_):
  return jnp.mean(jax.nn.softplus(-jnp.sign(y) * (x @ w))) + 0.5 * jnp.sum(jnp.exp(h) * w**2)


def newton_solution(h, data, inner=logistic):
  """The inner solution to rounding, by Newton's method."""
  w = jnp.zeros(D)
  for _ in range(12):
    w = w - jnp.linalg.solve(jax.hessian(inner)(w, h, *data), jax.grad(inner)(w, h, *data))
  return w


H = np.linspace(-1.0, 0.5, D)


@functools.partial(jax.jit, static_argnames=("inner", "options"))
def implicit(w, h, data, inner, options=()):
  return bilevel.hypergradient(inner, validation, w, h, *data, **dict(options))


@pytest.mark.x64
def test_ridge_has_its_closed_form(data):
  x, y, z, t = (np.asarray(a) for a in data)
  w = ridge_solution(H, x, y)
  grad, info = implicit(jnp.asarray(w), H, data, ridge, (("tol", 1e-13),))
  hessian = x.T @ x / N + np.diag(np.exp(H))
  adjoint = np.linalg.solve(hessian, z.T @ (z @ w - t) / N)
  np.testing.assert_allclose(info.adjoint, adjoint, rtol=1e-11)
  np.testing.assert_allclose(grad, -np.exp(H) * w * adjoint + 0.02 * H, rtol=1e-10)
  np.testing.assert_allclose(info.value, validation(w, H, *data), rtol=1e-14)
  assert int(info.status) == 0 and int(info.steps) <= D + 2
  assert float(info.inner_gradient) < 1e-14 and float(info.residual) < 1e-12
  assert info.bound == np.inf


SOLVES = {
  "gmres": solvers.solve_gmres,
  "bicgstab": solvers.solve_bicgstab,
  "dense": solvers.solve_dense,
  "neumann": functools.partial(solvers.solve_neumann, num_terms=300, stepsize=0.3),
}


@pytest.mark.x64
def test_logistic_is_the_central_difference_by_every_solve(data):
  w = newton_solution(H, data)
  wanted = central_difference(lambda h: validation(newton_solution(h, data), h, *data), H)
  for options in ((), *((("linear_solve", solve),) for solve in SOLVES.values())):
    grad, info = implicit(w, H, data, logistic, (*options, ("tol", 1e-9)))
    np.testing.assert_allclose(grad, wanted, atol=2e-8)
    assert int(info.status) == 0 and (int(info.steps) == -1) == bool(options)
  near = (("products", bilevel.finite_difference_products), ("tol", 1e-6))
  grad, info = implicit(w, H, data, logistic, near)
  np.testing.assert_allclose(grad, wanted, atol=1e-7)


@pytest.mark.x64
@pytest.mark.peer
def test_it_is_jaxopts_root_derivative(data):
  diff = pytest.importorskip("jaxopt").implicit_diff
  w = newton_solution(H, data)
  cotangent, direct = jax.grad(validation, argnums=(0, 1))(w, H, *data)
  (pulled,) = diff.root_vjp(lambda w, h: jax.grad(logistic)(w, h, *data), w, (H,), cotangent)
  grad, _ = implicit(w, H, data, logistic, (("tol", 1e-12),))
  np.testing.assert_allclose(grad, pulled + direct, rtol=1e-6, atol=1e-9)


@pytest.mark.x64
def test_warm_starts_save_products_and_limits_are_told(data):
  w = newton_solution(H, data)
  _, cold = implicit(w, H, data, logistic, (("tol", 1e-8),))
  warm = jax.jit(lambda v: bilevel.hypergradient(logistic, validation, w, H, *data, adjoint=v,
                                                 tol=1e-7))  # fmt: skip
  assert int(warm(cold.adjoint)[1].steps) == 1 < int(cold.steps)
  _, short = implicit(w, H, data, logistic, (("tol", 1e-8), ("max_steps", 2)))
  assert int(short.status) == solvers.STEP_LIMIT and float(short.residual) > 1e-8
  _, loose = implicit(w, H, data, logistic, (("tol", 0.0), ("atol", 0.01)))
  assert int(loose.status) == 0 and 1e-8 < float(loose.residual) <= 0.01
  _, bad = implicit(w * jnp.nan, H, data, logistic)
  assert int(bad.status) == solvers.NON_FINITE


@pytest.mark.x64
def test_bound_is_never_violated_on_quadratics(rng):
  """Exact constants of random quadratics; inner points and adjoints that are off."""
  inner = lambda y, x, a, b: 0.5 * jnp.sum((a @ y + b @ x) ** 2)
  outer = lambda y, x, *_: 0.5 * jnp.sum((y - 1.0) ** 2) * 3.0
  options = {"tol": 0.0, "max_steps": 3}
  call = jax.jit(lambda c, y, x, *m: bilevel.hypergradient(
    inner, outer, y, x, *m, constants=c, **options))  # fmt: skip
  ratios = []
  for scale in (0.1, 1.0, 10.0):
    for _ in range(12):
      a, b = rng.normal(size=(2, 8, 5)) * scale
      x = rng.normal(size=5)
      eigenvalues = np.linalg.eigvalsh(a.T @ a)
      cross = np.linalg.norm(a.T @ b, 2)
      known = bilevel.BilevelConstants(eigenvalues[0], 3.0, cross)
      star = -np.linalg.solve(a.T @ a, a.T @ b @ x)
      truth = -(b.T @ a) @ np.linalg.solve(a.T @ a, 3.0 * (star - 1.0))
      for off in (1e-6, 1e-2, 1.0):
        y = star + off * rng.normal(size=5)
        grad, info = call(known, jnp.asarray(y), jnp.asarray(x), a, b)
        error = np.linalg.norm(np.asarray(grad) - truth)
        assert error <= float(info.bound) * (1 + 1e-9)
        ratios.append(float(info.bound) / error)
  assert min(ratios) < 30  # it says something


@pytest.mark.x64
def test_bounds_are_attained_where_theory_says_so():
  # An isotropic quadratic attains the distance; c, L_B and L_inv enter by their formula.
  assert float(bilevel.inner_distance_bound(3.0 * 0.7, strong_convexity=3.0)) == pytest.approx(0.7)
  known = bilevel.BilevelConstants(2.0, 3.0, 5.0, 7.0, 11.0, 13.0)
  eps, delta, size = 0.1, 0.2, 0.3
  c = 3 * 5 / 2 + 7 * size * 5 + 11 * size / 2 + 13
  wanted = c * eps + 5 / 2 * delta + 11 * 3 / 2 * eps**2
  found = bilevel.hypergradient_bound(eps, delta, size, constants=known)
  np.testing.assert_allclose(found, wanted, rtol=1e-12)
  # Three of k steps of conjugate gradients on a diagonal never do worse.
  diagonal = jnp.array([1.0, 2.0, 5.0, 9.0])
  b = jnp.array([1.0, -1.0, 2.0, 0.5])
  solver = solvers.conjugate_gradient(lambda v: diagonal * v)
  energy = lambda v: float(jnp.sqrt(jnp.sum(diagonal * (v - b / diagonal) ** 2)))
  for k in (1, 2, 3):
    v, _ = solvers.run_until(solver, jnp.zeros(4), None, b, tol=0.0, max_steps=k)
    factor = bilevel.conjugate_gradient_bound(k, condition_number=9.0)
    assert energy(v) <= float(factor) * energy(jnp.zeros(4))


@pytest.mark.x64
def test_unrolled_gradient_steps_are_off_by_their_formula(data):
  """J_K - J* = -(I - s H)^K J* exactly, for quadratics whose Hessian does not depend on x."""
  x, y, *_ = (np.asarray(a) for a in data)
  inner = lambda w, h: 0.5 * jnp.mean((x @ w - h * y) ** 2) + 0.5 * jnp.sum(w**2)

  def step(state, h):
    params = state.params - 0.2 * jax.grad(inner)(state.params, h)
    return state._replace(params=params, count=state.count + 1), None

  plain = solvers.Solver(lambda w, h: solvers.IstaState(w, jnp.array(0.2), jnp.array(0)), step)
  h = jnp.array(1.0)
  hessian = x.T @ x / N + np.eye(D)
  exact = np.linalg.solve(hessian, x.T @ y / N)  # both w* and dw*/dh at h = 1
  weights = np.arange(1.0, D + 1)
  outer = lambda w, h: jnp.sum(w * weights)
  left = np.linalg.matrix_power(np.eye(D) - 0.2 * hessian, 4) @ exact
  grad, w = bilevel.unrolled_hypergradient(plain, outer, jnp.zeros(D), h, num_steps=4)
  np.testing.assert_allclose(grad, weights @ (exact - left), rtol=1e-10)
  limit = bilevel.unrolled_bound(
    4, stepsize=0.2, strong_convexity=np.linalg.eigvalsh(hessian)[0],
    jacobian_norm=np.linalg.norm(exact),
  )  # fmt: skip
  assert np.linalg.norm(left) <= float(limit)
  # Truncated at the solution: a Neumann series of k terms.
  last, w = bilevel.unrolled_hypergradient(
    plain, outer, jnp.asarray(exact), h, num_steps=9, last=3, checkpoint=True
  )
  np.testing.assert_allclose(w, exact, rtol=1e-12)
  power = np.linalg.matrix_power(np.eye(D) - 0.2 * hessian, 3) @ exact
  np.testing.assert_allclose(last, weights @ (exact - power), rtol=1e-10)


def lasso_problem(rng):
  x = rng.normal(size=(60, 100))
  truth = np.zeros(100)
  truth[:7] = rng.normal(size=7) + 2
  return jnp.asarray(x), jnp.asarray(x @ truth + 0.1 * rng.normal(size=60))


@pytest.mark.x64
def test_sparse_solutions_on_their_support_by_four_modes(rng):
  """Lasso: db_S/dl = -n e^l (X_S^T X_S)^{-1} sign(b_S); few terms are far off, many are exact."""
  x, y = lasso_problem(rng)
  strength = float(0.2 * jnp.max(jnp.abs(x.T @ y)) / 60)
  fun = lambda b, *_: 0.5 * jnp.mean((x @ b - y) ** 2)
  step = 1 / float(np.linalg.norm(x, 2) ** 2 / 60)
  solver = solvers.fista(lambda b: fun(b), prox.prox_lasso, stepsize=step)
  b, info = solvers.run_until(solver, jnp.zeros(100), strength, tol=1e-13, max_steps=20_000)
  assert int(info.status) in (0, 3)
  on = np.flatnonzero(np.asarray(b))
  assert 5 <= on.size <= 30
  l = jnp.log(jnp.asarray(strength))
  outer = lambda b, l: jnp.sum(b**2)
  part = np.asarray(x)[:, on]
  jacobian = -60 * strength * np.linalg.solve(part.T @ part, np.sign(b[on]))
  exact = 2 * np.asarray(b)[on] @ jacobian

  inner = lambda b, l: fun(b) + jnp.exp(l) * jnp.sum(jnp.abs(b))
  grad, info = bilevel.hypergradient(
    inner, outer, b, l, support=lambda b: b != 0, tol=1e-13, constants=None
  )
  np.testing.assert_allclose(grad, exact, rtol=1e-9)
  assert int(info.steps) <= 2 * on.size
  assert float(info.inner_gradient) < 1e-10  # on the support it is stationary

  move = lambda b, l: prox.prox_lasso(b - step * jax.grad(fun)(b), jnp.exp(l), step)

  @functools.partial(jax.jit, static_argnames="solve")
  def at(solve):
    return bilevel.fixed_point_hypergradient(move, outer, b, l, linear_solve=solve)

  found = {
    terms: float(at(functools.partial(solvers.solve_neumann, num_terms=terms))[0])
    for terms in (0, 1, 10, 2000)
  }
  np.testing.assert_allclose(found[2000], exact, rtol=1e-6)
  errors = [abs(found[k] - exact) for k in (0, 1, 10, 2000)]
  assert errors == sorted(errors, reverse=True) and errors[0] > 0.3 * abs(exact)
  # The rate of a contraction, and its bound after one step.
  jacobian_of_map = np.asarray(jax.jacobian(move)(b, l))[np.ix_(on, on)]
  rho = np.linalg.norm(jacobian_of_map, 2)
  pulled = np.linalg.norm(np.asarray(jax.jacobian(move, argnums=1)(b, l)))
  one_step = np.asarray(jax.jacobian(move, argnums=1)(b, l))[on]
  limit = bilevel.one_step_bound(contraction=rho, derivative_norm=pulled)
  assert np.linalg.norm(one_step - jacobian) <= float(limit)
  grad, info = at(solvers.solve_gmres)
  np.testing.assert_allclose(grad, exact, rtol=1e-8)
  assert int(info.status) == 0


@pytest.mark.x64
def test_both_strengths_of_the_elastic_net_on_its_support(rng):
  """db_S/dl1 = -a1 H_S^{-1} sign(b_S), db_S/dl2 = -a2 H_S^{-1} b_S, H_S = X_S^T X_S / n + a2 I."""
  x, y = lasso_problem(rng)
  a1, a2 = float(0.2 * jnp.max(jnp.abs(x.T @ y)) / 60), 0.3
  fun = lambda b, *_: 0.5 * jnp.mean((x @ b - y) ** 2)
  step = 1 / float(np.linalg.norm(x, 2) ** 2 / 60)
  solver = solvers.fista(lambda b: fun(b), prox.prox_elastic_net, stepsize=step)
  b, _ = solvers.run_until(solver, jnp.zeros(100), (a1, a2 / a1), tol=1e-13, max_steps=20_000)
  on = np.flatnonzero(np.asarray(b))
  part, kept = np.asarray(x)[:, on], np.asarray(b)[on]
  hessian = part.T @ part / 60 + a2 * np.eye(on.size)
  exact = [
    -2 * a * kept @ np.linalg.solve(hessian, v) for a, v in ((a1, np.sign(kept)), (a2, kept))
  ]
  l = jnp.log(jnp.array([a1, a2]))

  def inner(b, l):
    return fun(b) + jnp.exp(l[0]) * jnp.sum(jnp.abs(b)) + 0.5 * jnp.exp(l[1]) * jnp.sum(b**2)

  outer = lambda b, l: jnp.sum(b**2)
  grad, info = bilevel.hypergradient(inner, outer, b, l, support=lambda b: b != 0, tol=1e-13)
  np.testing.assert_allclose(grad, exact, rtol=1e-9)
  assert on.size < 60 and int(info.status) == 0


@pytest.mark.x64
def test_one_step_of_newtons_method_is_exact(data):
  w = newton_solution(H, data)
  newton = lambda w, h: (
    w - jnp.linalg.solve(jax.hessian(logistic)(w, h, *data), jax.grad(logistic)(w, h, *data))
  )
  outer = lambda w, h: validation(w, h, *data)
  one_step = functools.partial(solvers.solve_neumann, num_terms=0)
  grad, _ = jax.jit(
    lambda w, h: bilevel.fixed_point_hypergradient(newton, outer, w, h, linear_solve=one_step)
  )(w, H)
  exact, _ = implicit(w, H, data, logistic, (("tol", 1e-13),))
  np.testing.assert_allclose(grad, exact, rtol=1e-11, atol=1e-13)


@pytest.mark.x64
def test_support_vectors_by_their_free_multipliers(data):
  """The dual of a support vector machine: free coordinates move, those at bounds do not."""
  x, y, z, _ = data
  signs = jnp.sign(y)
  gram = (x * signs[:, None]) @ (x * signs[:, None]).T + 0.1 * jnp.eye(N)
  dual = lambda a, c, gram: 0.5 * a @ gram @ a - jnp.sum(a) + 0.0 * c
  bounds = lambda c: (0.0, c)

  def solution(c):
    a = jnp.full(N, c / 2)
    step = 1 / jnp.linalg.norm(gram, 2)
    move = lambda _, a: jnp.clip(a - step * (gram @ a - 1), *bounds(c))
    return jax.lax.fori_loop(0, 4000, move, a)

  c = jnp.array(0.3)
  outer = lambda a, c: jnp.sum(jnp.sin(z @ (x.T @ (a * signs))))
  a = jax.jit(solution)(c)
  assert 0 < int(jnp.sum((a > 0) & (a < c))) < N
  step = 1 / float(jnp.linalg.norm(gram, 2))
  move = lambda a, c: jnp.clip(a - step * (gram @ a - 1), *bounds(c))
  grad, _ = jax.jit(lambda a, c: bilevel.fixed_point_hypergradient(move, outer, a, c))(a, c)
  value = jax.jit(lambda c: outer(solution(c), c))
  np.testing.assert_allclose(grad, central_difference(value, c), rtol=1e-5)
  del dual


@pytest.mark.x64
def test_products_by_differences_have_an_error_of_second_order(rng):
  inner = lambda y, x: jnp.sum(jnp.log(jnp.cosh(y * x))) + 0.5 * jnp.sum(y**2)
  y, x, v = (jnp.asarray(a) for a in rng.normal(size=(3, 5)))
  exact = bilevel.second_order_products(inner, y, x, v)
  hessian = jax.hessian(inner)(y, x)
  cross = jax.jacobian(jax.grad(inner), argnums=1)(y, x)
  np.testing.assert_allclose(exact.hessian, hessian @ v, rtol=1e-12)
  np.testing.assert_allclose(exact.cross, cross.T @ v, rtol=1e-12, atol=1e-14)
  for field in ("hessian", "cross"):
    errors = []
    for d in (1e-1, 1e-2, 1e-3):
      near = bilevel.finite_difference_products(inner, y, x, v, radius=d * jnp.linalg.norm(v))
      errors.append(float(jnp.linalg.norm(getattr(near, field) - getattr(exact, field))) / d**2)
    np.testing.assert_allclose(errors[1:], errors[2], rtol=2e-3)
    near = bilevel.finite_difference_products(inner, y, x, v)
    np.testing.assert_allclose(getattr(near, field), getattr(exact, field), atol=1e-8)
  zeros = bilevel.finite_difference_products(inner, y, x, 0 * v)
  assert not np.any(zeros.hessian) and not np.any(zeros.cross)


@pytest.mark.x64
def test_the_mean_of_random_neumann_terms_is_the_series(rng):
  a = rng.normal(size=(4, 4))
  a = jnp.asarray(a @ a.T / 10 + np.eye(4))
  b = jnp.asarray(rng.normal(size=4))
  one = jax.jit(lambda key: bilevel.solve_random_neumann(
    lambda v: a @ v, b, key=key, num_terms=5, stepsize=0.4))  # fmt: skip
  terms = [5 * 0.4 * np.linalg.matrix_power(np.eye(4) - 0.4 * a, p) @ b for p in range(5)]
  seen = set()
  for seed in range(40):
    draw = one(jax.random.key(seed))
    off = [float(np.abs(draw - term).max()) for term in terms]
    assert min(off) < 1e-12
    seen.add(int(np.argmin(off)))
  assert seen == set(range(5))
  series = solvers.solve_neumann(lambda v: a @ v, b, num_terms=4, stepsize=0.4)
  np.testing.assert_allclose(np.mean(terms, axis=0), series, rtol=1e-12)


@pytest.mark.x64
def test_a_batch_of_problems_is_a_loop_of_them_and_trees_are_fine(data):
  w = newton_solution(H, data)
  strengths = jnp.stack([H, H - 1, H + 1])
  batch = jax.jit(jax.vmap(lambda h: bilevel.hypergradient(logistic, validation, w, h, *data)))
  grads, infos = batch(strengths)
  for i, h in enumerate(strengths):
    grad, info = implicit(w, h, data, logistic)
    np.testing.assert_allclose(grads[i], grad, rtol=1e-9)
    assert int(infos.steps[i]) == int(info.steps)
  tree_inner = lambda w, h, *d: logistic(jnp.concatenate([w["a"], w["b"]]), h[0], *d)
  tree_outer = lambda w, h, *d: validation(jnp.concatenate([w["a"], w["b"]]), h[0], *d)
  grad, _ = bilevel.hypergradient(tree_inner, tree_outer, {"a": w[:2], "b": w[2:]}, (H,), *data)
  np.testing.assert_allclose(grad[0], implicit(w, H, data, logistic)[0], rtol=1e-4)


def test_no_retrace_over_hyper_parameters():
  inner = lambda y, x: 0.5 * jnp.sum((y - 1.0) ** 2) + 0.5 * x * jnp.sum(y**2)
  call = lambda x: bilevel.hypergradient(inner, lambda y, x: jnp.sum(y), jnp.ones(3), x)[0]
  assert_no_retrace(call, lambda i: (jnp.asarray(1.0 + i),))


@pytest.mark.x64
def test_zeroth_order_hypergradients_of_an_affine_response(rng):
  """The mean over draws of u is the gradient; every draw is <J u, grad f> u whatever the radius."""
  jacobian, shift = rng.normal(size=(5, 3)), rng.normal(size=5)
  solve = lambda x: {"y": jnp.asarray(jacobian) @ x["a"] + shift}
  outer = lambda y, x: 0.5 * jnp.sum(y["y"] ** 2) + jnp.sum(x["a"] ** 2)
  x = {"a": jnp.asarray(rng.normal(size=3))}
  y = jacobian @ np.asarray(x["a"]) + shift
  call = jax.jit(
    lambda key, radius, count: bilevel.zeroth_order_hypergradient(
      solve, outer, x, key=key, num_directions=count, radius=radius),
    static_argnums=2,
  )  # fmt: skip
  wanted, direct = jacobian.T @ y, 2 * np.asarray(x["a"])
  key = jax.random.key(1)
  grad, found = call(key, 0.1, 40_000)
  np.testing.assert_allclose(found["y"], y, rtol=1e-14)
  # One draw has covariance |s|^2 I + s s^T, s = wanted.
  spread = np.sqrt((wanted @ wanted + wanted**2) / 40_000)
  assert np.all(np.abs(np.asarray(grad["a"]) - direct - wanted) < 5 * spread)
  wide, _ = call(key, 10.0, 40_000)
  np.testing.assert_allclose(wide["a"], grad["a"], rtol=1e-9)
  one = np.asarray(call(key, 0.1, 1)[0]["a"]) - direct  # along its own u: <s, u> u
  assert 0 < one @ wanted <= np.linalg.norm(one) * np.linalg.norm(wanted) * (1 + 1e-12)


@pytest.mark.x64
def test_zeroth_order_hypergradients_smooth_the_response():
  """y(x) = x^3: the mean is that of E (x + r u)^3, 3 x^2 + 3 r^2."""
  found, _ = bilevel.zeroth_order_hypergradient(
    lambda x: x**3, lambda y, x: y, jnp.array(2.0), key=jax.random.key(2),
    num_directions=400_000, radius=0.5,
  )  # fmt: skip
  # Var of u ((2 + u/2)^3 - 8) / (1/2) is below 30^2.
  np.testing.assert_allclose(found, 3 * 4 + 3 * 0.25, atol=5 * 30 / np.sqrt(400_000))


@pytest.mark.x64
@pytest.mark.peer
def test_it_is_optimistix_implicit_derivative(data):
  optx = pytest.importorskip("optimistix")
  w = newton_solution(H, data)
  solver = optx.Newton(rtol=1e-12, atol=1e-12)

  def value(h):
    found = optx.root_find(lambda w, h: jax.grad(logistic)(w, h, *data), solver, w, args=h)
    return validation(found.value, h, *data)

  grad, _ = implicit(w, H, data, logistic, (("tol", 1e-12),))
  np.testing.assert_allclose(grad, jax.grad(value)(H), rtol=1e-7, atol=1e-10)
