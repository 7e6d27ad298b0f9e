"""Synthetic faces: procedural videos with known expressions, for demos, tests and learning experiments.

Scores on them say nothing about real faces.
"""

from svfap.data.synth.behaviour import ACTION_UNITS, AFFECT_PROTOTYPES, PROTOTYPES, Behaviour, make_behaviour
from svfap.data.synth.camera import render_clip
from svfap.data.synth.config import AFFECT, CLASSES, TRAITS, SynthConfig
from svfap.data.synth.dataset import write_dataset
from svfap.data.synth.identity import Identity, make_identity

__all__ = [
    "ACTION_UNITS",
    "AFFECT",
    "AFFECT_PROTOTYPES",
    "CLASSES",
    "PROTOTYPES",
    "TRAITS",
    "Behaviour",
    "Identity",
    "SynthConfig",
    "make_behaviour",
    "make_identity",
    "render_clip",
    "write_dataset",
]
