"""Settings of `svfap experiment`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from svfap.data.prepared import require_dataset
from svfap.errors import UserError
from svfap.settings import Settings, require, require_weights, several
from svfap.shipped import find_recipe

PROBES = ("linear", "linear_tokens", "attentive")  # readers of frozen features
READERS = ("finetune", *PROBES)
MAX_READINGS = 100  # the seed of a reading is this times that of its pre-training, plus its number


@dataclass(frozen=True, kw_only=True)
class ExperimentConfig(Settings):
    """Settings of `experiment`.

    Raises `UserError` for values out of range, and for a file or folder that does not exist.
    """

    out: Path = Path("runs/experiments")
    """Folder for runs, tables and figures."""
    dataset: Path | None = None
    """Folder of `svfap prepare` or `svfap pack`, or URL of packed data; default: synthetic faces, rendered into OUT/data."""
    fold: str | None = None
    """Fold of the dataset; default: its first, as in the paper."""
    pretrain_dataset: Path | None = None
    """Prepared dataset of videos for pre-training; default: `dataset`, if it has such videos."""
    pretrain_config: Path | None = None
    """YAML file with settings of `svfap pretrain`, or the name of a recipe, as voxceleb2; default: the paper's recipe."""
    finetune_config: Path | None = None
    """YAML file with settings of `svfap finetune`, or the name of a recipe, as dfew; default: the paper's recipe."""
    preset: str | None = None
    """Model size; default: that of the YAML files, else svfap_base."""
    weights: str | None = None
    """Pre-trained weights to use instead of the baseline's pre-training; default: `init` in `finetune_config`."""
    videomae: str | None = None
    """Checkpoint of VideoMAE-Base, for the comparison of Table 7."""
    pretrainings: int = 3
    """Pre-trainings of each row, with seeds 0, 1, …; the interval of a row is over these and the people of the test part, so
    with a single one there is none."""
    readings: int = 3
    """How often each pre-training is fine-tuned, and probed by the attentive reader, each with a seed of its own; at most 100."""
    readers: str | list[str] = field(default_factory=lambda: list(READERS))
    """How a pre-trained encoder is read: finetune, or frozen by readers of `svfap probe`: linear (of the mean that fine-tuning
    reads), linear_tokens (of all tokens, each at its place), attentive (of all tokens)."""
    parallel: int | None = None
    """Runs trained at a time, one process each; default: one per GPU."""

    def __post_init__(self) -> None:
        require(self, 1, "pretrainings", "readings", "parallel")
        if self.readings > MAX_READINGS:
            raise UserError(f"readings={self.readings}: must be at most {MAX_READINGS}")
        chosen = several(self, "readers", READERS)
        object.__setattr__(self, "readers", [name for name in READERS if name in chosen])
        for name in ("dataset", "pretrain_dataset"):
            require_dataset(name, getattr(self, name))
        for name, file in (("pretrain_config", self.pretrain_config), ("finetune_config", self.finetune_config)):
            if file is not None:
                object.__setattr__(self, name, recipe := find_recipe(file))
                if not recipe.is_file():
                    raise UserError(f"{name}={file}: no such file")
        for name, weights in (("weights", self.weights), ("videomae", self.videomae)):
            if weights is not None:
                require_weights(weights, name)

    @property
    def probes(self) -> tuple[str, ...]:
        """The chosen readers of frozen features; where there is none, all, for the trivial baselines."""
        return tuple(name for name in PROBES if name in self.readers) or PROBES
