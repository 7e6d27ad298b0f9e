"""The clip and the two tiny checkpoints that the published code was run on, generated as golden/README.md describes."""

from __future__ import annotations

import hashlib
import json
import zlib
from argparse import Namespace
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

Floats = NDArray[np.float32]

GOLDEN = Path(__file__).resolve().parent / "golden"
GIVEN = json.loads((GOLDEN / "checkpoints.json").read_text())


def weight(name: str, shape: Sequence[int]) -> Floats:
    """The parameter with this published name, drawn by NumPy's generator with the CRC-32 of the name as seed."""
    draw = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape).astype(np.float32)
    if len(shape) > 1:
        fan_in = int(np.prod(shape[1:]))
        return draw * np.float32(fan_in**-0.5)
    is_scale = "norm" in name and name.endswith(".weight")
    return draw * np.float32(0.1) + np.float32(is_scale)


def clip() -> torch.Tensor:
    """The input clips, (2, 3, 16, 64, 64) float32."""
    drawn = np.random.default_rng(GIVEN["input"]["seed"]).standard_normal(GIVEN["input"]["shape"]).astype(np.float32)
    _check([drawn], GIVEN["input"]["sha256"], "the input")
    return torch.from_numpy(drawn)


def write_checkpoint(folder: Path, kind: Literal["finetune", "pretrain"]) -> None:
    """Write official_<kind>_tiny.pth in the format of the published code."""
    given = GIVEN[kind]
    weights = {name: weight(name, shape) for name, shape in given["shapes"].items()}
    _check(weights.values(), given["sha256"], f"the weights of '{kind}'")
    model = {name: torch.from_numpy(value) for name, value in weights.items()}
    contents = {
        "model": model,
        "optimizer": torch.optim.AdamW(model.values()).state_dict(),
        "epoch": given["epoch"],
        "scaler": {
            "scale": 65536.0,
            "growth_factor": 2.0,
            "backoff_factor": 0.5,
            "growth_interval": 2000,
            "_growth_tracker": 0,
        },
        "args": Namespace(**given["args"]),
    }
    torch.save(contents, folder / f"official_{kind}_tiny.pth")


def _check(arrays: Iterable[Floats], expected: str, what: str) -> None:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(array.astype("<f4").tobytes())
    assert digest.hexdigest() == expected, (
        f"wrong checksum of {what}: not the data that the published code was run on; see golden/README.md"
    )
