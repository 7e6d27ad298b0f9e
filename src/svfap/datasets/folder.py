"""A user's own videos and pictures: one folder per class, a table with any columns, or without labels."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import compress
from pathlib import Path, PurePosixPath
from statistics import fmean

from svfap.console import counted, say, say_once
from svfap.data.find import same_text
from svfap.data.suffixes import PICTURE_SUFFIXES, VIDEO_SUFFIXES
from svfap.datasets.config import PrepareConfig
from svfap.datasets.dataset import ClipRow, Dataset, Part, Release, cross_validation
from svfap.errors import UserError

# numpy, pandas and scikit-learn are imported where they are used: the help of every dataset imports this module.

# Folders directly in root that are parts, each with a folder per class.
PARTS = {
    **dict.fromkeys(("train", "training", "train_set"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "val_set"), "val"),
    **dict.fromkeys(("test", "testing", "test_set"), "test"),
}
PASSED_ON = ("start_s", "end_s", "box", "frame_values", "source")


@dataclass(frozen=True, kw_only=True)
class FolderConfig(PrepareConfig):
    """Settings of your own data: where clips, labels and parts come from."""

    unlabelled: bool = False
    """Use every video and folder of frames below root, at any depth, for pre-training."""
    stills: bool = False
    """Every picture is a clip of its own, at any depth. Otherwise only those directly in the folder of a class are (with
    `unlabelled` in root), and those in a folder below it are the frames of one clip. A table names its clips itself."""
    table: Path | None = None
    """CSV file with one row per clip; its columns start_s, end_s, box, frame_values and source are copied to the manifests."""
    path_column: str = "path"
    """Column of the clips' paths, relative to root."""
    label_column: str | None = None
    """Column of class names; without it and value_columns the clips are unlabelled."""
    value_columns: list[str] | str | None = None
    """Columns of numbers to regress, in order, as valence,arousal; a cell may hold one number per frame, with spaces between."""
    label_names: list[str] | str | None = None
    """Classes in order, as sad,happy or [sad, happy]; default: those found, sorted."""
    frame_values_column: str | None = None
    """Column of CSV files, relative to root, with one row per frame. Their columns are those that value_columns names, or
    `label` with the classes in label_names."""
    subject_column: str | None = None
    """Column of subjects, by default `subject` if there is one; splits made here put each subject in one part only. Clips
    without a subject stay together by group, else by the column source (which `svfap crop` writes), else by file."""
    group_column: str | None = None
    """Column of groups of clips whose predictions an evaluation averages; default: `group`, if there is one."""
    split_column: str | None = None
    """Column with the values train, val or test."""
    folds: int | None = None
    """Number of folds of a cross-validation, in place of one split."""
    test_fraction: float = 0.2
    """Share of the clips that becomes test where neither split_column nor folds is given, as near as whole subjects, groups,
    sources or files allow; 0: no test."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.unlabelled and (self.table or self.label_names):
            raise UserError("unlabelled=true: takes neither `table` nor `label_names`")
        if self.stills and self.table:
            raise UserError("stills=true: is for folders; with `table`, give each picture or folder of frames a row")
        if self.table is None:
            of_table = ("label_column", "value_columns", "frame_values_column")
            for name in (*of_table, "subject_column", "group_column", "split_column"):
                if getattr(self, name) is not None:
                    raise UserError(f"{name}: names a column of a table; give --table FILE.csv")
        for name in ("label_names", "value_columns"):
            names = _listed(getattr(self, name))
            if len(set(names)) < len(names):
                raise UserError(f"{name}: contains a name twice ({', '.join(names)}); make them distinct")
        if self.label_names and self.table and not (self.label_column or self.frame_values_column):
            raise UserError("label_names: are the classes of `label_column`; give that as well")
        if self.value_columns and (self.label_column or self.label_names):
            raise UserError(
                "`label_column` or `label_names`, and `value_columns`: a dataset has one task; give one or the other"
            )
        if self.frame_values_column and not (self.value_columns or self.label_column or self.label_names):
            raise UserError("frame_values_column: name what its files contain, with `value_columns` or `label_names`")
        if self.folds is not None and (self.split_column or self.folds < 2):
            raise UserError("folds: give 2 or more, and no `split_column`")
        if not 0 <= self.test_fraction < 1:
            raise UserError(f"test_fraction={self.test_fraction}: must be at least 0 and below 1")


def _adapt(dataset: Dataset, release: Release) -> Dataset:
    """The description that the settings ask for, with its `read`."""
    config: FolderConfig = release.config
    if config.unlabelled:
        found: Iterable[str] = _walk(release, ".")
        if config.stills:
            found = [*found]
            _require_pictures(found, config.root)
        clips = Part("pretrain", map(ClipRow, found), on_disk=True)
        return replace(dataset, task="unlabelled", metrics=(), read=lambda release: [clips])
    if config.table is not None:
        return _adapt_to_table(dataset, release, config.table)
    part_of = _part_folders(release)
    if part_of and (config.folds is not None or config.test_fraction != FolderConfig.test_fraction):
        name = "folds" if config.folds is not None else "test_fraction"
        listed = ", ".join(part_of)
        raise UserError(
            f"{name}={getattr(config, name)}: {config.root} is divided already, into {listed}; leave it out"
        )
    classes = [name for folder in part_of or (".",) for name, is_dir in release.scan(folder).items() if is_dir]
    rows = [ClipRow(path, _class_of(name)) for name in classes for path in _walk(release, name, True)]
    if not rows:
        raise release.unexpected("one folder of videos per class", "or give --table or --unlabelled true")
    if config.stills:
        _require_pictures([row.path for row in rows], config.root)
        if "val" not in part_of.values():
            _warn_of_frames(rows, depth=3 if part_of else 2)
    names = _listed(config.label_names) or _sorted(row.label for row in rows)
    splits = [part_of[row.path.partition("/")[0]] for row in rows] if part_of else None
    on_disk = (replace(part, on_disk=True) for part in _split(release, rows, splits))
    if splits is None:
        return replace(dataset, label_names=names, read=lambda release: on_disk)
    return replace(
        dataset, label_names=names, read=lambda release: on_disk, has_validation="val" in splits, subject_independent=False
    )  # fmt: skip


def _part_folders(release: Release) -> dict[str, str]:
    """Folder in root -> train, val or test, where all of them are parts and one is for training; else empty."""
    part_of = {name: PARTS.get(name.lower(), "") for name, is_dir in release.scan(".").items() if is_dir}
    if "train" not in part_of.values() or not all(part_of.values()):
        return {}
    if len(set(part_of.values())) < len(part_of):
        raise release.unexpected("at most one folder of each part", "train, val and test")
    return part_of


def _class_of(folder: str) -> str:
    return same_text(folder.rpartition("/")[2])


def _walk(release: Release, folder: str, images_are_clips: bool = False) -> Iterator[str]:
    """Videos and folders of frames below a folder, at any depth.

    images_are_clips: images directly in `folder` are separate clips; otherwise they are the frames of one clip, as they are
    in folders below it, unless the setting `stills` says that all are clips.
    """
    stills = release.config.stills
    top = "" if folder == "." else f"{folder}/"
    for place, folders, files in release.walk(folder):
        separate = stills or place == "" or (images_are_clips and place == top)
        if not separate and any(name.lower().endswith(PICTURE_SUFFIXES) for name in files):
            folders.clear()
            yield place.removesuffix("/")
            continue
        for name in files:
            if name.lower().endswith((*VIDEO_SUFFIXES, *PICTURE_SUFFIXES)):
                yield place + name
            else:
                release.note("extra", place + name, "is neither a video nor a folder of frames")


def _require_pictures(paths: Iterable[str], root: Path) -> None:
    if not any(path.lower().endswith(PICTURE_SUFFIXES) for path in paths):
        raise UserError(f"stills=true: there is no picture below {root} ({', '.join(PICTURE_SUFFIXES)}); leave it out")


def _warn_of_frames(rows: Iterable[ClipRow], depth: int) -> None:
    """Say which folders have pictures that are divided one by one, and without `stills` would be one clip.

    depth: of the pictures directly in the folder of a class.
    """
    pictures = (row.path for row in rows if row.path.lower().endswith(PICTURE_SUFFIXES))
    counts = Counter(path.rpartition("/")[0] for path in pictures if path.count("/") >= depth)
    if several := [folder for folder, count in counts.items() if count > 1]:
        say(
            f"warning: pictures of one folder may fall into different parts, such as training and validation "
            f"({counted(len(several), 'folder')}, as {several[0]}). If a folder has the frames of one video, leave out `stills`; "
            "if it has one person, name the people in a table with `subject_column`"
        )


def _adapt_to_table(dataset: Dataset, release: Release, table: Path) -> Dataset:
    from svfap.data.manifest_rows import RESERVED

    config: FolderConfig = release.config
    values, frame_files, split_column = _listed(config.value_columns), config.frame_values_column, config.split_column
    value_cells = () if frame_files else values  # otherwise values are columns of the files per frame
    renamed = {"label": config.label_column, "subject": config.subject_column, "group": config.group_column}
    optional = (*renamed.values(), split_column, frame_files)
    needed = [config.path_column, *value_cells, *(name for name in optional if name)]
    numbered = list(release.table(str(table.absolute()), *needed))
    lines = [cells for _, cells in numbered]
    if reserved := [name for name in values if name in RESERVED]:
        raise UserError(f"value_columns: '{reserved[0]}' is reserved in manifests; rename the column")
    if not lines:
        raise UserError(f"table={table}: has a header but no rows")
    for name in ("subject", "group"):
        if not renamed[name] and name in lines[0]:
            renamed[name] = name  # as manifests name it
    per_frame = False  # whether any cell has several numbers
    for number, cells in numbered:
        lengths = {len(cells[name].split()) for name in value_cells if math.isfinite(_mean(cells[name]))} - {1}
        if len(lengths) > 1:
            found = ", ".join(cells[name] for name in value_cells)
            raise release.bad(str(table.absolute()), number, found, f"as many numbers in each of {', '.join(values)}")
        per_frame = per_frame or bool(lengths)
    passed_on = {name: name for name in PASSED_ON if name in lines[0] and name not in needed}
    passed_on |= {"frame_values": frame_files} if frame_files else {}
    if config.label_column:
        lines = [cells | {config.label_column: same_text(cells[config.label_column])} for cells in lines]
    rows = [
        ClipRow(
            path=str(PurePosixPath(cells[config.path_column])),
            values={name: _mean(cells[name]) for name in value_cells} or None,
            extra={name: cells[column] for name, column in passed_on.items() if cells[column]}
            | ({name: " ".join(cells[name].split()) for name in value_cells} if per_frame else {}),
            **{name: cells[column] or None for name, column in renamed.items() if column},
        )
        for cells in lines
    ]
    dataset = replace(dataset, columns=(*(name for name in ("subject", "group") if renamed[name]), *passed_on))
    if not (config.label_column or values or frame_files):
        return replace(dataset, task="unlabelled", metrics=(), read=lambda release: [Part("pretrain", rows)])
    splits = [cells[split_column] for cells in lines] if split_column else None
    if unknown := sorted(set(splits or ()) - {"train", "val", "test"}):
        raise UserError(f"table={table}: column '{split_column}' holds {unknown[0]!r}; use train, val, test")
    if splits and "train" not in splits:
        raise UserError(f"table={table}: no row has 'train' in column '{split_column}'")
    final = replace(
        dataset,
        frame_level=per_frame or frame_files is not None,
        clip_truth=bool(config.label_column or value_cells),
        has_validation="val" in (splits or ()),
        subject_independent=splits is None,  # a split that the user gives is not questioned
        read=lambda release: _split(release, rows, splits),
    )
    if values:
        return replace(final, task="regression", label_names=values, metrics=("pcc", "ccc"))
    return replace(final, label_names=_listed(config.label_names) or _sorted(row.label for row in rows))


def _split(release: Release, rows: Sequence[ClipRow], splits: Sequence[str] | None = None) -> Iterator[Part]:
    """The parts that `splits` gives; else those of a cross-validation, or training and a share for test."""
    from svfap.datasets.splits import folds_of_rows, tested_rows

    config: FolderConfig = release.config
    if splits is not None:
        for part in (part for part in ("train", "val", "test") if part in splits):
            yield Part(part, [*compress(rows, (split == part for split in splits))])
    elif config.folds is not None:
        fold_of = folds_of_rows(rows, config.root, config.folds, config.seed).tolist()
        yield from cross_validation([*zip(rows, fold_of, strict=True)], config.folds)
    else:
        tested = tested_rows(rows, config.root, config.test_fraction, config.seed)
        yield Part("train", [*compress(rows, ~tested)])
        if tested.any():
            yield Part("test", [*compress(rows, tested)])


def _mean(cell: str) -> float:
    """The mean of a cell's numbers; NaN for none or for other text, whose row is then listed as an unknown label."""
    try:
        return fmean(float(number) for number in cell.split())
    except (ValueError, OverflowError):  # StatisticsError for no numbers is a ValueError
        return math.nan


