"""Film ratings completed by alternating least squares, exact, inexact and robust."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import datasets
from experiments._earlier import Claim, Outcome, Row
from experiments._protocol import Paper, Progress, new_figure
from jaxopt_robust import recovery

PAPER = Paper(
  title="Low Rank Matrix Completion via Robust Alternating Minimization in Nearly Linear Time",
  authors="Gu, Song, Yin and Zhang",
  year=2023,
  claim="On MovieLens-100k inexact half steps (a sketch and three conjugate gradients) give the "
  "test error of exact alternating least squares; weights of Huber's loss keep most of it where "
  "ratings were turned to the other end of the scale. The paper has no experiments.",
  section="Theorem 1.1",
  url="https://arxiv.org/abs/2302.11068",
)

_HELD_OUT = 0.2
_VALIDATION = 0.1  # of the training ratings
_DECAY = 0.97  # of the steps of the sub-gradient method
_START = 0.1  # its start, as a share of the spectral one


@dataclasses.dataclass(frozen=True)
class Config:
  """Settings.

  Attributes:
    seeds: random splits into 80 % for training and 20 % for the test.
    data: ``"movielens100k"`` or ``"synthetic"``.
    rank: width of the factors.
    rounds: rounds of alternating least squares.
    ridges: strengths tried, by the number of ratings of a user or film.
    bias_ridges: strengths tried for the biases.
    lams: strengths of softImpute, falling; empty leaves the method out.
    soft_rank: bound on the rank of softImpute.
    soft_steps: its steps for a strength.
    steps: steps of the sub-gradient method.
    etas: its first steps that are tried.
    rates: shares of training ratings turned to the other end of the scale.
    methods: which methods.
  """

  seeds: int = 5
  data: str = "movielens100k"
  rank: int = 10
  rounds: int = 10
  ridges: tuple[float, ...] = (0.07, 0.1, 0.15, 0.25, 0.4)
  bias_ridges: tuple[float, ...] = (0.5, 1.0, 3.0, 5.0, 10.0)
  lams: tuple[float, ...] = (25.0, 18.0, 14.0, 11.0)
  soft_rank: int = 20
  soft_steps: int = 8
  steps: int = 150
  etas: tuple[float, ...] = (0.1, 0.2, 0.4, 0.8)
  rates: tuple[float, ...] = (0.0, 0.05, 0.1, 0.2)
  methods: tuple[str, ...] = (
    "ALS, exact", "ALS, PCG", "ALS, Huber", "l1 SubGM",
  )  # fmt: skip


SIZES = {
  "toy": Config(
    seeds=1, data="synthetic", rank=2, rounds=4, ridges=(0.1,), bias_ridges=(3.0,), lams=(),
    steps=20, etas=(0.1,), rates=(0.0, 0.2), methods=("ALS, PCG", "ALS, Huber"),
  ),
  "desk": Config(),
  "large": Config(seeds=10, rounds=30, ridges=tuple(np.geomspace(0.03, 0.5, 10).tolist())),
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


REWEIGHT = {
  "ALS, Huber": recovery.huber_weights(),
}


def fit_als(
  op: Any, y: Any, key: Any, bias_ridge: Any, ridge: Any, *, name: str, config: Config
) -> tuple[Any, Any]:
  """Biases, then factors of what they leave."""
  reweight = REWEIGHT.get(name)
  biases = recovery.biased_baseline(
    op, y, row_ridge=bias_ridge, col_ridge=bias_ridge, reweight=reweight
  )
  rest = y - biases.at(op.row_index, op.col_index)
  factors, _ = recovery.als_complete(
    op, rest, config.rank, key=key, ridge=ridge, num_rounds=config.rounds, reweight=reweight,
    solver="pcg" if name == "ALS, PCG" else "exact",
  )  # fmt: skip
  return biases, factors


def fit_subgm(
  op: Any, y: Any, key: Any, bias_ridge: Any, eta: Any, *, name: str, config: Config
) -> tuple[Any, Any]:
  """Robust biases, then factors by sub-gradients of the absolute errors."""
  del name
  biases = recovery.biased_baseline(
    op, y, row_ridge=bias_ridge, col_ridge=bias_ridge, reweight=recovery.huber_weights()
  )
  rest = y - biases.at(op.row_index, op.col_index)
  start = recovery.entry_spectral(key, op, jnp.sign(rest), config.rank)
  start = jax.tree.map(lambda f: _START * f, start)
  tx = recovery.q_normalized_geometric(eta0=eta, rho=_DECAY)
  factors, _ = recovery.subgm(op, rest, start, tx=tx, num_steps=config.steps)
  return biases, factors


def fit_soft(op: Any, y: Any, key: Any, bias_ridge: Any, *, config: Config) -> tuple[Any, Any]:
  """Biases, then the nuclear-norm path of what they leave."""
  biases = recovery.biased_baseline(op, y, row_ridge=bias_ridge, col_ridge=bias_ridge)
  rest = y - biases.at(op.row_index, op.col_index)
  factors, _ = recovery.soft_impute_path(
    op, rest, jnp.asarray(config.lams), rank=config.soft_rank, key=key, tol=1e-3,
    max_steps=config.soft_steps,
  )  # fmt: skip
  return biases, factors


def predict(biases: Any, factors: Any, users: np.ndarray, items: np.ndarray) -> np.ndarray:
  """Ratings, cut to the scale."""
  score = float(biases.mean) + np.asarray(biases.row)[users] + np.asarray(biases.col)[items]
  if factors is not None:
    score = score + np.sum(np.asarray(factors.L)[users] * np.asarray(factors.R)[items], axis=1)
  return np.clip(score, 1, 5)


class Split:
  """One split: a training list with its last part for validation, and a test list."""

  def __init__(self, config: Config, data: Any, seed: int, rate: float) -> None:
    users, items, ratings, self.shape = data
    rng = np.random.default_rng(1000 + seed)
    order = rng.permutation(ratings.size)
    num_test = int(_HELD_OUT * ratings.size)
    self.test, self.train = order[:num_test], order[num_test:]
    self.users, self.items, self.ratings = users, items, ratings
    y = ratings[self.train]
    hit = rng.permutation(y.size)[: int(rate * y.size)]  # the same first ones at each rate
    y[hit] = turned(y[hit])
    self.y = y
    self.num_validation = int(_VALIDATION * y.size)

  def entries(self, *, tuning: bool) -> tuple[Any, np.ndarray]:
    """Training entries; those for validation have weight 0 where strengths are tuned."""
    weight = np.ones(self.y.size, np.float32)
    if tuning:
      weight[: self.num_validation] = 0
    rows, cols = self.users[self.train], self.items[self.train]
    return recovery.EntryCOO(rows, cols, self.shape, weight), self.y * weight

  def validation_error(self, biases: Any, factors: Any) -> float:
    """Mean absolute error on training ratings set aside, which may be corrupted too."""
    part = self.train[: self.num_validation]
    guess = predict(biases, factors, self.users[part], self.items[part])
    return float(np.mean(np.abs(guess - self.y[: self.num_validation])))

  def test_error(self, biases: Any, factors: Any) -> float:
    """Root mean square error on the test ratings, which are clean."""
    guess = predict(biases, factors, self.users[self.test], self.items[self.test])
    return float(np.sqrt(np.mean((guess - self.ratings[self.test]) ** 2)))


def run(config: Config, progress: Progress) -> Outcome:
  """Tunes on the first split's validation part at each rate, then fits all splits."""
  data = load(config)
  methods = {
    name: jax.jit(
      functools.partial(fit_subgm if "SubGM" in name else fit_als, name=name, config=config)
    )
    for name in config.methods
  }
  baseline = jax.jit(
    lambda op, y, ridge: recovery.biased_baseline(op, y, row_ridge=ridge, col_ridge=ridge)
  )
  robust = jax.jit(
    lambda op, y, ridge: recovery.biased_baseline(
      op, y, row_ridge=ridge, col_ridge=ridge, reweight=recovery.huber_weights()
    )
  )
  soft = jax.jit(functools.partial(fit_soft, config=config))
  single = np.float32
  names = (
    "global mean",
    "biases",
    "biases, Huber",
    *(["softImpute"] if config.lams else []),
    *config.methods,
  )
  errors: dict[str, Any] = {name: [] for name in names}
  strengths: dict[str, Any] = {
    name: [] for name in names if name not in ("global mean", "biases, Huber")
  }
  for rate in progress.track(config.rates, "corruption"):
    found: dict[str, list[float]] = {name: [] for name in names}
    tuned: dict[str, Any] = {}
    for seed in range(config.seeds):
      split = Split(config, data, seed, rate)
      key = jax.random.key(seed)
      if seed == 0:
        op, y = split.entries(tuning=True)
        tuned["biases"] = min(
          config.bias_ridges,
          key=lambda r: split.validation_error(baseline(op, y, single(r)), None),
        )
        ridge = single(tuned["biases"])
        for name, fit in methods.items():
          grid = config.etas if "SubGM" in name else config.ridges
          tuned[name] = min(
            grid, key=lambda s, fit=fit: split.validation_error(*fit(op, y, key, ridge, single(s)))
          )
        if config.lams:
          biases, path = soft(op, y, key, ridge)
          by_lam = [
            split.validation_error(biases, jax.tree.map(lambda f, i=i: f[i], path))
            for i in range(len(config.lams))
          ]
          tuned["softImpute"] = config.lams[int(np.argmin(by_lam))]
      op, y = split.entries(tuning=False)
      center = recovery.Biases(
        np.mean(y), np.zeros(data[3][0], np.float32), np.zeros(data[3][1], np.float32)
      )
      found["global mean"].append(split.test_error(center, None))
      found["biases"].append(split.test_error(baseline(op, y, ridge), None))
      found["biases, Huber"].append(split.test_error(robust(op, y, ridge), None))
      for name, fit in methods.items():
        found[name].append(split.test_error(*fit(op, y, key, ridge, single(tuned[name]))))
      if config.lams:
        biases, path = soft(op, y, key, ridge)
        i = config.lams.index(tuned["softImpute"])
        found["softImpute"].append(
          split.test_error(biases, jax.tree.map(lambda f, i=i: f[i], path))
        )
    for name in names:
      errors[name].append(found[name])
      if name in strengths:
        strengths[name].append(tuned[name])
  metrics = {"rmse": errors, "strengths": strengths, "ratings": data[2].size}
  return Outcome(metrics, _table(config, metrics), _claims(config, metrics))


