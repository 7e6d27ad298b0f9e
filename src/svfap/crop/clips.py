"""The faces of one video, tracked and cut out as clips: one pass, constant memory."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from svfap.console import say
from svfap.crop.config import CropConfig
from svfap.data.manifest import Sample
from svfap.data.sample import frames_between, inside_box, span_of
from svfap.data.video import Pixels, VideoSource, VideoWriter, open_video
from svfap.faces.config import DetectorName, TrackConfig
from svfap.faces.crop import crop_face
from svfap.faces.detect import Detector, make_detector
from svfap.faces.track import Dropped, TrackedFrame, track_faces
from svfap.files import printable
from svfap.predict.source import open_source

Frames = Iterable[tuple[float, Pixels]]


def iter_tracks(
    video: str | Path,
    faces: DetectorName | Detector = "auto",
    face_model: str | Path | None = None,
    tracking: TrackConfig = TrackConfig(),  # noqa: B008 - frozen
) -> Iterator[TrackedFrame]:
    """Track every face in a video; yields each frame once, in order, with its faces. Constant memory.

    video: a file, a folder of frames, an image, a webcam's number or a stream's address. faces, face_model: as in
    `svfap.faces.detect.make_detector`; or a detector object. Raises `UserError`, `VideoError`.
    """
    detector = make_detector(faces, face_model) if isinstance(faces, str) else faces
    with open_source(video) as source:
        yield from track_faces(source.steady_frames(), detector, tracking, source.fps)


@dataclass(frozen=True)
class FaceClip:
    """One clip of a face as it was written.

    name: of its file; num_bytes: size of the file. track: number of the face in its video, from 1. source_start_s,
    source_end_s: what it shows, in seconds of its video. face_px: mean over its frames of the longer side of the face
    box, in pixels of the video.
    """

    name: str
    num_bytes: int
    track: int
    source_start_s: float
    source_end_s: float
    face_px: float


def write_clips(sample: Sample, folder: Path, config: CropConfig, detector: Detector) -> list[FaceClip]:
    """Write a clip of each face of a sample into `folder`, which must exist; returns them sorted by track and time.

    Consecutive frames of a track become one clip, or several clips if they last longer than `config.max_clip_s`. A
    frame without a box ends the clip. Memory does not grow with the video. Says how many faces were dropped. Raises
    `VideoError`.
    """
    clips: list[FaceClip] = []
    runs: dict[int, _TrackRun] = {}
    areas: dict[int, float] = defaultdict(float)
    cropping, tracking, dropped = config.cropping(), config.tracking(), Dropped()
    try:
        with open_video(sample.path) as source:
            fps = source.grid(config.fps).fps
            for item in track_faces(_frames(source, sample, config), detector, tracking, fps, dropped):
                for track in sorted(runs.keys() - {face.track for face in item.faces}):
                    clips.append(runs.pop(track).finish())
                for face in item.faces:
                    run = runs.setdefault(face.track, _TrackRun(folder, face.track, fps, config))
                    picture = crop_face(item.frame, face.box, cropping, face.landmarks)
                    clips += run.add(_FaceCrop(picture, item.time_s, max(face.box[2:])))
                    areas[face.track] += face.box[2] * face.box[3]
        clips += [run.finish() for run in runs.values()]
    finally:
        for run in runs.values():
            run.close()
    if note := dropped.note(tracking.min_face_px):
        say(f"{printable(sample.path)}: {note}")
    kept = {max(areas, key=lambda track: areas[track])} if config.largest and areas else set(areas)
    for clip in clips:
        if clip.track not in kept:
            (folder / clip.name).unlink()
    kept_clips = [clip for clip in clips if clip.track in kept]
    return sorted(kept_clips, key=lambda clip: (clip.track, clip.source_start_s))


class _FaceCrop(NamedTuple):
    picture: Pixels
    time_s: float
    face_px: float


class _TrackRun:
    """Consecutive frames of one track, written as clips of `max_clip_s`.

    A remainder shorter than `min_track_s` is appended to the clip before it.
    """

    def __init__(self, folder: Path, track: int, fps: float, config: CropConfig) -> None:
        self._folder, self._track, self._fps, self._gop = folder, track, fps, config.gop
        self._longest = max(round(config.max_clip_s * fps), 1)
        self._shortest = max(round(config.min_track_s * fps), 1)
        self._writer: VideoWriter | None = None
        self._held: list[_FaceCrop] = []  # frames after a full clip: the start of the next clip or the end of this one
        self._written: list[tuple[float, float]] = []  # time_s and face_px of the frames of the clip

    def add(self, crop: _FaceCrop) -> Iterator[FaceClip]:
        """Add the next frame; yields the clip that this completes, if any."""
        self._held.append(crop)
        if len(self._written) >= self._longest:
            if len(self._held) < self._shortest:
                return
            yield self._end()
        self._write()

    def finish(self) -> FaceClip:
        """The last clip."""
        self._write()
        return self._end()

    def close(self) -> None:
        """Close the file being written, after an error."""
        if self._writer is not None:
            self._writer.close()

    def _write(self) -> None:
        for crop in self._held:
            if self._writer is None:
                # No two clips of a track start in the same millisecond, so the names are unique.
                self._file = self._folder / f"{self._track:03d}_{round(1000 * crop.time_s):08d}.mp4"
                self._writer = VideoWriter(self._file, self._fps, gop=self._gop)
            self._writer.write(crop.picture)
            self._written.append((crop.time_s, crop.face_px))
        self._held = []

    def _end(self) -> FaceClip:
        assert self._writer is not None
        self._writer.finish()
        times_s, faces_px = zip(*self._written, strict=True)
        self._writer, self._written = None, []
        start_s, end_s = round(times_s[0], 3), round(times_s[-1] + 1 / self._fps, 3)
        face_px = round(float(np.mean(faces_px)), 1)
        return FaceClip(self._file.name, self._file.stat().st_size, self._track, start_s, end_s, face_px)


def _frames(source: VideoSource, sample: Sample, config: CropConfig) -> Frames:
    """(time_s, frame) of a sample: within its time span, inside its box, at the frame rate of the clips."""
    frames: Frames = frames_between(source, *span_of(source, sample, config.fps), config.fps)
    if sample.box is not None:
        frames = ((time_s, inside_box(frame[None], sample)[0]) for time_s, frame in frames)
    return frames
