"""Preprocessing and augmentation against stored numbers of Pillow and of the published formulas (see golden/README.md)."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from golden_inputs import GOLDEN

from svfap.data import augment, crops, rand_augment
from svfap.data.crops import fit_frames, multi_scale_crop
from svfap.data.rand_augment import OPERATIONS, RandAugment
from svfap.train.config import FinetuneConfig
from svfap.train.finetune import FinetuneTask

sys.path.insert(0, str(GOLDEN))
from write_preprocessing import ARGUMENTS, BOX, CROP, MULTI_SCALE_CASES, OPERATIONS_OF_A_CLIP, SIZE, frames

CASES = json.loads((GOLDEN / "preprocessing.json").read_text())["multi_scale_crop"]


@pytest.fixture(scope="module")
def stored() -> dict[str, np.ndarray]:
    return dict(np.load(GOLDEN / "preprocessing.npz"))


def levels_apart(ours: Any, expected: np.ndarray) -> np.ndarray:
    assert ours.shape == expected.shape
    return np.abs(np.asarray(ours, dtype=float) - expected)


def test_frames_that_are_not_square_are_squashed_with_antialiasing(stored: dict[str, np.ndarray]) -> None:
    error = levels_apart(fit_frames(frames(), SIZE), stored["squashed"])
    assert error.max() <= 1 and (error > 0).mean() < 0.06
    left, top, width, height = CROP
    box = crops.crop_resize(frames(), left, top, width, height, SIZE)
    assert levels_apart(box, stored["cropped"]).max() <= 1
    np.testing.assert_array_equal(fit_frames(frames(), 96), stored["enlarged"])


@pytest.mark.parametrize("name, value", [(name, value) for name, values in ARGUMENTS.items() for value in values])
def test_operations_of_rand_augment(stored: dict[str, np.ndarray], name: str, value: float) -> None:
    clips = augment.to_levels(torch.from_numpy(stored["squashed"])[None])
    changed = rand_augment.transform(clips, name, value)
    error = levels_apart(changed[0].permute(1, 2, 3, 0), stored[f"{name} {value}"])
    assert error.max() <= 1 and (error > 0).mean() < (0.02 if name == "AutoContrast" else 1e-3)


@pytest.mark.parametrize("name", list(ARGUMENTS))
def test_arguments_at_magnitude_seven(name: str) -> None:
    signs = (1, -1) if len(ARGUMENTS[name]) == 2 else (1,)
    assert [OPERATIONS[name][1](7, sign) for sign in signs] == pytest.approx(ARGUMENTS[name])


@pytest.mark.parametrize("number", range(len(CASES)))
def test_boxes_of_pre_training(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    width, height, size = CASES[number]["case"]
    assert (width, height, size) == MULTI_SCALE_CASES[number]
    boxes: list[tuple[int, ...]] = []
    monkeypatch.setattr(crops, "crop_resize", lambda pictures, *box: boxes.append(box))
    rng = np.random.RandomState(0)
    for _ in range(4000):
        multi_scale_crop(np.empty((1, height, width, 3), np.uint8), size, rng)
    assert {box[4] for box in boxes} == {size}
    assert {box[:4] for box in boxes} == {tuple(box) for box in CASES[number]["boxes"]}


class Captured(Exception):
    pass


def clips_of_training(task: FinetuneTask, pixels: np.ndarray) -> torch.Tensor:
    """What the model is shown in training for these frames, (1, 3, T, H, W)."""

    def model(clips: torch.Tensor) -> torch.Tensor:
        raise Captured(clips)

    batch = {"clips": torch.from_numpy(pixels)[None], "label": torch.zeros(1, dtype=torch.int64)}
    with pytest.raises(Captured) as caught:
        task.losses(model, batch, torch.Generator().manual_seed(0))
    return caught.value.args[0]


def finetuning(faces: Path, **settings: Any) -> FinetuneTask:
    given: dict[str, Any] = dict(manifest=faces / "train.csv", out=Path(), preset="svfap_debug", mixup=0, cutmix=0)
    return FinetuneTask(FinetuneConfig(**{**given, "val_fraction": 0, "sampling_stride": 1, **settings}))


def test_a_clip_of_fine_tuning(faces: Path, stored: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch) -> None:
    """RandAugment before normalisation and the crop, the mirror after it: in any other order the numbers differ."""
    monkeypatch.setattr(RandAugment, "draw", lambda self, rng: list(OPERATIONS_OF_A_CLIP))
    monkeypatch.setattr(augment, "_draw_crop", lambda *_: BOX)
    shown = clips_of_training(finetuning(faces, flip_rate=1, erase_rate=0), stored["squashed"])[0].numpy()
    levels = np.abs(shown - stored["augmented"]) * 255 * 0.226
    assert levels.max() < 2.1 and (levels > 0.01).mean() < 5e-3  # a few rotated pixels are one level off, and enlarged


def test_erasing_comes_after_the_crop(faces: Path) -> None:
    """The noise has the model's resolution: neighbours are independent, which they would not be if it were enlarged."""
    task = finetuning(faces, rand_augment=False, erase_rate=1, crop_scale=(0.08, 0.1))
    noise = []
    for grey in range(12):
        clip = clips_of_training(task, np.full((16, 32, 32, 3), 20 * grey, np.uint8))[0]
        constant = torch.stack([channel.flatten().mode().values for channel in clip])
        erased = (clip - constant.view(3, 1, 1, 1)).abs().amin((0, 1)) > 1e-5
        rows, columns = erased.any(1).nonzero().flatten(), erased.any(0).nonzero().flatten()
        noise.append(clip[:, :, rows.min() : rows.max() + 1, columns.min() : columns.max() + 1])
    pairs = [(box[..., 1:] * box[..., :-1]).mean() for box in noise]
    assert abs(float(torch.stack(pairs).mean())) < 0.03
    spread = torch.cat([box.flatten() for box in noise])
    assert abs(spread.mean()) < 0.02 and abs(spread.std() - 1) < 0.02
