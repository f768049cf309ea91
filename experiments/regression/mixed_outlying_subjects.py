"""Mixed-effects models with many covariates: outlying subjects, power-law and Gaussian fits."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import _figures
from experiments._claims import Claim, Side
from experiments._protocol import Paper, Progress, Row, Settings, Size, new_figure
from jaxopt_robust import prox, regression

PAPER = Paper(
  title="Contributions to robust and efficient methods for analysis of high dimensional data",
  authors="Yang",
  year=2023,
  claim="A mixed-effects model whose subjects follow a power law keeps its fixed effects and its "
  "variances where some subjects are outlying, at a small price where none is.",
  section="Third manuscript, of which the abstract alone was read; the setting is ours",
)

CLEAN, OUTLYING = "clean", "outlying subjects"
CONDITIONS = (CLEAN, OUTLYING)
# MCP bends at this multiple of its strength; the l1 norm never does. So one program serves both.
PENALTIES = {"l1": 1e12, "MCP": 3.0}
MODELS = {"Gaussian": np.inf, "power law": 4.0}
METHODS = tuple(f"{model}, {penalty}" for penalty in PENALTIES for model in MODELS)


@dataclasses.dataclass(frozen=True)
class Config(Settings):
  """Settings.

  Attributes:
    subjects: number of subjects.
    rows: observations of each.
    features: fixed effects.
    relevant: those that are not 0.
    size: their magnitude.
    slope: standard deviation of the random slope; that of the random intercept is 1.
    noise: standard deviation of the errors.
    outlying: share of the subjects that are outlying.
    effects: by how much their random effects are multiplied.
    errors: by how much their errors are multiplied.
    strengths: of the penalties; the best by the true error counts, for each method alike.
    tol: of the fits.
    max_steps: of the fits.
  """

  seeds: int = 8
  subjects: int = 80
  rows: int = 5
  features: int = 150
  relevant: int = 6
  size: float = 2.0
  slope: float = 0.5
  noise: float = 0.5
  outlying: float = 0.15
  effects: float = 6.0
  errors: float = 8.0
  strengths: tuple[float, ...] = (0.12, 0.25, 0.35, 0.5, 1.0)
  tol: float = 1e-2
  max_steps: int = 100


SIZES = {
  "toy": Size(
    Config(seeds=2, subjects=20, features=10, relevant=2, strengths=(0.5,), max_steps=20),
    "Two seeds, few subjects.",
  ),
  "desk": Size(Config(), "A setting of our own."),
  "large": Size(
    Config(seeds=50, subjects=300, features=1000, max_steps=500, tol=1e-3,
           strengths=(0.1, 0.2, 0.3, 0.5, 0.7, 1.0)),
    "A setting of our own, larger.",
  ),
}  # fmt: skip


def make_problem(config: Config, condition: str, seed: int) -> tuple[np.ndarray, ...]:
  """Covariates, outcomes and covariates of the random effects; the same but for the outlying."""
  rng = np.random.default_rng([seed, 23])
  shape = (config.subjects, config.rows)
  x = rng.standard_normal((*shape, config.features))
  z = np.stack([np.ones(shape), rng.standard_normal(shape)], -1)
  effects = rng.standard_normal((config.subjects, 2)) * [1.0, config.slope]
  errors = config.noise * rng.standard_normal(shape)
  if condition == OUTLYING:
    bad = rng.permutation(config.subjects)[: round(config.outlying * config.subjects)]
    effects[bad] *= config.effects
    errors[bad] *= config.errors
  return x, x @ truth(config) + np.einsum("srq,sq->sr", z, effects) + errors, z


def truth(config: Config) -> np.ndarray:
  """The fixed effects: alternating signs, spread evenly."""
  b = np.zeros(config.features)
  at = np.arange(config.relevant) * config.features // config.relevant
  b[at] = config.size * (-1.0) ** np.arange(config.relevant)
  return b


def fit(
  config: Config, data: tuple, bend: jax.Array, lam: jax.Array, nu: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Fixed effects, variance of the random intercept, status."""
  x, y, z = data
  model = regression.MixedLM(x, y, z, jnp.ones(y.shape, jnp.bool_))
  found = regression.fit_mixed_lm(
    model, (lam, bend), penalty=prox.mcp, nu=nu, tol=config.tol, max_steps=config.max_steps
  )
  return found.params.fe_params, jnp.exp(found.params.log_var_re[0]), found.info.status


