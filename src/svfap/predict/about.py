"""How a table of predictions was made, as a methods section needs it: kept in a file beside the table, shown on the page."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import svfap
from svfap.errors import UserError
from svfap.files import file_digest, printable, write_atomically

FULL_NAMES = {"yunet": "YuNet", "centerface": "CenterFace", "haar": "OpenCV's Haar cascade"}
FITTED = {
    "squash": "resized to the model's square input whatever its proportions",
    "centre": "its centre square scaled to the model's input",
}


@dataclass(frozen=True)
class About:
    """How a table was made.

    Attributes:
        model: as it was named. weights: digest of its weights and settings.
        window_frames, window_stride: frames of a window, and frames of the clock from one of them to the next.
        crop, tracking: `FaceCropConfig` and `TrackConfig` as dicts, detector: its name; empty if the whole picture was used.
        settings: those of `PredictConfig` that decide the results, as given; None: the default.
        videos: all that were given. rates: video -> frames per second that were used of it, except of single pictures. hops: of
            these, seconds from the start of a window to the next. digests: of those that are files, SHA-256 of their bytes.
        failures: video -> why it is missing or incomplete. refined: what was done to the table, `svfap.predict.refine.steps`.
        reads: what the model's outputs are about; meanings: of its outputs, as far as the model says.
        temperature: that the logits were divided by (`svfap calibrate`), of several heads by name; None: not calibrated.
        frame_fit: how whole pictures that are not square become so, as in `ModelConfig`.
        date: when it was complete, in UTC, as ISO 8601. svfap: the version.
    """

    model: str
    weights: str
    window_frames: int
    window_stride: int
    crop: dict[str, Any]
    detector: str
    tracking: dict[str, Any]
    settings: dict[str, Any]
    videos: list[str]
    rates: dict[str, float]
    hops: dict[str, float]
    digests: dict[str, str]
    failures: dict[str, str]
    date: str
    refined: list[dict[str, Any]] = field(default_factory=list)
    reads: str = "affect"
    meanings: dict[str, str] = field(default_factory=dict)
    temperature: float | dict[str, float] | None = None
    frame_fit: str = "squash"
    svfap: str = field(default=svfap.__version__)

    @property
    def _frames_per_s(self) -> str:
        return _range(self.rates.values())

    @property
    def _by_frame(self) -> bool:
        """Whether the model reads each frame by itself."""
        return self.window_frames == 1

    @property
    def _window_s(self) -> str:
        """Lengths of windows in seconds, which depend on the rate."""
        span = (self.window_frames - 1) * self.window_stride + 1
        return _range(span / rate for rate in self.rates.values())

    @property
    def _hop_s(self) -> str | None:
        """Seconds from the start of a window to the next, which are whole frames; None: windows follow each other."""
        window = self.window_frames * self.window_stride
        follow = all(round(hop_s * self.rates[name]) == window for name, hop_s in self.hops.items())
        return None if follow else _range(self.hops.values())

    def methods(self) -> str:
        """Sentences for a methods section."""
        from svfap.predict.refine import in_words

        number = len(self.videos)
        failed = f"; {len(self.failures)} of them could not be read, or not to the end" if self.failures else ""
        videos = f"{number} video{'s were' if number != 1 else ' was'} given{failed}."
        return " ".join([self._predicted(), *map(in_words, self.refined), videos])

    def _predicted(self) -> str:
        """How the table was made, as it was computed."""
        every = "consecutive frames" if self.window_stride == 1 else f"every {_ordinal(self.window_stride)} frame"
        windows = f"windows of {self.window_frames} frames, {every} at {self._frames_per_s} frames per second"
        step = "one after another" if self._hop_s is None else f"starting every {self._hop_s} s"
        where = [f"{windows} ({self._window_s} s), {step}"] if self.rates else []
        if self.rates and self._by_frame:
            which = "each frame" if self._hop_s is None else f"a frame every {self._hop_s} s"
            where = [f"{which} by itself, at {self._frames_per_s} frames per second"]
        where += ["single pictures"] if set(self.videos) - self.rates.keys() - self.failures.keys() else []
        last = " The last window of a face ends at its last frame and may overlap the one before."
        last = last if self.rates and not self._by_frame else ""
        last += "".join(f" {name}: {meaning}." for name, meaning in self.meanings.items())
        if self.temperature is not None:
            from svfap.model.card import by_head

            last += f" Its probabilities were calibrated with the temperature {by_head(self.temperature)}."
        model = f"model {self.model}, weights {self.weights}"
        what = f"{self.reads.capitalize()} was predicted with SVFAP {self.svfap} (Sun et al., 2024; {model})"
        first = f"{what} in {' and in '.join(where)}.{last}"
        if not self.crop:
            return f"{first} Each whole picture was used as a face, {FITTED[self.frame_fit]}."
        edge = {"grey": "filled with grey", "replicate": "filled with its edge pixels", "reflect": "mirrored"}
        turned = ", rotated so that the eyes are level" if self.crop["align"] else ""
        return (
            f"{first} Faces were detected with {FULL_NAMES.get(self.detector, self.detector)}, tracked, and cut out as squares "
            f"with a margin of {100 * self.crop['margin']:g}% of the face box on every side{turned} ({self.crop['size_px']} px; "
            f"beyond the picture's edge {edge[self.crop['border']]}). Faces smaller than {self.tracking['min_face_px']} px "
            f"were left out."
        )

    def rows(self) -> list[tuple[str, str]]:
        """Names and values of what decides the results, for people to read."""
        window = f"{self.window_frames} frames, stride {self.window_stride}, {self._window_s} s"
        window = "each frame by itself" if self._by_frame else window
        rows = [
            ("Model", f"{self.model} (weights {self.weights})"),
            ("SVFAP", self.svfap),
            ("Date", self.date),
        ]
        if self.rates:
            rows += [
                ("Frames per second", self._frames_per_s),
                ("Window", window),
                ("Hop", f"a {'frame' if self._by_frame else 'window'}" if self._hop_s is None else f"{self._hop_s} s"),
            ]
        if self.temperature is not None:
            from svfap.model.card import by_head

            rows.append(("Temperature", str(by_head(self.temperature))))
        rows.append(("Face detector", FULL_NAMES.get(self.detector, self.detector) or "none: the whole picture"))
        for name, values in (("Face crop", self.crop), ("Tracking", self.tracking)):
            if values:
                rows.append((name, ", ".join(f"{key} {_text(value)}" for key, value in values.items())))
        return rows


def about_of(out: Path) -> Path:
    """The file that says how a table was made."""
    return out.with_name(f"{out.name}.about.json")


def write_about(out: Path, about: About) -> None:
    """Write the file beside the table. Raises `UserError`."""
    content = {**asdict(about), "methods": about.methods()}
    write_atomically(about_of(out), json.dumps(content, indent=2, ensure_ascii=False, default=str) + "\n")


def about_from(table: Path) -> About | None:
    """How a table was made; None if there is no such file beside it. Raises `UserError`."""
    content = content_of_about(table)
    names = [each.name for each in fields(About)]
    return About(**{name: content[name] for name in names if name in content}) if content else None


def read_about(out: Path) -> dict[str, Any] | None:
    """How a table was made; None if there is no such file beside it, as beside those of version 0.2. Raises `UserError`."""
    path = about_of(out)
    if not path.exists():
        return None
    try:
        content = json.loads(path.read_text("utf-8"))
        return {
            "settings": dict(content["settings"]),
            "videos": list(content["videos"]),
            "refined": list(content.get("refined", [])),
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: does not say how a table was made ({error}); delete it") from None


def methods_of(file: Path) -> str:
    """The sentences in the file about a table, or in that beside the table itself. Raises `UserError`."""
    about = file if file.name.endswith(".about.json") else about_of(file)
    if not file.exists() and not about.exists():
        raise UserError(f"{file}: no such file; give a table of `svfap predict`, or the .about.json beside it")
    try:
        return str(json.loads(about.read_text("utf-8"))["methods"])
    except FileNotFoundError:
        raise UserError(f"{about}: no such file, which `svfap predict` writes beside a table") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{about}: does not say how a table was made ({error!r})") from None


def content_of_about(table: Path) -> dict[str, Any]:
    """What the file about a table says; {} if there is none. Raises `UserError`."""
    path = about_of(table)
    try:
        return dict(json.loads(path.read_text("utf-8")))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{path}: does not say how a table was made ({error}); delete it") from None


def videos_read(table: Path) -> list[str]:
    """The videos that were read to their end for a table, with a face or without; [] if nothing says so. Raises `UserError`."""
    content = content_of_about(table)
    return [video for video in content.get("videos", []) if video not in content.get("failures", {})]


def write_refined_about(source: Path, out: Path, done: dict[str, Any]) -> Path:
    """Write how a table was made from another one, by what was `done` to it: what the file beside that says, and this."""
    from svfap.predict.refine import in_words

    before = content_of_about(source)
    content = {**before, "refined": [*before.get("refined", []), *([done] if done else [])]}
    content |= {"table": printable(source), "table_sha256": file_digest(source, 64)}
    content["methods"] = " ".join(filter(None, [before.get("methods", ""), in_words(done)]))
    write_atomically(about_of(out), json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    return about_of(out)


def _range(values: Iterable[float]) -> str:
    """The least and the greatest value, rounded; one number if they are the same, "" without values."""
    rounded = {round(value, 2) for value in values}
    return " to ".join(f"{value:g}" for value in sorted({min(rounded), max(rounded)})) if rounded else ""


def _ordinal(number: int) -> str:
    return {2: "second", 3: "third", 4: "fourth", 5: "fifth", 8: "eighth"}.get(number, f"{number}th")


def _text(value: Any) -> str:
    if value is None:
        return "default"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)
