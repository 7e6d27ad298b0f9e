"""Every setting of `svfap convert` gets into the model, or is refused because the tensors say otherwise; and that of `info`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from observe import weights_of
from rich.console import Console

import svfap
from svfap.cli.info import run as run_info
from svfap.cli.models import run as run_models
from svfap.data.prepared import Fold, PreparedDataset, write_dataset_file
from svfap.errors import UserError
from svfap.weights.config import ConvertConfig, InfoConfig, ModelsConfig
from svfap.weights.convert import convert
from svfap.weights.folder import load_model

HEADS = {"finetune": {"num_heads": 2}, "pretrain": {"num_heads": 2, "decoder_num_heads": 2}}
# Settings that tensors do not show: a value other than the checkpoint's and the default.
FREE: dict[str, Any] = {
    "img_size": 32,
    "num_frames": 8,
    "num_heads": 4,
    "drop_path_rate": 0.3,
    "standardize_clips": True,
    "mask_ratio": 0.6,
    "target": "difference",
    "decoder_num_heads": 4,
    "output_activation": "tanh",
    "output_scale": (2.0,) * 7,
    "output_offset": (3.0,) * 7,
    "frame_level": True,
    "label_names": tuple("abcdefg"),
    "reads": "pain",
    "meanings": tuple("hijklmn"),
    "sampling_stride": 3,
    "frame_rate": 12.5,
    "face_crop": {"margin": 0.1, "align": True},
    "frame_fit": "centre",
    "pixel_mean": (0.1, 0.2, 0.3),
    "pixel_std": (0.3, 0.2, 0.1),
}
# Settings that they show: another value is refused.
FIXED: dict[str, Any] = {
    "patch_size": 8,
    "tubelet_size": 1,
    "stem": "conv",
    "embed_dim": 16,
    "mlp_ratio": 2.0,
    "stage_depths": (2, 2, 1),
    "num_bottleneck_tokens": (3, 3),
    "bottleneck_hidden_dim": 8,
    "temporal_kernel_size": 1,
    "temporal_pyramid": False,
    "temporal_downsample": "avg",
    "spatial_bottleneck": False,
    "fuse_stages": True,
    "decoder_embed_dim": 32,
    "decoder_depth": 1,
    "num_outputs": 5,
}
OF_PRETRAINING = ("mask_ratio", "target", "decoder_embed_dim", "decoder_num_heads", "decoder_depth")
SCALED = {"task": "regression", "output_scale": (1.0,) * 7, "output_offset": (0.0,) * 7}
BESIDE = {
    "meanings": {"label_names": tuple("abcdefg")},
    "output_activation": {"task": "regression"},
    "output_scale": SCALED,
    "output_offset": SCALED,
}


@pytest.fixture(scope="module")
def fine_tuned(checkpoints) -> Path:
    return checkpoints / "official_finetune_tiny.pth"


def converted(checkpoints: Path, out: Path, kind: str, **settings: Any):
    file = checkpoints / f"official_{kind}_tiny.pth"
    convert(file, out, ConvertConfig(**{**HEADS[kind], **settings}))
    return load_model(out)


@pytest.mark.parametrize("name", FREE)
def test_a_setting_of_the_model_that_tensors_do_not_show_is_kept(name, checkpoints, tmp_path):
    kind = "pretrain" if name in OF_PRETRAINING else "finetune"
    beside = BESIDE.get(name, {})
    given = {**beside, name: FREE[name]}
    assert getattr(converted(checkpoints, tmp_path / "a", kind, **beside).config, name) != FREE[name]
    assert getattr(converted(checkpoints, tmp_path / "b", kind, **given).config, name) == FREE[name]


@pytest.mark.parametrize("name", FIXED)
def test_a_setting_of_the_model_that_differs_from_the_tensors_is_refused(name, checkpoints, tmp_path):
    kind = "pretrain" if name in OF_PRETRAINING else "finetune"
    with pytest.raises(UserError, match="does not fit the model|its head has 7 outputs, not 5"):
        converted(checkpoints, tmp_path / "a", kind, **{name: FIXED[name]})
    assert not (tmp_path / "a").exists()


def test_a_new_head_has_the_outputs_that_are_asked_for(checkpoints, tmp_path):
    model = converted(checkpoints, tmp_path / "a", "pretrain", task="classification", num_outputs=5)
    assert len(model.head.weight) == 5


def test_task(checkpoints, tmp_path):
    tasks = {}
    for task in ("classification", "regression", "features"):
        tasks[task] = converted(checkpoints, tmp_path / task, "finetune", task=task).config.task
    assert list(tasks) == list(tasks.values())
    assert converted(checkpoints, tmp_path / "default", "pretrain").config.task == "pretraining"


def test_dataset(checkpoints, tmp_path):
    (tmp_path / "prepared").mkdir()
    (tmp_path / "prepared" / "train.csv").write_text("path,label\n")
    described = PreparedDataset(
        "own", "Own", "regression", Path("."), tuple("abcdefg"), (Fold("1", Path("train.csv")),),
        sampling_stride=2, output_activation="sigmoid", label_range=(0.0, 1.0),
    )  # fmt: skip
    write_dataset_file(tmp_path / "prepared", described)
    config = converted(checkpoints, tmp_path / "a", "finetune", dataset=str(tmp_path / "prepared")).config
    assert (config.task, config.label_names, config.output_activation) == ("regression", tuple("abcdefg"), "sigmoid")
    by_name = converted(checkpoints, tmp_path / "b", "finetune", dataset="dfew").config
    assert by_name.task == "classification" and by_name.label_names[:3] == ("happy", "sad", "neutral")
    assert converted(checkpoints, tmp_path / "c", "finetune").config.label_names == ()


def test_ema(fine_tuned, checkpoints, tmp_path):
    contents = torch.load(fine_tuned, weights_only=False)
    torch.save({**contents, "model_ema": {n: t + 1 for n, t in contents["model"].items()}}, tmp_path / "both.pth")
    plain, averaged = (
        convert(tmp_path / "both.pth", tmp_path / f"ema_{ema}", ConvertConfig(**HEADS["finetune"], ema=ema)).model
        for ema in (False, True)
    )
    assert weights_of(plain) == weights_of(converted(checkpoints, tmp_path / "a", "finetune"))
    for name, tensor in plain.named_parameters():
        assert torch.equal(averaged.get_parameter(name), tensor + 1)


def test_mask_ratio_of_info(monkeypatch):
    shown: dict[float | None, str] = {}
    for ratio in (None, 0.75, 0.5):
        console = Console(record=True, width=120)
        monkeypatch.setattr("svfap.cli.info.show", console.print)
        run_info(InfoConfig(mask_ratio=ratio), "svfap_debug")
        shown[ratio] = console.export_text()
    assert "at 90% masking" in shown[None] and "at 75% masking" in shown[0.75] and "at 50% masking" in shown[0.5]
    without = {ratio: text.replace(f"at {ratio:.0%} masking", "") for ratio, text in shown.items() if ratio}
    assert without[0.75] != without[0.5]  # the costs differ too


def test_folder_of_models(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    svfap.create_model("svfap_debug", "features").save_pretrained(tmp_path / "mine")
    for folder, listed in ((None, False), (tmp_path, True)):
        run_models(ModelsConfig(folder=folder), None)
        assert (str(tmp_path / "mine") in capsys.readouterr().out) == listed


TESTED = {
    ConvertConfig: {*FREE, *FIXED, "dataset", "task", "ema"},
    InfoConfig: {"mask_ratio"},
    ModelsConfig: {"folder"},
}
