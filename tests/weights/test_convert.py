"""Published checkpoints to our folders and back, as the command does it."""

from __future__ import annotations

import argparse
import json
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import svfap
from svfap.cli.main import main
from svfap.data.prepared import Fold, PreparedDataset, write_dataset_file
from svfap.datasets.dataset import get_dataset
from svfap.errors import UserError
from svfap.model.config import ModelConfig
from svfap.weights.checkpoint import read_checkpoint, read_published
from svfap.weights.config import ConvertConfig
from svfap.weights.convert import convert
from svfap.weights.published import export_published, save_published

HEADS = {"finetune": ["--num_heads", "4"], "pretrain": ["--num_heads", "4", "--decoder_num_heads", "2"]}
NAMES = ("happy", "sad", "neutral")


def words(folder):
    return json.loads((folder / "config.json").read_text())


@pytest.fixture
def classifier():
    torch.manual_seed(0)
    return svfap.create_model("svfap_debug", "classification", num_outputs=3).eval()


@pytest.fixture
def official(classifier, tmp_path):
    """A file as the published code writes one."""
    args = argparse.Namespace(model="svfap_base_patch16_160", num_frames=16, input_size=32, sampling_rate=1)
    torch.save({"model": export_published(classifier), "epoch": 99, "args": args}, tmp_path / "official.pth")
    return tmp_path / "official.pth"


@pytest.fixture
def prepared(tmp_path):
    """A folder as `svfap prepare` leaves one."""
    folder = tmp_path / "prepared"
    dataset = PreparedDataset(
        "faces", "Faces", "classification", tmp_path, NAMES, (Fold("1", "train.csv"),), sampling_stride=1
    )
    write_dataset_file(folder, dataset)
    return folder


@pytest.mark.parametrize("kind", ["finetune", "pretrain"])
def test_round_trip_is_exact_to_the_bit(checkpoints, tmp_path, kind):
    """official.pth -> folder -> ours.pth, read with torch alone: the same keys, in the same order, and the same bits."""
    source = checkpoints / f"official_{kind}_tiny.pth"
    assert main(["convert", str(source), str(tmp_path / "model"), *HEADS[kind]]) == 0
    assert main(["convert", str(tmp_path / "model"), str(tmp_path / "ours.pth")]) == 0
    with torch.serialization.safe_globals([argparse.Namespace]):
        ours, theirs = (torch.load(path, weights_only=True) for path in (tmp_path / "ours.pth", source))
    assert set(ours["model"]) == set(theirs["model"])
    assert all(torch.equal(ours["model"][name], tensor) for name, tensor in theirs["model"].items())
    assert ours["epoch"] == theirs["epoch"]
    stored, published = vars(ours["args"]), vars(theirs["args"])
    same = (
        "input_size",
        "num_frames",
        "sampling_rate",
        "stage_depths",
        "num_bottleneck_tokens",
        "temporal_kernel_size",
    )
    assert {word: stored[word] for word in same} == {word: published[word] for word in same}
    assert stored["nb_classes"] == 7 if kind == "finetune" else stored["decoder_depth"] == 2
    assert stored["model"].startswith("pretrain_") == (kind == "pretrain")
    assert main(["convert", str(tmp_path / "ours.pth"), str(tmp_path / "again")]) == 0  # nothing needs to be told
    first, again = (words(tmp_path / name) for name in ("model", "again"))
    assert {**first, "provenance": None} == {**again, "provenance": None}
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("model", "again")]
    assert weights[0] == weights[1]


@pytest.mark.parametrize(
    "overrides",
    [
        dict(temporal_pyramid=False),
        dict(spatial_bottleneck=False, temporal_downsample="max"),
        dict(fuse_stages=True, label_names=("a", "b")),
    ],
)
def test_variants_come_back_from_the_published_format(tmp_path, overrides):
    model = svfap.create_model("svfap_debug", "classification", **{"num_outputs": 2, **overrides}).eval()
    save_published(model, tmp_path / "variant.pth")
    again = svfap.import_published(tmp_path / "variant.pth")
    clip = torch.randn(1, 3, 16, 32, 32)
    assert torch.equal(again(clip), model(clip))
    assert {**vars(again.config), "provenance": None} == {**vars(model.config), "provenance": None}


