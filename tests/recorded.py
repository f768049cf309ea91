"""Calls of the public functions, recorded while the examples of their docstrings run."""

import doctest
import functools
import importlib
import inspect
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxopt_robust as jr

MODULES = [name for name in jr.__all__ if name not in ("__version__", "typing")]


class Call(NamedTuple):
  """A call of a public function that works.

  Attributes:
    fn: the function.
    args: its positional arguments.
    kwargs: its keyword arguments.
    result: what it returned.
  """

  fn: Callable
  args: tuple
  kwargs: dict[str, Any]
  result: Any


def public_functions() -> dict[str, Callable]:
  """All public functions of the package by public name."""
  found = {}
  for module_name in MODULES:
    module = importlib.import_module(f"jaxopt_robust.{module_name}")
    for name in module.__all__:
      value = getattr(module, name)
      if inspect.isfunction(value) and value.__module__.startswith("jaxopt_robust"):
        found[f"{module_name}.{name}"] = value
  return found


FUNCTIONS = public_functions()
# What an example may use without importing it.
NAMES = {"jax": jax, "jnp": jnp, "optax": optax, "jr": jr, "np": np}


@functools.cache
def record(name: str) -> Call | None:
  """Runs the example of a docstring; returns its first call of the function itself.

  None where the example calls it under a transformation only.
  """
  fn = FUNCTIONS[name]
  module_name, short = name.split(".")
  home = sys.modules[fn.__module__]
  public = importlib.import_module(f"jaxopt_robust.{module_name}")
  calls = []

  @functools.wraps(fn)
  def recording(*args: Any, **kwargs: Any) -> Any:
    result = fn(*args, **kwargs)
    if not any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves((args, kwargs))):
      calls.append(Call(fn, args, kwargs, result))
    return result

  globs = vars(home) | NAMES | {short: recording}
  example = doctest.DocTestParser().get_doctest(fn.__doc__, globs, name, home.__file__, None)
  report: list[str] = []
  setattr(public, short, recording)
  try:
    # The names stay: functions that the example makes are called again later.
    runner = doctest.DocTestRunner(verbose=False)
    failed, _ = runner.run(example, out=report.append, clear_globs=False)
  finally:
    setattr(public, short, fn)
  if failed:
    raise AssertionError("".join(report))
  return calls[0] if calls else None


def is_float(leaf: Any) -> bool:
  """A non-empty array of real floating-point numbers."""
  is_array = isinstance(leaf, jax.Array | np.ndarray)
  return is_array and leaf.size > 0 and jnp.issubdtype(leaf.dtype, jnp.floating)


# Where a call takes what lies outside of JAX, or the caller's own functions and trees.
NOT_UNDER_JIT = {
  "recovery.robust_recover",  # chooses by values; its parts run under jit
  # Certificates are computed in float64.
  "robustness.binomial_test",
  "robustness.certify_dual_votes",
  "robustness.certify_smoothed",
  "robustness.certify_votes",
  "robustness.clopper_pearson_interval",
  "robustness.clopper_pearson_lower",
  "robustness.clopper_pearson_upper",
  "robustness.dual_radius",
  "robustness.largest_smoothed_radius",
  "robustness.predict_votes",
  "robustness.smoothed_radius",
  "solvers.raise_if_failed",
  "sweeps.run",
}
_WRONG = {"nothing": None, "text": "text", "objects": np.array([object(), None]), "function": len}
# Arguments that reach functions of the caller, who gets their errors as they are.
OPAQUE = {
  ("layers.neighborhood_loss", "params"),
  ("layers.remix_pathways", "params"),
  ("layers.activation_thresholds", "params"),
  ("layers.collect_gate_stats", "params"),
  ("layers.greedy_allocate", "inputs"),
  ("numerics.tree_all_finite", "tree"),  # any pytree, empty ones too
  ("numerics.tree_where", "a"),
  ("numerics.tree_where", "b"),
  ("robustness.apgd_attack", "params"),
  ("robustness.consistency_smoothing_loss", "params"),
  ("robustness.csfa_add_classes", "x"),
  ("robustness.csfa_init", "x"),
  ("robustness.csfa_logits", "x"),
  ("robustness.csfa_stream_step", "x"),
  ("robustness.dual_smoothing_loss", "params"),
  ("robustness.dual_smoothing_votes", "params"),
  ("robustness.gaussian_augmentation_loss", "params"),
  ("robustness.pgd_adversarial_training_loss", "params"),
  ("robustness.fmr_generate", "params"),
  ("robustness.pgd_worst_case", "params"),
  ("robustness.robust_accuracy", "params"),
  ("robustness.rrcm_loss", "params"),
  ("robustness.rrcm_loss", "target_params"),
  ("robustness.rss_objective", "params"),
  ("robustness.smooth_adversarial_comp_sum_training_loss", "params"),
  ("robustness.stream_step", "x"),
  ("robustness.tradeoff_curve", "params"),
  ("robustness.trades_loss", "params"),
  ("robustness.wasserstein_robust_loss", "params"),
  ("solvers.invert_potential", "params"),
  ("solvers.potential_regularizer", "params"),
  # Another rank ends in the broadcasting of the objective.
  ("solvers.run_steps", "params"),
  ("solvers.run_until", "params"),
  ("surrogates.conservative_gap", "params"),
  ("surrogates.conservative_objective", "params"),
  ("unfolding.unfold_solver", "hyper"),
  ("unfolding.unfold_solver", "params"),
}


