"""Models of transformers against those of this package: the same folders, outputs, videos and errors."""

from __future__ import annotations

import copy
import dataclasses
import json
import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open

import svfap
from svfap.cli.main import main
from svfap.data.video import open_video, write_video
from svfap.errors import UserError
from svfap.model.base import Model
from svfap.model.config import OF_TRANSFORMERS, ModelConfig
from svfap.shipped import shipped_folder

transformers = pytest.importorskip("transformers", reason="transformers, of the dev extra, is not installed")
svfap.register_transformers()

from transformers import AutoConfig, AutoModel, AutoModelForPreTraining, AutoModelForVideoClassification  # noqa: E402
from transformers.models.auto.video_processing_auto import AutoVideoProcessor  # noqa: E402

from svfap.huggingface.configuration import SVFAPConfig  # noqa: E402
from svfap.huggingface.modeling import SVFAPForVideoClassification, SVFAPModel  # noqa: E402
from svfap.huggingface.video_processing import SVFAPVideoProcessor  # noqa: E402

NAMES = ("joy", "anger", "calm")
# Every setting that says how a clip is read differs from its default.
READING = dict(
    sampling_stride=2, frame_rate=20.0, frame_fit="centre", pixel_mean=(0.5, 0.4, 0.3), pixel_std=(0.3, 0.2, 0.1)
)
MODELS: dict[str, dict[str, Any]] = {
    "classification": dict(
        label_names=NAMES, standardize_clips=True, provenance={"by": {"test": [1, None]}}, **READING
    ),
    "regression": dict(
        **dict(label_names=("valence", "arousal"), output_activation="tanh", output_scale=(2.0, 0.5)),
        **dict(output_offset=(0.25, -1.0), frame_level=True, temporal_downsample="avg"),
    ),
    "pretraining": dict(mask_ratio=0.5, target="difference"),
    "features": dict(stem="conv", stage_depths=(1,), fuse_stages=True),
}
AUTO = {"classification": AutoModelForVideoClassification, "regression": AutoModelForVideoClassification}
AUTO |= {"pretraining": AutoModelForPreTraining, "features": AutoModel}


@pytest.fixture(scope="module", autouse=True)
def _offline():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        yield


def create(task: str, **settings: Any) -> Model:
    """Weights of which every one influences the outputs."""
    torch.manual_seed(0)
    model = svfap.create_model("svfap_debug", task, **{**MODELS[task], **settings}).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, 1.0 if parameter.ndim == 1 else 0.0, 0.2)
    return model


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    """A folder of each task, written by svfap."""
    root = tmp_path_factory.mktemp("models")
    for task in MODELS:
        create(task).save_pretrained(root / task)
    return {task: root / task for task in MODELS}


