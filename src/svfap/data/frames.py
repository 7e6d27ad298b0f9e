"""What every readable video offers: its pictures by number and in order, and the frames of a regular clock."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from svfap.data.timing import FrameGrid, Times, frame_grid
from svfap.errors import UserError

Pixels = NDArray[np.uint8]


class VideoError(UserError):
    """A video that cannot be read or written: its `path` and a `reason` in one line."""

    def __init__(self, path: Path | str, reason: str) -> None:
        super().__init__(path, reason)
        self.path, self.reason = Path(path), reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


class VideoSource(ABC):
    """A readable video; a context manager.

    Its N pictures, numbered 0, 1, ... in order of presentation, are upright, have square pixels and the size of the first
    one; all methods give the same pictures to the bit.

    path: of the file or folder. times_s: (N,) float64, when each picture is shown, in seconds since the first; strictly
    ascending. fps: the usual rate: 1 / the median interval between pictures, or the rate that the file states if both agree
    to within the rounding of time stamps. start_s: the time stamp of the first picture in the file. joints: numbers of the
    pictures with which another recording begins, in files that were joined. picture_names: file names of a folder of frames.
    """

    path: Path
    fps: float
    times_s: Times
    start_s: float = 0.0
    joints: Sequence[int] = ()
    picture_names: Sequence[str] | None = None

    @abstractmethod
    def read(self, indices: Sequence[int] | NDArray[np.int64]) -> Pixels:
        """The pictures of these numbers, uint8 RGB (len(indices), H, W, 3); in any order, repeats allowed.

        A damaged picture is replaced by the one before it, as players do. Raises IndexError for no indices and for indices
        out of range, `VideoError` after the last picture that can be decoded.
        """

    @abstractmethod
    def frames(self, first: int = 0) -> Iterator[tuple[float, Pixels]]:
        """Yield all pictures from number `first` on, as `read` gives them: (time in seconds, uint8 RGB (H, W, 3)).

        Constant memory. A file is sought, not decoded from its start. Raises `VideoError` as `read` does, after the pictures
        that can be decoded.
        """

    def grid(self, fps: float | None = None) -> FrameGrid:
        """The regular clock of `fps` frames per second (None: the video's own) and the picture shown at each frame."""
        if fps not in self._grids:
            self._grids[fps] = frame_grid(self.times_s, self.fps, fps, joints=self.joints)
        return self._grids[fps]

    def parted(self, before_s: float, after_s: float) -> bool:
        """Whether there is a hole or a joint between the frames at these times, so that no clip may have both."""
        return self.grid().parted(before_s, after_s)

    def steady_frames(
        self, fps: float | None = None, first: int = 0, stop: int | None = None
    ) -> Iterator[tuple[float, Pixels]]:
        """Yield (time in seconds, uint8 RGB (H, W, 3)) of the frames first, ..., stop - 1 of `grid(fps)`.

        Times differ by 1 / fps, or more over a hole. Constant memory; see `frames`.
        """
        grid = self.grid(fps)
        numbers = grid.picture_of[first:stop].tolist()
        if not numbers:
            return
        pictures = enumerate(self.frames(numbers[0]), numbers[0])
        number, (_, picture) = next(pictures)
        for frame, wanted in enumerate(numbers, first):
            while number < wanted:
                number, (_, picture) = next(pictures)
            yield float(grid.times_s[frame]), picture

    def close(self) -> None:  # noqa: B027  a subclass may have nothing to close
        """Close the file."""

    @property
    def num_frames(self) -> int:
        """The number of pictures, N."""
        return len(self.times_s)

    @property
    def duration_s(self) -> float:
        """The time of the last picture and one usual interval."""
        return float(self.times_s[-1]) + 1 / self.fps

    def picture_at(self, times_s: Sequence[float] | Times) -> NDArray[np.int64]:
        """The numbers of the pictures that are shown at these times in seconds."""
        shown = np.searchsorted(self.times_s, np.asarray(times_s, np.float64) + 1e-6, side="right") - 1
        return np.clip(shown, 0, self.num_frames - 1)

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width in pixels, upright; decodes the first picture."""
        height, width = self.read([0]).shape[1:3]
        return height, width

    @property
    def height(self) -> int:
        return self.shape[0]

    @property
    def width(self) -> int:
        return self.shape[1]

    @cached_property
    def _grids(self) -> dict[float | None, FrameGrid]:
        return {}

    def _checked(self, indices: Sequence[int] | NDArray[np.int64]) -> NDArray[np.int64]:
        numbers = np.asarray(indices, np.int64)
        if numbers.size == 0 or numbers.min() < 0 or numbers.max() >= self.num_frames:
            raise IndexError(f"{self.path}: pictures {numbers.tolist()} requested of {self.num_frames}")
        return numbers

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def placeholder(path: Path) -> str | None:
    """What a file is that stands in place of a video or picture that was never downloaded; None for any other file."""
    try:
        with path.open("rb") as file:
            start = file.read(4096)
    except OSError:
        return None
    if not start:
        return "the file is empty"
    if start.startswith(b"version https://git-lfs"):
        return "is a git-lfs pointer, not the video; run git lfs pull"
    if start.lstrip(b"\xef\xbb\xbf \t\r\n")[:15].lower().startswith((b"<!doctype html", b"<html")):
        return "is a web page (HTML), not the video; download it again"
    if not start.strip(b"\0"):
        return "begins with zeros only: a placeholder or a download that was broken off; download it again"
    return None
