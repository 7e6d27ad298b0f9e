"""Write `preprocessing.npz`, `preprocessing.json` and `initial_weights.json`, as README.md in this folder describes.

    python tests/golden/write_preprocessing.py

Uses Pillow, which the published code runs on its frames, and NumPy; nothing of this package.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from math import prod, sqrt
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageOps

HERE = Path(__file__).resolve().parent
Pixels = NDArray[np.uint8]
Picture = Image.Image
SIZE = 32
CROP = (12, 8, 47, 35)  # left, top, width, height of a box of pre-training
BOX = (5, 3, 17, 20)  # the same of a fine-tuning crop, in the squashed frame
OPERATIONS_OF_A_CLIP = (("Rotate", 21.0), ("ColorIncreasing", 1.63), ("SolarizeAdd", 77))
MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
GREY = (128, 128, 128)
# Width, height and size of the output.
MULTI_SCALE_CASES = ((224, 224, 160), (160, 160, 160), (150, 130, 64), (171, 123, 64), (100, 140, 64))
MULTI_SCALES = (1, 0.875, 0.75, 0.66)


def frames() -> Pixels:
    """Two frames, 54 x 75 px, from an integer formula: waves, a fine grating and a gradient in each channel."""
    t, y, x, c = np.ogrid[:2, :54, :75, :3]
    return (((x * (c + 2) + y * 3 + 40 * t) % 151) + 13 * ((x + y * (c + 1)) % 3) + y + 10 * t).astype(np.uint8)


def bilinear(picture: Picture) -> Picture:
    return picture.resize((SIZE, SIZE), Image.Resampling.BILINEAR)


def affine(*coefficients: float) -> Callable[[Picture], Picture]:
    def transform(picture: Picture) -> Picture:
        return picture.transform(
            picture.size, Image.Transform.AFFINE, coefficients, Image.Resampling.BICUBIC, fillcolor=GREY
        )

    return transform


def solarize_add(picture: Picture, amount: int) -> Picture:
    return picture.point([min(255, i + amount) if i < 128 else i for i in range(256)] * 3)


def operation(name: str, value: Any) -> Callable[[Picture], Picture]:
    """An operation of RandAugment on one frame, as the published code calls Pillow."""
    return {
        "AutoContrast": lambda p: ImageOps.autocontrast(p),
        "Equalize": lambda p: ImageOps.equalize(p),
        "Invert": lambda p: ImageOps.invert(p),
        "Rotate": lambda p: p.rotate(value, Image.Resampling.BICUBIC, fillcolor=GREY),
        "PosterizeIncreasing": lambda p: ImageOps.posterize(p, int(value)),
        "SolarizeIncreasing": lambda p: ImageOps.solarize(p, value),
        "SolarizeAdd": lambda p: solarize_add(p, int(value)),
        "ColorIncreasing": lambda p: ImageEnhance.Color(p).enhance(value),
        "ContrastIncreasing": lambda p: ImageEnhance.Contrast(p).enhance(value),
        "BrightnessIncreasing": lambda p: ImageEnhance.Brightness(p).enhance(value),
        "SharpnessIncreasing": lambda p: ImageEnhance.Sharpness(p).enhance(value),
        "ShearX": affine(1, value, 0, 0, 1, 0),
        "ShearY": affine(1, 0, 0, value, 1, 0),
        "TranslateXRel": affine(1, 0, value * SIZE, 0, 1, 0),
        "TranslateYRel": affine(1, 0, 0, 0, 1, value * SIZE),
    }[name]


# Each operation with its arguments at the magnitude 7, in both directions where it has two.
ENHANCE, SHEAR, TRANSLATE = (1.63, 0.37), (0.21, -0.21), (0.315, -0.315)
ARGUMENTS: dict[str, tuple[float, ...]] = {
    **dict.fromkeys(("AutoContrast", "Equalize", "Invert"), (0,)),
    **{"Rotate": (21.0, -21.0), "PosterizeIncreasing": (2,), "SolarizeIncreasing": (77,), "SolarizeAdd": (77,)},
    **dict.fromkeys(("ColorIncreasing", "ContrastIncreasing", "BrightnessIncreasing", "SharpnessIncreasing"), ENHANCE),
    **{"ShearX": SHEAR, "ShearY": SHEAR, "TranslateXRel": TRANSLATE, "TranslateYRel": TRANSLATE},
}


def on_each(pictures: Pixels, change: Callable[[Picture], Picture]) -> Pixels:
    return np.stack([np.asarray(change(Image.fromarray(picture))) for picture in pictures])


def line(values: NDArray[np.float64], size: int) -> NDArray[np.float64]:
    """Linear interpolation along the last axis, pixel centres at k + 0.5, edges repeated, no antialiasing."""
    length = values.shape[-1]
    places = np.clip((np.arange(size) + 0.5) * length / size - 0.5, 0, length - 1)
    below = np.floor(places).astype(int)
    above = np.minimum(below + 1, length - 1)
    return values[..., below] * (1 - (places - below)) + values[..., above] * (places - below)


def augmented(squashed: Pixels) -> NDArray[np.float64]:
    """A clip of fine-tuning, (3, T, SIZE, SIZE): RandAugment, normalised, cropped and enlarged, mirrored."""
    pictures = squashed
    for name, value in OPERATIONS_OF_A_CLIP:
        pictures = on_each(pictures, operation(name, value))
    clip = ((pictures / 255 - MEAN) / STD).transpose(3, 0, 1, 2)
    left, top, width, height = BOX
    box = clip[..., top : top + height, left : left + width]
    enlarged = line(line(box, SIZE).swapaxes(-1, -2), SIZE).swapaxes(-1, -2)
    return enlarged[..., ::-1]


def multi_scale_boxes(width: int, height: int, size: int) -> list[list[int]]:
    """All boxes (left, top, width, height) that pre-training chooses from with equal probability; some occur twice."""
    sides = [int(min(width, height) * scale) for scale in MULTI_SCALES]
    sides = [size if abs(side - size) < 3 else side for side in sides]
    boxes = []
    for i, h in enumerate(sides):
        for j, w in enumerate(sides):
            if abs(i - j) <= 1:
                dx, dy = (width - w) // 4, (height - h) // 4
                edges = [(0, 0), (4, 0), (0, 4), (4, 4), (2, 2), (0, 2), (4, 2), (2, 4), (2, 0)]
                quarters = [(1, 1), (3, 1), (1, 3), (3, 3)]
                boxes += [[a * dx, b * dy, w, h] for a, b in edges + quarters]
    return boxes


def initial(name: str, shape: list[int], pretraining: bool) -> dict[str, float]:
    """The distribution of a parameter of the published model before training.

    `uniform`: half the width of a uniform distribution about 0. `normal`: the deviation of a normal one about 0; `cut`:
    where it ends. `constant`: all values.
    """
    module, _, kind = name.rpartition(".")
    if name == "mask_token":
        return {"normal": 0.02, "cut": 0.02}
    if "norm" in module.rpartition(".")[2]:
        return {"constant": 1.0 if kind == "weight" else 0.0}
    if module.endswith("patch_embed.proj") or "temporal_downsamples" in module or module == "encoder_to_decoder":
        return {"uniform": 0.0}  # PyTorch's default of convolutions and linear layers; completed by `main`
    if kind != "weight":
        return {"constant": 0.0}
    if pretraining:
        return {"uniform": sqrt(6 / (shape[0] + shape[1]))}
    return {"normal": 0.02 * (0.001 if module == "head" else 1), "cut": 2.0 * (0.001 if module == "head" else 1)}


def main() -> None:
    shown = frames()
    squashed = on_each(shown, bilinear)
    left, top, width, height = CROP
    arrays = {
        "squashed": squashed,
        "enlarged": on_each(shown, lambda p: p.resize((96, 96), Image.Resampling.BILINEAR)),
        "cropped": on_each(shown[:, top : top + height, left : left + width], bilinear),
        "augmented": augmented(squashed).astype(np.float32),
    }
    for name, values in ARGUMENTS.items():
        for value in values:
            arrays[f"{name} {value}"] = on_each(squashed, operation(name, value))
    np.savez_compressed(HERE / "preprocessing.npz", **arrays)  # type: ignore[arg-type]
    cases = [{"case": case, "boxes": multi_scale_boxes(*case)} for case in MULTI_SCALE_CASES]
    lines = ",\n".join(json.dumps(case) for case in cases)
    (HERE / "preprocessing.json").write_text(f'{{"multi_scale_crop": [\n{lines}\n]}}\n')

    given = json.loads((HERE / "checkpoints.json").read_text())
    weights: dict[str, dict[str, dict[str, float]]] = {}
    for kind in ("finetune", "pretrain"):
        shapes = given[kind]["shapes"]
        weights[kind] = {name: initial(name, shape, kind == "pretrain") for name, shape in shapes.items()}
        for name, how in weights[kind].items():
            if "uniform" in how and not how["uniform"]:
                how["uniform"] = prod(shapes[name.rpartition(".")[0] + ".weight"][1:]) ** -0.5
    (HERE / "initial_weights.json").write_text(json.dumps(weights, indent=1) + "\n")


if __name__ == "__main__":
    main()
