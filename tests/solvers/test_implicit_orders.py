"""Second derivatives of every implicit rule in four modes: losses and data that leave zeros."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from jaxopt_robust import linalg, prox, solvers

pytestmark = pytest.mark.x64
MODES = {
  "forward over forward": lambda f: jax.jacfwd(jax.jacfwd(f)),
  "forward over reverse": lambda f: jax.jacfwd(jax.jacrev(f)),
  "reverse over forward": lambda f: jax.jacrev(jax.jacfwd(f)),
  "reverse over reverse": lambda f: jax.jacrev(jax.jacrev(f)),
}
# Of a solution x that is a tree: linear, quadratic and constant in it, and seeing one leaf only.
LOSSES = {
  "linear": lambda x, h: sum(jnp.sum(leaf) for leaf in jax.tree.leaves(x)),
  "quadratic": lambda x, h: sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(x)),
  "constant": lambda x, h: h**3 + 0 * jnp.sum(jax.tree.leaves(x)[0]),
  "one leaf": lambda x, h: jnp.sum(jax.tree.leaves(x)[-1]),
}
H, B = np.asarray(0.7), np.array([3.0, -2.5])
SQUARE = lambda x, b: 0.5 * jnp.sum((x - b) ** 2)
BOX = lambda x, b: 0.5 * jnp.sum((x[0] - b) ** 2) + 0.5 * jnp.sum((x[1] - 2 * b) ** 2)


def cramer(matvec, b):
  """The solution of two equations; little to compile."""
  flat, unravel = ravel_pytree(b)
  if flat.size != 2:
    return solvers.solve_dense(matvec, b)
  (p, r), (q, s) = (ravel_pytree(matvec(unravel(e)))[0] for e in jnp.eye(2))
  det = p * s - q * r
  return unravel(jnp.stack([s * flat[0] - q * flat[1], p * flat[1] - r * flat[0]]) / det)


def soft(b, h):
  return jnp.sign(b) * (jnp.abs(b) - h)  # every entry of B and 2 B exceeds h


def fixed_point(solver, pack=lambda h, b: (h, b)):
  """The solution by ``implicit_fixed_point``; the start is exact, as the rest point of soft."""
  solve = solvers.implicit_fixed_point(
    solver, tol=1e-13, max_steps=300, linear_solve=solvers.solve_dense
  )

  def solution(h, b):
    hyper, *data = pack(h, b)
    return solve(jnp.zeros(2), hyper, *data)[0].params

  return solution


def implicit(value, residual, linear_solve=cramer, start=B):
  rule = solvers.implicit(lambda x, h, b: (value(h, b), None), residual, linear_solve=linear_solve)
  return lambda h, b: rule(start, h, b)[0]


def shifted(h, b):
  return jnp.array([[2.0, 1.0], [0.0, 4.0]]) + h * b[0] * jnp.eye(2)


ROOTS = {  # by the rule; by a formula
  "constant jacobian": (
    implicit(lambda h, b: b - h, lambda x, h, b: x - b + h), lambda h, b: b - h
  ),
  "jacobian of h": (implicit(lambda h, b: b / h, lambda x, h, b: h * x - b), lambda h, b: b / h),
  "jacobian of x": (
    implicit(lambda h, b: jnp.cbrt(b - h), lambda x, h, b: x**3 - b + h),
    lambda h, b: jnp.cbrt(b - h),
  ),
  "no hyper": (implicit(lambda h, b: 2 * b, lambda x, h, b: x / 2 - b), lambda h, b: 2 * b),
  "two leaves, one of b alone": (
    implicit(
      lambda h, b: {"a": b - h, "b": b**2},
      lambda x, h, b: {"a": x["a"] - b + h, "b": x["b"] - b**2},
      start={"a": B, "b": B},
    ),
    lambda h, b: {"a": b - h, "b": b**2},
  ),
  "two leaves, one of h alone": (
    implicit(
      lambda h, b: (b, b + h**2), lambda x, h, b: (x[0] - b, x[1] - x[0] - h**2), start=(B, B),
    ),
    lambda h, b: (b, b + h**2),
  ),
  "conjugate gradients": (
    implicit(lambda h, b: b - h, lambda x, h, b: x - b + h, solvers.solve_cg), lambda h, b: b - h
  ),
  "gmres": (
    implicit(lambda h, b: b / h, lambda x, h, b: h * x - b, solvers.solve_gmres),
    lambda h, b: b / h,
  ),
  "neumann": (
    implicit(
      lambda h, b: b - h, lambda x, h, b: x - b + h,
      functools.partial(solvers.solve_neumann, num_terms=2),
    ),
    lambda h, b: b - h,
  ),
  "proximal residual": (
    implicit(soft, solvers.proximal_residual(SQUARE, prox.prox_lasso, stepsize=0.5)), soft
  ),
  "support residual": (
    implicit(soft, solvers.support_residual(SQUARE, prox.lasso)), soft
  ),
  "support residual of two leaves": (
    implicit(
      lambda h, b: (soft(b, h), soft(2 * b, h)), solvers.support_residual(BOX, prox.lasso),
      start=(B, B),
    ),
    lambda h, b: (soft(b, h), soft(2 * b, h)),
  ),
  "ista": (fixed_point(solvers.ista(SQUARE, prox.prox_lasso, stepsize=0.9)), soft),
  "davis_yin": (
    fixed_point(
      solvers.davis_yin(SQUARE, prox.prox_lasso, prox.prox_none, stepsize=0.9),
      lambda h, b: ((h, None), b),
    ),
    soft,
  ),
  "newton_inverse": (
    lambda h, b: linalg.newton_inverse(shifted(h, b))[0], lambda h, b: jnp.linalg.inv(shifted(h, b))
  ),
}  # fmt: skip


def along(solution, loss, part):
  """The loss as a function of one number that moves h alone, or b alone."""
  if part == "h":
    return lambda t: LOSSES[loss](solution(H + t, B), H + t)
  return lambda t: LOSSES[loss](solution(H, B + t * np.array([1.0, -2.0])), H)


# What is compiled; the other modes are traced only, where symbolic zeros raise.
VALUES = [
  ("quadratic", "h", "forward over reverse"),
  ("linear", "h", "reverse over reverse"),
  ("quadratic", "b", "reverse over forward"),
]


TRACED = ("gmres", "conjugate gradients", "davis_yin")  # slow to compile; values of others count


@pytest.mark.parametrize("name", ROOTS)
def test_second_derivatives_equal_those_of_the_closed_form(name):
  by_rule, by_formula = ROOTS[name]
  values = lambda solution: jax.jit(
    lambda t: jnp.stack([MODES[m](along(solution, loss, part))(t) for loss, part, m in VALUES])
  )(0.0)
  if name not in TRACED:
    np.testing.assert_allclose(values(by_rule), values(by_formula), atol=1e-8)
  rest = [("linear", mode) for mode in list(MODES)[:3]] + [("constant", "reverse over reverse")]
  if "leaves" in name:
    rest += [("one leaf", mode) for mode in list(MODES)[1:]]
  if name in TRACED:
    rest = [("linear", "reverse over reverse")]
  for loss, mode in rest:
    assert jax.eval_shape(MODES[mode](along(by_rule, loss, "h")), 0.0).shape == (), (loss, mode)


def test_third_derivatives():
  """x = b / h: the third derivative in h of its sum is -6 sum(b) / h^4; of b - h it is 0."""
  thrice = lambda name: jax.jit(jax.grad(jax.grad(jax.grad(lambda h: ROOTS[name][0](h, B).sum()))))(
    H
  )
  np.testing.assert_allclose(thrice("jacobian of h"), -6 * B.sum() / 0.7**4, rtol=1e-10)
  assert float(thrice("constant jacobian")) == 0.0


def test_infinite_data_that_the_solution_does_not_see_leave_derivatives_finite():
  """x = b / h with bounds of infinity among the data."""
  rule = solvers.implicit(
    lambda x, h, b, high: (jnp.minimum(b / h, high), None),
    lambda x, h, b, high: x - jnp.minimum(x - (h * x - b), high),
    linear_solve=cramer,
  )
  value = lambda h: rule(B, h, B, jnp.full(2, jnp.inf))[0].sum()
  np.testing.assert_allclose(jax.jit(jax.hessian(value))(H), 2 * B.sum() / H**3, rtol=1e-12)
