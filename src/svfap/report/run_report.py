"""The report of runs: reads their folders and lays out all there is to see of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from svfap.console import track
from svfap.errors import UserError
from svfap.report.agreement import agreement_section
from svfap.report.bottleneck import bottleneck_section
from svfap.report.calibration import calibration_section
from svfap.report.embedding import embedding_section
from svfap.report.hardest import hardest_section
from svfap.report.runs import Run, read_run
from svfap.report.scores import overview, scores_section, training_section
from svfap.view.page import Section, write_page

PICTURES = {
    "timeline": "Affect over time in one video",
    "picture": "Reconstruction of masked frames",
    "film": "Reconstruction of masked frames, as a film",
}


def run_report(
    runs: Sequence[str | Path], out: str | Path, title: str = "SVFAP report", *, videos: int = 6, maps: bool = True
) -> None:
    """Write the page of one or several runs: an overview, then each run with all it holds.

    Args:
        runs: folders with any of `runs.RUN_FILES`, or of folds (`fold_<name>/`), which count as one run; what is missing is
            left out. Videos and model are looked for where the evaluation found them.
        out: the HTML file.
        videos: how many of the hardest test videos are shown. maps: draw the bottleneck's maps, which takes the model.

    Raises:
        UserError: no run, a folder that is missing or holds none of these files, or a file that cannot be read.
    """
    loaded = [read_run(Path(run)) for run in dict.fromkeys(runs)]
    if not loaded:
        raise UserError("report: no run folder given; name at least one")
    names = [run.name for run in loaded]
    for run in loaded:
        if names.count(run.name) > 1:
            run.name = f"{run.name} ({run.folder})"
    sections = [overview(loaded), *(_run_section(run, videos, maps) for run in track(loaded, "drawing"))]
    write_page(out, title, sections, subtitle=f"{len(loaded)} run{'s' * (len(loaded) > 1)}")


def _run_section(run: Run, videos: int, maps: bool) -> Section:
    parts = [
        training_section(run),
        scores_section(run),
        calibration_section(run),
        agreement_section(run),
        embedding_section(run),
        bottleneck_section(run) if maps else None,
        hardest_section(run, videos),
        _pictures_section(run),
    ]
    text = f"{run.folder}{f', {len(run.folds)} folds' if run.folds else ''}"
    details = {"Configuration": run.config} if run.config.strip() else {}
    return Section(run.name, text, details=details, parts=[part for part in parts if part is not None])


def _pictures_section(run: Run) -> Section | None:
    figures = {PICTURES[name]: path for name, path in run.pictures.items()}
    return Section("On video", figures=figures) if figures else None
