"""A video with what was read from its faces drawn into it: boxes, ids, the top label, a moving bar for every label.

A second pass over the file: faces are followed again, with the same result, so boxes move with every frame and nothing
has to be kept from the first pass but its table. The sound goes along as it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, suppress
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pandas as pd

from svfap.data.video import open_video
from svfap.errors import UserError
from svfap.faces.track import TrackedFrame
from svfap.files import replacing_file
from svfap.predict.draw import Painter, Reading
from svfap.predict.reader import DECODED_AHEAD, Reader, prefetched
from svfap.predict.timeline import runs_of

OVERLAY_SUFFIXES = (".mp4", ".mov", ".mkv")
COPIED_AUDIO = ("aac", "mp3", "ac3", "opus")  # all players know these in all three containers; others become AAC


def write_overlay(
    video: str | Path, table: pd.DataFrame, reader: Reader, labels: Sequence[str], colors: Sequence[str], out: Path
) -> Iterator[int]:
    """Write the overlay of one video, yielding the number of frames written so far; `out` appears whole or not at all.

    table: the video's rows as from a `Predictor` with the same `reader`; labels: its columns of probabilities or values;
    colors: "#rrggbb" for each label in turn. Raises `VideoError` where the video cannot be read, `UserError` where the
    overlay cannot be written.
    """
    if Path(video).exists() and out.exists() and out.samefile(video):
        raise UserError(f"--overlay {out}: is the video itself; give another name")
    readings = {track: _Track(rows, labels) for track, rows in _by_track(table)}
    try:
        with replacing_file(out) as part, ExitStack() as stack:
            source = stack.enter_context(open_video(video))
            frames = stack.enter_context(closing(prefetched(source.steady_frames(), DECODED_AHEAD)))
            film: _Film | None = None
            painter: Painter | None = None
            for item in reader.tracks(frames, source.fps):
                if film is None or painter is None:
                    painter = Painter(item.frame.shape[0], item.frame.shape[1], labels, colors, _span(table, labels))
                    film = stack.enter_context(_Film(part, Path(video), item.frame.shape, source.fps))
                film.write(painter.paint(item.frame, list(_drawn(item, readings, source.fps))), item.time_s)
                yield item.index + 1
            if film is not None:
                film.finish()
    except av.FFmpegError as error:
        raise UserError(f"{out}: cannot be written ({error.strerror or error}); choose another place") from None


def _by_track(table: pd.DataFrame) -> Iterator[tuple[int, pd.DataFrame]]:
    if "track" not in table:
        yield 0, table
        return
    for track, rows in table.groupby("track"):
        yield int(str(track)), rows


def _span(table: pd.DataFrame, labels: Sequence[str]) -> tuple[float, float]:
    """Values at the two ends of a bar: 0 to 1, or as far as the values go."""
    values = table[list(labels)].to_numpy(float)
    reach = max(1.0, float(np.nanmax(np.abs(values), initial=0.0)))
    return (-reach if (values < 0).any() else 0.0), reach


class _Track:
    """A track's values at any time: linear between the centres of its windows, none in its gaps."""

    def __init__(self, rows: pd.DataFrame, labels: Sequence[str]) -> None:
        self._runs = []
        for run in runs_of(rows):
            start, end = run["start_s"].to_numpy(float), run["end_s"].to_numpy(float)
            self._runs.append((start[0], end.max(), (start + end) / 2, run[list(labels)].to_numpy(float)))

    def at(self, time_s: float, tolerance_s: float) -> np.ndarray | None:
        """(K,) values; None where no window covers this time."""
        for start, end, centers, values in self._runs:
            if start - tolerance_s <= time_s <= end + tolerance_s:
                return np.array([np.interp(time_s, centers, column) for column in values.T])
        return None


def _drawn(item: TrackedFrame, readings: dict[int, _Track], fps: float) -> Iterator[Reading]:
    def values(track: int) -> np.ndarray | None:
        return readings[track].at(item.time_s, 0.5 / fps) if track in readings else None

    for face in item.faces:
        yield Reading(face.track, face.box, values(face.track))
    if not item.faces and 0 in readings:  # the whole picture is the face
        yield Reading(0, None, values(0))


