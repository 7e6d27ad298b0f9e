"""The models that come with the package: folders in `svfap/models`, each with its model card, `README.md`."""

from __future__ import annotations

from pathlib import Path

SHIPPED = Path(__file__).parent / "models"
CARD_FILE = "README.md"


def list_models() -> list[str]:
    """Names of the models that come with the package, which `load_model` and every `--model` take."""
    return sorted(folder.name for folder in SHIPPED.iterdir() if (folder / "config.json").is_file())


def shipped_folder(model: object) -> Path | None:
    """The folder of a model that comes with the package; None for any other name, and for a `Path`."""
    return SHIPPED / model if isinstance(model, str) and model in list_models() else None


def model_card(name: str) -> str:
    """The model card of a shipped model as Markdown, without the header that the Hub reads."""
    text = (SHIPPED / name / CARD_FILE).read_text("utf-8")
    return text.split("---\n", 2)[-1].lstrip()
