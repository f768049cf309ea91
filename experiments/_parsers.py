"""Formats of the fetched files: bytes in, a dict of NumPy arrays out."""

import gzip
import io
import re

import numpy as np

from experiments import _torch_file
from experiments._fetch import DataError

Arrays = dict[str, np.ndarray]


def mnist(raw: bytes) -> Arrays:
  """x: float32[5000, 784] in [0, 1], rows are 28 x 28 images. y: int32[5000], 500 a digit."""
  table = np.loadtxt(io.BytesIO(gzip.decompress(raw)), delimiter=",", dtype=np.float32, ndmin=2)
  return {"x": table[:, :-1] / np.float32(255), "y": table[:, -1].astype(np.int32)}


def _idx(raw: bytes) -> np.ndarray:
  """A compressed idx file: 0, 0, type, number of axes, their lengths (big-endian), the bytes."""
  data = gzip.decompress(raw)
  if data[:3] != b"\x00\x00\x08":  # 8: unsigned bytes, the only type in use here
    raise ValueError(f"An idx file of bytes starts with 00 00 08; got {data[:3].hex(' ')}.")
  shape = np.frombuffer(data, ">i4", count=data[3], offset=4)
  return np.frombuffer(data, np.uint8, offset=4 + 4 * data[3]).reshape(shape)


def fashion_mnist(*files: bytes) -> Arrays:
  """x_train: float32[60000, 784] in [0, 1], rows are 28 x 28 images. y_train: int32[60000].

  x_test: float32[10000, 784]. y_test: int32[10000]. 6000 images a class for training and 1000 for
  testing; classes 0 to 9: T-shirt, trouser, pullover, dress, coat, sandal, shirt, sneaker, bag,
  ankle boot. The files are images and labels for training, then for testing.
  """
  arrays = {}
  for part, images, labels in (("train", *files[:2]), ("test", *files[2:])):
    pixels = _idx(images)
    arrays[f"x_{part}"] = pixels.reshape(len(pixels), -1) / np.float32(255)
    arrays[f"y_{part}"] = _idx(labels).astype(np.int32)
  return arrays


def movielens(raw: bytes) -> Arrays:
  """user, item: int32[100000] from 0. rating: float32, 1 to 5. timestamp: int64, seconds."""
  table = np.loadtxt(io.BytesIO(raw), delimiter="\t", skiprows=1, dtype=np.int64, ndmin=2)
  return {
    "user": (table[:, 0] - 1).astype(np.int32),
    "item": (table[:, 1] - 1).astype(np.int32),
    "rating": table[:, 2].astype(np.float32),
    "timestamp": table[:, 3],
  }


def usgs(raw: bytes) -> Arrays:
  """wavelength: float64[2151] in micrometres. spectra: float64[77, 2151], reflectance.

  NaN where the instrument did not measure. names, labels: strings. measured: bool[77], true where
  the row is a measurement of one sample that no earlier row repeats; the others are mixtures
  computed from rows of the library, or the same spectrum under a second name.
  """
  with np.load(io.BytesIO(raw), allow_pickle=False) as file:
    labels = file["label"]
    computed = np.array(["synth" in t or "[AMX]" in t or "[alias]" in t for t in labels])
    first = np.zeros(len(labels), bool)
    first[np.unique(labels, return_index=True)[1]] = True
    return {
      "wavelength": file["grid"],
      "spectra": file["spectra"],
      "names": file["rule"],
      "labels": labels,
      "measured": ~computed & first,
    }


def keel(raw: bytes) -> Arrays:
  """x: float64[rows, features]. y: int32[rows], classes numbered in the order of their names."""
  rows = [
    [cell.strip() for cell in line.split(",")]
    for line in raw.decode().splitlines()
    if line.strip() and not line.startswith("@")
  ]
  y = np.unique([row[-1] for row in rows], return_inverse=True)[1]
  return {"x": np.array([row[:-1] for row in rows], np.float64), "y": y.astype(np.int32)}


def stream(raw: bytes) -> Arrays:
  """x: float32[rows, features]. y: int32[rows], classes from 0. Rows are in the order of time.

  A table with a line of names, the last column is the class. ``electricity``: 45312 half hours, 6
  features in [0, 1] (time of day, prices and demands of two states, transfer), class 1 where the
  price is above its average of a day. ``weather``: 18159 days, 8 features (temperatures, dew point,
  pressure, visibility, wind), class 1 where it rained. ``covertype``: 581012 patches of forest, 10
  measured features and 44 indicators (area, soil), 7 kinds of trees; the first 15120 rows have all
  equally often, the others go through the areas one after another.
  """
  table = np.loadtxt(io.BytesIO(raw), delimiter=",", skiprows=1, dtype=np.float32, ndmin=2)
  y = np.unique(table[:, -1], return_inverse=True)[1]
  return {"x": table[:, :-1], "y": y.astype(np.int32)}


def minilm(weights: bytes, tokenizer: bytes) -> Arrays:
  """float32 weights by the names of the file, and ``tokenizer``: uint8, the bytes of its JSON."""
  try:
    from safetensors.numpy import load
  except ImportError:
    raise DataError(
      "Weights are read by the package safetensors, which is missing: "
      'pip install "jaxopt-robust[experiments]"'
    ) from None
  return load(weights) | {"tokenizer": np.frombuffer(tokenizer, np.uint8)}


def efficientnet(raw: bytes) -> Arrays:
  """float32 weights by the names of the file (int64 counters beside them), outputs first."""
  return _torch_file.read(raw)


# Where an adjective may stand, behind the word: predicative, before or after the noun.
_PLACE_OF_ADJECTIVE = re.compile(r"\((p|a|ip)\)$")


def wordnet(*files: bytes) -> Arrays:
  """A row a synset, in the order of the files: adjectives, adverbs, nouns, verbs.

  gloss: strings, the definition without the examples that follow it in quotes. part: "a", "s"
  (satellite adjective), "r" (adverb), "n" or "v". word: strings, all words of all synsets, spaces
  between their parts. synset: int32, the row that each word belongs to; the first of a row is the
  one that WordNet lists first. domain: int32, the number of the lexicographers' file of each row,
  such as 5 for animals.
  """
  glosses, parts, words, rows, domains = [], [], [], [], []
  for raw in files:
    for line in raw.decode("latin-1").splitlines():
      if line.startswith(" "):  # the licence
        continue
      fields, _, gloss = line.partition(" | ")
      _, domain, part, count, *rest = fields.split(" ")
      for word in rest[: 2 * int(count, 16) : 2]:  # words and their numbers in turn
        words.append(_PLACE_OF_ADJECTIVE.sub("", word).replace("_", " "))
        rows.append(len(glosses))
      glosses.append(gloss.partition('"')[0].strip(" ;:"))
      parts.append(part)
      domains.append(int(domain))
  text = np.dtypes.StringDType()
  return {
    "gloss": np.array(glosses, text),
    "part": np.array(parts),
    "domain": np.array(domains, np.int32),
    "word": np.array(words, text),
    "synset": np.array(rows, np.int32),
  }
