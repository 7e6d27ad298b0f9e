"""The faces of one video: followed, and cut out as clips, in one pass and constant memory."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from svfap.data.manifest import Sample
from svfap.data.video import Pixels, VideoSource, VideoWriter, open_video
from svfap.errors import UserError
from svfap.faces.config import DetectorName, FaceCropConfig, TrackConfig
from svfap.faces.crop import crop_face
from svfap.faces.detect import Detector, make_detector
from svfap.faces.track import TrackedFrame, track_faces
from svfap.predict.source import open_source

Frames = Iterable[tuple[float, Pixels]]


def iter_tracks(
    video: str | Path,
    faces: DetectorName | Detector = "auto",
    face_model: str | Path | None = None,
    tracking: TrackConfig = TrackConfig(),  # noqa: B008 - frozen
) -> Iterator[TrackedFrame]:
    """Follow every face in a video: each frame once, in order, with its faces; memory does not grow with the video.

    video: a file, a folder of frames, an image, a webcam's number or a stream's address. faces, face_model: see
    `svfap.faces.make_detector`, or a detector of your own. Raises `UserError`, `VideoError`.
    """
    detector = make_detector(faces, face_model) if isinstance(faces, str) else faces
    with open_source(video) as source:
        yield from track_faces(source.steady_frames(), detector, tracking, source.fps)


@dataclass(frozen=True)
class ClipConfig:
    """How clips are cut from videos. Raises `UserError` for values out of range."""

    faces: DetectorName = "auto"
    """How faces are found; auto: YuNet where its model is to be had, else Haar."""
    face_model: Path | None = None
    """YuNet's .onnx file."""
    detect_every: int | None = None
    """Frames from one run of the detector to the next; default: about 8 runs a second."""
    fps: float | None = None
    """Frames a second of the clips, left out or repeated as needed; default: the video's."""
    min_track_s: float = 0.5
    """Faces followed for less are dropped."""
    max_clip_s: float = 10.0
    """Longer tracks are cut into clips of this length; a rest shorter than min_track_s stays with the clip before it."""
    largest: bool = False
    """Keep one track of each video alone: the one whose boxes, added up over its frames, are the largest."""
    gop: int = 10
    """Frames from one keyframe to the next, at most: few make any frame quick to reach."""
    crop: FaceCropConfig = field(default_factory=FaceCropConfig)

    def __post_init__(self) -> None:
        if self.fps is not None and not 0 < self.fps <= 1000:
            raise UserError(f"fps={self.fps:g}: must be above 0 and at most 1000")
        if not self.max_clip_s >= self.min_track_s:
            raise UserError(f"max_clip_s={self.max_clip_s:g}: must be at least min_track_s={self.min_track_s:g}")
        if self.gop < 1:
            raise UserError(f"gop={self.gop}: must be at least 1 frame")
        self.tracking()

    def tracking(self) -> TrackConfig:
        return TrackConfig(detect_every=self.detect_every, min_track_s=self.min_track_s)


@dataclass(frozen=True)
class Clip:
    """A clip in a file `name` of `num_bytes`: what of which track it shows, in seconds of its source.

    face_px: mean over its frames of the box's longer side, in pixels of the source.
    """

    name: str
    num_bytes: int
    track: int
    source_start_s: float
    source_end_s: float
    face_px: float


def write_clips(sample: Sample, folder: Path, config: ClipConfig, detector: Detector) -> list[Clip]:
    """Write the clips of a sample's faces into a folder; returned by track, then time. Raises `VideoError`.

    Each unbroken run of a track's frames is one clip, or several where it is long: a frame without a box is in none.
    """
    clips: list[Clip] = []
    runs: dict[int, _Run] = {}
    areas: dict[int, float] = defaultdict(float)
    try:
        with open_video(sample.path) as source:
            fps = config.fps or source.fps
            for item in track_faces(_frames(source, sample, config), detector, config.tracking(), fps):
                for track in sorted(runs.keys() - {face.track for face in item.faces}):
                    clips += runs.pop(track).finish()
                for face in item.faces:
                    run = runs.setdefault(face.track, _Run(folder, face.track, fps, config))
                    picture = crop_face(item.frame, face.box, config.crop, face.landmarks)
                    clips += run.add(_Crop(picture, item.time_s, max(face.box[2:])))
                    areas[face.track] += face.box[2] * face.box[3]
        for run in runs.values():
            clips += run.finish()
    finally:
        for run in runs.values():
            run.close()
    if config.largest and areas:
        kept = max(areas, key=lambda track: areas[track])
        for clip in clips:
            if clip.track != kept:
                (folder / clip.name).unlink()
        clips = [clip for clip in clips if clip.track == kept]
    return sorted(clips, key=lambda clip: (clip.track, clip.source_start_s))


