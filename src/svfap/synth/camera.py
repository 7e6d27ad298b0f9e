"""From shapes to pixels: background, light, lens and sensor of one clip."""

from __future__ import annotations

import cv2
import numpy as np

from svfap.synth.behaviour import Behaviour, make_behaviour
from svfap.synth.config import RenderConfig
from svfap.synth.drawing import Drawing
from svfap.synth.face import SyntheticFace
from svfap.synth.identity import make_identity

_TEMPLATE_PX, _TEMPLATE_UNITS = 64, 5.0


def render_clip(config: RenderConfig, identity_seed: int, clip_seed: int, label: str) -> tuple[np.ndarray, Behaviour]:
    """Frames uint8 RGB (num_frames, size_px, size_px, 3) of one face in one clip, and its behaviour with all labels.

    identity_seed determines the face, clip_seed what happens and how it is filmed. Equal arguments give equal pixels. Raises
    KeyError for a label that is not in CLASSES.
    """
    identity = make_identity(identity_seed, config.nuisance)
    behaviour = make_behaviour(config, identity, clip_seed, label)
    rng = np.random.default_rng([clip_seed, 2])
    size = config.size_px
    canvas_size = size * 2 if size <= 112 else size
    drawing = Drawing(behaviour.pose, canvas_size)
    SyntheticFace(identity, behaviour, drawing).draw()

    light = _light(config.nuisance, rng)
    half = canvas_size // 2
    to_half = drawing.head_affines(_TEMPLATE_PX, _TEMPLATE_UNITS) * 0.5
    gains = np.exp(config.nuisance * (rng.uniform(-0.28, 0.14) + rng.uniform(-0.09, 0.09, 3)))
    background = _background(canvas_size, config.nuisance, rng)
    softness = max(0.02 * half, 0.6)
    defocus = config.nuisance * rng.uniform(0.0, 0.006) * size
    noise = rng.normal(0.0, config.nuisance * rng.uniform(0.5, 3.0), (2 * size, 2 * size, 3)).astype(np.int16)
    corners = rng.integers(0, size, (config.num_frames, 2))

    frames = np.empty((config.num_frames, size, size, 3), np.uint8)
    for index in range(config.num_frames):
        canvas = background.copy()
        for shape in drawing.flat:
            shape.draw(canvas, index)
        soft = np.full((half, half), 128, np.uint8)
        for shape in drawing.soft:
            shape.draw(soft, index)
        soft = cv2.GaussianBlur(soft, (0, 0), softness)
        sphere = cv2.warpAffine(light, to_half[index], (half, half), borderMode=cv2.BORDER_REPLICATE)
        soft = cv2.multiply(soft, sphere, scale=1 / 128)
        soft = cv2.resize(soft, (canvas_size, canvas_size), interpolation=cv2.INTER_LINEAR)
        canvas = cv2.multiply(canvas, cv2.cvtColor(soft, cv2.COLOR_GRAY2RGB), scale=1 / 128)
        if canvas_size != size:
            canvas = cv2.resize(canvas, (size, size), interpolation=cv2.INTER_AREA)
        if defocus > 0.3:
            canvas = cv2.GaussianBlur(canvas, (0, 0), defocus)
        top, left = corners[index]
        grain = noise[top : top + size, left : left + size]
        cv2.add(cv2.multiply(canvas, (*gains, 0.0)), grain, dst=frames[index], dtype=cv2.CV_8U)
    return frames, behaviour


def _light(nuisance: float, rng: np.random.Generator) -> np.ndarray:
    """Lambert shading uint8 (side, side), 128 for unchanged, of a head-sized ellipsoid lit from a random direction."""
    azimuth, height = rng.uniform(0, 2 * np.pi), rng.uniform(0.35, 0.9)
    strength = 0.3 + nuisance * rng.uniform(-0.2, 0.35)
    direction = np.array([np.cos(azimuth) * (1 - height), -abs(np.sin(azimuth)) * (1 - height), height])
    direction /= np.linalg.norm(direction)
    axis = (np.arange(_TEMPLATE_PX) + 0.5) / _TEMPLATE_PX * _TEMPLATE_UNITS - 0.5 * _TEMPLATE_UNITS
    x, y = np.meshgrid(axis / 0.95, axis / 1.25)
    radius = np.hypot(x, y)
    squash = np.minimum(1.0, 0.93 / np.maximum(radius, 1e-6))
    x, y = x * squash, y * squash
    lambert = x * direction[0] + y * direction[1] + np.sqrt(1 - x**2 - y**2) * direction[2]
    fade = np.exp(-np.maximum(radius - 0.93, 0.0) * 1.5)
    shading = 1 + strength * (1.6 * np.maximum(lambert, 0.0) - 1.15) * fade
    return np.clip(128 * shading, 0, 255).astype(np.uint8)


def _background(size: int, nuisance: float, rng: np.random.Generator) -> np.ndarray:
    """A blurred room, uint8 (size, size, 3): a colour gradient with a few soft shapes."""
    corners = rng.uniform(20, 230, (2, 2, 1)) + rng.uniform(-40, 40, (2, 2, 3))
    image = cv2.resize(np.clip(corners, 0, 255).astype(np.float32), (size, size), interpolation=cv2.INTER_LINEAR)
    for _ in range(rng.integers(2, 8)):
        points = (rng.uniform(0, size, 2) + rng.normal(0, 0.3 * size, (4, 2))).astype(np.int32)
        cv2.fillPoly(image, [cv2.convexHull(points)], tuple(rng.uniform(10, 240, 3)))
    image = cv2.GaussianBlur(image, (0, 0), size * rng.uniform(0.008, 0.05))
    image = 128 + min(nuisance, 1.0) * (image - 128)
    return np.clip(image, 0, 255).astype(np.uint8)
