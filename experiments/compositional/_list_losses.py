"""The losses of ranked lists that are compared, as functions of a batch and a state."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from experiments.compositional._ranking import Data, factors, mean_of_lists
from jaxopt_robust import compositional, losses

# On whole lists, the three objectives: references, where their cost is bearable.
WHOLE = {
  "ndcg": "NDCG, whole lists",
  "listwise": "listwise, whole lists",
  "at_k": "NDCG@k, whole lists",
}
WORDS = {"ndcg": "NDCG loss", "listwise": "listwise cross entropy", "at_k": "NDCG@k loss"}
STATELESS = ("squared error", "cross entropy", "NDCG of the part")
# With averages; they run with every rate. With rate 1 they are plug-ins: SONG with the batch's
# ranks scaled to whole lists, listwise with the batch's own cross entropy, which is ListNet.
AVERAGED = ("listwise", "SONG", "K-SONG", "K-SONG, warm", "K-SONG, corrected")
ON_SYNTHETIC = (*WHOLE.values(), *STATELESS, *AVERAGED[:3], AVERAGED[4])
ON_MOVIES = (*STATELESS, *AVERAGED[:4])
# Exact objectives in which a method is compared; the pointwise losses have none of a ranking.
EXACT: dict[str, tuple[str, ...]] = {name: (key,) for key, name in WHOLE.items()}
EXACT |= {"NDCG of the part": ("ndcg",), "SONG": ("ndcg", "at_k"), "listwise": ("listwise",)}
EXACT |= dict.fromkeys(AVERAGED[2:], ("at_k",))


class Batch(NamedTuple):
  """What a loss sees in one step; the last two fields belong to the whole lists."""

  scores: jax.Array
  relevance: jax.Array
  where: jax.Array
  index: tuple[jax.Array, jax.Array]
  step: jax.Array
  num_relevant: jax.Array
  ideal: jax.Array


def make_loss(
  family: str, k: int, steps: int, shape: tuple[int, int], config: Any
) -> tuple[Callable[..., Any], Callable[..., Any]]:
  """``(init(), loss(batch, state, rate) -> (value, state))``."""

  def stateless(fun: Callable[[Batch], jax.Array]) -> Any:
    return lambda: (), lambda batch, state, rate: (fun(batch), state)

  def pointwise(fun: Callable[..., jax.Array]) -> Any:
    floats = lambda b: b.relevance.astype(b.scores.dtype)
    return stateless(lambda b: jnp.mean(fun(b.scores, floats(b)), where=b.where))

  def of_lists(fun: Callable[..., jax.Array], **hyper: Any) -> Any:
    each = lambda b: fun(b.scores, b.relevance, where=b.where, **hyper)
    return stateless(lambda b: mean_of_lists(each(b), b.relevance, b.where))

  def visit(loss: Callable[..., Any], b: Batch, state: Any, rate: Any, **hyper: Any) -> Any:
    given = (b.scores, b.relevance, b.index, state)
    value, (state, _) = loss(*given, rate=rate, where=b.where, **hyper)
    return value, state

  def listwise(b: Batch, state: Any, rate: Any) -> Any:
    return visit(compositional.song_listwise_loss, b, state, rate)

  def song(b: Batch, state: Any, rate: Any) -> Any:
    whole = {"num_relevant": b.num_relevant, "ideal_dcg": b.ideal[:, 0]}
    return visit(compositional.song_loss, b, state, rate, **whole)

  def k_song(b: Batch, state: Any, rate: Any) -> Any:
    hyper = {"step_size": config.threshold_step, "smoothing": config.smoothing, "k": k}
    whole = {"num_relevant": b.num_relevant, "ideal_dcg": b.ideal[:, 1]}
    correction = "hessian" if family.endswith("corrected") else "none"
    hyper |= {"correction": correction, "curvature_rate": 0.1}
    return visit(compositional.k_song_loss, b, state, rate, **hyper, **whole)

  def warm(b: Batch, state: Any, rate: Any) -> Any:
    """SONG in the first half of the steps, while the thresholds settle."""
    ranks = lambda: song(b, compositional.SongState(state.average, state.seen), rate)[0]
    both = lambda: (ranks(), k_song(b, state, rate)[1])
    return jax.lax.cond(b.step < steps // 2, both, lambda: k_song(b, state, rate))

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


def look(family: str, params: Any, data: Data, rows: Any, part: jax.Array) -> Batch:
  """The batch of (step, queries, their items), of which the first ``part`` are seen."""
  lists = data.lists["train"]
  number, query, item = rows
  if family in WHOLE.values():
    shape = (len(query), lists.where.shape[1])
    item = jnp.broadcast_to(jnp.arange(shape[1])[None], shape)
  where = jnp.broadcast_to(jnp.arange(item.shape[1])[None] < part, item.shape)
  left, right, add_left, add_right = factors(params, data.features)
  scores = jnp.einsum("qd,qid->qi", left[query], right[item])
  scores = scores + add_left[query][:, None] + add_right[item]
  relevance = lists.relevance[query[:, None], item]
  of_query = (data.num_relevant[query], data.ideal[query])
  return Batch(scores, relevance, where, (query, item), number, *of_query)
