"""The datasets that `svfap prepare` knows, one module each, imported when asked for."""

from __future__ import annotations

from importlib import import_module

from svfap.prepare.dataset import Dataset

NAMES = (
    "dfew",
    "ferv39k",
    "mafw",
    "crema_d",
    "ravdess",
    "enterface05",
    "werewolf_xl",
    "avcaffe",
    "chalearn",
    "voxceleb2",
    "folder",
)


def get_dataset(name: str) -> Dataset:
    """The description `DATASET` of the module of that name."""
    dataset: Dataset = import_module(f"{__name__}.{name}").DATASET
    return dataset
