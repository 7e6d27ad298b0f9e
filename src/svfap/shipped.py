"""The models that come with the package: folders in `svfap/models`, each with its model card, `README.md`."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path

SHIPPED = Path(__file__).parent / "models"
CARD_FILE = "README.md"


def list_models() -> list[str]:
    """Names of the models that come with the package, which `load_model` and every `--model` take."""
    return sorted(folder.name for folder in SHIPPED.iterdir() if (folder / "config.json").is_file())


def shipped_folder(model: object) -> Path | None:
    """The folder of a model that comes with the package; None for any other name, and for a `Path`."""
    return SHIPPED / model if isinstance(model, str) and model in list_models() else None


def local_model(model: str | Path) -> Path | None:
    """Where a model lies on this machine: the folder of a shipped model, else the path itself; None if there is neither.

    Everything that takes the name of a model finds it by this.
    """
    return shipped_folder(model) or (Path(model) if Path(model).exists() else None)


def did_you_mean(name: str) -> str:
    """The end of a message about a model that is not there: the shipped model of a similar name; "" if there is none."""
    similar = get_close_matches(name.lower(), list_models(), n=1)
    return f"; did you mean {similar[0]}, which comes with SVFAP?" if similar else ""


def model_card(name: str) -> str:
    """The model card of a shipped model as Markdown, without the header that the Hub reads."""
    text = (SHIPPED / name / CARD_FILE).read_text("utf-8")
    return text.split("---\n", 2)[-1].lstrip()
