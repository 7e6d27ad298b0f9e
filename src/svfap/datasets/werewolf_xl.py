"""Werewolf-XL: spontaneous expressions of players of a game of deception."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

from svfap.datasets.config import PrepareConfig
from svfap.datasets.dataset import ClipRow, Dataset, Part, Release, cross_validation
from svfap.errors import UserError

# Names in the header of a dimension's column, as in Arousal, Arousal_average, Mean_A_1_2 (the authors' tables).
DIMENSIONS = {
    "arousal": {"arousal", "a"},
    "valence": {"valence", "pleasure", "v", "p"},
    "dominance": {"dominance", "d"},
}
CLIP = {"videoname", "video", "clip", "name", "id", "clipid", "videoid", "clipname", "file", "filename"}
# Session, player, number, with or without leading zeros: a video, or a folder of frames as OpenFace names it.
NAME = re.compile(r"(\d{1,2}_\d{1,2}_\d+)(?:_aligned|\.mp4|\.avi)?")
NUM_SESSIONS, NUM_FOLDS = 30, 5
NUM_CLIPS = 14632
Clip = tuple[int, int, int]  # session, player, number
CROPS = (3346, 2747, 3066, 3527, 1771)  # clips per fold with face crops by the SVFAP authors


@dataclass(frozen=True, kw_only=True)
class WerewolfConfig(PrepareConfig):
    """Settings of Werewolf-XL."""

    annotations: str | None = None
    """CSV or TSV of the labels, relative to root; default: the only one in root or its subfolders."""
    media: str = "."
    """Folder with the clips, at any depth, relative to root."""


def read(release: Release) -> Iterator[Part]:
    file, labels = _labels(release)
    media = release.media(release.config.media)
    found: dict[Clip, str] = {}
    for name, path in release.clips_below(media, NAME).items():
        if (other := found.setdefault(_clip(name), path)) != path:
            raise UserError(f"{release.root}: {other} and {path} have the same number; keep one of them")
    for clip, path in found.items():
        if clip not in labels:
            release.note("extra", path, f"has no line in {file}")
    rows = []
    for clip, (name, values) in labels.items():
        session, player, _ = clip
        path = found.get(clip, str(PurePosixPath(media, f"{name}.mp4")))
        fold = 1 + (session - 1) * NUM_FOLDS // NUM_SESSIONS
        rows.append((ClipRow(path, values=values, subject=f"{session:02d}_{player:02d}"), fold))
    if release.faces or (found and all(path.endswith("_aligned") for path in found.values())):
        faces = release.face_frames if release.faces else lambda path: None
        cropped = Counter(fold for row, fold in rows if row.path.endswith("_aligned") or faces(row.path))
        for number, official in enumerate(CROPS, 1):
            release.count(f"fold_{number}_test crops", cropped[number], official)
    else:
        release.count("release clips", len(rows), NUM_CLIPS)
    yield from cross_validation(rows, NUM_FOLDS)


def _clip(name: str) -> Clip:
    """Session, player and number of a clip: of 01_01_005 as of 1_1_5."""
    session, player, number = map(int, name.split("_"))
    return session, player, number


def _labels(release: Release) -> tuple[str, dict[Clip, tuple[str, dict[str, float]]]]:
    """The annotation file, and clip -> its name there and its values; NaN for cells without a number (unknown labels)."""
    paths = (path for depth in (1, 2) for path in release.entries(".", depth))
    paths = (path for path in paths if not path.startswith(f"{release.faces}/"))  # OpenFace's own tables
    tables = [path for path in paths if path.lower().endswith((".csv", ".tsv"))]
    if release.config.annotations is None and len(tables) > 1:
        raise UserError(f"{release.root}: holds {', '.join(tables[:6])}; say which has the labels with --annotations")
    file = release.find(*([release.config.annotations] if release.config.annotations else tables or ["*.csv", "*.tsv"]))
    columns: dict[str, str] = {}
    labels: dict[Clip, tuple[str, dict[str, float]]] = {}
    for number, cells in release.table(file):
        columns = columns or _columns(f"{release.root / file}", list(cells))
        match = NAME.fullmatch(cells[columns["clip"]])
        if match is None or not 1 <= _clip(match[1])[0] <= NUM_SESSIONS:
            raise release.bad(file, number, cells[columns["clip"]], "a clip like 01_01_128, of sessions 01 to 30")
        if _clip(match[1]) in labels:
            raise release.bad(file, number, match[1], "each clip once")
        labels[_clip(match[1])] = match[1], {name: _number(cells[columns[name]]) for name in DIMENSIONS}
    return file, labels


def _columns(file: str, header: list[str]) -> dict[str, str]:
    """The columns of the clip's name and of each dimension."""
    chosen = {"clip": [name for name in header if re.sub("[^a-z]", "", name.lower()) in CLIP]}
    for dimension, names in DIMENSIONS.items():
        named = [name for name in header if names & set(re.split("[^a-z]+", name.lower()))]
        chosen[dimension] = [name for name in named if re.search("mean|average|avg", name.lower())] or named
    for wanted, columns in chosen.items():
        if len(columns) != 1:
            found = f"{len(columns)} columns ({', '.join(columns)})" if columns else "no column"
            raise UserError(f"{file}: {found} for '{wanted}' among {', '.join(header)}; rename or remove columns")
    return {wanted: columns[0] for wanted, columns in chosen.items()}


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float("nan")


def _with_range(dataset: Dataset, release: Release) -> Dataset:
    numbers = [x for _, values in _labels(release)[1].values() for x in values.values() if math.isfinite(x)]
    return replace(dataset, label_range=(min(numbers), max(numbers)) if numbers else None)


DATASET = Dataset(
    name="werewolf_xl",
    title="Werewolf-XL",
    summary="arousal, valence, dominance of 14,632 clips of speakers, 5 folds by session",
    source="https://github.com/Xinda-Wu/Werewolf-XL-Baseline (speakers' videos, and the PAD labels saved as CSV or TSV)",
    licence="for research; see the database's page",
    layout="""\
labels.csv (or .tsv)   one row per clip: its name, and columns for pleasure (valence), arousal and dominance,
                       e.g. VideoName,Mean_P_1_2,Mean_A_1_2,Mean_D_1_2 or clip,arousal,valence,dominance
…/01_01_128.mp4 (or .avi)  at any depth; or folders of frames, …/01_01_128/ or …/01_01_128_aligned/
face_aligned/01_01_128/*.jpg … (optional)    face frames, used in place of the videos; see --faces
Clips are named session_player_number, with or without leading zeros. The rest of this layout is
inferred from the authors' baseline code.""",
    protocol="5 folds by session, tested on 1–6, 7–12, 13–18, 19–24 and 25–30; predictions of all folds are pooled and scored "
    "once. A player may appear in another session under another number, so folds by session may share people. Face "
    f"crops by the SVFAP authors exist for {', '.join(map(str, CROPS))} clips.",
    checked=f"Clips' names, sessions, numbers in all three dimensions, clips without a label and labels without a clip; "
    f"{NUM_CLIPS:,} labelled clips, or, for crops (…_aligned/), as many in each fold as the SVFAP authors have.",
    read=read,
    task="regression",
    label_names=tuple(DIMENSIONS),
    metrics=("pcc", "ccc"),
    columns=("subject",),
    pictures="frames",
    authors_fed="face crops, which they could make of all but 175 clips",
    config=WerewolfConfig,
    adapt=_with_range,
)
