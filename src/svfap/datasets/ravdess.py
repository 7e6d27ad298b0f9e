"""RAVDESS: 24 actors speak two sentences in eight emotions."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import PurePosixPath

from svfap.datasets.dataset import ClipRow, Dataset, Part, Release, clip_name, cross_validation, expected_per_fold

EMOTIONS = ("neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised")
CLASSES = {f"{code:02d}": name for code, name in enumerate(EMOTIONS, 1)}
FOLDER = re.compile(r"(?:Video_Speech_)?Actor_\d\d")
# Modality, channel, clip (emotion …, actor).
NAME = re.compile(r"(\d\d)-(\d\d)-((\d\d)-\d\d-\d\d-\d\d-(\d\d))(?:\.wav)?")
VIDEO, SPEECH = ("02", "01"), "01"  # video without sound is preferred to video with sound; the speech channel
NUM_ACTORS, NUM_FOLDS = 24, 6


def read(release: Release) -> Iterator[Part]:
    clips: dict[str, tuple[str, re.Match[str]]] = {}
    for path in sorted(_files(release)):
        match = NAME.fullmatch(clip_name(path))
        if match is None:
            release.note("extra", path, "is not named like 02-01-06-01-02-01-12.mp4")
        elif match[2] != SPEECH or match[1] not in VIDEO:
            continue  # songs, and audio files
        elif not 1 <= int(match[5]) <= NUM_ACTORS:
            release.note("extra", path, f"actor {match[5]} is in none of the folds, 01 to {NUM_ACTORS}")
        elif match[3] not in clips or match[1] == VIDEO[0]:  # both modalities have the same frames
            clips[match[3]] = path, match
    rows = []
    for path, match in sorted(clips.values(), key=lambda clip: (clip[1][5], clip[1][3])):
        row = ClipRow(path, CLASSES.get(match[4], match[4]), subject=match[5])
        rows.append((row, 1 + (int(match[5]) - 1) * NUM_FOLDS // NUM_ACTORS))
    yield from cross_validation(rows, NUM_FOLDS)


def _files(release: Release) -> Iterator[str]:
    """Clips of all actors, whether or not each archive was unpacked into its own folder; else all face frames."""
    for base in (".", *([release.faces] if release.faces else [])):
        folders = [path for path in release.clips(base) if FOLDER.fullmatch(PurePosixPath(path).name)]
        for folder in folders:
            yield from release.clips(folder, 1 if PurePosixPath(folder).name.startswith("Actor_") else 2)
        if folders:
            return
    if not release.faces:
        raise release.unexpected("'Actor_01' or 'Video_Speech_Actor_01'", "a folder per actor")
    yield from release.clips(release.faces)


DATASET = Dataset(
    name="ravdess",
    title="RAVDESS",
    summary="8 emotions, 1,440 spoken clips of 24 actors, 6 folds by actor",
    source="https://zenodo.org/records/1188976 (Video_Speech_Actor_01.zip … Video_Speech_Actor_24.zip)",
    licence="CC BY-NC-SA 4.0",
    layout="""\
Actor_01/02-01-01-01-01-01-01.mp4 …     modality, channel, emotion, intensity, statement, repetition, actor
                                        (or Video_Speech_Actor_01/Actor_01/…)
face_aligned/02-01-01-01-01-01-01/*.jpg … (optional)    face frames, used in place of the videos; see --faces""",
    protocol="Speech only (channel 01), 6 folds of 4 actors in order, tested on 1–4, 5–8, …, 21–24; predictions of all folds "
    "are pooled and scored once. Each clip is used once: as video without sound (modality 02) if present, otherwise with sound.",
    checked="Emotion codes 01 to 08, actors, and clips per fold: 240 tested in each. Songs and audio files are ignored.",
    read=read,
    frame_rate=29.97,
    face_crop={"align": True, "detector": "openface"},
    label_names=EMOTIONS,
    columns=("subject",),
    pictures="frames",
    authors_fed="face crops by OpenFace",
    expected=expected_per_fold([1200] * NUM_FOLDS, [240] * NUM_FOLDS),
    subject_independent=True,
)
