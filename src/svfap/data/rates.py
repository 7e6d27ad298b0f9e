"""Frame rates: those of videos, and the rate at which the frames of a model's clips are taken."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from svfap.console import counted, say, track
from svfap.data.manifest import Manifest
from svfap.data.packed import is_there, packed_row
from svfap.data.suffixes import PICTURE_SUFFIXES
from svfap.data.timing import alike, clock_rate
from svfap.data.video import PICTURE_FPS, VideoError, open_video
from svfap.settings import MAX_FPS, Fps

SHARE = 0.9  # of the training videos that must have a rate for it to be the model's
NUM_LOOKED_AT = 64
USUAL_FPS = (20.0, 35.0)  # of cameras and films
POSSIBLE_FPS = (0.1, MAX_FPS)
FRAMES_NOTE = f"folders of frames are read as {PICTURE_FPS:g} pictures per second; --frames_fps says otherwise"


@dataclass(frozen=True)
class Clock:
    """When the frames of a model's clips are taken.

    fps: frames per second of every video; None: each video's own frames. trained_at: the model's `frame_rate`; None: not
    known. span: frames from the first to the last of a clip. own: the user asks for each video's own frames.
    """

    fps: float | None
    trained_at: float | None
    span: int
    own: bool = False

    @classmethod
    def of(cls, fps: Fps, trained_at: float | None, span: int) -> Clock:
        """The clock that the setting `fps` means; None: the model's rate."""
        if fps == "own":
            return cls(None, trained_at, span, own=True)
        return cls(trained_at if fps is None else float(fps), trained_at, span)

    def rate(self, video: float) -> float:
        """Frames per second taken of a video of `video` pictures per second."""
        return clock_rate(video, self.fps)

    def note(self, rate: float) -> str | None:
        """What users must know about a video of `rate` pictures per second, in one line; None: nothing."""
        if not POSSIBLE_FPS[0] <= rate <= POSSIBLE_FPS[1]:
            return (
                f"{rate:.4g} pictures per second by the file's time stamps, which are probably broken, and all times with them; "
                "if its true rate is known, rewrite them first, as in `ffmpeg -r 25 -i FILE NEW_FILE`"
            )
        known = "" if self.trained_at is None else f"the model's training had {self.trained_at:.4g}/s"
        if self.fps is not None:
            overridden = self.trained_at is not None and not alike(self.fps, self.trained_at)
            if alike(self.fps, rate) and not overridden:
                return None
            reason = "as in the model's training" if self.fps == self.trained_at else "as --fps says"
            reason += f", while {known}" if overridden else ""
            return f"{rate:.4g}/s in the file, sampled at {self.fps:.4g}/s {reason}"
        if self.span == 1:  # a model of single frames sees no movement
            return None
        lasts = f"a window here lasts {self.span / rate:.2g} s"
        if self.trained_at is not None:
            if alike(rate, self.trained_at):
                return None
            return (
                f"{rate:.4g}/s in the file, all used, while {known}: {lasts}, not {self.span / self.trained_at:.2g} s"
            )
        if self.own or USUAL_FPS[0] <= rate <= USUAL_FPS[1]:
            return None
        return f"{rate:.4g}/s in the file; the model does not say its frame rate; {lasts}; --fps 30 samples by time"

    def say_notes(self, rates: Sequence[float]) -> None:
        """Print the notes on a set of videos, with the number of videos for each."""
        notes = Counter(note for note in map(self.note, rates) if note is not None)
        for note, count in notes.most_common(3):
            say(f"{count} of {counted(len(rates), 'video')} looked at: {note}")


def states_no_rate(path: Path) -> bool:
    """Whether this is a folder of frames or an image, which have no frame rate of their own."""
    if (row := packed_row(path)) is not None:
        return row.fps is None and len(row.sizes) > 0
    return path.suffix.lower() in PICTURE_SUFFIXES or path.is_dir()


def is_still(path: Path) -> bool:
    """Whether this is an image, which has no movement and so shows the same at every rate."""
    if (row := packed_row(path)) is not None:
        return row.fps is None and row.picture_names is None and len(row.sizes) == 1
    return path.suffix.lower() in PICTURE_SUFFIXES and not path.is_dir()


def look_at_rates(manifest: Manifest, frames_fps: float | None) -> tuple[list[float], int]:
    """The rates of up to 64 videos, from evenly spaced rows, and the number of folders of frames without a stated rate.

    Images, videos of one picture, such as their face crops, and videos that cannot be read are skipped. Decodes nothing;
    shows its progress.
    """
    rates: list[float] = []
    num_unknown = 0
    rows = np.unique(np.linspace(0, len(manifest) - 1, min(len(manifest), NUM_LOOKED_AT)).round().astype(int))
    paths = list(dict.fromkeys(manifest[row].path for row in rows.tolist()))
    for path in track(paths, "looking at rates"):
        if is_still(path):
            continue
        if states_no_rate(path):
            if frames_fps is None:
                num_unknown += is_there(path)
            else:
                rates.append(frames_fps)
            continue
        with suppress(VideoError, OSError), open_video(path) as video:
            if video.num_frames > 1:
                rates.append(video.fps)
    return rates, num_unknown


def training_rate(manifest: Manifest, fps: float | None, frames_fps: float | None) -> float | None:
    """The frame rate of a model that is trained on these videos: `fps`, at which they are sampled, if it is given.

    Else the rate that at least 90% of up to 64 videos share, to within 5%; if there is none, None and a message.
    """
    rates, num_unknown = look_at_rates(manifest, frames_fps)
    if fps is not None:
        if num_unknown:
            say(FRAMES_NOTE)
        Clock(fps, None, 0).say_notes(rates)
        return float(fps)
    if not rates:
        if num_unknown:
            say(
                "the training videos are folders of frames, whose rate nobody states, so the model will not say its own; "
                "--frames_fps states it"
            )
        return None
    median = float(np.median(rates))
    shared = [rate for rate in rates if alike(rate, median)]
    if len(shared) >= SHARE * (len(rates) + num_unknown):
        if len(shared) < len(rates):
            Clock(median, median, 0).say_notes(rates)
        return round(median, 3)
    known = Counter(f"{rate:.4g}" for rate in rates).most_common(5)
    listed = ", ".join(f"{rate}/s: {count}" for rate, count in known)
    listed += f", folders of frames: {num_unknown}" if num_unknown else ""
    say(
        f"the training videos have several frame rates ({listed}), so the model will not say its own, and clips span "
        "different times; --fps 25 samples all of them by time"
    )
    return None
