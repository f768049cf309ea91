"""Queries with lists of items: a synthetic problem, MovieLens, and what is measured on them."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import datasets
from jaxopt_robust import losses

METRICS: dict[str, int | None] = {"NDCG@5": 5, "NDCG@10": 10, "NDCG": None}
PARTS = ("train", "val", "test")


class Lists(NamedTuple):
  """Grades of all lists, int[queries, items], and which items are in them; some lists are empty."""

  relevance: Any
  where: Any


class Data(NamedTuple):
  """One problem.

  Attributes:
    params: initial weights.
    features: of queries and items, or () where every query and item has an embedding.
    lists: by name of ``PARTS``; training lists hold all items or none.
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
  lists = {n: Lists(np.asarray(r, np.int32), where) for n, (r, where) in lists.items()}
  return Data(as_float(params), as_float(features), lists, as_float((train > 0).sum(1)), ideal,
              *draws)  # fmt: skip


def draw(rng: np.random.Generator, shape: tuple[int, int], steps: int, batch: int, part: int):
  """Distinct queries for each step, and for each of them distinct items."""
  queries = [rng.permutation(shape[0])[:batch] for _ in range(steps)]
  noise = lambda: rng.random((batch, shape[1]), np.float32)
  items = [np.argpartition(noise(), part - 1, axis=1)[:, :part] for _ in range(steps)]
  return np.stack(queries).astype(np.int32), np.stack(items).astype(np.int32)


def load_synthetic(seed: int, config: Any) -> Data:
  """A bilinear ranking of the items for each query, with noise; half the queries are held out."""
  rng = np.random.default_rng(seed)
  size, num = config.features, 2 * config.queries
  query, item = (rng.normal(size=(n, size)) for n in (num, config.items))
  scores = query @ rng.normal(size=(size, size)) @ item.T
  scores = scores / scores.std() + config.noise * rng.normal(size=scores.shape)
  relevance = np.zeros(scores.shape, int)
  best = np.argsort(-scores, axis=1)[:, : len(config.grades)]
  np.put_along_axis(relevance, best, np.array(config.grades)[None], axis=1)
  part = np.repeat([0, 0, 1, 2], config.queries // 2)[:, None]  # one half, one quarter each
  lists = {}
  for i, name in enumerate(PARTS):
    where = np.broadcast_to(part == i, relevance.shape)
    lists[name] = Lists(np.where(where, relevance, 0), np.array(where))
  params = {"weights": 0.01 * rng.normal(size=(size, size)), "offset": np.zeros(())}
  shape = (config.queries, config.items)
  draws = draw(rng, shape, config.steps, config.batch, max(config.parts))
  return pack(params, (query, item), lists, config.k, draws)


def load_movies(seed: int, config: Any) -> Data:
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
  lists = {"train": Lists(np.where(place < 0.6, ratings, 0), np.ones(ratings.shape, bool))}
  lists |= {n: Lists(np.where(p, ratings, 0), (ratings == 0) | p) for n, p in held.items()}
  users, movies = ratings.shape
  params = {
    "user": 0.1 * rng.normal(size=(users, config.embedding)),
    "movie": 0.1 * rng.normal(size=(movies, config.embedding)),
    "user_bias": np.zeros(users),
    "movie_bias": np.zeros(movies),
  }
  draws = draw(rng, ratings.shape, config.movie_steps, config.movie_batch, config.movie_part)
  return pack(params, (), lists, config.movie_k, draws)


def factors(params: Any, features: Any) -> tuple[jax.Array, ...]:
  """Rows of queries and items, whose products are the scores, and what is added to them."""
  if not features:
    return params["user"], params["movie"], params["user_bias"], params["movie_bias"]
  query, item = features
  offset = jnp.broadcast_to(params["offset"], query.shape[:1])
  return query @ params["weights"], item, offset, jnp.zeros(item.shape[:1])


def mean_of_lists(values: jax.Array, lists: Lists) -> jax.Array:
  """Over the lists with a relevant item; the others have the value 0."""
  has_any = jnp.any(lists.where & (lists.relevance > 0), axis=1)
  return jnp.sum(jnp.where(has_any, values, 0)) / jnp.maximum(jnp.sum(has_any), 1)


@jax.jit  # one program for all methods of a problem
def measure(scores: jax.Array, lists: dict[str, Lists]) -> dict[str, dict[str, jax.Array]]:
  """Metrics of the validation and test lists, float[runs] each; scores [runs, queries, items]."""

  def one(scores: jax.Array) -> dict[str, dict[str, jax.Array]]:
    ndcg = lambda part, k: losses.ndcg(scores, part.relevance, k=k, where=part.where)
    of = lambda part: {n: mean_of_lists(ndcg(part, k), part) for n, k in METRICS.items()}
    return {name: of(lists[name]) for name in ("val", "test")}

  return jax.lax.map(one, scores)


@functools.partial(jax.jit, static_argnums=2)
def objectives(
  scores: jax.Array, lists: dict[str, Lists], k: int
) -> dict[str, dict[str, jax.Array]]:
  """The three objectives, exact, on training and validation lists; float[runs] each."""

  def one(scores: jax.Array) -> dict[str, dict[str, jax.Array]]:
    found = {}
    for name in ("train", "val"):
      relevance, where = part = lists[name]
      values = {
        "ndcg": losses.ndcg_loss(scores, relevance, where=where),
        "listwise": losses.listwise_cross_entropy_loss(scores, relevance, where=where),
        "at_k": losses.ndcg_at_k_loss(scores, relevance, k=k, where=where),
      }
      found[name] = {key: mean_of_lists(value, part) for key, value in values.items()}
    return found

  return jax.lax.map(one, scores)


def over_seeds(fun: Any, scores: np.ndarray, data: list[Data]) -> Any:
  """``fun(scores, lists)`` of each seed, with any number of axes between seeds and queries."""
  found = []
  for values, one in zip(scores, data, strict=True):
    found.append(fun(values.reshape(-1, *values.shape[-2:]), one.lists))
  shape = scores.shape[:-2]
  return jax.tree.map(lambda *leaves: np.stack(leaves).reshape(shape), *found)
