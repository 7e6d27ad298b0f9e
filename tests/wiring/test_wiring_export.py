"""Every setting of `svfap export` has its effect on what is computed, checked or written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from observe import Effect, check, digest, messages, save_classifier, write_material

import svfap.export.export as export_module
from svfap.errors import UserError
from svfap.export.config import ExportConfig
from svfap.export.export import export_model
from svfap.model.build import create_model
from svfap.model.config import Head
from svfap.weights.exported import ExportedModel

pytestmark = pytest.mark.slow  # exported files are tested in tests/export

EFFECTS: dict[str, Effect] = {
    "out": Effect({}, {"out": "other.onnx"}, ("files",), ("precision", "outputs")),
    "task": Effect({}, {"task": "features"}, ("outputs",), ("precision", "clips")),
    "int8": Effect({}, {"int8": True}, ("precision", "measured"), ("outputs", "clips")),
    "check": Effect({}, {"check": "v00.mp4"}, ("clips", "synthetic"), ("precision", "outputs")),
    "num_clips": Effect({}, {"num_clips": 3}, ("num_clips", "clips"), ("precision", "outputs")),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    pytest.importorskip("onnxruntime")
    folder = tmp_path_factory.mktemp("wiring_export")
    write_material(folder, 2)
    save_classifier(folder / "model", 0, stage_depths=(1,))
    return folder


@pytest.fixture
def observed(folder, tmp_path, monkeypatch):
    write, compare, compared = export_module._write_onnx, export_module.compare, []

    def write_once(model, path):
        """A model is traced once, which takes seconds."""
        kind = folder / f"{model.config.task}.traced"
        if not kind.exists():
            write(model, kind)
        path.write_bytes(kind.read_bytes())

    monkeypatch.setattr(export_module, "_write_onnx", write_once)
    monkeypatch.setattr(
        export_module, "compare", lambda clips, *args: (compared.append(digest(clips)), compare(clips, *args))[1]
    )

    def observe(settings: dict[str, Any], place: str) -> dict[str, Any]:
        out = tmp_path / place
        out.mkdir(exist_ok=True)
        chosen = {"out": "model.onnx", "num_clips": 2, **settings}
        chosen["out"] = out / chosen["out"]
        if "check" in chosen:
            chosen["check"] = [str(folder / chosen["check"])]
        with messages():
            done = export_model(folder / "model", ExportConfig(**chosen))
        exported = ExportedModel(done.out)
        return {
            "files": sorted(path.name for path in out.iterdir()),
            "precision": exported.precision,
            "outputs": [each.name for each in exported.session.get_outputs()],
            "clips": compared[-1],
            "num_clips": done.num_clips,
            "synthetic": done.synthetic,
            "measured": [each.name for each in done.measured],
        }

    return observe


@pytest.mark.parametrize("name", EFFECTS)
def test_a_setting_of_export_has_its_effect(name, observed):
    effect = EFFECTS[name]
    check(effect, observed(effect.a, "a"), observed(effect.b, "b"))


def test_overwrite(observed):
    observed({}, "a")
    with pytest.raises(UserError, match=r"model\.onnx: exists"):
        observed({}, "a")
    assert observed({"overwrite": True, "int8": True}, "a")["precision"] == "int8"


def test_tolerance(observed, tmp_path):
    with pytest.raises(UserError, match="more than tolerance=1e-12"):
        observed({"tolerance": 1e-12}, "a")
    assert not list((tmp_path / "a").iterdir())


def test_format():
    with pytest.raises(UserError, match="format='coreml' is none of onnx"):
        ExportConfig(format="coreml")  # type: ignore[arg-type]


def test_head():
    heads = [Head("mood", "classification", ("joy", "fear")), Head("v", "regression", ("valence",))]
    model = create_model("svfap_debug", "multitask", num_outputs=3, heads=heads)
    with pytest.raises(UserError, match="has several heads; choose one with `head`, of mood, v"):
        export_module._perceiver(model, ExportConfig())
    exported = export_module._perceiver(model, ExportConfig(head="mood")).config
    assert (exported.task, exported.label_names, exported.heads) == ("classification", ("joy", "fear"), ())


TESTED = {ExportConfig: {*EFFECTS, "overwrite", "tolerance", "format", "head"}}
