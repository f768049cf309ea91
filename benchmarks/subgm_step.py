"""One step of the sub-gradient method for matrix recovery, against NumPy and PyTorch."""

import jax
import numpy as np

from benchmarks._timing import Contender, Row, compiled, peer, read_seconds
from jaxopt_robust import recovery


def build(size: str) -> Row:
  """The row: residual signs, adjoint, both factors; the factor is d x d (rank unknown)."""
  dim, rank = (10, 2) if size == "toy" else (100, 5)
  num = 10 * dim * rank
  key_op, key_factor, key_y = jax.random.split(jax.random.key(0), 3)
  op = recovery.make_gaussian_sensing(key_op, num, dim, dim)
  factor = 0.1 * jax.random.normal(key_factor, (dim, dim))
  y = jax.random.normal(key_y, (num,))
  step = 0.01

  @jax.jit
  def ours(op, y, factor):
    factors = recovery.Factors(factor, None)
    _, grads, aux = recovery.l1_value_subgrad(op, y, factors)
    return factor - step * grads.L / aux.q_norm

  a, y_np, u_np = np.asarray(op.flat), np.asarray(y), np.asarray(factor)

  def numpy_step():
    residual = a @ (u_np @ u_np.T).ravel() - y_np
    q = (np.sign(residual) @ a).reshape(dim, dim) / num
    return u_np - step * ((q + q.T) @ u_np) / np.linalg.norm(q)

  expected = numpy_step()

  def difference(result) -> float:
    return float(np.abs(np.asarray(result) - expected).max())

  contenders = [
    compiled("jaxopt_robust", ours, op, y, factor, ours=True, accuracy=difference),
    Contender("NumPy, the same formula", numpy_step, accuracy=difference),
  ]
  if torch := peer("torch"):
    a_t, y_t, u_t = (torch.from_numpy(np.array(v)) for v in (a, y_np, u_np))

    def torch_step():
      residual = a_t @ (u_t @ u_t.T).ravel() - y_t
      q = (torch.sign(residual) @ a_t).reshape(dim, dim) / num
      return u_t - step * ((q + q.T) @ u_t) / torch.linalg.norm(q)

    contenders.append(Contender("PyTorch, the same formula", torch_step, accuracy=difference))
  return Row(
    name="subgm_step",
    work=f"one step, d = {dim}, m = {num}, full-width factor, float32",
    contenders=contenders,
    accuracy="largest difference from NumPy",
    bound=1e-4,
    limit="memory bandwidth: the matrices are read twice",
    limit_s=read_seconds(2 * a.nbytes),
  )
