"""eNTERFACE'05: 44 subjects, six emotions, five sentences for each."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import PurePosixPath

from svfap.datasets.dataset import ClipRow, Dataset, Part, Release, cross_validation

SUBJECT = re.compile(r"subject[ _-]*(\d+)", re.IGNORECASE)
SENTENCE = re.compile(r"sentence[ _-]*\d+", re.IGNORECASE)
# The paper does not publish its folds; these are ours, by number, so that a missing subject does not move others.
FOLDS = (range(1, 10), range(10, 19), range(19, 28), range(28, 37), range(37, 45))
FOLD_OF_SUBJECT = {subject: fold for fold, subjects in enumerate(FOLDS, 1) for subject in subjects}


def read(release: Release) -> Iterator[Part]:
    rows, subjects = [], _subjects(release)
    for number in sorted(set(FOLD_OF_SUBJECT) - {subject for subject, _ in subjects}):
        release.note("missing", f"subject {number}", "no folder of this subject")
    for subject, folder in subjects:
        if subject not in FOLD_OF_SUBJECT:
            release.note("extra", folder, f"subject {subject} is in none of the folds, 1 to 44")
            continue
        for emotion in release.clips(folder):
            label = PurePosixPath(emotion).name.lower()  # file names are irregular: s1_an_1.avi, s_3_su_1.avi
            for path in _clips(release, emotion):
                rows.append((ClipRow(path, label, subject=str(subject)), FOLD_OF_SUBJECT[subject]))
    yield from cross_validation(rows, len(FOLDS))


def _subjects(release: Release) -> list[tuple[int, str]]:
    inside = "enterface database"
    for base in (".", inside, *([release.faces, f"{release.faces}/{inside}"] if release.faces else [])):
        named = [(SUBJECT.fullmatch(PurePosixPath(path).name), path) for path in release.clips(base)]
        if any(match for match, _ in named):
            for _, path in (other for other in named if not other[0]):
                release.note("extra", path, "is not named like 'subject 1'")
            return sorted((int(match[1]), path) for match, path in named if match)
    raise release.unexpected("'subject 1' or 'enterface database/subject 1'", "a folder per subject")


def _clips(release: Release, emotion: str) -> Iterator[str]:
    """Videos of one subject's emotion, in folders of sentences or (subject 6) without them; notes all other files."""
    if not release.names(emotion):
        release.note("extra", emotion, "is not a folder with clips of an emotion")
    for entry in release.clips(emotion):
        inside = release.clips(entry) if SENTENCE.fullmatch(PurePosixPath(entry).name) else iter((entry,))
        for path in inside:
            if path.lower().endswith((".avi", ".mp4")) or release.frames_in(path):
                yield path
            else:
                release.note("extra", path, "is neither a video nor a folder of frames")


DATASET = Dataset(
    name="enterface05",
    title="eNTERFACE'05",
    summary="6 emotions, about 1,290 clips of 44 subjects, 5 folds by subject (ours)",
    source="https://enterface.net/enterface05 (the emotion database)",
    licence="for research; see the database's page",
    layout="""\
subject 1/anger/sentence 1/s1_an_1.avi …     subject and emotion are read from the folders
subject 6/anger/*.avi                        subject 6 has no folders of sentences
                                             (or all of these in 'enterface database/')
face_aligned/s1_an_1/*.jpg … (optional)      face frames, used in place of the videos; see --faces. Without the
                                             videos, in the release's folders: face_aligned/subject 1/anger/…""",
    protocol="5 folds by subject; the paper does not publish its own; ours are tested on subjects "
    + ", ".join(f"{subjects[0]}–{subjects[-1]}" for subjects in FOLDS)
    + "; predictions of all folds are pooled and scored once.",
    checked="Folders of emotions, subjects' numbers, a folder for each of the 44. The paper gives no counts to compare with.",
    read=read,
    frame_rate=25.0,
    face_crop={"align": True, "detector": "openface"},
    label_names=("anger", "disgust", "fear", "happiness", "sadness", "surprise"),
    columns=("subject",),
    pictures="frames",
    authors_fed="face crops by OpenFace",
    subject_independent=True,
)
