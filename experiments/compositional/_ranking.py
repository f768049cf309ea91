"""Queries with lists of items: a synthetic problem, MovieLens, and what is measured on them."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import datasets
from jaxopt_robust import losses

METRIC = "NDCG@10"
PARTS = ("train", "val", "test")


class Lists(NamedTuple):
  """Grades, int[lists, items], which items are in the lists, and the query of each of them."""

  relevance: Any
  where: Any
  query: Any


class Data(NamedTuple):
  """One problem.

  Attributes:
    params: initial weights.
    features: of queries and items, or () where every query and item has an embedding.
    lists: by name of ``PARTS``; training lists hold all items, and query i has list i.
    num_relevant: float[queries], relevant items of each training list.
    ideal: float[queries, 2], the largest sum of gains over discounts, whole and at k.
    queries: int[steps, batch], the queries of each step.
    items: int[steps, batch, part], the items of their lists that the step sees.
  """

  params: Any
  features: Any
  lists: dict[str, Lists]
  num_relevant: Any
  ideal: Any
  queries: Any
  items: Any


def pack(params: Any, features: Any, lists: dict[str, Lists], k: int, draws: Any) -> Data:
  """Data in the types of the programs."""
  as_float = lambda tree: jax.tree.map(lambda x: np.asarray(x, np.float32), tree)
  train = lists["train"].relevance
  best = -np.sort(1 - np.exp2(train), axis=1) / np.log2(2 + np.arange(train.shape[1]))
  ideal = as_float(np.stack([best.sum(1), best[:, :k].sum(1)], axis=1))
  lists = {n: Lists(np.int32(r), where, np.int32(query)) for n, (r, where, query) in lists.items()}
  return Data(as_float(params), as_float(features), lists, as_float((train > 0).sum(1)), ideal,
              *draws)  # fmt: skip


def draw(rng: np.random.Generator, shape: tuple[int, int], steps: int, batch: int, part: int):
  """Distinct queries for each step, and for each of them distinct items."""
  queries = [rng.permutation(shape[0])[:batch] for _ in range(steps)]
  noise = lambda: rng.random((batch, shape[1]), np.float32)
  items = [np.argpartition(noise(), part - 1, axis=1)[:, :part] for _ in range(steps)]
  return np.stack(queries).astype(np.int32), np.stack(items).astype(np.int32)


def load_synthetic(seed: int, config: Any, trial: int) -> Data:
  """A bilinear ranking of the items for each query, with noise; half the queries are held out.

  Trials differ in the queries and items that the steps see.
  """
  rng = np.random.default_rng(seed)
  size, num = config.features, 2 * config.queries
  query, item = (rng.normal(size=(n, size)) for n in (num, config.items))
  scores = query @ rng.normal(size=(size, size)) @ item.T
  scores = scores / scores.std() + config.noise * rng.normal(size=scores.shape)
  relevance = np.zeros(scores.shape, int)
  best = np.argsort(-scores, axis=1)[:, : len(config.grades)]
  np.put_along_axis(relevance, best, np.array(config.grades)[None], axis=1)
  where, lists = np.ones((num, config.items), bool), {}
  ends = np.array([0, 2, 3, 4]) * (config.queries // 2)
  for i, name in enumerate(PARTS):
    rows = np.arange(ends[i], ends[i + 1])
    lists[name] = Lists(relevance[rows], where[rows], rows)
  params = {"weights": 0.01 * rng.normal(size=(size, size)), "offset": np.zeros(())}
  shape = (config.queries, config.items)
  rng = np.random.default_rng((seed, trial))
  draws = draw(rng, shape, config.steps, config.batch, max(config.parts))
  return pack(params, (query, item), lists, config.k, draws)


def load_movies(seed: int, config: Any, trial: int) -> Data:
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
  place = rng.random(ratings.shape)
  held = {"val": (place >= 0.6) & (place < 0.75), "test": place >= 0.75}
  every = np.arange(len(ratings))
  lists = {"train": Lists(np.where(place < 0.6, ratings, 0), np.ones(ratings.shape, bool), every)}
  lists |= {n: Lists(np.where(p, ratings, 0), (ratings == 0) | p, every) for n, p in held.items()}
  users, movies = ratings.shape
  params = {
    "user": 0.1 * rng.normal(size=(users, config.embedding)),
    "movie": 0.1 * rng.normal(size=(movies, config.embedding)),
    "user_bias": np.zeros(users),
    "movie_bias": np.zeros(movies),
  }
  rng = np.random.default_rng((seed, trial))
  draws = draw(rng, ratings.shape, config.movie_steps, config.movie_batch, config.movie_part)
  return pack(params, (), lists, config.movie_k, draws)


def factors(params: Any, features: Any) -> tuple[jax.Array, ...]:
  """Rows of queries and items, whose products are the scores, and what is added to them."""
  if not features:
    return params["user"], params["movie"], params["user_bias"], params["movie_bias"]
  query, item = features
  offset = jnp.broadcast_to(params["offset"], query.shape[:1])
  return query @ params["weights"], item, offset, jnp.zeros(item.shape[:1])


def mean_of_lists(values: jax.Array, relevance: jax.Array, where: jax.Array) -> jax.Array:
  """Over the lists with a relevant item; the others have the value 0."""
  has_any = jnp.any(where & (relevance > 0), axis=1)
  return jnp.sum(jnp.where(has_any, values, 0)) / jnp.maximum(jnp.sum(has_any), 1)


@functools.partial(jax.jit, static_argnums=(2, 3))
def measure(scores: jax.Array, lists: Lists, name: str, k: int) -> jax.Array:
  """The metric or an exact objective of some lists, float[runs]; scores [runs, queries, items]."""

  def one(scores: jax.Array) -> jax.Array:
    relevance, where, query = lists
    given = (scores[query], relevance)
    if name == "ndcg":
      values = losses.ndcg_loss(*given, where=where)
    elif name == "listwise":
      values = losses.listwise_cross_entropy_loss(*given, where=where)
    elif name == "at_k":
      values = losses.ndcg_at_k_loss(*given, k=k, where=where)
    else:
      values = losses.ndcg(*given, k=10, where=where)
    return mean_of_lists(values, relevance, where)

  return jax.lax.map(one, scores)


def over_seeds(scores: np.ndarray, data: list[Data], part: str, name: str, k: int) -> np.ndarray:
  """``measure`` of each seed, with any number of axes between seeds and queries."""
  found = []
  for values, one in zip(scores, data, strict=False):  # scores may belong to the first seeds
    found.append(measure(values.reshape(-1, *values.shape[-2:]), one.lists[part], name, k))
  return np.stack(found).reshape(scores.shape[:-2])
