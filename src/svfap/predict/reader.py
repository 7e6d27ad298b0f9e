"""From a video to the windows that a model gets: decoding in a thread, face detection and tracking, crops, windows."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import numpy as np

from svfap.console import say
from svfap.data.crops import fit_frames
from svfap.data.manifest import Sample
from svfap.data.rates import FRAMES_NOTE, Clock, states_no_rate
from svfap.data.sample import frames_of, left_top, span_of
from svfap.data.video import VideoError, VideoSource
from svfap.errors import UserError
from svfap.faces.config import FaceCropConfig, TrackConfig
from svfap.faces.crop import crop_face
from svfap.faces.detect import Detector
from svfap.faces.track import Dropped, TrackedFace, TrackedFrame, track_faces
from svfap.files import printable
from svfap.model.config import ModelConfig
from svfap.predict.source import LiveSource, is_live, open_source
from svfap.predict.windows import Window, hop_frames, iter_windows, middle_indices, whole_pictures
from svfap.settings import Fps, Hop

T = TypeVar("T")
SAID_ONCE = " (said once for all files of this rate)"  # the end of a message that begins with the video's name
DECODED_AHEAD = 4  # frames, enough to keep the decoder busy while the detector runs

OnFrame = Callable[[str, int, int | None, float], None]
"""Called for every frame read: the video, frames read so far, frames in all (None: a live source), frames per second."""
OnFaces = Callable[[str, TrackedFrame], None]
"""Called for every frame with its faces, in order: the video, the frame."""


@dataclass(frozen=True)
class Reader:
    """Reads a video as windows of a model's input.

    config: the model's. detector: None: the video is a face crop, made square as the model's `frame_fit` says. crop: how
    faces are cut out, in the model's size. hop_s, tracking, timeout_s, fps, frames_fps: as in
    `svfap.predict.predictor.Predictor`.
    """

    config: ModelConfig
    hop_s: Hop
    detector: Detector | None
    crop: FaceCropConfig
    tracking: TrackConfig
    timeout_s: float
    fps: Fps = None
    frames_fps: float | None = None
    _said: set[str] = field(default_factory=set, compare=False, repr=False)

    @cached_property
    def clock(self) -> Clock:
        """When the model's frames are taken."""
        return Clock.of(self.fps, self.config.frame_rate, self.config.span)

    def windows(
        self, video: str | Path | Sample, on_frame: OnFrame | None = None, on_faces: OnFaces | None = None
    ) -> Generator[Window, None, None]:
        """The windows of every face in a video, or in a sample: within its time span, inside its box.

        Times are those of the video, and boxes lie in its picture. Memory does not grow with its length. Raises `VideoError`
        if it cannot be read to its end, after the windows of the part that could be read. Says how many faces were dropped.
        """
        sample = video if isinstance(video, Sample) else None
        name = video if isinstance(video, str | Path) else video.path
        errors: list[VideoError] = []
        dropped = Dropped()
        with self.open(name) as source:
            fps, total = self.rate(source), self.num_frames(source)
            end_s = math.inf if source.num_frames is None else source.duration_s

            def frames() -> Iterator[tuple[float, np.ndarray]]:
                try:
                    for count, frame in enumerate(self.frames(source, sample), 1):
                        yield frame
                        if on_frame is not None:
                            on_frame(str(name), count, total, fps)
                except VideoError as error:  # raised later: the frames before it are still used
                    errors.append(error)

            with closing(prefetched(frames(), DECODED_AHEAD)) as decoded:
                hop = hop_frames(self.config, self.hop_s, fps)
                tracked = self.tracks(decoded, fps, dropped)
                if on_faces is not None:
                    tracked = _told(tracked, str(name), on_faces)
                shape = (self.config.num_frames, self.config.sampling_stride, hop)
                frame_s = 0.0 if total == 1 else 1 / fps
                for window in iter_windows(tracked, *shape, self._crop, source.parted, frame_s):
                    pictures = self._picture_numbers(source, sample, window.pictures)
                    window = replace(window, end_s=min(window.end_s, end_s), pictures=pictures)
                    yield window if sample is None or sample.box is None else _moved(window, *left_top(sample))
        if note := dropped.note(self.tracking.min_face_px):
            say(f"{printable(name)}: {note}")
        if errors:
            raise errors[0]

    def middle(self, video: str | Path) -> np.ndarray:
        """The window in the middle of a video of a face crop: (T, H, W, 3) uint8. Of its parts without a pause, the longest.

        A video that a single window spans gives the same clip as `windows`. Decodes no other frames. Raises `UserError` for
        a webcam or stream, `VideoError` if the video cannot be read.
        """
        if is_live(video):
            raise UserError(f"{video}: a stream has no middle; give a file")
        with self.open(video) as source:
            assert isinstance(source, VideoSource)
            grid = source.grid(self.rate(source))
            first, stop = max(grid.stretches, key=lambda part: part[1] - part[0])
            indices = first + middle_indices(stop - first, self.config.num_frames, self.config.sampling_stride)
            return fit_frames(source.read(grid.picture_of[indices]), self.config.img_size, self.config.frame_fit)

    def open(self, video: str | Path) -> VideoSource | LiveSource:
        """Open a video; says what is to be known of its frame rate, each message once. Raises `VideoError`."""
        source = open_source(video, self.timeout_s, self.frames_fps)
        note = self.clock.note(source.fps)
        if states_no_rate(Path(video)) and self.frames_fps is None and source.num_frames is not None:
            note = None if source.num_frames == 1 else FRAMES_NOTE
        if note is not None and note not in self._said:
            self._said.add(note)
            say(note if note == FRAMES_NOTE else f"{video}: {note}{SAID_ONCE}")
        return source

    def rate(self, source: VideoSource | LiveSource) -> float:
        """Frames per second that are taken of a video; of a single picture its own."""
        return source.fps if source.num_frames == 1 else self.clock.rate(source.fps)

    def num_frames(self, source: VideoSource | LiveSource) -> int | None:
        """Frames that are taken of a video; None: a live source."""
        return None if source.num_frames is None else source.grid(self.rate(source)).num_frames

    def frames(
        self, source: VideoSource | LiveSource, sample: Sample | None = None
    ) -> Iterator[tuple[float, np.ndarray]]:
        """The frames of a video or of a sample that are shown at the ticks of the clock: (seconds, uint8 RGB (H, W, 3))."""
        fps = self.rate(source)
        if sample is None or isinstance(source, LiveSource):
            return source.steady_frames(fps)
        return frames_of(source, sample, fps)

    def tracks(
        self, frames: Iterable[tuple[float, np.ndarray]], fps: float, dropped: Dropped | None = None
    ) -> Iterator[TrackedFrame]:
        """Frames (time in seconds, uint8 RGB (H, W, 3)) with their faces; without a detector, see `whole_pictures`."""
        if self.detector is None:
            return whole_pictures(frames)
        return track_faces(frames, self.detector, self.tracking, fps, dropped)

    def _picture_numbers(
        self, source: VideoSource | LiveSource, sample: Sample | None, frames: np.ndarray
    ) -> np.ndarray:
        """Numbers, from 0, of the pictures of a video or stream that are shown at these frames of `frames(source, sample)`."""
        if source.num_frames is None:
            return np.array([source.picture_of[frame] for frame in frames.tolist()])
        first = 0 if sample is None else span_of(source, sample, self.rate(source))[0]
        return source.grid(self.rate(source)).picture_of[first + frames]

    def _crop(self, frame: np.ndarray, face: TrackedFace) -> np.ndarray:
        if self.detector is None:
            return fit_frames(frame[None], self.config.img_size, self.config.frame_fit)[0]
        return crop_face(frame, face.box, self.crop, face.landmarks)


def _told(frames: Iterator[TrackedFrame], name: str, on_faces: OnFaces) -> Iterator[TrackedFrame]:
    for item in frames:
        on_faces(name, item)
        yield item


def _moved(window: Window, left: float, top: float) -> Window:
    """The window with its boxes and landmarks moved, from the part of the picture that was read to the whole."""
    box, *boxes = [(x + left, y + top, w, h) for x, y, w, h in (window.box, *window.boxes)]
    places = [window.landmarks, *window.all_landmarks]
    one, *all_landmarks = [None if points is None else points + np.array([left, top]) for points in places]
    return replace(window, box=box, boxes=boxes, landmarks=one, all_landmarks=all_landmarks)


def prefetched(items: Iterator[T], size: int) -> Generator[T, None, None]:
    """Iterate in a separate thread, `size` items ahead; close the generator to stop the thread and close `items`.

    An exception of `items` is raised here, after the items before it. FFmpeg, OpenCV and torch release the GIL.
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
