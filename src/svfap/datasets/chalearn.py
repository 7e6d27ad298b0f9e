"""ChaLearn First Impressions: apparent personality of people speaking to a camera."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

from svfap.data.pickles import read_pickle
from svfap.datasets.config import PrepareConfig
from svfap.datasets.dataset import ClipRow, Dataset, Part, Release
from svfap.errors import UserError

TRAITS = ("openness", "conscientiousness", "extraversion", "agreeableness", "neuroticism")
FILES = {"train": "annotation_training.pkl", "val": "annotation_validation.pkl", "test": "annotation_test.pkl"}
NAME = re.compile(r"(.{11}\.\d{3})(?:\.mp4|_aligned)?")  # a YouTube id and the number of the clip: J4GQm9j0JZ0.003.mp4


@dataclass(frozen=True, kw_only=True)
class ChalearnConfig(PrepareConfig):
    """Settings of ChaLearn First Impressions."""

    media: str = "."
    """Folder with the clips, at any depth, relative to root."""


def read(release: Release) -> Iterator[Part]:
    files = [path for path, _ in release.paths_below(".", NAME) if PurePosixPath(path).name in FILES.values()]
    media = release.media(release.config.media)
    found = release.clips_below(media, NAME)
    unlisted = set(found)
    for part, file in FILES.items():
        paths = [path for path in files if PurePosixPath(path).name == file]
        if not paths:
            raise release.unexpected(f"'{file}' in any folder", "the values of the traits")
        if len(paths) > 1:
            raise UserError(f"{release.root}: holds both {' and '.join(paths)}; keep one of them")
        values = _values(release, paths[0])
        unlisted -= {clip.removesuffix(".mp4") for clip in values}
        paths_of = {clip: found.get(clip.removesuffix(".mp4"), str(PurePosixPath(media, clip))) for clip in values}
        yield Part(part, [ClipRow(paths_of[clip], values=values[clip]) for clip in sorted(values)])  # type: ignore[arg-type]
    for clip in sorted(unlisted):
        release.note("extra", found[clip], "in none of the annotations")


def _values(release: Release, file: str) -> dict[str, dict[str, float]]:
    """Clip -> trait -> value. Raises `UserError` where the file has another structure."""
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


DATASET = Dataset(
    name="chalearn",
    title="ChaLearn First Impressions",
    summary="Big Five personality traits, 10,000 clips, official training, validation and test parts",
    source="https://chalearnlap.cvc.uab.cat/dataset/24/description (First Impressions V2; register)",
    licence="CC BY-NC 4.0; see the dataset's page",
    layout="""\
annotation_training.pkl, annotation_validation.pkl, annotation_test.pkl     at any depth, as released
train/…/J4GQm9j0JZ0.003.mp4, val/…, test/…                                  at any depth; or folders of frames
face_aligned/J4GQm9j0JZ0.003/*.jpg … (optional)    face frames, used in place of the videos; see --faces
The pickles are read without executing code.""",
    protocol="Official training, validation and test parts of 6,000, 2,000 and 2,000 clips.",
    checked="Clips per part, five numbers from 0 to 1 for each, annotations without a clip and clips without an annotation.",
    read=read,
    task="regression",
    label_names=TRAITS,
    metrics=("ccc", "accuracy"),
    output_activation="sigmoid",
    label_range=(0.0, 1.0),
    expected={"train": 6000, "val": 2000, "test": 2000},
    has_validation=True,
    pictures="frames",
    authors_fed="face crops",
    config=ChalearnConfig,
)
