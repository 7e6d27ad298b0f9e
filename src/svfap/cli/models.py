"""`svfap models`."""

from __future__ import annotations

from svfap.console import show
from svfap.errors import UserError
from svfap.shipped import did_you_mean, list_models, model_card
from svfap.weights.config import ModelsConfig


def run(config: ModelsConfig, name: str | None) -> None:
    """Show a table of each shipped model, or the card of one."""
    if name is None:
        from svfap.weights.info import shipped_table

        show(*map(shipped_table, list_models()))
        return
    if name not in list_models():
        names = ", ".join(list_models())
        raise UserError(f"{name!r} is none of the models that come with the package: {names}{did_you_mean(name)}")
    print(model_card(name), end="")
