"""Trainings that a signal stops in the middle."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count

import pytest

from svfap.train.loop import TrainingRun


@contextmanager
def stopped_in_step(number: int) -> Iterator[None]:
    """A block in which SIGTERM comes in the optimiser step of that number, from 1, of those done within it."""
    real, steps = TrainingRun._accumulate, count(1)

    def stopping(*args):
        if next(steps) == number:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(*args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainingRun, "_accumulate", stopping)
        yield
