"""Crops, normalisation, RandAugment against Pillow, erasing and mixing; stored numbers: test_augment_published.py."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps
from torch import Tensor

from svfap.data import augment, crops, rand_augment
from svfap.data.rand_augment import OPERATIONS, RandAugment

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
    real = crops.crop_resize

    def record(frames: np.ndarray, left: int, top: int, width: int, height: int, size: int) -> np.ndarray:
        seen.append((left, top, width, height))
        return real(frames, left, top, width, height, size)

    monkeypatch.setattr(crops, "crop_resize", record)
    return seen


# ---------------------------------------------------------------- crops


@pytest.mark.parametrize("width, height", [(40, 40), (60, 30), (50, 90)])
def test_crop_resize_keeps_place_and_time(width: int, height: int) -> None:
    size, left, top = 40, 17, 9
    cut = crops.crop_resize(coordinates(120, 100), left, top, width, height, size)
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
    assert np.abs(crops.fit_frames(frames, 10).astype(int) - 100).max() <= 2


@pytest.mark.parametrize("height, width, size", [(224, 224, 160), (90, 120, 64), (48, 40, 64), (33, 70, 48)])
def test_resizing_is_that_of_pillow(height: int, width: int, size: int) -> None:
    frames = np.random.RandomState(height).randint(0, 256, (2, height, width, 3)).astype(np.uint8)
    expected = [Image.fromarray(frame).resize((size, size), Image.Resampling.BILINEAR) for frame in frames]
    error = np.abs(crops.fit_frames(frames, size).astype(int) - np.stack([np.asarray(e) for e in expected]))
    assert error.max() <= (0 if size > max(height, width) else 1) and (error > 0).mean() < 0.06


def test_fit_frames_squashes_or_cuts() -> None:
    wide = coordinates(40, 100)
    squashed, centre = crops.fit_frames(wide, 40), crops.fit_frames(wide, 40, "centre")
    assert squashed[0, 0, :2, 1].tolist() == [1, 3] and squashed[0, 0, -1, 1] == 98 and squashed[0, -1, 0, 0] == 39
    assert (centre == wide[:, :, 30:70]).all()
    tall = coordinates(100, 40)
    assert (crops.fit_frames(tall, 40, "centre") == tall[:, 30:70]).all()
    square = coordinates(50, 50)
    assert (crops.fit_frames(square, 40) == crops.fit_frames(square, 40, "centre")).all()


def test_multi_scale_crop_takes_10_shapes_and_13_positions(boxes: list[tuple[int, int, int, int]]) -> None:
    rng = np.random.RandomState(0)
    frames = coordinates(100, 140, num_frames=1)
    for _ in range(2000):
        assert crops.multi_scale_crop(frames, 64, rng).shape == (1, 64, 64, 3)
    sides = [100, 87, 75, 64]  # int(100 x .66) = 66 is within 3 px of 64
    expected = {(w, h) for i, w in enumerate(sides) for j, h in enumerate(sides) if abs(i - j) <= 1}
    assert {box[2:] for box in boxes} == expected and len(expected) == 10
    positions = {(left, top) for left, top, width, height in boxes if (width, height) == (64, 64)}
    across, down = [0, 19, 38, 57, 76], [0, 9, 18, 27, 36]
    grid = [(i, j) for i in (0, 2, 4) for j in (0, 2, 4)] + [(i, j) for i in (1, 3) for j in (1, 3)]
    assert positions == {(across[i], down[j]) for i, j in grid}


def crop_boxes(number: int, height: int, width: int, scale: tuple[float, float] = (0.08, 1.0)) -> np.ndarray:
    """Left, top, width and height, (number, 4), of the boxes that `random_resized_crop` takes, read from its results."""
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    clips = torch.stack((y, x, y)).view(1, 3, 1, height, width).repeat(number, 1, 1, 1, 1)
    clips = augment.random_resized_crop(clips, scale, seeded()).numpy()
    # Enlarged linearly: the middle half has the box's own slope; the ends show its first and last pixel.
    boxes = []
    for row, column in zip(clips[:, 0, 0, :, 0], clips[:, 1, 0, 0], strict=True):
        (top, bottom), (left, right) = ((line[0] - 0.5, line[-1] + 0.5) for line in (row, column))
        boxes.append((left, top, right - left, bottom - top))
    return np.array(boxes).round(3)


def test_random_resized_crop_covers_its_ranges() -> None:
    left, top, width, height = crop_boxes(2000, 40, 48).T
    assert ((left >= 0) & (top >= 0) & (left + width <= 48) & (top + height <= 40)).all()
    share, ratio = width * height / (40 * 48), width / height
    assert 0.065 < share.min() < 0.1 and 0.93 < share.max() <= 1
    assert 0.7 < ratio.min() < 0.8 and 1.25 < ratio.max() < 1.42
    assert abs(np.log(ratio).mean()) < 0.04
    counts = [((low < share) & (share < low + 0.15)).sum() for low in (0.1, 0.25, 0.4)]
    assert min(counts) > 0.85 * max(counts), "uniform in area, where all boxes fit"
    assert {left.min(), top.min()} == {0} and (left + width).max() == 48 and (top + height).max() == 40


def test_random_resized_crop_is_bilinear_and_the_same_in_all_frames() -> None:
    clips = torch.rand(12, 3, 1, 20, 20, generator=seeded(1)).repeat(1, 1, 4, 1, 1)
    before = clips.clone()
    cropped = augment.random_resized_crop(clips, (0.2, 0.9), seeded(3))
    assert cropped is clips and torch.equal(clips, clips[:, :, :1].expand_as(clips))
    assert torch.equal(augment.random_resized_crop(before.clone(), (0.2, 0.9), seeded(3)), clips)
    assert not torch.equal(augment.random_resized_crop(before.clone(), (0.2, 0.9), seeded(4)), clips)
    assert torch.equal(augment.random_resized_crop(before.clone()[..., :18], (1.0, 1.0), seeded()), before[..., :18])


@pytest.mark.parametrize(
    "height, width, box", [(10, 100, (43, 0, 13, 10)), (100, 10, (0, 43, 10, 13)), (1, 1, (0, 0, 1, 1))]
)
def test_random_resized_crop_falls_back_to_the_centre(height: int, width: int, box: tuple[int, ...]) -> None:
    assert crop_boxes(1, height, width, (1.0, 1.0)).tolist() == [list(box)]


def test_multi_scale_crop_follows_its_generator_and_treats_frames_alike() -> None:
    frames = np.repeat(np.random.RandomState(1).randint(0, 256, (1, 90, 120, 3)), 4, axis=0).astype(np.uint8)
    first, again, other = (crops.multi_scale_crop(frames, 48, np.random.RandomState(seed)) for seed in (3, 3, 4))
    assert (first == again).all() and not (first == other).all()
    assert (first == first[:1]).all()


def test_side_crops_run_from_end_to_end() -> None:
    wide, tall = coordinates(40, 100), coordinates(100, 40)
    assert [(crop[0, 0, 0, 1], count) for crop, count in crops.side_crops(wide, 40, 3)] == [(0, 1), (30, 1), (60, 1)]
    assert [crop[0, 0, 0, 1] for crop, _ in crops.side_crops(wide, 40, 2)] == [0, 60]
    assert [crop[0, 0, 0, 0] for crop, _ in crops.side_crops(tall, 40, 2)] == [0, 60]
    assert [count for _, count in crops.side_crops(coordinates(40, 40), 20, 3)] == [3]
    assert [(crop[0, 0, 0, 1], count) for crop, count in crops.side_crops(coordinates(40, 41), 40, 4)] == [
        (0, 3),
        (1, 1),
    ]


# ---------------------------------------------------------------- pixels


def test_normalize_in_one_step_or_two() -> None:
    frames = torch.randint(0, 256, (2, 4, 6, 5, 3), dtype=torch.uint8, generator=seeded())
    expected = (frames.numpy() / 255 - MEAN) / STD
    normal = augment.normalize(frames, MEAN, STD)
    assert normal.dtype == torch.float32 and normal.is_contiguous()
    np.testing.assert_allclose(normal.permute(0, 2, 3, 4, 1).numpy(), expected, atol=2e-6)
    levels = augment.to_levels(frames)
    assert levels.is_contiguous()
    np.testing.assert_array_equal(levels.permute(0, 2, 3, 4, 1).numpy(), frames.numpy())
    assert torch.equal(augment.standardize(levels, MEAN, STD), normal)


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
    assert changed.flatten(1).any(1).all(), "boxes are drawn until one fits"
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
        mixed, (soft,) = augment.mix(clips, [targets], mixup, cutmix, 0.5, seeded(seed))
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


@pytest.mark.parametrize(("share", "side"), [(0.75, 32), (0.4375, 48), (1.0, 0)])
def test_the_box_of_cutmix_has_the_area_that_was_drawn(
    share: float, side: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = SimpleNamespace(beta=lambda a, b: share, random=lambda: 0.0, integers=lambda high: high // 2)
    monkeypatch.setattr(augment, "decisions", lambda generator: rng)
    clips = torch.arange(2.0).view(2, 1, 1, 1, 1).expand(2, 3, 4, 64, 64).clone()
    mixed, (targets,) = augment.mix(clips, [torch.eye(2)], 0, 1.0, 1.0, torch.Generator())
    assert int((mixed[0, 0, 0] == 1).sum()) == side**2
    assert targets[0].tolist() == [share, 1 - share]


def test_mix_draws_beta_shares_and_switches() -> None:
    shares, boxed = [], 0
    for seed in range(400):
        clips, targets = constant_clips(2)
        mixed, (soft,) = augment.mix(clips, [targets], 0.8, 1.0, 0.5, seeded(seed))
        is_box = not bool((mixed[0] == mixed[0, 0, 0, 0, 0]).all())
        boxed += is_box
        if not is_box:
            shares.append(float(soft[0, 0]))
    assert 160 <= boxed <= 240
    # Beta(0.8, 0.8): mean 1/2, variance 1 / (4 (2 x 0.8 + 1)) = 0.0962
    assert abs(np.mean(shares) - 0.5) < 0.08 and abs(np.var(shares) - 0.0962) < 0.025


def test_mix_off_changes_nothing() -> None:
    clips, targets = constant_clips(3)
    mixed, (soft,) = augment.mix(clips.clone(), [targets], 0.0, 0.0, 0.5, seeded())
    assert torch.equal(mixed, clips) and torch.equal(soft, targets)


# ---------------------------------------------------------------- RandAugment


def picture(height: int = 48, width: int = 64, seed: int = 0) -> np.ndarray:
    """A smooth random picture with some noise and not the full range of levels, (H, W, 3) uint8."""
    rng = np.random.RandomState(seed)
    coarse = Image.fromarray(rng.randint(0, 256, (6, 8, 3)).astype(np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), dtype=float)
    return np.clip(smooth * 0.7 + 30 + rng.normal(0, 4, (height, width, 3)), 0, 255).astype(np.uint8)


def apply(name: str, frames: np.ndarray, argument: float) -> np.ndarray:
    """One operation on (T, H, W, 3) uint8, back in the same shape as float levels."""
    clips = augment.to_levels(torch.from_numpy(frames)[None])
    return rand_augment.transform(clips, name, argument)[0].permute(1, 2, 3, 0).numpy()


def differences(ours: np.ndarray, expected: Any) -> np.ndarray:
    return np.abs(ours - np.asarray(expected, dtype=float))


ENHANCERS = {
    "ColorIncreasing": ImageEnhance.Color,
    "ContrastIncreasing": ImageEnhance.Contrast,
    "BrightnessIncreasing": ImageEnhance.Brightness,
    "SharpnessIncreasing": ImageEnhance.Sharpness,
}


@pytest.mark.parametrize("name", ENHANCERS)
@pytest.mark.parametrize("factor", [0.1, 0.37, 1.0, 1.63, 1.9])
def test_enhancement_is_that_of_pillow(name: str, factor: float) -> None:
    frame = picture()
    expected = ENHANCERS[name](Image.fromarray(frame)).enhance(factor)
    error = differences(apply(name, frame[None], factor)[0], expected)
    assert error.max() <= 1 and (error > 0).mean() < 1e-3


def solarize_add(image: Image.Image, amount: float) -> Image.Image:
    return image.point([min(255, i + int(amount)) if i < 128 else i for i in range(256)] * 3)


@pytest.mark.parametrize(
    "name, argument, reference",
    [
        ("Invert", 0, lambda image, _: ImageOps.invert(image)),
        ("Equalize", 0, lambda image, _: ImageOps.equalize(image)),
        *[("PosterizeIncreasing", bits, ImageOps.posterize) for bits in (1, 2, 3, 4)],
        *[("SolarizeIncreasing", t, ImageOps.solarize) for t in (0, 51, 77, 128, 256)],
        *[("SolarizeAdd", amount, solarize_add) for amount in (0, 77, 110)],
    ],
)
def test_level_operation_is_that_of_pillow(name: str, argument: int, reference: Any) -> None:
    ramp = np.repeat(np.arange(256, dtype=np.uint8).reshape(16, 16, 1), 3, axis=2)
    for frame in (picture(), ramp):
        np.testing.assert_array_equal(
            apply(name, frame[None], argument)[0], reference(Image.fromarray(frame), argument)
        )


def test_autocontrast_is_that_of_pillow_to_one_level() -> None:
    frame = picture()
    error = differences(apply("AutoContrast", frame[None], 0)[0], ImageOps.autocontrast(Image.fromarray(frame)))
    assert (
        error.max() <= 1 and (error > 0).mean() < 0.02
    )  # Pillow cuts off decimals of products that are not quite whole


GREY = (128, 128, 128)
BICUBIC = Image.Resampling.BICUBIC


def affine(*coefficients: float) -> Any:
    return lambda image: image.transform(image.size, Image.Transform.AFFINE, coefficients, BICUBIC, fillcolor=GREY)


@pytest.mark.parametrize(
    "name, argument, reference",
    [
        ("Rotate", 21.0, lambda image: image.rotate(21.0, BICUBIC, fillcolor=GREY)),
        ("Rotate", -9.0, lambda image: image.rotate(-9.0, BICUBIC, fillcolor=GREY)),
        ("ShearX", 0.21, affine(1, 0.21, 0, 0, 1, 0)),
        ("ShearY", -0.3, affine(1, 0, 0, -0.3, 1, 0)),
        ("TranslateXRel", 0.301, affine(1, 0, 0.301 * 64, 0, 1, 0)),
        ("TranslateYRel", -0.443, affine(1, 0, 0, 0, 1, -0.443 * 48)),
        ("TranslateXRel", 1.5, affine(1, 0, 1.5 * 64, 0, 1, 0)),
    ],
)
def test_geometry_is_that_of_pillow_with_grey_beyond_the_picture(name: str, argument: float, reference: Any) -> None:
    frames = np.stack([picture(seed=seed) for seed in range(2)])
    for ours, frame in zip(apply(name, frames, argument), frames, strict=True):
        expected = np.asarray(reference(Image.fromarray(frame)))
        error = differences(ours, expected)
        assert error.max() <= 1 and (error > 0).mean() < 1e-3
        assert (expected == 128).all(-1).mean() > 0.04


@pytest.mark.parametrize("name", ["Equalize", "AutoContrast", "ContrastIncreasing"])
def test_statistics_are_those_of_each_frame(name: str) -> None:
    frames = np.stack([picture(seed=seed) // (seed + 1) for seed in range(3)])
    together = apply(name, frames, 0.4)
    np.testing.assert_array_equal(together, np.concatenate([apply(name, frame[None], 0.4) for frame in frames]))


@pytest.mark.parametrize("name", ["Equalize", "AutoContrast"])
def test_a_flat_channel_stays(name: str) -> None:
    frames = np.stack([picture()] * 2)
    frames[..., 1] = 77
    assert (apply(name, frames, 0)[..., 1] == 77).all()


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
    clips = augment.to_levels(frames)
    before = clips.clone()
    changed = RandAugment()(clips, seeded(3))
    assert changed is clips
    assert clips.min() >= 0 and clips.max() <= 255 and torch.equal(clips, clips.round()), "whole levels"
    assert torch.equal(clips, clips[:, :, :1].expand_as(clips))
    touched = (clips != before).flatten(1).any(1)
    assert 16 <= touched.sum() <= 24, "1 clip in 16 is left as it is"
    assert len({round(float(clip.mean()), 3) for clip in clips}) > 15, "each clip has operations of its own"
    assert torch.equal(RandAugment()(before.clone(), seeded(3)), clips)
    assert not torch.equal(RandAugment()(before.clone(), seeded(4)), clips)


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_on_many_clips_is_that_on_each(name: str) -> None:
    clips = augment.to_levels(torch.from_numpy(np.stack([np.stack([picture(seed=i)] * 2) for i in range(3)])))
    arguments = [OPERATIONS[name][1](m, sign) for m, sign in ((7.3, 1), (2.1, -1), (9.6, -1))]
    one_by_one = [
        rand_augment.transform(clip[None].clone(), name, argument)
        for clip, argument in zip(clips, arguments, strict=True)
    ]
    assert torch.equal(rand_augment.transform(clips, name, *arguments), torch.cat(one_by_one))


def test_clips_that_are_augmented_together_are_those_augmented_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    clips = augment.to_levels(torch.from_numpy(np.stack([np.stack([picture(seed=i)] * 2) for i in range(24)])))
    expected = RandAugment()(clips.clone(), seeded(3))
    monkeypatch.setattr(rand_augment, "_groups", lambda numbers, device: [numbers])  # as on a GPU
    assert torch.equal(RandAugment()(clips, seeded(3)), expected)


def test_every_operation_takes_extremes_and_tiny_frames() -> None:
    for name, (_, argument) in OPERATIONS.items():
        for magnitude in (0.0, 10.0):
            for sign in (1, -1):
                for shape in ((1, 3, 1, 1, 1), (1, 3, 2, 2, 5)):
                    clip = torch.randint(256, shape, generator=seeded(5)).float()
                    result = rand_augment.transform(clip.clone(), name, argument(magnitude, sign))
                    assert result.shape == shape and torch.equal(result, result.round()), name
                    assert result.min() >= 0 and result.max() <= 255, name


@pytest.mark.parametrize("short, side", [(96, 96), (98, 96), (99, 99), (95, 95)])
def test_a_pre_training_crop_within_three_pixels_of_the_size_has_the_size(
    short: int, side: int, boxes: list[tuple[int, int, int, int]]
) -> None:
    crops.multi_scale_crop(coordinates(120, short), 96, np.random.RandomState(0), scales=(1.0,))
    assert boxes[0][2:] == (side, side)


def test_luma_is_that_of_pillow_where_it_is_nearly_the_next_one() -> None:
    colours = np.stack(np.meshgrid(*[np.arange(0, 256, 3)] * 3), axis=-1).reshape(-1, 3).astype(np.uint8)
    remainder = (colours.astype(np.int64) @ [19595, 38470, 7471] + 32768) % 65536
    close = colours[(remainder < 300) | (remainder > 65536 - 300)][None]
    expected = np.asarray(Image.fromarray(close).convert("L"))
    ours = rand_augment._grey(augment.to_levels(torch.from_numpy(close)[None, None]))
    assert close.shape[1] > 1000 and ours[0, 0, 0].tolist() == expected.tolist()
