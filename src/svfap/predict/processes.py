"""Several videos at a time, each in a process that has a predictor of its own: rows and how the video ended, and overlays."""

from __future__ import annotations

import os
import pickle
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import cv2
import pandas as pd
import torch

from svfap.console import keeping_messages, silent
from svfap.errors import UserError
from svfap.faces.detect import MODEL_VARIABLE
from svfap.files import printable
from svfap.jobs.run import outcomes
from svfap.jobs.task import Task, Work
from svfap.predict.boxes import FaceBoxes
from svfap.predict.config import PredictConfig
from svfap.predict.overlay import write_overlay
from svfap.predict.predictor import Predictor, Row, predictor_of
from svfap.predict.reader import Reader
from svfap.predict.source import digest_of


class Ended(NamedTuple):
    """How a video ended.

    error: why it, or its end, could not be read; "" for none. fps: frames per second that were used of it; None: not known,
    or a picture. messages: what is to be said. boxes: those of its faces, if they are asked for. digest: of the file.
    """

    error: str
    fps: float | None = None
    messages: Sequence[str] = ()
    boxes: FaceBoxes | None = None
    digest: str = ""


class Overlay(NamedTuple):
    """Arguments of `write_overlay`."""

    video: str
    rows: pd.DataFrame
    out: Path
    boxes: FaceBoxes | None


def predict_in_processes(
    config: PredictConfig, predictor: Predictor, videos: Sequence[str], with_boxes: bool
) -> Generator[tuple[str, Iterator[Row | Ended]]]:
    """Each video as it ends, in any order, with its rows and last how it ended. Close the generator to end the processes.

    predictor: of these settings; all processes use its detector. Raises `UserError` if the engine does not start.
    """
    config = _for_processes(config, predictor.reader, len(videos))
    work = partial(predict_video, config, Path.cwd(), with_boxes)
    with closing(_results(config, work, ((video, video) for video in videos))) as results:
        for video, reason, file in results:
            failed = f"{printable(video)}: {reason}"
            yield video, _items(file) if reason is None else iter([Ended(failed)])


def predict_video(config: PredictConfig, folder: Path, with_boxes: bool, video: str, target: Path) -> None:
    """The job of one video: write its rows into a file as they are computed, and last how it ended.

    folder: that names of videos and of the model are relative to.
    """
    os.chdir(folder)
    predictor = _predictor(config)
    boxes = FaceBoxes() if with_boxes else None
    rates: list[float] = []

    def on_frame(video: str, count: int, total: int | None, fps: float) -> None:
        if total != 1:  # a picture has no rate
            rates[:] = [fps]

    listeners = (on_frame,) if boxes is None else (on_frame, lambda _, item: boxes.add(item))
    with keeping_messages() as messages, target.open("wb") as file:
        for _, result in predictor.run([video], *listeners):
            fps = rates[0] if rates else None
            ended = (
                None if isinstance(result, dict) else Ended(str(result or ""), fps, messages, boxes, digest_of(video))
            )
            pickle.dump(ended or result, file)


def draw_in_processes(
    config: PredictConfig, reader: Reader, overlays: Iterable[tuple[str, Overlay]], number: int
) -> Generator[tuple[str, str]]:
    """Each video once its overlay is drawn, in any order, with the reason why that failed, "" for none.

    overlays: `number` videos, each with the arguments of `write_overlay`. Close the generator to end the processes. Raises
    `UserError` if the engine does not start.
    """
    config = _for_processes(config, reader, number)
    with closing(_results(config, partial(draw_overlay, config, Path.cwd()), overlays)) as results:
        for video, reason, file in results:
            yield video, pickle.loads(file.read_bytes()) if reason is None else f"{printable(video)}: {reason}"


def draw_overlay(config: PredictConfig, folder: Path, overlay: Overlay, target: Path) -> None:
    """The job of one overlay: draw it, and write the reason why that failed into a file. folder: as of `predict_video`."""
    os.chdir(folder)
    error = ""
    with silent():
        try:
            write_overlay(overlay.video, overlay.rows, _predictor(config).reader, overlay.out, overlay.boxes)
        except UserError as failure:
            error = str(failure)
    target.write_bytes(pickle.dumps(error))


def _for_processes(config: PredictConfig, reader: Reader, number: int) -> PredictConfig:
    """The settings of processes that do a number of videos: all use the detector that this process has found."""
    found: Any = {"faces": "none" if reader.detector is None else reader.detector.name}
    found["face_model"] = config.face_model or os.environ.get(MODEL_VARIABLE)
    return replace(config, num_workers=min(config.num_workers, number), **found)


def _results(
    config: PredictConfig, work: Work, payloads: Iterable[tuple[str, Any]]
) -> Generator[tuple[str, str | None, Path]]:
    """Each video when the work on it has ended, with None or the reason why it failed, and the file that was written."""
    # The machines of a Ray cluster share the folder of the table.
    shared = config.out.absolute().parent if config.engine == "ray" and config.out is not None else None
    with TemporaryDirectory(prefix=".svfap-predict-", dir=shared) as folder:
        tasks = (Task(key, item, Path(folder) / f"{n}.result") for n, (key, item) in enumerate(payloads))
        with closing(outcomes(work, tasks, config)) as ended:
            for task, reason in ended:
                yield task.key, reason, task.target
                task.target.unlink(missing_ok=True)


@lru_cache(maxsize=1)
def _predictor(config: PredictConfig) -> Predictor:
    """The predictor of these settings, made once in each process, with its share of the threads."""
    num_threads = max(torch.get_num_threads() // max(config.num_workers, 1), 1)
    torch.set_num_threads(num_threads)
    cv2.setNumThreads(num_threads)
    with silent():  # the main process has said what there is to say
        return predictor_of(config)


def _items(file: Path) -> Iterator[Row | Ended]:
    with file.open("rb") as stream:
        item = None
        while not isinstance(item, Ended):
            item = pickle.load(stream)
            yield item
