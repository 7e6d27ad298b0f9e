"""Time and memory of the commands on half an hour and on two hours of video: both must be linear, memory constant.

    python benchmarks/faults/long_video.py --clip FACE.mp4

The clip's packets are repeated without being encoded again. Prints a Markdown table; the exit status is 1 if the longer video
takes more than 1.25 times its share of the time, or more than 1.15 times the memory (extract and predict keep rows).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import av
from workbench import ENVIRONMENT, film, save_model

MINUTES = (30, 120)
MEASURE = """
import json, resource, subprocess, sys, time
began = time.monotonic()
status = subprocess.run([sys.executable, "-m", "svfap", *sys.argv[1:]], stdout=2).returncode
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(json.dumps([status, time.monotonic() - began, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024]))
"""


def repeat(clip: Path, target: Path, minutes: float) -> Path:
    """Write the packets of a clip again and again until the video is that long."""
    with av.open(str(clip)) as source, av.open(str(target), "w") as container:
        stream = source.streams.video[0]
        out = container.add_stream_from_template(stream)
        packets = [(packet, packet.pts, packet.dts) for packet in source.demux(stream) if packet.size]
        step = packets[-1][0].duration or round(1 / (stream.average_rate * stream.time_base))
        length = max(pts for _, pts, _ in packets) - min(pts for _, pts, _ in packets) + step
        seconds = float(length * stream.time_base)
        for n in range(round(minutes * 60 / seconds)):
            for packet, pts, dts in packets:
                packet.stream, packet.pts, packet.dts = out, pts + n * length, dts + n * length
                container.mux(packet)
    return target


def measure(arguments: list[str], folder: Path) -> tuple[float, float]:
    """(CPU seconds, peak memory in MB) of a command."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, *arguments], cwd=folder, capture_output=True, text=True, env=ENVIRONMENT
    )
    status, _, cpu_s, peak_mb = json.loads(done.stdout)
    if status != 0:
        raise RuntimeError(f"{arguments[0]} ended with {status}: {done.stderr[-500:]}")
    return cpu_s, peak_mb


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clip", type=Path, help="a short video of a face; default: one without")
    parser.add_argument("--minutes", type=float, nargs=2, default=MINUTES, help="lengths; default: 30 120")
    args = parser.parse_args()
    wrong = False
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_model(folder / "model")
        clip = args.clip or film(folder / "clip.mp4", 0, number=250)
        for minutes in args.minutes:
            repeat(clip, folder / f"{minutes:g}.mp4", minutes)
        model = ["--model", "model"]
        commands = {
            "predict, whole picture": lambda m: [
                "predict",
                f"{m:g}.mp4",
                *model,
                "--faces",
                "none",
                "--out",
                f"{m:g}.csv",
            ],
            "predict, Haar": lambda m: ["predict", f"{m:g}.mp4", *model, "--faces", "haar", "--out", f"h{m:g}.csv"],
            "extract": lambda m: ["extract", f"{m:g}.mp4", *model, "--faces", "none", "--out", f"{m:g}.parquet"],
            "crop": lambda m: ["crop", f"{m:g}.mp4", "--faces", "haar", "--out", f"crop{m:g}"],
        }
        share = args.minutes[1] / args.minutes[0]
        print(
            "| command | minutes | CPU seconds | ratio | peak MB | ratio |\n| --- | ---: | ---: | ---: | ---: | ---: |"
        )
        for title, command in commands.items():
            (short_s, short_mb), (long_s, long_mb) = (measure(command(m), folder) for m in args.minutes)
            print(f"| {title} | {args.minutes[0]:g} | {short_s:.0f} | | {short_mb:.0f} | |")
            ratios = long_s / short_s, long_mb / short_mb
            print(
                f"| | {args.minutes[1]:g} | {long_s:.0f} | {ratios[0]:.2f} | {long_mb:.0f} | {ratios[1]:.2f} |",
                flush=True,
            )
            wrong |= ratios[0] > 1.25 * share or ratios[1] > 1.15
    raise SystemExit(wrong)


if __name__ == "__main__":
    main()
