"""Which labels of web data are wrong: small losses, a plane between features, both in turn."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxopt_robust import _arguments, _checks, numerics
from jaxopt_robust.losses import _embeddings
from jaxopt_robust.robustness.gaussian_mixture import gmm2_fit, gmm2_posterior
from jaxopt_robust.robustness.linear_separation import check_flags, linear_separation
from jaxopt_robust.solvers.types import NON_FINITE
from jaxopt_robust.typing import Array, ArrayLike

__all__ = [
  "NoiseInfo",
  "NoiseState",
  "cotrain_merge",
  "detect_noise",
  "noise_init",
  "pseudo_label_weights",
  "small_loss_mask",
]

DETECTORS = ("alternate", "linear", "small_loss")


class NoiseState(NamedTuple):
  """What is known of each training example; rows are numbers of examples, not of a batch.

  Attributes:
    noisy: bool[n], examples whose label is taken for wrong.
    weights: float[n] in [0, 1], of the examples in the training loss.
    guesses: float[n, classes], the stored pseudo-labels, written while training:
      ``state.guesses.at[index].set(sharpen(probabilities))``.
    epoch: int32, epochs done; the first one is the warm-up.
  """

  noisy: Array
  weights: Array
  guesses: Array
  epoch: Array


class NoiseInfo(NamedTuple):
  """What one detection saw.

  Attributes:
    probability: float[n], of being noisy, by the detector that decided.
    small_loss: float[n], the same by the losses; the labels of the linear detector come from it.
    flagged: float scalar, the share of the examples in use that are taken for noisy.
    status: int32, 0 or what the detector met: 1 a step limit, 2 losses that are NaN (then nothing
      is flagged), 3 a solve that came to rest early.
  """

  probability: Array
  small_loss: Array
  flagged: Array
  status: Array


def noise_init(labels: ArrayLike, *, num_classes: int, dtype: Any = None) -> NoiseState:
  r"""State before the first epoch: no example is noisy, weights are 1, guesses are the labels.

  Args:
    labels: int[n] in [0, num_classes), as they come.
    num_classes: static integer >= 2.
    dtype: of weights and guesses; the default float by default.

  Returns:
    NoiseState.

  Raises:
    ValueError: a known label is out of range, labels are empty or num_classes < 2.
    TypeError: labels are no integers or dtype is no floating-point type.

  Example:
    >>> noise_init(jnp.array([1, 0]), num_classes=2).guesses
    Array([[0., 1.],
           [1., 0.]], dtype=float32)

  Reference:
    Albert, Valmadre, Arazo, Krishna, O'Connor and McGuinness, An accurate detection is not all you
    need to combat label noise in web-noisy datasets, 2024.
  """
  num_classes = _checks.check_int("num_classes", num_classes, minimum=2)
  kind = _checks.check_float_dtype(dtype)
  shape = _checks.check_array("labels", labels, rank=1).shape
  classes = _checks.check_labels("labels", labels, shape=shape, num_classes=num_classes)
  return NoiseState(
    jnp.zeros(shape, jnp.bool_),
    jnp.ones(shape, kind),
    jax.nn.one_hot(classes, num_classes, dtype=kind),
    jnp.zeros((), jnp.int32),
  )


def small_loss_mask(
  losses: ArrayLike, *, threshold: ArrayLike = 0.95, where: ArrayLike | None = None
) -> tuple[Array, Array]:
  r"""Examples whose loss belongs to the upper of two groups (Z): wrong labels are learnt late.

  A mixture of two Gaussians is fitted to the losses (``gmm2_fit``); an example is noisy where the
  posterior of the group with the higher mean is above the threshold.

  Args:
    losses: float[n], of the labels as they came, not of corrected ones.
    threshold: in [0, 1], a scalar; may be traced.
    where: bool[n]; examples where it is false are not used and not flagged.

  Returns:
    ``(noisy, probability)``: bool[n] and float[n], 0 where ``where`` is false. Equal losses flag
    nothing; a loss in use that is NaN makes all probabilities NaN and flags nothing.

  Raises:
    ValueError: shapes do not agree or the threshold is out of range.
    TypeError: losses are not floating-point or where is not boolean.

  Note:
    A mixture of two always splits: some examples are flagged where all labels are right, too. An
    increasing affine map of the losses changes nothing.

  Example:
    >>> small_loss_mask(jnp.array([0.1, 0.2, 0.1, 3.0, 0.2]))[0]
    Array([False, False, False,  True, False], dtype=bool)

  Reference:
    Arazo, Ortego, Albert, O'Connor and McGuinness, Unsupervised label noise modeling and loss
    correction, 2019; constants of Albert, Valmadre, Arazo, Krishna, O'Connor and McGuinness, An
    accurate detection is not all you need to combat label noise in web-noisy datasets, 2024.
  """
  array = _checks.check_float_array("losses", losses, rank=1)
  mask = _checks.check_mask("where", where, shape=array.shape)
  _checks.check_interval("threshold", threshold, 0.0, 1.0, scalar=True)
  wide = numerics.upcast(array)
  probability = gmm2_posterior(gmm2_fit(wide, where=mask), wide)
  noisy = probability > jnp.asarray(threshold, wide.dtype)
  if mask is not None:
    noisy, probability = noisy & mask, jnp.where(mask, probability, 0)
  return noisy, jax.lax.stop_gradient(probability).astype(array.dtype)


def pseudo_label_weights(
  pseudo_losses: ArrayLike, noisy: ArrayLike, *, where: ArrayLike | None = None
) -> Array:
  r"""How far to trust the pseudo-labels: weights of the noisy examples by their pseudo-losses.

  A mixture of two Gaussians is fitted to the pseudo-losses of the noisy examples; their weight is
  the posterior of the group with the lower mean, 1 - ``gmm2_posterior``. All other weights are 1.

  Args:
    pseudo_losses: float[n], cross entropy of the network with its stored guess.
    noisy: bool[n].
    where: bool[n]; examples where it is false are not used; their weight is 1.

  Returns:
    float[n] in [0, 1]; all 1 where at most two examples are noisy, where their pseudo-losses are
    equal, or one of them is NaN. Infinite ones count as the largest finite one.

  Raises:
    ValueError: shapes do not agree.
    TypeError: pseudo_losses are not floating-point, or noisy or where not boolean.

  Example:
    >>> noisy = jnp.array([False, True, True, True, True])
    >>> pseudo_label_weights(jnp.array([9.0, 0.1, 2.0, 0.1, 2.1]), noisy).round(2)
    Array([1., 1., 0., 1., 0.], dtype=float32)

  Reference:
    Albert, Valmadre, Arazo, Krishna, O'Connor and McGuinness, Is your noise correction noisy? PLS:
    robustness to label noise with two stage detection, 2023.
  """
  array = _checks.check_float_array("pseudo_losses", pseudo_losses, rank=1)
  flags = check_flags(noisy, array.shape)
  mask = _checks.check_mask("where", where, shape=array.shape)
  used = flags if mask is None else flags & mask
  wide = numerics.upcast(array)
  mixture = gmm2_fit(wide, where=used)
  enough = (jnp.sum(used) > 2) & (mixture.status != NON_FINITE)
  weights = 1 - gmm2_posterior(mixture, wide)
  weights = jnp.where(used & enough, weights, 1)
  return jax.lax.stop_gradient(weights).astype(array.dtype)


def detect_noise(
  state: NoiseState,
  losses: ArrayLike,
  pseudo_losses: ArrayLike,
  *,
  features: ArrayLike | None = None,
  which: str = "alternate",
  threshold: ArrayLike = 0.95,
  ridge: ArrayLike = 1e-4,
  where: ArrayLike | None = None,
) -> tuple[NoiseState, NoiseInfo]:
  r"""Detection at the end of an epoch (PLS-LSA): small losses and a plane in features, in turn.

  After epochs 0, 2, ... the noisy side of ``linear_separation`` trained on ``small_loss_mask`` is
  taken, which finds images from elsewhere and keeps more clean ones; after epochs 1, 3, ... the
  small-loss mask itself, which finds wrong labels too. Noisy examples get ``pseudo_label_weights``.

  Args:
    state: NoiseState; its guesses are kept, its epoch is counted up.
    losses: float[n], cross entropy with the labels as they came.
    pseudo_losses: float[n], cross entropy with ``state.guesses``.
    features: float[n, d], of the network; rows are divided by their length. Not needed for
      "small_loss".
    which: "alternate", "linear" or "small_loss", static.
    threshold: in [0, 1], of the small-loss mask; may be traced.
    ridge: > 0, of the separation; may be traced.
    where: bool[n]; examples where it is false are not used, not flagged and keep weight 1.

  Returns:
    ``(state, info)``: NoiseState and NoiseInfo.

  Raises:
    ValueError: shapes do not agree, a number is out of range, or features are needed and missing.
    TypeError: state is no NoiseState, or an array is of the wrong kind.

  Note:
    Before the first detection the network needs a warm-up: with few updates the losses have no
    two groups.

  Example:
    >>> state = noise_init(jnp.array([0, 1, 1, 0]), num_classes=2)
    >>> losses, features = jnp.array([0.1, 0.2, 3.0, 0.1]), jnp.eye(4)
    >>> state, info = detect_noise(state, losses, losses, which="small_loss")
    >>> state.noisy, float(info.flagged)
    (Array([False, False,  True, False], dtype=bool), 0.25)
    >>> int(detect_noise(state, losses, losses, features=features)[0].epoch)
    2

  Reference:
    Albert, Valmadre, Arazo, Krishna, O'Connor and McGuinness, An accurate detection is not all you
    need to combat label noise in web-noisy datasets, 2024.
  """
  state = _check_state("state", state)
  shape = state.noisy.shape
  array = _checks.check_float_array("losses", losses, rank=1)
  pseudo = _checks.check_float_array("pseudo_losses", pseudo_losses, rank=1)
  for name, value in (("losses", array), ("pseudo_losses", pseudo)):
    if value.shape != shape:
      raise ValueError(f"{name} must have shape {shape}, as the state; got {value.shape}.")
  _arguments.check_option("which", which, DETECTORS)
  mask = _checks.check_mask("where", where, shape=shape)
  _checks.check_positive("ridge", ridge, scalar=True)
  noisy, small = small_loss_mask(array, threshold=threshold, where=mask)
  used = jnp.ones(shape, jnp.bool_) if mask is None else mask
  status = jnp.where(jnp.any(used & jnp.isnan(array)), NON_FINITE, 0).astype(jnp.int32)
  by_loss = (noisy, small, status)
  if which == "small_loss":
    found = by_loss
  else:
    if features is None:
      raise ValueError(f"features must be given where which is {which!r}; got None.")
    rows = _checks.check_float_array("features", features, rank=2)
    if rows.shape[:1] != shape:
      raise ValueError(f"features must have {shape[0]} rows, as the state; got {rows.shape}.")
    rows = _embeddings.unit_rows(jax.lax.stop_gradient(rows))

    def by_plane() -> tuple[Array, Array, Array]:
      found, probability, info = linear_separation(rows, noisy, ridge=ridge, where=mask)
      return found, probability.astype(small.dtype), jnp.maximum(status, info.status)

    linear = which == "linear" or state.epoch % 2 == 0
    found = by_plane() if which == "linear" else jax.lax.cond(linear, by_plane, lambda: by_loss)
  flags, probability, status = found
  weights = pseudo_label_weights(pseudo, flags, where=mask).astype(state.weights.dtype)
  flagged = numerics.masked_mean(flags.astype(array.dtype), mask)
  new = NoiseState(flags, weights, state.guesses, state.epoch + 1)
  return new, NoiseInfo(probability, small, flagged, status)


def cotrain_merge(a: NoiseState, b: NoiseState) -> NoiseState:
  r"""One state of two networks (PLS-LSA+): noisy where both say so.

  Weights are (w_a + w_b) / 2 on examples that both take for noisy and 1 elsewhere, guesses are
  (G_a + G_b) / 2.

  Args:
    a: NoiseState of one network, with the epoch that is kept.
    b: NoiseState of the other one, of the same examples.

  Returns:
    NoiseState.

  Raises:
    TypeError: a or b is no NoiseState.
    ValueError: their shapes do not agree.

  Example:
    >>> a = noise_init(jnp.array([0, 1]), num_classes=2)._replace(noisy=jnp.array([True, True]))
    >>> b = a._replace(noisy=jnp.array([True, False]), weights=jnp.array([0.5, 0.5]))
    >>> merged = cotrain_merge(a, b)
    >>> merged.noisy, merged.weights
    (Array([ True, False], dtype=bool), Array([0.75, 1.  ], dtype=float32))

  Reference:
    Albert, Valmadre, Arazo, Krishna, O'Connor and McGuinness, An accurate detection is not all you
    need to combat label noise in web-noisy datasets, 2024 (PLS-LSA+).
  """
  a, b = _check_state("a", a), _check_state("b", b)
  _checks.check_same_shape("guesses of a", a.guesses, "guesses of b", b.guesses)
  noisy = a.noisy & b.noisy
  mean = lambda x, y: 0.5 * x + 0.5 * y.astype(x.dtype)
  weights = jnp.where(noisy, mean(a.weights, b.weights), 1)
  return NoiseState(noisy, weights, mean(a.guesses, b.guesses), a.epoch)


def _check_state(name: str, state: NoiseState) -> NoiseState:
  state = _arguments.check_state(name, state, NoiseState)
  n = state.noisy.shape
  if state.noisy.ndim != 1 or state.weights.shape != n or state.guesses.shape[:-1] != n:
    raise ValueError(
      f"{name} must hold noisy [n], weights [n] and guesses [n, classes]; got shapes {n}, "
      f"{state.weights.shape} and {state.guesses.shape}."
    )
  return state
