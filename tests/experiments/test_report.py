"""The page of evidence: self-contained, escaped, complete."""

import base64
import json
import re

import pytest

from experiments import _records, _report, _runner
from experiments.__main__ import main
from experiments._claims import Amendment, Claim, Side, evaluate
from tests.experiments.conftest import make_module


@pytest.fixture
def results(fakes, tmp_path):
  module = fakes["a_good"]
  record = _records.execute("a_good", module, module.SIZES["desk"].config, size="desk")
  _records.save(module, record, tmp_path)
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


def test_the_page_shows_verdicts_numbers_and_the_command(results):
  page = " ".join(_report.write(results).read_text().split())
  for text in (
    'class="chip reproduced">reproduced<', 'class="chip holds">holds<',
    "error: fake &lt;b&gt; 0.25, base 2000; 2000 [2e+03, 2e+03] lower; "
    "claimed: more than 0.25 lower",
    "1.5 (MNIST, LeNet, Table 2)", "0.25 [-2.93, 3.43]", "Differs from the paper: Two seeds.",
    "rate of &lt;i&gt;fake&lt;/i&gt;: 0.5 of 0.1, 0.5, 0.9.", "seeds 2 (0 to 1)",
    'alt="a_good: A line of &#34;fake&#34; values."',
    "python -m experiments run a_good --size desk",
  ):  # fmt: skip
    assert text in page, text


def test_the_committed_record_names_its_own_command(fakes):
  module = fakes["a_good"]
  record = _records.execute("a_good", module, _records.report_settings(module), size="desk")
  assert _report.command(record) == "python -m experiments record a_good"


def test_amendments_and_withdrawn_claims_are_shown(fakes, tmp_path):
  module = fakes["a_good"]
  module.AMENDED = (
    Amendment("below", "2026-11-28", "Old <b>words</b>.", "New.", "Too hard."),
    Amendment("gone", "2026-11-29", "Gone text.", "", "An identity."),
  )
  record = _records.execute("a_good", module, module.SIZES["desk"].config, size="desk")
  del module.AMENDED
  _records.save(module, record, tmp_path)
  page = _report.write(tmp_path).read_text()
  assert "amended 2026-11-28: Too hard. Was: Old &lt;b&gt;words&lt;/b&gt;." in page
  assert "withdrawn</span> Gone text." in page and "2026-11-29: An identity." in page


def test_papers_are_judged_over_all_their_experiments(fakes, tmp_path):
  module, config = fakes["a_good"], fakes["a_good"].SIZES["desk"].config
  good = _records.execute("a_good", module, config, size="desk")
  second = make_module()
  claims = second.claims
  second.claims = lambda m, c: [claims(m, c)[0]._replace(better="higher")]
  bad = _records.execute("c_quiet", second, config, size="desk")
  (paper,) = _report.papers_of([good, bad], tmp_path, figures=False)
  assert paper["verdict"] == "partly" and len(paper["experiments"]) == 2
  assert paper["tally"] == [("holds", 1), ("fails", 1)]
  assert paper["headline"].startswith("error: 0.25 against 2000, 2000 [")
  assert paper["headline"].endswith("] lower")
  failed = {"name": "b_bad", "error": "it broke"}
  papers = _report.papers_of([failed, good], tmp_path, figures=False)
  assert [p["verdict"] for p in papers] == ["reproduced", "failed"]


def test_lines_fit_a_terminal_and_cut_no_number(results):
  record = _report.collect(results)[0]
  text, style = _report.line(record)
  assert len(text) <= 80 and "1/1  0.25 / 2000" in text and style == "green"
  assert _report.line({"name": "b_bad", "error": "it broke"})[0].split() == [
    "b_bad", "failed:", "it", "broke"
  ]  # fmt: skip


def test_changed_settings_are_part_of_the_command(fakes):
  module = fakes["a_good"]
  config = _runner.configure("a_good", module, "toy", seeds=4, settings=["rate=0.25", "sizes=7"])
  record = _records.execute("a_good", module, config, size="toy")
  expected = "python -m experiments run a_good --size toy --seeds 4 --set rate=0.25 sizes=7"
  assert _report.command(record) == expected


def test_a_claim_that_fails_is_shown_as_such(fakes, tmp_path):
  module = fakes["a_good"]
  settings = ["seeds=9", "first_seed=5000"]
  config = _runner.configure("a_good", module, "desk", settings=settings)
  _records.save(module, _records.execute("a_good", module, config, size="desk"), tmp_path)
  page = _report.write(tmp_path).read_text()
  assert 'class="chip fails">fails<' in page
  assert 'class="chip not-reproduced">not reproduced<' in page


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
  (tmp_path / "a_good.json").write_text(json.dumps({"name": "a_good", "format": 1}))
  assert main(["report", "--out", str(tmp_path)]) == 2
  assert "run a_good again" in capsys.readouterr().err
  (tmp_path / "a_good.json").write_text(json.dumps({"name": "a_good", "format": 2}))
  assert main(["report", "--out", str(tmp_path)]) == 2
  assert "it lacks paper, size" in capsys.readouterr().err


def test_changed_and_added_claims_say_so(fakes, tmp_path):
  module = fakes["a_good"]
  record = _records.execute("a_good", module, module.SIZES["toy"].config, size="toy")
  for was, words in (("Old <b>.", "amended 2026-11-28: Why. Was: Old &lt;b&gt;."),
                     ("", "added 2026-11-28: Why.\n</div>")):  # fmt: skip
    said = Amendment("below", "2026-11-28", was, record["claims"][0]["text"], "Why.")
    assert words in _report.html([record | {"amended": [said._asdict()]}], tmp_path)


def test_a_comparison_says_which_way_it_goes():
  ours, base = Side("ours", [1.0, 1.1, 0.9]), Side("base", [2.0, 2.2, 1.8])
  make = lambda kind, **more: evaluate(Claim("key", "Text.", kind, "error", ours, base, **more))
  told = lambda kind, **more: _report.numbers_of(make(kind, **more)).split("; ", 1)[1]
  ratio = {"better": "lower", "scale": "ratio"}
  assert told("paper", **ratio) == "2 [2, 2] times lower; claimed: lower"
  assert told("paper", margin=1.5, **ratio).endswith("claimed: more than 1.5 times lower")
  assert told("paper", margin=0.5, **ratio).endswith("claimed: at most 2 times higher")
  assert told("control", margin=1.5, **ratio).endswith("claimed: equal within a factor of 1.5")
  assert told("control", margin=0.8, **ratio).endswith("claimed: equal within a factor of 1.25")
  assert told("paper", scale="ratio", margin=1.0).startswith(
    "2 [2, 2] times lower; claimed: higher"
  )
  assert told("paper").startswith("1 [0.752, 1.25] lower; claimed: higher")
  assert told("paper", margin=-0.1).endswith("claimed: at most 0.1 lower")
  assert told("control", margin=0.1).endswith("claimed: equal within 0.1")
