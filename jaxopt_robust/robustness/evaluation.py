"""Robustness on images made to hurt a model, which stronger models still recognise (FMR)."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxopt_robust import _arguments, _checks, numerics
from jaxopt_robust.robustness import _ascent, _balls
from jaxopt_robust.robustness.attack_losses import cross_entropy_attack_loss
from jaxopt_robust.robustness.attacks import ApplyFn, classification
from jaxopt_robust.typing import Array, ArrayLike, PyTree

__all__ = ["FmrImages", "FmrScore", "fmr_generate", "fmr_score", "oracle_ensemble"]


class FmrImages(NamedTuple):
  """Generated images.

  Attributes:
    x: float[batch, ...], the last image that the oracle accepts; the reconstruction where it
      accepts none.
    latent: float[batch, ...], its latent code.
    valid: bool[batch], whether the oracle accepts the reconstruction; only these count.
    alive: bool[batch], whether it accepts every step too, so that the budget ended the search.

  Example:
    >>> FmrImages._fields
    ('x', 'latent', 'valid', 'alive')

  Reference:
    Zhang, Liu, Li, Xie, Kim and Wang, Foundation model-oriented robustness: robust image model
    evaluation with pretrained models, 2024, algorithm 1.
  """

  x: Array
  latent: Array
  valid: Array
  alive: Array


def fmr_generate(
  apply_fn: ApplyFn,
  params: PyTree,
  x: ArrayLike,
  labels: ArrayLike,
  *,
  encode: Callable[[Array], Array],
  decode: Callable[[Array], Array],
  oracle: Callable[[Array], Array],
  num_steps: int = 10,
  stepsize: ArrayLike = 0.1,
  penalty: Callable[[Array], Array] | None = None,
  loss: Callable[..., Array] = cross_entropy_attack_loss,
) -> FmrImages:
  r"""Moves images through a generator's latent space against a model, while an oracle agrees.

  Computes z_0 = encode(x) and, step by step,

    z <- z + stepsize * g / ||g||_2,  g = grad_z [loss(apply_fn(params, decode(z)), y) - penalty],

  as long as oracle(decode(z)) = y. An image stops before the first step that the oracle refuses,
  and is not moved through images that mean something else.

  Args:
    apply_fn: ``apply_fn(params, x) -> float[batch, classes]``, the model that is evaluated, row by
      row (no batch statistics).
    params: its parameters, a pytree.
    x: float[batch, ...] images.
    labels: int[batch] classes y.
    encode: ``x -> float[batch, ...]`` latent codes, row by row.
    decode: latent codes to images like x, row by row and differentiable.
    oracle: ``x -> int[batch]`` classes, such as ``oracle_ensemble``; not differentiated.
    num_steps: static integer >= 0, the budget. A smaller one is the beginning of the same path.
    stepsize: > 0, a scalar or float[batch], in latent units; may be traced.
    penalty: ``x -> float[batch]``, subtracted from the loss, such as a multiple of the oracle's
      cross entropy; the oracle's decision stays the test.
    loss: ``loss(logits, labels) -> float[batch]``. With a penalty take
      ``losses.cross_entropy_loss``, whose size it is to be compared with.

  Returns:
    FmrImages. No gradient flows through them.

  Raises:
    ValueError: shapes do not agree, a known label is out of range, num_steps < 0 or stepsize <= 0.
    TypeError: x is not floating-point or a function is not callable.

  Note:
    Compare models at the same budget, step, generator and oracle, which bounds what can be found.
    The structure (generator, ascent, oracle's constraint, stop at the first violation) is the
    paper's as its reviews and summaries describe it; the step of one length in latent space, its
    size and the budget are our choice, since the paper's could not be verified.

  Example:
    >>> linear = lambda weights, x: x @ weights
    >>> x, labels = jnp.array([[1.0, 0.0]]), jnp.array([0])
    >>> same, always = (lambda z: z), (lambda x: jnp.zeros(len(x), int))
    >>> found = fmr_generate(
    ...   linear, jnp.eye(2), x, labels, encode=same, decode=same, oracle=always, num_steps=2,
    ...   stepsize=0.5,
    ... )
    >>> np.float64(found.x).round(3).tolist(), found.alive.tolist()
    ([[0.293, 0.707]], [True])

  Reference:
    Zhang, Liu, Li, Xie, Kim and Wang, Foundation model-oriented robustness: robust image model
    evaluation with pretrained models, 2024, algorithm 1.
  """
  clean = jax.lax.stop_gradient(_checks.check_float_array("x", x, min_rank=1))
  for name, function in (("encode", encode), ("decode", decode), ("oracle", oracle)):
    _arguments.check_callable(name, function)
  if penalty is not None:
    _arguments.check_callable("penalty", penalty)
  num_steps = _checks.check_int("num_steps", num_steps, minimum=0)
  _checks.check_positive("stepsize", stepsize)
  scores, index = classification(apply_fn, params, clean, labels, loss)
  start = _checks.check_float_array("encode(x)", jax.lax.stop_gradient(encode(clean)), min_rank=1)
  image = jax.eval_shape(decode, start)
  if image.shape != clean.shape:
    raise ValueError(
      f"decode must return images of the shape of x, {clean.shape}; got {image.shape}."
    )
  length = _balls.per_example("stepsize", stepsize, start)

  def accepts(latent: Array) -> Array:
    seen = oracle(decode(latent))
    if jnp.shape(seen) != index.shape or not jnp.issubdtype(seen.dtype, jnp.integer):
      raise ValueError(
        f"oracle must return one class an image, integers of shape {index.shape}; "
        f"got {_checks.describe(seen)}."
      )
    return seen == index

  def objective(latent: Array) -> tuple[Array, Any]:
    point = decode(latent)
    value, _ = scores(point)
    return (value if penalty is None else value - penalty(point)), ()

  def rule(point: Array, value: Array, gradient: Array, memory: Any, x: Any) -> tuple[Array, Any]:
    return point + length * _balls.unit(gradient), memory

  valid = accepts(start)
  found = _ascent.ascend(
    objective, start, rule, num_steps=num_steps, accept=lambda latent: valid & accepts(latent)
  )
  images = FmrImages(decode(found.point), found.point, valid, valid & found.alive)
  return jax.lax.stop_gradient(images)


class FmrScore(NamedTuple):
  """Foundation model-oriented robustness; each number is a float scalar.

  Attributes:
    fmr: 100 perturbed / standard.
    standard: accuracy on the images as they are (SA).
    perturbed: accuracy on the generated images that are valid (PA).
    valid: share of the images that are valid.

  Example:
    >>> FmrScore._fields
    ('fmr', 'standard', 'perturbed', 'valid')

  Reference:
    Zhang, Liu, Li, Xie, Kim and Wang, Foundation model-oriented robustness: robust image model
    evaluation with pretrained models, 2024, section 4.
  """

  fmr: Array
  standard: Array
  perturbed: Array
  valid: Array


def fmr_score(
  logits: ArrayLike,
  generated: ArrayLike,
  labels: ArrayLike,
  *,
  valid: ArrayLike,
) -> FmrScore:
  r"""Score of a model from its answers on images and on those that ``fmr_generate`` made of them.

  Computes FMR = 100 PA / SA with SA the accuracy of ``logits`` on all images and PA that of
  ``generated`` on the valid ones.

  Args:
    logits: float[batch, classes] scores of the images as they are.
    generated: float[batch, classes] scores of the generated images.
    labels: int[batch] classes.
    valid: bool[batch], ``FmrImages.valid``.

  Returns:
    FmrScore, at least float32. PA is 0 where no image is valid; FMR is NaN where SA is 0, as no
    ratio is defined.

  Raises:
    ValueError: shapes do not agree or a known label is out of range.
    TypeError: scores are not floating-point, labels are not integers or valid is not boolean.

  Note:
    More than 100 is possible: a generator may help. That SA is the accuracy on the original images
    is how the score was read from the paper's reviews.

  Example:
    >>> logits = jnp.array([[2.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 0.0]])
    >>> labels, valid = jnp.array([0, 1, 0, 1]), jnp.array([True, True, False, False])
    >>> score = fmr_score(logits, logits[::-1], labels, valid=valid)
    >>> round(float(score.fmr), 2)
    66.67

  Reference:
    Zhang, Liu, Li, Xie, Kim and Wang, Foundation model-oriented robustness: robust image model
    evaluation with pretrained models, 2024, section 4.
  """
  first = _checks.check_float_array("logits", logits, rank=2)
  second = _checks.check_float_array("generated", generated, rank=2)
  _checks.check_same_shape("logits", first, "generated", second)
  index = _checks.check_labels("labels", labels, shape=first.shape[:1], num_classes=first.shape[1])
  mask = _checks.check_mask("valid", valid, shape=first.shape[:1])
  if mask is None:
    raise TypeError("valid must be a boolean mask; got None.")
  right = lambda scores: (~_ascent.is_wrong(scores, index)).astype(jnp.result_type(float))
  standard = jnp.mean(right(first))
  perturbed = numerics.masked_mean(right(second), mask)
  fmr = 100 * numerics.safe_divide(perturbed, standard, default=jnp.nan)
  return FmrScore(fmr, standard, perturbed, jnp.mean(mask.astype(standard.dtype)))


def oracle_ensemble(
  apply_fns: Sequence[ApplyFn], params: Sequence[PyTree]
) -> Callable[[Array], Array]:
  r"""Classes by the mean probability of several models, the oracle of ``fmr_generate``.

  Computes argmax_k sum_m softmax(f_m(x))_k, the first of equal ones.

  Args:
    apply_fns: functions ``apply_fn(params, x) -> float[batch, classes]``, or one for all.
    params: their parameters, one pytree each.

  Returns:
    ``oracle(x) -> int32[batch]``.

  Raises:
    ValueError: there is no model, or as many functions as parameters are missing.
    TypeError: a function is not callable.

  Example:
    >>> sure, unsure = 9 * jnp.eye(2), jnp.array([[0.0, 1.0], [1.0, 0.0]])
    >>> oracle = oracle_ensemble(lambda weights, x: x @ weights, [sure, unsure])
    >>> oracle(jnp.eye(2))
    Array([0, 1], dtype=int32)

  Reference:
    Zhang, Liu, Li, Xie, Kim and Wang, Foundation model-oriented robustness: robust image model
    evaluation with pretrained models, 2024 (an ensemble of foundation models).
  """
  if not isinstance(params, tuple | list) or not params:
    raise ValueError(
      f"params must be a sequence of parameters, one a model; got {_checks.describe(params)}."
    )
  functions = [apply_fns] * len(params) if callable(apply_fns) else apply_fns
  if not isinstance(functions, tuple | list):
    raise TypeError(f"apply_fns must be functions; got {_checks.describe(apply_fns)}.")
  if len(functions) != len(params):
    raise ValueError(
      f"apply_fns must be one function, or one for each of {len(params)} params; "
      f"got {len(functions)}."
    )
  for function in functions:
    _arguments.check_callable("apply_fns", function)

  def oracle(x: Array) -> Array:
    shares = [
      jax.nn.softmax(numerics.upcast(function(own, x)), axis=-1)
      for function, own in zip(functions, params, strict=True)
    ]
    return jnp.argmax(sum(shares[1:], shares[0]), axis=-1).astype(jnp.int32)

  return oracle
