"""Mann-Whitney loss against the contrastive loss: scores of all queries under one threshold."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import _figures, _statistics, datasets
from experiments._claims import Claim, Side
from experiments._protocol import Paper, Progress, Reported, Row, Settings, Size, new_figure
from experiments._training import batches, fit, grid, schedule, stack, train_all
from jaxopt_robust import losses, nets

PAPER = Paper(
  title="Optimizing what matters: AUC-driven learning for robust neural retrieval",
  authors="Sheikholeslami, Hosseini, Bechard, Daruru and Rajeswar",
  year=2025,
  claim="A retriever trained with the Mann-Whitney loss (MW) separates relevant from irrelevant "
  "pairs of all queries better than one trained with the contrastive loss (CL), which is blind to "
  "shifts of a query's scores; the rank within a query is about equal.",
  section="Lemmas 1 and 2; tables 1 to 4 (text corpora, MiniLM and XLM-R)",
  url="https://arxiv.org/abs/2510.00137",
)
LOSSES: dict[str, Callable[..., jax.Array]] = {
  "CL": losses.info_nce_loss,
  "MW": losses.mann_whitney_loss,
}
# The ways in which a loss is set: at the paper's temperature; with scores that have no bound; and
# with the temperature chosen like the learning rate.
WAYS = ("cosine, tau .01", "dot product, tau 1", "cosine, tau chosen")
SHIFTS = (0.0, 0.1, 0.3, 1.0, 3.0, 10.0)  # in standard deviations of the scores
_RATES = np.concatenate([[0.0], np.logspace(-3, 0, 60)])  # false positive rates of the figure


@dataclasses.dataclass(frozen=True)
class Config(Settings):
  """Settings.

  Attributes:
    data: "digits" (997 training images) or "mnist5k" (3200). A query is the left half of an image,
      its passage the right half.
    temperatures: of the cosines, among them 0.01; each loss has its best one.
    learning_rates: initial step sizes of Adam, falling to 0 along a cosine; each loss has its best
      one in each way. Both are chosen by the AUC against hard negatives on validation pairs.
    epochs: passes over the training set; the best one on validation pairs is kept.
    batch: queries a batch; the other passages of the batch are the negatives.
    hidden: width of the hidden layer of both encoders.
    embedding: length of the embeddings.
    hard: negatives a query in the hard pool.
  """

  data: str = "digits"
  temperatures: tuple[float, ...] = (0.01, 0.03, 0.1, 0.3, 1.0)
  learning_rates: tuple[float, ...] = (1e-3, 3e-3, 1e-2, 3e-2)
  epochs: int = 30
  batch: int = 32
  hidden: int = 128
  embedding: int = 32
  hard: int = 50

  def __post_init__(self) -> None:
    if self.data not in ("digits", "mnist5k"):
      raise ValueError(f"data must be 'digits' or 'mnist5k'; got {self.data!r}.")
    if 0.01 not in self.temperatures:
      raise ValueError(f"temperatures must hold 0.01, the paper's; got {self.temperatures}.")


SIZES = {
  "toy": Size(
    Config(seeds=2, temperatures=(0.01,), learning_rates=(1e-3,), epochs=2),
    "One temperature, one learning rate, two epochs.",
  ),
  "desk": Size(
    Config(),
    "Halves of 8 x 8 digits and small perceptrons, other passages of the batch as negatives, "
    "instead of text corpora, pretrained transformers and five hard negatives a query.",
  ),
  "large": Size(
    Config(data="mnist5k", epochs=100, batch=64, hidden=512, embedding=64, hard=500),
    "Halves of 28 x 28 digits and perceptrons instead of text corpora and transformers.",
  ),
}


class Data(NamedTuple):
  """One split: initial weights of both encoders, halves [2, images, pixels], and minibatches."""

  params: Any
  halves: dict[str, jax.Array]
  rows: jax.Array


def make_encoder(config: Config) -> Any:
  """One hidden layer; queries and passages have an encoder each."""
  return nets.MLP((config.hidden, config.embedding))


@functools.partial(jax.jit, static_argnums=0)  # one program for all seeds
def _init(model: Any, keys: jax.Array, x: jax.Array) -> Any:
  return jax.vmap(model.init, in_axes=(0, None))(keys, x)


def load_split(seed: int, config: Config) -> Data:
  """Left and right halves of the images, scaled to [0, 1]."""
  images = np.asarray(datasets.load(config.data)["x"], np.float32)
  side = round(images.shape[1] ** 0.5)
  images = images.reshape(len(images), side, side) / images.max()
  halves = np.stack([half.reshape(len(images), -1) for half in np.split(images, 2, axis=2)])
  parts = (997, 300, 500) if config.data == "digits" else (3200, 800, 1000)
  split = datasets.split(len(images), tuple(n / sum(parts) for n in parts), seed)
  names = ("train", "val", "test")
  found = {name: jnp.asarray(halves[:, rows]) for name, rows in zip(names, split, strict=True)}
  params = _init(make_encoder(config), jax.random.split(jax.random.key(seed), 2), halves[0, :1])
  return Data(params, found, jnp.asarray(batches(parts[0], config.batch, config.epochs, seed)))


def score_all(params: Any, halves: Any, is_cosine: jax.Array, config: Config) -> jax.Array:
  """Scores of all queries with all passages, cosines or dot products."""
  z = jax.vmap(make_encoder(config).apply)(params, halves)
  norm = jnp.linalg.norm(z, axis=2, keepdims=True)
  queries, passages = jnp.where(is_cosine, z / jnp.maximum(norm, 1e-6), z)
  return queries @ passages.T


def hard_auc(scores: jax.Array, hard: int) -> jax.Array:
  """AUC of the diagonal against the highest scores beside it in each row."""
  pool, found = losses.topn_negative_pool(scores, jnp.eye(len(scores), dtype=bool), hard)
  return losses.two_sample_auc(jnp.diagonal(scores), pool, negative_where=found)


def make_trainer(config: Config) -> Callable[..., Any]:
  """``train(setting, data) -> best parameters, their score and epoch``; same batches for all."""

  def train(setting: dict[str, jax.Array], data: Data) -> dict[str, Any]:
    factor = schedule("cosine", data.rows.shape[0] * data.rows.shape[1])
    optimizer = optax.adam(lambda count: setting["rate"] * factor(count))
    own = jnp.arange(config.batch)

    def objective(params: Any, state: Any, rows: jax.Array) -> Any:
      scores = score_all(params, data.halves["train"][:, rows], setting["is_cosine"], config)
      values = [jnp.mean(loss(scores, own, temperature=setting["tau"])) for loss in LOSSES.values()]
      return jnp.where(setting["is_mw"], values[1], values[0]), state

    def evaluate(params: Any, _: Any) -> jax.Array:
      scores = score_all(params, data.halves["val"], setting["is_cosine"], config)
      return hard_auc(scores, config.hard)

    options = {"evaluate": evaluate, "score": lambda seen: seen}
    done = fit(objective, data.params, data.rows, optimizer, **options)
    return {"params": done.params, "score": done.history[done.best], "epoch": done.best + 1}

  return train


def measure(scores: jax.Array, size: int, hard: int) -> dict[str, jax.Array]:
  """Metrics of the test scores; both losses at temperature 1 of the first queries as a batch."""
  own = jnp.eye(len(scores), dtype=bool)
  part, number = scores[:size, :size], jnp.arange(size)
  return {
    "auc_hard": hard_auc(scores, hard),
    "auc_all": losses.two_sample_auc(jnp.diagonal(scores), scores, negative_where=~own),
    "mrr": losses.mean_reciprocal_rank(scores, own, k=10),
    "CL": jnp.mean(losses.info_nce_loss(part, number, temperature=1.0)),
    "MW": jnp.mean(losses.mann_whitney_loss(part, number, temperature=1.0)),
  }


def run(config: Config, progress: Progress) -> dict[str, Any]:
  """Trains both losses, chooses rates and temperatures, tests; then shifts a scorer's queries."""
  data = stack([load_split(seed, config) for seed in config.seed_numbers()])
  taus, rates = config.temperatures, config.learning_rates
  kinds = [*((True, tau) for tau in taus), (False, 1.0)]  # the last one: dot products
  axes, shape = grid(is_mw=range(2), kind=range(len(kinds)), rate=rates)
  setting = {
    "is_mw": axes["is_mw"] == 1, "rate": axes["rate"],
    "is_cosine": np.array([kinds[i][0] for i in axes["kind"]]),
    "tau": np.float32([kinds[i][1] for i in axes["kind"]]),
  }  # fmt: skip
  trained = train_all(progress, make_trainer(config), setting, data, name="training")
  trained = jax.tree.map(lambda a: a.reshape(config.seeds, *shape, *a.shape[2:]), trained)
  test = jax.jit(jax.vmap(lambda scores: measure(scores, config.batch, config.hard)))
  score = jax.jit(jax.vmap(functools.partial(score_all, config=config), in_axes=(0, 0, None)))
  metrics: dict[str, Any] = {name: {} for name in LOSSES}
  choices, shown = [], {}
  for number, name in enumerate(LOSSES):
    scores = trained["score"][:, number].mean(0)
    choose = functools.partial(_statistics.choose, better="higher")
    tau = choose(f"temperature of {name}", taus, scores[:-1].max(1))
    choices.append(tau)
    for way, i in zip(WAYS, (taus.index(0.01), len(taus), taus.index(tau.chosen)), strict=True):
      choices.append(choose(f"rate of {name}, {way}", rates, scores[i]))
      place = (slice(None), number, i, rates.index(choices[-1].chosen))
      params = jax.tree.map(lambda leaf, place=place: leaf[place], trained["params"])
      shown[name, way] = score(params, data.halves["test"], jnp.asarray(kinds[i][0]))
      own = {k: v for k, v in test(shown[name, way]).items() if k not in LOSSES}
      own |= {"epoch": trained["epoch"][place], "roc": _roc(shown[name, way], config.hard)}
      metrics[name][way] = own
  scores = np.asarray(shown["CL", WAYS[1]])
  noise = np.stack(
    [np.random.default_rng(s).normal(size=(scores.shape[1], 1)) for s in config.seed_numbers()]
  )
  spread = scores.std(axis=(1, 2), keepdims=True)
  moved = [test(np.float32(scores + sigma * spread * noise)) for sigma in SHIFTS]
  return {
    "losses": metrics,
    "densities": {name: _densities(np.asarray(shown[name, WAYS[1]])[0]) for name in LOSSES},
    "shift": {key: np.stack([entry[key] for entry in moved]) for key in moved[0]},
    "choices": choices,
  }