class _Film:
    """An H.264 file with the sound of another; pictures and sound are written side by side, so neither piles up."""

    def __init__(self, path: Path, sound_of: Path, shape: Sequence[int], fps: float) -> None:
        self._stack = ExitStack()
        self._out = self._stack.enter_context(av.open(f"file:{path}", "w"))
        rate = Fraction(fps).limit_denominator(10_000)
        self._video = self._out.add_stream("libx264", rate=rate, options={"crf": "20", "preset": "veryfast"})
        self._video.width, self._video.height, self._video.pix_fmt = (
            shape[1] + shape[1] % 2,
            shape[0] + shape[0] % 2,
            "yuv420p",
        )
        self._video.codec_context.time_base = 1 / rate
        self._sound: Iterator[tuple[float, av.Packet[av.AudioStream]]] = iter(())
        self._next: tuple[float, av.Packet[av.AudioStream]] | None = None
        self._count = 0
        if sound_of.is_file():
            with suppress(av.error.InvalidDataError):
                self._take_sound(sound_of)

    def write(self, picture: np.ndarray, time_s: float) -> None:
        """The next picture, uint8 RGB (H, W, 3), and the sound up to it."""
        odd = (self._video.height - picture.shape[0], self._video.width - picture.shape[1])
        even = np.pad(picture, ((0, odd[0]), (0, odd[1]), (0, 0)), mode="edge") if any(odd) else picture
        frame = av.VideoFrame.from_ndarray(even, format="rgb24")
        frame.pts, frame.time_base = self._count, self._video.codec_context.time_base
        self._count += 1
        self._out.mux(self._video.encode(frame))
        self._write_sound(time_s)

    def finish(self) -> None:
        """What is left of both; the file is whole then."""
        self._out.mux(self._video.encode(None))
        self._write_sound(np.inf)
        self._out.close()

    def _write_sound(self, until_s: float) -> None:
        while self._next is not None and self._next[0] <= until_s:
            self._out.mux(self._next[1])
            self._next = next(self._sound, None)

    def _take_sound(self, path: Path) -> None:
        source = self._stack.enter_context(av.open(f"file:{path}", metadata_errors="replace"))
        if not source.streams.audio:
            return
        stream, pictures = source.streams.audio[0], source.streams.video[0]
        shift_s = float((pictures.start_time or 0) * (pictures.time_base or 0))  # our first picture is at 0
        packets = self._copied if stream.codec.canonical_name in COPIED_AUDIO else self._encoded
        self._sound = packets(source, stream, shift_s)
        self._next = next(self._sound, None)

    def _copied(
        self, source: av.container.InputContainer, stream: av.AudioStream, shift_s: float
    ) -> Iterator[tuple[float, av.Packet[av.AudioStream]]]:
        target = self._out.add_stream_from_template(stream)
        for packet in source.demux(stream):
            if packet.pts is None or packet.dts is None or packet.time_base is None:
                continue
            shift = round(shift_s / packet.time_base)
            packet.pts, packet.dts, packet.stream = packet.pts - shift, packet.dts - shift, target
            if packet.pts >= 0:
                yield float(packet.pts * packet.time_base), packet

    def _encoded(
        self, source: av.container.InputContainer, stream: av.AudioStream, shift_s: float
    ) -> Iterator[tuple[float, av.Packet[av.AudioStream]]]:
        target = self._out.add_stream("aac", rate=stream.rate)
        resampler = av.AudioResampler("fltp", "stereo", stream.rate)
        written: int | None = None
        for decoded in source.decode(stream):
            if (time_s := (decoded.time or 0.0) - shift_s) < 0:
                continue
            written = round(time_s * stream.rate) if written is None else written
            for frame in resampler.resample(decoded):
                frame.pts, frame.time_base = written, Fraction(1, stream.rate)
                written += frame.samples
                for packet in target.encode(frame):
                    yield float((packet.pts or 0) * (packet.time_base or 0)), packet
        for packet in target.encode(None):
            yield float((packet.pts or 0) * (packet.time_base or 0)), packet

    def __enter__(self) -> _Film:
        return self

    def __exit__(self, *error: object) -> None:
        with suppress(OSError, av.FFmpegError):  # a full disk has been told; closing would tell again
            self._stack.close()
