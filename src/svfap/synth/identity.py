"""The identity of a synthetic face: proportions, colours, and habits such as talkativeness."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

SKIN_TONES = np.array([(247, 217, 196), (232, 190, 160), (212, 162, 124), (176, 122, 84), (128, 84, 56), (86, 56, 40)])
HAIR_COLOURS = np.array(
    [(26, 22, 22), (52, 34, 26), (92, 60, 36), (140, 98, 54), (206, 168, 104), (150, 66, 30), (168, 166, 164)]
)
IRIS_COLOURS = np.array([(70, 44, 26), (104, 74, 40), (88, 110, 70), (84, 124, 160), (110, 116, 122)])
# Mean and greatest deviation of the proportions, in the order in which they are drawn.
PROPORTIONS = {
    **{"head_width": (0.76, 0.07), "jaw_taper": (0.24, 0.1), "jaw_square": (0.86, 0.1), "eye_x": (0.325, 0.035)},
    **{"eye_y": (-0.13, 0.04), "eye_width": (0.165, 0.02), "eye_open": (0.078, 0.017), "eye_tilt": (-0.01, 0.03)},
    **{
        "brow_y": (-0.365, 0.045),
        "brow_slope": (0.0, 0.05),
        "brow_arch": (0.05, 0.03),
        "brow_thickness": (0.024, 0.01),
    },
    **{"nose_width": (0.13, 0.03), "nose_y": (0.25, 0.04), "mouth_y": (0.55, 0.04), "mouth_width": (0.25, 0.035)},
    **{"mouth_curve": (0.0, 0.035), "lip_thickness": (0.05, 0.017), "hair_volume": (0.14, 0.06)},
    **{"hairline_y": (-0.66, 0.1)},
}
MALE_PROPORTIONS = PROPORTIONS | {"brow_thickness": (0.034, 0.01)}


@dataclass(frozen=True)
class Identity:
    """One face. Lengths are in face units: half the height of the head is 1; x right, y down, origin mid-face.

    Colours are float RGB in 0..255; `fullness` of hair, beard and the like is in [0, 1].
    """

    skin: np.ndarray
    hair: np.ndarray
    iris: np.ndarray
    lips: np.ndarray
    cloth: np.ndarray
    head_width: float
    jaw_taper: float
    jaw_square: float
    eye_x: float
    eye_y: float
    eye_width: float
    eye_open: float
    eye_tilt: float
    brow_y: float
    brow_slope: float
    brow_arch: float
    brow_thickness: float
    nose_width: float
    nose_y: float
    mouth_y: float
    mouth_width: float
    mouth_curve: float
    lip_thickness: float
    hair_style: str  # "none", "short", "curly", "long"
    hair_volume: float
    hairline_y: float
    parting: float
    beard: float
    moustache: float
    glasses: str  # "none", "round", "square"
    age: float
    asymmetry: float
    expressiveness: float
    talkativeness: float
    blink_rate: float  # per second
    liveliness: float


def make_identity(seed: int, nuisance: float = 1.0) -> Identity:
    """The face of `seed`, the same at every call. `nuisance` scales how far its proportions deviate from the average."""
    rng = np.random.default_rng([seed, 0])
    tone = rng.uniform(0, len(SKIN_TONES) - 1)
    skin = np.array([np.interp(tone, range(len(SKIN_TONES)), channel) for channel in SKIN_TONES.T])
    hair = HAIR_COLOURS[rng.choice(len(HAIR_COLOURS), p=(0.26, 0.22, 0.18, 0.1, 0.1, 0.06, 0.08))]
    redness, male = rng.uniform(0.25, 0.75), rng.random() < 0.5
    style = rng.choice(["none", "short", "curly", "long"], p=(0.2, 0.5, 0.2, 0.1) if male else (0.02, 0.18, 0.2, 0.6))
    bearded = male and rng.random() < 0.5
    proportions = MALE_PROPORTIONS if male else PROPORTIONS
    return Identity(
        skin=skin,
        hair=hair + rng.uniform(-10, 14, 3),
        iris=IRIS_COLOURS[rng.integers(len(IRIS_COLOURS))].astype(float),
        lips=skin * (1 - redness) + skin * np.array((0.88, 0.52, 0.52)) * redness,
        cloth=rng.uniform(30, 220, 3),
        **{name: mean + most * nuisance * rng.uniform(-1.0, 1.0) for name, (mean, most) in proportions.items()},
        hair_style=str(style),
        parting=rng.uniform(-1, 1),
        beard=rng.uniform(0.25, 0.95) if bearded and rng.random() < 0.75 else 0.0,
        moustache=rng.uniform(0.5, 1.0) if bearded and rng.random() < 0.7 else 0.0,
        glasses=str(rng.choice(["none", "round", "square"], p=(0.72, 0.14, 0.14))),
        age=rng.uniform(0, 1),
        asymmetry=rng.uniform(-0.15, 0.15) * nuisance,
        expressiveness=rng.uniform(0.75, 1.0),
        talkativeness=rng.uniform(0.1, 0.75),
        blink_rate=rng.uniform(0.1, 1.1),
        liveliness=rng.uniform(0.2, 1.0),
    )