@pytest.fixture(scope="module")
def clips() -> torch.Tensor:
    """(2, 16, 3, 32, 32), time before channels."""
    return torch.randn(2, 16, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def outputs(model: Any, clips: torch.Tensor) -> torch.Tensor:
    """What a model of either package computes."""
    torch.manual_seed(1)  # of the mask
    with torch.inference_mode():
        if isinstance(model, transformers.PreTrainedModel):
            result = model(clips)
            return result.pooler_output if isinstance(model, SVFAPModel) else result.logits
        clip = clips.transpose(1, 2)
        return model(clip) if isinstance(model, svfap.Perceiver) else model(clip, svfap.tube_mask(2, model.config))


def edit(folder: Path, **changes: Any) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


# folders -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", MODELS)
def test_a_folder_of_either_library_is_the_same_model_in_both(task, folders, clips, tmp_path):
    ours = svfap.load_model(folders[task])
    theirs = AUTO[task].from_pretrained(folders[task])
    assert isinstance(AutoConfig.from_pretrained(folders[task]), SVFAPConfig) and not theirs.training
    assert torch.equal(outputs(theirs, clips), outputs(ours, clips))
    buffers = dict(ours.named_buffers())
    assert buffers.keys() == dict(theirs.named_buffers()).keys() and any(name.endswith("positions") for name in buffers)
    assert all(torch.equal(tensor, buffers[name]) for name, tensor in theirs.named_buffers())

    theirs.save_pretrained(tmp_path)
    names = {"config.json", "model.safetensors", "video_preprocessor_config.json"}
    assert {file.name for file in tmp_path.iterdir()} == names
    with (
        safe_open(folders[task] / "model.safetensors", "pt") as a,
        safe_open(tmp_path / "model.safetensors", "pt") as b,
    ):
        assert set(a.keys()) == set(b.keys())
    for again in (svfap.load_model(tmp_path), Model.from_pretrained(tmp_path), AUTO[task].from_pretrained(tmp_path)):
        assert torch.equal(outputs(again, clips), outputs(ours, clips))
    assert svfap.load_model(tmp_path).config == ours.config
    again = json.loads((tmp_path / "config.json").read_text())
    assert {name: again[name] for name in json.loads((folders[task] / "config.json").read_text())} == json.loads(
        (folders[task] / "config.json").read_text()
    )
    assert again.keys() - set(ModelConfig.field_names()) - {"format_version"} <= set(OF_TRANSFORMERS)


def test_the_model_of_svfap_within_has_the_same_parameters(folders, clips, tmp_path):
    theirs = AutoModelForVideoClassification.from_pretrained(folders["classification"])
    assert isinstance(theirs.svfap, svfap.Perceiver)
    with torch.no_grad():
        theirs.head.bias += 1
    theirs.svfap.save_pretrained(tmp_path)
    assert torch.equal(outputs(svfap.load_model(tmp_path), clips), outputs(theirs, clips))
    replica = theirs._replicate_for_data_parallel()
    replica.head = copy.deepcopy(theirs.head)
    for other in (copy.deepcopy(theirs), pickle.loads(pickle.dumps(theirs)), replica):
        before = outputs(theirs, clips)
        with torch.no_grad():
            other.head.bias += 1
        assert torch.equal(outputs(theirs, clips), before)
        assert torch.allclose(outputs(other, clips), before + 1)
    assert outputs(theirs.double(), clips.double()).dtype == torch.float64
    theirs.head = torch.nn.Linear(32, 2)
    assert outputs(theirs.float(), clips).shape == (2, 2)


def test_features_are_those_of_svfap(folders, clips, caplog):
    clip = clips.transpose(1, 2)
    with torch.inference_mode():
        found = AutoModel.from_pretrained(folders["classification"])(clips)
        model = svfap.load_model(folders["classification"])
        assert torch.equal(found.pooler_output, model.features(clip))  # with the norm of the fine-tuned model
        assert torch.equal(found.pooler_output, svfap.load_model(folders["classification"], task="features")(clip))
        assert torch.equal(found.last_hidden_state, model.encoder(clip))
        found = AutoModel.from_pretrained(folders["pretraining"])(clips)
        assert torch.equal(
            found.pooler_output, svfap.load_model(folders["pretraining"], task="features").features(clip)
        )


def test_weights_in_half_precision(folders, clips, tmp_path):
    half = AutoModelForVideoClassification.from_pretrained(folders["classification"], dtype=torch.bfloat16)
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}
    half.save_pretrained(tmp_path)
    model = svfap.load_model(tmp_path)
    expected = outputs(svfap.load_model(folders["classification"]), clips)
    for given in (clips, clips.bfloat16()):
        assert torch.allclose(outputs(half, given).float(), expected, atol=0.3 * float(expected.std()))
    assert model.head.weight.dtype == torch.float32 and torch.equal(model.head.weight, half.head.weight.float())
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == "bfloat16"


# new heads and fresh weights -----------------------------------------------------------------------------------------


def test_a_new_head_on_a_pretrained_encoder(folders, clips, tmp_path):
    names = {0: "a", 1: "b", 2: "c", 3: "d", 4: "e"}
    model = AutoModelForVideoClassification.from_pretrained(folders["pretraining"], num_labels=5, id2label=names)
    source = svfap.load_model(folders["pretraining"])
    assert all(torch.equal(t, source.encoder.state_dict()[n]) for n, t in model.encoder.state_dict().items())
    assert torch.equal(model.norm.weight, torch.ones(32)) and not model.head.bias.any()
    assert 0.7 < model.head.weight.std() / 2e-5 < 1.3  # as `create_model` draws it
    model.save_pretrained(tmp_path)
    saved = svfap.load_model(tmp_path)
    assert saved.config == dataclasses.replace(
        svfap.load_model(folders["pretraining"], "classification", label_names=tuple("abcde")).config
    )
    assert torch.equal(outputs(saved, clips), outputs(model, clips))
    assert AutoConfig.from_pretrained(tmp_path).id2label == names