def _roc(scores: Any, hard: int) -> np.ndarray:
  """True positive rates at fixed false positive rates in the hard pool, mean over the seeds."""
  rates = []
  for scored in np.asarray(scores):
    off = np.where(np.eye(len(scored), dtype=bool), -np.inf, scored)
    pool = np.sort(np.sort(off, axis=1)[:, ::-1][:, : min(hard, len(scored) - 1)].ravel())
    above = 1 - np.searchsorted(pool, np.diagonal(scored), side="right") / len(pool)
    rates.append([np.mean(above <= rate) for rate in _RATES])
  return np.mean(rates, axis=0)


def _densities(scores: np.ndarray) -> dict[str, np.ndarray]:
  """Densities of the standardised scores of relevant and of other pairs."""
  standard, own = (scores - scores.mean()) / scores.std(), np.eye(len(scores), dtype=bool)
  edges = np.linspace(-4, 6, 61)
  density = lambda values: np.histogram(values, edges, density=True)[0]
  return {"edges": edges, "own": density(standard[own]), "other": density(standard[~own])}


def claims(metrics: dict[str, Any], config: Config) -> list[Claim]:
  """MW separates better and ranks as well, in each way; a shift of the queries blinds the AUC."""
  words = {
    "auc_hard": f"AUC against the {config.hard} highest negatives a query",
    "auc_all": "AUC against all negatives", "mrr": "MRR@10",
  }  # fmt: skip
  bound = {"auc_hard": 0.05, "auc_all": 0.1}  # at the paper's temperature and without a bound
  wanted = [(way, key, bound[key]) for way in WAYS[:2] for key in bound]
  wanted += [(WAYS[2], "auc_hard", 0.0), (WAYS[0], "mrr", -0.01), (WAYS[2], "mrr", -0.01)]
  made = []
  for way, key, margin in wanted:
    amount = f" by at least {margin:g}" if margin else ""
    text = f"With {way}, MW has a higher {words[key]} than CL{amount}."
    if key == "mrr":
      text = f"With {way}, MW loses less than .01 of {words[key]} to CL."
    ours, base = (Side(name, metrics["losses"][name][way][key]) for name in ("MW", "CL"))
    name = f"{key}_{('paper', 'dot', 'chosen')[WAYS.index(way)]}"
    made.append(Claim(name, text, "paper", f"{words[key]}, test", ours, base, margin=margin))
  over = 1 - np.asarray(metrics["shift"]["auc_all"], float)[-1]
  text = "Noise of ten standard deviations on each query, unseen by CL, takes the AoC to .45."
  ours, base = Side("CL, shifted", over), Side("chance", 0.5)
  made.append(Claim("shift", text, "theory", "AoC = 1 - AUC", ours, base, margin=-0.05))
  return made


