"""FERV39k: facial expressions in 22 kinds of scene."""

from __future__ import annotations

from collections.abc import Iterator

from svfap.datasets.dataset import ClipRow, Dataset, Part, Release

MEDIA = "2_ClipsforFaceCrop"


def read(release: Release) -> Iterator[Part]:
    media = release.media(None, MEDIA)
    if (release.root / media / MEDIA).is_dir():  # an archive unpacked into a folder of its own name
        media = f"{media}/{MEDIA}"
    release.watch(media, depth=3)
    for part in ("train", "test"):
        file = f"4_setups/All_scenes/{part}_All.csv"
        yield Part(part, _rows(release, release.find(file, f"4_setups/{file}", what="the official split"), media))


def _rows(release: Release, file: str, media: str) -> Iterator[ClipRow]:
    for number, line in release.lines(file):
        clip, _, label = line.rpartition(" ")  # names of scenes may contain spaces
        clip = clip.strip().strip("/")
        if clip.count("/") != 2:
            raise release.bad(file, number, line, "'Scene/Emotion/0118 Happy'")
        yield ClipRow(f"{media}/{clip}", label)


DATASET = Dataset(
    name="ferv39k",
    title="FERV39k",
    summary="7 expressions in 22 kinds of scene, 38,935 clips, official split",
    source="https://wangyanckxx.github.io/Proj_CVPR2022_FERV39k.html (sign the agreement, then write to the authors)",
    licence="for non-commercial research under a signed agreement; clips may not be passed on",
    layout="""\
4_setups/All_scenes/train_All.csv, test_All.csv      lines 'Scene/Emotion/0118 Happy', without a header
2_ClipsforFaceCrop/Scene/Emotion/0118/*.jpg …        (or 2_ClipsforFaceCrop/2_ClipsforFaceCrop/…)""",
    protocol="The official split of all scenes.",
    checked="Clips in training and test; names of the labels.",
    read=read,
    label_names=("Happy", "Sad", "Neutral", "Angry", "Surprise", "Disgust", "Fear"),
    sampling_stride=1,
    pictures="faces",
    authors_fed="the release's 2_ClipsforFaceCrop",
    expected={"train": 31088, "test": 7847},
)
