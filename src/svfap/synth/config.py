"""What a synthetic dataset is made from: one frozen record, written beside the data as `synth.json`."""

from __future__ import annotations

from dataclasses import dataclass

from svfap.errors import UserError

CLASSES = ("happy", "sad", "neutral", "angry", "surprise", "disgust", "fear")
AFFECT = ("valence", "arousal", "dominance")
TRAITS = ("openness", "conscientiousness", "extraversion", "agreeableness", "neuroticism")


@dataclass(frozen=True)
class SynthConfig:
    """Size and difficulty of a synthetic face dataset; equal configs give equal datasets.

    size_px: side of the square videos (even, at least 32). fps: frames per second. num_frames: frames per video (at
    least 10). num_pretrain, num_train, num_val, num_test: videos per split. clips_per_identity: videos of one face; the
    classes take turns, so 7 gives each face every class once. nuisance: how far faces, light, background, pose, noise,
    resting face and idle facial movement spread (1 as designed, 0 all but none). expression_gain: multiplies the
    strength of the expressions. seed: everything random derives from it.
    """

    size_px: int = 96
    fps: int = 25
    num_frames: int = 48
    num_pretrain: int = 700
    num_train: int = 140
    num_val: int = 70
    num_test: int = 210
    clips_per_identity: int = 7
    nuisance: float = 1.0
    expression_gain: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        smallest = {"size_px": 32, "fps": 1, "num_frames": 10, "clips_per_identity": 1, "seed": 0}
        smallest |= dict.fromkeys(
            ("num_pretrain", "num_train", "num_val", "num_test", "nuisance", "expression_gain"), 0
        )
        for name, least in smallest.items():
            if not getattr(self, name) >= least:
                raise UserError(f"synth: {name} is {getattr(self, name)}; it must be at least {least}")
        if self.size_px % 2:
            raise UserError(f"synth: size_px is {self.size_px}; H.264 with 4:2:0 colour needs an even size")