def test_a_new_head_in_place_of_another(folders, clips):
    where = folders["regression"]
    with pytest.raises(RuntimeError, match="ignore_mismatched_sizes"):
        AutoModelForVideoClassification.from_pretrained(where, num_labels=3)
    model = AutoModelForVideoClassification.from_pretrained(where, num_labels=3, ignore_mismatched_sizes=True)
    assert model.config.task == "regression" and model.config.output_scale == ()
    assert outputs(model, clips).shape == (2, 16, 3) and not model.head.bias.any()
    kind = dict(num_labels=2, problem_type="regression")
    model = AutoModelForVideoClassification.from_pretrained(folders["pretraining"], **kind)
    assert (model.config.task, model.config.num_outputs, model.svfap.config.label_names) == ("regression", 2, ())
    with pytest.raises(UserError, match="problem_type='multi_label_classification' is none of"):
        AutoModelForVideoClassification.from_pretrained(where, problem_type="multi_label_classification")
    with pytest.raises(UserError, match="needs num_outputs of at least 1"):
        AutoModelForVideoClassification.from_pretrained(folders["pretraining"])


def test_a_new_decoder_and_fresh_models_are_drawn_as_in_svfap(folders, clips):
    model = AutoModelForPreTraining.from_pretrained(folders["classification"])
    torch.manual_seed(0)
    fresh = AutoModelForPreTraining.from_config(model.config)
    torch.manual_seed(0)
    ours = svfap.create_model("svfap_debug", "pretraining", **MODELS["classification"])
    for name, tensor in ours.state_dict().items():
        assert torch.equal(fresh.state_dict()[name], tensor), name
        if name.startswith(("decoder", "mask_token", "encoder_to")):
            found = model.state_dict()[name]
            assert torch.isfinite(found).all() and abs(found.std() - tensor.std()) <= 0.3 * tensor.std()
    assert torch.isfinite(fresh(clips).loss)


def test_losses(folders, clips):
    classifier = AutoModelForVideoClassification.from_pretrained(folders["classification"])
    labels = torch.tensor([2, 0])
    expected = torch.nn.functional.cross_entropy(classifier(clips).logits, labels)
    assert torch.equal(classifier(clips, labels).loss, expected)
    assert torch.equal(classifier(clips, torch.tensor([2, -100])).loss, classifier(clips[:1], labels[:1]).loss)
    regressor = AutoModelForVideoClassification.from_pretrained(folders["regression"])
    values = torch.randn(2, 16, 2)
    assert torch.isclose(regressor(clips, values).loss, (regressor(clips).logits - values).square().mean())
    with pytest.raises(ValueError, match=r"labels of shape \(2,\) for outputs of shape \(2, 16, 2\)"):
        regressor(clips, labels)
    pretraining = AutoModelForPreTraining.from_pretrained(folders["pretraining"])
    mask = svfap.tube_mask(2, pretraining.svfap.config)
    found = pretraining(clips, bool_masked_pos=mask.to_bool())
    assert torch.equal(found.loss, svfap.load_model(folders["pretraining"]).loss(clips.transpose(1, 2), mask))


# config.json ---------------------------------------------------------------------------------------------------------


def test_every_name_that_transformers_writes_is_known():
    derived = {"id2label", "label2id", "problem_type"}
    assert {field.name for field in dataclasses.fields(transformers.PreTrainedConfig)} - derived <= set(OF_TRANSFORMERS)
    assert not {"id2label", *OF_TRANSFORMERS} & set(ModelConfig.field_names())


def test_configs(folders, tmp_path):
    config = AutoConfig.from_pretrained(folders["classification"], drop_path_rate=0.25)
    assert config.settings() == dataclasses.replace(create("classification").config, drop_path_rate=0.25)
    assert (config.num_labels, config.id2label[1], config.label2id["calm"], config.hidden_size) == (3, "anger", 2, 32)
    assert copy.deepcopy(config) == config != AutoConfig.from_pretrained(folders["classification"])
    config.use_cache, config.output_hidden_states = False, True  # Trainer sets the first
    config.save_pretrained(tmp_path)
    assert "use_cache" not in json.loads((tmp_path / "config.json").read_text())
    assert ModelConfig.read(tmp_path / "config.json") == config.settings()
    with pytest.raises(UserError, match="unknown settings embed_dims"):
        SVFAPConfig(embed_dims=3)
    edit(tmp_path, img_size=33)
    with pytest.raises(UserError, match="img_size=33 is not a multiple"):
        AutoConfig.from_pretrained(tmp_path)
    edit(tmp_path, img_size=32, model_type="videomae")
    with pytest.raises(UserError, match="config.json: describes a model of the type 'videomae' of transformers"):
        svfap.load_model(tmp_path)


