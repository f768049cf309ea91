"""Many parameter steps for each gradient by the outputs: loss against calls of the oracle."""

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import _figures, datasets
from experiments._claims import Claim, Side
from experiments._protocol import Paper, Progress, Row, Settings, Size, new_figure
from experiments._statistics import choose
from experiments._training import stack, train_all
from jaxopt_robust import solvers, transforms
from jaxopt_robust.solvers import TargetBatch

PAPER = Paper(
  title="Target-based surrogates for stochastic optimization",
  authors="Lavington, Vaswani, Babanezhad, Schmidt and Le Roux",
  year=2023,
  claim="Where gradients by the outputs of a model are dear, several parameter steps on a surrogate"
  " for each of them reach a lower loss per gradient than SGD, stochastic line search, Adam and "
  "AdaGrad, and the more so the more steps are taken.",
  section="Section 5 (supervised learning; figures only)",
  url="https://arxiv.org/abs/2302.02607",
)
BASELINES = ("SGD", "SLS", "Adam", "AdaGrad")
SWAPS = ("SSO, 10 steps of L-BFGS", "SSO, 10 steps of Adam")


@dataclasses.dataclass(frozen=True)
class Config(Settings):
  """Settings. A seed draws the rows (four fifths of them) and the batches.

  Attributes:
    problems: "breast_cancer" or "digits", followed by ", full" or ", batches".
    batch: rows of a batch.
    calls: calls of the oracle of the problems, in their order.
    inner_steps: m of SSO.
    swaps: whether other inner methods are run too.
    growth: factor of the inner line search from a step to the next.
    target_steps: eta of SSO, times 1/L.
    sgd_rates: step sizes of SGD on the mean loss.
    sls_decreases: share of the predicted decrease that the line search asks for.
    adam_rates: step sizes of Adam.
    adagrad_rates: step sizes of AdaGrad.
    inner_rate: step size of Adam as the inner method.
  """

  problems: tuple[str, ...] = ("breast_cancer, full", "breast_cancer, batches", "digits, batches")
  batch: int = 125
  calls: tuple[int, ...] = (200, 200, 50)
  inner_steps: tuple[int, ...] = (1, 10, 100)
  swaps: bool = True
  growth: float = 1.2
  target_steps: tuple[float, ...] = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)
  sgd_rates: tuple[float, ...] = (0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)
  sls_decreases: tuple[float, ...] = (0.005, 0.01, 0.05, 0.2, 0.5, 0.8, 0.9, 0.98)
  adam_rates: tuple[float, ...] = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
  adagrad_rates: tuple[float, ...] = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
  inner_rate: float = 0.03


SIZES = {
  "toy": Size(
    Config(
      seeds=2, problems=("breast_cancer, full",), calls=(15,), inner_steps=(1, 10), swaps=False,
      target_steps=(0.5, 2.0, 8.0), sgd_rates=(1.0, 10.0, 30.0), sls_decreases=(0.02, 0.1, 0.5),
      adam_rates=(0.1, 0.3, 1.0), adagrad_rates=(0.3, 1.0, 3.0),
    ),
    "15 calls of the oracle.",
  ),
  "desk": Size(
    Config(),
    "Breast cancer (569 rows) and digits with linear models, instead of mushrooms, ijcnn1 and rcv1 "
    "with linear models and MNIST with a network.",
  ),
  "large": Size(Config(calls=(1000, 1000, 500)), "More calls; the data sets stay the same."),
}  # fmt: skip


class Data(NamedTuple):
  """One seed: inputs with a constant, targets, and rows of the batches, int32[calls, batch]."""

  x: jax.Array
  y: jax.Array
  rows: jax.Array


def logistic(z: jax.Array, y: jax.Array) -> jax.Array:
  return jnp.sum(jax.nn.softplus(z) - y * z)


def softmax(z: jax.Array, y: jax.Array) -> jax.Array:
  return jnp.sum(optax.softmax_cross_entropy_with_integer_labels(z, y))


class Problem(NamedTuple):
  """Loss summed over rows, its Lipschitz constant a row, shape of weights, mean loss of zeros."""

  loss: Callable
  lipschitz: float
  shape: tuple[int, ...]
  start: float


PROBLEMS = {
  "breast_cancer": Problem(logistic, 0.25, (31,), np.log(2)),
  "digits": Problem(softmax, 0.5, (65, 10), np.log(10)),
}


