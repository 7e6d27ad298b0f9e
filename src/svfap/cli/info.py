"""`svfap info`."""

from __future__ import annotations

from svfap.console import show
from svfap.errors import UserError
from svfap.model.presets import list_presets
from svfap.settings import is_exported, require_model
from svfap.shipped import did_you_mean, list_models, local_model
from svfap.weights.config import InfoConfig
from svfap.weights.filetype import require_checkpoint


def run(config: InfoConfig, model: str | None) -> None:
    """Show the tables of a model, or the list of presets."""
    if model is not None and model not in list_presets():
        if local_model(model) is None and "/" not in model and not is_exported(model):
            raise UserError(
                f"{model!r} is neither a preset ({', '.join(list_presets())}) nor a folder nor a shipped model "
                f"({', '.join(list_models())}){did_you_mean(model)}"
            )
        require_model(model)
        if (path := local_model(model)) is not None and path.is_file():
            require_checkpoint(path)
    from svfap.weights import info

    show(*([info.preset_table()] if model is None else info.model_tables(model, config.mask_ratio)))
