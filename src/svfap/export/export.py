"""`svfap export`: a model as an ONNX file that holds all that is needed to use it, checked against the model."""

from __future__ import annotations

import copy
import json
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

import svfap
from svfap.device import PRECISIONS, pick_precision
from svfap.errors import UserError, first_line, require_package
from svfap.export.check import Measured, Run, clips_of, compare, synthetic_clips
from svfap.export.config import ExportConfig
from svfap.files import check_new, replacing_file
from svfap.formats import stamped
from svfap.model.base import Model
from svfap.model.perceiver import Perceiver
from svfap.weights.exported import INPUT, ExportedModel
from svfap.weights.folder import fingerprint, load_model

OPSET = 23  # the first with attention as one operator
MAX_BATCH = 65_536
PACKAGES = ("onnxruntime", "onnx", "onnxscript")


@dataclass(frozen=True)
class Exported:
    """What was written, and how it compares with the model.

    Attributes:
        out: the file. measured: the model in float32 first, then in bfloat16 where that is the default on this processor, then
            the file's precisions. num_clips: that they were compared on. synthetic: whether these show synthetic faces.
    """

    out: Path
    measured: tuple[Measured, ...]
    num_clips: int
    synthetic: bool


def export_model(model: str | Path | Model, config: ExportConfig | None = None) -> Exported:
    """Write a model as one ONNX file with a dynamic batch, and check it; nothing is written if the check fails.

    model: a classifier, a regression or a feature encoder, or what `load_model` takes.

    The file takes `clips` (B, 3, T, H, W) float32, normalised, and gives `outputs` as `Perceiver.forward` does (not of
    task features), `features` (B, D) and `step_features` (B, T', D). Its metadata are `config` (the content of config.json),
    `weights` (digest), `precision` and `svfap_version`. Raises `UserError` for a model that has no such outputs, a file
    that exists, a package that is missing, and if the float32 file differs from the model by more than the tolerance.
    """
    config = config or ExportConfig()
    for name in PACKAGES:
        require_package(name, "onnx", "format=onnx")
    check_new(config.out, config.overwrite)
    perceiver = _perceiver(model, config)
    shape = perceiver.config
    clips = (
        clips_of(config.check, shape, config.num_clips) if config.check else synthetic_clips(shape, config.num_clips)
    )
    with TemporaryDirectory(prefix="svfap-export-") as folder:
        files = {"onnx fp32": Path(folder) / "fp32.onnx"}
        _write_onnx(perceiver, files["onnx fp32"])
        if config.int8:
            files["onnx int8"] = Path(folder) / "int8.onnx"
            _quantise(files["onnx fp32"], files["onnx int8"])
        runs: dict[str, Run] = {name: ExportedModel(file).every_output for name, file in files.items()}
        if pick_precision("auto", torch.device("cpu")) == "bf16":
            runs = {"torch bf16": _in_bfloat16(perceiver), **runs}
        sizes = {name: file.stat().st_size / 1e6 for name, file in files.items()}
        with torch.inference_mode():
            measured = compare(clips, perceiver.every_output, runs, shape, sizes)
        error = next(each.relative_error for each in measured if each.name == "onnx fp32")
        if not error <= config.tolerance:
            raise UserError(
                f"{config.out}: not written: the exported model's outputs differ from the model's by up to {error:.1e} of their "
                f"largest value, more than tolerance={config.tolerance:g}"
            )
        with replacing_file(config.out) as part:
            part.write_bytes(list(files.values())[-1].read_bytes())
    return Exported(config.out, tuple(measured), len(clips), not config.check)


def _perceiver(model: str | Path | Model, config: ExportConfig) -> Perceiver:
    """The model to export, in float32 on the CPU."""
    name = str(model) if isinstance(model, str | Path) else "the model"
    loaded = model if isinstance(model, Model) else load_model(model)
    if config.task == "features" and loaded.config.task != "features":
        if isinstance(model, Model):
            raise UserError("task=features: is for a model by name; load this one with load_model(…, task='features')")
        loaded = load_model(model, task="features")
    if not isinstance(loaded, Perceiver):
        raise UserError(
            f"{name}: is a {loaded.config.task} model, which has no outputs to export; give --task features for those of its "
            "encoder, or fine-tune it first"
        )
    if loaded.config.heads or config.head is not None:
        if config.head is None:
            raise UserError(f"{name}: has several heads; choose one with `head`, of {', '.join(loaded.config.outputs)}")
        loaded = loaded.of_head(config.head)
    return copy.deepcopy(loaded).to("cpu", torch.float32).eval()


class _EveryOutput(nn.Module):
    """The outputs of a model as a tuple."""

    def __init__(self, model: Perceiver) -> None:
        super().__init__()
        self.model = model

    def forward(self, clips: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.model.every_output(clips).values())


def _write_onnx(model: Perceiver, path: Path) -> None:
    """Write a model in float32, with its metadata."""
    import onnx

    config = model.config
    clips = torch.zeros(2, 3, config.num_frames, config.img_size, config.img_size)
    with torch.inference_mode():
        names = list(model.every_output(clips))
    try:
        with _quiet():
            program = torch.onnx.export(
                _EveryOutput(model), (clips,), dynamo=True, opset_version=OPSET, input_names=[INPUT], output_names=names,
                dynamic_shapes={INPUT: {0: torch.export.Dim("batch", min=1, max=MAX_BATCH)}}, verbose=False,
            )  # fmt: skip
            assert program is not None
            proto = program.model_proto
    except Exception as error:  # torch.onnx raises many types
        raise UserError(f"the model cannot be exported with torch {torch.__version__}: {first_line(error)}") from error
    # Where in the sources each node comes from, with paths of this machine.
    graph = proto.graph
    for part in (proto, graph, *graph.node, *graph.initializer, *graph.input, *graph.output, *graph.value_info):
        part.ClearField("doc_string")
        part.ClearField("metadata_props")
    proto.producer_name, proto.producer_version = "svfap", svfap.__version__
    settings = json.dumps(stamped("model config", asdict(config)), sort_keys=True)
    metadata = {"config": settings, "weights": fingerprint(model), "precision": "fp32"}
    onnx.helper.set_model_props(proto, {**metadata, "svfap_version": svfap.__version__})
    onnx.save(proto, path)


def _quantise(source: Path, target: Path) -> None:
    """Weights of matrix products as int8 by output channel; what they are multiplied with is quantised as the model runs.

    Measured beside static quantisation, whose scales come from sample clips, this is more exact and faster; see
    docs/export.md. The head and everything but matrix products stay float32.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with _quiet():
        quantize_dynamic(source, target, op_types_to_quantize=["MatMul"], per_channel=True, weight_type=QuantType.QInt8)
    proto = onnx.load(target)
    proto.producer_name, proto.producer_version = "svfap", svfap.__version__
    metadata = {prop.key: prop.value for prop in onnx.load(source, load_external_data=False).metadata_props}
    onnx.helper.set_model_props(proto, {**metadata, "precision": "int8"})
    onnx.save(proto, target)


def _in_bfloat16(model: Perceiver) -> Run:
    def run(clips: Tensor) -> Mapping[str, Tensor]:
        with torch.autocast("cpu", PRECISIONS["bf16"]):
            return model.every_output(clips)

    return run


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the notes of the exporters, which are about their own insides."""
    before: Any = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
