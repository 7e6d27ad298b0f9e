"""Several videos at a time, each in a process that has a predictor of its own and hands back the rows and how the video ended."""

from __future__ import annotations

import os
import pickle
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import cv2
import torch

from svfap.console import keeping_messages, silent
from svfap.faces.detect import MODEL_VARIABLE
from svfap.files import printable
from svfap.jobs.run import outcomes
from svfap.jobs.task import Task
from svfap.predict.boxes import FaceBoxes
from svfap.predict.config import PredictConfig
from svfap.predict.predictor import Predictor, Row, predictor_of


class Ended(NamedTuple):
    """How a video ended.

    error: why it, or its end, could not be read; "" for none. fps: frames per second that were used of it; None: not known,
    or a picture. messages: what is to be said. boxes: those of its faces, if they are asked for.
    """

    error: str
    fps: float | None = None
    messages: Sequence[str] = ()
    boxes: FaceBoxes | None = None


def predict_in_processes(
    config: PredictConfig, predictor: Predictor, videos: Sequence[str], with_boxes: bool
) -> Generator[tuple[str, Iterator[Row | Ended]]]:
    """Each video as it ends, in any order, with its rows and last how it ended. Close the generator to end the processes.

    predictor: of these settings; all processes use its detector. Raises `UserError` if the engine does not start.
    """
    detector = predictor.reader.detector
    found: Any = {"faces": "none" if detector is None else detector.name}
    found["face_model"] = config.face_model or os.environ.get(MODEL_VARIABLE)
    config = replace(config, num_workers=min(config.num_workers, len(videos)), **found)
    work = partial(predict_video, config, Path.cwd(), with_boxes)
    # The machines of a Ray cluster share the folder of the table.
    shared = config.out.absolute().parent if config.engine == "ray" and config.out is not None else None
    with TemporaryDirectory(prefix=".svfap-predict-", dir=shared) as folder:
        tasks = (Task(video, video, Path(folder) / f"{number}.rows") for number, video in enumerate(videos))
        with closing(outcomes(work, tasks, config)) as ended:
            for task, reason in ended:
                if reason is None:
                    yield task.key, _read(task.target)
                    task.target.unlink()
                else:
                    yield task.key, iter([Ended(f"{printable(task.key)}: {reason}")])


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
        for _, item in predictor.run([video], *listeners):
            fps = rates[0] if rates else None
            pickle.dump(item if isinstance(item, dict) else Ended(str(item or ""), fps, messages, boxes), file)


@lru_cache(maxsize=1)
def _predictor(config: PredictConfig) -> Predictor:
    """The predictor of these settings, made once in each process, with its share of the threads."""
    num_threads = max(torch.get_num_threads() // max(config.num_workers, 1), 1)
    torch.set_num_threads(num_threads)
    cv2.setNumThreads(num_threads)
    with silent():  # the main process has said what there is to say
        return predictor_of(config)


def _read(file: Path) -> Iterator[Row | Ended]:
    with file.open("rb") as stream:
        item = None
        while not isinstance(item, Ended):
            item = pickle.load(stream)
            yield item
