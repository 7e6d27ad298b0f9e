"""Exported models compute what their models compute, in every verb that takes them; what cannot be exported or run is refused."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import svfap.export.export as export_module
from svfap.cli.main import main
from svfap.errors import UserError
from svfap.evaluation.config import EvaluateConfig
from svfap.evaluation.evaluate import evaluate
from svfap.export.config import ExportConfig
from svfap.export.export import export_model
from svfap.features.config import ExtractConfig
from svfap.features.extract import extract_features
from svfap.model.build import create_model
from svfap.predict.predictor import Predictor
from svfap.weights.convert import convert
from svfap.weights.exported import ExportedModel, load_for_inference
from svfap.weights.folder import fingerprint, load_model
from svfap.weights.published import import_published

onnx = pytest.importorskip("onnx")
LABELS = ("happy", "sad", "neutral", "angry", "surprise", "disgust", "fear")
DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "export.md"


def scattered(model):
    """The model with weights so large that its outputs differ from clip to clip."""
    torch.manual_seed(0)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model.eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A model in model/, its exports fp32.onnx and int8.onnx."""
    folder = tmp_path_factory.mktemp("export")
    model = create_model(
        "svfap_debug", "classification", label_names=LABELS, sampling_stride=1, stage_depths=(1, 1), frame_rate=25.0
    )
    scattered(model).save_pretrained(folder / "model")
    write = export_module._write_onnx
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            export_module, "_write_onnx", lambda m, path: (write(m, path), shutil.copy(path, folder / "fp32.onnx"))
        )
        done = export_model(folder / "model", ExportConfig(out=folder / "int8.onnx", int8=True, num_clips=3))
    assert done.synthetic and done.num_clips == 3
    measured = {each.name: each for each in done.measured}
    assert measured["onnx fp32"].relative_error < 1e-4 < measured["onnx int8"].relative_error < 0.3
    assert measured["onnx fp32"].top1_kept == 1 and measured["onnx int8"].megabytes < measured["onnx fp32"].megabytes
    return folder


@pytest.fixture(scope="module")
def model(folder):
    return load_model(folder / "model")


def random_clips(config, number: int) -> torch.Tensor:
    shape = (number, 3, config.num_frames, config.img_size, config.img_size)
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("number", [1, 3])
def test_outputs_are_those_of_the_model_for_any_batch(folder, model, number):
    clips, exported = random_clips(model.config, number), ExportedModel(folder / "fp32.onnx")
    with torch.inference_mode():
        for name in ("forward", "features", "step_features"):
            torch.testing.assert_close(
                getattr(exported, name)(clips), getattr(model, name)(clips), rtol=1e-4, atol=1e-4
            )
        for found, expected in zip(
            exported.outputs_and_features(clips), model.outputs_and_features(clips), strict=True
        ):
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_the_file_alone_tells_all(folder, model):
    proto = onnx.load(folder / "fp32.onnx")
    metadata = {prop.key: prop.value for prop in proto.metadata_props}
    assert json.loads(metadata["config"])["label_names"] == list(LABELS)
    assert metadata["weights"] == fingerprint(model) and metadata["svfap_version"]
    assert str(Path(torch.__file__).parent) not in str(proto.graph.node)  # no paths of the machine
    exported = ExportedModel(folder / "fp32.onnx")
    assert exported.config == model.config
    assert exported.fingerprint == fingerprint(model)
    assert ExportedModel(folder / "int8.onnx").fingerprint == f"{fingerprint(model)}-int8"


def test_a_clip_of_int8_does_not_depend_on_its_neighbours(folder, model):
    clips, exported = random_clips(model.config, 3), ExportedModel(folder / "int8.onnx")
    clips[0] *= 5
    assert torch.equal(exported(clips)[1:2], exported(clips[1:2]))
    with torch.inference_mode():
        expected = model(clips)
    assert 1e-4 < float((exported(clips) - expected).abs().max() / expected.abs().max()) < 0.3


def test_threads_are_those_of_torch_and_do_not_spin(folder):
    options = ExportedModel(folder / "fp32.onnx").session.get_session_options()
    assert options.intra_op_num_threads == torch.get_num_threads()
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"


def test_predict_extract_and_evaluate_give_the_same_tables(folder, faces, tmp_path):
    videos = sorted((faces / "videos").glob("test_*.mp4"))[:2]
    named = {"model": str(folder / "model"), "onnx": str(folder / "fp32.onnx")}
    settings = {"device": "cpu", "precision": "fp32"}
    tables = [Predictor(name, faces="none", **settings)(videos[0]) for name in named.values()]
    pd.testing.assert_frame_equal(*tables, check_exact=False, atol=1e-4)
    for pool in ("mean", "none"):
        rows = [
            extract_features(videos, ExtractConfig(model=name, pool=pool, faces="none", **settings)).table
            for name in named.values()
        ]
        assert rows[0]["start_s"].equals(rows[1]["start_s"])
        np.testing.assert_allclose(*(np.stack(table["feature"]) for table in rows), atol=1e-3)
    scores = {
        key: evaluate(
            EvaluateConfig(
                model=name, manifest=faces / "test.csv", out=tmp_path / key, precision="fp32", num_segments=1
            )
        ).metrics
        for key, name in named.items()
    }
    assert scores["model"]["uar"] == scores["onnx"]["uar"]
    written = [json.loads((tmp_path / key / "metrics.json").read_text()) for key in named]
    assert written[0]["weights"] == written[1]["weights"]
    predictions = [pd.read_csv(tmp_path / key / "predictions.csv") for key in named]
    pd.testing.assert_frame_equal(*predictions, check_exact=False, atol=1e-4)