def test_a_folder_of_an_earlier_version(clips, tmp_path):
    """Its `config.json` has no type for the Auto classes, but the class of the model reads it, as svfap does."""
    old = Path(__file__).resolve().parents[1] / "fixtures" / "v1" / "model_classification"
    ours, theirs = svfap.load_model(old), SVFAPForVideoClassification.from_pretrained(old)
    assert theirs.config.frame_fit == ours.config.frame_fit == "centre"  # what version 1 means
    with pytest.raises(ValueError, match="Should have a `model_type` key"):
        AutoModel.from_pretrained(old)
    ours.save_pretrained(tmp_path)
    clip = torch.randn(1, 8, 3, 16, 16)
    again = AutoModelForVideoClassification.from_pretrained(tmp_path)
    with torch.inference_mode():
        assert torch.equal(theirs(clip).logits, ours(clip.transpose(1, 2)))
        assert torch.equal(again(clip).logits, theirs(clip).logits)


def test_models_of_the_package_are_read(clips):
    """Its weights are stored as float16; both libraries compute in float32."""
    folder = shipped_folder("movement")
    model = AutoModelForVideoClassification.from_pretrained(folder)
    clip = torch.randn(2, 1, 3, 128, 128)
    assert torch.equal(outputs(model, clip), outputs(svfap.load_model("movement"), clip))


# videos --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> dict[str, Path]:
    """Face crops that are not square, at 30 frames per second: of one window (31 frames at 20 per second), and of several."""
    folder = tmp_path_factory.mktemp("videos")
    for name, number in (("short", 30), ("one", 46), ("long", 150)):
        shades = np.random.default_rng(0).integers(0, 255, (number, 4, 5, 3), np.uint8)
        write_video(folder / f"{name}.mp4", list(shades.repeat(8, 1).repeat(8, 2)), 30)
    return {name: folder / f"{name}.mp4" for name in ("short", "one", "long")}


def scores(pipe: Any, video: Path) -> np.ndarray:
    found = {row["label"]: row["score"] for row in pipe(str(video))}
    return np.array([found[name] for name in NAMES])


@pytest.fixture(scope="module")
def pipe(folders) -> Any:
    return transformers.pipeline("video-classification", model=str(folders["classification"]))


@pytest.mark.parametrize("name", ["short", "one"])
def test_a_pipeline_gives_the_row_of_svfap_predict(name, pipe, folders, videos):
    rows = svfap.Predictor(folders["classification"], faces="none", precision="fp32")(videos[name])
    assert len(rows) == 1
    assert np.allclose(scores(pipe, videos[name]), rows[[f"prob_{label}" for label in NAMES]].to_numpy()[0], atol=1e-6)


def test_a_pipeline_reads_the_middle_of_a_longer_video(pipe, folders, videos):
    """100 frames at 20 per second; a window spans 31 of them and starts at 34. One of predict's starts there too."""
    predictor = svfap.Predictor(folders["classification"], faces="none", precision="fp32", hop_s=1.7)
    rows = predictor(videos["long"]).set_index("start_s")
    assert len(rows) > 2 and rows.index[1] == pytest.approx(34 / 20, abs=0.02)
    expected = rows[[f"prob_{label}" for label in NAMES]].to_numpy()
    assert np.allclose(scores(pipe, videos["long"]), expected[1], atol=1e-6)
    assert np.abs(expected - expected[1]).max() > 1e-3


def test_a_pipeline_gives_the_values_of_a_regression(videos, tmp_path):
    create("regression", frame_level=False).save_pretrained(tmp_path)
    found = transformers.pipeline("video-classification", model=str(tmp_path))(str(videos["one"]))
    expected = svfap.Predictor(tmp_path, faces="none", precision="fp32")(videos["one"])
    for row in found:
        assert row["score"] == pytest.approx(expected[row["label"]][0], abs=1e-6)
    assert {row["label"] for row in found} == {"valence", "arousal"}