def table(metrics: dict[str, Any], config: Config) -> list[Row]:
  """Both losses in each way; the paper's numbers in its own setting."""
  words = {"auc_hard": f"AUC, {config.hard} hard negatives a query", "auc_all": "AUC", "mrr": "MRR"}
  side = lambda name, way, key: Side(name, metrics["losses"][name][way][key])
  rows = [
    Row(f"{text}, {config.data} halves, {way}", side("MW", way, key), side("CL", way, key))
    for way in WAYS
    for key, text in words.items()
  ]
  for name, value in (("CL", 0.67), ("MW", 0.81)):
    reported = Reported(value, "NLI, 500 hard negatives a query", "MiniLM", "AUC in domain")
    metric = f"{words['auc_hard']}, {config.data} halves, {WAYS[0]}"
    rows.append(Row(metric, side(name, WAYS[0], "auc_hard"), reported=reported))
  return rows


def figure(record: dict[str, Any]) -> Any:
  """ROC curves on hard negatives, score densities, and what a shift of the queries does."""
  metrics = record["metrics"]
  fig, axes = new_figure(1, 3)
  colours = {"CL": "C1", "MW": "C0"}
  for way, style in zip(WAYS, ("-", "--", ":"), strict=True):
    for name, colour in colours.items():
      curve = metrics["losses"][name][way]["roc"]
      axes[0].plot(_RATES, curve, style, color=colour, label=f"{name}, {way}")
  axes[0].set(xlabel="false positive rate", ylabel="true positive rate", title="Hard negatives")
  axes[0].legend(fontsize="x-small")
  for name, entry in metrics["densities"].items():
    for pairs, style in (("own", "-"), ("other", ":")):
      label = f"{name}, {pairs} passage"
      axes[1].stairs(entry[pairs], entry["edges"], color=colours[name], ls=style, label=label)
  axes[1].set(xlabel="standardised score", ylabel="density", title=f"Test scores, {WAYS[1]}")
  axes[1].legend(fontsize="x-small")
  shift = {key: np.mean(values, axis=1) for key, values in metrics["shift"].items()}
  lines = {"AUC": shift["auc_all"], "MRR@10": shift["mrr"]}
  lines |= {f"{name}, share of its largest": shift[name] / shift[name].max() for name in LOSSES}
  label = "noise on each query / standard deviation of scores"
  _figures.curves(axes[2], lines, SHIFTS, xlabel=label, title="A contrastive scorer, shifted")
  axes[2].set_xscale("symlog", linthresh=0.1)
  return fig