def make_data(name: str, config: Config, seed: int) -> Data:
  """Features scaled to [0, 1] and a constant; as many batches as calls, or all rows each time."""
  data_name, kind = name.split(", ")
  data = datasets.load(data_name)
  rng = np.random.default_rng(seed)
  rows = rng.permutation(len(data["y"]))[: len(data["y"]) * 4 // 5]
  x, y = data["x"][rows], data["y"][rows]
  low, high = x.min(0), x.max(0)
  x = (x - low) / np.where(high > low, high - low, 1)
  x = np.concatenate([x, np.ones((len(x), 1))], axis=1)
  calls = config.calls[config.problems.index(name)]
  if kind == "full":
    order = np.tile(np.arange(len(x)), (calls, 1))
  else:
    order = np.stack([rng.choice(len(x), config.batch, replace=False) for _ in range(calls)])
  labels = y.astype(float) if data_name == "breast_cancer" else y.astype(np.int32)
  return Data(jnp.asarray(x), jnp.asarray(labels), jnp.asarray(order, jnp.int32))


def surrogate_method(problem: Problem, config: Config, inner: Any, steps: int) -> Callable:
  """(eta in units of 1/L, data) -> mean loss of all rows after each call."""

  def run(eta: jax.Array, data: Data) -> dict[str, jax.Array]:
    solver = solvers.sso(
      lambda w, x: x @ w, jax.value_and_grad(problem.loss), num_inner=steps, inner=inner,
      stepsize=eta / problem.lipschitz,
    )  # fmt: skip
    batch_of = lambda rows: TargetBatch(data.x[rows], data.y[rows])

    def step(state: Any, rows: jax.Array) -> tuple[Any, jax.Array]:
      state, _ = solver.step(state, None, batch_of(rows))
      return state, mean_loss(problem, state.params, data)

    start = solver.init(jnp.zeros(problem.shape), None, batch_of(data.rows[0]))
    state, losses = jax.lax.scan(step, start, data.rows)
    return {"loss": losses, "oracle": state.num_oracle}

  return run


def optax_method(problem: Problem, optimizer: Callable) -> Callable:
  """The same of an optax optimizer of its first setting, one step a call."""

  def run(setting: jax.Array, data: Data) -> dict[str, jax.Array]:
    tx = optax.with_extra_args_support(optimizer(setting))

    def step(carry: tuple, rows: jax.Array) -> tuple[tuple, jax.Array]:
      w, state = carry
      loss = lambda w: problem.loss(data.x[rows] @ w, data.y[rows]) / len(rows)
      value, grad = jax.value_and_grad(loss)(w)
      updates, state = tx.update(grad, state, w, value=value, grad=grad, value_fn=loss)
      w = optax.apply_updates(w, updates)
      return (w, state), mean_loss(problem, w, data)

    start = jnp.zeros(problem.shape)
    _, losses = jax.lax.scan(step, (start, tx.init(start)), data.rows)
    return {"loss": losses, "oracle": jnp.asarray(len(data.rows))}

  return run


def mean_loss(problem: Problem, w: jax.Array, data: Data) -> jax.Array:
  return problem.loss(data.x @ w, data.y) / len(data.y)


def methods(problem: Problem, config: Config) -> dict[str, tuple[Callable, tuple[float, ...]]]:
  """Each method and the values of its one setting, as many for each."""
  armijo = transforms.armijo_descent(growth=config.growth)
  sso = lambda inner, steps: surrogate_method(problem, config, inner, steps)
  line_search = lambda c: transforms.armijo_descent(decrease=c)
  found = {
    "SGD": (optax_method(problem, optax.sgd), config.sgd_rates),
    "SLS": (optax_method(problem, line_search), config.sls_decreases),
    "Adam": (optax_method(problem, optax.adam), config.adam_rates),
    "AdaGrad": (optax_method(problem, optax.adagrad), config.adagrad_rates),
  }
  found |= {_sso(m): (sso(armijo, m), config.target_steps) for m in config.inner_steps}
  if config.swaps:
    inner = (optax.lbfgs(), optax.adam(config.inner_rate))
    found |= {n: (sso(tx, 10), config.target_steps) for n, tx in zip(SWAPS, inner, strict=True)}
  return found


def _sso(steps: int) -> str:
  return f"SSO, m = {steps}"


def run(config: Config, progress: Progress) -> dict[str, Any]:
  """Every method with every value of its setting on every problem."""
  with jax.enable_x64(True):
    return _run(config, progress)


def _run(config: Config, progress: Progress) -> dict[str, Any]:
  metrics: dict[str, Any] = {}
  choices, rise = [], {}
  for name in config.problems:
    problem = PROBLEMS[name.split(", ")[0]]
    data = stack([make_data(name, config, seed) for seed in config.seed_numbers()])
    metrics[name] = {}
    for title, (method, values) in progress.track(methods(problem, config).items(), name):
      found = train_all(progress, method, jnp.asarray(values), data, name=f"{title}, {name}")
      losses = found["loss"]  # [seeds, values, calls]
      choice = choose(f"{title}, {name}", values, losses[..., -1].mean(0), better="lower")
      choices.append(choice)
      best = losses[:, values.index(choice.chosen)]
      metrics[name][title] = {
        "loss": best[:, -1], "curve": best.mean(0), "oracle": found["oracle"][:, 0],
      }  # fmt: skip
      if name.endswith("full") and title == _sso(config.inner_steps[-1]):
        allowed = losses[:, np.asarray(values) <= 1]
        steps = np.diff(allowed, axis=-1, prepend=problem.start)
        rise[name] = np.max(steps, axis=(1, 2))
  return {"problems": metrics, "rise": rise, "choices": choices}


def _side(metrics: dict, problem: str, name: str) -> Side:
  return Side(name, metrics["problems"][problem][name]["loss"])


def best_baseline(metrics: dict, problem: str) -> str:
  """The baseline with the lowest loss."""
  return min(BASELINES, key=lambda name: np.mean(metrics["problems"][problem][name]["loss"]))


def claims(metrics: dict, config: Config) -> list[Claim]:
  """Below the best baseline with 10 steps, lower the more steps; never up on all rows."""
  made, few = [], config.inner_steps
  for problem in config.problems:
    metric, calls = f"training loss, {problem}", config.calls[config.problems.index(problem)]
    key = problem.replace(", ", "_")
    made.append(
      Claim(
        f"{key}_baselines", f"After {calls} calls of the oracle SSO with 10 inner steps has a "
        "lower loss than the best of SGD, stochastic line search, Adam and AdaGrad.", "paper",
        metric, _side(metrics, problem, _sso(10)),
        _side(metrics, problem, best_baseline(metrics, problem)), better="lower", scale="ratio",
        comparisons=len(BASELINES),
      )
    )  # fmt: skip
    made += [
      Claim(
        f"{key}_more_{more}", f"{more} inner steps give a lower loss than {less}.", "paper", metric,
        _side(metrics, problem, _sso(more)), _side(metrics, problem, _sso(less)), better="lower",
        scale="ratio",
      )
      for less, more in itertools.pairwise(few)
    ]  # fmt: skip
  made += [
    Claim(
      f"{problem.replace(', ', '_')}_monotone", "On all rows, with eta up to 1/L, no call raises "
      "the loss by more than rounding, 1e-12.", "theory", f"largest rise in a call, {problem}",
      Side(_sso(few[-1]), rise), Side("0", 0.0), better="lower", margin=-1e-12,
    )
    for problem, rise in metrics["rise"].items()
  ]  # fmt: skip
  return made


def table(metrics: dict, config: Config) -> list[Row]:
  """Final losses of every method beside tuned SGD, and the calls that they took."""
  return [
    Row(
      f"training loss, {problem}", _side(metrics, problem, name), _side(metrics, problem, "SGD"),
      better="lower", note="SLS takes further values of the loss, which are not counted.",
    )
    for problem, found in metrics["problems"].items()
    for name in found
    if name != "SGD"
  ]  # fmt: skip


def figure(record: dict) -> Any:
  """Loss against calls of the oracle for each problem, each method at its best setting."""
  problems = record["metrics"]["problems"]
  fig, axes = new_figure(1, len(problems))
  for ax, (problem, found) in zip(axes, problems.items(), strict=True):
    lines = {name: method["curve"] for name, method in found.items()}
    _figures.curves(
      ax, lines, xlabel="calls of the oracle", ylabel="training loss", title=problem, log="y"
    )
  return fig
