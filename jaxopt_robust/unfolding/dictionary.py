"""Dictionary learning: sparse codes by proximal gradient steps, atoms by gradient steps."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxopt_robust import _arguments, _checks
from jaxopt_robust.numerics import safe_divide, safe_norm
from jaxopt_robust.solvers import Solver, ista, run_until
from jaxopt_robust.typing import Array, ArrayLike, Penalty, ProxFn, PyTree

__all__ = [
  "DictionaryInfo",
  "DictionaryState",
  "dictionary_step",
  "init_dictionary",
  "learn_dictionary",
  "normalize_atoms",
  "recovered_atoms",
  "sparse_coding",
]


def normalize_atoms(dictionary: ArrayLike) -> Array:
  r"""Columns of unit Euclidean norm.

  d_j / ||d_j||_2 for each column; a column of zeros stays.

  Args:
    dictionary: float[features, atoms], the atoms as columns.

  Returns:
    float[features, atoms] of the same dtype.

  Raises:
    TypeError: when the entries are no floating-point numbers.
    ValueError: when the rank is not 2.

  Example:
    >>> normalize_atoms(jnp.array([[3.0, 0.0], [4.0, 0.0]]))
    Array([[0.6, 0. ],
           [0.8, 0. ]], dtype=float32)

  Reference:
    Olshausen and Field, Sparse coding with an overcomplete basis set: a strategy employed by V1?,
    1997 (the constraint on the atoms' norms).
  """
  dictionary = _checks.check_float_array("dictionary", dictionary, rank=2)
  # Twice: the norm of a column of tiny numbers is known to few digits.
  for _ in range(2):
    dictionary = safe_divide(dictionary, safe_norm(dictionary, axis=0)[None, :])
  return dictionary


def _misfit(codes: Array, patches: Array, dictionary: Array) -> Array:
  """1/2 ||Y - R D^T||_F^2."""
  return 0.5 * jnp.sum((patches - codes @ dictionary.T) ** 2)


def sparse_coding(
  prox: ProxFn | Penalty, *, stepsize: ArrayLike | Callable[[Array], ArrayLike]
) -> Solver:
  r"""Sparse codes of a batch in a given dictionary, by proximal gradient steps.

  Seeks argmin_R 1/2 ||Y - R D^T||_F^2 + g(R; hyper) over codes R float[batch, atoms] of the batch
  Y float[batch, features], one penalty for all of them, by

    R_{t+1} = prox(R_t + mu_t (Y - R_t D^T) D, hyper, mu_t).

  With the operator of the l1 norm it is ISTA (soft thresholding), with the number of non-zeros it
  is hard thresholding, with square roots half thresholding; CEL0 with the column norms as its
  constants keeps the global minimisers of the number of non-zeros and has fewer local ones.
  The stopping quantity ``info.error`` is the relative change ||R_{t+1} - R_t||_F / ||R_{t+1}||_F
  (the change alone where R_{t+1} is 0): how far the codes moved, no distance to a minimiser.

  Args:
    prox: ``prox(x, hyper, scaling)`` or a ``Penalty``: ``prox.lasso``, ``prox.l0``, ``prox.half``,
      ``prox.cel0``, or any other.
    stepsize: mu > 0; below 1 / ||D||_2^2 the objective never increases. May be traced, or a
      function ``count -> mu``.

  Returns:
    ``Solver`` whose data are ``(Y, D)``, whose hyper are the operator's parameters, with the states
    and infos of ``solvers.ista``.

  Raises:
    TypeError: when ``prox`` is neither an operator nor a ``Penalty``.
    ValueError: when ``stepsize`` is not positive, or Y and D have different numbers of features.

  Example:
    >>> solver = sparse_coding(jr.prox.cel0, stepsize=0.9)
    >>> patches = jnp.array([[2.0, 0.1]])
    >>> codes, info = jr.solvers.run_until(
    ...   solver, jnp.zeros((1, 2)), (0.1, 1.0), patches, jnp.eye(2), tol=1e-6, max_steps=500)
    >>> codes.round(3)
    Array([[2., 0.]], dtype=float32)

  Reference:
    Rentzeperis, Calatroni, Perrinet and Prandi, Beyond l1 sparse coding in V1, 2023 (soft, hard,
    half and CEL0 rules). There hard and half thresholding belong to a misfit without the factor
    1/2: our strengths are half of theirs.
  """
  _arguments.check_function_of("prox", _arguments.as_prox("prox", prox), "x", "hyper", "scaling")
  inner = ista(_misfit, prox, stepsize=stepsize)

  def check(codes: Array, data: tuple) -> None:
    if len(data) != 2:
      raise ValueError(f"data must be the patches and the dictionary; got {len(data)} items.")
    patches = _checks.check_float_array("patches", data[0], rank=2)
    dictionary = _checks.check_float_array("dictionary", data[1], rank=2)
    if patches.shape[1] != dictionary.shape[0]:
      raise ValueError(
        f"patches float[batch, features] and dictionary float[features, atoms] must agree; got "
        f"{patches.shape} and {dictionary.shape}."
      )
    wanted = (patches.shape[0], dictionary.shape[1])
    if getattr(codes, "shape", None) != wanted:
      raise ValueError(f"params must be codes of shape {wanted}; got {jnp.shape(codes)}.")

  def init(params: Array, hyper: PyTree, *data: Array) -> Any:
    check(params, data)
    return inner.init(params, hyper, *data)

  def step(state: Any, hyper: PyTree, *data: Array) -> tuple[Any, Any]:
    new, info = inner.step(state, hyper, *data)
    moved = info.error * info.stepsize
    size = safe_norm(jax.lax.stop_gradient(new.params))
    # Codes at rest in rounding alone do not run on: their change is that rounding.
    return new, info._replace(
      error=jnp.where(size > 0, moved / jnp.where(size > 0, size, 1), moved)
    )

  return Solver(init, step)


class DictionaryState(NamedTuple):
  """State of dictionary learning.

  Attributes:
    params: float[features, atoms], the dictionary, columns of unit norm.
    opt_state: state of the optax chain.
    count: int32, batches seen.
  """

  params: Array
  opt_state: Any
  count: Array  # type: ignore[assignment]


class DictionaryInfo(NamedTuple):
  """What a step of dictionary learning saw, before it changed the dictionary.

  Attributes:
    error: squared error of the reconstruction over the batch's sum of squares (0 for a batch of
      zeros).
    active: mean number of non-zero codes of a patch.
    used: share of atoms that the batch used.
    steps: int32, steps of the codes.
    status: int32, status of the codes' solve (see ``solvers.SolveInfo``).
  """

  error: Array
  active: Array
  used: Array
  steps: Array
  status: Array


def init_dictionary(
  key: Array,
  features: int,
  atoms: int,
  *,
  optimizer: optax.GradientTransformation,
  dtype: Any = None,
) -> DictionaryState:
  r"""Random unit atoms, and the optimizer's state.

  Entries are drawn from a normal distribution, columns divided by their norms: atoms are uniform
  on the sphere.

  Args:
    key: typed PRNG key.
    features: length of an atom.
    atoms: number of atoms.
    optimizer: the optax chain that ``dictionary_step`` is given.
    dtype: floating-point dtype, JAX's default if None.

  Returns:
    ``DictionaryState``.

  Raises:
    TypeError: when ``key`` is no typed key, ``optimizer`` no optax transformation, or a size no
      Python integer.
    ValueError: when a size is below 1.

  Example:
    >>> init_dictionary(jax.random.key(0), 4, 8, optimizer=optax.sgd(0.01)).params.shape
    (4, 8)

  Reference:
    Rentzeperis, Calatroni, Perrinet and Prandi, Beyond l1 sparse coding in V1, 2023.
  """
  key = _checks.check_key("key", key)
  shape = tuple(
    _checks.check_int(name, size, minimum=1)
    for name, size in (("features", features), ("atoms", atoms))
  )
  _arguments.check_optimizer("optimizer", optimizer)
  dtype = _checks.check_float_dtype(jnp.result_type(float) if dtype is None else dtype)
  params = normalize_atoms(jax.random.normal(key, shape, dtype))
  return DictionaryState(params, optimizer.init(params), jnp.zeros((), jnp.int32))


def dictionary_step(
  state: DictionaryState,
  patches: ArrayLike,
  hyper: PyTree,
  *,
  prox: ProxFn | Penalty,
  optimizer: optax.GradientTransformation,
  stepsize: ArrayLike | Callable[[Array], ArrayLike],
  tol: ArrayLike = 1e-2,
  max_steps: int = 1000,
) -> tuple[DictionaryState, DictionaryInfo]:
  r"""One step of dictionary learning: codes of a batch, then a gradient step on the atoms.

  With R the codes that ``sparse_coding`` finds from zero for the batch Y in D, the optimizer
  is given the gradient of 1/2 ||Y - R D^T||_F^2 in D with R fixed, -(Y - R D^T)^T R, a sum over the
  batch; then the columns are divided by their norms. With ``optax.sgd`` this is
  D <- normalise(D + eta (Y - R D^T)^T R).

  Args:
    state: ``DictionaryState``.
    patches: float[batch, features].
    hyper: parameters of the operator, the strength among them; may be traced.
    prox: ``prox(x, hyper, scaling)`` or a ``Penalty``.
    optimizer: any optax chain for the atoms.
    stepsize: step size mu of the codes, > 0, or a function ``count -> mu``; may be traced. Should
      be below 1 / ||D||_2^2, which grows while atoms become alike.
    tol: >= 0, relative change of the codes at which they are taken.
    max_steps: >= 0, most steps of the codes.

  Returns:
    ``(state, info)`` with info a ``DictionaryInfo``.

  Raises:
    TypeError: when ``state`` is no ``DictionaryState``, or ``optimizer`` no optax transformation.
    ValueError: when the patches do not have the dictionary's number of features.

  Note:
    Atoms that no patch uses keep their place (plain gradients): ``info.used`` tells. The step is
    not differentiable in reverse mode, since the codes' loop stops early.

  Example:
    >>> optimizer = optax.sgd(0.01)
    >>> state = init_dictionary(jax.random.key(0), 4, 8, optimizer=optimizer)
    >>> state, info = dictionary_step(
    ...   state, jnp.eye(4), 0.1, prox=jr.prox.lasso, optimizer=optimizer, stepsize=0.1)
    >>> int(state.count), int(info.status)
    (1, 0)

  Reference:
    Rentzeperis, Calatroni, Perrinet and Prandi, Beyond l1 sparse coding in V1, 2023.
  """
  state = _arguments.check_state("state", state, DictionaryState)
  _arguments.check_optimizer("optimizer", optimizer)
  patches = _checks.check_float_array("patches", patches, rank=2)
  solver = sparse_coding(prox, stepsize=stepsize)
  start = jnp.zeros((patches.shape[0], state.params.shape[1]), state.params.dtype)
  codes, info = run_until(solver, start, hyper, patches, state.params, tol=tol, max_steps=max_steps)
  value, grad = jax.value_and_grad(_misfit, argnums=2)(codes, patches, state.params)
  updates, opt_state = optimizer.update(grad, state.opt_state, state.params)
  params = normalize_atoms(optax.apply_updates(state.params, updates))
  seen = codes != 0
  summary = DictionaryInfo(
    safe_divide(2 * value, jnp.sum(patches**2)),
    jnp.mean(jnp.sum(seen, axis=1).astype(value.dtype)),
    jnp.mean(jnp.any(seen, axis=0).astype(value.dtype)),
    info.steps,
    info.status,
  )
  return DictionaryState(params, opt_state, state.count + 1), summary


def learn_dictionary(
  state: DictionaryState,
  batches: ArrayLike,
  hyper: PyTree,
  *,
  prox: ProxFn | Penalty,
  optimizer: optax.GradientTransformation,
  stepsize: ArrayLike | Callable[[Array], ArrayLike],
  tol: ArrayLike = 1e-2,
  max_steps: int = 1000,
) -> tuple[DictionaryState, DictionaryInfo]:
  r"""Dictionary learning over a sequence of batches: one ``lax.scan`` of ``dictionary_step``.

  Args:
    state: ``DictionaryState``, of ``init_dictionary`` or of an earlier run.
    batches: float[count, batch, features].
    hyper: parameters of the operator, the strength among them; may be traced, and mapped over: a
      whole trade-off curve is one ``jax.vmap``.
    prox: ``prox(x, hyper, scaling)`` or a ``Penalty``.
    optimizer: any optax chain for the atoms.
    stepsize: step size of the codes, > 0, or a function ``count -> mu`` of their steps.
    tol: >= 0, relative change of the codes at which they are taken.
    max_steps: >= 0, most steps of the codes.

  Returns:
    ``(state, info)``, the ``DictionaryInfo`` of all batches, leading axis ``count``.

  Raises:
    TypeError: when ``state`` is no ``DictionaryState``, or ``optimizer`` no optax transformation.
    ValueError: when ``batches`` has not rank 3, or other features than the dictionary.

  Example:
    >>> optimizer = optax.sgd(0.01)
    >>> state = init_dictionary(jax.random.key(0), 4, 8, optimizer=optimizer)
    >>> state, info = learn_dictionary(state, jnp.stack([jnp.eye(4)] * 3), 0.1,
    ...                                prox=jr.prox.lasso, optimizer=optimizer, stepsize=0.1)
    >>> info.error.shape
    (3,)

  Reference:
    Rentzeperis, Calatroni, Perrinet and Prandi, Beyond l1 sparse coding in V1, 2023.
  """
  state = _arguments.check_state("state", state, DictionaryState)
  batches = _checks.check_float_array("batches", batches, rank=3)

  def step(state: DictionaryState, patches: Array) -> tuple[DictionaryState, DictionaryInfo]:
    return dictionary_step(
      state, patches, hyper, prox=prox, optimizer=optimizer, stepsize=stepsize, tol=tol,
      max_steps=max_steps,
    )  # fmt: skip

  return jax.lax.scan(step, state, batches)


def recovered_atoms(
  dictionary: ArrayLike, truth: ArrayLike, *, threshold: ArrayLike = 0.95
) -> Array:
  r"""Share of true atoms that a dictionary holds, whatever their order, sign and length.

  The share of columns t of ``truth`` for which some column d has |<d, t>| > threshold ||d|| ||t||.

  Args:
    dictionary: float[features, atoms].
    truth: float[features, true atoms].
    threshold: in [0, 1], the least modulus of the cosine; may be traced.

  Returns:
    float scalar in [0, 1].

  Raises:
    ValueError: when the numbers of features differ, or ``threshold`` is out of its range.

  Example:
    >>> recovered_atoms(jnp.array([[0.0], [-2.0]]), jnp.eye(2))
    Array(0.5, dtype=float32)

  Reference:
    Aharon, Elad and Bruckstein, K-SVD: an algorithm for designing overcomplete dictionaries for
    sparse representation, 2006, section V (the experiment that counts recovered atoms).
  """
  dictionary, truth = normalize_atoms(dictionary), _checks.check_float_array("truth", truth, rank=2)
  _checks.check_interval("threshold", threshold, 0.0, 1.0, scalar=True)
  if dictionary.shape[0] != truth.shape[0]:
    raise ValueError(
      f"dictionary and truth must have equally many rows; got {dictionary.shape} and {truth.shape}."
    )
  cosines = jnp.abs(dictionary.T @ normalize_atoms(truth))
  found = jnp.max(cosines, axis=0, initial=0) > jnp.asarray(threshold, cosines.dtype)
  return jnp.mean(found.astype(cosines.dtype))