def test_a_pretrained_file_of_ours_becomes_features(tmp_path):
    source = svfap.create_model("svfap_debug", "pretraining")
    save_published(source, tmp_path / "pretrained.pth")
    features = svfap.import_published(tmp_path / "pretrained.pth", task="features", img_size=64, num_frames=32)
    assert features.config.task == "features" and not features.config.fuse_stages
    assert torch.equal(
        features.encoder.stages[2].blocks[1].attn.qkv.weight, source.encoder.stages[2].blocks[1].attn.qkv.weight
    )
    assert features(torch.zeros(1, 3, 32, 64, 64)).shape == (1, 32)


def test_the_dataset_gives_names_and_the_file_its_stride(official, prepared, tmp_path, capsys):
    assert main(["convert", str(official), str(tmp_path / "out"), "--dataset", str(prepared)]) == 0
    said = words(tmp_path / "out")
    assert said["label_names"] == list(NAMES) and said["sampling_stride"] == 1 and said["preset"] == "svfap_debug"
    shown = capsys.readouterr().out
    assert "fine-tuned, published naming, epoch 99" in shown and "happy, sad, neutral" in shown
    assert "2+2+2 blocks" in shown and "every 1 frames" in shown
    assert main(["info", str(tmp_path / "out")]) == 0
    assert "multiply-adds" in capsys.readouterr().out
    assert main(["convert", str(official), str(tmp_path / "out")]) == 1
    assert "exists already" in capsys.readouterr().err


def test_a_dataset_known_by_name(checkpoints, tmp_path, capsys):
    source = str(checkpoints / "official_finetune_tiny.pth")
    assert main(["convert", source, str(tmp_path / "dfew"), "--dataset", "dfew", "--num_heads", "4"]) == 0
    assert words(tmp_path / "dfew")["label_names"] == [
        "happy",
        "sad",
        "neutral",
        "angry",
        "surprise",
        "disgust",
        "fear",
    ]
    assert main(["convert", source, str(tmp_path / "mafw"), "--dataset", "mafw", "--num_heads", "4"]) == 1
    assert "its head has 7 outputs, not 11 (anger, disgust" in capsys.readouterr().err
    assert not (tmp_path / "mafw").exists()


def test_a_pretrained_file_gets_a_new_head_when_asked_to(checkpoints, prepared, tmp_path, capsys, caplog):
    source = str(checkpoints / "official_pretrain_tiny.pth")
    out = tmp_path / "classifier"
    flags = ["--task", "classification", "--dataset", str(prepared), "--num_heads", "4"]
    assert main(["convert", source, str(out), *flags]) == 0
    assert words(out)["num_outputs"] == 3 and words(out)["label_names"] == list(NAMES)
    assert "norm.weight, norm.bias, head.weight, head.bias are new and need fine-tuning" in caplog.text
    assert "new, untrained" in capsys.readouterr().out
    flags = ["--dataset", str(prepared), *HEADS["pretrain"]]
    assert main(["convert", source, str(tmp_path / "pretrained"), *flags]) == 0
    assert "for a new head give --task too" in capsys.readouterr().err
    assert words(tmp_path / "pretrained")["task"] == "pretraining"


def test_what_is_guessed_is_said(classifier, tmp_path, capsys, caplog):
    torch.save(export_published(classifier), tmp_path / "bare.pth")
    assert main(["convert", str(tmp_path / "bare.pth"), str(tmp_path / "out")]) == 0
    for word in ("img_size (taken: 32)", "num_frames (taken: 16)", "sampling_stride (taken: 4)"):
        assert word in caplog.text
    assert "the outputs have no names" in capsys.readouterr().err
    assert words(tmp_path / "out")["provenance"]["guessed"] == ["img_size", "num_frames", "sampling_stride"]


