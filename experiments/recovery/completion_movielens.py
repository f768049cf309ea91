"""Film ratings completed by alternating least squares, exact, inexact and robust."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import _amendments, _figures, _recovery, _statistics, datasets
from experiments._claims import Claim, Side
from experiments._protocol import Paper, Progress, Row, Settings, Size, new_figure
from jaxopt_robust import recovery

PAPER = Paper(
  title="Low Rank Matrix Completion via Robust Alternating Minimization in Nearly Linear Time",
  authors="Gu, Song, Yin and Zhang",
  year=2024,
  claim="On MovieLens-100k inexact half steps (a sketch and three conjugate gradients) give the "
  "test error of exact alternating least squares; where ratings were turned to the other end of "
  "the scale, Huber's weights and absolute errors keep more of it. The paper has no experiments.",
  section="Theorem 1.1; alternating least squares for ratings: Zhou, Wilkinson, Schreiber and Pan "
  "2008; weights: Huber 1964; sub-gradients of absolute errors: Tong, Ma and Chi 2021",
  url="https://arxiv.org/abs/2302.11068",
)
AMENDED = _amendments.COMPLETION_MOVIELENS

_HELD_OUT = 0.2  # of all ratings, for the test
_VALIDATION = 0.1  # of all ratings, the same ones for all seeds, never in a test
_DECAY = 0.97  # of the steps of the sub-gradient method
_START = 0.1  # its start, as a share of the spectral one
MEAN, BIASES, ROBUST_BIASES = "global mean", "biases", "biases, Huber"
EXACT, PCG, HUBER, SUBGM = "ALS, exact", "ALS, PCG", "ALS, Huber", "l1 SubGM"
SOFT = "softImpute"
ROBUST = (ROBUST_BIASES, HUBER, SUBGM)


@dataclasses.dataclass(frozen=True)
class Config(Settings):
  """Settings. A seed draws the test ratings, the turned ones, starts and sketches.

  Strengths are chosen for each method and rate by the mean absolute error on validation ratings,
  of which the same share is turned, with the training ratings of the first seed.

  Attributes:
    data: ``"movielens100k"`` or ``"synthetic"``.
    rank: width of the factors.
    rounds: rounds of alternating least squares.
    ridges: strengths tried, by the number of ratings; the largest leaves no factors, as any beyond.
    bias_ridges: strengths tried for the biases.
    lams: strengths of softImpute, falling.
    soft_rank: bound on the rank of softImpute.
    soft_steps: its steps for a strength.
    steps: steps of the sub-gradient method.
    etas: its first steps that are tried.
    rates: shares of training ratings turned to the other end of the scale.
    methods: which methods, after the mean and the biases.
  """

  data: str = "movielens100k"
  rank: int = 10
  rounds: int = 10
  ridges: tuple[float, ...] = (0.07, 0.15, 0.25, 0.4, 0.7)
  bias_ridges: tuple[float, ...] = (0.3, 1.0, 3.0, 5.0, 10.0, 20.0)
  lams: tuple[float, ...] = (90.0, 60.0, 35.0, 20.0, 12.0, 7.0)
  soft_rank: int = 10
  soft_steps: int = 6
  steps: int = 150
  etas: tuple[float, ...] = (0.1, 0.2, 0.4, 0.8)
  rates: tuple[float, ...] = (0.0, 0.2)
  methods: tuple[str, ...] = (SOFT, EXACT, PCG, HUBER, SUBGM)


SIZES = {
  "toy": Size(
    Config(
      seeds=2, data="synthetic", rank=2, rounds=4, ridges=(0.1,), bias_ridges=(3.0,), steps=20,
      etas=(0.1,), rates=(0.2,), methods=(HUBER,),
    ),
    "Synthetic ratings, one method.",
  ),
  "desk": Size(Config(), "The paper has no experiments; rank 10."),
  "large": Size(
    Config(seeds=20, rounds=30, rank=20, steps=300), "The paper has no experiments; rank 20."
  ),
}  # fmt: skip


def load(config: Config) -> tuple[np.ndarray, np.ndarray, np.ndarray, tuple[int, int]]:
  """Users, films, ratings, sizes."""
  if config.data == "movielens100k":
    data = datasets.load("movielens100k")
    users, items, ratings = data["user"], data["item"], data["rating"]
  else:
    rng = np.random.default_rng(0)
    users, items = np.nonzero(rng.random((60, 40)) < 0.5)
    left, right = rng.standard_normal((60, 2)), rng.standard_normal((40, 2))
    biases = rng.standard_normal(60)[users] + rng.standard_normal(40)[items]
    score = 3 + 0.6 * np.sum(left[users] * right[items], axis=1) + 0.6 * biases
    ratings = np.clip(np.round(score), 1, 5)
  users, items = users.astype(np.int32), items.astype(np.int32)
  return users, items, ratings.astype(np.float32), (int(users.max()) + 1, int(items.max()) + 1)


def turned(ratings: np.ndarray) -> np.ndarray:
  """Each rating at the other end of the scale."""
  return np.where(ratings >= 3, 1, 5).astype(np.float32)


@functools.partial(jax.jit, static_argnames=("name", "config"))
def fit(
  op: Any, y: Any, key: Any, ridge: Any, strength: Any, *, name: str, config: Config
) -> tuple[Any, Any]:
  """Biases, then factors of what they leave; for softImpute a path of factors."""
  reweight = recovery.huber_weights() if name in ROBUST else None
  biases = recovery.biased_baseline(op, y, row_ridge=ridge, col_ridge=ridge, reweight=reweight)
  rest = y - biases.at(op.row_index, op.col_index)
  if name == SOFT:
    factors, _ = recovery.soft_impute_path(
      op, rest, strength, rank=config.soft_rank, key=key, tol=1e-3, max_steps=config.soft_steps
    )
  elif name == SUBGM:
    start = recovery.entry_spectral(key, op, jnp.sign(rest), config.rank)
    start = jax.tree.map(lambda f: _START * f, start)
    tx = recovery.q_normalized_geometric(eta0=strength, rho=_DECAY)
    factors, _ = recovery.subgm(op, rest, start, tx=tx, num_steps=config.steps)
  elif name in (BIASES, ROBUST_BIASES):
    factors = recovery.Factors(*(jnp.zeros((n, 1), y.dtype) for n in op.shape))
  else:
    factors, _ = recovery.als_complete(
      op, rest, config.rank, key=key, ridge=strength, num_rounds=config.rounds, reweight=reweight,
      solver="pcg" if name == PCG else "exact",
    )  # fmt: skip
  return biases, factors


def fit_all(name: str, config: Config, grid: Any, ridge: float, *data: Any) -> list[Any]:
  """Biases and factors for every strength of a grid; softImpute goes along the grid once."""
  run_one = functools.partial(fit, *data, np.float32(ridge), name=name, config=config)
  if name != SOFT:
    return [run_one(np.float32(strength)) for strength in grid]
  biases, path = run_one(np.asarray(grid, np.float32))
  return [(biases, jax.tree.map(lambda f, i=i: f[i], path)) for i in range(len(grid))]


class Split:
  """Training and test ratings of a seed; the first of the training ratings are for validation."""

  def __init__(self, data: Any, seed: int, rate: float) -> None:
    self.users, self.items, self.ratings, self.shape = data
    size = self.ratings.size
    self.num_validation = int(_VALIDATION * size)
    common = np.random.default_rng(0).permutation(size)
    rng = np.random.default_rng([seed, 1])
    rest = rng.permutation(common[self.num_validation :])
    num_test = int(_HELD_OUT * size)
    self.test = rest[:num_test]
    self.train = np.concatenate([common[: self.num_validation], rest[num_test:]])
    self.y = self.ratings[self.train].copy()
    hit = rng.permutation(self.y.size)[: int(rate * self.y.size)]  # the same first at each rate
    self.y[hit] = turned(self.y[hit])

  def entries(self, *, tuning: bool) -> tuple[Any, np.ndarray]:
    """Training entries; those for validation have weight 0 where strengths are tuned."""
    weight = np.ones(self.y.size, np.float32)
    weight[: self.num_validation * tuning] = 0
    rows, cols = self.users[self.train], self.items[self.train]
    return recovery.EntryCOO(rows, cols, self.shape, weight), self.y * weight

  def predict(self, biases: Any, factors: Any, part: np.ndarray) -> np.ndarray:
    """Ratings, cut to the scale."""
    users, items = self.users[part], self.items[part]
    score = float(biases.mean) + np.asarray(biases.row)[users] + np.asarray(biases.col)[items]
    score = score + np.sum(np.asarray(factors.L)[users] * np.asarray(factors.R)[items], axis=1)
    return np.clip(score, 1, 5)

  def validation_error(self, fitted: Any) -> float:
    """Mean absolute error on training ratings set aside, of which some are turned too."""
    guess = self.predict(*fitted, self.train[: self.num_validation])
    return float(np.mean(np.abs(guess - self.y[: self.num_validation])))

  def test_error(self, fitted: Any) -> float:
    """Root mean square error on the test ratings, which are clean."""
    return float(
      np.sqrt(np.mean((self.predict(*fitted, self.test) - self.ratings[self.test]) ** 2))
    )


def run(config: Config, progress: Progress) -> dict[str, Any]:
  """Tunes on the validation ratings at each rate, then fits the splits of all seeds."""
  data, choices = load(config), []
  grids = {BIASES: config.bias_ridges, ROBUST_BIASES: config.bias_ridges}
  grids |= {
    name: {SOFT: config.lams, SUBGM: config.etas}.get(name, config.ridges)
    for name in config.methods
  }
  errors: dict[str, list[Any]] = {name: [] for name in (MEAN, *grids)}
  for rate in progress.track(config.rates, "corruption"):
    splits = [Split(data, seed, rate) for seed in config.seed_numbers()]
    chosen: dict[str, float] = {}
    for name, grid in grids.items():
      bias = ROBUST_BIASES if name in ROBUST else BIASES
      key = jax.random.key(config.first_seed)
      # Biases alone have one strength, that of the biases.
      ridges = grid if name == bias else (chosen[bias],)
      strengths = (0.0,) if name == bias else grid
      entries = splits[0].entries(tuning=True)
      fits = [f for r in ridges for f in fit_all(name, config, strengths, r, *entries, key)]
      scores = [splits[0].validation_error(fitted) for fitted in fits]
      what = f"strength of {name}, {rate:.0%} turned"
      choices.append(_statistics.choose(what, grid, scores, better="lower"))
      chosen[name] = choices[-1].chosen
    found: dict[str, list[float]] = {name: [] for name in errors}
    for seed, split in zip(config.seed_numbers(), splits, strict=True):
      op, y = split.entries(tuning=False)
      guess = np.clip(np.mean(y), 1, 5) - split.ratings[split.test]
      found[MEAN].append(float(np.sqrt(np.mean(guess**2))))
      for name, grid in grids.items():
        ridge = chosen[ROBUST_BIASES if name in ROBUST else BIASES]
        values = grid if name == SOFT else (chosen[name],)
        fits = fit_all(name, config, values, ridge, op, y, jax.random.key(seed))
        found[name].append(split.test_error(fits[values.index(chosen[name])]))
    for name, values in found.items():
      errors[name].append(values)
  sizes = {"shape": data[3], "entries": splits[0].y.size}
  return {"rmse": errors, "sizes": sizes, "choices": choices}


def claims(metrics: dict[str, Any], config: Config) -> list[Claim]:
  """Factors on top of biases, inexact half steps, and robust fits where ratings were turned."""
  made = []
  rmse = {n: np.asarray(v, float) for n, v in metrics["rmse"].items()}

  def claim(key: str, text: str, kind: Any, ours: str, base: str, place: int, **more: Any) -> None:
    metric = f"test RMSE, {config.rates[place]:.0%} of the ratings turned"
    if {ours, base} <= set(rmse):
      sides = Side(ours, rmse[ours][place]), Side(base, rmse[base][place])
      made.append(Claim(key, text, kind, metric, *sides, better="lower", **more))

  text = "Factors by alternating least squares lower the test error below that of biases."
  claim("factors", text, "paper", PCG, BIASES, 0)
  text = "Inexact half steps give the test error of exact ones, to 0.002."
  claim("inexact", text, "control", PCG, EXACT, 0, margin=0.002)
  text = "Where ratings are turned, Huber's weights give a lower test error than least squares."
  claim("huber", text, "paper", HUBER, PCG, -1)
  text = "Where ratings are turned, factors with Huber's weights lower the error of such biases."
  claim("huber_factors", text, "paper", HUBER, ROBUST_BIASES, -1)
  text = "Where ratings are turned, factors by absolute errors have a lower one than least squares."
  claim("subgm", text, "paper", SUBGM, PCG, -1)
  return made


def table(metrics: dict[str, Any], config: Config) -> list[Row]:
  """Test errors of all methods at all rates, and what a round costs."""
  where = {"movielens100k": "MovieLens-100k"}.get(config.data, "synthetic ratings")
  rows = []
  for i, rate in enumerate(config.rates):
    base = Side(BIASES, metrics["rmse"][BIASES][i])
    for name, errors in metrics["rmse"].items():
      metric = f"test RMSE, {where}, {rate:.0%} of ratings turned"
      note = "Random splits, not the files u1 to u5 of the data set." if i == 0 else ""
      if rate == max(config.rates) > 0:
        note = "A strength at the upper edge leaves no factors: such methods are biases alone."
      rows.append(Row(metric, Side(name, errors[i]), base, "lower", note=note))
  sizes = metrics["sizes"]
  sides = (
    Side(name, _recovery.altmin_work(how, sizes["shape"], config.rank, sizes["entries"]))
    for name, how in ((PCG, "pcg"), (EXACT, "exact"))
  )
  note = "Counted: most films have fewer ratings than a sketch has rows."
  return [*rows, Row("multiplications a round", *sides, better="lower", note=note)]


def figure(record: dict[str, Any]) -> Any:
  """Test errors of all methods on clean ratings, and along a growing share of turned ones."""
  metrics, settings = record["metrics"], record["settings"]
  fig, axes = new_figure(1, 2, width=5.2)
  rmse = {n: np.asarray(v, float) for n, v in metrics["rmse"].items() if n != MEAN}
  first = {name: errors[0] for name, errors in rmse.items()}
  title = f"{settings['rates'][0]:.0%} of the ratings turned"
  _figures.dots(axes[0], {"": first}, ylabel="test RMSE", title=title)
  lines = {name: errors.T for name, errors in rmse.items()}
  what = "share of training ratings turned"
  _figures.curves(axes[1], lines, settings["rates"], xlabel=what, ylabel="test RMSE")
  return fig
