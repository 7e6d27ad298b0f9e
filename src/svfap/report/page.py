"""One self-contained HTML page: pictures, films and tables in a single file that needs no network.

`write_page` lays out any sections; `run_report` finds what run folders hold and makes sections of it.
"""

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
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
from svfap.report.template import STYLE, TEMPLATE

Table = pd.DataFrame | Sequence[Mapping[str, Any]]
MEDIA = {".png": "image/png", ".mp4": "video/mp4"}
# What a run's folder may hold, as the other verbs write it by default.
RUN_FILES = {
    "config": "config.yaml",
    "log": "log.jsonl",
    "training": "metrics.json",
    "metrics": "evaluation/metrics.json",
    "predictions": "evaluation/predictions.csv",
    "timeline": "prediction/affect.csv",
    "picture": "reconstruction/reconstruction.png",
    "film": "reconstruction/reconstruction.mp4",
}
TRAINING_FACTS = ("epochs", "best_epoch", "chosen_by", "parameters", "seconds", "num_unreadable")
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
    found = {name: folder / file for name, file in RUN_FILES.items() if (folder / file).is_file()}
    if not found:
        raise UserError(f"{folder}: holds none of {', '.join(RUN_FILES.values())}; is it a run folder?")

    def read(name: str, reader: Callable[[Path], Any], default: Any) -> Any:
        return reader(found[name]) if name in found else default

    training = read("training", _read_json, {})
    timeline = read("timeline", _read_csv, None)
    if timeline is not None and "video" in timeline and len(timeline):  # the first video's rows stand for all
        timeline = timeline[timeline["video"] == timeline["video"].iloc[0]].drop(columns="video")
    return {
        "name": folder.resolve().name,
        "folder": folder,
        "summary": {key: training[key] for key in TRAINING_FACTS if training.get(key) is not None},
        "metrics": read("metrics", _read_json, {}),
        "log": read("log", _read_log, []),
        "predictions": read("predictions", _read_csv, None),
        "timeline": timeline,
        "config": read("config", lambda file: file.read_text(errors="replace"), ""),
        "pictures": [found[name] for name in ("picture", "film") if name in found],
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
            record = json.loads(line) if line.strip() else {}
        except ValueError:
            # A run that is still writing, or was killed, may leave half a line at the end.
            if number < len(lines):
                raise UserError(f"{path}: line {number} is not JSON; remove it") from None
            break
        if not isinstance(record, dict):
            raise UserError(f"{path}: line {number} is not a JSON object; remove it")
        records.append(record)
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
    for caption, listed, group in (
        ("Classification on the test set", CLASSIFICATION_SCORES, CLASSIFICATION_SCORES),
        ("Regression on the test set", REGRESSION_SCORES, ("ccc", "pcc", "accuracy")),
    ):
        mine = {name: scores for name, scores in scored.items() if group[0] in scores}
        section.tables[caption] = [
            {"run": name, **{_column(m): _written(m, s.get(m)) for m in listed}, "videos": _coverage(s)}
            for name, s in mine.items()
        ]
        if len(mine) > 1:
            results = {name: {m: s[m] for m in group if m in s} for name, s in mine.items()}
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
    for caption, scores in (
        ("Per dimension, on the test set", metrics),
        ("Per dimension, all frames of the test set pooled", metrics.get("frames", {})),
    ):
        if per_dimension := scores.get("per_dimension"):
            tables[caption] = [
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
    if value is None or value is pd.NA or (isinstance(value, Real) and math.isnan(value)):
        return "–", True
    if isinstance(value, bool) or not isinstance(value, Real):
        text = ("yes" if value else "no") if isinstance(value, bool) else str(value)
        return text, bool(re.fullmatch(r"[-+−]?[\d.,]+%?", text))
    if float(value).is_integer() and not isinstance(value, float):
        return f"{value:,}", True
    return (f"{value:,.0f}" if abs(float(value)) >= 1000 else f"{value:.4g}"), True


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
