"""Augmentation, the same for all frames of a clip (Sec. IV-B).

Resizing, crops and augmentation are those of the published code; `docs/paper_map.md` lists the differences. Resizing
runs in the loader's workers on uint8 frames, so that little data is copied to the device. Fine-tuning then
augments whole batches on the device, in place, in the published order: `RandAugment` on the frames at the model's size,
`standardize`, `random_resized_crop`, `flip`, `random_erase`, `mix`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.random import RandomState
from torch import Tensor

from svfap.device import send

Range = tuple[float, float]
MULTI_SCALES = (1.0, 0.875, 0.75, 0.66)
# (x, y) in quarters of the free space: corners, middles of the edges, centre, quarter points.
CROP_POSITIONS = np.array([(0, 4, 0, 4, 2, 0, 4, 2, 2, 1, 3, 1, 3), (0, 0, 4, 4, 0, 2, 2, 4, 2, 1, 1, 3, 3)]).T
CROP_RATIO = (0.75, 1.3333)  # width / height
FILL = 128.0  # grey that geometric operations show beyond the picture


def _crop_resize(frames: np.ndarray, left: int, top: int, width: int, height: int, size: int) -> np.ndarray:
    """Crop the same box from every frame and resize it: (T, H, W, 3) uint8 -> (T, size, size, 3) uint8.

    Bilinear with antialiasing, as in Pillow: equal where the picture grows, at most 2 of 255 levels off, and
    0.05 on average, where it shrinks.
    """
    box = np.ascontiguousarray(frames[:, top : top + height, left : left + width])
    if width == height == size:
        return box
    pixels = torch.from_numpy(box).permute(0, 3, 1, 2)
    resized = F.interpolate(pixels, (size, size), mode="bilinear", antialias=True)
    return resized.permute(0, 2, 3, 1).contiguous().numpy()


def fit_frames(frames: np.ndarray, size: int, fit: str = "squash") -> np.ndarray:
    """Frames of any shape as squares: (T, H, W, 3) uint8 -> (T, size, size, 3) uint8.

    fit: "squash" resizes the whole frame, whatever its proportions, as the published code does; "centre" keeps the
    proportions of the central square of the short side and drops the rest. Square frames come out alike.
    """
    height, width = frames.shape[1:3]
    if fit == "squash":
        return _crop_resize(frames, 0, 0, width, height, size)
    return side_crops(frames, size, 1)[0][0]


def _draw_sides(rng: np.random.Generator, area: float, scale: Range, ratio: Range) -> tuple[int, int]:
    """Sides (a, b) of a box of `scale` times `area`, with a / b log-uniform in `ratio`."""
    area = rng.uniform(*scale) * area
    shape = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
    return round(math.sqrt(area * shape)), round(math.sqrt(area / shape))


def multi_scale_crop(
    frames: np.ndarray, size: int, rng: RandomState, scales: Sequence[float] = MULTI_SCALES
) -> np.ndarray:
    """The pre-training crop (Fig. 3), as in VideoMAE and TSN: a few scales and 13 fixed positions, no flip.

    Width and height are `scales` (in descending order) times the short side, at most one step of the list apart, and are set
    to `size` if they differ from it by less than 3 px and the frame is large enough (the published code pads it with
    black). (T, H, W, 3) uint8 -> (T, size, size, 3) uint8.
    """
    frame_height, frame_width = frames.shape[1:3]
    short = min(frame_height, frame_width)
    sides = [max(1, int(short * scale)) for scale in scales]
    sides = [size if abs(side - size) < 3 and size <= short else side for side in sides]
    pairs = [(w, h) for i, w in enumerate(sides) for j, h in enumerate(sides) if abs(i - j) <= 1]
    width, height = pairs[rng.randint(len(pairs))]
    across, down = CROP_POSITIONS[rng.randint(len(CROP_POSITIONS))]
    # A quarter is rounded down to whole pixels before it is multiplied, as published.
    left, top = across * ((frame_width - width) // 4), down * ((frame_height - height) // 4)
    return _crop_resize(frames, left, top, width, height, size)


def side_crops(frames: np.ndarray, size: int, num_crops: int) -> list[tuple[np.ndarray, int]]:
    """`num_crops` squares of the short side, evenly spaced along the longer side from end to end; one crop: the centre.

    Coinciding squares, as in a square frame, are returned once, with their number.
    (T, H, W, 3) uint8 -> list of ((T, size, size, 3) uint8, number). Cropping before resizing saves work, and differs from
    resizing first by a fraction of a pixel.
    """
    height, width = frames.shape[1:3]
    short, free = min(height, width), abs(width - height)
    starts = [free // 2] if num_crops == 1 else [i * free // (num_crops - 1) for i in range(num_crops)]
    boxes = [((start, 0) if width > height else (0, start), starts.count(start)) for start in sorted(set(starts))]
    return [(_crop_resize(frames, left, top, short, short, size), count) for (left, top), count in boxes]


# ---------------------------------------------------------------- on the device, in batch


def _decisions(generator: torch.Generator) -> np.random.Generator:
    """A NumPy generator seeded by one draw of a CPU generator, so that decisions do not depend on the device."""
    return np.random.default_rng(int(torch.randint(2**63 - 1, (), generator=generator)))


def to_levels(clips: Tensor) -> Tensor:
    """Channels first: (B, T, H, W, 3) uint8 -> (B, 3, T, H, W) float32, levels of 0 to 255, contiguous."""
    return clips.permute(0, 4, 1, 2, 3).to(torch.float32, memory_format=torch.contiguous_format)


def standardize(clips: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """(level / 255 - mean) / std in place, for (B, 3, T, H, W) float levels of 0 to 255."""
    for channel, m, s in zip(clips.unbind(1), mean, std, strict=True):
        channel.sub_(255 * m).mul_(1 / (255 * s))
    return clips


def normalize(clips: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """`to_levels`, then `standardize`: (B, T, H, W, 3) uint8 -> (B, 3, T, H, W) float32, contiguous."""
    return standardize(to_levels(clips), mean, std)


def random_resized_crop(clips: Tensor, scale: Range, generator: torch.Generator, ratio: Range = CROP_RATIO) -> Tensor:
    """The fine-tuning crop, in place: a random box of each clip, enlarged to the whole frame. (B, 3, T, H, W) float.

    The box has `scale` times the frame's area and width / height log-uniform in `ratio`. After 10 draws that do not fit:
    the largest centred box with a ratio within `ratio`. Bilinear.
    """
    rng = _decisions(generator)
    for clip in clips:
        left, top, width, height = _draw_crop(rng, clip.shape[-1], clip.shape[-2], scale, ratio)
        box = clip[..., top : top + height, left : left + width]
        if box.shape != clip.shape:
            clip.copy_(F.interpolate(box, clip.shape[-2:], mode="bilinear", align_corners=False))
    return clips


def _draw_crop(
    rng: np.random.Generator, frame_width: int, frame_height: int, scale: Range, ratio: Range
) -> tuple[int, int, int, int]:
    """(left, top, width, height) of a box."""
    for _ in range(10):
        width, height = _draw_sides(rng, frame_width * frame_height, scale, ratio)
        if 0 < width <= frame_width and 0 < height <= frame_height:
            left, top = rng.integers(frame_width - width + 1), rng.integers(frame_height - height + 1)
            return int(left), int(top), width, height
    width = min(frame_width, max(1, round(frame_height * ratio[1])))
    height = min(frame_height, max(1, round(frame_width / ratio[0])))
    return (frame_width - width) // 2, (frame_height - height) // 2, width, height


def flip(clips: Tensor, rate: float, generator: torch.Generator) -> Tensor:
    """Mirror each clip left to right with probability `rate`, in place. (B, 3, T, H, W) float."""
    for clip, chosen in zip(clips, _decisions(generator).random(len(clips)) < rate, strict=True):
        if chosen:
            clip.copy_(clip.flip(-1))
    return clips


def random_erase(clips: Tensor, rate: float, generator: torch.Generator) -> Tensor:
    """Random erasing (Zhong et al. 2020), in place: with probability `rate` a box of a clip is replaced by N(0, 1) noise.

    The box has 0.02 to 1/3 of the frame's area and height / width log-uniform in 0.3 to 1 / 0.3; it is the same in all
    frames, and the noise is drawn for each pixel of each frame. Of up to 100 boxes drawn, the first that fits is taken.
    For normalised clips (B, 3, T, H, W) float.
    """
    rng = _decisions(generator)
    # The noise is drawn on the device: unlike the decisions, it differs between kinds of devices.
    noise = torch.Generator(clips.device).manual_seed(int(rng.integers(2**63)))
    frame_height, frame_width = clips.shape[-2:]
    for clip in clips:
        if rng.random() >= rate:
            continue
        for _ in range(100):
            height, width = _draw_sides(rng, frame_width * frame_height, (0.02, 1 / 3), (0.3, 1 / 0.3))
            if height < frame_height and width < frame_width:
                top, left = rng.integers(frame_height - height + 1), rng.integers(frame_width - width + 1)
                clip[..., top : top + height, left : left + width].normal_(generator=noise)
                break
    return clips


def smooth_one_hot(labels: Tensor, num_classes: int, smoothing: float = 0.1) -> Tensor:
    """(B,) int64 labels -> (B, num_classes) float32: smoothing / num_classes everywhere, plus 1 - smoothing at the label.

    NaN everywhere for the label -1, which means that there is none.
    """
    targets = torch.full((len(labels), num_classes), smoothing / num_classes, device=labels.device)
    targets.scatter_(1, labels.clamp(min=0)[:, None], 1 - smoothing + smoothing / num_classes)
    return targets.masked_fill_(labels[:, None] < 0, math.nan)


def mix(
    clips: Tensor, targets: Tensor, mixup: float, cutmix: float, switch: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Mixup (Zhang et al. 2018) or CutMix (Yun et al. 2019) of a batch with itself in reverse order.

    In a batch of odd size the middle three clips are mixed in a circle, so no clip is mixed with itself unless it is alone.

    The weight of a clip is drawn from Beta(mixup, mixup) or Beta(cutmix, cutmix), once for the batch. CutMix is chosen with
    probability `switch`; if one of the two parameters is 0 the other method is always used, and if both are, neither. For
    CutMix the weight is then the area outside the box, which is clipped at the edges of the frame. `clips` (B, 3, T, H, W)
    float is changed in place; `targets` (B, K) float is returned as a new tensor.
    """
    rng = _decisions(generator)
    use_cutmix = cutmix > 0 and (mixup == 0 or rng.random() < switch)
    alpha = cutmix if use_cutmix else mixup
    if alpha == 0:
        return clips, targets
    share = rng.beta(alpha, alpha)
    partners = _partners(len(clips), clips.device)
    if use_cutmix:
        frame_height, frame_width = clips.shape[-2:]
        cut = math.sqrt(1 - share) / 2
        half_height, half_width = int(frame_height * cut), int(frame_width * cut)
        row, column = int(rng.integers(frame_height)), int(rng.integers(frame_width))
        rows = slice(max(0, row - half_height), row + half_height)
        columns = slice(max(0, column - half_width), column + half_width)
        box = clips[..., rows, columns]
        share = 1 - box.shape[-2] * box.shape[-1] / (frame_height * frame_width)
        box.copy_(box[partners])
    else:
        clips.lerp_(clips[partners], 1 - share)
    return clips, targets * share + targets[partners] * (1 - share)