def test_results_of_evaluation_go_beside_the_file(folder):
    config = EvaluateConfig(model=str(folder / "fp32.onnx"), manifest=DOCUMENT)
    assert config.out_folder == folder / "fp32.evaluation"


def test_the_program_in_the_document_runs_and_agrees(folder, tmp_path, monkeypatch, capsys):
    from svfap.data.video import write_video
    from svfap.export.check import synthetic_clips

    (program,) = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    model = load_model(folder / "model")
    clip = (model.denormalize(synthetic_clips(model.config, 1)) * 255).round().byte()[0].permute(1, 2, 3, 0).numpy()
    write_video(tmp_path / "face.mp4", np.concatenate([clip, clip[::-1]]), 25)
    shutil.copy(folder / "fp32.onnx", tmp_path / "model.onnx")
    monkeypatch.chdir(tmp_path)
    exec(program, {})
    printed = [line.split(" s ") for line in capsys.readouterr().out.splitlines()]
    table = Predictor(model, "cpu", "fp32", None, faces="none")("face.mp4")
    assert [float(start) for start, _ in printed] == table["start_s"].tolist()
    for (_, found), (_, expected) in zip(printed, table.filter(like="prob_").iterrows(), strict=True):
        assert np.allclose(list(eval(found).values()), expected, atol=0.02)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "settings"),
    [
        (
            "regression",
            {"frame_level": True, "output_scale": (2.0, 3.0), "output_offset": (1.0, 0.0), "num_outputs": 2},
        ),
        (
            "regression",
            {"output_activation": "tanh", "num_outputs": 2, "temporal_downsample": "max", "frame_fit": "centre"},
        ),
        ("classification", {"num_outputs": 3, "standardize_clips": True, "spatial_bottleneck": False}),
        ("classification", {"num_outputs": 3, "stem": "conv", "patch_size": 32, "temporal_pyramid": False}),
        ("features", {"temporal_downsample": "avg", "fuse_stages": True}),
    ],
)
def test_all_kinds_of_models_are_exported(task, settings, tmp_path):
    done = export_model(scattered(create_model("svfap_debug", task, **settings)), ExportConfig(out=tmp_path / "m.onnx"))
    assert done.measured[-1].relative_error < 1e-3
    assert load_for_inference(done.out).config.task == task


@pytest.mark.slow
def test_a_pretrained_model_is_exported_as_extract_reads_it(tmp_path, faces):
    scattered(create_model("svfap_debug", "pretraining", sampling_stride=1)).save_pretrained(tmp_path / "mae")
    export_model(
        tmp_path / "mae", ExportConfig(out=tmp_path / "m.onnx", task="features", check=str(faces / "test.csv"))
    )
    video = faces / "videos" / "test_000000.mp4"
    found = [
        np.stack(
            extract_features(video, ExtractConfig(model=str(name), faces="none", precision="fp32")).table["feature"]
        )
        for name in (tmp_path / "mae", tmp_path / "m.onnx")
    ]
    np.testing.assert_allclose(*found, atol=1e-3)


@pytest.mark.slow
def test_the_shipped_model_is_exported(tmp_path, capsys, faces):
    assert main(["export", "movement", "--out", str(tmp_path / "m.onnx"), "--num_clips", "2"]) == 0
    printed = capsys.readouterr()
    assert "onnx fp32" in printed.out and "2 clips of synthetic faces" in printed.out
    assert re.search(r"whose outputs spread\s+by\s+[1-9]\.\de-\d\d", printed.out)
    settings = {"device": "cpu", "precision": "fp32", "faces": "none", "hop_s": 0.5}
    tables = [
        Predictor(name, **settings)(faces / "videos" / "test_000000.mp4") for name in ("movement", tmp_path / "m.onnx")
    ]
    pd.testing.assert_frame_equal(*tables, check_exact=False, atol=1e-4)


