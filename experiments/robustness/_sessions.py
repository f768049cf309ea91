"""Sessions with new classes on a drifting stream: their data, training and a run through them."""

import functools
import itertools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import scipy.ndimage

from experiments import datasets
from experiments._protocol import REPORT_SEED
from experiments._training import batches, fit
from experiments.robustness._adaptation import make_optimizer, norms_of
from experiments.robustness._digit_streams import Net
from experiments.robustness._real_streams import MOST
from jaxopt_robust import losses, robustness

SIDE = 87  # images of a digit for training, and as many for the stream
NEVER = 1000  # rank of what only fills a session up
# Rows of the sessions of covertype, in its own order, and its classes in the order of arrival: the
# first three are everywhere, then come those of other areas. Labelled rows of the base session lie
# before all of these.
BORDERS = (150_000, 210_000, 218_500, 233_000, 262_000, 285_000, 310_000)
ARRIVALS = ((0, 1, 4), (6,), (2, 5), (3,), (), ())
FIRST = 15_120  # rows of covertype that are a balanced selection
POOL = 20  # the first examples of a class in its session, of which the labelled ones are drawn


class Data(NamedTuple):
  """A seed; classes are numbered in the order of arrival.

  Attributes:
    x, y: labelled examples of all sessions, those of the base session first.
    rows: int32[2, epochs, steps, 64], minibatches of the base session and as many of all sessions.
    params: weights before training.
    shots: float[sessions, examples, features]; shot_labels, shot_ranks: int32[sessions, examples],
      class and number of an example within its class; ``NEVER`` for those that only fill up.
    stream, labels: float[sessions, batches, batch, features], int32[sessions, batches, batch].
  """

  x: Any
  y: Any
  rows: Any
  params: Any
  shots: Any
  shot_labels: Any
  shot_ranks: Any
  stream: Any
  labels: Any


def base_and_classes(name: str, config: Any) -> tuple[int, int]:
  """Numbers of base classes and of all."""
  return (config.base, 10) if name == "digits" else (len(ARRIVALS[0]), 7)


def drifted(images: np.ndarray, part: float, config: Any) -> np.ndarray:
  """Images float[n, 8, 8], turned and brightened; ``part`` from 0 to 1."""
  turned = scipy.ndimage.rotate(images, config.angle * part, axes=(2, 1), reshape=False, order=1)
  return turned + config.brightness * part


def _labelled(groups: list[tuple[np.ndarray, int]]) -> tuple[np.ndarray, np.ndarray]:
  x = np.concatenate([rows for rows, _ in groups])
  return x, np.concatenate([np.full(len(rows), c, np.int32) for rows, c in groups])


def _digits(seed: int, config: Any) -> tuple:
  """Base session, all labelled examples, labelled few and stream of each session."""
  table, rng = datasets.load("digits"), np.random.default_rng(seed)
  images, y = np.asarray(table["x"]).reshape(-1, 8, 8) / 16, np.asarray(table["y"])
  chosen = [rng.permutation(np.nonzero(y == c)[0]) for c in rng.permutation(10)]
  train = [images[rows[:SIDE]] for rows in chosen]
  test = [images[rows[SIDE : 2 * SIDE]] for rows in chosen]
  last, joint, few, stream = 10 - config.base, [], [], []
  for t in range(last + 1):
    seen = config.base + t
    joint += [(drifted(train[c], t / last, config), c) for c in range(seen)]
    new = [seen - 1] if t else []
    few.append([(drifted(train[c][: max(config.shots)], t / last, config), c) for c in new])
    x, labels = _labelled([(test[c], c) for c in range(seen)])
    order = rng.permutation(len(x))[: config.batches["digits"] * config.batch]
    stream.append((drifted(x[order], t / last, config), labels[order]))
  base = _labelled([(train[c], c) for c in range(config.base)])
  return base, _labelled(joint), few, stream


