"""Verbs that read a video."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse import Namespace

from svfap.cli.parser import Parser, Verb, say
from svfap.errors import UserError
from svfap.files import make_folder

if TYPE_CHECKING:
    import pandas as pd

    from svfap.predict.predictor import Predictor
    from svfap.predict.table import RowWriter


def _predict_arguments(parser: Parser) -> None:
    parser.add_argument(
        "videos", nargs="+", help="video files, folders of frames, images, a webcam's number, or stream addresses"
    )
    parser.add_argument("--model", required=True, help="run or model folder, or Hub name")
    parser.add_argument("--out", type=Path, default=Path("affect.csv"), help="table: .csv, .jsonl, .json or .parquet")
    parser.add_argument("--resume", action="store_true", help="go on with a run that broke off")
    parser.add_argument(
        "--overlay", type=Path | None, help="also write the video with what was read: .mp4, .mov or .mkv"
    )
    parser.add_argument("--report", type=Path | None, help="also write an interactive page: .html")
    parser.add_argument("--hop_s", type=float | None, help="seconds from one window to the next; default: no overlap")
    parser.add_argument(
        "--faces",
        choices=["auto", "yunet", "haar", "none"],
        default="auto",
        help="how faces are found; none: the video is a face crop already",
    )
    parser.add_argument("--face_model", type=Path | None, help="YuNet's .onnx file")
    parser.add_argument("--detect_every", type=int | None, help="frames between detections; default: about 8 a second")
    parser.add_argument(
        "--margin", type=float, default=0.3, help="around the face, in parts of its box, as where the model learned"
    )
    parser.add_argument("--align", type=bool, default=False, help="turn faces upright, as where the model learned")
    parser.add_argument("--timeout_s", type=float, default=10.0, help="a stream silent for so long is given up")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, …")
    parser.add_argument("--precision", default="auto", help="auto, fp32, bf16 or fp16")
    parser.add_argument("--batch_size", type=int, default=8, help="windows at a time")


def _predict(args: Namespace) -> int:
    from svfap.faces.config import FaceCropConfig, TrackConfig
    from svfap.predict.predictor import Predictor
    from svfap.predict.table import RowWriter, check_out, part_of

    videos = list(dict.fromkeys(args.videos))
    check_out(args.out)
    _check_extras(args, videos)
    make_folder(args.out.absolute().parent)
    if args.resume and args.out.exists() and not part_of(args.out).exists():
        say(f"table: {args.out} is complete; there is nothing to go on with")
        return 0
    predictor = Predictor(
        args.model,
        args.device,
        args.precision,
        args.hop_s,
        args.batch_size,
        args.faces,
        args.face_model,
        FaceCropConfig(margin=args.margin, align=args.align),
        TrackConfig(detect_every=args.detect_every),
        args.timeout_s,
    )
    names = ("model", "hop_s", "faces", "margin", "align", "detect_every")
    settings = {name: getattr(args, name) for name in names}
    with RowWriter(args.out, ["video", *predictor.columns], settings, args.resume) as writer:
        try:
            _write_rows(predictor, videos, writer)
        except KeyboardInterrupt:
            say(f"svfap predict: stopped; the rows until now are in {writer.part}, --resume goes on")
            raise
        failed = sum(error != "" for error in writer.ended.values())
        if failed == len(videos) and writer.is_empty:
            writer.discard()
            return 1
        table = writer.finish()
    say(f"table: {args.out}")
    return 1 if _show(args, predictor, videos, table, writer.ended) or failed else 0


def _check_extras(args: Namespace, videos: list[str]) -> None:
    """What would otherwise be found out only once all is computed."""
    from svfap.predict.overlay import OVERLAY_SUFFIXES
    from svfap.predict.source import is_live

    for option, suffixes in (("overlay", OVERLAY_SUFFIXES), ("report", (".html",))):
        path = getattr(args, option)
        if path is None:
            continue
        if path.suffix not in suffixes:
            raise UserError(f"--{option} {path}: the suffix must be one of {', '.join(suffixes)}")
        make_folder(path.absolute().parent)
    if args.overlay is not None and (live := [video for video in videos if is_live(video)]):
        raise UserError(f"--overlay: {live[0]} can be read only once; record it to a file first, then give that")


def _write_rows(predictor: Predictor, videos: list[str], writer: RowWriter) -> None:
    from svfap.console import progress_bar
    from svfap.predict.predictor import Ended
    from svfap.predict.source import is_live

    for video in videos:
        if error := writer.ended.get(video):
            say(f"svfap predict: error: {error}")
    left = [video for video in videos if video not in writer.ended]
    with progress_bar() as bar:
        task = bar.add_task("", total=None, note="", visible=False)
        began: tuple[str, float] = ("", 0.0)

        def on_frame(video: str, count: int, total: int | None, fps: float) -> None:
            nonlocal began
            if video != began[0]:
                began = (video, time.perf_counter() - 1e-6)
                bar.reset(task, total=total, description=Path(video).name[:24], visible=True)
            speed = count / fps / (time.perf_counter() - began[1])
            which = f", video {left.index(video) + 1} of {len(left)}" if len(left) > 1 else ""
            bar.update(task, completed=count, note=f"{speed:.1f}x real time{which}")

        try:
            for name, item in predictor.run(left, on_frame):
                if not isinstance(item, Ended):
                    writer.add(str(name), item)
                    continue
                writer.end_video(str(name), str(item.error or ""))
                if item.error is not None:
                    say(f"svfap predict: error: {item.error}")
        except KeyboardInterrupt:
            if not is_live(began[0]):  # a live source is ended by hand, and what was read of it is all there is
                raise
            writer.end_video(began[0])


def _show(
    args: Namespace, predictor: Predictor, videos: list[str], table: pd.DataFrame, ended: Mapping[str, str]
) -> int:
    """A picture for each video with rows, and what else was asked for; returns the number of failures."""
    from svfap.console import track
    from svfap.predict.figure import timeline
    from svfap.predict.overlay import write_overlay
    from svfap.predict.source import is_live
    from svfap.view.figures.base import PALETTE, save_figure

    failed = 0
    for number, video in enumerate(videos):
        stem = re.sub(r"[^\w.-]+", "_", Path(video).stem)
        suffix = f"_{number + 1}_{stem}" if len(videos) > 1 else ""
        rows = table[table["video"] == video].drop(columns="video")
        if rows.empty:
            if not ended.get(video):
                say(f"{video}: no face found (--faces none takes the picture as a face)")
        else:
            picture = args.out.with_name(f"{args.out.stem}{suffix}.png")
            save_figure(timeline(rows, Path(video).name), picture)
            means = rows[predictor.labels].mean().sort_values(ascending=False)
            shown = ", ".join(f"{str(name).removeprefix('prob_')} {mean:.2f}" for name, mean in means.items())
            faces = (
                f" of {num} face{'s'[: num > 1]}" if (num := rows["track"].nunique() if "track" in rows else 0) else ""
            )
            say(f"{video}: {len(rows)} rows{faces}; on average {shown}; {picture}")
        if args.overlay is None or (ended.get(video) and rows.empty):
            continue
        overlay = args.overlay.with_name(f"{args.overlay.stem}{suffix}{args.overlay.suffix}")
        try:
            written = write_overlay(video, rows, predictor.reader, predictor.labels, PALETTE, overlay)
            for _ in track(written, f"overlay {Path(video).name[:16]}", _num_frames(video)):
                pass
            say(f"overlay: {overlay}")
        except UserError as error:
            failed += 1
            say(f"svfap predict: error: {error}")
    if args.report is not None:
        from svfap.predict.page import write_affect_page

        files = {video: None if is_live(video) else Path(video) for video in videos}
        write_affect_page(args.report, table, files)
        say(f"report: {args.report}")
    return failed


def _num_frames(video: str) -> int:
    from svfap.data.video import open_video

    with open_video(video) as source:
        return source.num_frames


def _reconstruct_arguments(parser: Parser) -> None:
    parser.add_argument("video", help="video file, folder of frames, or image")
    parser.add_argument("--model", required=True, help="run or model folder of a pre-training model, or Hub name")
    parser.add_argument("--out", type=Path, default=Path("reconstruction"), help="folder for the PNG and the MP4")
    parser.add_argument("--mask_ratio", type=float | None, help="part of the positions to hide; default: the model's")
    parser.add_argument("--seed", type=int, default=0, help="which positions are hidden")


def _reconstruct(args: Namespace) -> None:
    import numpy as np

    from svfap.data.video import write_video
    from svfap.predict.reconstruct import reconstruct
    from svfap.view.figures.base import save_figure
    from svfap.view.figures.clips import reconstruction_grid

    result = reconstruct(args.video, args.model, args.mask_ratio, args.seed)
    pictures = (result.original, result.masked, result.reconstruction)
    png, mp4 = args.out / "reconstruction.png", args.out / "reconstruction.mp4"
    save_figure(reconstruction_grid(*pictures), png)
    write_video(mp4, np.concatenate(pictures, axis=2), fps=result.fps)
    say(f"mean squared error on hidden tubelets {result.loss:.4f} (1 = predicting each tubelet's mean); {png}, {mp4}")


VERBS = {
    "predict": Verb(
        "Predict affect over time: a table and a timeline of every face in any video.", _predict_arguments, _predict
    ),
    "reconstruct": Verb(
        "Reconstruct masked frames: the original, what the encoder saw, and what the model made of it.",
        _reconstruct_arguments,
        _reconstruct,
    ),
}
