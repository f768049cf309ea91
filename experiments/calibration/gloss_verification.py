"""Noun or verb: answers about definitions of words, from domains that were seen and others."""

import dataclasses
from typing import Any

import jax
import numpy as np

from experiments import _encoder, datasets
from experiments._claims import Claim
from experiments._protocol import Progress, Row, Settings, Size
from experiments.calibration import _verification
from experiments.calibration._verification import NO_ANSWER, Draw
from experiments.calibration.similarity_distance_magnitude import PAPER as _PAPER

PAPER = _PAPER
# Numbers of WordNet's lexicographers' files: nouns of animals, artefacts, bodies, food, objects,
# people, plants and substances; verbs of bodies, change, consumption, contact, creation and motion.
CONCRETE = {0: (5, 6, 8, 13, 17, 18, 20, 27), 1: (29, 30, 34, 35, 36, 38)}
# Nouns of attributes, cognition, communication, events, feelings, relations and states; verbs of
# cognition, communication, competition, emotion, social life and states.
ABSTRACT = {0: (7, 9, 10, 11, 12, 24, 26), 1: (31, 32, 33, 37, 41, 42)}
SAME, SHIFTED = "concrete domains", "abstract domains"
ADJECTIVES, ADVERBS = "adjectives", "adverbs"
SETS = (SAME, SHIFTED, ADJECTIVES, ADVERBS)


@dataclasses.dataclass(frozen=True)
class Config(Settings):
  """Settings. A seed draws the definitions and initial weights; the encoder is the same for all.

  Attributes:
    data: "wordnet" with MiniLM-L6, or "random": features of made-up texts.
    fit: definitions for fitting, as many of nouns as of verbs; halves train and calibrate.
    test: definitions of every set that is answered.
    pool: definitions of a set that are embedded; those for fitting are as many as for two tests.
    length: most tokens of a definition; longer ones are cut.
    level: accuracy that is aimed at.
    width: of the representation.
    rounds: splits.
    epochs: of a round.
    rate: of Adam: of .0003, .001, .003 and .01 the one that admits most of 300 held-out definitions
      of development seeds 0 to 3 with an accuracy of at least the level.
    c: of the logistic regression behind the other methods: of .0003, .001, .003, .01, .1, 1, 10,
      100 and 1000 the lowest error there.
  """

  data: str = "wordnet"
  fit: int = 1200
  test: int = 300
  pool: int = 700
  length: int = 24
  level: float = 0.95
  width: int = 64
  rounds: int = 5
  epochs: int = 25
  rate: float = 1e-3
  c: float = 0.01


OURS = (
  "Definitions of words by a sentence encoder in place of reviews by language models; a narrow "
  "representation, 5 rounds of 25 epochs; the rescaling is fitted in full batches."
)
SIZES = {
  "toy": Size(
    Config(
      seeds=2, data="random", fit=80, test=20, pool=60, width=4, rounds=1, epochs=1,
    ),
    OURS + " Made-up features.",
  ),
  "desk": Size(Config(), OURS + " Draws of different seeds share definitions."),
  "large": Size(
    Config(seeds=20, fit=10000, test=2000, pool=8000, length=64, width=1000, rounds=10, epochs=50),
    OURS,
  ),
}  # fmt: skip


def _wordnet(config: Config, progress: Progress) -> dict[str, tuple[np.ndarray, np.ndarray]]:
  """Embeddings and classes of pools by the name of the set."""
  arrays, synsets = datasets.load("minilm"), datasets.load("wordnet")
  tokenize = _encoder.make_tokenizer(arrays["tokenizer"])
  params = jax.tree.map(jax.numpy.asarray, _encoder.parameters(arrays))
  embed = jax.jit(_encoder.embed)
  rng = np.random.default_rng(0)  # the pools are the same for all seeds
  pools, chunk = {}, 100

  def one(rows: np.ndarray) -> np.ndarray:
    ids, mask = tokenize(synsets["gloss"][rows].tolist(), config.length)
    parts = [
      progress.clock.call(embed, params, ids[i : i + chunk], mask[i : i + chunk], name="embed")
      for i in range(0, len(rows), chunk)
    ]
    return np.concatenate([np.asarray(part) for part in parts])

  for name, domains, size in (
    (SAME, CONCRETE, config.fit + 2 * config.test), (SHIFTED, ABSTRACT, config.pool),
  ):  # fmt: skip
    rows, classes = [], []
    for label, numbers in domains.items():
      found = rng.permutation(np.flatnonzero(np.isin(synsets["domain"], numbers)))[: size // 2]
      rows.append(found)
      classes.append(np.full(len(found), label))
    pools[name] = one(np.concatenate(rows)), np.concatenate(classes)
  for name, part in ((ADJECTIVES, ("a", "s")), (ADVERBS, ("r",))):
    found = rng.permutation(np.flatnonzero(np.isin(synsets["part"], part)))[: config.pool]
    pools[name] = one(found), np.full(len(found), NO_ANSWER)
  return pools


def _random(config: Config, progress: Progress) -> dict[str, tuple[np.ndarray, np.ndarray]]:
  """Made-up features of the pools."""
  del progress
  rng, pools = np.random.default_rng(0), {}
  for shift, name in enumerate(SETS):
    size = config.fit + 2 * config.test if name == SAME else config.pool
    y = np.arange(size) % 2
    x = rng.normal(size=(size, 6)) + np.stack([2 * y - 1, *[0 * y] * 4, 0 * y + shift], axis=1)
    pools[name] = np.float32(x), y if shift < 2 else np.full(size, NO_ANSWER)
  return pools


def draw(seed: int, pools: dict[str, Any], config: Config) -> Draw:
  """Definitions of one seed out of the pools, as many of either class."""
  rng = np.random.default_rng(seed)

  def some(name: str, number: int) -> tuple[np.ndarray, np.ndarray]:
    x, y = pools[name]
    kinds = np.unique(y)
    rows = [rng.permutation(np.flatnonzero(y == k))[: number // len(kinds)] for k in kinds]
    rows = rng.permutation(np.concatenate(rows))
    return x[rows], y[rows]

  x, y = some(SAME, config.fit + config.test)
  tests = [(x[config.fit :], y[config.fit :]), *(some(name, config.test) for name in SETS[1:])]
  return Draw(
    jax.random.key(seed), x[: config.fit], np.int32(y[: config.fit]),
    np.stack([test[0] for test in tests]), np.int32(np.stack([test[1] for test in tests])),
  )  # fmt: skip


def run(config: Config, progress: Progress) -> dict[str, Any]:
  """Embeds the pools once, fits every seed and answers all sets."""
  pools = {"wordnet": _wordnet, "random": _random}[config.data](config, progress)
  verify = _verification.make_verify(
    num_classes=2, level=config.level, width=config.width, rounds=config.rounds,
    epochs=config.epochs, rate=config.rate, c=config.c,
  )  # fmt: skip
  draws = [draw(seed, pools, config) for seed in config.seed_numbers()]
  return _verification.run_all(verify, draws, SETS, progress)


def claims(metrics: dict[str, Any], config: Config) -> list[Claim]:
  """Accurate where it answers, few answers elsewhere."""
  return _verification.claims(
    metrics, config.level, same=SAME, shifted=(SHIFTED,), strange=(ADJECTIVES, ADVERBS)
  )


def table(metrics: dict[str, Any], config: Config) -> list[Row]:
  """Shares of all sets."""
  return _verification.table(metrics)


def figure(record: dict[str, Any]) -> Any:
  """Shares by set and method."""
  return _verification.figure(record)
