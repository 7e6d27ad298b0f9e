"""Fixtures that several test files share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

SHARED = Path(__file__).resolve().parents[2] / "shared"

torch.set_num_threads(int(os.environ.get("SVFAP_TEST_THREADS", "1")))


def _shared(folder: str) -> Path:
    path = SHARED / folder
    if not path.is_dir():
        pytest.skip(f"{folder}/ of the reference material is not beside this checkout: parity case not run")
    return path


@pytest.fixture(scope="session")
def golden() -> Path:
    """Folder of numbers produced by the published code; skips where it is missing."""
    return _shared("golden")


@pytest.fixture(scope="session")
def clips() -> Path:
    """Folder of real face videos; skips where it is missing."""
    return _shared("clips")


@pytest.fixture(scope="session")
def faces(tmp_path_factory) -> Path:
    """A small synthetic dataset: manifests pretrain.csv, train.csv, val.csv, test.csv. Not to be changed."""
    from svfap.synth.config import SynthConfig
    from svfap.synth.dataset import write_dataset

    out = tmp_path_factory.mktemp("faces")
    config = SynthConfig(size_px=32, num_frames=24, num_pretrain=16, num_train=28, num_val=7, num_test=14)
    write_dataset(out, config)
    return out
