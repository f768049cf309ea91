"""The page of evidence: self-contained, escaped, complete."""

import base64
import json
import re

import pytest

from experiments import _report, _runner
from experiments.__main__ import main


@pytest.fixture
def results(fakes, tmp_path):
  module = fakes["a_good"]
  record = _runner.execute("a_good", module, module.SIZES["desk"], size="desk")
  _runner.save(module, record, tmp_path)
  return tmp_path


def test_the_page_embeds_the_figure_and_needs_nothing_else(results):
  page = _report.write(results).read_text()
  pictures = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
  assert [base64.b64decode(p) for p in pictures] == [(results / "a_good.png").read_bytes()]
  assert not re.search(r"""(src|href)=["'](?!data:|#)""", page)
  assert "<script" not in page


def test_text_from_records_is_escaped(results):
  page = _report.write(results).read_text()
  for raw in ("Fake <title>", "<em>works</em>", "fake <b>", "alert(1)</script>", "n & m"):
    assert raw not in page
  for escaped in ("Fake &lt;title&gt;", "fake &lt;b&gt;", "n &amp; m"):
    assert escaped in page


def test_the_table_shows_ours_baseline_reported_verdict_and_command(results):
  page = _report.write(results).read_text()
  for text in ("0.5", "base", "1.5", "1 of 1", "python -m experiments run a_good --size desk"):
    assert text in page


def test_changed_settings_are_part_of_the_command(fakes):
  module = fakes["a_good"]
  config = _runner.configure("a_good", module, "toy", seeds=4, settings=["rate=0.25", "sizes=7"])
  record = _runner.execute("a_good", module, config, size="toy")
  expected = "python -m experiments run a_good --size toy --seeds 4 --set rate=0.25 sizes=7"
  assert _report.command(record) == expected


def test_a_claim_that_fails_is_shown_as_such(fakes, tmp_path):
  module = fakes["a_good"]
  config = _runner.configure("a_good", module, "desk", settings=["seeds=9"])
  _runner.save(module, _runner.execute("a_good", module, config, size="desk"), tmp_path)
  page = _report.write(tmp_path).read_text()
  assert "does not hold" in page and "0 of 1" in page


def test_a_missing_picture_is_drawn_from_the_record(results):
  expected = (results / "a_good.png").read_bytes()
  (results / "a_good.png").unlink()
  page = _report.write(results).read_text()
  picture = re.search(r'base64,([^"]+)"', page)
  assert picture and base64.b64decode(picture[1])[:8] == expected[:8]


def test_report_command(results, capsys):
  assert main(["report", "--out", str(results)]) == 0
  assert "a_good" in capsys.readouterr().out
  assert (results / "index.html").exists()


def test_report_without_records_or_with_a_damaged_one(fakes, tmp_path, capsys):
  assert main(["report", "--out", str(tmp_path)]) == 2
  assert "no records" in capsys.readouterr().err
  (tmp_path / "a_good.json").write_text("{")
  assert main(["report", "--out", str(tmp_path)]) == 2
  assert "not a readable record" in capsys.readouterr().err
  (tmp_path / "a_good.json").write_text(json.dumps([1]))
  assert main(["report", "--out", str(tmp_path)]) == 2
