"""Hypergradient of ridge weights of a logistic regression, against jaxopt and optimistix."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks._timing import Contender, Row, compiled, loosest, peer, read_seconds
from jaxopt_robust import bilevel

TOLERANCES = (1e-4, 1e-5, 1e-6, 1e-7)


def inner(w: jax.Array, h: jax.Array, x: jax.Array, y: jax.Array, *_: jax.Array) -> jax.Array:
  """Mean logistic loss and a ridge weight e^h of each feature."""
  return jnp.mean(jnp.logaddexp(0, -y * (x @ w))) + 0.5 * jnp.sum(jnp.exp(h) * w**2)


def outer(w: jax.Array, h: jax.Array, x: jax.Array, y: jax.Array, *rest: jax.Array) -> jax.Array:
  """Mean logistic loss of other rows."""
  del h, x, y
  return jnp.mean(jnp.logaddexp(0, -rest[1] * (rest[0] @ w)))


def problem(size: str) -> tuple[np.ndarray, ...]:
  """The solution (by Newton steps), logarithms of the ridge weights, and both sets of rows."""
  rows, columns = (60, 20) if size == "toy" else (10_000, 1000)
  rng = np.random.default_rng(0)
  truth = rng.standard_normal(columns) / np.sqrt(columns)
  sets = []
  for count in (rows, rows // 5):
    x = rng.standard_normal((count, columns)) * np.linspace(0.3, 3, columns)
    y = np.where(x @ truth + 0.5 * rng.standard_normal(count) > 0, 1.0, -1.0)
    sets += [x, y]
  h, w, (x, y) = np.full(columns, np.log(1e-3)), np.zeros(columns), sets[:2]
  for _ in range(12):
    share = 1 / (1 + np.exp(y * (x @ w)))
    slope = -x.T @ (y * share) / rows + np.exp(h) * w
    hessian = (x * (share * (1 - share))[:, None]).T @ x / rows + np.diag(np.exp(h))
    w = w - np.linalg.solve(hessian, slope)
  return w, h, *sets


def exact(w: np.ndarray, h: np.ndarray, *data: np.ndarray) -> np.ndarray:
  """The hypergradient by a dense solve."""
  x, y, z, t = data
  share = 1 / (1 + np.exp(y * (x @ w)))
  hessian = (x * (share * (1 - share))[:, None]).T @ x / len(y) + np.diag(np.exp(h))
  slope = -z.T @ (t / (1 + np.exp(t * (z @ w)))) / len(t)
  return -np.exp(h) * w * np.linalg.solve(hessian, slope)


def build(size: str) -> Row:
  """The row: the inner solution is given, the linear system and both products are timed."""
  jax.config.update("jax_enable_x64", True)
  arrays = problem(size)
  wanted = exact(*arrays)
  w, h, *data = map(jnp.asarray, arrays)

  def error(grad: Any) -> float:
    return float(np.linalg.norm(np.asarray(grad) - wanted) / np.linalg.norm(wanted))

  def entry(name: str, fun: Any, **options: Any) -> Contender:
    make = lambda tol: compiled(name, jax.jit(fun), w, h, tol, *data, accuracy=error, **options)
    return loosest(make, 1e-6, tolerances=TOLERANCES)

  def ours(w: jax.Array, h: jax.Array, tol: float, *data: jax.Array) -> jax.Array:
    return bilevel.hypergradient(inner, outer, w, h, *data, tol=tol)[0]

  contenders = [entry("jaxopt_robust: hypergradient", ours, ours=True)]
  contenders += jaxopt_roots(entry) + optimistix_roots(entry)
  return Row(
    name="hypergradient",
    work=f"{data[0].shape[0]} x {data[0].shape[1]} logistic regression, a ridge weight a feature",
    contenders=contenders,
    accuracy="distance to the hypergradient by a dense solve, relative",
    bound=1e-6,
    limit="two passes over the rows, once",
    limit_s=2 * read_seconds(data[0].nbytes),
    note="Each at its loosest tolerance that meets the bound, by conjugate gradients.",
  )


def jaxopt_roots(entry: Any) -> list[Contender]:
  """The implicit rule of jaxopt at the same solution."""
  if peer("jaxopt") is None:
    return []
  from jaxopt import implicit_diff, linear_solve

  def root(w: jax.Array, h: jax.Array, tol: float, *data: jax.Array) -> jax.Array:
    solve = lambda matvec, b: linear_solve.solve_cg(matvec, b, tol=tol, maxiter=10_000)
    slope, direct = jax.grad(outer, argnums=(0, 1))(w, h, *data)
    optimality = lambda w, h: jax.grad(inner)(w, h, *data)
    return implicit_diff.root_vjp(optimality, w, (h,), slope, solve=solve)[0] + direct

  return [entry("jaxopt: root_vjp, solve_cg", root)]


def _given(inputs: Any) -> Any:
  return inputs[0], None


def _optimality(root: jax.Array, rest: None, inputs: Any) -> jax.Array:
  del rest
  return jax.grad(inner)(root, *inputs[1:6])


def optimistix_roots(entry: Any) -> list[Contender]:
  """The implicit adjoint of optimistix, its forward solve replaced by the solution."""
  optx, lx = peer("optimistix"), peer("lineax")
  if optx is None or lx is None:
    return []

  def adjoint(w: jax.Array, h: jax.Array, tol: float, *data: jax.Array) -> jax.Array:
    rule = optx.ImplicitAdjoint(lx.CG(rtol=tol, atol=0.0, norm=optx.two_norm, max_steps=10_000))
    tags = frozenset({lx.positive_semidefinite_tag})

    def value(h: jax.Array) -> jax.Array:
      root, _ = rule.apply(_given, _optimality, (w, h, *data), tags)
      return outer(root, h, *data)

    return jax.grad(value)(h)

  return [entry("optimistix: ImplicitAdjoint, lineax CG", adjoint)]
