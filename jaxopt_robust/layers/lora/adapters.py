"""Low-rank adapters (LoRA): what fine-tuning adds to the frozen kernels of any network."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxopt_robust import _arguments, _checks
from jaxopt_robust.typing import Array, ArrayLike, PyTree

__all__ = ["LoraAdapter", "lora_apply", "lora_init", "lora_merge"]

Predicate = Callable[[tuple, Array], bool]


class LoraAdapter(NamedTuple):
  """Two factors of what is added to one kernel W[..., in, out]: W + (alpha / rank) a b.

  For x W, the convention of flax, ``a`` is on the side of the inputs and ``b`` on that of the
  outputs. They are the transposes of the A and B of the LoRA paper, which writes B A for matrices
  [out, in]; Hu, Su, Kuo, Song and Liu 2024 write x (W + (alpha / rank) B A), so that their B is
  ``a`` and their A is ``b``.

  Attributes:
    a: float[..., in, rank].
    b: float[..., rank, out].

  Example:
    >>> LoraAdapter._fields
    ('a', 'b')

  Reference:
    Hu, Shen, Wallis, Allen-Zhu, Li, Wang, Wang and Chen, LoRA: low-rank adaptation of large
    language models, 2021, equation 3.
  """

  a: Array
  b: Array


def _named_leaves(params: PyTree) -> tuple[dict[str, tuple[tuple, Any]], Any]:
  """Path in words -> (path, leaf) in the order of the tree, and the tree's structure."""
  leaves, treedef = jax.tree_util.tree_flatten_with_path(params)
  if not leaves:
    raise ValueError("params must hold at least one array; got an empty pytree.")
  named = {
    jax.tree_util.keystr(path, simple=True, separator="/"): (path, leaf) for path, leaf in leaves
  }
  if len(named) != len(leaves):
    raise ValueError("params must have different paths for different leaves; got two that agree.")
  return named, treedef


def _is_kernel(leaf: Any) -> bool:
  return hasattr(leaf, "dtype") and leaf.ndim >= 2 and jnp.issubdtype(leaf.dtype, jnp.floating)


def check_adapter(name: str, adapter: Any, shape: tuple[int, ...]) -> LoraAdapter:
  """An adapter of a kernel of this shape."""
  if not isinstance(adapter, LoraAdapter):
    raise TypeError(f"{name} must be a LoraAdapter(a, b); got {_checks.describe(adapter)}.")
  a, b = (_checks.check_float_array(f"{name}.{part}", getattr(adapter, part)) for part in "ab")
  rank = a.shape[-1] if a.ndim else 0
  if a.shape != (*shape[:-1], rank) or b.shape != (*shape[:-2], rank, shape[-1]):
    raise ValueError(
      f"{name} must have a[..., in, rank] and b[..., rank, out] for its kernel of shape {shape}; "
      f"got shapes {a.shape} and {b.shape}."
    )
  return LoraAdapter(a, b)


def check_adapters(
  adapters: Any, owner: str, shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, LoraAdapter]:
  """Adapters by the names of the kernels of ``owner``, whose shapes are known."""
  if not isinstance(adapters, Mapping):
    raise TypeError(
      "adapters must map the paths of kernels to a LoraAdapter each, as lora_init does; got "
      f"{_checks.describe(adapters)}."
    )
  for name in adapters:
    if name not in shapes:
      hint = _arguments.did_you_mean(name, shapes)
      raise ValueError(f"adapters names {name!r}, which is no kernel of {owner}.{hint}")
  return {
    name: check_adapter(f"adapters[{name!r}]", a, shapes[name]) for name, a in adapters.items()
  }


def _scale(adapter: LoraAdapter, alpha: ArrayLike | None) -> Array:
  """alpha / rank in the dtype of the factors, 1 without an alpha."""
  dtype = jnp.promote_types(jnp.result_type(*adapter), jnp.float32)
  if alpha is None:
    return jnp.ones((), dtype)
  number = _checks.check_float_array("alpha", alpha, rank=0)
  return (number / adapter.a.shape[-1]).astype(dtype)


