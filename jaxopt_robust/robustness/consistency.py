"""Representations that agree along a path of noise (rRCM): loss, state and step of pre-training."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxopt_robust import _arguments, _checks, numerics
from jaxopt_robust.losses._embeddings import matmul, unit_rows
from jaxopt_robust.losses.contrastive import info_nce_loss
from jaxopt_robust.robustness.noise_levels import (
  LEVELS,
  edm_noise_level,
  num_noise_levels,
  sigmoid_ema_rate,
)
from jaxopt_robust.typing import Array, ArrayLike, PyTree

__all__ = [
  "RrcmInfo",
  "RrcmState",
  "representation_nce_loss",
  "rrcm_init",
  "rrcm_loss",
  "rrcm_step",
]

Encoder = Callable[[PyTree, Array, Array], Array]
Projector = Callable[[PyTree, Array], Array]
Images = tuple[ArrayLike, ArrayLike, ArrayLike]


class RrcmInfo(NamedTuple):
  """What one evaluation of the loss saw.

  Attributes:
    contrastive: float scalar, mean of the loss between two views, both directions.
    denoising: float scalar, mean of the loss between two levels of noise.
    level: float scalar, the level t_i of the noisier copies.
    target_level: float scalar, the next lower level, of their targets.
  """

  contrastive: Array
  denoising: Array
  level: Array
  target_level: Array


class RrcmState(NamedTuple):
  """State of the pre-training.

  Attributes:
    params: parameters of encoder and projector.
    target_params: their moving average, at least float32.
    opt_state: state of the optimizer.
    count: int32, steps done.
  """

  params: PyTree
  target_params: PyTree
  opt_state: PyTree
  count: Array  # type: ignore[assignment]


def representation_nce_loss(
  queries: ArrayLike,
  keys: ArrayLike,
  *,
  temperature: ArrayLike = 0.2,
  axis_name: str | None = None,
) -> Array:
  r"""InfoNCE between two sets of representations whose rows belong together.

  Computes logsumexp_j(c_ij / tau) - c_ii / tau for each row i, c the cosines of queries and keys
  and tau = temperature. The keys are targets: no gradient flows to them.

  Args:
    queries: float[batch, features].
    keys: float[batch, features], row i the positive of query i.
    temperature: > 0, a scalar; may be traced.
    axis_name: name of a mapped axis (``shard_map``, ``pmap``) that splits the batch: the keys of
      all devices are candidates.

  Returns:
    float[batch] one loss a row, in the dtype of ``queries``.

  Raises:
    ValueError: shapes do not agree or temperature <= 0.
    TypeError: representations are not floating-point.

  Example:
    >>> representation_nce_loss(jnp.eye(3), jnp.eye(3), temperature=1.0).round(2)
    Array([0.55, 0.55, 0.55], dtype=float32)

  Reference:
    van den Oord, Li and Vinyals, Representation learning with contrastive predictive coding, 2018;
    Lei, Wang, Chen, Ba, Ren, Zhu and Anandkumar, Robust representation consistency model via
    contrastive denoising, 2025.
  """
  f = _checks.check_float_array("queries", queries, rank=2)
  k = _checks.check_float_array("keys", keys, rank=2)
  _checks.check_same_shape("queries", f, "keys", k)
  _checks.check_positive("temperature", temperature, scalar=True)
  targets = jax.lax.stop_gradient(unit_rows(k))
  place = jnp.arange(f.shape[0], dtype=jnp.int32)
  if axis_name is not None:
    targets = jax.lax.all_gather(targets, axis_name, tiled=True)
    place = place + f.shape[0] * jax.lax.axis_index(axis_name)
  scores = matmul(unit_rows(f), targets.T)
  return info_nce_loss(scores, place, temperature=temperature).astype(f.dtype)


def rrcm_loss(
  encode: Encoder,
  projection: Projector,
  params: PyTree,
  target_params: PyTree,
  images: Images,
  key: ArrayLike,
  *,
  num_levels: ArrayLike,
  temperature: ArrayLike = 0.2,
  bounds: tuple[ArrayLike, ArrayLike] = LEVELS,
  power: ArrayLike = 7.0,
  axis_name: str | None = None,
) -> tuple[Array, RrcmInfo]:
  r"""Loss of pre-training: views of an image agree, and so do levels of the same noise on it.

  Computes for each image, with one vector e ~ N(0, I) and u = x_1 + t_min e, v = x_2 + t_min e,

    NCE(h(f(u)), h'(f'(v))) + NCE(h(f(v)), h'(f'(u))) + NCE(f(x + t_i e), f(x + t_{i+1} e))

  with f the encoder, h the projector, f' and h' those of ``target_params``, NCE(q, k) the
  ``representation_nce_loss`` whose keys k are held fixed, and t_i, t_{i+1} adjacent levels of
  ``edm_noise_level``, the same i for the whole batch, uniform on 0, ..., N - 2.

  Args:
    encode: ``encode(params, x, level) -> float[batch, features]``, f; level is a scalar.
    projection: ``projection(params, features) -> float[batch, projected]``, h; may use statistics
      of the batch.
    params: pytree of parameters of both.
    target_params: pytree like ``params``, such as their moving average. No gradient flows to it.
    images: triple (x, x_1, x_2) of float[batch, ...]: images and two augmented views of each.
    key: typed PRNG key for the noise and the level.
    num_levels: integer N >= 2, a scalar; may be traced.
    temperature: > 0, a scalar; may be traced.
    bounds: as in ``edm_noise_level``; the defaults are for data in [-1, 1].
    power: as in ``edm_noise_level``.
    axis_name: name of a mapped axis that splits the batch: the key must be the same on all devices,
      the noise is not, and the targets of all devices are candidates.

  Returns:
    ``(values, info)``: float[batch] one loss an image, and an RrcmInfo.

  Raises:
    ValueError: shapes do not agree, num_levels < 2, or a number is out of range.
    TypeError: images are not floating-point, key is not a typed key, or a function is not callable.

  Note:
    One level for the whole batch: with several of them negatives would be told apart by their
    noise. The pair of levels lies on a straight line, which stands for a step of the probability
    flow without a model of the score.

  Example:
    >>> encode = lambda params, x, level: x @ params["encoder"]
    >>> projection = lambda params, features: features @ params["projector"]
    >>> params = {"encoder": jnp.eye(4), "projector": jnp.eye(4)}
    >>> values, info = rrcm_loss(
    ...   encode, projection, params, params, (jnp.eye(4),) * 3, jax.random.key(0), num_levels=21)
    >>> bool(info.contrastive < 0.1)  # equal views, other images orthogonal
    True

  Reference:
    Lei, Wang, Chen, Ba, Ren, Zhu and Anandkumar, Robust representation consistency model via
    contrastive denoising, 2025, section on the method; as in the authors' code.
  """
  _arguments.check_callable("encode", encode)
  _arguments.check_callable("projection", projection)
  clean, *views = _check_images(images)
  key_level, key_noise = jax.random.split(_checks.check_key("key", key))
  count = _checks.check_integers("num_levels", num_levels, low=2, shape=())
  if axis_name is not None:
    key_noise = jax.random.fold_in(key_noise, jax.lax.axis_index(axis_name))
  wide = numerics.upcast(clean)
  noise = jax.random.normal(key_noise, wide.shape, wide.dtype)
  place = jax.random.randint(key_level, (), 0, count - 1, jnp.int32)
  levels = [edm_noise_level(i, count, bounds=bounds, power=power)
            for i in (place, place + 1, count - 1)]  # fmt: skip

  def features(weights: PyTree, x: Array, level: Array) -> Array:
    level = level.astype(wide.dtype)
    noisy = (numerics.upcast(x) + level * noise).astype(x.dtype)
    return _rows("encode", encode(weights, noisy, level.astype(x.dtype)), x.shape[0])

  def nce(queries: Array, keys: Array) -> Array:
    return representation_nce_loss(queries, keys, temperature=temperature, axis_name=axis_name)

  def projected(weights: PyTree, x: Array) -> Array:
    rows = projection(weights, features(weights, x, levels[2]))
    return _rows("projection", rows, x.shape[0])

  ours = [projected(params, view) for view in views]
  targets = [projected(jax.lax.stop_gradient(target_params), view) for view in views]
  contrastive = nce(ours[0], targets[1]) + nce(ours[1], targets[0])
  frozen = jax.lax.stop_gradient(params)
  denoising = nce(features(params, clean, levels[0]), features(frozen, clean, levels[1]))
  means = (jnp.mean(contrastive), jnp.mean(denoising), *levels[:2])
  return contrastive + denoising, RrcmInfo(*jax.lax.stop_gradient(means))


def _check_images(images: Images) -> list[Array]:
  parts = _arguments.parts(images, "x", "x_1", "x_2", name="images")
  found = [
    _checks.check_float_array(f"images[{i}]", part, min_rank=2) for i, part in enumerate(parts)
  ]
  for i in (1, 2):
    _checks.check_same_shape("images[0]", found[0], f"images[{i}]", found[i])
  return found


def _rows(name: str, value: Array, batch: int) -> Array:
  if jnp.ndim(value) != 2 or jnp.shape(value)[0] != batch:
    raise ValueError(
      f"{name} must return one row an image, shape ({batch}, features); got {jnp.shape(value)}."
    )
  return value


def rrcm_init(params: PyTree, optimizer: optax.GradientTransformation) -> RrcmState:
  r"""Initial state of ``rrcm_step``: the target starts as the parameters themselves.

  Args:
    params: pytree of float arrays, parameters of encoder and projector.
    optimizer: optax transformation that will train them.

  Returns:
    ``RrcmState``.

  Raises:
    TypeError: params hold no floating-point arrays, or optimizer is no optax transformation.
    ValueError: params are empty.

  Example:
    >>> state = rrcm_init({"w": jnp.ones(2)}, optax.adamw(1e-3))
    >>> int(state.count)
    0

  Reference:
    Lei, Wang, Chen, Ba, Ren, Zhu and Anandkumar, Robust representation consistency model via
    contrastive denoising, 2025.
  """
  _arguments.check_optimizer("optimizer", optimizer)
  tree = _checks.check_float_tree("params", params)
  # At least float32: a bfloat16 average would lose the updates of a rate near one.
  target = jax.tree.map(numerics.upcast, tree)
  return RrcmState(tree, target, optimizer.init(tree), jnp.zeros((), jnp.int32))


def rrcm_step(
  encode: Encoder,
  projection: Projector,
  optimizer: optax.GradientTransformation,
  state: RrcmState,
  images: Images,
  key: ArrayLike,
  *,
  num_steps: int,
  temperature: ArrayLike = 0.2,
  bounds: tuple[ArrayLike, ArrayLike] = LEVELS,
  power: ArrayLike = 7.0,
  level_counts: tuple[int, int] = (20, 80),
  ema_bounds: tuple[ArrayLike, ArrayLike] = (0.99, 0.9999),
  ema_sharpness: ArrayLike = 15.0,
  axis_name: str | None = None,
) -> tuple[RrcmState, RrcmInfo]:
  r"""One step of pre-training a representation that noise changes little.

  Takes the gradient of the mean ``rrcm_loss`` at ``num_noise_levels`` levels, a step of the
  optimizer, and moves the target, theta' <- mu theta' + (1 - mu) theta, at ``sigmoid_ema_rate``.

  Args:
    encode: as in ``rrcm_loss``.
    projection: as in ``rrcm_loss``.
    optimizer: the optax transformation of ``rrcm_init``, such as
      ``optax.chain(optax.clip_by_global_norm(2.0), optax.adamw(schedule))``.
    state: ``RrcmState``.
    images: triple (x, x_1, x_2) of float[batch, ...].
    key: typed PRNG key, another one each step.
    num_steps: static integer >= 1, all steps of the training.
    temperature: > 0, a scalar; may be traced.
    bounds: as in ``edm_noise_level``.
    power: as in ``edm_noise_level``.
    level_counts: as ``counts`` in ``num_noise_levels``.
    ema_bounds: as ``bounds`` in ``sigmoid_ema_rate``.
    ema_sharpness: as ``sharpness`` in ``sigmoid_ema_rate``; 15 for small and 10 for large images.
    axis_name: as in ``rrcm_loss``; gradients are averaged over it.

  Returns:
    ``(state, info)``.

  Raises:
    ValueError: shapes do not agree, or a number is out of range.
    TypeError: images are not floating-point, key is not a typed key, a function is not callable, or
      state is no RrcmState.

  Note:
    Fine-tune the encoder at a level t afterwards by ``consistency_smoothing_loss``: for noise sigma
    on images in [0, 1] the level on [-1, 1] is 2 sigma. The projector is not used any more.

  Example:
    >>> encode = lambda params, x, level: x @ params["encoder"]
    >>> projection = lambda params, features: features @ params["projector"]
    >>> params = {"encoder": jnp.eye(4), "projector": jnp.eye(4)}
    >>> optimizer = optax.adamw(1e-3)
    >>> state, info = rrcm_step(
    ...   encode, projection, optimizer, rrcm_init(params, optimizer), (jnp.eye(4),) * 3,
    ...   jax.random.key(0), num_steps=100)
    >>> int(state.count)
    1

  Reference:
    Lei, Wang, Chen, Ba, Ren, Zhu and Anandkumar, Robust representation consistency model via
    contrastive denoising, 2025, as in the authors' code.
  """
  _arguments.check_optimizer("optimizer", optimizer)
  state = _arguments.check_state("state", state, RrcmState)
  count = num_noise_levels(state.count, num_steps, counts=level_counts)
  rate = sigmoid_ema_rate(state.count, num_steps, bounds=ema_bounds, sharpness=ema_sharpness)

  def objective(params: PyTree) -> tuple[Array, RrcmInfo]:
    values, info = rrcm_loss(
      encode, projection, params, state.target_params, images, key, num_levels=count,
      temperature=temperature, bounds=bounds, power=power, axis_name=axis_name,
    )  # fmt: skip
    return jnp.mean(values), info

  grads, info = jax.grad(objective, has_aux=True)(state.params)
  if axis_name is not None:
    grads = jax.lax.pmean(grads, axis_name)
  updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
  params = optax.apply_updates(state.params, updates)
  target = jax.tree.map(
    lambda old, new: (old + (1 - rate) * (new - old)).astype(old.dtype), state.target_params, params
  )
  return RrcmState(params, target, opt_state, state.count + 1), info
