"""MAFW: compound and single facial expressions in the wild."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from svfap.datasets.config import PrepareConfig
from svfap.datasets.dataset import ClipRow, Dataset, Part, Release, expected_per_fold

CLASSES = (
    *("anger", "disgust", "fear", "happiness", "neutral", "sadness", "surprise"),
    *("contempt", "anxiety", "helplessness", "disappointment"),
)
NUM_CLIPS, TEST = 9172, (1839, 1837, 1833, 1832, 1831)


@dataclass(frozen=True, kw_only=True)
class MafwConfig(PrepareConfig):
    """Settings of MAFW."""

    media: str | None = None
    """Folder of clips or of frame folders, relative to root; default: whichever of data/frames and data/clips exists."""


def read(release: Release) -> Iterator[Part]:
    media = release.media(release.config.media, "data/frames", "data/clips")
    release.watch(media)
    # The lists name clips, such as `00025.mp4`; the folder of its frames has the same name without suffix.
    suffix = ".mp4" if any(name.endswith(".mp4") for name in release.names(media)) else ""
    for fold in "12345":
        for part in ("train", "test"):
            file = f"Train & Test Set/single/no_caption/set_{fold}/{part}.txt"
            yield Part(part, _rows(release, file, media, suffix), fold)


def _rows(release: Release, file: str, media: str, suffix: str) -> Iterator[ClipRow]:
    for number, line in release.lines(file):
        match = re.fullmatch(r"(\S+)\.mp4\s+(\S+)", line)
        if match is None:
            raise release.bad(file, number, line, "'00025.mp4 anger'")
        yield ClipRow(f"{media}/{match[1]}{suffix}", match[2])


DATASET = Dataset(
    name="mafw",
    title="MAFW",
    summary="11 expressions in the wild, 9,172 single-labelled clips, official 5 folds",
    source="https://mafw-database.github.io/MAFW (sign the agreement, then write to the authors)",
    licence="for non-commercial research under a signed agreement; clips may not be passed on",
    layout="""\
Train & Test Set/single/no_caption/set_1/train.txt, test.txt … set_5    lines '00025.mp4 anger'
data/clips/00025.mp4 …                                                  or data/frames/00025/*.png …""",
    protocol="The official 5 folds; predictions of all folds are pooled and scored once.",
    checked="Clips per fold and part; names of the labels. Clips without a single label are listed as extra files.",
    read=read,
    label_names=CLASSES,
    pictures="frames",
    face_media=("data/frames",),
    authors_fed="the release's face frames, data/frames",
    expected=expected_per_fold([NUM_CLIPS - count for count in TEST], TEST),
    config=MafwConfig,
)
