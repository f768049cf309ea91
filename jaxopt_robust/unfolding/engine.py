"""The engine: a cell applied layer by layer, as one scan over the parameters of the layers."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxopt_robust import _arguments, _checks
from jaxopt_robust.typing import ArrayLike, PyTree

__all__ = ["repeat_layers", "unfold"]


def count_layers(name: str, layers: PyTree) -> int:
  """The common leading axis of the parameters."""
  layers = _checks.check_float_tree(name, layers)
  sizes = {leaf.shape[:1] for leaf in jax.tree.leaves(layers)}
  if len(sizes) != 1 or () in sizes or (0,) in sizes:
    shapes = [leaf.shape for leaf in jax.tree.leaves(layers)]
    raise ValueError(
      f"{name} must hold arrays with one common leading axis, of layers; got the shapes {shapes}."
    )
  return sizes.pop()[0]


def scan_layers(
  body: Callable[[Any, Any], tuple[Any, Any]],
  skip: Callable[[Any], Any],
  carry: Any,
  layers: PyTree,
  num_layers: int,
  depth: ArrayLike | None,
  checkpoint: int | None,
) -> tuple[Any, Any]:
  """``body(carry, layer) -> (carry, out)`` over the layers; ``skip(carry) -> out`` beyond depth."""
  if depth is not None:
    depth = _checks.check_integers("depth", depth, low=0, rank=0)
  if checkpoint is not None:
    checkpoint = _checks.check_int("checkpoint", checkpoint, minimum=1)
    if num_layers % checkpoint:
      raise ValueError(
        f"checkpoint must divide the number of layers, {num_layers}; got {checkpoint}."
      )

  def one(carry: Any, item: tuple) -> tuple[Any, Any]:
    layer, place = item
    if depth is None:
      return body(carry, layer)
    # A branch that is skipped costs nothing, so that one program serves every depth.
    return jax.lax.cond(place < depth, lambda c: body(c, layer), lambda c: (c, skip(c)), carry)

  items = (layers, jnp.arange(num_layers, dtype=jnp.int32))
  if checkpoint is None:
    return jax.lax.scan(one, carry, items)
  split = jax.tree.map(lambda a: a.reshape(-1, checkpoint, *a.shape[1:]), items)
  segment = jax.checkpoint(lambda c, part: jax.lax.scan(one, c, part), prevent_cse=False)
  carry, outs = jax.lax.scan(segment, carry, split)
  return carry, jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), outs)


def unfold(
  cell: Callable[..., PyTree],
  params: PyTree,
  x: PyTree,
  *data: PyTree,
  depth: ArrayLike | None = None,
  checkpoint: int | None = None,
) -> tuple[PyTree, PyTree]:
  r"""Applies a cell layer by layer: an iterative method as a network, with parameters a layer.

    x_k = cell(x_{k-1}, params[k], *data),  k = 1, ..., K.

  The layers are one ``lax.scan``: compile time does not grow with their number.

  Args:
    cell: ``cell(x, layer, *data) -> x_like``, one layer, such as ``ista_cell``.
    params: pytree of float arrays with a common leading axis of the K layers; ``layer`` is a slice
      of it.
    x: pytree of float arrays, x_0.
    *data: pytrees that the cell needs, such as ``Measurements``; the same for all layers.
    depth: int scalar >= 0, how many layers are applied (all for numbers above K); may be traced.
      The layers beyond it are skipped, not computed (but under ``vmap`` over depths). None: all.
    checkpoint: static, >= 1, a divisor of K: derivatives store the iterate after every so many
      layers only, and compute the layers between again (``jax.checkpoint``). Memory falls from K
      layers to K / checkpoint iterates and the layers of one segment; the square root of K is best.
      None stores everything.

  Returns:
    ``(x_K, trace)``: the last iterate, and all of them, with a leading axis of K. Behind ``depth``
    the trace repeats the last one.

  Raises:
    TypeError: when ``cell`` is not a function, or ``params`` or ``x`` hold anything but numbers.
    ValueError: when ``params`` have no common leading axis, ``checkpoint`` does not divide it,
      ``depth`` is negative, or the cell does not return the structure and shapes of x.

  Note:
    An unused trace costs no memory under ``jit``. Nothing is clipped: with trained steps far above
    1/L float32 is fine to some 20 layers; beyond, clip gradients by their global norm.

  Example:
    >>> data = jr.unfolding.Measurements(jnp.array([3.0, 0.5]), jnp.eye(2))
    >>> layers = jr.unfolding.ista_layers(data.matrix, 1.0, num_layers=3)
    >>> x, trace = unfold(jr.unfolding.ista_cell, layers, jnp.zeros(2), data)
    >>> x, trace.shape
    (Array([2., 0.], dtype=float32), (3, 2))

  Reference:
    Gregor and LeCun, Learning fast approximations of sparse coding, 2010; Monga, Li and Eldar,
    Algorithm unrolling: interpretable, efficient deep learning for signal and image processing,
    2021. Recomputation: Griewank and Walther, Evaluating Derivatives, 2008, chapter 12.
  """
  _arguments.check_callable("cell", cell)
  num_layers = count_layers("params", params)
  params = _checks.check_float_tree("params", params)
  x = _checks.check_float_tree("x", x)

  def body(x: PyTree, layer: PyTree) -> tuple[PyTree, PyTree]:
    out = cell(x, layer, *data)
    _checks.check_same_structure("the output of cell", out, "x", x)
    return out, out

  return scan_layers(body, lambda x: x, x, params, num_layers, depth, checkpoint)


def repeat_layers(layer: PyTree, *, num_layers: int) -> PyTree:
  """The same parameters for every layer: shared weights, or a start.

  Inside a loss the gradient of what is shared is the sum over the layers.

  Args:
    layer: pytree of float arrays, the parameters of one layer.
    num_layers: K >= 1, static.

  Returns:
    The same structure with a leading axis of K.

  Raises:
    TypeError: when ``layer`` holds anything but numbers, or ``num_layers`` is no integer.
    ValueError: when ``num_layers`` is below 1.

  Example:
    >>> repeat_layers(jr.unfolding.StepLayers(jnp.ones(())), num_layers=3).step.shape
    (3,)

  Reference:
    Gregor and LeCun, Learning fast approximations of sparse coding, 2010 (weights that all layers
    share).
  """
  layer = _checks.check_float_tree("layer", layer)
  num_layers = _checks.check_int("num_layers", num_layers, minimum=1)
  return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (num_layers, *leaf.shape)), layer)
