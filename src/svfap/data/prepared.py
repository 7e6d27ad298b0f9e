"""A dataset that is ready to train on: manifests of its folds, and `dataset.json`, which says what they are."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any, Literal

from svfap.console import say_once
from svfap.data.find import manifests_in
from svfap.errors import UserError
from svfap.files import write_atomically
from svfap.formats import stamped, upgrade
from svfap.remote import PACK_FILE, place_of

DATASET_FILE, CROP_FILE = "dataset.json", "crop.json"
FORMER = ".former"  # suffix of files that are set aside


@dataclass(frozen=True)
class Fold:
    """Manifests of one fold, relative to the dataset's folder in the file and absolute once read."""

    name: str
    train: Path
    test: Path | None = None
    val: Path | None = None


@dataclass(frozen=True)
class PreparedDataset:
    """The content of `dataset.json`.

    label_names: classes in order, or the dimensions of a regression. root: folder that the manifests' paths are relative
    to. folds: of the official protocol; their predictions are pooled and scored once. pretrain: unlabelled videos.
    metrics: those the protocol reports, by the names in `svfap.evaluation.metrics`. label_range: least and greatest value of
    the labels (regression). pictures: whether the clips are face crops or whole frames; None: not known. counts: number of
    rows of each manifest. notes: anything else worth keeping (what was missing, how validation was carved, …).
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
    pictures: Literal["faces", "frames"] | None = None
    licence: str = ""
    counts: Mapping[str, int] = field(default_factory=dict)
    notes: Mapping[str, Any] = field(default_factory=dict)

    def fold(self, name: str | None) -> Fold:
        """The fold of that name, or the only one for None. Raises `UserError` listing those there are."""
        names = ", ".join(fold.name for fold in self.folds) or "(none)"
        if name is None and len(self.folds) != 1:
            raise UserError(f"fold: {self.title} has folds {names}; say which, or all")
        for fold in self.folds:
            if name in (None, fold.name):
                return fold
        raise UserError(f"{self.name} has no fold {name!r}; its folds: {names}")

    def manifests(self) -> dict[str, Path]:
        """Name, such as fold_1_train -> every manifest there is."""
        paths = [self.pretrain, *(path for fold in self.folds for path in (fold.train, fold.val, fold.test))]
        return {path.stem: path for path in paths if path is not None}

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
    content = stamped("dataset description", asdict(dataset))
    write_atomically(folder / DATASET_FILE, json.dumps(content, indent=2, default=str, ensure_ascii=False) + "\n")


def read_dataset(folder: str | Path) -> PreparedDataset:
    """Read a folder that `svfap prepare` or `svfap synth` wrote; paths come back absolute. Raises `UserError`."""
    file = Path(folder) / DATASET_FILE
    if not file.is_file():
        raise UserError(f"{place_of(file.parent)}: {_no_dataset(file.parent)}")
    try:
        known = {field.name for field in fields(PreparedDataset)}
        kwargs = upgrade("dataset description", json.loads(file.read_text()), file, known)
        for name in ("label_names", "metrics", "label_range"):
            if kwargs.get(name) is not None:
                kwargs[name] = tuple(kwargs[name])
        folds = tuple(Fold(**_absolute(fold, file.parent)) for fold in kwargs.pop("folds", ()))
        return PreparedDataset(folds=folds, **_absolute(kwargs, file.parent))
    except (ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{file}: is not the description of a dataset ({error})") from None


def _no_dataset(folder: Path, name: str = "dataset") -> str:
    """What is wrong with a folder without `dataset.json`, which a setting names, and what to give instead."""
    has_manifest = name == "dataset"  # others have no setting that takes a manifest in its place
    if folder.is_file():
        instead = ", or a manifest as `manifest`" if has_manifest else ""
        return f"is a file; give a folder that `svfap prepare` or `svfap synth` wrote{instead}"
    if has_manifest and (folder / PACK_FILE).is_file() and (found := manifests_in(folder)):
        return f"was packed from a manifest; give `manifest`, such as {place_of(folder)}/{found[0].name}, in place of `dataset`"
    return f"holds no {DATASET_FILE}; name a folder that `svfap prepare` or `svfap synth` wrote"


def require_dataset(name: str, folder: Path | None) -> None:
    """Raise `UserError` if a setting names a folder without `dataset.json`."""
    if folder is not None and not (folder / DATASET_FILE).is_file():
        raise UserError(f"{name}={place_of(folder)}: {_no_dataset(folder, name)}")


def require_manifest(name: str, file: Path | None) -> None:
    """Raise `UserError` if a setting names no file."""
    if file is not None and not file.is_file():
        raise UserError(f"{name}={place_of(file)}: {no_manifest(file)}")


def no_manifest(path: Path) -> str:
    """Why a path that is no file is no manifest, and what to give instead."""
    if not path.is_dir():
        return "no such file; give the path of a manifest"
    if (path / DATASET_FILE).is_file():
        return "is the folder of a dataset; give it as `dataset`, or one of its manifests"
    if found := manifests_in(path):
        return f"is a folder; give a manifest, such as {place_of(path)}/{found[0].name}"
    return "is a folder without a manifest; give the path of one"


def root_of(manifest: Path) -> Path:
    """The folder that a manifest's paths are relative to: of one that belongs to a prepared dataset its root, else its own."""
    dataset = _described(manifest.parent)
    if dataset is not None and manifest.absolute() in dataset.manifests().values():
        return dataset.root
    return manifest.parent


