"""The evidence: one self-contained page, and lines for the terminal."""

import base64
import collections
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
from rich.console import Console
from rich.text import Text

from experiments import _claims, _records, _runner
from experiments._protocol import to_json

_TEMPLATE = Path(__file__).with_name("_page.html.j2")
_ORDER = ("reproduced", "checked", "partly", "not reproduced", "open", "no claim", "failed")
_OPPOSITE = {"higher": "lower", "lower": "higher"}
_VERDICTS = ("holds", "fails", "open")
_STYLES = {
  "reproduced": "green",
  "checked": "green",
  "partly": "yellow",
  "open": "yellow",
  "no claim": "dim",
}
WIDTH = 80


def number(value: float | None) -> str:
  """Four significant digits; a dash for nothing."""
  return "-" if value is None else f"{value:.4g}"


def _interval(low: float | None, high: float | None) -> str:
  return "" if low is None or high is None else f" [{low:.3g}, {high:.3g}]"


def _pairs(values: Mapping[str, Any]) -> str:
  shown = {k: number(v) if isinstance(v, float) else v for k, v in values.items()}
  return ", ".join(f"{k} = {v}" for k, v in shown.items())


def numbers_of(claim: Mapping[str, Any]) -> str:
  """What a claim was decided on, in a line."""
  ours, base = claim["ours"], claim["baseline"]
  return (
    f"{claim['metric']}: {ours['name']} {number(ours['center'])}, {base['name']} "
    f"{number(base['center'])}; {_compared(claim)}; claimed: {_asked(claim)}"
  )


def _amount(size: float, claim: Mapping[str, Any], word: str, interval: str = "") -> str:
  return f"{number(size)}{interval} {'times ' if claim['scale'] == 'ratio' else ''}{word}"


def _compared(claim: Mapping[str, Any]) -> str:
  """By how much ours is higher or lower, whichever it is, with its interval."""
  gain, low, high = claim["gain"], claim["low"], claim["high"]
  if gain is None:
    return "not comparable"
  ratio, word = claim["scale"] == "ratio", claim["better"]
  if gain < (1 if ratio else 0):
    turn = lambda x: None if x is None else (1 / x if ratio else -x)
    gain, low, high, word = turn(gain), turn(high), turn(low), _OPPOSITE[word]
  return _amount(gain, claim, word, _interval(low, high))


def _asked(claim: Mapping[str, Any]) -> str:
  """What the interval had to show."""
  ratio, margin, word = claim["scale"] == "ratio", claim["margin"], claim["better"]
  none = 1 if ratio else 0
  if claim["kind"] == "control":
    size = max(margin, 1 / margin) if ratio else abs(margin)
    return f"equal within {'a factor of ' if ratio else ''}{number(size)}"
  if margin == none:
    return word
  if margin > none:
    return f"more than {_amount(margin, claim, word)}"
  return f"at most {_amount(1 / margin if ratio else -margin, claim, _OPPOSITE[word])}"


def headline(claims: Sequence[Mapping[str, Any]]) -> str:
  """The numbers of the first claim that is no control, short."""
  first = next((c for c in claims if c["kind"] != "control"), None)
  if first is None:
    return ""
  ours, base = first["ours"], first["baseline"]
  return (
    f"{first['metric']}: {number(ours['center'])} against {number(base['center'])}, "
    f"{_compared(first)}"
  )


def _figure(record: dict[str, Any], folder: Path) -> tuple[str, str]:
  """The picture beside the record, or one drawn now, and its description; empty without any."""
  try:
    module = _runner.load(record["name"])
  except (_runner.UsageError, ImportError, TypeError):
    return "", ""
  alt = f"{record['name']}: {_runner.first_line(module.figure.__doc__)}"
  path = folder / f"{record['name']}.png"
  try:
    raw = path.read_bytes() if path.exists() else _records.draw(module, record)
  except (TypeError, KeyError, ValueError):
    return "", ""
  return base64.b64encode(raw).decode(), alt


