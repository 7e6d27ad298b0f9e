"""The camera's WebSocket: pictures in, what is read in them out."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from fastapi import FastAPI, WebSocket
from fastapi.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from svfap.serve import camera
from svfap.serve.camera import Cameras
from svfap.serve.config import ServeConfig


@pytest.fixture(scope="module")
def client():
    cameras, app = Cameras(ServeConfig(device="cpu")), FastAPI()

    @app.websocket("/v1/camera")
    async def serve(socket: WebSocket, model: str = "movement") -> None:
        await cameras.serve(socket, model)

    with TestClient(app) as client:
        yield client


def jpeg(height=48, width=64):
    return cv2.imencode(".jpg", np.zeros((height, width, 3), np.uint8))[1].tobytes()


def test_each_picture_is_answered(client):
    with client.websocket_connect("/v1/camera") as socket:
        shape = socket.receive_json()
        assert shape["names"][0] == "mouth_opening" and not shape["probabilities"]
        socket.send_bytes(jpeg())
        answer = socket.receive_json()
        assert answer["faces"] == [] and answer["size"] == [64, 48] and answer["dropped"] == 0
        socket.send_bytes(b"no picture")
        assert socket.receive_json() == {"error": "is no JPEG picture", "dropped": 0}
        socket.send_bytes(jpeg(2000, 2000))
        assert "2000 × 2000 pixels" in socket.receive_json()["error"]


def test_of_pictures_that_wait_only_the_newest_is_read(client, monkeypatch):
    read = []

    def slow(self, live, data, time_s):
        import time

        read.append(data)
        time.sleep(0.3)
        return {"faces": []}

    monkeypatch.setattr(Cameras, "_read", slow)
    with client.websocket_connect("/v1/camera") as socket:
        socket.receive_json()
        for number in range(5):
            socket.send_bytes(bytes([number]))
        first, second = socket.receive_json(), socket.receive_json()
    assert read[-1] == bytes([4]) and len(read) == 2
    assert first["dropped"] + second["dropped"] == 3


def test_what_cannot_be_served_is_closed_with_a_reason(client, monkeypatch):
    with client.websocket_connect("/v1/camera?model=other") as socket, pytest.raises(WebSocketDisconnect) as closed:
        socket.receive_json()
    assert closed.value.code == 1008 and "movement" in closed.value.reason
    monkeypatch.setattr(camera, "MAX_CAMERAS", 0)
    with client.websocket_connect("/v1/camera") as socket, pytest.raises(WebSocketDisconnect) as closed:
        socket.receive_json()
    assert closed.value.code == 1013
