"""The verb that turns raw videos into face crops."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from jsonargparse import Namespace

from svfap.cli.parser import Parser, Verb, add_engine_arguments, config_of, say


def _arguments(parser: Parser) -> None:
    from svfap.crop.clips import ClipConfig
    from svfap.faces.config import FaceCropConfig

    parser.add_argument(
        "sources",
        nargs="+",
        help="videos, folders that are searched for videos, or manifests (.csv, .txt) whose columns come along",
    )
    parser.add_argument("--out", type=Path, required=True, help="folder to write clips/ and manifest.csv into")
    parser.add_class_arguments(FaceCropConfig)
    parser.add_class_arguments(ClipConfig, skip={"crop"})
    parser.add_argument("--root", type=Path | None, help="folder that manifests' paths are relative to")
    parser.add_argument("--split", type=str | None, help="use only rows whose `split` column says this; default: all")
    add_engine_arguments(parser)


def _crop(args: Namespace) -> int:
    from svfap.crop.clips import ClipConfig
    from svfap.crop.crop import MANIFEST, NO_FACE, crop_videos
    from svfap.faces.config import FaceCropConfig
    from svfap.jobs.run import FAILURES

    config = replace(config_of(ClipConfig, args), crop=config_of(FaceCropConfig, args))
    places = {word: getattr(args, word) for word in ("root", "split", "engine", "num_workers")}
    done = crop_videos(args.sources, args.out, config, **places)
    num_done = done.num_sources - len(done.failures)
    say(
        f"{done.num_clips} clips ({done.duration_s / 60:.1f} minutes) of {done.num_tracks} face tracks in {num_done} of "
        f"{done.num_sources} videos: {args.out / MANIFEST}"
    )
    if done.no_face:
        say(f"no_face: {len(done.no_face)} videos, listed in {args.out / NO_FACE}")
    if done.failures:
        say(
            f"svfap crop: error: {len(done.failures)} videos failed; they are listed in {args.out / FAILURES}, and the "
            "same command tries them again"
        )
    return 1 if done.failures else 0


VERBS = {
    "crop": Verb(
        "Crop faces: raw videos to clips of every face, without sound, and a manifest to pre-train on. "
        "Example: svfap crop videos/ --out faces && svfap pretrain --manifest faces/manifest.csv",
        _arguments,
        _crop,
    ),
}
