"""`svfap app`."""

from __future__ import annotations

from svfap.serve.config import AppConfig


def run(config: AppConfig) -> None:
    """Serve the page until Ctrl-C, and open it in a browser."""
    from svfap.serve.serve import serve

    serve(config)
