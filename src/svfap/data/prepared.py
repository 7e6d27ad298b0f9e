"""A dataset that is ready to train on: manifests of its folds, and `dataset.json`, which says what they are."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

from svfap.errors import UserError
from svfap.files import write_atomically
from svfap.formats import stamped, upgrade

DATASET_FILE = "dataset.json"


@dataclass(frozen=True)
class Fold:
    """Manifests of one fold, relative to the dataset's folder in the file and absolute once read."""

    name: str
    train: Path
    test: Path | None = None
    val: Path | None = None


@dataclass(frozen=True)
class PreparedDataset:
    """What `dataset.json` says.

    label_names: classes in order, or the dimensions of a regression. root: folder that the manifests' paths are relative
    to. folds: of the official protocol; their predictions are pooled and scored once. pretrain: unlabelled videos.
    metrics: those the protocol reports, by the names in `svfap.evaluate.metrics`. label_range: least and greatest value of
    the labels (regression). counts: number of rows of each manifest. notes: anything else worth keeping (what was missing,
    how validation was carved, …).
    """

    name: str
    title: str
    task: Literal["classification", "regression", "unlabelled"]
    root: Path
    label_names: tuple[str, ...] = ()
    folds: tuple[Fold, ...] = ()
    pretrain: Path | None = None
    metrics: tuple[str, ...] = ()
    sampling_stride: int = 4
    output_activation: str = "none"
    label_range: tuple[float, float] | None = None
    frame_level: bool = False
    licence: str = ""
    counts: Mapping[str, int] = field(default_factory=dict)
    notes: Mapping[str, Any] = field(default_factory=dict)

    def fold(self, name: str | None) -> Fold:
        """The fold of that name, or the only one for None. Raises `UserError` listing those there are."""
        if name is None:
            if len(self.folds) == 1:
                return self.folds[0]
            names = ", ".join(fold.name for fold in self.folds) or "(none)"
            raise UserError(f"fold: {self.title} has folds {names}; say which, or all")
        for fold in self.folds:
            if fold.name == name:
                return fold
        raise UserError(
            f"{self.name} has no fold {name!r}; its folds: {', '.join(f.name for f in self.folds) or 'none'}"
        )

    def require_tests(self, folder: Path) -> PreparedDataset:
        """The dataset itself, read from `folder`. Raises `UserError` unless it has folds and each has a test part."""
        if not self.folds:
            raise UserError(f"{folder}: {self.title} has no folds")
        for fold in self.folds:
            if fold.test is None:
                raise UserError(f"{folder}: fold {fold.name} of {self.title} has no test part")
        return self


def fold_folder(out: Path, name: str) -> Path:
    """The folder of one fold within the folder of all folds of a dataset."""
    return out / f"fold_{name}"


def write_dataset_file(folder: Path, dataset: PreparedDataset) -> None:
    """Write `dataset.json` into `folder`; the manifests' paths in it are relative to that folder."""
    words = stamped("dataset description", asdict(dataset))
    write_atomically(folder / DATASET_FILE, json.dumps(words, indent=2, default=str, ensure_ascii=False) + "\n")


def read_dataset(folder: str | Path) -> PreparedDataset:
    """Read a folder that `svfap prepare` or `svfap synth` wrote; paths come back absolute. Raises `UserError`."""
    folder = Path(folder)
    file = folder / DATASET_FILE
    if not file.is_file():
        raise UserError(f"{folder}: holds no {DATASET_FILE}; name a folder that `svfap prepare` or `svfap synth` wrote")
    try:
        words = json.loads(file.read_text())
        words = upgrade("dataset description", words, file, {f.name for f in fields(PreparedDataset)})
        folds = tuple(Fold(**fold) for fold in words.pop("folds", ()))
        tuples = {k: tuple(words[k]) for k in ("label_names", "metrics", "label_range") if words.get(k) is not None}
        dataset = PreparedDataset(folds=folds, **{**words, **tuples})
    except (ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{file}: is not the description of a dataset ({error})") from None

    def absolute(path: Any) -> Path | None:
        return None if path is None else (folder / path).absolute()

    folds = tuple(Fold(f.name, absolute(f.train), absolute(f.test), absolute(f.val)) for f in dataset.folds)  # type: ignore[arg-type]
    return replace(dataset, root=(folder / dataset.root).absolute(), folds=folds, pretrain=absolute(dataset.pretrain))