def lora_init(
  key: Array,
  params: PyTree,
  *,
  rank: int,
  predicate: Predicate | None = None,
  zero: str = "b",
) -> dict[str, LoraAdapter]:
  r"""Adapters that change nothing yet, one for each chosen kernel of a pytree of parameters.

  With ``zero="b"``: a ~ N(0, 1 / in), b = 0. With ``zero="a"``: a = 0, b ~ N(0, 1 / rank). Either
  way a b = 0, and the first gradient is that of the factor that is 0.

  Args:
    key: typed PRNG key.
    params: pytree of parameters, such as those of a flax linen network or the state of an nnx one.
    rank: at most in and out of every chosen kernel; static.
    predicate: function (path, array) -> bool that says which leaves get an adapter, with the path
      of ``jax.tree_util``; by default all floating-point leaves of at least two axes.
    zero: ``"b"`` or ``"a"``, the factor that begins at 0; static.

  Returns:
    dict from the path of each chosen kernel, such as ``"params/Dense_0/kernel"``, to its
    ``LoraAdapter``, in the dtype of the kernel and float32 at least: frozen weights may be rounded,
    what is trained should not be.

  Raises:
    TypeError: ``key`` is no typed key, a chosen leaf is not floating-point, or ``rank`` no integer.
    ValueError: ``rank`` or ``zero`` is out of range, or no leaf is chosen.

  Note:
    An adapter acts on the last two axes of its kernel, in and out; axes before them, such as layers
    that are stacked for a scan or the places of a convolution, have factors of their own. Kernels
    whose last two axes are both outputs, such as [in, heads, size] of attention in flax linen, are
    reshaped first if one product over all heads is wanted. Embeddings have two axes too: exclude
    them by the predicate if they are to stay frozen.

  Example:
    >>> params = {"dense": {"kernel": jnp.ones((4, 3)), "bias": jnp.ones(3)}}
    >>> adapters = lora_init(jax.random.key(0), params, rank=2)
    >>> {path: (adapter.a.shape, adapter.b.shape) for path, adapter in adapters.items()}
    {'dense/kernel': ((4, 2), (2, 3))}

  Reference:
    Hu, Shen, Wallis, Allen-Zhu, Li, Wang, Wang and Chen, LoRA: low-rank adaptation of large
    language models, 2021, section 4.1; the variances and the choice of the factor that begins at 0:
    Hayou, Ghosh and Yu, The impact of initialization on LoRA finetuning dynamics, 2024.
  """
  key = _checks.check_key("key", key)
  _arguments.check_option("zero", zero, ("b", "a"))
  rank = _checks.check_int("rank", rank, minimum=1)
  if predicate is not None:
    _arguments.check_function_of("predicate", predicate, "path", "leaf")
  named, _ = _named_leaves(params)
  chosen = {
    name: leaf
    for name, (path, leaf) in named.items()
    if (_is_kernel(leaf) if predicate is None else bool(predicate(path, leaf)))
  }
  if not chosen:
    raise ValueError(
      "params must hold a kernel that gets an adapter, and the predicate choose one; got the "
      f"leaves {', '.join(map(repr, list(named)[:8]))}."
    )
  adapters = {}
  for (name, leaf), each in zip(chosen.items(), jax.random.split(key, len(chosen)), strict=True):
    kernel = _checks.check_float_array(f"params[{name!r}]", leaf, min_rank=2)
    with _arguments.within(f"params[{name!r}]"):
      _checks.check_rank(rank, kernel.shape[-2:])
    adapters[name] = _first_adapter(each, kernel, rank, zero)
  return adapters


def _first_adapter(key: Array, kernel: Array, rank: int, zero: str) -> LoraAdapter:
  *lead, size, out = kernel.shape
  dtype = jnp.promote_types(kernel.dtype, jnp.float32)
  shapes = {"a": (*lead, size, rank), "b": (*lead, rank, out)}
  random = "a" if zero == "b" else "b"
  scale = (size if random == "a" else rank) ** -0.5
  drawn = scale * jax.random.normal(key, shapes[random], dtype)
  return LoraAdapter(**{random: drawn, zero: jnp.zeros(shapes[zero], dtype)})


