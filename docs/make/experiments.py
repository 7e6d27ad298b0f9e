"""The results in docs/experiments.md: a short table of every experiment in a folder of `svfap experiment`.

    svfap experiment all --out runs/experiments
    python docs/make/experiments.py runs/experiments            # print them
    python docs/make/experiments.py runs/experiments --write    # put them into docs/experiments.md, between its two markers

Tables of experiments that are not in the folder stay in docs/experiments.md as they are.
A cell has the mean over pre-trainings and readings with its 95% interval, and the p of its difference to the reference row after
Holm's correction, in bold where it is below 0.05. Below each table stand the numbers of pre-trainings and readings, the standard
errors, and which rows have large ones.
"""

from __future__ import annotations

import argparse
import json
import math
import re
from pathlib import Path
from typing import Any

import pandas as pd

from svfap.console import counted
from svfap.experiments.results import READER_NAMES, SIGNIFICANCE
from svfap.experiments.studies import RECONSTRUCTIONS, STUDIES
from svfap.metric_table import interval_text, metric_heading
from svfap.view.tables import to_markdown

DOCUMENT = Path(__file__).resolve().parents[1] / "experiments.md"
BEGIN, END = "<!-- results: written by docs/make/experiments.py -->\n", "<!-- end of results -->\n"
PAPER = "paper: UAR / WAR, %"
HEADINGS = {name: f"{study.title} ({study.source})" for name, study in STUDIES.items()}
HEADINGS[RECONSTRUCTIONS] = "Reconstruction of hidden pixels (Fig. 6)"


def cell(metric: str, line: dict[str, Any]) -> str:
    """The score with its interval, and what the test against the reference row says."""
    score, compared = line["scores"][metric], line["difference"]
    value, low, high = (math.nan if score[key] is None else score[key] for key in ("value", "low", "high"))
    text = interval_text(metric, value, low, high)
    p = compared and compared.get("p_holm")
    if p is None:
        return text
    found = "p < 0.001" if p < 0.001 else f"p = {p:.3f}"
    return f"{text}, {f'**{found}**' if p < SIGNIFICANCE else found}"


def short_table(folder: Path, name: str) -> pd.DataFrame:
    """A row for each row of the experiment, a column for each reader, and the paper's scores."""
    found, axis = json.loads((folder / f"{name}.json").read_text()), STUDIES[name].axis
    full = pd.read_csv(folder / f"{name}.csv", dtype=str).fillna("").drop_duplicates(axis).set_index(axis)
    metric, rows = found["metrics"][0], {}
    for line in found["lines"]:
        shown = f"{line['row']} (reference)" if line["row"] == found["reference"] else line["row"]
        row = rows.setdefault(line["row"], {axis: shown})
        reader = READER_NAMES["linear" if line["reader"] == "chance" else line["reader"]]
        row[f"{reader}: {metric_heading(metric)}"] = cell(metric, line)
    table = pd.DataFrame(rows.values()).fillna("")
    if PAPER in full:
        table[PAPER] = [full[PAPER].get(row, "") for row in rows]
    return table


def sections(folder: Path) -> dict[str, str]:
    """Heading -> table of each experiment that is in the folder."""
    found = {}
    for name in STUDIES:
        if (folder / f"{name}.json").is_file():
            record = json.loads((folder / f"{name}.json").read_text())
            errors = re.search(r"Standard error of a row: .*?(?= The paper's numbers|$)", record["caption"])
            counts = (
                f"{counted(record['pretrainings'], 'pre-training')}, {counted(record['readings'], 'reading')} of each."
            )
            note = f"\n{counts}{f' {errors[0]}' if errors else ''}\n"
            found[HEADINGS[name]] = to_markdown(short_table(folder, name)) + note
    if (folder / f"{RECONSTRUCTIONS}.csv").is_file():
        table = pd.read_csv(folder / f"{RECONSTRUCTIONS}.csv", dtype=str).fillna("")
        found[HEADINGS[RECONSTRUCTIONS]] = to_markdown(table)
    return found


def written(text: str) -> dict[str, str]:
    """The sections between the two markers of the document."""
    parts = text.split(BEGIN)[1].split(END)[0].split("### ")[1:]
    return dict(part.split("\n", 1) for part in parts)


def join(found: dict[str, str]) -> str:
    """Sections as text, in the order of the paper."""
    return "\n".join(
        f"### {heading}\n\n{found[heading].strip()}\n" for heading in HEADINGS.values() if heading in found
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="of `svfap experiment`")
    parser.add_argument("--write", action="store_true", help="put the tables into docs/experiments.md")
    args = parser.parse_args()
    found = sections(args.folder)
    if not args.write:
        print(join(found))
        return
    text = DOCUMENT.read_text(encoding="utf-8")
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    DOCUMENT.write_text(before + BEGIN + join(written(text) | found) + "\n" + END + after, encoding="utf-8")


if __name__ == "__main__":
    main()
