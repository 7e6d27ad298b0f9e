"""`svfap predict`: what a model reads over time in any number of videos, as a table, timelines, overlays and a page."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import pandas as pd

from svfap.console import progress_bar, say, track
from svfap.data.find import matching, missing, on_disk, walk
from svfap.data.packed import is_there
from svfap.data.sources import find_videos, read_sources
from svfap.data.suffixes import PICTURE_SUFFIXES
from svfap.errors import UserError
from svfap.faces.config import CROP_FIELDS
from svfap.files import MANIFEST_SUFFIXES, check_new, make_folder, only_writer, printable, remove_abandoned
from svfap.predict.about import About, about_of, read_about, videos_read, write_about
from svfap.predict.config import PredictConfig
from svfap.predict.refine import check_lists, dimensions, refine, rounded, steps
from svfap.predict.source import digest_of, is_live
from svfap.predict.summary import summarize
from svfap.predict.table import (
    TableWriter,
    check_no_part,
    of_head,
    part_of,
    read_predictions,
    require_excel,
    tables_of_heads,
    value_columns,
)
from svfap.predict.writing import numbered, write_table
from svfap.settings import check_same_settings, require_model

if TYPE_CHECKING:
    from svfap.faces.track import TrackedFrame
    from svfap.predict.boxes import FaceBoxes
    from svfap.predict.predictor import Predictor
    from svfap.predict.reader import OnFrame, Reader

CLOCK_SETTINGS = ("hop_s", "fps", "frames_fps")
# To resume a run; the digest of the model's weights is compared too.
SAME_SETTINGS = ("model", "faces", *CROP_FIELDS, "detect_every", "min_face_px", *CLOCK_SETTINGS, "landmarks")


@dataclass(frozen=True)
class Predictions:
    """What `predict_videos` has computed and written.

    Attributes:
        videos: as they were given, without repeats.
        table: the rows of all videos; columns `video` (the name, see `svfap.files.printable`), then as `Predictor` returns
            them.
        failures: video -> why it, or its overlay, could not be read or written to the end. Rows before that are kept.
        out: file of the table. about: file that says how it was made. timelines, overlays: video -> file, of several heads
            `video, head` -> timeline. reports: head -> file, '' of the only one. None or missing: not written.
        summary: file of the summary. was_complete: the table was complete before, and `resume` had nothing to do.
    """

    videos: tuple[str, ...]
    table: pd.DataFrame
    failures: dict[str, str] = field(default_factory=dict)
    out: Path | None = None
    about: Path | None = None
    timelines: dict[str, Path] = field(default_factory=dict)
    overlays: dict[str, Path] = field(default_factory=dict)
    reports: dict[str, Path] = field(default_factory=dict)
    was_complete: bool = False
    summary: Path | None = None

    @property
    def report(self) -> Path | None:
        """The page, of several heads that of the first; None: not written."""
        return next(iter(self.reports.values()), None)

    @property
    def values(self) -> list[str]:
        """The columns of the table that hold predictions."""
        return value_columns(self.table)

    @property
    def written(self) -> list[Path]:
        """All files."""
        first = [path for path in (self.out, self.about, self.summary) if path is not None]
        return [*first, *self.reports.values(), *self.timelines.values(), *self.overlays.values()]

    def rows_of(self, video: str) -> pd.DataFrame:
        """The rows of one video, without the column `video`."""
        return self.table[self.table["video"] == printable(video)].drop(columns="video")


def predict_videos(
    videos: str | Path | Sequence[str | Path], config: PredictConfig, on_frame: OnFrame | None = None
) -> Predictions:
    """Predict affect, or what else a model reads, over time for every face in every video, or in one.

    Rows are written as they are computed, or with `config.num_workers` as each video ends, so an interrupted run can be
    continued with `resume`. A video that cannot be read is listed in `Predictions.failures`, and the others are done; if all
    fail without a row, nothing is written. Ctrl-C ends a live source and keeps its rows; otherwise it raises
    `KeyboardInterrupt`.

    Args:
        videos: files, folders of videos or of frames, images, manifests of whole videos, webcam numbers, or addresses of
            streams.
        config: the model, how faces are found, and what is written. With out=None only the table is returned, and
            overlays and page are written if they are asked for.
        on_frame: called for every frame that is read, see `svfap.predict.reader.OnFrame`; not with several processes. What
            it raises ends the run.

    Raises:
        UserError: no video exists, the model cannot be loaded, a file cannot be written or is being written by another
            run, a complete table or an interrupted run is in the way, or `resume` finds other settings or videos.
    """
    videos = [videos] if isinstance(videos, str | Path) else videos
    names = list(dict.fromkeys(name for video in videos for name in _videos_of(video)))
    with ExitStack() as locks:
        if config.resume and config.out is not None and _is_complete(config.out):
            _check_same_run(config.out, names, config)
            about = about_of(config.out) if about_of(config.out).exists() else None
            table = read_predictions(config.out)
            predictions = Predictions(tuple(names), table, out=config.out, about=about, was_complete=True)
            with only_writer(config.out):
                remove_abandoned(config.out)
                _write_timelines(predictions, missing_alone=True)
            if config.summary is not None and not config.summary.exists():
                make_folder(config.summary.absolute().parent)
                _write_summary(table, config, videos_read(config.out))
            return replace(predictions, summary=config.summary)
        _check_videos(names, config)
        for path in filter(None, (config.out, config.overlay, config.report, config.summary)):
            make_folder(path.absolute().parent)
            locks.enter_context(only_writer(path))
            remove_abandoned(path)
        if config.out is not None and not config.resume:
            check_no_part(config.out)
            check_new(config.out, config.overwrite)
        return _predict(names, config, on_frame)


def _predict(names: Sequence[str], config: PredictConfig, on_frame: OnFrame | None) -> Predictions:
    # These import torch, which takes seconds; mistakes are reported before.
    from svfap.predict.predictor import predictor_of, say_what_it_reads, warn_of_whole_pictures
    from svfap.weights.exported import fingerprint_of

    predictor = predictor_of(config)
    if config.baseline is not None:
        dimensions(predictor.values)
    whole: list[pd.DataFrame] = []

    def refined(table: pd.DataFrame) -> pd.DataFrame:
        try:
            whole.append(refine(table, replace(config, decimals=None)))
        except UserError as error:
            kept = f". All rows are in {part_of(config.out)}: mend the list and give --resume" if config.out else ""
            raise UserError(f"{error}{kept}") from None
        return rounded(whole[0], config.decimals)

    say_what_it_reads(config.model, predictor.config)
    if config.faces == "none":
        warn_of_whole_pictures(predictor.config, map(Path, names))
    # Of the videos that this run reads; those of videos that an earlier run has finished are not known.
    boxes: dict[str, FaceBoxes] | None = None if config.overlay is None or config.faces == "none" else {}
    columns, weights = ["video", *predictor.columns], fingerprint_of(predictor.model)
    with TemporaryDirectory(prefix="svfap-predict-") as folder:
        out = config.out or Path(folder) / "predictions.jsonl"
        with TableWriter(out, columns, {**_same_settings(config), "weights": weights}, config.resume) as writer:
            if others := writer.ended.keys() - set(map(printable, names)):
                raise UserError(
                    f"{writer.part}: holds the rows of {min(others)}, which is not among the videos of this run; name the "
                    "same videos to resume, or delete the file to start again"
                )
            try:
                if _in_processes(config, names):
                    _add_rows_of_processes(config, predictor, names, writer, boxes)
                else:
                    _add_rows(predictor, names, writer, boxes, on_frame)
            except KeyboardInterrupt:
                if config.out is not None:
                    say(
                        f"stopped: the rows so far are in {writer.part}; continue with --resume (in Python: resume=True)"
                    )
                raise
            writer.sort(names)
            failures = {name: writer.ended[printable(name)] for name in names if writer.ended.get(printable(name))}
            if len(failures) == len(names) and writer.is_empty:
                writer.discard()
                return Predictions(tuple(names), pd.DataFrame(columns=columns), failures)
            about = _about(predictor, config, weights, writer)
            if config.out is not None:
                write_about(config.out, about)
            table = writer.finish(write_table, refined if steps(config) else None)
            read = [name for name, error in writer.ended.items() if not error]
            _write_summary(whole[0] if whole else table, config, read)
    predictions = Predictions(tuple(names), table, failures, config.out, config.out and about_of(config.out))
    predictions = replace(predictions, summary=config.summary)
    return _write_pictures(predictions, config, predictor.reader, about, boxes or {})


def _videos_of(video: str | Path) -> list[str]:
    """The videos below a folder, at any depth, or in a manifest; else the name as given, such as of a folder of frames."""
    if not is_live(video) and (matches := matching(video)):
        return [name for each in matches for name in _videos_of(each)]
    path = on_disk(Path(video))
    if path.suffix.lower() in MANIFEST_SUFFIXES and path.is_file():
        samples = read_sources(path).samples
        for sample in samples:
            if (sample.start_s, sample.end_s, sample.box) != (None, None, None):
                raise UserError(f"{path}: has a span or a box of {sample.path.name}, and predict takes whole videos")
        return list(dict.fromkeys(str(sample.path) for sample in samples))
    if not path.is_dir():
        return [str(video)]
    found = [str(file) for file in find_videos(path)]
    beside = (
        sum(name.lower().endswith(PICTURE_SUFFIXES) for _, _, names in walk(path) for name in names) if found else 0
    )
    if beside:
        say(f"{video}: {beside} of its files are pictures, which are left out; give the name of each that is wanted")
    return found or [str(video)]


def _check_videos(names: Sequence[str], config: PredictConfig) -> None:
    """Raise `UserError` for what can be known before the model is loaded: what is missing."""
    if config.overlay is not None and (live := [name for name in names if is_live(name)]):
        raise UserError(f"overlay={config.overlay}: {live[0]} can be read only once; record it to a file first")
    if _in_processes(config, names) and (live := [name for name in names if is_live(name)]):
        fix = "predict it alone, with engine=local, num_workers=0 and no item_timeout_s"
        raise UserError(f"{live[0]}: Ctrl-C ends a live source, but not one in another process; {fix}")
    if names and not any(is_live(name) or is_there(Path(name)) for name in names):
        others = f" (nor any of the other {len(names) - 1})" if len(names) > 1 else ""
        raise UserError(f"{names[0]}: {missing(Path(names[0]))}{others}")
    require_excel(config.out, config.summary)
    check_lists(config, map(printable, names))
    require_model(config.model)


def _is_complete(out: Path) -> bool:
    """Whether there is a table, and no rows of an interrupted run beside it."""
    return out.exists() and out.stat().st_size > 0 and not part_of(out).exists()


def _check_same_run(out: Path, names: Sequence[str], config: PredictConfig) -> None:
    """Raise `UserError` unless a complete table is that of these videos and settings."""
    if (about := read_about(out)) is None:
        return
    fix = "choose another --out, or --overwrite in place of --resume"
    before = {"landmarks": False, **about["settings"], "refined": about["refined"]}  # version 0.2 gave no landmarks
    check_same_settings(out, before, {**_same_settings(config), "refined": _refined(config)}, fix)
    if others := [printable(name) for name in names if printable(name) not in about["videos"]]:
        raise UserError(f"{out}: is complete, and was made of other videos, without {others[0]}; {fix}")


def _same_settings(config: PredictConfig) -> dict[str, Any]:
    return {name: getattr(config, name) for name in SAME_SETTINGS}


def _refined(config: PredictConfig) -> list[dict[str, Any]]:
    return [steps(config)] if steps(config) else []


def _about(predictor: Predictor, config: PredictConfig, weights: str, writer: TableWriter) -> About:
    from svfap.predict.windows import hop_frames

    reader, detector = predictor.reader, predictor.reader.detector
    return About(
        model=printable(config.model),
        weights=weights,
        window_frames=predictor.config.num_frames,
        window_stride=predictor.config.sampling_stride,
        reads=predictor.config.reads,
        temperature=predictor.config.provenance.get("temperature"),
        frame_fit=predictor.config.frame_fit,
        meanings=dict(zip(predictor.config.label_names, predictor.config.meanings, strict=False)),
        crop={} if detector is None else asdict(reader.crop),
        detector="" if detector is None else detector.name,
        tracking={} if detector is None else asdict(reader.tracking),
        settings=_same_settings(config),
        hops={name: hop_frames(predictor.config, config.hop_s, rate) / rate for name, rate in writer.rates.items()},
        digests=writer.digests,
        refined=_refined(config),
        videos=list(writer.ended),
        rates=writer.rates,
        failures={name: error for name, error in writer.ended.items() if error},
        date=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _in_processes(config: PredictConfig, names: Sequence[str]) -> bool:
    """Whether videos are predicted in other processes; one alone is only if that is asked for by more than their number."""
    return (config.num_workers > 0 and len(names) > 1) or config.engine == "ray" or config.item_timeout_s is not None


def _add_rows_of_processes(
    config: PredictConfig,
    predictor: Predictor,
    names: Sequence[str],
    writer: TableWriter,
    boxes: dict[str, FaceBoxes] | None,
) -> None:
    """As `_add_rows`, several videos at a time: the rows of each come when it has ended."""
    from svfap.predict.processes import Ended, predict_in_processes
    from svfap.predict.reader import SAID_ONCE

    left = [name for name in names if printable(name) not in writer.ended]
    said: set[str] = set()
    done = predict_in_processes(config, predictor, left, boxes is not None)
    with progress_bar() as bar, closing(done) as videos:
        task = bar.add_task("predicting", total=len(left), note="")
        for video, items in videos:
            for item in items:
                if not isinstance(item, Ended):
                    writer.add(video, item)
                    continue
                writer.end_video(video, item.error, item.fps, item.digest)
                if boxes is not None and item.boxes is not None:
                    boxes[video] = item.boxes
                for text in item.messages:
                    content = text.removeprefix(f"{video}: ") if text.endswith(SAID_ONCE) else text
                    if content not in said:
                        said.add(content)
                        say(text)
            num_failed = sum(error != "" for error in writer.ended.values())
            bar.update(task, advance=1, note=f"{num_failed} failed" if num_failed else "")


def _add_rows(
    predictor: Predictor,
    names: Sequence[str],
    writer: TableWriter,
    boxes: dict[str, FaceBoxes] | None,
    listener: OnFrame | None,
) -> None:
    """Predict the videos that have not ended yet, with a progress bar. boxes: to be filled with those of each video."""
    from svfap.predict.boxes import FaceBoxes

    left = [name for name in names if printable(name) not in writer.ended]
    current, began = "", 0.0
    rates: dict[str, float] = {}
    with progress_bar() as bar:
        task = bar.add_task("", total=None, note="", visible=False)

        def on_frame(video: str, count: int, total: int | None, fps: float) -> None:
            nonlocal current, began
            if total != 1:  # a picture has no rate
                rates[video] = fps
            if video != current:
                current, began = video, time.perf_counter() - 1e-6
                bar.reset(task, total=total, description=printable(Path(video).name)[:24], visible=True)
            note = f"{count / fps / (time.perf_counter() - began):.1f}x real time"
            if len(left) > 1:
                note += f", video {left.index(video) + 1} of {len(left)}"
            if num_failed := sum(error != "" for error in writer.ended.values()):
                note += f", {num_failed} failed"
            bar.update(task, completed=count, note=note)
            if listener is not None:
                listener(video, count, total, fps)

        def on_faces(video: str, item: TrackedFrame) -> None:
            assert boxes is not None
            boxes.setdefault(video, FaceBoxes()).add(item)

        listeners = (on_frame,) if boxes is None else (on_frame, on_faces)
        try:
            for video, item in predictor.run(left, *listeners):
                if isinstance(item, dict):
                    writer.add(str(video), item)
                else:
                    writer.end_video(str(video), str(item or ""), rates.get(str(video)), digest_of(video))
        except KeyboardInterrupt:
            if not is_live(current):
                raise
            writer.end_video(current, fps=rates.get(current))  # Ctrl-C is how a live source is ended


def _write_summary(table: pd.DataFrame, config: PredictConfig, videos: Sequence[str]) -> None:
    if config.summary is not None:
        write_table(rounded(summarize(table, videos), config.decimals), config.summary)


def _suffixes(predictions: Predictions) -> Iterator[tuple[str, str]]:
    """(video, what its pictures have in their names after that of the table)."""
    for video, path in numbered(Path("x"), predictions.videos).items():
        yield video, path.name.removeprefix("x")


def _write_timelines(predictions: Predictions, missing_alone: bool = False) -> None:
    """Write the pictures beside the table. missing_alone: those that are not there yet, as after a kill."""
    from svfap.predict.figure import timeline
    from svfap.view.figures.base import save_figure

    for video, suffix in _suffixes(predictions):
        rows = predictions.rows_of(video)
        if predictions.out is None or rows.empty:
            continue
        for head, part in tables_of_heads(rows).items():
            picture = of_head(predictions.out.with_name(f"{predictions.out.stem}{suffix}.png"), head)
            if not (missing_alone and picture.exists()):
                save_figure(timeline(part, ", ".join(filter(None, (printable(Path(video).name), head)))), picture)
            predictions.timelines[f"{video}, {head}" if head else video] = picture


def _write_overlays(
    predictions: Predictions, config: PredictConfig, out: Path, reader: Reader, boxes: Mapping[str, FaceBoxes]
) -> None:
    """Write the overlays of all videos but those that could not be read at all. out: `config.overlay`."""
    from svfap.predict.overlay import write_overlay

    files = {
        video: out.with_name(f"{out.stem}{suffix}{out.suffix}")
        for video, suffix in _suffixes(predictions)
        if video not in predictions.failures or not predictions.rows_of(video).empty
    }

    def one_after_another() -> Generator[tuple[str, str]]:
        for video, file in files.items():
            try:
                write_overlay(video, predictions.rows_of(video), reader, file, boxes.get(video))
                yield video, ""
            except UserError as error:
                yield video, str(error)

    def several_at_a_time() -> Generator[tuple[str, str]]:
        from svfap.predict.processes import Overlay, draw_in_processes

        overlays = ((v, Overlay(v, predictions.rows_of(v), file, boxes.get(v))) for v, file in files.items())
        with closing(draw_in_processes(config, reader, overlays, len(files))) as drawn:
            yield from track(drawn, "overlays", len(files))

    errors: dict[str, str] = {}
    try:
        with closing(several_at_a_time() if _in_processes(config, list(files)) else one_after_another()) as drawn:
            errors |= drawn
    finally:
        remove_abandoned(out)  # of processes that were ended
    for video, file in files.items():
        if not errors[video]:
            predictions.overlays[video] = file
            continue
        reasons = [predictions.failures.get(video, ""), errors[video]]
        predictions.failures[video] = "; ".join(dict.fromkeys(filter(None, reasons)))


def _write_pictures(
    predictions: Predictions, config: PredictConfig, reader: Reader, about: About, boxes: Mapping[str, FaceBoxes]
) -> Predictions:
    """Write the timelines, the overlays and the page; returns the predictions with their files."""
    _write_timelines(predictions)
    if config.overlay is not None:
        _write_overlays(predictions, config, config.overlay, reader, boxes)
    if config.report is None:
        return predictions
    from svfap.predict.page import write_affect_pages

    files = {printable(video): None if is_live(video) else Path(video) for video in predictions.videos}
    return replace(predictions, reports=write_affect_pages(config.report, predictions.table, files, about))
