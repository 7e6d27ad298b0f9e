"""The programs of docs/ecosystem.md, run in order as they stand there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import svfap
from svfap.data.manifest import read_manifest
from svfap.data.video import open_video, write_video

ROOT = Path(__file__).resolve().parents[1]
PROGRAMS = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "ecosystem.md").read_text(encoding="utf-8"), re.DOTALL)


@pytest.fixture
def place(tmp_path, monkeypatch, faces) -> Path:
    """The folders and files that the page names."""
    torch.manual_seed(0)
    made = {"runs/pretrain": ("svfap_debug", "pretraining"), "runs/tiny": ("svfap_tiny", "pretraining")}
    for folder, (preset, task) in made.items():
        svfap.create_model(preset, task, sampling_stride=1).save_pretrained(tmp_path / folder / "best")
    labels = read_manifest(faces / "train.csv").label_names
    model = svfap.create_model("svfap_debug", "classification", label_names=labels, sampling_stride=1)
    model.save_pretrained(tmp_path / "runs/finetune/best")
    for name, seed in (("clip.mp4", 0), ("another.mp4", 1)):
        shades = np.random.default_rng(seed).integers(0, 255, (16, 4, 4, 3), np.uint8)
        write_video(tmp_path / name, list(shades.repeat(8, 1).repeat(8, 2)), 25)
    (tmp_path / "faces").symlink_to(faces)
    (tmp_path / "svfap").symlink_to(ROOT)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return tmp_path


def programs_with(word: str) -> str:
    """The programs of the page that have this word; a program is in the page once."""
    found = [program for program in PROGRAMS if word in program]
    assert len(found) == 1, f"{word} is in {len(found)} programs"
    return found[0]


def losses_of(history: list[dict[str, Any]]) -> list[float]:
    return [entry["loss"] for entry in history if "loss" in entry]


def test_transformers(place, capsys, monkeypatch):
    pytest.importorskip("transformers.trainer", exc_type=ImportError)
    monkeypatch.setattr("transformers.trainer.is_datasets_available", lambda: False)  # it takes tests/datasets for that
    names: dict[str, Any] = {}
    exec(programs_with("pipeline("), names)
    assert "'score'" in capsys.readouterr().out
    exec(programs_with("SVFAPVideoProcessor"), names)
    rows = names["predictor"]("clip.mp4")
    expected = names["probabilities"][0].numpy()
    assert np.allclose(rows.filter(like="prob_").to_numpy(), expected, atol=1e-6)
    with open_video("clip.mp4") as video:
        assert names["clips"]["pixel_values"].shape == (2, 16, 3, 32, 32) and video.num_frames == 16
    assert isinstance(names["model"].svfap, svfap.Perceiver) and names["features"].shape == (2, 32)
    exec(programs_with("def collate"), names)
    trains = programs_with("TrainingArguments(").replace("learning_rate=1e-3", "learning_rate=1e-2, logging_steps=1")
    exec(trains, names)
    losses = losses_of(names["trainer"].state.log_history)
    assert len(losses) == 20 and np.mean(losses[-5:]) < np.mean(losses[:5]) - 0.05
    trained = svfap.load_model("models/trained")
    assert trained.config.label_names == names["data"].manifest.label_names
    assert torch.equal(trained.head.weight, names["model"].head.weight.cpu()) and trained.head.weight.abs().max() > 1e-3
    assert svfap.load_model("runs/trainer/checkpoint-20").config == trained.config


def test_torch_hub(place):
    names: dict[str, Any] = {}
    program = programs_with("torch.hub.load(")
    with pytest.MonkeyPatch.context() as patch:  # the paper's sizes without their weights, which take seconds to draw
        patch.setattr(svfap, "create_model", on_meta(svfap.create_model))
        exec(program, names)
    assert names["encoder"].config == svfap.ModelConfig(preset="svfap_base")
    assert names["classifier"].config.num_outputs == 7 and names["classifier"].config.preset == "svfap_small"
    same = svfap.load_model("runs/tiny").encoder.stages[0].blocks[0].attn.qkv.weight
    assert torch.equal(names["pretrained"].encoder.stages[0].blocks[0].attn.qkv.weight, same)
    assert "blink" in names["movement"].config.label_names
    with pytest.raises(
        svfap.UserError, match=r"runs/tiny: not of the size of svfap_base \(patch_size=8, embed_dim=192"
    ):
        torch.hub.load("svfap", "svfap_base", source="local", weights="runs/tiny")


def on_meta(function: Callable[..., Any]) -> Callable[..., Any]:
    def on_meta(*args: Any, **kwargs: Any) -> Any:
        with torch.device("meta"):
            return function(*args, **kwargs)

    return on_meta


def test_torch_hub_needs_what_it_lists():
    """Its functions run without any other package of the core installation, and without transformers."""
    listed = re.search(r"dependencies = \[(.*?)\]", (ROOT / "hubconf.py").read_text())[1].replace('"', "").split(", ")
    names = {"av", "accelerate", "cv2", "sklearn", "scipy", "pandas", "pyarrow", "jsonargparse", "yaml", "PIL", "torch"}
    names |= {
        "transformers",
        "simplejpeg",
        "matplotlib",
        "rich",
        "tensorboard",
        "numpy",
        "safetensors",
        "huggingface_hub",
        "lazy_loader",
    }
    names |= {"jinja2", "lightning"}
    code = (
        f"import sys; sys.modules |= dict.fromkeys({sorted(names - set(listed))!r}); import torch; "
        f"model = torch.hub.load({str(ROOT)!r}, 'load_model', 'movement', source='local'); "
        f"assert sys.modules['svfap'].__file__.startswith({str(ROOT)!r})"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": ""})


def test_lightning(place):
    pytest.importorskip("lightning", reason="lightning is not installed: its program is not run")
    names: dict[str, Any] = {"svfap": svfap}
    exec(programs_with("def collate"), names)
    before = svfap.load_model("runs/pretrain").encoder.stages[0].blocks[0].attn.qkv.weight
    exec(programs_with("LightningModule"), names)
    trained = svfap.load_model("models/lightning")
    assert trained.config.label_names == names["data"].manifest.label_names and names["data"].epoch == 4
    assert not torch.equal(trained.encoder.stages[0].blocks[0].attn.qkv.weight, before)
