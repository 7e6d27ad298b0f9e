"""VoxCeleb2: speakers in interviews, for pre-training."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from svfap.datasets.config import PrepareConfig
from svfap.datasets.dataset import ClipRow, Dataset, Part, Release, clip_name
from svfap.errors import UserError

MEDIA = "dev/mp4"
# The clips that the authors' preprocess/voxceleb2.py (github.com/sunlicai/SVFAP) leaves out as broken.
BROKEN = Path(__file__).with_name("voxceleb2_broken.txt")
UPPER_CENTRE = "32 0 160 160"  # of 224 x 224 pixels: the paper's Fig. 3


@dataclass(frozen=True, kw_only=True)
class VoxCeleb2Config(PrepareConfig):
    """Settings of VoxCeleb2."""

    exclude: Path | None = None
    """Text file of clips to leave out, one per line, such as 'id00012/21Uxsk56VDQ/00001.mp4'; default: the 283 that the authors
    of SVFAP could not read (an empty file: none)."""
    whole_frames: bool = False
    """Use whole frames instead of the paper's upper-central 160x160 pixels of the 224x224."""


def adapt(dataset: Dataset, release: Release) -> Dataset:
    count = dataset.expected["pretrain"] - len(_excluded(release.config.exclude))
    return replace(dataset, expected={"pretrain": count})


def read(release: Release) -> Iterator[Part]:
    yield Part("pretrain", _rows(release, release.media(None, MEDIA)), on_disk=True)


def _rows(release: Release, media: str) -> Iterator[ClipRow]:
    excluded = _excluded(release.config.exclude)
    reason = f"is listed in {release.config.exclude}" if release.config.exclude else "broken for the authors of SVFAP"
    extra = {} if release.config.whole_frames else {"box": UPPER_CENTRE}
    for path in release.clips(media, depth=3):
        inside = PurePosixPath(path).relative_to(media)
        clip = f"{inside.parent}/{clip_name(path)}.mp4"
        if clip in excluded:
            release.note("left_out", path, reason)
        elif not path.endswith(".mp4") and release.faces is None:
            release.note("extra", path, "is not .mp4")
        else:
            yield ClipRow(path, subject=clip.partition("/")[0], extra=extra)


def _excluded(file: Path | None) -> frozenset[str]:
    file = file or BROKEN
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
    protocol="All clips of the development set, without labels, cropped to the upper-central 160x160 pixels (Fig. 3). Left "
    "out: the 283 clips that the authors of SVFAP could not read, from their published list; see --exclude.",
    checked="The number of clips, and that no file is empty. Videos are not opened: training skips and lists unreadable ones.",
    read=read,
    frame_rate=25.0,
    task="unlabelled",
    metrics=(),
    columns=("subject", "box"),
    pictures="faces",
    authors_fed="the upper-central 160x160 pixels of the release's face clips",
    expected={"pretrain": 1_092_009},
    config=VoxCeleb2Config,
    adapt=adapt,
)
