"""Crops, normalisation, RandAugment against Pillow, erasing and mixing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps
from torch import Tensor

from svfap.data import augment
from svfap.data.augment import OPERATIONS, RandAugment

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def coordinates(height: int, width: int, num_frames: int = 3) -> np.ndarray:
    """Frames whose channels are the row, the column and the frame number."""
    time, row, column = np.mgrid[:num_frames, :height, :width]
    return np.stack([row, column, time], -1).astype(np.uint8)


@pytest.fixture
def boxes(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int, int, int]]:
    """The boxes (left, top, width, height) that crops choose; each is cut for real too."""
    seen: list[tuple[int, int, int, int]] = []
    real = augment._crop_resize

    def record(frames: np.ndarray, left: int, top: int, width: int, height: int, size: int) -> np.ndarray:
        seen.append((left, top, width, height))
        return real(frames, left, top, width, height, size)

    monkeypatch.setattr(augment, "_crop_resize", record)
    return seen


# ---------------------------------------------------------------- crops


@pytest.mark.parametrize("width, height", [(40, 40), (60, 30), (50, 90)])
def test_crop_resize_keeps_place_and_time(width: int, height: int) -> None:
    size, left, top = 40, 17, 9
    cut = augment._crop_resize(coordinates(120, 100), left, top, width, height, size)
    assert cut.dtype == np.uint8 and cut.shape == (3, size, size, 3) and cut.flags.c_contiguous
    centres = np.arange(size) + 0.5
    rows = np.clip(top + centres * height / size - 0.5, top, top + height - 1)
    columns = np.clip(left + centres * width / size - 0.5, left, left + width - 1)
    assert np.abs(cut[..., 0] - rows[:, None]).max() <= 1
    assert np.abs(cut[..., 1] - columns).max() <= 1
    assert (cut[..., 2] == np.arange(3)[:, None, None]).all()


def test_strong_shrinking_averages() -> None:
    checkerboard = np.indices((80, 80)).sum(0) % 2 * 200
    frames = np.repeat(checkerboard[None, ..., None], 3, axis=-1).astype(np.uint8)
    assert np.abs(augment.center_crop(frames, 10).astype(int) - 100).max() <= 1


def test_multi_scale_crop_takes_10_shapes_and_13_positions(boxes: list[tuple[int, int, int, int]]) -> None:
    rng = np.random.RandomState(0)
    frames = coordinates(100, 140, num_frames=1)
    for _ in range(2000):
        assert augment.multi_scale_crop(frames, 64, rng).shape == (1, 64, 64, 3)
    sides = [100, 87, 75, 64]  # int(100 x .66) = 66 is within 3 px of 64
    expected = {(w, h) for i, w in enumerate(sides) for j, h in enumerate(sides) if abs(i - j) <= 1}
    assert {box[2:] for box in boxes} == expected and len(expected) == 10
    positions = {(left, top) for left, top, width, height in boxes if (width, height) == (64, 64)}
    across, down = [0, 19, 38, 57, 76], [0, 9, 18, 27, 36]
    grid = [(i, j) for i in (0, 2, 4) for j in (0, 2, 4)] + [(i, j) for i in (1, 3) for j in (1, 3)]
    assert positions == {(across[i], down[j]) for i, j in grid}


def test_random_resized_crop_covers_its_ranges(boxes: list[tuple[int, int, int, int]]) -> None:
    rng = np.random.RandomState(0)
    frames = coordinates(200, 240, num_frames=1)
    for _ in range(2000):
        augment.random_resized_crop(frames, 32, rng)
    left, top, width, height = np.array(boxes).T
    assert ((left >= 0) & (top >= 0) & (left + width <= 240) & (top + height <= 200)).all()
    share, ratio = width * height / (200 * 240), width / height
    assert 0.075 < share.min() < 0.1 and 0.93 < share.max() <= 1
    assert 0.73 < ratio.min() < 0.77 and 1.29 < ratio.max() < 1.36
    assert abs(np.log(ratio).mean()) < 0.04
    assert {left.min(), top.min()} == {0} and (left + width).max() == 240 and (top + height).max() == 200


@pytest.mark.parametrize(
    "height, width, box", [(10, 100, (43, 0, 13, 10)), (100, 10, (0, 43, 10, 13)), (1, 1, (0, 0, 1, 1))]
)
def test_random_resized_crop_falls_back_to_the_centre(
    boxes: list[tuple[int, int, int, int]], height: int, width: int, box: tuple[int, ...]
) -> None:
    rng = np.random.RandomState(0)
    augment.random_resized_crop(coordinates(height, width), 16, rng, scale=(1.0, 1.0))
    assert boxes == [box]


def test_crops_follow_their_generator_and_treat_frames_alike() -> None:
    frames = np.repeat(np.random.RandomState(1).randint(0, 256, (1, 90, 120, 3)), 4, axis=0).astype(np.uint8)
    for crop in (augment.multi_scale_crop, augment.random_resized_crop):
        first, again, other = (crop(frames, 48, np.random.RandomState(seed)) for seed in (3, 3, 4))
        assert (first == again).all() and not (first == other).all()
        assert (first == first[:1]).all()


def test_side_crops_run_from_end_to_end() -> None:
    wide = coordinates(40, 100)
    assert [crop[0, 0, 0, 1] for crop in augment.side_crops(wide, 40, 3)] == [0, 30, 60]
    assert [crop[0, 0, 0, 1] for crop in augment.side_crops(wide, 40, 2)] == [0, 60]
    tall = coordinates(100, 40)
    assert [crop[0, 0, 0, 0] for crop in augment.side_crops(tall, 40, 2)] == [0, 60]
    assert len(augment.side_crops(coordinates(40, 40), 20, 3)) == 1
    assert (augment.center_crop(wide, 40) == wide[:, :, 30:70]).all()
    assert (augment.center_crop(tall, 40) == tall[:, 30:70]).all()


# ---------------------------------------------------------------- pixels


def test_normalize_in_one_step_or_two() -> None:
    frames = torch.randint(0, 256, (2, 4, 6, 5, 3), dtype=torch.uint8, generator=seeded())
    expected = (frames.numpy() / 255 - MEAN) / STD
    normal = augment.normalize(frames, MEAN, STD)
    assert normal.dtype == torch.float32 and normal.is_contiguous()
    np.testing.assert_allclose(normal.permute(0, 2, 3, 4, 1).numpy(), expected, atol=2e-6)
    unit = augment.to_unit(frames)
    assert unit.min() >= 0 and unit.max() <= 1
    np.testing.assert_allclose(unit.permute(0, 2, 3, 4, 1).numpy(), frames.numpy() / 255, atol=1e-6)
    torch.testing.assert_close(augment.standardize(unit, MEAN, STD), normal, atol=2e-6, rtol=0)


def test_flip_mirrors_whole_clips() -> None:
    clips = torch.rand(64, 3, 2, 3, 4, generator=seeded())
    flipped = augment.flip(clips.clone(), 0.5, seeded(1))
    mirrored = torch.tensor([torch.equal(a, b.flip(-1)) for a, b in zip(flipped, clips, strict=True)])
    same = torch.tensor([torch.equal(a, b) for a, b in zip(flipped, clips, strict=True)])
    assert (mirrored ^ same).all() and 20 <= mirrored.sum() <= 44
    assert torch.equal(augment.flip(clips.clone(), 1.0, seeded()), clips.flip(-1))
    assert torch.equal(augment.flip(clips.clone(), 0.0, seeded()), clips)


def test_random_erase_puts_one_box_of_noise_in_the_same_place_of_all_frames() -> None:
    clips = torch.full((200, 3, 4, 32, 32), 9.0)
    assert augment.random_erase(clips, 1.0, seeded()) is clips
    changed = clips != 9
    assert (changed == changed[:, :1, :1]).all()
    shares = changed[:, 0, 0].float().mean((1, 2))
    assert 0.01 < shares.min() < 0.04 and 0.3 < shares.max() < 0.36
    rows, columns = changed[:, 0, 0].any(2).sum(1), changed[:, 0, 0].any(1).sum(1)
    assert torch.allclose(rows * columns / 1024, shares), "each is a full rectangle"
    assert 0.25 < (rows / columns).min() < 0.4 and 2.5 < (rows / columns).max() < 4
    noise = clips[changed]
    assert abs(noise.mean()) < 0.01 and abs(noise.std() - 1) < 0.01
    assert not torch.equal(clips[0, :, 0], clips[0, :, 1]), "noise is not repeated over time"
    tops = changed[:, 0, 0].any(2).int().argmax(1)
    assert tops.min() == 0 and tops.max() > 20


def test_random_erase_rate() -> None:
    clips = torch.zeros(400, 3, 1, 16, 16)
    augment.random_erase(clips, 0.25, seeded())
    assert 70 <= (clips != 0).flatten(1).any(1).sum() <= 130
    assert (augment.random_erase(torch.zeros(9, 3, 1, 16, 16), 0.0, seeded()) == 0).all()


def test_smooth_one_hot() -> None:
    targets = augment.smooth_one_hot(torch.tensor([2, 0]), 4, smoothing=0.2)
    torch.testing.assert_close(targets, torch.tensor([[0.05, 0.05, 0.85, 0.05], [0.85, 0.05, 0.05, 0.05]]))


def constant_clips(batch_size: int) -> tuple[Tensor, Tensor]:
    """Clip i is i everywhere and has label i, so that shares can be read from pixels and from targets."""
    values = torch.arange(batch_size, dtype=torch.float32)
    return values.view(-1, 1, 1, 1, 1).expand(-1, 3, 2, 20, 30).clone(), torch.eye(batch_size)


@pytest.mark.parametrize("batch_size", [1, 2, 3, 5, 6])
@pytest.mark.parametrize("mixup, cutmix", [(0.8, 0.0), (0.0, 1.0)])
def test_mix_gives_targets_the_share_of_the_pixels(batch_size: int, mixup: float, cutmix: float) -> None:
    for seed in range(20):
        clips, targets = constant_clips(batch_size)
        mixed, soft = augment.mix(clips, targets, mixup, cutmix, 0.5, seeded(seed))
        assert mixed is clips
        own = torch.arange(batch_size)
        partner = torch.tensor({1: [0], 3: [1, 2, 0], 5: [4, 2, 3, 1, 0]}.get(batch_size) or own.flip(0).tolist())
        torch.testing.assert_close(soft.sum(1), torch.ones(batch_size))
        torch.testing.assert_close(mixed.mean((1, 2, 3, 4)), soft @ own.float(), atol=1e-4, rtol=0)
        assert (soft[own, own] + soft[own, partner] * (own != partner) - 1).abs().max() < 1e-6
        if batch_size > 1 and cutmix:
            box = mixed[0, 0, 0] == partner[0]
            assert (mixed == mixed[:, :1, :1]).all() and set(mixed.flatten().tolist()) == set(range(batch_size))
            assert box.sum() == box.any(0).sum() * box.any(1).sum(), "one box"
        elif batch_size > 1:
            assert (mixed[0] == mixed[0, 0, 0, 0, 0]).all(), "all pixels alike"


def test_mix_draws_beta_shares_and_switches() -> None:
    shares, boxed = [], 0
    for seed in range(400):
        clips, targets = constant_clips(2)
        mixed, soft = augment.mix(clips, targets, 0.8, 1.0, 0.5, seeded(seed))
        is_box = not bool((mixed[0] == mixed[0, 0, 0, 0, 0]).all())
        boxed += is_box
        if not is_box:
            shares.append(float(soft[0, 0]))
    assert 160 <= boxed <= 240
    # Beta(0.8, 0.8): mean 1/2, variance 1 / (4 (2 x 0.8 + 1)) = 0.0962
    assert abs(np.mean(shares) - 0.5) < 0.08 and abs(np.var(shares) - 0.0962) < 0.025


def test_mix_off_changes_nothing() -> None:
    clips, targets = constant_clips(3)
    mixed, soft = augment.mix(clips.clone(), targets, 0.0, 0.0, 0.5, seeded())
    assert torch.equal(mixed, clips) and torch.equal(soft, targets)


# ---------------------------------------------------------------- RandAugment


def picture(height: int = 48, width: int = 64, seed: int = 0) -> np.ndarray:
    """A smooth random picture with some noise and not the full range of levels, (H, W, 3) uint8."""
    rng = np.random.RandomState(seed)
    coarse = Image.fromarray(rng.randint(0, 256, (6, 8, 3)).astype(np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), dtype=float)
    return np.clip(smooth * 0.7 + 30 + rng.normal(0, 4, (height, width, 3)), 0, 255).astype(np.uint8)


def apply(name: str, frames: np.ndarray, argument: float) -> np.ndarray:
    """One operation on (T, H, W, 3) uint8, back as (T, H, W, 3) float levels of 0 to 255."""
    clip = augment.to_unit(torch.from_numpy(frames)[None])[0]
    return OPERATIONS[name][0](clip, argument).permute(1, 2, 3, 0).numpy() * 255


ENHANCERS = {
    "ColorIncreasing": ImageEnhance.Color,
    "ContrastIncreasing": ImageEnhance.Contrast,
    "BrightnessIncreasing": ImageEnhance.Brightness,
    "SharpnessIncreasing": ImageEnhance.Sharpness,
}


@pytest.mark.parametrize("name", ENHANCERS)
@pytest.mark.parametrize("factor", [0.1, 0.37, 1.0, 1.63, 1.9])
def test_enhancement_agrees_with_pillow(name: str, factor: float) -> None:
    frame = picture()
    expected = np.asarray(ENHANCERS[name](Image.fromarray(frame)).enhance(factor), dtype=float)
    # Pillow rounds the smoothed and the blended picture: at most 1 level, plus the factor times a half.
    assert np.abs(apply(name, frame[None], factor)[0] - expected).max() <= 1.5


def solarize_add(image: Image.Image, amount: float) -> Image.Image:
    return image.point([min(255, i + int(amount)) if i < 128 else i for i in range(256)] * 3)


@pytest.mark.parametrize(
    "name, argument, reference, tolerance",
    [
        ("Invert", 0, lambda image, _: ImageOps.invert(image), 1e-3),
        ("Equalize", 0, lambda image, _: ImageOps.equalize(image), 1e-3),
        ("AutoContrast", 0, lambda image, _: ImageOps.autocontrast(image), 1.001),  # Pillow cuts off decimals
        *[("PosterizeIncreasing", bits, ImageOps.posterize, 1e-3) for bits in (1, 2, 3, 4)],
        *[("SolarizeIncreasing", t, ImageOps.solarize, 1e-3) for t in (0, 51, 77, 128, 256)],
        *[("SolarizeAdd", amount, solarize_add, 1e-3) for amount in (0, 77, 110)],
    ],
)
def test_level_operation_agrees_with_pillow(name: str, argument: int, reference: Any, tolerance: float) -> None:
    ramp = np.repeat(np.arange(256, dtype=np.uint8).reshape(16, 16, 1), 3, axis=2)
    for frame in (picture(), ramp):
        expected = np.asarray(reference(Image.fromarray(frame), argument), dtype=float)
        assert np.abs(apply(name, frame[None], argument)[0] - expected).max() <= tolerance


def affine(*coefficients: float) -> Any:
    def transform(image: Image.Image) -> Image.Image:
        return image.transform(image.size, Image.Transform.AFFINE, coefficients, Image.Resampling.BILINEAR)

    return transform


@pytest.mark.parametrize(
    "name, argument, reference",
    [
        ("Rotate", 21.0, lambda image: image.rotate(21.0, Image.Resampling.BILINEAR)),
        ("Rotate", -9.0, lambda image: image.rotate(-9.0, Image.Resampling.BILINEAR)),
        ("ShearX", 0.21, affine(1, 0.21, 0, 0, 1, 0)),
        ("ShearY", -0.3, affine(1, 0, 0, -0.3, 1, 0)),
        ("TranslateXRel", 0.3, affine(1, 0, 0.3 * 64, 0, 1, 0)),
        ("TranslateYRel", -0.45, affine(1, 0, 0, 0, 1, -0.45 * 48)),
    ],
)
def test_geometry_agrees_with_pillow(name: str, argument: float, reference: Any) -> None:
    frame = picture()
    expected = np.asarray(reference(Image.fromarray(frame)), dtype=float)
    ours = apply(name, frame[None], argument)[0]
    # Pixels that come from well inside, found by moving a frame of ones with a black rim.
    inner = np.zeros_like(frame)
    inner[2:-2, 2:-2] = 255
    inside = np.asarray(reference(Image.fromarray(inner)))[..., 0] == 255
    assert inside.mean() > 0.4
    assert np.abs(ours - expected)[inside].max() <= 1.01
    # Beyond the picture: the fill, over most of the rest (a rim of two pixels is neither).
    filled = np.abs(ours - np.array(augment.FILL) * 255).max(-1) < 1e-2
    beyond = np.asarray(reference(Image.fromarray(np.full_like(frame, 255))))[..., 0] == 0
    assert beyond.sum() > 50 and filled[beyond].mean() > 0.7


@pytest.mark.parametrize("name", ["Equalize", "AutoContrast", "ContrastIncreasing"])
def test_statistics_are_those_of_the_whole_clip(name: str) -> None:
    """All frames change as one: the same as Pillow on the frames glued into one picture."""
    frames = np.stack([picture(seed=seed) // (seed + 1) for seed in range(3)])
    glued = Image.fromarray(frames.reshape(-1, *frames.shape[2:]))
    expected = {
        "Equalize": lambda: ImageOps.equalize(glued),
        "AutoContrast": lambda: ImageOps.autocontrast(glued),
        "ContrastIncreasing": lambda: ImageEnhance.Contrast(glued).enhance(0.4),
    }[name]()
    assert np.abs(apply(name, frames, 0.4) - np.asarray(expected).reshape(frames.shape)).max() <= 1.2


@pytest.mark.parametrize("name", ["Equalize", "AutoContrast"])
def test_a_flat_channel_stays(name: str) -> None:
    frames = np.stack([picture()] * 2)
    frames[..., 1] = 77
    assert np.allclose(apply(name, frames, 0)[..., 1], 77, atol=1e-3)


def test_arguments_grow_with_the_magnitude() -> None:
    """The published maps at magnitudes 0, 7 and 10 (sign 1, then -1 where it matters)."""
    table = {
        "Rotate": (0, 21, 30),
        "PosterizeIncreasing": (4, 2, 0),
        "SolarizeIncreasing": (256, 77, 0),
        "SolarizeAdd": (0, 77, 110),
        **dict.fromkeys(ENHANCERS, (1, 1.63, 1.9)),
        "ShearX": (0, 0.21, 0.3),
        "ShearY": (0, 0.21, 0.3),
        "TranslateXRel": (0, 0.315, 0.45),
        "TranslateYRel": (0, 0.315, 0.45),
    }
    assert set(OPERATIONS) == set(table) | {"AutoContrast", "Equalize", "Invert"}
    for name, values in table.items():
        assert [OPERATIONS[name][1](m, 1) for m in (0, 7, 10)] == pytest.approx(values), name
    assert OPERATIONS["Rotate"][1](7, -1) == pytest.approx(-21)
    assert OPERATIONS["BrightnessIncreasing"][1](10, -1) == pytest.approx(0.1)
    assert OPERATIONS["SolarizeAdd"][1](7, -1) == 77


def test_draws_follow_the_recipe() -> None:
    rng = np.random.default_rng(0)
    drawn = [RandAugment().draw(rng) for _ in range(2000)]
    assert abs(np.mean([len(operations) for operations in drawn]) - 2) < 0.08
    assert max(len(operations) for operations in drawn) == 4
    names = [name for operations in drawn for name, _ in operations]
    counts = np.array([names.count(name) for name in OPERATIONS])
    assert (np.abs(counts / len(names) - 1 / 15) < 0.02).all()
    angles = np.array([value for operations in drawn for name, value in operations if name == "Rotate"])
    magnitudes = np.abs(angles) / 3
    assert abs(magnitudes.mean() - 7) < 0.15 and abs(magnitudes.std() - 0.5) < 0.1
    assert abs((angles > 0).mean() - 0.5) < 0.12
    wild = [RandAugment(magnitude=9, std=5, rate=1).draw(rng) for _ in range(300)]
    angles = np.array([abs(value) for operations in wild for name, value in operations if name == "Rotate"])
    assert angles.max() == 30 and angles.min() < 15, "magnitudes are cut to 10"


def test_randaugment_changes_clips_apart_and_frames_alike() -> None:
    frames = torch.from_numpy(np.stack([np.stack([picture(seed=1)] * 3)] * 24))
    clips = augment.to_unit(frames)
    before = clips.clone()
    changed = RandAugment()(clips, seeded(3))
    assert changed is clips and clips.isfinite().all()
    assert clips.min() >= -1e-6 and clips.max() <= 1 + 1e-6
    torch.testing.assert_close(clips, clips[:, :, :1].expand_as(clips), atol=1e-6, rtol=0)
    touched = (clips - before).abs().flatten(1).amax(1) > 1e-3
    assert 16 <= touched.sum() <= 24, "1 clip in 16 is left as it is"
    assert len({round(float(clip.mean()), 5) for clip in clips}) > 15, "each clip has operations of its own"
    assert torch.equal(RandAugment()(before.clone(), seeded(3)), clips)
    assert not torch.equal(RandAugment()(before.clone(), seeded(4)), clips)


def test_every_operation_takes_extremes_and_tiny_frames() -> None:
    for name, (operation, argument) in OPERATIONS.items():
        for magnitude in (0.0, 10.0):
            for sign in (1, -1):
                for shape in ((3, 1, 1, 1), (3, 2, 2, 5)):
                    clip = torch.rand(shape, generator=seeded(5))
                    result = operation(clip.clone(), argument(magnitude, sign))
                    assert result.shape == shape and result.isfinite().all(), name
                    assert result.min() >= -1e-6 and result.max() <= 1 + 1e-6, name
