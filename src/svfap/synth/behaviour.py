"""The behaviour of a face in a clip: action units, blinks, talk, gaze and head pose; and the labels that follow from them.

Expressions are weighted sums of facial action units (AUs; Ekman & Friesen, Facial Action Coding System, 1978). The
combinations are the EMFACS prototypes as also used to label CK+ (Lucey et al., CVPR workshops 2010): happiness 6+12,
sadness 1+4+15, surprise 1+2+5+26, fear 1+2+4+5+20+26, anger 4+5+7+23, disgust 9+15+16; with added units that the
same tables list as variants (25 with 6+12, 17 with 1+4+15, 10 with 9). The weights are chosen for these drawings.

Only the order of frames separates surprise from fear. Both use fear's units with the same weights; surprise has a fast onset
and a slow offset, and fear is its time reversal. So single frames of the two classes have the same distribution. (On real
faces the speed of onset differs too, but units 4 and 20 also help.) For every other class the direction is random, so that it
carries no information.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from svfap.synth.config import RenderConfig
from svfap.synth.drawing import FACE_SCALE
from svfap.synth.identity import Identity

ACTION_UNITS = (1, 2, 4, 5, 6, 7, 9, 10, 12, 15, 16, 17, 20, 23, 25, 26)
_FEAR = {1: 1.0, 2: 0.8, 4: 0.35, 5: 1.0, 20: 0.55, 25: 0.8, 26: 0.6}
PROTOTYPES: dict[str, dict[int, float]] = {
    "happy": {6: 0.9, 12: 1.0, 25: 0.5},
    "sad": {1: 1.0, 4: 0.6, 15: 1.0, 17: 0.6},
    "neutral": {},
    "angry": {4: 1.0, 5: 0.25, 7: 0.8, 23: 1.0},
    "surprise": _FEAR,
    "disgust": {9: 1.0, 10: 0.9, 15: 0.35, 16: 0.4, 25: 0.2},
    "fear": _FEAR,
}

# Valence, arousal, dominance in [-1, 1] after Russell & Mehrabian (J. Research in Personality 11, 1977), approximate.
AFFECT_PROTOTYPES: dict[str, tuple[float, float, float]] = {
    "happy": (0.81, 0.51, 0.46),
    "sad": (-0.63, -0.27, -0.33),
    "neutral": (0.0, 0.0, 0.0),
    "angry": (-0.51, 0.59, 0.25),
    "surprise": (0.40, 0.67, -0.13),
    "disgust": (-0.60, 0.35, 0.11),
    "fear": (-0.64, 0.60, -0.43),
}


@dataclass(frozen=True)
class Behaviour:
    """Movement and labels of one clip. All arrays are float64, with T frames.

    intensity (T,): the expression's envelope in [0, 1]. expression (T, K): AU intensities of the class alone, columns
    as ACTION_UNITS. action_units (T, K): the same with idle movement and talk. blink (T,): closure in [0, 1]. talk (T,)
    loudness in [0, 1]. gaze (T, 2). pose (T, 6): shift x, shift y (in face units), log scale, roll, yaw, pitch (radian).
    frame_values (T, 3) and values (3,): valence, arousal, dominance per frame, and at the strongest frame. traits (5,):
    in [0, 1], order as TRAITS.
    """

    label: str
    intensity: np.ndarray
    expression: np.ndarray
    action_units: np.ndarray
    blink: np.ndarray
    talk: np.ndarray
    gaze: np.ndarray
    pose: np.ndarray
    frame_values: np.ndarray
    values: np.ndarray
    traits: np.ndarray


def make_behaviour(config: RenderConfig, identity: Identity, clip_seed: int, label: str) -> Behaviour:
    """Draw at random how `identity` behaves in one clip. The draws do not depend on the label, only the expression does.

    Raises KeyError for a label that is not in CLASSES.
    """
    rng = np.random.default_rng([clip_seed, 1])
    num_frames, fps = config.num_frames, config.fps
    intensity = _envelope(num_frames, fps, rng)
    backwards = rng.random() < 0.5
    if label == "fear" or (label != "surprise" and backwards):
        intensity = intensity[::-1].copy()
    intensity = intensity * identity.expressiveness * rng.uniform(0.75, 1.0)
    variation = rng.uniform(0.75, 1.1, len(ACTION_UNITS))
    prototype = np.array([PROTOTYPES[label].get(unit, 0.0) for unit in ACTION_UNITS])
    expression = np.clip(intensity[:, None] * prototype * variation * config.expression_gain, 0.0, 1.2)
    if label == "neutral":
        intensity = np.zeros_like(intensity)

    idle = 0.09 * config.nuisance * _smooth_noise(rng, num_frames, len(ACTION_UNITS), 0.35 * fps)
    units = np.maximum(expression + np.maximum(idle, 0.0), 0.0)
    talk = _talk(num_frames, fps, identity.talkativeness, rng)
    syllables = 0.5 + 0.5 * np.sin(2 * np.pi * (np.arange(num_frames) / fps * rng.uniform(3, 5) + rng.random()))
    mouth = talk * syllables * min(config.nuisance, 1.5)
    units[:, ACTION_UNITS.index(25)] += 0.45 * mouth
    units[:, ACTION_UNITS.index(26)] += 0.28 * mouth

    blink = _blinks(num_frames, fps, identity.blink_rate, rng)
    gaze = np.clip(0.4 * _smooth_noise(rng, num_frames, 2, 0.3 * fps) + rng.uniform(-0.5, 0.5, 2), -1.0, 1.0)
    spread = np.array([0.10, 0.08, 0.07, 0.09, 0.26, 0.16]) * config.nuisance
    moving = np.array([0.035, 0.03, 0.015, 0.03, 0.07, 0.05]) * config.nuisance * 2.0 * identity.liveliness
    pose = rng.uniform(-1, 1, 6) * spread + _smooth_noise(rng, num_frames, 6, 0.4 * fps) * moving
    placed = np.random.default_rng([clip_seed, 3]).uniform(-1, 1, 2)  # its own generator: other draws stay as they are
    pose[:, :2] += placed * config.placement / FACE_SCALE

    frame_values = intensity[:, None] * np.array(AFFECT_PROTOTYPES[label])
    values = frame_values[int(intensity.argmax())]
    traits = _traits(units, blink, talk, pose, fps)
    return Behaviour(label, intensity, expression, units, blink, talk, gaze, pose, frame_values, values, traits)


def _traits(units: np.ndarray, blink: np.ndarray, talk: np.ndarray, pose: np.ndarray, fps: int) -> np.ndarray:
    """Five numbers in [0, 1] from visible behaviour, in the order of TRAITS. Invented for learning: no claim about real people.

    They depend on the rate of blinks, the duration of talk, smiles and frowns, the range of expression, and head movement.
    """
    mean = dict(zip(ACTION_UNITS, units.mean(0), strict=True))
    spread = np.sqrt((units.std(0) ** 2).sum())
    blinks = ((blink[1:] > 0.5) & (blink[:-1] <= 0.5)).sum() * fps / len(blink)
    motion = np.abs(np.diff(pose[:, 2:], axis=0)).sum(1).mean() * fps
    talking = talk.mean()
    smile, frown, brows = mean[6] + mean[12], mean[4] + mean[9] + mean[23], mean[1] + mean[2]
    scores = (
        2.0 * (spread - 0.55) + 2.0 * (brows - 0.25) + 0.8 * (talking - 0.3),
        -1.2 * (motion - 0.75) - 0.9 * (blinks - 0.5) - 0.8 * (spread - 0.55),
        2.6 * (talking - 0.3) + 1.5 * (smile - 0.25) + 0.6 * (motion - 0.75),
        3.0 * (smile - 0.25) - 2.5 * (frown - 0.3) - 0.5 * (talking - 0.3),
        1.3 * (blinks - 0.5) + 2.0 * (mean[4] + mean[15] + mean[20] - 0.3) - 1.5 * (smile - 0.25),
    )
    return 1.0 / (1.0 + np.exp(-1.5 * np.array(scores)))


def _envelope(num_frames: int, fps: int, rng: np.random.Generator) -> np.ndarray:
    """Intensity (T,): one fast onset, short apex and slow offset at a random time, compressed if the clip is too short."""
    onset, apex, offset = rng.uniform(0.10, 0.18), rng.uniform(0.1, 0.3), rng.uniform(0.6, 1.0)
    length = (onset + apex + offset) * fps
    squeeze = max(1.0, length / (0.9 * num_frames))
    start = rng.uniform(0.0, num_frames - 1 - length / squeeze)
    seconds = (np.arange(num_frames) - start) / fps * squeeze
    rise, fall = np.clip(seconds / onset, 0, 1), np.clip((seconds - onset - apex) / offset, 0, 1)
    return np.sin(0.5 * np.pi * rise) ** 2 * np.cos(0.5 * np.pi * fall) ** 2


def _smooth_noise(rng: np.random.Generator, num_frames: int, num_columns: int, sigma: float) -> np.ndarray:
    """Stationary Gaussian noise (T, columns) of unit variance, smoothed over `sigma` frames. Time-reversible."""
    radius = int(3 * sigma) + 1
    kernel = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    white = rng.standard_normal((num_frames + 2 * radius, num_columns))
    windows = np.lib.stride_tricks.sliding_window_view(white, len(kernel), axis=0)
    return windows @ (kernel / np.sqrt((kernel**2).sum()))


def _blinks(num_frames: int, fps: int, rate: float, rng: np.random.Generator) -> np.ndarray:
    """Lid closure (T,): a Poisson number of blinks, `rate` per second, each of a quarter of a second."""
    times = np.arange(num_frames) / fps
    centres = rng.uniform(0.0, times[-1], rng.poisson(rate * num_frames / fps))
    distance = np.abs(times[:, None] - centres).min(axis=1, initial=np.inf)
    return np.clip(1.5 - distance / 0.08, 0.0, 1.0)


def _talk(num_frames: int, fps: int, share: float, rng: np.random.Generator) -> np.ndarray:
    """Loudness (T,) of talk in bursts, which fill about `share` of the time."""
    drive = _smooth_noise(rng, num_frames, 1, 0.25 * fps)[:, 0] + 2.2 * (share - 0.5)
    return np.clip(1.5 * drive, 0.0, 1.0) * rng.uniform(0.6, 1.0)
