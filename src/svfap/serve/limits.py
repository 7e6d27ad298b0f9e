"""What every request must keep to: its host, its token, and the size and speed of its body."""

from __future__ import annotations

import asyncio
import hmac
import re
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from urllib.parse import urlsplit

from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

COOKIE = "svfap_token"
LOCAL_NAMES = {"localhost", "127.0.0.1", "::1", "[::1]"}
FORM_BYTES = 100_000  # of a request around its file
JOBS = "/v1/jobs"
HEADERS = {"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer", "X-Frame-Options": "SAMEORIGIN"}
LEAST_RATE = 1000  # bytes per second of a body, on average
DRAIN_S, DRAIN_BYTES = 5.0, 200_000_000  # of a request that is answered already
HOST = re.compile(r"([\w.-]+|\[[0-9a-fA-F:.]+\])(:\d{1,5})?", re.ASCII)


class Gate:
    """Lets requests pass that name this host, carry the token, and send no more than they may, fast enough.

    A page of another site cannot reach a server on this machine: a name that it gives to 127.0.0.1 is not this host's, its
    requests lack the cookie, which browsers send from this site alone, and what it changes states where it comes from.

    app: what is behind. token: the secret. open_paths: without token; `*` at the end stands for any end. is_local: only this
    machine's names are hosts. max_bytes: of the file of a new job; other bodies are small. timeout_s: without data, or beyond
    what `LEAST_RATE` takes. admission: entered with the size of a new job while it arrives; gives a status and a reason to
    refuse it.
    """

    def __init__(
        self,
        app: ASGIApp,
        token: str,
        open_paths: tuple[str, ...],
        is_local: bool,
        max_bytes: int,
        timeout_s: float,
        admission: Callable[[int], AbstractContextManager[tuple[int, str] | None]],
    ) -> None:
        self.app, self.token, self.open_paths, self.is_local = app, token, open_paths, is_local
        self.admission = admission
        self.max_bytes, self.timeout_s = max_bytes, timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        request = HTTPConnection(scope)
        refusal = self._refusal(request)
        if scope["type"] == "websocket":
            if refusal is None:
                await self.app(scope, receive, send)
            else:
                await receive()
                await send({"type": "websocket.close", "code": 4000 + refusal[0], "reason": refusal[1]})
            return
        is_submission = _is_submission(scope)
        exchange = _Exchange(receive, send, self.max_bytes if is_submission else 0, self.timeout_s)
        if refusal is not None:
            await _answer(refusal)(scope, exchange.receive, exchange.send)
        elif is_submission:
            stated = request.headers.get("content-length")
            with self.admission(self.max_bytes if stated is None else int(stated)) as refusal:
                app = self.app if refusal is None else _answer(refusal)
                await app(scope, exchange.receive, exchange.send)
        else:
            await self.app(scope, exchange.receive, exchange.send)

    def _refusal(self, request: HTTPConnection) -> tuple[int, str] | None:
        host = request.headers.get("host", "")
        if not HOST.fullmatch(host):
            return 400, "Host: is missing, or no name of a host"
        name = urlsplit(f"//{host}").hostname or ""
        if self.is_local and name not in LOCAL_NAMES:
            return 421, f"{name}: is not a name of this machine; use localhost, or start the server with another --host"
        path = request.scope["path"]  # as routes see it
        is_open = any(path == each or (each[-1] == "*" and path.startswith(each[:-1])) for each in self.open_paths)
        if not is_open:
            scheme, _, bearer = request.headers.get("authorization", "").partition(" ")
            given = bearer.strip() if scheme.lower() == "bearer" else ""
            if not given and (cookie := request.cookies.get(COOKIE)):
                origin = request.headers.get("origin")
                changes = request.scope["type"] == "websocket" or request.scope["method"] not in ("GET", "HEAD")
                if (changes or origin) and urlsplit(origin or "").netloc != host:
                    return 403, "comes from a page of another site"
                given = cookie
            if not hmac.compare_digest(given.encode(), self.token.encode()):
                return 401, "needs the token of this server: Authorization: Bearer TOKEN"
        stated = request.headers.get("content-length", "0")
        if not stated.isdecimal() or len(stated) > 18:
            return 400, "Content-Length is no number of bytes"
        most = self.max_bytes if _is_submission(request.scope) else 0
        if int(stated) > most + FORM_BYTES:
            return 413, f"has {int(stated) / 1e6:.1f} MB, and at most {_megabytes(most)} are taken"
        return None


class _Exchange:
    """A request and its answer: the size and speed of the one, the headers of the other.

    An answer that comes before the end of the request is completed when that has been received, within limits: a caller that
    is still sending would otherwise see a broken connection in place of the reason.
    """

    def __init__(self, receive: Receive, send: Send, max_bytes: int, timeout_s: float) -> None:
        self._receive, self._send = receive, send
        self.max_bytes, self.timeout_s = max_bytes, timeout_s
        self._began, self._count, self._is_complete = time.monotonic(), 0, False

    async def receive(self) -> Message:
        """Raises `HTTPException` for what is too much or too slow."""
        if self._is_complete:  # what comes now is that the caller has gone
            return await self._receive()
        left = min(self.timeout_s, self._began + self.timeout_s + self._count / LEAST_RATE - time.monotonic())
        try:
            message = await asyncio.wait_for(self._next(), max(left, 0.001))
        except TimeoutError:
            reason = f"sends nothing for {self.timeout_s:g} s, or less than a kilobyte per second; send it again"
            raise HTTPException(408, reason, {"Connection": "close"}) from None
        if self._count > self.max_bytes + FORM_BYTES:
            reason = f"has more than {_megabytes(self.max_bytes)}, which is the most that is taken"
            raise HTTPException(413, reason, {"Connection": "close"})
        return message

    async def send(self, message: Message) -> None:
        """Add what keeps a browser from guessing types, and other sites from framing a page or learning its address."""
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in HEADERS.items():
                headers.setdefault(name, value)
        is_last = message["type"] == "http.response.body" and not message.get("more_body", False)
        if is_last and not self._is_complete:
            await self._send({**message, "more_body": True})
            with suppress(TimeoutError):
                await asyncio.wait_for(self._drain(), DRAIN_S)
            message = {"type": "http.response.body"}
        await self._send(message)

    async def _next(self) -> Message:
        message = await self._receive()
        self._count += len(message.get("body", b""))
        self._is_complete = not message.get("more_body", False)
        return message

    async def _drain(self) -> None:
        before = self._count
        while not self._is_complete and self._count - before < DRAIN_BYTES:
            await self._next()


def _is_submission(scope: Scope) -> bool:
    return scope["type"] == "http" and scope["method"] == "POST" and scope["path"] == JOBS


def _megabytes(max_bytes: int) -> str:
    return f"{(max_bytes or FORM_BYTES) / 1e6:.1f} MB"


def _answer(refusal: tuple[int, str]) -> JSONResponse:
    status, reason = refusal
    headers = {"Connection": "close"}
    headers |= {"WWW-Authenticate": "Bearer"} if status == 401 else {}
    headers |= {"Retry-After": "5"} if status in (429, 503) else {}
    return JSONResponse({"detail": reason}, status, headers)
