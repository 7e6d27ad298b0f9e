"""Fixtures shared by several test files."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import torch
from golden_inputs import GOLDEN, clip, write_checkpoint
from PIL import Image

SHARED = Path(__file__).resolve().parents[2] / "shared"

torch.set_num_threads(int(os.environ.get("SVFAP_TEST_THREADS", "1")))
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:  # under nohup; commands started by tests would inherit it
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(scope="session")
def golden() -> Path:
    """Folder of reference numbers computed by the published code."""
    return GOLDEN


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the tiny checkpoints for the numbers in `golden`, in the format of the published code."""
    folder = tmp_path_factory.mktemp("checkpoints")
    write_checkpoint(folder, "finetune")
    write_checkpoint(folder, "pretrain")
    return folder


@pytest.fixture(scope="session")
def golden_clip() -> torch.Tensor:
    """The input for the numbers in `golden`, (2, 3, 16, 64, 64) float32."""
    return clip()


@pytest.fixture(scope="session")
def clips() -> Path:
    """Folder of real face videos; tests that need it are skipped if it does not exist."""
    path = SHARED / "clips"
    if not path.is_dir():
        pytest.skip(f"{path} does not exist: not tested on real videos")
    return path


@pytest.fixture
def blank_figures(monkeypatch) -> None:
    """Figures are made, and written as one white pixel: to lay them out and draw them takes most of the time of a report."""
    from matplotlib.figure import Figure

    def savefig(figure, file, *, format, **_):
        Image.new("RGB", (1, 1), "white").save(file, format)

    monkeypatch.setattr(Figure, "savefig", savefig)


@pytest.fixture(scope="session")
def faces(tmp_path_factory) -> Path:
    """A small synthetic dataset, read-only: manifests pretrain.csv, train.csv, val.csv, test.csv."""
    from svfap.synth.config import SynthConfig
    from svfap.synth.dataset import synthesize

    out = tmp_path_factory.mktemp("faces")
    synthesize(SynthConfig(out=out, size_px=32, num_frames=24, num_pretrain=16, num_train=28, num_val=7, num_test=14))
    return out
