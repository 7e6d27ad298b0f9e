"""`svfap methods`."""

from __future__ import annotations

from pathlib import Path

from svfap.predict.config import MethodsConfig


def run(config: MethodsConfig, file: Path) -> None:
    """Print the sentences."""
    from svfap.predict.about import methods_of

    print(methods_of(file))