def lora_merge(
  params: PyTree, adapters: Mapping[str, LoraAdapter], *, alpha: ArrayLike | None = None
) -> PyTree:
  r"""Parameters with their adapters added, W + (alpha / rank) a b for each adapted kernel W.

  Args:
    params: pytree of parameters.
    adapters: what ``lora_init`` returned for them, trained perhaps.
    alpha: number, by default the rank of each adapter: a factor of 1; may be traced.

  Returns:
    pytree like ``params``, of the same dtypes; the sum is made in float32 at least.

  Raises:
    TypeError: ``adapters`` is no dict of ``LoraAdapter``.
    ValueError: a path that is not in ``params``, or shapes that do not fit.

  Note:
    Differentiated by the adapters this trains them with the network unchanged: the gradient of a
    merged kernel is formed first, of its full size. ``lora_apply`` avoids that.

  Example:
    >>> params = {"kernel": jnp.ones((2, 2)), "bias": jnp.zeros(2)}  # frozen
    >>> model = lambda params, x: x @ params["kernel"] + params["bias"]
    >>> loss = lambda adapters: jnp.sum(model(lora_merge(params, adapters, alpha=2.0), x) ** 2)
    >>> x = jnp.array([1.0, -2.0])
    >>> adapters = lora_init(jax.random.key(0), params, rank=1)
    >>> optimizer = optax.adam(0.1)
    >>> state = optimizer.init(adapters)  # of the adapters alone: nothing else is updated
    >>> updates, state = optimizer.update(jax.grad(loss)(adapters), state)
    >>> bool(loss(optax.apply_updates(adapters, updates)) < loss(adapters))
    True

  Reference:
    Hu, Shen, Wallis, Allen-Zhu, Li, Wang, Wang and Chen, LoRA: low-rank adaptation of large
    language models, 2021, section 4.1.
  """
  named, treedef = _named_leaves(params)
  shapes = {name: leaf.shape for name, (_, leaf) in named.items() if hasattr(leaf, "shape")}
  known = check_adapters(adapters, "params", shapes)

  def merged(name: str, leaf: Any) -> Any:
    if name not in known:
      return leaf
    adapter = known[name]
    kernel = _checks.check_float_array(f"params[{name!r}]", leaf, min_rank=2)
    change = _scale(adapter, alpha) * jnp.matmul(adapter.a, adapter.b, precision="highest")
    return (kernel.astype(change.dtype) + change).astype(kernel.dtype)

  return treedef.unflatten([merged(name, leaf) for name, (_, leaf) in named.items()])


def lora_apply(
  x: ArrayLike, kernel: ArrayLike, adapter: LoraAdapter, *, alpha: ArrayLike | None = None
) -> Array:
  r"""Product with an adapted kernel without merging it, x W + (alpha / rank) (x a) b.

  Args:
    x: float[..., in].
    kernel: float[in, out], W.
    adapter: of this kernel.
    alpha: number, by default the rank: a factor of 1; may be traced.

  Returns:
    float[..., out] in the dtype of ``x``; the part of the adapter is computed in float32 at least.

  Raises:
    TypeError: an array is not floating-point, or ``adapter`` no ``LoraAdapter``.
    ValueError: shapes do not fit.

  Note:
    In training only the factors get gradients, at O(n rank (in + out)) beside the products with W
    itself; nothing of the size of W is formed.

  Example:
    >>> adapter = LoraAdapter(jnp.array([[1.0], [1.0]]), jnp.array([[0.5, 0.0]]))
    >>> lora_apply(jnp.array([1.0, 2.0]), jnp.eye(2), adapter)
    Array([2.5, 2. ], dtype=float32)

  Reference:
    Hu, Shen, Wallis, Allen-Zhu, Li, Wang, Wang and Chen, LoRA: low-rank adaptation of large
    language models, 2021, equation 3.
  """
  array = _checks.check_float_array("x", x, min_rank=1)
  weights = _checks.check_float_array("kernel", kernel, rank=2)
  if array.shape[-1] != weights.shape[0]:
    raise ValueError(
      f"x must have the {weights.shape[0]} inputs of kernel on its last axis; got shape "
      f"{array.shape}."
    )
  known = check_adapter("adapter", adapter, weights.shape)
  scale = _scale(known, alpha)
  wide = jnp.result_type(array, weights, scale)
  frozen = jnp.matmul(array, weights, preferred_element_type=wide)
  inner = jnp.matmul(array.astype(wide), known.a.astype(wide))
  change = scale.astype(wide) * jnp.matmul(inner, known.b.astype(wide))
  return (frozen + change).astype(array.dtype)
