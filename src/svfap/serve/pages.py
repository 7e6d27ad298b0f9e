"""The page of `svfap app`: its files, and how a browser gets the token as a cookie."""

from __future__ import annotations

import hmac
from pathlib import Path
from typing import Annotated

from fastapi import FastAPI, HTTPException, Query
from fastapi.responses import FileResponse, RedirectResponse, Response

import svfap
from svfap.serve.limits import COOKIE

PAGE = Path(__file__).parent / "page"
BASE_STYLE = Path(svfap.__file__).parent / "view" / "base.css"
FILES = {
    "base.css": (BASE_STYLE, "text/css"),
    "app.css": (PAGE / "app.css", "text/css"),
    "app.js": (PAGE / "app.js", "text/javascript"),
    "camera.js": (PAGE / "camera.js", "text/javascript"),
    "strings.json": (PAGE / "strings.json", "application/json"),
}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; media-src 'self' blob:; "
    "connect-src 'self'; frame-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)


def add_pages(app: FastAPI, token: str) -> None:
    """Add the page at /, and its files at /static/."""

    @app.get("/", include_in_schema=False)
    def index(key: Annotated[str | None, Query(max_length=1000)] = None) -> Response:
        """The page; with ?key=TOKEN the browser is given the cookie first."""
        if key is None:
            headers = {"Content-Security-Policy": POLICY, "Cache-Control": "no-store"}
            return FileResponse(PAGE / "index.html", media_type="text/html", headers=headers)
        if not hmac.compare_digest(key.encode(), token.encode()):
            raise HTTPException(403, "this is not the key of this server; its start has printed the address to open")
        answer = RedirectResponse("/", 303)
        answer.set_cookie(COOKIE, token, max_age=365 * 86400, httponly=True, samesite="strict")
        return answer

    @app.get("/static/{name}", include_in_schema=False)
    def static(name: str) -> Response:
        if name not in FILES:
            raise HTTPException(404, "no such file")
        path, kind = FILES[name]
        return FileResponse(path, media_type=kind, headers={"Cache-Control": "no-cache"})