def dataset_terms(dataset: Path | None, manifest: Path | None) -> dict[str, str]:
    """`dataset` and `licence`, the title and terms in `dataset.json` of a folder, or beside a manifest; empty where unknown."""
    folder = dataset or (manifest.parent if manifest is not None else None)
    described = _described(folder) if folder is not None else None
    if described is None:
        return {}
    return {"dataset": described.title, **({"licence": described.licence} if described.licence else {})}


def _described(folder: Path) -> PreparedDataset | None:
    """The dataset in a folder; None if it holds none, or a file of the same name beside a manifest."""
    with suppress(UserError):
        return read_dataset(folder) if (folder / DATASET_FILE).is_file() else None
    return None


@contextmanager
def replacing_dataset(folder: Path, name: str) -> Iterator[None]:
    """Set aside the description and manifests of the same dataset until the block has written new ones.

    A killed run leaves no description; after an error the former files are back. Raises `UserError` if the folder holds
    another dataset.
    """
    file = folder / DATASET_FILE
    if not file.exists() and _aside(file).exists():  # a run was killed
        for path in folder.glob(f".*{FORMER}"):
            path.replace(path.with_name(path.name.removeprefix(".").removesuffix(FORMER)))
    if not file.exists():
        yield
        return
    former = read_dataset(folder)
    if former.name != name:
        raise UserError(f"out={folder}: holds the dataset {former.name} already; give another folder")
    paths = [path for path in (*former.manifests().values(), file) if path.exists()]
    for path in paths:
        path.replace(_aside(path))
    try:
        yield
    except BaseException:
        for path in paths:
            _aside(path).replace(path)
        raise
    for path in paths:
        _aside(path).unlink()


def _aside(path: Path) -> Path:
    return path.with_name(f".{path.name}{FORMER}")


def read_crop(folder: str | Path) -> dict[str, Any] | None:
    """How `svfap crop` cut the clips in a folder: margin, align, border, detector, size_px, fps; None if it did not write it.

    Raises `UserError` for a damaged file.
    """
    file = Path(folder) / CROP_FILE
    if not file.is_file():
        return None
    try:
        crop = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise UserError(f"{file}: cannot be read ({error})") from None
    if not isinstance(crop, dict):
        raise UserError(f"{file}: is not what `svfap crop` writes; crop again, or remove it")
    return crop


def find_crops(folders: Iterable[Path], manifest: Path | None = None) -> dict[Path | None, dict[str, Any]]:
    """How `svfap crop` cut the clips in these folders: folder of each `crop.json` that says so -> its content.

    It lies in the clips' folder or above, else beside their manifest. None -> {} for clips without one. Raises `UserError`.
    """

    @cache
    def nearest(folder: Path) -> Path | None:
        if read_crop(folder) is not None:
            return folder
        return nearest(folder.parent) if folder != folder.parent else None

    beside = manifest.absolute().parent if manifest is not None and read_crop(manifest.parent) is not None else None
    places = (nearest(Path(os.path.abspath(folder))) or beside for folder in folders)
    return {place: (read_crop(place) if place else None) or {} for place in dict.fromkeys(places)}


def in_crops(folder: Path) -> bool:
    """Whether `svfap crop` wrote what is in a folder: there is a `crop.json` in it or in one above."""
    return None not in find_crops([folder])


def say_crops(face_crop: Mapping[str, Any], folders: Iterable[Path], manifest: Path | None) -> None:
    """Say, once each, in what clips read as face crops differ from those of a model's training.

    face_crop: of the model, as in `ModelConfig`. folders, manifest: of the clips, as in `find_crops`. Raises `UserError`.
    """
    described = _described(manifest.parent) if manifest is not None else None
    for folder, crop in find_crops(folders, manifest).items():
        for name, value in face_crop.items():
            if folder is not None and crop.get(name, value) != value:
                say_once(
                    f"{folder}: the faces were cut out with {name} {crop[name]}, those of the model's training with {value}"
                )
        if folder is None and manifest is not None and described is not None and described.pictures == "frames":
            warn_of_whole_frames(manifest.parent)
        elif folder is None and face_crop:
            cut = ", ".join(f"{name} {value}" for name, value in face_crop.items())
            where = manifest.parent if manifest is not None and described is not None else manifest
            say_once(
                f"the model was trained on faces cut out with {cut}, and nothing says how those of {where} were cut; if they "
                "are whole frames, crop them first (svfap crop)"
            )


def warn_of_whole_frames(folder: str | Path) -> None:
    """Say, once for each folder, that a dataset's clips are whole frames, where models expect faces. Raises `UserError`."""
    dataset = read_dataset(folder)
    if dataset.pictures == "frames":
        say_once(
            f"warning: the clips of {dataset.title} are whole frames, not faces; "
            f"`svfap crop --dataset {Path(folder).absolute()}` cuts them"
        )


def _absolute(kwargs: dict[str, Any], folder: Path) -> dict[str, Any]:
    paths = {
        name: kwargs[name] for name in ("root", "pretrain", "train", "test", "val") if kwargs.get(name) is not None
    }
    return kwargs | {name: (folder / path).absolute() for name, path in paths.items()}
