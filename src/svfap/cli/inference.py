"""Verbs that read a video."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from jsonargparse import Namespace

from svfap.cli.parser import Parser, Verb, say
from svfap.errors import UserError
from svfap.files import make_folder, write_atomically


def _predict_arguments(parser: Parser) -> None:
    parser.add_argument("videos", nargs="+", help="video files, folders of frames, or images")
    parser.add_argument("--model", required=True, help="run or model folder, or Hub name")
    parser.add_argument("--out", type=Path, default=Path("affect.csv"), help="table: .csv, .json or .parquet")
    parser.add_argument("--hop_s", type=float | None, help="seconds from one window to the next; default: no overlap")
    parser.add_argument("--faces", choices=["none"], default="none", help="none: the video is a face crop already")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, …")
    parser.add_argument("--precision", default="auto", help="auto, fp32, bf16 or fp16")
    parser.add_argument("--batch_size", type=int, default=8, help="windows at a time")


def _predict(args: Namespace) -> int:
    import pandas as pd

    from svfap.data.video import VideoError
    from svfap.inference.predictor import Predictor
    from svfap.report import figures

    if args.out.suffix not in TABLE_FORMATS:
        raise UserError(f"--out {args.out}: the suffix must be one of {', '.join(TABLE_FORMATS)}")
    if args.out.is_dir():
        raise UserError(f"--out {args.out}: is a folder; give the name of a file")
    make_folder(args.out.absolute().parent)
    predictor = Predictor(args.model, args.device, args.precision, args.hop_s, args.batch_size)
    tables: dict[str, pd.DataFrame] = {}
    failed = 0
    for video in args.videos:
        try:
            tables[video] = pd.DataFrame(_progress(predictor, video), columns=["start_s", "end_s", *predictor.columns])
        except VideoError as error:
            failed += 1
            say(f"svfap predict: error: {error}")
    if not tables:
        return 1
    whole = pd.concat([table.assign(video=video) for video, table in tables.items()])
    whole = whole[["video", *[column for column in whole if column != "video"]]]
    write_atomically(args.out, TABLE_FORMATS[args.out.suffix](whole))
    for number, (video, table) in enumerate(tables.items()):
        suffix = f"_{number + 1}_{Path(video).stem}" if len(tables) > 1 else ""
        picture = args.out.with_name(f"{args.out.stem}{suffix}.png")
        figures.save_figure(figures.timeline(table, Path(video).name), picture)
        means = table[predictor.columns].mean().sort_values(ascending=False)
        shown = ", ".join(f"{str(name).removeprefix('prob_')} {mean:.2f}" for name, mean in means.items())
        say(f"{video}: {len(table)} rows; on average {shown}; {picture}")
    say(f"table: {args.out}")
    return 1 if failed else 0


TABLE_FORMATS: dict[str, Callable[[Any], str | bytes]] = {
    ".csv": lambda table: table.to_csv(index=False),
    ".json": lambda table: table.to_json(orient="records", indent=2, double_precision=15),
    ".parquet": lambda table: table.to_parquet(index=False),
}


def _progress(predictor: Any, video: str) -> Any:
    from svfap.console import track
    from svfap.data.video import open_video

    with open_video(video) as source:
        total = predictor.num_rows(source.num_frames, source.fps)
    return track(predictor.stream(video), Path(video).name[:24], total)


def _reconstruct_arguments(parser: Parser) -> None:
    parser.add_argument("video", help="video file, folder of frames, or image")
    parser.add_argument("--model", required=True, help="run or model folder of a pre-training model, or Hub name")
    parser.add_argument("--out", type=Path, default=Path("reconstruction"), help="folder for the PNG and the MP4")
    parser.add_argument("--mask_ratio", type=float | None, help="part of the positions to hide; default: the model's")
    parser.add_argument("--seed", type=int, default=0, help="which positions are hidden")


def _reconstruct(args: Namespace) -> None:
    import numpy as np

    from svfap.data.video import write_video
    from svfap.inference.reconstruct import reconstruct
    from svfap.report import figures

    result = reconstruct(args.video, args.model, args.mask_ratio, args.seed)
    pictures = (result.original, result.masked, result.reconstruction)
    png, mp4 = args.out / "reconstruction.png", args.out / "reconstruction.mp4"
    figures.save_figure(figures.reconstruction_grid(*pictures), png)
    write_video(mp4, np.concatenate(pictures, axis=2), fps=result.fps)
    say(f"mean squared error on hidden tubelets {result.loss:.4f} (1 = predicting each tubelet's mean); {png}, {mp4}")


VERBS = {
    "predict": Verb("Predict affect over time: a table and a timeline of any video.", _predict_arguments, _predict),
    "reconstruct": Verb(
        "Reconstruct masked frames: the original, what the encoder saw, and what the model made of it.",
        _reconstruct_arguments,
        _reconstruct,
    ),
}
