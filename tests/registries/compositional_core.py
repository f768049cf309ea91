"""Inner estimators, outer functions and the oracle: what is covered, and calls that must fail."""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp

from jaxopt_robust import compositional, prox
from tests.helpers import BadInput


class EstimatorCase(NamedTuple):
  """An inner estimator under the contract tests.

  Attributes:
    name: its name.
    make: factory of one hyper-parameter, which is data.
    hyper: a value of it.
    needs_previous: whether it compares two points.
    log: whether values are logarithms.
  """

  name: str
  make: Callable
  hyper: float
  needs_previous: bool
  log: bool

  def __str__(self) -> str:
    return f"{self.name}-{'log' if self.log else 'linear'}"


_CLIP = (1e-3, 1e3)
ESTIMATORS = [
  EstimatorCase("inner_batch", lambda rate: compositional.inner_batch(), 1.0, False, True),
  EstimatorCase("inner_ema", lambda rate: compositional.inner_ema(rate), 0.3, False, True),
  EstimatorCase(
    "inner_ema", lambda rate: compositional.inner_ema(rate, domain="linear"), 0.3, False, False
  ),
  EstimatorCase(
    "inner_storm", lambda rate: compositional.inner_storm(rate, clip=_CLIP), 0.3, True, True
  ),
  EstimatorCase(
    "inner_storm", lambda rate: compositional.inner_storm(rate, domain="linear"), 0.3, True, False
  ),
  EstimatorCase(
    "inner_msvr", lambda rate: compositional.inner_msvr(rate, clip=_CLIP), 0.3, True, True
  ),
  EstimatorCase(
    "inner_msvr",
    lambda rate: compositional.inner_msvr(rate, clip=_CLIP, domain="linear"),
    0.3,
    True,
    False,
  ),
  EstimatorCase("inner_scent", lambda rate: compositional.inner_scent(rate), 0.5, False, True),
]

COVERED = {case.name for case in ESTIMATORS} | {
  "AlexrInfo",
  "AlexrState",
  "alexr_init",
  "alexr_value_and_grad",
  "FccoInfo",
  "InnerEstimator",
  "InnerState",
  "OuterFn",
  "fcco_value_and_grad",
  "outer_identity",
  "outer_log",
  "outer_mean_deviation",
  "outer_moreau",
  "outer_power",
  "outer_ratio",
  "outer_square",
}


def _bad(name: str, what: str, call: Callable, error: type[Exception], match: str) -> BadInput:
  return BadInput(f"compositional.{name}", what, call, error, match)


_EMA = compositional.inner_ema(0.5)


def _update(index=None, values=None, state=None, **options):
  state = _EMA.init(3) if state is None else state
  index = jnp.array([0, 1]) if index is None else index
  values = jnp.zeros(2) if values is None else values
  return _EMA.update(state, index, values, **options)


def _step(inner=lambda w, i: w * jnp.ones(i.shape), outer=None, estimator=_EMA, **options):
  outer = compositional.outer_log() if outer is None else outer
  return compositional.fcco_value_and_grad(inner, outer, estimator, **options)


def _run(index, state=None, estimator=_EMA, inner=lambda w, i: w * jnp.ones(i.shape), **options):
  state = estimator.init(3) if state is None else state
  return _step(inner, estimator=estimator)(jnp.array(1.0), state, index, **options)


_PAIR = jnp.array([0, 1])


def _alexr(inner=lambda w, i, c: w + c[i], penalty=prox.hinge, stepsize=0.5, **options):
  return compositional.alexr_value_and_grad(inner, penalty, 1.0, stepsize=stepsize, **options)


def _alexr_run(index, inner=lambda w, i, c: w + c[i], **options):
  w, c = jnp.array(1.0), jnp.zeros(3)
  return _alexr(inner)(w, compositional.alexr_init(3, w), index, c, c, **options)


