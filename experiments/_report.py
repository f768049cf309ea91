"""The table of evidence: one self-contained HTML page, and the same table in the terminal."""

import base64
import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from experiments import _runner

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>jaxopt_robust: evidence</title>
<style>
:root { color-scheme: light dark; }
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 75rem;
  padding: 0 1rem; }
table { border-collapse: collapse; width: 100%; font-size: 0.9em; }
th, td { border-bottom: 1px solid #8886; padding: 0.4rem 0.6rem; text-align: left;
  vertical-align: top; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.yes { color: #1a7f37; } .no { color: #cf222e; font-weight: 600; } .muted { opacity: 0.7; }
section { margin-top: 2.5rem; } img { max-width: 100%; background: white; }
.wide { overflow-x: auto; }
</style>
</head>
<body>
<h1>jaxopt_robust: evidence</h1>
<p>{{ lines | length }} experiments. Each number comes with the command that makes it; a number that
the paper reports stands beside ours where the setting has one.</p>
<div class="wide">
<table>
<thead><tr><th>Paper and claim</th><th>Method</th><th>Metric</th><th class="number">Ours</th>
<th class="number">Baseline</th><th class="number">Reported</th><th>Holds</th>
<th class="number">Time</th></tr></thead>
<tbody>
{% for e in lines %}
{% if e.error %}
<tr><td><a href="#{{ e.name }}">{{ e.name }}</a></td>
<td colspan="7" class="no">failed: {{ e.error }}</td></tr>
{% else %}
{% for row in e.rows %}
<tr>
{% if loop.first %}<td rowspan="{{ e.rows | length }}"><a href="#{{ e.name }}">{{ e.paper }}</a><br>
<span class="muted">{{ e.claim }}</span></td>{% endif %}
<td>{{ row.method }}</td><td>{{ row.metric }}</td>
<td class="number">{{ row.ours }}</td>
<td class="number">{{ row.baseline }}{% if row.baseline_name %}<br>
<span class="muted">{{ row.baseline_name }}</span>{% endif %}</td>
<td class="number">{{ row.reported }}</td>
{% if loop.first %}<td rowspan="{{ e.rows | length }}" class="{{ 'yes' if e.all_hold else 'no' }}">
{{ e.holds }}</td>
<td rowspan="{{ e.rows | length }}" class="number">{{ e.time }}</td>{% endif %}
</tr>
{% endfor %}
{% endif %}
{% endfor %}
</tbody>
</table>
</div>
{% for e in lines %}
<section id="{{ e.name }}">
<h2>{{ e.name }}</h2>
{% if e.error %}
<p class="no">This run failed: {{ e.error }}</p>
{% else %}
<p>{{ e.source }}</p>
<p>{{ e.claim }}</p>
<ul>
{% for claim in e.claims %}
<li><span class="{{ 'yes' if claim.holds else 'no' }}">
{{ 'holds' if claim.holds else 'does not hold' }}</span>: {{ claim.text }}
<span class="muted">{{ claim.numbers }}</span></li>
{% endfor %}
</ul>
{% for note in e.notes %}<p class="muted">{{ note }}</p>{% endfor %}
{% if e.figure %}
<img alt="Figure of {{ e.name }}" src="data:image/png;base64,{{ e.figure }}">
{% endif %}
<p class="muted">Size {{ e.size }}, seeds {{ e.seeds }}, {{ e.device }};
{{ e.versions }}. {{ e.wall }}<br>
<code>{{ e.command }}</code><br>Settings: {{ e.settings }}</p>
{% endif %}
</section>
{% endfor %}
</body>
</html>
"""


def number(value: float | None, spread: float | None = None) -> str:
  """Four significant digits, with the spread over the seeds; a dash for nothing."""
  if value is None:
    return "-"
  text = f"{value:.4g}"
  return f"{text} ± {spread:.2g}" if spread is not None else text


def _pairs(values: dict[str, Any]) -> str:
  shown = {k: number(v) if isinstance(v, float) else v for k, v in values.items()}
  return ", ".join(f"{k} = {v}" for k, v in shown.items())


def _figure(record: dict[str, Any], folder: Path) -> str:
  """The picture beside the record, or one drawn now; empty when neither can be had."""
  path = folder / f"{record['name']}.png"
  if path.exists():
    return base64.b64encode(path.read_bytes()).decode()
  try:
    return base64.b64encode(_runner.draw(_runner.load(record["name"]), record)).decode()
  except (_runner.UsageError, ImportError, TypeError, KeyError, ValueError):
    return ""


def command(record: dict[str, Any]) -> str:
  """The command that makes this record, with the settings that differ from the size's own."""
  from experiments._protocol import to_json

  parts = ["python -m experiments run", record["name"], "--size", record["size"]]
  try:
    module = importlib.import_module(f"experiments.{record['name']}")
    own = to_json(module.SIZES[record["size"]])
  except (ImportError, AttributeError, KeyError):
    own = record["settings"]
  changed = {k: v for k, v in record["settings"].items() if own.get(k) != v}
  if "seeds" in changed:
    parts += ["--seeds", str(changed.pop("seeds"))]
  if changed:
    show = lambda v: ",".join(map(str, v)) if isinstance(v, list) else str(v)
    parts += ["--set", *(f"{k}={show(v)}" for k, v in changed.items())]
  return " ".join(parts)


def line(record: dict[str, Any], folder: Path, *, figures: bool = True) -> dict[str, Any]:
  """Everything that a report shows of one record, as text."""
  if "error" in record:
    return {"name": record["name"], "error": record["error"]}
  paper, wall, claims = record["paper"], record["wall"], record["claims"]
  rows = [
    {
      "method": r["method"],
      "metric": r["metric"] + (" ↓" if r["better"] == "lower" else " ↑"),
      "ours": number(r["ours"], r["spread"]),
      "baseline": number(r["baseline"]),
      "baseline_name": r["baseline_name"],
      "reported": number(r["reported"]),
    }
    for r in record["table"]
  ]
  holding = sum(c["holds"] for c in claims)
  section = f", {paper['section']}" if paper["section"] else ""
  return {
    "name": record["name"],
    "error": None,
    "paper": f"{paper['title']} ({paper['year']})",
    "source": f"{paper['authors']}: {paper['title']}, {paper['year']}{section}.",
    "claim": paper["claim"],
    "rows": rows,
    "claims": [{**c, "numbers": _pairs(c["numbers"])} for c in claims],
    "notes": [f"{r['method']}: {r['note']}" for r in record["table"] if r["note"]],
    "all_hold": holding == len(claims),
    "holds": f"{holding} of {len(claims)}",
    "time": f"{wall['total_s']:.1f} s",
    "wall": f"{wall['total_s']:.1f} s, of which compiling {wall['compile_s']:.1f} s.",
    "size": record["size"],
    "seeds": record["seeds"],
    "device": record["device"]["kind"],
    "versions": ", ".join(f"{k} {v}" for k, v in record["versions"].items()),
    "command": command(record),
    "settings": _pairs(record["settings"]),
    "figure": _figure(record, folder) if figures else "",
  }


def collect(folder: Path) -> list[dict[str, Any]]:
  """All records of a folder, in order of name; a failure hides an older record of that name."""
  failed = {p.name.removesuffix(".error.json"): p for p in folder.glob("*.error.json")}
  paths = {p.stem: p for p in folder.glob("*.json") if not p.name.endswith(".error.json")}
  return [_runner.read(path) for _, path in sorted({**paths, **failed}.items())]


def html(records: Sequence[dict[str, Any]], folder: Path) -> str:
  """The page; everything that comes out of a record is escaped."""
  environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
  lines = [line(record, folder) for record in records]
  return environment.from_string(_PAGE).render(lines=lines)


def write(folder: Path, *, target: Path | None = None) -> Path:
  """Writes the page of all records of a folder."""
  records = collect(folder)
  if not records:
    raise _runner.UsageError(f"There are no records in {folder}. Run an experiment first.")
  target = target or folder / "index.html"
  _runner.write_atomically(target, html(records, folder))
  return target


def print_table(records: Sequence[dict[str, Any]], console: Console) -> None:
  """The same table for a terminal."""
  table = Table(title="Evidence", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
  for heading in ("experiment", "method", "metric"):
    table.add_column(heading, overflow="fold", min_width=10)
  for heading in ("ours", "baseline"):
    table.add_column(heading, justify="right")
  table.add_column("against", overflow="fold")
  table.add_column("reported", justify="right")
  table.add_column("holds")
  table.add_column("time", justify="right")
  for record in records:
    entry = line(record, Path(), figures=False)
    if entry["error"]:
      table.add_row(Text(entry["name"]), Text(f"failed: {entry['error']}", style="red"))
    else:
      for i, row in enumerate(entry["rows"]):
        first = i == 0
        keys = ("method", "metric", "ours", "baseline", "baseline_name", "reported")
        table.add_row(
          Text(entry["name"] if first else ""),
          *(Text(row[key]) for key in keys),
          Text(entry["holds"], style="green" if entry["all_hold"] else "red") if first else "",
          Text(entry["time"]) if first else "",
        )
    table.add_section()
  console.print(table)
