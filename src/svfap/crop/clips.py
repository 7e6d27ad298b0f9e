"""The faces of one video, tracked and cut out as clips: one pass, constant memory."""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from svfap.console import say
from svfap.crop.config import CropConfig
from svfap.data.manifest import Sample
from svfap.data.sample import frames_of, inside_box
from svfap.data.video import Pixels, VideoSource, VideoWriter, open_video, write_video
from svfap.faces.config import DetectorName, TrackConfig
from svfap.faces.crop import crop_face
from svfap.faces.detect import Detector, make_detector
from svfap.faces.track import Dropped, TrackedFace, TrackedFrame, track_faces
from svfap.files import printable
from svfap.predict.source import open_source

Frames = Iterable[tuple[float, Pixels]]
# Of x264: clips are decoded 1.7 times as fast, are 4 to 5% larger, and lose less than 0.1 dB (docs/packed_clips.md).
TUNE = "fastdecode"


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

    name, num_bytes: of its file. track: number of the face in its video, from 1. source_start_s, source_end_s: seconds of its
    video. face_px: mean over its frames of the longer side of the face box, in pixels of the video.
    """

    name: str
    num_bytes: int
    track: int
    source_start_s: float
    source_end_s: float
    face_px: float


def write_clips(sample: Sample, folder: Path, config: CropConfig, detector: Detector) -> list[FaceClip]:
    """Write a clip of each face of a sample into `folder`, which must exist; returns them sorted by track and time.

    Consecutive frames of a track become one clip, or several if they last longer than `config.max_clip_s`. A frame without
    the face or a pause of the recording ends the clip. Memory does not grow with the video. Says how many faces were
    dropped. Raises `VideoError`.
    """
    clips: list[FaceClip] = []
    runs: dict[int, _TrackRun] = {}
    areas: dict[int, float] = defaultdict(float)
    cropping, tracking, dropped = config.cropping(), config.tracking(), Dropped()
    try:
        with open_video(sample.path) as source:
            fps = source.grid(config.fps).fps
            last_s = 0.0
            for item in track_faces(frames_of(source, sample, config.fps), detector, tracking, fps, dropped):
                stay = set() if source.parted(last_s, item.time_s) else {face.track for face in item.faces}
                last_s = item.time_s
                for track in sorted(runs.keys() - stay):
                    clips.append(runs.pop(track).finish())
                for face in item.faces:
                    run = runs.setdefault(face.track, _TrackRun(folder, face.track, fps, config))
                    clips += run.add(crop_face(item.frame, face.box, cropping, face.landmarks), item.time_s, face)
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
    return sorted((clip for clip in clips if clip.track in kept), key=lambda clip: (clip.track, clip.source_start_s))


@dataclass(frozen=True)
class OneFace:
    """The clip of the largest face of a sample as it was written.

    num_frames, num_source_frames: of the clip and of the sample. num_tracks: tracks found. num_bytes, face_px: as in
    `FaceClip`.
    """

    num_bytes: int
    num_frames: int
    num_source_frames: int
    num_tracks: int
    face_px: float


def write_one_face(
    sample: Sample, file: Path, config: CropConfig, detector: Detector, every_picture: bool = False
) -> OneFace | None:
    """Write the face of a sample as one clip; None, and no file, if it has none.

    The face is the track with the largest sum of box areas over its frames. The clip has the frames with this face, within
    the sample's time span and box, at their times, so a gap of the track stays a gap. every_picture: the clip has every
    picture of the video, whatever the time span, so that labels per frame and time spans still fit; in gaps the last box is
    held, before the track the first one. The video is decoded twice; memory holds all boxes. Raises `VideoError`.
    """

    def frames(source: VideoSource) -> Frames:
        if not every_picture:
            return frames_of(source, sample, config.fps)
        return ((time_s, inside_box(frame[None], sample)[0]) for time_s, frame in source.frames())

    tracks: dict[int, dict[int, TrackedFace]] = defaultdict(dict)
    areas: dict[int, float] = defaultdict(float)
    times_s: list[float] = []
    with open_video(sample.path) as source:
        fps = source.fps if every_picture else source.grid(config.fps).fps
        for item in track_faces(frames(source), detector, config.tracking(), fps):
            times_s.append(item.time_s)
            for face in item.faces:
                tracks[face.track][item.index] = face
                areas[face.track] += face.box[2] * face.box[3]
        if not tracks:
            return None
        followed = tracks[max(areas, key=lambda track: areas[track])]
        numbers = list(followed)
        written = range(len(times_s)) if every_picture else numbers
        shown_s = np.array([times_s[number] for number in written]) - times_s[written[0]]
        steady = np.abs(shown_s - np.arange(len(written)) / fps).max() < 0.5 / fps

        def crops() -> Iterator[Pixels]:
            for number, (_, frame) in enumerate(frames(source)):
                if every_picture or number in followed:
                    face = followed[numbers[max(bisect_right(numbers, number) - 1, 0)]]
                    yield crop_face(frame, face.box, config.cropping(), face.landmarks)

        file.parent.mkdir(parents=True, exist_ok=True)
        write_video(file, crops(), fps, times_s=None if steady else shown_s.tolist(), gop=config.gop, tune=TUNE)
    face_px = round(float(np.mean([max(face.box[2:]) for face in followed.values()])), 1)
    return OneFace(file.stat().st_size, len(written), len(times_s), len(tracks), face_px)


class _TrackRun:
    """Consecutive frames of one track, written as clips of `max_clip_s`.

    A remainder shorter than `min_track_s` is appended to the clip before it.
    """

    def __init__(self, folder: Path, track: int, fps: float, config: CropConfig) -> None:
        self._folder, self._track, self._fps, self._gop = folder, track, fps, config.gop
        self._longest = max(round(config.max_clip_s * fps), 1)
        self._shortest = max(round(config.min_track_s * fps), 1)
        self._writer: VideoWriter | None = None
        # Frames after a full clip, which start the next clip or end this one: crop, time_s and face_px.
        self._held: list[tuple[Pixels, float, float]] = []
        self._written: list[tuple[float, float]] = []  # time_s and face_px of the frames of the clip

    def add(self, crop: Pixels, time_s: float, face: TrackedFace) -> Iterator[FaceClip]:
        """Add the next frame; yields the clip that this completes, if any."""
        self._held.append((crop, time_s, max(face.box[2:])))
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
        for crop, time_s, face_px in self._held:
            if self._writer is None:
                # No two clips of a track start in the same millisecond, so the names are unique.
                self._file = self._folder / f"{self._track:03d}_{round(1000 * time_s):08d}.mp4"
                self._writer = VideoWriter(self._file, self._fps, gop=self._gop, tune=TUNE)
            self._writer.write(crop)
            self._written.append((time_s, face_px))
        self._held = []

    def _end(self) -> FaceClip:
        assert self._writer is not None
        self._writer.finish()
        times_s, faces_px = zip(*self._written, strict=True)
        self._writer, self._written = None, []
        start_s, end_s = round(times_s[0], 3), round(times_s[-1] + 1 / self._fps, 3)
        face_px = round(float(np.mean(faces_px)), 1)
        return FaceClip(self._file.name, self._file.stat().st_size, self._track, start_s, end_s, face_px)
