"""Training reproduces the stored losses, bit by bit with the same libraries and processor as when they were stored."""

from __future__ import annotations

import json

import losses
import pytest


def test_training_reproduces_the_stored_losses():
    stored, found = json.loads(losses.STORED.read_text()), losses.in_subprocess()
    exact = found["machine"] == stored["machine"]
    for phase, num_steps in (("pretrain", 40), ("finetune", 21)):
        assert len(found[phase]["loss"]) == num_steps
        for name, values in stored[phase].items():
            expected = values if exact else pytest.approx(values, rel=1e-3)
            assert found[phase][name] == expected, f"{phase}: {name}"
