"""RandAugment (Cubuk et al. 2020) of whole batches on the device, with the operations of the published code (Sec. IV-B).

An operation takes clips (N, 3, T, H, W) float32 with whole levels of 0 to 255, and its argument, or what `NUMBERS` makes of
it, (N, 1, 1, 1, 1) float32. It may work in place; use the returned tensor. Results are whole levels too, rounded as Pillow
does: the published code runs Pillow on each frame, so extremes, means and histograms are those of a frame.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from svfap.data.augment import decisions
from svfap.device import send

FILL = 128.0  # grey that geometric operations show beyond the picture


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
        rng = decisions(generator)
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
