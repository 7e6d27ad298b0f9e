"""CREMA-D: 91 actors say twelve sentences in six emotions."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import PurePosixPath

from svfap.datasets.config import PrepareConfig
from svfap.datasets.dataset import ClipRow, Dataset, Part, Release, cross_validation, expected_per_fold

NAME = re.compile(r"(\d{4})_[A-Z]{3}_([A-Z]{3})_[A-Z]{1,2}\.(?:flv|mp4|avi)")  # actor, sentence, emotion, intensity
FOLDS = {
    str(fold): range(first, end) for fold, (first, end) in enumerate(pairwise((1001, 1019, 1037, 1055, 1073, 1092)), 1)
}
FOLD_OF_ACTOR = {actor: fold for fold, actors in FOLDS.items() for actor in actors}
TEST = (1463, 1470, 1475, 1474, 1555)
BROKEN = ("1076_MTI_NEU_XX", "1076_MTI_SAD_XX", "1064_TIE_SAD_XX", "1064_IEO_DIS_MD")
# The second one is inferred: the paper counts one clip fewer than fold 3's 18 actors x 82 clips, for lack of a sound file.
LEFT_OUT = dict.fromkeys(BROKEN, "broken video") | {
    "1040_ITH_SAD_XX": "not in the paper's list: its sound file is misnamed in the release, 1040_ITH_SAD_X.wav"
}


@dataclass(frozen=True, kw_only=True)
class CremaDConfig(PrepareConfig):
    """Settings of CREMA-D."""

    media: str = "VideoFlash"
    """Folder of the clips, relative to root."""


def read(release: Release) -> Iterator[Part]:
    media = release.media(release.config.media)
    rows = []
    for path in release.entries(media):
        name = PurePosixPath(path)
        match = NAME.fullmatch(name.name)
        if match is None:
            release.note("extra", path, "is not named like 1001_DFA_ANG_XX.flv")
        elif name.stem in LEFT_OUT:
            release.note("left_out", path, LEFT_OUT[name.stem])
        elif int(match[1]) not in FOLD_OF_ACTOR:
            release.note("extra", path, f"actor {match[1]} is in none of the folds, 1001 to 1091")
        else:
            rows.append((ClipRow(path, match[2], subject=match[1]), FOLD_OF_ACTOR[int(match[1])]))
    yield from cross_validation(rows, FOLDS)


DATASET = Dataset(
    name="crema_d",
    title="CREMA-D",
    summary="6 emotions, 7,442 clips of 91 actors, 5 folds by actor",
    source="https://github.com/CheyneyComputerScience/CREMA-D (with git-lfs; only the folder VideoFlash is needed)",
    licence="Open Database License; the clips under the Database Contents License",
    layout="VideoFlash/1001_DFA_ANG_XX.flv …     actor, sentence, emotion, intensity",
    protocol="5 folds by actor, tested on 1001–1018, 1019–1036, 1037–1054, 1055–1072 and 1073–1091; predictions of all folds "
    "are pooled and scored once. Left out: four broken clips, and 1040_ITH_SAD_XX, which gives the paper's counts (which clip "
    "the paper leaves out is inferred from its counts and the release's misnamed sound file).",
    checked="The emotion in each name, its actor, and clips per fold: 7,437 tested in all.",
    read=read,
    frame_rate=29.97,
    face_crop={"align": True, "detector": "openface"},
    label_names=("ANG", "DIS", "FEA", "HAP", "NEU", "SAD"),
    columns=("subject",),
    expected=expected_per_fold([sum(TEST) - count for count in TEST], TEST),
    subject_independent=True,
    config=CremaDConfig,
)