def _listed(names: list[str] | str | None) -> tuple[str, ...]:
    """Names given as a list, or as text with commas."""
    return tuple(name.strip() for name in (names.split(",") if isinstance(names, str) else names or ()))


def _sorted(names: Iterable[str | None]) -> tuple[str, ...]:
    """Distinct names, in numerical order if all are numbers; says which differ only in case."""
    from svfap.data.manifest_rows import same_up_to_case

    distinct = sorted({name for name in names if name})
    for alike in same_up_to_case(distinct):
        say_once(f"classes {', '.join(alike)} differ only in case; correct them if they are one class")
    return tuple(sorted(distinct, key=int) if all(name.isdecimal() for name in distinct) else distinct)


DATASET = Dataset(
    name="folder",
    title="Own data",
    summary="your own videos: one folder per class, a CSV with any columns, or unlabelled",
    source="",
    licence="your own: make sure that the people in the videos agreed to this use",
    layout="""\
happy/1.mp4, happy/2/*.jpg, …      one folder per class, with videos, pictures, or folders of frames at any depth
sad/3.mp4, sad/4.jpg, …            (with --stills every picture is a clip of its own, at any depth)
train/happy/1.jpg, test/sad/2.jpg  or such folders within train, val and test
or --table FILE.csv whose path column is relative to --root, or --unlabelled true for all videos below --root""",
    protocol="As the options say: a column of the table, cross-validation, or a share for test.",
    checked="Files that the table lists, including files of labels per frame; labels and numbers. "
    "No subject is in both training and test of a split made here.",
    read=lambda release: (),  # replaced by `adapt`
    config=FolderConfig,
    adapt=_adapt,
)
