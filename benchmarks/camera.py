"""Readings a second of the camera's WebSocket, with a video's pictures in place of a camera's.

    python benchmarks/camera.py --clip CLIP [--model movement] [--seconds 20]

Starts the server within this process, sends each picture as a JPEG when the one before is answered, as the page does, and prints
readings a second and how long a reading takes.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import tempfile
import threading
import time
from pathlib import Path

import cv2
import numpy as np
import uvicorn
import websockets

from svfap.data.video import open_video
from svfap.serve.api import make_app
from svfap.serve.config import ServeConfig

TOKEN = "the token of a benchmark"
LONGER_SIDE, QUALITY = 640, 80  # as in serve/page/camera.js


def jpegs(clip: Path) -> list[bytes]:
    with open_video(clip) as video:
        pictures = video.read(np.arange(min(len(video.times_s), 100)))
    scale = min(1.0, LONGER_SIDE / max(pictures.shape[1:3]))
    size = round(pictures.shape[2] * scale), round(pictures.shape[1] * scale)
    quality = [cv2.IMWRITE_JPEG_QUALITY, QUALITY]
    small = (cv2.cvtColor(cv2.resize(each, size), cv2.COLOR_RGB2BGR) for each in pictures)
    return [cv2.imencode(".jpg", each, quality)[1].tobytes() for each in small]


async def measure(address: str, pictures: list[bytes], seconds: float) -> tuple[list[float], list[float], int]:
    """Times at which answers came, milliseconds that the server took for each, and answers with a face."""
    times: list[float] = []
    taken: list[float] = []
    with_face = 0
    headers = {"Authorization": f"Bearer {TOKEN}"}
    async with websockets.connect(address, additional_headers=headers) as socket:
        await socket.recv()
        for number, picture in enumerate(itertools.cycle(pictures)):
            await socket.send(picture)
            answer = json.loads(await socket.recv())
            if number >= 10:  # the first ones warm up
                times.append(time.perf_counter())
                taken.append(answer["read_ms"])
                with_face += bool(answer["faces"])
                if times[-1] - times[0] > seconds:
                    return times, taken, with_face
    raise AssertionError


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clip", type=Path, required=True)
    parser.add_argument("--model", default="movement")
    parser.add_argument("--seconds", type=float, default=20)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        config = ServeConfig(folder=Path(folder), token=TOKEN, models=[args.model])
        server = uvicorn.Server(uvicorn.Config(make_app(config, TOKEN), port=0, log_level="warning"))
        thread = threading.Thread(target=server.run)
        thread.start()
        while not server.started:
            time.sleep(0.1)
        port = server.servers[0].sockets[0].getsockname()[1]
        address = f"ws://127.0.0.1:{port}/v1/camera?model={args.model}"
        try:
            times, taken, with_face = asyncio.run(measure(address, jpegs(args.clip), args.seconds))
        finally:
            server.should_exit = True
            thread.join()
    rate = (len(times) - 1) / (times[-1] - times[0])
    print(f"{rate:.1f} readings a second over {times[-1] - times[0]:.0f} s, {with_face} of {len(times)} with a face")
    print(f"a reading takes {np.median(taken):.0f} ms (95%: {np.percentile(taken, 95):.0f} ms)")


if __name__ == "__main__":
    main()
