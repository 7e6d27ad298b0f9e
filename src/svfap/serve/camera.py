"""The browser's camera: pictures come through a WebSocket, what is read in them goes back."""

from __future__ import annotations

import asyncio
import io
import json
import time
from threading import Lock
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from starlette.websockets import WebSocket, WebSocketDisconnect

from svfap.errors import UserError

if TYPE_CHECKING:
    from svfap.predict.predictor import Predictor
    from svfap.serve.config import ServeConfig

MAX_CAMERAS = 4
MAX_PIXELS = 2_100_000  # of a picture: 1080p
SILENCE_S = 60.0  # a camera that sends nothing for so long is gone


class Cameras:
    """The cameras of all callers, which share one model of each name; one picture is read at a time."""

    def __init__(self, config: ServeConfig) -> None:
        self.config = config
        self.number = 0
        self._predictors: dict[str, Predictor] = {}
        self._lock = Lock()

    async def serve(self, socket: WebSocket, model: str) -> None:
        """Answer each JPEG picture with its faces, as JSON; of pictures that wait only the newest is read.

        First comes {"names": [...], "probabilities": bool}, then for each picture {"faces": [{"track", "box", "values"}],
        "size": [width, height], "dropped": pictures left out since the last answer, "read_ms": time that reading took}. A
        picture that cannot be read is answered with {"error": reason}.
        """
        await socket.accept()
        if self.number >= MAX_CAMERAS:
            await socket.close(1013, f"{MAX_CAMERAS} cameras are in use, which is the most")
            return
        self.number += 1
        try:
            await self._serve(socket, model)
        except WebSocketDisconnect:
            pass
        except UserError as error:
            await socket.close(1008, str(error)[:120])
        finally:
            self.number -= 1

    async def _serve(self, socket: WebSocket, model: str) -> None:
        if model not in self.config.models:
            raise UserError(f"model: must be one of {', '.join(self.config.models)}")
        predictor = await asyncio.to_thread(self._predictor, model)
        from svfap.predict.live import LivePredictor
        from svfap.predict.table import PROBABILITY, value_name

        live, began = LivePredictor(predictor), time.monotonic()
        names = [value_name(column) for column in predictor.values]
        probabilities = all(column.startswith(PROBABILITY) for column in predictor.values)
        await socket.send_json({"names": names, "probabilities": probabilities})
        newest: asyncio.Queue[bytes] = asyncio.Queue(1)
        dropped = 0

        async def receive() -> None:
            nonlocal dropped
            while True:
                data = await asyncio.wait_for(socket.receive_bytes(), SILENCE_S)
                if newest.full():
                    newest.get_nowait()
                    dropped += 1
                newest.put_nowait(data)

        async def answer() -> None:
            nonlocal dropped
            while True:
                data = await newest.get()
                result = await asyncio.to_thread(self._read, live, data, time.monotonic() - began)
                await socket.send_text(json.dumps({**result, "dropped": dropped}))
                dropped = 0

        tasks = [asyncio.create_task(receive()), asyncio.create_task(answer())]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        except TimeoutError:
            await socket.close(1001, f"no picture for {SILENCE_S:g} s")
        except (KeyError, RuntimeError):  # text in place of a picture, or a caller that is gone while it is answered
            raise WebSocketDisconnect from None
        finally:
            for task in tasks:
                task.cancel()
            # Not `gather`: cancelled meanwhile, it raises the cancellation of a task in place of its own.
            ended, _ = await asyncio.wait(tasks)
            for task in ended:
                if not task.cancelled():
                    task.exception()  # looked at, so that nothing is said of it

    def _read(self, live: Any, data: bytes, time_s: float) -> dict[str, Any]:
        began = time.perf_counter()
        try:
            picture = _decoded(data)
        except UserError as error:
            return {"error": str(error)}
        with self._lock:
            faces = live(picture, time_s)
        shown = [
            {
                "track": face.track,
                "box": [round(float(side), 1) for side in face.box],
                "values": None if face.values is None else [round(float(value), 4) for value in face.values],
            }
            for face in faces
        ]
        size = [picture.shape[1], picture.shape[0]]
        return {"faces": shown, "size": size, "read_ms": round(1000 * (time.perf_counter() - began), 1)}

    def _predictor(self, model: str) -> Predictor:
        from svfap.predict.predictor import Predictor

        with self._lock:
            if model not in self._predictors:
                config = self.config
                self._predictors[model] = Predictor(
                    model, config.device, config.precision, batch_size=config.batch_size
                )
            return self._predictors[model]


def _decoded(data: bytes) -> np.ndarray:
    """A JPEG as an RGB picture (H, W, 3) uint8. Raises `UserError`."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data), formats=["JPEG"]) as header:
            width, height = header.size
    except (OSError, ValueError, Image.DecompressionBombError):
        raise UserError("is no JPEG picture") from None
    if width * height > MAX_PIXELS:
        raise UserError(f"has {width} × {height} pixels, and at most {MAX_PIXELS / 1e6:.1f} million are taken")
    picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    if picture is None:
        raise UserError("is no JPEG picture")
    return cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)
