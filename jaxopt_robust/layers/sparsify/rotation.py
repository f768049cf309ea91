"""Exact rotation of a residual network, so that the rows of chosen kernels become orthogonal."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxopt_robust import _arguments, _checks
from jaxopt_robust.numerics import upcast
from jaxopt_robust.typing import Array, PyTree

__all__ = ["ResidualSpec", "Sublayer", "orthogonalize_pivots"]


class Sublayer(NamedTuple):
  """Paths of the parameters of one sub-layer, h + f(norm(h)), such as "block_0/mlp/up/kernel".

  Attributes:
    pivot: kernel float[d, ...] whose rows become orthogonal: the gate or the keys.
    inputs: all kernels float[d, ...] that read norm(h), the pivot among them or not.
    outputs: kernels float[..., d] and biases float[d] whose sum is added to h.
    norm: scale float[d] of the root-mean-square norm, or None where it has none.

  Example:
    >>> Sublayer._fields
    ('pivot', 'inputs', 'outputs', 'norm')

  Reference:
    Chen, Zhao, Ko, Banbury, Zhuang, Liang, Cameron and Chen, WINA: weight informed neuron
    activation for accelerating large language model inference, 2025.
  """

  pivot: str
  inputs: Sequence[str]
  outputs: Sequence[str]
  norm: str | None = None


class ResidualSpec(NamedTuple):
  """Where the parameters of a residual network with root-mean-square norms are.

  Attributes:
    embeddings: paths of float[..., d], whose sum is the first h: tables, kernels, biases, places.
    sublayers: of ``Sublayer``, in the order in which they are applied.
    head: paths of kernels float[d, ...] that read the last norm(h).
    norm: scale float[d] of the norm before the head, or None where it has none.

  Example:
    >>> ResidualSpec._fields
    ('embeddings', 'sublayers', 'head', 'norm')

  Reference:
    Chen, Zhao, Ko, Banbury, Zhuang, Liang, Cameron and Chen, WINA: weight informed neuron
    activation for accelerating large language model inference, 2025.
  """

  embeddings: Sequence[str]
  sublayers: Sequence[Sublayer]
  head: Sequence[str]
  norm: str | None = None


def _tidy(spec: ResidualSpec) -> ResidualSpec:
  """Tuples of paths, also where one path stands for itself; the pivot is among the inputs."""

  def several(field: str, paths: Any) -> tuple[str, ...]:
    found = (paths,) if isinstance(paths, str) else paths
    if not isinstance(found, Sequence) or not all(isinstance(path, str) for path in found):
      raise TypeError(
        f"{field} must hold paths, such as 'block_0/up/kernel'; got {_checks.describe(paths)}."
      )
    return tuple(found)

  if not isinstance(spec, ResidualSpec):
    raise TypeError(f"spec must be a ResidualSpec; got {_checks.describe(spec)}.")
  if not spec.sublayers:
    raise ValueError("spec.sublayers must name at least one Sublayer; got none.")
  made = []
  for layer in spec.sublayers:
    if not isinstance(layer, Sublayer):
      raise TypeError(f"spec.sublayers must hold Sublayers; got {_checks.describe(layer)}.")
    (pivot,) = several("spec.sublayers' pivot", [layer.pivot])
    inputs = tuple(dict.fromkeys((pivot, *several("spec.sublayers' inputs", layer.inputs))))
    outputs = several("spec.sublayers' outputs", layer.outputs)
    made.append(Sublayer(pivot, inputs, outputs, layer.norm))
  embeddings, head = several("spec.embeddings", spec.embeddings), several("spec.head", spec.head)
  return ResidualSpec(embeddings, made, head, spec.norm)


def _paths(spec: ResidualSpec) -> list[str]:
  """All paths of a specification, each named once."""
  found = [*spec.embeddings, *spec.head, spec.norm]
  for layer in spec.sublayers:
    found += [*layer.inputs, *layer.outputs, layer.norm]
  names = [name for name in found if name is not None]
  for name in names:
    if names.count(name) > 1:
      raise ValueError(
        f"spec names {name!r} more than once: shared parameters would need two rotations, so copy "
        "them."
      )
  return names


def orthogonalize_pivots(params: PyTree, spec: ResidualSpec) -> tuple[PyTree, Array]:
  r"""Rotates a residual network so that the rows of its pivots are orthogonal, at equal outputs.

  The network is h_1 = embedding, h_{l+1} = h_l + f_l(norm(h_l)), scores = head(norm(h_{L+1})),
  with root-mean-square norms, x / sqrt(mean(x^2) + e) times a scale. The scales are moved into the
  kernels that follow. With the pivot K_l = U S V^T of sub-layer l (inputs first) and Q_l = U, whole
  and orthogonal, inputs become Q_l^T K, outputs K Q_{l+1}, embeddings E Q_1, the head Q_L^T K, and

    h_{l+1} = h_l R_l + f_l(norm(h_l)),    R_l = Q_l^T Q_{l+1},    R_L = I,

  is the same network. A pivot is then S V^T: its rows are orthogonal, of lengths S.

  Args:
    params: pytree of arrays; paths are its keys joined by "/".
    spec: ``ResidualSpec``, static.

  Returns:
    (pytree like ``params``, float[L, d, d], R): the network has to multiply h by R_l beside
    sub-layer l. The scales of norms are 1.

  Raises:
    TypeError: ``spec`` is no ``ResidualSpec`` of paths, or a parameter is not floating-point.
    ValueError: a path that is not in ``params``, is named twice or stands for two leaves, or a
      shape that does not fit.

  Note:
    Known parameters are rotated in float64 on the host and rounded once; traced ones in their own
    precision. Signs and order of equal singular values are arbitrary: compare outputs, not Q. Not
    for norms that subtract a mean, which no rotation commutes with; a norm that multiplies by
    1 + scale needs 1 + scale here, and 0 in place of the 1 afterwards. Rows beyond the rank are 0
    and are the first to be dropped. Not differentiable where singular values are equal or a pivot
    has fewer outputs than inputs.

  Example:
    >>> params = {"e": jnp.eye(2), "k": jnp.array([[1.0], [1.0]]), "o": jnp.ones((1, 2)),
    ...           "head": jnp.ones((2, 1))}
    >>> spec = ResidualSpec(["e"], [Sublayer("k", ["k"], ["o"])], ["head"])
    >>> rotated, residual = orthogonalize_pivots(params, spec)
    >>> jnp.abs(rotated["k"]).round(3).ravel()
    Array([1.414, 0.   ], dtype=float32)

  Reference:
    Chen, Zhao, Ko, Banbury, Zhuang, Liang, Cameron and Chen, WINA: weight informed neuron
    activation for accelerating large language model inference, 2025, transformation. Their code
    also subtracts the mean of the embeddings, under which this network is not invariant.
  """
  spec = _tidy(spec)
  names = _paths(spec)
  entries, treedef = jax.tree_util.tree_flatten_with_path(params)
  keys = [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in entries]
  leaves = dict(zip(keys, (leaf for _, leaf in entries), strict=True))
  if len(leaves) != len(keys):
    raise ValueError("params must have different paths for different leaves; got two that agree.")
  for name in names:
    if name not in leaves:
      raise ValueError(
        f"spec names {name!r}, which is not in params.{_arguments.did_you_mean(name, leaves)}"
      )
  arrays = {n: _checks.check_float_array(f"params[{n!r}]", leaves[n], min_rank=1) for n in names}
  dtypes = {name: array.dtype for name, array in arrays.items()}
  known = _checks.is_concrete(list(arrays.values()))
  xp: Any = np if known else jnp
  if known:
    for name, array in arrays.items():
      _checks.check_holds(jnp.isfinite(array), f"params[{name!r}] must be finite.")
  width = arrays[spec.sublayers[0].pivot].shape[0]
  wide = {
    name: np.asarray(array, np.float64) if known else upcast(array)
    for name, array in arrays.items()
  }

  def read(name: str) -> Any:
    """A kernel as a matrix [d, m]."""
    if arrays[name].ndim < 2 or arrays[name].shape[0] != width:
      raise ValueError(
        f"params[{name!r}] must have shape [{width}, ...], the residual first; got "
        f"{arrays[name].shape}."
      )
    return wide[name].reshape(width, -1)

  def fold(scale: str | None, kernels: Sequence[str]) -> None:
    """Moves a scale into the kernels behind it."""
    if scale is None:
      return
    if arrays[scale].shape != (width,):
      raise ValueError(f"params[{scale!r}] must have shape ({width},); got {arrays[scale].shape}.")
    for name in kernels:
      wide[name] = (wide[scale][:, None] * read(name)).reshape(arrays[name].shape)
    wide[scale] = xp.ones_like(wide[scale])

  def write(names: Sequence[str], q: Any) -> None:
    for name in names:
      if arrays[name].shape[-1] != width:
        raise ValueError(
          f"params[{name!r}] must have shape [..., {width}], the residual last; got "
          f"{arrays[name].shape}."
        )
      wide[name] = _product(xp, wide[name], q)

  def turn(names: Sequence[str], q: Any) -> None:
    for name in names:
      wide[name] = _product(xp, q.T, read(name)).reshape(arrays[name].shape)

  for layer in spec.sublayers:
    fold(layer.norm, layer.inputs)
  fold(spec.norm, spec.head)
  bases = [_basis(xp, read(layer.pivot)) for layer in spec.sublayers]
  following = [*bases[1:], bases[-1]]
  write(spec.embeddings, bases[0])
  for layer, q, after in zip(spec.sublayers, bases, following, strict=True):
    turn(layer.inputs, q)
    write(layer.outputs, after)
  turn(spec.head, bases[-1])
  rotations = [_product(xp, q.T, after) for q, after in zip(bases, following, strict=True)]
  rotations[-1] = xp.eye(width, dtype=bases[-1].dtype)
  made = {name: jnp.asarray(wide[name], dtypes[name]) for name in names}
  new = [made.get(key, leaf) for key, leaf in zip(keys, leaves.values(), strict=True)]
  dtype = jnp.result_type(*dtypes.values())
  return jax.tree.unflatten(treedef, new), jnp.asarray(xp.stack(rotations), dtype)


def _basis(xp: Any, kernel: Any) -> Any:
  """All left singular vectors, also those beyond the rank."""
  return xp.linalg.svd(kernel, full_matrices=kernel.shape[1] < kernel.shape[0])[0]


def _product(xp: Any, a: Any, b: Any) -> Any:
  return a @ b if xp is np else jnp.matmul(a, b, precision="highest")