def test_regression_and_its_activation(official, tmp_path):
    flags = ["--task", "regression", "--output_activation", "sigmoid", "--label_names", "[a, b, c]"]
    assert main(["convert", str(official), str(tmp_path / "out"), *flags]) == 0
    model = svfap.load_model(tmp_path / "out")
    assert (model.config.task, model.config.output_activation) == ("regression", "sigmoid")
    with torch.no_grad():
        assert model(torch.randn(1, 3, 16, 32, 32)).min() > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing.pth", "out"], "nothing.pth: no such file"),
        (["folder", "out"], "folder: is a folder"),
        (["folder", "out.pth"], "holds no model"),
        (["official.pth", "out", "--dataset", "dfw"], "neither a folder of `svfap prepare` nor one of dfew"),
        (["official.pth", "out", "--dataset", "voxceleb2"], "has no labels of its own"),
        (["official.pth", "out", "--dataset", "avcaffe"], "avcaffe: has several targets; name the folder"),
        (["official.pth", "out", "--dataset", "prepared", "--task", "regression"], "Faces is for classification"),
        (["official.pth", "out", "--ema", "true"], "holds no moving average"),
        (["official.pth", "out", "--img_size", "33"], "--img_size=33 is not a multiple of --patch_size=8"),
    ],
)
def test_mistakes_are_one_line(official, prepared, tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    assert main(["convert", *arguments]) == 1
    error = capsys.readouterr().err.strip()
    assert message in error and "\n" not in error
    assert not (tmp_path / "out").exists() and not (tmp_path / "out.pth").exists()


def test_convert_from_python(official, classifier, tmp_path):
    config = ConvertConfig(task="features", num_frames=32)
    written = convert(official, tmp_path / "out", config)
    assert written.checkpoint is not None and written.checkpoint.epoch == 99
    assert svfap.load_model(tmp_path / "out").config == written.model.config
    assert (written.model.config.task, written.model.config.num_frames) == ("features", 32)
    classifier.save_pretrained(tmp_path / "model")
    back = convert(tmp_path / "model", tmp_path / "back.pth")
    assert back.checkpoint is None
    assert torch.equal(svfap.load_model(tmp_path / "back.pth").head.weight, classifier.head.weight)


@pytest.mark.parametrize(
    ("dataset", "rate", "crop"),
    [
        ("ravdess", 29.97, {"align": True, "detector": "openface"}),
        ("crema_d", 29.97, {"align": True, "detector": "openface"}),
        ("enterface05", 25, {"align": True, "detector": "openface"}),
        ("mafw", None, {}),
        ("dfew", None, {}),
        ("ferv39k", None, {}),
    ],
)
def test_what_is_known_of_the_authors_clips_is_written(tmp_path, capsys, monkeypatch, dataset, rate, crop):
    monkeypatch.setenv("COLUMNS", "200")
    names = get_dataset(dataset).label_names
    save = svfap.create_model("svfap_debug", "classification", num_outputs=len(names))
    torch.save({"model": export_published(save)}, tmp_path / "official.pth")
    assert main(["convert", str(tmp_path / "official.pth"), str(tmp_path / "out"), "--dataset", dataset]) == 0
    config = svfap.load_model(tmp_path / "out").config
    assert (config.frame_rate, config.face_crop, config.label_names) == (rate, crop, names)
    shown = " ".join(capsys.readouterr().out.split())
    assert f"frames a second in training {f'{rate:g}' if rate else 'not known'}" in shown.replace("│ ", "")
    more = ["--dataset", dataset, "--frame_rate", "12", "--face_crop", '{"margin": 0.2}']
    assert main(["convert", str(tmp_path / "official.pth"), str(tmp_path / "given"), *more]) == 0
    config = svfap.load_model(tmp_path / "given").config
    assert (config.frame_rate, config.face_crop) == (12, {"margin": 0.2})
    assert main(["convert", str(tmp_path / "given"), str(tmp_path / "ours.pth")]) == 0
    assert main(["convert", str(tmp_path / "ours.pth"), str(tmp_path / "back"), "--dataset", dataset]) == 0
    assert svfap.load_model(tmp_path / "back").config.frame_rate == 12, "what a checkpoint says of itself stays"


@pytest.mark.parametrize(
    ("name", "fps", "rate"), [("ravdess", None, 29.97), ("ravdess", 12.5, 12.5), ("own", None, None)]
)
def test_the_crop_of_a_folder_goes_before_the_authors(tmp_path, name, fps, rate):
    labels = get_dataset("ravdess").label_names
    model = svfap.create_model("svfap_debug", "classification", num_outputs=len(labels))
    torch.save({"model": export_published(model)}, tmp_path / "official.pth")
    (tmp_path / "cropped").mkdir()
    prepared = PreparedDataset(name, "Cropped", "classification", Path("clips"), label_names=labels)
    write_dataset_file(tmp_path / "cropped", prepared)
    crop = {"margin": 0.3, "align": False, "border": "grey", "detector": "yunet"}
    (tmp_path / "cropped" / "crop.json").write_text(json.dumps({**crop, "size_px": 160, "fps": fps}))
    flags = ["--dataset", str(tmp_path / "cropped")]
    assert main(["convert", str(tmp_path / "official.pth"), str(tmp_path / "out"), *flags]) == 0
    config = svfap.load_model(tmp_path / "out").config
    assert (config.frame_rate, config.face_crop) == (rate, crop)


def test_of_a_pretrained_checkpoint_the_dataset_gives_rate_and_crop(tmp_path, capsys):
    torch.save({"model": export_published(svfap.create_model("svfap_debug", "pretraining"))}, tmp_path / "official.pth")
    assert main(["convert", str(tmp_path / "official.pth"), str(tmp_path / "out"), "--dataset", "voxceleb2"]) == 0
    assert svfap.load_model(tmp_path / "out").config.frame_rate == 25
    assert "of --dataset only frame rate and face crop are used" in " ".join(capsys.readouterr().err.split())


def test_what_a_checkpoint_stores_of_its_outputs_is_not_replaced_by_a_datasets(tmp_path, capsys):
    """The names are facts about the order of the outputs: another order is another model."""
    names = tuple(reversed(get_dataset("dfew").label_names))
    svfap.create_model("svfap_debug", "classification", label_names=names).save_pretrained(tmp_path / "model")
    file, out = str(tmp_path / "x.pth"), tmp_path / "out"
    assert main(["convert", str(tmp_path / "model"), file]) == 0
    capsys.readouterr()
    assert main(["convert", file, str(out), "--dataset", "dfew"]) == 1
    error = capsys.readouterr().err.strip()
    for listed in (f"stores label_names {', '.join(names)}", f"DFEW has {', '.join(reversed(names))}"):
        assert listed in error
    assert "Leave out --dataset to keep what is stored, or give --label_names" in error and "\n" not in error
    assert not out.exists()
    assert main(["convert", file, str(out)]) == 0
    assert words(out)["label_names"] == list(names)
    given = ["--dataset", "dfew", "--label_names", f"[{', '.join(sorted(names))}]"]
    assert main(["convert", file, str(tmp_path / "given"), *given]) == 0
    assert words(tmp_path / "given")["label_names"] == sorted(names)


def test_every_setting_of_a_model_can_be_given():
    names = set(ModelConfig.field_names()) - {"preset", "heads", "provenance"}
    assert names <= {field.name for field in fields(ConvertConfig)}
    assert ConvertConfig(label_names=("a", "b"), frame_level=False).model_settings() == {
        "label_names": ("a", "b"),
        "frame_level": False,
    }


def test_settings_for_a_folder_are_not_passed_over(classifier, tmp_path, capsys):
    classifier.save_pretrained(tmp_path / "model")
    assert main(["convert", str(tmp_path / "model"), str(tmp_path / "out.pth"), "--img_size", "64"]) == 1
    assert "the config.json of a model folder is complete" in capsys.readouterr().err


def test_moving_average_is_taken_when_asked_for(classifier):
    state = export_published(classifier)
    average = {name: tensor + 1 for name, tensor in state.items()}
    both = {"model": state, "model_ema": average}
    for ema, bias in ((False, 0.0), (True, 1.0)):
        model = svfap.import_published(both, ema=ema)
        assert torch.equal(model.head.bias, torch.full((3,), bias))
    only = svfap.import_published({"model_ema": {f"module.{n}": t for n, t in average.items()}})
    assert only.head.bias.eq(1).all()


def test_deepspeed_and_safetensors_files(classifier, tmp_path):
    state = {f"module.{name}": tensor.half() for name, tensor in export_published(classifier).items()}
    torch.save({"module": state, "dp_world_size": 8, "global_steps": 10}, tmp_path / "mp_rank_00_model_states.pt")
    save_file(export_published(classifier), tmp_path / "model.safetensors")
    half = svfap.import_published(tmp_path / "mp_rank_00_model_states.pt")
    assert half.head.weight.dtype == torch.float32
    assert torch.equal(half.head.weight, classifier.head.weight.half().float())
    full = svfap.import_published(tmp_path / "model.safetensors")
    assert torch.equal(full.head.weight, classifier.head.weight)


def test_other_sizes_get_their_own_positions(official, classifier):
    larger = svfap.import_published(official, img_size=64, num_frames=32)
    reference = svfap.create_model("svfap_debug", "classification", num_outputs=3, img_size=64, num_frames=32).eval()
    reference.load_state_dict(classifier.state_dict())
    clip = torch.randn(1, 3, 32, 64, 64)
    with torch.no_grad():
        assert torch.equal(larger(clip), reference(clip))


def test_stored_positions_must_be_the_sinusoids(classifier):
    state = export_published(classifier)
    table = classifier.encoder.positions[None]
    for stored in (table, table.half(), table[:, :64]):
        assert svfap.import_published({**state, "pos_embed": stored}).config.num_outputs == 3
    for stored in (table + 0.01, torch.randn_like(table), table * float("nan")):
        with pytest.raises(UserError, match="pos_embed holds learned positions"):
            svfap.import_published({**state, "pos_embed": stored})


def test_the_published_factorys_other_width_loads_given_its_heads(caplog):
    """Widths that no preset has: depths are taken from a preset of as many blocks, which is said; heads are given."""
    wide = dict(embed_dim=48, num_heads=4, decoder_embed_dim=24, decoder_num_heads=3)
    source = svfap.create_model("svfap_debug", "pretraining", **wide)
    state = export_published(source)
    model = svfap.import_published(state, num_heads=4, decoder_num_heads=3, img_size=32, num_frames=16)
    assert model.config.stage_depths == (2, 2, 2) and "stage_depths (taken: (2, 2, 2))" in caplog.text
    assert (model.config.num_heads, model.config.decoder_num_heads) == (4, 3)
    with pytest.raises(UserError, match="pass decoder_num_heads="):
        svfap.import_published(state, num_heads=4, img_size=32, num_frames=16)


def test_what_a_checkpoint_says_of_itself(classifier, tmp_path):
    state = export_published(classifier)
    assert read_published(state).task == "classification"
    assert read_published({n: t for n, t in state.items() if not n.startswith("head.")}).task == "features"
    pretrained = read_published(export_published(svfap.create_model("svfap_debug", "pretraining")))
    assert pretrained.task == "pretraining" and pretrained.pretrained
    save_published(classifier, tmp_path / "ours.pth")
    assert read_checkpoint(tmp_path / "ours.pth")["epoch"] == "best"
    assert read_published(tmp_path / "ours.pth").settings["preset"] == "svfap_debug"