def test_nothing_is_written_if_the_file_computes_something_else(folder, tmp_path, monkeypatch, capsys):
    def wrong(model, path):
        proto = onnx.load(folder / "fp32.onnx")
        for tensor in proto.graph.initializer:
            if tensor.name.endswith("head.weight"):
                tensor.CopyFrom(onnx.numpy_helper.from_array(1.01 * onnx.numpy_helper.to_array(tensor), tensor.name))
        onnx.save(proto, path)

    monkeypatch.setattr(export_module, "_write_onnx", wrong)
    assert main(["export", str(folder / "model"), "--out", str(tmp_path / "m.onnx"), "--num_clips", "2"]) == 1
    assert "not written: the exported model's outputs differ" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_exported_is_refused(folder, tmp_path):
    create_model("svfap_debug", "pretraining").save_pretrained(tmp_path / "mae")
    with pytest.raises(UserError, match="mae: is a pretraining model, .* --task features"):
        export_model(tmp_path / "mae", ExportConfig(out=tmp_path / "m.onnx"))
    with pytest.raises(UserError, match=r"fp32\.onnx: is an exported model"):
        export_model(folder / "fp32.onnx", ExportConfig(out=tmp_path / "m.onnx"))
    with pytest.raises(UserError, match=r"fp32\.onnx: exists"):
        export_model(folder / "model", ExportConfig(out=folder / "fp32.onnx"))
    with pytest.raises(UserError, match=r"none/m\.onnx: there is no folder .*none"):
        ExportConfig(out=tmp_path / "none" / "m.onnx")
    with pytest.raises(UserError, match="the suffix must be one of .onnx"):
        ExportConfig(out=tmp_path / "m.pt")
    with pytest.raises(UserError, match="format='tflite' is none of onnx"):
        ExportConfig(format="tflite", out=tmp_path / "m.onnx")  # type: ignore[arg-type]
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    with pytest.raises(UserError, match=r"^check: none of 1 video could be read; the first is .*bad\.mp4"):
        export_model(folder / "model", ExportConfig(out=tmp_path / "m.onnx", check=str(tmp_path / "bad.mp4")))


@pytest.mark.parametrize("package", ["onnxruntime", "onnx", "onnxscript"])
def test_a_missing_package_is_named(package, folder, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=rf"needs? the package {package}; install it with pip install 'svfap\[onnx\]'"):
        export_model(folder / "model", ExportConfig(out=tmp_path / "m.onnx"))
    if package == "onnxruntime":
        with pytest.raises(UserError, match=r"svfap\[onnx\]"):
            Predictor(folder / "fp32.onnx", faces="none")


def changed(folder: Path, out: Path, config: dict | None = None, lacking: str = "", **metadata: str) -> Path:
    """The exported file with other settings in its config, or other metadata, or without one of its keys."""
    proto = onnx.load(folder / "fp32.onnx")
    known = {prop.key: prop.value for prop in proto.metadata_props} | metadata
    known["config"] = json.dumps(json.loads(known["config"]) | (config or {}))
    known.pop(lacking, None)
    del proto.metadata_props[:]
    onnx.helper.set_model_props(proto, known)
    onnx.save(proto, out)
    return out


def test_other_files_are_refused(folder, tmp_path):
    damaged = tmp_path / "damaged.onnx"
    damaged.write_bytes((folder / "fp32.onnx").read_bytes()[:5000])
    (tmp_path / "text.onnx").write_text("none\n")
    for problem, path in [
        ("cannot be read as ONNX; it is damaged", damaged),
        (r"text\.onnx: not an ONNX file but a text file; get the model's file again", tmp_path / "text.onnx"),
        (r"none\.onnx: no such file", tmp_path / "none.onnx"),
        (
            r"was not written by `svfap export` \(its metadata lacks config\)",
            changed(folder, tmp_path / "a.onnx", lacking="config"),
        ),
        ("precision 'int4' is none of fp32, int8", changed(folder, tmp_path / "b.onnx", precision="int4")),
        ("does not fit its metadata: takes", changed(folder, tmp_path / "c.onnx", {"img_size": 64})),
        ("unknown settings nonsense", changed(folder, tmp_path / "d.onnx", {"nonsense": 1})),
    ]:
        with pytest.raises(UserError, match=problem):
            Predictor(path, faces="none")
    with pytest.raises(ValueError, match="expected clips of shape"):
        ExportedModel(folder / "fp32.onnx")(torch.zeros(1, 3, 16, 48, 48))


def test_verbs_that_need_the_network_itself_refuse_the_file(folder):
    with pytest.raises(UserError, match="is an exported model, which predict, extract and evaluate run"):
        load_model(folder / "fp32.onnx")
    with pytest.raises(UserError, match="is an exported model"):
        load_model(folder / "fp32.onnx", task="features")
    for reads in (import_published, lambda path: convert(path, path.parent / "new")):
        with pytest.raises(UserError, match=r"fp32\.onnx: is an exported model"):
            reads(folder / "fp32.onnx")


def test_info_shows_an_exported_model(folder, capsys):
    assert main(["info", str(folder / "fp32.onnx")]) == 0
    printed = capsys.readouterr().out
    assert "multiply-adds" in printed and re.search(r"weights, float32, MB\W+0\.\d\d ", printed)
