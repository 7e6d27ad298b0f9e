"""Settings of `svfap export`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from svfap.errors import UserError
from svfap.settings import EXPORT_SUFFIX, Settings, require, require_file, require_positive


@dataclass(frozen=True, kw_only=True)
class ExportConfig(Settings):
    """What is exported, and how it is checked.

    Raises `UserError` for values that cannot be used.
    """

    format: Literal["onnx"] = "onnx"
    """onnx: one ONNX file, opset 23 (extra `onnx`)."""
    out: Path = Path("model.onnx")
    """File to write: .onnx, in a folder that exists."""
    overwrite: bool = False
    """Replace the file."""
    task: Literal["features"] | None = None
    """features: the encoder's features alone, as `svfap extract` computes them; needed for a pre-trained model. Default: the
    model's own task."""
    head: str | None = None
    """Of a model with several heads the one that is exported; it needs one."""
    int8: bool = False
    """Quantise the weights of all matrix products to int8, and what they are multiplied with while the model runs. The table
    says what that costs and gains on this processor."""
    check: str | list[str] = field(default_factory=list)
    """Videos of face crops, folders or manifests that the file is checked on; several as [a.mp4, b.mp4].
    Default: synthetic faces."""
    num_clips: int = 32
    """Clips of the check, spread evenly over the videos and over their length."""
    tolerance: float = 1e-3
    """Largest difference of the exported float32 model's outputs, as a fraction of their largest value; beyond it nothing is
    written."""

    def __post_init__(self) -> None:
        require(self, 1, "num_clips")
        require_positive(self, "tolerance")
        require_file(self, "out", (EXPORT_SUFFIX,))
        if not self.out.absolute().parent.is_dir():
            raise UserError(f"out={self.out}: there is no folder {self.out.parent}; make it first")
