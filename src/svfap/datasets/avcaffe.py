"""AVCAffe: remote workers who rate their arousal and valence after each task."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Literal

from svfap.datasets.config import PrepareConfig
from svfap.datasets.dataset import ClipRow, Dataset, Part, Release, clip_name
from svfap.errors import UserError

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
    archives = [] if (release.root / MEDIA[-1]).is_dir() else ["face_crops"]
    media = release.media(release.config.media, *MEDIA, *archives)
    labels = _labels(release, f"ground_truths/{target}.txt", CLASSES[target])
    subjects = {part: _subjects(release, f"info/{part}.txt") for part in ("train", "val")}
    if both := set(subjects["train"]) & set(subjects["val"]):
        raise UserError(f"{release.root}/info: both train.txt and val.txt list {min(both)}; a subject belongs in one")
    release.count("train subjects", len(set(subjects["train"])), 86)
    release.count("test subjects", len(set(subjects["val"])), 20)
    for folder in release.clips(media):
        name = SUBJECT.match(PurePosixPath(folder).name)
        if name is None or not any(name[0] in listed for listed in subjects.values()):
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
        clips = list(_clips(release, media, subject))
        tasks = {task for task, _ in clips}
        for task in sorted(task for task in labels if task.startswith(f"{subject}_") and task not in tasks):
            release.note("missing", f"{media}/{subject}/{task.removeprefix(f'{subject}_')}", f"no clips of {task}")
        if not clips:
            release.note("missing", f"{media}/{subject}", "no clips of this subject")
        for task, path in clips:
            if not re.fullmatch(rf"{task}_clip_\d+", clip_name(path)):
                release.note("extra", path, f"is not named like {task}_clip_001.avi")
            elif task not in labels:
                release.note("unknown_label", path, f"no line for {task} in ground_truths")
            else:
                yield ClipRow(release.frames_in(path) or path, labels[task], subject=subject, group=task)


def _clips(release: Release, media: str, subject: str) -> Iterator[tuple[str, str]]:
    """(task, path) of a subject's clips: in subject/task/, in a folder for each task (the archives of face crops), or loose."""
    for path in release.clips(f"{media}/{subject}", 2):
        yield f"{subject}_{PurePosixPath(path).parent.name}", path
    for name in sorted(name for name in release.names(media) if name.startswith(f"{subject}_")):
        task, path = TASK.match(name), f"{media}/{name}"
        if task and task[0] == name:
            yield from ((name, clip) for clip in release.clips(path))
        elif task and (release.root / path).is_dir():
            yield task[0], path


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
    or face crops: images/shorter_segments_face/aiim001/task_1/aiim001_task_1_clip_001/*.jpg …
    or as the archives unpack: face_crops/aiim001_task_1/aiim001_task_1_clip_001/shorter_segments_face/aiim001/task_1/…
ground_truths/arousal.txt, ground_truths/valence.txt     lines like 'aiim001_task_1, Calm'
info/train.txt, info/val.txt                             subjects""",
    protocol="Official split by subject, 86 for training and 20 (info/val.txt) for testing; scores of the clips are averaged "
    "over each subject's task (column group), and the tasks are scored by weighted F1.",
    checked="Each subject is in one list, 86 and 20 subjects, names of clips, a known label for each task.",
    read=read,
    label_names=CLASSES["arousal"],
    metrics=("weighted_f1",),
    columns=("subject", "group"),
    pictures="frames",
    face_media=(*MEDIA[1:], "face_crops"),
    authors_fed="face crops",
    subject_independent=True,
    config=AvcaffeConfig,
    adapt=_of_target,
)