def lowers_for_accelerators(name: str) -> None:
  """The recorded call, its arrays as arguments, becomes a program for CUDA and for TPU."""
  call = record(name)
  if call is None or name in NOT_UNDER_JIT:
    return
  outputs = jax.tree.leaves(call.result)
  if not outputs or not all(isinstance(out, jax.Array) for out in outputs):
    return  # a solver, a transformation, a report
  leaves, treedef = jax.tree.flatten((call.args, call.kwargs))
  places = [i for i, leaf in enumerate(leaves) if isinstance(leaf, jax.Array)]

  def fun(arrays: list[jax.Array]) -> Any:
    new = list(leaves)
    for place, array in zip(places, arrays, strict=True):
      new[place] = array
    args, kwargs = jax.tree.unflatten(treedef, new)
    return call.fn(*args, **kwargs)

  exported = jax.export.export(jax.jit(fun), platforms=["cuda", "tpu"])([leaves[i] for i in places])
  assert set(exported.platforms) == {"cuda", "tpu"}


_OTHER_SHAPES = {"another rank", "empty", "complex"}


def _variants(value: Any) -> dict[str, Any]:
  """Other values for an argument; where it is an array, arrays that are wrong in one respect."""
  found: dict[str, Any] = {} if callable(value) else dict(_WRONG)
  if isinstance(value, jax.Array) and not jnp.issubdtype(value.dtype, jax.dtypes.extended):
    found |= {"another rank": value[None], "NumPy": np.asarray(value)}
    if value.ndim:
      found["empty"] = value[:0]
    if is_float(value):
      nan = jnp.full_like(value, jnp.nan)
      found |= {"complex": value + 0j, "nan": nan, "negative": -value, "huge": 1e30 * value}
    elif jnp.issubdtype(value.dtype, jnp.integer):
      found["beyond 32 bits"] = np.asarray(value, np.int64) + 2**32
  return found


def names_wrong_arguments(name: str) -> None:
  """Each argument in turn is something else: accepted, or refused by the package's own error.

  An error for another kind of thing (None, text, objects) names the argument.
  """
  call = record(name)
  if call is None:
    return
  signature = inspect.signature(call.fn)
  for argument, parameter in signature.parameters.items():
    good = signature.bind(*call.args, **call.kwargs)
    if argument not in good.arguments or (name, argument) in OPAQUE:
      continue
    if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
      continue
    for what, value in _variants(good.arguments[argument]).items():
      if value is parameter.default:
        continue

      def run(value: Any, argument: str = argument) -> None:
        bound = signature.bind(*call.args, **call.kwargs)
        bound.arguments[argument] = value
        call.fn(*bound.args, **bound.kwargs)

      try:
        if what in _OTHER_SHAPES and name not in NOT_UNDER_JIT:
          jax.eval_shape(run, value)  # facts about shapes need no compiled program
        else:
          run(value)
        assert what != "beyond 32 bits", f"{argument}: 2**32 + 1 is taken for 1"
      except (TypeError, ValueError) as error:
        said = f"{argument} = {what}: {error!r}"
        if what in _WRONG:
          frame = inspect.getinnerframes(error.__traceback__)[-1]
          assert "jaxopt_robust" in frame.filename and argument.rstrip("s") in str(error), said
        else:  # of two arguments that do not go together either may be named, by JAX too
          words = [*(name.rstrip("s") for name in signature.parameters), "shape"]
          assert any(word in str(error) for word in words), said
      except (ArithmeticError, AttributeError, LookupError, RuntimeError) as error:
        raise AssertionError(f"{argument} = {what}: {error!r}") from error


