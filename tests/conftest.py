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
