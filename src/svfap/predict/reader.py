"""From a video to the windows that a model gets: decoding in a thread, face detection and tracking, crops, windows."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from svfap.console import say
from svfap.data.augment import center_crop
from svfap.data.video import VideoError
from svfap.faces.config import FaceCropConfig, TrackConfig
from svfap.faces.crop import crop_face
from svfap.faces.detect import Detector
from svfap.faces.track import Dropped, TrackedFace, TrackedFrame, track_faces
from svfap.files import printable
from svfap.model.config import ModelConfig
from svfap.predict.source import open_source
from svfap.predict.windows import Window, hop_frames, iter_windows, whole_pictures

T = TypeVar("T")
DECODED_AHEAD = 4  # frames, enough to keep the decoder busy while the detector runs

OnFrame = Callable[[str, int, int | None, float], None]
"""Called for every frame read: the video, frames read so far, frames in all (None: a live source), frames per second."""


@dataclass(frozen=True)
class Reader:
    """Reads a video as windows of a model's input.

    config: the model's. detector: None: the video is a face crop, of which the centre square is used. crop: how faces are
    cut out, in the model's size. hop_s, tracking, timeout_s: as in `svfap.predict.predictor.Predictor`.
    """

    config: ModelConfig
    hop_s: float | None
    detector: Detector | None
    crop: FaceCropConfig
    tracking: TrackConfig
    timeout_s: float

    def windows(self, video: str | Path, on_frame: OnFrame | None = None) -> Iterator[Window]:
        """The windows of every face in a video; memory does not grow with its length. Says how many faces were dropped.

        Raises `VideoError` if the video cannot be read to its end, after the windows of the part that could be read.
        """
        errors: list[VideoError] = []
        dropped = Dropped()
        with open_source(video, self.timeout_s) as source:

            def frames() -> Iterator[tuple[float, np.ndarray]]:
                try:
                    for count, frame in enumerate(source.steady_frames(), 1):
                        yield frame
                        if on_frame is not None:
                            on_frame(str(video), count, source.num_frames, source.fps)
                except VideoError as error:  # raised later: the frames before it are still used
                    errors.append(error)

            with closing(prefetched(frames(), DECODED_AHEAD)) as decoded:
                hop = hop_frames(self.config, self.hop_s, source.fps)
                tracked = self.tracks(decoded, source.fps, dropped)
                yield from iter_windows(tracked, self.config.num_frames, self.config.sampling_stride, hop, self._crop)
        if note := dropped.note(self.tracking.min_face_px):
            say(f"{printable(video)}: {note}")
        if errors:
            raise errors[0]

    def tracks(
        self, frames: Iterable[tuple[float, np.ndarray]], fps: float, dropped: Dropped | None = None
    ) -> Iterator[TrackedFrame]:
        """Frames (time in seconds, uint8 RGB (H, W, 3)) with their faces; without a detector, see `whole_pictures`."""
        if self.detector is None:
            return whole_pictures(frames)
        return track_faces(frames, self.detector, self.tracking, fps, dropped)

    def _crop(self, frame: np.ndarray, face: TrackedFace) -> np.ndarray:
        if self.detector is None:
            return center_crop(frame[None], self.config.img_size)[0]
        return crop_face(frame, face.box, self.crop, face.landmarks)


def prefetched(items: Iterator[T], size: int) -> Generator[T, None, None]:
    """Iterate in a separate thread, `size` items ahead; close the generator to stop the thread and close `items`.

    An exception of `items` is raised here, after the items before it. FFmpeg, OpenCV and torch release the GIL, so the
    thread runs while this one computes.
    """
    end = object()
    with ThreadPoolExecutor(1, "svfap-prefetch") as thread:
        ahead = deque(thread.submit(next, items, end) for _ in range(size))
        try:
            while (item := ahead.popleft().result()) is not end:
                ahead.append(thread.submit(next, items, end))
                yield item  # type: ignore[misc]
        finally:
            for future in ahead:
                future.cancel()
            if isinstance(items, Generator):
                thread.submit(items.close).result()  # in the thread that used it