def test_the_command_predicts_with_a_folder_of_transformers(pipe, videos, tmp_path):
    pipe.model.save_pretrained(tmp_path / "model")
    table = tmp_path / "table.csv"
    settings = ["--faces", "none", "--precision", "fp32", "--out", str(table), "--device", "cpu"]
    assert main(["predict", str(videos["one"]), "--model", str(tmp_path / "model"), *settings]) == 0
    values = np.genfromtxt(table, delimiter=",", names=True)
    expected = scores(pipe, videos["one"])
    assert np.allclose([values[f"prob_{label}"] for label in NAMES], expected, atol=1e-5)


def test_clips_as_files_and_as_frames_are_the_same(folders, videos):
    read = AutoVideoProcessor.from_pretrained(folders["classification"])
    assert isinstance(read, SVFAPVideoProcessor)
    with open_video(videos["one"]) as video:
        frames = video.read(video.grid(20.0).picture_of[np.arange(16) * 2])
    pixels = read(videos["one"])["pixel_values"]
    assert pixels.shape == (1, 16, 3, 32, 32) and pixels.dtype == torch.float32
    for same in (frames, list(frames), torch.from_numpy(frames), [frames], [str(videos["one"])], [list(frames)]):
        assert torch.equal(read(same)["pixel_values"], pixels)
    assert read([frames, videos["long"]])["pixel_values"].shape[0] == 2
    assert isinstance(read(frames, return_tensors="np")["pixel_values"], np.ndarray)
    centre = frames[0, 16, 20] / 255  # a shade of 8 × 8 pixels; the middle of the frame is that of the square
    assert np.allclose(pixels[0, 0, :, 16, 16], (centre - READING["pixel_mean"]) / READING["pixel_std"], atol=0.05)


def test_what_a_pipeline_cannot_do_is_an_error(pipe, folders, videos, tmp_path):
    with pytest.raises(UserError, match="num_frames=8: this model's clips have 16 frames"):
        pipe(str(videos["one"]), num_frames=8)
    with pytest.raises(UserError, match="size, video_metadata: videos are read as the model's config.json says"):
        SVFAPVideoProcessor.from_pretrained(folders["classification"], size=3, video_metadata=1)
    frame_level = transformers.pipeline("video-classification", model=str(folders["regression"]))
    with pytest.raises(UserError, match="outputs for every frame"):
        frame_level(str(videos["one"]))
    read = SVFAPVideoProcessor(create("classification").config)
    for wrong in (np.zeros((16, 3, 32, 32), np.uint8), np.zeros((8, 32, 32, 3), np.uint8), np.zeros((16, 32, 32, 3))):
        with pytest.raises(
            UserError, match=r"uint8 RGB \(16, height, width, 3\), every 2th frame at 20 frames a second"
        ):
            read(wrong)
    with pytest.raises(UserError, match="a stream has no middle"):
        read("rtsp://camera")
    with pytest.raises(UserError, match="missing.mp4"):
        read(tmp_path / "missing.mp4")
    with pytest.raises(UserError, match="faces='auto'"):
        SVFAPVideoProcessor(read.config, faces="auto")


def test_a_model_of_face_crops_refuses_other_videos(videos, tmp_path):
    model = create("classification", face_crop={"margin": 0.3})
    model.save_pretrained(tmp_path / "model")
    read = SVFAPVideoProcessor.from_pretrained(tmp_path / "model")
    with pytest.raises(UserError, match=r"one.mp4: not of svfap crop, .* faces=\"none\""):
        read(videos["one"])
    expected = SVFAPVideoProcessor.from_pretrained(tmp_path / "model", faces="none")(videos["one"])["pixel_values"]
    (tmp_path / "crops").mkdir()
    (tmp_path / "crops" / "one.mp4").write_bytes(videos["one"].read_bytes())
    (tmp_path / "crops" / "crop.json").write_text(json.dumps({"margin": 0.3}))
    assert torch.equal(read(tmp_path / "crops" / "one.mp4")["pixel_values"], expected)


# imports -------------------------------------------------------------------------------------------------------------


def test_without_transformers_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(
        UserError, match=r"register_transformers: needs the package transformers; .*'svfap\[transformers\]'"
    ):
        svfap.register_transformers()


def test_registering_twice_does_nothing(folders):
    svfap.register_transformers()
    assert (
        type(AutoModelForVideoClassification.from_pretrained(folders["classification"])) is SVFAPForVideoClassification
    )
