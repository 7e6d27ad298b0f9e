"""`svfap serve`."""

from __future__ import annotations

from svfap.serve.config import ServeConfig


def run(config: ServeConfig) -> None:
    """Serve until Ctrl-C."""
    from svfap.serve.serve import serve

    serve(config)
