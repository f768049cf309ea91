"""The methods for kinks of expectations: one run each, its numbers traced."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from experiments.compositional._kinks import NUM_GROUPS, Data, Problem, Sample
from jaxopt_robust import compositional, prox, transforms

CURVE_POINTS = 25
# A family is one compiled program; "average" at rate 1 is the plug-in.
FAMILIES = ("average", "SONX", "SONEX", "NASA", "STORM", "ALEXR", "full batch")
PLUG_IN = "plug-in"
KEPT = (
  "STORM, slopes kept"  # its gradient at the last point has the new slopes of the outer function
)
POSITIVE_PART = prox.precompose_affine(prox.hinge, scale=-1.0, shift=1.0)


class Setting(NamedTuple):
  """One run: step size, inner samples, and what the methods have of these three."""

  learning_rate: jax.Array
  inner: jax.Array
  rate: jax.Array
  momentum: jax.Array
  kept: jax.Array


def make_trainer(family: str, problem: Problem, config: Any) -> Callable[..., Any]:
  """``train(setting, data) -> float[CURVE_POINTS]``: the exact objective along one run."""
  tilted = lambda value: compositional.OuterFn(
    lambda u: problem.linear * u + value(u), lambda log_u: value(jnp.exp(log_u))
  )
  kink = tilted(lambda u: problem.strength * jax.nn.relu(u))
  smooth = tilted(
    compositional.outer_moreau(POSITIVE_PART, problem.strength, smoothing=config.smoothing).value
  )
  falls = {problem.steps // 2: 0.3, 3 * problem.steps // 4: 1 / 3}
  decay = optax.piecewise_constant_schedule(1.0, falls)
  ball = lambda w: optax.projections.projection_l2_ball(w, problem.radius)
  project = optax.identity()
  if problem.radius is not None:
    project = transforms.project_updates({"w": ball, "s": None})

  def optimizer(run: Setting) -> optax.GradientTransformationExtraArgs:
    if family == "NASA":  # z <- average, y = P(w - z / beta), w <- w + tau (y - w)
      scale = optax.scale(-run.learning_rate / config.momentum)
      last = optax.scale_by_schedule(lambda count: config.momentum * decay(count))
      return optax.chain(transforms.ema_first(run.momentum), scale, project, last)
    direction = transforms.storm_momentum if family == "STORM" else transforms.ema_first
    schedule = lambda count: run.learning_rate * decay(count)
    return optax.chain(direction(run.momentum), optax.scale_by_learning_rate(schedule), project)

  def with_level(grads: Any) -> Any:
    """A learned level is added to the objective."""
    return {**grads, "s": grads["s"] + 1} if "s" in grads else grads

  def gradients(run: Setting, data: Data) -> tuple[Any, Callable[..., Any]]:
    """The first state, and ``(params, state, index, columns) -> (grads, state, extra)``."""
    inner = lambda params, index, sample: problem.sampled(params, index, sample, data)

    def sample(columns: jax.Array, low: Any, high: Any) -> Sample:
      place = jnp.arange(columns.shape[1])
      return Sample(columns, ((place >= low) & (place < high)) / (high - low))

    if family == "full batch":

      def whole(params: Any) -> jax.Array:
        level = params.get("s", problem.level)
        return jnp.mean(kink.value(problem.values(params["w"], data) - level))

      return (), lambda params, state, index, columns: (jax.grad(whole)(params), state, {})
    if family == "ALEXR":
      alexr = compositional.alexr_value_and_grad(
        inner, POSITIVE_PART, problem.strength, stepsize=run.rate
      )

      def halves(params: Any, state: Any, index: jax.Array, columns: jax.Array) -> Any:
        middle = run.inner // 2  # two independent samples, together as large as the others' one
        two = sample(columns, 0, middle), sample(columns, middle, run.inner)
        _, grads, state = alexr(params, state, index, *two)
        return grads, state, {}

      # dual variables 1: at first every group counts alike
      return compositional.alexr_init(NUM_GROUPS, data.params, dual=1.0), halves
    if family in ("average", "NASA"):
      estimator = compositional.inner_ema(run.rate, domain="linear")
    else:
      estimator = compositional.inner_msvr(run.rate, clip=(-20.0, 20.0), domain="linear")
    outer = kink if family in ("average", "SONX") else smooth
    oracle = compositional.fcco_value_and_grad(inner, outer, estimator)
    oracle_before = compositional.fcco_value_and_grad(inner, outer, estimator, use="old")

    def step(params: Any, state: Any, index: jax.Array, columns: jax.Array) -> Any:
      batch = sample(columns, 0, run.inner)
      _, grads, new = oracle(params, state, index, batch)
      if family != "STORM":
        return grads, new, {}
      # The same sample at the last point, with the slopes of then, or with those of now. The
      # slopes of a smoothed kink change by 1 / smoothing times the noise of the estimates, and the
      # recursion sums that up.
      value = jnp.where(run.kept, new.value, state.value)
      seen = jnp.where(run.kept, new.seen, state.seen)
      slopes = state._replace(value=value, seen=seen)
      _, before, _ = oracle_before(state.previous, slopes, index, batch)
      return grads, new, {"previous_grads": with_level(before)}

    return estimator.init(NUM_GROUPS, data.params), step

  def train(run: Setting, data: Data) -> jax.Array:
    tx = optimizer(run)
    state, gradient = gradients(run, data)

    def step(carry: Any, rows: Any) -> tuple[Any, None]:
      params, opt_state, state = carry
      grads, state, extra = gradient(params, state, *rows)
      updates, opt_state = tx.update(with_level(grads), opt_state, params, **extra)
      return (optax.apply_updates(params, updates), opt_state, state), None

    def leg(carry: Any, rows: Any) -> tuple[Any, jax.Array]:
      carry, _ = jax.lax.scan(step, carry, rows)
      return carry, problem.exact(carry[0]["w"], data, config.alpha)

    split = lambda v: v.reshape(CURVE_POINTS, -1, *v.shape[1:])
    carry = (data.params, tx.init(data.params), state)
    return jax.lax.scan(leg, carry, (split(data.index), split(data.columns)))[1]

  return train


def variants(family: str, config: Any) -> dict[str, tuple[str, list[tuple[Any, ...]]]]:
  """Label -> name of the second number, and its values as (rate or dual, momentum, slopes kept)."""
  averaged = [(rate, config.momentum, False) for rate in config.rates]
  if family == "average":
    plain = [(1.0, momentum, False) for momentum in config.momenta]
    return {PLUG_IN: ("momentum", plain), family: ("rate", averaged)}
  if family == "SONX":
    return {family: ("rate", [(rate, 1.0, False) for rate in config.rates])}
  if family == "ALEXR":
    return {family: ("dual step", [(dual, 1.0, False) for dual in config.duals])}
  if family == "full batch":
    return {family: ("", [(1.0, 1.0, False)])}
  kept = {KEPT: ("rate", [(rate, m, True) for rate, m, _ in averaged])}
  return {family: ("rate", averaged)} | (kept if family == "STORM" else {})
