"""From a video to the windows that a model sees: decoding in a thread, face detection and tracking, crops, windows."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np

from svfap.data.augment import center_crop
from svfap.data.video import VideoError
from svfap.faces.config import FaceCropConfig, TrackConfig
from svfap.faces.crop import crop_face
from svfap.faces.detect import Detector
from svfap.faces.track import TrackedFace, TrackedFrame, track_faces
from svfap.model.config import ModelConfig
from svfap.predict.source import Source, open_source
from svfap.predict.windows import Window, hop_frames, iter_face_windows, iter_windows

T = TypeVar("T")
DECODED_AHEAD = 4  # frames, enough to keep the decoder busy while the detector runs

OnFrame = Callable[[str, int, int | None, float], None]
"""Called for every frame read: the video, frames read so far, frames in all (None: a live source), frames per second."""


@dataclass(frozen=True)
class Reader:
    """Reads a video as windows of a model's input.

    config: the model's. hop_s: seconds from the start of one window to the next; None: no overlap. detector: None: the
    video is a face crop, of which the centre square is used. crop: how faces are cut out, in the model's size. tracking:
    how they are followed. timeout_s: stop reading a live source after this many seconds without data.
    """

    config: ModelConfig
    hop_s: float | None = None
    detector: Detector | None = None
    crop: FaceCropConfig = field(default_factory=FaceCropConfig)
    tracking: TrackConfig = field(default_factory=TrackConfig)
    timeout_s: float = 10.0

    def windows(self, video: str | Path, on_frame: OnFrame | None = None) -> Iterator[Window]:
        """The windows of every face in a video; memory does not grow with its length.

        Raises `VideoError` if the video cannot be read to its end, after the windows of the part that could be read.
        """
        broken: list[VideoError] = []
        with open_source(video, self.timeout_s) as source:
            frames = _until_broken(_counted(source, str(video), on_frame), broken)
            with closing(prefetched(frames, DECODED_AHEAD)) as decoded:
                hop = hop_frames(self.config, self.hop_s, source.fps)
                cut = (self.config.num_frames, self.config.sampling_stride, hop)
                if self.detector is None:
                    yield from iter_windows(decoded, *cut, self._shrink)
                else:
                    yield from iter_face_windows(self.tracks(decoded, source.fps), *cut, self._crop)
        if broken:
            raise broken[0]

    def tracks(self, frames: Iterable[tuple[float, np.ndarray]], fps: float) -> Iterator[TrackedFrame]:
        """Frames (time in seconds, uint8 RGB (H, W, 3)) with their faces; without a detector, without faces."""
        if self.detector is not None:
            yield from track_faces(frames, self.detector, self.tracking, fps)
            return
        for index, (time_s, frame) in enumerate(frames):
            yield TrackedFrame(index, time_s, frame, (), 0)

    def _shrink(self, frame: np.ndarray) -> np.ndarray:
        return center_crop(frame[None], self.config.img_size)[0]

    def _crop(self, frame: np.ndarray, face: TrackedFace) -> np.ndarray:
        return crop_face(frame, face.box, self.crop, face.landmarks)


def _counted(source: Source, video: str, on_frame: OnFrame | None) -> Iterator[tuple[float, np.ndarray]]:
    for count, item in enumerate(source.steady_frames(), start=1):
        yield item
        if on_frame is not None:
            on_frame(video, count, source.num_frames, source.fps)


def _until_broken(frames: Iterable[T], broken: list[VideoError]) -> Iterator[T]:
    """The frames up to an error, which is appended to `broken`, so that the frames before it are still used."""
    try:
        yield from frames
    except VideoError as error:
        broken.append(error)


def prefetched(items: Iterable[T], size: int) -> Generator[T, None, None]:
    """Iterate in a separate thread, at most `size` items ahead; close the generator to stop the thread.

    What the iterable raises is raised here, after the items before it. FFmpeg, OpenCV and torch release the GIL, so the
    thread runs while this one computes.
    """
    waiting: queue.Queue[tuple[T | None, BaseException | None, bool]] = queue.Queue(size)
    stopped = threading.Event()

    def put(item: T | None, error: BaseException | None, last: bool) -> None:
        while not stopped.is_set():
            try:
                waiting.put((item, error, last), timeout=0.1)
                return
            except queue.Full:
                continue

    def work() -> None:
        iterator = iter(items)
        try:
            for item in iterator:
                put(item, None, False)
                if stopped.is_set():
                    break
            put(None, None, True)
        except BaseException as error:  # raised in the other thread
            put(None, error, True)
        finally:
            if (close := getattr(iterator, "close", None)) is not None:
                close()  # in the thread that used it

    thread = threading.Thread(target=work, daemon=True, name="svfap-prefetch")
    thread.start()
    try:
        while True:
            item, error, last = waiting.get()
            if error is not None:
                raise error
            if last:
                return
            yield item  # type: ignore[misc]
    finally:
        stopped.set()
        thread.join()