def _partners(count: int, device: torch.device) -> Tensor:
    """The clip that each of `count` clips is mixed with, (count,) int64: without fixed points from 2 clips on.

    Made on the device: a list of numbers would have to be copied to it.
    """
    order = torch.arange(count - 1, -1, -1, device=device)
    if count % 2 and count > 1:
        middle = count // 2
        order[middle - 1 : middle + 1] = torch.arange(middle, middle + 2, device=device)
    return order


# ---------------------------------------------------------------- RandAugment
# Operations on clips (N, 3, T, H, W) float32 with whole levels of 0 to 255, each with its argument, or with what `NUMBERS`
# makes of it, (N, 1, 1, 1, 1) float32.
# They may work in place; use the returned tensor. Results are whole levels too, rounded as Pillow does: the published code
# runs Pillow on each frame, so extremes, means and histograms are those of a frame.


def _autocontrast(clips: Tensor, _: Tensor) -> Tensor:
    """Stretch each channel of each frame to 0..255; a constant channel is unchanged."""
    low, high = clips.amin((3, 4), keepdim=True), clips.amax((3, 4), keepdim=True)
    flat = high <= low
    low, span = low.masked_fill(flat, 0), (high - low).masked_fill(flat, 255)
    return clips.sub_(low).mul_(255).div_(span).floor_()