def command(record: dict[str, Any]) -> str:
  """The command that makes this record, with the settings that differ from the size's own."""
  name, size, settings = record["name"], record["size"], record["settings"]
  try:
    module = _runner.load(name)
    own = to_json(_runner.settings_of(module, size))
    if size == "desk" and settings == to_json(_records.report_settings(module)):
      return f"python -m experiments record {name}"
  except (_runner.UsageError, ImportError, TypeError, KeyError):
    own = settings
  parts = ["python -m experiments run", name, "--size", size]
  changed = {k: v for k, v in settings.items() if own.get(k) != v}
  if "seeds" in changed:
    parts += ["--seeds", str(changed.pop("seeds"))]
  if changed:
    show = lambda v: ",".join(map(str, v)) if isinstance(v, list) else str(v)
    parts += ["--set", *(f"{k}={show(v)}" for k, v in changed.items())]
  return " ".join(parts)


def _row(row: Mapping[str, Any]) -> dict[str, str]:
  ours, base, reported = row["ours"], row["baseline"], row["reported"]
  shown = "-"
  if reported:
    where = f", {reported['where']}" if reported["where"] else ""
    shown = f"{number(reported['value'])} ({reported['data']}, {reported['network']}{where})"
  return {
    "method": row["method"],
    "metric": row["metric"] + (" ↓" if row["better"] == "lower" else " ↑"),
    "ours": number(ours["center"]) + _interval(ours["low"], ours["high"]),
    "baseline": f"{base['name']}: {number(base['center'])}" if base else "-",
    "reported": shown,
  }


def _choice(choice: Mapping[str, Any]) -> str:
  grid = ", ".join(number(v) for v in choice["values"])
  edge = " It lies at an edge of its grid." if choice["at_edge"] else ""
  return f"{choice['name']}: {number(choice['chosen'])} of {grid}.{edge}"


def _times(wall: Mapping[str, Any]) -> str:
  cpu = f" ({wall['cpu_s']:.0f} s of CPU)" if "cpu_s" in wall else ""  # older records lack it
  return f"{wall['total_s']:.1f} s{cpu}, of which compiling {wall['compile_s']:.1f} s."


def _seeds(seeds: Sequence[int]) -> str:
  return f"{len(seeds)} ({seeds[0]} to {seeds[-1]})" if len(seeds) > 1 else f"1 ({seeds[0]})"


def entry(record: dict[str, Any], folder: Path, *, figures: bool = True) -> dict[str, Any]:
  """Everything that the page shows of one record, as text."""
  if "error" in record:
    return {"name": record["name"], "error": record["error"]}
  wall, amended = record["wall"], record["amended"]
  keys = {c["key"] for c in record["claims"]}
  claims = [
    {**c, "numbers": numbers_of(c), "amended": [a for a in amended if a["claim"] == c["key"]]}
    for c in record["claims"]
  ]
  figure, alt = _figure(record, folder) if figures else ("", "")
  return {
    "name": record["name"],
    "error": None,
    "claim": record["paper"]["claim"],
    "claims": claims,
    "withdrawn": [a for a in amended if a["claim"] not in keys],
    "rows": [_row(r) for r in record["table"]],
    "notes": list(dict.fromkeys(r["note"] for r in record["table"] if r["note"])),
    "choices": [_choice(c) for c in record["choices"]],
    "differs": record["differs"],
    "wall": _times(wall),
    "size": record["size"],
    "seeds": _seeds(record["seeds"]),
    "device": record["device"]["kind"],
    "versions": ", ".join(f"{k} {v}" for k, v in record["versions"].items()),
    "command": command(record),
    "settings": _pairs(record["settings"]),
    "figure": figure,
    "alt": alt,
  }