def _covertype(table: dict[str, np.ndarray], seed: int, config: Any) -> tuple:
  """As ``_digits``; development seeds see the even rows, report seeds the odd ones."""
  rng, x = np.random.default_rng(seed), table["x"]
  order = np.concatenate([np.asarray(c, int) for c in ARRIVALS])
  y = np.argsort(order)[table["y"]].astype(np.int32)
  half = np.arange(len(y)) % 2 == (seed >= REPORT_SEED)
  draw = lambda rows, num: rng.choice(rows, num, replace=len(rows) < num)
  rows_of = lambda low, high, c: low + np.nonzero((half & (y == c))[low:high])[0]
  base_rows = [(rows_of(FIRST, BORDERS[0], c), c) for c in range(len(ARRIVALS[0]))]
  base = [(x[draw(rows, config.labelled)], c) for rows, c in base_rows]
  joint, few, stream, seen = list(base), [], [], 0
  for t, (low, high) in enumerate(itertools.pairwise(BORDERS)):
    new = range(seen, seen + len(ARRIVALS[t])) if t else []
    seen += len(ARRIVALS[t])
    picked = [(draw(rows_of(low, high, c)[:POOL], max(config.shots)), c) for c in new]
    few.append([(x[rows], c) for rows, c in picked])
    free = low + np.nonzero(half[low:high])[0]
    free = np.setdiff1d(free, np.concatenate([[0], *(rows for rows, _ in picked)]))
    shown = np.sort(draw(free, config.batches["covertype"] * config.batch))
    stream.append((x[shown], y[shown]))
    rest = np.setdiff1d(free, shown)
    everywhere = np.nonzero(half & (np.arange(len(y)) >= BORDERS[0]))[0]
    for c in range(seen):
      rows = rest[y[rest] == c]
      rows = rows if len(rows) else everywhere[y[everywhere] == c]
      joint.append((x[draw(rows, config.labelled // 4)], c))
  return _labelled(base), _labelled(joint), few, stream


@functools.partial(jax.jit, static_argnums=(0, 1, 2))  # one program for all seeds
def initial(name: str, config: Any, width: int, seed: int) -> dict[str, Any]:
  """Weights of the network, and a cosine classifier of all classes."""
  net_key, head_key = jax.random.split(jax.random.key(seed))
  classes = base_and_classes(name, config)[1]
  return {
    "net": Net(config.hidden, config.features).init(net_key, jnp.zeros((1, width))),
    "head": jax.random.normal(head_key, (classes, config.features)),
  }


def load_sessions(name: str, table: Any, seed: int, config: Any) -> Data:
  """All sessions of a seed, scaled as the base session is."""
  parts = _digits(seed, config) if name == "digits" else _covertype(table, seed, config)
  (x, y), (joint_x, joint_y), few, stream = parts
  flat = lambda v: np.asarray(v, np.float64).reshape(len(v), -1)
  origin, width = flat(x)[0], flat(x).shape[1]
  if name == "digits":  # one scale for all pixels
    mean, deviation = flat(x).mean(), flat(x).std()
  else:
    mean, deviation = flat(x).mean(0), (flat(x) - origin).std(0)
    deviation = np.where(deviation > 0, deviation, 1.0)
  scale = lambda v: np.clip((flat(v) - mean) / deviation, -MOST, MOST).astype(np.float32)
  most = max(len(group) for group in few) * max(config.shots)
  shots = np.zeros((len(few), most, width), np.float32)
  labels, ranks = np.zeros((len(few), most), np.int32), np.full((len(few), most), NEVER, np.int32)
  for t, group in enumerate(few):
    for i, (rows, c) in enumerate(group):
      place = slice(i * len(rows), (i + 1) * len(rows))
      shots[t, place], labels[t, place], ranks[t, place] = scale(rows), c, np.arange(len(rows))
  cut = lambda v: v.reshape(-1, config.batch, *v.shape[1:])
  rows = batches(len(y), 64, config.epochs, seed)
  passes = math.ceil(rows.size / (len(joint_y) // 64 * 64))
  all_rows = np.resize(batches(len(joint_y), 64, passes, seed), rows.shape)
  fields = Data(
    scale(joint_x), joint_y, np.stack([rows, all_rows]), initial(name, config, width, seed),
    shots, labels, ranks, np.stack([cut(scale(v)) for v, _ in stream]),
    np.stack([cut(labels) for _, labels in stream]),
  )  # fmt: skip
  return jax.tree.map(jnp.asarray, fields)


def encode(config: Any, variables: Any, x: jax.Array) -> jax.Array:
  """Features, not negative."""
  return jax.nn.relu(Net(config.hidden, config.features).apply(variables, x))


def train_both(data: Data, name: str, config: Any) -> Any:
  """Network and cosine classifier, trained on the base session (first) and on all sessions."""
  base, classes = base_and_classes(name, config)

  def train(rows: jax.Array, known: jax.Array) -> Any:
    def objective(params: Any, state: Any, rows: jax.Array) -> Any:
      features = encode(config, params["net"], data.x[rows])
      logits = robustness.prototype_logits(
        features, params["head"], temperature=config.temperature, where=jnp.arange(classes) < known
      )
      return jnp.mean(losses.cross_entropy_loss(logits, data.y[rows])), state

    adam = optax.adam(config.learning_rate)
    none = lambda params, state: jnp.zeros(())
    return fit(objective, data.params, rows, adam, evaluate=none).params

  return jax.vmap(train)(data.rows, jnp.array([base, classes]))


def score(logits: jax.Array, labels: jax.Array, base: int) -> dict[str, jax.Array]:
  """Accuracies of a session: base classes, new ones (NaN without any), all, mean over classes."""
  right, is_new = jnp.argmax(logits, axis=-1) == labels, labels >= base
  member = jax.nn.one_hot(labels.ravel(), logits.shape[-1])
  counts = member.sum(0)
  recalls = (member * right.ravel()[:, None]).sum(0) / jnp.maximum(counts, 1)
  return {
    "base": jnp.mean(right, where=~is_new), "new": jnp.mean(right, where=is_new),
    "all": jnp.mean(right), "classes": jnp.mean(recalls, where=counts > 0),
  }  # fmt: skip


def run_sessions(
  setting: dict[str, jax.Array], data: tuple, name: str, config: Any
) -> dict[str, jax.Array]:
  """Accuracies of all sessions, float[sessions]: answers come before the adaptation to them."""
  params, given = data
  base, classes = base_and_classes(name, config)
  labelled = base * (SIDE if name == "digits" else config.labelled)
  weights = params["net"]["params"]
  features = lambda norms, x: encode(config, {"params": weights | norms}, x)
  optimizer = make_optimizer(setting, config.batch, classes, config)
  state = robustness.csfa_init(
    features, optimizer, norms_of(weights), given.x[:labelled], given.y[:labelled],
    num_classes=classes,
  )  # fmt: skip

  def session(state: Any, data: tuple) -> tuple[Any, dict[str, jax.Array]]:
    shots, shot_labels, ranks, stream, labels = data
    state = robustness.csfa_add_classes(
      features, state, shots, shot_labels, weight=setting["weight"], temperature=config.tau,
      where=ranks < setting["shots"],
    )  # fmt: skip
    most = jnp.log(jnp.sum(state.seen, dtype=jnp.float32))
    threshold = jnp.where(setting["filter"] > 0, config.share * most, jnp.inf)

    def step(state: Any, batch: jax.Array) -> tuple[Any, jax.Array]:
      state, info = robustness.csfa_stream_step(
        features, optimizer, state, batch, threshold=threshold, temperature=config.temperature
      )
      return state, info.logits

    state, logits = jax.lax.scan(step, state, stream)
    return state, score(logits, labels, base)

  sessions = given.shots, given.shot_labels, given.shot_ranks, given.stream, given.labels
  return jax.lax.scan(session, state, sessions)[1]


def run_joint(params: Any, given: Data, name: str, config: Any) -> dict[str, jax.Array]:
  """Accuracies of a network that was trained on the labels of all sessions, and is not adapted."""
  base, classes = base_and_classes(name, config)
  arrived = jnp.max(jnp.where(given.shot_ranks < NEVER, given.shot_labels + 1, base), axis=1)
  known = jax.lax.cummax(arrived)

  def session(_: None, data: tuple) -> tuple[None, dict[str, jax.Array]]:
    known, stream, labels = data
    logits = robustness.prototype_logits(
      encode(config, params["net"], stream.reshape(-1, stream.shape[-1])), params["head"],
      temperature=config.temperature, where=jnp.arange(classes) < known,
    )  # fmt: skip
    return None, score(logits.reshape(*labels.shape, classes), labels, base)

  return jax.lax.scan(session, None, (known, given.stream, given.labels))[1]
