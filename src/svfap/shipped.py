"""Models and recipes by name: what comes with the package, in `svfap/models` and `svfap/configs`, and what lies on the disk."""

from __future__ import annotations

import re
from difflib import get_close_matches
from pathlib import Path
from typing import NamedTuple

from svfap.catalogue import CATALOGUE, entry_of_file, is_of_authors, published
from svfap.errors import UserError

SHIPPED = Path(__file__).parent / "models"
RECIPES = Path(__file__).parent / "configs"
CARD_FILE = "README.md"


class LocalModel(NamedTuple):
    """Where a model lies: path, a folder or a checkpoint file. dataset: what the file was trained on, as its name says."""

    path: Path
    dataset: str | None = None

    @property
    def absolute(self) -> str:
        """A name that finds it from any folder."""
        dataset = str(Path(self.dataset).absolute()) if self.dataset and Path(self.dataset).is_dir() else self.dataset
        return f"{self.path.absolute()}:{dataset}" if dataset else str(self.path.absolute())


def list_models() -> list[str]:
    """Names of the models that come with the package, which `load_model` and every `--model` take."""
    return sorted(folder.name for folder in SHIPPED.iterdir() if (folder / "config.json").is_file())


def shipped_folder(model: object) -> Path | None:
    """The folder of a model that comes with the package; None for any other name, and for a `Path`."""
    return SHIPPED / model if isinstance(model, str) and model in list_models() else None


def find_model(model: str | Path) -> LocalModel | None:
    """Where a model lies on this machine: the folder of a shipped model, else the path itself; None if there is neither.

    A checkpoint file does not say what its outputs mean. Its name can: FILE:DATASET, with a dataset's name or the folder of
    `svfap prepare`; and a file that is called as in `CATALOGUE`, such as authors/dfew-1.pth, is of that dataset.

    Everything that takes the name of a model finds it by this.
    """
    if (folder := shipped_folder(model)) is not None:
        return LocalModel(folder)
    path = Path(model)
    if path.exists():
        entry = entry_of_file(path) if path.is_file() else None
        return LocalModel(path, entry.dataset if entry else None)
    file, _, dataset = str(model).rpartition(":")
    return LocalModel(Path(file), dataset) if file and dataset and Path(file).is_file() else None


def local_model(model: str | Path) -> Path | None:
    """The folder or file of `find_model`; None if there is none."""
    return None if (found := find_model(model)) is None else found.path


def is_checkpoint(model: str | Path) -> bool:
    """Whether a name is that of a file on this machine, and not of a folder or a repository."""
    return (path := local_model(model)) is not None and path.is_file()


def did_you_mean(name: str) -> str:
    """The end of a message about a model that is not there: how to get one of the catalogue, or a similar name."""
    if (entry := published(name)) is not None:
        return f"; it does not come with SVFAP: `svfap models {entry.name}` says where to get it"
    known = [entry.name for entry in CATALOGUE] if is_of_authors(name) else []
    similar = get_close_matches(name.lower(), [*list_models(), *known], n=1)
    if not similar:
        return ""
    what = "which comes with SVFAP" if similar[0] in list_models() else "which `svfap models` lists"
    return f"; did you mean {similar[0]}, {what}?"


def model_card(name: str) -> str:
    """The model card of a shipped model as Markdown, without the header that the Hub reads."""
    text = (SHIPPED / name / CARD_FILE).read_text("utf-8")
    return text.split("---\n", 2)[-1].lstrip()


def list_recipes() -> list[str]:
    """Names of the files of settings that come with the package, which every --config takes: dfew, …, demo/pretrain, …"""
    return sorted(file.relative_to(RECIPES).with_suffix("").as_posix() for file in RECIPES.rglob("*.yaml"))


def find_recipe(name: str | Path) -> Path:
    """The file of a recipe that comes with the package, whatever lies in the current folder; for any other name the path itself.

    Raises `UserError` for a name, without a suffix, that is no file and no recipe.
    """
    if str(name) in list_recipes():
        return RECIPES / f"{name}.yaml"
    path = Path(name)
    if re.fullmatch(r"[\w/-]+", str(name)) and not path.exists():
        similar = get_close_matches(str(name), list_recipes(), n=1)
        fix = (
            f"did you mean {similar[0]}?" if similar else f"those that come with SVFAP are {', '.join(list_recipes())}"
        )
        raise UserError(f"{name}: neither a file nor a recipe; {fix}")
    return path