BAD_INPUTS = [
  _bad("inner_batch", "domain", lambda: compositional.inner_batch(domain="exp"), ValueError, "d"),
  _bad("inner_ema", "rate", lambda: compositional.inner_ema(0.0), ValueError, "rate must be in"),
  _bad("inner_ema", "domain", lambda: compositional.inner_ema(0.5, domain=""), ValueError, "doma"),
  _bad("inner_ema", "size", lambda: _EMA.init(0), ValueError, "num_examples must be at least 1"),
  _bad("inner_ema", "index", lambda: _update(jnp.array([0, 3])), ValueError, r"lie in \[0, 3\)"),
  _bad("inner_ema", "index dtype", lambda: _update(jnp.zeros(2)), TypeError, "index must hold int"),
  _bad("inner_ema", "index shape", lambda: _update(jnp.arange(3)), ValueError, "index must have s"),
  _bad("inner_ema", "values", lambda: _update(values=jnp.zeros((2, 2))), ValueError, "values must"),
  _bad("inner_ema", "dtype", lambda: _update(values=1j * _PAIR), TypeError, "values must be a flo"),
  _bad("inner_ema", "mask", lambda: _update(where=jnp.ones(2)), TypeError, "where must be a bool"),
  _bad("inner_storm", "rate", lambda: compositional.inner_storm(2.0), ValueError, "rate must be"),
  _bad("inner_storm", "clip", lambda: compositional.inner_storm(0.5), ValueError, "log domain"),
  _bad(
    "inner_storm", "low", lambda: compositional.inner_storm(0.5, clip=(0.0, 1.0)), ValueError,
    "lower bound of clip must be > 0",
  ),
  _bad(
    "inner_msvr", "rate", lambda: compositional.inner_msvr(1.0, clip=_CLIP), ValueError,
    "rate must be in",
  ),
  _bad(
    "inner_msvr", "clip", lambda: compositional.inner_msvr(0.5, clip=None), ValueError,
    "clip must be a pair",
  ),
  _bad(
    "inner_msvr", "order", lambda: compositional.inner_msvr(0.5, clip=(2.0, 1.0)), ValueError,
    "low < high",
  ),
  _bad(
    "inner_scent", "finite", lambda: compositional.inner_scent(float("nan")), ValueError,
    "log_alpha must be",
  ),
  _bad("outer_log", "temperature", lambda: compositional.outer_log(0.0), ValueError, "temperature"),
  _bad("outer_power", "nan", lambda: compositional.outer_power(float("nan")), ValueError, "expone"),
  _bad(
    "outer_mean_deviation", "radius", lambda: compositional.outer_mean_deviation(-1.0), ValueError,
    "radius must be >= 0",
  ),
  _bad(
    "outer_moreau", "penalty", lambda: compositional.outer_moreau(abs, smoothing=1.0), TypeError,
    "penalty must be a Penalty",
  ),
  _bad(
    "outer_moreau", "smoothing", lambda: compositional.outer_moreau(prox.lasso, smoothing=0.0),
    ValueError, "smoothing must be > 0",
  ),
  _bad("fcco_value_and_grad", "inner", lambda: _step(None), TypeError, "inner_fn must be callable"),
  _bad("fcco_value_and_grad", "outer", lambda: _step(outer=jnp.log), TypeError, "outer must be an"),
  _bad(
    "fcco_value_and_grad", "estimator", lambda: _step(estimator=0.9), TypeError,
    "estimator must be an InnerEstimator",
  ),
  _bad("fcco_value_and_grad", "use", lambda: _step(use="both"), ValueError, "use must be one of"),
  _bad(
    "fcco_value_and_grad", "shape", lambda: _run(_PAIR, inner=lambda w, i: w), ValueError,
    "inner_fn must return one value an example",
  ),
  _bad("fcco_value_and_grad", "index", lambda: _run(_PAIR + 2), ValueError, r"lie in \[0, 3\)"),
  _bad(
    "fcco_value_and_grad", "mask", lambda: _run(_PAIR, where=jnp.ones(3, bool)), ValueError,
    "where must have shape",
  ),
  _bad(
    "fcco_value_and_grad", "no point",
    lambda: _run(_PAIR, estimator=compositional.inner_storm(0.5, clip=_CLIP)), ValueError,
    "make its state with estimator.init",
  ),
  _bad(
    "alexr_init", "size", lambda: compositional.alexr_init(0, jnp.zeros(1)), ValueError, "num_exam",
  ),
  _bad("alexr_value_and_grad", "inner", lambda: _alexr(None), TypeError, "inner_fn must be calla"),
  _bad("alexr_value_and_grad", "penalty", lambda: _alexr(penalty=abs), TypeError, "penalty must"),
  _bad("alexr_value_and_grad", "step", lambda: _alexr(stepsize=0.0), ValueError, "stepsize must"),
  _bad(
    "alexr_value_and_grad", "theta", lambda: _alexr(extrapolation=2.0), ValueError, "extrapolation",
  ),
  _bad("alexr_value_and_grad", "index", lambda: _alexr_run(_PAIR + 2), ValueError, "index must li"),
  _bad(
    "alexr_value_and_grad", "shape", lambda: _alexr_run(_PAIR, lambda w, i, c: w), ValueError,
    "inner_fn must return shape",
  ),
  _bad(
    "alexr_value_and_grad", "mask", lambda: _alexr_run(_PAIR, where=jnp.ones(2)), TypeError,
    "where must be a boolean mask",
  ),
]  # fmt: skip
