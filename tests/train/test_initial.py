"""The weights that a training starts from: what is taken over, at which sizes, and what is refused."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import svfap
from svfap.cli.main import main
from svfap.errors import UserError
from svfap.train.config import FinetuneConfig, PretrainConfig
from svfap.train.finetune import FinetuneTask
from svfap.train.initial import start_from
from svfap.train.pretrain import PretrainTask
from svfap.train.resolve import check_run
from svfap.weights.published import save_published


def saved(folder: Path, seed: int = 0, task: str = "pretraining", **settings) -> Path:
    torch.manual_seed(seed)
    svfap.create_model("svfap_debug", task, **settings).save_pretrained(folder)
    return folder


def started(source: Path, **settings) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Weights of a new pre-training model that starts from a folder, and those of the folder's model."""
    torch.manual_seed(9)
    model = svfap.create_model("svfap_debug", "pretraining", **settings)
    start_from(model, str(source))
    return model.state_dict(), svfap.load_model(source).state_dict()


def equal(new: dict[str, torch.Tensor], old: dict[str, torch.Tensor], part: str) -> list[bool]:
    return [torch.equal(new[name], old[name]) for name in new if name.startswith("encoder.") == (part == "encoder")]


def test_pre_training_goes_on_with_encoder_and_decoder(tmp_path, capsys):
    new, old = started(saved(tmp_path / "run"))
    assert all(equal(new, old, "encoder")) and all(equal(new, old, "decoder"))
    assert "encoder and decoder from" in capsys.readouterr().err


@pytest.mark.parametrize("size", [{"img_size": 48}, {"num_frames": 8}])
def test_pictures_and_clips_may_have_another_size(size, tmp_path):
    new, old = started(saved(tmp_path / "run"), **size)
    assert all(equal(new, old, "encoder")) and all(equal(new, old, "decoder"))


@pytest.mark.parametrize("other", [{"decoder_embed_dim": 32}, {"decoder_depth": 3}, {"target": "difference"}])
def test_another_decoder_or_target_begins_anew(other, tmp_path, capsys):
    new, old = started(saved(tmp_path / "run"), **other)
    assert all(equal(new, old, "encoder"))
    assert not any(
        torch.equal(new[n], old[n]) for n in new if n.endswith("head.weight") and new[n].shape == old[n].shape
    )
    assert "new: the decoder" in capsys.readouterr().err


def test_a_model_without_a_decoder_gives_its_encoder(tmp_path, capsys):
    new, old = started(saved(tmp_path / "features", task="features", fuse_stages=True))
    assert all(torch.equal(new[name], old[name]) for name in old if name.startswith("encoder."))
    assert "new: the decoder" in capsys.readouterr().err
    with pytest.raises(UserError, match="no norm for fused stages"):
        started(saved(tmp_path / "tuned", task="features", fuse_stages=False))


def test_another_encoder_is_refused(tmp_path):
    with pytest.raises(UserError, match="does not fit this model .*model: .embed_dim: 96"):
        started(saved(tmp_path / "run", embed_dim=96, num_heads=3))


def test_weights_of_other_pixel_statistics_are_refused_with_the_settings_to_give(tmp_path, checkpoints):
    """The same pixels would be other numbers to the encoder than in its training."""
    statistics = {"pixel_mean": (0.5, 0.5, 0.5), "pixel_std": (0.25, 0.25, 0.25)}
    message = r"pixel_mean: \(0.5, .* there, \(0.485, .*model: .pixel_mean: \[0.5, 0.5, 0.5\], pixel_std"
    source = saved(tmp_path / "run", **statistics)
    save_published(svfap.load_model(source), tmp_path / "run.pth")
    for init in (source, tmp_path / "run.pth"):
        with pytest.raises(UserError, match=message):
            start_from(svfap.create_model("svfap_debug", "pretraining"), str(init))
        start_from(svfap.create_model("svfap_debug", "pretraining", **statistics), str(init))
    # The authors' files do not say theirs.
    theirs = svfap.import_published(
        checkpoints / "official_pretrain_tiny.pth", num_heads=4, decoder_num_heads=2, **statistics
    )
    start_from(type(theirs)(theirs.config), str(checkpoints / "official_pretrain_tiny.pth"))


