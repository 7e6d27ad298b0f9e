"""Augmentation of whole batches on the device, the same for all frames of a clip (Sec. IV-B).

Operations and their order are those of the published code; `docs/paper_map.md` lists the differences. Fine-tuning augments in
place: `rand_augment.RandAugment` on the frames at the model's size, `standardize`, `random_resized_crop`, `flip`,
`random_erase`, `mix`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

Range = tuple[float, float]
CROP_RATIO = (0.75, 1.3333)  # width / height


def decisions(generator: torch.Generator) -> np.random.Generator:
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


def _draw_sides(rng: np.random.Generator, area: float, scale: Range, ratio: Range) -> tuple[int, int]:
    """Sides (a, b) of a box of `scale` times `area`, with a / b log-uniform in `ratio`."""
    area = rng.uniform(*scale) * area
    shape = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
    return round(math.sqrt(area * shape)), round(math.sqrt(area / shape))


def random_resized_crop(clips: Tensor, scale: Range, generator: torch.Generator, ratio: Range = CROP_RATIO) -> Tensor:
    """The fine-tuning crop, in place: a random box of each clip, enlarged to the whole frame. (B, 3, T, H, W) float.

    The box has `scale` times the frame's area and width / height log-uniform in `ratio`. After 10 draws that do not fit:
    the largest centred box with a ratio within `ratio`. Bilinear.
    """
    rng = decisions(generator)
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
    for clip, chosen in zip(clips, decisions(generator).random(len(clips)) < rate, strict=True):
        if chosen:
            clip.copy_(clip.flip(-1))
    return clips


def random_erase(clips: Tensor, rate: float, generator: torch.Generator) -> Tensor:
    """Random erasing (Zhong et al. 2020), in place: with probability `rate` a box of a clip is replaced by N(0, 1) noise.

    The box has 0.02 to 1/3 of the frame's area and height / width log-uniform in 0.3 to 1 / 0.3; it is the same in all
    frames, and the noise is drawn for each pixel of each frame. Of up to 100 boxes drawn, the first that fits is taken.
    For normalised clips (B, 3, T, H, W) float.
    """
    rng = decisions(generator)
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
    clips: Tensor, targets: Sequence[Tensor], mixup: float, cutmix: float, switch: float, generator: torch.Generator
) -> tuple[Tensor, list[Tensor]]:
    """Mixup (Zhang et al. 2018) or CutMix (Yun et al. 2019) of a batch with itself in reverse order.

    In a batch of odd size the middle three clips are mixed in a circle, so no clip is mixed with itself unless it is alone.

    The weight of a clip is drawn from Beta(mixup, mixup) or Beta(cutmix, cutmix), once for the batch. CutMix is chosen with
    probability `switch`; if one of the two parameters is 0 the other method is always used, and if both are, neither. For
    CutMix the weight is then the area outside the box, which is clipped at the edges of the frame. `clips` (B, 3, T, H, W)
    float is changed in place; `targets`, each (B, ..., K) float, are returned as new tensors, NaN where either is.
    """
    rng = decisions(generator)
    use_cutmix = cutmix > 0 and (mixup == 0 or rng.random() < switch)
    alpha = cutmix if use_cutmix else mixup
    if alpha == 0:
        return clips, list(targets)
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
    return clips, [each * share + each[partners] * (1 - share) for each in targets]


def _partners(count: int, device: torch.device) -> Tensor:
    """The clip that each of `count` clips is mixed with, (count,) int64: without fixed points from 2 clips on.

    Made on the device: a list of numbers would have to be copied to it.
    """
    order = torch.arange(count - 1, -1, -1, device=device)
    if count % 2 and count > 1:
        middle = count // 2
        order[middle - 1 : middle + 1] = torch.arange(middle, middle + 2, device=device)
    return order
