"""A page about runs: an overview, then a section for each run with all that its folder holds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from svfap.console import counted, track
from svfap.errors import UserError
from svfap.reports.agreement import agreement_section
from svfap.reports.bottleneck import bottleneck_section
from svfap.reports.calibration import calibration_section
from svfap.reports.config import ReportConfig
from svfap.reports.embedding import embedding_section
from svfap.reports.hard_examples import hard_examples_section
from svfap.reports.probe import probe_section
from svfap.reports.runs import Run, read_run
from svfap.reports.scores import overview, reported_section, scores_section, training_section
from svfap.view.page import Section, write_page

PICTURES = {
    "timeline": "Affect over time in one video",
    "picture": "Reconstruction of masked frames",
    "film": "Reconstruction of masked frames, as a film",
}


def report(runs: str | Path | Sequence[str | Path], config: ReportConfig) -> list[Run]:
    """Write the page of one or several runs to `config.out`, and return the runs as read.

    runs: folders with any of `svfap.reports.runs.RUN_FILES`, or with folds (`fold_<name>/`), which count as one run; or with
    the evaluations of several heads. Each of these has a section after that of its run, as if it were a run.
    Sections without data are left out. Videos and models are opened where the evaluation found them, never from the network.
    Raises `UserError` for a missing folder or one with none of these files, a damaged file, and a page that cannot be written.
    """
    runs = [runs] if isinstance(runs, str | Path) else runs
    distinct: dict[Path, Path] = {}
    for folder in map(Path, runs):
        distinct.setdefault(folder.resolve(), folder)
    read = [read_run(folder) for folder in distinct.values()]
    loaded = [each for run in read for each in (run, *run.heads)]
    if not loaded:
        raise UserError("report: no run folder given; name at least one")
    names = [run.name for run in loaded]
    for run in loaded:
        if names.count(run.name) > 1:
            run.name = f"{run.name} ({run.folder})"
    sections = [overview(loaded), *(_run_section(run, config) for run in track(loaded, "drawing"))]
    write_page(config.out, config.title, sections, subtitle=counted(len(read), "run"))
    return loaded


def _run_section(run: Run, config: ReportConfig) -> Section:
    parts = [
        training_section(run),
        probe_section(run),
        scores_section(run),
        reported_section(run) if config.reported else None,
        calibration_section(run),
        agreement_section(run),
        embedding_section(run),
        bottleneck_section(run) if config.maps else None,
        hard_examples_section(run, config.videos),
        Section("On video", figures={PICTURES[name]: path for name, path in run.pictures.items()})
        if run.pictures
        else None,
    ]
    text = str(run.folder) + (f", {counted(len(run.folds), 'fold')}" if run.folds else "")
    details = {"Configuration": run.config} if run.config.strip() else {}
    return Section(run.name, text, details=details, parts=[part for part in parts if part is not None])