def papers_of(
  records: Sequence[dict[str, Any]], folder: Path, *, figures: bool = True
) -> list[dict[str, Any]]:
  """The records by paper: verdict, headline, and the entries of its experiments."""
  by_title: dict[str, list[dict[str, Any]]] = collections.defaultdict(list)
  for record in records:
    title = record["name"] if "error" in record else record["paper"]["title"]
    by_title[title].append(record)
  papers = []
  for title, group in by_title.items():
    good = [r for r in group if "error" not in r]
    claims = [claim for r in good for claim in r["claims"]]
    paper = good[0]["paper"] if good else {"authors": "", "year": "", "url": ""}
    counts = sorted({len(r["seeds"]) for r in good})
    found = collections.Counter(claim["verdict"] for claim in claims)
    papers.append(
      {
        "title": title,
        "anchor": re.sub(r"\W+", "-", title.lower()).strip("-"),
        "source": f"{paper['authors']}, {paper['year']}" if good else "",
        "url": paper["url"],
        "verdict": _claims.paper_verdict(claims) if len(good) == len(group) else "failed",
        "tally": [(verdict, found[verdict]) for verdict in _VERDICTS if found[verdict]],
        "headline": headline(claims),
        "seeds": " to ".join(map(str, counts[:1] + counts[1:][-1:])),
        "time": f"{sum(r['wall']['total_s'] for r in good):.0f} s",
        "experiments": [entry(r, folder, figures=figures) for r in group],
      }
    )
  return sorted(papers, key=lambda p: (_ORDER.index(p["verdict"]), p["title"]))


def collect(folder: Path) -> list[dict[str, Any]]:
  """All records of a folder, in order of name; a failure hides an older record of that name."""
  failed = {p.name.removesuffix(".error.json"): p for p in folder.glob("*.error.json")}
  paths = {p.stem: p for p in folder.glob("*.json") if not p.name.endswith(".error.json")}
  return [_records.read(path) for _, path in sorted({**paths, **failed}.items())]


def html(records: Sequence[dict[str, Any]], folder: Path) -> str:
  """The page; everything that comes out of a record is escaped."""
  environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
  environment.filters["slug"] = lambda text: text.replace(" ", "-")
  papers = papers_of(records, folder)
  found = collections.Counter(paper["verdict"] for paper in papers)
  counts = [(verdict, found[verdict]) for verdict in _ORDER if found[verdict]]
  return environment.from_string(_TEMPLATE.read_text()).render(papers=papers, counts=counts)


def write(folder: Path, *, target: Path | None = None) -> Path:
  """Writes the page of all records of a folder."""
  records = collect(folder)
  if not records:
    raise _runner.UsageError(f"There are no records in {folder}. Run an experiment first.")
  target = target or folder / "index.html"
  _records.write_atomically(target, html(records, folder))
  return target


def line(record: dict[str, Any]) -> tuple[str, str]:
  """One line of at most 80 columns where the name allows it, and the style of its verdict."""
  if "error" in record:
    return f"{record['name']:<28} failed: {record['error']}", "red"
  claims = record["claims"]
  holding = sum(c["verdict"] == "holds" for c in claims)
  verdict = _claims.paper_verdict(claims)
  text = f"{record['name']:<28} {verdict:<14} {holding} of {len(claims)} claims hold"
  time = f"{record['wall']['total_s']:.0f} s"
  first = next((c for c in claims if c["kind"] != "control"), None)
  if first:
    short = f"{number(first['ours']['center'])} / {number(first['baseline']['center'])}"
    text = f"{record['name']:<28} {verdict:<14} {holding}/{len(claims)}  {short}"
  return f"{text:<{WIDTH - 8}} {time:>7}", _STYLES.get(verdict, "red")


def print_lines(records: Sequence[dict[str, Any]], console: Console) -> None:
  """A line an experiment: verdict, claims that hold, ours / baseline of the first, time."""
  for record in records:
    text, style = line(record)
    console.print(Text(text, style=style), soft_wrap=True)


def print_details(record: dict[str, Any], console: Console) -> None:
  """Table and claims of one record."""
  shown = entry(record, Path(), figures=False)
  say = lambda text, style="": console.print(Text(text, style=style))
  for row in shown["rows"]:
    say(f"{row['metric']}")
    say(f"  {row['method']}: {row['ours']}; {row['baseline']}")
  for claim in shown["claims"]:
    say(f"{claim['verdict'].upper()} ({claim['kind']}): {claim['text']}")
    say(f"  {claim['numbers']}", "dim")
