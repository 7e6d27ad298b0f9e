"""Several paths with weights in one setting, as in `--manifest a.csv:2 b.csv:1`."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from svfap.errors import UserError

PORTS = r"(?:https?|s?ftp|ssh|hdfs|webhdfs|smb)://[^/:]+"  # URLs after which a number is a port
NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?|[+-]?(?:nan|inf)"


class WeightedPath(NamedTuple):
    """A path, and its weight if one is given."""

    path: Path
    weight: float | None = None

    def __str__(self) -> str:
        return str(self.path) if self.weight is None else f"{self.path}:{self.weight:.15g}"


def split_weight(text: str) -> tuple[str, float | None]:
    """The path, or URL, and the weight of `PATH:NUMBER`; no weight if the whole is the name of a file or folder.

    A number directly after the host of an http:// URL, or another with ports, is its port.
    """
    found = re.fullmatch(rf"(.+):({NUMBER})", text, re.DOTALL)
    if found is None or re.fullmatch(PORTS, found[1]) or Path(text).exists():
        return text, None
    return found[1], float(found[2])


def require_readable(name: str, text: str) -> None:
    """Raise `UserError` for a text that is no path and looks like a path with a wrong weight, or like several paths."""
    if Path(text).exists():
        return
    path, colon, rest = text.rpartition(":")
    pieces = [split_weight(piece.strip())[0] for piece in text.split(",")]
    if len(pieces) > 1 and all(_names_data(piece) for piece in pieces):
        raise UserError(f"{name}={text}: no such file; several are separated by spaces, as {' '.join(text.split(','))}")
    if colon and split_weight(text)[1] is None and _names_data(path):
        raise UserError(
            f"{name}={text}: what follows the colon, {rest!r}, is no number above 0; give a weight as {path}:2 or {path}:0.5"
        )


def _names_data(path: str) -> bool:
    return path.lower().endswith(".csv") or (bool(path) and Path(path).exists())


def weighted_paths(value: str | Path | Sequence[str] | None) -> list[WeightedPath]:
    """The paths that a setting names: none, one, which has no weight, or several."""
    if isinstance(value, str | Path):
        return [WeightedPath(Path(value))]
    return [WeightedPath(Path(path), weight) for path, weight in map(split_weight, value or ())]


def described(value: str | Path | Sequence[str] | None) -> str:
    """The paths with their weights, as text for the user."""
    return ", ".join(map(str, weighted_paths(value)))


def named(value: str | Path | Sequence[str] | None, parts: int = 2) -> str:
    """As `described`, for a file that others read: each path by its folder and name, without where it lies on this machine.

    parts: how many of each path, from its end.
    """
    return ", ".join(str(each._replace(path=Path(*each.path.parts[-parts:]))) for each in weighted_paths(value))


def check_weights(name: str, given: Sequence[tuple[str, float | None]]) -> None:
    """Raise `UserError` unless these are several different paths, all or none of them with a weight above 0."""
    paths, weights = [path for path, _ in given], [weight for _, weight in given]
    if twice := next((path for path in paths if paths.count(path) > 1), None):
        raise UserError(f"{name}: {twice} is given twice; give it once, with a larger weight")
    if None in weights and weights.count(None) < len(weights):
        raise UserError(
            f"{name}: {paths[weights.index(None)]} has no weight, and others have one; give all of them one, as PATH:2, or none"
        )
    for path, weight in given:
        if weight is not None and not (math.isfinite(weight) and weight > 0):
            raise UserError(
                f"{name}={path}:{weight:g}: a weight must be a number above 0; to draw nothing, leave {path} out"
            )
