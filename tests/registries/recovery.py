"""Operators, step-size rules and bad inputs of ``recovery``."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxopt_robust import recovery
from tests.helpers import BadInput

COVERED = {
  "AdjointProducts",
  "Corrupted",
  "EntryCOO",
  "EntryMask",
  "Factors",
  "FourierSensing",
  "GaussianSensing",
  "Identity",
  "KeyedGaussianSensing",
  "LevelState",
  "MeasurementOperator",
  "RankOneSensing",
  "ResidualState",
  "StepCountState",
  "SubgmInfo",
  "SubgmSchedule",
  "SubgmState",
  "Subset",
  "SubgradAux",
  "Trace",
  "alpha_identity",
  "bernoulli_outliers",
  "compose",
  "factor_imbalance",
  "fixed_count_outliers",
  "gaussian_noise",
  "geometric",
  "grad_normalized_geometric",
  "growth_factor",
  "l1_value_subgrad",
  "level_polyak",
  "li_outliers",
  "make_entry_mask",
  "make_fourier_sensing",
  "make_gaussian_sensing",
  "make_keyed_gaussian_sensing",
  "make_rank_one_sensing",
  "mask_spectral",
  "median_truncated_spectral",
  "mixed_noise",
  "polyak",
  "polynomial",
  "principal_angle",
  "procrustes_dist",
  "q_normalized_geometric",
  "random_small",
  "rel_err",
  "residual_proportional",
  "replace_outliers",
  "robust_recover",
  "scaledsm_outliers",
  "sign_flip_outliers",
  "sign_rip_gap",
  "sign_rip_phi",
  "sign_rip_phi_gaussian",
  "sign_spectral",
  "squared_value_grad",
  "subgm",
  "subgm_schedule",
  "subgradient_method",
  "support_f1",
  "truncated_spectral",
}

ROWS, COLS = 6, 4


def _coo(weight):
  rows, cols = jnp.array([0, 5, 2, 2, 0, 1]), jnp.array([3, 0, 1, 2, 0, 3])
  return recovery.EntryCOO(rows, cols, (ROWS, COLS), weight)


# name -> maker(key), each for matrices of ROWS x COLS.
OPERATORS: dict[str, Callable[[jax.Array], recovery.MeasurementOperator]] = {
  "gaussian": lambda key: recovery.make_gaussian_sensing(key, 12, ROWS, COLS),
  "keyed": lambda key: recovery.make_keyed_gaussian_sensing(key, 12, ROWS, COLS, chunk=4),
  "rank_one": lambda key: recovery.make_rank_one_sensing(key, 12, ROWS, COLS),
  "mask": lambda key: recovery.make_entry_mask(key, ROWS, COLS, rate=0.5),
  "coo": lambda key: _coo(None),
  "coo_padded": lambda key: _coo(
    jnp.array([1.0, 2.0, 0.0, 1.0, 0.5, 0.0], dtype=jnp.result_type(float))
  ),
  "identity": lambda key: recovery.Identity((ROWS, COLS)),
  "fourier": lambda key: recovery.make_fourier_sensing(key, 10, ROWS, COLS),
  "subset": lambda key: recovery.Subset(
    recovery.make_gaussian_sensing(key, 12, ROWS, COLS), jnp.arange(12) < 9
  ),
  "subset_of_entries": lambda key: recovery.Subset(
    recovery.make_entry_mask(key, ROWS, COLS, rate=0.5), jnp.arange(ROWS * COLS) % 3 > 0
  ),
}


class TransformCase(NamedTuple):
  """A step-size rule.

  Attributes:
    name: public name in ``recovery``.
    factory: the factory.
    hyper: its keyword arguments.
    step: ``step(t, gradient, value, q_norm)``, the factor on -gradient at update t by the formula.
  """

  name: str
  factory: Callable[..., optax.GradientTransformationExtraArgs]
  hyper: dict[str, Any]
  step: Callable[..., Any]

  def __str__(self) -> str:
    return self.name


def _norm(gradient):
  return sum((g**2).sum() for g in gradient.values()) ** 0.5


TRANSFORMS = [
  TransformCase(
    "geometric", recovery.geometric, {"eta0": 0.5, "rho": 0.9}, lambda t, g, f, q: 0.5 * 0.9**t
  ),
  TransformCase(
    "q_normalized_geometric",
    recovery.q_normalized_geometric,
    {"eta0": 0.5, "rho": 0.9},
    lambda t, g, f, q: 0.5 * 0.9**t / q,
  ),
  TransformCase(
    "grad_normalized_geometric",
    recovery.grad_normalized_geometric,
    {"eta0": 0.5, "rho": 0.9},
    lambda t, g, f, q: 0.5 * 0.9**t / _norm(g),
  ),
  TransformCase(
    "polynomial",
    recovery.polynomial,
    {"eta0": 0.5, "power": 0.5},
    lambda t, g, f, q: 0.5 / (t + 1) ** 0.5,
  ),
  TransformCase(
    "polyak", recovery.polyak, {"minimum": 0.25}, lambda t, g, f, q: (f - 0.25) / _norm(g) ** 2
  ),
  TransformCase(
    # The values of the contract test fall enough at each update: the gap is never halved.
    "level_polyak",
    recovery.level_polyak,
    {"gap0": 0.5, "patience": 3},
    lambda t, g, f, q: 0.5 / _norm(g) ** 2,
  ),
  TransformCase(
    # The scales of the contract test are its values, the first of which is 2.
    "residual_proportional",
    recovery.residual_proportional,
    {"eta0": 0.5, "cooling": 0.9},
    lambda t, g, f, q: 0.5 * (f / 2.0) / q,
  ),
]

_KEY = jax.random.key(0)
_OP = recovery.GaussianSensing(jnp.ones((3, 4)), (2, 2))
_WIDE = recovery.GaussianSensing(jnp.ones((3, 6)), (2, 3))
_Y = jnp.ones(3)
_U = recovery.Factors(jnp.ones((2, 1)), None)
_LR = recovery.Factors(jnp.ones((2, 1)), jnp.ones((2, 1)))
_TX = recovery.geometric(eta0=0.1, rho=0.9)


def _bad(name, what, call, error, match):
  return BadInput(f"recovery.{name}", what, call, error, match)


def _outlier_cases(name: str, with_scale: bool) -> list[BadInput]:
  function = getattr(recovery, name)
  extra = {"scale": 1.0} if with_scale else {}
  cases = [
    _bad(name, "rate", lambda: function(_KEY, _Y, rate=1.5, **extra), ValueError, "rate"),
    _bad(name, "key", lambda: function(0, _Y, rate=0.5, **extra), TypeError, "typed key"),
    _bad(
      name,
      "dtype",
      lambda: function(_KEY, 1j * _Y, rate=0.5, **extra),
      TypeError,
      "y must be a floating",
    ),
    _bad(
      name, "empty", lambda: function(_KEY, jnp.zeros(0), rate=0.5, **extra), ValueError, "empty"
    ),
  ]
  if with_scale:
    cases += [
      _bad(name, "scale", lambda: function(_KEY, _Y, rate=0.5, scale=-1.0), ValueError, "scale"),
      _bad(
        name,
        "distribution",
        lambda: function(_KEY, _Y, rate=0.5, scale=1.0, distribution="beta"),
        ValueError,
        "distribution must be one of",
      ),
    ]
  return cases


def _pair_cases(name: str) -> list[BadInput]:
  function = getattr(recovery, name)
  return [
    _bad(name, "rank", lambda: function(jnp.ones(2), jnp.ones(2)), ValueError, "rank 2"),
    _bad(
      name,
      "shape",
      lambda: function(jnp.ones((2, 2)), jnp.ones((3, 2))),
      ValueError,
      "equal shapes",
    ),
    _bad(
      name,
      "dtype",
      lambda: function(jnp.ones((2, 2), complex), jnp.ones((2, 2), complex)),
      TypeError,
      "floating-point",
    ),
  ]


def _spectral_cases(name: str, **extra: Any) -> list[BadInput]:
  function = getattr(recovery, name)
  return [
    _bad(name, "op", lambda: function(None, _Y, 1, **extra), TypeError, "op must be"),
    _bad(name, "rank", lambda: function(_OP, _Y, 3, **extra), ValueError, "at most 2"),
    _bad(
      name, "shape", lambda: function(_OP, jnp.ones(4), 1, **extra), ValueError, "one entry per"
    ),
    _bad(
      name,
      "mode",
      lambda: function(_OP, _Y, 1, kind="odd", **extra),
      ValueError,
      "kind must be one",
    ),
    _bad(
      name,
      "square",
      lambda: function(_WIDE, _Y, 1, kind="psd", **extra),
      ValueError,
      "needs a square",
    ),
  ]


BAD_INPUTS: list[BadInput] = [
  _bad(
    "Subset",
    "op",
    lambda: recovery.Subset(jnp.eye(2), jnp.ones(2, bool)).size,
    TypeError,
    "MeasurementOperator",
  ),
  _bad(
    "Subset",
    "keep",
    lambda: recovery.Subset(_OP, jnp.ones(2, bool)).apply(jnp.ones((2, 2))),
    ValueError,
    "keep",
  ),
  _bad("MeasurementOperator", "rank", lambda: _OP.apply(jnp.ones(4)), ValueError, "rank 2"),
  _bad(
    "MeasurementOperator",
    "factors",
    lambda: _OP.apply_factored(jnp.ones((2, 1)), jnp.ones((2, 2))),
    ValueError,
    "left and right must have shapes",
  ),
  _bad("GaussianSensing", "shape", lambda: _OP.apply(jnp.ones((3, 2))), ValueError, "matrix must"),
  _bad(
    "GaussianSensing", "dtype", lambda: _OP.apply(jnp.ones((2, 2), complex)), TypeError, "floating"
  ),
  _bad("GaussianSensing", "adjoint", lambda: _OP.adjoint(jnp.ones(2)), ValueError, "one entry per"),
  _bad(
    "GaussianSensing",
    "columns",
    lambda: recovery.GaussianSensing(jnp.ones((3, 5)), (2, 2)).apply(jnp.ones((2, 2))),
    ValueError,
    "columns",
  ),
  _bad(
    "KeyedGaussianSensing",
    "chunk",
    lambda: recovery.KeyedGaussianSensing(_KEY, 5, (2, 2), 2, jnp.float32).apply(jnp.ones((2, 2))),
    ValueError,
    "multiple of chunk",
  ),
  _bad(
    "RankOneSensing",
    "rows",
    lambda: recovery.RankOneSensing(jnp.ones((3, 2)), jnp.ones((4, 2))).size,
    ValueError,
    "equally many rows",
  ),
  _bad(
    "Identity",
    "shape",
    lambda: recovery.Identity((2, 2)).apply(jnp.ones((2, 3))),
    ValueError,
    "matrix",
  ),
  _bad(
    "EntryMask",
    "dtype",
    lambda: recovery.EntryMask(jnp.ones((2, 2))).apply(jnp.ones((2, 2))),
    TypeError,
    "boolean mask",
  ),
  _bad(
    "EntryCOO",
    "index dtype",
    lambda: recovery.EntryCOO(jnp.ones(2), jnp.ones(2), (2, 2)).apply(jnp.ones((2, 2))),
    TypeError,
    "must hold integers",
  ),
  _bad(
    "EntryCOO",
    "index shape",
    lambda: recovery.EntryCOO(jnp.arange(2), jnp.arange(3), (2, 2)).size,
    ValueError,
    "equal shapes",
  ),
  _bad(
    "FourierSensing",
    "signs",
    lambda: recovery.FourierSensing(jnp.ones(3), jnp.arange(2), (2, 2)).apply(jnp.ones((2, 2))),
    ValueError,
    "signs must have one entry",
  ),
  _bad(
    "make_gaussian_sensing",
    "size",
    lambda: recovery.make_gaussian_sensing(_KEY, 0, 2, 2),
    ValueError,
    "num_measurements must be at least 1",
  ),
  _bad(
    "make_gaussian_sensing",
    "dtype",
    lambda: recovery.make_gaussian_sensing(_KEY, 3, 2, 2, dtype=jnp.int32),
    TypeError,
    "dtype must be a floating",
  ),
  _bad(
    "make_gaussian_sensing",
    "key",
    lambda: recovery.make_gaussian_sensing(0, 3, 2, 2),
    TypeError,
    "typed key",
  ),
  _bad(
    "make_keyed_gaussian_sensing",
    "chunk",
    lambda: recovery.make_keyed_gaussian_sensing(_KEY, 5, 2, 2, chunk=2),
    ValueError,
    "multiple of chunk",
  ),
  _bad(
    "make_rank_one_sensing",
    "size",
    lambda: recovery.make_rank_one_sensing(_KEY, 3, 0),
    ValueError,
    "at least 1",
  ),
  _bad(
    "make_entry_mask",
    "rate",
    lambda: recovery.make_entry_mask(_KEY, 2, 2, rate=-0.1),
    ValueError,
    "rate",
  ),
  _bad(
    "make_fourier_sensing",
    "too many",
    lambda: recovery.make_fourier_sensing(_KEY, 5, 2, 2),
    ValueError,
    "at most rows",
  ),
  *_outlier_cases("bernoulli_outliers", True),
  *_outlier_cases("fixed_count_outliers", True),
  *_outlier_cases("replace_outliers", True),
  *_outlier_cases("scaledsm_outliers", False),
  *_outlier_cases("li_outliers", False),
  *_outlier_cases("sign_flip_outliers", False),
  _bad(
    "gaussian_noise",
    "scale",
    lambda: recovery.gaussian_noise(_KEY, _Y, scale=-1.0),
    ValueError,
    "scale",
  ),
  _bad(
    "mixed_noise",
    "noise_scale",
    lambda: recovery.mixed_noise(_KEY, _Y, noise_scale=-1.0, rate=0.1, scale=1.0),
    ValueError,
    "noise_scale",
  ),
  *_pair_cases("procrustes_dist"),
  *_pair_cases("principal_angle"),
  _bad(
    "rel_err",
    "shape",
    lambda: recovery.rel_err(jnp.ones(2), jnp.ones(3)),
    ValueError,
    "equal shapes",
  ),
  _bad(
    "factor_imbalance",
    "width",
    lambda: recovery.factor_imbalance(jnp.ones((2, 1)), jnp.ones((2, 2))),
    ValueError,
    "equal widths",
  ),
  _bad(
    "support_f1",
    "tol",
    lambda: recovery.support_f1(jnp.ones(2), jnp.ones(2), tol=-1.0),
    ValueError,
    "tol",
  ),
  _bad(
    "sign_rip_phi",
    "norm",
    lambda: recovery.sign_rip_phi(0.0, jnp.ones(2)),
    ValueError,
    "norm must be > 0",
  ),
  _bad(
    "sign_rip_phi_gaussian",
    "rate",
    lambda: recovery.sign_rip_phi_gaussian(1.0, rate=2.0, scale=1.0),
    ValueError,
    "rate",
  ),
  _bad(
    "sign_rip_gap",
    "noise",
    lambda: recovery.sign_rip_gap(_KEY, _OP, jnp.ones(2), rank=1, num_samples=1),
    ValueError,
    "noise must have one entry",
  ),
  *_spectral_cases("sign_spectral"),
  *_spectral_cases("truncated_spectral", rate=0.1),
  *_spectral_cases("median_truncated_spectral"),
  *_spectral_cases("growth_factor"),
  _bad(
    "sign_spectral",
    "alpha",
    lambda: recovery.sign_spectral(_OP, _Y, 1, alpha=-1.0),
    ValueError,
    "alpha",
  ),
  _bad(
    "truncated_spectral",
    "rate",
    lambda: recovery.truncated_spectral(_OP, _Y, 1, rate=1.0),
    ValueError,
    "rate",
  ),
  _bad(
    "mask_spectral",
    "op",
    lambda: recovery.mask_spectral(_OP, _Y, 1),
    TypeError,
    "op must be an EntryMask",
  ),
  _bad(
    "random_small", "shape", lambda: recovery.random_small(_KEY, (2, 2, 2), 1), ValueError, "shape"
  ),
  _bad("random_small", "rank", lambda: recovery.random_small(_KEY, 2, 0), ValueError, "at least 1"),
  _bad("alpha_identity", "size", lambda: recovery.alpha_identity(2.0), TypeError, "static Python"),
  _bad(
    "compose", "type", lambda: recovery.compose(jnp.ones((2, 2))), TypeError, "must be a Factors"
  ),
  _bad(
    "compose",
    "width",
    lambda: recovery.compose(recovery.Factors(jnp.ones((2, 1)), jnp.ones((2, 2)))),
    ValueError,
    "equal widths",
  ),
  _bad(
    "l1_value_subgrad",
    "balance",
    lambda: recovery.l1_value_subgrad(_OP, _Y, _U, balance=1.0),
    ValueError,
    "two factors",
  ),
  _bad(
    "l1_value_subgrad",
    "balance sign",
    lambda: recovery.l1_value_subgrad(_OP, _Y, _LR, balance=-1.0),
    ValueError,
    "balance",
  ),
  _bad(
    "l1_value_subgrad",
    "op",
    lambda: recovery.l1_value_subgrad(jnp.ones((3, 2, 2)), _Y, _U),
    TypeError,
    "op must be",
  ),
  _bad(
    "l1_value_subgrad",
    "one factor for a wide matrix",
    lambda: recovery.l1_value_subgrad(_WIDE, _Y, _U),
    ValueError,
    "left and right must have shapes",
  ),
  _bad(
    "squared_value_grad",
    "y",
    lambda: recovery.squared_value_grad(_OP, jnp.ones(4), _U),
    ValueError,
    "y must have one entry",
  ),
  _bad(
    "subgradient_method",
    "callable",
    lambda: recovery.subgradient_method(_TX),
    TypeError,
    "make_tx must be callable",
  ),
  _bad(
    "subgm",
    "steps",
    lambda: recovery.subgm(_OP, _Y, _U, tx=_TX, num_steps=0),
    ValueError,
    "num_steps",
  ),
  _bad(
    "subgm",
    "truth",
    lambda: recovery.subgm(_OP, _Y, _U, tx=_TX, num_steps=1, truth=jnp.ones((3, 3))),
    ValueError,
    "truth must have shape",
  ),
  _bad(
    "subgm_schedule",
    "alpha",
    lambda: recovery.subgm_schedule(eta0=0.25, alpha=1.0, growth=2.0),
    ValueError,
    "alpha",
  ),
  _bad(
    "subgm_schedule",
    "too large a step",
    lambda: recovery.subgm_schedule(eta0=25.0, alpha=0.1, growth=1.5),
    ValueError,
    "eta0 / ",
  ),
  _bad(
    "subgm_schedule",
    "traced steps",
    lambda: jax.jit(
      lambda a: recovery.subgm_schedule(eta0=0.25, alpha=a, growth=2.0).num_steps(1e-3)
    )(1e-3),
    TypeError,
    "outside jit",
  ),
  _bad(
    "robust_recover",
    "NaN",
    lambda: recovery.robust_recover(_OP, _Y.at[0].set(jnp.nan), 1),
    ValueError,
    "1 entries that are NaN",
  ),
  _bad(
    "robust_recover",
    "mode",
    lambda: recovery.robust_recover(_OP, _Y, 1, kind="odd"),
    ValueError,
    "kind must be one",
  ),
  _bad(
    "robust_recover",
    "no signal",
    lambda: recovery.robust_recover(_OP, -_Y, 1),
    ValueError,
    "no signal",
  ),
  _bad(
    "robust_recover",
    "steps",
    lambda: recovery.robust_recover(_OP, _Y, 1, num_steps=0),
    ValueError,
    "num_steps",
  ),
  _bad(
    "residual_proportional",
    "cooling",
    lambda: recovery.residual_proportional(eta0=0.25, cooling=0.0),
    ValueError,
    "cooling",
  ),
  _bad(
    "residual_proportional",
    "missing",
    lambda: (tx := recovery.residual_proportional(eta0=1.0)).update(
      _Y, tx.init(_Y), q_norm=jnp.ones(())
    ),
    ValueError,
    "keyword argument scale",
  ),
  _bad(
    "robust_recover",
    "jit",
    lambda: jax.jit(lambda y: recovery.robust_recover(_OP, y, 1))(_Y),
    TypeError,
    "cannot run inside jit",
  ),
  _bad("geometric", "eta0", lambda: recovery.geometric(eta0=-1.0, rho=0.9), ValueError, "eta0"),
  _bad(
    "q_normalized_geometric",
    "missing",
    lambda: (tx := recovery.q_normalized_geometric(eta0=1.0, rho=0.9)).update(_Y, tx.init(_Y)),
    ValueError,
    "keyword argument q_norm",
  ),
  _bad(
    "grad_normalized_geometric",
    "rho",
    lambda: recovery.grad_normalized_geometric(eta0=1.0, rho=1.5),
    ValueError,
    "rho",
  ),
  _bad(
    "polynomial", "power", lambda: recovery.polynomial(eta0=1.0, power=2.0), ValueError, "power"
  ),
  _bad(
    "polyak",
    "missing",
    lambda: (tx := recovery.polyak(minimum=0.0)).update(_Y, tx.init(_Y)),
    ValueError,
    "keyword argument value",
  ),
  _bad("polyak", "minimum", lambda: recovery.polyak(minimum=jnp.nan), ValueError, "minimum"),
  _bad(
    "level_polyak",
    "patience",
    lambda: recovery.level_polyak(gap0=1.0, patience=0),
    ValueError,
    "patience",
  ),
]
