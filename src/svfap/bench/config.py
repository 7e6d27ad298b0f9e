"""Settings of `svfap bench`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from svfap.errors import UserError
from svfap.files import check_new, make_folder
from svfap.model.presets import check_model
from svfap.settings import SourceSettings, require_positive

LEAST_S = 10.0
JSON_FILE, MARKDOWN_FILE = "bench.json", "bench.md"


@dataclass(frozen=True, kw_only=True)
class BenchConfig(SourceSettings):
    """What is measured, and for how long.

    Raises `UserError` for values that cannot be used.
    """

    preset: str = "svfap_base"
    """Named model size; `svfap info` lists them."""
    model: str | None = None
    """Measure a model of this size in place of a preset: a run or model folder, a Hub name, a shipped model or a checkpoint."""
    manifest: Path | None = None
    """CSV of your videos, whose reading is measured. Without it, and without `dataset`, reading is not measured, and steps and
    predictions are measured on a synthetic face."""
    dataset: Path | None = None
    """Folder of `svfap prepare`, in place of `manifest`; of its folds the first is read."""
    device: str = "auto"
    """auto (a GPU where there is one), cpu, cuda, cuda:1, mps, …"""
    seconds: float = 120.0
    """How long it takes, from the start of the command, at least 10. Batch sizes are doubled in turn for all that is measured;
    what does not fit is left out, largest batches first, and listed. A single step that takes longer is not interrupted."""
    out: Path | None = None
    """Folder for bench.json and bench.md; default: the tables are printed only."""
    overwrite: bool = False
    """Replace these files."""

    def __post_init__(self) -> None:
        check_model(self.preset, ())
        require_positive(self, "seconds")
        if not LEAST_S <= self.seconds < float("inf"):
            raise UserError(f"seconds={self.seconds:g}: must be at least {LEAST_S:g}")
        if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", self.device):
            raise UserError(f"device={self.device}: must be auto, cpu, mps, cuda, or one of several as cuda:1")
        if self.manifest is not None and self.dataset is not None:
            raise UserError("give either `manifest` or `dataset`")
        if not self.reads and (self.root is not None or self.split is not None):
            raise UserError("`root` and `split` go with `manifest` or `dataset`")

    @property
    def reads(self) -> bool:
        """Whether there are videos whose reading is measured."""
        return self.manifest is not None or self.dataset is not None

    def check_files(self) -> None:
        """Raise `UserError` if videos are not there, or results cannot be written or would replace others."""
        for name in ("manifest", "root", "dataset"):
            path = getattr(self, name)
            if path is not None and not Path(path).exists():
                raise UserError(f"{name}={path}: no such {'file' if name == 'manifest' else 'folder'}")
        if self.out is not None:
            make_folder(self.out)
            for name in (JSON_FILE, MARKDOWN_FILE):
                check_new(self.out / name, self.overwrite)
