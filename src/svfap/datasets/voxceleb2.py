"""VoxCeleb2: speakers in interviews, for pre-training."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from svfap.datasets.config import PrepareConfig
from svfap.datasets.dataset import ClipRow, Dataset, Part, Release
from svfap.errors import UserError

MEDIA = "dev/mp4"
UPPER_CENTRE = "32 0 160 160"  # of 224 x 224 pixels: the paper's Fig. 3


@dataclass(frozen=True, kw_only=True)
class VoxCeleb2Config(PrepareConfig):
    """Settings of VoxCeleb2."""

    exclude: Path | None = None
    """Text file of clips to leave out, one per line, such as 'id00012/21Uxsk56VDQ/00001.mp4' (the paper leaves out 283)."""
    whole_frames: bool = False
    """Use whole frames instead of the paper's upper-central 160x160 pixels of the 224x224."""


def adapt(dataset: Dataset, release: Release) -> Dataset:
    count = dataset.expected["pretrain"] - len(_excluded(release.config.exclude))
    return replace(dataset, expected={"pretrain": count})


def read(release: Release) -> Iterator[Part]:
    release.find(MEDIA, what="the development set")
    yield Part("pretrain", _rows(release), on_disk=True)


def _rows(release: Release) -> Iterator[ClipRow]:
    excluded = _excluded(release.config.exclude)
    extra = {} if release.config.whole_frames else {"box": UPPER_CENTRE}
    for path in release.entries(MEDIA, depth=3):
        clip = path.removeprefix(f"{MEDIA}/")
        if clip in excluded:
            release.note("left_out", path, f"is listed in {release.config.exclude}")
        elif not clip.endswith(".mp4"):
            release.note("extra", path, "is not .mp4")
        else:
            yield ClipRow(path, subject=clip.partition("/")[0], extra=extra)


def _excluded(file: Path | None) -> frozenset[str]:
    if file is None:
        return frozenset()
    try:
        lines = [line.strip().removeprefix(f"{MEDIA}/") for line in file.read_text().splitlines()]
    except (OSError, UnicodeError) as error:
        raise UserError(f"exclude={file}: cannot be read ({error})") from None
    clips = frozenset(line if line.endswith(".mp4") else f"{line}.mp4" for line in lines if line)
    for clip in clips:
        if clip.count("/") != 2:
            raise UserError(f"exclude={file}: expected 'id00012/21Uxsk56VDQ/00001.mp4', not {clip!r}")
    return clips


DATASET = Dataset(
    name="voxceleb2",
    title="VoxCeleb2",
    summary="for pre-training: 1,092,009 unlabelled clips of 5,994 speakers",
    source="https://www.robots.ox.ac.uk/~vgg/data/voxceleb/vox2.html (the videos of the development set)",
    licence="annotations are CC BY 4.0; the videos belong to their owners and are no longer offered by the authors",
    layout="dev/mp4/id00012/21Uxsk56VDQ/00001.mp4 …",
    protocol="All clips of the development set, without labels, cropped to the upper-central 160x160 pixels (Fig. 3). The "
    "paper leaves out 283 broken clips.",
    checked="The number of clips. Files are not opened: training skips and lists unreadable ones.",
    read=read,
    frame_rate=25.0,
    task="unlabelled",
    metrics=(),
    columns=("subject", "box"),
    expected={"pretrain": 1_092_009},
    config=VoxCeleb2Config,
    adapt=adapt,
)
