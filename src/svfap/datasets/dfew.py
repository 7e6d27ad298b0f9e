"""DFEW: facial expressions in films."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from svfap.datasets.config import PrepareConfig
from svfap.datasets.dataset import ClipRow, Dataset, Part, Release, expected_per_fold

CLASSES = ("happy", "sad", "neutral", "angry", "surprise", "disgust", "fear")
TRAIN, TEST = (9356, 9356, 9357, 9358, 9361), (2341, 2341, 2340, 2339, 2336)


@dataclass(frozen=True, kw_only=True)
class DfewConfig(PrepareConfig):
    """Settings of DFEW."""

    media: str | None = None
    """Folder of frame folders, relative to root; default: whichever of Clip/clip_224x224 and Clip/jpg_256 exists."""


def read(release: Release) -> Iterator[Part]:
    media = release.media(release.config.media, "Clip/clip_224x224", "Clip/jpg_256")
    release.watch(media)
    for fold in "12345":
        for part in ("train", "test"):
            file = f"EmoLabel_DataSplit/{part}(single-labeled)/set_{fold}.csv"
            yield Part(part, _rows(release, file, media), fold)


def _rows(release: Release, file: str, media: str) -> Iterator[ClipRow]:
    for number, cells in release.table(file, "video_name", "label"):
        video, label = cells["video_name"], cells["label"]
        if not (video.isdecimal() and label.isdecimal()):
            raise release.bad(file, number, f"{video},{label}", "a clip's number and a label from 1 to 7")
        known = 1 <= int(label) <= len(CLASSES)
        yield ClipRow(f"{media}/{int(video):05d}", CLASSES[int(label) - 1] if known else label)


DATASET = Dataset(
    name="dfew",
    title="DFEW",
    summary="7 expressions in films, 11,697 single-labelled clips, official 5 folds",
    source="https://dfew-dataset.github.io (sign the agreement, then write to the authors)",
    licence="for non-commercial research under a signed agreement; clips may not be passed on",
    layout="""\
EmoLabel_DataSplit/train(single-labeled)/set_1.csv … set_5.csv    video_name,label with labels 1 to 7
EmoLabel_DataSplit/test(single-labeled)/set_1.csv … set_5.csv
Clip/clip_224x224/00001/*.jpg …                                   or Clip/jpg_256/00001/*.jpg …""",
    protocol="The official 5 folds; predictions of all folds are pooled and scored once.",
    checked="Clips per fold and part; labels 1 to 7. Clips without a single label are listed as extra files.",
    read=read,
    label_names=CLASSES,
    pictures="faces",
    authors_fed="the release's clip_224x224, which they renamed jpg_256",
    expected=expected_per_fold(TRAIN, TEST),
    config=DfewConfig,
)
