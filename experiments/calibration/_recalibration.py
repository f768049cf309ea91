"""Logits to be recalibrated, synthetic and of networks, and every map with its fit."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen

from experiments import datasets
from experiments._convolution import convolve
from experiments._protocol import Progress
from experiments._training import batches
from jaxopt_robust import calibration as cal
from jaxopt_robust import losses

RAW, TRUTH = "as they are", "true probabilities"
TS, VS, MS = "temperature", "vector", "matrix"
ISOTONIC, HISTOGRAM = "isotonic", "histogram"
PWL, MIXTURE = "piecewise linear", "temperatures mixed"
PWL_H, MIXTURE_H = f"{PWL}, h-loss", f"{MIXTURE}, h-loss"
BASELINES = (TS, VS, MS, ISOTONIC, HISTOGRAM, PWL, MIXTURE)
CLASSES = 10


class Logits(NamedTuple):
  """Logits and labels of calibration and test examples."""

  calibration: jax.Array
  labels: jax.Array
  test: jax.Array
  test_labels: jax.Array


def synthetic(
  key: jax.Array, calibration: int, test: int, kind: str
) -> tuple[Logits, jax.Array | None]:
  """Logits, and the true probabilities of the test examples.

  Known log-probabilities lp, shown as -1.5 (-lp)^1.6 ("distorted") or as 2.5 lp.
  """
  num = calibration + test
  keys = jax.random.split(key, 3)
  places = jax.random.randint(keys[1], (num,), 0, CLASSES)
  scores = 2 * jax.random.normal(keys[0], (num, CLASSES)) + 4 * jax.nn.one_hot(places, CLASSES)
  logs = jax.nn.log_softmax(scores, axis=1)
  labels = jax.random.categorical(keys[2], logs)
  shown = -1.5 * (-logs) ** 1.6 if kind == "distorted" else 2.5 * logs
  cut = calibration
  data = Logits(shown[:cut], labels[:cut], shown[cut:], labels[cut:])
  return data, jnp.exp(logs[cut:])


class Net(linen.Module):
  """A perceptron of two layers, or two convolutions of stride 2 before them ("cnn")."""

  kind: str

  @linen.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    if self.kind == "cnn":
      side = round(x.shape[1] ** 0.5)
      x = x.reshape(len(x), side, side, 1)
      for features in (16, 32):
        conv = linen.Conv(features, (3, 3), (2, 2), conv_general_dilated=convolve)
        x = linen.relu(conv(x))
      x = x.reshape(len(x), -1)
    return linen.Dense(CLASSES)(linen.relu(linen.Dense(128)(x)))


@partial(jax.jit, static_argnames=("kind",))
def _train(key: jax.Array, x: jax.Array, y: jax.Array, rows: jax.Array, others: Any, *, kind: str):
  net, optimizer = Net(kind), optax.adam(1e-3)
  params = net.init(key, x[:1])

  def step(carry: tuple, batch: jax.Array) -> tuple[tuple, None]:
    params, state = carry
    loss = lambda params: jnp.mean(losses.cross_entropy_loss(net.apply(params, x[batch]), y[batch]))
    updates, state = optimizer.update(jax.grad(loss)(params), state)
    return (optax.apply_updates(params, updates), state), None

  flat = rows.reshape(-1, rows.shape[-1])
  (params, _), _ = jax.lax.scan(step, (params, optimizer.init(params)), flat)
  return [net.apply(params, other) for other in others]


def of_network(
  seed: int,
  data: str,
  train: int,
  epochs: int,
  most: tuple[int, int],
  network: str = "mlp",
  *,
  held_out: bool = False,
) -> tuple[Logits, None]:
  """Logits of a network trained until it knows its training images; no truth is known.

  At most ``most`` images are for calibration and for the test: halves of the digits that are left,
  or images of the training set that are left and the test set, in whose place ``held_out`` puts
  more of the training set.
  """
  found = datasets.load(data)
  if data == "digits":
    x, y = found["x"] / 16.0, found["y"]
    order = np.random.default_rng(seed).permutation(len(x))
    first, rest = order[:train], order[train:]
    halves = [part[:m] for part, m in zip(np.array_split(rest, 2), most, strict=True)]
    fit, test = (x[part] for part in halves)
    labels = [y[part] for part in halves]
  else:
    x, y = found["x_train"], found["y_train"]
    order = np.random.default_rng(seed).permutation(len(x))
    first, part, more = np.split(order[: train + sum(most)], [train, train + most[0]])
    fit, test, test_labels = x[part], found["x_test"][: most[1]], found["y_test"][: most[1]]
    if held_out:
      test, test_labels = x[more], y[more]
    labels = [y[part], test_labels]
  rows = batches(train, 64, epochs, seed)
  as_float = [np.float32(a) for a in (x[first], fit, test)]
  logits = _train(
    jax.random.key(seed), as_float[0], np.int32(y[first]), rows, as_float[1:], kind=network
  )
  fit_labels, test_labels = (jnp.asarray(part, jnp.int32) for part in labels)
  return Logits(logits[0], fit_labels, logits[1], test_labels), None


def window_of(events: int) -> int:
  """A hundredth of the events, even, between 20 and 200."""
  return int(np.clip(2 * round(events / 200), 20, 200))


def pwl_apply(params: jax.Array, logits: jax.Array) -> jax.Array:
  """The piecewise linear map with knots up to 30."""
  return cal.piecewise_linear_apply(params, logits, span=30.0)


def h_fit(apply_fn: Callable, params: Any, data: Logits, config: Any, rate: float) -> Any:
  """A map fitted by the h-loss, the iterate with the least error on its own examples."""
  loss = partial(cal.h_calibration_loss, window=window_of(data.calibration.size))
  selectors = {
    "class-wise": cal.classwise_calibration_error,
    "debiased": cal.debiased_calibration_error,
    "likelihood": cal.negative_log_likelihood,
    "loss": loss,
  }
  found, _ = cal.recalibrate(
    apply_fn, params, data.calibration, data.labels, loss=loss, optimizer=optax.adam(rate),
    num_steps=config.steps, selector=selectors[config.selector],
  )  # fmt: skip
  return found


def fitted(key: jax.Array, data: Logits, config: Any, methods: tuple[str, ...]) -> dict[str, Any]:
  """Test probabilities of every method."""
  softmax = partial(jax.nn.softmax, axis=1)
  own, test = (data.calibration, data.labels), data.test
  found = {}
  for method in methods:
    if method == RAW:
      probs = softmax(test)
    elif method == TS:
      probs = softmax(cal.temperature_apply(cal.temperature_fit(*own)[0], test))
    elif method == VS:
      probs = softmax(cal.vector_apply(cal.vector_fit(*own)[0], test))
    elif method == MS:
      strength = config.matrix_strength
      params, _ = cal.matrix_fit(*own, off_diagonal=strength, intercept=strength)
      probs = softmax(cal.matrix_apply(params, test))
    elif method == ISOTONIC:
      params = cal.isotonic_fit(softmax(own[0]), own[1])
      probs = cal.isotonic_apply(params, softmax(test))
    elif method == HISTOGRAM:
      params = cal.histogram_fit(softmax(own[0]), own[1], num_bins=config.bins)
      probs = cal.histogram_apply(params, softmax(test))
    elif method in (PWL, PWL_H):
      start = jnp.ones(config.segments[method == PWL_H])
      if method == PWL:
        params, _ = cal.likelihood_fit(pwl_apply, start, *own)
      else:
        params = h_fit(pwl_apply, start, data, config, config.rates[0])
      probs = softmax(pwl_apply(params, test))
    else:
      members = config.members[method == MIXTURE_H]
      start = cal.ensemble_temperature_init(key, num_members=members)
      apply_fn = cal.ensemble_temperature_apply
      if method == MIXTURE:
        params, _ = cal.likelihood_fit(apply_fn, start, *own)
      else:
        params = h_fit(apply_fn, start, data, config, config.rates[1])
      probs = softmax(apply_fn(params, test))
    found[method] = probs
  return found


def measured(probs: jax.Array, data: Logits) -> dict[str, jax.Array]:
  """Errors, accuracy, and what a reliability diagram shows."""
  labels = data.test_labels
  bins = cal.reliability_bins(probs, labels)
  # Slope of the new log-probabilities against the old ones, differences within rows.
  centred = lambda x: x - jnp.mean(x, axis=1, keepdims=True)
  old, new = centred(data.test), centred(jnp.log(jnp.maximum(probs, 1e-30)))
  return {
    "ece": cal.expected_calibration_error(probs, labels),
    "class-wise ece": cal.classwise_calibration_error(probs, labels),
    "brier": cal.brier_score(probs, labels),
    "accuracy": jnp.mean(jnp.argmax(probs, axis=1) == labels),
    "slope": jnp.sum(old * new) / jnp.sum(old * old),
    **{f"bin {name}": value for name, value in bins._asdict().items()},
  }


def compare(
  config: Any, sources: dict[str, Callable], methods: tuple[str, ...], progress: Progress
) -> dict[str, Any]:
  """Every method on every source of logits and every seed.

  A source makes ``Logits`` and the true probabilities of the test, or None, from a seed.
  """

  @jax.jit
  def program(key: jax.Array, data: Logits) -> dict[str, Any]:
    probs = fitted(key, data, config, methods)
    return {method: measured(p, data) for method, p in probs.items()}

  measure = jax.jit(measured)
  found: dict[str, Any] = {}
  for source, make in sources.items():
    runs = []
    for seed in progress.track(config.seed_numbers(), source):
      data, truth = make(seed)
      runs.append(progress.clock.call(program, jax.random.key(seed), data, name=source))
      if truth is not None:
        runs[-1][TRUTH] = measure(truth, data)
    found[source] = {
      method: {name: np.stack([r[method][name] for r in runs]) for name in runs[0][method]}
      for method in runs[0]
    }
  return found
