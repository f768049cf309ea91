"""What a layer needs to learn: LISTA, LISTA-CP, TiLISTA, ALISTA, TISTA, ADMM, an equilibrium."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import _figures, _statistics
from experiments._claims import Claim, Side
from experiments._protocol import Paper, Progress, Row, Settings, Size, new_figure
from experiments._training import schedule
from experiments.unfolding import _networks
from experiments.unfolding._variants import VARIANTS, Problem, equilibrium
from jaxopt_robust import prox, solvers, unfolding

MATRICES = ("LISTA", "LISTA-CP", "LISTA-CPSS", "TiLISTA")  # what these learn in each layer, or once

PAPER = Paper(
  title="ALISTA: analytic weights are as good as learned weights in LISTA",
  authors="Liu, Chen, Wang and Yin",
  year=2019,
  claim="A network that learns only a step and a threshold a layer, its weight computed from the "
  "matrix, recovers sparse signals as well as networks that learn all weights, and better than "
  "LISTA; leaving the largest entries unshrunk helps.",
  section="Figures of noiseless and noisy recovery (there 250 x 500); selection of a support: "
  "Chen, Liu, Wang and Yin, 2018; TISTA: Ito, Takabe and Wadayama, 2019",
  url="https://openreview.net/forum?id=B1lnzn0ctQ",
)
TWICE = (
  "Recorded twice on the report seeds: grids were widened where the best value lay at an edge, and "
  "the equilibrium got 2000 steps instead of 500, at which small strengths do not converge: on "
  "development seeds that had kept its strength three times too large. The claims of the papers "
  "hold in both; the control failed in the first."
)
METRIC = "test NMSE in dB, {} layers"


@dataclasses.dataclass(frozen=True)
class Config(Settings):
  """Settings. A seed draws the matrix and all signals; each training step sees fresh ones.

  Attributes:
    measurements: rows of the matrix.
    features: its columns.
    share: share of non-zeros, which are standard normal.
    noise: standard deviation of the measurements' noise.
    layers: of all networks.
    steps: training steps of each stage, which adds a layer, of networks that learn numbers.
    weight_steps: of networks that learn matrices.
    batch: signals in a training step.
    signals: validation signals, and as many test signals.
    rates: step sizes of Adam, chosen for each network by the validation error.
    weight_rates: of networks that learn matrices.
    strengths: thresholds at the start (ALISTA, TiLISTA), or strengths of the l1 norm, chosen too.
    penalties: strengths of the lasso, chosen by the validation error.
    equilibrium_steps: training steps of the equilibrium.
    max_steps: of the iterations of an equilibrium; ten times as many in tests and of the lasso.
    only: the networks; all when empty.
  """

  measurements: int = 32
  features: int = 64
  share: float = 0.1
  noise: float = 0.005
  layers: int = 6
  steps: int = 100
  weight_steps: int = 200
  batch: int = 64
  signals: int = 300
  rates: tuple[float, ...] = (0.01, 0.03, 0.1, 0.3, 1.0)
  weight_rates: tuple[float, ...] = (1e-3, 3e-3, 1e-2, 3e-2)
  strengths: tuple[float, ...] = (0.1,)
  penalties: tuple[float, ...] = (1e-3, 3e-3, 0.01, 0.03, 0.1)
  equilibrium_steps: int = 150
  max_steps: int = 2000
  only: tuple[str, ...] = ()


SIZES = {
  "toy": Size(
    Config(seeds=2, measurements=10, features=20, layers=2, steps=10, weight_steps=10, batch=8,
           signals=20, rates=(0.01, 0.03, 0.1), weight_rates=(1e-3, 3e-3, 1e-2),
           strengths=(0.1,), penalties=(0.01, 0.1, 0.3),
           equilibrium_steps=5, max_steps=50, only=("ALISTA", "LISTA-CP")),
    "20 coefficients, 2 layers and 10 steps.",
  ),
  "desk": Size(Config(), "32 x 64 matrices and 6 layers; the papers have 250 x 500 and 16."),
  "large": Size(
    Config(measurements=250, features=500, layers=16, steps=500, weight_steps=5000, signals=1000),
    "5000 steps a stage on fresh signals for matrices.",
  ),
}  # fmt: skip


def problem_of(config: Config, seed: jax.Array) -> Problem:
  keys = _networks.keys_of(seed)
  matrix = _networks.gaussian(keys["matrix"], config.measurements, config.features)
  support = unfolding.support_schedule(num_layers=config.layers)
  return Problem(matrix, config.share, config.noise, support)


def signals_of(config: Config, key: jax.Array, problem: Problem, batch: int) -> Any:
  return unfolding.sample_sparse_batch(
    key, problem.matrix, batch=batch, rate=config.share, noise=config.noise
  )


def nmse(x: jax.Array, truth: jax.Array) -> jax.Array:
  """In dB."""
  return 10 * jnp.log10(jnp.sum((x - truth) ** 2) / jnp.sum(truth**2))


def trainer(name: str, config: Config) -> Any:
  """``train(rate, strength, seed)``: errors on validation and test signals, layer by layer."""
  steps = config.weight_steps if name in MATRICES else config.steps
  variant, factor = VARIANTS[name], schedule("cosine", steps)

  def train(rate: jax.Array, strength: jax.Array, seed: jax.Array) -> dict[str, jax.Array]:
    keys, problem = _networks.keys_of(seed), problem_of(config, seed)

    def loss(params: Any, sample: Any, depth: Any) -> jax.Array:
      x = variant.apply(params, sample.y, problem, depth)
      return jnp.mean(unfolding.supervised_loss(x, sample.truth))

    trained = unfolding.train_incremental(
      keys["training"], loss, variant.init(problem, strength, config.layers),
      optimizer=optax.adam(lambda count: rate * factor(count)),
      sampler=lambda key: signals_of(config, key, problem, config.batch),
      num_layers=config.layers, num_steps=steps,
    )  # fmt: skip

    def error(key: jax.Array, depth: Any) -> jax.Array:
      sample = signals_of(config, key, problem, config.signals)
      return nmse(variant.apply(trained.params, sample.y, problem, depth), sample.truth)

    depths = jnp.arange(1, config.layers + 1)
    return {
      "validation": error(keys["other"], None),
      "test": jax.lax.map(lambda depth: error(keys["test"], depth), depths),
      "status": trained.status,
    }

  return train


def lasso(config: Config) -> Any:
  """``solve(strength, seed)``: what the networks are truncations of, at convergence."""

  def misfit(x: jax.Array, y: jax.Array, matrix: jax.Array) -> jax.Array:
    return 0.5 * jnp.sum((y - jnp.matmul(x, matrix.T, precision="highest")) ** 2)

  def solve(strength: jax.Array, seed: jax.Array) -> dict[str, jax.Array]:
    keys, problem = _networks.keys_of(seed), problem_of(config, seed)
    step = 1 / jnp.linalg.norm(problem.matrix, 2) ** 2
    solver = solvers.fista(misfit, prox.prox_lasso, stepsize=step)

    def error(key: jax.Array) -> jax.Array:
      sample = signals_of(config, key, problem, config.signals)
      x, _ = solvers.run_until(
        solver, jnp.zeros_like(sample.truth), strength, sample.y, problem.matrix, tol=1e-3,
        max_steps=10 * config.max_steps,
      )  # fmt: skip
      return nmse(x, sample.truth)

    return {"validation": error(keys["other"]), "test": error(keys["test"])}

  return solve


def equilibria(config: Config) -> Any:
  """``train(seed)``: the strength of an equilibrium, learned through its fixed point."""

  def train(seed: jax.Array) -> dict[str, jax.Array]:
    keys, problem = _networks.keys_of(seed), problem_of(config, seed)
    optimizer = optax.adam(0.1)

    def error(free: jax.Array, sample: Any) -> jax.Array:
      x = equilibrium(free, sample.y, problem, max_steps=config.max_steps)
      return jnp.mean(unfolding.supervised_loss(x, sample.truth))

    def step(carry: tuple, key: jax.Array) -> tuple[tuple, None]:
      free, state = carry
      grad = jax.grad(error)(free, signals_of(config, key, problem, config.batch))
      updates, state = optimizer.update(grad, state)
      return (optax.apply_updates(free, updates), state), None

    first = jnp.log(jnp.asarray(max(config.strengths)))
    keys_of_steps = jax.random.split(keys["training"], config.equilibrium_steps)
    (free, _), _ = jax.lax.scan(step, (first, optimizer.init(first)), keys_of_steps)
    sample = signals_of(config, keys["test"], problem, config.signals)
    x = equilibrium(free, sample.y, problem, max_steps=10 * config.max_steps)
    return {"test": nmse(x, sample.truth), "strength": jnp.exp(free)}

  return train


def run(config: Config, progress: Progress) -> dict[str, Any]:
  """Every network at every rate and start, the best of each by its validation error."""
  seeds = jnp.asarray(config.seed_numbers(), jnp.int32)
  strengths = jnp.asarray(config.strengths, jnp.float32)
  metrics: dict[str, Any] = {"nmse": {}, "curve": {}, "failed": {}}
  choices = []
  for name in progress.track(config.only or VARIANTS, "networks"):
    one = jax.vmap(trainer(name, config), in_axes=(None, None, 0))
    each = lambda rate, one=one: jax.lax.map(lambda t: one(rate, t, seeds), strengths)
    program = jax.jit(lambda rates, each=each: jax.lax.map(each, rates))
    rates = config.weight_rates if name in MATRICES else config.rates
    found = jax.device_get(progress.clock.call(program, jnp.asarray(rates), name=name))
    scores = found["validation"].mean(-1)  # [rates, strengths]
    scores = np.where(np.isfinite(scores), scores, np.inf)
    start = int(np.argmin(scores.min(0)))
    choice = _statistics.choose(f"step size of {name}", rates, scores[:, start], better="lower")
    choices.append(choice)
    best = rates.index(choice.chosen), start
    metrics["curve"][name] = found["test"][best]
    metrics["nmse"][name] = found["test"][best][:, -1]
    metrics["failed"][name] = int(np.count_nonzero(found["status"][best]))
  program = jax.jit(jax.vmap(jax.vmap(lasso(config), in_axes=(None, 0)), in_axes=(0, None)))
  penalties = jnp.asarray(config.penalties, jnp.float32)
  found = jax.device_get(progress.clock.call(program, penalties, seeds, name="lasso"))
  choice = _statistics.choose(
    "strength of the lasso", config.penalties, found["validation"].mean(-1), better="lower"
  )
  choices.append(choice)
  metrics["nmse"]["lasso"] = found["test"][config.penalties.index(choice.chosen)]
  program = jax.jit(jax.vmap(equilibria(config)))
  found = jax.device_get(progress.clock.call(program, seeds, name="equilibrium"))
  metrics["nmse"]["equilibrium"] = found["test"]
  metrics["equilibrium_strength"] = found["strength"]
  return metrics | {"choices": choices}


def claims(metrics: dict, config: Config) -> list[Claim]:
  """Analytic weights; selection; MMSE shrinkage; an equilibrium is the lasso."""
  metric = METRIC.format(config.layers)
  side = lambda name: Side(name, metrics["nmse"][name])
  pairs = (
    ("alista_cpss", "ALISTA", "LISTA-CPSS", "ALISTA recovers as well as LISTA-CPSS, which learns a "
     "weight a layer (no worse than 1 dB).", -1.0),
    ("alista_tilista", "ALISTA", "TiLISTA", "ALISTA recovers as well as TiLISTA, which learns its "
     "weight (no worse than 1 dB).", -1.0),
    ("alista_lista", "ALISTA", "LISTA", "ALISTA recovers better than LISTA.", 0.0),
    ("selection", "LISTA-CPSS", "LISTA-CP", "Leaving the largest entries unshrunk lowers the error "
     "of LISTA-CP.", 0.0),
    ("tista_lista", "TISTA", "LISTA", "TISTA, which learns one number a layer and knows how "
     "signals are drawn, recovers better than LISTA.", 0.0),
  )  # fmt: skip
  found = [
    Claim(key, text, "paper", metric, side(ours), side(base), better="lower", margin=margin)
    for key, ours, base, text, margin in pairs
    if ours in metrics["nmse"] and base in metrics["nmse"]
  ]
  found.append(
    Claim(
      "equilibrium", "An equilibrium of ISTA that learns its strength recovers as the lasso at the "
      "best strength of a grid does (within 0.5 dB).", "control", metric, side("equilibrium"),
      side("lasso"), better="lower", margin=0.5,
    )
  )  # fmt: skip
  return found


def table(metrics: dict, config: Config) -> list[Row]:
  """Errors beside that of learned steps and thresholds, or of the lasso at convergence."""
  base = Side("lasso", metrics["nmse"]["lasso"])
  return [
    Row(METRIC.format(config.layers), Side(name, values), base, better="lower", note=TWICE)
    for name, values in metrics["nmse"].items()
    if name != "lasso"
  ]


def figure(record: dict) -> Any:
  """Error against the number of layers; beside it the last layer's with intervals."""
  metrics = record["metrics"]
  fig, axes = new_figure(1, 2)
  depths = np.arange(1, record["settings"]["layers"] + 1)
  _figures.curves(axes[0], metrics["curve"], depths, xlabel="layer", ylabel="test NMSE in dB")
  _figures.dots(axes[1], {"": metrics["nmse"]}, ylabel="test NMSE in dB")
  return fig