def _mean(metrics: dict[str, Any], name: str) -> np.ndarray:
  """Mean error over the splits at each rate."""
  return np.asarray(metrics["rmse"][name], float).mean(axis=1)


def _table(config: Config, metrics: dict[str, Any]) -> list[Row]:
  where = "MovieLens-100k" if config.data == "movielens100k" else "synthetic ratings"
  biases = _mean(metrics, "biases")
  rows = []
  for i, rate in enumerate(config.rates):
    for name, errors in metrics["rmse"].items():
      rows.append(
        Row(
          name,
          f"test RMSE, {where}, {rate:.0%} of ratings turned",
          float(np.mean(errors[i])),
          baseline=float(biases[i]),
          baseline_name="biases alone",
          better="lower",
          spread=float(np.std(errors[i])),
          note="Random splits, not the files u1 to u5 of the data set." if i == 0 else "",
        )
      )
  return rows


def _claims(config: Config, metrics: dict[str, Any]) -> list[Claim]:
  mean = {name: _mean(metrics, name) for name in metrics["rmse"]}
  numbers = lambda *names: {f"{n}, {r:.0%}": float(mean[n][i]) for n in names
                            for i, r in enumerate(config.rates)}  # fmt: skip
  last = len(config.rates) - 1
  claims = [
    Claim(
      "Factors on top of biases lower the test error, and biases that of the mean.",
      bool(mean["ALS, PCG"][0] < mean["biases"][0] < mean["global mean"][0]),
      {n: float(mean[n][0]) for n in ("ALS, PCG", "biases", "global mean")},
    ),
    Claim(
      "Where ratings were turned, Huber's weights give a lower test error than least squares.",
      bool(mean["ALS, Huber"][last] < mean["ALS, PCG"][last]),
      numbers("ALS, Huber", "ALS, PCG"),
    ),
  ]
  if "l1 SubGM" in mean:
    claims.append(
      Claim(
        "At the largest share that is turned the gain of Huber's weights is that of the biases: "
        "the factors add less than 0.005. The sub-gradient method adds more, and is first there.",
        bool(
          abs(mean["ALS, Huber"][last] - mean["biases, Huber"][last]) < 5e-3
          and mean["l1 SubGM"][last] < min(mean[n][last] for n in mean if n != "l1 SubGM")
        ),
        numbers("biases, Huber", "l1 SubGM"),
      )
    )
  if "ALS, exact" in mean:
    claims.append(
      Claim(
        "Inexact half steps give the test error of exact ones, to 0.002.",
        bool(np.abs(mean["ALS, PCG"] - mean["ALS, exact"]).max() < 2e-3),
        numbers("ALS, PCG", "ALS, exact"),
      )
    )
  return claims


def figure(record: dict[str, Any]) -> Any:
  """Test error without corruption, and along growing corruption."""
  metrics, settings = record["metrics"], record["settings"]
  fig, axes = new_figure(1, 2, width=5.2)
  names = list(metrics["rmse"])
  clean = [np.asarray(metrics["rmse"][n][0], float) for n in names]
  axes[0].barh(names, [e.mean() for e in clean], xerr=[e.std() for e in clean], color="C0")
  axes[0].set_xlim(min(e.mean() for e in clean) - 0.03, clean[1].mean() + 0.03)
  axes[0].invert_yaxis()
  axes[0].set(xlabel="test RMSE", title="Clean ratings (the mean is off the scale)")
  for name in names[1:]:
    line = np.asarray(metrics["rmse"][name], float).mean(axis=1)
    axes[1].plot(settings["rates"], line, "o-", ms=4, label=name)
  axes[1].set(
    xlabel="share of training ratings turned", ylabel="test RMSE", title="Corrupted ratings"
  )
  axes[1].legend(fontsize=8)
  return fig
