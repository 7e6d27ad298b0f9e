"""AVCAffe: remote workers who rate their arousal and valence after each task."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Literal

from svfap.errors import UserError
from svfap.prepare.config import PrepareConfig
from svfap.prepare.dataset import ClipRow, Dataset, Part, Release

CLASSES = {
    "arousal": ("Excited", "Wide-awake", "Neutral", "Dull", "Calm"),
    "valence": ("Pleasant", "Pleased", "Neutral", "Unsatisfied", "Unpleasant"),
}
MEDIA = ("videos/shorter_segments", "images/shorter_segments_face", "face_crops/shorter_segments_face")
SUBJECT = re.compile(r"aiim\d{3}")
TASK = re.compile(rf"{SUBJECT.pattern}_task_\d")


@dataclass(frozen=True, kw_only=True)
class AvcaffeConfig(PrepareConfig):
    """Settings of AVCAffe."""

    target: Literal["arousal", "valence"] = "arousal"
    """Which label to prepare; each is a separate dataset with its own --out."""
    media: str | None = None
    """Folder of the clips, relative to root; default: whichever of those above exists."""


def read(release: Release) -> Iterator[Part]:
    target = release.config.target
    media = release.media(release.config.media, *MEDIA)
    labels = _labels(release, f"ground_truths/{target}.txt", CLASSES[target])
    subjects = {part: _subjects(release, f"info/{part}.txt") for part in ("train", "val")}
    if both := set(subjects["train"]) & set(subjects["val"]):
        raise UserError(f"{release.root}/info: both train.txt and val.txt list {min(both)}; a subject belongs in one")
    release.count("train subjects", len(set(subjects["train"])), 86)
    release.count("test subjects", len(set(subjects["val"])), 20)
    for folder in release.entries(media):
        if not any(PurePosixPath(folder).name in listed for listed in subjects.values()):
            release.note("extra", folder, "a subject in neither info/train.txt nor info/val.txt")
    # Published results are on the official validation subjects.
    yield Part("train", _rows(release, media, subjects["train"], labels))
    yield Part("test", _rows(release, media, subjects["val"], labels))


def _labels(release: Release, file: str, classes: tuple[str, ...]) -> dict[str, str]:
    """A subject's task -> class as the paper writes it; text that is no class stays as it is."""
    known = {name.lower(): name for name in classes}
    labels: dict[str, str] = {}
    for number, line in release.lines(file):
        task, comma, text = (part.strip() for part in line.partition(","))
        if not (comma and TASK.fullmatch(task)):
            release.note("unknown_label", f"{file}:{number}", f"{line!r} is not a line like 'aiim001_task_1, Calm'")
            continue
        label = known.get(text.lower(), text)
        if labels.setdefault(task, label) != label:
            raise release.bad(file, number, line, f"one label for {task}; it was {labels[task]} before")
    return labels


def _subjects(release: Release, file: str) -> list[str]:
    subjects = []
    for number, line in release.lines(file):
        for subject in re.split(r"[\s,]+", line.strip(", ")):
            if not SUBJECT.fullmatch(subject):
                raise release.bad(file, number, line, "subjects like aiim001")
            subjects.append(subject)
    return subjects


def _rows(release: Release, media: str, subjects: list[str], labels: dict[str, str]) -> Iterator[ClipRow]:
    for subject in subjects:
        for task in sorted(task for task in labels if task.startswith(f"{subject}_")):
            folder = f"{media}/{subject}/{task.removeprefix(f'{subject}_')}"
            if not release.names(folder):
                release.note("missing", folder, f"no clips of {task}")
        if not release.names(f"{media}/{subject}"):
            release.note("missing", f"{media}/{subject}", "no clips of this subject")
        for path in release.entries(f"{media}/{subject}", 2):
            task = f"{subject}_{PurePosixPath(path).parent.name}"
            if not re.fullmatch(rf"{task}_clip_\d+(\.avi|\.mp4)?", PurePosixPath(path).name):
                release.note("extra", path, f"is not named like {task}_clip_001.avi")
            elif task not in labels:
                release.note("unknown_label", path, f"no line for {task} in ground_truths")
            else:
                yield ClipRow(path, labels[task], subject=subject, group=task)


def _of_target(dataset: Dataset, release: Release) -> Dataset:
    target = release.config.target
    return replace(dataset, name=f"avcaffe_{target}", title=f"{dataset.title} ({target})", label_names=CLASSES[target])


DATASET = Dataset(
    name="avcaffe",
    title="AVCAffe",
    summary="5 classes of arousal or of valence, 58,112 clips of 106 subjects, official split",
    source="https://pritamqu.github.io/AVCAffe (request access at borealisdata.ca, doi:10.5683/SP3/PSWY62)",
    licence="for research under the Database License Agreement, https://pritamsarkar.com/AVCAffe/LICENSE.html",
    layout="""\
videos/shorter_segments/aiim001/task_1/aiim001_task_1_clip_001.avi …
    (or folders of face images, images/shorter_segments_face/aiim001/task_1/aiim001_task_1_clip_001/*.jpg, or face_crops/…)
ground_truths/arousal.txt, ground_truths/valence.txt     lines like 'aiim001_task_1, Calm'
info/train.txt, info/val.txt                             subjects""",
    protocol="Official split by subject, 86 for training and 20 (info/val.txt) for testing; scores of the clips are averaged "
    "over each subject's task (column group), and the tasks are scored by weighted F1.",
    checked="Each subject is in one list, 86 and 20 subjects, names of clips, a known label for each task.",
    read=read,
    label_names=CLASSES["arousal"],
    metrics=("weighted_f1",),
    columns=("subject", "group"),
    subject_independent=True,
    config=AvcaffeConfig,
    adapt=_of_target,
)
