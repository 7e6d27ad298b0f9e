"""Speed of `svfap predict` on a video of one face, by stage, and its peak memory by length of the video.

    python benchmarks/predict.py --clip CLIP.mp4

The clip is placed in the middle of a frame of each size. Stages are measured one after the other; end to end they run in
parallel. "× real time": seconds of video per second. Weights are random, which does not change the cost.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from functools import partial
from itertools import islice
from pathlib import Path

import av
import cv2
import numpy as np
import torch
from common import add_machine_arguments, machine, table

from svfap.data.video import open_video, write_video
from svfap.faces.config import FaceCropConfig
from svfap.faces.crop import crop_face
from svfap.faces.detect import Detector, Face, make_detector
from svfap.faces.track import TrackedFrame, track_faces
from svfap.model.build import create_model
from svfap.predict.predictor import Predictor, run_clips

SIZES = {"360p": (360, 640), "720p": (720, 1280), "1080p": (1080, 1920)}
MEMORY_S = (30, 120, 600)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clip", type=Path, required=True, help="a video of one face")
    parser.add_argument("--face_model", type=Path, help="YuNet's .onnx file; default: see docs/faces.md")
    parser.add_argument("--seconds", type=float, default=10.0, help="seconds of video for the speed measurements")
    # Used internally: the video whose peak memory a subprocess measures.
    parser.add_argument("--memory", metavar="VIDEO", help=argparse.SUPPRESS)
    add_machine_arguments(parser)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.memory:
        print(json.dumps(_peak_memory(args.memory, args)))
        return
    print("\n".join(machine(torch.device(args.device))), end="\n\n")
    with tempfile.TemporaryDirectory() as folder:
        sizes = dict(islice(SIZES.items(), 1)) if args.quick else SIZES
        clips = {
            name: _framed(args.clip, size, args.seconds, Path(folder) / f"{name}.mp4") for name, size in sizes.items()
        }
        presets = ("svfap_debug",) if args.quick else ("svfap_small", "svfap_base")
        # Memory first, since a subprocess inherits the peak memory of its parent.
        memory = _memory(clips["360p"], Path(folder), args)
        print(_speeds(clips, presets, args), end="\n\n")
        print(memory)


def _framed(clip: Path, size: tuple[int, int], seconds: float, path: Path) -> Path:
    """Write the clip scaled to fit the frame and centred on grey."""
    height, width = size

    def pictures() -> Iterator[np.ndarray]:
        with open_video(clip) as source:
            for _, picture in islice(source.steady_frames(), round(seconds * source.fps)):
                scale = min(height / picture.shape[0], width / picture.shape[1])
                shown = cv2.resize(picture, None, fx=scale, fy=scale)
                frame = np.full((height, width, 3), 90, np.uint8)
                top, left = (height - shown.shape[0]) // 2, (width - shown.shape[1]) // 2
                frame[top : top + shown.shape[0], left : left + shown.shape[1]] = shown
                yield frame

    with open_video(clip) as source:
        fps = source.fps
    write_video(path, pictures(), fps, gop=48, crf=23)
    return path


def _looped(clip: Path, seconds: float, path: Path) -> Path:
    """Write a video of at least `seconds` that repeats the packets of the clip without re-encoding."""
    with av.open(str(path), "w") as out:
        stream = None
        shift = 0
        while stream is None or shift * float(stream.time_base or 1) < seconds:
            with av.open(str(clip)) as source:
                template = source.streams.video[0]
                stream = stream or out.add_stream_from_template(template)
                tick = Fraction(template.time_base or 1)
                length = round(template.frames / (template.average_rate or 25) / tick)
                for packet in source.demux(template):
                    if packet.dts is None or packet.pts is None:
                        continue
                    packet.pts, packet.dts, packet.stream = packet.pts + shift, packet.dts + shift, stream
                    out.mux(packet)
            stream.time_base = stream.time_base or tick
            shift += length
    return path


def _speeds(clips: dict[str, Path], presets: tuple[str, ...], args: argparse.Namespace) -> str:
    detector = make_detector("auto", args.face_model)
    rows = []
    for name, clip in clips.items():
        with open_video(clip) as source:
            duration, fps = source.duration_s, source.fps
            frames: list[tuple[float, np.ndarray]] = []
            decoding = _wall_seconds(lambda: frames.extend(source.steady_frames()))  # noqa: B023
        tracked: list[TrackedFrame] = []
        timed = _Timed(detector)
        tracking = _wall_seconds(lambda: tracked.extend(track_faces(iter(frames), timed, fps=fps))) - timed.seconds  # noqa: B023
        for preset in presets:
            model = create_model(preset, "classification", num_outputs=7)
            predictor = Predictor(model, args.device, hop_s=None, faces=detector)
            crop = FaceCropConfig(size_px=model.config.img_size)
            cropping = _wall_seconds(lambda: [crop_face(t.frame, f.box, crop) for t in tracked for f in t.faces])  # noqa: B023
            windows = list(predictor.reader.windows(clip))
            clips = np.stack([window.frames for window in windows])
            run = partial(run_clips, model, config=model.config, device=predictor.device, dtype=predictor.dtype)
            run(clips=clips[:1])
            running = _wall_seconds(lambda: run(clips=clips))  # noqa: B023
            total = _wall_seconds(lambda: list(predictor.stream(clip)))  # noqa: B023
            stages = (decoding, timed.seconds, tracking, cropping, running)
            rows.append([f"{name}, {preset}", *(f"{duration / s:.1f}" for s in stages), f"**{duration / total:.1f}**"])
    return table(["× real time", "decode", "detect", "track", "crop", "model", "end to end"], rows)


class _Timed:
    """A detector that adds up its wall-clock time in seconds."""

    def __init__(self, detector: Detector) -> None:
        self.name, self.detector, self.seconds = detector.name, detector, 0.0

    def detect(self, frame: np.ndarray) -> list[Face]:
        start = time.perf_counter()
        faces = self.detector.detect(frame)
        self.seconds += time.perf_counter() - start
        return faces


def _wall_seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def _memory(clip: Path, folder: Path, args: argparse.Namespace) -> str:
    rows = []
    for seconds in (10, 20) if args.quick else MEMORY_S:
        video = _looped(clip, seconds, folder / f"{seconds}.mp4")
        command = [
            sys.executable,
            __file__,
            "--clip",
            str(clip),
            "--memory",
            str(video),
            "--threads",
            str(args.threads),
        ]
        command += ["--face_model", str(args.face_model)] if args.face_model else []
        found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        rows.append([f"{seconds} s", str(found["rows"]), f"{found['peak_mb']:.0f} MB"])
    return table(["length", "rows", "peak memory"], rows)


def _peak_memory(video: str, args: argparse.Namespace) -> dict[str, float]:
    import resource

    model = create_model("svfap_debug", "classification", num_outputs=7)
    predictor = Predictor(model, args.device, hop_s=None, faces=make_detector("auto", args.face_model))
    rows = sum(1 for _ in predictor.stream(video))
    return {"rows": rows, "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


if __name__ == "__main__":
    main()
