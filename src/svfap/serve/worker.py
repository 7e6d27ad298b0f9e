"""The process that predicts: one video after another, with its progress."""

from __future__ import annotations

import os
import signal
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from svfap.console import keeping_messages
from svfap.errors import UserError, first_line
from svfap.serve.store import OVERLAY, PAGE, RESULTS, TABLE

REPORT_EVERY_S = 0.2


@dataclass(frozen=True)
class Order:
    """A video to predict. folder: of the job. name: of the video in it. settings: as of `Job`, with those of the server."""

    folder: Path
    name: str
    settings: dict[str, Any]
    max_length_s: float


@dataclass(frozen=True)
class Progress:
    """Frames read so far and in all; None: not known."""

    frames: int
    total: int | None


@dataclass(frozen=True)
class Outcome:
    """How an order ended. reason: why it failed, "" if it did not. notes: what was said about the video."""

    reason: str
    notes: list[str]


class TooLong(Exception):
    """A video is longer than it is allowed to be, whatever its header says."""


def work(connection: Connection) -> None:
    """Take orders until the connection ends, and answer each with `Progress` and at last an `Outcome`."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the server ends this process
    import svfap.predict.predictor  # noqa: F401 - takes seconds, ahead of the first order

    while True:
        try:
            order = connection.recv()
            connection.send(carry_out(order, connection.send))
        except (EOFError, OSError):  # the server is gone
            return


def carry_out(order: Order, send: Callable[[Any], None]) -> Outcome:
    """Predict one video into the folder of its job; the table is named as the caller's file, without a path."""
    from svfap.predict.config import PredictConfig
    from svfap.predict.predict import predict_videos

    last = 0.0

    def on_frame(_: str, count: int, total: int | None, fps: float) -> None:
        nonlocal last
        if total != 1 and count / fps > order.max_length_s:
            raise TooLong
        if (now := time.monotonic()) - last > REPORT_EVERY_S or count == total:
            last = now
            send(Progress(count, total))

    settings = dict(order.settings)
    overlay = Path(RESULTS) / OVERLAY if settings.pop("overlay", False) else None
    with keeping_messages() as notes:
        try:
            os.chdir(order.folder)
            out = Path(RESULTS) / TABLE
            config = PredictConfig(
                **settings,
                out=out,
                report=Path(RESULTS) / PAGE,
                overlay=overlay,
                resume=not out.exists(),
                overwrite=out.exists(),
            )
            done = predict_videos(order.name, config, on_frame)
            reason = next(iter(done.failures.values()), "")
        except UserError as error:
            reason = str(error)
        except TooLong:
            reason = f"is longer than {order.max_length_s:.0f} s, which is the most that is taken"
        except (EOFError, BrokenPipeError):
            raise
        except Exception as error:
            traceback.print_exc()
            reason = f"an error of the program ({type(error).__name__}: {first_line(error)})"
    return Outcome(reason.removeprefix(f"{order.name}: "), notes)
