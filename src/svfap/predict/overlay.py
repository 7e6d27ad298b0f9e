"""A copy of a video with the predictions drawn in: face boxes, track numbers, the most probable label, bars of all labels.

The overlay is made in a second pass over the file, in which the faces are tracked again with the same result. So boxes
move with every frame, although the first pass keeps nothing but its table. The sound is copied.
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
from svfap.predict.draw import FaceValues, Painter
from svfap.predict.reader import DECODED_AHEAD, Reader, prefetched
from svfap.predict.timeline import Timeline
from svfap.predict.windows import Box

COPIED_AUDIO = ("aac", "mp3", "ac3", "opus")  # playable in all three containers; other codecs are converted to AAC


def write_overlay(
    video: str | Path, table: pd.DataFrame, reader: Reader, columns: Sequence[str], colors: Sequence[str], out: Path
) -> Iterator[int]:
    """Write the overlay of one video, yielding the number of frames written so far; `out` appears whole or not at all.

    Args:
        table: the video's rows, from a `Predictor` with the same `reader`.
        columns: those of the table that hold predictions.
        colors: "#rrggbb" for each of these columns; reused from the start if there are fewer.
        out: .mp4, .mov or .mkv.

    Raises:
        VideoError: the video cannot be read.
        UserError: the overlay cannot be written, or `out` is the video itself.
    """
    if Path(video).exists() and out.exists() and out.samefile(video):
        raise UserError(f"overlay={out}: is the video itself; give another name")
    tracks = table.groupby("track") if "track" in table else [(0, table)]
    timelines = {int(str(track)): Timeline.of_table(rows, columns) for track, rows in tracks}
    try:
        with replacing_file(out) as part, ExitStack() as stack:
            source = stack.enter_context(open_video(video))
            frames = stack.enter_context(closing(prefetched(source.steady_frames(), DECODED_AHEAD)))
            writer: _OverlayWriter | None = None
            painter: Painter | None = None
            for item in reader.tracks(frames, source.fps):
                if writer is None or painter is None:
                    height, width = item.frame.shape[:2]
                    painter = Painter(height, width, columns, colors, _value_range(table, columns))
                    writer = stack.enter_context(_OverlayWriter(part, Path(video), (height, width), source.fps))
                writer.write(painter.paint(item.frame, _faces(item, timelines, 0.5 / source.fps)), item.time_s)
                yield item.index + 1
            if writer is not None:
                writer.finish()
    except av.FFmpegError as error:
        raise UserError(f"{out}: cannot be written ({error.strerror or error}); choose another place") from None


def _value_range(table: pd.DataFrame, columns: Sequence[str]) -> tuple[float, float]:
    """Values at the two ends of a bar: 0 to 1, or wider if the values are outside."""
    values = table[list(columns)].to_numpy(float)
    largest = max(1.0, float(np.nanmax(np.abs(values), initial=0.0)))
    return (-largest if (values < 0).any() else 0.0), largest


def _faces(item: TrackedFrame, timelines: dict[int, Timeline], tolerance_s: float) -> list[FaceValues]:
    """What to draw into this frame. Track 0 is the whole picture, of a table without tracks."""
    boxes: list[tuple[int, Box | None]] = [(face.track, face.box) for face in item.faces]
    if not boxes and 0 in timelines:
        boxes = [(0, None)]
    return [
        FaceValues(track, box, timelines[track].values_at(item.time_s, tolerance_s) if track in timelines else None)
        for track, box in boxes
    ]


class _OverlayWriter:
    """An H.264 file with the sound of another file; both are written interleaved, so memory does not grow.

    shape: (height, width) of the pictures; odd sizes, which H.264 does not take, grow by repeating the last row or column.
    """

    def __init__(self, path: Path, sound_of: Path, shape: tuple[int, int], fps: float) -> None:
        self._stack = ExitStack()
        self._out = self._stack.enter_context(av.open(f"file:{path}", "w"))
        rate = Fraction(fps).limit_denominator(10_000)
        self._video = self._out.add_stream("libx264", rate=rate, options={"crf": "20", "preset": "veryfast"})
        self._video.height, self._video.width = (side + side % 2 for side in shape)
        self._video.pix_fmt = "yuv420p"
        self._video.codec_context.time_base = 1 / rate
        self._sound: Iterator[tuple[float, av.Packet[av.AudioStream]]] = iter(())
        self._next: tuple[float, av.Packet[av.AudioStream]] | None = None
        self._count = 0
        if sound_of.is_file():
            with suppress(av.error.InvalidDataError):
                self._take_sound(sound_of)

    def write(self, picture: np.ndarray, time_s: float) -> None:
        """Write the next picture, uint8 RGB (H, W, 3), and the sound up to its time."""
        odd = (self._video.height - picture.shape[0], self._video.width - picture.shape[1])
        even = np.pad(picture, ((0, odd[0]), (0, odd[1]), (0, 0)), mode="edge") if any(odd) else picture
        frame = av.VideoFrame.from_ndarray(even, format="rgb24")
        frame.pts, frame.time_base = self._count, self._video.codec_context.time_base
        self._count += 1
        self._out.mux(self._video.encode(frame))
        self._write_sound(time_s)

    def finish(self) -> None:
        """Write what the encoder holds and the rest of the sound, and close the file."""
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
        shift_s = float(
            (pictures.start_time or 0) * (pictures.time_base or 0)
        )  # in the overlay the first picture is at 0
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

    def __enter__(self) -> _OverlayWriter:
        return self

    def __exit__(self, *error: object) -> None:
        with suppress(OSError, av.FFmpegError):  # a full disk was reported when writing failed
            self._stack.close()
