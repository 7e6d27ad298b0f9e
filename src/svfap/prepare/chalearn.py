"""ChaLearn First Impressions: apparent personality in talks to a camera."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

from svfap.errors import UserError
from svfap.prepare.dataset import Dataset, Part, Release, Row
from svfap.prepare.search import clips_below, entries_below
from svfap.prepare.unpickle import read_pickle

TRAITS = ("openness", "conscientiousness", "extraversion", "agreeableness", "neuroticism")
FILES = {"train": "annotation_training.pkl", "val": "annotation_validation.pkl", "test": "annotation_test.pkl"}
NAME = re.compile(r"(.{11}\.\d{3})(?:\.mp4)?")  # a YouTube id and the number of the clip: J4GQm9j0JZ0.003.mp4


@dataclass(frozen=True)
class Options:
    """Settings of ChaLearn First Impressions."""

    media: str = "."
    """folder anywhere below which the clips lie, relative to root"""


def read(release: Release) -> Iterator[Part]:
    files = [path for path in entries_below(release, ".", NAME) if PurePosixPath(path).name in FILES.values()]
    media = release.media(release.options.media)
    found = clips_below(release, media, NAME)
    unlisted = set(found)
    for part, file in FILES.items():
        there = [path for path in files if PurePosixPath(path).name == file]
        if not there:
            raise release.unexpected(f"'{file}' in any folder", "the values of the traits")
        if len(there) > 1:
            raise UserError(f"{release.root}: holds both {' and '.join(there)}; keep one of them")
        values = _values(release, there[0])
        unlisted -= {clip.removesuffix(".mp4") for clip in values}
        yield Part(part, _rows(media, values, found))  # type: ignore[arg-type]
    for clip in sorted(unlisted):
        release.note("extra", found[clip], "in none of the annotations")


def _values(release: Release, file: str) -> dict[str, dict[str, float]]:
    """Clip -> trait -> value. Raises `UserError` where the file is not as ChaLearn's are."""
    by_trait = read_pickle(release.root / file)
    if not isinstance(by_trait, dict) or any(not isinstance(by_trait.get(trait), dict) for trait in TRAITS):
        keys = ", ".join(map(str, by_trait)) if isinstance(by_trait, dict) else type(by_trait).__name__
        raise UserError(f"{release.root / file}: expected a dict for each of {', '.join(TRAITS)}; found {keys[:200]}")
    values: dict[str, dict[str, float]] = {}
    for trait in TRAITS:
        for clip, value in by_trait[trait].items():
            if not (isinstance(clip, str) and isinstance(value, float | int)):
                raise UserError(
                    f"{release.root / file}: {trait}: expected a number for each clip, not {clip!r}: {value!r}"
                )
            values.setdefault(clip, {})[trait] = float(value)
    return values


def _rows(media: str, values: dict[str, dict[str, float]], found: dict[str, str]) -> Iterator[Row]:
    for clip in sorted(values):
        path = found.get(clip.removesuffix(".mp4"), str(PurePosixPath(media, clip)))
        yield Row(path, values=values[clip])


DATASET = Dataset(
    name="chalearn",
    title="ChaLearn First Impressions",
    summary="Big Five personality traits, 10,000 clips, official training, validation and test parts",
    source="https://chalearnlap.cvc.uab.cat/dataset/24/description (First Impressions V2; register)",
    licence="CC BY-NC 4.0; see the dataset's page",
    layout="""\
annotation_training.pkl, annotation_validation.pkl, annotation_test.pkl     anywhere below, as released
train/…/J4GQm9j0JZ0.003.mp4, val/…, test/…                                  anywhere below; or folders of frames
The pickles are read without running code.""",
    protocol="Official parts of 6,000, 2,000 and 2,000 clips; the official validation part is used as such.",
    checked="Clips per part, five numbers from 0 to 1 for each, annotations without a clip and clips without annotation.",
    read=read,
    task="regression",
    label_names=TRAITS,
    metrics=("ccc", "accuracy"),
    output_activation="sigmoid",
    label_range=(0.0, 1.0),
    expected={"train": 6000, "val": 2000, "test": 2000},
    has_validation=True,
    options=Options,
)
