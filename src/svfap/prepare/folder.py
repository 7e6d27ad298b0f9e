"""Anyone's own data: one folder per class, a table of any columns, or a heap of videos without labels."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from svfap.prepare.dataset import Dataset, Release


@dataclass(frozen=True)
class Options:
    """Where clips, labels and parts come from."""

    unlabelled: bool = False
    """every video and folder of frames below root, at any depth, for pre-training"""
    table: Path | None = None
    """CSV file with one row per clip; its columns start_s, end_s, box and frame_values are passed on"""
    path_column: str = "path"
    """column of the clips' paths, relative to root"""
    label_column: str | None = None
    """column of class names; without it and value_columns the clips are unlabelled"""
    value_columns: list[str] | str | None = None
    """columns of numbers to regress, in order, as valence,arousal; a cell of several, with spaces between, has one per frame"""
    label_names: list[str] | str | None = None
    """classes in order, as sad,happy or [sad, happy]; default: those found, sorted"""
    frame_values_column: str | None = None
    """column of CSV files, relative to root, with one row per frame: their columns are those that value_columns names, or
    `label`, whose classes label_names gives"""
    subject_column: str | None = None
    """column of who is seen; no subject then lies on both sides of a split"""
    group_column: str | None = None
    """column of the groups over which an evaluation averages"""
    split_column: str | None = None
    """column that says train, val or test"""
    folds: int | None = None
    """cross-validation with that many folds, in place of one split"""
    test_fraction: float = 0.2
    """share of the clips that becomes test where neither split_column nor folds is given; 0: no test"""


def adapt(dataset: Dataset, release: Release) -> Dataset:
    """The description that the options ask for."""
    from svfap.prepare.own import describe  # slow to import, and every verb's help imports this module

    return describe(dataset, release)


DATASET = Dataset(
    name="folder",
    title="Own data",
    summary="your own videos: one folder per class, a CSV of any columns, or unlabelled",
    source="",
    licence="your own: see that the people in the videos agreed to this use",
    layout="""\
happy/1.mp4, happy/2/*.jpg, …      one folder per class, with videos or folders of frames at any depth
sad/3.mp4, …
or --table FILE.csv whose path column is relative to --root, or --unlabelled true for all videos below --root""",
    protocol="As the options say: a column of the table, folds, or a share for test.",
    checked="Files that the table lists, those of labels per frame too; labels and numbers. "
    "No subject lies in both training and test of a split made here.",
    read=lambda release: (),  # what `adapt` gives reads
    options=Options,
    adapt=adapt,
)