def _counts(numbers: Tensor, length: int) -> Tensor:
    """How often each number from 0 to `length` - 1 occurs: (N,) int32 -> (length,) int64.

    `bincount` would let the host wait for the largest number, so it is for CPUs alone, where it is six times as fast.
    """
    if numbers.device.type == "cpu":
        return torch.bincount(numbers, minlength=length)
    return _scattered_counts(numbers, length)


def _scattered_counts(numbers: Tensor, length: int) -> Tensor:
    counts = torch.zeros(length, dtype=torch.int64, device=numbers.device)
    return counts.scatter_add_(0, numbers.long(), counts.new_ones(()).expand(len(numbers)))


def _equalize(clips: Tensor, _: Tensor) -> Tensor:
    """Equalise the histogram of each channel of each frame; a constant channel is unchanged."""
    num_pictures = clips.shape[:3].numel()
    levels = clips.to(torch.int32).view(num_pictures, -1)
    levels.add_(torch.arange(0, num_pictures * 256, 256, dtype=torch.int32, device=clips.device).view(-1, 1))
    counts = _counts(levels.view(-1), num_pictures * 256).view(num_pictures, 256)
    below = counts.cumsum(1) - counts
    # Pixels per output level, without those of the brightest level that occurs.
    brightest = counts.gather(1, 255 - (counts > 0).flip(1).int().argmax(1, keepdim=True))
    step = (counts.sum(1, keepdim=True) - brightest) // 255
    identity = torch.arange(256, device=clips.device).expand(num_pictures, 256)
    table = torch.where(step > 0, (step // 2 + below) // step.clamp(min=1), identity).clamp_(max=255)
    return table.float().view(-1).index_select(0, levels.view(-1)).view_as(clips)


def _invert(clips: Tensor, _: Tensor) -> Tensor:
    return clips.neg_().add_(255)


def _posterize(clips: Tensor, num_bits: Tensor) -> Tensor:
    """Keep the `num_bits` most significant of 8 bits."""
    step = torch.full_like(num_bits, 256, dtype=torch.int32) >> num_bits.int()
    return clips.div_(step).floor_().mul_(step)


def _solarize(clips: Tensor, threshold: Tensor) -> Tensor:
    """Invert the pixels at or above `threshold`."""
    return torch.where(clips < threshold, clips, 255 - clips)


def _solarize_add(clips: Tensor, amount: Tensor) -> Tensor:
    """Add `amount` to the pixels below 128."""
    return clips.add_((clips < 128) * amount).clamp_(max=255)


def _grey(clips: Tensor) -> Tensor:
    """ITU-R 601-2 luma, (N, 3, T, H, W) -> (N, 1, T, H, W); Pillow's whole numbers, which float32 holds exactly."""
    red, green, blue = clips.split(1, dim=1)
    luma: Tensor = red * 19595 + green * 38470 + blue * 7471
    return luma.add_(32768).div_(65536).floor_()


def _blend(clips: Tensor, other: Tensor | float, factor: Tensor) -> Tensor:
    """Move away from (factor > 1) or towards (< 1) other clips or a level."""
    return clips.sub_(other).mul_(factor).add_(other).clamp_(0, 255).floor_()


def _color(clips: Tensor, factor: Tensor) -> Tensor:
    """Blend with the grey picture."""
    return _blend(clips, _grey(clips), factor)


def _contrast(clips: Tensor, factor: Tensor) -> Tensor:
    """Blend with the mean grey of each frame."""
    return _blend(clips, _grey(clips).mean((3, 4), keepdim=True).add_(0.5).floor_(), factor)


def _brightness(clips: Tensor, factor: Tensor) -> Tensor:
    """Blend with black."""
    return _blend(clips, 0.0, factor)


def _sharpness(clips: Tensor, factor: Tensor) -> Tensor:
    """Blend with the clip smoothed by a 3 x 3 kernel (ones, 5 in the middle, over 13); edges are unchanged."""
    rows = clips[..., :-2, :] + clips[..., 1:-1, :]
    rows.add_(clips[..., 2:, :])
    smooth = rows[..., :-2] + rows[..., 1:-1]
    smooth.add_(rows[..., 2:])
    inner = clips[..., 1:-1, 1:-1]
    smooth.add_(inner, alpha=4).div_(13).add_(0.5).floor_()
    _blend(inner, smooth, factor)
    return clips


def _cubic_weights(offset: Tensor) -> Tensor:
    """Weights of four neighbours for points `offset` (...) of the way from the second to the third: (..., 4).

    Cubic convolution with a = -1, as in Pillow's transforms.
    """
    square, cube = offset**2, offset**3
    weights = (2 * square - cube - offset, 1 - 2 * square + cube, offset + square - cube, cube - square)
    return torch.stack(weights, -1)


def _neighbours(places: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Pixels next to points (N, H, W) on an axis of `size` px, and their weights: (N, H, W, 4) float32 each.

    Neighbours beyond the edge repeat the edge.
    """
    places = places - 0.5
    first = places.floor()
    pixels = (first[..., None] + torch.arange(-1, 3, device=places.device)).clamp_(0, size - 1)
    return pixels, _cubic_weights(places - first)


def _grid(clips: Tensor) -> tuple[Tensor, Tensor]:
    """Middles of pixels in px from the top left corner: x (W,), y (H, 1)."""
    height, width = clips.shape[-2:]
    x, y = (torch.arange(size, device=clips.device) + 0.5 for size in (width, height))
    return x, y[:, None]


def _sample(clips: Tensor, across: Tensor | None, down: Tensor | None) -> Tensor:
    """Take the pixels of clips (N, 3, T, H, W) at points of x `across` and y `down`, (N, H, W) px each; bicubic.

    None leaves the coordinate as it is, and no neighbours along its axis are read. Points outside the picture are `FILL`.
    """
    count, height, width = len(clips), *clips.shape[-2:]
    x, y = _grid(clips)
    if across is not None:
        outside = (across < 0) | (across >= width)
        columns, weights = _neighbours(across, width)
        places = columns + ((y - 0.5) * width)[..., None]
    if down is not None:
        beyond = (down < 0) | (down >= height)
        rows, high = _neighbours(down, height)
        if across is None:
            outside, weights, places = beyond, high, rows * width + (x - 0.5)[:, None]
        else:
            outside = outside | beyond
            weights = (high[..., :, None] * weights[..., None, :]).flatten(3)
            places = (rows[..., :, None] * width + columns[..., None, :]).flatten(3)
    # Each clip has its own pixels in a table of (places, channels x frames).
    first = torch.arange(0, count * height * width, height * width, device=clips.device).view(-1, 1, 1, 1)
    index = (places.long() + first).flatten(0, 2)
    pixels = clips.flatten(1, 2).flatten(2).transpose(1, 2).flatten(0, 1).contiguous()
    moved = F.embedding_bag(index, pixels, mode="sum", per_sample_weights=weights.flatten(0, 2))
    # Pillow cuts off decimals; weights that sum to 0.9999999 must not take a level away.
    moved = moved.add_(1e-4).clamp_(0, 255).floor_().masked_fill_(outside.view(-1, 1), FILL)
    return moved.unflatten(0, (count, -1)).transpose(1, 2).reshape(clips.shape)


def _rotation(degrees: float, width: int, height: int) -> tuple[float, float, float, float]:
    """Counter-clockwise about the centre: cosine, sine, and the shifts along x and y in px."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return cos, sin, (width - cos * width + sin * height) / 2, (height - sin * width - cos * height) / 2


def _rotate(clips: Tensor, *rotation: Tensor) -> Tensor:
    (x, y), (cos, sin, x0, y0) = _grid(clips), (each[:, 0, 0] for each in rotation)
    return _sample(clips, cos * x - sin * y + x0, sin * x + cos * y + y0)


def _shear_x(clips: Tensor, shift: Tensor) -> Tensor:
    x, y = _grid(clips)
    return _sample(clips, x + shift[:, 0, 0] * y, None)


def _shear_y(clips: Tensor, shift: Tensor) -> Tensor:
    x, y = _grid(clips)
    return _sample(clips, None, shift[:, 0, 0] * x + y)


def _translate_x(clips: Tensor, shift_px: Tensor) -> Tensor:
    x, y = _grid(clips)
    return _sample(clips, (x + shift_px[:, 0, 0]).expand(-1, len(y), -1), None)


def _translate_y(clips: Tensor, shift_px: Tensor) -> Tensor:
    x, y = _grid(clips)
    return _sample(clips, None, (y + shift_px[:, 0, 0]).expand(-1, -1, len(x)))


Operation = Callable[..., Tensor]
Argument = Callable[[float, int], float]


def _none(m: float, sign: int) -> float:
    return 0.0


def _signed(most: float) -> Argument:
    return lambda m, sign: sign * m / 10 * most


def _factor(m: float, sign: int) -> float:
    """1 to 0.1 or to 1.9."""
    return 1 + sign * m / 10 * 0.9


# Each operation, and its argument as a function of the magnitude m in 0..10 and a sign of 1 or -1. Names and functions
# are those of the increasing set of timm's RandAugment ('inc1'), in which a larger m always is a stronger change.
OPERATIONS: dict[str, tuple[Operation, Argument]] = {
    "AutoContrast": (_autocontrast, _none),
    "Equalize": (_equalize, _none),
    "Invert": (_invert, _none),
    "Rotate": (_rotate, _signed(30)),  # degrees
    "PosterizeIncreasing": (_posterize, lambda m, sign: 4 - int(m / 10 * 4)),  # bits kept, 4 to 0
    "SolarizeIncreasing": (_solarize, lambda m, sign: 256 - int(m / 10 * 256)),  # threshold, 256 to 0
    "SolarizeAdd": (_solarize_add, lambda m, sign: int(m / 10 * 110)),  # added below 128, 0 to 110
    "ColorIncreasing": (_color, _factor),
    "ContrastIncreasing": (_contrast, _factor),
    "BrightnessIncreasing": (_brightness, _factor),
    "SharpnessIncreasing": (_sharpness, _factor),
    "ShearX": (_shear_x, _signed(0.3)),
    "ShearY": (_shear_y, _signed(0.3)),
    # Fractions of the width and the height.
    "TranslateXRel": (_translate_x, _signed(0.45)),
    "TranslateYRel": (_translate_y, _signed(0.45)),
}


# For operations that depend on the frame: their numbers from argument, width and height. On the host, in float64.
NUMBERS: dict[str, Callable[[float, int, int], tuple[float, ...]]] = {
    "Rotate": _rotation,
    "TranslateXRel": lambda fraction, width, height: (fraction * width,),
    "TranslateYRel": lambda fraction, width, height: (fraction * height,),
}


@dataclass(frozen=True)
class RandAugment:
    """RandAugment (Cubuk et al. 2020) with the recipe's 'rand-m7-n4-mstd0.5-inc1', before the crop and normalisation.

    `num_ops` operations are drawn for each clip, with replacement, and each is applied with probability `rate`. Its
    magnitude is drawn from Normal(magnitude, std), clipped to 0..10, and converted to an argument by `OPERATIONS`.
    """

    num_ops: int = 4
    magnitude: float = 7.0
    std: float = 0.5
    rate: float = 0.5

    def draw(self, rng: np.random.Generator) -> list[tuple[str, float]]:
        """The operations of one clip, in order, with their arguments."""
        drawn = []
        for name in rng.choice(list(OPERATIONS), self.num_ops):
            applies, sign = rng.random() < self.rate, int(rng.choice((-1, 1)))
            magnitude = min(10.0, max(0.0, rng.normal(self.magnitude, self.std)))
            if applies:
                drawn.append((str(name), OPERATIONS[name][1](magnitude, sign)))
        return drawn

    def __call__(self, clips: Tensor, generator: torch.Generator) -> Tensor:
        """(B, 3, T, H, W) float32 of whole levels, 0 to 255, changed in place.

        The first operations of all clips, then the second ones, and so on, each operation on all its clips at once: a GPU
        takes as long to be asked for one clip as for many.
        """
        rng = _decisions(generator)
        drawn = [self.draw(rng) for _ in clips]
        if not any(drawn):
            return clips
        # The numbers of the clips, one after the other, in one copy to the device.
        numbers = [_numbers(*each, clips) for of_clip in drawn for each in of_clip]
        on_device = send(torch.tensor([float(x) for each in numbers for x in each]), clips.device)
        left = iter(on_device.split([len(each) for each in numbers]))
        numbers_of = [[next(left) for _ in of_clip] for of_clip in drawn]
        for k in range(self.num_ops):
            chosen: dict[str, list[int]] = {}
            for i, of_clip in enumerate(drawn):
                if k < len(of_clip):
                    chosen.setdefault(of_clip[k][0], []).append(i)
            for name, all_clips in chosen.items():
                for group in _groups(all_clips, clips.device):
                    _apply(name, [clips[i] for i in group], torch.stack([numbers_of[i][k] for i in group], 1))
        return clips


def transform(clips: Tensor, name: str, *arguments: float) -> Tensor:
    """An operation on clips (N, 3, T, H, W) with an argument for each; see `OPERATIONS`. May work in place."""
    numbers = torch.tensor([_numbers(name, argument, clips) for argument in arguments], dtype=torch.float32)
    return _operate(clips, name, send(numbers.T, clips.device))


def _operate(clips: Tensor, name: str, numbers: Tensor) -> Tensor:
    """`transform` with the numbers (K, N) that the operation takes, K for each of the N clips."""
    return OPERATIONS[name][0](clips, *numbers.view(-1, len(clips), 1, 1, 1, 1))


def _numbers(name: str, argument: float, clips: Tensor) -> tuple[float, ...]:
    """What an operation takes for a clip: the argument, or what `NUMBERS` makes of it."""
    return NUMBERS[name](argument, clips.shape[-1], clips.shape[-2]) if name in NUMBERS else (argument,)


def _groups(numbers: list[int], device: torch.device) -> list[list[int]]:
    """Clips that get an operation at the same time; one by one on a CPU, where putting them together takes longer."""
    return [[i] for i in numbers] if device.type == "cpu" else [numbers]


def _apply(name: str, clips: list[Tensor], numbers: Tensor) -> None:
    """Change clips (3, T, H, W) in place by an operation, with numbers (K, N) of its own for each of the N clips."""
    together = clips[0][None] if len(clips) == 1 else torch.stack(clips)
    changed = _operate(together, name, numbers)
    if changed is not together or len(clips) > 1:
        torch._foreach_copy_(clips, changed.unbind())
