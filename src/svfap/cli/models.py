"""`svfap models`."""

from __future__ import annotations

from pathlib import Path

from svfap.catalogue import CATALOGUE, published
from svfap.console import say, show
from svfap.errors import UserError
from svfap.shipped import did_you_mean, find_model, list_models, model_card
from svfap.weights.config import ModelsConfig


def run(config: ModelsConfig, name: str | None) -> None:
    """Show the table of all models that are known, or print the card of one."""
    if name is None:
        from svfap.weights.listing import lines_of_getting, models_table

        show(models_table(config.folder), *lines_of_getting())
        say("svfap models NAME prints the card of one, also of a run or model folder; svfap info NAME what it costs")
    else:
        print(_card(name).rstrip())


def _card(name: str) -> str:
    """The card of a shipped, local or published model as Markdown. Raises `UserError`."""
    if name in list_models():
        return model_card(name)
    if (found := find_model(name)) is not None:
        if found.path.is_dir():
            from svfap.evaluation.card import card_of

            return card_of(Path(name))
        from svfap.weights.folder import load_model

        return str(load_model(name).generate_model_card())
    if (entry := published(name)) is not None:
        from svfap.weights.listing import published_card

        return published_card(entry)
    names = ", ".join((*list_models(), *(each.name for each in CATALOGUE)))
    raise UserError(f"{name!r} is neither a folder or file here nor one of {names}{did_you_mean(name)}")
