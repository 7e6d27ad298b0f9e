"""Settings of the verbs about models, `svfap info`, `svfap models` and `svfap convert`."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, make_dataclass
from pathlib import Path
from typing import Any, Literal, get_type_hints

from svfap.datasets.dataset import NAMES
from svfap.errors import UserError
from svfap.model.config import ModelConfig
from svfap.settings import Settings, require_fraction

# Every setting of a model that a checkpoint may leave open, as an optional one: `num_heads: int | None = None`, ….
_HINTS = {
    name: hint
    for name, hint in get_type_hints(ModelConfig).items()
    if name not in ("preset", "task", "heads", "provenance")
}
ModelSettings: Any = make_dataclass(
    "ModelSettings",
    [(name, hint | None, field(default=None)) for name, hint in _HINTS.items()],
    bases=(Settings,),
    frozen=True,
    kw_only=True,
    namespace={"__module__": __name__},
)


@dataclass(frozen=True, kw_only=True)
class InfoConfig(Settings):
    """Settings of `svfap info`."""

    mask_ratio: float | None = None
    """Masking ratio for the pre-training figures; default: the model's."""

    def __post_init__(self) -> None:
        require_fraction(self, "mask_ratio")


@dataclass(frozen=True, kw_only=True)
class ModelsConfig(Settings):
    """Settings of `svfap models`."""

    folder: Path | None = None
    """Folder of models of your own, such as runs or converted checkpoints, which are listed as well."""

    def __post_init__(self) -> None:
        if self.folder is not None and not self.folder.is_dir():
            raise UserError(f"folder={self.folder}: no such folder")


@dataclass(frozen=True, kw_only=True)
class ConvertConfig(ModelSettings):
    """Settings of `svfap convert`. Options without a description are settings of the model; they override the checkpoint."""

    dataset: str | None = None
    """Dataset that the checkpoint was trained on: a name, or a folder written by `svfap prepare`. Gives the head's task, label
    names and output activation; the sampling stride, where the checkpoint does not store it; and, for config.json, the
    frame_rate and face_crop of the folder's clips if `svfap crop` wrote it, else of those that the authors trained on, as far as
    these are documented."""
    task: Literal["classification", "regression", "features", "pretraining"] | None = None
    """Build a model for this task; default: the dataset's, else the checkpoint's."""
    ema: bool = False
    """Use the moving average of the weights stored in the checkpoint."""

    def __post_init__(self) -> None:
        if self.dataset is not None:
            require_dataset(self.dataset)

    def model_settings(self) -> dict[str, Any]:
        """Those settings of the model that are given."""
        given = {setting.name: getattr(self, setting.name) for setting in fields(ModelSettings)}
        return {name: value for name, value in given.items() if value is not None}


def require_dataset(dataset: str) -> None:
    """Raise `UserError` for what is neither the name of a dataset nor a folder."""
    if dataset not in NAMES and not Path(dataset).is_dir():
        raise UserError(f"dataset={dataset}: neither a folder of `svfap prepare` nor one of {', '.join(NAMES)}")


def require_new(out: Path) -> None:
    """Raise `UserError` for the name of a file or folder that is taken."""
    if out.exists():
        raise UserError(f"{out}: exists already; remove it, or choose another name")
