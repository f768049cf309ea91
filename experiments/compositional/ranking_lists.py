"""Ranked lists from a few items a query: SONG, K-SONG and listwise averages against plug-ins."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import datasets
from experiments._earlier import Claim, Outcome, Row
from experiments._protocol import Paper, Progress, new_figure
from experiments._training import stack, train_all
from jaxopt_robust import compositional, losses

PAPER = Paper(
  title="Large-scale stochastic optimization of NDCG surrogates for deep learning with provable "
  "convergence",
  authors="Qiu, Hu, Zhong, Zhang and Yang",
  year=2022,
  claim="With a few items a query, moving averages of ranks (SONG) reach a better NDCG than the "
  "same surrogate on the sampled items and than the listwise cross entropy (ListNet); a soft "
  "choice of the first k items (K-SONG) improves NDCG at k. At our scale the first holds, on the "
  "training objective and on held-out ratings; the second on the training objective only.",
  section="Experiments (learning to rank, recommendation)",
  url="https://arxiv.org/abs/2202.12183",
)

# On whole lists, the three objectives: references, where their cost is bearable.
WHOLE = {
  "ndcg": "NDCG, whole lists",
  "listwise": "listwise, whole lists",
  "at_k": "NDCG@k, whole lists",
}
STATELESS = ("squared error", "cross entropy", "NDCG of the part")
# With averages; they run with every rate. With rate 1 they are plug-ins: SONG with the batch's
# ranks scaled to whole lists, listwise with the batch's own cross entropy, which is ListNet.
AVERAGED = ("listwise", "SONG", "K-SONG", "K-SONG, warm", "K-SONG, corrected")
FAMILIES = (*WHOLE.values(), *STATELESS, *AVERAGED)
METRICS: dict[str, int | None] = {"NDCG@5": 5, "NDCG@10": 10, "NDCG": None}


@dataclasses.dataclass(frozen=True)
class Config:
  """Settings.

  Attributes:
    seeds: number of random problems, or splits of the ratings, with initial weights and batches.
    first_seed: the first of them. Seeds 0 and 1 served to choose k, the grids and the steps; on
      seeds 5 to 9 the first claims held in the mean, but five comparisons (mostly with squared
      error) by less than two standard errors; they were weakened before these seeds were run, and
      the one about squared error once more after it.
    queries: queries of the synthetic problem, whose lists all have the same items.
    items: items of the synthetic problem.
    features: features of a query and of an item there; scores are bilinear in them.
    grades: the grades of the best items of each list there; all others have grade 0.
    noise: standard deviation of the noise in the true scores there (theirs is 1), so that no model
      ranks all lists perfectly.
    parts: how many items of each list a step sees there, uniformly drawn.
    batch: queries a step.
    steps: optimizer steps.
    families: what is compared there.
    users: users of MovieLens, those with the most ratings; a user is a query.
    movies: movies of MovieLens, those with the most ratings.
    embedding: length of the embeddings of users and movies.
    movie_part: how many movies of each user's list a step sees.
    movie_batch: users a step.
    movie_steps: optimizer steps.
    movie_families: what is compared on MovieLens; "SONG" and "listwise" among them, or nothing.
    movie_k: k of K-SONG in training on MovieLens. It counts the movies that the user rated in the
      training set too, which are left out in the test; with 10 and 50 the test results are lower
      than with 100.
    learning_rates: initial step sizes of Adam for all methods, synthetic problem.
    movie_learning_rates: the same on MovieLens.
    rates: weights of the new value in the averages; 1 is the plug-in and must be among them. The
      claims are about the smallest.
    movie_rates: the same on MovieLens.
    k: k of K-SONG, synthetic problem.
    threshold_step: step size of the thresholds of K-SONG.
    smoothing: of the thresholds' problem.
    checkpoints: how often the scores are kept; the validation set chooses one of them.
  """

  seeds: int = 5
  first_seed: int = 10
  queries: int = 100
  items: int = 100
  features: int = 10
  grades: tuple[int, ...] = (4, 3, 3, 2, 2, 2, 1, 1, 1, 1)
  noise: float = 1.0
  parts: tuple[int, ...] = (5, 10, 20)
  batch: int = 8
  steps: int = 3000
  families: tuple[str, ...] = (
    *WHOLE.values(), *STATELESS, "listwise", "SONG", "K-SONG", "K-SONG, corrected",
  )  # fmt: skip
  users: int = 200
  movies: int = 300
  embedding: int = 8
  movie_part: int = 10
  movie_batch: int = 16
  movie_steps: int = 8000
  movie_families: tuple[str, ...] = (*STATELESS, "listwise", "SONG", "K-SONG", "K-SONG, warm")
  movie_k: int = 100
  learning_rates: tuple[float, ...] = (0.003, 0.01, 0.03)
  movie_learning_rates: tuple[float, ...] = (0.003, 0.01, 0.03, 0.1)
  rates: tuple[float, ...] = (0.3, 1.0)
  movie_rates: tuple[float, ...] = (0.1, 0.3, 1.0)
  k: int = 10
  threshold_step: float = 0.1
  smoothing: float = 0.1
  checkpoints: int = 10

  def __post_init__(self) -> None:
    if set(self.families + self.movie_families) - set(FAMILIES):
      raise ValueError(f"families must be among {', '.join(FAMILIES)}; got {self.families} and "
                       f"{self.movie_families}.")  # fmt: skip
    if not {WHOLE["ndcg"], "NDCG of the part", "SONG"} <= set(self.families):
      raise ValueError(
        f"families must hold {WHOLE['ndcg']!r}, 'NDCG of the part' and 'SONG'; got {self.families}."
      )
    for family, own in OWN.items():
      if family in self.families and WHOLE[own] not in self.families:
        raise ValueError(f"families with {family!r} must hold {WHOLE[own]!r}; got {self.families}.")
    if self.movie_families and not {"SONG", "listwise"} <= set(self.movie_families):
      raise ValueError(
        f"movie_families must hold 'SONG' and 'listwise' or be empty; got {self.movie_families}."
      )
    for rates in (self.rates, self.movie_rates):
      if 1.0 not in rates or len(rates) < 2:
        raise ValueError(f"rates must hold 1.0 and a smaller one; got {rates}.")
    if self.steps % self.checkpoints or self.movie_steps % self.checkpoints:
      raise ValueError(f"checkpoints must divide the steps; got {self.checkpoints}.")


# Whose objective a method minimises; the pointwise losses have none that is a ranking's.
OWN = {
  "NDCG of the part": "ndcg",
  "SONG": "ndcg",
  "listwise": "listwise",
  "K-SONG": "at_k",
  "K-SONG, corrected": "at_k",
}
SIZES = {
  "toy": Config(
    seeds=1,
    queries=20,
    items=30,
    features=4,
    grades=(2, 1, 1),
    parts=(5,),
    batch=4,
    steps=40,
    families=(WHOLE["ndcg"], "NDCG of the part", "SONG"),
    movie_families=(),
    learning_rates=(0.01, 0.03),
    k=3,
    checkpoints=2,
  ),
  "desk": Config(),
  "large": Config(
    seeds=10, steps=20000, users=943, movies=1000, embedding=32, movie_part=50, movie_steps=40000
  ),
}


class Setting(NamedTuple):
  """One run: initial step size, weight of the new value in the averages, items of a list seen."""

  learning_rate: jax.Array
  rate: jax.Array
  size: jax.Array


class Lists(NamedTuple):
  """Grades of all lists, int[queries, items], and which items are in them."""

  relevance: jax.Array
  where: jax.Array


class Data(NamedTuple):
  """One problem.

  Attributes:
    params: initial weights.
    features: of queries and items, or () where every query and item has an embedding.
    train: int[queries, items], grades of the training lists, which hold all items.
    num_relevant: float[queries], relevant items of each training list.
    ideal: float[queries, 2], the largest sum of gains over discounts, whole and at k.
    validation: lists to choose by.
    test: lists to report.
    queries: int[steps, batch], the queries of each step.
    items: int[steps, batch, part], the items of their lists that the step sees.
  """

  params: Any
  features: Any
  train: jax.Array
  num_relevant: jax.Array
  ideal: jax.Array
  validation: Lists
  test: Lists
  queries: jax.Array
  items: jax.Array


class Batch(NamedTuple):
  """What a loss sees in one step; the last three fields belong to the whole lists."""

  scores: jax.Array
  relevance: jax.Array
  where: jax.Array
  index: tuple[jax.Array, jax.Array]
  step: jax.Array
  num_relevant: jax.Array
  ideal: jax.Array


def _pack(params: Any, features: Any, train: Any, lists: Any, k: int, draws: Any) -> Data:
  as_float = lambda tree: jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), tree)
  best = -np.sort(1 - np.exp2(train), axis=1) / np.log2(2 + np.arange(train.shape[1]))
  return Data(
    as_float(params),
    as_float(features),
    jnp.asarray(train, jnp.int32),
    as_float((train > 0).sum(1)),
    as_float(np.stack([best.sum(1), best[:, :k].sum(1)], axis=1)),
    *(Lists(jnp.asarray(r, jnp.int32), jnp.asarray(where)) for r, where in lists),
    *draws,
  )


def _draw(
  rng: np.random.Generator, shape: tuple[int, int], steps: int, batch: int, part: int
) -> Any:
  """Distinct queries for each step, and for each of them distinct items."""
  queries = [rng.permutation(shape[0])[:batch] for _ in range(steps)]
  noise = lambda: rng.random((batch, shape[1]), np.float32)
  items = [np.argpartition(noise(), part - 1, axis=1)[:, :part] for _ in range(steps)]
  return jnp.asarray(np.stack(queries), jnp.int32), jnp.asarray(np.stack(items), jnp.int32)


def load_synthetic(seed: int, config: Config) -> Data:
  """A bilinear ranking of the items for each query, with noise; all lists are training lists."""
  rng = np.random.default_rng(seed)
  size = config.features
  query, item = (rng.normal(size=(num, size)) for num in (config.queries, config.items))
  scores = query @ rng.normal(size=(size, size)) @ item.T
  scores = scores / scores.std() + config.noise * rng.normal(size=scores.shape)
  train = np.zeros(scores.shape, int)
  best = np.argsort(-scores, axis=1)[:, : len(config.grades)]
  np.put_along_axis(train, best, np.array(config.grades)[None], axis=1)
  params = {"weights": 0.01 * rng.normal(size=(size, size)), "offset": np.zeros(())}
  draws = _draw(rng, train.shape, config.steps, config.batch, max(config.parts))
  every = (train, np.ones(train.shape, bool))
  return _pack(params, (query, item), train, (every, every), config.k, draws)


def load_movies(seed: int, config: Config) -> Data:
  """Grades are ratings, 0 without one. Three fifths of the ratings train, a quarter test.

  In training, movies whose rating is held out have grade 0, as those without a rating. Lists for
  validation and test leave out the movies whose rating is in another part.
  """
  table = datasets.load("movielens100k")
  ratings = np.zeros((table["user"].max() + 1, table["item"].max() + 1), int)
  ratings[table["user"], table["item"]] = table["rating"]
  most = lambda axis, num: np.argsort(-(ratings > 0).sum(axis), kind="stable")[:num]
  ratings = ratings[:, most(0, config.movies)]
  ratings = ratings[most(1, config.users)]
  rng = np.random.default_rng(seed)
  draw = rng.random(ratings.shape)
  parts = [draw < 0.6, (draw >= 0.6) & (draw < 0.75), draw >= 0.75]
  train, *held = (np.where(part, ratings, 0) for part in parts)
  lists = [(r, (ratings == 0) | (r > 0)) for r in held]
  users, movies = ratings.shape
  params = {
    "user": 0.1 * rng.normal(size=(users, config.embedding)),
    "movie": 0.1 * rng.normal(size=(movies, config.embedding)),
    "user_bias": np.zeros(users),
    "movie_bias": np.zeros(movies),
  }
  draws = _draw(rng, train.shape, config.movie_steps, config.movie_batch, config.movie_part)
  return _pack(params, (), train, lists, config.movie_k, draws)


def _factors(params: Any, features: Any) -> tuple[jax.Array, ...]:
  """Rows of queries and items, whose products are the scores, and what is added to them."""
  if not features:
    return params["user"], params["movie"], params["user_bias"], params["movie_bias"]
  query, item = features
  offset = jnp.broadcast_to(params["offset"], query.shape[:1])
  return query @ params["weights"], item, offset, jnp.zeros(item.shape[:1])


def make_loss(
  family: str, k: int, shape: tuple[int, int], steps: int, config: Config
) -> tuple[Callable[..., Any], Callable[..., Any]]:
  """``(init(), loss(batch, state, setting) -> (value, state))``."""

  def stateless(fun: Callable[[Batch], jax.Array]) -> Any:
    return lambda: (), lambda batch, state, setting: (fun(batch), state)

  def pointwise(fun: Callable[..., jax.Array]) -> Any:
    floats = lambda b: b.relevance.astype(b.scores.dtype)
    return stateless(lambda b: jnp.mean(fun(b.scores, floats(b)), where=b.where))

  def of_lists(fun: Callable[..., jax.Array], **hyper: Any) -> Any:
    def mean(b: Batch) -> jax.Array:
      has_any = jnp.any(b.where & (b.relevance > 0), axis=1)
      each = fun(b.scores, b.relevance, where=b.where, **hyper)  # 0 without a relevant item
      return jnp.sum(each) / jnp.maximum(jnp.sum(has_any), 1)

    return stateless(mean)

  def visit(loss: Callable[..., Any], b: Batch, state: Any, setting: Setting, **hyper: Any) -> Any:
    value, (state, _) = loss(
      b.scores, b.relevance, b.index, state, rate=setting.rate, where=b.where, **hyper
    )
    return value, state

  def listwise(b: Batch, state: Any, setting: Setting) -> Any:
    return visit(compositional.song_listwise_loss, b, state, setting)

  def song(b: Batch, state: Any, setting: Setting) -> Any:
    whole = {"num_relevant": b.num_relevant, "ideal_dcg": b.ideal[:, 0]}
    return visit(compositional.song_loss, b, state, setting, **whole)

  def k_song(b: Batch, state: Any, setting: Setting) -> Any:
    hyper = {"step_size": config.threshold_step, "smoothing": config.smoothing, "k": k}
    whole = {"num_relevant": b.num_relevant, "ideal_dcg": b.ideal[:, 1]}
    correction = "hessian" if family.endswith("corrected") else "none"
    hyper |= {"correction": correction, "curvature_rate": 0.1}
    return visit(compositional.k_song_loss, b, state, setting, **hyper, **whole)

  def warm(b: Batch, state: Any, setting: Setting) -> Any:
    """SONG in the first half of the steps, while the thresholds settle."""
    ranks = lambda: song(b, compositional.SongState(state.average, state.seen), setting)[0]
    both = lambda: (ranks(), k_song(b, state, setting)[1])
    return jax.lax.cond(b.step < steps // 2, both, lambda: k_song(b, state, setting))

  if family.startswith("K-SONG"):
    visits = warm if family.endswith("warm") else k_song
    return lambda: compositional.k_song_init(*shape), visits
  binary = lambda s, y: optax.sigmoid_binary_cross_entropy(s, jnp.minimum(y, 1))
  return {
    WHOLE["ndcg"]: of_lists(losses.ndcg_loss),
    WHOLE["listwise"]: of_lists(losses.listwise_cross_entropy_loss),
    WHOLE["at_k"]: of_lists(losses.ndcg_at_k_loss, k=k),
    "NDCG of the part": of_lists(losses.ndcg_loss),
    "squared error": pointwise(lambda s, y: (s - y) ** 2),
    "cross entropy": pointwise(binary),
    "listwise": (lambda: compositional.song_listwise_init(*shape), listwise),
    "SONG": (lambda: compositional.song_init(*shape), song),
  }[family]


def make_trainer(family: str, k: int, config: Config) -> Callable[[Setting, Data], jax.Array]:
  """``train(setting, data)``: scores of all lists, float[checkpoints, queries, items]."""

  def train(setting: Setting, data: Data) -> jax.Array:
    num_queries, num_items = data.train.shape
    steps = data.queries.shape[0]
    init, loss = make_loss(family, k, (num_queries, num_items), steps, config)
    decay = optax.cosine_decay_schedule(1.0, steps)
    optimizer = optax.adam(lambda count: setting.learning_rate * decay(count))

    def step(carry: Any, inputs: Any) -> tuple[Any, None]:
      params, opt_state, state = carry
      number, query, item = inputs
      if family in WHOLE.values():
        item = jnp.broadcast_to(jnp.arange(num_items)[None], (query.shape[0], num_items))
      seen = jnp.arange(item.shape[1]) < setting.size
      where = jnp.broadcast_to(seen[None], item.shape)

      def objective(params: Any) -> Any:
        left, right, add_left, add_right = _factors(params, data.features)
        scores = jnp.einsum("qd,qid->qi", left[query], right[item])
        scores = scores + add_left[query][:, None] + add_right[item]
        of_query = (data.num_relevant[query], data.ideal[query])
        relevance = data.train[query[:, None], item]
        batch = Batch(scores, relevance, where, (query, item), number, *of_query)
        return loss(batch, state, setting)

      grads, state = jax.grad(objective, has_aux=True)(params)
      updates, opt_state = optimizer.update(grads, opt_state, params)
      return (optax.apply_updates(params, updates), opt_state, state), None

    def until_checkpoint(carry: Any, inputs: Any) -> tuple[Any, jax.Array]:
      carry, _ = jax.lax.scan(step, carry, inputs)
      left, right, add_left, add_right = _factors(carry[0], data.features)
      return carry, left @ right.T + add_left[:, None] + add_right[None]

    inputs = (jnp.arange(steps), data.queries, data.items)
    split = lambda x: x.reshape(config.checkpoints, -1, *x.shape[1:])
    carry = (data.params, optimizer.init(data.params), init())
    return jax.lax.scan(until_checkpoint, carry, jax.tree.map(split, inputs))[1]

  return train


@functools.partial(jax.jit, static_argnums=2)
def objectives(scores: jax.Array, relevance: jax.Array, k: int) -> dict[str, jax.Array]:
  """The three objectives, exact; scores float[seeds, runs, queries, items]."""

  def of_seed(scores: jax.Array, relevance: jax.Array) -> dict[str, jax.Array]:
    return jax.lax.map(
      lambda s: {
        "ndcg": jnp.mean(losses.ndcg_loss(s, relevance)),
        "listwise": jnp.mean(losses.listwise_cross_entropy_loss(s, relevance)),
        "at_k": jnp.mean(losses.ndcg_at_k_loss(s, relevance, k=k)),
      },
      scores,
    )

  return jax.lax.map(lambda pair: of_seed(*pair), (scores, relevance))


@functools.partial(jax.jit, static_argnums=2)
def measure(scores: jax.Array, lists: Lists, ks: tuple[int | None, ...]) -> list[jax.Array]:
  """NDCG at each k; scores float[seeds, runs, queries, items]."""

  def of_seed(scores: jax.Array, lists: Lists) -> list[jax.Array]:
    ndcg = lambda s, k: jnp.mean(losses.ndcg(s, lists.relevance, k=k, where=lists.where))
    return jax.lax.map(lambda s: [ndcg(s, k) for k in ks], scores)

  return jax.lax.map(lambda pair: of_seed(*pair), (scores, lists))


def _measure(scores: np.ndarray, lists: Lists, names: tuple[str, ...]) -> dict[str, np.ndarray]:
  """Metrics by name, with any number of axes between the seeds and the lists."""
  flat = scores.reshape(scores.shape[0], -1, *scores.shape[-2:])
  values = measure(flat, lists, tuple(METRICS[n] for n in names))
  return {n: np.asarray(v).reshape(scores.shape[:-2]) for n, v in zip(names, values, strict=True)}


def name(family: str, rate: float) -> str:
  """The plug-in is the method whose average forgets everything."""
  if family not in AVERAGED:
    return family
  return f"{family}, plug-in" if rate == 1 else f"{family}, rate {rate:g}"


def _groups(
  family: str, parts: tuple[int, ...], rates: tuple[float, ...], items: int
) -> list[tuple[str, float, int]]:
  """Name, rate and part of each group of runs that only differ in the step size."""
  if family in WHOLE.values():
    return [(family, 1.0, items)]
  if family not in AVERAGED:
    rates = (1.0,)
  if family.endswith("corrected"):
    parts = parts[-1:]
  return [(name(family, rate), rate, part) for part in parts for rate in rates]


def _train(
  train: Any, groups: Any, learning_rates: Any, data: Data, progress: Progress, title: str
) -> np.ndarray:
  """Scores, float[seeds, groups, step sizes, checkpoints, queries, items]."""
  grid = [(step, rate, part) for _, rate, part in groups for step in learning_rates]
  setting = Setting(*(jnp.asarray(column, jnp.float32) for column in zip(*grid, strict=True)))
  scores = train_all(progress, train, setting, data, name=title)
  return scores.reshape(scores.shape[0], len(groups), len(learning_rates), *scores.shape[2:])


def _seeds(config: Config) -> range:
  return range(config.first_seed, config.first_seed + config.seeds)


def run_synthetic(config: Config, progress: Progress) -> dict[str, Any]:
  """part -> method -> exact objectives and metrics of the training lists."""
  data = stack([load_synthetic(seed, config) for seed in _seeds(config)])
  found: dict[str, Any] = {}
  families = [family for family in FAMILIES if family in config.families]  # whole lists first
  for family in progress.track(families, "synthetic"):
    own = OWN.get(family)
    groups = _groups(family, config.parts, config.rates, config.items)
    train = make_trainer(family, config.k, config)
    scores = _train(train, groups, config.learning_rates, data, progress, f"{family}, synthetic")
    for i, (method, _, part) in enumerate(groups):
      values = objectives(scores[:, i, :, -1], data.train, config.k)
      values = {key: np.asarray(value) for key, value in values.items()}
      best = {key: int(np.argmin(value.mean(0))) for key, value in values.items()}
      entry = {key: value[:, best[key]] for key, value in values.items()}
      for key, value in _measure(scores[:, i, :, -1], data.test, tuple(METRICS)).items():
        entry[key] = value[:, int(np.argmax(value.mean(0)))]
      if own:
        entry["learning_rate"] = config.learning_rates[best[own]]
        entry["path"] = np.asarray(objectives(scores[:, i, best[own]], data.train, config.k)[own])
      for key in values:
        if family not in WHOLE.values() and WHOLE[key] in config.families:
          entry[f"excess_{key}"] = entry[key] - found["whole"][WHOLE[key]][key]
      found.setdefault("whole" if family in WHOLE.values() else str(part), {})[method] = entry
  return found


def run_movies(config: Config, progress: Progress) -> dict[str, Any]:
  """method -> metrics of the test lists at the step size and checkpoint that validation chooses."""
  data = stack([load_movies(seed, config) for seed in _seeds(config)])
  found: dict[str, Any] = {}
  for family in progress.track(config.movie_families, "MovieLens"):
    groups = _groups(family, (config.movie_part,), config.movie_rates, config.movies)
    train = make_trainer(family, config.movie_k, config)
    steps = config.movie_learning_rates
    scores = _train(train, groups, steps, data, progress, f"{family}, MovieLens")
    for i, (method, _, _) in enumerate(groups):
      value = _measure(scores[:, i], data.validation, ("NDCG@10",))["NDCG@10"].mean(0)
      step, checkpoint = np.unravel_index(np.argmax(value), value.shape)
      found[method] = _measure(scores[:, i, step, checkpoint], data.test, tuple(METRICS)) | {
        "learning_rate": steps[step],
        "checkpoint": int(checkpoint) + 1,
        "validation": value.max(),
      }
  return found


def run(config: Config, progress: Progress) -> Outcome:
  """All families on the synthetic problem and on MovieLens, one program a family and problem."""
  metrics = {"synthetic": run_synthetic(config, progress)}
  if config.movie_families:
    metrics["MovieLens"] = run_movies(config, progress)
  return Outcome(metrics, _table(metrics, config), _claims(metrics, config))


def _ahead(ours: Any, base: Any) -> tuple[float, float]:
  """Mean difference over the seeds, and its standard error."""
  difference = np.asarray(ours) - np.asarray(base)
  size = len(difference)
  error = difference.std(ddof=1) / size**0.5 if size > 1 else 0.0
  return float(difference.mean()), float(error)


def _beats(text: str, found: dict[str, Any], pairs: Any, key: str, sign: int) -> Claim:
  """All first methods are ahead of the second by two standard errors of the difference.

  ``found`` is part -> method -> entry; ``sign`` is -1 where lower is better.
  """
  numbers, holds = {}, []
  for part, entries in found.items():
    for ours, base in pairs:
      if {ours, base} <= set(entries):
        mean, error = _ahead(entries[ours][key], entries[base][key])
        numbers[f"{part}: {ours} - {base}"] = mean
        numbers[f"{part}: standard error of {ours} - {base}"] = error
        holds.append(sign * mean > 2 * error)
  return Claim(f"{text}, by two standard errors of the difference.", all(holds), numbers)


def _table(metrics: dict[str, Any], config: Config) -> list[Row]:
  rate, rows = min(config.rates), []
  pairs = [(name("SONG", rate), "NDCG of the part", "ndcg")]
  pairs += [(name(f, rate), name(f, 1.0), OWN[f]) for f in ("SONG", "listwise", "K-SONG")]
  pairs.append((name("K-SONG", rate), name("SONG", rate), "at_k"))
  words = {"ndcg": "NDCG loss", "listwise": "listwise cross entropy", "at_k": "NDCG@k loss"}
  for part in map(str, config.parts):
    entries = metrics["synthetic"][part]
    rows += [
      Row(
        method=ours,
        metric=f"exact {words[key]} above that with whole lists, {part} of {config.items} items",
        ours=float(np.mean(entries[ours][f"excess_{key}"])),
        baseline=float(np.mean(entries[base][f"excess_{key}"])),
        baseline_name=base,
        better="lower",
        spread=float(np.std(entries[ours][f"excess_{key}"])),
        note="Synthetic lists.",
      )
      for ours, base, key in pairs
      if ours in entries and f"excess_{key}" in entries[ours]
    ]
  base, song = name("listwise", 1.0), name("SONG", min(config.movie_rates))
  rows += [
    Row(
      method=ours,
      metric=f"test {key}, MovieLens-100k, {config.movie_part} of {config.movies} movies a step",
      ours=float(np.mean(entry[key])),
      baseline=float(np.mean(metrics["MovieLens"][base][key])),
      baseline_name=f"{base} (ListNet)",
      spread=float(np.std(entry[key])),
      note="Small factor model; the paper has MovieLens-20M, Netflix and a deep model.",
    )
    for key in METRICS
    for ours, entry in metrics.get("MovieLens", {}).items()
    if ours != base and (key == "NDCG@10" or ours in ("squared error", song))
  ]
  return rows


def _claims(metrics: dict[str, Any], config: Config) -> list[Claim]:
  claims = _claims_synthetic(metrics["synthetic"], config)
  return claims + (_claims_movies(metrics["MovieLens"], config) if config.movie_families else [])


def _claims_synthetic(found: dict[str, Any], config: Config) -> list[Claim]:
  rate, last = min(config.rates), str(config.parts[-1])
  song, listwise, k_song = (name(f, rate) for f in ("SONG", "listwise", "K-SONG"))
  every = {f"{part} items": found[str(part)] for part in config.parts}
  larger = {key: every[key] for key in list(every)[1:]}
  base = ("NDCG of the part", name("SONG", 1.0))
  claims = [
    _beats(
      f"Synthetic lists: with all but the smallest part, {song} ends lower in the exact NDCG loss "
      "of the whole lists than with that loss on the part and than SONG with the batch's ranks",
      larger,
      [(song, other) for other in base],
      "ndcg",
      -1,
    ),
    _beats(
      f"Synthetic lists: for each size of the part, {song} has a higher NDCG@10 on the lists than "
      "cross entropy, the NDCG of the part and the listwise cross entropies",
      every,
      [(song, other) for other in (*STATELESS[1:], listwise, name("listwise", 1.0))],
      "NDCG@10",
      1,
    ),
    _beats(
      f"Synthetic lists: with all but the smallest part, {song} has a higher NDCG@10 than squared "
      "error",
      larger,
      [(song, STATELESS[0])],
      "NDCG@10",
      1,
    ),
  ]
  if "listwise" in config.families:
    both = (listwise, name("listwise", 1.0))
    numbers = {
      f"{part}, {method}": float(np.mean(entries[method]["excess_listwise"]))
      for part, entries in every.items()
      for method in both
    }
    claims.append(
      Claim(
        f"Synthetic lists: for each size of the part, {listwise} leaves at most three fifths of "
        "the excess of ListNet on the part (the plug-in) in the exact listwise cross entropy.",
        all(numbers[f"{p}, {both[0]}"] <= 0.6 * numbers[f"{p}, {both[1]}"] for p in every),
        numbers,
      )
    )
  if "K-SONG" in config.families:
    claims.append(
      _beats(
        f"Synthetic lists, {last} items: {k_song} ends lower in the exact NDCG@k loss than {song} "
        "and than K-SONG with the batch's ranks",
        {f"{last} items": found[last]},
        [(k_song, song), (k_song, name("K-SONG", 1.0))],
        "at_k",
        -1,
      )
    )
  if "K-SONG, corrected" in config.families:
    families = ("K-SONG, corrected", "K-SONG")
    numbers = {f: float(np.mean(found[last][name(f, rate)]["at_k"])) for f in families}
    claims.append(
      Claim(
        "What does not help here: with the gradient of the choice (corrected) K-SONG does not end "
        "lower in the exact NDCG@k loss than with the choice held fixed.",
        numbers["K-SONG, corrected"] >= numbers["K-SONG"],
        numbers,
      )
    )
  return claims


def _claims_movies(found: dict[str, Any], config: Config) -> list[Claim]:
  rate, tests = min(config.movie_rates), {"test": found}
  song, listwise = name("SONG", rate), name("listwise", rate)
  others = (*STATELESS[1:], name("SONG", 1.0), name("listwise", 1.0))
  claims = [
    _beats(
      f"MovieLens: {song} has a higher test {key} than cross entropy, the NDCG of the part, SONG "
      "with the batch's ranks and ListNet on the part (the listwise plug-in)",
      tests,
      [(song, other) for other in others],
      key,
      1,
    )
    for key in METRICS
  ]
  means = {
    f"{key}: {song} - {listwise}": _ahead(found[song][key], found[listwise][key])[0]
    for key in METRICS
  }
  claims.append(
    Claim(
      f"MovieLens: {song} is ahead of {listwise} in the mean of each metric.",
      min(means.values()) > 0,
      means,
    )
  )
  if STATELESS[0] in found:
    lead = {key: _ahead(found[song][key], found[STATELESS[0]][key]) for key in METRICS}
    claims.append(
      Claim(
        f"What does not hold: on MovieLens {song} is not ahead of squared error, by two standard "
        "errors, in any metric.",
        all(mean <= 2 * error for mean, error in lead.values()),
        {f"{key}: {song} - squared error": mean for key, (mean, _) in lead.items()}
        | {f"{key}: standard error": error for key, (_, error) in lead.items()},
      )
    )
  text = f"MovieLens: {listwise} has a higher test NDCG@10 than ListNet on the part (the plug-in)"
  claims.append(_beats(text, tests, [(listwise, name("listwise", 1.0))], "NDCG@10", 1))
  if {"K-SONG", "K-SONG, warm"} <= set(config.movie_families):
    numbers = {
      m: float(np.mean(e["NDCG@10"])) for m, e in found.items() if m.startswith(("K-SONG", song))
    }
    warm, cold = (numbers[name(family, rate)] for family in ("K-SONG, warm", "K-SONG"))
    claims += [
      Claim(
        "MovieLens: K-SONG needs the warm start with SONG (at least 0.01 of test NDCG@10).",
        warm - cold >= 0.01,
        {"warm": warm, "cold": cold},
      ),
      Claim(
        f"What does not carry over: on MovieLens no K-SONG is ahead of {song} in test NDCG@10.",
        max(numbers.values()) == numbers[song],
        numbers,
      ),
    ]
  return claims


def figure(record: dict[str, Any]) -> Any:
  """Excess over steps, excess by part for the three objectives, and NDCG@10 on both problems."""
  metrics, settings = record["metrics"], record["settings"]
  found, rate = metrics["synthetic"], min(settings["rates"])
  parts = [str(part) for part in settings["parts"]]
  song, listwise, k_song = (name(f, rate) for f in ("SONG", "listwise", "K-SONG"))
  fig, axes = new_figure(2, 3)
  steps = np.linspace(0, settings["steps"], settings["checkpoints"] + 1)[1:]
  best = np.array(found["whole"][WHOLE["ndcg"]]["ndcg"])[:, None]
  for i, part in enumerate(dict.fromkeys((parts[0], parts[-1]))):
    for method, style in ((song, "-"), (name("SONG", 1.0), ":"), ("NDCG of the part", "--")):
      path = (np.array(found[part][method]["path"]) - best).mean(0)
      axes[0].plot(steps, path, style, color=f"C{3 + i}", label=f"{part} items: {method}")
  axes[0].set(xlabel="step", ylabel="excess over whole lists", title="Exact NDCG loss")
  axes[0].set_ylim(0, 1.5 * axes[0].get_ylim()[1])
  axes[0].legend(fontsize="x-small", loc="upper right")
  panels = (
    ("ndcg", "Exact NDCG loss, last step", (song, name("SONG", 1.0), "NDCG of the part")),
    ("listwise", "Exact listwise cross entropy", (listwise, name("listwise", 1.0))),
    ("at_k", "Exact NDCG@k loss", (k_song, name("K-SONG", 1.0), song,
                                   name("K-SONG, corrected", rate))),
  )  # fmt: skip
  for ax, (key, title, methods) in zip(axes[1:4], panels, strict=True):
    for i, method in enumerate(methods):
      used = [p for p in parts if f"excess_{key}" in found[p].get(method, {})]
      if not used:
        continue
      values = np.array([found[p][method][f"excess_{key}"] for p in used])
      ax.errorbar(
        [int(p) * 1.03 ** (i - 1) for p in used],
        values.mean(1),
        yerr=values.std(1) / values.shape[1] ** 0.5,
        fmt="o-",
        ms=4,
        capsize=2,
        label=method,
      )
    ax.set(xlabel="items of a list in a step", title=title, ylabel="excess over whole lists")
    ax.set(xscale="log", ylim=(0, None))
    ax.set_xticks([int(p) for p in parts], parts)
    ax.minorticks_off()
    if ax.get_legend_handles_labels()[0]:
      ax.legend(fontsize="x-small")
  middle = parts[len(parts) // 2]
  shown = {**found[middle], **found["whole"]}
  _dots(axes[4], shown, f"Synthetic lists, {middle} items: NDCG@10")
  _dots(axes[5], metrics.get("MovieLens", {}), "MovieLens, held-out ratings: NDCG@10")
  return fig


def _dots(ax: Any, entries: dict[str, Any], title: str) -> None:
  """NDCG@10 of each method, mean and standard error over the seeds."""
  for i, entry in enumerate(entries.values()):
    values = np.array(entry["NDCG@10"])
    ax.errorbar(
      values.mean(), i, xerr=values.std() / len(values) ** 0.5, fmt="o", ms=4, capsize=2, color="C0"
    )
  ax.set_yticks(range(len(entries)), list(entries), fontsize="x-small")
  ax.invert_yaxis()
  ax.set(title=title)
