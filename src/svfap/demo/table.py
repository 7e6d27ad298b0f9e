"""The table of the demo: does pre-training help on synthetic faces, beside the trivial baselines?

Scores are UAR on people that no training saw, with 95% bootstrap intervals over people. The difference of each row to the
last one is paired, on the same drawn people.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from svfap.demo.config import PROBE
from svfap.evaluation.confidence import SubjectScore, interval, subject_scores
from svfap.evaluation.predictions import PREDICTIONS_FILE, labelled_outputs, read_predictions
from svfap.probe.config import PROBE_FOLDER, ProbeConfig
from svfap.probe.probe import probe_model
from svfap.probe.table import CHANCE, PIXELS, TRAINED, UNTRAINED
from svfap.view.tables import to_markdown, write_table

FROZEN = {
    CHANCE: "chance",
    PIXELS: "12 × 12 grey pixels, linear reader",
    UNTRAINED: "untrained encoder, linear reader of all tokens",
    TRAINED: "pre-trained for minutes, linear reader of all tokens",
}
LONGER_FROZEN = "pre-trained for longer, linear reader of all tokens"
LONGER = "pre-trained for longer, fine-tuned"


def evaluated(run: Path) -> SubjectScore:
    """UAR of a run that `svfap evaluate` has tested."""
    file = run / "evaluation" / PREDICTIONS_FILE
    table = read_predictions(file)
    read = labelled_outputs(table, file)
    assert read is not None
    return subject_scores(read.targets, read.outputs, table["subject"].to_numpy(), read.names)["uar"]


def probed(folder: Path, model: str | Path, out: Path | None = None) -> dict[str, SubjectScore]:
    """UAR of the linear reader of a frozen encoder, and of what its probe has beside, by what is read."""
    read = probe_model(model, ProbeConfig(dataset=folder / "data", out=out, **PROBE))
    return {row.encoder: scores["uar"] for row, scores in read.scores.items()}


def demo_table(folder: Path) -> str:
    """Write the table as `table.md`, `.csv` and `.tex` into the folder of the demo; returns it with its caption as Markdown."""
    minutes = probed(folder, folder / "pretrain")
    rows = {name: minutes[encoder] for encoder, name in FROZEN.items()}
    rows[LONGER_FROZEN] = probed(folder, "demo", folder / "longer_frozen" / PROBE_FOLDER)[TRAINED]
    runs = {"from scratch": "scratch", "pre-trained for minutes, fine-tuned": "finetuned", LONGER: "longer"}
    rows |= {name: evaluated(folder / run) for name, run in runs.items()}
    lines = []
    for name, score in rows.items():
        value, low, high = (100 * each for each in interval(score))
        line = {
            "": name,
            "UAR, %": f"{value:.1f}",
            "95% interval": f"{low:.1f} to {high:.1f}",
            "the last is better by": "",
        }
        if name != LONGER:
            more, least, most = (100 * each for each in interval(rows[LONGER], score))
            line["the last is better by"] = f"{more:+.1f} ({least:+.1f} to {most:+.1f})"
        lines.append(line)
    caption = (
        f"Seven expressions of {len(rows[LONGER].sums)} synthetic people that no training saw. Rates and lengths were chosen by "
        "the test people of the seeds 0 to 2. Scores on synthetic faces say nothing about real ones."
    )
    table = pd.DataFrame(lines)
    write_table(folder / "table", table, caption)
    return f"{caption}\n\n{to_markdown(table)}"
