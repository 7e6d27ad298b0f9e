"""The process that predicts: one video after another, with its progress."""

from __future__ import annotations

import os
import signal
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import parent_process
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from svfap.console import keeping_messages
from svfap.data.ffmpeg import limit_pictures
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
    max_megapixels: float


@dataclass(frozen=True)
class Progress:
    """Frames read so far and in all, and seconds since the first; total None: not known."""

    frames: int
    total: int | None
    seconds: float = 0.0


@dataclass(frozen=True)
class Outcome:
    """How an order ended. reason: why it failed, "" if it did not. notes: what was said about the video."""

    reason: str
    notes: list[str]


class TooLong(Exception):
    """A video is longer than it is allowed to be, whatever its header says."""


def end_with_parent() -> None:
    """Let this process end as soon as the one that started it has, however that was; Ctrl-C is left to that one."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = parent_process()
    if parent is not None:

        def watch() -> None:
            wait([parent.sentinel])
            os._exit(1)

        threading.Thread(target=watch, daemon=True).start()


def work(connection: Connection) -> None:
    """Take orders until the connection ends, and answer each with `Progress` and at last an `Outcome`."""
    end_with_parent()
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

    last = began = 0.0

    def on_frame(_: str, count: int, total: int | None, fps: float) -> None:
        nonlocal last, began
        if total != 1 and count / fps > order.max_length_s:
            raise TooLong
        if (now := time.monotonic()) - last > REPORT_EVERY_S or count == total:
            last, began = now, began or now
            send(Progress(count, total, now - began))

    limit_pictures(int(order.max_megapixels * 1e6))
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
            reason = of_the_program(error)
    here = f"{order.folder}{os.sep}"
    reason, *notes = (text.replace(here, "").removeprefix(f"{order.name}: ") for text in (reason, *notes))
    return Outcome(reason, notes)


def of_the_program(error: Exception) -> str:
    """The reason of a failure that is not the caller's, without paths."""
    said = error.strerror if isinstance(error, OSError) and error.strerror else first_line(error)
    return f"an error of the program ({type(error).__name__}: {said})"
