"""What a file from a caller is, found out in a process of its own: damaged or hostile files end that process at worst."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from concurrent.futures import TimeoutError as TooLate
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, suppress
from multiprocessing import get_context
from pathlib import Path
from threading import Lock
from typing import Any

from svfap.data.ffmpeg import limit_pictures
from svfap.data.suffixes import PICTURE_SUFFIXES, VIDEO_SUFFIXES
from svfap.errors import UserError
from svfap.serve.worker import end_with_parent

LONGEST_S = 20.0  # for the inspection of a file
MOST_MEMORY = 4 * 10**9  # bytes, of the process
# FFmpeg's readers of single files. Others, such as playlists, name further files or addresses to open.
FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,m4v,flv,asf,ogg,h264,hevc,mjpeg,gif,ivf,dv,mxf,nut,rm,"
    "wtv,live_flv"
)
PICTURES = ("JPEG", "PNG", "BMP", "WEBP", "TIFF", "PPM")  # Pillow's readers; others start programs


class Inspector:
    """Looks into files before they become jobs. Raises `UserError` that says what is wrong with one."""

    def __init__(self, max_megapixels: float, max_length_s: float) -> None:
        self.limits = max_megapixels, max_length_s
        self._lock = Lock()
        self._pool: ProcessPoolExecutor | None = None

    def __call__(self, path: Path) -> None:
        """Raise `UserError` unless a picture or the first frame of a video can be read, within the limits."""
        with self._lock:
            self._pool = self._pool or _new_pool()
            try:
                reason = self._pool.submit(inspect, path, *self.limits).result(LONGEST_S)
            except TooLate:
                self._end()
                reason = f"takes more than {LONGEST_S:g} s to look into"
            except BrokenProcessPool:
                self._end()
                reason = "cannot be read: it ends the process that looks into it"
        if reason:
            raise UserError(f"{path.name}: {reason}")

    def start(self) -> None:
        """Start the process ahead of the first file."""
        with self._lock:
            self._pool = self._pool or _new_pool()
            self._pool.submit(int)

    def close(self) -> None:
        with self._lock:
            self._end()

    def _end(self) -> None:
        pool, self._pool = self._pool, None
        if pool is not None:
            for process in list((pool._processes or {}).values()):
                process.kill()
            pool.shutdown(wait=False, cancel_futures=True)


def _new_pool() -> ProcessPoolExecutor:
    return ProcessPoolExecutor(1, get_context("spawn"), _begin)


def _begin() -> None:
    """Prepare the process: it ends with the server, and has little memory to lose."""
    end_with_parent()
    with suppress(ImportError, ValueError, OSError):  # not on Windows
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, MOST_MEMORY))


def inspect(path: Path, max_megapixels: float, max_length_s: float) -> str:
    """Why a file is refused; "" if it is not."""
    suffix = path.suffix.lower()
    if path.stat().st_size == 0:
        return "the file is empty"
    limit_pictures(int(max_megapixels * 1e6))
    try:
        if suffix in PICTURE_SUFFIXES:
            return _too_large(*_picture_size(path), max_megapixels) or _unreadable(path)
        if suffix in VIDEO_SUFFIXES:
            return _inspect_video(path, max_megapixels, max_length_s)
    except Exception as error:  # whatever a reader makes of a damaged file
        what = "picture" if suffix in PICTURE_SUFFIXES else "video"
        return f"is not a readable {what} ({getattr(error, 'strerror', None) or type(error).__name__})"
    return (
        f"is neither a video nor a picture by its suffix; known are {', '.join((*VIDEO_SUFFIXES, *PICTURE_SUFFIXES))}"
    )


def _picture_size(path: Path) -> tuple[int, int]:
    from PIL import Image

    Image.MAX_IMAGE_PIXELS = None  # only the header is read; the limit is ours
    with Image.open(path, formats=PICTURES) as picture:
        return picture.size


def _unreadable(path: Path) -> str:
    from svfap.data.video import VideoError, open_video

    try:
        with closing(open_video(path)) as picture:
            next(iter(picture.frames()))
    except VideoError:
        return "is not a readable picture"
    return ""


def _inspect_video(path: Path, max_megapixels: float, max_length_s: float) -> str:
    import av

    from svfap.data.ffmpeg import video_stream

    options = {"format_whitelist": FORMATS, "protocol_whitelist": "file"}
    with closing(av.open(f"file:{path}", options=options, metadata_errors="replace")) as container:
        stream = video_stream(container)
        if stream is None:
            return "holds no video"
        if reason := _too_large(stream.width, stream.height, max_megapixels):
            return reason
        lengths: list[Any] = [container.duration and container.duration / av.time_base]
        lengths.append(stream.duration and stream.time_base and float(stream.duration * stream.time_base))
        if (length := max(filter(None, lengths), default=0.0)) > max_length_s:
            return f"is {length:.0f} s long, and at most {max_length_s:.0f} s are taken"
        for frame in container.decode(stream):
            return _too_large(frame.width, frame.height, max_megapixels)
    return "holds no picture that can be decoded"


def _too_large(width: int, height: int, max_megapixels: float) -> str:
    if width * height <= max_megapixels * 1e6:
        return ""
    return f"has pictures of {width} × {height} pixels, and at most {max_megapixels:g} million are taken"
