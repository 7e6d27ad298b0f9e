"""`svfap serve` and `svfap app`: the server from its settings."""

from __future__ import annotations

import os
import secrets
import socket
import webbrowser
from contextlib import suppress
from pathlib import Path
from threading import Timer
from typing import Any

from svfap.console import say
from svfap.errors import UserError, require_package
from svfap.files import make_folder, only_writer
from svfap.serve.config import TOKEN_LENGTH, AppConfig, ServeConfig

PACKAGES = ("fastapi", "uvicorn", "python_multipart", "httpcore", "prometheus_client", "fastapi_offline", "websockets")


def serve(config: ServeConfig) -> None:
    """Serve until Ctrl-C. Raises `UserError`: a package is missing, the port is taken, or the folder is in use."""
    for package in PACKAGES:
        require_package(package, "app", "svfap app" if isinstance(config, AppConfig) else "svfap serve")
    import uvicorn

    from svfap.serve.api import make_app

    try:
        make_folder(config.folder)
    except UserError as error:
        raise UserError(str(error).replace("out=", "folder=", 1)) from None
    with only_writer(config.folder / "jobs.sqlite"), _listening(config) as listener:
        token = config.token or stored_token(config.folder)
        port = listener.getsockname()[1]
        shown = f"[{config.host}]" if ":" in config.host else config.host
        app = make_app(config, token)
        say(f"serving at http://{shown}:{port}/?key={token}")
        say(f"interface: http://{shown}:{port}/docs; jobs and results: {config.folder}; Ctrl-C ends the server")
        if not config.is_local:
            say(
                f"warning: {config.host} can be reached by other machines, without encryption; put a proxy with TLS before it"
            )
        if isinstance(config, AppConfig) and config.open_browser:
            Timer(1.0, webbrowser.open, [f"http://{shown}:{port}/?key={token}"]).start()
        settings = uvicorn.Config(
            app,
            http=_impatient(config.upload_timeout_s),
            log_level="warning",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            ws_max_size=4_000_000,
            timeout_keep_alive=10,
            timeout_graceful_shutdown=3,
        )
        server = uvicorn.Server(settings)
        with suppress(KeyboardInterrupt):
            server.run([listener])
    say("ended; jobs that were not finished go on at the next start")


def _impatient(timeout_s: float) -> Any:
    """uvicorn's protocol, which also ends connections that bring no complete head of a request in time."""
    from uvicorn.protocols.http.h11_impl import H11Protocol

    class Impatient(H11Protocol):
        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._was_idle = False
            self._timer = self.loop.call_later(timeout_s, self._look)

        def _look(self) -> None:
            if self.transport.is_closing() or self.transport.get_protocol() is not self:  # such as a WebSocket
                return
            is_idle = self.cycle is None or self.cycle.response_complete
            if is_idle and (self._was_idle or self.cycle is None):
                self.transport.close()
                return
            self._was_idle = is_idle
            self._timer = self.loop.call_later(timeout_s, self._look)

        def connection_lost(self, exc: Exception | None) -> None:
            self._timer.cancel()
            super().connection_lost(exc)

    return Impatient


def stored_token(folder: Path) -> str:
    """The token in a folder, which only the owner of the file can read; drawn if there is none."""
    file = folder / "token"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    with suppress(FileExistsError), open(os.open(file, flags, 0o600), "w") as new:
        new.write(secrets.token_urlsafe(24))
    try:
        token = file.read_text("ascii", "replace").strip()
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror}); delete it, or give --token") from None
    if len(token) < TOKEN_LENGTH:
        raise UserError(f"{file}: has fewer than {TOKEN_LENGTH} characters; delete it for a new one")
    return token


def _listening(config: ServeConfig) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(config.host, config.port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(100)  # from now on others cannot have the port
        return listener
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"host={config.host} port={config.port}: cannot listen there ({reason}); choose another --port"
        ) from None
