"""The verb that turns videos into features."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from jsonargparse import Namespace

from svfap.cli.parser import Parser, Verb, add_engine_arguments, say


def _arguments(parser: Parser) -> None:
    parser.add_argument(
        "sources",
        nargs="+",
        help="video files, folders of frames, images, or manifests (.csv, .txt) whose columns come along",
    )
    parser.add_argument(
        "--model", required=True, help="run or model folder, or Hub name; pre-trained, fine-tuned or of `svfap convert`"
    )
    parser.add_argument("--out", type=Path, default=Path("features.parquet"), help="table: .parquet, .npz or .h5")
    parser.add_argument(
        "--per",
        type=Literal["window", "video"],
        default="window",
        help="a row for each window, or the mean of a video's",
    )
    parser.add_argument(
        "--pool",
        type=Literal["mean", "none"],
        default="mean",
        help="mean over all tokens, or none: a row for each time step of the encoder",
    )
    parser.add_argument("--hop_s", type=float | None, help="seconds from one window to the next; default: no overlap")
    parser.add_argument("--root", type=Path | None, help="folder that manifests' paths are relative to")
    parser.add_argument("--split", type=str | None, help="use only rows whose `split` column says this; default: all")
    parser.add_argument("--random_weights", type=bool, default=False, help="let --model be a preset, as a baseline")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, …")
    parser.add_argument("--precision", default="auto", help="auto, fp32, bf16 or fp16")
    parser.add_argument("--batch_size", type=int, default=8, help="windows at a time")
    add_engine_arguments(parser)
    parser.add_argument("--num_gpus", type=float, default=0.0, help="part of a GPU that each Ray task reserves")


def _extract(args: Namespace) -> int:
    from svfap.features.extract import ExtractConfig, extract_to_file

    words = ("model", "per", "pool", "hop_s", "device", "precision", "batch_size", "random_weights")
    config = ExtractConfig(**{word: getattr(args, word) for word in words})
    places = {word: getattr(args, word) for word in ("root", "split", "engine", "num_workers", "num_gpus")}
    num_rows, num_videos, unreadable = extract_to_file(args.sources, config, args.out, **places)
    say(f"{num_rows} rows of {num_videos - len(unreadable)} of {num_videos} videos: {args.out}")
    if unreadable:
        listed = args.out.with_name(f"{args.out.stem}.unreadable.csv")
        say(
            f"svfap extract: error: {len(unreadable)} videos could not be read; they are listed in {listed}. The same "
            f"command tries them again; remove {args.out}.parts if it is not to"
        )
    return 1 if unreadable else 0


VERBS = {
    "extract": Verb(
        "Extract features: a vector for each window, time step or video, as a table.", _arguments, _extract
    ),
}
