"""Suffixes of the files that are read, in lower case."""

from __future__ import annotations

VIDEO_SUFFIXES = (
    *(".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".flv", ".wmv", ".mpg", ".mpeg"),
    *(".mts", ".m2ts", ".ts", ".vob", ".3gp", ".ogv", ".mxf"),
)
PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