@dataclass(frozen=True)
class _Crop:
    picture: Pixels
    time_s: float
    face_px: float


class _Run:
    """An unbroken run of a track's crops, on its way into clips of at most so many frames, and not many fewer."""

    def __init__(self, folder: Path, track: int, fps: float, config: ClipConfig) -> None:
        self._folder, self._track, self._fps, self._gop = folder, track, fps, config.gop
        self._longest = max(round(config.max_clip_s * fps), 1)
        self._shortest = max(round(config.min_track_s * fps), 1)
        self._writer: VideoWriter | None = None
        self._held: list[_Crop] = []  # after a full clip: the beginning of another, or else its rest
        self._times: list[float] = []
        self._faces_px: list[float] = []
        self._file = folder

    def add(self, crop: _Crop) -> Iterator[Clip]:
        """Take the next crop; yields the clip that is finished, if any."""
        self._held.append(crop)
        if len(self._times) >= self._longest:
            if len(self._held) < self._shortest:
                return
            yield self._end()
        self._write()

    def finish(self) -> Iterator[Clip]:
        """The run has ended; yields its last clip."""
        self._write()
        yield self._end()

    def close(self) -> None:
        """Close what is open, after an error."""
        if self._writer is not None:
            self._writer.close()

    def _write(self) -> None:
        for crop in self._held:
            if self._writer is None:
                # No two clips of a track begin at the same millisecond, so names need no counting.
                self._file = self._folder / f"{self._track:03d}_{round(1000 * crop.time_s):08d}.mp4"
                self._writer = VideoWriter(self._file, self._fps, gop=self._gop)
            self._writer.write(crop.picture)
            self._times.append(crop.time_s)
            self._faces_px.append(crop.face_px)
        self._held = []

    def _end(self) -> Clip:
        assert self._writer is not None
        self._writer.finish()
        self._writer = None
        clip = Clip(
            name=self._file.name,
            num_bytes=self._file.stat().st_size,
            track=self._track,
            source_start_s=round(self._times[0], 3),
            source_end_s=round(self._times[-1] + 1 / self._fps, 3),
            face_px=round(float(np.mean(self._faces_px)), 1),
        )
        self._times, self._faces_px = [], []
        return clip


def _frames(source: VideoSource, sample: Sample, config: ClipConfig) -> Frames:
    """The frames of a sample: of its span, inside its box, at the rate that is asked for."""
    frames: Frames = source.steady_frames()
    if sample.start_s is not None or sample.end_s is not None or sample.box is not None:
        from svfap.data.sample import frames_between, inside_box, span_of  # brings torch, so only where it is needed

        frames = frames_between(source, *span_of(source, sample))
        if sample.box is not None:
            frames = ((time_s, inside_box(frame[None], sample)[0]) for time_s, frame in frames)
    return at_rate(frames, source.fps, config.fps) if config.fps else frames


def at_rate(frames: Frames, source_fps: float, fps: float) -> Iterator[tuple[float, Pixels]]:
    """(time_s, frame) `fps` times a second from the first frame on: each time the frame that is shown then."""
    first_s: float | None = None
    shown: tuple[float, Pixels] | None = None
    number = 0
    for time_s, frame in frames:
        first_s = time_s if first_s is None else first_s
        while shown is not None and (due := first_s + number / fps) < time_s - 1e-6:
            yield due, shown[1]
            number += 1
        shown = time_s, frame
    while (
        shown is not None and first_s is not None and (due := first_s + number / fps) < shown[0] + 1 / source_fps - 1e-6
    ):
        yield due, shown[1]
        number += 1