@pytest.mark.parametrize(("task_of", "config_of"), [(PretrainTask, PretrainConfig), (FinetuneTask, FinetuneConfig)])
def test_a_run_that_goes_on_needs_no_initial_weights(task_of, config_of, faces, tmp_path, capsys):
    config = config_of(
        manifest=faces / "train.csv",
        preset="svfap_debug",
        out=tmp_path / "run",
        init=str(tmp_path / "gone"),
        resume=True,
    )
    for start in (check_run, task_of):
        with pytest.raises(UserError, match="init=.*gone: no such folder|gone: no such"):
            start(config)
    (tmp_path / "run" / "last.old").mkdir(parents=True)  # of a run that was killed while it saved
    (tmp_path / "run" / "last.old" / "state.json").write_text("{}")
    check_run(config)
    task_of(config)
    assert "encoder from" not in capsys.readouterr().err
    with pytest.raises(UserError, match="gone: no such"):
        check_run(replace(config, resume=False))


def test_a_finished_pre_training_is_made_longer_by_a_run_from_its_weights(faces, tmp_path, capsys):
    """`--resume` with more epochs says why it cannot, and what can be done; that works."""
    base = ["pretrain", "--manifest", str(faces / "train.csv"), "--preset", "svfap_debug", "--batch_size", "7"]
    base += ["--num_workers", "0", "--warmup_epochs", "0", "--precision", "fp32", "--sampling_stride", "1"]
    assert main([*base, "--out", str(tmp_path / "a"), "--epochs", "1"]) == 0
    assert main([*base, "--out", str(tmp_path / "a"), "--epochs", "2", "--resume"]) == 1
    said = " ".join(capsys.readouterr().err.split())
    assert f"start a new run with --init {tmp_path / 'a'}" in said
    assert main([*base, "--out", str(tmp_path / "b"), "--epochs", "1", "--init", str(tmp_path / "a")]) == 0
    assert svfap.load_model(tmp_path / "b").config.provenance["init"] == str(tmp_path / "a")
    assert main([*base, "--out", str(tmp_path / "c"), "--epochs", "1", "--init", str(tmp_path / "none")]) == 1
    before = svfap.load_model(tmp_path / "b").state_dict()
    shutil.rmtree(tmp_path / "a")
    capsys.readouterr()
    assert main([*base, "--out", str(tmp_path / "b"), "--epochs", "1", "--init", str(tmp_path / "a"), "--resume"]) == 0
    assert "encoder" not in capsys.readouterr().err
    assert all(
        torch.equal(value, before[name]) for name, value in svfap.load_model(tmp_path / "b").state_dict().items()
    )


def test_published_weights_start_a_pre_training(checkpoints, capsys):
    source = checkpoints / "official_pretrain_tiny.pth"
    theirs = svfap.import_published(source, num_heads=4, decoder_num_heads=2)
    model = type(theirs)(theirs.config)
    start_from(model, str(source))
    assert all(torch.equal(value, theirs.state_dict()[name]) for name, value in model.state_dict().items())
    assert "encoder and decoder from" in capsys.readouterr().err


def test_later_configs_override_earlier_ones(faces, tmp_path):
    """Settings that several recipes share stand in a file of their own."""
    (tmp_path / "shared.yaml").write_text("preset: svfap_debug\nepochs: 3\nbatch_size: 7\nwarmup_epochs: 0\n")
    (tmp_path / "own.yaml").write_text(f"epochs: 1\nmanifest: {faces / 'train.csv'}\nnum_workers: 0\n")
    configs = [f"--config={tmp_path / name}.yaml" for name in ("shared", "own")]
    assert main(["pretrain", *configs, "--out", str(tmp_path / "run"), "--precision", "fp32"]) == 0
    text = (tmp_path / "run" / "config.yaml").read_text()
    assert "epochs: 1\n" in text and "batch_size: 7\n" in text and "preset: svfap_debug\n" in text