# Formulas that look homogeneous at their example and are not: logarithms, fixed margins, smoothing
# terms, bounds of temperatures, radii and shapes of penalties beside arrays. The degree of all
# others is measured, not listed.
HAS_A_SCALE = {
  "bilevel.finite_difference_products",  # its radius is one of functions of size 1, as it says
  "bilevel.zeroth_order_hypergradient",  # its radius is in the units of x, and not an argument here
  "bilevel.unrolled_hypergradient",  # the target of its example is no argument
  "projections.projection_l2_ball",
  "compositional.effective_sample_size",
  "compositional.kl_robust_mean",
  "compositional.log_ence_loss",
  "compositional.log_partition",
  "compositional.rgcl_bimodal_loss",
  "compositional.sopa_loss",
  "losses.aldr_kl_exact_loss",
  "losses.average_precision_loss",
  "losses.comp_sum_gamma",
  "losses.comp_sum_gamma_exact",
  "losses.ndcg_loss",
  "losses.phi_divergence_dro_threshold",
  "losses.robust_global_contrastive_loss",
  "losses.soft_dice_loss",
  "numerics.log_mean_exp",
  "layers.elu_attention",  # elu is of a size of its own
  "layers.full_gaussian_attention",  # the kernel has a width
  "layers.gaussian_gram",
  "layers.nystrom_attention",  # softmax
  "layers.soft_attention",
  "projections.projection_correlation",  # a unit diagonal
  "projections.projection_nuclear_norm_ball",
  "projections.projection_weighted_l1_ball",
  "prox.penalty_capped_l1",
  "prox.penalty_cel0",
  "prox.penalty_mcp",
  "prox.penalty_neg_log",
  "prox.penalty_quadratic",  # a form and a linear term
  "prox.penalty_scad",
  "recovery.l1_robust_pca",  # its residual is rounding, whose degree at one factor is chance
  "recovery.sign_rip_phi",  # a fixed norm beside the noise
  "regression.stability_selection",  # strengths have the units of x y
  "surrogates.soft_clip",  # fixed bounds
}
# Zeros are no data here: a temperature of a state, the width of a box, thresholds at infinity, the
# edge of a domain where a logarithm is infinite, the growth of no signal (inf, as documented), a
# point that is no probability, the step of a state, an average that has not begun (inf), a mixture
# without variances.
NEEDS_NON_ZERO = {
  "compositional.rgcl_bimodal_loss",
  "layers.chess_thresholds",
  "losses.aldr_kl_loss",
  "losses.roc_curve",
  "prox.penalty_log_det",
  "prox.penalty_neg_log",
  "prox.penalty_poisson",
  "recovery.growth_factor",
  "robustness.gmm2_posterior",
  "robustness.log_barrier_attack",
  "robustness.stream_step",
  "solvers.entropic_step",
  "solvers.run_state",
}


def _at_scale(call: Call, factor: float) -> list[np.ndarray] | None:
  """The floating-point results of the call with all its arrays times a factor; None if refused."""

  def scaled(leaf: Any) -> Any:
    if not is_float(leaf):
      return leaf
    return jnp.where(jnp.isfinite(leaf), leaf * jnp.asarray(factor, leaf.dtype), leaf)

  args, kwargs = jax.tree.map(scaled, (call.args, call.kwargs))
  try:
    result = call.fn(*args, **kwargs)
  except ValueError:
    return None
  return [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(result) if is_float(leaf)]


def _degree(base: np.ndarray, at_factor: np.ndarray, factor: float) -> float | None:
  """The power of the factor by which a result has grown, None if by none."""
  for power in (0, 1, 2, -1, -2, 0.5):
    expected = base * factor**power
    slack = 1e-6 * np.max(np.abs(expected), initial=0)
    if np.allclose(at_factor, expected, rtol=2e-5, atol=slack, equal_nan=True):
      return power
  return None


def keeps_units(name: str) -> None:
  """Zero data have a finite answer; what doubles with its data does so over 24 decades."""
  call = record(name)
  if call is None or not any(is_float(leaf) for leaf in jax.tree.leaves((call.args, call.kwargs))):
    return
  base = _at_scale(call, 1.0)
  twice = _at_scale(call, 2.0)
  if not base or twice is None or not all(np.all(np.isfinite(value)) for value in base):
    return
  if name not in NEEDS_NON_ZERO:
    assert all(np.all(np.isfinite(value)) for value in _at_scale(call, 0.0) or []), "zero data"
  degrees = [_degree(one, two, 2.0) for one, two in zip(base, twice, strict=True)]
  if None in degrees or name in HAS_A_SCALE:
    return
  for factor in (2.0**40, 2.0**-40):
    scaled = _at_scale(call, factor)
    assert scaled is not None, f"refused at scale {factor}"
    for one, other, degree in zip(base, scaled, degrees, strict=True):
      assert not np.any(one) or _degree(one, other, factor) == degree, f"{factor}: {one} -> {other}"


def examples(*modules: str) -> dict[str, Callable]:
  """The tests of some modules, one of each kind a public function."""
  names = [name for name in FUNCTIONS if name.split(".")[0] in modules]
  with_name = pytest.mark.parametrize("name", names)

  @with_name
  def test_example_runs_and_lowers_for_accelerators(name):
    lowers_for_accelerators(name)

  @with_name
  def test_wrong_arguments_are_named(name):
    names_wrong_arguments(name)

  @with_name
  def test_units_do_not_matter(name):
    keeps_units(name)

  tests = (
    test_example_runs_and_lowers_for_accelerators,
    test_wrong_arguments_are_named,
    test_units_do_not_matter,
  )
  return {test.__name__: test for test in tests}
