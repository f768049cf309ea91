"""Ranked lists from a few items a query: SONG, K-SONG and listwise averages against plug-ins."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import _figures, _statistics
from experiments._claims import Claim, Side
from experiments._protocol import Paper, Progress, Row, Settings, Size, new_figure
from experiments._training import fit, schedule, stack, train_all
from experiments.compositional import _list_losses as known
from experiments.compositional import _ranking

PAPER = Paper(
  title="Large-scale stochastic optimization of NDCG surrogates for deep learning with provable "
  "convergence",
  authors="Qiu, Hu, Zhong, Zhang and Yang",
  year=2022,
  claim="With a few items a query, moving averages of ranks (SONG) reach a better NDCG than the "
  "same surrogate on the sampled items and than other ranking losses such as the listwise cross "
  "entropy (ListNet). A soft choice of the first k items (K-SONG) improves the NDCG at k, with a "
  "warm start by SONG and without the derivative of the choice.",
  section="Abstract and experiments (learning to rank, recommendation)",
  url="https://arxiv.org/abs/2202.12183",
)


@dataclasses.dataclass(frozen=True)
class Config(Settings):
  """Settings.

  Attributes:
    queries: training queries of the synthetic problem, whose lists all have the same items; half
      as many are for validation, and for test.
    items: items of the synthetic problem.
    features: features of a query and of an item there; scores are bilinear in them.
    grades: the grades of the best items of each list there; all others have grade 0.
    noise: standard deviation of the noise in the true scores there (theirs is 1), so that no model
      ranks all lists perfectly.
    parts: how many items of each list a step sees there, uniformly drawn.
    batch: queries a step.
    steps: optimizer steps.
    families: what is compared there; "K-SONG, corrected" sees the largest part only.
    rates: weights of the new value in the averages; the claims are about the first, 1 is the
      plug-in. They, the ks, and the settings of thresholds stood before this form of the claims,
      from looks at seeds 0 and 1.
    k: k of K-SONG.
    users: users of MovieLens, those with the most ratings; a user is a query.
    movies: movies of MovieLens, those with the most ratings.
    embedding: length of the embeddings of users and movies.
    movie_part: how many movies of each user's list a step sees.
    movie_batch: users a step.
    movie_steps: optimizer steps.
    movie_families: what is compared on MovieLens.
    movie_rates: as rates.
    movie_k: k of K-SONG in training. It counts the movies that the user rated in the training set
      too, which are left out in the test.
    learning_rates: initial step sizes of Adam, falling to 0 along a cosine. Each method has its
      best one: for the metric by that of validation lists, together with the checkpoint, and for an
      exact objective by its value on training lists after the draws of ``trials`` other runs.
    trials: runs on the synthetic problems of the first seeds that serve that choice alone.
    threshold_step: step size of the thresholds of K-SONG.
    smoothing: of the thresholds' problem.
    checkpoints: how often the scores are kept.
  """

  queries: int = 100
  items: int = 100
  features: int = 10
  grades: tuple[int, ...] = (4, 3, 3, 2, 2, 2, 1, 1, 1, 1)
  noise: float = 1.0
  parts: tuple[int, ...] = (5, 20)
  batch: int = 8
  steps: int = 2000
  families: tuple[str, ...] = known.ON_SYNTHETIC
  rates: tuple[float, ...] = (0.3, 1.0)
  k: int = 10
  users: int = 200
  movies: int = 300
  embedding: int = 8
  movie_part: int = 10
  movie_batch: int = 16
  movie_steps: int = 4000
  movie_families: tuple[str, ...] = known.ON_MOVIES
  movie_rates: tuple[float, ...] = (0.1, 1.0)
  movie_k: int = 100
  learning_rates: tuple[float, ...] = (0.001, 0.003, 0.01, 0.03, 0.1)
  trials: int = 2
  threshold_step: float = 0.1
  smoothing: float = 0.1
  checkpoints: int = 5

  def __post_init__(self) -> None:
    if set(self.families + self.movie_families) - {*known.ON_SYNTHETIC, *known.ON_MOVIES}:
      raise ValueError("families and movie_families must be known methods.")
    if self.rates[-1] != 1 or self.movie_rates[-1] != 1:
      raise ValueError("rates must end with 1, the plug-in.")


SIZES = {
  "toy": Size(
    Config(
      seeds=2, queries=20, items=30, features=4, grades=(2, 1, 1), parts=(5,), batch=4, steps=40,
      families=("NDCG of the part", "SONG"), movie_families=(), learning_rates=(0.03,), k=3,
      checkpoints=2,
    ),
    "SONG and its plug-ins on synthetic lists, 40 steps.",
  ),
  "desk": Size(
    Config(),
    "Synthetic lists with a bilinear model, MovieLens-100k with a factor model; the paper has "
    "MSLR-WEB30K, Yahoo, MovieLens-20M and Netflix with deep models.",
  ),
  "large": Size(
    Config(
      queries=400, items=100, parts=(5, 10, 20), steps=20000, users=943, movies=1000, embedding=32,
      movie_part=50, movie_steps=40000, movie_rates=(0.1, 0.3, 1.0),
    ),
    "Synthetic lists with a bilinear model, MovieLens-100k with a factor model.",
  ),
}  # fmt: skip


class Problem(NamedTuple):
  """One of the two problems, with its settings."""

  load: Callable[[int, Config, int], _ranking.Data]
  families: tuple[str, ...]
  parts: tuple[int, ...]
  rates: tuple[float, ...]
  k: int
  steps: int


def make_problems(config: Config) -> dict[str, Problem]:
  """Those that have methods to compare."""
  found = {
    "synthetic": Problem(_ranking.load_synthetic, config.families, config.parts, config.rates,
                         config.k, config.steps),
    "MovieLens": Problem(_ranking.load_movies, config.movie_families, (config.movie_part,),
                         config.movie_rates, config.movie_k, config.movie_steps),
  }  # fmt: skip
  return {name: problem for name, problem in found.items() if problem.families}


def make_trainer(family: str, problem: Problem, config: Config) -> Callable[..., jax.Array]:
  """``train(setting, data)``: scores of all lists, float[checkpoints, queries, items]."""

  def train(setting: dict[str, jax.Array], data: _ranking.Data) -> jax.Array:
    shape = data.lists["train"].where.shape
    init, loss = known.make_loss(family, problem.k, problem.steps, shape, config)
    factor = schedule("cosine", problem.steps)

    def objective(params: Any, state: Any, rows: Any) -> Any:
      return loss(known.look(family, params, data, rows, setting["part"]), state, setting["rate"])

    def evaluate(params: Any, _: Any) -> jax.Array:
      left, right, add_left, add_right = _ranking.factors(params, data.features)
      return left @ right.T + add_left[:, None] + add_right[None]

    rows = (jnp.arange(problem.steps), data.queries, data.items)
    rows = jax.tree.map(lambda x: x.reshape(config.checkpoints, -1, *x.shape[1:]), rows)
    optimizer = optax.adam(lambda count: setting["learning_rate"] * factor(count))
    return fit(objective, data.params, rows, optimizer, state=init(), evaluate=evaluate).history

  return train


def make_groups(family: str, problem: Problem, items: int) -> list[tuple[str, float, int]]:
  """Name, rate and part of each group of runs that only differ in the step size."""
  if family in known.WHOLE.values():
    return [(family, 1.0, items)]
  rates = problem.rates if family in known.AVERAGED else (1.0,)
  parts = problem.parts[-1:] if family.endswith("corrected") else problem.parts
  return [(label(family, rate), rate, part) for part in parts for rate in rates]


def label(family: str, rate: float) -> str:
  """The plug-in is the method whose average forgets everything."""
  if family not in known.AVERAGED:
    return family
  return f"{family}, plug-in" if rate == 1 else f"{family}, rate {rate:g}"


def run_problem(
  name: str, problem: Problem, config: Config, progress: Progress, choices: list[Any]
) -> dict[str, Any]:
  """part -> method -> metrics of the test lists and exact objectives of the training lists."""
  steps = config.learning_rates
  data = [problem.load(seed, config, 0) for seed in config.seed_numbers()]
  trials = config.seed_numbers()[: config.trials] if name == "synthetic" else []
  stacked, num = stack([*data, *(problem.load(seed, config, 1) for seed in trials)]), len(data)
  found: dict[str, Any] = {}

  def pick(title: str, value: np.ndarray, better: str) -> int:
    choices.append(_statistics.choose(f"step size of {title}", steps, value, better=better))
    return steps.index(choices[-1].chosen)

  for family in progress.track(problem.families, name):
    groups = make_groups(family, problem, data[0].lists["train"].where.shape[1])
    columns = zip(*((step, rate, part) for _, rate, part in groups for step in steps), strict=True)
    settings = dict(zip(("learning_rate", "rate", "part"), map(np.float32, columns), strict=True))
    trainer = make_trainer(family, problem, config)
    scores = train_all(progress, trainer, settings, stacked, name=f"{name}, {family}")
    scores = scores.reshape(len(scores), len(groups), len(steps), *scores.shape[2:])
    for i, (method, _, part) in enumerate(groups):
      place = "whole" if family in known.WHOLE.values() else str(part)
      at = lambda s, part, key: _ranking.over_seeds(s, data, part, key, problem.k)
      value = at(scores[:num, i], "val", _ranking.METRIC).mean(0)
      best = pick(f"{method}, {name}, {place}", value.max(1), "higher")
      kept = scores[:num, i, best, value[best].argmax()]
      entry = {_ranking.METRIC: at(kept, "test", _ranking.METRIC)}
      for key in known.EXACT.get(family, ()) if trials else ():
        score = at(scores[num:, i, :, -1], "train", key).mean(0)
        best = pick(f"{method}, {name}, {place}, exact {key}", score, "lower")
        entry[key] = at(scores[:num, i, best, -1], "train", key)
      found.setdefault(place, {})[method] = entry
  return found


def run(config: Config, progress: Progress) -> dict[str, Any]:
  """All families on the synthetic problem and on MovieLens, one program a family and problem."""
  choices: list[_statistics.Choice] = []
  metrics: dict[str, Any] = {"choices": choices}
  for name, problem in make_problems(config).items():
    metrics[name] = run_problem(name, problem, config, progress, choices)
  return metrics


def slow(family: str, problem: str, config: Config) -> str:
  """The method with the rate that the claims are about."""
  return label(family, (config.rates if problem == "synthetic" else config.movie_rates)[0])


def claims(metrics: dict[str, Any], config: Config) -> list[Claim]:
  """NDCG of test lists and exact objectives of training lists, as means over the parts."""
  made, part, list_net = [], "NDCG of the part", label("listwise", 1.0)
  for problem, key, family, base in (
    ("MovieLens", "NDCG@10", "SONG", list_net), ("MovieLens", "NDCG@10", "SONG", part),
    ("MovieLens", "NDCG@10", "SONG", label("SONG", 1.0)),
    ("MovieLens", "NDCG@10", "K-SONG, warm", "SONG"),
    ("MovieLens", "NDCG@10", "K-SONG, warm", "K-SONG"),
    ("synthetic", "NDCG@10", "SONG", list_net), ("synthetic", "ndcg", "SONG", part),
    ("synthetic", "at_k", "K-SONG", "SONG"), ("synthetic", "at_k", "K-SONG", "K-SONG, corrected"),
  ):  # fmt: skip
    names = [slow(family, problem, config), slow(base, problem, config)]
    entries = [v for v in metrics.get(problem, {}).values() if set(names) <= set(v)]
    if not entries:
      continue
    sides = [Side(n, np.mean([entry[n][key] for entry in entries], axis=0)) for n in names]
    name = f"{problem}_{key}_{names[0]}_{names[1]}".replace(", ", "_").replace(" ", "_")
    if key in known.WORDS:
      text = f"{problem}: {names[0]} ends lower in the exact {known.WORDS[key]} than {names[1]}."
      metric, better = f"exact {known.WORDS[key]}, training lists", "lower"
    else:
      text = f"{problem}: {names[0]} has a higher test {key} than {names[1]}."
      metric, better = f"test {key}", "higher"
    made.append(Claim(name, text, "paper", metric, *sides, better=better))
  return made


def table(metrics: dict[str, Any], config: Config) -> list[Row]:
  """SONG beside every other method; exact objectives beside training on whole lists."""
  rows = []
  for problem, found in metrics.items():
    song, whole = slow("SONG", problem, config), found.get("whole", {})
    for part, entries in ((p, e) for p, e in found.items() if p != "whole"):
      for name, entry in entries.items():
        if name != song:
          sides = [Side(n, entries[n]["NDCG@10"]) for n in (song, name)]
          rows.append(Row(f"test NDCG@10, {problem}, {part} items of a list", *sides))
        for key in (k for k in known.WORDS if k in entry):
          base = whole.get(known.WHOLE[key])
          base = base and Side(known.WHOLE[key], base[key])
          metric = f"exact {known.WORDS[key]}, training lists, {part} items of a list"
          rows.append(Row(metric, Side(name, entry[key]), base, "lower"))
  return rows


def figure(record: dict[str, Any]) -> Any:
  """Exact objectives by part of the lists, and NDCG@10 of test lists on both problems."""
  fig, axes = new_figure(1, 3, width=5.0, height=4.0)
  found = record["metrics"]["synthetic"]
  parts = ((key, part) for key in ("ndcg", "at_k") for part in found)
  of = lambda key, part: {n: v[key] for n, v in found[part].items() if key in v}
  exact = {f"{known.WORDS[key]}, {part}": of(key, part) for key, part in parts if of(key, part)}
  _figures.dots(axes[0], exact, ylabel="exact objective", title="Synthetic training lists")
  for ax, problem in zip(axes[1:], ("synthetic", "MovieLens"), strict=True):
    entries = record["metrics"].get(problem, {}).items()
    groups = {part: {n: v["NDCG@10"] for n, v in e.items()} for part, e in entries}
    _figures.dots(ax, groups, ylabel="test NDCG@10", title=f"{problem}, by items of a step")
  return fig
