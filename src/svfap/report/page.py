"""One self-contained HTML page: pictures, films and tables in a single file that needs no network.

`write_page` lays out any sections; `run_report` finds what run folders hold and makes sections of it.
"""

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment
from matplotlib.figure import Figure

from svfap.errors import UserError
from svfap.evaluate.metrics import REGRESSION_SCORES
from svfap.files import write_atomically
from svfap.report import figures as draw

Table = pd.DataFrame | Sequence[Mapping[str, Any]]
MEDIA = {".png": "image/png", ".mp4": "video/mp4"}
RUN_FILES = ("summary.json", "metrics.json", "log.jsonl", "predictions.csv", "timeline.csv", "reconstruction.png",
             "reconstruction.mp4", "config.yaml")  # fmt: skip
CLASSIFICATION_SCORES = ("uar", "war", "weighted_f1", "macro_f1")


@dataclass
class Section:
    """One heading of a page and what stands under it, in this order; every string is escaped.

    Attributes:
        heading: the title, which also stands in the table of contents.
        text: plain text; blank lines separate paragraphs.
        notice: a warning, set apart.
        tables: caption -> DataFrame or list of dicts; numbers are aligned right.
        figures: caption -> matplotlib `Figure`, or path of a `.png` or `.mp4`, embedded.
        details: caption -> text shown as it is, folded away until clicked.
    """

    heading: str
    text: str = ""
    notice: str = ""
    tables: Mapping[str, Table] = field(default_factory=dict)
    figures: Mapping[str, Figure | Path] = field(default_factory=dict)
    details: Mapping[str, str] = field(default_factory=dict)


def write_page(path: str | Path, title: str, sections: Sequence[Section], subtitle: str = "") -> None:
    """Write the sections as one HTML file with a table of contents, atomically.

    Raises:
        UserError: a picture that is missing or neither PNG nor MP4, or a place that cannot be written.
    """
    view = [
        {
            "id": f"section-{number}",
            "heading": section.heading,
            "paragraphs": [part.strip() for part in section.text.split("\n\n") if part.strip()],
            "notice": section.notice,
            "tables": [(caption, *_cells(table)) for caption, table in section.tables.items()],
            "figures": [_embed(caption, figure) for caption, figure in section.figures.items()],
            "details": section.details,
        }
        for number, section in enumerate(sections, 1)
    ]
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    html = environment.from_string(TEMPLATE).render(title=title, subtitle=subtitle, sections=view, style=STYLE)
    write_atomically(path, html.encode())


def run_report(runs: Sequence[str | Path], out: str | Path, title: str = "SVFAP report") -> None:
    """Write the page of one or several run folders: an overview, then each run with all it holds.

    Args:
        runs: folders with any of `RUN_FILES`; what is missing is left out.
        out: the HTML file.

    Raises:
        UserError: no run, a folder that is missing or holds none of these files, or a file that cannot be read.
    """
    loaded = [_read_run(Path(run)) for run in dict.fromkeys(runs)]
    if not loaded:
        raise UserError("report: no run folder given; name at least one")
    names = [run["name"] for run in loaded]
    for run in loaded:
        if names.count(run["name"]) > 1:
            run["name"] = f"{run['name']} ({run['folder']})"
    sections = [_overview(loaded), *map(_run_section, loaded)]
    write_page(out, title, sections, subtitle=f"{len(loaded)} run{'s' * (len(loaded) > 1)}")


