"""Training reproduces the stored losses, bit by bit with the same libraries and processor as when they were stored."""

from __future__ import annotations

import json

import losses
import pytest


@pytest.mark.parametrize(
    ("length", "num_steps"), [("short", (8, 6)), pytest.param("long", (40, 21), marks=pytest.mark.slow)]
)
def test_training_reproduces_the_stored_losses(length, num_steps):
    stored, found = json.loads(losses.STORED.read_text()), losses.in_subprocess(length)
    exact = found["machine"] == stored["machine"]
    for phase, steps in zip(("pretrain", "finetune"), num_steps, strict=True):
        assert len(found[length][phase]["loss"]) == steps
        for name, values in stored[length][phase].items():
            expected = values if exact else pytest.approx(values, rel=1e-3)
            assert found[length][phase][name] == expected, f"{phase}: {name}"
