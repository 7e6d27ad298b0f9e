"""A copy of a video with the predictions drawn in: face boxes, numbers of faces, the most probable label, bars of all labels.

It is made in a second pass over the file, with the boxes that prediction found in each frame. The sound is kept.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from contextlib import closing, suppress
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pandas as pd
from av.container import OutputContainer

from svfap.console import track
from svfap.data.ffmpeg import open_container, packets_of
from svfap.data.timing import MAX_HOLE_S
from svfap.data.video import Pixels, VideoError, VideoSource
from svfap.errors import UserError
from svfap.faces.track import TrackedFrame
from svfap.files import printable, replacing_file
from svfap.model.config import ModelConfig
from svfap.predict.boxes import FaceBoxes
from svfap.predict.draw import FaceValues, Painter
from svfap.predict.reader import DECODED_AHEAD, Reader, prefetched
from svfap.predict.table import value_columns
from svfap.predict.timeline import Timeline

CLEARLY = 0.05  # part of a bar's length
COPIED_AUDIO = ("aac", "mp3", "ac3", "opus")  # playable in all three containers; other codecs are converted to AAC


def write_overlay(
    video: str | Path, table: pd.DataFrame, reader: Reader, out: Path, boxes: FaceBoxes | None = None
) -> None:
    """Write the overlay of one video, with a progress bar; `out` is complete or absent.

    table: the video's rows, from a `Predictor` with the same `reader`. out: .mp4, .mov or .mkv. boxes: those that were found
    for these rows; None: as of a resumed run, the faces are tracked again, with the same result. Raises `VideoError` if the
    video cannot be read, `UserError` if the overlay cannot be written or `out` is the video itself.
    """
    video = Path(video)
    if video.exists() and out.exists() and out.samefile(video):
        raise UserError(f"overlay={out}: is the video itself; give another name")
    try:
        with (
            replacing_file(out) as part,
            reader.open(video) as source,
            closing(prefetched(reader.frames(source), DECODED_AHEAD)) as frames,
            av.open(f"file:{part}", "w") as target,
        ):
            assert isinstance(source, VideoSource)  # a live source was refused
            fps = reader.rate(source)
            shown = track(frames, f"overlay {printable(video.name)[:16]}", reader.num_frames(source))
            tracked = reader.tracks(shown, fps) if boxes is None else boxes.on(shown)
            pictures = _encoded(_painted(tracked, table, 0.5 / fps, reader.config), fps, target)
            # Sorted by time, so that FFmpeg does not buffer packets.
            for packet in heapq.merge(pictures, _sound(source, target), key=_time):
                target.mux(packet)
    except av.FFmpegError as error:
        raise UserError(f"{out}: cannot be written ({error.strerror or error}); choose another place") from None


def _time(packet: av.Packet[Any]) -> Fraction:
    return Fraction(packet.dts or 0) * (packet.time_base or 0)


def bar_ranges(values: np.ndarray, config: ModelConfig) -> np.ndarray:
    """(K, 2): the values at the two ends of each output's bar; values: (N, K), those that are drawn.

    A bar starts at 0 and has room for the output's usual values, which `output_offset` and `output_scale` tell (without them
    up to 1), and for the largest value drawn. Only values that are clearly negative make it a bar to both sides of 0.
    """
    usual = np.concatenate([_usual(shape) for shape in config.outputs.values()])
    largest = np.maximum(usual, np.nanmax(np.abs(values), axis=0, initial=0.0))
    signed = np.nanmin(values, axis=0, initial=0.0) < -CLEARLY * largest
    return np.stack([np.where(signed, -largest, 0.0), largest], axis=1)


def _usual(config: ModelConfig) -> np.ndarray:
    """(K,) how large the outputs of a model with one head usually are."""
    if not config.output_scale:
        return np.ones(config.num_outputs)
    reach = 3.0 if config.output_activation == "none" else 1.0  # standard deviations, or the end of the activation
    return np.asarray(np.abs(config.output_offset) + reach * np.array(config.output_scale))


def _painted(
    frames: Iterable[TrackedFrame], table: pd.DataFrame, tolerance_s: float, config: ModelConfig
) -> Iterator[tuple[float, Pixels]]:
    columns = value_columns(table)
    values = table[columns].to_numpy(float)
    value_ranges = bar_ranges(values, config)
    tracks = table.groupby("track") if "track" in table else [(0, table)]
    timelines = {int(str(number)): Timeline.of_table(rows, columns) for number, rows in tracks}
    painter: Painter | None = None
    for item in frames:
        height, width = item.frame.shape[:2]
        painter = painter or Painter(height, width, columns, value_ranges)
        faces = []
        for face in item.faces:
            timeline = timelines.get(face.track)
            now = None if timeline is None else timeline.values_at(item.time_s, tolerance_s)
            faces.append(FaceValues(face.track, face.box if face.track else None, now))
        yield item.time_s, painter.paint(item.frame, faces)


def _encoded(pictures: Iterable[tuple[float, Pixels]], fps: float, target: OutputContainer) -> Iterator[av.Packet[Any]]:
    """H.264; odd sizes, which it does not take, grow by repeating the last row or column."""
    rate = Fraction(fps).limit_denominator(10_000)
    stream = target.add_stream("libx264", rate=rate, options={"crf": "20", "preset": "veryfast"})
    stream.pix_fmt, stream.codec_context.time_base = "yuv420p", 1 / rate
    last = -1
    for time_s, picture in pictures:
        odd = [side % 2 for side in picture.shape[:2]]
        even = np.pad(picture, ((0, odd[0]), (0, odd[1]), (0, 0)), mode="edge") if any(odd) else picture
        if last < 0:
            stream.height, stream.width = even.shape[:2]
        frame = av.VideoFrame.from_ndarray(even, format="rgb24")
        last = max(round(time_s * fps), last + 1)  # over a hole in the video, the sound goes on
        frame.pts, frame.time_base = last, 1 / rate
        yield from stream.encode(frame)
    yield from stream.encode(None)


def _sound(video: VideoSource, target: OutputContainer) -> Iterator[av.Packet[Any]]:
    """The first audio stream of a file, if it has one, from the time of the first picture on.

    Where the time stamps jump back, as in joined files, the sound continues without a gap, as the pictures do.
    """
    if not video.path.is_file():
        return
    with suppress(av.error.InvalidDataError, VideoError), open_container(video.path) as source:
        if not source.streams.audio:
            return
        stream = source.streams.audio[0]
        if stream.codec.canonical_name in COPIED_AUDIO:
            copy = target.add_stream_from_template(stream)
            shift, end, last = None, 0, 0  # in ticks
            for packet in packets_of(source, stream):
                if packet.pts is not None and packet.dts is not None and packet.time_base is not None:
                    shift = -round(video.start_s / packet.time_base) if shift is None else shift
                    shift += max(end - packet.dts - shift, 0) if packet.dts + shift < last else 0
                    packet.pts, packet.dts, packet.stream = packet.pts + shift, packet.dts + shift, copy
                    last, end = packet.dts, packet.dts + (packet.duration or 0)
                    if packet.pts >= 0:
                        yield packet
            return
        converted = target.add_stream("aac", rate=stream.rate)
        jump = round(MAX_HOLE_S * stream.rate)
        num_samples, shift = None, 0  # samples are counted, as time stamps may be rounded
        for frame in source.decode(stream):
            due = round(((frame.time or 0.0) - video.start_s) * stream.rate) + shift
            if due >= 0 or num_samples is not None:
                num_samples = due if num_samples is None or due > num_samples + jump else num_samples
                shift += num_samples - due if due < num_samples - jump else 0
                frame.pts, frame.time_base = num_samples, Fraction(1, stream.rate)
                num_samples += frame.samples
                yield from converted.encode(frame)
        yield from converted.encode(None)