def run(config: Config, progress: Progress) -> dict[str, Any]:
  """Fits all models to all problems, at all strengths."""
  seeds = config.seed_numbers()
  problems = [make_problem(config, c, s) for c in CONDITIONS for s in seeds]
  data = tuple(np.stack(leaves).astype(np.float32) for leaves in zip(*problems, strict=True))
  lams = np.asarray(config.strengths, np.float32)
  nus = np.asarray(list(MODELS.values()), np.float32)
  b = truth(config)
  shape = (len(CONDITIONS), len(seeds))
  errors: dict[str, Any] = {c: {} for c in CONDITIONS}
  variances: dict[str, Any] = {c: {} for c in CONDITIONS}
  edges: dict[str, Any] = {c: {} for c in CONDITIONS}
  unsettled = {}
  over = jax.vmap(functools.partial(fit, config), (None, None, None, 0))  # models
  over = jax.vmap(over, (None, None, 0, None))  # strengths
  program = jax.jit(jax.vmap(over, (0, None, None, None)))  # problems
  for penalty in progress.track(list(PENALTIES), "fits"):
    bend = np.float32(PENALTIES[penalty])
    coef, variance, status = (
      np.asarray(a) for a in progress.clock.call(program, data, bend, lams, nus, name=penalty)
    )
    for m, model in enumerate(MODELS):
      name = f"{model}, {penalty}"
      error = np.linalg.norm(coef[:, :, m] - b, axis=-1)  # [problems, strengths]
      best = error.argmin(1)
      pick = np.arange(len(error)), best
      for c, condition in enumerate(CONDITIONS):
        errors[condition][name] = error[pick].reshape(shape)[c]
        variances[condition][name] = variance[:, :, m][pick].reshape(shape)[c]
        edges[condition][name] = [
          int(np.sum(best.reshape(shape)[c] == k)) for k in range(len(lams))
        ]
      unsettled[name] = int(np.sum(status[:, :, m] != 0))
  return {"error": errors, "variance": variances, "chosen": edges, "unsettled": unsettled}


def _side(metrics: dict[str, Any], condition: str, name: str) -> Side:
  return Side(name, metrics["error"][condition][name])


def _off(metrics: dict[str, Any], name: str) -> Side:
  """How far the variance of the intercept is from 1, in logarithms."""
  values = np.asarray(metrics["variance"][OUTLYING][name], float)
  return Side(name, np.abs(np.log(values)))


def claims(metrics: dict[str, Any], config: Config) -> list[Claim]:
  """Lower errors with outlying subjects, a small price without, variances kept."""
  made = []
  for penalty in PENALTIES:
    heavy, light = f"power law, {penalty}", f"Gaussian, {penalty}"
    key = penalty.lower()
    made += [
      Claim(
        f"robust_{key}",
        f"With {config.outlying:.0%} outlying subjects the power law has the lower error "
        f"({penalty}).",
        "expected", "l2 error of the fixed effects, outlying subjects",
        _side(metrics, OUTLYING, heavy), _side(metrics, OUTLYING, light), better="lower",
        scale="ratio",
      ),
      Claim(
        f"price_{key}",
        f"Without outlying subjects its error is at most 1.5 times the Gaussian one ({penalty}).",
        "expected", "l2 error of the fixed effects, clean",
        _side(metrics, CLEAN, heavy), _side(metrics, CLEAN, light), better="lower",
        scale="ratio", margin=1 / 1.5,
      ),
      Claim(
        f"variance_{key}",
        f"With outlying subjects the power law's variance of the intercept is nearer to 1 "
        f"({penalty}).",
        "expected", "|log variance of the random intercept|, true value 0, outlying subjects",
        _off(metrics, heavy), _off(metrics, light), better="lower",
      ),
    ]  # fmt: skip
  return made


def table(metrics: dict[str, Any], config: Config) -> list[Row]:
  """Errors and variances of the four fits."""
  rows = []
  for condition in CONDITIONS:
    for penalty in PENALTIES:
      heavy, light = f"power law, {penalty}", f"Gaussian, {penalty}"
      chosen = "; ".join(f"{name} {metrics['chosen'][condition][name]}" for name in (heavy, light))
      note = (
        f"Seeds by strength {config.strengths}: {chosen}. Fits that ended before their "
        f"tolerance, of all: {metrics['unsettled'][heavy]} and {metrics['unsettled'][light]}."
      )
      rows.append(
        Row(
          f"l2 error of the fixed effects, {condition}",
          _side(metrics, condition, heavy),
          _side(metrics, condition, light),
          better="lower",
          note=note,
        )
      )
      variance = metrics["variance"][condition]
      rows.append(
        Row(
          f"variance of the random intercept (true: 1), {condition}",
          Side(heavy, variance[heavy]),
          Side(light, variance[light]),
          better="lower",
        )
      )
  return rows  # fmt: skip


def figure(record: dict[str, Any]) -> Any:
  """Errors of the fixed effects and variances of the intercept, a colour a condition."""
  fig, axes = new_figure(1, 2, width=4.8, height=3.8)
  metrics = record["metrics"]
  _figures.dots(axes[0], metrics["error"], ylabel="l2 error of the fixed effects")
  _figures.dots(axes[1], metrics["variance"], ylabel="variance of the random intercept")
  return fig
