"""Settings of `svfap experiment`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from svfap.errors import UserError
from svfap.settings import Settings, require, require_model


@dataclass(frozen=True, kw_only=True)
class ExperimentConfig(Settings):
    """Settings of `experiment`.

    Raises `UserError` for values out of range, and for a file or folder that does not exist.
    """

    out: Path = Path("runs/experiments")
    """Folder for runs, tables and figures."""
    dataset: Path | None = None
    """Folder of `svfap prepare`; default: synthetic faces, which are rendered into OUT/data."""
    fold: str | None = None
    """Fold of the dataset; default: its first, as in the paper."""
    pretrain_dataset: Path | None = None
    """Prepared dataset of videos for pre-training; default: `dataset`, if it has such videos."""
    pretrain_config: Path | None = None
    """YAML file with settings of `svfap pretrain`; default: the paper's recipe."""
    finetune_config: Path | None = None
    """YAML file with settings of `svfap finetune`; default: the paper's recipe."""
    preset: str | None = None
    """Model size; default: that of the YAML files, else svfap_base."""
    weights: str | None = None
    """Pre-trained weights to use instead of the baseline's pre-training; default: `init` in `finetune_config`."""
    videomae: str | None = None
    """Checkpoint of VideoMAE-Base, for the comparison of Table 7."""
    seeds: int = 3
    """Fine-tunings of each row, with seeds 0, 1, …"""
    share_pretraining: bool = True
    """Pre-train each row once, with seed 0, and start the fine-tunings of all seeds from it."""
    parallel: int | None = None
    """Runs trained at a time, one process each; default: one per GPU."""

    def __post_init__(self) -> None:
        require(self, 1, "seeds", "parallel")
        for name, folder in (("dataset", self.dataset), ("pretrain_dataset", self.pretrain_dataset)):
            if folder is not None and not (folder / "dataset.json").is_file():
                fix = "give a folder of `svfap prepare` or `svfap synth`"
                raise UserError(f"{name}={folder}: holds no dataset.json; {fix}")
        for name, file in (("pretrain_config", self.pretrain_config), ("finetune_config", self.finetune_config)):
            if file is not None and not file.is_file():
                raise UserError(f"{name}={file}: no such file")
        for name, weights in (("weights", self.weights), ("videomae", self.videomae)):
            if weights is not None:
                require_model(weights, name)
