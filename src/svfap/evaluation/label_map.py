"""From the labels of one dataset to the classes of a model that was trained on another.

The classes that are scored are those of the model after the map. Rows whose label has no counterpart are left out; classes of the
model that have none among the labels are never predicted, and the other outputs are scaled to sum to 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from svfap.data.find import same_text
from svfap.data.manifest import Manifest
from svfap.errors import UserError
from svfap.formats import read_yaml

AUTO = "auto"
# Names of the same emotion in the datasets that this package prepares, and in others that are common, in lower case.
EMOTIONS = (
    {"happy", "happiness", "hap", "joy"},
    {"sad", "sadness"},
    {"neutral", "neu"},
    {"angry", "anger", "ang"},
    {"surprise", "surprised", "sur"},
    {"disgust", "disgusted", "dis"},
    {"fear", "fearful", "fea", "afraid"},
    {"contempt"},
    {"calm"},
    {"anxiety", "anxious"},
    {"helplessness", "helpless"},
    {"disappointment", "disappointed"},
)


@dataclass(frozen=True)
class LabelMap:
    """Which classes are scored, and what stands for them.

    classes: K names. of_label: label of the test set -> class, or None: rows with it are left out. of_output: class of the model
    -> class that its output counts for, or None: never predicted.
    """

    classes: tuple[str, ...]
    of_label: Mapping[str, str | None]
    of_output: Mapping[str, str | None]

    def record(self) -> dict[str, Any]:
        """As in `metrics.json`."""
        return {"labels": dict(self.of_label), "outputs": dict(self.of_output)}

    def sums(self, names: Sequence[str]) -> NDArray[np.float32]:
        """(outputs of a model with these names, K): 1 where an output counts for a class."""
        matrix = np.zeros((len(names), len(self.classes)), np.float32)
        for row, name in enumerate(names):
            if (target := self.of_output[name]) is not None:
                matrix[row, self.classes.index(target)] = 1
        return matrix

    def manifest(self, videos: Manifest) -> tuple[Manifest, dict[str, int]]:
        """The videos whose labels have a class, labelled with it; and the number of the others by label."""
        assert videos.label_names is not None and videos.labels is not None
        index = {name: number for number, name in enumerate(self.classes)}
        targets = [self.of_label[name] for name in videos.label_names]
        number_of = np.array([-1 if target is None else index[target] for target in targets])
        labels = number_of[videos.labels]
        kept = videos.subset(np.flatnonzero(labels >= 0))
        table = kept.table.assign(label=labels[labels >= 0])
        left_out = {
            name: int((videos.labels == number).sum())
            for number, name in enumerate(videos.label_names)
            if targets[number] is None and (videos.labels == number).any()
        }
        return Manifest(videos.path, videos.root, table, self.classes), left_out


def read_label_map(source: str, labels: Sequence[str], outputs: Sequence[str]) -> LabelMap:
    """The map of a YAML file, or by names of the same emotion for "auto".

    The file has up to two mappings: `labels`, from labels of the test set, and `outputs`, from classes of the model, each to
    a class that is scored or to null. A name that a mapping lacks stands for itself.

    labels: of the test set. outputs: classes of the model. Raises `UserError` for names that neither has, a label that becomes
    none of the model's classes, and for fewer than two classes.
    """
    of_label, of_output = _by_emotion(labels, outputs) if source == AUTO else _of_file(Path(source), labels, outputs)
    classes = tuple(dict.fromkeys(target for name in outputs if (target := of_output[name]) is not None))
    for label, target in of_label.items():
        if target is not None and target not in classes:
            raise UserError(
                f"label_map={source}: label '{label}' stands for '{target}', which is none of the classes that are scored, "
                f"{', '.join(classes)}; write `labels: {{{label}: CLASS}}`, or null to leave these rows out"
            )
    if len(reached := {target for target in of_label.values() if target is not None}) < 2:
        found = f"a single class, '{reached.pop()}'" if reached else "no class"
        raise UserError(
            f"label_map={source}: the labels {', '.join(labels)} stand for {found}; at least two are needed, and the model has "
            f"{', '.join(outputs)}"
        )
    return LabelMap(classes, of_label, of_output)


def _of_file(
    file: Path, labels: Sequence[str], outputs: Sequence[str]
) -> tuple[dict[str, str | None], dict[str, str | None]]:
    content = read_yaml(file)
    if stray := set(content) - {"labels", "outputs"}:
        raise UserError(f"{file}: {sorted(map(str, stray))[0]!r} is neither `labels` nor `outputs`")
    found = []
    for key, names in (("labels", labels), ("outputs", outputs)):
        given = content.get(key) or {}
        if not isinstance(given, Mapping):
            raise UserError(f"{file}: `{key}` must map names to names, or to null")
        if unquoted := [word for pair in given.items() for word in pair if isinstance(word, bool)]:
            raise UserError(
                f"{file}: `{key}`: YAML reads names such as yes, no, on, off as true or false, here as "
                f"{str(unquoted[0]).lower()}; put them in quotes, as 'no'"
            )
        of = {
            same_text(str(name)): None if target is None else same_text(str(target)) for name, target in given.items()
        }
        if unknown := sorted(set(of) - set(names)):
            whose = "a label of the test set" if key == "labels" else "a class of the model"
            raise UserError(f"{file}: `{key}`: '{unknown[0]}' is not {whose}; known are {', '.join(names)}")
        found.append({name: of.get(name, name) for name in names})
    return found[0], found[1]


def _by_emotion(labels: Sequence[str], outputs: Sequence[str]) -> tuple[dict[str, str | None], dict[str, str | None]]:
    """By the same name up to case, or by names of the same emotion; all others are left out."""

    def emotion(name: str) -> object:
        word = name.lower()
        return next((number for number, names in enumerate(EMOTIONS) if word in names), word)

    class_of = {emotion(name): name for name in outputs}
    of_label = {name: class_of.get(emotion(name)) for name in labels}
    reached = set(of_label.values())
    return of_label, {name: name if name in reached else None for name in outputs}