def _read_run(folder: Path) -> dict[str, Any]:
    """What a run folder holds: `name`, `folder`, and the contents or paths of its files by stem."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such run folder")
    found = {name: folder / name for name in RUN_FILES if (folder / name).is_file()}
    if not found:
        raise UserError(f"{folder}: holds none of {', '.join(RUN_FILES)}; is it a run folder?")
    summary = _read_json(found["summary.json"]) if "summary.json" in found else {}
    return {
        "name": str(summary.pop("name", folder.resolve().name)),
        "folder": folder,
        "summary": summary,
        "metrics": _read_json(found["metrics.json"]) if "metrics.json" in found else {},
        "log": _read_log(found["log.jsonl"]) if "log.jsonl" in found else [],
        "predictions": _read_csv(found["predictions.csv"]) if "predictions.csv" in found else None,
        "timeline": _read_csv(found["timeline.csv"]) if "timeline.csv" in found else None,
        "config": found["config.yaml"].read_text(errors="replace") if "config.yaml" in found else "",
        "pictures": [found[name] for name in ("reconstruction.png", "reconstruction.mp4") if name in found],
    }


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as JSON ({error})") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: must hold a JSON object, not a {type(content).__name__}")
    return content


def _read_log(path: Path) -> list[dict[str, Any]]:
    records = []
    lines = path.read_text(errors="replace").splitlines()
    for number, line in enumerate(lines, 1):
        try:
            if line.strip():
                records.append(json.loads(line))
        except ValueError:
            # A run that is still writing, or was killed, may leave half a line at the end.
            if number < len(lines):
                raise UserError(f"{path}: line {number} is not JSON; remove it") from None
    return records


def _read_csv(path: Path) -> pd.DataFrame:
    try:
        return pd.read_csv(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as CSV ({error})") from None


def _overview(runs: Sequence[Mapping[str, Any]]) -> Section:
    """All runs side by side: test metrics, bars where two runs share a kind of metric, and facts."""
    section = Section("Overview", tables={}, figures={})
    assert isinstance(section.tables, dict) and isinstance(section.figures, dict)
    scored = {run["name"]: run["metrics"] for run in runs if run["metrics"]}
    metrics = [m for m in (*CLASSIFICATION_SCORES, *REGRESSION_SCORES) if any(m in s for s in scored.values())]
    if scored:
        section.tables["Test metrics"] = [
            {
                "run": name,
                **{_column(m): _written(m, scores.get(m)) for m in metrics},
                "videos": _coverage(scores),
            }
            for name, scores in scored.items()
        ]
    for caption, group in (
        ("Classification on the test set", CLASSIFICATION_SCORES),
        ("Regression on the test set", ("ccc", "pcc", "accuracy")),
    ):
        results = {name: {m: s[m] for m in group if m in s} for name, s in scored.items() if group[0] in s}
        if len(results) > 1:
            section.figures[caption] = draw.comparison_bars(results, group)
    facts: dict[str, dict[str, Any]] = {}
    for run in runs:
        for key, value in {**run["summary"], **_progress(run["log"])}.items():
            facts.setdefault(str(key).replace("_", " "), {})[run["name"]] = value
    section.tables["About the runs"] = [
        {"": key, **{run["name"]: values.get(run["name"]) for run in runs}} for key, values in facts.items()
    ]
    return section


def _run_section(run: Mapping[str, Any]) -> Section:
    """One run: tables of its scores, then curves, confusion matrix or scatter, timeline and reconstruction."""
    metrics = run["metrics"]
    tables: dict[str, Table] = {}
    pictures: dict[str, Figure | Path] = {}
    if any(record.get("kind") in ("train", "val") for record in run["log"]):
        pictures["Training: loss and validation over epochs"] = draw.loss_curves(run["log"])
    if per_class := metrics.get("per_class"):
        absent = metrics.get("classes_absent", [])
        tables["Per class, on the test set"] = [
            {"class": name, **{_column(m, "uar"): None if name in absent else _written("uar", s[m])
                               for m in ("accuracy", "precision", "f1")}, "videos": s["count"]}
            for name, s in per_class.items()
        ]  # fmt: skip
        if "confusion" in metrics:
            pictures["Confusion matrix: rows are the truth"] = draw.confusion_matrix(
                metrics["confusion"], list(per_class)
            )
    if per_dimension := metrics.get("per_dimension"):
        tables["Per dimension, on the test set"] = [
            {"dimension": name, **{_column(m): _written(m, s[m]) for m in REGRESSION_SCORES}}
            for name, s in per_dimension.items()
        ]
    if (table := run["predictions"]) is not None:
        dimensions = [c.removeprefix("target_") for c in table.columns if c.startswith("target_")]
        pairs = [name for name in dimensions if f"pred_{name}" in table.columns]
        if pairs and len(table):
            targets, predicted = (table[[f"{kind}_{name}" for name in pairs]] for kind in ("target", "pred"))
            pictures["Predictions over targets"] = draw.regression_scatter(targets, predicted, pairs)
    if run["timeline"] is not None and len(run["timeline"]):
        pictures["Affect over time in one video"] = draw.timeline(run["timeline"])
    for path in run["pictures"]:
        pictures["Reconstruction of masked frames" + (", as a film" if path.suffix == ".mp4" else "")] = path
    details = {"Configuration": run["config"]} if run["config"].strip() else {}
    return Section(run["name"], str(run["folder"]), _warning(metrics), tables, pictures, details)


def _warning(metrics: Mapping[str, Any]) -> str:
    expected, evaluated = metrics.get("num_expected"), metrics.get("num_evaluated")
    parts = []
    if expected is not None and evaluated is not None and evaluated < expected:
        parts.append(f"Only {evaluated} of {expected} test videos could be evaluated; the scores leave the others out.")
    if metrics.get("classes_absent"):
        parts.append(
            f"Not in the test set: {', '.join(metrics['classes_absent'])}. UAR averages over the other classes."
        )
    if metrics.get("degenerate"):
        parts.append(f"Constant targets or predictions, PCC and CCC set to 0: {', '.join(metrics['degenerate'])}.")
    return " ".join(parts)


def _progress(log: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """How far the log of a run goes."""
    train = [record for record in log if record.get("kind") == "train"]
    if not train:
        return {}
    return {"epochs trained": len({record["epoch"] for record in train}), "last training loss": train[-1]["loss"]}


def _column(metric: str, like: str = "") -> str:
    return draw.metric_name("recall" if like and metric == "accuracy" else metric) + (
        ", %" if (like or metric) in draw.PERCENT else ""
    )


def _written(metric: str, value: float | None) -> str | None:
    """A metric as the field writes it: percentages with two digits, the rest with three or four."""
    if value is None:
        return None
    return f"{100 * value:.2f}" if metric in draw.PERCENT else f"{value:.4f}"


def _coverage(scores: Mapping[str, Any]) -> str | int | None:
    expected, evaluated = scores.get("num_expected"), scores.get("num_evaluated", scores.get("num_samples"))
    return evaluated if expected in (None, evaluated) else f"{evaluated} of {expected}"


def _cells(table: Table) -> tuple[list[str], list[list[tuple[str, bool]]]]:
    """Header and rows of a table as text, each cell with whether it is a number."""
    frame = table if isinstance(table, pd.DataFrame) else pd.DataFrame(list(table), dtype=object)
    rows = [[_cell(value) for value in row] for row in frame.itertuples(index=False, name=None)]
    return [str(column) for column in frame.columns], rows


def _cell(value: Any) -> tuple[str, bool]:
    if value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value)):
        return "–", True
    if isinstance(value, bool) or not isinstance(value, Real):
        text = ("yes" if value else "no") if isinstance(value, bool) else str(value)
        return text, bool(re.fullmatch(r"[-+−]?[\d.,]+%?", text))
    return (f"{value:,}" if float(value).is_integer() and not isinstance(value, float) else f"{value:.4g}"), True


def _embed(caption: str, figure: Figure | Path) -> dict[str, Any]:
    """A picture or film as a data URI, with its display width in CSS pixels where known."""
    if isinstance(figure, Figure):
        return _media(caption, "image/png", draw.png_bytes(figure), round(figure.get_figwidth() * 92))
    path = Path(figure)
    if path.suffix.lower() not in MEDIA:
        raise UserError(f"{path}: only {' and '.join(MEDIA)} can be embedded")
    try:
        return _media(caption, MEDIA[path.suffix.lower()], path.read_bytes())
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from None


def _media(caption: str, kind: str, content: bytes, width_px: int | None = None) -> dict[str, Any]:
    uri = f"data:{kind};base64,{base64.b64encode(content).decode()}"
    return {"caption": caption, "uri": uri, "film": kind.startswith("video"), "width_px": width_px}


STYLE = """
:root { color-scheme: light dark; --paper: #fff; --back: #f6f8fa; --ink: #1f2933; --muted: #5d6a78; --line: #dfe5eb;
  --accent: #0072b2; --warn: #fff4dc; --warn-line: #e69f00; }
@media (prefers-color-scheme: dark) { :root { --paper: #1b2229; --back: #12171c; --ink: #e4e9ee; --muted: #9aa7b4;
  --line: #313b45; --accent: #56b4e9; --warn: #33290f; --warn-line: #b07a00; } }
* { box-sizing: border-box; }
html { scroll-behavior: smooth; }
body { margin: 0; background: var(--back); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "DejaVu Sans", sans-serif; }
.layout { display: grid; grid-template-columns: 15rem minmax(0, 1fr); gap: 2rem; max-width: 82rem; margin: 0 auto;
  padding: 2.5rem 1.5rem; }
header { grid-column: 1 / -1; border-bottom: 1px solid var(--line); padding-bottom: 1.2rem; }
h1 { font-size: 2rem; line-height: 1.2; margin: 0; letter-spacing: -.01em; }
header p { margin: .3rem 0 0; color: var(--muted); }
nav { position: sticky; top: 1.5rem; align-self: start; font-size: .92rem; max-height: 92vh; overflow-y: auto; }
nav h2 { font-size: .75rem; letter-spacing: .08em; text-transform: uppercase; color: var(--muted); margin: 0 0 .5rem; }
nav ol { list-style: none; margin: 0; padding: 0; border-left: 2px solid var(--line); }
nav a { display: block; padding: .25rem .9rem; color: var(--ink); text-decoration: none; overflow-wrap: anywhere; }
nav a:hover { color: var(--accent); }
section { background: var(--paper); border: 1px solid var(--line); border-radius: 12px; padding: 1.5rem 1.75rem;
  margin-bottom: 1.5rem; scroll-margin-top: 1rem; }
section > h2 { font-size: 1.35rem; margin: 0 0 .6rem; overflow-wrap: anywhere; }
p { margin: 0 0 .9rem; color: var(--muted); max-width: 46rem; overflow-wrap: anywhere; }
.notice { background: var(--warn); border-left: 4px solid var(--warn-line); color: var(--ink); border-radius: 6px;
  padding: .6rem 1rem; }
.scroll { overflow-x: auto; margin: 0 0 1.4rem; }
table { border-collapse: collapse; font-size: .92rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; font-weight: 600; padding: 0 0 .4rem; white-space: nowrap; }
th, td { padding: .4rem .9rem; text-align: left; border-bottom: 1px solid var(--line); }
th { color: var(--muted); font-weight: 600; font-size: .84rem; border-bottom-width: 2px; }
th:first-child, td:first-child { padding-left: .2rem; }
tbody tr:hover { background: var(--back); }
.number { text-align: right; white-space: nowrap; }
.figures { display: flex; flex-wrap: wrap; gap: 1.5rem; align-items: flex-start; }
figure { margin: 0; max-width: 100%; }
figcaption { font-size: .92rem; font-weight: 600; margin-bottom: .5rem; }
img, video { display: block; max-width: 100%; height: auto; border-radius: 8px; }
@media (prefers-color-scheme: dark) { img { background: #fff; padding: 8px; } }
details { margin-top: 1.2rem; }
summary { cursor: pointer; font-weight: 600; font-size: .92rem; }
pre { overflow-x: auto; background: var(--back); border-radius: 8px; padding: 1rem; font-size: .82rem; line-height: 1.45; }
@media (max-width: 60rem) { .layout { grid-template-columns: minmax(0, 1fr); padding: 1.2rem .8rem; gap: 1.2rem; }
  nav { position: static; max-height: none; } section { padding: 1rem; } }
@media print { nav { display: none; } .layout { display: block; } section { break-inside: avoid; border: 0; } }
"""

TEMPLATE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title>
<style>{{ style | safe }}</style>
</head>
<body>
<div class="layout">
<header><h1>{{ title }}</h1>{% if subtitle %}<p>{{ subtitle }}</p>{% endif %}</header>
<nav aria-label="Contents"><h2>Contents</h2><ol>
{% for section in sections %}
<li><a href="#{{ section.id }}">{{ section.heading }}</a></li>
{% endfor %}
</ol></nav>
<main>
{% for section in sections %}
<section id="{{ section.id }}">
<h2>{{ section.heading }}</h2>
{% for paragraph in section.paragraphs %}
<p>{{ paragraph }}</p>
{% endfor %}
{% if section.notice %}
<p class="notice" role="note">{{ section.notice }}</p>
{% endif %}
{% for caption, header, rows in section.tables if rows %}
<div class="scroll"><table>
<caption>{{ caption }}</caption>
<thead><tr>
{% for name in header %}<th scope="col"{% if rows[0][loop.index0][1] %} class="number"{% endif %}>{{ name }}</th>{% endfor %}
</tr></thead>
<tbody>
{% for row in rows %}
<tr>{% for text, number in row %}<td{% if number %} class="number"{% endif %}>{{ text }}</td>{% endfor %}</tr>
{% endfor %}
</tbody>
</table></div>
{% endfor %}
<div class="figures">
{% for figure in section.figures %}
<figure><figcaption>{{ figure.caption }}</figcaption>
{% if figure.film %}
<video src="{{ figure.uri }}" aria-label="{{ figure.caption }}" controls loop muted playsinline></video>
{% else %}
<img src="{{ figure.uri }}" alt="{{ figure.caption }}"{% if figure.width_px %} width="{{ figure.width_px }}"{% endif %}>
{% endif %}
</figure>
{% endfor %}
</div>
{% for caption, text in section.details.items() %}
<details><summary>{{ caption }}</summary><pre>{{ text }}</pre></details>
{% endfor %}
</section>
{% endfor %}
</main>
</div>
</body>
</html>
"""
