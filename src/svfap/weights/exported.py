"""Models in a file of `svfap export` (ONNX), run by onnxruntime: the same inputs and outputs as the model they were made of."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from svfap.errors import UserError, first_line, require_package
from svfap.model.base import Model
from svfap.model.config import ModelConfig
from svfap.settings import is_exported
from svfap.weights.filetype import require_checkpoint
from svfap.weights.folder import fingerprint, load_model

INPUT = "clips"
PRECISIONS = ("fp32", "int8")
# Keys of the file's metadata: what a config.json holds, as JSON; digest of the weights; precision; version of this package.
METADATA = ("config", "weights", "precision", "svfap_version")


def output_names(config: ModelConfig) -> list[str]:
    """Names of the outputs in the file of a model."""
    features = ["features", "step_features"]
    return features if config.task == "features" else ["outputs", *features]


class ExportedModel(nn.Module):
    """A model in a file of `svfap export`, for what a `Perceiver` of its config does: outputs, features, step features.

    It runs on the CPU, wherever its inputs are, in the precision of the file, with the threads of torch when it was loaded.
    One clip of an int8 file goes in at a time: activations are scaled by the extremes of a batch, and a clip's outputs
    must not depend on its neighbours.

    Attributes:
        config: the model's. precision: "fp32" or "int8". fingerprint: that of the model it was made of; of int8 with this
            ending.
    """

    def __init__(self, path: str | Path) -> None:
        """Open a file. Raises `UserError` if it is damaged or not one of `svfap export`, or a package is missing."""
        super().__init__()
        self.path = Path(path)
        self.session = _session(require_package("onnxruntime", "onnx", str(path)), self.path)
        metadata = self.session.get_modelmeta().custom_metadata_map
        self.config = _config_of(metadata, self.path)
        self.precision = metadata["precision"]
        self.fingerprint = metadata["weights"] + ("" if self.precision == "fp32" else f"-{self.precision}")
        size = (3, self.config.num_frames, self.config.img_size, self.config.img_size)
        inputs = {each.name: tuple(each.shape[1:]) for each in self.session.get_inputs()}
        self._outputs = [each.name for each in self.session.get_outputs()]
        if inputs != {INPUT: size} or self._outputs != output_names(self.config):
            raise UserError(
                f"{path}: does not fit its metadata: takes {inputs} and gives {', '.join(self._outputs)}, where its config has "
                f"{INPUT} {size} and {', '.join(output_names(self.config))}; export the model again"
            )
        self._shape = size

    def forward(self, clip: Tensor) -> Tensor:
        """As `Perceiver.forward`. Raises `ValueError` for clips of another size than the config's."""
        return self.every_output(clip)[self._outputs[0]]

    def features(self, clip: Tensor) -> Tensor:
        """As `Perceiver.features`: (B, 3, T, H, W) -> (B, D)."""
        return self.every_output(clip)["features"]

    def step_features(self, clip: Tensor) -> Tensor:
        """As `Perceiver.step_features`: (B, 3, T, H, W) -> (B, T', D)."""
        return self.every_output(clip)["step_features"]

    def outputs_and_features(self, clip: Tensor) -> tuple[Tensor, Tensor]:
        """As `Perceiver.outputs_and_features`."""
        found = self.every_output(clip)
        return found[self._outputs[0]], found["features"]

    def every_output(self, clip: Tensor) -> dict[str, Tensor]:
        """As `Perceiver.every_output`, on the device of `clip`."""
        if clip.ndim != 5 or tuple(clip.shape[1:]) != self._shape:
            raise ValueError(
                f"expected clips of shape (B, {', '.join(map(str, self._shape))}), got {tuple(clip.shape)}"
            )
        clips = clip.detach().cpu().float().numpy()
        parts = [clips] if self.precision == "fp32" else np.split(clips, len(clips))
        found = zip(*(self.session.run(self._outputs, {INPUT: part}) for part in parts), strict=True)
        arrays = (torch.from_numpy(np.concatenate(arrays)).to(clip.device) for arrays in found)
        return dict(zip(self._outputs, arrays, strict=True))


def load_for_inference(path_or_hub_id: str | Path) -> Model | ExportedModel:
    """What `load_model` loads, or a file of `svfap export` (.onnx). Raises `UserError`."""
    return ExportedModel(path_or_hub_id) if is_exported(path_or_hub_id) else load_model(path_or_hub_id)


def fingerprint_of(model: Model | ExportedModel) -> str:
    """Digest of what decides a model's outputs, as in `fingerprint`."""
    return model.fingerprint if isinstance(model, ExportedModel) else fingerprint(model)


def _session(runtime: Any, path: Path) -> Any:
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.inter_op_num_threads = 1
    # Waiting threads leave the cores to decoders.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3  # errors
    try:
        return runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises many types for broken files
        require_checkpoint(path)
        reason = first_line(error)
        raise UserError(
            f"{path}: cannot be read as ONNX; it is damaged, or of a newer version ({reason}); get it again, or export the model "
            "again"
        ) from None


def _config_of(metadata: Mapping[str, str], path: Path) -> ModelConfig:
    """The config in the metadata of a file. Raises `UserError` if it is not one of `svfap export`."""
    if missing := [key for key in METADATA if key not in metadata]:
        raise UserError(
            f"{path}: was not written by `svfap export` (its metadata lacks {', '.join(missing)}); export a run or model folder"
        )
    if metadata["precision"] not in PRECISIONS:
        raise UserError(
            f"{path}: precision {metadata['precision']!r} is none of {', '.join(PRECISIONS)}; upgrade svfap"
        )
    try:
        return ModelConfig.from_dict(json.loads(metadata["config"]), path)
    except ValueError as error:
        raise UserError(f"{path}: its metadata holds no model config ({error}); export the model again") from None
