"""``jax.lax.custom_linear_solve`` that derivatives of every order and mode pass through."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from jaxopt_robust.typing import Array, PyTree


@jax.custom_jvp
def _zero_of(leaves: list[Array]) -> Array:
  """0, whose derivative by ``leaves`` is a number 0 and no symbolic zero, for inf and NaN too."""
  del leaves
  return jnp.zeros((), jnp.float32)


@_zero_of.defjvp
def _zero_of_rule(primals: tuple, tangents: tuple) -> tuple[Array, Array]:
  # Computed from the tangents, since a constant would count as a symbolic zero again.
  first = [jnp.sum(jnp.ravel(leaf)[:1].real.astype(jnp.float32)) for leaf in tangents[0]]
  return _zero_of(*primals), 0 * jnp.sum(jnp.stack(first))


def linear_solve(
  matvec: Callable[[PyTree], PyTree],
  b: PyTree,
  solve: Callable[[Callable, PyTree], PyTree],
  *,
  depends_on: PyTree,
  symmetric: bool = False,
) -> PyTree:
  """The x of matvec(x) = b by ``solve(matvec, b)``, with derivatives in b and ``depends_on``.

  ``depends_on`` holds everything differentiable that ``matvec`` closes over. The solve must do for
  the transposed system too. Two things of JAX are avoided here: right sides of several leaves, of
  which one may have no tangent or no cotangent, become one flat vector; and a derivative in what
  ``matvec`` closes over but does not depend on (a constant Jacobian) reaches the primitive as
  zeros, where a symbolic zero raises.
  """
  flat, unravel = ravel_pytree(b)
  if flat.size == 0:
    return b
  leaves = [jnp.asarray(leaf) for leaf in jax.tree.leaves(depends_on)]
  leaves = [leaf for leaf in leaves if jnp.issubdtype(leaf.dtype, jnp.inexact)]
  zero = _zero_of(leaves).astype(flat.dtype) if leaves else 0
  to_flat = lambda tree: ravel_pytree(tree)[0]

  def flat_matvec(v: Array) -> Array:
    return to_flat(matvec(unravel(v))).astype(v.dtype) + zero * v

  def flat_solve(apply: Callable[[Array], Array], right: Array) -> Array:
    as_tree = lambda tree: unravel(apply(to_flat(tree)))
    return to_flat(solve(as_tree, unravel(right)))

  options: dict[str, Any] = {"symmetric": True} if symmetric else {"transpose_solve": flat_solve}
  return unravel(jax.lax.custom_linear_solve(flat_matvec, flat, flat_solve, **options))
